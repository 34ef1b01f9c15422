//! Bytes that a log file is said to have and that never reached the disk.
//!
//! The kernel writes a file's length and its bytes at times of their own. Where the power is lost in
//! between, NUL bytes stand in the place of what was written last: behind a line that was torn, or
//! as whole lines. No application wrote them, so they are passed over and counted as lost, once, and
//! the text around them is shipped as usual. What stands where is a function of the file's bytes
//! alone: NUL bytes at the beginning of a raw line, and at the end of the last one of a part that
//! gets no more. Those within a line are the line's, for applications write them too.
//!
//! Sources: XFS FAQ, "Why do I see binary NULLS in some files after recovery when I unplugged the
//! power?"; Linux `Documentation/admin-guide/ext4.rst`, `data=writeback` and `auto_da_alloc`.

use super::{Desk, RawLine, Reader, at};
use crate::config::agent::LineFormat;
use crate::tail::Position;
use crate::tail::identity::written_bytes;
use crate::telemetry::throttle;

/// Whether `raw` begins with what was never written.
pub(super) fn begins(raw: &[u8]) -> bool {
    raw.first() == Some(&0)
}

impl Reader {
    /// Takes a raw line that begins with what was never written.
    pub(super) fn line_behind_unwritten(&mut self, raw: &RawLine<'_>, desk: &mut Desk<'_>) {
        let RawLine { bytes, missing, format, part, .. } = *raw;
        let unwritten = bytes.iter().take_while(|byte| **byte == 0).count();
        if unwritten == bytes.len() {
            return self.pass_over_unwritten(at(part, raw.place.end), desk);
        }
        let begins = raw.place.start + unwritten as u64;
        self.pass_over_unwritten(at(part, begins), desk);
        let (bytes, place) = (&bytes[unwritten..], begins..raw.place.end);
        self.single_line(&RawLine { bytes, missing, format, part, place }, desk);
    }

    /// Takes the last line of a part, which has no line feed and goes from the cursor to `end`.
    /// `missing` of its bytes were left out, after which nothing was ever written.
    ///
    /// Its record ends behind the line feed that it lacks: where only that was lost with the power,
    /// the line may have been indexed before, under the id of the whole line.
    pub(super) fn tail(
        &mut self,
        raw: &[u8],
        missing: u64,
        format: LineFormat,
        end: Position,
        desk: &mut Desk<'_>,
    ) {
        let written = match missing {
            0 => written_bytes(raw),
            _ => raw.len(),
        };
        if written > 0 {
            let behind = self.cursor.offset + written as u64 + missing;
            let (bytes, place) = (&raw[..written], self.cursor.offset..behind + 1);
            self.single_line(&RawLine { bytes, missing, format, part: end.part, place }, desk);
            self.cursor = at(end.part, behind);
        }
        self.count_read(desk);
        if self.cursor < end {
            self.pass_over_unwritten(end, desk);
        }
    }

    /// Goes on at `end`: nothing was ever written between the cursor and there.
    pub(super) fn pass_over_unwritten(&mut self, end: Position, desk: &mut Desk<'_>) {
        let from = self.cursor.offset;
        if let Some(bytes) = self.pass_over_lost(end, desk)
            && let Some(suppressed) = throttle::allow("unwritten")
        {
            tracing::error!(
                stream = %desk.shipping.name, offset = from, bytes, suppressed,
                "a log file has NUL bytes where lines should be, as after a loss of power; what stood there is lost"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_written_is_told_from_what_was() {
        for (bytes, written, is_first) in [
            (&b""[..], 0, false),
            (b"\0\0", 0, true),
            (b"torn\0\0", 4, false),
            (b"\0text", 5, true),
            (b"a\0b\0", 3, false),
        ] {
            assert_eq!((written_bytes(bytes), begins(bytes)), (written, is_first), "{bytes:?}");
        }
    }
}
