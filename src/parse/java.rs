//! `multiline: java`: which plain lines are one record.
//!
//! Owns the decision alone. A record is open while [`Group::continues`] says so; limits, the gap
//! in runtime time, and keeping stdout and stderr apart are the reader's, and a line that is a
//! JSON object never comes here. The answer depends on nothing but the bytes of the group's lines,
//! so that the same file is always cut in the same places.
//!
//! Joined are stack traces (with causes, suppressed exceptions, and the message of a cause that
//! runs over several lines), the exception behind a log line of Flink's pattern layout, indented
//! lines, and the `#` lines that a crashing JVM prints. Lines that could as well be something else
//! are not: a missed join costs less than two records in one document. So a second line of a log
//! message that is not indented stays by itself: `print()` writes into the same stream.
//!
//! Sources: `java.lang.Throwable.printStackTrace`; log4j2 `ThrowableProxyRenderer`; logback
//! `ThrowableProxyConverter` (`common frames omitted`, `Wrapped by`); OpenJDK
//! `src/hotspot/share/utilities/vmError.cpp`.

use super::{is_blank, time};

/// Lines of an exception's message that are joined without being indented.
const MESSAGE_LINES: u8 = 64;

/// What the lines of an open record look like so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    kind: Kind,
    /// How many lines may still be the message of the exception named last.
    message_lines: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A log line with date and time, the exception that it may carry not seen yet.
    Logged,
    /// Has an exception or a stack frame in it.
    Trace,
    /// Any other text.
    Text,
    /// `#` lines of a JVM that crashes.
    Crash,
    /// Complete by itself.
    Single,
}

/// What one line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Blank, or the beginning of a JSON object.
    Apart,
    /// Begins with a date and time.
    Dated,
    /// A line of the JVM's own logging, such as GC logging.
    Jvm,
    Crash,
    /// A stack frame, or what stands in for several.
    Frame,
    /// `Caused by:` and its like. `true`: its message may go on in the next line.
    Cause(bool),
    /// An exception's class, with or without message. `true`: its message may go on.
    Exception(bool),
    /// `Exception in thread "…" …`.
    Uncaught,
    /// Any other line that begins with white space.
    Indented,
    Other,
}

impl Group {
    /// The group that opens with `line`, which did not continue another.
    pub fn start(line: &[u8]) -> Self {
        let (kind, message_lines) = match Shape::of(line) {
            Shape::Apart | Shape::Jvm => (Kind::Single, 0),
            Shape::Indented | Shape::Other => (Kind::Text, 0),
            Shape::Dated => (Kind::Logged, 0),
            Shape::Crash => (Kind::Crash, 0),
            // A lone exception is often printed without its trace, so what follows may be anything.
            Shape::Frame | Shape::Exception(_) => (Kind::Trace, 0),
            Shape::Cause(open) => (Kind::Trace, message_lines(open)),
            Shape::Uncaught => (Kind::Trace, MESSAGE_LINES),
        };
        Self { kind, message_lines }
    }

    /// Whether `line` belongs to the group too. If not, the group is over.
    pub fn continues(&mut self, line: &[u8]) -> bool {
        let next = self.next(Shape::of(line), line);
        *self = next.unwrap_or(*self);
        next.is_some()
    }

    fn next(self, shape: Shape, line: &[u8]) -> Option<Self> {
        let Self { kind, message_lines: left } = self;
        let trace = |message_lines| Some(Self { kind: Kind::Trace, message_lines });
        match (kind, shape) {
            (Kind::Single, _) => None,
            (Kind::Crash, Shape::Crash) => Some(self),
            (Kind::Crash, _) => None,
            (_, Shape::Apart | Shape::Dated | Shape::Jvm | Shape::Crash | Shape::Uncaught) => None,
            (_, Shape::Frame) => trace(0),
            (Kind::Text, Shape::Cause(_)) if !line[0].is_ascii_whitespace() => None,
            (_, Shape::Cause(open)) => trace(message_lines(open)),
            (Kind::Logged, Shape::Exception(open)) => trace(message_lines(open)),
            (_, Shape::Exception(_)) => None,
            (_, Shape::Indented) => Some(self),
            (_, Shape::Other) if left > 0 && !line.starts_with(b"[") => trace(left - 1),
            (_, Shape::Other) => None,
        }
    }
}

fn message_lines(open: bool) -> u8 {
    if open { MESSAGE_LINES } else { 0 }
}

impl Shape {
    fn of(line: &[u8]) -> Self {
        let text = line.trim_ascii_start();
        let indented = text.len() < line.len();
        match text.first() {
            None | Some(b'{') => Self::Apart,
            Some(b'#') if !indented => Self::Crash,
            _ if indented && is_frame(text) => Self::Frame,
            _ if indented => Self::of_exception(text, indented),
            _ if is_jvm_log(line) => Self::Jvm,
            _ if time::starts_like_date_time(line.strip_prefix(b"[").unwrap_or(line)) => {
                Self::Dated
            }
            _ => Self::of_exception(text, indented),
        }
    }

    fn of_exception(text: &[u8], indented: bool) -> Self {
        for prefix in [&b"Caused by: "[..], b"Wrapped by: ", b"Suppressed: "] {
            if let Some(exception) = text.strip_prefix(prefix)
                && (indented || prefix != b"Suppressed: ")
            {
                return Self::Cause(message(exception).is_none_or(goes_on));
            }
        }
        if indented {
            return Self::Indented;
        }
        if text.starts_with(b"Exception in thread \"") {
            return Self::Uncaught;
        }
        match message(text) {
            Some(message) => Self::Exception(goes_on(message)),
            None => Self::Other,
        }
    }
}

/// Whether an exception's message may have further lines: not where there is none. Exceptions
/// without a trace (`-XX:+OmitStackTraceInFastThrow`) never have one.
fn goes_on(message: &[u8]) -> bool {
    !is_blank(message) && message != b"null"
}

/// A line such as `[2026-11-23T21:05:51.207+0000][info][gc] Using G1` or `[0.005s][info][gc] …`.
///
/// Source: JEP 158, `-Xlog` decorations.
fn is_jvm_log(line: &[u8]) -> bool {
    let decoration = line.strip_prefix(b"[").unwrap_or_default();
    let Some(end) = decoration.iter().take(40).position(|&byte| byte == b']') else { return false };
    let uptime = |text: &[u8]| {
        let seconds = text.strip_suffix(b"s").unwrap_or_default();
        let is_number = |byte: &u8| byte.is_ascii_digit() || b".,".contains(byte);
        !seconds.is_empty() && seconds.iter().all(is_number)
    };
    decoration[end..].starts_with(b"][")
        && (uptime(&decoration[..end]) || time::starts_like_date_time(decoration))
}

/// What stands in an indented line of a stack trace.
fn is_frame(text: &[u8]) -> bool {
    if text.starts_with(b"at ") || text.starts_with(b"[CIRCULAR REFERENCE") {
        return true;
    }
    let Some(rest) = text.strip_prefix(b"... ") else { return false };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let what = rest[digits..].trim_ascii();
    digits > 0 && (what == b"more" || what.starts_with(b"common frames omitted"))
}

/// The message behind the class name of an exception; `None` if `text` doesn't begin with one.
fn message(text: &[u8]) -> Option<&[u8]> {
    let is_name =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"._$".contains(byte) || *byte >= 0x80;
    let name = &text[..text.iter().take_while(|byte| is_name(byte)).count()];
    let rest = &text[name.len()..];
    let qualified = name.contains(&b'.') && !name[0].is_ascii_digit() && name[0] != b'.';
    let suffixes = [&b"Exception"[..], b"Error", b"Throwable", b"Failure", b".ThreadDeath"];
    if !qualified || !suffixes.iter().any(|suffix| name.ends_with(suffix)) {
        return None;
    }
    match rest {
        [] | [b'\r'] => Some(b""),
        [b':'] => Some(b""),
        [b':', b' ', message @ ..] => Some(message),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The lines of all records, one after the other, are cut into just these records.
    fn check(records: &[&[&str]]) {
        let mut cut: Vec<Vec<&str>> = Vec::new();
        let mut group: Option<Group> = None;
        for line in records.iter().copied().flatten() {
            if group.as_mut().is_some_and(|group| group.continues(line.as_bytes())) {
                cut.last_mut().unwrap().push(line);
            } else {
                group = Some(Group::start(line.as_bytes()));
                cut.push(vec![line]);
            }
        }
        assert_eq!(cut, records);
    }

    #[test]
    fn a_printed_stack_trace_is_one_record() {
        check(&[
            &["click-5"],
            &[
                "java.util.concurrent.ExecutionException: stage 2",
                "\tat example.flinklog.Failures.chain(Failures.java:48)",
                "\tat org.apache.flink.streaming.runtime.tasks.SourceOperatorStreamTask$AsyncDataOutputToOutput.emitRecord(SourceOperatorStreamTask.java:310)",
                "\tat java.base/java.lang.Thread.run(Thread.java:840)",
                "Caused by: java.io.IOException: retry 1 of 0 failed — commit back\\slash 注文 paiement shard refusé",
                "\tat example.flinklog.Failures.chain(Failures.java:43)",
                "\t... 23 more",
                "Caused by: java.sql.SQLException: duplicate key value violates unique constraint \"pk_settlement\"",
                "  Detail: Key (id)=(0) already exists.",
                "\tat example.flinklog.Failures.chain(Failures.java:36)",
                "\t... 24 more",
                "\tSuppressed: java.io.IOException: write failed on segment 0: \"No space left on device\"",
                "\t\tat example.flinklog.Failures.withSuppressed(Failures.java:26)",
                "\t\t... 25 more",
                "\t\tSuppressed: java.io.IOException: close of outbox-0 failed",
                "\t\t\tat example.flinklog.Failures$Leaky.close(Failures.java:81)",
                "\t\t\t... 26 more",
                "\t\tCaused by: java.lang.IllegalStateException: already closed: outbox-0",
                "\t\t\t... 27 more",
            ],
            &["DEBUG click=7 ua=Mozilla/5.0 offset shard commit refusé"],
            &["progress 10%\rprogress 50%\rprogress 100% #0"],
        ]);
        check(&[
            &[
                "java.lang.NullPointerException",
                "\tat example.flinklog.Failures.small(Failures.java:67)",
            ],
            &["WARN legacy client: \u{1b}[33mdeprecated\u{1b}[0m option -x, n=97"],
            &[
                "java.lang.NumberFormatException: For input string: \"back\\slash lag\"",
                "\tat a.B.c(B.java:1)",
            ],
            &["java.io.FileNotFoundException: s3://bucket-5/part-89.parquet (404)"],
            &["java.io.FileNotFoundException: s3://bucket-5/part-90.parquet (404)"],
        ]);
    }

    #[test]
    fn an_exception_joins_the_log_line_before_it() {
        check(&[
            &["2026-11-23 21:18:26,846 INFO  example.flinklog.Enrich  [] - order accepted id=1"],
            &[
                "2026-11-23 21:18:26,848 ERROR example.flinklog.Enrich  [] - circular failure",
                "java.lang.IllegalStateException: a waits for b",
                "\tat example.flinklog.Failures.circular(Failures.java:57) ~[blob_p-d9f27bc4:?]",
                "\tat java.lang.Thread.run(Thread.java:840) [?:?]",
                "Caused by: java.lang.IllegalStateException: b waits for a",
                "\tat example.flinklog.Failures.circular(Failures.java:58) ~[blob_p-d9f27bc4:?]",
                "\t... 17 more",
                "Caused by: [CIRCULAR REFERENCE: java.lang.IllegalStateException: a waits for b]",
                "\t... 18 more",
            ],
            &["java.lang.IllegalStateException: printed by a job", "\tat a.B.c(B.java:1)"],
            &[
                "2026-11-23 21:18:27,311 WARN  org.apache.flink.runtime.taskmanager.Task  [] - switched to FAILED",
                "java.lang.IllegalStateException: null",
                "\tat example.flinklog.Settle.map(Settle.java:32) ~[blob_p-d9f27bc4:?]",
                "Caused by: example.flinklog.Failures$SettlementRejectedException: tab\there, newline",
                "second line",
                "third line, bell \u{7} esc \u{1b}[31mred\u{1b}[0m emoji 🔥 #30",
                "\t... 23 more",
            ],
            &["click-1385"],
            &["2026-11-23 21:18:27,320 INFO  example.flinklog.Enrich  [] - tab\there"],
            &["second line"],
            &[
                "2026-11-23 21:18:27,321 WARN  x  [] - fails",
                "java.lang.NullPointerException: null",
            ],
            &["click-1386"],
        ]);
    }

    #[test]
    fn indented_lines_join() {
        check(&[
            &[
                "entrypoint: taskmanager of cluster orders-session on orders-session-taskmanager-1-2",
            ],
            &[
                "entrypoint: configuration from /opt/flink/conf:",
                "    jobmanager:",
                "      rpc:",
                "        port: 16123",
            ],
            &["entrypoint: + exec java"],
            &[
                "2026-11-23 21:18:52,684 INFO  a.B [] - Created a FileChannelManager:",
                "\t/opt/flink/tmp/flink-io-8f07cfc0",
            ],
            &["2026-11-23 21:18:52,690 INFO  a.B [] - NettyConfig"],
            &[
                "Missing resources:",
                "\t Job bce0fe0c",
                "\t\tResourceRequirement{numberOfRequiredSlots=2}",
            ],
            &["Current resources:", "\tTaskManager orders-session-taskmanager-1-2"],
        ]);
    }

    #[test]
    fn a_jvm_crash_is_one_record_and_its_own_log_lines_stand_alone() {
        check(&[
            &["[2026-11-23T21:05:51.207+0000][info][gc] Using G1"],
            &["[2026-11-23T21:05:51.237+0000][info][gc,init] CPUs: 2 total, 2 available"],
            &["\tat a.B.c(B.java:1)"],
            &["[0.005s][info][gc] Using G1"],
            &["\tindented"],
            &["[0, \"array\", null]"],
            &["click-2645"],
            &[
                "#",
                "# A fatal error has been detected by the Java Runtime Environment:",
                "#",
                "#  SIGSEGV (0xb) at pc=0x00007fb5c59c4f14 (sent by kill), pid=6070, tid=6070",
                "#",
            ],
            &["{\"@timestamp\":\"2026-11-23T21:06:54.407Z\""],
            &["#", "#   https://bugs.debian.org/openjdk-17"],
            &["Aborted"],
        ]);
    }

    #[test]
    fn what_never_continues() {
        for line in [
            "",
            "  ",
            "{\"a\":1}",
            "   {\"indented\": 0}\t",
            "2026-11-23T21:06:54Z x",
            "2026/11/23 21:06:54 x",
            "[2026-11-23 21:06:54] x",
            "[12.5s][info][gc] x",
            "#",
            "Exception in thread \"main\" java.lang.Error: x",
        ] {
            for first in [
                "2026-11-23 21:18:26,846 INFO",
                "Exception in thread \"main\" java.lang.Error: x",
                "text",
            ] {
                check(&[&[first], &[line]]);
            }
        }
    }

    #[test]
    fn exception_lines() {
        let yes = [
            "java.lang.Exception",
            "a.B$CError: x",
            "org.apache.flink.util.SerializedThrowable: x",
            "java.lang.ThreadDeath",
            "größe.Übermut_Exception:",
            "a.b.FooFailure\r",
        ];
        let no = [
            "Exception",
            "Exception: x",
            "a.b.Exceptional: x",
            "a.b.FooException at work",
            "a.b.FooException:x",
            ".Exception",
            "1.Error: x",
            "https://a.b/Error",
            "see a.b.FooException: x",
            "",
        ];
        for line in yes {
            assert!(message(line.as_bytes()).is_some(), "{line}");
        }
        for line in no {
            assert!(message(line.as_bytes()).is_none(), "{line}");
        }
    }

    #[test]
    fn a_message_has_a_limit() {
        let mut group = Group::start(b"Exception in thread \"main\" java.lang.Error: x");
        let joined = (0..1000).take_while(|_| group.continues(b"another line")).count();
        assert_eq!(joined, usize::from(MESSAGE_LINES));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_dates_always_start(
            lines: Vec<Vec<u8>>,
            more in prop::collection::vec("[ \t]?(at |\\.\\.\\. [0-9]{0,2}|Caused by: |a\\.Error|\\[|#|[0-9:-]|.){0,6}", 0..8),
        ) {
            let mut group = Group::start(b"");
            for line in lines.iter().map(Vec::as_slice).chain(more.iter().map(String::as_bytes)) {
                let before = group;
                if !group.continues(line) {
                    prop_assert_eq!(group, before);
                    group = Group::start(line);
                }
                prop_assert!(!group.continues(b"2026-11-23 21:18:26,846 INFO"));
                prop_assert!(!group.continues(b" "));
                let json = group.continues(b" { }");
                prop_assert!(!json);
            }
        }
    }
}
