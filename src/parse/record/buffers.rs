//! Buffers that long records are put together in, one set for each worker.
//!
//! A record that is copied together grows by the line, and a buffer of its own would be allocated,
//! grown and given back for each: the kernel maps and clears every page of it again. Owns buffers of
//! records that have ended, so that they are used again by whoever has a long one next; bounded.

/// Bytes that are kept in all.
const KEPT_BYTES_MAX: usize = 2 << 20;

/// How many buffers are kept.
const KEPT_MAX: usize = 16;

/// A buffer of more than so many times what is needed is too good for it: it would be missed by a
/// longer record, and what is open counts with the room that it has.
const TIMES_MAX: usize = 8;

/// Empty buffers, the smallest first.
#[derive(Debug, Default)]
pub struct LongBuffers {
    free: Vec<Vec<u8>>,
    bytes: usize,
}

impl LongBuffers {
    /// An empty buffer with room for twice so many bytes, or else at least for them, and for no more
    /// than [`TIMES_MAX`] times as many.
    pub(super) fn take(&mut self, bytes: usize) -> Option<Vec<u8>> {
        let most = bytes.saturating_mul(TIMES_MAX);
        let fits = |bytes: usize| {
            let place = self.free.partition_point(|buffer| buffer.capacity() < bytes);
            self.free.get(place).is_some_and(|buffer| buffer.capacity() <= most).then_some(place)
        };
        let place = fits(bytes.saturating_mul(2)).or_else(|| fits(bytes))?;
        let buffer = self.free.remove(place);
        self.bytes -= buffer.capacity();
        Some(buffer)
    }

    /// Keeps a buffer whose record has ended. If there are too many, the smallest goes, which is the
    /// cheapest to have again; if they are too large, the largest, which is the rarest needed.
    pub(super) fn give(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        let capacity = buffer.capacity();
        let place = self.free.partition_point(|other| other.capacity() < capacity);
        self.free.insert(place, buffer);
        self.bytes += capacity;
        if self.free.len() > KEPT_MAX {
            self.bytes -= self.free.remove(0).capacity();
        }
        while self.bytes > KEPT_BYTES_MAX {
            self.bytes -= self.free.pop().map_or(self.bytes, |largest| largest.capacity());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_given_is_taken_again_within_bounds(
            steps in prop::collection::vec(
                (any::<bool>(), prop_oneof![1..KEPT_BYTES_MAX + 9, 1..KEPT_BYTES_MAX / 16]),
                1..80,
            ),
        ) {
            let mut buffers = LongBuffers::default();
            let mut kept: Vec<usize> = Vec::new();
            for (give, bytes) in steps {
                if give {
                    let buffer = vec![1; bytes];
                    kept.push(buffer.capacity());
                    kept.sort_unstable();
                    buffers.give(buffer);
                    if kept.len() > KEPT_MAX {
                        kept.remove(0);
                    }
                    while kept.iter().sum::<usize>() > KEPT_BYTES_MAX {
                        kept.pop();
                    }
                } else {
                    let fits = |least: usize| {
                        kept.iter().position(|room| (least..=8 * bytes).contains(room))
                    };
                    let expected = fits(2 * bytes).or_else(|| fits(bytes)).map(|at| kept.remove(at));
                    let taken = buffers.take(bytes);
                    prop_assert!(taken.as_ref().is_none_or(Vec::is_empty));
                    prop_assert_eq!(taken.map(|buffer| buffer.capacity()), expected);
                }
                let free: Vec<_> = buffers.free.iter().map(Vec::capacity).collect();
                prop_assert_eq!(&free, &kept);
                prop_assert_eq!(buffers.bytes, kept.iter().sum::<usize>());
            }
        }
    }
}
