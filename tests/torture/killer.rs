//! Kills the agent about once a second and starts it again at once on the same state.
//!
//! Mostly SIGKILL; sometimes SIGTERM, waited for or with SIGKILL in the middle of the drain. Each
//! incarnation has other batches and another compression.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::agent::Agent;
use crate::dice::Dice;
use crate::ground::Ground;

/// Longer than `shutdown.drain`.
const DRAINED: Duration = Duration::from_secs(20);

/// What has been done to the agent, and what it took.
#[derive(Debug, Default)]
pub(crate) struct Kills {
    pub(crate) killed: u64,
    pub(crate) terminated: u64,
    pub(crate) killed_in_drain: u64,
    pub(crate) peak_bytes: u64,
    pub(crate) open_files: u64,
}

impl Kills {
    fn note(&mut self, agent: &Agent) {
        self.peak_bytes = self.peak_bytes.max(agent.peak_bytes);
        self.open_files = self.open_files.max(agent.open_files);
    }

    /// Goes on until `end`; nothing runs then. `every` is the time between two kills;
    /// `tell` is called with each.
    pub(crate) fn run(
        &mut self,
        ground: &Ground,
        every: Duration,
        end: Instant,
        dice: &mut Dice,
        mut tell: impl FnMut(),
    ) -> anyhow::Result<()> {
        while Instant::now() < end {
            tell();
            ground.configure(dice)?;
            let mut agent = Agent::start(ground)?;
            let life = every.mul_f64(0.1 + 1.8 * dice.below(1000) as f64 / 1000.0);
            let left = end.saturating_duration_since(Instant::now());
            if let Some(status) = agent.wait(life.min(left))? {
                bail!("the agent ended by itself: {status}");
            }
            self.end(&mut agent, dice)?;
            self.note(&agent);
        }
        Ok(())
    }

    fn end(&mut self, agent: &mut Agent, dice: &mut Dice) -> anyhow::Result<()> {
        if !dice.percent(15) {
            self.killed += 1;
            return Ok(agent.kill()?);
        }
        agent.terminate()?;
        let hasty = dice.one_in(2);
        let patience = if hasty { dice.millis(0, 1500) } else { DRAINED };
        match agent.wait(patience)? {
            Some(_) => self.terminated += 1,
            None if hasty => {
                self.killed_in_drain += 1;
                agent.kill()?;
            }
            None => bail!("the agent is still there {patience:?} after SIGTERM"),
        }
        Ok(())
    }

    /// Lets one incarnation live until `done` says so; whether it did in time. The agent is ended
    /// by SIGTERM.
    pub(crate) fn leave_alone(
        &mut self,
        ground: &Ground,
        dice: &mut Dice,
        done: impl FnOnce() -> bool,
    ) -> anyhow::Result<bool> {
        ground.configure(dice)?;
        let mut agent = Agent::start(ground)?;
        let arrived = done();
        if let Some(status) = agent.wait(Duration::ZERO)? {
            bail!("the agent ended by itself: {status}");
        }
        agent.terminate()?;
        if agent.wait(DRAINED)?.is_none() {
            bail!("the agent is still there {DRAINED:?} after SIGTERM");
        }
        self.note(&agent);
        Ok(arrived)
    }
}
