//! Documents that are refused in every form: kept, shown, and sent again.

use std::fs;

use serde_json::{Value, json};

use crate::support::captures::Line;
use crate::support::cri::Log;
use crate::support::elastic::{Elastic, Index};
use crate::support::node::{Ended, Node};
use crate::support::pods::Pod;
use crate::support::{SOON, wait_until};

/// A pipeline that keeps what is refused.
fn pipeline(elastic: &Elastic, index: &Index<'_>, name: &str) -> String {
    format!(
        "pipeline: {name}\nselect:\n  - select: {{}}\nparse:\n  json: {{}}\n\
         output:\n  elasticsearch:\n    hosts: [{}]\n    index: {}\n    refused: dead_letter\n\
         \x20   batch: {{linger: 100ms}}\n",
        elastic.url, index.name,
    )
}

fn dead_letter(node: &Node, arguments: &[&str]) -> Ended {
    let configuration = node.configuration();
    let configuration = configuration.to_str().expect("temporary paths are UTF-8");
    node.execute(&[&["dead-letter"], arguments, &["--config", configuration]].concat())
}

/// The letters as `list --json` gives them.
fn letters(node: &Node) -> Vec<Value> {
    let ended = dead_letter(node, &["list", "--json"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn integers() -> Value {
    json!({"properties": {"n": {"type": "integer"}}})
}

#[test]
fn letters_are_shown_and_come_in_under_their_ids_once_the_mapping_is_mended() {
    let elastic = Elastic::plain();
    let index = elastic.index(&integers());
    let pod = Pod::jobmanager("flink", "orders");
    let node = Node::with_pods([&pod]);
    let mut log = Log::create(&node.root(), &pod, 0);
    for line in [
        r#"{"n":1,"message":"a"}"#,
        "{\"n\":\"poison\u{9b}31m\",\"message\":\"b\"}",
        r#"{"n":"also","message":"c"}"#,
    ] {
        log.line(&Line::stdout(line));
    }
    node.pipeline("flink", &pipeline(&elastic, &index, "flink"));
    assert_eq!(dead_letter(&node, &["list"]).code, Some(0), "there is none yet");
    let summary = node.run_once();
    assert_eq!((summary.documents_indexed, summary.documents_refused), (1, 2));

    let kept = letters(&node);
    assert_eq!(kept.len(), 2);
    let ids: Vec<&str> = kept.iter().map(|letter| letter["id"].as_str().unwrap()).collect();
    let listed = dead_letter(&node, &["list", "--pipeline", "flink"]);
    assert_eq!(listed.code, Some(0));
    for expected in ids.iter().copied().chain([index.name.as_str(), "flink", "exception"]) {
        assert!(listed.stdout.contains(expected), "{expected} in {}", listed.stdout);
    }
    assert!(listed.stdout.contains("dead letters: 2, bytes: "), "{}", listed.stdout);
    let raw = dead_letter(&node, &["list", "--json"]).stdout;
    assert!(!raw.contains('\u{9b}'), "a terminal would obey it: {raw:?}");
    let document: Value = serde_json::from_str(kept[0]["document"].as_str().unwrap()).unwrap();
    assert_eq!(document["n"], "poison\u{9b}31m");

    let refused = dead_letter(&node, &["replay"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stdout.contains("2 refused again (document_parsing"), "{}", refused.stdout);
    assert_eq!(letters(&node), kept);

    index.recreate(&json!({"properties": {"n": {"type": "keyword"}}}));
    let replayed = dead_letter(&node, &["replay", "--deadline", "1m"]);
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    assert_eq!(replayed.stdout, "flink: 2 indexed, 0 already there, 0 refused again, 0 not sent\n");
    let documents = index.documents();
    assert_eq!(documents.iter().map(|found| found.id.as_str()).collect::<Vec<_>>(), ids);
    assert_eq!(documents[0].source, document);
    assert!(letters(&node).is_empty());
    let again = dead_letter(&node, &["replay"]);
    assert_eq!((again.code, again.stdout.as_str()), (Some(0), "flink: no dead letters\n"));

    fs::remove_dir_all(node.state()).unwrap();
    let summary = node.run_once();
    assert_eq!((summary.documents_indexed, summary.duplicates_answered), (1, 2));
}

#[test]
fn a_replay_beside_a_running_agent_takes_what_is_there_and_leaves_the_rest_alone() {
    let elastic = Elastic::plain();
    let index = elastic.index(&integers());
    let pod = Pod::jobmanager("flink", "orders");
    let node = Node::with_pods([&pod]);
    let mut log = Log::create(&node.root(), &pod, 0);
    let file = node.pipeline("flink", &pipeline(&elastic, &index, "flink"));
    let mut agent = node.run();
    agent.wait_ready();
    for number in 0..20 {
        log.line(&Line::stdout(format!("{{\"n\":\"poison {number}\"}}")));
        if number % 5 == 4 {
            wait_until(SOON, "the letters are kept", || letters(&node).len() == number + 1);
            let replayed = dead_letter(&node, &["replay"]);
            assert!(replayed.stdout.contains("refused again"), "{replayed:?}");
        }
    }
    index.recreate(&json!({"properties": {"n": {"type": "text"}}}));
    let replayed = dead_letter(&node, &["replay"]);
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    assert_eq!(index.count(), 20);
    log.line(&Line::stdout("{\"n\":\"no poison any more\"}"));
    wait_until(SOON, "the agent goes on", || index.count() == 21);
    assert!(letters(&node).is_empty());
    assert_eq!(agent.terminate(), Some(0));

    // Letters of a pipeline that has gone are said and left alone.
    index.recreate(&integers());
    log.line(&Line::stdout("{\"n\":\"poison\"}"));
    assert_eq!(node.run_once().documents_refused, 1);
    fs::remove_file(file).unwrap();
    node.pipeline("other", &pipeline(&elastic, &index, "other"));
    let replayed = dead_letter(&node, &["replay"]);
    assert_eq!(replayed.code, Some(1));
    assert!(replayed.stdout.contains("left alone"), "{}", replayed.stdout);
    assert_eq!(letters(&node).len(), 1);
    assert_eq!(dead_letter(&node, &["replay", "--pipeline", "other"]).code, Some(0));
    assert_eq!(dead_letter(&node, &["list", "--pipeline", "nobody"]).code, Some(2));
}

#[test]
fn a_damaged_letter_is_named_and_hides_no_other() {
    let elastic = Elastic::plain();
    let index = elastic.index(&integers());
    let pod = Pod::jobmanager("flink", "orders");
    let node = Node::with_pods([&pod]);
    let mut log = Log::create(&node.root(), &pod, 0);
    for word in ["one", "two", "three"] {
        log.line(&Line::stdout(format!("{{\"n\":\"{word}\"}}")));
    }
    node.pipeline("flink", &pipeline(&elastic, &index, "flink"));
    assert_eq!(node.run_once().documents_refused, 3);
    let path = node.state().join("dead-letter/flink.ndjson");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("two", "twX")).unwrap();

    let listed = dead_letter(&node, &["list"]);
    assert_eq!(listed.code, Some(1));
    assert!(listed.stderr.contains("flink.ndjson:2: "), "{}", listed.stderr);
    assert!(listed.stdout.contains("dead letters: 2,"), "{}", listed.stdout);
    assert!(listed.stdout.contains("damaged lines: 1"), "{}", listed.stdout);
    index.recreate(&json!({"properties": {"n": {"type": "keyword"}}}));
    let replayed = dead_letter(&node, &["replay"]);
    assert_eq!(replayed.code, Some(1));
    assert!(replayed.stdout.contains("2 indexed"), "{}", replayed.stdout);
    assert!(replayed.stdout.contains("1 damaged"), "{}", replayed.stdout);
    assert_eq!(index.count(), 2);
    let kept = fs::read_to_string(node.state().join("dead-letter/flink.ndjson.1")).unwrap();
    assert!(kept.lines().count() == 1 && kept.contains("twX"), "{kept}");
}
