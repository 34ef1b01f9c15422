//! What the peer keeps: which lines each document has, by id. `create` as Elasticsearch does it.
//!
//! Guarantees that a document is stored at most once under an id and that whatever can't be right
//! about a document is noted. Decides from the id alone which documents are refused, so that each
//! is refused again when it is sent again, as by a mapping. The documents themselves are not kept.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memchr::memmem;

use crate::marks::{Range, lines_of};

/// Characters of an id that are its runtime time.
const TIME: usize = 13;

/// One in so many documents is refused in its first form, and of those one in so many in both.
const REFUSED: u64 = 300;
const REFUSED_TWICE: u64 = 8;

/// What is done wrong on purpose, to see that the judge notices. Once each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// A document is answered 201 and not stored.
    Lose,
    /// A document is stored under another id too.
    Double,
    /// A document that nobody sent is stored.
    Invent,
}

/// One document.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    pub(crate) lines: Range,
    /// The beginning of its id, which is in the order of runtime time.
    pub(crate) time: [u8; TIME],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Created,
    Exists,
    Refused,
    TooMany,
}

impl Status {
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::Created => 201,
            Self::Exists => 409,
            Self::Refused => 400,
            Self::TooMany => 429,
        }
    }

    pub(crate) fn error(self) -> Option<&'static str> {
        match self {
            Self::Created => None,
            Self::Exists => Some("version_conflict_engine_exception"),
            Self::Refused => Some("document_parsing_exception"),
            Self::TooMany => Some("es_rejected_execution_exception"),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Created => "items created",
            Self::Exists => "items answered 409",
            Self::Refused => "items answered 400",
            Self::TooMany => "items answered 429",
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    by_id: HashMap<Box<str>, usize>,
    documents: Vec<Stored>,
    /// How many documents each line is in, by lane.
    seen: Vec<Vec<u8>>,
    /// Lines that are in a document.
    there: Arc<AtomicU64>,
    wrong: Vec<String>,
    sabotage: Vec<Sabotage>,
}

impl Index {
    pub(crate) fn sabotaged() -> Self {
        let sabotage = vec![Sabotage::Lose, Sabotage::Double, Sabotage::Invent];
        Self { sabotage, ..Self::default() }
    }

    pub(crate) fn documents(&self) -> &[Stored] {
        &self.documents
    }

    /// How many documents have line `line` of `lane`.
    pub(crate) fn seen(&self, lane: u32) -> &[u8] {
        self.seen.get(lane as usize).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn lanes(&self) -> u32 {
        u32::try_from(self.seen.len()).expect("two for each container")
    }

    /// Different lines that are in a document.
    pub(crate) fn there(&self) -> u64 {
        self.there.load(Ordering::Relaxed)
    }

    /// The same, as it grows.
    pub(crate) fn watched(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.there)
    }

    /// What was wrong with documents as they came.
    pub(crate) fn wrong(&self) -> &[String] {
        &self.wrong
    }

    /// A `create` with its action line.
    pub(crate) fn create(&mut self, action: &[u8], document: &[u8]) -> Status {
        let Some(id) = id_of(action) else {
            self.wrong.push(format!("no id in {}", shown(action)));
            return Status::Created;
        };
        let plain_form = memmem::find(document, br#""splashdam":{"reason":"#).is_some();
        let refused = hash_of(id).is_multiple_of(REFUSED);
        let refused_twice = refused && hash_of(id).is_multiple_of(REFUSED * REFUSED_TWICE);
        if refused_twice || (refused && !plain_form) {
            return Status::Refused;
        }
        let lines = match lines_of(document) {
            Ok(lines) => lines,
            Err(damage) => {
                self.wrong.push(format!("{damage:?} in {id}: {}", shown(document)));
                return Status::Created;
            }
        };
        let Some(at) = self.by_id.get(id) else {
            return self.put(id, lines);
        };
        let there = self.documents[*at].lines;
        if there != lines {
            self.wrong.push(format!("{id} came with {there:?} and with {lines:?}"));
        }
        Status::Exists
    }

    /// Notes lines that are safe elsewhere, in a dead letter.
    pub(crate) fn take_letter(&mut self, id: &str, document: &[u8]) {
        match lines_of(document) {
            // a crash may come between the letter and its acknowledgement
            Ok(lines)
                if self.by_id.get(id).is_some_and(|&at| self.documents[at].lines == lines) => {}
            Ok(lines) => {
                self.put(id, lines);
            }
            Err(damage) => self.wrong.push(format!("{damage:?} in the dead letter {id}")),
        }
    }

    fn put(&mut self, id: &str, lines: Range) -> Status {
        if lines.first > 20 && self.sabotage.first() == Some(&Sabotage::Lose) {
            self.sabotage.remove(0);
            return Status::Created;
        }
        let mut time = [0; TIME];
        for (to, from) in time.iter_mut().zip(id.bytes()) {
            *to = from;
        }
        self.by_id.insert(id.into(), self.documents.len());
        self.documents.push(Stored { lines, time });
        self.see(lines);
        match self.sabotage.first() {
            Some(Sabotage::Double) => {
                self.sabotage.remove(0);
                self.put(&id.replacen('A', "B", 1), lines);
            }
            Some(Sabotage::Invent) => {
                self.sabotage.remove(0);
                let first = lines.first + 1_000_000;
                self.put("invented", Range { first, count: 1, ..lines });
            }
            _ => {}
        }
        Status::Created
    }

    fn see(&mut self, lines: Range) {
        let lane = lines.lane as usize;
        if self.seen.len() <= lane {
            self.seen.resize(lane + 1, Vec::new());
        }
        let end = (lines.first + lines.count) as usize;
        let seen = &mut self.seen[lane];
        if seen.len() < end {
            seen.resize(end, 0);
        }
        for line in &mut seen[lines.first as usize..end] {
            self.there.fetch_add(u64::from(*line == 0), Ordering::Relaxed);
            *line = line.saturating_add(1);
        }
    }
}

fn hash_of(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

/// `"_id":"…"` of an action line.
fn id_of(action: &[u8]) -> Option<&str> {
    let start = memmem::find(action, br#""_id":""#)? + 7;
    let length = memchr::memchr(b'"', &action[start..])?;
    std::str::from_utf8(&action[start..start + length]).ok()
}

/// The beginning of a text, for people.
fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(400)]).into_owned()
}
