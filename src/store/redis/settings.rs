//! What a Redis store is opened with, and why it is not.

use std::path::PathBuf;
use std::time::Duration;

use actors::id::{ManagerName, ReplicaId};
use actors::model::secret::Secret;
use actors::port::replicas::LEASE;
use thiserror::Error;

/// Where the state is kept, and how long an answer may take.
#[derive(Debug)]
pub struct Settings {
    /// The server.
    pub server: Server,
    /// The deployment: its name is in every key, so that several can share a server.
    pub manager: ManagerName,
    /// This process.
    pub replica: ReplicaId,
    /// Most connections for reads, at least 2; up to four more are for writes and for other replicas. Default 8.
    pub connections: u32,
    /// Longest time to make a connection, and longest for each question on the way to it. Default 1 s.
    pub connect_timeout: Duration,
    /// Longest time of one operation, or of each step of one that has many: waiting, connecting, answer. Default 1.5 s.
    pub timeout: Duration,
    /// So many of Redis's own replicas must have a write before it is acknowledged. Default 0.
    pub wait_replicas: u32,
    /// How long a process counts as alive after its last beat. Default [`LEASE`].
    pub lease: Duration,
}

impl Settings {
    /// Settings with all defaults.
    #[must_use]
    pub fn new(server: Server, manager: ManagerName, replica: ReplicaId) -> Self {
        Self {
            server,
            manager,
            replica,
            connections: 8,
            connect_timeout: Duration::from_secs(1),
            timeout: Duration::from_millis(1500),
            wait_replicas: 0,
            lease: LEASE,
        }
    }
}

/// A server, and how it knows us.
#[derive(Debug)]
pub struct Server {
    /// Where it is.
    pub topology: Topology,
    /// Encryption; its certificate is always verified. None: plain text.
    pub tls: Option<Tls>,
    /// User of Redis's access control; none: the default user.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// Number of the database; 0 in a cluster.
    pub database: i64,
}

/// Where the server is.
#[derive(Debug)]
pub enum Topology {
    /// One server.
    Single {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// One server on this machine.
    Unix {
        /// Its socket.
        path: PathBuf,
    },
    /// The master of a service that Sentinels watch.
    Sentinel {
        /// Some of the Sentinels: hosts and ports.
        nodes: Vec<(String, u16)>,
        /// What they call the service.
        service: String,
        /// User at the Sentinels, whose access control is their own.
        username: Option<String>,
        /// Its password.
        password: Option<Secret>,
    },
    /// The master of our keys in a cluster.
    Cluster {
        /// Some of the nodes: hosts and ports.
        nodes: Vec<(String, u16)>,
    },
}

/// Encryption, of connections to Sentinels as well.
pub struct Tls {
    /// Certificates of the authorities to trust, PEM; none: those of the system.
    pub ca_pem: Option<Vec<u8>>,
    /// Our certificate and its key, PEM.
    pub client_pem: Option<(Vec<u8>, Secret)>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (ca, client) = (self.ca_pem.is_some(), self.client_pem.is_some());
        f.debug_struct("Tls").field("own_ca", &ca).field("client_certificate", &client).finish()
    }
}

/// Why a store could not be opened. That Redis does not answer is no reason: the store waits for it.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The certificates or keys cannot be used.
    #[error("cannot use the certificates for {server}: {reason}")]
    Tls {
        /// Which server.
        server: String,
        /// Why.
        reason: String,
    },
    /// No node was named.
    #[error("no address of a Redis server is given")]
    NoNodes,
}
