//! Who runs which group: how everybody outside the supervision tree finds an actor, also after it was restarted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use ractor::ActorRef;
use ractor::rpc::CallResult;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::actor::group::GroupMsg;
use crate::actor::lease::Lease;
use crate::actor::messenger::Messenger;
use crate::actor::supervisor::SupervisorMsg;
use crate::id::{GroupName, ReplicaId, RunnerName};
use crate::model::remote::Reach;
use crate::model::report::InstanceReport;
use crate::model::roster::Roster;
use crate::model::settings::GroupSettings;

/// Longest time an actor may take to answer.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// What an operator can ask of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// Delete the runner group at GitHub, of a group that is drained and has no runners.
    DeleteRunnerGroup,
    /// Remove one runner.
    DeleteRunner {
        /// Which.
        runner: RunnerName,
        /// Also when it is busy.
        force: bool,
    },
    /// Take note of what a runner's instance says of itself while it boots.
    InstanceReport {
        /// Which runner.
        runner: RunnerName,
        /// What it says.
        report: InstanceReport,
    },
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// In a sentence: what was done or was begun.
    pub message: String,
    /// The runner it concerns, if one.
    pub runner: Option<RunnerName>,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// It contradicts what the group is doing (a busy runner, no place left, drained), or GitHub does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// Nobody can carry it out now: the sentence says who should have.
    #[error("{0}")]
    Unavailable(String),
}

impl Refused {
    /// The group's actor does not answer.
    pub(crate) fn no_answer(group: &GroupName) -> Self {
        Self::Unavailable(format!("group {group} does not answer at the moment: try again"))
    }
}

/// Which process runs a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// This one.
    Me,
    /// Another replica.
    Other(ReplicaId),
    /// None, as far as this process knows.
    Nobody,
}

/// How a group's actor fares, wherever it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Health {
    /// It runs.
    Running,
    /// It is being started, for the first time or again, or no replica has taken it yet.
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
    /// Who runs it.
    pub owner: Owner,
    /// How its actor fares.
    pub health: Health,
    /// Whether it could request one more runner; the last word it gave.
    pub has_capacity: bool,
    /// Whom its runners serve according to GitHub, as of its last health check.
    pub reach: Reach,
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
    /// With other replicas: how to reach them, and until when what they told last counts.
    others: OnceLock<(Arc<Messenger>, Lease)>,
    /// With other replicas: whether this one's id sorts first among those that live.
    first: AtomicBool,
}

impl Directory {
    /// A directory of groups whose actors are not started (yet): everything is known of them, and no command is taken.
    #[must_use]
    pub fn new(settings: impl IntoIterator<Item = Arc<GroupSettings>>) -> Self {
        let directory = Self::default();
        let entries = settings
            .into_iter()
            .map(|settings| Entry {
                settings,
                owner: Owner::Me,
                health: Health::Starting,
                has_capacity: true,
                reach: Reach::default(),
                actor: None,
            })
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

    /// Whether this process hears of the other replicas, if there can be any: when it does not, what it knows of their
    /// groups is old, and its own groups wait.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0.others.get().is_none_or(|(_, beats)| beats.is_valid())
    }

    /// Whether this process does what one among the replicas does: its id sorts first, or there are no others. Two may
    /// believe it for some seconds when replicas come or go, and none.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.0.others.get().is_none() || self.is_connected() && self.0.first.load(Ordering::Relaxed)
    }

    /// Sends a command to whoever runs the group and waits for the answer, at most [`ANSWER_DEADLINE`] there.
    ///
    /// # Errors
    /// [`Refused`], with the reason.
    pub async fn command(&self, group: &str, command: Command) -> Result<Outcome, Refused> {
        let entry = self.entry(group).ok_or_else(|| Refused::NoGroup(group.to_owned()))?;
        match (&entry.owner, self.0.others.get()) {
            (Owner::Other(owner), Some((messenger, _))) => messenger.ask(owner, &entry.settings.name, command).await,
            _ => self.command_here(group, command).await,
        }
    }

    /// As [`Self::command`], but never passed on.
    pub(crate) async fn command_here(&self, group: &str, command: Command) -> Result<Outcome, Refused> {
        let entry = self.entry(group).ok_or_else(|| Refused::NoGroup(group.to_owned()))?;
        let name = entry.settings.name.clone();
        match entry.owner {
            Owner::Me => {}
            Owner::Other(owner) => {
                return Err(Refused::Unavailable(format!("group {name} has moved to replica {owner}: try again")));
            }
            Owner::Nobody => {
                return Err(Refused::Unavailable(format!("no replica runs group {name} at the moment: try again")));
            }
        }
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
            Some(CallResult::Timeout | CallResult::SenderError) | None => Err(Refused::no_answer(&name)),
        }
    }

    /// Tells that the groups are shared with other replicas; nobody is known to run them yet.
    pub(crate) fn shared_with(&self, messenger: Arc<Messenger>, beats: Lease) {
        let _ = self.0.others.set((messenger, beats));
        let mut entries = self.0.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.iter_mut().for_each(|entry| entry.owner = Owner::Nobody);
    }

    /// What the roster tells of the groups that are not `mine`.
    pub(crate) fn seen(&self, roster: &Roster, me: &ReplicaId, mine: impl Fn(&GroupName) -> bool) {
        self.0.first.store(roster.replicas.keys().next() == Some(me), Ordering::Relaxed);
        let mut entries = self.0.entries.write().unwrap_or_else(PoisonError::into_inner);
        for entry in entries.iter_mut().filter(|entry| !mine(&entry.settings.name)) {
            let group = &entry.settings.name;
            let owner = roster.owners.get(group).filter(|owner| *owner != me);
            let Some((owner, report)) = owner.and_then(|owner| Some((owner, roster.replicas.get(owner)?))) else {
                entry.owner = Owner::Nobody;
                entry.health = Health::Starting;
                continue;
            };
            entry.owner = Owner::Other(owner.clone());
            entry.has_capacity = !report.full.contains(group);
            entry.reach = report.reach.get(group).cloned().unwrap_or_default();
            entry.health = match report.stopped.get(group) {
                Some(error) => Health::Parked { error: error.clone() },
                None => Health::Running,
            };
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
