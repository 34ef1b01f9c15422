use std::sync::Mutex;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::enrich::facts::tests::{stream, taskmanager};
use crate::enrich::store::Change;

/// Cut short from what the log corpus' generator wrote.
const LIST: &str = r#"{
 "apiVersion": "v1",
 "kind": "List",
 "metadata": {
  "resourceVersion": ""
 },
 "items": [
  {
   "apiVersion": "v1",
   "kind": "Pod",
   "metadata": {
    "name": "orders-session-4qsfslvfff-gx87d",
    "namespace": "flink",
    "uid": "411e7ec2-7378-4661-8935-187c07e4d563",
    "labels": {
     "app": "orders-session",
     "component": "jobmanager",
     "type": "flink-native-kubernetes",
     "pod-template-hash": "4qsfslvfff"
    },
    "annotations": {
     "example.com/log-layout": "ecs"
    }
   },
   "spec": {
    "nodeName": "node-a",
    "containers": [
     {
      "name": "flink-main-container",
      "image": "registry.example.com/flink/orders:1.20.1-java17"
     }
    ]
   },
   "status": {
    "phase": "Running",
    "podIP": "10.244.0.2",
    "containerStatuses": [
     {
      "name": "flink-main-container",
      "image": "registry.example.com/flink/orders:1.20.1-java17",
      "imageID": "registry.example.com/flink/orders:1.20.1-java17@sha256:0000",
      "containerID": "containerd://51431193e6c3",
      "restartCount": 1,
      "ready": true,
      "started": true,
      "state": {
       "running": {}
      },
      "lastState": {
       "terminated": {
        "exitCode": 1,
        "containerID": "containerd://442e3d437204"
       }
      }
     }
    ]
   }
  }
 ]
}
"#;

const JOBMANAGER: &str = "411e7ec2-7378-4661-8935-187c07e4d563";

struct Setup {
    folder: TempDir,
    file: PodsFile,
    store: Arc<PodStore>,
    told: Arc<Mutex<usize>>,
}

impl Setup {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let told = Arc::new(Mutex::new(0));
        let to = Arc::clone(&told);
        let store = Arc::new(PodStore::new(Arc::new(move |change: &Change| {
            *to.lock().unwrap() += usize::from(matches!(change, Change::Pod(_)));
        })));
        let file = PodsFile::new(folder.path().join("pods.json"), Arc::clone(&store));
        Self { folder, file, store, told }
    }

    /// Replaces the file, as a ConfigMap does, and has it read.
    fn write(&mut self, text: &str) {
        let next = self.folder.path().join("next");
        fs::write(&next, text).unwrap();
        fs::rename(next, self.folder.path().join("pods.json")).unwrap();
        self.reload();
    }

    fn reload(&mut self) {
        self.file.reload_if_changed();
    }

    fn knows(&self, uid: &str) -> bool {
        self.store.lookup(&stream(uid, "any")).is_some()
    }

    fn trouble(&self) -> String {
        let text = self.file.trouble().unwrap().to_string();
        text.replace(&self.folder.path().display().to_string(), "")
    }

    /// Changes told since the last time.
    fn told(&self) -> usize {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

fn check_refused(text: &str, expected: &str) {
    let mut setup = Setup::new();
    setup.write(text);
    assert_eq!(setup.trouble(), expected);
    assert!(!setup.store.in_sync());
}

fn numbered(number: usize) -> Value {
    json!({"metadata": {"name": "p", "namespace": "n", "uid": format!("uid-{number}")}})
}

#[test]
fn a_list_as_kubectl_prints_it() {
    let mut setup = Setup::new();
    setup.write(LIST);
    assert!(setup.store.in_sync() && setup.file.trouble().is_none());
    let facts = setup.store.lookup(&stream(JOBMANAGER, "any")).unwrap();
    assert_eq!(facts.name, "orders-session-4qsfslvfff-gx87d");
    assert_eq!(facts.container_id("flink-main-container", 0), Some("442e3d437204"));
    assert_eq!(facts.container_id("flink-main-container", 1), Some("51431193e6c3"));
    assert_eq!(facts.node.as_deref(), Some("node-a"));
}

#[test]
fn items_of_other_kinds_are_passed_over() {
    let mut setup = Setup::new();
    let mut plain = numbered(2);
    plain.as_object_mut().unwrap().remove("kind");
    let list = json!({"items": [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "uid": "uid-1"}},
        plain, taskmanager(), {"kind": "Pod", "metadata": {"name": "without-uid"}}
    ], "kind": "PodList", "apiVersion": "v1"});
    setup.write(&list.to_string());
    assert!(setup.store.in_sync());
    assert!(!setup.knows("uid-1") && setup.knows("uid-2"));
    assert!(setup.knows("070506a6-8a02-40e1-a1af-37f86cb90787"));
}

#[test]
fn namespaces_in_the_list_give_their_labels_where_they_are_required() {
    let list = json!({"kind": "List", "items": [
        taskmanager(),
        {"kind": "Namespace", "metadata": {"name": "flink", "labels": {"team": "orders"}}}
    ]});
    for required in [false, true] {
        let mut setup = Setup::new();
        if required {
            setup.store.require_namespaces();
        }
        setup.write(&list.to_string());
        assert!(setup.store.in_sync());
        let facts = setup.store.lookup(&stream("070506a6-8a02-40e1-a1af-37f86cb90787", "tm"));
        assert_eq!(facts.unwrap().namespace_labels.is_some(), required);
    }
}

#[test]
fn a_file_that_is_not_there_is_waited_for() {
    let mut setup = Setup::new();
    setup.reload();
    assert_eq!(setup.trouble(), "cannot read the list of pods /pods.json");
    assert!(!setup.store.in_sync());
    setup.write(LIST);
    assert!(setup.store.in_sync() && setup.file.trouble().is_none());
    fs::remove_file(setup.folder.path().join("pods.json")).unwrap();
    setup.reload();
    assert!(!setup.store.in_sync() && setup.knows(JOBMANAGER), "what was known stays");
}

#[test]
fn only_a_changed_file_is_read_again_and_only_what_differs_is_told() {
    let mut setup = Setup::new();
    setup.write(LIST);
    assert_eq!(setup.told(), 1);
    assert!(!setup.file.refresh().unwrap(), "nothing has changed");
    setup.write(LIST);
    assert_eq!(setup.told(), 0);
    setup.write(&LIST.replace("4qsfslvfff\"", "other\""));
    assert_eq!(setup.told(), 1);
    // Written in place, to another length.
    fs::write(setup.folder.path().join("pods.json"), LIST.replace("10.244.0.2", "10.244.0.22"))
        .unwrap();
    setup.reload();
    assert_eq!(setup.told(), 1);
    setup.write(r#"{"kind": "List", "items": []}"#);
    assert!(setup.store.in_sync() && setup.knows(JOBMANAGER), "a pod that has gone is still known");
}

#[test]
fn errors_say_where() {
    check_refused("", "/pods.json:1:0: EOF while parsing a value");
    check_refused("[]", "/pods.json:1:1: invalid type: sequence, expected a v1 PodList or List");
    check_refused(
        "{\n \"kind\": \"Pod\"\n}",
        "/pods.json:3:1: kind is \"Pod\", expected PodList or List",
    );
    check_refused("{\"items\": []}", "/pods.json:1:13: missing field `kind`");
    check_refused("{\"kind\": \"List\"}", "/pods.json:1:16: missing field `items`");
    check_refused(
        "{\"kind\":\"List\",\n\"items\":[\n  {\"kind\" \"Pod\"}]}",
        "/pods.json:3:11: expected `:`",
    );
    check_refused(
        &LIST.replace("\"app\": \"orders-session\"", "\"app\": 7"),
        "/pods.json:59:2: item 1 (flink/orders-session-4qsfslvfff-gx87d) is not a v1 Pod: expected a string",
    );
    check_refused(&format!("{LIST}x"), "/pods.json:61:1: trailing characters");
}

#[test]
fn an_error_never_quotes_an_item() {
    let mut pod = taskmanager();
    pod["spec"]["containers"][0]["env"] = json!("s3cret");
    let mut setup = Setup::new();
    setup.write(&json!({"kind": "List", "items": [pod]}).to_string());
    assert!(setup.trouble().contains("flink/orders-session-taskmanager-1-1"));
    assert!(!setup.trouble().contains("s3cret"));
}

#[test]
fn a_broken_file_stays_trouble_until_it_changes() {
    let mut setup = Setup::new();
    setup.write("{");
    setup.file.reload_if_changed();
    assert!(setup.trouble().starts_with("/pods.json:1:1: EOF"));
    setup.write(LIST);
    assert!(setup.file.trouble().is_none());
}

#[test]
fn a_folder_is_refused() {
    let mut setup = Setup::new();
    fs::create_dir(setup.folder.path().join("pods.json")).unwrap();
    setup.reload();
    assert_eq!(setup.trouble(), "/pods.json is not a regular file");
}

#[test]
fn of_a_long_list_only_so_many_are_kept_and_those_that_are_asked_for() {
    let items: Vec<Value> = (0..MAX_UNASKED + 10).map(numbered).collect();
    let mut setup = Setup::new();
    setup.write(&json!({"kind": "PodList", "items": items}).to_string());
    assert_eq!(setup.told(), MAX_UNASKED);
    let late = format!("uid-{}", MAX_UNASKED + 5);
    assert!(!setup.knows(&late) && !setup.knows("uid-of-nobody"));
    setup.reload();
    assert_eq!(setup.told(), 1);
    assert!(setup.knows(&late));
    setup.reload();
    assert_eq!(setup.told(), 0);
}
