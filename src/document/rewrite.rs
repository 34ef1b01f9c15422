//! The slow road of a JSON line: the same object in the form that the fast road takes.
//!
//! Owns what has to change in a valid object before its bytes may be copied: a name that stands
//! twice keeps its last value, at the place of the last; escapes in names are undone where they
//! needn't be; half a surrogate pair becomes U+FFFD; white space between tokens goes, line breaks
//! with it. All scalars but those with half a pair stay byte for byte. Guarantees that rewriting
//! is idempotent, and memory in proportion to the names of the objects on the way to the deepest.
//! Expects what [`json::scan`](crate::parse::json::scan) called unusual; anything else gives some
//! text, which the next scan judges.

use std::borrow::Cow;
use std::collections::HashMap;

use super::escape;
use crate::parse::walk::{Elements, Members};

/// Appends the rewritten object. The nesting is bounded by the scan before.
pub(super) fn object(text: &[u8], out: &mut Vec<u8>) {
    let members: Vec<(Cow<'_, str>, &[u8])> =
        Members::new(text).map(|(key, value)| (name(key), value)).collect();
    let last: HashMap<&str, usize> =
        members.iter().enumerate().map(|(i, (name, _))| (name.as_ref(), i)).collect();
    out.push(b'{');
    let mut first = true;
    for (i, (name, raw)) in members.iter().enumerate() {
        if last.get(name.as_ref()) != Some(&i) {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        out.push(b'"');
        escape::write(name.as_bytes(), out);
        out.extend_from_slice(b"\":");
        value(raw, out);
    }
    out.push(b'}');
}

fn value(raw: &[u8], out: &mut Vec<u8>) {
    match raw.first() {
        Some(b'{') => object(raw, out),
        Some(b'[') => {
            out.push(b'[');
            for (i, element) in Elements::new(raw).enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                value(element, out);
            }
            out.push(b']');
        }
        Some(b'"') => out.extend_from_slice(&whole_pairs(raw)),
        _ => out.extend_from_slice(raw),
    }
}

/// The characters of a raw name.
fn name(raw: &[u8]) -> Cow<'_, str> {
    if !raw.contains(&b'\\') {
        return String::from_utf8_lossy(raw);
    }
    let quoted = [b"\"", &*whole_pairs(raw), b"\""].concat();
    match serde_json::from_slice::<String>(&quoted) {
        Ok(characters) => Cow::Owned(characters),
        // Not to be had from a line that was scanned.
        Err(_) => String::from_utf8_lossy(raw),
    }
}

/// A raw string with `\ufffd` for each half of a surrogate pair that stands alone.
fn whole_pairs(raw: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Cow::Borrowed(raw);
    let mut pos = 0;
    while let Some(rest) = raw.get(pos..) {
        let Some(backslash) = memchr::memchr(b'\\', rest) else { break };
        pos += backslash;
        let first = surrogate(raw, pos);
        let second = surrogate(raw, pos + 6);
        match (first, second) {
            (Some(Half::High), Some(Half::Low)) => pos += 12,
            (Some(_), _) => {
                if let Some(digits) = out.to_mut().get_mut(pos + 2..pos + 6) {
                    digits.copy_from_slice(b"fffd");
                }
                pos += 6;
            }
            (None, _) => pos += 2,
        }
    }
    out
}

enum Half {
    High,
    Low,
}

/// Which half of a pair the escape at `pos` is.
fn surrogate(raw: &[u8], pos: usize) -> Option<Half> {
    let digits = raw.get(pos..pos + 6)?.strip_prefix(b"\\u")?;
    match u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()? {
        0xD800..=0xDBFF => Some(Half::High),
        0xDC00..=0xDFFF => Some(Half::Low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let mut out = Vec::new();
        object(text.as_bytes(), &mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected, "of {text}");
        let mut again = Vec::new();
        object(&out, &mut again);
        assert_eq!(again, out, "a second time");
    }

    #[test]
    fn last_value_of_a_name_stays_at_any_depth() {
        check(r#"{"a":1,"b":2,"a":3}"#, r#"{"b":2,"a":3}"#);
        check(r#"{"x":[{"a":{"a":1,"\u0061":[1]}}]}"#, r#"{"x":[{"a":{"a":[1]}}]}"#);
        check(r#"{"a":{"b":1},"a":{"c":2}}"#, r#"{"a":{"c":2}}"#);
    }

    #[test]
    fn names_lose_needless_escapes() {
        check(
            r#"{"\u0040timestamp":1,"a\/b":2,"q\"\\\n":3,"\ud83d\ude80":4}"#,
            "{\"@timestamp\":1,\"a/b\":2,\"q\\\"\\\\\\n\":3,\"🚀\":4}",
        );
    }

    #[test]
    fn half_pairs_become_replacement_characters() {
        check(
            r#"{"a":"\ud800","b":"\udc00x\ud83d\ude80\ud83d","\ud800k":"\\ud800"}"#,
            "{\"a\":\"\\ufffd\",\"b\":\"\\ufffdx\\ud83d\\ude80\\ufffd\",\"\u{fffd}k\":\"\\\\ud800\"}",
        );
    }

    #[test]
    fn white_space_goes_and_scalars_stay() {
        check(
            "{ \"a\" :\n[ 1.50E+2 ,\t\"\\u00e9 \\/\" , null ] }",
            r#"{"a":[1.50E+2,"\u00e9 \/",null]}"#,
        );
        check("{ }", "{}");
    }
}
