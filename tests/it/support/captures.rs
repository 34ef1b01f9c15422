//! What real Flink processes wrote, from `tests/fixtures`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

/// One line as the process wrote it, without its line feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// `stdout` or `stderr`.
    pub(crate) stream: &'static str,
    pub(crate) text: Vec<u8>,
}

impl Line {
    pub(crate) fn stdout(text: impl Into<Vec<u8>>) -> Self {
        Self { stream: "stdout", text: text.into() }
    }

    pub(crate) fn stderr(text: impl Into<Vec<u8>>) -> Self {
        Self { stream: "stderr", text: text.into() }
    }

    /// Nothing but white space.
    pub(crate) fn is_blank(&self) -> bool {
        self.text.trim_ascii().is_empty()
    }

    /// The whole line as a JSON object, if it is one.
    pub(crate) fn json(&self) -> Option<serde_json::Map<String, serde_json::Value>> {
        serde_json::from_slice(&self.text).ok()
    }
}

/// The runs of `process` in `layout`, by restart. The lines of stderr are spread evenly among
/// those of stdout, as nobody knows how they were interleaved.
pub(crate) fn runs(layout: &str, process: &str) -> BTreeMap<u32, Vec<Line>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(layout);
    let mut streams: BTreeMap<u32, Vec<Vec<Line>>> = BTreeMap::new();
    let mut names: Vec<String> = fs::read_dir(&folder)
        .expect("the folder of a layout")
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    for name in names {
        let parts: Vec<&str> = name.split('.').collect();
        let &[of, restart, stream, "log", "gz"] = parts.as_slice() else { continue };
        if of != process {
            continue;
        }
        let stream = if stream == "stderr" { "stderr" } else { "stdout" };
        let lines = read(&folder.join(&name), stream);
        streams.entry(restart.parse().unwrap()).or_default().push(lines);
    }
    assert!(!streams.is_empty(), "no captures of {process} in {}", folder.display());
    streams.into_iter().map(|(restart, streams)| (restart, spread(streams))).collect()
}

fn read(path: &Path, stream: &'static str) -> Vec<Line> {
    let mut text = Vec::new();
    GzDecoder::new(File::open(path).unwrap()).read_to_end(&mut text).unwrap();
    let text = text.strip_suffix(b"\n").expect("captures end with a line feed");
    text.split(|&byte| byte == b'\n').map(|line| Line { stream, text: line.to_vec() }).collect()
}

/// Merges streams in proportion to their lengths.
fn spread(streams: Vec<Vec<Line>>) -> Vec<Line> {
    let mut placed: Vec<(usize, Line)> = Vec::new();
    let longest = streams.iter().map(Vec::len).max().unwrap_or(0);
    for lines in streams {
        let count = lines.len();
        let at = |index: usize| (2 * index + 1) * longest / count;
        placed.extend(lines.into_iter().enumerate().map(|(index, line)| (at(index), line)));
    }
    placed.sort_by_key(|&(at, _)| at);
    placed.into_iter().map(|(_, line)| line).collect()
}
