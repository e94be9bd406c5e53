//! A job as we know it: its status, and the timeline that answers "why is it still queued?".

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{DeliveryId, GroupName, JobId, RunnerName};
use crate::model::delivery::{JobFacts, RunnerRef};

/// Most entries one timeline keeps; the oldest after the first are dropped beyond it.
pub const TIMELINE_MAX: usize = 64;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// In demand: it wants a runner.
    Queued,
    /// Waits for an approval: known, but no demand.
    Waiting,
    /// A runner took it.
    InProgress,
    /// Final: nothing revives it.
    Completed,
    /// No group serves it.
    Unmatched,
}

impl JobStatus {
    /// Every status, in the order of the enum.
    pub const ALL: [Self; 5] = [Self::Queued, Self::Waiting, Self::InProgress, Self::Completed, Self::Unmatched];

    /// As the interfaces spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Waiting => "waiting",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Unmatched => "unmatched",
        }
    }
}

/// One job and its history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// What GitHub said of it.
    pub facts: JobFacts,
    /// The group that serves it; none when unmatched.
    pub group: Option<GroupName>,
    /// Where it stands.
    pub status: JobStatus,
    /// When its first event was received.
    pub received_at: Timestamp,
    /// Since when it has been in demand; the oldest is served first.
    pub queued_at: Option<Timestamp>,
    /// When it was taken by a runner.
    pub taken_at: Option<Timestamp>,
    /// When it became final.
    pub finished_at: Option<Timestamp>,
    /// GitHub's conclusion, once final.
    pub conclusion: Option<String>,
    /// The runner that took it.
    pub runner: Option<RunnerRef>,
    /// Deliveries that said `queued`; with `waiting` they tell, in any order, whether it is in demand.
    pub queued_by: BTreeSet<DeliveryId>,
    /// Deliveries that said `waiting`.
    pub waiting_by: BTreeSet<DeliveryId>,
    /// How often GitHub was asked about it, and answered, since it waits as it does.
    #[serde(default)]
    pub verified: u32,
    /// When GitHub is asked about it next; none before the first time.
    #[serde(default)]
    pub verify_at: Option<Timestamp>,
    /// What happened, oldest first.
    pub timeline: Vec<TimelineEntry>,
}

impl Job {
    /// GitHub's id of the job.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.facts.id
    }

    /// Whether it wants a runner.
    #[must_use]
    pub fn in_demand(&self) -> bool {
        self.status == JobStatus::Queued
    }

    /// Appends to the timeline, within [`TIMELINE_MAX`]. An entry that repeats the last one is left out.
    pub fn note(&mut self, at: Timestamp, what: Milestone) {
        if self.timeline.last().is_some_and(|last| last.what == what) {
            return;
        }
        if self.timeline.len() >= TIMELINE_MAX {
            self.timeline.remove(1);
        }
        self.timeline.push(TimelineEntry { at, what });
    }
}

impl Job {
    /// As [`Self::note`], unless the timeline says the same anywhere.
    pub fn note_once(&mut self, at: Timestamp, what: Milestone) {
        if !self.timeline.iter().any(|entry| entry.what == what) {
            self.note(at, what);
        }
    }
}

/// One line of a job's timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub what: Milestone,
}

/// What can happen to a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Milestone {
    /// An event came.
    Received {
        /// Its action.
        action: String,
        /// Its delivery.
        delivery: DeliveryId,
    },
    /// A group serves it.
    Matched {
        /// Which.
        group: GroupName,
        /// Why that one, in a sentence.
        reason: String,
    },
    /// No group serves it.
    Unmatched {
        /// Why none does, in a sentence.
        reason: String,
    },
    /// It waits for a place in its group.
    WaitingForCapacity {
        /// Jobs before it.
        ahead: usize,
        /// Runners that exist.
        runners: u32,
        /// Runners that may exist.
        max: u32,
    },
    /// Its group does not create runners at the moment.
    Held {
        /// Why, in a sentence.
        reason: String,
        /// When it is tried again, if that is known.
        until: Option<Timestamp>,
    },
    /// It waits for an approval at GitHub.
    WaitingForApproval,
    /// A runner was asked for on its behalf.
    RunnerRequested {
        /// Which.
        runner: RunnerName,
    },
    /// That runner is registered at GitHub.
    RunnerRegistered {
        /// Which.
        runner: RunnerName,
    },
    /// The backend made its instance.
    InstanceCreated {
        /// Which.
        runner: RunnerName,
        /// What the backend calls it.
        instance: String,
    },
    /// That runner is online.
    RunnerOnline {
        /// Which.
        runner: RunnerName,
    },
    /// That runner could not be started.
    RunnerFailed {
        /// Which.
        runner: RunnerName,
        /// Why, with the text of the error.
        error: String,
    },
    /// A backend made no instance for that runner, and another one is asked.
    FellBack {
        /// Which runner.
        runner: RunnerName,
        /// Name of the backend that made none.
        backend: String,
        /// Why, with the text of the error.
        error: String,
        /// Name of the backend that is asked now.
        next: String,
    },
    /// GitHub was asked about it, because nothing was heard of it for long.
    Verified {
        /// What came of it, in a sentence.
        answer: String,
    },
    /// A runner took it.
    Taken {
        /// Name of the runner, empty when GitHub named none.
        runner: String,
        /// Whether the runner is one of ours.
        ours: bool,
    },
    /// It is over.
    Finished {
        /// GitHub's conclusion.
        conclusion: String,
    },
}
