//! When GitHub is asked about a job that waits, or runs for long: a webhook may have been lost, or the job may be long
//! over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::id::JobId;
use crate::machine::backoff::after;
use crate::machine::found;
use crate::model::job::{Job, JobStatus};

/// A job that waits for longer is asked about, and again after each further such time.
pub const VERIFY_AFTER: Duration = Duration::from_secs(600);
/// Longest time between two questions about one job that waits.
const LONGEST: Duration = Duration::from_secs(3600);
/// A job that runs for longer is asked about, and again after twice as long each time.
const RUNS_LONG: Duration = Duration::from_secs(3600);
/// Longest time between two questions about one job that runs; GitHub lets it run for five days at most.
const RUNS_LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Jobs of one group that GitHub is asked about at once.
const AT_ONCE: usize = 10;
/// Shortest pause of a group's questions after one that was not answered.
const PAUSE: Duration = Duration::from_secs(60);

/// When a job is asked about next; none when it is over, or not served.
#[must_use]
pub fn due(job: &Job) -> Option<Timestamp> {
    let since = match job.status {
        JobStatus::InProgress => job.taken_at,
        _ => job.queued_at,
    };
    let first = first(job.status, since.unwrap_or(job.received_at))?;
    Some(job.verify_at.unwrap_or(first))
}

/// When a job is asked about first that is like this since a time; none when it is over, or not served.
#[must_use]
pub fn first(status: JobStatus, since: Timestamp) -> Option<Timestamp> {
    match status {
        JobStatus::Queued | JobStatus::Waiting => Some(after(since, VERIFY_AFTER)),
        JobStatus::InProgress => Some(after(since, RUNS_LONG)),
        JobStatus::Completed | JobStatus::Unmatched => None,
    }
}

/// When a job that is like this is asked about again, after GitHub answered so often.
#[must_use]
pub fn next(status: JobStatus, times: u32, now: Timestamp) -> Timestamp {
    let wait = match status {
        JobStatus::InProgress => RUNS_LONG.saturating_mul(1 << times.min(16)).min(RUNS_LONGEST),
        _ => VERIFY_AFTER.saturating_mul(times.max(1)).min(LONGEST),
    };
    after(now, wait)
}

/// When a job is asked about whose runner was seen gone: it is over by then, or never will be.
#[must_use]
pub fn without_runner(job: &Job, now: Timestamp) -> Option<Timestamp> {
    let soon = after(now, VERIFY_AFTER);
    due(job).filter(|due| job.status == JobStatus::InProgress && *due > soon).map(|_| soon)
}

/// What was known of a job when it was asked about. An answer about an open job counts only while it still is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    status: JobStatus,
    queued: usize,
    waited: usize,
}

impl Known {
    /// What is known now.
    #[must_use]
    pub fn of(job: &Job) -> Self {
        Self { status: job.status, queued: found::count(&job.queued_by), waited: found::count(&job.waiting_by) }
    }
}

/// The jobs of one group that wait or run, by when they are asked about.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    places: BTreeMap<JobId, Place>,
    /// Those whose time has not come, and those whose time has.
    later: BTreeSet<(Timestamp, JobId)>,
    ripe: BTreeSet<(Timestamp, JobId)>,
    /// Ripe ones that are in demand.
    held: usize,
    asked: BTreeMap<JobId, Known>,
    paused_until: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    due: Timestamp,
    in_demand: bool,
}

impl Checks {
    /// Brings a job's place up to date.
    pub fn put(&mut self, job: &Job) {
        let id = job.id();
        if let Some(Place { due, in_demand }) = self.places.remove(&id) {
            self.later.remove(&(due, id));
            if self.ripe.remove(&(due, id)) && in_demand {
                self.held -= 1;
            }
        }
        if let Some(due) = due(job) {
            self.places.insert(id, Place { due, in_demand: job.in_demand() });
            self.later.insert((due, id));
        }
    }

    /// The jobs to ask about now, those that are due for longest first.
    pub fn ask(&mut self, now: Timestamp, known: impl Fn(JobId) -> Option<Known>) -> Vec<JobId> {
        while let Some((due, id)) = self.later.pop_first() {
            if due > now {
                self.later.insert((due, id));
                break;
            }
            self.ripe.insert((due, id));
            self.held += usize::from(self.places.get(&id).is_some_and(|place| place.in_demand));
        }
        if self.is_paused(now) {
            return vec![];
        }
        let free = AT_ONCE.saturating_sub(self.asked.len());
        let ask: Vec<JobId> =
            self.ripe.iter().map(|(_, id)| *id).filter(|id| !self.asked.contains_key(id)).take(free).collect();
        self.asked.extend(ask.iter().filter_map(|id| Some((*id, known(*id)?))));
        ask
    }

    /// An answer came: what was known when it was asked for, if it was.
    pub fn answered(&mut self, job: JobId) -> Option<Known> {
        self.asked.remove(&job)
    }

    /// GitHub did not answer: no other question for some time, at least for `wait`.
    pub fn pause(&mut self, now: Timestamp, wait: Duration) {
        self.paused_until = self.paused_until.max(Some(after(now, wait.max(PAUSE))));
    }

    fn is_paused(&self, now: Timestamp) -> bool {
        self.paused_until.is_some_and(|until| until > now)
    }

    /// Whether this job is not to be served before GitHub was asked about it. While GitHub does not answer, it is.
    #[must_use]
    pub fn holds(&self, job: JobId, now: Timestamp) -> bool {
        !self.is_paused(now) && self.places.get(&job).is_some_and(|place| self.ripe.contains(&(place.due, job)))
    }

    /// How many jobs in demand are held so, as of the last [`Self::ask`].
    #[must_use]
    pub fn held(&self, now: Timestamp) -> usize {
        if self.is_paused(now) { 0 } else { self.held }
    }

    /// When there is something to ask.
    #[must_use]
    pub fn wake_at(&self) -> Option<Timestamp> {
        // Questions that are out answer, and the next ones are asked then.
        if self.asked.len() >= AT_ONCE {
            return None;
        }
        let (due, _) = self.ripe.iter().find(|(_, job)| !self.asked.contains_key(job)).or(self.later.first())?;
        Some(self.paused_until.map_or(*due, |until| until.max(*due)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::group::tests::{delivery, facts};
    use crate::machine::job as job_machine;
    use crate::model::delivery::JobAction;

    fn t(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn queued(id: u64, at: i64) -> Job {
        let mut delivery = delivery(&format!("q-{id}"), id, JobAction::Queued);
        delivery.received_at = t(at);
        let mut job = job_machine::new(facts(id), None, t(at));
        job_machine::apply(&mut job, &delivery);
        job
    }

    #[test]
    fn a_job_that_waits_is_due_after_ten_minutes_and_less_and_less_often_then() {
        let mut job = queued(1, 0);
        assert_eq!(due(&job), Some(t(600)));
        job.verify_at = Some(next(JobStatus::Queued, 1, t(600)));
        assert_eq!(due(&job), Some(t(1200)));
        assert_eq!(next(JobStatus::Queued, 2, t(1200)), t(2400));
        assert_eq!(next(JobStatus::Waiting, u32::MAX, t(0)), t(3600));
        job.status = JobStatus::Completed;
        assert_eq!(due(&job), None);
    }

    #[test]
    fn a_job_that_runs_is_due_after_an_hour_then_later_and_later_and_soon_once_its_runner_is_gone() {
        let mut job = queued(1, 0);
        let mut taken = delivery("p", 1, JobAction::InProgress);
        taken.received_at = t(100);
        job_machine::apply(&mut job, &taken);
        assert_eq!((due(&job), job.verify_at), (Some(t(3700)), Some(t(3700))));
        job.verify_at = None;
        assert_eq!(due(&job), Some(t(3700)), "as an older version saved it");
        assert_eq!(
            [0, 1, 2, 3, 4, 5, u32::MAX].map(|n| next(JobStatus::InProgress, n, t(0)).as_second() / 3600),
            [1, 2, 4, 8, 16, 24, 24]
        );
        assert_eq!(without_runner(&job, t(200)), Some(t(800)));
        assert_eq!(without_runner(&job, t(3650)), None, "it is asked about sooner anyway");
        assert_eq!(without_runner(&queued(2, 0), t(0)), None);
    }

    #[test]
    fn at_most_ten_are_asked_about_at_once_the_oldest_first_and_none_while_github_does_not_answer() {
        let mut checks = Checks::default();
        for n in 0..25 {
            checks.put(&queued(n, 100 - i64::try_from(n).unwrap()));
        }
        let known = |id: JobId| Some(Known::of(&queued(id.0, 0)));
        assert_eq!(checks.ask(t(600), known), [], "none is old enough");
        assert_eq!(checks.wake_at(), Some(t(676)));
        let first = checks.ask(t(1000), known);
        assert_eq!(first, (15..25).rev().map(JobId).collect::<Vec<_>>());
        assert_eq!((checks.ask(t(1000), known), checks.wake_at()), (vec![], None));
        assert!(checks.answered(JobId(24)).is_some() && checks.answered(JobId(24)).is_none());
        checks.pause(t(1000), Duration::from_secs(90));
        assert_eq!(checks.ask(t(1089), known), []);
        assert_eq!((checks.holds(JobId(3), t(1089)), checks.held(t(1089))), (false, 0));
        assert_eq!(checks.wake_at(), Some(t(1090)));
        assert!(checks.holds(JobId(3), t(1090)));
        assert_eq!(checks.ask(t(1090), known).len(), 1);
    }
}
