//! What is safe, and how that outlives the process.
//!
//! [`ledger`] decides how far a reader's acknowledged prefix goes, [`mod@format`] is the file's text,
//! [`store`] owns the state directory and writes the file. The file never promises more than the
//! outputs have acknowledged; a cut that the wall clock made is in it before the request that
//! depends on it leaves.

pub mod format;
pub mod ledger;
pub mod store;

pub use format::{Checkpoint, Cut, Entry, Key};
pub use ledger::{Ledger, Progress, Reached};
pub use store::{Change, Saver, Store};
