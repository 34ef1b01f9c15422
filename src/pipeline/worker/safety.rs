//! What happens to batches and the checkpoint: sealing, acknowledging, cutting, saving, ending.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use super::streams::{FILE_WAIT, SOURCE_WAIT, STATUS_WAIT};
use super::{
    LOOK_AGAIN, Pause, QUIET, QUIET_AT_MOST, ReaderKey, Report, TICK, Waiting, Worker, now_ns,
};
use crate::checkpoint::Change;
use crate::pipeline::batch::{Outcome, Told};
use crate::pipeline::inbox::{Command, Event};
use crate::pipeline::outlet::{Outlet, StreamKey, as_gauge};
use crate::pipeline::place::{Place, StreamState};
use crate::pipeline::reader::Asked;
use crate::telemetry::metrics::StreamState as Kind;

/// How often files that can't be opened are tried.
const OPEN_AGAIN: Duration = Duration::from_secs(30);

/// For how long the end waits for the disk of the checkpoint.
const DISK_PATIENCE: Duration = Duration::from_secs(5);

impl Worker {
    /// Closes the open batch of a pipeline and enters it into the ledgers of its readers. `false`
    /// when there is nothing in it or too many are in flight.
    pub(super) fn seal(&mut self, pipeline: usize) -> bool {
        if self.outlets[pipeline].batch.is_untouched() {
            return false;
        }
        let Some(sealed) = self.outlets[pipeline].seal() else { return false };
        for stream in &sealed.streams {
            if let Some(reader) = self.placed_reader((*stream, pipeline)) {
                let entered = reader.sealed(sealed.sequence);
                debug_assert!(entered, "a reader's positions never go back");
            }
        }
        if sealed.safe {
            self.acknowledge(pipeline, sealed.sequence, sealed.streams);
        }
        true
    }

    /// A reader, also one that has left off and waits for its last batches.
    fn placed_reader(&mut self, key: ReaderKey) -> Option<&mut crate::pipeline::reader::Reader> {
        self.streams.get_mut(&key.0)?.places[key.1].reader_mut()
    }

    /// An output has something to tell.
    pub(super) fn told(&mut self, pipeline: usize, told: Told) {
        match told {
            Told::Safe(outcome) => self.done(pipeline, &outcome),
            Told::Forgotten { sequence, .. } => {
                let streams = self.outlets[pipeline].forgotten(sequence);
                self.go_back(pipeline, sequence, streams);
            }
            Told::Back => {
                self.outlets[pipeline].is_back();
                self.unpark();
            }
        }
    }

    /// Has the readers of `streams` read again what batch `sequence` and those after it carried.
    pub(super) fn go_back(
        &mut self,
        pipeline: usize,
        sequence: u64,
        streams: impl IntoIterator<Item = StreamKey>,
    ) {
        for stream in streams {
            let key = (stream, pipeline);
            let Some(reader) = self.placed_reader(key) else { continue };
            let before = reader.open_bytes();
            reader.forget_from(sequence);
            self.open_bytes -= before;
            self.give_back_decoder(key);
            self.waiting.remove(&key);
            self.wake(stream);
        }
        self.stale = true;
    }

    /// Every item of a batch is safe.
    fn done(&mut self, pipeline: usize, outcome: &Outcome) {
        let streams = self.outlets[pipeline].done(outcome, now_ns());
        self.acknowledge(pipeline, outcome.sequence, streams);
        self.unpark();
    }

    fn acknowledge(
        &mut self,
        pipeline: usize,
        sequence: u64,
        streams: impl IntoIterator<Item = StreamKey>,
    ) {
        for stream in streams {
            if let Some(reader) = self.placed_reader((stream, pipeline))
                && reader.ledger.acknowledge(sequence)
            {
                reader.forget_passed_cuts();
                self.unsaved.insert((stream, pipeline));
                self.released.insert(stream);
            }
            self.forget_if_finished(stream);
        }
        self.stale = true;
    }

    // Cuts.

    /// Asks the checkpoint to remember where the wall clock ends records, before they are ended.
    fn ask_for_cuts(&mut self, now: Instant) {
        let mut changes = Vec::new();
        let mut readers = Vec::new();
        let save = self.saves;
        let crowded = self.is_crowded();
        self.waiting_looked = now;
        let waiting: Vec<(ReaderKey, Waiting)> =
            self.waiting.iter().map(|(key, waiting)| (*key, *waiting)).collect();
        for (key, waiting) in waiting {
            // What goes on with the record may be in a part that is not known yet.
            let is_complete = self.streams.get(&key.0).is_some_and(|one| one.tail.is_complete());
            let reading = self.reader(key).filter(|reading| reading.reader.is_waiting());
            let Some(reading) = reading.filter(|reading| reading.at_end || waiting.looked) else {
                self.waiting.remove(&key);
                continue;
            };
            if !reading.at_end || !is_complete {
                continue;
            }
            let long = now.saturating_duration_since(waiting.since) >= QUIET_AT_MOST;
            // Records that fill their share of the budget are waited for no longer.
            let quiet_ns = if long || crowded { i64::MIN } else { quiet_ns(QUIET) };
            let cuts = reading.reader.overdue(now_ns(), quiet_ns);
            if cuts.is_empty() {
                continue;
            }
            if !waiting.looked {
                self.waiting.insert(key, Waiting { looked: true, ..waiting });
                self.wake(key.0);
                continue;
            }
            let Some(reading) = self.reader(key) else { continue };
            reading.reader.asked = Some(Asked { save, saved: false, cuts });
            self.waiting.remove(&key);
            changes.extend(self.change(key));
            readers.push(key);
        }
        if !readers.is_empty() {
            self.saves += 1;
            self.asked.insert(save, readers);
            let inbox = Arc::clone(&self.setup.inbox);
            self.setup
                .saver
                .save_then(changes, move |safe| inbox.tell(Event::CutSaved { cut: save, safe }));
        }
    }

    /// A cut is in the checkpoint, so its record may end; or it is not, so it must go on.
    pub(super) fn cut_saved(&mut self, save: u64, safe: bool) {
        for key in self.asked.remove(&save).unwrap_or_default() {
            if !safe {
                // The next save takes it back.
                self.unsaved.insert(key);
            }
            let Some(reading) = self.reader(key) else { continue };
            match &mut reading.reader.asked {
                Some(asked) if asked.save == save && safe => asked.saved = true,
                asked => drop(asked.take_if(|asked| asked.save == save)),
            }
            self.wake(key.0);
        }
    }

    // The checkpoint.

    fn change(&self, key: ReaderKey) -> Option<Change> {
        let stream = self.streams.get(&key.0)?;
        let reader = stream.places[key.1].reader()?;
        let name = stream.key(&self.setup.pipelines[key.1].name);
        Some(Change::Put(name, Box::new(stream.entry(reader))))
    }

    /// Hands what changed to the checkpoint.
    fn save(&mut self) {
        let unsaved = std::mem::take(&mut self.unsaved);
        let changes: Vec<Change> = unsaved.iter().filter_map(|key| self.change(*key)).collect();
        if !changes.is_empty() {
            self.setup.saver.save(changes);
        }
    }

    /// Hands what changed to the checkpoint and waits until it was tried, but not for a disk that
    /// hangs; whether it is on disk.
    pub(super) fn save_and_wait(&mut self) -> bool {
        self.save();
        let (reply, answer) = sync_channel(1);
        self.setup.saver.save_then(Vec::new(), move |safe| {
            // Nobody waits only when this thread is gone, and then nobody asks.
            if reply.send(safe).is_err() {
                tracing::debug!("nobody waits for the checkpoint");
            }
        });
        answer.recv_timeout(DISK_PATIENCE).unwrap_or(false)
    }

    // Time.

    /// Does what is due by now.
    pub(super) fn pass_time(&mut self, now: Instant) {
        self.look_again(now);
        self.tell_when_settled();
        for pipeline in 0..self.outlets.len() {
            let everything_waits =
                self.command == Command::Drain || (self.setup.once && self.has_nothing_to_read());
            let is_due = self.outlets[pipeline].due().is_some_and(|due| due <= now);
            let stands_still = self.pause != Pause::None && self.command == Command::Run;
            if (is_due || everything_waits) && !stands_still {
                self.seal(pipeline);
            }
        }
        let look = now >= self.waiting_looked + LOOK_AGAIN;
        if look && !self.waiting.is_empty() && self.may_read() {
            self.ask_for_cuts(now);
        }
        if !self.unsaved.is_empty()
            && now >= self.saved + self.setup.agent.state.checkpoint_interval
        {
            self.saved = now;
            self.save();
        }
        if now >= self.ticked + TICK {
            self.tick(now);
        }
    }

    fn tick(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.ticked);
        self.ticked = now;
        if !self.source_told && now >= self.began + SOURCE_WAIT {
            self.source_tells();
        }
        // Asleep, or stopped, for longer, nobody was waiting.
        self.wait_for_pods(passed.min(2 * TICK));
        if std::mem::take(&mut self.scan_wanted) {
            (self.setup.rescan.0)();
        }
        self.try_to_open_again(now);
        self.ready.extend(self.later.drain(..));
        for key in std::mem::take(&mut self.released) {
            if self.streams.contains_key(&key) {
                self.release(key);
            }
        }
        self.hold_within_limits();
        if std::mem::take(&mut self.stale) {
            self.show();
        }
        // What waits for an outcome grows older.
        self.stale = !self.outlets.iter().all(Outlet::is_settled);
        self.setup.alive.tick(self.setup.index);
    }

    /// Tries files again that could not be opened: while they stay as they are, no listing tells of them.
    fn try_to_open_again(&mut self, now: Instant) {
        if now < self.opened_again + OPEN_AGAIN {
            return;
        }
        self.opened_again = now;
        for key in std::mem::take(&mut self.unreadable) {
            if self.streams.contains_key(&key) {
                self.refresh(key);
                self.wake(key);
            }
        }
    }

    /// Pods are waited for only while their source is in sync, so that an outage of the API server
    /// never counts as an answer. The status of one that is known is waited for in an outage too: else
    /// nothing would be shipped of a run that begins in it.
    fn wait_for_pods(&mut self, passed: Duration) {
        let in_sync = self.setup.pods.in_sync();
        let wait = self.setup.agent.kubernetes.unknown_pod_wait;
        let mut keys = Vec::new();
        for (key, stream) in &mut self.streams {
            // One that came since the last tick has not been waited for that long.
            if !stream.is_undecided() || !std::mem::replace(&mut stream.awaited, true) {
                continue;
            }
            let (pod, status) = (stream.waited, stream.status_waited);
            let knows_pod = stream.facts.is_some();
            if in_sync {
                stream.waited += passed;
            }
            if knows_pod {
                stream.status_waited += passed;
            }
            let passes = |before: Duration, now: Duration, limit| before < limit && now >= limit;
            if passes(pod, stream.waited, wait)
                || passes(pod, stream.waited, FILE_WAIT)
                || passes(status, stream.status_waited, STATUS_WAIT)
            {
                keys.push(*key);
            }
        }
        for key in keys {
            self.decide(key);
            self.forget_if_finished(key);
        }
    }

    /// Shows how far behind everything is.
    fn show(&mut self) {
        for (index, outlet) in self.outlets.iter_mut().enumerate() {
            let reader = |stream: &'_ StreamState| match &stream.places[index] {
                Place::Reading(reading) => {
                    let behind = stream.bytes_after(reading.reader.needs_from());
                    (behind, reading.reader.accounts().unaccounted())
                }
                Place::Undecided | Place::Left(_) => (0, 0),
            };
            let all = self.streams.values().map(reader);
            let (behind, unaccounted) = all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            outlet.show(behind, unaccounted, now_ns());
        }
        self.show_streams();
        self.agent_metrics.memory_held_bytes.set(as_gauge(self.setup.budget.held_bytes() as u64));
        self.agent_metrics.memory_total_bytes.set(as_gauge(self.setup.budget.total_bytes() as u64));
    }

    fn show_streams(&mut self) {
        let kind = |stream: &StreamState| {
            let taken = stream.places.iter().any(|place| matches!(place, Place::Reading(_)));
            if taken {
                Kind::Taken
            } else if stream.is_undecided() {
                Kind::Undecided
            } else {
                Kind::Ignored
            }
        };
        for (index, which) in Kind::ALL.into_iter().enumerate() {
            let count = self.streams.values().filter(|stream| kind(stream) == which).count();
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            self.agent_metrics.change_streams(which, self.shown.streams[index], count);
            self.shown.streams[index] = count;
        }
    }

    // The end.

    fn has_nothing_to_read(&self) -> bool {
        let at_rest = |place: &Place| match place {
            // Their stream says.
            Place::Undecided | Place::Left(_) => true,
            Place::Reading(reading) => {
                reading.at_end && reading.reader.asked.is_none() && !reading.reader.is_waiting()
            }
        };
        self.scanned
            && self.ready.is_empty()
            && self.parked.is_empty()
            && self.unpacking.is_empty()
            && self.asked.is_empty()
            && self.streams.values().all(|stream| {
                let decided = !stream.is_undecided() || self.waited_out(stream);
                decided && stream.places.iter().all(at_rest)
            })
    }

    fn waited_out(&self, stream: &StreamState) -> bool {
        super::streams::waits_no_more(&self.setup, stream.waited)
    }

    /// Whether there is nothing left to do.
    pub(super) fn is_done(&self) -> bool {
        let settled = self.outlets.iter().all(Outlet::is_settled);
        match self.command {
            Command::Run => self.setup.once && settled && self.has_nothing_to_read(),
            Command::Drain => settled && self.setup.held.settles(self.setup.index),
            Command::Stop | Command::Abort => true,
        }
    }

    /// What was done.
    pub(super) fn report(&self, saved: bool) -> Report {
        let mut report =
            Report { bytes_lost: self.bytes_lost, totals: self.retired, ..Report::default() };
        for outlet in &self.outlets {
            report.totals += outlet.totals;
        }
        let mut complete = true;
        for stream in self.streams.values() {
            let mut taken = false;
            for place in &stream.places {
                if let Place::Reading(reading) = place {
                    taken = true;
                    let [stdout, stderr] = reading.reader.reached();
                    report.bytes_unfinished += stream.bytes_after(stdout.min(stderr));
                    complete &= reading.at_end && reading.reader.ledger.is_settled();
                }
            }
            report.streams += u64::from(taken);
        }
        report.streams += self.finished_streams;
        let readable = self.unreadable.is_empty() && self.failing.is_empty();
        report.safe = saved && complete && readable && self.bytes_lost == 0 && self.gaps == 0;
        report
    }
}

fn quiet_ns(quiet: Duration) -> i64 {
    i64::try_from(quiet.as_nanos()).unwrap_or(i64::MAX)
}
