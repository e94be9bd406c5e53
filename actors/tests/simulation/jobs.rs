//! GitHub's own part: jobs come, are given to whichever runner suits, run, and are told of by webhooks.

use actors::id::*;
use actors::model::delivery::{JobAction, JobEvent, JobFacts, RepositoryRef, RunnerRef};
use actors::port::github::SentDelivery;
use jiff::Timestamp;

use super::chance::Chance;
use super::scenario::{Kind, Twist};
use super::world::{State, What};

/// How long GitHub waits for a runner that it gave a job to.
const UNCLAIMED: u64 = 60_000;
/// How long GitHub waits for a runner that runs a job and is not heard of.
const LOST: u64 = 600_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    ToCome,
    Waiting,
    Queued,
    Running,
    Over,
}

/// A job, as GitHub has it.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: u64,
    pub labels: Vec<String>,
    pub approval: bool,
    pub stage: Stage,
    /// The runner that was given it, and has not begun.
    given: Option<String>,
    pub runner: Option<(RunnerId, String)>,
    pub conclusion: Option<&'static str>,
    /// GitHub knows it no more.
    pub forgotten: bool,
    pub runs_for: u64,
}

/// A registered runner.
#[derive(Debug, Clone)]
pub struct Remote {
    pub id: RunnerId,
    pub name: String,
    pub labels: Vec<String>,
    pub online: bool,
    /// Its job, and since when it has that, or has none.
    pub job: Option<u64>,
    pub since: u64,
    given: Option<u64>,
    /// When it came online, by the manager's clock.
    pub online_at: Option<Timestamp>,
    /// It takes no (further) job.
    pub spent: bool,
}

impl Remote {
    pub fn new(id: RunnerId, name: &str, labels: Vec<String>) -> Self {
        let (online, job, since, given, online_at, spent) = (false, None, 0, None, None, false);
        Self { id, name: name.to_owned(), labels, online, job, since, given, online_at, spent }
    }
}

/// All jobs of a run, on the agenda.
pub fn plan(state: &mut State) {
    let mut chance = Chance::new(state.scenario.seed, 4);
    let groups = state.scenario.groups.clone();
    for id in 1..=state.scenario.jobs as u64 {
        let mut labels = chance.pick(&groups).labels.clone();
        labels.insert(0, chance.pick(&["self-hosted", "Self-Hosted", "linux"]).to_owned());
        if chance.per_mille(20) {
            labels = vec!["nobody-has-this".to_owned()];
        }
        let runs_for =
            if chance.per_mille(30) { chance.between(0, 70) * 60_000 } else { chance.between(1_000, 600_000) };
        let comes_at = state.scenario.comes_at(&mut chance);
        let approval = state.faults.strikes(Kind::Approval);
        let (stage, given, runner, conclusion) = (Stage::ToCome, None, None, None);
        let job = Job { id, labels, approval, stage, given, runner, conclusion, forgotten: false, runs_for };
        state.jobs.insert(id, job);
        state.after(comes_at, What::JobComes(id));
        if id == 1 && state.scenario.twist == Some(Twist::CancelsWaiting) {
            state.after(comes_at + 1_000, What::Cancel(id));
        }
        if state.faults.strikes(Kind::Cancelled) {
            let wait = state.faults.between(Kind::Cancelled, 0, 1_200_000);
            state.after(comes_at + wait, What::Cancel(id));
        }
    }
}

impl State {
    /// Whether a group is there for this job.
    pub fn is_eligible(&self, job: &Job) -> bool {
        self.scenario.groups.iter().any(|group| suits(&group.runner_labels(), &job.labels))
    }

    pub fn job_comes(&mut self, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let approval = job.approval;
        job.stage = if approval { Stage::Waiting } else { Stage::Queued };
        self.note(format_args!("job {id} comes"));
        self.post(id, JobAction::Queued);
        if approval {
            self.post(id, JobAction::Waiting);
            let wait = self.chance.between(1_000, 1_800_000);
            self.after(wait, What::Approve(id));
        } else {
            self.queued(id);
        }
    }

    pub fn approve(&mut self, id: u64) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.stage == Stage::Waiting) else { return };
        job.stage = Stage::Queued;
        self.note(format_args!("job {id} is approved"));
        self.post(id, JobAction::Queued);
        self.queued(id);
    }

    fn queued(&mut self, id: u64) {
        if self.faults.strikes(Kind::Foreign) {
            let wait = self.faults.between(Kind::Foreign, 1_000, 300_000);
            self.after(wait, What::ForeignTakes(id));
        }
        self.assign();
    }

    /// Gives waiting jobs to runners that wait.
    pub fn assign(&mut self) {
        let waiting: Vec<u64> =
            self.jobs.values().filter(|j| j.stage == Stage::Queued && j.given.is_none()).map(|j| j.id).collect();
        for id in waiting {
            let labels = &self.jobs[&id].labels;
            let free =
                |r: &&Remote| r.online && r.job.is_none() && r.given.is_none() && !r.spent && suits(&r.labels, labels);
            let free: Vec<String> = self.runners.values().filter(free).map(|r| r.name.clone()).collect();
            if free.is_empty() {
                continue;
            }
            let name = self.chance.pick(&free);
            self.jobs.get_mut(&id).unwrap().given = Some(name.clone());
            self.runners.get_mut(&name).unwrap().given = Some(id);
            let wait = self.chance.between(300, 2_500);
            self.after(wait, What::Take(id, name));
        }
    }

    pub fn take(&mut self, id: u64, name: &str) {
        if !self.jobs.get(&id).is_some_and(|job| job.stage == Stage::Queued && job.given.as_deref() == Some(name)) {
            return;
        }
        let runs = self.machines.get(name).is_some_and(|machine| machine.running);
        let at = self.elapsed();
        let Some(remote) = self.runners.get_mut(name).filter(|remote| runs && remote.online) else {
            return self.after(UNCLAIMED, What::Unassign(id));
        };
        (remote.job, remote.given, remote.since) = (Some(id), None, at);
        let runner = (remote.id, name.to_owned());
        self.start(id, runner);
        if self.faults.strikes(Kind::DiesBusy) {
            let wait = self.faults.between(Kind::DiesBusy, 0, self.jobs[&id].runs_for);
            self.after(wait, What::Dies(name.to_owned()));
        }
    }

    fn start(&mut self, id: u64, runner: (RunnerId, String)) {
        self.note(format_args!("job {id} is taken by {}", runner.1));
        let job = self.jobs.get_mut(&id).unwrap();
        (job.stage, job.given, job.runner) = (Stage::Running, None, Some(runner.clone()));
        let wait = job.runs_for;
        self.post(id, JobAction::InProgress);
        self.after(wait, What::Over(id, runner.1));
        if id == 1 && self.scenario.twist == Some(Twist::CancelsRunning) {
            self.after(wait.min(900), What::Cancel(id));
        }
    }

    pub fn unassign(&mut self, id: u64) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.stage == Stage::Queued) else { return };
        if let Some(name) = job.given.take()
            && let Some(remote) = self.runners.get_mut(&name)
        {
            remote.given = None;
        }
        self.assign();
    }

    pub fn foreign_takes(&mut self, id: u64) {
        if self.jobs.get(&id).is_some_and(|job| job.stage == Stage::Queued && job.given.is_none()) {
            self.next_id += 1;
            let runner = (RunnerId(self.next_id), format!("foreign-{id}"));
            self.start(id, runner);
        }
    }

    /// A job ran to its end.
    pub fn over(&mut self, id: u64, name: &str) {
        let foreign = name.starts_with("foreign-");
        let works = self.machines.get(name).is_some_and(|machine| machine.running) && self.runners.contains_key(name);
        if foreign || works {
            let forgotten = self.faults.strikes(Kind::ForgetsJob);
            self.end(id, "success", forgotten);
        }
    }

    pub fn fails(&mut self, id: u64, name: &str) {
        if self.jobs.get(&id).is_some_and(|job| job.runner.as_ref().is_some_and(|(_, by)| by == name)) {
            self.end(id, "failure", false);
        }
    }

    pub fn cancel(&mut self, id: u64) {
        if self.jobs.get(&id).is_some_and(|job| job.stage != Stage::ToCome) {
            self.end(id, "cancelled", false);
        }
    }

    fn end(&mut self, id: u64, conclusion: &'static str, forgotten: bool) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.stage != Stage::Over) else { return };
        (job.stage, job.conclusion, job.forgotten) = (Stage::Over, Some(conclusion), forgotten);
        let (given, runner) = (job.given.take(), job.runner.clone());
        self.note(format_args!("job {id} is over: {conclusion}{}", if forgotten { ", and forgotten" } else { "" }));
        if !forgotten {
            self.post(id, JobAction::Completed);
        }
        if self.faults.strikes(Kind::Resent) {
            let wait = self.faults.between(Kind::Resent, 1_000, 1_800_000);
            self.after(wait, What::Resend(id));
        }
        if let Some(remote) = given.and_then(|name| self.runners.get_mut(&name)) {
            remote.given = None;
            self.assign();
        }
        if let Some((_, name)) = runner {
            self.leaves(&name);
        }
    }

    /// A runner has done its one job.
    fn leaves(&mut self, name: &str) {
        let at = self.elapsed();
        let Some(remote) = self.runners.get_mut(name) else { return };
        (remote.job, remote.since, remote.spent) = (None, at, true);
        if self.faults.strikes(Kind::Lingers) {
            return;
        }
        self.runners.remove(name);
        let stays = self.chance.per_mille(500);
        if let Some(machine) = self.machines.get_mut(name) {
            machine.running = stays;
        }
    }

    pub fn boot(&mut self, name: &str) {
        let runs = self.machines.get(name).is_some_and(|machine| machine.running);
        if !runs || !self.runners.contains_key(name) || self.faults.strikes(Kind::NeverOnline) {
            return;
        }
        if self.faults.strikes(Kind::DiesAtBoot) {
            return self.dies(name);
        }
        self.note(format_args!("{name} is online"));
        let (now, at) = (self.now(), self.elapsed());
        let remote = self.runners.get_mut(name).unwrap();
        (remote.online, remote.online_at, remote.since) = (true, Some(now), at);
        self.assign();
    }

    /// The machine of a runner stops by itself.
    pub fn dies(&mut self, name: &str) {
        let Some(machine) = self.machines.get_mut(name).filter(|machine| machine.running) else { return };
        machine.running = false;
        self.note(format_args!("{name} dies"));
        self.off(name);
    }

    /// A runner is not heard of any more.
    pub fn off(&mut self, name: &str) {
        if let Some(remote) = self.runners.get_mut(name) {
            remote.online = false;
        }
        let has = |job: &&Job| job.stage == Stage::Running && job.runner.as_ref().is_some_and(|(_, by)| by == name);
        if let Some(id) = self.jobs.values().find(has).map(|job| job.id) {
            self.after(LOST, What::Fails(id, name.to_owned()));
        }
    }

    /// The job that a runner runs, in truth.
    pub fn runs(&self, name: &str) -> Option<u64> {
        let has = |job: &&Job| job.stage == Stage::Running && job.runner.as_ref().is_some_and(|(_, by)| by == name);
        let works = self.machines.get(name).is_some_and(|machine| machine.running) && self.runners.contains_key(name);
        self.jobs.values().find(has).map(|job| job.id).filter(|_| works)
    }

    /// What GitHub would tell of a job now.
    pub fn event(&self, id: u64, action: JobAction) -> JobEvent {
        let job = &self.jobs[&id];
        let named = matches!(action, JobAction::InProgress | JobAction::Completed);
        let runner = job.runner.as_ref().filter(|_| named);
        let completed = action == JobAction::Completed;
        JobEvent {
            action,
            job: facts(job),
            runner: runner.map(|(id, name)| RunnerRef { id: Some(*id), name: name.clone() }),
            conclusion: job.conclusion.filter(|_| completed).map(ToOwned::to_owned),
        }
    }

    /// Sends a webhook, or fails to.
    fn post(&mut self, id: u64, action: JobAction) {
        self.next_id += 1;
        let guid = format!("d-{id}-{}-{}", action.as_str().replace('_', "-"), self.next_id);
        let event = self.event(id, action);
        self.posts.insert(guid.clone(), event);
        if self.faults.strikes(Kind::DeliveryVanishes) {
            return self.note(format_args!("{guid} vanishes"));
        }
        if self.faults.strikes(Kind::DeliveryFails) {
            return self.attempted(&guid, false);
        }
        let mut wait = self.chance.between(10, 400);
        if self.faults.strikes(Kind::DeliveryReordered) {
            wait += self.faults.between(Kind::DeliveryReordered, 0, 15_000);
        }
        if self.faults.strikes(Kind::DeliveryLate) {
            wait += self.faults.between(Kind::DeliveryLate, 10_000, 1_500_000);
        }
        self.after(wait, What::Deliver(guid.clone()));
        if self.faults.strikes(Kind::DeliveryTwice) {
            let more = self.faults.between(Kind::DeliveryTwice, 0, 600_000);
            self.after(wait + more, What::Deliver(guid));
        }
    }

    /// A re-run of a workflow sends old events again, under other ids.
    pub fn resend(&mut self, id: u64) {
        if self.jobs.get(&id).is_some_and(|job| job.stage == Stage::Over && !job.forgotten) {
            self.post(id, JobAction::Completed);
            self.post(id, JobAction::Queued);
            self.post(id, JobAction::InProgress);
        }
    }

    /// What became of an attempt to deliver.
    pub fn attempted(&mut self, guid: &str, delivered: bool) {
        self.note(format_args!("{guid} {}", if delivered { "delivered" } else { "not delivered" }));
        let (id, guid) = (self.history.len() as u64 + 1, DeliveryId::new(guid).unwrap());
        let (event, at) = ("workflow_job".to_owned(), self.now());
        self.history.push(SentDelivery { id, guid, at, delivered, event, action: None });
    }
}

fn suits(runner: &[String], job: &[String]) -> bool {
    job.iter().all(|label| runner.iter().any(|own| own.eq_ignore_ascii_case(label)))
}

fn facts(job: &Job) -> JobFacts {
    JobFacts {
        id: JobId(job.id),
        run_id: job.id / 3,
        run_attempt: Some(1),
        name: "build".into(),
        workflow_name: None,
        head_branch: None,
        labels: job.labels.clone(),
        repository: RepositoryRef { id: RepositoryId(7), owner: "octo-org".into(), name: "app".into(), private: true },
        organization: Some("octo-org".into()),
        enterprise: None,
        installation_id: None,
        created_at: None,
        started_at: None,
        completed_at: None,
    }
}
