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
use crate::pipeline::batch::{Batch, Outcome, Told};
use crate::pipeline::inbox::Pipelines;
use crate::pipeline::outlet::IN_FLIGHT_MAX;
use crate::pipeline::place::Place;
use crate::pipeline::reader::CHUNK_BYTES;
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
    pauses: mpsc::Receiver<usize>,
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
    /// The output keeps one batch.
    dead: bool,
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
        let pipelines = load_pipelines(dir.path(), pipelines);
        let mut agent = loaded(dir.path()).agent;
        agent.state.checkpoint_interval = Duration::ZERO;
        Self {
            agent: Arc::new(agent),
            pipelines,
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
            dead: false,
            dir,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("c").join(name)
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
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

    /// With batches that a turn fills, or `at_leisure`.
    fn batching(at_leisure: bool) -> Self {
        let mut node = Self::new();
        if at_leisure {
            node.batch_at_leisure();
        }
        node
    }

    /// Lets batches be so large that a turn ends with what it has read.
    fn batch_at_leisure(&mut self) {
        for pipeline in &mut self.pipelines {
            let mut changed = Pipeline::clone(pipeline);
            changed.output.batch.size_bytes = 16 << 20;
            *pipeline = Arc::new(changed);
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

    /// Leaves one over `parts` of a compressed file.
    fn cut_gzip(&self, name: &str, parts: usize) {
        let path = self.path(&format!("{name}.gz"));
        let packed = fs::read(&path).expect("read");
        fs::write(&path, &packed[..packed.len() / parts]).expect("cut");
    }

    // What the agent is told.

    fn start(&mut self) {
        let store = Store::open_soon(&self.state());
        let spool = Spool::new(&self.state());
        let copies = spool.list().expect("of this version");
        let suspects = InHand::suspects(&self.state());
        let spooled = copies.iter().map(Copied::bytes).sum();
        let known = store.checkpoint().clone();
        let first_start = store.is_new();
        let (saver, thread) = Saver::start(store, || ()).expect("started");
        let (outputs, receivers) = self.outputs();
        let (paused, pauses) = mpsc::channel(1);
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
            paused,
            alive: Arc::new(Readiness::new([], 1, TICK)),
            held: Arc::new(Held::new(self.agent.held, 1, spooled)),
            spool,
            in_hand: InHand::new(&self.state(), 0, suspects.clone()),
            suspects,
            copies,
        });
        self.listed.clear();
        // What the worker has seen of time lies behind.
        self.now = self.now.max(Instant::now());
        self.running = Some(Running { worker, saver: thread, outputs: receivers, pauses });
        self.worker().adopt_copies();
    }

    fn outputs(&self) -> (Vec<Output>, Vec<mpsc::Receiver<Batch>>) {
        let one = |_: &Arc<Pipeline>| {
            let (batches, receiver) = mpsc::channel(IN_FLIGHT_MAX);
            (Output { batches, oldest: Arc::new(vec![AtomicI64::new(0)]) }, receiver)
        };
        self.pipelines.iter().map(one).unzip()
    }

    /// Takes up `pipelines`. What is in flight is answered first if `in_time`, else let go of, and
    /// the first `arrived` requests of it reached the index.
    fn reload(&mut self, pipelines: &[&str], in_time: bool, arrived: usize) {
        self.tell(Event::Pause);
        self.settle(0);
        while in_time && !self.sent.is_empty() {
            self.answer(0);
            self.settle(0);
        }
        let running = self.running.as_mut().expect("it runs");
        let paused = running.pauses.try_recv().is_ok();
        assert_eq!(paused, self.sent.is_empty(), "a pause is told once nothing is in flight");
        for (_, batch) in std::mem::take(&mut self.sent).iter().take(arrived) {
            self.store(batch);
        }
        self.dead = false;
        self.pipelines = load_pipelines(self.dir.path(), pipelines);
        let (outputs, receivers) = self.outputs();
        self.running.as_mut().expect("it runs").outputs = receivers;
        self.tell(Event::Pipelines(Pipelines {
            pipelines: self.pipelines.clone(),
            outputs,
            budget: Budget::new(self.agent.memory_budget_bytes, self.pipelines.len()),
        }));
    }

    /// A crash: nothing is saved that was not handed over; of what was sent the first `arrived`
    /// requests reached the index without an answer.
    fn crash(&mut self, arrived: usize) {
        self.receive();
        let Some(running) = self.running.take() else { return };
        self.dead = false;
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

    /// Lets the worker hear of all and save what it knows, and read nothing.
    fn take_in_without_reading(&mut self) {
        self.now += Duration::from_secs(2);
        let now = self.now;
        let worker = self.worker();
        let news = worker.setup.inbox.take(Duration::ZERO, Command::Run);
        worker.take_in(news);
        worker.pass_time(now);
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
            let nothing_to_read = worker.ready.is_empty() || !worker.may_read();
            if quiet && nothing_to_read && worker.asked.is_empty() {
                self.receive();
                return;
            }
        }
        panic!("the worker never comes to rest");
    }

    // The output.

    fn receive(&mut self) {
        let Some(running) = &mut self.running else { return };
        let mut forgotten = Vec::new();
        for (pipeline, output) in running.outputs.iter_mut().enumerate() {
            while let Ok(batch) = output.try_recv() {
                if self.dead {
                    forgotten.push((pipeline, batch));
                } else {
                    self.sent.push((pipeline, batch));
                }
            }
        }
        self.forget(forgotten);
    }

    fn forget(&mut self, batches: Vec<(usize, Batch)>) {
        for (pipeline, batch) in batches {
            let (worker, sequence) = (batch.worker, batch.sequence);
            drop(batch);
            self.tell(Event::Told { pipeline, told: Told::Forgotten { worker, sequence } });
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
            self.tell(Event::Told { pipeline, told: Told::Safe(outcome) });
            if std::mem::take(&mut self.dead) {
                self.tell(Event::Told { pipeline, told: Told::Back });
            }
        }
    }

    /// The output of the one pipeline is dead: it keeps the first of what was sent. Of the rest,
    /// `arrived` reached the index.
    fn die(&mut self, arrived: usize) {
        self.receive();
        if self.dead || self.sent.is_empty() {
            return;
        }
        self.dead = true;
        let forgotten = self.sent.split_off(1);
        for (_, batch) in forgotten.iter().take(arrived) {
            self.store(batch);
        }
        self.forget(forgotten);
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

fn loaded(dir: &Path) -> crate::config::Loaded {
    fs::write(dir.join("agent.yaml"), "kubernetes: {source: none}\n").expect("written");
    let environment = std::iter::empty::<(String, String)>().collect::<Environment>();
    let loaded = load(Some(&dir.join("agent.yaml")), Some(&dir.join("pods")), &environment);
    loaded.unwrap_or_else(|problems| panic!("{problems}"))
}

/// These pipelines, with small batches.
fn load_pipelines(dir: &Path, pipelines: &[&str]) -> Vec<Arc<Pipeline>> {
    fs::remove_dir_all(dir.join("pods")).expect("removed");
    fs::create_dir(dir.join("pods")).expect("made");
    for (index, text) in pipelines.iter().enumerate() {
        fs::write(dir.join(format!("pods/{index}.yaml")), text).expect("written");
    }
    let mut loaded = loaded(dir).pipelines;
    for pipeline in &mut loaded {
        pipeline.output.batch.size_bytes = 3000;
    }
    loaded.into_iter().map(Arc::new).collect()
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

/// Scans whenever the worker asks for it, which soon ends.
fn scan_when_asked(node: &mut Node) {
    for _ in 0..20 {
        let asked = node.rescans.load(Ordering::Relaxed);
        node.settle(1);
        if node.rescans.load(Ordering::Relaxed) > asked {
            node.scan();
        }
    }
    assert!(node.rescans.load(Ordering::Relaxed) <= 3, "the tree is scanned again and again");
}

/// As logrotate does with `copytruncate`: what comes between the copy and the cut is in neither, but was
/// read.
#[test]
fn a_copy_that_has_less_than_was_read_does_not_stop_the_stream() {
    let mut node = Node::new();
    node.start();
    node.line("one");
    node.scan();
    node.finish();
    fs::copy(node.path("0.log"), node.path("0.log.20261123-210700")).expect("copied");
    node.line("two");
    node.scan();
    node.finish();
    File::create(node.path("0.log")).expect("emptied");
    node.line("three");
    node.scan();
    scan_when_asked(&mut node);
    node.finish();
    node.check();
    assert_eq!((node.worker().bytes_lost, node.duplicates), (0, 0));
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
    scan_when_asked(&mut node);
    node.line("two");
    node.scan();
    node.finish();
    node.check();
}

#[test]
fn what_stands_behind_damage_is_a_counted_loss() {
    for at_leisure in [false, true] {
        let mut node = Node::batching(at_leisure);
        for n in 0..400 {
            node.line(&format!("{{\"message\":\"line {n}\"}}"));
            node.written.remove(&format!("{{\"message\":\"line {n}\"}}"));
        }
        node.rotate("20261123-210700");
        node.gzip("0.log.20261123-210700");
        node.cut_gzip("0.log.20261123-210700", 2);
        node.line("behind");
        node.start();
        node.scan();
        node.finish();
        let read = node.index.len();
        assert!(
            (2..400).contains(&read),
            "what comes before the damage, and the next part: {read}"
        );
        assert!(node.index.values().any(|lines| lines == &["behind"]));
        assert!(node.worker().bytes_lost > 0);
    }
}

/// No listing tells anew of a file that stays as it is.
#[test]
fn a_file_that_could_not_be_opened_is_tried_again() {
    let mut node = Node::new();
    node.start();
    node.line("one");
    node.scan();
    node.finish();
    node.rotate("20261123-210700");
    node.line("two");
    node.scan();
    // Nobody opens a link.
    let (live, aside) = (node.path("0.log"), node.path("aside"));
    fs::rename(&live, &aside).expect("renamed");
    std::os::unix::fs::symlink(&aside, &live).expect("linked");
    node.settle(0);
    assert_eq!(node.worker().unreadable.len(), 1);
    fs::remove_file(&live).expect("removed");
    fs::rename(&aside, &live).expect("renamed");
    node.settle(60);
    node.finish();
    node.check();
}

/// What stands behind damage is no end of what stands before it.
#[test]
fn a_piece_before_damage_takes_no_line_behind_it() {
    for later in [false, true] {
        let mut node = Node::new();
        node.raw("0.log", "stdout P", "a piece");
        for n in 0..400 {
            node.raw("0.log", "stderr F", &format!("line {n}"));
            node.written.remove(&format!("line {n}"));
        }
        node.rotate("20261123-210700");
        node.gzip("0.log.20261123-210700");
        node.cut_gzip("0.log.20261123-210700", 2);
        if later {
            node.start();
            node.scan();
            node.finish();
            node.line("behind");
        } else {
            node.line("behind");
            node.start();
        }
        node.scan();
        node.finish();
        for alone in ["a piece", "behind"] {
            assert!(node.index.values().any(|lines| lines == &[alone]), "{alone}");
        }
        assert!(node.worker().bytes_lost > 0);
    }
}

#[test]
fn damage_before_the_place_that_is_gone_on_from_stops_nothing() {
    for at_leisure in [false, true] {
        let mut node = Node::batching(at_leisure);
        node.start();
        (0..200).for_each(|n| node.line(&format!("safe {n}")));
        node.scan();
        node.finish();
        node.crash(0);
        for n in 0..200 {
            node.line(&format!("unsafe {n}"));
            node.written.remove(&format!("unsafe {n}"));
        }
        node.rotate("20261123-210700");
        node.gzip("0.log.20261123-210700");
        node.cut_gzip("0.log.20261123-210700", 10);
        node.line("behind");
        node.start();
        node.scan();
        node.finish();
        assert!(node.worker().bytes_lost > 0);
        node.check();
    }
}

#[test]
fn whoever_waits_for_a_decompressor_gets_one() {
    // So many that each has one.
    let others = (1..DECODERS_MAX).map(|n| {
        let named = PIPELINE.replace("pipeline: p\n", &format!("pipeline: p{n}\n"));
        named.replace("select: {}", &format!("select: {{namespaces: [n{n}]}}"))
    });
    let pipelines: Vec<String> = std::iter::once(PIPELINE.to_owned()).chain(others).collect();
    let mut node = Node::with(&pipelines.iter().map(String::as_str).collect::<Vec<_>>());
    node.batch_at_leisure();
    // The first holds it for several turns, the others are done with it at once.
    for (run, length) in [2 * CHUNK_BYTES, 1, 1, 1].into_iter().enumerate() {
        let name = format!("{run}.log.20261123-210700");
        node.raw(&name, "stdout F", &format!("{run} {}", "x".repeat(length)));
        node.gzip(&name);
    }
    node.start();
    node.scan();
    node.finish();
    assert!(node.worker().unpacking.is_empty());
    node.check();
}

#[test]
fn a_compressed_part_that_went_while_no_agent_ran_is_a_counted_loss() {
    let mut node = Node::new();
    node.line("first part");
    node.rotate("20261123-210700");
    let gone = node.path("0.log.20261123-210700").metadata().expect("there").len();
    node.gzip("0.log.20261123-210700");
    node.line("second part");
    node.start();
    node.scan();
    node.take_in_without_reading();
    node.crash(0);
    fs::remove_file(node.path("0.log.20261123-210700.gz")).expect("removed");
    node.start();
    node.scan();
    node.finish();
    assert_eq!(node.worker().bytes_lost, gone);
    node.written.remove("first part");
    node.check();
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

#[test]
fn what_came_and_went_while_no_agent_ran_is_a_gap() {
    let mut node = Node::new();
    node.start();
    node.line("read");
    node.scan();
    node.finish();
    node.crash(0);
    // Nothing that was seen is lost, and what was not seen can't be counted.
    node.line("written later");
    node.rotate("20261123-210700");
    fs::remove_file(node.path("0.log.20261123-210700")).expect("removed");
    node.written.remove("written later");
    node.line("after that");
    for gaps in [1, 0] {
        node.start();
        node.scan();
        node.finish();
        assert_eq!((node.worker().bytes_lost, node.worker().gaps), (0, gaps));
        node.check();
        // A file that is only rotated, and an agent that was away meanwhile, make no gap.
        node.crash(0);
        node.rotate("20261123-210800");
        node.line("the next");
    }
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
            flink: None,
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
    assert!(node.worker().asked.is_empty(), "it looks at the file once more before");
    node.worker().work();
    node.worker().pass_time(later + Duration::from_secs(1));
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
fn a_dead_output_leaves_another_its_decompressors() {
    let other = PIPELINE.replace("pipeline: p\n", "pipeline: q\nid_scope: q\n");
    let mut node = Node::with(&[PIPELINE, &other]);
    for run in 0..40 {
        for n in 0..100 {
            node.raw(&format!("{run}.log"), "stdout F", &format!("run {run} line {n}"));
        }
        let name = format!("{run}.log.20261123-210700");
        fs::rename(node.path(&format!("{run}.log")), node.path(&name)).expect("renamed");
        node.gzip(&name);
    }
    node.raw("40.log", "stdout F", "last");
    node.start();
    node.scan();
    // Only one of the two ever gets an answer.
    for _ in 0..2000 {
        node.settle(2);
        if let Some(live) = node.sent.iter().position(|(pipeline, _)| *pipeline == 1) {
            node.answer(live);
        }
    }
    node.check();
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
    assert!(node.worker().waiting[&key].since > before.since);
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

mod edges;
mod model;
mod pods;
mod power;
mod promises;

/// Copies of deleted files that are in the state directory.
fn copies(node: &Node) -> Vec<Copied> {
    Spool::new(&node.state()).list().expect("of this version")
}

/// Ends the worker as at the drain deadline.
fn end(node: &mut Node) {
    node.worker().copy_held();
    node.crash(0);
}

/// Nobody reads while the worker drains; what was written meanwhile is copied all the same, also where
/// no listing has told yet that its file is gone.
#[test]
fn what_is_written_and_removed_during_a_drain_is_kept() {
    for listed in [true, false] {
        let mut node = Node::new();
        node.start();
        node.line("before");
        node.scan();
        node.finish();
        node.worker().setup.inbox.command(Command::Drain);
        node.line("the last words");
        fs::remove_file(node.path("0.log")).expect("removed");
        if listed {
            node.scan();
        }
        node.settle(1);
        end(&mut node);
        node.start();
        node.scan();
        node.finish();
        node.check();
        assert_eq!((node.worker().bytes_lost, node.duplicates), (0, 0));
    }
}

/// Its plain file, which is read through the handle, is there in another form.
#[test]
fn what_is_compressed_during_a_drain_is_not_copied() {
    let mut node = Node::new();
    node.start();
    node.line("before");
    node.scan();
    node.finish();
    node.worker().setup.inbox.command(Command::Drain);
    node.line("the last words");
    node.rotate("20261123-210700");
    node.scan();
    node.settle(0);
    node.gzip("0.log.20261123-210700");
    node.scan();
    node.settle(0);
    node.worker().copy_held();
    assert!(Spool::new(&node.state()).list().expect("of this version").is_empty());
    node.crash(0);
    node.start();
    node.scan();
    node.finish();
    node.check();
}

#[test]
fn deleted_files_are_given_up_beyond_the_limit_and_counted() {
    let mut node = Node::new();
    let agent = Arc::get_mut(&mut node.agent).expect("nobody else has it");
    agent.held.max_files = 2;
    node.start();
    let mut bytes = Vec::new();
    for n in 0..5 {
        node.line(&format!("{{\"message\":\"line {n}\"}}"));
        node.rotate(&format!("20261123-21070{n}"));
        node.scan();
        node.settle(0);
        bytes.push(node.files()[&0].iter().map(|file| file.size).sum::<u64>());
        if n == 0 {
            // Nothing that comes later is read: the output takes one batch and is dead.
            node.settle(5);
            node.die(0);
            node.settle(0);
        }
    }
    node.line("live");
    node.scan();
    node.settle(0);
    for file in node.files().remove(&0).expect("listed") {
        if file.kind != crate::discover::PartKind::Live {
            fs::remove_file(file.path).expect("removed");
        }
    }
    node.scan();
    node.settle(2);
    // The first part is in flight, the next two are given up, the last two are held.
    let one = bytes[0];
    assert_eq!(node.worker().streams.values().next().expect("there").tail.held(), (2, 2 * one));
    assert_eq!(node.worker().bytes_lost, 2 * one);
    node.finish();
    for lost in [1, 2] {
        assert!(node.written.remove(&format!("{{\"message\":\"line {lost}\"}}")));
    }
    let message = |text: &String| {
        text.trim_start_matches("{\"message\":\"").trim_end_matches("\"}").to_owned()
    };
    node.written = node.written.iter().map(message).collect();
    node.check();
}

#[test]
fn what_only_handles_kept_is_read_by_the_next_process() {
    let mut node = Node::new();
    node.start();
    node.line("one: java.lang.Exception");
    node.rotate("20261123-210700");
    node.line("two");
    node.rotate("20261123-210701");
    node.line("three");
    node.scan();
    node.settle(0);
    for stamp in ["20261123-210700", "20261123-210701"] {
        fs::remove_file(node.path(&format!("0.log.{stamp}"))).expect("removed");
    }
    node.scan();
    node.settle(0);
    end(&mut node);
    // The pod goes too.
    fs::remove_file(node.path("0.log")).expect("removed");
    assert!(node.written.remove("three"));
    node.start();
    node.settle(0);
    assert!(node.sent.is_empty(), "which other parts there are is not known yet");
    node.scan();
    node.finish();
    assert!(node.worker().bytes_lost > 0, "what nobody held");
    node.check();
    assert!(node.worker().streams.is_empty());
    assert!(copies(&node).is_empty(), "nobody needs the copies any more");
}

#[test]
fn more_than_the_spool_takes_is_a_counted_loss() {
    let mut node = Node::new();
    Arc::get_mut(&mut node.agent).expect("nobody else has it").held.spool_bytes = 100;
    node.start();
    for n in 0..3 {
        node.line(&format!("line {n} of the parts that are deleted, with some more text"));
        node.rotate(&format!("20261123-21070{n}"));
    }
    node.line("live");
    node.scan();
    node.settle(0);
    for n in 0..3 {
        fs::remove_file(node.path(&format!("0.log.20261123-21070{n}"))).expect("removed");
    }
    node.scan();
    node.settle(0);
    let (files, bytes) = node.worker().streams.values().next().expect("there").tail.held();
    assert_eq!(files, 3);
    node.worker().copy_held();
    assert_eq!(node.worker().bytes_lost, bytes / 3 * 2);
    node.crash(0);
    node.start();
    node.scan();
    node.finish();
    assert_eq!(node.worker().bytes_lost, bytes / 3 * 2, "and again where it can be seen");
    for n in 1..3 {
        node.written.retain(|line| !line.starts_with(&format!("line {n} ")));
    }
    node.check();
}

#[test]
fn pipelines_that_change_keep_their_places() {
    const MOVED: &str = "pipeline: p
select: [{select: {}}]
parse: {multiline: java}
output:
  elasticsearch: {hosts: [\"http://localhost:10\"], index: j, compression: none}
";
    const ANOTHER: &str = "pipeline: another
select: [{select: {pods: [nobody]}}]
output:
  elasticsearch: {hosts: [\"http://localhost:9\"], index: k, compression: none}
";
    let mut node = Node::new();
    node.start();
    let held = "only a handle keeps this";
    node.line(held);
    node.rotate("20261123-210700");
    node.line("first");
    node.scan();
    node.settle(0);
    fs::remove_file(node.path("0.log.20261123-210700")).expect("removed");
    node.scan();
    node.settle(5);
    assert!(!node.sent.is_empty());
    // The output is moved while it does not answer, and what it had reached the index.
    node.reload(&[MOVED], false, 9);
    node.line("second");
    node.scan();
    node.finish();
    let before = node.duplicates;
    assert!(before > 0, "what was not answered is sent again");
    // Another pipeline takes its place, and nobody reads.
    node.reload(&[ANOTHER], true, 0);
    node.line("third");
    node.scan();
    node.finish();
    assert!(node.sent.is_empty());
    // It comes back, and goes on where it was.
    node.reload(&[ANOTHER, PIPELINE], true, 0);
    node.line("fourth");
    node.scan();
    node.finish();
    node.check();
    assert_eq!(node.duplicates, before, "nothing is read again");
    assert_eq!(node.worker().bytes_lost, 0);
}

/// The worker takes bytes that crash it before it has written anything.
fn crash_over(node: &mut Node, line: &str) {
    node.start();
    node.scan();
    let news = node.worker().setup.inbox.take(Duration::ZERO, Command::Run);
    node.worker().take_in(news);
    let worker = node.worker();
    let key = *worker.streams.keys().next().expect("listed");
    let part = worker.streams[&key].tail.parts()[0].id;
    let key =
        crate::checkpoint::Key { pipeline: "p".to_owned(), stream: Node::stream(0).to_string() };
    worker.setup.in_hand.take(key, part, 0..line.len() as u64);
    node.crash(0);
}

#[test]
fn a_line_that_was_in_hand_at_two_crashes_is_shipped_as_text() {
    let poison = "{\"message\":\"poison\"}";
    let shipped = |crashes: usize| {
        let mut node = Node::new();
        node.line(poison);
        (0..crashes).for_each(|_| crash_over(&mut node, poison));
        node.start();
        node.line("{\"message\":\"fine\"}");
        node.scan();
        node.finish();
        let messages: Vec<String> = node.index.values().flatten().cloned().collect();
        messages
    };
    assert_eq!(shipped(1), ["poison", "fine"]);
    assert_eq!(shipped(2), [poison, "fine"]);
    assert_eq!(shipped(3), [poison, "fine"]);
}
