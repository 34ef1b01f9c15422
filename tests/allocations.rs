//! Nothing is allocated for a line of JSON, once the buffers have grown.
//!
//! Captured lines go from a file through a reader into a batch, as in the agent. What is counted is
//! what the second of two passes over the same lines allocates: the first lets the buffers grow.
//! Where lines are joined, and where a batch begins and ends, allocations are counted and bounded.

#![expect(clippy::print_stdout, reason = "figures are for people")]

#[path = "../benches/road/mod.rs"]
mod road;

use std::io::Read;
use std::path::Path;

use allocation_counter::measure;
use flate2::read::GzDecoder;
use road::{Road, cri};
use serde_json::json;
use splashdam::config::pipeline::DocumentForm;
use splashdam::parse;
use splashdam::parse::json::{Kind, Scan, scan};
use splashdam::parse::time::LastSecond;
use splashdam::pipeline::reader::Turn;

const LAYOUTS: [(&str, &[u8]); 6] = [
    ("ecs", include_bytes!("fixtures/lines/ecs.log")),
    ("ecs-flink2", include_bytes!("fixtures/lines/ecs-flink2.log")),
    ("gcp", include_bytes!("fixtures/lines/gcp.log")),
    ("gelf", include_bytes!("fixtures/lines/gelf.log")),
    ("jsonlayout", include_bytes!("fixtures/lines/jsonlayout.log")),
    ("logstash", include_bytes!("fixtures/lines/logstash.log")),
];

/// A runtime cuts lines that are longer, and their pieces are joined.
const PIECE_BYTES: usize = 16 * 1024;

/// No batch is full by itself.
const ENDLESS: usize = 1 << 29;

/// What a line that may be joined with others allocates: its time, tag and content, and now and
/// then more room in the record that it continues.
const PER_JOINED_LINE_MAX: f64 = 3.3;

/// What a batch allocates however many documents it holds: its streams, a place for its body; and
/// the list of its items, which doubles.
const PER_BATCH_MAX: u64 = 20;

/// The lines of a capture that are shipped as they are, or with names moved.
fn json_lines(capture: &[u8]) -> Vec<&[u8]> {
    let mut out = Scan::default();
    let lines = capture.split(|byte| *byte == b'\n').filter(|line| line.len() <= PIECE_BYTES);
    lines.filter(|line| scan(line, &mut out) == Kind::Object).collect()
}

/// `cri` as Docker writes the same lines.
fn docker(cri: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for raw in cri.split(|byte| *byte == b'\n').filter(|raw| !raw.is_empty()) {
        let line =
            parse::cri::parse(raw, &mut LastSecond::default()).expect("a line of the runtime");
        let [time, content] = [line.time, line.content].map(String::from_utf8_lossy);
        let log = format!("{content}\n");
        let members = json!({"log": log, "stream": line.lane.as_str(), "time": time});
        text.extend_from_slice(members.to_string().as_bytes());
        text.push(b'\n');
    }
    text
}

/// Allocations of a second pass over `text`, and how many records it gives.
fn second_pass(text: &[u8], form: DocumentForm) -> (u64, usize) {
    let mut road = Road::new(0, text, form, ENDLESS);
    assert_eq!(road.read(), Turn::End);
    road.again();
    let counted = measure(|| assert_eq!(road.read(), Turn::End));
    (counted.count_total, road.batch.items.len())
}

#[test]
fn a_json_line_allocates_nothing() {
    for (layout, capture) in LAYOUTS {
        let lines = json_lines(capture);
        assert!(lines.len() > 100, "{layout} has {} lines of JSON", lines.len());
        let cri = cri(lines.iter().copied());
        for form in [DocumentForm::Fluentd, DocumentForm::Ecs] {
            for (runtime, text) in [("cri", &cri), ("docker", &docker(&cri))] {
                let (allocations, records) = second_pass(text, form);
                assert_eq!(records, lines.len(), "{layout} {runtime} {form:?}");
                assert_eq!(allocations, 0, "{layout} {runtime} {form:?}, {records} lines");
            }
        }
    }
}

#[test]
fn a_joined_line_allocates_little() {
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pattern");
    let mut capture = Vec::new();
    for process in ["jobmanager.1", "taskmanager-1.0", "taskmanager-2.0"] {
        let file = std::fs::read(captures.join(format!("{process}.stdout.log.gz"))).expect("kept");
        GzDecoder::new(file.as_slice()).read_to_end(&mut capture).expect("gzip");
    }
    let lines: Vec<&[u8]> = capture.split(|byte| *byte == b'\n').collect();
    let (allocations, records) = second_pass(&cri(lines.iter().copied()), DocumentForm::Fluentd);
    let per_line = allocations as f64 / lines.len() as f64;
    let per_record = allocations as f64 / records as f64;
    println!(
        "{} lines in {records} records: {allocations} allocations, {per_line:.2} per line, \
         {per_record:.2} per record",
        lines.len(),
    );
    assert!(lines.len() > 2 * records, "stack traces are joined");
    assert!(per_line <= PER_JOINED_LINE_MAX, "{per_line}");
}

#[test]
fn a_batch_allocates_little() {
    let (_, capture) = LAYOUTS[0];
    let lines = json_lines(capture).repeat(100);
    let mut road = Road::new(0, &cri(lines), DocumentForm::Fluentd, 4 << 20);
    let mut batches = 0;
    loop {
        let mut documents = 0;
        let mut turn = Turn::End;
        let counted = measure(|| {
            turn = road.read();
            documents = road.seal().items.len();
        });
        if turn == Turn::End {
            break;
        }
        println!("{documents} documents: {} allocations", counted.count_total);
        // The first two make the buffers that the others use again.
        assert!(batches < 2 || counted.count_total <= PER_BATCH_MAX, "{counted:?}");
        batches += 1;
    }
    assert!(batches > 2, "only {batches} batches");
}
