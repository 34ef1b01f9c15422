//! Pods from the API server: one watch of this node's pods, and one of namespaces where needed; of
//! Flink's operator, if that is wanted, what it says of clusters.
//!
//! The first list is streamed object by object (`sendInitialEvents`, Kubernetes 1.32 and later by
//! default); a server that refuses that is asked for a plain list. Both are served from the API
//! server's cache (resource version 0). After a broken connection the watch resumes where it was;
//! only an expired resource version brings a new list. Each object is trimmed to its facts as it
//! comes. Errors never end the watch: they put the store out of sync, are said once a minute and
//! retried for ever, 1 s to [`LONGEST_PAUSE`] apart with as much jitter again, so that the agents
//! of a large cluster don't come back together. Needs `list` and `watch` on pods, and on
//! namespaces where a pipeline selects by their labels. `FlinkDeployment`s are watched once a pod of
//! Flink's has been seen here, `FlinkSessionJob`s once a session cluster has; where the API server
//! doesn't have these kinds it is asked again after [`ABSENT_PAUSE`]. The only file that talks to the API
//! server; how events change what is known is not decided here.

use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
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
/// The pause, before jitter, where the API server doesn't have a kind that need not be there.
const ABSENT_PAUSE: Duration = Duration::from_secs(300);
/// A connection that isn't there after this has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An attempt that brought no error for this long is taken to have succeeded: a quiet node's
/// watch says nothing when it resumes.
const SETTLED: Duration = Duration::from_secs(10);
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
        let client = connect().await;
        let flink_pod = Notify::new();
        let namespaces = async {
            if store.needs_namespaces() {
                watch_namespaces(client.clone(), &store, &node_name).await;
            }
        };
        let clusters = async {
            if flink == FlinkWatch::Watch {
                flink_pod.notified().await;
                watch_flink(client.clone(), &store, &node_name).await;
            }
        };
        let pods = watch_pods(client.clone(), &store, &node_name, &flink_pod);
        tokio::join!(pods, namespaces, clusters);
    })
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
    let deployments = Watch {
        api: Api::<FlinkDeployment>::all(client.clone()),
        what: "flinkdeployments",
        optional: true,
        config: base_config(node_name),
    };
    let apply = |event: Event<Deployment>| {
        if let Event::Found(deployment) | Event::Changed(deployment) = &event
            && deployment.is_session()
        {
            session.notify_one();
        }
        store.apply_deployment(event);
    };
    let jobs = async {
        session.notified().await;
        let watch = Watch {
            api: Api::<FlinkSessionJob>::all(client),
            what: "flinksessionjobs",
            optional: true,
            config: base_config(node_name),
        };
        watch.follow(SessionJob::of, |event| store.apply_session_job(event)).await;
    };
    tokio::join!(deployments.follow(Deployment::of, apply), jobs);
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
            Ok(mut config) => {
                config.connect_timeout = Some(CONNECT_TIMEOUT);
                // Retrying is done here, where an error also puts the store out of sync.
                config.default_retry = false;
                match Client::try_from(config) {
                    Ok(client) => return client,
                    Err(error) => error.into(),
                }
            }
            Err(error) => error.into(),
        };
        if throttle.lets_through(Instant::now().into_std()) {
            warn!(error, "no way to the API server: neither KUBECONFIG nor a service account");
        }
        sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
    }
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
                Next::Error(error) if self.optional && is_absent(&error) => {
                    apply(Event::OutOfSync);
                    debug!(watch = self.what, "the API server doesn't have this kind");
                    sleep(absent_pause()).await;
                }
                Next::Error(error) => {
                    apply(Event::OutOfSync);
                    if contact.throttle.lets_through(Instant::now().into_std()) {
                        self.complain(&error);
                    }
                    contact.pause().await;
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
    /// After an error a whole [`SETTLED`] went by without another one.
    Quiet,
    End,
}

/// Whether the API server is reached, and how patient to be while it isn't.
#[derive(Default)]
struct Contact {
    /// A list is complete, so that silence is no sign of a list that hangs.
    listed: bool,
    /// The pauses still to come; there from an error until contact is proven again.
    pauses: Option<ExponentialBackoff>,
    throttle: Throttle,
}

impl Contact {
    /// Dropping a wait for the next event loses nothing: what was begun stays in `events`.
    async fn next<K>(&self, events: &mut Events<K>) -> Next<K> {
        let next = if self.listed && self.pauses.is_some() {
            match timeout(SETTLED, events.next()).await {
                Ok(next) => next,
                Err(_) => return Next::Quiet,
            }
        } else {
            events.next().await
        };
        match next {
            Some(Ok(event)) => Next::Event(event),
            Some(Err(error)) => Next::Error(error),
            None => Next::End,
        }
    }

    /// An `Init` comes before anything was asked, and part of a list may be all that comes.
    fn note<K>(&mut self, event: &watcher::Event<K>) {
        match event {
            watcher::Event::Init => self.listed = false,
            watcher::Event::InitApply(_) => {}
            watcher::Event::InitDone | watcher::Event::Apply(_) | watcher::Event::Delete(_) => {
                self.listed = true;
                self.restored();
            }
        }
    }

    fn restored(&mut self) {
        self.pauses = None;
    }

    async fn pause(&mut self) {
        let pauses = self.pauses.get_or_insert_with(backoff);
        sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
    }
}

/// What both watches have in common. No page size: kube asks for pages only from etcd, and the
/// list of one node's pods is short.
fn base_config(node_name: &str) -> watcher::Config {
    let mut hasher = DefaultHasher::new();
    node_name.hash(&mut hasher);
    let spread = u64::from(WATCH_SECONDS.end - WATCH_SECONDS.start);
    let extra = u32::try_from(hasher.finish() % spread).unwrap_or(0);
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
    ExponentialBuilder::new()
        .with_min_delay(SHORTEST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .with_jitter()
        .build()
}

/// [`ABSENT_PAUSE`] with as much jitter again at most.
fn absent_pause() -> Duration {
    let mut pauses = ExponentialBuilder::new()
        .with_min_delay(ABSENT_PAUSE)
        .with_max_delay(ABSENT_PAUSE)
        .with_jitter()
        .build();
    pauses.next().unwrap_or(ABSENT_PAUSE)
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
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;
    use crate::enrich::facts::tests::{facts, taskmanager};

    fn pod() -> Pod {
        serde_json::from_value(taskmanager()).unwrap()
    }

    fn api_error(code: u16) -> kube::Error {
        kube::Error::Api(Box::new(Status { code, ..Status::default() }))
    }

    #[test]
    fn objects_are_trimmed_and_those_without_a_name_dropped() {
        let check = |event, expected| assert_eq!(trimmed(event, PodFacts::of), expected);
        let facts = facts(taskmanager());
        check(watcher::Event::Init, Some(Event::Init));
        check(watcher::Event::InitApply(pod()), Some(Event::Found(facts.clone())));
        check(watcher::Event::InitDone, Some(Event::InitDone));
        check(watcher::Event::Apply(pod()), Some(Event::Changed(facts.clone())));
        check(watcher::Event::Delete(pod()), Some(Event::Deleted(facts)));
        check(watcher::Event::Apply(Pod::default()), None);
        let labels = Some([("team".to_owned(), "x".to_owned())].into());
        let name = Some("flink".to_owned());
        let metadata = ObjectMeta { name, labels, ..ObjectMeta::default() };
        let facts = NamespaceFacts::of(&Namespace { metadata, ..Namespace::default() }).unwrap();
        assert_eq!((facts.name.as_str(), facts.labels["team"].as_str()), ("flink", "x"));
    }

    #[test]
    fn only_an_invalid_request_at_the_start_means_no_streamed_lists() {
        let start = |code| watcher::Error::WatchStartFailed(api_error(code));
        assert!(refuses_streaming(&start(422)) && refuses_streaming(&start(400)));
        assert!(!refuses_streaming(&start(403)) && !refuses_streaming(&start(410)));
        assert!(!refuses_streaming(&watcher::Error::InitialListFailed(api_error(422))));
        assert!(!refuses_streaming(&watcher::Error::NoResourceVersion));
    }

    #[test]
    fn a_kind_that_is_not_there_is_asked_for_seldom() {
        let start = |code| watcher::Error::WatchStartFailed(api_error(code));
        assert!(is_absent(&start(404)));
        assert!(is_absent(&watcher::Error::InitialListFailed(api_error(404))));
        assert!(!is_absent(&start(403)) && !is_absent(&watcher::Error::NoResourceVersion));
        let pauses: Vec<Duration> = (0..20).map(|_| absent_pause()).collect();
        assert!(pauses.iter().all(|pause| (ABSENT_PAUSE..=2 * ABSENT_PAUSE).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "agents don't ask together");
    }

    #[test]
    fn the_operators_kinds_are_asked_for_where_they_are() {
        let path = FlinkDeployment::url_path(&(), None);
        assert_eq!(path, "/apis/flink.apache.org/v1beta1/flinkdeployments");
        let path = FlinkSessionJob::url_path(&(), None);
        assert_eq!(path, "/apis/flink.apache.org/v1beta1/flinksessionjobs");
    }

    #[test]
    fn an_error_is_said_in_the_servers_words_or_with_all_its_causes() {
        let check = |error, code, text| {
            let reason = reason(&error);
            assert_eq!((reason.code, reason.text.as_str()), (code, text));
        };
        let denied =
            Status { code: 403, message: "pods is forbidden".to_owned(), ..Status::default() };
        check(watcher::Error::WatchError(Box::new(denied)), Some(403), "pods is forbidden");
        let inner = std::io::Error::other("connection refused");
        check(
            watcher::Error::WatchFailed(kube::Error::Service(Box::new(inner))),
            None,
            "watch stream failed: ServiceError: connection refused",
        );
    }

    #[test]
    fn a_list_that_has_only_begun_proves_nothing() {
        let mut contact = Contact { pauses: Some(backoff()), ..Contact::default() };
        for event in [watcher::Event::Init, watcher::Event::InitApply(pod())] {
            contact.note(&event);
            assert!(!contact.listed && contact.pauses.is_some());
        }
        contact.note::<Pod>(&watcher::Event::InitDone);
        assert!(contact.listed && contact.pauses.is_none());
        contact.note::<Pod>(&watcher::Event::Init);
        assert!(!contact.listed);
    }

    #[test]
    fn pauses_grow_to_a_limit_and_never_end() {
        let pauses: Vec<Duration> = backoff().take(20).collect();
        assert_eq!(pauses.len(), 20);
        assert!(pauses.iter().all(|pause| *pause >= SHORTEST_PAUSE && *pause <= 2 * LONGEST_PAUSE));
        assert!(pauses[10..].iter().all(|pause| *pause >= LONGEST_PAUSE));
    }

    #[test]
    fn agents_ask_for_watches_of_different_length() {
        let lengths: std::collections::BTreeSet<u32> =
            (0..50).filter_map(|n| base_config(&format!("node-{n}")).timeout).collect();
        assert!(lengths.len() > 10);
        assert!(lengths.iter().all(|seconds| WATCH_SECONDS.contains(seconds)));
    }
}
