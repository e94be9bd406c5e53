//! What a credential may do, found out by reading alone.

use std::collections::HashMap;

use actors::model::settings::{GroupSettings, Scope};
use actors::port::GitHubError;
use http::Method;
use serde::Deserialize;

use super::auth::Whom;
use super::rest::Scoped;
use super::runner_group;
use super::transport::Call;
use super::wire::scope_path;
use super::{Client, RunnerGroupState};

/// Who asks, for metrics.
const PROBE: &str = "probe";
/// Header in which GitHub tells what a classic token may do.
const SCOPES: &str = "x-oauth-scopes";

/// What GitHub says of an App's installation.
#[derive(Deserialize)]
struct Installation {
    #[serde(default)]
    permissions: HashMap<String, String>,
}

/// What is known of the right to register runners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rights {
    /// It is there.
    Enough,
    /// It is missing; in words, what has to be given.
    Missing(String),
    /// GitHub tells nothing of it, as with fine-grained tokens.
    Unsaid,
}

impl Client {
    /// Whether GitHub accepts the credential at all.
    ///
    /// # Errors
    /// Those of GitHub.
    pub async fn probe_credential(&self) -> Result<(), GitHubError> {
        let (whom, path) = match self.rest.auth.is_app() {
            true => (Whom::App, "/app/hook/config"),
            // The scope is without meaning: a token is the same everywhere.
            false => (Whom::Scope(&Scope::Enterprise(String::new())), "/rate_limit"),
        };
        let path = path.to_owned();
        let call = Call { operation: PROBE, method: Method::GET, path, body: String::new(), answers: &[], kept: false };
        match self.rest.call(whom, &call).await {
            // An App without a webhook, a server without limits: who asks was looked at first.
            Ok(_) | Err(GitHubError::NotFound(_) | GitHubError::Forbidden(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether the runners of `scope` can be listed, and what is known of the right to register some.
    ///
    /// # Errors
    /// Those of GitHub.
    pub async fn probe_runners(&self, scope: &Scope) -> Result<Rights, GitHubError> {
        let about = Scoped { operation: PROBE, scope };
        let answer = self.rest.get(&about, "/actions/runners?per_page=1").await?;
        if !self.rest.auth.is_app() {
            return Ok(answer.text(SCOPES).map_or(Rights::Unsaid, |scopes| of_token(scope, scopes)));
        }
        let permission = match scope {
            Scope::Organization(_) => "organization_self_hosted_runners",
            Scope::Repository { .. } => "administration",
            Scope::Enterprise(_) => return Ok(Rights::Unsaid),
        };
        let installation = self.installation(scope).await?;
        Ok(match installation.permissions.get(permission).map(String::as_str) {
            Some("write" | "admin") => Rights::Enough,
            Some(_) | None => Rights::Missing(self.needed(scope).to_owned()),
        })
    }

    async fn installation(&self, scope: &Scope) -> Result<Installation, GitHubError> {
        let path = format!("{}/installation", scope_path(scope));
        let call = Call { operation: PROBE, method: Method::GET, path, body: String::new(), answers: &[], kept: false };
        self.rest.call(Whom::App, &call).await?.json()
    }

    /// Whether jobs can be read, which finds those whose webhooks were lost.
    ///
    /// # Errors
    /// Those of GitHub.
    pub async fn probe_jobs(&self, scope: &Scope) -> Result<Rights, GitHubError> {
        if !self.rest.auth.is_app() || matches!(scope, Scope::Enterprise(_)) {
            return Ok(Rights::Unsaid);
        }
        Ok(match self.installation(scope).await?.permissions.contains_key("actions") {
            true => Rights::Enough,
            false => Rights::Missing("the App's repository permission \"Actions: Read\" (actions: read)".to_owned()),
        })
    }

    /// What reading the webhooks of `scope` takes, in GitHub's words.
    #[must_use]
    pub fn needed_for_webhooks(&self, scope: &Scope) -> &'static str {
        match (scope, self.rest.auth.is_app()) {
            (Scope::Repository { .. }, true) => {
                "the App's repository permission \"Webhooks: Read\" (repository_hooks: read), unless the webhook is the \
                 App's own"
            }
            (_, true) => {
                "the App's organization permission \"Webhooks: Read\" (organization_hooks: read), unless the webhook is \
                 the App's own"
            }
            (Scope::Repository { .. }, false) => {
                "a classic token with read:repo_hook, or a fine-grained one with the repository permission \
                 \"Webhooks: Read\""
            }
            (_, false) => {
                "a classic token with admin:org_hook, or a fine-grained one with the organization permission \
                 \"Webhooks: Read\""
            }
        }
    }

    /// The runner group of `group` at GitHub; makes and changes nothing.
    ///
    /// # Errors
    /// Those of GitHub.
    pub async fn probe_runner_group(&self, group: &GroupSettings) -> Result<RunnerGroupState, GitHubError> {
        runner_group::look(&self.rest, group).await
    }

    /// What registering runners in `scope` takes, in GitHub's words.
    #[must_use]
    pub fn needed(&self, scope: &Scope) -> &'static str {
        match (scope, self.rest.auth.is_app()) {
            (Scope::Organization(_), true) => {
                "the App's organization permission \"Self-hosted runners: Read and write\" \
                 (organization_self_hosted_runners: write)"
            }
            (Scope::Repository { .. }, true) => {
                "the App's repository permission \"Administration: Read and write\" (administration: write)"
            }
            (Scope::Enterprise(_), true) => "the App's enterprise permission \"Self-hosted runners: Read and write\"",
            (Scope::Organization(_), false) => {
                "a classic token with admin:org, or a fine-grained one with the organization permission \
                 \"Self-hosted runners: Read and write\""
            }
            (Scope::Repository { .. }, false) => {
                "a classic token with repo, or a fine-grained one with the repository permission \
                 \"Administration: Read and write\""
            }
            (Scope::Enterprise(_), false) => "a classic token with manage_runners:enterprise",
        }
    }
}

/// What a classic token with these `scopes` may do.
fn of_token(scope: &Scope, scopes: &str) -> Rights {
    let enough: &[&str] = match scope {
        Scope::Organization(_) => &["admin:org"],
        Scope::Repository { .. } => &["repo"],
        Scope::Enterprise(_) => &["manage_runners:enterprise", "admin:enterprise"],
    };
    if scopes.split(',').any(|scope| enough.contains(&scope.trim())) {
        Rights::Enough
    } else {
        Rights::Missing(format!("the token's scope {}", enough.join(" or ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scopes_of_a_classic_token_are_enough_or_say_which_one_is_missing() {
        let organization = Scope::Organization("o".to_owned());
        let missing = |text: &str| Rights::Missing(text.to_owned());
        for (scope, scopes, rights) in [
            (&organization, "repo, admin:org", Rights::Enough),
            (&organization, "repo, read:org, xadmin:org", missing("the token's scope admin:org")),
            (&organization, "", missing("the token's scope admin:org")),
            (
                &Scope::Repository { owner: "o".to_owned(), name: "r".to_owned() },
                "public_repo",
                missing("the token's scope repo"),
            ),
            (&Scope::Enterprise("e".to_owned()), "manage_runners:enterprise", Rights::Enough),
        ] {
            assert_eq!(of_token(scope, scopes), rights, "{scope} {scopes:?}");
        }
    }
}
