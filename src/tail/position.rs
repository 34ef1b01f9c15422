//! Where something stands in a stream.
//!
//! Owns the order of parts and of the bytes in them. An offset means uncompressed bytes of the
//! part as first written, so it survives rotation and compression.

use serde::{Deserialize, Serialize};

/// What a part was born as: its first complete raw line; and its place among the parts.
///
/// Parts are in the order of their first line's runtime time, for that is the order in which they
/// were written, as long as the runtime's clock goes forward. Where it was set back, a part has an
/// `order_ns` of its own (see [`Stream`](super::Stream)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct PartId {
    /// Decides the order; the same as `first_time_ns` unless the runtime's clock went back.
    pub order_ns: i64,
    /// Runtime time of the first line, nanoseconds since the epoch.
    pub first_time_ns: i64,
    /// Of the first line's bytes.
    pub hash: u64,
}

impl PartId {
    /// Before every part.
    pub const FIRST: Self = Self { order_ns: i64::MIN, first_time_ns: i64::MIN, hash: 0 };

    /// The part whose first line has this time and hash, in the order of its time.
    pub fn born(first_time_ns: i64, hash: u64) -> Self {
        Self { order_ns: first_time_ns, first_time_ns, hash }
    }

    /// Whether both name the same part, wherever they put it.
    pub fn is(self, other: Self) -> bool {
        (self.first_time_ns, self.hash) == (other.first_time_ns, other.hash)
    }
}

/// A [`PartId`] as the checkpoint has it.
#[derive(Serialize, Deserialize)]
struct Stored {
    first_time_ns: i64,
    hash: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order_ns: Option<i64>,
}

impl From<Stored> for PartId {
    fn from(stored: Stored) -> Self {
        let Stored { first_time_ns, hash, order_ns } = stored;
        Self { order_ns: order_ns.unwrap_or(first_time_ns), first_time_ns, hash }
    }
}

impl From<PartId> for Stored {
    fn from(part: PartId) -> Self {
        let PartId { order_ns, first_time_ns, hash } = part;
        Self { first_time_ns, hash, order_ns: (order_ns != first_time_ns).then_some(order_ns) }
    }
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
