//! Buffers that long records are put together in, one set for each worker.
//!
//! A record that is copied together grows by the line, and a buffer of its own would be allocated,
//! grown and given back for each: the kernel maps and clears every page of it again. Owns buffers of
//! records that have ended, so that they are used again by whoever has a long one next; bounded.

/// Bytes that are kept in all.
const KEPT_BYTES_MAX: usize = 2 << 20;

/// How many buffers are kept.
const KEPT_MAX: usize = 16;

/// Empty buffers, the smallest first.
#[derive(Debug, Default)]
pub struct LongBuffers {
    free: Vec<Vec<u8>>,
    bytes: usize,
}

impl LongBuffers {
    /// An empty buffer with room for twice so many bytes, or else at least for them.
    pub(super) fn take(&mut self, bytes: usize) -> Option<Vec<u8>> {
        let fits = |bytes: usize| self.free.partition_point(|buffer| buffer.capacity() < bytes);
        let twice = fits(bytes.saturating_mul(2));
        let place = if twice < self.free.len() { twice } else { fits(bytes) };
        if place == self.free.len() {
            return None;
        }
        let buffer = self.free.remove(place);
        self.bytes -= buffer.capacity();
        Some(buffer)
    }

    /// Keeps a buffer whose record has ended. The smallest ones go if there are too many.
    pub(super) fn give(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        let capacity = buffer.capacity();
        let place = self.free.partition_point(|other| other.capacity() < capacity);
        self.free.insert(place, buffer);
        self.bytes += capacity;
        while self.free.len() > KEPT_MAX || self.bytes > KEPT_BYTES_MAX {
            self.bytes -= self.free.remove(0).capacity();
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
            steps in prop::collection::vec((any::<bool>(), 1..KEPT_BYTES_MAX), 1..60),
        ) {
            let mut buffers = LongBuffers::default();
            let mut kept: Vec<usize> = Vec::new();
            for (give, bytes) in steps {
                if give {
                    let buffer = vec![1; bytes];
                    kept.push(buffer.capacity());
                    kept.sort_unstable();
                    buffers.give(buffer);
                    while kept.len() > KEPT_MAX || kept.iter().sum::<usize>() > KEPT_BYTES_MAX {
                        kept.remove(0);
                    }
                } else {
                    let fits = |bytes: usize| kept.iter().position(|capacity| *capacity >= bytes);
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
