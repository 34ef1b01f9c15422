use proptest::prelude::*;

use super::*;
use crate::tail::PartId;

const LIMIT: usize = 200;

/// A raw line as a test writes it.
#[derive(Debug, Clone)]
struct Raw {
    lane: Lane,
    partial: bool,
    content: String,
    time_ns: i64,
}

impl Raw {
    fn line(&self) -> Line<'_> {
        Line {
            time_ns: self.time_ns,
            time: b"time",
            lane: self.lane,
            partial: self.partial,
            tag: if self.partial { b"P" } else { b"F" },
            content: self.content.as_bytes(),
        }
    }
}

fn place(index: usize) -> Position {
    Position { part: PartId::born(1, 1), offset: index as u64 * 10 }
}

/// A record as a test sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    lane: Lane,
    content: String,
    lines: u32,
    from: u64,
    to: u64,
    original_bytes: Option<u64>,
}

fn seen(record: &Record<'_>) -> Seen {
    Seen {
        lane: record.lane,
        content: String::from_utf8_lossy(record.content).into_owned(),
        lines: record.lines,
        from: record.start.offset,
        to: record.end.offset,
        original_bytes: record.original_bytes,
    }
}

/// Feeds `raws[from..]`, passing over those of a lane that stand before `safe`.
fn feed(
    joiner: &mut Joiner,
    raws: &[Raw],
    from: usize,
    to: usize,
    safe: [Position; 2],
) -> Vec<Seen> {
    let (mut records, mut long) = (Vec::new(), LongBuffers::default());
    for (index, raw) in raws.iter().enumerate().take(to).skip(from) {
        if place(index) < safe[raw.lane.index()] {
            continue;
        }
        let (line, place) = (raw.line(), place(index)..place(index + 1));
        let mut emit = |record: Record<'_>| records.push(seen(&record));
        let own = joiner.accept(&line, 0, &place, &mut long, &mut emit);
        records.extend(own.as_ref().map(seen));
    }
    records
}

fn out(content: &str, time_ns: i64) -> Raw {
    Raw { lane: Lane::Stdout, partial: false, content: content.to_owned(), time_ns }
}

fn check(raws: &[Raw], expected: &[(&str, u32)]) {
    let mut joiner = Joiner::new(true, LIMIT);
    let mut records = feed(&mut joiner, raws, 0, raws.len(), [Position::START; 2]);
    joiner.finish(&mut LongBuffers::default(), &mut |record| records.push(seen(&record)));
    let found: Vec<_> =
        records.iter().map(|record| (record.content.as_str(), record.lines)).collect();
    assert_eq!(found, expected);
}

const TRACE: [&str; 4] = [
    "java.lang.IllegalStateException: no",
    "\tat a.B.c(B.java:1)",
    "Caused by: java.io.IOException: gone",
    "\t... 3 more",
];

#[test]
fn a_stack_trace_is_one_record_and_json_stands_alone() {
    let mut raws: Vec<Raw> = TRACE.iter().map(|line| out(line, 5)).collect();
    raws.push(out("{\"a\":1}", 5));
    raws.push(out("done", 5));
    check(&raws, &[(&TRACE.join("\n"), 4), ("{\"a\":1}", 1), ("done", 1)]);
}

#[test]
fn a_gap_in_runtime_time_ends_a_record_of_several() {
    let raws =
        [out(TRACE[0], 0), out(TRACE[1], GAP_NS), out("\tat d.E.f(E.java:2)", 2 * GAP_NS + 1)];
    check(&raws, &[(&TRACE[..2].join("\n"), 2), ("\tat d.E.f(E.java:2)", 1)]);
}

#[test]
fn stdout_and_stderr_are_joined_apart() {
    let mut raws: Vec<Raw> = TRACE.iter().map(|line| out(line, 5)).collect();
    raws.insert(2, Raw { lane: Lane::Stderr, ..out("between", 5) });
    check(&raws, &[(&TRACE.join("\n"), 4), ("between", 1)]);
}

#[test]
fn partial_lines_wait_for_their_end_however_long() {
    let partial = |content, time_ns| Raw { partial: true, ..out(content, time_ns) };
    let raws = [partial("{\"a\":", 0), partial("\"\u{e9}", 9 * GAP_NS), out("\"}", 20 * GAP_NS)];
    check(&raws, &[("{\"a\":\"\u{e9}\"}", 1)]);
}

#[test]
fn long_records_are_put_together_in_buffers_of_others() {
    let mut joiner = Joiner::new(true, 1 << 20);
    let (mut long, mut records) = (LongBuffers::default(), Vec::new());
    for round in 0..4 {
        let frame = |lane: Lane| format!("\tat a.{}(A.java:{round})", lane.as_str().repeat(20));
        // Both are open at once, and grow in turns.
        let heads = Lane::BOTH.map(|lane| Raw { lane, ..out(TRACE[0], 0) });
        let frames = Lane::BOTH.map(|lane| Raw { lane, ..out(&frame(lane), 0) });
        for raw in heads.iter().chain((0..100).flat_map(|_| &frames)) {
            let mut emit = |record: Record<'_>| records.push(seen(&record).content);
            let own = joiner.accept(&raw.line(), 0, &(place(0)..place(1)), &mut long, &mut emit);
            assert_eq!(own, None, "each line belongs to a trace");
        }
        // The first round left one for each.
        assert_eq!(long.take(100 * frame(Lane::Stdout).len()), None, "round {round}");
        joiner.finish(&mut long, &mut |record| records.push(seen(&record).content));
        for lane in Lane::BOTH {
            let expected = format!("{}{}", TRACE[0], format!("\n{}", frame(lane)).repeat(100));
            assert_eq!(records.remove(0), expected);
        }
        assert!(records.is_empty());
        let kept = [(); 3].map(|()| long.take(10_000));
        assert_eq!(kept.each_ref().map(Option::is_some), [true, true, false], "round {round}");
        kept.into_iter().flatten().for_each(|buffer| long.give(buffer));
    }
}

#[test]
fn a_line_beyond_the_limit_is_cut_and_says_how_long_it_was() {
    let mut joiner = Joiner::new(false, LIMIT);
    let raws = [out(&"x".repeat(LIMIT + 7), 0)];
    let records = feed(&mut joiner, &raws, 0, 1, [Position::START; 2]);
    assert_eq!(records[0].content.len(), LIMIT);
    assert_eq!(records[0].original_bytes, Some(LIMIT as u64 + 7));
}

#[test]
fn lines_that_would_exceed_the_limit_begin_a_new_record() {
    let mut raws = vec![out(TRACE[0], 0)];
    raws.extend((0..9).map(|_| out(&format!("\tat {}", "x".repeat(40)), 0)));
    let mut joiner = Joiner::new(true, LIMIT);
    let mut records = feed(&mut joiner, &raws, 0, raws.len(), [Position::START; 2]);
    joiner.finish(&mut LongBuffers::default(), &mut |record| records.push(seen(&record)));
    assert!(records.len() > 1);
    assert!(
        records
            .iter()
            .all(|record| record.content.len() <= LIMIT && record.original_bytes.is_none())
    );
    assert_eq!(records.iter().map(|record| record.lines).sum::<u32>(), 10);
}

fn raws() -> impl Strategy<Value = Vec<Raw>> {
    let content = prop_oneof![
        Just("{\"message\":\"json\"}".to_owned()),
        Just(String::new()),
        Just("plain text".to_owned()),
        Just("2026-11-23 21:19:16,244 ERROR a.B [] - failed".to_owned()),
        prop::sample::select(TRACE.to_vec()).prop_map(str::to_owned),
        Just("# A fatal error".to_owned()),
        Just("y".repeat(LIMIT / 2)),
        Just("z".repeat(LIMIT * 2)),
    ];
    let lane = prop_oneof![3 => Just(Lane::Stdout), 1 => Just(Lane::Stderr)];
    let step = prop_oneof![9 => Just(1_000_i64), 1 => Just(2 * GAP_NS)];
    prop::collection::vec((lane, prop::bool::weighted(0.2), content, step), 0..40).prop_map(
        |lines| {
            let mut time_ns = 0;
            (lines.into_iter())
                .map(|(lane, partial, content, step)| {
                    time_ns += step;
                    Raw { lane, partial, content, time_ns }
                })
                .collect()
        },
    )
}

proptest! {
    /// Wherever a reader stops, and however often: from what it had reached, the rest comes out
    /// as if it had never stopped.
    #[test]
    fn grouping_is_the_same_after_a_restart(raws in raws(), stop in any::<prop::sample::Index>()) {
        let mut whole = Joiner::new(true, LIMIT);
        let all = feed(&mut whole, &raws, 0, raws.len(), [Position::START; 2]);

        let stop = stop.index(raws.len() + 1);
        let mut first = Joiner::new(true, LIMIT);
        let mut records = feed(&mut first, &raws, 0, stop, [Position::START; 2]);
        let reached = Lane::BOTH.map(|lane| first.open_from(lane).unwrap_or_else(|| place(stop)));
        let resume = usize::try_from(reached[0].min(reached[1]).offset / 10).expect("small");
        let mut second = Joiner::new(true, LIMIT);
        records.extend(feed(&mut second, &raws, resume, raws.len(), reached));

        let of = |records: &[Seen], lane| -> Vec<Seen> {
            records.iter().filter(|record| record.lane == lane).cloned().collect()
        };
        for lane in Lane::BOTH {
            prop_assert_eq!(of(&records, lane), of(&all, lane));
        }
    }

    /// However the runtime cuts lines in pieces, they group as if it had not.
    #[test]
    fn pieces_group_as_their_lines_do(
        raws in raws(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let mut whole = raws;
        whole.iter_mut().for_each(|raw| raw.partial = false);
        let in_pieces = |(raw, cut): (&Raw, &prop::sample::Index)| {
            let (first, rest) = raw.content.split_at(cut.index(raw.content.len() + 1));
            let first = Raw { partial: true, content: first.to_owned(), ..raw.clone() };
            [first, Raw { content: rest.to_owned(), ..raw.clone() }]
        };
        let pieces: Vec<Raw> = whole.iter().zip(&cuts).flat_map(in_pieces).collect();
        let records = |raws: &[Raw]| {
            let mut joiner = Joiner::new(true, LIMIT);
            let mut records = feed(&mut joiner, raws, 0, raws.len(), [Position::START; 2]);
            joiner.finish(&mut LongBuffers::default(), &mut |record| records.push(seen(&record)));
            records.into_iter()
                .map(|it| (it.lane, it.content, it.lines, it.original_bytes))
                .collect::<Vec<_>>()
        };
        prop_assert_eq!(records(&pieces), records(&whole));
    }

    /// A lane's records cover its raw lines without gap or overlap, and keep every logical line.
    #[test]
    fn nothing_is_left_out_or_taken_twice(raws in raws()) {
        let mut joiner = Joiner::new(true, LIMIT);
        let mut records = feed(&mut joiner, &raws, 0, raws.len(), [Position::START; 2]);
        joiner.finish(&mut LongBuffers::default(), &mut |record| records.push(seen(&record)));
        for lane in Lane::BOTH {
            let mut of_lane: Vec<u64> = (0..raws.len()).filter(|i| raws[*i].lane == lane).map(|i| place(i).offset).collect();
            of_lane.reverse();
            for record in records.iter().filter(|record| record.lane == lane) {
                prop_assert_eq!(of_lane.pop(), Some(record.from));
                while of_lane.last().is_some_and(|next| *next < record.to) {
                    of_lane.pop();
                }
            }
            prop_assert!(of_lane.is_empty());
        }
        let ends = |lane| {
            let full = raws.iter().filter(|raw| raw.lane == lane && !raw.partial).count();
            let open = raws.iter().rfind(|raw| raw.lane == lane).is_some_and(|raw| raw.partial);
            full + usize::from(open)
        };
        let lines: u32 = records.iter().map(|record| record.lines).sum();
        prop_assert_eq!(lines as usize, ends(Lane::Stdout) + ends(Lane::Stderr));
    }
}
