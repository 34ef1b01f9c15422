//! Where a field of a document is, without looking into the document's text.
//!
//! A filter asks nearly always for a field that the application wrote, and where those are is known
//! from the check of its line. Owns what can be told from that; a field of the agent's, or one that
//! may stand in an object of the application's, has to be looked for in the text.

use std::ops::Deref;

use super::names::{Names, Role};
use crate::parse::json::{Member, ValueType};

/// A dotted path that is asked for in many documents of one pipeline. Dereferences to the path.
#[derive(Debug)]
pub struct Field {
    path: String,
    /// The path [means](Names::role) nothing more than it says, and a line's members that it may lead
    /// to are listed.
    is_listed: bool,
}

impl Field {
    /// The field of this path, where `names` are those of the documents.
    pub fn new(path: &str, names: &Names) -> Self {
        Self { path: path.to_owned(), is_listed: names.role(path.as_bytes()) == Role::ASKED }
    }
}

impl Deref for Field {
    type Target = str;

    fn deref(&self) -> &str {
        &self.path
    }
}

/// What is known of a document's fields.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(pub(super) Known<'a>);

#[derive(Debug, Clone, Copy)]
pub(super) enum Known<'a> {
    Nothing,
    /// Beside the agent's there is only `message`.
    Text,
    /// Beside the agent's there are the members of this line, which have their names in the
    /// document unless those [mean](Names::role) more. Of the others there are only those that a
    /// [listed](Field) field may lead to.
    Line(&'a [u8], &'a [Member]),
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

    /// Where `field` is, which was made with the names of these documents.
    pub fn find(&self, field: &Field) -> Found<'a> {
        if !field.is_listed {
            return Found::Unknown;
        }
        match self.0 {
            Known::Nothing => Found::Unknown,
            Known::Text if field.path == "message" => Found::Unknown,
            Known::Text => Found::Nowhere,
            Known::Line(line, members) => in_line(line, members, field.path.as_bytes()),
        }
    }
}

fn in_line<'a>(line: &'a [u8], members: &[Member], path: &[u8]) -> Found<'a> {
    let mut found = Found::Nowhere;
    for member in members {
        let name = member.key();
        // Lengths first: names are compared for one member in ten.
        if name.len() == path.len() {
            if line.get(name) == Some(path) {
                found = line.get(member.value()).map_or(Found::Unknown, Found::Value);
            }
        } else if member.value_type == ValueType::Object
            && path.get(name.len()) == Some(&b'.')
            && line.get(name).is_some_and(|name| path.starts_with(name))
        {
            // It may be in there too.
            return Found::Unknown;
        }
    }
    found
}
