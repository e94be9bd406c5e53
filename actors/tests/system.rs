//! The real actors in a small world on a paused clock.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

#[allow(dead_code, reason = "shared with the other tests")]
mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use actors::actor::directory::{Command, Health, Refused};
use actors::actor::front::Accepted;
use actors::id::{GroupName, JobId};
use actors::model::delivery::JobAction::Queued;
use actors::model::job::JobStatus;
use support::jobs::Jobs;
use support::{Earth, settings, start, until};

#[tokio::test(start_paused = true)]
async fn sixty_jobs_against_max_five_never_exceed_it_and_all_end_without_a_trace() {
    let earth = Earth::new();
    let manager = start(&earth, &[settings("octo", 0, 5)]).await;
    let mut jobs = Jobs::default();
    for job in 1..=60 {
        jobs.queue(&manager, "octo", job).await;
    }
    while jobs.done.len() < 60 {
        jobs.step(&earth, &manager, "octo").await;
    }
    until("everything is gone", || earth.things().instances.is_empty() && earth.things().registered.is_empty()).await;
    assert_eq!(earth.things().peak, 5);
    assert_eq!(earth.things().created.len(), 60);
    until("all jobs are final", || earth.things().jobs.values().all(|j| j.status == JobStatus::Completed)).await;
    assert!(manager.system.stop(Duration::from_secs(5)).await);
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_ends_at_any_moment_loses_nothing_exceeds_nothing_and_leaks_nothing() {
    let earth = Earth::new();
    *earth.latency.lock().unwrap() = Duration::from_millis(7);
    let groups = [settings("octo", 0, 4)];
    let mut manager = start(&earth, &groups).await;
    let mut jobs = Jobs::default();
    for job in 1..=40 {
        jobs.queue(&manager, "octo", job).await;
    }
    // Ends without any goodbye after ever different times: every await of every step is hit sooner or later.
    for life in 0..60_u64 {
        for _ in 0..(life % 5) {
            jobs.step(&earth, &manager, "octo").await;
        }
        tokio::time::sleep(Duration::from_millis(life % 23)).await;
        manager.system.kill().await;
        manager = start(&earth, &groups).await;
    }
    while jobs.done.len() < 40 {
        jobs.step(&earth, &manager, "octo").await;
    }
    until("everything is gone", || earth.things().instances.is_empty() && earth.things().registered.is_empty()).await;
    until("all jobs are final", || earth.things().jobs.values().all(|j| j.status == JobStatus::Completed)).await;
    assert!(earth.things().peak <= 4, "{} instances at once", earth.things().peak);
}

#[tokio::test(start_paused = true)]
async fn a_create_whose_answer_is_lost_leaves_one_runner_in_the_end() {
    let earth = Earth::new();
    earth.lose_creates.store(1, Ordering::SeqCst);
    let manager = start(&earth, &[settings("octo", 0, 5)]).await;
    let mut jobs = Jobs::default();
    jobs.queue(&manager, "octo", 1).await;
    until("it was tried again", || earth.things().created.len() == 2 && earth.things().instances.len() == 1).await;
    while jobs.done.is_empty() {
        jobs.step(&earth, &manager, "octo").await;
    }
    until("everything is gone", || earth.things().instances.is_empty() && earth.things().registered.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_group_that_panics_is_restarted_then_parked_then_reset_and_its_sibling_never_notices() {
    let earth = Earth::new();
    let manager = start(&earth, &[settings("bad", 0, 5), settings("good", 0, 5)]).await;
    until("both run", || manager.front.directory.entries().iter().all(|e| e.health == Health::Running)).await;
    *earth.panics_for.lock().unwrap() = Some(GroupName::new("bad").unwrap());
    assert_eq!(manager.deliver("q-1".into(), "bad", 1, Queued, None).await, Accepted::Accepted);
    until("it is parked", || matches!(manager.front.directory.entry("bad").unwrap().health, Health::Parked { .. }))
        .await;

    let mut jobs = Jobs::default();
    jobs.queue(&manager, "good", 2).await;
    while jobs.done.is_empty() {
        jobs.step(&earth, &manager, "good").await;
    }
    assert_eq!(manager.deliver("q-3".into(), "bad", 3, Queued, None).await, Accepted::Accepted, "durable all the same");
    assert!(matches!(manager.front.directory.command("bad", Command::Drain).await, Err(Refused::Unavailable(_))));

    *earth.panics_for.lock().unwrap() = None;
    manager.front.directory.command("bad", Command::Reset).await.unwrap();
    until("it serves again", || earth.things().instances.keys().filter(|n| n.as_str().starts_with("bad")).count() == 2)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_runner_that_panics_is_restarted_from_its_snapshot() {
    let earth = Earth::new();
    let manager = start(&earth, &[settings("octo", 0, 5)]).await;
    until("it runs", || earth.things().listings > 0).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut jobs = Jobs::default();
    jobs.queue(&manager, "octo", 1).await;
    until("its instance exists", || earth.things().instances.len() == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The runner's save fails, and looking for a moment to try again panics.
    earth.store_fails.store(2, Ordering::SeqCst);
    earth.entropy_panics.store(true, Ordering::SeqCst);
    while jobs.done.is_empty() {
        jobs.step(&earth, &manager, "octo").await;
    }
    until("everything is gone", || earth.things().instances.is_empty() && earth.things().registered.is_empty()).await;
    assert!(!earth.entropy_panics.load(Ordering::SeqCst), "the panic happened");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_a_while_delays_everything_and_loses_nothing() {
    let earth = Earth::new();
    let manager = start(&earth, &[settings("octo", 0, 5)]).await;
    earth.store_fails.store(20, Ordering::SeqCst);
    let mut jobs = Jobs::default();
    for job in 1..=3 {
        jobs.queue(&manager, "octo", job).await;
    }
    while jobs.done.len() < 3 {
        jobs.step(&earth, &manager, "octo").await;
    }
    until("everything is gone", || earth.things().instances.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn ten_groups_of_one_organization_share_one_listing() {
    let earth = Earth::new();
    let groups: Vec<_> = (0..10).map(|n| settings(&format!("group-{n}"), 0, 5)).collect();
    let manager = start(&earth, &groups).await;
    until("all run", || manager.front.directory.entries().iter().all(|e| e.health == Health::Running)).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(earth.things().listings, 1);
    tokio::time::sleep(Duration::from_secs(900)).await;
    assert_eq!(earth.things().listings, 2);
}

#[tokio::test(start_paused = true)]
async fn a_runner_that_never_comes_online_is_replaced_and_the_job_is_served() {
    let earth = Earth::new();
    let manager = start(&earth, &[settings("octo", 0, 1)]).await;
    let mut jobs = Jobs::default();
    jobs.queue(&manager, "octo", 1).await;
    until("its instance exists", || earth.things().instances.len() == 1).await;
    let first = earth.things().created[0].clone();
    until("another takes its place", || earth.things().created.len() == 2).await;
    assert!(!earth.things().instances.contains_key(&first) || earth.things().instances.len() == 1);
    while jobs.done.is_empty() {
        jobs.step(&earth, &manager, "octo").await;
    }
    assert_eq!(earth.things().peak, 1);
    let job = earth.things().jobs[&JobId(1)].clone();
    assert!(format!("{:?}", job.timeline).contains("RunnerFailed"), "the timeline tells");
}

#[tokio::test(start_paused = true)]
async fn an_instance_of_ours_that_nobody_knows_is_removed_and_a_foreign_one_stays() {
    let earth = Earth::new();
    let manager = start(&earth, &[settings("octo", 0, 5)]).await;
    until("it runs", || earth.things().listings > 0).await;
    let owner = |manager: &str| actors::port::backend::Owner {
        manager: actors::id::ManagerName::new(manager).unwrap(),
        group: GroupName::new("octo").unwrap(),
    };
    let name = |n: u64| GroupName::new("octo").unwrap().runner_name(n);
    earth.things().instances.insert(name(1), owner("test"));
    earth.things().instances.insert(name(2), owner("another"));
    until("the leak is gone", || !earth.things().instances.contains_key(&name(1))).await;
    assert!(earth.things().instances.contains_key(&name(2)));
    drop(manager);
}
