//! What a thief, a clumsy agent or a forger tries, and what is seen of it from three sides: the answer, the tool
//! server's byte counter, and the log.

use std::io;

use serde_json::Value;

use crate::insider::Answer;
use crate::world::World;

/// Records that are a verdict; the others say what became of it, or are somebody else's.
const VERDICTS: [&str; 4] = ["intent", "denial", "challenge", "access"];

/// What was seen of one attempt.
#[derive(Clone, Debug)]
pub struct Seen {
    /// HTTP status.
    pub status: u16,
    /// The error the protocol names: of `WWW-Authenticate`, or of the JSON-RPC body.
    pub error: String,
    /// The code in the record.
    pub code: String,
    /// How many verdicts the attempt left in the log.
    pub verdicts: usize,
    /// The index of the (last) verdict.
    pub record: Option<u64>,
    /// Bytes that reached the tool server because of it.
    pub upstream_bytes: u64,
    /// Whether the record raises an alarm.
    pub alarm: Option<String>,
    /// The answer.
    pub answer: Answer,
}

/// Watches one attempt.
#[derive(Debug)]
pub struct Watch<'a> {
    world: &'a World,
    next_index: u64,
    bytes: u64,
}

impl<'a> Watch<'a> {
    /// Notes where things stand.
    ///
    /// # Errors
    /// If the world does not answer.
    pub fn begin(world: &'a World) -> io::Result<Self> {
        Ok(Self { world, next_index: world.log_size()?, bytes: upstream_bytes(world)? })
    }

    /// Says what the attempt that got `answer` changed.
    ///
    /// # Errors
    /// If the world does not answer.
    pub fn end(self, answer: Answer) -> io::Result<Seen> {
        let upstream_bytes = upstream_bytes(self.world)? - self.bytes;
        let records = self.world.records(self.next_index)?;
        let verdicts: Vec<&Value> = records
            .iter()
            .filter(|entry| entry["record"]["kind"].as_str().is_some_and(|kind| VERDICTS.contains(&kind)))
            .collect();
        let last = verdicts.last();
        let member = |name: &str| last.and_then(|entry| entry["record"][name].as_str()).map(str::to_owned);
        Ok(Seen {
            status: answer.status,
            error: protocol_error(&answer),
            code: member("code").unwrap_or_default(),
            verdicts: verdicts.len(),
            record: last.and_then(|entry| entry["index"].as_u64()),
            upstream_bytes,
            alarm: member("alarm"),
            answer,
        })
    }
}

fn upstream_bytes(world: &World) -> io::Result<u64> {
    world.upstream_stats()?["bytes"]
        .as_u64()
        .ok_or_else(|| io::Error::other("the tool server does not count"))
}

fn protocol_error(answer: &Answer) -> String {
    let challenge = answer.header("www-authenticate");
    if let Some((_, rest)) = challenge.split_once("error=\"") {
        return rest.split('"').next().unwrap_or_default().to_owned();
    }
    let body = answer.json();
    body["error"]["code"].as_i64().map(|code| code.to_string()).unwrap_or_default()
}
