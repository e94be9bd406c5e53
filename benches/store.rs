//! How fast the embedded store is, beside what the disk itself can do, and the store in Redis, in one run.
//!
//! `cargo bench --bench store [-- DIRECTORY] [redis://HOST:PORT]`; the directory decides which disk is measured, and
//! without an address of an empty Redis that store is left out.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program that prints figures")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::id::{Cursor, ManagerName, ReplicaId};
use actors::model::delivery::JobAction;
use actors::model::job::JobStatus;
use actors::model::runner::RunnerState;
use actors::port::store::Changes;
use actors::port::{Observation, Observer, Store};
use runner_manager::store::redis::{Server, Settings, Topology};
use runner_manager::store::{Embedded, Redis};

#[path = "../tests/contract/store/samples.rs"]
mod samples;

use samples::*;

/// How long each figure is measured.
const TIME: Duration = Duration::from_secs(3);

struct Quiet;

impl Observer for Quiet {
    fn observe(&self, _: &Observation<'_>) {}
}

fn main() {
    let words = || std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let base = words().find(|word| !word.contains("://"));
    let redis = words().find_map(|word| word.strip_prefix("redis://").map(str::to_owned));
    let temp = base.map_or_else(tempfile::tempdir, tempfile::tempdir_in).unwrap();
    println!("directory                         {}", temp.path().display());
    raw(temp.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = temp.path().join("data");
        let before = resident();
        let store = open(&dir);
        println!("resident memory of an empty store  {} kB", resident() - before);
        lone(&store).await;
        for tasks in [8, 64, 256] {
            together(&store, tasks).await;
        }
        crowd(&store).await;
        println!("resident memory after all that     {} kB more", resident() - before);
        store.close().await;
        drop(store);
        let start = Instant::now();
        let store = open(&dir);
        let opened = start.elapsed();
        let loaded = store.load(&group("crowd")).await.unwrap();
        println!(
            "open, then load {} runners   {opened:?}, {:?} in all; database of {} MB",
            loaded.runners.len(),
            start.elapsed(),
            std::fs::metadata(dir.join("state.db")).unwrap().len() >> 20
        );
        store.close().await;
    });
    raw(temp.path());
    let Some((host, port)) = redis.as_deref().and_then(|address| address.rsplit_once(':')) else { return };
    runtime.block_on(async {
        println!("Redis at {host}:{port}");
        let topology = Topology::Single { host: host.to_owned(), port: port.parse().unwrap() };
        let server = Server { topology, tls: None, username: None, password: None, database: 0 };
        let (manager, replica) = (ManagerName::new("bench").unwrap(), ReplicaId::new("bench").unwrap());
        let store: Arc<dyn Store> =
            Arc::new(Redis::open(Settings::new(server, manager, replica), Arc::new(Quiet)).unwrap());
        lone(&store).await;
        for tasks in [8, 64, 256] {
            together(&store, tasks).await;
        }
        crowd(&store).await;
        store.close().await;
    });
}

fn open(dir: &Path) -> Arc<dyn Store> {
    Arc::new(Embedded::open(dir, Arc::new(Quiet)).unwrap())
}

/// Resident memory of this process, kB.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn percentiles(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: usize| times[(times.len() * part / 1000).min(times.len() - 1)];
    println!(
        "{what:<33} p50 {:>8.1?}  p99 {:>8.1?}  p99.9 {:>8.1?}  max {:>8.1?}  ({} times)",
        at(500),
        at(990),
        at(999),
        at(1000),
        times.len()
    );
}

/// What the disk does by itself: an append of one page, and an overwrite of the size that a record writes to the log.
fn raw(dir: &Path) {
    for (what, size, span) in
        [("raw append 4 KiB + fsync", 4096, 0), ("raw overwrite 28 KiB + fsync", 28 << 10, 4 << 20)]
    {
        let file = File::create(dir.join("raw")).unwrap();
        if span > 0 {
            file.write_all_at(&vec![1; span], 0).unwrap();
            file.sync_all().unwrap();
        }
        let page = vec![7; size];
        let (start, mut times, mut place) = (Instant::now(), Vec::new(), 0);
        while start.elapsed() < TIME / 2 {
            let one = Instant::now();
            file.write_all_at(&page, place as u64).unwrap();
            file.sync_all().unwrap();
            times.push(one.elapsed());
            place += size;
            if span > 0 && place + size > span {
                place = 0;
            }
        }
        percentiles(what, times);
    }
}

async fn lone(store: &Arc<dyn Store>) {
    let octo = group("lone");
    let token = store.acquire(&octo).await.unwrap();
    let (mut records, mut inboxes, mut saves) = (Vec::new(), Vec::new(), Vec::new());
    let (start, mut after, mut n) = (Instant::now(), Cursor(0), 0);
    while start.elapsed() < TIME * 2 {
        n += 1;
        let mut sent = delivery(&format!("{n:08x}-lone-0000-0000-000000000000"), n, JobAction::Queued, 0);
        sent.event.job.name = "x".repeat(800);
        let sent = Arc::new(sent);
        let one = Instant::now();
        store.record(sent, to(&octo)).await.unwrap();
        records.push(one.elapsed());
        let one = Instant::now();
        after = store.inbox(&octo, after, 64).await.unwrap().last().unwrap().cursor;
        inboxes.push(one.elapsed());
        let changes = Changes {
            snapshot: Some(snapshot(after)),
            runners: vec![Arc::new(runner(&octo, n, RunnerState::Requested, 0))],
            jobs: vec![Arc::new(job(n, Some(&octo), JobStatus::Queued, 0))],
        };
        let one = Instant::now();
        store.save(&octo, token, changes).await.unwrap();
        saves.push(one.elapsed());
    }
    percentiles("record, alone", records);
    percentiles("inbox, behind each record", inboxes);
    percentiles("save of group, runner, job, alone", saves);
}

async fn together(store: &Arc<dyn Store>, tasks: u64) {
    let start = Instant::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                let octo = group(&format!("together-{tasks}-{}", task % 4));
                let mut times = Vec::new();
                for n in 0.. {
                    if start.elapsed() > TIME {
                        break;
                    }
                    let id =
                        format!("{:08x}-{tasks:04x}-{task:04x}-0000-000000000000", n * 2_654_435_761_u64 % (1 << 32));
                    let mut sent = delivery(&id, tasks << 40 | task << 32 | n, JobAction::Queued, 0);
                    sent.event.job.name = "x".repeat(800);
                    let one = Instant::now();
                    store.record(Arc::new(sent), to(&octo)).await.unwrap();
                    times.push(one.elapsed());
                }
                times
            })
        })
        .collect();
    let count = tasks.len();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    println!("record, {count} at once: {:.0}/s", times.len() as f64 / start.elapsed().as_secs_f64());
    percentiles("", times);
}

async fn crowd(store: &Arc<dyn Store>) {
    let octo = group("crowd");
    let token = store.acquire(&octo).await.unwrap();
    let start = Instant::now();
    let all = runners((0..10_000).map(|n| runner(&octo, n, RunnerState::Idle, 0)));
    store.save(&octo, token, all).await.unwrap();
    println!("save of 10,000 runners at once    {:?}", start.elapsed());
}
