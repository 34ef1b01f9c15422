//! Raw lines that are longer than a chunk: their end is looked for chunk by chunk, one in a turn,
//! and then as much of their beginning is read as a logical line may keep.

use std::io;

use super::{CHUNK_BYTES, Desk, RawLine, Reader, Turn, at};
use crate::config::agent::LineFormat;
use crate::tail::PartId;
use crate::tail::identity::written_bytes;

/// A raw line too long for any buffer, whose end is being looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct LongLine {
    start: u64,
    searched_to: u64,
    /// Where it ends without the NUL bytes that were seen last.
    written_to: u64,
}

impl LongLine {
    /// The line that begins at `start` with `chunk`, in which its end is not.
    pub(super) fn begins_at(start: u64, chunk: &[u8]) -> Self {
        Self { start, searched_to: start, written_to: start }.and(chunk)
    }

    /// The same, after `chunk` was searched too.
    fn and(self, chunk: &[u8]) -> Self {
        let written_to = match written_bytes(chunk) {
            0 => self.written_to,
            written => self.searched_to + written as u64,
        };
        Self { searched_to: self.searched_to + chunk.len() as u64, written_to, ..self }
    }
}

impl Reader {
    /// Looks for the end of a raw line that is longer than a chunk, and takes its beginning.
    pub(super) fn long_line(
        &mut self,
        part: PartId,
        format: LineFormat,
        long: LongLine,
        desk: &mut Desk<'_>,
    ) -> io::Result<Turn> {
        if !self.open(part, desk)? {
            return Ok(Turn::NoDecoder);
        }
        let source = &mut self.source.as_mut().expect("opened above").1;
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = source.read_at(long.searched_to, &mut chunk)?;
        let newline = memchr::memchr(b'\n', &chunk[..read]);
        let ends = newline.map(|newline| long.searched_to + newline as u64);
        if ends.is_none() && read > 0 {
            self.long_line = Some(long.and(&chunk[..read]));
            return Ok(Turn::More);
        }
        let end = ends.unwrap_or(long.searched_to);
        let length = end - long.start;
        // Framing and escapes come on top of what is kept of the content.
        let kept =
            usize::try_from(length).unwrap_or(usize::MAX).min(2 * desk.line_bytes_max + 4096);
        if let Some(turn) = self.has_no_place(kept, desk) {
            return Ok(turn);
        }
        let mut raw = vec![0; kept];
        let source = &mut self.source.as_mut().expect("opened above").1;
        let mut filled = 0;
        while filled < kept {
            match source.read_at(long.start + filled as u64, &mut raw[filled..])? {
                0 => return Ok(Turn::Changed),
                read => filled += read,
            }
        }
        if ends.is_none() {
            return self.end_of_long_line(part, format, &raw, long, desk);
        }
        self.long_line = None;
        let (missing, place) = (length - kept as u64, long.start..end + 1);
        self.single_line(&RawLine { bytes: &raw, missing, format, part, place }, desk);
        self.count_read(desk);
        Ok(Turn::More)
    }

    /// A long line, which begins with `raw`, has no end yet.
    fn end_of_long_line(
        &mut self,
        part: PartId,
        format: LineFormat,
        raw: &[u8],
        long: LongLine,
        desk: &mut Desk<'_>,
    ) -> io::Result<Turn> {
        let turn = self.is_final(part, long.searched_to, desk)?;
        if let Turn::More = turn {
            self.long_line = None;
            let written = long.written_to - long.start;
            let kept = raw.len().min(usize::try_from(written).unwrap_or(usize::MAX));
            let missing = written - kept as u64;
            self.tail(&raw[..kept], missing, format, at(part, long.searched_to), desk);
            self.leave(part, desk);
        }
        Ok(turn)
    }
}
