//! The road of a line from its file into a batch: one reader on one file, put together as a worker
//! does it, with the buffers that a worker keeps.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use splashdam::config::agent::LineFormat;
use splashdam::config::pipeline::{BatchLimits, DocumentForm, IndexName};
use splashdam::discover::{FileSeen, PartKind, StreamName};
use splashdam::document::Names;
use splashdam::document::splice::{Parts, Scratch, Template};
use splashdam::enrich::metadata::agent_names;
use splashdam::enrich::{Metadata, PodFacts};
use splashdam::filter::Filters;
use splashdam::parse::record::{Joiner, LongBuffers};
use splashdam::parse::{FrameScratch, time};
use splashdam::pipeline::batch::{Batch, Framing};
use splashdam::pipeline::budget::Budget;
use splashdam::pipeline::form::{Form, Naming};
use splashdam::pipeline::in_hand::Plain;
use splashdam::pipeline::open::{OpenBatch, Shape, Spares};
use splashdam::pipeline::reader::{Desk, Reader, Shipping, Turn};
use splashdam::tail::{self, Position};

/// When the runtime took the first line: an hour begins, so that an hour's index has room.
const BEGIN_NS: i64 = 1_795_467_600_000_000_000;

/// What the runtime's time advances from line to line.
const STEP_NS: i64 = 700_000;

/// A logical line is cut beyond this.
const LINE_BYTES_MAX: usize = 1 << 20;

/// More than any batch here holds.
const BUDGET_BYTES: usize = 1 << 30;

/// A reader on its file, and what stands on a worker's desk.
pub(crate) struct Road {
    stream: tail::Stream,
    name: Arc<StreamName>,
    reader: Reader,
    shape: Shape,
    budget: Budget,
    spares: Spares,
    pub(crate) batch: OpenBatch,
    filters: Filters,
    buffer: Vec<u8>,
    frames: FrameScratch,
    long: LongBuffers,
    scratch: Scratch,
    _folder: tempfile::TempDir,
}

impl Road {
    /// On a live file that holds `text`, of the pod's TaskManager `number`. A batch is full at
    /// `batch_bytes`.
    pub(crate) fn new(number: usize, text: &[u8], form: DocumentForm, batch_bytes: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("0.log");
        std::fs::write(&path, text).expect("room for a log file");
        let mut stream = tail::Stream::default();
        let refreshed = stream.refresh(&[seen(path)], false, LineFormat::Auto);
        assert!(!refreshed.unborn && refreshed.failed.is_empty(), "{refreshed:?}");
        let name = Arc::new(stream_name(number));
        let filters = Filters::new(&[], &names(form));
        let form = Form {
            template: template(&name, form),
            naming: Naming::new("bench", Arc::clone(&name)),
            plain: Plain::default(),
        };
        let joiner = Joiner::new(true, LINE_BYTES_MAX);
        let limits = BatchLimits { size_bytes: batch_bytes, linger: Duration::from_secs(1) };
        let shape = Shape { framing: Framing::Bulk, gzip: false, limits };
        let (budget, spares) = (Budget::new(BUDGET_BYTES, 1), Spares::new(shape));
        Self {
            stream,
            name,
            reader: Reader::new(form, joiner, [Position::START; 2], Vec::new()),
            shape,
            batch: OpenBatch::new(shape, budget.permit(0), &spares),
            budget,
            spares,
            filters,
            buffer: Vec::new(),
            frames: FrameScratch::default(),
            long: LongBuffers::default(),
            scratch: Scratch::default(),
            _folder: folder,
        }
    }

    /// Goes back to the beginning of the file, with nothing in the batch but room.
    pub(crate) fn again(&mut self) {
        self.reader.forget_from(0);
        self.batch.body.clear();
        self.batch.items.clear();
    }

    /// Reads until there is nothing more, or the batch is full.
    pub(crate) fn read(&mut self) -> Turn {
        loop {
            let mut desk = Desk {
                stream: &mut self.stream,
                shipping: Shipping {
                    name: &self.name,
                    batch: &mut self.batch,
                    filters: &mut self.filters,
                    scratch: &mut self.scratch,
                },
                buffer: &mut self.buffer,
                frames: &mut self.frames,
                long: &mut self.long,
                now_ns: BEGIN_NS,
                ended: false,
                may_unpack: true,
                alone: true,
                line_bytes_max: LINE_BYTES_MAX,
            };
            let turn = self.reader.turn(&mut desk);
            if turn != Turn::More {
                return turn;
            }
        }
    }

    /// Closes the batch and opens the next.
    pub(crate) fn seal(&mut self) -> Batch {
        let next = OpenBatch::new(self.shape, self.budget.permit(0), &self.spares);
        std::mem::replace(&mut self.batch, next).seal(0, 0)
    }
}

fn seen(path: PathBuf) -> FileSeen {
    let metadata = std::fs::metadata(&path).expect("a file that was just written");
    FileSeen {
        path,
        kind: PartKind::Live,
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.len(),
        modified_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
    }
}

/// A TaskManager of a session cluster in the native mode.
pub(crate) fn stream_name(number: usize) -> StreamName {
    let path = format!(
        "analytics_orders-session-taskmanager-1-{number}_0c5ee38b-2a3c-4f4e-9d6a-{number:012x}\
         /flink-main-container/0"
    );
    StreamName::parse(&path).expect("the name of a stream")
}

fn names(form: DocumentForm) -> Names {
    Names::new(form, agent_names(form), Some("@timestamp"), [])
}

/// What is the same for all documents of `name`, in a date-named index.
pub(crate) fn template(name: &StreamName, form: DocumentForm) -> Template {
    let facts: PodFacts = serde_json::from_value(json!({
        "namespace": name.namespace,
        "name": name.pod,
        "uid": name.uid,
        "labels": {
            "app": "orders-session", "component": "taskmanager", "type": "flink-native-kubernetes",
        },
        "node": "worker-7",
        "pod_ip": "10.42.7.31",
        "containers": {(&name.container): {
            "image": "registry.example/flink:1.20.1",
            "image_id": "registry.example/flink@sha256:5a7e",
            "ids": {"0": "1f0c9a3d5e"},
        }},
    }))
    .expect("the facts of a pod");
    let metadata = Metadata::new(form, name, None, Some(&facts), "worker-7");
    Template::new(Parts {
        head: &metadata.head,
        flink: &metadata.flink,
        jobs: &metadata.jobs,
        form,
        names: &Arc::new(names(form)),
        framing: Framing::Bulk,
        index: Some(&IndexName::ByDate("flink-%Y.%m.%d".to_owned())),
    })
}

/// `lines` as containerd writes them to a file, none of them cut.
pub(crate) fn cri<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut text = Vec::new();
    let mut time_ns = BEGIN_NS;
    for line in lines {
        time::write_utc(time_ns, &mut text);
        text.extend_from_slice(b" stdout F ");
        text.extend_from_slice(line);
        text.push(b'\n');
        time_ns += STEP_NS;
    }
    text
}
