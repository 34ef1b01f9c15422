//! Text as the inside of a JSON string.
//!
//! Guarantees valid JSON and UTF-8 for any bytes: what isn't UTF-8 becomes U+FFFD, quotes,
//! backslashes and control characters become escapes (ANSI's escape is `\u001b`), all else is
//! copied in runs. Does not write the quotes around it.

use crate::parse::json::{Pass, Search, Task, each_special, with_best};

/// Appends `text`, escaped.
pub fn write(text: &[u8], out: &mut Vec<u8>) {
    out.reserve(text.len());
    if simdutf8::basic::from_utf8(text).is_ok() {
        return write_valid(text, out);
    }
    for chunk in text.utf8_chunks() {
        write_valid(chunk.valid().as_bytes(), out);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{FFFD}".as_bytes());
        }
    }
}

fn write_valid(text: &[u8], out: &mut Vec<u8>) {
    with_best(WriteValid { text, from: 0, out });
}

struct WriteValid<'t, 'o> {
    text: &'t [u8],
    /// Up to where it is written.
    from: usize,
    out: &'o mut Vec<u8>,
}

impl Task for WriteValid<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Search>(mut self) {
        each_special::<S>(self.text, 0, &mut self);
        self.out.extend_from_slice(self.text.get(self.from..).unwrap_or_default());
    }
}

impl Pass for WriteValid<'_, '_> {
    #[inline(always)]
    fn pass(&mut self, at: usize) -> Option<usize> {
        let Self { text, from, out } = self;
        out.extend_from_slice(text.get(*from..at)?);
        write_special(*text.get(at)?, out);
        *from = at + 1;
        Some(*from)
    }
}

#[inline(always)]
fn write_special(byte: u8, out: &mut Vec<u8>) {
    match SHORT[usize::from(byte)] {
        0 => write_by_number(byte, out),
        short => out.extend_from_slice(&[b'\\', short]),
    }
}

/// What stands behind the backslash for a byte that has a short escape, else 0.
static SHORT: [u8; 256] = {
    let mut short = [0; 256];
    let mut rest: &[(u8, u8)] = &[
        (b'"', b'"'),
        (b'\\', b'\\'),
        (b'\n', b'n'),
        (b'\r', b'r'),
        (b'\t', b't'),
        (0x08, b'b'),
        (0x0C, b'f'),
    ];
    while let [(byte, behind), others @ ..] = rest {
        short[*byte as usize] = *behind;
        rest = others;
    }
    short
};

#[cold]
fn write_by_number(byte: u8, out: &mut Vec<u8>) {
    let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble & 15)];
    out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte)]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &[u8]) -> String {
        let mut out = vec![b'"'];
        write(text, &mut out);
        out.push(b'"');
        String::from_utf8(out).expect("escaped text is UTF-8")
    }

    #[test]
    fn what_logs_hold() {
        assert_eq!(
            escaped(b"\x1b[31mred\x1b[0m\r\n\tat \"x\\y\"\x08\x0c\0"),
            r#""\u001b[31mred\u001b[0m\r\n\tat \"x\\y\"\b\f\u0000""#
        );
        assert_eq!(escaped("Ω≈ç√ 🚀".as_bytes()), "\"Ω≈ç√ 🚀\"");
        assert_eq!(escaped(b"half \xf0\x9f\x9a end"), "\"half \u{FFFD} end\"");
    }

    proptest! {
        #[test]
        fn any_bytes_read_back(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let back: String = serde_json::from_str(&escaped(&bytes)).expect("valid JSON");
            prop_assert_eq!(back, String::from_utf8_lossy(&bytes));
        }
    }
}
