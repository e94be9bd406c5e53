//! What the embedded store promises beyond the port's contract: it is killed, filled up, damaged and grown old.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use actors::id::Cursor;
use actors::model::delivery::JobAction;
use actors::model::job::JobStatus;
use actors::model::runner::RunnerState;
use actors::port::store::{Changes, JobFilter, Recorded, RunnerFilter};
use actors::port::{Observation, Observer, Store, StoreError};
use runner_manager::store::{DirState, Embedded, OpenError};
use rusqlite::Connection;

#[path = "contract/store/samples.rs"]
mod samples;

use samples::*;

/// Counts what it is told.
#[derive(Default)]
struct Counts(Mutex<BTreeMap<String, u32>>);

impl Counts {
    fn of(&self, what: &str) -> u32 {
        self.0.lock().unwrap().get(what).copied().unwrap_or_default()
    }
}

impl Observer for Counts {
    fn observe(&self, observation: &Observation<'_>) {
        let (what, count) = match observation {
            Observation::StoreOperation { operation, .. } => ((*operation).to_owned(), 1),
            Observation::SnapshotsSetAside { group, count } => (format!("set aside in {group}"), *count),
            other => panic!("{other:?}"),
        };
        *self.0.lock().unwrap().entry(what).or_default() += count;
    }
}

fn open(dir: &Path) -> Arc<dyn Store> {
    Arc::new(Embedded::open(dir, Arc::new(Counts::default())).unwrap())
}

fn refused(dir: &Path) -> OpenError {
    Embedded::open(dir, Arc::new(Counts::default())).err().expect("it must not open")
}

/// A store with one of each, closed again.
async fn filled(dir: &Path) {
    let store = open(dir);
    let octo = group("octo");
    let token = store.acquire(&octo).await.unwrap();
    for n in 1..=3 {
        queue(&store, &format!("d-{n}"), n, &octo).await;
    }
    let first = inbox(&store, &octo).await[0].cursor;
    let changes = Changes {
        snapshot: Some(snapshot(first)),
        runners: (1..=3).map(|n| Arc::new(runner(&octo, n, RunnerState::Idle, 0))).collect(),
        jobs: (1..=3).map(|n| Arc::new(job(n, Some(&octo), JobStatus::Queued, 0))).collect(),
    };
    store.save(&octo, token, changes).await.unwrap();
    store.close().await;
}

fn corrupt_copies(dir: &Path) -> Vec<std::path::PathBuf> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("state.db.corrupt-")).collect()
}

#[tokio::test]
async fn the_directory_is_made_for_its_owner_alone_and_left_without_a_log() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("some/where");
    filled(&dir).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("state.db")), 0o600);
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["lock", "state.db"]);
}

#[tokio::test]
async fn a_directory_in_use_is_refused_with_its_name_and_the_process() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let error = refused(temp.path());
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    let (dir, id) = (temp.path().display(), std::process::id());
    assert_eq!(
        error.to_string(),
        format!("data_dir {dir} is in use by process {id}: stop it, or give each its own data_dir")
    );
    store.probe().await.unwrap();
    store.close().await;
    open(temp.path()).close().await;
}

#[tokio::test]
async fn a_store_that_is_dropped_lets_go_of_its_directory() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    queue(&store, "d-1", 1, &group("octo")).await;
    drop(store);
    let store = loop {
        match Embedded::open(temp.path(), Arc::new(Counts::default())) {
            Ok(store) => break store,
            Err(OpenError::InUse { .. }) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    };
    let store: Arc<dyn Store> = Arc::new(store);
    assert_eq!(queue(&store, "d-1", 1, &group("octo")).await, Recorded::Duplicate);
}

#[tokio::test]
async fn looking_at_a_directory_leaves_it_as_it_is_and_its_owner_alone() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("a/b");
    assert_eq!(Embedded::look(&dir).unwrap(), DirState::Missing);
    assert!(!temp.path().join("a").exists());
    let store = open(&dir);
    assert_eq!(Embedded::look(&dir).unwrap(), DirState::InUse(format!("process {}", std::process::id())));
    store.probe().await.unwrap();
    store.close().await;
    let files = || std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let before = files();
    assert_eq!(Embedded::look(&dir).unwrap(), DirState::Free);
    assert_eq!(files(), before);
    open(&dir).close().await;
    let file = temp.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(matches!(Embedded::look(&file).unwrap_err(), OpenError::NotADirectory(_)));
    assert!(matches!(Embedded::look(&file.join("below")).unwrap_err(), OpenError::Create { .. }));
    assert!(matches!(Embedded::look(Path::new("/proc/1")).unwrap_err(), OpenError::Access { .. }));
}

#[test]
fn a_path_that_cannot_be_a_directory_is_refused_in_words() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = refused(&file);
    assert!(matches!(error, OpenError::NotADirectory(_)), "{error}");
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    let error = refused(&file.join("below"));
    assert!(matches!(error, OpenError::Create { .. }), "{error}");
    assert!(error.to_string().contains("file/below"), "{error}");
    std::fs::create_dir_all(temp.path().join("lock")).unwrap();
    let error = refused(temp.path());
    assert!(matches!(error, OpenError::Access { .. }), "{error}");
}

#[tokio::test]
async fn a_newer_release_s_database_is_refused_and_left_as_it_is() {
    let temp = tempfile::tempdir().unwrap();
    filled(temp.path()).await;
    let file = temp.path().join("state.db");
    Connection::open(&file).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = std::fs::read(&file).unwrap();
    let error = refused(temp.path());
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("was written by a newer release (schema 99"), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), before);
    assert!(corrupt_copies(temp.path()).is_empty());
}

#[tokio::test]
async fn a_database_of_the_first_release_is_read() {
    let temp = tempfile::tempdir().unwrap();
    let first = Connection::open(temp.path().join("state.db")).unwrap();
    first.execute_batch(include_str!("fixtures/store/v1.sql")).unwrap();
    drop(first);
    let store = open(temp.path());
    let octo = group("octo");
    let loaded = store.load(&octo).await.unwrap();
    assert_eq!(loaded.set_aside, 0);
    assert_eq!(loaded.snapshot, Some(snapshot(Cursor(1))));
    let states = RunnerState::ALL.into_iter().zip(1..);
    let runners: Vec<_> = states.map(|(state, n)| runner(&octo, n, state, 5)).collect();
    assert_eq!(loaded.runners, runners[..7]);
    for runner in &runners {
        assert_eq!(store.runner(&runner.name).await.unwrap().as_ref(), Some(runner));
    }
    for (status, n) in JobStatus::ALL.into_iter().zip(1..) {
        let owner = (status != JobStatus::Unmatched).then_some(&octo);
        assert_eq!(store.job(actors::id::JobId(n)).await.unwrap(), Some(every_milestone(job(n, owner, status, 5))));
    }
    let entries = inbox(&store, &octo).await;
    let actions = [JobAction::Waiting, JobAction::InProgress, JobAction::Completed];
    let expected = actions.into_iter().zip(2..).map(|(action, n)| delivery(&format!("d-{n}"), n, action, 5));
    assert!(entries.iter().map(|entry| entry.delivery.clone()).eq(expected));
    assert_eq!(queue(&store, "d-1", 1, &octo).await, Recorded::Duplicate);
    assert_eq!(store.acquire(&octo).await.unwrap(), actors::id::FencingToken(2));
}

#[tokio::test]
async fn a_damaged_database_is_set_aside_and_the_store_starts_empty() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 5] = [
        ("header", |bytes| bytes[..100].fill(0x55)),
        ("schema", |bytes| bytes[100..4096].fill(0xa5)),
        ("middle", |bytes| {
            let half = bytes.len() / 2;
            bytes[half..half + 16384].fill(0xff);
        }),
        ("cut", |bytes| bytes.truncate(bytes.len() / 2)),
        ("text", |bytes| *bytes = b"this is no database".repeat(1000)),
    ];
    for (what, damage) in damages {
        let temp = tempfile::tempdir().unwrap();
        filled(temp.path()).await;
        let file = temp.path().join("state.db");
        let mut bytes = std::fs::read(&file).unwrap();
        damage(&mut bytes);
        std::fs::write(&file, &bytes).unwrap();
        let store = open(temp.path());
        let octo = group("octo");
        assert_eq!(store.load(&octo).await, Ok(actors::port::store::Loaded::default()), "{what}");
        assert_eq!(queue(&store, "d-1", 1, &octo).await, Recorded::New(vec![octo.clone()]), "{what}");
        let copies = corrupt_copies(temp.path());
        assert_eq!(copies.len(), 1, "{what}");
        assert_eq!(std::fs::read(&copies[0]).unwrap(), bytes, "{what}: kept as it was");
        store.close().await;
        let store = open(temp.path());
        assert_eq!(inbox(&store, &octo).await.len(), 1, "{what}");
        assert_eq!(corrupt_copies(temp.path()).len(), 1, "{what}");
    }
}

#[tokio::test]
async fn damage_that_is_met_while_running_is_said_and_the_file_is_checked_at_the_next_start() {
    let temp = tempfile::tempdir().unwrap();
    filled(temp.path()).await;
    let store = open(temp.path());
    let file = std::fs::OpenOptions::new().write(true).open(temp.path().join("state.db")).unwrap();
    let rest = file.metadata().unwrap().len() - 4096;
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0xff; rest as usize], 4096).unwrap();
    let error = store.load(&group("octo")).await.unwrap_err();
    assert!(error.to_string().contains("the file is damaged: restart"), "{error}");
    assert!(temp.path().join("state.db.suspect").exists());
    store.close().await;
    let store = open(temp.path());
    assert_eq!(store.load(&group("octo")).await.unwrap().jobs, []);
    assert_eq!(corrupt_copies(temp.path()).len(), 1);
    assert!(!temp.path().join("state.db.suspect").exists());
}

#[tokio::test]
async fn a_suspect_database_that_is_sound_is_kept() {
    let temp = tempfile::tempdir().unwrap();
    filled(temp.path()).await;
    let suspect = temp.path().join("state.db.suspect");
    std::fs::write(&suspect, "database disk image is malformed").unwrap();
    let store = open(temp.path());
    assert_eq!(store.load(&group("octo")).await.unwrap().jobs.len(), 3);
    assert!(!suspect.exists());
    assert!(corrupt_copies(temp.path()).is_empty());
}

#[tokio::test]
async fn unreadable_entries_are_set_aside_once_and_the_rest_is_loaded() {
    let temp = tempfile::tempdir().unwrap();
    filled(temp.path()).await;
    let octo = group("octo");
    let file = temp.path().join("state.db");
    Connection::open(&file)
        .unwrap()
        .execute_batch(
            r#"UPDATE runners SET body = 'garbage' WHERE name LIKE 'octo-1%';
               UPDATE runners SET body = replace(body, '{"v":1', '{"v":7') WHERE name LIKE 'octo-2%';
               UPDATE jobs SET body = CAST(x'ff00fe' AS TEXT) WHERE id = 3;
               UPDATE groups SET body = '';"#,
        )
        .unwrap();
    let store = open(temp.path());
    let loaded = store.load(&octo).await.unwrap();
    assert_eq!(loaded.set_aside, 4);
    assert_eq!(loaded.snapshot, None);
    assert_eq!(loaded.runners, [runner(&octo, 3, RunnerState::Idle, 0)]);
    assert_eq!(loaded.jobs, [1, 2].map(|n| job(n, Some(&octo), JobStatus::Queued, 0)));
    let again = store.load(&octo).await.unwrap();
    assert_eq!((again.set_aside, again.jobs, again.runners), (0, loaded.jobs, loaded.runners));
    // Nothing is loaded of the group's own, but its owner's token does not go back, and its jobs stay its jobs.
    assert_eq!(store.acquire(&octo).await.unwrap(), actors::id::FencingToken(2));
    assert_eq!(queue(&store, "d-9", 3, &group("other")).await, Recorded::New(vec![octo.clone()]));
    assert_eq!(ids(&inbox(&store, &octo).await), ["d-2", "d-3", "d-9"]);
    store.close().await;
    let kept: Vec<(String, String, Vec<u8>)> = Connection::open(&file)
        .unwrap()
        .prepare("SELECT kind, reason, CAST(body AS BLOB) FROM set_aside ORDER BY kind, key")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let kinds: Vec<&str> = kept.iter().map(|(kind, ..)| kind.as_str()).collect();
    assert_eq!(kinds, ["group", "job", "runner", "runner"]);
    assert_eq!(kept[1].2, b"\xff\x00\xfe");
    assert_eq!(kept[2].2, b"garbage");
    assert_eq!(kept[3].1, "runner has version 7, this release knows versions up to 1");
}

#[tokio::test]
async fn unreadable_entries_are_passed_over_by_every_read_and_counted() {
    let temp = tempfile::tempdir().unwrap();
    filled(temp.path()).await;
    let damage = r#"UPDATE runners SET body = 'x' WHERE name LIKE 'octo-1%'; UPDATE jobs SET body = 'x' WHERE id = 2;
                    UPDATE groups SET body = 'x';"#;
    Connection::open(temp.path().join("state.db")).unwrap().execute_batch(damage).unwrap();
    let counts = Arc::new(Counts::default());
    let store: Arc<dyn Store> = Arc::new(Embedded::open(temp.path(), counts.clone()).unwrap());
    let octo = group("octo");
    assert_eq!(store.group(&octo).await, Ok(None));
    assert_eq!(store.runners(&RunnerFilter { limit: 9, ..RunnerFilter::default() }).await.unwrap().len(), 2);
    assert_eq!(store.runner(&octo.runner_name(1)).await, Ok(None));
    // What an unreadable job waits for is not held up by it.
    let entries = inbox(&store, &octo).await;
    assert_eq!(ids(&entries), ["d-2", "d-3"]);
    assert_eq!((entries[0].known.is_none(), entries[1].known.is_some()), (true, true));
    assert_eq!(store.job(actors::id::JobId(2)).await, Ok(None));
    assert_eq!(store.jobs(&JobFilter { limit: 9, ..JobFilter::default() }).await.unwrap().len(), 2);
    assert_eq!(counts.of("set aside in octo"), 3);
    for operation in ["group", "runners", "runner", "inbox", "job", "jobs"] {
        assert_eq!(counts.of(operation), 1, "{operation}");
    }
}

#[tokio::test]
async fn unreadable_deliveries_do_not_block_an_inbox() {
    let temp = tempfile::tempdir().unwrap();
    let octo = group("octo");
    let store = open(temp.path());
    for n in 0..700 {
        queue(&store, &format!("d-{n}"), n, &octo).await;
    }
    store.close().await;
    let file = temp.path().join("state.db");
    Connection::open(&file)
        .unwrap()
        .execute_batch("UPDATE inbox SET body = 'garbage' WHERE cursor <= (SELECT max(cursor) - 3 FROM inbox)")
        .unwrap();
    let store = open(temp.path());
    assert_eq!(ids(&store.inbox(&octo, Cursor(0), 2).await.unwrap()), ["d-697", "d-698"]);
    assert_eq!(ids(&store.inbox(&octo, Cursor(0), 9).await.unwrap()), ["d-697", "d-698", "d-699"]);
    // What is set aside is bounded.
    store.close().await;
    Connection::open(&file)
        .unwrap()
        .execute_batch(
            "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n WHERE x < 1500)
             INSERT INTO runners (name, grp, state, body) SELECT 'octo-' || x, 'octo', 'idle', 'garbage' FROM n",
        )
        .unwrap();
    let store = open(temp.path());
    assert_eq!(store.load(&octo).await.unwrap().set_aside, 1500);
    store.close().await;
    let count: u32 =
        Connection::open(&file).unwrap().query_row("SELECT count(*) FROM set_aside", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1000);
}

#[tokio::test]
async fn too_many_writes_are_refused_at_once_while_reads_go_on_and_the_rest_is_written() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let octo = group("octo");
    queue(&store, "first", 1, &octo).await;
    // As if the disk took its time: somebody else holds the write lock.
    let other = Connection::open(temp.path().join("state.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut writes: Vec<_> = (0..12_000)
        .map(|n| {
            let (store, octo) = (store.clone(), octo.clone());
            let sent = Arc::new(delivery(&format!("d-{n}"), n, JobAction::Queued, 0));
            Box::pin(async move { store.record(sent, to(&octo)).await })
        })
        .collect();
    let mut refused = 0;
    for write in &mut writes {
        match futures_util::poll!(write) {
            std::task::Poll::Ready(Err(StoreError::Overloaded(waiting))) => {
                assert_eq!(waiting, 8192);
                refused += 1;
            }
            std::task::Poll::Pending => assert_eq!(refused, 0, "the first ones wait"),
            std::task::Poll::Ready(other) => panic!("{other:?}"),
        }
    }
    assert!((12_000 - 8192 - 1024..=12_000 - 8192).contains(&refused), "{refused}");
    assert_eq!(ids(&inbox(&store, &octo).await), ["first"]);
    other.execute_batch("ROLLBACK").unwrap();
    let accepted = 12_000 - refused;
    for write in writes.into_iter().take(accepted) {
        assert_eq!(write.await, Ok(Recorded::New(vec![octo.clone()])));
    }
    assert_eq!(inbox(&store, &octo).await.len(), 1 + accepted);
}
