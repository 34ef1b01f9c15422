//! Finds fields in the text of a document without parsing it.
//!
//! Works on text that is known to be one JSON object; on anything else it finds nothing or
//! something wrong, but never panics. Finds the same values in the same order as
//! [`crate::document::tree::Tree`], allocating only for names that are written with escapes.

use std::ops::{ControlFlow, Range};

use memchr::{memchr, memchr2};

use crate::document::tree::unescape;

/// The JSON text of the value at `path`.
pub(super) fn find<'a>(document: &'a [u8], path: &str) -> Option<&'a [u8]> {
    let mut found = None;
    each(document, path, &mut |value| {
        found = Some(value);
        ControlFlow::Break(())
    });
    found
}

/// Hands the JSON text of every value at `path` to `visit` until it breaks off, the spelling
/// with the longest names first.
pub(super) fn each<'a>(
    document: &'a [u8],
    path: &str,
    visit: &mut dyn FnMut(&'a [u8]) -> ControlFlow<()>,
) {
    // Broken off or not, there is nothing left to do.
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) =
        each_in(document, open(document), path.as_bytes(), visit);
}

/// Where a field that is not there belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Home<'p> {
    /// The place of the brace that closes the object.
    pub at: usize,
    /// Whether the object has members.
    pub occupied: bool,
    /// The dotted name within the object.
    pub name: &'p str,
}

/// The object that the longest part of `path` names, else the document itself. `None` if the
/// text does not end as an object does.
pub(super) fn home<'p>(document: &[u8], path: &'p str) -> Option<Home<'p>> {
    let mut object = skip_space(document, 0)..document.len();
    let mut from = 0;
    'deeper: loop {
        let wanted = path.as_bytes().get(from..)?;
        let mut below = wanted.len();
        while let Some(member) = longest(document, object.start + 1, wanted, below) {
            if document.get(member.value.start) == Some(&b'{') {
                from += member.length + 1;
                object = member.value;
                continue 'deeper;
            }
            below = member.length;
        }
        break;
    }
    let at = object.end.checked_sub(1).filter(|at| document.get(*at) == Some(&b'}'))?;
    let occupied = next_member(document, object.start + 1).is_some();
    Some(Home { at, occupied, name: path.get(from..)? })
}

/// The place after the brace that opens the document.
fn open(document: &[u8]) -> usize {
    skip_space(document, 0) + 1
}

/// `inside` is the place after an object's opening brace.
fn each_in<'a>(
    document: &'a [u8],
    inside: usize,
    path: &[u8],
    visit: &mut dyn FnMut(&'a [u8]) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut below = usize::MAX;
    while let Some(member) = longest(document, inside, path, below) {
        below = member.length;
        if member.length == path.len() {
            visit(document.get(member.value).unwrap_or_default())?;
        } else if document.get(member.value.start) == Some(&b'{') {
            let rest = path.get(member.length + 1..).unwrap_or_default();
            each_in(document, member.value.start + 1, rest, visit)?;
        }
    }
    ControlFlow::Continue(())
}

/// A member whose name is a path or the beginning of one.
struct Match {
    /// Bytes of the name, unescaped.
    length: usize,
    value: Range<usize>,
}

/// The member with the longest name of fewer than `below` bytes that `path` is or begins with.
fn longest(document: &[u8], inside: usize, path: &[u8], below: usize) -> Option<Match> {
    let mut best: Option<Match> = None;
    let mut at = inside;
    while let Some((name, value)) = next_member(document, at) {
        at = value.end;
        let Some(length) = leading(document.get(name)?, path) else { continue };
        if length < below && best.as_ref().is_none_or(|best| best.length <= length) {
            best = Some(Match { length, value });
            if length == path.len() {
                break;
            }
        }
    }
    best
}

/// The length of a name if `path` is the name, or the name and a dot and more.
fn leading(raw_name: &[u8], path: &[u8]) -> Option<usize> {
    let leads = |name: &[u8]| {
        let rest = path.strip_prefix(name)?;
        matches!(rest.first(), None | Some(b'.')).then_some(name.len())
    };
    match memchr(b'\\', raw_name) {
        None => leads(raw_name),
        Some(_) => leads(unescape(raw_name).as_bytes()),
    }
}

/// The next member at or after `at`: its name without the quotes, and its value.
fn next_member(document: &[u8], at: usize) -> Option<(Range<usize>, Range<usize>)> {
    let mut quote = skip_space(document, at);
    if document.get(quote) == Some(&b',') {
        quote = skip_space(document, quote + 1);
    }
    if document.get(quote) != Some(&b'"') {
        return None;
    }
    let name = quote + 1..string_end(document, quote)? - 1;
    let colon = skip_space(document, name.end + 1);
    let value = skip_space(document, colon + 1);
    Some((name, value..value_end(document, value)?))
}

fn skip_space(document: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = document.get(at) {
        at += 1;
    }
    at
}

/// The place after the string whose opening quote stands at `quote`.
fn string_end(document: &[u8], quote: usize) -> Option<usize> {
    let mut at = quote + 1;
    loop {
        at += memchr2(b'"', b'\\', document.get(at..)?)?;
        if document.get(at) == Some(&b'"') {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// The place after the value that begins at `at`.
fn value_end(document: &[u8], at: usize) -> Option<usize> {
    match document.get(at)? {
        b'"' => string_end(document, at),
        b'{' | b'[' => nested_end(document, at),
        _ => {
            let rest = document.get(at..)?;
            let ends =
                |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
            Some(at + rest.iter().position(ends).unwrap_or(rest.len()))
        }
    }
}

fn nested_end(document: &[u8], mut at: usize) -> Option<usize> {
    let mut level = 0_usize;
    loop {
        match document.get(at)? {
            b'"' => {
                at = string_end(document, at)?;
                continue;
            }
            b'{' | b'[' => level += 1,
            b'}' | b']' => level -= 1,
            _ => {}
        }
        at += 1;
        if level == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::document::tree::{Node, Tree, tests::documents};

    fn found(document: &str, path: &str) -> Vec<Vec<u8>> {
        let mut values = Vec::new();
        each(document.as_bytes(), path, &mut |value| {
            values.push(value.to_vec());
            ControlFlow::Continue(())
        });
        values
    }

    #[test]
    fn values_are_found_in_every_spelling_longest_names_first() {
        let document = r#" { "x" : "}\"{" , "a" : { "b" : { "c" : [ "]" ] } , "b.c" : 2 } ,
            "a.\u0062":{"c":-1.5e3},"a.b.c":null}"#;
        assert_eq!(found(document, "a.b.c"), [&b"null"[..], b"-1.5e3", b"2", b"[ \"]\" ]"]);
        assert_eq!(find(document.as_bytes(), "a.b"), Some(&br#"{"c":-1.5e3}"#[..]));
        assert_eq!(find(document.as_bytes(), "x"), Some(&br#""}\"{""#[..]));
        assert_eq!(find(document.as_bytes(), "c"), None);
        assert_eq!(find(b"{}", "c"), None);
    }

    #[test]
    fn a_new_field_belongs_into_the_object_that_its_path_names() {
        let document = br#"{"a":{"b":{"x":1}},"a.b":2,"e":{}}"#;
        let home = |path| home(document, path).unwrap();
        assert_eq!(home("a.b.c"), Home { at: 16, occupied: true, name: "c" });
        assert_eq!(home("a.c.c"), Home { at: 17, occupied: true, name: "c.c" });
        assert_eq!(home("e.c"), Home { at: 32, occupied: false, name: "c" });
        assert_eq!(home("e"), Home { at: 33, occupied: true, name: "e" });
        assert_eq!(super::home(b"{} ", "a"), None);
        let spaced = super::home(b" \n{ \"x\":1 }", "a");
        assert_eq!(spaced, Some(Home { at: 10, occupied: true, name: "a" }));
    }

    proptest! {
        #[test]
        fn the_text_and_the_tree_find_the_same(
            value in documents(),
            path in "[abc](\\.[abc]){0,3}",
            pretty: bool,
        ) {
            let text = if pretty { format!("{value:#}") } else { value.to_string() };
            let mut tree = Tree::parse(text.as_bytes()).unwrap();
            let mut expected = Vec::new();
            tree.each_mut(&path, &mut |node| expected.push(value_of(node)));
            let actual: Vec<Value> =
                found(&text, &path).iter().map(|raw| serde_json::from_slice(raw).unwrap()).collect();
            prop_assert_eq!(actual, expected);
        }

        #[test]
        fn any_text_is_searched_without_panic(text in "[\\[\\]{}\",:a.\\\\ 1]{0,40}") {
            found(&text, "a.a");
            home(text.as_bytes(), "a.a");
        }
    }

    fn value_of(node: &Node<'_>) -> Value {
        let mut json = Vec::new();
        node.write(&mut json);
        serde_json::from_slice(&json).unwrap()
    }
}
