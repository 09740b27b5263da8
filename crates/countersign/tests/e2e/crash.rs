//! `kill -9` at random points: everything that was acknowledged is there afterwards, the log is whole, and the system
//! is back at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use countersign_proto::call::Call;
use countersign_proto::id::{ToolName, UpstreamId};
use countersign_proto::json::{Limits, Value, parse};
use countersign_testkit::insider::{Insider, initialize, now, random, tool_call};
use countersign_testkit::story::{AGENT, POLICY};
use countersign_testkit::world::UPSTREAM;
use serde_json::json;

use crate::{Stage, block_on};

/// How many times the process is killed.
const KILLS: usize = 200;
/// The longest it lives under load before it is killed.
const MAX_LIFE_MILLIS: u64 = 400;

/// What was acknowledged.
#[derive(Default)]
struct Journal {
    /// Digests of calls whose result came back.
    calls: Vec<String>,
    /// Tasks whose grant was confirmed.
    tasks: Vec<String>,
    /// Milliseconds from start to ready.
    restarts: Vec<i64>,
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    let mut stage = Stage::new();
    let world = &mut stage.world;
    let laptop = world.enroll("laptop").expect("enrollment");
    world.add_person("sam").expect("a person");
    world.add_agent(AGENT, "sam").expect("an agent");
    world.activate_policy(POLICY).expect("a policy");
    let reading = json!([{ "name": "notes.read", "args": {} }]);
    let task = world.add_task(AGENT, &reading, 1_000_000, 86_400).expect("a task");

    let mut journal = Journal::default();
    let insider = block_on(Insider::open(world.ready(), &laptop, AGENT)).expect("a run");
    let mut token = String::new();
    for kill in 0..KILLS {
        // A token outlives its server, but not five minutes.
        if kill % 50 == 0 {
            token = block_on(insider.token(&task)).expect("a token");
        }
        let stop = Arc::new(AtomicBool::new(false));
        let life = random_millis(MAX_LIFE_MILLIS);
        let pid = world.dev_pid().expect("it runs");
        let world_ref = &*world;
        std::thread::scope(|scope| {
            let grants = scope.spawn(|| {
                let mut granted = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    match world_ref.add_task(AGENT, &reading, 1 + granted.len() as u64, 86_400) {
                        Ok(task) => granted.push(task),
                        Err(_) => break,
                    }
                }
                granted
            });
            let calls = scope.spawn(|| block_on(call_until_dead(&insider, &token, kill)));
            // How long it lives is the random point at which it dies.
            std::thread::park_timeout(Duration::from_millis(life));
            let killed = std::process::Command::new("kill")
                .args(["-9", &pid.to_string()])
                .status()
                .expect("kill runs");
            assert!(killed.success());
            stop.store(true, Ordering::SeqCst);
            journal.tasks.extend(grants.join().expect("the granting thread"));
            journal.calls.extend(calls.join().expect("the calling thread"));
        });
        world.power_off().expect("it is gone");
        let begun = now();
        world.power_on().expect("it comes back");
        journal.restarts.push(now().unix_millis() - begun.unix_millis());
    }
    check(world, &journal);
}

fn check(world: &countersign_testkit::world::World, journal: &Journal) {
    let listed = world.cli(&["task", "list"]).expect("the tasks");
    let tasks: std::collections::BTreeSet<&str> =
        listed["tasks"].as_array().into_iter().flatten().filter_map(|task| task["id"].as_str()).collect();
    for task in &journal.tasks {
        assert!(tasks.contains(task.as_str()), "grant {task} was acknowledged and lost");
    }
    let log = world.ready().log.display().to_string();
    let verified = world.cli(&["audit", "verify", &log]).expect("the log is whole");
    world.cli(&["audit", "invariants", &log]).expect("no effect without intent, no issue without machine");
    let mut recorded = std::collections::BTreeSet::new();
    let mut next = 0;
    while next < verified["entries"].as_u64().expect("a size") {
        let records = world.records(next).expect("records");
        next += u64::try_from(records.len()).expect("a length");
        for entry in &records {
            if let (Some("intent"), Some(call)) =
                (entry["record"]["kind"].as_str(), entry["record"]["call"].as_str())
            {
                recorded.insert(call.to_owned());
            }
        }
    }
    for call in &journal.calls {
        assert!(recorded.contains(call), "the result of {call} was acknowledged and its intent lost");
    }
    let mut restarts = journal.restarts.clone();
    restarts.sort_unstable();
    println!(
        "{KILLS} kills, {} calls and {} grants acknowledged, none lost; ready again after {} ms (median), {} ms (longest)",
        journal.calls.len(),
        journal.tasks.len(),
        restarts[restarts.len() / 2],
        restarts.last().copied().unwrap_or_default()
    );
    assert!(
        journal.calls.len() > KILLS && journal.tasks.len() > KILLS / 4,
        "the load was too light to prove anything"
    );
}

/// Calls as fast as answers come, until there is nobody to answer. Gives the digests of the answered calls.
async fn call_until_dead(insider: &Insider, token: &str, kill: usize) -> Vec<String> {
    let mut acknowledged = Vec::new();
    // Dying in the middle of anything is what the test wants; what was answered before counts.
    if let Err(error) = calls(insider, token, kill, &mut acknowledged).await
        && acknowledged.is_empty()
    {
        println!("kill {kill}: no call got through: {error}");
    }
    acknowledged
}

async fn calls(
    insider: &Insider,
    token: &str,
    kill: usize,
    acknowledged: &mut Vec<String>,
) -> io::Result<()> {
    // A proof per connection: a gateway that has just started takes no DPoP proof of the second it started in.
    let url = insider.url();
    let send = |session: Option<String>, body| async move {
        insider
            .caller
            .call_on_channel(&insider.url(), token, &insider.key, None, session.as_deref(), &body)
            .await
    };
    let (answer, _) = send(None, initialize()).await?;
    let session = answer.header("mcp-session-id");
    if session.is_empty() {
        return Err(io::Error::other(format!("{url}: no session: {}", answer.json())));
    }
    for number in 0.. {
        let arguments = json!({ "topic": format!("note-{kill}-{number}") });
        let (answer, _) = send(Some(session.clone()), tool_call(number, "notes.read", &arguments)).await?;
        if answer.status == 200 && answer.json()["result"].is_object() {
            acknowledged.push(digest(&arguments.to_string()));
        }
    }
    Ok(())
}

/// The digest that the record of this call carries.
fn digest(arguments: &str) -> String {
    let Ok(Value::Object(arguments)) = parse(arguments.as_bytes(), &Limits::DEFAULT) else {
        panic!("an object")
    };
    let call = Call {
        upstream: UpstreamId::parse(UPSTREAM).expect("an id"),
        tool: ToolName::parse("notes.read").expect("a name"),
        arguments,
    };
    call.digest().b64()
}

fn random_millis(below: u64) -> u64 {
    let mut bytes = [0_u8; 8];
    random(&mut bytes);
    u64::from_le_bytes(bytes) % below
}
