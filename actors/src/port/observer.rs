//! What the brain tells about itself: the one place that declares what can be measured.

use std::time::Duration;

use crate::id::GroupName;
use crate::model::job::JobStatus;
use crate::model::runner::{DeleteReason, RunnerState};

/// Takes note of what happens. Must not block.
pub trait Observer: Send + Sync + 'static {
    /// Called once for each thing that happens.
    fn observe(&self, observation: &Observation<'_>);
}

/// One thing that happened, or the new value of a gauge. Every field is bounded: no job or runner id.
#[derive(Debug, Clone, PartialEq)]
pub enum Observation<'a> {
    /// A webhook was answered.
    Webhook {
        /// `workflow_job`, `ping` or `other`.
        event: &'static str,
        /// The action for `workflow_job`, else empty.
        action: &'static str,
        /// `accepted`, `duplicate`, `ignored`, `unmatched`, `unauthorized`, `invalid`, `too_large`, `unavailable`, …
        outcome: &'static str,
        /// From the end of the headers to the answer.
        took: Duration,
    },
    /// A group's numbers, whenever they change.
    Group {
        /// Which group.
        group: &'a GroupName,
        /// Its runners by state, in the order of [`RunnerState::ALL`].
        runners: [u32; RunnerState::ALL.len()],
        /// Its jobs that are not final, by status, in the order of [`JobStatus::ALL`].
        jobs: [u32; JobStatus::ALL.len()],
        /// Setting `min`.
        min: u32,
        /// Setting `max`.
        max: u32,
        /// When the oldest job in demand was queued, as seconds since the Unix epoch.
        demand_oldest_since: Option<f64>,
        /// Deliveries read from the inbox and not stepped through yet.
        inbox_depth: u32,
    },
    /// A group is no longer run by this process: its gauges go.
    GroupStopped {
        /// Which group.
        group: &'a GroupName,
    },
    /// A job was taken by a runner.
    JobTaken {
        /// Which group.
        group: &'a GroupName,
        /// From queued to taken.
        waited: Duration,
    },
    /// A job became final.
    JobFinished {
        /// Which group.
        group: &'a GroupName,
        /// GitHub's conclusion; unknown ones are `other`.
        conclusion: &'static str,
        /// From taken to finished, if it was ever taken.
        ran: Option<Duration>,
    },
    /// The backend was asked for an instance on behalf of a delivery.
    ScaleUp {
        /// Which group.
        group: &'a GroupName,
        /// From the delivery's receipt to the call.
        took: Duration,
    },
    /// A runner came online.
    RunnerOnline {
        /// Which group.
        group: &'a GroupName,
        /// Which backend.
        backend: &'a str,
        /// From the create call until it was seen online.
        took: Duration,
    },
    /// A runner is proven gone.
    RunnerDeleted {
        /// Which group.
        group: &'a GroupName,
        /// Why it was removed.
        reason: DeleteReason,
    },
    /// Something of ours without its counterpart is being removed.
    Leak {
        /// Which group.
        group: &'a GroupName,
        /// `instance` or `registration`.
        side: &'static str,
    },
    /// A call to a backend came back.
    BackendCall {
        /// Which backend.
        backend: &'a str,
        /// `create`, `delete`, `get`, `list`, `update_metadata`, `probe`.
        operation: &'static str,
        /// `ok`, or the kind of the error.
        outcome: &'static str,
        /// How long it took.
        took: Duration,
    },
    /// Whether a group leaves a backend alone after failures in a row; told whenever the group changes.
    Breaker {
        /// Which group.
        group: &'a GroupName,
        /// Which backend.
        backend: &'a str,
        /// Whether it does.
        open: bool,
    },
    /// A call to GitHub came back.
    GitHubCall {
        /// The port's method.
        operation: &'static str,
        /// `ok`, or the kind of the error.
        outcome: &'static str,
    },
    /// GitHub told what is left of a limit.
    RateLimit {
        /// `token`, or the name of the credential.
        credential: &'a str,
        /// GitHub's resource: `core`, …
        resource: &'a str,
        /// Requests left.
        remaining: u64,
    },
    /// GitHub was asked, and told what no webhook had told.
    FoundWithoutWebhook {
        /// `history`: a delivery that failed, which is sent again; `listing`: a job among those that are open;
        /// `question`: what became of a job that waited for long.
        by: &'static str,
    },
    /// The store did something.
    StoreOperation {
        /// `record`, `save`, `load`, `inbox`, …
        operation: &'static str,
        /// How long it took.
        took: Duration,
    },
    /// Entries of the store could not be read and were set aside.
    SnapshotsSetAside {
        /// Which group.
        group: &'a GroupName,
        /// How many.
        count: u32,
    },
    /// A supervisor started an actor again.
    ActorRestarted {
        /// `group`, `runner`, `http`, …
        actor: &'static str,
    },
    /// How many groups this process runs.
    GroupsOwned(u32),
}
