//! Everything the simulated GitHub knows, behind one lock that is never held across a wait.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{Notify, mpsc};

use super::Happening;
use super::What;
use super::faults::Faults;
use super::hooks::{Hooks, Outgoing};
use super::jobs::{Job, JobId};
use super::log::RequestLog;
use super::settings::{Repository, Settings, random_hex};

/// Where a runner is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The enterprise.
    Enterprise,
    /// The organization.
    Organization,
    /// The repository of that name.
    Repository(String),
}

/// What a runner group belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupScope {
    /// The enterprise.
    Enterprise,
    /// The organization.
    Organization,
}

/// A runner group. Number 1 of each scope is the default one.
#[derive(Debug, Clone)]
pub struct RunnerGroup {
    /// GitHub's id, unique within the scope.
    pub id: u64,
    /// What it belongs to.
    pub scope: GroupScope,
    /// Its name, unique within the scope.
    pub name: String,
    /// Whether the enterprise shares it with the organization, which cannot change it then.
    pub inherited: bool,
    /// `all`, `private` or `selected`.
    pub visibility: String,
    /// Ids of the repositories (organizations, for the enterprise) that may use it when it is `selected`.
    pub selected: Vec<u64>,
    /// Whether jobs of public repositories may use it.
    pub allows_public_repositories: bool,
    /// Whether only `selected_workflows` may use it; remembered, not enforced.
    pub restricted_to_workflows: bool,
    /// Workflows that may use it.
    pub selected_workflows: Vec<String>,
}

impl RunnerGroup {
    fn default_of(scope: GroupScope) -> Self {
        Self {
            id: 1,
            scope,
            name: "Default".to_owned(),
            inherited: false,
            visibility: "all".to_owned(),
            selected: Vec::new(),
            allows_public_repositories: true,
            restricted_to_workflows: false,
            selected_workflows: Vec::new(),
        }
    }

    fn admits(&self, repository: &Repository) -> bool {
        if !repository.private && !self.allows_public_repositories {
            return false;
        }
        match self.scope {
            GroupScope::Organization if self.visibility == "selected" => self.selected.contains(&repository.id),
            GroupScope::Organization => self.visibility != "private" || repository.private,
            GroupScope::Enterprise => true,
        }
    }
}

/// A registered runner. It ends with its first job.
pub(super) struct Runner {
    pub(super) id: u64,
    pub(super) scope: Scope,
    pub(super) group: u64,
    pub(super) name: String,
    pub(super) labels: Vec<String>,
    /// `labels` in lower case.
    pub(super) can: BTreeSet<String>,
    pub(super) secret: String,
    pub(super) registered_at: Instant,
    pub(super) first_contact: Option<Instant>,
    pub(super) in_session: bool,
    /// Connections it holds open.
    pub(super) polls: u32,
    pub(super) last_contact: Instant,
    /// The job it was given, and when.
    pub(super) job: Option<(JobId, Instant)>,
    /// Tells its open connection that there is news.
    pub(super) wake: Arc<Notify>,
}

/// What requests are counted against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// `core`: most of them.
    Core,
    /// `actions_runner_registration`: just-in-time configs.
    Registration,
}

impl Resource {
    /// As GitHub spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Registration => "actions_runner_registration",
        }
    }
}

/// What can be wrong with the GitHub App.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppTrouble {
    /// Its key is not the one that calls are signed with.
    WrongKey,
    /// Its installation is suspended; tokens that were made before are refused too.
    Suspended,
}

/// The whole simulated GitHub.
pub(super) struct World {
    pub(super) settings: Settings,
    pub(super) base_url: String,
    pub(super) started: (Instant, Timestamp),
    pub(super) runners: BTreeMap<u64, Runner>,
    pub(super) groups: Vec<RunnerGroup>,
    /// Whether the plan has runner groups beside the default one.
    pub(super) has_groups: bool,
    pub(super) jobs: BTreeMap<JobId, Job>,
    /// Jobs that no runner was given, by age.
    pub(super) queue: BTreeSet<JobId>,
    pub(super) finished: VecDeque<JobId>,
    pub(super) hooks: Hooks,
    pub(super) log: RequestLog,
    pub(super) faults: Faults,
    /// Tokens of installations, and when they were made.
    pub(super) tokens: HashMap<String, Instant>,
    /// Requests counted against each limit, and since when.
    pub(super) spent: BTreeMap<Resource, (u64, Instant)>,
    /// What is wrong with the App.
    pub(super) app_trouble: Option<AppTrouble>,
    /// Permissions that the App's installation does not have; told, not enforced.
    pub(super) withheld: Vec<String>,
    /// Former names of repositories, and their ids.
    pub(super) renamed: HashMap<String, u64>,
    pub(super) next_runner: u64,
    pub(super) next_group: u64,
    pub(super) next_job: u64,
    pub(super) peak_registered: usize,
    pub(super) killed_busy: Vec<JobId>,
    pub(super) listeners: Vec<mpsc::UnboundedSender<Happening>>,
}

/// Why a runner could not be registered or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Absent,
    Exists,
    Busy,
}

impl World {
    pub(super) fn new(settings: Settings, base_url: String, outbox: mpsc::UnboundedSender<Outgoing>) -> Self {
        let now = Instant::now();
        Self {
            base_url,
            started: (now, Timestamp::now() + jiff::SignedDuration::from_secs(settings.clock_ahead)),
            runners: BTreeMap::new(),
            groups: [GroupScope::Organization, GroupScope::Enterprise].map(RunnerGroup::default_of).into(),
            has_groups: true,
            jobs: BTreeMap::new(),
            queue: BTreeSet::new(),
            finished: VecDeque::new(),
            hooks: Hooks::new(outbox),
            log: RequestLog::default(),
            faults: Faults::default(),
            tokens: HashMap::new(),
            spent: BTreeMap::new(),
            app_trouble: None,
            withheld: Vec::new(),
            renamed: HashMap::new(),
            next_runner: 1,
            next_group: 2,
            next_job: 1_000_001,
            peak_registered: 0,
            killed_busy: Vec::new(),
            listeners: Vec::new(),
            settings,
        }
    }

    /// The wall clock's reading at `at`, in whole seconds as GitHub writes it.
    pub(super) fn stamp(&self, at: Instant) -> Timestamp {
        let (instant, timestamp) = self.started;
        let since = at.saturating_duration_since(instant);
        let exact = timestamp + since;
        Timestamp::from_second(exact.as_second()).unwrap_or(exact)
    }

    pub(super) fn tell(&mut self, what: What) {
        if self.listeners.is_empty() {
            return;
        }
        let happening = Happening { at: Instant::now(), what };
        self.listeners.retain(|listener| listener.send(happening.clone()).is_ok());
    }

    pub(super) fn is_online(&self, runner: &Runner) -> bool {
        runner.in_session && (runner.polls > 0 || runner.last_contact.elapsed() < self.settings.offline_after)
    }

    /// Whether GitHub has noticed by now that the runner runs a job.
    pub(super) fn is_seen_busy(&self, runner: &Runner) -> bool {
        runner.job.is_some_and(|(job, _)| {
            let taken = self.jobs.get(&job).and_then(|job| job.taken_at);
            taken.is_some_and(|at| at.elapsed() >= self.settings.busy_lag)
        })
    }

    pub(super) fn group_of(&self, scope: GroupScope, id: u64) -> Option<&RunnerGroup> {
        self.groups.iter().find(|g| g.scope == scope && g.id == id)
    }

    pub(super) fn group_name(&self, runner: &Runner) -> String {
        let scope = if runner.scope == Scope::Enterprise { GroupScope::Enterprise } else { GroupScope::Organization };
        self.group_of(scope, runner.group).map_or_else(|| "Default".to_owned(), |g| g.name.clone())
    }

    /// Its clock, in whole seconds.
    pub(super) fn now(&self) -> Timestamp {
        self.stamp(Instant::now())
    }

    /// Gives a repository another name; false when there is none of the old one.
    pub(super) fn rename(&mut self, old: &str, new: &str) -> bool {
        let repositories = &mut self.settings.repositories;
        let Some(found) = repositories.iter_mut().find(|r| r.name.eq_ignore_ascii_case(old)) else { return false };
        new.clone_into(&mut found.name);
        let renamed = found.clone();
        self.renamed.insert(old.to_lowercase(), renamed.id);
        self.jobs.values_mut().filter(|job| job.repository.id == renamed.id).for_each(|job| {
            job.repository = renamed.clone();
        });
        let of_it = |r: &&mut Runner| matches!(&r.scope, Scope::Repository(name) if name.eq_ignore_ascii_case(old));
        self.runners.values_mut().filter(of_it).for_each(|r| r.scope = Scope::Repository(new.to_owned()));
        true
    }

    pub(super) fn find_repository(&self, name: &str) -> Option<&Repository> {
        self.settings.repositories.iter().find(|r| r.name.eq_ignore_ascii_case(name))
    }

    /// Whether the runner may and can run the job.
    pub(super) fn suits(&self, runner: &Runner, job: &Job) -> bool {
        let admitted = match &runner.scope {
            Scope::Repository(name) => job.repository.name.eq_ignore_ascii_case(name),
            Scope::Organization => {
                self.group_of(GroupScope::Organization, runner.group).is_some_and(|g| g.admits(&job.repository))
            }
            Scope::Enterprise => {
                self.group_of(GroupScope::Enterprise, runner.group).is_some_and(|g| g.admits(&job.repository))
            }
        };
        admitted && job.needs.is_subset(&runner.can)
    }

    pub(super) fn register(
        &mut self,
        scope: Scope,
        group: u64,
        name: &str,
        labels: Vec<String>,
    ) -> Result<u64, Refusal> {
        match &scope {
            Scope::Organization if self.group_of(GroupScope::Organization, group).is_none() => {
                return Err(Refusal::Absent);
            }
            Scope::Enterprise if self.group_of(GroupScope::Enterprise, group).is_none() => return Err(Refusal::Absent),
            Scope::Repository(_) if group != 1 => return Err(Refusal::Absent),
            _ => {}
        }
        if self.runners.values().any(|r| r.scope == scope && r.name.eq_ignore_ascii_case(name)) {
            return Err(Refusal::Exists);
        }
        let (id, now) = (self.next_runner, Instant::now());
        self.next_runner += 1;
        let runner = Runner {
            id,
            scope,
            group,
            name: name.to_owned(),
            can: labels.iter().map(|l| l.to_lowercase()).collect(),
            labels,
            secret: random_hex(128),
            registered_at: now,
            first_contact: None,
            in_session: false,
            polls: 0,
            last_contact: now,
            job: None,
            wake: Arc::new(Notify::new()),
        };
        self.runners.insert(id, runner);
        self.peak_registered = self.peak_registered.max(self.runners.len());
        self.tell(What::RunnerRegistered { runner: name.to_owned() });
        Ok(id)
    }

    /// Removes a registration, as `DELETE …/runners/{id}` does. While `busy` lags, a working runner loses its job.
    pub(super) fn remove(&mut self, scope: &Scope, id: u64) -> Result<(), Refusal> {
        let runner = self.runners.get(&id).filter(|r| r.scope == *scope).ok_or(Refusal::Absent)?;
        if self.is_seen_busy(runner) {
            return Err(Refusal::Busy);
        }
        let job = runner.job;
        self.forget(id);
        match job {
            Some((job, _)) if self.jobs.get(&job).is_some_and(|job| job.taken_at.is_some()) => {
                self.killed_busy.push(job);
                self.complete(job, super::Conclusion::Failure);
            }
            Some((job, _)) => self.requeue(job),
            None => {}
        }
        Ok(())
    }

    /// Takes a runner off the list and tells its connections.
    pub(super) fn forget(&mut self, id: u64) {
        if let Some(runner) = self.runners.remove(&id) {
            runner.wake.notify_one();
            self.tell(What::RunnerRemoved { runner: runner.name });
        }
    }

    /// Takes every runner off the list; whether there was one.
    pub(super) fn send_runners_away(&mut self) -> bool {
        let runners: Vec<u64> = self.runners.keys().copied().collect();
        runners.iter().for_each(|id| self.forget(*id));
        !runners.is_empty()
    }

    /// What time alone brings about: unconfirmed jobs go back to the queue, lost runners fail their job.
    pub(super) fn pass_time(&mut self, now: Instant) {
        let (requeue_after, lost_after) = (self.settings.requeue_after, self.settings.lost_after);
        let since = |at: Instant| now.saturating_duration_since(at);
        let mut unconfirmed = Vec::new();
        let mut lost = Vec::new();
        for runner in self.runners.values() {
            let Some((job, given_at)) = runner.job else { continue };
            if self.jobs.get(&job).is_some_and(|job| job.taken_at.is_some()) {
                if runner.polls == 0 && since(runner.last_contact) >= lost_after {
                    lost.push((runner.id, job));
                }
            } else if since(given_at) >= requeue_after {
                unconfirmed.push((runner.id, job));
            }
        }
        for (runner, job) in unconfirmed {
            if let Some(runner) = self.runners.get_mut(&runner) {
                runner.job = None;
            }
            self.requeue(job);
        }
        for (runner, job) in lost {
            self.forget(runner);
            self.complete(job, super::Conclusion::Failure);
        }
        self.tokens.retain(|_, made| since(*made) < Duration::from_secs(3600));
    }
}

/// The one lock.
pub(super) struct Shared(Mutex<World>);

impl Shared {
    pub(super) fn new(world: World) -> Arc<Self> {
        Arc::new(Self(Mutex::new(world)))
    }

    /// Never hold it across an `await`.
    pub(super) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
