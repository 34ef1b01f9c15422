//! HTTP to Elasticsearch: the only file that opens sockets to it.
//!
//! Owns connections, TLS, who we say we are, and which host is asked. One call is one request to
//! one host; whether and when to ask again is decided elsewhere. Guarantees: redirects are never
//! followed (they could lead the credentials elsewhere); no proxy is taken from the environment;
//! a body is sent as it is, without a copy; an answer is read up to a limit. Limits: 10 s to
//! connect, 90 s for a request and its answer; of an answer 1 MiB and 4 KiB for each document, for a
//! single one 8 times its length, at most 8 MiB.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Certificate, Identity, Method, Response, Url};
use tokio::time::Instant;

use super::bulk::Body;
use super::credentials::{Credentials, LOOK_EVERY, Stamp};
use super::response::{self, Cause};
use super::retry::Hosts;
use crate::config::pipeline::{Elasticsearch, IndexName, Tls, Verify};

/// The longest reason that is read.
const QUOTED_BYTES_MAX: usize = 8 << 20;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) connect: Duration,
    pub(super) request: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), request: Duration::from_secs(90) }
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds no PEM certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} and {} are not a certificate and its key in PEM", certificate.display(), key.display())]
    Identity { certificate: PathBuf, key: PathBuf, source: reqwest::Error },
    #[error("{host:?} is not a URL like https://host:9200")]
    Host { host: String },
    #[error("cannot set up HTTP")]
    Build { source: reqwest::Error },
}

/// An answer to a bulk request, not yet judged.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) cause: Cause,
    /// What the system said, without secrets and without texts of lines.
    pub(super) detail: String,
}

impl Failure {
    fn new(cause: Cause, detail: impl ToString) -> Self {
        Self { cause, detail: detail.to_string() }
    }
}

/// What came back from one host.
#[derive(Debug)]
pub(super) struct Exchange {
    /// Without path.
    pub(super) host: String,
    pub(super) result: Result<Reply, Failure>,
    /// The host is at fault and another one may be asked at once.
    pub(super) fail_over: bool,
}

/// Speaks to the hosts of one output.
#[derive(Debug)]
pub(super) struct Client {
    hosts: Vec<HostUrls>,
    tls: Tls,
    timeouts: Timeouts,
    state: Mutex<Changing>,
    /// In place of sockets.
    #[cfg(test)]
    scripted: Option<super::scripted::Wire>,
}

#[derive(Debug)]
struct HostUrls {
    name: String,
    bulk: Url,
    root: Url,
    who_am_i: Url,
}

#[derive(Debug)]
struct Changing {
    http: reqwest::Client,
    stamps: Vec<Option<Stamp>>,
    looked: Instant,
    credentials: Credentials,
    hosts: Hosts,
}

impl Client {
    /// Reads certificates, opens nothing. `seed` chooses the host that is asked first.
    pub(super) fn new(
        output: &Elasticsearch,
        timeouts: Timeouts,
        now: Instant,
        seed: u64,
    ) -> Result<Self, ClientError> {
        let hosts: Vec<HostUrls> = (output.hosts.iter())
            .map(|host| urls(host, &output.index))
            .collect::<Result<_, _>>()?;
        let state = Changing {
            stamps: stamps(&output.tls),
            http: build(&output.tls, timeouts)?,
            looked: now,
            credentials: Credentials::new(output.auth.clone()),
            hosts: Hosts::new(hosts.len(), seed),
        };
        Ok(Self {
            hosts,
            tls: output.tls.clone(),
            timeouts,
            state: Mutex::new(state),
            #[cfg(test)]
            scripted: None,
        })
    }

    /// Speaks to `wire` from now on.
    #[cfg(test)]
    pub(super) fn script(&mut self, wire: super::scripted::Wire) {
        self.scripted = Some(wire);
    }

    /// Sends a bulk request of `documents` documents to the next host.
    pub(super) async fn bulk(&self, body: &Body, documents: usize, now: Instant) -> Exchange {
        let (chosen, began) = (self.choose(now), Instant::now());
        let host = chosen.host;
        let result = self.post(host, body, documents, now).await;
        let fail_over = self.note(host, &result, now + began.elapsed());
        Exchange { host: self.hosts[host].name.clone(), result, fail_over }
    }

    /// Asks the next host whether it is there and lets us in, without writing.
    pub(super) async fn probe(&self, now: Instant) -> Exchange {
        let (chosen, began) = (self.choose(now), Instant::now());
        let host = chosen.host;
        let mut result = self.get(&self.hosts[host].root, now).await;
        if matches!(&result, Ok(reply) if reply.status == 403) {
            // `GET /` needs the cluster privilege `monitor`, which writing does not.
            let known = self.get(&self.hosts[host].who_am_i, now).await;
            if matches!(&known, Ok(reply) if reply.status == 200) {
                result = known;
            }
        }
        let fail_over = self.note(host, &result, now + began.elapsed());
        Exchange { host: self.hosts[host].name.clone(), result, fail_over }
    }

    fn choose(&self, now: Instant) -> Chosen<'_> {
        Chosen { client: self, host: self.lock().hosts.choose(now) }
    }

    async fn post(
        &self,
        host: usize,
        body: &Body,
        documents: usize,
        now: Instant,
    ) -> Result<Reply, Failure> {
        #[cfg(test)]
        if let Some(wire) = &self.scripted {
            return super::scripted::ask(wire, Some(body), self.timeouts).await;
        }
        let mut request = self
            .request(Method::POST, &self.hosts[host].bulk, now)?
            .header(CONTENT_TYPE, "application/x-ndjson")
            .body(body.bytes.clone());
        if body.gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
        }
        // A reason quotes values of its document, escaped.
        let quoted = || body.plain_bytes.saturating_mul(8).min(QUOTED_BYTES_MAX);
        let each = if documents == 1 { quoted() } else { 4096 };
        let limit_bytes = (1 << 20) + documents.saturating_mul(each);
        read(request.send().await, limit_bytes).await
    }

    async fn get(&self, url: &Url, now: Instant) -> Result<Reply, Failure> {
        #[cfg(test)]
        if let Some(wire) = &self.scripted {
            return super::scripted::ask(wire, None, self.timeouts).await;
        }
        let request = self.request(Method::GET, url, now)?;
        read(request.send().await, 1 << 20).await
    }

    fn request(
        &self,
        method: Method,
        url: &Url,
        now: Instant,
    ) -> Result<reqwest::RequestBuilder, Failure> {
        let mut state = self.lock();
        self.renew(&mut state, now);
        let request = state.http.request(method, url.clone());
        (state.credentials.sign(request, now))
            .map_err(|error| Failure::new(Cause::Credentials, chain(&error)))
    }

    /// Takes certificates that have changed into use; those that cannot be used are left alone.
    fn renew(&self, state: &mut Changing, now: Instant) {
        if now.saturating_duration_since(state.looked) < LOOK_EVERY {
            return;
        }
        state.looked = now;
        let stamps = stamps(&self.tls);
        if stamps == state.stamps {
            return;
        }
        match build(&self.tls, self.timeouts) {
            Ok(http) => {
                state.http = http;
                tracing::info!("certificate files were replaced, and are in use");
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "changed certificates cannot be used");
            }
        }
        state.stamps = stamps;
    }

    /// Whether the host is at fault, and what that means for the next choice.
    fn note(&self, host: usize, result: &Result<Reply, Failure>, now: Instant) -> bool {
        let mut state = self.lock();
        let at_fault = match result {
            Ok(reply) => matches!(reply.status, 502..=504),
            Err(failure) => matches!(failure.cause, Cause::Connect | Cause::Timeout),
        };
        if at_fault {
            state.hosts.failed(host, now);
        } else if result.is_ok() {
            state.hosts.answered(host);
        }
        if matches!(result, Ok(reply) if reply.status == 401) {
            state.credentials.doubt();
        }
        at_fault && state.hosts.any_live(now)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Changing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A host that is being asked, until this is let go of.
struct Chosen<'a> {
    client: &'a Client,
    host: usize,
}

impl Drop for Chosen<'_> {
    fn drop(&mut self) {
        self.client.lock().hosts.ended(self.host);
    }
}

/// Reads an answer of at most `limit_bytes`.
async fn read(
    response: Result<Response, reqwest::Error>,
    limit_bytes: usize,
) -> Result<Reply, Failure> {
    let mut response = response.map_err(failure)?;
    let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = header.and_then(|value| response::retry_after(value, SystemTime::now()));
    // Where its length is told, so much and no more, which the allocator has at hand.
    let told = response.content_length().and_then(|bytes| usize::try_from(bytes).ok());
    let mut body = BytesMut::with_capacity(told.unwrap_or(0).min(limit_bytes));
    while let Some(chunk) = response.chunk().await.map_err(failure)? {
        if body.len() + chunk.len() > limit_bytes {
            return Err(Failure::new(Cause::AnswerTooLong, "the answer is too long"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { status: response.status().as_u16(), retry_after, body: body.freeze() })
}

fn failure(error: reqwest::Error) -> Failure {
    let cause = match () {
        () if error.is_connect() => Cause::Connect,
        () if error.is_timeout() => Cause::Timeout,
        () => Cause::Torn,
    };
    Failure::new(cause, chain(&error.without_url()))
}

/// An error with what it came from, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn urls(host: &str, index: &IndexName) -> Result<HostUrls, ClientError> {
    let wrong = || ClientError::Host { host: host.to_owned() };
    let root = Url::parse(host).map_err(|_| wrong())?;
    let beneath = |names: &[&str]| {
        let mut url = root.clone();
        let mut path = url.path_segments_mut().map_err(|()| wrong())?;
        path.pop_if_empty().extend(names);
        drop(path);
        Ok::<Url, ClientError>(url)
    };
    let mut bulk = match index {
        IndexName::Fixed(name) => beneath(&[name, "_bulk"])?,
        IndexName::ByDate(_) => beneath(&["_bulk"])?,
    };
    bulk.set_query(Some(response::FILTER_PATH));
    let who_am_i = beneath(&["_security", "_authenticate"])?;
    let port = root.port_or_known_default().unwrap_or_default();
    let name = format!("{}:{port}", root.host_str().ok_or_else(wrong)?);
    Ok(HostUrls { name, bulk, who_am_i, root })
}

fn stamps(tls: &Tls) -> Vec<Option<Stamp>> {
    let client = tls.client.iter().flat_map(|(certificate, key)| [certificate, key]);
    tls.ca.iter().chain(client).map(|path| Stamp::of(path)).collect()
}

fn build(tls: &Tls, timeouts: Timeouts) -> Result<reqwest::Client, ClientError> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("splashdam/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .connect_timeout(timeouts.connect)
        .timeout(timeouts.request)
        .tcp_keepalive(Duration::from_secs(60))
        .pool_max_idle_per_host(2);
    if let Some(path) = &tls.ca {
        // The only root: what the user trusts is what the user names.
        builder = builder.tls_built_in_root_certs(false);
        for certificate in certificates(path)? {
            builder = builder.add_root_certificate(certificate);
        }
    }
    if let Some((certificate, key)) = &tls.client {
        builder = builder.identity(identity(certificate, key)?);
    }
    builder = match tls.verify {
        Verify::Full => builder,
        Verify::Certificate => builder.danger_accept_invalid_hostnames(true),
        Verify::None => builder.danger_accept_invalid_certs(true),
    };
    builder.build().map_err(|source| ClientError::Build { source })
}

fn read_file(path: &Path) -> Result<Vec<u8>, ClientError> {
    fs::read(path).map_err(|source| ClientError::Read { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, ClientError> {
    let certificates = Certificate::from_pem_bundle(&read_file(path)?).unwrap_or_default();
    if certificates.is_empty() {
        return Err(ClientError::NoCertificate { path: path.to_owned() });
    }
    Ok(certificates)
}

fn identity(certificate: &Path, key: &Path) -> Result<Identity, ClientError> {
    let mut pem = read_file(certificate)?;
    pem.push(b'\n');
    pem.extend(read_file(key)?);
    Identity::from_pem(&pem).map_err(|source| ClientError::Identity {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    })
}
