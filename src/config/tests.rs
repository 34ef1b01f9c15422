//! Whole configurations: what is accepted, and the words for what isn't.

use std::fs;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::agent::{PodSource, Start};
use super::pipeline::{Auth, Compression, Filter, IndexName, Secret, Target, Test, Verify};
use super::*;

const PEM: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

/// A pipeline that is fine, to test others beside.
const PIPELINE: &str = "pipeline: p\nselect: [{select: {}}]\noutput: {stdout: {}}\n";

/// Files in a directory of their own, removed with it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = folder.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text.replace("DIR", &folder.0.path().display().to_string())).unwrap();
        }
        folder
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// The text with the folder's path as `DIR`.
    fn shown(&self, text: &impl std::fmt::Display) -> String {
        text.to_string().replace(&self.0.path().display().to_string(), "DIR")
    }

    fn load(&self, variables: &[(&str, &str)]) -> Result<Loaded, String> {
        let agent = self.path("agent.yaml");
        let environment: Environment = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        load(Some(&agent), Some(&self.path("p")), &environment)
            .map_err(|problems| self.shown(&problems))
    }
}

/// The warnings of a configuration that is fine, or its problems.
fn outcome(folder: &Folder, variables: &[(&str, &str)]) -> String {
    match folder.load(variables) {
        Ok(loaded) => folder.shown(&Problems(loaded.warnings)),
        Err(problems) => problems,
    }
}

fn check_agent(text: &str, variables: &[(&str, &str)], expected: &str) {
    let folder = Folder::new(&[("agent.yaml", text), ("p/p.yaml", PIPELINE)]);
    assert_eq!(outcome(&folder, variables), expected, "\n{text}");
}

const OFFLINE: &str = "kubernetes: {source: none}\n";

fn check_pipeline(text: &str, expected: &str) {
    let folder = Folder::new(&[("agent.yaml", OFFLINE), ("p/p.yaml", text), ("ca.crt", PEM)]);
    assert_eq!(outcome(&folder, &[("SECRET", "hunter2")]), expected, "\n{text}");
}

/// A pipeline with this Elasticsearch output, its keys in line 5 and on.
fn check_elasticsearch(keys: &str, expected: &str) {
    let keys = keys.replace('\n', "\n    ");
    check_pipeline(
        &format!(
            "pipeline: p\nselect: [{{select: {{}}}}]\noutput:\n  elasticsearch:\n    {keys}\n"
        ),
        expected,
    );
}

/// A pipeline with this filter in line 4.
fn check_filter(filter: &str, expected: &str) {
    check_pipeline(
        &format!(
            "pipeline: p\nselect: [{{select: {{}}}}]\nfilters:\n  - {filter}\noutput: {{stdout: {{}}}}\n"
        ),
        expected,
    );
}

fn pipeline(text: &str) -> Pipeline {
    let folder = Folder::new(&[
        ("agent.yaml", OFFLINE),
        ("p/p.yaml", text),
        ("ca.crt", PEM),
        ("secrets/elastic", "changeme\n"),
    ]);
    folder.load(&[]).unwrap().pipelines.remove(0)
}

fn elasticsearch(pipeline: &Pipeline) -> &pipeline::Elasticsearch {
    match &pipeline.output.target {
        Target::Elasticsearch(elasticsearch) => elasticsearch,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_reference_configuration_is_the_defaults() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Folder::new(&[("p/p.yaml", PIPELINE)]);
    let node = ("NODE_NAME".to_owned(), "worker-1".to_owned());
    let environment: Environment = [node].into_iter().collect();
    let loaded =
        load(Some(&root.join("config/agent.yaml")), Some(&folder.path("p")), &environment).unwrap();
    let expected =
        Agent { node_name: "worker-1".to_owned(), pipelines: folder.path("p"), ..Agent::default() };
    assert_eq!(loaded.agent, expected);
}

#[test]
fn the_reference_configuration_and_the_documentation_name_every_key() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("config/agent.yaml")).unwrap();
    let reference = yaml::documents(&"agent.yaml".into(), &text, &Report::default()).remove(0);
    let documentation = include_str!("../../docs/configuration.md");
    let sections = ["", "logs", "held", "state", "memory", "kubernetes", "shutdown", "telemetry"];
    let mut keys = 0;
    for section in sections {
        let (text, node) = match section {
            "" => ("nonsense: 1\n".to_owned(), &reference),
            section => (format!("{section}: {{nonsense: 1}}\n"), reference.get(section).unwrap()),
        };
        let folder = Folder::new(&[("agent.yaml", &text), ("p/p.yaml", PIPELINE)]);
        let problems = outcome(&folder, &[("NODE_NAME", "n")]);
        // The names stand between backticks.
        let (_, known) = problems.split_once("; known here: ").unwrap();
        for key in known.split('`').skip(1).step_by(2) {
            assert!(node.get(key).is_some(), "{section} {key}");
            if !sections.contains(&key) {
                let dot = if section.is_empty() { "" } else { "." };
                let row = format!("\n| `{section}{dot}{key}` |");
                assert!(documentation.contains(&row), "{row}");
            }
            keys += 1;
        }
    }
    assert_eq!(keys, 11 + 7 + 3 + 2 + 1 + 4 + 1 + 1);
}

#[test]
fn the_shipped_pipeline_loads() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("pipelines/flink.yaml")).unwrap();
    let pipeline = pipeline(&text.replace("/etc/splashdam", "DIR"));
    assert_eq!((pipeline.name.as_str(), pipeline.id_scope.as_str()), ("flink", ""));
    assert_eq!(pipeline.parse.json_time.as_deref(), Some("@timestamp"));
    assert_eq!(pipeline.parse.multiline, Some(pipeline::Multiline::Java));
    assert!(pipeline.select[0].labels["type"].is_match("flink-native-kubernetes"));
    assert!(!pipeline.select[1].labels["component"].is_match("jobmanager"));
    let target = elasticsearch(&pipeline);
    assert_eq!(target.hosts, ["https://quickstart-es-http.logging.svc:9200"]);
    assert_eq!(target.index, IndexName::Fixed("fluentd".to_owned()));
    assert_eq!(target.tls.verify, Verify::Full);
    let Auth::Basic { user, password: Secret::File(path) } = &target.auth else { panic!() };
    assert!(user == "elastic" && path.ends_with("secrets/elastic"));
}

#[test]
fn the_agent_file_and_its_overrides() {
    let folder = Folder::new(&[
        (
            "agent.yaml",
            "node_name: ${NODE_NAME}\nthreads: ${N}\nlogs: {start: 1h30m, max_line: \"${LINE:-2MiB}\"}\n\
             memory:\nkubernetes: {source: file, file: DIR/pods.json}\ntelemetry: {listen: none}\n",
        ),
        ("pods.json", "{}"),
        ("p/p.yaml", PIPELINE),
    ]);
    let variables = [
        ("NODE_NAME", "n"),
        ("N", "4"),
        ("SPLASHDAM_LOGS__ROOT", "/logs"),
        ("SPLASHDAM_MEMORY__BUDGET", "32MiB"),
        ("SPLASHDAM_NODE_NAME", "${N}"),
        ("SPLASHDAM_SERVICE_HOST", "10.0.0.1"),
    ];
    let agent = folder.load(&variables).unwrap().agent;
    assert_eq!((agent.node_name.as_str(), agent.threads), ("4", 4));
    assert_eq!(agent.logs.start, Start::Since(Duration::from_secs(5400)));
    assert_eq!(agent.logs.max_line_bytes, 2 << 20);
    assert_eq!(agent.logs.root, Path::new("/logs"));
    assert_eq!(agent.memory_budget_bytes, 32 << 20);
    assert_eq!(agent.kubernetes.source, PodSource::File(folder.path("pods.json")));
    assert_eq!(agent.telemetry_listen, None);
}

#[test]
fn mistakes_in_the_agent_file() {
    for (text, expected) in [
        ("thraeds: 2\n", "DIR/agent.yaml:1:1: unknown key `thraeds`; did you mean `threads`?"),
        (
            "logs:\n  docker-root: /x\n",
            "DIR/agent.yaml:2:3: unknown key `docker-root`; did you mean `docker_root`?",
        ),
        ("shutdown: {x: 1}\n", "DIR/agent.yaml:1:12: unknown key `x`; known here: `drain`"),
        (
            "threads: many\n",
            "DIR/agent.yaml:1:10: expected a whole number from 1 to 64, found `many`",
        ),
        ("threads: 65\n", "DIR/agent.yaml:1:10: expected a whole number from 1 to 64, found `65`"),
        (
            "threads: [1]\n",
            "DIR/agent.yaml:1:10: expected a whole number from 1 to 64, found a list",
        ),
        ("threads:\n", "DIR/agent.yaml:1:8: expected a whole number from 1 to 64, found nothing"),
        (
            "threads: ${SECRET}\n",
            "DIR/agent.yaml:1:10: expected a whole number from 1 to 64, found the value of `${SECRET}`",
        ),
        ("logs: here\n", "DIR/agent.yaml:1:7: expected a mapping, found `here`"),
        (
            "logs: {format: json}\n",
            "DIR/agent.yaml:1:16: expected `auto`, `cri` or `docker`, found `json`",
        ),
        (
            "logs: {max_line: 64Mi}\n",
            "DIR/agent.yaml:1:18: expected a size from 1KiB to 16MiB, such as 1MiB, 10MB or 4096, found `64Mi`",
        ),
        (
            "logs: {rescan: 5}\n",
            "DIR/agent.yaml:1:16: expected a duration from 100ms to 5m, such as 250ms, 5s or 1h30m, found `5`",
        ),
        (
            "logs: {start: beginning}\n",
            "DIR/agent.yaml:1:15: expected `oldest`, `newest` or a duration such as 1h, found `beginning`",
        ),
        (
            "logs: {include_self: yes}\n",
            "DIR/agent.yaml:1:22: expected `true` or `false`, found `yes`",
        ),
        (
            "memory: {budget: 1MiB}\n",
            "DIR/agent.yaml:1:18: expected a size from 8MiB to 64GiB, such as 1MiB, 10MB or 4096, found `1MiB`",
        ),
        (
            "memory: {budget: 8MiB}\nlogs: {max_line: 4MiB}\n",
            "DIR/agent.yaml:2:18: `logs.max_line` (4MiB) may be at most a quarter of `memory.budget`, that is 2MiB",
        ),
        (
            "telemetry: {listen: 9102}\n",
            "DIR/agent.yaml:1:21: expected an address and port such as 0.0.0.0:9102 or \"[::]:9102\", or `none`, found `9102`",
        ),
        (
            "threads: 1\nthreads: 2\n",
            "DIR/agent.yaml:2:1: duplicate key `threads`, the first is in line 1",
        ),
        (
            "held: {max_byte: 2GiB}\n",
            "DIR/agent.yaml:1:8: unknown key `max_byte`; did you mean `max_bytes`?",
        ),
        (
            "telemetry: {status_listen: 127.0.0.1:9103}\n",
            "DIR/agent.yaml:1:13: `status_listen` is not available in this version",
        ),
        (
            "state: {dir: \"${HOME_OF}\"}\n",
            "DIR/agent.yaml:1:14: the variable `HOME_OF` is not set; set it or write a default: `${HOME_OF:-...}`",
        ),
        (
            "state: {dir: \"${file:DIR/no}\"}\n",
            "DIR/agent.yaml:1:14: cannot read DIR/no: No such file or directory",
        ),
        (
            "a: 1\n---\nb: 1\n",
            "DIR/agent.yaml:3:1: the agent's file must hold one document\nDIR/agent.yaml:1:1: unknown key `a`; known here: `node_name`, `logs`, `held`, `state`, `memory`, `threads`, `kubernetes`, `shutdown`, `telemetry`, `pipelines` or `secrets`",
        ),
        (
            "logs: {root: [}\n",
            "DIR/agent.yaml:1:15: not valid YAML: while parsing a node, did not find expected node content",
        ),
    ] {
        check_agent(text, &[("NODE_NAME", "n"), ("SECRET", "hunter2")], expected);
    }
}

#[test]
fn a_node_name_is_needed_for_the_api_only() {
    let needed = "`node_name` is needed to ask for this node's pods: set the variable NODE_NAME \
                  from the pod's `spec.nodeName`, or write `kubernetes: {source: none}`";
    check_agent("", &[], &format!("DIR/agent.yaml: {needed}"));
    check_agent("threads: 1\nnode_name: ''\n", &[], &format!("DIR/agent.yaml:2:12: {needed}"));
    check_agent(OFFLINE, &[], "");
    check_agent(
        "kubernetes: {source: file, file: DIR/no.json}\n",
        &[],
        "DIR/agent.yaml:1:34: cannot read DIR/no.json: No such file or directory; write `kubectl \
         get pods -A -o json` to it",
    );
}

#[test]
fn the_operator_is_asked_only_beside_the_pods() {
    let place = "DIR/agent.yaml:1";
    let needed = "`kubernetes.flink: watch` needs `kubernetes.source: api`";
    let node = [("NODE_NAME", "n")];
    check_agent("kubernetes: {flink: watch}\n", &node, "");
    check_agent("kubernetes: {source: none, flink: off}\n", &[], "");
    let none = "kubernetes: {source: none, flink: watch}\n";
    check_agent(none, &[], &format!("{place}:35: {needed}"));
    let wrong = "kubernetes: {flink: on}\n";
    check_agent(wrong, &node, &format!("{place}:21: expected `off` or `watch`, found `on`"));
}

#[test]
fn mistakes_in_overrides() {
    for (name, value, expected) in [
        (
            "SPLASHDAM_THREADS",
            "0",
            "SPLASHDAM_THREADS: expected a whole number from 1 to 64, found `0`",
        ),
        (
            "SPLASHDAM_LOGS__ROOOT",
            "/x",
            "SPLASHDAM_LOGS__ROOOT: unknown key `rooot`; did you mean `SPLASHDAM_LOGS__ROOT`?",
        ),
        (
            "SPLASHDAM_LOG__ROOT",
            "/x",
            "SPLASHDAM_LOG__ROOT: unknown key `log`; did you mean `SPLASHDAM_LOGS__ROOT`?",
        ),
        (
            "SPLASHDAM_NODENAME",
            "x",
            "SPLASHDAM_NODENAME: unknown key `nodename`; did you mean `SPLASHDAM_NODE_NAME`?",
        ),
        ("SPLASHDAM_LOGS", "/x", "SPLASHDAM_LOGS: expected a mapping, found `/x`"),
    ] {
        check_agent(OFFLINE, &[(name, value)], expected);
    }
}

#[test]
fn mistakes_in_pipelines() {
    for (text, expected) in [
        (
            "pipeline: p\noutput: {stdout: {}}\n",
            "DIR/p/p.yaml:1:1: `select` is missing; to take the lines of every container write `select: [{select: {}}]`",
        ),
        (
            "select: [{select: {}}]\noutput: {stdout: {}}\n",
            "DIR/p/p.yaml:1:1: `pipeline` is missing; write `pipeline: flink`",
        ),
        (
            "pipeline: p\nselect: [{select: {}}]\n",
            "DIR/p/p.yaml:1:1: `output` is missing; write `output: {stdout: {}}`",
        ),
        (
            "pipeline: a b\nselect: []\noutput: {}\n",
            "DIR/p/p.yaml:1:11: expected a name of letters, digits, `.`, `_`, `-` and `/`, at most 128, found `a b`\nDIR/p/p.yaml:2:9: expected a list such as [{select: {}}], found an empty list\nDIR/p/p.yaml:3:9: expected exactly one of `elasticsearch`, `stdout` or `file`, found none",
        ),
        (
            "pipeline: p\nselect: [{take: {}}]\noutput: {kafka: {}}\n",
            "DIR/p/p.yaml:2:11: expected `select` or `exclude`, found `take`\nDIR/p/p.yaml:3:10: unknown output `kafka`; known here: `elasticsearch`, `stdout` or `file`",
        ),
        (
            "pipeline: p\nselect: [{select: {pods: [\"a[\"]}}]\noutput: {stdout: }\n",
            "DIR/p/p.yaml:2:27: expected a glob such as flink-* (unclosed character class; missing ']'), found `a[`",
        ),
        (
            "pipeline: p\nselect: [{select: {label: {a: b}}}]\noutput: {stdout: }\n",
            "DIR/p/p.yaml:2:20: unknown key `label`; did you mean `labels`?",
        ),
        (
            "pipeline: p\nselect: [{select: {}}]\nparse: {multiline: python}\noutput: {stdout: }\n",
            "DIR/p/p.yaml:3:20: expected `java` or `none`, found `python`",
        ),
        (
            "pipeline: p\nselect: [{select: {}}]\noutput: {file: {}}\n",
            "DIR/p/p.yaml:3:16: `path` is missing; write `path: /tmp/documents.ndjson`",
        ),
        (
            "pipeline: p\nselect: [{select: {}}]\noutput: {stdout: {batch: {size: 1KiB}}}\n",
            "DIR/p/p.yaml:3:33: expected a size from 16KiB to 64MiB, such as 1MiB, 10MB or 4096, found `1KiB`",
        ),
        (
            "pipeline: p\nselect: [{select: {}}]\noutput: {stdout: {batch: {size: 32MiB, linger: 11s}}}\n",
            "DIR/p/p.yaml:3:33: a batch may be at most a quarter of `memory.budget`, that is 16MiB\nDIR/p/p.yaml:3:48: expected a duration from 0s to 10s, such as 250ms, 5s or 1h30m, found `11s`",
        ),
        (
            "pipeline: p\nselect: [{select: {}}]\noutput: {stdout: }\ntests: []\n",
            "DIR/p/p.yaml:4:1: `tests` is not available in this version",
        ),
        (
            "# nothing\n",
            "DIR/p: no pipeline here: expected files `*.yaml` or `*.yml`, each with at least `pipeline`, `select` and `output`, or a Flow with its output",
        ),
        ("- pipeline: p\n", "DIR/p/p.yaml:1:1: expected a mapping, found a list"),
        (
            "pipeline: p\nselect: [{select: {}}]\noutput: {stdout: }\n---\npipeline: p\nselect: x\noutput: {stdout: }\n",
            "DIR/p/p.yaml:6:9: expected a list such as [{select: {}}], found `x`\nDIR/p/p.yaml:5:11: a second pipeline `p`; the first is at DIR/p/p.yaml:1:11",
        ),
    ] {
        check_pipeline(text, expected);
    }
}

#[test]
fn mistakes_in_filters() {
    for (filter, expected) in [
        (
            "drpo: {field: a, equals: b}",
            "DIR/p/p.yaml:4:5: unknown filter `drpo`; did you mean `drop`?",
        ),
        (
            "{drop: {field: a, equals: b}, keep: {field: a, equals: b}}",
            "DIR/p/p.yaml:4:5: expected exactly one of `drop`, `keep`, `add`, `remove`, `rename`, `redact`, `sample` or `throttle`, found `drop`, `keep`",
        ),
        (
            "drop: {}",
            "DIR/p/p.yaml:4:11: expected `field` with one of `in`, `equals`, `matches` or `exists`, such as `{field: log.level, in: [TRACE, DEBUG]}`",
        ),
        (
            "drop: {field: a}",
            "DIR/p/p.yaml:4:11: expected exactly one of `in`, `equals`, `matches` or `exists` with `field`, found 0",
        ),
        (
            "drop: {field: a, in: [b], equals: b}",
            "DIR/p/p.yaml:4:11: expected exactly one of `in`, `equals`, `matches` or `exists` with `field`, found 2",
        ),
        ("drop: {equals: b}", "DIR/p/p.yaml:4:11: `field` is missing; write `field: log.level`"),
        (
            "drop: {field: a..b, exists: true}",
            "DIR/p/p.yaml:4:19: expected the name of a field, such as log.level, found `a..b`",
        ),
        (
            "drop: {field: a, exists: false}",
            "DIR/p/p.yaml:4:30: `exists` takes only `true`; for the opposite use `keep` in place of `drop`",
        ),
        (
            "keep: {field: a, matches: \"(\"}",
            "DIR/p/p.yaml:4:31: expected a regular expression (unclosed group), found `(`",
        ),
        (
            "redact: {field: a, pattern: b}",
            "DIR/p/p.yaml:4:13: `with` is missing; write `with: \"***\"`",
        ),
        (
            "sample: {keep: 2/1}",
            "DIR/p/p.yaml:4:20: expected a fraction above zero and up to one, such as 1/100, found `2/1`",
        ),
        (
            "throttle: {by: a, rate: 5000}",
            "DIR/p/p.yaml:4:29: expected a rate above zero, such as 5000/s or 100/m, found `5000`",
        ),
        (
            "remove: a",
            "DIR/p/p.yaml:4:13: expected a list such as [process.thread.name], found `a`",
        ),
    ] {
        check_filter(filter, expected);
    }
}

#[test]
fn mistakes_in_elasticsearch() {
    for (keys, expected) in [
        (
            "index: a",
            "DIR/p/p.yaml:5:5: `hosts` is missing; write `hosts: [https://elasticsearch:9200]`",
        ),
        (
            "hosts: http://es:9200",
            "DIR/p/p.yaml:5:12: expected a list such as [https://elasticsearch:9200], found `http://es:9200`",
        ),
        (
            "hosts: [es]",
            "DIR/p/p.yaml:5:13: not a URL (relative URL without a base); write scheme, host and port, such as https://elasticsearch:9200",
        ),
        (
            "hosts: [\"http://elastic:${SECRET}@es:9200\"]",
            "DIR/p/p.yaml:5:13: a URL must not hold a user or password: they have keys of their own, `user` and `password`",
        ),
        (
            "hosts: [http://es]\nindex: Fluentd",
            "DIR/p/p.yaml:6:12: the name of an index must be in lower case",
        ),
        (
            "hosts: [http://es]\nindex: fluentd-%Y.%M",
            "DIR/p/p.yaml:6:12: the name of an index takes `%Y`, `%m`, `%d` and `%H`, and no other `%`",
        ),
        (
            "hosts: [http://es]\nuser: elastic",
            "DIR/p/p.yaml:6:11: `user` needs a `password`, such as `password: ${file:/etc/splashdam/secrets/elastic}`",
        ),
        ("hosts: [http://es]\npassword: hunter2", "DIR/p/p.yaml:6:15: `password` needs a `user`"),
        (
            "hosts: [http://es]\nuser: elastic\npassword: [hunter2]",
            "DIR/p/p.yaml:7:15: expected text or ${file:PATH}",
        ),
        (
            "hosts: [http://es]\nuser: elastic\npassword: ${file:DIR/no}",
            "DIR/p/p.yaml:7:15: cannot read DIR/no: No such file or directory",
        ),
        (
            "hosts: [http://es]\nuser: elastic\npassword: ''",
            "DIR/p/p.yaml:7:15: this secret is empty",
        ),
        (
            "hosts: [http://es]\nuser: elastic\npassword: hunter2\napi_key: hunter3",
            "DIR/p/p.yaml:8:14: `api_key` can't stand together with `user` and `password`",
        ),
        (
            "hosts: [https://es]\ntls: {verify: false, ca: DIR/no.crt}",
            "DIR/p/p.yaml:6:19: expected `full`, `certificate` or `none`, found `false`\nDIR/p/p.yaml:6:30: cannot read DIR/no.crt: No such file or directory",
        ),
        (
            "hosts: [https://es]\ntls: {ca: DIR/p/p.yaml}",
            "DIR/p/p.yaml:6:15: DIR/p/p.yaml holds no PEM (`-----BEGIN ...`)",
        ),
        ("hosts: [https://es]\ntls: {cert: DIR/ca.crt}", "DIR/p/p.yaml:6:17: `cert` needs a `key`"),
        (
            "hosts: [http://es]\ntls: {verify: none}",
            "DIR/p/p.yaml:6:10: `tls` has no effect: every host begins with `http://`",
        ),
        (
            "hosts: [http://es]\nrefused: keep\nrefused_after: 1s",
            "DIR/p/p.yaml:6:14: expected `reindex`, `dead_letter` or `drop`, found `keep`\nDIR/p/p.yaml:7:20: expected a duration from 1m to 720h, such as 250ms, 5s or 1h30m, found `1s`",
        ),
    ] {
        check_elasticsearch(keys, expected);
    }
}

#[test]
fn a_full_pipeline() {
    let pipeline = pipeline(
        "pipeline: full\nid_scope: team-a\nselect:\n  - exclude: {labels: {splashdam.io/ignore: true}}\n  \
         - select: {namespaces: [flink, \"team-*\"], namespace_labels: {a: b}, containers: [main], hosts: [\"*\"], pods: [\"a?\"]}\n\
         filters:\n  - drop: {field: log.level, in: [TRACE, DEBUG]}\n  - redact: {field: message, pattern: \"password=\\\\S+\", with: \"$${x}\"}\n  \
         - add: {environment: production, n: 1, q: \"1\", b: true, f: 1.5, o: {p: [~]}}\n  - remove: [a.b]\n  \
         - rename: {from: a, to: b}\n  - sample: {field: a, equals: 5, keep: 1/100}\n  - throttle: {by: a, rate: 10/30s}\n  \
         - keep: {field: a, exists: true}\noutput:\n  elasticsearch:\n    hosts: [https://ES/x/, http://es:9200]\n    api_key: hunter2\n    \
         tls: {verify: certificate, ca: DIR/ca.crt, cert: DIR/ca.crt, key: DIR/ca.crt}\n    index: logs-%Y.%m\n    document: ecs\n    \
         compression: none\n    batch: {size: 16KiB, linger: 0}\n    refused: drop\n    refused_after: 7d\n",
    );
    assert_eq!(pipeline.id_scope, "team-a");
    assert!(!pipeline.select[0].take && pipeline.select[1].take);
    assert!(pipeline.select[0].labels["splashdam.io/ignore"].is_match("true"));
    assert!(pipeline.select[1].namespaces[1].is_match("team-a/b"));
    assert!(pipeline.select[1].pods[0].is_match("ab") && !pipeline.select[1].pods[0].is_match("a"));
    let Filter::Drop(condition) = &pipeline.filters[0] else { panic!() };
    assert!(matches!(&condition.test, Test::In(values) if values == &["TRACE", "DEBUG"]));
    let Filter::Redact { with, .. } = &pipeline.filters[1] else { panic!() };
    assert_eq!(with, "${x}");
    let Filter::Add(fields) = &pipeline.filters[2] else { panic!() };
    let fields: Vec<String> = fields.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(
        fields.join(" "),
        "environment=\"production\" n=1 q=\"1\" b=true f=1.5 o={\"p\":[null]}"
    );
    assert!(matches!(pipeline.filters[5], Filter::Sample { condition: Some(_), keep: 1, of: 100 }));
    let target = elasticsearch(&pipeline);
    assert_eq!(target.hosts, ["https://es:443/x", "http://es:9200"]);
    assert_eq!(target.index, IndexName::ByDate("logs-%Y.%m".to_owned()));
    assert_eq!(target.compression, Compression::None);
    assert!(target.tls.client.is_some() && matches!(target.auth, Auth::ApiKey(Secret::Inline(_))));
    assert!(!format!("{pipeline:?}").contains("hunter2"));
}

#[test]
fn which_files_count() {
    let folder = Folder::new(&[
        ("agent.yaml", OFFLINE),
        ("p/b.yml", PIPELINE),
        (
            "p/a.yaml",
            "pipeline: a\nselect: [{select: {}}]\noutput: {stdout: }\n---\npipeline: c\nselect: [{select: {}}]\noutput: {file: {path: /x}}\n",
        ),
        ("p/..data/a.yaml", "x"),
        ("p/.hidden.yaml", "x: y"),
        ("p/README.md", "x: y"),
    ]);
    let names = |loaded: Loaded| loaded.pipelines.into_iter().map(|p| p.name).collect::<Vec<_>>();
    assert_eq!(names(folder.load(&[]).unwrap()), ["a", "c", "p"]);
    let environment = Environment::default();
    let agent = folder.path("agent.yaml");
    let one = load(Some(&agent), Some(&folder.path("p/b.yml")), &environment).unwrap();
    assert_eq!(names(one), ["p"]);
    let none = load(Some(&agent), Some(&folder.path("q")), &environment).unwrap_err();
    assert_eq!(folder.shown(&none), "DIR/q: cannot read the pipelines: No such file or directory");
    let none = load(Some(&folder.path("no.yaml")), Some(&folder.path("p")), &environment);
    let none = folder.shown(&none.unwrap_err());
    assert!(none.starts_with("DIR/no.yaml: cannot read DIR/no.yaml: No such file"), "{none}");
}

#[test]
fn pipelines_that_write_the_same_documents() {
    let pipeline = |name: &str, select: &str, rest: &str| {
        format!(
            "---\npipeline: {name}\nselect: [{select}]\noutput: {{elasticsearch: {{hosts: [http://es]}}}}\n{rest}"
        )
    };
    let check = |a: &str, b: &str, rest: &str, expected: &str| {
        let text = pipeline("a", a, "") + &pipeline("b", b, rest);
        check_pipeline(&text, expected);
    };
    let certain = "DIR/p/p.yaml:6:11: takes the same streams as `a` (DIR/p/p.yaml:2:11) and writes \
                   them to the same index with the same `id_scope`; give one of them another \
                   `id_scope` or index";
    let possible = "DIR/p/p.yaml:6:11: may take the same streams as `a` (DIR/p/p.yaml:2:11) and \
                    writes them to the same index with the same `id_scope`; if so, give one of \
                    them another `id_scope` or index";
    check("{select: {}}", "{select: {}}", "", certain);
    check("{select: {}}", "{select: {}}", "id_scope: b\n", "");
    check("{select: {namespaces: [a]}}", "{select: {pods: [b]}}", "", possible);
    check("{select: {namespaces: [a]}}", "{select: {namespaces: [b, c]}}", "", "");
    check("{select: {namespaces: [a]}}", "{select: {namespaces: [b, \"?\"]}}", "", possible);
    check("{select: {labels: {x: a}}}", "{select: {labels: {x: \"b*\"}}}", "", "");
    check("{select: {labels: {x: \"a*\"}}}", "{select: {labels: {x: \"b*\"}}}", "", possible);
}

const FLOW: &str = include_str!("../../tests/fixtures/operator/elastic-flow.yaml");
const CLUSTER_OUTPUT: &str = include_str!("../../tests/fixtures/operator/elastic-output.yaml");

fn operator_folder(files: &[(&str, &str)]) -> Folder {
    let mut all = vec![
        ("agent.yaml", "kubernetes: {source: none}\nsecrets: DIR/secrets\n"),
        ("secrets/quickstart-es-elastic-user/elastic", "changeme"),
        ("secrets/tls/ca.crt", PEM),
    ];
    all.extend(files);
    Folder::new(&all)
}

/// A flow with this `spec` in line 4 and on, beside an output `o` of its namespace and the
/// ClusterOutput `es-output`.
fn check_flow(kind: &str, spec: &str, expected: &str) {
    let flow = format!(
        "{{apiVersion: logging.banzaicloud.io/v1beta1, kind: {kind},\n metadata: {{name: f, namespace: n}},\n \
         spec: {{\n{spec}}}}}"
    );
    let output = "{apiVersion: logging.banzaicloud.io/v1beta1, kind: Output, metadata: {name: o, namespace: n}, spec: {elasticsearch: {host: es}}}";
    let secured = CLUSTER_OUTPUT
        .replace("spec:\n", "spec:\n  protected: true\n")
        .replace("es-output", "secured");
    let folder = operator_folder(&[
        ("p/f.yaml", &flow),
        ("p/o.yaml", output),
        ("p/c.yaml", CLUSTER_OUTPUT),
        ("p/s.yaml", &secured),
    ]);
    let shown = outcome(&folder, &[]);
    let shown: Vec<&str> = shown.lines().filter(|line| line.contains("/f.yaml")).collect();
    assert_eq!(shown.join("\n"), expected, "\n{spec}");
}

/// A ClusterOutput with these `elasticsearch` fields in line 5 and on, beside a flow to it.
fn output_of(fields: &str) -> (Folder, Result<Loaded, String>) {
    let output = format!(
        "apiVersion: logging.banzaicloud.io/v1beta1\nkind: ClusterOutput\nmetadata: {{name: es-output}}\n\
         spec: {{elasticsearch: {{\n {fields}}}}}\n"
    );
    let flow = FLOW.replace("name: es-flow", "name: es-flow\n  namespace: n");
    let folder = operator_folder(&[("p/f.yaml", &flow), ("p/o.yaml", &output)]);
    let loaded = folder.load(&[]);
    (folder, loaded)
}

fn check_output(fields: &str, expected: &str) {
    let (folder, loaded) = output_of(fields);
    let shown = match loaded {
        Ok(loaded) => folder.shown(&Problems(loaded.warnings)),
        Err(problems) => problems,
    };
    assert_eq!(shown, expected, "\n{fields}");
}

#[test]
fn the_operators_listings_work_unchanged() {
    let folder = operator_folder(&[("p/flow.yaml", FLOW), ("p/output.yaml", CLUSTER_OUTPUT)]);
    let loaded = folder.load(&[]).unwrap();
    assert_eq!(
        folder.shown(&Problems(loaded.warnings)),
        "DIR/p/flow.yaml:4:9: no `metadata.namespace`: this Flow takes the pods of every namespace\n\
         DIR/p/output.yaml:19:7: without effect here: `buffer.timekey`, `buffer.timekey_use_utc`, \
         `buffer.timekey_wait`"
    );
    let [pipeline] = loaded.pipelines.as_slice() else { panic!() };
    assert_eq!(pipeline.name, "default/es-flow");
    assert_eq!(pipeline.id_scope, "default/es-flow");
    assert_eq!(pipeline.parse.json_time.as_deref(), Some("@timestamp"));
    assert_eq!(pipeline.parse.multiline, Some(pipeline::Multiline::Java));
    assert_eq!(pipeline.select.len(), 2);
    assert!(pipeline.select[0].take && pipeline.select[0].namespaces.is_empty());
    assert!(pipeline.select[0].labels["component"].is_match("jobmanager"));
    let target = elasticsearch(pipeline);
    assert_eq!(target.hosts, ["https://quickstart-es-http.logging.svc.cluster.local:9200"]);
    assert_eq!(target.index, IndexName::Fixed("fluentd".to_owned()));
    assert_eq!(target.tls.verify, Verify::None);
    assert_eq!(target.compression, Compression::Gzip);
    let Auth::Basic { user, password: Secret::File(path) } = &target.auth else { panic!() };
    assert_eq!(user, "elastic");
    assert_eq!(*path, folder.path("secrets/quickstart-es-elastic-user/elastic"));
}

#[test]
fn flows_keep_their_meaning() {
    let flow = "{apiVersion: logging.banzaicloud.io/v1beta1, kind: Flow, metadata: {name: f, namespace: n}, \
                spec: {localOutputRefs: [o], globalOutputRefs: [es-output], match: [\
                {exclude: {labels: {a: \"x*\"}}}, {select: {container_names: [main], hosts: [h]}}, {select: {}}]}}";
    let cluster = "{apiVersion: v1, kind: List, items: [\
                   {apiVersion: logging.banzaicloud.io/v1beta1, kind: ClusterFlow, metadata: {name: c, namespace: logging}, \
                   status: {active: true}, spec: {globalOutputRefs: [es-output]}},\
                   {apiVersion: logging.banzaicloud.io/v1beta1, kind: Output, metadata: {name: o, namespace: n}, \
                   spec: {elasticsearch: {host: \"${es}\"}}},\
                   {apiVersion: logging.banzaicloud.io/v1beta1, kind: Logging, metadata: {name: l}, spec: {fluentd: {}}}]}";
    let cluster = cluster.replace("\"${es}\"", "es");
    let folder = operator_folder(&[
        ("p/f.yaml", flow),
        ("p/l.yaml", &cluster),
        ("p/o.yaml", CLUSTER_OUTPUT),
    ]);
    let loaded = folder.load(&[]).unwrap();
    let names: Vec<&str> = loaded.pipelines.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["n/f/es-output", "n/f/o", "logging/c"]);
    let [first, second, cluster] = loaded.pipelines.as_slice() else { panic!() };
    assert_eq!((first.id_scope.as_str(), second.id_scope.as_str()), ("n/f", "n/f"));
    assert_eq!(elasticsearch(second).hosts, ["http://es:9200"]);
    let [exclude, select, all] = first.select.as_slice() else { panic!() };
    assert!(!exclude.take && exclude.namespaces.is_empty());
    assert!(exclude.labels["a"].is_match("x*") && !exclude.labels["a"].is_match("xy"));
    assert!(select.take && select.namespaces[0].is_match("n") && select.hosts[0].is_match("h"));
    assert!(all.take && all.namespaces.len() == 1 && all.labels.is_empty());
    assert!(cluster.select[0].take && cluster.select[0].namespaces.is_empty());
}

#[test]
fn mistakes_in_flows() {
    for (kind, spec, expected) in [
        (
            "Flow",
            "globalOutputRefs: [no]",
            "DIR/p/f.yaml:4:20: there is no ClusterOutput `no` in these files",
        ),
        (
            "Flow",
            "localOutputRefs: [es-output]",
            "DIR/p/f.yaml:4:19: there is no Output `es-output` of the namespace `n` in these files",
        ),
        (
            "Flow",
            "globalOutputRefs: [secured]",
            "DIR/p/f.yaml:4:20: the ClusterOutput `secured` is protected: no Flow may use it",
        ),
        ("ClusterFlow", "globalOutputRefs: [secured]", ""),
        (
            "ClusterFlow",
            "localOutputRefs: [o]",
            "DIR/p/f.yaml:3:8: this flow has no output; write `globalOutputRefs: [<name>]`\nDIR/p/f.yaml:4:1: unsupported key `localOutputRefs`; did you mean `globalOutputRefs`?",
        ),
        (
            "Flow",
            "localOutputRefs: [o], match: [{exclude: {}}]",
            "DIR/p/f.yaml:3:8: this flow takes nothing: it has no `select`",
        ),
        (
            "Flow",
            "localOutputRefs: [o], match: [{select: {namespaces: [m]}}]",
            "DIR/p/f.yaml:4:41: unsupported key `namespaces`; known here: `labels`, `container_names` or `hosts`",
        ),
        (
            "ClusterFlow",
            "globalOutputRefs: [es-output], match: [{select: {namespaces_regex: [m]}}]",
            "DIR/p/f.yaml:4:50: unsupported key `namespaces_regex`; known here: `labels`, `container_names`, `hosts`, `namespaces` or `namespace_labels`",
        ),
        (
            "Flow",
            "localOutputRefs: [o], selectors: {a: b}",
            "DIR/p/f.yaml:4:23: unsupported key `selectors`; known here: `match`, `filters`, `globalOutputRefs`, `localOutputRefs`, `loggingRef`, `flowLabel` or `includeLabelInRouter`",
        ),
        (
            "Flow",
            "localOutputRefs: [o], filters: [{grep: {}}]",
            "DIR/p/f.yaml:4:34: the filter `grep` is not supported; supported are `tag_normaliser` and `parser`",
        ),
        (
            "Flow",
            "localOutputRefs: [o], filters: [{parser: {reserve_data: true, remove_key_name_field: true, parse: {type: nginx}}}]",
            "DIR/p/f.yaml:4:106: expected `json`, found `nginx`",
        ),
        (
            "Flow",
            "localOutputRefs: [o], filters: [{parser: {reserve_data: true, remove_key_name_field: true, inject_key_prefix: x, parse: {type: json, time_format: \"%s\"}}}]",
            "DIR/p/f.yaml:4:134: unsupported key `time_format`; known here: `type`, `time_type`, `keep_time_key`, `estimate_current_event` or `time_key`\nDIR/p/f.yaml:4:92: unsupported key `inject_key_prefix`; known here: `key_name`, `reserve_data`, `remove_key_name_field`, `reserve_time`, `replace_invalid_sequence`, `emit_invalid_record_to_error` or `parse`",
        ),
        (
            "Flow",
            "localOutputRefs: [o], filters: [{parser: {parse: {type: json}}}]",
            "DIR/p/f.yaml:4:42: `reserve_data` is not true, but the fields of Kubernetes are kept all the same\nDIR/p/f.yaml:4:42: `remove_key_name_field` is not true, but the text of a line that is JSON isn't kept beside its fields",
        ),
        (
            "Flow",
            "localOutputRefs: [o], loggingRef: x",
            "DIR/p/f.yaml:3:8: without effect here: `loggingRef`",
        ),
        (
            "HostTailer",
            "x: y",
            "DIR/p/f.yaml:1:1: kind `HostTailer` of `logging.banzaicloud.io/v1beta1` is not supported; supported are Flow, ClusterFlow, Output and ClusterOutput of `logging.banzaicloud.io/v1beta1`",
        ),
    ] {
        check_flow(kind, spec, expected);
    }
}

#[test]
fn mistakes_in_outputs() {
    let secret = |key: &str, name: &str| {
        format!(
            "user: elastic, password: {{valueFrom: {{secretKeyRef: {{name: {name}, key: {key}}}}}}}"
        )
    };
    for (fields, expected) in [
        (
            "host: es, ssl_verify: maybe",
            "DIR/p/o.yaml:5:24: expected `true` or `false`, found `maybe`",
        ),
        (
            "host: es, port: 99999",
            "DIR/p/o.yaml:5:18: expected a whole number from 1 to 65535, found `99999`",
        ),
        ("host: es, id_key: x", "DIR/p/o.yaml:5:12: unsupported key `id_key`"),
        (
            "host: es, index_name: \"a-${tag}\"",
            "DIR/p/o.yaml:5:24: the name of an index takes dates (`%Y.%m.%d`), but no `${...}`",
        ),
        (
            "host: es, write_operation: upsert",
            "DIR/p/o.yaml:5:29: expected `index` or `create`, found `upsert`",
        ),
        (
            "host: es, utc_index: false",
            "DIR/p/o.yaml:4:23: `utc_index: false` is not supported: the date in an index name is in UTC",
        ),
        (
            "host: es, ssl_version: TLSv1",
            "DIR/p/o.yaml:5:25: `ssl_version` is too old: TLS 1.2 or 1.3 is used",
        ),
        (
            "host: es, request_timeout: 5s, logstash_prefix: x",
            "DIR/p/o.yaml:4:23: without effect here: `logstash_prefix`\nDIR/p/o.yaml:4:23: without effect here: `request_timeout`",
        ),
        (
            "host: es, buffer: {timekye: 1m}",
            "DIR/p/o.yaml:5:21: unsupported key `timekye`; did you mean `timekey`?",
        ),
        ("host: es, user: elastic", "DIR/p/o.yaml:5:18: `user` and `password` belong together"),
        (
            "host: es, user: elastic, password: hunter2",
            "DIR/p/o.yaml:5:37: expected `valueFrom: {secretKeyRef: {name: ..., key: ...}}`",
        ),
        (
            "hosts: \"https://elastic:hunter2@es:9200\"",
            "DIR/p/o.yaml:5:9: a URL must not hold a user or password: they have keys of their own, `user` and `password`",
        ),
        (
            &secret("no", "quickstart-es-elastic-user"),
            "DIR/p/o.yaml:5:27: cannot read DIR/secrets/quickstart-es-elastic-user/no: No such file or directory; the key `no` of the Secret `quickstart-es-elastic-user` belongs there: mount the Secret, or set `secrets` in the agent's file",
        ),
        (
            &secret("elastic", "../x"),
            "DIR/p/o.yaml:5:61: expected a name without `/`, found `../x`",
        ),
        (&secret("..", "x"), "DIR/p/o.yaml:5:69: expected a name without `/`, found `..`"),
        (
            "host: es, ca_file: {mountFrom: {secretKeyRef: {name: quickstart-es-elastic-user, key: elastic}}}",
            "DIR/p/o.yaml:5:21: DIR/secrets/quickstart-es-elastic-user/elastic holds no PEM (`-----BEGIN ...`); the key `elastic` of the Secret `quickstart-es-elastic-user` belongs there: mount the Secret, or set `secrets` in the agent's file",
        ),
    ] {
        check_output(fields, expected);
    }
}

#[test]
fn outputs_keep_their_meaning() {
    let target = |fields: &str| match output_of(fields) {
        (_, Ok(loaded)) => elasticsearch(&loaded.pipelines[0]).clone(),
        (_, Err(problems)) => panic!("{problems}"),
    };
    assert_eq!(target("").hosts, ["http://localhost:9200"]);
    assert_eq!(target("host: es, path: /logs/").hosts, ["http://es:9200/logs"]);
    assert_eq!(
        target("scheme: https, port: 1, hosts: \"a:2,b, http://c:3/d\"").hosts,
        ["https://a:2", "https://b:1", "http://c:3/d"]
    );
    for (fields, index) in [
        ("index_name: a", IndexName::Fixed("a".to_owned())),
        ("logstash_format: true", IndexName::ByDate("logstash-%Y.%m.%d".to_owned())),
        (
            "logstash_format: true, logstash_prefix: p, logstash_prefix_separator: _, logstash_dateformat: \"%Y\"",
            IndexName::ByDate("p_%Y".to_owned()),
        ),
        (
            "data_stream_enable: true, data_stream_name: logs-a-b",
            IndexName::Fixed("logs-a-b".to_owned()),
        ),
    ] {
        assert_eq!(target(fields).index, index, "{fields}");
    }
    assert_eq!(target("compression_level: no_compression").compression, Compression::None);
    let tls = target("ca_file: {mountFrom: {secretKeyRef: {name: tls, key: ca.crt}}}").tls;
    assert!(tls.verify == Verify::Full && tls.ca.is_some_and(|ca| ca.ends_with("tls/ca.crt")));
    let auth = target("user: u, password: {value: \"${SECRET}\"}").auth;
    assert!(
        matches!(auth, Auth::Basic { password: Secret::Inline(text), .. } if text == "${SECRET}")
    );
}

proptest! {
    /// Real files with a piece cut out and another put in are taken or refused in words.
    #[test]
    fn damaged_files_are_taken_or_refused(
        which in 0_usize..3,
        at in any::<prop::sample::Index>(),
        cut in 0_usize..20,
        put in "[-:\\[\\]{}$*?\"' \n,a-z0-9]{0,8}",
    ) {
        let native = include_str!("../../pipelines/flink.yaml");
        let text: Vec<char> = [native, FLOW, CLUSTER_OUTPUT][which].chars().collect();
        let at = at.index(text.len());
        let end = (at + cut).min(text.len());
        let text: String = text[..at].iter().copied().chain(put.chars()).chain(text[end..].iter().copied()).collect();
        let folder = operator_folder(&[("p/x.yaml", &text)]);
        if let Err(problems) = folder.load(&[]) {
            prop_assert!(problems.lines().all(|line| line.starts_with("DIR/p")), "{}", problems);
        }
    }
}
