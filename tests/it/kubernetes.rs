//! Facts about pods from a real API server.

use serde_json::Value;

use crate::support::captures::Line;
use crate::support::cri::Log;
use crate::support::elastic::{Document, Elastic, Index};
use crate::support::fields::{self, text};
use crate::support::kube::Cluster;
use crate::support::node::Node;
use crate::support::pods::Pod;
use crate::support::{SOON, wait_until};

/// Takes what has a Flink label, so nothing of a pod that isn't known.
fn pipeline(index: &Index<'_>, url: &str) -> String {
    format!(
        "pipeline: flink\nselect:\n  - select: {{labels: {{type: \"flink-*\"}}}}\n\
         output:\n  elasticsearch:\n    hosts: [{url}]\n    index: {index}\n    \
         batch: {{size: 64KiB, linger: 100ms}}\n",
        index = index.name,
    )
}

fn lines(prefix: &str) -> Vec<Line> {
    (0..50).map(|number| Line::stdout(format!("{prefix} {number}"))).collect()
}

/// A TaskManager of the cluster's, on its node.
fn taskmanager(cluster: &Cluster) -> Pod {
    let mut pod = Pod::taskmanager(&cluster.namespace, "orders", 1);
    pod.node.clone_from(&cluster.node);
    pod
}

fn check_facts(documents: &[Document], pod: &Pod) {
    for document in documents {
        let is = |name: &str, wanted: &str| fields::check(&document.source, name, wanted);
        is("kubernetes.pod_name", &pod.name);
        is("kubernetes.pod_id", &pod.uid);
        is("kubernetes.pod_ip", &pod.ip);
        is("kubernetes.host", &pod.node);
        is("kubernetes.container_image", &pod.image);
        is("kubernetes.docker_id", &pod.container_ids[0]);
        is("kubernetes.labels.app", "orders");
        is("flink.component", "taskmanager");
    }
}

#[test]
fn a_token_that_may_only_read_pods_is_enough() {
    let (elastic, cluster) = (Elastic::plain(), Cluster::new());
    let index = elastic.missing_index();
    let mut pod = taskmanager(&cluster);
    cluster.add_pod(&mut pod);
    let kubeconfig = tempfile::NamedTempFile::new().unwrap();
    cluster.pod_reader(kubeconfig.path());
    let node = Node::in_cluster(&cluster.node, kubeconfig.path());
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    Log::with_lines(&node.root(), &pod, 0, &lines("line"));

    let summary = node.run_once();
    assert_eq!(summary.documents_indexed, 50);
    check_facts(&index.documents(), &pod);
}

/// The server's Node authorizer refuses a list of all pods to a kubelet, so an agent that gets on
/// with a kubelet's rights asks for its own node's pods only.
#[test]
fn pods_of_other_nodes_are_not_asked_for() {
    let (elastic, cluster) = (Elastic::plain(), Cluster::new());
    let index = elastic.missing_index();
    let mut pod = taskmanager(&cluster);
    cluster.add_pod(&mut pod);
    let kubeconfig = tempfile::NamedTempFile::new().unwrap();
    cluster.kubelet(kubeconfig.path(), &cluster.node);
    let node = Node::in_cluster(&cluster.node, kubeconfig.path());
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    Log::with_lines(&node.root(), &pod, 0, &lines("line"));

    let summary = node.run_once();
    assert_eq!(summary.documents_indexed, 50);
    check_facts(&index.documents(), &pod);
}

#[test]
fn a_log_waits_for_a_pod_that_appears_later() {
    let (elastic, cluster) = (Elastic::plain(), Cluster::new());
    let index = elastic.missing_index();
    let mut known = Pod::jobmanager(&cluster.namespace, "orders");
    known.node.clone_from(&cluster.node);
    cluster.add_pod(&mut known);
    let mut late = taskmanager(&cluster);
    cluster.add_unbound_pod(&mut late);
    let kubeconfig = tempfile::NamedTempFile::new().unwrap();
    cluster.pod_reader(kubeconfig.path());
    let node = Node::in_cluster(&cluster.node, kubeconfig.path());
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    Log::with_lines(&node.root(), &late, 0, &lines("late"));
    Log::with_lines(&node.root(), &known, 0, &lines("known"));

    let agent = node.run();
    wait_until(SOON, "the known pod's lines are indexed", || index.count() >= 50);
    let early = index.documents();
    let of_late = |document: &&Document| {
        text(&document.source, "message").is_some_and(|message| message.starts_with("late"))
    };
    assert_eq!(early.iter().filter(of_late).count(), 0, "shipped before the pod was known");

    cluster.bind(&late);
    wait_until(SOON, "the late pod's lines are indexed", || index.count() >= 100);
    assert_eq!(agent.terminate(), Some(0));
    let documents = index.documents();
    let of_late: Vec<Document> = documents.iter().filter(of_late).cloned().collect();
    assert_eq!((documents.len(), of_late.len()), (100, 50));
    check_facts(&of_late, &late);
}

#[test]
fn a_deleted_pod_keeps_its_facts_until_its_files_are_read() {
    let (elastic, cluster) = (Elastic::plain(), Cluster::new());
    let index = elastic.missing_index();
    let mut pod = taskmanager(&cluster);
    cluster.add_pod(&mut pod);
    let kubeconfig = tempfile::NamedTempFile::new().unwrap();
    cluster.pod_reader(kubeconfig.path());
    let node = Node::in_cluster(&cluster.node, kubeconfig.path());
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    let mut log = Log::with_lines(&node.root(), &pod, 0, &lines("before"));

    let agent = node.run();
    wait_until(SOON, "the first lines are indexed", || index.count() >= 50);
    cluster.delete_pod(&pod);
    log.lines(&lines("after"));
    wait_until(SOON, "the lines after the deletion are indexed", || index.count() >= 100);
    assert_eq!(agent.terminate(), Some(0));

    log.lines(&lines("after a restart"));
    let summary = node.run_once();
    assert_eq!(summary.documents_indexed, 50);
    let documents = index.documents();
    assert_eq!(documents.len(), 150);
    check_facts(&documents, &pod);
}

#[test]
fn a_changed_label_is_in_the_documents_that_follow() {
    let (elastic, cluster) = (Elastic::plain(), Cluster::new());
    let index = elastic.missing_index();
    let mut pod = taskmanager(&cluster);
    cluster.add_pod(&mut pod);
    let kubeconfig = tempfile::NamedTempFile::new().unwrap();
    cluster.pod_reader(kubeconfig.path());
    let node = Node::in_cluster(&cluster.node, kubeconfig.path());
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    let mut log = Log::with_lines(&node.root(), &pod, 0, &lines("before"));

    assert_eq!(node.run_once().documents_indexed, 50);
    cluster.set_label(&pod, "stage", "two");
    log.lines(&lines("after"));
    assert_eq!(node.run_once().documents_indexed, 50);
    let stages: Vec<Value> = index
        .documents()
        .iter()
        .map(|document| document.source["kubernetes"]["labels"]["stage"].clone())
        .collect();
    assert!(stages[..50].iter().all(Value::is_null), "{stages:?}");
    assert!(stages[50..].iter().all(|stage| stage == "two"), "{stages:?}");
}
