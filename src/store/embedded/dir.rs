//! The data directory: made, checked, and locked against a second process.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

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

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(20).read_to_string(&mut text) {
        Ok(_) if text.parse::<u32>().is_ok() => format!("process {text}"),
        _ => "another process".to_owned(),
    }
}
