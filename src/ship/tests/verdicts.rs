//! What each answer leads to: the rows of the tables in `docs/delivery.md`, driven through the
//! whole shipper. The last test checks that every row there names a test that is here.

use super::*;
use crate::ship::health::State::{Paused, Retrying};

/// Ships documents 1 and 2, of which the first gets `item` and the second is created, to a peer
/// that then creates everything.
async fn ship_item(bench: &Bench, output: &Elasticsearch, item: &'static str) -> (Outcome, Peer) {
    let peer = Peer::start([Scripted::Items(vec![item, OK])]).await;
    let output = Elasticsearch { hosts: vec![peer.url.clone()], ..output.clone() };
    let outcome = bench.ship_one(&output, &["1", "2"]).await;
    (outcome, peer)
}

/// The state that the output was in during its first wait.
async fn first_state(bench: &Bench) -> State {
    while bench.clock.waits().is_empty() {
        tokio::task::yield_now().await;
    }
    bench.health.state()
}

/// An item that is safe or refused at once: what is counted, and the request's result.
async fn check_settled(item: &'static str, counted: (u64, u64, u64), result: BulkResult) {
    let bench = Bench::new();
    let output = Elasticsearch { refused: Refused::DeadLetter, ..elasticsearch(&[""]) };
    let (outcome, peer) = ship_item(&bench, &output, item).await;
    assert_eq!(documents(&outcome), counted, "{item}");
    assert_eq!(bench.count(result), 1, "{item}");
    assert_eq!(peer.seen().len(), 1, "nothing is sent again: {item}");
    assert!(bench.clock.waits().is_empty(), "{item}");
    assert_eq!(bench.dead_letters().len() as u64, counted.2, "{item}");
}

/// An item that is sent again, alone and after a wait.
async fn check_item_again(item: &'static str, state: State) {
    let bench = Bench::new();
    let output = elasticsearch(&[""]);
    let ship = ship_item(&bench, &output, item);
    let ((outcome, peer), seen_state) =
        within(async { tokio::join!(ship, first_state(&bench)) }).await;
    assert_eq!(seen_state, state, "{item}");
    assert_eq!(documents(&outcome), (2, 0, 0), "{item}");
    assert_eq!(bench.count(BulkResult::Partial), 1, "{item}");
    let seen = peer.seen();
    assert_eq!(seen.len(), 2, "{item}");
    assert_eq!(seen[1].body, super::item(0, "1"), "{item}");
    assert_eq!(bench.health.state(), State::Healthy, "{item}");
}

/// A request that is sent again as it was, after a wait.
async fn check_again(answer: Scripted, result: BulkResult, state: State) {
    let said = format!("{answer:?}");
    let peer = Peer::start([answer]).await;
    let bench = Bench::new();
    let output = elasticsearch(&[&peer.url]);
    let ship = bench.ship_one(&output, &["1", "2"]);
    let (outcome, seen_state) = within(async { tokio::join!(ship, first_state(&bench)) }).await;
    assert_eq!(seen_state, state, "{said}");
    assert_eq!(documents(&outcome), (2, 0, 0), "{said}");
    assert_eq!((bench.count(result), bench.count(BulkResult::Ok)), (1, 1), "{said}");
    let seen = peer.seen();
    assert_eq!(seen.len(), 2, "{said}");
    assert_eq!(seen[0].body, seen[1].body, "{said}");
    assert_eq!(bench.health.state(), State::Healthy, "{said}");
}

fn with_body(status: u16, body: &str) -> Scripted {
    Scripted::Answer { status, header: None, body: body.to_owned() }
}

/// An answer to a whole request as Elasticsearch gives it.
fn error(status: u16, kind: &str, reason: &str) -> Scripted {
    let body = format!(
        r#"{{"error":{{"root_cause":[{{"type":"{kind}","reason":"{reason}"}}],"type":"{kind}","reason":"{reason}"}},"status":{status}}}"#
    );
    with_body(status, &body)
}

// One item of an answer 200.

#[tokio::test]
async fn what_is_created_or_already_there_is_done() {
    check_settled(OK, (2, 0, 0), BulkResult::Ok).await;
    check_settled(CONFLICT, (1, 1, 0), BulkResult::Ok).await;
}

#[tokio::test]
async fn what_an_ingest_pipeline_drops_is_safe() {
    // As 8.19.8 answers: `result` is `noop`, which is not asked for.
    check_settled(r#"{"status":200}"#, (2, 0, 0), BulkResult::Ok).await;
}

#[tokio::test]
async fn items_that_are_refused_cost_only_themselves() {
    check_settled(BAD, (1, 0, 1), BulkResult::Partial).await;
    for item in [
        r#"{"status":400,"error":{"type":"illegal_argument_exception","reason":"Provided Grok expressions do not match field value: [x]"}}"#,
        r#"{"status":413,"error":{"type":"circuit_breaking_exception","reason":"x"}}"#,
        r#"{"status":422,"error":{"type":"unprocessable","reason":"x"}}"#,
        // What an ingest pipeline made of the document's own words.
        r#"{"status":400,"error":{"type":"invalid_index_name_exception","reason":"Invalid index name [X], must be lowercase"}}"#,
    ] {
        check_settled(item, (1, 0, 1), BulkResult::Partial).await;
    }
}

#[tokio::test]
async fn what_an_ingest_pipeline_fails_is_refused() {
    for item in [
        r#"{"status":500,"error":{"type":"fail_processor_exception","reason":"no"}}"#,
        r#"{"status":500,"error":{"type":"find_match","reason":"Unable to find match for dissect pattern: %{x} against source: y"}}"#,
    ] {
        check_settled(item, (1, 0, 1), BulkResult::Partial).await;
    }
}

#[tokio::test]
async fn items_that_may_work_later_are_sent_again_alone() {
    check_item_again(BUSY, Retrying(Cause::TooManyRequests)).await;
    for item in [
        r#"{"status":503,"error":{"type":"unavailable_shards_exception","reason":"[x][0] primary shard is not active"}}"#,
        r#"{"status":408,"error":{"type":"timeout","reason":"x"}}"#,
        r#"{"status":409,"error":{"type":"another_exception","reason":"x"}}"#,
        r#"{"status":400,"error":{"type":"resource_already_exists_exception","reason":"index [x/y] already exists"}}"#,
    ] {
        check_item_again(item, Retrying(Cause::Unavailable)).await;
    }
}

/// One document that fails for ever costs only itself.
#[tokio::test]
async fn an_item_that_fails_alone_is_refused_after_a_while() {
    check_item_again(FAILS, Retrying(Cause::ItemFailed)).await;
    let alone = vec![Scripted::Items(vec![FAILS]); 9];
    let first = Scripted::Items(vec![OK, FAILS]);
    let peer = Peer::start(std::iter::once(first).chain(alone)).await;
    let bench = Bench::new();
    let outcome = bench.ship_one(&elasticsearch(&[&peer.url]), &["1", "2"]).await;
    assert_eq!(documents(&outcome), (1, 0, 1), "its plain form was taken");
}

/// An output that fails everything is at fault itself.
#[tokio::test]
async fn items_that_all_fail_are_tried_for_as_long_as_it_takes() {
    let peer = Peer::start(vec![Scripted::Items(vec![FAILS, FAILS]); 40]).await;
    let bench = Bench::new();
    let outcome = bench.ship_one(&elasticsearch(&[&peer.url]), &["1", "2"]).await;
    assert_eq!(documents(&outcome), (2, 0, 0));
}

#[tokio::test]
async fn items_without_permission_pause() {
    let item = r#"{"status":403,"error":{"type":"security_exception","reason":"action [indices:admin/auto_create] is unauthorized"}}"#;
    check_item_again(item, Paused(Cause::Forbidden)).await;
    check_item_again(r#"{"status":403}"#, Paused(Cause::Forbidden)).await;
    let item = r#"{"status":401,"error":{"type":"security_exception","reason":"x"}}"#;
    check_item_again(item, Paused(Cause::Unauthorized)).await;
}

#[tokio::test]
async fn items_without_an_index_pause() {
    for item in [
        r#"{"status":404,"error":{"type":"index_not_found_exception","reason":"no such index [x] and [action.auto_create_index] is [false]"}}"#,
        r#"{"status":400,"error":{"type":"illegal_argument_exception","reason":"no write index is defined for alias [x]. The write index may be explicitly disabled"}}"#,
        r#"{"status":400,"error":{"type":"illegal_argument_exception","reason":"pipeline with id [x] does not exist"}}"#,
        r#"{"status":500,"error":{"type":"illegal_state_exception","reason":"Pipeline processor configured for non-existent pipeline [x]"}}"#,
    ] {
        check_item_again(item, Paused(Cause::MissingIndex)).await;
    }
}

#[tokio::test]
async fn the_shard_limit_pauses() {
    let item = r#"{"status":400,"error":{"type":"validation_exception","reason":"Validation Failed: 1: this action would add [2] shards, but this cluster currently has [1000]/[1000] maximum normal shards open;"}}"#;
    check_item_again(item, Paused(Cause::ShardLimit)).await;
}

const READ_ONLY: &str = r#"{"status":403,"error":{"type":"cluster_block_exception","reason":"index [x] blocked by: [FORBIDDEN/5/index read-only (api)];"}}"#;
const FLOOD: &str = r#"{"status":429,"error":{"type":"cluster_block_exception","reason":"index [x] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage watermark, index has read-only-allow-delete block];"}}"#;
const WRITE_BLOCK: &str = r#"{"status":403,"error":{"type":"cluster_block_exception","reason":"index [x] blocked by: [FORBIDDEN/8/index write (api)];"}}"#;

#[tokio::test]
async fn blocks_that_somebody_lifts_are_waited_for_as_long_as_it_takes() {
    let metadata = r#"{"status":403,"error":{"type":"cluster_block_exception","reason":"index [x] blocked by: [FORBIDDEN/9/index metadata (api)];"}}"#;
    for item in [READ_ONLY, FLOOD, metadata] {
        check_item_again(item, Paused(Cause::Blocked)).await;
        // Never refused, not even where everything that lasts is refused at once.
        let peer = Peer::start(vec![Scripted::Items(vec![item]); 40]).await;
        let bench = Bench::new();
        let output = Elasticsearch { refused_after: Duration::ZERO, ..elasticsearch(&[&peer.url]) };
        let outcome = bench.ship_one(&output, &["1"]).await;
        assert_eq!(documents(&outcome), (1, 0, 0), "{item}");
        assert_eq!(bench.clock.waits().len(), 40, "{item}");
    }
}

#[tokio::test]
async fn a_write_block_is_waited_for_and_refused_after_a_while() {
    check_item_again(WRITE_BLOCK, Paused(Cause::WriteBlocked)).await;
    let hour = Duration::from_secs(3600);
    let peer = Peer::start(vec![Scripted::Items(vec![WRITE_BLOCK]); 300]).await;
    let bench = Bench::new();
    let output = Elasticsearch { refused_after: hour, ..elasticsearch(&[&peer.url]) };
    let outcome = bench.ship_one(&output, &["1"]).await;
    assert_eq!(documents(&outcome), (0, 0, 1));
    let waited: Duration = bench.clock.waits().iter().sum();
    assert!(waited >= hour && waited < hour + Duration::from_secs(60), "{waited:?}");
    assert_eq!(bench.dead_letters()[0]["reason"], "index_write_blocked");
}

#[tokio::test]
async fn a_status_that_no_item_has_pauses() {
    let item = r#"{"status":418,"error":{"type":"teapot","reason":"x"}}"#;
    check_item_again(item, Paused(Cause::UnexpectedStatus)).await;
    check_item_again(r#"{"status":301}"#, Paused(Cause::UnexpectedStatus)).await;
}

// The whole request.

#[tokio::test]
async fn a_mixed_answer_settles_each_item() {
    let stored = r#"{"status":201,"failure_store":"used"}"#;
    let dropped = r#"{"status":200}"#;
    let items = vec![OK, BAD, BUSY, CONFLICT, FLOOD, stored, dropped];
    let peer = Peer::start([Scripted::Items(items)]).await;
    let bench = Bench::new();
    let all = ["1", "2", "3", "4", "5", "6", "7"];
    let outcome = bench.ship_one(&elasticsearch(&[&peer.url]), &all).await;
    assert_eq!(documents(&outcome), (4, 1, 2));
    assert_eq!((bench.count(BulkResult::Partial), bench.count(BulkResult::Ok)), (1, 1));
    let seen = peer.seen();
    assert_eq!(seen.len(), 2);
    let plain = r#"{"@timestamp":"1970-01-01T00:00:00.000000033Z","splashdam":{"#;
    let mut again = seen[1].body.lines();
    assert_eq!(again.next(), item(1, "").lines().next());
    assert!(again.next().is_some_and(|document| document.starts_with(plain)));
    let rest: Vec<&str> = again.collect();
    assert_eq!(rest.join("\n") + "\n", item(2, "3") + &item(4, "5"));
}

#[tokio::test]
async fn an_answer_that_is_none_is_asked_for_again() {
    let items = |count: usize| vec![r#"{"create":{"status":201}}"#; count].join(",");
    let whole = format!(r#"{{"errors":false,"items":[{}]}}"#, items(2));
    for body in [
        "",
        "null",
        "[]",
        "{}",
        "<html>It works!</html>",
        r#"{"errors":false}"#,
        r#"{"errors":false,"items":{}}"#,
        r#"{"errors":false,"items":[{},{}]}"#,
        r#"{"errors":false,"items":[{"create":{"status":"201"}},{"create":{"status":201}}]}"#,
        r#"{"errors":false,"items":[{"create":{"status":20100}},{"create":{"status":201}}]}"#,
        r#"{"errors":false,"items":[{"create":{"status":100}},{"create":{"status":201}}]}"#,
        &format!(r#"{{"errors":false,"items":[{}]}}"#, items(1)),
        &format!(r#"{{"errors":false,"items":[{}]}}"#, items(3)),
        whole.strip_suffix("}").expect("it ends so"),
        &format!("{whole}{whole}"),
        &"[".repeat(100_000),
    ] {
        let state = Retrying(Cause::NotUnderstood);
        check_again(with_body(200, body), BulkResult::NotUnderstood, state).await;
    }
}

/// Reasons quote whole values.
#[tokio::test]
async fn an_answer_that_is_too_long_is_asked_for_in_parts() {
    let long = |bytes: usize| {
        let reason = "x".repeat(bytes);
        let item = format!(
            r#"{{"status":400,"error":{{"type":"document_parsing_exception","reason":"{reason}"}}}}"#
        );
        &*Box::leak(item.into_boxed_str())
    };
    let half = long((1 << 20) - 4096);
    let script = [
        Scripted::Items(vec![OK, half, half]),
        Scripted::Items(vec![CONFLICT]),
        Scripted::Items(vec![half, half]),
        Scripted::Items(vec![half]),
        Scripted::Items(vec![half]),
    ];
    let peer = Peer::start(script).await;
    let bench = Bench::new();
    let output = Elasticsearch { refused: Refused::DeadLetter, ..elasticsearch(&[&peer.url]) };
    let outcome = bench.ship_one(&output, &["1", "2", "3"]).await;
    assert_eq!(documents(&outcome), (0, 1, 2));
    assert_eq!(bench.count(BulkResult::NotUnderstood), 2);
    assert!(bench.clock.waits().is_empty());

    // One document's alone can't be shortened.
    let endless = Scripted::Items(vec![long(2 << 20)]);
    check_again_alone(endless, Retrying(Cause::AnswerTooLong)).await;
}

/// A request of one document that is sent again as it was, after a wait.
async fn check_again_alone(answer: Scripted, state: State) {
    let peer = Peer::start([answer]).await;
    let bench = Bench::new();
    let output = elasticsearch(&[&peer.url]);
    let ship = bench.ship_one(&output, &["1"]);
    let (outcome, seen_state) = within(async { tokio::join!(ship, first_state(&bench)) }).await;
    assert_eq!((documents(&outcome), seen_state), ((1, 0, 0), state));
    assert_eq!(peer.seen()[0].body, peer.seen()[1].body);
}

/// It may be a proxy that does not know what it is asked, and would say so of anything.
#[tokio::test]
async fn a_400_in_nobodys_words_pauses_unless_other_documents_are_taken() {
    let html = with_body(400, "<html>The plain HTTP request was sent to HTTPS port</html>");
    let peer = Peer::start(vec![html.clone(); 40]).await;
    let bench = Bench::new();
    let outcome = bench.ship_one(&elasticsearch(&[&peer.url]), &["1", "2"]).await;
    assert_eq!(documents(&outcome), (2, 0, 0));
    assert!(bench.clock.waits().len() >= 39, "{:?}", bench.clock.waits());
    assert!(bench.dead_letters().is_empty());
    check_again_alone(html.clone(), Paused(Cause::UnexpectedStatus)).await;

    // The other document is taken, and this one is not, again and again: it is its own fault.
    let script = [html.clone(), html.clone(), Scripted::Commit].into_iter();
    let peer = Peer::start(script.chain(vec![html.clone(); 9])).await;
    let bench = Bench::new();
    let output = Elasticsearch { refused: Refused::DeadLetter, ..elasticsearch(&[&peer.url]) };
    let outcome = bench.ship_one(&output, &["1", "2"]).await;
    assert_eq!(documents(&outcome), (1, 0, 1));
    assert_eq!(bench.dead_letters()[0]["reason"], "unknown");

    // A proxy that begins to say so has taken others before.
    let script = [Scripted::Items(vec![OK, BUSY])].into_iter();
    let peer = Peer::start(script.chain(vec![html; 30])).await;
    let bench = Bench::new();
    let outcome = bench.ship_one(&elasticsearch(&[&peer.url]), &["1", "2"]).await;
    assert_eq!(documents(&outcome), (2, 0, 0));
}

#[tokio::test]
async fn a_server_that_is_unavailable_gets_the_same_bytes() {
    for code in [408, 500, 502, 503, 504] {
        check_again(status(code), BulkResult::Unavailable, Retrying(Cause::Unavailable)).await;
    }
    for answer in [
        error(503, "node_closed_exception", "node closed"),
        error(503, "cluster_block_exception", "blocked by: [SERVICE_UNAVAILABLE/2/no master];"),
    ] {
        check_again(answer, BulkResult::Unavailable, Retrying(Cause::Unavailable)).await;
    }
}

#[tokio::test]
async fn a_server_that_is_busy_gets_the_same_bytes() {
    let busy = error(
        429,
        "es_rejected_execution_exception",
        "rejected execution of coordinating operation",
    );
    for answer in
        [busy, error(429, "circuit_breaking_exception", "[parent] Data too large"), status(429)]
    {
        let state = Retrying(Cause::TooManyRequests);
        check_again(answer, BulkResult::TooManyRequests, state).await;
    }
}

#[tokio::test]
async fn a_request_without_permission_pauses() {
    let missing = error(401, "security_exception", "missing authentication credentials");
    for answer in [missing, status(401)] {
        check_again(answer, BulkResult::Unauthorized, Paused(Cause::Unauthorized)).await;
    }
    let forbidden = error(
        403,
        "security_exception",
        "action [indices:data/write/bulk] is unauthorized for user [x]",
    );
    for answer in [forbidden, status(403)] {
        check_again(answer, BulkResult::Unauthorized, Paused(Cause::Forbidden)).await;
    }
}

#[tokio::test]
async fn a_request_without_an_index_pauses() {
    for answer in [
        status(404),
        error(404, "index_not_found_exception", "no such index [x]"),
        error(400, "invalid_index_name_exception", "x"),
        error(400, "illegal_argument_exception", "no write index is defined for alias [x]"),
        error(400, "illegal_argument_exception", "pipeline with id [x] does not exist"),
    ] {
        check_again(answer, BulkResult::Unexpected, Paused(Cause::MissingIndex)).await;
    }
    let limit = "this action would add [2] shards, but this cluster currently has [9]/[9] maximum normal shards open";
    let answer = error(400, "validation_exception", limit);
    check_again(answer, BulkResult::Unexpected, Paused(Cause::ShardLimit)).await;
}

#[tokio::test]
async fn a_request_that_a_block_refuses_pauses() {
    // As 8.19.8 answers where the whole cluster is read-only.
    for (status, reason) in [
        (403, "blocked by: [FORBIDDEN/6/cluster read-only (api)];"),
        (403, "blocked by: [FORBIDDEN/13/cluster read-only / allow delete (api)];"),
    ] {
        let answer = error(status, "cluster_block_exception", reason);
        check_again(answer, BulkResult::Unexpected, Paused(Cause::Blocked)).await;
    }
    let hour = Duration::from_secs(3600);
    let closed = error(400, "index_closed_exception", "closed");
    check_again(closed.clone(), BulkResult::Unexpected, Paused(Cause::IndexClosed)).await;
    let peer = Peer::start(vec![closed; 300]).await;
    let bench = Bench::new();
    let output = Elasticsearch { refused_after: hour, ..elasticsearch(&[&peer.url]) };
    assert_eq!(documents(&bench.ship_one(&output, &["1", "2"]).await), (0, 0, 2));
    assert_eq!(bench.dead_letters().len(), 2);
}

#[tokio::test]
async fn a_status_that_no_request_has_pauses() {
    for code in [204, 405, 418] {
        let state = Paused(Cause::UnexpectedStatus);
        check_again(status(code), BulkResult::Unexpected, state).await;
    }
    for code in [301, 302, 303, 304, 308] {
        check_again(status(code), BulkResult::Unexpected, Paused(Cause::Redirect)).await;
    }
}

#[tokio::test]
async fn a_connection_that_nobody_takes_is_tried_again() {
    let bench = Bench::new();
    let output = elasticsearch(&[&nobody().await]);
    tokio::select! {
        _ = bench.ship_one(&output, &["1"]) => panic!("nobody took it"),
        state = first_state(&bench) => assert_eq!(state, Retrying(Cause::Connect)),
    }
    assert!(bench.count(BulkResult::ConnectError) >= 1);
    assert_eq!(
        bench.health.requests().map(|(_, count)| count).sum::<u64>(),
        bench.count(BulkResult::ConnectError)
    );
}

/// The sources whose tests the tables name.
const SOURCES: [&str; 5] = [
    include_str!("../response_tests.rs"),
    include_str!("../tests.rs"),
    include_str!("connections.rs"),
    include_str!("verdicts.rs"),
    include_str!("../../../tests/it/verdicts.rs"),
];

/// The names in backticks in a cell.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_row_of_the_tables_names_its_metric_and_a_test() {
    let text = include_str!("../../../docs/delivery.md");
    let (_, section) = text.split_once("## What each answer means").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("another section");
    let known: Vec<&str> = Health::new().requests().map(|(result, _)| result.as_str()).collect();
    let mut rows = 0;
    let mut unnamed = known.clone();
    for line in section.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [answer, does, outcome, result, tests] = cells[..] else {
            panic!("a row has five cells: {line}");
        };
        if tests == "test" {
            continue;
        }
        rows += 1;
        assert!(!answer.is_empty() && !does.is_empty(), "{line}");
        for name in names(outcome) {
            assert!(["indexed", "refused"].contains(&name), "{name} is no outcome: {line}");
        }
        assert!(names(result).count() > 0, "no result: {line}");
        for name in names(result) {
            assert!(known.contains(&name), "{name} is no result: {line}");
            unnamed.retain(|other| *other != name);
        }
        let tests: Vec<&str> = names(tests).collect();
        assert!(!tests.is_empty(), "no test: {line}");
        for name in tests {
            let declared = format!("fn {name}(");
            let found = SOURCES.iter().any(|source| source.contains(&declared));
            assert!(found, "there is no test {name}: {line}");
        }
    }
    assert!(rows > 25, "the tables were found: {rows}");
    assert!(unnamed.is_empty(), "no row leads to {unnamed:?}");
}
