//! A group with several backends, each of which fails in its own way, on a paused clock.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

#[allow(dead_code, reason = "shared with the other tests")]
mod support;

use std::sync::Arc;
use std::time::Duration;

use actors::id::{GroupName, JobId};
use actors::model::group::BreakerState;
use actors::model::job::{JobStatus, Milestone};
use actors::model::settings::{BackendLimits, GroupSettings};
use actors::port::{BackendError, Store};
use support::jobs::Jobs;
use support::places::{CALL, Fault, Place};
use support::{Earth, Manager, settings, start_at, until};
use tokio::time::Instant;

fn group(max: u32, names: &[&str]) -> GroupSettings {
    let limits = |name: &&str| BackendLimits {
        create_timeout: CALL,
        delete_timeout: CALL,
        breaker_failures: 3,
        breaker_wait: Duration::from_secs(20),
        ..BackendLimits::new(*name)
    };
    GroupSettings {
        backends: names.iter().map(limits).collect(),
        healthcheck_interval: Duration::from_secs(60),
        ..settings("octo", 0, max)
    }
}

async fn start(earth: &Arc<Earth>, settings: GroupSettings, places: &[&Arc<Place>]) -> Manager {
    let backends = places.iter().map(|place| Arc::clone(place) as _).collect();
    let manager = start_at(earth, &[settings], |_| vec![], backends).await;
    until("it has looked", || earth.things().listings > 0).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    manager
}

/// Carries `count` jobs through, from the first to the last, and waits until nothing is left anywhere.
async fn carry(earth: &Arc<Earth>, manager: &Manager, jobs: &mut Jobs, count: usize) {
    while jobs.done.len() < count {
        jobs.step(earth, manager, "octo").await;
    }
    until("everything is gone", || earth.things().instances.is_empty() && earth.things().registered.is_empty()).await;
    until("all jobs are final", || earth.things().jobs.values().all(|job| job.status == JobStatus::Completed)).await;
}

async fn breaker(earth: &Earth, backend: &str) -> Option<BreakerState> {
    let loaded = earth.load(&GroupName::new("octo").unwrap()).await.unwrap();
    loaded.snapshot.and_then(|snapshot| snapshot.breakers.get(backend).map(|breaker| breaker.state))
}

fn no_capacity() -> BackendError {
    BackendError::NoCapacity("the zone is full".into())
}

#[tokio::test(start_paused = true)]
async fn without_capacity_the_next_backend_is_asked_at_once_and_the_job_says_so() {
    let earth = Earth::new();
    let (full, spare) = (Place::of(&earth), Place::of(&earth));
    full.always(Some(no_capacity()));
    let manager = start(&earth, group(5, &["full", "spare"]), &[&full, &spare]).await;
    let mut jobs = Jobs::default();
    jobs.queue(&manager, "octo", 1).await;
    until("an instance", || spare.instances() == 1).await;
    let took = spare.created_at()[0] - full.created_at()[0];
    assert!(took < Duration::from_millis(100), "{took:?}");
    carry(&earth, &manager, &mut jobs, 1).await;
    let timeline = earth.things().jobs[&JobId(1)].timeline.clone();
    let fell_back = timeline.iter().find_map(|entry| match &entry.what {
        Milestone::FellBack { backend, error, next, .. } => Some((backend.clone(), error.clone(), next.clone())),
        _ => None,
    });
    assert_eq!(fell_back, Some(("full".into(), "no capacity: the zone is full".into(), "spare".into())));
    assert_eq!(earth.things().created.len(), 1, "one name, one registration, one instance");
    assert!(manager.system.stop(Duration::from_secs(5)).await);
}

#[tokio::test(start_paused = true)]
async fn creates_that_wait_for_their_turn_obey_a_pause_that_another_one_is_asked_for() {
    let earth = Earth::new();
    let busy = Place::of(&earth);
    let wait = Duration::from_secs(60);
    busy.creates([Fault::Fails(BackendError::Throttled { text: "slowly".into(), retry_after: Some(wait) })]);
    let mut settings = group(5, &["busy"]);
    settings.backends[0].max_concurrency = 1;
    let manager = start(&earth, settings, &[&busy]).await;
    let mut jobs = Jobs::default();
    for job in 1..=5 {
        jobs.queue(&manager, "octo", job).await;
    }
    carry(&earth, &manager, &mut jobs, 5).await;
    let created = busy.created_at();
    assert!(created.len() >= 6, "{created:?}");
    assert!(created[1] >= created[0] + wait, "asked again after {:?}", created[1] - created[0]);
    assert!(manager.system.stop(Duration::from_secs(5)).await);
}

#[tokio::test(start_paused = true)]
async fn the_breaker_opens_after_the_configured_failures_and_closes_by_itself() {
    let earth = Earth::new();
    let (first, second) = (Place::of(&earth), Place::of(&earth));
    first.always(Some(no_capacity()));
    let manager = start(&earth, group(10, &["first", "second"]), &[&first, &second]).await;
    let mut jobs = Jobs::default();
    for job in 1..=3 {
        assert!(!matches!(breaker(&earth, "first").await, Some(BreakerState::Open { .. })));
        jobs.queue(&manager, "octo", job).await;
        until("an instance", || second.instances() == job as usize).await;
    }
    until("it is saved", || second.instances() == 3).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(breaker(&earth, "first").await, Some(BreakerState::Open { .. })));
    // While it is open the first one is left alone, and nobody waits for it.
    for job in 4..=6 {
        jobs.queue(&manager, "octo", job).await;
    }
    until("more instances", || second.instances() == 6).await;
    assert_eq!(first.created_at().len(), 3);
    // Probes fail until it is well again; then one create tries, and all is as before.
    until("it was probed twice", || first.probes() == 2).await;
    assert!(matches!(breaker(&earth, "first").await, Some(BreakerState::Open { .. })));
    first.always(None);
    until("it was probed again", || first.probes() == 3).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(breaker(&earth, "first").await, Some(BreakerState::HalfOpen));
    for job in 7..=9 {
        jobs.queue(&manager, "octo", job).await;
    }
    until("all instances", || earth.things().instances.len() == 9).await;
    assert_eq!((first.created_at().len(), second.instances()), (4, 8), "one tries, the others go where it is sure");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(breaker(&earth, "first").await, None);
    carry(&earth, &manager, &mut jobs, 9).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_alone_is_tried_again_when_its_probe_goes_well() {
    let earth = Earth::new();
    let only = Place::of(&earth);
    only.always(Some(BackendError::Unreachable("connection refused".into())));
    let manager = start(&earth, group(5, &["only"]), &[&only]).await;
    let mut jobs = Jobs::default();
    jobs.queue(&manager, "octo", 1).await;
    until("its breaker is open and probed", || only.probes() >= 2).await;
    let tried = only.created_at().len();
    assert_eq!(tried, 3, "not called while its breaker is open");
    only.always(None);
    carry(&earth, &manager, &mut jobs, 1).await;
    assert_eq!(breaker(&earth, "only").await, None);
}

#[tokio::test(start_paused = true)]
async fn whatever_calls_do_nothing_leaks_nothing_is_double_and_max_holds() {
    use Fault::{DoneWithoutAnswer, Fails, Hangs, Misses};
    let unavailable = || Fails(BackendError::Unavailable("500".into()));
    let faults = [
        ("an answer is lost", vec![DoneWithoutAnswer, DoneWithoutAnswer], vec![], Vec::new()),
        ("a create hangs", vec![Hangs, Hangs], vec![], vec![]),
        ("a delete fails three times", vec![], vec![unavailable(), unavailable(), unavailable()], vec![]),
        ("a delete hangs", vec![DoneWithoutAnswer], vec![Hangs, unavailable()], vec![]),
        ("a list misses all once", vec![], vec![], vec![Misses, unavailable(), Misses]),
        ("all at once", vec![unavailable(), DoneWithoutAnswer, Hangs], vec![Hangs, unavailable()], vec![Misses]),
    ];
    for (what, creates, deletes, lists) in faults {
        let earth = Earth::new();
        let (first, second) = (Place::of(&earth), Place::of(&earth));
        let manager = start(&earth, group(2, &["first", "second"]), &[&first, &second]).await;
        first.creates(creates);
        first.deletes(deletes);
        first.lists(lists);
        let mut jobs = Jobs::default();
        for job in 1..=8 {
            jobs.queue(&manager, "octo", job).await;
        }
        carry(&earth, &manager, &mut jobs, 8).await;
        assert_eq!((first.instances(), second.instances()), (0, 0), "{what}");
        assert!(earth.things().peak <= 2, "{what}: {} at once", earth.things().peak);
        let created = earth.things().created.clone();
        let names: std::collections::BTreeSet<_> = created.iter().collect();
        assert_eq!(names.len(), created.len(), "{what}: made twice");
        manager.system.kill().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_create_still_makes_that_was_given_up_is_there_before_it_is_removed_also_across_a_stop() {
    for stops in [false, true] {
        let earth = Earth::new();
        let place = Place::of(&earth);
        place.creates([Fault::DoneLater(Duration::from_millis(1500))]);
        let mut manager = start(&earth, group(1, &["place"]), &[&place]).await;
        let mut jobs = Jobs::default();
        let began = Instant::now();
        jobs.queue(&manager, "octo", 1).await;
        until("it is asked", || !place.created_at().is_empty()).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        if stops {
            assert!(manager.system.stop(Duration::from_secs(5)).await);
            manager = start_at(&earth, &[group(1, &["place"])], |_| vec![], vec![Arc::clone(&place) as _]).await;
        }
        carry(&earth, &manager, &mut jobs, 1).await;
        assert_eq!(place.most(), 1, "at once; stopped: {stops}");
        tokio::time::sleep_until(began + Duration::from_secs(30)).await;
        assert_eq!(place.instances(), 0, "only a health check would find it");
        assert!(manager.system.stop(Duration::from_secs(5)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_dies_at_boot_is_replaced() {
    let earth = Earth::new();
    let only = Place::of(&earth);
    let manager = start(&earth, group(1, &["only"]), &[&only]).await;
    let mut jobs = Jobs::default();
    jobs.queue(&manager, "octo", 1).await;
    until("it is there", || earth.things().instances.len() == 1).await;
    only.all_die();
    until("it is replaced", || only.created_at().len() == 2).await;
    carry(&earth, &manager, &mut jobs, 1).await;
    assert_eq!(earth.things().peak, 1);
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_ends_between_two_backends_goes_on_at_the_one_that_was_asked_last() {
    for moment in 0..30_u64 {
        let earth = Earth::new();
        let (full, spare) = (Place::of(&earth), Place::of(&earth));
        full.creates([Fault::Fails(no_capacity())]);
        let manager = start(&earth, group(1, &["full", "spare"]), &[&full, &spare]).await;
        let mut jobs = Jobs::default();
        jobs.queue(&manager, "octo", 1).await;
        tokio::time::sleep(Duration::from_millis(moment / 2)).await;
        manager.system.kill().await;
        let manager = start(&earth, group(1, &["full", "spare"]), &[&full, &spare]).await;
        carry(&earth, &manager, &mut jobs, 1).await;
        assert_eq!((full.instances(), spare.instances(), earth.things().peak), (0, 0, 1), "ended after {moment}");
        manager.system.kill().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_runner_of_a_backend_that_is_not_configured_any_more_is_kept_until_it_is_again() {
    let earth = Earth::new();
    let (old, new) = (Place::of(&earth), Place::of(&earth));
    let manager = start(&earth, group(2, &["old"]), &[&old]).await;
    let mut jobs = Jobs::default();
    jobs.queue(&manager, "octo", 1).await;
    until("it is there", || old.instances() == 1).await;
    manager.system.kill().await;
    let manager = start(&earth, group(2, &["new"]), &[&new]).await;
    while jobs.done.is_empty() {
        jobs.step(&earth, &manager, "octo").await;
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((old.instances(), new.instances()), (1, 0), "nobody could delete it");
    manager.system.kill().await;
    let manager = start(&earth, group(2, &["new", "old"]), &[&new, &old]).await;
    carry(&earth, &manager, &mut jobs, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_runner_is_found_where_it_is_when_the_backends_are_called_otherwise() {
    for (names, swapped) in [(&["first", "second"][..], true), (&["first"], false)] {
        let earth = Earth::new();
        let (old, new) = (Place::of(&earth), Place::of(&earth));
        let manager = start(&earth, group(1, &["first", "second"]), &[&new, &old]).await;
        new.always(Some(no_capacity()));
        let mut jobs = Jobs::default();
        jobs.queue(&manager, "octo", 1).await;
        until("it is there", || old.instances() == 1).await;
        manager.system.kill().await;
        // Their order was changed, or the first one was taken out: the same name is another backend now.
        new.always(None);
        let places = if swapped { vec![&old, &new] } else { vec![&old] };
        let manager = start(&earth, group(1, names), &places).await;
        jobs.queue(&manager, "octo", 2).await;
        carry(&earth, &manager, &mut jobs, 2).await;
        assert_eq!(earth.things().peak, 1, "{names:?}");
        manager.system.kill().await;
    }
}
