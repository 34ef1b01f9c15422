//! `splashdam demo`: the real agent on a live log tree, without a cluster and without Elasticsearch.
//!
//! Lines that real Flink processes printed are embedded in the binary. The demo writes them live
//! into a temporary tree, with a rotation half-way, starts this program again as the agent, and
//! shows some of the documents that it writes, one joined stack trace whole, and the counters.
//! [`tree`] writes the logs and serves tests and benches too, [`plan`] and [`render`] are pure,
//! [`agent`] is the child process. Needs nothing but the binary and a writable temporary folder,
//! which is gone afterwards. Takes at most 15 s.

mod agent;
mod plan;
mod render;
pub mod tree;

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};

use agent::Agent;
use plan::{Counters, Paths, Verdict, Written};
use render::{Palette, Showcase};
use tree::{Captures, Options, Tree};

use crate::telemetry::terminal::escape;

/// A JobManager from its start to running jobs, and a TaskManager with stack traces that a job
/// printed: Flink 1.20 with log4j2's ECS layout.
const LINES: [(&str, &[u8]); 3] = [
    ("jobmanager.0.stdout.log.gz", include_bytes!("lines/jobmanager.0.stdout.log.gz")),
    ("taskmanager-1.0.stdout.log.gz", include_bytes!("lines/taskmanager-1.0.stdout.log.gz")),
    ("taskmanager-1.0.stderr.log.gz", include_bytes!("lines/taskmanager-1.0.stderr.log.gz")),
];

/// Runs the demo on standard output. `true` if every line came out, exactly once.
///
/// # Errors
/// If the temporary folder can't be written, the agent doesn't start or ends by itself, or
/// standard output is closed.
pub fn run() -> anyhow::Result<bool> {
    let output = io::stdout();
    let palette = if output.is_terminal() { Palette::Colour } else { Palette::Plain };
    Demo::prepare(palette)?.run(&mut output.lock())
}

/// The effects of one demo.
struct Demo {
    folder: tempfile::TempDir,
    tree: Tree,
    paths: Paths,
    palette: Palette,
    port: u16,
}

impl Demo {
    /// Writes the configuration and opens empty logs.
    fn prepare(palette: Palette) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let options =
            Options { pods: 2, rotate_bytes: None, start_ns: now_ns(), ..Options::default() };
        let tree = Tree::create(folder.path(), &embedded()?, &options)?;
        let paths = Paths::beneath(folder.path());
        let port = agent::free_port().context("cannot find a free port on the loopback")?;
        std::fs::create_dir(&paths.pipelines)?;
        std::fs::write(paths.pipelines.join("demo.yaml"), plan::pipeline(&paths))?;
        let config = plan::agent_config(tree.root(), tree.pods_file(), &paths, port);
        std::fs::write(&paths.config, config)?;
        Ok(Self { folder, tree, paths, palette, port })
    }

    fn run(mut self, out: &mut impl Write) -> anyhow::Result<bool> {
        let title = "Flink's containers write, the agent follows. Some of its documents:";
        writeln!(out, "{}\n", self.palette.title(title))?;
        let mut agent = Agent::start(&self.paths.config, &self.paths.agent_log, self.port)
            .context("cannot start the agent")?;
        let mut documents = Documents::new(self.palette);
        self.write_live(&mut agent, &mut documents, out)?;
        let verdict = self.wait_for_all(&mut agent, &mut documents, out)?;
        agent.stop(Instant::now() + plan::STOPPING).context("cannot stop the agent")?;

        writeln!(out, "\n{}", self.palette.title(&verdict.line()))?;
        if !verdict.is_complete() {
            writeln!(out, "not every line came out once; the agent said:\n{}", self.agent_log())?;
        }
        self.folder.close().context("cannot remove the temporary folder")?;
        Ok(verdict.is_complete())
    }

    fn write_live(
        &mut self,
        agent: &mut Agent,
        documents: &mut Documents,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let mut next = Instant::now();
        for step in plan::steps() {
            for (pod, lines) in self.tree.pods_mut().iter_mut().zip(step.lines) {
                pod.set_time(now_ns());
                pod.write_lines(lines)?;
                if step.rotate {
                    pod.rotate()?;
                }
            }
            documents.show(&self.paths.documents, out)?;
            self.check(agent)?;
            next += plan::TICK;
            wait_until(next);
        }
        Ok(())
    }

    /// Shows documents until the agent's counters have all lines, or for as long as the plan says.
    fn wait_for_all(
        &self,
        agent: &mut Agent,
        documents: &mut Documents,
        out: &mut impl Write,
    ) -> anyhow::Result<Verdict> {
        let total = self.tree.total();
        let written = Written {
            lines: total.lines,
            json_lines: total.json_lines,
            rotations: total.rotations,
        };
        let deadline = Instant::now() + plan::WAITING;
        loop {
            // An agent that doesn't answer yet has counted nothing yet.
            let metrics = agent.metrics().unwrap_or_default();
            documents.show(&self.paths.documents, out)?;
            let counters = Counters::read(&metrics);
            let verdict = Verdict { written, counters, tally: documents.showcase.tally() };
            if verdict.is_complete() || Instant::now() >= deadline {
                return Ok(verdict);
            }
            self.check(agent)?;
            wait_until(Instant::now() + plan::TICK);
        }
    }

    fn check(&self, agent: &mut Agent) -> anyhow::Result<()> {
        match agent.ended()? {
            Some(status) => bail!("the agent ended by itself ({status}):\n{}", self.agent_log()),
            None => Ok(()),
        }
    }

    /// The end of what the agent said, fit for a terminal.
    fn agent_log(&self) -> String {
        let log = std::fs::read(&self.paths.agent_log).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<_> = text.lines().map(escape).collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

/// Follows the file that the agent writes.
struct Documents {
    showcase: Showcase,
    reader: Option<BufReader<File>>,
    /// The beginning of a line whose end wasn't there yet.
    open: Vec<u8>,
}

impl Documents {
    fn new(palette: Palette) -> Self {
        Self { showcase: Showcase::new(palette), reader: None, open: Vec::new() }
    }

    /// Shows what is new at `path`, which need not be there yet.
    fn show(&mut self, path: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        if self.reader.is_none() {
            self.reader = match File::open(path) {
                Ok(file) => Some(BufReader::new(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error).context("cannot read the agent's documents"),
            };
        }
        let Some(reader) = &mut self.reader else { return Ok(()) };
        while reader.read_until(b'\n', &mut self.open)? > 0 {
            if self.open.last() != Some(&b'\n') {
                break;
            }
            for line in self.showcase.take(&self.open) {
                writeln!(out, "{line}")?;
            }
            self.open.clear();
        }
        out.flush()?;
        Ok(())
    }
}

fn embedded() -> Result<Captures, tree::TreeError> {
    Captures::parse(&LINES, Path::new("the binary"))
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Keeps the pace: returns at `moment`, or at once if it has passed.
fn wait_until(moment: Instant) {
    while let Some(left) = moment.checked_duration_since(Instant::now()) {
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_lines_have_what_the_demo_promises() {
        let embedded_bytes: usize = LINES.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(embedded_bytes < 100 * 1024);
        let demo = Demo::prepare(Palette::Plain).unwrap();
        let Demo { mut tree, paths, .. } = demo;
        for step in plan::steps() {
            for (pod, lines) in tree.pods_mut().iter_mut().zip(step.lines) {
                pod.write_lines(lines).unwrap();
            }
        }
        let total = tree.total();
        assert!(total.json_lines > 100 && total.lines - total.json_lines > 100);
        assert!(total.stderr_lines > 20 && total.split_lines == 0);
        let log = std::fs::read_to_string(tree.pods()[1].live_path()).unwrap();
        for part in ["Caused by: ", "Suppressed: ", "\tat ", "entrypoint: "] {
            assert!(log.contains(part), "{part}");
        }
        assert!(paths.config.starts_with(demo.folder.path()));
    }

    #[test]
    fn documents_are_followed_over_half_written_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("documents.ndjson");
        let mut documents = Documents::new(Palette::Plain);
        let mut out = Vec::new();
        documents.show(&path, &mut out).unwrap();
        std::fs::write(&path, "{\"message\":\"fi").unwrap();
        documents.show(&path, &mut out).unwrap();
        assert_eq!(documents.showcase.tally().documents, 0);
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"rst\"}\n{\"message\":\"second\"}\n").unwrap();
        documents.show(&path, &mut out).unwrap();
        assert_eq!(documents.showcase.tally().documents, 2);
        assert!(String::from_utf8(out).unwrap().contains("first"));
    }
}
