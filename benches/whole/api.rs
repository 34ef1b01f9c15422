//! As much of the API server as one watch of pods needs: a list, and a watch that begins with all
//! pods and then says nothing more. Pods are as long as they are in clusters.

use std::io::{self, Read, Write};
use std::path::Path;

use serde_json::{Value, json};

/// What every pod and list claims; nothing ever changes.
const RESOURCE_VERSION: &str = "1";

/// Bytes of what every pod has beside the little that the tree's have: a pod of Flink's operator, with
/// environment, volumes, conditions and managed fields, is about as long.
const PAD_BYTES: usize = 7 * 1024;

/// Whether `target`, a path with its query, is a question for pods.
pub(crate) fn is_for_pods(target: &str) -> bool {
    target.split('?').next() == Some("/api/v1/pods")
}

/// Answers a question for the pods in `pods`, a list as `kubectl` prints it. A watch lasts until
/// the other side ends the connection.
pub(crate) fn answer(
    stream: &mut (impl Read + Write),
    target: &str,
    pods: &Path,
) -> io::Result<()> {
    let mut list: Value = serde_json::from_slice(&std::fs::read(pods)?)?;
    let mut items = list["items"].take();
    for pod in items.as_array_mut().into_iter().flatten() {
        pod["metadata"]["resourceVersion"] = RESOURCE_VERSION.into();
        pod["metadata"]["managedFields"] = json!([{"manager": "x".repeat(PAD_BYTES)}]);
    }
    let asks = |parameter: &str| target.split(['?', '&']).any(|part| part == parameter);
    if !asks("watch=true") {
        let version = json!({"resourceVersion": RESOURCE_VERSION});
        let list = json!({
            "apiVersion": "v1", "kind": "PodList", "metadata": version, "items": items,
        });
        let list = list.to_string();
        return write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{list}",
            list.len()
        );
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )?;
    if asks("sendInitialEvents=true") {
        for pod in items.as_array().into_iter().flatten() {
            event(stream, "ADDED", pod)?;
        }
        let end = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "resourceVersion": RESOURCE_VERSION,
                "annotations": {"k8s.io/initial-events-end": "true"},
            },
        });
        event(stream, "BOOKMARK", &end)?;
    }
    stream.flush()?;
    io::copy(stream, &mut io::sink()).map(drop)
}

/// One event as a chunk of its own.
fn event(stream: &mut impl Write, kind: &str, object: &Value) -> io::Result<()> {
    let line = json!({"type": kind, "object": object}).to_string();
    write!(stream, "{:x}\r\n{line}\n\r\n", line.len() + 1)
}
