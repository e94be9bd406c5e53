//! Which replica this process is: an id that a restarted process takes over, so that it goes on at once with what its
//! predecessor owned instead of waiting for the lease to end.
//!
//! Ids are kept in the data directory, one per file, each held by a file lock for as long as its process lives. The kernel
//! lets go of a lock only when the process has ended: whoever gets an id knows that nobody acts under it any more.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use actors::id::ReplicaId;
use rustix::fs::{FlockOperation, flock};

/// Most processes that may share a data directory.
const SEATS: u32 = 64;

/// An id, held by this process until dropped.
#[derive(Debug)]
pub struct HeldId {
    id: ReplicaId,
    lock: Option<File>,
}

impl HeldId {
    /// Takes the first id of the directory that no living process holds; makes one if there is none.
    ///
    /// A directory that cannot be used gives an id that lives as long as this process.
    #[must_use]
    pub fn take(data_dir: &Path) -> Self {
        let host = host();
        for seat in 1..=SEATS {
            match sit(data_dir, seat, &host) {
                Ok(Some(held)) => return held,
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(
                        dir = %data_dir.display(), %error,
                        "cannot keep this replica's id: after a restart its groups wait until their leases end"
                    );
                    break;
                }
            }
        }
        Self { id: new_id(&host), lock: None }
    }

    /// An id that is nobody else's, for as long as this process lives. Touches no directory.
    #[must_use]
    pub fn passing() -> Self {
        Self { id: new_id(&host()), lock: None }
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &ReplicaId {
        &self.id
    }
}

impl Drop for HeldId {
    fn drop(&mut self) {
        // A process that is just being started may hold a copy of the file until it runs its own program.
        if let Some(lock) = &self.lock {
            let _ = flock(lock, FlockOperation::Unlock);
        }
    }
}

/// The id of one file; none when a living process holds it.
fn sit(data_dir: &Path, seat: u32, host: &str) -> io::Result<Option<HeldId>> {
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(data_dir.join(format!("replica-{seat}")))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    }
    let mut text = String::new();
    // What is no text is no id.
    let _ = (&mut file).take(100).read_to_string(&mut text);
    // An id of another host came with a copy of the directory: its process may live.
    let kept = text.trim().parse().ok().filter(|id: &ReplicaId| id.is_of_host(host));
    let id = match kept {
        Some(id) => id,
        None => {
            let id = new_id(host);
            file.rewind()?;
            file.set_len(0)?;
            writeln!(file, "{id}")?;
            file.sync_all()?;
            id
        }
    };
    Ok(Some(HeldId { id, lock: Some(file) }))
}

fn new_id(host: &str) -> ReplicaId {
    ReplicaId::on_host(host, rand::random())
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_process_has_its_id_again_and_a_second_one_has_another() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let first = HeldId::take(&data);
        let second = HeldId::take(&data);
        assert_ne!(first.id(), second.id());
        let ids = [first.id().clone(), second.id().clone()];
        drop(first);
        let again = HeldId::take(&data);
        assert_eq!(*again.id(), ids[0]);
        drop((again, second));
        let (first, second) = (HeldId::take(&data), HeldId::take(&data));
        assert_eq!([first.id().clone(), second.id().clone()], ids);
    }

    #[test]
    fn an_id_of_another_host_or_none_at_all_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["elsewhere-0000002a\n", "", "not an id", "\u{0}"] {
            std::fs::write(dir.path().join("replica-1"), text).unwrap();
            let held = HeldId::take(dir.path());
            assert!(held.id().is_of_host(&host()), "{text:?}: {}", held.id());
            let kept = std::fs::read_to_string(dir.path().join("replica-1")).unwrap();
            assert_eq!(kept.trim(), held.id().as_str());
        }
    }

    #[test]
    fn without_a_usable_directory_every_process_has_an_id_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_ne!(HeldId::take(&file).id(), HeldId::take(&file).id());
    }
}
