//! What each call of the REST API does.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use serde_json::{Value, json};

use super::faults::Fault;
use super::history;
use super::jobs::{Job, JobId, Run};
use super::log::Operation;
use super::rest::{Answer, Call};
use super::settings::random_hex;
use super::state::{GroupScope, Refusal, Runner, RunnerGroup, Scope, World};
use super::wire;

/// Carries a call out.
pub(super) fn answer(world: &mut World, call: &Call) -> Answer {
    match (call.operation, &call.scope) {
        (Operation::RateLimit, _) => Answer::new(200, wire::rate_limit(world)),
        (Operation::CreateToken, _) => create_token(world, call.id),
        (Operation::ListHooks | Operation::ListDeliveries | Operation::Redeliver, scope)
            if scope.is_some() || call.path.starts_with("/app/") =>
        {
            history::answer(world, call)
        }
        (Operation::Unknown, _) | (_, None) => Answer::not_found(),
        (_, Some(scope)) => in_scope(world, call, scope),
    }
}

fn in_scope(world: &mut World, call: &Call, scope: &Scope) -> Answer {
    let group_scope = match scope {
        Scope::Organization => Some(GroupScope::Organization),
        Scope::Enterprise => Some(GroupScope::Enterprise),
        Scope::Repository(_) => None,
    };
    let repository = if let Scope::Repository(name) = scope { Some(name.as_str()) } else { None };
    match (call.operation, group_scope, repository) {
        (Operation::FindInstallation, _, _) => Answer::new(200, wire::installation(world)),
        (Operation::ListDownloads, _, _) => Answer::new(200, wire::downloads()),
        (Operation::GenerateJitConfig, _, _) => generate_jit_config(world, call, scope),
        (Operation::ListRunners, _, _) => list_runners(world, call, |r| r.scope == *scope),
        (Operation::GetRunner, _, _) => match world.runners.get(&call.id).filter(|r| r.scope == *scope) {
            Some(runner) => Answer::new(200, wire::runner(world, runner)),
            None => Answer::not_found(),
        },
        (Operation::DeleteRunner, _, _) => match world.remove(scope, call.id) {
            Ok(()) => Answer::empty(204),
            Err(Refusal::Busy) => {
                invalid("The runner is currently running a job and cannot be deleted", &["runner is busy"])
            }
            Err(_) => Answer::not_found(),
        },
        (Operation::ListGroups, Some(of), _) => list_groups(world, call, of),
        (Operation::CreateGroup, Some(of), _) => create_group(world, call, of),
        (_, Some(of), _) => with_group(world, call, of, scope),
        (Operation::GetRepository, _, Some(name)) => match world.find_repository(name) {
            Some(found) => Answer::new(200, wire::repository(world, found)),
            None => Answer::not_found(),
        },
        (Operation::ListRuns, _, Some(name)) => {
            let wanted = |run: &&Run<'_>| call.param("status").is_none_or(|status| status == run.status().as_str());
            list(world, call, "workflow_runs", runs_of(world, name).iter().filter(wanted), wire::run)
        }
        (Operation::GetRun, _, Some(name)) => match runs_of(world, name).iter().find(|run| run.id() == call.id) {
            Some(run) => Answer::new(200, wire::run(world, run)),
            None => Answer::not_found(),
        },
        (Operation::ListRunJobs, _, Some(name)) => {
            list(world, call, "jobs", jobs_of(world, name).filter(|job| job.run_id == call.id), wire::job)
        }
        (Operation::GetJob, _, Some(name)) => {
            let job = world.jobs.get(&JobId(call.id)).filter(|job| job.repository.name.eq_ignore_ascii_case(name));
            job.map_or_else(Answer::not_found, |job| Answer::new(200, wire::job(world, job)))
        }
        _ => Answer::not_found(),
    }
}

/// 422, as GitHub words it.
fn invalid(message: &str, errors: &[&str]) -> Answer {
    let docs = "https://docs.github.com/rest";
    Answer::new(422, json!({"message": message, "documentation_url": docs, "errors": errors}))
}

fn jobs_of<'w>(world: &'w World, repository: &str) -> impl Iterator<Item = &'w Job> {
    let jobs = world.jobs.values().rev();
    jobs.filter(move |job| job.repository.name.eq_ignore_ascii_case(repository))
}

/// The runs of a repository, newest first.
fn runs_of<'w>(world: &'w World, repository: &str) -> Vec<Run<'w>> {
    let mut runs: BTreeMap<u64, Run<'w>> = BTreeMap::new();
    for job in jobs_of(world, repository) {
        runs.entry(job.run_id).and_modify(|run| run.others.push(job)).or_insert(Run { job, others: Vec::new() });
    }
    runs.into_values().rev().collect()
}

/// One page of `items` under `field`, only its own entries rendered.
fn list<'w, T: 'w>(
    world: &World,
    call: &Call,
    field: &str,
    items: impl Iterator<Item = &'w T>,
    render: impl Fn(&World, &T) -> Value,
) -> Answer {
    let mut items: Vec<&T> = items.collect();
    if call.param("page").is_some_and(|page| page != "1") {
        match call.fault {
            Some(Fault::Gone(count)) => drop(items.drain(..count.min(items.len()))),
            Some(Fault::Come(count)) => items = items.iter().take(count).chain(&items).copied().collect(),
            _ => {}
        }
    }
    let (range, link) = page(&world.base_url, call, items.len());
    let shown: Vec<Value> = items[range].iter().map(|item| render(world, item)).collect();
    let mut answer = Answer::new(200, json!({"total_count": items.len(), field: shown}));
    answer.headers.extend(link.map(|link| ("link", link)));
    answer
}

/// Which of `total` entries the call asks for, and the `Link` header that leads to the others.
fn page(base_url: &str, call: &Call, total: usize) -> (Range<usize>, Option<String>) {
    let number = |name, default: usize| call.param(name).and_then(|v| v.parse().ok()).unwrap_or(default);
    let size = number("per_page", 30).clamp(1, 100);
    let page = number("page", 1).max(1);
    let last = total.div_ceil(size).max(1);
    let start = (page - 1).saturating_mul(size).min(total);
    let range = start..(start + size).min(total);
    let address = |page: usize| {
        let others = call.query.iter().filter(|(key, _)| key != "page").cloned();
        let pairs: Vec<(String, String)> = others.chain([("page".to_owned(), page.to_string())]).collect();
        reqwest::Url::parse_with_params(&format!("{base_url}{}", call.path), pairs).ok()
    };
    let mut targets = Vec::new();
    if page > 1 {
        targets.push(("prev", (page - 1).min(last)));
    }
    if page < last {
        targets.extend([("next", page + 1), ("last", last)]);
    }
    if page > 1 {
        targets.push(("first", 1));
    }
    let links: Vec<String> =
        targets.iter().filter_map(|(rel, to)| Some(format!("<{}>; rel=\"{rel}\"", address(*to)?))).collect();
    (range, (!links.is_empty()).then(|| links.join(", ")))
}

fn list_runners(world: &World, call: &Call, wanted: impl Fn(&Runner) -> bool) -> Answer {
    let named = |runner: &Runner| call.param("name").is_none_or(|name| name.eq_ignore_ascii_case(&runner.name));
    list(world, call, "runners", world.runners.values().filter(|r| wanted(r) && named(r)), wire::runner)
}

fn generate_jit_config(world: &mut World, call: &Call, scope: &Scope) -> Answer {
    let (name, group) = (call.body["name"].as_str().unwrap_or_default(), call.body["runner_group_id"].as_u64());
    let labels: Option<Vec<String>> = call.body["labels"]
        .as_array()
        .and_then(|labels| labels.iter().map(|label| label.as_str().map(str::to_owned)).collect());
    let Some(labels) = labels.filter(|l| (1..=100).contains(&l.len()) && l.iter().all(|l| !l.trim().is_empty())) else {
        return invalid("Validation Failed", &["labels must be 1 to 100 names"]);
    };
    if name.is_empty() || name.len() > 64 {
        return invalid("Validation Failed", &["name must have 1 to 64 characters"]);
    }
    let Some(group) = group else { return invalid("Validation Failed", &["runner_group_id must be a number"]) };
    match world.register(scope.clone(), group, name, labels) {
        Ok(id) => match world.runners.get(&id) {
            Some(runner) => {
                let config = wire::jit_config(world, runner);
                Answer::new(201, json!({"runner": wire::runner(world, runner), "encoded_jit_config": config}))
            }
            None => Answer::not_found(),
        },
        Err(Refusal::Exists) => {
            Answer::error(409, &format!("Already exists - A runner with the name {name} already exists."))
        }
        Err(_) => Answer::not_found(),
    }
}

fn list_groups(world: &World, call: &Call, of: GroupScope) -> Answer {
    list(world, call, "runner_groups", world.groups.iter().filter(|g| g.scope == of), wire::group)
}

fn create_group(world: &mut World, call: &Call, of: GroupScope) -> Answer {
    let Some(name) = call.body["name"].as_str().filter(|name| !name.is_empty()) else {
        return invalid("Validation Failed", &["name is missing"]);
    };
    if !world.has_groups {
        return Answer::error(403, "Upgrade to GitHub Team or GitHub Enterprise to create runner groups");
    }
    if world.groups.iter().any(|g| g.scope == of && g.name.eq_ignore_ascii_case(name)) {
        return Answer::error(409, &format!("Runner group with name '{name}' already exists"));
    }
    let mut group = RunnerGroup {
        id: world.next_group,
        scope: of,
        name: name.to_owned(),
        inherited: false,
        visibility: "all".to_owned(),
        selected: Vec::new(),
        allows_public_repositories: false,
        restricted_to_workflows: false,
        selected_workflows: Vec::new(),
    };
    if let Err(refused) = amend(&mut group, &call.body) {
        return refused;
    }
    world.next_group += 1;
    let answer = Answer::new(201, wire::group(world, &group));
    world.groups.push(group);
    answer
}

/// Takes over what the body says of a group.
fn amend(group: &mut RunnerGroup, body: &Value) -> Result<(), Answer> {
    if let Some(visibility) = body["visibility"].as_str() {
        if !["all", "private", "selected"].contains(&visibility) {
            return Err(invalid("Validation Failed", &["visibility must be all, private or selected"]));
        }
        visibility.clone_into(&mut group.visibility);
    }
    if let Some(name) = body["name"].as_str() {
        name.clone_into(&mut group.name);
    }
    if let Some(allowed) = body["allows_public_repositories"].as_bool() {
        group.allows_public_repositories = allowed;
    }
    if let Some(restricted) = body["restricted_to_workflows"].as_bool() {
        group.restricted_to_workflows = restricted;
    }
    if let Some(workflows) = body["selected_workflows"].as_array() {
        group.selected_workflows = workflows.iter().filter_map(|w| w.as_str().map(str::to_owned)).collect();
    }
    if let Some(ids) = ids(body, "selected_repository_ids").or_else(|| ids(body, "selected_organization_ids")) {
        group.selected = ids;
    }
    Ok(())
}

fn ids(body: &Value, field: &str) -> Option<Vec<u64>> {
    Some(body[field].as_array()?.iter().filter_map(Value::as_u64).collect())
}

fn with_group(world: &mut World, call: &Call, of: GroupScope, scope: &Scope) -> Answer {
    let Some(at) = world.groups.iter().position(|g| g.scope == of && g.id == call.id) else {
        return Answer::not_found();
    };
    let changes =
        matches!(call.operation, Operation::UpdateGroup | Operation::DeleteGroup | Operation::SetGroupRepositories);
    if changes && world.groups[at].inherited {
        return Answer::error(403, "The runner group is shared by the enterprise and cannot be changed here");
    }
    match call.operation {
        Operation::GetGroup => Answer::new(200, wire::group(world, &world.groups[at])),
        Operation::UpdateGroup => match amend(&mut world.groups[at], &call.body) {
            Ok(()) => Answer::new(200, wire::group(world, &world.groups[at])),
            Err(refused) => refused,
        },
        Operation::DeleteGroup if call.id == 1 => Answer::error(403, "The default runner group cannot be deleted"),
        Operation::DeleteGroup => {
            world.groups.remove(at);
            let members = world.runners.values_mut().filter(|r| r.scope == *scope && r.group == call.id);
            members.for_each(|runner| runner.group = 1);
            Answer::empty(204)
        }
        Operation::ListGroupRunners => list_runners(world, call, |r| r.scope == *scope && r.group == call.id),
        Operation::ListGroupRepositories if of == GroupScope::Organization => {
            let selected = &world.groups[at].selected;
            let repositories = world.settings.repositories.iter().filter(|r| selected.contains(&r.id));
            list(world, call, "repositories", repositories, wire::repository)
        }
        Operation::SetGroupRepositories if of == GroupScope::Organization => {
            if world.groups[at].visibility != "selected" {
                return Answer::error(409, "Repositories can be set only for a group whose visibility is selected");
            }
            let Some(ids) = ids(&call.body, "selected_repository_ids") else {
                return invalid("Validation Failed", &["selected_repository_ids is missing"]);
            };
            world.groups[at].selected = ids;
            Answer::empty(204)
        }
        _ => Answer::not_found(),
    }
}

fn create_token(world: &mut World, installation: u64) -> Answer {
    if installation != world.settings.installation {
        return Answer::not_found();
    }
    let (token, now) = (format!("ghs_{}", random_hex(18)), Instant::now());
    world.tokens.insert(token.clone(), now);
    let expires = world.stamp(now + std::time::Duration::from_secs(3600));
    Answer::new(
        201,
        json!({
            "token": token, "expires_at": expires, "permissions": wire::permissions(world), "repository_selection": "all",
        }),
    )
}
