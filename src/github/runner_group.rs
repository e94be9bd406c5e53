//! The runner group at GitHub that carries a group's access rules.

use std::collections::BTreeSet;

use actors::id::RunnerGroupId;
use actors::model::settings::{GroupSettings, Scope};
use actors::port::GitHubError;
use http::Method;

use super::rest::{Rest, Scoped};
use super::wire::{self, RunnerGroup, RunnerGroupRequest, SelectedRepositories};

/// The group `Default`, which every scope has.
pub(super) const DEFAULT: RunnerGroupId = RunnerGroupId(1);

const PATH: &str = "/actions/runner-groups";

/// The runner group of `group`, or none where the scope has none but the default one.
pub(super) async fn ensure(rest: &Rest, group: &GroupSettings) -> Result<Option<RunnerGroupId>, GitHubError> {
    if let Scope::Repository { .. } = group.scope {
        return Ok(Some(DEFAULT));
    }
    let about = Scoped { operation: "ensure_runner_group", scope: &group.scope };
    let found = match find(rest, &about, group).await {
        Ok(found) => found,
        Err(error) if unavailable(&error, group) => return Ok(None),
        Err(error) => return Err(error),
    };
    let created = match found {
        Some(found) => return adopt(rest, &about, group, found).await.map(Some),
        None => create(rest, &about, group).await,
    };
    match created {
        Ok(created) => Ok(Some(RunnerGroupId(created.id))),
        Err(error) if unavailable(&error, group) => Ok(None),
        // Another replica may have been faster, or the answer to an earlier try was lost.
        Err(error @ (GitHubError::Conflict(_) | GitHubError::Invalid(_))) => match find(rest, &about, group).await? {
            Some(found) => adopt(rest, &about, group, found).await.map(Some),
            None => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Whether `error` means that the plan has no runner groups. GitHub answers 404 then, or says so. As a 404 may also
/// mean a lost permission, it is not enough for a group that only some may use: the default group is open to more.
fn unavailable(error: &GitHubError, group: &GroupSettings) -> bool {
    let text = match error {
        GitHubError::NotFound(_) => return group.selected_repository_ids.is_empty() && !group.restricted_to_workflows,
        GitHubError::Forbidden(text) | GitHubError::Invalid(text) => text.to_ascii_lowercase(),
        _ => return false,
    };
    // What was asked is left out: an organization may be called anything.
    let said = text.split_once(" answered ").map_or("", |(_, said)| said);
    ["upgrade", "your plan", "billing plan", "not available", "not enabled", "not supported"]
        .iter()
        .any(|words| said.contains(words))
}

async fn find(rest: &Rest, about: &Scoped<'_>, group: &GroupSettings) -> Result<Option<RunnerGroup>, GitHubError> {
    let ours = |found: &RunnerGroup| found.name == group.name.as_str();
    let enough = |found: &[RunnerGroup]| found.iter().any(ours);
    let listing = rest.list_until::<wire::RunnerGroups>(about, PATH, enough).await?;
    Ok(listing.items.into_iter().find(ours))
}

async fn create(rest: &Rest, about: &Scoped<'_>, group: &GroupSettings) -> Result<RunnerGroup, GitHubError> {
    let selected = repositories(group);
    let request = RunnerGroupRequest {
        name: group.name.as_str(),
        visibility: Some(wire::visibility(group).unwrap_or("all")),
        selected_repository_ids: (!selected.is_empty()).then(|| selected.into_iter().collect()),
        allows_public_repositories: group.allows_public_repositories,
        restricted_to_workflows: Some(group.restricted_to_workflows),
        selected_workflows: Some(&group.selected_workflows),
    };
    rest.send(about, Method::POST, PATH, &request).await?.json()
}

/// Brings the access rules of a group that exists in step.
async fn adopt(
    rest: &Rest,
    about: &Scoped<'_>,
    group: &GroupSettings,
    found: RunnerGroup,
) -> Result<RunnerGroupId, GitHubError> {
    let id = RunnerGroupId(found.id);
    if found.inherited {
        tracing::debug!(group = %group.name, runner_group = %id, "the enterprise decides who may use this runner group");
        return Ok(id);
    }
    let path = format!("{PATH}/{id}");
    if differs(group, &found) {
        let workflows = !found.workflow_restrictions_read_only;
        let request = RunnerGroupRequest {
            name: group.name.as_str(),
            visibility: wire::visibility(group),
            selected_repository_ids: None,
            allows_public_repositories: group.allows_public_repositories,
            restricted_to_workflows: workflows.then_some(group.restricted_to_workflows),
            selected_workflows: workflows.then_some(&group.selected_workflows),
        };
        rest.send(about, Method::PATCH, &path, &request).await?;
    }
    let wanted = repositories(group);
    if !wanted.is_empty() {
        let path = format!("{path}/repositories");
        let listing = rest.list::<wire::Repositories>(about, &path).await?;
        let selected: BTreeSet<u64> = listing.items.into_iter().map(|repository| repository.id).collect();
        if selected != wanted {
            let request = SelectedRepositories { selected_repository_ids: wanted.into_iter().collect() };
            rest.send(about, Method::PUT, &path, &request).await?;
        }
    }
    Ok(id)
}

fn differs(group: &GroupSettings, found: &RunnerGroup) -> bool {
    let visibility = wire::visibility(group).is_some_and(|visibility| visibility != found.visibility);
    let public = group.allows_public_repositories != found.allows_public_repositories;
    let set = |workflows: &[String]| workflows.iter().cloned().collect::<BTreeSet<_>>();
    // The list is without effect, and GitHub may drop it, while the restriction is off.
    let workflows = group.restricted_to_workflows != found.restricted_to_workflows
        || (group.restricted_to_workflows && set(&group.selected_workflows) != set(&found.selected_workflows));
    visibility || public || (workflows && !found.workflow_restrictions_read_only)
}

/// Repositories that alone may use the group: only an organization's group can tell them apart.
fn repositories(group: &GroupSettings) -> BTreeSet<u64> {
    match group.scope {
        Scope::Organization(_) => group.selected_repository_ids.iter().map(|id| id.0).collect(),
        Scope::Enterprise(_) | Scope::Repository { .. } => BTreeSet::new(),
    }
}
