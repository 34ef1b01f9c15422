//! The scan: walks root, pods and containers, and says what differs from what it said before.
//!
//! Owns the picture of the tree and nothing else: no thread, no timer, no watch (the caller is
//! asked before a directory is listed, so that it can begin to watch it first). Cheap when nothing
//! changes: a directory is listed only when its time of change differs or is so young that a
//! change could hide behind it, and files are looked at only where they may still grow.
//!
//! A directory that cannot be read keeps what was known of it. Links are never followed, except
//! for a Docker container's `<restart>.log`, to a regular file beneath `docker_root`; that stream's
//! files are then the target and what was rotated beside it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::directory::{BeforeListing, Depth, Directory, Entry, Listing, Pass, Place, Settings};
use super::notice::{Cause, tell};
use super::path::{self, PartKind, PodName, StreamName};
use super::{FileSeen, Found, OwnPod};
use crate::config::agent::{LineFormat, Logs};

/// A rotated file that has not changed for so long is not looked at any more until its directory
/// changes: its writer has long opened the new one.
const ROTATED_QUIET_NS: i64 = 60_000_000_000;

/// What a short look at a container's directories and plain files says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Probe {
    Quiet,
    /// These have grown since the probe before.
    Written(Vec<StreamName>),
    /// A file isn't the one that it was, or others may have come: the place needs a scan.
    Changed,
}

/// The picture of the tree.
#[derive(Debug)]
pub(super) struct Scanner {
    settings: Settings,
    root: Directory,
    pods: BTreeMap<Arc<OsStr>, Pod>,
}

#[derive(Debug)]
struct Pod {
    name: PodName,
    directory: Directory,
    containers: BTreeMap<Arc<OsStr>, Container>,
}

#[derive(Debug)]
struct Container {
    directory: Directory,
    streams: BTreeMap<u32, Stream>,
}

#[derive(Debug)]
struct Stream {
    name: StreamName,
    files: Vec<FileSeen>,
    later_restart: bool,
    docker: Option<DockerLog>,
    /// `files` or `later_restart` differ from what was reported.
    changed: bool,
    reported: bool,
    /// Length of all plain files when they were first seen, or at the last probe.
    probed_bytes: u64,
}

/// Where a link `<restart>.log` leads.
#[derive(Debug)]
struct DockerLog {
    directory: Directory,
    file: OsString,
}

impl Scanner {
    /// A scanner that has seen nothing yet.
    pub(super) fn new(logs: &Logs, own_pod: Option<OwnPod>) -> Self {
        let follow = logs.format != LineFormat::Cri;
        let settings = Settings {
            docker_root: follow.then(|| logs.docker_root.clone()),
            own_pod: own_pod.filter(|_| !logs.include_self),
        };
        Self {
            settings,
            root: Directory::new(logs.root.clone(), Place::Root),
            pods: BTreeMap::new(),
        }
    }

    /// Walks the whole tree. The last of what it found is [`Found::Scanned`].
    pub(super) fn scan(&mut self, depth: Depth, before: &mut BeforeListing<'_>) -> Vec<Found> {
        let mut pass = Pass::new(depth, &self.settings, before);
        visit_root(&mut self.root, &mut self.pods, &mut pass);
        for pod in self.pods.values_mut() {
            pod.visit(&mut pass);
        }
        let complete = pass.complete;
        let mut found = pass.found;
        found.push(Found::Scanned { complete });
        found
    }

    /// Lists one directory and looks at what is new in it. A place that isn't known is passed over.
    pub(super) fn scan_place(
        &mut self,
        place: &Place,
        before: &mut BeforeListing<'_>,
    ) -> Vec<Found> {
        let mut pass = Pass::new(Depth::Changed, &self.settings, before);
        match place {
            Place::Root => {
                self.root.listed = None;
                visit_root(&mut self.root, &mut self.pods, &mut pass);
                let new = self.pods.values_mut().filter(|pod| pod.directory.listed.is_none());
                new.for_each(|pod| pod.visit(&mut pass));
            }
            Place::Pod(pod) => {
                if let Some(pod) = self.pods.get_mut(pod) {
                    pod.directory.listed = None;
                    pod.visit(&mut pass);
                }
            }
            Place::Container(pod, name) => {
                if let Some(Pod { name: pod, containers, .. }) = self.pods.get_mut(pod)
                    && let Some(container) = containers.get_mut(name)
                {
                    container.forget_listings();
                    container.visit(pod, &mut pass);
                }
            }
        }
        pass.found
    }

    /// Looks at a container's directories and plain files, and lists nothing.
    pub(super) fn probe(&mut self, place: &Place) -> Probe {
        let Some(container) = self.container_mut(place) else { return Probe::Quiet };
        if container.directories().any(Directory::has_changed) {
            return Probe::Changed;
        }
        let mut written = Vec::new();
        for stream in container.streams.values_mut() {
            match stream.probe() {
                Some(true) => written.push(stream.name.clone()),
                Some(false) => {}
                None => return Probe::Changed,
            }
        }
        if written.is_empty() { Probe::Quiet } else { Probe::Written(written) }
    }

    fn container_mut(&mut self, place: &Place) -> Option<&mut Container> {
        let Place::Container(pod, container) = place else { return None };
        self.pods.get_mut(pod)?.containers.get_mut(container)
    }
}

fn visit_root(root: &mut Directory, pods: &mut BTreeMap<Arc<OsStr>, Pod>, pass: &mut Pass<'_>) {
    match root.list(pass, path::pod_directory) {
        Listing::Entries(entries) => {
            let mut there = BTreeMap::new();
            for entry in entries.into_iter().filter(|entry| entry.metadata.is_dir()) {
                if pass.settings.is_own(&entry.parsed) {
                    continue;
                }
                let key: Arc<OsStr> = entry.name.into();
                let pod = match pods.remove(&key) {
                    Some(pod) => pod,
                    None => {
                        Pod::new(entry.parsed, root.path.join(&*key), Place::Pod(Arc::clone(&key)))
                    }
                };
                there.insert(key, pod);
            }
            for mut pod in std::mem::replace(pods, there).into_values() {
                pod.leave(pass);
            }
        }
        // It may come back, and what was there may be there again.
        Listing::Missing => {
            tell(Cause::Root, &root.path, &"no such directory");
            pass.complete = false;
        }
        Listing::Unchanged | Listing::Failed => {}
    }
}

impl Pod {
    fn new(name: PodName, path: PathBuf, place: Place) -> Self {
        Self { name, directory: Directory::new(path, place), containers: BTreeMap::new() }
    }

    fn visit(&mut self, pass: &mut Pass<'_>) {
        match self.directory.list(pass, path::container_directory) {
            Listing::Entries(entries) => {
                let mut there = BTreeMap::new();
                for entry in entries.into_iter().filter(|entry| entry.metadata.is_dir()) {
                    let key: Arc<OsStr> = entry.name.into();
                    let container = match self.containers.remove(&key) {
                        Some(container) => container,
                        None => Container::new(self.directory.below(&key)),
                    };
                    there.insert(key, container);
                }
                for mut container in std::mem::replace(&mut self.containers, there).into_values() {
                    container.leave(pass);
                }
            }
            Listing::Missing => self.leave(pass),
            Listing::Unchanged | Listing::Failed => {}
        }
        for container in self.containers.values_mut() {
            container.visit(&self.name, pass);
        }
    }

    fn leave(&mut self, pass: &mut Pass<'_>) {
        for mut container in std::mem::take(&mut self.containers).into_values() {
            container.leave(pass);
        }
    }
}

impl Container {
    fn new(directory: Directory) -> Self {
        Self { directory, streams: BTreeMap::new() }
    }

    fn directories(&self) -> impl Iterator<Item = &Directory> {
        let docker = self.streams.values().filter_map(|stream| stream.docker.as_ref());
        std::iter::once(&self.directory).chain(docker.map(|docker| &docker.directory))
    }

    fn forget_listings(&mut self) {
        self.directory.listed = None;
        for docker in self.streams.values_mut().filter_map(|stream| stream.docker.as_mut()) {
            docker.directory.listed = None;
        }
    }

    fn leave(&mut self, pass: &mut Pass<'_>) {
        for stream in std::mem::take(&mut self.streams).into_values().filter(|s| s.reported) {
            pass.found.push(Found::Gone(stream.name));
        }
    }

    fn visit(&mut self, pod: &PodName, pass: &mut Pass<'_>) {
        // A file that vanished between the listing and the look at it asks for another listing.
        for _ in 0..2 {
            if self.look(pod, pass) {
                break;
            }
            self.forget_listings();
        }
        let latest = self.streams.iter().rfind(|(_, stream)| !stream.files.is_empty());
        let latest = latest.map_or(0, |(restart, _)| *restart);
        for stream in self.streams.values_mut() {
            stream.report(stream.name.restart < latest, pass);
        }
        self.streams.retain(|_, stream| stream.reported || stream.docker.is_some());
    }

    /// Brings the files up to date. `false`: some file is not where it was.
    fn look(&mut self, pod: &PodName, pass: &mut Pass<'_>) -> bool {
        match self.directory.list(pass, path::part) {
            Listing::Entries(entries) => self.adopt(pod, entries, pass),
            Listing::Missing => {
                self.leave(pass);
                return true;
            }
            Listing::Failed => return true,
            Listing::Unchanged => {}
        }
        let mut all_there = true;
        for stream in self.streams.values_mut() {
            all_there &= stream.look(pass);
        }
        all_there
    }

    /// Takes over what a listing of the directory says.
    fn adopt(&mut self, pod: &PodName, entries: Vec<Entry<(u32, PartKind)>>, pass: &mut Pass<'_>) {
        let mut plain: BTreeMap<u32, Vec<FileSeen>> = BTreeMap::new();
        let mut links = BTreeMap::new();
        for Entry { name, parsed: (restart, kind), metadata } in entries {
            let path = self.directory.path.join(name);
            if metadata.is_file() {
                plain.entry(restart).or_default().push(FileSeen::new(path, kind, &metadata));
            } else if metadata.is_symlink() && kind == PartKind::Live {
                match resolve(&path, pass) {
                    Some(target) => {
                        links.insert(restart, target);
                    }
                    // The target may come, or the link lead elsewhere, without a change here.
                    None => self.directory.unsettle(),
                }
            }
        }
        for restart in plain.keys().chain(links.keys()) {
            let stream = || Stream::new(pod, &self.directory.path, *restart);
            self.streams.entry(*restart).or_insert_with(stream);
        }
        for (restart, stream) in &mut self.streams {
            let target = links.remove(restart);
            match (&target, &stream.docker) {
                (Some(new), Some(old)) if *new == old.path() => {}
                _ => {
                    stream.docker = target
                        .and_then(|target| DockerLog::new(target, self.directory.place.clone()));
                }
            }
            if stream.docker.is_none() {
                let mut files = plain.remove(restart).unwrap_or_default();
                files.sort_by(|a, b| {
                    let live = |file: &FileSeen| file.kind == PartKind::Live;
                    live(a).cmp(&live(b)).then_with(|| a.path.cmp(&b.path))
                });
                stream.replace(files);
            }
        }
    }
}

impl Stream {
    fn new(pod: &PodName, container: &Path, restart: u32) -> Self {
        let PodName { namespace, pod, uid } = pod.clone();
        let container =
            container.file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned();
        Self {
            name: StreamName { namespace, pod, uid, container, restart },
            files: Vec::new(),
            later_restart: false,
            docker: None,
            changed: false,
            reported: false,
            probed_bytes: 0,
        }
    }

    fn replace(&mut self, files: Vec<FileSeen>) {
        if self.files != files {
            // Later growth is for the probe to find, whoever else has seen it.
            if self.files.is_empty() {
                let plain = files.iter().filter(|file| file.kind != PartKind::Gzip);
                self.probed_bytes = plain.map(|file| file.size).sum();
            }
            self.files = files;
            self.changed = true;
        }
    }

    /// Looks at the files that may have grown. `false`: one is not where it was.
    fn look(&mut self, pass: &mut Pass<'_>) -> bool {
        if let Some(docker) = &mut self.docker {
            match docker.list(pass) {
                Listing::Entries(files) => {
                    let files = files.into_iter().map(|entry| entry.parsed).collect();
                    self.replace(files);
                }
                Listing::Missing => self.replace(Vec::new()),
                Listing::Unchanged | Listing::Failed => {}
            }
        }
        let mut all_there = true;
        for file in &mut self.files {
            let done = match file.kind {
                PartKind::Live => false,
                PartKind::Rotated => {
                    pass.now_ns.saturating_sub(file.modified_ns) > ROTATED_QUIET_NS
                }
                PartKind::Gzip => true,
            };
            if done {
                continue;
            }
            match fs::symlink_metadata(&file.path) {
                Ok(metadata) if metadata.is_file() && metadata.ino() == file.inode => {
                    self.changed |= file.update(&metadata);
                }
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    pass.failed(&file.path, &error)
                }
                _ => all_there = false,
            }
        }
        all_there
    }

    fn report(&mut self, later_restart: bool, pass: &mut Pass<'_>) {
        self.changed |= self.later_restart != later_restart;
        self.later_restart = later_restart;
        if self.files.is_empty() {
            if std::mem::take(&mut self.reported) {
                pass.found.push(Found::Gone(self.name.clone()));
            }
        } else if std::mem::take(&mut self.changed) {
            self.reported = true;
            pass.found.push(Found::Stream {
                name: self.name.clone(),
                files: self.files.clone(),
                later_restart,
            });
        }
    }

    /// Whether its plain files have grown since the last probe; `None` if one is another now. A
    /// rotated file grows until its writer has opened the new one.
    fn probe(&mut self) -> Option<bool> {
        let mut bytes = 0;
        for file in self.files.iter().filter(|file| file.kind != PartKind::Gzip) {
            let metadata = fs::symlink_metadata(&file.path).ok()?;
            if !metadata.is_file() || metadata.ino() != file.inode {
                return None;
            }
            bytes += metadata.size();
        }
        Some(std::mem::replace(&mut self.probed_bytes, bytes) != bytes)
    }
}

impl DockerLog {
    fn new(target: PathBuf, place: Place) -> Option<Self> {
        let file = target.file_name()?.to_owned();
        let directory = Directory::new(target.parent()?.to_owned(), place);
        Some(Self { directory, file })
    }

    fn path(&self) -> PathBuf {
        self.directory.path.join(&self.file)
    }

    /// The target and what was rotated beside it, the highest number (the oldest) first.
    fn list(&mut self, pass: &mut Pass<'_>) -> Listing<FileSeen> {
        let file = &self.file;
        let entries = match self.directory.list(pass, |name| path::docker_part(file, name)) {
            Listing::Entries(entries) => entries,
            Listing::Unchanged => return Listing::Unchanged,
            Listing::Missing => return Listing::Missing,
            Listing::Failed => return Listing::Failed,
        };
        let mut entries: Vec<_> = entries.into_iter().filter(|e| e.metadata.is_file()).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.parsed));
        let seen = entries.into_iter().map(|Entry { name, parsed: (_, kind), metadata }| {
            let parsed = FileSeen::new(self.directory.path.join(&name), kind, &metadata);
            Entry { name, parsed, metadata }
        });
        Listing::Entries(seen.collect())
    }
}

/// Where a link in a container's directory leads, if that is a regular file beneath `docker_root`.
fn resolve(link: &Path, pass: &mut Pass<'_>) -> Option<PathBuf> {
    let docker_root = pass.settings.docker_root.as_deref()?;
    let root = match fs::canonicalize(docker_root) {
        Ok(root) => root,
        // All links dangle then, and none of them for its container's end: nothing may be forgotten.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            pass.complete = false;
            let root = docker_root.display();
            tell(
                Cause::Link,
                link,
                &format_args!("docker_root, {root}, is not there: is it mounted?"),
            );
            return None;
        }
        Err(error) => {
            pass.failed(docker_root, &error);
            return None;
        }
    };
    let followed = fs::canonicalize(link).and_then(|target| {
        let is_file = fs::symlink_metadata(&target)?.is_file();
        Ok((target.starts_with(root) && is_file).then_some(target))
    });
    match followed {
        Ok(Some(target)) => Some(target),
        Ok(None) => {
            tell(Cause::Link, link, &"its target is not a file beneath docker_root");
            None
        }
        // A dangling link is left behind when its container is removed.
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => {
            pass.failed(link, &error);
            None
        }
    }
}
