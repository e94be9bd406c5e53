//! `redis_url`: one URL says which Redis, how it is reached, and who logs in.
//!
//! Read here and not by a URL library: those know no lists of hosts, and no paths of sockets.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use actors::model::secret::Secret;

/// Port of a Redis or Valkey that the URL does not name.
const REDIS_PORT: u16 = 6379;
/// Port of a Sentinel that the URL does not name.
const SENTINEL_PORT: u16 = 26379;

/// What a `redis_url` says.
#[derive(Debug)]
pub struct RedisUrl {
    /// Where Redis is.
    pub topology: RedisTopology,
    /// Whether connections are TLS, those to Sentinels too. Never for a Unix socket.
    pub tls: bool,
    /// Who logs in at Redis.
    pub login: RedisLogin,
    /// Who logs in at the Sentinels; empty without Sentinels.
    pub sentinel_login: RedisLogin,
    /// Number of the database; 0 in a Cluster. Default 0.
    pub database: u32,
}

/// Where Redis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisTopology {
    /// One server.
    Single(RedisNode),
    /// One server of this host, by the path of its Unix socket.
    Unix(PathBuf),
    /// The server that the Sentinels name as the master of a service.
    Sentinel {
        /// The Sentinels, at least one.
        nodes: Vec<RedisNode>,
        /// The service.
        service: String,
    },
    /// The Cluster that these nodes know.
    Cluster(Vec<RedisNode>),
}

/// A host and its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisNode {
    /// Name or address, IPv6 without brackets.
    pub host: String,
    /// Port, not 0.
    pub port: u16,
}

impl fmt::Display for RedisNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How to log in. Nothing, a password, or a user with a password, which may be empty.
#[derive(Debug, Default)]
pub struct RedisLogin {
    /// Name of the ACL user; absent: the default user.
    pub username: Option<String>,
    /// The password; absent only without a user.
    pub password: Option<Secret>,
}

impl RedisLogin {
    fn parts(&self) -> (Option<&str>, Option<&str>) {
        (self.username.as_deref(), self.password.as_ref().map(Secret::expose))
    }
}

impl PartialEq for RedisUrl {
    fn eq(&self, other: &Self) -> bool {
        let parts = |url: &Self| (url.tls, url.database);
        parts(self) == parts(other)
            && self.topology == other.topology
            && self.login.parts() == other.login.parts()
            && self.sentinel_login.parts() == other.sentinel_login.parts()
    }
}

/// What is wrong with a URL, without any part of it, and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) found: &'static str,
    pub(super) expected: &'static str,
}

fn fault<T>(found: &'static str, expected: &'static str) -> Result<T, Fault> {
    Err(Fault { found, expected })
}

/// All forms, for errors about none of them.
pub(super) const FORMS: &str = "a URL: redis://, rediss:// (TLS), redis+unix://, redis+sentinel:// or redis+cluster://";
const ESCAPES: &str = "a / ? # or % in a user, password, service or path as %2F %3F %23 %25";
const PORT: &str = "host:port; / ? # and % in a user or password are written as %2F %3F %23 %25";
const UNIX: &str = "redis+unix:///path/of/the.sock, with three slashes and an optional ?db=1";
const SENTINEL: &str = "redis+sentinel://host1:26379,host2:26379/service, with an optional /1 for the database";
const DATABASE: &str = "the number of a database after the host, like redis://host:6379/1";

#[derive(Clone, Copy)]
enum Form {
    Single,
    Unix,
    Sentinel,
    Cluster,
}

/// Reads a URL.
pub(super) fn parse(text: &str) -> Result<RedisUrl, Fault> {
    let Some((scheme, rest)) = text.split_once("://") else { return fault("no URL", FORMS) };
    let (form, tls) = match scheme {
        "redis" | "valkey" => (Form::Single, false),
        "rediss" | "valkeys" => (Form::Single, true),
        "redis+unix" | "unix" => (Form::Unix, false),
        "redis+sentinel" => (Form::Sentinel, false),
        "rediss+sentinel" => (Form::Sentinel, true),
        "redis+cluster" => (Form::Cluster, false),
        "rediss+cluster" => (Form::Cluster, true),
        _ => return fault("a URL of another scheme", FORMS),
    };
    if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return fault("spaces or line breaks", "a URL without them; one in a password as %20");
    }
    if rest.contains('#') {
        return fault("a # in the URL", ESCAPES);
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = place.split_once('/').unwrap_or((place, ""));
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let nodes = |port| {
        let nodes: Result<Vec<_>, _> = hosts.split(',').map(|host| node(host, port)).collect();
        // The likely reason is a password like `a/b`.
        let cut = !authority.contains('@') && rest.contains('@');
        nodes.or_else(|other| if cut { fault("a / or ? before the @", ESCAPES) } else { Err(other) })
    };
    let (username, password) = user.split_once(':').map_or((user, None), |(name, password)| (name, Some(password)));
    let login = login(decode(username)?, password.map(decode).transpose()?)?;
    let mut query = Query::read(query)?;
    let (topology, database) = match form {
        Form::Single => {
            let mut nodes = nodes(REDIS_PORT)?;
            let (Some(node), true) = (nodes.pop(), nodes.is_empty()) else {
                return fault("several hosts", "one, or redis+sentinel:// or redis+cluster:// for several");
            };
            (RedisTopology::Single(node), number(path, DATABASE)?)
        }
        Form::Unix => {
            if !hosts.is_empty() || path.is_empty() {
                return fault("a URL without an absolute path", UNIX);
            }
            let path = decode(&format!("/{path}"))?;
            (RedisTopology::Unix(path.into()), number(&query.take("db").unwrap_or_default(), UNIX)?)
        }
        Form::Sentinel => {
            let nodes = nodes(SENTINEL_PORT)?;
            let (service, database) = path.split_once('/').unwrap_or((path, ""));
            let service = decode(service)?;
            if service.is_empty() {
                return fault("Sentinels without the name of the service they watch", SENTINEL);
            }
            (RedisTopology::Sentinel { nodes, service }, number(database, SENTINEL)?)
        }
        Form::Cluster => {
            const CLUSTER: &str = "redis+cluster://host1:6379,host2:6379 without one: a Cluster has database 0 only";
            if number(path, CLUSTER)? != 0 {
                return fault("a database of a Cluster", CLUSTER);
            }
            (RedisTopology::Cluster(nodes(REDIS_PORT)?), 0)
        }
    };
    let sentinel_login = match form {
        Form::Sentinel => {
            self::login(query.take("sentinel_username").unwrap_or_default(), query.take("sentinel_password"))?
        }
        _ => RedisLogin::default(),
    };
    if !query.0.is_empty() {
        let expected = match form {
            Form::Single | Form::Cluster => "none here; a database is written as /1, TLS as rediss://",
            Form::Unix => "only db",
            Form::Sentinel => "only sentinel_username and sentinel_password",
        };
        return fault("another parameter after the ?, or one twice", expected);
    }
    Ok(RedisUrl { topology, tls, login, sentinel_login, database })
}

/// A user without a password would silently be the default user.
fn login(username: String, password: Option<String>) -> Result<RedisLogin, Fault> {
    match (username.is_empty(), password) {
        (true, password) => {
            let password = password.filter(|password| !password.is_empty()).map(Secret::new);
            Ok(RedisLogin { username: None, password })
        }
        (false, Some(password)) => Ok(RedisLogin { username: Some(username), password: Some(Secret::new(password)) }),
        (false, None) => {
            fault("a user without a password", "user:password (user: if it has none), or :password of the default user")
        }
    }
}

/// The parameters after the `?`, each once.
struct Query(Vec<(String, String)>);

impl Query {
    fn read(text: &str) -> Result<Self, Fault> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((name.to_owned(), decode(value)?))
        });
        Ok(Self(pairs.collect::<Result<_, Fault>>()?))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(key, _)| key == name)?;
        Some(self.0.remove(at).1)
    }
}

fn node(text: &str, default: u16) -> Result<RedisNode, Fault> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').unwrap_or(("", rest));
        if host.parse::<Ipv6Addr>().is_err() || !(rest.is_empty() || rest.starts_with(':')) {
            return fault("brackets without an IPv6 address", "[address]:port");
        }
        (host, rest.strip_prefix(':'))
    } else if text.matches(':').count() > 1 {
        return fault(
            "an IPv6 address without brackets",
            "[address]:port, and in a user or password : as %3A, / as %2F",
        );
    } else {
        text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
    };
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    if host.is_empty() || !host.chars().all(named) {
        return fault("no host, or one with odd characters", "host:port, several separated by commas alone");
    }
    let Some(port) = port.map_or(Some(default), |port| decimal(port).filter(|port| *port != 0)) else {
        return fault("a port that is no number from 1 to 65535", PORT);
    };
    Ok(RedisNode { host: host.to_owned(), port })
}

/// The number of a database; nothing is 0.
fn number(text: &str, expected: &'static str) -> Result<u32, Fault> {
    match text.strip_suffix('/').unwrap_or(text) {
        "" => Ok(0),
        text => decimal(text).map_or_else(|| fault("a database that is no number", expected), Ok),
    }
}

/// Digits alone: no sign.
fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Text with `%2F` and the like turned into what they stand for.
fn decode(text: &str) -> Result<String, Fault> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.extend(u8::try_from(high * 16 + low));
                rest = &after[2..];
            }
            (b'%', ..) => return fault("a % without two hexadecimal digits", ESCAPES),
            (byte, ..) => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => fault("escapes (%…) that are no text", "the UTF-8 bytes of text, each as % and two digits"),
    }
}

#[cfg(test)]
mod tests;
