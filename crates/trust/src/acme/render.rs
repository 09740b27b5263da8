//! Orders as the resources that clients see (RFC 8555 §7.1.3-7.1.5), and certificates as PEM.

use countersign_proto::acme::{
    AuthorizationResource, ChallengeResource, DEVICE_ATTEST_01, Identifier, OrderResource,
    PERMANENT_IDENTIFIER, Problem,
};
use countersign_proto::b64;
use countersign_proto::time::Timestamp;
use x509_cert::der::pem::{LineEnding, encode_string};

use super::{Order, OrderState};

impl Order {
    /// The order's `status`.
    #[must_use]
    pub const fn status(&self) -> &'static str {
        match self.state {
            OrderState::Pending {} => "pending",
            OrderState::Ready { .. } => "ready",
            OrderState::Processing { .. } => "processing",
            OrderState::Valid { .. } => "valid",
            OrderState::Invalid { .. } => "invalid",
        }
    }

    /// The order at `{origin}/acme/order/{id}`.
    #[must_use]
    pub fn resource(&self, origin: &str) -> OrderResource {
        OrderResource {
            status: self.status().to_owned(),
            expires: Some(rfc3339(self.expires_at)),
            identifiers: vec![self.identifier_resource()],
            authorizations: vec![format!("{origin}/acme/authz/{}", self.id)],
            finalize: format!("{origin}/acme/order/{}/finalize", self.id),
            certificate: match self.state {
                OrderState::Valid { .. } => Some(format!("{origin}/acme/cert/{}", self.id)),
                OrderState::Pending {}
                | OrderState::Ready { .. }
                | OrderState::Processing { .. }
                | OrderState::Invalid { .. } => None,
            },
            error: self.problem().and_then(document),
        }
    }

    /// The authorization at `{origin}/acme/authz/{id}`.
    #[must_use]
    pub fn authorization_resource(&self, origin: &str) -> AuthorizationResource {
        AuthorizationResource {
            status: match self.state {
                OrderState::Pending {} => "pending",
                OrderState::Ready { .. } | OrderState::Processing { .. } | OrderState::Valid { .. } => {
                    "valid"
                }
                OrderState::Invalid { .. } => "invalid",
            }
            .to_owned(),
            expires: Some(rfc3339(self.expires_at)),
            identifier: self.identifier_resource(),
            challenges: vec![self.challenge_resource(origin)],
        }
    }

    /// The challenge at `{origin}/acme/challenge/{id}`.
    #[must_use]
    pub fn challenge_resource(&self, origin: &str) -> ChallengeResource {
        let (status, validated, error) = match &self.state {
            OrderState::Pending {} => ("pending", None, None),
            OrderState::Ready { at, .. }
            | OrderState::Processing { at, .. }
            | OrderState::Valid { at, .. } => ("valid", Some(rfc3339(*at)), None),
            OrderState::Invalid { problem, challenge_failed: true, at } => {
                ("invalid", Some(rfc3339(*at)), document(problem))
            }
            OrderState::Invalid { challenge_failed: false, .. } => ("invalid", None, None),
        };
        ChallengeResource {
            kind: DEVICE_ATTEST_01.to_owned(),
            url: format!("{origin}/acme/challenge/{}", self.id),
            status: status.to_owned(),
            token: self.token.clone(),
            validated,
            error,
        }
    }

    /// The certificate chain as PEM, leaf first, once the order is valid.
    #[must_use]
    pub fn certificate_pem(&self) -> Option<String> {
        let OrderState::Valid { chain, .. } = &self.state else { return None };
        let chain = chain.iter().map(|der| b64::url_decode(der).ok()).collect::<Option<Vec<_>>>()?;
        certificate_chain_pem(&chain)
    }

    const fn problem(&self) -> Option<&Problem> {
        match &self.state {
            OrderState::Invalid { problem, .. } => Some(problem),
            OrderState::Pending {}
            | OrderState::Ready { .. }
            | OrderState::Processing { .. }
            | OrderState::Valid { .. } => None,
        }
    }

    fn identifier_resource(&self) -> Identifier {
        Identifier { kind: PERMANENT_IDENTIFIER.to_owned(), value: self.identifier.as_str().to_owned() }
    }
}

fn document(problem: &Problem) -> Option<serde_json::Value> {
    serde_json::from_slice(&problem.document().to_jcs()).ok()
}

/// Certificates as `application/pem-certificate-chain` (RFC 8555 §9.1); `None` if one is too long for PEM.
#[must_use]
pub fn certificate_chain_pem(chain: &[Vec<u8>]) -> Option<String> {
    chain.iter().map(|der| encode_string("CERTIFICATE", LineEnding::LF, der).ok()).collect()
}

/// An instant as RFC 3339 in UTC with whole seconds. Years before 1970 are shown as 1970.
#[must_use]
pub fn rfc3339(at: Timestamp) -> String {
    let secs = at.unix_secs().max(0);
    let (days, rest) = (secs / 86_400, secs % 86_400);
    // Days to a civil date by 400-year cycles of 146097 days, years starting in March.
    let shifted = days + 719_468;
    let cycle = shifted / 146_097;
    let day_of_cycle = shifted % 146_097;
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_cycle + cycle * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}
