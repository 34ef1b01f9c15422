//! Who the pods of a tree are: names, labels and ids, the same for the same seed.
//!
//! Owns the made-up identities and their `v1` list, as `kubectl get pods -A -o json` prints it.
//! Labels and names are those that Flink's native Kubernetes mode gives
//! (apache/flink `flink-kubernetes/.../utils/Constants.java`). Leaves out files.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// One pod. Pod 0 of each cluster is the JobManager, the others are TaskManagers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodIdentity {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub labels: BTreeMap<String, String>,
    pub node: String,
    pub pod_ip: String,
    pub container: String,
    pub image: String,
    /// By restart, with `containerd://`.
    pub container_ids: BTreeMap<u32, String>,
}

impl PodIdentity {
    /// The `number`-th pod of a tree whose clusters have one JobManager and `taskmanagers` others.
    pub(super) fn new(number: usize, taskmanagers: usize, restarts: &[u32], seed: u64) -> Self {
        let (cluster, place) = (number / (taskmanagers + 1), number % (taskmanagers + 1));
        let mut random =
            Random::new(seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut cluster_random = Random::new(seed ^ !(cluster as u64));
        let hash = cluster_random.name(10);
        let app = match cluster {
            0 => "orders-session".to_owned(),
            _ => format!("orders-session-{cluster}"),
        };
        let (component, name) = match place {
            0 => ("jobmanager", format!("{app}-{hash}-{}", random.name(5))),
            _ => ("taskmanager", format!("{app}-taskmanager-1-{place}")),
        };
        let labels = [
            ("app", app.as_str()),
            ("component", component),
            ("type", "flink-native-kubernetes"),
            ("pod-template-hash", &hash),
        ];
        Self {
            namespace: "flink".to_owned(),
            name,
            uid: random.uid(),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            node: "node-a".to_owned(),
            pod_ip: format!("10.244.{}.{}", number / 250 % 250, number % 250 + 2),
            container: "flink-main-container".to_owned(),
            image: "registry.example.com/flink/orders:1.20.1-java17".to_owned(),
            container_ids: restarts
                .iter()
                .map(|restart| (*restart, random.container_id()))
                .collect(),
        }
    }

    /// `<namespace>_<pod>_<uid>`, the pod's folder in the kubelet's tree.
    pub fn folder(&self) -> String {
        format!("{}_{}_{}", self.namespace, self.name, self.uid)
    }

    /// The pod as a `v1` object. The status knows the last container and the one before it.
    pub fn to_json(&self) -> Value {
        let mut restarts = self.container_ids.iter().rev();
        let (restart, id) =
            restarts.next().map_or((0, ""), |(restart, id)| (*restart, id.as_str()));
        let last_state = match restarts.next() {
            Some((_, before)) => json!({"terminated": {"exitCode": 1, "containerID": before}}),
            None => json!({}),
        };
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name, "namespace": self.namespace, "uid": self.uid,
                "labels": self.labels,
                "annotations": {"prometheus.io/scrape": "true"},
            },
            "spec": {
                "nodeName": self.node,
                "containers": [{"name": self.container, "image": self.image}],
            },
            "status": {
                "phase": "Running", "podIP": self.pod_ip,
                "containerStatuses": [{
                    "name": self.container, "image": self.image,
                    "imageID": format!("{}@sha256:{}", self.image, "0".repeat(64)),
                    "containerID": id, "restartCount": restart,
                    "ready": true, "started": true,
                    "state": {"running": {}}, "lastState": last_state,
                }],
            },
        })
    }
}

/// The pods as a `v1` list.
pub fn pod_list<'a>(pods: impl IntoIterator<Item = &'a PodIdentity>) -> Value {
    let items: Vec<_> = pods.into_iter().map(PodIdentity::to_json).collect();
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}

/// A small generator of names that look like the cluster's; no secrets come from it.
/// Source: Sebastiano Vigna, `splitmix64.c`.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Characters that Kubernetes takes for generated names.
    fn name(&mut self, length: usize) -> String {
        const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
        (0..length).map(|_| char::from(LETTERS[(self.next() % 27) as usize])).collect()
    }

    /// A version 4 UUID.
    fn uid(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        let version = high & 0xfff | 0x4000;
        let variant = low >> 48 & 0x3fff | 0x8000;
        let (first, second) = (high >> 32, high >> 16 & 0xffff);
        format!(
            "{first:08x}-{second:04x}-{version:04x}-{variant:04x}-{:012x}",
            low & 0xffff_ffff_ffff
        )
    }

    fn container_id(&mut self) -> String {
        let words: String = (0..4).map(|_| format!("{:016x}", self.next())).collect();
        format!("containerd://{words}")
    }
}
