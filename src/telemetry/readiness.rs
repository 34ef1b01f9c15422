//! Whether the agent is ready and alive, as the kubelet's probes ask.
//!
//! Ready: every condition that was named holds. Alive: every worker has ticked lately. Workers
//! tick once per round of their loop, never per line. Texts are fixed and tell no secrets.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Something that must hold before the agent counts as ready.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// This agent holds the lock on the state directory.
    StateLock,
    /// The log root was read at least once, and the last time it was tried.
    LogRoot,
    /// The pods of this node are known.
    Pods,
    /// The output of the pipeline with this name has answered.
    Output(String),
}

/// Shared between those who know and those who ask.
#[derive(Debug)]
pub struct Readiness {
    conditions: Mutex<BTreeMap<Condition, bool>>,
    started: Instant,
    /// For each worker the milliseconds from `started` to its last tick.
    ticks_ms: Vec<AtomicU64>,
    silence_max: Duration,
}

impl Readiness {
    /// Waits for `conditions`, none of which holds yet. Each of `workers` must tick once in
    /// `silence_max`, counted from now.
    pub fn new(
        conditions: impl IntoIterator<Item = Condition>,
        workers: usize,
        silence_max: Duration,
    ) -> Self {
        Self {
            conditions: Mutex::new(conditions.into_iter().map(|one| (one, false)).collect()),
            started: Instant::now(),
            ticks_ms: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            silence_max,
        }
    }

    /// Says whether `condition` holds; from now on it is waited for.
    pub fn set(&self, condition: Condition, holds: bool) {
        self.lock().insert(condition, holds);
    }

    /// No longer waits for `condition`, whose pipeline has gone.
    pub fn forget(&self, condition: &Condition) {
        self.lock().remove(condition);
    }

    /// The conditions that do not hold; ready if there are none.
    pub fn unmet(&self) -> Vec<Condition> {
        let conditions = self.lock();
        conditions.iter().filter(|(_, holds)| !**holds).map(|(one, _)| one.clone()).collect()
    }

    /// Says that the worker with this index is not stuck. One that was not announced is ignored.
    pub fn tick(&self, worker: usize) {
        self.tick_at(worker, self.started.elapsed());
    }

    /// The workers that have not ticked for too long; alive if there are none.
    pub fn stuck(&self) -> Vec<usize> {
        self.stuck_at(self.started.elapsed())
    }

    fn tick_at(&self, worker: usize, since_start: Duration) {
        if let Some(tick_ms) = self.ticks_ms.get(worker) {
            tick_ms.store(milliseconds(since_start), Ordering::Relaxed);
        }
    }

    fn stuck_at(&self, since_start: Duration) -> Vec<usize> {
        let now_ms = milliseconds(since_start);
        let silence_max_ms = milliseconds(self.silence_max);
        let silent = |tick_ms: &AtomicU64| {
            now_ms.saturating_sub(tick_ms.load(Ordering::Relaxed)) > silence_max_ms
        };
        (0..self.ticks_ms.len()).filter(|worker| silent(&self.ticks_ms[*worker])).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Condition, bool>> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Says what is missing.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StateLock => f.write_str("state lock: held by another agent"),
            Self::LogRoot => f.write_str("log root: not read"),
            Self::Pods => f.write_str("pods: not in sync"),
            Self::Output(pipeline) => {
                write!(f, "output of {}: no answer", pipeline.escape_debug())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(10);

    #[test]
    fn ready_is_when_every_condition_holds() {
        let output = || Condition::Output("flink".into());
        let readiness = Readiness::new([Condition::Pods, Condition::LogRoot], 0, MAX);
        assert_eq!(readiness.unmet(), [Condition::LogRoot, Condition::Pods]);
        readiness.set(Condition::LogRoot, true);
        readiness.set(Condition::Pods, true);
        assert_eq!(readiness.unmet(), []);
        readiness.set(output(), false);
        readiness.set(Condition::Pods, false);
        assert_eq!(readiness.unmet(), [Condition::Pods, output()]);
        readiness.forget(&output());
        readiness.set(Condition::Pods, true);
        assert_eq!(readiness.unmet(), []);
    }

    #[test]
    fn a_worker_that_does_not_tick_is_stuck() {
        let readiness = Readiness::new([], 2, MAX);
        assert_eq!(readiness.stuck_at(MAX), [0; 0]);
        readiness.tick_at(1, Duration::from_secs(5));
        readiness.tick_at(2, Duration::from_secs(5));
        let later = MAX + Duration::from_millis(1);
        assert_eq!(readiness.stuck_at(later), [0]);
        assert_eq!(readiness.stuck_at(later + Duration::from_secs(5)), [0, 1]);
        readiness.tick_at(0, later);
        assert_eq!(readiness.stuck_at(later), [0; 0]);
    }
}
