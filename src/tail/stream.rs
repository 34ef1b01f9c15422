//! The parts of one stream and how they change: which file is which part, and in what order.
//!
//! Owns the handles. A part that somebody still has to read is held open, so that its bytes stay
//! readable when the kubelet renames, compresses or removes the file. Device and inode are only a
//! cache of a part's identity: when a file was written since it was looked at, its first line is
//! looked at again.
//!
//! Parts are in the order of their first line's runtime time. Of a plain and a compressed file
//! with one identity the plain one is read.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::rc::Rc;

use super::file::{self, open_regular};
use super::identity::{self, HEAD_BYTES_MAX};
use super::source::{GzipSource, Source};
use super::{PartId, Position};
use crate::config::agent::LineFormat;
use crate::discover::{FileSeen, PartKind};

/// One part of a stream.
#[derive(Debug)]
pub struct Part {
    pub id: PartId,
    pub format: LineFormat,
    /// Where it was seen last.
    pub path: PathBuf,
    pub kind: PartKind,
    device: u64,
    inode: u64,
    modified_ns: i64,
    /// Bytes on disk when last looked at; of a compressed part the compressed ones.
    disk_bytes: u64,
    /// Bytes of a compressed part, once it has been read to its end.
    pub unpacked_bytes: Option<u64>,
    /// No file of this identity is left in the directory.
    pub unlinked: bool,
    /// Its file was cut off or written anew: what it was is not in it any more.
    pub truncated: bool,
    file: Option<Rc<File>>,
}

impl Part {
    /// The last known end, in uncompressed bytes; `None` for a compressed part not read yet.
    pub fn end(&self) -> Option<u64> {
        match self.kind {
            PartKind::Gzip => self.unpacked_bytes,
            PartKind::Live | PartKind::Rotated => Some(self.disk_bytes),
        }
    }

    /// Bytes on disk when last looked at; of a compressed part the compressed ones.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Whether a handle is held.
    pub fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Looks at the size and the time of the last write through the handle. `read_to` is how far
    /// it was read: when it is shorter it was truncated, and it is let go of.
    ///
    /// # Errors
    /// What the file system says.
    pub fn look(&mut self, read_to: u64) -> io::Result<()> {
        if let Some(file) = &self.file {
            let metadata = file.metadata()?;
            if metadata.len() < read_to {
                self.disk_bytes = self.disk_bytes.max(read_to);
                self.truncate();
                return Ok(());
            }
            self.disk_bytes = metadata.len();
            self.modified_ns = file::modified_ns(&metadata);
        }
        Ok(())
    }

    fn truncate(&mut self) {
        self.file = None;
        self.inode = 0;
        self.unlinked = true;
        self.truncated = true;
    }

    /// When the file was last written, as of the last look, nanoseconds since the epoch.
    pub fn modified_ns(&self) -> i64 {
        self.modified_ns
    }

    /// A way to the part's bytes; opens the file where no handle is held.
    ///
    /// # Errors
    /// What the file system says; also when another file stands at the path by now.
    pub fn source(&mut self) -> io::Result<Source> {
        let file = match &self.file {
            Some(file) => Rc::clone(file),
            None => {
                let (file, _) = open_regular(&self.path)?;
                let (file, head) = with_head(file, self.kind)?;
                if identity::identify(&head, true) != Some(self.id) {
                    return Err(io::Error::new(
                        io::ErrorKind::NotFound,
                        "another file stands there",
                    ));
                }
                Rc::clone(self.file.insert(file))
            }
        };
        Ok(match self.kind {
            PartKind::Gzip => Source::Gzip(Box::new(GzipSource::new(file))),
            PartKind::Live | PartKind::Rotated => Source::Plain(file),
        })
    }

    fn is(&self, seen: &FileSeen) -> bool {
        self.device == seen.device && self.inode == seen.inode && self.kind_agrees(seen)
    }

    fn kind_agrees(&self, seen: &FileSeen) -> bool {
        (self.kind == PartKind::Gzip) == (seen.kind == PartKind::Gzip)
    }

    fn sees(&mut self, seen: &FileSeen) {
        self.path.clone_from(&seen.path);
        self.kind = seen.kind;
        self.device = seen.device;
        self.inode = seen.inode;
        self.modified_ns = seen.modified_ns;
        self.disk_bytes = seen.size;
        self.unlinked = false;
        self.truncated = false;
    }
}

/// What a new look at the directory brought.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// A file has no complete first line yet.
    pub unborn: bool,
    /// A file is not where it was listed: it was renamed or removed since.
    pub moved: bool,
    /// Files that could not be looked at, and why.
    pub failed: Vec<(PathBuf, io::Error)>,
}

/// All parts of a container run.
#[derive(Debug, Default)]
pub struct Stream {
    parts: Vec<Part>,
    /// Some file could not be looked at, so that a part may be missing.
    incomplete: bool,
}

impl Stream {
    /// The parts in their order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The part named `id`.
    pub fn part_mut(&mut self, id: PartId) -> Option<&mut Part> {
        let at = self.parts.binary_search_by_key(&id, |part| part.id).ok()?;
        Some(&mut self.parts[at])
    }

    /// The first part at or after `id`.
    pub fn at_or_after(&self, id: PartId) -> Option<&Part> {
        self.parts.get(self.parts.partition_point(|part| part.id < id))
    }

    /// The first part after `id`.
    pub fn after(&self, id: PartId) -> Option<&Part> {
        self.parts.get(self.parts.partition_point(|part| part.id <= id))
    }

    /// Whether the parts are all that there are. If not, the part that follows another one may not
    /// be known yet, and nobody may go past it.
    pub fn is_complete(&self) -> bool {
        !self.incomplete
    }

    /// Takes in a complete listing of the stream's files.
    ///
    /// `ended` says that nothing will be written to the stream any more. A listing that is not true
    /// any more, or a lack of descriptors, leaves the parts that it can't speak of as they were.
    pub fn refresh(
        &mut self,
        files: &[FileSeen],
        ended: bool,
        configured: LineFormat,
    ) -> Refreshed {
        let mut refreshed = Refreshed::default();
        let before: Vec<PartId> =
            self.parts.iter().filter(|part| !part.unlinked).map(|part| part.id).collect();
        self.incomplete = false;
        for part in &mut self.parts {
            part.unlinked = true;
        }
        // Plain files first, so that a compressed twin only fills a gap.
        for seen in files.iter().filter(|seen| seen.kind != PartKind::Gzip) {
            self.take_in(seen, ended, configured, &mut refreshed);
        }
        for seen in files.iter().filter(|seen| seen.kind == PartKind::Gzip) {
            self.take_in(seen, ended, configured, &mut refreshed);
        }
        self.parts.sort_by_key(|part| part.id);
        if self.incomplete {
            for part in self.parts.iter_mut().filter(|part| before.contains(&part.id)) {
                part.unlinked = part.truncated;
            }
        }
        refreshed
    }

    fn take_in(
        &mut self,
        seen: &FileSeen,
        ended: bool,
        configured: LineFormat,
        refreshed: &mut Refreshed,
    ) {
        let unchanged = |part: &&mut Part| {
            part.is(seen) && part.modified_ns == seen.modified_ns && part.disk_bytes == seen.size
        };
        if let Some(part) = self.parts.iter_mut().find(unchanged) {
            part.sees(seen);
            return;
        }
        match open_seen(seen) {
            Ok(Some((file, head))) => {
                let id = identity::identify(&head, ended);
                // The same file under another identity was truncated.
                let is_other = |part: &&mut Part| Some(part.id) != id && part.is(seen);
                self.parts.iter_mut().filter(is_other).for_each(Part::truncate);
                match id {
                    Some(id) => self.found(id, seen, file, identity::format_of(&head, configured)),
                    None => refreshed.unborn = true,
                }
            }
            // Renamed or removed since it was listed: the next listing tells.
            Ok(None) => {
                refreshed.moved = true;
                self.incomplete = true;
            }
            Err(error) => {
                self.incomplete |= may_pass(&error);
                refreshed.failed.push((seen.path.clone(), error));
            }
        }
    }

    fn found(&mut self, id: PartId, seen: &FileSeen, file: Rc<File>, format: LineFormat) {
        if let Some(part) = self.parts.iter_mut().find(|part| part.id == id) {
            // A plain file that is there, or is still held open, is better than its compressed
            // copy: it can be read anywhere. A copy of a file that was truncated after it was
            // copied takes its place.
            let keep = seen.kind == PartKind::Gzip
                && part.kind != PartKind::Gzip
                && (part.is_open() || !part.unlinked);
            if keep {
                part.unlinked = false;
                return;
            }
            if !part.is(seen) {
                part.file = Some(file);
            }
            part.sees(seen);
            return;
        }
        let mut part = Part {
            id,
            format,
            path: PathBuf::new(),
            kind: seen.kind,
            device: 0,
            inode: 0,
            modified_ns: 0,
            disk_bytes: 0,
            unpacked_bytes: None,
            unlinked: false,
            truncated: false,
            file: Some(file),
        };
        part.sees(seen);
        self.parts.push(part);
    }

    /// Closes what nobody has to read any more, and forgets parts that are gone as well.
    ///
    /// `needed_from` is the earliest position that is still wanted, `None` when nothing is. The
    /// newest part stays open while it is there: its next line comes through the handle.
    ///
    /// Returns the parts that are forgotten, wanted or not.
    pub fn release(&mut self, needed_from: Option<Position>) -> Vec<Part> {
        let newest = self.parts.last().map(|part| part.id);
        for part in &mut self.parts {
            let wanted = needed_from.is_some_and(|from| part.id >= from.part);
            let grows = needed_from.is_some() && Some(part.id) == newest;
            if !wanted && !grows {
                part.file = None;
            }
        }
        self.parts.extract_if(.., |part| part.unlinked && !part.is_open()).collect()
    }

    /// Closes handles of parts whose files are still there, as if they had never been opened.
    #[cfg(test)]
    pub fn close_reopenable(&mut self) {
        for part in self.parts.iter_mut().filter(|part| !part.unlinked) {
            part.file = None;
        }
    }
}

/// Opens a file that was listed, with what names it; `None` when it is not there, or another file
/// stands there by now.
fn open_seen(seen: &FileSeen) -> io::Result<Option<(Rc<File>, Vec<u8>)>> {
    let (file, metadata) = match open_regular(&seen.path) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // A number may be used again, but a file that is listed does not shrink.
    let is_same = (metadata.dev(), metadata.ino()) == (seen.device, seen.inode);
    if !is_same || metadata.len() < seen.size {
        return Ok(None);
    }
    with_head(file, seen.kind).map(Some)
}

/// Whether what was refused now may be had later: not so a damaged or forbidden file, which
/// costs only itself.
fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, PermissionDenied, UnexpectedEof};
    !matches!(error.kind(), InvalidData | InvalidInput | PermissionDenied | UnexpectedEof)
}

/// Reads what names a file: the first uncompressed bytes.
fn with_head(file: File, kind: PartKind) -> io::Result<(Rc<File>, Vec<u8>)> {
    let file = Rc::new(file);
    let mut source = match kind {
        PartKind::Gzip => Source::Gzip(Box::new(GzipSource::new(Rc::clone(&file)))),
        PartKind::Live | PartKind::Rotated => Source::Plain(Rc::clone(&file)),
    };
    let mut head = vec![0; 4096];
    let mut filled = 0;
    loop {
        let read = source.read_at(filled as u64, &mut head[filled..])?;
        filled += read;
        let named = identity::identify(&head[..filled], false).is_some();
        if named || read == 0 || filled >= HEAD_BYTES_MAX {
            head.truncate(filled);
            return Ok((file, head));
        }
        if filled == head.len() {
            head.resize((filled * 2).min(HEAD_BYTES_MAX), 0);
        }
    }
}

#[cfg(test)]
mod tests;
