//! A node that is drained, and one that goes down without a warning: a reboot, a loss of power.
//!
//! What a loss of power leaves is what file systems are known to leave: an end that was never
//! written back, a line that is torn, NUL bytes. The machine goes on here: boot id and device
//! numbers stay as they are, inode numbers and clocks change.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::follow::{numbered, numbers, once_each, pipeline};
use crate::support::cri::Log;
use crate::support::elastic::{Elastic, Index};
use crate::support::fields::text;
use crate::support::node::Node;
use crate::support::pods::Pod;
use crate::support::road::Road;
use crate::support::{SOON, wait_until};

fn pods<const N: usize>() -> [Pod; N] {
    std::array::from_fn(|n| Pod::taskmanager("flink", "orders", u32::try_from(n).unwrap()))
}

fn road_to(elastic: &Elastic) -> Road {
    let address: SocketAddr = elastic.url.trim_start_matches("http://").parse().unwrap();
    Road::to(address)
}

fn by_road(index: &Index<'_>, road: &Road) -> String {
    pipeline(index, &format!("http://{}", road.address()))
}

fn write(log: &mut Log, lines: Range<usize>) {
    lines.for_each(|number| log.line(&numbered(number)));
}

/// The pods are evicted one after the other, each with its last lines, while the output is slow; the
/// agent, whose pod belongs to a DaemonSet, stays until it is told to end as well.
#[test]
fn a_node_that_is_drained_has_every_line_once() {
    const EACH: usize = 1000;
    let elastic = Elastic::plain();
    let index = elastic.index(&json!({}));
    let road = road_to(&elastic);
    let pods = pods::<3>();
    let node = Node::with_pods(&pods);
    node.add_settings("shutdown: {drain: 1s}\n");
    node.pipeline("flink", &by_road(&index, &road));
    let mut agent = node.run();
    agent.wait_ready();
    let mut logs = pods.each_ref().map(|pod| Log::create(&node.root(), pod, 0));
    for (number, log) in logs.iter_mut().enumerate() {
        write(log, number * EACH..number * EACH + 400);
    }
    wait_until(SOON, "all is indexed so far", || agent.lines("indexed") == 1200);

    for (number, mut log) in logs.into_iter().enumerate() {
        wait_until(SOON, "all of it is safe", || agent.bytes_behind() == 0);
        road.hold_answers();
        let first = number * EACH;
        let before = log.position().0;
        write(&mut log, first + 400..first + 700);
        let mut written = log.position().0 - before;
        log.rotate();
        write(&mut log, first + 700..first + 900);
        written += log.position().0;
        wait_until(SOON, "both files are known", || agent.bytes_behind() >= written);
        // The container ends, and the kubelet removes all of its pod before anybody has looked.
        write(&mut log, first + 900..first + EACH);
        fs::remove_dir_all(log.pod_folder()).unwrap();
        if number < 2 {
            road.release_answers();
            let all = 1200 + 600 * (number + 1);
            wait_until(SOON, "the agent ships on", || agent.lines("indexed") == all);
        }
    }
    wait_until(SOON, "files are held", || agent.metric("splashdam_held_bytes", "") > 0.0);
    assert!(agent.is_ready());
    assert_eq!(agent.terminate(), Some(1), "not everything is safe");
    let spool = node.state().join("spool");
    assert!(fs::read_dir(&spool).unwrap().count() > 0);

    // The node is taken into service again; the pods are elsewhere.
    node.set_pods([]);
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    node.run_once();
    assert_eq!(numbers(&index), once_each(3 * EACH));
    for document in index.documents() {
        assert_eq!(text(&document.source, "kubernetes.labels.app").as_deref(), Some("orders"));
    }
    assert_eq!(fs::read_dir(spool).unwrap().count(), 0, "nobody needs the copies any more");
}

/// All files below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all.sort();
    all
}

/// Gives each file the inode of another one, and a time of its last change that is yet to come: the
/// clock was wrong before the reboot, or is now.
fn exchange_inodes(files: &[PathBuf]) {
    let texts: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    let aside = |path: &Path| PathBuf::from(format!("{}.aside", path.display()));
    files.iter().for_each(|path| fs::rename(path, aside(path)).unwrap());
    let later = SystemTime::now() + Duration::from_secs(24 * 60 * 60);
    let others = files.iter().cycle().skip(1);
    for ((path, text), other) in files.iter().zip(texts).zip(others) {
        let other = aside(other);
        fs::write(&other, text).unwrap();
        File::options().write(true).open(&other).unwrap().set_modified(later).unwrap();
        fs::rename(other, path).unwrap();
    }
}

/// Everything dies at once. Containers come back in the same pods with the next number; numbers of
/// inodes are those of other files, and the clock has gone back.
#[test]
fn a_node_that_is_rebooted_has_every_line_once() {
    const EACH: usize = 1000;
    let elastic = Elastic::plain();
    let index = elastic.index(&json!({}));
    let road = road_to(&elastic);
    // One of them is a static pod: its UID is the hash of its manifest.
    let mut pods = pods::<3>();
    pods[2].uid = "0f1e2d3c4b5a69788796a5b4c3d2e1f0".to_owned();
    let node = Node::with_pods(&pods);
    node.set_state("checkpoint_interval: 100ms");
    node.pipeline("flink", &by_road(&index, &road));
    let agent = node.run();
    let mut logs = pods.each_ref().map(|pod| Log::create(&node.root(), pod, 0));
    for (number, log) in logs.iter_mut().enumerate() {
        write(log, number * EACH..number * EACH + 200);
        log.rotate();
        write(log, number * EACH + 200..number * EACH + 400);
        log.rotate();
    }
    wait_until(SOON, "all is indexed so far", || agent.lines("indexed") == 1200);
    road.hold_answers();
    for (number, log) in logs.iter_mut().enumerate() {
        write(log, number * EACH + 400..number * EACH + 600);
    }
    wait_until(SOON, "something is indexed without an answer", || index.count() > 1200);
    agent.kill();

    exchange_inodes(&files(&node.root()));
    let pods = pods.map(|pod| pod.with_runs(2));
    node.set_pods(&pods);
    let again = |(number, pod): (usize, &Pod)| {
        let mut log = Log::create(&node.root(), pod, 1);
        log.set_clock_back(24);
        write(&mut log, number * EACH + 600..number * EACH + 800);
        log
    };
    let mut logs: Vec<Log> = pods.iter().enumerate().map(again).collect();
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    let mut agent = node.run();
    agent.wait_ready();
    for (number, log) in logs.iter_mut().enumerate() {
        write(log, number * EACH + 800..number * EACH + EACH);
    }
    wait_until(SOON, "all is indexed", || index.count() >= 3000);
    assert_eq!(agent.terminate(), Some(0));
    assert_eq!(numbers(&index), once_each(3 * EACH));
    for document in index.documents() {
        let message = text(&document.source, "message").unwrap();
        let number: usize = message.split(['=', ']']).nth(1).unwrap().parse().unwrap();
        let (pod, run) = (&pods[number / EACH], usize::from(number % EACH >= 600));
        let id = text(&document.source, "kubernetes.docker_id");
        assert_eq!(id.as_ref(), Some(&pod.container_ids[run]), "{message}");
    }
    let summary = node.run_once();
    assert_eq!((summary.lines_read, summary.bytes_unfinished), (0, 0));
}

/// Up to where a stream's lines are safe, and how long its last part is, as the checkpoint says.
fn remembered(node: &Node, pod: &Pod) -> Option<(u64, u64)> {
    let text = fs::read_to_string(node.state().join("checkpoint")).ok()?;
    let name = format!("{}_{}_{}/{}/0", pod.namespace, pod.name, pod.uid, pod.container);
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let entry = lines.into_iter().find(|line| line[0]["stream"] == name.as_str())?;
    let reached = entry[1]["reached"].as_array()?.iter().filter_map(|at| at["offset"].as_u64());
    let length = entry[1]["parts"].as_array()?.last()?[1].as_u64()?;
    Some((reached.min()?, length))
}

/// A container's log before the power went.
struct Before {
    pod: Pod,
    log: Log,
    /// The number of its first line. 40 lines are safe, 40 more are read.
    first: usize,
    /// Where its safe lines end, and its first 50.
    safe: u64,
    fifty: u64,
    /// In the line behind these: where its text begins.
    text: u64,
    /// Its length.
    length: u64,
}

/// The beginning of the text of the line in which the power went.
const TORN: &str = r#"{"message":"["#;

impl Before {
    fn new(node: &Node, pod: &Pod, number: usize) -> Self {
        let mut log = Log::create(&node.root(), pod, 0);
        let first = number * 100 + 1;
        write(&mut log, first..first + 40);
        let safe = log.position().0;
        Self { pod: pod.clone(), log, first, safe, fifty: 0, text: 0, length: 0 }
    }

    fn go_on(&mut self) {
        write(&mut self.log, self.first + 40..self.first + 50);
        let time;
        (self.fifty, time) = self.log.position();
        self.text = self.fifty + u64::try_from(time.len() + " stdout F ".len()).unwrap();
        write(&mut self.log, self.first + 50..self.first + 80);
        self.length = self.log.position().0;
    }

    /// Where the torn line ends.
    fn torn(&self) -> u64 {
        self.text + u64::try_from(TORN.len()).unwrap()
    }

    /// The power goes: what stands from `end` on was not written back.
    fn ends(&self, end: u64) {
        let file = File::options().write(true).open(self.log.path()).unwrap();
        file.set_len(end).unwrap();
    }

    /// The same, and the file has its length all the same.
    fn is_unwritten_from(&self, end: u64) {
        self.ends(end);
        let file = File::options().write(true).open(self.log.path()).unwrap();
        file.set_len(self.length).unwrap();
    }
}

#[test]
fn what_a_loss_of_power_leaves_is_there_once_and_what_it_takes_is_counted() {
    let elastic = Elastic::plain();
    let index = elastic.index(&json!({}));
    let road = road_to(&elastic);
    let pods = pods::<6>();
    let node = Node::with_pods(&pods);
    node.set_state("checkpoint_interval: 100ms");
    node.pipeline("flink", &by_road(&index, &road));
    let agent = node.run();
    let mut before: Vec<Before> =
        pods.iter().enumerate().map(|(number, pod)| Before::new(&node, pod, number)).collect();
    for one in &before {
        wait_until(SOON, "the first lines are safe", || {
            remembered(&node, &one.pod) == Some((one.safe, one.safe))
        });
    }
    road.close();
    before.iter_mut().for_each(Before::go_on);
    for one in &before {
        wait_until(SOON, "the others are known", || {
            remembered(&node, &one.pod) == Some((one.safe, one.length))
        });
    }
    agent.kill();

    let [short, torn, filled, whole, empty, goes_on] = &mut before[..] else { panic!("six") };
    short.ends(short.safe - 30);
    torn.ends(torn.torn());
    filled.is_unwritten_from(filled.torn());
    whole.is_unwritten_from(whole.fifty);
    empty.ends(0);
    goes_on.ends(goes_on.torn());
    let cut_off =
        [short.length - short.safe, torn.length - torn.torn(), goes_on.length - goes_on.torn()];
    let unwritten = (filled.length - filled.torn()) + (whole.length - whole.fifty);
    let gone = empty.length - empty.safe;
    exchange_inodes(&files(&node.root()));

    let mut wanted = BTreeMap::new();
    for one in [&*short, &*torn, &*filled, &*whole, &*empty] {
        let mut log = Log::create(&node.root(), &one.pod, 1);
        write(&mut log, one.first + 90..one.first + 95);
        wanted.extend(
            (one.first..one.first + 40).chain(one.first + 90..one.first + 95).map(|n| (n, 1)),
        );
    }
    for one in [&*torn, &*filled, &*whole, &*goes_on] {
        wanted.extend((one.first..one.first + 50).map(|number| (number, 1)));
    }
    let runs = pods.clone().map(|pod| pod.with_runs(2));
    node.set_pods(runs[..5].iter().chain([&pods[5]]));
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    let mut agent = node.run();
    agent.wait_ready();

    // A runtime that writes on in the same file, which the kubelet's do not.
    goes_on.log.reopen();
    let behind = goes_on.first + 82;
    write(&mut goes_on.log, behind..behind + 8);
    wanted.extend((behind + 1..behind + 8).map(|number| (number, 1)));
    let all = u64::try_from(wanted.len() + 3).unwrap();
    wait_until(SOON, "all that is left is indexed", || index.count() >= all);
    let lost = || ["truncated", "damaged", "gone"].map(|cause| agent.bytes_lost(cause));
    let counted = [cut_off.iter().sum(), unwritten, gone];
    wait_until(SOON, "what is not is counted", || lost() == counted);
    assert!(agent.is_ready());
    assert_eq!(agent.terminate(), Some(0));

    let (mut found, mut odd) = (BTreeMap::new(), Vec::new());
    for document in index.documents() {
        let message = text(&document.source, "message").unwrap();
        let number = message.strip_prefix("plain ").unwrap_or(&message).strip_prefix("[seq=");
        match number {
            Some(rest) => {
                let number: usize = rest.split(']').next().unwrap().parse().unwrap();
                *found.entry(number).or_default() += 1;
            }
            None => odd.push(message),
        }
    }
    assert_eq!(found, wanted);
    odd.sort();
    // What stands in one raw line is one document.
    let both = odd.pop().unwrap();
    assert!(both.starts_with(TORN) && both.contains(&format!("[seq={behind}]")), "{both}");
    assert_eq!(odd, [TORN, TORN]);
    let summary = node.run_once();
    assert_eq!((summary.lines_read, summary.bytes_unfinished), (0, 0));
}
