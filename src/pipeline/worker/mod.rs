//! The thread that does the work: it reads, parses, encodes, and keeps the acknowledged prefix.
//!
//! A worker owns its streams, their readers and ledgers, and its side of every pipeline; nobody
//! else touches them, so there is no lock on the way of a line. It takes turns between readers
//! that have something to read, each for at most one chunk, so a chatty container costs the
//! others only its share. Between turns it looks into its [`Inbox`]; with nothing to do it waits
//! there.
//!
//! [`streams`] is what happens to streams, [`turns`] to readers, [`safety`] to batches and the
//! checkpoint, [`holding`] to deleted files, [`reload`] when pipelines change.
//!
//! When the budget has no room or too many batches are in flight the readers concerned are
//! parked until an outcome comes: pressure goes back to the files.

mod holding;
mod reload;
mod safety;
mod streams;
mod turns;

#[cfg(test)]
mod driven;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::checkpoint::{Checkpoint, Saver};
use crate::config::{Agent, Pipeline};
use crate::discover::StreamName;
use crate::document::splice::Scratch;
use crate::enrich::PodStore;
use crate::parse::FrameScratch;
use crate::parse::record::LongBuffers;
use crate::pipeline::budget::Budget;
use crate::pipeline::clock;
use crate::pipeline::held::Held;
use crate::pipeline::in_hand::{InHand, Suspect};
use crate::pipeline::inbox::{Command, Event, Inbox, News};
use crate::pipeline::outlet::{Outlet, Output, StreamKey, Totals};
use crate::pipeline::place::StreamState;
use crate::tail::Position;
use crate::tail::spool::{Copied, Spool};
use crate::telemetry::metrics::{AgentMetrics, ReadMetrics};
use crate::telemetry::readiness::Readiness;

/// How many compressed parts a worker reads at once (about 300 KiB each, with what is kept); each
/// pipeline has the same share of it, and one at least.
const DECODERS_MAX: usize = 16;

/// For how long after its last line a record of several lines is waited for, and for how long
/// when the runtime's clock is not this one.
const QUIET: Duration = Duration::from_secs(2);
const QUIET_AT_MOST: Duration = Duration::from_secs(4);

/// How soon a part that is too fresh to be left, or can't be read, is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How often slow things are done: waiting for pods, releasing handles, showing figures.
const TICK: Duration = Duration::from_secs(1);

/// How often a worker that has nothing in flight while it drains looks whether all have.
const OTHERS_SETTLE: Duration = Duration::from_millis(50);

/// How often a worker shows that it is alive, at least.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

/// Which reader: a stream and the index of a pipeline.
type ReaderKey = (StreamKey, usize);

/// What a worker is made of and connected to.
#[derive(Debug)]
pub struct Setup {
    pub index: usize,
    pub agent: Arc<Agent>,
    pub pipelines: Vec<Arc<Pipeline>>,
    pub outputs: Vec<Output>,
    pub budget: Budget,
    pub inbox: Arc<Inbox>,
    pub pods: Arc<PodStore>,
    pub saver: Saver,
    /// What was in the checkpoint at the start of this worker's streams.
    pub checkpoint: Checkpoint,
    /// Whether there was no checkpoint at all.
    pub first_start: bool,
    /// End when everything that is there was read and is safe.
    pub once: bool,
    /// Asks discovery to look at the directories now.
    pub rescan: Rescan,
    /// Told when a pause has come to nothing in flight.
    pub paused: tokio::sync::mpsc::Sender<usize>,
    /// Told that the worker is alive.
    pub alive: Arc<Readiness>,
    /// What all workers hold of deleted files.
    pub held: Arc<Held>,
    /// Where that is copied to at the end.
    pub spool: Spool,
    /// Where is written down what is being taken.
    pub in_hand: InHand,
    /// What was, when earlier processes crashed.
    pub suspects: Vec<Suspect>,
    /// What an earlier process copied of this worker's streams.
    pub copies: Vec<Copied>,
}

/// Asks discovery to look at the directories now.
#[derive(Clone)]
pub struct Rescan(pub Arc<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Rescan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rescan")
    }
}

/// What a worker did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub streams: u64,
    pub totals: Totals,
    pub bytes_unfinished: u64,
    pub bytes_lost: u64,
    /// Everything that was read is safe, and all could be read.
    pub safe: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Worker {
    setup: Setup,
    outlets: Vec<Outlet>,
    streams: BTreeMap<StreamKey, StreamState>,
    names: HashMap<StreamName, StreamKey>,
    next_key: StreamKey,
    /// Readers that have something to read.
    ready: VecDeque<ReaderKey>,
    /// Readers that wait for an outcome.
    parked: Vec<ReaderKey>,
    /// Readers that wait for a decompressor.
    unpacking: VecDeque<ReaderKey>,
    /// Readers that look again soon.
    again: Vec<ReaderKey>,
    again_at: Option<Instant>,
    /// Readers that look again with the next tick.
    later: Vec<ReaderKey>,
    /// A listing was not true any more.
    scan_wanted: bool,
    /// Readers whose open records wait for nothing but a next line.
    waiting: BTreeMap<ReaderKey, Waiting>,
    /// When they were looked at last.
    waiting_looked: Instant,
    saves: u64,
    asked: HashMap<u64, Vec<ReaderKey>>,
    buffer: Vec<u8>,
    frames: FrameScratch,
    long: LongBuffers,
    scratch: Scratch,
    scanned: bool,
    /// Bytes of open records of all readers.
    open_bytes: usize,
    /// Readers of which the checkpoint does not say how far they are.
    unsaved: BTreeSet<ReaderKey>,
    /// Streams whose handles may be closed.
    released: BTreeSet<StreamKey>,
    /// Streams that were read to their end and have gone.
    finished_streams: u64,
    /// Something changed since figures were shown.
    stale: bool,
    /// When files that can't be opened were tried again.
    opened_again: Instant,
    ticked: Instant,
    saved: Instant,
    /// Readers that hold a decompressor.
    unpackers: HashSet<ReaderKey>,
    /// Files and bytes that nothing but handles of each stream keeps on the disk.
    holding: BTreeMap<StreamKey, (u64, u64)>,
    /// Streams of which a file could not be looked at when that was last tried.
    unreadable: BTreeSet<StreamKey>,
    /// Readers that could not read when they last tried.
    failing: BTreeSet<ReaderKey>,
    bytes_lost: u64,
    /// Streams that lost something while no agent ran, of which nobody knows how much.
    gaps: u64,
    command: Command,
    pause: Pause,
    /// What pipelines did that are no more.
    retired: Totals,
    /// Names of pipelines that are no more.
    retired_names: BTreeSet<String>,
    began: Instant,
    /// The same by the wall clock, nanoseconds since the epoch.
    began_ns: i64,
    /// Names of the pipelines that there were then.
    began_with: BTreeSet<String>,
    /// The source of pods has come into sync once, or it was waited for long enough.
    source_told: bool,
    read_metrics: ReadMetrics,
    agent_metrics: AgentMetrics,
    /// What this worker has added to the gauges that all workers share.
    shown: Shown,
}

/// How a reader waits for a next line.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    since: Instant,
    /// How far its open records go: more of them begins the wait anew.
    at: [Option<Position>; 2],
    /// It looked at the file once more after it had waited long enough: nobody may have told it
    /// of a line.
    looked: bool,
}

impl Waiting {
    fn new(at: [Option<Position>; 2]) -> Self {
        Self { since: clock::now(), at, looked: false }
    }
}

/// Whether reading stands still because pipelines are going to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    None,
    /// Outcomes are waited for.
    Settling,
    /// There is nothing to wait for, and that was told.
    Settled,
}

/// What one worker has added to shared gauges.
#[derive(Debug, Default)]
struct Shown {
    streams: [u32; 3],
    held_bytes: u64,
}

impl Worker {
    /// A worker that has nothing yet.
    pub fn new(setup: Setup) -> Self {
        let outlet = |(index, output): (usize, &Output)| {
            let pipeline = Arc::clone(&setup.pipelines[index]);
            Outlet::new(setup.index, index, pipeline, setup.budget.clone(), output.clone())
        };
        let outlets = setup.outputs.iter().enumerate().map(outlet).collect();
        let now = clock::now();
        let began_with = setup.pipelines.iter().map(|pipeline| pipeline.name.clone()).collect();
        Self {
            outlets,
            began_with,
            setup,
            streams: BTreeMap::new(),
            names: HashMap::new(),
            next_key: 0,
            ready: VecDeque::new(),
            parked: Vec::new(),
            unpacking: VecDeque::new(),
            again: Vec::new(),
            again_at: None,
            later: Vec::new(),
            scan_wanted: false,
            waiting: BTreeMap::new(),
            waiting_looked: now,
            saves: 0,
            asked: HashMap::new(),
            buffer: Vec::new(),
            frames: FrameScratch::default(),
            long: LongBuffers::default(),
            scratch: Scratch::default(),
            scanned: false,
            open_bytes: 0,
            unsaved: BTreeSet::new(),
            released: BTreeSet::new(),
            finished_streams: 0,
            stale: true,
            ticked: now,
            opened_again: now,
            saved: now,
            unpackers: HashSet::new(),
            holding: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            failing: BTreeSet::new(),
            bytes_lost: 0,
            gaps: 0,
            command: Command::Run,
            pause: Pause::None,
            retired: Totals::default(),
            retired_names: BTreeSet::new(),
            began: now,
            began_ns: now_ns(),
            source_told: false,
            read_metrics: ReadMetrics::new(),
            agent_metrics: AgentMetrics::new(),
            shown: Shown::default(),
        }
    }

    /// Works until it is told to stop, or until everything is done.
    pub fn run(mut self) -> Report {
        self.adopt_copies();
        loop {
            let now = clock::now();
            let busy = self.may_read() && !self.ready.is_empty();
            let patience = if busy { Duration::ZERO } else { self.patience(now) };
            let news = self.setup.inbox.take(patience, self.command);
            self.take_in(news);
            if self.command >= Command::Stop {
                break;
            }
            self.work();
            self.pass_time(clock::now());
            if self.is_done() {
                break;
            }
        }
        // The others need not wait for this one.
        self.setup.held.settles(self.setup.index);
        self.setup.inbox.close();
        if self.command != Command::Abort {
            self.copy_held();
        }
        let saved = self.save_and_wait();
        self.report(saved)
    }

    /// Lets the next reader take its turn.
    fn work(&mut self) {
        if self.may_read()
            && let Some(key) = self.ready.pop_front()
        {
            self.turn(key);
        }
    }

    fn may_read(&self) -> bool {
        self.command == Command::Run && self.pause == Pause::None
    }

    /// How long there is nothing to do unless news come.
    fn patience(&self, now: Instant) -> Duration {
        let reads = self.may_read() || self.command == Command::Drain;
        let lingering = self.outlets.iter().filter_map(Outlet::due).filter(|_| reads);
        let saving = (!self.unsaved.is_empty())
            .then(|| self.saved + self.setup.agent.state.checkpoint_interval);
        let waiting =
            (self.may_read() && !self.waiting.is_empty()).then(|| self.waiting_looked + LOOK_AGAIN);
        // A tick has something to do only while something is under way.
        let ticks = self.stale || !self.later.is_empty() || self.has_undecided();
        let tick = self.ticked + if ticks { TICK } else { SIGN_OF_LIFE };
        // The others may be about to settle too.
        let settled = self.command == Command::Drain && self.outlets.iter().all(Outlet::is_settled);
        let others = settled.then(|| now + OTHERS_SETTLE);
        let sooner = lingering.chain(saving).chain(waiting).chain(self.again_at).chain(others);
        let next = sooner.fold(tick, Instant::min);
        next.saturating_duration_since(now)
    }

    fn has_undecided(&self) -> bool {
        self.streams.values().any(StreamState::is_undecided)
    }

    fn take_in(&mut self, news: News) {
        self.command = news.command;
        for change in &news.pods {
            self.pod_changed(change);
        }
        for event in news.events {
            match event {
                Event::Listing { name, files, later_restart } => {
                    self.listed(name, files, later_restart)
                }
                Event::Gone(name) => self.gone(&name),
                Event::Scanned { complete } => self.scanned(complete),
                Event::Told { pipeline, told } => self.told(pipeline, told),
                Event::CutSaved { cut, safe } => self.cut_saved(cut, safe),
                Event::Pause => self.pause(),
                Event::Pipelines(pipelines) => self.switch(pipelines),
            }
        }
        for name in &news.written {
            self.written(name);
        }
    }
}

/// The wall clock, nanoseconds since the epoch.
pub(super) fn now_ns() -> i64 {
    clock::wall_ns()
}
