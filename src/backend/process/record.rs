//! What is written down of a process, so that it is found again after a restart. It holds no secret.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use actors::id::RunnerName;
use actors::port::backend::Owner;
use serde::{Deserialize, Serialize};

use super::procfs::Identity;

const SUFFIX: &str = ".json";

/// What is known of the process of one runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    /// It was about to be started: it may or may not exist.
    Intended,
    /// It was started, in this run of the kernel.
    Started(Identity),
    /// It was started before the host was.
    BeforeBoot(Identity),
}

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    version: u32,
    runner: String,
    manager: String,
    group: String,
    process: Option<WrittenProcess>,
}

#[derive(Debug, Serialize, Deserialize)]
struct WrittenProcess {
    pid: i32,
    start_ticks: u64,
    boot_id: String,
}

/// The records of one owner: a directory of mode 0700, one file per runner.
#[derive(Debug)]
pub(super) struct Records {
    owner: Owner,
    dir: PathBuf,
}

impl Records {
    /// The records of `owner` under `state_dir`. Group and manager names are safe as file names.
    pub(super) fn new(state_dir: &Path, owner: &Owner) -> Self {
        Self { owner: owner.clone(), dir: state_dir.join(owner.manager.as_str()).join(owner.group.as_str()) }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the directory, closed to others.
    pub(super) fn prepare(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        // Who can write here decides which processes are signalled.
        fs::set_permissions(&self.dir, Permissions::from_mode(0o700))
    }

    /// Whether files can be made here.
    pub(super) fn try_write(&self) -> io::Result<()> {
        let path = self.dir.join(".probe");
        fs::write(&path, b"")?;
        remove(&path)
    }

    /// What is written of `runner`, or none when nothing is. `boot` is this run of the kernel.
    pub(super) fn read(&self, runner: &RunnerName, boot: &str) -> io::Result<Option<Record>> {
        let path = self.path(runner);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let Ok(written) = serde_json::from_slice::<Written>(&text) else {
            // The marks that the process itself carries are enough to find it.
            tracing::warn!(path = %path.display(), "unreadable process record: its process is looked for by its marks");
            return Ok(Some(Record::Intended));
        };
        let ours = written.runner == runner.as_str()
            && written.manager == self.owner.manager.as_str()
            && written.group == self.owner.group.as_str();
        Ok(Some(match written.process.filter(|process| ours && process.pid > 1) {
            None => Record::Intended,
            Some(process) => {
                let identity = Identity { pid: process.pid, start: process.start_ticks };
                if process.boot_id == boot { Record::Started(identity) } else { Record::BeforeBoot(identity) }
            }
        }))
    }

    /// The runners that something is written of.
    pub(super) fn runners(&self) -> io::Result<Vec<RunnerName>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut runners = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let runner = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            runners.extend(runner.and_then(|runner| RunnerName::new(runner).ok()));
        }
        Ok(runners)
    }

    /// Writes that the process of `runner` is about to be started.
    pub(super) fn intend(&self, runner: &RunnerName) -> io::Result<()> {
        self.write(runner, None)
    }

    /// Writes which process was started for `runner`.
    pub(super) fn started(&self, runner: &RunnerName, identity: Identity, boot: &str) -> io::Result<()> {
        let process = WrittenProcess { pid: identity.pid, start_ticks: identity.start, boot_id: boot.to_owned() };
        self.write(runner, Some(process))
    }

    /// Forgets `runner`.
    pub(super) fn remove(&self, runner: &RunnerName) -> io::Result<()> {
        remove(&self.path(runner))?;
        remove(&self.path(runner).with_extension("new"))
    }

    /// A reader sees the whole old record or the whole new one.
    fn write(&self, runner: &RunnerName, process: Option<WrittenProcess>) -> io::Result<()> {
        let written = Written {
            version: 1,
            runner: runner.to_string(),
            manager: self.owner.manager.to_string(),
            group: self.owner.group.to_string(),
            process,
        };
        let path = self.path(runner);
        let new = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(&written)?)?;
        drop(file);
        fs::rename(&new, &path)
    }

    fn path(&self, runner: &RunnerName) -> PathBuf {
        self.dir.join(format!("{runner}{SUFFIX}"))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use actors::id::{GroupName, ManagerName};

    use super::*;

    fn records(dir: &Path) -> Records {
        let owner = Owner { manager: ManagerName::new("m").unwrap(), group: GroupName::new("g").unwrap() };
        let records = Records::new(dir, &owner);
        records.prepare().unwrap();
        records
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_is_gone_when_removed() {
        let dir = tempfile::tempdir().unwrap();
        let records = records(dir.path());
        let runner = RunnerName::new("g-1").unwrap();
        let identity = Identity { pid: 77, start: 5 };
        assert_eq!(records.read(&runner, "boot").unwrap(), None);
        records.intend(&runner).unwrap();
        assert_eq!(records.read(&runner, "boot").unwrap(), Some(Record::Intended));
        records.started(&runner, identity, "boot").unwrap();
        assert_eq!(records.read(&runner, "boot").unwrap(), Some(Record::Started(identity)));
        assert_eq!(records.read(&runner, "next").unwrap(), Some(Record::BeforeBoot(identity)));
        assert_eq!(records.runners().unwrap(), std::slice::from_ref(&runner));
        records.remove(&runner).unwrap();
        records.remove(&runner).unwrap();
        assert_eq!(records.read(&runner, "boot").unwrap(), None);
        assert_eq!(fs::read_dir(records.dir()).unwrap().count(), 0);
    }

    #[test]
    fn a_record_that_is_torn_or_names_somebody_else_names_no_process() {
        let dir = tempfile::tempdir().unwrap();
        let records = records(dir.path());
        let (one, two) = (RunnerName::new("g-1").unwrap(), RunnerName::new("g-2").unwrap());
        records.started(&one, Identity { pid: 77, start: 5 }, "boot").unwrap();
        fs::copy(records.path(&one), records.path(&two)).unwrap();
        assert_eq!(records.read(&two, "boot").unwrap(), Some(Record::Intended));
        fs::write(records.path(&one), b"{\"pid\": ").unwrap();
        assert_eq!(records.read(&one, "boot").unwrap(), Some(Record::Intended));
    }

    #[test]
    fn nobody_else_can_read_or_write_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let records = records(dir.path());
        fs::set_permissions(records.dir(), Permissions::from_mode(0o777)).unwrap();
        records.prepare().unwrap();
        assert_eq!(fs::metadata(records.dir()).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
