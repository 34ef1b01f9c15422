//! What the demo does, as values: its pace, the files that configure the agent, its verdict.
//!
//! Pure. The configuration is written as JSON, which is YAML too and needs no care with quotes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::render::Tally;

/// How long lines are written, and between two writes.
pub(super) const WRITING: Duration = Duration::from_secs(5);
pub(super) const TICK: Duration = Duration::from_millis(50);

/// How long the last documents are waited for: an open record ends after a second of silence.
pub(super) const WAITING: Duration = Duration::from_secs(5);

/// How long the agent gets to stop.
pub(super) const STOPPING: Duration = Duration::from_secs(3);

/// Lines per tick: the JobManager's, the TaskManager's.
const LINES_PER_TICK: [u64; 2] = [1, 3];

/// One step of the writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// For each pod in turn.
    pub(super) lines: [u64; 2],
    /// Rotate the logs after the lines, as the kubelet does.
    pub(super) rotate: bool,
}

/// The steps of the writing, one per tick, with one rotation half-way.
pub(super) fn steps() -> impl Iterator<Item = Step> {
    let count = WRITING.as_millis() / TICK.as_millis();
    (0..count).map(move |n| Step { lines: LINES_PER_TICK, rotate: n == count / 2 })
}

/// Where everything of one demo lies.
#[derive(Debug)]
pub(super) struct Paths {
    pub(super) config: PathBuf,
    pub(super) pipelines: PathBuf,
    pub(super) documents: PathBuf,
    pub(super) agent_log: PathBuf,
    pub(super) state: PathBuf,
}

impl Paths {
    pub(super) fn beneath(folder: &Path) -> Self {
        Self {
            config: folder.join("agent.yaml"),
            pipelines: folder.join("pipelines"),
            documents: folder.join("documents.ndjson"),
            agent_log: folder.join("agent.log"),
            state: folder.join("state"),
        }
    }
}

/// The agent's configuration for the tree at `root`.
pub(super) fn agent_config(root: &Path, pods: &Path, paths: &Paths, port: u16) -> String {
    json!({
        "logs": {"root": root, "rescan": "200ms"},
        "state": {"dir": paths.state},
        "kubernetes": {"source": "file", "file": pods},
        "telemetry": {"listen": format!("127.0.0.1:{port}")},
        "pipelines": paths.pipelines,
    })
    .to_string()
}

/// The one pipeline: what Flink wrote, stack traces joined, into a file.
pub(super) fn pipeline(paths: &Paths) -> String {
    json!({
        "pipeline": "demo",
        "select": [{"select": {"labels": {"type": "flink-*"}}}],
        "parse": {"json": {"time": "@timestamp"}, "multiline": "java"},
        "output": {"file": {"path": paths.documents, "batch": {"linger": "200ms"}}},
    })
    .to_string()
}

/// The agent's own counters for lines, by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) indexed: u64,
    pub(super) refused: u64,
    pub(super) filtered: u64,
}

impl Counters {
    /// Reads `splashdam_lines_total` in Prometheus' text format; what isn't there is 0.
    pub(super) fn read(metrics: &str) -> Self {
        let total = |outcome: &str| -> u64 {
            let wanted = format!("outcome=\"{outcome}\"");
            (metrics.lines())
                .filter(|line| line.starts_with("splashdam_lines_total{") && line.contains(&wanted))
                .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
                .sum()
        };
        Self { indexed: total("indexed"), refused: total("refused"), filtered: total("filtered") }
    }

    pub(super) fn sum(self) -> u64 {
        self.indexed + self.refused + self.filtered
    }
}

/// What the containers wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) lines: u64,
    pub(super) json_lines: u64,
    pub(super) rotations: u64,
}

/// What the demo came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) written: Written,
    pub(super) counters: Counters,
    pub(super) tally: Tally,
}

impl Verdict {
    /// Every line has its outcome, none was refused, and every numbered line came out once.
    pub(super) fn is_complete(&self) -> bool {
        self.counters.sum() == self.written.lines
            && self.counters.refused == 0
            && self.tally.numbered == self.written.json_lines
            && self.tally.repeated == 0
            && self.tally.unreadable == 0
    }

    /// Lines without an outcome, or JSON lines that are in no document, whichever are more.
    fn missing(&self) -> u64 {
        let without_outcome = self.written.lines.saturating_sub(self.counters.sum());
        without_outcome.max(self.written.json_lines.saturating_sub(self.tally.numbered))
    }

    /// The line of counters at the end.
    pub(super) fn line(&self) -> String {
        let Self { written, counters, tally } = self;
        format!(
            "{} lines written, {} rotations; {} indexed, {} filtered, {} refused; \
             {} documents, {} of them joined; {} lines missing, {} twice",
            written.lines,
            written.rotations,
            counters.indexed,
            counters.filtered,
            counters.refused,
            tally.documents,
            tally.joined,
            self.missing(),
            tally.repeated,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: Written = Written { lines: 10, json_lines: 4, rotations: 2 };
    const TALLY: Tally = Tally { documents: 6, joined: 1, numbered: 4, repeated: 0, unreadable: 0 };

    #[test]
    fn the_whole_demo_fits_fifteen_seconds() {
        assert!(WRITING + WAITING + STOPPING <= Duration::from_secs(14));
        assert_eq!(steps().count(), 100);
        assert_eq!(steps().filter(|step| step.rotate).count(), 1);
    }

    #[test]
    fn counters_are_read_from_metrics() {
        let metrics = concat!(
            "# TYPE splashdam_lines_total counter\n",
            "splashdam_lines_total{pipeline=\"demo\",outcome=\"indexed\"} 7\n",
            "splashdam_lines_total{outcome=\"filtered\",pipeline=\"demo\"} 3\n",
            "splashdam_lines_read_total 99\n",
        );
        let counters = Counters::read(metrics);
        assert_eq!(counters, Counters { indexed: 7, refused: 0, filtered: 3 });
        assert_eq!(Counters::read("").sum(), 0);
    }

    #[test]
    fn only_what_adds_up_is_complete() {
        let counters = Counters { indexed: 9, refused: 0, filtered: 1 };
        let verdict = Verdict { written: WRITTEN, counters, tally: TALLY };
        assert!(verdict.is_complete());
        assert_eq!(
            verdict.line(),
            "10 lines written, 2 rotations; 9 indexed, 1 filtered, 0 refused; \
             6 documents, 1 of them joined; 0 lines missing, 0 twice"
        );
        let check = |counters, tally| {
            assert!(!Verdict { written: WRITTEN, counters, tally }.is_complete());
        };
        check(Counters { indexed: 8, ..counters }, TALLY);
        check(Counters { indexed: 8, refused: 1, filtered: 1 }, TALLY);
        let one_gone = Tally { numbered: 3, ..TALLY };
        check(counters, one_gone);
        let verdict = Verdict { tally: one_gone, ..verdict };
        assert!(verdict.line().ends_with("1 lines missing, 0 twice"));
        check(counters, Tally { repeated: 1, ..TALLY });
    }

    #[test]
    fn the_configuration_names_every_file() {
        let paths = Paths::beneath(Path::new("/d \"q\""));
        let config = agent_config(Path::new("/d/pods"), Path::new("/d/pods.json"), &paths, 4242);
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["state"]["dir"], "/d \"q\"/state");
        assert_eq!(config["telemetry"]["listen"], "127.0.0.1:4242");
        let pipeline: serde_json::Value = serde_json::from_str(&pipeline(&paths)).unwrap();
        assert_eq!(pipeline["output"]["file"]["path"], "/d \"q\"/documents.ndjson");
    }
}
