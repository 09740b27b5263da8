//! What an operator watches: readiness, metrics, and the alarm on an issuance without a second factor.
//!
//! A test binary of its own, because the recorder of metrics belongs to the process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use countersign_audit::{Kind, Record};
use countersign_proto::json::from_serde;
use countersign_proto::time::Clock;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::json;
use support::Harness;

async fn text(harness: &Harness, path: &'static str) -> Option<String> {
    let socket = harness.socket();
    let fetch = move || countersign_server::admin::client::fetch_text(&socket, path).ok();
    tokio::task::spawn_blocking(fetch).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuance_without_a_second_factor_in_the_log_raises_the_alarm() {
    let handle = PrometheusBuilder::new().install_recorder().unwrap();
    let harness = Harness::start_with(|config| config.metrics = Some(handle)).await;
    assert_eq!(text(&harness, "/readyz").await.as_deref(), Some("ready\n"));
    let before = text(&harness, "/metrics").await.unwrap();
    assert!(before.contains("cs_snapshot_version"), "{before}");
    assert!(!before.contains("cs_alarms_total{"), "{before}");

    // What no code path of ours can write: injected into the log itself.
    let forged = Record::new(Kind::Issue, harness.clock.now(), [7; 16])
        .with("what", from_serde(&json!("access_token")).unwrap())
        .build()
        .unwrap();
    drop(harness.log.append(forged).await.unwrap());
    let alarmed = async {
        while harness.records_of("alarm").await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), alarmed).await.expect("the alarm is in the log");
    let alarms = harness.records_of("alarm").await;
    assert_eq!(alarms[0]["code"], "issue.no_second_factor");
    let after = text(&harness, "/metrics").await.unwrap();
    assert!(after.contains("cs_alarms_total{kind=\"issue.no_second_factor\"} 1"), "{after}");
}
