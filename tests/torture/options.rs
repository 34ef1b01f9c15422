//! What can be asked for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Parser, ValueEnum};

/// Kills the program, tears its connections and rotates its logs, and counts lines.
#[derive(Debug, Parser)]
#[command(name = "torture")]
pub(crate) struct Options {
    /// How long the torture run writes.
    #[arg(long, default_value_t = 30)]
    pub(crate) seconds: u64,
    /// Containers of the torture run.
    #[arg(long, default_value_t = 50)]
    pub(crate) streams: u32,
    /// Where chance comes from; printed. Without it, the clock's.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// KiB of log files per second, all containers together.
    #[arg(long, default_value_t = 2048)]
    pub(crate) rate: u64,
    /// Lines that may be written and not indexed; beyond it the containers print nothing.
    #[arg(long, default_value_t = 60_000)]
    pub(crate) ahead: u64,
    /// Milliseconds between two kills, on average.
    #[arg(long, default_value_t = 1000)]
    pub(crate) kill_every: u64,
    /// Reading threads of the agent.
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: u32,
    /// Rotations of each of the two rotation days.
    #[arg(long, default_value_t = 200)]
    pub(crate) rotations: u32,
    /// How long the agent may take, after all trouble has ended, until everything has arrived.
    #[arg(long, default_value_t = 180)]
    pub(crate) patience: u64,
    /// Only one part.
    #[arg(long, value_enum)]
    pub(crate) only: Option<Part>,
    /// Leave the logs and the agent's files where they are; they stay after a failure anyway.
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Whether the judge sees what is wrong.
    Judge,
    Torture,
    Day,
}

impl Options {
    pub(crate) fn wants(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }

    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }

    /// The seed that was asked for, or one of the clock's.
    pub(crate) fn seed(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.seed.unwrap_or_else(|| u64::from(now.subsec_nanos()))
    }
}
