//! What an item begins with: the action line and the agent's members, made once for each stream.
//!
//! ```text
//! {"create":{"_id":"…"}}                                       action line, in a bulk body only
//! {"@timestamp":"…","kubernetes":{…},"flink":{…,"job":{"id":"…"},…},"stream":"stdout",
//!  "logtag":"F","time":"…","log.offset":
//! ```
//!
//! Owns the order of these members. All of it but the offset is one text with holes, so that the
//! usual item takes one copy, and then its id, job and time are put where they belong; what is
//! unusual (a time stamp of the document's own, a date-named index, another tag, a time of another
//! length) is taken apart and written piece by piece. Guarantees the same bytes either way.

use std::hint::cold_path;

use super::escape;
use super::id::{self, Id};
use crate::config::pipeline::DocumentForm;
use crate::parse::Lane;
use crate::parse::json::JOB_ID_BYTES;
use crate::pipeline::batch::Framing;

const ACTION: &[u8] = b"{\"create\":{";
const ID: &[u8] = b"\"_id\":\"";
const ACTION_END: &[u8] = b"\"}}\n";

/// Where the id's hole is.
const ID_AT: usize = ACTION.len() + ID.len();

const JOB_END: &[u8] = b"\"}";

/// Bytes of the time that the runtimes nearly always write: UTC, nine digits of a second.
const TIME_BYTES: usize = 30;

/// The tag that nearly every line has.
const USUAL_TAG: &[u8] = b"F";

const TAG: &[u8] = b",\"logtag\":\"";
const TIME: &[u8] = b",\"time\":\"";
const OFFSET: &[u8] = b",\"log.offset\":";

/// What differs from item to item.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filling<'a> {
    pub(super) id: Id<'a>,
    /// Where the document goes if that is named by date, escaped.
    pub(super) index: Option<&'a [u8]>,
    /// A member `@timestamp` and a comma, or nothing.
    pub(super) stamp: &'a [u8],
    /// 32 hex digits, for a lead with a job.
    pub(super) job: &'a [u8],
    /// Members of `flink` beside that job's, each behind a comma.
    pub(super) beside_job: &'a [u8],
    pub(super) tag: &'a [u8],
    pub(super) time: &'a [u8],
}

/// The beginning of the items of one stream, on one lane, with or without a job's id.
#[derive(Debug)]
pub(super) struct Lead {
    text: Vec<u8>,
    /// Where the document begins: behind the action line, which is always in the text.
    document: usize,
    job: Option<usize>,
    pub(super) framing: Framing,
    /// The tag and the time, in fluentd's form.
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct Runtime {
    /// Where the tag's member begins, with its comma.
    tag: usize,
    time: usize,
}

impl Lead {
    /// `head` are the agent's first members and `flink` the members of that object, without a comma
    /// at either end; `with_job` gives it a job besides.
    pub(super) fn new(
        head: &[u8],
        flink: &[u8],
        with_job: bool,
        lane: Lane,
        form: DocumentForm,
        framing: Framing,
    ) -> Self {
        let mut text = [ACTION, ID, &[b'-'; id::LENGTH], ACTION_END].concat();
        let document = text.len();
        text.push(b'{');
        text.extend_from_slice(head);
        let (mut job, mut flink) = (None, flink.to_vec());
        if with_job {
            flink.extend_from_slice(if flink.is_empty() { b"" } else { b"," });
            flink.extend_from_slice(b"\"job\":{\"id\":\"");
            job = Some(flink.len());
            flink.extend_from_slice(&[b'-'; JOB_ID_BYTES]);
            flink.extend_from_slice(JOB_END);
        }
        if !flink.is_empty() {
            text.extend_from_slice(b",\"flink\":{");
            job = job.map(|at| text.len() + at);
            text.extend_from_slice(&flink);
            text.push(b'}');
        }
        text.push(b',');
        text.extend_from_slice(format!("\"stream\":\"{}\"", lane.as_str()).as_bytes());
        let runtime = (form == DocumentForm::Fluentd).then(|| {
            let tag = text.len();
            write_tag(USUAL_TAG, &mut text);
            text.extend_from_slice(TIME);
            let time = text.len();
            text.extend_from_slice(&[b'-'; TIME_BYTES]);
            text.push(b'"');
            Runtime { tag, time }
        });
        text.extend_from_slice(OFFSET);
        Self { text, document, job, framing, runtime }
    }

    /// Bytes that it takes at most, beside what fills it.
    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Appends the lead; gives where the document begins.
    #[inline(always)]
    pub(super) fn write(&self, filling: &Filling<'_>, body: &mut Vec<u8>) -> usize {
        let start = body.len();
        let from = match (self.framing, filling.index) {
            (Framing::Bulk, None) => 0,
            (Framing::Bulk, Some(index)) => {
                cold_path();
                write_action(index, &filling.id.characters(), body);
                self.document
            }
            (Framing::Lines, _) => self.document,
        };
        // Where `text[from..]` begins in the body.
        let mut begins = body.len();
        let document = begins + self.document - from;
        if filling.stamp.is_empty() {
            body.extend_from_slice(&self.text[from..]);
        } else {
            let (before, after) = self.text.split_at(self.document + 1);
            body.extend_from_slice(&before[from..]);
            body.extend_from_slice(filling.stamp);
            body.extend_from_slice(after);
            begins += filling.stamp.len();
        }
        if from == 0
            && let Some(hole) = hole(body, start + ID_AT)
        {
            filling.id.write(hole);
        }
        if let Some(at) = self.job
            && let Some(job) = filling.job.first_chunk::<JOB_ID_BYTES>()
        {
            put(body, begins + at - from, job);
        }
        if let Some(runtime) = &self.runtime {
            match filling.time.first_chunk::<TIME_BYTES>() {
                Some(time) if filling.time.len() == TIME_BYTES && filling.tag == USUAL_TAG => {
                    put(body, begins + runtime.time - from, time);
                }
                _ => {
                    body.truncate(begins + runtime.tag - from);
                    let filling = *filling;
                    write_unusual_runtime(&filling, body);
                }
            }
        }
        if let Some(at) = self.job.filter(|_| !filling.beside_job.is_empty()) {
            cold_path();
            let behind = begins + at + JOB_ID_BYTES + JOB_END.len() - from;
            body.splice(behind..behind, filling.beside_job.iter().copied());
        }
        document
    }
}

/// Fills a hole.
#[inline(always)]
fn put<const N: usize>(body: &mut [u8], at: usize, text: &[u8; N]) {
    if let Some(hole) = hole(body, at) {
        *hole = *text;
    }
}

#[inline(always)]
fn hole<const N: usize>(body: &mut [u8], at: usize) -> Option<&mut [u8; N]> {
    body.get_mut(at..)?.first_chunk_mut()
}

fn write_action(index: &[u8], id: &[u8; id::LENGTH], body: &mut Vec<u8>) {
    body.extend_from_slice(ACTION);
    body.extend_from_slice(b"\"_index\":\"");
    body.extend_from_slice(index);
    body.extend_from_slice(b"\",");
    body.extend_from_slice(ID);
    body.extend_from_slice(id);
    body.extend_from_slice(ACTION_END);
}

fn write_tag(tag: &[u8], body: &mut Vec<u8>) {
    body.extend_from_slice(TAG);
    escape::write(tag, body);
    body.push(b'"');
}

/// Everything from the tag on.
#[cold]
fn write_unusual_runtime(filling: &Filling<'_>, body: &mut Vec<u8>) {
    if !filling.tag.is_empty() {
        write_tag(filling.tag, body);
    }
    body.extend_from_slice(TIME);
    body.extend_from_slice(filling.time);
    body.push(b'"');
    body.extend_from_slice(OFFSET);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::splice::tests::facts;

    const HOLES: &str = "----";

    fn id_text() -> String {
        String::from_utf8(facts().id.characters().to_vec()).expect("ids are ASCII")
    }

    fn filling() -> Filling<'static> {
        Filling {
            id: facts().id,
            index: None,
            stamp: b"",
            job: b"0123456789abcdef0123456789abcdef",
            beside_job: b"",
            tag: b"F",
            time: b"2026-11-23T21:08:57.493127544Z",
        }
    }

    /// What is appended, from the document on, after checks that hold for each.
    fn document(lead: &Lead, filling: &Filling<'_>) -> String {
        let mut body = b"before\n".to_vec();
        let document = lead.write(filling, &mut body);
        let (before, text) = body.split_at(document);
        assert!(before.starts_with(b"before\n"));
        let [before, text] = [before, text].map(|text| String::from_utf8(text.to_vec()).unwrap());
        assert!(!before.contains(HOLES) && !text.contains(HOLES), "a hole is open: {before}{text}");
        text
    }

    fn lead(job: Option<&[u8]>, form: DocumentForm, framing: Framing) -> Lead {
        Lead::new(b"\"a\":1", job.unwrap_or_default(), job.is_some(), Lane::Stdout, form, framing)
    }

    #[test]
    fn holes_are_filled() {
        let with_job = lead(Some(b"\"b\":2"), DocumentForm::Fluentd, Framing::Bulk);
        assert_eq!(
            document(&with_job, &filling()),
            "{\"a\":1,\"flink\":{\"b\":2,\"job\":{\"id\":\"0123456789abcdef0123456789abcdef\"}},\
             \"stream\":\"stdout\",\"logtag\":\"F\",\"time\":\"2026-11-23T21:08:57.493127544Z\",\"log.offset\":"
        );
        let beside = Filling { beside_job: b",\"c\":3", tag: b"P", ..filling() };
        assert_eq!(
            document(&with_job, &beside),
            "{\"a\":1,\"flink\":{\"b\":2,\"job\":{\"id\":\"0123456789abcdef0123456789abcdef\"},\"c\":3},\
             \"stream\":\"stdout\",\"logtag\":\"P\",\"time\":\"2026-11-23T21:08:57.493127544Z\",\"log.offset\":"
        );
        let mut body = Vec::new();
        let begins = with_job.write(&filling(), &mut body);
        let id = id_text();
        assert_eq!(body[..begins], *format!("{{\"create\":{{\"_id\":\"{id}\"}}}}\n").as_bytes());
    }

    #[test]
    fn the_unusual_is_written_in_its_place() {
        for framing in [Framing::Bulk, Framing::Lines] {
            let fluentd = lead(None, DocumentForm::Fluentd, framing);
            let unusual = Filling { stamp: b"\"s\":0,", tag: b"P:\"", time: b"t", ..filling() };
            assert_eq!(
                document(&fluentd, &unusual),
                "{\"s\":0,\"a\":1,\"stream\":\"stdout\",\"logtag\":\"P:\\\"\",\"time\":\"t\",\"log.offset\":"
            );
            let none = Filling { tag: b"", ..filling() };
            assert_eq!(
                document(&fluentd, &none),
                "{\"a\":1,\"stream\":\"stdout\",\"time\":\"2026-11-23T21:08:57.493127544Z\",\"log.offset\":"
            );
            let ecs = lead(None, DocumentForm::Ecs, framing);
            assert_eq!(
                document(&ecs, &unusual),
                "{\"s\":0,\"a\":1,\"stream\":\"stdout\",\"log.offset\":"
            );
        }
        let mut body = Vec::new();
        let dated = Filling { index: Some(b"i-1"), ..filling() };
        let begins = lead(None, DocumentForm::Ecs, Framing::Bulk).write(&dated, &mut body);
        let id = id_text();
        let action = format!("{{\"create\":{{\"_index\":\"i-1\",\"_id\":\"{id}\"}}}}\n");
        assert_eq!(
            body,
            [action.as_bytes(), b"{\"a\":1,\"stream\":\"stdout\",\"log.offset\":"].concat()
        );
        assert_eq!(begins, action.len());
    }
}
