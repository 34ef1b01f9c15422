//! Follows the files of a container run: which part is which, in what order, and their bytes.
//!
//! A [`Stream`] is one container run with all its parts: the live file, rotated ones, and
//! compressed ones. A [`PartId`] is what a part was born as, so it is the same after rename and
//! compression. A [`Source`] gives the uncompressed bytes of a part at an offset. Nothing here
//! knows what the bytes mean beyond the first line that names a part.
//!
//! Limits: at most [`identity::HEAD_BYTES_MAX`] bytes are read to identify a part. A file that
//! cannot be opened or read costs only itself: it is said, counted, and tried again.

pub mod file;
pub mod identity;
pub mod position;
pub mod source;
pub mod spool;
pub mod stream;

pub use position::{PartId, Position};
pub use source::Source;
pub use stream::{Part, Stream};
