//! The node: files as a runtime and a kubelet write them, pods, and what the API server says of them.
//!
//! Owns what was written, line by line, and what is right to become of it. Every line's text is
//! there once. Files get their times from the simulated clock. Inodes are never used again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::discover::{FileSeen, Found, StreamName, path::part};
use crate::enrich::PodFacts;
use crate::enrich::facts::ContainerFacts;
use crate::enrich::store::{Event, PodStore};
use crate::parse::time;
use crate::pipeline::clock::simulated;
use crate::tail::file::modified_ns;

const CONTAINER: &str = "flink-main-container";

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// JSON.
    Json,
    /// JSON that a filter of one pipeline drops.
    Debug,
    /// JSON that is refused but for its plain form.
    Poison,
    /// JSON that is refused in every form.
    Venom,
    /// JSON that an ingest pipeline drops.
    Vanish,
    /// The beginning of a record of several lines, or a record.
    Text,
    /// Continues such a record.
    Frame,
    /// The runtime did not write it so.
    Malformed,
}

/// A line that was written.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) kind: Kind,
    pub(super) pod: usize,
    pub(super) stream: StreamName,
    pub(super) lane: usize,
    /// Counts up in the order of writing.
    pub(super) order: u32,
}

/// A pod and its one container.
#[derive(Debug)]
pub(super) struct Pod {
    name: StreamName,
    taskmanager: bool,
    /// It has ever been a TaskManager, and something else.
    pub(super) has_been: [bool; 2],
    /// The API server has it.
    pub(super) told: bool,
    pub(super) gone: bool,
    lane: usize,
    pieces: [Option<String>; 2],
    rotated: Vec<PathBuf>,
    /// The next line is written in two halves.
    tear: bool,
    torn: Option<(PathBuf, Vec<u8>)>,
}

impl Pod {
    fn facts(&self) -> PodFacts {
        let component = if self.taskmanager { "taskmanager" } else { "jobmanager" };
        let labels = [("component", component), ("type", "flink-native-kubernetes")];
        let container =
            ContainerFacts { restart: Some(self.name.restart), ..ContainerFacts::default() };
        PodFacts {
            namespace: self.name.namespace.clone(),
            name: self.name.pod.clone(),
            uid: self.name.uid.clone(),
            config_hash: None,
            is_static: false,
            labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            node: Some("node-a".to_owned()),
            pod_ip: None,
            containers: [(CONTAINER.to_owned(), container)].into(),
            namespace_labels: None,
            flink: None,
        }
    }

    fn is_whole(&self) -> bool {
        self.pieces == [None, None] && self.torn.is_none()
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct World {
    root: PathBuf,
    pub(super) pods: Vec<Pod>,
    pub(super) lines: BTreeMap<String, Line>,
    pub(super) bytes: u64,
    /// What the API server says reaches the agent.
    api_up: bool,
    /// The runtime's clock less the wall clock.
    skew_ns: i64,
    last_ns: i64,
    /// The runtime's clock has ever been set.
    pub(super) clock_set: bool,
    /// Open, so that their inodes are not used again.
    kept: Vec<File>,
    count: u32,
    /// Files were removed that may not be safe.
    pub(super) removed: bool,
    pub(super) ever_removed: bool,
    /// Since the last scan the live file of some pod became another one.
    pub(super) rotated: bool,
    listed: BTreeMap<StreamName, Vec<FileSeen>>,
}

impl World {
    /// A node whose runtime's clock is `skew_seconds` ahead of the wall clock.
    pub(super) fn new(root: PathBuf, skew_seconds: i64) -> Self {
        Self {
            root,
            pods: Vec::new(),
            lines: BTreeMap::new(),
            bytes: 0,
            api_up: true,
            skew_ns: skew_seconds * 1_000_000_000,
            last_ns: 0,
            clock_set: false,
            kept: Vec::new(),
            count: 0,
            removed: false,
            ever_removed: false,
            rotated: false,
            listed: BTreeMap::new(),
        }
    }

    /// Whether the runtime's clock is not the wall clock: then only the checkpoint knows where
    /// records were cut.
    pub(super) fn is_skewed(&self) -> bool {
        self.skew_ns != 0 || self.clock_set
    }

    /// Whether a pipeline may have begun to take a pod some of whose files had gone by then.
    pub(super) fn may_lose(&self) -> bool {
        self.ever_removed && self.pods.iter().any(|pod| pod.has_been == [true, true])
    }

    /// The pod that `n` means, of those that are there.
    pub(super) fn pod(&self, n: usize) -> Option<usize> {
        let there: Vec<usize> = (0..self.pods.len()).filter(|pod| !self.pods[*pod].gone).collect();
        (!there.is_empty()).then(|| there[n % there.len()])
    }

    pub(super) fn stream(&self, pod: usize) -> StreamName {
        self.pods[pod].name.clone()
    }

    // Files.

    fn dir(&self, pod: usize) -> PathBuf {
        let StreamName { namespace, pod, uid, .. } = &self.pods[pod].name;
        self.root.join(format!("{namespace}_{pod}_{uid}")).join(CONTAINER)
    }

    fn live(&self, pod: usize) -> PathBuf {
        self.dir(pod).join(format!("{}.log", self.pods[pod].name.restart))
    }

    fn append(&mut self, path: &Path, bytes: &[u8]) {
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("opened");
        file.write_all(bytes).expect("written");
        self.bytes += bytes.len() as u64;
        touch(&file);
    }

    /// Writes a whole raw line, or the first half of it.
    fn write(&mut self, pod: usize, bytes: &[u8]) {
        self.mend(pod);
        let live = self.live(pod);
        if std::mem::take(&mut self.pods[pod].tear) {
            let (now, later) = bytes.split_at(bytes.len() / 2);
            self.append(&live, now);
            self.pods[pod].torn = Some((live, later.to_vec()));
        } else {
            self.append(&live, bytes);
        }
    }

    fn mend(&mut self, pod: usize) {
        if let Some((path, rest)) = self.pods[pod].torn.take() {
            self.append(&path, &rest);
        }
    }

    /// The next line is written in two halves, the second with what follows.
    pub(super) fn tear(&mut self, pod: usize) {
        self.pods[pod].tear = true;
    }

    /// Now and then several lines have one time.
    fn runtime_ns(&mut self) -> i64 {
        let step_ns = if self.count.is_multiple_of(3) { 1000 } else { 0 };
        self.last_ns = (self.last_ns + step_ns).max(simulated::wall_ns() + self.skew_ns);
        self.last_ns
    }

    fn raw(&mut self, pod: usize, text: &str, partial: bool) {
        let lane = ["stdout", "stderr"][self.pods[pod].lane];
        let tag = if partial { "P" } else { "F" };
        let mut line = Vec::new();
        time::write_utc(self.runtime_ns(), &mut line);
        line.extend_from_slice(format!(" {lane} {tag} {text}\n").as_bytes());
        self.write(pod, &line);
    }

    /// Writes one line, which ends what was begun with a piece.
    pub(super) fn line(&mut self, pod: usize, kind: Kind) {
        self.count += 1;
        let n = self.count;
        let lane = self.pods[pod].lane;
        let begun = self.pods[pod].pieces[lane].is_some();
        let kind = if begun && kind != Kind::Malformed { Kind::Text } else { kind };
        let (line, text) = match kind {
            Kind::Json => json(&format!("json {n}"), ""),
            Kind::Debug => json(&format!("debug {n}"), r#","log.level":"DEBUG""#),
            Kind::Poison => json(&format!("poison {n}"), ""),
            Kind::Venom => json(&format!("venom {n}"), ""),
            Kind::Vanish => json(&format!("vanish {n}"), ""),
            Kind::Text => same(format!("text {n}: java.lang.Exception")),
            Kind::Frame => same(format!("\tat com.example.Frame.of(Frame.java:{n})")),
            Kind::Malformed => return self.malformed(pod, n),
        };
        let begun = self.pods[pod].pieces[lane].take().unwrap_or_default();
        self.raw(pod, &line, false);
        self.wrote(pod, kind, lane, begun + &text);
    }

    fn malformed(&mut self, pod: usize, n: u32) {
        // A part is read as soon as one of its lines has a time.
        let lane = self.pods[pod].lane;
        self.line(pod, Kind::Text);
        let begun = self.pods[pod].pieces[0].take().unwrap_or_default();
        let text = format!("malformed {n}");
        self.write(pod, format!("{text}\n").as_bytes());
        self.wrote(pod, Kind::Malformed, 0, begun + &text);
        self.pods[pod].lane = lane;
    }

    fn wrote(&mut self, pod: usize, kind: Kind, lane: usize, text: String) {
        let stream = self.stream(pod);
        let line = Line { kind, pod, stream, lane, order: self.count };
        self.lines.insert(text, line);
    }

    /// Writes a piece of a line.
    pub(super) fn piece(&mut self, pod: usize) {
        self.count += 1;
        let text = format!("piece {} ", self.count);
        self.raw(pod, &text, true);
        let lane = self.pods[pod].lane;
        self.pods[pod].pieces[lane].get_or_insert_default().push_str(&text);
    }

    pub(super) fn other_lane(&mut self, pod: usize) {
        self.pods[pod].lane = 1 - self.pods[pod].lane;
    }

    /// Ends what was begun.
    pub(super) fn end_pieces(&mut self, pod: usize) {
        for _ in 0..2 {
            let lane = self.pods[pod].lane;
            if self.pods[pod].pieces[lane].is_some() {
                self.line(pod, Kind::Text);
            }
            self.other_lane(pod);
        }
        self.mend(pod);
    }

    /// Sets the runtime's clock.
    pub(super) fn set_clock(&mut self, seconds: i64) {
        (0..self.pods.len()).for_each(|pod| self.mend(pod));
        self.skew_ns += seconds * 1_000_000_000;
        self.last_ns += seconds.min(0) * 1_000_000_000;
        self.clock_set = true;
    }

    pub(super) fn rotate(&mut self, pod: usize) {
        self.mend(pod);
        let (live, rotated) = self.rotated_name(pod);
        if fs::rename(&live, &rotated).is_ok() {
            self.rotated = true;
            self.pods[pod].rotated.push(rotated);
        }
    }

    fn rotated_name(&mut self, pod: usize) -> (PathBuf, PathBuf) {
        self.count += 1;
        self.last_ns += 1000;
        let live = self.live(pod);
        let rotated = format!("{}.20261123-{:06}", live.display(), self.count);
        (live, rotated.into())
    }

    pub(super) fn gzip(&mut self, pod: usize) {
        if self.pods[pod].rotated.is_empty() {
            return;
        }
        let path = self.pods[pod].rotated.remove(0);
        self.keep(&path);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&fs::read(&path).expect("read")).expect("in memory");
        let packed = PathBuf::from(format!("{}.gz", path.display()));
        fs::write(&packed, encoder.finish().expect("in memory")).expect("written");
        touch(&File::options().append(true).open(&packed).expect("opened"));
        fs::remove_file(path).expect("removed");
    }

    /// The first half of what copies and empties a file: the copy.
    pub(super) fn copy(&mut self, pod: usize) -> bool {
        self.mend(pod);
        let (live, rotated) = self.rotated_name(pod);
        let copied = fs::copy(&live, &rotated).is_ok();
        if copied {
            touch(&File::options().append(true).open(&rotated).expect("opened"));
            self.pods[pod].rotated.push(rotated);
        }
        copied
    }

    pub(super) fn truncate(&mut self, pod: usize) {
        self.rotated = true;
        let file = File::options().write(true).truncate(true).open(self.live(pod)).expect("opened");
        touch(&file);
    }

    fn keep(&mut self, path: &Path) {
        self.kept.push(File::open(path).expect("opened"));
    }

    /// Removes the oldest file that is not written to any more.
    pub(super) fn remove_oldest(&mut self, pod: usize) {
        let mut files: Vec<PathBuf> = fs::read_dir(self.dir(pod))
            .expect("listed")
            .map(|entry| entry.expect("listed").path())
            .filter(|path| path.extension().is_some_and(|extension| extension != "log"))
            .collect();
        files.sort();
        // The runtime has opened the new file.
        let settled = self.pods[pod].is_whole() && self.live(pod).symlink_metadata().is_ok();
        let Some(path) = files.first().filter(|_| settled) else { return };
        self.keep(path);
        fs::remove_file(path).expect("removed");
        self.pods[pod].rotated.retain(|rotated| rotated != path);
        self.note_removed();
    }

    fn note_removed(&mut self) {
        self.removed = true;
        self.ever_removed = true;
    }

    /// Every file of a pod is another one with the same content, as after a remount.
    pub(super) fn new_inodes(&mut self, pod: usize) {
        for entry in fs::read_dir(self.dir(pod)).expect("listed") {
            let path = entry.expect("listed").path();
            self.keep(&path);
            let copy = path.with_extension("copying");
            fs::copy(&path, &copy).expect("copied");
            touch(&File::options().append(true).open(&copy).expect("opened"));
            fs::rename(&copy, &path).expect("renamed");
        }
    }

    /// The container is started again; all that it wrote before is whole.
    pub(super) fn next_run(&mut self, pod: usize, pods: &PodStore) {
        self.pods[pod].name.restart += 1;
        self.tell_pod(pod, pods);
    }

    /// What a scan of the tree finds.
    pub(super) fn scan(&mut self) -> Vec<Found> {
        self.rotated = false;
        let mut found = Vec::new();
        let before = std::mem::take(&mut self.listed);
        for pod in 0..self.pods.len() {
            let streams = self.streams(pod);
            let latest = streams.keys().next_back().cloned();
            for (name, files) in streams {
                self.listed.insert(name.clone(), files.clone());
                let later_restart = Some(&name) != latest.as_ref();
                found.push(Found::Stream { name, files, later_restart });
            }
        }
        let gone = before.into_keys().filter(|name| !self.listed.contains_key(name));
        found.extend(gone.map(Found::Gone));
        found.push(Found::Scanned { complete: true });
        found
    }

    /// A discovery that has seen nothing yet.
    pub(super) fn forget_scans(&mut self) {
        self.listed.clear();
    }

    fn streams(&self, pod: usize) -> BTreeMap<StreamName, Vec<FileSeen>> {
        let mut streams: BTreeMap<StreamName, Vec<FileSeen>> = BTreeMap::new();
        if self.pods[pod].gone {
            return streams;
        }
        for entry in fs::read_dir(self.dir(pod)).expect("listed") {
            let entry = entry.expect("listed");
            let Some((restart, kind)) = part(&entry.file_name()) else { continue };
            let metadata = entry.metadata().expect("looked at");
            let name = StreamName { restart, ..self.stream(pod) };
            streams.entry(name).or_default().push(FileSeen {
                path: entry.path(),
                kind,
                device: metadata.dev(),
                inode: metadata.ino(),
                size: metadata.len(),
                modified_ns: modified_ns(&metadata),
            });
        }
        // A directory has its entries in any order.
        streams.values_mut().for_each(|files| files.sort_by(|a, b| a.path.cmp(&b.path)));
        streams
    }

    // Pods.

    /// A pod is started; the API server has it at once or only later.
    pub(super) fn pod_comes(&mut self, taskmanager: bool, told: bool, pods: &PodStore) {
        let number = self.pods.len();
        let role = if taskmanager { "taskmanager" } else { "jobmanager" };
        let name = StreamName {
            namespace: "flink".to_owned(),
            // A TaskManager's name is used again.
            pod: format!("orders-{role}-{}", number % 2),
            uid: format!("uid-{number}"),
            container: CONTAINER.to_owned(),
            restart: 0,
        };
        self.pods.push(Pod {
            name,
            taskmanager,
            has_been: [taskmanager, !taskmanager],
            told: false,
            gone: false,
            lane: 0,
            pieces: [None, None],
            rotated: Vec::new(),
            tear: false,
            torn: None,
        });
        fs::create_dir_all(self.dir(number)).expect("made");
        if told {
            self.facts_come(number, pods);
        }
    }

    pub(super) fn facts_come(&mut self, pod: usize, pods: &PodStore) {
        self.pods[pod].told = true;
        self.tell_pod(pod, pods);
    }

    fn tell_pod(&self, pod: usize, pods: &PodStore) {
        if self.api_up && self.pods[pod].told {
            pods.apply_pod(Event::Changed(self.pods[pod].facts()));
        }
    }

    pub(super) fn relabel(&mut self, pod: usize, pods: &PodStore) {
        let taskmanager = !self.pods[pod].taskmanager;
        self.pods[pod].taskmanager = taskmanager;
        self.pods[pod].has_been[usize::from(!taskmanager)] = true;
        self.tell_pod(pod, pods);
    }

    /// Whether the agent can know the pod.
    pub(super) fn is_known(&self, pod: usize) -> bool {
        self.api_up && self.pods[pod].told
    }

    /// The pod and its files are removed.
    pub(super) fn pod_goes(&mut self, pod: usize, pods: &PodStore) {
        for entry in fs::read_dir(self.dir(pod)).expect("listed") {
            self.keep(&entry.expect("listed").path());
        }
        fs::remove_dir_all(self.dir(pod)).expect("removed");
        self.pods[pod].gone = true;
        self.note_removed();
        if self.api_up && self.pods[pod].told {
            pods.apply_pod(Event::Deleted(self.pods[pod].facts()));
        }
    }

    pub(super) fn api_down(&mut self, pods: &PodStore) {
        self.api_up = false;
        pods.apply_pod(Event::OutOfSync);
    }

    pub(super) fn api_up(&mut self, pods: &PodStore) {
        self.api_up = true;
        self.tell_all(pods);
    }

    /// What a source tells an agent that has just started.
    pub(super) fn tell_all(&self, pods: &PodStore) {
        if !self.api_up {
            return;
        }
        pods.apply_pod(Event::Init);
        for pod in self.pods.iter().filter(|pod| pod.told && !pod.gone) {
            pods.apply_pod(Event::Found(pod.facts()));
        }
        pods.apply_pod(Event::InitDone);
    }
}

fn json(text: &str, more: &str) -> (String, String) {
    (format!("{{\"message\":\"{text}\"{more}}}"), text.to_owned())
}

fn same(text: String) -> (String, String) {
    (text.clone(), text)
}

/// Gives a file the time of the simulated clock.
fn touch(file: &File) {
    let since = Duration::from_nanos(simulated::wall_ns().unsigned_abs());
    file.set_modified(SystemTime::UNIX_EPOCH + since).expect("set");
}
