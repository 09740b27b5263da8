//! What became of challenges: asked, met, or not met, counted per agent. Counts only; nothing is decided by it.
//!
//! A challenge and its answer are two requests, told apart by run and call. Those that never come back stay open and
//! make room for newer ones, so `issued` less `satisfied` and `failed` is what was given up or is still under way.

use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::RunId;
use quick_cache::sync::Cache;

use crate::standing::Bearer;

/// What a call that may have been challenged before came to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Fresh evidence is asked for.
    Evidence,
    /// A person is asked.
    Person,
    /// The person has not answered yet.
    Waiting,
    Permitted,
    Refused,
}

/// The challenges that are open.
pub(crate) struct StepUps(Cache<(RunId, Sha256Digest), Step>);

impl StepUps {
    pub(crate) fn new(capacity: usize) -> Self {
        Self(Cache::new(capacity))
    }

    /// Counts this step as `cs_stepup_total{agent,result}`.
    pub(crate) fn count(&self, bearer: &Bearer, call: Sha256Digest, step: Step) {
        for result in self.results((bearer.run.clone(), call), step) {
            metrics::counter!("cs_stepup_total", "agent" => bearer.agent.to_string(), "result" => result)
                .increment(1);
        }
    }

    fn results(&self, key: (RunId, Sha256Digest), step: Step) -> Vec<&'static str> {
        if step == Step::Waiting {
            return Vec::new();
        }
        let open = self.0.remove(&key).map(|(_, open)| open);
        let met = match (open, step) {
            (None, _) => None,
            // The evidence came, and now a person is asked as well.
            (Some(Step::Evidence), Step::Person) | (Some(_), Step::Permitted) => Some("satisfied"),
            (Some(_), Step::Evidence | Step::Person | Step::Waiting | Step::Refused) => Some("failed"),
        };
        let asked = matches!(step, Step::Evidence | Step::Person).then(|| {
            self.0.insert(key, step);
            "issued"
        });
        met.into_iter().chain(asked).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(steps: &[Step], expected: &[&str]) {
        let open = StepUps::new(16);
        let key = || (RunId::parse("run_1").unwrap(), Sha256Digest::of(b"call"));
        let seen: Vec<_> = steps.iter().flat_map(|step| open.results(key(), *step)).collect();
        assert_eq!(seen, expected, "{steps:?}");
    }

    #[test]
    fn every_challenge_is_issued_once_and_then_satisfied_or_failed() {
        use Step::{Evidence, Permitted, Person, Refused, Waiting};
        check(&[Permitted, Refused], &[]);
        check(&[Evidence, Permitted, Permitted], &["issued", "satisfied"]);
        check(&[Evidence, Evidence, Permitted], &["issued", "failed", "issued", "satisfied"]);
        check(&[Evidence, Refused], &["issued", "failed"]);
        check(&[Person, Waiting, Waiting, Permitted], &["issued", "satisfied"]);
        check(&[Person, Waiting, Refused], &["issued", "failed"]);
        check(&[Evidence, Person, Permitted], &["issued", "satisfied", "issued", "satisfied"]);
    }

    #[test]
    fn another_calls_success_meets_no_challenge() {
        let open = StepUps::new(16);
        let key = |call: &[u8]| (RunId::parse("run_1").unwrap(), Sha256Digest::of(call));
        assert_eq!(open.results(key(b"a"), Step::Evidence), ["issued"]);
        assert_eq!(open.results(key(b"b"), Step::Permitted), Vec::<&str>::new());
    }
}
