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
    /// The kept value while it is `fresh`, else what `fetch`, which is given the kept one, brings. A failure is handed
    /// to those who were waiting for it and then forgotten.
    pub(super) async fn get<F: Future<Output = Result<T, GitHubError>>>(
        &self,
        fresh: impl FnOnce(&T) -> bool,
        fetch: impl FnOnce(Option<T>) -> F,
    ) -> Result<T, GitHubError> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        match &*last {
            Some((_, Ok(value))) if fresh(value) => return Ok(value.clone()),
            Some((at, Err(error))) if *at > asked => return Err(error.clone()),
            _ => {}
        }
        let kept = last.as_ref().and_then(|(_, last)| last.clone().ok());
        let result = fetch(kept).await;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    /// Asks three times at once; says how often it was fetched and what each got.
    async fn ask(cell: &Arc<SingleFlight<u32>>, kept: u32, result: Result<u32, GitHubError>) -> (u32, Vec<String>) {
        let fetches = Arc::new(AtomicU32::new(0));
        let tasks = [(); 3].map(|()| {
            let (cell, fetches, result) = (Arc::clone(cell), Arc::clone(&fetches), result.clone());
            tokio::spawn(async move {
                let fetch = async |_| {
                    fetches.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_secs(30)).await;
                    result
                };
                cell.get(|value| *value == kept, fetch).await
            })
        });
        let mut got = Vec::new();
        for task in tasks {
            got.push(task.await.unwrap().map_or_else(|error| error.kind().to_owned(), |value| value.to_string()));
        }
        (fetches.load(Ordering::Relaxed), got)
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_ask_at_once_share_one_success_or_failure() {
        let cell = Arc::new(SingleFlight::default());
        let unknown = Err(GitHubError::Unknown(String::new()));
        assert_eq!(ask(&cell, 7, unknown).await, (1, vec!["unknown".to_owned(); 3]));
        assert_eq!(ask(&cell, 7, Ok(7)).await, (1, vec!["7".to_owned(); 3]), "a failure is not kept");
        assert_eq!(ask(&cell, 7, Ok(8)).await, (0, vec!["7".to_owned(); 3]), "a fresh value is");
        assert_eq!(ask(&cell, 8, Ok(8)).await, (1, vec!["8".to_owned(); 3]), "a stale one is not");
        cell.forget(|value| *value == 9).await;
        assert_eq!(ask(&cell, 8, Ok(1)).await.0, 0);
        cell.forget(|value| *value == 8).await;
        assert_eq!(ask(&cell, 9, Ok(9)).await.0, 1);
    }
}
