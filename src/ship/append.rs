//! Appends whole lines to a private file so that they are there after a power loss.
//!
//! Owns how the dead-letter files and the `file` output are opened and written: 0600, without
//! following a link and without blocking, regular files only, one writer at a time by an
//! exclusive lock. Guarantees that after [`Appender::append`] returns `Ok` the bytes are on the
//! disk, and that a line which a failed or interrupted write left unfinished is cut off before
//! anything else is written. Blocks; callers keep it off the runtime's thread.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use memchr::memrchr;
use rustix::fs::{FlockOperation, Mode, OFlags};

/// An open file, positioned after its last whole line.
#[derive(Debug)]
pub(super) struct Appender {
    file: File,
    length_bytes: u64,
}

impl Appender {
    /// Opens or creates `path`, whose directory must exist. Fails if another writer has it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDWR
            | OFlags::CREATE
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let length_bytes = whole_lines(&file, metadata.len())?;
        if length_bytes < metadata.len() {
            file.set_len(length_bytes)?;
        }
        if metadata.len() == 0 {
            sync_directory(path.parent().unwrap_or(path))?;
        }
        Ok(Self { file, length_bytes })
    }

    pub(super) fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Whether `path` still leads to this file, which somebody may have moved or removed.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let named = fs::symlink_metadata(path).map(identity).ok();
        named.is_some() && named == self.file.metadata().map(identity).ok()
    }

    /// Appends `lines`, which end with a line's end, and waits until they are on the disk. After
    /// an error, what is in the file of them is cut off before anything else is written.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let length_bytes = self.file.metadata()?.len();
        if length_bytes < self.length_bytes {
            // Somebody has truncated it.
            self.length_bytes = whole_lines(&self.file, length_bytes)?;
        }
        if length_bytes > self.length_bytes {
            self.file.set_len(self.length_bytes)?;
        }
        let written =
            (self.file.write_all_at(lines, self.length_bytes)).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.file.set_len(self.length_bytes)?;
            return Err(error);
        }
        self.length_bytes += lines.len() as u64;
        Ok(())
    }
}

/// The length of `file` up to the end of its last whole line.
fn whole_lines(file: &File, length_bytes: u64) -> io::Result<u64> {
    const BLOCK: u64 = 64 * 1024;
    let mut end = length_bytes;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        block.resize(usize::try_from(end - start).unwrap_or(0), 0);
        file.read_exact_at(&mut block, start)?;
        if let Some(at) = memrchr(b'\n', &block) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Makes the names in a directory survive a power loss.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    let here = directory.as_os_str().is_empty();
    File::open(if here { Path::new(".") } else { directory })?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn lines_are_appended_and_the_file_is_private() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out.ndjson");
        Appender::open(&path).expect("open").append(b"{}\n").expect("append");
        let mut again = Appender::open(&path).expect("open again");
        again.append(b"[]\n").expect("append");
        assert_eq!(again.length_bytes(), 6);
        assert_eq!(fs::read(&path).expect("read"), b"{}\n[]\n");
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_unfinished_line_is_cut_off() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out.ndjson");
        let unfinished = "x".repeat(100_000);
        for (before, after) in [
            (format!("{{}}\n{unfinished}"), "{}\nnew\n"),
            (unfinished.clone(), "new\n"),
            (String::new(), "new\n"),
        ] {
            fs::write(&path, before).expect("write");
            Appender::open(&path).expect("open").append(b"new\n").expect("append");
            assert_eq!(fs::read_to_string(&path).expect("read"), after);
        }
    }

    #[test]
    fn what_a_failed_write_left_is_cut_off_before_the_next() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out.ndjson");
        let mut appender = Appender::open(&path).expect("open");
        appender.append(b"one\n").expect("append");
        fs::write(&path, b"one\n2\ntw").expect("a torn write");
        appender.append(b"two\n").expect("append");
        assert_eq!(fs::read(&path).expect("read"), b"one\ntwo\n");
    }

    #[test]
    fn a_file_that_was_truncated_or_moved_is_noticed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out.ndjson");
        let mut appender = Appender::open(&path).expect("open");
        appender.append(b"one\ntwo\n").expect("append");
        fs::write(&path, b"").expect("truncate");
        appender.append(b"three\n").expect("append");
        assert_eq!(fs::read(&path).expect("read"), b"three\n");
        assert!(appender.is_at(&path));
        fs::rename(&path, directory.path().join("out.1")).expect("rename");
        assert!(!appender.is_at(&path));
        fs::write(&path, b"").expect("another");
        assert!(!appender.is_at(&path));
    }

    #[test]
    fn links_directories_and_second_writers_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out.ndjson");
        let link = directory.path().join("link");
        symlink(&path, &link).expect("link");
        Appender::open(&link).expect_err("a link");
        Appender::open(directory.path()).expect_err("a directory");
        let first = Appender::open(&path).expect("open");
        Appender::open(&path).expect_err("a second writer");
        drop(first);
        Appender::open(&path).expect("the first is gone");
    }
}
