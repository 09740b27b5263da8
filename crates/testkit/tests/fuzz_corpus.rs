//! The corpus of every fuzz target goes through the ordinary test run, and no target is without one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use countersign_testkit::fuzz::{TARGETS, target};

/// Files a corpus has at least.
const FEWEST: usize = 15;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

#[test]
fn every_file_of_every_corpus_is_survived() {
    for (name, run) in TARGETS {
        let mut files: Vec<PathBuf> = fs::read_dir(fuzz().join("corpus").join(name))
            .unwrap_or_else(|error| panic!("target {name} has no corpus: {error}"))
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        let (mut accepted, mut refused) = (0, 0);
        assert!(files.len() >= FEWEST, "the corpus of {name} has only {} files", files.len());
        for file in files {
            let bytes = fs::read(&file).unwrap();
            match std::panic::catch_unwind(|| run(&bytes)) {
                Ok(true) => accepted += 1,
                Ok(false) => refused += 1,
                Err(_) => panic!("target {name} fails on {}", file.display()),
            }
        }
        // A corpus that is refused as a whole tests nothing behind the first check.
        assert!(accepted > 0 && refused > 0, "the corpus of {name}: {accepted} accepted, {refused} refused");
    }
}

/// Inputs made of the corpus for each target, in a run without the fuzzer.
const ROUNDS: usize = 300;

/// Numbers from a seed (xorshift): the same inputs in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides.max(1) as u64).unwrap()
    }

    /// Two files spliced, then a few bytes changed.
    fn input(&mut self, files: &[Vec<u8>]) -> Vec<u8> {
        let (one, other) = (&files[self.roll(files.len())], &files[self.roll(files.len())]);
        let mut bytes = one.clone();
        if self.roll(3) == 0 {
            bytes.truncate(self.roll(one.len() + 1));
            bytes.extend_from_slice(&other[self.roll(other.len() + 1)..]);
        }
        for _ in 0..self.roll(4) {
            let at = self.roll(bytes.len());
            match (self.roll(4), bytes.get_mut(at)) {
                (0, Some(byte)) => *byte ^= 1 << self.roll(8),
                (1, Some(byte)) => *byte = [0, 0xff, b'"', b'{', b'.', b'\\'][self.roll(6)],
                (2, Some(_)) => drop(bytes.remove(at)),
                _ => bytes.insert(at, one.get(self.roll(one.len())).copied().unwrap_or(0)),
            }
        }
        bytes
    }
}

#[test]
fn changes_of_the_corpus_are_survived() {
    for (name, run) in TARGETS {
        let dir = fuzz().join("corpus").join(name);
        let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let files: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        let mut dice = Dice(0x5eed_0fc0_ffee);
        for _ in 0..ROUNDS {
            let bytes = dice.input(&files);
            let survived = std::panic::catch_unwind(|| run(&bytes)).is_ok();
            assert!(survived, "target {name} fails on {:?}", bytes.escape_ascii().to_string());
        }
    }
}

#[test]
fn the_fuzzer_knows_every_target_and_no_other() {
    let known: BTreeSet<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(known.len(), TARGETS.len(), "a name is used twice");
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    let (_, bins) = manifest.split_once("[[bin]]").unwrap();
    let named: BTreeSet<&str> =
        bins.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    assert_eq!(named, known);
    let corpora: BTreeSet<String> = fs::read_dir(fuzz().join("corpus"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(corpora.iter().map(String::as_str).eq(known), "corpora of targets that do not exist");
    assert!(target("json").is_some() && target("no such target").is_none());
}
