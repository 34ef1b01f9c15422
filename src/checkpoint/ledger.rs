//! The acknowledged prefix of one reader.
//!
//! A reader's records go into batches in order, so for each batch it is enough to remember how
//! far stdout and stderr had come when the batch was sealed. Batches may be acknowledged in any
//! order; the prefix moves only over those before which nothing is missing. Pure. There are
//! as many ranges as batches of one pipeline may be in flight.

use std::collections::VecDeque;

use crate::tail::Position;

/// How far stdout and stderr have come.
pub type Reached = [Position; 2];

#[derive(Debug)]
struct Range {
    batch: u64,
    reached: Reached,
    acknowledged: bool,
}

/// The ranges of one reader that are not acknowledged yet.
#[derive(Debug)]
pub struct Ledger {
    acknowledged: Reached,
    ranges: VecDeque<Range>,
}

impl Ledger {
    /// Everything before `acknowledged` is safe.
    pub fn new(acknowledged: Reached) -> Self {
        Self { acknowledged, ranges: VecDeque::new() }
    }

    /// Batch `batch` carries what came after the previous range, up to `reached`.
    ///
    /// Refuses, and returns `false`, when the batch does not follow the previous one or when a
    /// position would go back: such a range would leave a gap or an overlap.
    pub fn push(&mut self, batch: u64, reached: Reached) -> bool {
        let last = self.ranges.back();
        let follows = last.is_none_or(|last| last.batch < batch);
        let before = last.map_or(self.acknowledged, |last| last.reached);
        let advances = reached.iter().zip(&before).all(|(now, then)| now >= then);
        if follows && advances {
            self.ranges.push_back(Range { batch, reached, acknowledged: false });
        }
        follows && advances
    }

    /// Every item of `batch` is safe. Returns whether the prefix moved.
    pub fn acknowledge(&mut self, batch: u64) -> bool {
        let Ok(at) = self.ranges.binary_search_by_key(&batch, |range| range.batch) else {
            return false;
        };
        self.ranges[at].acknowledged = true;
        let before = self.acknowledged;
        while let Some(range) = self.ranges.pop_front_if(|range| range.acknowledged) {
            self.acknowledged = range.reached;
        }
        self.acknowledged != before
    }

    /// Everything before these positions is safe.
    pub fn acknowledged(&self) -> Reached {
        self.acknowledged
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
        Position { part: PartId { first_time_ns: 1, hash: 2 }, offset }
    }

    proptest! {
        /// In whatever order batches are acknowledged, the prefix is the longest without a gap.
        #[test]
        fn the_prefix_has_no_gap(order in Just((0..20_u64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut ledger = Ledger::new([at(0), at(0)]);
            for batch in 0..20 {
                prop_assert!(ledger.push(batch, [at(batch * 10 + 10), at(batch * 10 + 5)]));
            }
            let mut done = std::collections::BTreeSet::new();
            for batch in order {
                ledger.acknowledge(batch);
                done.insert(batch);
                let whole = (0..).take_while(|batch| done.contains(batch)).count() as u64;
                let expected = if whole == 0 { [at(0), at(0)] } else { [at(whole * 10), at(whole * 10 - 5)] };
                prop_assert_eq!(ledger.acknowledged(), expected);
            }
            prop_assert!(ledger.is_settled());
        }
    }

    #[test]
    fn gaps_and_overlaps_are_refused() {
        let mut ledger = Ledger::new([at(10), at(10)]);
        assert!(!ledger.push(1, [at(9), at(10)]), "stdout went back");
        assert!(ledger.push(1, [at(11), at(10)]));
        assert!(!ledger.push(1, [at(12), at(10)]), "the same batch twice");
        assert!(!ledger.push(2, [at(12), at(9)]), "stderr went back");
        assert!(!ledger.acknowledge(7), "a batch that it knows nothing of");
        assert_eq!(ledger.acknowledged(), [at(10), at(10)]);
    }
}
