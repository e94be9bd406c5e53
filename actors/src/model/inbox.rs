//! What comes out of the store: deliveries one by one, and everything that a new owner goes on from.

use crate::id::Cursor;
use crate::model::delivery::Delivery;
use crate::model::group::GroupSnapshot;
use crate::model::job::Job;
use crate::model::runner::Runner;

/// One delivery in a group's inbox.
#[derive(Debug, Clone, PartialEq)]
pub struct InboxEntry {
    /// Its place.
    pub cursor: Cursor,
    /// What came.
    pub delivery: Delivery,
    /// Whether this group serves the job; otherwise only one of its runners took it.
    pub assigned: bool,
    /// The job as saved, when it is known already; lets a final job be recognised long after it left memory.
    pub known: Option<Job>,
}

/// What a new owner goes on from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loaded {
    /// The group itself; none when nothing was saved or it could not be read.
    pub snapshot: Option<GroupSnapshot>,
    /// Runners that are not final.
    pub runners: Vec<Runner>,
    /// Jobs that are not final.
    pub jobs: Vec<Job>,
    /// Entries that could not be read and were set aside.
    pub set_aside: u32,
}
