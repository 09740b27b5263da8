//! The parser: one pass over checked UTF-8, no look-back, recursion bounded.

use super::{JsonError, JsonErrorKind, Limits, MAX_SAFE_INTEGER, Object, Value, folded, folds_alike};

/// Bounds the stack whatever the caller's limits say.
const HARD_MAX_DEPTH: usize = 128;
/// Up to here keys are compared pairwise; beyond, through a set.
const PAIRWISE_KEYS: usize = 16;

/// When two keys of one object are too alike.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    /// Equal up to case.
    NoTwins,
    /// Equal.
    Exact,
}

pub(super) fn document(bytes: &[u8], limits: &Limits, keys: Keys) -> Result<Value, JsonError> {
    let fail = |offset, kind| Err(JsonError { offset, kind });
    if bytes.len() > limits.max_bytes {
        return fail(limits.max_bytes, JsonErrorKind::TooLarge);
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return fail(0, JsonErrorKind::ByteOrderMark);
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return fail(error.valid_up_to(), JsonErrorKind::Utf8),
    };
    let mut parser = Parser {
        text,
        bytes,
        at: 0,
        depth_left: limits.max_depth.min(HARD_MAX_DEPTH),
        members_left: limits.max_members,
        keys,
    };
    parser.skip_space();
    let value = parser.value()?;
    parser.skip_space();
    if parser.at == bytes.len() { Ok(value) } else { parser.fail(JsonErrorKind::Trailing) }
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth_left: usize,
    members_left: usize,
    keys: Keys,
}

impl Parser<'_> {
    fn fail<T>(&self, kind: JsonErrorKind) -> Result<T, JsonError> {
        Err(JsonError { offset: self.at, kind })
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn unexpected<T>(&self) -> Result<T, JsonError> {
        self.fail(if self.at < self.bytes.len() { JsonErrorKind::Unexpected } else { JsonErrorKind::End })
    }

    fn value(&mut self) -> Result<Value, JsonError> {
        match self.peek() {
            Some(b'"') => self.string().map(Value::Text),
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::list),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            _ => self.unexpected(),
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, JsonError> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(value)
        } else {
            self.fail(JsonErrorKind::Unexpected)
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Value, JsonError>) -> Result<Value, JsonError> {
        if self.depth_left == 0 {
            return self.fail(JsonErrorKind::TooDeep);
        }
        self.depth_left -= 1;
        self.at += 1;
        self.skip_space();
        let value = read(self)?;
        self.depth_left += 1;
        Ok(value)
    }

    fn count_member(&mut self) -> Result<(), JsonError> {
        if self.members_left == 0 {
            return self.fail(JsonErrorKind::TooManyMembers);
        }
        self.members_left -= 1;
        Ok(())
    }

    /// After an element: `,` goes on, `close` ends, anything else is an error.
    fn goes_on(&mut self, close: u8) -> Result<bool, JsonError> {
        self.skip_space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.skip_space();
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => self.unexpected(),
        }
    }

    fn list(&mut self) -> Result<Value, JsonError> {
        let mut list = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::List(list));
        }
        loop {
            self.count_member()?;
            list.push(self.value()?);
            if !self.goes_on(b']')? {
                return Ok(Value::List(list));
            }
        }
    }

    fn object(&mut self) -> Result<Value, JsonError> {
        let start = self.at;
        let mut members: Vec<(String, Value)> = Vec::new();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(Object { members }));
        }
        loop {
            self.count_member()?;
            if self.peek() != Some(b'"') {
                return self.unexpected();
            }
            let key_at = self.at;
            let key = self.string()?;
            if key.as_bytes().contains(&0) {
                return Err(JsonError { offset: key_at, kind: JsonErrorKind::NulInKey });
            }
            if members.len() < PAIRWISE_KEYS && members.iter().any(|(name, _)| self.too_alike(name, &key)) {
                return Err(JsonError { offset: key_at, kind: JsonErrorKind::DuplicateKey });
            }
            self.skip_space();
            if self.peek() != Some(b':') {
                return self.unexpected();
            }
            self.at += 1;
            self.skip_space();
            let value = self.value()?;
            members.push((key, value));
            if !self.goes_on(b'}')? {
                break;
            }
        }
        if members.len() > PAIRWISE_KEYS && self.any_alike(&members) {
            return Err(JsonError { offset: start, kind: JsonErrorKind::DuplicateKey });
        }
        Ok(Value::Object(Object { members }))
    }

    fn too_alike(&self, one: &str, other: &str) -> bool {
        match self.keys {
            Keys::NoTwins => folds_alike(one, other),
            Keys::Exact => one == other,
        }
    }

    fn any_alike(&self, members: &[(String, Value)]) -> bool {
        let mut seen = std::collections::HashSet::with_capacity(members.len());
        match self.keys {
            Keys::NoTwins => {
                !members.iter().all(|(key, _)| seen.insert(std::borrow::Cow::Owned(folded(key))))
            }
            Keys::Exact => {
                !members.iter().all(|(key, _)| seen.insert(std::borrow::Cow::Borrowed(key.as_str())))
            }
        }
    }

    /// Reads a string; `at` is on its opening quote.
    fn string(&mut self) -> Result<String, JsonError> {
        self.at += 1;
        let mut out = String::new();
        let mut run = self.at;
        let mut ascii = true;
        loop {
            let Some(byte) = self.peek() else { return self.fail(JsonErrorKind::End) };
            match byte {
                b'"' => break,
                b'\\' => {
                    out.push_str(&self.text[run..self.at]);
                    let character = self.escape()?;
                    ascii &= character.is_ascii();
                    out.push(character);
                    run = self.at;
                }
                0..=0x1f => return self.fail(JsonErrorKind::Control),
                _ => {
                    ascii &= byte.is_ascii();
                    self.at += 1;
                }
            }
        }
        // `run` and `at` stand next to ASCII bytes, so both are character boundaries.
        if out.is_empty() {
            out = self.text[run..self.at].to_owned();
        } else {
            out.push_str(&self.text[run..self.at]);
        }
        if !ascii && out.chars().any(is_noncharacter) {
            return self.fail(JsonErrorKind::Noncharacter);
        }
        self.at += 1;
        Ok(out)
    }

    /// Reads an escape; `at` is on its backslash.
    fn escape(&mut self) -> Result<char, JsonError> {
        let Some(&letter) = self.bytes.get(self.at + 1) else { return self.fail(JsonErrorKind::End) };
        let character = match letter {
            b'"' | b'\\' | b'/' => char::from(letter),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode_escape(),
            _ => return self.fail(JsonErrorKind::Escape),
        };
        self.at += 2;
        Ok(character)
    }

    fn unicode_escape(&mut self) -> Result<char, JsonError> {
        let unit = self.hex4(self.at + 2)?;
        let code = match unit {
            0xd800..=0xdbff => {
                if self.bytes.get(self.at + 6..self.at + 8) != Some(b"\\u") {
                    return self.fail(JsonErrorKind::LoneSurrogate);
                }
                let low = self.hex4(self.at + 8)?;
                if !(0xdc00..=0xdfff).contains(&low) {
                    return self.fail(JsonErrorKind::LoneSurrogate);
                }
                self.at += 6;
                0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
            }
            0xdc00..=0xdfff => return self.fail(JsonErrorKind::LoneSurrogate),
            _ => unit,
        };
        let Some(character) = char::from_u32(code) else { return self.fail(JsonErrorKind::LoneSurrogate) };
        self.at += 6;
        Ok(character)
    }

    fn hex4(&self, at: usize) -> Result<u32, JsonError> {
        let Some(digits) = self.bytes.get(at..at + 4) else { return self.fail(JsonErrorKind::End) };
        digits.iter().try_fold(0, |code, &digit| match char::from(digit).to_digit(16) {
            Some(value) => Ok(code << 4 | value),
            None => self.fail(JsonErrorKind::Escape),
        })
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let start = self.at;
        let negative = self.peek() == Some(b'-');
        if negative {
            self.at += 1;
        }
        let leading_zero = self.peek() == Some(b'0');
        let whole_digits = self.digits();
        if whole_digits == 0 || (leading_zero && whole_digits > 1) {
            return self.fail(JsonErrorKind::Number);
        }
        let mut integral = true;
        if self.peek() == Some(b'.') {
            integral = false;
            self.at += 1;
            if self.digits() == 0 {
                return self.fail(JsonErrorKind::Number);
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            integral = false;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return self.fail(JsonErrorKind::Number);
            }
        }
        let out_of_range = JsonError { offset: start, kind: JsonErrorKind::NumberRange };
        if integral {
            // 16 digits fit an i64 with room to spare; 17 are beyond 2^53-1 without leading zeros.
            if whole_digits > 16 {
                return Err(out_of_range);
            }
            let digits = &self.bytes[start + usize::from(negative)..self.at];
            let size = digits.iter().fold(0_i64, |size, digit| size * 10 + i64::from(digit - b'0'));
            return if size > MAX_SAFE_INTEGER {
                Err(out_of_range)
            } else {
                Ok(Value::Int(if negative { -size } else { size }))
            };
        }
        let double: f64 = self.text[start..self.at].parse().map_err(|_| out_of_range.clone())?;
        Value::double(double).map_err(|_| out_of_range)
    }
}

const fn is_noncharacter(character: char) -> bool {
    let code = character as u32;
    code & 0xfffe == 0xfffe || (code >= 0xfdd0 && code <= 0xfdef)
}
