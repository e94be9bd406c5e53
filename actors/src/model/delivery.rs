//! A webhook delivery after parsing: what a `workflow_job` event says, in our words.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{DeliveryId, JobId, RepositoryId, RunnerId};

/// A `workflow_job` delivery that is worth keeping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// From `X-GitHub-Delivery`.
    pub id: DeliveryId,
    /// When its last byte was read.
    pub received_at: Timestamp,
    /// What it says.
    pub event: JobEvent,
    /// Why its group was chosen, in a sentence; empty until it was matched.
    #[serde(default)]
    pub matched: String,
}

/// The `action` of a `workflow_job` event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobAction {
    /// The job wants a runner.
    Queued,
    /// The job waits for an approval.
    Waiting,
    /// A runner took the job.
    InProgress,
    /// The job is over, whatever its conclusion.
    Completed,
}

impl JobAction {
    /// As GitHub spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Waiting => "waiting",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
        }
    }
}

/// What one event says about one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobEvent {
    /// What happened.
    pub action: JobAction,
    /// The job it happened to.
    pub job: JobFacts,
    /// The runner that took the job, if the event names one (ids of 0 are left out).
    pub runner: Option<RunnerRef>,
    /// `success`, `failure`, `cancelled`, … as GitHub spells it; only for [`JobAction::Completed`].
    pub conclusion: Option<String>,
}

/// The parts of a job that do not change while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFacts {
    /// GitHub's id of the job.
    pub id: JobId,
    /// GitHub's id of the workflow run.
    pub run_id: u64,
    /// Which run of the workflow run; old payloads leave it out.
    pub run_attempt: Option<u32>,
    /// Name of the job.
    pub name: String,
    /// Name of the workflow; old payloads leave it out.
    pub workflow_name: Option<String>,
    /// Branch; old payloads leave it out.
    pub head_branch: Option<String>,
    /// `runs-on`, as written.
    pub labels: Vec<String>,
    /// Where the workflow lives.
    pub repository: RepositoryRef,
    /// Login of the organization, when the repository belongs to one.
    pub organization: Option<String>,
    /// Slug of the enterprise, when the payload names one.
    pub enterprise: Option<String>,
    /// GitHub App installation the delivery came from.
    pub installation_id: Option<u64>,
    /// GitHub's `created_at`; old payloads leave it out.
    pub created_at: Option<Timestamp>,
    /// GitHub's `started_at`: while queued it equals `created_at`.
    pub started_at: Option<Timestamp>,
    /// GitHub's `completed_at`.
    pub completed_at: Option<Timestamp>,
}

/// A repository, as an event names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryRef {
    /// GitHub's id.
    pub id: RepositoryId,
    /// Login of the owner.
    pub owner: String,
    /// Name without the owner.
    pub name: String,
    /// Whether it is private; public when the payload does not say.
    pub private: bool,
}

/// A runner, as an event names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunnerRef {
    /// GitHub's id, when given and not 0.
    pub id: Option<RunnerId>,
    /// Its name as registered; empty when the event gives only an id.
    pub name: String,
}
