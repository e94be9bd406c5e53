//! What the brain asks of GitHub's REST API.

use crate::id::{DeliveryId, JobId, RunnerGroupId, RunnerId, RunnerName};
use crate::model::delivery::JobEvent;
pub use crate::model::remote::{Deregistered, GitHubError, RemoteRunner};
use crate::model::secret::Secret;
use crate::model::settings::{Arch, GroupSettings, Os, Scope};
use async_trait::async_trait;
use jiff::Timestamp;

/// GitHub's REST API, as far as it is needed. An error never means "gone".
#[async_trait]
pub trait GitHub: Send + Sync + 'static {
    /// Finds the runner group of that name, creates it where there is none, and brings its access rules
    /// (public repositories, selected repositories, workflows) in step with `group`. Idempotent. Where the plan has
    /// no runner groups, and for repositories, it is the default group, 1.
    async fn ensure_runner_group(&self, group: &GroupSettings) -> Result<RunnerGroupId, GitHubError>;

    /// Registers a runner and returns its just-in-time config. Not idempotent: a second call with the same name is a
    /// [`GitHubError::Conflict`].
    async fn generate_jit_config(&self, request: &JitRequest) -> Result<Registration, GitHubError>;

    /// Every runner of the scope, in pages of 100.
    async fn list_runners(&self, scope: &Scope) -> Result<Vec<RemoteRunner>, GitHubError>;

    /// The runner of that name, or none when GitHub says that there is none.
    async fn find_runner(&self, scope: &Scope, name: &RunnerName) -> Result<Option<RemoteRunner>, GitHubError>;

    /// Removes a registration. Idempotent: an absent one is [`Deregistered::Absent`].
    async fn delete_runner(&self, scope: &Scope, id: RunnerId) -> Result<Deregistered, GitHubError>;

    /// Address of the newest runner application for this system, kept for an hour.
    async fn runner_download(&self, scope: &Scope, os: Os, arch: Arch) -> Result<String, GitHubError>;
}

/// What GitHub remembers of jobs and of the deliveries it sent: the way to jobs whose webhooks never came. Reads may be
/// repeated; every call gives way to those of [`GitHub`].
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// One job as it is now, or none when GitHub says that there is none. [`GitHubError::NotFound`] when the repository
    /// is not to be seen.
    async fn job(&self, scope: &Scope, repository: &str, id: JobId) -> Result<Option<JobEvent>, GitHubError>;

    /// The jobs, queued, waiting or running, of the repository's runs that are not completed: of each status the newest
    /// `runs_max` runs are looked at. `repository` is the name without its owner.
    async fn open_jobs(&self, scope: &Scope, repository: &str, runs_max: usize) -> Result<Vec<JobEvent>, GitHubError>;

    /// The hook that brings the webhooks of a scope here: the App's, else the organization's or repository's whose
    /// address ends with `path`. None when there is none or it cannot be seen.
    async fn hook(&self, scope: &Scope, path: &str) -> Result<Option<Hook>, GitHubError>;

    /// What a hook sent since a time, newest first, redeliveries included.
    async fn deliveries(&self, hook: &Hook, since: Timestamp) -> Result<Vec<SentDelivery>, GitHubError>;

    /// Asks for a delivery to be sent again, under the same GUID.
    async fn redeliver(&self, hook: &Hook, delivery: u64) -> Result<(), GitHubError>;
}

/// A webhook's configuration at GitHub.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// The App's own.
    App,
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
