//! The uncompressed bytes of a part, at an offset.
//!
//! A plain part is read in place through a handle that all readers of the stream share. A
//! compressed one is a sequence: each reader has a [`GzipSource`] of its own, which decompresses
//! forward and keeps the bytes that its reader could not use yet. Going back starts it again.
//!
//! Holds one decompressor (about 45 KiB) and at most one chunk per compressed part being read;
//! how many are read at once is the caller's limit.

use std::fs::File;
use std::io::{self, Read};
use std::rc::Rc;

use flate2::read::MultiGzDecoder;

use super::file;

/// One reader's way to the bytes of a part.
#[derive(Debug)]
pub enum Source {
    Plain(Rc<File>),
    Gzip(Box<GzipSource>),
}

impl Source {
    /// Reads into `buffer` from `offset` on; no bytes mean the end of what is there.
    ///
    /// # Errors
    /// What the file system says; for a compressed part also that it is damaged, once all that
    /// stands before the damage has been given.
    pub fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file::read_at(file, offset, buffer),
            Self::Gzip(gzip) => gzip.read_at(offset, buffer),
        }
    }

    /// The handle that it reads through.
    pub fn file(&self) -> &Rc<File> {
        match self {
            Self::Plain(file) => file,
            Self::Gzip(gzip) => &gzip.file,
        }
    }

    /// Says that `unused`, which begins at `offset`, was read but not used: the next read begins
    /// there.
    pub fn unread(&mut self, offset: u64, unused: &[u8]) {
        if let Self::Gzip(gzip) = self {
            gzip.kept.clear();
            gzip.kept.extend_from_slice(unused);
            gzip.kept_offset = offset;
        }
    }

    /// Why nothing more can be read, if that is not the end but damage.
    pub fn damage(&self) -> Option<io::Error> {
        match self {
            Self::Plain(_) => None,
            Self::Gzip(gzip) => gzip.damage(),
        }
    }

    /// Bytes of the file itself that were read so far; of a plain part none are counted.
    pub fn consumed_bytes(&self) -> u64 {
        match self {
            Self::Plain(_) => 0,
            Self::Gzip(gzip) => gzip.decoder.get_ref().offset,
        }
    }
}

/// A compressed part, read forward.
pub struct GzipSource {
    file: Rc<File>,
    decoder: MultiGzDecoder<FileAt>,
    /// Uncompressed bytes that the decoder has given so far.
    decoded_bytes: u64,
    /// Bytes that were given but not used; they end at `decoded_bytes`.
    kept: Vec<u8>,
    kept_offset: u64,
    /// What the decoder said when it could go no further.
    damage: Option<(io::ErrorKind, String)>,
}

impl std::fmt::Debug for GzipSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GzipSource")
            .field("decoded_bytes", &self.decoded_bytes)
            .finish_non_exhaustive()
    }
}

impl GzipSource {
    /// Reads the compressed `file` from its beginning.
    pub fn new(file: Rc<File>) -> Self {
        let decoder = Self::decoder(&file);
        Self { file, decoder, decoded_bytes: 0, kept: Vec::new(), kept_offset: 0, damage: None }
    }

    fn decoder(file: &Rc<File>) -> MultiGzDecoder<FileAt> {
        MultiGzDecoder::new(FileAt { file: Rc::clone(file), offset: 0 })
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = self.take_kept(offset, buffer);
        if filled == 0 {
            self.seek(offset, buffer)?;
        }
        while filled < buffer.len() && self.damage.is_none() {
            match self.decoder.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => {
                    filled += read;
                    self.decoded_bytes += read as u64;
                }
                Err(error) => self.damage = Some((error.kind(), error.to_string())),
            }
        }
        match self.damage() {
            Some(error) if filled == 0 => Err(error),
            _ => Ok(filled),
        }
    }

    fn damage(&self) -> Option<io::Error> {
        self.damage.as_ref().map(|(kind, why)| io::Error::new(*kind, why.clone()))
    }

    /// Moves kept bytes into `buffer` if they are what is asked for.
    fn take_kept(&mut self, offset: u64, buffer: &mut [u8]) -> usize {
        if self.kept.is_empty() || self.kept_offset != offset || self.kept.len() > buffer.len() {
            return 0;
        }
        let filled = self.kept.len();
        buffer[..filled].copy_from_slice(&self.kept);
        self.kept.clear();
        filled
    }

    /// Decompresses to `offset`, from the beginning if it lies behind; `scratch` is overwritten.
    fn seek(&mut self, offset: u64, scratch: &mut [u8]) -> io::Result<()> {
        self.kept.clear();
        if offset < self.decoded_bytes {
            self.decoder = Self::decoder(&self.file);
            self.decoded_bytes = 0;
            self.damage = None;
        }
        while self.decoded_bytes < offset {
            let left = usize::try_from(offset - self.decoded_bytes).unwrap_or(usize::MAX);
            let step = left.min(scratch.len());
            match self.decoder.read(&mut scratch[..step])? {
                0 => break,
                read => self.decoded_bytes += read as u64,
            }
        }
        Ok(())
    }
}

/// Whether `error` says what a file is, and not that it could not be read just then.
pub fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof)
}

/// How long the last member of a gzip file says that it is, uncompressed, modulo 2^32; most files
/// have one. Source: RFC 1952, section 2.3.1, `ISIZE`.
///
/// # Errors
/// What the file system says, also for a file that is too short to be one.
pub fn last_uncompressed_bytes(file: &File) -> io::Result<u32> {
    let length = file.metadata()?.len();
    let mut size = [0; 4];
    let at = length.checked_sub(4).ok_or(io::ErrorKind::UnexpectedEof)?;
    if file::read_at(file, at, &mut size)? < size.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(u32::from_le_bytes(size))
}

/// Reads a shared handle at a place of its own.
#[derive(Debug)]
struct FileAt {
    file: Rc<File>,
    offset: u64,
}

impl Read for FileAt {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = file::read_at(&self.file, self.offset, buffer)?;
        self.offset += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn gzip_file(content: &[u8]) -> Rc<File> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).expect("in memory");
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&encoder.finish().expect("in memory")).expect("written");
        Rc::new(file)
    }

    proptest! {
        /// Whatever is read, given back, or gone back to: the bytes are those of the content.
        #[test]
        fn any_order_of_reads_gives_the_content(
            content in prop::collection::vec(any::<u8>(), 0..2000),
            reads in prop::collection::vec((0_usize..2100, 1_usize..300, any::<prop::sample::Index>()), 1..20),
        ) {
            let mut source = Source::Gzip(Box::new(GzipSource::new(gzip_file(&content))));
            for (offset, length, used) in reads {
                let mut buffer = vec![0; length];
                let read = source.read_at(offset as u64, &mut buffer).expect("undamaged");
                let expected = content.get(offset..).unwrap_or(&[]);
                prop_assert_eq!(&buffer[..read], &expected[..expected.len().min(length)]);
                let used = used.index(read + 1);
                source.unread((offset + used) as u64, &buffer[used..read]);
                let mut again = vec![0; length.max(read)];
                let read = source.read_at((offset + used) as u64, &mut again).expect("undamaged");
                let expected = content.get(offset + used..).unwrap_or(&[]);
                prop_assert_eq!(&again[..read], &expected[..expected.len().min(again.len())]);
            }
        }
    }

    #[test]
    fn a_damaged_part_gives_what_comes_before_the_damage() {
        let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&content).expect("in memory");
        let mut packed = encoder.finish().expect("in memory");
        packed.truncate(packed.len() / 2);
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&packed).expect("written");
        let mut source = GzipSource::new(Rc::new(file));
        let mut buffer = vec![0; 1000];
        assert_eq!(source.read_at(0, &mut buffer).expect("undamaged so far"), 1000);
        assert_eq!(buffer, content[..1000]);
        let mut all = vec![0; content.len()];
        let more = source.read_at(1000, &mut all).expect("what stands before the damage");
        assert!(more > 0);
        assert_eq!(all[..more], content[1000..1000 + more]);
        assert!(source.damage().is_some(), "a short read is not taken for the end");
        assert!(source.read_at(1000 + more as u64, &mut all).is_err());
    }
}
