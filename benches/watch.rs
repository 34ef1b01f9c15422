//! What it costs to learn of writes: discovery against plain `notify` watchers.
//!
//! A writer, this program started again, appends short lines to one file in each of some
//! directories, one write(2) per line, evenly spaced. Printed are CPU time of the watching process
//! and of the writer, as shares of a core: the kernel makes events at the writer's expense.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measures")]

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use rustix::time::{ClockId, clock_gettime};
use splashdam::config::agent::{LineFormat, Logs, Start};
use splashdam::discover::{self, Found};

/// Directories, and lines a second over all of them.
const CASES: [(usize, u32); 5] = [(10, 1_000), (10, 10_000), (10, 50_000), (500, 500), (500, 0)];
const LINE: &[u8; 64] = b"2026-11-23T21:06:08.123456789Z stdout F a short line of some log";

/// How long lines are written before it counts: what's busy from then on is known to be.
const WARM: Duration = Duration::from_millis(300);

/// Who watches.
#[derive(Debug, Clone, Copy)]
enum Who {
    Nobody,
    Discovery,
    /// `notify`, each written directory put into a set.
    Notify,
    /// `notify`, everything but names that come and go ignored.
    Names,
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, folder, lines_per_second, ms] = arguments.as_slice()
        && mode == "--write"
    {
        let time = Duration::from_millis(ms.parse()?);
        return write(Path::new(folder), lines_per_second.parse()?, time);
    }
    // `cargo test --benches` only asks whether it runs.
    let bench = arguments.iter().any(|argument| argument == "--bench");
    let time = Duration::from_millis(if bench { 1_200 } else { 50 });
    println!(
        "{:>11} {:>8}  {:<10} {:>9} {:>9} {:>9}",
        "directories", "lines/s", "who", "watcher", "writer", "hints/s"
    );
    for (directories, lines_per_second) in CASES {
        for who in [Who::Nobody, Who::Discovery, Who::Notify, Who::Names] {
            let cost = measure(who, directories, lines_per_second, time)?;
            println!(
                "{directories:>11} {:>8.0}  {:<10} {:>7.2} % {:>7.2} % {:>9.0}",
                cost.lines,
                format!("{who:?}").to_lowercase(),
                cost.watcher * 100.0,
                cost.writer * 100.0,
                cost.hints
            );
        }
    }
    Ok(())
}

/// Shares of a core, and counts per second.
struct Cost {
    watcher: f64,
    writer: f64,
    lines: f64,
    hints: f64,
}

fn measure(
    who: Who,
    directories: usize,
    lines_per_second: u32,
    time: Duration,
) -> anyhow::Result<Cost> {
    let tree = tempfile::tempdir()?;
    let containers = make(tree.path(), directories)?;
    let hints = Arc::new(AtomicU64::new(0));
    let watching = Watching::start(who, tree.path(), &containers, &hints)?;
    let writer = start_writer(tree.path(), lines_per_second, WARM + time)?;
    wait_until(Instant::now() + WARM);
    let (cpu, start) = (process_cpu(), Instant::now());
    let before = hints.load(Ordering::Relaxed);
    let output = writer.wait_with_output()?;
    let (cpu, seconds) = (process_cpu().saturating_sub(cpu), start.elapsed().as_secs_f64());
    drop(watching);
    ensure!(output.status.success(), "the writer has failed");
    let text = String::from_utf8(output.stdout)?;
    let (lines, cpu_ns) = text.trim().split_once(' ').context("what the writer said")?;
    let (lines, cpu_ns): (f64, f64) = (lines.parse()?, cpu_ns.parse()?);
    let written_seconds = (WARM + time).as_secs_f64();
    Ok(Cost {
        watcher: cpu.as_secs_f64() / seconds,
        writer: cpu_ns / 1e9 / written_seconds,
        lines: lines / written_seconds,
        hints: precise(hints.load(Ordering::Relaxed) - before) / seconds,
    })
}

fn precise(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

/// Pods of one container with one log each. Old enough for nothing to be listed for its youth.
fn make(folder: &Path, directories: usize) -> io::Result<Vec<PathBuf>> {
    let old = std::time::SystemTime::now() - Duration::from_secs(3600);
    let mut containers = Vec::new();
    for number in 0..directories {
        let pod = folder.join(format!("ns_pod-{number}_uid-{number}"));
        let container = pod.join("main");
        std::fs::create_dir_all(&container)?;
        File::create(container.join("0.log"))?;
        File::open(&container)?.set_modified(old)?;
        File::open(&pod)?.set_modified(old)?;
        containers.push(container);
    }
    File::open(folder)?.set_modified(old)?;
    Ok(containers)
}

/// What goes on until it's dropped.
enum Watching {
    Nothing,
    Discovery { _running: discover::Discovery },
    Notify { _running: RecommendedWatcher },
}

impl Watching {
    fn start(
        who: Who,
        root: &Path,
        containers: &[PathBuf],
        hints: &Arc<AtomicU64>,
    ) -> anyhow::Result<Self> {
        let hints = Arc::clone(hints);
        Ok(match who {
            Who::Nobody => Self::Nothing,
            Who::Discovery => Self::discovery(root, hints)?,
            Who::Notify => {
                let written = Mutex::new(HashSet::new());
                Self::notify(root, containers, move |event| {
                    if let Some(parent) = event.paths.first().and_then(|path| path.parent())
                        && let Ok(mut written) = written.lock()
                        && !written.contains(parent)
                    {
                        written.insert(parent.to_owned());
                        hints.fetch_add(1, Ordering::Relaxed);
                    }
                })?
            }
            Who::Names => Self::notify(root, containers, move |event| {
                if matches!(event.kind, EventKind::Create(_) | EventKind::Remove(_)) {
                    hints.fetch_add(1, Ordering::Relaxed);
                }
            })?,
        })
    }

    /// Returns when the first scan is over.
    fn discovery(root: &Path, hints: Arc<AtomicU64>) -> anyhow::Result<Self> {
        let logs = Logs {
            root: root.to_owned(),
            docker_root: root.to_owned(),
            format: LineFormat::Auto,
            max_line_bytes: 1 << 20,
            start: Start::Oldest,
            include_self: false,
            // Scans are no matter of watching.
            rescan: Duration::from_secs(3600),
        };
        let (sender, scanned) = mpsc::sync_channel(1);
        let running = discover::start(&logs, None, move |found| match found {
            Found::Written(_) => {
                hints.fetch_add(1, Ordering::Relaxed);
            }
            // Later scans are of no interest.
            Found::Scanned { .. } => sender.try_send(()).unwrap_or_default(),
            _ => {}
        })?;
        scanned.recv()?;
        Ok(Self::Discovery { _running: running })
    }

    fn notify(
        root: &Path,
        containers: &[PathBuf],
        mut handle: impl FnMut(Event) + Send + 'static,
    ) -> notify::Result<Self> {
        let mut running = notify::recommended_watcher(move |event: notify::Result<Event>| {
            event.into_iter().for_each(&mut handle);
        })?;
        running.watch(root, RecursiveMode::NonRecursive)?;
        for container in containers {
            running.watch(container, RecursiveMode::NonRecursive)?;
            if let Some(pod) = container.parent() {
                running.watch(pod, RecursiveMode::NonRecursive)?;
            }
        }
        Ok(Self::Notify { _running: running })
    }
}

fn start_writer(folder: &Path, lines_per_second: u32, time: Duration) -> anyhow::Result<Child> {
    let child = Command::new(std::env::current_exe()?)
        .arg("--write")
        .arg(folder)
        .args([lines_per_second.to_string(), time.as_millis().to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    Ok(child)
}

/// Writes lines at the given rate, and says how many it were and what they took.
fn write(folder: &Path, lines_per_second: u32, time: Duration) -> anyhow::Result<()> {
    let mut logs = Vec::new();
    for pod in std::fs::read_dir(folder)? {
        logs.push(OpenOptions::new().append(true).open(pod?.path().join("main/0.log"))?);
    }
    ensure!(!logs.is_empty(), "nothing to write to");
    let (start, cpu) = (Instant::now(), process_cpu());
    let mut lines = 0;
    if lines_per_second == 0 {
        wait_until(start + time);
    } else {
        let space = Duration::from_secs(1) / lines_per_second;
        while start.elapsed() < time {
            wait_until(start + space * lines);
            let log = usize::try_from(lines)? % logs.len();
            ensure!(logs[log].write(LINE)? == LINE.len(), "a short write");
            lines += 1;
        }
    }
    println!("{lines} {}", process_cpu().saturating_sub(cpu).as_nanos());
    Ok(())
}

/// Returns at `moment`.
fn wait_until(moment: Instant) {
    while let Some(left) = moment.checked_duration_since(Instant::now())
        && !left.is_zero()
    {
        std::thread::park_timeout(left);
    }
}

/// User and system time of all threads of this process.
fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}
