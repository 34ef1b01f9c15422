//! What `notify`'s thread leaves for discovery's: which directories were written to or changed.
//!
//! Owns the meaning of events. They are reduced to marks on directories that are known, so that
//! however many come, no more is kept than there are directories. A lone write is told at once. One
//! that follows within a tick makes its directory hot: from then on writes only mark it, and wake
//! nobody, until it's asked about ([`Hints::again`]) and there was none. Writes wake discovery's
//! thread at most once a tick, however many directories they are in: who has taken some comes again
//! a tick later by itself. What is said here may be late, doubled or wrong: the scan is the truth.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use notify::event::{ModifyKind, RenameMode};
use notify::{Event, EventHandler, EventKind};

use super::Signal;
use super::watcher::TICK;

/// Shared between the two threads. Nobody waits while holding it.
#[derive(Debug, Clone)]
pub(super) struct Hints {
    state: Arc<Mutex<State>>,
    signal: Arc<Signal>,
}

#[derive(Debug, Default)]
struct State {
    marks: HashMap<Arc<Path>, Mark>,
    news: News,
    /// Discovery's thread has been woken for this news.
    woken: bool,
    /// It comes for writes by itself.
    comes: bool,
}

/// What has happened since it was taken last.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Events were lost: anything may have happened.
    pub(super) lost: bool,
    /// Written to.
    pub(super) written: Vec<Arc<Path>>,
    /// Written to once more within a tick, and not told again until asked about.
    pub(super) hot: Vec<Arc<Path>>,
    /// Names have come or gone here.
    pub(super) changed: HashSet<Arc<Path>>,
    /// These directories have been deleted or have another name, or had for a moment. `notify` has
    /// dropped its watches on them and beneath.
    pub(super) left: HashSet<Arc<Path>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// The next write is told, if the last one was more than a tick ago.
    Awaited {
        told: Option<Instant>,
    },
    Hot,
    /// Hot, and written to since it was asked about.
    Again,
}

impl Hints {
    pub(super) fn new(signal: Arc<Signal>) -> Self {
        Self { state: Arc::default(), signal }
    }

    /// Events of this directory count from now on.
    pub(super) fn know(&self, path: &Arc<Path>) {
        self.lock().marks.entry(Arc::clone(path)).or_insert(Mark::Awaited { told: None });
    }

    pub(super) fn forget(&self, path: &Path) {
        self.lock().marks.remove(path);
    }

    /// Whether a hot directory has been written to since this was asked last. If not, it's hot no
    /// more.
    pub(super) fn again(&self, path: &Path) -> bool {
        let mut state = self.lock();
        let Some(mark) = state.marks.get_mut(path) else { return false };
        let again = *mark == Mark::Again;
        *mark = if again { Mark::Hot } else { Mark::Awaited { told: None } };
        again
    }

    /// Takes over what an event says that has come now. Returns whether that was worth waking.
    pub(super) fn take_in(&self, event: &notify::Result<Event>, now: Instant) -> bool {
        let wakes = self.lock().take_in(event, now);
        if wakes {
            self.signal.wake();
        }
        wakes
    }

    /// What is new. If that's writes ([`News::has_writes`]), the caller has to ask again a tick
    /// later: it isn't woken for others until then.
    pub(super) fn take(&self) -> News {
        let mut state = self.lock();
        let news = std::mem::take(&mut state.news);
        state.woken = false;
        state.comes = news.has_writes();
        news
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventHandler for Hints {
    fn handle_event(&mut self, event: notify::Result<Event>) {
        self.take_in(&event, Instant::now());
    }
}

impl State {
    /// Whether somebody has to be woken for what is new.
    fn take_in(&mut self, event: &notify::Result<Event>, now: Instant) -> bool {
        match event {
            Ok(event) if !event.need_rescan() => match event.kind {
                EventKind::Modify(ModifyKind::Data(_)) => self.written(event, now),
                // From and to have been told each for itself.
                EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => {}
                EventKind::Create(_) => self.changed(event, false),
                EventKind::Modify(ModifyKind::Name(RenameMode::To)) => self.changed(event, false),
                EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
                    self.changed(event, true);
                }
                _ => {}
            },
            _ => self.news.lost = true,
        }
        let news = &self.news;
        let urgent = news.lost || !news.changed.is_empty() || !news.left.is_empty();
        let wakes = !self.woken && (urgent || (!self.comes && news.has_writes()));
        self.woken |= wakes;
        wakes
    }

    fn written(&mut self, event: &Event, now: Instant) {
        let Some(parent) = event.paths.first().and_then(|path| path.parent()) else { return };
        let Some(mark) = self.marks.get_mut(parent) else { return };
        if let Mark::Awaited { told } = mark {
            if told.is_none_or(|told| now.duration_since(told) > TICK) {
                *told = Some(now);
                self.news.written.push(parent.into());
                return;
            }
            self.news.hot.push(parent.into());
        }
        *mark = Mark::Again;
    }

    fn changed(&mut self, event: &Event, gone: bool) {
        let Some(path) = event.paths.first() else { return };
        let known = |path: &Path| self.marks.get_key_value(path).map(|(path, _)| Arc::clone(path));
        self.news.changed.extend(path.parent().and_then(known));
        if gone {
            self.news.left.extend(known(path));
        }
    }
}

impl News {
    pub(super) fn has_writes(&self) -> bool {
        !self.written.is_empty() || !self.hot.is_empty()
    }
}
