//! What is on the disk after a power loss at any moment, after failures, and after damage.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::checkpoint::Cut;
use crate::checkpoint::platter::{Image, Op, Platter, entry, states_after};
use crate::parse::Lane;
use crate::tail::{PartId, Position};

const STREAMS: [&str; 3] = ["a", "b", "c"];

fn key(stream: usize) -> Key {
    Key { pipeline: "flink".to_owned(), stream: STREAMS[stream].to_owned() }
}

fn facts(uid: &str, version: u64) -> PodFacts {
    PodFacts {
        namespace: "ns".to_owned(),
        name: uid.to_owned(),
        uid: uid.to_owned(),
        config_hash: None,
        is_static: false,
        labels: BTreeMap::from([("version".to_owned(), version.to_string())]),
        node: None,
        pod_ip: None,
        containers: BTreeMap::new(),
        namespace_labels: None,
        flink: None,
    }
}

/// What a worker saves: in these tests each stream is in a pod of its own, of the same name.
#[derive(Debug, Clone)]
enum Save {
    Begin(usize, u64),
    Move(usize, u64),
    Finish(usize),
}

fn changes(saves: &[Save]) -> Changes {
    let mut changes = Changes::default();
    for save in saves {
        match *save {
            Save::Begin(stream, offset) => {
                let uid = STREAMS[stream];
                changes.add(Change::Pod(uid.to_owned(), Arc::new(facts(uid, offset))));
                changes.add(Change::Put(key(stream), Box::new(entry(offset))));
            }
            Save::Move(stream, offset) => {
                changes.add(Change::Put(key(stream), Box::new(entry(offset))));
            }
            Save::Finish(stream) => {
                changes.add(Change::ForgetPod(STREAMS[stream].to_owned()));
                changes.add(Change::Remove(key(stream)));
            }
        }
    }
    changes
}

#[derive(Debug, Clone, PartialEq)]
struct State {
    checkpoint: Checkpoint,
    pods: Pods,
}

impl State {
    fn of(store: &Store) -> Self {
        Self { checkpoint: store.checkpoint().clone(), pods: store.pods().clone() }
    }
}

/// A store on a disk that can lose its power, and everything that it was told to save.
struct Life {
    began_on: Image,
    platter: Platter,
    store: Store,
    states: Vec<State>,
    /// How many operations there were when the attempt to save a state began.
    attempts: Vec<usize>,
    /// How many operations there were when a state was reported as saved.
    reports: Vec<(usize, usize)>,
}

impl Life {
    fn begin(began_on: Image) -> Self {
        let platter = Platter::new(&began_on);
        let store = platter.open().expect("readable");
        let states = vec![State::of(&store)];
        Self { began_on, platter, store, states, attempts: vec![0], reports: vec![(0, 0)] }
    }

    fn save(&mut self, saves: &[Save]) {
        self.store.apply(changes(saves));
        self.attempts.push(self.platter.ops().len());
        self.states.push(State::of(&self.store));
        if self.store.write().is_ok() {
            self.reports.push((self.platter.ops().len(), self.states.len() - 1));
        }
    }

    /// The states that may be found once `operations` have been done.
    fn allowed(&self, operations: usize) -> RangeInclusive<usize> {
        let reported = self.reports.iter().rfind(|(at, _)| *at <= operations);
        let tried = self.attempts.iter().rposition(|at| *at <= operations);
        reported.expect("the first").1..=tried.expect("the first")
    }

    /// Looks at all that can be left of the first `operations`; returns it.
    fn lose_power(&self, operations: usize, grain: usize) -> Vec<Image> {
        let ops: Vec<Op> = self.platter.ops().into_iter().take(operations).collect();
        let images = states_after(&self.began_on, &ops, grain);
        let allowed = self.allowed(operations);
        for image in &images {
            let opened = Platter::new(image).open();
            let store = opened.unwrap_or_else(|error| panic!("{error} after {ops:?}"));
            self.check(&store, &allowed, &ops);
        }
        images
    }

    fn check(&self, found: &Store, allowed: &RangeInclusive<usize>, ops: &[Op]) {
        let is_there = |n: &usize| self.states[*n].checkpoint == *found.checkpoint();
        let candidates: Vec<usize> = allowed.clone().filter(is_there).collect();
        assert!(
            !candidates.is_empty(),
            "neither the last that was saved nor a newer one: {:?} after {ops:?}",
            found.checkpoint()
        );
        for (uid, facts) in found.pods() {
            let known = allowed.clone().any(|n| self.states[n].pods.get(uid) == Some(facts));
            assert!(known, "old facts of {uid} after {ops:?}");
        }
        let complete = |at: &usize| self.has_facts(*at..=*allowed.end(), found.pods());
        assert!(candidates.iter().any(complete), "positions without their facts after {ops:?}");
        assert!(*allowed.start() == 0 || !found.is_new(), "taken for the first start");
    }

    /// Whether `pods` has the facts of every reader in the first of `states`, or newer ones.
    fn has_facts(&self, states: RangeInclusive<usize>, pods: &Pods) -> bool {
        let first = &self.states[*states.start()];
        first.checkpoint.keys().all(|Key { stream, .. }| {
            !first.pods.contains_key(stream)
                || (pods.contains_key(stream))
                    && states.clone().any(|n| self.states[n].pods.get(stream) == pods.get(stream))
        })
    }

    fn check_all(&self, grain: usize) -> usize {
        let operations = self.platter.ops().len();
        (0..=operations).map(|operations| self.lose_power(operations, grain).len()).sum()
    }
}

#[test]
fn after_a_power_loss_at_any_moment_the_last_save_or_the_next_is_there() {
    let mut life = Life::begin(Image::new());
    assert!(life.store.is_new());
    life.save(&[]);
    life.save(&[Save::Begin(0, 1)]);
    life.save(&[Save::Begin(1, 1), Save::Move(0, 2)]);
    life.save(&[Save::Finish(0), Save::Begin(2, 5)]);
    life.save(&[Save::Begin(1, 3)]);
    life.save(&[Save::Finish(1)]);
    assert_eq!(life.reports.len(), life.states.len(), "nothing failed");
    let states = life.check_all(1);
    assert!(states > 5_000, "only {states} states were looked at");
}

#[test]
fn a_damaged_checkpoint_is_never_a_first_start_whenever_the_power_goes() {
    for damaged in [&b"{half"[..], b"", &[0; 300]] {
        let began_on = Image::from([(FILE.to_owned(), damaged.to_owned())]);
        let mut life = Life::begin(began_on.clone());
        life.save(&[]);
        life.save(&[Save::Begin(0, 1)]);
        life.check_all(1);
        for operations in 0..=life.platter.ops().len() {
            for image in life.lose_power(operations, 1) {
                assert!(!Platter::new(&image).open().expect("readable").is_new());
                let aside = image.contains_key("checkpoint.unreadable-0");
                assert!(aside || operations < life.reports[1].0, "what is damaged is kept");
            }
        }
    }
}

fn save() -> impl Strategy<Value = Save> {
    let stream = 0..STREAMS.len();
    prop_oneof![
        (stream.clone(), 0..9_u64).prop_map(|(stream, offset)| Save::Begin(stream, offset)),
        (stream.clone(), 0..9_u64).prop_map(|(stream, offset)| Save::Move(stream, offset)),
        stream.prop_map(Save::Finish),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    Save(Vec<Save>),
    /// One of the next operations fails.
    Fail(usize),
    PowerLoss(Index, Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(save(), 0..4).prop_map(Step::Save),
        2 => (0..12_usize).prop_map(Step::Fail),
        1 => any::<(Index, Index)>().prop_map(|(when, which)| Step::PowerLoss(when, which)),
    ]
}

proptest! {
    #[test]
    fn random_saves_failures_and_power_losses_lose_nothing(
        steps in prop::collection::vec(step(), 1..12)
    ) {
        let mut life = Life::begin(Image::new());
        for step in steps {
            match step {
                Step::Save(saves) => life.save(&saves),
                Step::Fail(operations) => life.platter.fail_in(operations),
                Step::PowerLoss(when, which) => {
                    life.check_all(499);
                    let operations = when.index(life.platter.ops().len() + 1);
                    let images = life.lose_power(operations, 31);
                    life = Life::begin(images[which.index(images.len())].clone());
                }
            }
        }
        life.check_all(499);
    }
}

#[test]
fn whatever_fails_the_old_state_stays_and_the_next_attempt_succeeds() {
    for operations in 0.. {
        let mut life = Life::begin(Image::new());
        life.save(&[Save::Begin(0, 1), Save::Begin(1, 1)]);
        life.platter.fail_in(operations);
        life.save(&[Save::Begin(2, 2), Save::Move(1, 2), Save::Finish(0)]);
        if !life.platter.has_failed() {
            assert_eq!(operations, 15, "three files of five operations each");
            break;
        }
        let left = life.platter.image();
        assert!(!left.keys().any(|name| name.ends_with(".new")), "{operations}: {left:?}");
        life.save(&[]);
        assert_eq!(life.reports.last().expect("some").1, life.states.len() - 1, "{operations}");
        life.check_all(61);
    }
}

#[test]
fn what_has_not_changed_is_not_written() {
    let mut life = Life::begin(Image::new());
    life.save(&[Save::Begin(0, 1)]);
    let operations = life.platter.ops().len();
    life.save(&[Save::Begin(0, 1), Save::Finish(1)]);
    assert_eq!(life.platter.ops().len(), operations);
}

#[test]
fn all_is_written_into_a_directory_that_took_the_place_of_the_old_one() {
    let mut life = Life::begin(Image::new());
    life.save(&[Save::Begin(0, 1)]);
    let before = life.platter.image();
    life.platter.replace_directory();
    life.platter.fail_in(2);
    life.save(&[]);
    assert!(life.platter.has_failed());
    life.save(&[]);
    assert_eq!(life.platter.image(), before);
}

#[test]
fn set_aside_files_are_kept_up_to_a_number_the_newest() {
    let mut image = Image::new();
    for number in 0..10 {
        image.insert(FILE.to_owned(), format!("{{damage {number}").into_bytes());
        image.insert(PODS.to_owned(), b"{".to_vec());
        let platter = Platter::new(&image);
        assert!(platter.open().expect("usable").checkpoint().is_empty());
        image = platter.image();
    }
    assert_eq!(image.len(), 2 * ASIDE_MAX);
    assert_eq!(image["checkpoint.unreadable-9"], b"{damage 9");
    assert_eq!(image["checkpoint.unreadable-6"], b"{damage 6");
}

#[test]
fn the_file_of_a_newer_version_is_left_alone() {
    let newer = br#"{"splashdam_checkpoint":9,"whatever":true}"#.to_vec();
    for name in [FILE, PODS] {
        let image = Image::from([(name.to_owned(), newer.clone())]);
        let platter = Platter::new(&image);
        assert!(matches!(platter.open(), Err(StoreError::Newer { .. })));
        assert_eq!(platter.image(), image);
    }
}

/// Files of format 1, to the letter. Whatever is added to the format, they must be read like this.
const CHECKPOINT_1: &str = r#"{"splashdam_checkpoint":1,"sha256":"47546ee0315ac94757a34ad8bd1913cb01958d90991568dbbc49060e177d5aa5"}
[{"pipeline":"flink","stream":"flink_orders-taskmanager-1-1_0b9f6f4e-2b0a-4a0e-9a51-7a2d3c1f8e60/flink-main-container/0"},{"reached":[{"part":{"first_time_ns":1795467968725123456,"hash":18446744073709551615},"offset":4096},{"part":{"first_time_ns":-9223372036854775808,"hash":0},"offset":0}],"cuts":[{"lane":"stderr","at":{"part":{"first_time_ns":1795467968725123456,"hash":18446744073709551615},"offset":5000}}],"parts":[[{"first_time_ns":1795467968725123456,"hash":18446744073709551615},8192]]}]
[{"pipeline":"team/all","stream":"flink_orders-taskmanager-1-1_0b9f6f4e-2b0a-4a0e-9a51-7a2d3c1f8e60/flink-main-container/0"},{"reached":[{"part":{"first_time_ns":0,"hash":7},"offset":1},{"part":{"first_time_ns":0,"hash":7},"offset":2}],"parts":[]}]
"#;
const PODS_1: &str = r#"{"splashdam_checkpoint":1,"sha256":"86c168c2a68d6432b50ede2d270294ddb721c8487391bb4add9fe3e4040dcdc4"}
["0b9f6f4e-2b0a-4a0e-9a51-7a2d3c1f8e60",{"namespace":"flink","name":"orders-taskmanager-1-1","uid":"0b9f6f4e-2b0a-4a0e-9a51-7a2d3c1f8e60","is_static":false,"labels":{"component":"taskmanager","type":"flink-native-kubernetes"},"node":"node-1","pod_ip":"10.0.0.7","containers":{"flink-main-container":{"image":"flink:2.0","image_id":"docker.io/library/flink@sha256:00ff","ids":{"0":"5cf2","1":"77aa"},"restart":1,"ended":false}},"namespace_labels":{"team":"payments"}}]
["5f1c",{"namespace":"kube-system","name":"proxy","uid":"a-mirror","config_hash":"5f1c","is_static":true,"labels":{},"containers":{}}]
"#;

#[test]
fn files_of_format_1_are_read() {
    let files = [(FILE, CHECKPOINT_1), (PODS, PODS_1)];
    let image = files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    let store = Platter::new(&image.into()).open().expect("readable");
    assert!(!store.is_new());

    let uid = "0b9f6f4e-2b0a-4a0e-9a51-7a2d3c1f8e60";
    let stream = format!("flink_orders-taskmanager-1-1_{uid}/flink-main-container/0");
    let key = |pipeline: &str| Key { pipeline: pipeline.to_owned(), stream: stream.clone() };
    let part = PartId::born(1_795_467_968_725_123_456, u64::MAX);
    let at = |offset| Position { part, offset };
    let flink = &store.checkpoint()[&key("flink")];
    assert_eq!(flink.reached, [at(4096), Position::START]);
    assert_eq!(flink.cuts, [Cut { lane: Lane::Stderr, at: at(5000) }]);
    assert_eq!(flink.parts, [(part, 8192)]);
    let part = PartId::born(0, 7);
    let all = &store.checkpoint()[&key("team/all")];
    assert_eq!(all.reached, [1, 2].map(|offset| Position { part, offset }));
    assert!(all.cuts.is_empty() && all.parts.is_empty());
    assert_eq!(store.checkpoint().len(), 2);

    let pod = &store.pods()[uid];
    assert_eq!((pod.namespace.as_str(), pod.name.as_str()), ("flink", "orders-taskmanager-1-1"));
    assert_eq!((pod.uid.as_str(), pod.node.as_deref()), (uid, Some("node-1")));
    assert_eq!(pod.pod_ip.as_deref(), Some("10.0.0.7"));
    assert_eq!(pod.labels["type"], "flink-native-kubernetes");
    assert_eq!(pod.namespace_labels.as_ref().expect("known")["team"], "payments");
    let container = &pod.containers["flink-main-container"];
    assert_eq!(container.image.as_deref(), Some("flink:2.0"));
    assert_eq!(container.ids[&1], "77aa");
    assert_eq!((container.restart, container.ended), (Some(1), false));
    let fixed = &store.pods()["5f1c"];
    assert!(fixed.is_static && fixed.containers.is_empty() && fixed.namespace_labels.is_none());
    assert_eq!(fixed.config_hash.as_deref(), Some("5f1c"));
}
