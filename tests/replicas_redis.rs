//! What the port Replicas promises, held against Redis: who lives, who owns which group, and what they tell each other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::id::{GroupName, JobId, ReplicaId, RepositoryId};
use actors::model::delivery::JobAction;
use actors::port::github::{Access, Reach};
use actors::port::replicas::{LEASE, Notice, Replicas, Report, Roster};
use actors::port::store::{Changes, Recorded};
use actors::port::{Store, StoreError};
use runner_manager::store::Redis;
use runner_manager::store::redis::{Server, Settings};

#[path = "support/passage.rs"]
mod passage;
#[path = "support/redis.rs"]
mod redis;
#[path = "contract/store/samples.rs"]
mod samples;
#[path = "support/store_redis.rs"]
mod support;

use passage::Passage;
use redis::{Cluster, RedisServer, Sentinels};
use samples::{delivery, group, to};
use support::{Quiet, settings, single};

/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(20);

fn id(name: &str) -> ReplicaId {
    ReplicaId::new(name).unwrap()
}

fn replica_for(server: Server, name: &str, lease: Duration) -> Arc<Redis> {
    let settings = Settings { lease, ..settings(server, "octo", name) };
    Arc::new(Redis::open(settings, Arc::new(Quiet)).unwrap())
}

fn replica(redis: &RedisServer, name: &str) -> Arc<Redis> {
    replica_for(single(redis), name, LEASE)
}

/// Two that live and listen.
async fn two(server: impl Fn() -> Server) -> [Arc<Redis>; 2] {
    let both = ["a", "b"].map(|name| replica_for(server(), name, LEASE));
    for replica in &both {
        assert_eq!(hear(replica).await, Notice::Missed, "from now on it listens");
        beat(replica).await;
    }
    // That the second one came.
    assert_eq!(hear(&both[0]).await, Notice::Changed);
    both
}

async fn hear(replica: &Redis) -> Notice {
    tokio::time::timeout(PATIENCE, replica.next()).await.expect("nothing was told")
}

async fn beat(replica: &Redis) -> Roster {
    replica.beat(&Report::default()).await.unwrap()
}

async fn record(from: &Redis, id: &str, job: u64, group: &GroupName) {
    let recorded = from.record(Arc::new(delivery(id, job, JobAction::Queued, 0)), to(group)).await;
    assert_eq!(recorded, Ok(Recorded::New(vec![group.clone()])));
}

#[tokio::test]
async fn those_that_live_are_seen_with_what_they_report() {
    let redis = RedisServer::start();
    let [a, b] = ["a", "b"].map(|name| replica(&redis, name));
    assert_eq!((a.me(), b.me()), (&id("a"), &id("b")));
    let access = Access { runner_group: "shared".to_owned(), public: false, selected: Some([RepositoryId(7)].into()) };
    let reach = Reach { repository: Some(RepositoryId(9)), access: Some(access) };
    let report = Report {
        reach: BTreeMap::from([(group("octo"), reach)]),
        groups: vec![group("octo")],
        full: vec![group("octo")],
        stopped: BTreeMap::from([(group("other"), "it \"panicked\"\n".to_owned())]),
    };
    let alone = a.beat(&report).await.unwrap();
    assert_eq!(alone, Roster { replicas: BTreeMap::from([(id("a"), report.clone())]), owners: BTreeMap::new() });
    let both = BTreeMap::from([(id("a"), report), (id("b"), Report::default())]);
    assert_eq!(beat(&b).await.replicas, both);
    // One of another release tells something else.
    redis.cli(&["hset", "{runner-manager:octo}:reports", "a", "[1]"]);
    assert_eq!(beat(&b).await.replicas, BTreeMap::from([(id("a"), Report::default()), (id("b"), Report::default())]));
}

#[tokio::test]
async fn a_group_has_one_owner_who_lives() {
    let redis = RedisServer::start();
    let octo = group("octo");
    let [a, b] = ["a", "b"].map(|name| replica(&redis, name));
    assert_eq!(a.claim(&octo).await, Ok(false), "before its first beat");
    beat(&a).await;
    beat(&b).await;
    assert_eq!(a.claim(&octo).await, Ok(true));
    assert_eq!(a.claim(&octo).await, Ok(true));
    assert_eq!(b.claim(&octo).await, Ok(false));
    assert_eq!(beat(&b).await.owners, BTreeMap::from([(octo.clone(), id("a"))]));
    // Only the owner acquires.
    let not_owner = Err(StoreError::NotOwner { group: octo.clone(), owner: id("a") });
    assert_eq!(b.acquire(&octo).await, not_owner);
    let token = a.acquire(&octo).await.unwrap();
    a.save(&octo, token, Changes::default()).await.unwrap();
    // Not the owner: nothing happens.
    b.release(&octo).await.unwrap();
    assert_eq!(b.claim(&octo).await, Ok(false));
    a.leave().await.unwrap();
    assert_eq!(a.claim(&octo).await, Ok(false), "after it left");
    assert_eq!(
        beat(&b).await,
        Roster { replicas: BTreeMap::from([(id("b"), Report::default())]), owners: BTreeMap::new() }
    );
    assert_eq!(b.claim(&octo).await, Ok(true));
    let newer = b.acquire(&octo).await.unwrap();
    assert!(newer > token);
    assert_eq!(a.save(&octo, token, Changes::default()).await, Err(StoreError::Fenced { group: octo, token }));
}

#[tokio::test]
async fn what_one_gives_up_another_may_take_and_giving_it_up_again_harms_nobody() {
    let redis = RedisServer::start();
    let octo = group("octo");
    let [a, b] = two(|| single(&redis)).await;
    assert_eq!(a.claim(&octo).await, Ok(true));
    a.release(&octo).await.unwrap();
    assert_eq!(hear(&b).await, Notice::Changed);
    assert_eq!(b.claim(&octo).await, Ok(true));
    // A release that comes late.
    a.release(&octo).await.unwrap();
    assert_eq!(beat(&a).await.owners, BTreeMap::from([(octo.clone(), id("b"))]));
    b.leave().await.unwrap();
    assert_eq!(hear(&a).await, Notice::Changed);
    assert_eq!(a.claim(&octo).await, Ok(true));
}

#[tokio::test]
async fn who_does_not_say_that_it_lives_loses_everything() {
    let redis = RedisServer::start();
    let octo = group("octo");
    let dead = replica_for(single(&redis), "dead", Duration::from_millis(300));
    let live = replica(&redis, "live");
    beat(&dead).await;
    beat(&live).await;
    assert_eq!(dead.claim(&octo).await, Ok(true));
    assert_eq!(live.claim(&octo).await, Ok(false));
    let start = Instant::now();
    while !live.claim(&octo).await.unwrap() {
        assert!(start.elapsed() < PATIENCE);
    }
    assert!(start.elapsed() > Duration::from_millis(100), "not before its time");
    assert_eq!(dead.claim(&octo).await, Ok(false), "nothing of it counts any more");
    let roster = beat(&live).await;
    assert_eq!(roster.replicas.keys().collect::<Vec<_>>(), [&id("live")]);
    assert_eq!(roster.owners, BTreeMap::from([(octo, id("live"))]));
    assert_eq!(redis.cli(&["hkeys", "{runner-manager:octo}:reports"]), "live");
    // Without anybody else it is new again, and owns nothing.
    dead.claim(&group("other")).await.unwrap();
    assert_eq!(beat(&dead).await.replicas.len(), 2);
}

#[tokio::test]
async fn one_that_died_before_the_server_s_clock_was_set_back_does_not_outlive_its_lease() {
    let redis = RedisServer::start();
    let octo = group("octo");
    let [dead, live] = ["dead", "live"].map(|name| replica_for(single(&redis), name, Duration::from_millis(300)));
    beat(&dead).await;
    assert_eq!(dead.claim(&octo).await, Ok(true));
    // As it stands after the clock went back by an hour.
    let until = redis.cli(&["zscore", "{runner-manager:octo}:replicas", "dead"]).parse::<f64>().unwrap() + 3.6e9;
    redis.cli(&["zadd", "{runner-manager:octo}:replicas", &until.to_string(), "dead"]);
    let start = Instant::now();
    while beat(&live).await.replicas.len() == 2 {
        assert!(start.elapsed() < PATIENCE, "it still counts as alive");
    }
    assert!(start.elapsed() > Duration::from_millis(200), "not before its time");
    assert_eq!(live.claim(&octo).await, Ok(true));
}

#[tokio::test]
async fn the_owner_of_a_group_and_nobody_else_hears_of_its_deliveries() {
    let redis = RedisServer::start();
    let [a, b] = two(|| single(&redis)).await;
    let (octo, other, nobodys) = (group("octo"), group("other"), group("nobodys"));
    assert_eq!((a.claim(&octo).await, b.claim(&other).await), (Ok(true), Ok(true)));
    record(&a, "own", 1, &octo).await;
    record(&b, "free", 2, &nobodys).await;
    record(&b, "poke", 3, &octo).await;
    assert_eq!(hear(&a).await, Notice::Poke(octo.clone()));
    // To whom its runner belongs, too.
    let mut route = to(&octo);
    route.runner_group = Some(other.clone());
    a.record(Arc::new(delivery("taken", 4, JobAction::InProgress, 0)), route).await.unwrap();
    assert_eq!(hear(&b).await, Notice::Poke(other));
    // Nothing else was told.
    for (from, to) in [(&a, &b), (&b, &a)] {
        assert_eq!(from.send(to.me(), "end".to_owned()).await, Ok(true));
        assert_eq!(hear(to).await, Notice::Message("end".to_owned()));
    }
}

async fn messages_arrive(server: impl Fn() -> Server) {
    let [a, b] = two(server).await;
    for text in ["", "two words\n\u{1F980}", &"x".repeat(1 << 20)] {
        assert_eq!(a.send(b.me(), text.to_owned()).await, Ok(true));
        assert_eq!(hear(&b).await, Notice::Message(text.to_owned()));
    }
    assert_eq!(a.send(&id("nobody"), "x".to_owned()).await, Ok(false));
}

#[tokio::test]
async fn messages_arrive_as_they_were_sent() {
    let redis = RedisServer::start();
    messages_arrive(|| single(&redis)).await;
}

#[tokio::test]
async fn messages_arrive_in_a_cluster() {
    let cluster = Cluster::start();
    messages_arrive(|| support::cluster(&cluster)).await;
}

#[tokio::test]
async fn messages_arrive_in_a_cluster_also_where_another_node_has_the_keys_now() {
    let cluster = Cluster::start();
    let [a, b] = two(|| support::cluster(&cluster)).await;
    cluster.move_slot_of("{runner-manager:octo}:replicas");
    beat(&a).await;
    assert_eq!(a.send(b.me(), "moved".to_owned()).await, Ok(true));
    assert_eq!(hear(&b).await, Notice::Message("moved".to_owned()));
}

#[tokio::test]
async fn messages_arrive_behind_sentinels() {
    let sentinels = Sentinels::start();
    messages_arrive(|| support::sentinels(&sentinels)).await;
}

#[tokio::test]
async fn whoever_may_have_missed_something_is_told() {
    let mut redis = RedisServer::start();
    let [a, b] = two(|| single(&redis)).await;
    redis.cli(&["client", "kill", "type", "pubsub"]);
    assert_eq!(hear(&a).await, Notice::Missed);
    assert_eq!(a.send(a.me(), "1".to_owned()).await, Ok(true));
    assert_eq!(hear(&a).await, Notice::Message("1".to_owned()));
    assert_eq!(hear(&b).await, Notice::Missed);
    redis.kill();
    redis.start_again();
    assert_eq!(hear(&a).await, Notice::Missed);
}

#[tokio::test]
async fn a_connection_that_does_not_hear_this_process_itself_is_made_anew() {
    let redis = RedisServer::start();
    let passage = Passage::to(redis.port()).await;
    let a = replica_for(support::through(&passage), "a", LEASE);
    assert_eq!(hear(&a).await, Notice::Missed);
    passage.set_deaf(true);
    let started = Instant::now();
    let beating = async {
        loop {
            beat(&a).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            // The next connection hears.
            if started.elapsed() > Duration::from_secs(2) {
                passage.set_deaf(false);
                return std::future::pending::<Notice>().await;
            }
        }
    };
    let notice = tokio::select! { notice = hear(&a) => notice, notice = beating => notice };
    assert_eq!(notice, Notice::Missed);
    assert!(started.elapsed() > Duration::from_secs(3), "not at the first silence");
    assert_eq!(a.send(a.me(), "1".to_owned()).await, Ok(true));
    assert_eq!(hear(&a).await, Notice::Message("1".to_owned()));
}

#[tokio::test]
async fn saying_that_one_lives_does_not_wait_behind_reads() {
    let redis = RedisServer::start();
    let a = replica(&redis, "a");
    beat(&a).await;
    let reads = futures_util::future::join_all((0..2000).map(|n| a.job(JobId(n))));
    let (report, octo) = (Report::default(), group("octo"));
    let (reads, beaten, claimed) = tokio::join!(reads, a.beat(&report), a.claim(&octo));
    assert!(reads.iter().any(Result::is_err), "more reads than may wait");
    assert_eq!((beaten.map(|roster| roster.replicas.len()), claimed), (Ok(1), Ok(true)));
}

#[tokio::test]
async fn after_closing_nothing_works() {
    let redis = RedisServer::start();
    let a = replica(&redis, "a");
    beat(&a).await;
    a.close().await;
    assert!(matches!(a.beat(&Report::default()).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(a.claim(&group("octo")).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(a.send(&id("a"), String::new()).await, Err(StoreError::Unavailable(_))));
}
