//! A worker that a test drives step by step on its own thread, and what a test may look at.

use std::time::{Duration, Instant};

use super::Report;
use super::Worker;
use crate::pipeline::clock;
use crate::pipeline::inbox::{Command, Inbox};
use crate::pipeline::outlet::Totals;
use crate::pipeline::place::Place;
use crate::pipeline::reader::Accounts;

/// One reader, for checks.
#[derive(Debug)]
pub(crate) struct ReaderSeen {
    pub(crate) pipeline: usize,
    pub(crate) accounts: Accounts,
    /// Bytes that are there and not acknowledged.
    pub(crate) behind_bytes: u64,
}

impl Worker {
    /// Takes one step. `false`: there was nothing to do.
    pub(crate) fn step(&mut self) -> bool {
        let news = self.setup.inbox.take(Duration::ZERO, self.command);
        let told = !news.events.is_empty() || !news.written.is_empty() || !news.pods.is_empty();
        self.take_in(news);
        if self.command == Command::Stop {
            return false;
        }
        let read = self.may_read() && !self.ready.is_empty();
        self.work();
        self.pass_time(clock::now());
        told || read
    }

    /// Whether a save is under way on whose answer it waits.
    pub(crate) fn waits_for_saves(&self) -> bool {
        !self.asked.is_empty()
    }

    /// When there is something to do without news.
    pub(crate) fn wakes_in(&self, now: Instant) -> Duration {
        self.patience(now)
    }

    pub(crate) fn inbox(&self) -> &Inbox {
        &self.setup.inbox
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.is_done()
    }

    /// Ends as it does when it is told to.
    pub(crate) fn finish(mut self) -> Report {
        self.setup.inbox.close();
        let saved = self.save_and_wait();
        self.report(saved)
    }

    pub(crate) fn totals(&self) -> Vec<Totals> {
        self.outlets.iter().map(|outlet| outlet.totals).collect()
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.outlets.iter().all(super::Outlet::is_settled)
    }

    pub(crate) fn bytes_lost(&self) -> u64 {
        self.bytes_lost
    }

    /// Every reader that reads.
    pub(crate) fn readers(&mut self) -> Vec<ReaderSeen> {
        let mut seen = Vec::new();
        for stream in self.streams.values_mut() {
            for pipeline in 0..stream.places.len() {
                let Place::Reading(reading) = &stream.places[pipeline] else { continue };
                seen.push(ReaderSeen {
                    pipeline,
                    accounts: reading.reader.accounts(),
                    behind_bytes: stream.bytes_after(reading.reader.needs_from()),
                });
            }
        }
        seen
    }
}
