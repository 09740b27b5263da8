//! Writes the seed corpus of the fuzz targets: some inputs that are accepted, some that were made to hurt, and
//! small changes of both. Run it after adding a target: `cargo run -p countersign-testkit --example fuzz_seeds`.
//!
//! A file that is there already is kept, because some seeds hold signatures that are never the same twice. Changes
//! are derived from the files as they are, by dice with a fixed seed.
#![expect(clippy::print_stdout, reason = "it says what it did")]

mod bases;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use countersign_proto::digest::Sha256Digest;
use countersign_testkit::fuzz::TARGETS;

/// Changed copies of one base.
const CHANGES: u64 = 5;
/// Bases that are changed; more would only repeat.
const CHANGED_BASES: usize = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (target, run) in TARGETS {
        let dir = corpus.join(target);
        std::fs::create_dir_all(&dir)?;
        let mut written = 0;
        let mut keep = |name: String, bytes: &[u8]| -> Result<Vec<u8>, Box<dyn Error>> {
            let path = dir.join(name);
            if !path.exists() {
                std::fs::write(&path, bytes)?;
                written += 1;
            }
            Ok(std::fs::read(path)?)
        };
        let mut bases: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (name, bytes) in bases::of(target)? {
            bases.insert(name.to_owned(), keep(format!("base-{name}"), &bytes)?);
        }
        for (base, bytes) in bases.values().filter(|bytes| !bytes.is_empty()).enumerate().take(CHANGED_BASES)
        {
            for change in 0..CHANGES {
                let changed = changed(bytes, base as u64 * CHANGES + change);
                let digest = Sha256Digest::of(&changed).hex();
                keep(format!("change-{}", &digest[..16]), &changed)?;
            }
        }
        for bytes in [&b""[..], b"\0", b"\xff\xff\xff\xff\xff\xff\xff\xff", b"{}", b"\n"] {
            let digest = Sha256Digest::of(bytes).hex();
            keep(format!("plain-{}", &digest[..16]), bytes)?;
        }
        for file in std::fs::read_dir(&dir)? {
            let _ = run(&std::fs::read(file?.path())?);
        }
        println!("{target}: {written} new");
    }
    Ok(())
}

/// A small change of `bytes`, always the same for the same `seed`.
fn changed(bytes: &[u8], seed: u64) -> Vec<u8> {
    let digest = Sha256Digest::of(&[&seed.to_be_bytes()[..], bytes].concat());
    let dice = |at: usize, sides: usize| usize::from(digest.as_bytes()[at]) * sides / 256;
    let mut bytes = bytes.to_vec();
    let at = dice(0, bytes.len());
    match seed % CHANGES {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << dice(1, 8),
        2 => bytes.extend_from_within(at..),
        3 => drop(bytes.remove(at)),
        _ => bytes[at] = digest.as_bytes()[2],
    }
    bytes
}
