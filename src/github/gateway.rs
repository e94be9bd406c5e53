//! The one gate that every call of a credential passes: a place, by urgency, and no limit that forbids it.
//!
//! It is a structure behind locks that are never held across a wait, not an actor: what it promises needs no mailbox,
//! and whoever stops waiting takes nothing with them.

use std::sync::Arc;
use std::time::Duration;

use actors::port::GitHubError;
use actors::port::github::Budget;

use super::answer::{Answer, Refusal};
use super::limits::{Counted, Limits};
use super::places::{Class, Place, Places};

/// Bounds and orders the calls of one credential.
pub(super) struct Gateway {
    places: Arc<Places>,
    limits: Limits,
}

/// The right to one call.
pub(super) struct Permit<'a> {
    _counted: Counted<'a>,
    _place: Place,
}

/// How urgent an operation is.
fn class(operation: &str) -> Class {
    match operation {
        "authenticate" | "generate_jit_config" | "delete_runner" | "find_runner" | "runner_download" => Class::Runner,
        "list_runners" | "ensure_runner_group" | "delete_runner_group" => Class::Listing,
        _ => Class::Records,
    }
}

impl Gateway {
    /// At most `max` calls at once, at least one.
    pub(super) fn new(max: usize) -> Self {
        Self { places: Places::new(max), limits: Limits::default() }
    }

    /// Waits for a place; refuses at once while a limit lasts.
    pub(super) async fn admit(&self, account: &str, operation: &'static str) -> Result<Permit<'_>, GitHubError> {
        let class = class(operation);
        self.limits.check(account, operation, class)?;
        let place = self.places.take(class).await;
        // A limit may have been met meanwhile.
        self.limits.check(account, operation, class)?;
        Ok(Permit { _counted: self.limits.begin(account, operation), _place: place })
    }

    /// Takes note of what an answer says is left.
    pub(super) fn note(&self, account: &str, operation: &'static str, answer: &Answer) {
        if let Some(left) = answer.left() {
            self.limits.note(account, operation, &left);
        }
    }

    /// GitHub answered: it may be asked for more at once.
    pub(super) fn answered(&self, account: &str, operation: &'static str) {
        self.limits.answered(account, operation);
        self.places.grow();
    }

    /// GitHub refused with a limit. Returns how long nothing is asked.
    pub(super) fn refused(
        &self,
        account: &str,
        operation: &'static str,
        resource: &'static str,
        refusal: Refusal,
        text: &str,
    ) -> Duration {
        let (pause, first) = self.limits.refused(account, operation, resource, refusal, text);
        if first {
            self.places.shrink();
        }
        pause
    }

    /// What may still be asked, for people.
    pub(super) fn view(&self, credential: &str) -> Budget {
        let counts = self.places.counts();
        Budget {
            credential: credential.to_owned(),
            allowed: counts.allowed,
            running: counts.running,
            waiting: counts.waiting,
            limits: self.limits.view(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limit_holds_for_those_who_already_wait_for_a_place() {
        let gateway = Gateway::new(1);
        let permit = gateway.admit("a", "find_runner").await;
        let refuse = async {
            let refusal = Refusal { wait: Some(Duration::from_secs(7)), used_up: false };
            gateway.refused("a", "find_runner", "core", refusal, "");
            drop(permit);
        };
        let (waiting, ()) = tokio::join!(gateway.admit("a", "find_runner"), refuse);
        let Err(GitHubError::RateLimited { retry_after, .. }) = waiting else { panic!("it was admitted") };
        assert_eq!(retry_after, Duration::from_secs(7));
        assert_eq!(gateway.view("token").running, 0);
    }
}
