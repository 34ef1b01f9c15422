//! What a worker has in hand, written down before it is taken: a line that has crashed the process
//! twice in a row is known at the next start, and takes the plainest road.
//!
//! Owns `<state>/in-hand-<worker>`: one JSON line that says which bytes are being taken, or `-` when
//! none are. It is written twice for each turn of a reader, never per line, and never synced: it
//! has to survive the process, not the machine. Guarantees nothing when it can't be written; a
//! shipper must not stand still for that. Does not decide what the plainest road is.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::checkpoint::Key;
use crate::parse::record::Record;
use crate::tail::file::{open_regular, private, read_at};
use crate::tail::{PartId, Position};

/// After how many crashes in a row bytes are taken for the cause.
const CRASHES_MIN: u32 = 2;

/// The longest line that is believed.
const LINE_BYTES_MAX: u64 = 16 * 1024;

/// Bytes of a part that were in hand when the process crashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    key: Key,
    part: PartId,
    from: u64,
    to: u64,
    /// How often in a row they were, this time included.
    crashes: u32,
}

impl Suspect {
    fn overlap(&self, part: PartId, bytes: &Range<u64>) -> Option<Range<u64>> {
        let common = self.from.max(bytes.start)..self.to.min(bytes.end);
        (self.part.is(part) && !common.is_empty()).then_some(common)
    }
}

/// The bytes of a stream whose lines take the plainest road.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plain(Vec<(PartId, Range<u64>)>);

impl Plain {
    /// Those that `suspects` name for the reader `key`.
    pub fn of(suspects: &[Suspect], key: &Key) -> Self {
        let known = suspects.iter().filter(|one| one.key == *key && one.crashes >= CRASHES_MIN);
        Self(known.map(|one| (one.part, one.from..one.to)).collect())
    }

    /// Whether some of the bytes that `record` was made from are among them.
    pub fn has(&self, record: &Record<'_>) -> bool {
        self.0.iter().any(|(part, bytes)| {
            let start = Position { part: *part, offset: bytes.start };
            let end = Position { part: *part, offset: bytes.end };
            record.start < end && record.end > start
        })
    }
}

/// What one worker has in hand.
#[derive(Debug)]
pub struct InHand {
    file: Option<File>,
    suspects: Vec<Suspect>,
    line: Vec<u8>,
}

impl InHand {
    /// Of worker `worker`. `suspects` were in hand at crashes of earlier processes.
    pub fn new(state_dir: &Path, worker: usize, suspects: Vec<Suspect>) -> Self {
        let file = private().open(state_dir.join(format!("in-hand-{worker}")));
        if let Err(error) = &file {
            tracing::warn!(cause = %error, "what is in hand can't be written down; a line that crashes the agent would do so again");
        }
        Self { file: file.ok(), suspects, line: Vec::new() }
    }

    /// Nothing is written down, for tests.
    #[cfg(test)]
    pub fn nowhere() -> Self {
        Self { file: None, suspects: Vec::new(), line: Vec::new() }
    }

    /// What was in hand when the process before ended without a word, with how often that was so.
    pub fn suspects(state_dir: &Path) -> Vec<Suspect> {
        let entries = fs::read_dir(state_dir).into_iter().flatten().filter_map(Result::ok);
        let files = entries.map(|entry| entry.path()).filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with("in-hand-")
        });
        let suspects: Vec<Suspect> = files.filter_map(|path| read(&path)).collect();
        for suspect in suspects.iter().filter(|suspect| suspect.crashes >= CRASHES_MIN) {
            tracing::error!(
                pipeline = suspect.key.pipeline,
                stream = suspect.key.stream,
                offset = suspect.from,
                crashes = suspect.crashes,
                "the agent crashed again and again over these lines: they are shipped as text"
            );
        }
        suspects
    }

    /// The bytes `bytes` of `part` are about to be taken for `key`.
    pub fn take(&mut self, key: Key, part: PartId, bytes: Range<u64>) {
        let Some(file) = &self.file else { return };
        let again = (self.suspects.iter())
            .filter(|suspect| suspect.key == key)
            .find_map(|suspect| Some((suspect.overlap(part, &bytes)?, suspect.crashes)));
        let (bytes, crashes) = again.unwrap_or((bytes, 0));
        let suspect = Suspect { key, part, from: bytes.start, to: bytes.end, crashes: crashes + 1 };
        self.line.clear();
        if serde_json::to_writer(&mut self.line, &suspect).is_ok() {
            self.line.push(b'\n');
            write(file, &self.line);
        }
    }

    /// They were taken.
    pub fn done(&self) {
        if let Some(file) = &self.file {
            write(file, b"-");
        }
    }
}

fn write(file: &File, bytes: &[u8]) {
    if let Err(error) = file.write_all_at(bytes, 0) {
        tracing::debug!(cause = %error, "what is in hand was not written down");
    }
}

fn read(path: &Path) -> Option<Suspect> {
    let (file, metadata) = open_regular(path).ok()?;
    let mut text = vec![0; usize::try_from(metadata.len().min(LINE_BYTES_MAX)).ok()?];
    read_at(&file, 0, &mut text).ok()?;
    serde_json::from_slice(text.split(|byte| *byte == b'\n').next()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key { pipeline: "p".to_owned(), stream: "n_p_u/c/0".to_owned() }
    }

    fn part() -> PartId {
        PartId::born(7, 9)
    }

    fn start(dir: &Path) -> InHand {
        InHand::new(dir, 0, InHand::suspects(dir))
    }

    fn plain(dir: &Path) -> Plain {
        Plain::of(&InHand::suspects(dir), &key())
    }

    #[test]
    fn what_was_in_hand_at_two_crashes_in_a_row_is_known() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path();
        start(path).take(key(), part(), 100..400);
        assert_eq!(plain(path), Plain::default(), "once may be chance");
        // After the crash reading began elsewhere, so the bytes in hand were others.
        start(path).take(key(), part(), 50..250);
        assert_eq!(plain(path), Plain(vec![(part(), 100..250)]));
        start(path).take(key(), part(), 50..250);
        assert_eq!(plain(path), Plain(vec![(part(), 100..250)]), "still");
    }

    #[test]
    fn what_was_taken_or_was_elsewhere_is_no_suspect() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path();
        let mut first = start(path);
        first.take(key(), part(), 100..400);
        first.done();
        assert!(InHand::suspects(path).is_empty());
        start(path).take(key(), part(), 100..400);
        start(path).take(key(), part(), 400..500);
        assert_eq!(plain(path), Plain::default(), "these are other bytes");
        start(path).take(key(), PartId::born(8, 9), 400..500);
        assert_eq!(plain(path), Plain::default(), "this is another part");
    }

    #[test]
    fn a_file_of_anything_names_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        for text in ["", "{", "{}", "\0\0", "-\"key\":1}\n"] {
            fs::write(dir.path().join("in-hand-3"), text).expect("written");
            assert!(InHand::suspects(dir.path()).is_empty(), "{text:?}");
        }
    }
}
