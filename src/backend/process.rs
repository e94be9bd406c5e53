//! Runs each runner as a process of this host.
//!
//! A runner is a process group of its own. It does not end with the manager, and is found again by a record (pid,
//! start time, run of the kernel) and by the marks in its environment (manager, group, runner name), which its
//! descendants inherit. Under systemd the manager's unit needs `KillMode=process`, or runners end with it.
//! What a runner prints is not kept: it may hold the just-in-time config. Redirect it in `command` where needed.
//! Needs Linux: it reads `/proc`.

mod children;
mod family;
mod launch;
mod procfs;
mod record;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::id::{InstanceId, RunnerName};
use actors::port::Backend;
use actors::port::backend::{BackendError, Instance, InstanceSpec, InstanceStatus, Metadata, Owner};
use async_trait::async_trait;
use rustix::process::Signal;

use super::locks::Locks;
use children::Children;
use family::Processes;
use procfs::Identity;
use record::{Record, Records};

/// How long processes may take to disappear after SIGKILL, before a delete gives up.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// First and longest pause between two looks at processes that were told to end.
const POLL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// How runners of a group are started and stopped.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// The program and its arguments. A relative path is looked for in `working_dir`, a bare name in `PATH`.
    pub command: Vec<String>,
    /// Where it starts; the manager's own directory by default.
    pub working_dir: Option<PathBuf>,
    /// Added to its environment. The values may be secrets: they are not shown.
    pub env: BTreeMap<String, String>,
    /// How long it may take to end after SIGTERM, before SIGKILL.
    pub stop_grace: Duration,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("command", &self.command)
            .field("working_dir", &self.working_dir)
            .field("env", &self.env.keys())
            .field("stop_grace", &self.stop_grace)
            .finish()
    }
}

/// The backend of one group.
#[derive(Debug, Clone)]
pub struct Process(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: Settings,
    state_dir: PathBuf,
    owner: Owner,
    records: Records,
    children: Arc<Children>,
    locks: Locks,
}

impl Process {
    /// The backend of `owner`. Records are kept in `state_dir/<manager>/<group>`, which is made when first needed.
    #[must_use]
    pub fn new(settings: Settings, state_dir: PathBuf, owner: Owner) -> Self {
        let records = Records::new(&state_dir, &owner);
        Self(Arc::new(Shared {
            settings,
            state_dir,
            owner,
            records,
            children: Arc::default(),
            locks: Locks::default(),
        }))
    }
}

#[async_trait]
impl Backend for Process {
    fn name(&self) -> &'static str {
        "process"
    }

    async fn create(&self, spec: InstanceSpec) -> Result<Instance, BackendError> {
        super::check_owner(&self.0.owner, &spec)?;
        let lock = self.0.locks.lock(&spec.runner).await;
        if let Some(existing) = self.0.recorded(&spec.runner).await? {
            return Ok(existing);
        }
        let shared = Arc::clone(&self.0);
        // Carried through even when nobody waits for it any more.
        blocking(move || {
            let _lock = lock;
            shared.start(&spec)
        })
        .await
    }

    async fn delete(&self, runner: &RunnerName) -> Result<(), BackendError> {
        let (shared, runner) = (Arc::clone(&self.0), runner.clone());
        // Carried through even when nobody waits for it any more: a repeated delete joins it, instead of granting
        // another grace.
        let removal = tokio::spawn(async move {
            let _lock = shared.locks.lock(&runner).await;
            shared.stop(&runner).await
        });
        removal.await.map_err(|error| BackendError::Unavailable(format!("the delete was interrupted: {error}")))?
    }

    async fn get(&self, runner: &RunnerName) -> Result<Option<Instance>, BackendError> {
        // A create under way is waited for.
        let intended = || async { Ok(matches!(self.0.read(runner).await?, Some(Record::Intended))) };
        let _lock = if intended().await? { Some(self.0.locks.lock(runner).await) } else { None };
        match self.0.recorded(runner).await? {
            Some(instance) => Ok(Some(instance)),
            None => Ok(scan().await?.instance(&self.0.owner, runner, None)),
        }
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        let processes = scan().await?;
        let (state_dir, owner) = (self.0.state_dir.clone(), owner.clone());
        blocking(move || {
            let records = Records::new(&state_dir, &owner);
            let failed = |error| unreadable(&records, &error);
            let boot = procfs::boot_id().map_err(|error| no_proc(&error))?;
            let mut names: BTreeSet<_> = processes.runners(&owner);
            names.extend(records.runners().map_err(failed)?);
            let mut instances = Vec::with_capacity(names.len());
            for name in names {
                let record = records.read(&name, boot).map_err(failed)?;
                instances.extend(judge(&processes, &owner, &name, record));
            }
            Ok(instances)
        })
        .await
    }

    /// Nothing: a process has no place for labels.
    async fn update_metadata(&self, _runner: &RunnerName, _metadata: &Metadata) -> Result<(), BackendError> {
        Ok(())
    }

    async fn probe(&self) -> Result<(), BackendError> {
        let shared = Arc::clone(&self.0);
        blocking(move || {
            procfs::boot_id().map_err(|error| no_proc(&error))?;
            launch::resolve(&shared.settings)?;
            let written = shared.records.prepare().and_then(|()| shared.records.try_write());
            written.map_err(|error| unwritable(&shared.records, &error))
        })
        .await
    }
}

impl Shared {
    /// Starts the process of a runner that has none. Blocks.
    fn start(&self, spec: &InstanceSpec) -> Result<Instance, BackendError> {
        let boot = procfs::boot_id().map_err(|error| no_proc(&error))?;
        let intended = self.records.prepare().and_then(|()| self.records.intend(&spec.runner));
        intended.map_err(|error| unwritable(&self.records, &error))?;
        let child = launch::spawn(&self.settings, spec).inspect_err(|_| {
            // What is left of the intent does no harm: its process is looked for and not found.
            let _ = self.records.remove(&spec.runner);
        })?;
        let pid = child.id().cast_signed();
        // Not reaped yet, so its entry is there even when it has ended already.
        let identity = procfs::stat(pid);
        self.children.keep(spec.runner.clone(), child);
        match identity {
            Ok(Some(stat)) => self.records.started(&spec.runner, stat.identity, boot),
            Ok(None) => Err(io::Error::other(format!("/proc/{pid} is not there"))),
            Err(error) => Err(error),
        }
        .unwrap_or_else(|error| {
            tracing::warn!(runner = %spec.runner, pid, "cannot record the process, it is found by its marks only: {error}");
        });
        let id = InstanceId::new(pid.to_string()).map_err(|error| BackendError::Unavailable(error.to_string()))?;
        Ok(Instance { id, runner: spec.runner.clone(), status: InstanceStatus::Running })
    }

    /// Ends every process of `runner` and forgets it.
    async fn stop(self: &Arc<Self>, runner: &RunnerName) -> Result<(), BackendError> {
        let leader = match self.read(runner).await? {
            Some(Record::Started(leader)) => Some(leader),
            _ => None,
        };
        let grace = Instant::now() + self.settings.stop_grace;
        let give_up = grace + KILL_PATIENCE;
        let mut told = HashSet::new();
        let mut refused = None;
        loop {
            // A scan that began after the last signal: nothing that was started meanwhile escapes.
            let family = scan().await?.family(&self.owner, runner, leader);
            if family.is_empty() {
                break;
            }
            let now = Instant::now();
            if now >= give_up {
                let why =
                    refused.map_or_else(|| "they do not react to SIGKILL".to_owned(), |e: io::Error| e.to_string());
                let pids: Vec<_> = family.iter().map(|identity| identity.pid.to_string()).collect();
                return Err(BackendError::Unavailable(format!(
                    "cannot end the processes {} of runner {runner}: {why}",
                    pids.join(", ")
                )));
            }
            // SIGCONT: a suspended process has to go on to end.
            let signals: &[Signal] = if now >= grace { &[Signal::KILL] } else { &[Signal::TERM, Signal::CONT] };
            let untold: Vec<_> = family.iter().copied().filter(|member| now >= grace || told.insert(*member)).collect();
            refused = blocking(move || Ok(send_all(&untold, signals))).await?.or(refused);
            wait_until_ended(family, if now >= grace { give_up } else { grace }).await?;
        }
        let (shared, runner) = (Arc::clone(self), runner.clone());
        blocking(move || {
            if let Some(leader) = leader {
                shared.children.reap(leader.pid);
            }
            shared.records.remove(&runner).map_err(|error| unwritable(&shared.records, &error))
        })
        .await
    }

    /// The instance of `runner` if a record speaks of it.
    async fn recorded(self: &Arc<Self>, runner: &RunnerName) -> Result<Option<Instance>, BackendError> {
        let Some(record) = self.read(runner).await? else { return Ok(None) };
        if let Record::Started(leader) = record
            && procfs::runs(leader).map_err(|error| no_proc(&error))?
        {
            let id = InstanceId::new(leader.pid.to_string())
                .map_err(|error| BackendError::Unavailable(error.to_string()))?;
            return Ok(Some(Instance { id, runner: runner.clone(), status: InstanceStatus::Running }));
        }
        Ok(judge(&*scan().await?, &self.owner, runner, Some(record)))
    }

    async fn read(self: &Arc<Self>, runner: &RunnerName) -> Result<Option<Record>, BackendError> {
        let (shared, runner) = (Arc::clone(self), runner.clone());
        blocking(move || {
            let boot = procfs::boot_id().map_err(|error| no_proc(&error))?;
            shared.records.read(&runner, boot).map_err(|error| unreadable(&shared.records, &error))
        })
        .await
    }
}

/// A scan that began after this call. Callers that wait at the same time share one, whichever group they serve: there
/// is one `/proc`.
async fn scan() -> Result<Arc<Processes>, BackendError> {
    static LAST: tokio::sync::Mutex<Option<(Instant, Arc<Processes>)>> = tokio::sync::Mutex::const_new(None);
    let asked = Instant::now();
    let mut last = LAST.lock().await;
    if let Some((began, processes)) = &*last
        && *began >= asked
    {
        return Ok(Arc::clone(processes));
    }
    let began = Instant::now();
    let seen = blocking(|| procfs::scan().map_err(|error| no_proc(&error))).await?;
    let processes = Arc::new(Processes::new(seen));
    *last = Some((began, Arc::clone(&processes)));
    Ok(processes)
}

/// What is to be said of `runner`; none when nothing was made for it.
fn judge(processes: &Processes, owner: &Owner, runner: &RunnerName, record: Option<Record>) -> Option<Instance> {
    match record {
        Some(Record::Started(leader)) => processes.instance(owner, runner, Some(leader)),
        Some(Record::BeforeBoot(leader)) => {
            let id = InstanceId::new(leader.pid.to_string()).ok()?;
            Some(Instance { id, runner: runner.clone(), status: InstanceStatus::Stopped })
        }
        Some(Record::Intended) | None => processes.instance(owner, runner, None),
    }
}

/// Sends the signals to every member, whatever becomes of the others, and returns the last error.
fn send_all(members: &[Identity], signals: &[Signal]) -> Option<io::Error> {
    let mut refused = None;
    for member in members {
        for signal in signals {
            refused = procfs::send(*member, *signal).err().or(refused);
        }
    }
    refused
}

/// Returns when all of `family` have ended, or at `deadline`.
async fn wait_until_ended(mut family: Vec<Identity>, deadline: Instant) -> Result<(), BackendError> {
    let (mut pause, longest) = POLL;
    while Instant::now() < deadline {
        family = blocking(move || {
            family.retain(|member| procfs::runs(*member).unwrap_or(true));
            Ok(family)
        })
        .await?;
        if family.is_empty() {
            return Ok(());
        }
        tokio::time::sleep_until((Instant::now() + pause).min(deadline).into()).await;
        pause = (pause * 2).min(longest);
    }
    Ok(())
}

/// Runs what may block where it holds up nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackendError> + Send + 'static,
) -> Result<T, BackendError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(BackendError::Unavailable(format!("the process backend was interrupted: {error}"))))
}

fn no_proc(error: &io::Error) -> BackendError {
    BackendError::Unavailable(format!("cannot read /proc, which the process backend finds its processes by: {error}"))
}

fn unreadable(records: &Records, error: &io::Error) -> BackendError {
    BackendError::Unavailable(format!("cannot read process records in {}: {error}", records.dir().display()))
}

fn unwritable(records: &Records, error: &io::Error) -> BackendError {
    let text = format!("cannot write process records in {}: {error}", records.dir().display());
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory | io::ErrorKind::ReadOnlyFilesystem => {
            BackendError::Invalid(text)
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BackendError::NoCapacity(text),
        _ => BackendError::Unavailable(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_environment_values_are_not_shown() {
        let env = BTreeMap::from([("TOKEN".to_owned(), "hush".to_owned())]);
        let settings = Settings { command: vec![], working_dir: None, env, stop_grace: Duration::ZERO };
        let shown = format!("{settings:?}");
        assert!(shown.contains("TOKEN") && !shown.contains("hush"), "{shown}");
    }
}
