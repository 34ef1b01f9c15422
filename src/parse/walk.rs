//! Walks over JSON that is known to be valid, for the slower roads.
//!
//! Owns the taking apart of one object or array into its members or elements, as raw text.
//! Nothing is checked again: text that [`super::json::scan`] would not take gives some members or
//! none, never a panic. Costs no memory; a nested value is passed over byte by byte.

/// The members of an object, as raw name without its quotes and raw value, in order.
#[derive(Debug, Clone)]
pub struct Members<'a> {
    text: &'a [u8],
    pos: usize,
}

impl<'a> Members<'a> {
    /// `object` with its braces, white space around it allowed.
    pub fn new(object: &'a [u8]) -> Self {
        Self { text: object, pos: skip_space(object, 0) + 1 }
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let quote = skip_separators(self.text, self.pos);
        if self.text.get(quote) != Some(&b'"') {
            return None;
        }
        let end = skip_string(self.text, quote);
        let key = self.text.get(quote + 1..end.checked_sub(1)?)?;
        let start = skip_separators(self.text, end);
        self.pos = skip_value(self.text, start);
        Some((key, self.text.get(start..self.pos)?))
    }
}

/// The elements of an array, as raw text, in order.
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    text: &'a [u8],
    pos: usize,
}

impl<'a> Elements<'a> {
    /// `array` with its brackets, white space around it allowed.
    pub fn new(array: &'a [u8]) -> Self {
        Self { text: array, pos: skip_space(array, 0) + 1 }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let start = skip_separators(self.text, self.pos);
        self.pos = skip_value(self.text, start);
        self.text.get(start..self.pos).filter(|element| !element.is_empty())
    }
}

fn skip_space(text: &[u8], pos: usize) -> usize {
    skip_while(text, pos, |byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
}

/// White space, commas and colons.
fn skip_separators(text: &[u8], pos: usize) -> usize {
    skip_while(text, pos, |byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',' | b':'))
}

fn skip_while(text: &[u8], pos: usize, skipped: impl Fn(u8) -> bool) -> usize {
    let rest = text.get(pos..).unwrap_or_default();
    pos + rest.iter().position(|&byte| !skipped(byte)).unwrap_or(rest.len())
}

/// The position behind the value that begins at `pos`; `pos` itself where none does.
fn skip_value(text: &[u8], pos: usize) -> usize {
    match text.get(pos) {
        Some(b'"') => skip_string(text, pos),
        Some(b'{' | b'[') => skip_nested(text, pos),
        _ => skip_while(text, pos, |byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
        }),
    }
}

/// The position behind the string whose opening quote is at `pos`.
fn skip_string(text: &[u8], pos: usize) -> usize {
    let mut pos = pos + 1;
    while let Some(found) =
        text.get(pos..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)).map(|at| pos + at)
    {
        if text.get(found) == Some(&b'"') {
            return found + 1;
        }
        pos = found + 2;
    }
    text.len()
}

/// The position behind the object or array that begins at `pos`.
fn skip_nested(text: &[u8], mut pos: usize) -> usize {
    let mut open = 0_usize;
    while let Some(&byte) = text.get(pos) {
        match byte {
            b'"' => {
                pos = skip_string(text, pos);
                continue;
            }
            b'{' | b'[' => open += 1,
            b'}' | b']' => open = open.saturating_sub(1),
            _ => {}
        }
        pos += 1;
        if open == 0 {
            break;
        }
    }
    pos
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(raw: &[u8]) -> &str {
        str::from_utf8(raw).expect("the tests' text is UTF-8")
    }

    #[test]
    fn members_and_elements_as_written() {
        let object = br#" { "a\"b" : [1, {"x":"]}"}] , "c":-1.5e+3,"d":"\\","e":null } "#;
        let members: Vec<_> =
            Members::new(object).map(|(key, value)| (text(key), text(value))).collect();
        assert_eq!(
            members,
            [(r#"a\"b"#, r#"[1, {"x":"]}"}]"#), ("c", "-1.5e+3"), ("d", r#""\\""#), ("e", "null")]
        );
        let elements: Vec<_> = Elements::new(br#"[1, {"x":"]}"},[] ]"#).map(text).collect();
        assert_eq!(elements, ["1", r#"{"x":"]}"}"#, "[]"]);
        assert_eq!(Members::new(b"{}").count() + Elements::new(b"[ ]").count(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_come_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(Members::new(&bytes).count() <= bytes.len());
            prop_assert!(Elements::new(&bytes).count() <= bytes.len());
        }
    }
}
