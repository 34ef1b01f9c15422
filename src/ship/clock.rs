//! Time as the shipper sees it: the system's, or in tests one that never really waits.
//!
//! Owns every wait of this folder apart from the time limits of a request, which the HTTP client
//! keeps in real time.

use std::time::Duration;

use tokio::time::Instant;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(super) enum Clock {
    System,
    #[cfg(test)]
    Virtual(std::sync::Arc<VirtualClock>),
}

impl Clock {
    pub(super) fn now(&self) -> Instant {
        match self {
            Self::System => Instant::now(),
            #[cfg(test)]
            Self::Virtual(clock) => clock.now(),
        }
    }

    /// Waits until it is `time`, without moving a clock that others move. Cancel safe.
    pub(super) async fn reach(&self, time: Instant) {
        match self {
            Self::System => tokio::time::sleep_until(time).await,
            #[cfg(test)]
            Self::Virtual(clock) => clock.reach(time).await,
        }
    }

    /// Waits for `wait`. Cancel safe.
    pub(super) async fn sleep(&self, wait: Duration) {
        match self {
            Self::System => tokio::time::sleep(wait).await,
            #[cfg(test)]
            Self::Virtual(clock) => clock.sleep(wait).await,
        }
    }
}

/// A clock that a wait moves on at once.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct VirtualClock {
    start: Instant,
    waits: std::sync::Mutex<Vec<Duration>>,
    moved: tokio::sync::Notify,
}

#[cfg(test)]
impl VirtualClock {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            waits: std::sync::Mutex::default(),
            moved: tokio::sync::Notify::new(),
        }
    }

    /// Every wait so far, in the order in which they began.
    pub(super) fn waits(&self) -> Vec<Duration> {
        self.waits.lock().expect("no test panics with the lock held").clone()
    }

    fn now(&self) -> Instant {
        self.start + self.waits().iter().sum::<Duration>()
    }

    async fn sleep(&self, wait: Duration) {
        self.waits.lock().expect("no test panics with the lock held").push(wait);
        self.moved.notify_waiters();
        tokio::task::yield_now().await;
    }

    /// Waits until other waits have moved the clock on to `time`.
    async fn reach(&self, time: Instant) {
        let mut moved = std::pin::pin!(self.moved.notified());
        loop {
            moved.as_mut().enable();
            if self.now() >= time {
                return;
            }
            moved.as_mut().await;
            moved.set(self.moved.notified());
        }
    }
}
