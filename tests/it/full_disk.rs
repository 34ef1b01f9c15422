//! A state directory on a file system that is full: what is shipped, what is shown, and what is
//! there once there is room again.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use serde_json::json;

use crate::follow::{numbered, numbers, once_each, pipeline};
use crate::support::captures::Line;
use crate::support::cri::Log;
use crate::support::elastic::Elastic;
use crate::support::node::{Agent, Node};
use crate::support::pods::Pod;
use crate::support::{SOON, wait_until};

/// Room for the state of a few pods, and for little else.
const DISK_BYTES: u64 = 256 * 1024;

fn write(log: &mut Log, lines: Range<usize>) {
    lines.for_each(|number| log.line(&numbered(number)));
}

fn checkpoint_age(agent: &Agent) -> f64 {
    agent.metric("splashdam_checkpoint_age_seconds", "")
}

/// Whoever watches the age sees it, the agent is ready and ships on; one that is killed meanwhile
/// sends again what the old checkpoint does not know, which is there already.
#[test]
fn a_full_state_directory_stops_nothing_and_loses_nothing() {
    let elastic = Elastic::plain();
    let index = elastic.index(&json!({}));
    let pod = Pod::taskmanager("flink", "orders", 1);
    let node = Node::with_pods([&pod]).with_small_state(DISK_BYTES);
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    let mut log = Log::create(&node.root(), &pod, 0);
    let mut agent = node.run();
    write(&mut log, 0..1000);
    agent.wait_ready();
    wait_until(SOON, "the first lines are indexed", || agent.lines("indexed") == 1000);
    wait_until(SOON, "they are safe", || agent.bytes_behind() == 0 && checkpoint_age(&agent) < 2.0);

    node.disk().fill();
    let checkpoint = node.state_files().join("checkpoint");
    let before = fs::read(&checkpoint).unwrap();
    write(&mut log, 1000..2000);
    log.rotate();
    write(&mut log, 2000..3000);
    wait_until(SOON, "what came since is indexed", || agent.lines("indexed") == 3000);
    wait_until(SOON, "the checkpoint grows old", || checkpoint_age(&agent) > 3.0);
    assert!(agent.is_ready() && agent.is_running());
    assert_eq!(fs::read(&checkpoint).unwrap(), before, "it stays as it is");
    agent.kill();

    let mut agent = node.run();
    agent.wait_ready();
    write(&mut log, 3000..3500);
    wait_until(SOON, "all since the checkpoint is sent again", || {
        agent.lines("indexed") >= 2500 && index.count() == 3500
    });
    assert_eq!(numbers(&index), once_each(3500));

    node.disk().make_room();
    wait_until(SOON, "the checkpoint is written", || fs::read(&checkpoint).unwrap() != before);
    wait_until(SOON, "its age says so", || checkpoint_age(&agent) < 2.0);
    assert_eq!(agent.terminate(), Some(0));
    write(&mut log, 3500..3600);
    let summary = node.run_once();
    assert_eq!((summary.documents_indexed, summary.duplicates_answered), (100, 0));
    assert_eq!(numbers(&index), once_each(3600));
}

/// A document that is refused for good is safe only once it is kept; until then its pipeline waits.
#[test]
fn a_dead_letter_waits_for_room() {
    let elastic = Elastic::plain();
    let index = elastic.index(&json!({"properties": {"n": {"type": "integer"}}}));
    let pod = Pod::taskmanager("flink", "orders", 1);
    let node = Node::with_pods([&pod]).with_small_state(DISK_BYTES);
    let keeps = pipeline(&index, &elastic.url)
        .replace("    batch:", "    refused: dead_letter\n    batch:");
    node.pipeline("flink", &keeps);
    let mut log = Log::create(&node.root(), &pod, 0);
    let mut agent = node.run();
    agent.wait_ready();
    node.disk().fill();
    log.line(&Line::stdout(r#"{"message":"poison","n":"none"}"#));
    write(&mut log, 0..10);
    wait_until(SOON, "the agent says why it waits", || agent.has_named("flink", "write_failed"));
    wait_until(SOON, "it is shown", || {
        agent.metric("splashdam_output_state", "{pipeline=\"flink\",state=\"retrying\"}") > 0.0
    });
    assert_eq!((agent.lines("refused"), node.dead_letters().len()), (0, 0));

    node.disk().make_room();
    wait_until(SOON, "it is kept", || agent.lines("refused") == 1);
    wait_until(SOON, "the others are indexed", || agent.lines("indexed") == 10);
    assert_eq!(agent.terminate(), Some(0));
    assert_eq!(node.dead_letters().len(), 1);
    assert_eq!(numbers(&index), once_each(10));
    let summary = node.run_once();
    assert_eq!((summary.lines_read, summary.duplicates_answered), (0, 0));
}

/// What only handles keep needs room at the end: without it is lost, and that is said.
#[test]
fn what_finds_no_room_at_the_end_is_a_counted_loss() {
    let elastic = Elastic::plain();
    let index = elastic.index(&json!({}));
    let pods = [1, 2].map(|number| Pod::taskmanager("flink", "orders", number));
    let node = Node::with_pods(&pods).with_small_state(DISK_BYTES);
    node.add_settings("shutdown: {drain: 1s}\n");
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    node.pipeline("flink", &pipeline(&index, &format!("http://{nobody}")));
    let mut logs = pods.each_ref().map(|pod| Log::create(&node.root(), pod, 0));
    let agent = node.run();
    write(&mut logs[0], 0..100);
    write(&mut logs[1], 100..200);
    let gone = logs[1].position().0;
    let checkpoint =
        || fs::read_to_string(node.state_files().join("checkpoint")).unwrap_or_default();
    wait_until(SOON, "its length is known", || checkpoint().contains(&format!(",{gone}]")));
    node.disk().fill();
    fs::remove_dir_all(logs[1].pod_folder()).unwrap();
    wait_until(SOON, "the file is held", || agent.metric("splashdam_held_bytes", "") > 0.0);
    assert_eq!(agent.terminate(), Some(1), "not everything is safe");

    node.disk().make_room();
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    let agent = node.run();
    wait_until(SOON, "the rest is indexed", || agent.lines("indexed") == 100);
    wait_until(SOON, "the loss is counted", || agent.bytes_lost("gone") == gone);
    assert_eq!(agent.terminate(), Some(0));
    assert_eq!(numbers(&index), once_each(100));
}
