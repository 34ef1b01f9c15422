//! Facts about pods from a real API server.

use serde_json::Value;

use crate::support::account::Account;
use crate::support::captures::Line;
use crate::support::cri::Log;
use crate::support::elastic::{Document, Elastic, Index};
use crate::support::fields::{self, text};
use crate::support::kube::Cluster;
use crate::support::node::{Agent, Node};
use crate::support::pods::Pod;
use crate::support::road::Road;
use crate::support::{SOON, wait_until};

/// Takes what has a Flink label, so nothing of a pod that isn't known.
fn pipeline(index: &Index<'_>, url: &str) -> String {
    taking("labels: {type: \"flink-*\"}", index, url)
}

/// Takes what is in a namespace with this label.
fn by_namespace(index: &Index<'_>, url: &str) -> String {
    taking("namespace_labels: {logs: kept}", index, url)
}

fn taking(criteria: &str, index: &Index<'_>, url: &str) -> String {
    format!(
        "pipeline: flink\nselect:\n  - select: {{{criteria}}}\n\
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

/// How many of the documents have a message that begins so.
fn about(documents: &[Document], message: &str) -> usize {
    let is_it = |document: &&Document| {
        text(&document.source, "message").is_some_and(|text| text.starts_with(message))
    };
    documents.iter().filter(is_it).count()
}

#[test]
fn a_namespaces_labels_decide_and_decide_again_when_they_change() {
    let elastic = Elastic::plain();
    let (first, second) = (Cluster::new(), Cluster::new());
    let index = elastic.missing_index();
    let mut pods = [taskmanager(&first), taskmanager(&second)];
    pods[1].node.clone_from(&first.node);
    first.add_pod(&mut pods[0]);
    second.add_pod(&mut pods[1]);
    first.set_namespace_label("logs", "kept");
    let kubeconfig = tempfile::NamedTempFile::new().unwrap();
    first.namespace_reader(kubeconfig.path());
    let node = Node::in_cluster(&first.node, kubeconfig.path());
    node.pipeline("flink", &by_namespace(&index, &elastic.url));
    let mut logs = pods.each_ref().map(|pod| Log::create(&node.root(), pod, 0));
    logs[0].lines(&lines("first"));
    logs[1].lines(&lines("second"));

    let mut agent = node.run();
    agent.wait_ready();
    wait_until(SOON, "what is in the namespace with the label is indexed", || index.count() >= 50);
    let ignored = |agent: &Agent| agent.metric("splashdam_streams", "{state=\"ignored\"}") > 0.0;
    wait_until(SOON, "the other is ignored", || ignored(&agent));
    let documents = index.documents();
    assert_eq!((documents.len(), about(&documents, "first")), (50, 50));
    for document in &documents {
        fields::check(&document.source, "kubernetes_namespace.labels.logs", "kept");
    }

    second.set_namespace_label("logs", "kept");
    wait_until(SOON, "the other is taken from its beginning", || index.count() >= 100);
    assert_eq!(about(&index.documents(), "second"), 50);
    wait_until(SOON, "none is ignored", || !ignored(&agent));

    first.set_namespace_label("logs", "dropped");
    wait_until(SOON, "the first is ignored", || ignored(&agent));
    logs[0].lines(&lines("first, later"));
    logs[1].lines(&lines("second, later"));
    wait_until(SOON, "what is taken is indexed", || index.count() >= 150);
    assert_eq!(agent.terminate(), Some(0));
    let documents = index.documents();
    assert_eq!((documents.len(), about(&documents, "second")), (150, 100));
}

#[test]
fn a_reload_that_selects_by_namespaces_labels_begins_to_ask_for_them() {
    let (elastic, cluster) = (Elastic::plain(), Cluster::new());
    let indices = [elastic.missing_index(), elastic.missing_index()];
    let mut pod = taskmanager(&cluster);
    cluster.add_pod(&mut pod);
    cluster.set_namespace_label("logs", "kept");
    let kubeconfig = tempfile::NamedTempFile::new().unwrap();
    cluster.namespace_reader(kubeconfig.path());
    let node = Node::in_cluster(&cluster.node, kubeconfig.path());
    node.pipeline("flink", &pipeline(&indices[0], &elastic.url));
    let mut log = Log::with_lines(&node.root(), &pod, 0, &lines("before"));

    let mut agent = node.run();
    agent.wait_ready();
    wait_until(SOON, "the first lines are indexed", || indices[0].count() >= 50);
    let another = by_namespace(&indices[1], &elastic.url)
        .replace("pipeline: flink\n", "pipeline: another\nid_scope: another\n");
    node.pipeline("another", &another);
    agent.hang_up();
    wait_until(SOON, "the new pipeline has them too", || indices[1].count() >= 50);
    agent.wait_ready();
    log.lines(&lines("after"));
    wait_until(SOON, "both have what follows", || indices.iter().all(|index| index.count() >= 100));

    // The watch goes on, and only the new pipeline has to do with it.
    cluster.set_namespace_label("logs", "dropped");
    wait_until(SOON, "documents show the new label", || {
        log.lines(&[Line::stdout("which is it now?")]);
        indices[0].documents().iter().any(|document| {
            text(&document.source, "kubernetes_namespace.labels.logs").as_deref() == Some("dropped")
        })
    });
    assert_eq!(agent.terminate(), Some(0));
    let documents = indices[1].documents();
    assert_eq!((about(&documents, "before"), about(&documents, "after")), (50, 50));
    for document in &documents {
        fields::check(&document.source, "kubernetes_namespace.labels.logs", "kept");
    }
    let documents = indices[0].documents();
    let labels = |document: &Document| text(&document.source, "kubernetes_namespace.labels.logs");
    assert!(documents[..50].iter().all(|document| labels(document).is_none()), "nobody asked");
}

/// As in the pod of the manifests: no kubeconfig, but files that the kubelet keeps current.
#[test]
fn a_service_accounts_files_are_enough_and_a_new_token_is_taken_up() {
    let (elastic, cluster) = (Elastic::plain(), Cluster::new());
    let index = elastic.missing_index();
    let mut pod = taskmanager(&cluster);
    cluster.add_pod(&mut pod);
    let reader = cluster.reading_account();
    let old = cluster.bound_token(&reader);
    let road = Road::to(cluster.address());
    let account = Account::new(road.address(), cluster.authority(), &cluster.namespace);
    account.set_token(&old.text);
    let node = Node::with_account(&cluster.node, account);
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    let mut log = Log::with_lines(&node.root(), &pod, 0, &lines("before"));

    let mut agent = node.run();
    // The account's rights count a moment after they were given: the agent may have come before.
    agent.wait_ready_again();
    wait_until(SOON, "the first lines are indexed", || index.count() >= 50);
    check_facts(&index.documents(), &pod);

    let new = cluster.bound_token(&reader);
    node.account().set_token(&new.text);
    cluster.end_tokens(&[old]);
    road.close();
    wait_until(SOON, "the agent has lost its server", || !agent.is_ready());
    cluster.set_label(&pod, "stage", "two");
    road.open();
    agent.wait_ready_again();
    wait_until(SOON, "documents show what changed meanwhile", || {
        log.line(&Line::stdout("which stage is it?"));
        let shows = |document: &Document| document.source["kubernetes"]["labels"]["stage"] == "two";
        index.documents().iter().any(shows)
    });
    assert_eq!(agent.terminate(), Some(0));
}
