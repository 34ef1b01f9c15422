//! The node: requests, and what they cost it.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::documents::{Documents, Way, body};

/// Requests in flight for an output of the agent's.
const CONNECTIONS: usize = 2;

/// How long a request may take; merging into one segment is the longest.
const PATIENCE: Duration = Duration::from_secs(600);

const NAME: &str = "splashdam-bench-ids";

/// Where documents go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Index,
    DataStream,
}

/// What one run came to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Run {
    per_second: f64,
    /// CPU seconds of the node per million documents, up to the last answer …
    index_cpu: f64,
    /// … and with all merged into one segment.
    whole_cpu: f64,
    /// Bytes on disk per document, merged into one segment …
    store: f64,
    /// … and those that its `_id` has of them.
    id_store: f64,
}

impl Run {
    pub(crate) const HEAD: &str =
        "   documents/s   CPU s/M   merged CPU s/M   bytes on disk   of them _id";

    fn figures(&self) -> [f64; 5] {
        [self.per_second, self.index_cpu, self.whole_cpu, self.store, self.id_store]
    }

    /// The median of each figure.
    pub(crate) fn median(runs: &[Self]) -> Self {
        let median = |figure: usize| {
            let mut figures: Vec<f64> = runs.iter().map(|run| run.figures()[figure]).collect();
            figures.sort_by(f64::total_cmp);
            figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
        };
        Self {
            per_second: median(0),
            index_cpu: median(1),
            whole_cpu: median(2),
            store: median(3),
            id_store: median(4),
        }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [per_second, index_cpu, whole_cpu, store, id_store] = self.figures();
        write!(f, "{per_second:14.0}{index_cpu:10.1}{whole_cpu:17.1}{store:16.1}{id_store:14.1}")
    }
}

/// A node of this machine.
pub(crate) struct Server {
    client: Client,
    runtime: Runtime,
    url: String,
    pid: u64,
    runs: u32,
}

impl Server {
    pub(crate) fn connect(url: &str) -> anyhow::Result<Self> {
        let client = Client::builder().no_proxy().timeout(PATIENCE).build()?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let mut server =
            Self { client, runtime, url: url.trim_end_matches('/').to_owned(), pid: 0, runs: 0 };
        let nodes = server.ask(Method::GET, "_nodes/process", &Value::Null)?;
        let mut nodes = nodes["nodes"].as_object().context("no nodes")?.values();
        server.pid = nodes.next().context("no node")?["process"]["id"].as_u64().context("no id")?;
        Ok(server)
    }

    /// Indexes `documents` into a fresh `place`, merges it and looks at it.
    pub(crate) fn run(
        &mut self,
        place: Place,
        way: Way,
        documents: &Documents,
    ) -> anyhow::Result<Run> {
        self.runs += 1;
        let name = format!("{NAME}-{}-{}", std::process::id(), self.runs);
        self.create(place, &name)?;
        let (before, start) = (self.cpu()?, Instant::now());
        self.runtime.block_on(self.send_all(&name, way, documents))?;
        let seconds = start.elapsed().as_secs_f64();
        let indexed = self.cpu()?;
        self.post(&format!("{name}/_forcemerge?max_num_segments=1"))?;
        let merged = self.cpu()?;
        self.post(&format!("{name}/_refresh"))?;
        let stats = self.ask(Method::GET, &format!("{name}/_stats/docs,store"), &Value::Null)?;
        let total = &stats["_all"]["primaries"];
        let count = documents.count as f64;
        ensure!(total["docs"]["count"].as_f64() == Some(count), "other documents: {total}");
        let run = Run {
            per_second: count / seconds,
            index_cpu: (indexed - before).as_secs_f64() / count * 1e6,
            whole_cpu: (merged - before).as_secs_f64() / count * 1e6,
            store: total["store"]["size_in_bytes"].as_f64().context("no size")? / count,
            id_store: self.id_bytes(&name)? / count,
        };
        self.remove(place, &name)?;
        Ok(run)
    }

    async fn send_all(&self, name: &str, way: Way, documents: &Documents) -> anyhow::Result<()> {
        let every = |first: usize| async move {
            let requests = documents.requests().enumerate();
            for (number, request) in requests.skip(first).step_by(CONNECTIONS) {
                let path = format!("{name}/_bulk?filter_path=errors,items.*.error.type");
                let body = body(request, way, number as u64);
                let answer = self.send(Method::POST, &path, Some(body)).await?;
                ensure!(answer["errors"] == Value::Bool(false), "{answer}");
            }
            Ok(())
        };
        tokio::try_join!(every(0), every(1))?;
        Ok(())
    }

    /// The first document makes a data stream.
    fn create(&self, place: Place, name: &str) -> anyhow::Result<()> {
        let settings = json!({"number_of_shards": 1, "number_of_replicas": 0});
        match place {
            Place::Index => self.ask(Method::PUT, name, &json!({"settings": settings}))?,
            Place::DataStream => {
                let template = json!({
                    "index_patterns": [name],
                    "data_stream": {},
                    "template": {"settings": settings},
                    "priority": 1000,
                });
                self.ask(Method::PUT, &format!("_index_template/{name}"), &template)?
            }
        };
        Ok(())
    }

    /// The tests' server lacks the module with the API for data streams: it makes and fills them, but
    /// they stay until its folder goes.
    fn remove(&self, place: Place, name: &str) -> anyhow::Result<()> {
        let paths: &[&str] = match place {
            Place::Index => &[""],
            Place::DataStream => &["_data_stream/", "_index_template/"],
        };
        for path in paths {
            match self.ask(Method::DELETE, &format!("{path}{name}"), &Value::Null) {
                Err(error) if error.to_string().starts_with("405") => return Ok(()),
                removed => removed?,
            };
        }
        Ok(())
    }

    /// What the `_id`s of all documents have on disk.
    fn id_bytes(&self, name: &str) -> anyhow::Result<f64> {
        let usage = self.post(&format!("{name}/_disk_usage?run_expensive_tasks=true"))?;
        let mut indices = usage.as_object().context("no usage")?.iter();
        let index = indices.find(|(name, _)| *name != "_shards");
        let (_, index) = index.context("no index")?;
        index["fields"]["_id"]["total_in_bytes"].as_f64().context("no _id")
    }

    fn post(&self, path: &str) -> anyhow::Result<Value> {
        self.ask(Method::POST, path, &Value::Null)
    }

    /// The answer; `null` is no body.
    fn ask(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = (!body.is_null()).then(|| body.to_string().into_bytes());
        self.runtime.block_on(self.send(method, path, body))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<Value> {
        let mut request = self.client.request(method, format!("{}/{path}", self.url));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let answer = request.send().await?;
        let (status, text) = (answer.status(), answer.bytes().await?);
        if !status.is_success() {
            bail!("{status}: {path}: {}", String::from_utf8_lossy(&text));
        }
        Ok(serde_json::from_slice(&text)?)
    }

    /// User and system time of the node, to a hundredth of a second.
    fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .context("the node has to run on this machine")?;
        let (_, fields) = stat.rsplit_once(')').context("/proc/<pid>/stat is odd")?;
        let mut fields = fields.split_ascii_whitespace().skip(11);
        let mut ticks = || fields.next().and_then(|ticks| ticks.parse::<u64>().ok());
        let ticks = ticks().zip(ticks()).map(|(user, system)| user + system);
        let per_second = u32::try_from(rustix::param::clock_ticks_per_second())?;
        Ok(Duration::from_secs(ticks.context("/proc/<pid>/stat is odd")?) / per_second)
    }
}
