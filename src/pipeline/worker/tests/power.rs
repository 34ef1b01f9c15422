//! What a loss of power leaves of log files: their last bytes never reached the disk, so that a file
//! is shorter than what was read of it, ends within a line, or in NUL bytes.

use super::*;

impl Node {
    /// What was not written back when the power went: all from `from` on is gone, and `nuls` NUL
    /// bytes stand there.
    fn lose_power(&mut self, from: u64, nuls: usize) {
        self.lose_power_after(0, from, nuls);
    }

    /// The same, once so many requests had arrived without an answer.
    fn lose_power_after(&mut self, arrived: usize, from: u64, nuls: usize) {
        self.crash(arrived);
        let path = self.path("0.log");
        let file = OpenOptions::new().write(true).open(&path).expect("opened");
        file.set_len(from).expect("cut off");
        self.append("0.log", &vec![0; nuls]);
    }

    /// The length of the live file of run 0.
    fn length(&self) -> u64 {
        self.path("0.log").metadata().map_or(0, |metadata| metadata.len())
    }

    /// Writes `count` lines of one length, the first with this number; returns where each ends.
    fn count_from(&mut self, first: usize, count: usize) -> Vec<u64> {
        let write = |n| {
            self.line(&format!("line {n:06}"));
            self.length()
        };
        (first..first + count).map(write).collect()
    }

    /// Starts, and goes on until nothing is left to do.
    fn go_on(&mut self) {
        self.start();
        self.scan();
        self.finish();
    }

    /// These lines never reached the disk, and nobody read them.
    fn lost(&mut self, numbers: std::ops::Range<usize>) {
        for n in numbers {
            assert!(self.written.remove(&format!("line {n:06}")));
        }
    }

    /// What was read is read again without the state directory, and gives the same documents.
    fn check_again(&mut self) {
        self.check();
        let there = self.index.len();
        self.crash(0);
        fs::remove_dir_all(self.state()).expect("removed");
        self.go_on();
        assert_eq!(self.index.len(), there);
    }
}

#[test]
fn a_file_that_is_shorter_than_what_was_safe_is_gone_on_with_at_its_end() {
    let mut node = Node::new();
    node.start();
    let ends = node.count_from(0, 20);
    node.scan();
    node.finish();
    node.lose_power(ends[9] + 40, 0);
    node.start();
    node.scan();
    scan_when_asked(&mut node);
    node.line("behind a line that was torn");
    node.scan();
    node.finish();
    assert_eq!(node.worker().bytes_lost, 0, "it was safe");
    node.check();
}

#[test]
fn a_run_that_is_shorter_than_what_was_safe_comes_to_its_end() {
    let mut node = Node::new();
    node.start();
    let ends = node.count_from(0, 20);
    node.scan();
    node.finish();
    node.lose_power(ends[9] + 40, 0);
    node.raw("1.log", "stdout F", "the next run");
    node.once = true;
    node.go_on();
    assert!(node.worker().is_done());
    assert_eq!(node.worker().bytes_lost, 0, "it was safe");
    node.check();
}

#[test]
fn each_lane_goes_on_at_the_end_of_a_file_that_is_shorter() {
    let mut node = Node::new();
    node.start();
    node.line("both");
    // It holds back the place of stdout.
    node.raw("0.log", "stdout P", "begun ");
    let end = node.length();
    for n in 0..5 {
        node.raw("0.log", "stderr F", &format!("stderr {n}"));
    }
    node.scan();
    node.finish();
    let before = node.length();
    node.lose_power(end, 0);
    node.start();
    node.scan();
    node.settle(0);
    node.raw("0.log", "stderr F", "stderr again");
    node.raw("0.log", "stdout F", "ended");
    for half in ["begun ", "ended"] {
        assert!(node.written.remove(half));
    }
    node.written.insert("begun ended".to_owned());
    node.scan();
    node.finish();
    assert_eq!(node.worker().bytes_lost, before - end, "whose it was nobody knows any more");
    node.check();
}

#[test]
fn what_never_reached_the_disk_and_was_not_safe_is_a_counted_loss() {
    let mut node = Node::new();
    node.start();
    node.count_from(0, 10);
    node.scan();
    node.finish();
    let ends = node.count_from(10, 10);
    node.scan();
    node.settle(2);
    // Behind the first word of a line.
    node.lose_power(ends[4] + 44, 0);
    node.raw("1.log", "stdout F", "the next run");
    node.lost(15..20);
    node.written.insert("line".to_owned());
    node.go_on();
    assert_eq!(node.worker().bytes_lost, ends[9] - (ends[4] + 44));
    node.crash(0);
    node.go_on();
    assert_eq!(node.worker().bytes_lost, 0, "it is counted once");
    node.check_again();
}

#[test]
fn a_file_that_is_nothing_but_unwritten_is_a_counted_loss() {
    let mut node = Node::new();
    node.append("0.log", &[0; 5000]);
    node.raw("1.log", "stdout F", "the next run");
    node.go_on();
    assert_eq!(node.worker().bytes_lost, 5000);
    node.check_again();
}

#[test]
fn a_line_behind_unwritten_bytes_is_a_line() {
    for nuls in [1, CHUNK_BYTES, 3 * CHUNK_BYTES + 5] {
        let mut node = Node::new();
        let ends = node.count_from(0, 10);
        node.lose_power(ends[9], nuls);
        node.line("behind");
        node.go_on();
        assert_eq!(node.worker().bytes_lost, nuls as u64);
        node.check_again();
    }
}

#[test]
fn what_was_never_written_is_counted_once_however_often_it_is_read() {
    let mut node = Node::new();
    let ends = node.count_from(0, 100);
    node.lose_power(ends[9], 7000);
    node.lost(10..100);
    node.count_from(100, 100);
    node.start();
    node.scan();
    node.settle(2);
    assert!(node.sent.len() > 1, "more than one is on its way");
    node.die(0);
    node.finish();
    assert_eq!(node.worker().bytes_lost, 7000);
    node.check();
}

#[test]
fn a_torn_line_is_shipped_without_what_was_never_written() {
    for nuls in [1, CHUNK_BYTES, 3 * CHUNK_BYTES + 5] {
        let mut node = Node::new();
        let ends = node.count_from(0, 10);
        // Behind the first word of a line.
        node.lose_power(ends[8] + 44, nuls);
        node.raw("1.log", "stdout F", "the next run");
        node.lost(9..10);
        node.written.insert("line".to_owned());
        node.go_on();
        assert_eq!(node.worker().bytes_lost, nuls as u64);
        node.check_again();
    }
}

#[test]
fn a_line_that_lost_its_line_feed_is_the_same_document() {
    for nuls in [0, 1, 5000] {
        for line in [0, 2] {
            let mut node = Node::new();
            node.start();
            // The last one waits for another.
            let ends = node.count_from(0, 4);
            node.scan();
            node.settle(2);
            node.lose_power_after(usize::MAX, ends[line] - 1, nuls);
            node.lost(3..4);
            node.raw("1.log", "stdout F", "the next run");
            node.go_on();
            node.check();
            assert_eq!(node.duplicates, line + 1);
        }
    }
}

#[test]
fn a_part_that_is_named_late_is_compared_late() {
    for (nuls, safe) in [(0, true), (1, true), (0, false), (1, false)] {
        let mut node = Node::new();
        node.once = true;
        node.start();
        let ends = node.count_from(0, 1);
        node.scan();
        if safe {
            node.finish();
        } else {
            node.settle(2);
        }
        node.lose_power(ends[0] - 1, nuls);
        node.start();
        node.scan();
        node.settle(2);
        node.raw("1.log", "stdout F", "the next run");
        node.scan();
        node.finish();
        assert!(node.worker().is_done());
        let lost = if safe { 0 } else { 1 };
        assert_eq!(node.worker().bytes_lost, lost, "{nuls} NUL bytes, safe: {safe}");
        node.check();
    }
}

#[test]
fn a_line_behind_a_torn_one_is_in_its_document() {
    let mut node = Node::new();
    node.start();
    let ends = node.count_from(0, 10);
    node.scan();
    node.settle(2);
    node.lose_power(ends[8] + 44, 3);
    node.lost(9..10);
    let behind = node.length();
    node.line("behind");
    let text = fs::read(node.path("0.log")).expect("read");
    let torn = text[usize::try_from(behind).expect("short")..].trim_ascii_end();
    let torn = format!("line\0\0\0{}", String::from_utf8_lossy(torn));
    assert!(node.written.remove("behind") && node.written.insert(torn));
    node.line("the next");
    node.go_on();
    node.check_again();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Wherever the power cuts a file, whatever was safe by then, and whether its writer goes on in
    /// another one: every whole line is there once, and every byte that is not there is counted.
    #[test]
    fn whatever_a_loss_of_power_leaves_the_rest_is_there(
        safe in 0_usize..10,
        more in 1_usize..10,
        cut in any::<prop::sample::Index>(),
        nuls in prop_oneof![Just(0_usize), 1_usize..100, 1_usize..3 * CHUNK_BYTES],
        json: bool,
        arrived in prop_oneof![Just(0), Just(1), Just(usize::MAX)],
    ) {
        let mut node = Node::new();
        node.start();
        let ends = node.count_from(0, safe);
        if json {
            // A document of another road: the text of a torn one is none.
            node.line("{\"message\":\"json\"}");
            node.written.remove("{\"message\":\"json\"}");
        }
        node.scan();
        node.finish();
        let known = node.length();
        let ends = [ends, node.count_from(safe, more)].concat();
        node.scan();
        node.settle(2);
        let length = node.length();
        let text = fs::read(node.path("0.log")).expect("read");
        let cut = cut.index(text.len() + 1);
        let first = text.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
        // Without its first line it is another part.
        let is_other = cut + 1 < first;
        let cut = cut as u64;
        node.lose_power_after(arrived, cut, nuls);
        node.raw("1.log", "stdout F", "the next run");
        // The line feed need not be there.
        let whole = ends.iter().filter(|end| **end <= cut + 1).count().max(safe);
        node.lost(whole..safe + more);
        node.go_on();
        let lost = node.worker().bytes_lost;
        // What was safe is not lost, and NUL bytes may stand where it was.
        let there = if is_other { 0 } else { cut + nuls as u64 };
        let cut_off = length.saturating_sub(there.max(known));
        let unwritten =
            if is_other { nuls as u64 } else { there.saturating_sub(known.max(cut)) };
        prop_assert_eq!(lost, cut_off + unwritten, "{} safe, cut at {} of {}", known, cut, length);
        node.index.retain(|_, lines| node.written.contains(&lines[0]));
        node.check();
    }
}
