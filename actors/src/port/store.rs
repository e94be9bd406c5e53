//! What must survive: the inbox of deliveries, and snapshots of groups, runners and jobs.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use thiserror::Error;

use crate::id::{Cursor, FencingToken, GroupName, JobId, ReplicaId, RunnerName};
use crate::model::delivery::Delivery;
use crate::model::group::GroupSnapshot;
pub use crate::model::inbox::{InboxEntry, Loaded};
use crate::model::job::{Job, JobStatus};
use crate::model::runner::{Runner, RunnerState};

/// The durable store. What it has acknowledged survives `kill -9` and a loss of power.
///
/// Every read reflects every write that was acknowledged before it began.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Records a delivery, in one atomic and durable step: unless its id is known, it is appended to the inbox of
    /// the group that serves its job and, when that is another one, of the group whose runner took it.
    ///
    /// The group is the one that the job's first recorded delivery went to (a job never changes groups); only for a job
    /// not seen before it is `route.group`. A job that no group serves is kept as `route.unmatched`, replacing
    /// what was kept of it; once a group is routed to, that is forgotten.
    async fn record(&self, delivery: Arc<Delivery>, route: Route) -> Result<Recorded, StoreError>;

    /// The deliveries of a group's inbox behind `after`, oldest first, at most `limit` (at least 1). Gaps between
    /// cursors are allowed.
    async fn inbox(&self, group: &GroupName, after: Cursor, limit: usize) -> Result<Vec<InboxEntry>, StoreError>;

    /// Takes ownership of a group: returns a token that is greater than every earlier one, and fences those off.
    ///
    /// # Errors
    /// [`StoreError::NotOwner`] when another live replica owns the group by [`Replicas`](crate::port::Replicas).
    async fn acquire(&self, group: &GroupName) -> Result<FencingToken, StoreError>;

    /// Everything a new owner needs to go on: the group's snapshot, its runners that are not final, its jobs that are not final.
    /// An entry that cannot be read is set aside, counted in [`Loaded::set_aside`], and not returned again.
    async fn load(&self, group: &GroupName) -> Result<Loaded, StoreError>;

    /// Saves what changed, all or nothing, durably. Calls for one group take effect in the order they were made.
    /// Deliveries up to the saved snapshot's cursor leave the inbox.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when `token` is not the newest: nothing was written. [`StoreError::Forgotten`] when the
    /// store has lost something that it acknowledged before, this token included: nothing was written.
    async fn save(&self, group: &GroupName, token: FencingToken, changes: Changes) -> Result<(), StoreError>;

    /// The snapshot of one group; none when nothing was saved yet.
    async fn group(&self, group: &GroupName) -> Result<Option<GroupSnapshot>, StoreError>;

    /// One job, final or not.
    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError>;

    /// Jobs, newest first by `received_at`.
    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>, StoreError>;

    /// One runner, final or not.
    async fn runner(&self, name: &RunnerName) -> Result<Option<Runner>, StoreError>;

    /// Runners, by name.
    async fn runners(&self, filter: &RunnerFilter) -> Result<Vec<Runner>, StoreError>;

    /// Keeps something sealed until its time is over, durably; an entry of the same key is replaced.
    async fn keep_sealed(&self, sealed: Sealed) -> Result<(), StoreError>;

    /// What is kept sealed under a key; it may still be there some minutes after its time.
    async fn sealed(&self, key: &str) -> Result<Option<Sealed>, StoreError>;

    /// Forgets all that is kept sealed for a runner.
    async fn forget_sealed(&self, runner: &RunnerName) -> Result<(), StoreError>;

    /// Forgets what is past its time: what is sealed until now, deliveries received before `deliveries`, jobs that are final or unmatched since
    /// before `jobs`, runners that are final since before `runners`. Returns how many entries went,
    /// those that were sealed not counted.
    async fn prune(&self, before: Horizon) -> Result<u64, StoreError>;

    /// Whether a write would work now.
    async fn probe(&self) -> Result<(), StoreError>;

    /// Finishes what was accepted and lets go of the files. Later calls fail with [`StoreError::Unavailable`].
    async fn close(&self);
}

/// Where a delivery goes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Route {
    /// The group that matching chose, for a job that is not assigned yet.
    pub group: Option<GroupName>,
    /// The group whose runner the event names, if one of ours does.
    pub runner_group: Option<GroupName>,
    /// The job as it is kept while no group serves it.
    pub unmatched: Option<Box<Job>>,
}

/// Something that the store keeps and cannot read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// What it is found by: at most 128 visible ASCII characters.
    pub key: String,
    /// The runner that it belongs to.
    pub runner: RunnerName,
    /// The runner's group.
    pub group: GroupName,
    /// The sealed bytes, at most 256 kB.
    pub body: Vec<u8>,
    /// When it is to be forgotten; kept to the millisecond.
    pub until: Timestamp,
}

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// Its id was known: nothing was written.
    Duplicate,
    /// It is in the inboxes of these groups (none: unmatched).
    New(Vec<GroupName>),
}

/// What is saved in one step. Runners and jobs replace what was saved under their name or id.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// The group itself.
    pub snapshot: Option<GroupSnapshot>,
    /// Runners that changed. Final ones are kept until pruned, and not loaded again.
    pub runners: Vec<Arc<Runner>>,
    /// Jobs that changed. Final ones are kept until pruned, and not loaded again.
    pub jobs: Vec<Arc<Job>>,
}

/// Which jobs to return.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobFilter {
    /// Only of this group.
    pub group: Option<GroupName>,
    /// Only with this status.
    pub status: Option<JobStatus>,
    /// At most so many; 0: none.
    pub limit: usize,
}

/// Which runners to return.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunnerFilter {
    /// Only of this group.
    pub group: Option<GroupName>,
    /// Only in this state; without it, final ones are left out.
    pub state: Option<RunnerState>,
    /// At most so many; 0: none.
    pub limit: usize,
}

/// Times before which entries are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// For delivery ids.
    pub deliveries: Timestamp,
    /// For final and unmatched jobs.
    pub jobs: Timestamp,
    /// For final runners.
    pub runners: Timestamp,
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Somebody else owns the group now: stop acting for it.
    #[error("group {group} has a newer owner: token {token} is stale")]
    Fenced {
        /// Which group.
        group: GroupName,
        /// The token that was refused.
        token: FencingToken,
    },
    /// Another live replica owns the group.
    #[error("group {group} is owned by replica {owner}")]
    NotOwner {
        /// Which group.
        group: GroupName,
        /// Its owner.
        owner: ReplicaId,
    },
    /// The store came back without writes that it had acknowledged (it was emptied, or a replica that lagged behind took
    /// over): acquire the group again and save all that is known of it.
    #[error("the store has lost what was saved of group {group}")]
    Forgotten {
        /// Which group.
        group: GroupName,
    },
    /// It cannot be read or written now (disk full, no answer); nothing was acknowledged.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// More is waiting to be written than may wait; nothing was written.
    #[error("the store is overloaded: {0} writes are waiting")]
    Overloaded(usize),
}
