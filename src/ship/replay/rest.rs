//! What stays of an older file of dead letters, written beside it and put in its place.
//!
//! Owns the replacement: `<file>.new` is private, synced, renamed over the file, and the
//! directory synced. Guarantees that until [`Rest::put_in_place`] the file is as it was, and that
//! after a crash at any moment it is there whole, as it was or as it became.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::ship::append::sync_directory;
use crate::ship::dead_letter::files::UNFINISHED;

/// See the module's documentation. What is dropped without having been put in place is removed.
#[derive(Debug)]
pub(super) struct Rest {
    path: PathBuf,
    beside: PathBuf,
    out: Option<BufWriter<File>>,
}

impl Rest {
    /// For the file at `path`; writes nothing yet.
    pub(super) fn of(path: &Path) -> Self {
        let mut beside = path.as_os_str().to_owned();
        beside.push(UNFINISHED);
        Self { path: path.to_owned(), beside: beside.into(), out: None }
    }

    /// A line that stays.
    pub(super) fn keep(&mut self, line: &[u8]) -> io::Result<()> {
        let out = match &mut self.out {
            Some(out) => out,
            None => self.out.insert(BufWriter::new(create(&self.beside)?)),
        };
        out.write_all(line)?;
        // The next one begins a line of its own, even after one that was torn.
        if line.ends_with(b"\n") { Ok(()) } else { out.write_all(b"\n") }
    }

    /// Replaces the file by what stays; removes it if nothing does.
    pub(super) fn put_in_place(mut self) -> io::Result<()> {
        match self.out.take() {
            Some(out) => {
                out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
                fs::rename(&self.beside, &self.path)?;
            }
            None => fs::remove_file(&self.path)?,
        }
        sync_directory(self.path.parent().unwrap_or_else(|| Path::new("")))
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        if self.out.is_some() {
            // One that can't be removed now is removed by the next replay.
            drop(fs::remove_file(&self.beside));
        }
    }
}

/// Empties what a crash may have left there.
fn create(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::TRUNC
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_is_as_it_was_until_it_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("flink.ndjson.1");
        fs::write(&path, "1\n2\n3").expect("write");
        let beside = directory.path().join("flink.ndjson.1.new");
        fs::write(&beside, "left by a crash, and longer").expect("write");
        let mut rest = Rest::of(&path);
        rest.keep(b"2\n").expect("write");
        rest.keep(b"3").expect("write");
        assert_eq!(fs::read(&path).expect("read"), b"1\n2\n3");
        drop(rest);
        assert_eq!(fs::read(&path).expect("read"), b"1\n2\n3");
        assert!(!beside.try_exists().expect("a look"));

        let mut rest = Rest::of(&path);
        rest.keep(b"2\n").expect("write");
        rest.keep(b"3").expect("write");
        rest.put_in_place().expect("replaced");
        assert_eq!(fs::read(&path).expect("read"), b"2\n3\n");
        assert!(!beside.try_exists().expect("a look"));
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        Rest::of(&path).put_in_place().expect("removed");
        assert!(!path.try_exists().expect("a look"));
    }
}
