//! Deleted files, open records and dead outputs: what is held, for how long, and in how much memory.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use serde_json::Value;

use crate::follow::{numbered, numbers, once_each, pipeline};
use crate::support::cri::Log;
use crate::support::elastic::Elastic;
use crate::support::node::Node;
use crate::support::pods::Pod;
use crate::support::{SOON, wait_until};

/// A URL on loopback where nobody answers.
fn nobody() -> String {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    format!("http://{address}")
}

#[test]
fn what_only_open_handles_keep_survives_the_agent() {
    let elastic = Elastic::plain();
    let index = elastic.missing_index();
    let pod = Pod::taskmanager("flink", "orders", 1);
    let node = Node::with_pods([&pod]);
    node.add_settings("shutdown: {drain: 1s}\n");
    node.pipeline("flink", &pipeline(&index, &nobody()));
    let mut log = Log::create(&node.root(), &pod, 0);
    let agent = node.run();
    const COUNT: usize = 600;
    let mut written = 0;
    for part in 0..3 {
        for number in (0..COUNT).skip(part * 200).take(200) {
            log.line(&numbered(number));
        }
        written += log.position().0;
        log.rotate();
        wait_until(SOON, "all of the part is known", || agent.bytes_behind() >= written);
    }
    // One of the rotated parts is compressed by now, all are held.
    let folder = node.root().join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid));
    let size: u64 = fs::read_dir(folder.join(&pod.container))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(size > 0);
    fs::remove_dir_all(&folder).unwrap();
    wait_until(SOON, "the files are held", || agent.metric("splashdam_held_bytes", "") > 0.0);
    assert_eq!(agent.terminate(), Some(1), "not everything is safe");

    node.pipeline("flink", &pipeline(&index, &elastic.url));
    node.run_once();
    assert_eq!(numbers(&index), once_each(COUNT));
    let spool = node.state().join("spool");
    assert_eq!(fs::read_dir(spool).unwrap().count(), 0, "nobody needs the copies any more");
}

fn documents(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Five hundred containers that have each begun a record of 1 MiB and not ended it, one that has
/// one record larger than a pipeline's share, and a dead output beside a live one.
#[test]
fn open_records_of_many_streams_neither_fill_the_memory_nor_stop_the_others() {
    const STREAMS: u32 = 500;
    const PIECES: usize = 60;
    let pods: Vec<Pod> = (0..STREAMS).map(|n| Pod::taskmanager("flink", "orders", n)).collect();
    let node = Node::with_pods(&pods);
    let out = node.path("out.ndjson");
    let select = "select: [{select: {labels: {component: taskmanager}}}]";
    node.pipeline(
        "live",
        &format!("pipeline: live\n{select}\noutput:\n  file: {{path: {}}}\n", out.display()),
    );
    node.pipeline(
        "dead",
        &format!(
            "pipeline: dead\nid_scope: dead\n{select}\noutput:\n  elasticsearch: {{hosts: [\"{}\"], index: nowhere}}\n",
            nobody()
        ),
    );
    let piece = vec![b'x'; 16 * 1024];
    let mut logs: Vec<Log> = pods.iter().map(|pod| Log::create(&node.root(), pod, 0)).collect();
    for log in &mut logs {
        for _ in 0..PIECES {
            log.piece("stdout", "P", &piece);
        }
    }
    let mut agent = node.run();
    agent.wait_ready_without_outputs();
    let read = |agent: &crate::support::node::Agent| {
        agent.metric("splashdam_bytes_behind", "{pipeline=\"live\"}")
    };
    wait_until(SOON, "all streams are known", || read(&agent) > 450.0 * 1024.0 * 1024.0);

    // Others go on meanwhile.
    logs[7].piece("stderr", "F", b"{\"message\":\"another\"}");
    let has = |message: &str| documents(&out).iter().any(|document| document["message"] == message);
    wait_until(SOON, "a line of a stream with an open record", || has("another"));

    for log in &mut logs {
        log.piece("stdout", "F", b"the end");
    }
    wait_until(3 * SOON, "every record is written", || {
        documents(&out).len() == 1 + usize::try_from(STREAMS).unwrap()
    });
    let mut pods = BTreeMap::<String, usize>::new();
    for document in documents(&out) {
        let message = document["message"].as_str().unwrap();
        if message != "another" {
            assert_eq!(message.len(), PIECES * piece.len() + "the end".len());
            *pods.entry(document["kubernetes"]["pod_name"].to_string()).or_default() += 1;
        }
    }
    assert!(pods.len() == 500 && pods.values().all(|times| *times == 1));
    let peak = agent.peak_bytes();
    assert!(peak <= (64 + 32) << 20, "{} MiB resident", peak >> 20);
    assert!(agent.is_running());
}
