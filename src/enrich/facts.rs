//! What is kept of a pod: the few facts that selection and documents need.
//!
//! Guarantees that no fact is empty text (label values aside), that a container id belongs to the
//! restart that it is filed under, and that two facts differ only where a document, a selection or
//! the end of a stream can differ. Serialisable, so that the facts of a pod that has gone survive
//! a restart of the agent. Does not decide which pod a stream belongs to beyond
//! [`PodFacts::owns`], and knows nothing of where pods come from.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodSpec, PodStatus};
use serde::{Deserialize, Serialize};

use super::flink::FlinkFacts;
use super::labels;
use crate::discover::StreamName;

/// Container ids that are remembered per container; the lowest restarts are forgotten first. The
/// kubelet keeps the logs of far fewer runs (`maxPerPodContainerCount`, by default 1 dead one).
pub const MAX_IDS: usize = 8;

/// A directory's name can't be longer, and the kubelet's hashes have 32 bytes; annotations have no limit.
const MAX_HASH_BYTES: usize = 255;

/// Where the kubelet says what it calls a static pod.
/// Source: kubernetes/kubernetes `pkg/kubelet/types/pod_update.go`, `pkg/kubelet/config/common.go`
/// (the hash annotation is the UID that the kubelet uses in paths, also where a manifest sets it).
const CONFIG_HASH: &str = "kubernetes.io/config.hash";
const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";

/// The facts of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodFacts {
    pub namespace: String,
    pub name: String,
    /// The UID that the API server gave. A static pod's directory is named by `config_hash`.
    pub uid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_hash: Option<String>,
    /// The kubelet made this pod from a manifest of its own.
    #[serde(default)]
    pub is_static: bool,
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_ip: Option<String>,
    /// Init and ephemeral containers included, by name.
    pub containers: BTreeMap<String, ContainerFacts>,
    /// `None` while unknown, which is for ever where no pipeline needs them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_labels: Option<BTreeMap<String, String>>,
    /// What Flink's operator says; `None` where it isn't asked, or says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flink: Option<FlinkFacts>,
}

/// The facts of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerFacts {
    /// As the runtime resolved it, else as the pod's specification names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The image's digest reference without a `docker-pullable://` in front.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// Container ids by restart, without the runtime's `containerd://` in front.
    #[serde(default)]
    pub ids: BTreeMap<u32, String>,
    /// The latest run that the pod's status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<u32>,
    /// The latest run has ended.
    #[serde(default)]
    pub ended: bool,
}

impl PodFacts {
    /// What `pod` says; `None` without a name, a namespace or a UID, which no stored pod lacks.
    pub fn of(pod: &Pod) -> Option<Self> {
        let annotation = |name| {
            pod.metadata.annotations.as_ref().and_then(|all| all.get(name)).and_then(|v| filled(v))
        };
        let config_hash = (annotation(CONFIG_HASH).or_else(|| annotation(CONFIG_MIRROR)))
            .filter(|hash| hash.len() <= MAX_HASH_BYTES);
        let from_manifest = annotation(CONFIG_SOURCE).is_some_and(|source| source != "api");
        let status = pod.status.as_ref();
        Some(Self {
            namespace: filled(pod.metadata.namespace.as_deref()?)?,
            name: filled(pod.metadata.name.as_deref()?)?,
            uid: filled(pod.metadata.uid.as_deref()?)?,
            is_static: from_manifest || annotation(CONFIG_MIRROR).is_some(),
            config_hash,
            labels: labels::kept(&pod.metadata),
            node: pod.spec.as_ref().and_then(|spec| filled(spec.node_name.as_deref()?)),
            pod_ip: status.and_then(|status| filled(status.pod_ip.as_deref()?)),
            containers: containers(pod.spec.as_ref(), status),
            namespace_labels: None,
            flink: None,
        })
    }

    /// Whether `stream` is a container run of this pod: by UID, or by namespace and name together with
    /// the config hash, which only a static pod may lack.
    pub fn owns(&self, stream: &StreamName) -> bool {
        let named = match &self.config_hash {
            Some(hash) => *hash == stream.uid,
            None => self.is_static,
        };
        self.uid == stream.uid
            || (named && self.namespace == stream.namespace && self.name == stream.pod)
    }

    /// A static pod without a hash, which nothing but its name leads to.
    pub(super) fn is_known_by_name(&self) -> bool {
        self.is_static && self.config_hash.is_none()
    }

    /// The id of the container of exactly this run.
    pub fn container_id(&self, container: &str, restart: u32) -> Option<&str> {
        self.containers.get(container)?.ids.get(&restart).map(String::as_str)
    }

    /// Whether the pod's status speaks of this run, or of a later one. Of a container that is being
    /// created it tells a count already, and neither its id nor the pod's address.
    pub fn tells_of(&self, container: &str, restart: u32) -> bool {
        self.containers.get(container).is_some_and(|facts| {
            facts.ids.contains_key(&restart) || facts.restart.is_some_and(|latest| restart < latest)
        })
    }

    /// Whether the pod's status proves that this run writes nothing more. `false` also while
    /// nothing is known.
    pub fn has_ended(&self, container: &str, restart: u32) -> bool {
        let Some(facts) = self.containers.get(container) else { return false };
        match facts.restart {
            Some(latest) => restart < latest || (restart == latest && facts.ended),
            None => false,
        }
    }

    /// Takes over what `older` facts of the same pod knew and a later status no longer tells.
    pub(super) fn inherit(&mut self, older: &Self) {
        self.namespace_labels =
            self.namespace_labels.take().or_else(|| older.namespace_labels.clone());
        match (&mut self.flink, &older.flink) {
            (Some(flink), Some(older)) => flink.inherit(older),
            (flink @ None, Some(older)) => *flink = Some(older.clone()),
            (_, None) => {}
        }
        self.node = self.node.take().or_else(|| older.node.clone());
        // A pod that is being deleted may have lost its address already; its lines keep it.
        self.pod_ip = self.pod_ip.take().or_else(|| older.pod_ip.clone());
        for (name, before) in &older.containers {
            self.containers.entry(name.clone()).or_default().inherit(before);
        }
    }
}

impl ContainerFacts {
    fn inherit(&mut self, older: &Self) {
        self.image = self.image.take().or_else(|| older.image.clone());
        self.image_id = self.image_id.take().or_else(|| older.image_id.clone());
        if self.restart.is_none() {
            (self.restart, self.ended) = (older.restart, older.ended);
        } else if self.is_same_run(older) {
            self.ended |= older.ended;
        }
        for (restart, id) in &older.ids {
            // Beyond the latest run only where the kubelet lost its count: those are stale.
            if *restart <= self.latest() {
                self.ids.entry(*restart).or_insert_with(|| id.clone());
            }
        }
        while self.ids.len() > MAX_IDS {
            self.ids.pop_first();
        }
    }

    /// The same count with another id is another run: a kubelet that lost its state counts anew.
    fn is_same_run(&self, older: &Self) -> bool {
        let (now, before) = (self.ids.get(&self.latest()), older.ids.get(&older.latest()));
        self.restart == older.restart && (now.is_none() || now == before)
    }

    fn latest(&self) -> u32 {
        self.restart.unwrap_or(u32::MAX)
    }

    /// Files the ids of `status` under their restarts.
    ///
    /// A container that waits to be started again (`CrashLoopBackOff`) still shows the id and the
    /// count of the run that ended, with that same run as its last state; a running one shows the
    /// run before as its last state.
    /// Source: kubernetes/kubernetes `pkg/kubelet/kubelet_pods.go` (`convertToAPIContainerStatuses`).
    fn take_status(&mut self, status: &ContainerStatus) {
        self.image = filled(&status.image).or_else(|| self.image.take());
        self.image_id = without_scheme(&status.image_id);
        let restart = u32::try_from(status.restart_count).unwrap_or(0);
        self.restart = Some(restart);
        let state = status.state.as_ref();
        let terminated = state.and_then(|state| state.terminated.as_ref());
        let current = (status.container_id.as_deref())
            .or_else(|| terminated?.container_id.as_deref())
            .and_then(without_scheme);
        let last = (status.last_state.as_ref())
            .and_then(|state| without_scheme(state.terminated.as_ref()?.container_id.as_deref()?));
        self.ended = terminated.is_some() || (last.is_some() && last == current);
        match (last, restart.checked_sub(1)) {
            (Some(last), Some(before)) if current.is_some() && current.as_ref() != Some(&last) => {
                self.ids.insert(before, last);
            }
            _ => {}
        }
        if let Some(current) = current {
            self.ids.insert(restart, current);
        }
    }
}

fn containers(
    spec: Option<&PodSpec>,
    status: Option<&PodStatus>,
) -> BTreeMap<String, ContainerFacts> {
    let mut all = BTreeMap::new();
    let mut declare = |name: &str, image: Option<&str>| {
        let facts = ContainerFacts { image: image.and_then(filled), ..Default::default() };
        all.insert(name.to_owned(), facts);
    };
    if let Some(spec) = spec {
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            declare(&container.name, container.image.as_deref());
        }
        for container in spec.ephemeral_containers.iter().flatten() {
            declare(&container.name, container.image.as_deref());
        }
    }
    if let Some(status) = status {
        let statuses = (status.container_statuses.iter())
            .chain(&status.init_container_statuses)
            .chain(&status.ephemeral_container_statuses);
        for status in statuses.flatten() {
            all.entry(status.name.clone()).or_default().take_status(status);
        }
    }
    all
}

fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// `containerd://<id>` without the runtime's name, `docker-pullable://<image>` likewise.
fn without_scheme(text: &str) -> Option<String> {
    filled(text.split_once("://").map_or(text, |(_, rest)| rest))
}

#[cfg(test)]
pub(super) mod tests;
