//! The filters that the user wrote: which documents go on, and what is changed in them.
//!
//! Owns the meaning of each filter. Guarantees that filters work in the order written, that a
//! document that no filter changes keeps its bytes exactly, that what goes on is one compact or
//! untouched JSON object, and that every decision is a function of the document, its `_id` and
//! the runtime times seen before; no clock and no chance enter.
//!
//! Conditions read the document's text where it stands, and take what is known of its
//! [fields](crate::document::fields) for what they would find there. The first filter that really
//! changes a document has it parsed, once; a field that is only added is spliced into the text.
//! Fields are named by dotted path in any spelling (see [`crate::document::tree`]); conditions
//! read the spelling with the longest names, changes leave none of the others. Arrays are not
//! entered, but a field that is an array of strings is redacted.
//!
//! - `drop` and `keep` compare a field's text: a string's characters, else its JSON. An absent
//!   field meets no condition, so `keep` drops it. A `null` is there.
//! - `add` replaces a field that is there, `remove` and `rename` take objects whole, `rename`
//!   replaces the target. Nothing is sacred: who removes `@timestamp` has none.
//! - `redact` rewrites strings; `$1` and `${name}` in `with` are the pattern's groups, `$$` is a
//!   dollar sign. Numbers and objects stay as they are.
//! - `sample` and `throttle`: see [`limit`].

mod change;
pub mod limit;
mod lookup;
mod needles;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use crate::config::pipeline::{self, Condition, Test};
use crate::document::fields::{Fields, Found};
use crate::document::tree::{Node, Tree, unescape};
use change::{Change, OnText};
use limit::{Sample, Throttle};

/// Levels that the filters take: the document's own 20 and what enriching put around them.
const LEVELS_MAX: usize = 64;

/// What becomes of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    /// Dropped by a filter of the user's: counted as filtered, never sent.
    Dropped,
}

/// The filters of one pipeline as one worker runs them; `throttle` counts in here.
#[derive(Debug)]
pub struct Filters {
    steps: Vec<Step>,
    /// Where a changed document is written; its capacity is kept.
    scratch: Vec<u8>,
}

#[derive(Debug)]
enum Step {
    Decide(Decide),
    Change(Change),
}

#[derive(Debug)]
enum Decide {
    Drop(Condition),
    Keep(Condition),
    Sample(Option<Condition>, Sample),
    Throttle { by: String, throttle: Throttle },
}

/// What a decision may depend on besides the document.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The document's `_id`.
    pub id: &'a [u8],
    /// Its runtime time, nanoseconds since the epoch.
    pub time_ns: i64,
}

impl Filters {
    /// The filters of a pipeline, in the order written, with nothing counted yet.
    pub fn new(filters: &[pipeline::Filter]) -> Self {
        let mut steps = Vec::new();
        let mut samples = 0;
        for filter in filters {
            compile(filter, &mut samples, &mut steps);
        }
        Self { steps, scratch: Vec::new() }
    }

    /// Whether every document goes on as it is.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Forgets what was counted of documents that are going to be read again: counted twice, they
    /// would take each other's place.
    pub fn forget_counts(&mut self) {
        for step in &mut self.steps {
            if let Step::Decide(Decide::Throttle { throttle, .. }) = step {
                throttle.forget();
            }
        }
    }

    /// Decides on the document `body[start..]`, one complete JSON object, and rewrites it there.
    ///
    /// `fields` is what is known of it. After [`Verdict::Dropped`], what stands from `start` on
    /// means nothing. A text that is no JSON object passes unchanged where a filter would have to
    /// change it.
    pub fn apply(
        &mut self,
        body: &mut Vec<u8>,
        start: usize,
        mut fields: Fields<'_>,
        origin: Origin<'_>,
    ) -> Verdict {
        for at in 0..self.steps.len() {
            match &mut self.steps[at] {
                Step::Decide(decide) => {
                    if !decide.passes(View::Text(&body[start..], fields), origin) {
                        return Verdict::Dropped;
                    }
                }
                Step::Change(change) => match change.on_text(body, start, fields) {
                    OnText::Nothing => {}
                    OnText::Done => fields = Fields::UNKNOWN,
                    OnText::NeedsTree => return self.apply_on_tree(at, body, start, origin),
                },
            }
        }
        Verdict::Keep
    }

    /// Goes on from step `first`, which needs the document parsed.
    fn apply_on_tree(
        &mut self,
        first: usize,
        body: &mut Vec<u8>,
        start: usize,
        origin: Origin<'_>,
    ) -> Verdict {
        let Ok(mut tree) = Tree::parse_within(&body[start..], LEVELS_MAX) else {
            return Verdict::Keep;
        };
        let mut changed = false;
        for step in &mut self.steps[first..] {
            match step {
                Step::Decide(decide) => {
                    if !decide.passes(View::Tree(&tree), origin) {
                        return Verdict::Dropped;
                    }
                }
                Step::Change(change) => changed |= change.on_tree(&mut tree),
            }
        }
        if changed {
            self.scratch.clear();
            tree.write(&mut self.scratch);
            body.truncate(start);
            body.extend_from_slice(&self.scratch);
        }
        Verdict::Keep
    }
}

/// Appends the steps of one filter. `samples` counts the `sample` filters so far.
fn compile(filter: &pipeline::Filter, samples: &mut u64, steps: &mut Vec<Step>) {
    use pipeline::Filter;
    let decide = match filter {
        Filter::Add(fields) => {
            let adds = fields.iter().map(|(field, value)| Change::add(field, value));
            return steps.extend(adds.map(Step::Change));
        }
        Filter::Remove(fields) => {
            let removes = fields.iter().map(|field| Change::Remove { field: field.clone() });
            return steps.extend(removes.map(Step::Change));
        }
        Filter::Rename { from, to } => {
            let rename = Change::Rename { from: from.clone(), to: to.clone() };
            return steps.push(Step::Change(rename));
        }
        Filter::Redact { field, pattern, with } => {
            return steps.push(Step::Change(Change::redact(field, pattern, with)));
        }
        Filter::Drop(condition) => Decide::Drop(condition.clone()),
        Filter::Keep(condition) => Decide::Keep(condition.clone()),
        Filter::Sample { condition, keep, of } => {
            *samples += 1;
            Decide::Sample(condition.clone(), Sample::new(*keep, *of, *samples - 1))
        }
        Filter::Throttle { by, lines, per } => {
            Decide::Throttle { by: by.clone(), throttle: Throttle::new(*lines, *per) }
        }
    };
    steps.push(Step::Decide(decide));
}

impl Decide {
    /// Whether the document goes on.
    fn passes(&mut self, document: View<'_>, origin: Origin<'_>) -> bool {
        match self {
            Self::Drop(condition) => !document.meets(condition),
            Self::Keep(condition) => document.meets(condition),
            Self::Sample(condition, sample) => {
                let asked = condition.as_ref().is_none_or(|condition| document.meets(condition));
                !asked || sample.keeps(origin.id)
            }
            Self::Throttle { by, throttle } => {
                document.text_of(by).is_none_or(|value| throttle.allows(&value, origin.time_ns))
            }
        }
    }
}

/// A document as it stands between two filters.
#[derive(Clone, Copy)]
enum View<'a> {
    Text(&'a [u8], Fields<'a>),
    Tree(&'a Tree<'a>),
}

impl<'a> View<'a> {
    /// A field's text: a string's characters, else its JSON.
    fn text_of(self, field: &str) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(document, fields) => find(document, fields, field).map(text),
            Self::Tree(tree) => tree.get(field).map(|node| match node {
                Node::Scalar(raw) => text(raw),
                nested => {
                    let mut json = Vec::new();
                    nested.write(&mut json);
                    Cow::Owned(String::from_utf8_lossy(&json).into_owned())
                }
            }),
        }
    }

    fn meets(self, condition: &Condition) -> bool {
        let Some(text) = self.text_of(&condition.field) else { return false };
        match &condition.test {
            Test::In(texts) => texts.iter().any(|one| *one == text),
            Test::Equals(other) => *other == text,
            Test::Matches(pattern) => pattern.is_match(&text),
            Test::Exists => true,
        }
    }
}

/// The JSON text of the value at `path` in the text of a document.
fn find<'a>(document: &'a [u8], fields: Fields<'a>, path: &str) -> Option<&'a [u8]> {
    match fields.find(path) {
        Found::Value(value) => Some(value),
        Found::Nowhere => None,
        Found::Unknown => lookup::find(document, path),
    }
}

/// The text of a value in JSON.
fn text(raw: &[u8]) -> Cow<'_, str> {
    match raw.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) {
        Some(characters) => unescape(characters),
        None => String::from_utf8_lossy(raw),
    }
}
