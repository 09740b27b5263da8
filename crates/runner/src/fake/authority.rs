//! The attestation CA and the ACME server of the fake: `trust` decides, this only routes and remembers.

use std::collections::VecDeque;

use bytes::Bytes;
use countersign_proto::acme::{
    FinalizeRequest, MacKey, NewAccount, NewOrder, PermanentIdentifier, Problem, SignedRequest,
    key_authorization, parse_attestation_payload, read_payload,
};
use countersign_proto::b64;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{MachineId, TrustDomain};
use countersign_proto::jose::SoftwareP256;
use countersign_proto::time::{Entropy as _, Timestamp};
use countersign_proto::x509::parse_csr_der;
use countersign_trust::Roots;
use countersign_trust::acme::{Account, EabKey, Order};
use countersign_trust::activation::{AkEvidence, PendingActivation, begin, check_ak};
use countersign_trust::device_attest::{self, Expectation};
use countersign_trust::endorsement::{EkAllowList, appraise_endorsement};
use countersign_trust::issue::Issuer;
use countersign_trust::machine::{Enrollment, Machine};
use countersign_trust::quote::{QuoteEvidence, read_baseline};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use super::{Reply, SystemEntropy, reply};
use crate::swtpm::SimulatedTpm;

/// The enrollment token that is good once.
pub const TOKEN: &str = "let-me-in";

/// One machine's way through both servers.
pub struct AttestationAuthority {
    endorsement_roots: Roots,
    ak_roots: Roots,
    issuer: Issuer,
    token: Option<String>,
    nonce: Vec<u8>,
    pending: Option<PendingActivation>,
    machine: Option<Machine>,
    eab: Option<EabKey>,
    account: Option<Account>,
    order: Option<Order>,
    acme_nonces: Vec<String>,
    /// How long machine certificates live.
    pub certificate_secs: i64,
    /// How many it gave out.
    pub issued: u64,
    /// Answered before anything else: (path prefix, status, body).
    pub interruptions: VecDeque<(&'static str, u16, Value)>,
    /// The server forgets the nonces it gave out, once.
    pub forget_nonces: bool,
    /// What the directory says, if not the truth.
    pub directory: Option<Value>,
}

const MAC_KEY: [u8; 32] = [9; 32];
const FOREVER_SECS: i64 = 10 * 365 * 24 * 3600;

impl AttestationAuthority {
    pub fn new(simulated: &SimulatedTpm) -> Self {
        let roots = simulated.ek_roots().unwrap();
        let key = SoftwareP256::generate().unwrap().to_pkcs8().unwrap();
        let domain = TrustDomain::parse("td").unwrap();
        let start = Timestamp::from_unix_secs(1_700_000_000);
        let issuer =
            Issuer::self_signed_root("fake", Some(&domain), &key, start, FOREVER_SECS, &SystemEntropy)
                .unwrap();
        Self {
            endorsement_roots: Roots::from_der(roots.iter().map(Vec::as_slice)).unwrap(),
            ak_roots: Roots::from_der([issuer.certificate_der()]).unwrap(),
            issuer,
            token: Some(TOKEN.to_owned()),
            nonce: vec![3; 32],
            pending: None,
            machine: None,
            eab: None,
            account: None,
            order: None,
            acme_nonces: Vec::new(),
            certificate_secs: 3600,
            issued: 0,
            interruptions: VecDeque::new(),
            forget_nonces: false,
            directory: None,
        }
    }

    /// The certificate that machine certificates chain to.
    pub fn certificate(&self) -> Vec<u8> {
        self.issuer.certificate_der().to_vec()
    }

    pub fn answer(&mut self, origin: &str, path: &str, body: &[u8], now: Timestamp) -> Reply {
        if let Some((_, status, value)) =
            self.interruptions.pop_front_if(|(prefix, ..)| path.starts_with(*prefix))
        {
            return self.with_nonce(reply(status, &value));
        }
        let answer = match path {
            "/attest/v1/ak" => self.begin(body, now),
            "/attest/v1/ak/s-1" => self.activate(body, now),
            "/acme/directory" => reply(200, &self.directory.clone().unwrap_or_else(|| directory(origin))),
            "/acme/new-nonce" => reply(200, &json!({})),
            _ => self.acme(origin, path, body, now).unwrap_or_else(|problem| {
                let document: Value = serde_json::from_slice(&problem.document().to_jcs()).unwrap();
                reply(problem.kind.status(), &document)
            }),
        };
        self.with_nonce(answer)
    }

    fn with_nonce(&mut self, mut answer: Reply) -> Reply {
        let mut nonce = [0; 16];
        SystemEntropy.fill(&mut nonce);
        let nonce = b64::url_encode(&nonce);
        answer.headers_mut().insert("replay-nonce", nonce.parse().unwrap());
        self.acme_nonces.push(nonce);
        answer
    }

    fn begin(&mut self, body: &[u8], now: Timestamp) -> Reply {
        let body: Value = serde_json::from_slice(body).unwrap();
        if self.token.is_none() || body["enrollment_token"].as_str() != self.token.as_deref() {
            return reply(401, &json!({"error": "invalid_enrollment_token", "error_description": "unknown"}));
        }
        let certificates: Vec<_> = body["ek_certificates"].as_array().unwrap().iter().map(bytes).collect();
        let listed = EkAllowList::default();
        let endorsed = appraise_endorsement(
            &certificates,
            &bytes(&body["ek_public"]),
            &self.endorsement_roots,
            &listed,
            now,
        );
        let Ok(endorsed) = endorsed else { return reply(403, &json!({"error": "endorsement_untrusted"})) };
        let evidence = AkEvidence {
            public: &bytes(&body["ak_public"]),
            creation_data: &bytes(&body["creation_data"]),
            creation_attest: &bytes(&body["creation_attest"]),
            creation_signature: &bytes(&body["creation_signature"]),
        };
        let key = check_ak(&evidence, &Sha256Digest::of(TOKEN.as_bytes())).unwrap();
        let (pending, blob) = begin(endorsed, key, now, &SystemEntropy).unwrap();
        (self.token, self.pending) = (None, Some(pending));
        reply(
            200,
            &json!({"session": "s-1", "id_object": b64::url_encode(&blob.id_object),
                "encrypted_secret": b64::url_encode(&blob.encrypted_secret), "nonce": b64::url_encode(&self.nonce)}),
        )
    }

    fn activate(&mut self, body: &[u8], now: Timestamp) -> Reply {
        let body: Value = serde_json::from_slice(body).unwrap();
        let activated = self.pending.take().unwrap().confirm(&bytes(&body["secret"]), now).unwrap();
        let pcr_values = body["pcr_values"].as_object().unwrap().iter();
        let pcr_values = pcr_values
            .map(|(pcr, value)| {
                (pcr.parse().unwrap(), Sha256Digest::from_bytes(bytes(value).try_into().unwrap()))
            })
            .collect();
        let (attest, signature) = (bytes(&body["quote"]), bytes(&body["signature"]));
        let evidence = QuoteEvidence { attest: &attest, signature: &signature, pcr_values: &pcr_values };
        let pcrs = [0, 1, 2, 3, 4, 5, 6, 7];
        let (reference, clock) =
            read_baseline(&evidence, &activated.ak().into(), &self.nonce, &pcrs, "baseline@v1").unwrap();
        let id = MachineId::parse("m-1").unwrap();
        let permanent_identifier = PermanentIdentifier::parse("m-1").unwrap();
        let trust_domain = TrustDomain::parse("td").unwrap();
        let enrollment = Enrollment {
            id: id.clone(),
            trust_domain,
            permanent_identifier: permanent_identifier.clone(),
            reference,
            clock,
        };
        let machine = Machine::enroll(enrollment, &activated, now);
        let certificate =
            self.issuer.issue_ak_certificate(&machine, now, FOREVER_SECS, &SystemEntropy).unwrap();
        self.machine = Some(machine);
        self.eab = Some(EabKey::open("kid-1".to_owned(), id, permanent_identifier, now));
        reply(
            200,
            &json!({"machine_id": "m-1", "permanent_identifier": "m-1",
                "ak_certificates": [b64::url_encode(&certificate.der), b64::url_encode(self.issuer.certificate_der())],
                "eab": {"kid": "kid-1", "key": b64::url_encode(&MAC_KEY)}}),
        )
    }

    fn acme(&mut self, origin: &str, path: &str, body: &[u8], now: Timestamp) -> Result<Reply, Problem> {
        let url = format!("{origin}{path}");
        let signed = SignedRequest::parse(body)?;
        if std::mem::take(&mut self.forget_nonces) {
            self.acme_nonces.clear();
        }
        let Some(position) = self.acme_nonces.iter().position(|nonce| nonce == signed.nonce()) else {
            return Ok(reply(400, &json!({"type": "urn:ietf:params:acme:error:badNonce", "detail": "old"})));
        };
        self.acme_nonces.remove(position);
        if path == "/acme/new-account" {
            let request = signed.verify_embedded(&url)?;
            let account: NewAccount = read_payload(request.payload())?;
            account.binding()?.verify(&MacKey::new(MAC_KEY.to_vec()).unwrap(), request.key(), &url)?;
            let (eab, account) =
                self.eab.take().unwrap().bind("a-1".to_owned(), request.key().clone(), now)?;
            (self.eab, self.account) = (Some(eab), Some(account));
            return Ok(located(
                reply(201, &json!({"status": "valid"})),
                &format!("{origin}/acme/account/a-1"),
            ));
        }
        let account = self.account.clone().unwrap();
        let request = signed.verify_account(&url, &account.key)?;
        if path == "/acme/new-order" {
            let order: NewOrder = read_payload(request.payload())?;
            let order =
                Order::open(&account, "o-1".to_owned(), order.permanent_identifier()?, now, &SystemEntropy)?;
            let resource = serde_json::to_value(order.resource(origin)).unwrap();
            self.order = Some(order);
            return Ok(located(reply(201, &resource), &format!("{origin}/acme/order/o-1")));
        }
        let order = self.order.clone().unwrap();
        let shown = match path {
            "/acme/authz/o-1" => serde_json::to_value(order.authorization_resource(origin)),
            "/acme/order/o-1" => serde_json::to_value(order.resource(origin)),
            "/acme/challenge/o-1" => {
                let order = self.appraise(order, request.payload(), &account, now);
                let shown = serde_json::to_value(order.challenge_resource(origin));
                self.order = Some(order);
                shown
            }
            "/acme/order/o-1/finalize" => {
                let finalize: FinalizeRequest = read_payload(request.payload())?;
                let csr = parse_csr_der(&b64::url_decode(&finalize.csr).unwrap()).unwrap();
                let (order, issuance) = order.finalize(&csr, now).map_err(|refused| refused.problem)?;
                let machine = self.machine.clone().unwrap();
                let issued = self
                    .issuer
                    .issue_machine_certificate(issuance, &machine, now, self.certificate_secs, &SystemEntropy)
                    .unwrap();
                let chain = [issued.der, self.issuer.certificate_der().to_vec()];
                self.issued += 1;
                let order = order.complete(issued.serial, &chain, now).unwrap();
                let shown = serde_json::to_value(order.resource(origin));
                self.order = Some(order);
                shown
            }
            "/acme/cert/o-1" => {
                let pem = Bytes::from(order.certificate_pem().unwrap());
                let mut answer = reply(200, &json!({}));
                *answer.body_mut() = Full::new(pem).map_err(|never| match never {}).boxed();
                return Ok(answer);
            }
            _ => return Ok(reply(404, &json!({"type": "urn:ietf:params:acme:error:malformed"}))),
        };
        Ok(reply(200, &shown.unwrap()))
    }

    fn appraise(&self, order: Order, payload: &[u8], account: &Account, now: Timestamp) -> Order {
        let expectation = Expectation {
            key_authorization: &key_authorization(&order.token, &account.key),
            ak_roots: &self.ak_roots,
            machine: self.machine.as_ref().unwrap(),
            now,
        };
        let outcome = device_attest::verify(&parse_attestation_payload(payload).unwrap(), &expectation);
        order.answered(outcome, now).unwrap()
    }
}

fn directory(origin: &str) -> Value {
    json!({"newNonce": format!("{origin}/acme/new-nonce"), "newAccount": format!("{origin}/acme/new-account"),
        "newOrder": format!("{origin}/acme/new-order"), "revokeCert": format!("{origin}/acme/revoke-cert")})
}

fn located(mut answer: Reply, url: &str) -> Reply {
    answer.headers_mut().insert("location", url.parse().unwrap());
    answer
}

fn bytes(text: &Value) -> Vec<u8> {
    b64::url_decode(text.as_str().unwrap()).unwrap()
}
