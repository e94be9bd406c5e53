//! What the embedded store acknowledged is still there after `kill -9` and after the disk was full.
//!
//! A second process is this test binary again: it runs [`a_process_that_records_until_it_is_killed`] alone, with
//! a directory in its environment, and prints what was acknowledged.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use actors::model::delivery::JobAction;
use actors::model::group::GroupSnapshot;
use actors::model::job::JobStatus;
use actors::port::store::{Changes, Recorded};
use actors::port::{Observation, Observer, Store, StoreError};
use rand::RngExt;
use runner_manager::store::{Embedded, OpenError};

#[path = "contract/store/samples.rs"]
mod samples;

use samples::*;

/// Names the directory for the second process.
const DIR_VARIABLE: &str = "STORE_DURABILITY_DIR";

struct Quiet;

impl Observer for Quiet {
    fn observe(&self, _: &Observation<'_>) {}
}

fn open(dir: &Path) -> Arc<dyn Store> {
    Arc::new(Embedded::open(dir, Arc::new(Quiet)).unwrap())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// The second process. Started by anybody else it has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_records_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE) else { return };
    let store = open(Path::new(&dir));
    let mut tasks = Vec::new();
    for task in 0..6 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            for n in 0_u64.. {
                let id = format!("d-{}-{task}-{n}", std::process::id());
                let sent = Arc::new(delivery(&id, n % 50 + 1000, JobAction::Queued, 0));
                match store.record(sent, to(&group("octo"))).await {
                    Ok(recorded) => {
                        assert_eq!(recorded, Recorded::New(vec![group("octo")]));
                        say(&format!("recorded {id}"));
                    }
                    Err(StoreError::Unavailable(reason)) => say(&format!("unavailable {reason}")),
                    Err(other) => panic!("{other}"),
                }
            }
        }));
    }
    for name in ["a", "b"] {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let (group, name) = (group(name), name.to_owned());
            let Ok(token) = store.acquire(&group).await else { return };
            for n in 1_u32.. {
                let snapshot = Some(GroupSnapshot { failures: n, ..snapshot(START) });
                let beside = job(u64::from(name.as_bytes()[0]), Some(&group), JobStatus::Queued, i64::from(n));
                let changes = Changes { snapshot, ..jobs([beside]) };
                if store.save(&group, token, changes).await.is_ok() {
                    say(&format!("saved {name} {n}"));
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

/// What a second process said was acknowledged.
#[derive(Default)]
struct Acknowledged {
    deliveries: Vec<String>,
    saves: BTreeMap<String, u32>,
}

impl Acknowledged {
    /// Takes note of a line. Returns the rest of it when it says that the store was unavailable.
    fn note<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        match line.split_once(' ') {
            Some(("recorded", id)) => self.deliveries.push(id.to_owned()),
            Some(("saved", save)) => {
                let (name, n) = save.split_once(' ').unwrap();
                self.saves.insert(name.to_owned(), n.parse().unwrap());
            }
            Some(("unavailable", reason)) => return Some(reason),
            _ => {}
        }
        None
    }

    async fn check(&self, dir: &Path) {
        let store = open(dir);
        let octo = group("octo");
        let entries = inbox(&store, &octo).await;
        let there: std::collections::BTreeSet<&str> = ids(&entries).into_iter().collect();
        assert_eq!(there.len(), entries.len(), "none twice");
        for id in &self.deliveries {
            assert!(there.contains(id.as_str()), "{id} was acknowledged and is lost");
        }
        for id in self.deliveries.iter().rev().take(20) {
            assert_eq!(queue(&store, id, 1, &octo).await, Recorded::Duplicate, "{id}");
        }
        for (name, n) in &self.saves {
            let saved = store.load(&group(name)).await.unwrap();
            let failures = saved.snapshot.unwrap().failures;
            assert!(failures >= *n, "{name}: save {n} was acknowledged, {failures} is there");
            // Each save was all or nothing.
            assert_eq!(saved.jobs.iter().map(|job| job.received_at).collect::<Vec<_>>(), [at(failures.into())]);
        }
        store.close().await;
    }
}

/// A second process, killed when dropped.
struct Recorder(Child);

impl Recorder {
    fn start(dir: &Path) -> (Self, BufReader<std::process::ChildStdout>) {
        // A shell, to have it told of a size limit by an error and not by a signal.
        let mut child = Command::new("sh")
            .args(["-c", r#"trap '' XFSZ; exec "$0" "$@""#])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "a_process_that_records_until_it_is_killed", "--nocapture"])
            .env(DIR_VARIABLE, dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        (Self(child), out)
    }

    /// Kills it and takes note of what it still said.
    fn kill(mut self, mut out: impl Read, acknowledged: &mut Acknowledged) {
        self.0.kill().unwrap();
        let mut rest = Vec::new();
        out.read_to_end(&mut rest).unwrap();
        let rest = String::from_utf8(rest).unwrap();
        // The last line may be cut short.
        for line in rest.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            acknowledged.note(line);
        }
        assert!(!self.0.wait().unwrap().success());
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_kill_9() {
    let temp = tempfile::tempdir().unwrap();
    let mut acknowledged = Acknowledged::default();
    for _ in 0..8 {
        let (recorder, mut out) = Recorder::start(temp.path());
        let lines = rand::rng().random_range(1..600);
        let mut seen = 0;
        let mut line = String::new();
        while seen < lines {
            line.clear();
            assert!(out.read_line(&mut line).unwrap() > 0, "the recorder ended by itself");
            let before = acknowledged.deliveries.len();
            assert_eq!(acknowledged.note(line.trim_end()), None);
            seen += acknowledged.deliveries.len() - before;
        }
        recorder.kill(out, &mut acknowledged);
        acknowledged.check(temp.path()).await;
        // Each process saves from 1 on again.
        acknowledged.saves.clear();
    }
    assert!(acknowledged.deliveries.len() > 8);
}

#[test]
fn a_second_process_is_refused_while_the_first_lives_and_not_after_it_was_killed() {
    let temp = tempfile::tempdir().unwrap();
    let (recorder, mut out) = Recorder::start(temp.path());
    let mut acknowledged = Acknowledged::default();
    let mut line = String::new();
    while acknowledged.deliveries.is_empty() {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "the recorder ended by itself");
        acknowledged.note(line.trim_end());
    }
    let error = Embedded::open(temp.path(), Arc::new(Quiet)).err().expect("it is in use");
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(&format!("process {}", recorder.0.id())), "{error}");
    recorder.kill(out, &mut acknowledged);
    Embedded::open(temp.path(), Arc::new(Quiet)).unwrap();
}

#[tokio::test]
async fn writes_that_fail_are_not_acknowledged_and_work_again_once_they_can() {
    let temp = tempfile::tempdir().unwrap();
    let (recorder, mut out) = Recorder::start(temp.path());
    let mut acknowledged = Acknowledged::default();
    let pid = rustix::process::Pid::from_raw(recorder.0.id().try_into().unwrap()).unwrap();
    let limit_files_to = |bytes| {
        let limit = rustix::process::Rlimit { current: bytes, maximum: None };
        rustix::process::prlimit(Some(pid), rustix::process::Resource::Fsize, limit).unwrap();
    };
    let mut line = String::new();
    let mut read_until = |acknowledged: &mut Acknowledged, enough: &dyn Fn(&Acknowledged, Option<&str>) -> bool| {
        loop {
            line.clear();
            assert!(out.read_line(&mut line).unwrap() > 0, "the recorder ended by itself");
            let reason = acknowledged.note(line.trim_end()).map(str::to_owned);
            if enough(acknowledged, reason.as_deref()) {
                return reason;
            }
        }
    };
    for _ in 0..3 {
        let before = acknowledged.deliveries.len();
        read_until(&mut acknowledged, &|now, _| now.deliveries.len() > before + 100);
        // No file of the process may grow beyond what the log has already.
        let log = std::fs::metadata(temp.path().join("state.db-wal")).unwrap().size();
        limit_files_to(Some(log.min(64 << 10)));
        let reason = read_until(&mut acknowledged, &|_, reason| reason.is_some()).unwrap();
        assert!(reason.contains("disk"), "{reason}");
        limit_files_to(None);
    }
    let before = acknowledged.deliveries.len();
    read_until(&mut acknowledged, &|now, _| now.deliveries.len() > before + 100);
    recorder.kill(out, &mut acknowledged);
    acknowledged.check(temp.path()).await;
}

/// A small file system in memory, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(mebibytes: u32) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(dir.path())
            .output()
            .map_err(|error| error.to_string())?;
        if mounted.status.success() {
            Ok(Self(dir))
        } else {
            Err(String::from_utf8_lossy(&mounted.stderr).trim().to_owned())
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_said_and_survived_and_nothing_acknowledged_is_lost() {
    let disk = match SmallDisk::mount(4) {
        Ok(disk) => disk,
        Err(reason) => {
            say(&format!("SKIPPED: a small file system cannot be mounted here ({reason})"));
            return;
        }
    };
    let dir = disk.0.path().join("data");
    let ballast = disk.0.path().join("ballast");
    let store = open(&dir);
    let octo = group("octo");
    let token = store.acquire(&octo).await.unwrap();
    let mut recorded = Vec::new();
    let mut next = 0;
    for round in 0..4 {
        // Somebody fills the disk, all but a little.
        let mut file = std::fs::File::create(&ballast).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        file.set_len(file.metadata().unwrap().size() - (400 << 10)).unwrap();
        drop(file);
        let reason = loop {
            next += 1;
            let id = format!("d-{next}");
            match store.record(Arc::new(delivery(&id, next, JobAction::Queued, 0)), to(&octo)).await {
                Ok(new) => {
                    assert_eq!(new, Recorded::New(vec![octo.clone()]));
                    recorded.push(id);
                }
                Err(StoreError::Unavailable(reason)) => break reason,
                Err(other) => panic!("{other}"),
            }
        };
        assert!(reason.contains("the disk that holds data_dir is full: free some space"), "{reason}");
        let many = jobs((1..400).map(|id| job(id, Some(&octo), JobStatus::Queued, 0)));
        assert!(matches!(store.save(&octo, token, many).await, Err(StoreError::Unavailable(_))));
        assert!(matches!(store.probe().await, Err(StoreError::Unavailable(_))));
        // Reads go on, and show what was acknowledged and nothing else.
        assert_eq!(ids(&inbox(&store, &octo).await), recorded);
        assert_eq!(store.load(&octo).await.unwrap().jobs, []);

        std::fs::remove_file(&ballast).unwrap();
        store.probe().await.unwrap();
        let id = format!("after-{round}");
        assert_eq!(queue(&store, &id, 1, &octo).await, Recorded::New(vec![octo.clone()]));
        recorded.push(id);
    }
    assert!(recorded.len() > 4 + 4, "some were recorded while it filled up: {}", recorded.len());
    store.close().await;
    let store = open(&dir);
    assert_eq!(ids(&inbox(&store, &octo).await), recorded);
    store.save(&octo, token, jobs([job(1, Some(&octo), JobStatus::Queued, 0)])).await.unwrap();
    store.close().await;
}
