//! Filters that let a share of the documents through: `sample` and `throttle`.
//!
//! **Sample** keeps a document if a hash of its `_id` falls into the share. The same document
//! is decided the same way again, whenever and wherever it is read. A second `sample` in a
//! pipeline decides independently of the first.
//!
//! **Throttle** counts the documents of each value of a field in windows of runtime time
//! (`per` long, beginning at multiples of `per` since the epoch) and lets the first `lines` of a
//! window through. A document counts in the window of its own time, however late it comes, so
//! reading a backlog lets exactly as much through as reading it live. A document without the
//! field is not counted and passes.
//!
//! Limits: [`COUNTS_MAX`] counts of about 40 bytes each. Beyond that those of the oldest window
//! are forgotten first; forgetting, like a restart, lets more through, never less. Each worker
//! counts for itself.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Pairs of window and value that a throttle counts at the same time.
pub const COUNTS_MAX: usize = 10_000;

/// Decides by the `_id`.
#[derive(Debug)]
pub(super) struct Sample {
    keep: u64,
    of: u64,
    /// The place among the pipeline's `sample` filters.
    seed: u64,
}

impl Sample {
    pub(super) fn new(keep: u64, of: u64, seed: u64) -> Self {
        Self { keep, of, seed }
    }

    pub(super) fn keeps(&self, id: &[u8]) -> bool {
        // The hash as a fraction of 2^64, times `of`: no bias, and no division by zero.
        let scaled = (u128::from(hash(id, self.seed)) * u128::from(self.of)) >> 64;
        scaled < u128::from(self.keep)
    }
}

/// FNV-1a with 64 bits, then the finalizer of `MurmurHash3`, which spreads the last bytes over all
/// bits. Fixed: another hash would decide otherwise about documents that are read again.
fn hash(id: &[u8], seed: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ seed;
    for byte in id {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// Counts documents per value and window of runtime time.
#[derive(Debug)]
pub(super) struct Throttle {
    lines: u64,
    per_ns: i64,
    /// By window and hash of the value, so that the oldest window comes first.
    counts: BTreeMap<(i64, u64), u64>,
    /// Keyed at random: nobody can choose values that share a count.
    hasher: RandomState,
}

impl Throttle {
    pub(super) fn new(lines: u64, per: Duration) -> Self {
        let per_ns = i64::try_from(per.as_nanos()).unwrap_or(i64::MAX).max(1);
        Self { lines, per_ns, counts: BTreeMap::new(), hasher: RandomState::new() }
    }

    /// Counts anew.
    pub(super) fn forget(&mut self) {
        self.counts.clear();
    }

    /// Counts a document with this `value` at `time_ns`; whether it passes.
    pub(super) fn allows(&mut self, value: &str, time_ns: i64) -> bool {
        let window = time_ns.div_euclid(self.per_ns);
        let count = self.counts.entry((window, self.hasher.hash_one(value))).or_insert(0);
        *count = count.saturating_add(1);
        let allowed = *count <= self.lines;
        if self.counts.len() > COUNTS_MAX {
            self.counts.pop_first();
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_sample_of_an_id_never_changes() {
        let id = b"186f1d2c3b4a5968778695a4b3c2d1e0f1a2b3c4";
        assert_eq!(hash(id, 0), 0x28b5_e882_d0d5_1f28);
        assert_ne!(hash(id, 0), hash(id, 1));
    }

    #[test]
    fn a_sample_keeps_its_share() {
        let kept = |keep, of, seed| {
            let sample = Sample::new(keep, of, seed);
            (0..20_000).filter(|n| sample.keeps(format!("{n:040x}").as_bytes())).count()
        };
        assert!((4_700..5_300).contains(&kept(1, 4, 0)));
        assert!((170..230).contains(&kept(1, 100, 1)));
        assert_eq!((kept(0, 4, 0), kept(4, 4, 0), kept(1, 0, 0)), (0, 20_000, 20_000));
    }

    #[test]
    fn a_window_lets_its_first_lines_through_however_late_they_come() {
        let mut throttle = Throttle::new(2, SECOND);
        let times = [0, 999_999_999, 5, 1_000_000_000, 7, -1, -2, -3];
        let passed = times.map(|time_ns| throttle.allows("pod", time_ns));
        assert_eq!(passed, [true, true, false, true, false, true, true, false]);
        assert!(throttle.allows("other", 0));
    }

    #[test]
    fn the_oldest_window_is_forgotten_first_and_only_lets_more_through() {
        let mut throttle = Throttle::new(1, SECOND);
        assert!(throttle.allows("old", 0));
        for n in 1..=10_000 {
            assert!(throttle.allows("new", n * 1_000_000_000));
        }
        assert_eq!(throttle.counts.len(), COUNTS_MAX);
        assert!(!throttle.allows("new", 1_000_000_000), "still counted");
        assert!(throttle.allows("old", 0), "forgotten");
        assert_eq!(throttle.counts.len(), COUNTS_MAX);
    }

    proptest! {
        #[test]
        fn a_backlog_passes_as_it_would_have_live(
            documents in vec((0..3_u8, 0..5_000_000_000_i64), 0..200),
            lines in 0..5_u64,
        ) {
            // Live: in order of time. Backlog: one value after the other, as files are read.
            let count = |documents: &[(u8, i64)]| {
                let mut throttle = Throttle::new(lines, SECOND);
                let mut passed = HashMap::<(u8, i64), u64>::new();
                for (value, time) in documents {
                    if throttle.allows(&value.to_string(), *time) {
                        *passed.entry((*value, time / 1_000_000_000)).or_default() += 1;
                    }
                }
                passed
            };
            let mut live = documents.clone();
            live.sort_by_key(|(_, time)| *time);
            let mut backlog = documents;
            backlog.sort();
            let live = count(&live);
            prop_assert!(live.values().all(|passed| *passed <= lines));
            prop_assert_eq!(live, count(&backlog));
        }
    }
}
