//! Agents of several nodes at once, on one API server and one index, while pods come, change and
//! go, and while the server does everything that servers do to their clients.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tempfile::NamedTempFile;

use crate::support::captures::Line;
use crate::support::cri::Log;
use crate::support::elastic::{Elastic, Index};
use crate::support::fields::flatten;
use crate::support::kube::{Cluster, Token, replace};
use crate::support::node::{Agent, Node};
use crate::support::pods::Pod;
use crate::support::road::Road;
use crate::support::server::ApiServer;
use crate::support::{AFTER_A_PAUSE, SOON, unique, wait_until};

const NODES: usize = 4;

/// Takes what has a Flink label, so nothing of a pod that isn't known.
fn pipeline(index: &Index<'_>) -> String {
    format!(
        "pipeline: flink\nselect:\n  - select: {{labels: {{type: \"flink-*\"}}}}\n\
         parse:\n  json: {{}}\n\
         output:\n  elasticsearch:\n    hosts: [{url}]\n    index: {index}\n    \
         batch: {{size: 64KiB, linger: 100ms}}\n",
        url = index.url(),
        index = index.name,
    )
}

/// The value of the label `stage` in the document of a line that was written while it changed.
const EITHER: &str = "either";

/// A pod of a job with its log. Each line says whose it is, and which stage its document has.
struct Task {
    pod: Pod,
    log: Log,
    written: usize,
}

impl Task {
    /// Creates the pod in the cluster, and then its log on its node.
    fn start(cluster: &Cluster, node: &Member, job: usize, generation: usize) -> Self {
        let mut pod = Pod::taskmanager(&cluster.namespace, &format!("job-{job}"), 1);
        pod.node.clone_from(&node.name);
        pod.labels.insert("generation".to_owned(), generation.to_string());
        pod.labels.insert("stage".to_owned(), "one".to_owned());
        cluster.add_pod(&mut pod);
        let log = Log::create(&node.node.root(), &pod, 0);
        Self { pod, log, written: 0 }
    }

    fn write(&mut self, count: usize, stage: &str) {
        for _ in 0..count {
            let message = format!("{} {} {stage}", self.pod.uid, self.written);
            self.log.line(&Line::stdout(json!({"message": message}).to_string()));
            self.written += 1;
        }
    }

    /// How many of its documents have this stage.
    fn found(&self, index: &Index<'_>, stage: &str) -> u64 {
        let query = json!({"filter": [
            {"term": {"kubernetes.pod_id.keyword": self.pod.uid}},
            {"term": {"kubernetes.labels.stage.keyword": stage}},
        ]});
        index.find("bool", &query)
    }
}

/// A node with its running agent.
struct Member {
    name: String,
    node: Node,
    agent: Agent,
}

impl Member {
    fn start(name: String, kubeconfig: &std::path::Path, index: &Index<'_>) -> Self {
        let node = Node::in_cluster(&name, kubeconfig);
        node.pipeline("flink", &pipeline(index));
        let agent = node.run();
        Self { name, node, agent }
    }
}

/// The cluster's own node and as many more as make [`NODES`].
fn names(cluster: &Cluster) -> Vec<String> {
    let more = (1..NODES).map(|_| {
        let name = unique("node");
        cluster.add_node(&name);
        name
    });
    std::iter::once(cluster.node.clone()).chain(more).collect()
}

fn wait_indexed(index: &Index<'_>, tasks: &[&[Task]]) {
    let written: usize = tasks.iter().copied().flatten().map(|task| task.written).sum();
    let written = u64::try_from(written).unwrap();
    wait_until(AFTER_A_PAUSE, "every line is indexed", || index.count() >= written);
}

/// Changes the label of every pod; once this has returned, every agent has seen it.
fn relabel(cluster: &Cluster, index: &Index<'_>, tasks: &mut [Task]) {
    for task in &mut *tasks {
        cluster.set_label(&task.pod, "stage", "two");
    }
    wait_until(AFTER_A_PAUSE, "every agent has seen the new label", || {
        tasks.iter_mut().fold(true, |all, task| {
            let seen = task.found(index, "two") > 0;
            if !seen {
                task.write(1, EITHER);
            }
            all && seen
        })
    });
}

/// Every line of every task once, each with the facts of its own pod.
fn check(index: &Index<'_>, tasks: &[Task]) {
    let pods: BTreeMap<&str, &Pod> =
        tasks.iter().map(|task| (task.pod.uid.as_str(), &task.pod)).collect();
    let mut found = BTreeSet::new();
    for document in index.documents() {
        let fields = flatten(&document.source);
        let text = |name: &str| fields.get(name).and_then(|value| value.as_str()).unwrap_or("");
        let words: Vec<&str> = text("message").split(' ').collect();
        let [uid, number, stage] = words[..] else { panic!("{}", document.source) };
        let pod = pods[uid];
        assert!(found.insert((uid.to_owned(), number.to_owned())), "twice: {uid} {number}");
        for (name, wanted) in [
            ("kubernetes.pod_id", uid),
            ("kubernetes.pod_name", &pod.name),
            ("kubernetes.namespace_name", &pod.namespace),
            ("kubernetes.host", &pod.node),
        ] {
            assert_eq!(text(name), wanted, "{name} in {}", document.source);
        }
        let mut labels: BTreeMap<String, String> = (pod.labels.iter())
            .map(|(name, value)| (name.replace(['.', '/'], "_"), value.clone()))
            .collect();
        let stage = if stage == EITHER { text("kubernetes.labels.stage") } else { stage };
        labels.insert("stage".to_owned(), stage.to_owned());
        let in_document: BTreeMap<String, String> = (fields.iter())
            .filter_map(|(name, value)| Some((name.strip_prefix("kubernetes.labels.")?, value)))
            .map(|(name, value)| (name.to_owned(), value.as_str().unwrap_or("").to_owned()))
            .collect();
        assert_eq!(in_document, labels, "labels of {}", document.source);
    }
    let written: usize = tasks.iter().map(|task| task.written).sum();
    assert_eq!(found.len(), written, "every line is there");
}

/// A job that is deployed again has TaskManagers of the same names, with other UIDs and labels, on
/// the same node or another; the log of the old one goes on for a moment after its pod has gone.
#[test]
fn every_document_has_its_own_pods_labels_while_jobs_are_deployed_again() {
    const GENERATIONS: usize = 4;
    let (elastic, cluster) = (Elastic::plain(), Cluster::new());
    let index = elastic.index(&json!({}));
    let kubeconfig = NamedTempFile::new().unwrap();
    cluster.pod_reader(kubeconfig.path());
    let start = |name| Member::start(name, kubeconfig.path(), &index);
    let mut members: Vec<Member> = names(&cluster).into_iter().map(start).collect();
    members.iter_mut().for_each(|member| member.agent.wait_ready());

    let mut gone: Vec<Task> = Vec::new();
    for generation in 0..GENERATIONS {
        let mut tasks: Vec<Task> = (0..NODES)
            .map(|job| {
                Task::start(&cluster, &members[(job + generation / 2) % NODES], job, generation)
            })
            .collect();
        tasks.iter_mut().for_each(|task| task.write(30, "one"));
        wait_indexed(&index, &[&gone, &tasks]);
        relabel(&cluster, &index, &mut tasks);
        for task in &mut tasks {
            task.write(10, "two");
            task.log.rotate();
            task.write(10, "two");
            cluster.delete_pod(&task.pod);
        }
        // at once in the place of the old one, which still writes
        let last_words = |task: &mut Task| task.write(10, "two");
        tasks.iter_mut().for_each(last_words);
        gone.append(&mut tasks);
    }
    wait_indexed(&index, &[&gone]);
    for member in members {
        assert_eq!(member.agent.terminate(), Some(0));
    }
    check(&index, &gone);
}

/// How an agent's token reaches it: as the kubelet does it, in a file that is replaced, or in a
/// kubeconfig that is.
struct Access {
    kubeconfig: NamedTempFile,
    token_file: Option<NamedTempFile>,
    token: Token,
}

impl Access {
    fn new(cluster: &Cluster, account: &str, road: &Road, in_a_file: bool) -> Self {
        let access = Self {
            kubeconfig: NamedTempFile::new().unwrap(),
            token_file: in_a_file.then(|| NamedTempFile::new().unwrap()),
            token: cluster.bound_token(account),
        };
        access.write(cluster, road);
        access
    }

    fn write(&self, cluster: &Cluster, road: &Road) {
        let user = match &self.token_file {
            Some(file) => {
                replace(file.path(), self.token.text.as_bytes());
                json!({"tokenFile": file.path()})
            }
            None => json!({"token": self.token.text}),
        };
        cluster.write_kubeconfig_by(road.address(), self.kubeconfig.path(), &user);
    }

    /// Puts a new token in the place of the one that is returned.
    fn rotate(&mut self, cluster: &Cluster, account: &str, road: &Road) -> Token {
        let old = std::mem::replace(&mut self.token, cluster.bound_token(account));
        self.write(cluster, road);
        old
    }
}

#[test]
fn agents_outlive_servers_tokens_and_what_their_watches_would_have_told() {
    let mut server = ApiServer::start();
    let (elastic, cluster) = (Elastic::plain(), Cluster::of(&server.kubeconfig()));
    let index = elastic.index(&json!({}));
    let account = cluster.reading_account();
    let roads: Vec<Road> = (0..NODES).map(|_| Road::to(server.address())).collect();
    let mut ways: Vec<Access> = (roads.iter().enumerate())
        .map(|(number, road)| Access::new(&cluster, &account, road, number % 2 == 0))
        .collect();
    let start = |(name, way): (String, &Access)| Member::start(name, way.kubeconfig.path(), &index);
    let mut members: Vec<Member> = names(&cluster).into_iter().zip(&ways).map(start).collect();
    members.iter_mut().for_each(|member| member.agent.wait_ready());
    let mut tasks: Vec<Task> =
        (0..NODES).map(|job| Task::start(&cluster, &members[job], job, 0)).collect();
    tasks.iter_mut().for_each(|task| task.write(20, "one"));
    wait_indexed(&index, &[&tasks]);

    // The old tokens end, and nobody notices: who may watch is asked when a watch begins.
    let rotate = |(way, road): (&mut Access, &Road)| way.rotate(&cluster, &account, road);
    let old: Vec<Token> = ways.iter_mut().zip(&roads).map(rotate).collect();
    cluster.end_tokens(&old);
    assert!(members.iter().all(|member| member.agent.is_ready()));
    server.kill();
    wait_until(SOON, "the agents have noticed", || {
        !members.iter().any(|member| member.agent.is_ready())
    });
    // What is known is enough for the pods that are there.
    tasks.iter_mut().for_each(|task| task.write(20, "one"));
    wait_indexed(&index, &[&tasks]);
    server.start_again();
    members.iter_mut().for_each(|member| member.agent.wait_ready_again());
    relabel(&cluster, &index, &mut tasks);

    // Jobs are deployed again while three agents of four can't see it, and the server forgets.
    let before = cluster.version();
    roads[1..].iter().for_each(Road::close);
    let mut old = std::mem::take(&mut tasks);
    for (job, task) in old.iter_mut().enumerate() {
        cluster.delete_pod(&task.pod);
        task.write(20, "two");
        let mut new = Task::start(&cluster, &members[(job + 1) % NODES], job, 1);
        new.write(20, "one");
        tasks.push(new);
    }
    server.stop();
    server.start_again();
    assert!(cluster.has_expired(&before), "a watch would not have to begin anew");
    roads.iter().for_each(Road::open);
    wait_indexed(&index, &[&old, &tasks]);
    members.iter_mut().for_each(|member| member.agent.wait_ready_again());
    relabel(&cluster, &index, &mut tasks);
    tasks.iter_mut().for_each(|task| task.write(20, "two"));
    old.append(&mut tasks);
    wait_indexed(&index, &[&old]);
    for member in members {
        assert_eq!(member.agent.terminate(), Some(0));
    }
    check(&index, &old);
}

/// Objects of pods may have 1 MiB and more, most of it of no use to anybody here. They are taken in
/// one after the other, when the watch begins and when they change, and trimmed at once.
#[test]
fn large_pods_are_not_kept_whole() {
    const PODS: u32 = 48;
    let (elastic, cluster) = (Elastic::plain(), Cluster::new());
    let index = elastic.index(&json!({}));
    let kubeconfig = NamedTempFile::new().unwrap();
    cluster.pod_reader(kubeconfig.path());
    let node = Node::in_cluster(&cluster.node, kubeconfig.path());
    node.add_settings("memory: {budget: 8MiB}\n");
    node.pipeline("flink", &pipeline(&index));
    let mut tasks: Vec<Task> = (0..PODS)
        .map(|number| {
            let mut pod = Pod::taskmanager(&cluster.namespace, "large", number);
            pod.node.clone_from(&cluster.node);
            pod.labels.insert("stage".to_owned(), "one".to_owned());
            cluster.add_large_pod(&mut pod, 1 << 20);
            let log = Log::create(&node.root(), &pod, 0);
            Task { pod, log, written: 0 }
        })
        .collect();
    let mut agent = node.run();
    agent.wait_ready();
    relabel(&cluster, &index, &mut tasks);
    wait_indexed(&index, &[&tasks]);
    let peak = agent.peak_bytes();
    assert!(peak <= (8 + 32) << 20, "{} MiB resident", peak >> 20);
    assert_eq!(agent.terminate(), Some(0));
    check(&index, &tasks);
    tasks.iter().for_each(|task| cluster.delete_pod(&task.pod));
}
