//! JSON strings: from escapes to characters and back.
//!
//! What is read here has been checked for syntax and UTF-8 before; a text that was not gives
//! U+FFFD in place of what cannot be read, never a panic.

use std::borrow::Cow;

/// The characters of a JSON string without its quotes. Half a surrogate pair becomes U+FFFD.
pub fn unescape(raw: &[u8]) -> Cow<'_, str> {
    if memchr::memchr(b'\\', raw).is_none() {
        return text(raw);
    }
    Cow::Owned(decode(raw).0)
}

/// [`unescape`], but `None` where half a surrogate pair stands.
pub(super) fn unescape_checked(raw: &[u8]) -> Option<Cow<'_, str>> {
    if memchr::memchr(b'\\', raw).is_none() {
        return Some(text(raw));
    }
    let (characters, lossless) = decode(raw);
    lossless.then_some(Cow::Owned(characters))
}

/// Characters as they stand. [`String::from_utf8_lossy`] alone goes through the usual text in pieces.
pub fn text(raw: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(raw).map_or_else(|_| String::from_utf8_lossy(raw), Cow::Borrowed)
}

/// The characters, and whether each escape stood for one.
fn decode(raw: &[u8]) -> (String, bool) {
    let mut out = Vec::with_capacity(raw.len());
    let mut lossless = true;
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let (character, used) = escape(&rest[at + 1..]);
        lossless &= character.is_some();
        let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        rest = &rest[at + 1 + used..];
    }
    out.extend_from_slice(rest);
    let characters = String::from_utf8(out)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    (characters, lossless)
}

/// The character of the escape whose backslash stands before `after`, and the bytes it takes.
fn escape(after: &[u8]) -> (Option<char>, usize) {
    let character = match after.first() {
        Some(b'u') => return unicode_escape(after),
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(byte @ (b'"' | b'\\' | b'/')) => char::from(*byte),
        _ => return (None, after.len().min(1)),
    };
    (Some(character), 1)
}

/// `after` begins with the `u` of an escape, which may be the first half of a pair.
fn unicode_escape(after: &[u8]) -> (Option<char>, usize) {
    let Some(first) = four_digits(after.get(1..5)) else { return (None, 1) };
    let second = match after.get(5..7) {
        Some(br"\u") => four_digits(after.get(7..11)),
        _ => None,
    };
    match (first, second) {
        (0xD800..=0xDBFF, Some(low @ 0xDC00..=0xDFFF)) => {
            let code = 0x1_0000 + ((first - 0xD800) << 10) + (low - 0xDC00);
            (char::from_u32(code), 11)
        }
        _ => (char::from_u32(first), 5),
    }
}

fn four_digits(digits: Option<&[u8]>) -> Option<u32> {
    digits?.iter().try_fold(0, |code, digit| Some(code * 16 + char::from(*digit).to_digit(16)?))
}

/// Appends `characters` as a JSON string with its quotes, escaping no more than JSON demands.
pub fn write_string(characters: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = characters.as_bytes();
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)) {
        out.extend_from_slice(&rest[..at]);
        write_escape(rest[at], out);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn write_escape(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let letter = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x0c => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            out.extend_from_slice(br"\u00");
            return out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    };
    out.extend([b'\\', letter]);
}
