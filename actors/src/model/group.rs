//! What a group remembers beside its jobs and runners.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{Cursor, JobId, RunnerName};

/// A group's own snapshot. Jobs and runners are saved one by one beside it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupSnapshot {
    /// The last delivery of the inbox whose effect is in the saved jobs.
    pub cursor: Cursor,
    /// Whether it creates no runners until it is resumed.
    pub drained: bool,
    /// Whether it creates no runners before a health check has shown what exists already.
    #[serde(default)]
    pub looking: bool,
    /// Failed attempts to start a runner in a row.
    pub failures: u32,
    /// Runners in a row, since one came online last, that were created and never did.
    #[serde(default)]
    pub never_online: u32,
    /// No runner is created before this time.
    pub not_before: Option<Timestamp>,
    /// The last error, in words, and when it came.
    pub last_error: Option<LastError>,
    /// The last health check that was carried through.
    pub last_healthcheck: Option<Healthcheck>,
    /// What runners were told of jobs and is not in their saved state yet; told again after a restart.
    #[serde(default)]
    pub unsettled: BTreeMap<RunnerName, JobNews>,
    /// Backends whose last create failed, by name.
    #[serde(default)]
    pub breakers: BTreeMap<String, Breaker>,
    /// What is there and nobody tracks, by the name of its runner. It holds a place: it may live, or come to life.
    #[serde(default)]
    pub suspects: BTreeMap<RunnerName, Suspect>,
}

/// Something of a group's that nobody tracks, as long as it is only looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// When it was first seen.
    pub since: Timestamp,
    /// Listings that showed it without its counterpart.
    pub times: u32,
    /// Whether the last complete listing did not show it: that may be wrong once.
    pub missed: bool,
}

/// What a group makes of a backend's failed creates. None: all is well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Breaker {
    /// Creates that failed in a row.
    pub failures: u32,
    /// Times in a row that it opened.
    pub opened: u32,
    /// Whether the backend is asked.
    pub state: BreakerState,
    /// The last error.
    pub error: LastError,
}

/// Whether a backend is asked for instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// It is.
    Closed,
    /// It is not, before this time and a successful probe.
    Open {
        /// When it is probed.
        until: Timestamp,
    },
    /// The probe went well: one create at a time tries it.
    HalfOpen,
}

/// What a runner was told of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobNews {
    /// The job.
    pub job: JobId,
    /// Whether it is completed; otherwise the runner took it.
    pub completed: bool,
}

/// An error and its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastError {
    /// When it came.
    pub at: Timestamp,
    /// What failed, on what, why.
    pub text: String,
}

/// What a health check found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// When its listings were complete.
    pub at: Timestamp,
    /// Runners of this group that GitHub lists; none when GitHub did not answer.
    pub registered: Option<u32>,
    /// Instances of this group that the backend lists; none when it did not answer.
    pub instances: Option<u32>,
    /// Differences that were found and are being repaired.
    pub repairs: u32,
}
