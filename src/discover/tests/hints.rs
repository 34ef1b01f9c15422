//! What events come to, without a kernel.

use std::path::Path;

use notify::event::{CreateKind, DataChange, Flag, ModifyKind, RemoveKind, RenameMode};
use notify::{Event, EventHandler, EventKind};

use super::*;
use crate::discover::hints::{Hints, News};
use crate::discover::watcher::{TICK, Turn, Watcher};

const WRITE: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));

fn signal() -> Arc<Signal> {
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    Arc::new(Signal { wake, stop: AtomicBool::new(false), rescan: AtomicBool::new(false) })
}

/// What a pod and its container, both known, are said to have gone through when these events come
/// at one moment.
fn check(events: &[(EventKind, &str)], expected: &News) -> Hints {
    let (hints, now) = (Hints::new(signal()), Instant::now());
    for known in ["/pods/a", "/pods/a/main"] {
        hints.know(&Arc::from(Path::new(known)));
    }
    for (kind, path) in events {
        hints.take_in(&Ok(Event::new(*kind).add_path(path.into())), now);
    }
    assert_eq!(&hints.take(), expected, "{events:?}");
    assert_eq!(hints.take(), News::default());
    hints
}

fn paths<T: FromIterator<Arc<Path>>>(paths: &[&str]) -> T {
    paths.iter().map(|path| Arc::from(Path::new(path))).collect()
}

#[test]
fn writes_are_told_once_and_then_make_hot() {
    let log = (WRITE, "/pods/a/main/0.log");
    let other = (WRITE, "/pods/a/main/1.log");
    let written = || paths(&["/pods/a/main"]);
    check(&[log], &News { written: written(), ..News::default() });
    let hot = News { written: written(), hot: written(), ..News::default() };
    let hints = check(&[log, other, log, log], &hot);
    let main = Path::new("/pods/a/main");
    assert_eq!([hints.again(main), hints.again(main), hints.again(main)], [true, false, false]);
    check(&[(WRITE, "/pods/b/main/0.log")], &News::default());
}

#[test]
fn writes_that_are_a_tick_apart_are_told_each() {
    let (hints, now) = (Hints::new(signal()), Instant::now());
    hints.know(&Arc::from(Path::new("/pods/a/main")));
    for tick in 0..5 {
        let write = Ok(Event::new(WRITE).add_path("/pods/a/main/0.log".into()));
        hints.take_in(&write, now + (TICK + Duration::from_nanos(1)) * tick);
        assert_eq!(hints.take(), News { written: paths(&["/pods/a/main"]), ..News::default() });
    }
}

#[test]
fn writes_wake_once_and_not_who_comes_anyway() {
    let (hints, mut now) = (Hints::new(signal()), Instant::now());
    for known in ["/a", "/b"] {
        hints.know(&Arc::from(Path::new(known)));
    }
    let mut event = |kind, path: &str| {
        now += TICK * 2;
        hints.take_in(&Ok(Event::new(kind).add_path(path.into())), now)
    };
    let create = EventKind::Create(CreateKind::File);
    assert_eq!([event(WRITE, "/a/log"), event(WRITE, "/b/log")], [true, false], "woken already");
    assert!(hints.take().has_writes());
    assert!(!event(WRITE, "/a/log"), "comes by itself");
    assert_eq!([event(create, "/a/log"), event(create, "/b/log")], [true, false]);
    assert!(hints.take().has_writes());
    assert_eq!(hints.take(), News::default());
    assert!(event(WRITE, "/a/log"), "found nothing, and comes no more");
}

#[test]
fn names_that_come_and_go_change_their_directory() {
    let main = "/pods/a/main";
    let log = "/pods/a/main/0.log";
    let changed = |changed: &[&str], left: &[&str]| News {
        changed: paths(changed),
        left: paths(left),
        ..News::default()
    };
    let renamed = |mode| EventKind::Modify(ModifyKind::Name(mode));
    let remove = EventKind::Remove(RemoveKind::Any);
    check(&[(EventKind::Create(CreateKind::File), log)], &changed(&[main], &[]));
    check(&[(remove, log)], &changed(&[main], &[]));
    check(&[(renamed(RenameMode::From), log)], &changed(&[main], &[]));
    check(&[(renamed(RenameMode::To), log)], &changed(&[main], &[]));
    check(&[(renamed(RenameMode::Both), log)], &News::default());
    check(&[(remove, main)], &changed(&["/pods/a"], &[main]));
    check(&[(renamed(RenameMode::From), main)], &changed(&["/pods/a"], &[main]));
    check(&[(remove, "/pods/a")], &changed(&[], &["/pods/a"]));
    let open = EventKind::Access(notify::event::AccessKind::Any);
    check(&[(open, log)], &News::default());
}

#[test]
fn a_full_queue_and_an_error_are_losses() {
    let lost = News { lost: true, ..News::default() };
    let mut hints = Hints::new(signal());
    hints.handle_event(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)));
    assert_eq!(hints.take(), lost);
    hints.handle_event(Err(notify::Error::generic("read")));
    assert_eq!(hints.take(), lost);
}

#[test]
fn a_storm_keeps_no_more_than_there_are_directories() {
    let names: Vec<_> = (0..1000).map(|number| format!("/pods/a/main/0.log.{number}")).collect();
    let remove = EventKind::Remove(RemoveKind::File);
    let events: Vec<_> = names.iter().map(|name| (remove, name.as_str())).collect();
    check(&events, &News { changed: paths(&["/pods/a/main"]), ..News::default() });
}

#[test]
fn turns() {
    let check = |start: Turn, ticks: &[bool], expected: Turn| {
        let end = ticks.iter().fold(start, |turn, written| turn.next(*written));
        assert_eq!(end, expected, "{start:?} {ticks:?}");
    };
    check(Turn::Awaited, &[true, false], Turn::Awaited);
    check(Turn::Hot(0), &[false], Turn::Awaited);
    check(Turn::Hot(0), &[true; 7], Turn::Hot(7));
    check(Turn::Hot(0), &[true; 8], Turn::Looked(0));
    check(Turn::Looked(0), &[false; 9], Turn::Looked(9));
    check(Turn::Looked(9), &[true], Turn::Looked(0));
    check(Turn::Looked(0), &[false; 10], Turn::Awaited);
}

/// What a directory goes through, and what discovery's thread does about it.
#[derive(Debug, Clone)]
enum Step {
    Write,
    /// What is new is taken; a write that was told is looked at.
    Take,
    /// Directories that are due are looked at.
    Tick,
    Wait,
}

proptest! {
    /// Once a directory is quiet its next write is told, whichever look had seen the ones before.
    #[test]
    fn after_any_writes_the_next_one_is_told(
        steps in prop::collection::vec(
            prop_oneof![4 => Just(Step::Write), 1 => Just(Step::Take), 1 => Just(Step::Tick), 1 => Just(Step::Wait)],
            0..60,
        ),
    ) {
        let (hints, mut now) = (Hints::new(signal()), Instant::now());
        let mut watcher = Watcher::new(Box::new(|_| Ok(Box::new(notify::NullWatcher))), hints.clone());
        let main: Arc<Path> = Path::new("/pods/a/main").into();
        watcher.watch(&main, &Place::Root);
        let write = Ok(Event::new(WRITE).add_path("/pods/a/main/0.log".into()));
        let mut grown = false;
        let quiet = [Step::Take, Step::Tick, Step::Wait].into_iter().cycle().take(3 * 20);
        for step in steps.into_iter().chain(quiet) {
            match step {
                Step::Write => {
                    hints.take_in(&write, now);
                    grown = true;
                }
                Step::Take => {
                    let news = hints.take();
                    grown &= news.written.is_empty();
                    news.hot.iter().for_each(|path| watcher.hot(path));
                }
                // Far enough ahead for any tick to be over.
                Step::Tick => for path in watcher.due(now + Duration::from_secs(3600)) {
                    let wanted = watcher.wants_look(&path);
                    let grown = wanted && std::mem::take(&mut grown);
                    if let Some(place) = watcher.ticked(&path, wanted, grown) {
                        watcher.watch(&path, &place);
                    }
                }
                Step::Wait => now += TICK * 2,
            }
        }
        prop_assert_eq!(watcher.next_tick(), None);
        hints.take_in(&write, now);
        prop_assert_eq!(hints.take().written, vec![main]);
    }
}
