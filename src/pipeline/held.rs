//! How much of the disk deleted files may keep in use because they are not read to their end.
//!
//! Owns the sums of all workers and the decision whose stream gives up its oldest part: the one
//! that holds most. Guarantees that, once every worker has reported, no more than
//! `held.max_bytes` and `held.max_files` are held, and that what is copied at a shutdown is no more
//! than `held.spool`. Closes and counts nothing itself.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::agent::Held as Limits;

/// What one worker's streams hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    pub files: u64,
    pub bytes: u64,
    /// Files of the stream that holds most files.
    pub most_files: u64,
    /// Bytes of the stream that holds most bytes.
    pub most_bytes: u64,
}

/// Which stream has to give up its oldest part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// The one that holds most bytes.
    MostBytes,
    /// The one that holds most files.
    MostFiles,
}

/// What all workers hold.
#[derive(Debug)]
pub struct Held {
    limits: Limits,
    shares: Mutex<Vec<Share>>,
    /// Workers that have nothing in flight while the agent drains.
    settled: Mutex<BTreeSet<usize>>,
    /// Bytes of the copies that are there.
    spooled_bytes: AtomicU64,
}

impl Held {
    /// Nothing is held by any of `workers`; `spooled_bytes` are there from an earlier process.
    pub fn new(limits: Limits, workers: usize, spooled_bytes: u64) -> Self {
        Self {
            limits,
            shares: Mutex::new(vec![Share::default(); workers]),
            settled: Mutex::default(),
            spooled_bytes: AtomicU64::new(spooled_bytes),
        }
    }

    /// Says what `worker` holds; returns what it has to give up of that, before it asks again.
    pub fn report(&self, worker: usize, share: Share) -> Option<GiveUp> {
        let mut shares = self.lock();
        shares[worker] = share;
        give_up(self.limits, &shares, worker)
    }

    /// `worker` has nothing in flight, nor will have; whether that is so of all. Until then it goes on
    /// holding what is deleted: the next agent can't, and nothing that comes after its end is copied.
    pub fn settles(&self, worker: usize) -> bool {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        settled.insert(worker);
        settled.len() == self.lock().len()
    }

    /// Whether `bytes` may be copied beside what is copied already; those that may count from now on.
    pub fn take_spool(&self, bytes: u64) -> bool {
        let limit = self.limits.spool_bytes;
        let take = |there: u64| there.checked_add(bytes).filter(|all| *all <= limit);
        self.spooled_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Copies of `bytes` were removed.
    pub fn give_back_spool(&self, bytes: u64) {
        let give_back = |there: u64| Some(there.saturating_sub(bytes));
        let given =
            self.spooled_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, give_back);
        debug_assert!(given.is_ok(), "it refuses nothing");
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Share>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the first worker with the stream that holds most is `worker`, and there is too much.
fn give_up(limits: Limits, shares: &[Share], worker: usize) -> Option<GiveUp> {
    let holds_most = |most: fn(&Share) -> u64| {
        let largest = shares.iter().map(most).max();
        shares.iter().position(|share| Some(most(share)) == largest) == Some(worker)
    };
    let bytes: u64 = shares.iter().map(|share| share.bytes).sum();
    let files: u64 = shares.iter().map(|share| share.files).sum();
    if bytes > limits.max_bytes && holds_most(|share| share.most_bytes) {
        return Some(GiveUp::MostBytes);
    }
    (files > limits.max_files && holds_most(|share| share.most_files)).then_some(GiveUp::MostFiles)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { max_bytes: 100, max_files: 10, spool_bytes: 50 };

    #[test]
    fn workers_end_together_once_all_have_nothing_in_flight() {
        let held = Held::new(LIMITS, 3, 0);
        assert!(!held.settles(1) && !held.settles(0) && !held.settles(1));
        assert!(held.settles(2) && held.settles(1) && held.settles(0));
    }

    #[test]
    fn no_more_is_copied_than_fits() {
        let held = Held::new(LIMITS, 1, 20);
        assert!(held.take_spool(20));
        assert!(!held.take_spool(11), "10 are left");
        assert!(held.take_spool(10));
        held.give_back_spool(20);
        assert!(held.take_spool(20), "what an earlier process copied was removed");
        assert!(!Held::new(LIMITS, 1, 60).take_spool(1), "the limit is lower than it was");
    }

    proptest! {
        /// However much each stream holds: the largest give up parts until it fits, and no further.
        #[test]
        fn the_largest_streams_give_up_until_it_fits(
            mut streams in prop::collection::vec(prop::collection::vec(prop::collection::vec(1_u64..60, 0..5), 0..4), 1..4),
        ) {
            let held = Held::new(LIMITS, streams.len(), 0);
            let share = |streams: &[Vec<u64>]| Share {
                files: streams.iter().map(|parts| parts.len() as u64).sum(),
                bytes: streams.iter().flatten().sum(),
                most_files: streams.iter().map(|parts| parts.len() as u64).max().unwrap_or(0),
                most_bytes: streams.iter().map(|parts| parts.iter().sum()).max().unwrap_or(0),
            };
            let sums = |streams: &[Vec<Vec<u64>>]| {
                let all = streams.iter().map(|worker| share(worker));
                all.fold((0, 0), |(files, bytes), one| (files + one.files, bytes + one.bytes))
            };
            let fits = |(files, bytes): (u64, u64)| files <= 10 && bytes <= 100;
            for (worker, streams) in streams.iter().enumerate() {
                held.report(worker, share(streams));
            }
            for _ in 0..200 {
                for worker in 0..streams.len() {
                    while let Some(what) = held.report(worker, share(&streams[worker])) {
                        prop_assert!(!fits(sums(&streams)), "nothing had to be given up");
                        let stream = streams[worker].iter_mut().max_by_key(|parts| match what {
                            GiveUp::MostBytes => parts.iter().sum::<u64>(),
                            GiveUp::MostFiles => parts.len() as u64,
                        });
                        stream.expect("it holds something").remove(0);
                    }
                }
            }
            prop_assert!(fits(sums(&streams)));
        }
    }
}
