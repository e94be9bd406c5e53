//! GitHub's limits: what is left of them, for whom the rest is kept, and that nothing is asked before one is over.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actors::port::GitHubError;
use actors::port::github::{LimitState, Paused};
use jiff::Timestamp;
use tokio::time::Instant;

use super::answer::{Left, Refusal};
use super::places::Class;

/// Shortest wait when GitHub refuses and does not say for how long. Doubles with each refusal in a row.
const PAUSE_MIN: Duration = Duration::from_secs(60);
/// Longest such wait.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// What most calls count against, and where GitHub does not tell.
pub(super) const CORE: &str = "core";

/// What GitHub said of its limits, by account and resource.
#[derive(Default)]
pub(super) struct Limits {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What is left, by account and resource.
    primary: HashMap<(String, &'static str), Primary>,
    pauses: HashMap<Key, Pause>,
    /// What each operation counted against the last time.
    resources: HashMap<&'static str, &'static str>,
}

/// What a refusal holds for: an account, and one resource of it or (none) all.
type Key = (String, Option<&'static str>);

struct Primary {
    limit: u64,
    remaining: u64,
    /// Calls that run and may count.
    in_flight: u64,
    resets: Instant,
    resets_at: Timestamp,
}

struct Pause {
    until: Instant,
    refusals: u32,
    text: String,
}

/// A call that may count against a limit, until it is dropped.
pub(super) struct Counted<'a> {
    limits: &'a Limits,
    key: (String, &'static str),
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if let Some(primary) = self.limits.state().primary.get_mut(&self.key) {
            primary.in_flight = primary.in_flight.saturating_sub(1);
        }
    }
}

impl Limits {
    /// Refuses while a limit lasts, and when the rest of one is kept for those who are more urgent than `class`.
    pub(super) fn check(&self, account: &str, operation: &'static str, class: Class) -> Result<(), GitHubError> {
        let now = Instant::now();
        let state = self.state();
        let resource = state.resource(operation);
        let pauses = [None, Some(resource)].map(|resource| state.pauses.get(&(account.to_owned(), resource)));
        let longest = pauses.into_iter().flatten().filter(|pause| pause.until > now).max_by_key(|pause| pause.until);
        if let Some(pause) = longest {
            let text = format!("not asked again before the limit is over; {}", pause.text);
            return Err(GitHubError::RateLimited { text, retry_after: pause.until - now });
        }
        let primary = state.primary.get(&(account.to_owned(), resource)).filter(|primary| primary.resets > now);
        primary.map_or(Ok(()), |primary| primary.check(resource, class, now))
    }

    /// Counts a call that begins.
    pub(super) fn begin(&self, account: &str, operation: &'static str) -> Counted<'_> {
        let mut state = self.state();
        let key = (account.to_owned(), state.resource(operation));
        if let Some(primary) = state.primary.get_mut(&key) {
            primary.in_flight += 1;
        }
        Counted { limits: self, key }
    }

    /// Takes note of what an answer says is left. Answers may overtake each other: within a window less is newer.
    pub(super) fn note(&self, account: &str, operation: &'static str, left: &Left) {
        let mut state = self.state();
        state.resources.insert(operation, left.resource);
        let (Some(limit @ 1..), Some(resets_at)) = (left.limit, left.resets_at) else { return };
        let resets = Instant::now() + left.resets_in;
        let key = (account.to_owned(), left.resource);
        match state.primary.get_mut(&key) {
            Some(known) if known.resets_at > resets_at => {}
            Some(known) if known.resets_at == resets_at => known.remaining = known.remaining.min(left.remaining),
            Some(known) => *known = Primary { limit, remaining: left.remaining, resets, resets_at, ..*known },
            None => {
                let primary = Primary { limit, remaining: left.remaining, in_flight: 0, resets, resets_at };
                state.primary.insert(key, primary);
            }
        }
    }

    /// GitHub answered: limits that are over are forgotten.
    pub(super) fn answered(&self, account: &str, operation: &'static str) {
        let now = Instant::now();
        let mut state = self.state();
        for resource in [None, Some(state.resource(operation))] {
            let key = (account.to_owned(), resource);
            if state.pauses.get(&key).is_some_and(|pause| pause.until <= now) {
                state.pauses.remove(&key);
            }
        }
    }

    /// GitHub refused with a limit. Returns how long nothing is asked, as long as it said, else a minute that doubles
    /// each time; and whether this is the first to hear of it. A limit that is used up, or one of a resource other
    /// than `core`, holds for its resource; any other for the account.
    pub(super) fn refused(
        &self,
        account: &str,
        operation: &'static str,
        resource: &'static str,
        refusal: Refusal,
        text: &str,
    ) -> (Duration, bool) {
        let now = Instant::now();
        let key = (account.to_owned(), (refusal.used_up || resource != CORE).then_some(resource));
        let mut state = self.state();
        state.resources.insert(operation, resource);
        let before = state.pauses.get(&key);
        let lasting = before.filter(|pause| pause.until > now).map(|pause| pause.until);
        let refusals = before.map_or(0, |pause| pause.refusals) + u32::from(lasting.is_none());
        let grown = PAUSE_MIN.saturating_mul(1 << refusals.saturating_sub(1).min(6)).min(PAUSE_MAX);
        let until = (now + refusal.wait.unwrap_or(grown)).max(lasting.unwrap_or(now));
        state.pauses.insert(key, Pause { until, refusals, text: text.to_owned() });
        (until - now, lasting.is_none())
    }

    /// Every limit that is known, by account and resource.
    pub(super) fn view(&self) -> Vec<LimitState> {
        let now = Instant::now();
        let state = self.state();
        let mut rows: BTreeMap<(&str, &'static str), LimitState> = BTreeMap::new();
        let row = |account: &str, resource: &'static str| LimitState {
            account: account.to_owned(),
            resource,
            limit: None,
            remaining: None,
            resets_at: None,
            paused: None,
        };
        for ((account, resource), primary) in &state.primary {
            let (limit, resets_at) = (Some(primary.limit), Some(primary.resets_at));
            let remaining = Some(if primary.resets > now { primary.remaining } else { primary.limit });
            let known = LimitState { limit, remaining, resets_at, ..row(account, resource) };
            rows.insert((account, resource), known);
        }
        for (account, resource) in state.pauses.keys() {
            let resource = resource.unwrap_or(CORE);
            rows.entry((account, resource)).or_insert_with(|| row(account, resource));
        }
        for ((account, resource), row) in &mut rows {
            let of = |resource| state.pauses.get(&((*account).to_owned(), resource));
            let pauses = [None, Some(*resource)].into_iter().filter_map(of).filter(|pause| pause.until > now);
            row.paused = pauses
                .max_by_key(|pause| pause.until)
                .map(|pause| Paused { until: Timestamp::now() + (pause.until - now), why: pause.text.clone() });
        }
        rows.into_values().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn resource(&self, operation: &'static str) -> &'static str {
        self.resources.get(operation).copied().unwrap_or(CORE)
    }
}

impl Primary {
    fn check(&self, resource: &str, class: Class, now: Instant) -> Result<(), GitHubError> {
        let left = self.remaining.saturating_sub(self.in_flight);
        // What is not touched by those who can wait: a twentieth, a fifth.
        let kept = match class {
            Class::Runner => 0,
            Class::Listing => self.limit / 20,
            Class::Records => self.limit / 5,
        };
        if left > 0 && left >= kept {
            return Ok(());
        }
        let (limit, resets_at) = (self.limit, self.resets_at);
        let mut text = format!("{left} of {limit} calls ({resource}) are left until {resets_at}");
        if left > 0 {
            text = format!("{text}, and the last {kept} are kept for what is more urgent");
        }
        Err(GitHubError::RateLimited { text, retry_after: self.resets - now })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JIT: &str = "generate_jit_config";
    const LIST: &str = "list_runners";
    const REGISTRATION: &str = "actions_runner_registration";

    fn wait(limits: &Limits, account: &str, operation: &'static str, class: Class) -> u64 {
        match limits.check(account, operation, class) {
            Ok(()) => 0,
            Err(GitHubError::RateLimited { retry_after, .. }) => retry_after.as_secs(),
            Err(other) => panic!("{other}"),
        }
    }

    fn said(seconds: u64) -> Refusal {
        Refusal { wait: Some(Duration::from_secs(seconds)), used_up: false }
    }

    fn left(resource: &'static str, remaining: u64, resets_in: u64) -> Left {
        let resets_at = Timestamp::from_second(1_700_000_000 + i64::try_from(resets_in).unwrap()).ok();
        Left { resource, limit: Some(1000), remaining, resets_at, resets_in: Duration::from_secs(resets_in) }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_admitted_before_a_limit_is_over() {
        let limits = Limits::default();
        assert_eq!(limits.refused("a", JIT, CORE, said(7), "slow down"), (Duration::from_secs(7), true));
        assert_eq!(wait(&limits, "a", LIST, Class::Listing), 7);
        assert_eq!(wait(&limits, "b", LIST, Class::Listing), 0, "another account has limits of its own");
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(wait(&limits, "a", JIT, Class::Runner), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(wait(&limits, "a", JIT, Class::Runner), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_on_registrations_leaves_reading_free_and_one_that_is_used_up_leaves_the_others() {
        let limits = Limits::default();
        limits.refused("a", JIT, REGISTRATION, said(300), "");
        assert_eq!(wait(&limits, "a", JIT, Class::Runner), 300);
        assert_eq!(wait(&limits, "a", LIST, Class::Listing), 0);
        let limits = Limits::default();
        limits.note("a", JIT, &left(REGISTRATION, 500, 60));
        limits.refused("a", LIST, CORE, Refusal { used_up: true, ..said(50) }, "");
        assert_eq!(wait(&limits, "a", LIST, Class::Listing), 50);
        assert_eq!(wait(&limits, "a", JIT, Class::Runner), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_without_a_time_wait_ever_longer_until_github_answers() {
        let limits = Limits::default();
        let refuse = || {
            let (pause, first) = limits.refused("a", JIT, CORE, Refusal { wait: None, used_up: false }, "");
            (pause.as_secs(), first)
        };
        assert_eq!(refuse(), (60, true));
        assert_eq!(refuse(), (60, false), "a call that was under way does not count again");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(refuse(), (120, true));
        for _ in 0..9 {
            tokio::time::advance(PAUSE_MAX).await;
            refuse();
        }
        assert_eq!(refuse(), (3600, false));
        tokio::time::advance(PAUSE_MAX).await;
        limits.answered("a", JIT);
        assert_eq!(refuse(), (60, true));
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_limit_is_kept_for_the_urgent_until_it_starts_anew() {
        let limits = Limits::default();
        let waits = || [Class::Runner, Class::Listing, Class::Records].map(|class| wait(&limits, "a", LIST, class));
        for (remaining, expected) in
            [(200, [0, 0, 0]), (199, [0, 0, 90]), (50, [0, 0, 90]), (49, [0, 90, 90]), (1, [0, 90, 90]), (0, [90; 3])]
        {
            limits.note("a", LIST, &left(CORE, remaining, 90));
            assert_eq!(waits(), expected, "{remaining}");
        }
        limits.note("a", LIST, &left(CORE, 700, 90));
        assert_eq!(waits(), [90; 3], "an older answer came late");
        let error = limits.check("a", LIST, Class::Listing).unwrap_err().to_string();
        assert!(error.contains("0 of 1000 calls (core) are left until 2023-11-14T22:14:50Z"), "{error}");
        limits.note("a", LIST, &left(CORE, 49, 91));
        let error = limits.check("a", LIST, Class::Records).unwrap_err().to_string();
        assert!(error.ends_with("the last 200 are kept for what is more urgent"), "{error}");
        tokio::time::advance(Duration::from_secs(91)).await;
        assert_eq!(waits(), [0; 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_under_way_are_counted_as_if_answered() {
        let limits = Limits::default();
        limits.note("a", JIT, &left(REGISTRATION, 2, 90));
        let first = limits.begin("a", JIT);
        assert_eq!(wait(&limits, "a", JIT, Class::Runner), 0);
        let second = limits.begin("a", JIT);
        assert_eq!(wait(&limits, "a", JIT, Class::Runner), 90);
        drop(first);
        assert_eq!(wait(&limits, "a", JIT, Class::Runner), 0, "it may have cost nothing");
        drop(second);
    }

    #[tokio::test(start_paused = true)]
    async fn the_view_says_what_is_left_and_until_when_and_why_nothing_is_asked() {
        let limits = Limits::default();
        limits.note("a", JIT, &left(REGISTRATION, 300, 90));
        limits.note("a", LIST, &left(CORE, 400, 90));
        limits.refused("a", LIST, CORE, said(7), "too fast");
        limits.refused("b", LIST, CORE, said(9), "slow down");
        let view = limits.view();
        let rows: Vec<_> =
            view.iter().map(|row| (row.account.as_str(), row.resource, row.limit, row.remaining)).collect();
        let expected =
            [("a", REGISTRATION, Some(1000), Some(300)), ("a", CORE, Some(1000), Some(400)), ("b", CORE, None, None)];
        assert_eq!(rows, expected);
        let whys: Vec<_> =
            view.iter().map(|row| row.paused.as_ref().map_or("", |paused| paused.why.as_str())).collect();
        assert_eq!(whys, ["too fast", "too fast", "slow down"]);
        tokio::time::advance(Duration::from_secs(90)).await;
        assert!(limits.view().iter().all(|row| row.paused.is_none()));
        assert_eq!(limits.view()[0].remaining, Some(1000), "it started anew");
    }
}
