//! What a real Elasticsearch answers, and that it leads to what `docs/delivery.md` says.

use serde_json::{Value, json};

use crate::support::captures::Line;
use crate::support::cri::Log;
use crate::support::elastic::{Elastic, Index};
use crate::support::node::Node;
use crate::support::pods::Pod;
use crate::support::{SOON, wait_until};

fn pipeline(node: &Node, elastic: &Elastic, name: &str, index: &Index<'_>) {
    node.pipeline(
        name,
        &format!(
            "pipeline: {name}\nselect:\n  - select: {{}}\nparse:\n  json: {{}}\n\
             output:\n  elasticsearch:\n    hosts: [{}]\n    index: {}\n",
            elastic.url, index.name,
        ),
    );
}

/// `drop` is safe and leaves nothing; `fail` and `dissect` refuse, though they answer 500.
#[test]
fn what_ingest_pipelines_do_with_documents() {
    let elastic = Elastic::plain();
    let index = elastic.index(&json!({}));
    let processors = json!({"processors": [
        {"drop": {"if": "ctx.n == 1"}},
        {"fail": {"if": "ctx.n == 2", "message": "no"}},
        {"dissect": {"if": "ctx.n == 3", "field": "message", "pattern": "%{x} %{y}"}},
    ]});
    let pipeline_path = format!("_ingest/pipeline/{}", index.name);
    elastic.put(&pipeline_path, &processors);
    elastic.put(&format!("{}/_settings", index.name), &json!({"default_pipeline": index.name}));
    let pod = Pod::jobmanager("flink", "orders");
    let node = Node::with_pods([&pod]);
    pipeline(&node, &elastic, "flink", &index);
    let mut log = Log::create(&node.root(), &pod, 0);
    for n in 0..5 {
        log.line(&Line::stdout(format!("{{\"n\":{n},\"message\":\"text\"}}")));
    }

    let summary = node.run_once();
    assert_eq!((summary.documents_indexed, summary.documents_refused), (3, 2));
    assert_eq!(summary.lines_read, 5);
    let documents = index.documents();
    let numbers: Vec<&Value> = documents.iter().map(|found| &found.source["n"]).collect();
    assert_eq!(numbers, [&json!(0), &Value::Null, &Value::Null, &json!(4)]);
    let reason = |at: usize| documents[at].source["splashdam"]["reason"].as_str();
    assert_eq!(reason(1), Some("fail_processor_exception"));
    assert_eq!(reason(2), Some("find_match"));

    std::fs::remove_dir_all(node.state()).unwrap();
    let summary = node.run_once();
    assert_eq!((summary.documents_indexed, summary.duplicates_answered), (1, 2));
    assert_eq!(index.count(), 4);
    elastic.put(&format!("{}/_settings", index.name), &json!({"default_pipeline": "_none"}));
    elastic.delete(&pipeline_path);
}

/// An index that takes nothing, and the request that makes it take documents again.
struct Broken<'a> {
    name: &'static str,
    index: Index<'a>,
    ask: fn(&Elastic, &str, &Value),
    path: String,
    body: Value,
}

impl Broken<'_> {
    fn mend(&self, elastic: &Elastic) {
        (self.ask)(elastic, &self.path, &self.body);
    }
}

fn blocked<'a>(elastic: &'a Elastic, name: &'static str) -> Broken<'a> {
    let index = elastic.index(&json!({}));
    let path = format!("{}/_settings", index.name);
    let setting = format!("index.blocks.{name}");
    elastic.put(&path, &json!({&setting: true}));
    Broken { name, index, ask: Elastic::put, path, body: json!({&setting: null}) }
}

fn closed(elastic: &Elastic) -> Broken<'_> {
    let index = elastic.index(&json!({}));
    elastic.post(&format!("{}/_close", index.name), &Value::Null);
    let path = format!("{}/_open", index.name);
    Broken { name: "closed", index, ask: Elastic::post, path, body: Value::Null }
}

fn without_ingest_pipeline(elastic: &Elastic) -> Broken<'_> {
    let index = elastic.index(&json!({}));
    elastic.put(&format!("{}/_settings", index.name), &json!({"default_pipeline": index.name}));
    let path = format!("_ingest/pipeline/{}", index.name);
    Broken { name: "ingest", index, ask: Elastic::put, path, body: json!({"processors": []}) }
}

/// One agent, a pipeline for each kind of trouble: none gives up, and each goes on by itself.
#[test]
fn what_is_paused_goes_on_once_it_is_mended() {
    let elastic = Elastic::plain();
    let mut all = vec![closed(&elastic), without_ingest_pipeline(&elastic)];
    let blocks = ["write", "read_only", "read_only_allow_delete", "metadata"];
    all.extend(blocks.map(|name| blocked(&elastic, name)));
    // An alias of two indices, of which neither is the one to write to.
    let (first, second) = (elastic.index(&json!({})), elastic.index(&json!({})));
    let alias = elastic.missing_index();
    let both = json!([first.name, second.name]);
    let add = json!({"add": {"indices": both, "alias": alias.name}});
    elastic.post("_aliases", &json!({"actions": [add]}));

    let pod = Pod::jobmanager("flink", "orders");
    let node = Node::with_pods([&pod]);
    for Broken { name, index, .. } in &all {
        pipeline(&node, &elastic, name, index);
    }
    pipeline(&node, &elastic, "alias", &alias);
    let mut log = Log::create(&node.root(), &pod, 0);
    log.line(&Line::stdout("{\"message\":\"kept\"}"));
    let agent = node.run();
    let names = all.iter().map(|broken| broken.name).chain(["alias"]);
    for name in names {
        let labels = format!("{{pipeline=\"{name}\",result=\"partial\"}}");
        wait_until(SOON, &format!("{name} has been tried"), || {
            agent.metric("splashdam_bulk_requests_total", &labels) > 1.0
        });
    }
    for broken in &all {
        broken.mend(&elastic);
    }
    let write = json!({"index": first.name, "alias": alias.name, "is_write_index": true});
    elastic.post("_aliases", &json!({"actions": [{"add": write}]}));
    for Broken { name, index, .. } in &all {
        wait_until(SOON, &format!("{name} goes on"), || index.count() == 1);
    }
    wait_until(SOON, "the alias goes on", || first.count() == 1);
    assert_eq!(agent.terminate(), Some(0));
    for Broken { name, index, .. } in &all {
        assert_eq!(index.count(), 1, "{name}");
        assert!(index.documents()[0].source.get("splashdam").is_none(), "{name} is as it was");
    }
    for Broken { index, .. } in all.iter().filter(|broken| broken.name == "ingest") {
        elastic.put(&format!("{}/_settings", index.name), &json!({"default_pipeline": "_none"}));
        elastic.delete(&format!("_ingest/pipeline/{}", index.name));
    }
}
