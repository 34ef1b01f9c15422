//! The batches of one output: which are taken, in what number at once, and which are forgotten.
//!
//! Owns the deliveries that are under way. Guarantees that each batch that was taken is reported as
//! safe or as forgotten, and that its bytes of the budget are given back before. While the output is
//! dead one batch, the oldest, goes on being tried; whatever else comes is forgotten at once. Batches
//! of which only documents are left that fail with a 500 take nobody's turn, up to [`STUCK_MAX`] of
//! them, and make no output dead.
//!
//! A delivery that is let go of may have a request on its way. Its repetition has the same ids, so
//! that costs a 409 and no duplicate, unless the index behind an alias has rolled over meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc::Receiver;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::delivery::{self, Output};
use super::health::Said;
use super::patience::{Patience, impatient};
use super::{Batch, Report, Told};
use crate::pipeline::batch::Outcome;
use crate::telemetry::metrics::count_forgotten_batch;

/// Delivers every batch until `batches` is closed. Cancel safe: dropping it ends its tasks.
pub(super) async fn run(
    output: Arc<Output>,
    mut batches: Receiver<Batch>,
    report: Report,
    seed: u64,
) {
    let mut probe = JoinSet::new();
    let prober = Arc::clone(&output);
    probe.spawn(async move { prober.probe(seed).await });
    let mut queue = Queue::new(Arc::clone(&output), report, seed);
    let mut open = true;
    while open || !queue.deliveries.is_empty() {
        let ends = queue.patience.ends();
        tokio::select! {
            // In one order, so that the same events always lead to the same.
            biased;
            // Every branch only takes from a queue or waits, so that those not taken lose nothing.
            batch = batches.recv(), if open && queue.has_room() => match batch {
                Some(batch) => queue.take(batch),
                None => open = false,
            },
            Some(ended) = queue.deliveries.join_next_with_id() => queue.ended(ended),
            () = output.stuck.notified() => queue.stuck(),
            () = impatient(&output.clock, ends) => queue.give_up(&mut batches),
        }
    }
}

/// Deliveries that are stuck and that nobody waits for.
const STUCK_MAX: usize = 8;

/// A batch that is being delivered.
#[derive(Debug)]
struct UnderWay {
    id: Id,
    worker: usize,
    sequence: u64,
    task: AbortHandle,
}

struct Queue {
    output: Arc<Output>,
    report: Report,
    deliveries: JoinSet<Outcome>,
    /// In the order in which they were taken.
    under_way: VecDeque<UnderWay>,
    patience: Patience,
    next_seed: u64,
}

impl Queue {
    fn new(output: Arc<Output>, report: Report, seed: u64) -> Self {
        Self {
            output,
            report,
            deliveries: JoinSet::new(),
            under_way: VecDeque::new(),
            patience: Patience::default(),
            next_seed: seed,
        }
    }

    fn has_room(&self) -> bool {
        let pace = self.output.pace();
        let limit = pace.concurrency.limit() + pace.stuck.len().min(STUCK_MAX);
        self.patience.is_dead() || self.deliveries.len() < limit
    }

    /// Whether the output can't be known to be dead: nothing is tried but what may be at fault itself.
    fn is_only_stuck(&self) -> bool {
        self.oldest_not_stuck().is_none()
    }

    fn oldest_not_stuck(&self) -> Option<usize> {
        let stuck = &self.output.pace().stuck;
        self.under_way.iter().position(|one| !stuck.contains(&(one.worker, one.sequence)))
    }

    /// A delivery is stuck: it answers at least, so there may be room, and the output isn't dead.
    fn stuck(&mut self) {
        if self.patience.is_dead() && self.is_only_stuck() {
            self.patience.acknowledged(self.output.clock.now(), true);
            (self.report)(Told::Back);
        }
    }

    fn take(&mut self, batch: Batch) {
        if self.patience.is_dead() {
            return self.forget(batch);
        }
        if self.is_only_stuck() {
            // Nobody has waited for anything else yet.
            self.patience.idle();
        }
        self.patience.given(self.output.clock.now());
        self.next_seed = self.next_seed.wrapping_add(1);
        let (worker, sequence, seed) = (batch.worker, batch.sequence, self.next_seed);
        let output = Arc::clone(&self.output);
        let delivery = async move { delivery::deliver(&output, batch, seed).await };
        let task = self.deliveries.spawn(delivery);
        self.under_way.push_back(UnderWay { id: task.id(), worker, sequence, task });
    }

    fn ended(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let known = self.under_way.iter().position(|one| one.id == id);
        let under_way = known.and_then(|at| self.under_way.remove(at));
        if self.under_way.is_empty() {
            self.patience.idle();
        }
        match ended {
            Ok((_, outcome)) => self.acknowledged(outcome),
            Err(error) => match (error.try_into_panic(), under_way) {
                (Ok(panic), _) => std::panic::resume_unwind(panic),
                (Err(_), Some(UnderWay { worker, sequence, .. })) => {
                    self.tell(worker, sequence);
                    // An answer that came as patience ended has brought the output back already.
                    if !self.patience.is_dead() {
                        (self.report)(Told::Back);
                    }
                }
                (Err(_), None) => {}
            },
        }
    }

    fn acknowledged(&mut self, outcome: Outcome) {
        let now = self.output.clock.now();
        self.output.health.acknowledged(now);
        let is_back = self.patience.acknowledged(now, !self.under_way.is_empty());
        (self.report)(Told::Safe(outcome));
        if is_back {
            (self.report)(Told::Back);
        }
    }

    /// The output is dead: keeps the oldest batch, of those that aren't stuck if there are, and lets go
    /// of all others. If all may be at fault themselves it is not known to be dead: then what is let go
    /// of is read again at once, together with what follows.
    fn give_up(&mut self, batches: &mut Receiver<Batch>) {
        let not_stuck = self.oldest_not_stuck();
        let kept = not_stuck.unwrap_or(0);
        if not_stuck.is_some() {
            self.patience.ended();
        } else {
            self.patience.acknowledged(self.output.clock.now(), true);
        }
        if self.patience.is_dead()
            && self.output.health.may_say(Said::Dead, self.output.clock.now())
        {
            tracing::error!(
                pipeline = self.output.pipeline,
                "the output has acknowledged nothing for long; one batch is tried on, the others are read again later"
            );
        }
        let others = self.under_way.iter().enumerate().filter(|(at, _)| *at != kept);
        others.for_each(|(_, under_way)| under_way.task.abort());
        while let Ok(batch) = batches.try_recv() {
            self.forget(batch);
            if !self.patience.is_dead() {
                (self.report)(Told::Back);
            }
        }
    }

    fn forget(&mut self, batch: Batch) {
        let (worker, sequence) = (batch.worker, batch.sequence);
        // Its bytes of the budget are free before anybody hears of it.
        drop(batch);
        self.tell(worker, sequence);
    }

    fn tell(&self, worker: usize, sequence: u64) {
        count_forgotten_batch(&self.output.pipeline);
        (self.report)(Told::Forgotten { worker, sequence });
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Mutex;

    use super::super::clock::{Clock, VirtualClock};
    use super::super::tests::elasticsearch;
    use super::super::{Given, Health, Timeouts, output};
    use super::*;

    impl Queue {
        /// A delivery that ends at once, or never.
        fn deliver(&mut self, sequence: u64, ends: bool) {
            let outcome = Outcome { sequence, ..Outcome::default() };
            let delivery = async move { if ends { outcome } else { pending().await } };
            let task = self.deliveries.spawn(delivery);
            self.under_way.push_back(UnderWay { id: task.id(), worker: 0, sequence, task });
        }
    }

    #[tokio::test]
    async fn an_answer_that_comes_as_patience_ends_leaves_nobody_waiting() {
        let state = tempfile::tempdir().expect("a directory");
        let clock = Clock::Virtual(Arc::new(VirtualClock::new()));
        let given = Given { clock, seed: 0, timeouts: Timeouts::default() };
        let hosts = elasticsearch(&["http://localhost:9"]);
        let output = output("p".into(), &hosts, state.path(), Arc::new(Health::new()), given);
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        let report: Report = Arc::new(move |told| heard.lock().expect("unlocked").push(told));
        let mut queue = Queue::new(Arc::new(output.expect("an output")), report, 0);
        queue.patience.given(queue.output.clock.now());
        queue.deliver(0, false);
        queue.deliver(1, true);
        queue.deliver(2, false);
        tokio::task::yield_now().await;
        // Batch 1 is answered, and nobody has looked at it yet.
        queue.give_up(&mut tokio::sync::mpsc::channel(1).1);
        for _ in 0..2 {
            let ended = queue.deliveries.join_next_with_id().await.expect("two end");
            queue.ended(ended);
        }
        assert!(!queue.patience.is_dead());
        let told = told.lock().expect("unlocked");
        assert!(told.contains(&Told::Forgotten { worker: 0, sequence: 2 }));
        assert_eq!(told.last(), Some(&Told::Back), "{told:?}");
    }
}
