//! The parts of one stream and how they change: which file is which part, and in what order.
//!
//! Owns the handles. A part that somebody still has to read is held open, so that its bytes stay
//! readable when the kubelet renames, compresses or removes the file. Device and inode are only a
//! cache of a part's identity: when a file was written since it was looked at, its first line is
//! looked at again.
//!
//! Parts are in the order of their first line's runtime time, except that one which is found later
//! comes later, and the file that is written to last, whatever the runtime's clock was set to
//! meanwhile. What order a part has got it keeps; the checkpoint remembers it ([`Stream::remember`]).
//! Of a plain and a compressed file with one identity the plain one is read.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::rc::Rc;

use super::file::{self, open_regular};
use super::identity::{self, HEAD_BYTES_MAX};
use super::source::{GzipSource, Source, is_damage};
use super::spool::Spooled;
use super::{PartId, Position};
use crate::config::agent::LineFormat;
use crate::discover::{FileSeen, PartKind};

/// The distance in the order between parts of which the time does not tell it: room for one that is
/// found later and comes between.
const STEP_NS: i64 = 1000;

/// How many scans end until one has ended that began after now.
pub const SCANS_MIN: u32 = 2;

/// How many parts are remembered that are not there.
const REMEMBERED_MAX: usize = 64;

/// How much of a part's beginning is remembered: a runtime's time with nanoseconds, and some text.
const BEGINNING_BYTES: usize = 64;

/// The first bytes of a part. In place: thousands of small allocations between large ones that go
/// again would leave the heap full of holes.
#[derive(Debug, Clone, Copy)]
struct Beginning {
    bytes: [u8; BEGINNING_BYTES],
    length: usize,
}

impl Beginning {
    fn of(head: &[u8]) -> Self {
        let length = head.len().min(BEGINNING_BYTES);
        let mut bytes = [0; BEGINNING_BYTES];
        bytes[..length].copy_from_slice(&head[..length]);
        Self { bytes, length }
    }

    /// Whether `head`, of at most [`BEGINNING_BYTES`], begins with it.
    fn is_of(&self, head: &[u8]) -> bool {
        head.starts_with(&self.bytes[..self.length])
    }
}

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
    /// Bytes that a compressed part says it has.
    told_bytes: Option<u64>,
    /// No file of this identity is left in the directory.
    pub unlinked: bool,
    /// Its file was cut off or written anew: what it was is not in it any more.
    pub truncated: bool,
    /// The file is a copy of the one that the part was: it may have less than was read of that.
    is_copy: bool,
    /// The compressed copy that was seen beside the plain file that is held open.
    twin: Option<PathBuf>,
    /// Whole scans of the tree that have ended since.
    scans_since: u32,
    beginning: Beginning,
    /// Where its bytes begin: what stands before was not copied when it was spooled.
    pub readable_from: u64,
    file: Option<Rc<File>>,
    /// The copy that an earlier process made of it before its last handle was closed.
    spooled: Option<Spooled>,
}

impl Part {
    /// The last known end, in uncompressed bytes; `None` for a compressed part not read yet.
    pub fn end(&self) -> Option<u64> {
        match self.kind {
            PartKind::Gzip => self.unpacked_bytes,
            PartKind::Live | PartKind::Rotated => Some(self.disk_bytes),
        }
    }

    /// The same, or where a compressed part that was not read yet says that it ends: good enough to
    /// count by, for its last member says so of itself alone, modulo 2^32, and may be damaged.
    pub fn end_or_told(&self) -> Option<u64> {
        self.end().or(self.told_bytes)
    }

    /// The same; a compressed part that doesn't say so has as many bytes as on the disk at least.
    pub fn end_or_guess(&self) -> u64 {
        self.end_or_told().unwrap_or(self.disk_bytes)
    }

    /// How long a plain part is now; `None` where that can't be told, also when another file's
    /// bytes stand behind its handle by now.
    pub fn length(&self) -> Option<u64> {
        if self.kind == PartKind::Gzip || self.spooled.is_some() {
            return self.spooled.as_ref().filter(|copy| !copy.gzip()).map(Spooled::end);
        }
        let file = self.file.as_ref()?;
        let length = file.metadata().ok()?.len();
        let mut beginning = [0; BEGINNING_BYTES];
        let read = file::read_at(file, 0, &mut beginning).ok()?;
        self.beginning.is_of(&beginning[..read]).then_some(length)
    }

    /// Bytes on disk when last looked at; of a compressed part the compressed ones.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Whether a handle is held.
    pub fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Whether it is the copy that an earlier process made, which nobody writes to.
    pub fn is_copied(&self) -> bool {
        self.spooled.is_some()
    }

    /// Bytes on disk that nothing but this handle keeps there; a spooled copy is counted as such.
    pub fn held_bytes(&self) -> Option<u64> {
        (self.unlinked && self.is_open() && self.spooled.is_none()).then_some(self.disk_bytes)
    }

    /// The handle, of a part that nothing else keeps.
    pub fn held(&self) -> Option<&File> {
        self.file.as_deref().filter(|_| self.held_bytes().is_some())
    }

    /// Looks at the size and the time of the last write through the handle. `read_to` is how far
    /// it was read: when it is shorter it was truncated, and it is let go of, unless it is a copy that
    /// was made before all of that was written.
    ///
    /// # Errors
    /// What the file system says.
    pub fn look(&mut self, read_to: u64) -> io::Result<()> {
        if let Some(file) = &self.file {
            let metadata = file.metadata()?;
            if metadata.len() < read_to {
                self.disk_bytes = self.disk_bytes.max(read_to);
                if !self.is_copy {
                    self.truncate();
                }
                return Ok(());
            }
            self.disk_bytes = metadata.len();
            self.modified_ns = file::modified_ns(&metadata);
        }
        Ok(())
    }

    /// Looks through the handle for the last time: how long the file is by now, and whether it has no
    /// name any more, which no listing may have told. Whether that is news.
    fn look_last(&mut self) -> bool {
        let Some(Ok(metadata)) = self.file.as_ref().map(|file| file.metadata()) else {
            return false;
        };
        if self.spooled.is_some() || self.kind == PartKind::Gzip || metadata.len() < self.disk_bytes
        {
            return false;
        }
        let has_twin = || self.twin.as_ref().is_some_and(|twin| twin.try_exists().unwrap_or(false));
        let unlinked = self.unlinked || (metadata.nlink() == 0 && !has_twin());
        let is_news = (self.disk_bytes, self.unlinked) != (metadata.len(), unlinked);
        (self.disk_bytes, self.unlinked) = (metadata.len(), unlinked);
        is_news
    }

    /// Looks whether the file still begins as it did, once bytes up to `read_to` were read: one that
    /// was emptied and written anew may be longer than before. If not, it is let go of.
    ///
    /// # Errors
    /// What the file system says.
    pub fn still_begins(&mut self, read_to: u64) -> io::Result<bool> {
        let Some(file) = self.file.as_ref().filter(|_| self.readable_from == 0) else {
            return Ok(true);
        };
        let mut beginning = [0; BEGINNING_BYTES];
        let read = file::read_at(file, 0, &mut beginning)?;
        let is_same = self.beginning.is_of(&beginning[..read]);
        if !is_same {
            self.disk_bytes = self.disk_bytes.max(read_to);
            self.truncate();
        }
        Ok(is_same)
    }

    /// Whether the plain file that is held open has all that its compressed copy has: it may have been
    /// emptied after it was copied, or another file of the same beginning may have taken its place.
    fn is_as_good_as(&mut self, compressed: &File) -> bool {
        if self.spooled.is_some() {
            return false;
        }
        let Some(Ok(held)) = self.file.as_ref().map(|file| file.metadata()) else { return false };
        let copied = super::source::last_uncompressed_bytes(compressed).unwrap_or(0);
        self.still_begins(0).unwrap_or(false) && u64::from(copied) <= held.len()
    }

    fn truncate(&mut self) {
        self.file = None;
        self.inode = 0;
        self.unlinked = true;
        self.truncated = true;
        self.scans_since = 0;
    }

    /// Whether its bytes can't be had any more. A copy of what was truncated is in the listing of a
    /// scan that began after that.
    fn is_gone(&self) -> bool {
        self.unlinked && !self.is_open() && (!self.truncated || self.scans_since >= SCANS_MIN)
    }

    /// The part that an earlier process kept a copy of.
    fn copied(spooled: Spooled) -> Self {
        let kind = if spooled.gzip() { PartKind::Gzip } else { PartKind::Rotated };
        Self {
            id: spooled.part(),
            format: spooled.format(),
            path: PathBuf::new(),
            kind,
            device: 0,
            inode: 0,
            modified_ns: 0,
            disk_bytes: spooled.end(),
            unpacked_bytes: None,
            told_bytes: told_bytes(kind, &spooled.file(), spooled.end()),
            unlinked: true,
            truncated: false,
            is_copy: false,
            twin: None,
            scans_since: 0,
            beginning: Beginning::of(&[]),
            readable_from: spooled.from(),
            file: Some(spooled.file()),
            spooled: Some(spooled),
        }
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
                if !identity::identify(&head, true).is_some_and(|id| self.id.is(id)) {
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

    /// Whether `source` reads what now stands for the part: a file that was copied and emptied is
    /// the copy from then on.
    pub fn is_read_by(&self, source: &Source) -> bool {
        self.file.as_ref().is_some_and(|file| Rc::ptr_eq(file, source.file()))
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
        self.readable_from = 0;
    }
}

/// What a new look at the directory brought.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// A file has no complete first line yet.
    pub unborn: bool,
    /// And it isn't empty, so that it may be a part that was known once.
    pub unnamed: bool,
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
    /// Parts that an earlier process knew, in the order that they had.
    remembered: Vec<PartId>,
    /// See [`Self::listed_ns`].
    listed_ns: Option<i64>,
    /// See [`Self::take_removed_bytes`].
    removed_bytes: u64,
}

impl Stream {
    /// Says what parts an earlier process knew, which keep their order when they are found again, and
    /// its [`Self::listed_ns`].
    pub fn remember(&mut self, parts: impl IntoIterator<Item = PartId>, listed_ns: Option<i64>) {
        self.listed_ns = self.listed_ns.max(listed_ns);
        for part in parts {
            if !self.remembered.iter().any(|known| known.is(part)) {
                self.remembered.push(part);
            }
        }
    }

    /// Takes in the copy of a part that an earlier process made before its last handle was closed.
    pub fn adopt(&mut self, spooled: Spooled) {
        self.remember([spooled.part()], None);
        self.parts.push(Part::copied(spooled));
        self.parts.sort_by_key(|part| part.id);
    }

    /// A scan of the whole tree has ended; whether that decides what became of a truncated part.
    pub fn scanned(&mut self) -> bool {
        let truncated = self.parts.iter_mut().filter(|part| part.truncated);
        truncated.fold(false, |decided, part| {
            part.scans_since = part.scans_since.saturating_add(1);
            decided || part.scans_since == SCANS_MIN
        })
    }

    /// Files and bytes that nothing but handles of this process keep on the disk.
    pub fn held(&self) -> (u64, u64) {
        let held = self.parts.iter().filter_map(Part::held_bytes);
        held.fold((0, 0), |(files, bytes), part| (files + 1, bytes + part))
    }

    /// Looks through all handles for the last time before they are closed; whether that brought news.
    pub fn look_last(&mut self) -> bool {
        let mut is_news = false;
        for part in &mut self.parts {
            is_news |= part.look_last();
        }
        is_news
    }

    /// Removes the copies that an earlier process made: nobody reads them any more.
    pub fn remove_copies(&mut self) {
        for copy in self.parts.iter_mut().filter_map(|part| part.spooled.take()) {
            self.removed_bytes += copy.bytes();
            copy.remove();
        }
    }

    /// Bytes of the copies that were removed since this was asked last.
    pub fn take_removed_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.removed_bytes)
    }

    /// Closes the oldest part that nothing but its handle keeps; returns it.
    pub fn give_up_oldest(&mut self) -> Option<Part> {
        let at = self.parts.iter().position(|part| part.held_bytes().is_some())?;
        Some(self.parts.remove(at))
    }

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

    /// The last place in the order that a part has which was in a complete listing: whatever was not
    /// in that one comes later.
    pub fn listed_ns(&self) -> Option<i64> {
        self.listed_ns
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
        let known: Vec<PartId> =
            self.parts.iter().map(|part| part.id).chain(self.remembered.iter().copied()).collect();
        self.incomplete = false;
        for part in &mut self.parts {
            part.unlinked = true;
        }
        // Plain files first, so that a compressed twin only fills a gap.
        for kind in [PartKind::Rotated, PartKind::Live, PartKind::Gzip] {
            for seen in files.iter().filter(|seen| seen.kind == kind) {
                self.take_in(seen, ended, configured, &mut refreshed);
            }
        }
        self.put_in_order(&known);
        if self.incomplete {
            for part in self.parts.iter_mut().filter(|part| before.contains(&part.id)) {
                part.unlinked = part.truncated;
            }
        }
        refreshed
    }

    /// Gives new parts, those not `known`, their order: after all of the last complete listing, in
    /// which they were not; the file that is written to after all others; else by time, and among
    /// those since the clock was set back by theirs. A new one beside a known one that is written to
    /// was overlooked before, and goes before that.
    fn put_in_order(&mut self, known: &[PartId]) {
        let is_new = |id: PartId| !known.iter().any(|known| known.is(id));
        let is_live = |part: &Part| part.kind == PartKind::Live && !part.unlinked;
        let live = self.parts.iter().find(|part| is_live(part) && !is_new(part.id));
        let before_live_ns = live.map_or(i64::MAX, |live| live.id.order_ns.saturating_sub(1));
        let behind = |order_ns: i64| order_ns.saturating_add(STEP_NS);
        let earliest_ns = self.listed_ns.map_or(i64::MIN, behind);
        let moved = |part: &&PartId| part.order_ns != part.first_time_ns;
        let behind_moved_ns = |new: PartId| {
            let earlier = known.iter().filter(moved);
            let earlier = earlier.filter(|part| part.first_time_ns <= new.first_time_ns);
            earlier.map(|part| behind(part.order_ns)).max().unwrap_or(i64::MIN)
        };
        self.parts.sort_by_key(|part| (is_live(part), part.id));
        let mut last_ns = earliest_ns;
        for part in &mut self.parts {
            if is_new(part.id) {
                let earliest_ns = if is_live(part) { last_ns } else { earliest_ns };
                let earliest_ns = earliest_ns.max(behind_moved_ns(part.id));
                part.id.order_ns = part.id.first_time_ns.max(earliest_ns).min(before_live_ns);
            }
            last_ns = last_ns.max(behind(part.id.order_ns));
        }
        self.parts.sort_by_key(|part| part.id);
        if !self.incomplete {
            self.listed_ns = self.listed_ns.max(self.parts.last().map(|part| part.id.order_ns));
        }
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
                let is_other =
                    |part: &&mut Part| !id.is_some_and(|id| part.id.is(id)) && part.is(seen);
                self.parts.iter_mut().filter(is_other).for_each(Part::truncate);
                match id {
                    Some(id) => {
                        let format = identity::format_of(&head, configured);
                        self.found(id, seen, file, format, &head);
                    }
                    None => {
                        refreshed.unborn = true;
                        refreshed.unnamed |= !head.is_empty();
                    }
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

    fn found(
        &mut self,
        id: PartId,
        seen: &FileSeen,
        file: Rc<File>,
        format: LineFormat,
        head: &[u8],
    ) {
        if let Some(part) = self.parts.iter_mut().find(|part| part.id.is(id)) {
            // A plain file that is there, or is still held open, is better than its compressed
            // copy: it can be read anywhere.
            let keep = seen.kind == PartKind::Gzip
                && part.kind != PartKind::Gzip
                && (!part.unlinked || part.is_as_good_as(&file));
            if keep {
                part.unlinked = false;
                part.kind = PartKind::Rotated;
                part.twin = Some(seen.path.clone());
                return;
            }
            part.told_bytes = told_bytes(seen.kind, &file, seen.size);
            if !part.is(seen) {
                part.file = Some(file);
                // Renaming leaves a file its number.
                let is_another = part.truncated || part.inode != 0;
                part.is_copy = seen.kind == PartKind::Rotated && is_another;
            }
            part.sees(seen);
            return;
        }
        let order = self.remembered.iter().find(|known| known.is(id)).copied();
        let mut part = Part {
            id: order.unwrap_or(id),
            format,
            path: PathBuf::new(),
            kind: seen.kind,
            device: 0,
            inode: 0,
            modified_ns: 0,
            disk_bytes: 0,
            unpacked_bytes: None,
            told_bytes: told_bytes(seen.kind, &file, seen.size),
            unlinked: false,
            truncated: false,
            is_copy: false,
            twin: None,
            scans_since: 0,
            beginning: Beginning::of(head),
            readable_from: 0,
            file: Some(file),
            spooled: None,
        };
        part.sees(seen);
        self.parts.push(part);
    }

    /// Closes what nobody has to read any more, and forgets parts that are gone as well.
    ///
    /// `needed_from` is the earliest position that is still wanted, `None` when nothing is. The
    /// newest part stays open while it is there: its next line comes through the handle.
    ///
    /// Returns the parts that are forgotten, wanted or not. The spooled copy of a part that nobody
    /// wants is removed.
    pub fn release(&mut self, needed_from: Option<Position>) -> Vec<Part> {
        let newest = self.parts.last().map(|part| part.id);
        for part in &mut self.parts {
            let wanted = needed_from.is_some_and(|from| part.id >= from.part);
            let grows = needed_from.is_some() && Some(part.id) == newest;
            if !wanted && !grows {
                part.file = None;
            }
            if !wanted && let Some(spooled) = part.spooled.take() {
                self.removed_bytes += spooled.bytes();
                spooled.remove();
            }
        }
        if self.incomplete {
            // What is not there may only not have been seen.
            return Vec::new();
        }
        let gone: Vec<Part> = self.parts.extract_if(.., |part| part.is_gone()).collect();
        // One that comes back, a copy perhaps, takes its old place.
        self.remember(gone.iter().map(|part| part.id), None);
        self.remembered.drain(..self.remembered.len().saturating_sub(REMEMBERED_MAX));
        gone
    }

    /// Lets every read of a part fail from now on, with an error that may pass.
    #[cfg(test)]
    pub fn make_unreadable(&mut self, id: PartId) {
        let part = self.part_mut(id).expect("there");
        let file = File::options().append(true).open(&part.path).expect("opened");
        part.file = Some(Rc::new(file));
    }

    /// Closes handles of parts whose files are still there, as if they had never been opened.
    #[cfg(test)]
    pub fn close_reopenable(&mut self) {
        for part in self.parts.iter_mut().filter(|part| !part.unlinked) {
            part.file = None;
        }
    }
}

/// How long a compressed file of `disk_bytes` says that it is, where that can be: deflate makes at most
/// 1,032 bytes of one. Source: zlib's technical details, "Maximum Compression Factor".
fn told_bytes(kind: PartKind, file: &File, disk_bytes: u64) -> Option<u64> {
    let told = match kind {
        PartKind::Gzip => super::source::last_uncompressed_bytes(file).ok().map(u64::from),
        PartKind::Live | PartKind::Rotated => None,
    };
    told.filter(|told| *told <= disk_bytes.saturating_mul(1032))
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
    !is_damage(error) && error.kind() != io::ErrorKind::PermissionDenied
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
