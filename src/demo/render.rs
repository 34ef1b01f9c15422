//! What the demo shows of the documents: pure text from NDJSON lines.
//!
//! Owns the choice of documents ([`Showcase`]) and their looks. Guarantees that nothing from a
//! log reaches the terminal as a control character: they are shown escaped, as are the marks that
//! turn the direction of text. Colours only if asked for. Leaves out reading and printing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::Value;

use crate::telemetry::terminal::escape;

/// Characters of a one-line message that are shown.
const MESSAGE_WIDTH: usize = 96;

/// Ordinary documents shown for each pod.
const SHOWN_PER_POD: usize = 9;

/// Of these one is shown, so that what is shown spreads over the whole time.
const ONE_OF: usize = 15;

/// How text is emphasised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Palette {
    Plain,
    /// ANSI colours; only for a terminal.
    Colour,
}

#[derive(Debug, Clone, Copy)]
enum Tone {
    Faint,
    Strong,
    Good,
    Warning,
    Bad,
}

impl Palette {
    fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Faint => "2",
            Tone::Strong => "1",
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31",
        };
        match self {
            Self::Plain => text.to_owned(),
            Self::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }

    /// A title between parts of the demo.
    pub(super) fn title(self, text: &str) -> String {
        self.paint(Tone::Strong, text)
    }
}

/// The first `width` characters, with a mark where something was cut.
fn clip(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The value at a dotted path, whether its dots are in names or between objects.
fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let object = value.as_object()?;
    if let Some(found) = object.get(path) {
        return Some(found);
    }
    path.match_indices('.').find_map(|(dot, _)| {
        let (name, rest) = (path.get(..dot)?, path.get(dot + 1..)?);
        at(object.get(name)?, rest)
    })
}

fn text<'a>(document: &'a Value, paths: &[&str]) -> &'a str {
    paths.iter().find_map(|path| at(document, path)?.as_str()).unwrap_or_default()
}

/// What was seen of one pod.
#[derive(Debug, Default)]
struct Seen {
    documents: usize,
    shown: usize,
    /// `log_seq` of the documents that have one.
    numbers: BTreeSet<u64>,
}

/// What all documents together came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) documents: u64,
    /// Documents made of more than one line.
    pub(super) joined: u64,
    /// Lines of JSON that came out, each counted once.
    pub(super) numbered: u64,
    /// Lines of JSON that came out again.
    pub(super) repeated: u64,
    /// Lines of the output that are no JSON object.
    pub(super) unreadable: u64,
}

/// Chooses what is shown, and counts everything.
#[derive(Debug)]
pub(super) struct Showcase {
    palette: Palette,
    pods: BTreeMap<String, Seen>,
    trace_shown: bool,
    tally: Tally,
}

impl Showcase {
    pub(super) fn new(palette: Palette) -> Self {
        Self { palette, pods: BTreeMap::new(), trace_shown: false, tally: Tally::default() }
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    /// Counts one document and returns the lines to show for it, often none.
    pub(super) fn take(&mut self, line: &[u8]) -> Vec<String> {
        let document = match serde_json::from_slice::<Value>(line) {
            Ok(document) if document.is_object() => document,
            _ => {
                self.tally.unreadable += 1;
                return Vec::new();
            }
        };
        let pod = text(&document, &["kubernetes.pod_name", "kubernetes.pod.name"]);
        let seen = self.pods.entry(pod.to_owned()).or_default();
        self.tally.documents += 1;
        if let Some(number) = document.get("log_seq").and_then(Value::as_u64) {
            let new = seen.numbers.insert(number);
            self.tally.numbered += u64::from(new);
            self.tally.repeated += u64::from(!new);
        }
        let message = text(&document, &["message"]);
        let is_joined = document.get("log_seq").is_none() && message.contains('\n');
        self.tally.joined += u64::from(is_joined);

        seen.documents += 1;
        let mut lines = Vec::new();
        if seen.documents == 1 {
            lines.push(introduction(&document, self.palette));
        }
        if is_joined && !self.trace_shown && message.contains("\n\tat ") {
            self.trace_shown = true;
            lines.extend(whole(&document, self.palette));
        } else if seen.documents % ONE_OF == 1 && seen.shown < SHOWN_PER_POD {
            seen.shown += 1;
            lines.push(summary(&document, self.palette));
        }
        lines
    }
}

/// Whose documents follow: the pod with what Kubernetes knows of it.
fn introduction(document: &Value, palette: Palette) -> String {
    let pod = text(document, &["kubernetes.pod_name", "kubernetes.pod.name"]);
    let node = text(document, &["kubernetes.host", "kubernetes.node.name"]);
    let mut facts = format!("node={}", escape(node));
    let labels = at(document, "kubernetes.labels").and_then(Value::as_object);
    for (name, value) in labels.into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        let result = write!(facts, " {}={}", escape(name), escape(value));
        result.expect("a string takes any text");
    }
    format!(
        "{} {}",
        palette.title(&format!("● {}", escape(pod))),
        palette.paint(Tone::Faint, &facts)
    )
}

/// Time, component and level of a document.
fn head(document: &Value, palette: Palette) -> String {
    let time = text(document, &["@timestamp"]);
    let clock = time.get(11..23).unwrap_or(time);
    let component = text(document, &["flink.component", "kubernetes.labels.component"]);
    let level = text(document, &["log.level", "level"]);
    let tone = match level {
        "ERROR" | "FATAL" => Tone::Bad,
        "WARN" => Tone::Warning,
        "INFO" => Tone::Good,
        _ => Tone::Faint,
    };
    let (clock, component) = (escape(clock), escape(component));
    let level = palette.paint(tone, &format!("{:<5}", clip(&escape(level), 5)));
    format!("{} {component:<11} {level}", palette.paint(Tone::Faint, &clock))
}

/// A document in one line.
fn summary(document: &Value, palette: Palette) -> String {
    let message = match text(document, &["message"]) {
        "" => own_fields(document),
        message => message.to_owned(),
    };
    let first = message.lines().next().unwrap_or_default();
    let mut line = format!("{} {}", head(document, palette), clip(&escape(first), MESSAGE_WIDTH));
    let more = message.lines().count().saturating_sub(1);
    if more > 0 {
        line.push_str(&palette.paint(Tone::Faint, &format!(" (+{more} lines)")));
    }
    let job = text(document, &["flink.job.id", "flink-job-id"]);
    if !job.is_empty() {
        line.push_str(&palette.paint(Tone::Faint, &format!(" job={}", clip(&escape(job), 8))));
    }
    line
}

/// What the application wrote when it wrote no message: an object that is no log event.
fn own_fields(document: &Value) -> String {
    let agents = ["@timestamp", "flink", "kubernetes", "kubernetes_namespace", "log", "log_seq"];
    let framing = ["stream", "logtag", "time"];
    let mut fields = document.clone();
    if let Some(fields) = fields.as_object_mut() {
        fields.retain(|name, _| {
            !agents.contains(&name.as_str())
                && !framing.contains(&name.as_str())
                && !name.starts_with("log.")
        });
    }
    fields.to_string()
}

/// A document with every line of its message.
fn whole(document: &Value, palette: Palette) -> Vec<String> {
    let message = text(document, &["message"]);
    let count = message.lines().count();
    let note =
        format!("one document, joined from {count} lines of {}", text(document, &["stream"]));
    let mut lines = vec![format!("{} {}", head(document, palette), palette.title(&escape(&note)))];
    lines.extend(message.lines().map(|line| format!("  │ {}", escape(line))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A document as the agent writes it for a line of Flink's.
    const DOCUMENT: &str = r#"{"@timestamp":"2026-11-23T21:06:06.503Z","ecs.version":"1.2.0","log.level":"INFO","message":"Job orders-enrichment (b18f0b529989bee72c64dff467c6eee0) switched from state CREATED to RUNNING.","flink-job-id":"b18f0b529989bee72c64dff467c6eee0","log_seq":23,"stream":"stdout","kubernetes":{"pod_name":"orders-session-x-y","host":"node-a","labels":{"app":"orders-session","component":"jobmanager"}}}"#;

    fn trace(message: &str) -> String {
        serde_json::json!({
            "@timestamp": "2026-11-23T21:06:10.556000000Z", "message": message, "stream": "stderr",
            "kubernetes": {"pod_name": "tm", "labels": {"component": "taskmanager"}},
        })
        .to_string()
    }

    fn check(line: &str, palette: Palette, expected: &[&str]) {
        assert_eq!(Showcase::new(palette).take(line.as_bytes()), expected);
    }

    #[test]
    fn the_first_document_of_a_pod_introduces_it() {
        check(
            DOCUMENT,
            Palette::Plain,
            &[
                "● orders-session-x-y node=node-a app=orders-session component=jobmanager",
                "21:06:06.503 jobmanager  INFO  Job orders-enrichment (b18f0b529989bee72c64dff467c6eee0) switched from state CREATED to RUNNING. job=b18f0b52…",
            ],
        );
    }

    #[test]
    fn an_object_that_is_no_log_event_shows_its_fields() {
        let line = r#"{"event":"click","n":3,"log_seq":9,"stream":"stdout","@timestamp":"2026-11-23T21:06:06.503Z","kubernetes":{"pod_name":"p"}}"#;
        let shown = Showcase::new(Palette::Plain).take(line.as_bytes());
        assert!(shown[1].ends_with(r#" {"event":"click","n":3}"#), "{shown:?}");
    }

    #[test]
    fn a_stack_trace_is_shown_whole_once() {
        let mut showcase = Showcase::new(Palette::Plain);
        let line = trace("java.io.IOException: no\n\tat a.B.c(B.java:1)\nCaused by: x");
        let shown = showcase.take(line.as_bytes());
        assert_eq!(
            shown[1..],
            [
                "21:06:10.556 taskmanager       one document, joined from 3 lines of stderr",
                "  │ java.io.IOException: no",
                "  │     at a.B.c(B.java:1)",
                "  │ Caused by: x",
            ]
        );
        assert!(showcase.take(line.as_bytes()).is_empty());
        assert_eq!(showcase.tally().joined, 2);
    }

    #[test]
    fn no_control_character_gets_through() {
        let nasty = "a\x1b[31mred\r\u{7}\u{9b}2J\u{202e}evil\u{85}\x7f";
        assert_eq!(escape(nasty), "a\\u{1b}[31mred\\r\\u{7}\\u{9b}2J\\u{202e}evil\\u{85}\\u{7f}");
        let line = trace(&format!("{nasty}\n\tat {nasty}"));
        for line in Showcase::new(Palette::Plain).take(line.as_bytes()) {
            assert!(!line.contains(char::is_control), "{line:?}");
        }
    }

    #[test]
    fn numbers_tell_what_came_twice() {
        let mut showcase = Showcase::new(Palette::Plain);
        for line in [DOCUMENT, DOCUMENT, "no json", "[1]"] {
            showcase.take(line.as_bytes());
        }
        let expected = Tally { documents: 2, joined: 0, numbered: 1, repeated: 1, unreadable: 2 };
        assert_eq!(showcase.tally(), expected);
    }

    #[test]
    fn colours_only_where_asked_for() {
        let shown = Showcase::new(Palette::Colour).take(DOCUMENT.as_bytes()).join("\n");
        assert!(shown.contains("\x1b[32mINFO \x1b[0m"), "{shown:?}");
        let shown = Showcase::new(Palette::Plain).take(DOCUMENT.as_bytes()).join("\n");
        assert!(!shown.contains('\x1b'));
    }

    #[test]
    fn dots_in_names_and_nested_objects_are_the_same_path() {
        let nested: Value = serde_json::from_str(r#"{"a":{"b.c":{"d":"x"}}}"#).unwrap();
        assert_eq!(at(&nested, "a.b.c.d").and_then(Value::as_str), Some("x"));
        assert_eq!(at(&nested, "a.b.d"), None);
    }
}
