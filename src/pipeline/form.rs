//! How one pipeline's records of one stream become documents in the open batch.
//!
//! Owns what is the same for all of them: the template and what their ids are made of. Guarantees
//! that a record ends as one document, as a line that a filter dropped, or as a blank one, and is
//! counted as such. Does not read, join or seal.

use std::hint::cold_path;
use std::sync::Arc;

use super::in_hand::Plain;
use super::reader::Shipping;
use crate::config::Pipeline;
use crate::config::pipeline::Filter;
use crate::discover::StreamName;
use crate::document::Names;
use crate::document::id::{self, Id, IdHash};
use crate::document::splice::{Appended, Content, LineFacts, Template};
use crate::enrich::metadata::agent_names;
use crate::filter::Verdict;
use crate::parse::json::Kind;
use crate::parse::record::Record;
use crate::tail::PartId;

/// What an `_id` depends on besides time and positions.
#[derive(Debug)]
pub struct Naming {
    id_scope: String,
    name: Arc<StreamName>,
    /// The hash of the last record, and the parts that it begins and ends in.
    last: Option<(PartId, PartId, IdHash)>,
}

impl Naming {
    /// Names records of `name` in `id_scope`.
    pub fn new(id_scope: &str, name: Arc<StreamName>) -> Self {
        Self { id_scope: id_scope.to_owned(), name, last: None }
    }

    fn hash(&mut self, record: &Record<'_>) -> &IdHash {
        let (start, end) = (record.start.part, record.end.part);
        let Self { id_scope, name, last } = self;
        if last.is_some_and(|(first, last, _)| (first, last) != (start, end)) {
            cold_path();
            *last = None;
        }
        let (.., hash) = last.get_or_insert_with(|| {
            cold_path();
            let plain = |part: PartId| (part.first_time_ns, part.hash);
            let later = (end != start).then(|| plain(end));
            (start, end, id::hash(id_scope, name, plain(start), later))
        });
        hash
    }
}

/// What names mean in the documents of `pipeline`; the same for all of its streams.
pub fn names(pipeline: &Pipeline) -> Arc<Names> {
    let form = pipeline.output.document;
    let asked = pipeline.filters.iter().flat_map(Filter::fields);
    Arc::new(Names::new(form, agent_names(form), pipeline.parse.json_time.as_deref(), asked))
}

/// How records become documents: what is the same for all of them.
#[derive(Debug)]
pub struct Form {
    pub template: Template,
    pub naming: Naming,
    /// What is shipped as text, whatever it is.
    pub plain: Plain,
}

impl Form {
    /// [`Self::ship`] as a function of its own, for records that were put together.
    #[inline(never)]
    pub fn ship_joined(&mut self, shipping: &mut Shipping<'_>, record: &Record<'_>) {
        self.ship(shipping, record);
    }

    /// Writes the record's document into the open batch, unless it is blank or a filter drops it.
    #[inline(always)]
    pub fn ship(&mut self, shipping: &mut Shipping<'_>, record: &Record<'_>) {
        let Shipping { batch, filters, scratch, .. } = shipping;
        if record.is_blank() {
            cold_path();
            batch.tally.lines_filtered += 1;
            return;
        }
        let facts = LineFacts {
            id: Id {
                time_ns: record.time_ns,
                hash: self.naming.hash(record),
                start: record.start.offset,
                end: record.end.offset,
            },
            time: record.time,
            lane: record.lane,
            tag: record.tag,
            original_length: record.original_bytes,
        };
        let content = match record.lines {
            1 if !self.plain.has(record) => Content::Line(record.content),
            _ => {
                cold_path();
                Content::Text(record.content)
            }
        };
        let kind = self.template.kind(content, scratch);
        if filters.is_empty() {
            self.template.append(&facts, content, kind, scratch, &mut batch.body);
        } else {
            let lent = facts;
            if filter(&self.template, &lent, content, kind, shipping) == Verdict::Dropped {
                shipping.batch.tally.lines_filtered += u64::from(record.lines);
                return;
            }
        }
        let Shipping { name, batch, .. } = shipping;
        batch.add(name, record.lines, record.time_ns);
        batch.settle();
    }
}

/// Writes a document as filters leave it, unless one of them drops it.
#[inline(never)]
fn filter(
    template: &Template,
    facts: &LineFacts<'_>,
    content: Content<'_>,
    kind: Option<Kind>,
    shipping: &mut Shipping<'_>,
) -> Verdict {
    let Shipping { batch, filters, scratch, .. } = shipping;
    let (Content::Line(line) | Content::Text(line)) = content;
    let Some(rest) = filters.decide(Template::fields(kind, line, scratch), facts.id) else {
        return Verdict::Dropped;
    };
    let body = &mut batch.body;
    let Appended { start, document } = template.append(facts, content, kind, scratch, body);
    body.truncate(document.end);
    let fields = Template::fields(kind, line, scratch);
    let verdict = filters.apply(rest, body, document.start, fields, facts.id);
    match verdict {
        Verdict::Keep => body.push(b'\n'),
        Verdict::Dropped => body.truncate(start),
    }
    verdict
}
