//! One version of the program in the place of another, one agent in that of another, and an API
//! server that comes late or goes for long.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::json;
use tempfile::NamedTempFile;

use crate::follow::{numbered, numbers, once_each, pipeline};
use crate::support::captures::Line;
use crate::support::cri::Log;
use crate::support::elastic::{Elastic, Index};
use crate::support::fields::{self, text};
use crate::support::kube::Cluster;
use crate::support::node::Node;
use crate::support::pods::Pod;
use crate::support::road::Road;
use crate::support::{AFTER_A_PAUSE, SOON, wait_until};

/// Lines of the pod that stays: before the state was saved, and after.
const BEFORE: usize = 120;
const AFTER: usize = 30;
/// Numbers of the lines of the pod that goes: acknowledged, and only in the spool.
const ACKNOWLEDGED: std::ops::Range<usize> = 1000..1040;
const SPOOLED: std::ops::Range<usize> = 1040..1080;

/// The state directory as a program that knew format 1 left it, see the README above it.
fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/state-1")
}

fn pods() -> [Pod; 2] {
    [1, 2].map(|number| Pod::taskmanager("flink", "orders", number))
}

/// The files of the pod that stays, the oldest compressed: the same each time.
fn files_of_the_one_that_stays(node: &Node) -> Log {
    let mut log = Log::create(&node.root(), &pods()[0], 0);
    for number in 0..BEFORE {
        if number > 0 && number.is_multiple_of(40) {
            log.rotate();
        }
        log.line(&numbered(number));
    }
    // what the index refuses, see `index_of`
    log.line(&Line::stdout(r#"{"message":"poison","n":"none"}"#));
    log
}

fn index_of(elastic: &Elastic) -> Index<'_> {
    elastic.index(&json!({"properties": {"n": {"type": "integer"}}}))
}

fn keeping_what_is_refused(index: &Index<'_>, url: &str) -> String {
    pipeline(index, url).replace("    batch:", "    refused: dead_letter\n    batch:")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Every file below `folder` with its bytes and when it was written.
fn files(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            all.extend(files(&path));
        } else {
            let written = metadata.modified().unwrap();
            all.insert(path.clone(), (fs::read(&path).unwrap(), written));
        }
    }
    all
}

fn names(folder: &Path) -> Vec<PathBuf> {
    files(folder).keys().map(|path| path.strip_prefix(folder).unwrap().to_owned()).collect()
}

fn address_of(url: &str) -> SocketAddr {
    url.trim_start_matches("http://").parse().unwrap()
}

/// A checkpoint of two pods, the facts of both, a copy of files that have gone, and a dead letter.
/// With `STATE_FIXTURE` set this is left in that folder.
#[test]
fn a_state_directory_has_the_files_that_another_version_looks_for() {
    let elastic = Elastic::plain();
    let index = index_of(&elastic);
    let [_, goes] = pods();
    let node = Node::with_pods(&pods());
    node.add_settings("shutdown: {drain: 1s}\n");
    node.pipeline("flink", &keeping_what_is_refused(&index, &elastic.url));
    let log = files_of_the_one_that_stays(&node);
    let mut going = Log::create(&node.root(), &goes, 0);
    ACKNOWLEDGED.for_each(|number| going.line(&numbered(number)));
    let summary = node.run_once();
    assert_eq!(summary.documents_refused, 1);
    assert_eq!(summary.lines_indexed, u64::try_from(BEFORE + ACKNOWLEDGED.len()).unwrap());

    let nobody = Road::to(address_of(&elastic.url));
    nobody.close();
    let url = format!("http://{}", nobody.address());
    node.pipeline("flink", &keeping_what_is_refused(&index, &url));
    let agent = node.run();
    let before = going.position().0;
    SPOOLED.for_each(|number| going.line(&numbered(number)));
    let written = going.position().0 - before;
    wait_until(SOON, "the new lines are seen", || agent.bytes_behind() >= written);
    let folder = format!("{}_{}_{}", goes.namespace, goes.name, goes.uid);
    fs::remove_dir_all(node.root().join(folder)).unwrap();
    wait_until(SOON, "the files are held", || agent.metric("splashdam_held_bytes", "") > 0.0);
    assert_eq!(agent.terminate(), Some(1), "not everything is safe");
    drop(log);

    if let Some(folder) = std::env::var_os("STATE_FIXTURE") {
        copy(&node.state(), Path::new(&folder));
    }
    assert_eq!(names(&node.state()), names(&fixture()));
}

#[test]
fn a_state_of_format_1_is_gone_on_with_where_it_ends() {
    let elastic = Elastic::plain();
    let index = index_of(&elastic);
    // Both pods have gone: what is known of them is what the state says.
    let node = Node::with_pods([]);
    node.pipeline("flink", &keeping_what_is_refused(&index, &elastic.url));
    copy(&fixture(), &node.state());
    let mut log = files_of_the_one_that_stays(&node);
    (BEFORE..BEFORE + AFTER).for_each(|number| log.line(&numbered(number)));

    let summary = node.run_once();
    assert_eq!((summary.documents_refused, summary.duplicates_answered), (0, 0));
    let wanted = (BEFORE..BEFORE + AFTER).chain(SPOOLED).map(|number| (number, 1));
    assert_eq!(numbers(&index), wanted.collect());
    let [stays, goes] = pods();
    for document in index.documents() {
        let is = |name: &str, wanted: &str| fields::check(&document.source, name, wanted);
        let message = text(&document.source, "message").unwrap();
        let pod = if message.contains("[seq=10") { &goes } else { &stays };
        is("kubernetes.pod_name", &pod.name);
        is("kubernetes.pod_id", &pod.uid);
        is("kubernetes.pod_ip", &pod.ip);
        is("kubernetes.container_image", &pod.image);
        is("kubernetes.docker_id", &pod.container_ids[0]);
        is("kubernetes.labels.app", "orders");
    }
    assert_eq!(node.dead_letters().len(), 1, "it is kept until it is replayed");
    let copies = fs::read_dir(node.state().join("spool")).unwrap().count();
    assert_eq!(copies, 0, "nobody needs the copies any more");

    // and what this version writes in its place is a state to go on from
    log.line(&numbered(BEFORE + AFTER));
    let summary = node.run_once();
    assert_eq!((summary.documents_indexed, summary.duplicates_answered), (1, 0));
}

/// The file of a copy that says what it is of.
fn header_of_the_copy() -> PathBuf {
    let mut all = names(&fixture()).into_iter();
    all.find(|name| name.extension().is_some_and(|extension| extension == "json")).unwrap()
}

#[test]
fn a_state_of_a_newer_format_ends_the_agent_and_is_left_as_it_is() {
    let elastic = Elastic::plain();
    let index = elastic.missing_index();
    let versioned = [r#"{"splashdam_checkpoint":1,"#, r#"{"splashdam_checkpoint":2,"#];
    // It has no version yet, and what the next one says in its place nobody knows.
    let unversioned = [r#"{"stream":"#, r#"{"splashdam_spool":2,"run":"#];
    let newer = [
        (PathBuf::from("checkpoint"), versioned),
        (PathBuf::from("pods"), versioned),
        (header_of_the_copy(), unversioned),
    ];
    for (name, [from, to]) in newer {
        let node = Node::with_pods(&pods());
        node.pipeline("flink", &pipeline(&index, &elastic.url));
        files_of_the_one_that_stays(&node);
        copy(&fixture(), &node.state());
        // What was never finished is removed, but not where a newer version may want it.
        fs::write(node.state().join("spool/unfinished.new"), "{").unwrap();
        let file = node.state().join(&name);
        let state = fs::read_to_string(&file).unwrap();
        assert!(state.starts_with(from), "{state}");
        fs::write(&file, state.replacen(from, to, 1)).unwrap();
        let before = files(&node.state());

        let configuration = node.configuration();
        let follow = ["run", "--config", configuration.to_str().expect("UTF-8")];
        for ended in [node.run_once_with(&[]), node.execute(&follow)] {
            assert_eq!(ended.code, Some(1), "{}", ended.stderr);
            for wanted in [file.to_str().expect("UTF-8"), "format 2", "up to 1", "state.dir"] {
                assert!(ended.stderr.contains(wanted), "{wanted} in {}", ended.stderr);
            }
            assert!(ended.stdout.is_empty(), "no summary: {}", ended.stdout);
            assert!(files(&node.state()) == before, "{}: something was touched", name.display());
        }
        assert!(!index.is_there());
    }
}

/// The answers of an output stay away while the old pod is drained: some of what it sent is
/// indexed, some is not, and the files of the container that wrote it have gone.
#[test]
fn what_a_slow_output_had_not_answered_is_there_once_after_the_next_agent() {
    const COUNT: usize = 3000;
    const QUICK: usize = 1000;
    let elastic = Elastic::plain();
    let index = elastic.index(&json!({}));
    let road = Road::to(address_of(&elastic.url));
    let pod = Pod::taskmanager("flink", "orders", 1);
    let node = Node::with_pods([&pod]);
    node.add_settings("shutdown: {drain: 1s}\n");
    node.pipeline("flink", &pipeline(&index, &format!("http://{}", road.address())));
    let mut log = Log::create(&node.root(), &pod, 0);
    let agent = node.run();
    (0..QUICK).for_each(|number| log.line(&numbered(number)));
    wait_until(SOON, "the quick lines are answered", || agent.lines("indexed") == QUICK);
    wait_until(SOON, "they are safe", || agent.bytes_behind() == 0);
    road.hold_answers();
    let mut written = log.position().0;
    (QUICK..2 * QUICK).for_each(|number| log.line(&numbered(number)));
    written = log.position().0 - written;
    log.rotate();
    (2 * QUICK..COUNT).for_each(|number| log.line(&numbered(number)));
    written += log.position().0;
    wait_until(SOON, "all is known", || agent.bytes_behind() >= written);
    let answered = u64::try_from(QUICK).unwrap();
    wait_until(SOON, "something is indexed without an answer", || index.count() > answered);
    assert_eq!(agent.lines("indexed"), QUICK);
    let folder = format!("{}_{}_{}", pod.namespace, pod.name, pod.uid);
    fs::remove_dir_all(node.root().join(folder)).unwrap();
    wait_until(SOON, "the files are held", || agent.metric("splashdam_held_bytes", "") > 0.0);
    assert_eq!(agent.terminate(), Some(1), "not everything is safe");
    assert!(index.count() < u64::try_from(COUNT).unwrap(), "there is something left to do");

    node.pipeline("flink", &pipeline(&index, &elastic.url));
    let summary = node.run_once();
    assert!(summary.duplicates_answered > 0, "{summary:?}");
    assert_eq!(numbers(&index), once_each(COUNT));
}

/// A pod that was deleted by force may go on for a while beside the one in its place.
#[test]
fn an_agent_waits_unready_for_one_that_was_deleted_by_force() {
    const COUNT: usize = 2000;
    let elastic = Elastic::plain();
    let index = elastic.index(&json!({}));
    let road = Road::to(address_of(&elastic.url));
    let pod = Pod::taskmanager("flink", "orders", 1);
    let node = Node::with_pods([&pod]);
    node.pipeline("flink", &pipeline(&index, &format!("http://{}", road.address())));
    let mut log = Log::create(&node.root(), &pod, 0);
    let mut first = node.run();
    first.wait_ready();
    road.hold_answers();
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    let mut second = node.run();
    (0..COUNT).for_each(|number| log.line(&numbered(number)));
    wait_until(SOON, "something is indexed without an answer", || index.count() > 0);
    assert!(second.is_running() && !second.is_ready());
    assert_eq!(second.lines("indexed"), 0);

    first.kill();
    second.wait_ready();
    wait_until(SOON, "the second agent has gone on", || second.lines("indexed") == COUNT);
    assert_eq!(second.terminate(), Some(0));
    assert_eq!(numbers(&index), once_each(COUNT));
}

/// A pipeline that takes everything in the cluster's namespace, whether the pod is known or not.
fn by_namespace(cluster: &Cluster, index: &Index<'_>, url: &str) -> String {
    let select = format!("select: {{namespaces: [{}]}}", cluster.namespace);
    pipeline(index, url).replace("select: {}", &select)
}

#[test]
fn an_agent_may_be_there_before_the_api_server() {
    let (elastic, cluster) = (Elastic::plain(), Cluster::new());
    let index = elastic.index(&json!({}));
    let mut pod = Pod::taskmanager(&cluster.namespace, "orders", 1);
    pod.node.clone_from(&cluster.node);
    cluster.add_pod(&mut pod);
    let road = Road::to(cluster.address());
    road.close();
    let kubeconfig = NamedTempFile::new().unwrap();
    cluster.kubelet_by(road.address(), kubeconfig.path());
    let node = Node::in_cluster(&cluster.node, kubeconfig.path());
    node.add_settings("  unknown_pod_wait: 1s\n");
    node.pipeline("flink", &by_namespace(&cluster, &index, &elastic.url));
    let mut log = Log::create(&node.root(), &pod, 0);
    (0..50).for_each(|number| log.line(&numbered(number)));

    let mut agent = node.run();
    // the pauses between them are longer than what an unknown pod is waited for
    wait_until(SOON, "the agent has tried several times", || road.turned_away() > 2);
    assert!(agent.is_running() && !agent.is_ready());
    assert_eq!(index.count(), 0, "nothing is shipped without the pod's facts");

    road.open();
    agent.wait_ready_again();
    wait_until(SOON, "all lines are indexed", || index.count() == 50);
    assert_eq!(agent.terminate(), Some(0));
    for document in index.documents() {
        assert_eq!(text(&document.source, "kubernetes.labels.app").as_deref(), Some("orders"));
    }
}

/// Of two agents one has lost the API server. The other gives up on an unknown pod several times
/// meanwhile, so the time has passed that the first does not count.
#[test]
fn an_unknown_pod_is_not_given_up_while_the_api_server_is_away() {
    let (elastic, cluster) = (Elastic::plain(), Cluster::new());
    let (index, of_the_other) = (elastic.index(&json!({})), elastic.index(&json!({})));
    let kubeconfigs = [NamedTempFile::new().unwrap(), NamedTempFile::new().unwrap()];
    let road = Road::to(cluster.address());
    cluster.kubelet_by(road.address(), kubeconfigs[0].path());
    cluster.kubelet(kubeconfigs[1].path(), &cluster.node);
    let start = |kubeconfig: &NamedTempFile, index: &Index<'_>| {
        let node = Node::in_cluster(&cluster.node, kubeconfig.path());
        node.add_settings("  unknown_pod_wait: 1s\n");
        node.pipeline("flink", &by_namespace(&cluster, index, &elastic.url));
        let mut agent = node.run();
        agent.wait_ready();
        (node, agent)
    };
    let (node, agent) = start(&kubeconfigs[0], &index);
    let (other_node, other) = start(&kubeconfigs[1], &of_the_other);

    road.close();
    wait_until(SOON, "the agent has noticed", || !agent.is_ready());
    let mut pod = Pod::taskmanager(&cluster.namespace, "orders", 1);
    pod.node.clone_from(&cluster.node);
    cluster.add_pod(&mut pod);
    let mut log = Log::create(&node.root(), &pod, 0);
    (0..50).for_each(|number| log.line(&numbered(number)));
    for time in 1..=3 {
        let unknown = Pod::taskmanager(&cluster.namespace, "unknown", time);
        Log::with_lines(&other_node.root(), &unknown, 0, &[numbered(0)]);
        wait_until(SOON, "an unknown pod is given up", || of_the_other.count() == u64::from(time));
    }
    assert_eq!(index.count(), 0, "its pod may be known to the API server");

    road.open();
    wait_until(AFTER_A_PAUSE, "all lines are indexed", || index.count() == 50);
    for document in index.documents() {
        assert_eq!(text(&document.source, "kubernetes.labels.app").as_deref(), Some("orders"));
    }
    assert_eq!((agent.terminate(), other.terminate()), (Some(0), Some(0)));
}
