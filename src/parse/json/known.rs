//! Names that earlier lines' members had, in the order in which they had them.
//!
//! Lines of one layout have the same names in nearly the same order. A name that is guessed takes
//! one comparison of its bytes with the line's; one that has to be read takes a search for its end,
//! and a comparison with the others of its object. Each place stands for a name behind certain other
//! names, so that it is known of it whether the object had the name before. Owns nothing but such
//! guesses: what is guessed wrong or not at all costs time and changes no result. Bounded, and
//! forgotten when it is full.

use std::hint::cold_path;

/// Places in the table; a power of two, so that every [`Id`] has one.
const PLACES: usize = 128;

/// Places that have a name; the others are [`BEGINNING`] and [`NOWHERE`].
const NAMES_MAX: u8 = BEGINNING;

/// The longest name with its quotes and colon.
const TEXT_BYTES_MAX: usize = 64;

/// What is compared at once.
const BLOCK: usize = 32;

/// A place in the table.
pub(super) type Id = u8;

/// The place that an object's first member stands behind.
pub(super) const BEGINNING: Id = 126;

/// The place of all names that have none of their own, wherever they stand.
pub(super) const NOWHERE: Id = 127;

/// What a name is marked with before anybody has marked it.
pub const UNMARKED: u8 = 0;

/// The mark of a name with which there is nothing to be done.
pub const PLAIN: u8 = 1;

/// What a name says of its value, or of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Any,
    /// A string of this name is the job's id.
    Job,
    /// An object of this name may hold the job's id.
    JobCarrier,
    /// One of the names that this one stands behind is the same.
    Again,
}

impl Meaning {
    /// Of a top-level member in one of the layouts: logstash's, JsonLayout's, Google's and the others.
    pub(super) fn of(name: &[u8]) -> Self {
        match name {
            b"flink-job-id" | b"_flink-job-id" => Self::Job,
            b"mdc" | b"contextMap" | b"logging.googleapis.com/labels" => Self::JobCarrier,
            _ => Self::Any,
        }
    }
}

/// What is known of a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) place: Id,
    pub(super) meaning: Meaning,
    pub(super) mark: u8,
}

/// A name behind certain others. In lines of the processor's cache of its own: each member of each
/// line looks at one.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub(super) struct Known {
    /// `"name":`, and zeros.
    text: [u8; TEXT_BYTES_MAX],
    /// Which bytes of the first block are the text's.
    mask: [u8; BLOCK],
    /// Of the text; 0 for a place without a name.
    length: u8,
    /// What it stands behind.
    before: Id,
    /// What came next the last two times that it was something else.
    next: [Id; 2],
    pub(super) key: Key,
}

impl Known {
    /// A place without a name.
    const NONE: Self = Self {
        text: [0; TEXT_BYTES_MAX],
        mask: [u8::MAX; BLOCK],
        length: 0,
        before: NOWHERE,
        next: [NOWHERE; 2],
        key: Key { place: NOWHERE, meaning: Meaning::Any, mark: UNMARKED },
    };

    /// `None` for what can't be compared with a line as it stands: names that are long or escaped,
    /// or not UTF-8, which would have to be found out again.
    fn new(name: &[u8], before: Id, key: Key) -> Option<Self> {
        let length = name.len() + 3;
        if length > TEXT_BYTES_MAX || name.contains(&b'\\') || str::from_utf8(name).is_err() {
            return None;
        }
        let mut text = [0; TEXT_BYTES_MAX];
        for (place, byte) in text.iter_mut().zip(b"\"".iter().chain(name).chain(b"\":")) {
            *place = *byte;
        }
        let mut mask = [0; BLOCK];
        mask.iter_mut().take(length).for_each(|byte| *byte = u8::MAX);
        Some(Self { text, mask, length: u8::try_from(length).ok()?, before, key, ..Self::NONE })
    }

    /// Its bytes, with quotes and colon.
    #[inline(always)]
    pub(super) fn bytes(&self) -> usize {
        usize::from(self.length)
    }

    fn text(&self) -> &[u8] {
        self.text.get(..self.bytes()).unwrap_or_default()
    }

    fn name(&self) -> &[u8] {
        self.text().get(1..self.bytes() - 2).unwrap_or_default()
    }

    #[inline(always)]
    fn begins(&self, line: &[u8]) -> bool {
        let Some(block) = line.first_chunk::<BLOCK>() else { return self.begins_in_bytes(line) };
        let mut differs = 0;
        for ((here, text), mask) in block.iter().zip(&self.text).zip(&self.mask) {
            differs |= (here ^ text) & mask;
        }
        differs == 0 && ((1..=BLOCK).contains(&self.bytes()) || self.begins_in_bytes(line))
    }

    /// The same for a name that is longer than a block, or near the end of a line, where nearly all are
    /// short.
    #[inline(always)]
    fn begins_in_bytes(&self, line: &[u8]) -> bool {
        let Some(here) = line.get(..self.bytes()) else { return false };
        match (here.first_chunk::<8>(), here.last_chunk::<8>()) {
            (Some(first), Some(last)) if here.len() <= 16 => {
                let text = self.text();
                text.first_chunk() == Some(first) && text.last_chunk() == Some(last)
            }
            _ => self.length != 0 && here == self.text(),
        }
    }
}

/// The names and what is known of their order.
#[derive(Debug)]
pub(super) struct KnownNames {
    places: Box<[Known; PLACES]>,
    /// How many of the places have a name, the first ones.
    names: u8,
    is_full: bool,
}

impl Default for KnownNames {
    fn default() -> Self {
        let mut places = Box::new([Known::NONE; PLACES]);
        places[usize::from(BEGINNING)].key.place = BEGINNING;
        Self { places, names: 0, is_full: false }
    }
}

impl KnownNames {
    /// To be called between lines: forgets all if there was no place for a name.
    pub(super) fn make_room(&mut self) {
        if self.is_full {
            self.forget();
        }
    }

    /// Not inlined, for the new table goes over the stack.
    #[cold]
    #[inline(never)]
    fn forget(&mut self) {
        *self = Self::default();
    }

    #[inline(always)]
    pub(super) fn at(&self, place: Id) -> &Known {
        &self.places[usize::from(place) % PLACES]
    }

    /// Marks a name for as long as its place is known.
    pub(super) fn mark(&mut self, place: Id, mark: u8) {
        if place < self.names {
            self.places[usize::from(place)].key.mark = mark;
        }
    }

    pub(super) fn unmark_all(&mut self) {
        self.places.iter_mut().for_each(|known| known.key.mark = UNMARKED);
    }

    /// The name that `line` goes on with behind `before`.
    #[inline(always)]
    pub(super) fn guess(&self, before: &Known, line: &[u8]) -> Option<&Known> {
        let first = self.at(before.next[0]);
        if first.begins(line) {
            return Some(first);
        }
        cold_path();
        let second = self.at(before.next[1]);
        second.begins(line).then_some(second)
    }

    /// Notes that `name` came behind the place `before`. It may have none of its own: [`NOWHERE`].
    #[cold]
    pub(super) fn note(&mut self, before: Id, name: &[u8]) -> Key {
        let Some(place) = self.place_of(before, name) else {
            return Key { meaning: Meaning::of(name), ..Known::NONE.key };
        };
        let next = &mut self.places[usize::from(before)].next;
        *next = [place, next[0]];
        self.at(place).key
    }

    fn place_of(&mut self, before: Id, name: &[u8]) -> Option<Id> {
        if before == NOWHERE {
            return None;
        }
        let mut known = self.places.iter().take(usize::from(self.names));
        if let Some(known) = known.find(|it| it.before == before && it.name() == name) {
            return Some(known.key.place);
        }
        let place = self.names;
        let is_again = self.behind(before).any(|it| it.name() == name);
        let meaning = if is_again { Meaning::Again } else { Meaning::of(name) };
        let key = Key { place, meaning, mark: UNMARKED };
        let known = Known::new(name, before, key)?;
        if place == NAMES_MAX {
            self.is_full = true;
            return None;
        }
        self.places[usize::from(place)] = known;
        self.names += 1;
        Some(place)
    }

    /// What is at `place` and all that it stands behind.
    fn behind(&self, place: Id) -> impl Iterator<Item = &Known> {
        let with_a_name = |it: &&Known| it.length != 0;
        let last = Some(self.at(place)).filter(with_a_name);
        std::iter::successors(last, move |it| Some(self.at(it.before)).filter(with_a_name))
    }
}
