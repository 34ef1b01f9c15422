//! How fast a line is read, against the fastest validators, on captured lines of each layout.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use splashdam::parse::json::{Scan, scan};

const LAYOUTS: [(&str, &[u8]); 3] = [
    ("ecs", include_bytes!("../tests/fixtures/lines/ecs.log")),
    ("gcp", include_bytes!("../tests/fixtures/lines/gcp.log")),
    ("jsonlayout", include_bytes!("../tests/fixtures/lines/jsonlayout.log")),
];

fn json(c: &mut Criterion) {
    for (layout, bytes) in LAYOUTS {
        let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
        let mut group = c.benchmark_group(layout);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let mut out = Scan::default();
        measure(&mut group, "scan", &lines, |line| {
            black_box(scan(line, &mut out));
        });
        measure(&mut group, "serde_json ignored", &lines, |line| {
            black_box(serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok());
        });
        measure(&mut group, "sonic-rs ignored", &lines, |line| {
            black_box(sonic_rs::from_slice::<serde::de::IgnoredAny>(line).is_ok());
        });
        measure(&mut group, "sonic-rs lazy", &lines, |line| {
            black_box(sonic_rs::from_slice::<sonic_rs::LazyValue>(line).is_ok());
        });
        let mut copy = Vec::new();
        let mut buffers = simd_json::Buffers::default();
        measure(&mut group, "simd-json tape", &lines, |line| {
            copy.clear();
            copy.extend_from_slice(line);
            black_box(simd_json::to_tape_with_buffers(&mut copy, &mut buffers).is_ok());
        });
        group.finish();
    }
}

fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    lines: &[&[u8]],
    mut read: impl FnMut(&[u8]),
) {
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            for line in lines {
                read(black_box(line));
            }
        });
    });
}

criterion_group!(benches, json);
criterion_main!(benches);
