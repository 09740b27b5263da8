//! The watch over our own log: an issuance without a second factor must be impossible, and is alarmed if it happens.
//!
//! Each record is looked at once, also across restarts. Invariants that span records are `countersign audit invariants`.

use std::sync::Arc;
use std::time::Duration;

use countersign_audit::invariants::{Broken, Scan};
use countersign_log::LogError;
use countersign_store::Aggregate;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::listen::{Stopping, stopped};
use crate::plane::{Plane, Trouble};

/// How often new records are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Records looked at before the position is stored.
const BATCH: usize = 1000;

/// Up to where the log was looked at.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Position {
    next: u64,
}

impl Aggregate for Position {
    const KIND: &'static str = "alarm_position";
    fn id(&self) -> String {
        "own-log".into()
    }
}

/// Looks at every new record until told to stop.
pub(crate) async fn watch_log(plane: Arc<Plane>, mut stopping: Stopping) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = look(&plane).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "log not watched");
        }
    }
}

async fn look(plane: &Plane) -> Result<(), Trouble> {
    let stored = plane.store.load::<Position>("own-log").await?;
    let next = stored.as_ref().map_or(0, |stored| stored.value.next);
    if plane.log.published() <= next {
        return Ok(());
    }
    let log = plane.log.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let mut seen = next;
        let mut alarms = Vec::new();
        for entry in log.entries_from(next).take(BATCH) {
            let (index, entry) = entry?;
            seen = index + 1;
            alarms.extend(alarming(index, &entry).map(|broken| (index, broken)));
        }
        Ok::<_, LogError>((seen, alarms))
    });
    let (seen, alarms) = reading.await.map_err(|_| Trouble::Form("log scan"))??;
    for (index, broken) in alarms {
        plane.alarm(broken.code(), json!({"index": index})).await;
    }
    match &stored {
        Some(stored) => plane.store.update(stored, &Position { next: seen }).await?,
        None => plane.store.insert(&Position { next: seen }).await?,
    }
    Ok(())
}

/// What one record alone can break.
fn alarming(index: u64, entry: &[u8]) -> Option<Broken> {
    let mut scan = Scan::new();
    scan.see(index, entry);
    let broken = scan.finish().findings.first()?.broken;
    match broken {
        Broken::IssueWithoutSecondFactor | Broken::NotARecord => Some(broken),
        // An outcome's intent may be earlier than this record: not for a look at one record.
        Broken::OutcomeWithoutIntent | Broken::IntentTwice => None,
    }
}

#[cfg(test)]
mod tests;
