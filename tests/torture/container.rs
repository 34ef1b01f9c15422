//! One container that prints: two lanes whose pieces stand mixed in one log, and its rotation.
//!
//! Owns how lines are cut into pieces, when a lane pauses in the middle of something, and when the
//! log is rotated. A line counts as written once its number is taken; [`Container::finish`] writes
//! whatever was begun.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::log::{Lane, Log};
use crate::source::{Numbers, Source};

/// containerd cuts a line after so many bytes.
const PIECE: usize = 16 * 1024;

/// How often a container's log is rotated, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) low: u64,
    pub(crate) high: u64,
}

#[derive(Debug)]
pub(crate) struct Container {
    log: Log,
    lanes: [LaneWriter; 2],
    dice: Dice,
    pace: Pace,
    rotation: Rotation,
    next_step: Instant,
}

#[derive(Debug)]
struct LaneWriter {
    lane: Lane,
    numbers: Numbers,
    /// Pieces, and whether each ends its line.
    queue: VecDeque<(bool, Vec<u8>)>,
    paused_until: Option<Instant>,
}

/// What the next step of the rotation is.
#[derive(Debug, Clone, Copy)]
enum Rotation {
    Rename,
    Reopen,
    RenameBack,
}

/// What a container has done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Done {
    /// Lines of stdout and stderr.
    pub(crate) lines: [u32; 2],
    pub(crate) bytes: u64,
    pub(crate) rotations: u64,
}

impl Container {
    /// The `number`-th container of the node; its log is `<folder>/0.log`.
    pub(crate) fn create(
        folder: &Path,
        number: u32,
        pace: Pace,
        mut dice: Dice,
    ) -> io::Result<Self> {
        let first = dice.millis(pace.low, pace.high);
        let lane = |lane, index| LaneWriter {
            lane,
            numbers: Numbers { lane: number * 2 + index, next: 0 },
            queue: VecDeque::new(),
            paused_until: None,
        };
        Ok(Self {
            log: Log::create(folder, 0)?,
            lanes: [lane(Lane::Stdout, 0), lane(Lane::Stderr, 1)],
            dice,
            pace,
            rotation: Rotation::Rename,
            next_step: Instant::now() + first,
        })
    }

    /// Writes a few pieces of one lane.
    pub(crate) fn print(&mut self, source: &Source) -> io::Result<()> {
        let lane = &mut self.lanes[usize::from(self.dice.percent(25))];
        if lane.paused_until.is_some_and(|until| until > Instant::now()) {
            return Ok(());
        }
        lane.paused_until = None;
        if self.dice.one_in(2000) {
            // longer and shorter than the gap that ends a record, and than the wait for its end
            lane.paused_until = Some(Instant::now() + self.dice.millis(200, 5000));
        }
        for _ in 0..self.dice.between(1, 8) {
            lane.fill(source, &mut self.dice);
            let torn = self.dice.one_in(100);
            lane.put(&mut self.log, torn)?;
        }
        Ok(())
    }

    /// Takes the next step of the rotation if it is due.
    pub(crate) fn rotate_when_due(&mut self) -> io::Result<()> {
        if Instant::now() < self.next_step {
            return Ok(());
        }
        let wait = self.step()?;
        self.next_step = Instant::now() + wait;
        Ok(())
    }

    fn step(&mut self) -> io::Result<Duration> {
        match self.rotation {
            Rotation::Rename => {
                if self.log.rename()? {
                    let fails = self.dice.one_in(50);
                    self.rotation = if fails { Rotation::RenameBack } else { Rotation::Reopen };
                    return Ok(self.dice.millis(0, 60));
                }
            }
            Rotation::Reopen => self.log.reopen()?,
            Rotation::RenameBack => self.log.rename_back()?,
        }
        self.rotation = Rotation::Rename;
        if self.dice.one_in(500) {
            self.log.put_names_back(3600);
        }
        Ok(self.dice.millis(self.pace.low, self.pace.high))
    }

    /// Rotates at once and whole.
    pub(crate) fn rotate(&mut self) -> io::Result<()> {
        self.log.rename()?;
        self.log.settle()
    }

    /// See [`Log::remove_before`].
    pub(crate) fn remove_before(&mut self, first_ns: i64) -> io::Result<()> {
        self.log.remove_before(first_ns)
    }

    /// Writes all that was begun.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if matches!(self.rotation, Rotation::RenameBack) {
            self.log.rename_back()?;
        }
        self.rotation = Rotation::Rename;
        for lane in &mut self.lanes {
            while !lane.queue.is_empty() {
                lane.put(&mut self.log, false)?;
            }
        }
        self.log.settle()
    }

    /// Ends the container and begins its next run with one line, so that everything before is
    /// known to have ended.
    pub(crate) fn restart(&mut self, folder: &Path, source: &Source) -> io::Result<()> {
        self.finish()?;
        let mut log = Log::create(folder, 1)?;
        let line = source.json(&mut self.dice, &mut self.lanes[0].numbers);
        log.piece(Lane::Stdout, true, &line, false)?;
        log.settle()
    }

    pub(crate) fn done(&self) -> Done {
        Done {
            lines: [self.lanes[0].numbers.next, self.lanes[1].numbers.next],
            bytes: self.log.bytes,
            rotations: self.log.rotations,
        }
    }
}

impl LaneWriter {
    /// Has something in the queue.
    fn fill(&mut self, source: &Source, dice: &mut Dice) {
        if !self.queue.is_empty() {
            return;
        }
        for line in source.next(dice, &mut self.numbers) {
            // a process that writes without line feeds is cut wherever the runtime's buffer ends
            let piece = if dice.one_in(50) { dice.between(40, 2000) } else { PIECE as u64 };
            let mut pieces = line.chunks(usize::try_from(piece).expect("small")).peekable();
            if pieces.peek().is_none() {
                self.queue.push_back((true, Vec::new()));
            }
            while let Some(piece) = pieces.next() {
                self.queue.push_back((pieces.peek().is_none(), piece.to_vec()));
            }
        }
    }

    fn put(&mut self, log: &mut Log, torn: bool) -> io::Result<()> {
        match self.queue.pop_front() {
            Some((full, text)) => log.piece(self.lane, full, &text, torn),
            None => Ok(()),
        }
    }
}
