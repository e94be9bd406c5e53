//! One client of GitHub for each credential, and the listings that the groups of a credential share.

use std::sync::Arc;

use actors::actor::listings::Listings;
use actors::id::JobId;
use actors::model::delivery::JobEvent;
use actors::port::github::{Asker, Budget, Hook, Records, RepositoryName, Sent};
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

    /// What GitHub remembers, asked with the credential that the asker names.
    pub(super) fn records(&self) -> Arc<dyn Records> {
        Arc::new(self.clone())
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

impl Accesses {
    fn of(&self, asker: &Asker) -> Result<&Client, GitHubError> {
        let none = |error: StartError| GitHubError::Invalid(error.to_string());
        self.get(&asker.credential).map(|access| &*access.client).map_err(none)
    }
}

#[async_trait]
impl Records for Accesses {
    async fn job(&self, asker: &Asker, at: &RepositoryName, id: JobId) -> Result<Option<JobEvent>, GitHubError> {
        self.of(asker)?.job(asker, at, id).await
    }

    async fn open_jobs(&self, asker: &Asker, at: &RepositoryName, runs: usize) -> Result<Vec<JobEvent>, GitHubError> {
        self.of(asker)?.open_jobs(asker, at, runs).await
    }

    async fn hook(&self, asker: &Asker, address: &str) -> Result<Option<Hook>, GitHubError> {
        self.of(asker)?.hook(asker, address).await
    }

    async fn deliveries(
        &self,
        asker: &Asker,
        hook: &Hook,
        since: Timestamp,
        page: Option<&str>,
    ) -> Result<Sent, GitHubError> {
        self.of(asker)?.deliveries(asker, hook, since, page).await
    }

    async fn redeliver(&self, asker: &Asker, hook: &Hook, delivery: u64) -> Result<(), GitHubError> {
        self.of(asker)?.redeliver(asker, hook, delivery).await
    }
}
