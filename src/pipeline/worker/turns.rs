//! What happens to readers: their turns, and what they wait for in between.

use std::time::Instant;

use super::{DECODERS_MAX, LOOK_AGAIN, ReaderKey, Waiting, Worker, now_ns};
use crate::pipeline::clock;
use crate::pipeline::reader::{CHUNK_BYTES, Desk, Shipping, Turn};
use crate::telemetry::metrics::LossCause;

/// Open records of all readers may hold one over this of the budget.
const OPEN_SHARE: usize = 4;

impl Worker {
    /// Lets a reader take one chunk.
    pub(super) fn turn(&mut self, key: ReaderKey) {
        let (stream_key, pipeline) = key;
        if self.outlets[pipeline].takes_nothing() {
            // Without so much as a read: it would be for nothing.
            self.hand_on_decoders();
            return self.parked.push(key);
        }
        let may_unpack = self.unpackers.contains(&key) || self.free_decoders(pipeline) > 0;
        let Some(stream) = self.streams.get_mut(&stream_key) else {
            return self.hand_on_decoders();
        };
        let ended = stream.has_ended();
        let key_in_hand = stream.key(&self.setup.pipelines[pipeline].name);
        let Some(reading) = stream.places[pipeline].reading() else {
            return self.hand_on_decoders();
        };
        let next = reading.reader.cursor();
        if let Some(part) = stream.tail.at_or_after(next.part) {
            let from = if part.id == next.part { next.offset } else { 0 };
            self.setup.in_hand.take(key_in_hand, part.id, from..from + CHUNK_BYTES as u64);
        }
        let outlet = &mut self.outlets[pipeline];
        let alone = outlet.is_alone();
        let mut desk = Desk {
            stream: &mut stream.tail,
            shipping: Shipping {
                name: &stream.name,
                batch: &mut outlet.batch,
                filters: &mut outlet.filters,
                scratch: &mut self.scratch,
            },
            alone,
            buffer: &mut self.buffer,
            frames: &mut self.frames,
            long: &mut self.long,
            now_ns: now_ns(),
            ended,
            may_unpack,
            line_bytes_max: self.setup.agent.logs.max_line_bytes,
        };
        let before = (reading.reader.cursor(), reading.reader.reached());
        let open_before = reading.reader.open_bytes();
        let turn = reading.reader.turn(&mut desk);
        self.setup.in_hand.done();
        let damaged = std::mem::take(&mut reading.reader.damaged_bytes);
        if damaged > 0 {
            self.bytes_lost += damaged;
            self.read_metrics.lost(LossCause::Damaged, damaged);
        }
        let missed = std::mem::take(&mut reading.reader.missed_bytes);
        if missed > 0 {
            self.bytes_lost += missed;
            self.read_metrics.lost(LossCause::Gone, missed);
        }
        debug_assert_eq!(reading.reader.accounts().unaccounted(), 0, "{:?}", reading.reader);
        let reader = &reading.reader;
        if before != (reader.cursor(), reader.reached()) {
            outlet.touched.insert(stream_key);
            outlet.batch.opened.get_or_insert_with(clock::now);
            self.stale = true;
        }
        self.open_bytes = self.open_bytes + reader.open_bytes() - open_before;
        if reader.unpacks() {
            self.unpackers.insert(key);
        } else {
            self.give_back_decoder(key);
        }
        self.follow(key, turn);
    }

    /// A reader holds no decompressor: any more, or it was handed one and was done with it in the same
    /// turn, or took none.
    pub(super) fn give_back_decoder(&mut self, key: ReaderKey) {
        self.unpackers.remove(&key);
        self.hand_on_decoders();
    }

    /// How many more decompressors readers of `pipeline` may hold. Each pipeline has a share of its
    /// own: readers of a dead output keep what they hold until it is back.
    fn free_decoders(&self, pipeline: usize) -> usize {
        let share = (DECODERS_MAX / self.outlets.len()).max(1);
        let held = self.unpackers.iter().filter(|(_, holder)| *holder == pipeline).count();
        share.saturating_sub(held)
    }

    /// Queues as many of those that wait for a decompressor as there are. One of them that has
    /// gone by then hands on what it does not take.
    pub(super) fn hand_on_decoders(&mut self) {
        if self.unpacking.is_empty() {
            return;
        }
        let mut free: Vec<_> = (0..self.outlets.len()).map(|at| self.free_decoders(at)).collect();
        if free.iter().all(|free| *free == 0) {
            return;
        }
        for key in std::mem::take(&mut self.unpacking) {
            let left = &mut free[key.1];
            if *left == 0 {
                self.unpacking.push_back(key);
            } else {
                *left -= 1;
                self.ready.push_back(key);
            }
        }
    }

    /// Does what the end of a turn asks for.
    fn follow(&mut self, key: ReaderKey, turn: Turn) {
        match turn {
            Turn::More => self.ready_again(key),
            Turn::End => self.at_end(key),
            Turn::BatchFull | Turn::NoRoom => {
                if self.seal(key.1) || turn == Turn::NoRoom && self.outlets[key.1].is_alone() {
                    self.ready.push_front(key);
                } else {
                    self.parked.push(key);
                }
            }
            Turn::NoDecoder => self.unpacking.push_back(key),
            Turn::Unsettled => {
                self.again.push(key);
                self.again_at.get_or_insert_with(|| clock::now() + LOOK_AGAIN);
            }
            Turn::Failed => {
                self.failing.insert(key);
                self.later.push(key);
            }
            Turn::Changed => {
                self.scan_wanted = true;
                self.refresh(key.0);
                self.later.push(key);
            }
        }
    }

    /// Queues a reader that has more, behind the others. One that is in the middle of a long line
    /// goes on at once while open records hold their share, for only its end frees them.
    fn ready_again(&mut self, key: ReaderKey) {
        let crowded = self.is_crowded();
        let in_a_line = (self.reader(key)).is_some_and(|reading| reading.reader.has_partial());
        if crowded && in_a_line {
            self.ready.push_front(key);
        } else {
            self.ready.push_back(key);
        }
    }

    /// Whether open records hold more than their share.
    pub(super) fn is_crowded(&self) -> bool {
        self.open_bytes > self.setup.budget.total_bytes() / OPEN_SHARE
    }

    /// A reader has taken all there is.
    fn at_end(&mut self, key: ReaderKey) {
        let crowded = self.is_crowded();
        let Some(reading) = self.reader(key) else { return };
        reading.queued = false;
        reading.at_end = true;
        let waits = reading.reader.is_waiting();
        let waiting = reading.reader.waiting();
        let asked = reading.reader.asked.is_some();
        let held = reading.reader.open_bytes();
        if waits && !asked {
            let begun = self.waiting.entry(key).or_insert_with(|| Waiting::new(waiting));
            if begun.at != waiting {
                *begun = Waiting::new(waiting);
            }
        } else if crowded && held > 0 && !asked {
            // Only its offsets are kept; the bytes are read again when there is more.
            reading.reader.rewind();
            self.open_bytes -= held;
        }
        self.failing.remove(&key);
        self.forget_if_finished(key.0);
    }

    pub(super) fn reader(
        &mut self,
        key: ReaderKey,
    ) -> Option<&mut crate::pipeline::place::Reading> {
        self.streams.get_mut(&key.0)?.places[key.1].reading()
    }

    /// Queues everybody who waited for an outcome, before those whose turn was still to come: who
    /// is put behind them each time gets nothing while the output is slower than reading.
    pub(super) fn unpark(&mut self) {
        for key in self.parked.drain(..).rev() {
            self.ready.push_front(key);
        }
    }

    /// Queues everybody who was to look again by now.
    pub(super) fn look_again(&mut self, now: Instant) {
        if self.again_at.is_some_and(|at| at <= now) {
            self.again_at = None;
            self.ready.extend(self.again.drain(..));
        }
    }
}
