//! Lines in the framing that container runtimes write: `<time> <stream> <F|P> <content>`.
//!
//! Owns the cut of long lines into pieces of 16384 bytes, each with a time of its own, which may
//! fall inside a character, and the check for rotation between any two pieces, also those of one
//! line. Source: containerd `internal/cri/io/logger.go`.

use super::capture::{Line, Numbering, Stream, TreeError};
use super::clock::Moment;
use super::file::LogFile;

/// A piece of a line holds at most this many bytes of content.
const PIECE_BYTES: usize = 16_384;

/// Between the pieces of one line.
const PIECE_STEP_NS: u64 = 3_000;

/// Writes framed lines to a live file.
#[derive(Debug)]
pub(super) struct Framer {
    pub(super) file: LogFile,
    pub(super) moment: Moment,
    /// The file is rotated once it holds this much.
    pub(super) rotate_bytes: Option<u64>,
    pub(super) numbering: Numbering,
    /// The content of a line that may need cutting.
    scratch: Vec<u8>,
}

/// What one line came to.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) bytes: u64,
    pub(super) rotations: u64,
    pub(super) is_split: bool,
}

impl Framer {
    pub(super) fn new(
        file: LogFile,
        moment: Moment,
        rotate_bytes: Option<u64>,
        numbering: Numbering,
    ) -> Self {
        Self { file, moment, rotate_bytes, numbering, scratch: Vec::new() }
    }

    /// Appends `line`, as the `number`-th of its pod; without an end its last piece is `P`.
    pub(super) fn put(
        &mut self,
        line: &Line,
        number: u64,
        ended: bool,
    ) -> Result<Written, TreeError> {
        let mut written = Written::default();
        if line.length_max() <= PIECE_BYTES {
            let block = self.file.block();
            let before = block.len();
            put_framing(block, &self.moment, line.stream, ended);
            line.render(&self.moment, number, self.numbering, block);
            block.push(b'\n');
            written.bytes = (block.len() - before) as u64;
            written.rotations = self.rotate_when_full()?;
            return Ok(written);
        }
        let mut content = std::mem::take(&mut self.scratch);
        content.clear();
        line.render(&self.moment, number, self.numbering, &mut content);
        let result = self.put_pieces(&content, line.stream, ended, &mut written);
        self.scratch = content;
        result.map(|()| written)
    }

    fn put_pieces(
        &mut self,
        content: &[u8],
        stream: Stream,
        ended: bool,
        written: &mut Written,
    ) -> Result<(), TreeError> {
        let pieces = content.len().div_ceil(PIECE_BYTES);
        written.is_split = pieces > 1;
        for (index, piece) in content.chunks(PIECE_BYTES).enumerate() {
            let block = self.file.block();
            let before = block.len();
            put_framing(block, &self.moment, stream, ended && index + 1 == pieces);
            block.extend_from_slice(piece);
            block.push(b'\n');
            written.bytes += (block.len() - before) as u64;
            written.rotations += self.rotate_when_full()?;
            self.moment.set(self.moment.ns() + PIECE_STEP_NS);
        }
        Ok(())
    }

    /// The number of rotations, 0 or 1.
    fn rotate_when_full(&mut self) -> Result<u64, TreeError> {
        if self.rotate_bytes.is_some_and(|limit| self.file.live_bytes() >= limit) {
            self.file.rotate(&self.moment)?;
            return Ok(1);
        }
        self.file.spill()?;
        Ok(0)
    }
}

fn put_framing(out: &mut Vec<u8>, moment: &Moment, stream: Stream, full: bool) {
    moment.put_rfc3339(out);
    let rest: &[u8] = match (stream, full) {
        (Stream::Stdout, true) => b" stdout F ",
        (Stream::Stdout, false) => b" stdout P ",
        (Stream::Stderr, true) => b" stderr F ",
        (Stream::Stderr, false) => b" stderr P ",
    };
    out.extend_from_slice(rest);
}
