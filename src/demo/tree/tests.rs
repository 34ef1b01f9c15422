//! Trees read back from disk say what their reports say.

use std::io::Read;

use flate2::read::GzDecoder;

use super::*;

/// Real lines of a JobManager that failed once, and of a TaskManager with a printed stack trace.
const JOBMANAGER_0: &str = concat!(
    "entrypoint: + exec java\n",
    r#"{"@timestamp":"2026-11-23T21:05:45.335Z","ecs.version":"1.2.0","log.level":"INFO","message":" OS current user: root","process.thread.name":"main","log.logger":"org.apache.flink.runtime.entrypoint.ClusterEntrypoint","service.name":"orders-session"}"#,
    "\n   \nprogress 10%",
);
const JOBMANAGER_1: &str = concat!(
    "entrypoint: + exec java\n",
    r#"{"@timestamp":"2026-11-23T21:06:06.503Z","ecs.version":"1.2.0","log.level":"INFO","message":"Job orders-enrichment (b18f0b529989bee72c64dff467c6eee0) switched from state CREATED to RUNNING.","process.thread.name":"flink-pekko.actor.default-dispatcher-4","log.logger":"org.apache.flink.runtime.executiongraph.ExecutionGraph","flink-job-id":"b18f0b529989bee72c64dff467c6eee0","service.name":"orders-session"}"#,
    "\n",
);
const TASKMANAGER: &str = concat!(
    "java.net.SocketTimeoutException: Read timed out after 0 ms\n",
    "\tat example.flinklog.Failures.small(Failures.java:65)\n",
    "\tat example.flinklog.Clicks.map(Clicks.java:45)\n",
);

fn captures() -> Captures {
    let long = format!("{{\"message\":\"{}é\"}}\n", "x".repeat(40_000));
    let files: [(&str, &[u8]); 4] = [
        ("jobmanager.0.stdout.log", JOBMANAGER_0.as_bytes()),
        ("jobmanager.1.stdout.log", JOBMANAGER_1.as_bytes()),
        ("taskmanager-1.0.stderr.log", TASKMANAGER.as_bytes()),
        ("taskmanager-1.0.stdout.log", long.as_bytes()),
    ];
    Captures::parse(&files, Path::new("memory")).unwrap()
}

/// Every part of one container log in order, uncompressed, and how many were compressed.
fn read_parts(log: &Path) -> (String, usize) {
    let name = log.file_name().unwrap().to_str().unwrap();
    let mut parts: Vec<_> = (std::fs::read_dir(log.parent().unwrap()).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path != log)
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(name))
        .collect();
    parts.sort();
    parts.push(log.to_owned());
    let (mut text, mut compressed) = (Vec::new(), 0);
    for part in &parts {
        let bytes = std::fs::read(part).unwrap();
        if part.extension().is_some_and(|end| end == "gz") {
            compressed += 1;
            GzDecoder::new(bytes.as_slice()).read_to_end(&mut text).unwrap();
        } else {
            text.extend_from_slice(&bytes);
        }
    }
    // Pieces may end inside a character.
    (String::from_utf8_lossy(&text).into_owned(), compressed)
}

/// The logical lines of framed text with the time of their first piece; `Err` for one without end.
fn logical_lines(text: &str) -> Vec<Result<(String, String), String>> {
    let mut open = std::collections::BTreeMap::<String, (String, String)>::new();
    let mut lines = Vec::new();
    for framed in text.lines() {
        let mut fields = framed.splitn(4, ' ');
        let (time, stream) = (fields.next().unwrap().to_owned(), fields.next().unwrap().to_owned());
        let (tag, content) = (fields.next().unwrap(), fields.next().unwrap());
        let line = open.entry(stream.clone()).or_insert((time, String::new()));
        line.1.push_str(content);
        if tag == "F" {
            lines.push(Ok(open.remove(&stream).unwrap()));
        }
    }
    lines.extend(open.into_values().map(|(_, content)| Err(content)));
    lines
}

#[test]
fn a_tree_holds_what_its_reports_say() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        pods: 2,
        rotate_bytes: Some(100_000),
        rotated: Rotated { gzip: true, keep: None },
        numbering: Numbering { json: true, plain: true },
        ..Options::default()
    };
    let mut tree = Tree::create(folder.path(), &captures(), &options).unwrap();
    tree.fill(1_500_000).unwrap();
    assert!(tree.total().bytes >= 1_500_000);
    assert!(tree.total().split_lines > 0 && tree.total().rotations > 10);

    for pod in tree.pods() {
        let mut numbers = Vec::new();
        for (restart, report) in pod.reports() {
            let log = pod.live_path().with_file_name(format!("{restart}.log"));
            let (text, compressed) = read_parts(&log);
            assert!(text.len() as u64 >= report.bytes, "lossy text is never shorter");
            assert_eq!(compressed as u64, report.rotations.saturating_sub(1));
            let lines = logical_lines(&text);
            assert_eq!(lines.len() as u64, report.lines);
            let unfinished = lines.iter().filter(|line| line.is_err()).count();
            assert_eq!(unfinished as u64, report.unfinished_lines);
            let times: Vec<_> = lines.iter().flatten().map(|(time, _)| time.clone()).collect();
            assert!(times.is_sorted(), "the runtime's times go up");
            let json = lines.iter().flatten().filter(|(_, line)| line.starts_with('{'));
            assert_eq!(json.count() as u64, report.json_lines);
            for line in lines {
                let line = line.map_or_else(|open| open, |(_, line)| line);
                numbers.extend(number_of(&line));
            }
            assert_eq!(report.last_seq, *numbers.last().unwrap());
        }
        let blanks: u64 = pod.reports().values().map(|report| report.blank_lines).sum();
        numbers.sort_unstable();
        let distinct = numbers.len();
        numbers.dedup();
        assert_eq!(numbers.len(), distinct, "no number twice");
        let last = pod.reports().values().last().unwrap().last_seq;
        assert_eq!(distinct as u64 + blanks, last, "no number missing");
    }
}

fn number_of(line: &str) -> Option<u64> {
    let at = line
        .rfind("log_seq\":")
        .map(|at| at + 9)
        .or_else(|| line.rfind("[seq=").map(|at| at + 5))?;
    let digits = line.get(at..)?.trim_end().trim_end_matches(['}', ']']);
    digits.parse().ok()
}

#[test]
fn the_caller_drives_time_rotation_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { pods: 1, rotate_bytes: None, ..Options::default() };
    let mut tree = Tree::create(folder.path(), &captures(), &options).unwrap();
    let pod = &mut tree.pods_mut()[0];
    pod.set_time(1_795_468_350_092_340_794);
    pod.write_lines(2).unwrap();
    pod.rotate().unwrap();
    assert_eq!(std::fs::read(pod.live_path()).unwrap(), b"");
    pod.write_lines(1).unwrap();
    let (text, _) = read_parts(&pod.live_path());
    assert_eq!(
        text,
        concat!(
            "2026-11-23T21:12:30.092340794Z stdout F entrypoint: + exec java\n",
            "2026-11-23T21:12:30.093040794Z stdout F ",
            r#"{"@timestamp":"2026-11-23T21:12:30.093Z","ecs.version":"1.2.0","log.level":"INFO","message":" OS current user: root","process.thread.name":"main","log.logger":"org.apache.flink.runtime.entrypoint.ClusterEntrypoint","service.name":"orders-session","log_seq":2}"#,
            "\n2026-11-23T21:12:30.093740794Z stdout F    \n",
        )
    );
    assert!(pod.restart().unwrap());
    assert!(pod.live_path().ends_with("flink-main-container/1.log"));
    assert!(!pod.restart().unwrap(), "the last captured restart goes on");
    pod.write_lines(1).unwrap();
    assert_eq!(pod.reports()[&1].first_seq, 4);
    assert_eq!(pod.reports()[&0].rotations, 1);
}

#[test]
fn old_parts_go_when_only_some_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let rotated = Rotated { gzip: false, keep: Some(2) };
    let options = Options { pods: 1, rotate_bytes: Some(1_000), rotated, ..Options::default() };
    let mut tree = Tree::create(folder.path(), &captures(), &options).unwrap();
    tree.fill(20_000).unwrap();
    let log = tree.pods()[0].live_path();
    let parts = std::fs::read_dir(log.parent().unwrap()).unwrap().filter(|entry| {
        entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("1.log.")
    });
    assert_eq!(parts.count(), 2);
}

#[test]
fn pods_are_listed_as_kubectl_does() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { pods: 7, ..Options::default() };
    let tree = Tree::create(folder.path(), &captures(), &options).unwrap();
    let text = std::fs::read_to_string(tree.pods_file()).unwrap();
    // `kubectl` says `List`, where the API server would say `PodList`.
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&"List".into(), &"v1".into()));
    let items: Vec<k8s_openapi::api::core::v1::Pod> =
        serde_json::from_value(list["items"].clone()).unwrap();
    assert_eq!(items.len(), 7);
    let components: Vec<_> = (items.iter())
        .map(|pod| pod.metadata.labels.as_ref().unwrap()["component"].as_str())
        .collect();
    assert_eq!(components[..2], ["jobmanager", "taskmanager"]);
    assert_eq!(components[5], "jobmanager", "the second cluster begins");
    for (pod, item) in tree.pods().iter().zip(&items) {
        assert_eq!(item.metadata.uid.as_ref(), Some(&pod.identity().uid));
        assert!(pod.live_path().symlink_metadata().is_ok());
    }
    let status = items[0].status.as_ref().unwrap();
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(container.restart_count, 1);
    assert!(container.container_id.as_ref().unwrap().starts_with("containerd://"));
}

#[test]
fn a_folder_without_captures_says_so() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("README.md"), "no capture").unwrap();
    let error = Captures::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("no captures named <process>"), "{error}");
    let only: [(&str, &[u8]); 1] = [("jobmanager.0.stdout.log", b"up\n")];
    let captures = Captures::parse(&only, folder.path()).unwrap();
    let error =
        Tree::create(folder.path(), &captures, &Options::default()).unwrap_err().to_string();
    assert_eq!(error, "taskmanager was never captured: there are only jobmanager");
}
