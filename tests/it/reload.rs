//! Pipelines that change while the agent runs: what validates is taken up without a line lost or
//! written twice, what does not is refused and the old pipelines go on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::follow::numbered;
use crate::support::cri::Log;
use crate::support::node::Node;
use crate::support::pods::Pod;
use crate::support::{SOON, wait_until};

fn to_file(name: &str, out: &Path) -> String {
    format!(
        "pipeline: {name}\nselect: [{{select: {{labels: {{component: taskmanager}}}}}}]\n\
         output:\n  file: {{path: {}}}\n",
        out.display()
    )
}

/// How often each message stands in these files.
fn messages(files: &[&Path]) -> BTreeMap<String, usize> {
    let mut messages = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap_or_default();
        // The last line may be being written.
        for line in text.lines() {
            if let Ok(document) = serde_json::from_str::<Value>(line) {
                *messages.entry(document["message"].to_string()).or_default() += 1;
            }
        }
    }
    messages
}

fn each_once(messages: &BTreeMap<String, usize>, count: usize) -> bool {
    messages.len() == count && messages.values().all(|times| *times == 1)
}

#[test]
fn changed_pipelines_are_taken_up_without_losing_a_line() {
    let pod = Pod::taskmanager("flink", "orders", 1);
    let node = Node::with_pods([&pod]);
    let (first, second) = (node.path("first.ndjson"), node.path("second.ndjson"));
    let (first, second) = (first.as_path(), second.as_path());
    node.pipeline("flink", &to_file("flink", first));
    let mut log = Log::create(&node.root(), &pod, 0);
    let mut agent = node.run();
    agent.wait_ready();
    for number in 0..500 {
        log.line(&numbered(number));
    }
    wait_until(SOON, "the first output has some", || !messages(&[first]).is_empty());

    // The output moves, while lines come.
    node.pipeline("flink", &to_file("flink", second));
    let mut number = 500;
    wait_until(SOON, "the second output has some", || {
        for _ in 0..50 {
            log.line(&numbered(number));
            number += 1;
        }
        !messages(&[second]).is_empty()
    });
    wait_until(SOON, "every line is in one of them, once", || {
        each_once(&messages(&[first, second]), number)
    });

    // A mistake changes nothing.
    let good = to_file("flink", second);
    node.pipeline("flink", &good.replace("path:", "paths:"));
    wait_until(SOON, "the mistake is refused", || {
        agent.metric("splashdam_reloads_total", "{result=\"refused\"}") > 0.0
    });
    log.line(&numbered(number));
    wait_until(SOON, "the old pipeline goes on", || {
        each_once(&messages(&[first, second]), number + 1)
    });

    // A signal reads them again, and a second pipeline begins at the oldest line.
    node.pipeline("flink", &good);
    let third = node.path("third.ndjson");
    let third = third.as_path();
    let another = to_file("another", third).replace("output:", "id_scope: another\noutput:");
    node.pipeline("another", &another);
    agent.hang_up();
    wait_until(SOON, "the new pipeline has all", || each_once(&messages(&[third]), number + 1));
    assert!(each_once(&messages(&[first, second]), number + 1), "the other one kept its place");
    assert_eq!(agent.terminate(), Some(0));
}
