//! The manifests of `daemonset/base`: objects that Kubernetes knows, and the project's own files.
//!
//! What the overlays make of them, and what a cluster makes of those, is in `tests/it/cluster.rs`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Container, Namespace, PodSpec, Probe, ResourceQuota, ServiceAccount,
};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPort};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::problem::Report;
use super::{Agent, DEFAULT_FILE, read_filter, yaml};

const KUSTOMIZATION: &str = include_str!("../../daemonset/base/kustomization.yaml");

/// The resources of the base, by the names of their files.
const RESOURCES: [(&str, &str); 5] = [
    ("namespace.yaml", include_str!("../../daemonset/base/namespace.yaml")),
    ("access.yaml", include_str!("../../daemonset/base/access.yaml")),
    ("priority.yaml", include_str!("../../daemonset/base/priority.yaml")),
    ("network.yaml", include_str!("../../daemonset/base/network.yaml")),
    ("daemonset.yaml", include_str!("../../daemonset/base/daemonset.yaml")),
];

fn documents(name: &str, text: &str) -> Vec<Value> {
    let report = Report::default();
    let nodes = yaml::documents(&Arc::from(name), text, &report);
    report.finish().expect("YAML");
    nodes.iter().map(read_filter::json).collect()
}

/// The only object of this kind, every field of which Kubernetes knows: one that it does not
/// would be missing when it is written again.
fn object<T: DeserializeOwned + Serialize>(kind: &str) -> T {
    let all = RESOURCES.iter().flat_map(|(name, text)| documents(name, text));
    let mut found = all.filter(|document| document["kind"] == kind);
    let (Some(document), None) = (found.next(), found.next()) else { panic!("one {kind}") };
    let object: T = serde_json::from_value(document.clone()).expect(kind);
    assert_eq!(serde_json::to_value(&object).expect(kind), document);
    object
}

fn pod() -> PodSpec {
    object::<DaemonSet>("DaemonSet").spec.template.spec.expect("a pod")
}

fn container() -> Container {
    let [container] = pod().containers.try_into().expect("one container");
    container
}

fn kustomization() -> Value {
    let [kustomization] = documents("kustomization.yaml", KUSTOMIZATION).try_into().expect("one");
    kustomization
}

#[test]
fn the_base_holds_the_projects_files() {
    let copies = [
        (
            "config/agent.yaml",
            include_str!("../../config/agent.yaml"),
            include_str!("../../daemonset/base/agent.yaml"),
        ),
        (
            "pipelines/flink.yaml",
            include_str!("../../pipelines/flink.yaml"),
            include_str!("../../daemonset/base/pipelines/flink.yaml"),
        ),
    ];
    for (name, text, copy) in copies {
        assert_eq!(text, copy, "copy {name} into daemonset/base");
    }
    let config_maps: Vec<Value> = kustomization()["configMapGenerator"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|map| json!([map["name"], map["files"]]))
        .collect();
    let expected = [
        json!(["splashdam-agent", ["agent.yaml"]]),
        json!(["splashdam-pipelines", ["pipelines/flink.yaml"]]),
    ];
    assert_eq!(config_maps, expected);
}

/// The operator derives names from those of the Elasticsearch.
#[test]
fn the_pipeline_writes_to_the_example() {
    let example = include_str!("../../daemonset/example/elastic.yaml");
    let objects = documents("elastic.yaml", example);
    let elasticsearch = &objects[0];
    assert_eq!(elasticsearch["kind"], "Elasticsearch");
    let name = elasticsearch["metadata"]["name"].as_str().expect("a name");
    let namespace = elasticsearch["metadata"]["namespace"].as_str().expect("a namespace");
    let pipeline = include_str!("../../pipelines/flink.yaml");
    assert!(pipeline.contains(&format!("https://{name}-es-http.{namespace}.svc:9200")));
    let own = object::<Namespace>("Namespace").metadata.name;
    assert_eq!(own.as_deref(), Some(namespace));
    let component = include_str!("../../daemonset/components/eck/kustomization.yaml");
    for secret in ["es-elastic-user", "es-http-certs-public"] {
        assert!(component.contains(&format!("name: {name}-{secret}\n")), "{secret}");
    }
}

#[test]
fn the_base_is_made_of_these_files() {
    let kustomization = kustomization();
    assert_eq!(kustomization["resources"], json!(RESOURCES.map(|(name, _)| name)));
    // An overlay that names the image finds it under this name only if none before it has done so.
    assert_eq!(kustomization["images"], Value::Null);
}

#[test]
fn the_agent_gets_no_more_than_it_needs() {
    let rules = object::<ClusterRole>("ClusterRole").rules.expect("rules");
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0].resources.as_deref(), Some(&["pods".to_owned()][..]));
    assert_eq!(rules[0].verbs, ["list", "watch"]);
    object::<Namespace>("Namespace");
    object::<ServiceAccount>("ServiceAccount");
    object::<ClusterRoleBinding>("ClusterRoleBinding");
    object::<ResourceQuota>("ResourceQuota");
    object::<NetworkPolicy>("NetworkPolicy");

    let container = container();
    let security = container.security_context.expect("a security context");
    assert_eq!(security.privileged, None);
    assert_eq!(security.allow_privilege_escalation, Some(false));
    assert_eq!(security.read_only_root_filesystem, Some(true));
    let capabilities = security.capabilities.expect("capabilities");
    assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]));
    assert_eq!(capabilities.add.as_deref(), Some(&["DAC_READ_SEARCH".to_owned()][..]));
    let pod = pod();
    assert_eq!((pod.host_network, pod.host_pid, pod.host_ipc), (None, None, None));
    let profile = pod.security_context.and_then(|security| security.seccomp_profile);
    assert_eq!(profile.expect("a profile").type_, "RuntimeDefault");
    for mount in container.volume_mounts.expect("mounts") {
        let read_only = (mount.name != "state").then_some(true);
        assert_eq!(mount.read_only, read_only, "{}", mount.mount_path);
    }
}

#[test]
fn the_base_fits_the_defaults() {
    let agent = Agent::default();
    let grace = pod().termination_grace_period_seconds.expect("a grace period").unsigned_abs();
    let copying = agent.held.spool_bytes / 10_000_000;
    assert!(grace >= agent.drain.as_secs() + copying + 5, "with a disk that takes 10 MB/s");
    let container = container();
    let mounts: BTreeMap<String, String> = container
        .volume_mounts
        .expect("mounts")
        .into_iter()
        .map(|mount| (mount.name, mount.mount_path))
        .collect();
    let paths = [
        ("config", Path::new(DEFAULT_FILE).parent().expect("a directory")),
        ("pipelines", &agent.pipelines),
        ("logs", &agent.logs.root),
        ("state", &agent.state.dir),
    ];
    let expected = paths.map(|(name, path)| (name.to_owned(), path.display().to_string()));
    assert_eq!(mounts, BTreeMap::from(expected));
    let port = container.ports.expect("ports")[0].container_port;
    assert_eq!(agent.telemetry_listen.map(|listen| i32::from(listen.port())), Some(port));
    let resources = container.resources.expect("resources");
    let mebibytes = (agent.memory_budget_bytes >> 20) + 32;
    assert_eq!(resources.requests.expect("requests")["memory"].0, format!("{mebibytes}Mi"));
    assert_eq!(resources.limits.expect("limits")["memory"].0, format!("{}Mi", 2 * mebibytes));
}

#[test]
fn volumes_of_the_node_are_what_is_mounted_of_it() {
    let mounts: BTreeMap<String, String> = (container().volume_mounts.expect("mounts").into_iter())
        .map(|mount| (mount.name, mount.mount_path))
        .collect();
    let mut types = BTreeMap::new();
    for volume in pod().volumes.expect("volumes") {
        if let Some(host) = volume.host_path {
            assert_eq!(host.path, mounts[&volume.name]);
            types.insert(volume.name, host.type_.expect("a type"));
        }
    }
    // Without logs there is nothing to do; without a state directory there is a first start.
    let expected = [("logs", "Directory"), ("state", "DirectoryOrCreate")];
    assert_eq!(types, expected.map(|(name, kind)| (name.to_owned(), kind.to_owned())).into());
}

#[test]
fn probes_and_monitors_ask_for_what_the_agent_serves() {
    let container = container();
    let port = container.ports.as_ref().expect("ports")[0].name.clone().expect("a name");
    let asked = |probe: Option<Probe>| {
        let http = probe.and_then(|probe| probe.http_get).expect("over HTTP");
        (http.path.expect("a path"), http.port)
    };
    let served = |path: &str| (path.to_owned(), IntOrString::String(port.clone()));
    assert_eq!(asked(container.liveness_probe), served("/livez"));
    assert_eq!(asked(container.readiness_probe), served("/readyz"));
    let [monitor] = documents(
        "pod-monitor.yaml",
        include_str!("../../daemonset/components/podmonitor/pod-monitor.yaml"),
    )
    .try_into()
    .expect("one");
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    assert_eq!([&endpoint["path"], &endpoint["port"]], ["/metrics", port.as_str()]);
    let labels = object::<DaemonSet>("DaemonSet").spec.selector;
    assert_eq!(monitor["spec"]["selector"], serde_json::to_value(labels).expect("JSON"));
}

#[test]
fn the_network_lets_through_what_the_agent_asks_and_is_asked() {
    let spec = object::<NetworkPolicy>("NetworkPolicy").spec.expect("a policy");
    let ports = |lists: Vec<Option<Vec<NetworkPolicyPort>>>| -> Vec<Value> {
        (lists.into_iter().flatten().flatten())
            .map(|port| serde_json::to_value(port).expect("JSON"))
            .collect()
    };
    let ingress = spec.ingress.expect("rules").into_iter().map(|rule| rule.ports).collect();
    assert_eq!(ports(ingress), [json!({"port": "telemetry"})]);
    let egress = spec.egress.expect("rules").into_iter().map(|rule| rule.ports).collect();
    let egress = ports(egress);
    for protocol in ["UDP", "TCP"] {
        assert!(egress.contains(&json!({"port": 53, "protocol": protocol})), "DNS");
    }
    for port in [443, 6443, 9200] {
        assert!(egress.contains(&json!({"port": port})), "{port}");
    }
}

#[test]
fn an_update_that_fails_stops_at_a_tenth_of_the_nodes() {
    let spec = object::<DaemonSet>("DaemonSet").spec;
    assert!(spec.min_ready_seconds.is_some_and(|seconds| seconds > 0));
    let strategy = spec.update_strategy.expect("a strategy");
    assert_eq!(strategy.type_.as_deref(), Some("RollingUpdate"));
    let share = strategy.rolling_update.and_then(|rolling| rolling.max_unavailable);
    assert_eq!(share, Some(IntOrString::String("10%".to_owned())));
}

#[test]
fn the_image_is_of_this_version() {
    let dockerfile = include_str!("../../daemonset/Dockerfile");
    let compiler = concat!(" rust:", env!("CARGO_PKG_RUST_VERSION"), "-bookworm AS build\n");
    let version = concat!("image.version=\"", env!("CARGO_PKG_VERSION"), "\" ");
    let image = concat!("splashdam:", env!("CARGO_PKG_VERSION"));
    assert_eq!(container().image.as_deref(), Some(image));
    for overlay in [
        include_str!("../../daemonset/overlays/plain/kustomization.yaml"),
        include_str!("../../daemonset/overlays/eck/kustomization.yaml"),
    ] {
        assert!(overlay.contains(concat!("newTag: ", env!("CARGO_PKG_VERSION"), "\n")));
    }
    for part in [compiler, version, "\nUSER 65532:65532\n"] {
        assert!(dockerfile.contains(part), "{part}");
    }
}
