//! At most one log line per cause and minute.
//!
//! Owns when a cause was last told and how often it came since. The causes kept are bounded:
//! beyond [`CAUSES_MAX`] within one minute, all new ones count as one cause together.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a cause stays quiet once it was told.
pub const QUIET: Duration = Duration::from_secs(60);

/// Causes that are told apart within [`QUIET`].
pub const CAUSES_MAX: usize = 1024;

/// The cause that stands for all beyond [`CAUSES_MAX`].
const OTHERS: &str = "";

/// Process-wide, as the log itself is.
static CAUSES: Mutex<Option<Causes>> = Mutex::new(None);

/// Whether to log a line for `cause` now, and if so how many were held back since the last.
///
/// ```
/// if let Some(suppressed) = splashdam::telemetry::throttle::allow("rescan failed") {
///     tracing::warn!(suppressed, "cannot read the log root");
/// }
/// ```
pub fn allow(cause: &str) -> Option<u64> {
    let mut causes = CAUSES.lock().unwrap_or_else(PoisonError::into_inner);
    causes.get_or_insert_default().allow(cause, Instant::now())
}

/// The decision, without a clock.
#[derive(Debug, Default)]
struct Causes {
    told: HashMap<String, Told>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    suppressed: u64,
}

impl Causes {
    fn allow(&mut self, cause: &str, now: Instant) -> Option<u64> {
        let mut cause = cause;
        if !self.told.contains_key(cause) && self.told.len() >= CAUSES_MAX {
            self.told.retain(|_, told| now.duration_since(told.at) < QUIET);
            if self.told.len() >= CAUSES_MAX {
                cause = OTHERS;
            }
        }
        let Some(told) = self.told.get_mut(cause) else {
            self.told.insert(cause.to_owned(), Told { at: now, suppressed: 0 });
            return Some(0);
        };
        if now.duration_since(told.at) < QUIET {
            told.suppressed += 1;
            return None;
        }
        told.at = now;
        Some(std::mem::take(&mut told.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once_a_minute_with_what_was_held_back() {
        let mut causes = Causes::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(causes.allow("a", at(0)), Some(0));
        assert_eq!(causes.allow("a", at(1)), None);
        assert_eq!(causes.allow("b", at(1)), Some(0));
        assert_eq!(causes.allow("a", at(59)), None);
        assert_eq!(causes.allow("a", at(60)), Some(2));
        assert_eq!(causes.allow("a", at(61)), None);
        assert_eq!(causes.allow("a", at(120)), Some(1));
    }

    #[test]
    fn too_many_causes_share_one_line() {
        let mut causes = Causes::default();
        let start = Instant::now();
        for n in 0..CAUSES_MAX {
            assert_eq!(causes.allow(&format!("cause {n}"), start), Some(0));
        }
        assert_eq!(causes.allow("one more", start), Some(0));
        assert_eq!(causes.allow("and another", start), None);
        assert_eq!(causes.allow("cause 7", start), None, "still known");
        assert!(causes.told.len() <= CAUSES_MAX + 1);
        assert_eq!(causes.allow("one more", start + QUIET), Some(0), "the old are forgotten");
        assert_eq!(causes.told.len(), 1);
    }

    #[test]
    fn the_process_has_one_memory() {
        assert_eq!(allow("telemetry::throttle::tests"), Some(0));
        assert_eq!(allow("telemetry::throttle::tests"), None);
    }
}
