//! The conversation with the attestation CA: endorsement, attestation key, credential activation, first quote.

use countersign_proto::b64;
use countersign_proto::digest::Sha256Digest;
use serde::Deserialize;
use serde_json::json;

use super::EnrollmentToken;
use crate::control_plane::{ControlPlane, ControlPlaneError};
use crate::tpm::{QuoteEvidence, Tpm};

/// What the attestation CA knows about this machine from now on.
#[derive(Deserialize)]
pub struct KnownMachine {
    pub machine_id: String,
    pub permanent_identifier: String,
    /// DER in base64url, the attestation key's own first.
    pub ak_certificates: Vec<String>,
    pub eab: Binding,
}

/// The ACME account binding.
#[derive(Deserialize)]
pub struct Binding {
    pub kid: String,
    pub key: String,
}

/// A credential that only the named key on the named TPM can open.
#[derive(Deserialize)]
struct Credential {
    session: String,
    id_object: String,
    encrypted_secret: String,
    nonce: String,
}

/// Proves that there is a genuine TPM, that the attestation key is in it, and in which state the machine is.
pub async fn prove_machine(
    server: &ControlPlane,
    tpm: &Tpm,
    token: &EnrollmentToken,
) -> Result<KnownMachine, ControlPlaneError> {
    let fresh = Sha256Digest::of(token.expose().as_bytes());
    let (certificates, endorsement, key) = tpm
        .run(move |tpm| {
            Ok((
                tpm.endorsement_certificates()?,
                tpm.endorsement_public()?,
                tpm.prove_attestation_key(fresh.as_bytes())?,
            ))
        })
        .await?;
    let step = "the attestation key";
    let credential: Credential = server
        .post(
            step,
            "/attest/v1/ak",
            &json!({
                "enrollment_token": token.expose(),
                "ek_certificates": certificates.iter().map(|der| b64::url_encode(der)).collect::<Vec<_>>(),
                "ek_public": b64::url_encode(&endorsement),
                "ak_public": b64::url_encode(&key.public),
                "creation_data": b64::url_encode(&key.creation_data),
                "creation_attest": b64::url_encode(&key.creation.attest),
                "creation_signature": b64::url_encode(&key.creation.signature),
            }),
        )
        .await?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if credential.session.is_empty() || !credential.session.bytes().all(is_plain) {
        return Err(server.protocol(step, "a session that is no name"));
    }
    let bytes = |text: &str| b64::url_decode(text).map_err(|error| server.protocol(step, error.to_string()));
    let (id_object, encrypted_secret) = (bytes(&credential.id_object)?, bytes(&credential.encrypted_secret)?);
    let nonce = bytes(&credential.nonce)?;
    let (secret, quote) = tpm
        .run(move |tpm| {
            Ok((
                zeroize::Zeroizing::new(tpm.activate_credential(&id_object, &encrypted_secret)?),
                tpm.quote(&nonce)?,
            ))
        })
        .await?;
    let mut body = quote_members(&quote);
    body.insert("secret".to_owned(), b64::url_encode(&secret).into());
    server
        .post("the activated credential", &format!("/attest/v1/ak/{}", credential.session), &body.into())
        .await
}

/// `quote`, `signature`, `pcr_values` as the attestation endpoints take them.
pub fn quote_members(quote: &QuoteEvidence) -> serde_json::Map<String, serde_json::Value> {
    let values = quote.pcr_values.iter().map(|(pcr, value)| (pcr.to_string(), b64::url_encode(value).into()));
    let mut members = serde_json::Map::new();
    members.insert("quote".to_owned(), b64::url_encode(&quote.attest).into());
    members.insert("signature".to_owned(), b64::url_encode(&quote.signature).into());
    members.insert("pcr_values".to_owned(), serde_json::Value::Object(values.collect()));
    members
}
