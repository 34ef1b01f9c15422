//! The filters that the user wrote: which documents go on, and what is changed in them.
//!
//! Owns the meaning of each filter. Guarantees that filters work in the order written, that a
//! document that no filter changes keeps its bytes exactly, that what goes on is one compact or
//! untouched JSON object, and that every decision is a function of the document, its `_id` and
//! the runtime times seen before; no clock and no chance enter.
//!
//! Conditions read the document's text where it stands, and take what is known of its
//! [fields](crate::document::fields) for what they would find there. Those before the first change that
//! need no more than that decide before there is a text. The first filter that really
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
use std::cmp::Ordering;

use crate::config::pipeline::{self, Test};
use crate::document::fields::{Field, Fields, Found};
use crate::document::tree::{self, Node, Tree, unescape};
use crate::document::{Id, Names};
use change::{Change, OnText};
use limit::{Sample, Throttle};

/// Levels that the filters take: the document's own 20 and what enriching put around them.
const LEVELS_MAX: usize = 64;

/// Bytes of JSON that stand for one byte of text at most: `\u0041`.
const ESCAPE_BYTES_MAX: usize = 6;

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
    Throttle { by: Field, throttle: Throttle },
}

/// Which filters are left when the first have decided.
#[derive(Debug, Clone, Copy)]
pub struct Rest(usize);

/// A test of one field.
#[derive(Debug)]
struct Condition {
    field: Field,
    test: Test,
}

impl Filters {
    /// The filters of a pipeline, in the order written, with nothing counted yet. `names` are those
    /// of its documents.
    pub fn new(filters: &[pipeline::Filter], names: &Names) -> Self {
        let mut steps = Vec::new();
        let mut samples = 0;
        for filter in filters {
            compile(filter, names, &mut samples, &mut steps);
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

    /// Decides on a document that isn't written yet, with the first filters and for as long as what is
    /// known of its fields is all that they need. `id` is its `_id` with the runtime's time. `None` for
    /// a document that is dropped; of any other, [`Self::apply`] does the rest.
    pub fn decide(&mut self, fields: Fields<'_>, id: Id<'_>) -> Option<Rest> {
        for (at, step) in self.steps.iter_mut().enumerate() {
            let Step::Decide(decide) = step else { return Some(Rest(at)) };
            match decide.passes(View::Fields(fields), id) {
                Some(true) => {}
                Some(false) => return None,
                None => return Some(Rest(at)),
            }
        }
        Some(Rest(self.steps.len()))
    }

    /// Decides on the document `body[start..]`, one complete JSON object, with those filters that are
    /// left, and rewrites it there.
    ///
    /// `fields` and `id` are as before. After [`Verdict::Dropped`], what stands from `start` on means
    /// nothing. A text that is no JSON object passes unchanged where a filter would have to change it.
    pub fn apply(
        &mut self,
        rest: Rest,
        body: &mut Vec<u8>,
        start: usize,
        mut fields: Fields<'_>,
        id: Id<'_>,
    ) -> Verdict {
        for at in rest.0..self.steps.len() {
            match &mut self.steps[at] {
                Step::Decide(decide) => {
                    if decide.passes(View::Text(&body[start..], fields), id) == Some(false) {
                        return Verdict::Dropped;
                    }
                }
                Step::Change(change) => match change.on_text(body, start, fields) {
                    OnText::Nothing => {}
                    OnText::Done => fields = Fields::UNKNOWN,
                    OnText::NeedsTree => return self.apply_on_tree(at, body, start, id),
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
        id: Id<'_>,
    ) -> Verdict {
        let Ok(mut tree) = Tree::parse_within(&body[start..], LEVELS_MAX) else {
            return Verdict::Keep;
        };
        let mut changed = false;
        for step in &mut self.steps[first..] {
            match step {
                Step::Decide(decide) => {
                    if decide.passes(View::Tree(&tree), id) == Some(false) {
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
fn compile(filter: &pipeline::Filter, names: &Names, samples: &mut u64, steps: &mut Vec<Step>) {
    use pipeline::Filter;
    let field = |path: &String| Field::new(path, names);
    let compiled = |condition: &pipeline::Condition| Condition {
        field: field(&condition.field),
        test: condition.test.clone(),
    };
    let decide = match filter {
        Filter::Add(fields) => {
            let adds = fields.iter().map(|(path, value)| Change::add(field(path), value));
            return steps.extend(adds.map(Step::Change));
        }
        Filter::Remove(fields) => {
            let removes = fields.iter().map(|path| Change::Remove { field: field(path) });
            return steps.extend(removes.map(Step::Change));
        }
        Filter::Rename { from, to } => {
            let rename = Change::Rename { from: field(from), to: to.clone() };
            return steps.push(Step::Change(rename));
        }
        Filter::Redact { field: path, pattern, with } => {
            return steps.push(Step::Change(Change::redact(field(path), pattern, with)));
        }
        Filter::Drop(condition) => Decide::Drop(compiled(condition)),
        Filter::Keep(condition) => Decide::Keep(compiled(condition)),
        Filter::Sample { condition, keep, of } => {
            *samples += 1;
            Decide::Sample(condition.as_ref().map(compiled), Sample::new(*keep, *of, *samples - 1))
        }
        Filter::Throttle { by, lines, per } => {
            Decide::Throttle { by: field(by), throttle: Throttle::new(*lines, *per) }
        }
    };
    steps.push(Step::Decide(decide));
}

impl Decide {
    /// Whether the document goes on; `None` where too little is known of it.
    fn passes(&mut self, document: View<'_>, id: Id<'_>) -> Option<bool> {
        Some(match self {
            Self::Drop(condition) => !document.meets(condition)?,
            Self::Keep(condition) => document.meets(condition)?,
            Self::Sample(condition, sample) => {
                let asked = match condition {
                    Some(condition) => document.meets(condition)?,
                    None => true,
                };
                !asked || sample.keeps(&id.characters())
            }
            Self::Throttle { by, throttle } => match document.value_of(by) {
                Value::Is(value) => throttle.allows(&text(&value), id.time_ns),
                Value::Absent => true,
                Value::Unknown => return None,
            },
        })
    }
}

/// A document as it stands between two filters.
#[derive(Clone, Copy)]
enum View<'a> {
    /// It isn't written yet.
    Fields(Fields<'a>),
    Text(&'a [u8], Fields<'a>),
    Tree(&'a Tree<'a>),
}

/// What a document says of a field.
#[derive(Debug, PartialEq, Eq)]
enum Value<'a> {
    /// In JSON.
    Is(Cow<'a, [u8]>),
    Absent,
    Unknown,
}

impl<'a> View<'a> {
    fn value_of(self, field: &Field) -> Value<'a> {
        match self {
            Self::Fields(fields) => match fields.find(field) {
                Found::Value(value) => Value::Is(Cow::Borrowed(value)),
                Found::Nowhere => Value::Absent,
                Found::Unknown => Value::Unknown,
            },
            Self::Text(document, fields) => find(document, fields, field)
                .map_or(Value::Absent, |value| Value::Is(Cow::Borrowed(value))),
            Self::Tree(tree) => match tree.get(field) {
                None => Value::Absent,
                Some(Node::Scalar(raw)) => Value::Is(Cow::Borrowed(&**raw)),
                Some(nested) => {
                    let mut json = Vec::new();
                    nested.write(&mut json);
                    Value::Is(Cow::Owned(json))
                }
            },
        }
    }

    /// `None` where too little is known.
    fn meets(self, condition: &Condition) -> Option<bool> {
        let value = match self.value_of(&condition.field) {
            Value::Is(value) => value,
            Value::Absent => return Some(false),
            Value::Unknown => return None,
        };
        Some(match &condition.test {
            Test::In(texts) => texts.iter().any(|text| has_text(&value, text)),
            Test::Equals(text) => has_text(&value, text),
            Test::Matches(pattern) => pattern.is_match(&text(&value)),
            Test::Exists => true,
        })
    }
}

/// The JSON text of a field's value in the text of a document.
fn find<'a>(document: &'a [u8], fields: Fields<'a>, field: &Field) -> Option<&'a [u8]> {
    match fields.find(field) {
        Found::Value(value) => Some(value),
        Found::Nowhere => None,
        Found::Unknown => lookup::find(document, field),
    }
}

/// The text of a value in JSON: a string's characters, else the JSON itself.
fn text(value: &[u8]) -> Cow<'_, str> {
    match characters(value) {
        Some(raw) => unescape(raw),
        None => tree::text(value),
    }
}

/// Whether `text` is the [text] of a value in JSON.
fn has_text(value: &[u8], text: &str) -> bool {
    let raw = characters(value).unwrap_or(value);
    // Escapes only make it longer.
    match raw.len().cmp(&text.len()) {
        Ordering::Less => false,
        Ordering::Equal if raw != text.as_bytes() => false,
        Ordering::Greater if raw.len() > ESCAPE_BYTES_MAX * text.len() => false,
        Ordering::Equal | Ordering::Greater => self::text(value) == text,
    }
}

/// What stands between a string's quotes; `None` for another value.
fn characters(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(b"\"")?.strip_suffix(b"\"")
}
