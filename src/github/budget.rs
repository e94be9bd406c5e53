//! How much is asked of GitHub at once, and that nothing is asked before a limit is over.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actors::port::GitHubError;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Calls that may run at once in the beginning; each success allows one more, each refusal halves it.
const START: usize = 8;
/// Shortest wait when GitHub refuses and does not say for how long. Doubles with each refusal in a row.
const PAUSE_MIN: Duration = Duration::from_secs(60);
/// Longest such wait.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// Bounds the calls that run at once and keeps them back while a limit lasts.
pub(super) struct Budget {
    permits: Semaphore,
    max: usize,
    state: Mutex<State>,
}

struct State {
    /// Calls that may run at once now.
    allowed: usize,
    /// Permits that were given out before `allowed` shrank, and are not to come back.
    surplus: usize,
    pauses: HashMap<Limit, Pause>,
}

/// What a refusal holds for: a credential's account, and one operation of it or (none) all.
type Limit = (String, Option<&'static str>);

struct Pause {
    until: Instant,
    refusals: u32,
    text: String,
}

/// The right to one call.
pub(super) struct Permit<'a> {
    budget: &'a Budget,
    permit: Option<SemaphorePermit<'a>>,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut state = self.budget.state();
        if state.surplus > 0 {
            state.surplus -= 1;
            if let Some(permit) = self.permit.take() {
                permit.forget();
            }
        }
    }
}

impl Budget {
    /// At most `max` calls at once, at least one.
    pub(super) fn new(max: usize) -> Self {
        let max = max.max(1);
        let allowed = START.min(max);
        let state = State { allowed, surplus: 0, pauses: HashMap::new() };
        Self { permits: Semaphore::new(allowed), max, state: Mutex::new(state) }
    }

    /// Waits for a place; refuses at once while a limit lasts.
    pub(super) async fn admit(&self, account: &str, operation: &'static str) -> Result<Permit<'_>, GitHubError> {
        self.paused(account, operation)?;
        let permit = self.permits.acquire().await.ok();
        let permit = Permit { budget: self, permit };
        self.paused(account, operation)?;
        Ok(permit)
    }

    fn paused(&self, account: &str, operation: &'static str) -> Result<(), GitHubError> {
        let now = Instant::now();
        let state = self.state();
        let pauses = [None, Some(operation)].map(|operation| state.pauses.get(&(account.to_owned(), operation)));
        let longest = pauses.into_iter().flatten().filter(|pause| pause.until > now).max_by_key(|pause| pause.until);
        longest.map_or(Ok(()), |pause| {
            let text = format!("not asked again before the limit is over; {}", pause.text);
            Err(GitHubError::RateLimited { text, retry_after: pause.until - now })
        })
    }

    /// GitHub answered: it may be asked for more at once.
    pub(super) fn answered(&self, account: &str, operation: &'static str) {
        let now = Instant::now();
        let mut state = self.state();
        for operation in [None, Some(operation)] {
            let limit = (account.to_owned(), operation);
            if state.pauses.get(&limit).is_some_and(|pause| pause.until <= now) {
                state.pauses.remove(&limit);
            }
        }
        if state.allowed < self.max {
            state.allowed += 1;
            if state.surplus > 0 {
                state.surplus -= 1;
            } else {
                self.permits.add_permits(1);
            }
        }
    }

    /// GitHub refused with a limit. Returns how long nothing is asked: as long as it `said`, else a minute that
    /// doubles each time. A limit of a `resource` other than `core` holds for this operation only.
    pub(super) fn refused(
        &self,
        account: &str,
        operation: &'static str,
        resource: &str,
        said: Option<Duration>,
        text: &str,
    ) -> Duration {
        let now = Instant::now();
        let limit = (account.to_owned(), (resource != "core").then_some(operation));
        let mut state = self.state();
        let before = state.pauses.get(&limit);
        let lasting = before.filter(|pause| pause.until > now).map(|pause| pause.until);
        let refusals = before.map_or(0, |pause| pause.refusals) + u32::from(lasting.is_none());
        let grown = PAUSE_MIN.saturating_mul(1 << refusals.saturating_sub(1).min(6)).min(PAUSE_MAX);
        let until = (now + said.unwrap_or(grown)).max(lasting.unwrap_or(now));
        state.pauses.insert(limit, Pause { until, refusals, text: text.to_owned() });
        if lasting.is_none() {
            let fewer = (state.allowed / 2).max(1);
            let cut = state.allowed - fewer;
            state.allowed = fewer;
            state.surplus += cut - self.permits.forget_permits(cut);
        }
        until - now
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JIT: &str = "generate_jit_config";
    const LIST: &str = "list_runners";

    fn wait(result: Result<Permit<'_>, GitHubError>) -> Duration {
        match result {
            Ok(_) => Duration::ZERO,
            Err(GitHubError::RateLimited { retry_after, .. }) => retry_after,
            Err(other) => panic!("{other}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_admitted_before_the_limit_is_over() {
        let budget = Budget::new(4);
        let pause = budget.refused("a", JIT, "core", Some(Duration::from_secs(7)), "slow down");
        assert_eq!(pause, Duration::from_secs(7));
        assert_eq!(wait(budget.admit("a", LIST).await), Duration::from_secs(7));
        assert_eq!(wait(budget.admit("b", LIST).await), Duration::ZERO, "another account has limits of its own");
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(wait(budget.admit("a", JIT).await), Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(wait(budget.admit("a", JIT).await), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_on_registrations_leaves_reading_free() {
        let budget = Budget::new(4);
        budget.refused("a", JIT, "actions_runner_registration", Some(Duration::from_secs(300)), "");
        assert_eq!(wait(budget.admit("a", JIT).await), Duration::from_secs(300));
        assert_eq!(wait(budget.admit("a", LIST).await), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_without_a_time_wait_ever_longer_until_github_answers() {
        let budget = Budget::new(4);
        let refuse = || budget.refused("a", JIT, "core", None, "");
        assert_eq!(refuse(), Duration::from_secs(60));
        assert_eq!(refuse(), Duration::from_secs(60), "a call that was under way does not count again");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(refuse(), Duration::from_secs(120));
        for _ in 0..9 {
            tokio::time::advance(PAUSE_MAX).await;
            refuse();
        }
        assert_eq!(refuse(), PAUSE_MAX);
        tokio::time::advance(PAUSE_MAX).await;
        budget.answered("a", JIT);
        assert_eq!(refuse(), Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn concurrency_grows_with_answers_and_halves_with_a_refusal() {
        let budget = Budget::new(32);
        assert_eq!(budget.permits.available_permits(), START);
        for _ in 0..100 {
            budget.answered("a", JIT);
        }
        assert_eq!(budget.permits.available_permits(), 32);
        let mut held = Vec::new();
        for _ in 0..32 {
            held.push(budget.admit("a", JIT).await.unwrap_or_else(|error| panic!("{error}")));
        }
        budget.refused("a", JIT, "core", Some(Duration::from_secs(1)), "");
        held.clear();
        assert_eq!(budget.permits.available_permits(), 16, "permits given out before do not come back");
    }
}
