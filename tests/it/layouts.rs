//! Every console layout of Flink's, from log files to documents: what `run --once` promises.

use std::collections::BTreeMap;

use crate::support::captures::{self, Line};
use crate::support::cri::Log;
use crate::support::elastic::{Elastic, Index};
use crate::support::fields::{self, flatten, text};
use crate::support::node::Node;
use crate::support::pods::Pod;

/// A session cluster's JobManager and TaskManagers, each with the captures it is made of.
fn cluster(layout: &str) -> Vec<(Pod, BTreeMap<u32, Vec<Line>>)> {
    let pods = [
        (Pod::jobmanager("flink", "orders-session"), "jobmanager"),
        (Pod::taskmanager("flink", "orders-session", 1), "taskmanager-1"),
        (Pod::taskmanager("flink", "orders-session", 2), "taskmanager-2"),
    ];
    let pods = pods.map(|(pod, process)| {
        let runs = captures::runs(layout, process);
        (pod.with_runs(runs.len()), runs)
    });
    pods.into()
}

/// Writes the cluster's logs; the longest in three parts, the oldest one compressed.
fn write(node: &Node, cluster: &[(Pod, BTreeMap<u32, Vec<Line>>)]) {
    for (pod, runs) in cluster {
        for (&restart, lines) in runs {
            let mut log = Log::create(&node.root(), pod, restart);
            for (number, line) in lines.iter().enumerate() {
                if lines.len() > 400 && (number == 150 || number == 300) {
                    log.rotate();
                }
                log.line(line);
            }
        }
    }
}

fn pipeline(index: &Index<'_>, url: &str, parse: &str) -> String {
    format!(
        "pipeline: flink\n\
         select:\n  - select: {{labels: {{type: \"flink-*\"}}}}\n\
         parse: {parse}\n\
         output:\n  elasticsearch:\n    hosts: [{url}]\n    index: {index}\n    \
         document: fluentd\n    batch: {{size: 256KiB, linger: 100ms}}\n",
        index = index.name,
    )
}

/// The job that log4j's MDC names in the line, wherever the layout puts it.
fn job_id(line: &Line) -> Option<String> {
    let leaves = flatten(&line.json()?.into());
    let name = leaves.keys().find(|name| name.ends_with("flink-job-id"))?;
    leaves[name].as_str().map(str::to_owned)
}

fn sum(count: usize) -> u64 {
    u64::try_from(count).unwrap()
}

/// Lines that are not joined: one document for each line that isn't blank.
fn check(layout: &str) {
    let elastic = Elastic::plain();
    let index = elastic.missing_index();
    let cluster = cluster(layout);
    let node = Node::with_pods(cluster.iter().map(|(pod, _)| pod));
    write(&node, &cluster);
    node.pipeline("flink", &pipeline(&index, &elastic.url, "{json: {}}"));
    let lines: Vec<&Line> = cluster.iter().flat_map(|(_, runs)| runs.values().flatten()).collect();
    let blank = lines.iter().filter(|line| line.is_blank()).count();
    let wanted = sum(lines.len() - blank);

    let first = node.run_once();
    assert_eq!(first.streams, sum(cluster.iter().map(|(_, runs)| runs.len()).sum()));
    assert_eq!(first.lines_read, sum(lines.len()));
    assert_eq!(first.lines_filtered, sum(blank));
    assert_eq!(first.documents_indexed, wanted);
    assert_eq!((first.documents_refused, first.lines_refused), (0, 0));
    assert_eq!((first.duplicates_answered, first.bytes_unfinished), (0, 0));
    assert!(first.bytes_read > 0 && first.seconds > 0.0);
    assert_eq!(index.count(), wanted);
    assert_eq!(index.field_type("@timestamp").as_deref(), Some("date"));
    check_documents(&index, &cluster);

    let again = node.run_once();
    assert_eq!((again.documents_indexed, again.duplicates_answered), (0, 0));
    assert_eq!(index.count(), wanted);

    std::fs::remove_dir_all(node.state()).unwrap();
    let without_state = node.run_once();
    assert_eq!(without_state.documents_indexed, 0);
    assert_eq!(without_state.duplicates_answered, wanted);
    assert_eq!(index.count(), wanted, "the same bytes get the same ids");
}

/// What every document says about its pod, and what they say together about jobs.
fn check_documents(index: &Index<'_>, cluster: &[(Pod, BTreeMap<u32, Vec<Line>>)]) {
    let mut documents: BTreeMap<String, Vec<serde_json::Value>> = BTreeMap::new();
    for document in index.documents() {
        let pod = text(&document.source, "kubernetes.pod_name").expect("a pod's name");
        documents.entry(pod).or_default().push(document.source);
    }
    for (pod, runs) in cluster {
        let documents = &documents[&pod.name];
        let lines: Vec<&Line> = runs.values().flatten().collect();
        assert_eq!(documents.len(), lines.iter().filter(|line| !line.is_blank()).count());
        for document in documents {
            check_facts(pod, document);
        }
        let mut wanted: Vec<String> = lines.iter().filter_map(|line| job_id(line)).collect();
        let mut found: Vec<String> =
            documents.iter().filter_map(|document| text(document, "flink.job.id")).collect();
        wanted.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, wanted, "flink.job.id of {}", pod.name);
        let stderr = lines.iter().filter(|line| line.stream == "stderr" && !line.is_blank());
        let found = documents.iter().filter(|document| document["stream"] == "stderr");
        assert_eq!(found.count(), stderr.count(), "stderr of {}", pod.name);
    }
}

fn check_facts(pod: &Pod, document: &serde_json::Value) {
    let is = |name: &str, wanted: &str| fields::check(document, name, wanted);
    is("kubernetes.namespace_name", &pod.namespace);
    is("kubernetes.pod_id", &pod.uid);
    is("kubernetes.host", &pod.node);
    is("kubernetes.container_name", &pod.container);
    is("kubernetes.labels.app", "orders-session");
    is("kubernetes.labels.component", &pod.labels["component"]);
    is("kubernetes.labels.app_kubernetes_io_name", "orders");
    is("flink.deployment", "orders-session");
    is("flink.component", &pod.labels["component"]);
    let taskmanager = (pod.labels["component"] == "taskmanager").then(|| pod.name.clone());
    assert_eq!(text(document, "flink.taskmanager.id"), taskmanager);
    assert!(text(document, "@timestamp").is_some(), "no @timestamp in {document}");
    assert!(!text(document, "time").unwrap_or_default().is_empty(), "no time in {document}");
}

#[test]
fn ecs_lines_become_documents_once() {
    check("ecs");
}

#[test]
fn ecs_lines_of_flink_2_become_documents_once() {
    check("ecs-flink2");
}

#[test]
fn logstash_lines_become_documents_once() {
    check("logstash");
}

#[test]
fn json_layout_lines_become_documents_once() {
    check("jsonlayout");
}

#[test]
fn gelf_lines_become_documents_once() {
    check("gelf");
}

#[test]
fn gcp_lines_become_documents_once() {
    check("gcp");
}

#[test]
fn lines_of_a_template_of_the_users_become_documents_once() {
    check("custom");
}

#[test]
fn lines_of_the_default_pattern_become_documents_once() {
    check("pattern");
}

/// With `multiline: java` there are fewer documents than lines, the same at each reading.
#[test]
fn joined_stack_traces_are_cut_alike_at_each_reading() {
    let elastic = Elastic::plain();
    let index = elastic.missing_index();
    let cluster = cluster("pattern");
    let node = Node::with_pods(cluster.iter().map(|(pod, _)| pod));
    write(&node, &cluster);
    node.pipeline("flink", &pipeline(&index, &elastic.url, "{json: {}, multiline: java}"));
    let lines: usize = cluster.iter().flat_map(|(_, runs)| runs.values()).map(Vec::len).sum();

    let first = node.run_once();
    assert_eq!(first.lines_read, sum(lines));
    assert!(first.documents_indexed < first.lines_indexed, "nothing was joined: {first:?}");
    assert_eq!(index.count(), first.documents_indexed);
    let frames = "\n\tat org.apache.flink.";
    let joined = index.documents().into_iter().filter_map(|d| text(&d.source, "message"));
    assert!(joined.filter(|message| message.contains(frames)).count() > 10);

    std::fs::remove_dir_all(node.state()).unwrap();
    let again = node.run_once();
    assert_eq!(again.duplicates_answered, first.documents_indexed);
    assert_eq!(index.count(), first.documents_indexed);
}
