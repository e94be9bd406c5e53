//! `check --online`: asks GitHub, the store and the backends whether they would serve, by reading alone.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actors::model::settings::Scope;
use actors::port::github::{Asker, Budget, Records};
use actors::port::{GitHubError, Observer};
use futures_util::future::join_all;
use jiff::Timestamp;

use super::credentials::{client, settings};
use super::{StartError, backend, store};
use crate::config::{BackendSettings, Config, CredentialConfig, GroupConfig};
use crate::github::{Client, Rights, RunnerGroupState, Settings};
use crate::metrics::Metrics;
use actors::model::settings::BackendLimits;

/// Longest time for one question.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);
/// Longest time for one request to GitHub; reading that is repeated takes twice this.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(4_500);
/// Path that webhooks come to.
const WEBHOOK: &str = "/webhook";
/// How far back deliveries are looked for, as far as GitHub remembers.
const HISTORY: Duration = Duration::from_secs(3 * 24 * 3600);

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It works.
    Ok,
    /// It works, or may work; somebody should look at it.
    Warning,
    /// It does not work.
    Error,
}

/// What was found of one thing; shown as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How good it is.
    pub verdict: Verdict,
    /// What was looked at.
    pub about: String,
    /// What was found, and what to do about it.
    pub text: String,
}

impl Finding {
    fn new(verdict: Verdict, about: &str, text: impl Into<String>) -> Self {
        Self { verdict, about: about.to_owned(), text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Error => "error",
        };
        write!(f, "{verdict:<8}{}: {}", self.about, self.text)
    }
}

/// Asks everything that the configuration names, each within 10 s, and makes nothing but files of this host.
///
/// # Errors
/// [`StartError`] when the configuration cannot even be tried.
pub async fn check(config: &Config) -> Result<Vec<Finding>, StartError> {
    super::supported(config)?;
    let metrics = Arc::new(Metrics::new().map_err(|error| StartError::System(format!("metrics: {error}")))?);
    let observer: Arc<dyn Observer> = metrics.clone();
    let mut clients = Vec::new();
    for credential in &config.github_credentials {
        let settings = Settings { request_timeout: REQUEST_TIMEOUT, ..settings(credential) };
        clients.push((credential, client(settings, &credential.name, &observer)?));
    }
    let asked = clients.iter().map(|(credential, client)| {
        let used = config.groups.iter().filter(|group| group.settings.github_credential == credential.name);
        github(credential, client, used.collect())
    });
    let backends = config.groups.iter().flat_map(|group| {
        let places = group.settings.backends.iter().zip(&group.backends);
        places.map(move |(limits, settings)| probe_backend(config, group, limits, settings))
    });
    let (store, github, backends) = tokio::join!(probe_store(config, &metrics), join_all(asked), join_all(backends));
    Ok([store].into_iter().chain(github.into_iter().flatten()).chain(backends).collect())
}

async fn probe_store(config: &Config, metrics: &Arc<Metrics>) -> Finding {
    match tokio::time::timeout(PROBE_DEADLINE, store::probe(config, metrics)).await {
        Ok(Ok(text)) => Finding::new(Verdict::Ok, "store", text),
        Ok(Err(error)) => Finding::new(Verdict::Error, "store", error.to_string()),
        Err(_) => Finding::new(Verdict::Error, "store", no_answer()),
    }
}

async fn probe_backend(
    config: &Config,
    group: &GroupConfig,
    limits: &BackendLimits,
    settings: &BackendSettings,
) -> Finding {
    let backend = backend(config, group, settings, None);
    let about = format!("group {}, backend {}", group.settings.name, limits.name);
    match tokio::time::timeout(PROBE_DEADLINE, backend.probe()).await {
        Ok(Ok(())) => Finding::new(Verdict::Ok, &about, "can create runners"),
        Ok(Err(error)) => Finding::new(Verdict::Error, &about, error.to_string()),
        Err(_) => Finding::new(Verdict::Error, &about, no_answer()),
    }
}

fn no_answer() -> String {
    format!("no answer within {} s", PROBE_DEADLINE.as_secs())
}

async fn bounded<T>(question: impl Future<Output = Result<T, GitHubError>>) -> Result<T, GitHubError> {
    let answer = tokio::time::timeout(PROBE_DEADLINE, question).await;
    answer.unwrap_or_else(|_| Err(GitHubError::Unknown(no_answer())))
}

/// A limit that is reached will be over; anything else stays.
fn verdict(error: &GitHubError) -> Verdict {
    if matches!(error, GitHubError::RateLimited { .. }) { Verdict::Warning } else { Verdict::Error }
}

/// What GitHub says of one credential and of the groups that use it.
async fn github(credential: &CredentialConfig, client: &Client, groups: Vec<&GroupConfig>) -> Vec<Finding> {
    let about = format!("credential {}", credential.name);
    let mut findings = Vec::new();
    match bounded(client.probe_credential()).await {
        Ok(()) => findings.push(Finding::new(Verdict::Ok, &about, format!("accepted by {}", credential.base_url))),
        Err(error) => {
            findings.push(Finding::new(verdict(&error), &about, error.to_string()));
            let unasked = format!("GitHub was not asked: its credential {} does not work", credential.name);
            let unasked = groups.iter().map(|group| Finding::new(verdict(&error), &named(group), unasked.clone()));
            findings.extend(unasked);
            return findings;
        }
    }
    let mut scopes: BTreeMap<&Scope, Vec<&GroupConfig>> = BTreeMap::new();
    for group in groups {
        scopes.entry(&group.settings.scope).or_default().push(group);
    }
    let asked = scopes.into_iter().map(|(scope, groups)| probe_scope(&about, client, scope, groups));
    findings.extend(join_all(asked).await.into_iter().flatten());
    findings.push(budget(&about, &client.budget()));
    findings
}

fn named(group: &GroupConfig) -> String {
    format!("group {}", group.settings.name)
}

async fn probe_scope(credential: &str, client: &Client, scope: &Scope, groups: Vec<&GroupConfig>) -> Vec<Finding> {
    let about = format!("{credential}, {scope}");
    let rights = async {
        let rights = bounded(client.probe_runners(scope)).await;
        let mut findings = vec![runners(&about, client, scope, &rights)];
        match rights {
            Ok(rights) => {
                let looks = groups.iter().map(|group| runner_group(client, group, &rights));
                findings.extend(join_all(looks).await);
            }
            Err(error) => findings.extend(groups.iter().map(|group| {
                let text = format!("its runner group was not looked for: the runners of {scope} cannot be listed");
                Finding::new(verdict(&error), &named(group), text)
            })),
        }
        findings
    };
    let (mut findings, jobs, webhooks) =
        tokio::join!(rights, jobs(&about, client, scope), webhooks(&about, client, scope));
    findings.extend(jobs);
    findings.push(webhooks);
    findings
}

/// A warning when jobs whose webhooks were lost cannot be found.
async fn jobs(about: &str, client: &Client, scope: &Scope) -> Option<Finding> {
    let about = format!("{about}, jobs");
    match bounded(client.probe_jobs(scope)).await {
        Ok(Rights::Missing(missing)) => {
            let text = format!("jobs cannot be read, so those whose webhooks are lost are not found: give {missing}");
            Some(Finding::new(Verdict::Warning, &about, text))
        }
        // What else is wrong is told with the runners.
        Ok(Rights::Enough | Rights::Unsaid) | Err(_) => None,
    }
}

fn runners(about: &str, client: &Client, scope: &Scope, rights: &Result<Rights, GitHubError>) -> Finding {
    let needed = client.needed(scope);
    match rights {
        Ok(Rights::Enough) => Finding::new(Verdict::Ok, about, "runners can be listed and registered"),
        Ok(Rights::Unsaid) => {
            let text = format!(
                "runners can be listed; GitHub does not tell whether they can be registered, which takes {needed}"
            );
            Finding::new(Verdict::Ok, about, text)
        }
        Ok(Rights::Missing(missing)) => {
            Finding::new(Verdict::Error, about, format!("runners can be listed, but not registered: give {missing}"))
        }
        Err(error @ (GitHubError::Forbidden(_) | GitHubError::NotFound(_))) => {
            Finding::new(Verdict::Error, about, format!("{error}; runners need {needed}"))
        }
        Err(error) => Finding::new(verdict(error), about, error.to_string()),
    }
}

async fn runner_group(client: &Client, group: &GroupConfig, rights: &Rights) -> Finding {
    let about = named(group);
    match (bounded(client.probe_runner_group(&group.settings)).await, rights) {
        (Ok(RunnerGroupState::Exists(id)), _) => {
            Finding::new(Verdict::Ok, &about, format!("its runner group exists at GitHub, with id {id}"))
        }
        (Ok(RunnerGroupState::Default), _) => {
            Finding::new(Verdict::Ok, &about, "its runners join GitHub's default runner group")
        }
        (Ok(RunnerGroupState::Absent), Rights::Missing(_)) => {
            Finding::new(Verdict::Error, &about, "its runner group does not exist at GitHub, and cannot be made")
        }
        (Ok(RunnerGroupState::Absent), Rights::Enough) => {
            Finding::new(Verdict::Ok, &about, "its runner group does not exist at GitHub yet, and can be made")
        }
        (Ok(RunnerGroupState::Absent), Rights::Unsaid) => {
            let text = "its runner group does not exist at GitHub yet; whether it can be made is seen when it is";
            Finding::new(Verdict::Ok, &about, text)
        }
        (Err(error), _) => Finding::new(verdict(&error), &about, format!("its runner group: {error}")),
    }
}

async fn webhooks(about: &str, client: &Client, scope: &Scope) -> Finding {
    let about = format!("{about}, webhooks");
    let since = Timestamp::now() - HISTORY;
    let asker = Asker { credential: String::new(), scope: scope.clone() };
    let hook = match bounded(client.hook(&asker, WEBHOOK)).await {
        Ok(Some(hook)) => hook,
        Ok(None) => {
            let text = format!(
                "no webhook whose address ends with {WEBHOOK} is to be seen: there is none, or the credential may not \
                 read webhooks, which takes {}",
                client.needed_for_webhooks(scope)
            );
            return Finding::new(Verdict::Warning, &about, text);
        }
        Err(error @ GitHubError::Invalid(_)) => return Finding::new(Verdict::Warning, &about, error.to_string()),
        Err(error) => return Finding::new(verdict(&error), &about, error.to_string()),
    };
    let sent = match bounded(client.deliveries(&asker, &hook, since, None)).await {
        Ok(sent) => sent,
        Err(error) => return Finding::new(Verdict::Warning, &about, format!("the hook's history: {error}")),
    };
    match sent.deliveries.iter().find(|delivery| delivery.event == "workflow_job") {
        None => {
            let text =
                "the hook has sent no workflow_job for three days: it may not be subscribed to \"Workflow jobs\"";
            Finding::new(Verdict::Warning, &about, text)
        }
        Some(last) if last.delivered => {
            Finding::new(Verdict::Ok, &about, format!("the newest one was taken, at {}", seconds(last.at)))
        }
        Some(last) => {
            let text = format!(
                "the newest one, at {}, was not taken: see the hook's recent deliveries at GitHub for the reason",
                seconds(last.at)
            );
            Finding::new(Verdict::Error, &about, text)
        }
    }
}

fn budget(about: &str, budget: &Budget) -> Finding {
    let about = format!("{about}, budget");
    let mut verdict = Verdict::Ok;
    let mut parts = Vec::new();
    for limit in &budget.limits {
        let account = if limit.account.is_empty() { String::new() } else { format!(" for {}", limit.account) };
        let what = format!("{}{account}", limit.resource);
        if let Some(paused) = &limit.paused {
            verdict = Verdict::Warning;
            parts.push(format!("{what} paused until {}: {}", seconds(paused.until), paused.why));
        } else if let (Some(most), Some(left)) = (limit.limit, limit.remaining) {
            if left < most / 5 {
                verdict = Verdict::Warning;
            }
            let until = limit.resets_at.map_or_else(String::new, |at| format!(" until {}", seconds(at)));
            parts.push(format!("{what} {left} of {most} calls left{until}"));
        }
    }
    let text = if parts.is_empty() { "GitHub tells of no limit".to_owned() } else { parts.join("; ") };
    Finding::new(verdict, &about, text)
}

/// A time without fractions of a second.
fn seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}
