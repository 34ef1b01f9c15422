//! `splashdam explain`: for the lines of a log file, which pipeline takes them and why, and the
//! document that would be indexed.
//!
//! Reads the file on the very way that the agent does, into a batch that is printed instead of
//! sent. Touches no output and no state. The pod comes from the file's path, or from `--pod`.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::agent::now_ns;
use crate::checkpoint::Checkpoint;
use crate::config::agent::{FlinkWatch, PodSource};
use crate::config::pipeline::{IndexName, Target};
use crate::config::{Agent, Loaded, Pipeline};
use crate::discover::{self, FileSeen, PartKind, StreamName};
use crate::document::splice::Scratch;
use crate::enrich::pods_file::PodsFile;
use crate::enrich::select::needs_namespace_labels;
use crate::enrich::{self, PodFacts, PodStore};
use crate::filter::Filters;
use crate::parse::FrameScratch;
use crate::parse::record::LongBuffers;
use crate::pipeline::batch::Framing;
use crate::pipeline::budget::Budget;
use crate::pipeline::form;
use crate::pipeline::open::{OpenBatch, Shape, Spares};
use crate::pipeline::place::{Ground, Place, StreamState};
use crate::pipeline::reader::{Desk, Shipping, Turn};
use crate::tail::file::{modified_ns, open_regular};

/// How long the API server is waited for.
const API_WAIT: Duration = Duration::from_secs(10);

/// Explains `logs`, of `pod` (namespace and name) where it is given.
///
/// # Errors
/// A file can't be read, its path says no pod and none is given, or the pods can't be had.
pub fn explain(
    loaded: &Loaded,
    logs: &[&Path],
    pod: Option<(&str, &str)>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let pods = Pods::load(loaded)?;
    for log in logs {
        let (name, facts) = pods.of(log, pod)?;
        writeln!(out, "{}: {name}", log.display())?;
        if facts.is_none() {
            writeln!(out, "  the pod is not known: only its path counts")?;
        }
        explain_file(loaded, log, name, facts, out).with_context(|| log.display().to_string())?;
    }
    Ok(())
}

/// All pods that are known.
struct Pods(Arc<PodStore>);

impl Pods {
    fn load(loaded: &Loaded) -> anyhow::Result<Self> {
        let store = Arc::new(PodStore::new(Arc::new(|_| ())));
        if loaded.pipelines.iter().any(|pipeline| needs_namespace_labels(&pipeline.select)) {
            store.require_namespaces();
        }
        let agent = &loaded.agent;
        match &agent.kubernetes.source {
            PodSource::None => {}
            PodSource::File(path) => {
                let mut file = PodsFile::new(path.clone(), Arc::clone(&store));
                file.reload_if_changed();
                if let Some(trouble) = file.trouble() {
                    bail!("{trouble}");
                }
            }
            PodSource::Api => watch_until_in_sync(agent, &store)?,
        }
        Ok(Self(store))
    }

    /// The stream that `log` belongs to, and its pod.
    fn of(
        &self,
        log: &Path,
        pod: Option<(&str, &str)>,
    ) -> anyhow::Result<(StreamName, Option<Arc<PodFacts>>)> {
        let by_path = stream_of(log);
        match (pod, by_path) {
            (None, Some(name)) => {
                let facts = self.0.lookup(&name);
                Ok((name, facts))
            }
            (Some((namespace, pod)), by_path) => {
                let facts = self.0.find(namespace, pod);
                let container =
                    facts.as_ref().and_then(|facts| facts.containers.keys().next().cloned());
                let name = by_path.unwrap_or_else(|| StreamName {
                    namespace: namespace.to_owned(),
                    pod: pod.to_owned(),
                    uid: facts
                        .as_ref()
                        .map_or_else(|| "unknown".to_owned(), |facts| facts.uid.clone()),
                    container: container.unwrap_or_else(|| "unknown".to_owned()),
                    restart: 0,
                });
                Ok((
                    StreamName { namespace: namespace.to_owned(), pod: pod.to_owned(), ..name },
                    facts,
                ))
            }
            (None, None) => bail!(
                "{}: the path is not .../<namespace>_<pod>_<uid>/<container>/<restart>.log; say whose it is with --pod NAMESPACE/NAME",
                log.display()
            ),
        }
    }
}

fn watch_until_in_sync(agent: &Agent, store: &Arc<PodStore>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // What Flink's operator says comes when it comes; nobody waits for it here.
        let node = agent.node_name.clone();
        let watch = enrich::pods_api::start(Arc::clone(store), node, FlinkWatch::Off);
        let in_sync = async {
            while !store.in_sync() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(API_WAIT, in_sync).await;
        watch.abort();
        waited.context("the API server did not tell the pods; a list of them can be given with kubernetes.source: file")
    })
}

/// What the path of a log file says.
fn stream_of(log: &Path) -> Option<StreamName> {
    let log = std::path::absolute(log).ok()?;
    let (restart, _) = discover::path::part(log.file_name()?)?;
    let container = log.parent()?;
    let pod = discover::path::pod_directory(container.parent()?.file_name()?)?;
    let container = discover::path::container_directory(container.file_name()?)?;
    let discover::path::PodName { namespace, pod, uid } = pod;
    Some(StreamName { namespace, pod, uid, container, restart })
}

fn explain_file(
    loaded: &Loaded,
    log: &Path,
    name: StreamName,
    facts: Option<Arc<PodFacts>>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    // Who names a file means what it leads to: docker's logs are links in the kubelet's tree.
    let log = &std::fs::canonicalize(log)?;
    let (_, metadata) = open_regular(log)?;
    let compressed = log.extension().is_some_and(|extension| extension == "gz");
    let seen = FileSeen {
        path: log.to_owned(),
        kind: if compressed { PartKind::Gzip } else { PartKind::Live },
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.len(),
        modified_ns: modified_ns(&metadata),
    };
    let pipelines: Vec<Arc<Pipeline>> = loaded.pipelines.iter().cloned().map(Arc::new).collect();
    let mut stream = StreamState::new(name, pipelines.len());
    stream.facts = facts;
    stream.files = vec![seen];
    let refreshed = stream.tail.refresh(&stream.files, true, loaded.agent.logs.format);
    if let Some((_, error)) = refreshed.failed.into_iter().next() {
        return Err(error.into());
    }
    let ground = Ground {
        agent: &loaded.agent,
        pipelines: &pipelines,
        names: pipelines.iter().map(|pipeline| form::names(pipeline)).collect(),
        checkpoint: &Checkpoint::new(),
        first_start: None,
        began_ns: now_ns(),
        suspects: &[],
        by_path: true,
        without_status: true,
        source_told: true,
    };
    stream.decide(&ground);
    for (index, pipeline) in pipelines.iter().enumerate() {
        let reason = enrich::select::reason(
            &pipeline.select,
            &stream.name,
            stream.facts.as_deref(),
            &loaded.agent.node_name,
        );
        writeln!(out, "  pipeline {}: {}", pipeline.name, verdict(&stream.places[index], &reason))?;
        if matches!(stream.places[index], Place::Reading(_)) {
            Reading::new(loaded, pipeline, &mut stream, index).all(out)?;
        }
    }
    Ok(())
}

fn verdict(place: &Place, reason: &str) -> String {
    match place {
        Place::Reading(_) => format!("takes it, {reason}"),
        Place::Left(_) => format!("leaves it, {reason}"),
        Place::Undecided => format!("can't tell, {reason}"),
    }
}

/// One pipeline's reading of the file.
struct Reading<'a> {
    loaded: &'a Loaded,
    pipeline: &'a Pipeline,
    stream: &'a mut StreamState,
    index: usize,
    budget: Budget,
    filters: Filters,
}

impl<'a> Reading<'a> {
    fn new(
        loaded: &'a Loaded,
        pipeline: &'a Pipeline,
        stream: &'a mut StreamState,
        index: usize,
    ) -> Self {
        let budget = Budget::new(loaded.agent.memory_budget_bytes, 1);
        let filters = Filters::new(&pipeline.filters, &form::names(pipeline));
        Self { loaded, pipeline, stream, index, budget, filters }
    }

    /// Reads to the end and prints every document.
    fn all(mut self, out: &mut impl Write) -> anyhow::Result<()> {
        let (mut filtered, mut documents) = (0, 0);
        loop {
            let (turn, batch) = self.turn();
            filtered += batch.tally.lines_filtered;
            documents += batch.items.len();
            self.print(&batch, out)?;
            match turn {
                Turn::More | Turn::BatchFull | Turn::NoRoom | Turn::Unsettled => {}
                Turn::End => break,
                Turn::NoDecoder | Turn::Changed | Turn::Failed => {
                    bail!("it can't be read to its end")
                }
            }
        }
        writeln!(out, "    {documents} documents, {filtered} lines blank or dropped by a filter")?;
        Ok(())
    }

    fn turn(&mut self) -> (Turn, OpenBatch) {
        let shape = Shape { gzip: false, ..Shape::of(&self.pipeline.output) };
        let mut batch = OpenBatch::new(shape, self.budget.permit(0), &Spares::new(shape));
        let mut desk = Desk {
            stream: &mut self.stream.tail,
            shipping: Shipping {
                name: &self.stream.name,
                batch: &mut batch,
                filters: &mut self.filters,
                scratch: &mut Scratch::default(),
            },
            buffer: &mut Vec::new(),
            frames: &mut FrameScratch::default(),
            long: &mut LongBuffers::default(),
            // Nothing is waited for: what is there now is all.
            now_ns: i64::MAX,
            ended: true,
            may_unpack: true,
            alone: true,
            line_bytes_max: self.loaded.agent.logs.max_line_bytes,
        };
        let reading = self.stream.places[self.index].reading().expect("only called while it reads");
        let turn = reading.reader.turn(&mut desk);
        (turn, batch)
    }

    fn print(&self, batch: &OpenBatch, out: &mut impl Write) -> anyhow::Result<()> {
        let mut lines = batch.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        while let Some(line) = lines.next() {
            let document = if batch.framing() == Framing::Bulk {
                writeln!(out, "    {}", self.address(line)?)?;
                lines.next().context("an action has a document")?
            } else {
                line
            };
            let document: Value = serde_json::from_slice(document)?;
            for line in serde_json::to_string_pretty(&document)?.lines() {
                writeln!(out, "    {line}")?;
            }
        }
        Ok(())
    }

    /// Where a document goes and under which id, from its action line.
    fn address(&self, action: &[u8]) -> anyhow::Result<String> {
        let action: Value = serde_json::from_slice(action)?;
        let create = &action["create"];
        let index = match (create["_index"].as_str(), &self.pipeline.output.target) {
            (Some(index), _) => index.to_owned(),
            (None, Target::Elasticsearch(elasticsearch)) => match &elasticsearch.index {
                IndexName::Fixed(name) | IndexName::ByDate(name) => name.clone(),
            },
            (None, Target::Stdout | Target::File(_)) => String::new(),
        };
        Ok(format!("index {index}, _id {}", create["_id"].as_str().unwrap_or_default()))
    }
}
