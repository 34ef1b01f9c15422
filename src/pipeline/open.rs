//! The batch that is being filled: documents are written once, into the body that is sent.
//!
//! The body holds a permit of the byte budget before a document is written into it, in steps of
//! [`STEP_BYTES`]. With gzip the text passes through a small staging buffer into the compressor,
//! so only compressed bytes add up.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;

use super::batch::{Batch, Framing, Item};
use super::budget::Permit;
use super::gzip::Gzip;
use crate::config::pipeline::{BatchLimits, Compression, Elasticsearch, Output, Target};
use crate::discover::StreamName;

/// The step in which permits are taken.
const STEP_BYTES: usize = 256 * 1024;

/// How much text is staged before it is compressed: what stays in the second-level cache.
const STAGING_BYTES: usize = 128 * 1024;

/// The room of a buffer beyond what makes a body full, for the last line. What is not written to
/// is not resident.
const LAST_LINE_BYTES: usize = 1 << 20;

/// Compressed bodies that are larger are not kept to be written again.
const MEMBER_BYTES_MAX: usize = 1 << 20;

/// How many buffers of sent bodies are kept to be written again: as many as may be on their way, and
/// the open batch's.
const SPARES_MAX: usize = super::outlet::IN_FLIGHT_MAX + 1;

/// What was used for bodies that were sent: their buffers, and the compressor. A fresh buffer of
/// megabytes costs the kernel a page fault for each of its pages; one that was written before costs
/// nothing. Those of text are of one size, so that the allocator has room for the next where the
/// last was, instead of a hole beside it.
#[derive(Debug, Clone)]
pub struct Spares {
    kept: Arc<Mutex<Kept>>,
    buffer_bytes: usize,
}

#[derive(Debug, Default)]
struct Kept {
    buffers: Vec<Vec<u8>>,
    /// The first so many of them have not been of use since [`Spares::trim`].
    idle: usize,
    members: Vec<Vec<u8>>,
    gzip: Option<Gzip>,
}

impl Spares {
    /// Nothing yet, for bodies of `shape`.
    pub fn new(shape: Shape) -> Self {
        let text_bytes = if shape.gzip { STAGING_BYTES } else { shape.limits.size_bytes };
        Self { kept: Arc::default(), buffer_bytes: text_bytes.saturating_add(LAST_LINE_BYTES) }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty buffer to write into, which takes a body of the usual size without growing.
    fn take(&self) -> Vec<u8> {
        let mut kept = self.lock();
        let buffer = kept.buffers.pop();
        kept.idle = kept.idle.min(kept.buffers.len());
        drop(kept);
        buffer.unwrap_or_else(|| Vec::with_capacity(self.buffer_bytes))
    }

    /// One that a long line made grow is not kept.
    fn give(&self, mut buffer: Vec<u8>) {
        let buffers = &mut self.lock().buffers;
        if buffers.len() < SPARES_MAX && buffer.capacity() == self.buffer_bytes {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    /// An empty buffer for a compressed body, grown already if there is one.
    fn take_member(&self) -> Vec<u8> {
        self.lock().members.pop().unwrap_or_default()
    }

    /// The buffer of a compressed body that was sent.
    fn give_member(&self, mut member: Vec<u8>) {
        let members = &mut self.lock().members;
        if members.len() < SPARES_MAX && member.capacity() <= MEMBER_BYTES_MAX {
            member.clear();
            members.push(member);
        }
    }

    /// Gives back what nobody has taken since the last time: it counts for no budget.
    pub fn trim(&self) {
        let mut kept = self.lock();
        let idle = kept.idle;
        kept.buffers.drain(..idle);
        kept.idle = kept.buffers.len();
    }

    /// Gives their memory back: nothing is being sent.
    pub fn release(&self) {
        *self.lock() = Kept::default();
    }
}

/// A body on its way. Its buffer becomes a spare one when everybody is done with it.
struct Sent {
    body: Vec<u8>,
    gzip: bool,
    spares: Spares,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let body = std::mem::take(&mut self.body);
        if self.gzip { self.spares.give_member(body) } else { self.spares.give(body) }
    }
}

/// What an open batch turns into.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub framing: Framing,
    pub gzip: bool,
    pub limits: BatchLimits,
}

impl Shape {
    /// The shape of batches for `output`.
    pub fn of(output: &Output) -> Self {
        let (framing, gzip) = match &output.target {
            Target::Elasticsearch(elasticsearch) => (Framing::Bulk, is_gzip(elasticsearch)),
            Target::Stdout | Target::File(_) => (Framing::Lines, false),
        };
        Self { framing, gzip, limits: output.batch }
    }
}

fn is_gzip(elasticsearch: &Elasticsearch) -> bool {
    elasticsearch.compression == Compression::Gzip
}

/// What is counted along with an open batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Logical lines that a filter dropped, or blank ones.
    pub lines_filtered: u64,
    /// Logical lines in documents.
    pub lines_carried: u64,
    /// Raw, uncompressed bytes of the log files that were gone through.
    pub raw_bytes: u64,
    /// The earliest runtime time among the lines in documents, nanoseconds since the epoch.
    pub oldest_ns: Option<i64>,
}

/// The batch that is being filled.
#[derive(Debug)]
pub struct OpenBatch {
    shape: Shape,
    /// Text that is not compressed (yet).
    pub body: Vec<u8>,
    spares: Spares,
    gzip: Option<Gzip>,
    /// Text that has gone through the compressor.
    compressed_from: usize,
    pub items: Vec<Item>,
    streams: Vec<Arc<StreamName>>,
    pub tally: Tally,
    permit: Permit,
    /// When the first line went in.
    pub opened: Option<Instant>,
}

impl OpenBatch {
    /// An empty batch that takes its bytes from `permit`, and its buffer from `spares` once there
    /// is something to write.
    pub fn new(shape: Shape, permit: Permit, spares: &Spares) -> Self {
        Self {
            shape,
            body: Vec::new(),
            spares: spares.clone(),
            gzip: None,
            compressed_from: 0,
            items: Vec::new(),
            streams: Vec::new(),
            tally: Tally::default(),
            permit,
            opened: None,
        }
    }

    pub fn framing(&self) -> Framing {
        self.shape.framing
    }

    /// Text bytes so far, uncompressed.
    pub fn plain_bytes(&self) -> usize {
        self.compressed_from + self.body.len()
    }

    /// Whether it has reached its size.
    pub fn is_full(&self) -> bool {
        self.plain_bytes() >= self.shape.limits.size_bytes
    }

    /// Whether nothing at all went in, not even a line that was dropped.
    pub fn is_untouched(&self) -> bool {
        self.opened.is_none()
    }

    /// When it has waited for as long as it may.
    pub fn due(&self) -> Option<Instant> {
        self.opened.map(|opened| opened + self.shape.limits.linger)
    }

    /// Makes sure that `more` bytes may be written; `false` when the budget has no room.
    ///
    /// `alone` says that the pipeline holds nothing else that could be given back: then a batch
    /// without documents gets its room past the limit, for it could never be had otherwise.
    #[inline(always)]
    pub fn has_room(&mut self, more: usize, alone: bool) -> bool {
        let wanted = self.held_bytes() + more;
        wanted <= self.permit.bytes() || self.makes_room(wanted, alone)
    }

    /// [`Self::has_room`] where the permit has to grow to `wanted` bytes.
    #[cold]
    fn makes_room(&mut self, wanted: usize, alone: bool) -> bool {
        let is_permitted = self.permit.try_grow_to(wanted.next_multiple_of(STEP_BYTES))
            || self.permit.try_grow_to(wanted);
        if !is_permitted {
            if !(alone && self.items.is_empty()) {
                return false;
            }
            self.permit.grow_past_limit_to(wanted);
        }
        if self.body.capacity() == 0 {
            self.body = self.spares.take();
        }
        true
    }

    /// Gives its buffer and its permit back if nothing went in: as long as no line comes, memory of
    /// earlier batches would stay resident in it.
    pub fn release(&mut self) {
        if self.is_untouched() && self.body.is_empty() {
            self.body = Vec::new();
            self.permit.shrink_to(0);
        }
    }

    fn held_bytes(&self) -> usize {
        self.body.len() + self.gzip.as_ref().map_or(0, Gzip::bytes)
    }

    /// Adds the document that was written to the end of the body.
    #[inline(always)]
    pub fn add(&mut self, stream: &Arc<StreamName>, lines: u32, time_ns: i64) {
        let index = match self.streams.last() {
            Some(last) if Arc::ptr_eq(last, stream) => self.streams.len() - 1,
            _ => self.index_of(stream),
        };
        let stream = u32::try_from(index).expect("a batch has fewer documents than u32 counts");
        self.items.push(Item { stream, lines });
        self.tally.lines_carried += u64::from(lines);
        self.tally.oldest_ns =
            Some(self.tally.oldest_ns.map_or(time_ns, |oldest| oldest.min(time_ns)));
    }

    #[cold]
    fn index_of(&mut self, stream: &Arc<StreamName>) -> usize {
        let known = self.streams.iter().position(|known| Arc::ptr_eq(known, stream));
        known.unwrap_or_else(|| {
            self.streams.push(Arc::clone(stream));
            self.streams.len() - 1
        })
    }

    /// Compresses what is staged, if that is worth the call.
    #[inline(always)]
    pub fn settle(&mut self) {
        if self.shape.gzip && self.body.len() >= STAGING_BYTES {
            self.compress();
        }
    }

    #[cold]
    fn compress(&mut self) {
        let gzip =
            self.gzip.get_or_insert_with(|| self.spares.lock().gzip.take().unwrap_or_default());
        gzip.write(&self.body);
        self.compressed_from += self.body.len();
        self.body.clear();
    }

    /// Closes the batch.
    pub fn seal(mut self, worker: usize, sequence: u64) -> Batch {
        let plain_bytes = self.plain_bytes();
        let gzip = self.shape.gzip;
        if gzip {
            self.compress();
            let mut compressor = self.gzip.take().expect("compress made one");
            let member = compressor.finish(self.spares.take_member());
            self.spares.lock().gzip = Some(compressor);
            self.spares.give(std::mem::replace(&mut self.body, member));
        }
        let body = Bytes::from_owner(Sent { body: self.body, gzip, spares: self.spares });
        self.permit.shrink_to(body.len());
        Batch {
            worker,
            sequence,
            framing: self.shape.framing,
            body,
            gzip,
            plain_bytes,
            items: self.items,
            streams: self.streams,
            oldest_ns: self.tally.oldest_ns.unwrap_or(0),
            permit: self.permit,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::budget::Budget;
    use super::*;

    const SIZE_BYTES: usize = 1000;

    fn shape(gzip: bool) -> Shape {
        let limits = BatchLimits { size_bytes: SIZE_BYTES, linger: Duration::from_secs(1) };
        Shape { framing: Framing::Bulk, gzip, limits }
    }

    /// Where the body of a batch of `bytes` was, and how many bytes its buffer took.
    fn send(spares: &Spares, shape: Shape, bytes: usize) -> (*const u8, usize) {
        let budget = Budget::new(64 << 20, 1);
        let mut batch = OpenBatch::new(shape, budget.permit(0), spares);
        assert!(batch.has_room(bytes, false));
        batch.body.resize(bytes, b'x');
        let buffer = (batch.body.as_ptr(), batch.body.capacity());
        drop(batch.seal(0, 0));
        buffer
    }

    #[test]
    fn a_sent_body_s_buffer_takes_the_next() {
        for shape in [shape(false), shape(true)] {
            let spares = Spares::new(shape);
            let first = send(&spares, shape, 10);
            assert_eq!(send(&spares, shape, SIZE_BYTES + 100), first);
            assert_eq!(send(&spares, shape, 10), first);
        }
    }

    #[test]
    fn a_sent_member_s_buffer_takes_a_later_one() {
        let (shape, budget) = (shape(true), Budget::new(64 << 20, 1));
        let spares = Spares::new(shape);
        let members: Vec<_> = (0..3)
            .map(|_| {
                let mut batch = OpenBatch::new(shape, budget.permit(0), &spares);
                assert!(batch.has_room(10, false));
                batch.body.resize(10, b'x');
                batch.seal(0, 0).body.as_ptr()
            })
            .collect();
        // The second was begun before the first was sent.
        assert_eq!(members[2], members[0]);
    }

    #[test]
    fn a_buffer_that_grew_is_not_kept() {
        let spares = Spares::new(shape(false));
        let (_, usual) = send(&spares, shape(false), 10);
        let (_, grown) = send(&spares, shape(false), 2 * usual);
        assert!(grown >= 2 * usual);
        assert_eq!(send(&spares, shape(false), 10).1, usual);
    }

    #[test]
    fn a_batch_that_nothing_went_into_gives_back_what_it_has() {
        let budget = Budget::new(64 << 20, 1);
        let mut batch = OpenBatch::new(shape(false), budget.permit(0), &Spares::new(shape(false)));
        assert!(batch.has_room(10, false));
        assert_ne!((batch.body.capacity(), batch.permit.bytes()), (0, 0));
        batch.release();
        assert_eq!((batch.body.capacity(), batch.permit.bytes()), (0, 0));

        assert!(batch.has_room(10, false));
        batch.body.extend(b"0123456789");
        batch.opened = Some(super::super::clock::now());
        batch.release();
        assert_eq!(batch.body, b"0123456789");
        assert!(batch.permit.bytes() >= 10);
    }

    /// After a rush one body is on its way at a time.
    #[test]
    fn buffers_that_nobody_takes_are_given_back() {
        let spares = Spares::new(shape(false));
        let rush: Vec<Vec<u8>> = (0..SPARES_MAX).map(|_| spares.take()).collect();
        rush.into_iter().for_each(|buffer| spares.give(buffer));
        spares.trim();
        assert_eq!(spares.lock().buffers.len(), SPARES_MAX, "all were of use");
        for _ in 0..2 {
            send(&spares, shape(false), 10);
            spares.trim();
            assert_eq!(spares.lock().buffers.len(), 1);
        }
        spares.trim();
        assert_eq!(spares.lock().buffers.len(), 0);
    }

    #[test]
    fn released_buffers_are_gone() {
        let spares = Spares::new(shape(false));
        send(&spares, shape(false), 10);
        assert_eq!(spares.lock().buffers.len(), 1);
        spares.release();
        assert_eq!(spares.lock().buffers.len(), 0);
    }
}
