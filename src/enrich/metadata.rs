//! The part of every document that is the same for all lines of a stream, serialised once.
//!
//! Owns the names that Kubernetes and Flink facts get in a document. The document writer splices
//! the bytes in: [`Metadata::head`] are whole members, [`Metadata::flink`] are members of the
//! object `flink`, which it closes itself because the job's id is another for each line.
//! Guarantees valid JSON once embraced, sorted names, the same bytes for the same facts, and that
//! a fact that isn't known is left out. Members that differ from line to line (`stream`,
//! `logtag`, `time`, `log.offset`) are the writer's.

use std::collections::BTreeMap;

use serde::Serialize;

use super::facts::{ContainerFacts, PodFacts};
use super::flink::JobFacts;
use super::{flink, labels};
use crate::config::pipeline::DocumentForm;
use crate::discover::StreamName;

/// Longest cluster id that Flink's native mode accepts.
/// Source: apache/flink `flink-kubernetes/.../utils/Constants.java`
/// (`MAXIMUM_CHARACTERS_OF_CLUSTER_ID`).
const MAX_CLUSTER_ID: usize = 45;

/// Digits of a native TaskManager's attempt or index. The pod of a Deployment ends in a hash of 8
/// to 10 characters and one of 5, so that a name of digits alone can't be mistaken for its.
const MAX_COUNT_DIGITS: usize = 7;

/// Serialised members, without enclosing braces and without a comma at either end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Top-level members: `"kubernetes":{…}`, then by form `"kubernetes_namespace":{…}` or
    /// `"container":{…}` and `"log.file.path":"…"`. Never empty.
    pub head: Vec<u8>,
    /// Members of the object `flink`: `"component":"…","deployment":"…"` and
    /// `"taskmanager":{"id":"…"}` and the like as far as they are known; empty where the pod isn't
    /// Flink's. The writer owns the object `job`, so that a name beside it is dotted.
    pub flink: Vec<u8>,
    /// Further members of `flink` for lines of a job of a session cluster, by the job's id in
    /// lower-case hex digits: `"job.name":"…","job.state":"…"`. None is empty.
    pub jobs: BTreeMap<String, Vec<u8>>,
}

impl Metadata {
    /// The members for `stream`. `file` is the log file's path and enters the ecs form alone.
    /// `node_name` is the agent's own node, empty where it isn't known.
    pub fn new(
        form: DocumentForm,
        stream: &StreamName,
        file: Option<&str>,
        facts: Option<&PodFacts>,
        node_name: &str,
    ) -> Self {
        let known = Known::new(stream, facts, node_name);
        let head = match form {
            DocumentForm::Fluentd => members(&fluentd(&known)),
            DocumentForm::Ecs => members(&ecs(&known, file)),
        };
        Self { head, flink: members(&flink(stream, facts)), jobs: jobs(facts) }
    }
}

/// The first segments of top-level names that the agent owns in `form`, sorted. Members of `log`
/// belong to the application but for the exact names that the writer adds.
pub fn agent_names(form: DocumentForm) -> &'static [&'static str] {
    match form {
        DocumentForm::Fluentd => &[
            "application",
            "flink",
            "kubernetes",
            "kubernetes_namespace",
            "logtag",
            "splashdam",
            "stream",
            "time",
        ],
        DocumentForm::Ecs => {
            &["application", "container", "flink", "kubernetes", "splashdam", "stream"]
        }
    }
}

/// What both forms are made from.
struct Known<'a> {
    stream: &'a StreamName,
    facts: Option<&'a PodFacts>,
    container: Option<&'a ContainerFacts>,
    container_id: Option<&'a str>,
    node: Option<&'a str>,
    labels: BTreeMap<String, &'a str>,
}

impl<'a> Known<'a> {
    fn new(stream: &'a StreamName, facts: Option<&'a PodFacts>, node_name: &'a str) -> Self {
        let own_node = (!node_name.is_empty()).then_some(node_name);
        Self {
            stream,
            facts,
            container: facts.and_then(|facts| facts.containers.get(&stream.container)),
            container_id: facts
                .and_then(|facts| facts.container_id(&stream.container, stream.restart)),
            node: facts.and_then(|facts| facts.node.as_deref()).or(own_node),
            labels: facts.map(|facts| labels::for_document(&facts.labels)).unwrap_or_default(),
        }
    }

    /// The API server's UID; the directory's until that is known.
    fn uid(&self) -> &'a str {
        self.facts.map_or(&self.stream.uid, |facts| &facts.uid)
    }

    fn image(&self) -> Option<&'a str> {
        self.container?.image.as_deref()
    }
}

/// The names of fluent-bit's kubernetes filter, as the Logging operator switches it on.
/// Source: fluent/fluent-bit `plugins/filter_kubernetes/kube_meta.c`.
#[derive(Serialize)]
struct Fluentd<'a> {
    kubernetes: FluentdKubernetes<'a>,
    kubernetes_namespace: FluentdNamespace<'a>,
}

#[derive(Serialize)]
struct FluentdKubernetes<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    container_hash: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_image: Option<&'a str>,
    container_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    docker_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, &'a str>,
    namespace_name: &'a str,
    pod_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_ip: Option<&'a str>,
    pod_name: &'a str,
}

#[derive(Serialize)]
struct FluentdNamespace<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, &'a str>,
    name: &'a str,
}

fn fluentd<'a>(known: &'a Known<'a>) -> Fluentd<'a> {
    let namespace_labels = known.facts.and_then(|facts| facts.namespace_labels.as_ref());
    Fluentd {
        kubernetes: FluentdKubernetes {
            container_hash: known.container.and_then(|container| container.image_id.as_deref()),
            container_image: known.image(),
            container_name: &known.stream.container,
            docker_id: known.container_id,
            host: known.node,
            labels: &known.labels,
            namespace_name: &known.stream.namespace,
            pod_id: known.uid(),
            pod_ip: known.facts.and_then(|facts| facts.pod_ip.as_deref()),
            pod_name: &known.stream.pod,
        },
        kubernetes_namespace: FluentdNamespace {
            labels: namespace_labels.map(labels::for_document).unwrap_or_default(),
            name: &known.stream.namespace,
        },
    }
}

/// The names of the Elastic Common Schema and, for what it lacks, of Elastic's Kubernetes
/// integration.
#[derive(Serialize)]
struct Ecs<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<EcsContainer<'a>>,
    kubernetes: EcsKubernetes<'a>,
    #[serde(rename = "log.file.path", skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
}

#[derive(Serialize)]
struct EcsContainer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<Named<'a>>,
}

#[derive(Serialize)]
struct EcsKubernetes<'a> {
    container: Named<'a>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, &'a str>,
    namespace: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<Named<'a>>,
    pod: EcsPod<'a>,
}

#[derive(Serialize)]
struct EcsPod<'a> {
    name: &'a str,
    uid: &'a str,
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
}

fn ecs<'a>(known: &'a Known<'a>, file: Option<&'a str>) -> Ecs<'a> {
    let (id, image) = (known.container_id, known.image());
    let container = EcsContainer { id, image: image.map(|name| Named { name }) };
    Ecs {
        container: (id.is_some() || image.is_some()).then_some(container),
        kubernetes: EcsKubernetes {
            container: Named { name: &known.stream.container },
            labels: &known.labels,
            namespace: &known.stream.namespace,
            node: known.node.map(|name| Named { name }),
            pod: EcsPod { name: &known.stream.pod, uid: known.uid() },
        },
        file,
    }
}

#[derive(Serialize, Default)]
struct Flink<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    component: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment: Option<&'a str>,
    #[serde(flatten)]
    job: Job<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jobmanager: Option<Process<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    taskmanager: Option<Process<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
}

#[derive(Serialize, Default)]
struct Job<'a> {
    #[serde(rename = "job.name", skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(rename = "job.state", skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
}

impl<'a> Job<'a> {
    fn of(facts: &'a JobFacts) -> Self {
        Self { name: facts.name.as_deref(), state: facts.state.as_deref() }
    }
}

#[derive(Serialize)]
struct Process<'a> {
    id: &'a str,
}

/// What is known of the Flink process. Its id is the name of its pod: for a TaskManager the native
/// mode makes it Flink's own resource id (apache/flink `KubernetesResourceManagerDriver.java`); the
/// standalone mode's, an address with a random part, isn't to be had from outside. JobManagers,
/// which have no such id, are told apart by it where there are several.
fn flink<'a>(stream: &'a StreamName, facts: Option<&'a PodFacts>) -> Flink<'a> {
    let (component, deployment) = match facts {
        Some(facts) => flink::labels(&facts.labels),
        None => match native_cluster(&stream.pod) {
            Some(cluster) => (Some("taskmanager"), Some(cluster)),
            None => (None, None),
        },
    };
    let process = |kind| (component == Some(kind)).then_some(Process { id: &stream.pod });
    let told = facts.and_then(|facts| facts.flink.as_ref());
    Flink {
        component,
        deployment,
        job: told.map(|told| Job::of(&told.job)).unwrap_or_default(),
        jobmanager: process("jobmanager"),
        mode: told.and_then(|told| told.mode.as_deref()),
        taskmanager: process("taskmanager"),
        version: told.and_then(|told| told.version.as_deref()),
    }
}

fn jobs(facts: Option<&PodFacts>) -> BTreeMap<String, Vec<u8>> {
    let jobs = facts.and_then(|facts| facts.flink.as_ref()).map(|told| &told.jobs);
    (jobs.into_iter().flatten())
        .filter(|(_, job)| !job.is_empty())
        .map(|(id, job)| (id.clone(), members(&Job::of(job))))
        .collect()
}

/// The cluster of a pod named as the native mode names TaskManagers:
/// `<cluster>-taskmanager-<attempt>-<index>`. JobManagers are pods of a Deployment, whose names
/// tell nothing for certain.
fn native_cluster(pod: &str) -> Option<&str> {
    let (rest, index) = pod.rsplit_once('-')?;
    let (rest, attempt) = rest.rsplit_once('-')?;
    let cluster = rest.strip_suffix("-taskmanager")?;
    let counts = is_count(attempt) && is_count(index);
    (counts && !cluster.is_empty() && cluster.len() <= MAX_CLUSTER_ID).then_some(cluster)
}

fn is_count(text: &str) -> bool {
    (1..=MAX_COUNT_DIGITS).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && !text.starts_with('0')
}

/// The members of an object, without its braces.
fn members(object: &impl Serialize) -> Vec<u8> {
    let mut json = serde_json::to_vec(object).expect("text in structs and maps always serialises");
    json.pop();
    json.remove(0);
    json
}

#[cfg(test)]
mod tests;
