//! Connections: where the master is, whether it is one that we can use, and when a connection is to be given up.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use actors::model::secret::Secret;
use futures_util::future::select_ok;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, RedisError, TlsCertificates, Value,
};
use tokio::sync::watch;
use tokio::time::timeout;

use super::settings::{OpenError, Server, Topology};
use super::{check, error, script};

/// Most nodes of a cluster that are remembered beside those of the settings.
const LEARNED_MAX: usize = 32;

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// In words.
    pub(super) text: String,
    /// Whether nothing is gained by waiting for it to end.
    pub(super) definite: bool,
}

/// Makes connections to the master of now.
pub(super) struct Connector {
    server: Server,
    prefix: String,
    name: String,
    connect_timeout: Duration,
    certificates: Option<TlsCertificates>,
    learned: Mutex<Vec<(String, u16)>>,
    trouble: watch::Sender<Option<Trouble>>,
    warned: AtomicBool,
    /// Where the last connection found the master.
    found_at: Mutex<String>,
}

/// One connection to a master that passed all checks.
pub(super) struct Link {
    connection: MultiplexedConnection,
    address: String,
    /// Its answers are not waited for any more, or it led to a server that is not, or no longer, the master.
    broken: bool,
}

impl Link {
    /// Sends commands in one go. The outer error: the connection failed; what became of the commands is unknown. The
    /// values may be errors of the server.
    pub(super) async fn send(&mut self, commands: &Pipeline) -> Result<Vec<Value>, RedisError> {
        // Stays so when the caller stops waiting.
        self.broken = true;
        let answer = self.connection.req_packed_commands(commands, 0, commands.len()).await?;
        self.broken = false;
        Ok(answer)
    }

    /// Gives the connection up.
    pub(super) fn give_up(&mut self) {
        self.broken = true;
    }

    /// Whether it was given up.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }
}

impl Connector {
    /// Prepares connections for keys that begin with `prefix`. Does no I/O.
    pub(super) fn new(server: Server, prefix: String, connect_timeout: Duration) -> Result<Self, OpenError> {
        let name = name(&server.topology);
        let certificates = server.tls.as_ref().map(|tls| TlsCertificates {
            client_tls: tls.client_pem.as_ref().map(|(certificate, key)| ClientTlsConfig {
                client_cert: certificate.clone(),
                client_key: key.expose().as_bytes().to_vec(),
            }),
            root_cert: tls.ca_pem.clone(),
        });
        let node = match &server.topology {
            Topology::Single { host, port } => Some((host.clone(), *port)),
            Topology::Unix { .. } => None,
            Topology::Sentinel { nodes, .. } | Topology::Cluster { nodes } => {
                Some(nodes.first().cloned().ok_or(OpenError::NoNodes)?)
            }
        };
        let connector = Self {
            server,
            prefix,
            name: name.clone(),
            connect_timeout,
            certificates,
            learned: Mutex::new(Vec::new()),
            trouble: watch::Sender::new(None),
            warned: AtomicBool::new(false),
            found_at: Mutex::default(),
        };
        if let Some((host, port)) = node {
            connector
                .client(&host, port, None, None, 0)
                .map_err(|error| OpenError::Tls { server: name, reason: error.to_string() })?;
        }
        Ok(connector)
    }

    /// What the server is called in messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What all keys begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What is wrong with new connections, for as long as something is.
    pub(super) fn trouble(&self) -> watch::Receiver<Option<Trouble>> {
        self.trouble.subscribe()
    }

    /// A client for the master of now.
    pub(super) async fn master(&self) -> Result<Client, Trouble> {
        let server = &self.server;
        let (user, password) = (server.username.as_deref(), server.password.as_ref());
        let unusable = |error: RedisError| Trouble { text: error::words(&self.name, &error), definite: true };
        match &server.topology {
            Topology::Single { host, port } => {
                self.client(host, *port, user, password, server.database).map_err(unusable)
            }
            Topology::Unix { path } => self.local(path.clone(), user, password, server.database).map_err(unusable),
            Topology::Sentinel { nodes, service, username, password: theirs } => {
                let mut ask = redis::cmd("SENTINEL");
                ask.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
                let asked = nodes.iter().map(|node| {
                    Box::pin(self.ask(node, username.as_deref(), theirs.as_ref(), ask.clone(), |_, answer| {
                        redis::from_redis_value::<(String, u16)>(answer)
                            .map_err(|_| format!("{} have no master for service {service:?}", self.name))
                    }))
                });
                let (host, port) = self.first(asked).await?;
                self.client(&host, port, user, password, server.database).map_err(unusable)
            }
            Topology::Cluster { nodes } => {
                let mut all = nodes.clone();
                all.extend(self.learned.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
                let slot = slot(&self.prefix);
                let asked = all.iter().map(|node| {
                    let mut ask = redis::cmd("CLUSTER");
                    ask.arg("SLOTS");
                    Box::pin(self.ask(node, user, password, ask, move |node, answer| {
                        let found = masters(node, &answer);
                        let ours = found.iter().find(|(range, _)| range.contains(&slot)).map(|(_, node)| node.clone());
                        let ours = ours.ok_or_else(|| format!("{} has no node for slot {slot}", self.name))?;
                        Ok((ours, found.into_iter().map(|(_, node)| node).collect::<Vec<_>>()))
                    }))
                });
                let ((host, port), mut found) = self.first(asked).await?;
                found.truncate(LEARNED_MAX);
                *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = found;
                self.client(&host, port, user, password, 0).map_err(unusable)
            }
        }
    }

    /// Asks one node where the master is.
    async fn ask<T>(
        &self,
        node: &(String, u16),
        user: Option<&str>,
        password: Option<&Secret>,
        command: Cmd,
        read: impl FnOnce(&str, Value) -> Result<T, String>,
    ) -> Result<T, Trouble> {
        let name = format!("{} ({}:{})", self.name, node.0, node.1);
        let wrong =
            |error: &RedisError| Trouble { text: error::words(&name, error), definite: error::is_definite(error) };
        let asked = async {
            let client = self.client(&node.0, node.1, user, password, 0)?;
            let mut connection = client.get_multiplexed_async_connection_with_config(&self.config()).await?;
            connection.req_packed_command(&command).await?.extract_error()
        };
        let answer = timeout(self.connect_timeout, asked).await.map_err(|_| self.silent(&name))?;
        read(&node.0, answer.map_err(|error| wrong(&error))?).map_err(|text| Trouble { text, definite: false })
    }

    async fn first<T>(
        &self,
        asked: impl Iterator<Item = impl Future<Output = Result<T, Trouble>> + Unpin>,
    ) -> Result<T, Trouble> {
        Ok(select_ok(asked).await?.0)
    }

    fn silent(&self, name: &str) -> Trouble {
        let text = format!("{name} did not answer within {} s", self.connect_timeout.as_secs_f32());
        Trouble { text, definite: false }
    }

    fn config(&self) -> AsyncConnectionConfig {
        // Times are kept where connections are used.
        AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None)
    }

    fn client(
        &self,
        host: &str,
        port: u16,
        user: Option<&str>,
        password: Option<&Secret>,
        database: i64,
    ) -> Result<Client, RedisError> {
        let host = host.to_owned();
        let settings = login(user, password, database);
        let tcp = TcpSettings::default().set_nodelay(true);
        match &self.certificates {
            None => Client::open(
                ConnectionAddr::Tcp(host, port)
                    .into_connection_info()?
                    .set_redis_settings(settings)
                    .set_tcp_settings(tcp),
            ),
            Some(certificates) => {
                let address = ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
                let info = address.into_connection_info()?.set_redis_settings(settings).set_tcp_settings(tcp);
                Client::build_with_tls(info, certificates.clone())
            }
        }
    }

    fn local(
        &self,
        path: PathBuf,
        user: Option<&str>,
        password: Option<&Secret>,
        database: i64,
    ) -> Result<Client, RedisError> {
        let info = ConnectionAddr::Unix(path).into_connection_info()?;
        Client::open(info.set_redis_settings(login(user, password, database)))
    }

    async fn open(&self) -> Result<Link, Trouble> {
        let client = self.master().await?;
        let address = client.get_connection_info().addr().to_string();
        let wrong = |error: RedisError| Trouble {
            text: error::words(&self.name, &error),
            definite: error::is_definite(&error),
        };
        let config = self.config();
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let connection = timeout(self.connect_timeout, connecting).await.map_err(|_| self.silent(&self.name))?;
        let mut link = Link { connection: connection.map_err(wrong)?, address, broken: false };
        let mut commands = Pipeline::new();
        for command in script::load_all() {
            commands.add_command(command);
        }
        for command in check::questions(&self.prefix) {
            commands.add_command(command);
        }
        let answers = timeout(self.connect_timeout, link.send(&commands)).await.map_err(|_| self.silent(&self.name))?;
        let notes = check::answers(&self.name, answers.map_err(wrong)?)?;
        for note in notes.into_iter().filter(|_| !self.warned.swap(true, Ordering::Relaxed)) {
            tracing::warn!(server = self.name, "{note}");
        }
        self.found_at.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&link.address);
        Ok(link)
    }

    /// Whether a connection leads to where the master was found last. One that was replaced while it slept goes on as
    /// if it were the master until it is told.
    pub(super) fn is_current(&self, link: &Link) -> bool {
        *self.found_at.lock().unwrap_or_else(PoisonError::into_inner) == link.address
    }

    /// Makes a connection to the master of now, and takes note of how that went.
    pub(super) async fn connect(&self) -> Result<Link, Trouble> {
        let opened = self.open().await;
        self.note(opened.as_ref().err().cloned());
        opened
    }

    /// Says how an attempt went when that changed.
    fn note(&self, outcome: Option<Trouble>) {
        self.trouble.send_if_modified(|trouble| {
            match (&*trouble, &outcome) {
                (Some(_), None) => tracing::info!(server = self.name, "Redis can be used again"),
                (before, Some(now)) if before.as_ref() != Some(now) => {
                    tracing::error!(
                        server = self.name,
                        error = now.text,
                        "Redis cannot be used: nothing is acknowledged"
                    );
                }
                _ => {}
            }
            let tell = outcome.is_some() || trouble.is_some();
            *trouble = outcome;
            tell
        });
    }
}

fn login(user: Option<&str>, password: Option<&Secret>, database: i64) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default().set_db(database);
    if let Some(user) = user {
        login = login.set_username(user);
    }
    if let Some(password) = password {
        login = login.set_password(password.expose());
    }
    login
}

fn name(topology: &Topology) -> String {
    let list = |nodes: &[(String, u16)]| {
        nodes.iter().map(|(host, port)| format!("{host}:{port}")).collect::<Vec<_>>().join(", ")
    };
    match topology {
        Topology::Single { host, port } => format!("Redis at {host}:{port}"),
        Topology::Unix { path } => format!("Redis at {}", path.display()),
        Topology::Sentinel { nodes, service, .. } => format!("Redis {service} of the Sentinels {}", list(nodes)),
        Topology::Cluster { nodes } => format!("the Redis Cluster of {}", list(nodes)),
    }
}

/// The masters that `CLUSTER SLOTS` tells of, with their slots. A node that does not know its own name is the one asked.
fn masters(asked: &str, answer: &Value) -> Vec<(std::ops::RangeInclusive<u16>, (String, u16))> {
    let Value::Array(rows) = answer else { return Vec::new() };
    let row = |row: &Value| {
        let Value::Array(fields) = row else { return None };
        let number = |n: usize| match fields.get(n) {
            Some(Value::Int(number)) => u16::try_from(*number).ok(),
            _ => None,
        };
        let Some(Value::Array(master)) = fields.get(2) else { return None };
        let host = match master.first() {
            Some(Value::BulkString(host)) if !host.is_empty() && host != b"?" => {
                String::from_utf8_lossy(host).into_owned()
            }
            _ => asked.to_owned(),
        };
        let Some(Value::Int(port)) = master.get(1) else { return None };
        Some((number(0)?..=number(1)?, (host, u16::try_from(*port).ok()?)))
    };
    rows.iter().filter_map(row).collect()
}

/// The slot of all keys that begin with `prefix`: CRC16 (XMODEM) of what stands between its braces, modulo 16384.
fn slot(prefix: &str) -> u16 {
    let tag = prefix.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or(prefix, |(tag, _)| tag);
    let crc = tag.bytes().fold(0_u16, |crc, byte| {
        (0..8)
            .fold(crc ^ (u16::from(byte) << 8), |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 })
    });
    crc % 16384
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // As `CLUSTER KEYSLOT` answers.
        for (key, expected) in [("123456789", 12739), ("{foo}:x", 12182), ("{runner-manager:octo}:jobs", 15023)] {
            assert_eq!(slot(key), expected, "{key}");
        }
    }

    #[test]
    fn the_master_of_a_slot_is_found_and_a_nameless_node_is_the_one_asked() {
        let node = |host: &str, port| Value::Array(vec![Value::BulkString(host.into()), Value::Int(port)]);
        let row = |from, to, master| Value::Array(vec![Value::Int(from), Value::Int(to), master, node("replica", 9)]);
        let answer = Value::Array(vec![row(0, 99, node("", 1)), row(100, 16383, node("b", 2)), Value::Nil]);
        assert_eq!(masters("a", &answer), [(0..=99, ("a".to_owned(), 1)), (100..=16383, ("b".to_owned(), 2))]);
    }
}
