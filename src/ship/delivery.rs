//! One batch on its way: sends it, takes it apart where it must, until every item is safe.
//!
//! Owns what is still to be sent of a batch ([`Part`]s on a stack) and what became of the rest.
//! The part on top is repeated until it is answered before anything else of the batch is sent.
//!
//! ```text
//!            ┌────────── nothing, 429, 5xx, 401, …: the same bytes ──────────┐
//!            ▼                                                               │
//!  part ─▶ request ─▶ verdicts ─▶ indexed, duplicate, stored ─▶ counted      │
//!            ▲  │         ├─────▶ retry ──────────┐                          │
//!            │  │         └─────▶ refused ─▶ plain form, same id ─▶ refused ─▶ dead letter
//!            │  └─ 413, 400 ─▶ two halves ────────┤      (400 in nobody's words: a document is
//!            │                                    │      refused only if others are taken)
//!            └────────────────────────────────────┘
//! ```
//!
//! Guarantees that an outcome is given only when every item is safe, however long that takes, and
//! that dropping a delivery at any `await` loses nothing: what was not reported is read again.
//! Limits: what is kept of a batch is never more than the batch and the plain forms of its own
//! documents; its permit follows.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::bulk::{self, Body, Entry};
use super::client::{Client, Exchange, Failure, Reply};
use super::clock::Clock;
use super::dead_letter::{DeadLetterError, DeadLetters, Letter};
use super::health::{BulkResult, Health, Said};
use super::response::{self, Answer, Cause, Reason, Verdict, Whole};
use super::retry::{Backoff, ClosedIndexes, Concurrency};
use crate::config::pipeline::{IndexName, Refused};
use crate::discover::StreamName;
use crate::document;
use crate::pipeline::batch::{Batch, Outcome};

/// A larger document has no plain form: escaped once more it would be too much for many a limit,
/// and cutting it would lose what the dead letter keeps.
const MAX_PLAIN_FORM_BYTES: usize = 1024 * 1024;

/// How often a document may fail with a 500 while others are taken.
const FAILURES_MAX: u32 = 10;

/// The longest wait for a document that fails while others are taken: so that it is known whose fault
/// it is before the output counts as dead.
const FAILURE_WAIT_MAX: Duration = Duration::from_millis(2500);

/// Of a delivery of which nothing but so many documents is left, which fail with a 500, nobody waits
/// for the end.
const STUCK_DOCUMENTS_MAX: usize = 16;

/// What all deliveries of an output share.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) pipeline: String,
    pub(super) index: IndexName,
    pub(super) refused: Refused,
    pub(super) refused_after: Duration,
    pub(super) client: Client,
    pub(super) dead_letters: DeadLetters,
    pub(super) health: Arc<Health>,
    pub(super) clock: Clock,
    pub(super) pace: Mutex<Pace>,
    /// Another delivery is stuck.
    pub(super) stuck: Notify,
}

/// What deliveries learn from each other's answers.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) concurrency: Concurrency,
    closed: ClosedIndexes,
    /// Worker and sequence of the batches of which nothing is left but what fails with a 500: others
    /// need not wait for them.
    pub(super) stuck: BTreeSet<(usize, u64)>,
    /// When a document was taken last.
    taken: Option<Instant>,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            concurrency: Concurrency::new(),
            closed: ClosedIndexes::default(),
            stuck: BTreeSet::new(),
            taken: None,
        }
    }

    fn has_taken_since(&self, then: Instant) -> bool {
        self.taken.is_some_and(|last| last > then)
    }
}

/// Why something was not sent for good, for the log.
#[derive(Debug, Clone, Copy)]
struct Trouble<'a> {
    cause: Cause,
    host: &'a str,
    status: u16,
    detail: &'a str,
}

impl Output {
    pub(super) fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recovered(&self) {
        self.health.answered();
        self.pace().concurrency.succeeded();
        let before = self.health.recovered().cause();
        let Some(cause) = before.map(Cause::as_str) else {
            return;
        };
        if self.health.may_say(Said::Recovered, self.clock.now()) {
            tracing::info!(pipeline = self.pipeline, cause, "the output takes documents again");
        }
    }

    fn troubled(&self, trouble: Trouble<'_>) {
        match trouble.cause {
            // It answers, and others may be taken meanwhile.
            Cause::ItemFailed => self.pace().concurrency.succeeded(),
            _ => self.pace().concurrency.troubled(),
        }
        self.health.troubled(trouble.cause);
        if !self.health.may_say(Said::Trouble(trouble.cause), self.clock.now()) {
            return;
        }
        let Trouble { cause, host, status, detail } = trouble;
        let (pipeline, cause, paused) = (&self.pipeline, cause.as_str(), cause.pauses());
        if paused {
            tracing::error!(pipeline, cause, host, status, detail, "the output is paused");
        } else {
            tracing::warn!(pipeline, cause, host, status, detail, "sending again");
        }
    }

    /// Asks until the output has answered once, so that readiness needs no traffic.
    pub(super) async fn probe(&self, seed: u64) {
        let mut backoff = Backoff::new(seed);
        let mut had_trouble = false;
        while !self.health.has_answered() {
            let exchange = self.client.probe(self.clock.now()).await;
            let (cause, status, detail) = match &exchange.result {
                Ok(reply) => match response::judge_probe(reply.status) {
                    Some(cause) => (cause, reply.status, ""),
                    None if had_trouble => return self.recovered(),
                    None => return self.health.answered(),
                },
                Err(failure) => (failure.cause, 0, failure.detail.as_str()),
            };
            if self.health.has_answered() {
                return;
            }
            had_trouble = true;
            self.troubled(Trouble { cause, host: &exchange.host, status, detail });
            if !exchange.fail_over {
                self.clock.sleep(backoff.next_wait(None)).await;
            }
        }
    }
}

/// Something of a batch that is one request.
#[derive(Debug)]
struct Part {
    body: Body,
    /// In the order of the body.
    pending: Vec<Pending>,
}

/// An item that is not safe yet.
#[derive(Debug, Clone, Copy)]
struct Pending {
    /// Index into the batch's items.
    item: u32,
    /// Whether the body holds its plain form.
    plain_form: bool,
    /// How often it failed alone, as it stands in the body.
    failures: u32,
    /// When it was refused in nobody's words first.
    refused_since: Option<Instant>,
}

/// What is to be done before the next part is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    Wait(Option<Duration>),
}

/// Sends `batch` until every item is safe. Cancel safe.
pub(super) async fn deliver(output: &Output, batch: Batch, seed: u64) -> Outcome {
    let mut delivery = Delivery::new(output, batch);
    let mut backoff = Backoff::new(seed);
    let mut stuck = None;
    while let Some(part) = delivery.parts.pop() {
        let open = delivery.open;
        let next = delivery.send(part).await;
        if !delivery.fails {
            stuck = None;
        } else if stuck.is_none() {
            stuck = Some(Stuck::new(output, &delivery.outcome));
        }
        delivery.keep_letters(&mut backoff).await;
        delivery.hold();
        if delivery.open < open {
            backoff.reset();
        }
        if let Next::Wait(floor) = next {
            let wait = backoff.next_wait(floor);
            let soon = delivery.fails && floor.is_none() && delivery.others_are_taken();
            output.clock.sleep(if soon { wait.min(FAILURE_WAIT_MAX) } else { wait }).await;
        }
    }
    delivery.outcome
}

/// A delivery that is stuck, until this is let go of.
struct Stuck<'a>(&'a Output, (usize, u64));

impl<'a> Stuck<'a> {
    fn new(output: &'a Output, outcome: &Outcome) -> Self {
        let batch = (outcome.worker, outcome.sequence);
        output.pace().stuck.insert(batch);
        output.stuck.notify_one();
        Self(output, batch)
    }
}

impl Drop for Stuck<'_> {
    fn drop(&mut self) {
        self.0.pace().stuck.remove(&self.1);
    }
}

struct Delivery<'a> {
    output: &'a Output,
    batch: Batch,
    parts: Vec<Part>,
    /// Refused for good, to be written before they count.
    letters: Vec<Letter>,
    /// The items of `letters`.
    lettered: Vec<u32>,
    /// Items that are not safe yet.
    open: usize,
    /// Nothing is left but a few documents that fail with a 500.
    fails: bool,
    outcome: Outcome,
    began: Instant,
}

impl<'a> Delivery<'a> {
    fn new(output: &'a Output, mut batch: Batch) -> Self {
        let body = Body {
            bytes: std::mem::take(&mut batch.body),
            gzip: batch.gzip,
            plain_bytes: batch.plain_bytes,
        };
        let count = u32::try_from(batch.items.len()).expect("a batch has fewer items than bytes");
        let new = |item| Pending { item, plain_form: false, failures: 0, refused_since: None };
        let pending = (0..count).map(new).collect();
        let outcome =
            Outcome { worker: batch.worker, sequence: batch.sequence, ..Outcome::default() };
        let open = batch.items.len();
        let parts = if open == 0 { Vec::new() } else { vec![Part { body, pending }] };
        Self {
            output,
            batch,
            parts,
            letters: Vec::new(),
            lettered: Vec::new(),
            open,
            fails: false,
            outcome,
            began: output.clock.now(),
        }
    }

    /// Sends one part and puts back what is left of it.
    async fn send(&mut self, part: Part) -> Next {
        let output = self.output;
        let (count, open, taken) = (part.pending.len(), self.open, self.taken());
        let started = Instant::now();
        let exchange = output.client.bulk(&part.body, count, output.clock.now()).await;
        let took = started.elapsed();
        let Exchange { host, result, fail_over } = exchange;
        let Judged { answer, status, retry_after, detail } = judge(result, count);
        output.health.request(&output.pipeline, result_of(&answer), took);
        let (cause, next) = match answer {
            Answer::AllIndexed => {
                self.all_indexed(&part);
                (None, Next::Go)
            }
            Answer::Items(verdicts) => {
                let cause = self.settle(&part, verdicts);
                (cause, cause.map_or(Next::Go, |_| Next::Wait(retry_after)))
            }
            Answer::Whole(Whole::TooLarge) => {
                (self.split(part, &Reason::new("too_large")), Next::Go)
            }
            Answer::Whole(Whole::Refused(reason)) => (self.split(part, &reason), Next::Go),
            Answer::Whole(Whole::RefusedSomehow) if count > 1 => (self.halve(part), Next::Go),
            Answer::Whole(Whole::RefusedSomehow) => {
                let cause = self.refused_somehow(part);
                (cause, cause.map_or(Next::Go, |_| Next::Wait(retry_after)))
            }
            Answer::Whole(Whole::AnswerTooLong) if count > 1 => (self.halve(part), Next::Go),
            Answer::Whole(Whole::AnswerTooLong) => {
                (self.again(part, Cause::AnswerTooLong), Next::Wait(retry_after))
            }
            Answer::Whole(Whole::Retry(cause)) => {
                let cause = self.again(part, cause);
                let next = if fail_over { Next::Go } else { Next::Wait(retry_after) };
                (cause, next)
            }
        };
        match cause {
            Some(cause) => output.troubled(Trouble { cause, host: &host, status, detail: &detail }),
            None if self.open < open => output.recovered(),
            None => {}
        }
        if self.taken() > taken {
            output.pace().taken = Some(output.clock.now());
        }
        let few = self.parts.iter().map(|part| part.pending.len()).sum::<usize>();
        self.fails = cause == Some(Cause::ItemFailed) && few <= STUCK_DOCUMENTS_MAX;
        next
    }

    /// Puts the part back as it was, unless it has been refused for too long.
    fn again(&mut self, part: Part, cause: Cause) -> Option<Cause> {
        if cause.may_last() {
            let verdicts = vec![Verdict::Retry(cause); part.pending.len()];
            return self.settle(&part, verdicts);
        }
        self.parts.push(part);
        Some(cause)
    }

    fn all_indexed(&mut self, part: &Part) {
        if let IndexName::Fixed(index) = &self.output.index {
            self.output.pace().closed.opened(index);
        }
        for pending in &part.pending {
            self.safe(*pending, &Verdict::Indexed);
        }
    }

    /// Counts what is safe, puts back what is not; the first cause for which something is sent
    /// again, [`Cause::ItemFailed`] only if there is no other.
    fn settle(&mut self, part: &Part, verdicts: Vec<Verdict>) -> Option<Cause> {
        let safe = |verdict: &Verdict| {
            matches!(verdict, Verdict::Indexed | Verdict::Duplicate | Verdict::Stored)
        };
        if verdicts.iter().all(safe) {
            for (pending, verdict) in part.pending.iter().zip(&verdicts) {
                self.safe(*pending, verdict);
            }
            return None;
        }
        let plain = part.body.plain();
        let mut rest = Rest::default();
        let (mut first_cause, mut fails) = (None, false);
        let mut entries = bulk::entries(&plain);
        for (pending, verdict) in part.pending.iter().zip(verdicts) {
            let entry = entries.next().expect("a body has an entry for each of its items");
            match verdict {
                Verdict::Retry(cause) if cause.may_last() && self.is_refused(&entry) => {
                    self.give_up(*pending, &entry, cause.as_str());
                }
                Verdict::Retry(Cause::ItemFailed) if self.fails_alone(*pending) => {
                    let reason = Reason::new(Cause::ItemFailed.as_str());
                    self.refuse(*pending, &entry, &reason, &mut rest);
                }
                Verdict::Retry(Cause::ItemFailed) => {
                    fails = true;
                    rest.keep(Pending { failures: pending.failures + 1, ..*pending }, &entry);
                }
                Verdict::Retry(cause) => {
                    first_cause.get_or_insert(cause);
                    rest.keep(*pending, &entry);
                }
                Verdict::Refused(reason) => self.refuse(*pending, &entry, &reason, &mut rest),
                verdict => self.safe(*pending, &verdict),
            }
        }
        if !rest.pending.is_empty() {
            let body = Body::new(rest.plain, part.body.gzip);
            let part = Part { body, pending: rest.pending };
            match first_cause {
                // The other parts need not wait for it.
                None if fails => self.parts.insert(0, part),
                _ => self.parts.push(part),
            }
        }
        first_cause.or_else(|| fails.then_some(Cause::ItemFailed))
    }

    /// Whether a document has failed often enough while others were taken: the fault is its own.
    fn fails_alone(&self, pending: Pending) -> bool {
        pending.failures + 1 >= FAILURES_MAX && self.others_are_taken()
    }

    /// Documents of the batch that were taken as they are.
    fn taken(&self) -> u64 {
        self.outcome.documents_indexed + self.outcome.duplicates_answered
    }

    /// Whether the output has taken anything since this batch was begun.
    fn others_are_taken(&self) -> bool {
        self.taken() > 0 || self.output.pace().has_taken_since(self.began)
    }

    /// A single document was refused by whoever does not say why: refused for good if that stays so
    /// while others are taken.
    fn refused_somehow(&mut self, mut part: Part) -> Option<Cause> {
        let now = self.output.clock.now();
        let pending = &mut part.pending[0];
        let since = *pending.refused_since.get_or_insert(now);
        pending.failures += 1;
        let others_are_taken = self.output.pace().has_taken_since(since);
        if pending.failures >= FAILURES_MAX && others_are_taken {
            return self.settle(&part, vec![Verdict::Refused(Reason::new("unknown"))]);
        }
        // Whatever else there is may show who is at fault.
        self.parts.insert(0, part);
        Some(Cause::UnexpectedStatus)
    }

    /// Two halves in place of the part; a single document is refused.
    fn split(&mut self, part: Part, reason: &Reason) -> Option<Cause> {
        if part.pending.len() == 1 {
            return self.settle(&part, vec![Verdict::Refused(reason.clone())]);
        }
        self.halve(part)
    }

    /// Two halves in place of the part, which is more than one document.
    fn halve(&mut self, part: Part) -> Option<Cause> {
        let count = part.pending.len();
        let (first, second) = part.pending.split_at(count / 2);
        let second_body = part.body.slice(count / 2, usize::MAX);
        let first_body = part.body.slice(0, count / 2);
        self.parts.push(Part { body: second_body, pending: second.to_vec() });
        self.parts.push(Part { body: first_body, pending: first.to_vec() });
        None
    }

    /// What the user wants done with a document that is refused for good.
    fn refuse(&mut self, pending: Pending, entry: &Entry<'_>, reason: &Reason, rest: &mut Rest) {
        let small = entry.document.len() <= MAX_PLAIN_FORM_BYTES;
        match self.output.refused {
            Refused::Reindex if small && !pending.plain_form => {
                let id = entry.target().id;
                let time = document::id::time_of(id.as_bytes()).unwrap_or(self.batch.oldest_ns);
                let stream = self.stream(pending);
                bulk::write_plain_form(&mut rest.plain, entry, reason.as_str(), time, &stream);
                let refused_since = None;
                let pending = Pending { plain_form: true, failures: 0, refused_since, ..pending };
                rest.pending.push(pending);
            }
            _ => self.give_up(pending, entry, reason.as_str()),
        }
        if self.output.health.may_say(Said::Refused, self.output.clock.now()) {
            let (pipeline, reason) = (&self.output.pipeline, reason.as_str());
            tracing::warn!(pipeline, reason, "documents are refused for good");
        }
    }

    /// Refused in every form that is to be tried.
    fn give_up(&mut self, pending: Pending, entry: &Entry<'_>, reason: &str) {
        if self.output.refused == Refused::Drop {
            self.refused(pending.item);
            return;
        }
        let written = pending.plain_form.then(|| bulk::read_plain_form(entry.document)).flatten();
        let (document, reason) = written.unwrap_or_else(|| {
            (String::from_utf8_lossy(entry.document).into_owned(), reason.to_owned())
        });
        let id = entry.target().id;
        let letter = Letter { index: self.index_of(entry), id, reason, document };
        self.letters.push(letter);
        self.lettered.push(pending.item);
    }

    /// Writes the letters, waiting for room and for the disk as long as it takes.
    async fn keep_letters(&mut self, backoff: &mut Backoff) {
        let letters = Arc::new(std::mem::take(&mut self.letters));
        while !letters.is_empty() {
            let (dead_letters, letters) = (self.output.dead_letters.clone(), Arc::clone(&letters));
            let written = tokio::task::spawn_blocking(move || dead_letters.write(&letters)).await;
            let (cause, detail) = match written {
                Ok(Ok(())) => {
                    for item in std::mem::take(&mut self.lettered) {
                        self.refused(item);
                    }
                    return;
                }
                Ok(Err(error @ DeadLetterError::Full { .. })) => {
                    (Cause::DeadLetterFull, super::client::chain(&error))
                }
                Ok(Err(error)) => (Cause::WriteFailed, super::client::chain(&error)),
                // The runtime is ending: nothing is reported any more.
                Err(error) => (Cause::WriteFailed, error.to_string()),
            };
            self.output.troubled(Trouble { cause, host: "", status: 0, detail: &detail });
            self.output.clock.sleep(backoff.next_wait(None)).await;
        }
    }

    /// Whether the closed or frozen index of `entry` has been so for `refused_after`.
    fn is_refused(&self, entry: &Entry<'_>) -> bool {
        let index = self.index_of(entry);
        let now = self.output.clock.now();
        self.output.pace().closed.is_refused(&index, now, self.output.refused_after)
    }

    fn index_of(&self, entry: &Entry<'_>) -> String {
        match &self.output.index {
            IndexName::Fixed(name) => name.clone(),
            IndexName::ByDate(_) => entry.target().index.unwrap_or_default(),
        }
    }

    fn stream(&self, pending: Pending) -> Arc<StreamName> {
        let item = &self.batch.items[pending.item as usize];
        Arc::clone(&self.batch.streams[item.stream as usize])
    }

    fn safe(&mut self, pending: Pending, verdict: &Verdict) {
        if pending.plain_form || *verdict == Verdict::Stored {
            self.refused(pending.item);
            return;
        }
        if *verdict == Verdict::Duplicate {
            self.outcome.duplicates_answered += 1;
        } else {
            self.outcome.documents_indexed += 1;
        }
        self.outcome.lines_indexed += self.lines(pending.item);
        self.open -= 1;
    }

    fn refused(&mut self, item: u32) {
        self.outcome.documents_refused += 1;
        self.outcome.lines_refused += self.lines(item);
        self.open -= 1;
    }

    fn lines(&self, item: u32) -> u64 {
        u64::from(self.batch.items[item as usize].lines)
    }

    /// Lets the permit follow what is kept.
    fn hold(&mut self) {
        let bytes: usize = self.parts.iter().map(|part| part.body.bytes.len()).sum();
        let permit = &mut self.batch.permit;
        if bytes < permit.bytes() {
            permit.shrink_to(bytes);
        } else {
            permit.grow_past_limit_to(bytes);
        }
    }
}

/// What is put together to be sent again.
#[derive(Default)]
struct Rest {
    plain: Vec<u8>,
    pending: Vec<Pending>,
}

impl Rest {
    fn keep(&mut self, pending: Pending, entry: &Entry<'_>) {
        entry.write(&mut self.plain);
        self.pending.push(pending);
    }
}

/// What came back, and what it means.
pub(super) struct Judged {
    pub(super) answer: Answer,
    /// 0 without an answer.
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) detail: String,
}

pub(super) fn judge(result: Result<Reply, Failure>, count: usize) -> Judged {
    match result {
        Ok(Reply { status, retry_after, body }) => {
            let answer = response::judge(status, &body, count);
            Judged { answer, status, retry_after, detail: String::new() }
        }
        Err(Failure { cause, detail }) => {
            let answer = Answer::Whole(match cause {
                Cause::AnswerTooLong => Whole::AnswerTooLong,
                cause => Whole::Retry(cause),
            });
            Judged { answer, status: 0, retry_after: None, detail }
        }
    }
}

fn result_of(answer: &Answer) -> BulkResult {
    let good = |verdict: &Verdict| matches!(verdict, Verdict::Indexed | Verdict::Duplicate);
    match answer {
        Answer::AllIndexed => BulkResult::Ok,
        Answer::Items(verdicts) if verdicts.iter().all(good) => BulkResult::Ok,
        Answer::Items(_) => BulkResult::Partial,
        Answer::Whole(Whole::TooLarge) => BulkResult::TooLarge,
        Answer::Whole(Whole::Refused(_) | Whole::RefusedSomehow) => BulkResult::RefusedWhole,
        Answer::Whole(Whole::AnswerTooLong) => BulkResult::NotUnderstood,
        Answer::Whole(Whole::Retry(cause)) => BulkResult::of(*cause),
    }
}
