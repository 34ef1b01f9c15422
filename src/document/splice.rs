//! Appends one bulk item to a body: action line, the agent's members, the application's.
//!
//! ```text
//! <the lead: action line, agent's members up to "log.offset":>0,<the application's members, byte for byte>}
//! ```
//!
//! Guarantees that the document is one line of valid JSON without a name twice in any object, for
//! any content; that every member of the application's is there, under its name or under
//! `application.<name>` where the name is the agent's, but for an `@timestamp` that the document
//! carries in another form; and that the bytes are the same whenever the line is read again. What
//! cannot collide is copied in one piece. Nothing is allocated per line once scratch and body have
//! grown, but for lines on the slow road. `application` is the agent's own name too: without
//! that, `application.time` of the application's could meet a `time` that moved.

use std::collections::BTreeMap;
use std::hint::cold_path;
use std::ops::Range;
use std::sync::Arc;

use super::fields::{Fields, Known};
use super::id::Id;
use super::lead::{Filling, Lead};
use super::names::{Names, Place, Role};
use super::stamp::{Candidates, OwnMember, Stamp};
use super::{decimal, escape, rewrite};
use crate::config::pipeline::{DocumentForm, IndexName};
use crate::parse::Lane;
use crate::parse::json::{self, JOB_ID_BYTES, Kind, Member, Scan, ValueType};
use crate::parse::time::{self, LastSecond};
use crate::parse::walk::Members;
use crate::pipeline::batch::Framing;

const HOUR_NS: i64 = 3_600_000_000_000;

/// Bytes of an item beside metadata, content and index name: braces, names, times, numbers, id.
const ITEM_OVERHEAD: usize = 512;

/// What a [`Template`] is made from.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// Whole members, without a comma at either end: `"kubernetes":{…},…`.
    pub head: &'a [u8],
    /// Members of the object `flink`, or nothing.
    pub flink: &'a [u8],
    /// Further members of it for the lines of a job, by the job's id in lower-case hex digits.
    pub jobs: &'a BTreeMap<String, Vec<u8>>,
    pub form: DocumentForm,
    pub names: &'a Arc<Names>,
    pub framing: Framing,
    /// Where documents go; a fixed name stands in the request's path and not in the items.
    pub index: Option<&'a IndexName>,
}

/// What is the same for all documents of one stream in one pipeline.
#[derive(Debug)]
pub struct Template {
    names: Arc<Names>,
    /// The date-named index's pattern, escaped.
    index: Option<String>,
    /// What items begin with, by lane: those without a job's id, and those with one.
    leads: [Lead; 2],
    leads_with_job: [Lead; 2],
    /// Members of `flink` beside a job's id, each behind a comma, by that id in lower case.
    jobs: BTreeMap<[u8; JOB_ID_BYTES], Vec<u8>>,
    overhead_bytes: usize,
}

/// What differs from line to line beside the content.
#[derive(Debug, Clone, Copy)]
pub struct LineFacts<'a> {
    /// With the runtime's time, and where the raw bytes stand.
    pub id: Id<'a>,
    /// The time as the runtime wrote it: RFC 3339.
    pub time: &'a [u8],
    pub lane: Lane,
    /// The runtime's tag; empty where it has none, `F` for a joined line.
    pub tag: &'a [u8],
    /// The line's length in bytes before it was cut; `None` where it wasn't.
    pub original_length: Option<u64>,
}

/// What the document is made from.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// One logical line, without its line feed; JSON or not.
    Line(&'a [u8]),
    /// Joined lines, or a line that must not be looked into.
    Text(&'a [u8]),
}

/// Buffers that are used again for every line; one for each worker.
#[derive(Debug, Default)]
pub struct Scratch {
    scan: Scan,
    /// By whom names in `scan` are marked: with their [roles](Role).
    marked_by: Option<Arc<Names>>,
    /// The times of the application's, which are mostly of one second.
    second: LastSecond,
    edits: Vec<Edit>,
    /// The document's member `@timestamp`, if it gets one.
    stamp: Vec<u8>,
    /// What the slow road made of a line.
    rewritten: Vec<u8>,
    index: IndexCache,
}

/// A place in the application's members that isn't copied as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Edit {
    /// `application.` goes before the name that begins here.
    Move(usize),
    /// The application's `@timestamp`, a member by index, whose fate is decided last.
    OwnTime(usize),
}

/// Where an item lies in the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Where the item begins: truncating the body to it takes the item back.
    pub start: usize,
    /// The document, without the line feed that ends the item.
    pub document: Range<usize>,
}

/// A date-named index, formatted once for the hour.
#[derive(Debug, Default)]
struct IndexCache {
    pattern: String,
    hour: i64,
    name: Vec<u8>,
}

impl Template {
    pub fn new(parts: Parts<'_>) -> Self {
        let Parts { head, flink, form, names, framing, index, jobs } = parts;
        let index = index.and_then(|index| match index {
            IndexName::ByDate(pattern) => Some(escaped(pattern)),
            IndexName::Fixed(_) => None,
        });
        let leads =
            |with_job| Lane::BOTH.map(|lane| Lead::new(head, flink, with_job, lane, form, framing));
        let (leads, leads_with_job) = (leads(false), leads(true));
        let beside_job = |(id, members): (&String, &Vec<u8>)| {
            Some((id.as_bytes().try_into().ok()?, [b",", &**members].concat()))
        };
        let jobs: BTreeMap<[u8; JOB_ID_BYTES], Vec<u8>> =
            jobs.iter().filter_map(beside_job).collect();
        let overhead_bytes = leads_with_job[0].bytes()
            + jobs.values().map(Vec::len).max().unwrap_or(0)
            + index.as_ref().map_or(0, String::len)
            + ITEM_OVERHEAD;
        Self { names: Arc::clone(names), index, leads, leads_with_job, jobs, overhead_bytes }
    }

    /// What stands beside a job's id; nothing where the job isn't known.
    fn beside_job(&self, id: &[u8]) -> &[u8] {
        let mut id: [u8; JOB_ID_BYTES] = id.try_into().unwrap_or([0; JOB_ID_BYTES]);
        id.make_ascii_lowercase();
        self.jobs.get(&id).map(Vec::as_slice).unwrap_or_default()
    }

    /// Bytes that an item has at most besides its content.
    pub fn overhead_bytes(&self) -> usize {
        self.overhead_bytes
    }

    /// What the document is made from: a line is looked into, with what is found in `scratch`; `None`
    /// for [`Content::Text`].
    #[inline(always)]
    pub fn kind(&self, content: Content<'_>, scratch: &mut Scratch) -> Option<Kind> {
        match content {
            Content::Line(line) => Some(self.scan(line, scratch)),
            Content::Text(_) => None,
        }
    }

    /// Appends the item for one record, of whose `content` this is the [kind](Self::kind), found with
    /// this `scratch`. The body may hold anything before it.
    #[inline(always)]
    pub fn append(
        &self,
        facts: &LineFacts<'_>,
        content: Content<'_>,
        kind: Option<Kind>,
        scratch: &mut Scratch,
        body: &mut Vec<u8>,
    ) -> Appended {
        let (Content::Line(line) | Content::Text(line)) = content;
        let start = body.len();
        body.reserve(line.len() + self.overhead_bytes);
        let document = match kind {
            Some(Kind::Object) => self.write_object(facts, line, scratch, body),
            Some(Kind::Unusual) => {
                let facts = *facts;
                self.write_unusual(&facts, line, scratch, body)
            }
            Some(Kind::Text(_)) | None => {
                let facts = *facts;
                self.write_text(&facts, line, scratch, body)
            }
        };
        let end = body.len();
        body.push(b'\n');
        Appended { start, document: document..end }
    }

    #[inline(always)]
    fn scan(&self, line: &[u8], scratch: &mut Scratch) -> Kind {
        if !scratch.marked_by.as_ref().is_some_and(|names| Arc::ptr_eq(names, &self.names)) {
            cold_path();
            scratch.scan.unmark_all();
            scratch.marked_by = Some(Arc::clone(&self.names));
        }
        json::scan(line, &mut scratch.scan)
    }

    /// What is known of the fields of the document that is made from `line`, of whose content this is
    /// the [kind](Self::kind), found with this `scratch`.
    pub fn fields<'a>(kind: Option<Kind>, line: &'a [u8], scratch: &'a Scratch) -> Fields<'a> {
        Fields(match kind {
            Some(Kind::Object) => Known::Line(line, &scratch.scan.members),
            Some(Kind::Unusual) => Known::Nothing,
            Some(Kind::Text(_)) | None => Known::Text,
        })
    }

    /// The slow road: the same object in another form, and on with it.
    #[cold]
    fn write_unusual(
        &self,
        facts: &LineFacts<'_>,
        line: &[u8],
        scratch: &mut Scratch,
        body: &mut Vec<u8>,
    ) -> usize {
        let mut rewritten = std::mem::take(&mut scratch.rewritten);
        rewritten.clear();
        rewrite::object(line.trim_ascii(), &mut rewritten);
        let document = match json::scan_rewritten(&rewritten, &mut scratch.scan) {
            Kind::Object => self.write_object(facts, &rewritten, scratch, body),
            Kind::Unusual | Kind::Text(_) => self.write_text(facts, line, scratch, body),
        };
        rewritten.shrink_to(KEPT_BYTES);
        scratch.rewritten = rewritten;
        document
    }

    #[inline(never)]
    fn write_text(
        &self,
        facts: &LineFacts<'_>,
        text: &[u8],
        scratch: &mut Scratch,
        body: &mut Vec<u8>,
    ) -> usize {
        let document = self.write_agent(facts, &Stamp::Runtime, None, b"", scratch, body);
        body.extend_from_slice(b",\"message\":\"");
        escape::write(text, body);
        body.extend_from_slice(b"\"}");
        document
    }

    #[inline(always)]
    fn write_object(
        &self,
        facts: &LineFacts<'_>,
        line: &[u8],
        scratch: &mut Scratch,
        body: &mut Vec<u8>,
    ) -> usize {
        let (stamp, own) = self.plan(line, scratch);
        let job = scratch.scan.job_id.clone();
        let document = self.write_agent(facts, &stamp, job, line, scratch, body);
        write_members(line, &scratch.scan, &scratch.edits, own, body);
        body.push(b'}');
        document
    }

    /// What of the application's members isn't copied as it is, and where the time comes from.
    #[inline(always)]
    fn plan(&self, line: &[u8], scratch: &mut Scratch) -> (Stamp, OwnMember) {
        let Scratch { scan, second, edits, .. } = scratch;
        edits.clear();
        let mut candidates = Candidates::default();
        for i in 0..scan.members.len() {
            let member = scan.members[i];
            let role = match Role::of_mark(member.mark) {
                Some(role) => role,
                None => self.mark(line, member, scan),
            };
            if let Some(rank) = role.time_rank {
                candidates.note(rank, i);
            }
            match role.place {
                Place::Stays => {}
                Place::Moves => edits.push(Edit::Move(member.key().start)),
                Place::OwnTime => edits.push(Edit::OwnTime(i)),
                Place::Log if self.log_stays(line, member) => {}
                Place::Log => edits.push(Edit::Move(member.key().start)),
            }
        }
        candidates.decide(line, &scan.members, second)
    }

    /// Looks up what a member's name means, and notes that for lines to come.
    #[cold]
    fn mark(&self, line: &[u8], member: Member, scan: &mut Scan) -> Role {
        let role = self.names.role(line.get(member.key()).unwrap_or_default());
        scan.mark(member, role.mark());
        role
    }

    /// Whether the application's `log` can stand beside the agent's `log.offset`.
    fn log_stays(&self, line: &[u8], member: Member) -> bool {
        let object = line.get(member.value()).unwrap_or_default();
        member.value_type == ValueType::Object
            && !Members::new(object).any(|(name, _)| self.names.is_in_log(name))
    }

    /// The action line, the opening brace and the agent's members; gives where that brace is.
    #[inline(always)]
    fn write_agent(
        &self,
        facts: &LineFacts<'_>,
        stamp: &Stamp,
        job_id: Option<Range<usize>>,
        line: &[u8],
        scratch: &mut Scratch,
        body: &mut Vec<u8>,
    ) -> usize {
        let Scratch { stamp: stamp_text, index, .. } = scratch;
        stamp_text.clear();
        write_stamp(stamp, facts, line, stamp_text);
        let job = job_id.and_then(|range| line.get(range));
        let leads = if job.is_some() { &self.leads_with_job } else { &self.leads };
        let filling = Filling {
            id: facts.id,
            index: self.index.as_ref().map(|pattern| index.name(pattern, facts.id.time_ns)),
            stamp: stamp_text,
            job: job.unwrap_or_default(),
            beside_job: match job {
                Some(id) if !self.jobs.is_empty() => {
                    cold_path();
                    self.beside_job(id)
                }
                _ => b"",
            },
            tag: facts.tag,
            time: facts.time,
        };
        let document = leads[facts.lane.index()].write(&filling, body);
        decimal::write(facts.id.start, body);
        if let Some(length) = facts.original_length {
            cold_path();
            body.extend_from_slice(b",\"log.truncated\":true,\"log.original_length\":");
            decimal::write(length, body);
        }
        document
    }
}

/// Beyond this much the slow road's buffer gives its memory back after the line.
const KEPT_BYTES: usize = 64 * 1024;

impl IndexCache {
    fn name(&mut self, pattern: &str, time_ns: i64) -> &[u8] {
        let hour = time_ns.div_euclid(HOUR_NS);
        if self.hour != hour || self.pattern != pattern || self.name.is_empty() {
            self.hour = hour;
            pattern.clone_into(&mut self.pattern);
            self.name = index_name(pattern, time_ns).into_bytes();
        }
        &self.name
    }
}

/// The name that a pattern with `%Y`, `%m`, `%d`, `%H` has at a moment, in UTC.
fn index_name(pattern: &str, time_ns: i64) -> String {
    let time::Civil { year, month, day, hour, .. } = time::civil(time_ns);
    pattern
        .replace("%Y", &format!("{year:04}"))
        .replace("%m", &format!("{month:02}"))
        .replace("%d", &format!("{day:02}"))
        .replace("%H", &format!("{hour:02}"))
}

#[inline(always)]
fn write_stamp(stamp: &Stamp, facts: &LineFacts<'_>, line: &[u8], body: &mut Vec<u8>) {
    match stamp {
        Stamp::Own => return,
        Stamp::Runtime => {
            body.extend_from_slice(b"\"@timestamp\":\"");
            body.extend_from_slice(facts.time);
            body.push(b'"');
        }
        Stamp::Copied(range) => {
            body.extend_from_slice(b"\"@timestamp\":");
            body.extend_from_slice(line.get(range.clone()).unwrap_or_default());
        }
        Stamp::Written(ns) => {
            body.extend_from_slice(b"\"@timestamp\":\"");
            time::write_utc(*ns, body);
            body.push(b'"');
        }
    }
    body.push(b',');
}

/// The application's members behind a comma, edited; nothing where there are none.
#[inline(always)]
fn write_members(line: &[u8], scan: &Scan, edits: &[Edit], own: OwnMember, body: &mut Vec<u8>) {
    let mut from = scan.inner.start;
    let end = scan.inner.end;
    let only_own = |member: &Member| member.key().start - 1 == from && member.value().end == end;
    if from == end || own == OwnMember::Goes && scan.members.first().is_some_and(only_own) {
        return;
    }
    body.push(b',');
    for edit in edits {
        match *edit {
            Edit::Move(at) => {
                body.extend_from_slice(line.get(from..at).unwrap_or_default());
                body.extend_from_slice(b"application.");
                from = at;
            }
            Edit::OwnTime(i) => match own {
                OwnMember::Stays => {}
                OwnMember::Moves => {
                    let at = scan.members.get(i).map_or(from, |member| member.key().start);
                    body.extend_from_slice(line.get(from..at).unwrap_or_default());
                    body.extend_from_slice(b"application.");
                    from = at;
                }
                OwnMember::Goes => {
                    let Some(member) = scan.members.get(i) else { continue };
                    let gap = gap(line, &scan.inner, member);
                    body.extend_from_slice(line.get(from..gap.start).unwrap_or_default());
                    from = gap.end;
                }
            },
        }
    }
    body.extend_from_slice(line.get(from..end).unwrap_or_default());
}

/// The bytes of one of several members, which stand at `inner` of the line, with the comma that goes
/// with it.
fn gap(line: &[u8], inner: &Range<usize>, member: &Member) -> Range<usize> {
    let (quote, end) = (member.key().start - 1, member.value().end);
    let behind = line.get(end..inner.end).unwrap_or_default();
    if let Some(next) = behind.iter().position(|&byte| byte == b'"') {
        return quote..end + next;
    }
    // The last one: the comma before it goes, with the white space around that.
    let before = line.get(inner.start..quote).unwrap_or_default().trim_ascii_end();
    let before = before.strip_suffix(b",").unwrap_or(before).trim_ascii_end();
    inner.start + before.len()..end
}

fn escaped(text: &str) -> String {
    let mut out = Vec::new();
    escape::write(text.as_bytes(), &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
pub(crate) mod tests;
