//! Reads what a container runtime and an application wrote. Pure: no I/O, no clock, no failure.
//!
//! Owns the frames of the runtimes ([`cri`], [`docker`]), times ([`time`]) and the question which
//! plain lines are one record ([`java`]). Every function takes bytes and can cope with any; what
//! it cannot read it names ([`Malformed`]), and the caller ships that line as text. On the usual
//! road nothing is allocated. Joining partial lines, limits and counters are the reader's.

pub mod cri;
pub mod docker;
pub mod java;
pub mod json;
pub mod record;
pub mod time;
pub mod walk;

use serde::{Deserialize, Serialize};

use self::time::LastSecond;
use crate::config::agent::LineFormat;

/// One raw line of a log file, taken apart. Borrows from the line, or from the scratch buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// When the runtime took it, nanoseconds since the epoch.
    pub time_ns: i64,
    /// The same as the runtime wrote it.
    pub time: &'a [u8],
    pub lane: Lane,
    /// Whether the rest of the application's line follows in the lane's next raw line.
    pub partial: bool,
    /// The runtime's tags as written (`F`, `P`, `P:…`); empty where it has none.
    pub tag: &'a [u8],
    /// What the application wrote, without the line feed.
    pub content: &'a [u8],
}

/// What is used again for every line that is taken apart.
#[derive(Debug, Default)]
pub struct FrameScratch {
    /// The content of a line that was written with escapes.
    unescaped: Vec<u8>,
    second: LastSecond,
}

/// Takes a raw line apart, without its line feed, by the frame that its file has.
///
/// What must be unescaped is put into `scratch`. [`LineFormat::Auto`] goes by the first byte.
///
/// # Errors
/// The line has not the form that the runtime writes.
pub fn line<'a>(
    format: LineFormat,
    raw: &'a [u8],
    scratch: &'a mut FrameScratch,
) -> Result<Line<'a>, Malformed> {
    if has_cri_frame(format, raw) {
        cri::parse(raw, &mut scratch.second)
    } else {
        docker::parse(raw, scratch)
    }
}

/// The same for nearly all lines, those that are in CRI's frame; `None` for any other. Inlined, so that
/// such a line is taken apart into registers: what goes into memory piece by piece and is read from
/// there as one is waited for.
#[inline(always)]
pub fn cri_line<'a>(
    format: LineFormat,
    raw: &'a [u8],
    scratch: &mut FrameScratch,
) -> Option<Line<'a>> {
    if !has_cri_frame(format, raw) {
        return None;
    }
    cri::parse(raw, &mut scratch.second).ok()
}

#[inline(always)]
fn has_cri_frame(format: LineFormat, raw: &[u8]) -> bool {
    match format {
        LineFormat::Cri => true,
        LineFormat::Docker => false,
        LineFormat::Auto => raw.first() != Some(&b'{'),
    }
}

/// Which of a container's two outputs a line went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    Stdout,
    Stderr,
}

impl Lane {
    pub const BOTH: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// 0 or 1, for arrays with a place for each lane.
    pub fn index(self) -> usize {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes {
            b"stdout" => Some(Self::Stdout),
            b"stderr" => Some(Self::Stderr),
            _ => None,
        }
    }
}

/// Why a raw line has not the form that its runtime writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    #[error("no RFC 3339 time between 1677 and 2262")]
    Time,
    #[error("the output is neither stdout nor stderr")]
    Lane,
    #[error("no tag P or F")]
    Tag,
    #[error("not a JSON object with the strings log, stream and time")]
    Json,
}

impl Malformed {
    /// For metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Lane => "stream",
            Self::Tag => "tag",
            Self::Json => "json",
        }
    }
}

/// Whether nothing but white space is in it.
pub fn is_blank(content: &[u8]) -> bool {
    content.iter().all(u8::is_ascii_whitespace)
}

/// Whether the first byte that is no white space opens a JSON object.
pub fn starts_like_json(content: &[u8]) -> bool {
    content.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_and_json() {
        for blank in ["", " ", "\t \r"] {
            assert!(is_blank(blank.as_bytes()) && !starts_like_json(blank.as_bytes()), "{blank:?}");
        }
        for json in ["{", " {\"a\":1}", "\t{}"] {
            assert!(starts_like_json(json.as_bytes()) && !is_blank(json.as_bytes()), "{json:?}");
        }
        assert!(!starts_like_json(b"[1]") && !is_blank("\u{a0}".as_bytes()));
    }
}
