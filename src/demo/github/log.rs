//! What was asked of the simulated GitHub, for assertions.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// A call of GitHub's REST API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// `GET …/actions/runner-groups`
    ListGroups,
    /// `POST …/actions/runner-groups`
    CreateGroup,
    /// `GET …/actions/runner-groups/{id}`
    GetGroup,
    /// `PATCH …/actions/runner-groups/{id}`
    UpdateGroup,
    /// `DELETE …/actions/runner-groups/{id}`
    DeleteGroup,
    /// `GET …/actions/runner-groups/{id}/runners`
    ListGroupRunners,
    /// `GET …/actions/runner-groups/{id}/repositories`
    ListGroupRepositories,
    /// `PUT …/actions/runner-groups/{id}/repositories`
    SetGroupRepositories,
    /// `POST …/actions/runners/generate-jitconfig`
    GenerateJitConfig,
    /// `GET …/actions/runners`
    ListRunners,
    /// `GET …/actions/runners/{id}`
    GetRunner,
    /// `DELETE …/actions/runners/{id}`
    DeleteRunner,
    /// `GET …/actions/runners/downloads`
    ListDownloads,
    /// `GET /repos/{owner}/{repo}`
    GetRepository,
    /// `GET …/actions/runs`
    ListRuns,
    /// `GET …/actions/runs/{id}`
    GetRun,
    /// `GET …/actions/runs/{id}/jobs`
    ListRunJobs,
    /// `GET …/actions/jobs/{id}`
    GetJob,
    /// `GET /rate_limit`
    RateLimit,
    /// `GET …/installation`
    FindInstallation,
    /// `POST /app/installations/{id}/access_tokens`
    CreateToken,
    /// `GET …/hooks` and `GET /app/hook/config`
    ListHooks,
    /// `GET …/hooks/{id}/deliveries` and `GET /app/hook/deliveries`
    ListDeliveries,
    /// `POST …/deliveries/{id}/attempts`
    Redeliver,
    /// Anything else: answered 404.
    Unknown,
}

/// One request that was received.
#[derive(Debug, Clone)]
pub struct RequestRecord {
    /// When its body was read.
    pub at: Instant,
    /// What it asked for.
    pub operation: Operation,
    /// `GET`, `POST`, …
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Status of the answer, also of one that was lost on purpose; none when the connection was dropped.
    pub status: Option<u16>,
    /// From its receipt to its answer.
    pub took: Duration,
}

/// The newest requests, and how many there were of each kind.
#[derive(Debug, Default)]
pub(super) struct RequestLog {
    pub(super) recent: VecDeque<RequestRecord>,
    pub(super) counts: BTreeMap<Operation, u64>,
}

impl RequestLog {
    pub(super) fn push(&mut self, record: RequestRecord, limit: usize) {
        *self.counts.entry(record.operation).or_default() += 1;
        if self.recent.len() >= limit {
            self.recent.pop_front();
        }
        self.recent.push_back(record);
    }
}
