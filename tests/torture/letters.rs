//! The dead letters of the live pipeline: documents that the peer refuses in both forms.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use serde::Deserialize;

use crate::ground::{Ground, LIVE};
use crate::marks::lines_of;
use crate::peer::index::Index;

#[derive(Deserialize)]
struct Letter {
    id: String,
    document: String,
}

/// By id: a crash between a letter and its acknowledgement may leave the letter twice.
fn all(ground: &Ground) -> io::Result<BTreeMap<String, Letter>> {
    let path = ground.path("state").join("dead-letter").join(format!("{LIVE}.ndjson"));
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text?,
    };
    // the last line may be being written
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole
        .map(|line| {
            let letter: Letter = serde_json::from_str(line)?;
            Ok((letter.id.clone(), letter))
        })
        .collect()
}

/// How many lines are in them.
pub(crate) fn lines(ground: &Ground) -> u64 {
    let letters = all(ground).unwrap_or_default();
    let ranges = letters.values().filter_map(|letter| lines_of(letter.document.as_bytes()).ok());
    ranges.map(|range| u64::from(range.count)).sum()
}

/// Notes them in the index, where they count as documents; how many there are.
pub(crate) fn take(ground: &Ground, index: &mut Index) -> io::Result<usize> {
    let letters = all(ground)?;
    for letter in letters.values() {
        index.take_letter(&letter.id, letter.document.as_bytes());
    }
    Ok(letters.len())
}
