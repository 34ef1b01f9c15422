//! From documents to batches: what a batch is, and the byte budget.

pub mod batch;
pub mod budget;
