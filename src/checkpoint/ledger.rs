//! The acknowledged prefix of one reader.
//!
//! A reader's records go into batches in order, so for each batch it is enough to remember how
//! far stdout and stderr had come when the batch was sealed. Batches may be acknowledged in any
//! order; the prefix moves only over those before which nothing is missing. What an output has
//! forgotten is dropped with all that follows it, to be read again. Pure. There are as many ranges
//! as batches of one pipeline may be in flight.

use std::collections::VecDeque;

use crate::tail::Position;

/// How far stdout and stderr have come.
pub type Reached = [Position; 2];

/// How far a reader has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Up to where each lane's lines are in records that have ended.
    pub reached: Reached,
    /// Up to where raw bytes were gone through.
    pub read_to: Position,
}

impl Progress {
    /// Nothing was read since everything before `reached` became safe.
    pub fn resumed(reached: Reached) -> Self {
        Self { reached, read_to: reached[0].min(reached[1]) }
    }
}

#[derive(Debug)]
struct Range {
    batch: u64,
    progress: Progress,
    /// Raw bytes that were gone through since the range before.
    bytes: u64,
    acknowledged: bool,
}

/// The ranges of one reader that are not acknowledged yet.
#[derive(Debug)]
pub struct Ledger {
    acknowledged: Progress,
    acknowledged_bytes: u64,
    ranges: VecDeque<Range>,
}

impl Ledger {
    /// Everything before `acknowledged` is safe.
    pub fn new(acknowledged: Reached) -> Self {
        Self {
            acknowledged: Progress::resumed(acknowledged),
            acknowledged_bytes: 0,
            ranges: VecDeque::new(),
        }
    }

    /// Batch `batch` carries what came after the previous range, `bytes` of it, up to `progress`.
    ///
    /// Refuses, and returns `false`, when the batch does not follow the previous one or when a
    /// position would go back: such a range would leave a gap or an overlap.
    pub fn push(&mut self, batch: u64, progress: Progress, bytes: u64) -> bool {
        let last = self.ranges.back();
        let follows = last.is_none_or(|last| last.batch < batch);
        let before = self.last().reached;
        let advances = progress.reached.iter().zip(&before).all(|(now, then)| now >= then);
        if follows && advances {
            self.ranges.push_back(Range { batch, progress, bytes, acknowledged: false });
        }
        follows && advances
    }

    /// Every item of `batch` is safe. Returns whether the prefix moved.
    pub fn acknowledge(&mut self, batch: u64) -> bool {
        let Ok(at) = self.ranges.binary_search_by_key(&batch, |range| range.batch) else {
            return false;
        };
        self.ranges[at].acknowledged = true;
        let before = self.acknowledged.reached;
        while let Some(range) = self.ranges.pop_front_if(|range| range.acknowledged) {
            self.acknowledged = range.progress;
            self.acknowledged_bytes += range.bytes;
        }
        self.acknowledged.reached != before
    }

    /// Drops `batch` and all after it: what they carried is to be read again from
    /// [`Self::last`] on.
    pub fn forget_from(&mut self, batch: u64) {
        self.ranges.truncate(self.ranges.partition_point(|range| range.batch < batch));
    }

    /// Up to where everything was sealed into batches.
    pub fn last(&self) -> Progress {
        self.ranges.back().map_or(self.acknowledged, |last| last.progress)
    }

    /// Everything before these positions is safe.
    pub fn acknowledged(&self) -> Reached {
        self.acknowledged.reached
    }

    /// Raw bytes that were gone through and are safe.
    pub fn acknowledged_bytes(&self) -> u64 {
        self.acknowledged_bytes
    }

    /// Raw bytes that were sealed into batches and are not safe yet.
    pub fn in_flight_bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.bytes).sum()
    }

    /// Whether everything that was sealed is acknowledged.
    pub fn is_settled(&self) -> bool {
        self.ranges.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tail::PartId;

    fn at(offset: u64) -> Position {
        Position { part: PartId::born(1, 2), offset }
    }

    fn progress(stdout: u64, stderr: u64) -> Progress {
        Progress { reached: [at(stdout), at(stderr)], read_to: at(stdout) }
    }

    proptest! {
        /// In whatever order batches are acknowledged, the prefix is the longest without a gap.
        #[test]
        fn the_prefix_has_no_gap(order in Just((0..20_u64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut ledger = Ledger::new([at(0), at(0)]);
            for batch in 0..20 {
                prop_assert!(ledger.push(batch, progress(batch * 10 + 10, batch * 10 + 5), 10));
            }
            let mut done = std::collections::BTreeSet::new();
            for batch in order {
                ledger.acknowledge(batch);
                done.insert(batch);
                let whole = (0..).take_while(|batch| done.contains(batch)).count() as u64;
                let expected = if whole == 0 { [at(0), at(0)] } else { [at(whole * 10), at(whole * 10 - 5)] };
                prop_assert_eq!(ledger.acknowledged(), expected);
                prop_assert_eq!(ledger.acknowledged_bytes(), whole * 10);
                prop_assert_eq!(ledger.in_flight_bytes(), 200 - whole * 10);
            }
            prop_assert!(ledger.is_settled());
        }

        /// Whatever was forgotten is sealed again from where the rest ends, and nothing that was
        /// answered late for it moves the prefix.
        #[test]
        fn what_is_forgotten_is_not_acknowledged(from in 0..12_u64, order in Just((0..10_u64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut ledger = Ledger::new([at(0), at(0)]);
            for batch in 0..10 {
                prop_assert!(ledger.push(batch, progress(batch + 1, batch + 1), 1));
            }
            ledger.forget_from(from);
            let kept = from.min(10);
            prop_assert_eq!(ledger.last(), progress(kept, kept));
            for batch in order {
                ledger.acknowledge(batch);
            }
            prop_assert_eq!(ledger.acknowledged(), [at(kept), at(kept)]);
            prop_assert_eq!(ledger.acknowledged_bytes(), kept);
            prop_assert!(ledger.is_settled());
            prop_assert!(ledger.push(20, progress(kept + 1, kept), 1));
        }
    }

    #[test]
    fn gaps_and_overlaps_are_refused() {
        let mut ledger = Ledger::new([at(10), at(10)]);
        assert!(!ledger.push(1, progress(9, 10), 0), "stdout went back");
        assert!(ledger.push(1, progress(11, 10), 1));
        assert!(!ledger.push(1, progress(12, 10), 1), "the same batch twice");
        assert!(!ledger.push(2, progress(12, 9), 1), "stderr went back");
        assert!(!ledger.acknowledge(7), "a batch that it knows nothing of");
        assert_eq!(ledger.acknowledged(), [at(10), at(10)]);
    }
}
