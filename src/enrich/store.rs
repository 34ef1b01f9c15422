//! The pods that are known: one writer, any number of readers, word of every relevant change.
//!
//! Sources feed it ([`super::pods_api`], [`super::pods_file`]); the engine looks up the pod of a
//! stream when the stream appears or when it is told of a change, never per line. How events
//! change what is known is pure and lives in `state`; this file owns the lock and the callback.
//! The callback runs on the source's thread, without the lock, after the change is visible.
//!
//! Limits: pods that are there are as many as the source names, [`MAX_GONE`] that have gone and
//! that no stream asked for, and those that a stream asked for until [`PodStore::release`].

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use super::facts::PodFacts;
use super::flink::{Deployment, SessionJob};
pub(crate) use super::state::Event;
pub use super::state::{Change, MAX_GONE};
use super::state::{NamespaceFacts, State};
use crate::discover::StreamName;

/// What is called after something relevant has changed. Must not wait for the store's writer.
pub type OnChange = Arc<dyn Fn(&Change) + Send + Sync>;

/// Pods by UID, and by config hash where they are static.
pub struct PodStore {
    state: RwLock<State>,
    /// UIDs, as paths name them, that were asked for in vain and not released since.
    missed: Mutex<BTreeSet<String>>,
    on_change: OnChange,
}

impl fmt::Debug for PodStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pods, in_sync) = (self.read().pods(), self.in_sync());
        f.debug_struct("PodStore").field("pods", &pods).field("in_sync", &in_sync).finish()
    }
}

impl PodStore {
    /// An empty store, not in sync.
    pub fn new(on_change: OnChange) -> Self {
        Self { state: RwLock::default(), missed: Mutex::default(), on_change }
    }

    /// The pod that `stream` is a run of, if it is known. The facts are then kept until
    /// [`Self::release`], also after the pod has gone.
    pub fn lookup(&self, stream: &StreamName) -> Option<Arc<PodFacts>> {
        let facts = self.read().lookup(stream);
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        if facts.is_none() && !missed.contains(&stream.uid) {
            missed.insert(stream.uid.clone());
        } else if facts.is_some() {
            missed.remove(&stream.uid);
        }
        facts
    }

    /// The pod of this name that is there now, or was last.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<PodFacts>> {
        self.read().find(namespace, name)
    }

    /// Whether all pods that there are are known: the source was read to its end and is still
    /// followed, namespaces too where they are required. Time that an unknown pod is waited for
    /// counts only meanwhile.
    pub fn in_sync(&self) -> bool {
        self.read().in_sync()
    }

    /// Some pipeline selects by labels of namespaces: pods get them from now on, and documents
    /// show them. Comes before the source is started.
    pub fn require_namespaces(&self) {
        self.write(State::require_namespaces);
    }

    /// Whether [`Self::require_namespaces`] was called.
    pub fn needs_namespaces(&self) -> bool {
        self.read().needs_namespaces()
    }

    /// Whether any namespace's labels are known.
    pub(super) fn knows_namespaces(&self) -> bool {
        self.read().knows_namespaces()
    }

    /// Takes in facts that an earlier run of the agent saved for streams that it had not read to
    /// their end. Without word to the callback; comes before the source is started.
    pub fn restore(&self, saved: Vec<PodFacts>) {
        self.write(|state| {
            state.restore(saved);
            Vec::new()
        });
    }

    /// The last stream with files of the pod named `uid` in paths has gone: its facts may be
    /// forgotten as soon as the pod has gone too.
    pub fn release(&self, uid: &str) {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        self.write(|state| {
            state.release(uid);
            Vec::new()
        });
    }

    pub(crate) fn apply_pod(&self, event: Event<PodFacts>) {
        self.write(|state| state.apply_pod(event));
    }

    pub(super) fn apply_namespace(&self, event: Event<NamespaceFacts>) {
        self.write(|state| state.apply_namespace(event));
    }

    pub(super) fn apply_deployment(&self, event: Event<Deployment>) {
        self.write(|state| state.apply_deployment(event));
    }

    pub(super) fn apply_session_job(&self, event: Event<SessionJob>) {
        self.write(|state| state.apply_session_job(event));
    }

    /// Whether a stream asked for this pod, found or not.
    pub(super) fn is_wanted(&self, facts: &PodFacts) -> bool {
        self.read().is_wanted(&facts.uid) || {
            let missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
            missed.contains(&facts.uid)
                || facts.config_hash.as_ref().is_some_and(|hash| missed.contains(hash))
        }
    }

    /// Whether any UID that was asked for in vain meets `condition`.
    pub(super) fn any_missed(&self, condition: impl Fn(&str) -> bool) -> bool {
        let missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        missed.iter().any(|uid| condition(uid))
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, change: impl FnOnce(&mut State) -> Vec<Change>) {
        let changes = change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
        for change in &changes {
            (self.on_change)(change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::facts::tests::{pod, stream};

    /// A store and what its callback was told.
    fn recorded() -> (PodStore, Arc<Mutex<Vec<Change>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&told);
        let store = PodStore::new(Arc::new(move |change: &Change| {
            to.lock().unwrap().push(change.clone());
        }));
        (store, told)
    }

    #[test]
    fn the_callback_hears_of_pods_and_of_sync_and_can_look_up() {
        let (store, told) = recorded();
        assert!(!store.in_sync());
        store.apply_pod(Event::Init);
        store.apply_pod(Event::Found(pod("u1", "tm")));
        store.apply_pod(Event::InitDone);
        store.apply_pod(Event::Changed(pod("u1", "tm")));
        assert!(store.in_sync());
        let told = std::mem::take(&mut *told.lock().unwrap());
        assert_eq!(told, [Change::Pod(Arc::new(pod("u1", "tm"))), Change::InSync(true)]);
        assert_eq!(store.lookup(&stream("u1", "tm")).as_deref(), Some(&pod("u1", "tm")));
    }

    #[test]
    fn what_was_asked_for_in_vain_is_remembered_until_found_or_released() {
        let (store, _) = recorded();
        assert_eq!(store.lookup(&stream("u1", "tm")), None);
        assert!(store.is_wanted(&pod("u1", "tm")) && !store.is_wanted(&pod("u2", "tm")));
        assert!(store.any_missed(|uid| uid == "u1"));
        store.release("u1");
        assert!(!store.any_missed(|_| true));
        assert_eq!(store.lookup(&stream("u1", "tm")), None);
        store.apply_pod(Event::Changed(pod("u1", "tm")));
        assert!(store.lookup(&stream("u1", "tm")).is_some());
        assert!(!store.any_missed(|_| true) && store.is_wanted(&pod("u1", "tm")));
    }

    #[test]
    fn a_callback_may_use_the_store() {
        let slot: Arc<Mutex<Option<Arc<PodStore>>>> = Arc::default();
        let seen = Arc::new(Mutex::new(None));
        let (inner, to) = (Arc::clone(&slot), Arc::clone(&seen));
        let store = Arc::new(PodStore::new(Arc::new(move |_: &Change| {
            let store = inner.lock().unwrap().clone().unwrap();
            *to.lock().unwrap() = store.lookup(&stream("u1", "tm"));
        })));
        *slot.lock().unwrap() = Some(Arc::clone(&store));
        store.apply_pod(Event::Changed(pod("u1", "tm")));
        assert!(seen.lock().unwrap().is_some());
    }
}
