//! The sink's side of TLS, with the certificates that the tests use.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls")).join(name)
}

/// What the agent is to trust.
pub(crate) fn authority() -> PathBuf {
    fixture("ca.crt")
}

/// A server on loopback that asks for no certificate.
pub(crate) fn server() -> io::Result<Arc<ServerConfig>> {
    let chain = CertificateDer::from_pem_file(fixture("loopback.crt")).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(fixture("loopback.key")).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .map_err(io::Error::other)?;
    Ok(Arc::new(config))
}

pub(crate) fn connection(config: &Arc<ServerConfig>) -> io::Result<ServerConnection> {
    ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)
}
