//! Several managers share their groups: who comes, who goes, who dies, who sleeps, and a store that forgets.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

#[allow(dead_code, reason = "shared with the other tests")]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actors::actor::directory::{Command, Owner, Refused};
use actors::id::{GroupName, JobId, ReplicaId, RunnerName};
use actors::model::delivery::JobAction::Queued;
use actors::model::job::JobStatus;
use actors::model::settings::GroupSettings;
use actors::port::StoreError;
use actors::port::replicas::Notice;
use support::jobs::Jobs;
use support::replicas::{ACTS_FOR, Site, join};
use support::{Earth, Manager, settings, until};
use tokio::time::Instant;

fn groups(n: usize, max: u32) -> Vec<GroupSettings> {
    (0..n).map(|n| settings(&format!("g{n:02}"), 0, max)).collect()
}

fn name(n: usize) -> GroupName {
    GroupName::new(format!("g{n:02}")).unwrap()
}

/// Who runs each group; a group that two run fails the test.
fn owners(managers: &[(&str, &Manager)]) -> BTreeMap<GroupName, String> {
    let mut owners = BTreeMap::new();
    for (id, manager) in managers {
        for group in manager.runs() {
            let other = owners.insert(group.clone(), (*id).to_owned());
            assert_eq!(other, None, "two run {group}");
        }
    }
    owners
}

fn load(owners: &BTreeMap<GroupName, String>, id: &str) -> usize {
    owners.values().filter(|owner| *owner == id).count()
}

fn moved(before: &BTreeMap<GroupName, String>, after: &BTreeMap<GroupName, String>) -> usize {
    before.iter().filter(|(group, owner)| after.get(*group) != Some(*owner)).count()
}

async fn settled(replicas: &[(&str, &Manager)], groups: usize, each: &[usize]) {
    until(&format!("{groups} groups are shared {each:?}"), || {
        let owners = owners(replicas);
        let mut loads: Vec<usize> = replicas.iter().map(|(id, _)| load(&owners, id)).collect();
        loads.sort_unstable();
        owners.len() == groups && loads == each
    })
    .await;
}

/// Jobs of several groups, each of which has its own.
struct Work(BTreeMap<String, Jobs>);

impl Work {
    async fn queue(manager: &Manager, groups: usize, each: u64) -> Self {
        let mut all = BTreeMap::new();
        for n in 0..groups {
            let mut jobs = Jobs::default();
            for job in 1..=each {
                jobs.queue(manager, name(n).as_str(), n as u64 * 1000 + job).await;
            }
            all.insert(name(n).to_string(), jobs);
        }
        Self(all)
    }

    fn done(&self) -> usize {
        self.0.values().map(|jobs| jobs.done.len()).sum()
    }

    async fn step(&mut self, earth: &Arc<Earth>, manager: &Manager) {
        for (group, jobs) in &mut self.0 {
            jobs.step(earth, manager, group).await;
        }
    }

    async fn finish(&mut self, earth: &Arc<Earth>, manager: &Manager) {
        let all: usize = self.0.values().map(|jobs| jobs.done.len() + jobs.queued.len() + jobs.running.len()).sum();
        let deadline = Instant::now() + Duration::from_secs(3600);
        while self.done() < all {
            assert!(Instant::now() < deadline, "{} of {all} jobs are served", self.done());
            self.step(earth, manager).await;
        }
        until("everything is gone", || earth.things().instances.is_empty() && earth.things().registered.is_empty())
            .await;
        until("all jobs are final", || {
            let things = earth.things();
            things.jobs.len() == all && things.jobs.values().all(|job| job.status == JobStatus::Completed)
        })
        .await;
    }
}

fn nothing_was_made_twice(earth: &Earth, max: usize) {
    let things = earth.things();
    let names: BTreeSet<_> = things.created.iter().collect();
    assert_eq!(names.len(), things.created.len(), "no runner was created twice");
    for (group, peak) in &things.peaks {
        assert!(*peak <= max, "{group} had {peak} instances at once");
    }
}

#[tokio::test(start_paused = true)]
async fn twenty_groups_are_shared_evenly_and_little_moves_when_one_comes_or_leaves() {
    let (earth, all) = (Earth::new(), groups(20, 2));
    let (a, b, c) = (Site::new(&earth, "a"), Site::new(&earth, "b"), Site::new(&earth, "c"));
    let (ma, mb) = (join(&a, &all).await, join(&b, &all).await);
    settled(&[("a", &ma), ("b", &mb)], 20, &[10, 10]).await;
    let two = owners(&[("a", &ma), ("b", &mb)]);

    let mc = join(&c, &all).await;
    settled(&[("a", &ma), ("b", &mb), ("c", &mc)], 20, &[6, 7, 7]).await;
    let three = owners(&[("a", &ma), ("b", &mb), ("c", &mc)]);
    assert_eq!(moved(&two, &three), 6, "the share of the one that came");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(owners(&[("a", &ma), ("b", &mb), ("c", &mc)]), three, "then it stays");

    let left = load(&three, "b");
    assert!(mb.system.stop(Duration::from_secs(30)).await);
    settled(&[("a", &ma), ("c", &mc)], 20, &[10, 10]).await;
    let rest = owners(&[("a", &ma), ("c", &mc)]);
    assert_eq!(moved(&three, &rest), left, "only the groups of the one that left");
    // Everybody knows of everybody's groups.
    until("a knows", || ma.front.directory.entries().iter().all(|entry| entry.owner != Owner::Nobody)).await;
    assert!(ma.front.directory.is_connected());
}

#[tokio::test(start_paused = true)]
async fn replicas_with_different_groups_run_what_they_know() {
    let (earth, all) = (Earth::new(), groups(6, 2));
    let (a, b) = (Site::new(&earth, "a"), Site::new(&earth, "b"));
    let (ma, mb) = (join(&a, &all[..4]).await, join(&b, &all[2..]).await);
    settled(&[("a", &ma), ("b", &mb)], 6, &[3, 3]).await;
    assert!(ma.runs().contains(&name(0)) && mb.runs().contains(&name(5)));
}

#[tokio::test(start_paused = true)]
async fn the_groups_of_one_that_is_killed_are_taken_over_and_every_job_is_served_once() {
    let (earth, all) = (Earth::new(), groups(4, 2));
    *earth.latency.lock().unwrap() = Duration::from_millis(7);
    let (a, b) = (Site::new(&earth, "a"), Site::new(&earth, "b"));
    let (ma, mb) = (join(&a, &all).await, join(&b, &all).await);
    settled(&[("a", &ma), ("b", &mb)], 4, &[2, 2]).await;
    // Webhooks come to b, whoever runs the group.
    let mut work = Work::queue(&mb, 4, 15).await;
    while work.done() < 12 {
        work.step(&earth, &mb).await;
    }
    tokio::time::sleep(Duration::from_millis(11)).await;
    ma.system.kill().await;
    let killed = Instant::now();
    while mb.runs().len() < 4 {
        work.step(&earth, &mb).await;
        assert!(killed.elapsed() < Duration::from_secs(15), "taken over in time");
    }
    work.finish(&earth, &mb).await;
    nothing_was_made_twice(&earth, 2);
}

#[tokio::test(start_paused = true)]
async fn replicas_that_die_again_and_again_lose_nothing_and_exceed_nothing() {
    let (earth, all) = (Earth::new(), groups(3, 2));
    *earth.latency.lock().unwrap() = Duration::from_millis(7);
    let front = join(&Site::new(&earth, "front"), &all).await;
    let mut work = Work::queue(&front, 3, 20).await;
    for life in 0..20_u64 {
        let site = Site::new(&earth, &format!("life-{life}"));
        let manager = join(&site, &all).await;
        until("it has its share", || !manager.runs().is_empty()).await;
        for _ in 0..(life % 4) {
            work.step(&earth, &front).await;
        }
        tokio::time::sleep(Duration::from_millis(life * 3 % 23)).await;
        if life % 3 == 0 {
            manager.system.stop(Duration::from_secs(5)).await;
        } else {
            manager.system.kill().await;
        }
    }
    work.finish(&earth, &front).await;
    nothing_was_made_twice(&earth, 2);
}

#[tokio::test(start_paused = true)]
async fn one_that_stops_hands_everything_over_within_two_seconds_with_calls_in_flight() {
    let (earth, all) = (Earth::new(), groups(20, 2));
    let (a, b) = (Site::new(&earth, "a"), Site::new(&earth, "b"));
    let (ma, mb) = (join(&a, &all).await, join(&b, &all).await);
    settled(&[("a", &ma), ("b", &mb)], 20, &[10, 10]).await;
    // A quarter of them ends in time, the rest is recovered by the next owner.
    *earth.create_takes.lock().unwrap() = Duration::from_secs(4);
    let mut work = Work::queue(&mb, 20, 2).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let stopping = Instant::now();
    let stop = tokio::spawn(ma.system.stop(Duration::from_secs(30)));
    until("the other one runs all", || mb.runs().len() == 20).await;
    let took = stopping.elapsed();
    assert!(took <= Duration::from_secs(2), "{took:?}");
    assert!(!stop.await.unwrap(), "calls were still out");
    assert!(stopping.elapsed() <= Duration::from_secs(5));
    *earth.create_takes.lock().unwrap() = Duration::ZERO;
    work.finish(&earth, &mb).await;
    assert!(a.calls_between(stopping + Duration::from_secs(2), Instant::now()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_not_held_up_by_a_store_that_is_gone() {
    let earth = Earth::new();
    let a = Site::new(&earth, "a");
    let ma = join(&a, &groups(3, 2)).await;
    settled(&[("a", &ma)], 3, &[3]).await;
    a.stall(true);
    let began = Instant::now();
    assert!(!ma.system.stop(Duration::from_secs(10)).await, "and says so");
    assert!(began.elapsed() <= Duration::from_secs(13), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn one_whose_beats_do_not_get_through_stops_acting_before_its_lease_is_over() {
    let (earth, all) = (Earth::new(), groups(4, 2));
    *earth.latency.lock().unwrap() = Duration::from_millis(200);
    let (a, b) = (Site::new(&earth, "a"), Site::new(&earth, "b"));
    let (ma, mb) = (join(&a, &all).await, join(&b, &all).await);
    settled(&[("a", &ma), ("b", &mb)], 4, &[2, 2]).await;
    let lost: Vec<GroupName> = ma.runs();
    let mut work = Work::queue(&mb, 4, 40).await;
    work.step(&earth, &mb).await;
    a.beats_fail.store(true, Ordering::SeqCst);
    let cut = Instant::now();
    let mut still_acted = false;
    while cut.elapsed() < Duration::from_secs(60) {
        work.step(&earth, &mb).await;
        still_acted |= !a.calls_between(cut + Duration::from_secs(3), Instant::now()).is_empty();
    }
    assert!(still_acted, "a short disturbance disturbs nobody");
    let forbidden = a.calls_between(cut + ACTS_FOR, Instant::now());
    assert_eq!(forbidden, [], "it does nothing once its lease is over");
    assert_eq!(mb.runs().len(), 4);
    assert!(!ma.front.directory.is_connected(), "and is not ready");
    assert!(lost.iter().all(|group| mb.runs().contains(group)));
    // What it still ran, it stops as soon as it hears.
    a.beats_fail.store(false, Ordering::SeqCst);
    let heard = Instant::now();
    until("it stopped", || !ma.runs().iter().any(|group| mb.runs().contains(group))).await;
    assert!(heard.elapsed() <= Duration::from_secs(3), "{:?}", heard.elapsed());
    settled(&[("a", &ma), ("b", &mb)], 4, &[2, 2]).await;
    assert!(ma.front.directory.is_connected());
    work.finish(&earth, &mb).await;
    nothing_was_made_twice(&earth, 2);
}

#[tokio::test(start_paused = true)]
async fn one_that_slept_for_a_minute_does_nothing_any_more_and_its_saves_are_refused() {
    let (earth, all) = (Earth::new(), groups(4, 2));
    *earth.latency.lock().unwrap() = Duration::from_millis(50);
    let (a, b) = (Site::new(&earth, "a"), Site::new(&earth, "b"));
    let (ma, mb) = (join(&a, &all).await, join(&b, &all).await);
    settled(&[("a", &ma), ("b", &mb)], 4, &[2, 2]).await;
    let mut work = Work::queue(&mb, 4, 20).await;
    work.step(&earth, &mb).await;
    work.step(&earth, &mb).await;
    a.stall(true);
    let asleep = Instant::now();
    while asleep.elapsed() < Duration::from_secs(60) {
        work.step(&earth, &mb).await;
    }
    let before = a.calls_between(asleep + ACTS_FOR, Instant::now());
    assert_eq!(before, []);
    assert_eq!(mb.runs().len(), 4);
    // Its saves and its beat get through at the same time.
    let awake = Instant::now();
    a.stall(false);
    until("it knows", || a.refused.lock().unwrap().iter().any(|e| matches!(e, StoreError::Fenced { .. }))).await;
    until("it stopped", || !ma.runs().iter().any(|group| mb.runs().contains(group))).await;
    let stopped = Instant::now();
    assert!(stopped - awake < Duration::from_secs(1));
    assert_eq!(a.calls_between(awake, stopped), [], "it asked for nothing before it knew");
    work.finish(&earth, &mb).await;
    nothing_was_made_twice(&earth, 2);
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_is_out_when_the_lease_ends_does_not_end_in_one_runner_too_many() {
    let (earth, all) = (Earth::new(), groups(2, 1));
    *earth.create_takes.lock().unwrap() = Duration::from_secs(30);
    let (a, b) = (Site::new(&earth, "a"), Site::new(&earth, "b"));
    let (ma, mb) = (join(&a, &all).await, join(&b, &all).await);
    settled(&[("a", &ma), ("b", &mb)], 2, &[1, 1]).await;
    let mut work = Work::queue(&mb, 2, 2).await;
    until("it creates", || a.calls.lock().unwrap().iter().any(|(_, what, _)| *what == "create")).await;
    a.stall(true);
    until("the other one has both", || mb.runs().len() == 2).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    *earth.create_takes.lock().unwrap() = Duration::ZERO;
    work.finish(&earth, &mb).await;
    nothing_was_made_twice(&earth, 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_emptied_gets_everything_back() {
    let (earth, all) = (Earth::new(), groups(4, 2));
    let (a, b) = (Site::new(&earth, "a"), Site::new(&earth, "b"));
    let (ma, mb) = (join(&a, &all).await, join(&b, &all).await);
    settled(&[("a", &ma), ("b", &mb)], 4, &[2, 2]).await;
    let mut work = Work::queue(&mb, 4, 10).await;
    for _ in 0..5 {
        work.step(&earth, &mb).await;
    }
    until("two instances each", || earth.things().instances.len() == 8).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let jobs = earth.things().jobs.clone();
    let instances: Vec<RunnerName> = earth.things().instances.keys().cloned().collect();
    assert_eq!(jobs.len(), 40);
    let before = owners(&[("a", &ma), ("b", &mb)]);

    earth.things().empty_the_store();
    earth.membership().forget();
    // What comes before anybody noticed has low cursors.
    for n in 0..4 {
        let queue = work.0.get_mut(name(n).as_str()).unwrap();
        queue.queue(&mb, name(n).as_str(), n as u64 * 1000 + 500).await;
    }
    until("every job is back", || earth.things().jobs.len() == 44).await;
    for (id, job) in &jobs {
        assert_eq!(earth.things().jobs[id], *job, "as it was");
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(earth.things().instances.keys().cloned().collect::<Vec<_>>(), instances, "nothing was deleted");
    assert_eq!(owners(&[("a", &ma), ("b", &mb)]), before, "nobody lost a group");
    // A new owner finds it all, also the runners.
    ma.system.kill().await;
    until("all run again", || mb.runs().len() == 4).await;
    work.finish(&earth, &mb).await;
    nothing_was_made_twice(&earth, 2);
}

#[tokio::test(start_paused = true)]
async fn a_claim_without_an_answer_does_not_leave_the_group_forgotten() {
    let (earth, all) = (Earth::new(), groups(1, 2));
    let a = Site::new(&earth, "a");
    let ma = join(&a, &all).await;
    settled(&[("a", &ma)], 1, &[1]).await;
    Work::queue(&ma, 1, 10).await;
    until("two instances", || earth.things().instances.len() == 2).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    a.lose_claims.store(1, Ordering::SeqCst);
    earth.things().empty_the_store();
    earth.membership().forget();
    // Nothing happens that would be saved.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(a.lose_claims.load(Ordering::SeqCst), 0, "it was claimed again");
    assert_eq!(earth.things().jobs.len(), 10, "and is saved again");
}

#[tokio::test(start_paused = true)]
async fn a_save_that_finds_its_group_forgotten_writes_all_of_it_again() {
    let (earth, all) = (Earth::new(), groups(1, 2));
    let a = Site::new(&earth, "a");
    let ma = join(&a, &all).await;
    settled(&[("a", &ma)], 1, &[1]).await;
    let mut work = Work::queue(&ma, 1, 10).await;
    until("two instances", || earth.things().instances.len() == 2).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let instances: Vec<RunnerName> = earth.things().instances.keys().cloned().collect();
    earth.forgets.store(1, Ordering::SeqCst);
    ma.deliver("one-more".into(), "g00", 11, Queued, None).await;
    work.0.get_mut("g00").unwrap().queued.push(11);
    until("every job is back", || earth.things().jobs.len() == 11).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(a.refused.lock().unwrap().len(), 1);
    ma.system.kill().await;
    let mb = join(&Site::new(&earth, "b"), &all).await;
    until("the next one runs it", || mb.runs().len() == 1).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(earth.things().instances.keys().cloned().collect::<Vec<_>>(), instances, "it knows the runners");
    work.finish(&earth, &mb).await;
    assert_eq!(earth.things().created.len(), 11);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_had_another_owner_in_between_is_loaded_anew() {
    let (earth, all) = (Earth::new(), groups(1, 2));
    let (a, b) = (Site::new(&earth, "a"), Site::new(&earth, "b"));
    let ma = join(&a, &all).await;
    settled(&[("a", &ma)], 1, &[1]).await;
    a.stall(true);
    let mb = join(&b, &all).await;
    until("the other one runs it", || mb.runs().len() == 1).await;
    mb.deliver("q-1".into(), "g00", 1, Queued, None).await;
    until("it created", || earth.things().instances.len() == 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(mb.system.stop(Duration::from_secs(5)).await);
    a.stall(false);
    until("the first one runs it again", || ma.runs().len() == 1 && ma.front.directory.is_connected()).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(a.refused.lock().unwrap().iter().any(|e| matches!(e, StoreError::Fenced { .. })), "it was told");
    assert_eq!(earth.things().jobs[&JobId(1)].status, JobStatus::Queued, "what the other one saved stays");
    assert_eq!(earth.things().created.len(), 1);
    assert_eq!(earth.things().instances.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn commands_reach_groups_that_run_elsewhere_and_their_answers_come_back() {
    let (earth, all) = (Earth::new(), groups(2, 1));
    let (a, b) = (Site::new(&earth, "a"), Site::new(&earth, "b"));
    let (ma, mb) = (join(&a, &all).await, join(&b, &all).await);
    settled(&[("a", &ma), ("b", &mb)], 2, &[1, 1]).await;
    let theirs = mb.runs()[0].clone();
    let owner = || ma.front.directory.entry(theirs.as_str()).unwrap().owner;
    until("a knows whose it is", || owner() == Owner::Other(ReplicaId::new("b").unwrap())).await;
    let ask = |command| ma.front.directory.command(theirs.as_str(), command);

    tokio::time::sleep(Duration::from_secs(2)).await;
    let runner = ask(Command::CreateRunner).await.unwrap().runner.unwrap();
    until("it exists", || earth.things().instances.contains_key(&runner)).await;
    assert!(b.calls.lock().unwrap().iter().any(|(_, what, on)| *what == "create" && *on == runner.to_string()));
    // Errors come back as they are.
    let full = ask(Command::CreateRunner).await.unwrap_err();
    assert!(matches!(&full, Refused::Conflict(why) if why.contains("full")), "{full}");
    let unknown = theirs.runner_name(7);
    let none = ask(Command::DeleteRunner { runner: unknown.clone(), force: false }).await.unwrap_err();
    assert_eq!(none, Refused::NoRunner { group: theirs.clone(), runner: unknown });
    until("its owner tells that it is full", || !ma.front.directory.entry(theirs.as_str()).unwrap().has_capacity).await;

    b.deaf.store(true, Ordering::SeqCst);
    let asked = Instant::now();
    let silent = ask(Command::Drain).await.unwrap_err();
    assert!(matches!(&silent, Refused::Unavailable(why) if why.contains("replica b")), "{silent}");
    assert!(asked.elapsed() <= Duration::from_secs(6));
    b.deaf.store(false, Ordering::SeqCst);
    mb.system.kill().await;
    let dead = ask(Command::Drain).await.unwrap_err();
    assert!(matches!(&dead, Refused::Unavailable(why) if why.contains("replica b")), "{dead}");
    until("a runs both", || ma.runs().len() == 2).await;
    ask(Command::Drain).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_command_that_arrives_twice_is_carried_out_once() {
    let (earth, all) = (Earth::new(), groups(2, 5));
    let (a, b) = (Site::new(&earth, "a"), Site::new(&earth, "b"));
    let (ma, mb) = (join(&a, &all).await, join(&b, &all).await);
    settled(&[("a", &ma), ("b", &mb)], 2, &[1, 1]).await;
    let theirs = mb.runs()[0].clone();
    let owner = || ma.front.directory.entry(theirs.as_str()).unwrap().owner;
    until("a knows whose it is", || owner() == Owner::Other(b.id.clone())).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    a.echoes.store(true, Ordering::SeqCst);
    for made in 1..=2 {
        let outcome = ma.front.directory.command(theirs.as_str(), Command::CreateRunner).await.unwrap();
        let runner = outcome.runner.unwrap();
        until("it exists", || earth.things().instances.contains_key(&runner)).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(earth.things().created.len(), made);
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_for_a_group_that_has_moved_is_not_passed_on_again() {
    let (earth, all) = (Earth::new(), groups(6, 1));
    let (a, b, c) = (Site::new(&earth, "a"), Site::new(&earth, "b"), Site::new(&earth, "c"));
    let (ma, mb) = (join(&a, &all).await, join(&b, &all).await);
    settled(&[("a", &ma), ("b", &mb)], 6, &[3, 3]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let theirs = mb.runs();
    // What a knows grows old, and one of b's groups moves to c.
    a.beats_fail.store(true, Ordering::SeqCst);
    let mc = join(&c, &all).await;
    until("c runs one of them", || theirs.iter().any(|group| mc.runs().contains(group))).await;
    let moved = mc.runs().into_iter().find(|group| theirs.contains(group)).unwrap();
    let to_c = || mb.front.directory.entry(moved.as_str()).unwrap().owner == Owner::Other(c.id.clone());
    until("b knows", to_c).await;
    let refused = ma.front.directory.command(moved.as_str(), Command::Drain).await.unwrap_err();
    assert!(matches!(&refused, Refused::Unavailable(why) if why.contains("moved to replica c")), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn one_that_stops_in_a_quiet_moment_is_replaced_at_once() {
    let (earth, all) = (Earth::new(), groups(20, 2));
    let (a, b) = (Site::new(&earth, "a"), Site::new(&earth, "b"));
    let (ma, mb) = (join(&a, &all).await, join(&b, &all).await);
    settled(&[("a", &ma), ("b", &mb)], 20, &[10, 10]).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let began = Instant::now();
    assert!(ma.system.stop(Duration::from_secs(30)).await);
    until("the other one runs all", || mb.runs().len() == 20).await;
    assert!(began.elapsed() <= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn one_without_groups_does_not_take_those_of_others_from_an_emptied_store() {
    let (earth, all) = (Earth::new(), groups(2, 2));
    let (a, b, c) = (Site::new(&earth, "a"), Site::new(&earth, "b"), Site::new(&earth, "c"));
    let (ma, mb) = (join(&a, &all).await, join(&b, &all).await);
    settled(&[("a", &ma), ("b", &mb)], 2, &[1, 1]).await;
    let mc = join(&c, &all).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = owners(&[("a", &ma), ("b", &mb), ("c", &mc)]);
    earth.things().empty_the_store();
    earth.membership().forget();
    // It hears of it first.
    earth.membership().tell(&c.id, Notice::Changed);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(owners(&[("a", &ma), ("b", &mb), ("c", &mc)]), before);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_was_lost_before_it_was_loaded_is_not_tried_again_and_again() {
    let (earth, all) = (Earth::new(), groups(1, 2));
    let (a, b) = (Site::new(&earth, "a"), Site::new(&earth, "b"));
    *earth.latency.lock().unwrap() = Duration::from_millis(100);
    let ma = join(&a, &all).await;
    until("a claimed it", || earth.membership().owner(&name(0)) == Some(a.id.clone())).await;
    a.stall(true);
    let mb = join(&b, &all).await;
    until("b runs it", || mb.runs().len() == 1).await;
    a.stall(false);
    a.beats_fail.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let refused = a.refused.lock().unwrap().clone();
    assert!(matches!(refused[..], [StoreError::NotOwner { .. }]), "{refused:?}");
    assert!(ma.runs().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_parked_group_shows_everywhere_and_can_be_reset_from_anywhere() {
    let (earth, all) = (Earth::new(), groups(2, 1));
    let (a, b) = (Site::new(&earth, "a"), Site::new(&earth, "b"));
    let (ma, mb) = (join(&a, &all).await, join(&b, &all).await);
    settled(&[("a", &ma), ("b", &mb)], 2, &[1, 1]).await;
    let theirs = mb.runs()[0].clone();
    *earth.panics_for.lock().unwrap() = Some(theirs.clone());
    ma.deliver("q-1".into(), theirs.as_str(), 1, Queued, None).await;
    let health = || ma.front.directory.entry(theirs.as_str()).unwrap().health;
    until("a hears that it is parked", || matches!(health(), actors::actor::directory::Health::Parked { .. })).await;
    *earth.panics_for.lock().unwrap() = None;
    ma.front.directory.command(theirs.as_str(), Command::Reset).await.unwrap();
    until("it runs again, there", || mb.runs() == [theirs.clone()]).await;
    until("a hears of it", || health() == actors::actor::directory::Health::Running).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_store_took_while_it_gave_no_answer_is_served_once_it_answers_again() {
    let (earth, all) = (Earth::new(), groups(1, 2));
    let a = Site::new(&earth, "a");
    let ma = join(&a, &all).await;
    until("it runs", || ma.runs().len() == 1).await;
    until("it looked", || earth.things().listings > 0).await;
    a.beats_fail.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(3)).await;
    earth.lose_records.store(1, Ordering::SeqCst);
    ma.try_deliver("q-1".into(), name(0).as_str(), 1, Queued, None).await.unwrap_err();
    a.beats_fail.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(earth.things().created.len(), 1, "not only with the next health check");
}
