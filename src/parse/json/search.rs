//! Where the bytes of a JSON string stop to mean themselves.
//!
//! Owns the search for the next quote, backslash or control character; both the check of a string
//! and the escaping of text spend most of their time here. There is one search for each width of
//! vector that a processor may have, and [`with_best`] compiles what uses it once for each of them,
//! so that the choice is made once per line and not per string. All find the same position.
//!
//! This is the only file of the program with `unsafe` in it. What it buys, on captured lines of the
//! ECS layout (`cargo bench --bench json`): `benches/README.md`, "What was tried".

/// Finds what means something inside a JSON string.
pub trait Search {
    /// The position of the next byte that means something inside a JSON string, from `pos` on: a
    /// quote, a backslash, a control character; else the end of `text`, or `pos` beyond it.
    fn plain_end(text: &[u8], pos: usize) -> usize;
}

/// What is to be done with a [`Search`]. `run` must be `#[inline(always)]`, and so must what it
/// calls in its loops: only what is inlined is compiled for the vectors.
pub trait Task {
    type Output;

    fn run<S: Search>(self) -> Self::Output;
}

/// Runs `task` with the widest search that this processor has.
#[inline]
pub fn with_best<T: Task>(task: T) -> T::Output {
    #[cfg(target_arch = "x86_64")]
    if let Some(widest) = x86::Widest::of_this_processor() {
        return widest.run(task);
    }
    task.run::<Words>()
}

/// Eight bytes at a time, in a plain integer.
#[derive(Debug)]
struct Words;

impl Search for Words {
    #[inline(always)]
    fn plain_end(text: &[u8], mut pos: usize) -> usize {
        while let Some(block) = text.get(pos..).and_then(<[u8]>::first_chunk) {
            let found = special(block);
            if found != 0 {
                return pos + (found.trailing_zeros() >> 3) as usize;
            }
            pos += size_of_val(block);
        }
        while text.get(pos).is_some_and(|&byte| !is_special(byte)) {
            pos += 1;
        }
        pos
    }
}

#[inline(always)]
fn is_special(byte: u8) -> bool {
    byte == b'"' || byte == b'\\' || byte < b' '
}

/// The lowest bit that is set is the top bit of the first special byte; zero where there is none.
/// Higher ones may be wrong, by the carry of the subtractions.
#[inline(always)]
fn special(block: &[u8; 8]) -> u64 {
    const ONES: u64 = u64::MAX / 0xFF;
    const QUOTES: u64 = u64::from_ne_bytes([b'"'; 8]);
    const BACKSLASHES: u64 = u64::from_ne_bytes([b'\\'; 8]);
    let word = u64::from_le_bytes(*block);
    let control = word.wrapping_sub(ONES * 0x20);
    let quote = (word ^ QUOTES).wrapping_sub(ONES);
    let backslash = (word ^ BACKSLASHES).wrapping_sub(ONES);
    (control | quote | backslash) & !word & (ONES << 7)
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "a third of the time that a line's check takes; see the module")]
mod x86 {
    use std::arch::x86_64 as simd;

    use super::{Search, Task, Words};

    /// The vectors that this processor has. Private, so that only what was found out can be said.
    #[derive(Debug, Clone, Copy)]
    pub(super) struct Widest(Width);

    #[derive(Debug, Clone, Copy)]
    enum Width {
        Bytes32,
        Bytes64,
    }

    impl Widest {
        #[inline(always)]
        pub(super) fn of_this_processor() -> Option<Self> {
            let has_32 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2");
            let has_64 = has_32 && is_x86_feature_detected!("avx512bw");
            if has_64 { Some(Self(Width::Bytes64)) } else { has_32.then_some(Self(Width::Bytes32)) }
        }

        #[inline(always)]
        pub(super) fn run<T: Task>(self, task: T) -> T::Output {
            match self.0 {
                // SAFETY: a `Widest` is made only where the processor was found to have what the
                // function is compiled for.
                Width::Bytes32 => unsafe { run_32(task) },
                // SAFETY: the same.
                Width::Bytes64 => unsafe { run_64(task) },
            }
        }
    }

    #[target_feature(enable = "avx2,bmi1,bmi2")]
    fn run_32<T: Task>(task: T) -> T::Output {
        task.run::<Bytes32>()
    }

    #[target_feature(enable = "avx512f,avx512bw,avx2,bmi1,bmi2")]
    fn run_64<T: Task>(task: T) -> T::Output {
        task.run::<Bytes64>()
    }

    /// Looks at whole blocks with `special`, which gives a bit for each special byte, the lowest for
    /// the first; at what is left together with bytes before it, as the text's last block; and at a
    /// text of less than a block in words.
    #[inline(always)]
    fn by_blocks<const BYTES: usize>(
        text: &[u8],
        mut pos: usize,
        special: impl Fn(&[u8; BYTES]) -> u64,
    ) -> usize {
        while let Some(block) = text.get(pos..).and_then(<[u8]>::first_chunk) {
            let found = special(block);
            if found != 0 {
                return pos + found.trailing_zeros() as usize;
            }
            pos += BYTES;
        }
        if pos >= text.len() {
            return pos;
        }
        let Some(last) = text.last_chunk() else { return Words::plain_end(text, pos) };
        let passed = BYTES - (text.len() - pos);
        let found = special(last) >> passed;
        if found == 0 { text.len() } else { pos + found.trailing_zeros() as usize }
    }

    /// 32 bytes at a time. Not to be had outside, for it must run within [`run_32`] only.
    struct Bytes32;

    impl Search for Bytes32 {
        #[inline(always)]
        fn plain_end(text: &[u8], pos: usize) -> usize {
            // SAFETY: within `run_32`, so the processor has AVX2.
            by_blocks(text, pos, |block| unsafe { special_32(block) })
        }
    }

    /// A bit for each special byte, the lowest for the first.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn special_32(block: &[u8; 32]) -> u64 {
        // SAFETY: the block is as long as what is loaded, which needs no alignment.
        let bytes = unsafe { simd::_mm256_loadu_si256(block.as_ptr().cast()) };
        let is =
            |byte: u8| simd::_mm256_cmpeq_epi8(bytes, simd::_mm256_set1_epi8(byte.cast_signed()));
        let low = simd::_mm256_min_epu8(bytes, simd::_mm256_set1_epi8(0x1F));
        let control = simd::_mm256_cmpeq_epi8(low, bytes);
        let any = simd::_mm256_or_si256(simd::_mm256_or_si256(is(b'"'), is(b'\\')), control);
        simd::_mm256_movemask_epi8(any).cast_unsigned().into()
    }

    /// 64 bytes at a time. Not to be had outside, for it must run within [`run_64`] only.
    struct Bytes64;

    impl Search for Bytes64 {
        #[inline(always)]
        fn plain_end(text: &[u8], pos: usize) -> usize {
            // SAFETY: within `run_64`, so the processor has AVX-512BW.
            by_blocks(text, pos, |block| unsafe { special_64(block) })
        }
    }

    /// A bit for each special byte, the lowest for the first.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn special_64(block: &[u8; 64]) -> u64 {
        // SAFETY: the block is as long as what is loaded, which needs no alignment.
        let bytes = unsafe { simd::_mm512_loadu_si512(block.as_ptr().cast()) };
        let is = |byte: u8| {
            simd::_mm512_cmpeq_epi8_mask(bytes, simd::_mm512_set1_epi8(byte.cast_signed()))
        };
        let control = simd::_mm512_cmplt_epu8_mask(bytes, simd::_mm512_set1_epi8(0x20));
        is(b'"') | is(b'\\') | control
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct PlainEnd<'a>(&'a [u8], usize);

    impl Task for PlainEnd<'_> {
        type Output = usize;

        #[inline(always)]
        fn run<S: Search>(self) -> usize {
            S::plain_end(self.0, self.1)
        }
    }

    proptest! {
        #[test]
        fn plain_end_is_the_first_special(bytes in prop::collection::vec(prop_oneof![30 => 0x20..=0x7E_u8, 1 => any::<u8>()], 0..300), pos in 0..300_usize) {
            let expected = bytes.iter().enumerate().skip(pos).find(|(_, byte)| is_special(**byte));
            let expected = expected.map_or_else(|| bytes.len().max(pos), |(at, _)| at);
            prop_assert_eq!(Words::plain_end(&bytes, pos), expected);
            prop_assert_eq!(with_best(PlainEnd(&bytes, pos)), expected);
        }
    }
}
