//! A running agent beside a process that writes and a kubelet that rotates.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use crate::support::captures::Line;
use crate::support::cri::Log;
use crate::support::elastic::{Elastic, Index};
use crate::support::fields::flatten;
use crate::support::node::Node;
use crate::support::pods::Pod;
use crate::support::{SOON, pause, wait_until};

/// A pipeline for everything, with batches small enough that there are many.
pub(crate) fn pipeline(index: &Index<'_>, url: &str) -> String {
    format!(
        "pipeline: flink\nselect:\n  - select: {{}}\nparse:\n  json: {{}}\n\
         output:\n  elasticsearch:\n    hosts: [{url}]\n    index: {}\n    \
         batch: {{size: 64KiB, linger: 100ms}}\n",
        index.name,
    )
}

/// The line `number` of a writer: JSON, at times plain, at times so long that it is split.
pub(crate) fn numbered(number: usize) -> Line {
    let padding = "x".repeat(padding(number));
    if number.is_multiple_of(5) {
        Line::stderr(format!("plain [seq={number}] {padding}"))
    } else {
        Line::stdout(format!(r#"{{"message":"[seq={number}] {padding}"}}"#))
    }
}

fn padding(number: usize) -> usize {
    if number.is_multiple_of(97) { 40_000 } else { 0 }
}

/// How often each number is in the index.
pub(crate) fn numbers(index: &Index<'_>) -> BTreeMap<usize, usize> {
    let mut numbers = BTreeMap::new();
    for document in index.documents() {
        let fields = flatten(&document.source);
        let message = fields["message"].as_str().unwrap();
        let (_, rest) = message.split_once("[seq=").unwrap();
        let (number, rest) = rest.split_once("] ").unwrap();
        let number: usize = number.parse().unwrap();
        assert_eq!(rest.len(), padding(number), "line {number} is not whole");
        *numbers.entry(number).or_default() += 1;
    }
    numbers
}

/// Each of the numbers below `count`, once.
pub(crate) fn once_each(count: usize) -> BTreeMap<usize, usize> {
    (0..count).map(|number| (number, 1)).collect()
}

#[test]
fn what_is_written_while_files_rotate_is_indexed_once() {
    const COUNT: usize = 6000;
    let elastic = Elastic::plain();
    let index = elastic.missing_index();
    let pod = Pod::taskmanager("flink", "orders", 1);
    let node = Node::with_pods([&pod]);
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    let mut agent = node.run();
    agent.wait_ready();

    let mut log = Log::create(&node.root(), &pod, 0);
    let writer = thread::spawn(move || {
        for number in 0..COUNT {
            if number % 1000 == 999 {
                log.rotate();
            }
            log.line(&numbered(number));
            if number % 50 == 0 {
                pause(Duration::from_millis(10));
            }
        }
        log
    });
    let mut log = writer.join().unwrap();
    let wanted = u64::try_from(COUNT).unwrap();
    wait_until(SOON, "all lines are indexed", || index.count() >= wanted);
    assert_eq!(numbers(&index), once_each(COUNT));

    // a file that has gone when it was read takes nothing with it
    log.remove_oldest();
    log.line(&numbered(COUNT));
    wait_until(SOON, "one more line is indexed", || index.count() > wanted);
    assert_eq!(agent.terminate(), Some(0));
    assert_eq!(numbers(&index), once_each(COUNT + 1));
}

#[test]
fn a_line_that_a_rotation_cuts_in_two_is_one_document() {
    let elastic = Elastic::plain();
    let index = elastic.missing_index();
    let pod = Pod::taskmanager("flink", "orders", 1);
    let node = Node::with_pods([&pod]);
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    let mut log = Log::create(&node.root(), &pod, 0);
    log.line(&numbered(1));
    log.piece("stdout", "P", br#"{"message":"[se"#);
    log.rotate();
    log.piece("stdout", "F", br#"q=2] "}"#);
    log.line(&numbered(3));

    let summary = node.run_once();
    assert_eq!((summary.streams, summary.documents_indexed), (1, 3));
    assert_eq!(numbers(&index), [(1, 1), (2, 1), (3, 1)].into());
}

#[test]
fn a_tail_without_its_end_waits_and_is_shipped_when_it_ends() {
    let elastic = Elastic::plain();
    let index = elastic.missing_index();
    let pod = Pod::taskmanager("flink", "orders", 1);
    let node = Node::with_pods([&pod]);
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    let mut log = Log::create(&node.root(), &pod, 0);
    log.line(&numbered(1));
    log.piece("stdout", "P", br#"{"message":"[seq=2"#);

    let first = node.run_once();
    assert_eq!((first.lines_read, first.documents_indexed), (1, 1));
    assert!(first.bytes_unfinished > 0, "{first:?}");
    log.piece("stdout", "F", br#"] "}"#);
    let second = node.run_once();
    assert_eq!((second.documents_indexed, second.bytes_unfinished), (1, 0));
    assert_eq!(numbers(&index), [(1, 1), (2, 1)].into());
}
