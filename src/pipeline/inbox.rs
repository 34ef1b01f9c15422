//! What a worker is told: by discovery, by the outputs, by the checkpoint, and by its owner.
//!
//! Owns the one place where a worker waits. Hints are coalesced, so that a container that writes
//! ten thousand lines a second is one entry. Listings wait for room ([`LISTINGS_MAX`]), which
//! holds up discovery, never a worker; everything else is bounded by what the worker has asked
//! for (batches in flight, saves under way).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::batch::Told;
use super::budget::Budget;
use super::outlet::Output;
use crate::config::Pipeline;
use crate::discover::{FileSeen, StreamName};
use crate::enrich::store::Change;

/// How many listings may wait.
const LISTINGS_MAX: usize = 256;

/// Something that changed, and was not a mere hint.
#[derive(Debug)]
pub enum Event {
    /// The stream's files, whenever they differ from what was told before.
    Listing { name: StreamName, files: Vec<FileSeen>, later_restart: bool },
    /// No file of the stream is left.
    Gone(StreamName),
    /// Everything that was there has been listed.
    Scanned { complete: bool },
    /// The output of this pipeline has something to tell.
    Told { pipeline: usize, told: Told },
    /// Pipelines are going to change: read no more, and say when nothing waits for an outcome.
    Pause,
    /// These are the pipelines from now on. What is still in flight is forgotten.
    Pipelines(Pipelines),
    /// The cut with this number is in the checkpoint, or could not be written.
    CutSaved { cut: u64, safe: bool },
}

/// What a worker does its work for.
#[derive(Debug, Clone)]
pub struct Pipelines {
    pub pipelines: Vec<Arc<Pipeline>>,
    /// In the same order.
    pub outputs: Vec<Output>,
    pub budget: Budget,
}

/// What the owner wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Command {
    Run,
    /// Read no more, send what is closed, report when it is safe.
    Drain,
    /// Wait for nothing any longer: keep what would be lost, and end.
    Stop,
    /// End now, as in a crash.
    Abort,
}

#[derive(Debug)]
struct Waiting {
    events: VecDeque<Event>,
    listings: usize,
    written: BTreeSet<StreamName>,
    /// The last change of each pod by UID; under the empty name whether the source is in sync.
    pods: BTreeMap<String, Change>,
    command: Command,
    closed: bool,
}

/// All that came since the last look.
#[derive(Debug)]
pub struct News {
    pub events: VecDeque<Event>,
    /// Streams whose live file was written to.
    pub written: BTreeSet<StreamName>,
    pub pods: Vec<Change>,
    pub command: Command,
}

/// A worker's inbox; shared with everybody who has something to tell.
#[derive(Debug)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    news: Condvar,
    room: Condvar,
}

impl Default for Inbox {
    fn default() -> Self {
        let waiting = Waiting {
            events: VecDeque::new(),
            listings: 0,
            written: BTreeSet::new(),
            pods: BTreeMap::new(),
            command: Command::Run,
            closed: false,
        };
        Self { waiting: Mutex::new(waiting), news: Condvar::new(), room: Condvar::new() }
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells an event; a listing waits for room.
    pub fn tell(&self, event: Event) {
        let mut waiting = self.lock();
        if matches!(event, Event::Listing { .. }) {
            while waiting.listings >= LISTINGS_MAX && !waiting.closed {
                waiting = self.room.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            waiting.listings += 1;
        }
        if !waiting.closed {
            waiting.events.push_back(event);
            self.news.notify_one();
        }
    }

    /// Hints that a stream's live file was written to.
    pub fn written(&self, name: StreamName) {
        if self.lock().written.insert(name) {
            self.news.notify_one();
        }
    }

    /// Tells that the facts of a pod changed, or whether their source is in sync.
    pub fn pods_changed(&self, change: &Change) {
        let uid = match change {
            Change::Pod(facts) => facts.uid.clone(),
            Change::InSync(_) => String::new(),
        };
        self.lock().pods.insert(uid, change.clone());
        self.news.notify_one();
    }

    /// Tells what the owner wants; never takes back a stronger wish.
    pub fn command(&self, command: Command) {
        let mut waiting = self.lock();
        waiting.command = waiting.command.max(command);
        self.news.notify_one();
    }

    /// Takes all that came; waits for at most `patience` while there is nothing, `known` being
    /// the command that the worker follows already.
    pub fn take(&self, patience: Duration, known: Command) -> News {
        let mut waiting = self.lock();
        if !patience.is_zero() {
            let nothing = |waiting: &mut Waiting| {
                waiting.events.is_empty()
                    && waiting.written.is_empty()
                    && waiting.pods.is_empty()
                    && waiting.command == known
            };
            let waited = self.news.wait_timeout_while(waiting, patience, nothing);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting.listings = 0;
        self.room.notify_all();
        News {
            events: std::mem::take(&mut waiting.events),
            written: std::mem::take(&mut waiting.written),
            pods: std::mem::take(&mut waiting.pods).into_values().collect(),
            command: waiting.command,
        }
    }

    /// Takes nothing any more: nobody waits for room.
    pub fn close(&self) {
        self.lock().closed = true;
        self.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(pod: &str) -> StreamName {
        StreamName {
            namespace: "n".into(),
            pod: pod.into(),
            uid: "u".into(),
            container: "c".into(),
            restart: 0,
        }
    }

    #[test]
    fn hints_are_coalesced_and_taken_once() {
        let inbox = Inbox::default();
        inbox.written(name("a"));
        inbox.written(name("a"));
        inbox.pods_changed(&Change::InSync(true));
        inbox.pods_changed(&Change::InSync(false));
        let news = inbox.take(Duration::ZERO, Command::Run);
        assert_eq!((news.written.len(), news.pods.len()), (1, 1));
        assert!(inbox.take(Duration::ZERO, Command::Run).written.is_empty());
    }

    #[test]
    fn a_full_inbox_holds_up_the_listing_until_it_is_taken() {
        let inbox = Inbox::default();
        let listing = || Event::Listing { name: name("a"), files: vec![], later_restart: false };
        std::thread::scope(|scope| {
            let teller = scope.spawn(|| (0..LISTINGS_MAX * 3).for_each(|_| inbox.tell(listing())));
            let mut taken = 0;
            while taken < LISTINGS_MAX * 3 {
                let events = inbox.take(Duration::from_secs(10), Command::Run).events;
                assert!(events.len() <= LISTINGS_MAX);
                taken += events.len();
            }
            teller.join().expect("told");
        });
    }

    #[test]
    fn a_command_that_came_while_the_worker_was_busy_is_not_waited_upon() {
        let inbox = Inbox::default();
        inbox.command(Command::Drain);
        let began = std::time::Instant::now();
        assert_eq!(inbox.take(Duration::from_secs(30), Command::Run).command, Command::Drain);
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_stop_is_not_taken_back() {
        let inbox = Inbox::default();
        inbox.command(Command::Stop);
        inbox.command(Command::Drain);
        assert_eq!(inbox.take(Duration::ZERO, Command::Run).command, Command::Stop);
    }
}
