//! The state directory: its lock, the checkpoint, and the facts of pods that may be gone by now.
//!
//! The only code that writes these files. A file is replaced whole: written beside, synced,
//! renamed, and the directory synced, so that a crash leaves the old one or the new one. It and
//! the directory are private. A file that can't be read is set aside under another name, and
//! everything is read again: ids make that harmless. A disk that is full or read-only is said
//! once a minute and tried again; until then nothing new is safe on disk.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::format::{self, FormatError, Pods};
use super::{Checkpoint, Entry, Key};
use crate::enrich::PodFacts;
use crate::telemetry::throttle;

const FILE: &str = "checkpoint";
const PODS: &str = "pods";
const RETRY: Duration = Duration::from_secs(1);

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
    checkpoint: Checkpoint,
    /// Facts of pods whose streams are not done, for the time after the pods have gone.
    pods: Pods,
    /// There was no checkpoint, not even one that had to be set aside.
    is_new: bool,
    /// Held for as long as the process lives.
    _lock: File,
}

impl Store {
    /// Takes the lock and reads the checkpoint.
    ///
    /// # Errors
    /// Another agent has the lock, the directory can't be made or read, or the checkpoint was
    /// written by a newer version.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Directory { path: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let path = dir.join("lock");
        let lock =
            private().create(true).write(true).truncate(false).open(&path).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked { path }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut store = Self {
            dir: dir.to_owned(),
            checkpoint: Checkpoint::new(),
            pods: Pods::new(),
            is_new: false,
            _lock: lock,
        };
        store.load()?;
        Ok(store)
    }

    fn load(&mut self) -> Result<(), StoreError> {
        let found = self.dir.join(FILE).symlink_metadata();
        self.is_new = found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        self.checkpoint = self.read(FILE)?;
        self.pods = self.read(PODS)?;
        Ok(())
    }

    /// A state file; nothing where there is none, or none that can be read.
    fn read<K, V>(&self, name: &str) -> Result<BTreeMap<K, V>, StoreError>
    where
        K: DeserializeOwned + Ord,
        V: DeserializeOwned,
    {
        let path = self.dir.join(name);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(source) => return Err(StoreError::Directory { path, source }),
        };
        match format::read(&text) {
            Ok(entries) => return Ok(entries),
            Err(source @ FormatError::Newer { .. }) => {
                return Err(StoreError::Newer { path, source });
            }
            Err(error) => self.set_aside(&path, &error)?,
        }
        Ok(BTreeMap::new())
    }

    fn set_aside(&self, path: &Path, why: &FormatError) -> Result<(), StoreError> {
        let aside = (0_u32..)
            .map(|n| path.with_extension(format!("unreadable-{n}")))
            .find(|aside| aside.symlink_metadata().is_err())
            .expect("there are more numbers than files");
        std::fs::rename(path, &aside)
            .map_err(|source| StoreError::Directory { path: path.to_owned(), source })?;
        tracing::error!(
            file = %path.display(), aside = %aside.display(), cause = %why,
            "a state file can't be read and was set aside; what the checkpoint does not tell is read again"
        );
        Ok(())
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

    /// Takes in changes; returns which files they are in.
    fn apply(&mut self, changes: Vec<Change>) -> Dirty {
        let mut dirty = Dirty::default();
        for change in changes {
            match &change {
                Change::Put(..) | Change::Remove(_) => dirty.checkpoint = true,
                Change::Pod(..) | Change::ForgetPod(_) => dirty.pods = true,
            }
            match change {
                Change::Pod(uid, facts) => {
                    self.pods.insert(uid, (*facts).clone());
                }
                Change::ForgetPod(uid) => {
                    self.pods.remove(&uid);
                }
                Change::Put(key, entry) => {
                    self.checkpoint.insert(key, *entry);
                }
                Change::Remove(key) => {
                    self.checkpoint.remove(&key);
                }
            }
        }
        dirty
    }

    /// Writes what is dirty. Facts come first: a position is of no use without them.
    fn write(&self, dirty: Dirty) -> io::Result<()> {
        if dirty.pods {
            self.replace(PODS, &format::write(&self.pods)?)?;
        }
        if dirty.checkpoint {
            self.replace(FILE, &format::write(&self.checkpoint)?)?;
        }
        Ok(())
    }

    /// Writes a file in place of the old one.
    fn replace(&self, name: &str, text: &[u8]) -> io::Result<()> {
        let beside = self.dir.join(format!("{name}.new"));
        let mut file = private().create(true).write(true).truncate(true).open(&beside)?;
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&beside, self.dir.join(name))?;
        File::open(&self.dir)?.sync_all()
    }
}

/// Files of the state directory: nobody else's, and never behind a link.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits();
    options.mode(0o600).custom_flags(nofollow.cast_signed());
    options
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

/// Which files differ from what is on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Dirty {
    checkpoint: bool,
    pods: bool,
}

impl Dirty {
    fn is_clean(self) -> bool {
        self == Self::default()
    }
}

/// What happens once a save has been tried: whether it is on disk.
type Reply = Box<dyn FnOnce(bool) + Send>;

struct Save {
    changes: Vec<Change>,
    reply: Option<Reply>,
}

/// Saves changes on a thread of its own, so that a slow disk holds up nobody.
#[derive(Debug, Clone)]
pub struct Saver {
    saves: SyncSender<Save>,
}

impl Saver {
    /// Starts the thread; it ends when the last `Saver` is dropped, and returns whether all
    /// changes are on disk. `saved` is called whenever they are. A new store is written at once, so
    /// that the next start is not taken for the first.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(
        store: Store,
        saved: impl Fn() + Send + 'static,
    ) -> io::Result<(Self, JoinHandle<bool>)> {
        let (saves, inbox) = sync_channel(64);
        let thread = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || save_until_closed(store, &inbox, &saved))?;
        Ok((Self { saves }, thread))
    }

    /// Puts `changes` into the checkpoint. Waits only when many saves are waiting already.
    pub fn save(&self, changes: Vec<Change>) {
        self.send(Save { changes, reply: None });
    }

    /// The same, and says whether they are on disk.
    pub fn save_then(&self, changes: Vec<Change>, reply: impl FnOnce(bool) + Send + 'static) {
        self.send(Save { changes, reply: Some(Box::new(reply)) });
    }

    fn send(&self, save: Save) {
        if let Err(lost) = self.saves.send(save)
            && let Some(reply) = lost.0.reply
        {
            reply(false);
        }
    }
}

fn save_until_closed(mut store: Store, inbox: &Receiver<Save>, saved: &dyn Fn()) -> bool {
    let mut dirty = Dirty { checkpoint: store.is_new, pods: false };
    if store.is_new && write(&store, dirty) {
        dirty = Dirty::default();
    }
    loop {
        let first = match inbox.recv_timeout(RETRY) {
            Ok(save) => Some(save),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                return dirty.is_clean() || write(&store, dirty);
            }
        };
        let mut replies = Vec::new();
        for save in first.into_iter().chain(inbox.try_iter()) {
            let more = store.apply(save.changes);
            dirty.checkpoint |= more.checkpoint;
            dirty.pods |= more.pods;
            replies.extend(save.reply);
        }
        if !dirty.is_clean() && write(&store, dirty) {
            dirty = Dirty::default();
        }
        if dirty.is_clean() {
            saved();
        }
        for reply in replies {
            reply(dirty.is_clean());
        }
    }
}

fn write(store: &Store, dirty: Dirty) -> bool {
    match store.write(dirty) {
        Ok(()) => true,
        Err(error) => {
            if let Some(suppressed) = throttle::allow("checkpoint") {
                tracing::error!(
                    dir = %store.dir.display(), cause = %error, suppressed,
                    "the checkpoint can't be written; it is tried again, and lines since the last one would be read again after a restart"
                );
            }
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::tail::Position;

    fn put(name: &str) -> Vec<Change> {
        let key = Key { pipeline: name.to_owned(), stream: "s".to_owned() };
        let reached = [Position::START; 2];
        let (cuts, parts) = (vec![], vec![]);
        let entry = Entry { reached, cuts, parts, listed_ns: None, begins_at_ns: None };
        vec![Change::Put(key, Box::new(entry))]
    }

    #[test]
    fn what_was_saved_is_there_after_a_restart_and_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("state");
        let (saver, thread) =
            Saver::start(Store::open(&state).expect("free"), || ()).expect("started");
        let (reply, answered) = sync_channel(1);
        saver.save_then(put("a"), move |safe| reply.send(safe).expect("waited for"));
        assert!(answered.recv().expect("answered"));
        drop(saver);
        assert!(thread.join().expect("ended"));

        let store = Store::open(&state).expect("free again");
        assert_eq!(store.checkpoint().len(), 1);
        let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&state), 0o700);
        assert_eq!(mode(&state.join(FILE)), 0o600);
        assert!(matches!(Store::open(&state), Err(StoreError::Locked { .. })));
    }

    #[test]
    fn only_the_very_first_start_is_the_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("free");
        assert!(store.is_new());
        let (saver, thread) = Saver::start(store, || ()).expect("started");
        drop(saver);
        assert!(thread.join().expect("ended"));
        assert!(!Store::open(dir.path()).expect("free again").is_new());
        std::fs::write(dir.path().join(FILE), "{half").expect("written");
        assert!(!Store::open(dir.path()).expect("free again").is_new());
    }

    #[test]
    fn a_damaged_checkpoint_is_set_aside() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join(FILE), "{half").expect("written");
        let store = Store::open(dir.path()).expect("usable");
        assert!(store.checkpoint().is_empty());
        assert!(dir.path().join("checkpoint.unreadable-0").symlink_metadata().is_ok());
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_not_called_safe() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("state");
        let store = Store::open(&state).expect("free");
        std::fs::create_dir(state.join("checkpoint.new")).expect("in the way");
        let (saver, thread) = Saver::start(store, || ()).expect("started");
        let (reply, answered) = sync_channel(1);
        saver.save_then(put("a"), move |safe| reply.send(safe).expect("waited for"));
        assert!(!answered.recv().expect("answered"));
        std::fs::remove_dir(state.join("checkpoint.new")).expect("out of the way");
        drop(saver);
        assert!(thread.join().expect("ended"), "written in the end");
    }
}
