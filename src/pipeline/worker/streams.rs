//! What happens to streams: listings, pods, decisions, and the end.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Setup, Worker};
use crate::checkpoint::Change;
use crate::config::agent::PodSource;
use crate::discover::{FileSeen, StreamName};
use crate::enrich::store::Change as PodChange;
use crate::pipeline::outlet::StreamKey;
use crate::pipeline::place::{Ground, Place, Reading, StreamState};
use crate::tail::Position;
use crate::telemetry::metrics::LossCause;
use crate::telemetry::throttle;

impl Worker {
    pub(super) fn listed(&mut self, name: StreamName, files: Vec<FileSeen>, later_restart: bool) {
        let key = self.known(name);
        let stream = self.streams.get_mut(&key).expect("just made");
        stream.files = files;
        stream.later_restart = later_restart;
        stream.gone = false;
        stream.listed = true;
        if self.streams[&key].facts.is_none() {
            self.look_up(key);
        }
        self.refresh(key);
        self.decide(key);
        self.wake(key);
        self.remember(key);
    }

    /// The stream of this name, which is there from now on.
    pub(super) fn known(&mut self, name: StreamName) -> StreamKey {
        let pipelines = self.outlets.len();
        let key = *self.names.entry(name.clone()).or_insert_with(|| {
            self.next_key += 1;
            self.next_key
        });
        let from_before = self.setup.first_start && !self.scanned;
        let setup = &self.setup;
        self.streams.entry(key).or_insert_with(|| {
            let mut stream = StreamState::new(name, pipelines);
            stream.from_before = from_before;
            stream.remember(&setup.pipelines, &setup.checkpoint);
            stream
        });
        key
    }

    /// Has the checkpoint remember which parts there are, so that one that goes while no agent runs
    /// is a counted loss.
    pub(super) fn remember(&mut self, key: StreamKey) {
        let stream = self.streams.get_mut(&key).expect("known");
        for (pipeline, place) in stream.places.iter_mut().enumerate() {
            if place.reading().is_some() {
                self.unsaved.insert((key, pipeline));
            }
        }
    }

    /// Has readers go back to parts that they have passed without having read them: found late, or
    /// written to late.
    fn read_overlooked(&mut self, key: StreamKey) {
        let stream = self.streams.get_mut(&key).expect("known");
        let StreamState { tail, places, name, .. } = stream;
        let mut went_back = false;
        for (pipeline, place) in places.iter_mut().enumerate() {
            let Some(reader) = place.reader_mut() else { continue };
            let Some(from) = reader.overlooked(tail) else { continue };
            tracing::warn!(
                stream = %name, offset = from.offset,
                "a part was found that should have been read before; all from there on is read again"
            );
            self.open_bytes -= reader.open_bytes();
            reader.go_back(from);
            went_back = true;
            self.unpackers.remove(&(key, pipeline));
            self.waiting.remove(&(key, pipeline));
            self.unsaved.insert((key, pipeline));
            // Its lines in the open batch are of no use to a ledger that begins anew.
            self.outlets[pipeline].touched.remove(&key);
        }
        if went_back {
            self.hand_on_decoders();
            self.wake(key);
        }
    }

    /// Takes in that everything was listed. After the first time, what the checkpoint remembers of
    /// streams that are not there was lost while no agent ran.
    pub(super) fn scanned(&mut self, complete: bool) {
        let before = self.scanned;
        let ended: Vec<StreamKey> = (self.streams.iter_mut())
            .filter_map(|(key, stream)| {
                (complete && stream.status_told(Some(before))).then_some(*key)
            })
            .collect();
        let decided: Vec<StreamKey> = (self.streams.iter_mut())
            .filter_map(|(key, stream)| stream.tail.scanned().then_some(*key))
            .collect();
        for key in ended {
            if self.streams[&key].unborn {
                self.refresh(key);
            }
            self.wake(key);
        }
        for key in decided {
            self.release(key);
            self.wake(key);
        }
        if !complete || std::mem::replace(&mut self.scanned, true) {
            return;
        }
        self.copies_alone();
        let there: HashSet<String> = self.names.keys().map(StreamName::to_string).collect();
        let mut changes = Vec::new();
        for (key, entry) in std::mem::take(&mut self.setup.checkpoint) {
            if there.contains(&key.stream) {
                self.setup.checkpoint.insert(key, entry);
                continue;
            }
            if self.setup.pipelines.iter().any(|pipeline| pipeline.name == key.pipeline) {
                let lost = entry.lost_bytes(|_| false);
                self.lost_while_down(&key.stream, LossCause::Gone, lost);
            }
            changes.push(Change::Remove(key));
        }
        if !changes.is_empty() {
            self.setup.saver.save(changes);
        }
    }

    fn lost_while_down(&mut self, stream: &str, cause: LossCause, lost: u64) {
        if lost > 0 {
            self.bytes_lost += lost;
            self.read_metrics.lost(cause, lost);
            tracing::error!(
                stream,
                bytes = lost,
                cause = cause.as_str(),
                "log files were removed or lost their ends while no agent ran; their bytes are lost"
            );
        }
    }

    /// Compares the parts that the checkpoint remembers with those that are there.
    fn compare(&mut self, key: StreamKey) {
        let stream = self.streams.get_mut(&key).expect("known");
        // A file that may still get a name may be a part that is remembered.
        if !stream.tail.is_complete() || stream.unnamed {
            return;
        }
        let StreamState { tail, places, name, .. } = stream;
        let find = |id| tail.parts().binary_search_by_key(&id, |part| part.id).ok();
        let end_of = |id| tail.parts()[find(id)?].length();
        let (mut gone, mut cut_off, mut has_gap) = (0, 0, false);
        for place in places {
            let Some(Reading { reader, .. }) = place.reading() else { continue };
            let Some(entry) = reader.remembered.take() else { continue };
            gone += entry.lost_bytes(|id| find(id).is_some());
            cut_off += entry.cut_off_bytes(end_of);
            has_gap |= entry.newest_part().is_some_and(|newest| {
                find(newest).is_none() && tail.parts().last().is_some_and(|part| part.id > newest)
            });
            for at in entry.reached {
                if let Some(end) = end_of(at.part) {
                    reader.end_of_safe_is(at.part, end);
                }
            }
        }
        let name = name.to_string();
        self.lost_while_down(&name, LossCause::Gone, gone);
        self.lost_while_down(&name, LossCause::Truncated, cut_off);
        if has_gap {
            // What it got after it was looked at last, and whatever came and went behind it, is not
            // among the bytes that are counted.
            self.gaps += 1;
            metrics::counter!("splashdam_gaps_total").increment(1);
            tracing::error!(
                stream = name,
                "the log file that was read last went while no agent ran, and others came after it; \
                 what is lost between them nobody knows"
            );
        }
    }

    pub(super) fn gone(&mut self, name: &StreamName) {
        let Some(key) = self.names.get(name).copied() else { return };
        let stream = self.streams.get_mut(&key).expect("named");
        stream.files.clear();
        stream.gone = true;
        stream.listed = true;
        stream.later_restart = true;
        self.refresh(key);
        self.decide(key);
        self.wake(key);
        self.forget_if_finished(key);
    }

    pub(super) fn written(&mut self, name: &StreamName) {
        let Some(key) = self.names.get(name).copied() else { return };
        if self.streams[&key].unborn {
            self.refresh(key);
        }
        self.wake(key);
    }

    pub(super) fn refresh(&mut self, key: StreamKey) {
        let format = self.setup.agent.logs.format;
        let stream = self.streams.get_mut(&key).expect("known");
        let ended = stream.has_ended();
        let refreshed = stream.tail.refresh(&stream.files, ended, format);
        (stream.unborn, stream.unnamed) = (refreshed.unborn, refreshed.unnamed);
        self.scan_wanted |= refreshed.moved;
        self.unreadable.remove(&key);
        for (path, error) in refreshed.failed {
            self.unreadable.insert(key);
            metrics::counter!("splashdam_read_errors_total").increment(1);
            if let Some(suppressed) = throttle::allow("open") {
                tracing::error!(file = %path.display(), cause = %error, suppressed, "a log file can't be opened; the next look at its directory tries again");
            }
        }
        self.compare(key);
        self.read_overlooked(key);
        self.release(key);
    }

    /// Closes what nobody needs, and counts what is needed but can't be had any more.
    pub(super) fn release(&mut self, key: StreamKey) {
        let stream = self.streams.get_mut(&key).expect("known");
        let given_up = stream.is_undecided();
        for part in stream.tail.release(stream.needed_from()) {
            let whole = part.end_or_told().unwrap_or(0);
            let lost = stream.lose(part.id, whole);
            if lost > 0 {
                let cause = if part.truncated { LossCause::Truncated } else { LossCause::Gone };
                self.bytes_lost += lost;
                self.read_metrics.lost(cause, lost);
                tracing::error!(
                    stream = %stream.name, bytes = lost, cause = cause.as_str(),
                    "a log file went before it was read to its end; its bytes are lost"
                );
            } else if given_up {
                self.bytes_lost += whole;
                self.read_metrics.lost(LossCause::Undecided, whole);
            }
        }
        self.setup.held.give_back_spool(stream.tail.take_removed_bytes());
        self.note_held(key);
    }

    /// Queues the readers of a stream that have come to its end.
    pub(super) fn wake(&mut self, key: StreamKey) {
        let stream = self.streams.get_mut(&key).expect("known");
        for (pipeline, place) in stream.places.iter_mut().enumerate() {
            if let Some(reading) = place.reading()
                && !reading.queued
            {
                reading.queued = true;
                reading.at_end = false;
                self.ready.push_back((key, pipeline));
            }
        }
        self.stale = true;
    }

    pub(super) fn forget_if_finished(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        let outlets = &self.outlets;
        let waits_no_more = waits_no_more(&self.setup, stream.waited);
        let finished = |(pipeline, place): (usize, &Place)| match place {
            Place::Undecided => waits_no_more,
            Place::Left(_) => true,
            Place::Reading(reading) => {
                // A record whose cut is on its way to the disk is still to be taken.
                let all_read = reading.at_end && !reading.queued && reading.reader.asked.is_none();
                let is_open = outlets[pipeline].touched.contains(&key);
                all_read && reading.reader.ledger.is_settled() && !is_open
            }
        };
        if !stream.gone || !stream.places.iter().enumerate().all(finished) {
            return;
        }
        let mut stream = self.streams.remove(&key).expect("just seen");
        stream.tail.remove_copies();
        self.setup.held.give_back_spool(stream.tail.take_removed_bytes());
        self.holding.remove(&key);
        if stream.is_undecided() {
            self.lost_undecided(stream.bytes_after(Position::START));
        }
        self.open_bytes -= stream.open_bytes();
        for pipeline in 0..stream.places.len() {
            self.give_back_decoder((key, pipeline));
            self.failing.remove(&(key, pipeline));
        }
        self.unreadable.remove(&key);
        self.names.remove(&*stream.name);
        self.finished_streams +=
            u64::from(stream.places.iter().any(|place| matches!(place, Place::Reading(_))));
        let mut changes = self.forget_places(&stream);
        if !self.names.keys().any(|name| name.uid == stream.name.uid) {
            self.setup.pods.release(&stream.name.uid);
            changes.push(Change::ForgetPod(stream.name.uid.clone()));
        }
        self.setup.saver.save(changes);
    }

    fn lost_undecided(&mut self, lost: u64) {
        self.bytes_lost += lost;
        self.read_metrics.lost(LossCause::Undecided, lost);
    }

    /// Takes in new facts of a pod, or that the source has come into sync.
    pub(super) fn pod_changed(&mut self, change: &PodChange) {
        match change {
            PodChange::Pod(facts) => self.decide_again(|stream| facts.owns(&stream.name)),
            PodChange::InSync(true) => self.source_tells(),
            PodChange::InSync(false) => {}
        }
    }

    /// The source of pods has told what it knows, or it is not waited for any longer.
    pub(super) fn source_tells(&mut self) {
        self.source_told = true;
        self.decide_again(StreamState::is_undecided);
    }

    fn decide_again(&mut self, concerned: impl Fn(&StreamState) -> bool) {
        let keys: Vec<_> = (self.streams.iter())
            .filter(|(_, stream)| concerned(stream))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            self.look_up(key);
            if self.streams[&key].unborn {
                self.refresh(key);
            }
            self.decide(key);
            // Its status may say that the container has ended.
            self.wake(key);
        }
    }

    pub(super) fn look_up(&mut self, key: StreamKey) {
        let stream = self.streams.get_mut(&key).expect("known");
        if let Some(facts) = self.setup.pods.lookup(&stream.name) {
            stream.facts = Some(facts);
        }
        stream.status_told(None);
    }

    pub(super) fn decide(&mut self, key: StreamKey) {
        let stream = self.streams.get_mut(&key).expect("known");
        if !stream.listed {
            return;
        }
        let ground = Ground {
            agent: &self.setup.agent,
            pipelines: &self.setup.pipelines,
            names: self.outlets.iter().map(|outlet| Arc::clone(&outlet.names)).collect(),
            checkpoint: &self.setup.checkpoint,
            first_start: stream.from_before.then_some(&self.began_with),
            began_ns: self.began_ns,
            by_path: waits_no_more(&self.setup, stream.waited),
            suspects: &self.setup.suspects,
            source_told: self.source_told || self.setup.agent.kubernetes.source != PodSource::Api,
            without_status: status_waits_no_more(&self.setup, stream.status_waited),
        };
        stream.given_up = ground.by_path;
        self.open_bytes -= stream.open_bytes();
        let begun = stream.decide(&ground);
        if let Some(facts) = stream.facts_to_save() {
            // The pod may be gone at the next start, and its files still there.
            self.setup.saver.save(vec![Change::Pod(stream.name.uid.clone(), facts)]);
        }
        self.open_bytes += stream.open_bytes();
        for pipeline in 0..self.outlets.len() {
            if self.reader((key, pipeline)).is_none() {
                self.give_back_decoder((key, pipeline));
            }
        }
        if !begun.is_empty() {
            self.compare(key);
            self.read_overlooked(key);
            self.wake(key);
        }
    }
}

/// How long a pod that is known is waited for to tell of a container that has begun to write: the
/// kubelet reports its id and the pod's address within moments.
pub(super) const STATUS_WAIT: Duration = Duration::from_secs(3);

/// How long facts that were saved by an earlier process wait for the API server to tell newer ones.
pub(super) const SOURCE_WAIT: Duration = Duration::from_secs(10);

/// How long a list of pods that is read once may take to be read for a pod that was left out.
pub(super) const FILE_WAIT: Duration = Duration::from_secs(2);

/// Whether a pod whose status does not speak of a container's run is good enough by now.
fn status_waits_no_more(setup: &Setup, waited: Duration) -> bool {
    setup.agent.kubernetes.source != PodSource::Api || waited >= STATUS_WAIT
}

/// Whether path facts decide by now: no source will tell more, or it was waited for long enough.
pub(super) fn waits_no_more(setup: &Setup, waited: Duration) -> bool {
    let kubernetes = &setup.agent.kubernetes;
    match &kubernetes.source {
        PodSource::None => true,
        PodSource::File(_) if setup.once => setup.pods.in_sync() && waited >= FILE_WAIT,
        PodSource::File(_) | PodSource::Api => waited >= kubernetes.unknown_pod_wait,
    }
}
