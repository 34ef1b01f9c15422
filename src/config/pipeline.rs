//! One pipeline: which pods, how lines become documents, where they go.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use globset::GlobMatcher;

/// A pipeline as declared by a file of its own or by the Logging operator's kinds.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Unique among the agent's pipelines; a metric label and part of the checkpoint's key.
    pub name: String,
    /// Enters every `_id`; pipelines that write one stream into one index must differ in it.
    pub id_scope: String,
    /// Tried in order, the first that holds decides; none holds means not taken.
    pub select: Vec<Rule>,
    pub parse: Parse,
    /// In the order written.
    pub filters: Vec<Filter>,
    pub output: Output,
}

/// One item of `select`. All criteria that are given must hold.
#[derive(Debug, Clone)]
pub struct Rule {
    /// `true` for `select`, `false` for `exclude`.
    pub take: bool,
    pub labels: BTreeMap<String, GlobMatcher>,
    pub namespace_labels: BTreeMap<String, GlobMatcher>,
    /// Any of these; empty holds for every namespace. The same for those below.
    pub namespaces: Vec<GlobMatcher>,
    pub pods: Vec<GlobMatcher>,
    pub containers: Vec<GlobMatcher>,
    pub hosts: Vec<GlobMatcher>,
}

/// How the content of a line is understood.
#[derive(Debug, Clone, Default)]
pub struct Parse {
    /// The top-level field that is tried first for the time.
    pub json_time: Option<String>,
    pub multiline: Option<Multiline>,
}

/// Which lines that are not JSON belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Multiline {
    /// Stack traces and the JVM's fatal error blocks.
    Java,
}

/// One step that drops, keeps or changes documents.
#[derive(Debug, Clone)]
pub enum Filter {
    Drop(Condition),
    /// Drops what does not meet the condition.
    Keep(Condition),
    /// Fields by dotted name; a field that is there is replaced.
    Add(Vec<(String, serde_json::Value)>),
    Remove(Vec<String>),
    Rename {
        from: String,
        to: String,
    },
    Redact {
        field: String,
        pattern: regex::Regex,
        with: String,
    },
    /// Keeps `keep` of `of` documents that meet the condition, decided by the `_id`.
    Sample {
        condition: Option<Condition>,
        keep: u64,
        of: u64,
    },
    /// At most `lines` per `per`, for each value of the field `by`, in runtime time.
    Throttle {
        by: String,
        lines: u64,
        per: Duration,
    },
}

impl Filter {
    /// The fields that it looks for, by dotted name.
    pub fn fields(&self) -> Vec<&str> {
        match self {
            Self::Drop(condition) | Self::Keep(condition) => vec![&condition.field],
            Self::Add(members) => members.iter().map(|(field, _)| field.as_str()).collect(),
            Self::Remove(fields) => fields.iter().map(String::as_str).collect(),
            Self::Rename { from, .. } => vec![from],
            Self::Redact { field, .. } | Self::Throttle { by: field, .. } => vec![field],
            Self::Sample { condition, .. } => {
                condition.iter().map(|condition| condition.field.as_str()).collect()
            }
        }
    }
}

/// What a field must be. A field that is absent never meets a condition.
#[derive(Debug, Clone)]
pub struct Condition {
    pub field: String,
    pub test: Test,
}

/// Compares the field's text: a string's characters, else its JSON.
#[derive(Debug, Clone)]
pub enum Test {
    In(Vec<String>),
    Equals(String),
    Matches(regex::Regex),
    Exists,
}

/// Where documents go.
#[derive(Debug, Clone)]
pub struct Output {
    /// The names that the Kubernetes fields get.
    pub document: DocumentForm,
    pub batch: BatchLimits,
    pub target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentForm {
    Fluentd,
    Ecs,
}

/// When an open batch is sent.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Uncompressed bytes.
    pub size_bytes: usize,
    pub linger: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Elasticsearch(Box<Elasticsearch>),
    Stdout,
    File(PathBuf),
}

/// Whatever speaks Elasticsearch's bulk API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elasticsearch {
    /// `scheme://host:port/path`, no user info, no trailing slash; at least one.
    pub hosts: Vec<String>,
    pub auth: Auth,
    pub tls: Tls,
    pub index: IndexName,
    pub compression: Compression,
    pub refused: Refused,
    pub refused_after: Duration,
}

/// A value that is read again when its file changes. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    Inline(String),
    File(PathBuf),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("***"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    None,
    Basic { user: String, password: Secret },
    ApiKey(Secret),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub verify: Verify,
    pub ca: Option<PathBuf>,
    /// Certificate chain and key in PEM.
    pub client: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Chain and host name.
    Full,
    /// Chain only.
    Certificate,
    None,
}

/// An index, alias or data stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexName {
    Fixed(String),
    /// With `%Y`, `%m`, `%d`, `%H` of the runtime's time in UTC.
    ByDate(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    None,
}

/// What becomes of a document that Elasticsearch refuses for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Reindex,
    DeadLetter,
    Drop,
}
