//! How a connection to GitHub is made: its address, TLS, the HTTP client, and what went wrong in words.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use octocrab::{AuthState, OctoBody, Octocrab, OctocrabBuilder};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};

use super::InvalidSettings;

/// Unused connections are closed after this time, before GitHub does.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// A client for the server of `base`, without a credential.
pub(super) fn client(base: &Uri, connect_timeout: Duration) -> Result<Octocrab, InvalidSettings> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(connect_timeout));
    let tls = tls(base.scheme_str() == Some("https")).map_err(|error| InvalidSettings::Tls(error.to_string()))?;
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http);
    let client: HttpClient<_, OctoBody> = HttpClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        .build(connector);
    let octocrab = OctocrabBuilder::new_empty().with_service(client).with_auth(AuthState::None).build();
    let Ok(octocrab) = octocrab;
    Ok(octocrab)
}

/// Checks a base URL: `http` or `https`, a host, perhaps a path.
pub(super) fn base_url(text: &str) -> Result<Uri, InvalidSettings> {
    let invalid = |why| InvalidSettings::BaseUrl { value: text.chars().take(200).collect(), why };
    if text.contains('@') {
        let value = "(not shown: it may hold a password)".to_owned();
        return Err(InvalidSettings::BaseUrl { value, why: "it must not hold a user or password" });
    }
    let uri: Uri = text.trim().parse().map_err(|_| invalid("it is not a URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(invalid("it must start with https:// or http://"));
    }
    if uri.query().is_some() {
        return Err(invalid("it must not have a query"));
    }
    Ok(uri)
}

/// The system's certificate authorities for `https`; none are looked for where none are needed.
fn tls(needed: bool) -> Result<ClientConfig, Box<dyn Error>> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder =
        if needed { builder.with_native_roots()? } else { builder.with_root_certificates(RootCertStore::empty()) };
    Ok(builder.with_no_client_auth())
}

/// The causes of an error in words, outermost first, each once. An I/O error says its kind as well.
pub(super) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = next {
        let text = match cause.downcast_ref::<io::Error>() {
            Some(io) if io.get_ref().is_none() => format!("{io} ({})", io.kind()),
            _ => cause.to_string(),
        };
        next = cause.source();
        // An outer text that ends with its cause's says nothing that the two do not say together.
        if let Some(outer) = texts.last_mut()
            && let Some(start) = outer.strip_suffix(&cause.to_string())
        {
            *outer = start.trim_end_matches([':', ' ']).to_owned();
        }
        texts.push(text);
    }
    texts.retain(|text| !text.is_empty());
    texts.join(": ")
}
