use super::*;
use crate::enrich::facts::tests::{pod, stream};
use crate::enrich::flink::FlinkFacts;
use crate::enrich::flink::tests::{deployment, job, orders, session, session_job};

fn namespace(name: &str, labels: &[(&str, &str)]) -> NamespaceFacts {
    let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    NamespaceFacts { name: name.to_owned(), labels }
}

fn labelled(uid: &str, label: &str) -> PodFacts {
    let labels = BTreeMap::from([("l".to_owned(), label.to_owned())]);
    PodFacts { labels, ..pod(uid, "tm-1-1") }
}

/// Applies events and says in short what changed: `uid`, `sync` or `lost`.
fn apply(state: &mut State, events: impl IntoIterator<Item = Event<PodFacts>>) -> Vec<String> {
    let changes = events.into_iter().flat_map(|event| state.apply_pod(event)).collect();
    short(changes)
}

fn short(changes: Vec<Change>) -> Vec<String> {
    let name = |change| match change {
        Change::Pod(facts) => facts.uid.clone(),
        Change::InSync(true) => "sync".to_owned(),
        Change::InSync(false) => "lost".to_owned(),
    };
    changes.into_iter().map(name).collect()
}

fn list(pods: impl IntoIterator<Item = PodFacts>) -> Vec<Event<PodFacts>> {
    let found = pods.into_iter().map(Event::Found);
    std::iter::once(Event::Init).chain(found).chain([Event::InitDone]).collect()
}

fn label(state: &State, uid: &str) -> Option<String> {
    state.lookup(&stream(uid, "tm-1-1")).map(|facts| facts.labels["l"].clone())
}

#[test]
fn only_what_differs_is_a_change() {
    let mut state = State::default();
    assert_eq!(
        apply(&mut state, list([labelled("u1", "a"), labelled("u2", "a")])),
        ["u1", "u2", "sync"]
    );
    assert_eq!(apply(&mut state, [Event::Changed(labelled("u1", "a"))]), [""; 0]);
    assert_eq!(apply(&mut state, [Event::Changed(labelled("u1", "b"))]), ["u1"]);
    assert_eq!(apply(&mut state, [Event::Deleted(labelled("u1", "b"))]), [""; 0]);
    assert_eq!(apply(&mut state, [Event::Deleted(labelled("u2", "z"))]), ["u2"]);
    assert_eq!(label(&state, "u1").as_deref(), Some("b"), "a pod that has gone is still known");
    assert_eq!(label(&state, "u2").as_deref(), Some("z"), "by the last that was seen of it");
}

#[test]
fn a_reused_name_is_another_pod() {
    let mut state = State::default();
    apply(&mut state, list([labelled("u1", "first")]));
    apply(
        &mut state,
        [Event::Deleted(labelled("u1", "first")), Event::Changed(labelled("u2", "second"))],
    );
    assert_eq!(label(&state, "u1").as_deref(), Some("first"));
    assert_eq!(label(&state, "u2").as_deref(), Some("second"));
    assert_eq!(label(&state, "u3"), None);
}

#[test]
fn in_sync_between_a_complete_list_and_an_interruption() {
    let mut state = State::default();
    assert_eq!(apply(&mut state, [Event::Init, Event::Found(labelled("u1", "a"))]), ["u1"]);
    assert!(!state.in_sync());
    assert_eq!(apply(&mut state, [Event::InSync]), [""; 0], "the list is not complete");
    assert_eq!(apply(&mut state, [Event::InitDone, Event::OutOfSync]), ["sync", "lost"]);
    assert_eq!(apply(&mut state, [Event::OutOfSync]), [""; 0]);
    assert_eq!(apply(&mut state, [Event::InSync]), ["sync"]);
    assert_eq!(
        apply(&mut state, [Event::OutOfSync, Event::Changed(labelled("u1", "b"))]),
        ["lost", "u1", "sync"]
    );
    assert_eq!(
        apply(&mut state, [Event::OutOfSync, Event::Init, Event::InitDone]),
        ["lost", "sync"]
    );
}

#[test]
fn a_list_shows_what_went_while_nobody_looked() {
    let mut state = State::default();
    apply(&mut state, list([labelled("u1", "a"), labelled("u2", "a")]));
    apply(&mut state, list([labelled("u2", "a"), labelled("u3", "a")]));
    let gone: Vec<bool> =
        ["u1", "u2", "u3"].iter().map(|uid| state.pods[*uid].gone.is_some()).collect();
    assert_eq!(gone, [true, false, false]);
    assert!(label(&state, "u1").is_some());
    apply(&mut state, [Event::Changed(labelled("u1", "a"))]);
    assert!(state.pods["u1"].gone.is_none(), "it is there after all");
}

#[test]
fn a_list_that_starts_again_counts_alone() {
    let mut state = State::default();
    apply(&mut state, [Event::Init, Event::Found(labelled("u1", "a"))]);
    apply(&mut state, list([labelled("u2", "a")]));
    assert!(state.pods["u1"].gone.is_some() && state.pods["u2"].gone.is_none());
}

#[test]
fn of_the_gone_only_those_that_nobody_wants_are_forgotten() {
    let mut state = State::default();
    let uids: Vec<String> = (0..MAX_GONE + 3).map(|number| format!("u{number:05}")).collect();
    apply(&mut state, list(uids.iter().map(|uid| labelled(uid, "a"))));
    assert!(label(&state, &uids[0]).is_some());
    apply(&mut state, uids.iter().map(|uid| Event::Deleted(labelled(uid, "a"))));
    assert_eq!(state.pods.len(), MAX_GONE + 1);
    assert!(state.pods.contains_key(&uids[0]), "a stream asked for it");
    assert!(!state.pods.contains_key(&uids[1]) && !state.pods.contains_key(&uids[2]));
    state.release(&uids[0]);
    assert!(!state.pods.contains_key(&uids[0]));
    state.release("never seen");
}

#[test]
fn a_pod_that_is_there_is_kept_when_released() {
    let mut state = State::default();
    apply(&mut state, list([labelled("u1", "a")]));
    assert!(label(&state, "u1").is_some() && state.is_wanted("u1"));
    state.release("u1");
    assert!(!state.is_wanted("u1") && state.pods.contains_key("u1"));
}

#[test]
fn saved_facts_count_until_a_source_knows_better() {
    let mut state = State::default();
    apply(&mut state, [Event::Init, Event::Found(labelled("u2", "new"))]);
    state.restore(vec![labelled("u1", "saved"), labelled("u2", "saved")]);
    assert_eq!(apply(&mut state, [Event::InitDone]), ["sync"]);
    assert_eq!(label(&state, "u1").as_deref(), Some("saved"));
    assert_eq!(label(&state, "u2").as_deref(), Some("new"));
    assert_eq!(apply(&mut state, [Event::Changed(labelled("u1", "live"))]), ["u1"]);
    assert!(state.pods["u1"].gone.is_none());
}

/// The mirror pod of a static pod.
fn mirror(uid: &str, hash: &str) -> PodFacts {
    PodFacts { config_hash: Some(hash.to_owned()), is_static: true, ..labelled(uid, uid) }
}

#[test]
fn saved_labels_of_a_namespace_stay_with_a_pod_that_has_gone() {
    let saved = |uid: &str, team: Option<&str>| PodFacts {
        namespace_labels: team.map(|team| [("team".to_owned(), team.to_owned())].into()),
        ..labelled(uid, "a")
    };
    let team = |state: &State, uid: &str| {
        let facts = state.lookup(&stream(uid, "tm-1-1")).expect("restored");
        facts.namespace_labels.as_ref().map(|labels| labels["team"].clone())
    };
    let mut state = State::default();
    state.require_namespaces();
    state.restore(vec![saved("u1", Some("x")), saved("u2", Some("x")), saved("u3", None)]);
    apply(&mut state, list([labelled("u2", "a")]));
    assert_eq!(team(&state, "u1").as_deref(), Some("x"));
    assert_eq!(team(&state, "u2").as_deref(), Some("x"), "until its namespace is known");
    let mut told = short(state.apply_namespace(Event::Found(namespace("flink", &[("team", "y")]))));
    told.sort();
    assert_eq!(told, ["u2", "u3"]);
    let teams = ["u1", "u2", "u3"].map(|uid| team(&state, uid));
    let expected = ["x", "y", "y"].map(|team| Some(team.to_owned()));
    assert_eq!(teams, expected, "of what has gone the last that was known");

    let mut without = State::default();
    without.restore(vec![saved("u1", Some("x"))]);
    assert_eq!(team(&without, "u1"), None, "nobody needs them any more");
}

#[test]
fn whoever_claims_a_hash_gets_neither_the_streams_nor_the_facts_of_its_pod() {
    let mut state = State::default();
    let claims = PodFacts { name: "claims".to_owned(), ..mirror("u2", "h1") };
    apply(&mut state, list([mirror("u1", "h1"), claims.clone()]));
    assert!(!claims.owns(&stream("h1", "tm-1-1")));
    assert_eq!(label(&state, "h1").as_deref(), Some("u1"));
    apply(
        &mut state,
        [Event::Changed(PodFacts { pod_ip: Some("10.0.0.9".to_owned()), ..claims.clone() })],
    );
    assert_eq!(label(&state, "h1").as_deref(), Some("u1"));

    let claims_uid = PodFacts { config_hash: Some("u1".to_owned()), ..claims };
    apply(&mut state, [Event::Changed(claims_uid), Event::Deleted(mirror("u1", "h1"))]);
    state.release("u1");
    assert!(!state.pods.contains_key("u1") && state.pods.contains_key("u2"));
}

#[test]
fn of_a_hash_that_changes_only_the_last_is_kept() {
    let mut state = State::default();
    apply(&mut state, (0..100).map(|hash| Event::Changed(mirror("u1", &format!("h{hash}")))));
    assert_eq!(state.fixed.len(), 1);
    assert_eq!(label(&state, "h99").as_deref(), Some("u1"));
    assert_eq!(label(&state, "h0"), None);
}

#[test]
fn a_static_pod_that_was_made_anew_is_released_with_all_that_it_was() {
    let mut state = State::default();
    apply(&mut state, list([mirror("u1", "h")]));
    assert!(label(&state, "h").is_some());
    apply(&mut state, [Event::Deleted(mirror("u1", "h")), Event::Changed(mirror("u2", "h"))]);
    assert!(label(&state, "h").is_some() && state.is_wanted("u1") && state.is_wanted("u2"));
    state.release("h");
    assert!(!state.pods.contains_key("u1") && !state.is_wanted("u2"));
}

#[test]
fn static_pods_are_found_by_hash_or_else_by_name() {
    let mut state = State::default();
    let nameless =
        PodFacts { is_static: true, name: "etcd-node-a".to_owned(), ..labelled("u9", "u9") };
    apply(&mut state, list([mirror("u1", "h1"), nameless]));
    assert_eq!(label(&state, "h1").as_deref(), Some("u1"));
    assert_eq!(label(&state, "h2"), None);
    let by_name = state.lookup(&stream("some-hash", "etcd-node-a"));
    assert_eq!(by_name.map(|facts| facts.uid.clone()).as_deref(), Some("u9"));

    // The mirror pod is made anew: the same manifest under another UID, then another manifest.
    apply(&mut state, [Event::Changed(mirror("u2", "h1")), Event::Deleted(mirror("u1", "h1"))]);
    assert_eq!(label(&state, "u1").as_deref(), Some("u1"));
    state.release("u1");
    apply(&mut state, [Event::Changed(mirror("u3", "h3"))]);
    assert_eq!(label(&state, "h3").as_deref(), Some("u3"));
}

#[test]
fn the_hash_stays_with_the_pod_that_is_there() {
    let mut state = State::default();
    apply(&mut state, list([mirror("u1", "h")]));
    apply(&mut state, [Event::Changed(mirror("u2", "h")), Event::Deleted(mirror("u1", "h"))]);
    assert_eq!(label(&state, "h").as_deref(), Some("u2"));
}

#[test]
fn pods_get_the_labels_of_their_namespace_once_they_are_required() {
    let mut state = State::default();
    apply(&mut state, list([labelled("u1", "a")]));
    assert_eq!(
        short(state.apply_namespace(Event::Found(namespace("flink", &[("team", "x")])))),
        [""; 0]
    );
    assert!(!state.knows_namespaces());
    assert_eq!(short(state.require_namespaces()), ["lost"]);
    let mut changes = Vec::new();
    for event in [
        Event::Init,
        Event::Found(namespace("flink", &[("team", "x")])),
        Event::Found(namespace("other", &[])),
        Event::InitDone,
        Event::Changed(namespace("flink", &[("team", "x")])),
    ] {
        changes.extend(short(state.apply_namespace(event)));
    }
    assert_eq!(changes, ["u1", "sync"]);
    assert_eq!(apply(&mut state, [Event::Changed(labelled("u1", "a"))]), [""; 0]);
    apply(&mut state, [Event::Changed(labelled("u2", "a"))]);
    let known = state.lookup(&stream("u2", "tm-1-1")).unwrap();
    assert_eq!(known.namespace_labels.as_ref().unwrap()["team"], "x");
    let renamed = Event::Changed(namespace("flink", &[("team", "y")]));
    let mut told = short(state.apply_namespace(renamed));
    told.sort();
    assert_eq!(told, ["u1", "u2"]);
}

#[test]
fn a_namespace_that_went_leaves_its_pods_their_labels() {
    let mut state = State::default();
    state.require_namespaces();
    let team = namespace("flink", &[("team", "x")]);
    state.apply_namespace(Event::Found(team.clone()));
    apply(&mut state, list([labelled("u1", "a")]));
    state.apply_namespace(Event::Deleted(team));
    assert_eq!(apply(&mut state, [Event::Changed(labelled("u1", "b"))]), ["u1"]);
    let known = state.lookup(&stream("u1", "tm-1-1")).unwrap();
    assert_eq!(known.namespace_labels.as_ref().unwrap()["team"], "x");
    state.apply_namespace(Event::Init);
    assert_eq!(short(state.apply_namespace(Event::InitDone)), ["sync"]);
    assert!(!state.knows_namespaces());
}

/// A pod of a Flink cluster, and what is known of that by now.
fn flink_pod(uid: &str, cluster: &str) -> PodFacts {
    let labels = [("app", cluster), ("type", "flink-native-kubernetes")];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
    PodFacts { labels: labels.into(), ..pod(uid, "tm-1-1") }
}

fn flink(state: &State, uid: &str) -> Option<FlinkFacts> {
    state.lookup(&stream(uid, "tm-1-1"))?.flink.clone()
}

fn job_state(state: &State, uid: &str) -> Option<String> {
    flink(state, uid)?.job.state
}

#[test]
fn what_the_operator_says_comes_to_pods_before_and_after_them() {
    let mut state = State::default();
    apply(&mut state, list([flink_pod("u1", "orders"), flink_pod("u2", "invoices")]));
    assert_eq!(flink(&state, "u1"), None, "nobody waits for it");
    let changes = state.apply_deployment(Event::Changed(deployment(orders("RECONCILING"))));
    assert_eq!(short(changes), ["u1"]);
    assert_eq!(flink(&state, "u1").unwrap().version.as_deref(), Some("1.20"));
    assert_eq!(job_state(&state, "u1"), None);
    let changes = state.apply_deployment(Event::Changed(deployment(orders("CREATED"))));
    assert_eq!(short(changes), ["u1"]);
    let changes = state.apply_deployment(Event::Changed(deployment(orders("RUNNING"))));
    assert_eq!(short(changes), [""; 0], "the state at the start is known already");
    assert_eq!(apply(&mut state, [Event::Changed(flink_pod("u3", "orders"))]), ["u3"]);
    assert_eq!(job_state(&state, "u1").as_deref(), Some("CREATED"));
    assert_eq!(job_state(&state, "u3").as_deref(), Some("RUNNING"));
    assert_eq!(flink(&state, "u2"), None);
}

/// The operator deploys the next job before its status speaks of it.
#[test]
fn the_last_state_of_a_job_is_not_that_at_the_start_of_the_next() {
    for last in ["FINISHED", "CANCELED", "FAILED", "SUSPENDED"] {
        let mut state = State::default();
        state.apply_deployment(Event::Changed(deployment(orders(last))));
        apply(&mut state, list([flink_pod("u1", "orders")]));
        assert_eq!(job_state(&state, "u1"), None, "{last}");
        state.apply_deployment(Event::Changed(deployment(orders("CREATED"))));
        assert_eq!(job_state(&state, "u1").as_deref(), Some("CREATED"), "{last}");
    }
}

#[test]
fn what_the_operator_said_stays_with_a_pod_that_is_there_gone_or_saved() {
    let mut state = State::default();
    state.apply_deployment(Event::Changed(deployment(orders("RUNNING"))));
    apply(&mut state, list([flink_pod("u1", "orders"), flink_pod("u2", "orders")]));
    assert_eq!(job_state(&state, "u1").as_deref(), Some("RUNNING"));
    let gone = Event::Deleted(deployment(orders("FINISHED")));
    assert_eq!(short(state.apply_deployment(gone)), [""; 0]);
    assert_eq!(apply(&mut state, [Event::Changed(flink_pod("u1", "orders"))]), [""; 0]);
    apply(&mut state, [Event::Deleted(flink_pod("u2", "orders"))]);
    for uid in ["u1", "u2"] {
        assert_eq!(job_state(&state, uid).as_deref(), Some("RUNNING"), "{uid}");
    }
    state.apply_deployment(Event::Changed(deployment(orders("FAILED"))));
    assert_eq!(job_state(&state, "u2").as_deref(), Some("RUNNING"));

    let saved = ["u1", "u2"].map(|uid| (*state.lookup(&stream(uid, "tm-1-1")).unwrap()).clone());
    let mut next = State::default();
    next.restore(saved.into());
    next.apply_deployment(Event::Changed(deployment(orders("FAILED"))));
    apply(&mut next, list([flink_pod("u1", "orders")]));
    for uid in ["u1", "u2"] {
        assert_eq!(job_state(&next, uid).as_deref(), Some("RUNNING"), "{uid} after a restart");
    }
}

#[test]
fn what_the_operator_says_has_no_part_in_being_in_sync() {
    let mut state = State::default();
    assert_eq!(short(state.apply_deployment(Event::OutOfSync)), [""; 0]);
    assert_eq!(apply(&mut state, list([])), ["sync"]);
    assert_eq!(short(state.apply_deployment(Event::Init)), [""; 0]);
    assert_eq!(short(state.apply_session_job(Event::OutOfSync)), [""; 0]);
    assert!(state.in_sync());
}

#[test]
fn pods_of_a_session_cluster_hear_of_its_jobs() {
    let id = "b18f0b529989bee72c64dff467c6eee0";
    let mut state = State::default();
    apply(&mut state, list([flink_pod("u1", "session")]));
    let first = session_job(job("a", id, "RUNNING"));
    assert_eq!(short(state.apply_session_job(Event::Changed(first))), [""; 0], "of what cluster?");
    assert_eq!(short(state.apply_deployment(Event::Changed(deployment(session())))), ["u1"]);
    assert_eq!(flink(&state, "u1").unwrap().jobs[id].name.as_deref(), Some("a job"));
    let other = session_job(job("b", &id.replace('b', "c"), "CREATED"));
    assert_eq!(short(state.apply_session_job(Event::Changed(other.clone()))), ["u1"]);
    state.apply_session_job(Event::Deleted(other));
    apply(&mut state, [Event::Changed(flink_pod("u1", "session"))]);
    assert_eq!(flink(&state, "u1").unwrap().jobs.len(), 2, "its last lines may still come");
}
