//! What GitHub remembers: jobs as they are now, and the deliveries that a hook sent.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use actors::id::{DeliveryId, JobId};
use actors::model::delivery::{JobAction, JobEvent};
use actors::model::settings::Scope;
use actors::port::GitHubError;
use actors::port::github::{Asker, Hook, Records, RepositoryName, Sent, SentDelivery};
use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::Instant;

use super::Client;
use super::answer::Answer;
use super::auth::Whom;
use super::job::{Job, Repository};
use super::rest::Scoped;
use super::transport::Call;
use super::wire::{self, scope_path};

/// Statuses of runs that are not over.
const OPEN: [&str; 5] = ["queued", "in_progress", "waiting", "requested", "pending"];
/// GitHub shows no more runs of one status.
const RUNS_MAX: usize = 1000;
/// Runs that one reconciliation looks into at once.
const RUNS_AT_ONCE: usize = 4;
/// Entries per page; GitHub's maximum.
const PER_PAGE: usize = 100;
/// Pages of hooks that are looked at: an owner has 250 hooks at most, 20 for each event.
const HOOK_PAGES_MAX: usize = 5;
/// How long a repository's facts are kept, and of how many.
const REPOSITORIES_KEPT: (Duration, usize) = (Duration::from_secs(3600), 10_000);

/// What is known of repositories: a job's answer does not tell.
#[derive(Default)]
pub(super) struct Repositories(Mutex<HashMap<RepositoryName, (Instant, Repository)>>);

impl Repositories {
    fn get(&self, name: &RepositoryName) -> Option<Repository> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, repository) = known.get(name).filter(|(at, _)| at.elapsed() < REPOSITORIES_KEPT.0)?;
        Some(repository.clone())
    }

    fn keep(&self, name: &RepositoryName, repository: &Repository) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REPOSITORIES_KEPT.1 {
            known.clear();
        }
        known.insert(name.clone(), (Instant::now(), repository.clone()));
    }
}

#[derive(Deserialize)]
pub(super) struct Run {
    id: u64,
    repository: Repository,
}

#[derive(Deserialize)]
struct HookConfig {
    #[serde(default)]
    url: Option<String>,
}

#[derive(Deserialize)]
struct ListedHook {
    id: u64,
    #[serde(default)]
    config: Option<HookConfig>,
}

#[derive(Deserialize)]
struct Attempt {
    id: u64,
    guid: String,
    delivered_at: Timestamp,
    #[serde(default)]
    status_code: u16,
    #[serde(default)]
    event: String,
    #[serde(default)]
    action: Option<String>,
}

impl Client {
    async fn ask(
        &self,
        operation: &'static str,
        whom: Whom<'_>,
        method: Method,
        path: String,
    ) -> Result<Answer, GitHubError> {
        let call = Call { operation, method, path, body: String::new(), answers: &[], kept: false };
        self.rest.call(whom, &call).await
    }

    async fn repository_of(
        &self,
        about: &Scoped<'_>,
        name: &RepositoryName,
        run: u64,
    ) -> Result<Repository, GitHubError> {
        if let Some(repository) = self.repositories.get(name) {
            return Ok(repository);
        }
        let run: Run = self.rest.get(about, &format!("/actions/runs/{run}")).await?.json()?;
        self.repositories.keep(name, &run.repository);
        Ok(run.repository)
    }

    /// The hooks of `owner` whose address ends with `address`; none where they cannot be seen.
    async fn hooks_of(&self, owner: &Scope, address: &str) -> Result<Option<Hook>, GitHubError> {
        let first = format!("{}/hooks?per_page={PER_PAGE}", scope_path(owner));
        let mut next = Some(first);
        let mut found = Vec::new();
        for _ in 0..HOOK_PAGES_MAX {
            let Some(path) = next else { break };
            let answer = match self.ask("hook", Whom::Scope(owner), Method::GET, path).await {
                Err(GitHubError::NotFound(_) | GitHubError::Forbidden(_)) => return Ok(None),
                answer => answer?,
            };
            next = answer.next();
            let hooks: Vec<ListedHook> = answer.json()?;
            let fitting = hooks.into_iter().filter(|hook| hook.config.as_ref().is_some_and(|c| c.fits(address)));
            found.extend(fitting.map(|hook| hook.id));
        }
        match found[..] {
            [] => Ok(None),
            [id] => Ok(Some(Hook::Of { scope: owner.clone(), id })),
            _ => Err(GitHubError::Invalid(format!(
                "{} hooks of {owner} have an address that ends with {address:?}: it must be told which one is meant",
                found.len()
            ))),
        }
    }
}

impl HookConfig {
    fn fits(&self, address: &str) -> bool {
        let address = address.trim_end_matches('/');
        self.url.as_ref().is_some_and(|url| !address.is_empty() && url.trim_end_matches('/').ends_with(address))
    }
}

fn scope_of(repository: &RepositoryName) -> Scope {
    Scope::Repository { owner: repository.owner.clone(), name: repository.name.clone() }
}

fn history(hook: &Hook) -> (String, Whom<'_>) {
    match hook {
        Hook::App { .. } => ("/app/hook/deliveries".to_owned(), Whom::App),
        Hook::Of { scope, id } => (format!("{}/hooks/{id}/deliveries", scope_path(scope)), Whom::Scope(scope)),
    }
}

#[async_trait]
impl Records for Client {
    async fn job(
        &self,
        asker: &Asker,
        repository: &RepositoryName,
        id: JobId,
    ) -> Result<Option<JobEvent>, GitHubError> {
        let place = scope_of(repository);
        let about = Scoped { operation: "job", scope: &place };
        let answer = match self.rest.get(&about, &format!("/actions/jobs/{id}")).await {
            Err(GitHubError::NotFound(_)) => {
                // Whether it is the job or its repository that is not there.
                self.rest.get(&about, "/actions/runs?per_page=1").await?;
                return Ok(None);
            }
            answer => answer?,
        };
        let job: Job = answer.json()?;
        let found = self.repository_of(&about, repository, job.run_id).await?;
        Ok(Some(job.into_event(&found, &asker.scope)))
    }

    /// A run's status hides those of its jobs, so each run that is not over is looked into. Runs that are over
    /// meanwhile bring nothing.
    async fn open_jobs(
        &self,
        asker: &Asker,
        repository: &RepositoryName,
        runs_max: usize,
    ) -> Result<Vec<JobEvent>, GitHubError> {
        let place = scope_of(repository);
        let about = Scoped { operation: "open_jobs", scope: &place };
        let most = runs_max.min(RUNS_MAX);
        let mut runs = BTreeMap::new();
        for status in OPEN {
            let path = format!("/actions/runs?status={status}");
            let listing = self.rest.list_until::<wire::Runs>(&about, &path, |runs| runs.len() >= most).await?;
            runs.extend(listing.items.into_iter().take(most).map(|run| (run.id, run.repository)));
        }
        let about = &about;
        let look = |(run, found): (u64, Repository)| async move {
            self.repositories.keep(repository, &found);
            let path = format!("/actions/runs/{run}/jobs?filter=latest");
            let listing = match self.rest.list::<wire::Jobs>(about, &path).await {
                Err(GitHubError::NotFound(_)) => return Ok(Vec::new()),
                listing => listing?,
            };
            let jobs: BTreeMap<u64, Job> = listing.items.into_iter().map(|job| (job.id, job)).collect();
            let told = jobs.into_values().map(|job| job.into_event(&found, &asker.scope));
            Ok(told.filter(|event| event.action != JobAction::Completed).collect())
        };
        let looks = stream::iter(runs).map(look).buffered(RUNS_AT_ONCE);
        let events: Vec<Vec<JobEvent>> = looks.try_collect().await?;
        Ok(events.into_iter().flatten().collect())
    }

    async fn hook(&self, asker: &Asker, address: &str) -> Result<Option<Hook>, GitHubError> {
        let Asker { credential, scope } = asker;
        if self.rest.auth.is_app() {
            match self.ask("hook", Whom::App, Method::GET, "/app/hook/config".to_owned()).await {
                Ok(answer) if answer.json::<HookConfig>()?.fits(address) => {
                    return Ok(Some(Hook::App { credential: credential.clone() }));
                }
                Ok(_) | Err(GitHubError::NotFound(_) | GitHubError::Forbidden(_)) => {}
                Err(error) => return Err(error),
            }
        }
        match scope {
            Scope::Enterprise(_) => Ok(None),
            Scope::Organization(_) => self.hooks_of(scope, address).await,
            Scope::Repository { owner, .. } => match self.hooks_of(scope, address).await? {
                Some(hook) => Ok(Some(hook)),
                None => self.hooks_of(&Scope::Organization(owner.clone()), address).await,
            },
        }
    }

    async fn deliveries(
        &self,
        _: &Asker,
        hook: &Hook,
        since: Timestamp,
        page: Option<&str>,
    ) -> Result<Sent, GitHubError> {
        let (path, whom) = history(hook);
        let path = page.map_or_else(|| format!("{path}?per_page={PER_PAGE}"), str::to_owned);
        let answer = self.ask("deliveries", whom, Method::GET, path).await?;
        let next = answer.next();
        let attempts: Vec<Attempt> = answer.json()?;
        let all_since = attempts.iter().all(|attempt| attempt.delivered_at >= since);
        let attempts = attempts.into_iter().filter(|attempt| attempt.delivered_at >= since);
        let sent = attempts.filter_map(|attempt| {
            Some(SentDelivery {
                id: attempt.id,
                guid: DeliveryId::new(attempt.guid).ok()?,
                at: attempt.delivered_at,
                delivered: (200..300).contains(&attempt.status_code),
                event: attempt.event,
                action: attempt.action,
            })
        });
        Ok(Sent { deliveries: sent.collect(), next: next.filter(|_| all_since) })
    }

    async fn redeliver(&self, _: &Asker, hook: &Hook, delivery: u64) -> Result<(), GitHubError> {
        let (path, whom) = history(hook);
        self.ask("redeliver", whom, Method::POST, format!("{path}/{delivery}/attempts")).await?;
        Ok(())
    }
}
