//! From lines to batches: the byte budget, open batches, and the worker that drives the hot path.
//!
//! A [`worker`] owns its streams. For each pipeline that takes a stream a [`reader`] goes through
//! its files in turns and writes documents ([`form`]) into the pipeline's [`open`] batch. A full
//! or old batch is sealed by the [`outlet`], sent, and entered into the ledgers of its readers; its
//! outcome moves their acknowledged prefix.

pub mod batch;
pub mod budget;
pub(crate) mod clock;
pub mod form;
pub mod gzip;
pub mod held;
pub mod in_hand;
pub mod inbox;
pub mod open;
pub mod outlet;
pub mod place;
pub mod reader;
pub mod worker;
