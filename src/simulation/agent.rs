//! The agent put together as in `crate::agent`, but driven step by step on one thread: the real
//! worker, shippers and checkpoint; discovery, pods and outputs come from the simulation.
//!
//! After each step of the worker the checkpoint's thread has done what it was asked for, and the
//! invariants that hold at any time are checked.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task;
use tokio::time::{Instant, timeout};

use super::elastic::Elastic;
use crate::checkpoint::{Saver, Store};
use crate::config::{self, Environment, Pipeline, load};
use crate::discover::Found;
use crate::enrich::PodStore;
use crate::pipeline::batch::Told;
use crate::pipeline::budget::Budget;
use crate::pipeline::held::Held;
use crate::pipeline::in_hand::InHand;
use crate::pipeline::inbox::{Command, Event, Inbox};
use crate::pipeline::outlet::{IN_FLIGHT_MAX, Output};
use crate::pipeline::worker::{Report, Rescan, Setup, Worker};
use crate::ship::Shipper;
use crate::tail::spool::Spool;
use crate::telemetry::readiness::Readiness;

/// Takes everything; a filter drops some.
pub(super) const ALL: usize = 0;
/// Takes TaskManagers.
pub(super) const LABELLED: usize = 1;
/// Takes everything, and keeps what is refused.
pub(super) const KEEPING: usize = 2;

const PIPELINES: [&str; 3] = [
    "pipeline: all
select: [{select: {}}]
parse: {multiline: java}
filters: [{drop: {field: log.level, in: [DEBUG]}}]
output:
  elasticsearch: {hosts: [\"http://localhost:9\"], index: all, compression: none, refused_after: 10m}
",
    "pipeline: labelled
select: [{select: {labels: {component: taskmanager}}}]
parse: {multiline: java}
output:
  elasticsearch: {hosts: [\"http://localhost:9\"], index: labelled, compression: gzip, refused: drop}
",
    "pipeline: keeping
select: [{select: {}}]
parse: {multiline: java}
output:
  elasticsearch: {hosts: [\"http://localhost:9\"], index: keeping, compression: none, refused: dead_letter, refused_after: 10m}
",
];

/// Little, so that it is used up.
const BUDGET_BYTES: usize = 36 * 1024;
const BATCH_BYTES: usize = 6000;

/// The room that is asked for the largest records, each byte of which could become six.
const RECORD_BYTES: usize = 6000;

/// What outlives the process.
#[derive(Debug)]
pub(super) struct Ground {
    dir: tempfile::TempDir,
    agent: Arc<config::Agent>,
    pub(super) pipelines: Vec<Arc<Pipeline>>,
    pub(super) outputs: Vec<Elastic>,
    starts: u64,
    seed: u64,
    /// How many batches each output has forgotten.
    forgotten: Arc<[AtomicU64; PIPELINES.len()]>,
    /// The most that was held of the budget.
    pub(super) held_bytes: usize,
    /// The state directory before the last step.
    before: BTreeMap<&'static str, Option<Vec<u8>>>,
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

const STATE_FILES: [&str; 2] = ["checkpoint", "pods"];

impl Ground {
    pub(super) fn new(seed: u64) -> Self {
        let memory = Path::new("/dev/shm");
        let dir = match is_directory(memory) {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        }
        .expect("a directory");
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("pods")).expect("made");
        fs::create_dir_all(path("config")).expect("made");
        fs::write(path("agent.yaml"), "node_name: node-a\n").expect("written");
        for (index, text) in PIPELINES.iter().enumerate() {
            fs::write(path(&format!("config/{index}.yaml")), text).expect("written");
        }
        let environment = std::iter::empty::<(String, String)>().collect::<Environment>();
        let loaded = load(Some(&path("agent.yaml")), Some(&path("config")), &environment);
        let mut loaded = loaded.unwrap_or_else(|problems| panic!("{problems}"));
        loaded.agent.memory_budget_bytes = BUDGET_BYTES;
        for pipeline in &mut loaded.pipelines {
            pipeline.output.batch.size_bytes = BATCH_BYTES;
        }
        let outputs = (0..PIPELINES.len() as u64).map(|n| Elastic::new(seed ^ (n << 32))).collect();
        Self {
            dir,
            agent: Arc::new(loaded.agent),
            pipelines: loaded.pipelines.into_iter().map(Arc::new).collect(),
            outputs,
            starts: 0,
            seed,
            forgotten: Arc::default(),
            held_bytes: 0,
            before: BTreeMap::new(),
        }
    }

    pub(super) fn pods_dir(&self) -> PathBuf {
        self.dir.path().join("pods")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// What the state directory holds.
    pub(super) fn state_files(&self) -> BTreeMap<&'static str, Option<Vec<u8>>> {
        STATE_FILES.map(|name| (name, fs::read(self.state().join(name)).ok())).into()
    }

    /// Takes the state directory back to what it was.
    pub(super) fn restore(&self, files: &BTreeMap<&'static str, Option<Vec<u8>>>) {
        for (name, content) in files {
            let path = self.state().join(name);
            match content {
                Some(content) => fs::write(path, content).expect("written"),
                None => drop(fs::remove_file(path)),
            }
        }
    }

    pub(super) fn forgotten(&self, pipeline: usize) -> u64 {
        self.forgotten[pipeline].load(Ordering::Relaxed)
    }

    /// The disk of the state directory can't be written to, or can again.
    pub(super) fn set_disk(&self, works: bool) {
        for name in STATE_FILES {
            let in_the_way = self.state().join(format!("{name}.new"));
            let there = is_directory(&in_the_way);
            match (works, there) {
                (true, true) => fs::remove_dir(in_the_way).expect("removed"),
                (false, false) => {
                    drop(fs::remove_file(&in_the_way));
                    fs::create_dir(in_the_way).expect("made");
                }
                _ => {}
            }
        }
    }
}

/// What a process is made of.
#[derive(Debug)]
pub(super) struct Agent {
    worker: Worker,
    inbox: Arc<Inbox>,
    pub(super) pods: Arc<PodStore>,
    budget: Budget,
    saver: Saver,
    thread: JoinHandle<bool>,
    shippers: Vec<task::JoinHandle<()>>,
    woken: Arc<Notify>,
    rescan: Arc<AtomicBool>,
}

impl Agent {
    pub(super) fn start(ground: &mut Ground) -> Self {
        ground.starts += 1;
        let store = Store::open_soon(&ground.state());
        let inbox: Arc<Inbox> = Arc::default();
        let told = Arc::clone(&inbox);
        let pods = Arc::new(PodStore::new(Arc::new(move |change| told.pods_changed(change))));
        pods.restore(store.pods().values().cloned().collect());
        let (checkpoint, first_start) = (store.checkpoint().clone(), store.is_new());
        let (saver, thread) = Saver::start(store, || ()).expect("started");
        let budget = Budget::new(ground.agent.memory_budget_bytes, ground.pipelines.len());
        let woken: Arc<Notify> = Arc::default();
        let rescan: Arc<AtomicBool> = Arc::default();
        let mut shippers = Vec::new();
        let mut outputs = Vec::new();
        for (index, pipeline) in ground.pipelines.iter().enumerate() {
            let (batches, receiver) = mpsc::channel(2 * IN_FLIGHT_MAX);
            let (inbox, woken) = (Arc::clone(&inbox), Arc::clone(&woken));
            let forgotten = Arc::clone(&ground.forgotten);
            let report = move |told: Told| {
                if matches!(told, Told::Forgotten { .. }) {
                    forgotten[index].fetch_add(1, Ordering::Relaxed);
                }
                inbox.tell(Event::Told { pipeline: index, told });
                woken.notify_one();
            };
            let wire = ground.outputs[index].connect();
            let seed = ground.seed ^ (ground.starts << 16) ^ index as u64;
            let state = ground.state();
            let report = Arc::new(report);
            shippers.push(Shipper::start_scripted(pipeline, &state, receiver, report, wire, seed));
            outputs.push(Output { batches, oldest: Arc::new(vec![AtomicI64::new(0)]) });
        }
        let asked = Arc::clone(&rescan);
        let worker = Worker::new(Setup {
            index: 0,
            agent: Arc::clone(&ground.agent),
            pipelines: ground.pipelines.clone(),
            outputs,
            budget: budget.clone(),
            inbox: Arc::clone(&inbox),
            pods: Arc::clone(&pods),
            saver: saver.clone(),
            checkpoint,
            first_start,
            once: false,
            rescan: Rescan(Arc::new(move || asked.store(true, Ordering::Relaxed))),
            paused: mpsc::channel(1).0,
            alive: Arc::new(Readiness::new([], 1, Duration::from_secs(1))),
            held: Arc::new(Held::new(ground.agent.held, 1, 0)),
            spool: Spool::new(&ground.state()),
            in_hand: InHand::nowhere(),
            suspects: Vec::new(),
            copies: Vec::new(),
        });
        let agent = Self { worker, inbox, pods, budget, saver, thread, shippers, woken, rescan };
        agent.wait_for_saves();
        ground.before = ground.state_files();
        agent
    }

    /// Takes one step; whether there was something to do.
    pub(super) fn step(&mut self, ground: &mut Ground) -> bool {
        ground.before = ground.state_files();
        let busy = self.worker.step();
        self.wait_for_saves();
        self.check(ground);
        busy || self.worker.waits_for_saves()
    }

    fn wait_for_saves(&self) -> bool {
        let (reply, answer) = sync_channel(1);
        self.saver.save_then(Vec::new(), move |safe| reply.send(safe).expect("it is waited for"));
        answer.recv().expect("the thread lives")
    }

    /// Whether everything that was asked for is on the disk.
    pub(super) fn is_saved(&self) -> bool {
        self.wait_for_saves()
    }

    fn check(&self, ground: &mut Ground) {
        let (held, total) = (self.budget.held_bytes(), self.budget.total_bytes());
        ground.held_bytes = ground.held_bytes.max(held);
        // A record for which there could never be room passes beyond the limit; plain forms are
        // larger than what they stand for, and do not wait.
        let refusing = ground.outputs.iter().filter(|output| output.has_refused()).count();
        let most = total + ground.pipelines.len() * RECORD_BYTES + refusing * BATCH_BYTES;
        assert!(held <= most, "{held} bytes of {total} are held, by {refusing} that refuse");
        for (output, pipeline) in ground.outputs.iter().zip(&ground.pipelines) {
            let wrong = output.wrong();
            assert!(wrong.is_empty(), "{}: one id, two documents: {wrong:?}", pipeline.name);
        }
    }

    /// Steps until there is nothing to do without news or time.
    pub(super) fn rest(&mut self, ground: &mut Ground) {
        for _ in 0..100_000 {
            if !self.step(ground) {
                return;
            }
        }
        panic!("the worker never comes to rest");
    }

    /// Lets time pass, at most until discovery is asked to look; how much is left then.
    pub(super) async fn pass(&mut self, ground: &mut Ground, time: Duration) -> Duration {
        let end = Instant::now() + time;
        // Nothing that takes so long needs every tick.
        let least = if time > Duration::from_secs(300) { 20 } else { 0 };
        loop {
            self.rest(ground);
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.rescan.swap(false, Ordering::Relaxed) {
                return left;
            }
            let wakes = self.worker.wakes_in(Instant::now().into_std());
            let wait = wakes.max(Duration::from_secs(least)).max(Duration::from_millis(1));
            // It is woken, or its time has come.
            timeout(wait.min(left), self.woken.notified()).await.ok();
        }
    }

    pub(super) fn tell(&mut self, found: Vec<Found>) {
        for found in found {
            match found {
                Found::Stream { name, files, later_restart } => {
                    self.inbox.tell(Event::Listing { name, files, later_restart });
                }
                Found::Gone(name) => self.inbox.tell(Event::Gone(name)),
                Found::Written(name) => self.inbox.written(name),
                Found::Scanned { complete } => self.inbox.tell(Event::Scanned { complete }),
            }
        }
    }

    pub(super) fn worker(&mut self) -> &mut Worker {
        &mut self.worker
    }

    /// Everything in memory is gone. `unsaved`: also what was to be saved in the last step.
    pub(super) async fn crash(self, ground: &Ground, unsaved: bool) {
        let Self { worker, saver, thread, shippers, budget, .. } = self;
        drop(worker);
        end(shippers).await;
        drop(saver);
        thread.join().expect("ended");
        assert_eq!(budget.held_bytes(), 0, "all that is held is given back");
        if unsaved {
            ground.restore(&ground.before);
        }
    }

    /// Ends as with SIGTERM; whether all was safe in time.
    pub(super) async fn stop(mut self, ground: &mut Ground) -> (bool, Report) {
        let deadline = Instant::now() + ground.agent.drain;
        self.inbox.command(Command::Drain);
        loop {
            self.rest(ground);
            let left = deadline.saturating_duration_since(Instant::now());
            if self.worker.has_ended() || left.is_zero() {
                break;
            }
            timeout(left, self.woken.notified()).await.ok();
        }
        let in_time = self.worker.has_ended();
        let Self { worker, saver, thread, shippers, .. } = self;
        let report = worker.finish();
        end(shippers).await;
        drop(saver);
        let saved = thread.join().expect("ended");
        (in_time && saved, report)
    }
}

async fn end(shippers: Vec<task::JoinHandle<()>>) {
    for shipper in shippers {
        shipper.abort();
        if let Err(error) = shipper.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    // Their deliveries end when it is their turn.
    for _ in 0..4 {
        task::yield_now().await;
    }
}
