//! The wiring: the only file that names concrete adapters together.

use std::fmt::Write as _;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actors::actor::directory::Directory;
use actors::actor::effect::World;
use actors::actor::front::Front;
use actors::actor::lease::Lease;
use actors::actor::reconciler;
use actors::actor::supervisor::{GroupSpec, Service, System, SystemSpec};
use actors::id::ReplicaId;
use actors::port::backend::Owner;
use actors::port::github::RepositoryName;
use actors::port::store::Horizon;
use actors::port::{Backend, Boot, Clock, Observer, Store};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::{base, process};
use crate::boot::Tokens;
use crate::clock::SystemClock;
use crate::config::BackendSettings;
use crate::config::{Config, GroupConfig};
use crate::http::auth::{ApiKey, Role, ensure_admin_key};
use crate::metrics::Metrics;
use crate::store::replica_id::HeldId;
use crate::{config, http};

mod credentials;
mod docker;
mod external;
pub mod online;
mod store;

use credentials::Accesses;
use store::Opened;

/// How long delivery ids are remembered, as long as github.com keeps its own history.
const KEEP_DELIVERIES: Duration = Duration::from_secs(3 * 24 * 3600);
/// Where webhooks are taken; the hook at GitHub whose address ends so is ours.
const WEBHOOK_PATH: &str = "/webhook";
/// How long runners that are gone can be looked at.
const KEEP_RUNNERS: Duration = Duration::from_secs(24 * 3600);
/// Connections that wait to be accepted, at most: one burst of webhooks. The system may allow fewer. Peers beyond it
/// believe that they are connected, and are reset when they speak.
const BACKLOG: u32 = 4096;
/// How often what is past its time is forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(600);

/// Why the service could not start, in one line, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration asks for something that is not there.
    #[error("{0}")]
    Config(String),
    /// Something of the machine does not allow it.
    #[error("{0}")]
    System(String),
}

/// The running service.
pub struct App {
    /// Where it listens.
    pub address: SocketAddr,
    system: System,
    store: Arc<dyn Store>,
    pruning: JoinHandle<()>,
    grace: Duration,
    _id: Option<HeldId>,
}

impl App {
    /// Starts the service. When this returns, webhooks are taken.
    ///
    /// # Errors
    /// [`StartError`]; nothing keeps running.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        supported(&config)?;
        let metrics = Arc::new(Metrics::new().map_err(|error| StartError::System(format!("metrics: {error}")))?);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let Opened { store, replicas, id } = store::open(&config, &metrics).await?;
        let listener = listen(config.listen)?;
        let address = listener.local_addr().map_err(|error| StartError::System(format!("listen: {error}")))?;
        let observer: Arc<dyn Observer> = metrics.clone();
        let accesses = Accesses::new(&config, &observer, &clock)?;
        let first = accesses.first()?;
        let records = accesses.records();

        let tokens = external::tokens(&config, &store, &clock);
        let groups = config.groups.iter().map(|group| group_spec(&config, group, &accesses, tokens.as_ref()));
        let groups: Vec<GroupSpec> = groups.collect::<Result<_, StartError>>()?;
        let directory = Directory::new(groups.iter().map(|group| Arc::clone(&group.settings)));
        let front = Front {
            directory: directory.clone(),
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            observer: metrics.clone(),
        };
        let world = World {
            listings: Arc::clone(&first.listings),
            records: records.clone(),
            github: first.client.clone(),
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            observer: metrics.clone(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            lease: Lease::default(),
        };
        let pruning = tokio::spawn(prune(Arc::clone(&store), Arc::clone(&clock), config.job_retention));
        let reconciler = reconciler::service(reconciler::Args {
            front: front.clone(),
            records,
            webhook_path: WEBHOOK_PATH.to_owned(),
            repositories: config.reconcile_repositories.iter().map(repository).collect(),
            interval: config.reconcile_interval,
        });
        let replica = id.as_ref().map(|id| id.id().clone());
        let boot = tokens.map(|tokens| Arc::new(tokens) as Arc<dyn Boot>);
        let front = http_service(&config, front, metrics, accesses, boot, listener, replica)?;
        let spec = SystemSpec {
            manager: config.name.clone(),
            world,
            directory,
            groups,
            services: vec![front, reconciler],
            replicas,
        };
        let system = System::start(spec).await.map_err(|error| StartError::System(error.to_string()))?;
        Ok(Self { address, system, store, pruning, grace: config.shutdown_grace, _id: id })
    }

    /// Waits until it cannot go on, and says why.
    pub async fn failed(&mut self) -> String {
        self.system.failed().await
    }

    /// Stops within the configured grace: no further webhooks, what is in flight finishes or is saved. Runners go on.
    /// Says whether all finished in time; the next start recovers what did not.
    pub async fn stop(self) -> bool {
        self.pruning.abort();
        let in_time = self.system.stop(self.grace).await;
        self.store.close().await;
        in_time
    }
}

/// Whether this version can do what the configuration asks for.
///
/// # Errors
/// [`StartError::Config`], with everything that it cannot do yet.
pub fn supported(config: &Config) -> Result<(), StartError> {
    match config.unavailable_backends() {
        None => Ok(()),
        Some(errors) => Err(StartError::Config(errors.to_string())),
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let explain = |error: io::Error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => ": another program uses this port; stop it or set `listen` to another one",
            io::ErrorKind::PermissionDenied => ": ports below 1024 need a privilege; set `listen` to a higher one",
            io::ErrorKind::AddrNotAvailable => {
                ": no network interface has this address; set `listen` to one that exists"
            }
            _ => "",
        };
        StartError::System(format!("cannot listen on {address}: {error}{advice}"))
    };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(explain)?;
    socket.set_reuseaddr(true).and_then(|()| socket.bind(address)).map_err(explain)?;
    socket.listen(BACKLOG).and_then(tokio::net::TcpListener::into_std).map_err(explain)
}

fn group_spec(
    config: &Config,
    group: &GroupConfig,
    accesses: &Accesses,
    tokens: Option<&Tokens>,
) -> Result<GroupSpec, StartError> {
    let listings = Some(Arc::clone(&accesses.get(&group.settings.github_credential)?.listings));
    let backends = group.backends.iter().map(|settings| backend(config, group, settings, tokens)).collect();
    Ok(GroupSpec { settings: Arc::new(group.settings.clone()), backends, listings })
}

fn repository((owner, name): &(String, String)) -> RepositoryName {
    RepositoryName { owner: owner.clone(), name: name.clone() }
}

fn backend(
    config: &Config,
    group: &GroupConfig,
    settings: &BackendSettings,
    tokens: Option<&Tokens>,
) -> Arc<dyn Backend> {
    let owner = Owner { manager: config.name.clone(), group: group.settings.name.clone() };
    match settings {
        BackendSettings::Process { command, working_dir, env, stop_grace } => {
            let settings = process::Settings {
                command: command.clone(),
                working_dir: working_dir.clone(),
                env: env.clone(),
                stop_grace: *stop_grace,
            };
            Arc::new(process::Process::new(settings, config.data_dir.join("process"), owner))
        }
        BackendSettings::Docker(settings) => docker::backend(settings, owner),
        BackendSettings::External(settings) => external::backend(config, group, settings, owner, tokens),
        // Refused before: `App::start` looks at `unavailable_backends` first.
        BackendSettings::Base | BackendSettings::Unavailable { .. } => Arc::new(base::Base::new(owner)),
    }
}

fn http_service(
    config: &Config,
    front: Front,
    metrics: Arc<Metrics>,
    accesses: Accesses,
    boot: Option<Arc<dyn Boot>>,
    listener: TcpListener,
    replica: Option<ReplicaId>,
) -> Result<Service, StartError> {
    let mut keys: Vec<ApiKey> = config
        .api_keys
        .iter()
        .map(|key| ApiKey {
            name: key.name.clone(),
            role: match key.role {
                config::Role::Viewer => Role::Viewer,
                config::Role::Admin => Role::Admin,
            },
            key: key.key.duplicate(),
        })
        .collect();
    if keys.is_empty() {
        let key = ensure_admin_key(&config.data_dir).map_err(|error| {
            let dir = config.data_dir.display();
            StartError::System(format!("cannot read or make the admin key in {dir}: {error}"))
        })?;
        keys.push(ApiKey { name: "admin.key".to_owned(), role: Role::Admin, key });
    }
    let args = http::Args {
        listener: Arc::new(listener),
        front,
        settings: Arc::new(http::Settings {
            webhook_secret: config.github_webhook_secret.as_ref().map(|secret| secret.duplicate()),
            keys,
            metrics_public: config.metrics_public,
            render_metrics: Arc::new(move || metrics.render()),
            github_budgets: Arc::new(move || accesses.budgets()),
            boot,
            version: env!("CARGO_PKG_VERSION"),
            replica,
            limits: limits(),
        }),
        shutdown_grace: config.shutdown_grace,
    };
    Ok(Service { name: "http", start: Arc::new(move |supervisor| Box::pin(http::spawn(args.clone(), supervisor))) })
}

/// The default bounds, and no more connections than half of the files that this process may open.
fn limits() -> http::Limits {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let half = files.and_then(|files| usize::try_from(files / 2).ok()).unwrap_or(usize::MAX);
    let limits = http::Limits::default();
    http::Limits { connections: limits.connections.min(half.max(1)), ..limits }
}

async fn prune(store: Arc<dyn Store>, clock: Arc<dyn Clock>, keep_jobs: Duration) {
    let mut ticks = tokio::time::interval(PRUNE_EVERY);
    loop {
        ticks.tick().await;
        let now = clock.now();
        let before = Horizon { deliveries: now - KEEP_DELIVERIES, jobs: now - keep_jobs, runners: now - KEEP_RUNNERS };
        if let Err(error) = store.prune(before).await {
            tracing::warn!(%error, "cannot forget what is past its time, trying again");
        }
    }
}

/// A configuration for the demo: one group of processes that run `command`.
#[must_use]
pub fn demo_config(name: &str, data_dir: &str, request: &crate::demo::ServiceRequest, command: &[String]) -> String {
    let mut text = String::new();
    // JSON is YAML, and needs no care with quoting.
    let value = serde_json::json!({
        "name": name,
        "listen": "127.0.0.1:0",
        "data_dir": data_dir,
        "github_base_url": request.github_url,
        "github_token": request.token.expose(),
        "github_webhook_secret": request.webhook_secret.expose(),
        "healthcheck_interval": "5s",
        "reconcile_interval": "3s",
        "idle_timeout": "2s",
        "shutdown_grace": "10s",
        "runner_groups": [{
            "name": "demo",
            "organization": request.organization,
            "labels": request.labels,
            "min": 0,
            "max": request.max,
            "time_to_start": "30s",
            "backend": { "name": "process", "instance_config": { "command": command, "stop_grace": "2s" } },
        }],
    });
    let _ = write!(text, "{value}");
    text
}
