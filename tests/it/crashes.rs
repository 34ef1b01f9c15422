//! SIGKILL while documents are on their way: of the agent, again and again, and of Elasticsearch.

use std::fs;

use elasticsearch::http::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::follow::{numbered, numbers, once_each, pipeline};
use crate::support::captures;
use crate::support::cri::Log;
use crate::support::elastic::{Elastic, Index};
use crate::support::node::Node;
use crate::support::pods::Pod;
use crate::support::{SOON, alone_with_the_frail_server, wait_until};

/// Plain text with stack traces and numbered lines, several parts, the oldest compressed: what
/// eight agents leave of which seven were killed is to the byte what one leaves.
#[test]
fn agents_that_are_killed_leave_what_a_clean_run_leaves() {
    const COUNT: usize = 12_000;
    const KILLS: u64 = 7;
    let elastic = Elastic::plain();
    let pods = [1, 2].map(|number| Pod::taskmanager("flink", "orders", number));
    let node = Node::with_pods(&pods);
    let mut log = Log::create(&node.root(), &pods[0], 0);
    for number in 0..COUNT {
        if number % 4000 == 3999 {
            log.rotate();
        }
        log.line(&numbered(number));
    }
    let mut lines = COUNT;
    for process in ["taskmanager-1", "taskmanager-2", "jobmanager"] {
        for captured in captures::runs("pattern", process).values() {
            lines += captured.len();
            let container = Pod { container: format!("{process}-{lines}"), ..pods[1].clone() };
            Log::with_lines(&node.root(), &container, 0, captured);
        }
    }
    // batches so large that several are on their way at each kill
    let pipeline = |index: &Index<'_>| {
        pipeline(index, &elastic.url)
            .replace("json: {}", "json: {}\n  multiline: java")
            .replace("64KiB", "256KiB")
    };

    let clean = elastic.index(&json!({}));
    node.pipeline("flink", &pipeline(&clean));
    let summary = node.run_once();
    assert_eq!(summary.lines_read, u64::try_from(lines).unwrap());
    assert!(summary.documents_indexed < summary.lines_indexed, "stack traces are joined");
    let clean = clean.documents();
    assert_eq!(summary.documents_indexed, u64::try_from(clean.len()).unwrap());
    fs::remove_dir_all(node.state()).unwrap();

    // often, so that there is a checkpoint shortly before each kill
    node.set_state("checkpoint_interval: 100ms");
    let index = elastic.index(&json!({}));
    node.pipeline("flink", &pipeline(&index));
    for kill in 1..=KILLS {
        let agent = node.run();
        let some = kill * summary.documents_indexed / (KILLS + 2);
        wait_until(SOON, "the agent has got on", || index.count() >= some);
        if kill.is_multiple_of(3) {
            // what is on its way is not safe now, and the checkpoint has time to say otherwise:
            // of two requests at once the first is repeated after half a second
            index.set(&json!({"index.blocks.write": true}));
            wait_until(SOON, "requests are repeated", || agent.requests("partial") > 2);
        }
        agent.kill();
        index.set(&json!({"index.blocks.write": null}));
    }
    let rest = node.run_once();
    assert!(rest.documents_indexed > 0, "the last agent was killed before it was done");
    assert!(rest.lines_read < summary.lines_read, "what is acknowledged is not read again");
    let documents = index.documents();
    assert_eq!(documents.len(), clean.len());
    assert!(documents == clean, "the same documents under the same ids");
}

/// The process id of the server.
fn process_of(elastic: &Elastic) -> Option<i32> {
    let path = "_nodes/_local/process?filter_path=nodes.*.process.id";
    let answer = elastic.try_ask(Method::Get, path, &Value::Null)?;
    let node = answer["nodes"].as_object()?.values().next()?;
    i32::try_from(node["process"]["id"].as_i64()?).ok()
}

#[test]
fn an_elasticsearch_that_is_killed_while_it_indexes_has_every_line_once() {
    const COUNT: usize = 12_000;
    let _alone = alone_with_the_frail_server();
    let elastic = Elastic::frail();
    let killed = process_of(&elastic).unwrap();
    let command = fs::read_to_string(format!("/proc/{killed}/cmdline")).unwrap();
    assert!(command.contains("elasticsearch"), "{killed} is no server on this machine: {command}");

    let index = elastic.index(&json!({}));
    let pod = Pod::taskmanager("flink", "orders", 1);
    let node = Node::with_pods([&pod]);
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    let mut log = Log::create(&node.root(), &pod, 0);
    for number in 0..COUNT {
        log.line(&numbered(number));
    }
    let agent = node.run();
    wait_until(SOON, "some lines are indexed", || agent.lines("indexed") > 2000);
    kill_process(Pid::from_raw(killed).unwrap(), Signal::KILL).unwrap();
    wait_until(SOON, "the agent has noticed", || {
        agent.requests("no_answer") + agent.requests("connect_error") > 0
    });
    let before = agent.lines("indexed");
    assert!(before < COUNT, "it was killed while it indexed");
    wait_until(SOON * 3, "Elasticsearch is there again", || {
        let health = "_cluster/health?wait_for_status=yellow&timeout=1s";
        elastic.try_ask(Method::Get, health, &Value::Null).is_some()
    });
    assert_ne!(process_of(&elastic).unwrap(), killed);

    wait_until(SOON * 2, "all lines are indexed", || agent.lines("indexed") == COUNT);
    assert_eq!(agent.lines("refused"), 0);
    assert_eq!(agent.requests("unexpected"), 0, "nobody has to do anything about an outage");
    assert_eq!(agent.terminate(), Some(0));
    assert_eq!(numbers(&index), once_each(COUNT));
}
