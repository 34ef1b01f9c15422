//! Objects of one kind that are kept as events tell of them. Pure.
//!
//! Guarantees that after a list only what was in it is kept, and never more than so many. What an
//! object means to pods is not decided here, nor whether a source is in sync.

use std::collections::{BTreeMap, BTreeSet};

use super::state::Event;

/// Objects by key, and what a list that is being taken in has named so far; at most `MOST`, what
/// comes beyond it is left out until others go.
#[derive(Debug)]
pub(super) struct Kept<K, T, const MOST: usize = { usize::MAX }> {
    pub(super) objects: BTreeMap<K, T>,
    listed: BTreeSet<K>,
}

impl<K, T, const MOST: usize> Default for Kept<K, T, MOST> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listed: BTreeSet::new() }
    }
}

impl<K: Ord + Clone, T: PartialEq + Clone, const MOST: usize> Kept<K, T, MOST> {
    /// Follows an event; if an object differs now, returns what was known of it, if anything, and
    /// what is.
    pub(super) fn apply(&mut self, event: Event<T>, key: fn(&T) -> &K) -> Vec<T> {
        match event {
            Event::Init => self.listed.clear(),
            Event::Found(object) => {
                if self.has_room_for(key(&object)) {
                    self.listed.insert(key(&object).clone());
                    return self.put(object, key);
                }
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                self.objects.retain(|key, _| listed.contains(key));
            }
            Event::Changed(object) => {
                if self.has_room_for(key(&object)) {
                    return self.put(object, key);
                }
            }
            // The pods keep what they were told.
            Event::Deleted(object) => {
                self.objects.remove(key(&object));
            }
            Event::OutOfSync | Event::InSync => {}
        }
        Vec::new()
    }

    fn has_room_for(&self, key: &K) -> bool {
        self.objects.len() < MOST || self.objects.contains_key(key)
    }

    fn put(&mut self, object: T, key: fn(&T) -> &K) -> Vec<T> {
        match self.objects.insert(key(&object).clone(), object.clone()) {
            Some(before) if before == object => Vec::new(),
            Some(before) => vec![before, object],
            None => vec![object],
        }
    }
}
