//! What the admin API shows of GitHub's limits. Times are RFC 3339.

use actors::port::github::{Budget, LimitState};
use poem_openapi::Object;

/// What may still be asked of GitHub with one credential.
#[derive(Debug, Clone, PartialEq, Eq, Object)]
#[oai(rename = "GitHubBudget")]
pub(super) struct BudgetView {
    /// Name of the credential.
    credential: String,
    /// Calls that may run at once; grows while GitHub answers, halves when it refuses.
    allowed: u32,
    /// Calls that run.
    running: u32,
    /// Calls that wait for a place.
    waiting: u32,
    /// GitHub's limits, as far as its answers told since this replica started.
    limits: Vec<LimitView>,
}

/// One of GitHub's limits.
#[derive(Debug, Clone, PartialEq, Eq, Object)]
#[oai(rename = "GitHubLimit")]
struct LimitView {
    /// Whose: an App's account, "(app)" for the App itself, empty for a token or an App with one installation.
    account: String,
    /// GitHub's resource, like core.
    resource: String,
    /// Calls within a window; absent when GitHub has not told.
    limit: Option<u64>,
    /// Those that are left.
    remaining: Option<u64>,
    /// When the window ends, by GitHub's clock.
    resets_at: Option<String>,
    /// Until when nothing is asked because GitHub refused.
    paused_until: Option<String>,
    /// What was asked and what GitHub said then.
    paused_why: Option<String>,
}

impl From<Budget> for BudgetView {
    fn from(budget: Budget) -> Self {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            credential: budget.credential,
            allowed: count(budget.allowed),
            running: count(budget.running),
            waiting: count(budget.waiting),
            limits: budget.limits.into_iter().map(LimitView::from).collect(),
        }
    }
}

impl From<LimitState> for LimitView {
    fn from(state: LimitState) -> Self {
        let (paused_until, paused_why) = state.paused.map(|paused| (paused.until.to_string(), paused.why)).unzip();
        Self {
            account: state.account,
            resource: state.resource.to_owned(),
            limit: state.limit,
            remaining: state.remaining,
            resets_at: state.resets_at.map(|at| at.to_string()),
            paused_until,
            paused_why,
        }
    }
}
