//! From `output:` to an [`Output`].

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use super::index_name;
use super::pipeline::{
    Auth, BatchLimits, Compression, DocumentForm, Elasticsearch, IndexName, Output, Refused,
    Secret, Target, Tls, Verify,
};
use super::setting::{Section, Setting};
use super::text_file;
use super::units::{self, KIB, MIB};

const OUTPUTS: &str = "`elasticsearch`, `stdout` or `file`";

/// Uncompressed bytes at which a batch is sent, where the budget allows it.
const BATCH_SIZE: usize = 4 * MIB;
const BATCH_LINGER: Duration = Duration::from_secs(1);
/// The index that fluentd's plugin writes by default, and the dashboards made for it read.
pub(super) const INDEX: &str = "fluentd";
const REFUSED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The default limits of a batch, at most a quarter of the budget.
pub(super) fn default_batch(budget_bytes: usize) -> BatchLimits {
    BatchLimits { size_bytes: BATCH_SIZE.min(budget_bytes / 4), linger: BATCH_LINGER }
}

/// What an `elasticsearch` output has beside its hosts.
pub(super) fn default_elasticsearch(hosts: Vec<String>) -> Elasticsearch {
    Elasticsearch {
        hosts,
        auth: Auth::None,
        tls: Tls { verify: Verify::Full, ca: None, client: None },
        index: IndexName::Fixed(INDEX.to_owned()),
        compression: Compression::Gzip,
        refused: Refused::Reindex,
        refused_after: REFUSED_AFTER,
    }
}

/// Reads an output: a mapping whose only key is its kind.
pub(super) fn read(setting: Setting<'_>, budget_bytes: usize) -> Option<Output> {
    let (entry, value) = setting.single(OUTPUTS)?;
    let kind: fn(&mut Section<'_>) -> Option<Target> = match entry.key.as_str() {
        "elasticsearch" => |s| elasticsearch(s).map(|es| Target::Elasticsearch(Box::new(es))),
        "stdout" => |_| Some(Target::Stdout),
        "file" => |s| s.require("path", "/tmp/documents.ndjson")?.path().map(Target::File),
        kind => {
            let kind = super::problem::quoted(kind);
            let message = format!("unknown output {kind}; known here: {OUTPUTS}");
            setting.report.error(&entry.place, message);
            return None;
        }
    };
    value.section(|s| {
        let forms = [("fluentd", DocumentForm::Fluentd), ("ecs", DocumentForm::Ecs)];
        let document = s.get("document").and_then(|form| form.choice(&forms));
        let batch = s.section("batch", |s| batch(s, budget_bytes));
        let target = kind(s)?;
        Some(Output { document: document.unwrap_or(DocumentForm::Fluentd), batch, target })
    })?
}

fn batch(s: &mut Section<'_>, budget_bytes: usize) -> BatchLimits {
    let default = default_batch(budget_bytes);
    let size = s.get("size").and_then(|setting| {
        let size = setting.size(16 * KIB..=64 * MIB)?;
        let most = budget_bytes / 4;
        if size > most {
            let most = units::show_size(most as u64);
            setting.error(format!(
                "a batch may be at most a quarter of `memory.budget`, that is {most}"
            ));
        }
        Some(size)
    });
    let linger = s.get("linger").and_then(|l| l.duration(Duration::ZERO..=Duration::from_secs(10)));
    BatchLimits {
        size_bytes: size.unwrap_or(default.size_bytes),
        linger: linger.unwrap_or(default.linger),
    }
}

fn elasticsearch(s: &mut Section<'_>) -> Option<Elasticsearch> {
    let hosts = (s.require("hosts", "[https://elasticsearch:9200]"))
        .and_then(|hosts| hosts.each("[https://elasticsearch:9200]", host));
    let auth = auth(s);
    let has_tls = s.get("tls");
    let tls = s.section("tls", tls);
    if let (Some(setting), Some(hosts)) = (has_tls, &hosts)
        && hosts.iter().all(|host| host.starts_with("http://"))
    {
        setting.warn("`tls` has no effect: every host begins with `http://`");
    }
    let index = s.get("index").and_then(index);
    let compressions = [("gzip", Compression::Gzip), ("none", Compression::None)];
    let compression = s.get("compression").and_then(|c| c.choice(&compressions));
    let refusals = [
        ("reindex", Refused::Reindex),
        ("dead_letter", Refused::DeadLetter),
        ("drop", Refused::Drop),
    ];
    let refused = s.get("refused").and_then(|refused| refused.choice(&refusals));
    let longest = Duration::from_secs(30 * 24 * 3600);
    let refused_after =
        s.get("refused_after").and_then(|after| after.duration(Duration::from_secs(60)..=longest));
    let default = default_elasticsearch(hosts?);
    Some(Elasticsearch {
        auth,
        tls,
        index: index.unwrap_or(default.index),
        compression: compression.unwrap_or(default.compression),
        refused: refused.unwrap_or(default.refused),
        refused_after: refused_after.unwrap_or(default.refused_after),
        hosts: default.hosts,
    })
}

/// `user` with `password`, or `api_key`, or neither.
fn auth(s: &mut Section<'_>) -> Auth {
    let user = s.get("user");
    let password = s.get("password");
    let api_key = s.get("api_key");
    if let (Some(api_key), Some(_)) = (api_key, user.or(password)) {
        api_key.error("`api_key` can't stand together with `user` and `password`");
    }
    let name = user.and_then(|user| user.filled("the name of a user"));
    let secret = password.and_then(Setting::secret);
    let key = api_key.and_then(Setting::secret);
    match (user, password) {
        (Some(user), None) => user.error(
            "`user` needs a `password`, such as `password: ${file:/etc/splashdam/secrets/elastic}`",
        ),
        (None, Some(password)) => password.error("`password` needs a `user`"),
        _ => {}
    }
    match (name, secret, key) {
        (Some(user), Some(password), _) => Auth::Basic { user, password },
        (_, _, Some(key)) => Auth::ApiKey(key),
        _ => Auth::None,
    }
}

fn tls(s: &mut Section<'_>) -> Tls {
    let verify =
        [("full", Verify::Full), ("certificate", Verify::Certificate), ("none", Verify::None)];
    let verify = s.get("verify").and_then(|setting| setting.choice(&verify));
    let ca = s.get("ca").and_then(pem);
    let cert = s.get("cert");
    let key = s.get("key");
    match (cert, key) {
        (Some(cert), None) => cert.error("`cert` needs a `key`"),
        (None, Some(key)) => key.error("`key` needs a `cert`"),
        _ => {}
    }
    let client = cert.and_then(pem).zip(key.and_then(pem));
    Tls { verify: verify.unwrap_or(Verify::Full), ca, client }
}

fn pem(setting: Setting<'_>) -> Option<PathBuf> {
    let path = setting.path()?;
    match text_file::check_pem(&path) {
        Ok(()) => Some(path),
        Err(message) => {
            setting.error(message);
            None
        }
    }
}

fn index(setting: Setting<'_>) -> Option<IndexName> {
    let text = setting.filled("the name of an index")?;
    match index_name::parse(&text) {
        Ok(name) => Some(name),
        Err(message) => {
            setting.error(message);
            None
        }
    }
}

fn host(setting: Setting<'_>) -> Option<String> {
    let text = setting.filled("a URL such as https://elasticsearch:9200")?;
    match host_url(&text) {
        Ok(url) => Some(url),
        Err(message) => {
            setting.error(message);
            None
        }
    }
}

/// A host as `scheme://host:port/path`, without a slash at the end. Without a port it is that of
/// the scheme (80, 443). No message holds the text: people put passwords into URLs.
pub(super) fn host_url(text: &str) -> Result<String, String> {
    const EXAMPLE: &str = "write scheme, host and port, such as https://elasticsearch:9200";
    let url = Url::parse(text).map_err(|error| format!("not a URL ({error}); {EXAMPLE}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL must not hold a user or password: they have keys of their own, `user` \
                    and `password`"
            .to_owned());
    }
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("the URL must begin with `http://` or `https://`; {EXAMPLE}"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("the URL must not have a `?` or `#`; {EXAMPLE}"));
    }
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err(format!("the URL has no host; {EXAMPLE}"));
    };
    let path = url.path().trim_end_matches('/');
    Ok(format!("{}://{host}:{port}{path}", url.scheme()))
}

/// A secret that is read from a file, once it has been found to be there and not empty.
pub(super) fn secret_file(path: PathBuf) -> Result<Secret, String> {
    match text_file::read_value(&path)? {
        text if text.is_empty() => Err(format!("{} is empty", path.display())),
        _ => Ok(Secret::File(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (text, url) in [
            ("https://es:9200", "https://es:9200"),
            ("https://es:9200/", "https://es:9200"),
            ("https://ES.example.com/logs/", "https://es.example.com:443/logs"),
            ("http://[::1]:9200", "http://[::1]:9200"),
            ("http://10.0.0.1", "http://10.0.0.1:80"),
        ] {
            assert_eq!(host_url(text).as_deref(), Ok(url), "{text}");
        }
        for text in ["es:9200", "es", "", "ftp://es", "https://", "http://a?b", "http://a#b"] {
            assert!(host_url(text).is_err(), "{text}");
        }
        for text in ["https://elastic:hunter2@es:9200", "https://hunter2@es", "https://:hunter2@es"]
        {
            let message = host_url(text).unwrap_err();
            assert!(message.contains("must not hold a user") && !message.contains("hunter2"));
        }
    }
}
