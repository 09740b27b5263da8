//! Subject alternative names (RFC 5280 §4.2.1.6), with the kinds that name machines told apart.
//!
//! Every entry ends up in exactly one list, so that "and nothing else" can be asked.

use x509_cert::der::asn1::{AnyRef, ObjectIdentifier, Utf8StringRef};
use x509_cert::der::{Decode as _, Encode as _, Tag, Tagged as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::{GeneralName, OtherName};
use x509_cert::name::Name;

use super::X509Error;

/// `id-on-permanentIdentifier` (RFC 4043 §2).
const OID_PERMANENT_IDENTIFIER: &str = "1.3.6.1.5.5.7.8.3";
/// `tcg-at-tpmManufacturer`, `-tpmModel`, `-tpmVersion` (TCG EK Credential Profile §3.2.9).
const OID_TPM_MANUFACTURER: &str = "2.23.133.2.1";
const OID_TPM_MODEL: &str = "2.23.133.2.2";
const OID_TPM_VERSION: &str = "2.23.133.2.3";

/// The alternative names of a subject, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlternativeNames {
    /// `uniformResourceIdentifier`.
    pub uris: Vec<String>,
    /// `dNSName`.
    pub dns: Vec<String>,
    /// `directoryName`, as pairs of dotted identifier and text; values that are no text are the empty string.
    pub directory: Vec<Vec<(String, String)>>,
    /// `otherName` permanent identifiers (RFC 4043) without an assigner, octet for octet.
    pub permanent_identifiers: Vec<String>,
    /// How many entries are of any other kind: email, address, hardware module, assigned permanent identifier, …
    pub others: usize,
}

/// Who made the TPM, as its certificates say.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmIdentity {
    /// Such as `id:49465800`.
    pub manufacturer: String,
    /// Part number.
    pub model: String,
    /// Firmware version.
    pub version: String,
}

impl AlternativeNames {
    /// Reads the value of the extension.
    pub(super) fn parse(der: &[u8]) -> Result<Self, X509Error> {
        let entries = SubjectAltName::from_der(der).map_err(|_| X509Error::Malformed)?.0;
        let mut names = Self::default();
        for entry in &entries {
            match entry {
                GeneralName::UniformResourceIdentifier(uri) => names.uris.push(uri.as_str().to_owned()),
                GeneralName::DnsName(name) => names.dns.push(name.as_str().to_owned()),
                GeneralName::DirectoryName(name) => names.directory.push(attributes(name)),
                GeneralName::OtherName(other) => match permanent_identifier(other)? {
                    Some(value) => names.permanent_identifiers.push(value),
                    None => names.others += 1,
                },
                GeneralName::Rfc822Name(_)
                | GeneralName::EdiPartyName(_)
                | GeneralName::IpAddress(_)
                | GeneralName::RegisteredId(_) => names.others += 1,
            }
        }
        Ok(names)
    }

    /// Whether there is no entry of any kind.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The TPM's maker, model and version, if exactly one directory name says each exactly once.
    #[must_use]
    pub fn tpm_identity(&self) -> Option<TpmIdentity> {
        let [name] = self.directory.as_slice() else { return None };
        let one = |oid: &str| {
            let mut values = name.iter().filter(|(known, value)| known == oid && !value.is_empty());
            match (values.next(), values.next()) {
                (Some((_, value)), None) => Some(value.clone()),
                _ => None,
            }
        };
        Some(TpmIdentity {
            manufacturer: one(OID_TPM_MANUFACTURER)?,
            model: one(OID_TPM_MODEL)?,
            version: one(OID_TPM_VERSION)?,
        })
    }
}

fn attributes(name: &Name) -> Vec<(String, String)> {
    name.iter()
        .map(|attribute| {
            let value = match attribute.value.tag() {
                Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => {
                    std::str::from_utf8(attribute.value.value()).unwrap_or_default().to_owned()
                }
                _ => String::new(),
            };
            (attribute.oid.to_string(), value)
        })
        .collect()
}

/// `PermanentIdentifier ::= SEQUENCE { identifierValue UTF8String OPTIONAL, assigner OBJECT IDENTIFIER OPTIONAL }`.
/// One with an assigner, or without a value, is another kind of name and not ours.
fn permanent_identifier(other: &OtherName) -> Result<Option<String>, X509Error> {
    if other.type_id.to_string() != OID_PERMANENT_IDENTIFIER {
        return Ok(None);
    }
    let der = other.value.to_der().map_err(|_| X509Error::Malformed)?;
    let sequence = AnyRef::from_der(&der).map_err(|_| X509Error::Malformed)?;
    let (value, assigner) = sequence
        .sequence(|reader| {
            let value = Option::<Utf8StringRef<'_>>::decode(reader)?;
            let assigner = Option::<ObjectIdentifier>::decode(reader)?;
            Ok::<_, x509_cert::der::Error>((value.map(|text| text.as_str().to_owned()), assigner))
        })
        .map_err(|_| X509Error::Malformed)?;
    Ok(value.filter(|_| assigner.is_none()))
}

/// The `GeneralName` bytes of a permanent identifier without an assigner, for those who write certificates.
///
/// # Errors
/// [`X509Error::Malformed`] if the text is too long for DER.
pub fn permanent_identifier_der(value: &str) -> Result<Vec<u8>, X509Error> {
    let encode = || -> x509_cert::der::Result<Vec<u8>> {
        // A SEQUENCE OF with one element encodes as the SEQUENCE without an assigner does.
        let value = x509_cert::der::asn1::Any::encode_from(&vec![Utf8StringRef::new(value)?])?;
        GeneralName::OtherName(OtherName {
            type_id: ObjectIdentifier::new_unwrap(OID_PERMANENT_IDENTIFIER),
            value,
        })
        .to_der()
    };
    encode().map_err(|_| X509Error::Malformed)
}
