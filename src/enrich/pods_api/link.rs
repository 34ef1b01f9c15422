//! The way to the API server: a client of what files and environment said when it was made.
//!
//! kube reads a kubeconfig and all that it names once, and a service account's token and authority
//! at most once a minute; so whoever is refused, or can't get through, asks for a new client. One
//! that can't be made leaves the one before in its place. When to ask is not decided here.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kube::{Client, Config};
use tokio::time::sleep;
use tracing::warn;

use super::watch::{LONGEST_PAUSE, WATCH_SECONDS, backoff};
use crate::telemetry::throttle;

/// A connection that isn't there after this has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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
    pub(super) fn by(mut config: Config) -> Result<Self, Failure> {
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        // A watch may be silent for as long as it was asked for, and a broken connection for ever.
        config.read_timeout = Some(Duration::from_secs(u64::from(WATCH_SECONDS.end) + 10));
        config.reset_reader_on_write = true;
        // Retrying is done in the watch, where an error also puts the store out of sync.
        config.default_retry = false;
        let (url, authority) = (config.cluster_url.to_string(), config.root_cert.clone());
        Ok(Self { client: Client::try_from(config)?, cluster: Cluster { url, authority } })
    }
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
