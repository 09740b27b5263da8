//! A TPM in software: an RSA endorsement key, an attestation key, machine keys, quotes and certifications, in the
//! structures a real one makes. Its endorsement is by allow-list.

use std::collections::BTreeMap;

use aws_lc_rs::cipher::{AES_128, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use countersign_proto::acme::{TpmStatement, attestation_digest, attestation_payload, key_authorization};
use countersign_proto::b64;
use countersign_proto::digest::Sha256Digest;
use countersign_proto::jose::{JwsSigner, PublicJwk, SoftwareP256};
use countersign_proto::tpm::{
    Attested, ClockInfo, EccPoint, HashAlg, PcrSelection, RH_ENDORSEMENT, RH_OWNER, Reader, TpmsAttest,
    TpmsCreationData, TpmtPublic, TpmtSignature, Unique, ak_p256, alg, ek_rsa2048, machine_key_p256,
};
use serde_json::{Value, json};

use super::{Answer, ClientIdentity, Harness, acme::AcmeClient, acme::path_of};

pub struct SoftTpm {
    ek: PrivateDecryptingKey,
    pub ek_public: TpmtPublic,
    pub ak: SoftwareP256,
    pub pcrs: BTreeMap<u8, [u8; 32]>,
    pub clock: ClockInfo,
}

/// The key M, where it is, and its certificate once issued.
pub struct EnrolledMachine {
    pub tpm: SoftTpm,
    pub id: String,
    pub permanent_identifier: String,
    pub key: SoftwareP256,
    pub ak_chain: Vec<Vec<u8>>,
    pub account: AcmeClient,
    pub identity: ClientIdentity,
}

/// What the attestation CA gave.
pub struct Activated {
    pub machine_id: String,
    pub permanent_identifier: String,
    pub ak_chain: Vec<Vec<u8>>,
    pub eab_kid: String,
    pub eab_key: Vec<u8>,
}

impl SoftTpm {
    pub fn new() -> Self {
        let ek = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
        let mut ek_public = ek_rsa2048();
        let spki = ek.public_key();
        let spki: aws_lc_rs::encoding::PublicKeyX509Der<'_> = spki.as_der().unwrap();
        ek_public.unique = Unique::Rsa(modulus(spki.as_ref()));
        Self {
            ek,
            ek_public,
            ak: SoftwareP256::generate().unwrap(),
            pcrs: (0..8).map(|pcr| (pcr, [pcr; 32])).collect(),
            clock: ClockInfo { clock: 1000, reset_count: 1, restart_count: 0, safe: true },
        }
    }

    /// What the allow-list holds of it.
    pub fn endorsement_digest(&self) -> Sha256Digest {
        countersign_trust::endorsement::ek_digest(&self.ek_public).unwrap()
    }

    pub fn ak_public(&self) -> TpmtPublic {
        with_point(ak_p256(), &self.ak)
    }

    fn ak_qualified_name(&self) -> Vec<u8> {
        self.ak_public().qualified_name(&RH_ENDORSEMENT.to_be_bytes())
    }

    fn attest(&self, extra_data: &[u8], attested: Attested) -> (Vec<u8>, Vec<u8>) {
        let attest = TpmsAttest {
            qualified_signer: self.ak_qualified_name(),
            extra_data: extra_data.to_vec(),
            clock_info: self.clock,
            firmware_version: 7,
            attested,
        };
        let bytes = attest.to_bytes().unwrap();
        let signature = self.sign(&bytes);
        (bytes, signature)
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let fixed = self.ak.sign(message).unwrap();
        let signature =
            TpmtSignature::Ecdsa { hash: HashAlg::Sha256, r: fixed[..32].to_vec(), s: fixed[32..].to_vec() };
        signature.to_bytes().unwrap()
    }

    pub fn creation(&self, outside: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let data = TpmsCreationData {
            pcr_select: Vec::new(),
            pcr_digest: Sha256Digest::of(b"").as_bytes().to_vec(),
            locality: 1,
            parent_name_alg: alg::NULL,
            parent_name: RH_ENDORSEMENT.to_be_bytes().to_vec(),
            parent_qualified_name: RH_ENDORSEMENT.to_be_bytes().to_vec(),
            outside_info: Vec::new(),
        };
        let data = data.to_bytes().unwrap();
        let attested = Attested::Creation {
            object_name: self.ak_public().name(),
            creation_hash: Sha256Digest::of(&data).as_bytes().to_vec(),
        };
        let (attest, signature) = self.attest(Sha256Digest::of(outside).as_bytes(), attested);
        (data, attest, signature)
    }

    pub fn quote(&mut self, nonce: &[u8]) -> (Vec<u8>, Vec<u8>) {
        self.clock.clock += 1;
        let values: Vec<u8> = self.pcrs.values().flatten().copied().collect();
        let attested = Attested::Quote {
            pcr_select: vec![PcrSelection::of(alg::SHA256, self.pcrs.keys().copied()).unwrap()],
            pcr_digest: Sha256Digest::of(&values).as_bytes().to_vec(),
        };
        self.attest(nonce, attested)
    }

    pub fn certify(&self, key: &SoftwareP256, extra_data: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let public = with_point(machine_key_p256(), key);
        let attested = Attested::Certify {
            name: public.name(),
            qualified_name: public.qualified_name(&RH_OWNER.to_be_bytes()),
        };
        let (attest, signature) = self.attest(extra_data, attested);
        (attest, signature, public.to_bytes().unwrap())
    }

    /// `TPM2_ActivateCredential`.
    pub fn activate(&self, id_object: &[u8], encrypted_secret: &[u8]) -> Vec<u8> {
        let ek = OaepPrivateDecryptingKey::new(PrivateDecryptingKey::from_pkcs8(&self.ek_pkcs8()).unwrap())
            .unwrap();
        let mut seed = vec![0; ek.min_output_size()];
        let seed =
            ek.decrypt(&OAEP_SHA256_MGF1SHA256, encrypted_secret, &mut seed, Some(b"IDENTITY\0")).unwrap();
        let key = kdfa(seed, b"STORAGE", &self.ak_public().name(), 128);
        let mut reader = Reader::new(id_object);
        let _mac = reader.sized().unwrap();
        let encrypted = reader.rest().to_vec();
        let key = UnboundCipherKey::new(&AES_128, &key).unwrap();
        let zero_iv = DecryptionContext::Iv128([0_u8; 16].into());
        let mut plain = encrypted;
        let plain = DecryptingKey::cfb128(key).unwrap().decrypt(&mut plain, zero_iv).unwrap();
        let mut reader = Reader::new(plain);
        reader.sized().unwrap().to_vec()
    }

    fn ek_pkcs8(&self) -> Vec<u8> {
        let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = self.ek.as_der().unwrap();
        der.as_ref().to_vec()
    }

    /// The first step's request.
    pub fn begin_request(&self, token: &str) -> Value {
        let (creation_data, attest, signature) = self.creation(token.as_bytes());
        json!({
            "enrollment_token": token,
            "ek_certificates": [],
            "ek_public": b64::url_encode(&self.ek_public.to_bytes().unwrap()),
            "ak_public": b64::url_encode(&self.ak_public().to_bytes().unwrap()),
            "creation_data": b64::url_encode(&creation_data),
            "creation_attest": b64::url_encode(&attest),
            "creation_signature": b64::url_encode(&signature),
        })
    }

    /// The second step's request, from the first step's answer.
    pub fn activate_request(&mut self, begun: &Value) -> Value {
        let octets = |name: &str| b64::url_decode(begun[name].as_str().unwrap()).unwrap();
        let secret = self.activate(&octets("id_object"), &octets("encrypted_secret"));
        let (quote, signature) = self.quote(&octets("nonce"));
        json!({
            "secret": b64::url_encode(&secret),
            "quote": b64::url_encode(&quote),
            "signature": b64::url_encode(&signature),
            "pcr_values": self.pcr_values(),
        })
    }

    pub fn pcr_values(&self) -> Value {
        self.pcrs.iter().map(|(pcr, value)| (pcr.to_string(), Value::from(b64::url_encode(value)))).collect()
    }

    /// Both steps.
    pub async fn enroll(&mut self, harness: &Harness, token: &str) -> Result<Activated, Answer> {
        let begun = harness.post_json(None, "/attest/v1/ak", &self.begin_request(token)).await;
        if begun.status != 200 {
            return Err(begun);
        }
        let begun = begun.json();
        let path = format!("/attest/v1/ak/{}", begun["session"].as_str().unwrap());
        let done = harness.post_json(None, &path, &self.activate_request(&begun)).await;
        if done.status != 200 {
            return Err(done);
        }
        let done = done.json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Ok(Activated {
            machine_id: text(&done["machine_id"]),
            permanent_identifier: text(&done["permanent_identifier"]),
            ak_chain: done["ak_certificates"]
                .as_array()
                .unwrap()
                .iter()
                .map(|der| b64::url_decode(der.as_str().unwrap()).unwrap())
                .collect(),
            eab_kid: text(&done["eab"]["kid"]),
            eab_key: b64::url_decode(done["eab"]["key"].as_str().unwrap()).unwrap(),
        })
    }

    /// The payload that answers a `device-attest-01` challenge for `key`.
    pub fn challenge_payload(
        &self,
        ak_chain: &[Vec<u8>],
        key: &SoftwareP256,
        token: &str,
        account: &PublicJwk,
    ) -> Vec<u8> {
        let authorization = key_authorization(token, account);
        let (cert_info, sig, pub_area) = self.certify(key, attestation_digest(&authorization).as_bytes());
        attestation_payload(&TpmStatement { alg: -7, x5c: ak_chain.to_vec(), sig, cert_info, pub_area })
    }
}

/// A token from the administrator.
pub async fn enrollment_token(harness: &Harness, machine: &str) -> String {
    let answer: Value =
        harness.admin("POST", "/admin/v1/machines/tokens", json!({"machine": machine})).await.unwrap();
    answer["token"].as_str().unwrap().to_owned()
}

/// Everything from token to certificate.
pub async fn enroll_machine(harness: &Harness, mut tpm: SoftTpm, machine: &str) -> EnrolledMachine {
    let token = enrollment_token(harness, machine).await;
    let activated = tpm.enroll(harness, &token).await.unwrap_or_else(|answer| panic!("{answer:?}"));
    let mut account = AcmeClient::new();
    let answer = account.register(harness, &activated.eab_kid, &activated.eab_key).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let (key, identity) = certified_key(harness, &account, &tpm, &activated).await;
    EnrolledMachine {
        tpm,
        id: activated.machine_id,
        permanent_identifier: activated.permanent_identifier,
        identity,
        key,
        ak_chain: activated.ak_chain,
        account,
    }
}

/// A new key M with its certificate.
async fn certified_key(
    harness: &Harness,
    account: &AcmeClient,
    tpm: &SoftTpm,
    activated: &Activated,
) -> (SoftwareP256, ClientIdentity) {
    let key = SoftwareP256::generate().unwrap();
    let order = ready_order(harness, account, tpm, activated, &key).await;
    let answer = account.post(harness, &path_of(&order.finalize), &json!({"csr": csr(&key)})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let certificate = answer.json()["certificate"].as_str().unwrap().to_owned();
    let answer = account.get(harness, &path_of(&certificate)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let identity = ClientIdentity {
        chain: pem_to_der(std::str::from_utf8(&answer.body).unwrap()),
        key_pkcs8: key.to_pkcs8().unwrap().to_vec(),
    };
    (key, identity)
}

impl EnrolledMachine {
    /// Another key in the same TPM, certified in place of the one before.
    pub async fn certify_another_key(&mut self, harness: &Harness) {
        let activated = Activated {
            machine_id: self.id.clone(),
            permanent_identifier: self.permanent_identifier.clone(),
            ak_chain: self.ak_chain.clone(),
            eab_kid: String::new(),
            eab_key: Vec::new(),
        };
        (self.key, self.identity) = certified_key(harness, &self.account, &self.tpm, &activated).await;
    }
}

/// The URLs of one order.
pub struct OrderUrls {
    pub order: String,
    pub authorization: String,
    pub challenge: String,
    pub token: String,
    pub finalize: String,
}

/// A fresh order, challenge not answered.
pub async fn new_order(harness: &Harness, account: &AcmeClient, permanent_identifier: &str) -> OrderUrls {
    let payload = json!({"identifiers": [{"type": "permanent-identifier", "value": permanent_identifier}]});
    let answer = account.post(harness, "/acme/new-order", &payload).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let order = answer.json();
    let authorization = order["authorizations"][0].as_str().unwrap().to_owned();
    let answered = account.get(harness, &path_of(&authorization)).await;
    assert_eq!(answered.status, 200, "{answered:?}");
    let challenge = answered.json()["challenges"][0].clone();
    OrderUrls {
        order: answer.header("location").unwrap().to_owned(),
        authorization,
        challenge: challenge["url"].as_str().unwrap().to_owned(),
        token: challenge["token"].as_str().unwrap().to_owned(),
        finalize: order["finalize"].as_str().unwrap().to_owned(),
    }
}

/// An order whose challenge was answered with evidence for `key`.
pub async fn ready_order(
    harness: &Harness,
    account: &AcmeClient,
    tpm: &SoftTpm,
    activated: &Activated,
    key: &SoftwareP256,
) -> OrderUrls {
    let order = new_order(harness, account, &activated.permanent_identifier).await;
    let payload = tpm.challenge_payload(&activated.ak_chain, key, &order.token, &account.key.public_jwk());
    let nonce = account.nonce(harness).await;
    let path = path_of(&order.challenge);
    let answer = account.post_with(harness, &path, &path, &nonce, &payload).await;
    assert_eq!((answer.status, answer.json()["status"].as_str()), (200, Some("valid")), "{answer:?}");
    order
}

/// A request for a certificate with an empty subject, signed by `key`.
pub fn csr(key: &SoftwareP256) -> String {
    csr_with(key, Vec::new())
}

/// The same with alternative names.
pub fn csr_with(key: &SoftwareP256, names: Vec<rcgen::SanType>) -> String {
    let pkcs8 = key.to_pkcs8().unwrap();
    let key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(
        &rustls::pki_types::PrivatePkcs8KeyDer::from(pkcs8.to_vec()),
        &rcgen::PKCS_ECDSA_P256_SHA256,
    )
    .unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = names;
    b64::url_encode(params.serialize_request(&key).unwrap().der())
}

pub fn pem_to_der(pem: &str) -> Vec<Vec<u8>> {
    let mut chain = Vec::new();
    let mut text = String::new();
    for line in pem.lines() {
        match line {
            "-----BEGIN CERTIFICATE-----" => text.clear(),
            "-----END CERTIFICATE-----" => {
                let url = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
                chain.push(b64::url_decode(&url).unwrap());
            }
            line => text.push_str(line),
        }
    }
    chain
}

fn with_point(mut public: TpmtPublic, key: &SoftwareP256) -> TpmtPublic {
    let point = key.public_jwk().to_p256_uncompressed().unwrap();
    public.unique = Unique::Ecc(EccPoint { x: point[1..33].to_vec(), y: point[33..].to_vec() });
    public
}

/// KDFa (TPM 2.0 Part 1 §11.4.10.2) with HMAC-SHA-256, for at most one block.
fn kdfa(key: &[u8], label: &[u8], context: &[u8], bits: u32) -> Vec<u8> {
    let mut message = 1_u32.to_be_bytes().to_vec();
    message.extend_from_slice(label);
    message.push(0);
    message.extend_from_slice(context);
    message.extend_from_slice(&bits.to_be_bytes());
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &message);
    tag.as_ref()[..usize::try_from(bits / 8).unwrap()].to_vec()
}

/// The modulus in an RSA-2048 `SubjectPublicKeyInfo`: the 256 bytes before `02 03 01 00 01`.
fn modulus(spki: &[u8]) -> Vec<u8> {
    let exponent = spki.windows(5).rposition(|window| window == [2, 3, 1, 0, 1]).unwrap();
    spki[exponent - 256..exponent].to_vec()
}
