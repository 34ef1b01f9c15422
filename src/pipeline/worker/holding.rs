//! What happens to deleted files that are not read to their end: limits while the agent runs, and
//! copies for the next process when it ends.

use std::sync::Arc;

use super::Worker;
use crate::discover::PartKind;
use crate::pipeline::held::{GiveUp, Share};
use crate::pipeline::outlet::{StreamKey, as_gauge};
use crate::telemetry::metrics::LossCause;
use crate::telemetry::throttle;

impl Worker {
    /// Takes in what a stream holds by now.
    pub(super) fn note_held(&mut self, key: StreamKey) {
        let held = self.streams.get(&key).map_or((0, 0), |stream| stream.tail.held());
        if held == (0, 0) {
            self.holding.remove(&key);
        } else {
            self.holding.insert(key, held);
        }
    }

    /// Gives up parts of the streams that hold most while more is held than may be.
    pub(super) fn hold_within_limits(&mut self) {
        while let Some(what) = self.setup.held.report(self.setup.index, self.share()) {
            let holding = self.holding.iter();
            let most = holding.max_by_key(|(_, (files, bytes))| match what {
                GiveUp::MostBytes => *bytes,
                GiveUp::MostFiles => *files,
            });
            let Some(key) = most.map(|(key, _)| *key) else { break };
            self.give_up_oldest(key);
        }
        let bytes = self.share().bytes;
        let change = as_gauge(bytes) - as_gauge(self.shown.held_bytes);
        self.agent_metrics.held_bytes.increment(change);
        self.shown.held_bytes = bytes;
    }

    fn share(&self) -> Share {
        let mut share = Share::default();
        for (files, bytes) in self.holding.values() {
            share.files += files;
            share.bytes += bytes;
            share.most_files = share.most_files.max(*files);
            share.most_bytes = share.most_bytes.max(*bytes);
        }
        share
    }

    fn give_up_oldest(&mut self, key: StreamKey) {
        let stream = self.streams.get_mut(&key).expect("it holds something");
        if let Some(part) = stream.tail.give_up_oldest() {
            let whole = part.end_or_guess();
            let unread = stream.lose(part.id, whole);
            let lost = if stream.is_undecided() { whole } else { unread };
            self.lost_held(key, LossCause::Held, lost);
            // The next process is not to count it again.
            self.remember(key);
            self.wake(key);
        }
        self.note_held(key);
    }

    fn lost_held(&mut self, key: StreamKey, cause: LossCause, lost: u64) {
        self.bytes_lost += lost;
        self.read_metrics.lost(cause, lost);
        if let Some(suppressed) = throttle::allow(cause.as_str()) {
            tracing::error!(
                stream = %self.streams[&key].name, bytes = lost, cause = cause.as_str(), suppressed,
                "more is held of deleted log files than may be; the oldest is given up and its bytes are lost"
            );
        }
    }

    /// Copies what is not safe of deleted files to the state directory, as much as may be.
    pub(super) fn copy_held(&mut self) {
        let (mut copied, mut kept) = (0, 0);
        let keys: Vec<StreamKey> = self.streams.keys().copied().collect();
        for key in keys {
            // Nobody reads while the worker drains, and what was written and removed meanwhile may not
            // have been listed.
            if self.streams.get_mut(&key).is_some_and(|stream| stream.tail.look_last()) {
                self.remember(key);
            }
            let stream = &self.streams[&key];
            let Some(needed) = stream.needed_from() else { continue };
            let parts = stream.tail.parts().iter().filter(|part| part.id >= needed.part);
            let mut lost = 0;
            for part in parts.filter(|part| part.held().is_some()) {
                let from = if part.id == needed.part { needed.offset } else { 0 };
                // Of a compressed part there is no copying the end alone.
                let is_safe = part.end().is_some_and(|end| end <= from);
                let skipped = if part.kind == PartKind::Gzip { 0 } else { from };
                let bytes = part.disk_bytes().saturating_sub(skipped);
                if is_safe || bytes == 0 {
                    continue;
                }
                if !self.setup.held.take_spool(bytes) {
                    lost += bytes;
                    continue;
                }
                match self.setup.spool.keep(&stream.name, part, from) {
                    Ok(bytes) => {
                        copied += 1;
                        kept += bytes;
                    }
                    Err(error) => {
                        self.setup.held.give_back_spool(bytes);
                        lost += bytes;
                        tracing::error!(stream = %stream.name, cause = %error, "a deleted log file can't be copied to the state directory");
                    }
                }
            }
            if lost > 0 {
                self.lost_held(key, LossCause::Spool, lost);
            }
        }
        if copied > 0 {
            tracing::info!(
                files = copied,
                bytes = kept,
                "copied deleted log files that are not safe yet to the state directory"
            );
            if let Err(error) = self.setup.spool.sync() {
                tracing::warn!(cause = %error, "those copies may not survive a power loss");
            }
        }
    }

    /// Takes up what an earlier process copied. Nothing of it is read before it is known which
    /// other parts there are: its stream is listed, or was not when everything was.
    pub(super) fn adopt_copies(&mut self) {
        for copy in std::mem::take(&mut self.setup.copies) {
            let Some(name) = copy.stream() else { continue };
            match copy.clone().open() {
                Ok(spooled) => {
                    let key = self.known(name);
                    let stream = self.streams.get_mut(&key).expect("just made");
                    stream.listed = false;
                    stream.tail.adopt(spooled);
                }
                Err(error) => {
                    if error.kind() == std::io::ErrorKind::NotFound {
                        // What it is of alone is of no use.
                        copy.remove();
                    }
                    tracing::error!(stream = %name, cause = %error, "a copy of a deleted log file can't be opened; its bytes are lost");
                }
            }
        }
    }

    /// Streams that are known from copies alone have no file left.
    pub(super) fn copies_alone(&mut self) {
        let unlisted = self.streams.values().filter(|stream| !stream.listed);
        let names: Vec<_> = unlisted.map(|stream| Arc::clone(&stream.name)).collect();
        for name in names {
            let key = self.names[&*name];
            self.look_up(key);
            self.gone(&name);
        }
    }
}
