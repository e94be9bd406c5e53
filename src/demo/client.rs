//! An HTTP client for the loopback interface: no proxy, no certificates to load, ready in no time.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

/// Why there is no client.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The TLS library refuses its own defaults.
    #[error("no TLS configuration: {0}")]
    Tls(#[from] rustls::Error),
    /// The HTTP library refuses its settings.
    #[error("no HTTP client: {0}")]
    Http(#[from] reqwest::Error),
}

/// A client that keeps up to `idle` connections per host open.
pub(super) fn loopback(idle: usize) -> Result<reqwest::Client, ClientError> {
    // An explicit TLS configuration without roots: the library would otherwise read the system's certificates.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(idle)
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .build()?;
    Ok(client)
}
