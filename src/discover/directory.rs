//! One directory of the tree: when it has to be listed again, and what a listing says.
//!
//! Owns the rule that makes an idle scan cheap, and what is common to one walk ([`Pass`]). Entries
//! are looked at without following links. What went wrong is said here, once; the caller only
//! learns that it has to keep what it knew.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::notice::{Cause, tell};
use super::path::{PartKind, PodName};
use super::{FileSeen, Found, OwnPod};

/// A directory that changed less than this before it was listed is listed again: its time is as
/// coarse as a tick of the kernel's clock, on some file systems a second.
const SETTLE_NS: i64 = 2_000_000_000;
/// Asked with each directory before it is listed. `false`: it was gone for that moment, so that
/// nothing will tell of changes in what the listing may find in its place.
pub(super) type BeforeListing<'a> = dyn FnMut(&Path, &Place) -> bool + 'a;

/// How much a scan takes for granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Directories whose time has not changed are not listed.
    Changed,
    /// Every directory is listed.
    Full,
}

/// A directory of the tree, outer ones first. Docker's directory of a container is that container's
/// place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Root,
    Pod(Arc<OsStr>),
    Container(Arc<OsStr>, Arc<OsStr>),
}

#[derive(Debug)]
pub(super) struct Settings {
    /// Where links may lead; `None` follows none.
    pub(super) docker_root: Option<PathBuf>,
    pub(super) own_pod: Option<OwnPod>,
}

/// A directory and the state in which it was listed last.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) place: Place,
    pub(super) listed: Option<Listed>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listed {
    inode: u64,
    modified_ns: i64,
    settled: bool,
}

pub(super) enum Listing<T> {
    Unchanged,
    Entries(Vec<Entry<T>>),
    /// There is no such directory.
    Missing,
    /// Said already.
    Failed,
}

pub(super) struct Entry<T> {
    pub(super) name: OsString,
    pub(super) parsed: T,
    pub(super) metadata: Metadata,
}

/// One walk over the tree or a part of it.
pub(super) struct Pass<'a> {
    pub(super) depth: Depth,
    pub(super) settings: &'a Settings,
    pub(super) before: &'a mut BeforeListing<'a>,
    pub(super) now_ns: i64,
    pub(super) found: Vec<Found>,
    pub(super) complete: bool,
}

impl Settings {
    pub(super) fn is_own(&self, pod: &PodName) -> bool {
        self.own_pod.as_ref().is_some_and(|own| {
            own.pod == pod.pod && own.namespace.as_ref().is_none_or(|name| *name == pod.namespace)
        })
    }
}

impl<'a> Pass<'a> {
    pub(super) fn new<'b: 'a>(
        depth: Depth,
        settings: &'a Settings,
        before: &'a mut BeforeListing<'b>,
    ) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ns = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        Self { depth, settings, before, now_ns, found: Vec::new(), complete: true }
    }

    pub(super) fn failed(&mut self, path: &Path, error: &io::Error) {
        self.complete = false;
        tell(Cause::Directory, path, error);
    }
}

impl Directory {
    pub(super) fn new(path: PathBuf, place: Place) -> Self {
        Self { path, place, listed: None }
    }

    /// The directory of a container beneath that of a pod.
    pub(super) fn below(&self, name: &Arc<OsStr>) -> Self {
        let place = match &self.place {
            Place::Pod(pod) => Place::Container(Arc::clone(pod), Arc::clone(name)),
            other => other.clone(),
        };
        Self::new(self.path.join(&**name), place)
    }

    /// Makes the next scan list it again.
    pub(super) fn unsettle(&mut self) {
        self.listed = None;
    }

    /// Whether it's another one or has changed since it was listed, if it was.
    pub(super) fn has_changed(&self) -> bool {
        self.listed.as_ref().is_some_and(|listed| {
            fs::symlink_metadata(&self.path).map_or(true, |metadata| {
                (listed.inode, listed.modified_ns) != (metadata.ino(), modified_ns(&metadata))
            })
        })
    }

    /// The entries whose names `parse` knows, unless they are surely the same as last time.
    pub(super) fn list<T>(
        &mut self,
        pass: &mut Pass<'_>,
        parse: impl Fn(&OsStr) -> Option<T>,
    ) -> Listing<T> {
        match self.try_list(pass, parse) {
            Ok(listing) => listing,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.listed = None;
                Listing::Missing
            }
            Err(error) => {
                self.listed = None;
                pass.failed(&self.path, &error);
                Listing::Failed
            }
        }
    }

    pub(super) fn try_list<T>(
        &mut self,
        pass: &mut Pass<'_>,
        parse: impl Fn(&OsStr) -> Option<T>,
    ) -> io::Result<Listing<T>> {
        let metadata = match self.place {
            Place::Root => fs::metadata(&self.path)?,
            _ => fs::symlink_metadata(&self.path)?,
        };
        if !metadata.is_dir() {
            return Err(ErrorKind::NotFound.into());
        }
        let modified_ns = modified_ns(&metadata);
        let settled = pass.now_ns.saturating_sub(modified_ns) > SETTLE_NS;
        let known = Listed { inode: metadata.ino(), modified_ns, settled: true };
        if pass.depth == Depth::Changed && self.listed.as_ref() == Some(&known) {
            return Ok(Listing::Unchanged);
        }
        let may_rest = (pass.before)(&self.path, &self.place);
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(parsed) = parse(&name) else { continue };
            match entry.metadata() {
                Ok(metadata) => entries.push(Entry { name, parsed, metadata }),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        self.listed = may_rest.then_some(Listed { settled, ..known });
        Ok(Listing::Entries(entries))
    }
}

impl FileSeen {
    pub(super) fn new(path: PathBuf, kind: PartKind, metadata: &Metadata) -> Self {
        Self {
            path,
            kind,
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified_ns: modified_ns(metadata),
        }
    }

    /// Takes over size and time; whether they differ.
    pub(super) fn update(&mut self, metadata: &Metadata) -> bool {
        let (size, modified_ns) = (metadata.size(), modified_ns(metadata));
        let differs = (self.size, self.modified_ns) != (size, modified_ns);
        (self.size, self.modified_ns) = (size, modified_ns);
        differs
    }
}

pub(super) fn modified_ns(metadata: &Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}
