//! A stream as a worker sees it: its files, its pod, and each pipeline's place in it.
//!
//! Owns the decision which pipelines read a stream and from where. A stream whose pod is not
//! known is undecided: nothing of it is read or passed over, its file is the buffer, and its
//! handles are held.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::form::{Form, Naming};
use super::in_hand::{Plain, Suspect};
use super::reader::Reader;
use crate::checkpoint::{Checkpoint, Entry, Key};
use crate::config::agent::Start;
use crate::config::pipeline::Target;
use crate::config::{Agent, Pipeline};
use crate::discover::{FileSeen, PartKind, StreamName};
use crate::document::Names;
use crate::document::splice::{Parts, Template};
use crate::enrich::select::decide;
use crate::enrich::{Decision, Metadata, PodFacts};
use crate::parse::record::Joiner;
use crate::pipeline::open::Shape;
use crate::tail::stream::SCANS_MIN;
use crate::tail::{self, PartId, Position};

/// One pipeline's relation to a stream.
#[derive(Debug)]
pub enum Place {
    /// It can't be said yet whether the pipeline takes the stream.
    Undecided,
    /// It does not take it; where it had come when it did.
    Left(Option<Box<Reader>>),
    Reading(Box<Reading>),
}

/// A reader and how it is scheduled.
#[derive(Debug)]
pub struct Reading {
    pub reader: Reader,
    /// It stands in a queue of the worker.
    pub queued: bool,
    /// Everything there is was taken.
    pub at_end: bool,
    /// Its acknowledged prefix or its cuts differ from what the checkpoint says.
    pub unsaved: bool,
}

impl Place {
    pub fn reading(&mut self) -> Option<&mut Reading> {
        match self {
            Self::Reading(reading) => Some(reading),
            Self::Undecided | Self::Left(_) => None,
        }
    }

    /// Its reader, also one that has left off.
    pub fn reader(&self) -> Option<&Reader> {
        match self {
            Self::Reading(reading) => Some(&reading.reader),
            Self::Left(reader) => reader.as_deref(),
            Self::Undecided => None,
        }
    }

    /// See [`Self::reader`].
    pub fn reader_mut(&mut self) -> Option<&mut Reader> {
        match self {
            Self::Reading(reading) => Some(&mut reading.reader),
            Self::Left(reader) => reader.as_deref_mut(),
            Self::Undecided => None,
        }
    }
}

/// What deciding needs to know of the process.
#[derive(Debug)]
pub struct Ground<'a> {
    pub agent: &'a Agent,
    pub pipelines: &'a [Arc<Pipeline>],
    /// The [names](super::form::names) of each one's documents.
    pub names: Vec<Arc<Names>>,
    /// What was remembered of a process before this one.
    pub checkpoint: &'a Checkpoint,
    /// The pipelines that there were when the process started for the very first time, if the stream
    /// was there then.
    pub first_start: Option<&'a BTreeSet<String>>,
    /// When the process started, nanoseconds since the epoch.
    pub began_ns: i64,
    /// No facts will come: path facts decide.
    pub by_path: bool,
    /// The source has told all that it knows, or it does not for so long that what was saved of an
    /// earlier process has to do.
    pub source_told: bool,
    /// What was in hand when earlier processes crashed.
    pub suspects: &'a [Suspect],
    /// A pod that is known counts even where its status does not speak of the container's run.
    pub without_status: bool,
}

/// A stream as a worker sees it.
#[derive(Debug)]
pub struct StreamState {
    pub name: Arc<StreamName>,
    pub tail: tail::Stream,
    pub files: Vec<FileSeen>,
    pub later_restart: bool,
    /// A file has no complete first line yet.
    pub unborn: bool,
    /// One of them isn't empty.
    pub unnamed: bool,
    /// No file is left in the directory.
    pub gone: bool,
    /// It is known which files there are.
    pub listed: bool,
    /// It was there when the process started for the very first time.
    pub from_before: bool,
    pub facts: Option<Arc<PodFacts>>,
    /// The facts that were handed to the checkpoint.
    saved_facts: Option<Arc<PodFacts>>,
    pub places: Vec<Place>,
    /// The pod was waited for long enough: files that are there are kept in sight, but not held.
    pub given_up: bool,
    /// Since the pod's status says that the container has ended: how many scans have.
    status_scans: Option<u32>,
    /// Somebody looked at it before while it was undecided: from then on it is waited for.
    pub awaited: bool,
    /// For how long the pod has been waited for while its source was in sync.
    pub waited: Duration,
    /// For how long its status has been, since the pod is known; also while the source is away.
    pub status_waited: Duration,
}

impl StreamState {
    /// A stream that no pipeline has decided on.
    pub fn new(name: StreamName, pipelines: usize) -> Self {
        Self {
            name: Arc::new(name),
            tail: tail::Stream::default(),
            files: Vec::new(),
            later_restart: false,
            unborn: false,
            unnamed: false,
            gone: false,
            listed: true,
            from_before: false,
            facts: None,
            saved_facts: None,
            places: (0..pipelines).map(|_| Place::Undecided).collect(),
            given_up: false,
            status_scans: None,
            awaited: false,
            waited: Duration::ZERO,
            status_waited: Duration::ZERO,
        }
    }

    /// How the checkpoint names the place of a pipeline in it.
    pub fn key(&self, pipeline: &str) -> Key {
        Key { pipeline: pipeline.to_owned(), stream: self.name.to_string() }
    }

    /// Whether nothing will be written to it any more, and all that was is listed.
    pub fn has_ended(&self) -> bool {
        self.later_restart || self.status_scans.is_some_and(|scans| scans >= SCANS_MIN)
    }

    /// A scan of the tree has ended, or with `None` facts have come. The pod's status may overtake the
    /// listing of a file that was written to before: it counts after a scan that began later. Whether
    /// the stream has ended by that.
    pub fn status_told(&mut self, scanned_before: Option<bool>) -> bool {
        let says = |facts: &Arc<PodFacts>| facts.has_ended(&self.name.container, self.name.restart);
        if !self.facts.as_ref().is_some_and(says) {
            self.status_scans = None;
            return false;
        }
        let had_ended = self.has_ended();
        let scans = self.status_scans.get_or_insert(0);
        match scanned_before {
            None => {}
            // What was known before the first scan began was known before it ended.
            Some(false) => *scans = SCANS_MIN,
            Some(true) => *scans = scans.saturating_add(1),
        }
        self.has_ended() && !had_ended
    }

    /// Whether a pipeline waits for facts.
    pub fn is_undecided(&self) -> bool {
        self.places.iter().any(|place| matches!(place, Place::Undecided))
    }

    /// Decides every pipeline again; returns those that have begun to read.
    pub fn decide(&mut self, ground: &Ground<'_>) -> Vec<usize> {
        let mut begun = Vec::new();
        for (index, pipeline) in ground.pipelines.iter().enumerate() {
            let decision = self.decision(pipeline, ground);
            if self.place(index, decision, ground) {
                begun.push(index);
            }
        }
        begun
    }

    /// A pod that may become known is waited for, even where the path alone would do: documents
    /// are to carry its facts.
    fn decision(&self, pipeline: &Pipeline, ground: &Ground<'_>) -> Decision {
        let decision =
            decide(&pipeline.select, &self.name, self.facts.as_deref(), &ground.agent.node_name);
        match decision {
            Decision::Take if !self.is_known(ground) => Decision::NeedsFacts,
            decided => decided,
        }
    }

    /// Whether documents can carry what they should of the pod, or will not be able to.
    fn is_known(&self, ground: &Ground<'_>) -> bool {
        let (container, restart) = (&self.name.container, self.name.restart);
        match &self.facts {
            None => ground.by_path,
            Some(_) if !ground.source_told => false,
            Some(facts) => ground.without_status || facts.tells_of(container, restart),
        }
    }

    /// Facts that the checkpoint does not have, of a stream that somebody reads or may come to read.
    pub fn facts_to_save(&mut self) -> Option<Arc<PodFacts>> {
        let left = self.places.iter().all(|place| matches!(place, Place::Left(_)));
        if left || self.facts == self.saved_facts {
            return None;
        }
        self.saved_facts.clone_from(&self.facts);
        self.facts.clone()
    }

    /// Follows one decision; returns whether the pipeline begins to read.
    fn place(&mut self, index: usize, decision: Decision, ground: &Ground<'_>) -> bool {
        let place = std::mem::replace(&mut self.places[index], Place::Undecided);
        let (place, begun) = match (place, decision) {
            (Place::Reading(mut reading), Decision::Take | Decision::NeedsFacts) => {
                reading.reader.form.template = self.template(index, ground);
                (Place::Reading(reading), false)
            }
            (Place::Left(Some(reader)), Decision::Take) => (Place::Reading(begin(*reader)), true),
            (Place::Undecided | Place::Left(None), Decision::Take) => {
                let reader = self.reader(index, ground);
                (Place::Reading(begin(reader)), true)
            }
            (Place::Reading(mut reading), Decision::Leave) => {
                reading.reader.rewind();
                (Place::Left(Some(Box::new(reading.reader))), false)
            }
            (left @ Place::Left(_), Decision::Leave | Decision::NeedsFacts) => (left, false),
            (Place::Undecided, Decision::Leave) => (Place::Left(None), false),
            (Place::Undecided, Decision::NeedsFacts) => (Place::Undecided, false),
        };
        self.places[index] = place;
        begun
    }

    fn reader(&self, index: usize, ground: &Ground<'_>) -> Reader {
        let key = self.key(&ground.pipelines[index].name);
        let plain = Plain::of(ground.suspects, &key);
        let (form, joiner) = self.settings(index, ground, plain);
        if let Some(entry) = ground.checkpoint.get(&key) {
            return Reader::resume(form, joiner, entry);
        }
        let mut reader = Reader::new(form, joiner, [Position::START; 2], Vec::new());
        reader.begin_at(begins_at_ns(ground, &ground.pipelines[index].name));
        reader
    }

    /// What a reader of the pipeline with this `index` does with the lines.
    fn settings(&self, index: usize, ground: &Ground<'_>, plain: Plain) -> (Form, Joiner) {
        let pipeline = &ground.pipelines[index];
        let line_bytes_max = ground.agent.logs.max_line_bytes;
        let joiner = Joiner::new(pipeline.parse.multiline.is_some(), line_bytes_max);
        let template = self.template(index, ground);
        let naming = Naming::new(&pipeline.id_scope, Arc::clone(&self.name));
        (Form { template, naming, plain }, joiner)
    }

    fn template(&self, index: usize, ground: &Ground<'_>) -> Template {
        let pipeline = &ground.pipelines[index];
        let file = self.files.iter().find(|file| file.kind == PartKind::Live);
        let path = file.map(|file| file.path.to_string_lossy());
        let form = pipeline.output.document;
        let metadata = Metadata::new(
            form,
            &self.name,
            path.as_deref(),
            self.facts.as_deref(),
            &ground.agent.node_name,
        );
        Template::new(Parts {
            head: &metadata.head,
            flink: &metadata.flink,
            jobs: &metadata.jobs,
            form,
            names: &ground.names[index],
            framing: Shape::of(&pipeline.output).framing,
            index: match &pipeline.output.target {
                Target::Elasticsearch(elasticsearch) => Some(&elasticsearch.index),
                Target::Stdout | Target::File(_) => None,
            },
        })
    }

    /// The earliest position that somebody may still have to read; `None` when nobody does.
    pub fn needed_from(&self) -> Option<Position> {
        let needs = |place: &Place| match place {
            Place::Undecided => (!self.given_up).then_some(Position::START),
            Place::Left(_) => None,
            Place::Reading(reading) => Some(reading.reader.needs_from()),
        };
        self.places.iter().filter_map(needs).min()
    }

    /// The bytes of `part`, which ended at `end`, can't be had any more; returns how many the
    /// reader that is furthest behind has not read.
    pub fn lose(&mut self, part: PartId, end: u64) -> u64 {
        let readings = self.places.iter_mut().filter_map(Place::reading);
        readings.map(|reading| reading.reader.lose(part, end)).max().unwrap_or(0)
    }

    /// Lets the parts that the checkpoint knows keep their order.
    pub fn remember(&mut self, pipelines: &[Arc<Pipeline>], checkpoint: &Checkpoint) {
        for pipeline in pipelines {
            if let Some(entry) = checkpoint.get(&self.key(&pipeline.name)) {
                let reached = entry.reached.iter().map(|reached| reached.part);
                let parts = entry.parts.iter().map(|(part, _)| *part).chain(reached);
                let parts = parts.filter(|part| *part != PartId::FIRST);
                self.tail.remember(parts, entry.listed_ns);
            }
        }
    }

    /// Bytes of open records.
    pub fn open_bytes(&self) -> usize {
        let open = |place: &Place| match place {
            Place::Reading(reading) => reading.reader.open_bytes(),
            Place::Undecided | Place::Left(_) => 0,
        };
        self.places.iter().map(open).sum()
    }

    /// Uncompressed bytes that stand after `position`, as far as their number is known.
    pub fn bytes_after(&self, position: Position) -> u64 {
        let parts = self.tail.parts().iter().filter(|part| part.id >= position.part);
        parts
            .map(|part| {
                let from = if part.id == position.part { position.offset } else { 0 };
                part.end_or_told().unwrap_or(0).saturating_sub(from)
            })
            .sum()
    }

    /// What the checkpoint is to remember of a reader.
    pub fn entry(&self, reader: &Reader) -> Entry {
        let reached = reader.ledger.acknowledged();
        let from = reached[0].min(reached[1]).part;
        let sized = |part: &tail::Part| -> (PartId, u64) {
            let done = reader.left(part.id).filter(|_| part.id < from);
            (part.id, done.or_else(|| part.end_or_told()).unwrap_or(0))
        };
        let mut cuts = reader.cuts.clone();
        cuts.extend(reader.asked.iter().flat_map(|asked| asked.cuts.iter().copied()));
        let mut parts: Vec<_> = self.tail.parts().iter().map(sized).collect();
        // What was remembered and not found yet, and what has gone and is not safe.
        let before = reader.remembered.iter().flat_map(|entry| entry.parts.iter().copied());
        let missing: Vec<_> = (before.chain(reader.left_from(from)))
            .filter(|(before, _)| !parts.iter().any(|(part, _)| part.is(*before)))
            .collect();
        parts.extend(missing);
        let (begins_at_ns, listed_ns) = (reader.begins_at_ns(), self.tail.listed_ns());
        Entry { reached, cuts, parts, listed_ns, begins_at_ns }
    }
}

/// From which runtime time on a reader without a checkpoint takes lines.
fn begins_at_ns(ground: &Ground<'_>, pipeline: &str) -> Option<i64> {
    match ground.agent.logs.start {
        _ if !ground.first_start.is_some_and(|names| names.contains(pipeline)) => None,
        Start::Oldest => None,
        Start::Newest => Some(ground.began_ns),
        Start::Since(age) => {
            let age_ns = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
            Some(ground.began_ns.saturating_sub(age_ns))
        }
    }
}

fn begin(reader: Reader) -> Box<Reading> {
    Box::new(Reading { reader, queued: false, at_end: false, unsaved: false })
}
