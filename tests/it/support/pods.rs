//! Pods as the API server describes them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// What a test says about a pod, and what its documents have to say in turn.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) container: String,
    pub(crate) node: String,
    pub(crate) ip: String,
    pub(crate) image: String,
    /// By restart; the last one is the running one.
    pub(crate) container_ids: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
}

impl Pod {
    /// A JobManager of a native Flink cluster: a pod of a Deployment.
    pub(crate) fn jobmanager(namespace: &str, cluster: &str) -> Self {
        Self::new(namespace, &format!("{cluster}-7d9c5b8f6d-x2k4p"), cluster, "jobmanager")
    }

    /// A TaskManager of a native Flink cluster.
    pub(crate) fn taskmanager(namespace: &str, cluster: &str, index: u32) -> Self {
        let name = format!("{cluster}-taskmanager-1-{index}");
        Self::new(namespace, &name, cluster, "taskmanager")
    }

    fn new(namespace: &str, name: &str, cluster: &str, component: &str) -> Self {
        let labels = [
            ("app", cluster),
            ("component", component),
            ("type", "flink-native-kubernetes"),
            ("app.kubernetes.io/name", "orders"),
        ];
        let seed = seed(namespace, name);
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: format!("5e1f0c2a-0000-4000-8000-{:012x}", seed & 0xffff_ffff_ffff),
            container: "flink-main-container".to_owned(),
            node: "node-a".to_owned(),
            ip: "10.244.1.7".to_owned(),
            image: "registry.example.com/flink/orders:1.20.1-java17".to_owned(),
            container_ids: vec![container_id(seed, 0)],
            labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        }
    }

    /// The pod after its container was started again until it had `runs` runs.
    pub(crate) fn with_runs(mut self, runs: usize) -> Self {
        let seed = seed(&self.namespace, &self.name);
        self.container_ids = (0..runs).map(|run| container_id(seed, run)).collect();
        self
    }

    /// What `imageID` says.
    pub(crate) fn image_id(&self) -> String {
        format!("registry.example.com/flink/orders@sha256:{}", "0123456789abcdef".repeat(4))
    }

    pub(crate) fn status(&self) -> Value {
        let restarts = self.container_ids.len() - 1;
        let last_state = match restarts {
            0 => json!({}),
            _ => json!({"terminated": {
                "exitCode": 1,
                "containerID": format!("containerd://{}", self.container_ids[restarts - 1]),
            }}),
        };
        json!({
            "phase": "Running",
            "podIP": self.ip,
            "podIPs": [{"ip": self.ip}],
            "containerStatuses": [{
                "name": self.container,
                "image": self.image,
                "imageID": self.image_id(),
                "containerID": format!("containerd://{}", self.container_ids[restarts]),
                "restartCount": restarts,
                "ready": true,
                "started": true,
                "state": {"running": {"startedAt": "2026-11-23T22:00:00Z"}},
                "lastState": last_state,
            }],
        })
    }

    /// The object as `kubectl get pod -o json` prints it.
    pub(crate) fn object(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "uid": self.uid,
                "labels": self.labels,
            },
            "spec": {
                "nodeName": self.node,
                "containers": [{"name": self.container, "image": self.image}],
            },
            "status": self.status(),
        })
    }
}

/// A number that is the pod's own.
fn seed(namespace: &str, name: &str) -> u64 {
    let bytes = namespace.bytes().chain(name.bytes());
    bytes.fold(7, |sum: u64, byte| sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte))
}

fn container_id(seed: u64, run: usize) -> String {
    format!("{:015x}{run:x}", seed >> 4).repeat(4)
}

/// What `kubectl get pods -A -o json` prints.
pub(crate) fn list<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Value {
    let items: Vec<Value> = pods.into_iter().map(Pod::object).collect();
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}
