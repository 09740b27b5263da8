//! The watch over our own log: an issuance without a second factor must be impossible, and is alarmed if it happens.
//!
//! Each record is looked at once, also across restarts. Invariants that span records are `countersign audit invariants`.
//! Most records are what calls leave behind, and no single one of them can break anything: these are passed over unread.

use std::sync::Arc;
use std::time::Duration;

use countersign_audit::Kind;
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
const BATCH: usize = 10_000;

/// Whether a look has come to the end of the log.
enum Reached {
    /// Everything published was looked at.
    End,
    /// There is more: look again at once. However fast the log grows, the watch keeps up.
    Batch,
}

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
        match look(&plane).await {
            Ok(Reached::End) => {}
            Ok(Reached::Batch) => ticks.reset_immediately(),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "log not watched");
            }
        }
    }
}

async fn look(plane: &Plane) -> Result<Reached, Trouble> {
    let stored = plane.store.load::<Position>("own-log").await?;
    let next = stored.as_ref().map_or(0, |stored| stored.value.next);
    if plane.log.published() <= next {
        return Ok(Reached::End);
    }
    let log = plane.log.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let mut seen = next;
        let mut alarms = Vec::new();
        for entry in log.entries_from(next).take(BATCH) {
            let (index, entry) = entry?;
            seen = index + 1;
            if is_harmless(&entry) {
                continue;
            }
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
    // A batch that got nowhere waits for the next tick.
    Ok(if seen > next && plane.log.published() > seen { Reached::Batch } else { Reached::End })
}

/// Can this record be passed over? Records are canonical JSON, so that an issuance has exactly the bytes
/// `"kind":"issue"`, and no text inside a record can hold its quotation marks. What names no known kind is read.
fn is_harmless(entry: &[u8]) -> bool {
    const MEMBER: &[u8] = br#""kind":""#;
    let mut names_another = false;
    for (at, window) in entry.windows(MEMBER.len()).enumerate() {
        if window != MEMBER {
            continue;
        }
        let rest = entry.get(at + MEMBER.len()..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == b'"').unwrap_or(rest.len());
        let kind = rest.get(..end).and_then(|name| std::str::from_utf8(name).ok()).and_then(Kind::parse);
        match kind {
            // Also below the top, where an object may speak of an issuance: then it is read for nothing.
            None | Some(Kind::Issue) => return false,
            Some(_) => names_another = true,
        }
    }
    names_another
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
