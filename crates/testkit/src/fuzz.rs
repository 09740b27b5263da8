//! One function per parser for the fuzzer to call: any bytes in, no panic out, and what was accepted must keep its
//! promise (it prints back to what was read, a changed signature is refused, a second spelling does not exist).
//!
//! The fuzzer itself is in `fuzz/`; the ordinary tests replay its corpus through [`TARGETS`]. Nothing is rejected
//! here because it looks unlikely: the functions feed bytes to the parsers as the network would.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::LazyLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use countersign_audit::note::{self, Checkpoint, LogKey, LogVerifier, Origin};
use countersign_audit::tile::{self, TilePath};
use countersign_audit::{Record, proof};
use countersign_policy::Pdp;
use countersign_proto::acme::{SignedRequest, TpmStatement, parse_attestation_payload};
use countersign_proto::approval::ApprovalObject;
use countersign_proto::attestation_client::{self, AttestationExpectation};
use countersign_proto::cbor::Item;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::dpop::{self, DpopExpectation};
use countersign_proto::id::{AgentId, SpiffeId, ToolName, TrustDomain, UpstreamId};
use countersign_proto::jose::{Expected, KeySet, KeySource, PublicJwk, verify_compact};
use countersign_proto::json::{self, Limits, Value};
use countersign_proto::mcp::{self, RoutingHeaders};
use countersign_proto::oauth::{Acr, Form, parse_www_authenticate};
use countersign_proto::snapshot::{
    self, AgentEntry, AgentState, PolicyBundle, SignedSnapshot, SnapshotBody, ToolEntry, ToolState,
    UpstreamEntry,
};
use countersign_proto::time::Timestamp;
use countersign_proto::token::AccessTokenClaims;
use countersign_proto::tpm::{TpmsAttest, TpmsCreationData, TpmtPublic, TpmtSignature};
use countersign_proto::webauthn::{self, AssertionResponse, RegistrationResponse};
use countersign_proto::{channel, x509};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A parser under test; whether it accepted the bytes. A corpus must hold both kinds.
pub type Target = fn(&[u8]) -> bool;

/// Every parser of bytes that others send, by the name of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("acme_jws", acme_jws),
    ("acr", acr),
    ("approval_object", approval_object),
    ("attestation_client", attestation_client),
    ("attestation_object", attestation_object),
    ("cbor", cbor),
    ("channel", channel_proof),
    ("checkpoint", checkpoint),
    ("dpop", dpop_proof),
    ("entry_bundle", entry_bundle),
    ("ids", ids),
    ("json", json_document),
    ("jwk", jwk),
    ("jws", jws),
    ("mcp_headers", mcp_headers),
    ("mcp_request", mcp_request),
    ("oauth_form", oauth_form),
    ("policy_text", policy_text),
    ("record", record),
    ("snapshot", snapshot_body),
    ("spiffe_id", spiffe_id),
    ("tile_path", tile_path),
    ("tlog_proof", tlog_proof),
    ("token_claims", token_claims),
    ("tpm_attest", tpm_attest),
    ("tpm_creation", tpm_creation),
    ("tpm_public", tpm_public),
    ("tpm_signature", tpm_signature),
    ("webauthn_assertion", webauthn_assertion),
    ("webauthn_registration", webauthn_registration),
    ("www_authenticate", www_authenticate),
    ("x509_certificate", x509_certificate),
    ("x509_csr", x509_csr),
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

/// What the seeds of the corpus were made with, so that some of them are accepted.
pub mod fixed {
    use super::Timestamp;

    /// The seed of the one Ed25519 key whose signatures are genuine here.
    pub const SEED: [u8; 32] = [7; 32];
    /// The time.
    pub const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);
    /// The issuer, attester and server.
    pub const ISSUER: &str = "https://as.example";
    /// The gateway's origin.
    pub const GATEWAY: &str = "https://gw.example";
    /// The request a DPoP proof is for.
    pub const URL: &str = "https://gw.example/mcp/github";
    /// The access token that comes with it.
    pub const TOKEN: &str = "token";
    /// The TLS exporter of the connection.
    pub const EXPORTER: [u8; 32] = [9; 32];
    /// The WebAuthn challenge.
    pub const CHALLENGE: [u8; 32] = [5; 32];
    /// The key's name in key sets.
    pub const KID: &str = "k1";
    /// The audit log.
    pub const LOG: &str = "gw.example/audit";
    /// The `typ` of tokens.
    pub const TYP: &str = "at+jwt";
    /// The entry that a genuine inclusion proof is of.
    pub const ENTRY: &[u8] = b"entry";
}

static KEY: LazyLock<Option<PublicJwk>> = LazyLock::new(|| {
    let pair = Ed25519KeyPair::from_seed_unchecked(&fixed::SEED).ok()?;
    PublicJwk::from_ed25519(pair.public_key().as_ref().try_into().ok()?).ok()
});

static KEYS: LazyLock<KeySet> = LazyLock::new(|| {
    let keys = KEY.iter().map(|key| (fixed::KID.to_owned(), key.clone())).collect();
    KeySet::from_keys(keys).unwrap_or_default()
});

static LOG: LazyLock<Option<LogVerifier>> = LazyLock::new(|| {
    let key = LogKey::from_seed(&fixed::SEED).ok()?;
    Some(key.verifier(&Origin::parse(fixed::LOG).ok()?))
});

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// With a byte behind it.
fn longer(data: &[u8]) -> Vec<u8> {
    [data, &[0]].concat()
}

/// JSON that is accepted as a `T` is accepted again after printing, as the same `T`.
fn reads_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) -> Option<T> {
    let value: T = json::typed(data, &Limits::DEFAULT).ok()?;
    // Integers beyond 2^53-1 were refused while reading, so everything accepted can be printed.
    let printed = json::from_serde(&value).map(|printed| printed.to_jcs());
    let again = printed.and_then(|printed| json::typed::<T>(&printed, &Limits::OURS));
    assert_eq!(again.as_ref(), Ok(&value));
    Some(value)
}

/// What we accept, an ordinary reader understands too; canonical form is a fixed point.
pub fn json_document(data: &[u8]) -> bool {
    let Ok(value) = json::parse(data, &Limits::DEFAULT) else { return false };
    assert!(serde_json::from_slice::<serde_json::Value>(data).is_ok(), "serde_json refuses what we accept");
    let canonical = value.to_jcs();
    assert_eq!(json::parse(&canonical, &Limits::OURS).as_ref(), Ok(&value));
    assert_eq!(json::parse(&canonical, &Limits::OURS).map(|again| again.to_jcs()), Ok(canonical));
    assert_eq!(json::from_serde(&value).as_ref(), Ok(&value));
    assert!(json::typed::<serde_json::Value>(data, &Limits::DEFAULT).is_ok());
    true
}

/// An accepted key prints back to itself, with one thumbprint, and is refused with private members.
pub fn jwk(data: &[u8]) -> bool {
    let mut accepted = false;
    if let Ok(value) = json::parse(data, &Limits::DEFAULT)
        && let Ok(key) = PublicJwk::parse(&value)
    {
        accepted = true;
        let printed = key.to_value();
        let again = PublicJwk::parse(&printed);
        assert_eq!(again.as_ref(), Ok(&key));
        assert_eq!(again.map(|again| again.thumbprint()), Ok(key.thumbprint()));
        if let Value::Object(mut object) = printed {
            assert!(object.insert("d", "AA").is_ok());
            assert!(PublicJwk::parse(&Value::Object(object)).is_err(), "a private key was accepted");
        }
    }
    if let Ok(set) = KeySet::parse_jwks(data) {
        let again = KeySet::parse_jwks(set.to_jwks_json().as_bytes());
        assert!(again.is_ok_and(|again| again.iter().eq(set.iter())));
        accepted = true;
    }
    accepted
}

/// A verified token is one text: no other spelling of it verifies.
pub fn jws(data: &[u8]) -> bool {
    let Some(token) = text(data) else { return false };
    let mut accepted = false;
    for keys in [KeySource::Set(&KEYS), KeySource::Embedded] {
        let expected = Expected { typ: &[fixed::TYP], keys, max_bytes: 16 * 1024 };
        let Ok(verified) = verify_compact(token, &expected) else { continue };
        accepted = true;
        assert_eq!(verified.header.typ, fixed::TYP);
        assert_eq!(
            token.split('.').nth(1),
            Some(countersign_proto::b64::url_encode(&verified.payload).as_str())
        );
        let other = Expected { typ: &["other"], ..expected };
        assert!(verify_compact(token, &other).is_err());
        for spelling in [format!("{token}="), format!("{token}."), format!(" {token}"), token.to_uppercase()]
        {
            assert!(spelling == token || verify_compact(&spelling, &expected).is_err(), "{spelling}");
        }
    }
    accepted
}

/// A proof that verifies is for this request, token and time only.
pub fn dpop_proof(data: &[u8]) -> bool {
    let Some(proof) = text(data) else { return false };
    let expected = DpopExpectation {
        method: "POST",
        url: fixed::URL,
        now: fixed::NOW,
        max_age_secs: 60,
        max_skew_secs: 5,
        access_token: Some(fixed::TOKEN),
        nonce: None,
    };
    let accepted = dpop::verify(proof, &expected).is_ok();
    if accepted {
        let others = [
            DpopExpectation { method: "GET", ..expected },
            DpopExpectation { url: fixed::GATEWAY, ..expected },
            DpopExpectation { now: fixed::NOW.plus_secs(200), ..expected },
            DpopExpectation { now: fixed::NOW.plus_secs(-200), ..expected },
            DpopExpectation { access_token: Some("other"), ..expected },
            DpopExpectation { nonce: Some("nonce"), ..expected },
        ];
        let refused = others.iter().filter(|other| dpop::verify(proof, other).is_err()).count();
        // A proof may carry a nonce that happens to be the one of the last case; everything else must be refused.
        assert!(refused >= others.len() - 1);
    }
    accepted
}

/// A proof that verifies is for this connection only.
pub fn channel_proof(data: &[u8]) -> bool {
    let Some(proof) = text(data) else { return false };
    let accepted = channel::verify(proof, &fixed::EXPORTER, fixed::GATEWAY, fixed::NOW).is_ok();
    if accepted {
        assert!(channel::verify(proof, &[0; 32], fixed::GATEWAY, fixed::NOW).is_err());
        assert!(channel::verify(proof, &fixed::EXPORTER, fixed::ISSUER, fixed::NOW).is_err());
    }
    accepted
}

/// Two lines: a client attestation and its proof of possession.
pub fn attestation_client(data: &[u8]) -> bool {
    let Some((attestation, pop)) = text(data).and_then(|text| text.split_once('\n')) else { return false };
    let expected =
        AttestationExpectation { attester: fixed::ISSUER, keys: &KEYS, now: fixed::NOW, max_age_secs: 300 };
    let Ok(verified) = attestation_client::verify_attestation(attestation, &expected) else { return false };
    let client = verified.client().clone();
    let pop = attestation_client::verify_pop(pop, verified, fixed::ISSUER, fixed::NOW);
    pop.is_ok_and(|here| {
        assert_eq!(here.attestation().client(), &client);
        true
    })
}

/// What was read is written as it was.
pub fn cbor(data: &[u8]) -> bool {
    let Ok(item) = Item::parse(data) else { return false };
    assert_eq!(Item::parse(&item.to_bytes()).as_ref(), Ok(&item));
    assert!(Item::parse(&longer(data)).is_err(), "a trailing byte was accepted");
    true
}

/// What was read is written byte for byte as it was.
pub fn tpm_public(data: &[u8]) -> bool {
    let Ok(public) = TpmtPublic::parse(data) else { return false };
    assert_eq!(public.to_bytes().as_deref(), Ok(data));
    let _ = countersign_proto::tpm::p256_point(&public);
    true
}

/// What was read is written byte for byte as it was.
pub fn tpm_attest(data: &[u8]) -> bool {
    let Ok(attest) = TpmsAttest::parse(data) else { return false };
    assert_eq!(attest.to_bytes().as_deref(), Ok(data));
    true
}

/// What was read is written byte for byte as it was.
pub fn tpm_creation(data: &[u8]) -> bool {
    let Ok(creation) = TpmsCreationData::parse(data) else { return false };
    assert_eq!(creation.to_bytes().as_deref(), Ok(data));
    true
}

/// What was read is written byte for byte as it was.
pub fn tpm_signature(data: &[u8]) -> bool {
    let Ok(signature) = TpmtSignature::parse(data) else { return false };
    assert_eq!(signature.to_bytes().as_deref(), Ok(data));
    let _ = signature.to_p256_fixed();
    true
}

/// A certificate has no bytes behind it.
pub fn x509_certificate(data: &[u8]) -> bool {
    let longer = longer(data);
    let leaf = x509::parse_der(data);
    if let Ok(facts) = &leaf {
        assert!(x509::parse_der(&longer).is_err(), "a trailing byte was accepted");
        let _ = (facts.is_valid_at(fixed::NOW), facts.p256_jwk());
    }
    let endorsement = x509::parse_endorsement_der(data).is_ok();
    assert!(!endorsement || x509::parse_endorsement_der(&longer).is_err(), "a trailing byte was accepted");
    leaf.is_ok() || endorsement
}

/// A request has no bytes behind it, and its key is a key.
pub fn x509_csr(data: &[u8]) -> bool {
    let Ok(facts) = x509::parse_csr_der(data) else { return false };
    assert_eq!(PublicJwk::parse(&facts.public.to_value()), Ok(facts.public));
    assert!(x509::parse_csr_der(&longer(data)).is_err(), "a trailing byte was accepted");
    true
}

/// A verified request is for the URL it was signed for.
pub fn acme_jws(data: &[u8]) -> bool {
    let embedded = SignedRequest::parse(data).and_then(|request| request.verify_embedded(fixed::URL));
    if let Ok(verified) = &embedded {
        assert_eq!(verified.url(), fixed::URL);
        let other = SignedRequest::parse(data).and_then(|request| request.verify_embedded(fixed::GATEWAY));
        assert!(other.is_err());
    }
    let Ok(request) = SignedRequest::parse(data) else { return false };
    let account = KEY.as_ref().is_some_and(|key| request.verify_account(fixed::URL, key).is_ok());
    assert!(!account || embedded.is_err(), "a request is by its own key or by an account's");
    account || embedded.is_ok()
}

/// A statement prints back to itself; also inside the payload of a challenge response.
pub fn attestation_object(data: &[u8]) -> bool {
    let statement = TpmStatement::parse(data).or_else(|_| parse_attestation_payload(data));
    let Ok(statement) = statement else { return false };
    assert_eq!(TpmStatement::parse(&statement.to_bytes()).as_ref(), Ok(&statement));
    true
}

fn expectation() -> webauthn::Expectation<'static> {
    webauthn::Expectation { rp_id: "gw.example", origin: fixed::GATEWAY, challenge: &fixed::CHALLENGE }
}

/// A registration for us is for nobody else.
pub fn webauthn_registration(data: &[u8]) -> bool {
    let Some(response) = reads_back::<RegistrationResponse>(data) else { return false };
    let _ = webauthn::signed_challenge(&response.client_data);
    let accepted = webauthn::verify_registration(&response, &expectation()).is_ok();
    if accepted {
        let other = webauthn::Expectation { challenge: &[0; 32], ..expectation() };
        assert!(webauthn::verify_registration(&response, &other).is_err());
        let other = webauthn::Expectation { origin: fixed::ISSUER, ..expectation() };
        assert!(webauthn::verify_registration(&response, &other).is_err());
    }
    accepted
}

/// Two lines: a registration, and an assertion by what it registered. A changed assertion is refused.
pub fn webauthn_assertion(data: &[u8]) -> bool {
    let Some(border) = data.iter().position(|byte| *byte == b'\n') else { return false };
    let Some(registration) = reads_back::<RegistrationResponse>(&data[..border]) else { return false };
    let Some(assertion) = reads_back::<AssertionResponse>(&data[border + 1..]) else { return false };
    let Ok(credential) = webauthn::verify_registration(&registration, &expectation()) else { return false };
    let accepted = webauthn::verify_assertion(&assertion, &expectation(), &credential).is_ok();
    if accepted {
        let mut wrong = assertion.clone();
        if let Some(byte) = wrong.authenticator_data.last_mut() {
            *byte ^= 1;
        }
        assert!(webauthn::verify_assertion(&wrong, &expectation(), &credential).is_err());
    }
    accepted
}

/// What goes upstream is read there as what was judged here.
pub fn mcp_request(data: &[u8]) -> bool {
    let headers = RoutingHeaders::default();
    let Ok(request) = mcp::parse_request(data, &headers, &Limits::DEFAULT) else { return false };
    let upstream = request.to_upstream_bytes();
    let again = mcp::parse_request(&upstream, &headers, &Limits::OURS);
    assert_eq!(again.as_ref(), Ok(&request));
    if let Ok(call) = request.tool_call() {
        assert_eq!(again.and_then(|again| again.tool_call()), Ok(call));
    }
    true
}

/// Header lines (`name: value`), an empty line, and a body that they must mirror.
pub fn mcp_headers(data: &[u8]) -> bool {
    let Some(border) = data.windows(2).position(|two| two == b"\n\n") else { return false };
    let lines = data[..border].split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((text(&line[..colon])?, line[colon + 1..].trim_ascii_start()))
    });
    let Ok(headers) = RoutingHeaders::collect(lines) else { return false };
    let body = &data[border + 2..];
    let Ok(request) = mcp::parse_request(body, &headers, &Limits::DEFAULT) else { return false };
    // The headers we would write for the request are headers the request is accepted with.
    let mirrored = request.mirrored_headers(None);
    let version = ("mcp-protocol-version", request.version().as_str().as_bytes());
    let lower: Vec<(String, &str)> =
        mirrored.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.as_str())).collect();
    let lines = lower.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let named = lower.iter().any(|(name, _)| name == version.0);
    let headers = RoutingHeaders::collect(lines.chain((!named).then_some(version)));
    let upstream = request.to_upstream_bytes();
    let again = headers.and_then(|headers| mcp::parse_request(&upstream, &headers, &Limits::OURS));
    assert_eq!(again.as_ref(), Ok(&request));
    true
}

/// A form prints back to itself.
pub fn oauth_form(data: &[u8]) -> bool {
    let Ok(form) = Form::parse(data) else { return false };
    let pairs: Vec<(&str, &str)> = form.names().filter_map(|name| Some((name, form.get(name)?))).collect();
    let printed = Form::encode(&pairs);
    let again = Form::parse(printed.as_bytes());
    assert!(again.is_ok(), "the printed form is refused: {printed}");
    assert!(again.is_ok_and(|again| {
        let same = |(name, value): &(&str, &str)| again.get(name) == Some(*value);
        again.names().eq(form.names()) && pairs.iter().all(same)
    }));
    true
}

/// A challenge prints back to itself.
pub fn www_authenticate(data: &[u8]) -> bool {
    let Some(challenge) = text(data).and_then(|text| parse_www_authenticate(text).ok()) else { return false };
    assert_eq!(parse_www_authenticate(&challenge.to_header()), Ok(challenge));
    true
}

/// One class, one name.
pub fn acr(data: &[u8]) -> bool {
    let Some(text) = text(data) else { return false };
    let (long, short) = (Acr::parse(text), Acr::parse_short(text));
    assert!(long.is_err() || short.is_err());
    assert!(long.as_ref().is_ok_and(|acr| acr.to_string() == text) || long.is_err());
    assert!(short.as_ref().is_ok_and(|acr| acr.short() == text) || short.is_err());
    long.is_ok() || short.is_ok()
}

/// One line of lease, then the body. Bodies are also read without a lease.
pub fn snapshot_body(data: &[u8]) -> bool {
    let border = data.iter().position(|byte| *byte == b'\n');
    let (lease, body) = border.map_or((&data[..0], data), |at| (&data[..at], &data[at + 1..]));
    let readable = reads_back::<SnapshotBody>(body).is_some();
    if let (Some(key), Some(lease)) = (KEY.as_ref(), text(lease)) {
        let signed = SignedSnapshot { body: body.into(), lease: lease.to_owned() };
        if let Ok(opened) = snapshot::open(&signed, key, fixed::ISSUER, fixed::NOW, 0) {
            let newer = opened.version + 1;
            assert!(snapshot::open(&signed, key, fixed::ISSUER, fixed::NOW, newer).is_err());
            assert!(snapshot::open(&signed, key, fixed::ISSUER, fixed::NOW.plus_secs(3600), 0).is_err());
        }
    }
    readable
}

/// Claims print back to themselves.
pub fn token_claims(data: &[u8]) -> bool {
    reads_back::<AccessTokenClaims>(data).is_some()
}

/// What a person signs has one canonical form.
pub fn approval_object(data: &[u8]) -> bool {
    let Some(object) = reads_back::<ApprovalObject>(data) else { return false };
    let digest = object.to_jcs().map(|bytes| *Sha256Digest::of(&bytes).as_bytes());
    assert_eq!(object.challenge(), digest);
    true
}

/// One identity, one text.
pub fn spiffe_id(data: &[u8]) -> bool {
    let Some(text) = text(data) else { return false };
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.as_str(), text);
        let rebuilt = if id.path().is_empty() {
            format!("spiffe://{}", id.trust_domain())
        } else {
            format!("spiffe://{}/{}", id.trust_domain(), id.path())
        };
        assert_eq!(rebuilt, text);
    }
    let domain = TrustDomain::parse(text);
    assert!(domain.as_ref().is_ok_and(|domain| domain.as_str() == text) || domain.is_err());
    SpiffeId::parse(text).is_ok() || domain.is_ok()
}

/// One name, one text.
pub fn ids(data: &[u8]) -> bool {
    let Some(text) = text(data) else { return false };
    let (agent, tool, upstream) = (AgentId::parse(text), ToolName::parse(text), UpstreamId::parse(text));
    if let Ok(id) = &agent {
        assert_eq!(id.as_str(), text);
        assert_eq!(AgentId::from_client_id(&id.client_id()).as_ref(), Ok(id));
    }
    if let Ok(name) = &tool {
        assert_eq!(name.as_str(), text);
        assert!(!text.is_empty() && text.is_ascii());
    }
    if let Ok(id) = &upstream {
        assert_eq!(id.as_str(), text);
    }
    agent.is_ok() || tool.is_ok() || upstream.is_ok()
}

/// A checkpoint that opens is the one that was signed; a verifier key has one text.
pub fn checkpoint(data: &[u8]) -> bool {
    let opened = LOG.as_ref().and_then(|verifier| note::open(data, verifier).ok());
    if let Some(opened) = &opened {
        assert!(data.starts_with(opened.to_body().as_bytes()));
        assert_eq!(opened.origin.as_str(), fixed::LOG);
    }
    let Some(text) = text(data) else { return false };
    let (body, verifier) = (Checkpoint::parse_body(text), LogVerifier::parse(text));
    assert!(body.as_ref().is_ok_and(|body| body.to_body() == text) || body.is_err());
    assert!(verifier.as_ref().is_ok_and(|verifier| verifier.to_string() == text) || verifier.is_err());
    opened.is_some() || body.is_ok() || verifier.is_ok()
}

/// A proof proves its entry and no other.
pub fn tlog_proof(data: &[u8]) -> bool {
    let (Some(text), Some(verifier)) = (text(data), LOG.as_ref()) else { return false };
    let accepted = proof::check(text, fixed::ENTRY, verifier).is_ok();
    assert!(!accepted || proof::check(text, b"another", verifier).is_err());
    accepted
}

/// One byte of width, then the bundle: it prints back to itself.
pub fn entry_bundle(data: &[u8]) -> bool {
    let Some((width, bundle)) = data.split_first() else { return false };
    let width = u16::from(*width) + 1;
    let entries = tile::decode_entries(bundle, width);
    if let Ok(entries) = &entries {
        let mut again = Vec::new();
        assert!(entries.iter().all(|entry| tile::push_entry(&mut again, entry).is_ok()));
        assert_eq!(again, bundle);
    }
    let hashes = tile::decode_hashes(bundle, width);
    if let Ok(hashes) = &hashes {
        assert_eq!(tile::encode_hashes(hashes), bundle);
    }
    entries.is_ok() || hashes.is_ok()
}

/// One tile, one path.
pub fn tile_path(data: &[u8]) -> bool {
    let read = text(data).and_then(|text| Some((text, TilePath::parse(text).ok()?)));
    let Some((text, path)) = read else { return false };
    assert_eq!(path.to_string(), text);
    assert!((1..=256).contains(&path.width()));
    true
}

/// A record is its bytes.
pub fn record(data: &[u8]) -> bool {
    let Ok((record, members)) = Record::parse(data) else { return false };
    assert_eq!(record.bytes(), data);
    assert_eq!(members.to_jcs(), data);
    true
}

/// Policies as an administrator would send them, for one agent and one upstream.
pub fn policy_text(data: &[u8]) -> bool {
    let Some(cedar) = text(data) else { return false };
    let bundle = PolicyBundle { revision: 1, cedar: cedar.to_owned(), digest: Sha256Digest::of(data) };
    let Some((agents, upstreams)) = WORLD.as_ref() else { return false };
    let accepted = Pdp::compile(&bundle, agents, upstreams).is_ok();
    let wrong = PolicyBundle { digest: Sha256Digest::of(b"other"), ..bundle };
    assert!(!accepted || Pdp::compile(&wrong, agents, upstreams).is_err(), "the digest was not compared");
    accepted
}

type World = (BTreeMap<AgentId, AgentEntry>, BTreeMap<UpstreamId, UpstreamEntry>);

static WORLD: LazyLock<Option<World>> = LazyLock::new(|| {
    let agent = AgentEntry {
        state: AgentState::Active,
        generation: 0,
        groups: vec!["builders".to_owned()],
        sponsor: countersign_proto::id::PersonId::parse("ada").ok()?,
    };
    let schema = br#"{"type":"object","properties":{"repo":{"type":"string"},"count":{"type":"integer"}}}"#;
    let tool = ToolEntry {
        digest: Sha256Digest::of(b"tool"),
        state: ToolState::Pinned,
        input_schema: json::parse(schema, &Limits::DEFAULT).ok()?,
    };
    let tools = [(ToolName::parse("issues.create").ok()?, tool)].into();
    let upstream = UpstreamEntry { resource: fixed::URL.to_owned(), tools };
    Some((
        [(AgentId::parse("build-bot").ok()?, agent)].into(),
        [(UpstreamId::parse("github").ok()?, upstream)].into(),
    ))
});
