//! GitHub's REST API through octocrab.

mod answer;
mod auth;
mod connect;
mod gateway;
mod job;
mod limits;
mod pages;
mod places;
mod probe;
mod records;
mod rest;
mod runner_group;
mod single_flight;
mod transport;
mod wire;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actors::id::{RunnerGroupId, RunnerId, RunnerName};
use actors::model::report::one_line;
use actors::model::secret::Secret;
use actors::model::settings::{Arch, GroupSettings, Os, Scope};
use actors::port::github::{
    Budget, Deregistered, Download, JitRequest, Registration, RemoteRunner, RunnerGroup, RunnerGroupRemoval,
};
use actors::port::{GitHub, GitHubError, Observer};
use async_trait::async_trait;
use http::Method;
use thiserror::Error;
use tokio::time::Instant;

pub use probe::Rights;
use rest::{Rest, Scoped};
pub use runner_group::RunnerGroupState;
use single_flight::SingleFlight;

/// How long the list of runner downloads is kept.
const DOWNLOADS_KEPT: Duration = Duration::from_secs(3600);
/// How often a listing that changed while it was read is read.
const READS_MAX: usize = 3;
/// Where a runner works, relative to its own directory.
const WORK_FOLDER: &str = "_work";

/// How GitHub is reached.
#[derive(Debug)]
pub struct Settings {
    /// `https://api.github.com`, or `https://host/api/v3` of a GitHub Enterprise Server. `http` works as well.
    pub base_url: String,
    /// As whom.
    pub credential: Credential,
    /// Name of the credential in metrics and in [`Client::budget`]. Default `token` or `app`.
    pub name: String,
    /// Longest time from sending a request until its answer is read; reading that is repeated takes twice this at most.
    /// Default 30 s.
    pub request_timeout: Duration,
    /// Pause before reading is repeated, which happens twice at most; twice as long the second time, and up to half of
    /// it is left to chance. Default 500 ms.
    pub retry_pause: Duration,
    /// Longest time for a TCP connection to be made, within `request_timeout`. Default 10 s.
    pub connect_timeout: Duration,
    /// The `User-Agent` header, which GitHub demands. Default `runner-manager/<version>`.
    pub user_agent: String,
    /// Calls that may run at once, at least 1. Default 32.
    pub max_concurrency: usize,
}

impl Settings {
    /// Defaults for all but the address and the credential.
    #[must_use]
    pub fn new(base_url: impl Into<String>, credential: Credential) -> Self {
        Self {
            base_url: base_url.into(),
            name: credential.name().to_owned(),
            credential,
            request_timeout: Duration::from_secs(30),
            retry_pause: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(10),
            user_agent: concat!("runner-manager/", env!("CARGO_PKG_VERSION")).to_owned(),
            max_concurrency: 32,
        }
    }
}

/// What GitHub is shown.
#[derive(Debug)]
pub enum Credential {
    /// A personal access token.
    Token(Secret),
    /// A GitHub App; it acts through its installations.
    App {
        /// The App's id.
        app_id: u64,
        /// Its RSA key, PEM text; line ends may be spelt `\n`.
        private_key: Secret,
        /// The installation to act through. None: the one of the organization or of the repository's owner, looked
        /// up when it is first needed; an enterprise needs it to be given.
        installation_id: Option<u64>,
    },
}

impl Credential {
    /// `token` or `app`, the name in metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::App { .. } => "app",
        }
    }
}

/// Settings that GitHub cannot be reached with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidSettings {
    /// The base URL.
    #[error("invalid GitHub base URL {value:?}: {why}")]
    BaseUrl {
        /// The value.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The token.
    #[error("invalid GitHub token: it is empty, or has characters that no token has")]
    Token,
    /// The App's key.
    #[error("invalid GitHub App key: it is not an RSA private key in PEM form")]
    PrivateKey,
    /// The user agent.
    #[error("invalid user agent {0:?}: it has characters that a header cannot have")]
    UserAgent(String),
    /// The system's certificate authorities.
    #[error("TLS is not possible: {0}")]
    Tls(String),
}

/// The adapter of the ports [`GitHub`] and [`Records`](actors::port::github::Records), for one credential: all its calls
/// pass one gate. It repeats only reading: else the caller decides on the error's type. While a limit of GitHub's
/// lasts, calls fail at once and nothing is sent.
pub struct Client {
    rest: Rest,
    repositories: records::Repositories,
    downloads: Mutex<HashMap<Scope, Arc<SingleFlight<Downloads>>>>,
    runner_groups: runner_group::RunnerGroups,
    without_groups: Mutex<HashSet<Scope>>,
}

#[derive(Clone)]
struct Downloads {
    at: Instant,
    offered: Arc<Vec<wire::Download>>,
}

impl Client {
    /// Prepares the client; sends nothing. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// [`InvalidSettings`] that names the wrong setting.
    pub fn new(settings: Settings, observer: Arc<dyn Observer>) -> Result<Self, InvalidSettings> {
        let auth = auth::Auth::new(&settings.credential)?;
        let transport = transport::Transport::new(&settings, observer)?;
        Ok(Self {
            rest: Rest { transport, auth },
            repositories: records::Repositories::default(),
            downloads: Mutex::default(),
            runner_groups: runner_group::RunnerGroups::default(),
            without_groups: Mutex::default(),
        })
    }

    /// What may still be asked of GitHub, and what keeps it from being asked.
    #[must_use]
    pub fn budget(&self) -> Budget {
        self.rest.transport.budget()
    }

    fn downloads(&self, scope: &Scope) -> Arc<SingleFlight<Downloads>> {
        let mut downloads = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(downloads.entry(scope.clone()).or_default())
    }

    fn warn_once(&self, scope: &Scope) {
        let mut warned = self.without_groups.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.insert(scope.clone()) {
            tracing::warn!(%scope, "GitHub has no runner groups here: runners join the default group, whose access rules are set at GitHub");
        }
    }
}

#[async_trait]
impl GitHub for Client {
    async fn ensure_runner_group(
        &self,
        group: &GroupSettings,
        last: Option<RunnerGroupId>,
    ) -> Result<RunnerGroup, GitHubError> {
        let joined = self.runner_groups.ensure(&self.rest, group, last).await?;
        if joined.id == runner_group::DEFAULT && !matches!(group.scope, Scope::Repository { .. }) {
            self.warn_once(&group.scope);
        }
        Ok(joined)
    }

    async fn delete_runner_group(
        &self,
        group: &GroupSettings,
        last: Option<RunnerGroupId>,
    ) -> Result<RunnerGroupRemoval, GitHubError> {
        self.runner_groups.delete(&self.rest, group, last).await
    }

    async fn generate_jit_config(&self, request: &JitRequest) -> Result<Registration, GitHubError> {
        let about = Scoped { operation: "generate_jit_config", scope: &request.scope };
        let body = wire::JitConfigRequest {
            name: request.name.as_str(),
            runner_group_id: request.runner_group.0,
            labels: &request.labels,
            work_folder: WORK_FOLDER,
        };
        let answer = self.rest.send(&about, Method::POST, "/actions/runners/generate-jitconfig", &body).await;
        if let Err(GitHubError::NotFound(_)) = answer {
            // Its runner group may be gone.
            self.runner_groups.forget(&request.scope).await;
        }
        let answer = answer?;
        let config: wire::JitConfig = answer.json()?;
        if config.encoded_jit_config.expose().is_empty() {
            return Err(GitHubError::Unknown(format!("{} with an empty JIT config", answer.describe())));
        }
        Ok(Registration { id: RunnerId(config.runner.id), jit_config: config.encoded_jit_config })
    }

    /// Runners that go while the pages are read move later ones up, past the page that is read next. So a listing
    /// whose size changed is read again, and what any of the reads saw is returned.
    async fn list_runners(&self, scope: &Scope) -> Result<Vec<RemoteRunner>, GitHubError> {
        let about = Scoped { operation: "list_runners", scope };
        let mut runners = BTreeMap::new();
        for _ in 0..READS_MAX {
            let listing = self.rest.list::<wire::Runners>(&about, "/actions/runners").await?;
            runners.extend(listing.items.into_iter().map(|runner| (runner.id, RemoteRunner::from(runner))));
            if listing.steady {
                break;
            }
        }
        Ok(runners.into_values().collect())
    }

    async fn find_runner(&self, scope: &Scope, name: &RunnerName) -> Result<Option<RemoteRunner>, GitHubError> {
        let about = Scoped { operation: "find_runner", scope };
        let wanted = |runner: &wire::Runner| runner.name == name.as_str();
        let path = format!("/actions/runners?name={name}");
        let found = |runners: &[wire::Runner]| runners.iter().any(wanted);
        let listing = self.rest.list_until::<wire::Runners>(&about, &path, found).await?;
        Ok(listing.items.into_iter().find(wanted).map(RemoteRunner::from))
    }

    async fn delete_runner(&self, scope: &Scope, id: RunnerId) -> Result<Deregistered, GitHubError> {
        let about = Scoped { operation: "delete_runner", scope };
        let answer = self.rest.delete(&about, &format!("/actions/runners/{id}"), &[404, 422]).await?;
        Ok(match answer.status.as_u16() {
            404 => Deregistered::Absent,
            422 => Deregistered::Busy,
            _ => Deregistered::Removed,
        })
    }

    async fn runner_download(&self, scope: &Scope, os: Os, arch: Arch) -> Result<Download, GitHubError> {
        let fetch = async |_| {
            let about = Scoped { operation: "runner_download", scope };
            let offered = self.rest.get(&about, "/actions/runners/downloads").await?.json()?;
            Ok(Downloads { at: Instant::now(), offered: Arc::new(offered) })
        };
        let fresh = |downloads: &Downloads| downloads.at.elapsed() < DOWNLOADS_KEPT;
        let downloads = self.downloads(scope).get(fresh, fetch).await?;
        let (os, arch) = (os.download_name(), arch.label());
        let mut offered = downloads.offered.iter();
        let found = offered.find(|offered| offered.os == os && offered.architecture == arch);
        let download = |found: &wire::Download| Download {
            url: found.download_url.clone(),
            filename: found.filename.clone(),
            sha256: found.sha256_checksum.clone(),
        };
        found.map(download).ok_or_else(|| {
            let offered = downloads.offered.iter().map(|offered| format!("{}/{}", offered.os, offered.architecture));
            let offered = one_line(&offered.collect::<Vec<_>>().join(", "), 300);
            GitHubError::Invalid(format!("GitHub offers no runner for {os}/{arch} in {scope}, but for {offered}"))
        })
    }
}
