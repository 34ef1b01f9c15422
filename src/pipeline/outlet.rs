//! A worker's side of one pipeline: the open batch, what is in flight, and what was counted.
//!
//! Batches are numbered in the order in which they are sealed. At most [`IN_FLIGHT_MAX`] of them
//! wait for their outcome; the channel to the output has room for as many, so sending never
//! waits. While the output is dead, nothing is filled or sent: what it has forgotten is read again
//! when it is back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::batch::{Batch, Outcome};
use super::budget::Budget;
use super::form;
use super::open::{OpenBatch, Shape, Spares, Tally};
use crate::config::Pipeline;
use crate::document::Names;
use crate::filter::Filters;
use crate::telemetry::metrics::{PipelineMetrics, ReadMetrics};

/// Batches of one worker and pipeline that may wait for their outcome: two that are being sent
/// and two that are ready when those are done.
pub const IN_FLIGHT_MAX: usize = 4;

/// Which stream, in a worker.
pub type StreamKey = u64;

/// A sealed batch that is not safe yet.
#[derive(Debug)]
struct InFlight {
    streams: BTreeSet<StreamKey>,
    tally: Tally,
}

/// What one pipeline did, for the summary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub lines_indexed: u64,
    pub lines_refused: u64,
    pub lines_filtered: u64,
    pub documents_indexed: u64,
    pub documents_refused: u64,
    pub duplicates_answered: u64,
    pub bytes_read: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.lines_indexed += other.lines_indexed;
        self.lines_refused += other.lines_refused;
        self.lines_filtered += other.lines_filtered;
        self.documents_indexed += other.documents_indexed;
        self.documents_refused += other.documents_refused;
        self.duplicates_answered += other.duplicates_answered;
        self.bytes_read += other.bytes_read;
    }
}

/// For each worker the age of its oldest line that is not safe, nanoseconds.
pub type Ages = Arc<Vec<AtomicI64>>;

/// What all workers share of one pipeline.
#[derive(Debug, Clone)]
pub struct Output {
    pub batches: Sender<Batch>,
    pub oldest: Ages,
}

/// What sealing a batch asks of its readers.
#[derive(Debug)]
pub struct Sealed {
    pub sequence: u64,
    /// Readers whose lines are in it, or were dropped along with it.
    pub streams: BTreeSet<StreamKey>,
    /// There was no document in it, so nothing has to be waited for.
    pub safe: bool,
}

/// A worker's side of one pipeline.
#[derive(Debug)]
pub struct Outlet {
    pub pipeline: Arc<Pipeline>,
    pub names: Arc<Names>,
    pub filters: Filters,
    pub batch: OpenBatch,
    /// Streams that the open batch has gone through.
    pub touched: BTreeSet<StreamKey>,
    pub totals: Totals,
    metrics: PipelineMetrics,
    read_metrics: ReadMetrics,
    /// For each worker the age of its oldest line, nanoseconds.
    oldest: Ages,
    shown_behind: u64,
    shown_unaccounted: u64,
    worker: usize,
    index: usize,
    shape: Shape,
    spares: Spares,
    budget: Budget,
    output: Sender<Batch>,
    sequence: u64,
    in_flight: BTreeMap<u64, InFlight>,
    /// The output has forgotten batches and is not back yet.
    dead: bool,
    /// The earliest runtime time in what was forgotten, until the output is back.
    forgotten_oldest_ns: Option<i64>,
}

impl Outlet {
    /// The side of worker `worker` of the pipeline with this `index`.
    pub fn new(
        worker: usize,
        index: usize,
        pipeline: Arc<Pipeline>,
        budget: Budget,
        output: Output,
    ) -> Self {
        let Output { batches: output, oldest } = output;
        let shape = Shape::of(&pipeline.output);
        let spares = Spares::new(shape);
        let names = form::names(&pipeline);
        Self {
            filters: Filters::new(&pipeline.filters, &names),
            names,
            batch: OpenBatch::new(shape, budget.permit(index), &spares),
            spares,
            touched: BTreeSet::new(),
            totals: Totals::default(),
            metrics: PipelineMetrics::new(&pipeline.name),
            read_metrics: ReadMetrics::new(),
            oldest,
            shown_behind: 0,
            shown_unaccounted: 0,
            pipeline,
            worker,
            index,
            shape,
            budget,
            output,
            sequence: 0,
            in_flight: BTreeMap::new(),
            dead: false,
            forgotten_oldest_ns: None,
        }
    }

    /// Whether nothing is open and nothing waits for its outcome.
    pub fn is_settled(&self) -> bool {
        self.in_flight.is_empty() && self.batch.is_untouched()
    }

    /// Whether nothing waits for its outcome.
    pub fn is_alone(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// When the open batch has waited for as long as it may; `None` while nothing could be done
    /// about it, because too many are in flight: an outcome comes first.
    pub fn due(&self) -> Option<Instant> {
        self.batch.due().filter(|_| self.may_send())
    }

    fn may_send(&self) -> bool {
        !self.dead && self.in_flight.len() < IN_FLIGHT_MAX
    }

    /// Whether no line can be taken until an outcome comes, or until the output is back.
    pub fn takes_nothing(&self) -> bool {
        self.dead || self.batch.is_full() && !self.may_send()
    }

    /// The output takes batches again.
    pub fn is_back(&mut self) {
        self.dead = false;
        self.forgotten_oldest_ns = None;
    }

    /// The output has forgotten batch `sequence` and all after it: forgets them and the open one.
    /// Returns the streams that were in them.
    pub fn forgotten(&mut self, sequence: u64) -> BTreeSet<StreamKey> {
        self.dead = true;
        if !self.in_flight.contains_key(&sequence) {
            return BTreeSet::new();
        }
        self.forget_from(sequence)
    }

    /// Forgets batch `sequence`, all after it and the open one. Returns the streams that were in
    /// them.
    pub fn forget_from(&mut self, sequence: u64) -> BTreeSet<StreamKey> {
        let forgotten = self.in_flight.split_off(&sequence);
        let oldest_ns = |batch: &InFlight| batch.tally.oldest_ns;
        let oldest = forgotten.values().filter_map(oldest_ns).chain(self.batch.tally.oldest_ns);
        self.forgotten_oldest_ns = oldest.chain(self.forgotten_oldest_ns).min();
        let mut streams = std::mem::take(&mut self.touched);
        streams.extend(forgotten.into_values().flat_map(|batch| batch.streams));
        self.batch = OpenBatch::new(self.shape, self.budget.permit(self.index), &self.spares);
        self.spares.release();
        self.filters.forget_counts();
        streams
    }

    /// Closes the open batch and sends it on; `None` while too many are in flight.
    pub fn seal(&mut self) -> Option<Sealed> {
        if !self.may_send() {
            return None;
        }
        let fresh = OpenBatch::new(self.shape, self.budget.permit(self.index), &self.spares);
        let batch = std::mem::replace(&mut self.batch, fresh);
        let tally = batch.tally;
        let streams = std::mem::take(&mut self.touched);
        let sequence = self.sequence;
        self.sequence += 1;
        let safe = batch.items.is_empty();
        if safe {
            self.count(tally, &Outcome::default());
        } else {
            let batch = batch.seal(self.worker, sequence);
            self.in_flight.insert(sequence, InFlight { streams: streams.clone(), tally });
            // It fails only when the output was stopped at the deadline of a shutdown; what is
            // then not acknowledged is read again.
            if let Err(TrySendError::Full(_)) = self.output.try_send(batch) {
                debug_assert!(false, "the channel has room for all that may be in flight");
            }
        }
        Some(Sealed { sequence, streams, safe })
    }

    /// Takes the outcome of a batch; returns the streams that were in it.
    pub fn done(&mut self, outcome: &Outcome, now_ns: i64) -> BTreeSet<StreamKey> {
        let Some(in_flight) = self.in_flight.remove(&outcome.sequence) else {
            return BTreeSet::new();
        };
        self.count(in_flight.tally, outcome);
        if let Some(oldest_ns) = in_flight.tally.oldest_ns {
            let latency = now_ns.saturating_sub(oldest_ns).max(0).unsigned_abs();
            self.metrics.acknowledged(outcome, Duration::from_nanos(latency));
        }
        in_flight.streams
    }

    /// The runtime time of the oldest line that is not safe yet.
    pub fn oldest_ns(&self) -> Option<i64> {
        let in_flight = self.in_flight.values().filter_map(|batch| batch.tally.oldest_ns).min();
        let oldest = in_flight.into_iter().chain(self.batch.tally.oldest_ns);
        oldest.chain(self.forgotten_oldest_ns).min()
    }

    fn count(&mut self, tally: Tally, outcome: &Outcome) {
        let counted = Totals {
            lines_indexed: outcome.lines_indexed,
            lines_refused: outcome.lines_refused,
            lines_filtered: tally.lines_filtered,
            documents_indexed: outcome.documents_indexed,
            documents_refused: outcome.documents_refused,
            duplicates_answered: outcome.duplicates_answered,
            bytes_read: tally.raw_bytes,
        };
        debug_assert_eq!(tally.lines_carried, outcome.lines_indexed + outcome.lines_refused);
        self.totals += counted;
        self.metrics.lines_filtered.increment(counted.lines_filtered);
        let lines = counted.lines_indexed + counted.lines_refused + counted.lines_filtered;
        self.read_metrics.lines_read.increment(lines);
        self.read_metrics.bytes_read.increment(counted.bytes_read);
    }

    /// Shows how far behind the pipeline is on this worker, and of how many bytes nobody knows what
    /// became; all workers add up.
    pub fn show(&mut self, bytes_behind: u64, bytes_unaccounted: u64, now_ns: i64) {
        if self.is_settled() {
            self.batch.release();
            self.spares.release();
        } else {
            self.spares.trim();
        }
        let oldest =
            self.oldest_ns().map_or(0, |oldest_ns| now_ns.saturating_sub(oldest_ns).max(0));
        self.oldest[self.worker].store(oldest, Ordering::Relaxed);
        let oldest = self.oldest.iter().map(|oldest| oldest.load(Ordering::Relaxed)).max();
        let seconds = Duration::from_nanos(oldest.unwrap_or(0).unsigned_abs()).as_secs_f64();
        self.metrics.oldest_unacknowledged_seconds.set(seconds);
        self.metrics.bytes_behind.increment(as_gauge(bytes_behind) - as_gauge(self.shown_behind));
        self.shown_behind = bytes_behind;
        let more = as_gauge(bytes_unaccounted) - as_gauge(self.shown_unaccounted);
        self.metrics.bytes_unaccounted.increment(more);
        self.shown_unaccounted = bytes_unaccounted;
    }
}

/// Gauges are floating-point numbers; whole bytes are exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "a gauge shows an order of magnitude")]
pub fn as_gauge(figure: u64) -> f64 {
    figure as f64
}
