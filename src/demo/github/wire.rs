//! The shapes that GitHub's answers and webhooks have.

use serde_json::{Value, json};

use super::hooks::{Action, Delivery};
use super::jobs::{Job, JobStatus, Run};
use super::settings::Repository;
use super::state::{AppTrouble, GroupScope, Resource, Runner, RunnerGroup, Scope, World};

/// Where the pages for people would be.
const SITE: &str = "https://github.example";
/// The version of the runner application that downloads offer.
const RUNNER_VERSION: &str = "2.330.0";
/// The commit that every job is of.
const SHA: &str = "5f1d7a84db00d2fce00b31a7fc73224ec3ca5bd1";
/// When organization, repositories and accounts were made.
pub(super) const EPOCH: &str = "2024-01-15T08:00:00Z";

/// Ends of a repository's API addresses, by field.
const REPOSITORY_URLS: [(&str, &str); 37] = [
    ("url", ""),
    ("archive_url", "/{archive_format}{/ref}"),
    ("assignees_url", "/assignees{/user}"),
    ("blobs_url", "/git/blobs{/sha}"),
    ("branches_url", "/branches{/branch}"),
    ("collaborators_url", "/collaborators{/collaborator}"),
    ("comments_url", "/comments{/number}"),
    ("commits_url", "/commits{/sha}"),
    ("compare_url", "/compare/{base}...{head}"),
    ("contents_url", "/contents/{+path}"),
    ("contributors_url", "/contributors"),
    ("deployments_url", "/deployments"),
    ("downloads_url", "/downloads"),
    ("events_url", "/events"),
    ("forks_url", "/forks"),
    ("git_commits_url", "/git/commits{/sha}"),
    ("git_refs_url", "/git/refs{/sha}"),
    ("git_tags_url", "/git/tags{/sha}"),
    ("hooks_url", "/hooks"),
    ("issue_comment_url", "/issues/comments{/number}"),
    ("issue_events_url", "/issues/events{/number}"),
    ("issues_url", "/issues{/number}"),
    ("keys_url", "/keys{/key_id}"),
    ("labels_url", "/labels{/name}"),
    ("languages_url", "/languages"),
    ("merges_url", "/merges"),
    ("milestones_url", "/milestones{/number}"),
    ("notifications_url", "/notifications{?since,all,participating}"),
    ("pulls_url", "/pulls{/number}"),
    ("releases_url", "/releases{/id}"),
    ("stargazers_url", "/stargazers"),
    ("statuses_url", "/statuses/{sha}"),
    ("subscribers_url", "/subscribers"),
    ("subscription_url", "/subscription"),
    ("tags_url", "/tags"),
    ("teams_url", "/teams"),
    ("trees_url", "/git/trees{/sha}"),
];

/// Ends of an account's API addresses, by field.
const USER_URLS: [(&str, &str); 10] = [
    ("url", ""),
    ("followers_url", "/followers"),
    ("following_url", "/following{/other_user}"),
    ("gists_url", "/gists{/gist_id}"),
    ("starred_url", "/starred{/owner}{/repo}"),
    ("subscriptions_url", "/subscriptions"),
    ("organizations_url", "/orgs"),
    ("repos_url", "/repos"),
    ("events_url", "/events{/privacy}"),
    ("received_events_url", "/received_events"),
];

fn with_urls(mut fields: Value, base: &str, urls: &[(&str, &str)]) -> Value {
    if let Value::Object(map) = &mut fields {
        map.extend(urls.iter().map(|(field, end)| ((*field).to_owned(), json!(format!("{base}{end}")))));
    }
    fields
}

fn account(world: &World, login: &str, id: u64, kind: &str) -> Value {
    let fields = json!({
        "login": login, "id": id, "node_id": format!("U_{id}"), "type": kind, "site_admin": false, "gravatar_id": "",
        "avatar_url": format!("{SITE}/avatars/{id}"), "html_url": format!("{SITE}/{login}"),
    });
    with_urls(fields, &format!("{}/users/{login}", world.base_url), &USER_URLS)
}

fn owner(world: &World) -> Value {
    account(world, &world.settings.organization, 11, "Organization")
}

fn sender(world: &World) -> Value {
    account(world, "octo-dev", 12, "User")
}

pub(super) fn repository(world: &World, repository: &Repository) -> Value {
    let Repository { id, name, private } = repository;
    let full_name = format!("{}/{name}", world.settings.organization);
    let fields = json!({
        "id": id, "node_id": format!("R_{id}"), "name": name, "full_name": full_name, "private": private,
        "visibility": if *private { "private" } else { "public" }, "owner": owner(world),
        "description": "A simulated repository", "fork": false,
        "created_at": EPOCH, "updated_at": EPOCH, "pushed_at": EPOCH,
        "git_url": format!("git://github.example/{full_name}.git"),
        "ssh_url": format!("git@github.example:{full_name}.git"),
        "clone_url": format!("{SITE}/{full_name}.git"), "mirror_url": null, "homepage": null, "language": "Rust",
        "size": 512, "stargazers_count": 3, "watchers_count": 3, "forks_count": 0, "open_issues_count": 1,
        "forks": 0, "watchers": 3, "open_issues": 1, "default_branch": "main", "topics": [],
        "has_issues": true, "has_projects": false, "has_downloads": true, "has_wiki": false, "has_pages": false,
        "has_discussions": false, "archived": false, "disabled": false, "is_template": false, "allow_forking": false,
        "web_commit_signoff_required": false, "custom_properties": {},
    });
    let fields = with_urls(fields, &format!("{SITE}/{full_name}"), &[("html_url", ""), ("svn_url", "")]);
    with_urls(fields, &format!("{}/repos/{full_name}", world.base_url), &REPOSITORY_URLS)
}

fn organization(world: &World) -> Value {
    let login = &world.settings.organization;
    let url = format!("{}/orgs/{login}", world.base_url);
    json!({
        "login": login, "id": 11, "node_id": "O_11", "url": url, "description": "A simulated organization",
        "avatar_url": format!("{SITE}/avatars/11"), "repos_url": format!("{url}/repos"),
        "events_url": format!("{url}/events"), "hooks_url": format!("{url}/hooks"),
        "issues_url": format!("{url}/issues"), "members_url": format!("{url}/members{{/member}}"),
        "public_members_url": format!("{url}/public_members{{/member}}"),
    })
}

pub(super) fn runner(world: &World, runner: &Runner) -> Value {
    let labels: Vec<Value> = runner
        .labels
        .iter()
        .enumerate()
        .map(|(n, name)| {
            let fixed = ["self-hosted", "linux", "windows", "macos", "x64", "arm64", "arm"];
            let kind = if fixed.contains(&name.to_lowercase().as_str()) { "read-only" } else { "custom" };
            json!({"id": n + 1, "name": name, "type": kind})
        })
        .collect();
    let mut value = json!({
        "id": runner.id, "name": runner.name, "runner_group_id": runner.group,
        "os": if runner.first_contact.is_some() { "linux" } else { "unknown" },
        "status": if world.is_online(runner) { "online" } else { "offline" },
        "busy": world.is_seen_busy(runner), "ephemeral": true, "labels": labels,
    });
    if runner.first_contact.is_some() {
        value["version"] = json!(RUNNER_VERSION);
    }
    value
}

pub(super) fn group(world: &World, group: &RunnerGroup) -> Value {
    let (home, members) = match group.scope {
        GroupScope::Organization => (format!("orgs/{}", world.settings.organization), "repositories"),
        GroupScope::Enterprise => (format!("enterprises/{}", world.settings.enterprise), "organizations"),
    };
    let url = format!("{}/{home}/actions/runner-groups/{}", world.base_url, group.id);
    let mut value = json!({
        "id": group.id, "name": group.name, "visibility": group.visibility, "default": group.id == 1,
        "runners_url": format!("{url}/runners"), "allows_public_repositories": group.allows_public_repositories,
        "workflow_restrictions_read_only": false, "restricted_to_workflows": group.restricted_to_workflows,
        "selected_workflows": group.selected_workflows,
    });
    if group.scope == GroupScope::Organization {
        value["inherited"] = json!(group.inherited);
    }
    if group.visibility == "selected" {
        value[format!("selected_{members}_url")] = json!(format!("{url}/{members}"));
    }
    value
}

pub(super) fn downloads() -> Value {
    let systems = [
        ("linux", "x64", "tar.gz"),
        ("linux", "arm64", "tar.gz"),
        ("linux", "arm", "tar.gz"),
        ("osx", "x64", "tar.gz"),
        ("osx", "arm64", "tar.gz"),
        ("win", "x64", "zip"),
        ("win", "arm64", "zip"),
    ];
    systems
        .iter()
        .map(|(os, arch, ending)| {
            let file = format!("actions-runner-{os}-{arch}-{RUNNER_VERSION}.{ending}");
            let url = format!("https://github.com/actions/runner/releases/download/v{RUNNER_VERSION}/{file}");
            json!({"os": os, "architecture": arch, "filename": file, "download_url": url})
        })
        .collect()
}

/// A job; both the REST API and webhooks have this shape.
pub(super) fn job(world: &World, job: &Job) -> Value {
    let repository = format!("{}/{}", world.settings.organization, job.repository.name);
    let api = format!("{}/repos/{repository}", world.base_url);
    let created = world.stamp(job.created_at);
    let started = job.taken_at.map_or(created, |at| world.stamp(at));
    let completed = job.finished_at.map(|at| world.stamp(at));
    let steps = match job.status {
        JobStatus::Queued | JobStatus::Waiting => json!([]),
        JobStatus::Completed if job.taken_at.is_none() => json!([]),
        status => json!([{
            "name": "Set up job", "number": 1, "status": status.as_str(), "started_at": started,
            "conclusion": job.conclusion.map(|c| c.as_str()), "completed_at": completed,
        }]),
    };
    let taken = job.runner.as_ref();
    json!({
        "id": job.id.0, "run_id": job.run_id, "run_attempt": 1, "run_url": format!("{api}/actions/runs/{}", job.run_id),
        "node_id": format!("CR_{}", job.id.0), "head_sha": SHA, "head_branch": "main",
        "url": format!("{api}/actions/jobs/{}", job.id.0),
        "html_url": format!("{SITE}/{repository}/actions/runs/{}/job/{}", job.run_id, job.id.0),
        "check_run_url": format!("{api}/check-runs/{}", job.id.0),
        "status": job.status.as_str(), "conclusion": job.conclusion.map(|c| c.as_str()),
        "created_at": created, "started_at": started, "completed_at": completed,
        "name": job.name, "workflow_name": "ci", "steps": steps, "labels": job.labels,
        "runner_id": taken.map(|r| r.id), "runner_name": taken.map(|r| r.name.as_str()),
        "runner_group_id": taken.map(|r| r.group), "runner_group_name": taken.map(|r| r.group_name.as_str()),
    })
}

/// A workflow run.
pub(super) fn run(world: &World, run: &Run<'_>) -> Value {
    let (job, status) = (run.job, run.status());
    let full_name = format!("{}/{}", world.settings.organization, job.repository.name);
    let url = format!("{}/repos/{full_name}/actions/runs/{}", world.base_url, job.run_id);
    let repository = repository(world, &job.repository);
    let created = world.stamp(job.created_at);
    json!({
        "id": job.run_id, "name": "ci", "display_title": job.name, "node_id": format!("WFR_{}", job.run_id),
        "check_suite_id": job.run_id, "check_suite_node_id": format!("CS_{}", job.run_id),
        "head_branch": "main", "head_sha": SHA, "path": ".github/workflows/ci.yml", "run_number": job.run_id,
        "run_attempt": 1, "event": "push", "status": status.as_str(),
        "conclusion": if status == JobStatus::Completed { job.conclusion.map(|c| c.as_str()) } else { None }, "workflow_id": 7, "url": url,
        "html_url": format!("{SITE}/{full_name}/actions/runs/{}", job.run_id), "pull_requests": [],
        "created_at": created, "updated_at": world.stamp(job.finished_at.or(job.taken_at).unwrap_or(job.created_at)),
        "run_started_at": created, "actor": sender(world), "triggering_actor": sender(world),
        "jobs_url": format!("{url}/jobs"), "logs_url": format!("{url}/logs"),
        "check_suite_url": format!("{}/repos/{full_name}/check-suites/{}", world.base_url, job.run_id),
        "artifacts_url": format!("{url}/artifacts"), "cancel_url": format!("{url}/cancel"),
        "rerun_url": format!("{url}/rerun"), "previous_attempt_url": null,
        "workflow_url": format!("{}/repos/{full_name}/actions/workflows/7", world.base_url),
        "head_commit": {
            "id": SHA, "tree_id": SHA, "message": "A simulated change", "timestamp": created,
            "author": {"name": "Octo Dev", "email": "octo-dev@github.example"},
            "committer": {"name": "Octo Dev", "email": "octo-dev@github.example"},
        },
        "repository": repository, "head_repository": repository,
    })
}

/// The body of a webhook.
pub(super) fn payload(world: &World, action: Action, subject: &Job) -> Value {
    let mut repository = repository(world, &subject.repository);
    // Webhooks say that there is no license; the REST API leaves it out.
    if let Value::Object(fields) = &mut repository {
        fields.insert("license".to_owned(), Value::Null);
    }
    json!({
        "action": action.as_str(), "workflow_job": job(world, subject), "repository": repository,
        "organization": organization(world), "sender": sender(world),
        "installation": {"id": world.settings.installation, "node_id": "I_1"},
    })
}

pub(super) fn delivery(world: &World, delivery: &Delivery) -> Value {
    json!({
        "id": delivery.id, "guid": delivery.guid, "delivered_at": world.stamp(delivery.at),
        "redelivery": delivery.redelivery, "duration": delivery.took.as_secs_f64(),
        "status": delivery.status.text(), "status_code": delivery.status.code(), "event": "workflow_job",
        "action": delivery.action.as_str(), "installation_id": world.settings.installation,
        "repository_id": delivery.job.repository.id,
    })
}

pub(super) fn installation(world: &World) -> Value {
    let id = world.settings.installation;
    let url = format!("{}/app/installations/{id}", world.base_url);
    json!({
        "id": id, "app_id": 1, "app_slug": "runner-manager", "client_id": "Iv1.0000000000000001", "target_id": 11,
        "target_type": "Organization", "account": owner(world), "repository_selection": "all",
        "access_tokens_url": format!("{url}/access_tokens"),
        "repositories_url": format!("{}/installation/repositories", world.base_url),
        "html_url": format!("{SITE}/organizations/{}/settings/installations/{id}", world.settings.organization),
        "permissions": permissions(world), "events": ["workflow_job"], "created_at": EPOCH, "updated_at": EPOCH,
        "single_file_name": null, "suspended_by": null,
        "suspended_at": (world.app_trouble == Some(AppTrouble::Suspended)).then_some(EPOCH),
    })
}

/// What the installation may do.
pub(super) fn permissions(world: &World) -> Value {
    let all = [
        ("actions", "read"),
        ("administration", "write"),
        ("metadata", "read"),
        ("organization_self_hosted_runners", "write"),
    ];
    all.into_iter().filter(|(name, _)| !world.withheld.iter().any(|withheld| withheld == name)).collect()
}

/// What `GET /rate_limit` answers.
pub(super) fn rate_limit(world: &World) -> Value {
    let limit = |limit: u64, used: u64, of: Resource| {
        let reset = world.reset(of).as_second();
        json!({"limit": limit, "used": used, "remaining": limit - used, "reset": reset})
    };
    let counted = |of: Resource| {
        let (most, used) = world.used(of);
        limit(most, used, of)
    };
    let core = counted(Resource::Core);
    json!({
        "resources": {
            "core": core, "search": limit(30, 0, Resource::Core), "graphql": limit(5_000, 0, Resource::Core),
            "actions_runner_registration": counted(Resource::Registration),
        },
        "rate": core,
    })
}

/// The just-in-time config: three files, as the runner application keeps them, that lead back to `scope`.
pub(super) fn jit_config(world: &World, runner: &Runner) -> String {
    use base64::Engine as _;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let home = match &runner.scope {
        Scope::Organization => format!("{SITE}/{}", world.settings.organization),
        Scope::Enterprise => format!("{SITE}/enterprises/{}", world.settings.enterprise),
        Scope::Repository(name) => format!("{SITE}/{}/{name}", world.settings.organization),
    };
    let settings = json!({
        "AgentId": runner.id.to_string(), "AgentName": runner.name, "PoolId": runner.group.to_string(),
        "PoolName": world.group_name(runner), "DisableUpdate": "True", "Ephemeral": "True", "GitHubUrl": home,
        "ServerUrl": world.base_url, "ServerUrlV2": world.base_url, "UseV2Flow": "True", "WorkFolder": "_work",
    });
    let credentials = json!({
        "Scheme": "OAuth",
        "Data": {
            "ClientId": super::settings::random_guid(), "RequireFipsCryptography": "True",
            "AuthorizationUrl": format!("{}/runner-service/token", world.base_url),
        },
    });
    let part = |bytes: usize| encode(&(0..bytes).map(|_| rand::random::<u8>()).collect::<Vec<_>>());
    let key = json!({
        "d": runner.secret, "dp": part(128), "dq": part(128), "exponent": "AQAB", "inverseQ": part(128),
        "modulus": part(256), "p": part(128), "q": part(128),
    });
    let files = json!({
        ".runner": encode(settings.to_string().as_bytes()),
        ".credentials": encode(credentials.to_string().as_bytes()),
        ".credentials_rsaparams": encode(key.to_string().as_bytes()),
    });
    encode(files.to_string().as_bytes())
}
