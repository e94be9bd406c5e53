//! The oracle: what the promises mean in this world. Written from the specification; it knows nothing of the code that it
//! judges beyond the ports and what is saved.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use actors::id::*;
use actors::model::delivery::{Delivery, JobAction};
use actors::model::job::{Job, JobStatus};
use actors::model::runner::{Runner, RunnerState};
use actors::port::github::JitRequest;

use super::jobs::Stage;
use super::scenario::Kind;
use super::world::{MANAGER, MARK, Machine, State, foreign_names};

/// How long what was heard may take to be acted upon.
const HEARD: u64 = 5_000;

/// What was seen of the manager.
#[derive(Default)]
pub struct Oracle {
    pub violations: Vec<String>,
    /// Runners that GitHub let go although they worked: what follows is GitHub's doing.
    pub let_go: BTreeSet<String>,
    known: Known,
    /// Backends that asked to wait: since when, and until when.
    throttled: BTreeMap<(GroupName, String), (u64, u64, u64)>,
    pub calls: BTreeMap<&'static str, u64>,
    /// Jobs of which something was told that the store lost later.
    forgot: BTreeSet<JobId>,
    /// How many runners the store has lost.
    lost_runners: u64,
    /// Those that went with its last writes.
    went: BTreeSet<RunnerName>,
}

/// What the manager knows, as far as it was saved.
#[derive(Default, Clone)]
pub struct Known {
    /// Runners that it knows to be busy, and since when.
    heard: BTreeMap<String, u64>,
    /// What the recorded deliveries of a job say.
    told: BTreeMap<JobId, Told>,
    /// When a job was saved as final, by the manager's clock.
    finals: BTreeMap<JobId, jiff::Timestamp>,
}

#[derive(Debug, Default, Clone, PartialEq)]
struct Told {
    queued: BTreeSet<DeliveryId>,
    waiting: BTreeSet<DeliveryId>,
    taken: bool,
    conclusion: Option<String>,
}

impl Oracle {
    /// The store has lost all: what was told counts no more, and who knew it may be gone.
    pub fn forget(&mut self, runners: usize) {
        self.lost_runners += runners as u64;
        self.forgot.extend(self.known.told.keys().copied());
        self.known = Known::default();
    }

    pub fn known(&self) -> Known {
        self.known.clone()
    }

    /// The store knows no more than it did then.
    pub fn go_back(&mut self, known: Known, went: Vec<RunnerName>) {
        self.lost_runners += went.len() as u64;
        self.went.extend(went);
        let lost = self.known.told.iter().filter(|(job, told)| known.told.get(job) != Some(told));
        self.forgot.extend(lost.map(|(job, _)| *job));
        self.known = known;
    }

    pub fn count(&mut self, call: &'static str) {
        *self.calls.entry(call).or_default() += 1;
    }
}

impl State {
    pub fn violated(&mut self, text: String) {
        self.note(format_args!("VIOLATED: {text}"));
        self.oracle.violations.push(text);
        self.after(0, super::world::What::Look);
    }

    /// Promise 1: what exists and what may come into being is never more than `max`. Nobody can know of what the store has
    /// lost while nobody's listings tell of it, or its owner failed in that moment.
    pub fn check_max(&mut self, name: &str) {
        let Some(group) = self.group_of(name) else { return };
        let (max, group) = (group.max as usize, group.name.clone());
        let lost = |name: &str| self.oracle.went.contains(name) && !self.books.runners.contains_key(name);
        let hidden = |name: &str, m: &Machine| {
            let late = self.members.emptied_at.is_some_and(|at| m.made_at <= at && m.listed_from > at) && !m.shown;
            late && !self.runners.contains_key(name) && !self.books.runners.contains_key(name)
        };
        let ours = |m: &Machine| m.owner.group == group && m.owner.manager.as_str() == MANAGER;
        let made = self.machines.iter().filter(|(name, m)| ours(m) && (m.shown || !lost(name)) && !hidden(name, m));
        let coming = self
            .creating
            .iter()
            .filter(|(name, (_, owner, _))| owner.group == group && !self.machines.contains_key(*name) && !lost(name));
        let exist = made.count() + coming.count();
        if exist > max {
            self.violated(format!("promise 1: {exist} instances of group {group}, max is {max}"));
        }
    }

    /// A delivery is in the books.
    pub fn recorded(&mut self, delivery: &Delivery) {
        let told = self.oracle.known.told.entry(delivery.event.job.id).or_default();
        match delivery.event.action {
            JobAction::Queued => drop(told.queued.insert(delivery.id.clone())),
            JobAction::Waiting => drop(told.waiting.insert(delivery.id.clone())),
            JobAction::InProgress => told.taken = true,
            JobAction::Completed => {
                told.conclusion.get_or_insert(delivery.event.conclusion.clone().unwrap_or_default());
            }
        }
    }

    /// Promises 3 and 4: where a job stands by what was told of it, in whatever order, however often.
    fn as_told(&self, id: JobId) -> Option<JobStatus> {
        let told = self.oracle.known.told.get(&id)?;
        Some(if !self.jobs.get(&id.0).is_some_and(|job| self.is_eligible(job)) {
            JobStatus::Unmatched
        } else if told.conclusion.is_some() {
            JobStatus::Completed
        } else if told.taken {
            JobStatus::InProgress
        } else if told.queued.len() > told.waiting.len() {
            JobStatus::Queued
        } else {
            JobStatus::Waiting
        })
    }

    /// Promise 5: a job that was saved as final stays so, and as it was.
    pub fn check_job(&mut self, job: &Job) {
        let id = job.id();
        if let Some(before) = self.books.jobs.get(&id).filter(|before| before.status == JobStatus::Completed)
            && (job.status, &job.conclusion) != (before.status, &before.conclusion)
        {
            let was = before.conclusion.clone();
            self.violated(format!(
                "promise 5: job {id} was final ({was:?}) and is {:?} ({:?})",
                job.status, job.conclusion
            ));
        }
        if job.status == JobStatus::Completed {
            let now = self.now();
            self.oracle.known.finals.entry(id).or_insert(now);
        }
    }

    /// No runner is requested for a job that is known to be over.
    pub fn check_runner(&mut self, runner: &Runner) {
        let new = !self.books.runners.contains_key(&runner.name);
        let over = runner.for_job.and_then(|job| self.oracle.known.finals.get(&job));
        if new && over.is_some_and(|over| *over < runner.created_at) && !self.scenario.has(Kind::ClockJumps) {
            self.violated(format!(
                "promise 5: {} is requested for job {:?}, which is over",
                runner.name, runner.for_job
            ));
        }
    }

    /// The manager has read that this runner took a job.
    pub fn heard(&mut self, name: &str) {
        let at = self.elapsed();
        self.oracle.known.heard.entry(name.to_owned()).or_insert(at);
    }

    pub fn check_registration(&mut self, request: &JitRequest) {
        if !request.labels.iter().any(|label| label == MARK) || self.group_of(request.name.as_str()).is_none() {
            self.violated(format!("promise 9: {} is registered without our marks", request.name));
        }
    }

    /// Whether a runner has lived for so long that it may be ended at work.
    fn has_lived(&self, name: &str) -> bool {
        let (Some(group), Some(online)) = (self.group_of(name), self.runners.get(name).and_then(|r| r.online_at))
        else {
            return false;
        };
        // A clock that jumps back after it came online makes it look older.
        let slack = if self.scenario.has(Kind::ClockJumps) { Duration::from_secs(7200) } else { Duration::ZERO };
        self.now() + slack >= online + group.time_to_live
    }

    /// Promises 8 and 9, at GitHub.
    pub fn check_deregister(&mut self, name: &str) {
        let Some(remote) = self.runners.get(name) else { return };
        if foreign_names(self).0.contains(name) || !remote.labels.iter().any(|label| label == MARK) {
            return self.violated(format!("promise 9: the foreign registration {name} is removed"));
        }
        let known = self.oracle.known.heard.get(name).is_some_and(|heard| heard + HEARD <= self.elapsed());
        if known && self.runs(name).is_some() && !self.has_lived(name) {
            self.violated(format!("promise 8: {name} is known to be busy, and is deregistered"));
        }
    }

    /// Promises 8 and 9, at a backend.
    pub fn check_delete(&mut self, name: &str) {
        if foreign_names(self).1 == name {
            return self.violated(format!("promise 9: the foreign instance {name} is deleted"));
        }
        if let Some(job) = self.runs(name).filter(|_| !self.has_lived(name)) {
            self.violated(format!("promise 8: {name} is deleted while it runs job {job}"));
        }
    }

    /// Promise 12: whoever asked for a pause gets it.
    pub fn throttled(&mut self, name: &str, place: &str, wait: Duration, life: u64) {
        let Some(group) = self.group_of(name).map(|group| group.name.clone()) else { return };
        let at = self.elapsed();
        let until = at + u64::try_from(wait.as_millis()).unwrap();
        let pause = self.oracle.throttled.entry((group, place.to_owned())).or_default();
        if pause.0 != life || pause.2 < until {
            *pause = (life, at, until);
        }
    }

    pub fn check_create(&mut self, name: &str, place: &str, by: u64) {
        self.oracle.count("create");
        // What the manager cannot remember, or learns late, it cannot obey.
        let excused = [
            Kind::SaveFails,
            Kind::SaveLost,
            Kind::StoreStalls,
            Kind::ClockJumps,
            Kind::InboxFails,
            // The answer is lost with the actor that got it.
            Kind::StorePanics,
            Kind::ObserverPanics,
        ];
        if excused.iter().any(|kind| self.scenario.has(*kind)) {
            return;
        }
        let Some(group) = self.group_of(name).map(|group| group.name.clone()) else { return };
        let at = self.elapsed();
        if let Some((life, since, until)) = self.oracle.throttled.get(&(group.clone(), place.to_owned()))
            && *life == by
            && since + HEARD < at
            && at + 100 < *until
        {
            let left = (*until - at) / 1000;
            self.violated(format!("promise 12: {place} is asked for {name} {left} s before its Retry-After is over"));
        }
    }

    /// Whether all that GitHub has is over: the beginning of the end.
    pub fn jobs_left(&self) -> Vec<u64> {
        let left = self.jobs.values().filter(|job| job.stage != Stage::Over && self.is_eligible(job));
        // Without webhooks and without an answer nobody can know of a job; of one of which the store lost what was told, its
        // owner may remember more than was told since, and has to take it for the rest.
        let unknowable = |id: u64| {
            let told = self.as_told(JobId(id)) == Some(JobStatus::Queued);
            let waits = self.books.jobs.get(&JobId(id)).is_some_and(|job| job.status == JobStatus::Queued);
            self.scenario.has(Kind::RecordsDown) && (!told || self.oracle.forgot.contains(&JobId(id)) && !waits)
        };
        left.filter(|job| !unknowable(job.id)).map(|job| job.id).collect()
    }

    /// Promises 2, 4 and 11: jobs that are not saved as they are, or as they were told of.
    pub fn wrong_jobs(&self) -> Vec<String> {
        let mut wrong = vec![];
        for job in self.jobs.values() {
            let saved = self.books.jobs.get(&JobId(job.id));
            let known = saved.map(|saved| saved.status);
            let told = self.as_told(JobId(job.id));
            if self.scenario.has(Kind::RecordsDown) || !self.is_eligible(job) {
                // Some of it may be known from before the store lost it all.
                if self.oracle.forgot.contains(&JobId(job.id)) {
                    continue;
                }
                if known != told {
                    wrong.push(format!("job {} is {known:?}, its deliveries say {told:?}", job.id));
                }
                continue;
            }
            let conclusion = saved.and_then(|saved| saved.conclusion.as_deref());
            let right = match known {
                // Nobody ever told, and nobody asked before it was over.
                None => told.is_none(),
                Some(status) => status == JobStatus::Completed && (job.forgotten || conclusion == job.conclusion),
            };
            if !right {
                wrong.push(format!("job {} is {known:?} ({conclusion:?}), it ended with {:?}", job.id, job.conclusion));
            }
        }
        wrong
    }

    /// Promise 7: what exists without a reason, or does not exist with one.
    pub fn leftovers(&self) -> Vec<String> {
        let mut wrong = vec![];
        for group in &self.scenario.groups {
            let owed = self.jobs.values().filter(|job| {
                let saved = self.books.jobs.get(&JobId(job.id));
                saved.is_some_and(|s| s.status == JobStatus::Queued && s.group.as_ref() == Some(&group.name))
            });
            let wanted = group.min as usize + owed.count();
            let max = group.max as usize;
            let open: Vec<_> = self.books.open_runners().filter(|r| r.group == group.name).collect();
            // Nobody can say whether its job is over: GitHub does not answer, or both it and the store forgot the job.
            let forgotten = |job: JobId| {
                let forgotten = self.jobs.get(&job.0).is_some_and(|job| job.forgotten);
                forgotten && self.scenario.forgets() && !self.books.jobs.contains_key(&job)
            };
            let stuck = |runner: &Runner| {
                let unknowable = self.scenario.has(Kind::RecordsDown) || runner.job.is_some_and(forgotten);
                runner.state == RunnerState::Busy && unknowable
            };
            let busy = open.iter().filter(|runner| stuck(runner)).count();
            if open.len() != (wanted + busy).min(max) && open.len() != wanted.min(max) {
                wrong.push(format!(
                    "group {} has {} runners and {busy} busy, wanted are {wanted}",
                    group.name,
                    open.len()
                ));
            }
        }
        for (name, machine) in &self.machines {
            let known = self.books.open_runners().any(|runner| runner.name.as_str() == name);
            if machine.owner.manager.as_str() == MANAGER && !known {
                wrong.push(format!("promise 7: instance {name} is left"));
            }
        }
        for (name, remote) in &self.runners {
            let ours = remote.labels.iter().any(|label| label == MARK);
            if ours && !self.machines.contains_key(name) {
                wrong.push(format!("promise 7: registration {name} is left"));
            }
        }
        let (runners, machine) = foreign_names(self);
        if !self.machines.contains_key(&machine) || !runners.iter().all(|name| self.runners.contains_key(name)) {
            wrong.push("promise 9: something foreign is gone".to_owned());
        }
        wrong
    }

    /// Promise 12: the calls of a whole run, against what its length and its runners explain.
    pub fn unbounded(&self) -> Vec<String> {
        let calls = |what: &str| self.oracle.calls.get(what).copied().unwrap_or_default();
        let (minutes, groups) = (self.elapsed() / 60_000 + 1, self.scenario.groups.len() as u64);
        let lives = self.life + 1;
        let runners = self.books.runners.len() as u64 + self.oracle.lost_runners;
        let bounds = [
            ("list_runners", groups * (minutes * 3 / 2 + 10 * lives)),
            ("ensure_runner_group", groups * (minutes * 3 / 2 + 10 * lives) + calls("generate_jit_config")),
            ("list", 2 * groups * (minutes * 3 / 2 + 10 * lives)),
            ("generate_jit_config", 2 * runners),
            ("create", 3 * runners),
            ("delete_runner", 30 * runners + 10 * minutes),
            ("find_runner", 30 * runners + 10 * minutes),
        ];
        let over = bounds.into_iter().filter(|(what, most)| calls(what) > *most);
        over.map(|(what, most)| format!("promise 12: {} calls of {what}, at most {most} are explained", calls(what)))
            .collect()
    }
}
