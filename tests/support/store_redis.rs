//! Opens stores in Redis servers of tests.
#![allow(dead_code, reason = "every test file uses its part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use actors::id::{ManagerName, ReplicaId};
use actors::port::{Observation, Observer, Store};
use runner_manager::store::Redis;
use runner_manager::store::redis::{Server, Settings, Topology};

use super::passage::Passage;
use super::redis::{Cluster, RedisServer, SERVICE, Sentinels};

/// Is told everything and keeps nothing.
pub struct Quiet;

impl Observer for Quiet {
    fn observe(&self, _: &Observation<'_>) {}
}

/// A name that no other test of this process has.
pub fn new_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

pub fn server(topology: Topology) -> Server {
    Server { topology, tls: None, username: None, password: None, database: 0 }
}

pub fn single(redis: &RedisServer) -> Server {
    server(Topology::Single { host: "127.0.0.1".to_owned(), port: redis.port() })
}

/// The server at the other end of a passage.
pub fn through(passage: &Passage) -> Server {
    server(Topology::Single { host: "127.0.0.1".to_owned(), port: passage.port() })
}

pub fn cluster(cluster: &Cluster) -> Server {
    server(Topology::Cluster { nodes: nodes(&cluster.url()) })
}

pub fn sentinels(sentinels: &Sentinels) -> Server {
    let nodes = nodes(&sentinels.url());
    server(Topology::Sentinel { nodes, service: SERVICE.to_owned(), username: None, password: None })
}

/// The hosts and ports of `scheme://host:port,host:port/…`.
fn nodes(url: &str) -> Vec<(String, u16)> {
    let list = url.split_once("://").unwrap().1.split('/').next().unwrap();
    let node = |node: &str| node.rsplit_once(':').map(|(host, port)| (host.to_owned(), port.parse().unwrap())).unwrap();
    list.split(',').map(node).collect()
}

/// Settings for one deployment and one process of it.
pub fn settings(server: Server, manager: &str, replica: &str) -> Settings {
    Settings::new(server, ManagerName::new(manager).unwrap(), ReplicaId::new(replica).unwrap())
}

pub fn open(settings: Settings) -> Arc<dyn Store> {
    Arc::new(Redis::open(settings, Arc::new(Quiet)).unwrap())
}
