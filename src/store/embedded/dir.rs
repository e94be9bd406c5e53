//! The data directory: made, checked, and locked against a second process.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, FlockOperation, flock};

use super::OpenError;

/// Name of the file whose lock means that the directory is in use.
const LOCK_FILE: &str = "lock";

/// The directory, held by this process until dropped.
pub(super) struct DataDir {
    path: PathBuf,
    lock: File,
}

impl DataDir {
    /// Makes the directory if it is missing (mode 0700) and takes its lock.
    pub(super) fn lock(path: &Path) -> Result<Self, OpenError> {
        if path.exists() && !path.is_dir() {
            return Err(OpenError::NotADirectory(path.to_owned()));
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| OpenError::Create { path: path.to_owned(), source })?;
        let access = |source| OpenError::Access { path: path.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .map_err(access)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(OpenError::InUse { path: path.to_owned(), holder: holder(&mut file) });
            }
            Err(errno) => return Err(access(errno.into())),
        }
        // The process id is a courtesy to whoever is refused: the lock holds without it, also on a full disk.
        let _ = file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
        Ok(Self { path: path.to_owned(), lock: file })
    }

    /// The path of a file in the directory.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Flushes the directory itself, so that files made in it survive a loss of power.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // Closing the file is not enough at once: a process that is just being started may hold a copy of it until it
        // runs its own program.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

/// What a data directory is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirState {
    /// It is there, nobody uses it, and files can be written in it.
    Free,
    /// It is not there, and can be made.
    Missing,
    /// A process uses it; `process <id>`, as far as known.
    InUse(String),
}

/// Looks at a directory without making or opening anything that stays. Its lock, when nobody holds it, is shared for
/// less than a millisecond.
pub(super) fn look(path: &Path) -> Result<DirState, OpenError> {
    let access = |source| OpenError::Access { path: path.to_owned(), source };
    if !path.exists() {
        let above = path.ancestors().skip(1).find(|above| above.as_os_str().is_empty() || above.exists());
        let above = above.filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return match rustix::fs::access(above, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => Ok(DirState::Missing),
            Err(errno) => Err(OpenError::Create { path: path.to_owned(), source: errno.into() }),
        };
    }
    if !path.is_dir() {
        return Err(OpenError::NotADirectory(path.to_owned()));
    }
    match File::open(path.join(LOCK_FILE)) {
        Ok(mut file) => match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => flock(&file, FlockOperation::Unlock).map_err(|errno| access(errno.into()))?,
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(DirState::InUse(holder(&mut file))),
            Err(errno) => return Err(access(errno.into())),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(access(error)),
    }
    let mut file = tempfile::Builder::new().prefix("probe-").tempfile_in(path).map_err(access)?;
    file.write_all(&[0; 4096]).and_then(|()| file.as_file().sync_all()).map_err(access)?;
    Ok(DirState::Free)
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(20).read_to_string(&mut text) {
        Ok(_) if text.parse::<u32>().is_ok() => format!("process {text}"),
        _ => "another process".to_owned(),
    }
}
