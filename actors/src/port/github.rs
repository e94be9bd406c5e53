//! What the brain asks of GitHub's REST API.

use crate::id::{DeliveryId, JobId, RunnerGroupId, RunnerId, RunnerName};
use crate::model::delivery::JobEvent;
pub use crate::model::remote::{
    Access, Deregistered, Download, GitHubError, Reach, RemoteRunner, RunnerGroup, RunnerGroupRemoval,
};
use crate::model::secret::Secret;
pub use crate::model::settings::Asker;
use crate::model::settings::{Arch, GroupSettings, Os, Scope};
use async_trait::async_trait;
use jiff::Timestamp;

/// GitHub's REST API, as far as it is needed. An error never means "gone".
#[async_trait]
pub trait GitHub: Send + Sync + 'static {
    /// Finds the runner group of that name, creates it where there is none, and brings its access rules
    /// (public repositories, selected repositories, workflows) in step with `group`. `last` is the one that it was
    /// before: with another name now, it is given back its own. Idempotent. Where the plan has no runner groups, and for
    /// repositories, it is the default group, 1; one that the enterprise shares is left as it is.
    ///
    /// One listing of a scope's runner groups, at most a minute old, serves all groups of the scope.
    async fn ensure_runner_group(
        &self,
        group: &GroupSettings,
        last: Option<RunnerGroupId>,
    ) -> Result<RunnerGroup, GitHubError>;

    /// Deletes the runner group of that name, or `last`, which it was before. Never the default one, one that the
    /// enterprise shares, or one with runners in it. Idempotent.
    async fn delete_runner_group(
        &self,
        group: &GroupSettings,
        last: Option<RunnerGroupId>,
    ) -> Result<RunnerGroupRemoval, GitHubError>;

    /// Registers a runner and returns its just-in-time config. Not idempotent: a second call with the same name is a
    /// [`GitHubError::Conflict`].
    async fn generate_jit_config(&self, request: &JitRequest) -> Result<Registration, GitHubError>;

    /// Every runner of the scope, in pages of 100.
    async fn list_runners(&self, scope: &Scope) -> Result<Vec<RemoteRunner>, GitHubError>;

    /// The runner of that name, or none when GitHub says that there is none.
    async fn find_runner(&self, scope: &Scope, name: &RunnerName) -> Result<Option<RemoteRunner>, GitHubError>;

    /// Removes a registration. Idempotent: an absent one is [`Deregistered::Absent`].
    async fn delete_runner(&self, scope: &Scope, id: RunnerId) -> Result<Deregistered, GitHubError>;

    /// The newest runner application for this system, kept for an hour.
    async fn runner_download(&self, scope: &Scope, os: Os, arch: Arch) -> Result<Download, GitHubError>;
}

/// What GitHub remembers of jobs and of the deliveries it sent: the way to jobs whose webhooks never came. Every call
/// gives way to those of [`GitHub`], and is refused with [`GitHubError::RateLimited`] while less than a fifth of a limit
/// is left.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// One job as it is now, or none when GitHub says that there is none. [`GitHubError::NotFound`] when the repository
    /// is not to be seen.
    async fn job(&self, asker: &Asker, repository: &RepositoryName, id: JobId)
    -> Result<Option<JobEvent>, GitHubError>;

    /// The jobs, queued, waiting or running, of the repository's runs that are not completed: of each status of a run
    /// the newest `runs_max` runs are looked at, at most 1,000.
    async fn open_jobs(
        &self,
        asker: &Asker,
        repository: &RepositoryName,
        runs_max: usize,
    ) -> Result<Vec<JobEvent>, GitHubError>;

    /// The hook that brings the webhooks of a scope here: the asking App's, else the repository's, else the organization's
    /// whose address ends with `address` (a whole address or a path). None when there is none or it cannot be seen;
    /// [`GitHubError::Invalid`] when several hooks of one owner fit.
    async fn hook(&self, asker: &Asker, address: &str) -> Result<Option<Hook>, GitHubError>;

    /// One page of what a hook sent, newest first, at most 100 attempts, redeliveries included and none older than
    /// `since`. `page` is none for the newest, then [`Sent::next`].
    async fn deliveries(
        &self,
        asker: &Asker,
        hook: &Hook,
        since: Timestamp,
        page: Option<&str>,
    ) -> Result<Sent, GitHubError>;

    /// Asks for a delivery to be sent again, under the same GUID.
    async fn redeliver(&self, asker: &Asker, hook: &Hook, delivery: u64) -> Result<(), GitHubError>;
}

/// A repository, by its names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName {
    /// Login of the owner.
    pub owner: String,
    /// Name without the owner.
    pub name: String,
}

/// A page of a hook's history.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// The attempts, newest first.
    pub deliveries: Vec<SentDelivery>,
    /// Where older ones are; none when there are no more since the time that was asked for.
    pub next: Option<String>,
}

/// What one credential may ask of GitHub, at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    /// Name of the credential.
    pub credential: String,
    /// Calls that may run at once; grows while GitHub answers, halves when it refuses.
    pub allowed: usize,
    /// Calls that run.
    pub running: usize,
    /// Calls that wait for a place.
    pub waiting: usize,
    /// GitHub's limits, as far as its answers told.
    pub limits: Vec<LimitState>,
}

/// One of GitHub's limits.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitState {
    /// Whose: an App's account (`(app)` for the App itself), empty for a token or an App with one installation.
    pub account: String,
    /// GitHub's resource: `core`, `actions_runner_registration`, …
    pub resource: &'static str,
    /// Calls within a window; none when GitHub has not told.
    pub limit: Option<u64>,
    /// Those that are left.
    pub remaining: Option<u64>,
    /// When the window that was told ends, by GitHub's clock.
    pub resets_at: Option<Timestamp>,
    /// Whether nothing is asked now because GitHub refused.
    pub paused: Option<Paused>,
}

/// Why nothing is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// Until when, by our clock.
    pub until: Timestamp,
    /// What was asked and what GitHub said.
    pub why: String,
}

/// A webhook's configuration at GitHub.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// An App's own.
    App {
        /// Name of the App's credential.
        credential: String,
    },
    /// One of an organization or of a repository.
    Of {
        /// Whose.
        scope: Scope,
        /// GitHub's id of the hook.
        id: u64,
    },
}

/// One attempt of GitHub's to deliver a webhook.
#[derive(Debug, Clone, PartialEq)]
pub struct SentDelivery {
    /// GitHub's id of the attempt.
    pub id: u64,
    /// The delivery; attempts of one delivery share it.
    pub guid: DeliveryId,
    /// When it was sent.
    pub at: Timestamp,
    /// Whether it was answered with 2xx.
    pub delivered: bool,
    /// The event, such as `workflow_job`.
    pub event: String,
    /// The event's action, if it has one.
    pub action: Option<String>,
}

/// A runner to register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JitRequest {
    /// Where.
    pub scope: Scope,
    /// Under which name.
    pub name: RunnerName,
    /// In which runner group.
    pub runner_group: RunnerGroupId,
    /// With which labels (1 to 100), `self-hosted`, system and architecture included.
    pub labels: Vec<String>,
}

/// A registered runner.
#[derive(Debug)]
pub struct Registration {
    /// GitHub's id.
    pub id: RunnerId,
    /// `encoded_jit_config`, base64.
    pub jit_config: Secret,
}
