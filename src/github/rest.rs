//! Calls about one scope: authorized, in JSON, in pages.

use actors::model::settings::Scope;
use actors::port::GitHubError;
use http::Method;
use serde::Serialize;

use super::answer::Answer;
use super::auth::Auth;
use super::transport::{Call, Transport};
use super::wire::{Page, scope_path};

/// Entries per page; GitHub's maximum.
const PER_PAGE: usize = 100;
/// Pages that one listing may have.
const PAGES_MAX: usize = 1000;

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
        self.call(about, Method::GET, path, String::new(), &[]).await
    }

    /// Deletes what is at `path` below the scope. `answers` are statuses that are answers beside 2xx.
    pub(super) async fn delete(
        &self,
        about: &Scoped<'_>,
        path: &str,
        answers: &'static [u16],
    ) -> Result<Answer, GitHubError> {
        self.call(about, Method::DELETE, path, String::new(), answers).await
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
        self.call(about, method, path, body, &[]).await
    }

    /// Every page of the listing at `path` (with a query or none) below the scope, until `enough` says so.
    pub(super) async fn list<P: Page>(
        &self,
        about: &Scoped<'_>,
        path: &str,
        enough: impl Fn(&P::Item) -> bool,
    ) -> Result<Listing<P::Item>, GitHubError> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let first = format!("{}{path}{separator}per_page={PER_PAGE}", scope_path(about.scope));
        let mut next = Some(first.clone());
        let mut listing = Listing { items: Vec::new(), steady: true };
        let mut total = None;
        for page in 0..PAGES_MAX {
            let Some(path) = next else { return Ok(listing) };
            let answer = self.authorized(about, Method::GET, path, String::new(), &[]).await?;
            next = answer.next();
            let answer: P = answer.json()?;
            listing.steady &= page == 0 || total == answer.total();
            total = answer.total();
            listing.items.extend(answer.items());
            if listing.items.iter().any(&enough) {
                return Ok(listing);
            }
        }
        Err(GitHubError::Unknown(format!("GET {first} has more than {PAGES_MAX} pages")))
    }

    async fn call(
        &self,
        about: &Scoped<'_>,
        method: Method,
        path: &str,
        body: String,
        answers: &'static [u16],
    ) -> Result<Answer, GitHubError> {
        self.authorized(about, method, format!("{}{path}", scope_path(about.scope)), body, answers).await
    }

    /// A refused installation token is renewed once: GitHub did nothing, and it may have been revoked early.
    async fn authorized(
        &self,
        about: &Scoped<'_>,
        method: Method,
        path: String,
        body: String,
        answers: &'static [u16],
    ) -> Result<Answer, GitHubError> {
        let call = Call { operation: about.operation, method, path, body, answers };
        let authorization = self.auth.authorize(&self.transport, about.scope).await?;
        match self.transport.call(&call, &authorization).await {
            Err(GitHubError::Unauthorized(_)) if self.auth.renew(&authorization).await => {
                let authorization = self.auth.authorize(&self.transport, about.scope).await?;
                self.transport.call(&call, &authorization).await
            }
            result => result,
        }
    }
}
