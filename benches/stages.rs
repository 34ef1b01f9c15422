//! What each stage costs a line that does not have `json.rs` to itself, on captured lines: from the
//! runtime's framing to the body, its compression, and what is remembered of it.

mod road;

use std::hint::black_box;
use std::ops::Range;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use libdeflater::{CompressionLvl, Compressor};
use road::{Road, cri, stream_name, template};
use splashdam::checkpoint::{Ledger, Progress};
use splashdam::config::agent::LineFormat;
use splashdam::config::pipeline::DocumentForm;
use splashdam::document::id::{self, Id};
use splashdam::document::splice::{Content, LineFacts, Scratch};
use splashdam::parse::record::{Joiner, LongBuffers};
use splashdam::parse::time::LastSecond;
use splashdam::parse::{self, FrameScratch, Lane, starts_like_json, time};
use splashdam::pipeline::gzip::Gzip;
use splashdam::pipeline::reader::Turn;
use splashdam::ship::response::{Answer, judge};
use splashdam::tail::{PartId, Position};

const ECS: &[u8] = include_bytes!("../tests/fixtures/lines/ecs.log");
const LAYOUTS: [(&str, &[u8]); 3] = [
    ("ecs", ECS),
    ("gcp", include_bytes!("../tests/fixtures/lines/gcp.log")),
    ("jsonlayout", include_bytes!("../tests/fixtures/lines/jsonlayout.log")),
];
const PATTERN: &[u8] = include_bytes!("../tests/fixtures/lines/pattern.log");

/// The size of a body, and of the pieces in which a batch is compressed.
const BODY_BYTES: usize = 4 << 20;
const STAGING_BYTES: usize = 128 * 1024;

/// Batches of one reader that wait for an answer while others are acknowledged.
const IN_FLIGHT: u64 = 8;

/// Documents of a large request.
const ITEMS: usize = 5000;

const LINE_BYTES_MAX: usize = 1 << 20;
const TIME_NS: i64 = 1_795_467_612_345_678_901;

fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect()
}

fn json_lines(text: &[u8]) -> Vec<&[u8]> {
    lines(text).into_iter().filter(|line| starts_like_json(line)).collect()
}

fn at(offset: u64) -> Position {
    Position { part: PartId::born(TIME_NS, 7), offset }
}

/// Where each of `lines` would stand in a file.
fn places(lines: &[&[u8]]) -> Vec<Range<Position>> {
    let mut end = 0;
    let mut place = |line: &&[u8]| {
        let start = end;
        end += line.len() as u64 + 1;
        at(start)..at(end)
    };
    lines.iter().map(&mut place).collect()
}

/// A line out of the runtime's framing.
fn frame(c: &mut Criterion) {
    let text = cri(lines(ECS));
    let raw = lines(&text);
    let mut group = c.benchmark_group("frame");
    group.throughput(Throughput::Elements(raw.len() as u64));
    let mut scratch = FrameScratch::default();
    group.bench_function("cri", |bencher| {
        bencher.iter(|| {
            for raw in &raw {
                black_box(parse::line(LineFormat::Auto, black_box(raw), &mut scratch).is_ok());
            }
        });
    });
    group.finish();
}

fn times(c: &mut Criterion) {
    let mut group = c.benchmark_group("time");
    group.throughput(Throughput::Elements(1));
    let runtime = b"2026-11-23T21:06:51.886123456Z stdout F x";
    group.bench_function("runtime's", |bencher| {
        bencher.iter(|| time::runtime_prefix(black_box(runtime), &mut LastSecond::default()));
    });
    let mut last = LastSecond::default();
    group.bench_function("runtime's, of the same second", |bencher| {
        bencher.iter(|| time::runtime_prefix(black_box(runtime), &mut last));
    });
    group.bench_function("application's", |bencher| {
        bencher.iter(|| time::parse(black_box(b"2026-11-23T22:06:51.886+0100")));
    });
    let mut out = Vec::new();
    group.bench_function("written", |bencher| {
        bencher.iter(|| {
            out.clear();
            time::write_utc(black_box(TIME_NS), &mut out);
        });
    });
    group.finish();
}

/// Plain lines into records of several.
fn join(c: &mut Criterion) {
    let text = cri(lines(PATTERN));
    let raw = lines(&text);
    let places = places(&raw);
    let (mut scratch, mut long) = (FrameScratch::default(), LongBuffers::default());
    let mut group = c.benchmark_group("join");
    group.throughput(Throughput::Elements(raw.len() as u64));
    group.bench_function("stack traces", |bencher| {
        bencher.iter(|| {
            let mut joiner = Joiner::new(true, LINE_BYTES_MAX);
            let mut records = 0_u64;
            for (raw, place) in raw.iter().zip(&places) {
                let line = parse::line(LineFormat::Cri, raw, &mut scratch).expect("framed above");
                let own = joiner.accept(&line, 0, place, &mut long, &mut |_| records += 1);
                records += u64::from(own.is_some());
            }
            records
        });
    });
    group.finish();
}

/// A whole item: line checked and looked through, action, metadata, members.
fn splice(c: &mut Criterion) {
    let name = stream_name(2);
    for (layout, text) in LAYOUTS {
        let lines = json_lines(text);
        let mut group = c.benchmark_group(format!("splice {layout}"));
        let bytes: usize = lines.iter().map(|line| line.len()).sum();
        group.throughput(Throughput::Bytes(bytes as u64));
        for form in [DocumentForm::Fluentd, DocumentForm::Ecs] {
            let template = template(&name, form);
            let hash = id::hash("bench", &name, (TIME_NS, 7), None);
            let facts = LineFacts {
                id: Id { time_ns: TIME_NS, hash: &hash, start: 1 << 24, end: (1 << 24) + 700 },
                time: b"2026-11-23T21:00:12.345678901Z",
                lane: Lane::Stdout,
                tag: b"F",
                original_length: None,
            };
            let (mut scratch, mut body) = (Scratch::default(), Vec::new());
            group.bench_function(format!("{form:?}"), |bencher| {
                bencher.iter(|| {
                    body.clear();
                    for line in &lines {
                        let content = Content::Line(black_box(line));
                        let kind = template.kind(content, &mut scratch);
                        template.append(&facts, content, kind, &mut scratch, &mut body);
                    }
                    body.len()
                });
            });
        }
        group.finish();
    }
}

fn ids(c: &mut Criterion) {
    let name = stream_name(2);
    let hash = id::hash("bench", &name, (TIME_NS, 7), None);
    let mut group = c.benchmark_group("id");
    group.throughput(Throughput::Elements(1));
    group.bench_function("written, per record", |bencher| {
        let id = Id { time_ns: TIME_NS, hash: &hash, start: 1 << 24, end: 1 << 25 };
        bencher.iter(|| black_box(id).characters());
    });
    group.bench_function("hashed, per part", |bencher| {
        bencher.iter(|| id::hash("bench", black_box(&name), (TIME_NS, 7), None));
    });
    group.finish();
}

/// All of the above: a file in the page cache becomes a body.
fn whole(c: &mut Criterion) {
    let mut group = c.benchmark_group("road");
    for (layout, text) in [("ecs", ECS), ("pattern", PATTERN)] {
        let text = cri(lines(text)).repeat(BODY_BYTES / text.len());
        let mut road = Road::new(2, &text, DocumentForm::Fluentd, 1 << 29);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(layout, |bencher| {
            bencher.iter(|| {
                road.again();
                assert_eq!(road.read(), Turn::End);
                road.batch.body.len()
            });
        });
    }
    group.finish();
}

/// A body compressed with what the agent uses, and with the fastest library that there is.
fn gzip(c: &mut Criterion) {
    let text = cri(lines(ECS)).repeat(BODY_BYTES / ECS.len());
    let mut road = Road::new(2, &text, DocumentForm::Fluentd, BODY_BYTES);
    road.read();
    let body = &road.seal().body;
    let mut group = c.benchmark_group("gzip");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.sample_size(10);
    let mut member = Gzip::default();
    let mut agents = || {
        body.chunks(STAGING_BYTES).for_each(|piece| member.write(piece));
        member.finish(Vec::new())
    };
    let mut compressor = Compressor::new(CompressionLvl::new(1).expect("a level"));
    let mut out = vec![0; compressor.gzip_compress_bound(body.len())];
    let mut libdeflate = || compressor.gzip_compress(body, &mut out).expect("room for any bytes");
    let ratio =
        |packed: usize| format!("{:.1} % of the bytes", packed as f64 * 100.0 / body.len() as f64);
    let ours = format!("zlib-rs, {}", ratio(agents().len()));
    let theirs = format!("libdeflate, {}", ratio(libdeflate()));
    group.bench_function(ours, |bencher| bencher.iter(&mut agents));
    group.bench_function(theirs, |bencher| bencher.iter(&mut libdeflate));
    group.finish();
}

/// Batches sealed, and acknowledged in an order that leaves a gap before every other one.
fn ledger(c: &mut Criterion) {
    let mut group = c.benchmark_group("ledger");
    group.throughput(Throughput::Elements(IN_FLIGHT));
    let mut ledger = Ledger::new([at(0); 2]);
    let mut batch = 0;
    group.bench_function("batches", |bencher| {
        bencher.iter(|| {
            for number in batch..batch + IN_FLIGHT {
                let read_to = at((number + 1) << 20);
                let progress = Progress { reached: [read_to; 2], read_to };
                assert!(ledger.push(black_box(number), progress, 1 << 20));
            }
            for number in (batch..batch + IN_FLIGHT).step_by(2) {
                ledger.acknowledge(number + 1);
                ledger.acknowledge(number);
            }
            batch += IN_FLIGHT;
            assert!(ledger.is_settled());
        });
    });
    group.finish();
}

/// What became of the documents of a request: usually all were created; after an answer that was
/// lost some are there already.
fn answers(c: &mut Criterion) {
    let created = r#"{"create":{"status":201}}"#;
    let there = "{\"create\":{\"status\":409,\"error\":{\"type\":\"version_conflict_engine_exception\",\
                 \"reason\":\"[1bkp1v8PK2vG5ABCDEFGHIJKAAAAQAAAAAAAQAK8]: version conflict, document \
                 already exists (current version [1])\"}}}";
    let answer = |errors: bool, is_there: fn(usize) -> bool| {
        let item = |number: usize| if is_there(number) { there } else { created };
        let items: Vec<&str> = (0..ITEMS).map(item).collect();
        format!("{{\"errors\":{errors},\"items\":[{}]}}", items.join(","))
    };
    let mut group = c.benchmark_group("answer");
    group.throughput(Throughput::Elements(ITEMS as u64));
    let all_created = answer(false, |_| false);
    assert_eq!(judge(200, all_created.as_bytes(), ITEMS), Answer::AllIndexed);
    for (name, body) in [
        ("all created", all_created),
        ("one in a hundred there", answer(true, |number| number % 100 == 99)),
        ("all there", answer(true, |_| true)),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| judge(200, black_box(body.as_bytes()), ITEMS));
        });
    }
    group.finish();
}

criterion_group!(benches, frame, times, join, splice, ids, whole, gzip, ledger, answers);
criterion_main!(benches);
