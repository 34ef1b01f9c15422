//! Where a JSON string ends, and what is in it that matters.
//!
//! Owns the grammar of escapes and surrogate pairs (RFC 8259, section 7). Where a string can't go on
//! it ends, and the caller sees that no quote is there. Does not look whether the bytes are UTF-8,
//! but tells of most strings that they are ASCII.

use super::search::{Pass, Search, each_special, first_unusual};

/// What was found of a string behind its opening quote.
pub(super) struct StringEnd {
    /// Where its closing quote is, or what can't stand in a string, or the end of the line.
    pub(super) end: usize,
    pub(super) is_escaped: bool,
    pub(super) has_lone_surrogate: bool,
    /// Up to its end it is ASCII. There are others of which this is not said.
    pub(super) is_ascii: bool,
}

/// Reads a string from behind its opening quote on.
#[inline(always)]
pub(super) fn string<S: Search>(line: &[u8], start: usize) -> StringEnd {
    // Nearly none has an escape or more than ASCII: then there is nothing to be kept for going on.
    let end = first_unusual::<S>(line, start);
    match line.get(end) {
        Some(b'\\' | 0x80..) => unusual_string::<S>(line, end),
        _ => StringEnd { end, is_escaped: false, has_lone_surrogate: false, is_ascii: true },
    }
}

/// Reads a string on from its first escape, or the first byte that is not ASCII.
#[inline(always)]
pub(super) fn unusual_string<S: Search>(line: &[u8], start: usize) -> StringEnd {
    let mut escapes = Escapes { line, is_escaped: false, has_lone_surrogate: false };
    let end = each_special::<S>(line, start, &mut escapes);
    let Escapes { is_escaped, has_lone_surrogate, .. } = escapes;
    StringEnd { end, is_escaped, has_lone_surrogate, is_ascii: false }
}

struct Escapes<'l> {
    line: &'l [u8],
    is_escaped: bool,
    has_lone_surrogate: bool,
}

impl Pass for Escapes<'_> {
    #[inline(always)]
    fn pass(&mut self, at: usize) -> Option<usize> {
        let [b'\\', byte, rest @ ..] = self.line.get(at..)? else { return None };
        self.is_escaped = true;
        if SHORT_ESCAPES[usize::from(*byte)] {
            return Some(at + 2);
        }
        if *byte != b'u' {
            return None;
        }
        let (bytes, is_lone) = unicode_escape(rest)?;
        self.has_lone_surrogate |= is_lone;
        Some(at + 2 + bytes)
    }
}

/// Which bytes make an escape of two bytes behind a backslash.
static SHORT_ESCAPES: [bool; 256] = {
    let mut short = [false; 256];
    let mut rest: &[u8] = b"\"\\/bfnrt";
    while let [byte, others @ ..] = rest {
        short[*byte as usize] = true;
        rest = others;
    }
    short
};

/// What follows on `\u`: how many bytes of `rest` are its four digits, and the second half of a
/// surrogate pair where one follows; and whether it is half a pair on its own. That is grammatical,
/// and Elasticsearch takes it, but gives back what no UTF-8 can hold (elastic/elasticsearch#9538):
/// the slow road makes it U+FFFD. `None` if the digits are none.
#[inline(never)]
fn unicode_escape(rest: &[u8]) -> Option<(usize, bool)> {
    let is_pair = || {
        let low = rest.get(4..)?.strip_prefix(b"\\u").and_then(hex4)?;
        Some((0xDC00..=0xDFFF).contains(&low))
    };
    Some(match hex4(rest)? {
        0xD800..=0xDBFF if is_pair() == Some(true) => (10, false),
        0xD800..=0xDFFF => (4, true),
        _ => (4, false),
    })
}

/// The value of four hex digits at the beginning.
fn hex4(digits: &[u8]) -> Option<u16> {
    digits.first_chunk::<4>()?.iter().try_fold(0, |value, &digit| {
        let digit = char::from(digit).to_digit(16)?;
        Some(value << 4 | u16::try_from(digit).ok()?)
    })
}
