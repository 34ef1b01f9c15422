//! The byte budget: everything between reading and acknowledgement holds a permit.
//!
//! Each pipeline has `budget / (2 × pipelines)` for certain; the rest is first come, first
//! served. Asking never waits: a refusal makes the worker seal what it has or stop reading.
//! Permits are taken in steps of many kilobytes, never per line.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The process's byte budget, shared by all workers.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Mutex<Account>>,
}

/// Who holds how much. Pure: the lock is around it, not in it.
#[derive(Debug)]
struct Account {
    total_bytes: usize,
    certain_bytes: usize,
    held_bytes: Vec<usize>,
}

impl Account {
    /// Whether `pipeline` may hold `bytes` more while the others keep what they hold or are
    /// promised, whichever is more.
    fn allows(&self, pipeline: usize, bytes: usize) -> bool {
        let wanted = self.held_bytes[pipeline].saturating_add(bytes);
        if wanted <= self.certain_bytes {
            return true;
        }
        let others: usize = (self.held_bytes.iter().enumerate())
            .filter(|(other, _)| *other != pipeline)
            .map(|(_, held)| (*held).max(self.certain_bytes))
            .sum();
        wanted.saturating_add(others) <= self.total_bytes
    }
}

impl Budget {
    /// A budget of `total_bytes` for `pipelines` pipelines.
    pub fn new(total_bytes: usize, pipelines: usize) -> Self {
        let pipelines = pipelines.max(1);
        let account = Account {
            total_bytes,
            certain_bytes: total_bytes / (2 * pipelines),
            held_bytes: vec![0; pipelines],
        };
        Self { shared: Arc::new(Mutex::new(account)) }
    }

    /// An empty permit of `pipeline` (its index), to be grown.
    pub fn permit(&self, pipeline: usize) -> Permit {
        Permit { budget: self.clone(), pipeline, bytes: 0 }
    }

    /// Bytes held by all permits.
    pub fn held_bytes(&self) -> usize {
        self.lock().held_bytes.iter().sum()
    }

    /// The size of the whole budget.
    pub fn total_bytes(&self) -> usize {
        self.lock().total_bytes
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A share of the budget, given back on drop.
#[derive(Debug)]
pub struct Permit {
    budget: Budget,
    pipeline: usize,
    bytes: usize,
}

impl Permit {
    /// Bytes that this permit holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Grows to `bytes` if the budget allows it; `false` leaves it as it was.
    pub fn try_grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return true;
        }
        let mut account = self.budget.lock();
        if !account.allows(self.pipeline, more) {
            return false;
        }
        account.held_bytes[self.pipeline] += more;
        self.bytes = bytes;
        true
    }

    /// Grows to `bytes` even beyond the budget: for the one document that is larger than the
    /// share of its pipeline, which could otherwise never pass.
    pub fn grow_past_limit_to(&mut self, bytes: usize) {
        let more = bytes.saturating_sub(self.bytes);
        self.budget.lock().held_bytes[self.pipeline] += more;
        self.bytes += more;
    }

    /// Gives back what is beyond `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.budget.lock().held_bytes[self.pipeline] -= less;
        self.bytes -= less;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greedy_pipeline_leaves_the_others_their_share() {
        let budget = Budget::new(64, 2);
        let mut greedy = budget.permit(0);
        assert!(greedy.try_grow_to(48));
        assert!(!greedy.try_grow_to(49), "the other pipeline is promised 16");
        let mut live = budget.permit(1);
        assert!(live.try_grow_to(16));
        assert!(!live.try_grow_to(17));
        drop(greedy);
        assert!(live.try_grow_to(48));
        assert_eq!(budget.held_bytes(), 48);
    }

    #[test]
    fn what_is_dropped_or_shrunk_is_given_back() {
        let budget = Budget::new(10, 1);
        let mut permit = budget.permit(0);
        permit.grow_past_limit_to(25);
        assert_eq!(budget.held_bytes(), 25);
        permit.shrink_to(4);
        assert_eq!(budget.held_bytes(), 4);
        drop(permit);
        assert_eq!(budget.held_bytes(), 0);
    }
}
