mod server;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Config, Resource};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use self::link::{Cluster, Connect, Connection};
use self::server::{Answer, More, Server};
use self::watch::{
    ABSENT_PAUSE, ANSWER, LIST_TIME, LONGEST_PAUSE, MARKLESS, SETTLED, SHORTEST_PAUSE,
    absent_pause, backoff,
};
use super::*;
use crate::enrich::facts::tests::{facts, stream, taskmanager};
use crate::enrich::store::Change;

#[test]
fn objects_are_trimmed_and_those_without_a_name_dropped() {
    let pod: Pod = serde_json::from_value(taskmanager()).unwrap();
    assert_eq!(PodFacts::of(&pod), Some(facts(taskmanager())));
    assert_eq!(PodFacts::of(&Pod::default()), None);
    let labels = Some([("team".to_owned(), "x".to_owned())].into());
    let name = Some("flink".to_owned());
    let metadata = ObjectMeta { name, labels, ..ObjectMeta::default() };
    let facts = NamespaceFacts::of(&Namespace { metadata, ..Namespace::default() }).unwrap();
    assert_eq!((facts.name.as_str(), facts.labels["team"].as_str()), ("flink", "x"));
    assert_eq!(NamespaceFacts::of(&Namespace::default()), None);
}

#[test]
fn the_operators_kinds_are_asked_for_where_they_are() {
    let path = FlinkDeployment::url_path(&(), None);
    assert_eq!(path, "/apis/flink.apache.org/v1beta1/flinkdeployments");
    let path = FlinkSessionJob::url_path(&(), None);
    assert_eq!(path, "/apis/flink.apache.org/v1beta1/flinksessionjobs");
}

#[test]
fn pauses_grow_to_a_limit_and_never_end() {
    let pauses: Vec<Duration> = backoff().take(20).collect();
    assert_eq!(pauses.len(), 20);
    assert!(pauses.iter().all(|pause| *pause >= SHORTEST_PAUSE && *pause <= 2 * LONGEST_PAUSE));
    assert!(pauses[10..].iter().all(|pause| *pause >= LONGEST_PAUSE));
    let absent: Vec<Duration> = (0..20).map(|_| absent_pause()).collect();
    assert!(absent.iter().all(|pause| (ABSENT_PAUSE..=2 * ABSENT_PAUSE).contains(pause)));
    assert!(absent.iter().any(|pause| *pause != absent[0]), "agents don't ask together");
}

#[test]
fn agents_ask_for_watches_of_different_length() {
    let lengths: std::collections::BTreeSet<u32> =
        (0..50).map(|n| query("pods", &format!("node-{n}")).seconds).collect();
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

/// A pod as a server tells of it, in version 1 of everything.
fn told(uid: &str, labels: &[(&str, &str)]) -> Value {
    let labels: std::collections::BTreeMap<_, _> = labels.iter().copied().collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": uid, "namespace": "flink", "uid": uid, "resourceVersion": "1", "labels": labels},
    })
}

/// A pod that nobody can make sense of.
fn unreadable() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": ["u0"]}})
}

/// A complete list of one pod, in version 7, and a watch that goes on.
fn listed(uid: &str) -> (Answer, More) {
    Answer::watch().added(told(uid, &[])).all_listed(7).goes_on()
}

/// How long a test waits, by a clock that nobody waits for.
const SOON: Duration = Duration::from_secs(1200);

/// What nothing takes longer than but pauses.
const MOMENT: Duration = Duration::from_millis(50);

/// Leads to the first of these servers, then to the next, and to the last for ever. They are servers
/// of different clusters.
fn to_servers<'a>(servers: impl IntoIterator<Item = &'a Server>) -> Connect {
    let clients: Vec<_> = servers.into_iter().map(Server::client).collect();
    let made = AtomicUsize::new(0);
    Arc::new(move || {
        let number = made.fetch_add(1, Ordering::Relaxed).min(clients.len() - 1);
        let cluster = Cluster { url: number.to_string(), authority: None };
        let connection = Connection { client: clients[number].clone(), cluster };
        Box::pin(async { Ok(connection) })
    })
}

/// A store that follows a server, and what it told.
struct Followed {
    store: Arc<PodStore>,
    server: Server,
    changes: Arc<Mutex<Vec<(Instant, Change)>>>,
    task: JoinHandle<()>,
}

impl Followed {
    /// Without a network.
    fn new(flink: FlinkWatch, script: impl IntoIterator<Item = Answer>) -> Self {
        let server = Server::new(script);
        let connect = to_servers([&server]);
        Self::by(server, flink, connect)
    }

    fn by(server: Server, flink: FlinkWatch, connect: Connect) -> Self {
        Self::prepared(server, flink, connect, |_| {})
    }

    /// With a pipeline that selects by the labels of namespaces.
    fn with_namespaces(script: impl IntoIterator<Item = Answer>) -> Self {
        let server = Server::new(script);
        let connect = to_servers([&server]);
        Self::prepared(server, FlinkWatch::Off, connect, PodStore::require_namespaces)
    }

    fn prepared(
        server: Server,
        flink: FlinkWatch,
        connect: Connect,
        prepare: impl FnOnce(&PodStore),
    ) -> Self {
        let changes = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&changes);
        let on_change =
            move |change: &Change| to.lock().unwrap().push((Instant::now(), change.clone()));
        let store = Arc::new(PodStore::new(Arc::new(on_change)));
        prepare(&store);
        let follows = Arc::clone(&store);
        let task = tokio::spawn(async move {
            watch_all(Link::open(connect).await, &follows, "node-a", flink).await;
        });
        Self { store, server, changes, task }
    }

    fn knows(&self, uid: &str) -> bool {
        self.store.lookup(&stream(uid, uid)).is_some()
    }

    /// The label `team` of the pod's namespace.
    fn team(&self, uid: &str) -> Option<String> {
        let facts = self.store.lookup(&stream(uid, uid))?;
        facts.namespace_labels.as_ref()?.get("team").cloned()
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

    /// When the store came in sync or went out of it.
    fn syncs_at(&self) -> Vec<(Instant, bool)> {
        let changes = self.changes.lock().unwrap();
        let sync = |(at, change): &(Instant, Change)| match change {
            Change::InSync(sync) => Some((*at, *sync)),
            Change::Pod(_) => None,
        };
        changes.iter().filter_map(sync).collect()
    }

    fn syncs(&self) -> Vec<bool> {
        self.syncs_at().into_iter().map(|(_, sync)| sync).collect()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether a pause is the `number`-th of those that grow, from 0.
fn check_pause(pause: Duration, number: u32) {
    let least = (SHORTEST_PAUSE * 2_u32.pow(number)).min(LONGEST_PAUSE);
    assert!((least..=2 * least + MOMENT).contains(&pause), "{number}: {pause:?}");
}

#[tokio::test(start_paused = true)]
async fn the_list_is_streamed_from_the_cache_and_a_watch_that_ends_goes_on_where_it_was() {
    let (list, more) = Answer::watch().added(told("u1", &[])).all_listed(7).bookmark(9).goes_on();
    let followed = Followed::new(FlinkWatch::Off, [list, Answer::watch().added(told("u2", &[]))]);
    followed.until("the list is complete", |followed| followed.store.in_sync()).await;
    sleep(SETTLED).await;
    drop(more);
    followed.until("the second watch tells", |followed| followed.knows("u2")).await;
    assert!(followed.knows("u1") && followed.store.in_sync());
    assert_eq!(followed.syncs(), [true], "a watch that ends in time is no trouble");
    assert!(followed.server.pauses()[0] < SETTLED + MOMENT, "nor a reason to wait");
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

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_at_once_again_and_again_is_asked_for_ever_more_seldom() {
    let list = Answer::watch().added(told("u1", &[])).all_listed(7).ends();
    let mut script = vec![list];
    script.extend((0..8).map(|_| Answer::watch().ends()));
    let (lasts, more) = Answer::watch().goes_on();
    script.extend([lasts, Answer::watch().ends(), Answer::watch().added(told("u2", &[]))]);
    let followed = Followed::new(FlinkWatch::Off, script);
    followed.until("one lasts", |followed| followed.syncs() == [true, false, true]).await;
    drop(more);
    followed.until("the last one tells", |followed| followed.knows("u2")).await;
    let pauses = followed.server.pauses();
    assert_eq!(pauses.len(), 11);
    (pauses[..9].iter().zip(0..)).for_each(|(pause, number)| check_pause(*pause, number));
    assert!(pauses[9] < SETTLED + MOMENT, "after one that lasted: {pauses:?}");
    check_pause(pauses[10], 0);
    assert_eq!(followed.syncs(), [true, false, true, false, true]);
    let asked = followed.server.asked();
    let resumes = |request: &String| request.ends_with("&resourceVersion=7");
    assert!(asked[1..].iter().all(resumes), "no new list: {asked:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_not_answered_is_out_of_sync_soon_and_asked_for_again() {
    let (list, more) = listed("u1");
    let script = [list, Answer::never(), Answer::watch().added(told("u2", &[]))];
    let followed = Followed::new(FlinkWatch::Off, script);
    followed.until("the list is complete", |followed| followed.store.in_sync()).await;
    sleep(SETTLED).await;
    drop(more);
    followed.until("the second watch tells", |followed| followed.knows("u2")).await;
    assert_eq!(followed.syncs(), [true, false, true]);
    let syncs = followed.syncs_at();
    let noticed = syncs[1].0 - syncs[0].0 - SETTLED;
    assert!((ANSWER..ANSWER + MOMENT).contains(&noticed), "{noticed:?}");
    assert!(noticed < Duration::from_secs(31));
    check_pause(followed.server.pauses()[1] - ANSWER, 0);
    let asked = followed.server.asked();
    assert!(asked[2].ends_with("&resourceVersion=7"), "no new list: {asked:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_should_have_ended_long_ago_is_dead() {
    let list = Answer::watch().added(told("u1", &[])).all_listed(7);
    let followed = Followed::new(FlinkWatch::Off, [list, Answer::watch().added(told("u2", &[]))]);
    followed.until("the second watch tells", |followed| followed.knows("u2")).await;
    assert_eq!(followed.syncs(), [true, false, true]);
    let pause = followed.server.pauses()[0].as_secs();
    let range = u64::from(WATCH_SECONDS.start)..u64::from(WATCH_SECONDS.end) + 10;
    assert!(range.contains(&pause), "{pause}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_gets_no_more_bookmarks_is_dead() {
    let (list, _more) = Answer::watch().added(told("u1", &[])).all_listed(7).bookmark(9).goes_on();
    let followed = Followed::new(FlinkWatch::Off, [list, Answer::watch()]);
    let back = |followed: &Followed| followed.syncs() == [true, false, true];
    followed.until("it is in sync again", back).await;
    check_pause(followed.server.pauses()[0] - MARKLESS, 0);
    let asked = followed.server.asked();
    assert!(asked[1].ends_with("&resourceVersion=9"), "no new list: {asked:#?}");
}

/// Where nothing changes and the store doesn't say how far it has come, there are no bookmarks.
#[tokio::test(start_paused = true)]
async fn a_watch_that_gets_no_bookmark_at_all_is_waited_for() {
    let (list, more) = Answer::watch().added(told("u1", &[])).all_listed(7).bookmark(9).goes_on();
    let (quiet, quiet_more) = Answer::watch().goes_on();
    let followed = Followed::new(FlinkWatch::Off, [list, quiet, Answer::watch()]);
    followed.until("the list is complete", |followed| followed.store.in_sync()).await;
    sleep(SETTLED).await;
    drop(more);
    sleep(Duration::from_secs(WATCH_SECONDS.start.into())).await;
    drop(quiet_more);
    followed.until("it is resumed", |followed| followed.server.asked().len() == 3).await;
    let asked = followed.server.asked();
    assert!(asked[2].ends_with("&resourceVersion=9"), "no new list: {asked:#?}");
    assert_eq!(followed.syncs(), [true]);
}

/// It would say nothing until it has come to the version of the watch again.
#[tokio::test(start_paused = true)]
async fn a_server_that_was_set_back_is_asked_for_a_list() {
    let (list, more) = listed("u1");
    let another = Answer::watch().added(told("u2", &[])).all_listed(5);
    let server = Server::new([list, Answer::status(503), Answer::watch(), another]);
    let connect = to_servers([&server]);
    let followed = Followed::by(server, FlinkWatch::Off, connect);
    followed.until("the list is complete", |followed| followed.store.in_sync()).await;
    sleep(SETTLED).await;
    followed.server.set_back();
    drop(more);
    followed.until("another list tells", |followed| followed.knows("u2")).await;
    followed.until("the list is complete", |followed| followed.store.in_sync()).await;
    assert_eq!(followed.syncs(), [true, false, true], "it was never taken for in sync meanwhile");
    let asked = followed.server.asked();
    assert!(asked[2].ends_with("&resourceVersion=7"), "{asked:#?}");
    assert!(asked[3].contains("sendInitialEvents=true"), "{asked:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_without_streamed_lists_is_asked_for_one_from_its_cache() {
    let script = [
        Answer::status(422),
        Answer::list(3, [told("u1", &[])]),
        Answer::watch().added(told("u2", &[])),
    ];
    let followed = Followed::new(FlinkWatch::Off, script);
    followed.until("the watch tells", |followed| followed.knows("u2")).await;
    assert!(followed.knows("u1") && followed.store.in_sync());
    assert!(followed.server.pauses().iter().all(|pause| *pause < MOMENT));
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
    let followed = Followed::new(FlinkWatch::Off, [before, expired, after]);
    followed.until("a new list tells", |followed| followed.knows("u2")).await;
    followed.until("the list is complete", |followed| followed.store.in_sync()).await;
    assert_eq!(followed.syncs(), [true, false, true]);
    let asked = followed.server.asked();
    assert!(asked[1].ends_with("&resourceVersion=7"), "{asked:#?}");
    assert!(asked[2].contains("sendInitialEvents=true"), "{asked:#?}");
    (followed.server.pauses().iter().zip(0..))
        .for_each(|(pause, number)| check_pause(*pause, number));
}

#[tokio::test(start_paused = true)]
async fn a_version_that_has_expired_brings_a_new_list() {
    check_new_list(Answer::watch().error(410).ends()).await;
    check_new_list(Answer::watch().error(410)).await;
}

#[tokio::test(start_paused = true)]
async fn a_version_that_the_server_refuses_to_begin_with_brings_a_new_list() {
    check_new_list(Answer::status(410)).await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_out_of_sync_and_what_was_known_stays() {
    let script = [
        Answer::watch().added(told("u1", &[])).all_listed(7).ends(),
        Answer::status(503),
        Answer::watch().added(told("u2", &[])),
    ];
    let followed = Followed::new(FlinkWatch::Off, script);
    followed.until("the outage shows", |followed| followed.syncs() == [true, false]).await;
    assert!(followed.knows("u1"));
    followed.until("it is over", |followed| followed.knows("u2")).await;
    assert_eq!(followed.syncs(), [true, false, true]);
    let asked = followed.server.asked();
    assert!(asked[2].ends_with("&resourceVersion=7"), "no new list: {asked:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_list_that_breaks_off_is_not_begun_again_at_once() {
    let broken = Answer::watch().added(told("u1", &[])).ends();
    let (plain, watch) = (Answer::list(5, [told("u2", &[])]), Answer::watch());
    let followed = Followed::new(FlinkWatch::Off, [broken, plain, watch]);
    followed.until("another list is complete", |followed| followed.store.in_sync()).await;
    check_pause(followed.server.pauses()[0], 0);
    let asked = followed.server.asked();
    assert!(!asked[1].contains("watch=true"), "what breaks off might do so again: {asked:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_streamed_list_that_does_not_come_to_its_end_is_asked_for_in_plain() {
    let (endless, more) = Answer::watch().bookmark(3).goes_on();
    let (plain, watch) = (Answer::list(5, [told("u2", &[])]), Answer::watch());
    let followed = Followed::new(FlinkWatch::Off, [endless, plain, watch]);
    for _ in 0..6 {
        sleep(LIST_TIME / 7).await;
        more.added(told("u1", &[])).await;
    }
    followed.until("there is a list", |followed| followed.store.in_sync()).await;
    assert!(followed.knows("u1") && followed.knows("u2"));
    check_pause(followed.server.pauses()[0] - LIST_TIME, 0);
    let asked = followed.server.asked();
    assert!(!asked[1].contains("watch=true"), "{asked:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_plain_list_that_is_not_answered_is_asked_for_again() {
    let script = [Answer::status(422), Answer::never(), Answer::list(5, [told("u1", &[])])];
    let followed = Followed::new(FlinkWatch::Off, script);
    followed.until("there is a list", |followed| followed.store.in_sync()).await;
    check_pause(followed.server.pauses()[1] - LIST_TIME, 0);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_can_not_be_understood_costs_only_itself() {
    let list = Answer::watch().added(unreadable()).added(told("u1", &[])).all_listed(7);
    let streamed = list.added(unreadable()).added(told("u2", &[]));
    let followed = Followed::new(FlinkWatch::Off, [streamed]);
    followed.until("the watch goes on", |followed| followed.knows("u2")).await;
    assert!(followed.knows("u1"));
    assert_eq!((followed.syncs(), followed.server.asked().len()), (vec![true], 1));

    let list = Answer::list(7, [unreadable(), told("u1", &[])]);
    let watch = Answer::watch().added(unreadable()).added(told("u2", &[]));
    let followed = Followed::new(FlinkWatch::Off, [Answer::status(400), list, watch]);
    followed.until("the watch goes on", |followed| followed.knows("u2")).await;
    assert!(followed.knows("u1"));
    assert_eq!((followed.syncs(), followed.server.asked().len()), (vec![true], 3));
}

#[tokio::test(start_paused = true)]
async fn a_version_is_never_forgotten_for_none() {
    let mut nameless = told("u2", &[]);
    nameless["metadata"]["resourceVersion"] = "".into();
    let list = Answer::watch().added(told("u1", &[])).all_listed(7);
    let script = [list.added(nameless).ends(), Answer::watch().added(told("u3", &[]))];
    let followed = Followed::new(FlinkWatch::Off, script);
    followed.until("the second watch tells", |followed| followed.knows("u3")).await;
    let asked = followed.server.asked();
    assert!(asked[1].ends_with("&resourceVersion=7"), "{asked:#?}");
}

#[tokio::test(start_paused = true)]
async fn another_cluster_is_asked_for_a_list() {
    let old =
        Server::new([Answer::watch().added(told("u1", &[])).all_listed(7).ends(), Answer::never()]);
    let new = Server::new([Answer::watch().added(told("u2", &[])).all_listed(3)]);
    let connect = to_servers([&old, &new]);
    let followed = Followed::by(new, FlinkWatch::Off, connect);
    followed.until("there is a new list", |followed| followed.syncs() == [true, false, true]).await;
    assert!(followed.knows("u2"));
    assert_eq!(old.asked().len(), 2);
    assert!(followed.server.asked()[0].contains("sendInitialEvents=true"));
}

fn namespace(name: &str, team: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "resourceVersion": "1", "labels": {"team": team}},
    })
}

#[tokio::test(start_paused = true)]
async fn namespaces_are_not_asked_for_where_no_pipeline_selects_by_their_labels() {
    let (pods, more) = listed("u1");
    let followed = Followed::new(FlinkWatch::Off, [pods]);
    followed.until("pods are known", |followed| followed.store.in_sync()).await;
    sleep(SETTLED).await;
    more.added(told("u2", &[])).await;
    followed.until("the watch goes on", |followed| followed.knows("u2")).await;
    assert_eq!(followed.server.asked().len(), 1, "{:#?}", followed.server.asked());
}

#[tokio::test(start_paused = true)]
async fn a_namespaces_labels_and_their_changes_are_in_the_facts_of_its_pods() {
    let (pods, more_pods) =
        Answer::watch().added(told("u1", &[])).all_listed(7).of("pods").goes_on();
    let (namespaces, more_namespaces) = Answer::watch()
        .added(namespace("elsewhere", "x"))
        .added(namespace("flink", "orders"))
        .all_listed(8)
        .of("namespaces")
        .goes_on();
    let followed = Followed::with_namespaces([pods, namespaces]);
    followed.until("both are known", |followed| followed.store.in_sync()).await;
    assert_eq!(followed.team("u1").as_deref(), Some("orders"));
    let asked = followed.server.asked();
    let asked: Vec<&str> =
        asked.iter().filter_map(|request| request.strip_prefix("/api/v1/namespaces?")).collect();
    assert_eq!(asked.len(), 1, "{asked:#?}");
    assert!(!asked[0].contains("fieldSelector"), "they are on no node: {asked:#?}");

    more_namespaces.changed(namespace("elsewhere", "y")).await;
    more_namespaces.changed(namespace("flink", "invoices")).await;
    let relabelled = |followed: &Followed| followed.team("u1").as_deref() == Some("invoices");
    followed.until("the pod has the new label", relabelled).await;
    let last = followed.changes.lock().unwrap().last().map(|(_, change)| change.clone());
    assert_eq!(last, followed.store.lookup(&stream("u1", "u1")).map(Change::Pod), "word of it");
    more_pods.added(told("u2", &[])).await;
    followed.until("a pod that comes later is known", |followed| followed.knows("u2")).await;
    assert_eq!(followed.team("u2").as_deref(), Some("invoices"));
    assert_eq!((followed.syncs(), followed.server.asked().len()), (vec![true], 2));
}

/// A pipeline that can't tell whether a pod is its own has to wait for that.
#[tokio::test(start_paused = true)]
async fn without_the_right_to_read_namespaces_pods_are_known_and_nothing_is_in_sync() {
    let pods = Answer::watch().added(told("u1", &[])).all_listed(7).of("pods");
    let refused = || Answer::status(403).of("namespaces");
    let namespaces = Answer::watch().added(namespace("flink", "orders")).all_listed(8);
    let script = [pods, refused(), refused(), namespaces.of("namespaces")];
    let followed = Followed::with_namespaces(script);
    followed.until("it is refused again", |followed| followed.server.asked().len() == 3).await;
    assert!(followed.knows("u1"));
    assert_eq!((followed.syncs(), followed.team("u1")), (vec![], None));
    followed.until("the right is there", |followed| followed.store.in_sync()).await;
    assert_eq!(followed.team("u1").as_deref(), Some("orders"));
    assert_eq!(followed.server.asked().len(), 4);
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

fn acceptor() -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    let chain = vec![CertificateDer::from_pem_file(fixture("loopback.crt")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(fixture("loopback.key")).unwrap();
    TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()))
}

/// Reads a kubeconfig that trusts `authority`, and counts how often.
fn by_kubeconfig(url: &str, authority: &Path, reads: &Arc<AtomicUsize>) -> Connect {
    let text = json!({
        "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority": authority}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "current-context": "c",
    });
    let kubeconfig: Kubeconfig = serde_json::from_value(text).unwrap();
    let reads = Arc::clone(reads);
    Arc::new(move || {
        let (kubeconfig, reads) = (kubeconfig.clone(), Arc::clone(&reads));
        Box::pin(async move {
            let options = KubeConfigOptions::default();
            let connection =
                Connection::by(Config::from_custom_kubeconfig(kubeconfig, &options).await?);
            reads.fetch_add(1, Ordering::Relaxed);
            connection
        })
    })
}

#[tokio::test]
async fn an_authority_that_was_replaced_is_read_again() {
    let server = Server::new([Answer::watch().added(told("u1", &[])).all_listed(7)]);
    let url = server.listen(acceptor()).await;
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.crt");
    std::fs::copy(fixture("other-ca.crt"), &authority).unwrap();
    let reads = Arc::new(AtomicUsize::new(0));
    let connect = by_kubeconfig(&url, &authority, &reads);
    let followed = Followed::by(server, FlinkWatch::Off, connect);
    let recovers = async {
        followed.until("the old one is read", |_| reads.load(Ordering::Relaxed) == 1).await;
        std::fs::copy(fixture("ca.crt"), &authority).unwrap();
        followed.until("the server is trusted", |followed| followed.store.in_sync()).await;
    };
    let waited = timeout(Duration::from_secs(30), recovers).await;
    assert!(waited.is_ok(), "read {reads:?} times");
    assert_eq!(followed.server.asked().len(), 1);
}

/// In how long the kernel's keepalive timer (2) on a connection of this process to `port` goes off, by
/// the column `tr tm->when` of the table, in hundredths of a second.
/// Source: Linux `Documentation/networking/proc_net_tcp.rst`.
fn is_looked_after_within(port: u16) -> Option<Duration> {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let peer = format!("0100007F:{port:04X}");
    table.lines().find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let timer = (columns[2] == peer).then(|| columns[5].strip_prefix("02:"))??;
        Some(Duration::from_millis(10 * u64::from_str_radix(timer, 16).unwrap()))
    })
}

/// An API server that loses its power says nothing any more; the kernel finds that out.
#[tokio::test]
async fn the_kernel_looks_whether_the_other_end_is_still_there() {
    let server = Server::new([Answer::watch().added(told("u1", &[])).all_listed(7)]);
    let url = server.listen(acceptor()).await;
    let port = url.rsplit(':').next().unwrap().parse().unwrap();
    let connect = by_kubeconfig(&url, &fixture("ca.crt"), &Arc::default());
    let followed = Followed::by(server, FlinkWatch::Off, connect);
    followed.until("the server is asked", |followed| followed.store.in_sync()).await;
    let waited = followed.until("the connection is looked after", |_| {
        is_looked_after_within(port).is_some_and(|soon| soon <= Duration::from_secs(15))
    });
    assert!(timeout(Duration::from_secs(30), waited).await.is_ok());
}

/// A pod of Flink's, known and told of further.
fn flink_pod() -> (Answer, More) {
    let labels = [("app", "orders"), ("type", "flink-native-kubernetes")];
    Answer::watch().added(told("u1", &labels)).all_listed(7).goes_on()
}

fn deployment(name: &str, job: Value) -> Value {
    json!({
        "apiVersion": "flink.apache.org/v1beta1", "kind": "FlinkDeployment",
        "metadata": {"name": name, "namespace": "flink", "resourceVersion": "1"},
        "spec": {"flinkVersion": "v1_20", "job": job},
    })
}

fn application() -> Value {
    deployment("orders", json!({"parallelism": 1}))
}

impl Followed {
    /// What the operator says of the pod.
    fn version(&self, uid: &str) -> Option<String> {
        self.store.lookup(&stream(uid, uid))?.flink.as_ref()?.version.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn pages_that_expire_or_go_in_a_circle_are_listed_anew_after_a_pause() {
    let page = |name: &str, token| Answer::page(8, [deployment(name, json!({}))], token);
    let (pods, _more) = flink_pod();
    let script = [
        pods,
        Answer::status(422),
        page("a", "one"),
        Answer::status(410),
        page("a", "two"),
        page("b", "two"),
        page("a", "three"),
        Answer::list(9, [application()]),
    ];
    let followed = Followed::new(FlinkWatch::Watch, script);
    let watched = |followed: &Followed| {
        followed.server.asked().iter().any(|request| request.ends_with("&resourceVersion=9"))
    };
    followed.until("the list is complete and watched", watched).await;
    assert_eq!(followed.version("u1").as_deref(), Some("1.20"));
    let asked: Vec<String> = (followed.server.asked().into_iter())
        .filter_map(|request| {
            Some(
                request
                    .strip_prefix("/apis/flink.apache.org/v1beta1/flinkdeployments?")?
                    .to_owned(),
            )
        })
        .collect();
    let pages = ["", "&continue=one", "", "&continue=two", "", "&continue=three"];
    for (request, token) in asked[1..].iter().zip(pages) {
        assert_eq!(*request, format!("&limit={PAGE}{token}"), "{asked:#?}");
    }
    let pauses = followed.server.pauses();
    check_pause(pauses[3], 0);
    check_pause(pauses[5], 1);
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_there_is_asked_for_seldom() {
    let (pods, more) = flink_pod();
    let deployments = Answer::watch().added(application()).all_listed(8);
    let followed = Followed::new(FlinkWatch::Watch, [pods, Answer::status(404), deployments]);
    followed
        .until("deployments are asked for", |followed| followed.server.asked().len() == 2)
        .await;
    while followed.version("u1").is_none() {
        sleep(Duration::from_secs(60)).await;
        more.added(told("u2", &[])).await;
    }
    let pause = followed.server.pauses()[1];
    assert!((ABSENT_PAUSE..=2 * ABSENT_PAUSE + MOMENT).contains(&pause), "{pause:?}");
    assert_eq!(followed.syncs(), [true], "pods are known without it");
}

#[tokio::test(start_paused = true)]
async fn of_flinks_operator_no_more_is_asked_for_than_is_of_use() {
    let flink = [("app", "orders"), ("type", "flink-native-kubernetes")];
    let (pods, more_pods) = listed("u1");
    let (deployments, more_deployments) =
        Answer::watch().added(application()).all_listed(8).goes_on();
    let jobs = Answer::watch().all_listed(9);
    let followed = Followed::new(FlinkWatch::Watch, [pods, deployments, jobs]);
    followed.until("pods are known", |followed| followed.store.in_sync()).await;
    assert_eq!(followed.server.asked().len(), 1, "no pod is Flink's");

    more_pods.added(told("u2", &flink)).await;
    followed.until("the operator's word comes", |followed| followed.version("u2").is_some()).await;
    let asked = followed.server.asked();
    assert_eq!(asked.len(), 2, "there is no session cluster: {asked:#?}");
    assert!(asked[1].starts_with("/apis/flink.apache.org/v1beta1/flinkdeployments?"), "{asked:#?}");

    more_deployments.added(deployment("session", Value::Null)).await;
    followed.until("jobs are asked for", |followed| followed.server.asked().len() == 3).await;
    let asked = followed.server.asked();
    assert!(asked[2].starts_with("/apis/flink.apache.org/v1beta1/flinksessionjobs?"), "{asked:#?}");
    assert_eq!(followed.syncs(), [true]);
}
