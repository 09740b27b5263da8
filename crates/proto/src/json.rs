//! JSON with one meaning: strict I-JSON (RFC 7493) in, canonical JSON (RFC 8785) out.
//!
//! What two parsers could read differently is refused, not repaired: duplicate keys (also keys that differ only
//! by case), numbers a double cannot hold, lone surrogates, trailing bytes. Policy, digest, record and upstream
//! then see the same value. Not a general-purpose JSON library: no streaming, no comments, no big numbers.

mod parse;
mod print;
mod shape;

use ::serde::Serialize;
use ::serde::de::DeserializeOwned;

/// The largest integer every JSON implementation agrees on (RFC 7493 §2.2).
pub const MAX_SAFE_INTEGER: i64 = 9_007_199_254_740_991;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integral number of at most [`MAX_SAFE_INTEGER`] in size, however it was spelled (`1e3` is 1000, `-0` is 0).
    Int(i64),
    /// A finite number that is not integral.
    Float(f64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Value>),
    /// An object.
    Object(Object),
}

/// An object: members in the order they came, no two keys alike.
#[derive(Clone, Debug, Default)]
pub struct Object {
    // INVARIANT: no two keys are equal under `folds_alike`; kept by `insert` and by the parser.
    members: Vec<(String, Value)>,
}

/// Order is not part of an object's meaning.
impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(key, value)| other.get(key) == Some(value))
    }
}

/// How much a document may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the document.
    pub max_bytes: usize,
    /// Lists and objects inside one another; never more than 128, whatever is asked.
    pub max_depth: usize,
    /// Object members and list elements, counted over the whole document.
    pub max_members: usize,
}

impl Limits {
    /// For requests: 1 MiB, 64 levels, 10,000 members.
    pub const DEFAULT: Self = Self { max_bytes: 1 << 20, max_depth: 64, max_members: 10_000 };
    /// For documents we made ourselves (snapshots, reports): 256 MiB, 64 levels, no count.
    pub const OURS: Self = Self { max_bytes: 256 << 20, max_depth: 64, max_members: usize::MAX };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Why bytes are not the JSON they should be, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not strict JSON at byte {offset}: {kind}")]
pub struct JsonError {
    /// Byte offset of the first thing wrong (0 where it concerns the whole).
    pub offset: usize,
    /// What is wrong.
    pub kind: JsonErrorKind,
}

/// What is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonErrorKind {
    /// Longer than [`Limits::max_bytes`].
    #[error("too large")]
    TooLarge,
    /// Deeper than [`Limits::max_depth`].
    #[error("nested too deeply")]
    TooDeep,
    /// More than [`Limits::max_members`].
    #[error("too many members")]
    TooManyMembers,
    /// A byte order mark (RFC 8259 §8.1).
    #[error("byte order mark")]
    ByteOrderMark,
    /// Not UTF-8 (RFC 8259 §8.1).
    #[error("invalid utf-8")]
    Utf8,
    /// A byte that cannot stand here.
    #[error("unexpected byte")]
    Unexpected,
    /// The document ends inside a value.
    #[error("unexpected end")]
    End,
    /// Bytes after the value.
    #[error("trailing bytes")]
    Trailing,
    /// Two members with one key, or with keys that differ only by case (RFC 7493 §2.3).
    #[error("duplicate key")]
    DuplicateKey,
    /// U+0000 in a key.
    #[error("nul in a key")]
    NulInKey,
    /// Half of a surrogate pair (RFC 7493 §2.1).
    #[error("lone surrogate")]
    LoneSurrogate,
    /// A code point that is not a character (RFC 7493 §2.1).
    #[error("noncharacter")]
    Noncharacter,
    /// An unescaped control character.
    #[error("control character")]
    Control,
    /// An escape JSON does not have.
    #[error("invalid escape")]
    Escape,
    /// Not a number by RFC 8259 §6.
    #[error("malformed number")]
    Number,
    /// Infinite as a double, or integral beyond [`MAX_SAFE_INTEGER`] (RFC 7493 §2.2).
    #[error("number out of range")]
    NumberRange,
    /// Sound JSON that is not of the expected shape.
    #[error("unexpected shape: {0}")]
    Shape(String),
}

/// Parses one document.
///
/// # Errors
/// [`JsonError`] at the first thing that is not strict I-JSON or exceeds `limits`.
pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Value, JsonError> {
    parse::document(bytes, limits, parse::Keys::NoTwins)
}

/// Parses one document that must be an object.
///
/// # Errors
/// As [`parse`], and [`JsonErrorKind::Shape`] for anything but an object.
pub fn parse_object(bytes: &[u8], limits: &Limits) -> Result<Object, JsonError> {
    match parse(bytes, limits)? {
        Value::Object(object) => Ok(object),
        _ => Err(JsonError { offset: 0, kind: JsonErrorKind::Shape("not an object".to_owned()) }),
    }
}

/// Parses one document into a type of ours: the same strict reading, then the type's own rules.
///
/// Keys that differ only by case are two keys here, because maps of ours are keyed by case-sensitive names.
///
/// # Errors
/// As [`parse`], and [`JsonErrorKind::Shape`] where the value is not a `T`.
pub fn typed<T: DeserializeOwned>(bytes: &[u8], limits: &Limits) -> Result<T, JsonError> {
    parse::document(bytes, limits, parse::Keys::Exact)?.into_typed()
}

/// The JSON value of a type of ours.
///
/// # Errors
/// [`JsonError`] if `value` has no strict JSON form (integers beyond 2^53-1, keys alike, map keys not text).
pub fn from_serde<T: Serialize + ?Sized>(value: &T) -> Result<Value, JsonError> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| JsonError { offset: 0, kind: JsonErrorKind::Shape(error.to_string()) })?;
    parse(&bytes, &Limits::OURS)
}

impl Value {
    /// This value as canonical JSON (RFC 8785).
    #[must_use]
    pub fn to_jcs(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        self.write_jcs(&mut out);
        out
    }

    /// Appends this value as canonical JSON (RFC 8785).
    pub fn write_jcs(&self, out: &mut Vec<u8>) {
        print::value(self, out);
    }

    /// Reads this value as a type of ours.
    ///
    /// # Errors
    /// [`JsonErrorKind::Shape`] where the value is not a `T`.
    pub fn into_typed<T: DeserializeOwned>(self) -> Result<T, JsonError> {
        T::deserialize(self).map_err(JsonError::from)
    }

    /// The text, if this is text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The integer, if this is one.
    #[must_use]
    pub const fn as_i64(&self) -> Option<i64> {
        if let Self::Int(int) = self { Some(*int) } else { None }
    }

    /// The boolean, if this is one.
    #[must_use]
    pub const fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(bool) = self { Some(*bool) } else { None }
    }

    /// The elements, if this is a list.
    #[must_use]
    pub fn as_list(&self) -> Option<&[Self]> {
        if let Self::List(list) = self { Some(list) } else { None }
    }

    /// The object, if this is one.
    #[must_use]
    pub const fn as_object(&self) -> Option<&Object> {
        if let Self::Object(object) = self { Some(object) } else { None }
    }
}

impl Object {
    /// An empty object.
    #[must_use]
    pub const fn new() -> Self {
        Self { members: Vec::new() }
    }

    /// The member called `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.members.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// Adds a member.
    ///
    /// # Errors
    /// [`JsonErrorKind::DuplicateKey`] if a key like it is there already, [`JsonErrorKind::NulInKey`] for U+0000.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Result<(), JsonError> {
        let key = key.into();
        let kind = if key.contains('\0') {
            JsonErrorKind::NulInKey
        } else if self.has_twin_of(&key) {
            JsonErrorKind::DuplicateKey
        } else {
            self.members.push((key, value.into()));
            return Ok(());
        };
        Err(JsonError { offset: 0, kind })
    }

    /// As [`folds_alike`] with any name, without looking at the key anew for each: objects are built on every call.
    fn has_twin_of(&self, key: &str) -> bool {
        let ascii = key.is_ascii();
        self.members.iter().any(|(name, _)| {
            // `eq_ignore_ascii_case` compares lengths first. What is equal to it is alike in every alphabet.
            name.eq_ignore_ascii_case(key) || (!(ascii && name.is_ascii()) && folded(name) == folded(key))
        })
    }

    /// Takes a member out.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.members.iter().position(|(name, _)| name == key)?;
        Some(self.members.remove(at).1)
    }

    /// The members in the order they came.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.members.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// How many members there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no member.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Appends this object as canonical JSON (RFC 8785).
    pub fn write_jcs(&self, out: &mut Vec<u8>) {
        print::object(self, out);
    }

    /// This object as canonical JSON (RFC 8785).
    #[must_use]
    pub fn to_jcs(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        self.write_jcs(&mut out);
        out
    }
}

impl IntoIterator for Object {
    type Item = (String, Value);
    type IntoIter = std::vec::IntoIter<(String, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.members.into_iter()
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Value {
    fn from(bool: bool) -> Self {
        Self::Bool(bool)
    }
}

impl From<u32> for Value {
    fn from(int: u32) -> Self {
        Self::Int(i64::from(int))
    }
}

impl From<i32> for Value {
    fn from(int: i32) -> Self {
        Self::Int(i64::from(int))
    }
}

impl From<Vec<Value>> for Value {
    fn from(list: Vec<Value>) -> Self {
        Self::List(list)
    }
}

impl Value {
    /// An integer as a value.
    ///
    /// # Errors
    /// [`JsonErrorKind::NumberRange`] beyond [`MAX_SAFE_INTEGER`].
    pub const fn int(int: i64) -> Result<Self, JsonError> {
        if int.unsigned_abs() <= MAX_SAFE_INTEGER.unsigned_abs() {
            Ok(Self::Int(int))
        } else {
            Err(JsonError { offset: 0, kind: JsonErrorKind::NumberRange })
        }
    }

    /// A double as a value: integral ones become [`Value::Int`].
    ///
    /// # Errors
    /// [`JsonErrorKind::NumberRange`] for infinities, NaN and integral values beyond [`MAX_SAFE_INTEGER`].
    pub fn double(double: f64) -> Result<Self, JsonError> {
        const BOUND: f64 = 9_007_199_254_740_991.0;
        if double.is_finite() && double.fract() != 0.0 {
            Ok(Self::Float(double))
        } else if double.abs() <= BOUND {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "integral and within ±(2^53-1): the cast is exact"
            )]
            Ok(Self::Int(double as i64))
        } else {
            Err(JsonError { offset: 0, kind: JsonErrorKind::NumberRange })
        }
    }
}

/// Whether a sloppy reader could take one key for the other: equal up to case, Unicode's odd cases included.
fn folds_alike(one: &str, other: &str) -> bool {
    if one.is_ascii() && other.is_ascii() {
        one.eq_ignore_ascii_case(other)
    } else {
        folded(one) == folded(other)
    }
}

/// Upper, then lower: so that `ſ`, `s` and `S` meet, as do the Kelvin sign and `k`.
fn folded(key: &str) -> String {
    key.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests;
