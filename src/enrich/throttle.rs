//! Lets a repeated message through once a minute.
//!
//! Pure: the caller brings the time. One value per cause; what is held back is not counted.

use std::time::{Duration, Instant};

/// The least time between two messages of one cause.
const INTERVAL: Duration = Duration::from_secs(60);

/// When a message was last let through.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    last: Option<Instant>,
}

impl Throttle {
    /// Whether the message may be said at `now`, which is then remembered.
    pub(super) fn lets_through(&mut self, now: Instant) -> bool {
        let due = self.last.is_none_or(|last| now.duration_since(last) >= INTERVAL);
        if due {
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_a_minute() {
        let start = Instant::now();
        let mut throttle = Throttle::default();
        assert!(throttle.lets_through(start));
        assert!(!throttle.lets_through(start + Duration::from_secs(59)));
        assert!(throttle.lets_through(start + Duration::from_secs(60)));
        assert!(!throttle.lets_through(start + Duration::from_secs(119)));
        assert!(throttle.lets_through(start + Duration::from_secs(300)));
    }
}
