//! Sends batches and says what became of every item.
//!
//! Owns the way of a batch from the channel of its pipeline to what is [`Told`] of it. Guarantees:
//! a batch is told to be safe when, and only when, every item of it is; nothing is ever dropped,
//! whatever the output does; at most two requests are in flight for each output, one after
//! trouble. An output that acknowledges nothing for [`patience::PATIENCE`] is dead: it keeps the
//! oldest batch as a probe and forgets the others, which are read again when it is back. What a
//! person has to mend (credentials, a closed index, a full dead-letter file) pauses the output: it
//! is tried again all the same, at most every 30 s, and [`Health`] says why. Does not read files,
//! decide on checkpoints or know other pipelines.
//!
//! - `client.rs` is the only file that opens sockets to Elasticsearch.
//! - `response.rs` (what an answer means) and `retry.rs` (when to send again) decide, purely.
//! - `delivery.rs` drives one batch, with `bulk.rs` to take its body apart; `queue.rs` those of an
//!   output, `patience.rs` decides when it is dead.
//! - `dead_letter.rs` and `local.rs` write to this machine's disk, both through `append.rs`.
//! - `replay.rs` sends dead letters again, for the command; it shares none of an agent's state.
//!
//! For operators: `splashdam_bulk_requests_total{pipeline,result}` counts every request by how
//! it ended; `no_answer` and `timeout` are those after which, behind an alias or data stream that
//! rolls over in between, a duplicate is possible.

mod append;
mod bulk;
mod client;
mod clock;
mod credentials;
pub(crate) mod dead_letter;
mod delivery;
mod health;
mod local;
mod patience;
mod queue;
pub(crate) mod replay;
#[doc(hidden)] // for the benches
pub mod response;
mod retry;

#[cfg(test)]
mod peer;
#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
mod tests;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;

use crate::config;
use crate::config::pipeline::{Elasticsearch, Target};
use crate::pipeline::batch::{Batch, Told};
use client::{Client, Timeouts};
use clock::Clock;
use dead_letter::DeadLetters;
use delivery::{Output, Pace};
pub use health::{BulkResult, Health, State};
use local::Sink;
pub use response::Cause;

/// Called with what there is to tell on the runtime's thread; must not block.
pub type Report = Arc<dyn Fn(Told) + Send + Sync>;

/// Ships the batches of one pipeline.
#[derive(Debug)]
pub struct Shipper;

impl Shipper {
    /// Starts shipping on the current tokio runtime.
    ///
    /// The task ends when `batches` is closed and everything in it is safe. It may be aborted at
    /// any time: what was not reported is not safe and is to be read again.
    ///
    /// # Errors
    ///
    /// When a certificate or key that the pipeline names cannot be read or used, or a host is not
    /// a URL. What goes wrong later is retried.
    pub fn start(
        pipeline: &config::Pipeline,
        state_dir: &Path,
        batches: Receiver<Batch>,
        report: Report,
        health: Arc<Health>,
    ) -> anyhow::Result<JoinHandle<()>> {
        // Keyed by the system's randomness: agents that start together differ.
        let seed = RandomState::new().hash_one(&pipeline.name);
        let given = Given { clock: Clock::System, seed, timeouts: Timeouts::default() };
        let name = pipeline.name.clone();
        let sink = match &pipeline.output.target {
            Target::Elasticsearch(elasticsearch) => {
                let output = output(name, elasticsearch, state_dir, health, given)?;
                return Ok(tokio::spawn(queue::run(Arc::new(output), batches, report, seed)));
            }
            Target::Stdout => Sink::stdout(),
            Target::File(path) => Sink::file(path.clone()),
        };
        Ok(tokio::spawn(local::run(name, sink, batches, report, health, given)))
    }
}

#[cfg(test)]
impl Shipper {
    /// Starts shipping to whoever plays the host at the other end of `wire`.
    pub(crate) fn start_scripted(
        pipeline: &config::Pipeline,
        state_dir: &Path,
        batches: Receiver<Batch>,
        report: Report,
        wire: scripted::Wire,
        seed: u64,
    ) -> JoinHandle<()> {
        let Target::Elasticsearch(elasticsearch) = &pipeline.output.target else {
            panic!("only what speaks HTTP can be scripted");
        };
        let given = Given { clock: Clock::System, seed, timeouts: Timeouts::default() };
        let (name, health) = (pipeline.name.clone(), Arc::new(Health::new()));
        let mut output = output(name, elasticsearch, state_dir, health, given).expect("valid");
        output.client.script(wire);
        tokio::spawn(queue::run(Arc::new(output), batches, report, seed))
    }
}

/// What does not come from the configuration: time, randomness and patience.
#[derive(Debug, Clone)]
struct Given {
    clock: Clock,
    seed: u64,
    timeouts: Timeouts,
}

fn output(
    pipeline: String,
    elasticsearch: &Elasticsearch,
    state_dir: &Path,
    health: Arc<Health>,
    Given { clock, seed, timeouts }: Given,
) -> Result<Output, client::ClientError> {
    Ok(Output {
        client: Client::new(elasticsearch, timeouts, clock.now(), seed)?,
        dead_letters: DeadLetters::new(state_dir, &pipeline),
        pipeline,
        index: elasticsearch.index.clone(),
        refused: elasticsearch.refused,
        refused_after: elasticsearch.refused_after,
        health,
        clock,
        pace: Mutex::new(Pace::new()),
        stuck: tokio::sync::Notify::new(),
    })
}
