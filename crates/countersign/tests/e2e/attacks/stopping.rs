//! STO-08, STO-26: asked to end, it ends in time whatever hangs, and keeps what it acknowledged; and nobody starts it
//! twice on one folder.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use countersign_testkit::insider::now;
use countersign_testkit::world::World;
use serde_json::json;

use super::{Scene, digest_of, intended, records_on_disk};
use crate::block_on;

/// How long an orderly end may take: the gateway's, the server's and the log's patience together.
const END_WITHIN: Duration = Duration::from_secs(30);

#[test]
fn asked_to_end_it_ends_and_keeps_what_it_acknowledged() {
    let (mut stage, _laptop, run) = Scene::new().split();
    let run = Arc::new(run);
    let mut acknowledged = Vec::new();
    for number in 0..20 {
        let arguments = json!({ "topic": format!("before-{number}") });
        let answer = block_on(run.call("notes.read", &arguments)).expect("an answer");
        assert_eq!(answer.status, 200, "the control: {}", answer.json());
        acknowledged.push(digest_of("notes.read", &arguments));
    }
    // A stream that is open, then a tool server that does nothing any more, then a call that waits for it.
    let counting = in_the_background(&run, "slow.count", json!({ "steps": 600 }));
    let deadline = now().plus_secs(10);
    while !stage.world.upstream_stats().expect("counters")["calls"].to_string().contains("slow.count") {
        assert!(now() < deadline, "the stream never began");
    }
    stage.world.freeze_upstream().expect("it stands still");
    let hanging = in_the_background(&run, "notes.read", json!({ "topic": "hanging" }));
    let hung = digest_of("notes.read", &json!({ "topic": "hanging" }));
    let deadline = now().plus_secs(10);
    while !stage
        .world
        .records(0)
        .expect("records")
        .iter()
        .any(|entry| entry["record"]["call"] == hung.as_str())
    {
        assert!(now() < deadline, "the call never arrived");
    }

    let asked = now();
    let status = stage.world.terminate(END_WITHIN).expect("it ends in time");
    println!(
        "ended {} ms after it was asked to, with a stream and a call open",
        now().unix_millis() - asked.unix_millis()
    );
    assert_eq!(status.code(), Some(0), "an orderly end");
    stage.world.thaw_upstream().expect("it goes on");
    let answered = hanging.join().expect("the calling thread");
    assert_ne!(answered.ok(), Some(200), "nothing came back from a tool server that stood still");
    let _however_it_ended = counting.join().expect("the counting thread");

    let records = records_on_disk(&stage.world);
    let intents = intended(&records);
    for call in &acknowledged {
        assert!(intents.contains(call.as_str()), "{call} was acknowledged and is lost");
    }
    assert!(intents.contains(hung.as_str()), "what was sent has its intent");
    let log = stage.world.ready().log.display().to_string();
    stage.world.cli(&["audit", "invariants", &log]).expect("the invariants hold");

    // It comes back, and only once.
    stage.world.power_on().expect("it comes back");
    nobody_starts_it_twice(&mut stage.world);
}

/// The status of an answer, or how there was none.
type Ending = std::thread::JoinHandle<std::io::Result<u16>>;

fn in_the_background(run: &Arc<super::Run>, tool: &'static str, arguments: serde_json::Value) -> Ending {
    let run = Arc::clone(run);
    std::thread::spawn(move || block_on(run.call(tool, &arguments)).map(|answer| answer.status))
}

fn nobody_starts_it_twice(world: &mut World) {
    let (code, said) = second_start(world);
    assert!(code.is_some_and(|code| code != 0), "a second one ran on the same folder: {said}");
    assert!(said.contains("elsewhere") || said.contains("in use"), "it says why: {said}");
    world.cli(&["status"]).expect("the first one noticed nothing");
    // What kill -9 leaves of a lock is no lock.
    world.power_off().expect("it is gone");
    world.power_on().expect("nothing stale is in the way");
}

/// Starts another one on the same folder and other ports. Gives its exit code, if it ended by itself.
fn second_start(world: &World) -> (Option<i32>, String) {
    let mut second = Command::new(world.binary())
        .args(["dev", "--server-port", "0", "--gateway-port", "0", "--console-port", "0", "--dir"])
        .arg(world.dir().join("dev"))
        .arg("--ek-roots")
        .arg(world.dir().join("ek-roots"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let deadline = now().plus_secs(10);
    while second.try_wait().expect("its status").is_none() {
        if now() > deadline {
            second.kill().expect("killed");
            let _ = second.wait();
            return (None, "it went on running".to_owned());
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let output = second.wait_with_output().expect("what it said");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}
