//! When to send again, how much at once, and to which host: decisions only.
//!
//! Owns the back-off of a delivery ([`Backoff`]), the number of requests in flight
//! ([`Concurrency`]), the choice of a host ([`Hosts`]) and since when an index has been closed
//! ([`ClosedIndexes`]). Everything is given, `now` and seeds included; nothing here waits or
//! sends. Limits: a wait is between 0.5 s and 30 s unless the server asks for more.

use std::collections::HashMap;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

/// The waits of one delivery: exponential from 0.5 s, at most 30 s, as much again as half of it
/// by chance.
#[derive(Debug)]
pub(super) struct Backoff {
    waits: ExponentialBackoff,
    seed: u64,
}

impl Backoff {
    /// Half of the longest wait: the jitter adds up to as much again.
    const MAX: Duration = Duration::from_secs(15);
    const MIN: Duration = Duration::from_millis(500);

    pub(super) fn new(seed: u64) -> Self {
        Self { waits: Self::waits(seed), seed }
    }

    fn waits(seed: u64) -> ExponentialBackoff {
        ExponentialBuilder::new()
            .with_min_delay(Self::MIN)
            .with_max_delay(Self::MAX)
            .with_factor(2.0)
            .without_max_times()
            .with_jitter()
            .with_jitter_seed(seed)
            .build()
    }

    /// How long to wait now, at least `floor`.
    pub(super) fn next_wait(&mut self, floor: Option<Duration>) -> Duration {
        let wait = self.waits.next().unwrap_or(Self::MAX);
        wait.max(floor.unwrap_or_default())
    }

    /// Something went well: the next wait is a short one.
    pub(super) fn reset(&mut self) {
        // Another seed, so that outputs that fail together do not stay together.
        self.seed = self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
        self.waits = Self::waits(self.seed);
    }
}

/// How many requests may be in flight: one at first and after trouble, two after a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Concurrency(usize);

impl Concurrency {
    const MAX: usize = 2;

    pub(super) fn new() -> Self {
        Self(1)
    }

    pub(super) fn limit(self) -> usize {
        self.0
    }

    pub(super) fn succeeded(&mut self) {
        self.0 = (self.0 + 1).min(Self::MAX);
    }

    pub(super) fn troubled(&mut self) {
        self.0 = 1;
    }
}

/// Which host is asked next: one after the other, those that failed left out for a while.
#[derive(Debug)]
pub(super) struct Hosts {
    states: Vec<HostState>,
    next: usize,
}

#[derive(Debug, Default, Clone, Copy)]
struct HostState {
    failures: u32,
    left_out_until: Option<Instant>,
    /// Requests that it has not answered yet.
    asked: usize,
}

impl Hosts {
    /// The longest time that a host is left out.
    pub(super) const MAX_LEFT_OUT: Duration = Duration::from_secs(60);

    /// `count` hosts, at least one; `start` chooses the first, so that agents spread.
    pub(super) fn new(count: usize, start: u64) -> Self {
        let count = count.max(1);
        let next = usize::try_from(start % count as u64).unwrap_or(0);
        Self { states: vec![HostState::default(); count], next }
    }

    /// The next host that is not left out, of those the one that is asked for least: one that hangs
    /// has no more than one request while another answers. If all are left out, the one whose time
    /// ends first. It is asked until [`Self::ended`].
    pub(super) fn choose(&mut self, now: Instant) -> usize {
        let count = self.states.len();
        let in_turn = (0..count).map(|step| (self.next + step) % count);
        let live = in_turn.clone().filter(|host| self.is_live(*host, now));
        let chosen = (live.min_by_key(|host| self.states[*host].asked))
            .or_else(|| in_turn.min_by_key(|host| self.states[*host].left_out_until))
            .unwrap_or(0);
        self.next = (chosen + 1) % count;
        self.states[chosen].asked += 1;
        chosen
    }

    /// A request to `host` is over, however it went.
    pub(super) fn ended(&mut self, host: usize) {
        self.states[host].asked = self.states[host].asked.saturating_sub(1);
    }

    pub(super) fn answered(&mut self, host: usize) {
        let asked = self.states[host].asked;
        self.states[host] = HostState { asked, ..HostState::default() };
    }

    /// Leaves `host` out for 1 s, doubled with every failure in a row.
    pub(super) fn failed(&mut self, host: usize, now: Instant) {
        let state = &mut self.states[host];
        let wait = Duration::from_secs(1 << state.failures.min(6)).min(Self::MAX_LEFT_OUT);
        state.failures = state.failures.saturating_add(1);
        state.left_out_until = Some(now + wait);
    }

    /// Whether some host is not left out.
    pub(super) fn any_live(&self, now: Instant) -> bool {
        (0..self.states.len()).any(|host| self.is_live(host, now))
    }

    fn is_live(&self, host: usize, now: Instant) -> bool {
        self.states[host].left_out_until.is_none_or(|until| until <= now)
    }
}

/// Since when each index has answered that it is closed or frozen.
#[derive(Debug, Default)]
pub(super) struct ClosedIndexes {
    seen: HashMap<String, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    first: Instant,
    last: Instant,
}

impl ClosedIndexes {
    /// More are forgotten, oldest first, and start to wait anew.
    const MAX: usize = 256;

    /// Notes that `index` is closed at `now`; whether it has been for `refused_after`. An index
    /// that has not been seen closed for that long starts anew.
    pub(super) fn is_refused(
        &mut self,
        index: &str,
        now: Instant,
        refused_after: Duration,
    ) -> bool {
        self.seen.retain(|_, seen| now.saturating_duration_since(seen.last) <= refused_after);
        if let Some(seen) = self.seen.get_mut(index) {
            seen.last = now;
            return now.saturating_duration_since(seen.first) >= refused_after;
        }
        if self.seen.len() >= Self::MAX {
            let oldest = self.seen.iter().min_by_key(|(_, seen)| seen.last);
            if let Some(oldest) = oldest.map(|(index, _)| index.clone()) {
                self.seen.remove(&oldest);
            }
        }
        self.seen.insert(index.to_owned(), Seen { first: now, last: now });
        refused_after.is_zero()
    }

    /// Documents were indexed into `index`: it is open.
    pub(super) fn opened(&mut self, index: &str) {
        self.seen.remove(index);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn waits_grow_to_half_a_minute_and_shrink_after_a_success() {
        let mut backoff = Backoff::new(7);
        let waits: Vec<Duration> = (0..12).map(|_| backoff.next_wait(None)).collect();
        assert!(waits[0] < Duration::from_secs(1));
        assert!(waits[11] >= Duration::from_secs(15));
        backoff.reset();
        assert!(backoff.next_wait(None) < Duration::from_secs(1));
        assert!(backoff.next_wait(Some(HOUR)) == HOUR);
    }

    /// Asks the next host, which answers at once.
    fn ask(hosts: &mut Hosts, now: Instant) -> usize {
        let host = hosts.choose(now);
        hosts.ended(host);
        host
    }

    #[test]
    fn a_host_that_failed_is_left_out_and_comes_back() {
        let now = Instant::now();
        let mut hosts = Hosts::new(3, 4);
        assert_eq!([ask(&mut hosts, now), ask(&mut hosts, now), ask(&mut hosts, now)], [1, 2, 0]);
        hosts.failed(1, now);
        assert_eq!([ask(&mut hosts, now), ask(&mut hosts, now), ask(&mut hosts, now)], [2, 0, 2]);
        hosts.failed(2, now + Duration::from_millis(1));
        hosts.failed(0, now + Duration::from_millis(2));
        assert!(!hosts.any_live(now));
        assert_eq!(ask(&mut hosts, now), 1, "the first whose time ends");
        let later = now + Duration::from_secs(2);
        assert!(hosts.any_live(later));
        hosts.failed(1, later);
        assert!(!hosts.is_live(1, later + Duration::from_secs(1)), "twice in a row is longer");
        hosts.answered(1);
        assert!(hosts.is_live(1, later));
    }

    #[test]
    fn a_host_that_hangs_is_asked_no_more_while_another_answers() {
        let now = Instant::now();
        let mut hosts = Hosts::new(3, 0);
        assert_eq!(hosts.choose(now), 0);
        for _ in 0..5 {
            assert_eq!([ask(&mut hosts, now), ask(&mut hosts, now)], [1, 2]);
        }
        hosts.answered(0);
        assert_eq!(ask(&mut hosts, now), 1, "of another request");
        hosts.ended(0);
        assert_eq!([ask(&mut hosts, now), ask(&mut hosts, now)], [2, 0]);
        hosts.failed(1, now);
        hosts.failed(2, now);
        assert_eq!([hosts.choose(now), hosts.choose(now)], [0, 0], "there is no other");
    }

    #[test]
    fn an_index_counts_as_refused_once_it_has_been_closed_for_long() {
        let now = Instant::now();
        let mut closed = ClosedIndexes::default();
        assert!(!closed.is_refused("a", now, HOUR));
        assert!(!closed.is_refused("a", now + HOUR / 2, HOUR));
        assert!(closed.is_refused("a", now + HOUR, HOUR));
        assert!(!closed.is_refused("b", now + HOUR, HOUR));
        assert!(closed.is_refused("a", now + HOUR * 2, HOUR), "still closed");
        assert!(!closed.is_refused("a", now + HOUR * 4, HOUR), "not seen closed for long");
        closed.opened("b");
        assert!(closed.seen.len() == 1);
        for other in 0..2 * ClosedIndexes::MAX {
            assert!(!closed.is_refused(&other.to_string(), now + HOUR * 4, HOUR));
        }
        assert_eq!(closed.seen.len(), ClosedIndexes::MAX);
    }

    proptest! {
        #[test]
        fn waits_are_bounded_and_never_short(seed: u64, count in 1usize..50, floor in 0u64..100) {
            let mut backoff = Backoff::new(seed);
            let floor = Duration::from_secs(floor);
            for _ in 0..count {
                let wait = backoff.next_wait(Some(floor));
                prop_assert!(wait >= floor.max(Backoff::MIN));
                prop_assert!(wait <= floor.max(Duration::from_secs(30)));
            }
        }

        #[test]
        fn concurrency_is_one_or_two_and_one_after_trouble(events: Vec<bool>) {
            let mut concurrency = Concurrency::new();
            for good in events {
                if good { concurrency.succeeded() } else { concurrency.troubled() }
                prop_assert_eq!(concurrency.limit(), if good { 2 } else { 1 });
            }
        }

        #[test]
        fn a_live_host_is_always_preferred(
            count in 1usize..5,
            start: u64,
            events in prop::collection::vec((0usize..5, any::<bool>(), 0u64..100), 0..40),
        ) {
            let mut now = Instant::now();
            let mut hosts = Hosts::new(count, start);
            for (host, good, seconds) in events {
                let host = host % count;
                if good { hosts.answered(host) } else { hosts.failed(host, now) }
                now += Duration::from_secs(seconds);
                let any_live = hosts.any_live(now);
                let chosen = ask(&mut hosts, now);
                prop_assert!(chosen < count);
                prop_assert_eq!(hosts.is_live(chosen, now), any_live);
            }
            prop_assert!(hosts.any_live(now + Hosts::MAX_LEFT_OUT));
        }
    }
}
