//! A backend makes and removes the instances that runners live in.

use std::time::Duration;

use crate::id::{GroupName, JobId, ManagerName, RunnerName};
pub use crate::model::instance::{BackendError, Instance, InstanceStatus};
pub use crate::model::remote::Download;
use crate::model::secret::Secret;
use crate::model::settings::{Arch, Os};
use async_trait::async_trait;

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
    /// What whoever makes a whole machine needs to know besides.
    pub machine: Machine,
}

/// What a runner's machine is to be, and how long it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its operating system. Default Linux.
    pub os: Os,
    /// Its processor. Default x64.
    pub arch: Arch,
    /// The runner application for it; none when GitHub did not tell.
    pub download: Option<Download>,
    /// Where the runner is registered, as a path at GitHub: `octo-org`, `octo-org/app` or `enterprises/octo`.
    pub scope_path: String,
    /// How long from now the runner may take to come online, the creation of its instance included. Default 15 min.
    pub online_within: Duration,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            os: Os::Linux,
            arch: Arch::X64,
            download: None,
            scope_path: String::new(),
            online_within: Duration::from_secs(15 * 60),
        }
    }
}

/// What a runner is doing, for labels or tags at its instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Its state, as the interfaces spell it.
    pub state: &'static str,
    /// The job it runs.
    pub job: Option<JobId>,
}
