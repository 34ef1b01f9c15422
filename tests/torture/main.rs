//! Torture: the built program, real files, an output that does everything wrong, and kill -9.
//!
//! Three parts: whether the judge sees what is wrong; the torture run; two rotation days. Each
//! prints its figures, and any line that is lost, doubled or not the application's fails it.
//!
//!     cargo test --test torture                           the short run
//!     cargo test --test torture -- --seconds 600          the long one
//!     cargo test --test torture -- --only day --rotations 1000
//!
//! `PROGRAM_UNDER_TEST` names the program; by default it is the one that cargo built beside this.
#![expect(clippy::print_stderr, reason = "progress is for people")]

mod agent;
mod check;
mod container;
mod day;
mod dead;
mod dice;
mod ground;
mod judge;
mod killer;
mod letters;
mod log;
mod marks;
mod options;
mod peer;
mod report;
mod run;
mod source;
mod writers;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use day::State;
use options::{Options, Part};
use source::Source;

fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed();
    say(&format!("--seed {seed}"));
    match all(&options, seed) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether all is well in every part that is wanted.
fn all(options: &Options, seed: u64) -> anyhow::Result<bool> {
    let source = Arc::new(Source::load()?);
    let mut good = true;
    if options.wants(Part::Judge) {
        good &= check::run(seed, &source)?;
    }
    if options.wants(Part::Torture) {
        good &= run::run(options, seed, &source)?;
    }
    if options.wants(Part::Day) {
        good &= day::run(options, seed, &source, State::Kept)?;
        good &= day::run(options, seed, &source, State::Restored)?;
    }
    Ok(good)
}

fn say(text: &str) {
    eprintln!("{text}");
}
