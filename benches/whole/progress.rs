//! How far the sink has got with each stream, seen from the documents alone.
//!
//! A stream is told by the hash in its documents' `_id`, the same for all of a file that is not
//! rotated. Bytes are those of documents, without action lines.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where the hash stands in an `_id`, and how long it is.
const HASH: std::ops::Range<usize> = 13..24;

/// Documents that came one after the other from one stream.
#[derive(Debug)]
pub(crate) struct Run {
    hash: String,
    bytes: u64,
}

/// A moment in a stream's progress.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Bytes of all streams until then.
    pub(crate) of_all: u64,
    /// Bytes of this one.
    pub(crate) own: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) bytes: u64,
    /// By hash. Each stream begins with a step that has none of its own bytes.
    pub(crate) streams: BTreeMap<String, Vec<Step>>,
}

impl Progress {
    /// Takes the documents of one body, which came before those of later ones.
    pub(crate) fn add(&mut self, runs: Vec<Run>) {
        for Run { hash, bytes } in runs {
            let steps = self.streams.entry(hash).or_default();
            let own = steps.last().map_or(0, |step| step.own);
            if steps.is_empty() {
                steps.push(Step { of_all: self.bytes, own });
            }
            self.bytes += bytes;
            steps.push(Step { of_all: self.bytes, own: own + bytes });
        }
    }
}

/// The documents of a bulk body, by stream. Items without an `_id` are left out.
pub(crate) fn runs(body: &[u8]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut lines = body.split(|byte| *byte == b'\n');
    while let (Some(action), Some(document)) = (lines.next(), lines.next()) {
        let Some(hash) = hash(action) else { continue };
        let bytes = document.len() as u64;
        match runs.last_mut() {
            Some(last) if last.hash.as_bytes() == hash => last.bytes += bytes,
            _ => runs.push(Run { hash: String::from_utf8_lossy(hash).into_owned(), bytes }),
        }
    }
    runs
}

fn hash(action: &[u8]) -> Option<&[u8]> {
    const KEY: &[u8] = br#""_id":""#;
    let at = memchr::memmem::find(action, KEY)? + KEY.len();
    action.get(at..)?.get(HASH)
}
