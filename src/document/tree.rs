//! A JSON document as an ordered tree over the bytes that it was read from.
//!
//! Owns the slower road for documents that cannot go out byte for byte: names that stand twice,
//! fields that move, are added, removed or rewritten. Guarantees that what [`Tree::parse`] takes
//! is JSON by RFC 8259, that members keep their order, that scalars are written byte for byte as
//! they were read, and that what [`Tree::write`] gives parses back to the same tree.
//!
//! Fields are found by dotted path, and both ways of writing count: `a.b.c` is the member
//! `a.b.c`, or `c` in `a.b`, or `b.c` in `a`, or `c` in `b` in `a`; the longest name is tried
//! first at each level. Elasticsearch sees one field in all of them. Arrays are not entered.
//!
//! Memory: at most 56 bytes for each value and member, so up to 32 times the text for an array
//! of digits; the text itself is borrowed. Does not decide what is moved or removed.

mod parse;
mod string;
#[cfg(test)]
pub(crate) mod tests;

use std::borrow::Cow;

pub use string::{text, unescape, write_string};

/// Levels of objects and arrays that a document may have, the top object being level 1.
///
/// Elasticsearch refuses objects deeper than `index.mapping.depth.limit`, 20 unless changed.
pub const LEVELS_MAX: usize = 20;

/// A JSON object and all that is in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree<'a> {
    /// In the order read. Whoever adds to them answers for names that are unique and not empty.
    pub members: Members<'a>,
}

/// Names, unescaped, and values of an object.
pub type Members<'a> = Vec<(Cow<'a, str>, Node<'a>)>;

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node<'a> {
    Object(Members<'a>),
    Array(Vec<Node<'a>>),
    /// A string with its quotes and escapes, a number, `true`, `false` or `null`: JSON text.
    Scalar(Cow<'a, [u8]>),
}

/// Why a text is no document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotJson {
    #[error("not UTF-8 from byte {at} on")]
    Utf8 { at: usize },
    #[error("not a JSON object: unexpected byte or end at {at}")]
    Syntax { at: usize },
    #[error("deeper than {levels} levels at byte {at}")]
    TooDeep { at: usize, levels: usize },
    #[error("empty name at byte {at}")]
    EmptyName { at: usize },
    #[error("name with half a surrogate pair at byte {at}")]
    LoneSurrogate { at: usize },
}

impl<'a> Tree<'a> {
    /// Reads a JSON object of at most [`LEVELS_MAX`] levels, white space around it allowed.
    ///
    /// A name that stands twice in an object, compared after unescaping, keeps its last value, at
    /// the place of the last. Strings may hold half a surrogate pair (RFC 8259 allows it,
    /// Elasticsearch indexes U+FFFD); names may not.
    pub fn parse(text: &'a [u8]) -> Result<Self, NotJson> {
        Self::parse_within(text, LEVELS_MAX)
    }

    /// [`Tree::parse`] with a limit of `levels`; the stack grows with it.
    pub fn parse_within(text: &'a [u8], levels: usize) -> Result<Self, NotJson> {
        parse::object(text, levels).map(|members| Self { members })
    }

    /// The value at `path`.
    pub fn get(&self, path: &str) -> Option<&Node<'a>> {
        get(&self.members, path)
    }

    /// Takes the value at `path` out, whole. Where a field stands in several ways of writing,
    /// all of them go and the one that [`Tree::get`] finds is returned. Objects that are left
    /// empty stay.
    pub fn remove(&mut self, path: &str) -> Option<Node<'a>> {
        remove(&mut self.members, path)
    }

    /// Puts `node` at `path` and leaves no other way of writing that field.
    ///
    /// In place of the value that [`Tree::get`] finds; else at the end of the object that the
    /// longest part of the path names; else at the end of the document under the dotted name.
    pub fn insert(&mut self, path: &str, node: Node<'a>) {
        let mut node = Some(node);
        let mut others = false;
        each_mut(&mut self.members, path, &mut |old| match node.take() {
            Some(new) => *old = new,
            None => others = true,
        });
        if let Some(node) = node {
            return place(&mut self.members, path, node);
        }
        if others && let Some(first) = self.remove(path) {
            place(&mut self.members, path, first);
        }
    }

    /// Hands every value at `path` to `change`, in the order in which [`Tree::get`] prefers them.
    pub fn each_mut(&mut self, path: &str, change: &mut dyn FnMut(&mut Node<'a>)) {
        each_mut(&mut self.members, path, change);
    }

    /// Appends the document as compact JSON: scalars byte for byte, names escaped anew.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_members(&self.members, out);
    }
}

impl<'a> Node<'a> {
    /// A string with these characters.
    pub fn string(characters: &str) -> Self {
        let mut text = Vec::with_capacity(characters.len() + 2);
        write_string(characters, &mut text);
        Self::Scalar(Cow::Owned(text))
    }

    /// The characters of a string; `None` for everything else.
    pub fn characters(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Scalar(raw) => raw.strip_prefix(b"\"")?.strip_suffix(b"\"").map(unescape),
            _ => None,
        }
    }

    /// Appends the value as compact JSON.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Object(members) => write_members(members, out),
            Self::Array(values) => write_array(values, out),
            Self::Scalar(raw) => out.extend_from_slice(raw),
        }
    }
}

impl From<&serde_json::Value> for Node<'_> {
    fn from(value: &serde_json::Value) -> Self {
        match value {
            serde_json::Value::Object(members) => Self::Object(
                members.iter().map(|(name, value)| (name.clone().into(), value.into())).collect(),
            ),
            serde_json::Value::Array(values) => {
                Self::Array(values.iter().map(Self::from).collect())
            }
            scalar => Self::Scalar(Cow::Owned(scalar.to_string().into_bytes())),
        }
    }
}

/// The ways to cut `path` into the name of a member and what is left below it, longest name
/// first: `a.b.c` gives `a.b.c`, `a.b` with `c`, `a` with `b.c`.
pub(super) fn cuts(path: &str) -> impl Iterator<Item = (&str, Option<&str>)> + Clone {
    let shorter = path.rmatch_indices('.').filter_map(|(dot, _)| {
        let (name, rest) = path.split_at_checked(dot)?;
        Some((name, Some(rest.strip_prefix('.')?)))
    });
    std::iter::once((path, None)).chain(shorter)
}

fn position(members: &Members<'_>, name: &str) -> Option<usize> {
    members.iter().position(|(member, _)| member == name)
}

fn get<'t, 'a>(members: &'t Members<'a>, path: &str) -> Option<&'t Node<'a>> {
    cuts(path).find_map(|(name, rest)| {
        let (_, node) = members.get(position(members, name)?)?;
        match (rest, node) {
            (None, node) => Some(node),
            (Some(rest), Node::Object(below)) => get(below, rest),
            (Some(_), _) => None,
        }
    })
}

fn each_mut<'a>(members: &mut Members<'a>, path: &str, change: &mut dyn FnMut(&mut Node<'a>)) {
    for (name, rest) in cuts(path) {
        let Some(at) = position(members, name) else { continue };
        match (rest, &mut members[at].1) {
            (None, node) => change(node),
            (Some(rest), Node::Object(below)) => each_mut(below, rest, change),
            (Some(_), _) => {}
        }
    }
}

fn remove<'a>(members: &mut Members<'a>, path: &str) -> Option<Node<'a>> {
    let mut first = None;
    for (name, rest) in cuts(path) {
        let Some(at) = position(members, name) else { continue };
        let removed = match (rest, &mut members[at].1) {
            (None, _) => Some(members.remove(at).1),
            (Some(rest), Node::Object(below)) => remove(below, rest),
            (Some(_), _) => None,
        };
        first = first.or(removed);
    }
    first
}

/// Puts a field that is not there at the end of the object that the longest part of its path
/// names, or of `members`.
fn place<'a>(members: &mut Members<'a>, path: &str, node: Node<'a>) {
    let home = cuts(path).find_map(|(name, rest)| {
        let at = position(members, name)?;
        matches!(members[at].1, Node::Object(_)).then_some((at, rest?))
    });
    if let Some((at, rest)) = home
        && let Node::Object(below) = &mut members[at].1
    {
        return place(below, rest, node);
    }
    members.push((Cow::Owned(path.to_owned()), node));
}

fn write_members(members: &Members<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (index, (name, value)) in members.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(name, out);
        out.push(b':');
        value.write(out);
    }
    out.push(b'}');
}

fn write_array(values: &[Node<'_>], out: &mut Vec<u8>) {
    out.push(b'[');
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        value.write(out);
    }
    out.push(b']');
}
