//! AUD-04, AUD-05, AUD-07: whoever changes the log's files is found out, by `audit verify` and at the next start.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use countersign_audit::note::{self, LogKey, LogVerifier, Origin};
use countersign_testkit::world::World;
use futures_util::future::join_all;
use serde_json::json;

use super::{Run, Scene};
use crate::block_on;

/// Entries of a full bundle.
const WIDTH: u64 = 256;

#[test]
fn whoever_changes_the_logs_files_is_found_out() {
    let (mut stage, _laptop, mut run) = Scene::new().split();
    let world = &mut stage.world;
    // Two records a call: more than a full bundle, and a partial one.
    calls(&run, 0..70);
    stop(world);
    let log = world.ready().log.clone();
    let older = world.dir().join("log-of-yesterday");
    copy_folder(&log, &older);
    world.power_on().expect("it comes back");
    run.begin_again();
    calls(&run, 70..150);
    stop(world);
    let size = verified(world, &log).expect("the control");
    assert!(size > WIDTH + 2, "{size} entries fill no bundle");

    changed_files_are_named(world, &log, size);
    what_is_no_log_of_ours_is_no_log(world, &log);
    a_log_put_back_is_not_started_on(world, &log, &older);
}

/// 140 records and more, as fast as they come.
fn calls(run: &Run, numbers: std::ops::Range<u32>) {
    let topics: Vec<u32> = numbers.collect();
    for some in topics.chunks(20) {
        let answers = block_on(join_all(some.iter().map(|number| async move {
            run.call("notes.read", &json!({ "topic": format!("note-{number}") })).await
        })));
        for answer in answers {
            assert_eq!(answer.expect("an answer").status, 200);
        }
    }
}

fn stop(world: &mut World) {
    let status = world.terminate(Duration::from_secs(30)).expect("it ends");
    assert_eq!(status.code(), Some(0));
}

/// The size of the log, or the exit code and what was said.
fn verified(world: &World, log: &Path) -> Result<u64, (Option<i32>, String)> {
    verified_with(world, log, &log.join("key.pub"))
}

fn verified_with(world: &World, log: &Path, key: &Path) -> Result<u64, (Option<i32>, String)> {
    let (log, key) = (log.display().to_string(), key.display().to_string());
    let output = world.cli_output(&["audit", "verify", &log, "--key", &key]).expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err((output.status.code(), said));
    }
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["verdict"], "whole", "{answer}");
    Ok(answer["entries"].as_u64().expect("a size"))
}

/// AUD-04.
fn changed_files_are_named(world: &World, log: &Path, size: u64) {
    let last = size - 1;
    let check = |name: &str, index: Option<u64>, change: &dyn Fn(&Path)| {
        let copy = world.dir().join("log-changed");
        let _ = std::fs::remove_dir_all(&copy);
        copy_folder(log, &copy);
        change(&copy);
        let (code, said) = match verified(world, &copy) {
            Err(refused) => refused,
            Ok(size) => panic!("{name}: {size} entries were found whole"),
        };
        assert_eq!(code, Some(6), "{name}: {said}");
        if let Some(index) = index {
            let named = format!("at entry {index}");
            let at = said.find(&named).map(|at| said[at + named.len()..].chars().next());
            assert!(
                at.is_some_and(|next| next.is_none_or(|next| !next.is_ascii_digit())),
                "{name}: {named}: {said}"
            );
        }
    };
    for index in [0, 1, 130, WIDTH - 1, WIDTH, last] {
        check(&format!("one bit of entry {index}"), Some(index), &|copy| {
            edit(copy, size, index, |entries, at| *entries[at].last_mut().expect("a byte") ^= 1);
        });
        check(&format!("entry {index} longer"), Some(index), &|copy| {
            edit(copy, size, index, |entries, at| entries[at].push(b' '));
        });
        check(&format!("entry {index} deleted"), Some(index), &|copy| {
            edit(copy, size, index, |entries, at| drop(entries.remove(at)));
        });
        check(&format!("entry {index} emptied"), Some(index), &|copy| {
            edit(copy, size, index, |entries, at| entries[at].clear());
        });
        check(&format!("the hash of entry {index}"), Some(index), &|copy| {
            flip(&file_of(copy, "tile/0", size, index), usize::try_from(index % WIDTH * 32).expect("small"));
        });
    }
    for index in [0, 130, WIDTH - 2, WIDTH] {
        check(&format!("entries {index} and the next swapped"), Some(index), &|copy| {
            edit(copy, size, index, |entries, at| entries.swap(at, at + 1));
        });
        check(&format!("entry {index} doubled"), Some(index + 1), &|copy| {
            edit(copy, size, index, |entries, at| entries.insert(at + 1, entries[at].clone()));
        });
    }
    for index in [0, WIDTH] {
        check("a bundle missing", Some(index), &|copy| {
            std::fs::remove_file(file_of(copy, "tile/entries", size, index)).expect("removed");
        });
        check("a tile missing", Some(index), &|copy| {
            std::fs::remove_file(file_of(copy, "tile/0", size, index)).expect("removed");
        });
        check("a bundle emptied", Some(index), &|copy| {
            std::fs::write(file_of(copy, "tile/entries", size, index), b"").expect("written");
        });
    }
    check("the tail cut off", Some(last), &|copy| {
        let file = file_of(copy, "tile/entries", size, last);
        let bytes = std::fs::read(&file).expect("read");
        std::fs::write(&file, &bytes[..bytes.len() - 1]).expect("written");
    });
    check("a tile above", None, &|copy| flip(&file_of_level(copy, 1, size), 0));
    check("a signature", None, &|copy| {
        let note = checkpoint(copy);
        let at = note.rfind('\n').expect("lines") - 4;
        flip(&copy.join("checkpoint"), at);
    });
    check("the signed size", None, &|copy| {
        let smaller = checkpoint(copy).replacen(&format!("\n{size}\n"), &format!("\n{}\n", size - 1), 1);
        std::fs::write(copy.join("checkpoint"), smaller).expect("written");
    });
}

/// AUD-07.
fn what_is_no_log_of_ours_is_no_log(world: &World, log: &Path) {
    let our_key = log.join("key.pub");
    let check = |name: &str, codes: &[i32], change: &dyn Fn(&Path) -> PathBuf| {
        let copy = world.dir().join("log-foreign");
        let _ = std::fs::remove_dir_all(&copy);
        copy_folder(log, &copy);
        let key = change(&copy);
        match verified_with(world, &copy, &key) {
            Err((Some(code), _)) if codes.contains(&code) => {}
            other => panic!("{name}: {other:?}"),
        }
    };
    let origin =
        LogVerifier::parse(std::fs::read_to_string(&our_key).expect("the key").trim()).expect("a key");
    let stranger = LogKey::from_seed(&[7; 32]).expect("a key");
    let elsewhere = Origin::parse("elsewhere.example/log").expect("an origin");
    let key_file = |text: String| {
        let file = world.dir().join("key-of-another-log");
        std::fs::write(&file, text).expect("written");
        file
    };
    check("a key of the same name", &[6], &|_| key_file(stranger.verifier(origin.origin()).to_string()));
    check("the key of another log", &[6], &|_| key_file(stranger.verifier(&elsewhere).to_string()));
    check("no key", &[2], &|copy| copy.join("no-key"));
    check("a key that is none", &[2], &|_| key_file("countersign".to_owned()));
    check("an empty key", &[2], &|_| key_file(String::new()));
    check("the same tree under a stranger's signature", &[6], &|copy| {
        let ours = note::open(checkpoint(copy).as_bytes(), &origin).expect("our checkpoint");
        std::fs::write(copy.join("checkpoint"), stranger.sign(&ours)).expect("written");
        our_key.clone()
    });
    check("no checkpoint", &[6], &|copy| {
        std::fs::remove_file(copy.join("checkpoint")).expect("removed");
        our_key.clone()
    });
    for (name, text) in [
        ("an empty checkpoint", String::new()),
        ("a checkpoint of noise", "\u{1f980}".repeat(100)),
        (
            "a checkpoint without signatures",
            checkpoint(log).split("\n\n").next().unwrap_or_default().to_owned() + "\n\n",
        ),
        ("half a checkpoint", checkpoint(log)[..40].to_owned()),
    ] {
        check(name, &[6], &|copy| {
            std::fs::write(copy.join("checkpoint"), &text).expect("written");
            our_key.clone()
        });
    }
    check("an empty folder", &[6], &|copy| {
        std::fs::remove_dir_all(copy).expect("removed");
        std::fs::create_dir(copy).expect("an empty one");
        our_key.clone()
    });
    check("no folder", &[6], &|copy| {
        std::fs::remove_dir_all(copy).expect("removed");
        our_key.clone()
    });
    // The key beside an empty folder is not there either, and that is said as what it is: a wrong command line.
    let empty = world.dir().join("nothing");
    std::fs::create_dir_all(&empty).expect("a folder");
    for command in [["audit", "verify"], ["audit", "show"], ["audit", "invariants"]] {
        let output =
            world.cli_output(&[command[0], command[1], &empty.display().to_string()]).expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{command:?}");
    }
    let beyond =
        world.cli_output(&["audit", "prove", &log.display().to_string(), "1000000"]).expect("it runs");
    assert_eq!(beyond.status.code(), Some(6), "a proof of what is not there");
}

/// AUD-05: at a start. A folder put back as a whole is told by the checkpoint that is remembered outside of it; what
/// cannot be told is the whole data folder put back (see docs/adr/0001).
fn a_log_put_back_is_not_started_on(world: &mut World, log: &Path, older: &Path) {
    let newest = world.dir().join("log-of-today");
    copy_folder(log, &newest);
    let mut check = |name: &str, words: &str, change: &dyn Fn()| {
        let _ = std::fs::remove_dir_all(log);
        copy_folder(&newest, log);
        change();
        let refused = world.power_on();
        let error = refused.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(words), "{name}: started, or refused without saying why: {error:?}");
        let _ = world.power_off();
    };
    let restore = |part: &str| {
        let (from, to) = (older.join(part), log.join(part));
        if from.is_dir() {
            std::fs::remove_dir_all(&to).expect("removed");
            copy_folder(&from, &to);
        } else {
            std::fs::copy(from, to).map(drop).expect("copied");
        }
    };
    check("yesterday's journal", "rolled back", &|| restore("journal"));
    check("yesterday's journal and tiles", "rolled back", &|| {
        restore("journal");
        restore("tile");
    });
    check("yesterday's folder as a whole", "rolled back", &|| {
        std::fs::remove_dir_all(log).expect("removed");
        copy_folder(older, log);
    });
    check("no journal", "rolled back", &|| std::fs::remove_dir_all(log.join("journal")).expect("removed"));
    check("no checkpoint", "checkpoint is missing", &|| {
        std::fs::remove_file(log.join("checkpoint")).expect("removed");
    });
    check("a checkpoint that is none", "cannot be trusted", &|| {
        std::fs::write(log.join("checkpoint"), "countersign").expect("written");
    });
    check("one bit of the journal", "log", &|| {
        let journal = std::fs::read_dir(log.join("journal")).expect("the journal").next().expect("a segment");
        let segment = journal.expect("a segment").path();
        let middle = std::fs::read(&segment).expect("read").len() / 2;
        flip(&segment, middle);
    });
    // The control: as it was, it starts, and is whole.
    let _ = std::fs::remove_dir_all(log);
    copy_folder(&newest, log);
    world.power_on().expect("the control");
    stop(world);
    verified(world, log).expect("whole");
}

fn checkpoint(log: &Path) -> String {
    std::fs::read_to_string(log.join("checkpoint")).expect("a checkpoint")
}

/// The file of `tree` with entry `index` of a log of `size`.
fn file_of(log: &Path, tree: &str, size: u64, index: u64) -> PathBuf {
    let bundle = index / WIDTH;
    let full = log.join(tree).join(format!("{bundle:03}"));
    if (bundle + 1) * WIDTH <= size {
        full
    } else {
        log.join(tree).join(format!("{bundle:03}.p/{}", size % WIDTH))
    }
}

fn file_of_level(log: &Path, level: u64, size: u64) -> PathBuf {
    log.join(format!("tile/{level}/000.p/{}", size / WIDTH))
}

/// Changes the entries of the bundle with entry `index`, given also where it is in there.
fn edit(log: &Path, size: u64, index: u64, change: impl FnOnce(&mut Vec<Vec<u8>>, usize)) {
    let file = file_of(log, "tile/entries", size, index);
    let bytes = std::fs::read(&file).expect("a bundle");
    let mut rest = bytes.as_slice();
    let mut entries = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (entry, after) = after.split_at(usize::from(u16::from_be_bytes(*length)));
        entries.push(entry.to_vec());
        rest = after;
    }
    change(&mut entries, usize::try_from(index % WIDTH).expect("small"));
    let mut bytes = Vec::new();
    for entry in &entries {
        bytes.extend(u16::try_from(entry.len()).expect("an entry").to_be_bytes());
        bytes.extend(entry);
    }
    std::fs::write(file, bytes).expect("written");
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    bytes[at] ^= 1;
    std::fs::write(file, bytes).expect("written");
}

fn copy_folder(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(copied.success(), "{} could not be copied", from.display());
}
