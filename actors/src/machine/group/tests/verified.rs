//! Jobs that waited for long: asked about before they are served or dropped.

use super::*;
use crate::model::delivery::JobAction::Waiting;
use crate::model::remote::GitHubError;

pub(super) fn says(action: JobAction, job: u64) -> Result<Option<JobEvent>, GitHubError> {
    let conclusion = (action == Completed).then(|| "cancelled".to_owned());
    Ok(Some(JobEvent { action, job: facts(job), runner: None, conclusion }))
}

impl World {
    pub(super) fn verified(&mut self, job: u64, answer: Result<Option<JobEvent>, GitHubError>) {
        let effects = self.group.verified(JobId(job), answer, self.now);
        self.run(effects);
    }

    fn questions(&mut self) -> usize {
        std::mem::take(&mut self.effects).iter().filter(|effect| effect.starts_with("verify")).count()
    }

    fn questions_about(&mut self, job: u64) -> usize {
        let question = format!("verify {job}");
        std::mem::take(&mut self.effects).iter().filter(|effect| **effect == question).count()
    }

    fn status(&self, job: u64) -> JobStatus {
        self.group.job(JobId(job)).unwrap().status
    }

    fn answers(&self, job: u64) -> Vec<String> {
        let timeline = &self.group.job(JobId(job)).unwrap().timeline;
        let answer =
            |what: &Milestone| if let Milestone::Verified { answer } = what { Some(answer.clone()) } else { None };
        timeline.iter().filter_map(|entry| answer(&entry.what)).collect()
    }

    fn restart(&mut self) {
        let (snapshot, _) = self.group.take_changes().unwrap_or_else(|| (self.group.snapshot().clone(), vec![]));
        let loaded = Loaded {
            snapshot: Some(snapshot),
            runners: self.group.fleet().iter().map(|runner| Runner::clone(runner)).collect(),
            jobs: self.group.jobs.values().map(|job| Job::clone(job)).collect(),
            set_aside: 0,
        };
        let manager = ManagerName::new("test").unwrap();
        self.group = Group::new(Arc::clone(self.group.settings()), &manager, loaded, 9, self.now);
    }
}

/// A job that waits behind another one's runner.
fn waiting_behind_another() -> World {
    let mut w = World::new(0, 1);
    w.answers = false;
    w.deliver("q1", 1, Queued, None);
    w.start_all();
    let runner = w.in_state(RunnerState::Starting)[0].clone();
    w.deliver("p1", 1, InProgress, Some(&runner));
    w.deliver("q2", 2, Queued, None);
    w
}

#[test]
fn a_job_in_demand_for_ten_minutes_is_asked_about_and_what_github_says_decides() {
    for (answer, status, conclusion) in [
        (says(Completed, 2), JobStatus::Completed, Some("cancelled")),
        (says(InProgress, 2), JobStatus::InProgress, None),
        (says(Waiting, 2), JobStatus::Waiting, None),
        (says(Queued, 2), JobStatus::Queued, None),
        (Ok(None), JobStatus::Completed, Some("unknown to GitHub")),
        (Err(GitHubError::Unknown("500".into())), JobStatus::Queued, None),
        (Err(GitHubError::NotFound("the repository".into())), JobStatus::Queued, None),
    ] {
        let mut w = waiting_behind_another();
        w.pass(599);
        assert_eq!(w.questions(), 0, "too early");
        w.pass(1);
        assert_eq!(w.questions(), 1);
        w.pass(1);
        assert_eq!(w.questions(), 0, "it is asked about already");
        let text = format!("{answer:?}");
        w.verified(2, answer);
        assert_eq!((w.status(2), w.group.job(JobId(2)).unwrap().conclusion.as_deref()), (status, conclusion), "{text}");
        assert_eq!(w.group.demand().contains(JobId(2)), status == JobStatus::Queued, "{text}");
        assert_eq!(w.answers(2).len(), 1, "{text}");
        w.deliver("late", 2, Queued, None);
        let revived = status == JobStatus::Waiting;
        assert_eq!(w.status(2), if revived { JobStatus::Queued } else { status }, "{text}");
    }
}

#[test]
fn nothing_is_created_for_an_old_job_before_github_answered_and_it_is_when_github_cannot_tell() {
    for (answer, created) in [
        (says(Queued, 2), 1),
        (says(Completed, 2), 0),
        (Ok(None), 0),
        (Err(GitHubError::RateLimited { text: "slow".into(), retry_after: Duration::from_secs(90) }), 1),
    ] {
        let mut w = waiting_behind_another();
        w.pass(600);
        let runner = w.in_state(RunnerState::Busy)[0].clone();
        w.deliver("c1", 1, Completed, Some(&runner));
        w.finish_removals();
        assert_eq!(w.in_state(RunnerState::Registering).len(), 0, "its answer is not there yet");
        w.verified(2, answer.clone());
        assert_eq!(w.in_state(RunnerState::Registering).len(), created, "{answer:?}");
    }
}

#[test]
fn it_is_asked_again_less_and_less_often_also_after_restarts_and_told_once() {
    let mut w = waiting_behind_another();
    for minutes in [10, 10, 20, 30, 40, 50, 60, 60] {
        w.pass(minutes * 60 - 1);
        assert_eq!(w.questions_about(2), 0, "{minutes}");
        w.restart();
        w.pass(1);
        assert_eq!(w.questions_about(2), 1, "{minutes}");
        w.verified(2, says(Queued, 2));
    }
    assert_eq!(w.answers(2), ["it is queued"]);
    for text in ["one", "two"] {
        w.pass(3600);
        w.verified(2, Err(GitHubError::Unknown(text.into())));
    }
    assert_eq!(w.answers(2), ["it is queued", "it could not be told (unknown)"]);
}

#[test]
fn a_stale_answer_does_no_harm_but_that_a_job_is_over_always_holds() {
    // Queued again by webhooks while the answer was under way.
    let mut w = waiting_behind_another();
    w.pass(600);
    w.deliver("w2", 2, Waiting, None);
    w.deliver("q2b", 2, Queued, None);
    w.verified(2, says(Waiting, 2));
    assert_eq!(w.status(2), JobStatus::Queued, "the answer is older than the webhook");
    w.verified(2, Ok(None));
    assert_eq!(w.status(2), JobStatus::Queued, "nobody asked");

    let mut w = waiting_behind_another();
    w.pass(600);
    w.deliver("c2", 2, Completed, None);
    w.verified(2, says(InProgress, 2));
    assert_eq!((w.status(2), w.answers(2).len()), (JobStatus::Completed, 0));

    let mut w = waiting_behind_another();
    w.pass(600);
    w.deliver("w2", 2, Waiting, None);
    w.verified(2, says(Completed, 2));
    assert_eq!(w.status(2), JobStatus::Completed);

    let mut w = waiting_behind_another();
    w.pass(600);
    w.verified(2, says(Completed, 3));
    assert_eq!(w.status(2), JobStatus::Queued, "the answer is about another job");
    assert!(w.group.job(JobId(3)).is_none());
}

#[test]
fn a_job_that_waits_for_an_approval_whose_webhook_was_lost_comes_back_into_demand() {
    let mut w = World::new(0, 2);
    w.answers = false;
    w.deliver("q1", 1, Queued, None);
    w.deliver("w1", 1, Waiting, None);
    w.pass(600);
    assert_eq!(w.questions(), 1);
    w.verified(1, says(Queued, 1));
    assert!(w.group.demand().contains(JobId(1)));
    w.deliver("q1b", 1, Queued, None);
    w.deliver("w1b", 1, Waiting, None);
    assert_eq!(
        w.status(1),
        JobStatus::Waiting,
        "queued twice, waited twice: the lost webhook that came late adds nothing"
    );
}

#[test]
fn what_github_said_and_webhooks_in_any_order_end_in_the_same_state() {
    // The answer comes before, between or after the late webhooks of the same job.
    let late = [("p2", InProgress), ("c2", Completed), ("q2b", Queued)];
    for (answer, order) in
        (0..4).flat_map(|at| [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]].map(|o| (at, o)))
    {
        for said in [says(Completed, 2), says(InProgress, 2), says(Queued, 2)] {
            let mut w = waiting_behind_another();
            w.pass(600);
            for (n, which) in order.into_iter().enumerate() {
                if n == answer {
                    w.verified(2, said.clone());
                }
                w.deliver(late[which].0, 2, late[which].1, None);
            }
            if answer == 3 {
                w.verified(2, said.clone());
            }
            assert_eq!(w.status(2), JobStatus::Completed, "{said:?} at {answer} of {order:?}");
            assert!(w.group.demand().is_empty());
        }
    }
}

#[test]
fn ten_at_once_are_asked_about_the_oldest_first_and_none_waits_for_one_that_cannot_be_told() {
    let mut w = World::new(0, 1);
    w.answers = false;
    for job in 1..=30 {
        w.deliver(&format!("q{job}"), job, Queued, None);
        w.pass(1);
    }
    w.pass(600);
    let first: Vec<String> = (1..=10).map(|job| format!("verify {job}")).collect();
    assert_eq!(w.effects.iter().filter(|e| e.starts_with("verify")).cloned().collect::<Vec<_>>(), first);
    w.effects.clear();
    for job in 1..=10 {
        w.verified(job, Err(GitHubError::NotFound("its repository".into())));
    }
    let next: Vec<String> = (11..=20).map(|job| format!("verify {job}")).collect();
    assert_eq!(w.effects.iter().filter(|e| e.starts_with("verify")).cloned().collect::<Vec<_>>(), next);
    w.effects.clear();
    w.verified(11, Err(GitHubError::Unknown("no answer".into())));
    w.pass(59);
    assert_eq!(w.questions(), 0, "GitHub does not answer: all wait");
    w.pass(1);
    assert_eq!(w.questions(), 1);
}

#[test]
fn a_free_place_serves_a_young_job_while_an_older_one_is_asked_about() {
    let mut w = waiting_behind_another();
    w.pass(600);
    w.deliver("q3", 3, Queued, None);
    let runner = w.in_state(RunnerState::Busy)[0].clone();
    w.deliver("c1", 1, Completed, Some(&runner));
    w.finish_removals();
    let next = w.in_state(RunnerState::Registering);
    assert_eq!(next.iter().map(|name| w.runners[name].for_job).collect::<Vec<_>>(), [Some(JobId(3))]);
}

#[test]
fn the_runner_of_a_job_that_github_knows_no_more_is_removed() {
    let mut w = World::new(0, 1);
    w.answers = false;
    w.deliver("q1", 1, Queued, None);
    w.start_all();
    let runner = w.in_state(RunnerState::Starting)[0].clone();
    w.deliver("p1", 1, InProgress, Some(&runner));
    w.pass(3700);
    assert_eq!(w.questions_about(1), 1);
    w.verified(1, Ok(None));
    assert_eq!(w.in_state(RunnerState::Deleting), [runner]);
}
