//! One pipeline's place in one stream, and one turn of reading from there.
//!
//! A turn reads at most one chunk, takes its complete lines one after the other through parse,
//! join, splice and filter into the open batch, and stops where the batch is full or the budget
//! has no room: the next turn begins with that line. Nothing is kept of a line that was not used,
//! its file is the buffer.
//!
//! Guarantees: every line is taken exactly once in the order of its lane, unless the reader was told
//! to go back; a position that is reported as reached has no open record before it; bytes gone
//! through = acknowledged + in flight + lost ([`Reader::accounts`]). Does not seal batches, wait, or
//! watch files. [`back`] is how it goes back, [`accounts`] where the bytes are, [`unwritten`] what a
//! loss of power leaves.

mod accounts;
mod back;
mod long_line;
mod unwritten;

use std::collections::BTreeMap;
use std::hint::cold_path;
use std::io;
use std::ops::Range;
use std::sync::Arc;

pub use self::accounts::Accounts;
use self::long_line::LongLine;
use super::form::Form;
use super::open::OpenBatch;
use crate::checkpoint::{Cut, Entry, Ledger, Reached};
use crate::config::agent::LineFormat;
use crate::discover::{PartKind, StreamName};
use crate::document::splice::Scratch;
use crate::filter::Filters;
use crate::parse::record::{Joiner, LongBuffers, Record};
use crate::parse::{self, FrameScratch, Lane, Line, time};
use crate::tail::identity::written_bytes;
use crate::tail::source::is_damage;
use crate::tail::{self, PartId, Position, Source};
use crate::telemetry::throttle;

/// How much is read at once, and at most taken in one turn.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// The size of a page of the page cache, or a divisor of it.
const PAGE_BYTES: usize = 4096;

/// A part that was written to more recently may still get lines, even when there is a newer one:
/// the runtime opens the new file before it has emptied its pipes into the old one.
const SETTLED_NS: u64 = 1_000_000_000;

/// After so many turns in which it could not be read, one a second, a part that gets no more is given up.
const FAILED_TURNS_MAX: u32 = 300;

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There is more to read.
    More,
    /// Everything that is there was taken.
    End,
    /// The part is at its end, and too fresh to be sure of it: look again soon.
    Unsettled,
    /// The open batch has reached its size.
    BatchFull,
    /// The budget has no room for the next line.
    NoRoom,
    /// Another compressed part can't be opened now.
    NoDecoder,
    /// The file is shorter than what was read from it, or has gone: its directory must be looked
    /// at again.
    Changed,
    /// The part can't be read now.
    Failed,
}

/// What documents need on their way into the open batch.
#[derive(Debug)]
pub struct Shipping<'a> {
    pub name: &'a Arc<StreamName>,
    pub batch: &'a mut OpenBatch,
    pub filters: &'a mut Filters,
    pub scratch: &'a mut Scratch,
}

/// What a turn needs besides the reader itself.
#[derive(Debug)]
pub struct Desk<'a> {
    pub stream: &'a mut tail::Stream,
    pub shipping: Shipping<'a>,
    pub buffer: &'a mut Vec<u8>,
    pub frames: &'a mut FrameScratch,
    /// For long records that are put together.
    pub long: &'a mut LongBuffers,
    /// The wall clock, nanoseconds since the epoch.
    pub now_ns: i64,
    /// Nothing will be written to the stream any more.
    pub ended: bool,
    /// Whether this reader may begin another compressed part.
    pub may_unpack: bool,
    /// Whether the pipeline holds nothing that could be given back to the budget.
    pub alone: bool,
    /// A logical line is cut beyond this.
    pub line_bytes_max: usize,
}

/// A raw line of a part.
#[derive(Debug, Clone)]
struct RawLine<'a> {
    /// Without its line feed.
    bytes: &'a [u8],
    /// How many of them were left out, at the end.
    missing: u64,
    format: LineFormat,
    part: PartId,
    /// Where it stands in the part, its line feed included.
    place: Range<u64>,
}

/// Cuts that the wall clock wants.
#[derive(Debug)]
pub struct Asked {
    /// The number of the save that carries them.
    pub save: u64,
    /// They are in the checkpoint.
    pub saved: bool,
    pub cuts: Vec<Cut>,
}

/// One pipeline's place in one stream.
#[derive(Debug)]
pub struct Reader {
    pub form: Form,
    pub ledger: Ledger,
    /// Cuts of the wall clock that are in the checkpoint and not passed by the ledger.
    pub cuts: Vec<Cut>,
    /// Cuts that are on their way to the checkpoint; nothing is read until they are made.
    pub asked: Option<Asked>,
    /// Until the first line that the runtime took at or after this time, lines are passed over.
    begins_at_ns: Option<i64>,
    /// The same, until that line was seen.
    not_before_ns: Option<i64>,
    /// Where that line stands.
    wanted_from: Option<Position>,
    /// What the checkpoint said, until it was compared with the parts that are there.
    pub remembered: Option<Entry>,
    /// The stream has ended and all of it was taken.
    pub complete: bool,
    joiner: Joiner,
    cursor: Position,
    /// Lines of a lane before these positions were safe when reading began.
    safe: Reached,
    /// Up to where raw bytes are counted as read.
    counted_to: Position,
    /// Parts that were left behind, and where.
    left: BTreeMap<PartId, u64>,
    /// Raw bytes that were gone through, less those that are to be gone through again.
    read_bytes: u64,
    /// Those of them that are in no sealed batch.
    unsealed_bytes: u64,
    lost_bytes: u64,
    /// Bytes of parts that were given up after they were read, and should have been read again,
    /// since they were last taken from here.
    pub missed_bytes: u64,
    source: Option<(PartId, Source)>,
    /// The file was seen to be the part since all of it was taken last.
    sure: bool,
    long_line: Option<LongLine>,
    /// The compressed part that was found damaged last.
    damaged: Option<PartId>,
    /// Turns in which the part could not be read, since one in which it could.
    failed_turns: u32,
    /// Up to where bytes that were never written, or could not be read, are counted as lost.
    lost_to: Position,
    /// Those bytes, and compressed ones that stand behind damage, since they were last taken from here.
    pub damaged_bytes: u64,
}

impl Reader {
    /// A reader that takes up after `reached`.
    pub fn new(form: Form, joiner: Joiner, reached: Reached, cuts: Vec<Cut>) -> Self {
        let cursor = reached[0].min(reached[1]);
        Self {
            form,
            ledger: Ledger::new(reached),
            cuts,
            asked: None,
            begins_at_ns: None,
            not_before_ns: None,
            wanted_from: None,
            remembered: None,
            complete: false,
            joiner,
            cursor,
            safe: reached,
            counted_to: cursor,
            left: BTreeMap::new(),
            read_bytes: 0,
            unsealed_bytes: 0,
            lost_bytes: 0,
            missed_bytes: 0,
            source: None,
            sure: false,
            long_line: None,
            damaged: None,
            failed_turns: 0,
            lost_to: Position::START,
            damaged_bytes: 0,
        }
    }

    /// Where the next raw line begins.
    pub fn cursor(&self) -> Position {
        self.cursor
    }

    /// Up to where each lane's lines are in records that have ended.
    pub fn reached(&self) -> Reached {
        Lane::BOTH.map(|lane| {
            let open = self.joiner.open_from(lane).unwrap_or(self.cursor);
            open.max(self.safe[lane.index()])
        })
    }

    /// The earliest byte that may have to be read again.
    pub fn needs_from(&self) -> Position {
        let [stdout, stderr] = self.ledger.acknowledged();
        stdout.min(stderr)
    }

    /// Whether a decompressor is held.
    pub fn unpacks(&self) -> bool {
        matches!(self.source, Some((_, Source::Gzip(_))))
    }

    /// Bytes of open records.
    pub fn open_bytes(&self) -> usize {
        self.joiner.open_bytes()
    }

    /// Whether a logical line has begun whose end has not come.
    pub fn has_partial(&self) -> bool {
        self.joiner.has_partial()
    }

    /// Records that wait for nothing but a next line since `quiet_ns` of the wall clock.
    pub fn overdue(&self, now_ns: i64, quiet_ns: i64) -> Vec<Cut> {
        let waiting =
            |lane| self.joiner.waiting(lane).map(|(at, last_ns)| (Cut { lane, at }, last_ns));
        (Lane::BOTH.into_iter().filter_map(waiting))
            .filter(|(_, last_ns)| now_ns.saturating_sub(*last_ns) >= quiet_ns)
            .map(|(cut, _)| cut)
            .collect()
    }

    /// Where each lane's record ends that waits for nothing but a next line.
    pub fn waiting(&self) -> [Option<Position>; 2] {
        Lane::BOTH.map(|lane| self.joiner.waiting(lane).map(|(at, _)| at))
    }

    /// Whether a record waits for nothing but a next line.
    pub fn is_waiting(&self) -> bool {
        self.waiting().iter().any(Option::is_some)
    }

    /// Ends the records whose cuts are in the checkpoint by now; `None` when that is done.
    fn cut(&mut self, desk: &mut Desk<'_>) -> Option<Turn> {
        if !self.asked.as_ref().is_some_and(|asked| asked.saved) {
            return self.asked.is_some().then_some(Turn::End);
        }
        let no_place = self.has_no_place(0, desk);
        if no_place.is_none() {
            let cuts = self.asked.take().map_or_else(Vec::new, |asked| asked.cuts);
            let Self { joiner, form, .. } = self;
            for cut in &cuts {
                if joiner.waiting(cut.lane).is_some_and(|(at, _)| at == cut.at) {
                    let mut emit =
                        |record: Record<'_>| form.ship_joined(&mut desk.shipping, &record);
                    joiner.close(cut.lane, desk.long, &mut emit);
                }
            }
            self.cuts.extend(cuts);
        }
        no_place
    }

    /// Drops cuts that everything before is safe of.
    pub fn forget_passed_cuts(&mut self) {
        let acknowledged = self.ledger.acknowledged();
        self.cuts.retain(|cut| cut.at > acknowledged[cut.lane.index()]);
    }

    /// Reads and takes what one chunk holds.
    pub fn turn(&mut self, desk: &mut Desk<'_>) -> Turn {
        let stepped = self.step(desk);
        self.sure = matches!(stepped, Ok(Turn::More));
        if stepped.is_ok() {
            self.failed_turns = 0;
        }
        let turn = match stepped {
            Ok(turn) => turn,
            Err(error) if self.unpacks() && is_damage(&error) => self.give_up_part(&error, desk),
            Err(error) => self.failed(&error, desk),
        };
        if turn == Turn::End && self.unpacks() {
            // Others wait for a decompressor.
            self.source = None;
        }
        turn
    }

    /// Goes on behind a compressed part that is damaged: all that stands before the damage was
    /// taken, and what follows can't be had. How much that would be nobody knows, so what is left
    /// of the file is counted.
    fn give_up_part(&mut self, error: &io::Error, desk: &mut Desk<'_>) -> Turn {
        let part = self.cursor.part;
        if self.damaged != Some(part) {
            self.damaged = Some(part);
            let consumed = self.source.as_ref().map_or(0, |(_, source)| source.consumed_bytes());
            let whole = desk.stream.part_mut(part).map_or(0, |part| part.disk_bytes());
            let lost = whole.saturating_sub(consumed).max(1);
            self.damaged_bytes += lost;
            self.note_lost(lost);
            tracing::error!(
                stream = %desk.shipping.name, offset = self.cursor.offset, cause = %error,
                "a compressed log file is damaged; what follows in it is lost"
            );
        }
        match self.is_final(part, self.cursor.offset, desk) {
            Ok(Turn::More) => {
                self.end_open(desk);
                self.leave(part, desk)
            }
            Ok(turn) => turn,
            Err(error) => self.failed(&error, desk),
        }
    }

    /// The part can't be read now. If that lasts and the part gets no more, what is left of it is
    /// given up: a bad place on a disk is not to stop the stream.
    fn failed(&mut self, error: &io::Error, desk: &mut Desk<'_>) -> Turn {
        self.source = None;
        if error.kind() == io::ErrorKind::NotFound {
            return Turn::Changed;
        }
        let part = self.cursor.part;
        self.failed_turns += 1;
        let is_past = desk.ended || desk.stream.after(part).is_some();
        if self.failed_turns < FAILED_TURNS_MAX || !is_past || !desk.stream.is_complete() {
            metrics::counter!("splashdam_read_errors_total").increment(1);
            if let Some(suppressed) = throttle::allow("read") {
                tracing::error!(
                    stream = %desk.shipping.name, cause = %error, suppressed,
                    "a log file can't be read; it is tried again"
                );
            }
            return Turn::Failed;
        }
        self.failed_turns = 0;
        let place = self.cursor.offset;
        let end = desk.stream.part_mut(part).map_or(0, |part| part.end_or_guess());
        let bytes = self.pass_over_lost(at(part, end.max(place)), desk).unwrap_or(0);
        tracing::error!(
            stream = %desk.shipping.name, offset = place, bytes, cause = %error,
            "a log file can't be read for minutes; what is left of it is lost"
        );
        self.long_line = None;
        self.end_open(desk);
        self.leave(part, desk)
    }

    fn step(&mut self, desk: &mut Desk<'_>) -> io::Result<Turn> {
        if let Some(turn) = self.cut(desk) {
            return Ok(turn);
        }
        let (part, format) = match self.locate(desk) {
            Ok(located) => located,
            Err(turn) => return Ok(turn),
        };
        if let Some(long) = self.long_line {
            return self.long_line(part, format, long, desk);
        }
        if self.has_unpacked(part, desk) {
            return self.end_of_part(part, format, &[], desk);
        }
        if !self.open(part, desk)? {
            return Ok(Turn::NoDecoder);
        }
        let mut buffer = std::mem::take(desk.buffer);
        buffer.resize(PAGE_BYTES + CHUNK_BYTES, 0);
        let from = same_place_in_page(&buffer, self.cursor.offset);
        let chunk = &mut buffer[from..from + CHUNK_BYTES];
        let source = &mut self.source.as_mut().expect("opened above").1;
        let read = source.read_at(self.cursor.offset, chunk);
        let turn = read.and_then(|read| match self.is_sure(part, desk)? {
            true => self.take(part, format, &chunk[..read], desk),
            false => Ok(Turn::Changed),
        });
        *desk.buffer = buffer;
        turn
    }

    /// Whether what was just read is of `part`, and not of what was written after it was emptied.
    fn is_sure(&mut self, part: PartId, desk: &mut Desk<'_>) -> io::Result<bool> {
        if self.sure || self.unpacks() {
            return Ok(true);
        }
        let part = desk.stream.part_mut(part).expect("located above");
        self.sure = part.still_begins(self.cursor.offset)?;
        Ok(self.sure)
    }

    /// The part to read from; moves the cursor over parts that are gone. While some part may not
    /// be known yet it goes past none.
    fn locate(&mut self, desk: &Desk<'_>) -> Result<(PartId, LineFormat), Turn> {
        let part = desk.stream.at_or_after(self.cursor.part);
        let is_there = part.is_some_and(|part| part.id == self.cursor.part);
        if !is_there && !desk.stream.is_complete() {
            return Err(Turn::Changed);
        }
        let part = part.ok_or(Turn::End)?;
        if !is_there {
            self.pass_over_gone(part.id);
            self.go_to(part.id);
        }
        if self.cursor.offset < part.readable_from {
            self.cursor.offset = part.readable_from;
            self.counted_to = self.counted_to.max(self.cursor);
            self.source = None;
        }
        Ok((part.id, part.format))
    }

    /// Whether a compressed part, which never grows, was read to its end already.
    fn has_unpacked(&self, part: PartId, desk: &mut Desk<'_>) -> bool {
        let part = desk.stream.part_mut(part).expect("located above");
        part.kind == PartKind::Gzip && part.unpacked_bytes == Some(self.cursor.offset)
    }

    fn go_to(&mut self, part: PartId) {
        self.cursor = Position { part, offset: 0 };
        self.source = None;
        self.long_line = None;
    }

    /// Makes sure of a source for `part`; `false` when no decompressor is to be had.
    fn open(&mut self, part: PartId, desk: &mut Desk<'_>) -> io::Result<bool> {
        let part = desk.stream.part_mut(part).expect("located above");
        if let Some((open, source)) = &self.source
            && *open == part.id
            && part.is_read_by(source)
        {
            return Ok(true);
        }
        if part.kind == PartKind::Gzip && !desk.may_unpack {
            return Ok(false);
        }
        self.source = Some((part.id, part.source()?));
        self.sure = false;
        Ok(true)
    }

    /// Takes the complete lines of `chunk`, which begins at the cursor.
    fn take(
        &mut self,
        part: PartId,
        format: LineFormat,
        chunk: &[u8],
        desk: &mut Desk<'_>,
    ) -> io::Result<Turn> {
        let base = self.cursor.offset;
        let mut used = 0;
        let mut stopped = None;
        for newline in memchr::memchr_iter(b'\n', chunk) {
            stopped = self.has_no_place(newline - used, desk);
            if stopped.is_some() {
                cold_path();
                break;
            }
            let place = base + used as u64..base + newline as u64 + 1;
            let bytes = &chunk[used..newline];
            self.raw_line(&RawLine { bytes, missing: 0, format, part, place }, desk);
            used = newline + 1;
        }
        let rest = &chunk[used..];
        if let Some((_, source)) = &mut self.source {
            source.unread(base + used as u64, rest);
        }
        self.count_read(desk);
        match stopped {
            Some(turn) => Ok(turn),
            None if used > 0 && chunk.len() == CHUNK_BYTES => Ok(Turn::More),
            None if chunk.len() == CHUNK_BYTES => {
                match written_bytes(chunk) {
                    0 => self.pass_over_unwritten(at(part, base + chunk.len() as u64), desk),
                    _ => self.long_line = Some(LongLine::begins_at(base, chunk)),
                }
                Ok(Turn::More)
            }
            None => self.end_of_part(part, format, rest, desk),
        }
    }

    /// Whether the next line, of `raw_bytes`, must wait.
    fn has_no_place(&self, raw_bytes: usize, desk: &mut Desk<'_>) -> Option<Turn> {
        if desk.shipping.batch.is_full() {
            return Some(Turn::BatchFull);
        }
        // Every byte of text may become six (`\u0000`), in the line and in what it completes.
        let most = 6 * (raw_bytes + self.joiner.open_content_bytes())
            + 2 * self.form.template.overhead_bytes();
        (!desk.shipping.batch.has_room(most, desk.alone)).then_some(Turn::NoRoom)
    }

    /// [`Self::raw_line`] as a function of its own, for the places that see few lines.
    #[inline(never)]
    fn single_line(&mut self, raw: &RawLine<'_>, desk: &mut Desk<'_>) {
        self.raw_line(raw, desk);
    }

    /// Takes a raw line. All that nearly every line goes through is inlined from here on, down to the
    /// document, so that what is known of the line stays in registers. What is lent to a function that
    /// is not inlined has to be in memory, from the moment that it is made: on the rare ways off that
    /// road a copy is lent, here and in what follows.
    #[inline(always)]
    fn raw_line(&mut self, raw: &RawLine<'_>, desk: &mut Desk<'_>) {
        match parse::cri_line(raw.format, raw.bytes, desk.frames) {
            Some(line) => self.line(&line, raw, desk.long, &mut desk.shipping),
            None => self.unusual_line(&raw.clone(), desk),
        }
    }

    /// The same for a line of docker's, and for one that no runtime can have written.
    #[inline(never)]
    fn unusual_line(&mut self, raw: &RawLine<'_>, desk: &mut Desk<'_>) {
        let Desk { frames, long, shipping, .. } = desk;
        let mut time_text = Vec::new();
        let line = match parse::line(raw.format, raw.bytes, frames) {
            Ok(line) => line,
            Err(_) if unwritten::begins(raw.bytes) => {
                return self.line_behind_unwritten(raw, desk);
            }
            Err(why) => {
                metrics::counter!("splashdam_malformed_lines_total", "cause" => why.as_str())
                    .increment(1);
                malformed(raw.bytes, raw.part, &mut time_text)
            }
        };
        self.line(&line, raw, long, shipping);
    }

    /// Takes what `raw` was found to be.
    #[inline(always)]
    fn line(
        &mut self,
        line: &Line<'_>,
        raw: &RawLine<'_>,
        long: &mut LongBuffers,
        shipping: &mut Shipping<'_>,
    ) {
        let place = at(raw.part, raw.place.start)..at(raw.part, raw.place.end);
        if place.start >= self.safe[line.lane.index()] && self.is_wanted(line, place.start) {
            self.logical(line, raw.missing, &place, long, shipping);
        }
        self.cursor = place.end;
    }

    #[inline(always)]
    fn is_wanted(&mut self, line: &Line<'_>, start: Position) -> bool {
        let Some(earliest_ns) = self.not_before_ns else { return true };
        cold_path();
        let wanted = line.time_ns >= earliest_ns;
        if wanted {
            (self.not_before_ns, self.wanted_from) = (None, Some(start));
        }
        wanted
    }

    #[inline(always)]
    fn logical(
        &mut self,
        line: &Line<'_>,
        missing: u64,
        place: &Range<Position>,
        long: &mut LongBuffers,
        shipping: &mut Shipping<'_>,
    ) {
        let Self { joiner, form, cuts, .. } = self;
        let mut emit = |record: Record<'_>| form.ship_joined(shipping, &record);
        if let Some((at, _)) = joiner.waiting(line.lane)
            && cuts.contains(&Cut { lane: line.lane, at })
        {
            cold_path();
            joiner.close(line.lane, long, &mut emit);
        }
        let own = joiner.accept(line, missing, place, long, &mut emit);
        if let Some(record) = own {
            form.ship(shipping, &record);
        }
    }

    /// Everything that is there of `part` was taken, apart from `tail`, which has no line feed.
    fn end_of_part(
        &mut self,
        part: PartId,
        format: LineFormat,
        tail: &[u8],
        desk: &mut Desk<'_>,
    ) -> io::Result<Turn> {
        if let Some(damage) = self.source.as_ref().and_then(|(_, source)| source.damage()) {
            return Err(damage);
        }
        let end = self.cursor.offset + tail.len() as u64;
        let turn = self.is_final(part, end, desk)?;
        if turn != Turn::More {
            return Ok(turn);
        }
        if !tail.is_empty() {
            if let Some(turn) = self.has_no_place(tail.len(), desk) {
                return Ok(turn);
            }
            self.tail(tail, 0, format, at(part, end), desk);
        }
        if let Some(turn) = self.has_no_place(0, desk) {
            return Ok(turn);
        }
        if self.damaged == Some(part) {
            self.end_open(desk);
        }
        Ok(self.leave(part, desk))
    }

    /// Whether `end` is the end of `part` for good (`More`), or what to do instead.
    fn is_final(&self, part: PartId, end: u64, desk: &mut Desk<'_>) -> io::Result<Turn> {
        let has_newer = desk.stream.after(part).is_some();
        if (has_newer || desk.ended) && !desk.stream.is_complete() {
            return Ok(Turn::Changed);
        }
        let part = desk.stream.part_mut(part).expect("located above");
        if part.kind == PartKind::Gzip {
            part.unpacked_bytes = Some(end);
            return Ok(if has_newer || desk.ended { Turn::More } else { Turn::End });
        }
        part.look(end)?;
        if part.truncated {
            return Ok(Turn::Changed);
        }
        let size = part.end().expect("a plain part has a size");
        if !has_newer && !desk.ended {
            return Ok(Turn::End);
        }
        if size > end {
            return Ok(Turn::Unsettled);
        }
        // A time far in the future is that of a clock that was set back since.
        let settled = part.is_copied() || desk.now_ns.abs_diff(part.modified_ns()) >= SETTLED_NS;
        Ok(if settled { Turn::More } else { Turn::Unsettled })
    }

    /// Goes on to the part after `part`, or ends the stream.
    fn leave(&mut self, part: PartId, desk: &mut Desk<'_>) -> Turn {
        if let Some(next) = desk.stream.after(part) {
            self.left.insert(part, self.cursor.offset);
            self.go_to(next.id);
            return Turn::More;
        }
        if !self.complete {
            self.end_open(desk);
            self.complete = true;
            self.source = None;
        }
        Turn::End
    }

    /// Ends records that are open: what comes next doesn't go on with them.
    fn end_open(&mut self, desk: &mut Desk<'_>) {
        let Self { joiner, form, .. } = self;
        let mut emit = |record: Record<'_>| form.ship_joined(&mut desk.shipping, &record);
        joiner.finish(desk.long, &mut emit);
    }
}

/// Where in `buffer` to put what stands at `offset` of a file, so that both lie alike in their
/// pages: the kernel copies with one string instruction, which is several times slower otherwise.
/// Source: Intel's optimisation manual, "Enhanced REP MOVSB and STOSB operation".
fn same_place_in_page(buffer: &[u8], offset: u64) -> usize {
    let page = PAGE_BYTES as u64;
    let begins = buffer.as_ptr().addr() as u64 % page;
    usize::try_from((offset % page + page - begins) % page).expect("less than a page")
}

fn at(part: PartId, offset: u64) -> Position {
    Position { part, offset }
}

/// A raw line that the runtime can't have written: its bytes as text, at the time at which its
/// part began, for nothing in it tells another.
fn malformed<'a>(raw: &'a [u8], part: PartId, time_text: &'a mut Vec<u8>) -> Line<'a> {
    time::write_utc(part.first_time_ns, time_text);
    Line {
        time_ns: part.first_time_ns,
        time: time_text,
        lane: Lane::Stdout,
        partial: false,
        tag: b"",
        content: raw,
    }
}
