//! Where a reader takes up, and how it goes back: after a restart, when an output has forgotten
//! batches, when a part is found that it has passed, or one that a loss of power has shortened.
//!
//! Going back forgets what is open and reads again from a position at which nothing was open; ids
//! make the repetition harmless. Cuts stay, so that records end where they ended before.

use super::{Reader, at};
use crate::checkpoint::{Entry, Ledger, Progress};
use crate::discover::PartKind;
use crate::parse::record::Joiner;
use crate::pipeline::form::Form;
use crate::tail::{self, PartId, Position};

impl Reader {
    /// Takes up what an earlier process remembered.
    pub fn resume(form: Form, joiner: Joiner, entry: &Entry) -> Self {
        let mut reader = Self::new(form, joiner, entry.reached, entry.cuts.clone());
        let reader_at = reader.cursor.part;
        reader.left = entry.parts.iter().copied().filter(|(part, _)| *part < reader_at).collect();
        reader.remembered = Some(entry.clone());
        reader.begin_at(entry.begins_at_ns);
        reader
    }

    /// Passes over what the runtime took before `time_ns`.
    pub fn begin_at(&mut self, time_ns: Option<i64>) {
        self.begins_at_ns = time_ns;
        self.not_before_ns = time_ns;
    }

    /// See [`Self::begin_at`]; for as long as no line that was not passed over is safe.
    pub fn begins_at_ns(&self) -> Option<i64> {
        self.begins_at_ns.filter(|_| self.passes_over_from(self.needs_from()))
    }

    /// Whether what stands from `place` on may have to be passed over.
    fn passes_over_from(&self, place: Position) -> bool {
        self.wanted_from.is_none_or(|wanted| place <= wanted)
    }

    /// `part`, in which it takes up, ends at `end` by now, before the place that was safe: what
    /// stood between never reached the disk, and the next line will stand at `end`.
    pub fn end_of_safe_is(&mut self, part: PartId, end: u64) {
        if self.read_bytes > 0 || !self.ledger.is_settled() {
            // What it has read is there.
            return;
        }
        let end = at(part, end);
        let reached = self.ledger.acknowledged();
        let shorter = reached.map(|at| if at.part == part { at.min(end) } else { at });
        if shorter == reached {
            return;
        }
        self.ledger = Ledger::new(shorter);
        // A line that lost its line feed ends behind it all the same.
        let last = at(part, end.offset + 1);
        self.cuts.retain(|cut| cut.at.part != part || cut.at <= last);
        self.safe = shorter;
        self.cursor = shorter[0].min(shorter[1]);
        self.counted_to = self.cursor;
    }

    /// Forgets open records, and the cuts asked for, and goes back to where they began.
    pub fn rewind(&mut self) {
        let reached = self.reached();
        self.asked = None;
        self.joiner.forget();
        self.safe = reached;
        self.cursor = reached[0].min(reached[1]);
        self.source = None;
        self.long_line = None;
    }

    /// Goes back to where batch `batch` of this pipeline began: it and what follows are to be read
    /// again.
    pub fn forget_from(&mut self, batch: u64) {
        let before = self.ledger.in_flight_bytes();
        self.ledger.forget_from(batch);
        let dropped = before - self.ledger.in_flight_bytes();
        self.take_up(self.ledger.last(), dropped);
    }

    /// Goes back to `place`, or further to what is not safe: whatever comes after is read again, and
    /// answered as a duplicate where it was safe already.
    pub fn go_back(&mut self, place: Position) {
        let dropped = self.ledger.in_flight_bytes() + self.ledger.acknowledged_bytes();
        let from = self.ledger.acknowledged().map(|safe| safe.min(place));
        self.ledger = Ledger::new(from);
        self.take_up(Progress::resumed(from), dropped);
    }

    fn take_up(&mut self, from: Progress, dropped_bytes: u64) {
        self.left.insert(self.counted_to.part, self.counted_to.offset);
        self.read_bytes -= dropped_bytes + std::mem::take(&mut self.unsealed_bytes);
        self.asked = None;
        self.joiner.forget();
        self.safe = from.reached;
        self.cursor = from.reached[0].min(from.reached[1]);
        self.counted_to = from.read_to;
        self.source = None;
        self.long_line = None;
        self.complete = false;
        if self.passes_over_from(self.cursor) {
            self.not_before_ns = self.begins_at_ns;
        }
    }

    /// Where a part stands before this reader's place that was not read, or has grown since: it was
    /// found late, or its writer was.
    pub fn overlooked(&mut self, stream: &tail::Stream) -> Option<Position> {
        let here = self.cursor.part;
        // What was left and is not safe may have to be read again, or to be counted as lost.
        let safe = self.needs_from().part;
        let parts = stream.parts();
        let is_there = |id: &PartId| parts.binary_search_by_key(id, |part| part.id).is_ok();
        self.left.retain(|id, _| *id >= safe || is_there(id) || !stream.is_complete());
        let before = parts.iter().take_while(|part| part.id < here);
        let readable = before.filter(|part| part.is_open() || !part.unlinked);
        readable.filter_map(|part| self.overlooked_in(part)).next()
    }

    fn overlooked_in(&self, part: &tail::Part) -> Option<Position> {
        let from = match self.left.get(&part.id) {
            None => 0,
            Some(left) if part.kind != PartKind::Gzip && part.end() > Some(*left) => *left,
            Some(_) => return None,
        };
        Some(at(part.id, from))
    }

    /// The parts from `from` on of which it knows how far they were read.
    pub fn left_from(&self, from: PartId) -> impl Iterator<Item = (PartId, u64)> {
        self.left.range(from..).map(|(part, end)| (*part, *end))
    }

    /// Where it left `part`, if it did.
    pub fn left(&self, part: PartId) -> Option<u64> {
        self.left.get(&part).copied().filter(|_| part < self.cursor.part)
    }
}
