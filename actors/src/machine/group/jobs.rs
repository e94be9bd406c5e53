//! What deliveries make of a group's jobs, and what the jobs' timelines tell.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Effect, Group, Note};
use crate::id::{JobId, RunnerName};
use crate::machine::plan::Hold;
use crate::machine::{job as job_machine, runner as runner_machine};
use crate::model::delivery::{Delivery, JobAction, RunnerRef};
use crate::model::group::JobNews;
use crate::model::inbox::InboxEntry;
use crate::model::job::{Job, JobStatus, Milestone};
use crate::model::runner::Runner;

impl Group {
    /// A delivery of the inbox.
    pub fn delivered(&mut self, entry: InboxEntry, now: Timestamp) -> Vec<Effect> {
        if entry.cursor <= self.snapshot.cursor {
            return vec![];
        }
        let mut effects = vec![];
        let queued = self.heard(entry, &mut effects);
        self.act(now, &mut effects);
        if let Some(job) = queued {
            self.explain_waiting(job, now);
        }
        effects
    }

    /// Takes note of a delivery of the inbox, once; returns the job that it says is queued.
    pub(super) fn heard(&mut self, entry: InboxEntry, effects: &mut Vec<Effect>) -> Option<JobId> {
        if entry.cursor <= self.snapshot.cursor {
            return None;
        }
        self.snapshot.cursor = entry.cursor;
        self.dirty = true;
        let event = &entry.delivery.event;
        let queued = (event.action == JobAction::Queued).then_some(event.job.id);
        self.happened(&entry.delivery, entry.assigned, entry.known, effects);
        queued
    }

    /// Brings the job up to date, and tells the runner that took it.
    pub(super) fn happened(
        &mut self,
        delivery: &Delivery,
        assigned: bool,
        known: Option<Job>,
        effects: &mut Vec<Effect>,
    ) {
        let elsewhere = known.as_ref().filter(|_| !assigned).map(is_over);
        let runner = if assigned { self.job_event(delivery, known, effects) } else { delivery.event.runner.clone() };
        let job = delivery.event.job.id;
        let own = self.jobs.get(&job).filter(|_| assigned).map(|job| is_over(job));
        if let Some(name) = runner.as_ref().and_then(|r| self.our_runner(r)) {
            match delivery.event.action {
                JobAction::Completed => self.tell_news(name, JobNews { job, completed: true }, effects),
                // Of a job that is over nothing more will be heard.
                JobAction::InProgress => {
                    if let Some(completed) = elsewhere.or(own).unwrap_or(Some(false)) {
                        self.tell_news(name, JobNews { job, completed }, effects);
                    }
                }
                JobAction::Queued | JobAction::Waiting => {}
            }
        }
    }

    /// Brings the job up to date and returns the runner that the event, or an earlier one, named.
    fn job_event(&mut self, delivery: &Delivery, known: Option<Job>, effects: &mut Vec<Effect>) -> Option<RunnerRef> {
        let id = delivery.event.job.id;
        let group = self.settings.name.clone();
        let mut is_new = false;
        let mut job = match self.jobs.get(&id) {
            Some(job) => Job::clone(job),
            None => match known {
                Some(known) if known.group.as_ref() == Some(&group) => known,
                _ => {
                    is_new = true;
                    job_machine::new(delivery.event.job.clone(), Some(group.clone()), delivery.received_at)
                }
            },
        };
        let (was_taken, was_final) = (job.taken_at.is_some(), job.status == JobStatus::Completed);
        job_machine::apply(&mut job, delivery);
        if is_new {
            job.note(delivery.received_at, Milestone::Matched { group, reason: delivery.matched.clone() });
        }
        if !was_final {
            self.job_milestones(&mut job, delivery, was_taken, effects);
        }
        let runner = job.runner.clone().or_else(|| match delivery.event.action {
            JobAction::InProgress | JobAction::Completed => delivery.event.runner.clone(),
            JobAction::Queued | JobAction::Waiting => None,
        });
        self.put_job(job);
        runner
    }

    /// Keeps a job's new state, with its place in demand.
    pub(super) fn put_job(&mut self, job: Job) {
        let id = job.id();
        if job.in_demand() {
            self.demand.insert(id, job.queued_at.unwrap_or(job.received_at));
        } else {
            self.demand.remove(id);
        }
        if job.status == JobStatus::Completed && !self.final_jobs.contains(&id) {
            self.final_jobs.push_back(id);
        }
        self.checks.put(&job);
        self.jobs.insert(id, Arc::new(job));
        self.dirty_jobs.insert(id);
    }

    fn job_milestones(&self, job: &mut Job, delivery: &Delivery, was_taken: bool, effects: &mut Vec<Effect>) {
        let at = delivery.received_at;
        match job.status {
            JobStatus::InProgress if !was_taken => {
                let name = job.runner.as_ref().map(|r| r.name.clone()).unwrap_or_default();
                let ours = job.runner.as_ref().is_some_and(|r| self.our_runner(r).is_some());
                job.note(at, Milestone::Taken { runner: name, ours });
                let waited = at.duration_since(job.queued_at.unwrap_or(job.received_at));
                effects.push(Effect::Note(Note::Taken(waited.try_into().unwrap_or_default())));
            }
            JobStatus::Completed => {
                let conclusion = job.conclusion.clone().unwrap_or_default();
                job.note(at, Milestone::Finished { conclusion: conclusion.clone() });
                let ran = job.taken_at.map(|taken| at.duration_since(taken).try_into().unwrap_or_default());
                effects.push(Effect::Note(Note::Finished(conclusion, ran)));
            }
            JobStatus::Waiting => job.note(at, Milestone::WaitingForApproval),
            JobStatus::InProgress | JobStatus::Queued | JobStatus::Unmatched => {}
        }
    }

    /// Tells a runner of its job, and remembers that until the runner's saved state shows it.
    pub(super) fn tell_news(&mut self, runner: RunnerName, news: JobNews, effects: &mut Vec<Effect>) {
        let known = self.snapshot.unsettled.entry(runner.clone()).or_insert(news);
        if news.completed {
            *known = news;
        }
        effects.push(Effect::Tell(runner, event_of(news)));
    }

    /// Tells a runner that was taken in what jobs say of it: their events came when nobody tracked it.
    pub(super) fn tell_what_was_heard(&mut self, name: &RunnerName, effects: &mut Vec<Effect>) {
        let its = |job: &&Arc<Job>| job.runner.as_ref().and_then(|named| self.our_runner(named)).as_ref() == Some(name);
        if let Some(job) = self.jobs.values().find(its) {
            let news = JobNews { job: job.id(), completed: job.status == JobStatus::Completed };
            self.tell_news(name.clone(), news, effects);
        }
    }

    /// By id, else by name. Ids are unique within one scope only: one with another name is somebody else's runner.
    pub(super) fn our_runner(&self, named: &RunnerRef) -> Option<RunnerName> {
        let by_id = named
            .id
            .and_then(|id| self.fleet.by_id(id))
            .filter(|found| named.name.is_empty() || found.name.as_str() == named.name);
        let by_name = || RunnerName::new(&named.name).ok().and_then(|name| self.fleet.get(&name).cloned());
        by_id.cloned().or_else(by_name).map(|runner| runner.name.clone())
    }

    /// Writes into the timeline of the job that the runner was requested for, while that still waits.
    pub(super) fn note_job(&mut self, runner: &Runner, now: Timestamp, what: Milestone) {
        let Some(job) =
            runner.for_job.and_then(|id| self.jobs.get_mut(&id)).filter(|j| j.status != JobStatus::Completed)
        else {
            return;
        };
        Arc::make_mut(job).note(now, what);
        self.dirty_jobs.insert(job.id());
    }

    pub(super) fn explain_waiting(&mut self, id: JobId, now: Timestamp) {
        if !self.demand.contains(id) || self.fleet.requested_for(id).is_some() {
            return;
        }
        let ahead = self.demand.iter().take_while(|job| *job != id).count();
        let what = match (self.hold(), self.snapshot.not_before.filter(|due| *due > now)) {
            (Some(Hold::Drained), _) => Milestone::Held { reason: "the group is drained".to_owned(), until: None },
            (Some(Hold::Looking), _) => {
                Milestone::Held { reason: "the group first looks what exists already".to_owned(), until: None }
            }
            (None, Some(until)) => Milestone::Held {
                reason: self.snapshot.last_error.as_ref().map(|e| e.text.clone()).unwrap_or_default(),
                until: Some(until),
            },
            (None, None) if self.total() < self.settings.max => return,
            (None, None) => Milestone::WaitingForCapacity { ahead, runners: self.total(), max: self.settings.max },
        };
        if let Some(job) = self.jobs.get_mut(&id) {
            Arc::make_mut(job).note(now, what);
            self.dirty_jobs.insert(id);
        }
    }
}

/// Whether a job is over. None when that is a guess, because GitHub did not know it: what it runs on is up to GitHub then.
fn is_over(job: &Job) -> Option<bool> {
    let over = job.status == JobStatus::Completed;
    (!over || job.conclusion.as_deref() != Some(job_machine::FORGOTTEN)).then_some(over)
}

pub(super) fn event_of(news: JobNews) -> runner_machine::Event {
    if news.completed {
        runner_machine::Event::JobCompleted(news.job)
    } else {
        runner_machine::Event::JobStarted(news.job)
    }
}
