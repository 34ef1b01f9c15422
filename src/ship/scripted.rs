//! What a client of a simulation speaks to: a channel in place of sockets.
//!
//! A request goes to whoever plays the host, with the means to answer it. Letting go of those ends
//! the connection; not using them is a host that never answers. Time limits are those of the
//! client, kept in the runtime's time.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::bulk::Body;
use super::client::{Failure, Reply, Timeouts};
use super::response::Cause;

/// One request.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The uncompressed body of a bulk request; nothing for a look whether somebody is there.
    pub(crate) body: Option<Vec<u8>>,
    pub(crate) answer: oneshot::Sender<Said>,
}

/// What comes back.
#[derive(Debug)]
pub(crate) enum Said {
    Reply {
        status: u16,
        retry_after: Option<Duration>,
        body: String,
    },
    /// Nobody takes the connection.
    NoConnection,
}

/// The way to the host.
pub(crate) type Wire = mpsc::Sender<Asked>;

/// Sends one request and waits for its answer. Cancel safe: the host sees that nobody waits.
pub(super) async fn ask(
    wire: &Wire,
    body: Option<&Body>,
    timeouts: Timeouts,
) -> Result<Reply, Failure> {
    let (answer, answered) = oneshot::channel();
    let body = body.map(|body| body.plain().into_owned());
    let request = async {
        wire.send(Asked { body, answer }).await.ok();
        answered.await
    };
    let failed = |cause: Cause| Err(Failure { cause, detail: String::new() });
    match tokio::time::timeout(timeouts.request, request).await {
        Err(_) => failed(Cause::Timeout),
        Ok(Err(_)) => failed(Cause::Torn),
        Ok(Ok(Said::NoConnection)) => failed(Cause::Connect),
        Ok(Ok(Said::Reply { status, retry_after, body })) => {
            Ok(Reply { status, retry_after, body: Bytes::from(body) })
        }
    }
}
