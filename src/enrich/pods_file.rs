//! Pods from a JSON file: a v1 `PodList` or `List`, as `kubectl get pods -A -o json` prints it.
//!
//! For nodes without a way to the API server, and for trying things out. The file is read again
//! when it changes (replaced or written in place), item by item, so that memory doesn't grow with
//! it: of a list with more than [`MAX_UNASKED`] pods only those are kept beyond it that a stream
//! asks for. `Namespace` items of the same list give pods the labels of their namespaces
//! (`kubectl get pods,namespaces -A -o json`); items of other kinds are passed over. A file that
//! can't be read, or not to its end, leaves the store as far as it came and out of sync; it is
//! waited for, and said once a minute. Reads the file on the caller's thread.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::Value;
use tracing::{debug, warn};

use super::facts::PodFacts;
use super::state::{Event, NamespaceFacts};
use super::store::PodStore;
use crate::telemetry::throttle;

/// Pods of a file that are kept without a stream having asked for them.
pub const MAX_UNASKED: usize = 2048;

/// Bytes read at once.
const READ_BYTES: usize = 128 * 1024;

/// Why the file gives no pods.
#[derive(Debug, thiserror::Error)]
pub enum PodsFileError {
    #[error("cannot read the list of pods {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("{}", at(path, cause))]
    Parse { path: PathBuf, cause: serde_json::Error },
}

/// `file:line:column: what`, where the parser would end with the place.
fn at(path: &Path, cause: &serde_json::Error) -> String {
    let text = cause.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    format!("{}:{}:{}: {what}", path.display(), cause.line(), cause.column())
}

/// The file and what of it has been taken in.
#[derive(Debug)]
pub struct PodsFile {
    path: PathBuf,
    store: Arc<PodStore>,
    read: Option<Signature>,
    /// Hashes of the UIDs (and config hashes) of pods that were not kept.
    left_out: HashSet<u64>,
    trouble: Option<PodsFileError>,
}

/// What differs after a change: a file that is replaced has another inode, one that is written in
/// place another time or size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Signature {
    device: u64,
    inode: u64,
    size_bytes: u64,
    modified: (i64, i64),
}

impl Signature {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl PodsFile {
    /// Nothing is read before [`Self::reload_if_changed`].
    pub fn new(path: PathBuf, store: Arc<PodStore>) -> Self {
        Self { path, store, read: None, left_out: HashSet::new(), trouble: None }
    }

    /// Reads the file if it has changed since the last time, or if a stream has asked for one of
    /// its pods that was not kept. Trouble is logged, again each minute that it lasts.
    pub fn reload_if_changed(&mut self) {
        match self.refresh() {
            Ok(true) => {
                self.trouble = None;
                self.warn_without_namespaces();
            }
            Ok(false) => {}
            Err(error) => {
                self.store.apply_pod(Event::OutOfSync);
                self.trouble = Some(error);
            }
        }
        if let Some(error) = &self.trouble
            && throttle::allow("list of pods").is_some()
        {
            warn!(error = error as &dyn std::error::Error, "pods stay unknown until this is right");
        }
    }

    /// Why the file, as it is now, gave no complete list.
    pub fn trouble(&self) -> Option<&PodsFileError> {
        self.trouble.as_ref()
    }

    /// Whether the file was read, to its end.
    fn refresh(&mut self) -> Result<bool, PodsFileError> {
        let signature = self.signature()?;
        let is_missed = |uid: &str| self.left_out.contains(&hash(uid));
        if self.read == Some(signature) && !self.store.any_missed(is_missed) {
            return Ok(false);
        }
        self.read = None;
        let file = File::open(&self.path).map_err(|source| self.cannot_read(source))?;
        self.read = Some(signature);
        self.take_in(file)?;
        Ok(true)
    }

    fn signature(&self) -> Result<Signature, PodsFileError> {
        // Looked at before it is opened: opening a pipe would wait for its other end.
        let metadata = fs::metadata(&self.path).map_err(|source| self.cannot_read(source))?;
        if !metadata.is_file() {
            return Err(PodsFileError::NotAFile { path: self.path.clone() });
        }
        Ok(Signature::of(&metadata))
    }

    fn cannot_read(&self, source: io::Error) -> PodsFileError {
        PodsFileError::Read { path: self.path.clone(), source }
    }

    fn take_in(&mut self, file: File) -> Result<(), PodsFileError> {
        self.left_out.clear();
        self.store.apply_pod(Event::Init);
        self.store.apply_namespace(Event::Init);
        let mut intake =
            Intake { store: &self.store, left_out: &mut self.left_out, unasked: 0, pods: 0 };
        let mut json =
            serde_json::Deserializer::from_reader(BufReader::with_capacity(READ_BYTES, file));
        let outcome = List(&mut intake).deserialize(&mut json).and_then(|()| json.end());
        let pods = intake.pods;
        outcome.map_err(|cause| match cause.classify() {
            serde_json::error::Category::Io => self.cannot_read(cause.into()),
            _ => PodsFileError::Parse { path: self.path.clone(), cause },
        })?;
        self.store.apply_namespace(Event::InitDone);
        self.store.apply_pod(Event::InitDone);
        debug!(path = %self.path.display(), pods, left_out = self.left_out.len(), "list of pods read");
        Ok(())
    }

    fn warn_without_namespaces(&self) {
        if self.store.needs_namespaces()
            && !self.store.knows_namespaces()
            && throttle::allow("list without namespaces").is_some()
        {
            warn!(
                path = %self.path.display(),
                "a pipeline selects by labels of namespaces, but the list has none: make it with \
                 kubectl get pods,namespaces -A -o json"
            );
        }
    }
}

fn hash(uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    hasher.finish()
}

/// Where items go.
struct Intake<'a> {
    store: &'a PodStore,
    left_out: &'a mut HashSet<u64>,
    unasked: usize,
    pods: usize,
}

impl Intake<'_> {
    /// Takes in the item with this number; the error says what it should be and never quotes it,
    /// because specifications of pods can hold secrets.
    fn item(&mut self, number: usize, item: Value) -> Result<(), String> {
        let kind = item.get("kind").and_then(Value::as_str).unwrap_or("Pod").to_owned();
        let name = format!("{}/{}", text(&item, "namespace"), text(&item, "name"));
        let wrong = |cause: serde_json::Error| {
            let cause = cause.to_string();
            let expected = cause.rsplit_once(", expected ").map_or("", |(_, expected)| expected);
            format!("item {number} ({name}) is not a v1 {kind}: expected {expected}")
        };
        match kind.as_str() {
            "Pod" => {
                let pod = Pod::deserialize(item).map_err(wrong)?;
                if let Some(facts) = PodFacts::of(&pod) {
                    self.pod(facts);
                }
            }
            "Namespace" => {
                let namespace = Namespace::deserialize(item).map_err(wrong)?;
                if let Some(facts) = NamespaceFacts::of(&namespace) {
                    self.store.apply_namespace(Event::Found(facts));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn pod(&mut self, facts: PodFacts) {
        self.pods += 1;
        if !self.store.is_wanted(&facts) {
            if self.unasked == MAX_UNASKED {
                self.left_out.insert(hash(&facts.uid));
                self.left_out.extend(facts.config_hash.as_deref().map(hash));
                return;
            }
            self.unasked += 1;
        }
        self.store.apply_pod(Event::Found(facts));
    }
}

fn text<'v>(item: &'v Value, name: &str) -> &'v str {
    item.pointer("/metadata").and_then(|metadata| metadata.get(name)?.as_str()).unwrap_or("?")
}

/// The list itself.
struct List<'a, 'b>(&'a mut Intake<'b>);

impl<'de> DeserializeSeed<'de> for List<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for List<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a v1 PodList or List")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut has_kind, mut has_items) = (false, false);
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "kind" => {
                    let kind: String = map.next_value()?;
                    if kind != "List" && kind != "PodList" {
                        let message = format!("kind is {kind:?}, expected PodList or List");
                        return Err(A::Error::custom(message));
                    }
                    has_kind = true;
                }
                "items" => {
                    map.next_value_seed(Items(&mut *self.0))?;
                    has_items = true;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        match (has_kind, has_items) {
            (true, true) => Ok(()),
            (false, _) => Err(A::Error::missing_field("kind")),
            (true, false) => Err(A::Error::missing_field("items")),
        }
    }
}

/// The items of the list, one at a time.
struct Items<'a, 'b>(&'a mut Intake<'b>);

impl<'de> DeserializeSeed<'de> for Items<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of pods")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut number = 1;
        while let Some(item) = items.next_element::<Value>()? {
            self.0.item(number, item).map_err(A::Error::custom)?;
            number += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
