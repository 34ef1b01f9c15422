//! Copies of what only open handles kept, made when the process ends before it was acknowledged.
//!
//! Owns `<state>/spool`: for each part two files, `<name>.data` with its bytes and `<name>.json`
//! that says what they are. A plain part's bytes stand at their own offsets behind a hole, so the
//! copy is read like the part itself; of a compressed one the compressed file is kept whole.
//! Guarantees that a copy which was not finished is never taken for one: the `.json` comes last;
//! and that a folder in which a newer version has left a copy is not touched.
//! Private: 0700 and 0600. Does not decide what is copied and how much; nothing is written here
//! while the agent runs.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::file::{open_regular, private};
use super::{Part, PartId};
use crate::config::agent::LineFormat;
use crate::discover::{PartKind, StreamName};

/// The folder in the state directory.
pub const FOLDER: &str = "spool";

/// How much is copied at once.
const COPY_BYTES: usize = 256 * 1024;

/// The longest `.json` that is believed.
const HEADER_BYTES_MAX: u64 = 64 * 1024;

/// The version that this program writes.
pub const VERSION: u32 = 1;

/// The version of a header that names none: the first programs wrote none.
fn unnamed_version() -> u32 {
    1
}

/// What every header says, whatever its version.
#[derive(Debug, Deserialize)]
struct Version {
    #[serde(default = "unnamed_version")]
    splashdam_spool: u32,
}

/// What a copy is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    #[serde(default = "unnamed_version")]
    splashdam_spool: u32,
    /// As [`StreamName`] is displayed.
    stream: String,
    part: PartId,
    docker: bool,
    gzip: bool,
    /// The copied bytes of the file: all that stands before `from` was safe.
    from: u64,
    end: u64,
}

/// Why copies can't be taken up.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error(
        "can't use the spooled copy {}: written by a newer version of splashdam (format {found}, \
         this one knows up to {VERSION}): run that version again, or name another state.dir, for \
         which what was copied is lost",
        path.display()
    )]
    Newer { path: PathBuf, found: u32 },
}

/// Why a `.json` can't be used.
#[derive(Debug, thiserror::Error)]
enum HeaderError {
    #[error("it can't be read")]
    Read(#[from] io::Error),
    #[error("it doesn't say what was copied")]
    Form(#[from] serde_json::Error),
    #[error("written by a newer version (format {found})")]
    Newer { found: u32 },
}

/// A copy that an earlier process made, not opened yet.
#[derive(Debug, Clone)]
pub struct Copied {
    header: Header,
    data: PathBuf,
}

impl Copied {
    /// The stream that it is of; `None` for a name that no stream has.
    pub fn stream(&self) -> Option<StreamName> {
        StreamName::parse(&self.header.stream)
    }

    /// Bytes on the disk.
    pub fn bytes(&self) -> u64 {
        self.header.end.saturating_sub(self.header.from)
    }

    /// Opens it. Where the data is shorter than it should be, what is there counts.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(self) -> io::Result<Spooled> {
        let (file, metadata) = open_regular(&self.data)?;
        let end = self.header.end.min(metadata.len());
        Ok(Spooled { header: Header { end, ..self.header }, data: self.data, file: Rc::new(file) })
    }

    /// Removes it.
    pub fn remove(&self) {
        remove(&self.data);
    }
}

/// An open copy of a part.
#[derive(Debug, Clone)]
pub struct Spooled {
    header: Header,
    data: PathBuf,
    file: Rc<File>,
}

impl Spooled {
    pub fn part(&self) -> PartId {
        self.header.part
    }

    pub fn gzip(&self) -> bool {
        self.header.gzip
    }

    pub fn format(&self) -> LineFormat {
        if self.header.docker { LineFormat::Docker } else { LineFormat::Cri }
    }

    /// Where the copied bytes begin.
    pub fn from(&self) -> u64 {
        self.header.from
    }

    /// Where they end.
    pub fn end(&self) -> u64 {
        self.header.end
    }

    /// Bytes on the disk.
    pub fn bytes(&self) -> u64 {
        self.header.end.saturating_sub(self.header.from)
    }

    pub fn file(&self) -> Rc<File> {
        Rc::clone(&self.file)
    }

    /// Removes it: nobody has to read it any more.
    pub fn remove(self) {
        remove(&self.data);
    }
}

/// Removes a copy, what it is of first.
fn remove(data: &Path) {
    remove_one(&data.with_extension("json"));
    remove_one(data);
}

fn remove_one(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(file = %path.display(), cause = %error, "a spooled copy that nobody needs can't be removed");
        }
        _ => {}
    }
}

/// The folder of copies.
#[derive(Debug, Clone)]
pub struct Spool {
    dir: PathBuf,
}

impl Spool {
    /// The folder in `state_dir`, which need not be there.
    pub fn new(state_dir: &Path) -> Self {
        Self { dir: state_dir.join(FOLDER) }
    }

    /// All whole copies that are there. What else is in the folder was never finished and is
    /// removed.
    ///
    /// # Errors
    /// One was made by a newer version; then nothing is removed.
    pub fn list(&self) -> Result<Vec<Copied>, SpoolError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::error!(dir = %self.dir.display(), cause = %error, "spooled copies can't be read");
                }
                return Ok(Vec::new());
            }
        };
        let (mut copies, mut unfinished) = (Vec::new(), Vec::new());
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            let extension = path.extension().and_then(|extension| extension.to_str());
            match extension {
                Some("json") => match read_header(&path) {
                    Ok(header) => copies.push(Copied { header, data: path.with_extension("data") }),
                    Err(HeaderError::Newer { found }) => {
                        return Err(SpoolError::Newer { path, found });
                    }
                    Err(error) => {
                        let cause = format!("{:#}", anyhow::Error::from(error));
                        tracing::error!(file = %path.display(), cause, "not a spooled copy; it is left alone");
                    }
                },
                Some("data") if path.with_extension("json").symlink_metadata().is_err() => {
                    unfinished.push(path);
                }
                Some("new") => unfinished.push(path),
                _ => {}
            }
        }
        unfinished.iter().for_each(|path| remove_one(path));
        Ok(copies)
    }

    /// Copies what stands in `part` of `stream` from `from` on; returns how many bytes that is.
    /// It need not be on the disk before [`Self::sync`].
    ///
    /// # Errors
    /// What the file systems say; then there is no copy.
    pub fn keep(&self, stream: &StreamName, part: &Part, from: u64) -> io::Result<u64> {
        let Some(file) = part.held() else { return Ok(0) };
        let gzip = part.kind == PartKind::Gzip;
        let from = if gzip { 0 } else { from };
        let docker = part.format == LineFormat::Docker;
        let end = file.metadata()?.len();
        let stream = stream.to_string();
        let splashdam_spool = VERSION;
        let header = Header { splashdam_spool, stream, part: part.id, docker, gzip, from, end };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let path = self.dir.join(name(&header));
        let data = path.with_extension("data");
        if let Err(error) = copy(file, &data, from..end).and_then(|()| write_header(&path, &header))
        {
            remove(&data);
            return Err(error);
        }
        Ok(end - from)
    }

    /// Makes sure that all copies are on the disk.
    ///
    /// # Errors
    /// What the file system says.
    pub fn sync(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            open_regular(&entry?.path())?.0.sync_all()?;
        }
        File::open(&self.dir)?.sync_all()
    }
}

fn read_header(path: &Path) -> Result<Header, HeaderError> {
    let (file, _) = open_regular(path)?;
    let mut text = Vec::new();
    file.take(HEADER_BYTES_MAX).read_to_end(&mut text)?;
    let version: Version = serde_json::from_slice(&text)?;
    if version.splashdam_spool > VERSION {
        return Err(HeaderError::Newer { found: version.splashdam_spool });
    }
    Ok(serde_json::from_slice(&text)?)
}

fn write_header(path: &Path, header: &Header) -> io::Result<()> {
    let beside = path.with_extension("new");
    create(&beside)?.write_all(&serde_json::to_vec(header)?)?;
    fs::rename(&beside, path.with_extension("json"))
}

fn copy(from: &File, to: &Path, bytes: std::ops::Range<u64>) -> io::Result<()> {
    let mut to = create(to)?;
    to.seek(SeekFrom::Start(bytes.start))?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = bytes.start;
    while at < bytes.end {
        let wanted = buffer.len().min(usize::try_from(bytes.end - at).unwrap_or(usize::MAX));
        let read = from.read_at(&mut buffer[..wanted], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all(&buffer[..read])?;
        at += read as u64;
    }
    Ok(())
}

/// A private file at `path` with nothing in it.
fn create(path: &Path) -> io::Result<File> {
    private().truncate(true).open(path)
}

/// A name of its own for each part of each stream.
fn name(header: &Header) -> String {
    let part = header.part;
    let digest = Sha256::digest(format!("{} {} {}", header.stream, part.first_time_ns, part.hash));
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::discover::FileSeen;
    use crate::tail::{Position, Stream};

    const TEXT: &str = "2026-11-23T21:06:01Z stdout F one\n2026-11-23T21:06:02Z stdout F two\n";

    fn stream_name() -> StreamName {
        StreamName::parse("n_p_u/c/0").expect("a name")
    }

    /// A stream of one part whose file was removed while it was open.
    fn removed(dir: &Path, text: &str) -> Stream {
        let path = dir.join("0.log");
        fs::write(&path, text).expect("written");
        let file = FileSeen {
            path: path.clone(),
            kind: PartKind::Live,
            device: 0,
            inode: 0,
            size: 0,
            modified_ns: 0,
        };
        let metadata = fs::metadata(&path).expect("there");
        let (device, inode) = {
            use std::os::unix::fs::MetadataExt;
            (metadata.dev(), metadata.ino())
        };
        let mut stream = Stream::default();
        let listed = [FileSeen { device, inode, size: metadata.len(), ..file }];
        stream.refresh(&listed, false, LineFormat::Auto);
        fs::remove_file(&path).expect("removed");
        stream.refresh(&[], true, LineFormat::Auto);
        stream
    }

    #[test]
    fn what_only_a_handle_kept_is_there_for_the_next_process_and_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let stream = removed(dir.path(), TEXT);
        let spool = Spool::new(dir.path());
        let part = &stream.parts()[0];
        assert_eq!(spool.keep(&stream_name(), part, 10).expect("copied"), TEXT.len() as u64 - 10);
        spool.sync().expect("synced");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&dir.path().join(FOLDER)), 0o700);
        for entry in fs::read_dir(dir.path().join(FOLDER)).expect("listed") {
            assert_eq!(mode(&entry.expect("listed").path()), 0o600);
        }

        let mut next = Stream::default();
        for copied in spool.list().expect("of this version") {
            assert_eq!(copied.stream(), Some(stream_name()));
            next.adopt(copied.open().expect("opened"));
        }
        let id = part.id;
        let copy = next.part_mut(id).expect("the same part");
        assert_eq!((copy.readable_from, copy.end()), (10, Some(TEXT.len() as u64)));
        let mut buffer = vec![0; 1000];
        let read = copy.source().expect("open").read_at(10, &mut buffer).expect("read");
        assert_eq!(&buffer[..read], &TEXT.as_bytes()[10..]);
        assert_eq!(next.held(), (0, 0), "its bytes are held by the spool");

        next.release(Some(Position { part: id, offset: 20 }));
        assert_eq!(spool.list().expect("of this version").len(), 1, "it is wanted");
        next.release(None);
        assert_eq!(fs::read_dir(dir.path().join(FOLDER)).expect("listed").count(), 0);
    }

    #[test]
    fn an_unfinished_copy_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = Spool::new(dir.path());
        assert!(spool.list().expect("nothing newer").is_empty());
        let folder = dir.path().join(FOLDER);
        fs::create_dir(&folder).expect("made");
        fs::write(folder.join("aa.data"), "half").expect("written");
        fs::write(folder.join("bb.json"), "{\"stream\":").expect("written");
        fs::write(folder.join("cc.new"), "{\"str").expect("written");
        assert!(spool.list().expect("nothing newer").is_empty());
        assert!(folder.join("cc.new").symlink_metadata().is_err(), "never renamed");
        assert!(folder.join("aa.data").symlink_metadata().is_err(), "it takes no room");
        assert!(folder.join("bb.json").symlink_metadata().is_ok(), "somebody may want to see it");
    }
    const PART: &str =
        r#""part":{"first_time_ns":7,"hash":9},"docker":false,"gzip":false,"from":0,"end":4"#;

    fn write_copy(folder: &Path, name: &str, header: &str) {
        fs::write(folder.join(name).with_extension("json"), header).expect("written");
        fs::write(folder.join(name).with_extension("data"), "data").expect("written");
    }

    #[test]
    fn a_header_without_a_version_is_of_the_first_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let folder = dir.path().join(FOLDER);
        fs::create_dir(&folder).expect("made");
        write_copy(&folder, "aa", &format!("{{\"stream\":\"n_p_u/c/0\",{PART}}}"));
        let copies = Spool::new(dir.path()).list().expect("nothing newer");
        assert_eq!(copies[0].stream(), Some(stream_name()));
        assert_eq!((copies[0].header.splashdam_spool, copies[0].bytes()), (1, 4));
    }

    #[test]
    fn what_is_written_names_its_version() {
        let dir = tempfile::tempdir().expect("a directory");
        let stream = removed(dir.path(), TEXT);
        let spool = Spool::new(dir.path());
        spool.keep(&stream_name(), &stream.parts()[0], 0).expect("copied");
        let copies = spool.list().expect("of this version");
        let text = fs::read_to_string(copies[0].data.with_extension("json")).expect("read");
        assert!(text.starts_with(&format!("{{\"splashdam_spool\":{VERSION},")), "{text}");
    }

    #[test]
    fn a_copy_of_a_newer_version_is_named_and_nothing_is_touched() {
        let dir = tempfile::tempdir().expect("a directory");
        let folder = dir.path().join(FOLDER);
        fs::create_dir(&folder).expect("made");
        write_copy(&folder, "aa", &format!("{{\"stream\":\"n_p_u/c/0\",{PART}}}"));
        write_copy(&folder, "bb", r#"{"splashdam_spool":9,"run":"n_p_u/c/0","parts":[]}"#);
        for unfinished in ["cc.data", "dd.new"] {
            fs::write(folder.join(unfinished), "half").expect("written");
        }
        let error = Spool::new(dir.path()).list().expect_err("newer");
        let SpoolError::Newer { path, found } = &error;
        assert_eq!((path, *found), (&folder.join("bb.json"), 9));
        for wanted in ["bb.json", "format 9", "up to 1", "state.dir"] {
            assert!(error.to_string().contains(wanted), "{error}");
        }
        assert_eq!(fs::read_dir(folder).expect("listed").count(), 6);
    }
}
