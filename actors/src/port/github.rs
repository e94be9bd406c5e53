//! What the brain asks of GitHub's REST API.

use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;

use crate::id::{RunnerGroupId, RunnerId, RunnerName};
use crate::model::secret::Secret;
use crate::model::settings::{Arch, GroupSettings, Os, Scope};

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

/// A runner, as GitHub lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteRunner {
    /// GitHub's id.
    pub id: RunnerId,
    /// Its name; foreign runners may have any.
    pub name: String,
    /// Whether it is connected.
    pub online: bool,
    /// Whether GitHub thinks that it runs a job; lags by up to a minute.
    pub busy: bool,
    /// Its labels.
    pub labels: Vec<String>,
}

/// How a removal went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deregistered {
    /// 204: it was registered and is no more.
    Removed,
    /// 404: it was not registered.
    Absent,
    /// 422: it runs a job; leave it.
    Busy,
}

/// Why GitHub did not do what it was asked. The variant decides what happens next.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GitHubError {
    /// No answer, a 5xx, or one that makes no sense: the outcome is unknown.
    #[error("GitHub's answer is unknown: {0}")]
    Unknown(String),
    /// 403 or 429 with a limit: nothing was done.
    #[error("GitHub's rate limit is reached: {text}")]
    RateLimited {
        /// What GitHub said.
        text: String,
        /// How long to wait; at least a minute when GitHub did not say.
        retry_after: Duration,
    },
    /// 401: the credential is refused.
    #[error("GitHub refuses the credential: {0}")]
    Unauthorized(String),
    /// 403 without a limit: a permission is missing.
    #[error("a permission at GitHub is missing: {0}")]
    Forbidden(String),
    /// 404: the organization, repository or enterprise does not exist, or is hidden from the credential.
    #[error("not found at GitHub: {0}")]
    NotFound(String),
    /// 409: a runner of that name is registered already, perhaps by a call whose answer was lost.
    #[error("conflict at GitHub: {0}")]
    Conflict(String),
    /// 400 or 422: the request can never work as it is.
    #[error("GitHub refuses the request: {0}")]
    Invalid(String),
}

impl GitHubError {
    /// Whether something may have been done all the same.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Conflict(_))
    }

    /// A bounded word for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown",
            Self::RateLimited { .. } => "rate_limited",
            Self::Unauthorized(_) => "unauthorized",
            Self::Forbidden(_) => "forbidden",
            Self::NotFound(_) => "not_found",
            Self::Conflict(_) => "conflict",
            Self::Invalid(_) => "invalid",
        }
    }
}
