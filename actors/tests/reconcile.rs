//! Jobs whose webhooks never came, on a paused clock: GitHub's memory is asked, and nothing waits for ever.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[allow(dead_code, reason = "shared with the other tests")]
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actors::actor::front::{Accepted, Front};
use actors::actor::reconciler::{self, Args};
use actors::actor::supervisor::Service;
use actors::id::*;
use actors::model::delivery::JobAction::{self, Completed, InProgress, Queued, Waiting};
use actors::model::delivery::{JobEvent, RunnerRef};
use actors::model::job::{Job, JobStatus};
use actors::model::settings::{GroupSettings, Scope};
use actors::port::Clock as _;
use actors::port::github::{GitHubError, RepositoryName};
use support::replicas::{Site, join_with};
use support::{Earth, Manager, facts, settings, start, start_with};

const EVERY: Duration = Duration::from_secs(300);
const GRACE: Duration = Duration::from_secs(5);

fn services(earth: &Arc<Earth>, front: &Front) -> Vec<Service> {
    vec![reconciler::service(Args {
        front: front.clone(),
        records: earth.clone(),
        webhook_path: "/webhook".into(),
        repositories: vec![RepositoryName { owner: "Octo-Org".into(), name: "app".into() }],
        interval: EVERY,
    })]
}

async fn begin(earth: &Arc<Earth>, groups: &[GroupSettings]) -> Manager {
    earth.memory().answers = true;
    start_with(earth, groups, |front| services(earth, front)).await
}

fn at_github(earth: &Earth, job: u64, action: JobAction, runner: Option<&str>) {
    let event = JobEvent {
        action,
        job: facts(job, "octo"),
        runner: runner.map(|name| RunnerRef { id: None, name: name.into() }),
        conclusion: (action == Completed).then(|| "cancelled".into()),
    };
    earth.memory().jobs.insert(JobId(job), event);
}

fn job(earth: &Earth, id: u64) -> Option<Job> {
    earth.things().jobs.get(&JobId(id)).cloned()
}

fn status(earth: &Earth, id: u64) -> Option<JobStatus> {
    job(earth, id).map(|job| job.status)
}

/// Waits, in the paused clock's time, until something holds; looks twice a second.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + EVERY * 12;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Rounds that looked into the repository.
fn rounds(earth: &Earth) -> usize {
    earth.memory().count("open jobs of app")
}

fn created(earth: &Earth) -> usize {
    earth.things().created.len()
}

#[tokio::test(start_paused = true)]
async fn fifty_jobs_without_any_webhook_get_runners_within_two_reconciliations_and_are_followed_to_their_end() {
    let earth = Earth::new();
    let manager = begin(&earth, &[settings("octo", 0, 60)]).await;
    until("a first round", || rounds(&earth) == 1).await;
    for id in 1..=50 {
        at_github(&earth, id, Queued, None);
    }
    let before = rounds(&earth);
    until("fifty runners", || created(&earth) == 50).await;
    assert!(rounds(&earth) - before <= 2);
    let names: Vec<String> = earth.things().created.iter().map(ToString::to_string).collect();
    for (id, name) in (1..=50).zip(&names) {
        at_github(&earth, id, InProgress, Some(name));
    }
    until("all are known to run", || (1..=50).all(|id| status(&earth, id) == Some(JobStatus::InProgress))).await;
    tokio::time::sleep(EVERY * 3).await;
    assert_eq!(created(&earth), 50, "what was told before has no second effect");
    assert!((1..=50).all(|id| job(&earth, id).unwrap().queued_by.len() == 1));
    manager.system.stop(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn three_days_without_webhooks_lose_no_job_and_ask_within_bounds() {
    let earth = Earth::new();
    let manager = begin(&earth, &[settings("octo", 0, 5)]).await;
    for day in 0..3 {
        for hour in 0..24 {
            let id = day * 24 + hour + 1;
            at_github(&earth, id, Queued, None);
            let before = rounds(&earth);
            until("it gets a runner", || created(&earth) as u64 == id).await;
            assert!(rounds(&earth) - before <= 2, "job {id}");
            let name = earth.things().created.last().unwrap().to_string();
            at_github(&earth, id, InProgress, Some(&name));
            until("it runs", || status(&earth, id) == Some(JobStatus::InProgress)).await;
            // It ends, and of that nobody tells either: its runner leaves, which both listings show.
            earth.memory().jobs.remove(&JobId(id));
            earth.things().registered.remove(&name);
            earth.things().instances.remove(&RunnerName::new(&name).unwrap());
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
    }
    {
        let memory = earth.memory();
        let hours = (memory.asked.last().unwrap().0.duration_since(memory.asked[0].0).as_hours() + 1) as usize;
        assert!(memory.asked.len() <= hours * 40, "{} questions in {hours} hours", memory.asked.len());
    }
    manager.system.stop(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn deliveries_that_no_attempt_brought_are_sent_again_once_the_oldest_first() {
    let earth = Earth::new();
    let now = earth.now();
    let ago = |minutes: i64| now - jiff::SignedDuration::from_mins(minutes);
    {
        let mut memory = earth.memory();
        memory.page = 3;
        memory.attempt("too-old", ago(3 * 24 * 60 + 1), false);
        memory.attempt("a", ago(3000), false); // 2
        memory.attempt("came", ago(2000), true);
        memory.attempt("b", ago(1000), false); // 4
        memory.attempt("later", ago(900), false);
        memory.attempt("b", ago(800), false); // 6
        memory.attempt("later", ago(700), true);
        memory.attempt("c", ago(600), false); // 8
        memory.attempt("ping", ago(500), false);
        memory.history.last_mut().unwrap().event = "ping".into();
    }
    let manager = begin(&earth, &[settings("octo", 0, 5)]).await;
    until("a first round", || rounds(&earth) == 1).await;
    let again = |earth: &Earth| -> Vec<String> {
        let memory = earth.memory();
        memory.asked.iter().filter(|(_, what)| what.starts_with("redeliver")).map(|(_, what)| what.clone()).collect()
    };
    assert_eq!(again(&earth), ["redeliver 2", "redeliver 6", "redeliver 8"]);
    assert_eq!(earth.memory().count("deliveries"), 3, "three pages of three");
    // They come; of "c" nothing is heard, and it fails again an hour later.
    for guid in ["a", "b"] {
        let at = earth.now();
        earth.memory().attempt(guid, at, true);
    }
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(again(&earth).len(), 3, "once");
    let at = earth.now();
    earth.memory().attempt("c", at, false);
    tokio::time::sleep(EVERY * 3).await;
    assert_eq!(again(&earth)[3..], ["redeliver 12"], "once more for an attempt that failed again");
    manager.system.stop(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn the_history_of_each_app_is_read_and_a_hook_that_two_credentials_see_only_once() {
    let earth = Earth::new();
    let of = |name: &str, credential: &str| GroupSettings {
        github_credential: credential.to_owned(),
        ..settings(name, 0, 5)
    };
    let ago = earth.now() - Duration::from_secs(3600);
    earth.memory().attempt("lost", ago, false);
    let groups = [of("one", "app-one"), of("two", "app-two"), of("three", "token"), of("four", "token-too")];
    let manager = begin(&earth, &groups).await;
    until("a first round", || rounds(&earth) == 1).await;
    {
        let memory = earth.memory();
        let count = |what: &str| memory.count(what);
        assert_eq!((count("history of app-one"), count("history of app-two")), (1, 1));
        assert_eq!((count("hook of organization"), count("deliveries")), (4, 3), "each asks, the organization's once");
        assert_eq!(count("redeliver"), 3, "each App delivers by itself");
    }
    manager.system.stop(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_credential_that_may_not_read_a_history_leaves_it_to_the_next_one() {
    let earth = Earth::new();
    let of = |name: &str, credential: &str| GroupSettings {
        github_credential: credential.to_owned(),
        ..settings(name, 0, 5)
    };
    earth.memory().attempt("lost", earth.now() - Duration::from_secs(3600), false);
    // The first one sees the hook, but not what it sent.
    earth.memory().refused = Some("a-token".into());
    let manager = begin(&earth, &[of("one", "a-token"), of("two", "b-token")]).await;
    until("a first round", || rounds(&earth) == 1).await;
    let count = |what: &str| earth.memory().count(what);
    assert_eq!((count("deliveries"), count("redeliver 1")), (2, 1));
    manager.system.stop(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn at_most_a_hundred_deliveries_are_asked_for_in_a_round_and_the_others_have_their_turn() {
    let earth = Earth::new();
    let now = earth.now();
    for n in 0..250 {
        earth.memory().attempt(&format!("d-{n}"), now - Duration::from_secs(100_000 - n), false);
    }
    earth.memory().page = 2;
    let manager = begin(&earth, &[settings("octo", 0, 5)]).await;
    // 50 pages of 2 in the first round, the rest in the next ones.
    for (round, most) in [(1, 100), (2, 198), (3, 250), (4, 250)] {
        until("a round", || rounds(&earth) == round).await;
        assert_eq!(earth.memory().count("redeliver"), most, "round {round}");
    }
    let asked: BTreeSet<String> = earth.memory().asked.iter().map(|(_, what)| what.clone()).collect();
    assert_eq!(asked.iter().filter(|what| what.starts_with("redeliver")).count(), 250, "each once");
    manager.system.stop(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_ends_the_round_of_its_scope_until_its_time_and_the_others_go_on() {
    let earth = Earth::new();
    at_github(&earth, 1, Queued, None);
    let mut other = settings("other", 0, 5);
    other.scope = Scope::Repository { owner: "else".into(), name: "tools".into() };
    let limit = GitHubError::RateLimited { text: "slow down".into(), retry_after: Duration::from_secs(700) };
    earth.memory().errors.push_back(limit);
    let manager = begin(&earth, &[settings("octo", 0, 5), other]).await;
    let began = earth.now();
    until("the other scope's round", || earth.memory().count("open jobs of tools") == 1).await;
    assert_eq!(rounds(&earth), 0);
    assert_eq!(earth.memory().count("hook of organization"), 1);
    until("a runner", || created(&earth) == 1).await;
    {
        let memory = earth.memory();
        let second = memory.asked.iter().filter(|(_, what)| what.starts_with("hook of organization")).nth(1).unwrap().0;
        let waited = second.duration_since(began).as_secs();
        assert!((700..1000).contains(&waited), "{waited}");
        assert!(memory.count("open jobs of tools") >= 3, "the other one went on");
    }
    manager.system.stop(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_repository_that_is_not_to_be_seen_and_a_github_that_fails_harm_nothing_else() {
    let earth = Earth::new();
    let hidden = GroupSettings {
        scope: Scope::Repository { owner: "octo-org".into(), name: "hidden".into() },
        ..settings("hidden", 0, 5)
    };
    earth.memory().hidden.insert("hidden".into());
    for _ in 0..6 {
        earth.memory().errors.push_back(GitHubError::Unknown("500".into()));
    }
    at_github(&earth, 1, Queued, None);
    let manager = begin(&earth, &[hidden, settings("octo", 0, 5)]).await;
    until("a runner", || created(&earth) == 1).await;
    assert!(earth.memory().count("open jobs of hidden") >= 1);
    assert!(rounds(&earth) <= 3);
    manager.system.stop(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_cancelled_while_its_completed_was_lost_leaves_demand_and_one_that_cannot_be_told_stays() {
    let earth = Earth::new();
    earth.memory().answers = true;
    // Without the reconciler: the group asks by itself.
    let manager = start(&earth, &[settings("octo", 0, 1)]).await;
    for id in 1..=5 {
        assert_eq!(manager.deliver(format!("q-{id}"), "octo", id, Queued, None).await, Accepted::Accepted);
        at_github(&earth, id, Queued, None);
    }
    at_github(&earth, 2, Completed, None);
    earth.memory().jobs.remove(&JobId(3));
    at_github(&earth, 4, InProgress, Some("somebody-elses"));
    tokio::time::sleep(Duration::from_secs(590)).await;
    assert_eq!(earth.memory().count("job"), 0);
    until("the cancelled one is over", || status(&earth, 2) == Some(JobStatus::Completed)).await;
    until("the forgotten one is over", || status(&earth, 3) == Some(JobStatus::Completed)).await;
    until("the taken one is taken", || status(&earth, 4) == Some(JobStatus::InProgress)).await;
    assert_eq!(job(&earth, 2).unwrap().conclusion.as_deref(), Some("cancelled"));
    assert_eq!(job(&earth, 3).unwrap().conclusion.as_deref(), Some("unknown to GitHub"));
    assert_eq!((status(&earth, 1), status(&earth, 5)), (Some(JobStatus::Queued), Some(JobStatus::Queued)));
    earth.memory().answers = false;
    tokio::time::sleep(Duration::from_secs(7200)).await;
    assert_eq!((status(&earth, 1), status(&earth, 5)), (Some(JobStatus::Queued), Some(JobStatus::Queued)));
    manager.system.stop(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_completed_was_lost_is_asked_about_soon_after_its_runner_is_gone_and_ends_as_github_says() {
    let earth = Earth::new();
    earth.memory().answers = true;
    // Without the reconciler: the group asks by itself.
    let manager = start(&earth, &[settings("octo", 0, 2)]).await;
    for id in [1, 2] {
        manager.deliver(format!("q-{id}"), "octo", id, Queued, None).await;
        until("a runner", || created(&earth) as u64 == id).await;
        let name = earth.things().created.last().unwrap().to_string();
        manager.deliver(format!("p-{id}"), "octo", id, InProgress, Some(&name)).await;
        until("it runs", || status(&earth, id) == Some(JobStatus::InProgress)).await;
        at_github(&earth, id, InProgress, Some(&name));
    }
    // Both are over, and their runners leave. Of the first one GitHub knows that at once.
    at_github(&earth, 1, Completed, None);
    earth.things().registered.clear();
    earth.things().instances.clear();
    let gone = || earth.shown.lock().unwrap()[actors::model::runner::RunnerState::Busy as usize] == 0;
    until("their runners are seen gone", gone).await;
    let left = earth.now();
    until("the first one is over", || status(&earth, 1) == Some(JobStatus::Completed)).await;
    assert_eq!(job(&earth, 1).unwrap().conclusion.as_deref(), Some("cancelled"));
    let took = earth.now().duration_since(left).as_secs();
    assert!((595..=605).contains(&took), "{took} s");
    tokio::time::sleep(Duration::from_secs(3000)).await;
    assert_eq!(status(&earth, 2), Some(JobStatus::InProgress), "GitHub says that it runs");
    assert_eq!(earth.memory().count("job 2"), 1);
    earth.memory().jobs.remove(&JobId(2));
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    assert_eq!(job(&earth, 2).unwrap().conclusion.as_deref(), Some("unknown to GitHub"));
    manager.system.stop(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_runner_of_another_group_is_told_too_that_its_job_is_over_also_when_the_store_fails_and_the_manager_ends() {
    let earth = Earth::new();
    earth.memory().answers = true;
    let groups = [settings("octo", 0, 2), settings("hexa", 0, 2)];
    let mut manager = start(&earth, &groups).await;
    for id in [1, 2] {
        manager.deliver(format!("o-{id}"), "hexa", 10 + id, Queued, None).await;
        until("a runner", || created(&earth) as u64 == id).await;
        let name = earth.things().created.last().unwrap().to_string();
        manager.deliver(format!("p-{id}"), "octo", id, InProgress, Some(&name)).await;
        at_github(&earth, id, InProgress, Some(&name));
        manager.deliver(format!("c-{id}"), "hexa", 10 + id, Completed, None).await;
        until("it runs", || status(&earth, id) == Some(JobStatus::InProgress)).await;
    }
    // Both are over, and nobody tells. Their runners stay registered.
    at_github(&earth, 1, Completed, None);
    earth.memory().jobs.remove(&JobId(2));
    tokio::time::sleep(Duration::from_secs(3590)).await;
    assert_eq!(earth.things().instances.len(), 2);
    earth.records_fail.store(u64::MAX, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!([1, 2].map(|id| status(&earth, id)), [Some(JobStatus::InProgress); 2], "the other group is told first");
    manager.system.kill().await;
    earth.records_fail.store(0, Ordering::SeqCst);
    manager = start(&earth, &groups).await;
    until("both runners go", || earth.things().instances.is_empty()).await;
    assert_eq!([1, 2].map(|id| status(&earth, id)), [Some(JobStatus::Completed); 2]);
    manager.system.stop(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_runs_for_long_is_asked_about_after_an_hour_and_then_less_and_less_often() {
    let earth = Earth::new();
    let manager = start(&earth, &[settings("octo", 0, 1)]).await;
    manager.deliver("q".into(), "octo", 1, Queued, None).await;
    manager.deliver("p".into(), "octo", 1, InProgress, Some("somebody-elses")).await;
    at_github(&earth, 1, InProgress, Some("somebody-elses"));
    let began = earth.now();
    let hours = |earth: &Earth| -> Vec<i64> {
        let memory = earth.memory();
        memory.asked.iter().map(|(at, _)| at.duration_since(began).as_hours()).collect()
    };
    tokio::time::sleep(Duration::from_secs(2 * 3600 + 60)).await;
    assert_eq!(hours(&earth), [1, 2], "no answer: once more after an hour");
    assert_eq!(status(&earth, 1), Some(JobStatus::InProgress));
    earth.memory().answers = true;
    tokio::time::sleep(Duration::from_secs(30 * 3600)).await;
    assert_eq!(hours(&earth), [1, 2, 3, 5, 9, 17], "each time twice as long");
    assert_eq!(status(&earth, 1), Some(JobStatus::InProgress));
    assert_eq!(earth.memory().count("job 1"), 6, "and nothing else was asked");
    at_github(&earth, 1, Completed, None);
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    assert_eq!(job(&earth, 1).unwrap().conclusion.as_deref(), Some("cancelled"));
    manager.system.stop(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn an_approval_whose_webhook_was_lost_brings_the_job_back_into_demand_at_the_next_round() {
    let earth = Earth::new();
    let manager = begin(&earth, &[settings("octo", 0, 5)]).await;
    manager.deliver("q".into(), "octo", 1, Queued, None).await;
    manager.deliver("w".into(), "octo", 1, Waiting, None).await;
    at_github(&earth, 1, Queued, None);
    let before = rounds(&earth);
    until("it is in demand", || status(&earth, 1) == Some(JobStatus::Queued)).await;
    assert!(rounds(&earth) - before <= 2);
    manager.deliver("q2".into(), "octo", 1, Queued, None).await;
    at_github(&earth, 1, Waiting, None);
    manager.deliver("w2".into(), "octo", 1, Waiting, None).await;
    until("it waits again", || status(&earth, 1) == Some(JobStatus::Waiting)).await;
    manager.system.stop(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn only_the_first_of_two_replicas_reconciles_and_the_other_takes_over() {
    let earth = Earth::new();
    earth.memory().answers = true;
    let groups = [settings("octo", 0, 9)];
    let (first, second) = (Site::new(&earth, "a"), Site::new(&earth, "b"));
    let a = join_with(&first, &groups, |front| services(&earth, front)).await;
    let b = join_with(&second, &groups, |front| services(&earth, front)).await;
    until("it is known who is first", || a.front.directory.is_first() && !b.front.directory.is_first()).await;
    until("a round", || rounds(&earth) >= 1).await;
    tokio::time::sleep(EVERY * 10).await;
    let count = rounds(&earth);
    assert!((10..=12).contains(&count), "{count} rounds of one replica");
    a.system.kill().await;
    at_github(&earth, 1, Queued, None);
    let killed = earth.now();
    until("the other one is first", || b.front.directory.is_first()).await;
    until("it looks at once", || rounds(&earth) > count).await;
    assert!(earth.now().duration_since(killed).as_secs() <= 20);
    until("a runner", || created(&earth) == 1).await;
    b.system.stop(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_delivery_whose_request_got_no_answer_is_asked_for_again_unless_it_came() {
    let earth = Earth::new();
    let ago = earth.now() - Duration::from_secs(3600);
    earth.memory().attempt("came", ago, false);
    earth.memory().attempt("lost", ago, false);
    let manager = begin(&earth, &[settings("octo", 0, 5)]).await;
    until("a first round", || rounds(&earth) == 1).await;
    assert_eq!(earth.memory().count("redeliver"), 2);
    let now = earth.now();
    for guid in ["again-came", "again-lost"] {
        earth.memory().attempt(guid, now, false);
    }
    // The next history is read, then both requests get no answer.
    earth.memory().unanswered = 2;
    until("both are asked for", || earth.memory().count("redeliver") == 4).await;
    let now = earth.now();
    earth.memory().attempt("again-came", now, true);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    {
        let memory = earth.memory();
        assert_eq!((memory.count("redeliver 3"), memory.count("redeliver 4")), (1, 2));
    }
    manager.system.stop(GRACE).await;
}
