//! Canonical JSON (RFC 8785): one text for one value.

use std::cmp::Ordering;
use std::io::Write as _;

use super::{Object, Value};

pub(super) fn value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(int) => {
            // Writing into a Vec cannot fail.
            let _ = write!(out, "{int}");
        }
        Value::Float(double) => out.extend_from_slice(ryu_js::Buffer::new().format(*double).as_bytes()),
        Value::Text(text) => string(text, out),
        Value::List(list) => {
            out.push(b'[');
            for (at, element) in list.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                self::value(element, out);
            }
            out.push(b']');
        }
        Value::Object(object) => self::object(object, out),
    }
}

pub(super) fn object(object: &Object, out: &mut Vec<u8>) {
    let members = &object.members;
    if members.is_sorted_by(|one, other| utf16_order(&one.0, &other.0) == Ordering::Less) {
        return write_members(members.iter(), out);
    }
    let mut sorted: Vec<&(String, Value)> = members.iter().collect();
    sorted.sort_unstable_by(|one, other| utf16_order(&one.0, &other.0));
    write_members(sorted.into_iter(), out);
}

fn write_members<'a>(members: impl Iterator<Item = &'a (String, Value)>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (at, (key, member)) in members.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        string(key, out);
        out.push(b':');
        value(member, out);
    }
    out.push(b'}');
}

/// RFC 8785 §3.2.3 sorts by UTF-16 code units. UTF-8 sorts the same except where surrogates (lead byte F0 and up)
/// meet U+E000 to U+FFFF (lead byte EE and EF).
fn utf16_order(one: &str, other: &str) -> Ordering {
    let byte_order_holds = |key: &str| key.bytes().all(|byte| byte < 0xee);
    if byte_order_holds(one) || byte_order_holds(other) {
        one.cmp(other)
    } else {
        one.encode_utf16().cmp(other.encode_utf16())
    }
}

fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut run = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            0x08 => b"\\b",
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            0x0c => b"\\f",
            b'\r' => b"\\r",
            0..=0x1f => b"",
            _ => continue,
        };
        out.extend_from_slice(&bytes[run..at]);
        run = at + 1;
        if escape.is_empty() {
            let _ = write!(out, "\\u{byte:04x}");
        } else {
            out.extend_from_slice(escape);
        }
    }
    out.extend_from_slice(&bytes[run..]);
    out.push(b'"');
}
