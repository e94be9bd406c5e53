//! What tests of the GitHub adapter share.
#![allow(dead_code, reason = "not every test file needs all of it")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use actors::id::{GroupName, RepositoryId, RunnerGroupId, RunnerName};
use actors::model::secret::Secret;
use actors::model::settings::{BackendLimits, GroupSettings, Scope};
use actors::port::github::{Asker, JitRequest};
use actors::port::{Observation, Observer};
use runner_manager::github::{Client, Credential, Settings};

pub const TOKEN: &str = "ghp_t0ken";

/// Keeps what is observed, in words.
#[derive(Default)]
pub struct Recorder(Mutex<Vec<String>>);

impl Observer for Recorder {
    fn observe(&self, observation: &Observation<'_>) {
        let text = match observation {
            Observation::GitHubCall { operation, outcome } => format!("{operation} {outcome}"),
            Observation::RateLimit { credential, resource, remaining } => {
                format!("{credential} {resource} {remaining}")
            }
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap().push(text);
    }
}

impl Recorder {
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

pub fn settings(base_url: &str) -> Settings {
    let credential = Credential::Token(Secret::new(TOKEN.to_owned()));
    Settings { retry_pause: Duration::from_millis(1), ..Settings::new(base_url, credential) }
}

pub fn client(base_url: &str) -> Client {
    Client::new(settings(base_url), Arc::new(Recorder::default())).unwrap()
}

pub fn organization() -> Scope {
    Scope::Organization("octo-org".to_owned())
}

/// Who asks with the only credential.
pub fn asker(scope: Scope) -> Asker {
    Asker { credential: "default".to_owned(), scope }
}

pub fn repository() -> Scope {
    Scope::Repository { owner: "octo".to_owned(), name: "app".to_owned() }
}

pub fn enterprise() -> Scope {
    Scope::Enterprise("octo-corp".to_owned())
}

pub fn group(scope: Scope) -> GroupSettings {
    GroupSettings {
        backends: vec![BackendLimits {
            create_timeout: Duration::from_secs(60),
            delete_timeout: Duration::from_secs(60),
            max_concurrency: 1,
            ..BackendLimits::new("base")
        }],
        ..GroupSettings::new(GroupName::new("octo-linux").unwrap(), scope, vec!["octo".to_owned()], 5)
    }
}

pub fn restricted_group() -> GroupSettings {
    GroupSettings {
        selected_repository_ids: vec![RepositoryId(32), RepositoryId(91)],
        restricted_to_workflows: true,
        selected_workflows: vec!["octo-org/app/.github/workflows/ci.yml@main".to_owned()],
        allows_public_repositories: false,
        ..group(organization())
    }
}

pub fn runner_name(index: u64) -> RunnerName {
    GroupName::new("octo-linux").unwrap().runner_name(index)
}

pub fn jit_request(scope: Scope) -> JitRequest {
    JitRequest {
        scope,
        name: runner_name(1),
        runner_group: RunnerGroupId(7),
        labels: vec!["self-hosted".to_owned(), "linux".to_owned(), "x64".to_owned(), "octo".to_owned()],
    }
}

/// A runner, as GitHub spells it.
pub fn runner(id: u64, name: &str) -> serde_json::Value {
    let labels = serde_json::json!([{"id": 5, "name": "self-hosted", "type": "read-only"}]);
    serde_json::json!({"id": id, "name": name, "os": "linux", "status": "online", "busy": true, "labels": labels})
}

/// A runner group, as GitHub spells it, with the access rules of [`group`].
pub fn runner_group(id: u64, name: &str) -> serde_json::Value {
    serde_json::json!({
        "id": id, "name": name, "visibility": "all", "default": false, "inherited": false,
        "runners_url": format!("https://api.github.com/orgs/octo-org/actions/runner-groups/{id}/runners"),
        "allows_public_repositories": true, "restricted_to_workflows": false, "selected_workflows": [],
        "workflow_restrictions_read_only": false,
    })
}
