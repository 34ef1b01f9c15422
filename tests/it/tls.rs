//! Elasticsearch behind TLS and a password.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::captures::Line;
use crate::support::cri::Log;
use crate::support::elastic::{Elastic, Index};
use crate::support::node::{Ended, Node};
use crate::support::pods::Pod;
use crate::support::server;

const LINES: usize = 20;

/// A node with a few lines and a pipeline to `index` that trusts `ca`.
fn node(index: &Index<'_>, url: &str, ca: &Path, password: &str) -> Node {
    let pod = Pod::jobmanager("flink", "orders");
    let node = Node::with_pods([&pod]);
    let lines: Vec<Line> = (0..LINES).map(|n| Line::stdout(format!("line {n}"))).collect();
    Log::with_lines(&node.root(), &pod, 0, &lines);
    fs::write(node.path("password"), password).unwrap();
    node.pipeline(
        "flink",
        &format!(
            "pipeline: flink\nselect:\n  - select: {{}}\noutput:\n  elasticsearch:\n    \
             hosts: [{url}]\n    user: elastic\n    password: ${{file:{password}}}\n    \
             tls: {{verify: full, ca: {ca}}}\n    index: {index}\n",
            password = node.path("password").display(),
            ca = ca.display(),
            index = index.name,
        ),
    );
    node
}

fn trusted() -> PathBuf {
    server("ELASTICSEARCH_TLS_CA").into()
}

/// An authority that signed nothing.
fn stranger(folder: &Path) -> PathBuf {
    let (key, ca) = (folder.join("stranger.key"), folder.join("stranger.crt"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=stranger"])
        .args(["-days", "2", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&ca)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    ca
}

/// The run says that its lines are not safe: no document, and all of them still to be read.
fn check_nothing_is_safe(node: &Node, index: &Index<'_>, ended: &Ended) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(ended.summary().documents_indexed, 0);
    assert_eq!(index.count(), 0);
    // what failed is the output, so the lines are there for a run that has a good one
    let again = node.run_once_with(&["--deadline", "2s"]);
    assert_eq!(again.code, Some(1));
}

#[test]
fn the_right_authority_and_password_are_enough() {
    let elastic = Elastic::secure();
    let index = elastic.missing_index();
    let node = node(&index, &elastic.url, &trusted(), &server("ELASTICSEARCH_TLS_PASSWORD"));
    let summary = node.run_once();
    assert_eq!(summary.documents_indexed, u64::try_from(LINES).unwrap());
    assert_eq!(index.count(), summary.documents_indexed);
}

#[test]
fn a_certificate_of_another_authority_is_refused() {
    let elastic = Elastic::secure();
    let index = elastic.missing_index();
    let folder = tempfile::tempdir().unwrap();
    let ca = stranger(folder.path());
    let node = node(&index, &elastic.url, &ca, &server("ELASTICSEARCH_TLS_PASSWORD"));
    let ended = node.run_once_with(&["--deadline", "3s"]);
    check_nothing_is_safe(&node, &index, &ended);
}

#[test]
fn a_wrong_password_pauses_until_it_is_right() {
    let elastic = Elastic::secure();
    let index = elastic.missing_index();
    let node = node(&index, &elastic.url, &trusted(), "not-the-password");
    let ended = node.run_once_with(&["--deadline", "3s"]);
    check_nothing_is_safe(&node, &index, &ended);
    assert!(!ended.stderr.contains("not-the-password"), "a secret in the log");

    fs::write(node.path("password"), server("ELASTICSEARCH_TLS_PASSWORD")).unwrap();
    assert_eq!(node.run_once().documents_indexed, u64::try_from(LINES).unwrap());
}
