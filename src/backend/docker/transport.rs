//! How the API is reached: a connection for each request, made when it is needed, so that a daemon that comes back is
//! found again and renewed certificates are taken.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actors::port::backend::BackendError;
use bollard::errors::Error;
use bollard::{BollardRequest, ClientVersion, Docker};
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Response, Uri};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long an answer may take to begin, in seconds. Copying a large image for a container takes its time.
const ANSWER_MAX: u64 = 120;
/// Written into requests that go through a socket.
const HERE: &str = "docker";
/// The library leaves it out of its requests: the daemon takes its own newest version.
const VERSION: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };

/// Where the API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A socket of this host.
    Unix(PathBuf),
    /// `host:port`, in clear.
    Tcp(String),
    /// `host:port`, with TLS.
    Tls {
        /// `host:port`.
        address: String,
        /// PEM file of the authority that signed the server's certificate; no other is trusted.
        ca_file: PathBuf,
        /// PEM files of the certificate that is shown to the server, and of its key.
        client_files: Option<(PathBuf, PathBuf)>,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) | Self::Tls { address, .. } => f.write_str(address),
        }
    }
}

/// Why a request was not sent: the daemon has not seen it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unsent(pub(super) BackendError);

impl From<Unsent> for Error {
    fn from(unsent: Unsent) -> Self {
        Self::IOError { err: io::Error::other(unsent) }
    }
}

/// The API at `endpoint`. Does no I/O.
pub(super) fn client(endpoint: &Arc<Endpoint>) -> Result<Docker, Error> {
    let host = match &**endpoint {
        Endpoint::Unix(_) => HERE,
        Endpoint::Tcp(address) | Endpoint::Tls { address, .. } => address,
    };
    let url = format!("http://{host}");
    let endpoint = Arc::clone(endpoint);
    let send = move |request| send(Arc::clone(&endpoint), request);
    Docker::connect_with_custom_transport(send, Some(url), ANSWER_MAX, &VERSION)
}

async fn send(endpoint: Arc<Endpoint>, mut request: BollardRequest) -> Result<Response<Incoming>, Error> {
    let connected = tokio::time::timeout(CONNECT_MAX, connect(&endpoint)).await;
    let stream = connected.unwrap_or_else(|_| {
        let text = format!("{endpoint} accepts no connection within {} s", CONNECT_MAX.as_secs());
        Err(Unsent(BackendError::Unreachable(text)))
    })?;
    if let Some(host) = request.uri().authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
        request.headers_mut().insert(HOST, host);
    }
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the answer's body, or when nobody reads it any more.
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await;
    match answer {
        // It was over before the request went out, as where the server refuses a certificate: it knows why.
        Err(error) if error.is_canceled() => {
            drop(sender);
            match connection.await {
                Ok(Err(why)) => Err(why.into()),
                Ok(Ok(())) | Err(_) => Err(error.into()),
            }
        }
        answer => Ok(answer?),
    }
}

/// Something that can be spoken through.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(endpoint: &Endpoint) -> Result<Box<dyn Stream>, Unsent> {
    match endpoint {
        Endpoint::Unix(path) => match UnixStream::connect(path).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(Unsent(no_socket(path, &error))),
        },
        Endpoint::Tcp(address) => Ok(Box::new(tcp(address).await?)),
        Endpoint::Tls { address, ca_file, client_files } => {
            let config = tls_config(ca_file, client_files.as_ref()).await?;
            let host = address.rsplit_once(':').map_or(&**address, |(host, _)| host).trim_matches(['[', ']']);
            let name = ServerName::try_from(host.to_owned())
                .map_err(|_| Unsent(BackendError::Invalid(format!("{host:?} is not the name of a host"))))?;
            let stream = tcp(address).await?;
            match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(Unsent(match refusal(&error) {
                    Some(refusal) => BackendError::Unauthorized(format!("{address} {refusal}")),
                    None => BackendError::Unreachable(format!("no TLS with {address}: {error}")),
                })),
            }
        }
    }
}

async fn tcp(address: &str) -> Result<TcpStream, Unsent> {
    let stream = TcpStream::connect(address).await;
    let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
    stream.map_err(|error| Unsent(BackendError::Unreachable(format!("no connection to {address}: {error}"))))
}

/// Why a socket cannot be used, with what to do.
fn no_socket(path: &Path, error: &io::Error) -> BackendError {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => BackendError::Unauthorized(format!(
            "{path} may not be opened by this user: make it a member of the socket's group (which is as good as root)"
        )),
        io::ErrorKind::NotFound => BackendError::Unreachable(format!("{path} does not exist: is the daemon running?")),
        io::ErrorKind::ConnectionRefused => {
            BackendError::Unreachable(format!("nothing listens at {path}: is the daemon running?"))
        }
        _ => BackendError::Unreachable(format!("no connection to {path}: {error}")),
    }
}

/// Whether, and in which words, the server did not accept what it was shown.
pub(super) fn refusal(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = inner.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = tls {
            return Some(format!("refuses tls_cert, or misses it (TLS alert {alert:?})"));
        }
        // An `io::Error` hides what it wraps from its sources.
        next = inner.map(|inner| inner as &(dyn StdError + 'static)).or_else(|| error.source());
    }
    None
}

/// Trusts the authority of `ca_file` alone.
async fn tls_config(ca_file: &Path, client_files: Option<&(PathBuf, PathBuf)>) -> Result<ClientConfig, Unsent> {
    let wrong = |key: &str, file: &Path, why: &dyn fmt::Display| {
        Unsent(BackendError::Invalid(format!("{key} {} cannot be used: {why}", file.display())))
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls_ca", ca_file).await? {
        roots.add(certificate).map_err(|error| wrong("tls_ca", ca_file, &error))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Unsent(BackendError::Invalid(format!("no TLS: {error}"))))?
        .with_root_certificates(roots);
    let Some((cert_file, key_file)) = client_files else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates("tls_cert", cert_file).await?;
    let pem = tokio::fs::read(key_file).await.map_err(|error| wrong("tls_key", key_file, &error))?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| wrong("tls_key", key_file, &error))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| wrong("tls_cert", cert_file, &error))
}

async fn certificates(key: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Unsent> {
    let wrong = |why: &dyn fmt::Display| {
        Unsent(BackendError::Invalid(format!("{key} {} cannot be used: {why}", file.display())))
    };
    let pem = tokio::fs::read(file).await.map_err(|error| wrong(&error))?;
    let all = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().map_err(|error| wrong(&error))?;
    if all.is_empty() { Err(wrong(&"it holds no certificate in PEM")) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_may_not_be_opened_is_another_matter_than_one_that_is_not_there() {
        let kind = |kind: io::ErrorKind| no_socket(Path::new("/run/x.sock"), &kind.into());
        assert!(
            matches!(kind(io::ErrorKind::PermissionDenied), BackendError::Unauthorized(text) if text.contains("group"))
        );
        assert!(
            matches!(kind(io::ErrorKind::NotFound), BackendError::Unreachable(text) if text.contains("/run/x.sock"))
        );
        assert!(matches!(kind(io::ErrorKind::ConnectionRefused), BackendError::Unreachable(_)));
    }
}
