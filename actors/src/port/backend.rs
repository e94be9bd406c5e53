//! A backend makes and removes the instances that runners live in.

use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;

use crate::id::{GroupName, InstanceId, JobId, ManagerName, RunnerName};
use crate::model::secret::Secret;

/// Makes, finds and removes instances. Every method may be called again with the same arguments.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Its kind, for people and metrics: `process`, `docker`, …
    fn name(&self) -> &'static str;

    /// Makes the instance of `spec.runner`. Idempotent: when one of that name exists already, it is returned.
    /// The instance survives the end of this process.
    async fn create(&self, spec: InstanceSpec) -> Result<Instance, BackendError>;

    /// Removes the instance of `runner` and waits until nothing of it is left. Success when there is none.
    async fn delete(&self, runner: &RunnerName) -> Result<(), BackendError>;

    /// The instance of `runner`, or none when the backend is sure that there is none.
    async fn get(&self, runner: &RunnerName) -> Result<Option<Instance>, BackendError>;

    /// Every instance that carries this owner's marks, whatever its status.
    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError>;

    /// Shows at the instance, where the backend has a place for it, what the runner is doing. Absent instance: success.
    async fn update_metadata(&self, runner: &RunnerName, metadata: &Metadata) -> Result<(), BackendError>;

    /// Whether a create could work now, without making anything.
    async fn probe(&self) -> Result<(), BackendError>;
}

/// Whose instances are meant. Instances of other owners are never touched.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The deployment.
    pub manager: ManagerName,
    /// The group within it.
    pub group: GroupName,
}

/// What to make.
#[derive(Debug)]
pub struct InstanceSpec {
    /// Whose it will be.
    pub owner: Owner,
    /// Its name.
    pub runner: RunnerName,
    /// Environment of the runner, in the names of the specification (`RUNNER_NAME`, …), without secrets.
    pub env: Vec<(&'static str, String)>,
    /// The just-in-time config, base64 as GitHub gave it. Never an argument, never in a log, never stored.
    /// Instances find it as `RUNNER_JIT_CONFIG` and `ACTIONS_RUNNER_INPUT_JITCONFIG`.
    pub jit_config: Secret,
}

/// What a backend knows of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// What the backend calls it.
    pub id: InstanceId,
    /// The runner it was made for.
    pub runner: RunnerName,
    /// Whether it still runs; an ended one is still there to be deleted.
    pub status: InstanceStatus,
}

/// Whether an instance runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceStatus {
    /// It runs, or is about to.
    Running,
    /// It has ended and will not run again.
    Stopped,
    /// The backend cannot tell.
    Unknown,
}

/// What a runner is doing, for labels or tags at its instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Its state, as the interfaces spell it.
    pub state: &'static str,
    /// The job it runs.
    pub job: Option<JobId>,
}

/// Why a backend did not do what it was asked. The variant decides what happens next.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BackendError {
    /// No machine is to be had now; nothing was made.
    #[error("no capacity: {0}")]
    NoCapacity(String),
    /// A quota is used up; nothing was made.
    #[error("quota exceeded: {0}")]
    Quota(String),
    /// The request can never work as configured (unknown image, missing command); nothing was made.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The credentials are refused; nothing was made.
    #[error("unauthorized: {0}")]
    Unauthorized(String),
    /// Too many requests; nothing was made.
    #[error("throttled: {text}")]
    Throttled {
        /// What the backend said.
        text: String,
        /// How long to wait, if it said so.
        retry_after: Option<Duration>,
    },
    /// No answer in time: the outcome is unknown.
    #[error("timed out: {0}")]
    Timeout(String),
    /// The backend failed or cannot be reached: the outcome is unknown.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl BackendError {
    /// Whether something may have been made all the same.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::Timeout(_) | Self::Unavailable(_))
    }

    /// A bounded word for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoCapacity(_) => "no_capacity",
            Self::Quota(_) => "quota",
            Self::Invalid(_) => "invalid",
            Self::Unauthorized(_) => "unauthorized",
            Self::Throttled { .. } => "throttled",
            Self::Timeout(_) => "timeout",
            Self::Unavailable(_) => "unavailable",
        }
    }
}
