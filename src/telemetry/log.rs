//! The agent's own log: to stderr, readable on a terminal, JSON lines elsewhere.
//!
//! Owns the form of a line: one per happening, from `info` up, control characters escaped in
//! everything that is logged, errors with all their causes. What the libraries log counts from
//! `warn` up and at most once a minute for each place in their code; the agent's own code limits its
//! lines by [`super::throttle`]. JSON lines use the names of the Elastic Common Schema.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::IsTerminal;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::subscriber::SetGlobalDefaultError;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use super::throttle;

/// Starts logging for the whole process; fails if that was done before.
pub fn init() -> Result<(), SetGlobalDefaultError> {
    let form = if std::io::stderr().is_terminal() { Form::Terminal } else { Form::Json };
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .event_format(form)
        .with_filter(filter_fn(is_wanted));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))
}

fn is_own(metadata: &Metadata<'_>) -> bool {
    let rest = metadata.target().strip_prefix(env!("CARGO_CRATE_NAME"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn is_wanted(metadata: &Metadata<'_>) -> bool {
    let least = if is_own(metadata) { Level::INFO } else { Level::WARN };
    metadata.is_event() && *metadata.level() <= least
}

/// How a line looks.
#[derive(Debug, Clone, Copy)]
enum Form {
    Terminal,
    Json,
}

impl<S, N> FormatEvent<S, N> for Form
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut line = Line::default();
        event.record(&mut line);
        if !is_own(metadata) {
            let cause = format!("{}:{}", metadata.target(), metadata.line().unwrap_or_default());
            match throttle::allow(&cause) {
                None => return Ok(()),
                Some(0) => {}
                Some(suppressed) => line.fields.push(("suppressed", suppressed.into())),
            }
        }
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        match self {
            Self::Terminal => writer.write_str(&line.for_terminal(&time, metadata)),
            Self::Json => writer.write_str(&line.as_json(&time, metadata)),
        }
    }
}

/// What an event says.
#[derive(Debug, Default)]
struct Line {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Line {
    fn for_terminal(&self, time: &str, metadata: &Metadata<'_>) -> String {
        let mut out = format!("\x1b[2m{time}\x1b[0m {} ", coloured(*metadata.level()));
        escape(&self.message, &mut out);
        for (name, value) in &self.fields {
            out.push_str(" \x1b[2m");
            out.push_str(name);
            out.push_str("=\x1b[0m");
            match value {
                Value::String(text) => escape(text, &mut out),
                other => out.push_str(&other.to_string()),
            }
        }
        out.push('\n');
        out
    }

    fn as_json(&self, time: &str, metadata: &Metadata<'_>) -> String {
        let level = metadata.level().as_str().to_ascii_lowercase();
        let head = [
            ("@timestamp", Value::from(time)),
            ("log.level", Value::from(level)),
            ("log.logger", Value::from(metadata.target())),
            ("message", Value::from(self.message.as_str())),
        ];
        let mut json = String::from("{");
        for (name, value) in head.iter().chain(&self.fields) {
            let comma = if json.len() > 1 { "," } else { "" };
            json.push_str(comma);
            json.push_str(&Value::from(*name).to_string());
            json.push(':');
            json.push_str(&value.to_string());
        }
        // JSON escapes what is below U+0020; terminals obey U+007F to U+009F too.
        let mut out = String::with_capacity(json.len() + 2);
        for character in json.chars() {
            if character.is_control() {
                out.push_str(&format!("\\u{:04x}", u32::from(character)));
            } else {
                out.push(character);
            }
        }
        out.push_str("}\n");
        out
    }

    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let _written: fmt::Result = write!(text, ": {cause}");
            source = cause.source();
        }
        self.put(field, text.into());
    }
}

fn coloured(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31mERROR\x1b[0m",
        Level::WARN => "\x1b[33m WARN\x1b[0m",
        Level::INFO => "\x1b[32m INFO\x1b[0m",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "TRACE",
    }
}

/// Appends `text` without any control character.
fn escape(text: &str, out: &mut String) {
    for character in text.chars() {
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written for what is logged, without the time.
    fn logged(form: Form, log: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .event_format(form)
            .with_filter(filter_fn(is_wanted));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open\x1b[2J /a")]
    struct OpenError(#[source] io::Error);

    fn say() {
        let error = OpenError(io::Error::other("denied"));
        let error: &(dyn Error + 'static) = &error;
        tracing::warn!(error, path = %"a\nb\u{9b}1m", lines = 3_u64, "odd \x1b[31m{}", "line\r");
    }

    #[test]
    fn json_lines_are_json_without_control_characters() {
        let text = logged(Form::Json, say);
        let line = text.strip_suffix('\n').unwrap();
        assert!(!line.chars().any(char::is_control), "{line:?}");
        let mut value: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
        let time = value.remove("@timestamp").unwrap();
        assert!(time.as_str().unwrap().ends_with('Z'));
        let expected = serde_json::json!({
            "log.level": "warn",
            "log.logger": "splashdam::telemetry::log::tests",
            "message": "odd \x1b[31mline\r",
            "error": "cannot open\x1b[2J /a: denied",
            "path": "a\nb\u{9b}1m",
            "lines": 3,
        });
        assert_eq!(Value::from(value), expected);
    }

    #[test]
    fn a_terminal_gets_colours_but_none_of_what_is_logged() {
        let text = logged(Form::Terminal, say);
        let (_, rest) = text.split_once("\x1b[33m WARN\x1b[0m ").unwrap();
        let expected = concat!(
            "odd \\u{1b}[31mline\\r \x1b[2merror=\x1b[0mcannot open\\u{1b}[2J /a: denied",
            " \x1b[2mpath=\x1b[0ma\\nb\\u{9b}1m \x1b[2mlines=\x1b[0m3\n",
        );
        assert_eq!(rest, expected);
    }

    #[test]
    fn libraries_are_heard_from_warn_on_and_once_a_minute() {
        let text = logged(Form::Json, || {
            for _ in 0..3 {
                tracing::info!(target: "hyper::proto", "detail");
                tracing::warn!(target: "hyper::proto", "trouble");
                tracing::warn!(target: "splashdamage", "not ours");
                tracing::debug!("ours");
                tracing::info_span!("request").in_scope(|| tracing::info!("ours too"));
            }
        });
        let count = |needle: &str| text.matches(needle).count();
        assert_eq!((count("detail"), count("trouble"), count("not ours")), (0, 1, 1));
        assert_eq!((count("\"ours\""), count("ours too")), (0, 3));
    }
}
