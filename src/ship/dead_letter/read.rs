//! Reads dead letters back, one line at a time.
//!
//! Owns what makes a line one that can be sent again: JSON with every member, a checksum that
//! holds, an index and an id. Anything else is [`Damage`], with its line kept as it is. Guarantees
//! that nothing is followed as a link, and that memory holds one line. The unfinished end of a
//! live file is left out: it was never safe, or is being written.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;

use super::{Letter, MAX_BYTES, checksum};
use crate::tail::file::open_regular;

/// A letter as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) time: String,
    pub(crate) pipeline: String,
    pub(crate) letter: Letter,
}

/// Why a line can't be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    NotALetter,
    Checksum,
    /// Without an id Elasticsearch would make one up, and a repetition were a duplicate.
    NoTarget,
    /// It would be more than one line of a request.
    SeveralLines,
    Unfinished,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotALetter => "is not a dead letter",
            Self::Checksum => "does not have the sha256 that it was written with",
            Self::NoTarget => "names no index or no id",
            Self::SeveralLines => "has a document of more than one line",
            Self::Unfinished => "ends in the middle",
        })
    }
}

/// One line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// From 1.
    pub(crate) number: u64,
    /// As it stands there, with its end.
    pub(crate) raw: Vec<u8>,
    pub(crate) content: Result<Written, Damage>,
}

/// The lines of one file.
#[derive(Debug)]
pub(crate) struct Lines {
    reader: BufReader<File>,
    number: u64,
    live: bool,
}

impl Lines {
    /// Opens `path`; `None` if it has gone. `live` if an agent may be writing it.
    pub(crate) fn open(path: &Path, live: bool) -> io::Result<Option<Self>> {
        match open_regular(path) {
            Ok((file, _)) => Ok(Some(Self { reader: BufReader::new(file), number: 0, live })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The file itself, to tell it from others.
    pub(crate) fn file(&self) -> &File {
        self.reader.get_ref()
    }

    pub(crate) fn next(&mut self) -> io::Result<Option<Line>> {
        let mut raw = Vec::new();
        self.reader.by_ref().take(MAX_BYTES).read_until(b'\n', &mut raw)?;
        if raw.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        let content = match raw.strip_suffix(b"\n") {
            Some(text) => read(text),
            None if raw.len() as u64 == MAX_BYTES => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end"));
            }
            None if self.live => return Ok(None),
            None => Err(Damage::Unfinished),
        };
        Ok(Some(Line { number: self.number, raw, content }))
    }
}

fn read(text: &[u8]) -> Result<Written, Damage> {
    #[derive(Deserialize)]
    struct Members {
        time: String,
        pipeline: String,
        index: String,
        id: String,
        reason: String,
        document: String,
        sha256: String,
    }
    let Ok(members) = serde_json::from_slice::<Members>(text) else {
        return Err(Damage::NotALetter);
    };
    let Members { time, pipeline, index, id, reason, document, sha256 } = members;
    let letter = Letter { index, id, reason, document };
    if checksum(&letter) != sha256 {
        return Err(Damage::Checksum);
    }
    if letter.index.is_empty() || letter.id.is_empty() {
        return Err(Damage::NoTarget);
    }
    if letter.document.contains('\n') {
        return Err(Damage::SeveralLines);
    }
    Ok(Written { time, pipeline, letter })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::DeadLetters;
    use super::super::tests::letter;
    use super::*;

    fn lines(path: &Path, live: bool) -> Vec<Line> {
        let mut lines = Lines::open(path, live).expect("readable").expect("there");
        std::iter::from_fn(|| lines.next().expect("readable")).collect()
    }

    #[test]
    fn what_was_written_is_read_back() {
        let state = tempfile::tempdir().expect("a directory");
        let letters = DeadLetters::new(state.path(), "flow/logging/flink");
        let written = [letter(r#"{"a":"é\n\u001b"}"#), letter("{}")];
        letters.write(&written).expect("write");
        let read = lines(&letters.files.live(), true);
        for (number, line) in read.iter().enumerate() {
            let content = line.content.as_ref().expect("whole");
            assert_eq!(content.letter, written[number]);
            assert_eq!(content.pipeline, "flow/logging/flink");
            assert_eq!(line.number, number as u64 + 1);
        }
        let raw: Vec<u8> = read.into_iter().flat_map(|line| line.raw).collect();
        assert_eq!(raw, fs::read(letters.files.live()).expect("read"));
    }

    fn check_damage(change: impl Fn(&str) -> String, damage: Damage) {
        let state = tempfile::tempdir().expect("a directory");
        let letters = DeadLetters::new(state.path(), "flink");
        letters.write(&[letter("{\"a\":1}"), letter("{}")]).expect("write");
        let path = letters.files.live();
        let text = fs::read_to_string(&path).expect("read");
        let (first, second) = text.split_once('\n').expect("two lines");
        fs::write(&path, format!("{}\n{second}", change(first))).expect("write");
        let read = lines(&path, false);
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].content, Err(damage));
        assert_eq!(read[1].content.as_ref().expect("whole").letter, letter("{}"));
    }

    #[test]
    fn damage_is_noticed_and_stays_in_its_line() {
        check_damage(|_| "{half".into(), Damage::NotALetter);
        check_damage(|_| String::new(), Damage::NotALetter);
        check_damage(|line| line.replace("\"reason\"", "\"season\""), Damage::NotALetter);
        check_damage(|line| line.replace(":1}", ":2}"), Damage::Checksum);
        check_damage(|line| line.replace("ABBx", "ABBy"), Damage::Checksum);
        check_damage(|line| line.replace("fluentd", "fluente"), Damage::Checksum);
    }

    #[test]
    fn what_would_tear_a_request_or_get_another_id_is_damage() {
        for (letter, damage) in [
            (letter("{}\n{}"), Damage::SeveralLines),
            (Letter { id: String::new(), ..letter("{}") }, Damage::NoTarget),
            (Letter { index: String::new(), ..letter("{}") }, Damage::NoTarget),
        ] {
            let state = tempfile::tempdir().expect("a directory");
            let letters = DeadLetters::new(state.path(), "flink");
            letters.write(&[letter]).expect("write");
            assert_eq!(lines(&letters.files.live(), true)[0].content, Err(damage));
        }
    }

    #[test]
    fn an_unfinished_end_is_damage_unless_it_is_being_written() {
        let state = tempfile::tempdir().expect("a directory");
        let path = state.path().join("x");
        fs::write(&path, "{}\n{\"time\":").expect("write");
        assert_eq!(lines(&path, true).len(), 1);
        let read = lines(&path, false);
        assert_eq!(read[1].content, Err(Damage::Unfinished));
        assert_eq!(read[1].raw, b"{\"time\":");
    }

    #[test]
    fn links_are_not_followed() {
        let state = tempfile::tempdir().expect("a directory");
        let (path, link) = (state.path().join("x"), state.path().join("link"));
        fs::write(&path, "{}\n").expect("write");
        symlink(&path, &link).expect("link");
        Lines::open(&link, false).expect_err("a link");
        assert!(Lines::open(&state.path().join("gone"), false).expect("none").is_none());
    }
}
