//! The cluster that is asked: nodes, pods of a plausible size, and what its server uses.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::http::Request;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, Config};
use serde_json::{Value, json};

/// Requests that are made at once.
const AT_ONCE: usize = 16;

pub(crate) struct Cluster {
    client: Client,
    name: String,
}

/// CPU time of the server so far, etcd's included, and its memory now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: f64,
}

impl Cluster {
    /// A namespace of its own on the server that `config` leads to.
    pub(crate) async fn new(config: Config) -> anyhow::Result<Self> {
        let client = Client::try_from(config)?;
        let name = format!("api-bench-{}", std::process::id());
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
        Ok(Self { client, name })
    }

    pub(crate) fn node(&self, node: usize) -> String {
        format!("{}-{node}", self.name)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Creates `nodes`, each with `pods` running pods whose objects have about `bytes`.
    pub(crate) async fn fill(
        &self,
        nodes: std::ops::Range<usize>,
        pods: usize,
        bytes: usize,
    ) -> anyhow::Result<()> {
        let api = Api::<Node>::all(self.client.clone());
        for node in nodes.clone() {
            let node = serde_json::from_value(json!({"metadata": {"name": self.node(node)}}))?;
            api.create(&PostParams::default(), &node).await?;
        }
        let all = nodes.flat_map(|node| (0..pods).map(move |pod| (node, pod)));
        stream::iter(all)
            .map(|(node, pod)| self.add(node, pod, bytes))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn add(&self, node: usize, pod: usize, bytes: usize) -> anyhow::Result<()> {
        let (name, node) = (pod_name(node, pod), self.node(node));
        let object = serde_json::from_value(object(&name, &node, bytes))?;
        self.pods().create(&PostParams::default(), &object).await?;
        let status = Patch::Merge(json!({"status": status()}));
        self.pods().patch_status(&name, &PatchParams::default(), &status).await?;
        Ok(())
    }

    /// Changes a label of `count` pods, each on the next of `nodes`, one after the other.
    pub(crate) async fn change(
        &self,
        nodes: std::ops::Range<usize>,
        count: usize,
    ) -> anyhow::Result<()> {
        let first = nodes.start;
        for change in 0..count {
            let name = pod_name(first + change % nodes.len(), 0);
            let patch =
                Patch::Merge(json!({"metadata": {"labels": {"change": change.to_string()}}}));
            self.pods().patch(&name, &PatchParams::default(), &patch).await?;
        }
        Ok(())
    }

    pub(crate) async fn usage(&self) -> anyhow::Result<Usage> {
        let request = Request::get("/metrics").body(Vec::new())?;
        let page = self.client.request_text(request).await?;
        let value = |name: &str| {
            let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.with_context(|| format!("no {name}"))?.parse().context("a number")
        };
        Ok(Usage {
            cpu_seconds: value("process_cpu_seconds_total")?,
            resident_bytes: value("process_resident_memory_bytes")?,
        })
    }

    /// Deletes what was made.
    pub(crate) async fn clear(&self, nodes: usize) -> anyhow::Result<()> {
        let now = DeleteParams::default().grace_period(0);
        self.pods().delete_collection(&now, &ListParams::default()).await?;
        let api = Api::<Node>::all(self.client.clone());
        for node in 0..nodes {
            api.delete(&self.node(node), &now).await?;
        }
        Ok(())
    }
}

/// Where the server of `config` listens.
pub(crate) fn address(config: &Config) -> anyhow::Result<SocketAddr> {
    let url = &config.cluster_url;
    ensure!(url.scheme_str() == Some("https"), "{url} is not https");
    url.authority().context("no address")?.as_str().parse().context("not an address of numbers")
}

fn pod_name(node: usize, pod: usize) -> String {
    format!("orders-{node}-taskmanager-1-{pod}")
}

/// A TaskManager of the Flink operator's; the settings in its environment fill it up to `bytes`.
fn object(name: &str, node: &str, bytes: usize) -> Value {
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path});
    json!({
        "metadata": {
            "name": name,
            "labels": {
                "app": "orders", "component": "taskmanager", "type": "flink-native-kubernetes",
                "app.kubernetes.io/name": "orders", "app.kubernetes.io/part-of": "payments",
            },
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9249"},
        },
        "spec": {
            "nodeName": node,
            "containers": [{
                "name": "flink-main-container",
                "image": "registry.example.com/flink/orders:1.20.1-java17",
                "args": ["bash", "-c", "kubernetes-taskmanager.sh"],
                "env": [{"name": "FLINK_PROPERTIES", "value": "x".repeat(bytes.saturating_sub(4096))}],
                "ports": [{"name": "rpc", "containerPort": 6122}],
                "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "2Gi"}},
                "volumeMounts": [mount("flink-config-volume", "/opt/flink/conf"), mount("tmp", "/tmp")],
            }],
            "volumes": [
                {"name": "flink-config-volume", "configMap": {"name": "flink-config-orders"}},
                {"name": "tmp", "emptyDir": {}},
            ],
        },
    })
}

fn status() -> Value {
    let since = "2026-11-23T22:00:00Z";
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": since});
    let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    json!({
        "phase": "Running",
        "podIP": "10.244.1.7",
        "podIPs": [{"ip": "10.244.1.7"}],
        "conditions": conditions,
        "containerStatuses": [{
            "name": "flink-main-container",
            "image": "registry.example.com/flink/orders:1.20.1-java17",
            "imageID": format!("registry.example.com/flink/orders@sha256:{}", "01234567".repeat(8)),
            "containerID": format!("containerd://{}", "89abcdef".repeat(8)),
            "restartCount": 0,
            "ready": true,
            "started": true,
            "state": {"running": {"startedAt": since}},
            "lastState": {},
        }],
    })
}
