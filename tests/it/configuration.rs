//! Wrong settings: exit code 2, and every error with file, line and column.

use std::fs;
use std::path::Path;

use crate::support::node::{Ended, Node};

const PIPELINE: &str = "\
pipeline: flink
select:
  - select: {labels: {component: jobmanager}}
output:
  elasticsearch:
    hosts: [http://127.0.0.1:9]
    index: fluentd
";

fn validate(node: &Node) -> Ended {
    let configuration = node.configuration();
    node.execute(&["validate", "--config", configuration.to_str().unwrap()])
}

/// Both `validate` and `run` end with 2 and say where and what.
fn check(node: &Node, file: &Path, line: usize, column: usize, says: &str) {
    let place = format!("{}:{line}:{column}", file.display());
    for ended in [validate(node), node.run_once_with(&[])] {
        assert_eq!(ended.code, Some(2), "{ended:?}");
        let told = format!("{}{}", ended.stdout, ended.stderr);
        assert!(told.contains(&place), "{place} is not in {told}");
        assert!(told.contains(says), "{says} is not in {told}");
    }
}

/// A node whose agent file is what `change` makes of a good one.
fn node(change: impl FnOnce(String) -> String) -> Node {
    let node = Node::with_pods([]);
    let text = fs::read_to_string(node.configuration()).unwrap();
    fs::write(node.configuration(), change(text)).unwrap();
    node
}

#[test]
fn what_is_right_validates() {
    let node = node(|text| text);
    node.pipeline("flink", PIPELINE);
    let ended = validate(&node);
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    let node = node(|text| text.replacen("  root:", "  rot:", 1));
    node.pipeline("flink", PIPELINE);
    check(&node, &node.configuration(), 2, 3, "root");
}

#[test]
fn a_value_that_is_no_duration_is_told_with_its_place() {
    let node = node(|text| text.replacen("rescan: 500ms", "rescan: soon", 1));
    node.pipeline("flink", PIPELINE);
    check(&node, &node.configuration(), 4, 11, "soon");
}

#[test]
fn a_bad_index_is_told_with_its_file() {
    let node = node(|text| text);
    let file =
        node.pipeline("flink", &PIPELINE.replace("    index: fluentd\n", "    index: Fluentd\n"));
    for ended in [validate(&node), node.run_once_with(&[])] {
        assert_eq!(ended.code, Some(2), "{ended:?}");
        let told = format!("{}{}", ended.stdout, ended.stderr);
        assert!(told.contains(&format!("{}:", file.display())), "{told}");
        assert!(told.contains("index"), "{told}");
    }
}

#[test]
fn a_wrong_key_of_a_pipeline_is_told_with_its_place() {
    let node = node(|text| text);
    let file = node.pipeline("flink", &PIPELINE.replace("    index:", "    indx:"));
    check(&node, &file, 7, 5, "index");
}

#[test]
fn every_error_is_told_at_once() {
    let node = node(|text| text.replacen("  root:", "  rot:", 1));
    let file = node.pipeline("flink", &PIPELINE.replace("    hosts:", "    host:"));
    check(&node, &node.configuration(), 2, 3, "root");
    check(&node, &file, 6, 5, "hosts");
}

#[test]
fn a_missing_configuration_file_is_wrong_usage() {
    let node = Node::with_pods([]);
    let ended = node.execute(&["run", "--config", "/nonexistent/agent.yaml"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("/nonexistent/agent.yaml"), "{ended:?}");
}

#[test]
fn an_unknown_option_is_wrong_usage() {
    let node = Node::with_pods([]);
    let ended = node.execute(&["run", "--no-such-option"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
}
