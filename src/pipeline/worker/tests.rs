//! A worker against a node made of temporary directories, driven step by step: no thread of its
//! own, no waiting; listings, answers and time come from the test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tokio::sync::mpsc;

use super::*;
use crate::checkpoint::Store;
use crate::config::{Environment, load};
use crate::discover::{FileSeen, path::part};
use crate::enrich::PodFacts;
use crate::parse::time;
use crate::pipeline::batch::{Batch, Outcome};
use crate::pipeline::outlet::IN_FLIGHT_MAX;
use crate::tail::file::modified_ns;

const PIPELINE: &str = "pipeline: p
select: [{select: {}}]
parse: {multiline: java}
output:
  elasticsearch: {hosts: [\"http://localhost:9\"], index: i, compression: none}
";

/// What runs until the next crash or end.
struct Running {
    worker: Worker,
    saver: JoinHandle<bool>,
    outputs: Vec<mpsc::Receiver<Batch>>,
}

/// A node with one pod and one container.
struct Node {
    dir: tempfile::TempDir,
    agent: Arc<Agent>,
    pipelines: Vec<Arc<Pipeline>>,
    once: bool,
    running: Option<Running>,
    rescans: Arc<AtomicUsize>,
    now: Instant,
    /// Sent and not answered.
    sent: Vec<(usize, Batch)>,
    /// What is in the index: the lines of each document by its id.
    index: BTreeMap<String, Vec<String>>,
    duplicates: usize,
    written: BTreeSet<String>,
    listed: BTreeSet<u32>,
    /// Runtime time of the next line.
    clock_ns: i64,
    /// Files that were removed.
    kept: Vec<File>,
}

impl Node {
    fn new() -> Self {
        Self::with(&[PIPELINE])
    }

    fn with(pipelines: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("pods")).expect("made");
        fs::create_dir_all(path("c")).expect("made");
        fs::write(path("agent.yaml"), "kubernetes: {source: none}\n").expect("written");
        for (index, text) in pipelines.iter().enumerate() {
            fs::write(path(&format!("pods/{index}.yaml")), text).expect("written");
        }
        let environment = std::iter::empty::<(String, String)>().collect::<Environment>();
        let loaded = load(Some(&path("agent.yaml")), Some(&path("pods")), &environment);
        let mut loaded = loaded.unwrap_or_else(|problems| panic!("{problems}"));
        loaded.agent.state.checkpoint_interval = Duration::ZERO;
        for pipeline in &mut loaded.pipelines {
            pipeline.output.batch.size_bytes = 3000;
        }
        Self {
            agent: Arc::new(loaded.agent),
            pipelines: loaded.pipelines.into_iter().map(Arc::new).collect(),
            once: false,
            running: None,
            rescans: Arc::default(),
            now: Instant::now(),
            sent: Vec::new(),
            index: BTreeMap::new(),
            duplicates: 0,
            written: BTreeSet::new(),
            listed: BTreeSet::new(),
            clock_ns: now_ns() - 7_200_000_000_000,
            kept: Vec::new(),
            dir,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("c").join(name)
    }

    fn worker(&mut self) -> &mut Worker {
        &mut self.running.as_mut().expect("it runs").worker
    }

    fn stream(restart: u32) -> StreamName {
        StreamName {
            namespace: "n".into(),
            pod: "p".into(),
            uid: "u".into(),
            container: "c".into(),
            restart,
        }
    }

    // What happens on the node.

    /// Writes one line to the live file of run 0; `text` must be unique.
    fn line(&mut self, text: &str) {
        self.raw("0.log", "stdout F", text);
    }

    fn raw(&mut self, file: &str, tags: &str, text: &str) {
        self.clock_ns += 1_000_000;
        self.written.insert(text.to_owned());
        let mut line = Vec::new();
        time::write_utc(self.clock_ns, &mut line);
        line.extend_from_slice(format!(" {tags} {text}\n").as_bytes());
        self.append(file, &line);
    }

    fn append(&self, file: &str, bytes: &[u8]) {
        let path = self.path(file);
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("opened");
        file.write_all(bytes).expect("written");
    }

    fn rotate(&mut self, stamp: &str) {
        fs::rename(self.path("0.log"), self.path(&format!("0.log.{stamp}"))).expect("renamed");
    }

    fn gzip(&mut self, name: &str) {
        age(&self.path(name));
        // Its number is not used again.
        self.kept.push(File::open(self.path(name)).expect("opened"));
        let text = fs::read(self.path(name)).expect("read");
        let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
        encoder.write_all(&text).expect("in memory");
        let packed = encoder.finish().expect("in memory");
        fs::write(self.path(&format!("{name}.gz")), packed).expect("written");
        fs::remove_file(self.path(name)).expect("removed");
    }

    // What the agent is told.

    fn start(&mut self) {
        let store = Store::open(&self.dir.path().join("state")).expect("usable");
        let known = store.checkpoint().clone();
        let first_start = store.is_new();
        let (saver, thread) = Saver::start(store, || ()).expect("started");
        let mut outputs = Vec::new();
        let mut receivers = Vec::new();
        for _ in &self.pipelines {
            let (batches, receiver) = mpsc::channel(IN_FLIGHT_MAX);
            outputs.push(Output { batches, oldest: Arc::new(vec![AtomicI64::new(0)]) });
            receivers.push(receiver);
        }
        let rescans = Arc::clone(&self.rescans);
        let ask = move || {
            rescans.fetch_add(1, Ordering::Relaxed);
        };
        let worker = Worker::new(Setup {
            index: 0,
            agent: Arc::clone(&self.agent),
            pipelines: self.pipelines.clone(),
            outputs,
            budget: Budget::new(self.agent.memory_budget_bytes, self.pipelines.len()),
            inbox: Arc::default(),
            pods: Arc::new(PodStore::new(Arc::new(|_| ()))),
            saver,
            checkpoint: known,
            first_start,
            once: self.once,
            rescan: Rescan(Arc::new(ask)),
            alive: Arc::new(Readiness::new([], 1, TICK)),
        });
        self.listed.clear();
        self.running = Some(Running { worker, saver: thread, outputs: receivers });
    }

    /// A crash: nothing is saved that was not handed over; of what was sent the first `arrived`
    /// requests reached the index without an answer.
    fn crash(&mut self, arrived: usize) {
        self.receive();
        let Some(running) = self.running.take() else { return };
        drop(running.worker);
        running.saver.join().expect("ended");
        for (position, (_, batch)) in std::mem::take(&mut self.sent).into_iter().enumerate() {
            if position < arrived {
                self.store(&batch);
            }
        }
    }

    fn files(&self) -> BTreeMap<u32, Vec<FileSeen>> {
        let mut streams: BTreeMap<u32, Vec<FileSeen>> = BTreeMap::new();
        for entry in fs::read_dir(self.dir.path().join("c")).expect("listed") {
            let entry = entry.expect("listed");
            let Some((restart, kind)) = part(&entry.file_name()) else { continue };
            age(&entry.path());
            let metadata = entry.metadata().expect("looked at");
            streams.entry(restart).or_default().push(FileSeen {
                path: entry.path(),
                kind,
                device: metadata.dev(),
                inode: metadata.ino(),
                size: metadata.len(),
                modified_ns: modified_ns(&metadata),
            });
        }
        streams
    }

    fn tell(&mut self, event: Event) {
        self.worker().setup.inbox.tell(event);
    }

    /// Tells what is there now.
    fn scan(&mut self) {
        let streams = self.files();
        for gone in std::mem::take(&mut self.listed) {
            if !streams.contains_key(&gone) {
                self.tell(Event::Gone(Self::stream(gone)));
            }
        }
        let latest = streams.keys().next_back().copied();
        for (restart, files) in streams {
            self.listed.insert(restart);
            let name = Self::stream(restart);
            self.tell(Event::Listing { name, files, later_restart: Some(restart) < latest });
        }
        self.tell(Event::Scanned { complete: true });
    }

    /// Lets `seconds` pass and the worker do all that it can do without an answer.
    fn settle(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        let now = self.now;
        for _ in 0..100_000 {
            let worker = self.worker();
            // A save is answered by a thread.
            let patience = if worker.asked.is_empty() { 0 } else { 10 };
            let news = worker.setup.inbox.take(Duration::from_secs(patience), worker.command);
            let quiet = news.events.is_empty() && news.written.is_empty();
            worker.take_in(news);
            worker.work();
            worker.pass_time(now);
            if quiet && worker.ready.is_empty() && worker.asked.is_empty() {
                self.receive();
                return;
            }
        }
        panic!("the worker never comes to rest");
    }

    // The output.

    fn receive(&mut self) {
        let Some(running) = &mut self.running else { return };
        for (pipeline, output) in running.outputs.iter_mut().enumerate() {
            while let Ok(batch) = output.try_recv() {
                self.sent.push((pipeline, batch));
            }
        }
    }

    /// Takes a batch into the index; returns what an output would report.
    fn store(&mut self, batch: &Batch) -> Outcome {
        let mut outcome =
            Outcome { worker: batch.worker, sequence: batch.sequence, ..Outcome::default() };
        let text = std::str::from_utf8(&batch.body).expect("JSON");
        let mut lines = text.lines();
        let mut items = batch.items.iter();
        while let (Some(action), Some(document)) = (lines.next(), lines.next()) {
            let action: serde_json::Value = serde_json::from_str(action).expect("JSON");
            let document: serde_json::Value = serde_json::from_str(document).expect("JSON");
            let id = action["create"]["_id"].as_str().expect("an id").to_owned();
            let message = document["message"].as_str().expect("a text");
            let message: Vec<String> = message.split('\n').map(str::to_owned).collect();
            outcome.lines_indexed += u64::from(items.next().expect("an item").lines);
            match self.index.get(&id) {
                Some(there) => {
                    assert_eq!(*there, message, "one id, two documents");
                    outcome.duplicates_answered += 1;
                    self.duplicates += 1;
                }
                None => {
                    outcome.documents_indexed += 1;
                    self.index.insert(id, message);
                }
            }
        }
        outcome
    }

    /// Answers the request at `position` among those that wait.
    fn answer(&mut self, position: usize) {
        self.receive();
        if position < self.sent.len() {
            let (pipeline, batch) = self.sent.remove(position);
            let outcome = self.store(&batch);
            self.tell(Event::Done { pipeline, outcome });
        }
    }

    /// Answers everything, lets time pass, and so on until there is nothing more to do.
    fn finish(&mut self) {
        for _ in 0..500 {
            self.settle(2);
            if self.sent.is_empty() && self.worker().waiting.is_empty() {
                return;
            }
            while !self.sent.is_empty() {
                self.answer(0);
            }
        }
        panic!("there is always more to do");
    }

    /// Every line that was written is in the index, in exactly one document.
    #[track_caller]
    fn check(&self) {
        let mut seen = BTreeMap::<&str, usize>::new();
        for line in self.index.values().flatten() {
            *seen.entry(line).or_default() += 1;
        }
        let lost: Vec<_> =
            self.written.iter().filter(|line| !seen.contains_key(line.as_str())).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        let twice: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "twice: {twice:?}");
        let strange: Vec<_> = seen.keys().filter(|line| !self.written.contains(**line)).collect();
        assert!(strange.is_empty(), "never written: {strange:?}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.crash(0);
        }
    }
}

/// Makes a file old enough to be left.
fn age(path: &Path) {
    let file = File::options().append(true).open(path).expect("opened");
    let modified = file.metadata().and_then(|metadata| metadata.modified()).expect("looked at");
    let old = Duration::from_secs(60);
    if modified.elapsed().is_ok_and(|elapsed| elapsed < old / 2) {
        file.set_modified(modified - old).expect("set");
    }
}

#[test]
fn lines_are_read_rotated_and_read_on() {
    let mut node = Node::new();
    node.start();
    node.line("one");
    node.scan();
    node.settle(0);
    node.line("two");
    node.rotate("20261123-210700");
    node.line("three");
    node.scan();
    node.finish();
    node.check();
}

#[test]
fn a_dead_output_leaves_the_worker_nothing_to_do() {
    let mut node = Node::new();
    node.start();
    for n in 0..300 {
        node.line(&format!("{{\"message\":\"line {n}\"}}"));
    }
    node.scan();
    node.settle(0);
    node.settle(60);
    assert_eq!(node.sent.len(), IN_FLIGHT_MAX);
    let now = node.now;
    assert!(!node.worker().patience(now).is_zero(), "it would spin");
}

#[test]
fn a_file_that_was_emptied_neither_spins_nor_stops_the_stream() {
    let mut node = Node::new();
    node.start();
    node.line("one");
    node.scan();
    node.finish();
    fs::write(node.path("0.log"), "").expect("emptied");
    node.scan();
    for _ in 0..20 {
        node.settle(1);
    }
    assert!(node.rescans.load(Ordering::Relaxed) <= 2, "the tree is scanned again and again");
    node.line("two");
    node.scan();
    node.finish();
    node.check();
}

#[test]
fn what_stands_behind_damage_is_a_counted_loss() {
    let mut node = Node::new();
    for n in 0..400 {
        node.line(&format!("{{\"message\":\"line {n}\"}}"));
        node.written.remove(&format!("{{\"message\":\"line {n}\"}}"));
    }
    node.rotate("20261123-210700");
    node.gzip("0.log.20261123-210700");
    let path = node.path("0.log.20261123-210700.gz");
    let packed = fs::read(&path).expect("read");
    fs::write(&path, &packed[..packed.len() / 2]).expect("cut");
    node.line("behind");
    node.start();
    node.scan();
    node.finish();
    let read = node.index.len();
    assert!((2..400).contains(&read), "what comes before the damage, and the next part: {read}");
    assert!(node.index.values().any(|lines| lines == &["behind"]));
    assert!(node.worker().bytes_lost > 0);
}

#[test]
fn what_went_while_no_agent_ran_is_a_counted_loss() {
    let mut node = Node::new();
    node.start();
    node.line("first part");
    node.rotate("20261123-210700");
    node.line("second part");
    node.raw("7.log", "stdout F", "another run");
    node.scan();
    node.settle(2);
    // Nothing was answered, and no listing says that the files go.
    node.crash(0);
    let gone = node.path("0.log.20261123-210700").metadata().expect("there").len();
    fs::remove_file(node.path("0.log.20261123-210700")).expect("removed");
    node.start();
    node.scan();
    node.finish();
    assert_eq!(node.worker().bytes_lost, gone);
    node.written.remove("first part");
    node.check();

    node.line("third");
    node.scan();
    node.settle(2);
    node.crash(0);
    let gone = node.path("0.log").metadata().expect("there").len() - gone;
    fs::remove_file(node.path("0.log")).expect("removed");
    node.start();
    node.scan();
    node.finish();
    assert!(node.worker().bytes_lost > 0 && node.worker().bytes_lost <= gone + 40);
    node.crash(0);
    node.start();
    node.scan();
    node.finish();
    assert_eq!(node.worker().bytes_lost, 0, "it is counted once");
    assert_eq!(node.worker().setup.checkpoint.len(), 1);
}

const BY_LABEL: &str = "pipeline: labels
select: [{exclude: {labels: {skip: \"yes\"}}}, {select: {labels: {app: \"*\"}}}]
parse: {multiline: java}
output:
  elasticsearch: {hosts: [\"http://localhost:9\"], index: i, compression: none}
";

impl Node {
    /// Lets the pod of run 0 be known with these labels.
    fn label(&mut self, labels: &[(&str, &str)]) {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let facts = PodFacts {
            namespace: "n".into(),
            name: "p".into(),
            uid: "u".into(),
            config_hash: None,
            is_static: false,
            labels: labels.collect(),
            node: None,
            pod_ip: None,
            containers: BTreeMap::new(),
            namespace_labels: None,
        };
        let worker = self.worker();
        let key = worker.names[&Self::stream(0)];
        worker.streams.get_mut(&key).expect("listed").facts = Some(Arc::new(facts));
        worker.decide(key);
        worker.wake(key);
    }
}

#[test]
fn a_stream_that_stays_undecided_is_forgotten_with_its_files_and_counted() {
    let mut node = Node::with(&[BY_LABEL]);
    node.start();
    node.line("never asked for");
    node.scan();
    node.settle(2);
    assert!(node.sent.is_empty());
    fs::remove_file(node.path("0.log")).expect("removed");
    node.scan();
    node.settle(2);
    assert!(node.worker().streams.is_empty());
    assert!(node.worker().bytes_lost > 0);
}

#[test]
fn a_stream_that_is_left_while_a_cut_is_saved_goes_on_when_it_is_taken_again() {
    let mut node = Node::with(&[BY_LABEL]);
    node.start();
    node.line("begins: java.lang.Exception");
    node.scan();
    node.settle(0);
    node.label(&[("app", "x")]);
    node.settle(0);
    // The cut is asked for, and before it is saved the pod gets a label.
    let later = node.now + Duration::from_secs(10);
    node.now = later;
    node.worker().pass_time(later);
    assert!(!node.worker().asked.is_empty());
    node.label(&[("app", "x"), ("skip", "yes")]);
    node.settle(5);
    assert!(node.sent.is_empty());
    node.label(&[("app", "x")]);
    node.line("another");
    node.scan();
    node.finish();
    node.check();
    assert_eq!(node.worker().open_bytes, 0);
}

#[test]
fn more_compressed_streams_than_decompressors_are_all_read() {
    let mut node = Node::with(&[PIPELINE]);
    for run in 0..40 {
        for n in 0..100 {
            node.raw(&format!("{run}.log"), "stdout F", &format!("run {run} line {n}"));
        }
        let name = format!("{run}.log.20261123-210700");
        fs::rename(node.path(&format!("{run}.log")), node.path(&name)).expect("renamed");
        node.gzip(&name);
    }
    node.start();
    node.scan();
    node.finish();
    // The last run may go on.
    node.raw("40.log", "stdout F", "last");
    node.scan();
    node.finish();
    node.check();
    assert!(node.worker().unpackers.is_empty() && node.worker().unpacking.is_empty());
}

#[test]
fn a_record_that_grows_is_waited_for_anew() {
    let mut node = Node::new();
    node.start();
    node.line("begins: java.lang.Exception");
    node.scan();
    node.settle(0);
    let key = *node.worker().waiting.keys().next().expect("it waits");
    let before = node.worker().waiting[&key];
    node.line("\tat com.example.Frame.of(Frame.java:1)");
    node.worker().setup.inbox.written(Node::stream(0));
    node.settle(0);
    assert!(node.worker().waiting[&key].0 > before.0);
    node.finish();
    node.check();
    assert_eq!(node.index.len(), 1);
}

#[test]
fn once_does_not_end_while_another_pipeline_still_waits() {
    let mut node = Node::with(&[PIPELINE, BY_LABEL]);
    node.once = true;
    node.start();
    node.line("begins: java.lang.Exception");
    node.scan();
    node.settle(0);
    assert!(!node.worker().is_done(), "its record is open");
    node.finish();
    assert!(node.worker().is_done());
    node.check();
}

/// What may happen, in any order.
#[derive(Debug, Clone)]
enum Step {
    Json,
    Text,
    Frame,
    /// A piece of a line; the next line of the lane ends it.
    Piece,
    Malformed,
    Gap,
    OtherLane,
    Rotate,
    Gzip,
    NextRun,
    Scan,
    /// A listing that is told only after a rotation.
    LateScan,
    Written,
    Settle(u64),
    Answer(usize),
    Crash(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Json),
        4 => Just(Step::Text),
        4 => Just(Step::Frame),
        2 => Just(Step::Piece),
        1 => Just(Step::Malformed),
        1 => Just(Step::Gap),
        2 => Just(Step::OtherLane),
        2 => Just(Step::Rotate),
        1 => Just(Step::Gzip),
        1 => Just(Step::NextRun),
        3 => Just(Step::Scan),
        1 => Just(Step::LateScan),
        2 => Just(Step::Written),
        4 => (0_u64..6).prop_map(Step::Settle),
        3 => (0_usize..4).prop_map(Step::Answer),
        1 => (0_usize..4).prop_map(Step::Crash),
    ]
}

/// Steps on a node, and what they have to remember.
struct Story {
    node: Node,
    count: u32,
    run: u32,
    lane: usize,
    pieces: [Option<String>; 2],
    rotated: Vec<String>,
}

impl Story {
    fn new() -> Self {
        let mut node = Node::new();
        node.start();
        Self { node, count: 0, run: 0, lane: 0, pieces: [None, None], rotated: Vec::new() }
    }

    fn write(&mut self, text: &str, partial: bool) {
        let lane = ["stdout", "stderr"][self.lane];
        let begun = self.pieces[self.lane].take().unwrap_or_default();
        let file = format!("{}.log", self.run);
        let tag = if partial { "P" } else { "F" };
        self.node.raw(&file, &format!("{lane} {tag}"), text);
        self.node.written.remove(text);
        let whole = begun + text;
        if partial {
            self.pieces[self.lane] = Some(whole);
        } else {
            let line =
                whole.strip_prefix("{\"message\":\"").and_then(|rest| rest.strip_suffix("\"}"));
            self.node.written.insert(line.unwrap_or(&whole).to_owned());
        }
    }

    fn rotate(&mut self) {
        let live = format!("{}.log", self.run);
        self.count += 1;
        let name = format!("{live}.20261123-{:06}", self.count);
        if fs::rename(self.node.path(&live), self.node.path(&name)).is_ok() {
            self.rotated.push(name);
        }
    }

    fn end_pieces(&mut self) {
        for lane in 0..2 {
            self.lane = lane;
            if self.pieces[lane].is_some() {
                self.write("end", false);
            }
        }
    }

    fn step(&mut self, step: &Step) {
        self.count += 1;
        let n = self.count;
        match *step {
            Step::Json if self.pieces[self.lane].is_none() => {
                self.write(&format!("{{\"message\":\"line {n}\"}}"), false);
            }
            Step::Json => self.write(&format!("rest {n}"), false),
            Step::Text => self.write(&format!("text {n}: java.lang.Exception"), false),
            Step::Frame => self.write(&format!("\tat com.example.Frame.of(Frame.java:{n})"), false),
            Step::Piece => self.write(&format!("piece {n} "), true),
            Step::Malformed => {
                // A part is read as soon as one of its lines has a time.
                self.write(&format!("timed {n}"), false);
                let begun = self.pieces[0].take().unwrap_or_default();
                let text = format!("malformed {n}");
                self.node.append(&format!("{}.log", self.run), format!("{text}\n").as_bytes());
                self.node.written.insert(begun + &text);
            }
            Step::Gap => self.node.clock_ns += 1_500_000_000,
            Step::OtherLane => self.lane = 1 - self.lane,
            Step::Rotate => self.rotate(),
            Step::Gzip => {
                if !self.rotated.is_empty() {
                    let name = self.rotated.remove(0);
                    self.node.gzip(&name);
                }
            }
            Step::NextRun => {
                self.end_pieces();
                self.run += 1;
            }
            Step::Scan => self.node.scan(),
            Step::LateScan => {
                self.node.scan();
                self.rotate();
                self.write(&format!("after the scan {n}"), false);
            }
            Step::Written => {
                let name = Node::stream(self.run);
                self.node.worker().setup.inbox.written(name);
            }
            Step::Settle(seconds) => self.node.settle(seconds),
            Step::Answer(position) => self.node.answer(position),
            Step::Crash(arrived) => {
                self.node.crash(arrived);
                self.node.start();
                self.node.scan();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens in whatever order: every line is in the index once.
    #[test]
    fn every_line_is_indexed_once(steps in prop::collection::vec(step(), 1..60)) {
        let mut story = Story::new();
        for step in &steps {
            story.step(step);
        }
        story.end_pieces();
        story.node.scan();
        story.node.finish();
        story.node.scan();
        story.node.finish();
        story.node.check();
        let worker = story.node.worker();
        prop_assert_eq!(worker.bytes_lost, 0);
        prop_assert_eq!(worker.open_bytes, 0);
    }
}
