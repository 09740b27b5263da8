//! How many calls each task has made: counted before the decision, so that no race can exceed a budget.
//!
//! The log is the truth. At start the counts are folded from it; a state file only shortens that fold and is
//! ignored where it does not fit the log. Counts are this gateway's own.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_audit::{Kind, Record};
use countersign_identity::task::MAX_TASK_SECS;
use countersign_proto::id::TaskId;
use countersign_proto::json::Value;
use countersign_proto::time::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

const FILE: &str = "budgets.json";
/// A task nobody called for this long is forgotten: longer than any grant lasts, or its budget would fill up again.
const FORGET_AFTER_SECS: i64 = MAX_TASK_SECS + 24 * 3600;

/// The counts of all tasks.
pub(crate) struct Budgets {
    counts: Mutex<HashMap<TaskId, Count>>,
    capacity: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Count {
    calls: u64,
    last: Timestamp,
}

/// One call taken from a task's budget before it is known whether it will be permitted. Dropped, it gives the call
/// back: denied, challenged, or the caller left before the verdict.
#[must_use]
pub(crate) struct Reservation {
    budgets: Arc<Budgets>,
    task: TaskId,
    /// Calls taken before this one.
    pub(crate) used_before: u64,
    kept: bool,
}

impl Budgets {
    /// Takes one call. `None` if more tasks are being counted than there is room for.
    pub(crate) fn reserve(self: &Arc<Self>, task: &TaskId, now: Timestamp) -> Option<Reservation> {
        let mut counts = self.counts.lock();
        if !counts.contains_key(task) && counts.len() >= self.capacity {
            return None;
        }
        let count = counts.entry(task.clone()).or_insert(Count { calls: 0, last: now });
        let used_before = count.calls;
        count.calls = count.calls.saturating_add(1);
        count.last = now;
        Some(Reservation { budgets: self.clone(), task: task.clone(), used_before, kept: false })
    }

    /// Forgets tasks whose grants have expired by now.
    pub(crate) fn prune(&self, now: Timestamp) {
        self.counts.lock().retain(|_, count| now.secs_since(count.last) < FORGET_AFTER_SECS);
    }

    /// Counts the permitted calls among log entries, continuing from the state file where it fits.
    pub(crate) fn fold<E>(
        state_dir: &Path,
        log_size: u64,
        capacity: usize,
        now: Timestamp,
        entries_from: impl FnOnce(u64) -> E,
    ) -> Result<Arc<Self>, FoldError>
    where
        E: Iterator<Item = Result<Vec<u8>, FoldError>>,
    {
        let folded = read_state(state_dir).filter(|state| state.next_index <= log_size).unwrap_or_default();
        let mut counts = folded.counts;
        for entry in entries_from(folded.next_index) {
            if let Some((task, at)) = permitted_task(&entry?) {
                let count = counts.entry(task).or_insert(Count { calls: 0, last: at });
                count.calls = count.calls.saturating_add(1);
                count.last = count.last.max(at);
            }
        }
        counts.retain(|_, count| now.secs_since(count.last) < FORGET_AFTER_SECS);
        let budgets = Arc::new(Self { counts: Mutex::new(counts), capacity });
        budgets.write_state(state_dir, log_size);
        Ok(budgets)
    }

    /// Writes the counts as of `next_index`. Only ever called with counts that were folded up to exactly
    /// there; failing to write costs time at the next start and nothing else.
    fn write_state(&self, state_dir: &Path, next_index: u64) {
        let state = State { next_index, counts: self.counts.lock().clone() };
        if let Err(error) = replace_file(state_dir, &state) {
            tracing::warn!(%error, "the folded budgets could not be written");
        }
    }
}

impl Reservation {
    /// The call was permitted: it counts for good.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let mut counts = self.budgets.counts.lock();
        if let Some(count) = counts.get_mut(&self.task) {
            count.calls = count.calls.saturating_sub(1);
        }
    }
}

/// Brings the state file up to `log_size` by folding what the log gained, away from the hot path.
pub(crate) fn refold<E>(
    state_dir: &Path,
    log_size: u64,
    now: Timestamp,
    entries_from: impl FnOnce(u64) -> E,
) -> Result<(), FoldError>
where
    E: Iterator<Item = Result<Vec<u8>, FoldError>>,
{
    Budgets::fold(state_dir, log_size, usize::MAX, now, entries_from).map(|_| ())
}

/// The log could not be read back.
#[derive(Debug, thiserror::Error)]
#[error("an entry of the log cannot be read: {0}")]
pub struct FoldError(pub(crate) String);

/// The task of an entry, if the entry is the intent of a permitted call.
fn permitted_task(entry: &[u8]) -> Option<(TaskId, Timestamp)> {
    let (record, members) = Record::parse(entry).ok()?;
    match record.kind() {
        Kind::Intent => {
            let task = members.get("task").and_then(Value::as_str)?;
            Some((TaskId::parse(task).ok()?, record.at()))
        }
        Kind::Outcome
        | Kind::Denial
        | Kind::Challenge
        | Kind::Approval
        | Kind::Issue
        | Kind::Enroll
        | Kind::Revoke
        | Kind::Admin
        | Kind::Alarm
        | Kind::Start
        | Kind::Access => None,
    }
}

#[derive(Default, Serialize, Deserialize)]
struct State {
    next_index: u64,
    counts: HashMap<TaskId, Count>,
}

fn read_state(state_dir: &Path) -> Option<State> {
    serde_json::from_slice(&std::fs::read(state_dir.join(FILE)).ok()?).ok()
}

fn replace_file(state_dir: &Path, state: &State) -> std::io::Result<()> {
    let next: PathBuf = state_dir.join(format!("{FILE}.next"));
    let mut file = std::fs::File::create(&next)?;
    file.write_all(&serde_json::to_vec(state)?)?;
    file.sync_data()?;
    std::fs::rename(&next, state_dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_secs(1_000_000);

    fn task(name: &str) -> TaskId {
        TaskId::parse(&format!("task_{name}")).unwrap()
    }

    fn entry(kind: Kind, name: &str) -> Vec<u8> {
        let record = Record::new(kind, NOW, [7; 16]).with("task", task(name).as_str()).build().unwrap();
        record.into_bytes()
    }

    fn used(budgets: &Arc<Budgets>, name: &str) -> u64 {
        let reservation = budgets.reserve(&task(name), NOW).unwrap();
        reservation.used_before
    }

    fn fold(dir: &Path, log: &[Vec<u8>]) -> Arc<Budgets> {
        let entries = |from: u64| log[usize::try_from(from).unwrap()..].iter().cloned().map(Ok);
        Budgets::fold(dir, log.len() as u64, 16, NOW, entries).unwrap()
    }

    #[test]
    fn only_permitted_calls_count_and_a_restart_counts_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = vec![entry(Kind::Intent, "a"), entry(Kind::Denial, "a"), entry(Kind::Intent, "b")];
        let budgets = fold(dir.path(), &log);
        assert_eq!((used(&budgets, "a"), used(&budgets, "b"), used(&budgets, "c")), (1, 1, 0));
        log.push(entry(Kind::Intent, "a"));
        assert_eq!(used(&fold(dir.path(), &log), "a"), 2, "continued from the state file");
        assert_eq!(used(&fold(dir.path(), &log), "a"), 2, "and not counted twice");
    }

    #[test]
    fn a_state_file_that_is_ahead_of_the_log_or_damaged_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let log = vec![entry(Kind::Intent, "a"), entry(Kind::Intent, "a")];
        fold(dir.path(), &log);
        assert_eq!(used(&fold(dir.path(), &log[..1]), "a"), 1);
        std::fs::write(dir.path().join(FILE), b"{\"next_index\":1").unwrap();
        assert_eq!(used(&fold(dir.path(), &log), "a"), 2);
    }

    #[test]
    fn calls_at_the_same_time_see_different_counts() {
        let dir = tempfile::tempdir().unwrap();
        let budgets = fold(dir.path(), &[]);
        let mut seen: Vec<u64> = std::thread::scope(|scope| {
            let call = || {
                let reservation = budgets.reserve(&task("a"), NOW).unwrap();
                let used = reservation.used_before;
                reservation.keep();
                used
            };
            let calls: Vec<_> = (0..8).map(|_| scope.spawn(call)).collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        seen.sort_unstable();
        assert_eq!(seen, (0..8).collect::<Vec<u64>>());
    }

    #[test]
    fn a_budget_is_remembered_for_as_long_as_a_task_can_last() {
        let dir = tempfile::tempdir().unwrap();
        let log = vec![entry(Kind::Intent, "a")];
        let budgets = fold(dir.path(), &log);
        budgets.prune(NOW.plus_secs(MAX_TASK_SECS));
        assert_eq!(used(&budgets, "a"), 1);
        let late = NOW.plus_secs(MAX_TASK_SECS);
        let entries = |from: u64| log[usize::try_from(from).unwrap()..].iter().cloned().map(Ok);
        assert_eq!(used(&Budgets::fold(dir.path(), 1, 16, late, entries).unwrap(), "a"), 1);
        budgets.prune(NOW.plus_secs(MAX_TASK_SECS + 2 * 24 * 3600));
        assert_eq!(used(&budgets, "a"), 0, "and no longer");
    }

    #[test]
    fn a_caller_who_leaves_before_the_verdict_costs_no_call() {
        let dir = tempfile::tempdir().unwrap();
        let budgets = fold(dir.path(), &[]);
        drop(budgets.reserve(&task("a"), NOW).unwrap());
        assert_eq!(budgets.reserve(&task("a"), NOW).unwrap().used_before, 0);
        budgets.reserve(&task("a"), NOW).unwrap().keep();
        assert_eq!(budgets.reserve(&task("a"), NOW).unwrap().used_before, 1);
    }

    #[test]
    fn room_for_tasks_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let budgets = fold(dir.path(), &[]);
        for n in 0..16 {
            assert!(budgets.reserve(&task(&n.to_string()), NOW).is_some());
        }
        assert!(budgets.reserve(&task("more"), NOW).is_none());
        assert!(budgets.reserve(&task("1"), NOW).is_some());
    }
}
