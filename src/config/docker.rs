//! Keys of the backend `docker`, and its settings as plain data.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use actors::model::secret::Secret;
use http::uri::Authority;
use serde_json::{Value as Json, json};

use super::ClientCertificate;
use super::backend::environment;
use super::read::{Field, Read, Reader, Texts, keys};
use super::show::show_text;
use super::tree::{Node, Value};
use super::types::{FilePath, scalar, scalars};
use super::words::words;

/// How labels of ours begin.
const LABELS_OF_OURS: &str = "runner-manager.";
/// The least memory that Docker gives a container, in bytes.
const MEMORY_MIN: u64 = 6 << 20;
/// What a `base_url` may be.
const URLS: &str = "unix:///path/of/docker.sock, tcp://host:port or https://host:port, without user and path";

/// Containers of Docker or Podman.
#[derive(Clone, PartialEq, Eq)]
pub struct DockerSettings {
    /// Where the API is.
    pub endpoint: DockerEndpoint,
    /// Image of the containers. Default `runner:latest`.
    pub image: String,
    /// Command and its arguments; empty: that of the image.
    pub command: Vec<String>,
    /// Labels beside those that mark the owner.
    pub labels: BTreeMap<String, String>,
    /// Environment variables. The values may be secrets and are not shown by `Debug`.
    pub env: BTreeMap<String, String>,
    /// When the image is pulled. Default: when it is missing.
    pub pull: Pull,
    /// Network; absent: Docker's default.
    pub network: Option<String>,
    /// What is mounted, each as `host:container` or `host:container:options`.
    pub volumes: Vec<String>,
    /// Most processor time, in billionths of a CPU; absent: no limit.
    pub nano_cpus: Option<i64>,
    /// Most memory in bytes; absent: no limit.
    pub memory: Option<i64>,
    /// Whether the container may do everything that the host's root may.
    pub privileged: bool,
    /// Whether Docker removes the container as soon as it ends.
    pub remove: bool,
}

/// Where the API of Docker or Podman is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerEndpoint {
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
        /// What is shown to the server.
        client_certificate: Option<ClientCertificate>,
    },
}

impl fmt::Display for DockerEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address} without TLS"),
            Self::Tls { address, .. } => write!(f, "{address} with TLS"),
        }
    }
}

impl fmt::Debug for DockerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("docker")
            .field("endpoint", &self.endpoint)
            .field("image", &self.image)
            .field("env", &self.env.keys())
            .finish_non_exhaustive()
    }
}

words! {
    /// When an image is pulled.
    pub enum Pull {
        /// When it is not there.
        Missing = "missing",
        /// Before every creation.
        Always = "always",
        /// Not at all.
        Never = "never",
    }
}

scalars! {
    /// An image, as `docker pull` takes it.
    Image(String): "an image like registry.example.org/runner:1",
        {"type": "string", "minLength": 1}, |text| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':' | b'@');
            let valid = text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(plain);
            (valid && !text.contains("..")).then(|| text.to_owned())
        };
    /// What is mounted where.
    Volume(String): "host:container or host:container:ro, where host is an absolute path or the name of a volume",
        {"type": "string"}, |text| volume(text).then(|| text.to_owned());
    /// CPUs, in billionths.
    Cpus(i64): "a number of CPUs like 2 or 1.5, more than 0",
        {"type": ["number", "string"], "exclusiveMinimum": 0}, cpus;
    /// Memory, in bytes.
    Memory(i64): "an amount of memory like 512m or 2g (b, k, m, g; multiples of 1024), at least 6m",
        {"type": ["integer", "string"]}, memory;
    /// The name of a network.
    Network(String): "the name of a network",
        {"type": "string", "minLength": 1}, |text| {
            (!text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())).then(|| text.to_owned())
        };
}

/// The URL of the API.
#[derive(Debug)]
pub(super) struct DockerUrl(Url);

#[derive(Debug)]
enum Url {
    Unix(PathBuf),
    /// Host, port if given, and whether it must be TLS.
    Tcp(Authority, bool),
}

impl Read for DockerUrl {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        // What may hold a password is not shown.
        if matches!(&node.value, Value::Scalar { text, .. } if text.contains('@')) {
            reader.wrong(&node.at, "a URL with a user (not shown)", URLS);
            return None;
        }
        scalar(node, reader, Self::expected, |text| url(text).map(Self))
    }

    fn expected() -> String {
        URLS.to_owned()
    }

    fn schema() -> Json {
        json!({"type": "string"})
    }
}

keys! {
    /// How to reach Docker or Podman. With the three keys of TLS, tcp:// is TLS as well.
    struct DockerConfig {
        /// URL of the Docker Engine API: unix:///path, tcp://host:port or https://host:port.
        optional base_url: DockerUrl = "unix:///var/run/docker.sock",
        /// PEM file of the authority that signed the certificate of the server; needed for TLS.
        optional tls_ca: FilePath,
        /// PEM file of the certificate that is shown to the server, with tls_key.
        optional tls_cert: FilePath,
        /// PEM file of the private key of tls_cert.
        optional tls_key: FilePath,
    }
}
keys! {
    /// What the containers are like.
    struct DockerInstance {
        /// Image of the container. A private one has to be there already, or its registry must need no login.
        optional image: Image = "runner:latest",
        /// Command and its arguments; empty: that of the image.
        optional command: Vec<String> = "[]",
        /// Labels of the container.
        optional labels: Texts = "{}",
        /// Environment variables.
        optional env: Texts = "{}",
        /// When the image is pulled: missing, always or never.
        optional pull: Pull = "missing",
        /// Network of the container.
        optional network: Network,
        /// Volumes, like host:container:ro.
        optional volumes: Vec<Volume> = "[]",
        /// CPUs, like 1.5.
        optional cpus: Cpus,
        /// Memory, like 2g.
        optional memory: Memory,
        /// Whether the container is privileged.
        optional privileged: bool = "false",
        /// Whether Docker removes the container when it ends.
        optional remove: bool = "false",
        /// Directory to build the image from, in the Python original; images are not built here.
        ignored context: String,
        /// Part of the Python original's model: containers always run in the background.
        ignored detach: bool,
        /// Part of the Python original's model: a container starts what its image or command says.
        ignored startup_script: FilePath,
        /// Part of the Python original's model.
        ignored redhat_username: String,
        /// Part of the Python original's model.
        ignored redhat_password: Secret,
    }
}

/// What the two mappings say together; `None` when an error was reported.
pub(super) fn settings(config: DockerConfig, raw: DockerInstance, reader: &mut Reader) -> Option<DockerSettings> {
    let endpoint = endpoint(config, reader);
    let labels = raw.labels.value.filter(|labels| {
        let ours = labels.keys().find(|name| name.is_empty() || name.starts_with(LABELS_OF_OURS));
        if let Some(name) = ours {
            let expected = format!("labels that do not begin with {LABELS_OF_OURS}, which mark the owner");
            reader.wrong_at(&raw.labels.spot, show_text(name), expected);
        }
        ours.is_none()
    });
    let env = environment(raw.env, reader);
    let wrong = [
        raw.network.given && raw.network.value.is_none(),
        raw.cpus.given && raw.cpus.value.is_none(),
        raw.memory.given && raw.memory.value.is_none(),
    ];
    if wrong.contains(&true) {
        return None;
    }
    Some(DockerSettings {
        endpoint: endpoint?,
        image: raw.image.value?.0,
        command: raw.command.value?,
        labels: labels?,
        env: env?,
        pull: raw.pull.value?,
        network: raw.network.value.map(|network| network.0),
        volumes: raw.volumes.value?.into_iter().map(|volume| volume.0).collect(),
        nano_cpus: raw.cpus.value.map(|cpus| cpus.0),
        memory: raw.memory.value.map(|memory| memory.0),
        privileged: raw.privileged.value?,
        remove: raw.remove.value?,
    })
}

fn endpoint(config: DockerConfig, reader: &mut Reader) -> Option<DockerEndpoint> {
    let DockerConfig { base_url, tls_ca, tls_cert, tls_key, .. } = config;
    let given = [("tls_ca", &tls_ca), ("tls_cert", &tls_cert), ("tls_key", &tls_key)];
    let given: Vec<_> = given.into_iter().filter(|(_, field)| field.given).collect();
    let (authority, https) = match base_url.value?.0 {
        Url::Unix(path) => {
            let Some((name, field)) = given.first() else { return Some(DockerEndpoint::Unix(path)) };
            reader.wrong_at(&field.spot, format!("{name} for a socket"), "a base_url that begins with tcp://");
            return None;
        }
        Url::Tcp(authority, https) => (authority, https),
    };
    let port = authority.port_u16().unwrap_or(if https || !given.is_empty() { 2376 } else { 2375 });
    let address = format!("{}:{port}", authority.host());
    if given.is_empty() && !https {
        return Some(DockerEndpoint::Tcp(address));
    }
    let alone = |one: &Field<FilePath>, other: &Field<FilePath>| one.given && !other.given;
    if alone(&tls_cert, &tls_key) {
        reader.wrong_at(&tls_cert.spot, "tls_cert alone", "tls_key beside it");
        return None;
    }
    if alone(&tls_key, &tls_cert) {
        reader.wrong_at(&tls_key.spot, "tls_key alone", "tls_cert beside it");
        return None;
    }
    if !tls_ca.given {
        let spot = given.first().map_or(&base_url.spot, |(_, field)| &field.spot);
        reader.wrong_at(spot, "TLS without tls_ca", "tls_ca, the file of the authority that signed the server");
        return None;
    }
    let client_certificate = match (tls_cert.given, tls_cert.value, tls_key.value) {
        (true, cert, key) => Some(ClientCertificate { cert_file: cert?.0, key_file: key?.0 }),
        (false, ..) => None,
    };
    Some(DockerEndpoint::Tls { address, ca_file: tls_ca.value?.0, client_certificate })
}

fn url(text: &str) -> Option<Url> {
    let (scheme, rest) = text.split_once("://")?;
    match scheme {
        // The Python original takes unix://var/run/docker.sock for the same as unix:///var/run/docker.sock.
        "unix" => (!rest.trim_matches('/').is_empty()).then(|| Url::Unix(Path::new("/").join(rest))),
        "tcp" | "http" | "https" => {
            let authority: Authority = rest.strip_suffix('/').unwrap_or(rest).parse().ok()?;
            let host = authority.host();
            // What comes after the host must be a port.
            let whole = authority.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
            (!host.is_empty() && authority.as_str() == whole).then_some(Url::Tcp(authority, scheme == "https"))
        }
        _ => None,
    }
}

fn volume(text: &str) -> bool {
    let mut parts = text.split(':');
    let (Some(host), Some(container), options, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let named = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    };
    let words = |options: &str| {
        options.split(',').all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphabetic()))
    };
    (host.starts_with('/') || named(host))
        && container.starts_with('/')
        && !container.trim_matches('/').is_empty()
        && options.is_none_or(words)
}

/// A decimal number with at most nine digits after the point.
fn cpus(text: &str) -> Option<i64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) {
        return None;
    }
    let nano: i64 =
        whole.parse::<i64>().ok()?.checked_mul(1_000_000_000)? + format!("{part:0<9}").parse::<i64>().ok()?;
    (nano > 0).then_some(nano)
}

fn memory(text: &str) -> Option<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let shift = match unit {
        "" | "b" => 0,
        "k" | "kb" => 10,
        "m" | "mb" => 20,
        "g" | "gb" => 30,
        _ => return None,
    };
    let bytes = number.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (bytes >= MEMORY_MIN).then(|| i64::try_from(bytes).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_counted_in_billionths() {
        for (text, nano) in [("2", 2_000_000_000), ("1.5", 1_500_000_000), ("0.000000001", 1), ("0.25", 250_000_000)] {
            assert_eq!(cpus(text), Some(nano), "{text}");
        }
        for text in ["", "0", "0.0", "-1", "1,5", ".5", "1.", "1e3", "1.0000000001", "inf", "99999999999"] {
            assert_eq!(cpus(text), None, "{text}");
        }
    }

    #[test]
    fn memory_is_counted_in_bytes() {
        for (text, bytes) in [("2g", 2 << 30), ("512M", 512 << 20), ("6144k", 6 << 20), ("10000000", 10_000_000)] {
            assert_eq!(memory(text), Some(bytes), "{text}");
        }
        for text in ["", "g", "5m", "1.5g", "-2g", "2t", "2 g", "9999999999999g"] {
            assert_eq!(memory(text), None, "{text}");
        }
    }

    #[test]
    fn a_volume_says_what_is_mounted_where() {
        for text in ["/a:/b", "/a:/b:ro", "cache:/b", "/a:/b:ro,z", "my.vol-1_x:/b/c:rw"] {
            assert!(volume(text), "{text}");
        }
        for text in ["", "/a", "/a:", ":/b", "/a:b", "a/b:/c", "/a:/", "/a:/b:", "/a:/b:ro:rw", "./a:/b", "/a:/b:r o"] {
            assert!(!volume(text), "{text}");
        }
    }

    #[test]
    fn a_url_is_a_socket_or_a_host() {
        for text in ["unix:///var/run/docker.sock", "unix://var/run/docker.sock"] {
            assert!(matches!(url(text), Some(Url::Unix(path)) if path == Path::new("/var/run/docker.sock")), "{text}");
        }
        for (text, host, port, tls) in [
            ("tcp://build:2376", "build", Some(2376), false),
            ("https://build/", "build", None, true),
            ("tcp://[::1]:80", "[::1]", Some(80), false),
        ] {
            let found = url(text);
            let Some(Url::Tcp(authority, https)) = &found else { panic!("{text}: {found:?}") };
            assert_eq!((authority.host(), authority.port_u16(), *https), (host, port, tls), "{text}");
        }
        for text in
            ["", "unix://", "unix:///", "/var/run/docker.sock", "ssh://h", "tcp://", "tcp://h/path", "tcp://h:x"]
        {
            assert!(url(text).is_none(), "{text}");
        }
    }
}
