//! What must hold once all faults have ended and everything was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use serde_json::Value;

use super::agent::{ALL, KEEPING, LABELLED};
use super::elastic::{Document, Weather};
use super::story::Story;
use super::world::{Kind, Line, World};
use crate::pipeline::worker::Report;

/// Mends what can be mended outside of the outputs.
fn mend(story: &mut Story) {
    story.ground.set_disk(true);
    let pods = std::sync::Arc::clone(&story.agent().pods);
    for pod in
        (0..story.world.pods.len()).filter(|pod| !story.world.pods[*pod].gone).collect::<Vec<_>>()
    {
        story.world.end_pieces(pod);
        story.world.facts_come(pod, &pods);
    }
    story.world.api_up(&pods);
}

/// Ends all faults and waits until everything is safe.
pub(super) async fn drain(story: &mut Story) {
    mend(story);
    story.ground.outputs.iter().for_each(|output| output.set(Weather::Fine));
    // Retry-After, a host that is silent for the last time, pods that are waited for.
    for _ in 0..400 {
        story.scan();
        story.pass(Duration::from_secs(5)).await;
        let agent = story.agent();
        let saved = agent.is_saved();
        let worker = agent.worker();
        if saved
            && worker.is_settled()
            && worker.readers().iter().all(|seen| seen.behind_bytes == 0)
        {
            // What comes late, and the last checkpoint.
            story.scan();
            return story.pass(Duration::from_secs(3)).await;
        }
    }
    let left: Vec<_> =
        story.agent().worker().readers().into_iter().filter(|seen| seen.behind_bytes > 0).collect();
    panic!("there is always more to do: {left:?}");
}

/// A live output has everything while another one is dead.
async fn check_live(story: &mut Story) {
    mend(story);
    for (index, output) in story.ground.outputs.iter().enumerate() {
        output.set(if index == KEEPING { Weather::NoConnection } else { Weather::Fine });
    }
    for _ in 0..120 {
        story.scan();
        story.pass(Duration::from_secs(10)).await;
        if missing(story, ALL).is_empty() {
            return;
        }
    }
    panic!("starved: {:?}", missing(story, ALL));
}

fn missing(story: &Story, pipeline: usize) -> Vec<String> {
    let seen = Seen::new(story, pipeline);
    let lines = &story.world.lines;
    let due = lines.iter().filter(|(_, line)| fate(&story.world, line, pipeline) == Fate::Must);
    due.filter(|(text, _)| !seen.has(text)).map(|(text, _)| text.clone()).collect()
}

/// Checks everything.
pub(super) async fn check(story: &mut Story) {
    check_live(story).await;
    drain(story).await;
    for pipeline in [ALL, LABELLED, KEEPING] {
        check_lines(story, pipeline);
        check_order(story, pipeline);
    }
    check_accounts(story);
}

/// What is right to become of a line in a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// In the index, or in a dead letter where it was refused in every form.
    Must,
    May,
    Never,
}

fn fate(world: &World, line: &Line, pipeline: usize) -> Fate {
    let taken = match (pipeline, world.pods[line.pod].has_been) {
        (LABELLED, [true, true]) => Fate::May,
        (LABELLED, [false, true]) => Fate::Never,
        _ => Fate::Must,
    };
    match line.kind {
        Kind::Debug if pipeline == ALL => Fate::Never,
        _ => taken,
    }
}

/// What became of the lines in one pipeline.
struct Seen {
    documents: BTreeMap<String, Document>,
    letters: BTreeMap<String, Document>,
    /// Gone as it was wanted: dropped by an ingest pipeline, or refused where that means dropped.
    dropped: BTreeMap<String, Document>,
    lines: BTreeMap<String, BTreeSet<String>>,
}

impl Seen {
    fn new(story: &Story, pipeline: usize) -> Self {
        let output = &story.ground.outputs[pipeline];
        let mut documents = output.documents();
        let letters = letters(story, pipeline);
        let mut dropped = output.vanished();
        if pipeline == LABELLED {
            dropped.extend(output.refused());
            for document in documents.values_mut().chain(dropped.values_mut()) {
                complete(&story.world, document);
            }
        }
        let mut lines: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (id, document) in documents.iter().chain(&letters).chain(&dropped) {
            for line in &document.lines {
                lines.entry(line.clone()).or_default().insert(id.clone());
            }
        }
        Self { documents, letters, dropped, lines }
    }

    fn has(&self, text: &str) -> bool {
        self.lines.contains_key(text)
    }
}

/// What a story came to: the same for the same seed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tale {
    documents: Vec<(String, Document)>,
    letters: Vec<String>,
    counts: Vec<u64>,
}

impl Tale {
    pub(super) fn of(story: &Story) -> Self {
        let mut tale = Self::default();
        for pipeline in [ALL, LABELLED, KEEPING] {
            let output = &story.ground.outputs[pipeline];
            tale.documents.extend(output.documents());
            tale.letters.extend(letters(story, pipeline).into_keys());
            tale.counts.extend(output.counts());
        }
        let ground = &story.ground;
        let forgotten = [ALL, LABELLED, KEEPING].map(|pipeline| ground.forgotten(pipeline));
        tale.counts.extend([forgotten.iter().sum(), ground.held_bytes as u64]);
        tale
    }

    /// Documents, plain forms, letters, conflicts, and batches that were forgotten.
    pub(super) fn sums(&self) -> [u64; 5] {
        let plain = self.documents.iter().filter(|(_, document)| document.plain_form);
        let conflicts = self.counts[1] + self.counts[3] + self.counts[5];
        let counts = [self.documents.len(), plain.count(), self.letters.len()];
        let [documents, plain, letters] = counts.map(|count| count as u64);
        [documents, plain, letters, conflicts, self.counts[6]]
    }
}

/// The beginning of a line may have gone before its pod's labels had somebody take it.
fn complete(world: &World, document: &mut Document) {
    for text in document.lines.iter_mut().filter(|text| !world.lines.contains_key(*text)) {
        let ends = |(whole, line): &(&String, &Line)| {
            whole.ends_with(text.as_str()) && fate(world, line, LABELLED) == Fate::May
        };
        let whole = world.lines.iter().find(ends).filter(|_| world.ever_removed);
        if let Some(whole) = whole.map(|(whole, _)| whole.clone()) {
            *text = whole;
        }
    }
}

fn letters(story: &Story, pipeline: usize) -> BTreeMap<String, Document> {
    let name = &story.ground.pipelines[pipeline].name;
    let path = story.ground.state().join("dead-letter").join(format!("{name}.ndjson"));
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut letters = BTreeMap::new();
    for line in text.lines() {
        let letter: Value = serde_json::from_str(line).expect("a letter is JSON");
        let field = |name: &str| letter[name].as_str().expect("a text").to_owned();
        let document = Document::read(&field("document"));
        if let Some(before) = letters.insert(field("id"), document.clone()) {
            assert_eq!(before, document, "one id, two letters");
        }
    }
    letters
}

fn check_lines(story: &Story, pipeline: usize) {
    let name = &story.ground.pipelines[pipeline].name;
    let seen = Seen::new(story, pipeline);
    let lost = missing(story, pipeline);
    assert!(lost.is_empty(), "{name}: lost: {lost:?}");
    let twice: Vec<_> = seen.lines.iter().filter(|(_, ids)| ids.len() > 1).collect();
    assert!(twice.is_empty(), "{name}: twice: {twice:?}");
    for (text, ids) in &seen.lines {
        let line = story.world.lines.get(text);
        let line = line.unwrap_or_else(|| panic!("{name}: never written: {text:?} in {ids:?}"));
        let fate = fate(&story.world, line, pipeline);
        assert_ne!(fate, Fate::Never, "{name}: {text:?} is not its to take");
    }
    let all = seen.documents.iter().chain(&seen.letters).chain(&seen.dropped);
    for (id, document) in all {
        for text in &document.lines {
            let line = &story.world.lines[text];
            let lane = ["stdout", "stderr"][line.lane];
            assert_eq!((&document.pod, document.lane.as_str()), (&line.stream.uid, lane), "{id}");
        }
    }
    check_refused(story, pipeline, &seen);
}

/// What is refused is where it should be.
fn check_refused(story: &Story, pipeline: usize, seen: &Seen) {
    for (text, line) in &story.world.lines {
        let Some(ids) = seen.lines.get(text) else { continue };
        let id = ids.first().expect("not empty");
        let plain = seen.documents.get(id).is_some_and(|document| document.plain_form);
        let letter = seen.letters.contains_key(id);
        let right = match (line.kind, pipeline) {
            (Kind::Poison, ALL) => plain || letter,
            (Kind::Venom, ALL) | (Kind::Poison | Kind::Venom, KEEPING) => letter,
            (Kind::Poison | Kind::Venom, _) => !plain && !letter,
            _ => true,
        };
        assert!(right, "{text:?} is refused: plain form {plain}, letter {letter}");
    }
}

/// What an id says of the time, and where in its part the record begins.
fn time_and_start(id: &str) -> (&[u8], Vec<Option<usize>>) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digit = |character: &u8| DIGITS.iter().position(|digit| digit == character);
    let id = id.as_bytes();
    (&id[..13], id[24..32].iter().map(digit).collect())
}

/// In each lane of a stream ids are in the order of writing.
fn check_order(story: &Story, pipeline: usize) {
    if story.world.clock_set {
        return;
    }
    let seen = Seen::new(story, pipeline);
    let mut last = BTreeMap::new();
    let mut documents: Vec<_> = seen.documents.iter().collect();
    documents.sort_by_key(|(id, _)| time_and_start(id));
    for (id, document) in documents {
        let line = &story.world.lines[&document.lines[0]];
        let odd = document.lines.iter().any(|text| story.world.lines[text].kind == Kind::Malformed);
        if odd {
            continue;
        }
        let orders: Vec<u32> =
            document.lines.iter().map(|text| story.world.lines[text].order).collect();
        assert!(orders.is_sorted(), "{id}: {:?}", document.lines);
        let before = last.insert((line.stream.clone(), line.lane), orders[0]);
        assert!(before < Some(orders[0]), "{id} is out of order: {:?}", document.lines);
    }
}

fn check_accounts(story: &mut Story) {
    let (pods, bytes) = (story.world.pods.len(), story.world.bytes);
    let (undisturbed, may_lose) = (story.undisturbed, story.world.may_lose());
    let worker = story.agent().worker();
    assert!(worker.bytes_lost() == 0 || may_lose, "{} bytes were lost", worker.bytes_lost());
    for seen in worker.readers() {
        let accounts = seen.accounts;
        let lost = if seen.pipeline == LABELLED && may_lose { accounts.lost } else { 0 };
        assert_eq!(
            (accounts.in_flight, accounts.lost, seen.behind_bytes),
            (0, lost, 0),
            "{seen:?}"
        );
        assert_eq!(accounts.read, accounts.acknowledged + accounts.lost, "{seen:?}");
    }
    let totals = worker.totals();
    if !undisturbed || pods == 0 {
        return;
    }
    for pipeline in [ALL, KEEPING] {
        let totals = totals[pipeline];
        // What is read again is counted again where it was safe already.
        if story.ground.forgotten(pipeline) > 0 {
            continue;
        }
        let filtered = |line: &&Line| line.kind == Kind::Debug && pipeline == ALL;
        let lines = story.world.lines.len() as u64;
        let dropped = story.world.lines.values().filter(filtered).count() as u64;
        assert_eq!(totals.lines_filtered, dropped);
        assert_eq!(totals.lines_indexed + totals.lines_refused, lines - dropped, "{totals:?}");
        assert_eq!(totals.bytes_read, bytes);
    }
}

/// Checks what the agent says at its end.
pub(super) fn report(story: &Story, safe: bool, report: &Report) {
    assert!(safe, "{report:?}");
    assert_eq!(report.bytes_unfinished, 0);
    assert!(story.world.may_lose() || report.safe && report.bytes_lost == 0, "{report:?}");
    if story.undisturbed {
        let streams: BTreeSet<_> = story.world.lines.values().map(|line| &line.stream).collect();
        assert_eq!(report.streams, streams.len() as u64);
    }
}
