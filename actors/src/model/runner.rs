//! One runner: its state, how it came there, and what it is called elsewhere.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{Attempt, GroupName, InstanceId, JobId, RunnerId, RunnerName};
use crate::model::settings::GroupSettings;

/// Most transitions one history keeps; the oldest after the first are dropped beyond it.
pub const HISTORY_MAX: usize = 32;

/// The states of a runner's life, in their usual order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunnerState {
    /// Intended: nothing outside knows of it yet.
    Requested,
    /// GitHub was asked for a just-in-time config.
    Registering,
    /// The backend was asked for an instance.
    Provisioning,
    /// The instance exists, the runner is not online yet.
    Starting,
    /// Online, without a job.
    Idle,
    /// Runs a job.
    Busy,
    /// Being removed at the backend and at GitHub; holds its place until both say it is gone.
    Deleting,
    /// Proven gone.
    Gone,
    /// Its creation gave up; nothing of it is left outside.
    Failed,
}

impl RunnerState {
    /// Every state, in the order of the enum.
    pub const ALL: [Self; 9] = [
        Self::Requested,
        Self::Registering,
        Self::Provisioning,
        Self::Starting,
        Self::Idle,
        Self::Busy,
        Self::Deleting,
        Self::Gone,
        Self::Failed,
    ];

    /// As the interfaces spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Registering => "registering",
            Self::Provisioning => "provisioning",
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Deleting => "deleting",
            Self::Gone => "gone",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing of it is left outside, so that it holds no place.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Gone | Self::Failed)
    }

    /// Whether it will serve, or can serve, a job of the demand.
    #[must_use]
    pub fn is_available(self) -> bool {
        matches!(self, Self::Requested | Self::Registering | Self::Provisioning | Self::Starting | Self::Idle)
    }
}

/// Why a runner is removed. Spelt the same in metrics and histories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeleteReason {
    /// Its job is completed.
    Completed,
    /// Idle for longer than `idle_timeout` and not needed.
    ScaledDown,
    /// Not online within `time_to_start`.
    StartTimeout,
    /// Online for longer than `time_to_live`.
    TimeToLive,
    /// Its creation failed, or its outcome stayed unknown.
    CreateFailed,
    /// Its instance is gone.
    InstanceGone,
    /// Somebody asked for it, with or without force.
    Requested,
    /// An instance of ours without a registered runner.
    LeakedInstance,
    /// A registration of ours without an instance.
    LeakedRegistration,
    /// Its group is no longer configured, or was reset.
    GroupRemoved,
    /// The manager stopped while it was being created; its just-in-time config is lost.
    Interrupted,
}

impl DeleteReason {
    /// As metrics and histories spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ScaledDown => "scaled_down",
            Self::StartTimeout => "start_timeout",
            Self::TimeToLive => "time_to_live",
            Self::CreateFailed => "create_failed",
            Self::InstanceGone => "instance_gone",
            Self::Requested => "requested",
            Self::LeakedInstance => "leaked_instance",
            Self::LeakedRegistration => "leaked_registration",
            Self::GroupRemoved => "group_removed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// One runner and its history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Runner {
    /// Its name, at GitHub and at the backend alike.
    pub name: RunnerName,
    /// The group it belongs to.
    pub group: GroupName,
    /// How many runners were tried in a row before this one, without success.
    pub attempt: Attempt,
    /// Name of the backend that is asked for its instance, or holds it.
    pub backend: String,
    /// Backends that are asked next, in this order, should that one make nothing.
    #[serde(default)]
    pub fallbacks: Vec<String>,
    /// Creates that failed, the last one at `backend`, all others at backends that made nothing.
    #[serde(default)]
    pub tried: Vec<Tried>,
    /// Where it stands.
    pub state: RunnerState,
    /// When it entered that state.
    pub since: Timestamp,
    /// When it was intended.
    pub created_at: Timestamp,
    /// When it was first known to be online.
    pub online_at: Option<Timestamp>,
    /// The job it was requested for; any job may take it.
    pub for_job: Option<JobId>,
    /// When the delivery of that job was received.
    pub for_delivery_at: Option<Timestamp>,
    /// The job it runs or ran.
    pub job: Option<JobId>,
    /// Its id at GitHub, once registered.
    pub github_id: Option<RunnerId>,
    /// What the backend calls its instance, once created.
    pub instance: Option<InstanceId>,
    /// How long it may take to come online, counted from entering `provisioning`.
    pub time_to_start: Duration,
    /// How long it may be online.
    pub time_to_live: Duration,
    /// While deleting: what is known of either side.
    pub removal: Option<Removal>,
    /// When a check or another try is due in this state.
    pub retry_at: Option<Timestamp>,
    /// Tries in a row that failed in this state.
    pub retries: u32,
    /// Whether a call of its creation is out; nothing is removed before that came back.
    #[serde(default)]
    pub call_pending: bool,
    /// Listings in a row that contradicted its state.
    #[serde(default)]
    pub missed: u32,
    /// The last error, in words.
    pub error: Option<String>,
    /// How it came here, oldest first.
    pub history: Vec<Transition>,
}

impl Runner {
    /// A runner of a group that is intended and nothing more, without a history.
    #[must_use]
    pub fn requested(name: RunnerName, group: &GroupSettings, attempt: Attempt, now: Timestamp) -> Self {
        Self {
            name,
            group: group.name.clone(),
            attempt,
            backend: group.backend().to_owned(),
            fallbacks: vec![],
            tried: vec![],
            state: RunnerState::Requested,
            since: now,
            created_at: now,
            online_at: None,
            for_job: None,
            for_delivery_at: None,
            job: None,
            github_id: None,
            instance: None,
            time_to_start: group.time_to_start,
            time_to_live: group.time_to_live,
            removal: None,
            retry_at: None,
            retries: 0,
            call_pending: false,
            missed: 0,
            error: None,
            history: vec![],
        }
    }

    /// Whether it was online or had a job, at any time.
    #[must_use]
    pub fn has_served(&self) -> bool {
        self.online_at.is_some() || self.job.is_some()
    }
}

/// A create that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Name of the backend.
    pub backend: String,
    /// Why, in words.
    pub error: String,
    /// When it may be asked again, if it said so.
    #[serde(default)]
    pub retry_at: Option<Timestamp>,
}

/// The two halves of a removal; the runner is gone when both are done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// Why it is removed.
    pub reason: DeleteReason,
    /// Whether GitHub said that it is not registered any more.
    pub deregistered: bool,
    /// Whether the backend said that no instance is left.
    pub instance_deleted: bool,
    /// Whether the instance may only be deleted after GitHub let the runner go (never kill a busy one).
    pub deregister_first: bool,
}

impl Removal {
    /// Whether nothing is removed yet, and work may still keep the runner.
    #[must_use]
    pub fn may_be_called_off(&self) -> bool {
        self.deregister_first && !self.deregistered
    }
}

/// One step of a runner's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// The state that was entered.
    pub state: RunnerState,
    /// When.
    pub at: Timestamp,
    /// Why, in words.
    pub reason: String,
}
