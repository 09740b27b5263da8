//! PKCS#10 certification requests (RFC 2986), accepted only with a P-256 key and a signature that proves possession.
//!
//! What a request asks for is reported, not granted.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_cert::der::asn1::BitStringRef;
use x509_cert::der::{Decode as _, Encode as _, Reader as _, SliceReader};
use x509_cert::ext::Extensions;
use x509_cert::request::{CertReq, CertReqInfo};
use x509_cert::spki::AlgorithmIdentifierOwned;

use crate::jose::PublicJwk;

use super::{
    AlternativeNames, MAX_DER, OID_SUBJECT_ALT_NAME, PublicKeyKind, X509Error, decode, public_key,
    refuse_duplicates, whole_bits,
};

const OID_ECDSA_SHA256: &str = "1.2.840.10045.4.3.2";
const OID_EXTENSION_REQUEST: &str = "1.2.840.113549.1.9.14";

/// What a request with a valid signature of its own key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsrFacts {
    /// `SubjectPublicKeyInfo`, DER.
    pub spki_der: Vec<u8>,
    /// The key, P-256.
    pub public: PublicJwk,
    /// Whether the subject has no attributes.
    pub subject_empty: bool,
    /// Requested alternative names.
    pub names: AlternativeNames,
    /// How many extensions other than the alternative names, and attributes other than extensions, are asked for.
    pub others: usize,
}

/// Reads a request and verifies its signature.
///
/// # Errors
/// [`X509Error`]; [`X509Error::UnsupportedKey`] for anything but ECDSA P-256 with SHA-256.
pub fn parse_csr_der(der: &[u8]) -> Result<CsrFacts, X509Error> {
    if der.len() > MAX_DER {
        return Err(X509Error::TooLarge);
    }
    // The signed bytes are cut out of the input; a second encoding of what was parsed could differ from them.
    let (signed, algorithm, signature) = split(der)?;
    let request = CertReq::from_der(der).map_err(|_| X509Error::Malformed)?;
    let info = CertReqInfo::from_der(signed).map_err(|_| X509Error::Malformed)?;
    if info != request.info {
        return Err(X509Error::Malformed);
    }
    let PublicKeyKind::P256(point) = public_key(&info.public_key)? else {
        return Err(X509Error::UnsupportedKey);
    };
    if algorithm.oid.to_string() != OID_ECDSA_SHA256 || algorithm.parameters.is_some() {
        return Err(X509Error::UnsupportedKey);
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point.as_slice())
        .verify(signed, signature)
        .map_err(|_| X509Error::BadSignature)?;

    let public = PublicJwk::from_p256_uncompressed(&point).map_err(|_| X509Error::UnsupportedKey)?;
    let (names, others) = requested(&info)?;
    Ok(CsrFacts {
        spki_der: info.public_key.to_der().map_err(|_| X509Error::Malformed)?,
        public,
        subject_empty: info.subject.is_empty(),
        names,
        others,
    })
}

fn split(der: &[u8]) -> Result<(&[u8], AlgorithmIdentifierOwned, &[u8]), X509Error> {
    let parts = || -> x509_cert::der::Result<_> {
        let mut outer = SliceReader::new(der)?;
        let parts = outer.sequence(|reader| {
            let signed = reader.tlv_bytes()?;
            let algorithm = AlgorithmIdentifierOwned::decode(reader)?;
            let signature = BitStringRef::decode(reader)?;
            Ok::<_, x509_cert::der::Error>((signed, algorithm, signature))
        })?;
        outer.finish()?;
        Ok(parts)
    };
    let (signed, algorithm, signature) = parts().map_err(|_| X509Error::Malformed)?;
    Ok((signed, algorithm, whole_bits(&signature)?))
}

fn requested(info: &CertReqInfo) -> Result<(AlternativeNames, usize), X509Error> {
    let mut names = AlternativeNames::default();
    let mut others = 0;
    let mut seen_extensions = false;
    for attribute in info.attributes.iter() {
        if attribute.oid.to_string() != OID_EXTENSION_REQUEST {
            others += 1;
            continue;
        }
        let [value] = attribute.values.as_slice() else { return Err(X509Error::Extensions) };
        if std::mem::replace(&mut seen_extensions, true) {
            return Err(X509Error::Extensions);
        }
        let der = value.to_der().map_err(|_| X509Error::Malformed)?;
        let extensions = decode::<Extensions>(&der)?;
        refuse_duplicates(&extensions)?;
        for extension in &extensions {
            if extension.extn_id.to_string() == OID_SUBJECT_ALT_NAME {
                names = AlternativeNames::parse(extension.extn_value.as_bytes())?;
            } else {
                others += 1;
            }
        }
    }
    Ok((names, others))
}
