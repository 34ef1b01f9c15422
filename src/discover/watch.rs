//! The thread of discovery: waits for the interval or for hints, and scans.
//!
//! Owns the order of things: a directory is watched before it is listed, so that what comes between
//! the two is seen twice and not never. Events are hints: a name that comes or goes brings its
//! directory's scan forward, a write to a live file is passed on, lost events (the kernel's queue
//! is full) make everything be scanned at once. Without watches the interval goes on alone.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::directory::{Depth, Place};
use super::hints::Hints;
use super::notice::{Cause, tell};
use super::scan::{Probe, Scanner};
use super::watcher::{Open, TICK, Watcher};
use super::{Found, Signal};

/// Runs until told to stop.
pub(super) fn run(
    scanner: Scanner,
    rescan: Duration,
    signal: &Arc<Signal>,
    open: Box<Open>,
    report: &dyn Fn(Found),
) {
    let hints = Hints::new(Arc::clone(signal));
    let watcher = Watcher::new(open, hints.clone());
    let mut discovery = Thread { scanner, watcher, hints, come_again: None, report };
    discovery.scan(Depth::Full);
    let mut next_scan = Instant::now() + rescan;
    loop {
        let moments = [discovery.watcher.next_tick(), discovery.come_again];
        wait(signal, moments.into_iter().flatten().fold(next_scan, Instant::min));
        if signal.stop.load(Ordering::Acquire) {
            return;
        }
        discovery.take_hints();
        discovery.tick(Instant::now());
        let asked = signal.rescan.swap(false, Ordering::AcqRel);
        let now = Instant::now();
        if asked || now >= next_scan {
            let depth = discovery.watcher.retry(now);
            discovery.scan(depth);
            next_scan = Instant::now() + rescan;
        }
    }
}

/// Waits for the signal or for the moment.
fn wait(signal: &Signal, until: Instant) {
    let left = until.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    let mut descriptors = [PollFd::new(&signal.wake, PollFlags::IN)];
    // An interrupted wait is a short one.
    if poll(&mut descriptors, Some(&left)).is_ok_and(|ready| ready > 0) {
        // Sets the counter to zero; what was meant is in the flags and hints.
        rustix::io::read(&signal.wake, &mut [0u8; 8]).ok();
    }
}

struct Thread<'a> {
    scanner: Scanner,
    watcher: Watcher,
    hints: Hints,
    /// When hints are taken without being woken for them.
    come_again: Option<Instant>,
    report: &'a dyn Fn(Found),
}

impl Thread<'_> {
    fn scan(&mut self, depth: Depth) {
        let Self { scanner, watcher, report, .. } = self;
        for found in scanner.scan(depth, &mut |path, place| watcher.watch(path, place)) {
            report(found);
        }
        self.say_refused();
    }

    fn scan_place(&mut self, place: &Place) {
        let Self { scanner, watcher, report, .. } = self;
        for found in scanner.scan_place(place, &mut |path, place| watcher.watch(path, place)) {
            report(found);
        }
        self.say_refused();
    }

    fn say_refused(&mut self) {
        if let Some((path, error)) = self.watcher.take_refused() {
            tell(Cause::Watch, &path, &error);
        }
    }

    fn take_hints(&mut self) {
        let news = self.hints.take();
        self.come_again = news.has_writes().then(|| Instant::now() + TICK);
        if news.lost {
            tell(Cause::Overflow, Path::new(""), &"the queue is full");
            self.watcher.forget_all();
            self.scan(Depth::Full);
        }
        for place in self.watcher.stale(&news) {
            self.scan_place(&place);
        }
        for path in &news.written {
            self.look(path);
        }
        for path in &news.hot {
            self.watcher.hot(path);
        }
    }

    /// Looks at the directories that are being written to, if it's time.
    fn tick(&mut self, now: Instant) {
        for path in self.watcher.due(now) {
            let wanted = self.watcher.wants_look(&path);
            let grown = wanted && self.look(&path);
            if let Some(place) = self.watcher.ticked(&path, wanted, grown) {
                self.scan_place(&place);
                // What came between the look and the watch has made no event.
                self.look(&path);
            }
        }
    }

    /// Whether a directory's files have grown since the last look, which is said if so.
    fn look(&mut self, path: &Path) -> bool {
        let Some(place) = self.watcher.place(path) else { return false };
        match self.scanner.probe(&place) {
            Probe::Quiet => false,
            Probe::Written(names) => {
                names.into_iter().for_each(|name| (self.report)(Found::Written(name)));
                true
            }
            Probe::Changed => {
                self.scan_place(&place);
                true
            }
        }
    }
}
