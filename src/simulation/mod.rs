//! The whole agent in a simulated world: real files, worker, shippers and checkpoint; a scripted
//! Elasticsearch and API server; a clock that stands until something is waited for.
//!
//! Guarantees that a seed always tells the same story: one thread, no sockets, random numbers and
//! time from the seed. A story's plan is a list of steps from [`story`]; all faults end before
//! [`check`] looks at what came of it.
//!
//! ```text
//! SIMULATION_SEEDS=500 cargo test --lib simulation      many stories
//! SIMULATION_SEED=17 cargo test --lib simulation        one of them, as short as it still fails
//! SIMULATION_WITHOUT=Crash,Rotate …                     without some kinds of steps
//! ```

mod agent;
mod check;
mod elastic;
mod random;
mod story;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use check::Tale;
use story::Step;

/// How many stories are told unless `SIMULATION_SEEDS` says so.
const SEEDS: u64 = 50;

/// How often a plan that fails is told to find a shorter one, unless `SIMULATION_SHORTEN` says so.
const SHORTEN: u64 = 400;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

type Panic = Box<dyn std::any::Any + Send>;

fn told(seed: u64, plan: &[Step]) -> Result<Tale, Panic> {
    let without = std::env::var("SIMULATION_WITHOUT").unwrap_or_default();
    let mut plan = plan.to_vec();
    plan.retain(|step| without.split(',').all(|kind| kind.is_empty() || !step.is(kind)));
    let result = catch_unwind(AssertUnwindSafe(|| story::tell(seed, &plan)));
    crate::pipeline::clock::simulated::end();
    result
}

/// The plan of a seed, and those that are shorter.
fn plan(seed: u64) -> impl ValueTree<Value = Vec<Step>> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    story::plan().new_tree(&mut runner).expect("nothing is rejected")
}

/// Tells the story of a seed; one that fails is told in fewer and fewer steps.
fn tell(seed: u64) -> Tale {
    let mut tree = plan(seed);
    let mut panic = match told(seed, &tree.current()) {
        Ok(tale) => return tale,
        Err(panic) => panic,
    };
    let mut shortest = tree.current();
    let mut more = tree.simplify();
    for _ in 0..number("SIMULATION_SHORTEN").unwrap_or(SHORTEN) {
        if !more {
            break;
        }
        more = match told(seed, &tree.current()) {
            Ok(_) => tree.complicate(),
            Err(next) => {
                (shortest, panic) = (tree.current(), next);
                tree.simplify()
            }
        };
    }
    let why = panic.downcast_ref::<String>().map(String::as_str);
    let why = why.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
    panic!(
        "{why}\n{} steps are enough: {shortest:#?}\nSIMULATION_SEED={seed} cargo test --lib simulation",
        shortest.len()
    );
}

#[test]
fn whatever_happens_every_line_arrives_once() {
    if let Some(seed) = number("SIMULATION_SEED") {
        drop(tell(seed));
        return;
    }
    let mut sums = [0; 5];
    for seed in 0..number("SIMULATION_SEEDS").unwrap_or(SEEDS) {
        for (sum, more) in sums.iter_mut().zip(tell(seed).sums()) {
            *sum += more;
        }
    }
    let each = "documents, plain forms, letters, conflicts, forgotten batches";
    assert!(sums.iter().all(|sum| *sum > 0), "something is never told of: {each}: {sums:?}");
}

#[test]
fn a_seed_always_tells_the_same_story() {
    for seed in 0..5 {
        assert_eq!(tell(seed), tell(seed), "seed {seed}");
    }
}

#[test]
fn a_line_that_nobody_told_of_goes_on_with_a_record_that_waits() {
    use world::Kind;
    let plan = [
        Step::Line(0, Kind::Json),
        Step::Scan,
        Step::Pass(100),
        Step::Crash { unsaved: false, seconds: 0 },
        Step::Line(0, Kind::Text),
        Step::Hint(0),
        Step::Pass(500),
        Step::Line(0, Kind::Frame),
        Step::Pass(3000),
        // Without what the checkpoint says the record is found again by its bytes alone.
        Step::OldState(1),
    ];
    story::tell(1, &plan);
}

/// A node whose runtime's clock is behind: a record is cut as soon as it is looked at, and what
/// follows would have gone on with it.
fn cut_and_crash(disk: bool) {
    const BEHIND: u64 = 2;
    use world::Kind;
    let plan = [
        Step::Line(0, Kind::Json),
        Step::Scan,
        Step::Pass(100),
        Step::Weather(0, elastic::Weather::Tearing),
        Step::Disk(disk),
        Step::Line(0, Kind::Text),
        Step::Hint(0),
        Step::Pass(400),
        Step::Line(0, Kind::Frame),
        Step::Hint(0),
        Step::Pass(2500),
        Step::Crash { unsaved: false, seconds: 0 },
    ];
    story::tell(BEHIND, &plan);
}

#[test]
fn a_cut_is_known_after_a_crash() {
    cut_and_crash(true);
}

#[test]
fn a_cut_that_is_not_on_the_disk_is_not_made() {
    cut_and_crash(false);
}
