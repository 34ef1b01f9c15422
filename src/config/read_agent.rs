//! From the agent's file to [`Agent`]: keys, ranges and what must fit together.

use std::path::PathBuf;
use std::time::Duration;

use super::agent::{
    Agent, FlinkWatch, Held, Kubernetes, LineFormat, Logs, PodSource, Start, State,
};
use super::environment::Environment;
use super::setting::{Section, Setting};
use super::text_file;
use super::units::{self, GIB, KIB, MIB};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// The variable that names the node where `node_name` isn't set.
const NODE_NAME: &str = "NODE_NAME";

/// Where `kubernetes.file` is unless it is set.
const PODS_FILE: &str = "pods.json";

/// Reads the settings; with problems recorded the result only serves to find more of them.
pub(super) fn read(root: Setting<'_>, environment: &Environment) -> Agent {
    let default = Agent::default();
    let agent = root.section(|s| {
        let node_name = match s.get("node_name") {
            Some(name) => name.text().unwrap_or_default(),
            None => environment.get(NODE_NAME).unwrap_or_default().to_owned(),
        };
        let logs = s.section("logs", logs);
        let held = s.section("held", held);
        let state = s.section("state", state);
        let memory_budget_bytes = s.section("memory", |s| {
            let budget = s.get("budget").and_then(|budget| budget.size(8 * MIB..=64 * GIB));
            budget.unwrap_or(default.memory_budget_bytes)
        });
        let threads = s.get("threads").and_then(|threads| threads.number(1..=64));
        let kubernetes = s.section("kubernetes", kubernetes);
        let drain = s.section("shutdown", |s| {
            let drain = s.get("drain").and_then(|drain| drain.duration(Duration::ZERO..=HOUR));
            drain.unwrap_or(default.drain)
        });
        let telemetry_listen = s.section("telemetry", |s| {
            s.not_yet("status_listen");
            s.get("listen").and_then(Setting::listen).unwrap_or(default.telemetry_listen)
        });
        Agent {
            node_name,
            logs,
            held,
            state,
            memory_budget_bytes,
            threads: threads.unwrap_or(default.threads),
            kubernetes,
            drain,
            telemetry_listen,
            pipelines: path(s, "pipelines", default.pipelines),
            secrets: path(s, "secrets", default.secrets),
        }
    });
    let agent = agent.unwrap_or_default();
    check_together(root, &agent);
    agent
}

fn path(s: &mut Section<'_>, key: &'static str, default: PathBuf) -> PathBuf {
    s.get(key).and_then(Setting::path).unwrap_or(default)
}

fn logs(s: &mut Section<'_>) -> Logs {
    let default = Agent::default().logs;
    let formats =
        [("auto", LineFormat::Auto), ("cri", LineFormat::Cri), ("docker", LineFormat::Docker)];
    Logs {
        root: path(s, "root", default.root),
        docker_root: path(s, "docker_root", default.docker_root),
        format: s.get("format").and_then(|f| f.choice(&formats)).unwrap_or(default.format),
        max_line_bytes: (s.get("max_line").and_then(|line| line.size(KIB..=16 * MIB)))
            .unwrap_or(default.max_line_bytes),
        start: s.get("start").and_then(start).unwrap_or(default.start),
        include_self: (s.get("include_self").and_then(Setting::boolean))
            .unwrap_or(default.include_self),
        rescan: (s.get("rescan"))
            .and_then(|rescan| rescan.duration(SECOND / 10..=5 * MINUTE))
            .unwrap_or(default.rescan),
    }
}

fn start(setting: Setting<'_>) -> Option<Start> {
    match setting.node.text() {
        Some("oldest") => Some(Start::Oldest),
        Some("newest") => Some(Start::Newest),
        Some(text) => match units::parse_duration(text) {
            Some(age) => Some(Start::Since(age)),
            None => setting.expected("`oldest`, `newest` or a duration such as 1h"),
        },
        None => setting.expected("`oldest`, `newest` or a duration such as 1h"),
    }
}

fn held(s: &mut Section<'_>) -> Held {
    let default = Agent::default().held;
    let size = |setting: Option<Setting<'_>>, default: u64| {
        let size = setting.and_then(|size| size.size(0..=1024 * GIB));
        size.map_or(default, |size| size as u64)
    };
    let max_files = s.get("max_files").and_then(|files| files.number(0..=1_000_000));
    Held {
        max_bytes: size(s.get("max_bytes"), default.max_bytes),
        max_files: max_files.map_or(default.max_files, |files| files as u64),
        spool_bytes: size(s.get("spool"), default.spool_bytes),
    }
}

fn state(s: &mut Section<'_>) -> State {
    let default = Agent::default().state;
    State {
        dir: path(s, "dir", default.dir),
        checkpoint_interval: (s.get("checkpoint_interval"))
            .and_then(|interval| interval.duration(SECOND / 10..=MINUTE))
            .unwrap_or(default.checkpoint_interval),
    }
}

fn kubernetes(s: &mut Section<'_>) -> Kubernetes {
    #[derive(Clone, Copy)]
    enum Source {
        Api,
        File,
        None,
    }
    let default = Agent::default().kubernetes;
    let sources = [("api", Source::Api), ("file", Source::File), ("none", Source::None)];
    let source = s.get("source").and_then(|source| source.choice(&sources));
    let file_setting = s.get("file");
    let file = file_setting.and_then(Setting::path).unwrap_or_else(|| PathBuf::from(PODS_FILE));
    let source = match source {
        None => default.source,
        Some(Source::Api) => PodSource::Api,
        Some(Source::None) => PodSource::None,
        Some(Source::File) => {
            if let Err(error) = std::fs::File::open(&file) {
                let why = text_file::reason(&error);
                file_setting.unwrap_or(s.here).error(format!(
                    "cannot read {}: {why}; write `kubectl get pods -A -o json` to it",
                    file.display()
                ));
            }
            PodSource::File(file)
        }
    };
    let watches = [("off", FlinkWatch::Off), ("watch", FlinkWatch::Watch)];
    let flink_setting = s.get("flink");
    let flink = flink_setting.and_then(|flink| flink.choice(&watches)).unwrap_or(default.flink);
    if let Some(setting) = flink_setting
        && flink == FlinkWatch::Watch
        && source != PodSource::Api
    {
        setting.error("`kubernetes.flink: watch` needs `kubernetes.source: api`");
    }
    Kubernetes {
        source,
        flink,
        unknown_pod_wait: (s.get("unknown_pod_wait"))
            .and_then(|wait| wait.duration(Duration::ZERO..=HOUR))
            .unwrap_or(default.unknown_pod_wait),
    }
}

/// What no key can tell alone.
fn check_together(root: Setting<'_>, agent: &Agent) {
    if agent.kubernetes.source == PodSource::Api && agent.node_name.is_empty() {
        let node = root.node.get("node_name").unwrap_or(root.node);
        Setting::new(node, root.report).error(
            "`node_name` is needed to ask for this node's pods: set the variable NODE_NAME from \
             the pod's `spec.nodeName`, or write `kubernetes: {source: none}`",
        );
    }
    let most = agent.memory_budget_bytes / 4;
    if agent.logs.max_line_bytes > most {
        let line = root.node.get("logs").and_then(|logs| logs.get("max_line"));
        let budget = root.node.get("memory").and_then(|memory| memory.get("budget"));
        let node = line.or(budget).unwrap_or(root.node);
        Setting::new(node, root.report).error(format!(
            "`logs.max_line` ({}) may be at most a quarter of `memory.budget`, that is {}",
            units::show_size(agent.logs.max_line_bytes as u64),
            units::show_size(most as u64)
        ));
    }
}
