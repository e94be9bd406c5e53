//! GitHub, simulated: one organization with its repositories, runner groups, runners, jobs and webhooks.
//!
//! It listens on a free port of the loopback interface and behaves as GitHub does towards those who manage runners:
//! jobs go to any idle runner that has their labels, `busy` lags, webhooks are signed and sent once, and what
//! can go wrong at GitHub can be made to go wrong here.

mod api;
mod faults;
mod history;
mod hooks;
mod jobs;
mod limits;
mod log;
mod rest;
mod service;
mod settings;
mod socket;
mod state;
mod wire;

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use poem::Server;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

pub use faults::{Fault, HookFault, Times};
pub use hooks::{Action, Delivery, DeliveryStatus};
pub use jobs::{Conclusion, Job, JobId, JobRequest, JobRunner, JobStatus};
pub use log::{Operation, RequestRecord};
pub use settings::{HookOwner, Repository, Settings};
pub use state::{AppTrouble, GroupScope, Resource, RunnerGroup, Scope};

use state::{Shared, World};

/// How often time alone changes something.
const TICK: Duration = Duration::from_millis(50);
/// How long runners are told that they are not registered any more, before it stops.
const PARTING: Duration = Duration::from_millis(100);
/// How long open connections may go on when it stops.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// Something that happened at the simulated GitHub.
#[derive(Debug, Clone)]
pub struct Happening {
    /// When.
    pub at: Instant,
    /// What.
    pub what: What,
}

/// What can happen at the simulated GitHub.
#[derive(Debug, Clone)]
pub enum What {
    /// A job wants a runner.
    JobQueued {
        /// Which.
        job: JobId,
        /// Its name.
        name: String,
        /// `runs-on`.
        labels: Vec<String>,
    },
    /// A runner took a job.
    JobTaken {
        /// Which.
        job: JobId,
        /// Name of the runner.
        runner: String,
        /// Since it was queued.
        waited: Duration,
    },
    /// A job is over.
    JobFinished {
        /// Which.
        job: JobId,
        /// How it ended.
        conclusion: Conclusion,
        /// Name of its runner, if it ever had one.
        runner: Option<String>,
        /// How long it ran, if it ever did.
        ran: Option<Duration>,
    },
    /// A runner was registered.
    RunnerRegistered {
        /// Its name.
        runner: String,
    },
    /// A runner made contact for the first time.
    RunnerStarted {
        /// Its name.
        runner: String,
    },
    /// A runner is not registered any more.
    RunnerRemoved {
        /// Its name.
        runner: String,
    },
    /// A webhook goes out.
    WebhookSent {
        /// About which job.
        job: JobId,
        /// What it says.
        action: Action,
    },
    /// A webhook was answered, or given up.
    WebhookAnswered {
        /// About which job.
        job: JobId,
        /// What it says.
        action: Action,
        /// How it went.
        status: DeliveryStatus,
        /// From sending to the answer.
        took: Duration,
    },
}

/// A registered runner, as it is at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerView {
    /// GitHub's id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where it is registered.
    pub scope: Scope,
    /// Id of its runner group.
    pub group: u64,
    /// Its labels, as given.
    pub labels: Vec<String>,
    /// When it was registered.
    pub registered_at: Instant,
    /// When it made contact for the first time.
    pub first_contact: Option<Instant>,
    /// Whether it is connected.
    pub online: bool,
    /// Whether it runs a job in truth, whatever GitHub has noticed.
    pub busy: bool,
}

/// How many webhooks went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HookCounts {
    /// Attempts that ended, redeliveries included.
    pub sent: u64,
    /// Those among them that were not answered 2xx in time.
    pub failed: u64,
    /// Attempts that have not ended yet.
    pub pending: u64,
}

/// Why the simulated GitHub could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// No port to listen on.
    #[error("the simulated GitHub cannot listen on 127.0.0.1: {0}")]
    Listen(#[from] io::Error),
    /// No client to send webhooks with.
    #[error("the simulated GitHub cannot send webhooks: {0}")]
    Client(#[from] super::client::ClientError),
}

/// A running simulated GitHub. It stops when it is dropped; [`stop`](Self::stop) also waits for it.
pub struct SimulatedGitHub {
    shared: Arc<Shared>,
    url: String,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<io::Result<()>>,
    helpers: [JoinHandle<()>; 2],
}

impl SimulatedGitHub {
    /// Starts it on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// [`StartError`] when it cannot listen.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let client = super::client::loopback(settings.webhook_concurrency)?;
        let lines = socket::Lines::default();
        let (outbox, outgoing) = mpsc::unbounded_channel();
        let shared = Shared::new(World::new(settings, url.clone(), outbox));
        let (stop, stopped) = oneshot::channel::<()>();
        let server =
            Server::new_with_acceptor(socket::Doorman { listener, lines: lines.clone() }).name("simulated GitHub");
        let door = rest::Door { shared: Arc::clone(&shared), lines };
        let until = async move { drop(stopped.await) };
        let server = tokio::spawn(server.run_with_graceful_shutdown(door, until, Some(STOP_GRACE)));
        let sender = tokio::spawn(hooks::send_all(Arc::clone(&shared), outgoing, client));
        let clock = tokio::spawn(keep_time(Arc::clone(&shared)));
        Ok(Self { shared, url, stop: Some(stop), server, helpers: [sender, clock] })
    }

    /// Its address, for `github_base_url`: `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where webhooks go from now on.
    pub fn set_webhook_url(&self, url: &str) {
        self.shared.lock().settings.webhook_url = Some(url.to_owned());
    }

    /// How long `busy` lags from now on.
    pub fn set_busy_lag(&self, lag: Duration) {
        self.shared.lock().settings.busy_lag = lag;
    }

    /// Queues a job (or lets it wait for an approval) and sends its webhook.
    pub fn queue_job(&self, request: JobRequest) -> JobId {
        self.shared.lock().queue_job(request)
    }

    /// Lets a queued job that no runner has wait for an approval; false when it is not queued.
    pub fn hold(&self, job: JobId) -> bool {
        self.shared.lock().hold(job)
    }

    /// Queues a job that waits for an approval; false when it does not.
    pub fn approve(&self, job: JobId) -> bool {
        self.shared.lock().approve(job)
    }

    /// Cancels a job: at once when no runner runs it, else its runner stops it. False when it is over already.
    pub fn cancel(&self, job: JobId) -> bool {
        self.shared.lock().cancel(job)
    }

    /// Makes calls of `operation` (none: of any) go wrong.
    pub fn fail(&self, operation: impl Into<Option<Operation>>, fault: Fault, times: Times) {
        self.shared.lock().faults.add(operation.into(), fault, times);
    }

    /// Makes webhooks of `action` (none: of any) go wrong.
    pub fn fail_webhooks(&self, action: impl Into<Option<Action>>, fault: HookFault, times: Times) {
        self.shared.lock().faults.add_hook(action.into(), fault, times);
    }

    /// Everything goes right again.
    pub fn clear_faults(&self) {
        self.shared.lock().faults = faults::Faults::default();
    }

    /// How many requests may be made in a window from now on; of [`Resource::Registration`], from now on a resource of
    /// its own.
    pub fn set_limit(&self, resource: Resource, limit: u64) {
        let mut world = self.shared.lock();
        match resource {
            Resource::Core => world.settings.rate_limit = limit,
            Resource::Registration => world.settings.registration_limit = Some(limit),
        }
    }

    /// Something is wrong with the App from now on; none: everything is right again.
    pub fn set_app_trouble(&self, trouble: impl Into<Option<AppTrouble>>) {
        self.shared.lock().app_trouble = trouble.into();
    }

    /// The App's installation does not have this permission from now on: GitHub tells so, but refuses nothing.
    pub fn withhold_permission(&self, name: &str) {
        self.shared.lock().withheld.push(name.to_owned());
    }

    /// Ends every token of the App's installation now.
    pub fn revoke_tokens(&self) {
        self.shared.lock().tokens.clear();
    }

    /// Gives a repository another name; calls under the old one are redirected. False when there is none.
    pub fn rename_repository(&self, old: &str, new: &str) -> bool {
        self.shared.lock().rename(old, new)
    }

    /// Delivers the event of that GUID once more; false when it is not remembered.
    pub fn redeliver(&self, guid: &str) -> bool {
        self.shared.lock().redeliver(guid)
    }

    /// Delivers every event once more whose newest attempt failed; returns how many.
    pub fn redeliver_failed(&self) -> usize {
        self.shared.lock().redeliver_failed()
    }

    /// A job, unless it is forgotten.
    #[must_use]
    pub fn job(&self, id: JobId) -> Option<Job> {
        self.shared.lock().jobs.get(&id).cloned()
    }

    /// Every job that is remembered, oldest first.
    #[must_use]
    pub fn jobs(&self) -> Vec<Job> {
        self.shared.lock().jobs.values().cloned().collect()
    }

    /// How many jobs that are remembered have this status.
    #[must_use]
    pub fn count_jobs(&self, status: JobStatus) -> usize {
        self.shared.lock().jobs.values().filter(|job| job.status == status).count()
    }

    /// Jobs that failed because their runner was removed while it worked.
    #[must_use]
    pub fn killed_busy(&self) -> Vec<JobId> {
        self.shared.lock().killed_busy.clone()
    }

    /// Every registered runner, oldest first.
    #[must_use]
    pub fn runners(&self) -> Vec<RunnerView> {
        let world = self.shared.lock();
        let view = |runner: &state::Runner| RunnerView {
            id: runner.id,
            name: runner.name.clone(),
            scope: runner.scope.clone(),
            group: runner.group,
            labels: runner.labels.clone(),
            registered_at: runner.registered_at,
            first_contact: runner.first_contact,
            online: world.is_online(runner),
            busy: runner.job.is_some_and(|(job, _)| world.jobs.get(&job).is_some_and(|job| job.taken_at.is_some())),
        };
        world.runners.values().map(view).collect()
    }

    /// How many runners are registered.
    #[must_use]
    pub fn registered(&self) -> usize {
        self.shared.lock().runners.len()
    }

    /// How many runners were ever registered at once.
    #[must_use]
    pub fn peak_registered(&self) -> usize {
        self.shared.lock().peak_registered
    }

    /// Every runner group.
    #[must_use]
    pub fn groups(&self) -> Vec<RunnerGroup> {
        self.shared.lock().groups.clone()
    }

    /// Lets somebody change the runner groups: rename, delete, add some. Runners stay where they are.
    pub fn edit_groups(&self, edit: impl FnOnce(&mut Vec<RunnerGroup>)) {
        edit(&mut self.shared.lock().groups);
    }

    /// Whether the plan has runner groups beside the default one; it has when it starts. Those that exist stay.
    pub fn set_has_groups(&self, has_groups: bool) {
        self.shared.lock().has_groups = has_groups;
    }

    /// The newest requests, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.shared.lock().log.recent.iter().cloned().collect()
    }

    /// How many requests of this kind ever came.
    #[must_use]
    pub fn count_requests(&self, operation: Operation) -> u64 {
        self.shared.lock().log.counts.get(&operation).copied().unwrap_or_default()
    }

    /// The newest webhook deliveries, oldest first.
    #[must_use]
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.lock().hooks.history.iter().cloned().collect()
    }

    /// How many webhooks went out.
    #[must_use]
    pub fn hook_counts(&self) -> HookCounts {
        self.shared.lock().hooks.counts
    }

    /// What happens from now on. Read it: what is not read is kept.
    #[must_use]
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<Happening> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.shared.lock().listeners.push(sender);
        receiver
    }

    /// Sends every runner away, ends what is under way, and waits until the port is free.
    pub async fn stop(mut self) {
        if self.shared.lock().send_runners_away() {
            // Those between two questions hear of it with the next one.
            tokio::time::sleep(PARTING).await;
        }
        self.wind_up();
        // It ends with an error only when it could not listen, and it did.
        let _ = (&mut self.server).await;
    }

    fn wind_up(&mut self) {
        {
            let mut world = self.shared.lock();
            world.send_runners_away();
            world.listeners.clear();
        }
        self.helpers.iter().for_each(JoinHandle::abort);
        drop(self.stop.take());
    }
}

impl Drop for SimulatedGitHub {
    fn drop(&mut self) {
        self.wind_up();
    }
}

async fn keep_time(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        shared.lock().pass_time(Instant::now());
    }
}
