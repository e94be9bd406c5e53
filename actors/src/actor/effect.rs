//! The one interpreter of effects: turns what the machine wants into calls, and what comes back into events.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::actor::lease::Lease;
use crate::actor::listings::Listings;
use crate::actor::runner_group::Joined;
use crate::id::{FencingToken, JobId, ManagerName, RunnerId};
use crate::machine::group::marker;
use crate::machine::health::Listing;
use crate::machine::runner::{Effect, Event};
use crate::model::delivery::{JobEvent, RepositoryRef};
use crate::model::runner::Runner;
use crate::model::secret::Secret;
use crate::model::settings::{GroupSettings, Scope};
use crate::port::backend::{InstanceSpec, Metadata, Owner};
use crate::port::github::{
    Deregistered, JitRequest, Records, RemoteRunner, RepositoryName, RunnerGroup, RunnerGroupRemoval,
};
use crate::port::{Backend, BackendError, Clock, GitHub, GitHubError, Observation, Observer, Store};

/// Longest time one step at GitHub may take, pages and waiting for a free connection included.
const GITHUB_DEADLINE: Duration = Duration::from_secs(120);

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

    /// A task that a graceful stop waits for, and that ends with `ended` wherever it is.
    pub(crate) fn spawn(&self, ended: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
        let ended = ended.clone();
        self.tasks.spawn(async move {
            ended.run_until_cancelled(task).await;
        });
    }
}

/// Carries out the effects of one group.
pub(crate) struct Interpreter {
    settings: Arc<GroupSettings>,
    owner: Owner,
    marker: String,
    backend: Arc<dyn Backend>,
    world: World,
    calls: Semaphore,
    joined: Joined,
    token: AtomicU64,
    ended: CancellationToken,
}

impl Interpreter {
    pub(crate) fn new(
        settings: Arc<GroupSettings>,
        manager: ManagerName,
        backend: Arc<dyn Backend>,
        world: World,
        ended: CancellationToken,
    ) -> Self {
        Self {
            token: AtomicU64::new(0),
            ended,
            owner: Owner { manager: manager.clone(), group: settings.name.clone() },
            marker: marker(&manager),
            calls: Semaphore::new(settings.max_concurrency.max(1)),
            joined: Joined::default(),
            settings,
            backend,
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
            self.download_url().await;
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
            Effect::CreateInstance { jit_config } => Some(match self.create(runner, jit_config).await {
                Ok(id) => Event::Created(id),
                Err(error) => Event::CreateFailed(error),
            }),
            Effect::LookUpInstance => {
                let get = self.backend.get(&runner.name);
                Some(Event::InstanceLookedUp(self.call("get", self.settings.delete_timeout, get).await))
            }
            Effect::LookUpRegistration => Some(Event::RegistrationLookedUp(self.github(self.find(runner)).await)),
            Effect::Deregister => Some(Event::Deregistered(self.github(self.deregister(runner)).await)),
            Effect::DeleteInstance => {
                let delete = self.backend.delete(&runner.name);
                Some(Event::InstanceDeleted(self.call("delete", self.settings.delete_timeout, delete).await))
            }
            Effect::UpdateMetadata => {
                let metadata = Metadata { state: runner.state.as_str(), job: runner.job };
                let update = self.backend.update_metadata(&runner.name, &metadata);
                if let Err(error) = self.call("update_metadata", self.settings.delete_timeout, update).await {
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

    async fn download_url(&self) -> String {
        let GroupSettings { scope, os, arch, .. } = &*self.settings;
        // Backends with the runner application in their image do without it.
        self.world.github.runner_download(scope, *os, *arch).await.unwrap_or_default()
    }

    async fn create(&self, runner: &Runner, jit_config: Secret) -> Result<crate::id::InstanceId, BackendError> {
        let download_url = self.github(async { Ok(self.download_url().await) }).await.unwrap_or_default();
        let spec = InstanceSpec {
            owner: self.owner.clone(),
            runner: runner.name.clone(),
            env: self.env(runner, download_url),
            jit_config,
        };
        let create = async {
            if let Some(received) = runner.for_delivery_at {
                let took = self.world.clock.now().duration_since(received).try_into().unwrap_or_default();
                self.world.observer.observe(&Observation::ScaleUp { group: &self.settings.name, took });
            }
            self.backend.create(spec).await
        };
        self.call("create", self.settings.create_timeout, create).await.map(|instance| instance.id)
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
                Some(_) | None => return Ok(Deregistered::Absent),
            },
        };
        self.world.github.delete_runner(&self.settings.scope, id).await
    }

    /// Both sides of a health check.
    pub(crate) async fn list(&self) -> Listing {
        let began = self.world.clock.now();
        let list = self.backend.list(&self.owner);
        let (registered, instances) = tokio::join!(
            self.github(self.world.listings.get(&self.settings.scope)),
            self.call("list", self.settings.delete_timeout, list)
        );
        let at = registered.as_ref().map_or(began, |(at, _)| began.min(*at));
        Listing {
            at,
            registered: registered.map(|(_, runners)| runners).map_err(|error| error.to_string()),
            instances: instances
                .map_err(|error| format!("listing instances at backend {}: {error}", self.backend.name())),
        }
    }

    /// One call to the backend: bounded in number and time, measured, and safe from panics.
    async fn call<T>(
        &self,
        operation: &'static str,
        deadline: Duration,
        call: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let Ok(_permit) = self.calls.acquire().await else {
            return Err(BackendError::Unavailable("the manager is stopping".to_owned()));
        };
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
        self.world.observer.observe(&Observation::BackendCall {
            backend: self.backend.name(),
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
