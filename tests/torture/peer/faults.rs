//! What is done to the next request, decided from a seed; 503 and 413 come in windows of time.

use std::time::{Duration, Instant};

use crate::dice::Dice;

/// What is done to one request. All but the first six store what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    /// The connection ends in the middle of the body.
    TornBefore,
    TooMany {
        retry_after: bool,
    },
    Window503,
    Window413,
    /// Stores half of it, and the connection ends.
    HalfStored,
    /// The connection ends without an answer.
    TornAfter,
    /// The connection ends in the middle of the answer.
    TornInside,
    /// An answer whose length is right and whose JSON is cut off.
    CutJson,
    /// An answer with one item too few.
    WrongCount,
    NotJson,
    /// A gateway in between gives up.
    Stored504,
    /// One in ten items is answered 429.
    SomeItems {
        latency: Duration,
    },
    Well {
        latency: Duration,
    },
}

impl Plan {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::TornBefore => "requests torn in the body",
            Self::TooMany { .. } => "requests answered 429",
            Self::Window503 => "requests answered 503",
            Self::Window413 => "requests answered 413",
            Self::HalfStored => "requests half stored, then torn",
            Self::TornAfter => "requests stored, then torn",
            Self::TornInside => "requests stored, torn in the answer",
            Self::CutJson => "requests stored, JSON cut off",
            Self::WrongCount => "requests stored, an item too few",
            Self::NotJson => "requests stored, answered HTML",
            Self::Stored504 => "requests stored, answered 504",
            Self::SomeItems { .. } => "requests with 10 % of items 429",
            Self::Well { .. } => "requests answered well",
        }
    }

    pub(crate) fn tears_before(&self) -> bool {
        matches!(self, Self::TornBefore)
    }

    pub(crate) fn rejects_items(&self) -> bool {
        matches!(self, Self::SomeItems { .. })
    }

    pub(crate) fn latency(&self) -> Duration {
        match self {
            Self::SomeItems { latency } | Self::Well { latency } => *latency,
            _ => Duration::ZERO,
        }
    }
}

/// A stretch of time in which something is always so.
#[derive(Debug)]
struct Window {
    from: Instant,
    until: Instant,
}

#[derive(Debug)]
pub(crate) struct Faults {
    dice: Dice,
    unavailable: Window,
    /// In it bodies over `limit` bytes are too large.
    narrow: Window,
    limit: usize,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed, 0xFA);
        let unavailable = Window::next(&mut dice);
        let narrow = Window::next(&mut dice);
        Self { dice, unavailable, narrow, limit: 20_000 }
    }

    /// What to do with a body of `length` bytes on the wire.
    pub(crate) fn plan(&mut self, length: usize, calm: bool) -> Plan {
        if calm {
            return Plan::Well { latency: Duration::ZERO };
        }
        let dice = &mut self.dice;
        if self.unavailable.holds(dice) {
            return Plan::Window503;
        }
        if self.narrow.holds(dice) {
            if length > self.limit {
                return Plan::Window413;
            }
        } else {
            let low = dice.between(2_000, 100_000);
            self.limit = usize::try_from(low).expect("small");
        }
        let slow = dice.percent(20);
        let latency = if slow { dice.millis(20, 500) } else { Duration::ZERO };
        // After each of these the shipper waits for as long as it lives: with more, nothing would
        // ever be acknowledged.
        match dice.below(100) {
            0..1 => Plan::TornBefore,
            1..4 => Plan::TooMany { retry_after: dice.one_in(2) },
            4..5 => Plan::HalfStored,
            5..8 => Plan::TornAfter,
            8..9 => Plan::TornInside,
            9..10 => Plan::CutJson,
            10..11 => Plan::WrongCount,
            11..12 => Plan::NotJson,
            12..13 => Plan::Stored504,
            13..20 => Plan::SomeItems { latency },
            _ => Plan::Well { latency },
        }
    }

    /// Whether one item is answered 429.
    pub(crate) fn rejects_item(&mut self) -> bool {
        self.dice.percent(10)
    }
}

impl Window {
    fn next(dice: &mut Dice) -> Self {
        let from = Instant::now() + dice.millis(4_000, 12_000);
        Self { from, until: from + dice.millis(1_000, 3_000) }
    }

    fn holds(&mut self, dice: &mut Dice) -> bool {
        let now = Instant::now();
        if now >= self.until {
            *self = Self::next(dice);
        }
        now >= self.from && now < self.until
    }
}
