use serde_json::{Value, json};

use super::*;

/// A pod without containers and labels.
pub(in crate::enrich) fn pod(uid: &str, name: &str) -> PodFacts {
    PodFacts {
        namespace: "flink".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        config_hash: None,
        is_static: false,
        labels: BTreeMap::new(),
        node: Some("node-a".to_owned()),
        pod_ip: None,
        containers: BTreeMap::new(),
        namespace_labels: None,
        flink: None,
    }
}

pub(in crate::enrich) fn stream(uid: &str, pod: &str) -> StreamName {
    StreamName {
        namespace: "flink".to_owned(),
        pod: pod.to_owned(),
        uid: uid.to_owned(),
        container: "flink-main-container".to_owned(),
        restart: 0,
    }
}

pub(in crate::enrich) fn facts(pod: Value) -> PodFacts {
    PodFacts::of(&serde_json::from_value(pod).unwrap()).unwrap()
}

/// A native TaskManager as `kubectl get pods -o json` prints it, restarted once.
pub(in crate::enrich) fn taskmanager() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "orders-session-taskmanager-1-1",
            "namespace": "flink",
            "uid": "070506a6-8a02-40e1-a1af-37f86cb90787",
            "resourceVersion": "4711",
            "labels": {
                "app": "orders-session",
                "component": "taskmanager",
                "type": "flink-native-kubernetes",
                "app.kubernetes.io/name": "orders"
            },
            "annotations": {"prometheus.io/scrape": "true"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "Deployment", "name": "orders-session",
                "uid": "1d6b1ec5-1c56-4f3a-9f0e-6b9f1c1f6a52", "controller": true
            }]
        },
        "spec": {
            "nodeName": "node-b",
            "containers": [{
                "name": "flink-main-container",
                "image": "registry.example.com/flink/orders:1.20.1-java17",
                "env": [{"name": "TOKEN", "value": "s3cret"}]
            }]
        },
        "status": {
            "phase": "Running",
            "podIP": "10.244.0.3",
            "containerStatuses": [{
                "name": "flink-main-container",
                "image": "registry.example.com/flink/orders:1.20.1-java17",
                "imageID": "registry.example.com/flink/orders@sha256:00ab",
                "containerID": "containerd://ed2f89d94a2f",
                "restartCount": 1,
                "ready": true,
                "state": {"running": {"startedAt": "2026-11-23T21:06:10Z"}},
                "lastState": {"terminated": {
                    "exitCode": 137, "reason": "OOMKilled", "containerID": "containerd://587fd2803bab"
                }}
            }]
        }
    })
}

/// One container's status in a pod, and what is then known of its runs 0 to 3: id and end.
fn check(status: Value, expected: [(Option<&str>, bool); 4]) {
    let mut pod = taskmanager();
    let mut whole = json!({"name": "c", "image": "", "imageID": "", "ready": false});
    whole.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
    pod["status"]["containerStatuses"] = json!([whole]);
    let facts = facts(pod);
    for (restart, (id, ended)) in (0..).zip(expected) {
        assert_eq!(facts.container_id("c", restart), id, "id of run {restart}");
        assert_eq!(facts.has_ended("c", restart), ended, "end of run {restart}");
    }
}

#[test]
fn what_documents_and_selection_need_is_kept() {
    let facts = facts(taskmanager());
    assert_eq!(facts.name, "orders-session-taskmanager-1-1");
    assert_eq!(facts.uid, "070506a6-8a02-40e1-a1af-37f86cb90787");
    assert_eq!((facts.is_static, &facts.config_hash), (false, &None));
    assert_eq!(facts.node.as_deref(), Some("node-b"));
    assert_eq!(facts.pod_ip.as_deref(), Some("10.244.0.3"));
    let container = &facts.containers["flink-main-container"];
    assert_eq!(
        container.image_id.as_deref(),
        Some("registry.example.com/flink/orders@sha256:00ab")
    );
    assert!(!serde_json::to_string(&facts).unwrap().contains("s3cret"));
}

#[test]
fn a_pod_without_status_has_what_its_specification_says() {
    let mut pod = taskmanager();
    pod.as_object_mut().unwrap().remove("status");
    pod["spec"]["initContainers"] = json!([{"name": "fetch", "image": "busybox"}]);
    pod["spec"]["ephemeralContainers"] = json!([{"name": "debugger", "image": "alpine"}]);
    let facts = facts(pod);
    let images: Vec<_> =
        facts.containers.iter().map(|(name, one)| (name.as_str(), one.image.as_deref())).collect();
    let orders = "registry.example.com/flink/orders:1.20.1-java17";
    assert_eq!(
        images,
        [
            ("debugger", Some("alpine")),
            ("fetch", Some("busybox")),
            ("flink-main-container", Some(orders))
        ]
    );
    assert!(!facts.has_ended("fetch", 0) && !facts.has_ended("absent", 0));
}

#[test]
fn a_running_container_shows_the_run_before() {
    check(
        json!({"restartCount": 2, "containerID": "containerd://two", "state": {"running": {}},
               "lastState": {"terminated": {"exitCode": 1, "containerID": "containerd://one"}}}),
        [(None, true), (Some("one"), true), (Some("two"), false), (None, false)],
    );
}

#[test]
fn a_container_in_back_off_shows_the_same_run_twice() {
    check(
        json!({"restartCount": 2, "containerID": "containerd://two",
               "state": {"waiting": {"reason": "CrashLoopBackOff"}},
               "lastState": {"terminated": {"exitCode": 1, "containerID": "containerd://two"}}}),
        [(None, true), (None, true), (Some("two"), true), (None, false)],
    );
}

#[test]
fn a_terminated_container_has_ended() {
    check(
        json!({"restartCount": 0, "state": {"terminated": {"exitCode": 0, "containerID": "docker://zero"}}}),
        [(Some("zero"), true), (None, false), (None, false), (None, false)],
    );
}

#[test]
fn an_id_that_belongs_to_no_certain_run_is_left_out() {
    check(
        json!({"restartCount": 1, "state": {"waiting": {}},
               "lastState": {"terminated": {"exitCode": 1, "containerID": "containerd://which"}}}),
        [(None, true), (None, false), (None, false), (None, false)],
    );
}

#[test]
fn a_container_that_is_being_created_is_not_told_of() {
    let container = "flink-main-container";
    let with_status = |id: Value, state: Value| {
        let mut pod = taskmanager();
        pod["status"]["containerStatuses"] = json!([{
            "name": container, "image": "flink", "imageID": "", "ready": false, "restartCount": 0,
            "containerID": id, "state": state,
        }]);
        facts(pod)
    };
    // What the kubelet writes first, before the pod has an address.
    let created = with_status(Value::Null, json!({"waiting": {"reason": "ContainerCreating"}}));
    assert!(!created.tells_of(container, 0));
    let running = with_status("containerd://r0".into(), json!({"running": {}}));
    assert!(running.tells_of(container, 0) && !running.tells_of(container, 1));
}

#[test]
fn init_and_ephemeral_containers_have_ids_too() {
    let mut pod = taskmanager();
    let status = |name: &str, id: &str| {
        json!([{"name": name, "image": "busybox", "imageID": "docker-pullable://busybox@sha256:aa",
                "containerID": id, "restartCount": 0, "ready": false, "state": {"terminated": {"exitCode": 0}}}])
    };
    pod["status"]["initContainerStatuses"] = status("fetch", "containerd://f0");
    pod["status"]["ephemeralContainerStatuses"] = status("debugger", "cri-o://d0");
    let facts = facts(pod);
    assert_eq!(facts.container_id("fetch", 0), Some("f0"));
    assert_eq!(facts.container_id("debugger", 0), Some("d0"));
    assert_eq!(facts.containers["fetch"].image_id.as_deref(), Some("busybox@sha256:aa"));
    assert!(facts.has_ended("fetch", 0) && !facts.has_ended("flink-main-container", 1));
}

#[test]
fn a_static_pod_is_found_by_its_hash_and_never_by_its_name_then() {
    let hash = "5c8ac7b2a7c3f6e8d27ee1b3d6e0f4a1";
    let mut pod = taskmanager();
    pod["metadata"]["annotations"] = json!({
        CONFIG_HASH: hash, CONFIG_MIRROR: hash, CONFIG_SOURCE: "file",
        "kubernetes.io/config.seen": "2026-11-23T21:06:10.000000000Z"
    });
    let mut facts = facts(pod);
    let name = facts.name.clone();
    assert!(facts.is_static && facts.owns(&stream(hash, &name)));
    assert!(facts.owns(&stream(&facts.uid, &name)));
    assert!(!facts.owns(&stream("another-manifest", &name)));
    facts.config_hash = None;
    assert!(facts.owns(&stream("another-manifest", &name)));
    facts.is_static = false;
    assert!(!facts.owns(&stream("another-manifest", &name)), "a name is reused");
}

#[test]
fn a_pod_made_through_the_api_server_is_not_static() {
    let mut pod = taskmanager();
    pod["metadata"]["annotations"] = json!({CONFIG_SOURCE: "api"});
    assert!(!facts(pod).is_static);
}

#[test]
fn later_facts_keep_what_a_status_no_longer_tells() {
    let with = |restart: i32, id: &str, state: &str| {
        let mut pod = taskmanager();
        pod["status"]["containerStatuses"] = json!([{
            "name": "flink-main-container", "image": "i", "imageID": "x", "ready": true,
            "restartCount": restart, "containerID": id, "state": {state: {"exitCode": 0}}
        }]);
        facts(pod)
    };
    let container = "flink-main-container";
    let mut known = with(0, "containerd://zero", "terminated");
    for restart in 1..=10 {
        let mut next = with(restart, &format!("containerd://{restart}"), "running");
        next.inherit(&known);
        known = next;
    }
    assert_eq!(known.containers[container].ids.len(), MAX_IDS);
    assert_eq!(known.container_id(container, 10), Some("10"));
    assert_eq!(known.container_id(container, 3), Some("3"));
    assert_eq!(known.container_id(container, 2), None);

    let mut bare = pod(&known.uid, &known.name);
    bare.inherit(&known);
    assert_eq!(bare.containers, known.containers, "a deletion may come without status");
    assert_eq!(bare.pod_ip, known.pod_ip);

    let mut recounted = with(0, "containerd://anew", "running");
    recounted.inherit(&with(0, "containerd://zero", "terminated"));
    assert!(!recounted.has_ended(container, 0), "the kubelet lost its count, this run is new");
    assert_eq!(recounted.container_id(container, 0), Some("anew"));
}

#[test]
fn saved_facts_are_read_back_as_they_were() {
    let before = facts(taskmanager());
    let saved = serde_json::to_string(&before).unwrap();
    assert_eq!(serde_json::from_str::<PodFacts>(&saved).unwrap(), before);
}
