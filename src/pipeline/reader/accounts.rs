//! Where the bytes are that a reader has gone through: acknowledged, in flight, or lost.
//!
//! Every byte is counted once when it is gone through; those that are to be gone through again are
//! taken back first. What can't be had any more counts as gone through and lost.

use std::cmp::Ordering;

use super::{Desk, Reader};
use crate::checkpoint::Progress;
use crate::tail::{PartId, Position};

/// Where the raw bytes are that a reader has gone through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accounts {
    pub read: u64,
    pub acknowledged: u64,
    /// In batches that are open or not answered, open records included.
    pub in_flight: u64,
    pub lost: u64,
}

impl Accounts {
    /// Bytes of which nobody knows what became; 0 unless the agent is wrong.
    pub fn unaccounted(self) -> u64 {
        self.read.abs_diff(self.acknowledged + self.in_flight + self.lost)
    }
}

impl Reader {
    /// Enters what was gone through since the batch before into the ledger. `false` is a fault of
    /// the agent.
    pub fn sealed(&mut self, batch: u64) -> bool {
        let progress = Progress { reached: self.reached(), read_to: self.counted_to };
        self.ledger.push(batch, progress, std::mem::take(&mut self.unsealed_bytes))
    }

    /// The bytes of `part`, which ended at `end`, can't be had any more; returns how many of them
    /// were not read.
    pub fn lose(&mut self, part: PartId, end: u64) -> u64 {
        if let Some(entry) = &mut self.remembered {
            // It was there: nothing of it went while no agent ran.
            entry.parts.retain(|(known, _)| !known.is(part));
        }
        let from = match self.cursor.part.cmp(&part) {
            Ordering::Greater => return 0,
            Ordering::Equal => {
                // Its handle is not held any longer.
                self.source = None;
                self.long_line = None;
                // What was read of it is lost too if it is to be read again.
                self.left.insert(part, self.cursor.offset);
                self.cursor.offset
            }
            // Nothing is kept of it: in a long outage there is no end of such parts.
            Ordering::Less => 0,
        };
        let lost = end.saturating_sub(from);
        self.note_lost(lost);
        lost
    }

    /// Bytes were lost that it should have gone through.
    pub fn note_lost(&mut self, bytes: u64) {
        self.lost_bytes += bytes;
        self.read_bytes += bytes;
    }

    /// Where the bytes are that were gone through since this reader began.
    pub fn accounts(&self) -> Accounts {
        Accounts {
            read: self.read_bytes,
            acknowledged: self.ledger.acknowledged_bytes(),
            in_flight: self.ledger.in_flight_bytes() + self.unsealed_bytes,
            lost: self.lost_bytes,
        }
    }

    /// Counts what can't be read again of parts between the cursor and `next`.
    pub(super) fn pass_over_gone(&mut self, next: PartId) {
        let here = self.cursor;
        let gone = self.left.range(here.part..next);
        let lost = gone.map(|(part, end)| {
            end.saturating_sub(if *part == here.part { here.offset } else { 0 })
        });
        let lost = lost.sum();
        self.left.retain(|part, _| *part < here.part || *part >= next);
        self.missed_bytes += lost;
        self.note_lost(lost);
    }

    /// Goes on at `end`, in the same part: what stands between the cursor and there can't be had.
    /// Gives how many bytes that is, but once however often they are passed over.
    pub(super) fn pass_over_lost(&mut self, end: Position, desk: &mut Desk<'_>) -> Option<u64> {
        self.count_read(desk);
        let bytes = end.offset - self.cursor.offset;
        self.cursor = end;
        self.counted_to = self.counted_to.max(end);
        if end <= self.lost_to {
            return None;
        }
        self.lost_to = end;
        self.damaged_bytes += bytes;
        self.note_lost(bytes);
        Some(bytes)
    }

    /// Counts raw bytes once, however often they are read.
    pub(super) fn count_read(&mut self, desk: &mut Desk<'_>) {
        if self.cursor > self.counted_to {
            let same_part = self.cursor.part == self.counted_to.part;
            let from = if same_part { self.counted_to.offset } else { 0 };
            let bytes = self.cursor.offset - from;
            desk.shipping.batch.tally.raw_bytes += bytes;
            self.read_bytes += bytes;
            self.unsealed_bytes += bytes;
            self.counted_to = self.cursor;
        }
    }
}
