//! Opens the store that the configuration asks for, and what replicas share with it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use actors::model::secret::Secret;
use actors::port::{Replicas, Store};

use super::StartError;
use crate::config::{Config, RedisConfig, RedisNode, RedisTopology};
use crate::metrics::Metrics;
use crate::store::redis::{Server, Settings, Tls, Topology};
use crate::store::replica_id::HeldId;
use crate::store::{DirState, Embedded, Redis};

/// An open store.
pub(super) struct Opened {
    /// The store.
    pub(super) store: Arc<dyn Store>,
    /// Where replicas meet, when several can share it.
    pub(super) replicas: Option<Arc<dyn Replicas>>,
    /// This replica's id, held until dropped.
    pub(super) id: Option<HeldId>,
}

/// Opens the store: in Redis when `redis_url` is set, else in `data_dir`.
pub(super) async fn open(config: &Config, metrics: &Arc<Metrics>) -> Result<Opened, StartError> {
    match &config.redis {
        Some(redis) => open_redis(config, redis, metrics),
        None => Ok(Opened { store: open_embedded(config, metrics).await?, replicas: None, id: None }),
    }
}

async fn open_embedded(config: &Config, metrics: &Arc<Metrics>) -> Result<Arc<dyn Store>, StartError> {
    let (dir, observer) = (config.data_dir.clone(), metrics.clone());
    let opened = tokio::task::spawn_blocking(move || Embedded::open(&dir, observer)).await;
    match opened {
        Ok(Ok(store)) => Ok(Arc::new(store)),
        Ok(Err(error)) => Err(StartError::System(error.to_string())),
        Err(error) => Err(StartError::System(format!("opening the store failed: {error}"))),
    }
}

fn open_redis(config: &Config, redis: &RedisConfig, metrics: &Arc<Metrics>) -> Result<Opened, StartError> {
    let id = HeldId::take(&config.data_dir);
    let store = Arc::new(connect(config, redis, &id, metrics)?);
    tracing::info!(replica = %id.id(), "state is in Redis, shared with the replicas of the same name");
    Ok(Opened { store: store.clone(), replicas: Some(store), id: Some(id) })
}

fn connect(config: &Config, redis: &RedisConfig, id: &HeldId, metrics: &Arc<Metrics>) -> Result<Redis, StartError> {
    let settings = Settings {
        connections: redis.connections,
        connect_timeout: redis.connect_timeout,
        timeout: redis.timeout,
        wait_replicas: redis.wait_replicas,
        ..Settings::new(server(redis)?, config.name.clone(), id.id().clone())
    };
    Redis::open(settings, metrics.clone()).map_err(|error| StartError::Config(error.to_string()))
}

/// Whether the store could be used now, in words; joins no replicas, and disturbs no service that uses it.
pub(super) async fn probe(config: &Config, metrics: &Arc<Metrics>) -> Result<String, StartError> {
    let Some(redis) = &config.redis else {
        let dir = config.data_dir.clone();
        let looked = tokio::task::spawn_blocking(move || Embedded::look(&dir)).await;
        let state = looked.map_err(|error| StartError::System(format!("looking at data_dir failed: {error}")))?;
        let dir = config.data_dir.display();
        return match state.map_err(|error| StartError::System(error.to_string()))? {
            DirState::Free => Ok(format!("{dir} can be written")),
            DirState::Missing => Ok(format!("{dir} is made at the first start")),
            DirState::InUse(holder) => Ok(format!("{dir} is in use by {holder}, and was left alone")),
        };
    };
    let store = connect(config, redis, &HeldId::passing(), metrics)?;
    let probed = store.probe().await;
    store.close().await;
    probed.map_err(|error| StartError::System(error.to_string()))?;
    Ok("Redis can be written".to_owned())
}

fn server(redis: &RedisConfig) -> Result<Server, StartError> {
    let url = &redis.url;
    let password = |password: &Option<Secret>| password.as_ref().map(Secret::duplicate);
    let hosts = |nodes: &[RedisNode]| nodes.iter().map(|node| (node.host.clone(), node.port)).collect();
    let topology = match &url.topology {
        RedisTopology::Single(node) => Topology::Single { host: node.host.clone(), port: node.port },
        RedisTopology::Unix(path) => Topology::Unix { path: path.clone() },
        RedisTopology::Sentinel { nodes, service } => Topology::Sentinel {
            nodes: hosts(nodes),
            service: service.clone(),
            username: url.sentinel_login.username.clone(),
            password: password(&url.sentinel_login.password),
        },
        RedisTopology::Cluster(nodes) => Topology::Cluster { nodes: hosts(nodes) },
    };
    let tls = if url.tls { Some(tls(redis)?) } else { None };
    Ok(Server {
        topology,
        tls,
        username: url.login.username.clone(),
        password: password(&url.login.password),
        database: i64::from(url.database),
    })
}

fn tls(redis: &RedisConfig) -> Result<Tls, StartError> {
    let ca_pem = redis.ca_file.as_deref().map(|path| read("redis_ca_file", path)).transpose()?;
    let client_pem = match &redis.client_certificate {
        Some(files) => {
            let key = String::from_utf8(read("redis_key_file", &files.key_file)?).map_err(|_| {
                StartError::Config(format!("redis_key_file {}: not PEM text", files.key_file.display()))
            })?;
            Some((read("redis_cert_file", &files.cert_file)?, Secret::new(key)))
        }
        None => None,
    };
    Ok(Tls { ca_pem, client_pem })
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, StartError> {
    fs::read(path).map_err(|error| StartError::Config(format!("{key}: cannot read {}: {error}", path.display())))
}
