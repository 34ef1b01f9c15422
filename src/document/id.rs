//! The `_id` of a document: which raw bytes it was made from, in an order that is that of time.
//!
//! Owns the format: 40 characters of the base64url alphabet without padding.
//!
//! ```text
//! 13 runtime time     nanoseconds, 65 bits, five to a character (`A` to `f`)
//! 11 hash             64 bits of SHA-256 over scope, stream and part, six to a character
//!  8 start   8 end    byte positions, 48 bits each, six to a character
//! ```
//!
//! Guarantees that ids compare as their times do, as text and as the 30 bytes that Elasticsearch
//! keeps (`Uid.encodeId` stores an id of this form decoded), that the same bytes of the same part
//! always get the same id, and that two ranges of one part never share one. Neither path, inode,
//! host nor content enters. Does not decide what a part is or where a record ends.

use sha2::{Digest, Sha256};

use crate::discover::StreamName;

/// Characters of an id.
pub const LENGTH: usize = 40;

const TIME: usize = 13;
const HASH: usize = 11;

/// Largest byte position that an id can tell: 256 TiB. Larger ones are taken for it.
const MAX_OFFSET: u64 = (1 << 48) - 1;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What does not differ between the records of a part, ready to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdHash([u8; HASH]);

/// Hashes what an id depends on beside time and positions. A part is its first line's runtime time
/// and hash; `end_part` is given where the record ends in a later part than it begins in.
pub fn hash(
    id_scope: &str,
    stream: &StreamName,
    part: (i64, u64),
    end_part: Option<(i64, u64)>,
) -> IdHash {
    let StreamName { namespace, pod, uid, container, restart } = stream;
    let mut sha = Sha256::new();
    // Each text with its length before it, so that no two lists of texts give the same bytes.
    for text in [id_scope, namespace, pod, uid, container] {
        sha.update((text.len() as u64).to_be_bytes());
        sha.update(text);
    }
    sha.update(restart.to_be_bytes());
    for (first_time_ns, line_hash) in [Some(part), end_part].into_iter().flatten() {
        sha.update(first_time_ns.to_be_bytes());
        sha.update(line_hash.to_be_bytes());
    }
    let digest = sha.finalize();
    let first = digest.first_chunk::<8>().expect("a SHA-256 digest has 32 bytes");
    let bits = u64::from_be_bytes(*first);
    let mut characters = [0; HASH];
    for (i, character) in characters.iter_mut().enumerate() {
        // 66 bits, the last two of which are zero.
        *character = sixth((u128::from(bits) << 2 >> (6 * (HASH - 1 - i))) & 63);
    }
    IdHash(characters)
}

/// What an id says: which raw bytes its record was made from.
#[derive(Debug, Clone, Copy)]
pub struct Id<'a> {
    /// When the runtime took the record's first piece, nanoseconds since the epoch; a time before that
    /// counts as zero.
    pub time_ns: i64,
    pub hash: &'a IdHash,
    /// Positions of the raw bytes, in the part where each of them lies.
    pub start: u64,
    pub end: u64,
}

impl Id<'_> {
    /// Its characters.
    pub fn characters(&self) -> [u8; LENGTH] {
        let mut characters = [0; LENGTH];
        self.write(&mut characters);
        characters
    }

    /// Writes its characters where they belong. They come in pieces, and to copy them as one the
    /// processor has to wait until all that was written before has left it.
    #[inline(always)]
    pub fn write(&self, place: &mut [u8; LENGTH]) {
        let time = u64::try_from(self.time_ns).unwrap_or(0);
        // The time in two words, of which the first one has its last five characters only.
        let words = [
            in_bytes::<5>(time >> 40),
            in_bytes::<5>(time & ((1 << 40) - 1)),
            in_bytes::<6>(self.start.min(MAX_OFFSET)),
            in_bytes::<6>(self.end.min(MAX_OFFSET)),
        ];
        let mut characters = [0; 4 * WORD];
        for (place, word) in characters.chunks_exact_mut(WORD).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        // All at once, so that the compiler takes vectors.
        characters.iter_mut().for_each(|digit| *digit = character(*digit));
        let (time, positions) = characters.split_at(2 * WORD);
        place[..TIME].copy_from_slice(&time[2 * WORD - TIME..]);
        place[TIME..TIME + HASH].copy_from_slice(&self.hash.0);
        place[TIME + HASH..].copy_from_slice(positions);
    }
}

/// Characters that are made at once.
const WORD: usize = 8;

/// Eight digits of `BITS` bits each, in a byte each; `number` has no more than they hold.
#[inline(always)]
fn in_bytes<const BITS: u32>(number: u64) -> u64 {
    // The half in front, then the quarter in front of each half, then the eighth, moves up.
    let halves = spread(number, 1, 32, 4 * BITS);
    let quarters = spread(halves, 0x1_0000_0001, 16, 2 * BITS);
    spread(quarters, 0x0001_0001_0001_0001, 8, BITS)
}

/// In each of the fields that begin where `ones` has its bits: leaves the lowest `bits`, and moves
/// those above them to `width`.
#[inline(always)]
fn spread(fields: u64, ones: u64, width: u32, bits: u32) -> u64 {
    let low = ones * ((1 << bits) - 1);
    (fields & !low) << (width - bits) | fields & low
}

/// The character of a digit of six bits; as sums, for vectors.
#[inline(always)]
fn character(digit: u8) -> u8 {
    let from = |first: u8, by: u8| if digit >= first { by } else { 0 };
    let letters = (digit + b'A').wrapping_add(from(26, b'a' - b'Z' - 1));
    letters
        .wrapping_sub(from(52, b'z' + 1 - b'0'))
        .wrapping_sub(from(62, b'9' + 1 - b'-'))
        .wrapping_add(from(63, b'_' - b'-' - 1))
}

/// The runtime time that an id begins with; `None` where it is no id of this form.
pub fn time_of(id: &[u8]) -> Option<i64> {
    if id.len() != LENGTH || !id.iter().all(|byte| ALPHABET.contains(byte)) {
        return None;
    }
    let bits = id.iter().take(TIME).try_fold(0_u128, |bits, &character| {
        let value = ALPHABET.iter().position(|&other| other == character)?;
        (value < 32).then_some(bits << 5 | value as u128)
    })?;
    i64::try_from(bits).ok()
}

/// The character of the lowest six bits.
fn sixth(bits: u128) -> u8 {
    ALPHABET[(bits & 63) as usize]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream() -> StreamName {
        StreamName {
            namespace: "flink".into(),
            pod: "orders-taskmanager-1-1".into(),
            uid: "8f7a3c52-1f1c-4a6e-9d55-0a6f1d2b3c4d".into(),
            container: "flink-main-container".into(),
            restart: 0,
        }
    }

    fn id(time_ns: i64, start: u64, end: u64) -> String {
        let hash = hash("", &stream(), (1, 2), None);
        let id = Id { time_ns, hash: &hash, start, end };
        String::from_utf8(id.characters().to_vec()).expect("ids are ASCII")
    }

    #[test]
    fn golden() {
        // Ids outlive releases: a change here means duplicates after an update.
        assert_eq!(
            id(1_795_468_937_493_127_544, 0, 420),
            "BRaWJPRQINILY1AQqZRJiUyYAAAAAAAAAAAAAAGk"
        );
    }

    #[test]
    fn characters_are_those_of_the_alphabet() {
        for (digit, expected) in (0..).zip(ALPHABET) {
            assert_eq!(character(digit), *expected, "{digit}");
        }
        let digits = [1_u8, 2, 31, 0, 17, 30, 5, 16];
        let number = |bits: u32| digits.iter().fold(0, |all, &one| all << bits | u64::from(one));
        assert_eq!(in_bytes::<5>(number(5)).to_be_bytes(), digits);
        assert_eq!(in_bytes::<6>(number(6)).to_be_bytes(), digits);
        assert_eq!(in_bytes::<6>(MAX_OFFSET).to_be_bytes(), [63; WORD]);
    }

    #[test]
    fn every_input_of_the_hash_counts() {
        let mut other = stream();
        other.restart = 1;
        let mut moved = stream();
        (moved.namespace, moved.pod) = ("flinko".into(), "rders-taskmanager-1-1".into());
        let hashes = [
            hash("", &stream(), (1, 2), None),
            hash("a", &stream(), (1, 2), None),
            hash("", &other, (1, 2), None),
            hash("", &moved, (1, 2), None),
            hash("", &stream(), (2, 2), None),
            hash("", &stream(), (1, 3), None),
            hash("", &stream(), (1, 2), Some((1, 2))),
        ];
        for (i, one) in hashes.iter().enumerate() {
            assert!(!hashes[..i].contains(one), "hash {i}");
        }
    }

    #[test]
    fn what_is_no_id_has_no_time() {
        let good = id(5, 0, 1);
        assert_eq!(time_of(good.as_bytes()), Some(5));
        assert_eq!(time_of(&good.as_bytes()[1..]), None);
        assert_eq!(time_of(good.replace('A', "=").as_bytes()), None);
        assert_eq!(time_of(good.replacen('A', "z", 1).as_bytes()), None);
        assert_eq!(time_of(id(-1, 0, 1).as_bytes()), Some(0));
    }

    /// As Elasticsearch decodes an id (`java.util.Base64.getUrlDecoder`).
    fn decoded(id: &str) -> Vec<u8> {
        let value = |byte| ALPHABET.iter().position(|&other| other == byte).expect("base64url");
        let bits: Vec<bool> =
            id.bytes().flat_map(|b| (0..6).rev().map(move |i| value(b) >> i & 1 == 1)).collect();
        bits.chunks(8).map(|bits| bits.iter().fold(0, |byte, &b| byte << 1 | u8::from(b))).collect()
    }

    proptest! {
        #[test]
        fn order_is_that_of_time(a in 0..i64::MAX, b in 0..i64::MAX, near in 0..1000_i64) {
            for b in [b, a.saturating_add(near)] {
                prop_assert_eq!(id(a, 9, 10).cmp(&id(b, 9, 10)), a.cmp(&b));
                prop_assert_eq!(decoded(&id(a, 9, 10)).cmp(&decoded(&id(b, 9, 10))), a.cmp(&b));
                prop_assert_eq!(time_of(id(b, 3, 4).as_bytes()), Some(b));
            }
        }

        #[test]
        fn ranges_have_ids_of_their_own(
            a in (0..=MAX_OFFSET, 0..=MAX_OFFSET),
            b in (0..=MAX_OFFSET, 0..=MAX_OFFSET),
        ) {
            prop_assert_eq!(id(7, a.0, a.1) == id(7, b.0, b.1), a == b);
            prop_assert_eq!(id(7, a.0, a.1).len(), LENGTH);
        }
    }
}
