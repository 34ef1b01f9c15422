//! When an output counts as dead.
//!
//! Owns since when an output has been waited for. What it is given is answered at some time, or it
//! has acknowledged nothing for [`PATIENCE`]: then all but one batch is let go of, so that its
//! share of the budget is free for others, and read again when it is back. Guarantees that an
//! output without work never counts as dead.

use std::time::Duration;

use tokio::time::Instant;

use super::clock::Clock;

/// For how long an output may acknowledge nothing of what it was given.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until patience `ends`. Cancel safe.
pub(super) async fn impatient(clock: &Clock, ends: Option<Instant>) {
    match ends {
        Some(end) => clock.reach(end).await,
        None => std::future::pending().await,
    }
}

/// Watches one output.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// When it was given something or acknowledged something last, while there is something.
    waiting_since: Option<Instant>,
    dead: bool,
}

impl Patience {
    /// It was given a batch.
    pub(super) fn given(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    /// It acknowledged a batch, and has others or not. Whether it was dead until now.
    pub(super) fn acknowledged(&mut self, now: Instant, has_others: bool) -> bool {
        self.waiting_since = has_others.then_some(now);
        std::mem::take(&mut self.dead)
    }

    /// It has nothing any more.
    pub(super) fn idle(&mut self) {
        self.waiting_since = None;
    }

    /// When it is dead unless it acknowledges something; `None` while it need not, or is.
    pub(super) fn ends(&self) -> Option<Instant> {
        self.waiting_since.map(|since| since + PATIENCE).filter(|_| !self.dead)
    }

    /// The time of [`Self::ends`] has come.
    pub(super) fn ended(&mut self) {
        self.dead = true;
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_dead_when_it_acknowledges_nothing_of_what_it_has() {
        let now = Instant::now();
        let mut patience = Patience::default();
        assert_eq!(patience.ends(), None, "it has nothing");
        patience.given(now);
        patience.given(now + PATIENCE / 2);
        assert_eq!(patience.ends(), Some(now + PATIENCE));
        assert!(!patience.acknowledged(now + PATIENCE / 2, true));
        assert_eq!(patience.ends(), Some(now + PATIENCE / 2 + PATIENCE));
        patience.ended();
        assert!(patience.is_dead());
        assert_eq!(patience.ends(), None);
        assert!(patience.acknowledged(now + PATIENCE * 9, false));
        assert!(!patience.is_dead());
        assert_eq!(patience.ends(), None, "it has nothing");
    }
}
