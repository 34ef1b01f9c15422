//! The state directory on the disk: what the checkpoint needs of a file system, and no more.
//!
//! [`Disk`] is the seam at which tests look at every write, sync and rename, lose the power
//! between any two, and let the disk fill up or hang. [`Directory`] is the real one.
//!
//! Guarantees that nothing is read or written in a directory whose lock this process does not
//! hold: the directory is held open and files are reached through that handle, so that a write
//! never lands in one that has taken its place. Files are private (0600), and so is the directory
//! where it is made here (0700); no link is followed. Doesn't know what is in the files, nor the
//! order in which they have to be written.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::store::StoreError;

const LOCK: &str = "lock";

/// What the checkpoint needs of a directory. Files are named within it; one at a time is written.
pub(super) trait Disk: Debug + Send {
    /// Makes sure that this process owns the directory that now has its path. `true` when that is
    /// another one than before, in which nothing of what was written is to be expected.
    fn claim(&mut self) -> Result<bool, StoreError>;
    fn names(&self) -> io::Result<Vec<String>>;
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
    /// Makes a new, empty file in place of any that has the name, to be written from now on.
    fn create(&mut self, name: &str) -> io::Result<()>;
    /// Appends all of `bytes` to the file that was created last.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Waits until the file that was created last is on the disk. Its name may not be.
    fn sync_file(&mut self) -> io::Result<()>;
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Waits until the names of the directory are on the disk.
    fn sync_names(&mut self) -> io::Result<()>;
}

/// A directory that this process holds the lock of.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// The directory itself, wherever its path leads by now.
    held: File,
    /// Held for as long as the process lives, or the directory does.
    lock: File,
    writing: Option<File>,
}

impl Directory {
    /// Makes the directory if it isn't there, and takes its lock.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Directory { path: path.to_owned(), source };
        make(path).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let held = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        let held = File::from(held);
        let lock = open_at(&held, LOCK, OFlags::WRONLY | OFlags::CREATE).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked { path: path.join(LOCK) });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let directory = Self { path: path.to_owned(), held, lock, writing: None };
        // The lock may have been removed before it was taken, and another agent may hold a new one.
        if directory.is_ours().map_err(failed)? {
            Ok(directory)
        } else {
            Err(failed(io::Error::other("it was removed while it was being opened")))
        }
    }

    /// Whether the path still leads to the directory that is held, and its lock is the one held.
    fn is_ours(&self) -> io::Result<bool> {
        let same = |now: Result<Stat, Errno>, held: &File| match now {
            Ok(now) => {
                let held = rustix::fs::fstat(held)?;
                Ok((now.st_dev, now.st_ino) == (held.st_dev, held.st_ino))
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => Ok(false),
            Err(error) => Err(io::Error::from(error)),
        };
        let lock = rustix::fs::statat(&self.held, LOCK, AtFlags::SYMLINK_NOFOLLOW);
        Ok(same(rustix::fs::stat(&self.path), &self.held)? && same(lock, &self.lock)?)
    }
}

/// Makes the directory and those above it. Their names are synced, or they could be gone after a
/// power loss with all that is in them.
fn make(path: &Path) -> io::Result<()> {
    let is_missing = |above: &&Path| {
        let found = above.symlink_metadata();
        found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    let path = std::path::absolute(path)?;
    let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
    for above in missing.iter().filter_map(|made| made.parent()) {
        File::open(above)?.sync_all()?;
    }
    Ok(())
}

/// Opens a file of the directory: never behind a link, and without waiting for one who writes.
fn open_at(directory: impl AsFd, name: &str, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    Ok(File::from(rustix::fs::openat(directory, name, flags, mode)?))
}

impl Disk for Directory {
    fn claim(&mut self) -> Result<bool, StoreError> {
        let failed = |source| StoreError::Directory { path: self.path.clone(), source };
        if self.is_ours().map_err(failed)? {
            return Ok(false);
        }
        *self = Self::open(&self.path)?;
        Ok(true)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.held)? {
            let name = entry?.file_name().to_bytes().to_vec();
            names.push(OsStr::from_bytes(&name).to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut file = open_at(&self.held, name, OFlags::RDONLY)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut text = Vec::new();
        io::Read::read_to_end(&mut file, &mut text)?;
        Ok(text)
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        match self.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        self.writing = Some(open_at(&self.held, name, flags)?);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writing.as_mut().expect("created before").write_all(bytes)
    }

    fn sync_file(&mut self) -> io::Result<()> {
        self.writing.as_mut().expect("created before").sync_all()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.writing = None;
        Ok(rustix::fs::renameat(&self.held, from, &self.held, to)?)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.writing = None;
        Ok(rustix::fs::unlinkat(&self.held, name, AtFlags::empty())?)
    }

    fn sync_names(&mut self) -> io::Result<()> {
        self.held.sync_all()
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
