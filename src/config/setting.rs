//! Typed access to one value of a configuration: the only way from YAML to settings.
//!
//! Each accessor gives the value, or records what was expected and gives `None`; the reader then
//! goes on with the default, so that one run finds every problem. A [`Section`] remembers which
//! keys were asked for: those that weren't are unknown, and the nearest known one is named.
//!
//! No message quotes a value after expansion (`${VAR}` is shown as written), nor anything that
//! [`Setting::secret`] reads.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use globset::{Glob, GlobBuilder, GlobMatcher};
use regex::Regex;

use super::pipeline::Secret;
use super::problem::{Report, any_of, nearest, quoted};
use super::units;
use super::yaml::{Entry, Node, Scalar, Value};

/// More known keys than these aren't listed in a message.
const MOST_LISTED: usize = 12;

/// A value that is there.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) node: &'a Node,
    pub(super) report: &'a Report,
}

impl<'a> Setting<'a> {
    pub(super) fn new(node: &'a Node, report: &'a Report) -> Self {
        Self { node, report }
    }

    pub(super) fn error(self, message: impl Into<String>) {
        self.report.error(&self.node.place, message);
    }

    pub(super) fn warn(self, message: impl Into<String>) {
        self.report.warn(&self.node.place, message);
    }

    /// Records that something else was expected here.
    pub(super) fn expected<T>(self, what: &str) -> Option<T> {
        self.error(format!("expected {what}, found {}", self.found()));
        None
    }

    /// What stands here, for messages.
    pub(super) fn found(self) -> String {
        match &self.node.value {
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
            Value::Scalar(scalar) => match &scalar.expanded {
                Some(expanded) => format!("the value of {}", quoted(&expanded.written)),
                None if scalar.is_null() => "nothing".to_owned(),
                None => quoted(&scalar.text),
            },
        }
    }

    fn scalar(self) -> Option<&'a Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) if !scalar.is_null() => Some(scalar),
            _ => None,
        }
    }

    /// Any text. A number or truth value is taken as it is written.
    pub(super) fn text(self) -> Option<String> {
        match self.scalar() {
            Some(scalar) => Some(scalar.text.clone()),
            None => self.expected("text"),
        }
    }

    /// Text that isn't empty; `what` says of what kind.
    pub(super) fn filled(self, what: &str) -> Option<String> {
        match self.scalar() {
            Some(scalar) if !scalar.text.is_empty() => Some(scalar.text.clone()),
            _ => self.expected(what),
        }
    }

    fn parsed<T>(self, what: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        match self.scalar().and_then(|scalar| parse(&scalar.text)) {
            Some(value) => Some(value),
            None => self.expected(what),
        }
    }

    pub(super) fn boolean(self) -> Option<bool> {
        self.parsed("`true` or `false`", |text| match text {
            "true" | "True" | "TRUE" => Some(true),
            "false" | "False" | "FALSE" => Some(false),
            _ => None,
        })
    }

    /// A whole number within `range`.
    pub(super) fn number(self, range: RangeInclusive<usize>) -> Option<usize> {
        let what = format!("a whole number from {} to {}", range.start(), range.end());
        self.parsed(&what, |text| text.parse().ok().filter(|number| range.contains(number)))
    }

    /// A number of bytes within `range`.
    pub(super) fn size(self, range: RangeInclusive<usize>) -> Option<usize> {
        let show = |bytes: &usize| units::show_size(*bytes as u64);
        let what = format!(
            "a size from {} to {}, such as 1MiB, 10MB or 4096",
            show(range.start()),
            show(range.end())
        );
        self.parsed(&what, |text| {
            let bytes = usize::try_from(units::parse_size(text)?).ok()?;
            range.contains(&bytes).then_some(bytes)
        })
    }

    /// A duration within `range`.
    pub(super) fn duration(self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let (from, to) = (units::show_duration(*range.start()), units::show_duration(*range.end()));
        let what = format!("a duration from {from} to {to}, such as 250ms, 5s or 1h30m");
        self.parsed(&what, |text| units::parse_duration(text).filter(|d| range.contains(d)))
    }

    pub(super) fn rate(self) -> Option<(u64, Duration)> {
        self.parsed("a rate above zero, such as 5000/s or 100/m", units::parse_rate)
    }

    pub(super) fn fraction(self) -> Option<(u64, u64)> {
        self.parsed("a fraction above zero and up to one, such as 1/100", units::parse_fraction)
    }

    /// One of a closed set.
    pub(super) fn choice<T: Copy>(self, choices: &[(&str, T)]) -> Option<T> {
        let names = any_of(choices.iter().map(|(name, _)| *name));
        self.parsed(&names, |text| {
            choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
        })
    }

    /// A path; a relative one starts at the agent's working directory.
    pub(super) fn path(self) -> Option<PathBuf> {
        self.filled("a path").map(PathBuf::from)
    }

    /// An address to listen on, or `none`.
    pub(super) fn listen(self) -> Option<Option<SocketAddr>> {
        self.parsed(
            "an address and port such as 0.0.0.0:9102 or \"[::]:9102\", or `none`",
            |text| match text {
                "none" => Some(None),
                _ => text.parse().ok().map(Some),
            },
        )
    }

    /// A value that is never shown. One that is `${file:PATH}` and nothing else stays a path.
    pub(super) fn secret(self) -> Option<Secret> {
        let Some(scalar) = self.scalar() else {
            self.error("expected text or ${file:PATH}");
            return None;
        };
        if scalar.text.is_empty() {
            self.error("this secret is empty");
            return None;
        }
        match scalar.expanded.as_ref().and_then(|expanded| expanded.file.clone()) {
            Some(path) => Some(Secret::File(path)),
            None => Some(Secret::Inline(scalar.text.clone())),
        }
    }

    /// A glob: `*` and `?` hold for any character, `/` too; also `[ab]` and `{a,b}`.
    pub(super) fn glob(self) -> Option<GlobMatcher> {
        let text = self.text()?;
        match glob(&text) {
            Ok(glob) => Some(glob),
            Err(error) => {
                let why = error.kind().to_string();
                self.expected(&format!("a glob such as flink-* ({why})"))
            }
        }
    }

    /// A regular expression.
    pub(super) fn regex(self) -> Option<Regex> {
        let text = self.filled("a regular expression")?;
        match Regex::new(&text) {
            Ok(regex) => Some(regex),
            Err(error) => {
                // The error's first lines draw the pattern; its last one says what is wrong.
                let shown = error.to_string();
                let why = shown.lines().last().unwrap_or_default();
                let why = why.strip_prefix("error: ").unwrap_or(why);
                self.expected(&format!("a regular expression ({why})"))
            }
        }
    }

    /// The dotted name of a field of the document.
    pub(super) fn field(self) -> Option<String> {
        self.parsed("the name of a field, such as log.level", |text| {
            is_field(text).then(|| text.to_owned())
        })
    }

    /// The items of a list that must not be empty; `what` shows how it is written.
    pub(super) fn list(self, what: &str) -> Option<Vec<Self>> {
        match &self.node.value {
            Value::List(nodes) if !nodes.is_empty() => {
                Some(nodes.iter().map(|node| Self { node, ..self }).collect())
            }
            Value::List(_) => {
                self.error(format!("expected a list such as {what}, found an empty list"));
                None
            }
            Value::Scalar(_) | Value::Map(_) => self.expected(&format!("a list such as {what}")),
        }
    }

    /// Each item of a list read by `read`; those that are wrong are recorded and left out.
    pub(super) fn each<T>(self, what: &str, read: impl FnMut(Self) -> Option<T>) -> Option<Vec<T>> {
        self.list(what).map(|items| items.into_iter().filter_map(read).collect())
    }

    /// The entries of a mapping whose keys are free; `what` shows how it is written.
    pub(super) fn entries(self, what: &str) -> Option<&'a [Entry]> {
        match &self.node.value {
            Value::Map(entries) if !entries.is_empty() => Some(entries),
            _ => self.expected(&format!("a mapping such as {what}")),
        }
    }

    /// The mapping's one entry, for values such as a filter that are named by their key.
    pub(super) fn single(self, what: &str) -> Option<(&'a Entry, Self)> {
        match &self.node.value {
            Value::Map(entries) => match entries.as_slice() {
                [entry] => Some((entry, Self { node: &entry.value, ..self })),
                _ => {
                    let keys = entries.iter().map(|entry| quoted(&entry.key));
                    let keys = keys.collect::<Vec<_>>().join(", ");
                    let keys = if keys.is_empty() { "none".to_owned() } else { keys };
                    self.error(format!("expected exactly one of {what}, found {keys}"));
                    None
                }
            },
            Value::Scalar(_) | Value::List(_) => {
                self.expected(&format!("a mapping with exactly one of {what}"))
            }
        }
    }

    /// Reads a mapping with known keys and records the unknown ones. Nothing at all stands for a
    /// mapping without keys.
    pub(super) fn section<T>(self, read: impl FnOnce(&mut Section<'a>) -> T) -> Option<T> {
        let entries = self.known_entries()?;
        Some(Section::new(self, entries).read(read))
    }

    fn known_entries(self) -> Option<&'a [Entry]> {
        match &self.node.value {
            Value::Map(entries) => Some(entries),
            Value::Scalar(scalar) if scalar.is_null() => Some(&[]),
            Value::Scalar(_) | Value::List(_) => self.expected("a mapping"),
        }
    }
}

/// A glob as the configuration's globs are: case matters, `*` crosses `/`.
pub(super) fn glob(text: &str) -> Result<GlobMatcher, globset::Error> {
    let glob: Glob =
        GlobBuilder::new(text).literal_separator(false).backslash_escape(true).build()?;
    Ok(glob.compile_matcher())
}

/// A glob that matches this text and nothing else.
pub(super) fn exact(text: &str) -> Result<GlobMatcher, globset::Error> {
    let escaped = globset::escape(text);
    Ok(GlobBuilder::new(&escaped).backslash_escape(false).build()?.compile_matcher())
}

/// Whether this is a dotted name without empty parts.
pub(super) fn is_field(text: &str) -> bool {
    text.split('.').all(|part| !part.is_empty())
}

/// A mapping with known keys.
pub(super) struct Section<'a> {
    /// The mapping itself, for problems that aren't one key's.
    pub(super) here: Setting<'a>,
    entries: &'a [Entry],
    /// Keys that were asked for.
    known: Vec<&'static str>,
    /// What the other keys are called.
    others: &'static str,
}

impl<'a> Section<'a> {
    fn new(here: Setting<'a>, entries: &'a [Entry]) -> Self {
        Self { here, entries, known: Vec::new(), others: "unknown" }
    }

    fn read<T>(mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let value = read(&mut self);
        for entry in self.entries {
            if !self.known.contains(&entry.key.as_str()) {
                self.here.report.error(&entry.place, self.unknown(entry));
            }
        }
        value
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&mut self, key: &'static str) -> Option<Setting<'a>> {
        self.known.push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(Setting { node: &entry.value, ..self.here })
    }

    /// The value of a key that must be there; `example` shows how it is written.
    pub(super) fn require(&mut self, key: &'static str, example: &str) -> Option<Setting<'a>> {
        let setting = self.get(key);
        if setting.is_none() {
            self.here.error(format!("{} is missing; write `{key}: {example}`", quoted(key)));
        }
        setting
    }

    /// Reads the section `key`, as if it were empty when it isn't there.
    pub(super) fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Self) -> T) -> T {
        let here = self.get(key);
        let entries = here.and_then(Setting::known_entries).unwrap_or_default();
        Self::new(here.unwrap_or(self.here), entries).read(read)
    }

    /// Refuses a key that is planned.
    pub(super) fn not_yet(&mut self, key: &'static str) {
        if let Some(entry) = self.entries.iter().find(|entry| entry.key == key) {
            self.here
                .report
                .error(&entry.place, format!("{} is not available in this version", quoted(key)));
            self.known.push(key);
        }
    }

    /// Calls the keys that nobody asks for unsupported: they mean something to another program.
    pub(super) fn refuse_others(&mut self) {
        self.others = "unsupported";
    }

    /// Which of `keys` are there; they count as known.
    pub(super) fn present(&mut self, keys: &[&'static str]) -> Vec<&'static str> {
        keys.iter().copied().filter(|key| self.get(key).is_some()).collect()
    }

    fn unknown(&self, entry: &Entry) -> String {
        let Self { known, others, .. } = self;
        let what = format!("{others} key {}", quoted(&entry.key));
        match nearest(&entry.key, known.iter().copied()) {
            // Only a variable has no line: there the key is a part of the name.
            Some(meant) if entry.place.line == 0 => {
                let named = |part: &str| part.eq_ignore_ascii_case(&entry.key);
                let parts = entry.place.file.split("__").map(|part| match part {
                    part if named(part) => meant.to_uppercase(),
                    part if named(part.trim_start_matches(super::environment::PREFIX)) => {
                        format!("{}{}", super::environment::PREFIX, meant.to_uppercase())
                    }
                    part => part.to_owned(),
                });
                format!("{what}; did you mean {}?", quoted(&parts.collect::<Vec<_>>().join("__")))
            }
            Some(meant) => format!("{what}; did you mean {}?", quoted(meant)),
            None if known.len() > MOST_LISTED => what,
            None => format!("{what}; known here: {}", any_of(known.iter().copied())),
        }
    }
}
