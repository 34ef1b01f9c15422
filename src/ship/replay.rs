//! Sends dead letters again, and removes from their files what has become safe.
//!
//! Owns the way of each letter of one pipeline: read from an older file, sent with `create` under
//! the index and the id that it had, and judged as any other item. The live file is set aside
//! first, so that an agent beside it writes on undisturbed.
//!
//! ```text
//!  live ─▶ older file ─▶ chunk ─▶ request ─▶ 201, 409, failure store ─▶ gone
//!                          ▲         ├─────▶ refused again, damaged ───▶ stays
//!                          │         ├─────▶ somebody has to mend it ──▶ stays
//!                          └─────────┴─ 429, 5xx, no answer: until the deadline, then it stays
//! ```
//!
//! Guarantees that a line leaves its file only once its document is safe, whatever is killed
//! when: a file is replaced or removed whole, after all of it was sent, and what is sent twice is
//! answered 409. Limits: a request has at most [`MAX_DOCUMENTS`] documents and the pipeline's
//! `batch.size` (or one document); memory holds one request. Does not give documents another
//! form, and knows nothing of checkpoints.

mod rest;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::Given;
use super::bulk::Body;
use super::client::{Client, ClientError, Exchange, Timeouts};
use super::clock::Clock;
use super::dead_letter::files::Files;
use super::dead_letter::read::{Line, Lines, Written};
use super::delivery::{Judged, judge};
use super::response::{Answer, Cause, Reason, Verdict, Whole};
use super::retry::Backoff;
use crate::config::pipeline::{Compression, Elasticsearch, IndexName};
use rest::Rest;

/// Documents in one request.
const MAX_DOCUMENTS: usize = 1000;

/// How long an agent's write to the live file is waited for, and how often it is looked.
const LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_LOOK: Duration = Duration::from_millis(50);

/// Why letters are left that were not sent before it was too late.
const DEADLINE: &str = "deadline";

/// Why a pipeline's letters were left alone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    #[error("cannot use the output")]
    Output(#[from] ClientError),
    #[error("cannot use {}", path.display())]
    File { path: PathBuf, source: io::Error },
}

/// What became of a pipeline's letters.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    indexed: u64,
    duplicates: u64,
    /// Taken by the data stream's failure store.
    stored: u64,
    refused: BTreeMap<String, u64>,
    damaged: u64,
    left: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// How many lines are still in the files.
    pub(crate) fn remaining(&self) -> u64 {
        self.refused.values().sum::<u64>() + self.damaged + self.left.values().sum::<u64>()
    }

    fn sent(&self) -> u64 {
        self.indexed + self.duplicates + self.stored
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sent() + self.remaining() == 0 {
            return f.write_str("no dead letters");
        }
        write!(f, "{} indexed, {} already there", self.indexed, self.duplicates)?;
        if self.stored > 0 {
            write!(f, ", {} in the failure store", self.stored)?;
        }
        write!(f, ", {} refused again", self.refused.values().sum::<u64>())?;
        list(f, self.refused.iter().map(|(reason, count)| (reason.as_str(), *count)))?;
        if self.damaged > 0 {
            write!(f, ", {} damaged", self.damaged)?;
        }
        write!(f, ", {} not sent", self.left.values().sum::<u64>())?;
        list(f, self.left.iter().map(|(cause, count)| (*cause, *count)))
    }
}

fn list<'a>(
    f: &mut fmt::Formatter<'_>,
    counts: impl Iterator<Item = (&'a str, u64)>,
) -> fmt::Result {
    let counts: Vec<String> = counts.map(|(what, count)| format!("{what} {count}")).collect();
    if counts.is_empty() { Ok(()) } else { write!(f, " ({})", counts.join(", ")) }
}

/// How a pipeline's letters are to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Orders<'a> {
    pub(crate) output: &'a Elasticsearch,
    /// Uncompressed bytes of a request.
    pub(crate) batch_bytes: usize,
    /// What isn't safe by then stays.
    pub(crate) deadline: Instant,
}

/// Sends the letters in `files`; says to `tell` what a person should know at once. The lock of
/// the one replay must be held.
pub(crate) async fn replay(
    orders: Orders<'_>,
    files: &Files,
    seed: u64,
    tell: &mut dyn FnMut(&str),
) -> Result<Tally, ReplayError> {
    let given = Given { clock: Clock::System, seed, timeouts: Timeouts::default() };
    replay_given(orders, files, given, tell).await
}

async fn replay_given(
    orders: Orders<'_>,
    files: &Files,
    Given { clock, seed, timeouts }: Given,
    tell: &mut dyn FnMut(&str),
) -> Result<Tally, ReplayError> {
    let mut replay = Replay {
        client: Client::new(orders.output, timeouts, clock.now(), seed)?,
        orders,
        clock,
        backoff: Backoff::new(seed),
        stopped: None,
        said: None,
        tally: Tally::default(),
        tell,
    };
    files.remove_unfinished().map_err(|source| failed(&files.live(), source))?;
    replay.set_live_aside(files).await?;
    for path in files.older().map_err(|source| failed(&files.live(), source))? {
        replay.file(&path).await?;
    }
    Ok(replay.tally)
}

fn failed(path: &Path, source: io::Error) -> ReplayError {
    ReplayError::File { path: path.to_owned(), source }
}

struct Replay<'a> {
    client: Client,
    orders: Orders<'a>,
    clock: Clock,
    backoff: Backoff,
    /// Why nothing more is sent.
    stopped: Option<&'static str>,
    /// The trouble that was told last.
    said: Option<Cause>,
    tally: Tally,
    tell: &'a mut dyn FnMut(&str),
}

/// A letter on its way.
struct Held {
    /// Its line, for as long as it may have to stay.
    raw: Vec<u8>,
    written: Written,
    fate: Fate,
}

/// What became of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Open,
    Indexed,
    Duplicate,
    Stored,
    Refused(Reason),
    /// Not sent, or in vain.
    Left(&'static str),
}

/// Whether there is to be another request.
enum Next {
    Go,
    Wait(Option<Duration>),
    Stop(&'static str),
}

impl Replay<'_> {
    async fn set_live_aside(&mut self, files: &Files) -> Result<(), ReplayError> {
        let end = self.clock.now() + LOCK_WAIT;
        loop {
            match files.set_live_aside() {
                Ok(()) => return Ok(()),
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && self.clock.now() < end =>
                {
                    self.clock.sleep(LOCK_LOOK).await;
                }
                Err(source) => return Err(failed(&files.live(), source)),
            }
        }
    }

    /// Sends what is in one older file, and replaces it by what stays.
    async fn file(&mut self, path: &Path) -> Result<(), ReplayError> {
        let failed = |source| failed(path, source);
        let Some(mut lines) = Lines::open(path, false).map_err(failed)? else {
            return Ok(());
        };
        let mut rest = Rest::of(path);
        let sent = self.tally.sent();
        let mut chunk = Vec::new();
        let mut chunk_bytes = 0;
        while let Some(Line { number, raw, content }) = lines.next().map_err(failed)? {
            match content {
                Ok(written) => {
                    let more = raw.len();
                    let is_full = chunk.len() == MAX_DOCUMENTS
                        || chunk_bytes + more > self.orders.batch_bytes;
                    if is_full {
                        self.settle(&mut chunk, &mut rest).await.map_err(failed)?;
                        chunk_bytes = 0;
                    }
                    chunk_bytes += more;
                    chunk.push(Held { raw, written, fate: Fate::Open });
                }
                Err(damage) => {
                    self.settle(&mut chunk, &mut rest).await.map_err(failed)?;
                    chunk_bytes = 0;
                    (self.tell)(&format!("{}:{number}: {damage}; it stays", path.display()));
                    self.tally.damaged += 1;
                    rest.keep(&raw).map_err(failed)?;
                }
            }
        }
        self.settle(&mut chunk, &mut rest).await.map_err(failed)?;
        if self.tally.sent() > sent {
            rest.put_in_place().map_err(failed)?;
        }
        Ok(())
    }

    /// Sends a chunk, counts it, and keeps of it what isn't safe.
    async fn settle(&mut self, chunk: &mut Vec<Held>, rest: &mut Rest) -> io::Result<()> {
        self.send(chunk).await;
        for held in chunk.drain(..) {
            match held.fate {
                Fate::Indexed => self.tally.indexed += 1,
                Fate::Duplicate => self.tally.duplicates += 1,
                Fate::Stored => self.tally.stored += 1,
                Fate::Refused(reason) => {
                    *self.tally.refused.entry(reason.as_str().to_owned()).or_default() += 1;
                    rest.keep(&held.raw)?;
                }
                Fate::Left(cause) => {
                    *self.tally.left.entry(cause).or_default() += 1;
                    rest.keep(&held.raw)?;
                }
                Fate::Open => {
                    let cause = self.stopped.expect("what was sent has a fate");
                    *self.tally.left.entry(cause).or_default() += 1;
                    rest.keep(&held.raw)?;
                }
            }
        }
        Ok(())
    }

    /// Sends until every letter of `chunk` has a fate, or nothing more is to be sent.
    async fn send(&mut self, chunk: &mut [Held]) {
        let mut parts = vec![(0..chunk.len()).collect::<Vec<usize>>()];
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            if self.stopped.is_some() {
                return;
            }
            let next = match self.ask(chunk, &part).await {
                None => Next::Stop(DEADLINE),
                Some(exchange) => self.heard(exchange, chunk, part, &mut parts),
            };
            match next {
                Next::Go => {}
                Next::Stop(cause) => self.stopped = Some(cause),
                Next::Wait(floor) => self.wait(floor).await,
            }
        }
    }

    /// One request; `None` if the deadline came first.
    async fn ask(&self, chunk: &[Held], part: &[usize]) -> Option<Exchange> {
        let now = self.clock.now();
        let remaining = self.orders.deadline.saturating_duration_since(now);
        if remaining.is_zero() {
            return None;
        }
        let letters = part.iter().map(|at| &chunk[*at].written);
        let body = body(self.orders.output, letters);
        tokio::time::timeout(remaining, self.client.bulk(&body, part.len(), now)).await.ok()
    }

    /// Gives the letters of `part` their fates; those without go back to `parts`.
    fn heard(
        &mut self,
        Exchange { host, result, fail_over }: Exchange,
        chunk: &mut [Held],
        part: Vec<usize>,
        parts: &mut Vec<Vec<usize>>,
    ) -> Next {
        let count = part.len();
        let Judged { answer, status, retry_after, detail } = judge(result, count);
        let (cause, next) = match answer {
            Answer::AllIndexed => {
                part.into_iter().for_each(|at| chunk[at].fate = Fate::Indexed);
                (None, Next::Go)
            }
            Answer::Items(verdicts) => {
                let (cause, again) = settle_items(chunk, part, verdicts);
                if again.len() < count {
                    self.backoff.reset();
                }
                let next = if again.is_empty() { Next::Go } else { Next::Wait(retry_after) };
                parts.push(again);
                (cause, next)
            }
            Answer::Whole(Whole::TooLarge) => {
                halve(chunk, &part, Reason::new("too_large"), parts);
                (None, Next::Go)
            }
            Answer::Whole(Whole::Refused(reason)) => {
                halve(chunk, &part, reason, parts);
                (None, Next::Go)
            }
            // They are kept as they are, whoever said so.
            Answer::Whole(Whole::RefusedSomehow) => {
                halve(chunk, &part, Reason::new("unknown"), parts);
                (None, Next::Go)
            }
            Answer::Whole(Whole::AnswerTooLong) if count > 1 => {
                halve(chunk, &part, Reason::new("unknown"), parts);
                (None, Next::Go)
            }
            Answer::Whole(Whole::AnswerTooLong) => {
                parts.push(part);
                (Some(Cause::AnswerTooLong), Next::Wait(retry_after))
            }
            Answer::Whole(Whole::Retry(cause)) => {
                parts.push(part);
                let next = match cause {
                    _ if cause.pauses() => Next::Stop(cause.as_str()),
                    _ if fail_over => Next::Go,
                    _ => Next::Wait(retry_after),
                };
                (Some(cause), next)
            }
        };
        match cause {
            Some(cause) => self.trouble(cause, &host, status, &detail),
            None => self.backoff.reset(),
        }
        next
    }

    /// Waits before the next request, if there can be one before the deadline.
    async fn wait(&mut self, floor: Option<Duration>) {
        let wait = self.backoff.next_wait(floor);
        if self.clock.now() + wait >= self.orders.deadline {
            self.stopped = Some(self.said.map_or(DEADLINE, Cause::as_str));
        } else {
            self.clock.sleep(wait).await;
        }
    }

    /// Says why something is sent again or left: once until there is another cause.
    fn trouble(&mut self, cause: Cause, host: &str, status: u16, detail: &str) {
        if self.said.replace(cause) == Some(cause) {
            return;
        }
        let mut text = format!("{host}: {}", cause.as_str());
        if status != 0 {
            text += &format!(", status {status}");
        }
        if !detail.is_empty() {
            text += &format!(", {detail}");
        }
        let next = if cause.pauses() { "somebody has to mend that" } else { "trying again" };
        (self.tell)(&format!("{text}; {next}"));
    }
}

/// Gives the letters of `part` the fates that `verdicts` are; the trouble, and which to send again.
fn settle_items(
    chunk: &mut [Held],
    part: Vec<usize>,
    verdicts: Vec<Verdict>,
) -> (Option<Cause>, Vec<usize>) {
    let mut again = Vec::new();
    let (mut waits_for, mut left_for) = (None, None);
    for (at, verdict) in part.into_iter().zip(verdicts) {
        chunk[at].fate = match verdict {
            Verdict::Indexed => Fate::Indexed,
            Verdict::Duplicate => Fate::Duplicate,
            Verdict::Stored => Fate::Stored,
            Verdict::Refused(reason) => Fate::Refused(reason),
            Verdict::Retry(cause) if cause.pauses() => {
                left_for.get_or_insert(cause);
                Fate::Left(cause.as_str())
            }
            Verdict::Retry(cause) => {
                waits_for.get_or_insert(cause);
                again.push(at);
                Fate::Open
            }
        };
    }
    // What is waited for names what is left in the end.
    (waits_for.or(left_for), again)
}

/// Two halves in place of `part`; a single letter is refused.
fn halve(chunk: &mut [Held], part: &[usize], reason: Reason, parts: &mut Vec<Vec<usize>>) {
    if let [only] = *part {
        chunk[only].fate = Fate::Refused(reason);
        return;
    }
    let (first, second) = part.split_at(part.len() / 2);
    parts.extend([second.to_vec(), first.to_vec()]);
}

/// A bulk request of these letters.
fn body<'a>(output: &Elasticsearch, letters: impl Iterator<Item = &'a Written>) -> Body {
    #[derive(Serialize)]
    struct Action<'a> {
        create: Target<'a>,
    }
    #[derive(Serialize)]
    struct Target<'a> {
        #[serde(rename = "_index", skip_serializing_if = "Option::is_none")]
        index: Option<&'a str>,
        #[serde(rename = "_id")]
        id: &'a str,
    }
    let mut plain = Vec::new();
    for Written { letter, .. } in letters {
        let is_addressed = matches!(&output.index, IndexName::Fixed(name) if *name == letter.index);
        // Only where the address doesn't say it: a cluster may forbid to name another.
        let index = (!is_addressed).then_some(letter.index.as_str());
        let action = Action { create: Target { index, id: &letter.id } };
        serde_json::to_writer(&mut plain, &action).expect("strings can always be written");
        plain.push(b'\n');
        plain.extend_from_slice(letter.document.as_bytes());
        plain.push(b'\n');
    }
    Body::new(plain, output.compression == Compression::Gzip)
}
