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

/// `drop` is safe and leaves nothing; others refuse, `fail` and `dissect` though they answer 500.
/// What is refused in the plain form too becomes a dead letter.
#[test]
fn what_ingest_pipelines_do_with_documents() {
    let elastic = Elastic::plain();
    let index = elastic.index(&json!({}));
    let never = "ctx.message == 'never' \
        || ctx.splashdam?.original != null && ctx.splashdam.original.contains('never')";
    let processors = json!({"processors": [
        {"drop": {"if": "ctx.n == 1"}},
        {"fail": {"if": "ctx.n == 2", "message": "no"}},
        {"dissect": {"if": "ctx.n == 3", "field": "message", "pattern": "%{x} %{y}"}},
        {"convert": {"if": "ctx.n == 4", "field": "message", "type": "integer"}},
        {"script": {"if": "ctx.n == 5", "source": "ctx.nobody.length()"}},
        {"fail": {"if": never, "message": "no"}},
    ]});
    let pipeline_path = format!("_ingest/pipeline/{}", index.name);
    elastic.put(&pipeline_path, &processors);
    elastic.put(&format!("{}/_settings", index.name), &json!({"default_pipeline": index.name}));
    let pod = Pod::jobmanager("flink", "orders");
    let node = Node::with_pods([&pod]);
    pipeline(&node, &elastic, "flink", &index);
    let mut log = Log::create(&node.root(), &pod, 0);
    for n in 0..8 {
        let message = if n == 6 { "never" } else { "text" };
        log.line(&Line::stdout(format!("{{\"n\":{n},\"message\":\"{message}\"}}")));
    }

    let summary = node.run_once();
    assert_eq!((summary.documents_indexed, summary.documents_refused), (3, 5));
    assert_eq!(summary.lines_read, 8);
    let documents = index.documents();
    let found: Vec<(Option<u64>, Option<&str>)> = documents
        .iter()
        .map(|found| (found.source["n"].as_u64(), found.source["splashdam"]["reason"].as_str()))
        .collect();
    let plain = |reason| (None, Some(reason));
    assert_eq!(
        found,
        [
            (Some(0), None),
            plain("fail_processor_exception"),
            plain("find_match"),
            plain("illegal_argument_exception"),
            plain("script_exception"),
            (Some(7), None),
        ]
    );
    let letters = node.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["reason"], "fail_processor_exception");
    assert!(letters[0]["document"].as_str().unwrap().contains("never"));

    std::fs::remove_dir_all(node.state()).unwrap();
    let summary = node.run_once();
    assert_eq!((summary.documents_indexed, summary.duplicates_answered), (1, 2));
    assert_eq!(index.count(), 6);
    elastic.put(&format!("{}/_settings", index.name), &json!({"default_pipeline": "_none"}));
    elastic.delete(&pipeline_path);
}

/// An index that takes nothing, the cause that the agent has to name, and the request that makes
/// it take documents again.
struct Broken<'a> {
    name: &'static str,
    cause: &'static str,
    index: Index<'a>,
    ask: fn(&Elastic, &str, &Value),
    path: String,
    body: Value,
}

impl Broken<'_> {
    fn mend(&self, elastic: &Elastic) {
        (self.ask)(elastic, &self.path, &self.body);
    }

    /// Where it is broken by a block.
    fn block(&self) {
        let settings = self.body.as_object().into_iter().flatten().map(|(setting, _)| setting);
        for setting in settings.filter(|setting| setting.starts_with("index.blocks.")) {
            self.index.set(&json!({setting: true}));
        }
    }
}

fn blocked<'a>(elastic: &'a Elastic, name: &'static str, cause: &'static str) -> Broken<'a> {
    let index = elastic.index(&json!({}));
    let path = format!("{}/_settings", index.name);
    let body = json!({format!("index.blocks.{name}"): null});
    let broken = Broken { name, cause, index, ask: Elastic::put, path, body };
    broken.block();
    broken
}

fn closed(elastic: &Elastic) -> Broken<'_> {
    let index = elastic.index(&json!({}));
    elastic.post(&format!("{}/_close", index.name), &Value::Null);
    let path = format!("{}/_open", index.name);
    let (name, cause) = ("closed", "index_closed");
    Broken { name, cause, index, ask: Elastic::post, path, body: Value::Null }
}

fn without_ingest_pipeline(elastic: &Elastic) -> Broken<'_> {
    let index = elastic.index(&json!({}));
    elastic.put(&format!("{}/_settings", index.name), &json!({"default_pipeline": index.name}));
    let path = format!("_ingest/pipeline/{}", index.name);
    let (name, cause) = ("ingest", "index_missing");
    Broken { name, cause, index, ask: Elastic::put, path, body: json!({"processors": []}) }
}

/// One agent, a pipeline for each kind of trouble: none gives up, and each goes on by itself.
#[test]
fn what_is_paused_goes_on_once_it_is_mended() {
    let elastic = Elastic::plain();
    let all = [
        closed(&elastic),
        without_ingest_pipeline(&elastic),
        blocked(&elastic, "write", "index_write_blocked"),
        blocked(&elastic, "read_only", "index_blocked"),
        blocked(&elastic, "read_only_allow_delete", "index_blocked"),
        blocked(&elastic, "metadata", "index_blocked"),
    ];
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
    let tried = |name: &str| {
        let labels = format!("{{pipeline=\"{name}\",result=\"partial\"}}");
        agent.metric("splashdam_bulk_requests_total", &labels) > 1.0
    };
    for broken in &all {
        let Broken { name, cause, .. } = broken;
        wait_until(SOON, &format!("{name} has been tried"), || {
            // again and again: where there is room on the disk, Elasticsearch lifts the block of
            // the flood stage by itself
            broken.block();
            tried(name) && agent.has_named(name, cause)
        });
    }
    wait_until(SOON, "the alias has been tried", || {
        tried("alias") && agent.has_named("alias", "index_missing")
    });
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
