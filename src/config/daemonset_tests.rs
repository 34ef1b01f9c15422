//! The manifests of `daemonset/`: objects that Kubernetes knows, and the project's own files.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::problem::Report;
use super::{Agent, read_filter, yaml};

const MANIFEST: &str = include_str!("../../daemonset/splashdam.yaml");

fn documents() -> Vec<Value> {
    let report = Report::default();
    let nodes = yaml::documents(&Arc::from("splashdam.yaml"), MANIFEST, &report);
    report.finish().expect("YAML");
    nodes.iter().map(read_filter::json).collect()
}

/// The only object of this kind, every field of which Kubernetes knows: one that it does not
/// would be missing when it is written again.
fn object<T: DeserializeOwned + Serialize>(kind: &str) -> T {
    let mut found = documents().into_iter().filter(|document| document["kind"] == kind);
    let (Some(document), None) = (found.next(), found.next()) else { panic!("one {kind}") };
    let object: T = serde_json::from_value(document.clone()).expect(kind);
    assert_eq!(serde_json::to_value(&object).expect(kind), document);
    object
}

#[test]
fn the_manifest_holds_the_projects_files() {
    let data = object::<ConfigMap>("ConfigMap").data.expect("data");
    let files = [
        ("agent.yaml", include_str!("../../config/agent.yaml")),
        ("flink.yaml", include_str!("../../pipelines/flink.yaml")),
    ];
    assert_eq!(data.len(), files.len());
    for (name, text) in files {
        assert_eq!(data[name], text, "copy the file {name} into daemonset/splashdam.yaml");
    }
}

#[test]
fn the_manifest_asks_for_no_more_than_it_needs() {
    let rules = object::<ClusterRole>("ClusterRole").rules.expect("rules");
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0].resources.as_deref(), Some(&["pods".to_owned()][..]));
    assert_eq!(rules[0].verbs, ["get", "list", "watch"]);
    object::<Namespace>("Namespace");
    object::<ServiceAccount>("ServiceAccount");
    object::<ClusterRoleBinding>("ClusterRoleBinding");

    let pod = object::<DaemonSet>("DaemonSet").spec.template.spec.expect("a pod");
    let security = pod.containers[0].security_context.as_ref().expect("a security context");
    assert_eq!(security.privileged, None);
    assert_eq!(security.allow_privilege_escalation, Some(false));
    assert_eq!(security.read_only_root_filesystem, Some(true));
    let capabilities = security.capabilities.as_ref().expect("capabilities");
    assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]));
    assert_eq!(capabilities.add.as_deref(), Some(&["DAC_READ_SEARCH".to_owned()][..]));
}

#[test]
fn the_manifest_fits_the_defaults() {
    let agent = Agent::default();
    let pod = object::<DaemonSet>("DaemonSet").spec.template.spec.expect("a pod");
    let grace = pod.termination_grace_period_seconds.expect("a grace period").unsigned_abs();
    assert!(grace > agent.drain.as_secs());
    let container = &pod.containers[0];
    let mounts = container.volume_mounts.as_ref().expect("mounts");
    for (path, read_only) in [(&agent.logs.root, Some(true)), (&agent.state.dir, None)] {
        let mount = mounts.iter().find(|mount| *mount.mount_path == *path.to_string_lossy());
        assert_eq!(mount.expect("mounted").read_only, read_only, "{}", path.display());
    }
    let port = container.ports.as_ref().expect("ports")[0].container_port;
    assert_eq!(agent.telemetry_listen.map(|listen| i32::from(listen.port())), Some(port));
}
