//! What is known of pods and namespaces, and how a source's events change it. Pure.
//!
//! Guarantees that an event which changes nothing relevant yields no [`Change`], that a pod that
//! vanished while a watch was broken counts as gone after the next list, that a pod keeps what an
//! earlier status told of it, and that a pod that has gone keeps its facts: for as long as a
//! stream asked for it and nobody released it, else until [`MAX_GONE`] others have gone since.
//!
//! ```text
//! Init ─▶ Found* ─▶ InitDone ─▶ Changed | Deleted …        (in sync from InitDone on,
//!   ▲                               │                       but between OutOfSync and InSync)
//!   └──────── list again ───────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::facts::PodFacts;
use super::flink::{self, Clusters, Deployment, SessionJob};
use super::kept::Kept;
use crate::discover::StreamName;

/// Pods that have gone and that no stream asked for; beyond it the first gone is forgotten.
pub const MAX_GONE: usize = 1024;

/// What a source says about its objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event<T> {
    /// A complete list begins.
    Init,
    /// One object of the list.
    Found(T),
    /// The list is complete: what it lacks has gone.
    InitDone,
    Changed(T),
    /// The last that was seen of the object.
    Deleted(T),
    /// The source can't be reached; what is known stays.
    OutOfSync,
    /// The source is reached again and nothing was missed.
    InSync,
}

/// What is kept of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamespaceFacts {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
}

/// Something that those who read the store may have to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A pod became known or something relevant about it changed; [`PodFacts::owns`] tells which
    /// streams are meant.
    Pod(Arc<PodFacts>),
    /// Whether the store is in sync now.
    InSync(bool),
}

/// One pod with what decides how long it is kept.
#[derive(Debug)]
struct Held {
    facts: Arc<PodFacts>,
    /// Set once the pod has gone; lower has gone earlier.
    gone: Option<u64>,
    /// A stream asked for it. Set under a shared lock, hence atomic.
    wanted: AtomicBool,
}

/// Whether a source's list is complete and its connection stands.
#[derive(Debug, Default)]
struct Sync {
    complete: bool,
    interrupted: bool,
}

impl Sync {
    fn holds(&self) -> bool {
        self.complete && !self.interrupted
    }

    fn follow<T>(&mut self, event: &Event<T>) {
        match event {
            Event::Init => self.complete = false,
            Event::InitDone => *self = Self { complete: true, interrupted: false },
            Event::OutOfSync => self.interrupted = true,
            Event::Changed(_) | Event::Deleted(_) | Event::InSync => self.interrupted = false,
            Event::Found(_) => {}
        }
    }
}

/// How paths name a static pod: namespace, name, and the config hash if it tells one. Whoever may make
/// pods can give them any hash, but not the name that another has.
type Fixed = (String, String, Option<String>);

fn fixed(facts: &PodFacts) -> Option<Fixed> {
    let hash = facts.config_hash.clone();
    (hash.is_some() || facts.is_known_by_name())
        .then(|| (facts.namespace.clone(), facts.name.clone(), hash))
}

/// All that is known. One writer; readers look up.
#[derive(Debug, Default)]
pub(super) struct State {
    pods: HashMap<String, Held>,
    /// UIDs of the pods that paths don't name by them.
    fixed: HashMap<Fixed, String>,
    namespaces: Kept<String, NamespaceFacts>,
    /// What Flink's operator says. Never waited for: it is no part of being in sync.
    clusters: Clusters,
    needs_namespaces: bool,
    pod_sync: Sync,
    namespace_sync: Sync,
    /// UIDs of the list that is being taken in.
    listed: BTreeSet<String>,
    /// How many pods have gone so far.
    departures: u64,
}

impl State {
    /// The pod of this name; of several that had it, one that is there, else the last that went.
    pub(super) fn find(&self, namespace: &str, name: &str) -> Option<Arc<PodFacts>> {
        let named = |held: &&Held| held.facts.namespace == namespace && held.facts.name == name;
        let held =
            self.pods.values().filter(named).max_by_key(|held| held.gone.unwrap_or(u64::MAX));
        held.map(|held| Arc::clone(&held.facts))
    }

    pub(super) fn in_sync(&self) -> bool {
        self.pod_sync.holds() && (!self.needs_namespaces || self.namespace_sync.holds())
    }

    pub(super) fn needs_namespaces(&self) -> bool {
        self.needs_namespaces
    }

    pub(super) fn knows_namespaces(&self) -> bool {
        !self.namespaces.objects.is_empty()
    }

    /// The pod that `stream` is a run of.
    pub(super) fn lookup(&self, stream: &StreamName) -> Option<Arc<PodFacts>> {
        let held = self.pods.get(&stream.uid).or_else(|| {
            let fixed = |hash| (stream.namespace.clone(), stream.pod.clone(), hash);
            let by_name = || self.fixed.get(&fixed(None));
            self.pods.get(self.fixed.get(&fixed(Some(stream.uid.clone()))).or_else(by_name)?)
        })?;
        held.wanted.store(true, Ordering::Relaxed);
        Some(Arc::clone(&held.facts))
    }

    /// Whether a stream asked for the pod with this UID.
    pub(super) fn is_wanted(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|held| held.wanted.load(Ordering::Relaxed))
    }

    pub(super) fn pods(&self) -> usize {
        self.pods.len()
    }

    /// From now on the store is in sync only with namespaces too, and pods get their labels.
    pub(super) fn require_namespaces(&mut self) -> Vec<Change> {
        let before = self.in_sync();
        self.needs_namespaces = true;
        let mut changes = Vec::new();
        self.note_sync(before, &mut changes);
        changes
    }

    /// Takes in facts that were saved: as of pods that have gone, until a source knows better.
    pub(super) fn restore(&mut self, saved: Vec<PodFacts>) {
        for mut facts in saved {
            if !self.needs_namespaces {
                facts.namespace_labels = None;
            }
            if !self.pods.contains_key(&facts.uid) {
                let uid = facts.uid.clone();
                self.index_gone(&facts);
                self.put(facts);
                self.depart(&uid);
                if let Some(held) = self.pods.get_mut(&uid) {
                    *held.wanted.get_mut() = true;
                }
            }
        }
    }

    /// No stream of the pod that goes by `uid` in paths has files left.
    pub(super) fn release(&mut self, uid: &str) {
        let named = if self.pods.contains_key(uid) {
            vec![uid.to_owned()]
        } else {
            // A static pod that was made anew has been several.
            let named = |held: &&Held| held.facts.config_hash.as_deref() == Some(uid);
            self.pods.values().filter(named).map(|held| held.facts.uid.clone()).collect()
        };
        for uid in named {
            let Some(held) = self.pods.get_mut(&uid) else { continue };
            *held.wanted.get_mut() = false;
            if held.gone.is_some() {
                self.forget(&uid);
            }
        }
    }

    pub(super) fn apply_pod(&mut self, event: Event<PodFacts>) -> Vec<Change> {
        let before = self.in_sync();
        self.pod_sync.follow(&event);
        let mut changes = Vec::new();
        match event {
            Event::Init => self.listed.clear(),
            Event::Found(facts) => {
                self.listed.insert(facts.uid.clone());
                self.index(&facts);
                changes.extend(self.put(facts));
            }
            Event::InitDone => self.end_list(),
            Event::Changed(facts) => {
                self.index(&facts);
                changes.extend(self.put(facts));
            }
            Event::Deleted(facts) => {
                let uid = facts.uid.clone();
                self.index_gone(&facts);
                changes.extend(self.put(facts));
                self.depart(&uid);
            }
            Event::OutOfSync | Event::InSync => {}
        }
        self.note_sync(before, &mut changes);
        changes
    }

    pub(super) fn apply_namespace(&mut self, event: Event<NamespaceFacts>) -> Vec<Change> {
        let mut changes = Vec::new();
        if !self.needs_namespaces {
            return changes;
        }
        let before = self.in_sync();
        self.namespace_sync.follow(&event);
        if let Some(namespace) = self.namespaces.apply(event, |namespace| &namespace.name).last() {
            self.label_pods(namespace, &mut changes);
        }
        self.note_sync(before, &mut changes);
        changes
    }

    /// A `FlinkDeployment` came, changed or went.
    pub(super) fn apply_deployment(&mut self, event: Event<Deployment>) -> Vec<Change> {
        let clusters = self.clusters.apply_deployment(event);
        self.tell_pods(&clusters)
    }

    /// A `FlinkSessionJob` came, changed or went.
    pub(super) fn apply_session_job(&mut self, event: Event<SessionJob>) -> Vec<Change> {
        let clusters = self.clusters.apply_job(event);
        self.tell_pods(&clusters)
    }

    /// Has the pods of these clusters, by namespace and name, take in what is said of them.
    fn tell_pods(&mut self, clusters: &BTreeSet<(String, String)>) -> Vec<Change> {
        let mut changes = Vec::new();
        if clusters.is_empty() {
            return changes;
        }
        let (pods, known) = (self.pods.values_mut(), &self.clusters);
        for held in pods.filter(|held| held.gone.is_none()) {
            let facts = &held.facts;
            let Some(cluster) = flink::labels(&facts.labels).1 else { continue };
            if !clusters.contains(&(facts.namespace.clone(), cluster.to_owned())) {
                continue;
            }
            let Some(mut flink) = known.facts(&facts.namespace, &facts.labels) else { continue };
            if let Some(older) = &facts.flink {
                flink.inherit(older);
            }
            if facts.flink.as_ref() != Some(&flink) {
                Arc::make_mut(&mut held.facts).flink = Some(flink);
                changes.push(Change::Pod(Arc::clone(&held.facts)));
            }
        }
        changes
    }

    fn note_sync(&self, before: bool, changes: &mut Vec<Change>) {
        if before != self.in_sync() {
            changes.push(Change::InSync(!before));
        }
    }

    /// Adds or replaces a pod, which is there again if it had gone; a change if facts differ.
    fn put(&mut self, mut facts: PodFacts) -> Option<Change> {
        // Until its namespace is known, a pod has what was known of it: of a gone one nobody tells more.
        if let Some(namespace) = self.namespaces.objects.get(&facts.namespace) {
            facts.namespace_labels = Some(namespace.labels.clone());
        }
        if let Some(flink) = self.clusters.facts(&facts.namespace, &facts.labels) {
            facts.flink = Some(flink);
        }
        let Some(held) = self.pods.get_mut(&facts.uid) else {
            let facts = Arc::new(facts);
            let held = Held { facts: Arc::clone(&facts), gone: None, wanted: false.into() };
            self.pods.insert(facts.uid.clone(), held);
            return Some(Change::Pod(facts));
        };
        held.gone = None;
        facts.inherit(&held.facts);
        if *held.facts == facts {
            return None;
        }
        let before = std::mem::replace(&mut held.facts, Arc::new(facts));
        let facts = Arc::clone(&held.facts);
        if let Some(before) = fixed(&before).filter(|before| fixed(&facts).as_ref() != Some(before))
        {
            self.unindex(&before, &facts.uid);
        }
        Some(Change::Pod(facts))
    }

    fn index(&mut self, facts: &PodFacts) {
        if let Some(fixed) = fixed(facts) {
            self.fixed.insert(fixed, facts.uid.clone());
        }
    }

    /// A pod that has gone never takes a hash or a name from one that is there.
    fn index_gone(&mut self, facts: &PodFacts) {
        if let Some(fixed) = fixed(facts) {
            self.fixed.entry(fixed).or_insert_with(|| facts.uid.clone());
        }
    }

    /// The pod with this UID is not named so any more; another one may be.
    fn unindex(&mut self, fixed: &Fixed, uid: &str) {
        if self.fixed.get(fixed).is_some_and(|other| other == uid) {
            self.fixed.remove(fixed);
        }
    }

    fn end_list(&mut self) {
        let listed = std::mem::take(&mut self.listed);
        let vanished: BTreeSet<String> = (self.pods.iter())
            .filter(|(uid, held)| held.gone.is_none() && !listed.contains(*uid))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in vanished {
            self.depart(&uid);
        }
    }

    /// Marks a pod as gone and forgets the first of those that went and that nobody wants.
    fn depart(&mut self, uid: &str) {
        let Some(held) = self.pods.get_mut(uid) else { return };
        held.gone = Some(self.departures);
        self.departures += 1;
        let unwanted = (self.pods.iter())
            .filter(|(_, held)| !held.wanted.load(Ordering::Relaxed))
            .filter_map(|(uid, held)| Some((held.gone?, uid)));
        let (count, first) = unwanted.fold((0, None), |(count, first), one| {
            (count + 1, Some(first.map_or(one, |first: (u64, &String)| first.min(one))))
        });
        if let Some(uid) = first.filter(|_| count > MAX_GONE).map(|(_, uid)| uid.clone()) {
            self.forget(&uid);
        }
    }

    fn forget(&mut self, uid: &str) {
        let Some(held) = self.pods.remove(uid) else { return };
        if let Some(fixed) = fixed(&held.facts) {
            self.unindex(&fixed, uid);
        }
    }

    /// Has the pods of a namespace take in its labels; those that have gone only if they have none.
    fn label_pods(&mut self, namespace: &NamespaceFacts, changes: &mut Vec<Change>) {
        let NamespaceFacts { name, labels } = namespace;
        let within = self.pods.values_mut().filter(|held| held.facts.namespace == *name);
        for held in within {
            let known = held.facts.namespace_labels.as_ref();
            if known.is_none() || (held.gone.is_none() && known != Some(labels)) {
                Arc::make_mut(&mut held.facts).namespace_labels = Some(labels.clone());
                changes.push(Change::Pod(Arc::clone(&held.facts)));
            }
        }
    }
}

#[cfg(test)]
mod tests;
