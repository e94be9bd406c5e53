//! The runner group at GitHub, on a paused clock: kept in step, deleted on request, and whom it serves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[allow(dead_code, reason = "shared with the other tests")]
mod support;

use std::time::Duration;

use actors::actor::directory::{Command, Owner, Refused};
use actors::actor::front::Accepted;
use actors::id::*;
use actors::model::delivery::JobAction::Queued;
use actors::model::settings::GroupSettings;
use actors::port::github::{Access, GitHubError, Reach, RunnerGroup, RunnerGroupRemoval};
use support::replicas::{Site, join_with};
use support::{Earth, Manager, settings, start, until};

const GRACE: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_secs(300);

fn group(min: u32) -> GroupSettings {
    GroupSettings { healthcheck_interval: EVERY, idle_timeout: EVERY * 100, ..settings("octo", min, 5) }
}

fn looks(earth: &Earth) -> usize {
    earth.runner_group().looks.len()
}

fn created(earth: &Earth) -> usize {
    earth.things().created.len()
}

async fn last_error(manager: &Manager) -> Option<String> {
    let group = manager.front.store.group(&GroupName::new("octo").unwrap()).await.unwrap();
    group.and_then(|group| group.last_error).map(|error| error.text)
}

#[tokio::test(start_paused = true)]
async fn each_health_check_looks_at_the_runner_group_and_a_failure_is_told_and_keeps_no_runner_from_it() {
    let earth = Earth::new();
    earth.runner_group().found.id = RunnerGroupId(7);
    let manager = start(&earth, &[group(0)]).await;
    until("a first look", || looks(&earth) == 1).await;
    assert_eq!(last_error(&manager).await, None);
    let down = GitHubError::Unknown("502 Bad Gateway".into());
    earth.runner_group().errors.extend([down.clone(), down]);
    until("a second look", || looks(&earth) == 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let told = last_error(&manager).await.unwrap();
    assert_eq!(told, "runner group at GitHub: GitHub's answer is unknown: 502 Bad Gateway");
    manager.deliver("q".into(), "octo", 1, Queued, None).await;
    until("a runner in the group that is known", || created(&earth) == 1).await;
    assert_eq!(earth.runner_group().looks[..2], [None, Some(RunnerGroupId(7))], "each look knows the last one");
    manager.system.stop(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_joins_a_runner_group_that_is_not_as_configured_until_it_is() {
    let earth = Earth::new();
    earth.runner_group().found.trouble = Some(GitHubError::Forbidden("no".into()));
    let manager = start(&earth, &[group(0)]).await;
    manager.deliver("q".into(), "octo", 1, Queued, None).await;
    until("it was tried", || looks(&earth) >= 3).await;
    assert_eq!((created(&earth), earth.things().registered.len()), (0, 0));
    earth.runner_group().found = RunnerGroup::in_step(RunnerGroupId(1));
    until("a runner", || created(&earth) == 1).await;
    manager.system.stop(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_runner_joins_the_new_runner_group_at_once_when_somebody_deleted_the_old_one() {
    let earth = Earth::new();
    let manager = start(&earth, &[group(0)]).await;
    until("a first look", || looks(&earth) == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    earth.runner_group().found.id = RunnerGroupId(8);
    let before = tokio::time::Instant::now();
    manager.deliver("q".into(), "octo", 1, Queued, None).await;
    until("a runner", || created(&earth) == 1).await;
    assert!(before.elapsed() < Duration::from_secs(1), "without a failed attempt: {:?}", before.elapsed());
    assert_eq!(looks(&earth), 2);
    assert_eq!(last_error(&manager).await, None);
    manager.system.stop(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_runner_group_is_deleted_only_when_its_group_is_drained_and_empty_and_comes_back_with_resume() {
    let earth = Earth::new();
    let manager = start(&earth, &[group(1)]).await;
    until("a runner", || created(&earth) == 1).await;
    let command = async |command| manager.front.directory.command("octo", command).await;
    let refused = |answer: Result<_, Refused>| match answer {
        Err(Refused::Conflict(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(refused(command(Command::DeleteRunnerGroup).await).contains("drain it first"));
    command(Command::Drain).await.unwrap();
    assert!(refused(command(Command::DeleteRunnerGroup).await).contains("still has runners (1)"));
    let name = earth.things().created[0].clone();
    command(Command::DeleteRunner { runner: name, force: true }).await.unwrap();
    until("it is gone", || earth.things().instances.is_empty()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(earth.runner_group().removals, [], "GitHub was not asked so far");

    earth.runner_group().removal = Ok(RunnerGroupRemoval::Kept("runners are in it".into()));
    assert!(refused(command(Command::DeleteRunnerGroup).await).ends_with("stays: runners are in it"));
    earth.runner_group().removal = Err(GitHubError::Forbidden("no permission".into()));
    assert!(refused(command(Command::DeleteRunnerGroup).await).contains("no permission"));
    earth.runner_group().removal = Err(GitHubError::Unknown("502".into()));
    assert!(matches!(command(Command::DeleteRunnerGroup).await, Err(Refused::Unavailable(_))));
    earth.runner_group().removal = Ok(RunnerGroupRemoval::Removed);
    let done = command(Command::DeleteRunnerGroup).await.unwrap();
    assert_eq!(done.message, "the runner group of group octo is deleted at GitHub; `resume` creates it anew");
    assert_eq!(earth.runner_group().removals, [Some(RunnerGroupId(1)); 4]);

    let before = looks(&earth);
    command(Command::Healthcheck).await.unwrap();
    tokio::time::sleep(EVERY * 3).await;
    assert_eq!(looks(&earth), before, "a drained group leaves it alone");
    command(Command::Resume).await.unwrap();
    until("a runner again", || created(&earth) == 2).await;
    assert_eq!(earth.runner_group().looks[before], None, "nothing of the old one is remembered");
    manager.system.stop(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_repository_that_github_keeps_out_matches_no_group_on_any_replica() {
    let earth = Earth::new();
    let access = Access { runner_group: "Default".into(), public: true, selected: Some([RepositoryId(99)].into()) };
    earth.runner_group().found.reach = Reach { access: Some(access), ..Reach::default() };
    let (first, second) = (Site::new(&earth, "a"), Site::new(&earth, "b"));
    let a = join_with(&first, &[group(0)], |_| vec![]).await;
    let b = join_with(&second, &[group(0)], |_| vec![]).await;
    let owned = |manager: &Manager| manager.front.directory.entries()[0].owner.clone();
    until("one owns it", || [&a, &b].iter().filter(|m| owned(m) == Owner::Me).count() == 1).await;
    let knows = |manager: &Manager| manager.front.directory.entries()[0].reach.access.is_some();
    until("both know", || knows(&a) && knows(&b)).await;
    for (n, manager) in [(1, &a), (2, &b)] {
        assert_eq!(manager.deliver(format!("q-{n}"), "octo", n, Queued, None).await, Accepted::Unmatched);
    }
    earth.runner_group().found.reach = Reach::default();
    until("both know that it is open", || !knows(&a) && !knows(&b)).await;
    for (n, manager) in [(3, &a), (4, &b)] {
        assert_eq!(manager.deliver(format!("q-{n}"), "octo", n, Queued, None).await, Accepted::Accepted);
    }
    a.system.stop(GRACE).await;
    b.system.stop(GRACE).await;
}
