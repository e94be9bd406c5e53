//! Jobs: their queue, who gets them, and how they end.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use super::What;
use super::hooks::Action;
use super::settings::Repository;
use super::state::World;

/// GitHub's id of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A job to queue.
#[derive(Debug, Clone)]
pub struct JobRequest {
    /// `runs-on`, as written.
    pub labels: Vec<String>,
    /// How long it runs once a runner took it.
    pub duration: Duration,
    /// Name of its repository, one of the settings'; none or an unknown one: the first. Default none.
    pub repository: Option<String>,
    /// Its name. Default `build`.
    pub name: String,
    /// How it ends when nobody cancels it. Default success.
    pub conclusion: Conclusion,
    /// Whether it starts waiting for an approval. Default false.
    pub waiting: bool,
    /// The job whose workflow run it belongs to. Default none: it has a run of its own.
    pub run_of: Option<JobId>,
}

impl JobRequest {
    /// A job with these labels that runs so long.
    pub fn new<L: Into<String>>(labels: impl IntoIterator<Item = L>, duration: Duration) -> Self {
        Self {
            labels: labels.into_iter().map(Into::into).collect(),
            duration,
            repository: None,
            name: "build".to_owned(),
            conclusion: Conclusion::Success,
            waiting: false,
            run_of: None,
        }
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobStatus {
    /// It waits for an approval.
    Waiting,
    /// It wants a runner.
    Queued,
    /// A runner runs it.
    InProgress,
    /// It is over.
    Completed,
}

impl JobStatus {
    /// As GitHub spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
        }
    }
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conclusion {
    /// Well.
    Success,
    /// Badly, or its runner was lost.
    Failure,
    /// By [`cancel`](super::SimulatedGitHub::cancel).
    Cancelled,
}

impl Conclusion {
    /// As GitHub spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A job and what became of it.
#[derive(Debug, Clone)]
pub struct Job {
    /// GitHub's id; rises with age.
    pub id: JobId,
    /// Id of its workflow run.
    pub run_id: u64,
    /// Its name.
    pub name: String,
    /// `runs-on`, as written.
    pub labels: Vec<String>,
    /// `labels` in lower case.
    pub(super) needs: BTreeSet<String>,
    /// Where its workflow lives.
    pub repository: Repository,
    /// How long it runs.
    pub duration: Duration,
    /// How it is meant to end.
    pub(super) meant: Conclusion,
    /// Where it stands.
    pub status: JobStatus,
    /// How it ended.
    pub conclusion: Option<Conclusion>,
    /// Who took it.
    pub runner: Option<JobRunner>,
    /// When it came into being.
    pub created_at: Instant,
    /// When it was queued, the last time; until then when it came into being.
    pub queued_at: Instant,
    /// When a runner took it.
    pub taken_at: Option<Instant>,
    /// When it ended.
    pub finished_at: Option<Instant>,
    /// Whether its runner is to stop it.
    pub(super) cancelled: bool,
}

/// A workflow run: its jobs.
pub(super) struct Run<'w> {
    pub(super) job: &'w Job,
    pub(super) others: Vec<&'w Job>,
}

impl Run<'_> {
    pub(super) fn id(&self) -> u64 {
        self.job.run_id
    }

    /// One status for all of its jobs: it hides what they differ in.
    pub(super) fn status(&self) -> JobStatus {
        let all = || self.others.iter().chain([&self.job]);
        let any = |status| all().any(|job| job.status == status);
        if all().all(|job| job.status == JobStatus::Completed) {
            JobStatus::Completed
        } else if any(JobStatus::InProgress) || any(JobStatus::Completed) {
            JobStatus::InProgress
        } else if any(JobStatus::Queued) {
            JobStatus::Queued
        } else {
            JobStatus::Waiting
        }
    }
}

/// The runner of a job, as events name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRunner {
    /// GitHub's id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Id of its runner group.
    pub group: u64,
    /// Name of its runner group.
    pub group_name: String,
}

impl World {
    pub(super) fn queue_job(&mut self, request: JobRequest) -> JobId {
        let (id, now) = (JobId(self.next_job), Instant::now());
        self.next_job += 1;
        let wanted = request.repository.as_deref().and_then(|name| self.find_repository(name));
        let repository = wanted.or(self.settings.repositories.first()).cloned();
        let run = request.run_of.and_then(|of| self.jobs.get(&of)).map(|of| of.run_id);
        let job = Job {
            id,
            run_id: run.unwrap_or(id.0 + 5_000_000),
            needs: request.labels.iter().map(|l| l.to_lowercase()).collect(),
            labels: request.labels,
            name: request.name,
            repository: repository.unwrap_or_else(|| Repository::private(1, "app")),
            duration: request.duration,
            meant: request.conclusion,
            status: if request.waiting { JobStatus::Waiting } else { JobStatus::Queued },
            conclusion: None,
            runner: None,
            created_at: now,
            queued_at: now,
            taken_at: None,
            finished_at: None,
            cancelled: false,
        };
        self.jobs.insert(id, job);
        if request.waiting {
            self.announce(id, Action::Waiting);
        } else {
            self.enter_queue(id);
        }
        id
    }

    fn enter_queue(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.status = JobStatus::Queued;
            job.queued_at = Instant::now();
            let what = What::JobQueued { job: id, name: job.name.clone(), labels: job.labels.clone() };
            self.tell(what);
        }
        self.announce(id, Action::Queued);
        self.requeue(id);
    }

    /// A queued job starts to wait for an approval.
    pub(super) fn hold(&mut self, id: JobId) -> bool {
        if !self.queue.remove(&id) {
            return false;
        }
        if let Some(job) = self.jobs.get_mut(&id) {
            job.status = JobStatus::Waiting;
        }
        self.announce(id, Action::Waiting);
        true
    }

    /// A waiting job is queued.
    pub(super) fn approve(&mut self, id: JobId) -> bool {
        let waiting = self.jobs.get(&id).is_some_and(|job| job.status == JobStatus::Waiting);
        if waiting {
            self.enter_queue(id);
        }
        waiting
    }

    /// Ends a job before its time; one that runs is stopped by its runner.
    pub(super) fn cancel(&mut self, id: JobId) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        match job.status {
            JobStatus::Completed => false,
            JobStatus::InProgress => {
                job.cancelled = true;
                let wake = self.runners.values().find(|r| r.job.is_some_and(|(job, _)| job == id));
                wake.inspect(|runner| runner.wake.notify_one());
                true
            }
            JobStatus::Queued | JobStatus::Waiting => {
                for runner in self.runners.values_mut().filter(|r| r.job.is_some_and(|(job, _)| job == id)) {
                    runner.job = None;
                }
                self.complete(id, Conclusion::Cancelled);
                true
            }
        }
    }

    /// Puts a job that nobody runs into the queue, and gives it away if a runner suits.
    pub(super) fn requeue(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id).filter(|job| job.status == JobStatus::Queued) else { return };
        let idle = |r: &&super::state::Runner| r.in_session && r.polls > 0 && r.job.is_none();
        let taker = self.runners.values().filter(idle).find(|r| self.suits(r, job)).map(|r| r.id);
        match taker {
            Some(runner) => self.give(id, runner),
            None => {
                self.queue.insert(id);
            }
        }
    }

    /// Gives an idle runner the oldest job that suits it.
    pub(super) fn feed(&mut self, runner: u64) {
        let Some(idle) = self.runners.get(&runner).filter(|r| r.job.is_none()) else { return };
        let mut suited = self.queue.iter().filter_map(|id| self.jobs.get(id)).filter(|job| self.suits(idle, job));
        if let Some(job) = suited.next().map(|job| job.id) {
            self.give(job, runner);
        }
    }

    fn give(&mut self, job: JobId, runner: u64) {
        self.queue.remove(&job);
        if let Some(runner) = self.runners.get_mut(&runner) {
            runner.job = Some((job, Instant::now()));
            runner.wake.notify_one();
        }
    }

    /// The runner confirms the job it was given; only now it is in progress. Idempotent.
    pub(super) fn claim(&mut self, runner_id: u64, id: JobId) -> Option<Duration> {
        let runner = self.runners.get(&runner_id).filter(|r| r.job.is_some_and(|(job, _)| job == id))?;
        let taken_by = JobRunner {
            id: runner.id,
            name: runner.name.clone(),
            group: runner.group,
            group_name: self.group_name(runner),
        };
        let job = self.jobs.get_mut(&id)?;
        if job.status != JobStatus::Queued {
            return job.runner.as_ref().filter(|r| r.id == runner_id).map(|_| job.duration);
        }
        let now = Instant::now();
        job.status = JobStatus::InProgress;
        job.taken_at = Some(now);
        let what = What::JobTaken {
            job: id,
            runner: taken_by.name.clone(),
            waited: now.saturating_duration_since(job.queued_at),
        };
        job.runner = Some(taken_by);
        let duration = job.duration;
        self.tell(what);
        self.announce(id, Action::InProgress);
        Some(duration)
    }

    /// Ends a job for good.
    pub(super) fn complete(&mut self, id: JobId, conclusion: Conclusion) {
        self.queue.remove(&id);
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.status != JobStatus::Completed) else { return };
        let now = Instant::now();
        job.status = JobStatus::Completed;
        job.conclusion = Some(conclusion);
        job.finished_at = Some(now);
        let what = What::JobFinished {
            job: id,
            conclusion,
            runner: job.runner.as_ref().map(|r| r.name.clone()),
            ran: job.taken_at.map(|at| now.saturating_duration_since(at)),
        };
        self.tell(what);
        self.announce(id, Action::Completed);
        self.finished.push_back(id);
        if self.finished.len() > self.settings.history
            && let Some(oldest) = self.finished.pop_front()
        {
            self.jobs.remove(&oldest);
        }
    }

    /// The runner says that its job is over: an ephemeral runner goes with it.
    pub(super) fn finish(&mut self, runner: u64, id: JobId, stopped: bool) -> bool {
        let Some(job) = self.jobs.get(&id).filter(|job| job.runner.as_ref().is_some_and(|r| r.id == runner)) else {
            return false;
        };
        let conclusion = match (job.cancelled, stopped) {
            (true, _) => Conclusion::Cancelled,
            (false, true) => Conclusion::Failure,
            (false, false) => job.meant,
        };
        self.forget(runner);
        self.complete(id, conclusion);
        true
    }
}
