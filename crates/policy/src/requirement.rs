//! What would turn a `forbid` into a yes: the annotations `@requires` and `@max_age`, and the union of several.
//!
//! Not here: whether meeting a requirement is enough. That is decided by evaluating again with it assumed met.

use countersign_proto::oauth::Acr;

/// Seconds an attestation may be old where a policy asks for a fresh one and names no `@max_age`.
pub const DEFAULT_MAX_AGE_SECS: u32 = 300;
/// The longest `@max_age` a policy may name: a day is no longer fresh.
pub const LONGEST_MAX_AGE_SECS: u32 = 86_400;

/// One thing the caller can do to get a yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Attest the machine again (RFC 9470: `max_age`, `acr_values`). The runner answers this by itself.
    FreshAttestation {
        /// The oldest attestation that will do, in seconds.
        max_age_secs: u32,
        /// The level to ask for.
        acr: Acr,
    },
    /// Come back with a token of at least this level (RFC 9470 `acr_values`).
    Acr(Acr),
    /// Have a person sign this exact call.
    Approval,
}

impl std::fmt::Display for Needs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FreshAttestation { max_age_secs, .. } => write!(f, "fresh_attestation:{max_age_secs}"),
            Self::Acr(acr) => write!(f, "acr:{}", acr.short()),
            Self::Approval => f.write_str("approval"),
        }
    }
}

/// The requirements of one `forbid`, or of several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requirements {
    /// Ask for an attestation at most this old (seconds).
    pub(crate) fresh_attestation: Option<u32>,
    pub(crate) acr: Option<Acr>,
    pub(crate) approval: bool,
}

/// The higher of each half.
pub(crate) fn raised(one: Acr, other: Acr) -> Acr {
    // Both halves are in range already, so the fallback cannot be taken; it grants nothing.
    Acr::new(one.env().max(other.env()), one.person().max(other.person())).unwrap_or(one)
}

/// The level a fresh quote reaches (DESIGN §4: `e3` is `e2` and a fresh quote).
pub(crate) const ATTESTED: Acr = level(3, 0);
/// The level of a person's signature over this exact call.
pub(crate) const SIGNED: Acr = level(0, 3);

/// What every token meets.
const NOTHING: Acr = level(0, 0);

/// The environment half alone.
fn without_person(acr: Acr) -> Acr {
    Acr::new(acr.env(), 0).unwrap_or(acr)
}

const fn level(env: u8, person: u8) -> Acr {
    match Acr::new(env, person) {
        Ok(acr) => acr,
        #[expect(clippy::panic, reason = "evaluated at compile time, for the two constants above")]
        Err(_) => panic!("a level within range"),
    }
}

impl Requirements {
    /// Reads the annotations of a `forbid`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with them.
    pub(crate) fn parse(requires: &str, max_age: Option<&str>) -> Result<Self, String> {
        let mut all = Self::default();
        for word in requires.split(',').map(str::trim) {
            match word {
                "fresh_attestation" if all.fresh_attestation.is_none() => {
                    all.fresh_attestation = Some(DEFAULT_MAX_AGE_SECS);
                }
                "approval" if !all.approval => all.approval = true,
                word if word.starts_with("acr:") && all.acr.is_none() => {
                    let acr = Acr::parse_short(&word["acr:".len()..])
                        .map_err(|_| format!("@requires: {word:?} is not acr:e0u0 to acr:e4u3"))?;
                    // No token carries a signature over one call: the person half of u3 is an approval.
                    let by_token = if acr.person() == SIGNED.person() { without_person(acr) } else { acr };
                    all.approval |= by_token != acr;
                    all.acr = (by_token != NOTHING).then_some(by_token);
                }
                word => {
                    return Err(format!(
                        "@requires: {word:?} is unknown or stands twice; known are fresh_attestation, approval, acr:eXuY"
                    ));
                }
            }
        }
        if let Some(text) = max_age {
            if all.fresh_attestation.is_none() {
                return Err(
                    "@max_age without @requires(\"fresh_attestation\") has no effect: remove it".into()
                );
            }
            let secs = text.parse().ok().filter(|secs| (1..=LONGEST_MAX_AGE_SECS).contains(secs));
            all.fresh_attestation =
                Some(secs.ok_or_else(|| {
                    format!("@max_age: write whole seconds from 1 to {LONGEST_MAX_AGE_SECS}")
                })?);
        }
        Ok(all)
    }

    /// What is left to ask for when both have to be met: the stricter of each.
    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        let stricter = |a: Option<u32>, b: Option<u32>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, None) | (None, one) => one,
        };
        Self {
            fresh_attestation: stricter(self.fresh_attestation, other.fresh_attestation),
            acr: match (self.acr, other.acr) {
                (Some(a), Some(b)) => Some(raised(a, b)),
                (one, None) | (None, one) => one,
            },
            approval: self.approval || other.approval,
        }
    }

    /// The requirements as a list, what the machine can answer by itself before what needs a person.
    pub(crate) fn needs(self, current: Acr) -> Vec<Needs> {
        let mut needs = Vec::new();
        if let Some(max_age_secs) = self.fresh_attestation {
            let kept = if current.person() == SIGNED.person() { without_person(current) } else { current };
            needs.push(Needs::FreshAttestation { max_age_secs, acr: raised(kept, ATTESTED) });
        }
        if let Some(acr) = self.acr {
            needs.push(Needs::Acr(acr));
        }
        if self.approval {
            needs.push(Needs::Approval);
        }
        needs
    }
}

#[cfg(test)]
mod tests;
