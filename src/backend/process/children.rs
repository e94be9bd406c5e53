//! The processes that this one started: each is reaped when it ends.

use std::collections::HashMap;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use actors::id::RunnerName;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

/// Children that were not reaped yet, and whether a task is waiting for their ends.
#[derive(Debug, Default)]
pub(super) struct Children(Mutex<Watched>);

#[derive(Debug, Default)]
struct Watched {
    children: HashMap<u32, Watch>,
    watching: bool,
}

#[derive(Debug)]
struct Watch {
    runner: RunnerName,
    child: Child,
    since: Instant,
}

impl Children {
    /// Takes over `child`. Call it within the runtime.
    pub(super) fn keep(self: &Arc<Self>, runner: RunnerName, child: Child) {
        let mut watched = self.watched();
        watched.children.insert(child.id(), Watch { runner, child, since: Instant::now() });
        if !watched.watching {
            watched.watching = true;
            Handle::current().spawn(watch(Arc::clone(self)));
        }
    }

    /// Reaps the child `pid`, if it is one of ours and has ended.
    pub(super) fn reap(&self, pid: i32) {
        let mut watched = self.watched();
        let pid = pid.cast_unsigned();
        if watched.children.get_mut(&pid).is_some_and(Watch::has_ended) {
            watched.children.remove(&pid);
        }
    }

    /// Reaps every child that has ended; true when none is left, and then the task is said to be over.
    fn reap_all(&self) -> bool {
        let mut watched = self.watched();
        watched.children.retain(|_, watch| !watch.has_ended());
        watched.watching = !watched.children.is_empty();
        !watched.watching
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    fn has_ended(&mut self) -> bool {
        let pid = self.child.id();
        match self.child.try_wait() {
            Ok(None) => false,
            Ok(Some(status)) => {
                let seconds = self.since.elapsed().as_secs_f64();
                tracing::info!(runner = %self.runner, pid, seconds, "the process of the runner has ended: {status}");
                true
            }
            Err(error) => {
                tracing::warn!(runner = %self.runner, pid, "cannot wait for the process of the runner: {error}");
                true
            }
        }
    }
}

/// One signal stream for all: a descriptor per child would use up the manager's own.
async fn watch(children: Arc<Children>) {
    let mut ends = match signal(SignalKind::child()) {
        Ok(ends) => ends,
        Err(error) => {
            tracing::warn!("cannot be told of ended processes, they stay as zombies until deleted: {error}");
            children.watched().watching = false;
            return;
        }
    };
    while !children.reap_all() {
        ends.recv().await;
    }
}
