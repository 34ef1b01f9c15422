//! Time as a worker sees it: the system's, or in a simulation that of a paused runtime.
//!
//! Owns every look at a clock by which a worker decides something. Does not wait.

use std::time::{Instant, SystemTime};

/// What instants are measured by.
pub(super) fn now() -> Instant {
    #[cfg(test)]
    if simulated::start().is_some() {
        return tokio::time::Instant::now().into_std();
    }
    Instant::now()
}

/// The wall clock, nanoseconds since the epoch.
pub(super) fn wall_ns() -> i64 {
    #[cfg(test)]
    if let Some((start, wall_ns)) = simulated::start() {
        let since = tokio::time::Instant::now().saturating_duration_since(start);
        return wall_ns + i64::try_from(since.as_nanos()).expect("less than 292 years");
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A clock for this thread alone.
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::Cell;

    use tokio::time::Instant;

    thread_local! {
        static START: Cell<Option<(Instant, i64)>> = const { Cell::new(None) };
    }

    pub(super) fn start() -> Option<(Instant, i64)> {
        START.get()
    }

    /// From now on this thread's clock is that of its paused runtime, and it is `wall_ns`.
    pub(crate) fn begin(wall_ns: i64) {
        START.set(Some((Instant::now(), wall_ns)));
    }

    /// The system's clock again.
    pub(crate) fn end() {
        START.set(None);
    }

    /// The wall clock, nanoseconds since the epoch.
    pub(crate) fn wall_ns() -> i64 {
        super::wall_ns()
    }
}
