//! The manifests of `daemonset/` on a control plane with scheduler and controllers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use hyper::http::Method;
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};

use crate::support::captures::Line;
use crate::support::control::{ControlPlane, Resource};
use crate::support::cri::Log;
use crate::support::fields::text;
use crate::support::node::Node;
use crate::support::pods::Pod;
use crate::support::{SOON, server, wait_until};

const NAMESPACE: &str = "logging";
const AGENTS: &str = "app.kubernetes.io/name=splashdam";
/// The nodes that get an agent.
const NODES: [&str; 4] = ["control-plane", "drained", "reserved", "worker"];

fn daemonset() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("daemonset")
}

/// A control plane that knows the kinds of OpenShift, of the Prometheus operator and of the elastic
/// operator, as these define them.
fn control_plane() -> ControlPlane {
    let control = ControlPlane::alone();
    let folder = server("DEFINITIONS");
    for owner in ["openshift", "prometheus", "elastic"] {
        let file = format!("{folder}/{owner}.yaml");
        control.kubectl(&["apply", "--server-side", "-f", &file], "");
    }
    control.kubectl(&["wait", "--for=condition=Established", "crd", "--all"], "");
    control
}

/// Four nodes that differ in what keeps pods away, and three that have no log files to read.
fn add_nodes(control: &ControlPlane) {
    let taint = |key: &str, effect: &str| json!({"taints": [{"key": key, "effect": effect}]});
    let linux = ("kubernetes.io/os", "linux");
    let nodes = [
        ("worker", vec![linux], json!({}), true),
        (
            "control-plane",
            vec![linux],
            taint("node-role.kubernetes.io/control-plane", "NoSchedule"),
            true,
        ),
        ("reserved", vec![linux], taint("example.com/reserved", "NoExecute"), true),
        ("drained", vec![linux], json!({"unschedulable": true}), false),
        ("windows", vec![("kubernetes.io/os", "windows")], json!({}), true),
        (
            "virtual",
            vec![linux, ("type", "virtual-kubelet")],
            taint("virtual-kubelet.io/provider", "NoSchedule"),
            true,
        ),
        (
            "fargate",
            vec![linux, ("eks.amazonaws.com/compute-type", "fargate")],
            taint("eks.amazonaws.com/compute-type", "NoSchedule"),
            true,
        ),
    ];
    for (name, labels, spec, ready) in nodes {
        let room = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
        control.make(&json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": BTreeMap::from_iter(labels)},
            "spec": spec,
            "status": {
                "capacity": room,
                "allocatable": room,
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            },
        }));
    }
}

fn agents(control: &ControlPlane) -> Vec<Value> {
    let mut list = control.get(&["pods", "-n", NAMESPACE, "-l", AGENTS]);
    let Value::Array(pods) = list["items"].take() else { panic!("a list: {list}") };
    pods
}

/// Installs this overlay where none was, and waits until its pods are on their nodes.
fn install(control: &ControlPlane, overlay: &str) {
    add_nodes(control);
    let old = ["delete", "daemonset", "splashdam", "-n", NAMESPACE, "--ignore-not-found"];
    control.kubectl(&old, "");
    // No kubelet says that they have ended.
    let pods = ["delete", "pods", "--all", "-n", NAMESPACE, "--force", "--grace-period=0"];
    control.kubectl(&pods, "");
    control.apply(&daemonset().join(overlay));
    wait_until(SOON, "each node has its agent", || {
        let status = &control.get(&["daemonset", "splashdam", "-n", NAMESPACE])["status"];
        status["observedGeneration"] == 1
            && status["desiredNumberScheduled"] == NODES.len()
            && agents(control).iter().filter(|pod| pod["spec"]["nodeName"].is_string()).count()
                == NODES.len()
    });
}

/// An overlay of a user's: a namespace and an image of theirs, a pipeline more, all components.
fn overlay_of_yours() -> TempDir {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().canonicalize().unwrap();
    // A path from there: kustomize takes no absolute one.
    let up = "../".repeat(path.components().count() - 1);
    let daemonset = format!("{up}{}", daemonset().strip_prefix("/").unwrap().display());
    let mut components: Vec<String> = fs::read_dir(self::daemonset().join("components"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        // Either of the two says where the password is.
        .filter(|name| name != "secret")
        .map(|name| format!("{daemonset}/components/{name}"))
        .collect();
    components.sort();
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "observability",
        "resources": [format!("{daemonset}/base")],
        "components": components,
        "images": [{"name": "splashdam", "newName": "example.com/splashdam", "newTag": "1"}],
        "configMapGenerator": [
            {"name": "splashdam-pipelines", "behavior": "merge", "files": ["orders.yaml"]},
        ],
    });
    fs::write(path.join("kustomization.yaml"), kustomization.to_string()).unwrap();
    let pipeline = "pipeline: orders\nselect: [{select: {}}]\noutput: {stdout: {}}\n";
    fs::write(path.join("orders.yaml"), pipeline).unwrap();
    folder
}

/// The base with one component.
fn overlay_with(component: &str) -> TempDir {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().canonicalize().unwrap();
    let up = "../".repeat(path.components().count() - 1);
    let daemonset = format!("{up}{}", daemonset().strip_prefix("/").unwrap().display());
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [format!("{daemonset}/base")],
        "components": [format!("{daemonset}/components/{component}")],
    });
    fs::write(path.join("kustomization.yaml"), kustomization.to_string()).unwrap();
    folder
}

/// Lays out what the container has beneath `/etc/splashdam`, as the kubelet would, with these
/// paths in it.
fn lay_out(control: &ControlPlane, namespace: &str, folder: &Path) {
    let set = control.get(&["daemonset", "splashdam", "-n", namespace]);
    let spec = &set["spec"]["template"]["spec"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for mount in list(&spec["containers"][0]["volumeMounts"]) {
        let Some(beneath) = mount["mountPath"].as_str().unwrap().strip_prefix("/etc/splashdam")
        else {
            continue;
        };
        let folder = folder.join(beneath.trim_start_matches('/'));
        let volumes = list(&spec["volumes"]);
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        let mut sources = list(&volume["projected"]["sources"]);
        if sources.is_empty() {
            sources.push(volume.clone());
        }
        for source in sources {
            let mut files: Vec<(String, String)> = Vec::new();
            if let Some(name) = source["configMap"]["name"].as_str() {
                let map = control.get(&["configmap", name, "-n", namespace]);
                for (key, text) in map["data"].as_object().unwrap() {
                    files.push((key.clone(), text.as_str().unwrap().to_owned()));
                }
            }
            for item in list(&source["secret"]["items"]) {
                let text = match item["key"].as_str().unwrap() {
                    "ca.crt" => include_str!("../fixtures/tls/ca.crt"),
                    _ => "password",
                };
                files.push((item["path"].as_str().unwrap().to_owned(), text.to_owned()));
            }
            for (path, text) in files {
                let path = folder.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
        }
    }
}

/// The agent's files, as the cluster has them, are complete and valid.
fn check_files(control: &ControlPlane, namespace: &str) {
    let node = Node::with_pods([]);
    let folder = node.path("etc");
    lay_out(control, namespace, &folder);
    let to = folder.display().to_string();
    for file in ["agent.yaml", "pipelines/flink.yaml"] {
        let path = folder.join(file);
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replace("/etc/splashdam", &to).replace("${NODE_NAME:-}", "worker");
        fs::write(path, text).unwrap();
    }
    let configuration = folder.join("agent.yaml");
    let ended = node.execute(&["validate", "--config", configuration.to_str().unwrap()]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn every_overlay_is_taken_without_a_warning_and_brings_the_agents_files() {
    let control = control_plane();
    for overlay in
        ["", "overlays/plain", "overlays/eck", "overlays/openshift", "overlays/podmonitor"]
    {
        control.apply(&daemonset().join(overlay));
        check_files(&control, NAMESPACE);
    }
    control.apply(overlay_of_yours().path());
    check_files(&control, "observability");
    let pipelines = control.get(&["configmap", "splashdam-pipelines", "-n", "observability"]);
    let names: Vec<&String> = pipelines["data"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["flink.yaml", "orders.yaml"]);
    let set = control.get(&["daemonset", "splashdam", "-n", "observability"]);
    let image = &set["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(image, "example.com/splashdam:1");
}

/// The first steps of README.md on a cluster, and what the overlay `eck` expects of them: Secrets
/// with the names that the elastic operator gives them.
#[test]
fn the_example_is_an_elasticsearch_for_the_elastic_operator_and_the_overlay_is_for_it() {
    let control = control_plane();
    control.apply(&daemonset().join("overlays/eck"));
    let example = daemonset().join("example/elastic.yaml");
    let apply = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-o", "json"];
    let example = ["-f", example.to_str().unwrap()];
    let text = control.kubectl(&[&apply[..], &example].concat(), "");
    let list: Value = serde_json::from_str(&text).unwrap();
    let items = list["items"].as_array().unwrap();
    let kinds: Vec<&str> = items.iter().map(|item| item["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Elasticsearch", "Kibana"]);
    let name = items[0]["metadata"]["name"].as_str().unwrap();
    assert_eq!(items[0]["metadata"]["namespace"], NAMESPACE);

    let set = control.get(&["daemonset", "splashdam", "-n", NAMESPACE]);
    let volumes = set["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let sources = volumes.iter().flat_map(|volume| volume["projected"]["sources"].as_array());
    let secrets: Vec<&str> =
        sources.flatten().filter_map(|source| source["secret"]["name"].as_str()).collect();
    assert_eq!(
        secrets,
        [format!("{name}-es-elastic-user"), format!("{name}-es-http-certs-public")]
    );
    let pipelines = control.get(&["configmap", "splashdam-pipelines", "-n", NAMESPACE]);
    let pipeline = pipelines["data"]["flink.yaml"].as_str().unwrap();
    assert!(
        pipeline.contains(&format!("https://{name}-es-http.{NAMESPACE}.svc:9200")),
        "{pipeline}"
    );
}

#[test]
fn every_linux_node_gets_one_agent() {
    let control = control_plane();
    install(&control, "");
    let pods = agents(&control);
    let mut nodes: Vec<&str> =
        pods.iter().map(|pod| pod["spec"]["nodeName"].as_str().unwrap()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, NODES);
    for pod in &pods {
        let spec = &pod["spec"];
        assert_eq!(
            spec["containers"][0]["image"],
            concat!("splashdam:", env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(spec["priorityClassName"], "system-node-critical");
        let mounts = spec["containers"][0]["volumeMounts"].as_array().unwrap();
        let token = "/var/run/secrets/kubernetes.io/serviceaccount";
        assert!(mounts.iter().any(|mount| mount["mountPath"] == token), "{mounts:?}");
    }
}

#[test]
fn all_of_it_is_taken_away_by_its_label_and_the_namespace_stays() {
    let control = control_plane();
    install(&control, "overlays/openshift");
    let kinds = "daemonset,serviceaccount,configmap,networkpolicy,resourcequota,\
                 clusterrole,clusterrolebinding,securitycontextconstraints";
    let found = || {
        let list = control.get(&[kinds, "-n", NAMESPACE, "-l", AGENTS]);
        let kinds = list["items"].as_array().unwrap().iter();
        kinds.map(|object| text(object, "kind").unwrap()).collect::<BTreeSet<_>>()
    };
    assert_eq!(found().len(), kinds.split(',').count());
    let overlay = daemonset().join("overlays/openshift");
    control.kubectl(&["delete", "-k", overlay.to_str().unwrap(), "-l", AGENTS], "");
    let earlier = ["delete", "configmap", "-n", NAMESPACE, "-l", AGENTS];
    control.kubectl(&earlier, "");
    assert_eq!(found(), BTreeSet::new());
    let namespace = control.get(&["namespace", NAMESPACE]);
    assert_eq!(namespace["status"]["phase"], "Active");
}

/// What the agents' container may do, with this component beside the base.
fn security_context(control: &ControlPlane, component: &str) -> Value {
    control.apply(overlay_with(component).path());
    let mut set = control.get(&["daemonset", "splashdam", "-n", NAMESPACE]);
    set["spec"]["template"]["spec"]["containers"][0]["securityContext"].take()
}

#[test]
fn the_component_for_selinux_sets_the_type_of_the_process() {
    let control = ControlPlane::alone();
    let context = security_context(&control, "selinux");
    assert_eq!(context["seLinuxOptions"], json!({"type": "spc_t"}));
}

#[test]
fn the_component_for_logs_of_root_leaves_the_agent_no_capability() {
    let control = ControlPlane::alone();
    let context = security_context(&control, "root-owned-logs");
    assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(context["runAsUser"], 0);
}

/// What every user of a cluster may do: ask about themselves.
const ABOUT_ONESELF: [&str; 3] = [
    "create selfsubjectaccessreviews",
    "create selfsubjectreviews",
    "create selfsubjectrulesreviews",
];

/// The request that means `verb`, on something called `object`.
fn request(resource: &Resource, verb: &str, object: &str) -> (Method, String) {
    let (name, part) = resource.name.split_once('/').map_or_else(
        || (resource.name.as_str(), String::new()),
        |(name, part)| (name, format!("/{part}")),
    );
    let within =
        if resource.namespaced { format!("/namespaces/{NAMESPACE}") } else { String::new() };
    let all = format!("{}{within}/{name}", resource.root);
    let one = format!("{all}/{object}{part}");
    match verb {
        "get" => (Method::GET, one),
        "list" => (Method::GET, all),
        "watch" => (Method::GET, format!("{all}?watch=true&timeoutSeconds=1")),
        "create" if part.is_empty() => (Method::POST, all),
        "create" => (Method::POST, one),
        "update" => (Method::PUT, one),
        "patch" => (Method::PATCH, one),
        "delete" => (Method::DELETE, one),
        "deletecollection" => (Method::DELETE, all),
        other => panic!("{other} {}", resource.name),
    }
}

#[test]
fn the_agents_token_lists_and_watches_pods_and_does_nothing_else() {
    let control = control_plane();
    install(&control, "");
    let agent =
        agents(&control).into_iter().find(|pod| pod["spec"]["nodeName"] == "worker").unwrap();
    let name = agent["metadata"]["name"].as_str().unwrap();
    let kubeconfig = control.account(NAMESPACE, "splashdam");
    let client = control.client(&kubeconfig);
    // Rules count a moment after they were written, those of another overlay for as long.
    wait_until(SOON, "pods may be listed everywhere, and namespaces may not", || {
        let list = |name: &str| control.ask(&client, &Method::GET, &format!("/api/v1/{name}"));
        (list("pods"), list("namespaces")) == (200, 403)
    });

    let mut tried = 0;
    let mut allowed = BTreeSet::new();
    for resource in control.resources() {
        for verb in &resource.verbs {
            let object = if resource.name == "pods" { name } else { "default" };
            let (method, path) = request(&resource, verb, object);
            let code = control.ask(&client, &method, &path);
            tried += 1;
            if code != 403 {
                allowed.insert(format!("{verb} {}", resource.name));
            }
            if resource.name == "pods" && ["list", "watch"].contains(&verb.as_str()) {
                assert_eq!(code, 200, "{verb} pods");
            }
        }
    }
    let expected = ["list pods", "watch pods"].into_iter().chain(ABOUT_ONESELF);
    assert_eq!(allowed, expected.map(str::to_owned).collect());
    assert!(tried > 300, "the server has more than that: {tried}");
}

#[test]
fn an_agent_with_this_token_knows_the_pods_of_its_node() {
    let control = control_plane();
    install(&control, "");
    let kubeconfig = NamedTempFile::new().unwrap();
    fs::write(kubeconfig.path(), control.account(NAMESPACE, "splashdam").to_string()).unwrap();
    check_agent(&control, &Node::in_cluster("worker", kubeconfig.path()));
}

/// This server doesn't have the kinds of Flink's operator.
#[test]
fn with_the_component_for_flink_the_agent_may_ask_for_what_need_not_be_there() {
    let (control, account, kubeconfig) = with_component("flink");
    let client = control.client(&account);
    for kind in ["flinkdeployments", "flinksessionjobs"] {
        let path = format!("/apis/flink.apache.org/v1beta1/{kind}");
        // Rights are looked at before what there is.
        wait_until(SOON, "it may be asked for, and is not there", || {
            control.ask(&client, &Method::GET, &path) == 404
        });
        assert_eq!(control.ask(&client, &Method::POST, &path), 403, "{kind}");
    }
    let set = control.get(&["daemonset", "splashdam", "-n", NAMESPACE]);
    let variables = set["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
    let wanted = json!({"name": "SPLASHDAM_KUBERNETES__FLINK", "value": "watch"});
    assert!(variables.contains(&wanted), "{variables:?}");

    let agent = agent_on_worker(&control);
    let name = agent["metadata"]["name"].as_str().unwrap();
    let labels = ["app=orders", "component=taskmanager", "type=flink-native-kubernetes"];
    control.kubectl(&[&["label", "pod", name, "-n", NAMESPACE], &labels[..]].concat(), "");
    let node = Node::in_cluster("worker", kubeconfig.path());
    node.set_kubernetes("flink: watch");
    let document = check_agent(&control, &node);
    assert_eq!(text(&document, "flink.deployment").as_deref(), Some("orders"));
    assert_eq!(text(&document, "flink.version"), None);
}

#[test]
fn with_the_component_for_namespace_labels_the_agent_may_read_namespaces_too() {
    let (control, account, kubeconfig) = with_component("namespace-labels");
    let client = control.client(&account);
    let ask = |method: Method, path: &str| control.ask(&client, &method, path);
    wait_until(SOON, "namespaces may be listed", || ask(Method::GET, "/api/v1/namespaces") == 200);
    let one = format!("/api/v1/namespaces/{NAMESPACE}");
    assert_eq!(ask(Method::GET, "/api/v1/namespaces?watch=true&timeoutSeconds=1"), 200);
    assert_eq!(ask(Method::POST, "/api/v1/namespaces"), 403);
    assert_eq!(ask(Method::PATCH, &one), 403);
    assert_eq!(ask(Method::DELETE, &one), 403);
    assert_eq!(ask(Method::GET, "/api/v1/nodes"), 403);

    let node = Node::in_cluster("worker", kubeconfig.path());
    // The API server gives each namespace this label.
    let criteria = format!("namespace_labels: {{kubernetes.io/metadata.name: {NAMESPACE}}}");
    let document = check_agent_taken(&control, &node, &criteria);
    let label = text(&document, "kubernetes_namespace.labels.kubernetes_io_metadata_name");
    assert_eq!(label.as_deref(), Some(NAMESPACE));
}

/// A control plane with this component beside the base, and the account of its agents, also in a file.
fn with_component(component: &str) -> (ControlPlane, Value, NamedTempFile) {
    let control = control_plane();
    install(&control, overlay_with(component).path().to_str().unwrap());
    let account = control.account(NAMESPACE, "splashdam");
    let kubeconfig = NamedTempFile::new().unwrap();
    fs::write(kubeconfig.path(), account.to_string()).unwrap();
    (control, account, kubeconfig)
}

fn agent_on_worker(control: &ControlPlane) -> Value {
    agents(control).into_iter().find(|pod| pod["spec"]["nodeName"] == "worker").unwrap()
}

/// A line of the agent's pod on `worker` gets that pod's facts on `node`; gives the document.
fn check_agent(control: &ControlPlane, node: &Node) -> Value {
    check_agent_taken(control, node, "labels: {app.kubernetes.io/name: splashdam}")
}

/// The same with a pipeline that takes it for these criteria.
fn check_agent_taken(control: &ControlPlane, node: &Node, criteria: &str) -> Value {
    let agent = agent_on_worker(control);
    let mut pod = Pod::taskmanager(NAMESPACE, "unused", 1);
    agent["metadata"]["name"].as_str().unwrap().clone_into(&mut pod.name);
    agent["metadata"]["uid"].as_str().unwrap().clone_into(&mut pod.uid);
    "splashdam".clone_into(&mut pod.container);
    let out = node.path("out.ndjson");
    let pipeline = format!(
        "pipeline: agents\nselect:\n  - select: {{{criteria}}}\n\
         output:\n  file: {{path: {}}}\n",
        out.display(),
    );
    node.pipeline("agents", &pipeline);
    Log::with_lines(&node.root(), &pod, 0, &[Line::stdout("a line")]);
    assert_eq!(node.run_once().documents_indexed, 1);
    let document: Value = serde_json::from_str(&fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(text(&document, "kubernetes.pod_name"), Some(pod.name));
    assert_eq!(text(&document, "kubernetes.host").as_deref(), Some("worker"));
    document
}
