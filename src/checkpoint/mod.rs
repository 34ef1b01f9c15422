//! What is safe, and how that outlives the process.
//!
//! [`ledger`] decides how far a reader's acknowledged prefix goes, [`mod@format`] is the file's text,
//! [`store`] decides what is written in which order, [`disk`] does it in the locked state
//! directory, [`saver`] is the thread on which that happens. The file never promises more than the
//! outputs have acknowledged; a cut that the wall clock made is in it before the request that
//! depends on it leaves.

mod disk;
pub mod format;
pub mod ledger;
#[cfg(test)]
mod platter;
mod saver;
pub mod store;

pub use format::{Checkpoint, Cut, Entry, Key};
pub use ledger::{Ledger, Progress, Reached};
pub use saver::Saver;
pub use store::{Change, Store};
