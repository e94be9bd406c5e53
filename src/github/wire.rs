//! The JSON that GitHub's REST API speaks, as far as it is used. Unknown fields and words are accepted.

use std::fmt;

use actors::id::RunnerId;
use actors::model::secret::Secret;
use actors::model::settings::{GroupSettings, Scope};
use actors::port::github::RemoteRunner;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

/// One page of a listing.
pub(super) trait Page: DeserializeOwned {
    /// What the listing holds.
    type Item;
    /// How many there are on all pages together, if GitHub says so.
    fn total(&self) -> Option<u64>;
    /// Those of this page.
    fn items(self) -> Vec<Self::Item>;
}

macro_rules! page {
    ($name:ident, $field:ident: $item:ty) => {
        #[derive(Deserialize)]
        pub(super) struct $name {
            #[serde(default)]
            total_count: Option<u64>,
            $field: Vec<$item>,
        }

        impl Page for $name {
            type Item = $item;
            fn total(&self) -> Option<u64> {
                self.total_count
            }
            fn items(self) -> Vec<$item> {
                self.$field
            }
        }
    };
}

page!(Runners, runners: Runner);
page!(RunnerGroups, runner_groups: RunnerGroup);
page!(Repositories, repositories: Repository);
page!(Runs, workflow_runs: super::records::Run);
page!(Jobs, jobs: super::job::Job);

#[derive(Deserialize)]
pub(super) struct Runner {
    pub(super) id: u64,
    pub(super) name: String,
    status: String,
    busy: bool,
    #[serde(default)]
    labels: Vec<Label>,
}

#[derive(Deserialize)]
struct Label {
    name: String,
}

impl From<Runner> for RemoteRunner {
    fn from(runner: Runner) -> Self {
        Self {
            id: RunnerId(runner.id),
            name: runner.name,
            // A word that is not known yet must not look like a lost connection.
            online: !runner.status.eq_ignore_ascii_case("offline"),
            busy: runner.busy,
            labels: runner.labels.into_iter().map(|label| label.name).collect(),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Repository {
    pub(super) id: u64,
}

#[derive(Clone, Deserialize)]
pub(super) struct RunnerGroup {
    pub(super) id: u64,
    pub(super) name: String,
    #[serde(default)]
    pub(super) visibility: String,
    #[serde(default)]
    pub(super) default: bool,
    #[serde(default)]
    pub(super) inherited: bool,
    /// What the enterprise allows, of a group that it shares.
    #[serde(default)]
    pub(super) inherited_allows_public_repositories: Option<bool>,
    #[serde(default)]
    pub(super) allows_public_repositories: bool,
    #[serde(default)]
    pub(super) workflow_restrictions_read_only: bool,
    #[serde(default)]
    pub(super) restricted_to_workflows: bool,
    #[serde(default)]
    pub(super) selected_workflows: Vec<String>,
}

/// The body that creates or changes a runner group.
#[derive(Serialize)]
pub(super) struct RunnerGroupRequest<'a> {
    pub(super) name: &'a str,
    /// Absent for an enterprise: there it is about organizations, and nothing is configured about those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) visibility: Option<&'static str>,
    /// Only when it is created; later they are a resource of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) selected_repository_ids: Option<Vec<u64>>,
    pub(super) allows_public_repositories: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) restricted_to_workflows: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) selected_workflows: Option<&'a [String]>,
}

/// Where the configured access rules of `group` call for a visibility, which one.
pub(super) fn visibility(group: &GroupSettings) -> Option<&'static str> {
    match group.scope {
        Scope::Organization(_) if group.selected_repository_ids.is_empty() => Some("all"),
        Scope::Organization(_) => Some("selected"),
        Scope::Enterprise(_) | Scope::Repository { .. } => None,
    }
}

#[derive(Serialize)]
pub(super) struct SelectedRepositories {
    pub(super) selected_repository_ids: Vec<u64>,
}

#[derive(Serialize)]
pub(super) struct JitConfigRequest<'a> {
    pub(super) name: &'a str,
    pub(super) runner_group_id: u64,
    pub(super) labels: &'a [String],
    pub(super) work_folder: &'static str,
}

#[derive(Deserialize)]
pub(super) struct JitConfig {
    pub(super) runner: JitRunner,
    #[serde(deserialize_with = "secret")]
    pub(super) encoded_jit_config: Secret,
}

#[derive(Deserialize)]
pub(super) struct JitRunner {
    pub(super) id: u64,
}

#[derive(Clone, Deserialize)]
pub(super) struct Download {
    pub(super) os: String,
    pub(super) architecture: String,
    pub(super) download_url: String,
    #[serde(default)]
    pub(super) filename: String,
    #[serde(default)]
    pub(super) sha256_checksum: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Installation {
    pub(super) id: u64,
}

#[derive(Deserialize)]
pub(super) struct InstallationToken {
    #[serde(deserialize_with = "secret")]
    pub(super) token: Secret,
    pub(super) expires_at: jiff::Timestamp,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

/// The body of an error answer.
#[derive(Default, Deserialize)]
pub(super) struct Problem {
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    errors: Option<serde_json::Value>,
}

/// Longest text of GitHub's that is repeated in an error, in characters.
const PROBLEM_MAX: usize = 400;
/// Longest word of it: names and addresses are shorter, tokens and configs may be longer.
const WORD_MAX: usize = 120;

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.message.clone().unwrap_or_default();
        match &self.errors {
            None | Some(serde_json::Value::Null) => {}
            Some(serde_json::Value::String(error)) => text = format!("{text} ({error})"),
            Some(errors) => text = format!("{text} ({errors})"),
        }
        let words = text.split_whitespace().map(|word| if word.chars().count() > WORD_MAX { "…" } else { word });
        let text = words.collect::<Vec<_>>().join(" ");
        f.write_str(&text.chars().filter(|c| !c.is_control()).take(PROBLEM_MAX).collect::<String>())
    }
}

/// The path below which GitHub keeps what belongs to `scope`.
pub(super) fn scope_path(scope: &Scope) -> String {
    match scope {
        Scope::Enterprise(slug) => format!("/enterprises/{}", segment(slug)),
        Scope::Organization(login) => format!("/orgs/{}", segment(login)),
        Scope::Repository { owner, name } => format!("/repos/{}/{}", segment(owner), segment(name)),
    }
}

/// `text` as one segment of a path (RFC 3986: all but unreserved characters are percent-encoded).
pub(super) fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_segment_stays_one_segment() {
        assert_eq!(segment("octo-org_1.x"), "octo-org_1.x");
        assert_eq!(segment("a/b?c#d e"), "a%2Fb%3Fc%23d%20e");
    }

    #[test]
    fn a_problem_repeats_what_github_said_but_no_long_word() {
        let problem: Problem = serde_json::from_value(serde_json::json!({
            "message": format!("Bad\n thing {}", "x".repeat(WORD_MAX + 1)),
            "errors": [{"field": "name"}],
        }))
        .unwrap();
        assert_eq!(problem.to_string(), "Bad thing … ([{\"field\":\"name\"}])");
        assert_eq!(Problem::default().to_string(), "");
    }

    #[test]
    fn a_status_that_is_not_known_yet_is_not_offline() {
        let runner = |status: &str| {
            let json = serde_json::json!({"id": 1, "name": "a", "status": status, "busy": false});
            RemoteRunner::from(serde_json::from_value::<Runner>(json).unwrap()).online
        };
        assert!(runner("online") && runner("hibernating"));
        assert!(!runner("offline") && !runner("Offline"));
    }
}
