//! Takes the body of a bulk request apart and puts smaller ones together.
//!
//! Owns the only knowledge of how documents stand in a body once it is built: which bytes belong
//! to one document ([`entries`]), a body of some of them ([`Body::slice`]), and the plain form of
//! one that was refused ([`write_plain_form`]). Guarantees that an entry is moved byte for byte
//! and keeps its action line, so that the `_id` and the index stay. Pure, and only on the slow
//! road: a body that is accepted is never looked into.

use std::borrow::Cow;
use std::io::Read;

use bytes::Bytes;
use flate2::read::GzDecoder;
use memchr::memchr;
use serde::{Deserialize, Serialize};

use crate::discover::StreamName;
use crate::parse::time;
use crate::pipeline::gzip::Gzip;

/// A body as it goes to the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) bytes: Bytes,
    pub(super) gzip: bool,
    /// Before compression.
    pub(super) plain_bytes: usize,
}

impl Body {
    /// `plain` as a body, compressed if `gzip`.
    pub(super) fn new(plain: Vec<u8>, gzip: bool) -> Self {
        let plain_bytes = plain.len();
        let bytes = if gzip { compress(&plain) } else { plain };
        Self { bytes: bytes.into(), gzip, plain_bytes }
    }

    /// The bytes before compression.
    pub(super) fn plain(&self) -> Cow<'_, [u8]> {
        if !self.gzip {
            return Cow::Borrowed(&self.bytes);
        }
        let mut plain = Vec::with_capacity(self.plain_bytes);
        GzDecoder::new(&self.bytes[..])
            .read_to_end(&mut plain)
            .expect("a body was compressed by this process");
        Cow::Owned(plain)
    }

    /// A body of the entries from `from` on, `count` at most.
    pub(super) fn slice(&self, from: usize, count: usize) -> Self {
        let plain = self.plain();
        let mut kept = Vec::new();
        for entry in entries(&plain).skip(from).take(count) {
            entry.write(&mut kept);
        }
        Self::new(kept, self.gzip)
    }
}

fn compress(plain: &[u8]) -> Vec<u8> {
    let mut gzip = Gzip::default();
    gzip.write(plain);
    gzip.finish(Vec::new())
}

/// One document of a body, without the ends of its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) action: &'a [u8],
    pub(super) document: &'a [u8],
}

/// The entries of an uncompressed body. A last line without its end counts as a line.
pub(super) fn entries(body: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let (action, after) = first_line(rest)?;
        let (document, after) = first_line(after)?;
        rest = after;
        Some(Entry { action, document })
    })
}

fn first_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    if bytes.is_empty() {
        return None;
    }
    let end = memchr(b'\n', bytes).unwrap_or(bytes.len());
    Some((&bytes[..end], bytes.get(end + 1..).unwrap_or_default()))
}

impl Entry<'_> {
    /// Appends the entry as it was.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for line in [self.action, self.document] {
            out.extend_from_slice(line);
            out.push(b'\n');
        }
    }

    /// The `_id` and, where the action names one, the `_index`.
    pub(super) fn target(&self) -> Target {
        let action: Action = serde_json::from_slice(self.action).unwrap_or_default();
        action.create
    }
}

/// Where a document goes.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Target {
    #[serde(rename = "_id", default)]
    pub(super) id: String,
    #[serde(rename = "_index", default)]
    pub(super) index: Option<String>,
}

#[derive(Default, Deserialize)]
struct Action {
    #[serde(default)]
    create: Target,
}

/// What is indexed in place of a document that Elasticsearch refuses.
#[derive(Serialize)]
struct PlainForm<'a> {
    #[serde(rename = "@timestamp")]
    timestamp: String,
    splashdam: PlainFacts<'a>,
}

#[derive(Serialize)]
struct PlainFacts<'a> {
    reason: &'a str,
    original: &'a str,
    namespace: &'a str,
    pod: &'a str,
    container: &'a str,
}

/// Appends the plain form of `entry` under its own action line: nothing but strings that any
/// mapping takes.
pub(super) fn write_plain_form(
    out: &mut Vec<u8>,
    entry: &Entry<'_>,
    reason: &str,
    time_ns: i64,
    stream: &StreamName,
) {
    out.extend_from_slice(entry.action);
    out.push(b'\n');
    let original = String::from_utf8_lossy(entry.document);
    let facts = PlainFacts {
        reason,
        original: &original,
        namespace: &stream.namespace,
        pod: &stream.pod,
        container: &stream.container,
    };
    let form = PlainForm { timestamp: rfc3339(time_ns), splashdam: facts };
    serde_json::to_writer(&mut *out, &form).expect("strings can always be written as JSON");
    out.push(b'\n');
}

/// The original's text and the reason it was refused for, out of a plain form.
pub(super) fn read_plain_form(document: &[u8]) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Form {
        splashdam: Facts,
    }
    #[derive(Deserialize)]
    struct Facts {
        reason: String,
        original: String,
    }
    let form: Form = serde_json::from_slice(document).ok()?;
    Some((form.splashdam.original, form.splashdam.reason))
}

/// Nanoseconds since the epoch as RFC 3339 in UTC with nine digits.
pub(super) fn rfc3339(time_ns: i64) -> String {
    let mut text = Vec::with_capacity(30);
    time::write_utc(time_ns, &mut text);
    String::from_utf8(text).expect("digits and punctuation")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream() -> StreamName {
        StreamName {
            namespace: "flink".into(),
            pod: "basic-example-7d9f-abcde".into(),
            uid: "2f6c".into(),
            container: "flink-main-container".into(),
            restart: 0,
        }
    }

    #[test]
    fn a_plain_form_keeps_the_action_and_the_text() {
        let body = b"{\"create\":{\"_id\":\"AAAAAAAAAAABBx\",\"_index\":\"a-2026\"}}\n{\"message\":\"say \\\"hi\\\"\"}\n";
        let entry = entries(body).next().expect("one entry");
        let mut out = Vec::new();
        write_plain_form(&mut out, &entry, "document_parsing_exception", 33, &stream());
        let expected = concat!(
            r#"{"create":{"_id":"AAAAAAAAAAABBx","_index":"a-2026"}}"#,
            "\n",
            r#"{"@timestamp":"1970-01-01T00:00:00.000000033Z","splashdam":{"reason":"document_parsing_exception","#,
            r#""original":"{\"message\":\"say \\\"hi\\\"\"}","namespace":"flink","pod":"basic-example-7d9f-abcde","#,
            r#""container":"flink-main-container"}}"#,
            "\n",
        );
        assert_eq!(String::from_utf8_lossy(&out), expected);
        let plain = entries(&out).next().expect("one entry");
        let (original, reason) = read_plain_form(plain.document).expect("a plain form");
        assert_eq!(original.as_bytes(), entry.document);
        assert_eq!(reason, "document_parsing_exception");
        let target = Target { id: "AAAAAAAAAAABBx".into(), index: Some("a-2026".into()) };
        assert_eq!(plain.target(), target);
    }

    fn documents() -> impl Strategy<Value = Vec<(String, String)>> {
        prop::collection::vec(("[^\n]{0,40}", "[^\n]{0,200}"), 0..20)
    }

    fn body_of(documents: &[(String, String)], gzip: bool) -> Body {
        let mut plain = Vec::new();
        for (action, document) in documents {
            Entry { action: action.as_bytes(), document: document.as_bytes() }.write(&mut plain);
        }
        Body::new(plain, gzip)
    }

    fn documents_of(body: &Body) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        entries(&body.plain()).map(|entry| (text(entry.action), text(entry.document))).collect()
    }

    proptest! {
        #[test]
        fn taking_apart_is_the_inverse_of_putting_together(documents in documents(), gzip: bool) {
            let body = body_of(&documents, gzip);
            prop_assert_eq!(body.plain().len(), body.plain_bytes);
            prop_assert_eq!(documents_of(&body), documents);
        }

        #[test]
        fn two_parts_are_the_whole(documents in documents(), gzip: bool, at in 0usize..25) {
            let body = body_of(&documents, gzip);
            let first = body.slice(0, at);
            let second = body.slice(at, usize::MAX);
            let mut both = documents_of(&first);
            both.extend(documents_of(&second));
            prop_assert_eq!(both, documents);
        }

        #[test]
        fn any_bytes_can_be_taken_apart(body: Vec<u8>) {
            for entry in entries(&body) {
                entry.target();
                read_plain_form(entry.document);
            }
        }
    }
}
