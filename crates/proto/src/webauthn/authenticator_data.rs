//! Authenticator data (§6.1): what the authenticator says about the person and about itself.

use super::{MAX_CREDENTIAL_ID_BYTES, WebauthnError, cose};
use crate::cbor::Item;
use crate::digest::Sha256Digest;
use crate::jose::PublicJwk;

const USER_PRESENT: u8 = 0x01;
const USER_VERIFIED: u8 = 0x04;
const BACKUP_ELIGIBLE: u8 = 0x08;
const BACKED_UP: u8 = 0x10;
const ATTESTED_CREDENTIAL: u8 = 0x40;
const EXTENSIONS: u8 = 0x80;

/// Authenticator data, parsed to its last byte.
pub struct AuthenticatorData {
    rp_id_hash: [u8; 32],
    present: bool,
    verified: bool,
    /// BE.
    pub backup_eligible: bool,
    /// BS.
    pub backed_up: bool,
    /// The signature counter.
    pub sign_count: u32,
    /// Only in a registration.
    pub attested: Option<Attested>,
}

/// Attested credential data (§6.5.1).
pub struct Attested {
    /// The model by its own word.
    pub aaguid: [u8; 16],
    /// The new credential's id.
    pub credential_id: Vec<u8>,
    /// The new credential's key.
    pub public_key: PublicJwk,
}

impl AuthenticatorData {
    /// Reads all of it; extensions must be a map and are not used.
    pub fn parse(bytes: &[u8]) -> Result<Self, WebauthnError> {
        let (rp_id_hash, rest) = take::<32>(bytes)?;
        let ([flags], rest) = take::<1>(rest)?;
        let (sign_count, mut rest) = take::<4>(rest)?;
        let mut attested = None;
        if flags & ATTESTED_CREDENTIAL != 0 {
            let (credential, after) = Attested::parse(rest)?;
            attested = Some(credential);
            rest = after;
        }
        if flags & EXTENSIONS != 0 {
            let (Item::Map(_), after) =
                Item::parse_prefix(rest).map_err(|_| WebauthnError::AuthenticatorData)?
            else {
                return Err(WebauthnError::AuthenticatorData);
            };
            rest = after;
        }
        if !rest.is_empty() {
            return Err(WebauthnError::AuthenticatorData);
        }
        Ok(Self {
            rp_id_hash,
            present: flags & USER_PRESENT != 0,
            verified: flags & USER_VERIFIED != 0,
            backup_eligible: flags & BACKUP_ELIGIBLE != 0,
            backed_up: flags & BACKED_UP != 0,
            sign_count: u32::from_be_bytes(sign_count),
            attested,
        })
    }

    /// That it is for us, and that a verified person was there.
    pub fn check_person(&self, rp_id: &str) -> Result<(), WebauthnError> {
        if self.rp_id_hash != *Sha256Digest::of(rp_id.as_bytes()).as_bytes() {
            return Err(WebauthnError::WrongRelyingParty);
        }
        if !self.present {
            return Err(WebauthnError::NotPresent);
        }
        if !self.verified {
            return Err(WebauthnError::NotVerified);
        }
        if self.backed_up && !self.backup_eligible {
            return Err(WebauthnError::BackupFlags);
        }
        Ok(())
    }
}

impl Attested {
    fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), WebauthnError> {
        let (aaguid, rest) = take::<16>(bytes)?;
        let (length, rest) = take::<2>(rest)?;
        let length = usize::from(u16::from_be_bytes(length));
        if length == 0 || length > MAX_CREDENTIAL_ID_BYTES {
            return Err(WebauthnError::AuthenticatorData);
        }
        let (credential_id, rest) = rest.split_at_checked(length).ok_or(WebauthnError::AuthenticatorData)?;
        let (key, rest) = Item::parse_prefix(rest).map_err(|_| WebauthnError::AuthenticatorData)?;
        let public_key = cose::public_key(&key)?;
        Ok((Self { aaguid, credential_id: credential_id.to_vec(), public_key }, rest))
    }
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), WebauthnError> {
    bytes.split_first_chunk::<N>().map(|(head, rest)| (*head, rest)).ok_or(WebauthnError::AuthenticatorData)
}
