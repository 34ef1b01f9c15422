//! The documents that an output refuses in every form: kept on this node, one file per pipeline.
//!
//! Owns `<state>/dead-letter/<pipeline>.ndjson`, one JSON line for each document. Guarantees that
//! a document counts as safe only once it is on the disk, and that nothing is dropped when the
//! file is full: the writer is told and asks again. Limits: [`MAX_BYTES`] for each pipeline; the
//! directory is 0700, the file 0600. Together with the refused documents themselves this is the
//! only place where a refused line's text stands.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::append::Appender;
use super::bulk::rfc3339;

/// How large a pipeline's file may become.
pub(super) const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// One refused document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) index: String,
    pub(super) id: String,
    /// Elasticsearch's `error.type`.
    pub(super) reason: String,
    /// The document's JSON text, whole.
    pub(super) document: String,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeadLetterError {
    #[error("the dead-letter file {} is full", path.display())]
    Full { path: PathBuf },
    #[error("cannot write the dead-letter file {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// The dead-letter file of one pipeline.
#[derive(Debug, Clone)]
pub(super) struct DeadLetters {
    pipeline: String,
    path: PathBuf,
    max_bytes: u64,
}

impl DeadLetters {
    pub(super) fn new(state_dir: &Path, pipeline: &str) -> Self {
        let path = state_dir.join("dead-letter").join(file_name(pipeline));
        Self { pipeline: pipeline.to_owned(), path, max_bytes: MAX_BYTES }
    }

    /// Appends all of `letters` or none and waits until they are on the disk. Blocks.
    pub(super) fn write(&self, letters: &[Letter]) -> Result<(), DeadLetterError> {
        let failed = |source| DeadLetterError::Write { path: self.path.clone(), source };
        let lines = self.lines(letters, SystemTime::now());
        if let Some(directory) = self.path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        }
        let mut file = Appender::open(&self.path).map_err(failed)?;
        if file.length_bytes() + lines.len() as u64 > self.max_bytes {
            return Err(DeadLetterError::Full { path: self.path.clone() });
        }
        file.append(&lines).map_err(failed)
    }

    fn lines(&self, letters: &[Letter], now: SystemTime) -> Vec<u8> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let time = rfc3339(i64::try_from(now).unwrap_or(i64::MAX));
        let mut lines = Vec::new();
        for letter in letters {
            let digest = Sha256::digest(letter.document.as_bytes());
            let sha256: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            let line = Line {
                time: &time,
                pipeline: &self.pipeline,
                index: &letter.index,
                id: &letter.id,
                reason: &letter.reason,
                document: &letter.document,
                sha256: &sha256,
            };
            serde_json::to_writer(&mut lines, &line).expect("strings can always be written");
            lines.push(b'\n');
        }
        lines
    }
}

/// A line of the file.
#[derive(Serialize)]
struct Line<'a> {
    /// When it was given up.
    time: &'a str,
    pipeline: &'a str,
    index: &'a str,
    id: &'a str,
    reason: &'a str,
    document: &'a str,
    /// The first 16 hexadecimal digits of the document's SHA-256.
    sha256: &'a str,
}

/// A name of its own for every pipeline, whatever is in the pipeline's name: bytes other than
/// letters, digits, `-`, `_` and inner dots are written as `%` and two digits.
fn file_name(pipeline: &str) -> String {
    use std::fmt::Write as _;

    // A file's name may have 255 bytes on every file system that a node has.
    const LONGEST: usize = 200;
    let mut name = String::new();
    for (at, byte) in pipeline.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            b'.' if at > 0 => name.push('.'),
            _ => write!(name, "%{byte:02X}").expect("writing to memory does not fail"),
        }
    }
    if name.len() > LONGEST {
        let digest = Sha256::digest(pipeline.as_bytes());
        name.truncate(LONGEST);
        name.push('%');
        for byte in &digest[..8] {
            write!(name, "{byte:02x}").expect("writing to memory does not fail");
        }
    }
    name + ".ndjson"
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn letter(document: &str) -> Letter {
        Letter {
            index: "fluentd".into(),
            id: "AAAAAAAAAAABBx".into(),
            reason: "document_parsing_exception".into(),
            document: document.into(),
        }
    }

    #[test]
    fn a_letter_is_a_line_of_json() {
        let state = tempfile::tempdir().expect("a directory");
        let letters = DeadLetters::new(state.path(), "flow/logging/flink");
        letters.write(&[letter(r#"{"a":"é\n"}"#), letter("{}")]).expect("write");
        letters.write(&[letter("3")]).expect("write");
        let directory = state.path().join("dead-letter");
        let path = directory.join("flow%2Flogging%2Fflink.ndjson");
        let text = fs::read_to_string(&path).expect("read");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["document"], r#"{"a":"é\n"}"#);
        assert_eq!(lines[0]["pipeline"], "flow/logging/flink");
        // From `printf '{}' | sha256sum`.
        assert_eq!(lines[1]["sha256"], "44136fa355b3678a");
        let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&path)), (0o700, 0o600));
    }

    #[test]
    fn a_full_file_takes_all_or_nothing() {
        let state = tempfile::tempdir().expect("a directory");
        let mut letters = DeadLetters::new(state.path(), "flink");
        letters.write(&[letter("1")]).expect("write");
        let one = fs::metadata(&letters.path).expect("metadata").len();
        letters.max_bytes = 2 * one + 10;
        let error = letters.write(&[letter("2"), letter("3")]).expect_err("full");
        assert!(matches!(error, DeadLetterError::Full { .. }));
        letters.write(&[letter("2")]).expect("one more fits");
        assert_eq!(fs::metadata(&letters.path).expect("metadata").len(), 2 * one);
    }

    #[test]
    fn every_pipeline_has_a_file_of_its_own() {
        assert_eq!(file_name("flink"), "flink.ndjson");
        assert_eq!(file_name("../x"), "%2E.%2Fx.ndjson");
        assert_ne!(file_name("a/b"), file_name("a%2Fb"));
        let (long, longer) = ("x".repeat(300), "x".repeat(301));
        assert_ne!(file_name(&long), file_name(&longer));
        assert!(file_name(&longer).len() < 255);
    }
}
