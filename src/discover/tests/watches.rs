//! The thread with watches that are taken away, refused or looked upon, and trees that change.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};

use notify::event::{Flag, ModifyKind, RenameMode};
use notify::{
    Config, Error, ErrorKind, Event, EventHandler, EventKind, RecursiveMode, WatcherKind,
};

use super::*;
use crate::discover::hints::Hints;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Watch(PathBuf),
    Unwatch(PathBuf),
}

/// Asked before each call; an error is given back without the call.
type Before = Arc<dyn Fn(&Call) -> notify::Result<()> + Send + Sync>;

struct Asking {
    before: Before,
    inner: Box<dyn notify::Watcher>,
}

impl notify::Watcher for Asking {
    fn new<F: EventHandler>(_: F, _: Config) -> notify::Result<Self> {
        Err(Error::generic("is put together by hand"))
    }

    fn watch(&mut self, path: &Path, mode: RecursiveMode) -> notify::Result<()> {
        (self.before)(&Call::Watch(path.to_owned()))?;
        self.inner.watch(path, mode)
    }

    fn unwatch(&mut self, path: &Path) -> notify::Result<()> {
        (self.before)(&Call::Unwatch(path.to_owned()))?;
        self.inner.unwatch(path)
    }

    fn kind() -> WatcherKind {
        WatcherKind::NullWatcher
    }
}

fn asking(before: impl Fn(&Call) -> notify::Result<()> + Send + Sync + 'static) -> Box<Open> {
    let before: Before = Arc::new(before);
    Box::new(move |hints| {
        let inner = recommended(hints)?;
        Ok(Box::new(Asking { before: Arc::clone(&before), inner }))
    })
}

fn started(open: Box<Open>, tree: &Tree) -> (Discovery, Receiver<Found>) {
    let (sender, reports) = sync_channel(1 << 16);
    let report = move |found| sender.send(found).unwrap();
    let discovery = start_with(open, &tree.logs(), None, report).unwrap();
    wait_for(&reports, |found| matches!(found, Found::Scanned { .. }));
    (discovery, reports)
}

/// Waits until the one file at `path` is reported, which may be before it has grown.
fn wait_for_file(reports: &Receiver<Found>, path: &Path) -> StreamName {
    let inode = fs::metadata(path).unwrap().ino();
    let found = wait_for(reports, |found| {
        matches!(found, Found::Stream { files, .. } if files.len() == 1
            && files[0].path == path && files[0].inode == inode)
    });
    let Found::Stream { name, .. } = found else { unreachable!() };
    name
}

/// Waits until the live file of the first run is reported with so many bytes.
fn wait_for_size(reports: &Receiver<Found>, bytes: u64) {
    wait_for(reports, |found| {
        matches!(found, Found::Stream { name, files, .. } if name.restart == 0
            && files.len() == 1 && files[0].size == bytes)
    });
}

/// Watches nothing, and hands over what takes the events, for a test to make them.
fn by_hand(
    before: impl Fn(&Call) -> notify::Result<()> + Send + Sync + 'static,
) -> (Box<Open>, Receiver<Hints>) {
    let before: Before = Arc::new(before);
    let (give, handlers) = sync_channel(1);
    let open: Box<Open> = Box::new(move |hints| {
        give.send(hints).unwrap();
        let inner = Box::new(notify::NullWatcher);
        Ok(Box::new(Asking { before: Arc::clone(&before), inner }))
    });
    (open, handlers)
}

const LIVE: &str = "pods/a_b_c/main/0.log";

#[test]
fn what_comes_while_a_watch_is_added_is_seen() {
    let tree = Tree::new();
    fs::create_dir_all(tree.path("pods/a_b_c/main")).unwrap();
    let live = tree.path(LIVE);
    let open = asking(move |call| {
        if *call == Call::Watch(live.parent().unwrap().to_owned()) {
            fs::write(&live, "x").unwrap();
        }
        Ok(())
    });
    let (sender, reports) = sync_channel(1 << 16);
    let _running = start_with(open, &tree.logs(), None, move |found| sender.send(found).unwrap());
    let first = reports.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(matches!(first, Found::Stream { .. }), "{first:?}");
}

#[test]
fn lost_events_make_everything_be_scanned() {
    let tree = Tree::new();
    let (open, handlers) = by_hand(|_| Ok(()));
    let (_running, reports) = started(open, &tree);
    let mut handler = handlers.recv().unwrap();
    for size in 1..4 {
        tree.write(LIVE, "x");
        handler.handle_event(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)));
        wait_for_size(&reports, size);
        wait_for(&reports, |found| *found == Found::Scanned { complete: true });
    }
}

#[test]
fn without_watches_scans_find_it() {
    let check = |open: Box<Open>| {
        let tree = Tree::new();
        tree.write(LIVE, "x");
        let (running, reports) = started(open, &tree);
        for size in 2..5 {
            tree.write(LIVE, "x");
            tree.write(&format!("pods/a_b_c/main/{size}.log"), "new");
            running.rescan_now();
            wait_for(&reports, |found| *found == Found::Scanned { complete: true });
        }
        tree.write(LIVE, "last");
        running.rescan_now();
        wait_for_size(&reports, 8);
        fs::remove_dir_all(tree.path("pods/a_b_c")).unwrap();
        running.rescan_now();
        wait_for(&reports, |found| matches!(found, Found::Gone(_)));
    };
    check(Box::new(|_| Err(Error::io(io::Error::from_raw_os_error(24)))));
    for limit in 0..3 {
        let given = Mutex::new(0);
        check(asking(move |call| {
            let mut given = given.lock().unwrap();
            *given += u32::from(matches!(call, Call::Watch(_)));
            if *given > limit { Err(Error::new(ErrorKind::MaxFilesWatch)) } else { Ok(()) }
        }));
    }
}

#[test]
fn a_busy_directory_is_looked_at_until_it_is_quiet() {
    let tree = Tree::new();
    tree.write(LIVE, "x");
    let (say, calls) = sync_channel(1 << 16);
    let say = Mutex::new(say);
    let container = tree.path("pods/a_b_c/main");
    let of_container = container.clone();
    let open = asking(move |call| {
        if let Call::Watch(path) | Call::Unwatch(path) = call
            && *path == of_container
        {
            say.lock().unwrap().send(call.clone()).unwrap();
        }
        Ok(())
    });
    let (_running, reports) = started(open, &tree);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !calls.try_iter().any(|call| call == Call::Unwatch(container.clone())) {
        assert!(Instant::now() < deadline, "events of a busy directory go on");
        tree.write(LIVE, "y");
        reports.recv_timeout(Duration::from_millis(1)).ok();
    }
    let is_new = |found: &Found| matches!(found, Found::Stream { name, .. } if name.restart == 1);
    tree.write("pods/a_b_c/main/1.log", "new");
    wait_for(&reports, is_new);
    while calls.recv_timeout(Duration::from_secs(20)).unwrap() != Call::Watch(container.clone()) {}
    tree.write("pods/a_b_c/main/1.log", "more");
    wait_for(&reports, |found| {
        is_new(found) || matches!(found, Found::Written(name) if name.restart == 1)
    });
}

#[test]
fn what_was_left_is_watched_again_if_it_is_there() {
    let mut tree = Tree::new();
    tree.write(LIVE, "x");
    tree.age();
    let (say, calls) = sync_channel(1 << 16);
    let (open, handlers) = by_hand(move |call| {
        say.send(call.clone()).unwrap();
        Ok(())
    });
    let (_running, _reports) = started(open, &tree);
    assert_eq!(calls.try_iter().count(), 3);
    let renamed = EventKind::Modify(ModifyKind::Name(RenameMode::From));
    let event = Event::new(renamed).add_path(tree.path("pods/a_b_c"));
    handlers.recv().unwrap().handle_event(Ok(event));
    for again in ["pods", "pods/a_b_c", "pods/a_b_c/main"] {
        let call = calls.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(call, Call::Watch(tree.path(again)));
    }
}

#[test]
fn what_was_gone_for_a_moment_is_watched_when_it_is_back() {
    for away in ["pods/a_b_c", "pods/a_b_c/main"] {
        let mut tree = Tree::new();
        tree.write(LIVE, "x");
        tree.age();
        let away = tree.path(away);
        let (say, calls) = sync_channel(1 << 16);
        let watch = Call::Watch(away.clone());
        let (asked, is_back) = (watch.clone(), AtomicBool::new(false));
        let (open, handlers) = by_hand(move |call| {
            say.send(call.clone()).unwrap();
            let is_there = *call != asked || is_back.swap(true, Relaxed);
            if is_there { Ok(()) } else { Err(Error::path_not_found()) }
        });
        let (_running, _reports) = started(open, &tree);
        assert_eq!(calls.try_iter().filter(|call| *call == watch).count(), 1);
        let renamed = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        handlers.recv().unwrap().handle_event(Ok(Event::new(renamed).add_path(away)));
        let next = || calls.recv_timeout(Duration::from_secs(20)).expect("is not watched again");
        while next() != watch {}
    }
}

#[test]
fn directories_that_go_and_come_again_are_watched_again() {
    let tree = Tree::new();
    tree.write(LIVE, "x");
    let (_running, reports) = started(Box::new(recommended), &tree);
    let (pod, away) = (tree.path("pods/a_b_c"), tree.path("away"));
    for _ in 0..5 {
        fs::rename(&pod, &away).unwrap();
        let gone = wait_for(&reports, |found| matches!(found, Found::Gone(_)));
        fs::rename(&away, &pod).unwrap();
        let back = wait_for(&reports, |found| matches!(found, Found::Stream { .. }));
        let (Found::Gone(gone), Found::Stream { name, .. }) = (gone, back) else { unreachable!() };
        assert_eq!(gone, name);
    }
    // A rename there and back at once: nothing need be reported, but watches are lost.
    for _ in 0..50 {
        fs::rename(&pod, &away).unwrap();
        fs::rename(&away, &pod).unwrap();
    }
    fs::remove_dir_all(&pod).unwrap();
    tree.write(LIVE, "another");
    let name = wait_for_file(&reports, &tree.path(LIVE));
    tree.write("pods/a_b_c/main/1.log", "new");
    wait_for_file(&reports, &tree.path("pods/a_b_c/main/1.log"));
    // By itself, or as what a scan finds that old events have asked for.
    for bytes in 8..11 {
        tree.write(LIVE, "+");
        wait_for(&reports, |found| match found {
            Found::Written(written) => *written == name,
            Found::Stream { files, .. } => files[0].size == bytes,
            _ => false,
        });
    }
}

#[test]
fn a_root_that_comes_late_or_again_is_watched() {
    let tree = Tree::new();
    let root = tree.path("pods");
    fs::remove_dir(&root).unwrap();
    let (running, reports) = started(Box::new(recommended), &tree);
    for _ in 0..3 {
        fs::create_dir(&root).unwrap();
        running.rescan_now();
        wait_for(&reports, |found| *found == Found::Scanned { complete: true });
        tree.write(LIVE, "x");
        wait_for_file(&reports, &tree.path(LIVE));
        fs::remove_dir_all(&root).unwrap();
        running.rescan_now();
        wait_for(&reports, |found| *found == Found::Scanned { complete: false });
    }
}
