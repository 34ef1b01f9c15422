use globset::Glob;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::enrich::facts::tests::{pod, stream};

fn glob(text: &str) -> GlobMatcher {
    Glob::new(text).unwrap().compile_matcher()
}

fn rule(take: bool) -> Rule {
    Rule {
        take,
        labels: BTreeMap::new(),
        namespace_labels: BTreeMap::new(),
        namespaces: Vec::new(),
        pods: Vec::new(),
        containers: Vec::new(),
        hosts: Vec::new(),
    }
}

fn globs(all: &[(&str, &str)]) -> BTreeMap<String, GlobMatcher> {
    all.iter().map(|(name, text)| (name.to_string(), glob(text))).collect()
}

fn by_labels(take: bool, labels: &[(&str, &str)]) -> Rule {
    Rule { labels: globs(labels), ..rule(take) }
}

fn in_namespace(take: bool, namespace: &str) -> Rule {
    Rule { namespaces: vec![glob(namespace)], ..rule(take) }
}

/// The rules of the shipped pipeline.
fn flink() -> Vec<Rule> {
    vec![
        by_labels(false, &[("splashdam.io/ignore", "true")]),
        by_labels(true, &[("component", "jobmanager"), ("type", "flink-*")]),
        by_labels(true, &[("component", "taskmanager"), ("type", "flink-*")]),
    ]
}

fn labelled(labels: &[(&str, &str)]) -> PodFacts {
    let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    PodFacts { labels, ..pod("u", "tm") }
}

fn check(rules: &[Rule], facts: Option<&PodFacts>, expected: Decision) {
    assert_eq!(decide(rules, &stream("u", "tm"), facts, ""), expected);
}

#[test]
fn the_first_rule_that_holds_decides() {
    let native = [("component", "taskmanager"), ("type", "flink-native-kubernetes")];
    check(&flink(), Some(&labelled(&native)), Decision::Take);
    let ignored = [native[0], native[1], ("splashdam.io/ignore", "true")];
    check(&flink(), Some(&labelled(&ignored)), Decision::Leave);
    check(&flink(), Some(&labelled(&native[..1])), Decision::Leave);
    check(&flink(), Some(&labelled(&[])), Decision::Leave);
    check(&[], Some(&labelled(&native)), Decision::Leave);
    check(&[rule(true)], None, Decision::Take);
    check(&[rule(false), rule(true)], None, Decision::Leave);
}

#[test]
fn all_criteria_of_a_rule_must_hold_and_any_glob_of_one() {
    let both = Rule {
        namespaces: vec![glob("other"), glob("fl*")],
        pods: vec![glob("tm")],
        containers: vec![glob("flink-*")],
        hosts: vec![glob("node-?")],
        ..rule(true)
    };
    check(std::slice::from_ref(&both), Some(&labelled(&[])), Decision::Take);
    for miss in [
        Rule { namespaces: vec![glob("other")], ..both.clone() },
        Rule { pods: vec![glob("jm")], ..both.clone() },
        Rule { containers: vec![glob("sidecar")], ..both.clone() },
        Rule { hosts: vec![glob("node")], ..both.clone() },
    ] {
        check(&[miss], Some(&labelled(&[])), Decision::Leave);
    }
}

#[test]
fn an_unknown_pod_is_decided_only_where_its_facts_change_nothing() {
    check(&flink(), None, Decision::NeedsFacts);
    check(&[in_namespace(false, "flink"), flink()[1].clone()], None, Decision::Leave);
    check(&[in_namespace(true, "flink"), flink()[0].clone()], None, Decision::Take);
    check(&[flink()[0].clone(), in_namespace(true, "flink")], None, Decision::NeedsFacts);
    check(&[flink()[1].clone(), in_namespace(true, "flink")], None, Decision::Take);
    check(&[flink()[0].clone()], None, Decision::Leave);
    let elsewhere = Rule { namespaces: vec![glob("other")], ..flink()[1].clone() };
    check(&[elsewhere, in_namespace(true, "flink")], None, Decision::Take);
}

#[test]
fn labels_of_the_namespace_are_waited_for_apart() {
    let rules =
        [Rule { namespace_labels: globs(&[("team", "orders")]), ..rule(true) }, rule(false)];
    assert!(needs_namespace_labels(&rules) && !needs_namespace_labels(&flink()));
    let mut facts = labelled(&[("team", "orders")]);
    check(&rules, Some(&facts), Decision::NeedsFacts);
    facts.namespace_labels = Some(BTreeMap::new());
    check(&rules, Some(&facts), Decision::Leave);
    facts.namespace_labels = Some(BTreeMap::from([("team".to_owned(), "orders".to_owned())]));
    check(&rules, Some(&facts), Decision::Take);
}

#[test]
fn the_agents_node_stands_in_for_the_pods() {
    let rules = [Rule { hosts: vec![glob("node-b")], ..rule(true) }];
    let stream = stream("u", "tm");
    assert_eq!(decide_by_path(&rules, &stream, ""), Decision::NeedsFacts);
    assert_eq!(decide_by_path(&rules, &stream, "node-b"), Decision::Take);
    let elsewhere = labelled(&[]);
    assert_eq!(decide(&rules, &stream, Some(&elsewhere), "node-b"), Decision::Leave);
    let nowhere = PodFacts { node: None, ..elsewhere };
    assert_eq!(decide(&rules, &stream, Some(&nowhere), "node-b"), Decision::Take);
    assert_eq!(decide(&rules, &stream, Some(&nowhere), ""), Decision::Leave);
}

/// The outcome for each way in which the rules that can't be told might turn out.
fn model(rules: &[Rule], known: &[Option<bool>]) -> Decision {
    let unknown: Vec<usize> = (0..rules.len()).filter(|i| known[*i].is_none()).collect();
    let outcomes: std::collections::BTreeSet<bool> = (0..1_u32 << unknown.len())
        .map(|assignment| {
            let holds = |index: usize| {
                known[index].unwrap_or_else(|| {
                    let bit = unknown.iter().position(|one| *one == index).unwrap();
                    assignment & (1 << bit) != 0
                })
            };
            (0..rules.len()).find(|index| holds(*index)).is_some_and(|index| rules[index].take)
        })
        .collect();
    match outcomes.iter().collect::<Vec<_>>()[..] {
        [true] => Decision::Take,
        [false] => Decision::Leave,
        _ => Decision::NeedsFacts,
    }
}

/// Whether each rule holds, said without globs: all patterns here are literal.
fn naive(rule: &Rule, facts: Option<&PodFacts>) -> Option<bool> {
    let any = |all: &[GlobMatcher], text: &str| {
        all.is_empty() || all.iter().any(|one| one.glob().glob() == text)
    };
    if !any(&rule.namespaces, "flink") || !any(&rule.pods, "tm") {
        return Some(false);
    }
    let wants = |wanted: &BTreeMap<String, GlobMatcher>, labels: &BTreeMap<String, String>| {
        wanted.iter().all(|(name, one)| labels.get(name).is_some_and(|v| v == one.glob().glob()))
    };
    let pod = match facts {
        _ if rule.labels.is_empty() => Some(true),
        Some(facts) => Some(wants(&rule.labels, &facts.labels)),
        None => None,
    };
    let namespace = match facts.and_then(|facts| facts.namespace_labels.as_ref()) {
        _ if rule.namespace_labels.is_empty() => Some(true),
        Some(labels) => Some(wants(&rule.namespace_labels, labels)),
        None => None,
    };
    match (pod, namespace) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

prop_compose! {
    fn any_rule()(
        take in any::<bool>(),
        namespace in select(vec!["", "flink", "other"]),
        pod in select(vec!["", "", "tm", "jm"]),
        label in select(vec!["", "a", "b"]),
        namespace_label in select(vec!["", "", "a"]),
    ) -> Rule {
        let list = |text: &str| if text.is_empty() { Vec::new() } else { vec![glob(text)] };
        let labels = |text: &str| if text.is_empty() { BTreeMap::new() } else { globs(&[("l", text)]) };
        Rule {
            namespaces: list(namespace),
            pods: list(pod),
            labels: labels(label),
            namespace_labels: labels(namespace_label),
            ..rule(take)
        }
    }
}

prop_compose! {
    fn any_facts()(
        label in select(vec!["", "a", "b"]),
        namespace_label in proptest::option::of(select(vec!["", "a"])),
    ) -> PodFacts {
        let map = |text: &str| BTreeMap::from([("l".to_owned(), text.to_owned())]);
        PodFacts {
            labels: map(label),
            namespace_labels: namespace_label.map(map),
            ..pod("u", "tm")
        }
    }
}

proptest! {
    #[test]
    fn decisions_are_those_of_the_model(
        rules in proptest::collection::vec(any_rule(), 0..6),
        facts in proptest::option::of(any_facts()),
    ) {
        let known: Vec<_> = rules.iter().map(|rule| naive(rule, facts.as_ref())).collect();
        let decision = decide(&rules, &stream("u", "tm"), facts.as_ref(), "");
        prop_assert_eq!(decision, model(&rules, &known));
    }

    #[test]
    fn what_is_decided_early_stays_when_facts_come(
        rules in proptest::collection::vec(any_rule(), 0..6),
        facts in any_facts(),
    ) {
        let early = decide_by_path(&rules, &stream("u", "tm"), "");
        if early != Decision::NeedsFacts {
            prop_assert_eq!(decide(&rules, &stream("u", "tm"), Some(&facts), ""), early);
        }
    }
}
