use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// What is kept of an object as the API server gives it.
pub(in crate::enrich) fn deployment(object: Value) -> Deployment {
    Deployment::of(&serde_json::from_value(object).unwrap()).unwrap()
}

pub(in crate::enrich) fn session_job(object: Value) -> SessionJob {
    SessionJob::of(&serde_json::from_value(object).unwrap()).unwrap()
}

/// An application cluster as the operator keeps it, shortened.
pub(in crate::enrich) fn orders(state: &str) -> Value {
    json!({
        "apiVersion": "flink.apache.org/v1beta1",
        "kind": "FlinkDeployment",
        "metadata": {"name": "orders", "namespace": "flink", "uid": "u", "generation": 2},
        "spec": {
            "image": "registry.example.com/flink/orders:1.20.1-java17",
            "flinkVersion": "v1_20",
            "flinkConfiguration": {"s3.secret-key": "s3cret"},
            "podTemplate": {"spec": {"containers": [{"name": "flink-main-container"}]}},
            "job": {"jarURI": "local:///opt/flink/usrlib/orders.jar", "parallelism": 2}
        },
        "status": {
            "clusterInfo": {"flink-version": "1.20.1"},
            "jobManagerDeploymentStatus": "READY",
            "jobStatus": {
                "jobId": "b18f0b529989bee72c64dff467c6eee0",
                "jobName": "Orders to invoices",
                "state": state
            }
        }
    })
}

/// A session cluster.
pub(in crate::enrich) fn session() -> Value {
    json!({
        "metadata": {"name": "session", "namespace": "flink"},
        "spec": {"flinkVersion": "v2_0", "mode": "standalone", "job": null}
    })
}

/// A job of it.
pub(in crate::enrich) fn job(name: &str, id: &str, state: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "flink"},
        "spec": {"deploymentName": "session", "job": {"jarURI": "https://example.com/a.jar"}},
        "status": {"jobStatus": {"jobId": id, "jobName": format!("{name} job"), "state": state}}
    })
}

const ID: &str = "b18f0b529989bee72c64dff467c6eee0";

fn pod_of(cluster: &str) -> BTreeMap<String, String> {
    let labels =
        [("app", cluster), ("component", "taskmanager"), ("type", "flink-native-kubernetes")];
    labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

fn facts(clusters: &Clusters, cluster: &str) -> Option<FlinkFacts> {
    clusters.facts("flink", &pod_of(cluster))
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn of_an_application_cluster_version_mode_and_job_are_kept() {
    let mut clusters = Clusters::default();
    let touched = clusters.apply_deployment(Event::Changed(deployment(orders("RUNNING"))));
    assert_eq!(touched, [("flink".to_owned(), "orders".to_owned())].into());
    let job = JobFacts { name: text("Orders to invoices"), state: text("RUNNING") };
    let expected =
        FlinkFacts { version: text("1.20"), mode: text("native"), job, jobs: BTreeMap::new() };
    assert_eq!(facts(&clusters, "orders"), Some(expected));
    assert!(!format!("{clusters:?}").contains("s3cret"));
    assert_eq!(clusters.facts("other", &pod_of("orders")), None);
    assert_eq!(facts(&clusters, "invoices"), None);
    let not_flinks = BTreeMap::from([("app".to_owned(), "orders".to_owned())]);
    assert_eq!(clusters.facts("flink", &not_flinks), None);
}

#[test]
fn the_jobs_of_a_session_cluster_are_told_apart_by_their_ids() {
    let mut clusters = Clusters::default();
    clusters.apply_deployment(Event::Changed(deployment(session())));
    let other = ID.replace('b', "C");
    for (name, id) in [("a", ID), ("b", &other), ("c", "no id"), ("d", "")] {
        let touched = clusters.apply_job(Event::Changed(session_job(job(name, id, "RUNNING"))));
        assert_eq!(touched.len(), 1, "{name}");
    }
    let known = facts(&clusters, "session").unwrap();
    assert_eq!((known.version, known.mode), (text("2.0"), text("standalone")));
    assert!(known.job.is_empty());
    let jobs: Vec<(String, Option<String>)> =
        known.jobs.into_iter().map(|(id, job)| (id, job.name)).collect();
    let expected = [(ID.to_owned(), text("a job")), (other.to_lowercase(), text("b job"))];
    assert_eq!(jobs, expected);
    let nothing_new = clusters.apply_job(Event::Changed(session_job(job("a", ID, "RUNNING"))));
    assert!(nothing_new.is_empty());
}

#[test]
fn a_job_that_the_operator_does_not_know_yet_counts_for_nothing() {
    let deployment = deployment(orders("RECONCILING"));
    assert_eq!(deployment.job, Some(JobFacts::default()));
    assert!(!deployment.is_session());
}

#[test]
fn what_is_missing_is_left_out() {
    let bare = deployment(json!({"metadata": {"name": "n", "namespace": "s"}}));
    assert_eq!((&bare.version, bare.mode.as_str(), bare.is_session()), (&None, "native", true));
    let nothing = json!({"spec": {"job": {}}});
    assert_eq!(Deployment::of(&serde_json::from_value(nothing).unwrap()), None);
    let no_cluster = json!({"metadata": {"name": "n", "namespace": "s"}, "spec": {}});
    assert_eq!(SessionJob::of(&serde_json::from_value(no_cluster).unwrap()), None);
}

#[test]
fn versions_are_written_as_people_do() {
    for (given, expected) in
        [("v1_20", "1.20"), ("v2_0", "2.0"), ("vanilla", "vanilla"), ("1.19", "1.19")]
    {
        assert_eq!(version(given), text(expected));
    }
    assert_eq!(version(""), None);
}

#[test]
fn a_pod_keeps_the_specification_and_the_state_that_it_was_first_seen_with() {
    let seen = |version: &str, name: &str, state: Option<&str>| FlinkFacts {
        version: text(version),
        mode: text("native"),
        job: JobFacts { name: text(name), state: state.and_then(text) },
        jobs: BTreeMap::new(),
    };
    let mut later = seen("1.20", "Orders", Some("CREATED"));
    later.inherit(&seen("1.19", "Order", None));
    assert_eq!(later, seen("1.19", "Orders", Some("CREATED")));
    let mut last = seen("1.20", "Orders", Some("RUNNING"));
    last.inherit(&later);
    assert_eq!(last, later);
}

#[test]
fn jobs_that_have_ended_are_kept_with_the_pod_as_far_as_there_is_room() {
    let job = |name: &str| JobFacts { name: text(name), state: text("RUNNING") };
    let of = |range: std::ops::Range<usize>, name| FlinkFacts {
        jobs: range.map(|number| (format!("{number:032x}"), job(name))).collect(),
        ..FlinkFacts::default()
    };
    let mut now = of(10..12, "new");
    now.inherit(&of(0..MAX_JOBS, "old"));
    assert_eq!(now.jobs.len(), MAX_JOBS);
    assert!((10..12).all(|number| now.jobs[&format!("{number:032x}")] == job("new")));
    assert_eq!(now.jobs[&format!("{:032x}", 0)], job("old"));
}

#[test]
fn a_list_shows_what_went_and_a_deletion_takes_one() {
    let mut clusters = Clusters::default();
    let first = deployment(orders("RUNNING"));
    let second = deployment(session());
    for event in
        [Event::Init, Event::Found(first.clone()), Event::Found(second.clone()), Event::InitDone]
    {
        clusters.apply_deployment(event);
    }
    assert!(facts(&clusters, "orders").is_some() && facts(&clusters, "session").is_some());
    for event in [Event::Init, Event::Found(first.clone()), Event::InitDone] {
        clusters.apply_deployment(event);
    }
    assert!(facts(&clusters, "orders").is_some() && facts(&clusters, "session").is_none());
    for event in [Event::OutOfSync, Event::Init] {
        clusters.apply_deployment(event);
    }
    assert!(facts(&clusters, "orders").is_some(), "a list that has only begun says nothing");
    assert!(clusters.apply_deployment(Event::Deleted(first)).is_empty());
    assert_eq!(facts(&clusters, "orders"), None);
}

#[test]
fn there_is_a_limit_to_how_many_are_kept() {
    let mut clusters = Clusters::default();
    let numbered = |number: usize| Deployment {
        key: ("flink".to_owned(), format!("c{number}")),
        ..deployment(orders("RUNNING"))
    };
    clusters.apply_deployment(Event::Init);
    for number in 0..MAX_OBJECTS + 10 {
        clusters.apply_deployment(Event::Found(numbered(number)));
    }
    clusters.apply_deployment(Event::InitDone);
    clusters.apply_deployment(Event::Changed(numbered(MAX_OBJECTS + 11)));
    assert_eq!(clusters.deployments.objects.len(), MAX_OBJECTS);
    assert!(facts(&clusters, "c0").is_some());
    let changed = Deployment { mode: "standalone".to_owned(), ..numbered(0) };
    assert_eq!(clusters.apply_deployment(Event::Changed(changed)).len(), 1);
    clusters.apply_deployment(Event::Deleted(numbered(0)));
    clusters.apply_deployment(Event::Changed(numbered(MAX_OBJECTS + 11)));
    assert!(facts(&clusters, &format!("c{}", MAX_OBJECTS + 11)).is_some());
}

proptest! {
    #[test]
    fn texts_of_any_length_are_kept_to_a_limit(name in ".{0,600}", version in ".{0,600}") {
        let mut object = orders("RUNNING");
        object["status"]["jobStatus"]["jobName"] = json!(name);
        object["spec"]["flinkVersion"] = json!(version);
        let kept = deployment(object);
        let job = kept.job.unwrap();
        prop_assert_eq!(job.name.is_none(), name.is_empty());
        prop_assert!(job.name.is_none_or(|kept| name.starts_with(&kept) && kept.chars().count() <= MAX_CHARS));
        prop_assert!(kept.version.is_none_or(|kept| kept.chars().count() <= MAX_CHARS));
    }
}
