//! What GitHub tells of a job when it is asked, as a delivery like those of webhooks.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::id::DeliveryId;
use crate::machine::job::FORGOTTEN;
use crate::model::delivery::{Delivery, JobAction, JobEvent};
use crate::model::job::{Job, JobStatus};

/// Start of the ids of such deliveries; those of GitHub are GUIDs.
const PREFIX: &str = "found-";

/// The delivery that tells what a webhook should have told: that GitHub shows the job in this state now. Its id is the
/// same whenever the same is found of a job that is known in the same way: `found-<job>-<attempt>-<action>`.
///
/// How often a job was queued and waited decides where it stands. So these two end with that number: `queued-2` says
/// that it was queued twice at least. The webhook that was late, or is sent again, adds nothing to that. A job that no
/// group served so far is told anew.
#[must_use]
pub fn delivery(event: JobEvent, known: Option<&Job>, at: Timestamp) -> Option<Delivery> {
    let (job, attempt) = (event.job.id, event.job.run_attempt.unwrap_or(1));
    let anew = if known.is_some_and(|job| job.status == JobStatus::Unmatched) { "matched-" } else { "" };
    let action = format!("{anew}{}", event.action.as_str().replace('_', "-"));
    let id = match event.action {
        JobAction::Queued => {
            let nth = known.map_or(0, |job| count(&job.waiting_by)) + 1;
            format!("{PREFIX}{job}-{attempt}-{action}-{nth}")
        }
        JobAction::Waiting => {
            let nth = known.map_or(0, |job| count(&job.queued_by)).max(1);
            format!("{PREFIX}{job}-{attempt}-{action}-{nth}")
        }
        JobAction::InProgress | JobAction::Completed => format!("{PREFIX}{job}-{attempt}-{action}"),
    };
    Some(Delivery { id: DeliveryId::new(id).ok()?, received_at: at, event, matched: String::new() })
}

/// What GitHub answered about a job, as the delivery that tells the group of the runner that took it: that it did, or that
/// the job is over. None when the answer says neither, or no runner is known. Without an answer's event GitHub knows the
/// job no more: over as well, if it was taken.
#[must_use]
pub fn for_runner(answer: Option<&JobEvent>, known: &Job, at: Timestamp) -> Option<Delivery> {
    let event = match answer {
        Some(event) if event.job.id != known.id() => return None,
        Some(event) => event.clone(),
        None if known.status != JobStatus::InProgress => return None,
        None => JobEvent {
            action: JobAction::Completed,
            job: known.facts.clone(),
            runner: None,
            conclusion: Some(FORGOTTEN.to_owned()),
        },
    };
    let runner = event.runner.clone().or_else(|| known.runner.clone())?;
    match event.action {
        JobAction::InProgress | JobAction::Completed => {
            delivery(JobEvent { runner: Some(runner), ..event }, Some(known), at)
        }
        JobAction::Queued | JobAction::Waiting => None,
    }
}

/// Whether it is news that GitHub shows an open job in the state of `action`, after `asked`. What was heard of the job
/// since then is newer. `serves` tells whether a group would serve it.
#[must_use]
pub fn is_news(action: JobAction, known: Option<&Job>, asked: Timestamp, serves: impl FnOnce() -> bool) -> bool {
    let Some(job) = known else { return action != JobAction::Completed };
    if job.timeline.last().is_some_and(|last| last.at >= asked) {
        return false;
    }
    match job.status {
        JobStatus::Queued => action != JobAction::Queued,
        JobStatus::Waiting => action != JobAction::Waiting,
        JobStatus::InProgress => action == JobAction::Completed,
        JobStatus::Completed => false,
        JobStatus::Unmatched => serves(),
    }
}

/// How often a job was queued, or waited, as these deliveries tell.
#[must_use]
pub fn count(deliveries: &BTreeSet<DeliveryId>) -> usize {
    let told = deliveries.iter().filter(|id| nth(id).is_none()).count();
    deliveries.iter().filter_map(nth).max().map_or(told, |found| found.max(told))
}

/// Adds a delivery to those that said the same, of which webhooks are at most `max`. Says less than another that was
/// found: left out.
pub(super) fn add(deliveries: &mut BTreeSet<DeliveryId>, id: &DeliveryId, max: usize) {
    match nth(id) {
        Some(new) => {
            let known = deliveries.iter().filter_map(nth).max().unwrap_or(0);
            if new > known {
                deliveries.retain(|id| nth(id).is_none());
                deliveries.insert(id.clone());
            }
        }
        None if deliveries.iter().filter(|id| nth(id).is_none()).count() < max => {
            deliveries.insert(id.clone());
        }
        None => {}
    }
}

/// The number at the end of the id of a delivery that was found.
fn nth(id: &DeliveryId) -> Option<usize> {
    id.as_str().strip_prefix(PREFIX)?.rsplit_once('-')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::group::tests::{delivery as webhook, facts};
    use crate::machine::job as job_machine;
    use crate::model::delivery::RunnerRef;

    fn event(action: JobAction) -> JobEvent {
        JobEvent { action, job: facts(u64::MAX), runner: None, conclusion: None }
    }

    fn found(action: JobAction, known: Option<&Job>) -> Delivery {
        delivery(event(action), known, Timestamp::from_second(2000).unwrap()).unwrap()
    }

    fn run(deliveries: &[&Delivery]) -> Job {
        let mut job = job_machine::new(facts(u64::MAX), None, Timestamp::from_second(1000).unwrap());
        deliveries.iter().for_each(|delivery| job_machine::apply(&mut job, delivery));
        job
    }

    #[test]
    fn ids_have_the_form_of_delivery_ids_and_are_the_same_for_the_same() {
        for (action, end) in [
            (JobAction::Queued, "queued-1"),
            (JobAction::Waiting, "waiting-1"),
            (JobAction::InProgress, "in-progress"),
            (JobAction::Completed, "completed"),
        ] {
            let id = found(action, None).id;
            assert_eq!(id.as_str(), format!("found-{}-1-{end}", u64::MAX));
            assert_eq!(id, found(action, None).id);
            assert!(id.as_str().len() <= 64);
        }
    }

    #[test]
    fn what_was_found_brings_the_job_where_github_has_it_and_late_webhooks_change_nothing() {
        let (queued, waiting) = (webhook("q", 1, JobAction::Queued), webhook("w", 1, JobAction::Waiting));
        let again = webhook("q2", 1, JobAction::Queued);

        // Its webhook was lost, or is late.
        let first = found(JobAction::Queued, None);
        assert_eq!(run(&[&first]).status, JobStatus::Queued);
        assert_eq!(run(&[&first, &queued, &waiting]).status, JobStatus::Waiting, "it was queued once");
        assert_eq!(run(&[&queued, &waiting, &first]).status, JobStatus::Waiting);

        // It was approved, and that webhook was lost.
        let approved = found(JobAction::Queued, Some(&run(&[&queued, &waiting])));
        for order in [[&queued, &waiting, &approved], [&approved, &waiting, &queued], [&waiting, &approved, &queued]] {
            assert_eq!(run(&order).status, JobStatus::Queued);
        }
        let late = run(&[&queued, &waiting, &approved, &again, &webhook("w2", 1, JobAction::Waiting)]);
        assert_eq!(late.status, JobStatus::Waiting, "queued twice, whoever told, and waited twice");

        // It waits, and that webhook was lost.
        let held = found(JobAction::Waiting, Some(&run(&[&queued])));
        assert_eq!(run(&[&queued, &held]).status, JobStatus::Waiting);
        assert_eq!(run(&[&held, &again, &queued]).status, JobStatus::Queued);
    }

    #[test]
    fn the_group_of_a_runner_is_told_that_its_job_was_taken_or_is_over_also_when_github_forgot_the_job() {
        let runner = |name: &str| Some(RunnerRef { id: None, name: name.into() });
        let told = |answer: Option<JobEvent>, known: &Job| {
            let delivery = for_runner(answer.as_ref(), known, Timestamp::UNIX_EPOCH)?;
            let event = delivery.event;
            Some((delivery.id.to_string(), event.action, event.runner.unwrap().name, event.conclusion))
        };
        let mut job = run(&[&webhook("q", u64::MAX, JobAction::Queued)]);
        let [taken, over] = [JobAction::InProgress, JobAction::Completed].map(|action| {
            let named = JobEvent { runner: runner("theirs-1"), ..event(action) };
            (found(action, None).id.to_string(), action, "theirs-1".to_owned(), named)
        });
        for (id, action, name, named) in [&taken, &over] {
            assert_eq!(told(Some(named.clone()), &job), Some((id.clone(), *action, name.clone(), None)));
        }
        assert_eq!(told(Some(event(JobAction::Completed)), &job), None, "no runner is known");
        assert_eq!(told(None, &job), None, "it was cancelled before any runner took it, perhaps");
        let queued = JobEvent { runner: runner("theirs-1"), ..event(JobAction::Queued) };
        assert_eq!(told(Some(queued), &job), None);

        (job.status, job.runner) = (JobStatus::InProgress, runner("theirs-1"));
        let (id, action, name, named) = over;
        assert_eq!(told(Some(event(action)), &job), Some((id.clone(), action, name.clone(), None)));
        assert_eq!(told(None, &job), Some((id, action, name, Some(FORGOTTEN.to_owned()))));
        let other = JobEvent { job: facts(1), ..named };
        assert_eq!(told(Some(other), &job), None, "an answer about another job");
    }

    #[test]
    fn only_what_is_further_than_the_job_is_known_to_be_is_news() {
        use JobAction::{Completed, InProgress, Queued, Waiting};
        let mut job = run(&[&webhook("q", 1, Queued)]);
        let mut news = |status, now: i64, serves: bool| {
            job.status = status;
            let asked = Timestamp::from_second(now).unwrap();
            [Queued, Waiting, InProgress, Completed].map(|action| is_news(action, Some(&job), asked, || serves))
        };
        assert_eq!(news(JobStatus::Queued, 1001, true), [false, true, true, true]);
        assert_eq!(news(JobStatus::Waiting, 1001, true), [true, false, true, true]);
        assert_eq!(news(JobStatus::InProgress, 1001, true), [false, false, false, true]);
        assert_eq!(news(JobStatus::Completed, 1001, true), [false; 4]);
        assert_eq!(news(JobStatus::Unmatched, 1001, true), [true; 4]);
        assert_eq!(news(JobStatus::Unmatched, 1001, false), [false; 4]);
        assert_eq!(news(JobStatus::Waiting, 1000, true), [false; 4], "its last event is newer than the question");
        let unknown = [Queued, Waiting, InProgress, Completed];
        assert_eq!(unknown.map(|a| is_news(a, None, Timestamp::UNIX_EPOCH, || false)), [true, true, true, false]);
    }

    #[test]
    fn what_is_remembered_stays_bounded_and_says_enough() {
        let mut set = BTreeSet::new();
        for n in 1..100 {
            add(&mut set, &DeliveryId::new(format!("found-1-1-queued-{n}")).unwrap(), 3);
            add(&mut set, &DeliveryId::new(format!("d-{n}")).unwrap(), 3);
        }
        assert_eq!((set.len(), count(&set)), (4, 99));
        add(&mut set, &DeliveryId::new("found-1-1-queued-7").unwrap(), 3);
        assert_eq!(count(&set), 99);
    }
}
