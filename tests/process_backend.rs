//! The process backend against real processes: restarts, stubborn processes, descendants, secrets, reused pids.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "contract/backend.rs"]
#[allow(dead_code, unused_macros, unused_imports, reason = "only the helpers are used here")]
mod contract;

#[path = "contract/cleanup.rs"]
mod cleanup;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use actors::port::Backend;
use actors::port::backend::{BackendError, Instance, InstanceStatus, Owner};
use cleanup::{HOST, all_pids, environ};
use contract::{eventually, owner, runner, spec};
use runner_manager::backend::process::{Process, Settings};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longer than any test takes: a process that is still there was not stopped by its time.
const LONG: Duration = Duration::from_secs(1000);
/// No process.
const NONE: [i32; 0] = [];
const SLEEP: &str = "exec sleep 1000";

/// This host, with a directory and a manager name that no other test has.
struct Host {
    dir: PathBuf,
    settings: Settings,
    /// Removed at the end, when it is this test's.
    own_dir: Option<TempDir>,
}

impl Host {
    /// Runners run `script` in a shell, and find the directory of this host in `$HOST`.
    fn new(script: &str) -> Self {
        let own = tempfile::Builder::new().prefix("host-").tempdir().unwrap();
        let mut host = Self::at(own.path(), script);
        host.own_dir = Some(own);
        host
    }

    fn at(dir: &Path, script: &str) -> Self {
        let settings = Settings {
            command: vec!["/bin/sh".into(), "-c".into(), script.into()],
            working_dir: None,
            env: BTreeMap::from([(HOST.to_owned(), dir.to_str().unwrap().to_owned())]),
            stop_grace: LONG,
        };
        Self { dir: dir.to_owned(), settings, own_dir: None }
    }

    fn owner(&self) -> Owner {
        owner(self.dir.file_name().unwrap().to_str().unwrap(), "linux")
    }

    /// A backend as a freshly started manager has it.
    fn process(&self) -> Process {
        Process::new(self.settings.clone(), self.dir.join("state"), self.owner())
    }

    async fn create(&self, number: u64) -> Instance {
        let mine = self.owner();
        self.process().create(spec(&mine, &runner(&mine, number))).await.unwrap()
    }

    /// The pids that scripts wrote into the file `pids`, one a line, once there are `count`.
    async fn pids(&self, count: usize) -> Vec<i32> {
        let read = || fs::read_to_string(self.dir.join("pids")).unwrap_or_default();
        eventually("the pids of a script", || async { read().ends_with('\n') && read().lines().count() >= count })
            .await;
        read().lines().map(|line| line.parse().unwrap()).collect()
    }

    fn record(&self, instance: &Instance) -> PathBuf {
        let mine = self.owner();
        let dir = self.dir.join("state").join(mine.manager.as_str()).join(mine.group.as_str());
        dir.join(format!("{}.json", instance.runner))
    }

    /// Every process that carries the marks of this host.
    fn marked(&self) -> Vec<i32> {
        let mark = format!("RUNNER_MANAGER_NAME={}", self.owner().manager);
        all_pids().into_iter().filter(|pid| environ(*pid).contains(&mark)).collect()
    }
}

impl Drop for Host {
    /// A failed test leaves no process behind either.
    fn drop(&mut self) {
        cleanup::kill_all(&self.dir);
    }
}

/// A process that no backend made.
struct Foreign(Child);

impl Foreign {
    fn sleep() -> Self {
        Self(Command::new("sleep").arg("1000").process_group(0).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the descriptors in a directory of `/proc` stand for.
fn descriptors(dir: &str) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| fs::read_link(entry.unwrap().path()).unwrap()).collect()
}

/// The fields of `/proc/<pid>/stat` after the command.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

fn start_ticks(pid: i32) -> u64 {
    stat(pid).unwrap()[19].parse().unwrap()
}

/// Whether it runs; a zombie that nobody has waited for does not.
fn alive(pid: i32) -> bool {
    stat(pid).is_some_and(|fields| fields[0] != "Z" && fields[0] != "X")
}

fn pid(instance: &Instance) -> i32 {
    instance.id.as_str().parse().unwrap()
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

/// This test is its own manager: started again with a directory, it makes runners there until it is killed.
#[tokio::test]
async fn runners_outlive_a_killed_manager_and_the_next_one_finds_them() {
    const ROLE: &str = "PROCESS_BACKEND_TEST_MANAGER_DIR";
    if let Some(dir) = std::env::var_os(ROLE) {
        let host = Host::at(Path::new(&dir), SLEEP);
        for number in 0..3 {
            host.create(number).await;
        }
        fs::write(host.dir.join("ready"), "").unwrap();
        tokio::time::sleep(LONG).await;
        return;
    }
    let host = Host::new(SLEEP);
    let mut manager = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "runners_outlive_a_killed_manager_and_the_next_one_finds_them"])
        .env(ROLE, &host.dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the manager to make its runners", || async { host.dir.join("ready").exists() }).await;
    manager.kill().unwrap();
    manager.wait().unwrap();

    let (next, mine) = (host.process(), host.owner());
    let found = next.list(&mine).await.unwrap();
    assert_eq!(found.len(), 3);
    for instance in &found {
        assert_eq!(instance.status, InstanceStatus::Running);
        assert!(alive(pid(instance)));
        assert_eq!(next.get(&instance.runner).await.unwrap().as_ref(), Some(instance));
        assert_eq!(next.create(spec(&mine, &instance.runner)).await.unwrap(), *instance);
        next.delete(&instance.runner).await.unwrap();
        assert!(!alive(pid(instance)));
    }
    assert_eq!(next.list(&mine).await.unwrap(), []);
    assert_eq!(host.marked(), NONE);
}

#[tokio::test]
async fn a_process_may_finish_its_work_when_told_to_end() {
    let host =
        Host::new("trap 'echo done > $HOST/done; exit 0' TERM; echo $$ >> $HOST/pids; while :; do sleep 0.01; done");
    let instance = host.create(1).await;
    host.pids(1).await;
    host.process().delete(&instance.runner).await.unwrap();
    assert!(!alive(pid(&instance)));
    assert_eq!(fs::read_to_string(host.dir.join("done")).unwrap(), "done\n");
}

#[tokio::test]
async fn a_process_that_ignores_sigterm_is_killed_after_its_grace() {
    let mut host = Host::new("trap '' TERM; echo $$ >> $HOST/pids; sleep 1000");
    host.settings.stop_grace = Duration::from_millis(300);
    let instance = host.create(1).await;
    host.pids(1).await;
    let began = Instant::now();
    host.process().delete(&instance.runner).await.unwrap();
    let took = began.elapsed();
    assert!(took >= host.settings.stop_grace, "killed after {took:?} already");
    assert!(took < Duration::from_secs(20), "took {took:?}");
    assert_eq!(host.marked(), NONE);
}

#[tokio::test]
async fn a_suspended_process_ends_within_its_grace() {
    let host = Host::new("trap 'exit 0' TERM; echo $$ >> $HOST/pids; while :; do sleep 0.01; done");
    let instance = host.create(1).await;
    host.pids(1).await;
    kill_process(Pid::from_raw(pid(&instance)).unwrap(), Signal::STOP).unwrap();
    eventually("the process to be suspended", || async { stat(pid(&instance)).unwrap()[0] == "T" }).await;
    let backend = host.process();
    let deleted = tokio::time::timeout(Duration::from_secs(20), backend.delete(&instance.runner)).await;
    deleted.expect("it is woken up to end").unwrap();
    assert!(!alive(pid(&instance)));
}

#[tokio::test]
async fn children_and_grandchildren_end_with_their_runner() {
    let host = Host::new("sh -c 'echo $$ >> $HOST/pids; sleep 1000 & echo $! >> $HOST/pids; wait' & wait");
    let instance = host.create(1).await;
    let descendants = host.pids(2).await;
    assert!(descendants.iter().all(|pid| alive(*pid)));
    host.process().delete(&instance.runner).await.unwrap();
    assert!(!descendants.iter().any(|pid| alive(*pid)));
    assert_eq!(host.marked(), NONE);
}

#[tokio::test]
async fn descendants_that_left_the_session_or_dropped_the_marks_end_with_their_runner() {
    // One that is nobody's child any more, and one without marks whose parent is still there.
    let orphan = "(setsid sh -c 'echo $$ >> $HOST/pids; exec sleep 1000' &)";
    let unmarked = "env -i HOST=$HOST setsid sh -c 'echo $$ >> $HOST/pids; exec sleep 1000' &";
    let host = Host::new(&format!("{orphan}; {unmarked} wait"));
    let instance = host.create(1).await;
    let descendants = host.pids(2).await;
    for descendant in &descendants {
        assert_ne!(stat(*descendant).unwrap()[2], pid(&instance).to_string(), "is still in the group");
    }
    host.process().delete(&instance.runner).await.unwrap();
    assert!(!descendants.iter().any(|pid| alive(*pid)));
    assert_eq!(host.marked(), NONE);
}

#[tokio::test]
async fn what_an_ended_process_left_behind_is_unknown_and_can_be_deleted() {
    let host = Host::new("sleep 1000 & echo $! >> $HOST/pids");
    let instance = host.create(1).await;
    let left = host.pids(1).await;
    eventually("the leader to end", || async { !alive(pid(&instance)) }).await;
    let backend = host.process();
    let seen = backend.get(&instance.runner).await.unwrap().unwrap();
    assert_eq!(seen, Instance { status: InstanceStatus::Unknown, ..instance.clone() });
    backend.delete(&instance.runner).await.unwrap();
    assert!(!alive(left[0]));
    assert_eq!(backend.get(&instance.runner).await.unwrap(), None);
}

#[tokio::test]
async fn an_ended_process_is_reaped_at_once_and_shown_as_stopped_until_deleted() {
    let host = Host::new("exit 3");
    let backend = host.process();
    let mine = host.owner();
    let instance = backend.create(spec(&mine, &runner(&mine, 1))).await.unwrap();
    eventually("the process to be reaped", || async { stat(pid(&instance)).is_none() }).await;
    let stopped = Instance { status: InstanceStatus::Stopped, ..instance.clone() };
    assert_eq!(backend.get(&instance.runner).await.unwrap(), Some(stopped.clone()));
    assert_eq!(host.process().list(&mine).await.unwrap(), [stopped]);
    backend.delete(&instance.runner).await.unwrap();
    assert_eq!(backend.list(&mine).await.unwrap(), []);
}

#[tokio::test]
async fn a_process_without_a_record_is_found_by_its_marks() {
    let host = Host::new(SLEEP);
    let (first, mine) = (host.create(1).await, host.owner());
    fs::remove_dir_all(host.dir.join("state")).unwrap();
    let backend = host.process();
    assert_eq!(backend.list(&mine).await.unwrap(), std::slice::from_ref(&first));
    assert_eq!(backend.get(&first.runner).await.unwrap(), Some(first.clone()));
    backend.delete(&first.runner).await.unwrap();
    assert!(!alive(pid(&first)));
}

#[tokio::test]
async fn a_crash_between_start_and_record_makes_no_second_process() {
    let host = Host::new(SLEEP);
    let (first, mine) = (host.create(1).await, host.owner());
    // As it is before the process is known: everything but the process is written.
    let record = fs::read_to_string(host.record(&first)).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&record).unwrap();
    record["process"] = serde_json::Value::Null;
    fs::write(host.record(&first), record.to_string()).unwrap();
    let next = host.process();
    assert_eq!(next.create(spec(&mine, &first.runner)).await.unwrap(), first);
    assert_eq!(host.marked(), [pid(&first)]);
    next.delete(&first.runner).await.unwrap();
    assert!(!alive(pid(&first)));
}

#[tokio::test]
async fn an_intent_without_a_process_does_not_stop_a_create() {
    let host = Host::new(SLEEP);
    let (first, mine) = (host.create(1).await, host.owner());
    let other = runner(&mine, 2);
    let record = fs::read_to_string(host.record(&first)).unwrap().replace(first.runner.as_str(), other.as_str());
    let mut record: serde_json::Value = serde_json::from_str(&record).unwrap();
    record["process"] = serde_json::Value::Null;
    fs::write(host.record(&Instance { runner: other.clone(), ..first.clone() }), record.to_string()).unwrap();
    let next = host.process();
    assert_eq!(next.get(&other).await.unwrap(), None);
    assert_eq!(next.list(&mine).await.unwrap(), std::slice::from_ref(&first));
    let second = next.create(spec(&mine, &other)).await.unwrap();
    assert_ne!(second.id, first.id);
    next.delete(&other).await.unwrap();
    next.delete(&first.runner).await.unwrap();
}

#[tokio::test]
async fn a_process_that_got_a_recorded_pid_later_is_never_signalled() {
    let mut host = Host::new(SLEEP);
    host.settings.stop_grace = Duration::from_millis(10);
    let (instance, foreign, mine) = (host.create(1).await, Foreign::sleep(), host.owner());
    let mut record: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(host.record(&instance)).unwrap()).unwrap();
    host.process().delete(&instance.runner).await.unwrap();
    // The record of a process that ended long ago, whose pid is now the foreign one's.
    record["process"]["pid"] = foreign.pid().into();
    record["process"]["start_ticks"] = (start_ticks(foreign.pid()) - 1).into();
    fs::write(host.record(&instance), record.to_string()).unwrap();
    let backend = host.process();
    let seen = backend.list(&mine).await.unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].status, InstanceStatus::Stopped);
    backend.delete(&instance.runner).await.unwrap();
    assert!(alive(foreign.pid()));
    assert_eq!(backend.list(&mine).await.unwrap(), []);
}

#[tokio::test]
async fn a_record_from_before_a_reboot_names_no_living_process() {
    let mut host = Host::new(SLEEP);
    host.settings.stop_grace = Duration::from_millis(10);
    let (instance, foreign, mine) = (host.create(1).await, Foreign::sleep(), host.owner());
    let mut record: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(host.record(&instance)).unwrap()).unwrap();
    host.process().delete(&instance.runner).await.unwrap();
    record["process"]["pid"] = foreign.pid().into();
    record["process"]["start_ticks"] = start_ticks(foreign.pid()).into();
    record["process"]["boot_id"] = "00000000-0000-0000-0000-000000000000".into();
    fs::write(host.record(&instance), record.to_string()).unwrap();
    let backend = host.process();
    assert_eq!(backend.list(&mine).await.unwrap()[0].status, InstanceStatus::Stopped);
    backend.delete(&instance.runner).await.unwrap();
    assert!(alive(foreign.pid()));
}

#[tokio::test]
async fn the_jit_config_is_in_the_environment_and_nowhere_else() {
    // It prints everything it has, and hands it to a child.
    let host = Host::new("env; env >&2; sleep 1000 & echo $! >> $HOST/pids; wait");
    let (instance, mine) = (host.create(1).await, host.owner());
    host.pids(1).await;
    let secret = spec(&mine, &instance.runner).jit_config.expose().to_owned();
    let environ = environ(pid(&instance));
    for name in ["RUNNER_JIT_CONFIG", "ACTIONS_RUNNER_INPUT_JITCONFIG"] {
        assert!(environ.contains(&format!("{name}={secret}")), "{name}");
    }
    assert!(environ.contains(&format!("RUNNER_NAME={}", instance.runner)));
    for pid in all_pids() {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&arguments).contains(&secret), "in the arguments of {pid}");
    }
    let files = files_below(&host.dir.join("state"));
    assert_eq!(files, [host.record(&instance)]);
    for file in files {
        assert!(!fs::read_to_string(&file).unwrap().contains(&secret), "in {}", file.display());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    }
    host.process().delete(&instance.runner).await.unwrap();
}

#[tokio::test]
async fn a_runner_inherits_neither_environment_nor_descriptors_nor_group() {
    let host = Host::new(SLEEP);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file = fs::File::create(host.dir.join("file")).unwrap();
    let instance = host.create(1).await;
    let environ = environ(pid(&instance));
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    assert!(!environ.iter().any(|entry| entry.starts_with("CARGO")), "{environ:?}");
    let theirs: Vec<_> = descriptors(&format!("/proc/{}/fd", pid(&instance)));
    assert!(theirs.iter().filter(|target| **target == Path::new("/dev/null")).count() >= 3, "{theirs:?}");
    let ours = [
        fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap(),
        fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap(),
    ];
    assert!(!theirs.iter().any(|target| ours.contains(target)), "{theirs:?}");
    assert_eq!(stat(pid(&instance)).unwrap()[2], instance.id.as_str());
    host.process().delete(&instance.runner).await.unwrap();
}

#[tokio::test]
async fn a_delete_that_nobody_waits_for_is_carried_through() {
    let mut host = Host::new("trap '' TERM; echo $$ >> $HOST/pids; sleep 1000");
    host.settings.stop_grace = Duration::from_millis(200);
    let instance = host.create(1).await;
    host.pids(1).await;
    let backend = host.process();
    let given_up = tokio::time::timeout(Duration::from_millis(20), backend.delete(&instance.runner)).await;
    assert!(given_up.is_err());
    assert!(alive(pid(&instance)));
    eventually("the delete to go on", || async { host.marked().is_empty() && !host.record(&instance).exists() }).await;
}

#[tokio::test]
async fn what_cannot_be_started_is_invalid_names_the_culprit_and_leaves_nothing() {
    let mut host = Host::new(SLEEP);
    let script = host.dir.join("run.sh");
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let (plain, mine) = (host.settings.clone(), host.owner());
    let missing = Settings { command: vec!["no-such-runner".into()], ..plain.clone() };
    let not_a_dir = Settings { working_dir: Some("/no/such/dir".into()), ..plain.clone() };
    let no_interpreter = Settings { command: vec![script.to_str().unwrap().into()], ..plain.clone() };
    let too_long = Settings { env: BTreeMap::from([("LONG".to_owned(), "x".repeat(200_000))]), ..plain.clone() };
    let nul = Settings { command: vec!["sh".into(), "a\0b".into()], ..plain };
    let culprits = [
        (missing, "no-such-runner"),
        (not_a_dir, "/no/such/dir"),
        (no_interpreter, "run.sh"),
        (nul, "NUL"),
        (too_long, "too long"),
    ];
    for (settings, culprit) in culprits {
        host.settings = settings;
        let refused = host.process().create(spec(&mine, &runner(&mine, 1))).await;
        let Err(BackendError::Invalid(text)) = refused else { panic!("{culprit}: {refused:?}") };
        assert!(text.contains(culprit), "{text}");
        assert_eq!(host.process().list(&mine).await.unwrap(), []);
        assert_eq!(files_below(&host.dir.join("state")), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn a_probe_finds_a_missing_command_and_an_unusable_state_directory() {
    let mut host = Host::new(SLEEP);
    host.process().probe().await.unwrap();
    assert_eq!(files_below(&host.dir.join("state")), Vec::<PathBuf>::new());
    fs::write(host.dir.join("file"), "").unwrap();
    let elsewhere = Process::new(host.settings.clone(), host.dir.join("file"), host.owner());
    let refused = elsewhere.probe().await;
    assert!(matches!(&refused, Err(BackendError::Invalid(text)) if text.contains("/file/")), "{refused:?}");
    host.settings.command = vec!["no-such-runner".into()];
    let refused = host.process().probe().await;
    assert!(matches!(&refused, Err(BackendError::Invalid(text)) if text.contains("no-such-runner")), "{refused:?}");
}

#[tokio::test]
async fn a_runner_of_another_group_is_refused() {
    let host = Host::new(SLEEP);
    let other = owner(host.owner().manager.as_str(), "windows");
    let refused = host.process().create(spec(&other, &runner(&other, 1))).await;
    assert!(matches!(refused, Err(BackendError::Invalid(_))), "{refused:?}");
    assert_eq!(host.marked(), NONE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_runners_made_and_deleted_at_once_leave_nothing() {
    let host = Host::new("sleep 1000 & wait");
    let (backend, mine) = (host.process(), host.owner());
    let creates: Vec<_> = (0..100)
        .map(|number| {
            let (backend, mine) = (backend.clone(), mine.clone());
            tokio::spawn(async move { backend.create(spec(&mine, &runner(&mine, number))).await.unwrap() })
        })
        .collect();
    let mut made = Vec::new();
    for create in creates {
        made.push(create.await.unwrap());
    }
    assert_eq!(backend.list(&mine).await.unwrap().len(), 100);
    let deletes: Vec<_> = made
        .iter()
        .map(|instance| {
            let (backend, runner) = (backend.clone(), instance.runner.clone());
            tokio::spawn(async move { backend.delete(&runner).await.unwrap() })
        })
        .collect();
    for delete in deletes {
        delete.await.unwrap();
    }
    assert_eq!(backend.list(&mine).await.unwrap(), []);
    assert_eq!(host.marked(), NONE);
    assert_eq!(files_below(&host.dir.join("state")), Vec::<PathBuf>::new());
    // Not even a zombie: every child was waited for.
    assert_eq!(made.iter().filter(|instance| stat(pid(instance)).is_some()).count(), 0);
}
