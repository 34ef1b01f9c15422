//! Random sequences of what may happen to a stream, its output and the agent, against a simple model:
//! every line that was written is in the index, in exactly one document, and every byte of the files
//! is accounted for.
//!
//! `PROPTEST_CASES` says how many sequences, `PROPTEST_RNG_SEED` which; a sequence that fails is made
//! as short as it can be.

use super::*;

/// What may happen, in any order.
#[derive(Debug, Clone)]
enum Step {
    Json,
    Text,
    Frame,
    /// A piece of a line; the next line of the lane ends it.
    Piece,
    /// The next line is written in two halves.
    Torn,
    Malformed,
    Gap,
    /// The runtime's clock is set back.
    ClockBack,
    OtherLane,
    Rotate,
    Gzip,
    /// The live file is copied and emptied.
    CopyTruncate,
    /// The oldest rotated file is removed while the agent has it open.
    Remove,
    /// Every file is another one with the same content, as after a remount.
    NewInodes,
    NextRun,
    Scan,
    /// A listing that is told only after a rotation.
    LateScan,
    Written,
    Settle(u64),
    Answer(usize),
    /// The output is dead until it answers.
    Die(usize),
    Crash(usize),
    /// Pipelines are read again, with and without an answer to what is in flight.
    Reload(bool, usize),
    /// A crash that takes the state directory back to what it was some crashes ago.
    OldState(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Json),
        4 => Just(Step::Text),
        4 => Just(Step::Frame),
        2 => Just(Step::Piece),
        1 => Just(Step::Torn),
        1 => Just(Step::Malformed),
        1 => Just(Step::Gap),
        1 => Just(Step::ClockBack),
        2 => Just(Step::OtherLane),
        2 => Just(Step::Rotate),
        1 => Just(Step::Gzip),
        1 => Just(Step::CopyTruncate),
        1 => Just(Step::Remove),
        1 => Just(Step::NewInodes),
        1 => Just(Step::NextRun),
        3 => Just(Step::Scan),
        1 => Just(Step::LateScan),
        2 => Just(Step::Written),
        4 => (0_u64..6).prop_map(Step::Settle),
        3 => (0_usize..4).prop_map(Step::Answer),
        1 => (0_usize..4).prop_map(Step::Die),
        1 => (0_usize..4).prop_map(Step::Crash),
        1 => (any::<bool>(), 0_usize..4).prop_map(|(in_time, arrived)| Step::Reload(in_time, arrived)),
        1 => (0_usize..4).prop_map(Step::OldState),
    ]
}

/// Whether the runtime's clock goes on while the agent's does. Where it does, no record is cut
/// that a later line would have continued, so that a state directory from before a cut loses nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    Stands,
    GoesOn,
}

/// Steps on a node, and what they have to remember.
struct Story {
    node: Node,
    clock: Clock,
    count: u32,
    run: u32,
    lane: usize,
    pieces: [Option<String>; 2],
    rotated: Vec<String>,
    tear: bool,
    /// What is still to be written of a line, and to which file.
    torn: Option<(String, Vec<u8>)>,
    /// Some file was removed before everything was safe.
    removed: bool,
    /// Some file was removed: what an older state would read again may not be there.
    ever_removed: bool,
    /// The runtime's clock went back; without the state directory nobody knows.
    set_back: bool,
    /// State directories of before.
    states: Vec<tempfile::TempDir>,
}

impl Story {
    fn new(clock: Clock, at_leisure: bool) -> Self {
        let mut node = Node::batching(at_leisure);
        node.start();
        Self {
            node,
            clock,
            count: 0,
            run: 0,
            lane: 0,
            pieces: [None, None],
            rotated: Vec::new(),
            tear: false,
            torn: None,
            removed: false,
            ever_removed: false,
            set_back: false,
            states: Vec::new(),
        }
    }

    fn live(&self) -> String {
        format!("{}.log", self.run)
    }

    fn append(&mut self, bytes: &[u8]) {
        self.mend();
        let live = self.live();
        if std::mem::take(&mut self.tear) {
            let (now, later) = bytes.split_at(bytes.len() / 2);
            self.node.append(&live, now);
            self.torn = Some((live, later.to_vec()));
        } else {
            self.node.append(&live, bytes);
        }
    }

    /// Writes the rest of a line that was torn.
    fn mend(&mut self) {
        if let Some((file, rest)) = self.torn.take() {
            self.node.append(&file, &rest);
        }
    }

    fn write(&mut self, text: &str, partial: bool) {
        let lane = ["stdout", "stderr"][self.lane];
        let begun = self.pieces[self.lane].take().unwrap_or_default();
        let tag = if partial { "P" } else { "F" };
        self.node.clock_ns += 1_000_000;
        let mut line = Vec::new();
        time::write_utc(self.node.clock_ns, &mut line);
        line.extend_from_slice(format!(" {lane} {tag} {text}\n").as_bytes());
        self.append(&line);
        let whole = begun + text;
        if partial {
            self.pieces[self.lane] = Some(whole);
        } else {
            let line =
                whole.strip_prefix("{\"message\":\"").and_then(|rest| rest.strip_suffix("\"}"));
            self.node.written.insert(line.unwrap_or(&whole).to_owned());
        }
    }

    fn rotate(&mut self) {
        self.mend();
        let live = self.live();
        self.count += 1;
        let name = format!("{live}.20261123-{:06}", self.count);
        if fs::rename(self.node.path(&live), self.node.path(&name)).is_ok() {
            self.rotated.push(name);
        }
    }

    fn copy_truncate(&mut self) {
        self.mend();
        // Of a file that was never seen before it was emptied, nothing tells the order but the time.
        self.node.scan();
        self.node.settle(0);
        let live = self.live();
        self.count += 1;
        let name = format!("{live}.20261123-{:06}", self.count);
        if fs::copy(self.node.path(&live), self.node.path(&name)).is_ok() {
            if self.count.is_multiple_of(2) {
                self.node.scan();
                self.node.settle(0);
            }
            fs::write(self.node.path(&live), "").expect("emptied");
            self.rotated.push(name);
        }
    }

    fn remove(&mut self) {
        let mut files: Vec<PathBuf> =
            self.node.files().into_values().flatten().map(|file| file.path).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension != "log"));
        files.sort();
        // A stream without any file has ended; the runtime makes a new one before an old one goes.
        let lives = self.node.path(&self.live()).symlink_metadata().is_ok();
        let whole = self.pieces == [None, None] && lives;
        if let Some(path) = files.first().filter(|_| whole) {
            self.node.scan();
            self.node.settle(0);
            self.node.kept.push(File::open(path).expect("opened"));
            fs::remove_file(path).expect("removed");
            self.rotated.retain(|name| !path.ends_with(name));
            self.removed = true;
            self.ever_removed = true;
        }
    }

    fn new_inodes(&mut self) {
        for file in self.node.files().into_values().flatten() {
            self.node.kept.push(File::open(&file.path).expect("opened"));
            let copy = file.path.with_extension("copying");
            fs::copy(&file.path, &copy).expect("copied");
            fs::rename(&copy, &file.path).expect("renamed");
        }
    }

    fn end_pieces(&mut self) {
        for lane in 0..2 {
            self.lane = lane;
            if self.pieces[lane].is_some() {
                self.write("end", false);
            }
        }
        self.mend();
    }

    /// Makes all safe that stands in removed files: a crash would lose it.
    fn save_removed(&mut self) {
        if std::mem::take(&mut self.removed) {
            self.end_pieces();
            self.node.scan();
            self.node.finish();
            self.pass(2);
        }
    }

    fn pass(&mut self, seconds: i64) {
        if self.clock == Clock::GoesOn && seconds > 0 {
            self.node.clock_ns += seconds * 1_000_000_000 + 1;
        }
    }

    fn crash(&mut self, arrived: usize) {
        self.save_removed();
        self.node.crash(arrived);
        if self.clock == Clock::GoesOn {
            let copy = tempfile::tempdir().expect("a directory");
            copy_files(&self.node.state(), copy.path());
            self.states.push(copy);
        }
        self.pass(3);
    }

    fn restart(&mut self) {
        self.node.start();
        self.node.scan();
    }

    fn old_state(&mut self, back: usize) {
        if self.clock == Clock::Stands || self.set_back || self.ever_removed {
            return;
        }
        self.crash(0);
        let at = self.states.len().saturating_sub(1 + back);
        copy_files(self.states[at].path(), &self.node.state());
        self.restart();
    }

    fn step(&mut self, step: &Step) {
        self.count += 1;
        let n = self.count;
        match *step {
            Step::Json if self.pieces[self.lane].is_none() => {
                self.write(&format!("{{\"message\":\"line {n}\"}}"), false);
            }
            Step::Json => self.write(&format!("rest {n}"), false),
            Step::Text => self.write(&format!("text {n}: java.lang.Exception"), false),
            Step::Frame => self.write(&format!("\tat com.example.Frame.of(Frame.java:{n})"), false),
            Step::Piece => self.write(&format!("piece {n} "), true),
            Step::Torn => self.tear = true,
            Step::Malformed => self.malformed(n),
            Step::Gap => self.node.clock_ns += 1_500_000_000,
            Step::ClockBack => {
                // Of parts that are found together nothing tells the order but their times.
                self.mend();
                self.node.scan();
                self.node.settle(0);
                self.node.clock_ns -= 10_000_000_000;
                self.set_back = true;
            }
            Step::OtherLane => self.lane = 1 - self.lane,
            Step::Rotate => self.rotate(),
            Step::Gzip => {
                if !self.rotated.is_empty() {
                    let name = self.rotated.remove(0);
                    self.node.gzip(&name);
                }
            }
            Step::CopyTruncate => self.copy_truncate(),
            Step::Remove => self.remove(),
            Step::NewInodes => self.new_inodes(),
            Step::NextRun => {
                self.end_pieces();
                self.run += 1;
            }
            Step::Scan => self.node.scan(),
            Step::LateScan => {
                self.node.scan();
                self.rotate();
                self.write(&format!("after the scan {n}"), false);
            }
            Step::Written => {
                let name = Node::stream(self.run);
                self.node.worker().setup.inbox.written(name);
            }
            Step::Settle(seconds) => {
                self.node.settle(seconds);
                self.pass(seconds.cast_signed());
            }
            Step::Answer(position) => self.node.answer(position),
            Step::Die(arrived) => self.node.die(arrived),
            Step::Crash(arrived) => {
                self.crash(arrived);
                self.restart();
            }
            Step::Reload(in_time, arrived) => self.node.reload(&[PIPELINE], in_time, arrived),
            Step::OldState(back) => self.old_state(back),
        }
    }

    fn malformed(&mut self, n: u32) {
        // A part is read as soon as one of its lines has a time.
        self.write(&format!("timed {n}"), false);
        let begun = self.pieces[0].take().unwrap_or_default();
        let text = format!("malformed {n}");
        self.append(format!("{text}\n").as_bytes());
        self.node.written.insert(begun + &text);
    }

    fn check(mut self) {
        self.end_pieces();
        for _ in 0..2 {
            self.node.scan();
            self.node.finish();
        }
        self.node.check();
        let worker = self.node.worker();
        assert_eq!(worker.bytes_lost, 0);
        assert_eq!(worker.open_bytes, 0);
        for outlet in &worker.outlets {
            assert_eq!(outlet.batch.tally.raw_bytes, 0, "all is sealed");
        }
        for stream in worker.streams.values_mut() {
            for reading in stream.places.iter_mut().filter_map(Place::reading) {
                let accounts = reading.reader.accounts();
                assert_eq!((accounts.in_flight, accounts.lost), (0, 0), "{}", stream.name);
                assert_eq!(accounts.read, accounts.acknowledged, "{}", stream.name);
            }
        }
    }
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for name in ["checkpoint", "pods"] {
        match fs::copy(from.join(name), to.join(name)) {
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
            Ok(_) => continue,
        }
        if let Err(error) = fs::remove_file(to.join(name)) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        }
    }
}

fn tell(clock: Clock, at_leisure: bool, steps: &[Step]) {
    let mut story = Story::new(clock, at_leisure);
    for step in steps {
        story.step(step);
    }
    story.check();
}

/// As many sequences as `PROPTEST_CASES` says.
fn cases() -> ProptestConfig {
    ProptestConfig { max_shrink_iters: 5000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    /// Whatever happens in whatever order, and whether batches are filled in a turn or after many: every
    /// line is in the index once.
    #[test]
    fn every_line_is_indexed_once(steps in prop::collection::vec(step(), 1..60), at_leisure: bool) {
        tell(Clock::Stands, at_leisure, &steps);
    }

    /// Also with a state directory that is older than the files.
    #[test]
    fn every_line_is_indexed_once_from_an_older_state(steps in prop::collection::vec(step(), 1..60), at_leisure: bool) {
        tell(Clock::GoesOn, at_leisure, &steps);
    }
}
