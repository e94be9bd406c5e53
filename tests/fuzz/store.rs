//! A store that holds what it never wrote: what cannot be read is set aside, the rest is there, and the group starts.
//!
//! An input is as for snapshots; its lines become rows under keys that do not change.

use std::path::Path;
use std::sync::Arc;

use actors::id::{GroupName, JobId, RunnerName};
use actors::model::group::GroupSnapshot;
use actors::model::job::{Job, JobStatus};
use actors::model::runner::{Runner, RunnerState};
use actors::port::Store;
use actors::port::store::{Changes, JobFilter, Loaded, RunnerFilter};
use runner_manager::store::{Embedded, codec};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, params};
use tokio::runtime::Runtime;

use crate::chance::hash;
use crate::door::{Door, fuzz};
use crate::fakes::{self, Fake};
use crate::samples::{ALL, START, sorted};
use crate::snapshots::stored;
use crate::{system, web};

fn octo() -> GroupName {
    GroupName::new("octo").unwrap()
}

/// One row for each entry, in place of all that was there.
fn put(db: &Connection, entries: &[(&str, &[u8])]) {
    let write = db.unchecked_transaction().unwrap();
    for table in ["groups", "runners", "jobs", "inbox", "set_aside", "deliveries", "assignments"] {
        write.execute(&format!("DELETE FROM {table}"), []).unwrap();
    }
    for (n, (kind, body)) in (1_i64..).zip(entries) {
        // As text, whatever the bytes.
        let body = ToSqlOutput::Borrowed(ValueRef::Text(body));
        let name = octo().runner_name(n.cast_unsigned());
        let write = match *kind {
            "group" => write.execute("INSERT OR REPLACE INTO groups VALUES ('octo', 1, ?1)", params![body]),
            "runner" => write.execute(
                "INSERT INTO runners VALUES (?1, ?2, 'octo', 'idle', NULL, ?3)",
                params![n, name.as_str(), body],
            ),
            "job" => write.execute("INSERT INTO jobs VALUES (?1, 'octo', 'queued', 1, NULL, ?2)", params![n, body]),
            _ => write.execute("INSERT INTO inbox VALUES (?1, 'octo', 1, 1, 1, ?2)", params![n, body]),
        };
        write.unwrap();
    }
    write.commit().unwrap();
}

/// How many of a kind can be read, and how many cannot.
fn readable<T: codec::Snapshot>(entries: &[(&str, &[u8])], kind: &str) -> (usize, usize) {
    let all = entries.iter().filter(|(other, _)| *other == kind);
    let (good, bad): (Vec<bool>, Vec<bool>) =
        all.map(|(_, body)| codec::decode::<T>(body).is_ok()).partition(|good| *good);
    (good.len(), bad.len())
}

/// Whether its entries come back under the same keys, for this group.
fn is_plain(loaded: &Loaded) -> bool {
    let open = |runner: &Runner| !runner.state.is_final() && runner.group == octo();
    let waits =
        |job: &Job| !matches!(job.status, JobStatus::Completed | JobStatus::Unmatched) && job.group == Some(octo());
    let mut names: Vec<&RunnerName> = loaded.runners.iter().map(|runner| &runner.name).collect();
    let mut ids: Vec<JobId> = loaded.jobs.iter().map(Job::id).collect();
    names.sort();
    names.dedup();
    ids.sort();
    ids.dedup();
    names.len() == loaded.runners.len()
        && ids.len() == loaded.jobs.len()
        && loaded.runners.iter().all(open)
        && loaded.jobs.iter().all(waits)
}

/// Everything is asked for once, then saved and asked for again.
async fn look(store: &dyn Store, db: &Connection, entries: &[(&str, &[u8])]) -> String {
    put(db, entries);
    let loaded = store.load(&octo()).await.unwrap();
    let (runners, lost_runners) = readable::<Runner>(entries, "runner");
    let (jobs, lost_jobs) = readable::<Job>(entries, "job");
    assert_eq!((loaded.runners.len(), loaded.jobs.len()), (runners, jobs));
    // Of several rows of the group itself the last one counts.
    let group = entries.iter().rfind(|(kind, _)| *kind == "group");
    let lost_group = group.is_some_and(|(_, body)| codec::decode::<GroupSnapshot>(body).is_err());
    assert_eq!(loaded.set_aside as usize, lost_runners + lost_jobs + usize::from(lost_group));
    let inbox = store.inbox(&octo(), START, ALL).await.unwrap();
    for state in [None, Some(RunnerState::Idle)] {
        store.runners(&RunnerFilter { group: None, state, limit: ALL }).await.unwrap();
    }
    for status in [None, Some(JobStatus::Queued)] {
        store.jobs(&JobFilter { group: Some(octo()), status, limit: ALL }).await.unwrap();
    }
    for n in 1..4 {
        store.job(JobId(n)).await.unwrap();
        store.runner(&octo().runner_name(n)).await.unwrap();
    }
    let again = store.load(&octo()).await.unwrap();
    assert_eq!(again.set_aside, 0, "what cannot be read is set aside once");
    assert_eq!(sorted(Loaded { set_aside: 0, ..loaded.clone() }), sorted(again));
    if is_plain(&loaded) {
        put(db, &[]);
        let token = store.acquire(&octo()).await.unwrap();
        let changes = Changes {
            snapshot: loaded.snapshot.clone(),
            runners: loaded.runners.iter().cloned().map(Arc::new).collect(),
            jobs: loaded.jobs.iter().cloned().map(Arc::new).collect(),
        };
        store.save(&octo(), token, changes).await.unwrap();
        let again = store.load(&octo()).await.unwrap();
        assert_eq!(sorted(Loaded { set_aside: 0, ..loaded.clone() }), sorted(again), "saved and loaded");
    }
    // In letters: how many there are is an outcome.
    let many = |letter: &str, count: usize| letter.repeat(count);
    let counts = [many("r", runners), many("j", jobs), many("x", loaded.set_aside as usize), many("d", inbox.len())];
    format!("{} {}", counts.join(" "), loaded.snapshot.is_some())
}

/// The real group starts on it: its health check is carried through and saved.
fn start(runtime: &Runtime, entries: &[(&str, &[u8])]) {
    let data = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        Embedded::open(data.path(), Fake::new()).unwrap().close().await;
        put(&open(data.path()), entries);
        let running = system::start_in(data, fakes::settings("octo", 1, 4)).await;
        let now = running.front.clock.now();
        let deadline = tokio::time::Instant::now() + web::PATIENCE;
        loop {
            let snapshot = running.front.store.group(&octo()).await.unwrap().unwrap_or_default();
            if snapshot.last_healthcheck.is_some_and(|check| check.at == now) {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "the group did not start");
            tokio::task::yield_now().await;
        }
        running.stop().await;
    });
}

fn open(dir: &Path) -> Connection {
    let db = Connection::open(dir.join("state.db")).unwrap();
    db.execute_batch("PRAGMA synchronous = OFF").unwrap();
    db
}

#[test]
fn store() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let data = tempfile::tempdir().unwrap();
    let store = runtime.block_on(async { Embedded::open(data.path(), Fake::new()).unwrap() });
    let db = open(data.path());
    // As for snapshots, several times over, and the actors' mailboxes.
    fuzz(&Door { name: "store", runs: 200, memory: 32 << 20 }, |input| {
        let stored = stored(input);
        let entries: Vec<(&str, &[u8])> = stored.entries.into_iter().take(200).collect();
        if hash(input).is_multiple_of(8) {
            start(&runtime, &entries);
        }
        runtime.block_on(look(&store, &db, &entries))
    });
    runtime.block_on(store.close());
}
