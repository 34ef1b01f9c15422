//! Tests of the verdicts.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;

fn check(item: &str, verdict: &Verdict) {
    let body =
        format!(r#"{{"errors":true,"items":[{{"create":{item}}},{{"create":{{"status":201}}}}]}}"#);
    match judge(200, body.as_bytes(), 2) {
        Answer::AllIndexed => assert_eq!(*verdict, Verdict::Indexed, "{item}"),
        Answer::Items(verdicts) => {
            assert_eq!(verdicts[0], *verdict, "{item}");
            assert_eq!(verdicts[1], Verdict::Indexed);
        }
        Answer::Whole(whole) => panic!("{item} gave {whole:?}"),
    }
}

fn refused(kind: &str) -> Verdict {
    Verdict::Refused(Reason::new(kind))
}

#[test]
fn items_that_are_safe() {
    check(r#"{"status":201}"#, &Verdict::Indexed);
    check(r#"{"status":200,"failure_store":"not_enabled"}"#, &Verdict::Indexed);
    // An ingest pipeline dropped it: 200, where a document that is there now has 201.
    check(r#"{"status":200}"#, &Verdict::Indexed);
    check(r#"{"status":201,"failure_store":"used"}"#, &Verdict::Stored);
    check(
        r#"{"status":409,"error":{"type":"version_conflict_engine_exception","reason":"[x]: version conflict, document already exists (current version [1])"}}"#,
        &Verdict::Duplicate,
    );
    check(r#"{"status":409}"#, &Verdict::Duplicate);
}

#[test]
fn items_that_are_refused_for_good() {
    for kind in [
        "document_parsing_exception",
        "mapper_parsing_exception",
        "strict_dynamic_mapping_exception",
        "illegal_argument_exception",
    ] {
        let item = format!(
            r#"{{"status":400,"error":{{"type":"{kind}","reason":"Limit of total fields [1000] has been exceeded"}}}}"#
        );
        check(&item, &refused(kind));
    }
    // What an ingest pipeline's `fail` and `dissect` lead to.
    for kind in ["fail_processor_exception", "find_match"] {
        let item = format!(r#"{{"status":500,"error":{{"type":"{kind}","reason":"no"}}}}"#);
        check(&item, &refused(kind));
    }
    check(
        r#"{"status":400,"error":{"type":"a value: {\"secret\":1}","reason":""}}"#,
        &refused("unknown"),
    );
}

#[test]
fn items_that_only_look_refused() {
    let cases = [
        (
            400,
            "validation_exception",
            "Validation Failed: 1: this action would add [2] shards, but this cluster currently has [1000]/[1000] maximum normal shards open;",
            Cause::ShardLimit,
        ),
        (
            400,
            "illegal_argument_exception",
            "this action would add [2] total shards, but this cluster currently has [10]/[10] maximum shards open",
            Cause::ShardLimit,
        ),
        (
            403,
            "cluster_block_exception",
            "index [fluentd] blocked by: [FORBIDDEN/8/index write (api)];",
            Cause::WriteBlocked,
        ),
        (
            429,
            "cluster_block_exception",
            "index [fluentd] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage watermark, index has read-only-allow-delete block];",
            Cause::Blocked,
        ),
        (
            503,
            "cluster_block_exception",
            "blocked by: [SERVICE_UNAVAILABLE/2/no master];",
            Cause::Unavailable,
        ),
        (400, "index_closed_exception", "closed", Cause::IndexClosed),
        (404, "index_not_found_exception", "no such index [x]", Cause::MissingIndex),
        (
            400,
            "illegal_argument_exception",
            "pipeline with id [geo] does not exist",
            Cause::MissingIndex,
        ),
        (
            500,
            "illegal_state_exception",
            "Pipeline processor configured for non-existent pipeline [geo]",
            Cause::MissingIndex,
        ),
        (500, "illegal_state_exception", "Cycle detected for pipeline: geo", Cause::MissingIndex),
        (500, "illegal_state_exception", "no", Cause::ItemFailed),
        (500, "null_pointer_exception", "", Cause::ItemFailed),
        (
            400,
            "illegal_argument_exception",
            "explicit index in bulk is not allowed",
            Cause::Forbidden,
        ),
        (403, "security_exception", "action is unauthorized", Cause::Forbidden),
        (401, "security_exception", "missing authentication", Cause::Unauthorized),
        (429, "es_rejected_execution_exception", "queue", Cause::TooManyRequests),
        (
            400,
            "resource_already_exists_exception",
            "index [x/y] already exists",
            Cause::Unavailable,
        ),
        (503, "unavailable_shards_exception", "primary shard is not active", Cause::Unavailable),
        (408, "timeout_exception", "", Cause::Unavailable),
        (418, "teapot", "", Cause::UnexpectedStatus),
    ];
    for (status, kind, reason, cause) in cases {
        let item =
            format!(r#"{{"status":{status},"error":{{"type":"{kind}","reason":"{reason}"}}}}"#);
        check(&item, &Verdict::Retry(cause));
    }
}

/// As Elasticsearch writes an exception without a message, and a proxy any error.
#[test]
fn an_error_without_words_is_one_of_its_item() {
    let null = r#"{"status":500,"error":{"type":"null_pointer_exception","reason":null}}"#;
    check(null, &Verdict::Retry(Cause::ItemFailed));
    let null = r#"{"status":400,"error":{"type":"null_pointer_exception","reason":null}}"#;
    check(null, &refused("null_pointer_exception"));
    check(r#"{"status":400,"error":{"type":null}}"#, &refused("unknown"));
    check(r#"{"status":400,"error":"no"}"#, &refused("unknown"));
    check(r#"{"status":503,"error":["no"]}"#, &Verdict::Retry(Cause::Unavailable));
}

/// A line may say anything, and what ingest pipelines answer quotes it.
#[test]
fn what_a_document_says_decides_nothing() {
    for said in [
        "this action would add [2] shards, but this cluster has [9]/[9] maximum normal shards open",
        "no write index is defined for alias [x]",
        "pipeline with id [x] does not exist",
        "explicit index in bulk is not allowed",
    ] {
        let item = format!(
            r#"{{"status":400,"error":{{"type":"illegal_argument_exception","reason":"Provided Grok expressions do not match field value: [{said}]"}}}}"#
        );
        check(&item, &refused("illegal_argument_exception"));
    }
    for said in [
        "Pipeline processor configured for non-existent pipeline [x]",
        "Cycle detected for pipeline: x",
    ] {
        let item = format!(
            r#"{{"status":500,"error":{{"type":"illegal_state_exception","reason":"can't read [{said}]"}}}}"#
        );
        check(&item, &Verdict::Retry(Cause::ItemFailed));
    }
}

#[test]
fn an_answer_that_does_not_name_every_item_is_not_understood() {
    let bodies: [&[u8]; 8] = [
        b"",
        b"<html>",
        b"{}",
        br#"{"errors":false,"items":[{"create":{"status":201}}"#,
        br#"{"errors":false,"items":[{"create":{"status":201}},{"create":{"status":201}}]}"#,
        br#"{"errors":false,"items":[{"create":{}}]}"#,
        br#"{"errors":false,"items":[{"create":{"status":0}}]}"#,
        br#"{"errors":false,"items":[{"create":{"status":201}}]} and more"#,
    ];
    for body in bodies {
        let answer = judge(200, body, 1);
        assert_eq!(answer, Answer::Whole(Whole::Retry(Cause::NotUnderstood)), "{body:?}");
    }
}

#[test]
fn the_usual_answer_takes_the_fast_road_and_any_other_the_slow_one() {
    let usual =
        br#"{"errors":false,"items":[{"create":{"status":201}},{"create":{"status":201}}]}"#;
    assert!(all_created(usual, 2));
    assert!(!all_created(usual, 1));
    assert!(!all_created(usual, 3));
    assert!(!all_created(usual, 0));
    // What a server answers that does not know `filter_path`.
    let verbose = br#"{"took":3,"errors":false,"items":[{"create":{"_index":"a","status":201}},{"create":{"_index":"a","status":201}}]}"#;
    assert!(all_created(verbose, 2));
    let with_ids =
        br#"{"items":[{"create":{"_id":"a","status":201}},{"create":{"_id":"b","status":201}}]}"#;
    assert!(!all_created(with_ids, 2));
    assert_eq!(judge(200, with_ids, 2), Answer::AllIndexed);
}

#[test]
fn items_that_are_alike_but_not_created_take_the_slow_road() {
    for item in [
        r#"{"create":{"status":409}}"#,
        r#"{"create":{"status":200}}"#,
        r#"{"create":{"status":201,"failure_store":"used"}}"#,
        r#"{"create":{"status":201,"error":{"type":"x"}}}"#,
        r#"{"create":{"status":"201"}}"#,
        r#"{"create":{"status":201}],"#,
    ] {
        let body = format!(r#"{{"errors":false,"items":[{item},{item}]}}"#);
        assert!(!all_created(body.as_bytes(), 2), "{item}");
    }
}

#[test]
fn whole_requests() {
    let cases = [
        (429, "", Whole::Retry(Cause::TooManyRequests)),
        (503, "<html>", Whole::Retry(Cause::Unavailable)),
        (401, "{}", Whole::Retry(Cause::Unauthorized)),
        (403, r#"{"error":"no"}"#, Whole::Retry(Cause::Forbidden)),
        (404, "", Whole::Retry(Cause::MissingIndex)),
        (301, "", Whole::Retry(Cause::Redirect)),
        (405, "", Whole::Retry(Cause::UnexpectedStatus)),
        (204, "", Whole::Retry(Cause::UnexpectedStatus)),
        (413, "", Whole::TooLarge),
        (400, "", Whole::RefusedSomehow),
        (400, "<html>The plain HTTP request was sent to HTTPS port", Whole::RefusedSomehow),
        (400, r#"{"error":"no"}"#, Whole::RefusedSomehow),
        (
            400,
            r#"{"error":{"type":"illegal_argument_exception","reason":"Malformed action"},"status":400}"#,
            Whole::Refused(Reason::new("illegal_argument_exception")),
        ),
        (
            400,
            r#"{"error":{"type":"invalid_index_name_exception","reason":"x"},"status":400}"#,
            Whole::Retry(Cause::MissingIndex),
        ),
        (
            429,
            r#"{"error":{"type":"cluster_block_exception","reason":"x"},"status":429}"#,
            Whole::Retry(Cause::Blocked),
        ),
    ];
    for (status, body, whole) in cases {
        assert_eq!(judge(status, body.as_bytes(), 3), Answer::Whole(whole), "{status} {body}");
    }
}

#[test]
fn retry_after_in_seconds_and_as_a_date() {
    // RFC 9110's example date.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_700);
    let seconds = |value| retry_after(value, now).map(|wait| wait.as_secs());
    assert_eq!(seconds("7"), Some(7));
    assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(77));
    assert_eq!(seconds("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
    assert_eq!(seconds("999999999999"), Some(600));
    assert_eq!(seconds("soon"), None);
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer(status in 100u16..600, body: Vec<u8>, expected in 0usize..9) {
        judge(status, &body, expected);
    }

    #[test]
    fn almost_an_answer_gives_a_verdict_for_each_item_or_none(
        statuses in prop::collection::vec(prop::sample::select(vec![200u16, 201, 409, 429, 400, 503, 42]), 0..6),
        cut in 0usize..400,
    ) {
        let items: Vec<String> = (statuses.iter())
            .map(|status| format!(r#"{{"create":{{"status":{status}}}}}"#))
            .collect();
        let body = format!(r#"{{"errors":false,"items":[{}]}}"#, items.join(","));
        let cut = &body.as_bytes()[..cut.min(body.len())];
        match judge(200, cut, statuses.len()) {
            Answer::AllIndexed => {
                prop_assert!(statuses.iter().all(|status| matches!(status, 200 | 201)));
                prop_assert_eq!(cut.len(), body.len());
            }
            Answer::Items(verdicts) => prop_assert_eq!(verdicts.len(), statuses.len()),
            Answer::Whole(whole) => prop_assert_eq!(whole, Whole::Retry(Cause::NotUnderstood)),
        }
    }

    #[test]
    fn any_retry_after_is_bounded(value: String) {
        if let Some(wait) = retry_after(&value, SystemTime::now()) {
            prop_assert!(wait <= MAX_RETRY_AFTER);
        }
    }
}
