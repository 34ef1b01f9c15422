//! Opens log files safely: without following links, without blocking, regular files only.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Opens `path` for reading.
///
/// The last component is never followed as a link, and a pipe or device that stands there under
/// a log's name is refused instead of waited for.
pub fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok((file, metadata))
}

/// How files of the state directory are opened for writing: made if they are not there, nobody
/// else's, and never behind a link.
pub fn private() -> OpenOptions {
    let nofollow = OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(false).mode(0o600).custom_flags(nofollow);
    options
}

/// Reads at `offset` until `buffer` is full or the file ends; returns the bytes read.
pub fn read_at(file: &File, mut offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset) {
            Ok(0) => break,
            Ok(read) => {
                filled += read;
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Nanoseconds since the epoch at which the file was last written.
pub fn modified_ns(metadata: &Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_pipes_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let real = dir.path().join("real");
        std::fs::write(&real, "x").expect("written");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&real, &link).expect("linked");
        assert!(open_regular(&real).is_ok());
        assert!(open_regular(&link).is_err());
        assert!(open_regular(dir.path()).is_err());
    }

    #[test]
    fn reading_goes_on_to_the_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, "0123456789").expect("written");
        let (file, _) = open_regular(&path).expect("opened");
        let mut buffer = [0; 4];
        assert_eq!(read_at(&file, 3, &mut buffer).expect("read"), 4);
        assert_eq!(&buffer, b"3456");
        assert_eq!(read_at(&file, 8, &mut buffer).expect("read"), 2);
        assert_eq!(read_at(&file, 80, &mut buffer).expect("read"), 0);
    }
}
