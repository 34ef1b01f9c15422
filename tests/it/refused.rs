//! Documents that Elasticsearch refuses for good.

use serde_json::{Value, json};

use crate::support::captures::Line;
use crate::support::cri::Log;
use crate::support::elastic::Elastic;
use crate::support::fields::flatten;
use crate::support::node::Node;
use crate::support::pods::Pod;

/// A text in an integer field refuses one document of three; it is indexed in the plain form.
#[test]
fn a_refused_document_is_indexed_in_the_plain_form_and_costs_only_itself() {
    let elastic = Elastic::plain();
    let index = elastic.index(&json!({"properties": {"n": {"type": "integer"}}}));
    let pod = Pod::jobmanager("flink", "orders");
    let node = Node::with_pods([&pod]);
    let lines = [r#"{"n":1,"message":"a"}"#, r#"{"n":"poison","message":"b"}"#, r#"{"n":3}"#];
    let mut log = Log::create(&node.root(), &pod, 0);
    let times = lines.map(|line| {
        let (_, time) = log.position();
        log.line(&Line::stdout(line));
        time
    });
    node.pipeline(
        "flink",
        &format!(
            "pipeline: flink\nselect:\n  - select: {{}}\nparse:\n  json: {{}}\n\
             output:\n  elasticsearch:\n    hosts: [{}]\n    index: {}\n",
            elastic.url, index.name,
        ),
    );

    let summary = node.run_once();
    assert_eq!((summary.documents_indexed, summary.documents_refused), (2, 1));
    assert_eq!((summary.lines_indexed, summary.lines_refused), (2, 1));
    let documents = index.documents();
    assert_eq!(documents.len(), 3);
    assert_eq!(documents[0].source["n"], 1);
    assert_eq!(documents[2].source["n"], 3);
    let plain = flatten(&documents[1].source);
    let text = |name: &str| plain.get(name).and_then(Value::as_str).unwrap_or_default();
    assert_eq!(text("@timestamp"), times[1]);
    assert_eq!(text("splashdam.namespace"), pod.namespace);
    assert_eq!(text("splashdam.pod"), pod.name);
    assert_eq!(text("splashdam.container"), pod.container);
    assert!(!text("splashdam.reason").is_empty());
    let original: Value = serde_json::from_str(text("splashdam.original")).unwrap();
    assert_eq!(original["n"], "poison");
    assert_eq!(plain.len(), 6, "nothing else is in it: {plain:?}");

    std::fs::remove_dir_all(node.state()).unwrap();
    node.run_once();
    assert_eq!(index.count(), 3, "the plain form has the same id");
}
