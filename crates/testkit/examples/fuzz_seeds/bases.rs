//! Inputs by hand: for each target some that are accepted, and the spellings that have hurt others.

use std::error::Error;

use aws_lc_rs::signature::Ed25519KeyPair;
use countersign_audit::note::{Checkpoint, LogKey, Origin};
use countersign_audit::tree::{self, Hash};
use countersign_audit::{Kind, Record};
use countersign_proto::acme::{self, TpmStatement};
use countersign_proto::attestation_client::{self, Attestation, MachineClaim};
use countersign_proto::cbor::Item;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{AgentId, MachineId, SpiffeId, TrustDomain};
use countersign_proto::jose::{JwsSigner as _, SoftwareEd25519, SoftwareP256, sign_compact};
use countersign_proto::json::Value;
use countersign_proto::tpm::{
    Attested, ClockInfo, HashAlg, PcrSelection, TpmsAttest, TpmsCreationData, TpmtSignature,
    ak_p256_template, ek_rsa2048_template, machine_key_p256_template, srk_p256_template,
};
use countersign_proto::webauthn::software::SoftwareAuthenticator;
use countersign_proto::{channel, dpop, snapshot};
use countersign_testkit::fuzz::fixed;

type Bases = Vec<(&'static str, Vec<u8>)>;

pub fn of(target: &str) -> Result<Bases, Box<dyn Error>> {
    Ok(match target {
        "acme_jws" => acme_jws()?,
        "acr" => texts(&[
            "urn:countersign:acr:e3u2",
            "e0u0",
            "e4u3",
            "e5u0",
            "E3U2",
            "e3u2 ",
            "urn:countersign:acr:",
            "e03u2",
        ]),
        "approval_object" => texts(&[
            APPROVAL,
            &APPROVAL.replace("once", "forever"),
            &APPROVAL.replace("/v1", "/v2"),
            &twice(APPROVAL),
        ]),
        "attestation_client" => attestation_client()?,
        "attestation_object" => attestation_object()?,
        "cbor" => cbor(),
        "channel" => proofs(channel::prove(&signer()?, &fixed::EXPORTER, fixed::GATEWAY, fixed::NOW)?)?,
        "checkpoint" => checkpoint()?,
        "dpop" => proofs(dpop::prove(
            &signer()?,
            "POST",
            fixed::URL,
            Some(fixed::TOKEN),
            None,
            "jti-1",
            fixed::NOW,
        )?)?,
        "entry_bundle" => vec![
            ("two", b"\x01\0\x03one\0\0".to_vec()),
            ("hash", [&[0][..], &[7; 32]].concat()),
            ("lying-length", b"\0\xff\xffx".to_vec()),
            ("full", [&[255][..], &[0; 512]].concat()),
        ],
        "ids" => texts(&[
            "build-bot",
            "agent:build-bot",
            "-bot",
            "Bot",
            "bot\u{0}",
            "ｂot",
            "a.b_c-D",
            &"a".repeat(64),
            "user:ada",
            "..",
        ]),
        "json" => json(),
        "jwk" => jwk()?,
        "jws" => proofs(sign_compact(
            &signer()?,
            fixed::TYP,
            &[("kid", Value::from(fixed::KID))],
            b"{\"iss\":\"x\"}",
        )?)?,
        "mcp_headers" => texts(&[
            MCP_HEADERS,
            &MCP_HEADERS.replace("issues.create\n", "=?base64?aXNzdWVzLmNyZWF0ZQ==?=\n"),
            &MCP_HEADERS.replace("issues.create\n", "issues.delete\n"),
            &MCP_HEADERS.replace("mcp-method", "mcp-name: issues.create\nmcp-method"),
            &MCP_HEADERS.replace("2026-07-28", "2025-11-25"),
            "mcp-param-x: =?base64?!?=\n\n{}",
        ]),
        "mcp_request" => texts(&[
            MCP,
            MCP_LIST,
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            &MCP.replace("tools/call", "Tools/Call"),
            &MCP.replace("\"name\"", "\"Name\":\"x\",\"name\""),
            &MCP.replace("\"id\":1", "\"id\":1.5"),
            &MCP.replace("\"id\":1", "\"id\":null"),
            &format!("[{MCP}]"),
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        ]),
        "oauth_form" => texts(&[
            "grant_type=client_credentials&resource=https%3A%2F%2Fgw.example%2Fmcp",
            "a=1&a=2",
            "a=1&&b=2",
            "a=%zz",
            "a=%00",
            "a=+&b=%2B",
            "=1",
            "a",
            "a=%F0%9F%98%80",
            "a=%C0%80",
            "a=",
            "%61=1",
        ]),
        "policy_text" => texts(&[
            POLICY,
            POLICY_FORBID,
            &POLICY.replace("Agent::", "User::"),
            &POLICY_FORBID.replace("approval", "e9u9"),
            &POLICY_FORBID.replace("approval", "approval,approval"),
            &format!("{POLICY}{POLICY}"),
            "permit(principal, action, resource);",
            "permit(principal, action, resource) when { context.args.repo == 1 };",
            &format!(
                "permit(principal,action,resource) when {{ {}true{} }};",
                "(".repeat(300),
                ")".repeat(300)
            ),
        ]),
        "record" => record()?,
        "snapshot" => snapshot_seeds()?,
        "spiffe_id" => texts(&[
            "spiffe://td/machine/m-1",
            "spiffe://td",
            "spiffe://td/",
            "spiffe://td//a",
            "spiffe://td/a/../b",
            "spiffe://TD/a",
            "SPIFFE://td/a",
            "spiffe://td/a?b",
            "spiffe://td/a#b",
            "spiffe://td:1/a",
            "spiffe://u@td/a",
            "spiffe://td/a%2fb",
            "spiffe:///a",
            "spiffe://td/./a",
            "td",
            "spiffe://td/a\u{e4}",
        ]),
        "tile_path" => texts(&[
            "tile/0/000",
            "tile/0/x001/x234/067",
            "tile/entries/001.p/44",
            "tile/63/000",
            "tile/64/000",
            "tile/0/000.p/256",
            "tile/0/x000/001",
            "tile/0/x018/x446/x744/x073/x709/x551/616",
            "tile/-1/000",
            "tile/0/000.p/0",
        ]),
        "tlog_proof" => tlog_proof()?,
        "token_claims" => texts(&[
            CLAIMS,
            &CLAIMS.replace("\"acr\"", "\"admin\":true,\"acr\""),
            &CLAIMS.replace("\"eq\":\"acme/web\"", "\"eq\":\"acme/web\",\"prefix\":\"a\""),
            &CLAIMS.replace("\"min_lvl\":3", "\"min_lvl\":300"),
            &twice(CLAIMS),
        ]),
        "tpm_attest" => tpm_attest()?,
        "tpm_creation" => tpm_creation()?,
        "tpm_public" => vec![
            ("ek", ek_rsa2048_template()),
            ("ak", ak_p256_template()),
            ("srk", srk_p256_template()),
            ("machine", machine_key_p256_template()),
            ("long-policy", [&ak_p256_template()[..8], &[0xff, 0xff]].concat()),
        ],
        "tpm_signature" => tpm_signature()?,
        "webauthn_assertion" => webauthn(true)?,
        "webauthn_registration" => webauthn(false)?,
        "www_authenticate" => texts(&[
            r#"DPoP error="invalid_token", error_description="expired""#,
            r#"DPoP error="insufficient_user_authentication", acr_values="urn:countersign:acr:e3u2", max_age="30""#,
            r#"Bearer a="\"\\", b=c"#,
            r#"Bearer a="1", a="2""#,
            "Bearer",
            "Bearer ",
            "Bearer a",
            r#"Bearer a="1" , , b=2"#,
            r#"Bearer a="unclosed"#,
            r#"Basic realm="x", DPoP algs="ES256""#,
            "Bearer dG9rZW4=",
        ]),
        "x509_certificate" => certificate()?,
        "x509_csr" => request()?,
        other => return Err(format!("no seeds for target {other}").into()),
    })
}

const NAMES: [&str; 16] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"];

fn texts(texts: &[&str]) -> Bases {
    NAMES.into_iter().zip(texts).map(|(name, text)| (name, text.as_bytes().to_vec())).collect()
}

/// The first member twice.
fn twice(object: &str) -> String {
    let end = object.find(',').unwrap_or(object.len());
    format!("{},{}", &object[..end], &object[1..])
}

fn signer() -> Result<SoftwareEd25519, Box<dyn Error>> {
    let pair = Ed25519KeyPair::from_seed_unchecked(&fixed::SEED)?;
    Ok(SoftwareEd25519::from_pkcs8(pair.to_pkcs8()?.as_ref())?)
}

/// A genuine proof and what is done to proofs.
fn proofs(genuine: String) -> Result<Bases, Box<dyn Error>> {
    let parts: Vec<&str> = genuine.split('.').collect();
    let [header, payload, signature] = parts[..] else { return Err("not a compact JWS".into()) };
    let encode = countersign_proto::b64::url_encode;
    let none = encode(br#"{"alg":"none","typ":"dpop+jwt"}"#);
    let hmac = encode(br#"{"alg":"HS256","typ":"at+jwt","kid":"k1"}"#);
    let crit = encode(br#"{"alg":"EdDSA","crit":["b64"],"b64":false,"typ":"at+jwt","kid":"k1"}"#);
    let double = encode(br#"{"alg":"EdDSA","alg":"none","typ":"at+jwt"}"#);
    Ok(texts(&[
        &genuine,
        &format!("{none}.{payload}."),
        &format!("{hmac}.{payload}.{signature}"),
        &format!("{crit}.{payload}.{signature}"),
        &format!("{double}.{payload}.{signature}"),
        &format!("{header}.{payload}.{signature}.{signature}"),
        &format!("{header}.{payload}.{signature}="),
        &format!("{header}..{signature}"),
        &format!("{header}.{payload}"),
        "..",
    ]))
}

fn json() -> Bases {
    let deep = "[".repeat(65) + &"]".repeat(65);
    let mut bases = texts(&[
        r#"{"a":[1,-0,1e3,1000.0,0.5,1E-7],"b":{"\u00e9":"\ud83d\ude00"},"c":null,"d":true}"#,
        r#"{"a":1,"a":2}"#,
        r#"{"a":1,"A":2}"#,
        r#"{"a":1,"\u0061":2}"#,
        r#"{"\u0000":1}"#,
        r#"["\ud800"]"#,
        "[1e400]",
        "[9007199254740993]",
        "[1e20]",
        "[01]",
        "{} {}",
        "[1,]",
        "// comment\n1",
        &deep,
        "[1.0000000000000001,5e-324,-1.7976931348623157e308]",
        r#"{"a":"\ufdd0"}"#,
    ]);
    bases.push(("bom", b"\xef\xbb\xbf{}".to_vec()));
    bases.push(("utf8", b"\"\xc0\x80\"".to_vec()));
    bases
}

fn jwk() -> Result<Bases, Box<dyn Error>> {
    let p256 = String::from_utf8(SoftwareP256::generate()?.public_jwk().to_value().to_jcs())?;
    let ed25519 = String::from_utf8(signer()?.public_jwk().to_value().to_jcs())?;
    let named = ed25519.replacen('{', r#"{"kid":"k1","#, 1);
    Ok(texts(&[
        &p256,
        &ed25519,
        &format!(r#"{{"keys":[{named}]}}"#),
        &format!(r#"{{"keys":[{named},{named}]}}"#),
        &ed25519.replacen('{', r#"{"d":"AA","#, 1),
        &ed25519.replacen('{', r#"{"use":"enc","#, 1),
        r#"{"kty":"oct","k":"AA"}"#,
        r#"{"kty":"RSA","alg":"RS256","n":"AQ","e":"AQAB"}"#,
        r#"{"kty":"EC","crv":"P-256","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#,
    ]))
}

fn attestation_client() -> Result<Bases, Box<dyn Error>> {
    let (agent, machine) = (AgentId::parse("build-bot")?, MachineId::parse("m-1")?);
    let key = signer()?;
    let claim = MachineClaim {
        sub: SpiffeId::machine(&TrustDomain::parse("td")?, &machine),
        id: machine,
        lvl: 3,
        att_time: fixed::NOW.unix_secs(),
        att_exp: fixed::NOW.plus_secs(300).unix_secs(),
        reference: "pcr-policy@v1".to_owned(),
        ev: Sha256Digest::of(b"evidence"),
    };
    let attestation = Attestation {
        issuer: fixed::ISSUER,
        client: &agent,
        machine_key: &key.public_jwk(),
        machine: &claim,
        now: fixed::NOW,
        expires_at: fixed::NOW.plus_secs(300),
    };
    let attested = attestation_client::prove_attestation(&key, fixed::KID, &attestation)?;
    let pop = attestation_client::prove_pop(&key, &agent, fixed::ISSUER, "challenge", "jti-1", fixed::NOW)?;
    Ok(texts(&[
        &format!("{attested}\n{pop}"),
        &format!("{attested}\n{attested}"),
        &format!("{pop}\n{pop}"),
        &format!("{attested}\n"),
        &format!("{attested}~{pop}"),
    ]))
}

fn acme_jws() -> Result<Bases, Box<dyn Error>> {
    let key = signer()?;
    let embedded = acme::sign_request(&key, None, "bm9uY2U", fixed::URL, b"{}")?;
    let account = acme::sign_request(&key, Some("https://as.example/acct/1"), "bm9uY2U", fixed::URL, b"")?;
    let text = String::from_utf8(embedded.clone())?;
    Ok(vec![
        ("embedded", embedded),
        ("account", account),
        ("unprotected", text.replacen('{', r#"{"header":{},"#, 1).into_bytes()),
        ("two-signatures", text.replacen('{', r#"{"signatures":[],"#, 1).into_bytes()),
        ("twice", twice(&text).into_bytes()),
    ])
}

fn attestation_object() -> Result<Bases, Box<dyn Error>> {
    let statement = TpmStatement {
        alg: -7,
        x5c: vec![certificate_der()?],
        sig: ecdsa().to_bytes()?,
        cert_info: certify().to_bytes()?,
        pub_area: machine_key_p256_template(),
    };
    let empty = TpmStatement { x5c: Vec::new(), ..statement.clone() };
    let none = Item::map([("fmt", Item::Text("none".to_owned())), ("attStmt", Item::Map(Vec::new()))]);
    Ok(vec![
        ("tpm", statement.to_bytes()),
        ("no-chain", empty.to_bytes()),
        ("none", none.to_bytes()),
        ("payload", acme::attestation_payload(&statement)),
    ])
}

fn cbor() -> Bases {
    let item = Item::map([
        ("uint", Item::Uint(u64::MAX)),
        ("neg", Item::Neg(-25)),
        ("list", Item::Array(vec![Item::Bool(true), Item::Null, Item::Bytes(vec![1, 2, 3])])),
    ]);
    vec![
        ("map", item.to_bytes()),
        ("indefinite", b"\xbf\xff".to_vec()),
        ("twin-keys", b"\xa2\x01\x00\x01\x00".to_vec()),
        ("long-form", b"\x18\x01".to_vec()),
        ("huge-length", b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()),
        ("huge-array", b"\x9a\xff\xff\xff\xff".to_vec()),
        ("deep", [0x81; 40].to_vec()),
        ("lowest", b"\x3b\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()),
        ("tag", b"\xc0\x00".to_vec()),
        ("float", b"\xfb\x7f\xf8\0\0\0\0\0\0".to_vec()),
        ("utf8", b"\x62\xc0\x80".to_vec()),
    ]
}

fn log_key() -> Result<(LogKey, Origin), Box<dyn Error>> {
    Ok((LogKey::from_seed(&fixed::SEED)?, Origin::parse(fixed::LOG)?))
}

fn checkpoint() -> Result<Bases, Box<dyn Error>> {
    let (key, origin) = log_key()?;
    let verifier = key.verifier(&origin).to_string();
    let checkpoint = Checkpoint { origin, size: 42, root: Hash::of(b"root") };
    let note = key.sign(&checkpoint);
    Ok(texts(&[
        &note,
        &checkpoint.to_body(),
        &verifier,
        &format!("{note}\u{2014} witness.example AAAAAAAA\n"),
        &note.replace("\n42\n", "\n042\n"),
        &note.replace('\u{2014}', "-"),
        &note.replace('\n', "\r\n"),
        &"\u{2014} a AAAAAAAA\n".repeat(70),
    ]))
}

fn tlog_proof() -> Result<Bases, Box<dyn Error>> {
    let (key, origin) = log_key()?;
    let (leaf, other) = (tree::leaf_hash(fixed::ENTRY), tree::leaf_hash(b"other"));
    // A checkpoint prints a hash the way a proof does.
    let printed = Checkpoint { origin: origin.clone(), size: 1, root: other }.to_body();
    let sibling = printed.lines().nth(2).unwrap_or_default().to_owned();
    let note = key.sign(&Checkpoint { origin, size: 2, root: tree::node_hash(&leaf, &other) });
    let proof = format!("{}\nindex 0\n{sibling}\n\n{note}", countersign_audit::proof::PROOF_HEADER);
    Ok(texts(&[
        &proof,
        &proof.replace("index 0", "extra aGk=\nindex 0"),
        &proof.replace("index 0", "index 18446744073709551615"),
        &proof.replace("index 0", "index 00"),
        &proof.replace(&sibling, &vec![sibling.clone(); 70].join("\n")),
        &proof.replace("\n\n", "\n"),
    ]))
}

fn record() -> Result<Bases, Box<dyn Error>> {
    let record = Record::new(Kind::Intent, fixed::NOW, [1; 16])
        .decision(&countersign_proto::id::DecisionId::parse("dec_1")?)
        .with("agent", "build-bot")
        .build()?;
    let text = String::from_utf8(record.into_bytes())?;
    Ok(texts(&[
        &text,
        &text.replace("intent", "permit"),
        &text.replace("\"v\":1", "\"v\":1.0"),
        &twice(&text),
        &text.replace("dec_1", "apr_1"),
        &text.replace(':', ": "),
    ]))
}

fn snapshot_seeds() -> Result<Bases, Box<dyn Error>> {
    let digest = Sha256Digest::of(POLICY.as_bytes());
    let body = SNAPSHOT.replace("DIGEST", &digest.b64()).replace("CEDAR", "");
    let read: snapshot::SnapshotBody = serde_json::from_str(&body)?;
    let sealed = snapshot::SignedSnapshot::seal(&read, &signer()?, fixed::NOW, 10_000)?;
    let genuine = [sealed.lease.as_bytes(), b"\n", &sealed.body].concat();
    let swapped = [sealed.lease.as_bytes(), b"\n", body.replace("active", "locked").as_bytes()].concat();
    let mut bases =
        texts(&[&body, &twice(&body), &body.replace("\"version\":7", "\"version\":18446744073709551615")]);
    bases.push(("sealed", genuine));
    bases.push(("swapped", swapped));
    Ok(bases)
}

fn certify() -> TpmsAttest {
    let clock_info = ClockInfo { clock: 1, reset_count: 2, restart_count: 3, safe: true };
    let name = [&[0x00, 0x0b][..], &[4; 32]].concat();
    TpmsAttest {
        qualified_signer: name.clone(),
        extra_data: vec![5; 32],
        clock_info,
        firmware_version: 6,
        attested: Attested::Certify { qualified_name: name.clone(), name },
    }
}

fn tpm_attest() -> Result<Bases, Box<dyn Error>> {
    let certify = certify();
    let pcr_select = vec![PcrSelection::of(0x000b, 0..8)?];
    let quote =
        TpmsAttest { attested: Attested::Quote { pcr_select, pcr_digest: vec![8; 32] }, ..certify.clone() };
    let mut magic = certify.to_bytes()?;
    magic[0] ^= 1;
    let mut kind = certify.to_bytes()?;
    kind[5] = 0x19;
    Ok(vec![("certify", certify.to_bytes()?), ("quote", quote.to_bytes()?), ("magic", magic), ("kind", kind)])
}

fn tpm_creation() -> Result<Bases, Box<dyn Error>> {
    let creation = TpmsCreationData {
        pcr_select: Vec::new(),
        pcr_digest: Vec::new(),
        locality: 1,
        parent_name_alg: 0x0010,
        parent_name: vec![0x40, 0, 0, 0x0b],
        parent_qualified_name: vec![0x40, 0, 0, 0x0b],
        outside_info: vec![9; 32],
    };
    let pcrs = TpmsCreationData { pcr_select: vec![PcrSelection::of(0x000b, [0, 23])?], ..creation.clone() };
    Ok(vec![
        ("primary", creation.to_bytes()?),
        ("pcrs", pcrs.to_bytes()?),
        ("many-banks", b"\xff\xff\xff\xff\0\x0b\x03\xff\xff\xff".to_vec()),
    ])
}

fn ecdsa() -> TpmtSignature {
    TpmtSignature::Ecdsa { hash: HashAlg::Sha256, r: vec![1; 32], s: vec![2; 32] }
}

fn tpm_signature() -> Result<Bases, Box<dyn Error>> {
    let rsassa = TpmtSignature::Rsassa { hash: HashAlg::Sha256, signature: vec![3; 256] };
    let short = TpmtSignature::Ecdsa { hash: HashAlg::Sha256, r: vec![1; 31], s: vec![0; 32] };
    Ok(vec![
        ("ecdsa", ecdsa().to_bytes()?),
        ("rsassa", rsassa.to_bytes()?),
        ("short", short.to_bytes()?),
        ("sha1", b"\0\x18\0\x04\0\x01\x01\0\x01\x01".to_vec()),
        ("hmac", [&b"\0\x05\0\x0b"[..], &[0; 32]].concat()),
    ])
}

fn webauthn(assertion: bool) -> Result<Bases, Box<dyn Error>> {
    let mut bases = Bases::new();
    for (name, wrong, mut authenticator) in [
        ("p256", "p256-elsewhere", SoftwareAuthenticator::p256()?),
        ("ed25519", "ed25519-elsewhere", SoftwareAuthenticator::ed25519()?),
    ] {
        for (name, origin) in [(name, fixed::GATEWAY), (wrong, "https://gw.example.evil")] {
            let registration = authenticator.register("gw.example", fixed::GATEWAY, &fixed::CHALLENGE)?;
            let mut bytes = serde_json::to_vec(&registration)?;
            if assertion {
                bytes.push(b'\n');
                let response = authenticator.assert("gw.example", origin, &fixed::CHALLENGE)?;
                bytes.extend(serde_json::to_vec(&response)?);
            } else {
                bytes =
                    serde_json::to_vec(&authenticator.register("gw.example", origin, &fixed::CHALLENGE)?)?;
            }
            bases.push((name, bytes));
        }
    }
    Ok(bases)
}

fn certificate_der() -> Result<Vec<u8>, Box<dyn Error>> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://td/machine/m-1".try_into()?)];
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    Ok(params.self_signed(&rcgen::KeyPair::generate()?)?.der().to_vec())
}

fn certificate() -> Result<Bases, Box<dyn Error>> {
    let der = certificate_der()?;
    let plain = rcgen::generate_simple_self_signed(vec!["gw.example".to_owned()])?.cert.der().to_vec();
    let long_form = [&[0x30, 0x83, 0x00][..], &der[2..]].concat();
    Ok(vec![
        ("machine", der.clone()),
        ("server", plain),
        ("long-form", long_form),
        ("behind", [&der[..], &[0]].concat()),
    ])
}

fn request() -> Result<Bases, Box<dyn Error>> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let empty = params.serialize_request(&key)?.der().to_vec();
    params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://td/machine/m-1".try_into()?)];
    let named = params.serialize_request(&key)?.der().to_vec();
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
    let other = params.serialize_request(&ed25519)?.der().to_vec();
    Ok(vec![("empty", empty), ("named", named), ("ed25519", other)])
}

const MCP: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"issues.create","arguments":{"repo":"acme/web","count":2}}}"#;
const MCP_LIST: &str = r#"{"jsonrpc":"2.0","id":"a","method":"tools/list"}"#;
const MCP_HEADERS: &str = "mcp-protocol-version: 2026-07-28\nmcp-method: tools/call\nmcp-name: issues.create\n\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"issues.create\",\"arguments\":{},\"_meta\":{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",\"io.modelcontextprotocol/clientInfo\":{\"name\":\"c\",\"version\":\"1\"},\"io.modelcontextprotocol/clientCapabilities\":{}}}}";
const POLICY: &str = "@id(\"builders\")\npermit(principal in AgentGroup::\"builders\", action in Action::\"call\", resource in Upstream::\"github\") when { context.args has repo && context.args.repo like \"acme/*\" };\n";
const POLICY_FORBID: &str = "@id(\"ask\") @requires(\"approval\")\nforbid(principal == Agent::\"build-bot\", action == Action::\"github/issues.create\", resource) unless { context.person.level >= 3 };\n";
const APPROVAL: &str = r#"{"domain":"countersign/approval/v1","id":"apr_1","call":{"upstream":"github","tool":"issues.create","arguments":{"repo":"acme/web"}},"view_hash":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","scope":"once","policy":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","agent":"build-bot","run":"run_1","machine":"m-1","task":"task_1","requester":"ada","approver":"bob","expires_at":1800000300,"nonce":"MDEyMzQ1Njc4OWFiY2RlZg"}"#;
const CLAIMS: &str = r#"{"iss":"https://as.example","aud":"https://gw.example/mcp/github","client_id":"agent:build-bot","sub":"user:ada","sid":"run_1","txn":"task_1","jti":"j","iat":1800000000,"nbf":1800000000,"exp":1800000300,"act":{"sub":"spiffe://td/agent/build-bot/run/run_1"},"cnf":{"jkt":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},"urn:countersign:env":{"sub":"spiffe://td/machine/m-1","jkt":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","lvl":3,"min_lvl":3,"att_time":1800000000,"att_exp":1800000300,"ref":"r","ev":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},"acr":"urn:countersign:acr:e3u2","auth_time":1800000000,"urn:countersign:gen":0,"authorization_details":[{"type":"urn:countersign:task","task":"task_1","purpose":"p","locations":["https://gw.example/mcp/github"],"tools":[{"name":"issues.create","args":{"repo":{"eq":"acme/web"},"count":{"max":5},"x":{"one_of":[1,"a"]}}}],"max_calls":20}]}"#;
const SNAPSHOT: &str = r#"{"version":7,"issuer":"https://as.example","trust_domain":"td","token_keys":{"keys":[]},"approval_keys":{"keys":[]},"machine_roots":[],"machines":{"m-1":{"spiffe":"spiffe://td/machine/m-1","jkt":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","state":"active","generation":0}},"agents":{"build-bot":{"state":"active","generation":1,"groups":["builders"],"sponsor":"ada"}},"revoked_runs":["run_9"],"revoked_tasks":[],"policies":{"revision":1,"cedar":"CEDAR","digest":"DIGEST"},"upstreams":{"github":{"resource":"https://gw.example/mcp/github","tools":{"issues.create":{"digest":"DIGEST","state":"pinned","input_schema":{"type":"object"}}}}}}"#;
