//! What the kubelet's tree says by its names: which container run a directory entry belongs to.
//!
//! Pure, and strict about what Kubernetes can create: anything else in the tree (temporary files,
//! names with control characters or dots that lead elsewhere) is none of ours and gives `None`.
//! Says nothing about what the entries are; that is the scan's to look at.
//!
//! Sources: kubernetes/kubernetes `pkg/kubelet/kuberuntime/helpers.go`
//! (`BuildContainerLogsDirectory`), `pkg/kubelet/logs/container_log_manager.go` (`rotateLog`,
//! `compressLog`); moby/moby `daemon/logger/loggerutils/logfile.go` (`rotate`).

use std::ffi::OsStr;
use std::fmt;

/// One container run: `<namespace>_<pod>_<uid>/<container>/<restart>.log` with all its parts.
///
/// Displayed as `<namespace>_<pod>_<uid>/<container>/<restart>`, which is also how it is named in
/// the checkpoint and in the hash of an `_id`.
/// Source: kubernetes/kubernetes `pkg/kubelet/kuberuntime/helpers.go`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName {
    pub namespace: String,
    pub pod: String,
    /// The pod's UID; for a static pod the hash of its manifest.
    pub uid: String,
    pub container: String,
    pub restart: u32,
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, pod, uid, container, restart } = self;
        write!(f, "{namespace}_{pod}_{uid}/{container}/{restart}")
    }
}

impl StreamName {
    /// Reads a name as it is displayed.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let PodName { namespace, pod, uid } = pod_directory(OsStr::new(parts.next()?))?;
        let container = container_directory(OsStr::new(parts.next()?))?;
        let restart = parts.next()?.parse().ok()?;
        let name = Self { namespace, pod, uid, container, restart };
        (name.to_string() == text).then_some(name)
    }
}

/// A pod as its directory `<namespace>_<pod>_<uid>` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodName {
    pub namespace: String,
    pub pod: String,
    /// See [`StreamName::uid`].
    pub uid: String,
}

/// What one file of a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PartKind {
    /// Compressed after its rotation.
    Gzip,
    /// Renamed; its writer may not have noticed yet.
    Rotated,
    /// The one that is written to.
    Live,
}

/// Reads the name of a pod's directory. A pod's name may hold dots but never `_`; the UID of a
/// static pod is 32 hexadecimal digits.
pub fn pod_directory(name: &OsStr) -> Option<PodName> {
    let mut parts = name.to_str()?.split('_');
    let (namespace, pod, uid) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || ![namespace, pod, uid].into_iter().all(is_name) {
        return None;
    }
    Some(PodName { namespace: namespace.to_owned(), pod: pod.to_owned(), uid: uid.to_owned() })
}

/// Reads the name of a container's directory.
pub fn container_directory(name: &OsStr) -> Option<String> {
    let name = name.to_str()?;
    is_name(name).then(|| name.to_owned())
}

/// Reads a file's name beneath a container: `0.log`, `0.log.20261123-210608` and the latter's
/// `.gz`. Gives the restart that the file belongs to.
pub fn part(name: &OsStr) -> Option<(u32, PartKind)> {
    let (restart, rest) = name.to_str()?.split_once('.')?;
    let number: u32 = restart.parse().ok()?;
    if number.to_string() != restart {
        return None;
    }
    match rest.strip_prefix("log")? {
        "" => Some((number, PartKind::Live)),
        rest => Some((number, rotated(rest.strip_prefix('.')?)?)),
    }
}

/// Reads the name of a file beside a docker log `live`: itself (0), `<live>.1` (the newest that
/// was rotated), `<live>.2.gz` and so on.
pub fn docker_part(live: &OsStr, name: &OsStr) -> Option<(u32, PartKind)> {
    let rest = name.to_str()?.strip_prefix(live.to_str()?)?;
    if rest.is_empty() {
        return Some((0, PartKind::Live));
    }
    let suffix = rest.strip_prefix('.')?;
    let number = suffix.strip_suffix(".gz").unwrap_or(suffix);
    Some((number.parse().ok()?, rotated(suffix)?))
}

/// What follows a live file's name and a dot once it is rotated.
fn rotated(suffix: &str) -> Option<PartKind> {
    let (stamp, kind) = match suffix.strip_suffix(".gz") {
        Some(stamp) => (stamp, PartKind::Gzip),
        None => (suffix, PartKind::Rotated),
    };
    let is_stamp = stamp.starts_with(|first: char| first.is_ascii_digit())
        && stamp.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    is_stamp.then_some(kind)
}

/// Whether `part` may name a namespace, a pod, a UID or a container.
fn is_name(part: &str) -> bool {
    part.starts_with(|first: char| first.is_ascii_alphanumeric())
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && !part.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStrExt;

    fn check_pod(name: &str, expected: Option<(&str, &str, &str)>) {
        let parsed = pod_directory(OsStr::new(name));
        let parsed = parsed.as_ref().map(|name| (&*name.namespace, &*name.pod, &*name.uid));
        assert_eq!(parsed, expected, "{name:?}");
    }

    fn check_part(name: &str, expected: Option<(u32, PartKind)>) {
        assert_eq!(part(OsStr::new(name)), expected, "{name:?}");
    }

    #[test]
    fn pods() {
        let uid = "2ff94e4b-8f2a-4d20-8bb2-0c2c0dc8a0ec";
        check_pod(
            &format!("flink_orders-taskmanager-1-1_{uid}"),
            Some(("flink", "orders-taskmanager-1-1", uid)),
        );
        check_pod(
            "kube-system_etcd-node.example.org_2b5a1f3fcd51f1e1d9b1e3e3b1a4c9f0",
            Some(("kube-system", "etcd-node.example.org", "2b5a1f3fcd51f1e1d9b1e3e3b1a4c9f0")),
        );
        for name in [
            "", "a", "a_b", "a_b_c_d", "a__c", "_b_c", "a_b_", "a_.._c", "a_b..d_c", ".a_b_c",
            "a_b\n_c", "a_b_c ", "a_b_é", "a_/_c",
        ] {
            check_pod(name, None);
        }
        assert_eq!(pod_directory(OsStr::from_bytes(b"a_b_\xff")), None);
    }

    #[test]
    fn parts() {
        use PartKind::{Gzip, Live, Rotated};
        check_part("0.log", Some((0, Live)));
        check_part("12.log", Some((12, Live)));
        check_part("0.log.20261123-210608", Some((0, Rotated)));
        check_part("3.log.20261123-210608.gz", Some((3, Gzip)));
        for name in [
            "",
            ".log",
            "a.log",
            "00.log",
            "+1.log",
            "-1.log",
            "4294967296.log",
            "0.logs",
            "0.log.",
            "0.log.gz",
            "0.log.-",
            "0.log.20261123-210608.tmp",
            "0.log.20261123-210608.gz.tmp",
            "0.log.20261123-210608.gz.gz",
            "0.log~",
            "previous.log",
        ] {
            check_part(name, None);
        }
    }

    #[test]
    fn docker_parts() {
        let check = |name: &str, expected| {
            assert_eq!(
                docker_part(OsStr::new("ab-json.log"), OsStr::new(name)),
                expected,
                "{name}"
            );
        };
        check("ab-json.log", Some((0, PartKind::Live)));
        check("ab-json.log.1", Some((1, PartKind::Rotated)));
        check("ab-json.log.2.gz", Some((2, PartKind::Gzip)));
        for name in [
            "ab-json.log.",
            "ab-json.log.1.tmp",
            "ab-json.log.1-2",
            "cd-json.log",
            "config.v2.json",
        ] {
            check(name, None);
        }
    }

    proptest! {
        #[test]
        fn no_name_panics(bytes: Vec<u8>, text in "[0-9]{0,2}\\.?(log|_)?\\.?[-0-9.gz_]{0,8}") {
            for name in [OsStr::from_bytes(&bytes), OsStr::new(&text)] {
                pod_directory(name);
                container_directory(name);
                part(name);
                docker_part(OsStr::new("0.log"), name);
            }
        }
    }
}
