//! Captured lines as templates: the text a process printed with slots where fresh values go.
//!
//! Owns reading captures (`<process>.<restart>.<stdout|stderr>.log`, gzip-compressed or not) and
//! finding the times that log4j2 wrote in them. Guarantees that a template rendered with the
//! captured moment is the captured line. Leaves out framing and files.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use memchr::memmem;
use serde::de::IgnoredAny;

use super::clock::{Moment, Notation, put_number};

/// A capture that can't be used, or a tree that can't be written.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("no captures named <process>.<restart>.<stdout|stderr>.log[.gz] in {}", .0.display())]
    NoCaptures(PathBuf),
    #[error("{component} was never captured: there are only {found}")]
    NoProcess { component: &'static str, found: String },
}

impl TreeError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Where a process printed a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// What goes into a line anew each time it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Time(Notation),
    /// `,"log_seq":N`, or without the comma in an object that had no member.
    JsonSequence {
        comma: bool,
    },
    /// ` [seq=N]`
    PlainSequence,
}

/// One captured line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub stream: Stream,
    /// Whether the whole line is one JSON object.
    pub is_json: bool,
    /// Nothing but white space.
    pub is_blank: bool,
    /// `false` for what a process left without a line feed at its end.
    pub ended: bool,
    /// What is between the slots, in one piece.
    text: Box<[u8]>,
    /// Offsets into `text`, in order.
    slots: Box<[(usize, Slot)]>,
}

/// Which numbers are written into lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbering {
    /// `log_seq` as the last member of each JSON object.
    pub json: bool,
    /// ` [seq=N]` at the end of each line that is neither JSON nor blank.
    pub plain: bool,
}

/// More than all slots of a line can add to its text.
const SLOTS_LENGTH_MAX: usize = 256;

impl Line {
    /// Makes a template of `raw`, with its line feed if it has one.
    pub fn parse(raw: &[u8], stream: Stream) -> Self {
        let ended = raw.last() == Some(&b'\n');
        let body = if ended { &raw[..raw.len() - 1] } else { raw };
        let is_json = is_object(body);
        let is_blank = body.trim_ascii().is_empty();
        let mut cuts = time_cuts(body);
        cuts.extend(sequence_cut(body, is_json, is_blank));
        cuts.sort_by_key(|cut| cut.0);
        let (mut text, mut slots, mut at) = (Vec::with_capacity(body.len()), Vec::new(), 0);
        for (start, end, slot) in cuts {
            text.extend_from_slice(&body[at..start]);
            slots.push((text.len(), slot));
            at = end;
        }
        text.extend_from_slice(&body[at..]);
        Self { stream, is_json, is_blank, ended, text: text.into(), slots: slots.into() }
    }

    /// An upper bound of the bytes that [`Line::render`] appends.
    pub(super) fn length_max(&self) -> usize {
        self.text.len() + SLOTS_LENGTH_MAX
    }

    /// Appends the line without a line feed.
    pub(super) fn render(
        &self,
        moment: &Moment,
        number: u64,
        numbering: Numbering,
        out: &mut Vec<u8>,
    ) {
        let mut at = 0;
        for &(offset, slot) in &self.slots {
            out.extend_from_slice(&self.text[at..offset]);
            at = offset;
            match slot {
                Slot::Time(notation) => moment.put(notation, out),
                Slot::JsonSequence { comma } if numbering.json => {
                    let name: &[u8] = if comma { b",\"log_seq\":" } else { b"\"log_seq\":" };
                    out.extend_from_slice(name);
                    put_number(out, number);
                }
                Slot::PlainSequence if numbering.plain => {
                    out.extend_from_slice(b" [seq=");
                    put_number(out, number);
                    out.push(b']');
                }
                Slot::JsonSequence { .. } | Slot::PlainSequence => {}
            }
        }
        out.extend_from_slice(&self.text[at..]);
    }
}

/// Whether `body` is one JSON object in UTF-8.
fn is_object(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'{')
        && std::str::from_utf8(body)
            .is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

fn sequence_cut(body: &[u8], is_json: bool, is_blank: bool) -> Option<(usize, usize, Slot)> {
    if is_json {
        let end = memchr::memrchr(b'}', body)?;
        let comma = body[..end].trim_ascii_end().last() != Some(&b'{');
        return Some((end, end, Slot::JsonSequence { comma }));
    }
    // A carriage return stays the last byte of its line.
    let end = if body.last() == Some(&b'\r') { body.len() - 1 } else { body.len() };
    (!is_blank).then_some((end, end, Slot::PlainSequence))
}

/// `9` stands for a digit; what else is in the form must be there.
const ISO: &[u8] = b"9999-99-99T99:99:99.999";
const PATTERN: &[u8] = b"9999-99-99 99:99:99,999";

/// What stands before a time, and how the time is written after it. The first match of each
/// counts, and the first of overlapping ones.
const MEMBERS: &[(&[u8], Notation)] = &[
    (b"\"@timestamp\":\"", Notation::Iso),
    (b"\"timestamp\":\"", Notation::Iso),
    (b"\"timestamp\":", Notation::DecimalSeconds),
    (b"\"epochSecond\":", Notation::Seconds),
    (b"\"nanoOfSecond\":", Notation::NanoOfSecond),
    (b"\"ts\":", Notation::Millis),
    (b"\"time\":\"", Notation::IsoPlusOne),
];

/// Where log4j2 or the JVM wrote times, as start, end and slot.
fn time_cuts(body: &[u8]) -> Vec<(usize, usize, Slot)> {
    let mut cuts: Vec<(usize, usize, Slot)> = Vec::new();
    for &(before, notation) in MEMBERS {
        let mut places = memmem::find_iter(body, before).map(|at| at + before.len());
        let found =
            places.find_map(|start| Some((start, start + time_length(&body[start..], notation)?)));
        let Some((start, end)) = found else { continue };
        cuts.push((start, end, Slot::Time(notation)));
    }
    if has_form(body, PATTERN) && body.get(PATTERN.len()) == Some(&b' ') {
        cuts.push((0, PATTERN.len(), Slot::Time(Notation::Pattern)));
    }
    // The JVM's unified logging, as in its GC log.
    let unified = body.strip_prefix(b"[").unwrap_or_default();
    if has_form(unified, ISO) && unified[ISO.len()..].starts_with(b"+0000]") {
        cuts.push((1, 1 + ISO.len(), Slot::Time(Notation::Iso)));
    }
    cuts
}

/// The length of the time at the start of `text`, if one in `notation` is there with what must
/// come after it.
fn time_length(text: &[u8], notation: Notation) -> Option<usize> {
    let followed = |length: usize, by: &[&[u8]]| {
        by.iter().any(|after| text[length..].starts_with(after)).then_some(length)
    };
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number_ends: [&[u8]; 2] = [b",", b"}"];
    match notation {
        Notation::Iso if has_form(text, ISO) => followed(ISO.len(), &[b"Z", b"+0000", b"+00:00"]),
        Notation::IsoPlusOne if has_form(text, ISO) => followed(ISO.len(), &[b"+01:00"]),
        Notation::Seconds if digits == 10 => followed(10, &number_ends),
        Notation::Millis if digits == 13 => followed(13, &number_ends),
        Notation::NanoOfSecond if (1..=9).contains(&digits) => followed(digits, &number_ends),
        Notation::DecimalSeconds if digits == 10 && text.get(10) == Some(&b'.') => {
            let decimals = text[11..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            if decimals == 0 { None } else { followed(11 + decimals, &number_ends) }
        }
        _ => None,
    }
}

fn has_form(text: &[u8], form: &[u8]) -> bool {
    text.len() >= form.len()
        && form.iter().zip(text).all(|(want, byte)| match want {
            b'9' => byte.is_ascii_digit(),
            _ => want == byte,
        })
}

/// What processes printed: lines by process name and restart.
#[derive(Debug, Clone, Default)]
pub struct Captures {
    processes: BTreeMap<String, BTreeMap<u32, Arc<[Line]>>>,
}

impl Captures {
    /// Reads the captures of a folder; files with other names are left alone.
    pub fn load(folder: &Path) -> Result<Self, TreeError> {
        let list = || -> std::io::Result<Vec<PathBuf>> {
            std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
        };
        let mut paths = list().map_err(TreeError::io("list", folder))?;
        paths.sort();
        let mut files = Vec::new();
        for path in &paths {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if CaptureName::parse(name).is_some() {
                let bytes = std::fs::read(path).map_err(TreeError::io("read", path))?;
                files.push((name, bytes));
            }
        }
        let files: Vec<_> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        Self::parse(&files, folder)
    }

    /// Takes captures by file name and content; `origin` is named in errors.
    pub fn parse(files: &[(&str, &[u8])], origin: &Path) -> Result<Self, TreeError> {
        let mut streams: BTreeMap<(String, u32), Vec<Vec<Line>>> = BTreeMap::new();
        for (name, bytes) in files {
            let Some(parsed) = CaptureName::parse(name) else { continue };
            let text = if parsed.gzip {
                let mut text = Vec::new();
                (MultiGzDecoder::new(*bytes).read_to_end(&mut text))
                    .map_err(TreeError::io("decompress", &origin.join(name)))?;
                text
            } else {
                bytes.to_vec()
            };
            let lines = text.split_inclusive(|byte| *byte == b'\n');
            let lines = lines.map(|raw| Line::parse(raw, parsed.stream)).collect();
            streams.entry((parsed.process.to_owned(), parsed.restart)).or_default().push(lines);
        }
        let mut captures = Self::default();
        for ((process, restart), lines) in streams {
            let lines: Arc<[Line]> = merge(lines).into();
            if !lines.is_empty() {
                captures.processes.entry(process).or_default().insert(restart, lines);
            }
        }
        if captures.processes.is_empty() {
            return Err(TreeError::NoCaptures(origin.to_owned()));
        }
        Ok(captures)
    }

    /// The restarts of the `place`-th process whose name begins with `component`, taking turns.
    /// At least one restart, and none without lines.
    pub(super) fn process(
        &self,
        component: &'static str,
        place: usize,
    ) -> Result<&BTreeMap<u32, Arc<[Line]>>, TreeError> {
        let fitting: Vec<_> =
            self.processes.iter().filter(|(name, _)| name.starts_with(component)).collect();
        let found = || self.processes.keys().cloned().collect::<Vec<_>>().join(", ");
        let turn = place.checked_rem(fitting.len());
        turn.map(|turn| fitting[turn].1)
            .ok_or_else(|| TreeError::NoProcess { component, found: found() })
    }
}

/// `<process>.<restart>.<stdout|stderr>.log[.gz]`
struct CaptureName<'a> {
    process: &'a str,
    restart: u32,
    stream: Stream,
    gzip: bool,
}

impl<'a> CaptureName<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        let (name, gzip) = match name.strip_suffix(".gz") {
            Some(plain) => (plain, true),
            None => (name, false),
        };
        let mut parts = name.strip_suffix(".log")?.rsplitn(3, '.');
        let stream = match parts.next()? {
            "stdout" => Stream::Stdout,
            "stderr" => Stream::Stderr,
            _ => return None,
        };
        let restart = parts.next()?.parse().ok()?;
        let process = parts.next().filter(|process| !process.is_empty())?;
        Some(Self { process, restart, stream, gzip })
    }
}

/// Spreads the lines of the shorter stream evenly over the longer one: captures don't say how
/// stdout and stderr interleaved.
fn merge(mut streams: Vec<Vec<Line>>) -> Vec<Line> {
    streams.sort_by_key(|lines| std::cmp::Reverse(lines.len()));
    let mut streams = streams.into_iter();
    let Some(mut merged) = streams.next() else { return Vec::new() };
    for shorter in streams {
        let (long, short) = (merged.len(), shorter.len().max(1));
        let mut longer = std::mem::take(&mut merged).into_iter();
        for (index, line) in shorter.into_iter().enumerate() {
            let until = (2 * index + 1) * long / (2 * short);
            let behind = merged.len() - index;
            merged.extend(longer.by_ref().take(until - behind));
            merged.push(line);
        }
        merged.extend(longer);
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOTH: Numbering = Numbering { json: true, plain: true };
    const NS: u64 = 1_795_468_350_092_340_794;

    fn render(raw: &str, numbering: Numbering) -> String {
        let mut out = Vec::new();
        Line::parse(raw.as_bytes(), Stream::Stdout).render(
            &Moment::new(NS),
            7,
            numbering,
            &mut out,
        );
        String::from_utf8(out).unwrap()
    }

    fn check(raw: &str, expected: &str) {
        assert_eq!(render(raw, BOTH), expected);
    }

    #[test]
    fn layouts_get_fresh_times_and_numbers() {
        check(
            concat!(
                r#"{"@timestamp":"2026-11-23T21:06:08.725Z","ecs.version":"1.2.0","log.level":"#,
                r#""INFO","message":"Settlement attempt 0 begins"}"#,
                "\n"
            ),
            concat!(
                r#"{"@timestamp":"2026-11-23T21:12:30.092Z","ecs.version":"1.2.0","log.level":"#,
                r#""INFO","message":"Settlement attempt 0 begins","log_seq":7}"#
            ),
        );
        check(
            r#"{"@version":1,"@timestamp":"2026-11-23T21:20:56.514+0000"}"#,
            r#"{"@version":1,"@timestamp":"2026-11-23T21:12:30.092+0000","log_seq":7}"#,
        );
        check(
            r#"{"instant":{"epochSecond":1795468352,"nanoOfSecond":816999947},"thread":"main"}"#,
            r#"{"instant":{"epochSecond":1795468350,"nanoOfSecond":92340794},"thread":"main","log_seq":7}"#,
        );
        check(
            r#"{"timestamp":1795468937.493127544,"level":6}"#,
            r#"{"timestamp":1795468350.092340794,"level":6,"log_seq":7}"#,
        );
        check(r#"{"ts":1795468937493}"#, r#"{"ts":1795468350092,"log_seq":7}"#);
        check(
            "2026-11-23 21:07:07,160 INFO  org.apache.flink.Main [] - up\n",
            "2026-11-23 21:12:30,092 INFO  org.apache.flink.Main [] - up [seq=7]",
        );
        check(
            "[2026-11-23T21:05:51.207+0000][info][gc] Using G1",
            "[2026-11-23T21:12:30.092+0000][info][gc] Using G1 [seq=7]",
        );
    }

    #[test]
    fn what_is_no_log_event_keeps_its_bytes() {
        check("{}", r#"{"log_seq":7}"#);
        check("{ }  ", r#"{ "log_seq":7}  "#);
        check("   \t", "   \t");
        check("progress 10%\r", "progress 10% [seq=7]\r");
        check(r#"[0, "array", null]"#, r#"[0, "array", null] [seq=7]"#);
        check(r#"{"cut":"off"#, r#"{"cut":"off [seq=7]"#);
        check(r#"{"timestamp":"soon","ts":12}"#, r#"{"timestamp":"soon","ts":12,"log_seq":7}"#);
        assert_eq!(render(r#"{"a":1}"#, Numbering::default()), r#"{"a":1}"#);
        assert_eq!(render("plain", Numbering::default()), "plain");
    }

    #[test]
    fn only_capture_names_are_captures() {
        let name = CaptureName::parse("taskmanager-1.0.stderr.log.gz").unwrap();
        assert_eq!((name.process, name.restart, name.gzip), ("taskmanager-1", 0, true));
        for other in
            ["README.md", "jobmanager.stdout.log", "jobmanager.x.stdout.log", ".0.stdout.log"]
        {
            assert!(CaptureName::parse(other).is_none(), "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_line_without_numbers_or_times_is_itself(raw in "[^\n0-9]{0,80}") {
            prop_assert_eq!(render(&raw, Numbering::default()), raw);
        }

        #[test]
        fn merging_keeps_every_line_in_the_order_of_its_stream(long in 0usize..60, short in 0usize..60) {
            let lines = |count: usize, stream| -> Vec<Line> {
                (0..count).map(|n| Line::parse(format!("line {n}").as_bytes(), stream)).collect()
            };
            let (out, err) = (lines(long, Stream::Stdout), lines(short, Stream::Stderr));
            let merged = merge(vec![out.clone(), err.clone()]);
            let of = |stream| merged.iter().filter(|line| line.stream == stream).cloned().collect::<Vec<_>>();
            prop_assert_eq!(of(Stream::Stdout), out);
            prop_assert_eq!(of(Stream::Stderr), err);
        }
    }
}
