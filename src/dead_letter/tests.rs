//! What the commands print; what they do to files is tested where it is done.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::config::{self, Environment};
use crate::ship::dead_letter::{DeadLetters, Letter};

const PIPELINE: &str = "pipeline: NAME\nselect:\n  - select: {}\noutput: OUTPUT\n";
const ELASTICSEARCH: &str = "{elasticsearch: {hosts: [\"http://127.0.0.1:1\"], index: fluentd}}";

/// A state directory and a configuration with these pipelines.
fn configured(pipelines: &[(&str, &str)]) -> (TempDir, Loaded) {
    let folder = tempfile::tempdir().expect("a directory");
    let directory = folder.path().join("pipelines");
    fs::create_dir(&directory).expect("a directory");
    for (name, output) in pipelines {
        let text = PIPELINE.replace("NAME", name).replace("OUTPUT", output);
        fs::write(directory.join(format!("{name}.yaml")), text).expect("write");
    }
    let file = folder.path().join("agent.yaml");
    let state = folder.path().join("state").display().to_string();
    let text = format!("state: {{dir: {state}}}\nkubernetes: {{source: none}}\n");
    fs::write(&file, text).expect("write");
    let loaded = config::load(Some(&file), Some(&directory), &Environment::default());
    (folder, loaded.expect("valid"))
}

fn write(loaded: &Loaded, pipeline: &str, letters: &[Letter]) {
    DeadLetters::new(&loaded.agent.state.dir, pipeline).write(letters).expect("write");
}

fn letter(id: &str, document: &str) -> Letter {
    Letter {
        index: "fluentd".into(),
        id: id.into(),
        reason: "too_large".into(),
        document: document.into(),
    }
}

/// Calls a command with `pipeline`; its result, what it printed, and its complaints.
fn call<T>(
    loaded: &Loaded,
    pipeline: Option<&str>,
    command: impl FnOnce(Request<'_>, &mut Vec<u8>) -> T,
) -> (T, String, Vec<String>) {
    let (mut out, mut complaints) = (Vec::new(), Vec::new());
    let mut complain = |text: &str| complaints.push(text.to_owned());
    let request = Request { loaded, pipeline, complain: &mut complain };
    let result = command(request, &mut out);
    (result, String::from_utf8(out).expect("UTF-8"), complaints)
}

#[test]
fn the_table_has_a_row_for_each_letter_and_a_sum() {
    let (_folder, loaded) = configured(&[("flink", ELASTICSEARCH)]);
    let table = |pipeline| call(&loaded, pipeline, |request, out| list(request, false, out));
    let (whole, out, complaints) = table(None);
    assert!(whole.expect("readable") && complaints.is_empty());
    assert_eq!(out, "dead letters: 0, bytes: 0, pipelines: 0\n");

    write(&loaded, "flink", &[letter("a", "{}"), letter("b\u{1b}[2J", "{\"a\":\"\u{9b}\"}")]);
    write(&loaded, "gone", &[letter("c", "{}")]);
    let (_, out, complaints) = table(None);
    assert!(complaints.is_empty());
    let rows: Vec<Vec<&str>> =
        out.lines().map(|row| row.split_ascii_whitespace().skip(1).collect()).collect();
    assert_eq!(rows[0], ["pipeline", "index", "id", "reason", "bytes"]);
    assert_eq!(rows[1], ["flink", "fluentd", "a", "too_large", "2"]);
    assert_eq!(rows[2], ["flink", "fluentd", "b\\u{1b}[2J", "too_large", "10"]);
    assert_eq!(rows[3], ["gone", "fluentd", "c", "too_large", "2"]);
    assert!(out.ends_with("\ndead letters: 3, bytes: 14, pipelines: 2\n"), "{out}");
    let starts: Vec<Option<usize>> =
        (out.lines().take(4).zip(["reason"].iter().chain(&["too_large"; 3])))
            .map(|(row, text)| row.find(text))
            .collect();
    assert!(starts.iter().all(|start| *start == starts[0]), "{out}");
    let (_, out, _) = table(Some("gone"));
    assert_eq!(out.lines().count(), 3);
}

#[test]
fn json_is_what_was_written_without_what_a_terminal_obeys() {
    let (_folder, loaded) = configured(&[("flink", ELASTICSEARCH)]);
    write(&loaded, "flink", &[letter("a", "{\"a\":\"\u{9b}31m\u{202e}é\"}")]);
    let (whole, out, complaints) = call(&loaded, None, |request, out| list(request, true, out));
    assert!(whole.expect("readable"));
    assert_eq!(complaints, ["dead letters: 1, bytes: 18, pipelines: 1"]);
    assert!(!out.contains(['\u{9b}', '\u{202e}']), "{out:?}");
    let line: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(line["document"], "{\"a\":\"\u{9b}31m\u{202e}é\"}");
}

#[test]
fn what_cannot_be_read_is_named_and_hides_nothing() {
    let (folder, loaded) = configured(&[("flink", ELASTICSEARCH)]);
    write(&loaded, "flink", &[letter("a", "{}")]);
    let directory = folder.path().join("state/dead-letter");
    fs::write(directory.join("flink.ndjson.1"), "no\u{1b}letter\n").expect("write");
    std::os::unix::fs::symlink("elsewhere", directory.join("flink.ndjson.2")).expect("a link");
    let (whole, out, complaints) = call(&loaded, None, |request, out| list(request, false, out));
    assert!(!whole.expect("the rest is readable"));
    assert!(out.ends_with("dead letters: 1, bytes: 2, pipelines: 1, damaged lines: 1\n"), "{out}");
    // Once, though the table takes two looks.
    assert_eq!(complaints.len(), 2, "{complaints:?}");
    assert!(complaints[0].ends_with("flink.ndjson.1:1: is not a dead letter"));
    assert!(complaints[1].contains("flink.ndjson.2: "), "{complaints:?}");
}

#[test]
fn letters_without_a_way_are_said_and_left_alone() {
    let (_folder, loaded) = configured(&[("local", "{stdout: {}}"), ("flink", ELASTICSEARCH)]);
    let replay = |pipeline| {
        call(&loaded, pipeline, |request, out| resend(request, Duration::from_secs(60), out))
    };
    let (done, out, _) = replay(None);
    assert!(done.expect("nothing to do"));
    assert_eq!(out, "flink: no dead letters\nlocal: no dead letters\n");
    write(&loaded, "local", &[letter("a", "{}")]);
    write(&loaded, "gone", &[letter("b", "{}")]);
    let (done, out, _) = replay(None);
    assert!(!done.expect("it works"));
    assert!(out.contains("local: left alone: its output is not Elasticsearch\n"), "{out}");
    assert!(out.contains("gone.ndjson: left alone: its pipeline is not configured\n"), "{out}");
    assert_eq!(replay(Some("flink")).1, "flink: no dead letters\n");
    assert!(!call(&loaded, Some("nobody"), |request, _| request.is_known()).0.expect("it works"));
    for known in ["gone", "local", "flink"] {
        assert!(call(&loaded, Some(known), |request, _| request.is_known()).0.expect("it works"));
    }

    let lock = lock_replay(&loaded.agent.state.dir).expect("a lock");
    assert!(lock.is_some());
    replay(None).0.expect_err("another one is at work");
}

#[test]
fn what_is_not_taken_by_the_deadline_is_left_and_counted() {
    let (_folder, loaded) = configured(&[("flink", ELASTICSEARCH)]);
    write(&loaded, "flink", &[letter("a", "{}")]);
    let (done, out, complaints) =
        call(&loaded, None, |request, out| resend(request, Duration::from_millis(1), out));
    assert!(!done.expect("it works"));
    assert!(out.starts_with("flink: 0 indexed, 0 already there, 0 refused again, 1 not sent ("));
    assert!(complaints.len() <= 1, "{complaints:?}");
    let (_, out, _) = call(&loaded, None, |request, out| list(request, false, out));
    assert!(out.ends_with("dead letters: 1, bytes: 2, pipelines: 1\n"), "{out}");
}
