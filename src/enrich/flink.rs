//! What Flink's operator says of the clusters whose pods run here: trimmed objects and how they
//! become facts of pods. Pure.
//!
//! ```text
//! FlinkDeployment ─▶ Deployment ─┐
//!                                ├─▶ Clusters ─▶ FlinkFacts of a pod (label `app` = its name)
//! FlinkSessionJob ─▶ SessionJob ─┘
//! ```
//!
//! Best effort: nothing waits for these facts, no selection and no `_id` depends on them, and a
//! line that was shipped before they came lacks them. Guarantees that no more than
//! [`MAX_OBJECTS`] objects of each kind, [`MAX_JOBS`] jobs of a pod and [`MAX_CHARS`] characters of
//! a text are kept, and that of an object only the few fields below are ever in memory as values.
//! Does not talk to anybody and does not know who runs on this node.
//!
//! A deployment's specification is ahead of its pods: what it says of a pod's process is taken
//! when the pod is first seen and stays. Its status is behind them: a name follows it, and while
//! the operator doesn't know the job (`RECONCILING`) it may speak of the job before, so it counts
//! for nothing. Source: apache/flink-kubernetes-operator `ReconciliationUtils.java`,
//! `JobStatusObserver.java`.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::core::ObjectMeta;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::kept::Kept;
use super::state::Event;
use crate::parse::json::is_job_id;

/// Objects of each kind that are kept, of the whole Kubernetes cluster; what comes beyond it is
/// left out until others go.
pub const MAX_OBJECTS: usize = 4096;

/// Jobs of a session cluster that are kept with each of its pods.
pub const MAX_JOBS: usize = 256;

/// Characters of a text that are kept.
pub const MAX_CHARS: usize = 256;

/// The operator doesn't know the job's state.
const UNKNOWN_STATE: &str = "RECONCILING";

/// States of a job that has ended. A pod's own job hasn't at its start: where the operator deploys
/// another it makes the pods first, and then says so in the status.
/// Source: apache/flink-kubernetes-operator `ApplicationReconciler.deploy`; apache/flink `JobStatus`.
const LAST_STATES: [&str; 4] = ["FINISHED", "CANCELED", "FAILED", "SUSPENDED"];

/// What a specification without a mode means.
const DEFAULT_MODE: &str = "native";

/// What the operator says of a pod's Flink process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlinkFacts {
    /// Of Flink, as `1.20`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `native` or `standalone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The only job of an application cluster.
    #[serde(default, skip_serializing_if = "JobFacts::is_empty")]
    pub job: JobFacts,
    /// The jobs of a session cluster by id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub jobs: BTreeMap<String, JobFacts>,
}

/// What the operator says of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFacts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The first that was known to whoever keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

impl FlinkFacts {
    /// Takes over what `older` facts of the same pod hold on to.
    pub(super) fn inherit(&mut self, older: &Self) {
        self.version = older.version.clone().or_else(|| self.version.take());
        self.mode = older.mode.clone().or_else(|| self.mode.take());
        self.job.inherit(&older.job);
        for (id, before) in &older.jobs {
            if let Some(job) = self.jobs.get_mut(id) {
                job.inherit(before);
            } else if self.jobs.len() < MAX_JOBS {
                // It has ended, but its last lines may still be to be read.
                self.jobs.insert(id.clone(), before.clone());
            }
        }
    }
}

impl JobFacts {
    fn of(status: &JobStatus) -> Self {
        let known = status.state.as_deref() != Some(UNKNOWN_STATE);
        let text = |text: &Option<String>| text.as_deref().filter(|_| known).and_then(kept);
        let state = text(&status.state).filter(|state| !LAST_STATES.contains(&state.as_str()));
        Self { name: text(&status.job_name), state }
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.name.is_none() && self.state.is_none()
    }

    fn inherit(&mut self, older: &Self) {
        self.name = self.name.take().or_else(|| older.name.clone());
        self.state = older.state.clone().or_else(|| self.state.take());
    }
}

/// Component and cluster by the labels that Flink and its operator set; neither where the pod
/// isn't Flink's. Source: apache/flink `flink-kubernetes/.../utils/Constants.java`.
pub(super) fn labels(labels: &BTreeMap<String, String>) -> (Option<&str>, Option<&str>) {
    let label = |name| labels.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let component = label("component");
    let is_flink = label("type").is_some_and(|kind| kind.starts_with("flink-"))
        || matches!(component, Some("jobmanager" | "taskmanager"));
    if is_flink { (component, label("app")) } else { (None, None) }
}

/// A `FlinkDeployment`, as far as it is read: what isn't named here is passed over.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct FlinkDeployment {
    #[serde(default)]
    metadata: ObjectMeta,
    spec: Option<DeploymentSpec>,
    status: Option<Status>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeploymentSpec {
    flink_version: Option<String>,
    mode: Option<String>,
    /// There for an application cluster.
    job: Option<IgnoredAny>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    job_status: Option<JobStatus>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct JobStatus {
    job_id: Option<String>,
    job_name: Option<String>,
    state: Option<String>,
}

/// A `FlinkSessionJob`, as far as it is read.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct FlinkSessionJob {
    #[serde(default)]
    metadata: ObjectMeta,
    spec: Option<SessionJobSpec>,
    status: Option<Status>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SessionJobSpec {
    deployment_name: Option<String>,
}

/// Where the API server has one of the operator's kinds.
macro_rules! resource {
    ($kind:ident, $plural:literal) => {
        impl Resource for $kind {
            type DynamicType = ();
            type Scope = NamespaceResourceScope;

            fn kind((): &()) -> Cow<'_, str> {
                stringify!($kind).into()
            }

            fn group((): &()) -> Cow<'_, str> {
                "flink.apache.org".into()
            }

            fn version((): &()) -> Cow<'_, str> {
                "v1beta1".into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(FlinkDeployment, "flinkdeployments");
resource!(FlinkSessionJob, "flinksessionjobs");

/// Namespace and name of an object.
type Key = (String, String);

/// What is kept of a `FlinkDeployment`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Deployment {
    key: Key,
    version: Option<String>,
    mode: String,
    /// `None` for a session cluster.
    job: Option<JobFacts>,
}

impl Deployment {
    /// `None` without a name or a namespace, which no stored object lacks.
    pub(super) fn of(object: &FlinkDeployment) -> Option<Self> {
        let spec = object.spec.clone().unwrap_or_default();
        let status = object.status.as_ref().and_then(|status| status.job_status.as_ref());
        let job = spec.job.map(|_| status.map(JobFacts::of).unwrap_or_default());
        Some(Self {
            key: key(&object.metadata)?,
            version: spec.flink_version.as_deref().and_then(version),
            mode: spec.mode.as_deref().and_then(kept).unwrap_or_else(|| DEFAULT_MODE.to_owned()),
            job,
        })
    }

    pub(super) fn is_session(&self) -> bool {
        self.job.is_none()
    }
}

/// What is kept of a `FlinkSessionJob`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SessionJob {
    key: Key,
    /// The name of its cluster, in the same namespace.
    cluster: String,
    /// Its id, once it has one.
    id: Option<String>,
    job: JobFacts,
}

impl SessionJob {
    /// `None` without a name, a namespace or a cluster.
    pub(super) fn of(object: &FlinkSessionJob) -> Option<Self> {
        let status = object.status.as_ref().and_then(|status| status.job_status.as_ref());
        let id = status.and_then(|status| status.job_id.as_deref());
        let is_id = |id: &&str| is_job_id(id.as_bytes());
        Some(Self {
            key: key(&object.metadata)?,
            cluster: kept(object.spec.as_ref()?.deployment_name.as_deref()?)?,
            id: id.filter(is_id).map(str::to_ascii_lowercase),
            job: status.map(JobFacts::of).unwrap_or_default(),
        })
    }

    fn cluster(&self) -> Key {
        (self.key.0.clone(), self.cluster.clone())
    }
}

fn key(metadata: &ObjectMeta) -> Option<Key> {
    Some((metadata.namespace.clone()?, metadata.name.clone()?))
}

/// `v1_20` as people write it; anything else as it is.
fn version(text: &str) -> Option<String> {
    let text = kept(text)?;
    let number =
        text.strip_prefix('v').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    Some(number.map_or_else(|| text.clone(), |number| number.replace('_', ".")))
}

/// As much of a text as is kept; `None` of an empty one.
fn kept(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.chars().take(MAX_CHARS).collect())
}

/// Everything that the operator says.
#[derive(Debug, Default)]
pub(super) struct Clusters {
    deployments: Kept<Key, Deployment, MAX_OBJECTS>,
    jobs: Kept<Key, SessionJob, MAX_OBJECTS>,
}

impl Clusters {
    /// Follows an event; returns the clusters of which something else is known now.
    pub(super) fn apply_deployment(&mut self, event: Event<Deployment>) -> BTreeSet<Key> {
        let changed = self.deployments.apply(event, |deployment| &deployment.key);
        changed.into_iter().map(|deployment| deployment.key).collect()
    }

    /// The same for the jobs of session clusters.
    pub(super) fn apply_job(&mut self, event: Event<SessionJob>) -> BTreeSet<Key> {
        let changed = self.jobs.apply(event, |job| &job.key);
        changed.iter().map(SessionJob::cluster).collect()
    }

    /// What is known of the cluster of a pod with these labels.
    pub(super) fn facts(
        &self,
        namespace: &str,
        pod_labels: &BTreeMap<String, String>,
    ) -> Option<FlinkFacts> {
        if self.deployments.objects.is_empty() {
            return None;
        }
        let cluster = (namespace.to_owned(), labels(pod_labels).1?.to_owned());
        let deployment = self.deployments.objects.get(&cluster)?;
        let jobs = match deployment.job {
            Some(_) => BTreeMap::new(),
            None => self.jobs_of(&cluster),
        };
        Some(FlinkFacts {
            version: deployment.version.clone(),
            mode: Some(deployment.mode.clone()),
            job: deployment.job.clone().unwrap_or_default(),
            jobs,
        })
    }

    fn jobs_of(&self, cluster: &Key) -> BTreeMap<String, JobFacts> {
        let first = (cluster.0.clone(), String::new());
        (self.jobs.objects.range(first..))
            .take_while(|((namespace, _), _)| *namespace == cluster.0)
            .filter(|(_, job)| job.cluster == cluster.1 && !job.job.is_empty())
            .filter_map(|(_, job)| Some((job.id.clone()?, job.job.clone())))
            .take(MAX_JOBS)
            .collect()
    }
}

#[cfg(test)]
pub(super) mod tests;
