//! Writes documents: the application's members as they are, and around them what the agent knows.
//!
//! Owns the form of a bulk item ([`splice`]) and of its `_id` ([`id`]). A line that is a JSON
//! object is never rebuilt: its members are copied behind those of the agent, in one piece but for
//! the names that have to give way. Guarantees that whatever the line holds, what is appended is
//! valid JSON on one line with no name twice in an object. The unusual is rewritten first
//! (`rewrite`), everything else becomes text (`escape`). Memory is one scratch per worker, which
//! grows to a few times the longest line. Which lines belong together, which stream they are of
//! and what filters make of the document is decided elsewhere.

mod decimal;
pub mod escape;
pub mod fields;
pub mod id;
mod lead;
mod names;
mod rewrite;
pub mod splice;
mod stamp;
pub mod tree;

pub use id::{Id, IdHash};
pub use names::Names;
pub use splice::{Appended, Content, LineFacts, Parts, Scratch, Template};
