//! The one interpreter of effects: turns what the machine wants into calls, and what comes back into events.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::actor::lease::Lease;
use crate::actor::listings::Listings;
use crate::actor::replica::CLAIM_AFTER;
use crate::actor::runner_group::Joined;
use crate::id::{FencingToken, InstanceId, JobId, ManagerName, RunnerId};
use crate::machine::group::marker;
use crate::machine::health::{Listed, Listing};
use crate::machine::runner::{Effect, Event};
use crate::model::delivery::{JobEvent, RepositoryRef};
use crate::model::runner::Runner;
use crate::model::secret::Secret;
use crate::model::settings::{BackendLimits, GroupSettings, Scope};
use crate::port::backend::{Download, InstanceSpec, Machine, Metadata, Owner};
use crate::port::github::{
    Deregistered, JitRequest, Records, RemoteRunner, RepositoryName, RunnerGroup, RunnerGroupRemoval,
};
use crate::port::{Backend, BackendError, Clock, GitHub, GitHubError, Observation, Observer, Store};

/// Longest time one step at GitHub may take, pages and waiting for a free connection included.
const GITHUB_DEADLINE: Duration = Duration::from_secs(120);

/// How long a create whose outcome is not known may still bring something about: as long as the next owner of a group
/// waits for what the last one began.
const SETTLES: Duration = CLAIM_AFTER;

/// Why a call that was out was given up: somebody else may act for the group from then on.
const LEASE_OVER: &str = "this replica's lease of the group was over";

/// The world, as all actors of one system share it. Each group has its own `tasks`, `stopping` and `lease`, so that it
/// can be stopped alone.
#[derive(Clone)]
pub struct World {
    /// GitHub.
    pub github: Arc<dyn GitHub>,
    /// What GitHub remembers.
    pub records: Arc<dyn Records>,
    /// The durable store.
    pub store: Arc<dyn Store>,
    /// Time and chance.
    pub clock: Arc<dyn Clock>,
    /// Metrics.
    pub observer: Arc<dyn Observer>,
    /// Listings of runners, shared by groups.
    pub listings: Arc<Listings>,
    /// Calls and saves that are out; shutdown waits for them.
    pub tasks: TaskTracker,
    /// Once cancelled, no further call is begun: what is decided is saved, and carried out after the next start.
    pub stopping: CancellationToken,
    /// Until when calls may be begun. The default is for ever; groups that are shared with other replicas get their own.
    pub lease: Lease,
}

impl World {
    /// The world of one group.
    pub(crate) fn of_group(&self, lease: Lease) -> Self {
        Self { tasks: TaskTracker::new(), stopping: self.stopping.child_token(), lease, ..self.clone() }
    }

    /// The same world, with GitHub as these listings see it.
    pub(crate) fn through(self, listings: Arc<Listings>) -> Self {
        Self { github: Arc::clone(listings.github()), listings, ..self }
    }

    /// A task that a graceful stop waits for, and that ends with `ended` wherever it is. Somebody counts on its result: when
    /// it panics, `failed` tells them.
    pub(crate) fn spawn(
        &self,
        ended: &CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
        failed: impl FnOnce() + Send + 'static,
    ) {
        let ended = ended.clone();
        self.tasks.spawn(async move {
            if let Some(Err(_)) = ended.run_until_cancelled(AssertUnwindSafe(task).catch_unwind()).await {
                failed();
            }
        });
    }
}

/// One of a group's backends, and how many calls of it may run.
struct Place {
    limits: BackendLimits,
    backend: Arc<dyn Backend>,
    calls: Semaphore,
    /// Until when it asked to be left alone with creates, and its words.
    paused: Mutex<Option<(Instant, String)>>,
}

impl Place {
    /// What is left of the pause that it asked for, as it would say itself.
    fn pause(&self) -> Option<BackendError> {
        let paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, text) = paused.as_ref()?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| BackendError::Throttled { text: text.clone(), retry_after: Some(left) })
    }

    /// The longest pause counts.
    fn asks_for(&self, wait: Duration, text: &str) {
        let Some(until) = Instant::now().checked_add(wait) else { return };
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        if paused.as_ref().is_none_or(|(before, _)| *before < until) {
            *paused = Some((until, text.to_owned()));
        }
    }
}

/// Carries out the effects of one group.
pub(crate) struct Interpreter {
    settings: Arc<GroupSettings>,
    owner: Owner,
    marker: String,
    backends: Vec<Place>,
    world: World,
    joined: Joined,
    token: AtomicU64,
    ended: CancellationToken,
}

impl Interpreter {
    /// `backends`: in the order of the settings.
    pub(crate) fn new(
        settings: Arc<GroupSettings>,
        manager: ManagerName,
        backends: &[Arc<dyn Backend>],
        world: World,
        ended: CancellationToken,
    ) -> Self {
        let place = |(limits, backend): (&BackendLimits, &Arc<dyn Backend>)| Place {
            limits: limits.clone(),
            backend: Arc::clone(backend),
            calls: Semaphore::new(limits.max_concurrency.max(1)),
            paused: Mutex::default(),
        };
        Self {
            token: AtomicU64::new(0),
            ended,
            owner: Owner { manager: manager.clone(), group: settings.name.clone() },
            marker: marker(&manager),
            backends: settings.backends.iter().zip(backends).map(place).collect(),
            joined: Joined::default(),
            settings,
            world,
        }
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// What the group and its runners save with; it changes when the group is acquired again.
    pub(crate) fn token(&self) -> FencingToken {
        FencingToken(self.token.load(Ordering::SeqCst))
    }

    pub(crate) fn set_token(&self, token: FencingToken) {
        self.token.store(token.0, Ordering::SeqCst);
    }

    /// Cancelled when the group's actor ended, however it ended: nobody takes up what still comes back.
    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Does beforehand what the first runner would have to wait for.
    pub(crate) async fn warm(&self) -> Result<(), GitHubError> {
        let warm = async {
            self.download().await;
            Ok(())
        };
        self.github(warm).await
    }

    /// Brings the runner group at GitHub in step with the settings.
    pub(crate) async fn ensure_runner_group(&self) -> Result<RunnerGroup, GitHubError> {
        self.github(self.joined.ensure(&*self.world.github, &self.settings)).await
    }

    /// Deletes the runner group at GitHub.
    pub(crate) async fn delete_runner_group(&self) -> Result<RunnerGroupRemoval, GitHubError> {
        self.github(self.joined.delete(&*self.world.github, &self.settings)).await
    }

    /// Carries out one effect. A call that panics counts as one whose outcome is unknown.
    pub(crate) async fn perform(&self, runner: &Runner, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Register => Some(match self.github(self.register(runner)).await {
                Ok((id, jit_config)) => Event::Registered { id, jit_config },
                Err(error) => Event::RegisterFailed(error),
            }),
            Effect::CreateInstance { jit_config } => {
                // Kept only where another backend may need it.
                let again = (!runner.fallbacks.is_empty()).then(|| jit_config.duplicate());
                Some(match self.create(runner, jit_config).await? {
                    Ok(id) => Event::Created(id),
                    Err(error) => Event::CreateFailed { error, jit_config: again },
                })
            }
            Effect::LookUpInstance => Some(Event::InstanceLookedUp(match self.place(runner) {
                Ok(place) => self.call(place, "get", place.backend.get(&runner.name)).await,
                Err(error) => Err(error),
            })),
            Effect::LookUpRegistration => Some(Event::RegistrationLookedUp(self.github(self.find(runner)).await)),
            Effect::Deregister => Some(Event::Deregistered(self.github(self.deregister(runner)).await)),
            Effect::DeleteInstance => Some(Event::InstanceDeleted(match self.place(runner) {
                Ok(place) => self.call(place, "delete", place.backend.delete(&runner.name)).await,
                Err(error) => Err(error),
            })),
            Effect::UpdateMetadata => {
                let metadata = Metadata { state: runner.state.as_str(), job: runner.job };
                let update = async {
                    let place = self.place(runner)?;
                    let update = place.backend.update_metadata(&runner.name, &metadata);
                    self.call(place, "update_metadata", update).await
                };
                if let Err(error) = update.await {
                    tracing::warn!(group = %self.settings.name, runner = %runner.name, %error, "metadata not updated");
                }
                None
            }
        }
    }

    /// A job as GitHub has it now.
    pub(crate) async fn verify(&self, job: JobId, repository: RepositoryRef) -> Result<Option<JobEvent>, GitHubError> {
        let repository = RepositoryName { owner: repository.owner, name: repository.name };
        self.github(self.world.records.job(&self.settings.asker(), &repository, job)).await
    }

    async fn register(&self, runner: &Runner) -> Result<(RunnerId, Secret), GitHubError> {
        let mut labels = self.settings.runner_labels();
        labels.push(self.marker.clone());
        let (github, settings) = (&*self.world.github, &self.settings);
        let runner_group = self.joined.id(github, settings).await?;
        let mut request = JitRequest { scope: settings.scope.clone(), name: runner.name.clone(), runner_group, labels };
        let registration = match github.generate_jit_config(&request).await {
            // Nothing was done. Somebody may have deleted the runner group.
            Err(GitHubError::NotFound(text)) => {
                self.joined.lost(runner_group);
                request.runner_group = self.joined.id(github, settings).await?;
                if request.runner_group == runner_group {
                    return Err(GitHubError::NotFound(text));
                }
                github.generate_jit_config(&request).await?
            }
            registration => registration?,
        };
        Ok((registration.id, registration.jit_config))
    }

    async fn download(&self) -> Option<Download> {
        let GroupSettings { scope, os, arch, .. } = &*self.settings;
        // Backends with the runner application in their image do without it.
        self.world.github.runner_download(scope, *os, *arch).await.ok()
    }

    /// The backend of a runner.
    fn place(&self, runner: &Runner) -> Result<&Place, BackendError> {
        self.backends.iter().find(|place| place.limits.name == runner.backend).ok_or_else(|| {
            BackendError::Invalid(format!(
                "backend {} is not configured for group {} any more: put it back, as the last of its fallback_backends \
                 if it is to get no more runners, until this one is gone",
                runner.backend, self.settings.name
            ))
        })
    }

    /// Whether a create at this backend could work; an error in words.
    pub(crate) async fn probe(&self, backend: &str) -> Result<(), String> {
        let Some(place) = self.backends.iter().find(|place| place.limits.name == backend) else { return Ok(()) };
        self.call(place, "probe", place.backend.probe()).await.map_err(|error| error.to_string())
    }

    /// None when the manager stops before what came of it has settled: the next start looks.
    async fn create(&self, runner: &Runner, jit_config: Secret) -> Option<Result<InstanceId, BackendError>> {
        let place = match self.place(runner) {
            Ok(place) => place,
            Err(error) => return Some(Err(error)),
        };
        let download = self.github(async { Ok(self.download().await) }).await.unwrap_or_default();
        let download_url = download.as_ref().map_or_else(String::new, |download| download.url.clone());
        let spec = InstanceSpec {
            owner: self.owner.clone(),
            runner: runner.name.clone(),
            env: self.env(runner, download_url),
            jit_config,
            machine: Machine {
                os: self.settings.os,
                arch: self.settings.arch,
                download,
                scope_path: scope_path(&self.settings.scope),
                online_within: place.limits.create_timeout.saturating_add(runner.time_to_start),
            },
        };
        let create = async {
            if let Some(received) = runner.for_delivery_at {
                let took = self.world.clock.now().duration_since(received).try_into().unwrap_or_default();
                self.world.observer.observe(&Observation::ScaleUp { group: &self.settings.name, took });
            }
            place.backend.create(spec).await
        };
        let created = self.call(place, "create", create).await;
        if created.as_ref().is_err_and(BackendError::outcome_unknown) {
            // Or it would be removed before it is there.
            self.world.stopping.run_until_cancelled(tokio::time::sleep(SETTLES)).await?;
        }
        Some(created.map(|instance| instance.id))
    }

    fn env(&self, runner: &Runner, download_url: String) -> Vec<(&'static str, String)> {
        let organization = match &self.settings.scope {
            Scope::Organization(login) | Scope::Enterprise(login) => login.clone(),
            Scope::Repository { owner, .. } => owner.clone(),
        };
        vec![
            ("RUNNER_NAME", runner.name.to_string()),
            ("RUNNER_LABELS", self.settings.runner_labels().join(",")),
            ("RUNNER_DOWNLOAD_URL", download_url),
            ("RUNNER_ORG", organization),
            ("RUNNER_GROUP", self.settings.name.to_string()),
            ("RUNNER_JOB_STARTED_SCRIPT", self.settings.job_started_script.clone()),
            ("RUNNER_JOB_COMPLETED_SCRIPT", self.settings.job_completed_script.clone()),
        ]
    }

    async fn find(&self, runner: &Runner) -> Result<Option<RemoteRunner>, GitHubError> {
        self.world.github.find_runner(&self.settings.scope, &runner.name).await
    }

    async fn deregister(&self, runner: &Runner) -> Result<Deregistered, GitHubError> {
        let id = match runner.github_id {
            Some(id) => id,
            None => match self.find(runner).await? {
                // A runner of that name without our marker is somebody else's.
                Some(found) if found.labels.iter().any(|l| l.eq_ignore_ascii_case(&self.marker)) => found.id,
                // Perhaps somebody changed its labels: then its instance is ours.
                Some(found) if found.busy => return Ok(Deregistered::Busy),
                Some(_) | None => return Ok(Deregistered::Absent),
            },
        };
        self.world.github.delete_runner(&self.settings.scope, id).await
    }

    /// Both sides of a health check.
    pub(crate) async fn list(&self) -> Listing {
        let began = self.world.clock.now();
        let (registered, instances) = tokio::join!(
            self.github(self.world.listings.get(&self.settings.scope)),
            join_all(self.backends.iter().map(|place| self.list_at(place)))
        );
        let at = registered.as_ref().map_or(began, |(at, _)| began.min(*at));
        Listing { at, registered: registered.map(|(_, runners)| runners).map_err(|error| error.to_string()), instances }
    }

    async fn list_at(&self, place: &Place) -> Listed {
        let instances = self.call(place, "list", place.backend.list(&self.owner)).await;
        let backend = place.limits.name.clone();
        let explain = |error| format!("listing instances at backend {backend}: {error}");
        Listed { instances: instances.map_err(explain), backend }
    }

    /// One call to the backend: bounded in number and time, measured, and safe from panics.
    async fn call<T>(
        &self,
        place: &Place,
        operation: &'static str,
        call: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let creates = operation == "create";
        let Ok(_permit) = place.calls.acquire().await else {
            return Err(BackendError::Unavailable("the manager is stopping".to_owned()));
        };
        // Another create was told so while this one was on its way, or waited for its turn.
        if let Some(error) = place.pause().filter(|_| creates) {
            return Err(error);
        }
        let BackendLimits { create_timeout, delete_timeout, .. } = place.limits;
        let deadline = if creates { create_timeout } else { delete_timeout };
        let began = self.world.clock.now();
        let bounded = async { tokio::time::timeout(deadline, AssertUnwindSafe(call).catch_unwind()).await };
        let result = match self.world.lease.within(bounded).await {
            Some(Ok(Ok(result))) => result,
            Some(Ok(Err(_))) => Err(BackendError::Unavailable(format!("the backend's {operation} panicked"))),
            Some(Err(_)) => {
                Err(BackendError::Timeout(format!("no answer to {operation} within {} s", deadline.as_secs_f32())))
            }
            None => Err(BackendError::Timeout(format!("no answer to {operation} before {LEASE_OVER}"))),
        };
        if let Err(BackendError::Throttled { retry_after: Some(wait), text }) = &result
            && creates
        {
            place.asks_for(*wait, text);
        }
        self.world.observer.observe(&Observation::BackendCall {
            backend: &place.limits.name,
            operation,
            outcome: result.as_ref().map_or_else(BackendError::kind, |_| "ok"),
            took: self.world.clock.now().duration_since(began).try_into().unwrap_or_default(),
        });
        result
    }

    /// One step at GitHub: bounded in time and safe from panics. The adapter bounds how many run at once.
    async fn github<T>(&self, call: impl Future<Output = Result<T, GitHubError>>) -> Result<T, GitHubError> {
        let bounded = async { tokio::time::timeout(GITHUB_DEADLINE, AssertUnwindSafe(call).catch_unwind()).await };
        match self.world.lease.within(bounded).await {
            Some(Ok(Ok(result))) => result,
            Some(Ok(Err(_))) => Err(GitHubError::Unknown("the call panicked".to_owned())),
            Some(Err(_)) => Err(GitHubError::Unknown(format!("no answer within {} s", GITHUB_DEADLINE.as_secs()))),
            None => Err(GitHubError::Unknown(format!("no answer before {LEASE_OVER}"))),
        }
    }
}

/// Where runners of a scope are registered, as a path at GitHub.
fn scope_path(scope: &Scope) -> String {
    match scope {
        Scope::Organization(login) => login.clone(),
        Scope::Enterprise(slug) => format!("enterprises/{slug}"),
        Scope::Repository { owner, name } => format!("{owner}/{name}"),
    }
}
