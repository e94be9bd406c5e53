//! The GitHub adapter against the simulated GitHub: what its log says of limits, urgency, repeated and saved calls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "github_gateway/app.rs"]
mod app;
#[path = "github_gateway/limits.rs"]
mod limits;
#[path = "github_gateway/reading.rs"]
mod reading;
#[path = "github_gateway/records.rs"]
mod records;

#[allow(dead_code, reason = "other tests use other parts")]
#[path = "support/simulated.rs"]
mod simulated;
#[path = "support/github.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use actors::id::{RunnerGroupId, RunnerName};
use actors::model::secret::Secret;
use actors::model::settings::Scope;
use actors::port::github::{JitRequest, RepositoryName};
use runner_manager::demo::github::{Operation, RequestRecord};
use runner_manager::github::{Client, Credential, Settings};
use simulated::Stage;
use support::{Recorder, jit_request, organization, runner_name};

/// A client with the simulated GitHub's token, after `change`.
fn client_with(stage: &Stage, change: impl FnOnce(&mut Settings)) -> Arc<Client> {
    let credential = Credential::Token(Secret::new(stage.token.clone()));
    build(stage, credential, change)
}

fn client(stage: &Stage) -> Arc<Client> {
    client_with(stage, |_| {})
}

/// A client that is a GitHub App, whose installation is looked up.
fn app(stage: &Stage) -> Arc<Client> {
    let private_key = Secret::new(include_str!("support/app-key.pem").to_owned());
    build(stage, Credential::App { app_id: 4711, private_key, installation_id: None }, |_| {})
}

fn build(stage: &Stage, credential: Credential, change: impl FnOnce(&mut Settings)) -> Arc<Client> {
    let mut settings = Settings::new(stage.github.url(), credential);
    settings.retry_pause = Duration::from_millis(1);
    change(&mut settings);
    Arc::new(Client::new(settings, Arc::new(Recorder::default())).unwrap())
}

/// What the simulated GitHub was asked of this kind.
fn requests(stage: &Stage, operation: Operation) -> Vec<RequestRecord> {
    stage.github.requests().into_iter().filter(|request| request.operation == operation).collect()
}

fn statuses(stage: &Stage, operation: Operation) -> Vec<Option<u16>> {
    requests(stage, operation).into_iter().map(|request| request.status).collect()
}

/// A runner of the organization's default group.
fn registration(index: u64) -> JitRequest {
    let name: RunnerName = runner_name(index);
    JitRequest { runner_group: RunnerGroupId(1), name, ..jit_request(organization()) }
}

/// The simulated GitHub's first repository.
fn repository() -> (RepositoryName, Scope) {
    let (owner, name) = ("octo-org".to_owned(), "app".to_owned());
    (RepositoryName { owner: owner.clone(), name: name.clone() }, Scope::Repository { owner, name })
}
