//! A batch: one request's worth of documents, what it holds, and what became of it.

use std::sync::Arc;

use bytes::Bytes;

use super::budget::Permit;
use crate::discover::StreamName;

/// How the documents stand in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// For each document an action line (`{"create":{"_id":"…"}}`, with `_index` where the index
    /// is named by date) and the document's line.
    Bulk,
    /// The documents' lines alone.
    Lines,
}

/// One document of a batch, in the order of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Index into [`Batch::streams`].
    pub stream: u32,
    /// Logical lines that the document was made from, at least 1.
    pub lines: u32,
}

/// One request's worth of documents. Moves from a worker to a shipper and is never copied whole.
#[derive(Debug)]
pub struct Batch {
    /// Which worker waits for the outcome.
    pub worker: usize,
    /// Counts up per worker and pipeline.
    pub sequence: u64,
    pub framing: Framing,
    /// Gzip-compressed where `gzip` says so.
    pub body: Bytes,
    pub gzip: bool,
    /// Length of the body before compression.
    pub plain_bytes: usize,
    pub items: Vec<Item>,
    /// The container runs that the items came from.
    pub streams: Vec<Arc<StreamName>>,
    /// The earliest runtime time in the batch, nanoseconds since the epoch.
    pub oldest_ns: i64,
    /// The bytes of the budget that the body holds; given back on drop.
    pub permit: Permit,
}

/// What an output tells of the batches that it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Every item of a batch is safe.
    Safe(Outcome),
    /// The output is dead: this batch and all that its worker sent after it were let go of, and are
    /// to be read again once it is [back](Self::Back).
    Forgotten { worker: usize, sequence: u64 },
    /// An output that had forgotten batches takes some again; for every worker.
    Back,
}

/// What became of a batch: every item is safe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    pub worker: usize,
    pub sequence: u64,
    /// Documents answered 201 (or written).
    pub documents_indexed: u64,
    /// Documents answered 409: exactly these bytes were already there.
    pub duplicates_answered: u64,
    /// Documents reindexed in the plain form, dead-lettered, or taken by a failure store.
    pub documents_refused: u64,
    pub lines_indexed: u64,
    pub lines_refused: u64,
}
