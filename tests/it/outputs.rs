//! What comes out without an Elasticsearch: the file output, the docker runtime's trees, filters,
//! and `explain`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::fields::text;
use crate::support::node::Node;
use crate::support::pods::Pod;
use crate::support::{SOON, wait_until};

/// A node with the log of a TaskManager in docker's frame: a rotated part and the live file.
fn docker_node(pod: &Pod) -> (Node, PathBuf) {
    let node = Node::with_pods([pod]);
    let container = node.path("docker").join("c0ffee");
    fs::create_dir(&container).unwrap();
    let line = |second: u32, log: &str| {
        let log = serde_json::to_string(log).unwrap();
        format!(
            "{{\"log\":{log},\"stream\":\"stdout\",\"time\":\"2026-11-23T21:00:{second:02}.5Z\"}}\n"
        )
    };
    let live = container.join("c0ffee-json.log");
    let debug = "{\"log.level\":\"DEBUG\",\"message\":\"noise\",\"password\":\"p\"}\n";
    fs::write(container.join("c0ffee-json.log.1"), line(1, "older\n") + &line(2, "one li"))
        .unwrap();
    fs::write(&live, line(3, "ne\n") + &line(4, debug) + &line(5, "{\"message\":\"id=7 é\"}\n"))
        .unwrap();
    let run = format!("{}_{}_{}/{}", pod.namespace, pod.name, pod.uid, pod.container);
    let folder = node.root().join(run);
    fs::create_dir_all(&folder).unwrap();
    let link = folder.join("0.log");
    symlink(&live, &link).unwrap();
    (node, link)
}

const PIPELINE: &str = "pipeline: flink
select:
  - select: {labels: {component: taskmanager}}
filters:
  - drop: {field: log.level, in: [DEBUG]}
  - redact: {field: message, pattern: \"id=\\\\d+\", with: \"id=*\"}
  - add: {environment: test}
output:
  file: {path: OUT, document: ecs}
";

#[test]
fn docker_logs_are_read_through_links_and_filtered_into_a_file() {
    let pod = Pod::taskmanager("flink", "orders", 1);
    let (node, _) = docker_node(&pod);
    let out = node.path("out.ndjson");
    node.pipeline("flink", &PIPELINE.replace("OUT", out.to_str().expect("UTF-8")));

    let summary = node.run_once();
    assert_eq!((summary.lines_read, summary.lines_indexed, summary.lines_filtered), (4, 3, 1));
    let written = fs::read_to_string(&out).unwrap();
    let documents: Vec<Value> =
        written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let messages: Vec<_> =
        documents.iter().map(|document| text(document, "message").unwrap()).collect();
    assert_eq!(messages, ["older", "one line", "id=* é"]);
    for document in &documents {
        assert_eq!(text(document, "environment").as_deref(), Some("test"));
        assert_eq!(text(document, "kubernetes.pod.uid").as_deref(), Some(pod.uid.as_str()));
        assert_eq!(text(document, "kubernetes.labels.component").as_deref(), Some("taskmanager"));
    }
    assert_eq!(node.run_once().documents_indexed, 0, "a second run sends nothing");
}

/// As in the manifests without the component `docker`: the tree is mounted, the files are not.
#[test]
fn links_to_what_is_not_mounted_are_counted_and_the_place_in_it_is_kept() {
    let pod = Pod::taskmanager("flink", "orders", 1);
    let (node, _) = docker_node(&pod);
    let (mounted, aside) = (node.path("docker"), node.path("aside"));
    let out = node.path("out.ndjson");
    node.pipeline("flink", &PIPELINE.replace("OUT", out.to_str().expect("UTF-8")));
    assert_eq!(node.run_once().lines_indexed, 3);
    fs::rename(&mounted, &aside).unwrap();
    let agent = node.run();
    wait_until(SOON, "the links are counted", || {
        agent.metric("splashdam_scan_errors_total", "{cause=\"link\"}") >= 1.0
    });
    assert!(!agent.is_ready(), "it can't know what there is");
    fs::rename(&aside, &mounted).unwrap();
    wait_until(SOON, "it is ready", || agent.is_ready());
    assert_eq!((agent.lines("indexed"), agent.bytes_lost("gone")), (0, 0), "its place is kept");
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn explain_shows_who_takes_a_line_and_its_document() {
    let pod = Pod::taskmanager("flink", "orders", 1);
    let (node, link) = docker_node(&pod);
    let file = node.path("out.ndjson");
    node.pipeline("flink", &PIPELINE.replace("OUT", file.to_str().expect("UTF-8")));
    node.pipeline(
        "other",
        "pipeline: other\nselect:\n  - select: {namespaces: [other]}\noutput: {stdout: {}}\n",
    );
    let configuration = node.configuration();
    let configuration = configuration.to_str().expect("UTF-8");
    let log = link.to_str().expect("UTF-8");

    let ended = node.execute(&["explain", "--config", configuration, log]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("pipeline flink: takes it, item 1"), "{}", ended.stdout);
    assert!(ended.stdout.contains("pipeline other: leaves it, no item"), "{}", ended.stdout);
    assert!(ended.stdout.contains("\"message\": \"id=* é\""), "{}", ended.stdout);
    assert!(!ended.stdout.contains("noise"), "dropped by a filter: {}", ended.stdout);
    assert!(!file.try_exists().unwrap(), "explain touches no output");

    let loose = node.path("loose.log");
    fs::copy(&link, &loose).unwrap();
    let loose = loose.to_str().expect("UTF-8");
    let ended = node.execute(&["explain", "--config", configuration, loose]);
    assert_eq!(ended.code, Some(1), "nobody knows whose it is");
    let name = format!("flink/{}", pod.name);
    let ended = node.execute(&["explain", "--config", configuration, "--pod", &name, loose]);
    assert!(ended.stdout.contains(&pod.uid), "{}", ended.stdout);
}
