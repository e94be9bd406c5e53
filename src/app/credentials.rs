//! One client of GitHub for each credential, and the listings that the groups of a credential share.

use std::collections::BTreeMap;
use std::sync::Arc;

use actors::actor::listings::Listings;
use actors::id::JobId;
use actors::model::delivery::JobEvent;
use actors::model::settings::Scope;
use actors::port::github::{Budget, Hook, Records, RepositoryName, Sent};
use actors::port::{Clock, GitHubError, Observer};
use async_trait::async_trait;
use jiff::Timestamp;

use super::StartError;
use crate::config::{Config, CredentialConfig, GitHubCredential};
use crate::github::{Client, Credential, Settings};

/// A credential at work.
pub(super) struct Access {
    /// Its name.
    pub(super) name: String,
    /// The way to GitHub.
    pub(super) client: Arc<Client>,
    /// What its groups see of GitHub's runners.
    pub(super) listings: Arc<Listings>,
}

/// All credentials of the configuration, in its order.
#[derive(Clone)]
pub(super) struct Accesses(Arc<Vec<Access>>);

impl Accesses {
    /// Prepares them; sends nothing.
    pub(super) fn new(
        config: &Config,
        observer: &Arc<dyn Observer>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let open = |credential: &CredentialConfig| {
            let client = Arc::new(client(settings(credential), &credential.name, observer)?);
            let listings = Arc::new(Listings::new(client.clone(), Arc::clone(clock)));
            Ok(Access { name: credential.name.clone(), client, listings })
        };
        let all: Vec<Access> = config.github_credentials.iter().map(open).collect::<Result<_, StartError>>()?;
        Ok(Self(Arc::new(all)))
    }

    /// That of this name. The configuration was checked: it is there.
    pub(super) fn get(&self, name: &str) -> Result<&Access, StartError> {
        let found = self.0.iter().find(|access| access.name == name);
        found.ok_or_else(|| StartError::Config(format!("there is no GitHub credential {name:?}")))
    }

    /// The first one.
    pub(super) fn first(&self) -> Result<&Access, StartError> {
        self.0.first().ok_or_else(|| StartError::Config("there is no GitHub credential".to_owned()))
    }

    /// What GitHub remembers, asked with the credential of the groups of each scope.
    pub(super) fn records(&self, config: &Config) -> Result<Arc<dyn Records>, StartError> {
        let mut by_scope = BTreeMap::new();
        for group in &config.groups {
            let client = &self.get(&group.github_credential)?.client;
            by_scope.entry(group.settings.scope.clone()).or_insert_with(|| Arc::clone(client));
        }
        let app = config.github_credentials.iter().position(|c| matches!(c.credential, GitHubCredential::App { .. }));
        let access = app.and_then(|n| self.0.get(n)).map_or_else(|| self.first(), Ok)?;
        Ok(Arc::new(ByScope { by_scope, app: Arc::clone(&access.client) }))
    }

    /// What may still be asked of GitHub with each.
    pub(super) fn budgets(&self) -> Vec<Budget> {
        self.0.iter().map(|access| access.client.budget()).collect()
    }
}

/// How GitHub is reached with a credential.
pub(super) fn settings(config: &CredentialConfig) -> Settings {
    let credential = match &config.credential {
        GitHubCredential::Token(token) => Credential::Token(token.duplicate()),
        GitHubCredential::App { app_id, private_key, installation_id } => {
            Credential::App { app_id: *app_id, private_key: private_key.duplicate(), installation_id: *installation_id }
        }
    };
    Settings { name: config.name.clone(), ..Settings::new(&config.base_url, credential) }
}

/// The client of the credential of this name.
pub(super) fn client(settings: Settings, name: &str, observer: &Arc<dyn Observer>) -> Result<Client, StartError> {
    Client::new(settings, Arc::clone(observer))
        .map_err(|error| StartError::Config(format!("GitHub credential {name:?}: {error}")))
}

/// [`Records`] of all credentials.
struct ByScope {
    by_scope: BTreeMap<Scope, Arc<Client>>,
    /// That of the first App, whose hook [`Hook::App`] is taken for.
    app: Arc<Client>,
}

impl ByScope {
    fn of(&self, scope: &Scope) -> &Client {
        self.by_scope.get(scope).unwrap_or(&self.app)
    }

    fn of_hook(&self, hook: &Hook) -> &Client {
        match hook {
            Hook::App => &self.app,
            Hook::Of { scope, .. } => self.of(scope),
        }
    }
}

#[async_trait]
impl Records for ByScope {
    async fn job(&self, scope: &Scope, at: &RepositoryName, id: JobId) -> Result<Option<JobEvent>, GitHubError> {
        self.of(scope).job(scope, at, id).await
    }

    async fn open_jobs(&self, scope: &Scope, at: &RepositoryName, runs: usize) -> Result<Vec<JobEvent>, GitHubError> {
        self.of(scope).open_jobs(scope, at, runs).await
    }

    async fn hook(&self, scope: &Scope, address: &str) -> Result<Option<Hook>, GitHubError> {
        self.of(scope).hook(scope, address).await
    }

    async fn deliveries(&self, hook: &Hook, since: Timestamp, page: Option<&str>) -> Result<Sent, GitHubError> {
        self.of_hook(hook).deliveries(hook, since, page).await
    }

    async fn redeliver(&self, hook: &Hook, delivery: u64) -> Result<(), GitHubError> {
        self.of_hook(hook).redeliver(hook, delivery).await
    }
}
