//! What GitHub knows of runners and runner groups, and why it does not do what it is asked.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::{RepositoryId, RunnerGroupId, RunnerId};
use crate::model::delivery::RepositoryRef;

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

/// A runner application that GitHub offers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Download {
    /// Where it is.
    pub url: String,
    /// What the archive is called.
    pub filename: String,
    /// The archive's SHA-256 in hexadecimal; none when GitHub did not tell.
    pub sha256: Option<String>,
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

/// The runner group that a group's runners join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerGroup {
    /// GitHub's id.
    pub id: RunnerGroupId,
    /// What was not as configured and is by now, in words; none when nothing was.
    pub repaired: Option<String>,
    /// Why it is not as configured. Nobody is to join it before it is.
    pub trouble: Option<GitHubError>,
    /// Whom its runners serve.
    pub reach: Reach,
}

impl RunnerGroup {
    /// One that is as configured.
    #[must_use]
    pub fn in_step(id: RunnerGroupId) -> Self {
        Self { id, repaired: None, trouble: None, reach: Reach::default() }
    }
}

/// What GitHub says of the repositories that a group's runners serve, beyond what is configured. Nothing: it says no
/// more than that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// GitHub's id of the only repository, of a group for one repository; it stays when the repository is renamed.
    #[serde(default)]
    pub repository: Option<RepositoryId>,
    /// Who may use the runner group, where that is not as configured.
    #[serde(default)]
    pub access: Option<Access>,
}

/// The repositories that may use a runner group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Name of the runner group.
    pub runner_group: String,
    /// Whether public ones may.
    pub public: bool,
    /// Those that alone may; none: all, or it is not known.
    pub selected: Option<BTreeSet<RepositoryId>>,
}

impl Access {
    /// Whether this repository may use it.
    #[must_use]
    pub fn admits(&self, repository: &RepositoryRef) -> bool {
        (self.public || repository.private)
            && self.selected.as_ref().is_none_or(|selected| selected.contains(&repository.id))
    }
}

/// What became of the request to delete a runner group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunnerGroupRemoval {
    /// It is deleted.
    Removed,
    /// There was none.
    Absent,
    /// It stays: why, in words.
    Kept(String),
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
