//! Names that earlier lines' members had, and which of them followed which.
//!
//! Lines of one layout have the same names in nearly the same order. A name that is guessed takes
//! one comparison of its bytes with the line's; one that has to be read takes a search for its end,
//! and a comparison with the others of its object. Owns nothing but such guesses: what is guessed
//! wrong or not at all costs time and changes no result. Bounded, and forgotten when it is full.

/// Names that are known at once; a number of one fits into [`Ids`].
const NAMES_MAX: usize = 128;

/// The longest name with its quotes and colon.
const TEXT_BYTES_MAX: usize = 64;

/// What is compared at once.
const BLOCK: usize = 32;

/// A place in the table.
pub(super) type Id = u8;

/// The place of a name that has none.
pub(super) const NOWHERE: Id = Id::MAX;

/// What a name is marked with before anybody has marked it.
pub const UNMARKED: u8 = 0;

/// Which known names an object has had.
#[derive(Debug, Default)]
pub(super) struct Ids([u64; 2]);

impl Ids {
    /// Adds a name; says whether it was there before.
    #[inline(always)]
    pub(super) fn insert(&mut self, id: Id) -> bool {
        let word = &mut self.0[usize::from(id >> 6 & 1)];
        let bit = 1 << (id & 63);
        let before = *word & bit != 0;
        *word |= bit;
        before
    }
}

/// A name that was guessed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guess {
    pub(super) id: Id,
    /// With quotes and colon.
    pub(super) bytes: usize,
    pub(super) meaning: Meaning,
    pub(super) mark: u8,
}

/// What a name says of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Any,
    /// A string of this name is the job's id.
    Job,
    /// An object of this name may hold the job's id.
    JobCarrier,
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

#[derive(Debug)]
struct Known {
    /// `"name":`, and zeros.
    text: [u8; TEXT_BYTES_MAX],
    /// Which bytes of the first block are the text's.
    mask: [u8; BLOCK],
    length: u8,
    meaning: Meaning,
    mark: u8,
    /// What came next the last two times that it was something else.
    next: Followers,
}

#[derive(Debug, Clone, Copy)]
struct Followers([Id; 2]);

impl Default for Followers {
    fn default() -> Self {
        Self([NOWHERE; 2])
    }
}

impl Known {
    /// `None` for what can't be compared with a line as it stands: long or escaped names.
    fn new(name: &[u8]) -> Option<Self> {
        let length = name.len() + 3;
        if length > TEXT_BYTES_MAX || name.contains(&b'\\') {
            return None;
        }
        let mut text = [0; TEXT_BYTES_MAX];
        for (place, byte) in text.iter_mut().zip([b"\"", name, b"\":"].concat()) {
            *place = byte;
        }
        let mut mask = [0; BLOCK];
        mask.iter_mut().take(length).for_each(|byte| *byte = u8::MAX);
        let length = u8::try_from(length).ok()?;
        let meaning = Meaning::of(name);
        Some(Self { text, mask, length, meaning, mark: UNMARKED, next: Followers::default() })
    }

    /// With quotes and colon.
    fn text(&self) -> &[u8] {
        &self.text[..usize::from(self.length)]
    }

    fn name(&self) -> &[u8] {
        &self.text[1..usize::from(self.length) - 2]
    }

    #[inline(always)]
    fn begins(&self, line: &[u8]) -> bool {
        let Some(block) = line.first_chunk::<BLOCK>() else {
            return line.starts_with(self.text());
        };
        let mut differs = 0;
        for ((here, text), mask) in block.iter().zip(&self.text).zip(&self.mask) {
            differs |= (here ^ text) & mask;
        }
        differs == 0 && (usize::from(self.length) <= BLOCK || line.starts_with(self.text()))
    }
}

/// The names and what is known of their order.
#[derive(Debug, Default)]
pub(super) struct KnownNames {
    names: Vec<Known>,
    /// What an object begins with.
    first: Followers,
    /// What comes behind a name that has no place.
    behind_unknown: Followers,
    is_full: bool,
}

impl KnownNames {
    /// To be called between lines: forgets all if there was no place for a name.
    pub(super) fn make_room(&mut self) {
        if self.is_full {
            self.names.clear();
            self.first = Followers::default();
            self.behind_unknown = Followers::default();
            self.is_full = false;
        }
    }

    /// Marks a name for as long as it is known.
    pub(super) fn mark(&mut self, id: Id, mark: u8) {
        if let Some(known) = self.names.get_mut(usize::from(id)) {
            known.mark = mark;
        }
    }

    pub(super) fn unmark_all(&mut self) {
        self.names.iter_mut().for_each(|known| known.mark = UNMARKED);
    }

    /// The name that `line` goes on with behind the name `before`, or at the beginning if it is
    /// `None`.
    #[inline(always)]
    pub(super) fn guess(&self, before: Option<Id>, line: &[u8]) -> Option<Guess> {
        let followers = match before {
            Some(id) => self.names.get(usize::from(id)).map_or(self.behind_unknown, |it| it.next),
            None => self.first,
        };
        for id in followers.0 {
            if let Some(known) = self.names.get(usize::from(id))
                && known.begins(line)
            {
                let bytes = usize::from(known.length);
                return Some(Guess { id, bytes, meaning: known.meaning, mark: known.mark });
            }
        }
        None
    }

    /// Notes that `name` came behind `before`. `None` where there is no place for it.
    #[cold]
    pub(super) fn note(&mut self, before: Option<Id>, name: &[u8]) -> Option<Id> {
        let place = match self.names.iter().position(|known| known.name() == name) {
            Some(place) => place,
            None => {
                let known = Known::new(name)?;
                if self.names.len() == NAMES_MAX {
                    self.is_full = true;
                    return None;
                }
                self.names.push(known);
                self.names.len() - 1
            }
        };
        let id = Id::try_from(place).ok()?;
        let Followers(next) = match before.map(|id| self.names.get_mut(usize::from(id))) {
            Some(Some(known)) => &mut known.next,
            Some(None) => &mut self.behind_unknown,
            None => &mut self.first,
        };
        *next = [id, next[0]];
        Some(id)
    }
}
