//! What an event makes of a job. The result depends on which events came, not on their order.

use jiff::Timestamp;

use crate::id::GroupName;
use crate::machine::{found, verify};
use crate::model::delivery::{Delivery, JobAction, JobFacts};
use crate::model::job::{Job, JobStatus, Milestone};

/// Deliveries remembered for each of `queued` and `waiting`; a job that has more keeps its first ones.
const DELIVERIES_MAX: usize = 32;

/// Conclusion of a job that GitHub knows no more.
pub const FORGOTTEN: &str = "unknown to GitHub";

/// A job of which nothing is known yet but what `facts` says.
#[must_use]
pub fn new(facts: JobFacts, group: Option<GroupName>, received_at: Timestamp) -> Job {
    Job {
        facts,
        group,
        status: JobStatus::Waiting,
        received_at,
        queued_at: None,
        taken_at: None,
        finished_at: None,
        conclusion: None,
        runner: None,
        queued_by: Default::default(),
        waiting_by: Default::default(),
        verified: 0,
        verify_at: None,
        timeline: Vec::new(),
    }
}

/// Adds one event to a job.
///
/// A job is final once it completed, taken once a runner took it, and otherwise in demand while more deliveries said
/// `queued` than said `waiting`: an approval gate sends queued, waiting, queued, with equal times, in any order.
pub fn apply(job: &mut Job, delivery: &Delivery) {
    let event = &delivery.event;
    let at = delivery.received_at;
    job.note(at, Milestone::Received { action: event.action.as_str().to_owned(), delivery: delivery.id.clone() });
    merge(&mut job.facts, &event.job);
    if let (None, Some(runner)) = (&job.runner, &event.runner) {
        // A queued event may name a runner of an earlier try; only these two say who took the job.
        if matches!(event.action, JobAction::InProgress | JobAction::Completed) {
            job.runner = Some(runner.clone());
        }
    }
    match event.action {
        JobAction::Queued => found::add(&mut job.queued_by, &delivery.id, DELIVERIES_MAX),
        JobAction::Waiting => found::add(&mut job.waiting_by, &delivery.id, DELIVERIES_MAX),
        JobAction::InProgress => {
            // Heard of late: it was taken before it finished.
            job.taken_at.get_or_insert(job.finished_at.map_or(at, |finished| at.min(finished)));
        }
        JobAction::Completed => {
            job.finished_at.get_or_insert(at);
            if job.conclusion.is_none() {
                job.conclusion = Some(event.conclusion.clone().unwrap_or_else(|| "unknown".to_owned()));
            }
        }
    }
    let before = job.status;
    job.status = status(job);
    if job.status != before {
        (job.verified, job.verify_at) = (0, verify::first(job.status, at));
    }
    match job.status {
        JobStatus::Queued => {
            job.queued_at.get_or_insert(at);
        }
        JobStatus::Waiting => job.queued_at = None,
        JobStatus::InProgress | JobStatus::Completed | JobStatus::Unmatched => {}
    }
}

/// GitHub knows the job no more: it is over, nobody knows how.
pub fn forgotten(job: &mut Job, at: Timestamp) {
    job.finished_at.get_or_insert(at);
    job.conclusion.get_or_insert_with(|| FORGOTTEN.to_owned());
    job.status = status(job);
}

fn status(job: &Job) -> JobStatus {
    if job.finished_at.is_some() {
        JobStatus::Completed
    } else if job.taken_at.is_some() {
        JobStatus::InProgress
    } else if found::count(&job.queued_by) > found::count(&job.waiting_by) {
        JobStatus::Queued
    } else {
        JobStatus::Waiting
    }
}

/// Fills in what earlier events left out.
fn merge(known: &mut JobFacts, new: &JobFacts) {
    fn fill<T: Clone>(known: &mut Option<T>, new: &Option<T>) {
        if known.is_none() {
            known.clone_from(new);
        }
    }
    fill(&mut known.run_attempt, &new.run_attempt);
    fill(&mut known.workflow_name, &new.workflow_name);
    fill(&mut known.head_branch, &new.head_branch);
    fill(&mut known.organization, &new.organization);
    fill(&mut known.enterprise, &new.enterprise);
    fill(&mut known.installation_id, &new.installation_id);
    fill(&mut known.created_at, &new.created_at);
    fill(&mut known.completed_at, &new.completed_at);
    // While queued GitHub repeats the creation time here: the latest is the real start.
    known.started_at = known.started_at.max(new.started_at);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::id::{DeliveryId, RunnerId};
    use crate::machine::group::tests::{delivery, facts};
    use crate::model::delivery::RunnerRef;

    /// What must not depend on the order of events.
    fn outcome(job: &Job) -> (JobStatus, Option<String>, Option<RunnerRef>, bool) {
        (job.status, job.conclusion.clone(), job.runner.clone(), job.in_demand())
    }

    fn permutations<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
        if items.is_empty() {
            return vec![vec![]];
        }
        (0..items.len())
            .flat_map(|i| {
                let mut rest = items.to_vec();
                let first = rest.remove(i);
                permutations(&rest).into_iter().map(move |mut p| {
                    p.insert(0, first.clone());
                    p
                })
            })
            .collect()
    }

    fn run(deliveries: &[Delivery]) -> Job {
        let mut job = new(facts(1), None, deliveries[0].received_at);
        for delivery in deliveries {
            apply(&mut job, delivery);
        }
        job
    }

    #[test]
    fn every_permutation_and_duplication_of_a_jobs_events_ends_in_the_same_state() {
        let mut events = [
            delivery("q1", 1, JobAction::Queued),
            delivery("w", 1, JobAction::Waiting),
            delivery("q2", 1, JobAction::Queued),
            delivery("p", 1, JobAction::InProgress),
            delivery("c", 1, JobAction::Completed),
        ];
        let runner = Some(RunnerRef { id: Some(RunnerId(9)), name: "octo-00000000".into() });
        events[3].event.runner = runner.clone();
        events[4].event.runner = runner;
        events[4].event.conclusion = Some("success".into());
        let mut checked = 0;
        // Every subset (an event may be lost), in every order, with every single event once more at the end.
        for subset in 1..(1_u32 << events.len()) {
            let chosen: Vec<_> =
                events.iter().enumerate().filter(|(i, _)| subset & (1 << i) != 0).map(|(_, e)| e.clone()).collect();
            let expected = outcome(&run(&chosen));
            for order in permutations(&chosen) {
                assert_eq!(outcome(&run(&order)), expected, "{order:?}");
                for again in &chosen {
                    let mut twice = order.clone();
                    twice.push(again.clone());
                    assert_eq!(outcome(&run(&twice)), expected, "{twice:?}");
                }
                checked += 1;
            }
        }
        assert_eq!(checked, 325);
    }

    #[test]
    fn only_who_took_the_job_is_its_runner() {
        let named = |id: &str, action, name: &str| {
            let mut delivery = delivery(id, 1, action);
            delivery.event.runner = Some(RunnerRef { id: None, name: name.into() });
            delivery
        };
        let queued = run(&[named("q", JobAction::Queued, "of-an-earlier-try")]);
        assert_eq!(queued.runner, None);
        let taken =
            run(&[named("q", JobAction::Queued, "of-an-earlier-try"), named("p", JobAction::InProgress, "octo-1")]);
        assert_eq!(taken.runner.unwrap().name, "octo-1");
    }

    #[test]
    fn an_approval_takes_a_job_out_of_demand_until_it_is_queued_again() {
        let q = |id| delivery(id, 1, JobAction::Queued);
        let w = |id| delivery(id, 1, JobAction::Waiting);
        assert_eq!(run(&[q("1")]).status, JobStatus::Queued);
        assert_eq!(run(&[q("1"), w("2")]).status, JobStatus::Waiting);
        assert_eq!(run(&[q("1"), w("2"), q("3")]).status, JobStatus::Queued);
        assert_eq!(run(&[q("1"), q("3"), w("2")]).status, JobStatus::Queued);
    }

    #[test]
    fn a_finished_job_is_never_revived() {
        let mut done = run(&[delivery("c", 1, JobAction::Completed)]);
        for (n, action) in [JobAction::Queued, JobAction::Waiting, JobAction::InProgress].into_iter().enumerate() {
            let mut late = delivery("late", 1, action);
            late.id = DeliveryId::new(format!("late-{n}")).unwrap();
            apply(&mut done, &late);
            assert_eq!(done.status, JobStatus::Completed);
        }
    }

    #[test]
    fn a_job_was_taken_before_it_finished_even_if_that_is_heard_of_later() {
        let done = delivery("c", 1, JobAction::Completed);
        let mut late = delivery("s", 1, JobAction::InProgress);
        late.received_at = done.received_at + Duration::from_secs(40);
        let job = run(&[done.clone(), late]);
        assert_eq!((job.taken_at, job.finished_at), (Some(done.received_at), Some(done.received_at)));
    }

    #[test]
    fn a_timeline_stays_bounded_and_keeps_its_beginning() {
        let mut job = run(&[delivery("first", 1, JobAction::Queued)]);
        for n in 0..1000 {
            let mut next = delivery("x", 1, JobAction::Queued);
            next.id = DeliveryId::new(format!("d-{n}")).unwrap();
            apply(&mut job, &next);
        }
        assert_eq!(job.timeline.len(), crate::model::job::TIMELINE_MAX);
        assert!(matches!(&job.timeline[0].what, Milestone::Received { delivery, .. } if delivery.as_str() == "first"));
        assert!(job.queued_by.len() <= DELIVERIES_MAX);
    }
}
