//! Who runs which group: how everybody outside the supervision tree finds an actor, also after it was restarted.

use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use ractor::ActorRef;
use ractor::rpc::CallResult;
use serde::Serialize;
use thiserror::Error;

use crate::actor::group::GroupMsg;
use crate::actor::supervisor::SupervisorMsg;
use crate::id::{GroupName, RunnerName};
use crate::model::settings::GroupSettings;

/// Longest time an actor may take to answer.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

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
    /// It failed too often and stays stopped until it is reset, or tried again after some minutes.
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
pub struct Directory(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    entries: RwLock<Vec<Entry>>,
    supervisor: OnceLock<ActorRef<SupervisorMsg>>,
}

impl Directory {
    /// A directory of groups whose actors are not started (yet): everything is known of them, and no command is taken.
    #[must_use]
    pub fn new(settings: impl IntoIterator<Item = Arc<GroupSettings>>) -> Self {
        let directory = Self::default();
        let entries = settings
            .into_iter()
            .map(|settings| Entry { settings, health: Health::Starting, has_capacity: true, actor: None })
            .collect();
        *directory.0.entries.write().unwrap_or_else(PoisonError::into_inner) = entries;
        directory
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Entry>> {
        self.0.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// All groups, in the order of the configuration.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.read().clone()
    }

    /// One group by its exact name.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<Entry> {
        self.read().iter().find(|e| e.settings.name.as_str() == name).cloned()
    }

    /// The group to which a runner of this name would belong.
    #[must_use]
    pub fn owner_of(&self, runner: &str) -> Option<GroupName> {
        self.read().iter().find(|e| e.settings.name.owns_name(runner)).map(|e| e.settings.name.clone())
    }

    /// Tells a group that its inbox has something. May be told for nothing, and may get lost: a group also looks by itself.
    pub fn poke(&self, group: &GroupName) {
        if let Some(actor) = self.read().iter().find(|e| e.settings.name == *group).and_then(|e| e.actor.as_ref()) {
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
        let answer = match (entry.actor, &command, self.0.supervisor.get()) {
            (Some(actor), ..) => {
                actor.call(|reply| GroupMsg::Command(command, reply), Some(ANSWER_DEADLINE)).await.ok()
            }
            // A parked group has no actor: the supervisor starts it again.
            (None, Command::Reset, Some(supervisor)) => {
                supervisor.call(|reply| SupervisorMsg::Reset(name.clone(), reply), Some(ANSWER_DEADLINE)).await.ok()
            }
            (None, ..) => None,
        };
        match answer {
            Some(CallResult::Success(answer)) => answer,
            Some(CallResult::Timeout | CallResult::SenderError) | None => Err(Refused::Unavailable(name)),
        }
    }

    /// Tells where the supervisor is; the first word counts.
    pub(crate) fn supervised_by(&self, supervisor: ActorRef<SupervisorMsg>) {
        let _ = self.0.supervisor.set(supervisor);
    }

    /// Changes one group's entry; for the supervisor and the group itself.
    pub(crate) fn update(&self, group: &GroupName, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.0.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.iter_mut().find(|e| e.settings.name == *group) {
            change(entry);
        }
    }
}
