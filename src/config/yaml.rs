//! YAML text to a tree whose nodes know where they stand.
//!
//! Owns the only use of the YAML parser. Scalars keep the text as written, so `1.10` stays `1.10`
//! and `no` stays `no`: what a scalar means is decided by who asks for it. Guarantees that keys
//! are unique text, that depth and size are bounded (aliases may not blow a file up), and that
//! any text gives a tree or a problem, never a panic. Tags are without effect, merge keys (`<<`)
//! aren't supported.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::problem::{Place, Report, quoted};

/// Deeper files are refused: everything that walks the tree recurses.
const MAX_DEPTH: usize = 64;
/// Nodes of one file, those that aliases repeat included.
const MAX_NODES: usize = 100_000;

/// A value and its place. No `Debug`: it may hold a secret.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

#[derive(Clone)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key with its value; keys of a map differ.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: Node,
}

/// A leaf.
#[derive(Clone)]
pub(super) struct Scalar {
    /// What it says, after expansion.
    pub(super) text: String,
    /// Neither quoted nor a block: may stand for null, a number or a truth value.
    pub(super) plain: bool,
    /// Set when `${...}` was replaced in it.
    pub(super) expanded: Option<Expanded>,
}

/// What is known of a scalar whose `${...}` was replaced.
#[derive(Clone)]
pub(super) struct Expanded {
    /// As it was before, for messages.
    pub(super) written: String,
    /// The path, where the whole scalar is `${file:PATH}`.
    pub(super) file: Option<PathBuf>,
}

impl Node {
    /// An empty map, for what isn't there.
    pub(super) fn empty(place: Place) -> Self {
        Self { place, value: Value::Map(Vec::new()) }
    }

    /// A leaf as if written without quotes.
    pub(super) fn plain(place: Place, text: String) -> Self {
        Self { place, value: Value::Scalar(Scalar { text, plain: true, expanded: None }) }
    }

    /// Whether it stands for "nothing".
    pub(super) fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar(scalar) => scalar.is_null(),
            Value::List(_) | Value::Map(_) => false,
        }
    }

    /// The value of a key, if this is a map that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.value),
            Value::Scalar(_) | Value::List(_) => None,
        }
    }

    /// Its text, if it is a leaf.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) => Some(&scalar.text),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    fn count(&self) -> usize {
        let inner: usize = match &self.value {
            Value::Scalar(_) => 0,
            Value::List(nodes) => nodes.iter().map(Self::count).sum(),
            Value::Map(entries) => entries.iter().map(|entry| entry.value.count()).sum(),
        };
        inner + 1
    }
}

impl Scalar {
    pub(super) fn is_null(&self) -> bool {
        let null = matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL");
        self.plain && self.expanded.is_none() && null
    }
}

/// The documents of a file; empty ones are left out. A file that isn't YAML gives those before
/// the fault, and a problem.
pub(super) fn documents(file: &Arc<str>, text: &str, report: &Report) -> Vec<Node> {
    let mut tree = Tree {
        file: Arc::clone(file),
        report,
        open: Vec::new(),
        documents: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
    };
    // A byte order mark is legal at the start of a file, but would become part of the first key.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for event in Parser::new_from_str(text) {
        let done = match event {
            Ok((event, span)) => tree.take(event, span.start),
            Err(error) => {
                let place = tree.place(*error.marker());
                Err((place, format!("not valid YAML: {}", error.info())))
            }
        };
        if let Err((place, message)) = done {
            report.error(&place, message);
            break;
        }
    }
    tree.documents
}

/// A list or map whose end hasn't come yet, with its anchor (zero for none).
enum Open {
    List { place: Place, anchor: usize, nodes: Vec<Node> },
    Map { place: Place, anchor: usize, entries: Vec<Entry>, key: Option<(String, Place)> },
}

/// Builds documents from the parser's events.
struct Tree<'a> {
    file: Arc<str>,
    report: &'a Report,
    open: Vec<Open>,
    documents: Vec<Node>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

type Fault = (Place, String);

impl Tree<'_> {
    fn place(&self, marker: Marker) -> Place {
        Place { file: Arc::clone(&self.file), line: marker.line(), column: marker.col() + 1 }
    }

    fn take(&mut self, event: Event<'_>, start: Marker) -> Result<(), Fault> {
        let place = self.place(start);
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let plain = style == ScalarStyle::Plain;
                let scalar = Scalar { text: text.into_owned(), plain, expanded: None };
                self.add(Node { place, value: Value::Scalar(scalar) }, anchor)
            }
            Event::SequenceStart(anchor, _) => {
                self.open(Open::List { place, anchor, nodes: Vec::new() })
            }
            Event::MappingStart(anchor, _) => {
                self.open(Open::Map { place, anchor, entries: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List { place, anchor, nodes }) => {
                    self.add(Node { place, value: Value::List(nodes) }, anchor)
                }
                Some(Open::Map { place, anchor, entries, .. }) => {
                    self.add(Node { place, value: Value::Map(entries) }, anchor)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(node) => {
                    let node = Node { place, ..node.clone() };
                    self.nodes += node.count();
                    self.add(node, 0)
                }
                None => Err((place, "this alias stands inside of what it repeats".to_owned())),
            },
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn open(&mut self, open: Open) -> Result<(), Fault> {
        let (Open::List { place, .. } | Open::Map { place, .. }) = &open;
        if self.open.len() >= MAX_DEPTH {
            return Err((place.clone(), format!("deeper than {MAX_DEPTH} levels")));
        }
        self.open.push(open);
        Ok(())
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err((node.place, format!("more than {MAX_NODES} values in one file")));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None if node.is_null() => {}
            None => self.documents.push(node),
            Some(Open::List { nodes, .. }) => nodes.push(node),
            Some(Open::Map { entries, key, .. }) => match key.take() {
                None => *key = Some(as_key(node)?),
                Some((key, place)) => add_entry(entries, key, place, node, self.report),
            },
        }
        Ok(())
    }
}

fn as_key(node: Node) -> Result<(String, Place), Fault> {
    match node.value {
        Value::Scalar(scalar) => Ok((scalar.text, node.place)),
        Value::List(_) | Value::Map(_) => {
            Err((node.place, "a key must be text, found a list or a mapping".to_owned()))
        }
    }
}

fn add_entry(entries: &mut Vec<Entry>, key: String, place: Place, value: Node, report: &Report) {
    match entries.iter().find(|entry| entry.key == key) {
        Some(first) => {
            let line = first.place.line;
            report.error(
                &place,
                format!("duplicate key {}, the first is in line {line}", quoted(&key)),
            );
        }
        None => entries.push(Entry { key, place, value }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The documents in a compact form with the line and column of each value, or the problems.
    fn check(text: &str, expected: &str) {
        let report = Report::default();
        let documents = documents(&"x.yaml".into(), text, &report);
        let shown: Vec<String> = documents.iter().map(show).collect();
        let shown = match report.finish() {
            Ok(_) => shown.join(" "),
            Err(problems) => problems.to_string(),
        };
        assert_eq!(shown, expected);
    }

    fn show(node: &Node) -> String {
        let value = match &node.value {
            Value::Scalar(scalar) if scalar.plain => scalar.text.clone(),
            Value::Scalar(scalar) => format!("{:?}", scalar.text),
            Value::List(nodes) => format!("{:?}", nodes.iter().map(show).collect::<Vec<_>>()),
            Value::Map(entries) => (entries.iter())
                .map(|entry| format!("{}={}", entry.key, show(&entry.value)))
                .collect::<Vec<_>>()
                .join(","),
        };
        format!("{}:{} {value}", node.place.line, node.place.column)
    }

    #[test]
    fn keeps_text_and_places() {
        check("a: 1.10\nb:\n  c: \"yes\"\n", "1:1 a=1:4 1.10,b=3:3 c=3:6 \"yes\"");
        check("---\n---\na: 1\n---\n# nothing\n---\nb: {c: d}\n", "3:1 a=3:4 1 7:1 b=7:4 c=7:8 d");
        check("\u{feff}a: b\n", "1:1 a=1:4 b");
        check("a: &x {b: 1}\nc: *x\n", "1:1 a=1:4 b=1:11 1,c=2:4 b=1:11 1");
        check("", "");
        check("# only a comment\n", "");
    }

    #[test]
    fn tells_faults() {
        check(
            "a: 1\na: 2\nb: 3\nb: 4\n",
            "x.yaml:2:1: duplicate key `a`, the first is in line 1\nx.yaml:4:1: duplicate key `b`, the first is in line 3",
        );
        check("? [a]\n: b\n", "x.yaml:1:3: a key must be text, found a list or a mapping");
        check("a: &x [*x]\n", "x.yaml:1:8: this alias stands inside of what it repeats");
        check(&"- ".repeat(100_000), "x.yaml:1:129: deeper than 64 levels");
        check(&"[".repeat(100_000), "x.yaml:1:256: not valid YAML: recursion limit exceeded");
    }

    #[test]
    fn aliases_cannot_blow_up() {
        let mut text = "a0: &a0 [1]\n".to_owned();
        for n in 1..40 {
            text.push_str(&format!("a{n}: &a{n} [*a{0}, *a{0}, *a{0}, *a{0}]\n", n - 1));
        }
        let report = Report::default();
        documents(&"x.yaml".into(), &text, &report);
        let problems = report.finish().unwrap_err().to_string();
        assert!(problems.ends_with("more than 100000 values in one file"), "{problems}");
    }

    proptest! {
        #[test]
        fn any_text_gives_a_tree_or_a_problem(text in "[-:\\[\\]{}&*!|>'\"#%@?a \\n,$]{0,60}") {
            let report = Report::default();
            documents(&"x.yaml".into(), &text, &report);
        }
    }
}
