//! What is watched, and how each directory is asked about writes: by events or by looking.
//!
//! Owns the `notify` watcher. `notify` makes an event of every write, at the expense of the writer
//! and of a thread here, so a directory in which writing goes on is taken out of it, and looked at
//! once a tick until it has been quiet for a while ([`Turn`]). So a busy container costs the same
//! however many lines it writes (`benches/README.md` has the figures).
//!
//! What the kernel refuses (no instance or watch to spare) is asked for again once a minute.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::{Error, ErrorKind, RecommendedWatcher, RecursiveMode};

use super::directory::{Depth, Place};
use super::hints::{Hints, News};

/// How often directories that are being written to are looked at, for few of them.
pub(super) const TICK: Duration = Duration::from_millis(20);
/// What each of them adds to that, so that many cost no more than 5,000 looks a second.
const TICK_PER_DIRECTORY: Duration = Duration::from_micros(200);
/// Written to in so many ticks in a row, a directory makes no more events.
const BUSY_TICKS: u8 = 8;
/// Quiet for so many ticks in a row, it makes events again.
const QUIET_TICKS: u8 = 10;
/// How long after a refusal the kernel is asked again for an instance and watches.
const RETRY: Duration = Duration::from_secs(60);

/// How a `notify` watcher is had. Tests give one that lacks something.
pub(super) type Open = dyn Fn(Hints) -> notify::Result<Box<dyn notify::Watcher>> + Send;

/// inotify on Linux.
pub(super) fn recommended(hints: Hints) -> notify::Result<Box<dyn notify::Watcher>> {
    let watcher = <RecommendedWatcher as notify::Watcher>::new(hints, notify::Config::default())?;
    Ok(Box::new(watcher))
}

pub(super) struct Watcher {
    open: Box<Open>,
    notify: Option<Box<dyn notify::Watcher>>,
    hints: Hints,
    known: HashMap<Arc<Path>, Known>,
    /// Directories with something to do in the next tick.
    busy: HashSet<Arc<Path>>,
    ticked: Instant,
    /// What the kernel refused last, until it is said.
    refused: Option<(PathBuf, Error)>,
    refused_at: Option<Instant>,
}

struct Known {
    place: Place,
    turn: Turn,
}

/// How a directory is asked about writes, with the ticks in a row in which it was busy or quiet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It's watched, and a write will be told.
    Awaited,
    /// It's watched, and the next tick asks whether there were more writes.
    Hot(u8),
    /// It isn't watched but looked at.
    Looked(u8),
}

impl Turn {
    /// What comes after a tick.
    pub(super) fn next(self, written: bool) -> Self {
        match (self, written) {
            (Self::Awaited, _) => Self::Awaited,
            (Self::Hot(busy), true) if busy + 1 < BUSY_TICKS => Self::Hot(busy + 1),
            (Self::Hot(_) | Self::Looked(_), true) => Self::Looked(0),
            (Self::Looked(quiet), false) if quiet + 1 < QUIET_TICKS => Self::Looked(quiet + 1),
            (Self::Hot(_) | Self::Looked(_), false) => Self::Awaited,
        }
    }
}

impl Watcher {
    pub(super) fn new(open: Box<Open>, hints: Hints) -> Self {
        Self {
            open,
            notify: None,
            hints,
            known: HashMap::new(),
            busy: HashSet::new(),
            ticked: Instant::now(),
            refused: None,
            refused_at: None,
        }
    }

    /// Watches a directory, or makes sure that it's this very directory that is watched. The
    /// instance is opened with the first. `false` if there was no such directory. What the kernel
    /// refuses is asked for again ([`Self::retry`]).
    pub(super) fn watch(&mut self, path: &Path, place: &Place) -> bool {
        if self.notify.is_none() && self.refused_at.is_none() {
            match (self.open)(self.hints.clone()) {
                Ok(notify) => self.notify = Some(notify),
                Err(error) => self.refuse(path, error),
            }
        }
        let Some(notify) = &mut self.notify else { return true };
        let (path, turn) = match self.known.get_key_value(path) {
            Some((_, Known { turn: Turn::Looked(_), .. })) => return true,
            Some((path, known)) => (Arc::clone(path), known.turn),
            None => (path.into(), Turn::Awaited),
        };
        // Before there can be events of it.
        self.hints.know(&path);
        match notify.watch(&path, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.known.insert(path, Known { place: place.clone(), turn });
                true
            }
            Err(error) => {
                self.forget(&path);
                if matches!(error.kind, ErrorKind::PathNotFound) {
                    return false;
                }
                self.refuse(&path, error);
                true
            }
        }
    }

    fn refuse(&mut self, path: &Path, error: Error) {
        self.refused = Some((path.to_owned(), error));
        self.refused_at.get_or_insert_with(Instant::now);
    }

    pub(super) fn take_refused(&mut self) -> Option<(PathBuf, Error)> {
        self.refused.take()
    }

    /// What the next scan has to do: list everything, and so ask for each watch again, when it's
    /// time to after a refusal.
    pub(super) fn retry(&mut self, now: Instant) -> Depth {
        match self.refused_at {
            Some(at) if now.duration_since(at) >= RETRY => {
                self.refused_at = None;
                Depth::Full
            }
            _ => Depth::Changed,
        }
    }

    fn forget(&mut self, path: &Path) {
        self.hints.forget(path);
        self.known.remove(path);
    }

    /// Nothing counts as watched any more; a full scan watches it again.
    pub(super) fn forget_all(&mut self) {
        for (path, _) in self.known.drain() {
            self.hints.forget(&path);
        }
        self.busy.clear();
    }

    /// The places that news asks to be scanned, outer ones first. Those that were left, and what is
    /// beneath, are forgotten: if they are still there, their scan watches them again.
    pub(super) fn stale(&mut self, news: &News) -> BTreeSet<Place> {
        let changed = news.changed.iter().filter_map(|path| self.place(path));
        let mut stale: BTreeSet<Place> = changed.collect();
        if news.left.is_empty() {
            return stale;
        }
        let is_left = |path: &Path| path.ancestors().any(|above| news.left.contains(above));
        let left: Vec<_> = self.known.keys().filter(|path| is_left(path)).cloned().collect();
        for path in left {
            stale.extend(self.place(&path));
            self.forget(&path);
        }
        stale
    }

    pub(super) fn place(&self, path: &Path) -> Option<Place> {
        self.known.get(path).map(|known| known.place.clone())
    }

    /// Writes follow each other closely: the next tick asks for more.
    pub(super) fn hot(&mut self, path: &Arc<Path>) {
        if let Some(known) = self.known.get_mut(path)
            && known.turn == Turn::Awaited
        {
            known.turn = Turn::Hot(0);
            self.await_tick(path);
        }
    }

    fn await_tick(&mut self, path: &Arc<Path>) {
        if self.busy.is_empty() {
            self.ticked = Instant::now();
        }
        self.busy.insert(Arc::clone(path));
    }

    /// When the busy directories are to be looked at; `None` if there are none.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        let count = u32::try_from(self.busy.len()).unwrap_or(u32::MAX);
        let tick = TICK.saturating_add(TICK_PER_DIRECTORY.saturating_mul(count));
        (count > 0).then(|| self.ticked + tick)
    }

    /// The busy directories, if it's time to look at them. [`Self::ticked`] has to follow for each.
    pub(super) fn due(&mut self, now: Instant) -> HashSet<Arc<Path>> {
        if self.next_tick().is_none_or(|tick| tick > now) {
            return HashSet::new();
        }
        self.ticked = now;
        std::mem::take(&mut self.busy)
    }

    /// Whether a directory that is due has to be looked at.
    pub(super) fn wants_look(&self, path: &Path) -> bool {
        match self.known.get(path).map(|known| known.turn) {
            Some(Turn::Hot(_)) => self.hints.again(path),
            Some(Turn::Looked(_)) => true,
            Some(Turn::Awaited) | None => false,
        }
    }

    /// Takes in what became of a directory that was due: whether a look was
    /// [wanted](Self::wants_look), and whether it found that files have grown. Returns its place if
    /// it's to be watched again, which its scan does.
    pub(super) fn ticked(&mut self, path: &Arc<Path>, wanted: bool, grown: bool) -> Option<Place> {
        let Known { place, turn } = self.known.get_mut(path)?;
        let written = match turn {
            // An earlier look may have seen the growth. The hints tell of no write until they are
            // asked and there was none, so that this has to be asked once more.
            Turn::Hot(_) => wanted,
            Turn::Awaited | Turn::Looked(_) => grown,
        };
        let before = std::mem::replace(turn, turn.next(written));
        let (after, place) = (*turn, place.clone());
        if after != Turn::Awaited {
            self.await_tick(path);
        }
        match (before, after) {
            (Turn::Hot(_), Turn::Looked(_)) => {
                self.hints.forget(path);
                if let Some(notify) = &mut self.notify {
                    // Fails only if the directory is gone, which is told separately.
                    notify.unwatch(path).ok();
                }
                None
            }
            (Turn::Looked(_), Turn::Awaited) => Some(place),
            _ => None,
        }
    }
}
