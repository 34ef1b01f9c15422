mod server;

use std::sync::Mutex;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use self::server::{Answer, Server};
use super::*;
use crate::enrich::facts::tests::{facts, stream, taskmanager};
use crate::enrich::store::Change;

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
    let denied = Status { code: 403, message: "pods is forbidden".to_owned(), ..Status::default() };
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

#[test]
fn agents_that_begin_at_once_ask_at_different_times() {
    let delays: std::collections::BTreeSet<Duration> =
        (0..50).map(|n| start_delay(&format!("node-{n}"))).collect();
    assert!(delays.len() > 40);
    assert!(delays.iter().all(|delay| *delay < Duration::from_millis(START_SPREAD_MS)));
    assert!(delays.iter().any(|delay| *delay > Duration::from_millis(START_SPREAD_MS / 2)));
}

#[test]
fn a_list_that_begins_before_another_has_ended_broke_off() {
    let init = watcher::Event::<Pod>::Init;
    let mut contact = Contact::default();
    assert!(!contact.broke_off(&init));
    contact.note(&init);
    assert!(contact.broke_off(&init) && !contact.broke_off(&watcher::Event::<Pod>::InitDone));
    contact.note(&watcher::Event::<Pod>::InitDone);
    assert!(!contact.broke_off(&init), "the list before is complete");
}

#[test]
fn more_objects_than_are_kept_are_said_once_for_each_list() {
    let excess = Excess::default();
    for _ in 0..2 {
        assert!(!excess.say(&Event::<()>::Init, "things"));
        let said: Vec<bool> =
            (0..flink::MAX_OBJECTS + 3).map(|_| excess.say(&Event::Found(()), "things")).collect();
        assert!(said[flink::MAX_OBJECTS]);
        assert_eq!(said.iter().filter(|said| **said).count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn silence_means_something_else_in_a_list_than_in_a_watch() {
    let mut silent: Events<Pod> = Box::pin(futures_util::stream::pending());
    let list = Contact::default();
    assert!(matches!(list.next(&mut silent).await, Next::Stalled));
    let resumed = Contact { listed: true, pauses: Some(backoff()), ..Contact::default() };
    assert!(matches!(resumed.next(&mut silent).await, Next::Quiet));
    let watch = Contact { listed: true, ..Contact::default() };
    let waited = timeout(Duration::from_secs(3600), watch.next(&mut silent)).await;
    assert!(waited.is_err(), "a quiet node's watch says nothing");
}

/// How long a test waits for what takes a few pauses at most.
const SOON: Duration = Duration::from_secs(30);

/// A pod as a server tells of it, in version 1 of everything.
fn told(uid: &str, labels: &[(&str, &str)]) -> serde_json::Value {
    let labels: std::collections::BTreeMap<_, _> = labels.iter().copied().collect();
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": uid, "namespace": "flink", "uid": uid, "resourceVersion": "1", "labels": labels},
    })
}

/// A store that follows a server with this script, and what it told.
struct Followed {
    store: Arc<PodStore>,
    server: Server,
    changes: Arc<Mutex<Vec<Change>>>,
    task: JoinHandle<()>,
}

impl Followed {
    async fn new(flink: FlinkWatch, script: impl IntoIterator<Item = Answer>) -> Self {
        let changes = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&changes);
        let on_change = move |change: &Change| to.lock().unwrap().push(change.clone());
        let store = Arc::new(PodStore::new(Arc::new(on_change)));
        let server = Server::start(script).await;
        let client = client(Config::new(server.url.parse().unwrap())).unwrap();
        let follows = Arc::clone(&store);
        let task = tokio::spawn(async move { watch_all(client, &follows, "node-a", flink).await });
        Self { store, server, changes, task }
    }

    fn knows(&self, uid: &str) -> bool {
        self.store.lookup(&stream(uid, uid)).is_some()
    }

    /// Waits until this holds.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = timeout(SOON, wait).await;
        assert!(waited.is_ok(), "{what}; asked: {:#?}", self.server.asked());
    }

    fn syncs(&self) -> Vec<bool> {
        let changes = self.changes.lock().unwrap();
        let sync = |change: &Change| match change {
            Change::InSync(sync) => Some(*sync),
            Change::Pod(_) => None,
        };
        changes.iter().filter_map(sync).collect()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn the_list_is_streamed_from_the_cache_and_a_watch_that_ends_goes_on_where_it_was() {
    let followed = Followed::new(
        FlinkWatch::Off,
        [
            Answer::watch().added(told("u1", &[])).all_listed(7).bookmark(9).ends(),
            Answer::watch().added(told("u2", &[])),
        ],
    )
    .await;
    followed.until("the second watch tells", |followed| followed.knows("u2")).await;
    assert!(followed.knows("u1") && followed.store.in_sync());
    assert_eq!(followed.syncs(), [true], "a watch that ends in time is no trouble");
    let asked = followed.server.asked();
    assert_eq!(asked.len(), 2, "{asked:#?}");
    for request in &asked {
        let node = "fieldSelector=spec.nodeName%3Dnode-a";
        assert!(request.starts_with("/api/v1/pods?") && request.contains(node), "{request}");
        assert!(request.contains("allowWatchBookmarks=true"), "{request}");
    }
    let list = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=0";
    assert!(asked[0].ends_with(list), "{asked:#?}");
    assert!(!asked[1].contains("sendInitialEvents"), "{asked:#?}");
    assert!(asked[1].ends_with("&resourceVersion=9"), "by the bookmark: {asked:#?}");
}

#[tokio::test]
async fn a_server_without_streamed_lists_is_asked_for_one_from_its_cache() {
    let script = [
        Answer::status(422),
        Answer::list(3, [told("u1", &[])]),
        Answer::watch().added(told("u2", &[])),
    ];
    let followed = Followed::new(FlinkWatch::Off, script).await;
    followed.until("the watch tells", |followed| followed.knows("u2")).await;
    assert!(followed.knows("u1") && followed.store.in_sync());
    let asked = followed.server.asked();
    assert!(!asked[1].contains("watch=true") && !asked[1].contains("limit="), "{asked:#?}");
    assert!(
        asked[1].ends_with("&resourceVersion=0&resourceVersionMatch=NotOlderThan"),
        "{asked:#?}"
    );
    assert!(asked[2].ends_with("&resourceVersion=3"), "{asked:#?}");
}

/// The pod that went meanwhile is known to be gone only by a new list.
async fn check_new_list(expired: Answer) {
    let before = Answer::watch().added(told("u1", &[])).all_listed(7).ends();
    let after = Answer::watch().added(told("u2", &[])).all_listed(20);
    let followed = Followed::new(FlinkWatch::Off, [before, expired, after]).await;
    followed.until("a new list tells", |followed| followed.knows("u2")).await;
    followed.until("the list is complete", |followed| followed.store.in_sync()).await;
    assert_eq!(followed.syncs(), [true, false, true]);
    let asked = followed.server.asked();
    assert!(asked[1].ends_with("&resourceVersion=7"), "{asked:#?}");
    assert!(asked[2].contains("sendInitialEvents=true"), "{asked:#?}");
}

#[tokio::test]
async fn a_version_that_has_expired_brings_a_new_list() {
    check_new_list(Answer::watch().error(410).ends()).await;
}

#[tokio::test]
async fn a_version_that_the_server_refuses_to_begin_with_brings_a_new_list() {
    check_new_list(Answer::status(410)).await;
}

#[tokio::test]
async fn an_outage_is_out_of_sync_and_what_was_known_stays() {
    let script = [
        Answer::watch().added(told("u1", &[])).all_listed(7).ends(),
        Answer::status(503),
        Answer::watch().added(told("u2", &[])),
    ];
    let followed = Followed::new(FlinkWatch::Off, script).await;
    followed.until("the outage shows", |followed| followed.syncs() == [true, false]).await;
    assert!(followed.knows("u1"));
    followed.until("it is over", |followed| followed.knows("u2")).await;
    assert_eq!(followed.syncs(), [true, false, true]);
    let asked = followed.server.asked();
    assert!(asked[2].ends_with("&resourceVersion=7"), "no new list: {asked:#?}");
}

#[tokio::test]
async fn a_list_that_breaks_off_is_not_begun_again_at_once() {
    let began = Instant::now();
    let broken = || Answer::watch().added(told("u1", &[])).ends();
    let whole = Answer::watch().added(told("u2", &[])).all_listed(7);
    let followed = Followed::new(FlinkWatch::Off, [broken(), whole]).await;
    followed.until("the second list is complete", |followed| followed.store.in_sync()).await;
    assert!(began.elapsed() >= SHORTEST_PAUSE);
    assert_eq!(followed.server.asked().len(), 2);
}

#[tokio::test]
async fn of_flinks_operator_no_more_is_asked_for_than_is_of_use() {
    let flink = [("app", "orders"), ("type", "flink-native-kubernetes")];
    let deployment = |name: &str, job: serde_json::Value| {
        serde_json::json!({
            "apiVersion": "flink.apache.org/v1beta1", "kind": "FlinkDeployment",
            "metadata": {"name": name, "namespace": "flink", "resourceVersion": "1"},
            "spec": {"flinkVersion": "v1_20", "job": job},
        })
    };
    let (pods, more_pods) = Answer::watch().added(told("u1", &[])).all_listed(7).goes_on();
    let application = deployment("orders", serde_json::json!({"parallelism": 1}));
    let (deployments, more_deployments) =
        Answer::watch().added(application).all_listed(8).goes_on();
    let jobs = Answer::watch().all_listed(9);
    let followed = Followed::new(FlinkWatch::Watch, [pods, deployments, jobs]).await;
    followed.until("pods are known", |followed| followed.store.in_sync()).await;
    assert_eq!(followed.server.asked().len(), 1, "no pod is Flink's");

    more_pods.added(told("u2", &flink)).await;
    let version = |followed: &Followed| {
        let pod = followed.store.lookup(&stream("u2", "u2"))?;
        pod.flink.as_ref()?.version.clone()
    };
    followed.until("the operator's word comes", |followed| version(followed).is_some()).await;
    let asked = followed.server.asked();
    assert_eq!(asked.len(), 2, "there is no session cluster: {asked:#?}");
    assert!(asked[1].starts_with("/apis/flink.apache.org/v1beta1/flinkdeployments?"), "{asked:#?}");

    more_deployments.added(deployment("session", serde_json::Value::Null)).await;
    followed.until("jobs are asked for", |followed| followed.server.asked().len() == 3).await;
    let asked = followed.server.asked();
    assert!(asked[2].starts_with("/apis/flink.apache.org/v1beta1/flinksessionjobs?"), "{asked:#?}");
    assert_eq!(followed.syncs(), [true]);
}
