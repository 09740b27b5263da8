//! Killing an agent ends what is open, not only what comes next.

use std::time::Duration;

use countersign_testkit::insider::{PROTOCOL, now};
use countersign_testkit::story::AGENT;
use serde_json::json;

use super::Scene;
use crate::block_on;

#[test]
fn a_kill_ends_an_open_stream_within_a_second() {
    let scene = Scene::new();
    let admin = scene.stage.world.ready().admin.display().to_string();
    let binary = scene.stage.world.binary().to_owned();
    block_on(async {
        // A minute of counting, streamed.
        let body = json!({
            "jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": { "name": "slow.count", "arguments": { "steps": 600 }, "_meta": { "progressToken": "count" } },
        })
        .to_string();
        let counting = scene.try_post(body.as_bytes(), |_| {});
        let killing = async {
            // The stream is open once the tool server says that it was called.
            while !scene.stage.world.upstream_stats().expect("counters")["calls"]
                .to_string()
                .contains("slow.count")
            {
                tokio::task::yield_now().await;
            }
            let begun = now();
            let status = tokio::process::Command::new(binary)
                .args(["--admin", &admin, "agent", "kill", AGENT])
                .stdout(std::process::Stdio::null())
                .status()
                .await
                .expect("the command runs");
            assert!(status.success());
            begun
        };
        let (answer, begun) = tokio::time::timeout(Duration::from_secs(30), async {
            tokio::join!(counting_end(counting), killing)
        })
        .await
        .expect("the stream outlived the agent");
        let took = answer.unix_millis() - begun.unix_millis();
        println!("stream ended {took} ms after the kill was asked for, protocol {PROTOCOL}");
        assert!(took < 10_000, "it counted on for {took} ms");
    });
}

/// When the stream ended, however it ended.
async fn counting_end<T>(stream: impl Future<Output = T>) -> countersign_proto::time::Timestamp {
    stream.await;
    now()
}
