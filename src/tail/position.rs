//! Where something stands in a stream.
//!
//! Owns the order of parts and of the bytes in them. An offset means uncompressed bytes of the
//! part as first written, so it survives rotation and compression.

use serde::{Deserialize, Serialize};

/// What a part was born as: its first complete raw line.
///
/// Ordered by the runtime time of that line, which is the order in which parts were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartId {
    /// Runtime time of the first line, nanoseconds since the epoch.
    pub first_time_ns: i64,
    /// Of the first line's bytes.
    pub hash: u64,
}

impl PartId {
    /// Before every part.
    pub const FIRST: Self = Self { first_time_ns: i64::MIN, hash: 0 };
}

/// A place between two bytes of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    pub part: PartId,
    /// Uncompressed bytes from the beginning of the part.
    pub offset: u64,
}

impl Position {
    /// Before everything.
    pub const START: Self = Self { part: PartId::FIRST, offset: 0 };
}
