//! Replays against a scripted peer on loopback; waits between requests are virtual.

use std::fs;
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::ship::clock::VirtualClock;
use crate::ship::dead_letter::{DeadLetters, Letter};
use crate::ship::peer::{Peer, Scripted, status};
use crate::ship::tests::{BAD, BUSY, CLOSED, OK, elasticsearch, nobody, within};

/// A pipeline's dead letters, and what a replay of them said.
struct Bench {
    state: TempDir,
    clock: Arc<VirtualClock>,
    deadline: Duration,
    batch_bytes: usize,
    letters: DeadLetters,
    files: Files,
}

impl Bench {
    fn new() -> Self {
        let state = tempfile::tempdir().expect("a directory");
        Self {
            letters: DeadLetters::new(state.path(), "flink"),
            files: Files::of(state.path(), "flink"),
            state,
            clock: Arc::new(VirtualClock::new()),
            deadline: Duration::from_secs(300),
            batch_bytes: 1 << 20,
        }
    }

    /// A bench with letters of these documents, with ids that end in their number.
    fn with(documents: &[&str]) -> Self {
        let bench = Self::new();
        bench.write(documents);
        bench
    }

    fn write(&self, documents: &[&str]) {
        let letters: Vec<Letter> = (documents.iter().enumerate())
            .map(|(number, document)| letter(number, document))
            .collect();
        self.letters.write(&letters).expect("write");
    }

    /// Replays; what it came to and what it said.
    async fn replay(&self, output: &Elasticsearch) -> (Tally, Vec<String>) {
        let clock = Clock::Virtual(Arc::clone(&self.clock));
        let deadline = clock.now() + self.deadline;
        let orders = Orders { output, batch_bytes: self.batch_bytes, deadline };
        let given = Given { clock, seed: 0, timeouts: Timeouts::default() };
        let mut said = Vec::new();
        let mut tell = |text: &str| said.push(text.to_owned());
        let tally = within(replay_given(orders, &self.files, given, &mut tell)).await;
        (tally.expect("nothing is in the way"), said)
    }

    /// Replays against `peer` and says the tally as the command does.
    async fn tally(&self, peer: &Peer) -> String {
        self.replay(&elasticsearch(&[&peer.url])).await.0.to_string()
    }

    /// The documents that are left, older files first.
    fn left(&self) -> Vec<String> {
        let mut documents = Vec::new();
        for path in self.files.older().expect("names").into_iter().chain([self.files.live()]) {
            let Some(mut lines) = Lines::open(&path, false).expect("readable") else {
                continue;
            };
            while let Some(line) = lines.next().expect("readable") {
                let text = String::from_utf8_lossy(&line.raw).trim_end().to_owned();
                documents.push(line.content.map_or(text, |written| written.letter.document));
            }
        }
        documents
    }
}

fn letter(number: usize, document: &str) -> Letter {
    Letter {
        index: "fluentd".into(),
        id: format!("id-{number}"),
        reason: "document_parsing_exception".into(),
        document: document.into(),
    }
}

#[tokio::test]
async fn what_is_indexed_leaves_the_file_under_the_id_that_it_had() {
    let peer = Peer::start([]).await;
    let bench = Bench::with(&["1", r#"{"a":"é"}"#]);
    let tally = bench.tally(&peer).await;
    assert_eq!(tally, "2 indexed, 0 already there, 0 refused again, 0 not sent");
    let seen = peer.seen();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].path.starts_with("/fluentd/_bulk?filter_path="), "{}", seen[0].path);
    let body =
        "{\"create\":{\"_id\":\"id-0\"}}\n1\n{\"create\":{\"_id\":\"id-1\"}}\n{\"a\":\"é\"}\n";
    assert_eq!(seen[0].body, body);
    assert!(bench.left().is_empty());
    assert!(bench.files.older().expect("names").is_empty());

    assert_eq!(bench.tally(&peer).await, "no dead letters");
    assert_eq!(peer.seen().len(), 1, "a second replay asks nobody");
    bench.write(&["1"]);
    let tally = bench.tally(&peer).await;
    assert_eq!(tally, "0 indexed, 1 already there, 0 refused again, 0 not sent");
    assert!(bench.left().is_empty(), "409 is safe");
}

#[tokio::test]
async fn an_index_that_the_address_does_not_say_stands_in_the_action() {
    let peer = Peer::start([]).await;
    let bench = Bench::with(&["1"]);
    let by_date = IndexName::ByDate("fluentd-%Y".into());
    let by_date = Elasticsearch { index: by_date, ..elasticsearch(&[&peer.url]) };
    bench.replay(&by_date).await;
    bench.write(&["1"]);
    let moved = IndexName::Fixed("elsewhere".into());
    let moved = Elasticsearch { index: moved, ..elasticsearch(&[&peer.url]) };
    bench.replay(&moved).await;
    for seen in peer.seen() {
        assert!(seen.body.starts_with("{\"create\":{\"_index\":\"fluentd\",\"_id\":\"id-0\"}}\n"));
    }
}

#[tokio::test]
async fn what_is_refused_again_stays_in_its_order() {
    let items = vec![OK, BAD, r#"{"status":201,"failure_store":"used"}"#, BAD];
    let peer = Peer::start([Scripted::Items(items)]).await;
    let bench = Bench::with(&["1", "2", "3", "4"]);
    let tally = bench.tally(&peer).await;
    assert_eq!(
        tally,
        "1 indexed, 0 already there, 1 in the failure store, \
         2 refused again (document_parsing_exception 2), 0 not sent"
    );
    assert_eq!(bench.left(), ["2", "4"]);
    assert_eq!(peer.seen().len(), 1, "no other form is tried");
}

#[tokio::test]
async fn pressure_is_waited_out() {
    let after = Some(("retry-after", "20".to_owned()));
    let busy = Scripted::Answer { status: 429, header: after, body: String::new() };
    let items = vec![OK, BUSY, r#"{"status":503}"#];
    let script = [busy, status(503), Scripted::CommitAndTear, Scripted::Items(items)];
    let peer = Peer::start(script).await;
    let bench = Bench::with(&["1", "2", "3"]);
    let (tally, said) = bench.replay(&elasticsearch(&[&peer.url])).await;
    assert_eq!(tally.to_string(), "1 indexed, 2 already there, 0 refused again, 0 not sent");
    assert_eq!(bench.clock.waits()[0], Duration::from_secs(20));
    assert!(said[0].ends_with("too_many_requests, status 429; trying again"), "{said:?}");
    assert!(bench.left().is_empty());
}

#[tokio::test]
async fn what_is_not_answered_by_the_deadline_stays() {
    let bench = Bench::with(&["1", "2"]);
    let (tally, said) = bench.replay(&elasticsearch(&[&nobody().await])).await;
    let tally = tally.to_string();
    assert_eq!(tally, "0 indexed, 0 already there, 0 refused again, 2 not sent (connect_error 2)");
    assert_eq!(bench.left(), ["1", "2"]);
    assert_eq!(said.len(), 1, "{said:?}");
    let waited: Duration = bench.clock.waits().iter().sum();
    assert!(waited < bench.deadline && waited > bench.deadline / 2, "{waited:?}");
}

#[tokio::test]
async fn a_request_that_hangs_ends_with_the_deadline() {
    let peer = Peer::start([Scripted::Items(vec![OK]), Scripted::Hang]).await;
    let mut bench = Bench::with(&["1", "2", "3"]);
    bench.deadline = Duration::from_millis(300);
    bench.batch_bytes = 1;
    let tally = bench.tally(&peer).await;
    assert_eq!(tally, "1 indexed, 0 already there, 0 refused again, 2 not sent (deadline 2)");
    assert_eq!(bench.left(), ["2", "3"]);
}

#[tokio::test]
async fn what_somebody_has_to_mend_is_not_waited_for() {
    for (code, cause) in [(401, "unauthorized"), (404, "index_missing"), (307, "redirect")] {
        let peer = Peer::start([status(code)]).await;
        let bench = Bench::with(&["1", "2"]);
        let (tally, said) = bench.replay(&elasticsearch(&[&peer.url])).await;
        let expected =
            format!("0 indexed, 0 already there, 0 refused again, 2 not sent ({cause} 2)");
        assert_eq!(tally.to_string(), expected);
        assert!(said[0].contains("mend"), "{said:?}");
        assert_eq!(peer.seen().len(), 1);
        assert_eq!(bench.left(), ["1", "2"]);
    }
    let peer = Peer::start([Scripted::Items(vec![CLOSED, OK])]).await;
    let bench = Bench::with(&["1", "2"]);
    let tally = bench.tally(&peer).await;
    assert_eq!(tally, "1 indexed, 0 already there, 0 refused again, 1 not sent (index_closed 1)");
    assert_eq!(bench.left(), ["1"]);
}

#[tokio::test]
async fn requests_are_bounded() {
    let peer = Peer::start([]).await;
    let mut bench = Bench::new();
    let documents: Vec<String> = (0..MAX_DOCUMENTS + 1).map(|n| n.to_string()).collect();
    bench.write(&documents.iter().map(String::as_str).collect::<Vec<_>>());
    bench.tally(&peer).await;
    assert_eq!(peer.seen().len(), 2);
    assert_eq!(peer.kept().len(), MAX_DOCUMENTS + 1);

    let peer = Peer::start([]).await;
    bench.batch_bytes = 2000;
    let large = "7".repeat(3000);
    bench.write(&["1", "2", &large, "3"]);
    bench.tally(&peer).await;
    assert_eq!(peer.seen().len(), 3, "one that is larger goes alone");
    assert!(bench.left().is_empty());
}

#[tokio::test]
async fn what_a_request_is_refused_for_is_found_by_halving() {
    let all = ["1", "2", "\"poison\"", "4", "5"];
    let peer = Peer::start([Scripted::Poison]).await;
    let bench = Bench::with(&all);
    let tally = bench.tally(&peer).await;
    let said = "4 indexed, 0 already there, 1 refused again (parse_exception 1), 0 not sent";
    assert_eq!(tally, said);
    assert_eq!(bench.left(), ["\"poison\""]);

    let peer = Peer::start([Scripted::Limit(60)]).await;
    let large = "7".repeat(100);
    let bench = Bench::with(&["1", &large, "2"]);
    let tally = bench.tally(&peer).await;
    assert_eq!(tally, "2 indexed, 0 already there, 1 refused again (too_large 1), 0 not sent");
    assert_eq!(bench.left(), [large]);
}

#[tokio::test]
async fn damaged_lines_stay_and_are_named() {
    let peer = Peer::start([]).await;
    let bench = Bench::with(&["1", "2", "3"]);
    let text = fs::read_to_string(bench.files.live()).expect("read");
    let damaged = text.replace("\"document\":\"2\"", "\"document\":\"5\"") + "{half";
    fs::write(bench.files.live(), damaged).expect("write");
    let (tally, said) = bench.replay(&elasticsearch(&[&peer.url])).await;
    let expected = "2 indexed, 0 already there, 0 refused again, 1 damaged, 0 not sent";
    assert_eq!(tally.to_string(), expected);
    assert!(said[0].contains("flink.ndjson.1:2: "), "{said:?}");
    let left = bench.left();
    assert!(left.len() == 1 && left[0].contains("\"document\":\"5\""), "{left:?}");
    let kept: Vec<String> = peer.kept().into_values().collect();
    assert_eq!(kept, ["1", "3"]);
    assert_eq!(bench.replay(&elasticsearch(&[&peer.url])).await.0.remaining(), 1);
}

#[tokio::test]
async fn an_agent_writes_on_while_its_letters_are_sent() {
    let barrier = Arc::new(tokio::sync::Barrier::new(2));
    let peer = Peer::start([Scripted::Meet(Arc::clone(&barrier))]).await;
    let bench = Bench::with(&["1", "2"]);
    let output = elasticsearch(&[&peer.url]);
    let write = async {
        while peer.seen().is_empty() {
            tokio::task::yield_now().await;
        }
        bench.write(&["younger"]);
        barrier.wait().await;
    };
    let ((tally, _), ()) = within(async { tokio::join!(bench.replay(&output), write) }).await;
    assert_eq!(tally.to_string(), "2 indexed, 0 already there, 0 refused again, 0 not sent");
    assert_eq!(bench.left(), ["younger"]);
}

#[tokio::test]
async fn a_replay_that_dies_leaves_everything_that_it_did_not_finish() {
    let peer = Peer::start([Scripted::Commit, Scripted::Hang]).await;
    let mut bench = Bench::with(&["1", "2"]);
    bench.batch_bytes = 1;
    let output = elasticsearch(&[&peer.url]);
    tokio::select! {
        _ = bench.replay(&output) => panic!("the second request is never answered"),
        () = async {
            while peer.seen().len() < 2 {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    bench.write(&["3"]);
    assert_eq!(bench.left(), ["1", "2", "3"]);
    let tally = bench.tally(&peer).await;
    // Two share an id: what is there is there once.
    assert_eq!(tally, "1 indexed, 2 already there, 0 refused again, 0 not sent");
    assert!(bench.left().is_empty());
}

#[tokio::test]
async fn a_live_file_that_is_being_written_is_waited_for() {
    let peer = Peer::start([]).await;
    let bench = Bench::with(&["1"]);
    let lock = bench.files.open_live().expect("free");
    let output = elasticsearch(&[&peer.url]);
    let unlock = async {
        while bench.clock.waits().len() < 3 {
            tokio::task::yield_now().await;
        }
        drop(lock);
    };
    let ((tally, _), ()) = within(async { tokio::join!(bench.replay(&output), unlock) }).await;
    assert_eq!(tally.remaining(), 0);
    assert!(bench.left().is_empty());
}

#[tokio::test]
async fn what_is_in_the_way_of_a_replacement_leaves_the_file_as_it_is() {
    let barrier = Arc::new(tokio::sync::Barrier::new(2));
    let script = [Scripted::Meet(Arc::clone(&barrier)), Scripted::Items(vec![BAD])];
    let peer = Peer::start(script).await;
    let mut bench = Bench::with(&["1", "2"]);
    bench.batch_bytes = 1;
    let in_the_way = bench.state.path().join("dead-letter/flink.ndjson.1.new");
    let output = elasticsearch(&[&peer.url]);
    let clock = Clock::Virtual(Arc::clone(&bench.clock));
    let deadline = clock.now() + bench.deadline;
    let orders = Orders { output: &output, batch_bytes: 1, deadline };
    let given = Given { clock, seed: 0, timeouts: Timeouts::default() };
    let mut tell = |_: &str| ();
    let replay = replay_given(orders, &bench.files, given, &mut tell);
    let obstruct = async {
        while peer.seen().is_empty() {
            tokio::task::yield_now().await;
        }
        fs::create_dir(&in_the_way).expect("a directory");
        barrier.wait().await;
    };
    let (result, ()) = within(async { tokio::join!(replay, obstruct) }).await;
    let error = result.expect_err("there is no room for what stays");
    assert!(matches!(error, ReplayError::File { .. }), "{error}");
    assert_eq!(bench.left(), ["1", "2"]);
    fs::remove_dir(&in_the_way).expect("remove");
    fs::write(&in_the_way, "left by a crash").expect("write");
    let tally = bench.tally(&peer).await;
    assert_eq!(tally, "1 indexed, 1 already there, 0 refused again, 0 not sent");
    assert!(!in_the_way.try_exists().expect("a look"));
}

/// One replay among others.
#[derive(Debug, Clone)]
struct Round {
    /// Letters that the agent writes before.
    new: usize,
    /// Letters that it writes while the replay runs.
    meanwhile: usize,
    /// What the peer answers, see [`scripted`].
    answers: Vec<u8>,
    /// After how many requests the replay is killed.
    killed_after: usize,
    batch_bytes: usize,
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let answers = prop::collection::vec(0u8..8, 0..6);
    let round = (0usize..5, 0usize..3, answers, 0usize..8, 1usize..600);
    let round = round.prop_map(|(new, meanwhile, answers, killed_after, batch_bytes)| Round {
        new,
        meanwhile,
        answers,
        killed_after,
        batch_bytes,
    });
    prop::collection::vec(round, 1..5)
}

fn scripted(answer: u8) -> Scripted {
    match answer {
        0 | 1 => Scripted::Commit,
        2 => Scripted::CommitAndTear,
        3 => Scripted::CommitAndTearAnswer,
        4 => status(429),
        5 => status(403),
        6 => Scripted::Items(vec![BAD]),
        _ => Scripted::Items(vec![OK, BUSY]),
    }
}

/// Writes letters with ids that no other has.
fn write_new(bench: &Bench, written: &mut Vec<String>, count: usize) {
    for _ in 0..count {
        let number = written.len();
        written.push(format!("{{\"n\":{number}}}"));
        bench.letters.write(&[letter(number, &written[number])]).expect("write");
    }
}

async fn check_rounds(rounds: Vec<Round>) {
    let mut bench = Bench::new();
    let mut written = Vec::new();
    let mut kept = Vec::new();
    for round in rounds {
        write_new(&bench, &mut written, round.new);
        bench.batch_bytes = round.batch_bytes;
        let peer = Peer::start(round.answers.iter().map(|answer| scripted(*answer))).await;
        let output = elasticsearch(&[&peer.url]);
        tokio::select! {
            _ = bench.replay(&output) => {}
            () = async {
                while peer.seen().len() < round.killed_after + 1 {
                    tokio::task::yield_now().await;
                }
            } => {}
        }
        write_new(&bench, &mut written, round.meanwhile);
        kept.extend(peer.kept().into_values());
        // Whatever the peers have or the files: nothing is nowhere.
        let left = bench.left();
        for document in &written {
            assert!(kept.contains(document) || left.contains(document), "{document} is lost");
        }
    }
    let peer = Peer::start([]).await;
    bench.tally(&peer).await;
    assert!(bench.left().is_empty());
    kept.extend(peer.kept().into_values());
    assert!(written.iter().all(|document| kept.contains(document)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_answered_and_killed_no_letter_is_lost(rounds in rounds()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(check_rounds(rounds));
    }
}
