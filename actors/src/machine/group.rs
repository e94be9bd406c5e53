//! One group: its jobs, its demand, its fleet, and what follows when any of them changes.

mod backends;
mod command;
mod jobs;
mod recovery;
mod verified;

pub use command::Refusal;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::id::{Attempt, JobId, ManagerName, RunnerName};
use crate::machine::backoff::{self, mix};
use crate::machine::demand::Demand;
use crate::machine::fleet::Fleet;
use crate::machine::health::{self, Listing, Verdict};
use crate::machine::plan::{Hold, Plan, Situation, plan};
use crate::machine::runner as runner_machine;
use crate::machine::verify::{Checks, Known};
use crate::model::delivery::RepositoryRef;
use crate::model::group::{GroupSnapshot, Healthcheck, LastError, Suspect};
use crate::model::inbox::Loaded;
use crate::model::job::{Job, JobStatus, Milestone};
use crate::model::remote::GitHubError;
use crate::model::runner::{DeleteReason, Removal, Runner, RunnerState, Transition};
use crate::model::settings::GroupSettings;

/// Final jobs kept at hand, so that late events of them need no look into the store.
const FINAL_JOBS_MAX: usize = 1000;
/// Time until the next health check when one side did not answer.
const HEALTHCHECK_RETRY: Duration = Duration::from_secs(60);

/// Time until a group that began without its memory looks once more, when its first look found something: what GitHub
/// listed for the first look is not used again for the second.
pub const SECOND_LOOK: Duration = Duration::from_secs(6);

/// A runner that starts for longer than this makes the group look whether it is online: no event tells.
const LOOK_AFTER: Duration = Duration::from_secs(30);
/// Time between two such looks.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Runners in a row that never come online before that is no accident.
const ALARM_AFTER: u32 = 3;
/// What that means as a rule.
const NEVER_ONLINE: &str = "either the runner application in the image is older than GitHub accepts (it registers, is \
                            refused when it asks for work, and exits): update it; or instances cannot reach GitHub";
/// Time until a runner that should leave, and does not show it, is told again.
const TELL_AGAIN: Duration = Duration::from_secs(5);

/// Everything a group knows. Changed only through its methods, each of which returns what is to be done.
#[derive(Debug, Clone)]
pub struct Group {
    settings: Arc<GroupSettings>,
    marker: String,
    snapshot: GroupSnapshot,
    jobs: BTreeMap<JobId, Arc<Job>>,
    final_jobs: VecDeque<JobId>,
    demand: Demand,
    checks: Checks,
    fleet: Fleet,
    /// Backends that are being probed.
    probing: BTreeSet<String>,
    /// The first complete health check of a group without memory found something: the second one is due.
    looked: bool,
    /// Runners that the store lost and does not have again yet; saved as suspects.
    lost: BTreeMap<RunnerName, Suspect>,
    last_healthcheck: Timestamp,
    next_healthcheck: Timestamp,
    chance: u64,
    dirty_jobs: BTreeSet<JobId>,
    dirty: bool,
}

/// What is to be done after a change.
#[derive(Debug)]
pub enum Effect {
    /// Give this runner an actor and send it this event first.
    Spawn(Arc<Runner>, runner_machine::Event),
    /// Send this event to the runner's actor.
    Tell(RunnerName, runner_machine::Event),
    /// Ask GitHub about a job of this repository and come back with [`Group::verified`].
    Verify(JobId, RepositoryRef),
    /// Ask this backend whether a create could work and come back with [`Group::probed`].
    Probe(String),
    /// List both sides and come back with [`Group::listed`].
    Healthcheck,
    /// Take note, for metrics.
    Note(Note),
}

/// What is worth measuring.
#[derive(Debug, Clone, PartialEq)]
pub enum Note {
    /// A job was taken after it waited so long.
    Taken(Duration),
    /// A job ended with this conclusion after it ran so long.
    Finished(String, Option<Duration>),
    /// GitHub was asked about a job that waited, and told what no webhook had.
    Found,
    /// Something without its counterpart is being removed: `instance` or `registration`.
    Leak(&'static str),
    /// This backend is left alone until then, for this reason.
    BreakerOpened(String, Timestamp, String),
    /// This backend works again.
    BreakerClosed(String),
}

/// The label that runners of this deployment carry at GitHub, so that foreign ones are never mistaken for ours.
#[must_use]
pub fn marker(manager: &ManagerName) -> String {
    format!("managed-by-{}", manager.as_str().to_lowercase())
}

impl Group {
    /// A group as the store knows it. Without a readable snapshot it creates nothing before its first health check has
    /// shown what exists already. `chance` seeds its names and must never repeat.
    #[must_use]
    pub fn new(
        settings: Arc<GroupSettings>,
        manager: &ManagerName,
        loaded: Loaded,
        chance: u64,
        now: Timestamp,
    ) -> Self {
        let unknown = loaded.snapshot.is_none() || loaded.set_aside > 0;
        let mut snapshot = loaded.snapshot.unwrap_or_default();
        // Stays so, over any number of restarts, until a health check is complete.
        snapshot.looking |= unknown;
        let mut group = Self {
            settings,
            marker: marker(manager),
            snapshot,
            jobs: BTreeMap::new(),
            final_jobs: VecDeque::new(),
            demand: Demand::default(),
            checks: Checks::default(),
            fleet: Fleet::default(),
            probing: BTreeSet::new(),
            looked: false,
            lost: BTreeMap::new(),
            last_healthcheck: now,
            next_healthcheck: now,
            chance,
            dirty_jobs: BTreeSet::new(),
            dirty: unknown,
        };
        for job in loaded.jobs {
            if job.in_demand() {
                group.demand.insert(job.id(), job.queued_at.unwrap_or(job.received_at));
            }
            group.checks.put(&job);
            group.jobs.insert(job.id(), Arc::new(job));
        }
        for runner in loaded.runners {
            group.fleet.put(Arc::new(runner));
        }
        group
    }

    /// Its settings.
    #[must_use]
    pub fn settings(&self) -> &Arc<GroupSettings> {
        &self.settings
    }

    /// What it remembers beside jobs and runners.
    #[must_use]
    pub fn snapshot(&self) -> &GroupSnapshot {
        &self.snapshot
    }

    /// Its runners.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// The jobs it owes a runner.
    #[must_use]
    pub fn demand(&self) -> &Demand {
        &self.demand
    }

    /// One of its jobs, if it is at hand.
    #[must_use]
    pub fn job(&self, id: JobId) -> Option<&Arc<Job>> {
        self.jobs.get(&id)
    }

    /// Its jobs by status, in the order of [`JobStatus::ALL`]; final ones are not counted.
    #[must_use]
    pub fn job_counts(&self) -> [u32; JobStatus::ALL.len()] {
        let mut counts = [0; JobStatus::ALL.len()];
        for job in self.jobs.values().filter(|j| j.status != JobStatus::Completed) {
            counts[job.status as usize] += 1;
        }
        counts
    }

    /// Whether it could create one more runner now.
    #[must_use]
    pub fn has_capacity(&self) -> bool {
        !self.snapshot.drained
            && self.total() < self.settings.max
            && self.snapshot.failures == 0
            && self.usable().next().is_some()
    }

    /// When to call [`Group::tick`], if nothing happens before.
    #[must_use]
    pub fn wake_at(&self, now: Timestamp) -> Timestamp {
        let plan = self.plan(now);
        let scale_down = self.fleet.idle().next().filter(|_| plan.surplus > 0).map(|(since, _)| self.idle_until(since));
        // One that is due was told already, and has yet to show it.
        let scale_down = scale_down.map(|due| if due <= now { now + TELL_AGAIN } else { due });
        let probe = self.probe_at().map(|due| due.max(now));
        [plan.again_at, scale_down, self.checks.wake_at(), probe]
            .into_iter()
            .flatten()
            .fold(self.next_look(), Timestamp::min)
    }

    /// What changed since the last call and must be saved, if anything did.
    pub fn take_changes(&mut self) -> Option<(GroupSnapshot, Vec<Arc<Job>>)> {
        if !self.dirty && self.dirty_jobs.is_empty() {
            return None;
        }
        self.dirty = false;
        let jobs = std::mem::take(&mut self.dirty_jobs);
        let jobs = jobs.iter().filter_map(|id| self.jobs.get(id)).cloned().collect();
        while self.final_jobs.len() > FINAL_JOBS_MAX {
            if let Some(job) = self.final_jobs.pop_front() {
                self.jobs.remove(&job);
            }
        }
        let mut snapshot = self.snapshot.clone();
        snapshot.suspects.extend(self.lost.iter().map(|(name, suspect)| (name.clone(), *suspect)));
        Some((snapshot, jobs))
    }

    /// Marks everything of a failed save as changed again.
    pub fn changes_were_not_saved(&mut self, jobs: &[Arc<Job>]) {
        self.dirty = true;
        for job in jobs {
            // One that left memory meanwhile comes back, or it would be lost.
            self.jobs.entry(job.id()).or_insert_with(|| Arc::clone(job));
            self.dirty_jobs.insert(job.id());
        }
    }

    /// Marks the snapshot as changed.
    pub fn save_again(&mut self) {
        self.dirty = true;
    }

    /// A runner's actor tells of its new state.
    pub fn runner_changed(&mut self, runner: Arc<Runner>, now: Timestamp) -> Vec<Effect> {
        if runner.state.is_final() && self.fleet.get(&runner.name).is_none() {
            // It told that already, and was saved once more because the store had lost it.
            return vec![];
        }
        let before = self.fleet.put(Arc::clone(&runner));
        self.has_again([&runner.name]);
        if self.snapshot.suspects.remove(&runner.name).is_some() {
            self.dirty = true;
        }
        let settled = self.snapshot.unsettled.get(&runner.name).is_some_and(|news| match runner.state {
            RunnerState::Busy => !news.completed && runner.job.is_some(),
            // A removal that can still be called off was decided without the news.
            RunnerState::Deleting => !runner.removal.as_ref().is_some_and(Removal::may_be_called_off),
            state => state.is_final(),
        });
        if settled {
            self.snapshot.unsettled.remove(&runner.name);
            self.dirty = true;
        }
        if runner.has_served() && before.as_ref().is_none_or(|b| !b.has_served()) {
            self.succeeded();
        }
        if before.as_ref().is_none_or(|b| b.state != runner.state) {
            self.runner_entered(&runner, now);
        }
        let mut effects = vec![];
        self.backends_answered(before.as_deref(), &runner, now, &mut effects);
        // As soon as it is known, before a replacement is planned.
        if gave_up(&runner) && !before.as_deref().is_some_and(gave_up) {
            self.failed(&runner, now);
        }
        self.act(now, &mut effects);
        effects
    }

    fn runner_entered(&mut self, runner: &Runner, now: Timestamp) {
        let name = runner.name.clone();
        match runner.state {
            RunnerState::Provisioning => self.note_job(runner, now, Milestone::RunnerRegistered { runner: name }),
            RunnerState::Starting => {
                let instance = runner.instance.as_ref().map(ToString::to_string).unwrap_or_default();
                self.note_job(runner, now, Milestone::InstanceCreated { runner: name, instance });
            }
            RunnerState::Idle | RunnerState::Busy => {
                self.note_job(runner, now, Milestone::RunnerOnline { runner: name });
            }
            RunnerState::Gone | RunnerState::Failed => self.runner_left(runner, now),
            RunnerState::Requested | RunnerState::Registering | RunnerState::Deleting => {}
        }
    }

    /// A runner came to life, whatever state it is in by now.
    fn succeeded(&mut self) {
        if self.snapshot.failures > 0 || self.snapshot.not_before.is_some() {
            self.snapshot.failures = 0;
            self.snapshot.never_online = 0;
            self.snapshot.not_before = None;
            self.dirty = true;
        }
    }

    fn failed(&mut self, runner: &Runner, now: Timestamp) {
        let error = runner.error.clone().unwrap_or_else(|| "unknown error".to_owned());
        // Those that were tried side by side fail once together: one short fault is not fifty in a row.
        if runner.attempt.0 >= self.snapshot.failures {
            self.snapshot.failures = self.snapshot.failures.saturating_add(1);
        }
        let wait = backoff::CREATE.delay(self.snapshot.failures, self.next_chance());
        self.snapshot.not_before = if self.others_serve(&runner.backend) {
            runner.retry_at
        } else {
            self.snapshot.not_before.max(Some(runner.retry_at.unwrap_or(now).max(now + wait)))
        };
        let created = runner
            .removal
            .as_ref()
            .is_some_and(|removal| matches!(removal.reason, DeleteReason::StartTimeout | DeleteReason::InstanceGone));
        if created && runner.online_at.is_none() {
            self.snapshot.never_online = self.snapshot.never_online.saturating_add(1);
        }
        let text = match self.snapshot.never_online {
            count if count >= ALARM_AFTER => format!(
                "{count} runners in a row were created and never came online, the last was {} ({error}): {NEVER_ONLINE}",
                runner.name
            ),
            _ => format!("runner {}: {error}", runner.name),
        };
        self.snapshot.last_error = Some(LastError { at: now, text });
        self.dirty = true;
        self.note_job(runner, now, Milestone::RunnerFailed { runner: runner.name.clone(), error });
    }

    /// The time of [`Group::wake_at`] has come, or may have.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut effects = vec![];
        if self.next_look() <= now {
            effects.push(self.healthcheck(now));
        }
        self.probe(now, &mut effects);
        self.act(now, &mut effects);
        effects
    }

    /// When the next health check is due.
    fn next_look(&self) -> Timestamp {
        let look = self
            .fleet
            .starting_since()
            .map(|since| backoff::after(since, LOOK_AFTER).max(self.last_healthcheck + LOOK_EVERY));
        look.map_or(self.next_healthcheck, |look| look.min(self.next_healthcheck))
    }

    /// Asks for a health check now.
    pub fn healthcheck(&mut self, now: Timestamp) -> Effect {
        self.last_healthcheck = now;
        self.next_healthcheck = backoff::after(now, self.settings.healthcheck_interval);
        Effect::Healthcheck
    }

    /// Both listings of a health check.
    pub fn listed(&mut self, listing: &Listing, now: Timestamp) -> Vec<Effect> {
        let found =
            health::compare(&self.settings.name, &self.marker, &self.fleet, &mut self.snapshot.suspects, listing, now);
        let moved = found.moved.into_iter();
        let mut effects: Vec<Effect> = moved
            .map(|(name, backend)| Effect::Tell(name, runner_machine::Event::Moved { backend, at: listing.at }))
            .collect();
        // The second look of a beginning comes too soon after the first to count what it misses once more.
        let sightings = found.sightings.into_iter().filter(|_| !self.looked);
        effects.extend(sightings.map(|(name, seen)| Effect::Tell(name, runner_machine::Event::Sighted(seen))));
        let repairs = u32::try_from(found.strays.len()).unwrap_or(u32::MAX);
        for stray in found.strays {
            self.take_in(stray, now, &mut effects);
        }
        let errors: Vec<&str> = listing.errors().collect();
        if errors.is_empty() {
            // Where something is, more may be: what one listing missed on both sides, the second one shows.
            let anything = found.registered.is_some_and(|n| n > 0) || found.instances.is_some_and(|n| n > 0);
            self.looked = self.snapshot.looking && anything && !self.looked;
            self.snapshot.looking = self.looked;
            if self.looked {
                self.next_healthcheck = self.next_healthcheck.min(now + SECOND_LOOK);
            }
        } else {
            self.next_healthcheck = self.next_healthcheck.min(now + HEALTHCHECK_RETRY);
            let text = format!("health check: {}", errors.join("; "));
            self.snapshot.last_error = Some(LastError { at: now, text });
        }
        if !self.snapshot.suspects.is_empty() {
            // A second look soon settles what the first one left open.
            self.next_healthcheck = self.next_healthcheck.min(now + health::LEAK_GRACE.max(HEALTHCHECK_RETRY));
        }
        self.snapshot.last_healthcheck =
            Some(Healthcheck { at: now, registered: found.registered, instances: found.instances, repairs });
        self.dirty = true;
        self.act(now, &mut effects);
        effects
    }

    /// The runner group at GitHub is not as configured.
    pub fn runner_group_failed(&mut self, error: &GitHubError, now: Timestamp) {
        self.snapshot.last_error = Some(LastError { at: now, text: format!("runner group at GitHub: {error}") });
        self.dirty = true;
    }

    fn take_in(&mut self, stray: health::Stray, now: Timestamp, effects: &mut Vec<Effect>) {
        let (state, removal, why) = match stray.verdict {
            Verdict::Adopt(state) => (state, None, "found at GitHub and at the backend, tracked from now on"),
            Verdict::Remove(reason) => {
                let side = if reason == DeleteReason::LeakedInstance { "instance" } else { "registration" };
                effects.push(Effect::Note(Note::Leak(side)));
                // Listings may have missed its other side: GitHub is asked by name, and refuses while it runs a job.
                let removal = Removal { reason, deregistered: false, instance_deleted: false, deregister_first: true };
                (RunnerState::Deleting, Some(removal), reason.as_str())
            }
        };
        let mut runner = self.new_runner(stray.name, now);
        runner.state = state;
        runner.removal = removal;
        runner.github_id = stray.registration.as_ref().map(|r| r.id);
        if let Some((backend, instance)) = stray.instance {
            (runner.backend, runner.instance) = (backend, Some(instance.id));
        }
        runner.online_at = stray.registration.filter(|r| r.online || r.busy).map(|_| now);
        runner.history = vec![Transition { state, at: now, reason: why.to_owned() }];
        let runner = Arc::new(runner);
        self.fleet.put(Arc::clone(&runner));
        let adopted = runner.removal.is_none();
        effects.push(Effect::Spawn(Arc::clone(&runner), runner_machine::Event::Found));
        if adopted {
            self.tell_what_was_heard(&runner.name, effects);
        }
    }

    /// Everything of ours that may exist: the fleet, and what nobody tracks and is not removed yet.
    fn total(&self) -> u32 {
        let untracked = self.snapshot.suspects.keys().filter(|name| self.fleet.get(name).is_none()).count();
        self.fleet.total().saturating_add(u32::try_from(untracked).unwrap_or(u32::MAX))
    }

    fn hold(&self) -> Option<Hold> {
        if self.snapshot.drained {
            Some(Hold::Drained)
        } else if self.snapshot.looking {
            Some(Hold::Looking)
        } else {
            None
        }
    }

    fn plan(&self, now: Timestamp) -> Plan {
        let situation = Situation {
            demand: u32::try_from(self.demand.len()).unwrap_or(u32::MAX),
            unsure: u32::try_from(self.checks.held(now)).unwrap_or(u32::MAX),
            available: self.fleet.available(),
            total: self.total(),
            min: self.settings.min,
            max: self.settings.max,
            hold: self.hold(),
            failures: self.snapshot.failures,
            not_before: self.snapshot.not_before,
            trials: self.trials(),
        };
        plan(situation, now)
    }

    /// Carries out the plan of the moment.
    fn act(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let jobs = &self.jobs;
        let ask = self.checks.ask(now, |id| jobs.get(&id).map(|job| Known::of(job)));
        let ask = ask.iter().filter_map(|id| jobs.get(id));
        effects.extend(ask.map(|job| Effect::Verify(job.id(), job.facts.repository.clone())));
        let plan = self.plan(now);
        if plan.create > 0 {
            let wanting: Vec<JobId> = self
                .demand
                .iter()
                .filter(|job| self.fleet.requested_for(*job).is_none() && !self.checks.holds(*job, now))
                .take(plan.create as usize)
                .collect();
            let mut wanting = wanting.into_iter();
            for _ in 0..plan.create {
                self.create(wanting.next(), now, effects);
            }
            if self.snapshot.failures > 0 {
                let wait = backoff::CREATE.delay(self.snapshot.failures, self.next_chance());
                self.snapshot.not_before = Some(now + wait);
                self.dirty = true;
            }
        }
        let leaving =
            self.fleet.idle().take(plan.surplus as usize).take_while(|(since, _)| self.idle_until(*since) <= now);
        effects.extend(leaving.map(|(_, name)| Effect::Tell(name.clone(), runner_machine::Event::ScaleDown)));
    }

    fn idle_until(&self, since: Timestamp) -> Timestamp {
        backoff::after(since, self.settings.idle_timeout)
    }

    fn create(&mut self, job: Option<JobId>, now: Timestamp, effects: &mut Vec<Effect>) -> RunnerName {
        let name = loop {
            let suffix = self.next_chance();
            let name = self.settings.name.runner_name(suffix);
            if self.fleet.get(&name).is_none() {
                break name;
            }
        };
        let mut runner = self.new_runner(name.clone(), now);
        self.choose_backends(&mut runner);
        runner.for_job = job;
        if let Some(job) = job.and_then(|id| self.jobs.get(&id)) {
            runner.for_delivery_at = Some(job.queued_at.unwrap_or(job.received_at));
        }
        let why = match job {
            Some(job) => format!("requested for job {job}"),
            None => "requested beyond demand".to_owned(),
        };
        runner.history = vec![Transition { state: RunnerState::Requested, at: now, reason: why }];
        self.note_job(&runner, now, Milestone::RunnerRequested { runner: name.clone() });
        let runner = Arc::new(runner);
        self.fleet.put(Arc::clone(&runner));
        effects.push(Effect::Spawn(runner, runner_machine::Event::Start));
        name
    }

    fn new_runner(&self, name: RunnerName, now: Timestamp) -> Runner {
        Runner::requested(name, &self.settings, Attempt(self.snapshot.failures), now)
    }

    fn next_chance(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(1);
        mix(self.chance)
    }
}

/// Whether it ended, or is being removed, without ever having worked.
fn gave_up(runner: &Runner) -> bool {
    match (runner.state, runner.removal.as_ref().map(|removal| removal.reason)) {
        (RunnerState::Failed, _) => true,
        (RunnerState::Deleting | RunnerState::Gone, Some(DeleteReason::CreateFailed)) => true,
        (RunnerState::Deleting | RunnerState::Gone, Some(DeleteReason::StartTimeout | DeleteReason::InstanceGone)) => {
            runner.online_at.is_none()
        }
        _ => false,
    }
}

#[cfg(test)]
pub(crate) mod tests;
