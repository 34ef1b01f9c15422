//! How agents end and begin: SIGTERM, SIGKILL, and two on one state directory.

use crate::follow::{numbered, numbers, once_each, pipeline};
use crate::support::cri::Log;
use crate::support::elastic::Elastic;
use crate::support::node::Node;
use crate::support::pods::Pod;
use crate::support::{SOON, wait_until};

const COUNT: usize = 3000;

#[test]
fn sigterm_drains_and_saves_the_checkpoint() {
    let elastic = Elastic::plain();
    let index = elastic.missing_index();
    let pod = Pod::taskmanager("flink", "orders", 1);
    let node = Node::with_pods([&pod]);
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    let mut log = Log::create(&node.root(), &pod, 0);
    let agent = node.run();
    for number in 0..COUNT {
        log.line(&numbered(number));
    }
    wait_until(SOON, "the first documents are indexed", || index.count() > 0);
    assert_eq!(agent.terminate(), Some(0));

    let rest = node.run_once();
    assert_eq!(rest.duplicates_answered, 0, "the checkpoint has all that was acknowledged");
    assert_eq!(numbers(&index), once_each(COUNT));
}

/// It writes to a pipe that takes nothing any more, and is told to end.
#[test]
fn a_write_that_never_ends_keeps_no_agent() {
    let pod = Pod::taskmanager("flink", "orders", 1);
    let node = Node::with_pods([&pod]);
    node.add_settings("shutdown: {drain: 1s}\n");
    node.pipeline("flink", "pipeline: flink\nselect: [{select: {}}]\noutput: {stdout: {}}\n");
    let mut log = Log::create(&node.root(), &pod, 0);
    for number in 0..COUNT {
        log.line(&numbered(number));
    }
    let agent = node.run_unheard();
    wait_until(SOON, "something is in flight", || agent.bytes_behind() > 0);
    assert_eq!(agent.terminate(), Some(1), "not everything is safe");
}

#[test]
fn a_second_signal_ends_at_once_and_is_as_safe_as_a_crash() {
    let elastic = Elastic::plain();
    let index = elastic.missing_index();
    let pod = Pod::taskmanager("flink", "orders", 1);
    let node = Node::with_pods([&pod]);
    node.add_settings("shutdown: {drain: 1h}\n");
    // Nobody answers, so that the drain has something to wait for.
    node.pipeline("flink", &pipeline(&index, "http://127.0.0.1:9"));
    let mut log = Log::create(&node.root(), &pod, 0);
    for number in 0..COUNT {
        log.line(&numbered(number));
    }
    let agent = node.run();
    wait_until(SOON, "something is in flight", || {
        agent.metric(
            "splashdam_bulk_requests_total",
            "{pipeline=\"flink\",result=\"connect_error\"}",
        ) > 0.0
    });
    // Two of one kind might come as one.
    agent.interrupt();
    assert_eq!(agent.terminate(), Some(1), "not everything is safe");

    node.pipeline("flink", &pipeline(&index, &elastic.url));
    node.run_once();
    assert_eq!(numbers(&index), once_each(COUNT));
}

#[test]
fn after_sigkill_nothing_is_lost_and_nothing_is_there_twice() {
    let elastic = Elastic::plain();
    let index = elastic.missing_index();
    let pod = Pod::taskmanager("flink", "orders", 1);
    let node = Node::with_pods([&pod]);
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    let mut log = Log::create(&node.root(), &pod, 0);
    for round in 0..3 {
        let agent = node.run();
        for number in (0..COUNT).skip(round * 1000).take(1000) {
            log.line(&numbered(number));
        }
        let some = u64::try_from(round * 1000).unwrap();
        wait_until(SOON, "some documents are indexed", || index.count() > some);
        agent.kill();
        log.rotate();
    }
    node.run_once();
    assert_eq!(numbers(&index), once_each(COUNT));
}

#[test]
fn a_second_agent_on_the_same_state_waits_until_the_first_has_gone() {
    let elastic = Elastic::plain();
    let index = elastic.missing_index();
    let pod = Pod::taskmanager("flink", "orders", 1);
    let node = Node::with_pods([&pod]);
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    let mut log = Log::create(&node.root(), &pod, 0);
    let mut first = node.run();
    first.wait_ready();
    let mut second = node.run();
    for number in 0..COUNT {
        log.line(&numbered(number));
    }
    let wanted = u64::try_from(COUNT).unwrap();
    wait_until(SOON, "the first agent has shipped all", || index.count() >= wanted);
    assert!(second.is_running());
    assert!(!second.is_ready(), "it may not be ready before it has the state");
    assert_eq!(first.terminate(), Some(0));

    second.wait_ready();
    log.line(&numbered(COUNT));
    wait_until(SOON, "the second agent goes on", || index.count() > wanted);
    assert_eq!(second.terminate(), Some(0));
    assert_eq!(numbers(&index), once_each(COUNT + 1));
}
