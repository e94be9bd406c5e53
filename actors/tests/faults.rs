//! Faults at the worst moment, against the real actors on a paused clock.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

#[allow(dead_code, reason = "shared with the other tests")]
mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use actors::actor::directory::{Command, Health};
use actors::actor::front::Accepted;
use actors::id::{GroupName, RunnerId, RunnerName};
use actors::model::delivery::JobAction::{Completed, InProgress, Queued};
use actors::model::runner::RunnerState;
use actors::port::Store;
use actors::port::backend::Owner;
use actors::port::github::RemoteRunner;
use support::{Earth, settings, start, until};

fn octo() -> GroupName {
    GroupName::new("octo").unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_was_adopted_still_counts_after_a_restart() {
    let earth = Earth::new();
    for n in 1..=2 {
        let name = octo().runner_name(n);
        let labels = vec!["managed-by-test".to_owned()];
        let remote = RemoteRunner { id: RunnerId(900 + n), name: name.to_string(), online: true, busy: true, labels };
        earth.things().registered.insert(name.to_string(), remote);
        let owner = Owner { manager: actors::id::ManagerName::new("test").unwrap(), group: octo() };
        earth.things().instances.insert(name, owner);
    }
    let manager = start(&earth, &[settings("octo", 0, 2)]).await;
    until("it looked", || earth.things().listings > 0).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    manager.system.kill().await;

    let manager = start(&earth, &[settings("octo", 0, 2)]).await;
    manager.deliver("q-1".into(), "octo", 1, Queued, None).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(earth.things().created.len(), 0, "two of two exist");
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_waits_for_the_store_gives_way_to_work_that_came_meanwhile() {
    let earth = Earth::new();
    let manager = start(&earth, &[settings("octo", 0, 2)]).await;
    manager.deliver("q-1".into(), "octo", 1, Queued, None).await;
    until("its instance exists", || earth.things().instances.len() == 1).await;
    manager.deliver("c-1".into(), "octo", 1, Completed, None).await;
    let name = earth.things().created[0].to_string();
    earth.things().registered.get_mut(&name).unwrap().online = true;
    tokio::time::sleep(Duration::from_secs(10)).await;
    manager.front.directory.command("octo", Command::Healthcheck).await.unwrap();
    tokio::time::sleep(Duration::from_secs(299)).await;
    // It becomes superfluous and gets work while nothing can be saved; GitHub's busy flag lags.
    earth.store_fails.store(40, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(10)).await;
    manager.deliver("p-2".into(), "octo", 2, InProgress, Some(&name)).await;
    until("the store heals", || earth.store_fails.load(Ordering::SeqCst) == 0).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(earth.things().registered.contains_key(&name), "it works");
    assert_eq!(earth.things().instances.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_is_out_when_its_group_fails_does_not_end_in_one_runner_too_many() {
    let earth = Earth::new();
    *earth.create_takes.lock().unwrap() = Duration::from_secs(20);
    let manager = start(&earth, &[settings("octo", 0, 1)]).await;
    manager.deliver("q-1".into(), "octo", 1, Queued, None).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    *earth.panics_once.lock().unwrap() = Some(octo());
    manager.front.directory.poke(&octo());
    until("it failed", || earth.panics_once.lock().unwrap().is_none()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(earth.things().instances.len(), 1, "it serves again");
    assert_eq!(earth.things().peak, 1);
}

#[tokio::test(start_paused = true)]
async fn a_parked_group_serves_again_by_itself_once_the_fault_heals() {
    let earth = Earth::new();
    let manager = start(&earth, &[settings("octo", 0, 1)]).await;
    *earth.panics_for.lock().unwrap() = Some(octo());
    manager.deliver("q-1".into(), "octo", 1, Queued, None).await;
    let parked = || matches!(manager.front.directory.entry("octo").unwrap().health, Health::Parked { .. });
    until("it is parked", parked).await;
    tokio::time::sleep(Duration::from_secs(400)).await;
    assert!(parked(), "again, as long as the fault lasts");
    *earth.panics_for.lock().unwrap() = None;
    until("it serves", || earth.things().instances.len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_a_store_that_heals_within_its_grace() {
    let earth = Earth::new();
    *earth.create_takes.lock().unwrap() = Duration::from_secs(5);
    let manager = start(&earth, &[settings("octo", 0, 1)]).await;
    manager.deliver("q-1".into(), "octo", 1, Queued, None).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let name = earth.things().registered.keys().next().unwrap().clone();
    earth.store_fails.store(5, Ordering::SeqCst);
    assert!(manager.system.stop(Duration::from_secs(30)).await);
    let saved = Store::runner(&*earth, &RunnerName::new(name).unwrap()).await.unwrap().unwrap();
    assert_eq!(saved.state, RunnerState::Starting, "its instance is made, and that is known");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_store_beyond_its_grace() {
    let earth = Earth::new();
    let manager = start(&earth, &[settings("octo", 0, 1)]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    earth.store_fails.store(u64::MAX, Ordering::SeqCst);
    manager.deliver("q-1".into(), "octo", 1, Queued, None).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let began = tokio::time::Instant::now();
    assert!(!manager.system.stop(Duration::from_secs(30)).await, "and says so");
    assert!(began.elapsed() < Duration::from_secs(35));
}

#[tokio::test(start_paused = true)]
async fn an_inbox_that_could_not_be_read_is_read_again_soon() {
    let earth = Earth::new();
    let manager = start(&earth, &[settings("octo", 0, 1)]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    earth.inbox_fails.store(1, Ordering::SeqCst);
    manager.deliver("q-1".into(), "octo", 1, Queued, None).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(earth.things().created.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_comes_while_the_inbox_is_being_read_is_read_next() {
    let earth = Earth::new();
    let manager = start(&earth, &[settings("octo", 0, 2)]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    *earth.inbox_takes.lock().unwrap() = Duration::from_secs(1);
    manager.deliver("q-1".into(), "octo", 1, Queued, None).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    manager.deliver("q-2".into(), "octo", 2, Queued, None).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(earth.things().created.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_runner_whose_actor_fails_again_and_again_hears_of_its_job_in_the_end() {
    let earth = Earth::new();
    let manager = start(&earth, &[settings("octo", 0, 1)]).await;
    manager.deliver("q-1".into(), "octo", 1, Queued, None).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let name = earth.things().created[0].to_string();
    // Each time it hears of its job it fails: once, and as often as it is started again within a minute.
    earth.runner_saves_fail.store(6, Ordering::SeqCst);
    earth.entropy_panics_often.store(6, Ordering::SeqCst);
    manager.deliver("p-1".into(), "octo", 1, InProgress, Some(&name)).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(earth.entropy_panics_often.load(Ordering::SeqCst), 0, "it is parked");
    let name = RunnerName::new(name).unwrap();
    let state = async || Store::runner(&*earth, &name).await.unwrap().unwrap().state;
    assert_eq!(state().await, RunnerState::Starting);
    manager.front.directory.command("octo", Command::Healthcheck).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(state().await, RunnerState::Busy);
}

#[tokio::test(start_paused = true)]
async fn a_group_sees_of_a_runner_only_what_is_saved() {
    let earth = Earth::new();
    let manager = start(&earth, &[settings("octo", 0, 1)]).await;
    manager.deliver("q-1".into(), "octo", 1, Queued, None).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let name = earth.things().created[0].to_string();
    earth.runner_saves_fail.store(3, Ordering::SeqCst);
    manager.deliver("p-1".into(), "octo", 1, InProgress, Some(&name)).await;
    let busy = || earth.shown.lock().unwrap()[RunnerState::Busy as usize];
    until("its save failed", || earth.runner_saves_fail.load(Ordering::SeqCst) == 1).await;
    assert_eq!(busy(), 0);
    until("it is saved", || busy() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_save_failed_is_saved_again() {
    let earth = Earth::new();
    let manager = start(&earth, &[settings("octo", 0, 1)]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    manager.front.directory.command("octo", Command::Drain).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    earth.store_fails.store(1, Ordering::SeqCst);
    manager.deliver("q-1".into(), "octo", 1, Queued, None).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(earth.store_fails.load(Ordering::SeqCst), 0);
    assert_eq!(earth.things().jobs.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_runner_that_finds_a_newer_owner_stops_its_group() {
    let earth = Earth::new();
    let manager = start(&earth, &[settings("octo", 0, 1)]).await;
    manager.deliver("q-1".into(), "octo", 1, Queued, None).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let newer = Store::acquire(&*earth, &octo()).await.unwrap();
    // The deadline of its start is the next thing that is saved.
    tokio::time::sleep(Duration::from_secs(650)).await;
    let now = Store::acquire(&*earth, &octo()).await.unwrap();
    assert!(now.0 > newer.0 + 1, "the group was loaded anew");
}

#[tokio::test(start_paused = true)]
async fn a_foreign_registration_that_bears_the_name_of_a_leak_stays() {
    let earth = Earth::new();
    let name = octo().runner_name(1);
    let foreign =
        RemoteRunner { id: RunnerId(900), name: name.to_string(), online: false, busy: false, labels: vec![] };
    earth.things().registered.insert(name.to_string(), foreign);
    let owner = Owner { manager: actors::id::ManagerName::new("test").unwrap(), group: octo() };
    earth.things().instances.insert(name.clone(), owner);
    let _manager = start(&earth, &[settings("octo", 0, 1)]).await;
    until("the leak is gone", || earth.things().instances.is_empty()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(earth.things().registered.contains_key(name.as_str()));
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_was_refused_and_recorded_all_the_same_is_served_when_it_comes_again() {
    let earth = Earth::new();
    let manager = start(&earth, &[settings("octo", 0, 2)]).await;
    until("it looked", || earth.things().listings > 0).await;
    earth.lose_records.store(1, Ordering::SeqCst);
    manager.try_deliver("q-1".into(), "octo", 1, Queued, None).await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(manager.deliver("q-1".into(), "octo", 1, Queued, None).await, Accepted::Duplicate);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(earth.things().created.len(), 1, "not only with the next health check");
}

#[tokio::test(start_paused = true)]
async fn ten_minutes_without_github_kill_no_runner_and_count_none_as_gone() {
    let earth = Earth::new();
    let manager = start(&earth, &[settings("octo", 0, 5)]).await;
    for job in 1..=3 {
        manager.deliver(format!("q-{job}"), "octo", job, Queued, None).await;
    }
    until("three instances exist", || earth.things().instances.len() == 3).await;
    let names: Vec<RunnerName> = earth.things().instances.keys().cloned().collect();
    for (job, name) in (1..).zip(&names) {
        earth.things().registered.get_mut(name.as_str()).unwrap().online = true;
        manager.deliver(format!("p-{job}"), "octo", job, InProgress, Some(name.as_str())).await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    earth.github_is_down.store(true, Ordering::SeqCst);
    for _ in 0..10 {
        manager.front.directory.command("octo", Command::Healthcheck).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(earth.shown.lock().unwrap()[RunnerState::Busy as usize], 3);
        assert_eq!(earth.things().instances.keys().cloned().collect::<Vec<_>>(), names);
    }
    // What ends meanwhile is removed once GitHub can be told; what is wanted meanwhile comes then.
    manager.deliver("c-1".into(), "octo", 1, Completed, Some(names[0].as_str())).await;
    manager.deliver("q-4".into(), "octo", 4, Queued, None).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(earth.things().created.len(), 3, "nothing is created without a registration");
    earth.github_is_down.store(false, Ordering::SeqCst);
    until("the new job has its instance", || earth.things().created.len() == 4).await;
    until("the old runner is gone", || !earth.things().registered.contains_key(names[0].as_str())).await;
    for name in &names[1..] {
        assert!(earth.things().instances.contains_key(name), "{name} works on");
    }
}
