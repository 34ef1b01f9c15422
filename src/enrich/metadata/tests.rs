use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::enrich::facts::tests::{facts, pod, stream, taskmanager};
use crate::enrich::flink::FlinkFacts;

fn run(restart: u32) -> StreamName {
    StreamName {
        restart,
        ..stream("070506a6-8a02-40e1-a1af-37f86cb90787", "orders-session-taskmanager-1-1")
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn object(members: &[u8]) -> Value {
    serde_json::from_str(&format!("{{{}}}", text(members))).unwrap()
}

fn check_flink(name: &str, labels: Option<&[(&str, &str)]>, expected: &str) {
    let facts = labels.map(|labels| PodFacts {
        labels: labels.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
        ..pod("u", name)
    });
    let metadata =
        Metadata::new(DocumentForm::Fluentd, &stream("u", name), None, facts.as_ref(), "");
    assert_eq!(text(&metadata.flink), expected, "{name}");
}

#[test]
fn fluentd_form_to_the_letter() {
    let mut facts = facts(taskmanager());
    facts.namespace_labels =
        Some(BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), "flink".to_owned())]));
    let metadata =
        Metadata::new(DocumentForm::Fluentd, &run(0), Some("/x"), Some(&facts), "node-z");
    let expected = concat!(
        r#""kubernetes":{"container_hash":"registry.example.com/flink/orders@sha256:00ab","#,
        r#""container_image":"registry.example.com/flink/orders:1.20.1-java17","#,
        r#""container_name":"flink-main-container","docker_id":"587fd2803bab","host":"node-b","#,
        r#""labels":{"app":"orders-session","app_kubernetes_io_name":"orders","#,
        r#""component":"taskmanager","type":"flink-native-kubernetes"},"#,
        r#""namespace_name":"flink","pod_id":"070506a6-8a02-40e1-a1af-37f86cb90787","#,
        r#""pod_ip":"10.244.0.3","pod_name":"orders-session-taskmanager-1-1"},"#,
        r#""kubernetes_namespace":{"labels":{"kubernetes_io_metadata_name":"flink"},"name":"flink"}"#,
    );
    assert_eq!(text(&metadata.head), expected);
    assert_eq!(
        text(&metadata.flink),
        r#""component":"taskmanager","deployment":"orders-session","taskmanager":{"id":"orders-session-taskmanager-1-1"}"#
    );
}

#[test]
fn ecs_form_to_the_letter() {
    let file = "/var/log/pods/flink_orders/flink-main-container/1.log";
    let metadata =
        Metadata::new(DocumentForm::Ecs, &run(1), Some(file), Some(&facts(taskmanager())), "");
    assert_eq!(
        object(&metadata.head),
        json!({
            "container": {
                "id": "ed2f89d94a2f",
                "image": {"name": "registry.example.com/flink/orders:1.20.1-java17"}
            },
            "kubernetes": {
                "container": {"name": "flink-main-container"},
                "labels": {
                    "app": "orders-session", "app_kubernetes_io_name": "orders",
                    "component": "taskmanager", "type": "flink-native-kubernetes"
                },
                "namespace": "flink",
                "node": {"name": "node-b"},
                "pod": {
                    "name": "orders-session-taskmanager-1-1",
                    "uid": "070506a6-8a02-40e1-a1af-37f86cb90787"
                }
            },
            "log.file.path": file
        })
    );
}

#[test]
fn without_facts_the_path_tells_what_it_can() {
    let metadata = Metadata::new(DocumentForm::Fluentd, &run(0), None, None, "");
    assert_eq!(
        object(&metadata.head),
        json!({
            "kubernetes": {
                "container_name": "flink-main-container", "namespace_name": "flink",
                "pod_id": "070506a6-8a02-40e1-a1af-37f86cb90787",
                "pod_name": "orders-session-taskmanager-1-1"
            },
            "kubernetes_namespace": {"name": "flink"}
        })
    );
    let metadata = Metadata::new(DocumentForm::Ecs, &run(0), None, None, "node-a");
    assert_eq!(
        object(&metadata.head),
        json!({"kubernetes": {
            "container": {"name": "flink-main-container"}, "namespace": "flink",
            "node": {"name": "node-a"},
            "pod": {
                "name": "orders-session-taskmanager-1-1",
                "uid": "070506a6-8a02-40e1-a1af-37f86cb90787"
            }
        }})
    );
}

#[test]
fn the_id_of_another_run_is_never_shown() {
    let facts = facts(taskmanager());
    for (restart, id) in [(0, Some("587fd2803bab")), (1, Some("ed2f89d94a2f")), (2, None)] {
        let metadata = Metadata::new(DocumentForm::Fluentd, &run(restart), None, Some(&facts), "");
        assert_eq!(object(&metadata.head)["kubernetes"]["docker_id"].as_str(), id);
    }
}

#[test]
fn a_static_pod_shows_the_uid_of_the_api_server() {
    let hash = "5c8ac7b2a7c3f6e8d27ee1b3d6e0f4a1";
    let facts = PodFacts { config_hash: Some(hash.to_owned()), ..pod("api-uid", "etcd-node-a") };
    let stream = stream(hash, "etcd-node-a");
    let of = |facts| object(&Metadata::new(DocumentForm::Ecs, &stream, None, facts, "").head);
    assert_eq!(of(Some(&facts))["kubernetes"]["pod"]["uid"], "api-uid");
    assert_eq!(of(None)["kubernetes"]["pod"]["uid"], hash);
}

#[test]
fn flink_by_labels() {
    let jobmanager = [("app", "orders"), ("component", "jobmanager")];
    check_flink(
        "orders-6b9f-x2x4z",
        Some(&[jobmanager[0], jobmanager[1], ("type", "flink-native-kubernetes")]),
        r#""component":"jobmanager","deployment":"orders","jobmanager":{"id":"orders-6b9f-x2x4z"}"#,
    );
    check_flink(
        "jm",
        Some(&jobmanager),
        r#""component":"jobmanager","deployment":"orders","jobmanager":{"id":"jm"}"#,
    );
    check_flink(
        "orders-taskmanager-6b9f-x2x4z",
        Some(&[
            ("app", "orders"),
            ("component", "taskmanager"),
            ("type", "flink-standalone-kubernetes"),
        ]),
        r#""component":"taskmanager","deployment":"orders","taskmanager":{"id":"orders-taskmanager-6b9f-x2x4z"}"#,
    );
    check_flink("web", Some(&[("app", "web"), ("component", "server")]), "");
    check_flink("x-taskmanager-1-1", Some(&[("app", "x")]), "");
}

#[test]
fn flink_by_the_name_of_a_native_taskmanager() {
    let native = r#""component":"taskmanager","deployment":"a-b","taskmanager":{"id":"a-b-taskmanager-11-5"}"#;
    check_flink("a-b-taskmanager-11-5", None, native);
    for other in [
        "a-b-6b9f7d8c5d-x2x4z",
        "a-b-taskmanager-6b9f7d8c5d-x2x4z",
        "a-taskmanager-2456789452-24567",
        "a-xtaskmanager-1-1x",
        "a-taskmanager-0-1",
        "-taskmanager-1-1",
        "a-taskmanager--1",
        "taskmanager-1-1",
        "",
    ] {
        check_flink(other, None, "");
    }
}

#[test]
fn what_the_operator_says_stands_beside_the_rest() {
    let job = |name: &str| JobFacts { name: Some(name.to_owned()), state: None };
    let mut facts = facts(taskmanager());
    facts.flink = Some(FlinkFacts {
        version: Some("1.20".to_owned()),
        mode: Some("native".to_owned()),
        job: JobFacts { state: Some("RUNNING".to_owned()), ..job("Orders \"to\" invoices") },
        jobs: BTreeMap::new(),
    });
    fn of(facts: &PodFacts) -> Metadata {
        Metadata::new(DocumentForm::Ecs, &run(0), None, Some(facts), "")
    }
    assert_eq!(
        text(&of(&facts).flink),
        concat!(
            r#""component":"taskmanager","deployment":"orders-session","#,
            r#""job.name":"Orders \"to\" invoices","job.state":"RUNNING","mode":"native","#,
            r#""taskmanager":{"id":"orders-session-taskmanager-1-1"},"version":"1.20""#,
        )
    );
    assert!(of(&facts).jobs.is_empty());
    let jobs = [("a".repeat(32), job("a")), ("b".repeat(32), JobFacts::default())];
    facts.flink = Some(FlinkFacts { jobs: jobs.into(), ..FlinkFacts::default() });
    let metadata = of(&facts);
    assert!(!text(&metadata.flink).contains("job."));
    let named: Vec<(&str, &str)> =
        metadata.jobs.iter().map(|(id, members)| (id.as_str(), text(members))).collect();
    assert_eq!(named, [("a".repeat(32).as_str(), r#""job.name":"a""#)]);
}

#[test]
fn the_agents_names_are_those_that_it_writes() {
    for form in [DocumentForm::Fluentd, DocumentForm::Ecs] {
        let metadata =
            Metadata::new(form, &run(0), Some("/f"), Some(&facts(taskmanager())), "node-a");
        let names = agent_names(form);
        assert!(names.is_sorted());
        let head = object(&metadata.head);
        let written = head.as_object().unwrap().keys().filter(|name| *name != "log.file.path");
        for name in written {
            assert!(names.contains(&name.as_str()), "{name}");
        }
    }
}

proptest! {
    #[test]
    fn any_text_gives_valid_json(value in ".*", name in ".*", ecs in any::<bool>()) {
        let form = if ecs { DocumentForm::Ecs } else { DocumentForm::Fluentd };
        let labels = BTreeMap::from([("type".to_owned(), "flink-x".to_owned()), (name.clone(), value.clone())]);
        let facts = PodFacts { labels, ..pod("u", &name) };
        let stream = StreamName { container: value.clone(), ..stream("u", &name) };
        let metadata = Metadata::new(form, &stream, Some(&value), Some(&facts), &value);
        let head = object(&metadata.head);
        object(&metadata.flink);
        let container = if ecs {
            &head["kubernetes"]["container"]["name"]
        } else {
            &head["kubernetes"]["container_name"]
        };
        prop_assert_eq!(container.as_str(), Some(value.as_str()));
        prop_assert_eq!(&Metadata::new(form, &stream, Some(&value), Some(&facts), &value), &metadata);
    }
}
