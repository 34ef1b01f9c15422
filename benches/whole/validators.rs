//! The JSON validators that the floor chooses from, behind one call.

use std::hint::black_box;
use std::time::Duration;

use serde::de::IgnoredAny;

use crate::process::thread_cpu;

/// A way to check that a line is JSON. Each is used the cheapest way that its crate offers, with
/// buffers reused where it takes any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Validator {
    SerdeIgnored,
    SonicIgnored,
    SonicLazy,
    SimdTape,
}

impl Validator {
    pub(crate) const ALL: [Self; 4] =
        [Self::SerdeIgnored, Self::SonicIgnored, Self::SonicLazy, Self::SimdTape];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SerdeIgnored => "serde-ignored",
            Self::SonicIgnored => "sonic-ignored",
            Self::SonicLazy => "sonic-lazy",
            Self::SimdTape => "simd-tape",
        }
    }
}

/// A validator with the memory that it needs.
pub(crate) struct Checker {
    validator: Validator,
    /// `simd-json` parses in place, so it needs a copy.
    copy: Vec<u8>,
    buffers: simd_json::Buffers,
}

impl Checker {
    pub(crate) fn new(validator: Validator) -> Self {
        Self { validator, copy: Vec::new(), buffers: simd_json::Buffers::default() }
    }

    /// Whether `line` is JSON, UTF-8 included.
    pub(crate) fn is_json(&mut self, line: &[u8]) -> bool {
        match self.validator {
            // The skipped strings of `IgnoredAny` are not checked for UTF-8 by themselves.
            Validator::SerdeIgnored => simdutf8::basic::from_utf8(line)
                .is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok()),
            Validator::SonicIgnored => sonic_rs::from_slice::<IgnoredAny>(line).is_ok(),
            Validator::SonicLazy => sonic_rs::from_slice::<sonic_rs::LazyValue<'_>>(line).is_ok(),
            Validator::SimdTape => {
                self.copy.clear();
                self.copy.extend_from_slice(line);
                simd_json::to_tape_with_buffers(&mut self.copy, &mut self.buffers).is_ok()
            }
        }
    }
}

/// One validator's result over the same lines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Score {
    pub(crate) validator: Validator,
    /// The best of several rounds.
    pub(crate) cpu: Duration,
    pub(crate) valid: usize,
}

/// Measures every validator on `lines`, the fastest first. Those that let more or fewer lines
/// pass than `serde_json` are left out: they don't do the work.
pub(crate) fn compare(lines: &[&[u8]]) -> Vec<Score> {
    let mut scores: Vec<Score> = Validator::ALL.into_iter().map(|v| score(v, lines)).collect();
    let expected = scores[0].valid;
    scores.retain(|score| score.valid == expected);
    scores.sort_by_key(|score| score.cpu);
    scores
}

fn score(validator: Validator, lines: &[&[u8]]) -> Score {
    let mut checker = Checker::new(validator);
    let mut best = Score { validator, cpu: Duration::MAX, valid: 0 };
    for _ in 0..5 {
        let start = thread_cpu();
        best.valid = lines.iter().filter(|line| checker.is_json(black_box(line))).count();
        best.cpu = best.cpu.min(thread_cpu() - start);
    }
    best
}
