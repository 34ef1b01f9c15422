//! The whole shipper against a scripted peer on loopback; waits between requests are virtual.

mod connections;
mod verdicts;

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{Barrier, mpsc};

use super::bulk::Body;
use super::clock::VirtualClock;
use super::peer::{CONFLICT, FAILS, Peer, Scripted, status};
use super::*;
use crate::config::pipeline::{Auth, Compression, IndexName, Refused, Secret, Tls, Verify};
use crate::discover::StreamName;
use crate::pipeline::batch::{Framing, Item, Outcome};
use crate::pipeline::budget::Budget;

pub(super) const OK: &str = r#"{"status":201}"#;
pub(super) const BUSY: &str =
    r#"{"status":429,"error":{"type":"es_rejected_execution_exception","reason":"x"}}"#;
pub(super) const BAD: &str = r#"{"status":400,"error":{"type":"document_parsing_exception","reason":"[1:2] failed to parse: secret"}}"#;
pub(super) const CLOSED: &str =
    r#"{"status":400,"error":{"type":"index_closed_exception","reason":"closed"}}"#;

/// The id of a document with this number, whose line the runtime took at 33 ns.
fn id(number: usize) -> String {
    format!("AAAAAAAAAAABB{number:A>27}")
}

/// A document with its action line, as a body has them.
fn item(number: usize, document: &str) -> String {
    format!("{{\"create\":{{\"_id\":\"{}\"}}}}\n{document}\n", id(number))
}

/// What is needed around a shipper, and what it did.
struct Bench {
    state: TempDir,
    clock: Arc<VirtualClock>,
    health: Arc<Health>,
    budget: Budget,
    timeouts: Timeouts,
}

impl Bench {
    fn new() -> Self {
        Self {
            state: tempfile::tempdir().expect("a directory"),
            clock: Arc::new(VirtualClock::new()),
            health: Arc::new(Health::new()),
            budget: Budget::new(1 << 20, 1),
            timeouts: Timeouts::default(),
        }
    }

    fn given(&self) -> Given {
        Given { clock: Clock::Virtual(Arc::clone(&self.clock)), seed: 0, timeouts: self.timeouts }
    }

    /// A batch of these documents with ids that end in their number; every document is of two
    /// lines.
    fn batch(&self, documents: &[&str]) -> Batch {
        let mut body = String::new();
        for (number, document) in documents.iter().enumerate() {
            body += &item(number, document);
        }
        self.batch_of(body, documents.len())
    }

    fn batch_of(&self, body: String, documents: usize) -> Batch {
        let stream = StreamName {
            namespace: "flink".into(),
            pod: "basic-example-taskmanager-1-1".into(),
            uid: "6d6c".into(),
            container: "flink-main-container".into(),
            restart: 0,
        };
        let mut permit = self.budget.permit(0);
        permit.grow_past_limit_to(body.len());
        Batch {
            worker: 3,
            sequence: 7,
            framing: Framing::Bulk,
            plain_bytes: body.len(),
            body: body.into(),
            gzip: false,
            items: vec![Item { stream: 0, lines: 2 }; documents],
            streams: vec![Arc::new(stream)],
            oldest_ns: 1,
            permit,
        }
    }

    /// Ships `batches` to their end; the outcomes in the order in which they were reported.
    async fn ship(&self, output: &Elasticsearch, batches: Vec<Batch>) -> Vec<Outcome> {
        let health = Arc::clone(&self.health);
        let output = super::output("flink".into(), output, self.state.path(), health, self.given())
            .expect("an output");
        let (queue, report, outcomes) = channel(batches);
        within(queue::run(Arc::new(output), queue, report, 0)).await;
        assert_eq!(self.budget.held_bytes(), 0);
        Arc::into_inner(outcomes).expect("all is done").into_inner().expect("unlocked")
    }

    /// Ships `batches`, and `later` once a dead output is back; all that was told.
    async fn told(
        &self,
        output: &Elasticsearch,
        batches: Vec<Batch>,
        later: Vec<Batch>,
    ) -> Vec<Told> {
        let health = Arc::clone(&self.health);
        let output = super::output("flink".into(), output, self.state.path(), health, self.given())
            .expect("an output");
        let (sender, queue) = mpsc::channel(batches.len() + later.len());
        for batch in batches {
            sender.try_send(batch).expect("there is room");
        }
        let waiting = Mutex::new(Some((sender, later)));
        let all = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&all);
        let report: Report = Arc::new(move |told| {
            heard.lock().expect("unlocked").push(told);
            if told == Told::Back
                && let Some((sender, later)) = waiting.lock().expect("unlocked").take()
            {
                later.into_iter().for_each(|batch| sender.try_send(batch).expect("there is room"));
            }
        });
        within(queue::run(Arc::new(output), queue, report, 0)).await;
        assert_eq!(self.budget.held_bytes(), 0);
        Arc::into_inner(all).expect("all is done").into_inner().expect("unlocked")
    }

    /// Ships one batch of `documents`.
    async fn ship_one(&self, output: &Elasticsearch, documents: &[&str]) -> Outcome {
        let outcomes = self.ship(output, vec![self.batch(documents)]).await;
        assert_eq!(outcomes.len(), 1);
        assert_eq!((outcomes[0].worker, outcomes[0].sequence), (3, 7));
        outcomes[0]
    }

    fn count(&self, result: BulkResult) -> u64 {
        self.health.requests().find(|(other, _)| *other == result).map_or(0, |(_, count)| count)
    }

    fn dead_letters(&self) -> Vec<serde_json::Value> {
        let path = self.state.path().join("dead-letter/flink.ndjson");
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

type Outcomes = Arc<Mutex<Vec<Outcome>>>;

fn channel(batches: Vec<Batch>) -> (mpsc::Receiver<Batch>, Report, Outcomes) {
    let (sender, receiver) = mpsc::channel(batches.len().max(1));
    for batch in batches {
        sender.try_send(batch).expect("there is room");
    }
    let outcomes = Outcomes::default();
    let heard = Arc::clone(&outcomes);
    let report: Report = Arc::new(move |told| {
        if let Told::Safe(outcome) = told {
            heard.lock().expect("unlocked").push(outcome);
        }
    });
    (receiver, report, outcomes)
}

/// A shipper that never ends is a failure and not a hanging test.
pub(super) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("it ends")
}

pub(super) fn elasticsearch(hosts: &[&str]) -> Elasticsearch {
    Elasticsearch {
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        auth: Auth::None,
        tls: Tls { verify: Verify::Full, ca: None, client: None },
        index: IndexName::Fixed("fluentd".into()),
        compression: Compression::None,
        refused: Refused::Reindex,
        refused_after: Duration::from_secs(24 * 3600),
    }
}

/// Indexed, duplicates, refused.
fn documents(outcome: &Outcome) -> (u64, u64, u64) {
    let &Outcome { documents_indexed, duplicates_answered, documents_refused, .. } = outcome;
    let lines = (outcome.lines_indexed, outcome.lines_refused);
    assert_eq!(lines, (2 * (documents_indexed + duplicates_answered), 2 * documents_refused));
    (documents_indexed, duplicates_answered, documents_refused)
}

/// An address where nobody listens.
pub(super) async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

#[tokio::test]
async fn a_batch_is_sent_as_it_is_on_a_connection_that_stays() {
    let peer = Peer::start([]).await;
    let bench = Bench::new();
    let batches = (0..4).map(|_| bench.batch(&["1", "2"])).collect();
    let outcomes = bench.ship(&elasticsearch(&[&peer.url]), batches).await;
    assert_eq!(documents(&outcomes[0]), (2, 0, 0));
    assert_eq!(documents(&outcomes[3]), (0, 2, 0));
    let seen = peer.seen();
    assert_eq!(
        seen[0].path,
        "/fluentd/_bulk?filter_path=errors,items.*.status,items.*.failure_store,items.*.error.type,items.*.error.reason"
    );
    assert_eq!(seen[0].body, String::from_utf8_lossy(&bench.batch(&["1", "2"]).body));
    let header = |name: &str| seen[0].headers.get(name).map(|value| value.to_str().expect("text"));
    assert_eq!(header("content-type"), Some("application/x-ndjson"));
    assert_eq!(header("user-agent"), Some(concat!("splashdam/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(header("content-encoding"), None);
    assert_eq!(header("authorization"), None);
    // One for the probe at most, two for the requests.
    assert!(seen.iter().all(|seen| seen.connection < 3), "{seen:?}");
    assert!(bench.clock.waits().is_empty());
    assert!(bench.health.has_answered() && bench.health.last_acknowledged().is_some());
    assert_eq!(bench.count(BulkResult::Ok), 4);
}

#[tokio::test]
async fn a_compressed_batch_is_taken_apart_and_compressed_again() {
    let peer = Peer::start([Scripted::Items(vec![OK, BUSY, OK])]).await;
    let bench = Bench::new();
    let mut batch = bench.batch(&["1", "2", "3"]);
    batch.body = Body::new(batch.body.to_vec(), true).bytes;
    batch.gzip = true;
    let outcomes = bench.ship(&elasticsearch(&[&peer.url]), vec![batch]).await;
    assert_eq!(documents(&outcomes[0]), (3, 0, 0));
    let seen = peer.seen();
    assert!(seen.iter().all(|seen| seen.headers["content-encoding"] == "gzip"));
    assert_eq!(seen[1].body, item(1, "2"));
}

#[tokio::test]
async fn two_requests_are_in_flight_after_a_success() {
    let barrier = Arc::new(Barrier::new(2));
    let meet = || Scripted::Meet(Arc::clone(&barrier));
    let peer = Peer::start([Scripted::Commit, meet(), meet()]).await;
    let bench = Bench::new();
    let batches = (0..3).map(|_| bench.batch(&["1"])).collect();
    let outcomes = bench.ship(&elasticsearch(&[&peer.url]), batches).await;
    assert_eq!(outcomes.len(), 3);
}

#[tokio::test]
async fn a_429_is_repeated_after_the_time_that_was_asked_for() {
    let wait = Some(("retry-after", "120".to_owned()));
    let busy = Scripted::Answer { status: 429, header: wait, body: String::new() };
    let peer = Peer::start([busy, status(503), Scripted::Commit]).await;
    let bench = Bench::new();
    let outcome = bench.ship_one(&elasticsearch(&[&peer.url]), &["1", "2"]).await;
    assert_eq!(documents(&outcome), (2, 0, 0));
    let seen = peer.seen();
    assert_eq!((&seen[0].body, &seen[0].body), (&seen[1].body, &seen[2].body));
    let waits = bench.clock.waits();
    assert_eq!(waits[0], Duration::from_secs(120));
    assert!(waits[1] < Duration::from_secs(3), "{waits:?}");
    assert_eq!(bench.count(BulkResult::TooManyRequests), 1);
    assert_eq!(bench.health.state(), State::Healthy);
}

#[tokio::test]
async fn only_the_items_that_need_it_are_sent_again() {
    let mixed = vec![OK, BUSY, CONFLICT, r#"{"status":503}"#];
    let peer = Peer::start([Scripted::Items(mixed), Scripted::Items(vec![OK, BUSY])]).await;
    let bench = Bench::new();
    let outcome = bench.ship_one(&elasticsearch(&[&peer.url]), &["1", "2", "3", "4"]).await;
    assert_eq!(documents(&outcome), (3, 1, 0));
    let seen = peer.seen();
    let again = item(1, "2") + &item(3, "4");
    assert_eq!(seen[1].body, again);
    assert_eq!(seen[2].body, item(3, "4"));
    assert_eq!(bench.count(BulkResult::Partial), 2);
}

#[tokio::test]
async fn an_answer_that_got_lost_is_asked_for_with_the_same_bytes() {
    for torn in [Scripted::CommitAndTear, Scripted::CommitAndTearAnswer] {
        let peer = Peer::start([torn]).await;
        let bench = Bench::new();
        let outcome = bench.ship_one(&elasticsearch(&[&peer.url]), &["1", "2"]).await;
        assert_eq!(documents(&outcome), (0, 2, 0));
        let seen = peer.seen();
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].body, seen[1].body);
        assert_eq!(bench.count(BulkResult::NoAnswer), 1);
    }
}

#[tokio::test]
async fn a_request_that_is_never_answered_times_out() {
    let peer = Peer::start([Scripted::Hang]).await;
    let mut bench = Bench::new();
    bench.timeouts.request = Duration::from_millis(300);
    let outcome = bench.ship_one(&elasticsearch(&[&peer.url]), &["1"]).await;
    assert_eq!(documents(&outcome), (1, 0, 0));
    assert_eq!(bench.count(BulkResult::Timeout), 1);
}

#[tokio::test]
async fn an_answer_with_another_number_of_items_is_not_understood() {
    let peer = Peer::start([Scripted::Items(vec![OK, OK]), Scripted::Items(vec![OK])]).await;
    let bench = Bench::new();
    let outcome = bench.ship_one(&elasticsearch(&[&peer.url]), &["1", "2", "3"]).await;
    assert_eq!(documents(&outcome), (1, 2, 0));
    assert_eq!(bench.count(BulkResult::NotUnderstood), 2);
}

#[tokio::test]
async fn a_request_that_is_too_large_is_halved() {
    let peer = Peer::start([Scripted::Limit(150)]).await;
    let bench = Bench::new();
    let all = ["1", "2", "3", "4", "5", "6", "7"];
    let outcome = bench.ship_one(&elasticsearch(&[&peer.url]), &all).await;
    assert_eq!(documents(&outcome), (7, 0, 0));
    assert_eq!(peer.kept().into_values().collect::<Vec<_>>(), all);
    assert!(bench.clock.waits().is_empty());
}

#[tokio::test]
async fn a_document_that_is_too_large_alone_is_refused() {
    let peer = Peer::start([Scripted::Limit(300)]).await;
    let bench = Bench::new();
    let large = format!("\"{}\"", "x".repeat(300));
    let outcome = bench.ship_one(&elasticsearch(&[&peer.url]), &["1", &large, "3"]).await;
    assert_eq!(documents(&outcome), (2, 0, 1));
    let letters = bench.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["document"], large);
    assert_eq!(letters[0]["reason"], "too_large");
}

#[tokio::test]
async fn one_poisonous_document_is_found_by_halving() {
    let peer = Peer::start([Scripted::Poison]).await;
    let bench = Bench::new();
    let all = ["1", "2", "3", "\"poison\"", "5"];
    let outcome = bench.ship_one(&elasticsearch(&[&peer.url]), &all).await;
    assert_eq!(documents(&outcome), (4, 0, 1));
    assert_eq!(bench.dead_letters()[0]["document"], "\"poison\"");
    assert_eq!(peer.kept().len(), 4);
}

#[tokio::test]
async fn a_refused_document_is_indexed_in_the_plain_form() {
    let peer = Peer::start([Scripted::Items(vec![OK, BAD])]).await;
    let bench = Bench::new();
    let outcome = bench.ship_one(&elasticsearch(&[&peer.url]), &["1", r#"{"a":"ü"}"#]).await;
    assert_eq!(documents(&outcome), (1, 0, 1));
    let plain = r#"{"@timestamp":"1970-01-01T00:00:00.000000033Z","splashdam":{"reason":"document_parsing_exception","original":"{\"a\":\"ü\"}","namespace":"flink","pod":"basic-example-taskmanager-1-1","container":"flink-main-container"}}"#;
    assert_eq!(peer.kept()[&id(1)], plain);
    assert!(bench.dead_letters().is_empty());
    assert!(bench.clock.waits().is_empty());
}

#[tokio::test]
async fn what_is_refused_in_every_form_becomes_a_dead_letter() {
    let peer = Peer::start([Scripted::Items(vec![BAD, OK]), Scripted::Items(vec![BAD])]).await;
    let bench = Bench::new();
    let outcome = bench.ship_one(&elasticsearch(&[&peer.url]), &[r#"{"a":1}"#, "2"]).await;
    assert_eq!(documents(&outcome), (1, 0, 1));
    let letters = bench.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["document"], r#"{"a":1}"#);
    assert_eq!(letters[0]["id"], id(0));
    assert_eq!(letters[0]["index"], "fluentd");
    assert_eq!(letters[0]["reason"], "document_parsing_exception");
}

#[tokio::test]
async fn a_large_document_is_never_cut() {
    let peer = Peer::start([Scripted::Items(vec![BAD])]).await;
    let bench = Bench::new();
    let large = format!("\"{}\"", "é".repeat(600 * 1024));
    let outcome = bench.ship_one(&elasticsearch(&[&peer.url]), &[&large]).await;
    assert_eq!(documents(&outcome), (0, 0, 1));
    assert_eq!(bench.dead_letters()[0]["document"], large);
    assert_eq!(peer.seen().len(), 1);
}

#[tokio::test]
async fn what_is_safe_no_longer_counts_against_the_budget() {
    let peer = Peer::start([Scripted::Items(vec![BUSY, OK])]).await;
    let bench = Bench::new();
    let large = "1".repeat(1000);
    let output = elasticsearch(&[&peer.url]);
    let documents_sent = ["1", large.as_str()];
    let ship = bench.ship_one(&output, &documents_sent);
    let look = async {
        while bench.clock.waits().is_empty() {
            tokio::task::yield_now().await;
        }
        bench.budget.held_bytes()
    };
    let (outcome, held) = within(async { tokio::join!(ship, look) }).await;
    assert_eq!(documents(&outcome), (2, 0, 0));
    assert_eq!(held, item(0, "1").len());
}

#[tokio::test]
async fn the_user_decides_what_becomes_of_refused_documents() {
    for (refused, letters) in [(Refused::DeadLetter, 1), (Refused::Drop, 0)] {
        let peer = Peer::start([Scripted::Items(vec![BAD, OK])]).await;
        let bench = Bench::new();
        let output = Elasticsearch { refused, ..elasticsearch(&[&peer.url]) };
        let outcome = bench.ship_one(&output, &["1", "2"]).await;
        assert_eq!(documents(&outcome), (1, 0, 1));
        assert_eq!(peer.seen().len(), 1);
        assert_eq!(bench.dead_letters().len(), letters);
    }
}

#[tokio::test]
async fn what_the_failure_store_took_is_refused_and_safe() {
    let stored = r#"{"status":201,"failure_store":"used"}"#;
    let peer = Peer::start([Scripted::Items(vec![stored, OK])]).await;
    let bench = Bench::new();
    let outcome = bench.ship_one(&elasticsearch(&[&peer.url]), &["1", "2"]).await;
    assert_eq!(documents(&outcome), (1, 0, 1));
}

#[tokio::test]
async fn a_dead_letter_that_cannot_be_written_is_waited_for() {
    let peer = Peer::start([Scripted::Items(vec![BAD])]).await;
    let bench = Bench::new();
    // A directory stands where the file should be, until the first wait is over.
    let path = bench.state.path().join("dead-letter/flink.ndjson");
    fs::create_dir_all(&path).expect("a directory");
    let output = Elasticsearch { refused: Refused::DeadLetter, ..elasticsearch(&[&peer.url]) };
    let ship = bench.ship_one(&output, &["1"]);
    let mend = async {
        while bench.clock.waits().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.health.state(), State::Retrying(Cause::WriteFailed));
        fs::remove_dir(&path).expect("remove");
    };
    let (outcome, ()) = within(async { tokio::join!(ship, mend) }).await;
    assert_eq!(documents(&outcome), (0, 0, 1));
    assert_eq!(bench.dead_letters().len(), 1);
}

#[tokio::test]
async fn a_full_dead_letter_file_pauses_until_there_is_room() {
    let peer = Peer::start([Scripted::Items(vec![BAD, OK])]).await;
    let bench = Bench::new();
    let path = bench.state.path().join("dead-letter/flink.ndjson");
    fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
    let file = fs::File::create(&path).expect("a file");
    // Sparse, but for the end of its line.
    file.write_all_at(b"\n", dead_letter::MAX_BYTES - 1).expect("write");
    let output = Elasticsearch { refused: Refused::DeadLetter, ..elasticsearch(&[&peer.url]) };
    let ship = bench.ship_one(&output, &["1", "2"]);
    let empty = async {
        while bench.clock.waits().len() < 5 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.health.state(), State::Paused(Cause::DeadLetterFull));
        file.set_len(0).expect("truncate");
    };
    let (outcome, ()) = within(async { tokio::join!(ship, empty) }).await;
    assert_eq!(documents(&outcome), (1, 0, 1));
    assert_eq!(bench.dead_letters().len(), 1);
    assert_eq!(peer.seen().len(), 1);
}

#[tokio::test]
async fn a_local_file_takes_the_lines_and_reports_them() {
    let bench = Bench::new();
    let path = bench.state.path().join("out.ndjson");
    let output = config::pipeline::Output {
        document: config::pipeline::DocumentForm::Fluentd,
        batch: config::pipeline::BatchLimits { size_bytes: 1, linger: Duration::ZERO },
        target: Target::File(path.clone()),
    };
    let pipeline = config::Pipeline {
        name: "flink".into(),
        id_scope: String::new(),
        select: Vec::new(),
        parse: config::pipeline::Parse::default(),
        filters: Vec::new(),
        output,
    };
    let mut batch = bench.batch_of("{\"message\":1}\n{\"message\":2}\n".into(), 2);
    batch.framing = Framing::Lines;
    let (queue, report, outcomes) = channel(vec![batch]);
    let health = Arc::clone(&bench.health);
    let task = Shipper::start(&pipeline, bench.state.path(), queue, report, health);
    within(task.expect("started")).await.expect("ended");
    assert_eq!(documents(&outcomes.lock().expect("unlocked")[0]), (2, 0, 0));
    assert_eq!(fs::read_to_string(&path).expect("read"), "{\"message\":1}\n{\"message\":2}\n");
    assert!(bench.health.has_answered() && bench.health.last_acknowledged().is_some());
    assert_eq!(bench.budget.held_bytes(), 0);
}

#[tokio::test]
async fn a_closed_index_is_waited_for_and_refused_after_a_while() {
    let hour = Duration::from_secs(3600);
    let peer = Peer::start(vec![Scripted::Items(vec![CLOSED]); 300]).await;
    let bench = Bench::new();
    let output = Elasticsearch { refused_after: hour, ..elasticsearch(&[&peer.url]) };
    let batches = vec![bench.batch(&["1"]), bench.batch(&["2"])];
    let told = bench.told(&output, batches, vec![bench.batch(&["2"])]).await;
    // The first is the probe of a dead output; the second is sent again when it is back.
    assert!(matches!(told[0], Told::Forgotten { .. }), "{told:?}");
    let Told::Safe(first) = told[1] else { panic!("{told:?}") };
    assert_eq!(documents(&first), (0, 0, 1));
    assert_eq!(told[2], Told::Back);
    let Told::Safe(second) = told[3] else { panic!("{told:?}") };
    assert_eq!(documents(&second), (0, 0, 1), "the second does not wait another hour");
    let waited: Duration = bench.clock.waits().iter().sum();
    assert!(waited >= hour && waited < hour + Duration::from_secs(60), "{waited:?}");
    assert_eq!(bench.dead_letters()[0]["reason"], "index_closed");
}

/// The budget is free again but for one probe, and everything is asked for again when it is back.
#[tokio::test]
async fn a_dead_output_keeps_a_probe_and_forgets_the_rest() {
    let dead = || vec![status(503); 14];
    check_dead(dead(), &[], &[11, 12, 13], &[10, 14]).await;
    // Two are in flight after a success.
    let first = || Scripted::Commit;
    let after_a_success = std::iter::once(first()).chain(dead()).collect();
    check_dead(after_a_success, &[10], &[12, 13], &[11, 14]).await;
}

#[tokio::test]
async fn batches_of_which_only_failures_are_left_take_nobodys_turn() {
    let peer = Peer::start([Scripted::Fails]).await;
    let bench = Bench::new();
    let mut batches: Vec<Batch> =
        (0..3).map(|sequence| Batch { sequence, ..bench.batch(&["\"poison\""]) }).collect();
    batches.push(Batch { sequence: 10, ..bench.batch(&["1"]) });
    let told = bench.told(&elasticsearch(&[&peer.url]), batches, Vec::new()).await;
    let Told::Safe(first) = told[0] else {
        panic!("nobody waited for the output to be dead: {told:?}")
    };
    assert_eq!(first.sequence, 10);
}

/// One bad line at a time when nothing else is written must not be the end of the pipeline.
#[tokio::test]
async fn documents_that_fail_alone_hold_up_nobody() {
    for others in [0, 2] {
        let peer = Peer::start([Scripted::Fails]).await;
        let bench = Bench::new();
        let health = Arc::clone(&bench.health);
        let output = elasticsearch(&[&peer.url]);
        let output =
            super::output("flink".into(), &output, bench.state.path(), health, bench.given());
        let (sender, queue) = mpsc::channel(10);
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        let report: Report = Arc::new(move |told| heard.lock().expect("unlocked").push(told));
        for sequence in 0..=others as u64 {
            let batch = Batch { sequence, ..bench.batch(&["\"poison\""]) };
            sender.try_send(batch).expect("there is room");
        }
        let later = async {
            // Long enough for the output to count as dead, and not for anything to be refused.
            while bench.clock.waits().iter().sum::<Duration>() < Duration::from_secs(300) {
                tokio::task::yield_now().await;
            }
            let batch = Batch { sequence: 10, ..bench.batch(&["1"]) };
            sender.send(batch).await.expect("it is taken");
            drop(sender);
        };
        let run = queue::run(Arc::new(output.expect("an output")), queue, report, 0);
        within(async { tokio::join!(run, later) }).await;
        let told = told.lock().expect("unlocked");
        let safe = |told: &Told| match told {
            Told::Safe(outcome) => Some((outcome.sequence, documents(outcome))),
            Told::Forgotten { .. } | Told::Back => None,
        };
        let safe: Vec<_> = told.iter().filter_map(safe).collect();
        assert_eq!(safe[0], (10, (1, 0, 0)), "{told:?}");
        assert_eq!(safe[1].1, (0, 0, 1), "then it is known whose fault it is: {told:?}");
        let forgotten = |told: &&Told| matches!(told, Told::Forgotten { .. });
        let forgotten = told.iter().filter(forgotten).count();
        let back = told.iter().filter(|told| **told == Told::Back).count();
        assert_eq!((forgotten, back), (others, others), "{told:?}");
        assert_eq!(peer.kept().len(), 1);
    }
}

/// Batches 10 to 13 are sent, and 14 once the output is back.
async fn check_dead(script: Vec<Scripted>, before: &[u64], forgotten: &[u64], after: &[u64]) {
    let peer = Peer::start(script).await;
    let bench = Bench::new();
    let batch = |sequence| Batch { sequence, ..bench.batch(&["1", "2"]) };
    let batches = (10..14).map(batch).collect();
    let told = bench.told(&elasticsearch(&[&peer.url]), batches, vec![batch(14)]).await;
    let safe = |told: &[Told]| -> Vec<u64> {
        let sequence = |told: &Told| match told {
            Told::Safe(outcome) => Some(outcome.sequence),
            Told::Forgotten { .. } | Told::Back => None,
        };
        told.iter().filter_map(sequence).collect()
    };
    let dropped = |told: &Told| match told {
        Told::Forgotten { worker: 3, sequence } => Some(*sequence),
        _ => None,
    };
    let first = told.iter().position(|told| dropped(told).is_some()).expect("it is dead");
    assert_eq!(safe(&told[..first]), before);
    assert_eq!(safe(&told[first..]), after);
    let mut all: Vec<u64> = told.iter().filter_map(dropped).collect();
    all.sort_unstable();
    assert_eq!(all, forgotten);
    let back = told.iter().position(|told| *told == Told::Back).expect("it is back");
    assert_eq!(safe(&told[..back]).last(), Some(&after[0]), "the probe brings it back");
}

#[tokio::test]
async fn an_index_that_is_opened_again_takes_what_waited() {
    let peer = Peer::start([Scripted::Items(vec![CLOSED, CLOSED])]).await;
    let bench = Bench::new();
    let outcome = bench.ship_one(&elasticsearch(&[&peer.url]), &["1", "2"]).await;
    assert_eq!(documents(&outcome), (2, 0, 0));
    assert_eq!(bench.clock.waits().len(), 1);
}

#[tokio::test]
async fn an_index_named_by_date_stands_in_the_action() {
    let peer = Peer::start([Scripted::Items(vec![BAD])]).await;
    let bench = Bench::new();
    let index = IndexName::ByDate("fluentd-%Y.%m.%d".into());
    let output = Elasticsearch {
        index,
        refused: Refused::DeadLetter,
        ..elasticsearch(&[&format!("{}/base/", peer.url)])
    };
    let action = "{\"create\":{\"_index\":\"fluentd-1970.01.01\",\"_id\":\"AAAAAAAAAAABB\"}}\n1\n";
    let outcomes = bench.ship(&output, vec![bench.batch_of(action.into(), 1)]).await;
    assert_eq!(documents(&outcomes[0]), (0, 0, 1));
    assert!(peer.seen()[0].path.starts_with("/base/_bulk?"), "{}", peer.seen()[0].path);
    assert_eq!(bench.dead_letters()[0]["index"], "fluentd-1970.01.01");
}

#[tokio::test]
async fn a_shipper_that_is_dropped_has_reported_nothing_that_is_not_safe() {
    let peer = Peer::start([Scripted::Commit, Scripted::Hang]).await;
    let bench = Bench::new();
    let health = Arc::clone(&bench.health);
    let hosts = elasticsearch(&[&peer.url]);
    let output = super::output("flink".into(), &hosts, bench.state.path(), health, bench.given())
        .expect("an output");
    let batches = vec![bench.batch(&["1"]), bench.batch(&["2"]), bench.batch(&["3"])];
    let (queue, report, outcomes) = channel(batches);
    let task = tokio::spawn(queue::run(Arc::new(output), queue, report, 0));
    within(async {
        while peer.seen().len() < 3 || outcomes.lock().expect("unlocked").len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    task.abort();
    within(task).await.expect_err("it was aborted");
    assert_eq!(outcomes.lock().expect("unlocked").len(), 2);
    assert_eq!(bench.budget.held_bytes(), 0);
}
