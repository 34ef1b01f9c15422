//! Pods from the API server: one watch of this node's pods, and one of namespaces where needed; of
//! Flink's operator, if that is wanted, what it says of clusters.
//!
//! The first list is streamed object by object (`sendInitialEvents`, Kubernetes 1.32 and later by
//! default); a server that refuses that is asked for a plain list. Both are served from the API
//! server's cache (resource version 0). After a broken connection the watch resumes where it was,
//! by the last object or bookmark; only a resource version that has expired, in a running watch or
//! at its beginning, brings a new list. Each object is trimmed to its facts as it comes.
//!
//! Errors never end the watch: they put the store out of sync, are said once a minute and retried
//! for ever, 1 s to [`LONGEST_PAUSE`] apart with as much jitter again. A list that breaks off or
//! falls silent counts as one. A start waits up to [`START_SPREAD_MS`], another at each node, so that
//! the agents of a large cluster don't come together. Credentials that were refused are read anew before
//! the next attempt, which then begins with a list.
//!
//! Needs `list` and `watch` on pods, and on namespaces where a pipeline selects by their labels.
//! `FlinkDeployment`s are watched once a pod of Flink's has been seen here, `FlinkSessionJob`s once a
//! session cluster has; where the API server doesn't have these kinds it is asked again after
//! [`ABSENT_PAUSE`]. The only file that talks to the API server; how events change what is known is
//! not decided here.

use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::core::Status;
use kube::runtime::watcher::{self, InitialListStrategy, ListSemantic, watcher};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::facts::PodFacts;
use super::flink::{self, Deployment, FlinkDeployment, FlinkSessionJob, SessionJob};
use super::state::{Event, NamespaceFacts};
use super::store::PodStore;
use super::throttle::Throttle;
use crate::config::agent::FlinkWatch;

/// The first pause after an error.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between attempts, before jitter.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The agents of a cluster that begin at once ask for their first lists within this time.
const START_SPREAD_MS: u64 = 1000;
/// The pause, before jitter, where the API server doesn't have a kind that need not be there.
const ABSENT_PAUSE: Duration = Duration::from_secs(300);
/// Objects of the operator's in a page of a list.
const PAGE: u32 = 50;
/// A connection that isn't there after this has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An attempt that brought no error for this long is taken to have succeeded: a quiet node's
/// watch says nothing when it resumes.
const SETTLED: Duration = Duration::from_secs(10);
/// A list that says nothing for so long has failed: the API server ends requests after 60 s.
const LIST_SILENCE: Duration = Duration::from_secs(70);
/// How long one watch request lasts, in seconds; agents differ within this range, so that a
/// restart of the API server doesn't align them for ever. kube takes a watch that is silent for
/// longer than it asked for as dead.
const WATCH_SECONDS: std::ops::Range<u32> = 230..290;

type Events<K> = Pin<Box<dyn Stream<Item = watcher::Result<watcher::Event<K>>> + Send>>;

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
        watch_all(connect().await, &store, &node_name, flink).await;
    })
}

async fn watch_all(client: Client, store: &PodStore, node_name: &str, flink: FlinkWatch) {
    let flink_pod = Notify::new();
    let namespaces = async {
        if store.needs_namespaces() {
            watch_namespaces(client.clone(), store, node_name).await;
        }
    };
    let clusters = async {
        if flink == FlinkWatch::Watch {
            flink_pod.notified().await;
            watch_flink(client.clone(), store, node_name).await;
        }
    };
    let pods = watch_pods(client.clone(), store, node_name, &flink_pod);
    tokio::join!(pods, namespaces, clusters);
}

/// Follows the pods of this node; tells `flink_pod` when one is Flink's.
async fn watch_pods(client: Client, store: &PodStore, node_name: &str, flink_pod: &Notify) {
    let mut config = base_config(node_name);
    config.field_selector = Some(format!("spec.nodeName={node_name}"));
    let watch = Watch { api: Api::<Pod>::all(client), what: "pods", optional: false, config };
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

async fn watch_namespaces(client: Client, store: &PodStore, node_name: &str) {
    let config = base_config(node_name);
    let api = Api::<Namespace>::all(client);
    let watch = Watch { api, what: "namespaces", optional: false, config };
    watch.follow(NamespaceFacts::of, |event| store.apply_namespace(event)).await;
}

/// Follows what Flink's operator says: of all clusters, because the API server can't choose among
/// the operator's objects by what their pods are on.
async fn watch_flink(client: Client, store: &PodStore, node_name: &str) {
    let session = Notify::new();
    let excess = [Excess::default(), Excess::default()];
    // Where lists aren't streamed, one of the whole cluster's large objects has to come in pages.
    let config = watcher::Config { page_size: Some(PAGE), ..base_config(node_name) };
    let deployments = Watch {
        api: Api::<FlinkDeployment>::all(client.clone()),
        what: "flinkdeployments",
        optional: true,
        config: config.clone(),
    };
    let apply = |event: Event<Deployment>| {
        if let Event::Found(deployment) | Event::Changed(deployment) = &event
            && deployment.is_session()
        {
            session.notify_one();
        }
        excess[0].say(&event, "flinkdeployments");
        store.apply_deployment(event);
    };
    let jobs = async {
        session.notified().await;
        let watch = Watch {
            api: Api::<FlinkSessionJob>::all(client),
            what: "flinksessionjobs",
            optional: true,
            config,
        };
        let apply = |event| {
            excess[1].say(&event, "flinksessionjobs");
            store.apply_session_job(event);
        };
        watch.follow(SessionJob::of, apply).await;
    };
    tokio::join!(deployments.follow(Deployment::of, apply), jobs);
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
        let labels = metadata.labels.clone().unwrap_or_default();
        Some(Self { name: metadata.name.clone()?, labels })
    }
}

/// Tries until there is a client; that needs files and settings, not the API server.
async fn connect() -> Client {
    let (mut pauses, mut throttle) = (backoff(), Throttle::default());
    loop {
        let error: Box<dyn std::error::Error + Send + Sync> = match Config::infer().await {
            Ok(config) => match client(config) {
                Ok(client) => return client,
                Err(error) => error.into(),
            },
            Err(error) => error.into(),
        };
        if throttle.lets_through(Instant::now().into_std()) {
            warn!(error, "no way to the API server: neither KUBECONFIG nor a service account");
        }
        sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
    }
}

fn client(mut config: Config) -> kube::Result<Client> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // A watch may be silent for as long as it was asked for, and a broken connection for ever.
    config.read_timeout = Some(Duration::from_secs(u64::from(WATCH_SECONDS.end) + 10));
    config.reset_reader_on_write = true;
    // Retrying is done here, where an error also puts the store out of sync.
    config.default_retry = false;
    Client::try_from(config)
}

/// One kind of object that is followed.
struct Watch<K> {
    api: Api<K>,
    /// The resource's plural, for messages.
    what: &'static str,
    /// The API server need not have the kind.
    optional: bool,
    config: watcher::Config,
}

impl<K> Watch<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default,
{
    /// Hands each event to `apply`, objects trimmed by `trim`. Never ends.
    async fn follow<T>(mut self, trim: fn(&K) -> Option<T>, apply: impl Fn(Event<T>)) {
        let mut events = self.events();
        let mut contact = Contact::default();
        loop {
            match contact.next(&mut events).await {
                Next::Quiet => {
                    debug!(watch = self.what, "the API server is reached again");
                    contact.restored();
                    apply(Event::InSync);
                }
                Next::Event(event) => {
                    if contact.broke_off(&event) {
                        debug!(watch = self.what, "a list broke off, beginning another");
                        apply(Event::OutOfSync);
                        contact.pause().await;
                    }
                    contact.note(&event);
                    if let Some(event) = trimmed(event, trim) {
                        apply(event);
                    }
                }
                Next::Error(error) if self.is_streaming() && refuses_streaming(&error) => {
                    debug!(
                        watch = self.what,
                        error = reason(&error).text,
                        "no streamed list, asking for a plain one"
                    );
                    self.config.initial_list_strategy = InitialListStrategy::ListWatch;
                    events = self.events();
                }
                Next::Stalled => {
                    apply(Event::OutOfSync);
                    if contact.throttle.lets_through(Instant::now().into_std()) {
                        warn!("the API server does not go on with its list of {}", self.what);
                    }
                    contact.pause().await;
                    events = self.events();
                }
                Next::Error(error) if self.optional && is_absent(&error) => {
                    apply(Event::OutOfSync);
                    debug!(watch = self.what, "the API server doesn't have this kind");
                    contact.listing = false;
                    sleep(absent_pause()).await;
                }
                Next::Error(error) => {
                    apply(Event::OutOfSync);
                    if contact.throttle.lets_through(Instant::now().into_std()) {
                        self.complain(&error);
                    }
                    contact.pause().await;
                    let is_refused = reason(&error).code == Some(401);
                    if is_refused {
                        // kube reads a kubeconfig once, and a token's file at most once a minute.
                        self.api = Api::all(connect().await);
                    }
                    if is_refused || is_expired(&error) {
                        events = self.events();
                    }
                }
                Next::End => events = self.events(),
            }
        }
    }

    fn events(&self) -> Events<K> {
        Box::pin(watcher(self.api.clone(), self.config.clone()))
    }

    fn is_streaming(&self) -> bool {
        self.config.initial_list_strategy == InitialListStrategy::StreamingList
    }

    fn complain(&self, error: &watcher::Error) {
        let (what, error) = (self.what, reason(error));
        let missing = if matches!(error.code, Some(401 | 403)) {
            "; the agent's service account needs list and watch on them"
        } else {
            ""
        };
        warn!(error = error.text, "watching {what} failed, trying again{missing}");
    }
}

/// What an error comes down to.
struct Reason {
    code: Option<u16>,
    text: String,
}

/// The API server's own words, or else the whole chain of causes.
fn reason(error: &watcher::Error) -> Reason {
    if let Some(status) = status(error) {
        return Reason { code: Some(status.code), text: status.message.clone() };
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    Reason { code: None, text }
}

/// What comes of waiting for a watch.
enum Next<K> {
    Event(watcher::Event<K>),
    Error(watcher::Error),
    /// A list went on for a whole [`LIST_SILENCE`] without a word.
    Stalled,
    /// After an error a whole [`SETTLED`] went by without another one.
    Quiet,
    End,
}

/// Whether the API server is reached, and how patient to be while it isn't.
#[derive(Default)]
struct Contact {
    /// A list is complete, so that silence is no sign of a list that hangs.
    listed: bool,
    /// A list has begun and nothing has gone wrong since.
    listing: bool,
    /// The pauses still to come; there from an error until contact is proven again.
    pauses: Option<ExponentialBackoff>,
    throttle: Throttle,
}

impl Contact {
    /// Dropping a wait for the next event loses nothing: what was begun stays in `events`.
    async fn next<K>(&self, events: &mut Events<K>) -> Next<K> {
        let next = match (self.listed, &self.pauses) {
            (false, _) => timeout(LIST_SILENCE, events.next()).await.map_err(|_| Next::Stalled),
            (true, Some(_)) => timeout(SETTLED, events.next()).await.map_err(|_| Next::Quiet),
            (true, None) => Ok(events.next().await),
        };
        match next {
            Ok(Some(Ok(event))) => Next::Event(event),
            Ok(Some(Err(error))) => Next::Error(error),
            Ok(None) => Next::End,
            Err(silence) => silence,
        }
    }

    /// Whether a list begins while another has not come to its end: the server ended that without
    /// an error, and would be asked again at once.
    fn broke_off<K>(&self, event: &watcher::Event<K>) -> bool {
        self.listing && matches!(event, watcher::Event::Init)
    }

    /// An `Init` comes before anything was asked, and part of a list may be all that comes.
    fn note<K>(&mut self, event: &watcher::Event<K>) {
        match event {
            watcher::Event::Init => (self.listed, self.listing) = (false, true),
            watcher::Event::InitApply(_) => {}
            watcher::Event::InitDone | watcher::Event::Apply(_) | watcher::Event::Delete(_) => {
                (self.listed, self.listing) = (true, false);
                self.restored();
            }
        }
    }

    fn restored(&mut self) {
        self.pauses = None;
    }

    async fn pause(&mut self) {
        self.listing = false;
        let pauses = self.pauses.get_or_insert_with(backoff);
        sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
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

/// What all watches have in common. No page size: kube asks for pages only from etcd, and the
/// list of one node's pods is short.
fn base_config(node_name: &str) -> watcher::Config {
    let spread = u64::from(WATCH_SECONDS.end - WATCH_SECONDS.start);
    let extra = u32::try_from(of_node(node_name, spread)).unwrap_or(0);
    watcher::Config {
        timeout: Some(WATCH_SECONDS.start + extra),
        list_semantic: ListSemantic::Any,
        initial_list_strategy: InitialListStrategy::StreamingList,
        page_size: None,
        bookmarks: true,
        ..watcher::Config::default()
    }
}

fn backoff() -> ExponentialBackoff {
    pauses(SHORTEST_PAUSE, LONGEST_PAUSE)
}

/// [`ABSENT_PAUSE`] with as much jitter again at most.
fn absent_pause() -> Duration {
    pauses(ABSENT_PAUSE, ABSENT_PAUSE).next().unwrap_or(ABSENT_PAUSE)
}

/// From the shortest to the longest, each with as much jitter again at most; they never end.
fn pauses(shortest: Duration, longest: Duration) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(shortest)
        .with_max_delay(longest)
        .without_max_times()
        .with_jitter()
        .build()
}

/// The same event about facts; `None` for an object that can't be told from others.
fn trimmed<K, T>(event: watcher::Event<K>, trim: fn(&K) -> Option<T>) -> Option<Event<T>> {
    Some(match event {
        watcher::Event::Init => Event::Init,
        watcher::Event::InitApply(object) => Event::Found(trim(&object)?),
        watcher::Event::InitDone => Event::InitDone,
        watcher::Event::Apply(object) => Event::Changed(trim(&object)?),
        watcher::Event::Delete(object) => Event::Deleted(trim(&object)?),
    })
}

/// A server that doesn't know `sendInitialEvents`, or has it switched off, says that the request
/// is invalid.
/// Source: kubernetes/kubernetes `apimachinery/pkg/apis/meta/internalversion/validation`.
fn refuses_streaming(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(_))
        && status(error).is_some_and(|status| matches!(status.code, 400 | 422))
}

/// Whether a watch can't be resumed where it was and has to begin with a new list. What comes in
/// the stream of a watch kube sees to itself; what is answered to the request would be asked for
/// again and again.
fn is_expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(_))
        && status(error).is_some_and(|status| matches!(status.code, 400 | 410 | 422))
}

/// Whether the API server doesn't have the kind that was asked for.
fn is_absent(error: &watcher::Error) -> bool {
    status(error).is_some_and(|status| status.code == 404)
}

fn status(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
