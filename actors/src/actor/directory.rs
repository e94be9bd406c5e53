//! Who runs which group: how everybody outside the supervision tree finds an actor, also after it was restarted.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ractor::{ActorRef, RpcReplyPort};
use serde::Serialize;
use thiserror::Error;

use crate::id::{GroupName, RunnerName};
use crate::model::settings::GroupSettings;

/// Longest time an actor may take to answer.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// A message to a group, answered when the actor has taken it.
#[derive(Debug)]
pub enum GroupMsg {
    /// There is something in the inbox. May be sent for nothing, and may be lost.
    Poke,
    /// An operator asks for something.
    Command(Command, RpcReplyPort<Result<Outcome, Refused>>),
}

/// What an operator can ask of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Check health now.
    Healthcheck,
    /// Request one more runner now, whatever the demand.
    CreateRunner,
    /// Forget back-off and last error, start a parked group again, check health now.
    Reset,
    /// Create no runners until resumed; idle ones are removed, busy ones finish.
    Drain,
    /// Undo `Drain`.
    Resume,
    /// Remove one runner.
    DeleteRunner {
        /// Which.
        runner: RunnerName,
        /// Also when it is busy.
        force: bool,
    },
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// In a sentence: what was done or was begun.
    pub message: String,
    /// The runner it concerns, if one.
    pub runner: Option<RunnerName>,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    /// No such group is configured.
    #[error("no group is named {0:?}")]
    NoGroup(String),
    /// The group has no such runner.
    #[error("group {group} has no runner {runner}")]
    NoRunner {
        /// The group.
        group: GroupName,
        /// The runner.
        runner: RunnerName,
    },
    /// It contradicts what the group is doing: a busy runner, no place left, drained.
    #[error("{0}")]
    Conflict(String),
    /// The actor does not answer now.
    #[error("group {0} does not answer at the moment: try again")]
    Unavailable(GroupName),
}

/// How a group's actor fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Health {
    /// It runs.
    Running,
    /// It is being started, for the first time or again.
    Starting,
    /// It failed too often and stays stopped until it is reset.
    Parked {
        /// What it failed with last.
        error: String,
    },
}

/// One group, as the directory knows it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its settings.
    pub settings: Arc<GroupSettings>,
    /// How its actor fares.
    pub health: Health,
    /// Whether it could request one more runner; the last word it gave.
    pub has_capacity: bool,
    /// Its actor, while it runs.
    pub(crate) actor: Option<ActorRef<GroupMsg>>,
}

/// The groups of this process, in the order of the configuration. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Directory(Arc<RwLock<Vec<Entry>>>);

impl Directory {
    /// All groups, in the order of the configuration.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One group by its exact name.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<Entry> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().find(|e| e.settings.name.as_str() == name).cloned()
    }

    /// The group to which a runner of this name would belong.
    #[must_use]
    pub fn owner_of(&self, runner: &str) -> Option<GroupName> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .find(|e| e.settings.name.owns_name(runner))
            .map(|e| e.settings.name.clone())
    }

    /// Tells a group that its inbox has something.
    pub fn poke(&self, group: &GroupName) {
        if let Some(actor) = self.entry(group.as_str()).and_then(|e| e.actor) {
            // A stopped actor reads its inbox when it starts again.
            let _ = actor.cast(GroupMsg::Poke);
        }
    }

    /// Sends a command and waits for the actor's answer, at most [`ANSWER_DEADLINE`].
    ///
    /// # Errors
    /// [`Refused`], with the reason.
    pub async fn command(&self, group: &str, command: Command) -> Result<Outcome, Refused> {
        let entry = self.entry(group).ok_or_else(|| Refused::NoGroup(group.to_owned()))?;
        let name = entry.settings.name.clone();
        let actor = entry.actor.ok_or_else(|| Refused::Unavailable(name.clone()))?;
        match actor.call(|reply| GroupMsg::Command(command, reply), Some(ANSWER_DEADLINE)).await {
            Ok(ractor::rpc::CallResult::Success(answer)) => answer,
            _ => Err(Refused::Unavailable(name)),
        }
    }

    /// Replaces the list of groups; for the supervisor alone.
    pub(crate) fn set(&self, entries: Vec<Entry>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = entries;
    }

    /// Changes one group's entry; for the supervisor and the group itself.
    pub(crate) fn update(&self, group: &GroupName, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) =
            self.0.write().unwrap_or_else(PoisonError::into_inner).iter_mut().find(|e| e.settings.name == *group)
        {
            change(entry);
        }
    }
}
