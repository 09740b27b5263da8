//! Credential activation (TPM 2.0 Part 1 §24): the one proof that an attestation key lives beside an endorsed key.
//!
//! First the AK's own attributes, because an unrestricted key passes activation too and would sign forged
//! structures; then a secret that only the TPM with both keys can open. Pure: the seed comes from `rng`, while the
//! padding of RSA-OAEP and the ephemeral ECDH key are drawn inside the crypto library.

use aws_lc_rs::{agreement, cipher, hmac, rsa};
use countersign_proto::digest::Sha256Digest;
use countersign_proto::time::{Entropy, Timestamp};
use countersign_proto::tpm::{
    Attested, Attributes, EccPoint, HashAlg, Params, RH_ENDORSEMENT, Scheme, Symmetric, TpmError, TpmsAttest,
    TpmsCreationData, TpmtPublic, TpmtSignature, Unique, Writer, curve, p256_point, verify_signature,
};
use zeroize::Zeroizing;

use crate::der;
use crate::endorsement::EndorsedKey;

/// Bytes of the secret that activation has to return; must not exceed any EK's digest.
pub const SECRET_LEN: usize = 32;

/// What a client shows about its attestation key, as received.
#[derive(Clone, Copy, Debug)]
pub struct AkEvidence<'a> {
    /// `TPMT_PUBLIC`.
    pub public: &'a [u8],
    /// `TPMS_CREATION_DATA`.
    pub creation_data: &'a [u8],
    /// `TPMS_ATTEST` of type creation.
    pub creation_attest: &'a [u8],
    /// `TPMT_SIGNATURE` of the attest blob by the AK itself.
    pub creation_signature: &'a [u8],
}

/// An attestation key that says nothing but what its TPM made; whose TPM that is, activation shows.
/// Made only by [`check_ak`].
#[derive(Clone, Debug)]
pub struct VerifiedAk {
    public: TpmtPublic,
    name: Vec<u8>,
    qualified_name: Vec<u8>,
}

/// Why an attestation key is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AkError {
    /// A structure cannot be read, or its signature does not verify.
    #[error(transparent)]
    Structure(#[from] TpmError),
    /// Not fixed to this TPM and parent, or not generated in it.
    #[error("attestation key may live outside the tpm")]
    NotResident,
    /// Not a restricted signing key, or one that also decrypts (`ak_not_restricted`).
    #[error("attestation key is not a restricted signing key")]
    NotRestricted,
    /// RSA below 2048 bits, a point off the curve, or a scheme and hash that do not fit the key.
    #[error("attestation key is too weak")]
    WeakKey,
    /// The attest blob is about something else than the creation of this key from this data.
    #[error("creation statement is about another key")]
    CreationMismatch,
    /// The statement is not for this request.
    #[error("creation statement is not fresh")]
    Stale,
    /// Not a primary key of the endorsement hierarchy, where boot counters are shown as they are.
    #[error("attestation key is not in the endorsement hierarchy")]
    WrongHierarchy,
}

/// Accepts an attestation key on its own certified creation, with `qualifying` (such as the digest of the
/// enrollment token) as the statement's qualifying data.
///
/// # Errors
/// [`AkError`].
pub fn check_ak(evidence: &AkEvidence<'_>, qualifying: &Sha256Digest) -> Result<VerifiedAk, AkError> {
    let public = TpmtPublic::parse(evidence.public)?;
    check_attributes(&public)?;
    check_strength(&public)?;

    let attest = TpmsAttest::parse(evidence.creation_attest)?;
    let signature = TpmtSignature::parse(evidence.creation_signature)?;
    verify_signature(&public, evidence.creation_attest, &signature)?;
    if attest.extra_data != qualifying.as_bytes() {
        return Err(AkError::Stale);
    }
    let name = public.name();
    let Attested::Creation { object_name, creation_hash } = &attest.attested else {
        return Err(AkError::CreationMismatch);
    };
    if *object_name != name || *creation_hash != public.name_alg.digest(&[evidence.creation_data]) {
        return Err(AkError::CreationMismatch);
    }
    let creation = TpmsCreationData::parse(evidence.creation_data)?;
    if creation.parent_name != RH_ENDORSEMENT.to_be_bytes() {
        return Err(AkError::WrongHierarchy);
    }
    let qualified_name = public.qualified_name(&creation.parent_name);
    if attest.qualified_signer != qualified_name {
        return Err(AkError::CreationMismatch);
    }
    Ok(VerifiedAk { public, name, qualified_name })
}

fn check_attributes(public: &TpmtPublic) -> Result<(), AkError> {
    if !public.attributes.has(Attributes::RESIDENT) {
        return Err(AkError::NotResident);
    }
    let is_restricted_signer = public.attributes.has(Attributes::RESTRICTED | Attributes::SIGN)
        && !public.attributes.has_any(Attributes::DECRYPT | Attributes::X509_SIGN)
        && public.symmetric() == Symmetric::Null;
    if is_restricted_signer { Ok(()) } else { Err(AkError::NotRestricted) }
}

fn check_strength(public: &TpmtPublic) -> Result<(), AkError> {
    use countersign_proto::tpm::alg;
    let fits = match (&public.params, public.scheme()) {
        (
            Params::Ecc { curve: curve::P256, .. },
            Scheme::Signing { scheme: alg::ECDSA, hash: HashAlg::Sha256 },
        ) => p256_point(public).is_some(),
        (
            Params::Ecc { curve: curve::P384, .. },
            Scheme::Signing { scheme: alg::ECDSA, hash: HashAlg::Sha384 },
        ) => true,
        (Params::Rsa { key_bits, .. }, Scheme::Signing { scheme: alg::RSASSA | alg::RSAPSS, .. }) => {
            *key_bits >= 2048
        }
        (Params::Ecc { .. } | Params::Rsa { .. }, Scheme::Null | Scheme::Signing { .. }) => false,
    };
    if fits && der::spki(public).is_some() { Ok(()) } else { Err(AkError::WeakKey) }
}

impl VerifiedAk {
    /// The public area.
    #[must_use]
    pub const fn public(&self) -> &TpmtPublic {
        &self.public
    }

    /// The Name, computed by us.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The qualified Name, which every statement of this key carries.
    #[must_use]
    pub fn qualified_name(&self) -> &[u8] {
        &self.qualified_name
    }
}

/// The secret of one activation; wiped when dropped.
pub struct ActivationSecret(Zeroizing<[u8; SECRET_LEN]>);

impl ActivationSecret {
    /// A fresh secret.
    #[must_use]
    pub fn generate(rng: &dyn Entropy) -> Self {
        let mut secret = Zeroizing::new([0; SECRET_LEN]);
        rng.fill(secret.as_mut_slice());
        Self(secret)
    }

    fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(self.0.as_slice())
    }
}

impl std::fmt::Debug for ActivationSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ActivationSecret(..)")
    }
}

/// How long a client has to return the secret, in seconds.
pub const ACTIVATION_LIFETIME_SECS: i64 = 60;

/// An activation that waits for its answer. Used up by the first one, right or wrong.
#[derive(Debug)]
pub struct PendingActivation {
    ek: EndorsedKey,
    ak: VerifiedAk,
    answer: Sha256Digest,
    expires_at: Timestamp,
}

/// An attestation key that lives in the same TPM as an endorsed key; made only by [`PendingActivation::confirm`].
#[derive(Clone, Debug)]
pub struct ActivatedAk {
    ek: EndorsedKey,
    ak: VerifiedAk,
}

/// Why an activation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActivationError {
    /// The answer came too late.
    #[error("activation has expired")]
    Expired,
    /// Not the secret.
    #[error("activation returned another secret")]
    WrongSecret,
}

/// Starts an activation: the blob goes to the client, the rest waits.
///
/// # Errors
/// [`CredentialError`] if the endorsement key cannot encrypt.
pub fn begin(
    ek: EndorsedKey,
    ak: VerifiedAk,
    now: Timestamp,
    rng: &dyn Entropy,
) -> Result<(PendingActivation, CredentialBlob), CredentialError> {
    let secret = ActivationSecret::generate(rng);
    let blob = make_credential(&ek, &ak, &secret, rng)?;
    let expires_at = now.plus_secs(ACTIVATION_LIFETIME_SECS);
    Ok((PendingActivation { ek, ak, answer: secret.digest(), expires_at }, blob))
}

impl PendingActivation {
    /// Takes the client's answer.
    ///
    /// # Errors
    /// [`ActivationError`]; the activation is gone either way.
    pub fn confirm(self, answer: &[u8], now: Timestamp) -> Result<ActivatedAk, ActivationError> {
        if now > self.expires_at {
            return Err(ActivationError::Expired);
        }
        if !Sha256Digest::of(answer).ct_eq(&self.answer) {
            return Err(ActivationError::WrongSecret);
        }
        Ok(ActivatedAk { ek: self.ek, ak: self.ak })
    }

    /// The end of its life, so that it can be forgotten.
    #[must_use]
    pub const fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// The endorsement key, to see whether the machine is known before the answer comes.
    #[must_use]
    pub const fn ek(&self) -> &EndorsedKey {
        &self.ek
    }
}

impl ActivatedAk {
    /// The endorsement key.
    #[must_use]
    pub const fn ek(&self) -> &EndorsedKey {
        &self.ek
    }

    /// The attestation key.
    #[must_use]
    pub const fn ak(&self) -> &VerifiedAk {
        &self.ak
    }
}

/// What `TPM2_ActivateCredential` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialBlob {
    /// `TPMS_ID_OBJECT`: `TPM2B` of the HMAC, then the encrypted identity.
    pub id_object: Vec<u8>,
    /// Contents of `TPM2B_ENCRYPTED_SECRET`.
    pub encrypted_secret: Vec<u8>,
}

/// The endorsement key cannot encrypt: a malformed key or an algorithm that is not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("endorsement key cannot be used for activation")]
pub struct CredentialError;

/// `TPM2_MakeCredential` in software (Part 1 §24.4): only the TPM that holds `ek` and has loaded `ak` learns `secret`.
///
/// # Errors
/// [`CredentialError`].
pub fn make_credential(
    ek: &EndorsedKey,
    ak: &VerifiedAk,
    secret: &ActivationSecret,
    rng: &dyn Entropy,
) -> Result<CredentialBlob, CredentialError> {
    let public = ek.public();
    let hash = public.name_alg;
    let Symmetric::AesCfb(key_bits) = public.symmetric() else { return Err(CredentialError) };
    let (seed, encrypted_secret) = match &public.params {
        Params::Rsa { .. } => rsa_seed(public, rng)?,
        Params::Ecc { curve, .. } => ecdh_seed(public, *curve)?,
    };

    let symmetric_key = kdfa(hash, &seed, "STORAGE", &ak.name, &[], usize::from(key_bits));
    let mut identity = Writer::new();
    identity.sized(secret.0.as_slice());
    let mut identity = Zeroizing::new(identity.finish().map_err(|_| CredentialError)?);
    encrypt_cfb(&symmetric_key, &mut identity)?;

    let integrity_key = kdfa(hash, &seed, "INTEGRITY", &[], &[], hash.len() * 8);
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac_algorithm(hash), &integrity_key));
    mac.update(&identity);
    mac.update(&ak.name);
    let mut id_object = Writer::new();
    id_object.sized(mac.sign().as_ref()).bytes(&identity);
    Ok(CredentialBlob { id_object: id_object.finish().map_err(|_| CredentialError)?, encrypted_secret })
}

type Seed = (Zeroizing<Vec<u8>>, Vec<u8>);

/// Part 1 §B.10.4: the seed under RSA-OAEP with the label `IDENTITY` and its terminating zero.
fn rsa_seed(public: &TpmtPublic, rng: &dyn Entropy) -> Result<Seed, CredentialError> {
    let algorithm = match public.name_alg {
        HashAlg::Sha256 => &rsa::OAEP_SHA256_MGF1SHA256,
        HashAlg::Sha384 => &rsa::OAEP_SHA384_MGF1SHA384,
        HashAlg::Sha512 => &rsa::OAEP_SHA512_MGF1SHA512,
    };
    let spki = der::spki(public).ok_or(CredentialError)?;
    let key = rsa::PublicEncryptingKey::from_der(&spki).map_err(|_| CredentialError)?;
    let key = rsa::OaepPublicEncryptingKey::new(key).map_err(|_| CredentialError)?;
    let mut seed = Zeroizing::new(vec![0; public.name_alg.len()]);
    rng.fill(&mut seed);
    let mut encrypted = vec![0; key.ciphertext_size()];
    let length = key
        .encrypt(algorithm, &seed, &mut encrypted, Some(b"IDENTITY\0"))
        .map_err(|_| CredentialError)?
        .len();
    encrypted.truncate(length);
    Ok((seed, encrypted))
}

/// Part 1 §C.6.4: one-pass Diffie-Hellman, the seed by `KDFe`, the secret being our ephemeral point.
fn ecdh_seed(public: &TpmtPublic, curve_id: u16) -> Result<Seed, CredentialError> {
    let (algorithm, field) = match curve_id {
        curve::P256 => (&agreement::ECDH_P256, 32_usize),
        curve::P384 => (&agreement::ECDH_P384, 48),
        _ => return Err(CredentialError),
    };
    let Unique::Ecc(EccPoint { x, y }) = &public.unique else { return Err(CredentialError) };
    let mut peer = vec![0; 1 + 2 * field];
    peer[0] = 4;
    peer[1 + field - x.len().min(field)..=field].copy_from_slice(&x[x.len() - x.len().min(field)..]);
    peer[1 + 2 * field - y.len().min(field)..].copy_from_slice(&y[y.len() - y.len().min(field)..]);

    let ours = agreement::EphemeralPrivateKey::generate(algorithm, &aws_lc_rs::rand::SystemRandom::new())
        .map_err(|_| CredentialError)?;
    let our_point = ours.compute_public_key().map_err(|_| CredentialError)?;
    let (our_x, our_y) = our_point.as_ref()[1..].split_at(field);
    let hash = public.name_alg;
    let seed = agreement::agree_ephemeral(
        ours,
        agreement::UnparsedPublicKey::new(algorithm, peer.as_slice()),
        CredentialError,
        |shared| Ok(kdfe(hash, shared, "IDENTITY", our_x, &peer[1..=field])),
    )?;
    let mut point = Writer::new();
    point.sized(our_x).sized(our_y);
    Ok((seed, point.finish().map_err(|_| CredentialError)?))
}

/// `KDFa` (Part 1 §11.4.10.2): SP 800-108 in counter mode with HMAC. `bits` is a multiple of 8.
fn kdfa(
    hash: HashAlg,
    key: &[u8],
    label: &str,
    context_u: &[u8],
    context_v: &[u8],
    bits: usize,
) -> Zeroizing<Vec<u8>> {
    let key = hmac::Key::new(hmac_algorithm(hash), key);
    expand(bits, |counter| {
        let mut mac = hmac::Context::with_key(&key);
        mac.update(&counter.to_be_bytes());
        mac.update(label.as_bytes());
        mac.update(&[0]);
        mac.update(context_u);
        mac.update(context_v);
        mac.update(&u32::try_from(bits).unwrap_or(u32::MAX).to_be_bytes());
        mac.sign().as_ref().to_vec()
    })
}

/// `KDFe` (Part 1 §11.4.10.3): SP 800-56A concatenation KDF, as many bits as the hash has.
fn kdfe(hash: HashAlg, shared: &[u8], label: &str, party_u: &[u8], party_v: &[u8]) -> Zeroizing<Vec<u8>> {
    expand(hash.len() * 8, |counter| {
        hash.digest(&[&counter.to_be_bytes(), shared, label.as_bytes(), &[0], party_u, party_v])
    })
}

fn expand(bits: usize, block: impl Fn(u32) -> Vec<u8>) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(bits / 8 + 64));
    for counter in 1_u32.. {
        if out.len() * 8 >= bits {
            break;
        }
        out.extend_from_slice(&Zeroizing::new(block(counter)));
    }
    out.truncate(bits / 8);
    out
}

/// AES-CFB128 with the zero IV that Part 1 §24.4 prescribes: every key encrypts one text only.
fn encrypt_cfb(key: &[u8], text: &mut [u8]) -> Result<(), CredentialError> {
    let algorithm = match key.len() {
        16 => &cipher::AES_128,
        32 => &cipher::AES_256,
        _ => return Err(CredentialError),
    };
    let key = cipher::UnboundCipherKey::new(algorithm, key).map_err(|_| CredentialError)?;
    let iv = cipher::EncryptionContext::Iv128(aws_lc_rs::iv::FixedLength::from([0; 16]));
    cipher::EncryptingKey::cfb128(key)
        .and_then(|key| key.less_safe_encrypt(text, iv))
        .map(|_| ())
        .map_err(|_| CredentialError)
}

const fn hmac_algorithm(hash: HashAlg) -> hmac::Algorithm {
    match hash {
        HashAlg::Sha256 => hmac::HMAC_SHA256,
        HashAlg::Sha384 => hmac::HMAC_SHA384,
        HashAlg::Sha512 => hmac::HMAC_SHA512,
    }
}

#[cfg(test)]
mod tests;
