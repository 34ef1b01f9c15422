//! How an output is doing, for readiness, pages and metrics.
//!
//! Owns the counters of an output and its state; written by the shipper, read by telemetry.
//! Guarantees that names are closed sets, and at most one log line per cause and minute. Holds no
//! secret, no text of a line and no `error.reason`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::response::Cause;
use crate::telemetry::metrics::count_bulk_request;

/// How a bulk request ended; the label `result` of `splashdam_bulk_requests_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkResult {
    /// Every document is safe.
    Ok,
    /// Answered for each item, and some are to be sent again or were refused.
    Partial,
    /// 429.
    TooManyRequests,
    /// 408 or 5xx.
    Unavailable,
    /// 400 for the whole request.
    RefusedWhole,
    /// 413.
    TooLarge,
    /// 401, 403, or credentials that cannot be read.
    Unauthorized,
    /// Any other answer: 3xx, 404, blocks.
    Unexpected,
    NotUnderstood,
    ConnectError,
    Timeout,
    /// The connection ended before the answer did.
    NoAnswer,
}

impl BulkResult {
    const ALL: [Self; 12] = [
        Self::Ok,
        Self::Partial,
        Self::TooManyRequests,
        Self::Unavailable,
        Self::RefusedWhole,
        Self::TooLarge,
        Self::Unauthorized,
        Self::Unexpected,
        Self::NotUnderstood,
        Self::ConnectError,
        Self::Timeout,
        Self::NoAnswer,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Partial => "partial",
            Self::TooManyRequests => "too_many_requests",
            Self::Unavailable => "unavailable",
            Self::RefusedWhole => "refused_whole",
            Self::TooLarge => "too_large",
            Self::Unauthorized => "unauthorized",
            Self::Unexpected => "unexpected",
            Self::NotUnderstood => "not_understood",
            Self::ConnectError => "connect_error",
            Self::Timeout => "timeout",
            Self::NoAnswer => "no_answer",
        }
    }

    /// The result of a request that is sent again as a whole because of `cause`.
    pub(super) fn of(cause: Cause) -> Self {
        match cause {
            Cause::TooManyRequests => Self::TooManyRequests,
            Cause::Unavailable => Self::Unavailable,
            Cause::Connect => Self::ConnectError,
            Cause::Timeout => Self::Timeout,
            Cause::Torn => Self::NoAnswer,
            Cause::NotUnderstood | Cause::AnswerTooLong => Self::NotUnderstood,
            Cause::Unauthorized | Cause::Forbidden | Cause::Credentials => Self::Unauthorized,
            _ => Self::Unexpected,
        }
    }
}

/// What an output does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Healthy,
    /// Sends again by itself until it works.
    Retrying(Cause),
    /// Somebody has to do something; tried again all the same.
    Paused(Cause),
}

impl State {
    /// Every name that [`Self::as_str`] gives.
    pub const NAMES: [&'static str; 3] = ["healthy", "retrying", "paused"];

    /// `healthy`, `retrying` or `paused`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Retrying(_) => "retrying",
            Self::Paused(_) => "paused",
        }
    }

    /// Why it is not healthy.
    pub fn cause(self) -> Option<Cause> {
        match self {
            Self::Healthy => None,
            Self::Retrying(cause) | Self::Paused(cause) => Some(cause),
        }
    }
}

/// The health of one output, shared between its shipper and telemetry.
#[derive(Debug)]
pub struct Health {
    answered: AtomicBool,
    state: Mutex<Changing>,
    requests: [AtomicU64; BulkResult::ALL.len()],
    last_request_ns: AtomicU64,
}

#[derive(Debug)]
struct Changing {
    state: State,
    last_acknowledged: Option<Instant>,
    /// As long as [`Said`] has values.
    said: Vec<(Said, Instant)>,
}

/// What a shipper tells the log about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Trouble(Cause),
    Recovered,
    Refused,
    Dead,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// An output that has not answered yet.
    pub fn new() -> Self {
        let state = Changing { state: State::Healthy, last_acknowledged: None, said: Vec::new() };
        Self {
            answered: AtomicBool::new(false),
            state: Mutex::new(state),
            requests: [const { AtomicU64::new(0) }; BulkResult::ALL.len()],
            last_request_ns: AtomicU64::new(0),
        }
    }

    /// Whether the output has ever answered and let the agent in. Local outputs always have.
    pub fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// What the output does at the moment; with [`State::cause`] why it is not ready.
    pub fn state(&self) -> State {
        self.lock().state
    }

    /// When a batch last became safe.
    pub fn last_acknowledged(&self) -> Option<Instant> {
        self.lock().last_acknowledged
    }

    /// How many bulk requests ended in each way.
    pub fn requests(&self) -> impl Iterator<Item = (BulkResult, u64)> + '_ {
        BulkResult::ALL.into_iter().zip(self.requests.iter().map(|n| n.load(Ordering::Relaxed)))
    }

    /// How long the last bulk request took, answered or not; zero before the first.
    pub fn last_request(&self) -> Duration {
        Duration::from_nanos(self.last_request_ns.load(Ordering::Relaxed))
    }

    pub(super) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    pub(super) fn acknowledged(&self, now: Instant) {
        self.lock().last_acknowledged = Some(now);
    }

    /// Counts one bulk request, here and in the metrics.
    pub(super) fn request(&self, pipeline: &str, result: BulkResult, took: Duration) {
        self.requests[result as usize].fetch_add(1, Ordering::Relaxed);
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.last_request_ns.store(took_ns, Ordering::Relaxed);
        count_bulk_request(pipeline, result.as_str(), took);
    }

    /// The last request went well; the state before it.
    pub(super) fn recovered(&self) -> State {
        std::mem::replace(&mut self.lock().state, State::Healthy)
    }

    /// Something is sent again because of `cause`.
    pub(super) fn troubled(&self, cause: Cause) {
        self.lock().state =
            if cause.pauses() { State::Paused(cause) } else { State::Retrying(cause) };
    }

    /// Whether it is time to say this: once a minute each.
    pub(super) fn may_say(&self, what: Said, now: Instant) -> bool {
        const QUIET: Duration = Duration::from_secs(60);
        let said = &mut self.lock().said;
        match said.iter_mut().find(|(said, _)| *said == what) {
            Some((_, at)) if now.saturating_duration_since(*at) < QUIET => return false,
            Some((_, at)) => *at = now,
            None => said.push((what, now)),
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Changing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_under_their_own_name() {
        let health = Health::new();
        for (times, result) in BulkResult::ALL.into_iter().enumerate() {
            for _ in 0..times {
                health.request("flink", result, Duration::from_millis(5));
            }
        }
        for (times, (result, count)) in health.requests().enumerate() {
            assert_eq!(count, times as u64, "{}", result.as_str());
        }
        assert_eq!(health.last_request(), Duration::from_millis(5));
    }

    #[test]
    fn a_cause_is_said_once_a_minute() {
        let health = Health::new();
        let now = Instant::now();
        let (timeout, closed) = (Said::Trouble(Cause::Timeout), Said::Trouble(Cause::IndexClosed));
        assert!(health.may_say(timeout, now));
        assert!(!health.may_say(timeout, now + Duration::from_secs(59)));
        assert!(health.may_say(closed, now + Duration::from_secs(59)));
        assert!(health.may_say(timeout, now + Duration::from_secs(60)));
    }

    #[test]
    fn the_state_is_that_of_the_last_request() {
        let health = Health::new();
        health.troubled(Cause::IndexClosed);
        assert_eq!(health.state(), State::Paused(Cause::IndexClosed));
        health.troubled(Cause::Timeout);
        assert_eq!(health.recovered(), State::Retrying(Cause::Timeout));
        assert_eq!(health.state(), State::Healthy);
    }
}
