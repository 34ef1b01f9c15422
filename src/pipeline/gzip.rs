//! Compresses bodies: one gzip member each, by a compressor that is used for one after the other.
//!
//! `flate2`'s own encoder of gzip makes its compressor anew for each member: 300 KiB that are
//! mapped, cleared and given back, a tenth of the CPU of a pipeline that compresses. What frames
//! the member is here instead: RFC 1952, section 2.3, with no name and no time. Does not decide
//! when a body is full.

use flate2::{Compress, Compression as Level, Crc, FlushCompress, Status};

/// The least effort, which saves most of the bytes; the rest would cost several times the time of
/// everything else (`benches/README.md`).
pub const LEVEL: u32 = 1;

/// Magic, the method deflate, no flags, no time, the fastest level, no operating system named.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255];

/// The room that the compressor has at least whenever it is called.
const ROOM_BYTES: usize = 32 * 1024;

/// A member that is being written.
#[derive(Debug)]
pub struct Gzip {
    deflate: Compress,
    crc: Crc,
    member: Vec<u8>,
}

impl Default for Gzip {
    fn default() -> Self {
        Self {
            deflate: Compress::new(Level::new(LEVEL), false),
            crc: Crc::new(),
            member: HEADER.to_vec(),
        }
    }
}

impl Gzip {
    /// Bytes of the member so far.
    pub fn bytes(&self) -> usize {
        self.member.len()
    }

    /// Compresses `text`.
    pub fn write(&mut self, text: &[u8]) {
        self.crc.update(text);
        let mut left = text;
        while !left.is_empty() {
            let before = self.deflate.total_in();
            self.run(left, FlushCompress::None);
            let taken = self.deflate.total_in() - before;
            left = &left[usize::try_from(taken).expect("no more than is there")..];
        }
    }

    /// The whole member. The next is written into `room`, whose bytes are forgotten.
    pub fn finish(&mut self, mut room: Vec<u8>) -> Vec<u8> {
        while self.run(&[], FlushCompress::Finish) != Status::StreamEnd {}
        self.member.extend(self.crc.sum().to_le_bytes());
        self.member.extend(self.crc.amount().to_le_bytes());
        self.deflate.reset();
        self.crc.reset();
        room.clear();
        room.extend(HEADER);
        std::mem::replace(&mut self.member, room)
    }

    fn run(&mut self, text: &[u8], flush: FlushCompress) -> Status {
        self.member.reserve(ROOM_BYTES);
        let status = self.deflate.compress_vec(text, &mut self.member, flush);
        status.expect("a compressor takes any bytes while it has room")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// What `gzip` makes of `pieces`, and what is read from it.
    fn around(gzip: &mut Gzip, pieces: &[Vec<u8>]) -> (usize, Vec<u8>) {
        for piece in pieces {
            gzip.write(piece);
        }
        let member = gzip.finish(b"of before".to_vec());
        let mut text = Vec::new();
        // A reader of one member: what stands behind it would be left over.
        let mut reader = GzDecoder::new(member.as_slice());
        reader.read_to_end(&mut text).expect("a member with its sum and length");
        assert_eq!(reader.into_inner(), b"", "something stands behind the member");
        (member.len(), text)
    }

    proptest! {
        #[test]
        fn each_member_is_of_its_own_pieces(
            bodies in vec(vec(vec(any::<u8>(), 0..3000), 0..6), 1..4),
            times in 1_usize..60,
        ) {
            let mut gzip = Gzip::default();
            for pieces in bodies {
                let pieces: Vec<_> = pieces.iter().map(|piece| piece.repeat(times)).collect();
                prop_assert_eq!(around(&mut gzip, &pieces).1, pieces.concat());
            }
        }
    }

    #[test]
    fn a_member_is_the_same_whatever_came_before() {
        let pieces = [b"a line of a log\n".repeat(40_000)];
        let first = around(&mut Gzip::default(), &pieces).0;
        let mut gzip = Gzip::default();
        around(&mut gzip, &[(0..=255).cycle().take(100_000).collect()]);
        assert_eq!(around(&mut gzip, &pieces).0, first);
        assert!(first < pieces[0].len() / 50, "{first}");
    }
}
