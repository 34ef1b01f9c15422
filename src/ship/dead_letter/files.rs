//! Which files hold a pipeline's dead letters: one live file, and older ones with numbers.
//!
//! Owns the names in `<state>/dead-letter/` and how a live file becomes an older one:
//!
//! ```text
//! flink.ndjson        appended to by the agent, under its lock
//! flink.ndjson.1      set aside; only a replay changes it, by replacing or removing it whole
//! flink.ndjson.2      younger
//! flink.ndjson.2.new  what is to take the place of it
//! replay.lock         held by the one replay that may run
//! ```
//!
//! Guarantees that a file is set aside only under the lock of the live file, so that nobody can
//! append to one that a replay reads: who waited for the lock looks again whether the file is
//! still the live one. Does not read letters.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use sha2::{Digest, Sha256};

use crate::ship::append::{Appender, sync_directory};

/// How often the live file may be set aside under our hands before it is called busy.
const TRIES: usize = 8;

/// Larger numbers are none of ours.
const NUMBER_DIGITS: usize = 12;

/// The files of one pipeline.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Files {
    directory: PathBuf,
    /// The live file's name.
    name: String,
}

impl Files {
    pub(crate) fn of(state_dir: &Path, pipeline: &str) -> Self {
        Self { directory: directory(state_dir), name: file_name(pipeline) }
    }

    /// Those of every pipeline that has any, in the order of their names.
    pub(crate) fn all(state_dir: &Path) -> io::Result<Vec<Self>> {
        let directory = directory(state_dir);
        let mut names = BTreeSet::new();
        for name in names_in(&directory)? {
            match split_number(&name) {
                Some((live, _)) => names.insert(live.to_owned()),
                None if name.ends_with(EXTENSION) => names.insert(name),
                None => false,
            };
        }
        Ok(names.into_iter().map(|name| Self { directory: directory.clone(), name }).collect())
    }

    pub(crate) fn live(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    /// The older files, oldest first.
    pub(crate) fn older(&self) -> io::Result<Vec<PathBuf>> {
        Ok(self.numbers()?.into_iter().map(|number| self.numbered(number)).collect())
    }

    /// Removes what a replay that died wrote beside an older file. Needs the lock of the replay.
    pub(crate) fn remove_unfinished(&self) -> io::Result<()> {
        for name in names_in(&self.directory)? {
            let older = name.strip_suffix(UNFINISHED).and_then(split_number);
            if older.is_some_and(|(live, _)| live == self.name) {
                fs::remove_file(self.directory.join(name))?;
            }
        }
        Ok(())
    }

    fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut numbers: Vec<u64> = (names_in(&self.directory)?.iter())
            .filter_map(|name| split_number(name))
            .filter(|(live, _)| *live == self.name)
            .map(|(_, number)| number)
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn numbered(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{}.{number}", self.name))
    }

    /// How long the older files are together.
    pub(super) fn older_bytes(&self) -> io::Result<u64> {
        let mut bytes = 0;
        for path in self.older()? {
            match fs::symlink_metadata(path) {
                Ok(metadata) => bytes += metadata.len(),
                // A replay was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    /// Opens and locks the live file, which is made if it isn't there. Fails if somebody else has
    /// the lock.
    pub(in crate::ship) fn open_live(&self) -> io::Result<Appender> {
        self.open_live_and(|| ())
    }

    /// Calls `opened` where somebody else may have been faster: before it is looked again.
    fn open_live_and(&self, mut opened: impl FnMut()) -> io::Result<Appender> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let path = self.live();
        for _ in 0..TRIES {
            let file = Appender::open(&path)?;
            opened();
            // It may have been set aside between the opening and the lock.
            if file.is_at(&path) {
                return Ok(file);
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Makes `live`, which is locked, the youngest of the older files.
    pub(super) fn set_aside(&self, live: Appender) -> io::Result<()> {
        // Whoever else does this needs the lock: the number is free.
        let number = self.numbers()?.last().map_or(1, |last| last + 1);
        fs::rename(self.live(), self.numbered(number))?;
        sync_directory(&self.directory)?;
        drop(live);
        Ok(())
    }

    /// Sets the live file aside if there is something in it. Fails if somebody has its lock.
    pub(crate) fn set_live_aside(&self) -> io::Result<()> {
        match fs::symlink_metadata(self.live()) {
            Ok(metadata) if metadata.len() > 0 => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        let live = self.open_live()?;
        if live.length_bytes() == 0 { Ok(()) } else { self.set_aside(live) }
    }
}

/// The lock of the one replay that may run on this state directory; `None` if one is running.
pub(crate) fn lock_replay(state_dir: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = directory(state_dir).join("replay.lock");
    let file = File::from(rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?);
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

const EXTENSION: &str = ".ndjson";

/// What a replacement has behind the name of the file that it is to replace.
pub(crate) const UNFINISHED: &str = ".new";

pub(crate) fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("dead-letter")
}

/// The names in `directory`; none if it isn't there.
fn names_in(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        // Names that are no text are none of ours.
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

/// The live file's name and the number of an older file.
fn split_number(name: &str) -> Option<(&str, u64)> {
    let (live, digits) = name.rsplit_once('.')?;
    let plain = digits.len() <= NUMBER_DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    if !plain || !live.ends_with(EXTENSION) || digits.starts_with('0') {
        return None;
    }
    Some((live, digits.parse().ok()?))
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
    name + EXTENSION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pipeline_has_a_file_of_its_own() {
        assert_eq!(file_name("flink"), "flink.ndjson");
        assert_eq!(file_name("../x"), "%2E.%2Fx.ndjson");
        assert_ne!(file_name("a/b"), file_name("a%2Fb"));
        let (long, longer) = ("x".repeat(300), "x".repeat(301));
        assert_ne!(file_name(&long), file_name(&longer));
        assert!(file_name(&longer).len() < 240);
    }

    #[test]
    fn only_numbers_that_were_given_are_older_files() {
        assert_eq!(split_number("flink.ndjson.12"), Some(("flink.ndjson", 12)));
        // The live file of a pipeline that is called like an older file.
        assert_eq!(split_number("flink.ndjson.12.ndjson"), None);
        for other in ["flink.ndjson", "flink.ndjson.", "flink.ndjson.01", "flink.ndjson.1.new"] {
            assert_eq!(split_number(other), None, "{other}");
        }
        assert_eq!(split_number("flink.ndjson.99999999999999999999"), None);
    }

    #[test]
    fn older_files_are_in_the_order_of_their_numbers() {
        let state = tempfile::tempdir().expect("a directory");
        assert_eq!(Files::all(state.path()).expect("nothing"), []);
        let files = Files::of(state.path(), "flink");
        fs::create_dir(directory(state.path())).expect("a directory");
        for name in ["flink.ndjson.10", "flink.ndjson.9", "flink.ndjson.9.new", "other.ndjson"] {
            fs::write(directory(state.path()).join(name), "{}\n").expect("write");
        }
        let older = files.older().expect("names");
        assert_eq!(older, [files.numbered(9), files.numbered(10)]);
        assert_eq!(files.older_bytes().expect("lengths"), 6);
        let all = Files::all(state.path()).expect("names");
        assert_eq!(all, [files, Files::of(state.path(), "other")]);
    }

    #[test]
    fn only_what_a_replay_left_unfinished_is_removed() {
        let state = tempfile::tempdir().expect("a directory");
        let files = Files::of(state.path(), "flink");
        files.remove_unfinished().expect("there is no directory");
        fs::create_dir(directory(state.path())).expect("a directory");
        let names = ["flink.ndjson", "flink.ndjson.9", "flink.ndjson.new", "other.ndjson.9.new"];
        for name in names.into_iter().chain(["flink.ndjson.9.new", "flink.ndjson.10.new"]) {
            fs::write(directory(state.path()).join(name), "{}\n").expect("write");
        }
        files.remove_unfinished().expect("removed");
        let mut left = names_in(&directory(state.path())).expect("names");
        left.sort();
        assert_eq!(left, names);
    }

    #[test]
    fn the_live_file_is_set_aside_under_its_lock() {
        let state = tempfile::tempdir().expect("a directory");
        let files = Files::of(state.path(), "flink");
        files.set_live_aside().expect("there is none");
        let mut live = files.open_live().expect("open");
        live.append(b"{}\n").expect("append");
        files.set_live_aside().expect_err("it is locked");
        drop(live);
        files.set_live_aside().expect("free");
        files.set_live_aside().expect("nothing to do");
        assert_eq!(files.older().expect("names"), [files.numbered(1)]);
        drop(files.open_live().expect("a new one"));
        files.set_live_aside().expect("an empty one stays");
        assert_eq!(files.older().expect("names"), [files.numbered(1)]);
    }

    #[test]
    fn who_gets_the_lock_of_a_file_that_was_set_aside_opens_the_next() {
        let state = tempfile::tempdir().expect("a directory");
        let files = Files::of(state.path(), "flink");
        files.open_live().expect("open").append(b"1\n").expect("append");
        let mut times = 0;
        let mut live = files
            .open_live_and(|| {
                times += 1;
                if times == 1 {
                    fs::rename(files.live(), files.numbered(1)).expect("rename");
                }
            })
            .expect("open");
        live.append(b"2\n").expect("append");
        assert_eq!(fs::read(files.numbered(1)).expect("read"), b"1\n");
        assert_eq!(fs::read(files.live()).expect("read"), b"2\n");
        drop(live);
        let away = || fs::rename(files.live(), files.numbered(2)).expect("rename");
        files.open_live_and(away).expect_err("it is never the live one");
    }

    #[test]
    fn one_replay_at_a_time() {
        let state = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory(state.path())).expect("a directory");
        let first = lock_replay(state.path()).expect("a lock").expect("free");
        assert!(lock_replay(state.path()).expect("a lock").is_none());
        drop(first);
        assert!(lock_replay(state.path()).expect("a lock").is_some());
    }
}
