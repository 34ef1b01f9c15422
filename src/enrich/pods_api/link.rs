//! The way to the API server: a client of what files and environment said when it was made.
//!
//! kube reads a kubeconfig and all that it names once, and a service account's token and authority
//! at most once a minute; so whoever is refused, or can't get through, asks for a new client. One
//! that can't be made leaves the one before in its place. When to ask is not decided here.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::Response;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{ClientBuilder, ConfigExt};
use kube::{Client, Config};
use tokio::time::sleep;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder, ServiceExt};
use tracing::warn;

use super::watch::{LONGEST_PAUSE, backoff};
use crate::telemetry::throttle;

/// A connection that isn't there, with TLS, after this has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection on which nothing came for so long is asked whether the other end is still there, again
/// and again at [`PROBES_APART`]; after [`PROBES`] without an answer it has failed. That is sooner than
/// an unknown pod is given up by default: until then an API server without power is in sync.
const QUIET: Duration = Duration::from_secs(15);
const PROBES_APART: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;

type Failure = Box<dyn Error + Send + Sync>;
type Connecting = Pin<Box<dyn Future<Output = Result<Connection, Failure>> + Send>>;
/// Makes a client of what files and environment say now.
pub(super) type Connect = Arc<dyn Fn() -> Connecting + Send + Sync>;

/// `KUBECONFIG`, else the service account of the pod.
pub(super) fn environment() -> Connect {
    Arc::new(|| Box::pin(async { Connection::by(Config::infer().await?) }))
}

/// A client, and what it leads to.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) cluster: Cluster,
}

/// What tells one Kubernetes cluster from another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cluster {
    pub(super) url: String,
    pub(super) authority: Option<Vec<Vec<u8>>>,
}

impl Connection {
    /// What kube makes of a configuration by itself, but for connections that find out when the other
    /// end has gone without a word, and without retrying: that is done in the watch, where an error
    /// also puts the store out of sync. How long answers may take is decided there too.
    pub(super) fn by(config: Config) -> Result<Self, Failure> {
        if let Some(proxy) = &config.proxy_url {
            let host = proxy.host().unwrap_or_default();
            return Err(format!("the API server can't be asked through a proxy ({host})").into());
        }
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_keepalive(Some(QUIET));
        connector.set_keepalive_interval(Some(PROBES_APART));
        connector.set_keepalive_retries(Some(PROBES));
        let connector = config.rustls_https_connector_with_connector(connector)?;
        let connector = ServiceBuilder::new().timeout(CONNECT_TIMEOUT).service(connector);
        let connector = BoxCloneSyncService::new(connector);
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer()?)
            .layer(config.extra_headers_layer()?)
            .map_err(BoxError::from)
            .service(HttpClient::builder(TokioExecutor::new()).build(connector))
            .map_response(noted);
        let client = ClientBuilder::new(service, config.default_namespace).build();
        let cluster = Cluster { url: config.cluster_url.to_string(), authority: config.root_cert };
        Ok(Self { client, cluster })
    }
}

/// Says what a gateway before the API server answers: of an answer that is not the API server's own
/// the client tells no status.
fn noted<B>(response: Response<B>) -> Response<B> {
    let status = response.status();
    if status.is_server_error()
        && let Some(suppressed) = throttle::allow(&format!("the API server answers {status}"))
    {
        warn!(suppressed, %status, "the API server, or what is before it, can't answer");
    }
    response
}

/// A client, and how to get a newer one.
#[derive(Clone)]
pub(super) struct Link {
    connection: Connection,
    connect: Connect,
}

impl Link {
    /// Tries until there is a client; that needs files and settings, not the API server.
    pub(super) async fn open(connect: Connect) -> Self {
        let mut pauses = backoff();
        loop {
            match connect().await {
                Ok(connection) => return Self { connection, connect },
                Err(error) => {
                    if let Some(suppressed) = throttle::allow("no way to the API server") {
                        warn!(
                            suppressed,
                            error,
                            "no way to the API server: neither KUBECONFIG nor a service account"
                        );
                    }
                }
            }
            sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
        }
    }

    pub(super) fn client(&self) -> Client {
        self.connection.client.clone()
    }

    /// Takes what the files say now, and tells whether that may lead to another cluster; after an
    /// error it is as it was.
    pub(super) async fn renew(&mut self) -> Result<bool, Failure> {
        let before = std::mem::replace(&mut self.connection, (self.connect)().await?);
        Ok(before.cluster != self.connection.cluster)
    }
}
