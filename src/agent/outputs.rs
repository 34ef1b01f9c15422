//! The outputs of all pipelines: what ships, what leads there, and how they are.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::{Agent, Pipeline};
use crate::pipeline::batch::{Outcome, Told};
use crate::pipeline::budget::Budget;
use crate::pipeline::inbox::{Event, Inbox, Pipelines};
use crate::pipeline::outlet::{IN_FLIGHT_MAX, Output};
use crate::ship::{Health, Report, Shipper};

/// See the module.
#[derive(Debug)]
pub(super) struct Outputs {
    pub(super) pipelines: Vec<Arc<Pipeline>>,
    /// How batches get there, in the order of the pipelines.
    pub(super) queues: Vec<Output>,
    pub(super) budget: Budget,
    shippers: Vec<JoinHandle<()>>,
    healths: Vec<Arc<Health>>,
}

impl Outputs {
    /// Starts shipping for `pipelines`. One that was there `before` with the same output keeps its
    /// health.
    ///
    /// # Errors
    /// An output can't be used, see [`Shipper::start`]; then none was started.
    pub(super) fn start(
        agent: &Agent,
        pipelines: &[Arc<Pipeline>],
        inboxes: &[Arc<Inbox>],
        before: &[(Arc<Pipeline>, Arc<Health>)],
    ) -> anyhow::Result<Self> {
        let mut outputs = Self {
            pipelines: pipelines.to_vec(),
            queues: Vec::new(),
            budget: Budget::new(agent.memory_budget_bytes, pipelines.len()),
            shippers: Vec::new(),
            healths: Vec::new(),
        };
        for (index, pipeline) in pipelines.iter().enumerate() {
            if let Err(error) = outputs.start_one(agent, pipeline, inboxes, index, before) {
                outputs.abort();
                return Err(error);
            }
        }
        Ok(outputs)
    }

    fn start_one(
        &mut self,
        agent: &Agent,
        pipeline: &Arc<Pipeline>,
        inboxes: &[Arc<Inbox>],
        index: usize,
        before: &[(Arc<Pipeline>, Arc<Health>)],
    ) -> anyhow::Result<()> {
        // Twice: batches that a dead output is about to forget may still be in it when workers, told
        // that it is back, send others.
        let (output, batches) = mpsc::channel(2 * IN_FLIGHT_MAX * agent.threads);
        let same = before.iter().find(|(before, _)| {
            before.name == pipeline.name && before.output.target == pipeline.output.target
        });
        let health = same.map_or_else(|| Arc::new(Health::new()), |(_, health)| Arc::clone(health));
        let report = report_to(inboxes, index);
        let shipper =
            Shipper::start(pipeline, &agent.state.dir, batches, report, Arc::clone(&health))?;
        self.shippers.push(shipper);
        self.healths.push(health);
        let oldest = (0..agent.threads).map(|_| AtomicI64::new(0)).collect();
        self.queues.push(Output { batches: output, oldest: Arc::new(oldest) });
        Ok(())
    }

    /// What workers have to know of them.
    pub(super) fn for_workers(&self) -> Pipelines {
        Pipelines {
            pipelines: self.pipelines.clone(),
            outputs: self.queues.clone(),
            budget: self.budget.clone(),
        }
    }

    /// How each output is.
    pub(super) fn healths(&self) -> impl Iterator<Item = (&Arc<Pipeline>, &Arc<Health>)> {
        self.pipelines.iter().zip(&self.healths)
    }

    /// Ships no more: what was not reported is not safe.
    pub(super) fn abort(&self) {
        for shipper in &self.shippers {
            shipper.abort();
        }
    }

    /// Ships no more, and waits until nothing is reported any more.
    pub(super) async fn end(self) {
        self.abort();
        for shipper in self.shippers {
            if let Err(error) = shipper.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

fn report_to(inboxes: &[Arc<Inbox>], pipeline: usize) -> Report {
    let inboxes = inboxes.to_vec();
    Arc::new(move |told| {
        let event = || Event::Told { pipeline, told };
        match told {
            Told::Safe(Outcome { worker, .. }) | Told::Forgotten { worker, .. } => {
                inboxes[worker].tell(event());
            }
            Told::Back => inboxes.iter().for_each(|inbox| inbox.tell(event())),
        }
    })
}
