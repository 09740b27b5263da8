//! The order: pending → ready → processing → valid, or invalid from everywhere but valid.
//!
//! INVARIANT: key in the request = key in the attestation, identifier in the attestation = identifier in the order,
//! order's account = account of the key authorization. An [`Issuance`] exists only where all three held.

use countersign_proto::acme::{AcmeProblem, PermanentIdentifier, Problem};
use countersign_proto::b64;
use countersign_proto::id::MachineId;
use countersign_proto::jose::PublicJwk;
use countersign_proto::time::{Entropy, Timestamp};
use countersign_proto::x509::CsrFacts;
use serde::{Deserialize, Serialize};

use super::{Account, unauthorized};
use crate::device_attest::{AttestedKey, DeviceAttestError};
use crate::machine::Machine;

/// How long an order can be completed, in seconds.
pub const ORDER_LIFETIME_SECS: i64 = 600;

/// An order with its one authorization and challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Names it, its authorization and its challenge.
    pub id: String,
    /// Whose it is.
    pub account: String,
    /// The machine it is for.
    pub machine: MachineId,
    /// What it orders.
    pub identifier: PermanentIdentifier,
    /// The challenge's token, 256 unpredictable bits, base64url.
    pub token: String,
    /// When it ends unless completed.
    pub expires_at: Timestamp,
    /// How far it has come.
    pub state: OrderState,
}

/// How far an order has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
pub enum OrderState {
    /// The challenge waits for its answer.
    Pending {},
    /// A key was attested.
    Ready {
        /// That key; no other can be certified.
        key: AttestedKey,
        /// When.
        at: Timestamp,
    },
    /// The certificate is being made.
    Processing {
        /// The attested key.
        key: AttestedKey,
        /// When that began.
        at: Timestamp,
    },
    /// The certificate is there.
    Valid {
        /// The attested key.
        key: AttestedKey,
        /// Serial number of the certificate.
        serial: String,
        /// The chain, leaf first, DER as base64url.
        chain: Vec<String>,
        /// When.
        at: Timestamp,
    },
    /// It came to nothing.
    Invalid {
        /// Why.
        problem: Problem,
        /// Whether the challenge failed (rather than what came after it).
        challenge_failed: bool,
        /// When.
        at: Timestamp,
    },
}

/// The right to issue one certificate for one attested key. Not `Clone`: used up by issuing.
#[derive(Debug)]
pub struct Issuance {
    key: PublicJwk,
    ak_name: Vec<u8>,
    machine: MachineId,
    identifier: PermanentIdentifier,
}

/// A refused step: what to answer, and the order as it is to be saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The answer.
    pub problem: Problem,
    /// The order afterwards, changed or not.
    pub order: Order,
}

impl Order {
    /// Opens an order of `account`, which may order one identifier only.
    ///
    /// # Errors
    /// `unauthorized` for an ended account, `rejectedIdentifier` for another identifier than the account's.
    pub fn open(
        account: &Account,
        id: String,
        identifier: PermanentIdentifier,
        now: Timestamp,
        rng: &dyn Entropy,
    ) -> Result<Self, Problem> {
        account.may_act()?;
        if identifier != account.permanent_identifier {
            return Err(Problem::new(
                AcmeProblem::RejectedIdentifier,
                "the account may not order this identifier",
            ));
        }
        let mut token = [0; 32];
        rng.fill(&mut token);
        Ok(Self {
            id,
            account: account.id.clone(),
            machine: account.machine.clone(),
            identifier,
            token: b64::url_encode(&token),
            expires_at: now.plus_secs(ORDER_LIFETIME_SECS),
            state: OrderState::Pending {},
        })
    }

    /// Whether `account` may see and change this order.
    ///
    /// # Errors
    /// `unauthorized`, with the body that an order that does not exist gets too.
    pub fn belongs_to(&self, account: &Account) -> Result<(), Problem> {
        account.may_act()?;
        if self.account == account.id { Ok(()) } else { Err(unauthorized()) }
    }

    /// Takes the outcome of appraising the answer to the challenge: ready, or invalid for good.
    ///
    /// # Errors
    /// [`Refused`] if the order is not pending any more, which then stays as it is, or has expired.
    pub fn answered(
        self,
        outcome: Result<AttestedKey, DeviceAttestError>,
        now: Timestamp,
    ) -> Result<Self, Box<Refused>> {
        let order = self.unless_expired(now)?;
        match (&order.state, outcome) {
            (OrderState::Pending {}, Ok(key)) => {
                Ok(Self { state: OrderState::Ready { key, at: now }, ..order })
            }
            (OrderState::Pending {}, Err(_)) => {
                let detail = "the attestation statement is not acceptable";
                Ok(order.invalid(Problem::new(AcmeProblem::BadAttestationStatement, detail), true, now))
            }
            (
                OrderState::Ready { .. }
                | OrderState::Processing { .. }
                | OrderState::Valid { .. }
                | OrderState::Invalid { .. },
                _,
            ) => Err(order.refuse(AcmeProblem::Malformed, "the challenge is not pending")),
        }
    }

    /// Takes the request for the certificate. It may name the ordered identifier or nothing, and must carry the
    /// attested key: another key ends the order.
    ///
    /// # Errors
    /// [`Refused`] with `orderNotReady` or `badCSR`.
    pub fn finalize(self, request: &CsrFacts, now: Timestamp) -> Result<(Self, Issuance), Box<Refused>> {
        let order = self.unless_expired(now)?;
        let key = match &order.state {
            OrderState::Ready { key, .. } => key.clone(),
            OrderState::Pending {}
            | OrderState::Processing { .. }
            | OrderState::Valid { .. }
            | OrderState::Invalid { .. } => {
                return Err(order.refuse(AcmeProblem::OrderNotReady, "the order is not ready"));
            }
        };
        if !order.may_request(request) {
            return Err(order.refuse(AcmeProblem::BadCsr, "the request names more than was ordered"));
        }
        if *key.jwk() != request.public {
            let problem =
                Problem::new(AcmeProblem::BadCsr, "the request is for another key than the attested one");
            return Err(Box::new(Refused {
                problem: problem.clone(),
                order: order.invalid(problem, false, now),
            }));
        }
        let issuance = Issuance {
            key: key.jwk().clone(),
            ak_name: key.ak_name().to_vec(),
            machine: order.machine.clone(),
            identifier: order.identifier.clone(),
        };
        Ok((Self { state: OrderState::Processing { key, at: now }, ..order }, issuance))
    }

    fn may_request(&self, request: &CsrFacts) -> bool {
        let names = &request.names;
        request.subject_empty
            && request.others == 0
            && names.uris.is_empty()
            && names.dns.is_empty()
            && names.directory.is_empty()
            && names.others == 0
            && names.permanent_identifiers.iter().all(|name| name == self.identifier.as_str())
            && names.permanent_identifiers.len() <= 1
    }

    /// Hands over the certificate, leaf first.
    ///
    /// # Errors
    /// [`Refused`] unless the order is processing.
    pub fn complete(self, serial: String, chain: &[Vec<u8>], now: Timestamp) -> Result<Self, Box<Refused>> {
        match self.state {
            OrderState::Processing { key, .. } => {
                let chain = chain.iter().map(|der| b64::url_encode(der)).collect();
                Ok(Self { state: OrderState::Valid { key, serial, chain, at: now }, ..self })
            }
            OrderState::Pending {}
            | OrderState::Ready { .. }
            | OrderState::Valid { .. }
            | OrderState::Invalid { .. } => {
                Err(self.refuse(AcmeProblem::OrderNotReady, "the order is not processing"))
            }
        }
    }

    /// Ends an order whose issuance failed or was interrupted. A valid or invalid one stays what it is.
    #[must_use]
    pub fn abandon(self, now: Timestamp) -> Self {
        match self.state {
            OrderState::Pending {} | OrderState::Ready { .. } | OrderState::Processing { .. } => self
                .invalid(
                    Problem::new(AcmeProblem::ServerInternal, "the certificate could not be issued"),
                    false,
                    now,
                ),
            OrderState::Valid { .. } | OrderState::Invalid { .. } => self,
        }
    }

    fn unless_expired(self, now: Timestamp) -> Result<Self, Box<Refused>> {
        match self.state {
            OrderState::Pending {} | OrderState::Ready { .. } if now > self.expires_at => {
                let problem = Problem::new(AcmeProblem::Malformed, "the order has expired");
                Err(Box::new(Refused { problem: problem.clone(), order: self.invalid(problem, false, now) }))
            }
            OrderState::Pending {}
            | OrderState::Ready { .. }
            | OrderState::Processing { .. }
            | OrderState::Valid { .. }
            | OrderState::Invalid { .. } => Ok(self),
        }
    }

    fn invalid(self, problem: Problem, challenge_failed: bool, at: Timestamp) -> Self {
        Self { state: OrderState::Invalid { problem, challenge_failed, at }, ..self }
    }

    fn refuse(self, kind: AcmeProblem, detail: &'static str) -> Box<Refused> {
        Box::new(Refused { problem: Problem::new(kind, detail), order: self })
    }
}

impl Issuance {
    /// The key and its name, for the machine that the issuance is for.
    pub(crate) fn into_parts(self, machine: &Machine) -> Option<(PublicJwk, PermanentIdentifier)> {
        let is_same = self.machine == machine.id
            && self.ak_name == machine.ak.name()
            && self.identifier == machine.permanent_identifier
            && machine.may_act().is_ok();
        is_same.then_some((self.key, self.identifier))
    }
}
