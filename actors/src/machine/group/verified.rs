//! What GitHub says of a job that waited or ran for long. Only GitHub's own answer ends it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{Effect, Group, Note};
use crate::id::JobId;
use crate::machine::verify::{self, Known};
use crate::machine::{found, job as job_machine};
use crate::model::delivery::{JobAction, JobEvent};
use crate::model::group::JobNews;
use crate::model::job::{Job, JobStatus, Milestone};
use crate::model::remote::GitHubError;
use crate::model::runner::Runner;

impl Group {
    /// The answer to [`Effect::Verify`]: the job as it is now, or none when GitHub says that there is none.
    ///
    /// That it was taken or is over holds whatever came meanwhile. That it waits, or is not known, counts only if
    /// nothing was heard of it since it was asked for: else it is asked about again.
    pub fn verified(
        &mut self,
        id: JobId,
        answer: Result<Option<JobEvent>, GitHubError>,
        now: Timestamp,
    ) -> Vec<Effect> {
        let mut effects = vec![];
        let asked = self.checks.answered(id);
        let open = self.jobs.get(&id).filter(|job| verify::due(job).is_some()).cloned();
        if let (Some(asked), Some(job)) = (asked, open) {
            let unchanged = asked == Known::of(&job);
            match answer {
                Err(error) => self.not_verified(&job, &error, now),
                Ok(Some(event)) if event.job.id != id => {
                    let text = format!("the answer is about job {}", event.job.id);
                    self.not_verified(&job, &GitHubError::Unknown(text), now);
                }
                Ok(Some(event)) if unchanged || is_taken_or_over(event.action) => {
                    self.seen(&job, event, now, &mut effects);
                }
                Ok(None) if unchanged => self.forget(&job, now, &mut effects),
                Ok(_) => {}
            }
        }
        self.act(now, &mut effects);
        effects
    }

    /// GitHub shows the job like this.
    fn seen(&mut self, job: &Job, event: JobEvent, now: Timestamp, effects: &mut Vec<Effect>) {
        let (id, before, times) = (job.id(), job.status, job.verified.saturating_add(1));
        self.change(id, |job| job.note_once(now, answer(says(event.action))));
        let as_known = match event.action {
            // What was taken never waits again.
            _ if before == JobStatus::InProgress => event.action != JobAction::Completed,
            JobAction::Queued => before == JobStatus::Queued,
            JobAction::Waiting => before == JobStatus::Waiting,
            JobAction::InProgress | JobAction::Completed => false,
        };
        if !as_known && let Some(delivery) = found::delivery(event, Some(job), now) {
            self.happened(&delivery, true, None, effects);
            effects.push(Effect::Note(Note::Found));
        }
        self.change(id, |job| {
            // In another state it begins anew.
            if job.status == before {
                job.verified = times;
                job.verify_at = Some(verify::next(before, times, now));
            }
        });
    }

    /// A runner is gone: the job that it took is over, and somebody should have told.
    pub(super) fn runner_left(&mut self, runner: &Runner, now: Timestamp) {
        let Some(id) = runner.job else { return };
        if let Some(due) = self.jobs.get(&id).and_then(|job| verify::without_runner(job, now)) {
            self.change(id, |job| job.verify_at = Some(due));
        }
    }

    /// GitHub knows the job no more.
    fn forget(&mut self, job: &Job, now: Timestamp, effects: &mut Vec<Effect>) {
        let mut job = job.clone();
        job_machine::forgotten(&mut job, now);
        job.note(now, answer("it does not know the job any more"));
        let conclusion = job.conclusion.clone().unwrap_or_default();
        job.note(now, Milestone::Finished { conclusion: conclusion.clone() });
        effects.extend([Effect::Note(Note::Finished(conclusion, None)), Effect::Note(Note::Found)]);
        let (id, runner) = (job.id(), job.runner.clone());
        self.put_job(job);
        // A runner takes one job in its life, and a run that is not over cannot be deleted.
        if let Some(runner) = runner.and_then(|runner| self.our_runner(&runner)) {
            self.tell_news(runner, JobNews { job: id, completed: true }, effects);
        }
    }

    /// Nothing is known: the job stays as it is and is asked about again. What concerns GitHub as a whole makes the
    /// other questions wait too.
    fn not_verified(&mut self, job: &Job, error: &GitHubError, now: Timestamp) {
        match error {
            GitHubError::RateLimited { retry_after, .. } => self.checks.pause(now, *retry_after),
            GitHubError::Unknown(_) | GitHubError::Unauthorized(_) => self.checks.pause(now, Duration::ZERO),
            GitHubError::NotFound(_)
            | GitHubError::Forbidden(_)
            | GitHubError::Conflict(_)
            | GitHubError::Invalid(_) => {}
        }
        // One line for each kind of error: their texts may differ each time.
        let kind = error.kind().replace('_', " ");
        self.change(job.id(), |job| {
            job.note_once(now, answer(&format!("it could not be told ({kind})")));
            job.verify_at = Some(verify::next(job.status, 0, now));
        });
    }

    fn change(&mut self, id: JobId, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.jobs.get_mut(&id) {
            let job = Arc::make_mut(job);
            change(job);
            self.checks.put(job);
            self.dirty_jobs.insert(id);
        }
    }
}

fn is_taken_or_over(action: JobAction) -> bool {
    matches!(action, JobAction::InProgress | JobAction::Completed)
}

fn answer(text: &str) -> Milestone {
    Milestone::Verified { answer: text.to_owned() }
}

fn says(action: JobAction) -> &'static str {
    match action {
        JobAction::Queued => "it is queued",
        JobAction::Waiting => "it waits for an approval",
        JobAction::InProgress => "it is in progress",
        JobAction::Completed => "it is over",
    }
}
