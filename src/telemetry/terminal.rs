//! Text from elsewhere, made fit for a terminal.
//!
//! Owns what a terminal never gets from a log, a document or a name: control characters, and the
//! marks that turn the direction of text. They are shown escaped. Pure; where JSON stays JSON,
//! [`escape_json`] keeps its meaning.

/// `text` without anything that a terminal would obey; tabs become four blanks.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\t' => safe.push_str("    "),
            _ if turns(character) => safe.extend(character.escape_unicode()),
            _ if character.is_control() => safe.extend(character.escape_default()),
            _ => safe.push(character),
        }
    }
    safe
}

/// `json` with what a terminal would obey (JSON allows it in strings, from U+007F on) as escapes:
/// the same value.
pub(crate) fn escape_json(json: &str) -> String {
    use std::fmt::Write as _;

    let mut safe = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_control() || turns(character) {
            write!(safe, "\\u{:04x}", u32::from(character)).expect("memory takes it");
        } else {
            safe.push(character);
        }
    }
    safe
}

/// Marks that reorder what follows: U+061C, U+200E, U+200F, embeddings, isolates.
fn turns(character: char) -> bool {
    matches!(
        character,
        '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_that_a_terminal_obeys() {
        assert_eq!(escape("a\tb\u{1b}[2J\u{9b}\u{202e}é"), "a    b\\u{1b}[2J\\u{9b}\\u{202e}é");
    }

    #[test]
    fn escaped_json_is_the_same_value() {
        let json = "{\"a\":\"\u{7f}\u{9b}31m é\u{202e}\"}";
        let safe = escape_json(json);
        assert_eq!(safe, r#"{"a":"\u007f\u009b31m é\u202e"}"#);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(value(json), value(&safe));
    }
}
