//! Puts the stages together and takes them apart again: the only file that knows all of them.
//!
//! Threads: one for the runtime (outputs, pods, telemetry, signals), one per worker, one for
//! discovery, one for the checkpoint. They meet in bounded places only: inboxes of workers,
//! channels of batches, the byte budget.
//!
//! Ends in the order of the data: workers stop reading and wait for their outputs until one
//! deadline, then discovery and the outputs are stopped, and the checkpoint is written. Whatever
//! is not acknowledged by then is read again at the next start. [`outputs`] starts what ships,
//! [`reload`] changes pipelines while everything else goes on.

mod allocator;
mod outputs;
mod reload;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use rustix::process::{Resource, Rlimit};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::outputs::Outputs;
pub use self::reload::Load;
use self::reload::Reload;

use crate::checkpoint::store::StoreError;
use crate::checkpoint::{Change, Checkpoint, Saver, Store};
use crate::config::agent::PodSource;
use crate::config::{Agent, Loaded, Pipeline};
use crate::discover::{self, Discovery, Found, OwnPod, StreamName};
use crate::enrich::pods_file::PodsFile;
use crate::enrich::{self, PodStore};
use crate::pipeline::held::Held;
use crate::pipeline::in_hand::InHand;
use crate::pipeline::inbox::{Command, Event, Inbox};
use crate::pipeline::outlet::Totals;
use crate::pipeline::worker::{Report, Rescan, Setup, Worker};
use crate::ship::State;
use crate::tail::spool::{Copied, Spool};
use crate::telemetry::metrics::{AgentMetrics, show_output_state};
use crate::telemetry::readiness::{Condition, Readiness};
use crate::telemetry::{self, throttle};

/// How often the state directory is tried, conditions are looked at, and metrics are kept up.
const TICK: Duration = Duration::from_secs(1);

/// A worker that has not gone round for so long is stuck: the kubelet is to start the agent anew.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// For how long the end waits for the disk of the checkpoint.
const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// How the agent ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It does not.
    Follow,
    /// When everything that is there was read and is safe, or the deadline has passed.
    Once { deadline: Duration },
}

/// How the agent ended.
#[derive(Debug)]
pub struct Ended {
    /// Everything that was read is safe.
    pub safe: bool,
    /// The one-line summary of [`Mode::Once`].
    pub summary: Option<String>,
}

/// What `--once` prints; the design of the command line names the fields.
#[derive(Debug, Serialize)]
struct Summary {
    streams: u64,
    lines_read: u64,
    lines_indexed: u64,
    lines_refused: u64,
    lines_filtered: u64,
    documents_indexed: u64,
    documents_refused: u64,
    duplicates_answered: u64,
    bytes_read: u64,
    bytes_unfinished: u64,
    seconds: f64,
}

impl Summary {
    fn new(streams: u64, bytes_unfinished: u64, totals: &Totals, took: Duration) -> Self {
        Self {
            streams,
            lines_read: totals.lines_indexed + totals.lines_refused + totals.lines_filtered,
            lines_indexed: totals.lines_indexed,
            lines_refused: totals.lines_refused,
            lines_filtered: totals.lines_filtered,
            documents_indexed: totals.documents_indexed,
            documents_refused: totals.documents_refused,
            duplicates_answered: totals.duplicates_answered,
            bytes_read: totals.bytes_read,
            bytes_unfinished,
            seconds: (took.as_secs_f64() * 1000.0).round() / 1000.0,
        }
    }
}

/// Runs the agent until it ends by itself or is told to. `load` reads the configuration again.
///
/// # Errors
/// What can't be mended by waiting: a state directory of a newer version, an output whose certificates
/// can't be used, a telemetry address that can't be had, no threads.
pub fn run(loaded: Loaded, mode: Mode, load: Load) -> anyhow::Result<Ended> {
    telemetry::log::init().context("can't start logging")?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    raise_descriptor_limit();
    allocator::set_limits();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start the runtime")?;
    let ended = runtime.block_on(follow(loaded, mode, load));
    // Whatever still writes to a pipe or a disk that takes nothing is of no use any more.
    runtime.shutdown_background();
    ended
}

/// Takes as many descriptors as the system grants: each part of a stream that is not read to its
/// end is held open, and the usual soft limit of 1,024 is for programs that use select(2).
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, all) {
        tracing::warn!(cause = %error, "the limit of open files stays as it is");
    }
}

async fn follow(loaded: Loaded, mode: Mode, load: Load) -> anyhow::Result<Ended> {
    let began = Instant::now();
    let mut wishes = Wishes::new(mode)?;
    let agent = Arc::new(loaded.agent);
    let pipelines: Vec<Arc<Pipeline>> = loaded.pipelines.into_iter().map(Arc::new).collect();
    let readiness = readiness(&agent, &pipelines);
    let listen = agent.telemetry_listen.filter(|_| mode == Mode::Follow);
    // Where nobody can ask nothing is counted: the recorder's clock takes up to 0.2 s of a core to be
    // measured at its start.
    let metrics = listen.map(|_| telemetry::metrics::install()).transpose()?;
    let _server = (listen.zip(metrics.clone()))
        .map(|(listen, metrics)| telemetry::http::serve(listen, metrics, Arc::clone(&readiness)))
        .transpose()
        .context("can't listen for metrics and probes (setting telemetry.listen)")?;
    let store = tokio::select! {
        store = open_state(&agent, &readiness) => store?,
        () = wishes.end() => return Ok(Ended { safe: mode == Mode::Follow, summary: None }),
    };
    readiness.set(Condition::StateLock, true);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = agent.node_name,
        pipelines = names(&pipelines),
        "the agent starts"
    );
    let reload = Reload::new(load, &agent);
    let running = Running::start(&agent, &pipelines, store, mode, reload, readiness, metrics)?;
    running.until_ended(wishes, began).await
}

/// For the log.
fn names(pipelines: &[Arc<Pipeline>]) -> String {
    let names: Vec<&str> = pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
    names.join(",")
}

fn readiness(agent: &Agent, pipelines: &[Arc<Pipeline>]) -> Arc<Readiness> {
    let fixed = [Condition::StateLock, Condition::LogRoot, Condition::Pods];
    let outputs = pipelines.iter().map(|pipeline| Condition::Output(pipeline.name.clone()));
    Arc::new(Readiness::new(fixed.into_iter().chain(outputs), agent.threads, SILENCE_MAX))
}

/// Waits for the state directory: another agent may hold it, the disk may not be there yet.
async fn open_state(agent: &Agent, readiness: &Readiness) -> anyhow::Result<Store> {
    loop {
        // Waiting is no fault of this process: the kubelet is not to end it for that.
        (0..agent.threads).for_each(|worker| readiness.tick(worker));
        match Store::open(&agent.state.dir) {
            Ok(store) => return Ok(store),
            Err(error @ StoreError::Newer { .. }) => return Err(error.into()),
            Err(error) => {
                if let Some(suppressed) = throttle::allow("state") {
                    let error = anyhow::Error::from(error);
                    tracing::error!(suppressed, "waiting for the state directory: {error:#}");
                }
            }
        }
        tokio::time::sleep(TICK).await;
    }
}

/// What the agent is asked to do from outside.
struct Wishes {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    deadline: Option<tokio::time::Instant>,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// End.
    Signal,
    /// End, the time is up.
    Deadline,
    /// Read the pipelines again.
    Reload,
}

impl Wishes {
    fn new(mode: Mode) -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("can't listen for signals");
        let deadline = match mode {
            Mode::Follow => None,
            Mode::Once { deadline } => Some(tokio::time::Instant::now() + deadline),
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            deadline,
        })
    }

    /// Waits until the agent is to end. Cancel safe.
    async fn end(&mut self) {
        while self.next().await == Wish::Reload {}
    }

    /// Waits for the next wish. Cancel safe: nothing is lost when it is dropped.
    async fn next(&mut self) -> Wish {
        let deadline = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => Wish::Signal,
            _ = self.interrupt.recv() => Wish::Signal,
            _ = self.hangup.recv() => Wish::Reload,
            () = deadline => Wish::Deadline,
        }
    }
}

/// The agent at work.
struct Running {
    agent: Arc<Agent>,
    mode: Mode,
    readiness: Arc<Readiness>,
    /// What is counted, if somebody can ask for it.
    metrics: Option<PrometheusHandle>,
    pods: Arc<PodStore>,
    pods_file: Option<PodsFile>,
    pods_task: Option<JoinHandle<()>>,
    inboxes: Vec<Arc<Inbox>>,
    reports: mpsc::Receiver<Report>,
    discovery: Discovery,
    outputs: Outputs,
    reload: Reload,
    /// Workers that have nothing in flight because pipelines are going to change.
    pauses: mpsc::Receiver<usize>,
    checkpoint: thread::JoinHandle<bool>,
    /// When the checkpoint was last written.
    written: Arc<Mutex<Instant>>,
    agent_metrics: AgentMetrics,
}

impl Running {
    fn start(
        agent: &Arc<Agent>,
        pipelines: &[Arc<Pipeline>],
        store: Store,
        mode: Mode,
        reload: Reload,
        readiness: Arc<Readiness>,
        metrics: Option<PrometheusHandle>,
    ) -> anyhow::Result<Self> {
        // Before anything is written: what a newer version has left stays as it is.
        let spool = Spool::new(&agent.state.dir);
        let copies = spool.list()?;
        let inboxes: Vec<Arc<Inbox>> =
            (0..agent.threads).map(|_| Arc::new(Inbox::default())).collect();
        let pods = start_store(agent, pipelines, &inboxes);
        pods.restore(store.pods().values().cloned().collect());
        let saved_pods: BTreeSet<String> = store.pods().keys().cloned().collect();
        let (pods_file, pods_task) = start_source(agent, &pods);
        let first_start = store.is_new();
        let known = shares(store.checkpoint(), agent.threads);
        let written = Arc::new(Mutex::new(Instant::now()));
        let (saver, checkpoint) = Saver::start(store, checkpoint_written(&written))?;
        let outputs = Outputs::start(agent, pipelines, &inboxes, &[])?;
        let spooled_bytes = copies.iter().map(Copied::bytes).sum();
        let suspects = InHand::suspects(&agent.state.dir);
        let held = Arc::new(Held::new(agent.held, agent.threads, spooled_bytes));
        let mut copies = copies_of(copies, agent.threads);
        let forget = ForgottenPods::new(saved_pods, saver.clone(), Arc::clone(&pods));
        copies.iter().flatten().filter_map(Copied::stream).for_each(|name| forget.seen(&name));
        let discovery = start_discovery(agent, &inboxes, &readiness, forget)?;
        let rescan = discovery.asker();
        let (reporter, reports) = mpsc::channel(agent.threads);
        let (paused, pauses) = mpsc::channel(agent.threads);
        for (index, inbox) in inboxes.iter().enumerate() {
            let setup = Setup {
                index,
                agent: Arc::clone(agent),
                pipelines: outputs.pipelines.clone(),
                outputs: outputs.queues.clone(),
                budget: outputs.budget.clone(),
                inbox: Arc::clone(inbox),
                pods: Arc::clone(&pods),
                saver: saver.clone(),
                checkpoint: known[index].clone(),
                first_start,
                once: mode != Mode::Follow,
                rescan: Rescan(Arc::clone(&rescan)),
                paused: paused.clone(),
                alive: Arc::clone(&readiness),
                held: Arc::clone(&held),
                spool: spool.clone(),
                in_hand: InHand::new(&agent.state.dir, index, suspects.clone()),
                suspects: suspects.clone(),
                copies: std::mem::take(&mut copies[index]),
            };
            let reporter = reporter.clone();
            thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                let report = Worker::new(setup).run();
                // The receiver is gone only when the process is ending anyway.
                drop(reporter.blocking_send(report));
            })?;
        }
        Ok(Self {
            agent: Arc::clone(agent),
            mode,
            readiness,
            metrics,
            pods,
            pods_file,
            pods_task,
            inboxes,
            reports,
            discovery,
            outputs,
            reload,
            pauses,
            checkpoint,
            written,
            agent_metrics: AgentMetrics::new(),
        })
    }

    /// Waits until the workers have ended by themselves or were told to, and ends the rest.
    async fn until_ended(mut self, mut wishes: Wishes, began: Instant) -> anyhow::Result<Ended> {
        let mut reports = Vec::new();
        let mut draining: Option<tokio::time::Instant> = None;
        let mut in_time = true;
        let mut stopping = false;
        let mut tick = tokio::time::interval(TICK);
        while reports.len() < self.inboxes.len() {
            let drained = async {
                match draining {
                    Some(deadline) if !stopping => tokio::time::sleep_until(deadline).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                report = self.reports.recv() => match report {
                    Some(report) => reports.push(report),
                    None => break,
                },
                _ = tick.tick() => self.tick(),
                Some(_) = self.pauses.recv() => self.reload.worker_paused(),
                () = self.reload.ready() => self.switch().await,
                wish = wishes.next() => {
                    let command = match wish {
                        Wish::Reload => {
                            self.reload.wanted();
                            continue;
                        }
                        Wish::Deadline => Command::Stop,
                        Wish::Signal if draining.is_some() => Command::Abort,
                        Wish::Signal => Command::Drain,
                    };
                    in_time &= command == Command::Drain;
                    let deadline = || tokio::time::Instant::now() + self.agent.drain;
                    draining.get_or_insert_with(deadline);
                    wishes.deadline = None;
                    self.reload.never();
                    match command {
                        Command::Drain => tracing::info!("draining: what is in flight is waited for"),
                        _ => tracing::info!("ending at once"),
                    }
                    self.command(command);
                }
                () = drained => {
                    in_time = false;
                    self.command(Command::Stop);
                    // A signal after this is still the second one.
                    stopping = true;
                }
            }
        }
        Ok(self.end(&reports, in_time, began))
    }

    fn command(&self, command: Command) {
        for inbox in &self.inboxes {
            inbox.command(command);
        }
    }

    fn tick(&mut self) {
        if self.mode == Mode::Follow {
            self.begin_reload();
        }
        if let Some(file) = &mut self.pods_file {
            file.reload_if_changed();
        }
        let nothing_to_know = self.agent.kubernetes.source == PodSource::None;
        self.readiness.set(Condition::Pods, nothing_to_know || self.pods.in_sync());
        for (pipeline, health) in self.outputs.healths() {
            let condition = Condition::Output(pipeline.name.clone());
            self.readiness.set(condition, health.has_answered());
            show_output_state(&pipeline.name, State::NAMES, Some(health.state().as_str()));
        }
        let written = *self.written.lock().unwrap_or_else(PoisonError::into_inner);
        self.agent_metrics.checkpoint_age_seconds.set(written.elapsed().as_secs_f64());
        if let Some(metrics) = &self.metrics {
            metrics.run_upkeep();
        }
    }

    fn end(self, reports: &[Report], in_time: bool, began: Instant) -> Ended {
        self.discovery.stop();
        self.outputs.abort();
        self.reload.abort();
        if let Some(task) = &self.pods_task {
            task.abort();
        }
        let saved = joined_soon(self.checkpoint);
        let mut totals = Totals::default();
        for report in reports {
            totals += report.totals;
        }
        let streams = reports.iter().map(|report| report.streams).sum();
        let unfinished = reports.iter().map(|report| report.bytes_unfinished).sum();
        let all_safe = in_time && saved && reports.iter().all(|report| report.safe);
        let summary = Summary::new(streams, unfinished, &totals, began.elapsed());
        match self.mode {
            Mode::Follow => Ended { safe: in_time && saved, summary: None },
            Mode::Once { .. } => {
                Ended { safe: all_safe, summary: serde_json::to_string(&summary).ok() }
            }
        }
    }
}

/// Waits for the checkpoint's last write, but not for a disk that hangs; whether it is written.
fn joined_soon(checkpoint: thread::JoinHandle<bool>) -> bool {
    let deadline = Instant::now() + DISK_PATIENCE;
    while !checkpoint.is_finished() && Instant::now() < deadline {
        thread::park_timeout(Duration::from_millis(10));
    }
    checkpoint.is_finished() && checkpoint.join().unwrap_or(false)
}

/// Remembers when the checkpoint was written.
fn checkpoint_written(written: &Arc<Mutex<Instant>>) -> impl Fn() + Send + 'static {
    let written = Arc::clone(written);
    move || *written.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now()
}

/// Which worker reads a stream: all of a pod have the same, which forgets its facts with the last.
fn worker_of(name: &StreamName, workers: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    name.uid.hash(&mut hasher);
    usize::try_from(hasher.finish() % workers.max(1) as u64)
        .expect("smaller than the number of workers")
}

/// What each worker has to know of the checkpoint.
fn shares(checkpoint: &Checkpoint, workers: usize) -> Vec<Checkpoint> {
    let mut shares = vec![Checkpoint::new(); workers];
    for (key, entry) in checkpoint {
        // No stream has a name that can't be read; the first worker finds it gone.
        let worker = StreamName::parse(&key.stream).map_or(0, |name| worker_of(&name, workers));
        shares[worker].insert(key.clone(), entry.clone());
    }
    shares
}

/// What each worker has to know of the copies that an earlier process made.
fn copies_of(copies: Vec<Copied>, workers: usize) -> Vec<Vec<Copied>> {
    let mut shares = vec![Vec::new(); workers];
    for copy in copies {
        if let Some(name) = copy.stream() {
            shares[worker_of(&name, workers)].push(copy);
        }
    }
    shares
}

fn start_store(
    agent: &Agent,
    pipelines: &[Arc<Pipeline>],
    inboxes: &[Arc<Inbox>],
) -> Arc<PodStore> {
    let told = inboxes.to_vec();
    let store = PodStore::new(Arc::new(move |change| {
        told.iter().for_each(|inbox| inbox.pods_changed(change))
    }));
    let needs_namespaces =
        pipelines.iter().any(|pipeline| enrich::select::needs_namespace_labels(&pipeline.select));
    if needs_namespaces && agent.kubernetes.source != PodSource::None {
        store.require_namespaces();
    }
    Arc::new(store)
}

fn start_source(agent: &Agent, pods: &Arc<PodStore>) -> (Option<PodsFile>, Option<JoinHandle<()>>) {
    match &agent.kubernetes.source {
        PodSource::Api => {
            let (node, flink) = (agent.node_name.clone(), agent.kubernetes.flink);
            (None, Some(enrich::pods_api::start(Arc::clone(pods), node, flink)))
        }
        PodSource::File(path) => {
            let mut file = PodsFile::new(path.clone(), Arc::clone(pods));
            file.reload_if_changed();
            (Some(file), None)
        }
        PodSource::None => (None, None),
    }
}

fn start_discovery(
    agent: &Agent,
    inboxes: &[Arc<Inbox>],
    readiness: &Arc<Readiness>,
    forget: ForgottenPods,
) -> anyhow::Result<Discovery> {
    let inboxes = inboxes.to_vec();
    let readiness = Arc::clone(readiness);
    let report = move |found: Found| match found {
        Found::Stream { name, files, later_restart } => {
            forget.seen(&name);
            inboxes[worker_of(&name, inboxes.len())].tell(Event::Listing {
                name,
                files,
                later_restart,
            });
        }
        Found::Gone(name) => inboxes[worker_of(&name, inboxes.len())].tell(Event::Gone(name)),
        Found::Written(name) => inboxes[worker_of(&name, inboxes.len())].written(name),
        Found::Scanned { complete } => {
            readiness.set(Condition::LogRoot, complete);
            forget.scanned(complete);
            inboxes.iter().for_each(|inbox| inbox.tell(Event::Scanned { complete }));
        }
    };
    discover::start(&agent.logs, OwnPod::from_env(), report).context("can't look for log files")
}

/// Pods that were saved and have no files any more: they are forgotten after the first scan.
struct ForgottenPods {
    unseen: Mutex<BTreeSet<String>>,
    saver: Saver,
    pods: Arc<PodStore>,
}

impl ForgottenPods {
    fn new(saved: BTreeSet<String>, saver: Saver, pods: Arc<PodStore>) -> Self {
        Self { unseen: Mutex::new(saved), saver, pods }
    }

    fn unseen(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self, name: &StreamName) {
        self.unseen().remove(&name.uid);
    }

    fn scanned(&self, complete: bool) {
        let gone = if complete { std::mem::take(&mut *self.unseen()) } else { BTreeSet::new() };
        if !gone.is_empty() {
            gone.iter().for_each(|uid| self.pods.release(uid));
            self.saver.save(gone.into_iter().map(Change::ForgetPod).collect());
        }
    }
}

/// The wall clock, nanoseconds since the epoch.
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_streams_of_a_pod_have_one_worker_and_pods_have_different_ones() {
        let worker = |path: &str| worker_of(&StreamName::parse(path).expect("a stream"), 4);
        let mut workers = BTreeSet::new();
        for uid in 0..50 {
            let first = worker(&format!("flink_orders_{uid}/main/0"));
            for stream in ["main/1", "sidecar/0", "init/12"] {
                assert_eq!(worker(&format!("flink_orders_{uid}/{stream}")), first);
            }
            workers.insert(first);
        }
        assert_eq!(workers, BTreeSet::from([0, 1, 2, 3]));
    }
}
