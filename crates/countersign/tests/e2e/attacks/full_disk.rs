//! AUD-01, AUD-02: when nothing can be recorded, nothing happens, and everybody is told so at once.
//!
//! A disk that is full is a real one here: a file system in memory of a few megabytes, mounted for the test. A disk
//! that hangs cannot be had without a kernel of one's own; that case is `a_hanging_disk_is_answered_for_within_half_a_second`
//! (log/tests/faults.rs), on a storage that hangs.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use countersign_testkit::insider::now;
use countersign_testkit::world::{ToolServer, World};
use serde_json::json;

use super::{Ground, Run, Scene, digest_of, intended, records_on_disk};
use crate::{Stage, block_on};

/// How long a refusal may take (`LogLimits::answer_within`).
const ANSWER_WITHIN_MILLIS: i64 = 500;
/// A small disk, yet enough for a store and a log at work.
const DISK: &str = "size=24m,mode=0700";

/// A file system of its own, gone with the test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        std::fs::create_dir_all(at).expect("a mount point");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", DISK, "none"])
            .arg(at)
            .output()
            .expect("mount runs");
        assert!(
            mounted.status.success(),
            "this test fills a disk and therefore mounts one of its own (tmpfs), which needs root (or, in a container, \
             CAP_SYS_ADMIN); it is not skipped, because a skipped test looks like a passed one: {}",
            String::from_utf8_lossy(&mounted.stderr)
        );
        Self(at.to_owned())
    }

    /// Fills it to the last byte, as somebody else on the same disk would.
    fn fill(&self) -> PathBuf {
        let ballast = self.0.join("ballast");
        let mut file = File::create(&ballast).expect("the ballast");
        for size in [1 << 16, 1 << 12, 1] {
            let piece = vec![0_u8; size];
            while file.write_all(&piece).is_ok() {}
        }
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open there keeps it until it ends.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// What came of one call.
struct Outcome {
    status: u16,
    code: String,
    call: String,
    took_millis: i64,
}

fn call(run: &Run, topic: &str) -> Outcome {
    let arguments = json!({ "topic": topic });
    let asked = now();
    let answer = block_on(run.call("notes.read", &arguments)).expect("an answer, whatever it says");
    let took_millis = now().unix_millis() - asked.unix_millis();
    let code = answer.json()["error"]["data"]["code"].as_str().unwrap_or_default().to_owned();
    Outcome { status: answer.status, code, call: digest_of("notes.read", &arguments), took_millis }
}

fn calls_upstream(world: &World) -> usize {
    world.upstream_stats().expect("counters")["calls"].as_array().map_or(0, Vec::len)
}

#[test]
fn on_a_full_disk_nothing_happens_and_everybody_is_told_at_once() {
    let folder = tempfile::Builder::new().prefix("countersign-e2e-").tempdir().expect("a folder");
    let disk = SmallDisk::mount(&folder.path().join("dev"));
    let (mut stage, _laptop, mut run) =
        Scene::on(Ground::on(Stage::in_folder(folder, ToolServer::TypeScript))).split();
    let world = &mut stage.world;
    let mut acknowledged = Vec::new();
    for number in 0..20 {
        let outcome = call(&run, &format!("before-{number}"));
        assert_eq!((outcome.status, outcome.code.as_str()), (200, ""), "the control");
        acknowledged.push(outcome.call);
    }

    let ballast = disk.fill();
    // The last block of the journal may have room for a record or two.
    let first = (0..100).map(|number| call(&run, &format!("filling-{number}"))).find(|outcome| {
        if outcome.status == 200 {
            acknowledged.push(outcome.call.clone());
        }
        outcome.status != 200
    });
    let first = first.expect("the disk is full, and still everything is recorded");
    assert_eq!((first.status, first.code.as_str()), (503, "audit.unavailable"));
    let before = calls_upstream(world);
    let mut refused = 0;
    let mut longest = 0;
    for number in 0..40 {
        let outcome = call(&run, &format!("full-{number}"));
        match outcome.status {
            // Something small still fitted: then it is recorded, and is looked for below.
            200 => acknowledged.push(outcome.call),
            503 => refused += 1,
            other => panic!("{other} {}", outcome.code),
        }
        assert!(
            outcome.took_millis < ANSWER_WITHIN_MILLIS,
            "{} after {} ms",
            outcome.status,
            outcome.took_millis
        );
        longest = longest.max(outcome.took_millis);
    }
    println!("{refused} of 40 calls refused on a full disk, the slowest within {} ms", longest);
    assert!(refused >= 30, "only {refused} of 40 calls were refused on a full disk");
    assert_eq!(calls_upstream(world) - before, 40 - refused, "a call had an effect without a record");
    let pid = world.dev_pid().expect("it runs");
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "it lives");
    let status = world.cli(&["status"]).expect("and answers");
    assert_eq!(status["ready"], false, "and says that it is not well: {status}");

    // Room again: it is well again by itself.
    std::fs::remove_file(ballast).expect("room");
    let deadline = now().plus_secs(10);
    for number in 0.. {
        let outcome = call(&run, &format!("room-{number}"));
        if outcome.status == 200 {
            acknowledged.push(outcome.call);
            break;
        }
        assert!(
            now() < deadline,
            "there is room again, and it still answers {} {}",
            outcome.status,
            outcome.code
        );
    }
    let status = world.terminate(Duration::from_secs(30)).expect("it ends");
    assert_eq!(status.code(), Some(0));
    let records = records_on_disk(world);
    let intents = intended(&records);
    for call in &acknowledged {
        assert!(intents.contains(call.as_str()), "{call} was acknowledged and is lost");
    }
    let log = world.ready().log.display().to_string();
    world.cli(&["audit", "invariants", &log]).expect("the invariants hold");
    world.power_on().expect("and it comes back");
    run.begin_again();
    assert_eq!(call(&run, "afterwards").status, 200);
    world.power_off().expect("it is gone before its disk");
}
