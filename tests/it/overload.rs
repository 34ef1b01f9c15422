//! An Elasticsearch that has too much to do and says so with 429: to single items, and to whole
//! requests. Nothing is lost, nothing is refused, nothing is there twice.

use elasticsearch::http::Method;
use serde_json::{Value, json};

use crate::follow::{numbered, numbers, once_each, pipeline};
use crate::support::cri::Log;
use crate::support::elastic::Elastic;
use crate::support::node::Node;
use crate::support::pods::Pod;
use crate::support::{SOON, alone_with_the_frail_server, wait_until};

/// Requests that the server's write queue had no room for.
fn rejected(elastic: &Elastic) -> u64 {
    let path = "_nodes/_local/stats/thread_pool?filter_path=nodes.*.thread_pool.write.rejected";
    let answer = elastic.get(path);
    let nodes = answer["nodes"].as_object().unwrap();
    nodes.values().map(|node| node["thread_pool"]["write"]["rejected"].as_u64().unwrap()).sum()
}

/// Four agents with up to two requests each, where two have room.
#[test]
fn a_full_write_queue_slows_agents_down_and_nothing_is_lost() {
    /// Lines that each agent gets at once, until one of them has been turned away.
    const ROUND: usize = 500;
    let _alone = alone_with_the_frail_server();
    let elastic = Elastic::frail();
    let before = rejected(&elastic);
    let pods = [1, 2, 3, 4].map(|number| Pod::taskmanager("flink", "orders", number));
    let nodes = pods.each_ref().map(|pod| Node::with_pods([pod]));
    let indexes = nodes.each_ref().map(|node| {
        let index = elastic.index(&json!({}));
        node.pipeline("flink", &pipeline(&index, &elastic.url));
        index
    });
    let mut logs: Vec<Log> =
        nodes.iter().zip(&pods).map(|(node, pod)| Log::create(&node.root(), pod, 0)).collect();
    let agents = nodes.each_ref().map(Node::run);

    let mut count = 0;
    wait_until(SOON, "an item is answered 429", || {
        for log in &mut logs {
            for number in count..count + ROUND {
                log.line(&numbered(number));
            }
        }
        count += ROUND;
        // nothing is refused, as is seen below, so this is for items that are sent again
        agents.iter().any(|agent| agent.requests("partial") > 0)
    });
    for (agent, index) in agents.into_iter().zip(&indexes) {
        wait_until(SOON * 2, "all lines are indexed", || agent.lines("indexed") == count);
        assert_eq!(agent.lines("refused"), 0);
        assert_eq!(agent.terminate(), Some(0));
        assert_eq!(numbers(index), once_each(count));
    }
    assert!(rejected(&elastic) > before, "the server has turned somebody away");
}

/// How much may be in flight to the server; as it was when dropped.
struct InFlight<'a>(&'a Elastic);

impl InFlight<'_> {
    fn limit(&self, limit: &Value) {
        let settings = json!({"transient": {"network.breaker.inflight_requests.limit": limit}});
        // the one request that no breaker stops; by now a test may have failed already
        drop(self.0.try_ask(Method::Put, "_cluster/settings", &settings));
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.limit(&Value::Null);
    }
}

#[test]
fn a_circuit_breaker_that_trips_is_waited_for() {
    const BEFORE: usize = 300;
    const ALL: usize = 1500;
    let _alone = alone_with_the_frail_server();
    let elastic = Elastic::frail();
    let in_flight = InFlight(&elastic);
    let index = elastic.index(&json!({}));
    let pod = Pod::taskmanager("flink", "orders", 1);
    let node = Node::with_pods([&pod]);
    node.pipeline("flink", &pipeline(&index, &elastic.url));
    let mut log = Log::create(&node.root(), &pod, 0);
    let agent = node.run();
    for number in 0..BEFORE {
        log.line(&numbered(number));
    }
    wait_until(SOON, "the first lines are indexed", || agent.lines("indexed") == BEFORE);

    in_flight.limit(&"1kb".into());
    for number in BEFORE..ALL {
        log.line(&numbered(number));
    }
    wait_until(SOON, "a whole request is answered 429", || agent.requests("too_many_requests") > 1);
    in_flight.limit(&Value::Null);
    wait_until(SOON * 2, "all lines are indexed", || agent.lines("indexed") == ALL);
    assert_eq!(agent.lines("refused"), 0);
    assert_eq!(agent.terminate(), Some(0));
    assert_eq!(numbers(&index), once_each(ALL));
}
