//! A TPM in software, for tests: real keys, real structures, real signatures, and no honesty beyond what a test
//! asks for. Its credential activation is written from Part 1 on its own, not with the code under test.

use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use aws_lc_rs::{cipher, hmac, rsa};
use countersign_proto::acme::{PermanentIdentifier, TpmStatement, attestation_digest, key_authorization};
use countersign_proto::digest::Sha256Digest;
use countersign_proto::id::{MachineId, TrustDomain};
use countersign_proto::jose::{JwsSigner as _, SoftwareP256};
use countersign_proto::time::{Entropy, Timestamp};
use countersign_proto::tpm::{
    Attested, ClockInfo, EccPoint, HashAlg, PcrSelection, RH_ENDORSEMENT, Reader, TpmsAttest,
    TpmsCreationData, TpmtPublic, TpmtSignature, Unique, ak_p256, alg, ek_rsa2048, machine_key_p256,
};
use countersign_proto::x509::parse_csr_der;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};

use crate::acme::{Account, EabKey, Issuance, Order};
use crate::activation::{ActivatedAk, AkEvidence, CredentialBlob, VerifiedAk, begin, check_ak};
use crate::chain::Roots;
use crate::device_attest::{self, AttestedKey, Expectation};
use crate::endorsement::{EkAllowList, EndorsedKey, appraise_endorsement};
use crate::issue::Issuer;
use crate::machine::{Enrollment, Machine};
use crate::quote::{ClockState, PcrValues, QuoteEvidence, read_baseline};

pub const NONCE: [u8; 32] = [7; 32];
pub const BASELINE_PCRS: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// 2026-06-01T00:00:00Z
pub const fn now() -> Timestamp {
    Timestamp::from_unix_secs(1_780_272_000)
}

pub struct Rng;

impl Entropy for Rng {
    fn fill(&self, out: &mut [u8]) {
        aws_lc_rs::rand::fill(out).unwrap();
    }
}

/// RSA key generation is slow, and any one key will do.
fn ek_key() -> &'static rsa::KeyPair {
    static KEY: OnceLock<rsa::KeyPair> = OnceLock::new();
    KEY.get_or_init(|| rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap())
}

pub fn other_ek_modulus() -> Vec<u8> {
    static KEY: OnceLock<Vec<u8>> = OnceLock::new();
    KEY.get_or_init(|| modulus(&rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap())).clone()
}

/// The modulus has a fixed place in the `SubjectPublicKeyInfo` of an RSA-2048 key with exponent 65537.
fn modulus(key: &rsa::KeyPair) -> Vec<u8> {
    ek_spki_of(key)[33..289].to_vec()
}

fn ek_spki_of(key: &rsa::KeyPair) -> Vec<u8> {
    AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()).unwrap().as_ref().to_vec()
}

/// The EK as the crypto library writes it.
pub fn ek_spki() -> Vec<u8> {
    ek_spki_of(ek_key())
}

/// A P-256 key as a TPM object with any attributes.
pub struct TpmKey {
    pub pair: EcdsaKeyPair,
    pub public: TpmtPublic,
}

impl TpmKey {
    pub fn new(template: TpmtPublic) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref();
        let unique = Unique::Ecc(EccPoint { x: point[1..33].to_vec(), y: point[33..].to_vec() });
        Self { public: TpmtPublic { unique, ..template }, pair }
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let raw = self.pair.sign(&SystemRandom::new(), message).unwrap();
        let (r, s) = raw.as_ref().split_at(32);
        TpmtSignature::Ecdsa { hash: HashAlg::Sha256, r: r.to_vec(), s: s.to_vec() }.to_bytes().unwrap()
    }

    /// A request for a certificate by this key.
    pub fn request(&self, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let pkcs8 = self.pair.to_pkcs8v1().unwrap();
        let der = rustls_pki_types::PrivatePkcs8KeyDer::from(pkcs8.as_ref());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        params.serialize_request(&key).unwrap().der().to_vec()
    }
}

pub struct SimulatedTpm {
    pub ek_public: TpmtPublic,
    pub ak: TpmKey,
    pub clock: ClockInfo,
    pub firmware_version: u64,
    pub pcrs: PcrValues,
}

/// An attest blob and its signature.
pub struct Statement {
    pub attest: Vec<u8>,
    pub signature: Vec<u8>,
}

impl Default for SimulatedTpm {
    fn default() -> Self {
        Self::with_ak(ak_p256())
    }
}

impl SimulatedTpm {
    pub fn with_ak(template: TpmtPublic) -> Self {
        Self {
            ek_public: TpmtPublic { unique: Unique::Rsa(modulus(ek_key())), ..ek_rsa2048() },
            ak: TpmKey::new(template),
            clock: ClockInfo { clock: 1000, reset_count: 5, restart_count: 0, safe: true },
            firmware_version: 10,
            pcrs: BASELINE_PCRS.map(|pcr| (pcr, Sha256Digest::of(&[pcr]))).into_iter().collect(),
        }
    }

    pub fn ak_qualified_name(&self) -> Vec<u8> {
        self.ak.public.qualified_name(&RH_ENDORSEMENT.to_be_bytes())
    }

    pub fn attest(&self, extra_data: &[u8], attested: Attested) -> TpmsAttest {
        TpmsAttest {
            qualified_signer: self.ak_qualified_name(),
            extra_data: extra_data.to_vec(),
            clock_info: self.clock,
            firmware_version: self.firmware_version,
            attested,
        }
    }

    pub fn sign(&self, attest: &TpmsAttest) -> Statement {
        let attest = attest.to_bytes().unwrap();
        Statement { signature: self.ak.sign(&attest), attest }
    }

    pub fn creation_data(&self) -> TpmsCreationData {
        TpmsCreationData {
            pcr_select: vec![],
            pcr_digest: vec![],
            locality: 1,
            parent_name_alg: alg::NULL,
            parent_name: RH_ENDORSEMENT.to_be_bytes().to_vec(),
            parent_qualified_name: RH_ENDORSEMENT.to_be_bytes().to_vec(),
            outside_info: vec![],
        }
    }

    pub fn certify_creation(&self, qualifying: &Sha256Digest, creation_data: &[u8]) -> Statement {
        let creation_hash = Sha256Digest::of(creation_data).as_bytes().to_vec();
        let attested = Attested::Creation { object_name: self.ak.public.name(), creation_hash };
        self.sign(&self.attest(qualifying.as_bytes(), attested))
    }

    pub fn certify(&self, key: &TpmtPublic, extra_data: &[u8]) -> Statement {
        let name = key.name();
        let qualified_name = key.qualified_name(&name);
        self.sign(&self.attest(extra_data, Attested::Certify { name, qualified_name }))
    }

    pub fn quote(&self, nonce: &[u8]) -> Statement {
        self.sign(&self.attest(nonce, self.quoted()))
    }

    pub fn quoted(&self) -> Attested {
        let values: Vec<&[u8]> = self.pcrs.values().map(|value| value.as_bytes().as_slice()).collect();
        Attested::Quote {
            pcr_select: vec![PcrSelection::of(alg::SHA256, self.pcrs.keys().copied()).unwrap()],
            pcr_digest: HashAlg::Sha256.digest(&values),
        }
    }

    /// `TPM2_ActivateCredential` (Part 1 §24).
    pub fn activate(&self, blob: &CredentialBlob) -> Option<Vec<u8>> {
        let pkcs8 = AsDer::<Pkcs8V1Der<'_>>::as_der(ek_key()).unwrap();
        let key = rsa::PrivateDecryptingKey::from_pkcs8(pkcs8.as_ref()).unwrap();
        let key = rsa::OaepPrivateDecryptingKey::new(key).unwrap();
        let mut seed = vec![0; key.min_output_size()];
        let algorithm = &rsa::OAEP_SHA256_MGF1SHA256;
        let seed = key.decrypt(algorithm, &blob.encrypted_secret, &mut seed, Some(b"IDENTITY\0")).ok()?;

        let name = self.ak.public.name();
        let mut reader = Reader::new(&blob.id_object);
        let mac = reader.sized().unwrap();
        let mut identity = reader.rest().to_vec();
        let integrity = hmac::Key::new(hmac::HMAC_SHA256, &one_block_kdfa(seed, b"INTEGRITY", &[], 256));
        hmac::verify(&integrity, &[identity.as_slice(), &name].concat(), mac).ok()?;

        let key = &one_block_kdfa(seed, b"STORAGE", &name, 128)[..16];
        let key =
            cipher::DecryptingKey::cfb128(cipher::UnboundCipherKey::new(&cipher::AES_128, key).unwrap())
                .unwrap();
        let iv = cipher::DecryptionContext::Iv128(aws_lc_rs::iv::FixedLength::from([0; 16]));
        let plain = key.decrypt(&mut identity, iv).unwrap();
        Reader::new(plain).sized().ok().map(<[u8]>::to_vec)
    }
}

/// `KDFa` for results of at most one SHA-256 block.
fn one_block_kdfa(key: &[u8], label: &[u8], context: &[u8], bits: u32) -> Vec<u8> {
    let message = [&[0, 0, 0, 1], label, &[0], context, &bits.to_be_bytes()].concat();
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &message).as_ref().to_vec()
}

/// A TPM maker's authority, with an intermediate that the client has to bring along.
pub struct Manufacturer {
    root: rcgen::Issuer<'static, KeyPair>,
    pub root_der: Vec<u8>,
}

impl Default for Manufacturer {
    fn default() -> Self {
        let key = KeyPair::generate().unwrap();
        let params = authority("Maker Root");
        let root_der = params.self_signed(&key).unwrap().der().to_vec();
        Self { root: rcgen::Issuer::new(params, key), root_der }
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

impl Manufacturer {
    pub fn roots(&self) -> Roots {
        Roots::from_der([self.root_der.as_slice()]).unwrap()
    }

    /// An EK certificate and its intermediate; `change` edits the leaf.
    pub fn endorse(&self, ek: &TpmtPublic, change: impl FnOnce(&mut CertificateParams)) -> Vec<Vec<u8>> {
        let key = KeyPair::generate().unwrap();
        let params = authority("Maker Intermediate");
        let intermediate = params.signed_by(&key, &self.root).unwrap().der().to_vec();
        let issuer = rcgen::Issuer::new(params, key);
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = DistinguishedName::new();
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
        change(&mut leaf);
        let key = rcgen::SubjectPublicKeyInfo::from_der(&crate::der::spki(ek).unwrap()).unwrap();
        vec![leaf.signed_by(&key, &issuer).unwrap().der().to_vec(), intermediate]
    }
}

pub fn token_digest() -> Sha256Digest {
    Sha256Digest::of(b"enrollment token")
}

pub fn verified_ak(tpm: &SimulatedTpm) -> VerifiedAk {
    let creation_data = tpm.creation_data().to_bytes().unwrap();
    let statement = tpm.certify_creation(&token_digest(), &creation_data);
    let evidence = AkEvidence {
        public: &tpm.ak.public.to_bytes().unwrap(),
        creation_data: &creation_data,
        creation_attest: &statement.attest,
        creation_signature: &statement.signature,
    };
    check_ak(&evidence, &token_digest()).unwrap()
}

pub fn endorsed_key(tpm: &SimulatedTpm) -> EndorsedKey {
    let listed: EkAllowList = [crate::endorsement::ek_digest(&tpm.ek_public).unwrap()].into_iter().collect();
    appraise_endorsement(&[], &tpm.ek_public.to_bytes().unwrap(), &Roots::default(), &listed, now()).unwrap()
}

pub fn activated(tpm: &SimulatedTpm) -> ActivatedAk {
    let (pending, blob) = begin(endorsed_key(tpm), verified_ak(tpm), now(), &Rng).unwrap();
    pending.confirm(&tpm.activate(&blob).unwrap(), now()).unwrap()
}

/// The whole enrollment of a machine with this TPM.
pub fn enrolled(tpm: &SimulatedTpm, id: &str) -> Machine {
    let activated = activated(tpm);
    let quote = tpm.quote(&NONCE);
    let evidence =
        QuoteEvidence { attest: &quote.attest, signature: &quote.signature, pcr_values: &tpm.pcrs };
    let (reference, clock): (_, ClockState) =
        read_baseline(&evidence, &(activated.ak().into()), &NONCE, &BASELINE_PCRS, "baseline@v1").unwrap();
    let enrollment = Enrollment {
        id: MachineId::parse(id).unwrap(),
        trust_domain: TrustDomain::parse("td.example").unwrap(),
        permanent_identifier: PermanentIdentifier::parse(id).unwrap(),
        reference,
        clock,
    };
    Machine::enroll(enrollment, &activated, now())
}

pub fn machine_key() -> TpmKey {
    TpmKey::new(machine_key_p256())
}

pub fn authority_key() -> Vec<u8> {
    SoftwareP256::generate().unwrap().to_pkcs8().unwrap().to_vec()
}

pub fn software_key() -> countersign_proto::jose::PublicJwk {
    SoftwareP256::generate().unwrap().public_jwk()
}

pub fn issuer() -> Issuer {
    let domain = TrustDomain::parse("td.example").unwrap();
    Issuer::self_signed_root(
        "Test Root",
        Some(&domain),
        &authority_key(),
        now().plus_secs(-86_400),
        30 * 86_400,
        &Rng,
    )
    .unwrap()
}

pub fn account(machine: &Machine) -> Account {
    let eab =
        EabKey::open("kid-1".to_owned(), machine.id.clone(), machine.permanent_identifier.clone(), now());
    eab.bind("acc-1".to_owned(), software_key(), now()).unwrap().1
}

/// `key`, attested for some challenge of some account.
pub fn attested(tpm: &SimulatedTpm, machine: &Machine, key: &TpmKey) -> AttestedKey {
    let ca = issuer();
    let key_authorization = key_authorization("token", &software_key());
    let statement = tpm.certify(&key.public, attestation_digest(&key_authorization).as_bytes());
    let statement = TpmStatement {
        alg: -7,
        x5c: vec![ca.issue_ak_certificate(machine, now(), 3600, &Rng).unwrap().der],
        sig: statement.signature,
        cert_info: statement.attest,
        pub_area: key.public.to_bytes().unwrap(),
    };
    let ak_roots = Roots::from_der([ca.certificate_der()]).unwrap();
    let expected =
        Expectation { key_authorization: &key_authorization, ak_roots: &ak_roots, machine, now: now() };
    device_attest::verify(&statement, &expected).unwrap()
}

/// An order for a new key, finalized, and the right to issue for it.
pub fn finalized(tpm: &SimulatedTpm, machine: &Machine) -> (Order, Issuance) {
    let key = machine_key();
    let order =
        Order::open(&account(machine), "ord-1".to_owned(), machine.permanent_identifier.clone(), now(), &Rng)
            .unwrap();
    let order = order.answered(Ok(attested(tpm, machine, &key)), now()).unwrap();
    order.finalize(&parse_csr_der(&key.request(|_| {})).unwrap(), now()).unwrap()
}
