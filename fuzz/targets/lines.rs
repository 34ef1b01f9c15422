//! A log file: framing, times, partial lines, records of several lines. However it is read, each
//! record stands after the one before and is no longer than the limit.

#![no_main]

use splashdam::config::agent::LineFormat;
use splashdam::parse::record::{Joiner, LongBuffers};
use splashdam::tail::identity::{format_of, identify};
use splashdam::tail::{PartId, Position};

const LIMIT: usize = 64;

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    let part = identify(file, true).unwrap_or(PartId::born(0, 0));
    let format = format_of(file, LineFormat::Auto);
    let mut joiner = Joiner::new(true, LIMIT);
    let mut reached = [Position::START; 2];
    let mut emit = |record: splashdam::parse::record::Record<'_>| {
        assert!(record.start < record.end);
        assert!(reached[record.lane.index()] <= record.start);
        assert!(record.content.len() <= LIMIT && record.lines > 0);
        reached[record.lane.index()] = record.end;
    };
    let mut scratch = splashdam::parse::FrameScratch::default();
    let (mut offset, mut long) = (0, LongBuffers::default());
    for raw in file.split_inclusive(|byte| *byte == b'\n') {
        let start = Position { part, offset };
        offset += raw.len() as u64;
        let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
        if let Ok(line) = splashdam::parse::line(format, raw, &mut scratch) {
            joiner.accept(&line, 0, &(start..Position { part, offset }), &mut long, &mut emit);
        }
    }
    joiner.finish(&mut long, &mut emit);
});
