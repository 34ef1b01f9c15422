//! What Flink's operator says of clusters and jobs, from a real API server that has its kinds.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::support::captures::Line;
use crate::support::cri::Log;
use crate::support::elastic::{Document, Elastic, Index};
use crate::support::fields::{self, text};
use crate::support::kube::Cluster;
use crate::support::node::Node;
use crate::support::pods::Pod;
use crate::support::{SOON, wait_until};

const JOB: &str = "b18f0b529989bee72c64dff467c6eee0";
const OTHER_JOB: &str = "c18f0b529989bee72c64dff467c6eee1";

/// A server with the operator's kinds and a kubeconfig that may read what the agent asks for.
fn cluster() -> (Cluster, NamedTempFile) {
    let cluster = Cluster::new();
    cluster.define_flink();
    let kubeconfig = NamedTempFile::new().unwrap();
    cluster.flink_reader(kubeconfig.path());
    (cluster, kubeconfig)
}

fn node(cluster: &Cluster, kubeconfig: &Path, index: &Index<'_>, elastic: &Elastic) -> Node {
    let node = Node::in_cluster(&cluster.node, kubeconfig);
    node.set_kubernetes("flink: watch");
    let pipeline = format!(
        "pipeline: flink\nselect:\n  - select: {{labels: {{type: \"flink-*\"}}}}\n\
         output:\n  elasticsearch:\n    hosts: [{url}]\n    index: {index}\n    \
         batch: {{size: 64KiB, linger: 100ms}}\n",
        url = elastic.url,
        index = index.name,
    );
    node.pipeline("flink", &pipeline);
    node
}

/// A TaskManager on the cluster's node.
fn taskmanager(cluster: &Cluster, name: &str) -> Pod {
    let mut pod = Pod::taskmanager(&cluster.namespace, name, 1);
    pod.node.clone_from(&cluster.node);
    cluster.add_pod(&mut pod);
    pod
}

fn application(state: &str) -> [Value; 2] {
    let spec = json!({
        "image": "registry.example.com/flink/orders:1.20.1-java17",
        "flinkVersion": "v1_20",
        "serviceAccount": "flink",
        "mode": "native",
        "jobManager": {"resource": {"memory": "2048m", "cpu": 1}},
        "taskManager": {"resource": {"memory": "2048m", "cpu": 1}},
        "podTemplate": {"spec": {"containers": [{"name": "flink-main-container"}]}},
        "job": {"jarURI": "local:///opt/flink/usrlib/orders.jar", "parallelism": 2},
    });
    let job = json!({"jobId": JOB, "jobName": "Orders to invoices", "state": state});
    [spec, json!({"jobManagerDeploymentStatus": "READY", "jobStatus": job})]
}

fn of_job(id: &str, message: &str) -> Line {
    Line::stdout(json!({"message": message, "flink-job-id": id}).to_string())
}

/// Writes a line that is a job's until a document shows what the operator says; nobody waits for
/// it, so that the first lines may go without.
fn write_until_told(log: &mut Log, index: &Index<'_>, id: &str, field: &str) {
    wait_until(SOON, "the operator's word is in documents", || {
        let before = index.count();
        log.line(&of_job(id, "are you there?"));
        wait_until(SOON, "the line is indexed", || index.count() > before);
        index.documents().iter().any(|document| text(&document.source, field).is_some())
    });
}

/// The documents whose message begins so.
fn about(index: &Index<'_>, message: &str) -> Vec<Document> {
    let is_it = |document: &Document| {
        text(&document.source, "message").is_some_and(|text| text.starts_with(message))
    };
    index.documents().into_iter().filter(is_it).collect()
}

fn check(document: &Document, expected: &[(&str, Option<&str>)]) {
    for (field, wanted) in expected {
        fields::check(&document.source, field, *wanted);
    }
}

#[test]
fn the_example_is_a_job_for_the_operator() {
    let (cluster, _kubeconfig) = cluster();
    let job = include_str!("../../daemonset/example/job.yaml");
    let namespace = "  namespace: flink\n";
    assert!(job.contains(namespace));
    cluster.check(&job.replace(namespace, ""));
}

#[test]
fn an_application_clusters_version_mode_and_job_are_in_its_documents() {
    let elastic = Elastic::plain();
    let (cluster, kubeconfig) = cluster();
    let index = elastic.missing_index();
    let pod = taskmanager(&cluster, "orders");
    let [spec, status] = application("CREATED");
    cluster.flink("FlinkDeployment", "orders", &spec, &status);
    let node = node(&cluster, kubeconfig.path(), &index, &elastic);
    let mut log = Log::create(&node.root(), &pod, 0);

    let agent = node.run();
    write_until_told(&mut log, &index, JOB, "flink.version");
    let [spec, status] = application("RUNNING");
    cluster.flink("FlinkDeployment", "orders", &spec, &status);
    log.lines(&[of_job(JOB, "of a job"), Line::stdout("a text")]);
    wait_until(SOON, "both lines are indexed", || {
        about(&index, "of a job").len() == 1 && about(&index, "a text").len() == 1
    });
    let expected = [
        ("flink.version", Some("1.20")),
        ("flink.mode", Some("native")),
        ("flink.job.name", Some("Orders to invoices")),
        ("flink.job.state", Some("CREATED")),
        ("flink.deployment", Some("orders")),
        ("flink.taskmanager.id", Some(pod.name.as_str())),
    ];
    check(&about(&index, "of a job")[0], &expected);
    check(&about(&index, "of a job")[0], &[("flink.job.id", Some(JOB))]);
    check(&about(&index, "a text")[0], &expected);

    // What was said outlives the agent, the cluster and its pod.
    assert_eq!(agent.terminate(), Some(0));
    cluster.delete_flink("FlinkDeployment", "orders");
    cluster.delete_pod(&pod);
    log.line(&of_job(JOB, "after the end"));
    assert_eq!(node.run_once().documents_indexed, 1);
    check(&about(&index, "after the end")[0], &expected);
}

#[test]
fn the_jobs_of_a_session_cluster_are_told_apart_by_the_ids_in_their_lines() {
    let elastic = Elastic::plain();
    let (cluster, kubeconfig) = cluster();
    let index = elastic.missing_index();
    let pod = taskmanager(&cluster, "session");
    let spec = json!({"flinkVersion": "v1_19", "mode": "standalone"});
    cluster.flink("FlinkDeployment", "session", &spec, &json!({}));
    let job = |name: &str, id: &str, cluster_name: &str| {
        let spec = json!({
            "deploymentName": cluster_name,
            "job": {"jarURI": "https://example.com/orders.jar", "parallelism": 1},
        });
        let status = json!({"jobId": id, "jobName": name, "state": "RUNNING"});
        cluster.flink("FlinkSessionJob", name, &spec, &json!({"jobStatus": status}));
    };
    job("orders", JOB, "session");
    job("elsewhere", &OTHER_JOB.replace('c', "d"), "another-session");
    let node = node(&cluster, kubeconfig.path(), &index, &elastic);
    let mut log = Log::create(&node.root(), &pod, 0);

    let agent = node.run();
    write_until_told(&mut log, &index, JOB, "flink.job.name");
    // A job that is submitted while the agent runs.
    job("invoices", OTHER_JOB, "session");
    wait_until(SOON, "the second job is in documents", || {
        let before = index.count();
        log.line(&of_job(OTHER_JOB, "second"));
        wait_until(SOON, "the line is indexed", || index.count() > before);
        let second = about(&index, "second");
        second.iter().any(|second| text(&second.source, "flink.job.name").is_some())
    });
    log.lines(&[
        of_job(JOB, "of the first"),
        of_job(OTHER_JOB, "of the second"),
        of_job(&OTHER_JOB.replace('c', "d"), "of a job elsewhere"),
        Line::stdout("of no job"),
    ]);
    wait_until(SOON, "the last line is indexed", || about(&index, "of no job").len() == 1);
    let of = |message: &str, name: Option<&str>, state: Option<&str>| {
        let documents = about(&index, message);
        assert_eq!(documents.len(), 1, "{message}");
        let expected = [
            ("flink.version", Some("1.19")),
            ("flink.mode", Some("standalone")),
            ("flink.job.name", name),
            ("flink.job.state", state),
        ];
        check(&documents[0], &expected);
    };
    of("of the first", Some("orders"), Some("RUNNING"));
    of("of the second", Some("invoices"), Some("RUNNING"));
    of("of a job elsewhere", None, None);
    of("of no job", None, None);
    assert_eq!(agent.terminate(), Some(0));
}

/// The token may read pods only, so all that is asked for besides is refused.
#[test]
fn without_the_right_to_ask_documents_come_all_the_same() {
    let elastic = Elastic::plain();
    let cluster = Cluster::new();
    let index = elastic.missing_index();
    let pod = taskmanager(&cluster, "orders");
    let kubeconfig = NamedTempFile::new().unwrap();
    cluster.pod_reader(kubeconfig.path());
    let node = node(&cluster, kubeconfig.path(), &index, &elastic);
    Log::with_lines(&node.root(), &pod, 0, &[of_job(JOB, "a line")]);
    assert_eq!(node.run_once().documents_indexed, 1);
    let expected = [
        ("flink.deployment", Some("orders")),
        ("flink.job.id", Some(JOB)),
        ("flink.version", None),
    ];
    check(&about(&index, "a line")[0], &expected);
}
