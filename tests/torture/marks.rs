//! The marks that tell every written line from every other: `@@<lane>.<line>.<part>.<last>@@`.
//!
//! A lane is stdout or stderr of one container; its lines are numbered from 0 without a gap. A
//! long line has a mark every few KiB, numbered from 0 to `last`, so that a piece that is missing,
//! there twice or in the wrong place shows. A mark is the same in JSON and in JSON within JSON.

use memchr::memmem;

const FENCE: &[u8] = b"@@";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    lane: u32,
    line: u32,
    part: u32,
    last: u32,
}

/// The lines that a document was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) lane: u32,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// Why a text isn't made of whole lines of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    NoMark,
    /// Something between the fences is no mark.
    Unreadable,
    /// A line's parts are not all there, once and in order.
    Incomplete,
    /// Lines of two lanes, or of one lane with others between them.
    Mixed,
}

/// A mark as it stands in a line.
pub(crate) fn mark(lane: u32, line: u32, part: u32, last: u32) -> String {
    format!("@@{lane}.{line}.{part}.{last}@@")
}

/// Which lines `text` was made from.
pub(crate) fn lines_of(text: &[u8]) -> Result<Range, Damage> {
    let mut range: Option<Range> = None;
    let mut expected = 0;
    let mut last = 0;
    let mut fences = memmem::find_iter(text, FENCE);
    while let Some(open) = fences.next() {
        let close = fences.next().ok_or(Damage::Unreadable)?;
        let mark = read(&text[open + FENCE.len()..close]).ok_or(Damage::Unreadable)?;
        if expected == 0 {
            match &mut range {
                None => range = Some(Range { lane: mark.lane, first: mark.line, count: 1 }),
                Some(range)
                    if range.lane == mark.lane && range.first + range.count == mark.line =>
                {
                    range.count += 1;
                }
                Some(_) => return Err(Damage::Mixed),
            }
            last = mark.last;
        }
        let now = range.as_ref().ok_or(Damage::NoMark)?;
        let line = now.first + now.count - 1;
        if mark != (Mark { lane: now.lane, line, part: expected, last }) {
            return Err(Damage::Incomplete);
        }
        expected = if expected == last { 0 } else { expected + 1 };
    }
    if expected != 0 {
        return Err(Damage::Incomplete);
    }
    range.ok_or(Damage::NoMark)
}

fn read(text: &[u8]) -> Option<Mark> {
    let text = std::str::from_utf8(text).ok()?;
    let mut numbers = text.split('.').map(|number| number.parse::<u32>().ok());
    let mut next = || numbers.next().flatten();
    let mark = Mark { lane: next()?, line: next()?, part: next()?, last: next()? };
    numbers.next().is_none().then_some(mark)
}
