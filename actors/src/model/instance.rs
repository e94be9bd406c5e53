//! What a backend knows of an instance, and why it does not do what it is asked.

use std::time::Duration;

use thiserror::Error;

use crate::id::{InstanceId, RunnerName};

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
    /// The backend could not be reached; nothing was made.
    #[error("unreachable: {0}")]
    Unreachable(String),
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
            Self::Unreachable(_) | Self::Unavailable(_) => "unavailable",
        }
    }
}
