//! One lock for each runner, so that calls about one runner follow each other and others go on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use actors::id::RunnerName;
use tokio::sync::OwnedMutexGuard;

/// The locks that somebody holds or waits for.
#[derive(Debug, Default)]
pub(super) struct Locks(Mutex<HashMap<RunnerName, Arc<tokio::sync::Mutex<()>>>>);

impl Locks {
    /// Excludes every other holder of `runner`'s lock.
    pub(super) async fn lock(&self, runner: &RunnerName) -> OwnedMutexGuard<()> {
        self.of(runner).lock_owned().await
    }

    /// The same, unless somebody holds it.
    pub(super) fn try_lock(&self, runner: &RunnerName) -> Option<OwnedMutexGuard<()>> {
        self.of(runner).try_lock_owned().ok()
    }

    fn of(&self, runner: &RunnerName) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(runner.clone()).or_default())
    }
}
