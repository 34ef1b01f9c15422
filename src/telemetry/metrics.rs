//! The metrics: their names, and handles for those who count.
//!
//! Owns every metric name but no figure. A handle is made once and is an atomic; whoever holds
//! one adds to it per batch or per round, never per line. Labels are closed sets, pipelines
//! aside, so the number of series is bounded by the configuration.
//!
//! Recording happens through the process's recorder: handles that are made before [`install`]
//! count nothing.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::pipeline::batch::Outcome;

pub const LINES_READ: &str = "splashdam_lines_read_total";
pub const LINES: &str = "splashdam_lines_total";
pub const BYTES_READ: &str = "splashdam_bytes_read_total";
pub const BYTES_LOST: &str = "splashdam_bytes_lost_total";
pub const BYTES_BEHIND: &str = "splashdam_bytes_behind";
pub const OLDEST_UNACKNOWLEDGED: &str = "splashdam_oldest_unacknowledged_seconds";
pub const BULK_REQUESTS: &str = "splashdam_bulk_requests_total";
pub const BATCHES_FORGOTTEN: &str = "splashdam_batches_forgotten_total";
pub const BYTES_UNACCOUNTED: &str = "splashdam_bytes_unaccounted";
pub const OUTPUT_STATE: &str = "splashdam_output_state";
pub const RELOADS: &str = "splashdam_reloads_total";
pub const BULK_DURATION: &str = "splashdam_bulk_duration_seconds";
pub const DELIVERY_LATENCY: &str = "splashdam_delivery_latency_seconds";
pub const MEMORY_BUDGET: &str = "splashdam_memory_budget_bytes";
pub const STREAMS: &str = "splashdam_streams";
pub const HELD: &str = "splashdam_held_bytes";
pub const CHECKPOINT_AGE: &str = "splashdam_checkpoint_age_seconds";

/// Upper bounds of the histograms' buckets, seconds. Requests end at the longest timeout.
const BULK_DURATION_BUCKETS: [f64; 12] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
/// From a linger of 1 s to an outage of a day.
const DELIVERY_LATENCY_BUCKETS: [f64; 12] =
    [0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 60.0, 600.0, 3_600.0, 86_400.0];

/// Makes this process's metrics available through the handle, each with its description.
///
/// Whoever holds the handle calls `run_upkeep` every few seconds: until then histograms keep each
/// sample, 8 bytes for a bulk request or batch.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = builder()?.install_recorder()?;
    describe();
    Ok(handle)
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    let full = |name: &str| Matcher::Full(name.to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(full(BULK_DURATION), &BULK_DURATION_BUCKETS)?
        .set_buckets_for_metric(full(DELIVERY_LATENCY), &DELIVERY_LATENCY_BUCKETS)
}

fn describe() {
    let counters = [
        (LINES_READ, Unit::Count, "Logical lines read, counted by each pipeline that reads them"),
        (LINES, Unit::Count, "Lines by what became of them: indexed, refused or filtered"),
        (BYTES_READ, Unit::Bytes, "Bytes of log files read, uncompressed"),
        (BYTES_LOST, Unit::Bytes, "Bytes of log files that could not be read or kept, by cause"),
        (BULK_REQUESTS, Unit::Count, "Bulk requests by result"),
        (RELOADS, Unit::Count, "Changes of the pipelines: done, or refused because of a mistake"),
        (
            BATCHES_FORGOTTEN,
            Unit::Count,
            "Batches that a dead output let go of, to be read again later",
        ),
    ];
    for (name, unit, text) in counters {
        metrics::describe_counter!(name, unit, text);
    }
    let gauges = [
        (BYTES_BEHIND, Unit::Bytes, "Bytes on disk that are not acknowledged yet"),
        (OLDEST_UNACKNOWLEDGED, Unit::Seconds, "Age of the oldest line not acknowledged yet"),
        (
            BYTES_UNACCOUNTED,
            Unit::Bytes,
            "Bytes read that are neither acknowledged, in flight nor lost: other than 0 is a fault",
        ),
        (OUTPUT_STATE, Unit::Count, "1 for what an output does: healthy, retrying or paused"),
        (MEMORY_BUDGET, Unit::Bytes, "The byte budget: how much is held, and how much there is"),
        (STREAMS, Unit::Count, "Container runs on this node by state"),
        (HELD, Unit::Bytes, "Bytes of unlinked files that are held open"),
        (CHECKPOINT_AGE, Unit::Seconds, "Time since the checkpoint was last known to be current"),
    ];
    for (name, unit, text) in gauges {
        metrics::describe_gauge!(name, unit, text);
    }
    let took = "Time from sending a bulk request to its answer";
    metrics::describe_histogram!(BULK_DURATION, Unit::Seconds, took);
    let latency = "Time from the runtime's time of a batch's oldest line to its acknowledgement";
    metrics::describe_histogram!(DELIVERY_LATENCY, Unit::Seconds, latency);
}

/// Counts a bulk request of a pipeline; `result` is one of a closed set.
pub fn count_bulk_request(pipeline: &str, result: &'static str, took: Duration) {
    let pipeline = pipeline.to_owned();
    metrics::counter!(BULK_REQUESTS, "pipeline" => pipeline, "result" => result).increment(1);
    metrics::histogram!(BULK_DURATION).record(took.as_secs_f64());
}

/// Shows what an output does at the moment, one of `states`; `None` once it has gone.
pub fn show_output_state(pipeline: &str, states: [&'static str; 3], now: Option<&'static str>) {
    for state in states {
        let gauge =
            metrics::gauge!(OUTPUT_STATE, "pipeline" => pipeline.to_owned(), "state" => state);
        gauge.set(if now == Some(state) { 1.0 } else { 0.0 });
    }
}

/// Counts a change of the pipelines, by how it ended: `done` or `refused`.
pub fn count_reload(result: &'static str) {
    metrics::counter!(RELOADS, "result" => result).increment(1);
}

/// Counts a batch that a dead output let go of.
pub fn count_forgotten_batch(pipeline: &str) {
    metrics::counter!(BATCHES_FORGOTTEN, "pipeline" => pipeline.to_owned()).increment(1);
}

/// What one pipeline counts.
#[derive(Debug, Clone)]
pub struct PipelineMetrics {
    /// Lines answered 201 or 409, or written.
    pub lines_indexed: Counter,
    /// Lines whose documents were reindexed plainly, dead-lettered, or kept by a failure store.
    pub lines_refused: Counter,
    /// Lines that a filter dropped, or that were blank.
    pub lines_filtered: Counter,
    pub bytes_behind: Gauge,
    pub bytes_unaccounted: Gauge,
    /// Zero when everything is acknowledged.
    pub oldest_unacknowledged_seconds: Gauge,
    delivery_latency_seconds: Histogram,
}

impl PipelineMetrics {
    /// Handles for the pipeline with this name, whose series begin at zero.
    pub fn new(pipeline: &str) -> Self {
        let label = || pipeline.to_owned();
        let lines = |outcome: &'static str| metrics::counter!(LINES, "pipeline" => label(), "outcome" => outcome);
        let oldest = metrics::gauge!(OLDEST_UNACKNOWLEDGED, "pipeline" => label());
        metrics::counter!(BATCHES_FORGOTTEN, "pipeline" => label()).absolute(0);
        Self {
            lines_indexed: lines("indexed"),
            lines_refused: lines("refused"),
            lines_filtered: lines("filtered"),
            bytes_behind: metrics::gauge!(BYTES_BEHIND, "pipeline" => label()),
            bytes_unaccounted: metrics::gauge!(BYTES_UNACCOUNTED, "pipeline" => label()),
            oldest_unacknowledged_seconds: oldest,
            delivery_latency_seconds: metrics::histogram!(DELIVERY_LATENCY),
        }
    }

    /// Counts a batch that is safe, `latency` after the runtime time of its oldest line.
    pub fn acknowledged(&self, outcome: &Outcome, latency: Duration) {
        self.lines_indexed.increment(outcome.lines_indexed);
        self.lines_refused.increment(outcome.lines_refused);
        self.delivery_latency_seconds.record(latency.as_secs_f64());
    }
}

/// Why bytes of log files were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossCause {
    /// A file was removed before it could be read to its end, while the agent ran or while it did not.
    Gone,
    /// A file became shorter than what was read or known of it.
    Truncated,
    /// A compressed part is damaged, or bytes of a file never reached the disk.
    Damaged,
    /// Given up because `held.max_bytes` or `held.max_files` was reached.
    Held,
    /// More than `held.spool` at the drain deadline.
    Spool,
    /// The pod stayed unknown until its files were gone.
    Undecided,
}

impl LossCause {
    /// Every cause.
    pub const ALL: [Self; 6] =
        [Self::Gone, Self::Truncated, Self::Damaged, Self::Held, Self::Spool, Self::Undecided];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Truncated => "truncated",
            Self::Damaged => "damaged",
            Self::Held => "held",
            Self::Spool => "spool",
            Self::Undecided => "undecided",
        }
    }
}

/// What those who read count.
#[derive(Debug, Clone)]
pub struct ReadMetrics {
    pub lines_read: Counter,
    pub bytes_read: Counter,
    /// In the order of [`LossCause::ALL`].
    bytes_lost: [Counter; LossCause::ALL.len()],
}

impl ReadMetrics {
    /// Handles whose series begin at zero.
    #[expect(clippy::new_without_default, reason = "registers series, which a default should not")]
    pub fn new() -> Self {
        let lost = |cause: LossCause| metrics::counter!(BYTES_LOST, "cause" => cause.as_str());
        Self {
            lines_read: metrics::counter!(LINES_READ),
            bytes_read: metrics::counter!(BYTES_READ),
            bytes_lost: LossCause::ALL.map(lost),
        }
    }

    /// Counts bytes that no document will ever be made from.
    pub fn lost(&self, cause: LossCause, bytes: u64) {
        self.bytes_lost[cause as usize].increment(bytes);
    }
}

/// What a container run is to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamState {
    /// Taken by at least one pipeline.
    Taken,
    /// Taken by none.
    Ignored,
    /// Its pod is not known yet.
    Undecided,
}

impl StreamState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Taken, Self::Ignored, Self::Undecided];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Ignored => "ignored",
            Self::Undecided => "undecided",
        }
    }
}

/// What is true for the whole process.
#[derive(Debug, Clone)]
pub struct AgentMetrics {
    pub memory_held_bytes: Gauge,
    pub memory_total_bytes: Gauge,
    /// Bytes of unlinked files that are held open.
    pub held_bytes: Gauge,
    pub checkpoint_age_seconds: Gauge,
    /// In the order of [`StreamState::ALL`].
    streams: [Gauge; StreamState::ALL.len()],
}

impl AgentMetrics {
    /// Handles whose series begin at zero.
    #[expect(clippy::new_without_default, reason = "registers series, which a default should not")]
    pub fn new() -> Self {
        let streams = |state: StreamState| metrics::gauge!(STREAMS, "state" => state.as_str());
        Self {
            memory_held_bytes: metrics::gauge!(MEMORY_BUDGET, "state" => "held"),
            memory_total_bytes: metrics::gauge!(MEMORY_BUDGET, "state" => "total"),
            held_bytes: metrics::gauge!(HELD),
            checkpoint_age_seconds: metrics::gauge!(CHECKPOINT_AGE),
            streams: StreamState::ALL.map(streams),
        }
    }

    /// One worker's container runs in `state` were `before` and are `now`; all workers add up.
    pub fn change_streams(&self, state: StreamState, before: u32, now: u32) {
        self.streams[state as usize].increment(f64::from(now) - f64::from(before));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(record: impl FnOnce()) -> String {
        let recorder = builder().unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            describe();
            record();
        });
        recorder.handle().render()
    }

    #[track_caller]
    fn check(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|one| one == *line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn every_series_begins_at_zero_and_has_a_text() {
        let text = rendered(|| {
            PipelineMetrics::new("flink");
            ReadMetrics::new();
            AgentMetrics::new();
        });
        check(
            &text,
            &[
                "# TYPE splashdam_lines_total counter",
                "splashdam_lines_read_total 0",
                "splashdam_bytes_read_total 0",
                r#"splashdam_lines_total{pipeline="flink",outcome="indexed"} 0"#,
                r#"splashdam_lines_total{pipeline="flink",outcome="refused"} 0"#,
                r#"splashdam_lines_total{pipeline="flink",outcome="filtered"} 0"#,
                r#"splashdam_bytes_behind{pipeline="flink"} 0"#,
                r#"splashdam_oldest_unacknowledged_seconds{pipeline="flink"} 0"#,
                r#"splashdam_memory_budget_bytes{state="held"} 0"#,
                r#"splashdam_memory_budget_bytes{state="total"} 0"#,
                "splashdam_held_bytes 0",
                "splashdam_checkpoint_age_seconds 0",
            ],
        );
        for cause in LossCause::ALL {
            let line = format!("splashdam_bytes_lost_total{{cause=\"{}\"}} 0", cause.as_str());
            check(&text, &[&line]);
        }
        for state in StreamState::ALL {
            check(&text, &[&format!("splashdam_streams{{state=\"{}\"}} 0", state.as_str())]);
        }
        let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        for name in names.filter_map(|rest| rest.split(' ').next()) {
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no text");
        }
    }

    #[test]
    fn what_is_counted_is_shown() {
        let text = rendered(|| {
            let pipeline = PipelineMetrics::new("flink");
            let outcome = Outcome { lines_indexed: 7, lines_refused: 2, ..Outcome::default() };
            pipeline.acknowledged(&outcome, Duration::from_millis(1200));
            count_bulk_request("flink", "ok", Duration::from_millis(20));
            count_bulk_request("flink", "ok", Duration::from_millis(700));
            ReadMetrics::new().lost(LossCause::Held, 5);
            AgentMetrics::new().change_streams(StreamState::Undecided, 0, 3);
        });
        check(
            &text,
            &[
                r#"splashdam_lines_total{pipeline="flink",outcome="indexed"} 7"#,
                r#"splashdam_lines_total{pipeline="flink",outcome="refused"} 2"#,
                r#"splashdam_delivery_latency_seconds_bucket{le="1"} 0"#,
                r#"splashdam_delivery_latency_seconds_bucket{le="1.5"} 1"#,
                "splashdam_delivery_latency_seconds_sum 1.2",
                r#"splashdam_bulk_requests_total{pipeline="flink",result="ok"} 2"#,
                r#"splashdam_bulk_duration_seconds_bucket{le="0.025"} 1"#,
                "splashdam_bulk_duration_seconds_count 2",
                r#"splashdam_bytes_lost_total{cause="held"} 5"#,
                r#"splashdam_streams{state="undecided"} 3"#,
            ],
        );
    }

    #[test]
    fn the_order_of_the_causes_and_states_is_that_of_their_numbers() {
        assert!(LossCause::ALL.iter().enumerate().all(|(n, cause)| *cause as usize == n));
        assert!(StreamState::ALL.iter().enumerate().all(|(n, state)| *state as usize == n));
    }
}
