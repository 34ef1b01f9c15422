//! Streams whose pods the API server tells of: late, not at all, anew, or while it is away.

use super::*;
use crate::config::agent::{PodSource, Start};
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
    ask_the_api(&mut node);
    node
}

/// Starts the node with a store that tells it of changes.
fn ask_the_api(node: &mut Node) {
    node.start();
    let inbox = Arc::clone(&node.worker().setup.inbox);
    let tell = move |change: &Change| inbox.pods_changed(change);
    node.worker().setup.pods = Arc::new(PodStore::new(Arc::new(tell)));
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

/// A node that passes over what is there at its very first start, and what was there.
fn newcomer() -> Node {
    let mut node = Node::with(&[BY_LABEL]);
    let agent = Arc::get_mut(&mut node.agent).expect("nobody else has it");
    (agent.kubernetes.source, agent.logs.start) = (PodSource::Api, Start::Newest);
    for old in 0..4000 {
        node.line(&format!("from before {old} {}", "x".repeat(500)));
    }
    node.written.clear();
    ask_the_api(&mut node);
    node.clock_ns = now_ns();
    node
}

/// Pods are always told of after the files.
#[test]
fn what_was_there_is_passed_over_also_where_its_pod_comes_later() {
    let mut node = newcomer();
    node.line("after the start, and before its pod was known");
    node.scan();
    node.settle(1);
    node.api([Said::Init, Said::Found(pod("x")), Said::InitDone]);
    node.line("after that");
    node.scan();
    assert_eq!(node.indexed(), node.written);
    node.raw("1.log", "stdout F", "a run that comes later, by a clock that was set back");
    node.clock_ns -= 3_600_000_000_000;
    node.raw("1.log", "stdout F", "is read from its beginning");
    let container = pod("x").containers["c"].clone();
    let container =
        ContainerFacts { restart: Some(1), ids: [(1, "id".to_owned())].into(), ..container };
    let mut later = pod("x");
    later.containers.insert("c".to_owned(), container);
    node.api([Said::Changed(later)]);
    node.scan();
    assert_eq!(node.indexed(), node.written);
}

/// A pipeline that is added later has nothing to do with the start.
#[test]
fn what_was_there_is_not_passed_over_by_a_pipeline_that_comes_later() {
    let mut node = newcomer();
    node.api([Said::Init, Said::Found(pod("x")), Said::InitDone]);
    node.line("after the start");
    node.scan();
    assert_eq!(node.indexed().len(), 1);
    node.reload(&[&BY_LABEL.replace("pipeline: labels", "pipeline: later")], true, 0);
    assert_eq!(node.indexed().len(), 4001);
}

/// A restart in the middle of it doesn't bring back what is still to be passed over.
#[test]
fn what_is_passed_over_stays_so_across_a_restart() {
    let mut node = newcomer();
    node.api([Said::Init, Said::Found(pod("x")), Said::InitDone]);
    node.line("the first");
    node.scan();
    let later = node.now + Duration::from_secs(5);
    let worker = node.worker();
    let news = worker.setup.inbox.take(Duration::ZERO, Command::Run);
    worker.take_in(news);
    worker.work();
    worker.pass_time(later);
    assert!(worker.save_and_wait());
    let reading = worker.streams.values_mut().find_map(|stream| stream.places[0].reading());
    let reading = reading.expect("it is read");
    assert!(!reading.at_end && reading.reader.needs_from() > Position::START, "{reading:?}");
    node.crash(0);
    ask_the_api(&mut node);
    node.api([Said::Init, Said::Found(pod("x")), Said::InitDone]);
    node.scan();
    assert_eq!(node.indexed(), node.written);
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
