//! What happens when two things coincide: an end and a save, a shutdown and an open record, a limit
//! and what is in flight.

use super::*;

/// A record that waits for its next line, and a cut for it that is on its way to the disk.
fn asks_for_a_cut(node: &mut Node) {
    node.start();
    node.line("begins: java.lang.Exception");
    node.scan();
    node.settle(0);
    node.now += Duration::from_secs(10);
    let later = node.now;
    node.worker().pass_time(later);
    node.worker().work();
    node.worker().pass_time(later + Duration::from_secs(1));
    assert!(!node.worker().asked.is_empty());
}

#[test]
fn a_stream_that_goes_while_a_cut_is_saved_is_read_to_its_end() {
    let mut node = Node::new();
    asks_for_a_cut(&mut node);
    fs::remove_file(node.path("0.log")).expect("removed");
    // The disk has not answered yet.
    node.worker().gone(&Node::stream(0));
    node.worker().work();
    node.finish();
    node.check();
    assert!(node.worker().streams.is_empty());
}

#[test]
fn an_open_record_leaves_a_draining_worker_nothing_to_do() {
    let mut node = Node::new();
    node.start();
    node.line("one");
    node.line("begins: java.lang.Exception");
    node.scan();
    node.settle(2);
    node.worker().setup.inbox.command(Command::Drain);
    node.settle(1);
    assert!(!node.worker().waiting.is_empty() && !node.sent.is_empty());
    let now = node.now;
    assert!(!node.worker().patience(now).is_zero(), "it would spin");
}
