//! The threads that let all containers print, rotate their logs and remove what is not needed.
//!
//! Owns the pace. Rotated files are removed like the kubelet's oldest ones, but only once the
//! checkpoint says that the live pipeline has passed them: containerLogMaxFiles is large enough.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::container::{Container, Done, Pace};
use crate::dice::Dice;
use crate::ground::{Ground, LIVE};
use crate::source::Source;

const THREADS: usize = 2;
const TICK: Duration = Duration::from_millis(5);
const REMOVAL: Duration = Duration::from_secs(2);

/// How the containers are written to.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    /// All containers together.
    pub(crate) bytes_per_second: u64,
    pub(crate) pace: Pace,
    /// Lines that may be on the disk and in no document: more are not written, as the disk is not
    /// endless.
    pub(crate) ahead: u64,
    /// Lines that are in a document.
    pub(crate) there: Arc<AtomicU64>,
}

#[derive(Debug)]
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Result<Vec<Numbered>>>>,
    /// Lines whose number is taken.
    pub(crate) lines: Arc<AtomicU64>,
}

/// A container with its number on the node.
#[derive(Debug)]
pub(crate) struct Numbered {
    pub(crate) number: u32,
    pub(crate) container: Container,
}

/// Makes all containers of the node.
pub(crate) fn containers(ground: &Ground, seed: u64, pace: Pace) -> io::Result<Vec<Numbered>> {
    (0..ground.containers)
        .map(|number| {
            let dice = Dice::new(seed, 0x1000 + u64::from(number));
            let container = Container::create(&ground.logs(number), number, pace, dice)?;
            Ok(Numbered { number, container })
        })
        .collect()
}

/// What all have done together, and each for itself.
pub(crate) fn done(all: &[Numbered]) -> Vec<Done> {
    all.iter().map(|one| one.container.done()).collect()
}

impl Writers {
    pub(crate) fn start(
        ground: &Ground,
        source: &Arc<Source>,
        options: Options,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let lines = Arc::new(AtomicU64::new(0));
        let mut shares: Vec<Vec<Numbered>> = (0..THREADS).map(|_| Vec::new()).collect();
        for (at, one) in containers(ground, options.seed, options.pace)?.into_iter().enumerate() {
            shares[at % THREADS].push(one);
        }
        let threads = (0..).zip(shares.into_iter().filter(|share| !share.is_empty()));
        let threads = threads
            .map(|(thread, all)| {
                let writer = Writer {
                    stop: Arc::clone(&stop),
                    lines: Arc::clone(&lines),
                    options: options.clone(),
                    source: Arc::clone(source),
                    rate: options.bytes_per_second * all.len() as u64
                        / u64::from(ground.containers.max(1)),
                    checkpoint: ground.path("state").join("checkpoint"),
                    dice: Dice::new(options.seed, 0x2000 + thread),
                    all,
                };
                thread::spawn(move || writer.run())
            })
            .collect();
        Ok(Self { stop, threads, lines })
    }

    /// Ends the writing; all that was begun is written. The containers in the order of their
    /// numbers.
    pub(crate) fn stop(self) -> io::Result<Vec<Numbered>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            all.extend(thread.join().map_err(|_| io::Error::other("a writer has panicked"))??);
        }
        all.sort_by_key(|one| one.number);
        Ok(all)
    }
}

struct Writer {
    stop: Arc<AtomicBool>,
    lines: Arc<AtomicU64>,
    options: Options,
    source: Arc<Source>,
    /// Bytes per second.
    rate: u64,
    checkpoint: std::path::PathBuf,
    dice: Dice,
    all: Vec<Numbered>,
}

impl Writer {
    fn run(mut self) -> io::Result<Vec<Numbered>> {
        let began = Instant::now();
        let mut removal = began + REMOVAL;
        let mut late = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let allowed = self.allowed(began.elapsed()).saturating_sub(late);
            let mut written: u64 = self.all.iter().map(|one| one.container.done().bytes).sum();
            while written < allowed && self.may_print() {
                written += self.print_one()?;
            }
            // what could not be written in time is not made up for
            late += allowed.saturating_sub(written);
            for one in &mut self.all {
                one.container.rotate_when_due()?;
            }
            if Instant::now() >= removal {
                self.remove()?;
                removal = Instant::now() + REMOVAL;
            }
            thread::park_timeout(TICK);
        }
        for one in &mut self.all {
            one.container.finish()?;
        }
        Ok(self.all)
    }

    fn may_print(&self) -> bool {
        let there = self.options.there.load(Ordering::Relaxed);
        let ahead = self.lines.load(Ordering::Relaxed).saturating_sub(there);
        ahead < self.options.ahead && !self.stop.load(Ordering::Relaxed)
    }

    /// Bytes that may have been written after `time`.
    fn allowed(&self, time: Duration) -> u64 {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX).saturating_mul(self.rate) / 1000
    }

    /// Lets some container print; how many bytes it did.
    fn print_one(&mut self) -> io::Result<u64> {
        let at = self.dice.index(self.all.len());
        let container = &mut self.all[at].container;
        let before = container.done();
        container.print(&self.source)?;
        container.rotate_when_due()?;
        let now = container.done();
        let lines = now.lines[0] + now.lines[1] - before.lines[0] - before.lines[1];
        self.lines.fetch_add(u64::from(lines), Ordering::Relaxed);
        Ok(now.bytes - before.bytes)
    }

    fn remove(&mut self) -> io::Result<()> {
        let reached = reached(&self.checkpoint)?;
        for one in &mut self.all {
            if let Some(first_ns) = reached.get(&Ground::stream(one.number)) {
                one.container.remove_before(*first_ns)?;
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Key {
    pipeline: String,
    stream: String,
}

#[derive(Deserialize)]
struct Entry {
    reached: [Position; 2],
}

#[derive(Deserialize)]
struct Position {
    part: Part,
}

#[derive(Deserialize)]
struct Part {
    first_time_ns: i64,
}

/// For each stream, the runtime time of the first line of the part that the live pipeline is in.
fn reached(checkpoint: &Path) -> io::Result<BTreeMap<String, i64>> {
    let text = match fs::read_to_string(checkpoint) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        text => text?,
    };
    let mut reached = BTreeMap::new();
    for line in text.lines().skip(1) {
        let (key, entry): (Key, Entry) = serde_json::from_str(line)?;
        if key.pipeline == LIVE {
            let [stdout, stderr] = entry.reached.map(|position| position.part.first_time_ns);
            reached.insert(key.stream, stdout.min(stderr));
        }
    }
    Ok(reached)
}
