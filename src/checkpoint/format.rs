//! The text of the state files: a header line with version and checksum, then JSON lines.
//!
//! The checkpoint has a line for each reader; the facts of pods have one for each pod that has
//! streams here, under the name that paths give it.
//!
//! Reading refuses everything that was not written whole: a wrong checksum, a missing line, a
//! version that this program does not know.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Reached;
use crate::enrich::PodFacts;
use crate::parse::Lane;
use crate::tail::{PartId, Position};

/// The version that this program writes.
pub const VERSION: u32 = 1;

/// Which reader: a pipeline's place in a stream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    pub pipeline: String,
    /// As [`StreamName`](crate::discover::StreamName) is displayed.
    pub stream: String,
}

/// A record that was ended by the wall clock: it goes no further than `at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    pub lane: Lane,
    pub at: Position,
}

/// What is remembered of one reader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Everything before these positions of stdout and stderr is safe.
    pub reached: Reached,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cuts: Vec<Cut>,
    /// The parts that were there, with their last known size in uncompressed bytes, so that one
    /// that has gone before it was done is a counted loss, and one that was not there is noticed.
    /// Of those that were done: how far they were read.
    pub parts: Vec<(PartId, u64)>,
    /// The last place in the order of parts of which all before were known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listed_ns: Option<i64>,
    /// Nothing was safe yet but what was passed over, as everything is that the runtime took before
    /// this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins_at_ns: Option<i64>,
}

impl Entry {
    /// The newest of the parts that were there: what was written later stands in it or behind it.
    pub fn newest_part(&self) -> Option<PartId> {
        self.parts.iter().map(|(part, _)| *part).max()
    }

    /// Bytes that were not safe and stood in parts that are not `there`, as far as was known.
    pub fn lost_bytes(&self, there: impl Fn(PartId) -> bool) -> u64 {
        self.cut_off_bytes(|part| if there(part) { None } else { Some(0) })
    }

    /// Bytes that were not safe and stood behind the end that a part has now, where `end_of` knows
    /// one: only a loss of power makes a log file shorter while no agent runs.
    pub fn cut_off_bytes(&self, end_of: impl Fn(PartId) -> Option<u64>) -> u64 {
        let from = self.reached[0].min(self.reached[1]);
        let behind = |(part, size): &(PartId, u64)| {
            let safe = if *part == from.part { from.offset } else { 0 };
            end_of(*part).map_or(0, |end| size.saturating_sub(end.max(safe)))
        };
        let unsafe_parts = self.parts.iter().filter(|(part, _)| *part >= from.part);
        unsafe_parts.map(behind).fold(0, u64::saturating_add)
    }
}

/// All readers.
pub type Checkpoint = BTreeMap<Key, Entry>;

/// Pods by the UID that is in their paths.
pub type Pods = BTreeMap<String, PodFacts>;

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    splashdam_checkpoint: u32,
    sha256: String,
}

#[derive(Debug, Deserialize)]
struct Version {
    splashdam_checkpoint: u32,
}

/// Why a checkpoint can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    #[error(
        "written by a newer version of splashdam (format {found}, this one knows up to {VERSION}): \
         run that version again, or name another state.dir, for which everything is read anew"
    )]
    Newer { found: u32 },
    #[error("the first line is not a checkpoint header")]
    Header(#[source] serde_json::Error),
    #[error("the checksum does not fit: the file was damaged or not written whole")]
    Checksum,
    #[error("line {line} is not an entry")]
    Entry { line: usize, source: serde_json::Error },
}

/// The text of a state file.
///
/// # Errors
/// None that the data could cause; serialisation into memory.
pub fn write<K: Serialize, V: Serialize>(entries: &BTreeMap<K, V>) -> serde_json::Result<Vec<u8>> {
    let mut body = Vec::with_capacity(entries.len() * 256);
    for line in entries {
        serde_json::to_writer(&mut body, &line)?;
        body.push(b'\n');
    }
    let header = Header { splashdam_checkpoint: VERSION, sha256: checksum(&body) };
    let mut text = serde_json::to_vec(&header)?;
    text.push(b'\n');
    text.append(&mut body);
    Ok(text)
}

/// Reads what [`write()`] wrote.
///
/// # Errors
/// See [`FormatError`]; never a panic, whatever the bytes.
pub fn read<K, V>(text: &[u8]) -> Result<BTreeMap<K, V>, FormatError>
where
    K: DeserializeOwned + Ord,
    V: DeserializeOwned,
{
    let end = memchr::memchr(b'\n', text).map_or(text.len(), |end| end + 1);
    let (header, body) = text.split_at(end);
    let version: Version = serde_json::from_slice(header).map_err(FormatError::Header)?;
    if version.splashdam_checkpoint > VERSION {
        return Err(FormatError::Newer { found: version.splashdam_checkpoint });
    }
    let header: Header = serde_json::from_slice(header).map_err(FormatError::Header)?;
    if checksum(body) != header.sha256 {
        return Err(FormatError::Checksum);
    }
    body.split_inclusive(|byte| *byte == b'\n')
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_slice(line)
                .map_err(|source| FormatError::Entry { line: index + 2, source })
        })
        .collect()
}

fn checksum(body: &[u8]) -> String {
    Sha256::digest(body).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes any text");
        hex
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(count: u64) -> Checkpoint {
        (0..count)
            .map(|n| {
                let order_ns = i64::MIN + n.cast_signed();
                let part = PartId { order_ns, first_time_ns: order_ns / 2, hash: u64::MAX - n };
                let at = Position { part, offset: n };
                let key = Key { pipeline: format!("p{n}"), stream: "ns_pod_uid/c/0".to_owned() };
                let cuts = vec![Cut { lane: Lane::Stderr, at }];
                let reached = [at, Position::START];
                let parts = vec![(part, n)];
                let listed_ns = (n % 2 == 1).then_some(order_ns);
                (key, Entry { reached, cuts, parts, listed_ns, begins_at_ns: None })
            })
            .collect()
    }

    #[test]
    fn what_was_written_is_read() {
        let text = write(&sample(3)).expect("in memory");
        assert_eq!(read(&text).expect("undamaged"), sample(3));
        assert_eq!(
            read::<Key, Entry>(&write(&Checkpoint::new()).expect("in memory")).expect("empty"),
            Checkpoint::new()
        );
    }

    #[test]
    fn a_newer_version_is_named() {
        let text = br#"{"splashdam_checkpoint":9,"whatever":true}"#;
        assert!(matches!(read::<Key, Entry>(text), Err(FormatError::Newer { found: 9 })));
    }

    proptest! {
        #[test]
        fn a_damaged_file_is_never_taken_for_whole(cut in any::<prop::sample::Index>(), flip in 1_u8..) {
            let text = write(&sample(3)).expect("in memory");
            let at = cut.index(text.len());
            prop_assert!(read::<Key, Entry>(&text[..at]).is_err());
            let mut flipped = text.clone();
            flipped[at] ^= flip;
            if let Ok(read) = read::<Key, Entry>(&flipped) {
                // The header's white space and version are not covered by the checksum.
                prop_assert_eq!(read, sample(3));
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(read::<Key, Entry>(&bytes).is_err());
        }
    }
}
