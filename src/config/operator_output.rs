//! The `elasticsearch` output of the Logging operator's Output and ClusterOutput.
//!
//! Defaults are those of fluentd's plugin (`http`, port 9200, index `fluentd`) as far as the index
//! and the connection go; batches, retries and compression are Splashdam's own. Secrets are files
//! `<secrets>/<name>/<key>`, where the Secret is mounted.
//! Source: uken/fluent-plugin-elasticsearch `lib/fluent/plugin/out_elasticsearch.rb`.

use std::path::{Component, Path, PathBuf};

use super::index_name;
use super::operator::warn_idle;
use super::pipeline::{Auth, Compression, Elasticsearch, IndexName, Secret, Verify};
use super::problem::quoted;
use super::read_output;
use super::setting::{Section, Setting};
use super::text_file;
use super::yaml::Value;

const PORT: usize = 9200;

/// Fields that tune fluentd's connections, checks and logging: what they guard against can't
/// happen here or is always guarded against.
const IDLE: [&str; 33] = [
    "bulk_message_request_threshold",
    "content_type",
    "default_elasticsearch_version",
    "exception_backup",
    "fail_on_detecting_es_version_retry_exceed",
    "fail_on_putting_template_retry_exceed",
    "http_backend",
    "log_es_400_reason",
    "max_retry_get_es_version",
    "max_retry_putting_template",
    "prefer_oj_serializer",
    "reconnect_on_error",
    "reload_after",
    "reload_connections",
    "reload_on_failure",
    "request_timeout",
    "resurrect_after",
    "slow_flush_log_threshold",
    "sniffer_class_name",
    "suppress_doc_wrap",
    "suppress_type_name",
    "time_precision",
    "type_name",
    "unrecoverable_error_types",
    "use_legacy_template",
    "validate_client_version",
    "verify_es_version_at_startup",
    "with_transporter_log",
    "ssl_max_version",
    "template_overwrite",
    "ilm_policy_overwrite",
    "data_stream_ilm_policy_overwrite",
    "data_stream_template_use_index_patterns_wildcard",
];

/// Fields of `buffer`: the log files are the buffer here, a batch goes by size and linger.
const BUFFER: [&str; 33] = [
    "chunk_full_threshold",
    "chunk_limit_records",
    "chunk_limit_size",
    "compress",
    "delayed_commit_timeout",
    "disable_chunk_backup",
    "disabled",
    "flush_at_shutdown",
    "flush_interval",
    "flush_mode",
    "flush_thread_burst_interval",
    "flush_thread_count",
    "flush_thread_interval",
    "overflow_action",
    "path",
    "queue_limit_length",
    "queued_chunks_limit_size",
    "retry_exponential_backoff_base",
    "retry_forever",
    "retry_max_interval",
    "retry_max_times",
    "retry_randomize",
    "retry_secondary_threshold",
    "retry_timeout",
    "retry_type",
    "retry_wait",
    "tags",
    "timekey",
    "timekey_use_utc",
    "timekey_wait",
    "timekey_zone",
    "total_limit_size",
    "type",
];

/// Reads the output; `secrets` is the directory of mounted Secrets.
pub(super) fn read(setting: Setting<'_>, secrets: &Path) -> Option<Elasticsearch> {
    setting.section(|s| {
        s.refuse_others();
        let hosts = hosts(s);
        let auth = auth(s, secrets);
        let verify = s.get("ssl_verify").and_then(Setting::boolean).unwrap_or(true);
        ssl_versions(s);
        let ca = s.get("ca_file").and_then(|ca| pem(ca, secrets));
        let cert = s.get("client_cert");
        let key = s.get("client_key");
        if let (Some(one), None) | (None, Some(one)) = (cert, key) {
            one.error("`client_cert` and `client_key` belong together");
        }
        let client = cert.and_then(|c| pem(c, secrets)).zip(key.and_then(|k| pem(k, secrets)));
        let index = index(s);
        let compression = compression(s);
        fixed(s);
        let idle = s.present(&IDLE);
        warn_idle(s.here, "", &idle);
        s.section("buffer", |s| {
            s.refuse_others();
            let idle = s.present(&BUFFER);
            warn_idle(s.here, "buffer.", &idle);
        });
        let mut output = read_output::default_elasticsearch(hosts?);
        output.auth = auth;
        output.tls.verify = if verify { Verify::Full } else { Verify::None };
        output.tls.ca = ca;
        output.tls.client = client;
        output.index = index?;
        output.compression = compression;
        Some(output)
    })?
}

/// `hosts` wins over `host` and `port`, as in the plugin.
fn hosts(s: &mut Section<'_>) -> Option<Vec<String>> {
    let schemes = [("http", "http"), ("https", "https")];
    let scheme = s.get("scheme").and_then(|scheme| scheme.choice(&schemes)).unwrap_or("http");
    let port = s.get("port").and_then(|port| port.number(1..=65535)).unwrap_or(PORT);
    let path = s.get("path").and_then(Setting::text).unwrap_or_default();
    let path = path.trim_matches('/');
    let host = s.get("host");
    let hosts = s.get("hosts");
    let at = hosts.or(host);
    let text = match at {
        Some(setting) => setting.filled("the name of a host")?,
        None => "localhost".to_owned(),
    };
    let names: Vec<&str> = match hosts {
        Some(_) => text.split(',').map(str::trim).collect(),
        None => vec![text.as_str()],
    };
    let url = |name: &str| match (name.contains("://"), name.rsplit_once(':')) {
        (true, _) => name.to_owned(),
        (false, Some((_, digits))) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{scheme}://{name}/{path}")
        }
        (false, _) => format!("{scheme}://{name}:{port}/{path}"),
    };
    let mut urls = Vec::with_capacity(names.len());
    for name in names {
        match read_output::host_url(&url(name)) {
            Ok(url) => urls.push(url),
            Err(message) => {
                at.unwrap_or(s.here).error(message);
                return None;
            }
        }
    }
    Some(urls)
}

fn auth(s: &mut Section<'_>, secrets: &Path) -> Auth {
    let user = s.get("user");
    let password = s.get("password");
    let api_key = s.get("api_key");
    if let (Some(api_key), Some(_)) = (api_key, user.or(password)) {
        api_key.error("`api_key` can't stand together with `user` and `password`");
    }
    if let (Some(one), None) | (None, Some(one)) = (user, password) {
        one.error("`user` and `password` belong together");
    }
    let name = user.and_then(|user| user.filled("the name of a user"));
    let password = password.and_then(|password| secret(password, secrets));
    let api_key = api_key.and_then(|key| secret(key, secrets));
    match (name, password, api_key) {
        (Some(user), Some(password), _) => Auth::Basic { user, password },
        (_, _, Some(key)) => Auth::ApiKey(key),
        _ => Auth::None,
    }
}

fn ssl_versions(s: &mut Section<'_>) {
    for key in ["ssl_version", "ssl_min_version"] {
        let versions = [
            ("TLSv1_2", true),
            ("TLSv1_3", true),
            ("TLSv1_1", false),
            ("TLSv1", false),
            ("SSLv23", false),
        ];
        let Some(setting) = s.get(key) else { continue };
        if setting.choice(&versions) == Some(false) {
            setting.warn(format!("{} is too old: TLS 1.2 or 1.3 is used", quoted(key)));
        }
    }
}

/// What must have one value because Splashdam works that way.
fn fixed(s: &mut Section<'_>) {
    if let Some(operation) = s.get("write_operation") {
        operation.choice(&[("index", ()), ("create", ())]);
    }
    // `@timestamp` is always there, and always the record's own.
    s.present(&["include_timestamp"]);
    if s.get("utc_index").and_then(Setting::boolean) == Some(false) {
        s.here.error("`utc_index: false` is not supported: the date in an index name is in UTC");
    }
}

fn compression(s: &mut Section<'_>) -> Compression {
    let levels = [
        ("no_compression", Compression::None),
        ("best_speed", Compression::Gzip),
        ("best_compression", Compression::Gzip),
        ("default_compression", Compression::Gzip),
    ];
    s.get("compression_level").and_then(|l| l.choice(&levels)).unwrap_or(Compression::Gzip)
}

/// A data stream, a name by date or a fixed name, in the plugin's order of precedence.
fn index(s: &mut Section<'_>) -> Option<IndexName> {
    let is_true = |setting: Option<Setting<'_>>| setting.and_then(Setting::boolean) == Some(true);
    let is_stream = is_true(s.get("data_stream_enable"));
    let by_date = is_true(s.get("logstash_format"));
    let forms: [&[&'static str]; 3] = [
        &["data_stream_name"],
        &["logstash_prefix", "logstash_prefix_separator", "logstash_dateformat"],
        &["index_name"],
    ];
    let form = match (is_stream, by_date) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    };
    for (index, keys) in forms.into_iter().enumerate() {
        let given = s.present(keys);
        if index != form {
            warn_idle(s.here, "", &given);
        }
    }
    let mut at = s.here;
    let mut text = |key, default: &str| match s.get(key) {
        None => Some(default.to_owned()),
        Some(setting) => {
            at = setting;
            setting.text()
        }
    };
    let name = match form {
        0 => text("data_stream_name", "")?,
        1 => {
            let (prefix, date) =
                (text("logstash_prefix", "logstash")?, text("logstash_dateformat", "%Y.%m.%d")?);
            format!("{prefix}{}{date}", text("logstash_prefix_separator", "-")?)
        }
        _ => text("index_name", read_output::INDEX)?,
    };
    index_name::parse(&name).map_err(|message| at.error(message)).ok()
}

/// What stands for a value: itself, or the key of a Secret.
enum Given {
    Value(String),
    Key { path: PathBuf, expected: String },
}

fn secret(setting: Setting<'_>, secrets: &Path) -> Option<Secret> {
    let done = match given(setting, secrets)? {
        Given::Value(value) if value.is_empty() => Err("this secret is empty".to_owned()),
        Given::Value(value) => Ok(Secret::Inline(value)),
        Given::Key { path, expected } => {
            read_output::secret_file(path).map_err(|message| format!("{message}; {expected}"))
        }
    };
    done.map_err(|message| setting.error(message)).ok()
}

/// A certificate or key; its `value` is a path, as in the plugin.
fn pem(setting: Setting<'_>, secrets: &Path) -> Option<PathBuf> {
    let (path, expected) = match given(setting, secrets)? {
        Given::Value(path) => (PathBuf::from(path), String::new()),
        Given::Key { path, expected } => (path, format!("; {expected}")),
    };
    match text_file::check_pem(&path) {
        Ok(()) => Some(path),
        Err(message) => {
            setting.error(format!("{message}{expected}"));
            None
        }
    }
}

/// No message here quotes what it found: it may be the secret itself.
fn given(setting: Setting<'_>, secrets: &Path) -> Option<Given> {
    const EXAMPLE: &str = "expected `valueFrom: {secretKeyRef: {name: ..., key: ...}}`";
    if !matches!(setting.node.value, Value::Map(_)) {
        setting.error(EXAMPLE);
        return None;
    }
    let sources = setting.section(|s| {
        s.refuse_others();
        ["value", "valueFrom", "mountFrom"].map(|key| s.get(key))
    })?;
    match sources {
        [Some(value), None, None] => match value.node.text() {
            Some(text) => Some(Given::Value(text.to_owned())),
            None => {
                value.error("expected text as `value`");
                None
            }
        },
        [None, Some(from), None] | [None, None, Some(from)] => {
            if from.node.get("secretKeyRef").is_none() {
                from.error(EXAMPLE);
                return None;
            }
            from.section(|s| {
                s.refuse_others();
                s.section("secretKeyRef", |s| secret_key(s, secrets))
            })?
        }
        _ => {
            setting.error(EXAMPLE);
            None
        }
    }
}

fn secret_key(s: &mut Section<'_>, secrets: &Path) -> Option<Given> {
    s.refuse_others();
    let name = s.require("name", "quickstart-es-elastic-user").and_then(path_part);
    let key = s.require("key", "elastic").and_then(path_part);
    let (name, key) = (name?, key?);
    let expected = format!(
        "the key {} of the Secret {} belongs there: mount the Secret, or set `secrets` in the \
         agent's file",
        quoted(&key),
        quoted(&name)
    );
    Some(Given::Key { path: secrets.join(name).join(key), expected })
}

/// Text that can't lead out of the directory: tenants may write it.
fn path_part(setting: Setting<'_>) -> Option<String> {
    let text = setting.filled("a name")?;
    let mut components = Path::new(&text).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(part)), None) if part == text.as_str() => Some(text),
        _ => setting.expected("a name without `/`"),
    }
}
