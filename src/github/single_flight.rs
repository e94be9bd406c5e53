//! A value that many ask for and one fetches.

use std::future::Future;

use actors::port::GitHubError;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Keeps the last value. While it is being fetched the others wait, and share its success or failure.
pub(super) struct SingleFlight<T> {
    last: Mutex<Option<(Instant, Result<T, GitHubError>)>>,
}

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self { last: Mutex::new(None) }
    }
}

impl<T: Clone> SingleFlight<T> {
    /// The kept value while it is `fresh`, else what `fetch` brings. A failure is handed to those who were waiting
    /// for it and then forgotten.
    pub(super) async fn get(
        &self,
        fresh: impl FnOnce(&T) -> bool,
        fetch: impl Future<Output = Result<T, GitHubError>>,
    ) -> Result<T, GitHubError> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        match &*last {
            Some((_, Ok(value))) if fresh(value) => return Ok(value.clone()),
            Some((at, Err(error))) if *at > asked => return Err(error.clone()),
            _ => {}
        }
        let result = fetch.await;
        *last = Some((Instant::now(), result.clone()));
        result
    }

    /// Forgets the value if it is `stale`.
    pub(super) async fn forget(&self, stale: impl FnOnce(&T) -> bool) {
        let mut last = self.last.lock().await;
        if let Some((_, Ok(value))) = &*last
            && stale(value)
        {
            *last = None;
        }
    }
}
