//! Pods from the API server: one watch of this node's pods, and one of namespaces where needed; of
//! Flink's operator, if that is wanted, what it says of clusters.
//!
//! A start waits up to [`START_SPREAD_MS`], another at each node, so that the agents of a large
//! cluster don't come together. `watch` has how lists and watches go, `trouble` decides what comes
//! of errors, `link` makes the clients and `page` reads plain lists.
//!
//! Needs `list` and `watch` on pods, and on namespaces where a pipeline selects by their labels.
//! `FlinkDeployment`s are watched once a pod of Flink's has been seen here, `FlinkSessionJob`s once a
//! session cluster has; where the API server doesn't have these kinds it is asked again after
//! [`watch::ABSENT_PAUSE`]. Only this file and those below it talk to the API server; how events
//! change what is known is not decided here.

mod link;
mod page;
mod trouble;
mod watch;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::warn;

use self::link::Link;
use self::watch::{Query, WATCH_SECONDS, Watch};
use super::facts::PodFacts;
use super::flink::{self, Deployment, FlinkDeployment, FlinkSessionJob, SessionJob};
use super::labels;
use super::state::{Event, NamespaceFacts};
use super::store::PodStore;
use crate::config::agent::FlinkWatch;

/// The agents of a cluster that begin at once ask for their first lists within this time.
const START_SPREAD_MS: u64 = 1000;
/// Objects of the operator's in a page of a list.
const PAGE: u32 = 50;

/// Watches the pods of `node_name` into `store`, and namespaces too if
/// [`PodStore::require_namespaces`] was called before; with `flink` also what Flink's operator says
/// of clusters. Runs until aborted. The API server and the credentials come from `KUBECONFIG`, else
/// from the pod's service account.
///
/// # Panics
/// Outside of a tokio runtime with time and IO.
pub fn start(store: Arc<PodStore>, node_name: String, flink: FlinkWatch) -> JoinHandle<()> {
    tokio::spawn(async move {
        sleep(start_delay(&node_name)).await;
        let link = Link::open(link::environment()).await;
        watch_all(link, &store, &node_name, flink).await;
    })
}

async fn watch_all(link: Link, store: &PodStore, node_name: &str, flink: FlinkWatch) {
    let flink_pod = Notify::new();
    let namespaces = async {
        if store.needs_namespaces() {
            watch_namespaces(link.clone(), store, node_name).await;
        }
    };
    let clusters = async {
        if flink == FlinkWatch::Watch {
            flink_pod.notified().await;
            watch_flink(link.clone(), store, node_name).await;
        }
    };
    let pods = watch_pods(link.clone(), store, node_name, &flink_pod);
    tokio::join!(pods, namespaces, clusters);
}

/// Follows the pods of this node; tells `flink_pod` when one is Flink's.
async fn watch_pods(link: Link, store: &PodStore, node_name: &str, flink_pod: &Notify) {
    let fields = Some(format!("spec.nodeName={node_name}"));
    let watch = Watch::new(link, Query { fields, ..query("pods", node_name) });
    let apply = |event: Event<PodFacts>| {
        if let Event::Found(facts) | Event::Changed(facts) = &event
            && flink::labels(&facts.labels).1.is_some()
        {
            flink_pod.notify_one();
        }
        store.apply_pod(event);
    };
    watch.follow(PodFacts::of, apply).await;
}

async fn watch_namespaces(link: Link, store: &PodStore, node_name: &str) {
    let watch = Watch::new(link, query("namespaces", node_name));
    watch.follow(NamespaceFacts::of, |event| store.apply_namespace(event)).await;
}

/// Follows what Flink's operator says: of all clusters, because the API server can't choose among
/// the operator's objects by what their pods are on.
async fn watch_flink(link: Link, store: &PodStore, node_name: &str) {
    let session = Notify::new();
    let excess = [Excess::default(), Excess::default()];
    // Where lists aren't streamed, one of the whole cluster's large objects has to come in pages.
    let query = |what| Query { optional: true, page: Some(PAGE), ..query(what, node_name) };
    let deployments = async {
        let query = query("flinkdeployments");
        let what = query.what;
        let apply = |event: Event<Deployment>| {
            if let Event::Found(deployment) | Event::Changed(deployment) = &event
                && deployment.is_session()
            {
                session.notify_one();
            }
            excess[0].say(&event, what);
            store.apply_deployment(event);
        };
        let watch = Watch::new(link.clone(), query);
        watch.follow::<FlinkDeployment, _>(Deployment::of, apply).await;
    };
    let jobs = async {
        session.notified().await;
        let query = query("flinksessionjobs");
        let what = query.what;
        let apply = |event| {
            excess[1].say(&event, what);
            store.apply_session_job(event);
        };
        let watch = Watch::new(link.clone(), query);
        watch.follow::<FlinkSessionJob, _>(SessionJob::of, apply).await;
    };
    tokio::join!(deployments, jobs);
}

/// Counts the objects of a list, of which not all may be kept.
#[derive(Debug, Default)]
struct Excess(AtomicUsize);

impl Excess {
    /// Says once for each list that there are more than are kept; whether it did.
    fn say<T>(&self, event: &Event<T>, what: &'static str) -> bool {
        match event {
            Event::Init => self.0.store(0, Ordering::Relaxed),
            Event::Found(_) if self.0.fetch_add(1, Ordering::Relaxed) == flink::MAX_OBJECTS => {
                let most = flink::MAX_OBJECTS;
                warn!(
                    most,
                    "there are more {what} than are kept; documents of the others go without"
                );
                return true;
            }
            _ => {}
        }
        false
    }
}

impl NamespaceFacts {
    /// What is kept of `namespace`; `None` without a name, which no stored namespace lacks.
    pub(super) fn of(namespace: &Namespace) -> Option<Self> {
        let metadata = &namespace.metadata;
        Some(Self { name: metadata.name.clone()?, labels: labels::kept(metadata) })
    }
}

/// A number below `limit` that differs from node to node.
fn of_node(node_name: &str, limit: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    node_name.hash(&mut hasher);
    hasher.finish() % limit
}

/// How long an agent waits before it asks for the first time.
fn start_delay(node_name: &str) -> Duration {
    Duration::from_millis(of_node(node_name, START_SPREAD_MS))
}

/// What all watches have in common. No page size: pages come from etcd instead of the API server's
/// cache, and the list of one node's pods is short.
fn query(what: &'static str, node_name: &str) -> Query {
    let spread = u64::from(WATCH_SECONDS.end - WATCH_SECONDS.start);
    let extra = u32::try_from(of_node(node_name, spread)).unwrap_or(0);
    let seconds = WATCH_SECONDS.start + extra;
    Query { what, optional: false, fields: None, page: None, seconds }
}

#[cfg(test)]
mod tests;
