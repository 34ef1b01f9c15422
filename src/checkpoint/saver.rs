//! Saves changes on a thread of its own, so that a slow disk holds up nobody.
//!
//! Changes wait in one place where later ones replace earlier ones of the same reader or pod: all
//! that came while the disk was busy is one write, and whoever saves never waits for the disk,
//! however long it hangs. A reply comes after a write that has tried its changes.
//!
//! A disk that is full, read-only or gone is said once a minute and tried again every second;
//! until then nothing new is safe on disk. The directory is looked after even when there is
//! nothing to write. Does not decide what is safe, and knows no wall clock.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::store::{Change, Changes, Store};
use crate::telemetry::throttle;

const RETRY: Duration = Duration::from_secs(1);

/// What happens once a save has been tried: whether it is on disk.
type Reply = Box<dyn FnOnce(bool) + Send>;

/// Hands changes to the thread that writes them.
#[derive(Debug, Clone)]
pub struct Saver {
    handle: Arc<Handle>,
}

/// Closes the inbox when the last [`Saver`] has gone.
#[derive(Debug)]
struct Handle {
    inbox: Arc<Inbox>,
}

#[derive(Debug, Default)]
struct Inbox {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

/// What the thread has not taken up yet.
#[derive(Default)]
struct Waiting {
    changes: Changes,
    replies: Vec<Reply>,
    /// Nothing will be added.
    closed: bool,
    /// Nothing will be taken.
    deserted: bool,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Waiting")
            .field("changes", &self.changes)
            .field("replies", &self.replies.len())
            .field("closed", &self.closed)
            .field("deserted", &self.deserted)
            .finish()
    }
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
        let inbox = Arc::new(Inbox::default());
        let taker = Taker(Arc::clone(&inbox));
        let thread = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || save_until_closed(store, &taker, &saved))?;
        Ok((Self { handle: Arc::new(Handle { inbox }) }, thread))
    }

    /// Puts `changes` into the checkpoint. Never waits for the disk.
    pub fn save(&self, changes: Vec<Change>) {
        self.add(changes, None);
    }

    /// The same, and says whether they are on disk.
    pub fn save_then(&self, changes: Vec<Change>, reply: impl FnOnce(bool) + Send + 'static) {
        self.add(changes, Some(Box::new(reply)));
    }

    fn add(&self, changes: Vec<Change>, reply: Option<Reply>) {
        let inbox = &self.handle.inbox;
        let mut waiting = inbox.waiting();
        if waiting.deserted {
            drop(waiting);
            return reply.into_iter().for_each(|reply| reply(false));
        }
        changes.into_iter().for_each(|change| waiting.changes.add(change));
        waiting.replies.extend(reply);
        inbox.changed.notify_one();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inbox.waiting().closed = true;
        self.inbox.changed.notify_one();
    }
}

impl Inbox {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_idle(&self) -> bool {
        self.changes.is_empty() && self.replies.is_empty() && !self.closed
    }
}

/// The thread's end of the inbox: whoever saves when it has gone gets an answer too.
struct Taker(Arc<Inbox>);

impl Taker {
    /// Takes all that waits, as soon as something does, but after [`RETRY`] in any case.
    fn take(&self) -> Waiting {
        let waiting = self.0.waiting();
        let mut waiting = (self.0.changed)
            .wait_timeout_while(waiting, RETRY, |waiting| waiting.is_idle())
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        let closed = waiting.closed;
        std::mem::replace(&mut *waiting, Waiting { closed, ..Waiting::default() })
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting();
        waiting.deserted = true;
        let replies = std::mem::take(&mut waiting.replies);
        drop(waiting);
        replies.into_iter().for_each(|reply| reply(false));
    }
}

fn save_until_closed(mut store: Store, inbox: &Taker, saved: &dyn Fn()) -> bool {
    write(&mut store);
    loop {
        let taken = inbox.take();
        store.apply(taken.changes);
        let safe = write(&mut store);
        if safe {
            saved();
        }
        for reply in taken.replies {
            reply(safe);
        }
        if taken.closed {
            return safe;
        }
    }
}

fn write(store: &mut Store) -> bool {
    match store.write() {
        Ok(()) => true,
        Err(error) => {
            if let Some(suppressed) = throttle::allow("checkpoint") {
                let error = anyhow::Error::from(error);
                tracing::error!(
                    suppressed,
                    "the checkpoint can't be written; it is tried again, and lines since the last one would be read again after a restart: {error:#}"
                );
            }
            false
        }
    }
}

#[cfg(test)]
#[path = "saver_tests.rs"]
pub(super) mod tests;
