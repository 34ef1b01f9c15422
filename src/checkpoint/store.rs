//! The state directory's files: the checkpoint, and the facts of pods that may be gone by now.
//!
//! Decides what is written, and in which order. A file is replaced whole: written beside, synced,
//! renamed, and the directory synced, so that a crash leaves the old one or the new one. Of the
//! two files, the one that the other depends on goes first: facts come before a position that is
//! of no use without them, and go after it.
//!
//! A file that can't be read is set aside under another name, and everything is read again: ids
//! make that harmless. Nothing here looks at the wall clock.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::disk::{Directory, Disk};
use super::format::{self, FormatError, Pods};
use super::{Checkpoint, Entry, Key};
use crate::enrich::PodFacts;

pub(super) const FILE: &str = "checkpoint";
pub(super) const PODS: &str = "pods";

/// Unreadable files that are kept of each kind; the oldest go, so that they never fill the disk.
pub(super) const ASIDE_MAX: usize = 4;

/// Why the state directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another agent holds {}", path.display())]
    Locked { path: PathBuf },
    #[error("can't use the state directory {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("can't use the checkpoint {}", path.display())]
    Newer { path: PathBuf, source: FormatError },
}

/// The locked state directory with what was in it.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    disk: Box<dyn Disk>,
    checkpoint: Checkpoint,
    /// Facts of pods whose streams are not done, for the time after the pods have gone.
    pods: Pods,
    /// Facts that nothing needs any more, once the checkpoint on disk says so too.
    forgotten: Pods,
    dirty: Dirty,
    /// There was no checkpoint, not even one that had to be set aside.
    is_new: bool,
}

/// Which files lack something of what is known.
#[derive(Debug, Clone, Copy, Default)]
struct Dirty {
    checkpoint: bool,
    pods: bool,
}

impl Store {
    /// Takes the lock and reads the checkpoint.
    ///
    /// # Errors
    /// Another agent has the lock, the directory can't be made or read, or the checkpoint was
    /// written by a newer version.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::on(dir, Box::new(Directory::open(dir)?))
    }

    /// As [`Self::open`], for a test in which the last to have the lock has just ended: a process
    /// that another test starts at that moment has all locks of this one, until its program runs.
    #[cfg(test)]
    pub(crate) fn open_soon(dir: &Path) -> Self {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            match Self::open(dir) {
                Err(StoreError::Locked { .. }) if std::time::Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                opened => return opened.expect("usable, and nobody else's"),
            }
        }
    }

    /// Reads the checkpoint from `disk`; `dir` is what it is called in errors.
    pub(super) fn on(dir: &Path, disk: Box<dyn Disk>) -> Result<Self, StoreError> {
        let mut store = Self {
            dir: dir.to_owned(),
            disk,
            checkpoint: Checkpoint::new(),
            pods: Pods::new(),
            forgotten: Pods::new(),
            dirty: Dirty::default(),
            is_new: false,
        };
        store.load()?;
        Ok(store)
    }

    /// Where a checkpoint was set aside before one was written in its place, this is not the first
    /// start either: what the setting for that leaves out would be lost.
    fn load(&mut self) -> Result<(), StoreError> {
        let names = self.disk.names().map_err(|source| self.failed("", source))?;
        self.is_new = !names.iter().any(|name| name == FILE || aside_number(FILE, name).is_some());
        let checkpoint = self.read(FILE, &names)?;
        let pods = self.read(PODS, &names)?;
        // A new store is written at once, so that the next start is not taken for the first.
        self.dirty = Dirty { checkpoint: checkpoint.is_none(), pods: false };
        self.checkpoint = checkpoint.unwrap_or_default();
        self.pods = pods.unwrap_or_default();
        Ok(())
    }

    /// A state file; `None` where there is none, or none that can be read.
    fn read<K, V>(
        &mut self,
        name: &str,
        names: &[String],
    ) -> Result<Option<BTreeMap<K, V>>, StoreError>
    where
        K: DeserializeOwned + Ord,
        V: DeserializeOwned,
    {
        let text = match self.disk.read(name) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.failed(name, source)),
        };
        match format::read(&text) {
            Ok(entries) => Ok(Some(entries)),
            Err(source @ FormatError::Newer { .. }) => {
                Err(StoreError::Newer { path: self.dir.join(name), source })
            }
            Err(error) => {
                self.set_aside(name, names, &error)?;
                Ok(None)
            }
        }
    }

    fn set_aside(
        &mut self,
        name: &str,
        names: &[String],
        why: &FormatError,
    ) -> Result<(), StoreError> {
        let mut numbers: Vec<u64> =
            names.iter().filter_map(|other| aside_number(name, other)).collect();
        numbers.sort_unstable();
        let next = numbers.last().map_or(0, |last| last.saturating_add(1));
        let aside = aside_name(name, next);
        self.disk.rename(name, &aside).map_err(|source| self.failed(name, source))?;
        tracing::error!(
            file = %self.dir.join(name).display(), aside, cause = %why,
            "a state file can't be read and was set aside; what the checkpoint does not tell is read again"
        );
        let surplus = (numbers.len() + 1).saturating_sub(ASIDE_MAX);
        for number in numbers.into_iter().take(surplus) {
            let old = aside_name(name, number);
            if let Err(error) = self.disk.remove(&old) {
                let file = self.dir.join(old);
                tracing::warn!(file = %file.display(), cause = %error, "an old unreadable state file stays");
            }
        }
        Ok(())
    }

    fn failed(&self, name: &str, source: io::Error) -> StoreError {
        StoreError::Directory { path: self.dir.join(name), source }
    }

    /// Whether this is the very first start with this state directory.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// What was in the checkpoint when it was opened, and every change since.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Facts of pods that were saved.
    pub fn pods(&self) -> &Pods {
        &self.pods
    }

    /// Takes in changes; they are on disk after the next [`write()`](Self::write).
    pub(super) fn apply(&mut self, changes: Changes) {
        for (uid, facts) in changes.pods {
            match facts {
                Some(facts) if self.pods.get(&uid) == Some(&*facts) => {}
                Some(facts) => {
                    self.forgotten.remove(&uid);
                    self.pods.insert(uid, (*facts).clone());
                    self.dirty.pods = true;
                }
                None => {
                    if let Some((uid, facts)) = self.pods.remove_entry(&uid) {
                        self.forgotten.insert(uid, facts);
                    }
                }
            }
        }
        for (key, entry) in changes.entries {
            match entry {
                Some(entry) if self.checkpoint.get(&key) == Some(&*entry) => {}
                Some(entry) => {
                    self.checkpoint.insert(key, *entry);
                    self.dirty.checkpoint = true;
                }
                None => self.dirty.checkpoint |= self.checkpoint.remove(&key).is_some(),
            }
        }
    }

    /// Writes what is not on disk yet, which is everything if the directory is another one by now.
    ///
    /// # Errors
    /// The disk's, or the directory is not this process's any more. What is on disk is then as
    /// before or newer, and the next call tries again.
    pub(super) fn write(&mut self) -> Result<(), StoreError> {
        if self.disk.claim()? {
            self.dirty = Dirty { checkpoint: true, pods: true };
            tracing::warn!(
                dir = %self.dir.display(),
                "the state directory was removed or replaced; everything known is written again"
            );
        }
        if !self.dirty.checkpoint && !self.forgotten.is_empty() {
            self.forgotten.clear();
            self.dirty.pods = true;
        }
        if self.dirty.pods {
            let all: BTreeMap<_, _> = self.pods.iter().chain(&self.forgotten).collect();
            let text = text(&all);
            self.replace(PODS, &text)?;
            self.dirty.pods = false;
        }
        if self.dirty.checkpoint {
            let text = text(&self.checkpoint);
            self.replace(FILE, &text)?;
            self.dirty.checkpoint = false;
        }
        if !self.forgotten.is_empty() {
            let text = text(&self.pods);
            self.replace(PODS, &text)?;
            self.forgotten.clear();
        }
        Ok(())
    }

    /// Writes a file in place of the old one.
    fn replace(&mut self, name: &str, text: &[u8]) -> Result<(), StoreError> {
        let beside = format!("{name}.new");
        let replaced = self.try_replace(name, &beside, text);
        if replaced.is_err()
            && let Err(error) = self.disk.remove(&beside)
        {
            // Half a file would take room on a disk that is full; the next attempt removes it.
            tracing::debug!(file = beside, cause = %error, "what was written stays for now");
        }
        replaced.map_err(|source| self.failed(name, source))
    }

    fn try_replace(&mut self, name: &str, beside: &str, text: &[u8]) -> io::Result<()> {
        self.disk.create(beside)?;
        self.disk.write(text)?;
        self.disk.sync_file()?;
        self.disk.rename(beside, name)?;
        self.disk.sync_names()
    }
}

fn text<K: Serialize, V: Serialize>(entries: &BTreeMap<K, V>) -> Vec<u8> {
    format::write(entries).expect("keys, entries and facts can always be written to memory")
}

fn aside_name(name: &str, number: u64) -> String {
    format!("{name}.unreadable-{number}")
}

/// Which of the set-aside files of `name` it is, if it is one.
fn aside_number(name: &str, other: &str) -> Option<u64> {
    other.strip_prefix(name)?.strip_prefix(".unreadable-")?.parse().ok()
}

/// One change of the checkpoint.
#[derive(Debug)]
pub enum Change {
    Put(Key, Box<Entry>),
    Remove(Key),
    /// The facts of the pod that paths name so.
    Pod(String, Arc<PodFacts>),
    ForgetPod(String),
}

/// Changes together: of each reader and each pod only the last one counts, so that however many
/// come while the disk is slow, they take no more room than what they change.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) entries: BTreeMap<Key, Option<Box<Entry>>>,
    pods: BTreeMap<String, Option<Arc<PodFacts>>>,
}

impl Changes {
    pub(super) fn add(&mut self, change: Change) {
        match change {
            Change::Put(key, entry) => drop(self.entries.insert(key, Some(entry))),
            Change::Remove(key) => drop(self.entries.insert(key, None)),
            Change::Pod(uid, facts) => drop(self.pods.insert(uid, Some(facts))),
            Change::ForgetPod(uid) => drop(self.pods.insert(uid, None)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.pods.is_empty()
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
