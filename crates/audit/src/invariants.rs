//! What must never be found in a log, found: a pure scan over its records.
//!
//! It reads what records claim, not whether the claims are true; the evidence itself is checked before the
//! record is written. Run it over entries that [`crate::verify::verify_entries`] has checked.

use std::collections::BTreeMap;

use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::DecisionId;
use countersign_proto::json::{Object, Value};

use crate::record::{Kind, Record};

/// Findings kept in a report; the counts go on.
pub const MAX_FINDINGS: usize = 1000;

/// Something that must not be in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The entry.
    pub index: u64,
    /// What is wrong with it.
    pub broken: Broken,
}

/// An invariant that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Broken {
    /// A credential was issued without verified machine evidence.
    IssueWithoutSecondFactor,
    /// An effect without an intent before it.
    OutcomeWithoutIntent,
    /// Two intents under one decision: one permit was used twice.
    IntentTwice,
    /// The entry is not a record.
    NotARecord,
}

impl Broken {
    /// The stable name of the alarm.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::IssueWithoutSecondFactor => "issue.no_second_factor",
            Self::OutcomeWithoutIntent => "outcome.no_intent",
            Self::IntentTwice => "intent.twice",
            Self::NotARecord => "record.malformed",
        }
    }
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Entries seen.
    pub entries: u64,
    /// Broken invariants, in order, at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Broken invariants, all of them.
    pub broken: u64,
    /// Intents whose outcome is not recorded, with their index: what became of them is unknown.
    pub unknown_outcomes: BTreeMap<DecisionId, u64>,
}

impl Report {
    /// Whether nothing forbidden was found. Unknown outcomes are work to do, not a breach.
    #[must_use]
    pub const fn holds(&self) -> bool {
        self.broken == 0
    }
}

/// A scan in progress. Memory grows with intents, of which each decision has one.
#[derive(Debug, Default)]
pub struct Scan {
    report: Report,
    settled: std::collections::BTreeSet<DecisionId>,
}

impl Scan {
    /// A scan that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at the next entry.
    pub fn see(&mut self, index: u64, entry: &[u8]) {
        self.report.entries += 1;
        let broken = match Record::parse(entry) {
            Err(_) => Some(Broken::NotARecord),
            Ok((record, members)) => self.judge(index, &record, &members),
        };
        if let Some(broken) = broken {
            self.report.broken += 1;
            if self.report.findings.len() < MAX_FINDINGS {
                self.report.findings.push(Finding { index, broken });
            }
        }
    }

    /// What was found.
    #[must_use]
    pub fn finish(self) -> Report {
        self.report
    }

    fn judge(&mut self, index: u64, record: &Record, members: &Object) -> Option<Broken> {
        match record.kind() {
            Kind::Issue if !names_machine_evidence(members) => Some(Broken::IssueWithoutSecondFactor),
            Kind::Intent => {
                // An intent that names no decision cannot be joined with any outcome.
                let Some(decision) = record.decision().cloned() else { return Some(Broken::NotARecord) };
                let repeated = self.settled.contains(&decision)
                    || self.report.unknown_outcomes.insert(decision, index).is_some();
                repeated.then_some(Broken::IntentTwice)
            }
            Kind::Outcome => {
                let intent = record.decision().and_then(|id| self.report.unknown_outcomes.remove_entry(id));
                match intent {
                    Some((decision, _)) => {
                        self.settled.insert(decision);
                        None
                    }
                    // A reconciler may name an unknown outcome that is later reported after all.
                    None if record.decision().is_some_and(|id| self.settled.contains(id)) => None,
                    None => Some(Broken::OutcomeWithoutIntent),
                }
            }
            Kind::Issue
            | Kind::Denial
            | Kind::Challenge
            | Kind::Approval
            | Kind::Enroll
            | Kind::Revoke
            | Kind::Admin
            | Kind::Alarm
            | Kind::Start
            | Kind::Access => None,
        }
    }
}

/// Does an issue record name the machine evidence behind it: `env` with a level above `e0`, the machine, its
/// key and the hash of the evidence record?
fn names_machine_evidence(members: &Object) -> bool {
    let Some(env) = members.get("env").and_then(Value::as_object) else { return false };
    let digest = |name: &str| {
        env.get(name).and_then(Value::as_str).is_some_and(|text| Sha256Digest::parse(text).is_ok())
    };
    let level = env.get("lvl").and_then(Value::as_i64).is_some_and(|level| (1..=4).contains(&level));
    let machine = env.get("sub").and_then(Value::as_str).is_some_and(|sub| !sub.is_empty());
    level && machine && digest("jkt") && digest("ev")
}

#[cfg(test)]
mod tests;
