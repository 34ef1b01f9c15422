//! What happens when pipelines change: reading stands still, what is in flight is answered or let go
//! of, and every place is decided anew from where it was acknowledged.
//!
//! Files stay open and streams known, so that nothing is lost that only a handle keeps. A pipeline
//! keeps its places by its name: one that is changed goes on where it was, one that is taken away
//! and comes back as well, one that is new begins at the oldest line.

use std::sync::Arc;

use super::{Pause, Worker, now_ns};
use crate::checkpoint::{Change, Key};
use crate::pipeline::inbox::Pipelines;
use crate::pipeline::outlet::Outlet;
use crate::pipeline::place::{Place, StreamState};

impl Worker {
    /// Reads no more until [`Self::switch`].
    pub(super) fn pause(&mut self) {
        self.pause = Pause::Settling;
        self.tell_when_settled();
    }

    /// Says that nothing is in flight any more, if that is asked.
    pub(super) fn tell_when_settled(&mut self) {
        if self.pause == Pause::Settling && self.outlets.iter().all(Outlet::is_alone) {
            self.pause = Pause::Settled;
            if self.setup.paused.try_send(self.setup.index).is_err() {
                tracing::debug!("nobody waits for the pause");
            }
        }
    }

    /// Takes up the new pipelines.
    pub(super) fn switch(&mut self, new: Pipelines) {
        for pipeline in 0..self.outlets.len() {
            let streams = self.outlets[pipeline].forget_from(0);
            self.go_back(pipeline, 0, streams);
            self.retired += self.outlets[pipeline].totals;
            // Nothing of it waits any more, also where nobody follows it.
            self.outlets[pipeline].is_back();
            self.outlets[pipeline].show(0, 0, now_ns());
        }
        self.forget_asked();
        self.remember_places();
        let before = std::mem::replace(&mut self.setup.pipelines, new.pipelines);
        self.retired_names.extend(before.iter().map(|pipeline| pipeline.name.clone()));
        for pipeline in &self.setup.pipelines {
            self.retired_names.remove(&pipeline.name);
        }
        self.setup.budget = new.budget;
        let outlet = |(index, output)| {
            let pipeline = Arc::clone(&self.setup.pipelines[index]);
            Outlet::new(self.setup.index, index, pipeline, self.setup.budget.clone(), output)
        };
        self.outlets = new.outputs.into_iter().enumerate().map(outlet).collect();
        self.setup.outputs = Vec::new();
        self.forget_queues();
        self.pause = Pause::None;
        let pipelines = self.outlets.len();
        for key in self.streams.keys().copied().collect::<Vec<_>>() {
            let stream = self.streams.get_mut(&key).expect("just listed");
            stream.places = (0..pipelines).map(|_| Place::Undecided).collect();
            self.decide(key);
            self.wake(key);
        }
    }

    /// Cuts of which nobody has said that they are on the disk are none for those who follow: they
    /// would take the records at once.
    fn forget_asked(&mut self) {
        for stream in self.streams.values_mut() {
            for reading in stream.places.iter_mut().filter_map(Place::reading) {
                reading.reader.asked = None;
            }
        }
    }

    /// Puts where every reader is into the checkpoint, on the disk and here: new readers begin there.
    fn remember_places(&mut self) {
        let mut changes = Vec::new();
        for stream in self.streams.values() {
            for (place, pipeline) in stream.places.iter().zip(&self.setup.pipelines) {
                let Some(reader) = place.reader() else { continue };
                let key = stream.key(&pipeline.name);
                let entry = stream.entry(reader);
                self.setup.checkpoint.insert(key.clone(), entry.clone());
                changes.push(Change::Put(key, Box::new(entry)));
            }
        }
        if !changes.is_empty() {
            self.setup.saver.save(changes);
        }
    }

    /// No reader of before is in any queue.
    fn forget_queues(&mut self) {
        self.unpackers.clear();
        self.ready.clear();
        self.parked.clear();
        self.unpacking.clear();
        self.again.clear();
        self.again_at = None;
        self.later.clear();
        self.waiting.clear();
        self.asked.clear();
        self.unsaved.clear();
        self.failing.clear();
        self.open_bytes = 0;
    }

    /// The changes that forget a stream, for all pipelines that ever had a place in it.
    pub(super) fn forget_places(&mut self, stream: &StreamState) -> Vec<Change> {
        let names = self.setup.pipelines.iter().map(|pipeline| &pipeline.name);
        let names = names.chain(&self.retired_names);
        let keys: Vec<Key> = names.map(|pipeline| stream.key(pipeline)).collect();
        for key in &keys {
            self.setup.checkpoint.remove(key);
        }
        keys.into_iter().map(Change::Remove).collect()
    }
}
