//! The runner group at GitHub that carries a group's access rules.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actors::id::{RepositoryId, RunnerGroupId};
use actors::model::settings::{GroupSettings, Scope};
use actors::port::GitHubError;
use actors::port::github::{Access, Reach, RunnerGroup as Joined, RunnerGroupRemoval};
use http::Method;
use tokio::time::Instant;

use super::rest::{Rest, Scoped};
use super::single_flight::SingleFlight;
use super::wire::{self, RunnerGroup, RunnerGroupRequest, SelectedRepositories};

/// The group `Default`, which every scope has.
pub(super) const DEFAULT: RunnerGroupId = RunnerGroupId(1);

const PATH: &str = "/actions/runner-groups";
/// How long a listing of a scope's runner groups serves all groups of the scope.
const KEPT: Duration = Duration::from_secs(60);
/// Repositories that are told apart; where GitHub selects more, all are admitted. Replicas tell each other of them.
const SELECTED_MAX: usize = 1000;
/// Runners that are named when there are some where none are to be.
const NAMED: usize = 3;

/// The runner groups of each scope, as they were listed last.
#[derive(Default)]
pub(super) struct RunnerGroups {
    scopes: Mutex<HashMap<Scope, Arc<SingleFlight<Listed>>>>,
    repositories: Mutex<HashMap<Scope, RepositoryId>>,
}

#[derive(Clone)]
struct Listed {
    at: Instant,
    groups: Arc<Vec<RunnerGroup>>,
}

impl Listed {
    fn find(&self, wanted: impl Fn(&RunnerGroup) -> bool) -> Option<&RunnerGroup> {
        self.groups.iter().find(|group| wanted(group))
    }

    /// The one of that name, else the one that it was before, unless the enterprise shares it.
    fn ours(&self, group: &GroupSettings, last: Option<RunnerGroupId>) -> Option<&RunnerGroup> {
        let named = self.find(|found| found.name == group.name.as_str());
        let last =
            || self.find(|found| last == Some(RunnerGroupId(found.id)) && !is_default(found) && !found.inherited);
        named.or_else(last)
    }
}

impl RunnerGroups {
    fn of(&self, scope: &Scope) -> Arc<SingleFlight<Listed>> {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(scopes.entry(scope.clone()).or_default())
    }

    async fn listed(&self, rest: &Rest, about: &Scoped<'_>) -> Result<Listed, GitHubError> {
        let fetch = async |_| {
            let at = Instant::now();
            let listing = rest.list::<wire::RunnerGroups>(about, PATH).await?;
            Ok(Listed { at, groups: Arc::new(listing.items) })
        };
        self.of(about.scope).get(|listed| listed.at.elapsed() < KEPT, fetch).await
    }

    /// What is known of the scope's runner groups is not so any more.
    pub(super) async fn forget(&self, scope: &Scope) {
        self.of(scope).forget(|_| true).await;
    }

    /// Puts a group that was made or changed in its place.
    async fn put(&self, scope: &Scope, group: RunnerGroup) {
        let change = async |kept: Option<Listed>| {
            let Listed { at, groups } = kept.ok_or_else(|| GitHubError::Unknown("not listed".to_owned()))?;
            let mut groups: Vec<RunnerGroup> = groups.iter().filter(|other| other.id != group.id).cloned().collect();
            groups.push(group);
            Ok(Listed { at, groups: Arc::new(groups) })
        };
        let _ = self.of(scope).get(|_| false, change).await;
    }

    /// The runner group of `group`, in step with it if possible.
    pub(super) async fn ensure(
        &self,
        rest: &Rest,
        group: &GroupSettings,
        last: Option<RunnerGroupId>,
    ) -> Result<Joined, GitHubError> {
        let about = Scoped { operation: "ensure_runner_group", scope: &group.scope };
        if let Scope::Repository { .. } = group.scope {
            let reach = Reach { repository: self.repository(rest, &about).await, access: None };
            return Ok(Joined { reach, ..Joined::in_step(DEFAULT) });
        }
        let began = Instant::now();
        let listed = match self.listed(rest, &about).await {
            Ok(listed) => listed,
            Err(error) if unavailable(&error, group, last) => return Ok(Joined::in_step(DEFAULT)),
            Err(error) => return Err(error),
        };
        let result = self.bring_in_step(rest, &about, group, last, &listed).await;
        let was_there = listed.ours(group, last).is_some();
        let again = match &result {
            Ok(Joined { trouble: Some(GitHubError::NotFound(_)), .. }) => listed.at < began,
            // Somebody else may have been faster, or the answer to an earlier try was lost.
            Err(GitHubError::Conflict(_) | GitHubError::Invalid(_)) => true,
            _ => false,
        };
        if !again {
            return result;
        }
        self.forget(&group.scope).await;
        let listed = self.listed(rest, &about).await?;
        if listed.ours(group, last).is_some() == was_there {
            return result;
        }
        self.bring_in_step(rest, &about, group, last, &listed).await
    }

    async fn bring_in_step(
        &self,
        rest: &Rest,
        about: &Scoped<'_>,
        group: &GroupSettings,
        last: Option<RunnerGroupId>,
        listed: &Listed,
    ) -> Result<Joined, GitHubError> {
        if let Some(found) = listed.ours(group, last) {
            return Ok(self.adopt(rest, about, group, found).await);
        }
        match create(rest, about, group).await {
            Ok(created) => {
                let id = RunnerGroupId(created.id);
                self.put(about.scope, created).await;
                let repaired = Some("there was none of its name, and it was created".to_owned());
                Ok(Joined { repaired, ..Joined::in_step(id) })
            }
            Err(error) if unavailable(&error, group, last) => {
                let access = match listed.find(is_default) {
                    Some(found) => access(rest, about, group, found).await,
                    None => None,
                };
                Ok(Joined { reach: Reach { repository: None, access }, ..Joined::in_step(DEFAULT) })
            }
            Err(error) => Err(error),
        }
    }

    /// Brings the access rules of a group that exists in step.
    async fn adopt(&self, rest: &Rest, about: &Scoped<'_>, group: &GroupSettings, found: &RunnerGroup) -> Joined {
        let id = RunnerGroupId(found.id);
        if found.inherited {
            tracing::debug!(group = %group.name, runner_group = %id, "the enterprise decides who may use this runner group");
            let access = access(rest, about, group, found).await;
            return Joined { reach: Reach { repository: None, access }, ..Joined::in_step(id) };
        }
        match self.amend(rest, about, group, found).await {
            Ok(repaired) => Joined { repaired, ..Joined::in_step(id) },
            Err(error) => {
                let access = access(rest, about, group, found).await;
                let reach = Reach { repository: None, access };
                Joined { trouble: Some(error), reach, ..Joined::in_step(id) }
            }
        }
    }

    /// Changes what differs, and says what did.
    async fn amend(
        &self,
        rest: &Rest,
        about: &Scoped<'_>,
        group: &GroupSettings,
        found: &RunnerGroup,
    ) -> Result<Option<String>, GitHubError> {
        let path = format!("{PATH}/{}", found.id);
        let mut differs = differences(group, found);
        if !differs.is_empty() {
            let workflows = !found.workflow_restrictions_read_only;
            let request = RunnerGroupRequest {
                name: group.name.as_str(),
                visibility: wire::visibility(group),
                selected_repository_ids: None,
                allows_public_repositories: group.allows_public_repositories,
                restricted_to_workflows: workflows.then_some(group.restricted_to_workflows),
                selected_workflows: workflows.then_some(&group.selected_workflows),
            };
            let changed = rest.send(about, Method::PATCH, &path, &request).await?;
            match changed.json() {
                Ok(changed) => self.put(about.scope, changed).await,
                Err(_) => self.forget(about.scope).await,
            }
        }
        let wanted = repositories(group);
        if !wanted.is_empty() {
            let selected = selected(rest, about, found).await?;
            if selected != wanted {
                let request = SelectedRepositories { selected_repository_ids: wanted.into_iter().collect() };
                rest.send(about, Method::PUT, &format!("{path}/repositories"), &request).await?;
                differs.push("other repositories were selected".to_owned());
            }
        }
        Ok((!differs.is_empty()).then(|| differs.join("; ")))
    }

    /// The id of the repository, asked for once: it stays when the repository is renamed.
    async fn repository(&self, rest: &Rest, about: &Scoped<'_>) -> Option<RepositoryId> {
        let known = || self.repositories.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = known().get(about.scope) {
            return Some(*id);
        }
        // Without it the name has to do.
        let found: wire::Repository = rest.get(about, "").await.ok()?.json().ok()?;
        known().insert(about.scope.clone(), RepositoryId(found.id));
        Some(RepositoryId(found.id))
    }

    /// Deletes the runner group of `group`, if nobody else needs it.
    pub(super) async fn delete(
        &self,
        rest: &Rest,
        group: &GroupSettings,
        last: Option<RunnerGroupId>,
    ) -> Result<RunnerGroupRemoval, GitHubError> {
        let kept = |why: String| Ok(RunnerGroupRemoval::Kept(why));
        if let Scope::Repository { .. } = group.scope {
            return kept("runners of a repository are in GitHub's default runner group".to_owned());
        }
        let about = Scoped { operation: "delete_runner_group", scope: &group.scope };
        self.forget(&group.scope).await;
        let listed = self.listed(rest, &about).await?;
        let Some(found) = listed.ours(group, last) else { return Ok(RunnerGroupRemoval::Absent) };
        if is_default(found) {
            return kept("it is GitHub's default runner group".to_owned());
        }
        if found.inherited {
            return kept("the enterprise shares it: it can be deleted there alone".to_owned());
        }
        let path = format!("{PATH}/{}", found.id);
        let inside = rest.list::<wire::Runners>(&about, &format!("{path}/runners")).await?.items;
        if !inside.is_empty() {
            let names: Vec<&str> = inside.iter().take(NAMED).map(|runner| runner.name.as_str()).collect();
            let more = if inside.len() > NAMED { ", …" } else { "" };
            return kept(format!("runners are in it ({}): {}{more}", inside.len(), names.join(", ")));
        }
        rest.delete(&about, &path, &[404]).await?;
        self.forget(&group.scope).await;
        Ok(RunnerGroupRemoval::Removed)
    }
}

/// Who may use a runner group that is not as configured. Organizations of an enterprise are not told apart.
async fn access(rest: &Rest, about: &Scoped<'_>, group: &GroupSettings, found: &RunnerGroup) -> Option<Access> {
    let public = found.allows_public_repositories && found.inherited_allows_public_repositories.unwrap_or(true);
    let of_organization = matches!(group.scope, Scope::Organization(_));
    let selected = match found.visibility.as_str() {
        "selected" if of_organization => selected(rest, about, found).await.ok(),
        _ => None,
    };
    Some(Access {
        runner_group: found.name.clone(),
        public: public && !(of_organization && found.visibility == "private"),
        selected: selected
            .filter(|selected| selected.len() <= SELECTED_MAX)
            .map(|selected| selected.into_iter().map(RepositoryId).collect()),
    })
}

async fn selected(rest: &Rest, about: &Scoped<'_>, found: &RunnerGroup) -> Result<BTreeSet<u64>, GitHubError> {
    let path = format!("{PATH}/{}/repositories", found.id);
    let listing = rest.list::<wire::Repositories>(about, &path).await?;
    Ok(listing.items.into_iter().map(|repository| repository.id).collect())
}

fn is_default(group: &RunnerGroup) -> bool {
    group.default || RunnerGroupId(group.id) == DEFAULT
}

/// Where the runners of a group go at GitHub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunnerGroupState {
    /// Its runner group exists, under this id.
    Exists(RunnerGroupId),
    /// There is none of that name: it is made with the first runner.
    Absent,
    /// The scope has no runner groups: runners join the default one.
    Default,
}

/// The runner group of `group` as it is.
pub(super) async fn look(rest: &Rest, group: &GroupSettings) -> Result<RunnerGroupState, GitHubError> {
    if let Scope::Repository { .. } = group.scope {
        return Ok(RunnerGroupState::Default);
    }
    let about = Scoped { operation: "probe", scope: &group.scope };
    match find(rest, &about, group).await {
        Ok(Some(found)) => Ok(RunnerGroupState::Exists(RunnerGroupId(found.id))),
        Ok(None) => Ok(RunnerGroupState::Absent),
        Err(error) if unavailable(&error, group, None) => Ok(RunnerGroupState::Default),
        Err(error) => Err(error),
    }
}

/// Whether `error` means that the plan has no runner groups. GitHub answers 404 then, or says so. As a 404 may also
/// mean a lost permission, it is not enough for a group that only some may use, for the default group is open to more,
/// or that had a runner group before.
fn unavailable(error: &GitHubError, group: &GroupSettings, last: Option<RunnerGroupId>) -> bool {
    let text = match error {
        GitHubError::NotFound(_) => {
            let open = group.selected_repository_ids.is_empty() && !group.restricted_to_workflows;
            return open && last.is_none_or(|last| last == DEFAULT);
        }
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

/// What is not as configured, in words.
fn differences(group: &GroupSettings, found: &RunnerGroup) -> Vec<String> {
    let mut differs = Vec::new();
    if found.name != group.name.as_str() {
        differs.push(format!("its name was {:?}", found.name));
    }
    if wire::visibility(group).is_some_and(|visibility| visibility != found.visibility) {
        differs.push(format!("its visibility was {:?}", found.visibility));
    }
    if group.allows_public_repositories != found.allows_public_repositories {
        let word = if found.allows_public_repositories { "allowed" } else { "not allowed" };
        differs.push(format!("public repositories were {word}"));
    }
    let set = |workflows: &[String]| workflows.iter().cloned().collect::<BTreeSet<_>>();
    // The list is without effect, and GitHub may drop it, while the restriction is off.
    let workflows = group.restricted_to_workflows != found.restricted_to_workflows
        || (group.restricted_to_workflows && set(&group.selected_workflows) != set(&found.selected_workflows));
    if workflows && !found.workflow_restrictions_read_only {
        differs.push("the workflows that may use it were others".to_owned());
    }
    differs
}

/// Repositories that alone may use the group: only an organization's group can tell them apart.
fn repositories(group: &GroupSettings) -> BTreeSet<u64> {
    match group.scope {
        Scope::Organization(_) => group.selected_repository_ids.iter().map(|id| id.0).collect(),
        Scope::Enterprise(_) | Scope::Repository { .. } => BTreeSet::new(),
    }
}
