//! Where a field of a document is, without looking into the document's text.
//!
//! A filter asks nearly always for a field that the application wrote, and where those are is known
//! from the check of its line. Owns what can be told from that; a field of the agent's, or one that
//! may stand in an object of the application's, has to be looked for in the text.

use super::names::{Names, Role};
use crate::parse::json::{Member, ValueType};

/// What is known of a document's fields.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(pub(super) Known<'a>);

#[derive(Debug, Clone, Copy)]
pub(super) enum Known<'a> {
    Nothing,
    /// Beside the agent's there is only `message`.
    Text(&'a Names),
    /// Beside the agent's there are the members of this line, which have their names in the
    /// document unless those [mean](Names::role) more.
    Line(&'a Names, &'a [u8], &'a [Member]),
}

/// Where a field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    /// A top-level member with this value in JSON, and nowhere else.
    Value(&'a [u8]),
    /// Not there, and no object that it would belong into.
    Nowhere,
    /// To be looked for.
    Unknown,
}

impl<'a> Fields<'a> {
    /// Nothing is known: every field is to be looked for.
    pub const UNKNOWN: Self = Self(Known::Nothing);

    /// The field of this dotted path.
    pub fn find(&self, path: &str) -> Found<'a> {
        let path = path.as_bytes();
        match self.0 {
            Known::Text(names) if is_plain(names, path) && path != b"message" => Found::Nowhere,
            Known::Line(names, line, members) if is_plain(names, path) => {
                in_line(line, members, path)
            }
            _ => Found::Unknown,
        }
    }
}

fn is_plain(names: &Names, path: &[u8]) -> bool {
    names.role(path) == Role::PLAIN
}

fn in_line<'a>(line: &'a [u8], members: &[Member], path: &[u8]) -> Found<'a> {
    let mut found = Found::Nowhere;
    for member in members {
        match line.get(member.key()).and_then(|name| path.strip_prefix(name)) {
            Some([]) => found = line.get(member.value()).map_or(Found::Unknown, Found::Value),
            // It may be in there too.
            Some([b'.', ..]) if member.value_type == ValueType::Object => return Found::Unknown,
            _ => {}
        }
    }
    found
}
