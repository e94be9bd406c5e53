//! Runs each runner as a container of Docker or Podman, through the API of the Docker Engine.
//!
//! A container bears its runner's name and three labels: manager, group and runner. Only containers with all three are
//! ever touched. The just-in-time config is in the container's environment: who may inspect containers can read it, and
//! who may do that is root on that host anyway.
//!
//! A container that was made and never started, because its manager ended in between, will not run: it is shown as
//! stopped, so that the manager deletes it and takes a new one instead of waiting for it to come online. A create of the
//! same runner would start it.

mod container;
mod error;
mod pull;
mod transport;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::id::{InstanceId, RunnerName};
use actors::port::Backend;
use actors::port::backend::{BackendError, Instance, InstanceSpec, InstanceStatus, Metadata, Owner};
use async_trait::async_trait;
use bollard::Docker as Api;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};

use super::locks::Locks;
use container::{Container, State};
use error::{answer, failure, not_sure};
use pull::Pulls;
pub use transport::Endpoint;

/// Longest time a daemon may take to say that it works.
const AWAKE_MAX: Duration = Duration::from_secs(10);
/// How long a name may be taken by a container that is being made or removed, and a removal may take.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// How often a request is repeated whose answer was lost.
const LOST_MAX: u32 = 3;
/// First and longest pause between two looks at what settles.
const POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// When the image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// When it is not there.
    Missing,
    /// Before every creation.
    Always,
    /// Not at all.
    Never,
}

/// What the containers of a group are like, and where they are made.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the API is.
    pub endpoint: Endpoint,
    /// The image, as `docker pull` takes it; without a tag it is `latest`.
    pub image: String,
    /// Command and its arguments; empty: that of the image.
    pub command: Vec<String>,
    /// Labels. Those that mark the owner are added, and win.
    pub labels: BTreeMap<String, String>,
    /// Added to the environment. The values may be secrets: they are not shown.
    pub env: BTreeMap<String, String>,
    /// When the image is pulled.
    pub pull: Pull,
    /// Network; Docker's default if absent.
    pub network: Option<String>,
    /// What is mounted, each as `host:container` or `host:container:options`.
    pub volumes: Vec<String>,
    /// Most processor time, in billionths of a CPU; no limit if absent.
    pub nano_cpus: Option<i64>,
    /// Most memory in bytes; no limit if absent.
    pub memory: Option<i64>,
    /// Whether the container may do everything that the host's root may.
    pub privileged: bool,
    /// Whether the daemon removes the container as soon as it ends.
    pub remove: bool,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("image", &self.image)
            .field("env", &self.env.keys())
            .finish_non_exhaustive()
    }
}

/// The backend of one group.
#[derive(Debug, Clone)]
pub struct Docker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    endpoint: Arc<Endpoint>,
    settings: Settings,
    owner: Owner,
    pulls: Pulls,
    /// Held while the container of a runner is made, started or removed.
    locks: Locks,
}

/// What making a container came to.
enum Made {
    Instance(Instance),
    /// The image is not there, in the daemon's words.
    NoImage(String),
}

/// What bears a runner's name.
enum Found {
    Nothing,
    Ours(Container),
    /// A container that is not to be touched, by its id.
    Foreign(String),
}

impl Docker {
    /// The backend of `owner`. Connects when it is first asked something.
    #[must_use]
    pub fn new(settings: Settings, owner: Owner) -> Self {
        let endpoint = Arc::new(settings.endpoint.clone());
        Self(Arc::new(Shared { endpoint, settings, owner, pulls: Pulls::default(), locks: Locks::default() }))
    }
}

#[async_trait]
impl Backend for Docker {
    fn name(&self) -> &'static str {
        "docker"
    }

    async fn create(&self, spec: InstanceSpec) -> Result<Instance, BackendError> {
        let shared = &self.0;
        super::check_owner(&shared.owner, &spec)?;
        shared.awake().await?;
        let image = &shared.settings.image;
        let mut pulled = false;
        if shared.settings.pull == Pull::Always && !shared.exists(&spec.runner).await? {
            shared.pulls.pull(shared.api()?, image).await?;
            pulled = true;
        }
        let body = container::body(&shared.settings, &spec);
        loop {
            let why = match shared.make(&spec.runner, body.clone()).await? {
                Made::Instance(instance) => return Ok(instance),
                Made::NoImage(why) => why,
            };
            if shared.settings.pull == Pull::Never {
                return Err(BackendError::Invalid(format!(
                    "image {image} is not there: {why}; pull it on that host, or let `pull` be missing or always"
                )));
            }
            if pulled {
                return Err(BackendError::Unavailable(format!("image {image} was pulled and is not there: {why}")));
            }
            shared.pulls.pull(shared.api()?, image).await?;
            pulled = true;
        }
    }

    async fn delete(&self, runner: &RunnerName) -> Result<(), BackendError> {
        let (shared, runner) = (Arc::clone(&self.0), runner.clone());
        // Carried through even when nobody waits for it any more.
        let removal = tokio::spawn(async move {
            let _lock = shared.locks.lock(&runner).await;
            match shared.find(&shared.owner, &runner).await? {
                Found::Ours(container) => shared.remove(&container.id, &runner).await,
                Found::Nothing | Found::Foreign(_) => Ok(()),
            }
        });
        removal.await.map_err(|error| BackendError::Unavailable(format!("the delete was interrupted: {error}")))?
    }

    async fn get(&self, runner: &RunnerName) -> Result<Option<Instance>, BackendError> {
        self.0.get(&self.0.owner, runner).await
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        let options = ListContainersOptionsBuilder::new().all(true).filters(&container::filters(owner)).build();
        let listed = self.0.api()?.list_containers(Some(options)).await;
        let listed = listed.map_err(|error| failure("cannot list the containers", &error))?;
        let mut instances = Vec::with_capacity(listed.len());
        for container in listed.into_iter().map(Container::from) {
            let Some(runner) = container.runner_of(owner) else { continue };
            if container.state != State::Created {
                instances.push(instance(&container.id, &runner, container.state.settled())?);
            } else if let Some(_lock) = self.0.locks.try_lock(&runner) {
                // Perhaps it was started meanwhile.
                instances.extend(self.0.get_locked(owner, &runner).await?);
            } else {
                // It is being started or removed.
                instances.push(instance(&container.id, &runner, InstanceStatus::Unknown)?);
            }
        }
        Ok(instances)
    }

    /// Nothing: labels of a container cannot be changed.
    async fn update_metadata(&self, _runner: &RunnerName, _metadata: &Metadata) -> Result<(), BackendError> {
        Ok(())
    }

    async fn probe(&self) -> Result<(), BackendError> {
        let (api, image, pull) = (self.0.api()?, &self.0.settings.image, self.0.settings.pull);
        api.ping().await.map_err(|error| failure("the daemon does not work", &error))?;
        if pull != Pull::Always {
            match api.inspect_image(image).await {
                Ok(_) => return Ok(()),
                Err(error) if answer(&error).is_some_and(|(status, _)| status == 404) => {}
                Err(error) => return Err(failure(&format!("cannot look for image {image}"), &error)),
            }
            if pull == Pull::Never {
                let text =
                    format!("image {image} is not there: pull it on that host, or let `pull` be missing or always");
                return Err(BackendError::Invalid(text));
            }
        }
        pull::check(&api, image).await
    }
}

impl Shared {
    fn api(&self) -> Result<Api, BackendError> {
        transport::client(&self.endpoint).map_err(|error| failure("there is no client", &error))
    }

    /// Asks before anything is made: a daemon that hangs has made nothing then, and the next backend can be asked.
    async fn awake(&self) -> Result<(), BackendError> {
        match tokio::time::timeout(AWAKE_MAX, self.api()?.ping()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(match failure("the daemon does not work", &error) {
                BackendError::Unavailable(text) | BackendError::Timeout(text) => BackendError::Unreachable(text),
                other => other,
            }),
            Err(_) => Err(BackendError::Unreachable(format!(
                "the daemon at {} does not answer within {} s",
                self.endpoint,
                AWAKE_MAX.as_secs()
            ))),
        }
    }

    /// What bears the name of `runner`, or was made for it and renamed by somebody.
    async fn find(&self, owner: &Owner, runner: &RunnerName) -> Result<Found, BackendError> {
        let (api, what) = (self.api()?, format!("cannot look at container {runner}"));
        let is_ours = |container: &Container| container.runner_of(owner).is_some_and(|name| name == *runner);
        let named = match api.inspect_container(runner.as_str(), None).await {
            Ok(found) => Some(Container::from(found)),
            Err(error) if answer(&error).is_some_and(|(status, _)| status == 404) => None,
            Err(error) => return Err(failure(&what, &error)),
        };
        let other = match named {
            Some(container) if is_ours(&container) => return Ok(Found::Ours(container)),
            other => other,
        };
        let filters = container::filters_of(owner, runner);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let labelled = api.list_containers(Some(options)).await.map_err(|error| failure(&what, &error))?;
        let renamed = labelled.into_iter().map(Container::from).find(is_ours);
        let other = other.map_or(Found::Nothing, |container| Found::Foreign(container.id));
        Ok(renamed.map_or(other, Found::Ours))
    }

    async fn exists(&self, runner: &RunnerName) -> Result<bool, BackendError> {
        Ok(matches!(self.find(&self.owner, runner).await?, Found::Ours(_)))
    }

    async fn get(&self, owner: &Owner, runner: &RunnerName) -> Result<Option<Instance>, BackendError> {
        // A create under way is waited for.
        let _lock = self.locks.lock(runner).await;
        self.get_locked(owner, runner).await
    }

    async fn get_locked(&self, owner: &Owner, runner: &RunnerName) -> Result<Option<Instance>, BackendError> {
        match self.find(owner, runner).await? {
            Found::Ours(container) => instance(&container.id, runner, container.state.settled()).map(Some),
            Found::Nothing | Found::Foreign(_) => Ok(None),
        }
    }

    /// Makes and starts a container, even when nobody waits for it any more.
    async fn make(self: &Arc<Self>, runner: &RunnerName, body: ContainerCreateBody) -> Result<Made, BackendError> {
        let lock = self.locks.lock(runner).await;
        let (shared, runner) = (Arc::clone(self), runner.clone());
        let making = tokio::spawn(async move {
            let _lock = lock;
            shared.make_locked(&runner, body).await
        });
        making.await.map_err(|error| BackendError::Unavailable(format!("the create was interrupted: {error}")))?
    }

    async fn make_locked(&self, runner: &RunnerName, body: ContainerCreateBody) -> Result<Made, BackendError> {
        let api = self.api()?;
        let what = format!("cannot make container {runner}");
        let mut waiting = Waiting::new();
        let mut lost = 0;
        let id = loop {
            let options = CreateContainerOptionsBuilder::new().name(runner.as_str()).build();
            let error = match api.create_container(Some(options), body.clone()).await {
                Ok(created) => break created.id,
                Err(error) => error,
            };
            match answer(&error) {
                Some((404, text)) if text.to_ascii_lowercase().contains("no such image") => {
                    return Ok(Made::NoImage(text.trim().to_owned()));
                }
                Some((409, text)) => match self.find(&self.owner, runner).await.map_err(not_sure)? {
                    Found::Ours(container) if container.state == State::Created => break container.id,
                    Found::Ours(container) => {
                        return instance(&container.id, runner, container.state.settled()).map(Made::Instance);
                    }
                    Found::Foreign(id) => {
                        return Err(BackendError::Invalid(format!(
                            "{what}: container {id} has this name and is not of group {} of manager {}: rename it, or \
                             let `name` of the manager or the group be another one",
                            self.owner.group, self.owner.manager
                        )));
                    }
                    // It is being made, by a request whose answer was lost, or being removed.
                    Found::Nothing if waiting.over() => {
                        return Err(BackendError::Unavailable(format!("{what}: {}", text.trim())));
                    }
                    Found::Nothing => {}
                },
                Some(_) => return Err(failure(&what, &error)),
                // The daemon may have made it: asking again tells.
                None => {
                    let unsent = error::unsent(&error).is_some();
                    if (unsent && lost == 0) || lost >= LOST_MAX {
                        let error = failure(&what, &error);
                        return Err(if unsent && lost > 0 { not_sure(error) } else { error });
                    }
                    lost += 1;
                }
            }
            waiting.pause().await;
        };
        self.start(&api, &id, runner).await?;
        instance(&id, runner, InstanceStatus::Running).map(Made::Instance)
    }

    /// Starts a container that was made; one that cannot be started is removed.
    async fn start(&self, api: &Api, id: &str, runner: &RunnerName) -> Result<(), BackendError> {
        let what = format!("cannot start container {runner}");
        let mut waiting = Waiting::new();
        let mut lost = 0;
        loop {
            let Err(error) = api.start_container(id, None).await else { return Ok(()) };
            if let Some((status, text)) = answer(&error) {
                let refused = match failure(&what, &error) {
                    // Somebody else removed it.
                    BackendError::Invalid(words) if status == 404 && is_no_container(text) => {
                        BackendError::Unavailable(words)
                    }
                    refused => refused,
                };
                return match self.remove(id, runner).await {
                    Ok(()) => Err(refused),
                    Err(error) => Err(BackendError::Unavailable(format!("{refused}; and {error}"))),
                };
            }
            if lost >= LOST_MAX {
                return Err(not_sure(failure(&what, &error)));
            }
            lost += 1;
            waiting.pause().await;
        }
    }

    /// Removes a container of ours with its anonymous volumes, and returns when it is gone.
    async fn remove(&self, id: &str, runner: &RunnerName) -> Result<(), BackendError> {
        let api = self.api()?;
        let what = format!("cannot remove container {runner}");
        let mut waiting = Waiting::new();
        loop {
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            let Err(error) = api.remove_container(id, Some(options)).await else { return Ok(()) };
            match answer(&error) {
                Some((404, _)) => return Ok(()),
                // It is being removed already.
                Some((409, text)) if waiting.over() => {
                    return Err(BackendError::Unavailable(format!("{what}: {}", text.trim())));
                }
                Some((409, _)) => waiting.pause().await,
                _ => return Err(failure(&what, &error)),
            }
        }
    }
}

/// Waits with growing pauses for what settles by itself.
struct Waiting {
    until: Instant,
    next: Duration,
}

impl Waiting {
    fn new() -> Self {
        Self { until: Instant::now() + SETTLE_MAX, next: POLL.0 }
    }

    fn over(&self) -> bool {
        Instant::now() >= self.until
    }

    async fn pause(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(POLL.1);
    }
}

fn is_no_container(text: &str) -> bool {
    text.to_ascii_lowercase().contains("no such container")
}

fn instance(id: &str, runner: &RunnerName, status: InstanceStatus) -> Result<Instance, BackendError> {
    let id = InstanceId::new(id).map_err(|error| BackendError::Unavailable(error.to_string()))?;
    Ok(Instance { id, runner: runner.clone(), status })
}
