//! Sees in JSON text that a pattern can't match the string that it is the text of.
//!
//! Most documents have nothing to redact. Where every match of a pattern begins with one of a few
//! literals, their absence from the text is all there is to know, and neither escapes need undoing
//! nor the pattern running. Owns that conclusion: it may say that there may be a match where there
//! is none, never the reverse. A literal is taken only if no JSON writer has to escape a character
//! of it, and a text with `\u` in it, by which any character can be written, is never passed over.

use memchr::memmem::Finder;
use regex_syntax::hir::literal::{ExtractKind, Extractor};

/// More searches than these cost as much as the pattern's own.
const NEEDLES_MAX: usize = 4;

/// Characters that have an escape of two characters.
const ESCAPED: &[u8] = b"\"\\/\x08\x0C\n\r\t";

/// Literals with one of which every match begins.
#[derive(Debug)]
pub(super) struct Needles {
    unicode_escape: Finder<'static>,
    literals: Vec<Finder<'static>>,
}

impl Needles {
    /// `None` for a pattern whose matches can begin in too many ways.
    pub(super) fn of(pattern: &str) -> Option<Self> {
        let hir = regex_syntax::parse(pattern).ok()?;
        let mut literals = Extractor::new().kind(ExtractKind::Prefix).extract(&hir);
        literals.minimize_by_preference();
        let literals = literals.literals()?;
        let is_plain = |literal: &[u8]| {
            !literal.is_empty()
                && !literal.iter().any(|byte| ESCAPED.contains(byte) || byte.is_ascii_control())
        };
        let usable = literals.len() <= NEEDLES_MAX
            && literals.iter().all(|literal| is_plain(literal.as_bytes()));
        usable.then(|| Self {
            unicode_escape: Finder::new(b"\\u"),
            literals: (literals.iter())
                .map(|literal| Finder::new(literal.as_bytes()).into_owned())
                .collect(),
        })
    }

    /// Whether the pattern may match in a string that is written in `json`, or in several.
    pub(super) fn may_match(&self, json: &[u8]) -> bool {
        self.literals.iter().any(|literal| literal.find(json).is_some())
            || self.unicode_escape.find(json).is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    fn may_match(pattern: &str, json: &str) -> Option<bool> {
        Some(Needles::of(pattern)?.may_match(json.as_bytes()))
    }

    #[test]
    fn a_text_without_the_literals_is_passed_over() {
        assert_eq!(may_match(r"password=\S+", r#""user=a""#), Some(false));
        assert_eq!(may_match(r"password=\S+", r#""password=""#), Some(true));
        assert_eq!(may_match("(token|secret): .*", r#""a token""#), Some(false));
        assert_eq!(may_match("(token|secret): .*", r#""a secret: b""#), Some(true));
        assert_eq!(may_match(r"password=\S+", r#""\u0070assword=a""#), Some(true));
    }

    #[test]
    fn patterns_that_can_begin_in_many_ways_are_left_to_themselves() {
        for pattern in [".*password", r"\d+", "(?i)password", "a*", "", r"/\w+", "\t", "\"a"] {
            assert!(Needles::of(pattern).is_none(), "{pattern}");
        }
    }

    proptest! {
        /// In whatever way a string is written.
        #[test]
        fn no_match_is_missed(
            pattern in "(ab|a/|\\^a|a\"|ä|(?:b|c)a)([a-c]?|\\$|.*)",
            text in "[abcä/\"\\\\]{0,12}",
            all_escaped: bool,
        ) {
            let Ok(regex) = Regex::new(&pattern) else { return Ok(()) };
            let written = match all_escaped {
                true => text.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect(),
                false => serde_json::to_string(&text).unwrap(),
            };
            if let Some(may_match) = may_match(&pattern, &written) {
                prop_assert!(may_match || !regex.is_match(&text), "{} in {}", pattern, written);
            }
        }
    }
}
