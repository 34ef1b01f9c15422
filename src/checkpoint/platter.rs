//! A disk in memory for tests: it records every operation, loses the power after any of them,
//! fills up, fails and hangs.
//!
//! [`states_after`] is a pessimist's file system. What was not synced may be there or not: each
//! name on its own, and of the bytes every beginning, followed by nothing, by zeros, or by what
//! stood there before. One file at a time is left half done: two would only multiply the states.
//! A rename is one step, as on every journalling file system.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Entry;
use super::disk::Disk;
use super::store::{Store, StoreError};
use crate::tail::{PartId, Position};

/// How long is waited for what has to happen.
const DEADLINE: Duration = Duration::from_secs(30);

/// Files by name.
pub(super) type Image = BTreeMap<String, Vec<u8>>;

/// One step of what was asked of the disk. Files are numbered as they are created; those of the
/// image that it began with come first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    Create { name: String, file: usize },
    Write { file: usize, bytes: Vec<u8> },
    SyncFile { file: usize },
    Rename { from: String, to: String },
    Remove { name: String },
    SyncNames,
}

/// The disk; clones are the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Platter {
    shared: Arc<(Mutex<Inner>, Condvar)>,
}

#[derive(Debug, Default)]
struct Inner {
    names: BTreeMap<String, usize>,
    files: Vec<Vec<u8>>,
    writing: usize,
    ops: Vec<Op>,
    /// The operation from now on that fails, 0 the next one.
    fails_in: Option<usize>,
    hangs: bool,
    waits: bool,
    another: bool,
}

impl Platter {
    pub(super) fn new(image: &Image) -> Self {
        let platter = Self::default();
        let mut inner = platter.inner();
        for (name, bytes) in image {
            let file = inner.files.len();
            inner.files.push(bytes.clone());
            inner.names.insert(name.clone(), file);
        }
        drop(inner);
        platter
    }

    pub(super) fn open(&self) -> Result<Store, StoreError> {
        Store::on(Path::new("state"), Box::new(self.clone()))
    }

    pub(super) fn ops(&self) -> Vec<Op> {
        self.inner().ops.clone()
    }

    pub(super) fn image(&self) -> Image {
        let inner = self.inner();
        inner.names.iter().map(|(name, file)| (name.clone(), inner.files[*file].clone())).collect()
    }

    /// Lets one operation fail as on a full disk: a write leaves half of its bytes.
    pub(super) fn fail_in(&self, operations: usize) {
        self.inner().fails_in = Some(operations);
    }

    /// Has the failure that was asked for happened?
    pub(super) fn has_failed(&self) -> bool {
        self.inner().fails_in.is_none()
    }

    /// From now on a sync of a file doesn't return, or does again.
    pub(super) fn hang(&self, hangs: bool) {
        self.inner().hangs = hangs;
        self.shared.1.notify_all();
    }

    pub(super) fn wait_until_it_hangs(&self) {
        let waits = |inner: &mut Inner| !inner.waits;
        let seen = self.shared.1.wait_timeout_while(self.inner(), DEADLINE, waits).unwrap();
        assert!(!seen.1.timed_out(), "nothing was written and synced");
    }

    /// The directory becomes another one, with nothing in it.
    pub(super) fn replace_directory(&self) {
        let mut inner = self.inner();
        inner.names.clear();
        inner.another = true;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk before the next operation; an error if that is the one to fail.
    fn step(&self) -> (MutexGuard<'_, Inner>, io::Result<()>) {
        let mut inner = self.inner();
        let left = inner.fails_in;
        inner.fails_in = left.and_then(|left| left.checked_sub(1));
        let full = || Err(io::Error::from(io::ErrorKind::StorageFull));
        (inner, if left == Some(0) { full() } else { Ok(()) })
    }
}

impl Disk for Platter {
    fn claim(&mut self) -> Result<bool, StoreError> {
        Ok(std::mem::take(&mut self.inner().another))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.inner().names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let inner = self.inner();
        let file = inner.names.get(name).ok_or_else(not_found)?;
        Ok(inner.files[*file].clone())
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        let (mut inner, fails) = self.step();
        fails?;
        let file = inner.files.len();
        inner.files.push(Vec::new());
        inner.names.insert(name.to_owned(), file);
        inner.writing = file;
        inner.ops.push(Op::Create { name: name.to_owned(), file });
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (mut inner, fails) = self.step();
        let bytes = if fails.is_err() { &bytes[..bytes.len() / 2] } else { bytes };
        let file = inner.writing;
        inner.files[file].extend_from_slice(bytes);
        inner.ops.push(Op::Write { file, bytes: bytes.to_owned() });
        fails
    }

    fn sync_file(&mut self) -> io::Result<()> {
        let (mut inner, fails) = self.step();
        fails?;
        if inner.hangs {
            inner.waits = true;
            self.shared.1.notify_all();
            inner = self.shared.1.wait_while(inner, |inner| inner.hangs).unwrap();
            inner.waits = false;
        }
        let file = inner.writing;
        inner.ops.push(Op::SyncFile { file });
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let (mut inner, fails) = self.step();
        fails?;
        let file = inner.names.remove(from).ok_or_else(not_found)?;
        inner.names.insert(to.to_owned(), file);
        inner.ops.push(Op::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let (mut inner, fails) = self.step();
        fails?;
        inner.names.remove(name).ok_or_else(not_found)?;
        inner.ops.push(Op::Remove { name: name.to_owned() });
        Ok(())
    }

    fn sync_names(&mut self) -> io::Result<()> {
        let (mut inner, fails) = self.step();
        fails?;
        inner.ops.push(Op::SyncNames);
        Ok(())
    }
}

/// An entry that has come as far as `offset`.
pub(super) fn entry(offset: u64) -> Entry {
    let at = Position { part: PartId::born(7, 9), offset };
    let (cuts, parts) = (vec![], vec![]);
    let reached = [at, Position::START];
    Entry { reached, cuts, parts, listed_ns: None, begins_at_ns: None }
}

fn not_found() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

/// Every state in which the disk can be after `ops` on `image` and a power loss. Of the bytes that
/// were not synced, the beginnings are tried at every `grain` bytes.
pub(super) fn states_after(image: &Image, ops: &[Op], grain: usize) -> Vec<Image> {
    let mut remains = Remains::new(image);
    for op in ops {
        remains.take(op);
    }
    remains.states(grain)
}

/// What is sure to be on the disk, and what may be.
struct Remains {
    files: Vec<FileRemains>,
    /// The names that a process sees.
    seen: BTreeMap<String, usize>,
    synced: BTreeMap<String, usize>,
    /// Since the names were last synced.
    unsynced: Vec<Renaming>,
}

/// One step: a name that disappears, and one that appears for a file.
struct Renaming {
    gone: Option<String>,
    come: Option<(String, usize)>,
}

#[derive(Default)]
struct FileRemains {
    synced: Vec<u8>,
    now: Vec<u8>,
}

impl Remains {
    fn new(image: &Image) -> Self {
        let seen: BTreeMap<String, usize> = image.keys().cloned().zip(0..).collect();
        let file = |bytes: &Vec<u8>| FileRemains { synced: bytes.clone(), now: bytes.clone() };
        let files = image.values().map(file).collect();
        Self { files, synced: seen.clone(), seen, unsynced: Vec::new() }
    }

    fn take(&mut self, op: &Op) {
        match op {
            Op::Create { name, file } => {
                self.files.resize_with(file + 1, FileRemains::default);
                self.seen.insert(name.clone(), *file);
                let come = Some((name.clone(), *file));
                self.unsynced.push(Renaming { gone: None, come });
            }
            Op::Write { file, bytes } => self.files[*file].now.extend_from_slice(bytes),
            Op::SyncFile { file } => {
                let file = &mut self.files[*file];
                file.synced.clone_from(&file.now);
            }
            Op::Rename { from, to } => {
                let file = self.seen.remove(from).expect("it was there");
                self.seen.insert(to.clone(), file);
                let come = Some((to.clone(), file));
                self.unsynced.push(Renaming { gone: Some(from.clone()), come });
            }
            Op::Remove { name } => {
                self.seen.remove(name);
                self.unsynced.push(Renaming { gone: Some(name.clone()), come: None });
            }
            Op::SyncNames => {
                self.synced.clone_from(&self.seen);
                self.unsynced.clear();
            }
        }
    }

    fn states(&self, grain: usize) -> Vec<Image> {
        let mut states = Vec::new();
        for which in 0..1_u32 << self.unsynced.len() {
            let mut names = self.synced.clone();
            for (index, Renaming { gone, come }) in self.unsynced.iter().enumerate() {
                if which & (1 << index) != 0 {
                    if let Some(gone) = gone {
                        names.remove(gone);
                    }
                    names.extend(come.clone());
                }
            }
            let content = |file: fn(&FileRemains) -> &Vec<u8>| -> Image {
                let bytes =
                    |(name, at): (&String, &usize)| (name.clone(), file(&self.files[*at]).clone());
                names.iter().map(bytes).collect()
            };
            for others in [content(|file| &file.synced), content(|file| &file.now)] {
                for (name, at) in &names {
                    for bytes in self.files[*at].states(grain) {
                        let mut image = others.clone();
                        image.insert(name.clone(), bytes);
                        states.push(image);
                    }
                }
                states.push(others);
            }
        }
        states.sort_unstable();
        states.dedup();
        states
    }
}

impl FileRemains {
    fn states(&self, grain: usize) -> Vec<Vec<u8>> {
        if self.synced == self.now {
            return vec![self.now.clone()];
        }
        let length = self.now.len();
        let mut states = vec![self.synced.clone(), self.now.clone()];
        for end in (0..length).step_by(grain).chain([length - 1]) {
            let beginning = &self.now[..end];
            let followed = |rest: &[u8]| [beginning, rest].concat();
            states.push(followed(&[]));
            states.push(followed(&vec![0; length - end]));
            states.push(followed(self.synced.get(end..).unwrap_or_default()));
        }
        states
    }
}
