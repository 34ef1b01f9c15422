//! The fluentd document, field by field.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::captures::Line;
use crate::support::cri::Log;
use crate::support::elastic::{Document, Elastic};
use crate::support::fields::flatten;
use crate::support::node::Node;
use crate::support::pods::Pod;

/// A line of Flink's `EcsLayout.json`, captured.
const ECS: &str = r#"{"@timestamp":"2026-11-23T21:06:10.556Z","ecs.version":"1.2.0","log.level":"INFO","message":"order accepted id=4611686018427387975 amount=91.4 EUR customer=\"🚀 back\\slash 確認\"","process.thread.name":"enrich-orders -> measure (2/2)#0","log.logger":"example.flinklog.Enrich","flink-job-id":"b18f0b529989bee72c64dff467c6eee0","tenant":"t-0","traceId":"2162c2724da869d34000000000000047","service.name":"orders-session"}"#;

/// Ships `lines` of one TaskManager and returns, for each document in the order of the lines, its
/// fields, and where each line began and what time the runtime gave it.
fn ship(pod: &Pod, lines: &[Line]) -> (Vec<Document>, Vec<(u64, String)>) {
    let elastic = Elastic::plain();
    let index = elastic.missing_index();
    let node = Node::with_pods([pod]);
    let mut log = Log::create(&node.root(), pod, 0);
    let mut places = Vec::new();
    for line in lines {
        places.push(log.position());
        log.line(line);
    }
    node.pipeline(
        "flink",
        &format!(
            "pipeline: flink\nselect:\n  - select: {{}}\nparse:\n  json: {{time: \"@timestamp\"}}\n\
             output:\n  elasticsearch:\n    hosts: [{}]\n    index: {}\n    document: fluentd\n    \
             compression: none\n",
            elastic.url, index.name,
        ),
    );
    node.run_once();
    (index.documents(), places)
}

/// What the agent adds to every line of `pod`.
fn added(pod: &Pod, stream: &str, place: &(u64, String)) -> BTreeMap<String, Value> {
    flatten(&json!({
        "kubernetes": {
            "namespace_name": pod.namespace,
            "pod_name": pod.name,
            "pod_id": pod.uid,
            "host": pod.node,
            "pod_ip": pod.ip,
            "container_name": pod.container,
            "container_image": pod.image,
            "container_hash": pod.image_id(),
            "docker_id": pod.container_ids[0],
            "labels": {
                "app": "orders",
                "component": "taskmanager",
                "type": "flink-native-kubernetes",
                "app_kubernetes_io_name": "orders",
            },
        },
        "kubernetes_namespace": {"name": pod.namespace},
        "flink": {
            "deployment": "orders",
            "component": "taskmanager",
            "taskmanager": {"id": pod.name},
        },
        "stream": stream,
        "logtag": "F",
        "time": place.1,
        "log.offset": place.0,
    }))
}

/// Ships one line and compares every field of its document with what the agent adds and `own`.
fn check(line: &Line, own: impl FnOnce(&str) -> Value) {
    let pod = Pod::taskmanager("shop", "orders", 1);
    let (documents, places) = ship(&pod, std::slice::from_ref(line));
    assert_eq!(documents.len(), 1, "{documents:?}");
    let mut wanted = added(&pod, line.stream, &places[0]);
    wanted.extend(flatten(&own(&places[0].1)));
    assert_eq!(flatten(&documents[0].source), wanted);
}

#[test]
fn a_json_line_keeps_its_fields_and_gets_those_of_its_pod() {
    check(&Line::stdout(ECS), |_| {
        let mut own: Value = serde_json::from_str(ECS).unwrap();
        own["flink.job.id"] = json!("b18f0b529989bee72c64dff467c6eee0");
        own
    });
}

#[test]
fn a_plain_line_is_a_message_at_the_runtimes_time() {
    let text = "Starting Task Manager ✓";
    check(&Line::stderr(text), |time| json!({"@timestamp": time, "message": text}));
}

#[test]
fn a_line_of_json_that_is_no_object_is_a_message() {
    let text = r#"["not","an","object"]"#;
    check(&Line::stdout(text), |time| json!({"@timestamp": time, "message": text}));
}

#[test]
fn json_that_is_cut_off_is_a_message() {
    let text = r#"{"event":"click","n":12,"#;
    check(&Line::stdout(text), |time| json!({"@timestamp": time, "message": text}));
}

#[test]
fn fields_with_the_agents_names_move_aside() {
    let text = r#"{"message":"m","stream":"mine","kubernetes":{"a":1},"_id":"x","time":7}"#;
    check(&Line::stdout(text), |_| {
        json!({
            // `time` is tried for the time as well: seconds since the epoch
            "@timestamp": "1970-01-01T00:00:07.000000000Z",
            "message": "m",
            "application": {"stream": "mine", "kubernetes": {"a": 1}, "_id": "x", "time": 7},
        })
    });
}

#[test]
fn a_time_that_cannot_be_read_is_kept_aside() {
    let text = r#"{"@timestamp":"yesterday","message":"m"}"#;
    check(
        &Line::stdout(text),
        |time| json!({"@timestamp": time, "message": "m", "application": {"@timestamp": "yesterday"}}),
    );
}

#[test]
fn a_key_that_stands_twice_keeps_its_last_value() {
    let text = r#"{"@timestamp":"2026-11-23T21:06:10.556Z","a":1,"b":{"c":1,"c":2},"a":3}"#;
    check(
        &Line::stdout(text),
        |_| json!({"@timestamp": "2026-11-23T21:06:10.556Z", "a": 3, "b": {"c": 2}}),
    );
}

#[test]
fn a_line_that_the_runtime_split_is_whole_again() {
    let text =
        format!(r#"{{"@timestamp":"2026-11-23T21:06:10.556Z","x":"{}"}}"#, "é".repeat(20_000));
    check(&Line::stdout(text.clone()), |_| serde_json::from_str(&text).unwrap());
}

#[test]
fn ids_sort_by_the_runtimes_time_and_offsets_say_where_a_line_began() {
    let pod = Pod::taskmanager("shop", "orders", 1);
    let texts = [ECS, "two", "two", ECS, "five"];
    let (documents, places) = ship(&pod, &texts.map(Line::stdout));
    let found: Vec<(Option<u64>, Option<&str>)> = documents
        .iter()
        .map(|document| {
            let source = &document.source;
            let offset = flatten(source).get("log.offset").and_then(Value::as_u64);
            (offset, source["time"].as_str())
        })
        .collect();
    let wanted: Vec<(Option<u64>, Option<&str>)> =
        places.iter().map(|(offset, time)| (Some(*offset), Some(time.as_str()))).collect();
    assert_eq!(found, wanted, "equal lines are two documents, in the order of their ids");
}
