//! Who waits for the disk, and what they are told.

use std::sync::mpsc::{Receiver, sync_channel};

use super::*;
use crate::checkpoint::Key;
use crate::checkpoint::platter::{Image, Op, Platter, entry};

fn key(stream: &str) -> Key {
    Key { pipeline: "p".to_owned(), stream: stream.to_owned() }
}

pub(in crate::checkpoint) fn put(stream: &str, offset: u64) -> Vec<Change> {
    vec![Change::Put(key(stream), Box::new(entry(offset)))]
}

/// Asks for a save; what it was answered can be received.
pub(in crate::checkpoint) fn ask(saver: &Saver, changes: Vec<Change>) -> Receiver<bool> {
    let (reply, answered) = sync_channel(1);
    saver.save_then(changes, move |safe| reply.send(safe).expect("waited for"));
    answered
}

fn start(platter: &Platter) -> (Saver, JoinHandle<bool>) {
    Saver::start(platter.open().expect("readable"), || ()).expect("started")
}

fn renames(platter: &Platter) -> usize {
    platter.ops().iter().filter(|op| matches!(op, Op::Rename { .. })).count()
}

#[test]
fn nobody_waits_for_a_disk_that_hangs_and_all_that_came_is_one_write() {
    let platter = Platter::new(&Image::new());
    platter.hang(true);
    let (saver, thread) = start(&platter);
    platter.wait_until_it_hangs();
    let replies: Vec<_> = (0..10_000)
        .map(|n| {
            saver.save(put(&format!("s{}", n % 7), n));
            ask(&saver, put("one", n))
        })
        .collect();
    let waiting = saver.handle.inbox.waiting();
    assert_eq!(waiting.changes.entries.len(), 8, "no more than there are streams");
    assert!(replies.iter().all(|reply| reply.try_recv().is_err()), "nothing is safe yet");
    drop(waiting);
    platter.hang(false);
    assert!(replies.iter().all(|reply| reply.recv().expect("answered")));
    assert_eq!(renames(&platter), 2, "the first write, and one for all");
    drop(saver);
    assert!(thread.join().expect("ended"));
    let store = platter.open().expect("readable");
    let offsets: Vec<u64> = store.checkpoint().values().map(|e| e.reached[0].offset).collect();
    assert_eq!(offsets, [9999, 9996, 9997, 9998, 9999, 9993, 9994, 9995]);
}

#[test]
fn a_reply_tells_of_a_write_that_has_its_changes() {
    let platter = Platter::new(&Image::new());
    let (saver, thread) = start(&platter);
    assert!(ask(&saver, put("a", 1)).recv().expect("answered"));
    platter.fail_in(0);
    assert!(!ask(&saver, put("a", 2)).recv().expect("answered"));
    assert!(ask(&saver, Vec::new()).recv().expect("answered"), "what failed is tried again");
    drop(saver);
    assert!(thread.join().expect("ended"));
    let store = platter.open().expect("readable");
    assert_eq!(store.checkpoint().first_key_value().expect("one").1.reached[0].offset, 2);
}

#[test]
fn a_save_that_failed_is_tried_again_though_nothing_else_comes() {
    let platter = Platter::new(&Image::new());
    let store = platter.open().expect("readable");
    let (written, seen) = sync_channel(1);
    // Whether it is full or nobody listens: they have been told.
    let saved = move || written.try_send(()).unwrap_or_default();
    let (saver, thread) = Saver::start(store, saved).expect("started");
    assert!(ask(&saver, Vec::new()).recv().expect("answered"));
    platter.fail_in(0);
    assert!(!ask(&saver, put("a", 1)).recv().expect("answered"));
    let is_there = || platter.open().expect("readable").checkpoint().contains_key(&key("a"));
    let wait = || seen.recv_timeout(Duration::from_secs(30)).expect("tried again");
    for _ in 0..5 {
        if !is_there() {
            wait();
        }
    }
    assert!(is_there(), "it is said to be saved");
    drop(saver);
    assert!(thread.join().expect("ended"));
}

#[test]
fn who_saves_when_the_thread_has_gone_is_told() {
    let platter = Platter::new(&Image::new());
    let (saver, thread) = start(&platter);
    drop(Taker(Arc::clone(&saver.handle.inbox)));
    assert!(!ask(&saver, put("a", 1)).recv().expect("answered"));
    drop(saver);
    assert!(thread.join().expect("ended"));
}

#[test]
fn only_the_very_first_start_is_the_first() {
    let platter = Platter::new(&Image::new());
    let store = platter.open().expect("readable");
    assert!(store.is_new());
    let (saver, thread) = Saver::start(store, || ()).expect("started");
    drop(saver);
    assert!(thread.join().expect("ended"));
    assert!(!platter.open().expect("readable").is_new());
}
