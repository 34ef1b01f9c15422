//! What happens, step by step: seeded plans, and their telling.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::agent::{Agent, Ground};
use super::check;
use super::elastic::Weather;
use super::world::{Kind, World};
use crate::enrich::PodStore;
use crate::pipeline::clock::simulated;

/// When a story begins: 2026-11-23T21:00:00Z.
const BEGINS_NS: i64 = 1_795_467_600_000_000_000;

/// One thing that happens. Numbers choose among what is there.
#[derive(Debug, Clone)]
pub(super) enum Step {
    PodComes {
        taskmanager: bool,
        told: bool,
    },
    FactsCome(usize),
    Relabel(usize),
    PodGoes(usize),
    ApiDown,
    ApiUp,
    Line(usize, Kind),
    Burst(usize, u8),
    /// A stack trace that is written slowly, the pauses in milliseconds.
    Trace(usize, u8, u64),
    Piece(usize),
    Tear(usize),
    OtherLane(usize),
    SetClock(i64),
    Rotate(usize),
    Gzip(usize),
    CopyTruncate(usize, bool),
    Remove(usize),
    NewInodes(usize),
    NextRun(usize),
    Scan,
    /// A listing that is told only after a rotation.
    LateScan(usize),
    Hint(usize),
    /// So many steps of the worker.
    Work(u8),
    Pass(u64),
    Weather(usize, Weather),
    Disk(bool),
    Crash {
        unsaved: bool,
        seconds: u64,
    },
    Stop,
    /// A crash that takes the state directory back to what it was some ends ago.
    OldState(usize),
}

impl Step {
    /// Whether it is of the kind that has this name.
    pub(super) fn is(&self, name: &str) -> bool {
        let text = format!("{self:?}");
        text.split(|c: char| !c.is_alphanumeric()).next() == Some(name)
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        6 => Just(Kind::Json),
        2 => Just(Kind::Debug),
        1 => Just(Kind::Poison),
        1 => Just(Kind::Venom),
        1 => Just(Kind::Vanish),
        4 => Just(Kind::Text),
        4 => Just(Kind::Frame),
        1 => Just(Kind::Malformed),
    ]
}

fn milliseconds() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 1_u64..400,
        4 => 400_u64..6000,
        2 => 6000_u64..70_000,
        1 => 70_000_u64..2_000_000,
    ]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let pod = || 0_usize..4;
    let line = (pod(), kind()).prop_map(|(pod, kind)| Step::Line(pod, kind));
    prop_oneof![
        1 => any::<(bool, bool)>().prop_map(|(taskmanager, told)| Step::PodComes { taskmanager, told }),
        1 => pod().prop_map(Step::FactsCome),
        1 => pod().prop_map(Step::Relabel),
        1 => pod().prop_map(Step::PodGoes),
        1 => prop_oneof![Just(Step::ApiDown), Just(Step::ApiUp)],
        16 => line,
        4 => (pod(), 1_u8..6, 0_u64..900).prop_map(|(pod, frames, pause)| Step::Trace(pod, frames, pause)),
        6 => (pod(), 5_u8..60).prop_map(|(pod, lines)| Step::Burst(pod, lines)),
        2 => pod().prop_map(Step::Piece),
        1 => pod().prop_map(Step::Tear),
        2 => pod().prop_map(Step::OtherLane),
        1 => prop_oneof![Just(-10_i64), Just(10)].prop_map(Step::SetClock),
        3 => pod().prop_map(Step::Rotate),
        1 => pod().prop_map(Step::Gzip),
        1 => (pod(), any::<bool>()).prop_map(|(pod, seen)| Step::CopyTruncate(pod, seen)),
        1 => pod().prop_map(Step::Remove),
        1 => pod().prop_map(Step::NewInodes),
        1 => pod().prop_map(Step::NextRun),
        6 => Just(Step::Scan),
        1 => pod().prop_map(Step::LateScan),
        4 => pod().prop_map(Step::Hint),
        4 => (1_u8..12).prop_map(Step::Work),
        10 => milliseconds().prop_map(Step::Pass),
        5 => (0_usize..3, prop::sample::select(&Weather::ALL[..]))
            .prop_map(|(output, weather)| Step::Weather(output, weather)),
        1 => any::<bool>().prop_map(Step::Disk),
        4 => (any::<bool>(), 0_u64..90).prop_map(|(unsaved, seconds)| Step::Crash { unsaved, seconds }),
        1 => Just(Step::Stop),
        1 => (0_usize..4).prop_map(Step::OldState),
    ]
}

/// A plan.
pub(super) fn plan() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..120)
}

/// A plan that is being told.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) ground: Ground,
    pub(super) world: World,
    agent: Option<Agent>,
    states: Vec<BTreeMap<&'static str, Option<Vec<u8>>>>,
    /// Records may have been ended whose next line stood in a file that nobody had told of: only
    /// the checkpoint knows where.
    cut_blindly: bool,
    /// Nothing was ever read twice but what an output forgot.
    pub(super) undisturbed: bool,
}

impl Story {
    fn new(seed: u64) -> Self {
        let mut ground = Ground::new(seed);
        let mut world = World::new(ground.pods_dir(), [0, 0, -10, 0, 3, -1][(seed % 6) as usize]);
        let agent = Agent::start(&mut ground);
        world.tell_all(&agent.pods);
        world.pod_comes(false, true, &agent.pods);
        Self {
            ground,
            world,
            agent: Some(agent),
            states: Vec::new(),
            cut_blindly: false,
            undisturbed: true,
        }
    }

    pub(super) fn agent(&mut self) -> &mut Agent {
        self.agent.as_mut().expect("it runs between steps")
    }

    pub(super) fn scan(&mut self) {
        let found = self.world.scan();
        self.agent().tell(found);
    }

    pub(super) fn rest(&mut self) {
        let agent = self.agent.as_mut().expect("it runs between steps");
        agent.rest(&mut self.ground);
    }

    pub(super) async fn pass(&mut self, time: Duration) {
        let mut left = time;
        self.cut_blindly |= self.world.rotated && time > Duration::from_secs(1);
        while !left.is_zero() {
            let agent = self.agent.as_mut().expect("it runs between steps");
            left = agent.pass(&mut self.ground, left).await;
            if !left.is_zero() {
                self.scan();
            }
        }
    }

    fn work(&mut self, steps: u8) {
        let agent = self.agent.as_mut().expect("it runs between steps");
        for _ in 0..steps {
            agent.step(&mut self.ground);
        }
    }

    // The agent's ends.

    fn start(&mut self) {
        self.world.forget_scans();
        let agent = Agent::start(&mut self.ground);
        self.world.tell_all(&agent.pods);
        self.agent = Some(agent);
        self.scan();
    }

    /// Makes all safe that stands in removed files: the end of the process would lose it.
    async fn save_removed(&mut self) {
        if std::mem::take(&mut self.world.removed) {
            check::drain(self).await;
        }
    }

    /// Waits until the order of parts that times do not tell is on the disk.
    async fn save_order(&mut self) {
        if self.world.clock_set {
            self.ground.set_disk(true);
            self.scan();
            self.pass(Duration::from_secs(3)).await;
        }
    }

    async fn crash(&mut self, unsaved: bool, seconds: u64) {
        self.save_removed().await;
        self.save_order().await;
        let agent = self.agent.take().expect("it runs between steps");
        agent.crash(&self.ground, unsaved && !self.world.clock_set).await;
        self.ended(seconds).await;
    }

    async fn ended(&mut self, seconds: u64) {
        self.undisturbed = false;
        self.states.push(self.ground.state_files());
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    async fn stop(&mut self) {
        self.save_removed().await;
        self.save_order().await;
        let agent = self.agent.take().expect("it runs between steps");
        agent.stop(&mut self.ground).await;
        self.ended(1).await;
        self.start();
    }

    async fn old_state(&mut self, back: usize) {
        if self.world.is_skewed() || self.world.ever_removed || self.cut_blindly {
            return;
        }
        self.crash(false, 1).await;
        let at = self.states.len().saturating_sub(1 + back);
        self.ground.restore(&self.states[at]);
        self.start();
    }

    // What happens.

    async fn step(&mut self, step: &Step) {
        match *step {
            Step::Scan => self.scan(),
            Step::Work(steps) => self.work(steps),
            Step::Pass(milliseconds) => self.pass(Duration::from_millis(milliseconds)).await,
            Step::Weather(output, weather) => self.ground.outputs[output].set(weather),
            Step::Disk(works) => self.ground.set_disk(works),
            Step::Crash { unsaved, seconds } => {
                self.crash(unsaved, seconds).await;
                self.start();
            }
            Step::Trace(n, frames, pause) => self.trace(n, frames, pause).await,
            Step::Stop => self.stop().await,
            Step::OldState(back) => self.old_state(back).await,
            Step::SetClock(seconds) => {
                self.scan();
                self.rest();
                self.world.set_clock(seconds);
            }
            ref step => self.on_pods(step),
        }
    }

    async fn trace(&mut self, n: usize, frames: u8, pause: u64) {
        let Some(pod) = self.world.pod(n) else { return };
        for frame in 0..=frames {
            self.world.line(pod, if frame == 0 { Kind::Text } else { Kind::Frame });
            self.hint(pod);
            self.pass(Duration::from_millis(pause)).await;
        }
    }

    fn hint(&mut self, pod: usize) {
        let name = self.world.stream(pod);
        self.agent().worker().inbox().written(name);
    }

    fn on_pods(&mut self, step: &Step) {
        let agent = self.agent.as_ref().expect("it runs between steps");
        let pods = std::sync::Arc::clone(&agent.pods);
        let world = &mut self.world;
        match *step {
            Step::PodComes { taskmanager, told } => world.pod_comes(taskmanager, told, &pods),
            Step::ApiDown => world.api_down(&pods),
            Step::ApiUp => world.api_up(&pods),
            Step::FactsCome(n) => self.with(n, |world, pod| world.facts_come(pod, &pods)),
            Step::Relabel(n) => self.with(n, |world, pod| world.relabel(pod, &pods)),
            Step::NextRun(n) => self.next_run(n, &pods),
            Step::PodGoes(n) => self.pod_goes(n, &pods),
            _ => self.on_files(step),
        }
    }

    /// A status that tells of the next run comes after a scan that saw the last of this one.
    fn next_run(&mut self, n: usize, pods: &PodStore) {
        let Some(pod) = self.world.pod(n) else { return };
        self.world.end_pieces(pod);
        self.world.next_run(pod, pods);
    }

    fn with(&mut self, n: usize, act: impl FnOnce(&mut World, usize)) {
        if let Some(pod) = self.world.pod(n) {
            act(&mut self.world, pod);
        }
    }

    fn on_files(&mut self, step: &Step) {
        match *step {
            Step::Line(n, kind) => self.with(n, |world, pod| world.line(pod, kind)),
            Step::Burst(n, lines) => self.with(n, |world, pod| {
                (0..lines).for_each(|_| world.line(pod, Kind::Json));
            }),
            Step::Piece(n) => self.with(n, World::piece),
            Step::Tear(n) => self.with(n, World::tear),
            Step::OtherLane(n) => self.with(n, World::other_lane),
            Step::Rotate(n) => self.with(n, World::rotate),
            Step::Gzip(n) => self.with(n, World::gzip),
            Step::NewInodes(n) => self.with(n, World::new_inodes),
            Step::CopyTruncate(n, seen) => self.copy_truncate(n, seen),
            Step::Remove(n) => self.remove(n),
            Step::LateScan(n) => {
                self.scan();
                self.with(n, |world, pod| {
                    world.rotate(pod);
                    world.line(pod, Kind::Json);
                });
            }
            Step::Hint(n) => {
                if let Some(pod) = self.world.pod(n) {
                    self.hint(pod);
                }
            }
            _ => unreachable!("{step:?} is done elsewhere"),
        }
    }

    fn copy_truncate(&mut self, n: usize, seen: bool) {
        let Some(pod) = self.world.pod(n) else { return };
        // Of a file that was never seen before it was emptied, nothing tells the order but the time.
        self.scan();
        self.rest();
        if self.world.copy(pod) {
            if seen {
                self.scan();
                self.rest();
            }
            self.world.truncate(pod);
            // The copy may be found after what was written later has been read.
            self.undisturbed = false;
        }
    }

    /// What goes is held open: it was seen before, and somebody waits for it.
    fn remove(&mut self, n: usize) {
        let Some(pod) = self.world.pod(n).filter(|pod| self.world.is_known(*pod)) else { return };
        self.scan();
        self.rest();
        self.world.remove_oldest(pod);
    }

    fn pod_goes(&mut self, n: usize, pods: &PodStore) {
        let Some(pod) = self.world.pod(n).filter(|pod| self.world.is_known(*pod)) else { return };
        self.world.end_pieces(pod);
        self.scan();
        self.rest();
        self.world.pod_goes(pod, pods);
        self.scan();
    }

    /// Ends as with SIGTERM when all is done.
    async fn end(mut self) -> check::Tale {
        let agent = self.agent.take().expect("it runs between steps");
        let (safe, report) = agent.stop(&mut self.ground).await;
        check::report(&self, safe, &report);
        check::Tale::of(&self)
    }
}

/// Tells a whole plan and checks what came of it.
pub(super) fn tell(seed: u64, steps: &[Step]) -> check::Tale {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let tale = runtime.block_on(async {
        simulated::begin(BEGINS_NS);
        let mut story = Story::new(seed);
        for step in steps {
            story.step(step).await;
        }
        check::check(&mut story).await;
        story.end().await
    });
    simulated::end();
    tale
}
