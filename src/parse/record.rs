//! Joins raw lines into records: partial lines into logical ones, logical lines into records of
//! several lines.
//!
//! Grouping is a pure function of bytes and runtime times, apart for stdout and stderr, so that
//! the same bytes give the same records, and so the same ids, whenever they are read. A record of
//! several lines ends at the first line that does not continue it, at a limit
//! ([`RECORD_LINES_MAX`], the longest line allowed), at a gap of [`GAP_NS`] in runtime time, at a
//! cut that is in the checkpoint, or with the stream. Partial lines have no gap: the runtime
//! always finishes a line that it began, however long the application takes.
//!
//! A line that stands for itself is lent, never copied. What is open is kept by [`Joiner`], one
//! per reader; its size is [`Joiner::open_bytes`]. No clock is read here.

mod buffers;

use std::ops::Range;

pub use buffers::LongBuffers;

use super::java::Group;
use super::{Lane, Line, is_blank, starts_like_json};
use crate::tail::Position;

/// The runtime time after which the next line begins a new record.
pub const GAP_NS: i64 = 1_000_000_000;

/// The most logical lines that one record joins.
pub const RECORD_LINES_MAX: u32 = 1000;

/// A longer buffer is not kept by the reader when its record has ended, but by all together.
const KEPT_BYTES: usize = 4096;

/// One record: what becomes one document, or is blank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    pub lane: Lane,
    /// Runtime time of the first piece, nanoseconds since the epoch.
    pub time_ns: i64,
    /// The same as the runtime wrote it.
    pub time: &'a [u8],
    /// The runtime's tag of the last piece, `F` for a complete line.
    pub tag: &'a [u8],
    /// The raw bytes that it was made from: from the beginning of the first piece …
    pub start: Position,
    /// … to the end of the last.
    pub end: Position,
    pub content: &'a [u8],
    /// Logical lines, at least 1.
    pub lines: u32,
    /// How long the content was before it was cut at the limit.
    pub original_bytes: Option<u64>,
}

impl Record<'_> {
    /// Nothing but white space on a single line: counted, not shipped.
    pub fn is_blank(&self) -> bool {
        self.lines == 1 && self.original_bytes.is_none() && is_blank(self.content)
    }
}

/// A logical line: one raw line as it is, or several that were put together.
#[derive(Debug, Clone, Copy)]
struct Logical<'a> {
    start: Position,
    end: Position,
    time_ns: i64,
    last_time_ns: i64,
    time: &'a [u8],
    tag: &'a [u8],
    content: &'a [u8],
    /// Bytes of content there would be without the limit.
    content_bytes: u64,
}

impl<'a> Logical<'a> {
    /// A raw line that is complete.
    fn lent(line: &Line<'a>, missing: u64, start: Position, end: Position, limit: usize) -> Self {
        Self {
            start,
            end,
            time_ns: line.time_ns,
            last_time_ns: line.time_ns,
            time: line.time,
            tag: line.tag,
            content: &line.content[..line.content.len().min(limit)],
            content_bytes: line.content.len() as u64 + missing,
        }
    }

    fn record(&self, lane: Lane, lines: u32) -> Record<'a> {
        let cut = self.content_bytes > self.content.len() as u64;
        Record {
            lane,
            time_ns: self.time_ns,
            time: self.time,
            tag: self.tag,
            start: self.start,
            end: self.end,
            content: self.content,
            lines,
            original_bytes: cut.then_some(self.content_bytes),
        }
    }
}

/// What is open on one of stdout and stderr.
#[derive(Debug)]
struct Open {
    start: Position,
    end: Position,
    time_ns: i64,
    last_time_ns: i64,
    time: Vec<u8>,
    tag: Vec<u8>,
    content: Vec<u8>,
    content_bytes: u64,
    lines: u32,
}

impl Open {
    /// Begins with `line`, in buffers that were used before where there are some.
    fn begin(line: &Logical<'_>, spare: Option<Buffers>, long: &mut LongBuffers) -> Self {
        let Buffers { mut time, mut tag, content } = spare.unwrap_or_default();
        time.extend_from_slice(line.time);
        tag.extend_from_slice(line.tag);
        let Logical { start, end, time_ns, last_time_ns, content_bytes, .. } = *line;
        let mut open =
            Self { start, end, time_ns, last_time_ns, time, tag, content, content_bytes, lines: 1 };
        open.make_room(line.content.len(), long);
        open.content.extend_from_slice(line.content);
        open
    }

    /// Adds the next piece of a logical line.
    fn append(
        &mut self,
        line: &Line<'_>,
        missing: u64,
        end: Position,
        limit: usize,
        long: &mut LongBuffers,
    ) {
        let room = limit.saturating_sub(self.content.len());
        let piece = &line.content[..line.content.len().min(room)];
        self.make_room(piece.len(), long);
        self.content.extend_from_slice(piece);
        self.content_bytes += line.content.len() as u64 + missing;
        self.end_with(line.tag, line.time_ns, end);
    }

    /// Makes room for so many more bytes, in a longer buffer if there is one.
    fn make_room(&mut self, bytes: usize, long: &mut LongBuffers) {
        let needed = self.content.len() + bytes;
        if needed > self.content.capacity()
            && let Some(mut buffer) = long.take(needed)
        {
            buffer.extend_from_slice(&self.content);
            std::mem::swap(&mut self.content, &mut buffer);
            keep_if_long(buffer, long);
        }
    }

    /// Adds a complete logical line to a record of several.
    fn join(&mut self, line: &Logical<'_>, limit: usize, long: &mut LongBuffers) {
        let room = limit.saturating_sub(self.content.len());
        if room > 0 {
            let piece = &line.content[..line.content.len().min(room - 1)];
            self.make_room(1 + piece.len(), long);
            self.content.push(b'\n');
            self.content.extend_from_slice(piece);
        }
        self.content_bytes += 1 + line.content_bytes;
        self.lines += 1;
        self.end_with(line.tag, line.last_time_ns, line.end);
    }

    fn end_with(&mut self, tag: &[u8], time_ns: i64, end: Position) {
        self.tag.clear();
        self.tag.extend_from_slice(tag);
        self.last_time_ns = time_ns;
        self.end = end;
    }

    fn logical(&self) -> Logical<'_> {
        Logical {
            start: self.start,
            end: self.end,
            time_ns: self.time_ns,
            last_time_ns: self.last_time_ns,
            time: &self.time,
            tag: &self.tag,
            content: &self.content,
            content_bytes: self.content_bytes,
        }
    }
}

/// Buffers of an [`Open`] that has ended, empty.
#[derive(Debug, Default)]
struct Buffers {
    time: Vec<u8>,
    tag: Vec<u8>,
    /// At most [`KEPT_BYTES`]: every reader may keep some.
    content: Vec<u8>,
}

impl Buffers {
    fn of(open: Open, long: &mut LongBuffers) -> Self {
        let Open { mut time, mut tag, content, .. } = open;
        time.clear();
        tag.clear();
        Self { time, tag, content: keep_if_long(content, long).unwrap_or_default() }
    }
}

/// Gives a buffer of a record that has ended to all if it is long; else it is given back, empty.
fn keep_if_long(mut content: Vec<u8>, long: &mut LongBuffers) -> Option<Vec<u8>> {
    if content.capacity() > KEPT_BYTES {
        long.give(content);
        return None;
    }
    content.clear();
    Some(content)
}

/// A record of several lines that may go on.
#[derive(Debug)]
struct Several {
    open: Open,
    group: Group,
}

#[derive(Debug, Default)]
struct LaneState {
    /// A logical line whose `F` has not come.
    partial: Option<Open>,
    several: Option<Several>,
}

/// Joins the raw lines of one reader.
#[derive(Debug)]
pub struct Joiner {
    join_several: bool,
    line_bytes_max: usize,
    lanes: [LaneState; 2],
    spare: Option<Buffers>,
}

impl Joiner {
    /// `join_several` joins stack traces and their like; a logical line is cut at
    /// `line_bytes_max`, and so is a record of several.
    pub fn new(join_several: bool, line_bytes_max: usize) -> Self {
        let lanes = [LaneState::default(), LaneState::default()];
        Self { join_several, line_bytes_max, lanes, spare: None }
    }

    /// Takes the raw line that stands at `place`. `emit` gets what it ends; the record of a line that
    /// stands for itself, which comes after that, is lent to the caller.
    ///
    /// `missing` says how many bytes of content the caller has left out at the line's end.
    #[inline(always)]
    #[must_use = "a record that nobody ships is lost"]
    pub fn accept<'l>(
        &mut self,
        line: &Line<'l>,
        missing: u64,
        place: &Range<Position>,
        long: &mut LongBuffers,
        emit: &mut impl FnMut(Record<'_>),
    ) -> Option<Record<'l>> {
        let Range { start, end } = *place;
        let limit = self.line_bytes_max;
        let state = &mut self.lanes[line.lane.index()];
        if let Some(mut partial) = state.partial.take() {
            let piece = *line;
            partial.append(&piece, missing, end, limit, long);
            if line.partial {
                state.partial = Some(partial);
            } else {
                self.complete_open(line.lane, partial, long, emit);
            }
            return None;
        }
        let logical = Logical::lent(line, missing, start, end, limit);
        if line.partial {
            let piece = logical;
            state.partial = Some(Open::begin(&piece, self.spare.take(), long));
            None
        } else {
            self.complete(line.lane, logical, long, emit)
        }
    }

    /// Takes a complete logical line. By value, as what it calls does: what stands for itself then
    /// goes through registers.
    #[inline(always)]
    fn complete<'l>(
        &mut self,
        lane: Lane,
        line: Logical<'l>,
        long: &mut LongBuffers,
        emit: &mut impl FnMut(Record<'_>),
    ) -> Option<Record<'l>> {
        if self.stands_alone(line.content) {
            self.close(lane, long, emit);
            return Some(line.record(lane, 1));
        }
        let joined = line;
        self.join(lane, &joined, long, emit);
        None
    }

    /// The same for one that was put together. What begins a record of several goes on in the buffer
    /// that it is in.
    fn complete_open(
        &mut self,
        lane: Lane,
        line: Open,
        long: &mut LongBuffers,
        emit: &mut impl FnMut(Record<'_>),
    ) {
        if self.stands_alone(&line.content) {
            self.close(lane, long, emit);
            emit(line.logical().record(lane, 1));
        } else if !self.goes_on(lane, &line.logical(), long) {
            self.close(lane, long, emit);
            return self.begin_several(lane, line);
        }
        self.spare = Some(Buffers::of(line, long));
    }

    /// Whether a line is never part of a record of several.
    #[inline(always)]
    fn stands_alone(&self, content: &[u8]) -> bool {
        !self.join_several || starts_like_json(content) || is_blank(content)
    }

    /// Takes a line that may belong to a record of several.
    fn join(
        &mut self,
        lane: Lane,
        line: &Logical<'_>,
        long: &mut LongBuffers,
        emit: &mut impl FnMut(Record<'_>),
    ) {
        if self.goes_on(lane, line, long) {
            return;
        }
        self.close(lane, long, emit);
        let open = Open::begin(line, self.spare.take(), long);
        self.begin_several(lane, open);
    }

    /// Adds a line to the record of several that is open on `lane`, if it continues it.
    fn goes_on(&mut self, lane: Lane, line: &Logical<'_>, long: &mut LongBuffers) -> bool {
        let limit = self.line_bytes_max;
        let Some(several) = &mut self.lanes[lane.index()].several else { return false };
        let goes_on = several.admits(line, limit) && several.group.continues(line.content);
        if goes_on {
            several.open.join(line, limit, long);
        }
        goes_on
    }

    /// Begins a record of several lines, none of which is open on `lane`, with its first one.
    fn begin_several(&mut self, lane: Lane, open: Open) {
        let group = Group::start(&open.content);
        self.lanes[lane.index()].several = Some(Several { open, group });
    }

    /// Ends the record of several lines that is open on `lane`, if there is one.
    #[inline(always)]
    pub fn close(&mut self, lane: Lane, long: &mut LongBuffers, emit: &mut impl FnMut(Record<'_>)) {
        if self.lanes[lane.index()].several.is_some() {
            self.close_several(lane, long, emit);
        }
    }

    fn close_several(
        &mut self,
        lane: Lane,
        long: &mut LongBuffers,
        emit: &mut impl FnMut(Record<'_>),
    ) {
        if let Some(Several { open, .. }) = self.lanes[lane.index()].several.take() {
            emit(open.logical().record(lane, open.lines));
            self.spare = Some(Buffers::of(open, long));
        }
    }

    /// Ends all that is open on both lanes: the stream has ended and nothing will follow.
    pub fn finish(&mut self, long: &mut LongBuffers, emit: &mut impl FnMut(Record<'_>)) {
        for lane in Lane::BOTH {
            if let Some(partial) = self.lanes[lane.index()].partial.take() {
                self.complete_open(lane, partial, long, emit);
            }
            self.close(lane, long, emit);
        }
    }

    /// Forgets all that is open; it is read again from where it began.
    pub fn forget(&mut self) {
        self.lanes = [LaneState::default(), LaneState::default()];
    }

    /// Where the oldest open record of `lane` begins.
    pub fn open_from(&self, lane: Lane) -> Option<Position> {
        let state = &self.lanes[lane.index()];
        let several = state.several.as_ref().map(|several| several.open.start);
        several.or_else(|| state.partial.as_ref().map(|partial| partial.start))
    }

    /// A record of several lines on `lane` that waits for nothing but its next line: where it
    /// ends so far, and the runtime time of its last line.
    pub fn waiting(&self, lane: Lane) -> Option<(Position, i64)> {
        let state = &self.lanes[lane.index()];
        match (&state.partial, &state.several) {
            (None, Some(several)) => Some((several.open.end, several.open.last_time_ns)),
            _ => None,
        }
    }

    /// Whether a logical line has begun whose end has not come.
    pub fn has_partial(&self) -> bool {
        self.lanes.iter().any(|state| state.partial.is_some())
    }

    /// Bytes of the buffers that are held open.
    pub fn open_bytes(&self) -> usize {
        self.open().map(|open| open.content.capacity()).sum()
    }

    /// Bytes of content in them.
    pub fn open_content_bytes(&self) -> usize {
        self.open().map(|open| open.content.len()).sum()
    }

    fn open(&self) -> impl Iterator<Item = &Open> {
        (self.lanes.iter()).flat_map(|LaneState { partial, several }| {
            partial.iter().chain(several.as_ref().map(|several| &several.open))
        })
    }
}

impl Several {
    /// Whether time and limits let `line` continue the record.
    fn admits(&self, line: &Logical<'_>, limit: usize) -> bool {
        line.time_ns.saturating_sub(self.open.last_time_ns) <= GAP_NS
            && self.open.lines < RECORD_LINES_MAX
            && self.open.content.len() + line.content.len() < limit
    }
}

#[cfg(test)]
mod tests;
