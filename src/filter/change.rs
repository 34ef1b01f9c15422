//! Filters that change documents: `add`, `remove`, `rename` and `redact`.
//!
//! Each says for a document's text whether it has anything to do there, so that a document
//! without the field is never parsed. Adding a field that is not there needs no tree at all.

use std::borrow::Cow;
use std::ops::ControlFlow;

use regex::Regex;

use super::needles::Needles;
use super::{find, lookup};
use crate::document::fields::{Field, Fields, Found};
use crate::document::tree::{Node, Tree, unescape, write_string};

/// One change to one field.
#[derive(Debug)]
pub(super) enum Change {
    Add(Box<Addition>),
    Remove { field: Field },
    Rename { from: Field, to: String },
    Redact { field: Field, redaction: Box<Redaction> },
}

/// A field and what it is to be.
#[derive(Debug)]
pub(super) struct Addition {
    field: Field,
    node: Node<'static>,
    json: Vec<u8>,
    /// The whole member behind another one, with the brace behind it.
    last_member: Vec<u8>,
}

/// What is replaced in strings, and by what.
#[derive(Debug)]
pub(super) struct Redaction {
    pattern: Regex,
    with: String,
    needles: Option<Needles>,
}

/// How far a change came on the text of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnText {
    /// Nothing was to do.
    Nothing,
    /// It is done, and the document is another one.
    Done,
    /// Something may be to do, on a tree.
    NeedsTree,
}

impl Change {
    pub(super) fn redact(field: Field, pattern: &Regex, with: &str) -> Self {
        let redaction = Redaction {
            pattern: pattern.clone(),
            with: with.to_owned(),
            needles: Needles::of(pattern.as_str()),
        };
        Self::Redact { field, redaction: Box::new(redaction) }
    }

    pub(super) fn add(field: Field, value: &serde_json::Value) -> Self {
        let node = Node::from(value);
        let mut json = Vec::new();
        node.write(&mut json);
        let mut last_member = b",".to_vec();
        write_member(&field, &json, &mut last_member);
        last_member.push(b'}');
        Self::Add(Box::new(Addition { field, node, json, last_member }))
    }

    /// Works on the document `body[start..]`, of which `fields` are known.
    pub(super) fn on_text(&self, body: &mut Vec<u8>, start: usize, fields: Fields<'_>) -> OnText {
        let document = &body[start..];
        let touches = match self {
            Self::Add(addition) => return addition.to_text(body, start, fields),
            Self::Remove { field } => find(document, fields, field).is_some(),
            Self::Rename { from, to } => **from != **to && find(document, fields, from).is_some(),
            Self::Redact { field, redaction } => redaction.touches(document, fields, field),
        };
        if touches { OnText::NeedsTree } else { OnText::Nothing }
    }

    /// Whether the tree is another one now.
    pub(super) fn on_tree(&self, tree: &mut Tree<'_>) -> bool {
        match self {
            Self::Add(addition) => addition.to_tree(tree),
            Self::Remove { field } => tree.remove(field).is_some(),
            Self::Rename { from, to } if **from == **to => false,
            Self::Rename { from, to } => match tree.remove(from) {
                Some(node) => {
                    tree.insert(to, node);
                    true
                }
                None => false,
            },
            Self::Redact { field, redaction } => {
                let mut changed = false;
                tree.each_mut(field, &mut |node| changed |= redaction.rewrite(node));
                changed
            }
        }
    }
}

impl Addition {
    /// Splices a field that is not there into the text `body[start..]`.
    fn to_text(&self, body: &mut Vec<u8>, start: usize, fields: Fields<'_>) -> OnText {
        let Self { field, json, last_member, .. } = self;
        if fields.find(field) == Found::Nowhere && body.pop_if(is_brace).is_some() {
            // The agent's members stand before it.
            body.extend_from_slice(last_member);
            return OnText::Done;
        }
        let mut spellings = 0;
        let mut same = false;
        lookup::each(&body[start..], field, &mut |raw| {
            spellings += 1;
            same = raw == json;
            ControlFlow::Continue(())
        });
        if spellings == 1 && same {
            return OnText::Nothing;
        }
        let Some(home) = lookup::home(&body[start..], field) else { return OnText::NeedsTree };
        if spellings > 0 {
            return OnText::NeedsTree;
        }
        let mut member = Vec::with_capacity(last_member.len());
        if home.occupied {
            member.push(b',');
        }
        write_member(home.name, json, &mut member);
        let at = start + home.at;
        body.splice(at..at, member);
        OnText::Done
    }

    /// Whether the tree is another one now.
    fn to_tree(&self, tree: &mut Tree<'_>) -> bool {
        let (mut spellings, mut same) = (0, false);
        tree.each_mut(&self.field, &mut |old| {
            spellings += 1;
            same = *old == self.node;
        });
        let is_there = spellings == 1 && same;
        if !is_there {
            tree.insert(&self.field, self.node.clone());
        }
        !is_there
    }
}

fn write_member(name: &str, json: &[u8], out: &mut Vec<u8>) {
    write_string(name, out);
    out.push(b':');
    out.extend_from_slice(json);
}

fn is_brace(byte: &mut u8) -> bool {
    *byte == b'}'
}

impl Redaction {
    /// Whether a value of this field would change; an array may.
    fn touches(&self, document: &[u8], fields: Fields<'_>, field: &Field) -> bool {
        match fields.find(field) {
            Found::Value(raw) => return self.may_match(raw) && self.changes(raw),
            Found::Nowhere => return false,
            Found::Unknown if !self.may_match(document) => return false,
            Found::Unknown => {}
        }
        let mut any = false;
        lookup::each(document, field, &mut |raw| {
            any = self.changes(raw);
            if any { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        any
    }

    /// Whether there may be a match in what is written in `json`.
    fn may_match(&self, json: &[u8]) -> bool {
        self.needles.as_ref().is_none_or(|needles| needles.may_match(json))
    }

    /// Whether a value in JSON would change; an array may.
    fn changes(&self, raw: &[u8]) -> bool {
        match raw {
            [b'[', ..] => true,
            [b'"', characters @ .., b'"'] => self.redacted(&unescape(characters)).is_some(),
            _ => false,
        }
    }

    /// Rewrites a string, or the strings of an array. Whether anything changed.
    fn rewrite(&self, node: &mut Node<'_>) -> bool {
        if let Node::Array(values) = node {
            let mut changed = false;
            for value in values {
                changed |= self.rewrite(value);
            }
            return changed;
        }
        let Some(new) = node.characters().and_then(|old| self.redacted(&old)) else {
            return false;
        };
        *node = Node::string(&new);
        true
    }

    /// The new characters where they differ from the old.
    fn redacted(&self, characters: &str) -> Option<String> {
        match self.pattern.replace_all(characters, &self.with) {
            Cow::Owned(new) if new != characters => Some(new),
            _ => None,
        }
    }
}
