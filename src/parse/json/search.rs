//! Where the bytes of a JSON string stop to mean themselves.
//!
//! Owns the search for quotes, backslashes and control characters, and the one that stops at what
//! isn't ASCII too; both the check of a string and the escaping of text spend most of their time
//! here. There is one search for each width of vector that a processor may have, and [`with_best`]
//! compiles what uses it once for each of them, so that the choice is made once per line and not per
//! string. All find the same positions.
//!
//! One of two files of the program with `unsafe` in them. What it buys, on captured lines of the ECS
//! layout (`cargo bench --bench json`): `benches/README.md`, "What was tried".

use std::hint::cold_path;

/// Finds the bytes that mean something inside a JSON string: quotes, backslashes, control characters.
pub trait Search {
    /// Looks at some bytes of `text` from `from` on, which is before its end: a bit for each special
    /// one, the lowest for `text[from]`, and where those bytes end; at most 64.
    fn block(text: &[u8], from: usize) -> (u64, usize);

    /// The same with a bit for each byte that is special or not ASCII, which is found faster.
    fn unusual_block(text: &[u8], from: usize) -> (u64, usize);
}

/// Where the first byte from `from` on is that is special or not ASCII, else the end of the text, or
/// `from` beyond it.
#[inline(always)]
pub(super) fn first_unusual<S: Search>(text: &[u8], mut from: usize) -> usize {
    while from < text.len() {
        let (found, end) = S::unusual_block(text, from);
        if found != 0 {
            return from + found.trailing_zeros() as usize;
        }
        cold_path();
        from = end;
    }
    from
}

/// What is to be done at each special byte of a text. `pass` must be `#[inline(always)]`, as a closure
/// can't be.
pub trait Pass {
    /// Takes the special byte at `at`; gives where the search goes on, which is behind it, or `None`
    /// to stop it there.
    fn pass(&mut self, at: usize) -> Option<usize>;
}

/// Hands `pass` the special bytes of `text` from `from` on, one after the other; those that are near
/// each other are found with one look. Gives where it was stopped, else the end of the text, or where
/// it was to go on beyond it.
#[inline(always)]
pub fn each_special<S: Search>(text: &[u8], mut from: usize, pass: &mut impl Pass) -> usize {
    while from < text.len() {
        let (mut found, mut end) = S::block(text, from);
        while found != 0 {
            let at = from + found.trailing_zeros() as usize;
            let Some(behind) = pass.pass(at) else { return at };
            if behind < end {
                found &= u64::MAX << (behind - from);
            } else {
                end = behind;
                break;
            }
        }
        from = end;
    }
    from
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
    fn block(text: &[u8], from: usize) -> (u64, usize) {
        first_of(text, from, |word| special(word) & !word & TOPS, is_special)
    }

    #[inline(always)]
    fn unusual_block(text: &[u8], from: usize) -> (u64, usize) {
        let is_unusual = |byte: u8| is_special(byte) || !byte.is_ascii();
        first_of(text, from, |word| (special(word) | word) & TOPS, is_unusual)
    }
}

/// What a word tells, or the bytes of what is less than a word. Ends behind the first that is found:
/// of those behind it a word doesn't tell.
#[inline(always)]
fn first_of(
    text: &[u8],
    from: usize,
    in_word: impl Fn(u64) -> u64,
    is_one: impl Fn(u8) -> bool,
) -> (u64, usize) {
    let rest = text.get(from..).unwrap_or_default();
    let at = match rest.first_chunk() {
        Some(word) => match in_word(u64::from_le_bytes(*word)) {
            0 => return (0, from + size_of_val(word)),
            found => (found.trailing_zeros() >> 3) as usize,
        },
        None => match rest.iter().position(|&byte| is_one(byte)) {
            None => return (0, text.len()),
            Some(at) => at,
        },
    };
    (1 << at, from + at + 1)
}

#[inline(always)]
fn is_special(byte: u8) -> bool {
    byte == b'"' || byte == b'\\' || byte < b' '
}

/// One in each byte of a word, and the top bit of each.
const ONES: u64 = u64::MAX / 0xFF;
const TOPS: u64 = ONES << 7;

/// Of the top bits of those bytes that have none of their own, the lowest that is set is that of the
/// first special byte. Higher ones may be wrong, by the carry of the subtractions.
#[inline(always)]
fn special(word: u64) -> u64 {
    const QUOTES: u64 = u64::from_ne_bytes([b'"'; 8]);
    const BACKSLASHES: u64 = u64::from_ne_bytes([b'\\'; 8]);
    let control = word.wrapping_sub(ONES * 0x20);
    let quote = (word ^ QUOTES).wrapping_sub(ONES);
    let backslash = (word ^ BACKSLASHES).wrapping_sub(ONES);
    control | quote | backslash
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "a third of the time that a line's check takes; see the module")]
mod x86 {
    use std::arch::x86_64 as simd;
    use std::sync::OnceLock;

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
            // Found out once: to ask for five features takes twenty instructions for each line.
            static WIDEST: OnceLock<Option<Widest>> = OnceLock::new();
            *WIDEST.get_or_init(Self::find)
        }

        fn find() -> Option<Self> {
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

    /// Looks at a whole block with `look`; at what is left together with bytes before it, as the
    /// text's last block; and at a text of less than a block with `short`.
    #[inline(always)]
    fn by_blocks<const BYTES: usize>(
        text: &[u8],
        from: usize,
        look: impl Fn(&[u8; BYTES]) -> u64,
        short: impl Fn(&[u8], usize) -> (u64, usize),
    ) -> (u64, usize) {
        let rest = text.get(from..).unwrap_or_default();
        if let Some(block) = rest.first_chunk() {
            return (look(block), from + BYTES);
        }
        match text.last_chunk() {
            Some(last) => (look(last) >> (BYTES - rest.len()), text.len()),
            None => short(text, from),
        }
    }

    /// 32 bytes at a time. Not to be had outside, for it must run within [`run_32`] only.
    struct Bytes32;

    impl Search for Bytes32 {
        #[inline(always)]
        fn block(text: &[u8], from: usize) -> (u64, usize) {
            // SAFETY: within `run_32`, so the processor has AVX2.
            by_blocks(text, from, |block| unsafe { special_32(block) }, Words::block)
        }

        #[inline(always)]
        fn unusual_block(text: &[u8], from: usize) -> (u64, usize) {
            // SAFETY: the same.
            by_blocks(text, from, |block| unsafe { unusual_32(block) }, Words::unusual_block)
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

    /// The same with those that are not ASCII, which as signed numbers are below a space too.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn unusual_32(block: &[u8; 32]) -> u64 {
        // SAFETY: the block is as long as what is loaded, which needs no alignment.
        let bytes = unsafe { simd::_mm256_loadu_si256(block.as_ptr().cast()) };
        let is =
            |byte: u8| simd::_mm256_cmpeq_epi8(bytes, simd::_mm256_set1_epi8(byte.cast_signed()));
        let below = simd::_mm256_cmpgt_epi8(simd::_mm256_set1_epi8(0x20), bytes);
        let any = simd::_mm256_or_si256(simd::_mm256_or_si256(is(b'"'), is(b'\\')), below);
        simd::_mm256_movemask_epi8(any).cast_unsigned().into()
    }

    /// 64 bytes at a time. Not to be had outside, for it must run within [`run_64`] only.
    struct Bytes64;

    impl Search for Bytes64 {
        #[inline(always)]
        fn block(text: &[u8], from: usize) -> (u64, usize) {
            // SAFETY: within `run_64`, so the processor has AVX-512BW.
            by_blocks(text, from, |block| unsafe { special_64(block) }, Words::block)
        }

        #[inline(always)]
        fn unusual_block(text: &[u8], from: usize) -> (u64, usize) {
            // SAFETY: the same.
            by_blocks(text, from, |block| unsafe { unusual_64(block) }, Words::unusual_block)
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

    /// The same with those that are not ASCII, which as signed numbers are below a space too.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn unusual_64(block: &[u8; 64]) -> u64 {
        // SAFETY: the block is as long as what is loaded, which needs no alignment.
        let bytes = unsafe { simd::_mm512_loadu_si512(block.as_ptr().cast()) };
        let is = |byte: u8| {
            simd::_mm512_cmpeq_epi8_mask(bytes, simd::_mm512_set1_epi8(byte.cast_signed()))
        };
        let below = simd::_mm512_cmplt_epi8_mask(bytes, simd::_mm512_set1_epi8(0x20));
        is(b'"') | is(b'\\') | below
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The special bytes from a position on, as many as there are steps, each behind the step from
    /// the one before; and where the search was then.
    struct Found<'a>(&'a [u8], usize, &'a [usize]);

    struct Steps<'a>(&'a [usize], Vec<usize>);

    impl Pass for Steps<'_> {
        #[inline(always)]
        fn pass(&mut self, at: usize) -> Option<usize> {
            let Self(steps, found) = self;
            let behind = at + steps.get(found.len())?;
            found.push(at);
            Some(behind)
        }
    }

    impl Task for Found<'_> {
        type Output = (Vec<usize>, usize);

        #[inline(always)]
        fn run<S: Search>(self) -> Self::Output {
            let Self(text, pos, steps) = self;
            let mut steps = Steps(steps, Vec::new());
            let end = each_special::<S>(text, pos, &mut steps);
            (steps.1, end)
        }
    }

    struct FirstUnusual<'a>(&'a [u8], usize);

    impl Task for FirstUnusual<'_> {
        type Output = usize;

        #[inline(always)]
        fn run<S: Search>(self) -> usize {
            first_unusual::<S>(self.0, self.1)
        }
    }

    /// The same by the byte.
    fn expected(text: &[u8], pos: usize, steps: &[usize]) -> (Vec<usize>, usize) {
        let next = |from: usize| {
            let rest = text.iter().enumerate().skip(from);
            rest.filter(|(_, byte)| is_special(**byte)).map(|(at, _)| at).next()
        };
        let (mut found, mut pos) = (Vec::new(), pos);
        for step in steps {
            let Some(at) = next(pos) else { break };
            found.push(at);
            pos = at + step;
        }
        (found, next(pos).unwrap_or_else(|| text.len().max(pos)))
    }

    proptest! {
        #[test]
        fn every_search_finds_the_same(
            text in prop::collection::vec(prop_oneof![30 => 0x20..=0x7E_u8, 4 => any::<u8>()], 0..300),
            pos in 0..300_usize,
            steps in prop::collection::vec(prop_oneof![4 => 1..4_usize, 1 => 1..150_usize], 0..40),
        ) {
            let unusual = text.iter().skip(pos).position(|&byte| is_special(byte) || !byte.is_ascii());
            let unusual = unusual.map_or_else(|| text.len().max(pos), |at| pos + at);
            prop_assert_eq!(FirstUnusual(&text, pos).run::<Words>(), unusual);
            prop_assert_eq!(with_best(FirstUnusual(&text, pos)), unusual);
            let expected = expected(&text, pos, &steps);
            prop_assert_eq!(&Found(&text, pos, &steps).run::<Words>(), &expected);
            prop_assert_eq!(&with_best(Found(&text, pos, &steps)), &expected);
        }
    }
}
