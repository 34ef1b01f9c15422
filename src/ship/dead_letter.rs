//! The documents that an output refuses in every form: kept on this node, in files per pipeline.
//!
//! Owns what is written into `<state>/dead-letter/`: one JSON line for each document, with
//! everything that sending it again takes. Guarantees that a document counts as safe only once it
//! is on the disk, and that nothing is dropped when there is no more room: the writer is told and
//! asks again. Limits: the live file is set aside before it grows beyond [`LIVE_BYTES`] (what is
//! written at once stays together), and a pipeline's files have [`MAX_BYTES`] in all; the
//! directory is 0700, files 0600. Together with the refused documents themselves this is the only
//! place where a refused line's text stands. `files.rs` knows the names, `read.rs` reads back.

pub(crate) mod files;
pub(crate) mod read;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::bulk::rfc3339;
use files::Files;

/// How large the files of a pipeline may become together.
pub(super) const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// How large the live file may become before another one is begun.
pub(super) const LIVE_BYTES: u64 = 16 * 1024 * 1024;

/// One refused document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) index: String,
    pub(crate) id: String,
    /// Elasticsearch's `error.type`.
    pub(crate) reason: String,
    /// The document's JSON text, whole.
    pub(crate) document: String,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeadLetterError {
    #[error("the dead-letter files {}* are full", path.display())]
    Full { path: PathBuf },
    #[error("cannot write the dead-letter file {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// The dead letters of one pipeline. Clones write in turns.
#[derive(Debug, Clone)]
pub(crate) struct DeadLetters {
    pipeline: String,
    files: Files,
    max_bytes: u64,
    live_bytes: u64,
    turn: Arc<Mutex<()>>,
}

impl DeadLetters {
    pub(crate) fn new(state_dir: &Path, pipeline: &str) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            files: Files::of(state_dir, pipeline),
            max_bytes: MAX_BYTES,
            live_bytes: LIVE_BYTES,
            turn: Arc::default(),
        }
    }

    /// Appends all of `letters` or none and waits until they are on the disk. Blocks.
    pub(crate) fn write(&self, letters: &[Letter]) -> Result<(), DeadLetterError> {
        let failed = |source| DeadLetterError::Write { path: self.files.live(), source };
        let lines = self.lines(letters, SystemTime::now());
        let new_bytes = lines.len() as u64;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut live = self.files.open_live().map_err(failed)?;
        let older_bytes = self.files.older_bytes().map_err(failed)?;
        if older_bytes + live.length_bytes() + new_bytes > self.max_bytes {
            return Err(DeadLetterError::Full { path: self.files.live() });
        }
        if live.length_bytes() > 0 && live.length_bytes() + new_bytes > self.live_bytes {
            self.files.set_aside(live).map_err(failed)?;
            live = self.files.open_live().map_err(failed)?;
        }
        live.append(&lines).map_err(failed)
    }

    fn lines(&self, letters: &[Letter], now: SystemTime) -> Vec<u8> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let time = rfc3339(i64::try_from(now).unwrap_or(i64::MAX));
        let mut lines = Vec::new();
        for letter in letters {
            let line = Line {
                time: &time,
                pipeline: &self.pipeline,
                index: &letter.index,
                id: &letter.id,
                reason: &letter.reason,
                document: &letter.document,
                sha256: &checksum(letter),
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
    /// See [`checksum`].
    sha256: &'a str,
}

/// The first 16 hexadecimal digits of the SHA-256 of what sending it again takes: index, id and
/// document, with a line's end between them.
fn checksum(letter: &Letter) -> String {
    let mut sha = Sha256::new();
    for text in [&letter.index, "\n", &letter.id, "\n", &letter.document] {
        sha.update(text);
    }
    sha.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    pub(super) fn letter(document: &str) -> Letter {
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
        // From `printf 'fluentd\nAAAAAAAAAAABBx\n{}' | sha256sum`.
        assert_eq!(lines[1]["sha256"], "0270ea3826b2931f");
        let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&path)), (0o700, 0o600));
    }

    /// The length of each older file, and of the live one.
    fn lengths(letters: &DeadLetters) -> Vec<u64> {
        let older = letters.files.older().expect("names").into_iter();
        older.chain([letters.files.live()]).map(|path| length(&path)).collect()
    }

    fn length(path: &Path) -> u64 {
        fs::metadata(path).expect("metadata").len()
    }

    #[test]
    fn a_live_file_that_is_long_is_set_aside() {
        let state = tempfile::tempdir().expect("a directory");
        let mut letters = DeadLetters::new(state.path(), "flink");
        letters.write(&[letter("1")]).expect("write");
        let one = length(&letters.files.live());
        letters.live_bytes = 2 * one;
        for document in ["2", "3"] {
            letters.write(&[letter(document)]).expect("write");
        }
        assert_eq!(lengths(&letters), [2 * one, one]);
        let long = "4".repeat(3 * usize::try_from(one).expect("small"));
        letters.write(&[letter(&long)]).expect("what is long alone has a file alone");
        letters.write(&[letter("5"), letter("6")]).expect("write");
        let lengths = lengths(&letters);
        assert_eq!((lengths.len(), lengths[1], lengths[3]), (4, one, 2 * one));
        for path in letters.files.older().expect("names") {
            let mode = fs::metadata(&path).expect("metadata").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn files_that_are_full_take_all_or_nothing() {
        let state = tempfile::tempdir().expect("a directory");
        let mut letters = DeadLetters::new(state.path(), "flink");
        letters.write(&[letter("1")]).expect("write");
        let one = length(&letters.files.live());
        letters.live_bytes = one;
        letters.max_bytes = 3 * one + 10;
        letters.write(&[letter("2")]).expect("write");
        let error = letters.write(&[letter("3"), letter("4")]).expect_err("full");
        assert!(matches!(error, DeadLetterError::Full { .. }));
        letters.write(&[letter("3")]).expect("one more fits");
        letters.write(&[letter("4")]).expect_err("full");
        assert_eq!(lengths(&letters), [one, one, one]);
        fs::remove_file(&letters.files.older().expect("names")[0]).expect("remove");
        letters.write(&[letter("4")]).expect("there is room again");
    }

    #[test]
    fn writers_take_turns() {
        let state = tempfile::tempdir().expect("a directory");
        let letters = DeadLetters::new(state.path(), "flink");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let letters = letters.clone();
                scope.spawn(move || {
                    for _ in 0..25 {
                        letters.write(&[letter("{}")]).expect("write");
                    }
                });
            }
        });
        let text = fs::read_to_string(letters.files.live()).expect("read");
        assert_eq!(text.lines().count(), 100);
    }

    #[test]
    fn nobody_appends_to_a_file_that_was_set_aside() {
        const COUNT: usize = 300;
        let state = tempfile::tempdir().expect("a directory");
        // Of another process: it knows nothing of the others' turns.
        let open = || DeadLetters::new(state.path(), "flink");
        let mut taken = 0;
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || {
                for _ in 0..COUNT {
                    while open().write(&[letter("{}")]).is_err() {
                        std::thread::yield_now();
                    }
                }
            });
            let files = Files::of(state.path(), "flink");
            loop {
                let is_last = writer.is_finished();
                // Fails while the writer has the lock.
                drop(files.set_live_aside());
                for path in files.older().expect("names") {
                    let text = fs::read_to_string(&path).expect("read");
                    fs::remove_file(&path).expect("remove");
                    taken += text.lines().count();
                }
                if is_last {
                    break;
                }
            }
        });
        assert_eq!(taken, COUNT, "what was read whole was all that was ever in it");
    }
}
