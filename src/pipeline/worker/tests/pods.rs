//! Streams whose pods the API server tells of: late, not at all, anew, or while it is away.

use super::*;
use crate::config::agent::PodSource;
use crate::enrich::facts::ContainerFacts;
use crate::enrich::store::{Change, Event as Said};

const BY_PATH: &str = "pipeline: p
select: [{select: {namespaces: [n]}}]
output:
  elasticsearch: {hosts: [\"http://localhost:9\"], index: i, compression: none}
";

const BY_NAMESPACE_LABEL: &str = "pipeline: p
select: [{select: {namespace_labels: {team: a}}}]
output:
  elasticsearch: {hosts: [\"http://localhost:9\"], index: i, compression: none}
";

/// The pod of all runs, with this label, running.
fn pod(app: &str) -> PodFacts {
    let ids = [(0, "id".to_owned())].into();
    let container = ContainerFacts { restart: Some(0), ids, ..ContainerFacts::default() };
    PodFacts {
        namespace: "n".into(),
        name: "p".into(),
        uid: "u".into(),
        config_hash: None,
        is_static: false,
        labels: [("app".to_owned(), app.to_owned())].into(),
        node: None,
        pod_ip: None,
        containers: [("c".to_owned(), container)].into(),
        namespace_labels: None,
        flink: None,
    }
}

/// A node that asks the API server, which has not answered yet.
fn node(pipeline: &str) -> Node {
    let mut node = Node::with(&[pipeline]);
    Arc::make_mut(&mut node.agent).kubernetes.source = PodSource::Api;
    node.start();
    let inbox = Arc::clone(&node.worker().setup.inbox);
    let tell = move |change: &Change| inbox.pods_changed(change);
    node.worker().setup.pods = Arc::new(PodStore::new(Arc::new(tell)));
    node
}

impl Node {
    fn api(&mut self, said: impl IntoIterator<Item = Said<PodFacts>>) {
        said.into_iter().for_each(|said| self.worker().setup.pods.apply_pod(said));
        self.settle(0);
    }

    /// Lets time pass as the worker sees it, tick by tick.
    fn wait(&mut self, seconds: u64) {
        (0..seconds).for_each(|_| self.settle(1));
    }

    /// Answers everything; the lines that are in the index.
    fn indexed(&mut self) -> BTreeSet<String> {
        self.finish();
        self.index.values().flatten().cloned().collect()
    }
}

fn lines<const N: usize>(lines: [&str; N]) -> BTreeSet<String> {
    lines.map(str::to_owned).into()
}

#[test]
fn an_outage_of_the_api_server_never_counts_as_waiting() {
    let mut node = node(BY_PATH);
    let wait = node.agent.kubernetes.unknown_pod_wait.as_secs();
    node.line("of a pod that nobody knows");
    node.scan();
    node.wait(3 * wait);
    assert!(node.sent.is_empty(), "it has not answered yet");
    node.api([Said::Init, Said::InitDone]);
    node.wait(wait / 2);
    node.api([Said::OutOfSync]);
    node.wait(3 * wait);
    assert!(node.sent.is_empty(), "half of the wait is left");
    node.api([Said::InSync]);
    node.wait(wait / 2 - 2);
    assert!(node.sent.is_empty(), "the wait goes on where it was");
    node.wait(4);
    assert_eq!(node.indexed(), lines(["of a pod that nobody knows"]));
}

#[test]
fn a_run_that_begins_in_an_outage_is_taken_without_its_status() {
    let mut node = node(BY_LABEL);
    node.api([Said::Init, Said::Found(pod("x")), Said::InitDone]);
    node.line("of the first run");
    node.scan();
    assert_eq!(node.indexed(), lines(["of the first run"]));
    node.api([Said::OutOfSync]);
    node.raw("1.log", "stdout F", "of the next one");
    node.scan();
    node.wait(2);
    assert!(node.sent.is_empty(), "its status is waited for");
    node.wait(2);
    assert_eq!(node.indexed(), lines(["of the first run", "of the next one"]));
}

#[test]
fn time_in_which_nobody_waited_is_no_wait() {
    let mut node = node(BY_LABEL);
    node.api([Said::Init, Said::Found(pod("x")), Said::InitDone]);
    node.raw("1.log", "stdout F", "of a run that began after an idle minute");
    let (name, files) = (Node::stream(1), node.files().remove(&1).expect("written"));
    node.worker().setup.inbox.tell(Event::Listing { name, files, later_restart: false });
    node.settle(60);
    node.settle(60);
    let key = node.worker().names[&Node::stream(1)];
    assert!(node.worker().streams[&key].is_undecided(), "its status may come at any time");
    node.wait(1);
    assert_eq!(node.indexed(), lines(["of a run that began after an idle minute"]));
}

#[test]
fn a_known_pod_is_not_given_up_in_an_outage() {
    let mut node = node(BY_NAMESPACE_LABEL);
    let wait = node.agent.kubernetes.unknown_pod_wait.as_secs();
    node.api([Said::Init, Said::Found(pod("x")), Said::InitDone]);
    node.line("of a namespace that nobody told of yet");
    node.api([Said::OutOfSync]);
    node.scan();
    node.wait(3 * wait);
    let stream = node.worker().streams.values().next().expect("it is known");
    assert!(stream.is_undecided() && !stream.given_up, "its files are still held");
}

#[test]
fn facts_that_come_after_the_wait_reopen_a_stream() {
    let mut node = node(BY_LABEL);
    let wait = node.agent.kubernetes.unknown_pod_wait.as_secs();
    node.api([Said::Init, Said::InitDone]);
    node.line("written early");
    node.scan();
    node.wait(2 * wait);
    assert!(node.sent.is_empty());
    let stream = node.worker().streams.values().next().expect("it is known");
    assert!(stream.given_up && stream.is_undecided());
    node.api([Said::Changed(pod("x"))]);
    assert_eq!(node.indexed(), lines(["written early"]));
    assert_eq!(node.worker().bytes_lost, 0);
}

#[test]
fn labels_that_change_decide_again_from_the_place_that_was_reached() {
    let mut node = node(BY_LABEL);
    node.api([Said::Init, Said::Found(pod("x")), Said::InitDone]);
    node.line("taken");
    node.scan();
    assert_eq!(node.indexed(), lines(["taken"]));
    let mut skipped = pod("x");
    skipped.labels.insert("skip".to_owned(), "yes".to_owned());
    node.api([Said::Changed(skipped)]);
    node.line("while it was not to be taken");
    node.scan();
    assert_eq!(node.indexed(), lines(["taken"]));
    node.api([Said::Changed(pod("x"))]);
    let all = lines(["taken", "while it was not to be taken"]);
    assert_eq!(node.indexed(), all);
    assert_eq!(node.duplicates, 0);
}

#[test]
fn the_facts_of_a_pod_that_went_outlive_the_agent() {
    let mut node = node(BY_LABEL);
    node.api([Said::Init, Said::Found(pod("x")), Said::InitDone]);
    node.line("before");
    node.scan();
    assert_eq!(node.indexed(), lines(["before"]));
    node.api([Said::Deleted(pod("x"))]);
    node.line("after");
    node.crash(0);

    let saved: Vec<PodFacts> = Store::open_soon(&node.state()).pods().values().cloned().collect();
    assert_eq!(saved, [pod("x")]);
    node.start();
    let inbox = Arc::clone(&node.worker().setup.inbox);
    let store = PodStore::new(Arc::new(move |change: &Change| inbox.pods_changed(change)));
    store.restore(saved);
    node.worker().setup.pods = Arc::new(store);
    node.api([Said::Init, Said::InitDone]);
    node.scan();
    assert_eq!(node.indexed(), lines(["after", "before"]));

    // Its files are read and gone, so nobody needs it any more.
    fs::remove_file(node.path("0.log")).expect("removed");
    node.scan();
    node.finish();
    assert!(node.worker().setup.pods.find("n", "p").is_none());
    node.crash(0);
    assert!(Store::open_soon(&node.state()).pods().is_empty());
}

#[test]
fn the_facts_of_a_pod_that_nobody_could_decide_on_outlive_the_agent_too() {
    let mut node = node(BY_NAMESPACE_LABEL);
    node.api([Said::Init, Said::Found(pod("x")), Said::InitDone]);
    node.line("of a namespace that nobody told of yet");
    node.scan();
    node.finish();
    node.crash(0);
    let saved: Vec<PodFacts> = Store::open_soon(&node.state()).pods().values().cloned().collect();
    assert_eq!(saved, [pod("x")]);
}
