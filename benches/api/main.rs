//! What agents cost the API server, and what its pods cost them in memory.
//!
//!     tests/with-servers cargo bench --bench api
//!
//! Agents are processes of the program, one for each node of a real kube-apiserver, on trees without
//! a line of log. All they ask goes through a [`Meter`]. The first agent has a meter of its own, so
//! that one can be told from many. Without `--bench` only the meter is checked.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measures")]

mod agent;
mod cluster;
mod meter;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use agent::Agent;
use cluster::{Cluster, Usage, address};
use meter::{Counts, Meter, sum};

/// What the memory of an agent may come to: `memory.budget` and 32 MiB.
const MEMORY_MAX: u64 = 96 << 20;

/// After so long something that has to happen has not.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Parser)]
struct Options {
    /// Given by `cargo bench`.
    #[arg(long)]
    bench: bool,
    /// Processes, each with a node of its own.
    #[arg(long, default_value_t = 200)]
    agents: usize,
    /// Pods on each node.
    #[arg(long, default_value_t = 30)]
    pods: usize,
    /// About how large the object of a pod is.
    #[arg(long, default_value_t = 8)]
    pod_kib: usize,
    /// How long nothing happens; a watch is renewed after 230 to 290 s.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Pods whose labels are changed.
    #[arg(long, default_value_t = 100)]
    changes: usize,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    meter::check()?;
    if !options.bench {
        return Ok(());
    }
    ensure!(options.agents > 1 && options.pods > 0, "there is nothing to compare");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(&options))
}

async fn measure(options: &Options) -> anyhow::Result<()> {
    let file = std::env::var("KUBECONFIG");
    let file =
        file.context("KUBECONFIG is not set; run: tests/with-servers cargo bench --bench api")?;
    let admin = Kubeconfig::read_from(&file)?;
    let config =
        Config::from_custom_kubeconfig(admin.clone(), &KubeConfigOptions::default()).await?;
    let (server, tls) = (address(&config)?, tls(&config)?);
    let admin = serde_json::to_value(&admin)?;
    let cluster = Cluster::new(config).await?;
    let Options { agents, pods, .. } = *options;
    let (crowded, large) = (agents, agents + 1);
    cluster.fill(0..agents, pods, options.pod_kib << 10).await?;
    cluster.fill(crowded..crowded + 1, 500, options.pod_kib << 10).await?;
    cluster.fill(large..large + 1, 1, 1 << 20).await?;

    let folder = tempfile::tempdir()?;
    let mut meters = Vec::new();
    let mut ways = Vec::new();
    for number in 0..4 {
        let meter = Meter::start(server, tls.clone()).await?;
        let path = folder.path().join(format!("kubeconfig-{number}"));
        std::fs::write(&path, kubeconfig(&admin, &meter).to_string())?;
        meters.push(meter);
        ways.push(path);
    }
    let fleet = Fleet { cluster, folder: folder.path(), meters, ways };
    println!("{agents} agents, each with {pods} pods of about {} KiB", options.pod_kib);
    let outcome = fleet.run(options, crowded, large).await;
    fleet.cluster.clear(agents + 2).await?;
    outcome
}

struct Fleet<'a> {
    cluster: Cluster,
    folder: &'a Path,
    /// Of the first agent, of the others, and of the two whose memory is looked at.
    meters: Vec<Meter>,
    ways: Vec<PathBuf>,
}

impl Fleet<'_> {
    async fn run(&self, options: &Options, crowded: usize, large: usize) -> anyhow::Result<()> {
        let Options { agents, pods, changes, .. } = *options;
        let rest = agents - 1;
        let (quiet, _) = self.idle(options.seconds.min(60)).await?;
        println!("server alone: {:.2} % of a core", quiet * 100.0);

        let first = self.start(0, 0)?;
        let before = Counts::default();
        self.wait(0, "the first agent's list", |now| now.event("BOOKMARK") >= 1).await?;
        print("start of one", &self.meters[0].counts().since(&before), 1.0);

        let before = self.meters[0].counts();
        self.cluster.change(0..1, changes).await?;
        let wanted = u64::try_from(changes)?;
        self.wait(0, "the changes", |now| now.event("MODIFIED") >= wanted).await?;
        print("each change of a pod", &self.meters[0].counts().since(&before), changes as f64);

        let (usage, began) = (self.cluster.usage().await?, Instant::now());
        let others = (1..agents).map(|node| self.start(node, 1)).collect::<Result<Vec<_>, _>>()?;
        let listed = u64::try_from(rest * pods)?;
        self.wait(1, "the lists of the others", |now| now.event("ADDED") >= listed).await?;
        let took = began.elapsed();
        print(&format!("start of {rest} more, each"), &self.meters[1].counts(), rest as f64);
        let after = self.cluster.usage().await?;
        println!(
            "    all there after {:.1} s; server: {:.2} s of CPU, {:+.0} MiB resident",
            took.as_secs_f64(),
            after.cpu_seconds - usage.cpu_seconds,
            (after.resident_bytes - usage.resident_bytes) / f64::from(1 << 20),
        );

        let before = sum(&self.meters);
        self.cluster.change(0..agents, changes).await?;
        let wanted = before.event("MODIFIED") + u64::try_from(changes)?;
        self.wait_sum("the changes", |now| now.event("MODIFIED") >= wanted).await?;
        let told = sum(&self.meters).since(&before);
        print(&format!("each change of a pod, {agents} agents"), &told, changes as f64);

        let before: Vec<Counts> = self.meters.iter().map(Meter::counts).collect();
        let (busy, time) = self.idle(options.seconds).await?;
        let hour = time.as_secs_f64() / 3600.0;
        println!(
            "nothing happens for {:.0} s; server: {:.2} % of a core",
            time.as_secs_f64(),
            busy * 100.0
        );
        let told = |meter: usize| self.meters[meter].counts().since(&before[meter]);
        println!("    the first: {:?} {:?}", told(0).requests, told(0).events);
        println!("    the others: {:?} {:?}", told(1).requests, told(1).events);
        print("an hour of one", &told(0), hour);
        print("an hour of each of the others", &told(1), hour * rest as f64);
        memory("one of them", std::iter::once(&first).chain(&others))?;
        drop((first, others));

        self.memory_of(crowded, 2, 500, changes, "with 500 pods").await?;
        self.memory_of(large, 3, 1, changes, "with a pod of 1 MiB").await
    }

    /// What the agent of a node with so many pods takes, of which some change.
    async fn memory_of(
        &self,
        node: usize,
        meter: usize,
        pods: u64,
        changes: usize,
        what: &str,
    ) -> anyhow::Result<()> {
        let agent = self.start(node, meter)?;
        self.wait(meter, what, |now| now.event("ADDED") >= pods).await?;
        self.cluster.change(node..node + 1, changes).await?;
        let changes = u64::try_from(changes)?;
        self.wait(meter, "the changes", |now| now.event("MODIFIED") >= changes).await?;
        memory(what, [&agent])
    }

    fn start(&self, node: usize, meter: usize) -> anyhow::Result<Agent> {
        Agent::start(self.folder, &self.cluster.node(node), &self.ways[meter])
    }

    async fn wait(
        &self,
        meter: usize,
        what: &str,
        done: impl Fn(&Counts) -> bool,
    ) -> anyhow::Result<()> {
        wait(what, || done(&self.meters[meter].counts())).await
    }

    async fn wait_sum(&self, what: &str, done: impl Fn(&Counts) -> bool) -> anyhow::Result<()> {
        wait(what, || done(&sum(&self.meters))).await
    }

    /// Lets `seconds` pass; the share of a core that the server took, and how long it really was.
    async fn idle(&self, seconds: u64) -> anyhow::Result<(f64, Duration)> {
        let (before, began): (Usage, _) = (self.cluster.usage().await?, Instant::now());
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let after = self.cluster.usage().await?;
        let took = began.elapsed();
        Ok(((after.cpu_seconds - before.cpu_seconds) / took.as_secs_f64(), took))
    }
}

async fn wait(what: &str, done: impl Fn() -> bool) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !done() {
        ensure!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // and what else comes with it
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(())
}

/// A row: what `counts` come to for each of `times`.
fn print(what: &str, counts: &Counts, times: f64) {
    let each = |count: u64| count as f64 / times;
    let requests: u64 = counts.requests.values().sum();
    println!(
        "{what}: {:.2} connections, {:.2} requests, {:.1} KiB asked and {:.1} KiB told \
         ({:.1} and {:.1} with TLS), {:.2} events, {:.2} bookmarks",
        each(counts.connections),
        each(requests),
        each(counts.asked) / 1024.0,
        each(counts.told) / 1024.0,
        each(counts.asked_wire) / 1024.0,
        each(counts.told_wire) / 1024.0,
        each(counts.events.values().sum::<u64>() - counts.event("BOOKMARK")),
        each(counts.event("BOOKMARK")),
    );
}

fn memory<'a>(what: &str, agents: impl IntoIterator<Item = &'a Agent>) -> anyhow::Result<()> {
    let peaks: Vec<u64> = agents.into_iter().map(Agent::peak_bytes).collect::<Result<_, _>>()?;
    let peak = peaks.into_iter().max().context("no agent")?;
    println!("peak resident memory, {what}: {:.1} MiB", peak as f64 / f64::from(1 << 20));
    ensure!(peak <= MEMORY_MAX, "MISSED: more than {} MiB", MEMORY_MAX >> 20);
    Ok(())
}

/// Leads the administrator to the meter.
fn kubeconfig(admin: &Value, meter: &Meter) -> Value {
    let mut config = admin.clone();
    config["clusters"][0]["cluster"] = json!({"server": format!("http://{}", meter.address)});
    config
}

/// Trusts whom `config` trusts.
fn tls(config: &Config) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for root in config.root_cert.iter().flatten() {
        roots.add(root.clone().into())?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
