//! What the brain asks of GitHub's REST API.

use crate::id::{RunnerGroupId, RunnerId, RunnerName};
pub use crate::model::remote::{Deregistered, GitHubError, RemoteRunner};
use crate::model::secret::Secret;
use crate::model::settings::{Arch, GroupSettings, Os, Scope};
use async_trait::async_trait;

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
