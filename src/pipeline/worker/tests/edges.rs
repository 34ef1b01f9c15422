//! What happens when two things coincide: an end and a save, a shutdown and an open record, a limit
//! and what is in flight.

use super::*;
use crate::tail::PartId;

/// A record that waits for its next line, and a cut for it that is on its way to the disk.
fn asks_for_a_cut(node: &mut Node) {
    node.start();
    node.line("begins: java.lang.Exception");
    node.scan();
    node.settle(0);
    node.now += Duration::from_secs(10);
    let later = node.now;
    node.worker().pass_time(later);
    node.worker().work();
    node.worker().pass_time(later + Duration::from_secs(1));
    assert!(!node.worker().asked.is_empty());
}

#[test]
fn a_stream_that_goes_while_a_cut_is_saved_is_read_to_its_end() {
    let mut node = Node::new();
    asks_for_a_cut(&mut node);
    fs::remove_file(node.path("0.log")).expect("removed");
    // The disk has not answered yet.
    node.worker().gone(&Node::stream(0));
    node.worker().work();
    node.finish();
    node.check();
    assert!(node.worker().streams.is_empty());
}

#[test]
fn a_cut_that_is_not_saved_is_none_for_the_pipelines_that_follow() {
    let mut node = Node::new();
    asks_for_a_cut(&mut node);
    let (outputs, receivers) = node.outputs();
    let pipelines = node.pipelines.clone();
    let budget = Budget::new(node.agent.memory_budget_bytes, 1);
    node.worker().pause();
    node.worker().switch(Pipelines { pipelines, outputs, budget });
    node.running.as_mut().expect("it runs").outputs = receivers;
    let stream = node.worker().streams.values_mut().next().expect("there");
    let reading = stream.places[0].reading().expect("it is read");
    assert_eq!(reading.reader.cuts, []);
    node.finish();
    node.check();
}

#[test]
fn an_open_record_leaves_a_draining_worker_nothing_to_do() {
    let mut node = Node::new();
    node.start();
    node.line("one");
    node.line("begins: java.lang.Exception");
    node.scan();
    node.settle(2);
    node.worker().setup.inbox.command(Command::Drain);
    node.settle(1);
    assert!(!node.worker().waiting.is_empty() && !node.sent.is_empty());
    let now = node.now;
    assert!(!node.worker().patience(now).is_zero(), "it would spin");
}

const STAMP: &str = "20261123-210700";

/// A compressed part of 400 lines of one length and a live file; nothing is answered.
fn compressed(node: &mut Node) -> u64 {
    for n in 100..500 {
        node.line(&format!("line {n} of those that are to be compressed"));
    }
    node.rotate(STAMP);
    let bytes = node.path(&format!("0.log.{STAMP}")).metadata().expect("there").len();
    node.gzip(&format!("0.log.{STAMP}"));
    node.line("behind");
    node.start();
    node.scan();
    node.settle(2);
    bytes
}

#[test]
fn a_compressed_part_of_which_little_is_missing_is_copied_whole() {
    let mut node = Node::new();
    compressed(&mut node);
    for _ in 0..100 {
        node.settle(5);
        if node.sent.len() > 2 {
            node.answer(0);
        }
    }
    assert!((300..400).contains(&node.index.len()), "all but the end of it is safe");
    fs::remove_file(node.path(&format!("0.log.{STAMP}.gz"))).expect("removed");
    node.scan();
    node.settle(0);
    end(&mut node);
    node.start();
    node.scan();
    node.finish();
    assert_eq!(node.worker().bytes_lost, 0);
    node.check();
}

#[test]
fn what_is_not_read_of_a_compressed_part_that_is_given_up_is_counted() {
    let mut node = Node::new();
    Arc::get_mut(&mut node.agent).expect("nobody else has it").held.max_files = 0;
    let bytes = compressed(&mut node);
    fs::remove_file(node.path(&format!("0.log.{STAMP}.gz"))).expect("removed");
    node.scan();
    node.settle(2);
    assert!(node.worker().bytes_lost > 0);
    node.finish();
    let read = node.index.values().flatten().filter(|line| *line != "behind").count() as u64;
    assert!((1..400).contains(&read));
    assert_eq!(node.worker().bytes_lost, bytes / 400 * (400 - read));
}

#[test]
fn copies_that_were_read_leave_room_for_others() {
    let mut node = Node::new();
    Arc::get_mut(&mut node.agent).expect("nobody else has it").held.spool_bytes = 100;
    node.start();
    for n in 0..3 {
        node.line(&format!("the only line of part {n}, long enough for one copy"));
        let stamp = format!("20261123-21070{n}");
        node.rotate(&stamp);
        node.line(&format!("line that follows part {n}"));
        node.scan();
        node.settle(0);
        fs::remove_file(node.path(&format!("0.log.{stamp}"))).expect("removed");
        node.scan();
        node.settle(0);
        node.worker().copy_held();
        assert_eq!(node.worker().bytes_lost, 0, "part {n}");
        node.crash(0);
        node.start();
        node.scan();
        node.finish();
        assert!(copies(&node).is_empty(), "it was read");
    }
    node.check();
}

/// A part that spans several batches, none answered, whose file goes and is given up after it was
/// read; returns its length.
fn given_up_after_it_was_read(node: &mut Node) -> u64 {
    Arc::get_mut(&mut node.agent).expect("nobody else has it").held.max_files = 0;
    node.start();
    for n in 100..125 {
        node.line(&format!("line {n} of a part that is given up"));
    }
    let bytes = node.path("0.log").metadata().expect("there").len();
    node.rotate(STAMP);
    node.line("behind");
    node.scan();
    node.settle(2);
    assert!((2..=IN_FLIGHT_MAX).contains(&node.sent.len()), "{}", node.sent.len());
    fs::remove_file(node.path(&format!("0.log.{STAMP}"))).expect("removed");
    node.scan();
    node.settle(2);
    assert_eq!(node.worker().bytes_lost, 0, "it was read, and may be answered");
    node.line("far behind");
    node.scan();
    node.settle(2);
    bytes
}

/// The bytes of the part that are missing in the index were counted as lost.
#[track_caller]
fn check_given_up(node: &mut Node, bytes: u64) {
    let there = node.index.values().flatten().filter(|line| line.starts_with("line ")).count();
    assert!(there < 25);
    assert_eq!(node.worker().bytes_lost, bytes / 25 * (25 - there as u64));
    node.written.retain(|line| !line.starts_with("line "));
    node.index.retain(|_, lines| !lines[0].starts_with("line "));
    node.check();
}

#[test]
fn what_was_given_up_and_is_forgotten_by_its_output_is_a_counted_loss() {
    let mut node = Node::new();
    let bytes = given_up_after_it_was_read(&mut node);
    node.die(0);
    node.finish();
    check_given_up(&mut node, bytes);
}

#[test]
fn what_was_given_up_and_not_answered_is_a_counted_loss_after_a_restart() {
    let mut node = Node::new();
    let bytes = given_up_after_it_was_read(&mut node);
    node.answer(0);
    node.settle(0);
    node.crash(0);
    node.start();
    node.scan();
    node.finish();
    check_given_up(&mut node, bytes);
}

#[test]
fn what_was_given_up_and_not_answered_is_a_counted_loss_when_pipelines_change() {
    let mut node = Node::new();
    let bytes = given_up_after_it_was_read(&mut node);
    node.reload(&[PIPELINE], false, 0);
    node.finish();
    check_given_up(&mut node, bytes);
}

#[test]
fn what_was_given_up_unread_is_counted_once() {
    let mut node = Node::new();
    Arc::get_mut(&mut node.agent).expect("nobody else has it").held.max_files = 0;
    node.start();
    for n in 100..200 {
        node.line(&format!("line {n} of a part that is given up"));
    }
    let bytes = node.path("0.log").metadata().expect("there").len();
    node.rotate(STAMP);
    node.line("behind");
    node.scan();
    node.settle(2);
    fs::remove_file(node.path(&format!("0.log.{STAMP}"))).expect("removed");
    node.scan();
    node.settle(2);
    node.settle(2);
    let unread = node.worker().bytes_lost;
    assert!((1..bytes).contains(&unread));
    node.crash(0);
    node.start();
    node.scan();
    node.finish();
    assert_eq!(unread + node.worker().bytes_lost, bytes);
}

#[test]
fn parts_that_are_given_up_unread_leave_nothing_behind_but_their_count() {
    let mut node = Node::new();
    Arc::get_mut(&mut node.agent).expect("nobody else has it").held.max_files = 0;
    node.start();
    node.line("{\"message\":\"the first\"}");
    assert!(node.written.remove("{\"message\":\"the first\"}"));
    node.written.insert("the first".to_owned());
    node.scan();
    node.settle(2);
    // Its probe is never answered.
    node.die(0);
    let mut bytes = 0;
    node.rotate("20261123-210600");
    for n in 0..200 {
        node.line(&format!("line {n:03} of a part that is given up"));
        node.rotate(STAMP);
        let part = node.path(&format!("0.log.{STAMP}"));
        bytes += part.metadata().expect("there").len();
        node.scan();
        node.settle(0);
        fs::remove_file(part).expect("removed");
        node.scan();
        node.settle(2);
    }
    let stream = node.worker().streams.values_mut().next().expect("listed");
    let reader = &stream.places[0].reading().expect("read").reader;
    assert!(reader.left_from(PartId::FIRST).count() < 3);
    node.line("the last");
    node.scan();
    node.finish();
    assert_eq!(node.worker().bytes_lost, bytes);
    node.written.retain(|line| !line.starts_with("line "));
    node.check();
}

#[test]
fn an_empty_live_file_puts_off_no_count_of_what_went_while_no_agent_ran() {
    let mut node = Node::new();
    node.start();
    node.line("of a part that goes");
    node.rotate(STAMP);
    node.append("0.log", b"");
    node.scan();
    node.settle(2);
    node.crash(0);
    let part = node.path(&format!("0.log.{STAMP}"));
    let bytes = part.metadata().expect("there").len();
    fs::remove_file(part).expect("removed");
    node.once = true;
    node.start();
    node.scan();
    node.settle(2);
    assert_eq!(node.worker().bytes_lost, bytes);
}

#[test]
fn a_part_that_cannot_be_read_is_given_up_in_the_end_and_counted() {
    let mut node = Node::new();
    node.start();
    for n in 100..125 {
        node.line(&format!("line {n} of a part with a bad place"));
        node.written.remove(&format!("line {n} of a part with a bad place"));
    }
    let bytes = node.path("0.log").metadata().expect("there").len();
    node.rotate(STAMP);
    node.line("behind");
    node.scan();
    node.take_in_without_reading();
    let stream = node.worker().streams.values_mut().next().expect("listed");
    let part = stream.tail.parts()[0].id;
    stream.tail.make_unreadable(part);
    for _ in 0..60 {
        node.settle(1);
    }
    assert_eq!((node.worker().bytes_lost, node.sent.len()), (0, 0), "it may pass");
    for _ in 0..300 {
        node.settle(1);
    }
    assert_eq!(node.worker().bytes_lost, bytes);
    node.finish();
    node.check();
    node.crash(0);
    node.start();
    node.scan();
    node.finish();
    assert_eq!(node.worker().bytes_lost, 0, "it is counted once");
    node.check();
}

#[test]
fn whoever_goes_back_to_an_overlooked_part_is_woken() {
    let mut node = Node::new();
    node.start();
    node.line("first");
    let aside = node.dir.path().join("aside");
    fs::rename(node.path("0.log"), &aside).expect("renamed");
    node.line("second");
    node.scan();
    node.finish();
    fs::rename(&aside, node.path(&format!("0.log.{STAMP}"))).expect("renamed");
    let files = node.files().remove(&0).expect("listed");
    let worker = node.worker();
    let key = worker.names[&Node::stream(0)];
    worker.streams.get_mut(&key).expect("listed").files = files;
    worker.refresh(key);
    node.finish();
    node.check();
}

#[test]
fn a_pipeline_that_is_taken_away_shows_no_age() {
    let mut node = Node::new();
    node.start();
    node.line("one");
    node.scan();
    node.settle(5);
    node.settle(5);
    node.settle(5);
    assert!(!node.sent.is_empty());
    let oldest = Arc::clone(&node.worker().setup.outputs[0].oldest);
    assert!(oldest[0].load(Ordering::Relaxed) > 0);
    node.reload(&[&PIPELINE.replace("pipeline: p\n", "pipeline: q\n")], false, 0);
    node.settle(0);
    assert_eq!(oldest[0].load(Ordering::Relaxed), 0);
}
