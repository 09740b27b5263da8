//! `TPMT_PUBLIC` (Part 2 §12.2.4) for RSA and NIST-curve keys, and its Name.
//!
//! Keyed hash and symmetric objects do not parse: nothing here attests with them.

use super::{HashAlg, Reader, TpmError, Writer, alg, curve};

/// The public area of a loaded or loadable object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmtPublic {
    /// Hash of the Name and of everything that depends on it.
    pub name_alg: HashAlg,
    /// What the TPM enforces about the object.
    pub attributes: Attributes,
    /// Policy digest, empty if none.
    pub auth_policy: Vec<u8>,
    /// Algorithm parameters; the variant is the object type.
    pub params: Params,
    /// The public key itself.
    pub unique: Unique,
}

/// `TPMA_OBJECT` (Part 2 §8.3), bits by name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attributes(u32);

/// `TPMU_PUBLIC_PARMS` for the two types that we accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Params {
    /// `TPMS_RSA_PARMS`.
    Rsa {
        /// For storage keys: how children are protected.
        symmetric: Symmetric,
        /// Fixed scheme, or none.
        scheme: Scheme,
        /// Modulus length in bits.
        key_bits: u16,
        /// Public exponent; 0 stands for 65537.
        exponent: u32,
    },
    /// `TPMS_ECC_PARMS`; the KDF is always `TPM_ALG_NULL`.
    Ecc {
        /// For storage keys: how children are protected.
        symmetric: Symmetric,
        /// Fixed scheme, or none.
        scheme: Scheme,
        /// [`curve::P256`] or [`curve::P384`].
        curve: u16,
    },
}

/// `TPMT_SYM_DEF_OBJECT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symmetric {
    /// `TPM_ALG_NULL`: not a storage key.
    Null,
    /// AES in CFB mode with keys of so many bits (128 or 256).
    AesCfb(u16),
}

/// `TPMT_RSA_SCHEME` / `TPMT_ECC_SCHEME`: an algorithm and, where it has one, its hash as `TPM_ALG_ID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `TPM_ALG_NULL`: chosen at use.
    Null,
    /// RSASSA, RSAPSS or ECDSA with a hash.
    Signing {
        /// [`alg::RSASSA`], [`alg::RSAPSS`] or [`alg::ECDSA`].
        scheme: u16,
        /// Hash of the signed message.
        hash: HashAlg,
    },
}

/// `TPMU_PUBLIC_ID` for the two types that we accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unique {
    /// Modulus, big-endian. Empty or zero in a template.
    Rsa(Vec<u8>),
    /// Point. Empty or zero in a template.
    Ecc(EccPoint),
}

/// `TPMS_ECC_POINT`, coordinates big-endian and possibly with leading zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EccPoint {
    /// Abscissa.
    pub x: Vec<u8>,
    /// Ordinate.
    pub y: Vec<u8>,
}

impl TpmtPublic {
    /// Parses one whole `TPMT_PUBLIC` (without the two length bytes of a `TPM2B_PUBLIC`).
    ///
    /// # Errors
    /// [`TpmError`] for anything that is not exactly one such structure of an accepted kind.
    pub fn parse(bytes: &[u8]) -> Result<Self, TpmError> {
        let mut reader = Reader::new(bytes);
        let public = Self::read(&mut reader)?;
        reader.finish()?;
        // INVARIANT: what was accepted has one encoding, so that name() is the Name of the received bytes.
        if public.to_bytes()? != bytes {
            return Err(TpmError::InvalidValue);
        }
        Ok(public)
    }

    /// Parses the body of a `TPM2B_PUBLIC` including its length, with nothing after it.
    ///
    /// # Errors
    /// As [`TpmtPublic::parse`].
    pub fn parse_sized(bytes: &[u8]) -> Result<Self, TpmError> {
        let mut reader = Reader::new(bytes);
        let body = reader.sized()?;
        reader.finish()?;
        Self::parse(body)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, TpmError> {
        let object_type = reader.u16()?;
        let name_alg = HashAlg::from_id(reader.u16()?)?;
        let attributes = Attributes::from_bits(reader.u32()?)?;
        let auth_policy = reader.sized()?.to_vec();
        if !auth_policy.is_empty() && auth_policy.len() != name_alg.len() {
            return Err(TpmError::InvalidValue);
        }
        let (params, unique) = match object_type {
            alg::RSA => {
                let symmetric = Symmetric::read(reader)?;
                let scheme = Scheme::read(reader)?;
                let key_bits = reader.u16()?;
                let exponent = reader.u32()?;
                let modulus = reader.sized()?;
                if !matches!(key_bits, 1024 | 2048 | 3072 | 4096) || modulus.len() > usize::from(key_bits / 8)
                {
                    return Err(TpmError::InvalidValue);
                }
                (Params::Rsa { symmetric, scheme, key_bits, exponent }, Unique::Rsa(modulus.to_vec()))
            }
            alg::ECC => {
                let symmetric = Symmetric::read(reader)?;
                let scheme = Scheme::read(reader)?;
                let curve = reader.u16()?;
                let field = curve_field_len(curve)?;
                let kdf = reader.u16()?;
                if kdf != alg::NULL {
                    return Err(TpmError::UnsupportedAlgorithm(kdf));
                }
                let point = EccPoint { x: reader.sized()?.to_vec(), y: reader.sized()?.to_vec() };
                if point.x.len() > field || point.y.len() > field {
                    return Err(TpmError::InvalidValue);
                }
                (Params::Ecc { symmetric, scheme, curve }, Unique::Ecc(point))
            }
            other => return Err(TpmError::UnsupportedAlgorithm(other)),
        };
        Ok(Self { name_alg, attributes, auth_policy, params, unique })
    }

    /// Encodes as `TPMT_PUBLIC`.
    ///
    /// # Errors
    /// [`TpmError::InvalidValue`] if key type and key do not match, [`TpmError::TooLong`] for an oversized field.
    pub fn to_bytes(&self) -> Result<Vec<u8>, TpmError> {
        let mut out = Writer::new();
        out.u16(self.object_type())
            .u16(self.name_alg.id())
            .u32(self.attributes.bits())
            .sized(&self.auth_policy);
        match (&self.params, &self.unique) {
            (Params::Rsa { symmetric, scheme, key_bits, exponent }, Unique::Rsa(modulus)) => {
                symmetric.write(&mut out);
                scheme.write(&mut out);
                out.u16(*key_bits).u32(*exponent).sized(modulus);
            }
            (Params::Ecc { symmetric, scheme, curve }, Unique::Ecc(point)) => {
                symmetric.write(&mut out);
                scheme.write(&mut out);
                out.u16(*curve).u16(alg::NULL).sized(&point.x).sized(&point.y);
            }
            (Params::Rsa { .. }, Unique::Ecc(_)) | (Params::Ecc { .. }, Unique::Rsa(_)) => {
                return Err(TpmError::InvalidValue);
            }
        }
        out.finish()
    }

    /// The object type as `TPM_ALG_ID`.
    #[must_use]
    pub const fn object_type(&self) -> u16 {
        match self.params {
            Params::Rsa { .. } => alg::RSA,
            Params::Ecc { .. } => alg::ECC,
        }
    }

    /// The symmetric parameters (storage keys and EKs have them).
    #[must_use]
    pub const fn symmetric(&self) -> Symmetric {
        match self.params {
            Params::Rsa { symmetric, .. } | Params::Ecc { symmetric, .. } => symmetric,
        }
    }

    /// The fixed scheme.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        match self.params {
            Params::Rsa { scheme, .. } | Params::Ecc { scheme, .. } => scheme,
        }
    }

    /// `nameAlg ‖ H_nameAlg(TPMT_PUBLIC)` (Part 1 §16).
    ///
    /// A structure that cannot be encoded has no Name: the result is then empty and equals no Name.
    #[must_use]
    pub fn name(&self) -> Vec<u8> {
        let Ok(bytes) = self.to_bytes() else { return Vec::new() };
        let mut name = self.name_alg.id().to_be_bytes().to_vec();
        name.extend(self.name_alg.digest(&[&bytes]));
        name
    }

    /// The Name qualified by its parent: `nameAlg ‖ H_nameAlg(parent_qualified_name ‖ name)` (Part 1 §16).
    /// For a primary object the parent's is the hierarchy handle, big-endian.
    #[must_use]
    pub fn qualified_name(&self, parent_qualified_name: &[u8]) -> Vec<u8> {
        let mut name = self.name_alg.id().to_be_bytes().to_vec();
        name.extend(self.name_alg.digest(&[parent_qualified_name, &self.name()]));
        name
    }
}

impl Attributes {
    /// The TPM never lets the object leave it.
    pub const FIXED_TPM: u32 = 1 << 1;
    /// Cannot be orphaned by a start-up with clear.
    pub const ST_CLEAR: u32 = 1 << 2;
    /// The object cannot be moved below another parent.
    pub const FIXED_PARENT: u32 = 1 << 4;
    /// The TPM made the secret part itself.
    pub const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    /// May be used with its authorization value.
    pub const USER_WITH_AUTH: u32 = 1 << 6;
    /// Administration needs the policy.
    pub const ADMIN_WITH_POLICY: u32 = 1 << 7;
    /// Not subject to dictionary attack protection.
    pub const NO_DA: u32 = 1 << 10;
    /// Duplication needs encryption.
    pub const ENCRYPTED_DUPLICATION: u32 = 1 << 11;
    /// Works only on structures that the TPM made.
    pub const RESTRICTED: u32 = 1 << 16;
    /// May decrypt.
    pub const DECRYPT: u32 = 1 << 17;
    /// May sign.
    pub const SIGN: u32 = 1 << 18;
    /// `x509sign`.
    pub const X509_SIGN: u32 = 1 << 19;

    const DEFINED: u32 = Self::FIXED_TPM
        | Self::ST_CLEAR
        | Self::FIXED_PARENT
        | Self::SENSITIVE_DATA_ORIGIN
        | Self::USER_WITH_AUTH
        | Self::ADMIN_WITH_POLICY
        | Self::NO_DA
        | Self::ENCRYPTED_DUPLICATION
        | Self::RESTRICTED
        | Self::DECRYPT
        | Self::SIGN
        | Self::X509_SIGN;

    /// Born in this TPM and unable to leave it.
    pub const RESIDENT: u32 = Self::FIXED_TPM | Self::FIXED_PARENT | Self::SENSITIVE_DATA_ORIGIN;

    /// A resident object's attributes and the defined bits of `more`.
    #[must_use]
    pub const fn resident(more: u32) -> Self {
        Self((Self::RESIDENT | more) & Self::DEFINED)
    }

    /// From the wire.
    ///
    /// # Errors
    /// [`TpmError::InvalidValue`] if a reserved bit is set.
    pub const fn from_bits(bits: u32) -> Result<Self, TpmError> {
        if bits & !Self::DEFINED == 0 { Ok(Self(bits)) } else { Err(TpmError::InvalidValue) }
    }

    /// To the wire.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether every bit of `mask` is set.
    #[must_use]
    pub const fn has(self, mask: u32) -> bool {
        self.0 & mask == mask
    }

    /// Whether any bit of `mask` is set.
    #[must_use]
    pub const fn has_any(self, mask: u32) -> bool {
        self.0 & mask != 0
    }
}

impl std::fmt::Debug for Attributes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Attributes({:#010x})", self.0)
    }
}

impl Symmetric {
    fn read(reader: &mut Reader<'_>) -> Result<Self, TpmError> {
        match reader.u16()? {
            alg::NULL => Ok(Self::Null),
            alg::AES => match (reader.u16()?, reader.u16()?) {
                (bits @ (128 | 256), alg::CFB) => Ok(Self::AesCfb(bits)),
                _ => Err(TpmError::InvalidValue),
            },
            other => Err(TpmError::UnsupportedAlgorithm(other)),
        }
    }

    fn write(self, out: &mut Writer) {
        match self {
            Self::Null => out.u16(alg::NULL),
            Self::AesCfb(bits) => out.u16(alg::AES).u16(bits).u16(alg::CFB),
        };
    }
}

impl Scheme {
    fn read(reader: &mut Reader<'_>) -> Result<Self, TpmError> {
        match reader.u16()? {
            alg::NULL => Ok(Self::Null),
            scheme @ (alg::RSASSA | alg::RSAPSS | alg::ECDSA) => {
                Ok(Self::Signing { scheme, hash: HashAlg::from_id(reader.u16()?)? })
            }
            other => Err(TpmError::UnsupportedAlgorithm(other)),
        }
    }

    fn write(self, out: &mut Writer) {
        match self {
            Self::Null => out.u16(alg::NULL),
            Self::Signing { scheme, hash } => out.u16(scheme).u16(hash.id()),
        };
    }
}

/// Bytes per coordinate.
pub(super) const fn curve_field_len(id: u16) -> Result<usize, TpmError> {
    match id {
        curve::P256 => Ok(32),
        curve::P384 => Ok(48),
        _ => Err(TpmError::UnsupportedCurve(id)),
    }
}
