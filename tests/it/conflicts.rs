//! Documents that an index's mapping does not take: every line is found by a query afterwards,
//! those that were refused in the plain form and under the same id, or in the dead letters where
//! the mapping has no room for that either.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Map, Value, json};

use crate::follow::pipeline;
use crate::support::captures::Line;
use crate::support::cri::Log;
use crate::support::elastic::{Elastic, Index};
use crate::support::fields::text;
use crate::support::node::{Node, Summary};
use crate::support::pods::Pod;

/// A node with the pods' logs and a pipeline into `index`.
fn node(index: &Index<'_>, logs: &[(&Pod, Vec<String>)]) -> Node {
    let node = Node::with_pods(logs.iter().map(|(pod, _)| *pod));
    for (pod, lines) in logs {
        let lines: Vec<Line> = lines.iter().map(|line| Line::stdout(line.as_str())).collect();
        Log::with_lines(&node.root(), pod, 0, &lines);
    }
    node.pipeline("flink", &pipeline(index, index.url()));
    node
}

/// Lines like `{"message":"order 7"}`.
fn orders(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers.into_iter().map(|number| format!(r#"{{"message":"order {number}"}}"#)).collect()
}

/// Ships everything; `refused` documents of one line each have to be in the plain form.
fn check(node: &Node, index: &Index<'_>, lines: usize, refused: usize) -> Summary {
    let count = |count: usize| u64::try_from(count).unwrap();
    let summary = node.run_once();
    assert_eq!((summary.lines_read, summary.lines_refused), (count(lines), count(refused)));
    assert_eq!(summary.documents_refused, count(refused));
    assert_eq!(summary.documents_indexed, count(lines - refused));
    assert_eq!(index.count(), count(lines));
    assert_eq!(index.find("exists", &json!({"field": "splashdam.reason"})), count(refused));
    assert_eq!(node.dead_letters(), Vec::<Value>::new());

    // the same ids, so that reading everything again finds them taken
    fs::remove_dir_all(node.state()).unwrap();
    let again = node.run_once();
    assert_eq!((again.lines_read, again.documents_indexed), (count(lines), 0));
    assert_eq!(index.count(), count(lines));
    summary
}

/// The messages of the documents that are in the plain form, by pod.
fn plain_forms(index: &Index<'_>) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for document in index.documents() {
        let Some(original) = text(&document.source, "splashdam.original") else { continue };
        let original: Value = serde_json::from_str(&original).unwrap();
        let reason = text(&document.source, "splashdam.reason").unwrap();
        assert_eq!(reason, "document_parsing_exception");
        let pod = text(&document.source, "splashdam.pod").unwrap();
        found.entry(pod).or_default().push(text(&original, "message").unwrap());
    }
    found
}

/// What the chain of old leaves behind: `app.kubernetes.io/name` made `app` an object.
#[test]
fn a_label_that_is_an_object_in_the_index_costs_only_the_pods_that_have_it() {
    let elastic = Elastic::plain();
    let app = json!({"properties": {"kubernetes": {"properties": {"labels": {"properties": {
        "app": {"properties": {"kubernetes": {"type": "object"}}}
    }}}}}});
    let index = elastic.index(&app);
    let labelled = Pod::jobmanager("flink", "orders");
    let mut bare = Pod::taskmanager("flink", "orders", 1);
    bare.labels.remove("app");
    let (some, others) = (orders(0..40), orders(40..60));
    let node = node(&index, &[(&labelled, some), (&bare, others)]);
    check(&node, &index, 60, 40);
    let plain = plain_forms(&index);
    assert_eq!(plain.keys().collect::<Vec<_>>(), [&labelled.name]);
    let wanted: Vec<String> = (0..40).map(|number| format!("order {number}")).collect();
    assert_eq!(plain[&labelled.name], wanted);
}

/// Two pods of which one alone would make `app` an object: dots become `_`, so none is refused.
#[test]
fn labels_that_would_exclude_each_other_live_in_one_index() {
    let elastic = Elastic::plain();
    let index = elastic.missing_index();
    let (mut flat, mut deep) = (Pod::jobmanager("a", "orders"), Pod::jobmanager("b", "orders"));
    flat.labels.retain(|name, _| name == "app");
    deep.labels.retain(|name, _| name == "app.kubernetes.io/name");
    assert!(!flat.labels.is_empty() && !deep.labels.is_empty());
    let node = node(&index, &[(&flat, orders(0..20)), (&deep, orders(20..40))]);
    check(&node, &index, 40, 0);
    let found = |name: &str, value: &str| index.find("match_phrase", &json!({name: value}));
    assert_eq!(found("kubernetes.labels.app", "orders"), 20);
    assert_eq!(found("kubernetes.labels.app_kubernetes_io_name", "orders"), 20);
}

#[test]
fn a_text_where_the_index_has_a_date_is_found_in_the_plain_form() {
    let elastic = Elastic::plain();
    let index = elastic.index(&json!({"properties": {"accepted": {"type": "date"}}}));
    let pod = Pod::jobmanager("flink", "orders");
    let line = |number: usize| {
        let accepted = if number.is_multiple_of(3) { "just now" } else { "2026-11-23T21:00:00Z" };
        format!(r#"{{"message":"order {number}","accepted":"{accepted}"}}"#)
    };
    let node = node(&index, &[(&pod, (0..60).map(line).collect())]);
    check(&node, &index, 60, 20);
    let wanted: Vec<String> = (0..60).step_by(3).map(|number| format!("order {number}")).collect();
    assert_eq!(plain_forms(&index)[&pod.name], wanted);
}

/// A line with `fields` fields, called `f<from>` and so on.
fn wide(number: usize, from: usize, fields: usize) -> String {
    let mut line = Map::from_iter([("message".to_owned(), format!("order {number}").into())]);
    line.extend((from..from + fields).map(|field| (format!("f{field}"), number.into())));
    Value::Object(line).to_string()
}

/// Elasticsearch's own limit of 1,000 fields, passed by one line in ten.
#[test]
fn lines_with_more_fields_than_the_index_may_have_are_found_in_the_plain_form() {
    let elastic = Elastic::plain();
    let index = elastic.index(&json!({}));
    let pod = Pod::jobmanager("flink", "orders");
    let line = |number: usize| wide(number, 0, if number.is_multiple_of(10) { 1000 } else { 2 });
    let node = node(&index, &[(&pod, (0..60).map(line).collect())]);
    check(&node, &index, 60, 6);
    let wanted: Vec<String> = (0..60).step_by(10).map(|number| format!("order {number}")).collect();
    assert_eq!(plain_forms(&index)[&pod.name], wanted);
}

/// Fields of the plain form, that an index with room for nothing else may know beforehand.
fn plain_fields() -> Value {
    let names = ["reason", "original", "namespace", "pod", "container"];
    let text = json!({"type": "text"});
    let fields: Map<_, _> = names.map(|name| (name.to_owned(), text.clone())).into_iter().collect();
    json!({"properties": {"splashdam": {"properties": fields}}})
}

/// Gives the index fields, and no room for one more; then there are lines of which ten need it.
fn full(index: &Index<'_>) -> Node {
    let pod = Pod::jobmanager("flink", "orders");
    let first = node(index, &[(&pod, vec![wide(0, 0, 10)])]);
    assert_eq!(first.run_once().documents_indexed, 1);
    index.set(&json!({"index.mapping.total_fields.limit": 1}));
    let lines = (1..30).map(|number| wide(number, if number < 20 { 0 } else { 10 }, 10));
    let pod = Pod::jobmanager("flink", "payments");
    node(index, &[(&pod, lines.collect())])
}

#[test]
fn a_full_mapping_takes_plain_forms_that_it_knows() {
    let elastic = Elastic::plain();
    let index = elastic.index(&plain_fields());
    let node = full(&index);
    let summary = node.run_once();
    assert_eq!((summary.documents_indexed, summary.documents_refused), (19, 10));
    assert_eq!(index.find("exists", &json!({"field": "splashdam.reason"})), 10);
    assert_eq!(index.count(), 30);
    assert_eq!(node.dead_letters(), Vec::<Value>::new());
}

/// With no room for the plain form's own fields, dead letters keep the lines.
#[test]
fn a_full_mapping_that_does_not_know_the_plain_form_leaves_dead_letters() {
    let elastic = Elastic::plain();
    let index = elastic.index(&json!({}));
    let node = full(&index);
    let summary = node.run_once();
    assert_eq!((summary.documents_indexed, summary.documents_refused), (19, 10));
    assert_eq!((summary.lines_indexed, summary.lines_refused), (19, 10));
    let letters = node.dead_letters();
    assert_eq!(letters.len(), 10);
    for (letter, number) in letters.iter().zip(20..) {
        let document: Value = serde_json::from_str(letter["document"].as_str().unwrap()).unwrap();
        assert_eq!(text(&document, "message"), Some(format!("order {number}")));
    }
}
