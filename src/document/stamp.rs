//! Which time becomes a document's `@timestamp`.
//!
//! Owns the order in which the application's fields are tried, and what becomes of a member
//! `@timestamp` that it wrote: it stays where it can be indexed as it is, goes where the same time
//! stands in its place in another form, and moves to `application.@timestamp` where it says
//! something else or nothing readable. Pure; the grammar of times is [`crate::parse::time`]'s.

use std::hint::cold_path;
use std::ops::Range;

use crate::parse::json::{Member, ValueType};
use crate::parse::time::{self, LastSecond};
use crate::parse::walk::Members;

/// Tried in this order, after the pipeline's `parse.json.time`.
pub(super) const TIME_FIELDS: [&str; 5] = ["@timestamp", "timestamp", "instant", "time", "ts"];

const RANKS: usize = TIME_FIELDS.len() + 1;

/// Where the document's time comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stamp {
    /// The application named no time that can be read.
    Runtime,
    /// The application's `@timestamp`, where it stands.
    Own,
    /// These bytes of the line, quotes included.
    Copied(Range<usize>),
    /// Nanoseconds since the epoch, to be written as UTC.
    Written(i64),
}

/// What becomes of the application's member `@timestamp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnMember {
    Stays,
    Moves,
    Goes,
}

/// The time fields that a line has, by rank: members by their index.
#[derive(Debug, Default)]
pub(super) struct Candidates([Option<usize>; RANKS]);

enum Reading {
    Canonical,
    Ns(i64),
}

impl Candidates {
    /// The first of a rank counts; the fast road sees no second.
    #[inline(always)]
    pub(super) fn note(&mut self, rank: u8, member: usize) {
        if let Some(place @ None) = self.0.get_mut(usize::from(rank)) {
            *place = Some(member);
        }
    }

    #[inline(always)]
    pub(super) fn decide(
        &self,
        line: &[u8],
        members: &[Member],
        second: &mut LastSecond,
    ) -> (Stamp, OwnMember) {
        for member in self.0.iter().flatten().filter_map(|member| members.get(*member)) {
            let own = line.get(member.key()) == Some(b"@timestamp");
            match (read(line, member, second), own) {
                (None, _) => {}
                (Some(Reading::Canonical), true) => return (Stamp::Own, OwnMember::Stays),
                (Some(Reading::Canonical), false) => {
                    return (Stamp::Copied(member.value()), OwnMember::Moves);
                }
                (Some(Reading::Ns(ns)), true) => return (Stamp::Written(ns), OwnMember::Goes),
                (Some(Reading::Ns(ns)), false) => return (Stamp::Written(ns), OwnMember::Moves),
            }
        }
        (Stamp::Runtime, OwnMember::Moves)
    }
}

#[inline(always)]
fn read(line: &[u8], member: &Member, second: &mut LastSecond) -> Option<Reading> {
    let value = line.get(member.value())?;
    match member.value_type {
        ValueType::String => {
            let text = value.get(1..value.len().checked_sub(1)?)?;
            if time::is_canonical(text, second) {
                return Some(Reading::Canonical);
            }
            cold_path();
            time::parse(text).map(Reading::Ns)
        }
        ValueType::Number => {
            cold_path();
            time::parse_number(value).map(Reading::Ns)
        }
        ValueType::Object => instant(value).map(Reading::Ns),
        ValueType::Array | ValueType::Literal => None,
    }
}

/// log4j2's `Instant` as JsonLayout writes it.
#[inline(never)]
fn instant(object: &[u8]) -> Option<i64> {
    let member = |name: &[u8]| Members::new(object).find(|(key, _)| *key == name);
    let (_, seconds) = member(b"epochSecond")?;
    let (_, nanos) = member(b"nanoOfSecond")?;
    time::from_instant(seconds, nanos)
}
