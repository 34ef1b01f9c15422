//! What an answer means: one verdict for every item, or one for the whole request.
//!
//! Owns the only place where Elasticsearch's statuses and error types are judged. Pure: bytes in,
//! verdicts out; any bytes give an answer and never a panic. Guarantees that only what names
//! every item counts as an answer: a body that is cut off, is not JSON or has another number of
//! items is [`Whole::Retry`], which ids make harmless. Does not wait, send or log; the text of
//! `error.reason` quotes values of documents and never leaves this file.
//!
//! Sources: Elasticsearch 8.19 and 9.1 `BulkItemResponse`, `ClusterBlocks`, `ShardLimitValidator`,
//! `TransportBulkAction`; the failure store's answers in elastic/elasticsearch#113245; what ingest
//! processors lead to by asking an 8.19.8: `drop` is 200 (`result: noop`) where 201 is usual,
//! `fail` 500 `fail_processor_exception`, `dissect` without a match 500 `find_match`, others 400.

use std::fmt;
use std::time::{Duration, SystemTime};

use memchr::memmem;
use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};

/// What the query of a bulk request asks to be answered.
pub const FILTER_PATH: &str = "filter_path=errors,items.*.status,items.*.failure_store,\
                                      items.*.error.type,items.*.error.reason";

/// The longest `Retry-After` that is believed.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// Why something is sent again. A closed set: it names log lines, states and readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    TooManyRequests,
    /// A 5xx, of the request or of an item.
    Unavailable,
    /// A 500 of an item, as by a faulty plugin: it may be the document's fault.
    ItemFailed,
    Connect,
    Timeout,
    /// The connection ended before the answer did: what was done is unknown.
    Torn,
    /// An answer that is cut off, is not JSON or does not have an item for each document.
    NotUnderstood,
    /// An answer of which only the beginning was read.
    AnswerTooLong,
    Unauthorized,
    Forbidden,
    /// The file of the password, key or certificate cannot be read or used.
    Credentials,
    /// A block that somebody lifts: flood stage, read-only.
    Blocked,
    /// A block that may be there for good: an index that is frozen or was made read-only.
    WriteBlocked,
    IndexClosed,
    /// No such index, alias, template, write index or ingest pipeline, or no such name allowed.
    MissingIndex,
    ShardLimit,
    Redirect,
    /// A status that no bulk API gives.
    UnexpectedStatus,
    DeadLetterFull,
    /// A local file or standard output could not be written.
    WriteFailed,
}

impl Cause {
    /// The name in logs and on pages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooManyRequests => "too_many_requests",
            Self::Unavailable => "unavailable",
            Self::ItemFailed => "item_failed",
            Self::Connect => "connect_error",
            Self::Timeout => "timeout",
            Self::Torn => "no_answer",
            Self::NotUnderstood => "answer_not_understood",
            Self::AnswerTooLong => "answer_too_long",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Credentials => "credentials_unreadable",
            Self::Blocked => "index_blocked",
            Self::WriteBlocked => "index_write_blocked",
            Self::IndexClosed => "index_closed",
            Self::MissingIndex => "index_missing",
            Self::ShardLimit => "shard_limit",
            Self::Redirect => "redirect",
            Self::UnexpectedStatus => "unexpected_status",
            Self::DeadLetterFull => "dead_letter_full",
            Self::WriteFailed => "write_failed",
        }
    }

    /// Whether it may be so for good, so that it counts as refused after `refused_after`.
    pub(super) fn may_last(self) -> bool {
        matches!(self, Self::IndexClosed | Self::WriteBlocked)
    }

    /// Whether somebody has to do something before it gets better.
    pub fn pauses(self) -> bool {
        !matches!(
            self,
            Self::TooManyRequests
                | Self::Unavailable
                | Self::ItemFailed
                | Self::Connect
                | Self::Timeout
                | Self::Torn
                | Self::NotUnderstood
                | Self::AnswerTooLong
                | Self::WriteFailed
        )
    }
}

/// Elasticsearch's `error.type`: a name of letters, digits and `_.-`, at most 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason(Box<str>);

impl Reason {
    /// `name` if it is one; anything else could carry a value and becomes `unknown`.
    pub(super) fn new(name: &str) -> Self {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        let good = (1..=64).contains(&name.len()) && name.bytes().all(plain);
        Self(if good { name } else { "unknown" }.into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What became of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Indexed,
    /// Exactly this document was already there.
    Duplicate,
    /// Refused, and kept by the data stream's failure store.
    Stored,
    /// To be sent again; see [`Cause::pauses`].
    Retry(Cause),
    /// Refused for good.
    Refused(Reason),
}

/// What became of a request without verdicts for its items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whole {
    /// The same bytes are to be sent again; see [`Cause::pauses`].
    Retry(Cause),
    /// Too large: to be split, and at one document refused.
    TooLarge,
    /// Something in it is not accepted: to be split, and at one document refused.
    Refused(Reason),
    /// The same, but in nobody's words: it may be a proxy's, of which no document is at fault.
    RefusedSomehow,
    /// What was done is more than can be said at once: to be split, and then asked again.
    AnswerTooLong,
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    AllIndexed,
    /// One for each document, in the order of the request.
    Items(Vec<Verdict>),
    Whole(Whole),
}

/// Judges the answer to a bulk request of `expected` documents.
pub fn judge(status: u16, body: &[u8], expected: usize) -> Answer {
    match status {
        200 | 201 if all_created(body, expected) => Answer::AllIndexed,
        200 | 201 => judge_items(body, expected),
        _ => Answer::Whole(judge_whole(status, body)),
    }
}

/// The usual answer: all items are the same, byte for byte, and the first says that it was created.
fn all_created(body: &[u8], expected: usize) -> bool {
    const KEY: &[u8] = br#""items":["#;
    let head = &body[..body.len().min(128)];
    let Some(start) = memmem::find(head, KEY) else {
        return false;
    };
    let items = &body[start + KEY.len()..];
    let Some(end) = memchr::memchr(b'}', items) else {
        return false;
    };
    // An item is an object in an object, `{"create":{"status":201}}`, and has no other in it.
    let Some(first) = items.get(..end + 2).filter(|item| says_created(item)) else {
        return false;
    };
    let all_alike = items.get(first.len()..).and_then(|rest| rest_alike(rest, first, expected));
    expected > 0 && all_alike.is_some_and(|rest| rest.trim_ascii_end() == b"]}")
}

fn says_created(item: &[u8]) -> bool {
    serde_json::from_slice::<ItemAnswer>(item)
        .is_ok_and(|ItemAnswer(item)| item.status == 201 && judge_item(&item) == Verdict::Indexed)
}

/// What follows `expected - 1` repetitions of `item`, each behind a comma.
fn rest_alike<'a>(mut rest: &'a [u8], item: &[u8], expected: usize) -> Option<&'a [u8]> {
    for _ in 1..expected {
        rest = rest.strip_prefix(b",")?.strip_prefix(item)?;
    }
    Some(rest)
}

fn judge_items(body: &[u8], expected: usize) -> Answer {
    let not_understood = Answer::Whole(Whole::Retry(Cause::NotUnderstood));
    let Ok(bulk) = serde_json::from_slice::<BulkAnswer>(body) else {
        return not_understood;
    };
    if bulk.items.len() != expected {
        return not_understood;
    }
    if bulk.items.iter().any(|item| !(200..=599).contains(&item.0.status)) {
        return not_understood;
    }
    let verdicts: Vec<Verdict> = bulk.items.into_iter().map(|item| judge_item(&item.0)).collect();
    if verdicts.iter().all(|verdict| *verdict == Verdict::Indexed) {
        return Answer::AllIndexed;
    }
    Answer::Items(verdicts)
}

fn judge_item(item: &ItemResult) -> Verdict {
    let none = ErrorInfo::NONE;
    let error = match &item.error {
        Some(MaybeInfo::Info(error)) => error,
        Some(MaybeInfo::Other(IgnoredAny)) | None => &none,
    };
    // Not the output's, which was checked: an ingest pipeline made this one of the document.
    if error.kind == "invalid_index_name_exception" {
        return Verdict::Refused(Reason::new(&error.kind));
    }
    if let Some(cause) = looks_permanent(item.status, error) {
        return Verdict::Retry(cause);
    }
    match item.status {
        200..=299 if item.failure_store == Some(FailureStore::Used) => Verdict::Stored,
        200..=299 => Verdict::Indexed,
        409 if error.kind.is_empty() || error.kind.contains("version_conflict") => {
            Verdict::Duplicate
        }
        // Two requests that create the same index at once: the other one won.
        400 if error.kind == "resource_already_exists_exception" => {
            Verdict::Retry(Cause::Unavailable)
        }
        400 | 413 | 422 => Verdict::Refused(Reason::new(&error.kind)),
        // An ingest pipeline that does not take this document: it never will.
        500 if matches!(error.kind.as_str(), "fail_processor_exception" | "find_match") => {
            Verdict::Refused(Reason::new(&error.kind))
        }
        401 => Verdict::Retry(Cause::Unauthorized),
        403 => Verdict::Retry(Cause::Forbidden),
        404 => Verdict::Retry(Cause::MissingIndex),
        429 => Verdict::Retry(Cause::TooManyRequests),
        500 => Verdict::Retry(Cause::ItemFailed),
        408 | 409 | 501..=599 => Verdict::Retry(Cause::Unavailable),
        _ => Verdict::Retry(Cause::UnexpectedStatus),
    }
}

/// The causes that come with a status as if the document were at fault, or need a name of their
/// own. Looks at `error.reason` where the type alone cannot tell: where it may quote a document, only
/// at how it begins.
fn looks_permanent(status: u16, error: &ErrorInfo) -> Option<Cause> {
    let says = |text: &str| error.reason.contains(text);
    let begins = |text: &str| error.reason.starts_with(text);
    match error.kind.as_str() {
        "" => None,
        // ClusterBlock's ids: 4 closed, 8 write block (frozen, mounted, made read-only by a
        // lifecycle policy), 5 and 6 read-only, 12 and 13 flood stage. 1 and 2, with 503, are a
        // cluster that is starting or has no master: that passes.
        "cluster_block_exception" if status == 503 => None,
        "cluster_block_exception" if says("/4/index closed") => Some(Cause::IndexClosed),
        "cluster_block_exception" if says("/8/index write") => Some(Cause::WriteBlocked),
        "cluster_block_exception" => Some(Cause::Blocked),
        "index_closed_exception" => Some(Cause::IndexClosed),
        "index_not_found_exception" | "invalid_index_name_exception" => Some(Cause::MissingIndex),
        "validation_exception" if says("maximum") && says("shards open") => Some(Cause::ShardLimit),
        "illegal_argument_exception" => match () {
            () if begins("this action would add [") => Some(Cause::ShardLimit),
            () if begins("no write index is defined") => Some(Cause::MissingIndex),
            () if begins("pipeline with id [") => Some(Cause::MissingIndex),
            // A setting of the cluster's (`rest.action.multi.allow_explicit_index`).
            () if begins("explicit index in bulk is not allowed") => Some(Cause::Forbidden),
            () => None,
        },
        // A `pipeline` processor that names none, or itself; with status 500.
        "illegal_state_exception" => {
            let names = begins("Pipeline processor configured for non-existent pipeline")
                || begins("Cycle detected for pipeline");
            names.then_some(Cause::MissingIndex)
        }
        "security_exception" if status == 401 => Some(Cause::Unauthorized),
        "security_exception" => Some(Cause::Forbidden),
        _ => None,
    }
}

fn judge_whole(status: u16, body: &[u8]) -> Whole {
    let error = match serde_json::from_slice::<WholeError>(body) {
        Ok(WholeError { error: Some(MaybeInfo::Info(error)) }) => error,
        _ => ErrorInfo::NONE,
    };
    if let Some(cause) = looks_permanent(status, &error) {
        return Whole::Retry(cause);
    }
    match status {
        400 if error.kind.is_empty() => Whole::RefusedSomehow,
        400 => Whole::Refused(Reason::new(&error.kind)),
        413 => Whole::TooLarge,
        401 => Whole::Retry(Cause::Unauthorized),
        403 => Whole::Retry(Cause::Forbidden),
        404 => Whole::Retry(Cause::MissingIndex),
        429 => Whole::Retry(Cause::TooManyRequests),
        408 | 500..=599 => Whole::Retry(Cause::Unavailable),
        300..=399 => Whole::Retry(Cause::Redirect),
        _ => Whole::Retry(Cause::UnexpectedStatus),
    }
}

/// Why the answer to `GET /` says that documents would not be taken; `None` if they might be.
/// What speaks the bulk API without being Elasticsearch may have nothing at its root.
pub(super) fn judge_probe(status: u16) -> Option<Cause> {
    match status {
        200..=299 | 404 | 405 => None,
        401 => Some(Cause::Unauthorized),
        403 => Some(Cause::Forbidden),
        429 => Some(Cause::TooManyRequests),
        408 | 500..=599 => Some(Cause::Unavailable),
        300..=399 => Some(Cause::Redirect),
        _ => Some(Cause::UnexpectedStatus),
    }
}

/// Reads a `Retry-After` (RFC 9110 section 10.2.3), seconds or a date; at most
/// [`MAX_RETRY_AFTER`].
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[derive(Deserialize)]
struct BulkAnswer {
    #[serde(default)]
    items: Vec<ItemAnswer>,
}

/// `{"create": {…}}`: one key, whatever its name.
struct ItemAnswer(ItemResult);

impl<'de> Deserialize<'de> for ItemAnswer {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneKey;
        impl<'de> Visitor<'de> for OneKey {
            type Value = ItemAnswer;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one operation")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ItemAnswer, A::Error> {
                let Some((IgnoredAny, result)) = map.next_entry()? else {
                    return Err(A::Error::custom("an item without an operation"));
                };
                match map.next_key::<IgnoredAny>()? {
                    None => Ok(ItemAnswer(result)),
                    Some(_) => Err(A::Error::custom("an item with two operations")),
                }
            }
        }
        deserializer.deserialize_map(OneKey)
    }
}

#[derive(Deserialize)]
struct ItemResult {
    status: u16,
    #[serde(default)]
    failure_store: Option<FailureStore>,
    #[serde(default)]
    error: Option<MaybeInfo>,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum FailureStore {
    Used,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct ErrorInfo {
    #[serde(default, rename = "type", deserialize_with = "or_empty")]
    kind: String,
    /// `null` for an exception without a message.
    #[serde(default, deserialize_with = "or_empty")]
    reason: String,
}

fn or_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl ErrorInfo {
    const NONE: Self = Self { kind: String::new(), reason: String::new() };
}

#[derive(Deserialize)]
struct WholeError {
    error: Option<MaybeInfo>,
}

/// A proxy may answer `{"error": "text"}`.
#[derive(Deserialize)]
#[serde(untagged)]
enum MaybeInfo {
    Info(ErrorInfo),
    Other(IgnoredAny),
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
