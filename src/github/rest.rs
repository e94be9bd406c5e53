//! Calls as somebody: authorized, in JSON, in pages.

use actors::model::settings::Scope;
use actors::port::GitHubError;
use http::Method;
use serde::Serialize;

use super::answer::Answer;
use super::auth::{Auth, Whom};
use super::transport::{Call, Transport};
use super::wire::{Page, scope_path};

/// Entries per page; GitHub's maximum.
const PER_PAGE: usize = 100;
/// Pages that one listing may have, and entries on all of them together: nothing says that a page holds no more than
/// it was asked for.
const PAGES_MAX: usize = 1000;
const ENTRIES_MAX: usize = PER_PAGE * PAGES_MAX;

/// GitHub, as seen by one credential.
pub(super) struct Rest {
    pub(super) transport: Transport,
    pub(super) auth: Auth,
}

/// A call about a scope.
pub(super) struct Scoped<'a> {
    /// The port's method, for metrics.
    pub(super) operation: &'static str,
    pub(super) scope: &'a Scope,
}

/// What a listing held.
pub(super) struct Listing<T> {
    pub(super) items: Vec<T>,
    /// Whether the number of entries was the same on each of its pages.
    pub(super) steady: bool,
}

impl Rest {
    /// Asks for what is at `path` below the scope.
    pub(super) async fn get(&self, about: &Scoped<'_>, path: &str) -> Result<Answer, GitHubError> {
        self.below(about, Method::GET, path, String::new(), &[]).await
    }

    /// Deletes what is at `path` below the scope. `answers` are statuses that are answers beside 2xx.
    pub(super) async fn delete(
        &self,
        about: &Scoped<'_>,
        path: &str,
        answers: &'static [u16],
    ) -> Result<Answer, GitHubError> {
        self.below(about, Method::DELETE, path, String::new(), answers).await
    }

    /// Sends `body` to `path` below the scope.
    pub(super) async fn send(
        &self,
        about: &Scoped<'_>,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer, GitHubError> {
        let body =
            serde_json::to_string(body).map_err(|error| GitHubError::Invalid(format!("{method} {path}: {error}")))?;
        self.below(about, method, path, body, &[]).await
    }

    /// Every page of the listing at `path` below the scope.
    pub(super) async fn list<P: Page>(&self, about: &Scoped<'_>, path: &str) -> Result<Listing<P::Item>, GitHubError> {
        self.list_until::<P>(about, path, |_| false).await
    }

    /// The pages of the listing at `path` (with a query or none) below the scope, until `enough` says of all that was
    /// read that it is.
    pub(super) async fn list_until<P: Page>(
        &self,
        about: &Scoped<'_>,
        path: &str,
        enough: impl Fn(&[P::Item]) -> bool,
    ) -> Result<Listing<P::Item>, GitHubError> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let first = format!("{}{path}{separator}per_page={PER_PAGE}", scope_path(about.scope));
        // A search for one name is asked once: there is nothing to know again.
        let kept = !path.contains("?name=");
        let mut next = Some(first.clone());
        let mut listing = Listing { items: Vec::new(), steady: true };
        let mut total = None;
        for page in 0..PAGES_MAX {
            let Some(path) = next else { return Ok(listing) };
            let call =
                Call { operation: about.operation, method: Method::GET, path, body: String::new(), answers: &[], kept };
            let answer = self.call(Whom::Scope(about.scope), &call).await?;
            next = answer.next();
            let answer: P = answer.json()?;
            listing.steady &= page == 0 || total == answer.total();
            total = answer.total();
            listing.items.extend(answer.items());
            if enough(&listing.items) {
                return Ok(listing);
            }
            if listing.items.len() > ENTRIES_MAX {
                return Err(GitHubError::Unknown(format!("GET {first} has more than {ENTRIES_MAX} entries")));
            }
        }
        Err(GitHubError::Unknown(format!("GET {first} has more than {PAGES_MAX} pages")))
    }

    async fn below(
        &self,
        about: &Scoped<'_>,
        method: Method,
        path: &str,
        body: String,
        answers: &'static [u16],
    ) -> Result<Answer, GitHubError> {
        let path = format!("{}{path}", scope_path(about.scope));
        let call = Call { operation: about.operation, method, path, body, answers, kept: false };
        self.call(Whom::Scope(about.scope), &call).await
    }

    /// Sends `call` as `whom`. A refused installation token or a JWT that was refused for its time is made anew once:
    /// GitHub did nothing, and the token may have been revoked early.
    pub(super) async fn call(&self, whom: Whom<'_>, call: &Call) -> Result<Answer, GitHubError> {
        let authorization = self.auth.authorize(&self.transport, whom).await?;
        let result = match self.transport.call(call, &authorization).await {
            Err(GitHubError::Unauthorized(text)) if self.auth.renew(&authorization, &text).await => {
                let authorization = self.auth.authorize(&self.transport, whom).await?;
                self.transport.call(call, &authorization).await
            }
            result => result,
        };
        result.map_err(|error| self.auth.explain(error, whom, self.transport.skew()))
    }
}
