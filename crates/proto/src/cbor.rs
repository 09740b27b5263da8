//! CBOR (RFC 8949) as attestation statements use it: definite lengths, shortest integers, no tags, no floats.
//!
//! One value, one meaning: duplicate map keys, longer-than-needed lengths and trailing bytes are refused. Map order
//! is not enforced, since authenticators and ACME clients differ. Not a general CBOR library.

/// Longest accepted input in bytes.
pub const MAX_BYTES: usize = 64 * 1024;
/// Deepest nesting of arrays and maps.
pub const MAX_DEPTH: usize = 16;
/// Most items of all kinds in one input, so that one-byte items cannot be turned into a large tree.
pub const MAX_ITEMS: usize = 4096;

/// A CBOR data item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Major type 0.
    Uint(u64),
    /// Major type 1, as the (negative) number itself.
    Neg(i64),
    /// Major type 2.
    Bytes(Vec<u8>),
    /// Major type 3.
    Text(String),
    /// Major type 4.
    Array(Vec<Item>),
    /// Major type 5, in the order read; keys are unique.
    Map(Vec<(Item, Item)>),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
}

/// Why bytes are not one acceptable CBOR item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// The input ends inside an item.
    #[error("cbor item is cut short")]
    Truncated,
    /// Bytes follow the item.
    #[error("bytes follow the cbor item")]
    TrailingBytes,
    /// More than [`MAX_BYTES`], [`MAX_DEPTH`] or [`MAX_ITEMS`].
    #[error("cbor item exceeds a limit")]
    TooLarge,
    /// Indefinite length (RFC 8949 §3.2).
    #[error("cbor item has an indefinite length")]
    Indefinite,
    /// A length or number in a longer form than needed (RFC 8949 §4.2.1).
    #[error("cbor number is not in its shortest form")]
    NotShortest,
    /// Tag, float, undefined, reserved simple value, or a number beyond `i64`.
    #[error("cbor type is not supported")]
    Unsupported,
    /// Text that is not UTF-8.
    #[error("cbor text is not utf-8")]
    NotUtf8,
    /// A map holds a key twice.
    #[error("cbor map has a duplicate key")]
    DuplicateKey,
}

impl Item {
    /// Parses exactly one item.
    ///
    /// # Errors
    /// [`CborError`] for anything else, trailing bytes included.
    pub fn parse(bytes: &[u8]) -> Result<Self, CborError> {
        match Self::parse_prefix(bytes)? {
            (item, []) => Ok(item),
            (_, _) => Err(CborError::TrailingBytes),
        }
    }

    /// Parses one item at the front and hands back what follows (`WebAuthn` puts extensions behind the COSE key).
    ///
    /// # Errors
    /// [`CborError`] if no acceptable item stands there.
    pub fn parse_prefix(bytes: &[u8]) -> Result<(Self, &[u8]), CborError> {
        if bytes.len() > MAX_BYTES {
            return Err(CborError::TooLarge);
        }
        let mut parser = Parser { rest: bytes, items_left: MAX_ITEMS };
        let item = parser.item(0)?;
        Ok((item, parser.rest))
    }

    /// Encodes with shortest lengths, map entries in the order given.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// A map with text keys.
    #[must_use]
    pub fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        Self::Map(entries.into_iter().map(|(key, value)| (Self::Text(key.to_owned()), value)).collect())
    }

    /// The value of a text key, if this is a map that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.find(|candidate| candidate.as_text() == Some(key))
    }

    /// The value of an integer key (COSE), if this is a map that has it.
    #[must_use]
    pub fn get_int(&self, key: i64) -> Option<&Self> {
        self.find(|candidate| candidate.as_i64() == Some(key))
    }

    fn find(&self, is_key: impl Fn(&Self) -> bool) -> Option<&Self> {
        let Self::Map(entries) = self else { return None };
        entries.iter().find(|(key, _)| is_key(key)).map(|(_, value)| value)
    }

    /// An integer that fits `i64`.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Uint(value) => i64::try_from(*value).ok(),
            Self::Neg(value) => Some(*value),
            Self::Bytes(_) | Self::Text(_) | Self::Array(_) | Self::Map(_) | Self::Bool(_) | Self::Null => {
                None
            }
        }
    }

    /// A byte string.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    /// A text string.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// An array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Self]> {
        if let Self::Array(items) = self { Some(items) } else { None }
    }

    /// A map.
    #[must_use]
    pub fn as_map(&self) -> Option<&[(Self, Self)]> {
        if let Self::Map(entries) = self { Some(entries) } else { None }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Uint(value) => head(out, 0, *value),
            // -1 - n with n = !value, which is not negative because value is.
            Self::Neg(value) => head(out, 1, (!*value).unsigned_abs()),
            Self::Bytes(bytes) => {
                head(out, 2, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
            Self::Text(text) => {
                head(out, 3, text.len() as u64);
                out.extend_from_slice(text.as_bytes());
            }
            Self::Array(items) => {
                head(out, 4, items.len() as u64);
                items.iter().for_each(|item| item.write(out));
            }
            Self::Map(entries) => {
                head(out, 5, entries.len() as u64);
                for (key, value) in entries {
                    key.write(out);
                    value.write(out);
                }
            }
            Self::Bool(false) => out.push(0xf4),
            Self::Bool(true) => out.push(0xf5),
            Self::Null => out.push(0xf6),
        }
    }
}

fn head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let bytes = argument.to_be_bytes();
    let (info, used) = match argument {
        0..=23 => (bytes[7], 0),
        24..=0xff => (24, 1),
        0x100..=0xffff => (25, 2),
        0x1_0000..=0xffff_ffff => (26, 4),
        _ => (27, 8),
    };
    out.push(major << 5 | info);
    out.extend_from_slice(&bytes[8 - used..]);
}

struct Parser<'a> {
    rest: &'a [u8],
    items_left: usize,
}

impl<'a> Parser<'a> {
    fn item(&mut self, depth: usize) -> Result<Item, CborError> {
        self.items_left = self.items_left.checked_sub(1).ok_or(CborError::TooLarge)?;
        let [first] = self.take()?;
        let (major, info) = (first >> 5, first & 0x1f);
        if major == 7 {
            return match info {
                20 => Ok(Item::Bool(false)),
                21 => Ok(Item::Bool(true)),
                22 => Ok(Item::Null),
                _ => Err(CborError::Unsupported),
            };
        }
        let argument = self.argument(info)?;
        match major {
            0 => Ok(Item::Uint(argument)),
            1 => i64::try_from(argument).map(|n| Item::Neg(!n)).map_err(|_| CborError::Unsupported),
            2 => Ok(Item::Bytes(self.slice(argument)?.to_vec())),
            3 => {
                let text = std::str::from_utf8(self.slice(argument)?).map_err(|_| CborError::NotUtf8)?;
                Ok(Item::Text(text.to_owned()))
            }
            4 => {
                let count = self.count(argument, depth)?;
                // INVARIANT: memory grows with items read, never with a claimed count.
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(self.item(depth + 1)?);
                }
                Ok(Item::Array(items))
            }
            5 => {
                let count = self.count(argument, depth)?;
                let mut entries: Vec<(Item, Item)> = Vec::new();
                for _ in 0..count {
                    let key = self.item(depth + 1)?;
                    if !matches!(key, Item::Uint(_) | Item::Neg(_) | Item::Bytes(_) | Item::Text(_)) {
                        return Err(CborError::Unsupported);
                    }
                    if entries.iter().any(|(known, _)| *known == key) {
                        return Err(CborError::DuplicateKey);
                    }
                    let value = self.item(depth + 1)?;
                    entries.push((key, value));
                }
                Ok(Item::Map(entries))
            }
            _ => Err(CborError::Unsupported),
        }
    }

    fn argument(&mut self, info: u8) -> Result<u64, CborError> {
        let (value, least) = match info {
            0..=23 => return Ok(u64::from(info)),
            24 => (u64::from(u8::from_be_bytes(self.take()?)), 24),
            25 => (u64::from(u16::from_be_bytes(self.take()?)), 0x100),
            26 => (u64::from(u32::from_be_bytes(self.take()?)), 0x1_0000),
            27 => (u64::from_be_bytes(self.take()?), 0x1_0000_0000),
            31 => return Err(CborError::Indefinite),
            _ => return Err(CborError::Unsupported),
        };
        if value < least { Err(CborError::NotShortest) } else { Ok(value) }
    }

    fn count(&self, argument: u64, depth: usize) -> Result<usize, CborError> {
        if depth >= MAX_DEPTH {
            return Err(CborError::TooLarge);
        }
        usize::try_from(argument).ok().filter(|count| *count <= self.rest.len()).ok_or(CborError::Truncated)
    }

    fn slice(&mut self, length: u64) -> Result<&'a [u8], CborError> {
        let length = usize::try_from(length).map_err(|_| CborError::Truncated)?;
        let (head, tail) = self.rest.split_at_checked(length).ok_or(CborError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], CborError> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(CborError::Truncated)?;
        self.rest = tail;
        Ok(*head)
    }
}

#[cfg(test)]
mod tests;
