//! The promises one by one, each in the shortest story in which breaking it shows; what
//! `tests/mutations` breaks on purpose fails here. `model.rs` tells longer and random ones.

use super::*;
use crate::pipeline::reader::Reader;

const STAMP: &str = "20261123-210700";

impl Node {
    /// The reader of the one pipeline in run 0.
    fn reader(&mut self) -> &Reader {
        let worker = self.worker();
        let key = worker.names[&Self::stream(0)];
        let place = &mut worker.streams.get_mut(&key).expect("listed").places[0];
        &place.reading().expect("it is read").reader
    }

    fn restart(&mut self) {
        self.start();
        self.scan();
    }

    /// Answers everything, and checks.
    fn finish_and_check(&mut self) {
        self.scan();
        self.finish();
        self.check();
    }

    fn pipeline_mut(&mut self) -> &mut Pipeline {
        Arc::get_mut(&mut self.pipelines[0]).expect("nobody else has it")
    }
}

fn numbered(node: &mut Node, count: usize) {
    for n in 0..count {
        node.line(&format!("line {n} {}", "x".repeat(200)));
    }
}

#[test]
fn what_was_not_answered_is_sent_again_after_a_crash() {
    let mut node = Node::new();
    node.start();
    numbered(&mut node, 30);
    node.scan();
    node.settle(5);
    assert!(node.sent.len() > 1, "more than one is on its way");
    node.crash(0);
    node.restart();
    node.finish_and_check();
}

/// The checkpoint moves with each batch that is answered, and must not pass the piece.
#[test]
fn an_unfinished_line_is_read_again_after_a_crash() {
    let mut node = Node::new();
    node.start();
    node.raw("0.log", "stderr F", "before");
    node.raw("0.log", "stdout P", "begun ");
    node.raw("0.log", "stderr F", "after");
    node.scan();
    node.finish();
    node.crash(0);
    node.raw("0.log", "stdout F", "ended");
    for half in ["begun ", "ended"] {
        assert!(node.written.remove(half));
    }
    node.written.insert("begun ended".to_owned());
    node.restart();
    node.finish_and_check();
}

/// The trace was cut because nothing came for long; what comes then would have continued it.
#[test]
fn a_cut_outlives_a_crash() {
    let mut node = Node::new();
    node.start();
    node.line("text: java.lang.Exception");
    node.scan();
    node.settle(5);
    node.settle(5);
    assert_eq!(node.sent.len(), 1, "it is cut and on its way");
    node.crash(1);
    node.line("\tat com.example.Frame.of(Frame.java:1)");
    node.restart();
    node.finish_and_check();
    assert_eq!(node.duplicates, 1, "the same record under the same id");
}

#[test]
fn no_record_is_cut_before_its_cut_is_saved() {
    let mut node = Node::new();
    node.start();
    node.line("text: java.lang.Exception");
    node.scan();
    node.settle(0);
    assert!(node.worker().save_and_wait());
    let in_the_way = node.state().join("checkpoint.new");
    fs::create_dir(&in_the_way).expect("made");
    for _ in 0..3 {
        node.settle(5);
    }
    assert!(node.sent.is_empty(), "the cut is not on the disk");
    fs::remove_dir(&in_the_way).expect("removed");
    node.finish_and_check();
}

#[test]
fn equal_lines_of_the_same_time_are_two_documents() {
    let mut node = Node::new();
    node.start();
    for _ in 0..2 {
        node.raw("0.log", "stdout F", "the same");
        node.clock_ns -= 1_000_000;
    }
    node.scan();
    node.finish();
    assert_eq!(node.index.len(), 2);
}

#[test]
fn ids_outlive_rename_compression_other_files_and_the_state_directory() {
    let mut node = Node::new();
    node.start();
    numbered(&mut node, 20);
    node.finish_and_check();
    let before = node.index.clone();
    node.crash(0);
    fs::remove_dir_all(node.state()).expect("removed");
    node.rotate(STAMP);
    node.gzip(&format!("0.log.{STAMP}"));
    node.restart();
    node.finish_and_check();
    assert_eq!(node.duplicates, 20);
    assert_eq!(node.index, before);
}

/// The runtime empties its pipes into the old file after the new one is there.
#[test]
fn a_rotated_part_is_not_left_while_it_may_still_be_written_to() {
    let mut node = Node::new();
    node.start();
    node.line("one");
    node.scan();
    node.settle(0);
    node.rotate(STAMP);
    node.line("three");
    node.scan();
    let old = format!("0.log.{STAMP}");
    node.raw(&old, "stdout F", "two");
    node.settle(0);
    let here = node.reader().cursor().part;
    assert_eq!(node.worker().streams.values().next().expect("there").tail.parts()[0].id, here);
    node.finish_and_check();
    assert_eq!(node.duplicates, 0, "nothing had to be read again");
}

#[test]
fn bytes_that_come_after_a_part_was_left_are_read() {
    let mut node = Node::new();
    node.start();
    node.line("one");
    node.rotate(STAMP);
    node.line("three");
    node.finish_and_check();
    node.raw(&format!("0.log.{STAMP}"), "stdout F", "two");
    node.finish_and_check();
}

/// To go back to them is not to pass over what stands before them and is not safe.
#[test]
fn bytes_that_come_late_make_nothing_before_them_safe() {
    for crashes in [false, true] {
        let mut node = Node::new();
        node.start();
        numbered(&mut node, 20);
        node.scan();
        node.settle(5);
        assert!(!node.sent.is_empty(), "and not answered");
        node.rotate(STAMP);
        node.line("after");
        node.scan();
        node.settle(5);
        node.raw(&format!("0.log.{STAMP}"), "stdout F", "late");
        node.scan();
        node.settle(5);
        if crashes {
            node.crash(0);
            node.start();
            node.scan();
        } else {
            node.die(0);
        }
        node.finish_and_check();
    }
}

#[test]
fn a_record_that_is_open_when_bytes_come_late_is_whole() {
    let mut node = Node::new();
    node.start();
    node.line("one");
    node.raw("0.log", "stdout P", "begin ");
    node.rotate(STAMP);
    node.raw("0.log", "stderr F", "beside");
    node.scan();
    node.finish();
    node.raw(&format!("0.log.{STAMP}"), "stderr F", "late");
    node.scan();
    node.settle(5);
    node.raw("0.log", "stdout F", "end");
    for piece in ["begin ", "end"] {
        assert!(node.written.remove(piece));
    }
    node.written.insert("begin end".to_owned());
    node.finish_and_check();
}

#[test]
fn what_a_dead_output_forgot_is_read_again_and_throttled_once() {
    let mut node = Node::new();
    node.pipeline_mut().filters = vec![crate::config::pipeline::Filter::Throttle {
        by: "stream".to_owned(),
        lines: 30,
        per: Duration::from_secs(3600),
    }];
    node.clock_ns -= node.clock_ns % 3_600_000_000_000;
    node.start();
    numbered(&mut node, 30);
    node.scan();
    node.settle(5);
    assert!(node.sent.len() > 2);
    node.die(0);
    node.settle(0);
    assert_eq!(node.sent.len(), 1, "a probe");
    node.finish_and_check();
}

#[test]
fn reading_stops_at_the_budget() {
    const BUDGET: usize = 300 * 1024;
    let mut node = Node::new();
    Arc::get_mut(&mut node.agent).expect("nobody else has it").memory_budget_bytes = BUDGET;
    node.pipeline_mut().output.batch.size_bytes = 100 * 1024;
    node.start();
    numbered(&mut node, 2000);
    node.scan();
    node.settle(5);
    let sent: usize = node.sent.iter().map(|(_, batch)| batch.body.len()).sum();
    let held = sent + node.worker().outlets[0].batch.plain_bytes();
    assert!(node.sent.len() > 1 && held <= BUDGET, "{held} bytes are held");
    node.finish_and_check();
}
