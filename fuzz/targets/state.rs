//! The state files: read without a panic, and what is read is written and read the same.
//!
//! The checksum would keep everything out but what was written, so it is made to fit.

#![no_main]

use std::collections::BTreeMap;

use splashdam::checkpoint::format::{self, Pods};
use splashdam::checkpoint::{Checkpoint, Entry, Key};
use splashdam::enrich::PodFacts;

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let _ = (format::read::<Key, Entry>(text), format::read::<String, PodFacts>(text));
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let checkpoint: Checkpoint =
        lines.iter().filter_map(|line| serde_json::from_slice::<(Key, Entry)>(line).ok()).collect();
    let pods: Pods = lines
        .iter()
        .filter_map(|line| serde_json::from_slice::<(String, PodFacts)>(line).ok())
        .collect();
    again(&checkpoint);
    again(&pods);
});

fn again<K, V>(entries: &BTreeMap<K, V>)
where
    K: serde::Serialize + serde::de::DeserializeOwned + Ord + std::fmt::Debug,
    V: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let text = format::write(entries).expect("into memory");
    assert_eq!(&format::read::<K, V>(&text).expect("what was written"), entries);
}
