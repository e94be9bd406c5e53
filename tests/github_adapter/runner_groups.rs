//! The runner group that carries the access rules.

use actors::id::{GroupName, RepositoryId, RunnerGroupId};
use actors::model::settings::GroupSettings;
use actors::port::github::{Access, Reach, RunnerGroup, RunnerGroupRemoval};
use actors::port::{GitHub, GitHubError};
use runner_manager::github::Client;
use serde_json::{Value, json};
use wiremock::matchers::{any, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::support::{
    client, enterprise, group, jit_request, organization, repository, restricted_group, runner, runner_group,
};

const GROUPS: &str = "/orgs/octo-org/actions/runner-groups";

fn ok(body: Value) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(body)
}

fn groups(groups: Vec<Value>) -> ResponseTemplate {
    ok(json!({"total_count": groups.len(), "runner_groups": groups}))
}

/// A server whose organization has these runner groups, and repositories in group 7.
async fn server(existing: Vec<Value>, repositories: &[u64]) -> MockServer {
    let server = MockServer::start().await;
    let repositories: Vec<_> = repositories.iter().map(|id| json!({"id": id})).collect();
    let selected = ok(json!({"total_count": repositories.len(), "repositories": repositories}));
    Mock::given(method("GET")).and(path(GROUPS)).respond_with(groups(existing)).mount(&server).await;
    let of_group = format!("{GROUPS}/7/repositories");
    Mock::given(method("GET")).and(path(of_group)).respond_with(selected).mount(&server).await;
    let created = ResponseTemplate::new(201).set_body_json(runner_group(7, "octo-linux"));
    Mock::given(method("POST")).respond_with(created).mount(&server).await;
    Mock::given(method("PATCH")).respond_with(ok(runner_group(7, "octo-linux"))).mount(&server).await;
    Mock::given(method("PUT")).respond_with(ResponseTemplate::new(204)).mount(&server).await;
    server
}

/// What was changed on the server, in order: method, path below the groups, body.
async fn changes(server: &MockServer) -> Vec<(String, String, Value)> {
    let requests = server.received_requests().await.unwrap();
    let changes = requests.iter().filter(|request| request.method.as_str() != "GET");
    let change = changes.map(|request| {
        let path = request.url.path().strip_prefix(GROUPS).unwrap_or(request.url.path());
        (request.method.to_string(), path.to_owned(), serde_json::from_slice(&request.body).unwrap_or_default())
    });
    change.collect()
}

async fn ensure(server: &MockServer, group: &GroupSettings) -> Result<RunnerGroupId, &'static str> {
    ensured(&client(&server.uri()), group).await
}

/// The id of the runner group that is to be joined.
async fn ensured(client: &Client, group: &GroupSettings) -> Result<RunnerGroupId, &'static str> {
    let found = client.ensure_runner_group(group, None).await.map_err(|error| error.kind())?;
    found.trouble.map_or(Ok(found.id), |error| Err(error.kind()))
}

/// Requests of this method to a path that ends so.
async fn count(server: &MockServer, method: &str, end: &str) -> usize {
    let requests = server.received_requests().await.unwrap();
    requests.iter().filter(|r| r.method.as_str() == method && r.url.path().ends_with(end)).count()
}

#[tokio::test]
async fn a_missing_group_is_created_with_its_access_rules() {
    let server = server(vec![runner_group(1, "Default"), runner_group(3, "Octo-Linux")], &[]).await;
    assert_eq!(ensure(&server, &restricted_group()).await, Ok(RunnerGroupId(7)));
    let body = json!({
        "name": "octo-linux", "visibility": "selected", "selected_repository_ids": [32, 91],
        "allows_public_repositories": false, "restricted_to_workflows": true,
        "selected_workflows": ["octo-org/app/.github/workflows/ci.yml@main"],
    });
    assert_eq!(changes(&server).await, [("POST".to_owned(), String::new(), body)]);
}

#[tokio::test]
async fn a_group_that_is_in_step_is_adopted_without_a_change() {
    let server = server(vec![runner_group(7, "octo-linux")], &[]).await;
    assert_eq!(ensure(&server, &group(organization())).await, Ok(RunnerGroupId(7)));
    assert_eq!(server.received_requests().await.unwrap().len(), 1);

    let mut same = runner_group(7, "octo-linux");
    same["visibility"] = json!("selected");
    same["allows_public_repositories"] = json!(false);
    same["restricted_to_workflows"] = json!(true);
    same["selected_workflows"] = json!(["octo-org/app/.github/workflows/ci.yml@main"]);
    let server = super::runner_groups::server(vec![same], &[91, 32]).await;
    assert_eq!(ensure(&server, &restricted_group()).await, Ok(RunnerGroupId(7)));
    assert_eq!(changes(&server).await, []);
}

#[tokio::test]
async fn each_access_rule_that_differs_is_brought_in_step() {
    for (field, value) in [
        ("visibility", json!("private")),
        ("allows_public_repositories", json!(false)),
        ("restricted_to_workflows", json!(true)),
    ] {
        let mut other = runner_group(7, "octo-linux");
        other[field] = value;
        let server = server(vec![other], &[]).await;
        assert_eq!(ensure(&server, &group(organization())).await, Ok(RunnerGroupId(7)));
        let body = json!({
            "name": "octo-linux", "visibility": "all", "allows_public_repositories": true,
            "restricted_to_workflows": false, "selected_workflows": [],
        });
        assert_eq!(changes(&server).await, [("PATCH".to_owned(), "/7".to_owned(), body)], "{field}");
    }
}

#[tokio::test]
async fn selected_repositories_that_differ_are_replaced() {
    let server = server(vec![runner_group(7, "octo-linux")], &[32]).await;
    let wanted =
        GroupSettings { selected_repository_ids: restricted_group().selected_repository_ids, ..group(organization()) };
    assert_eq!(ensure(&server, &wanted).await, Ok(RunnerGroupId(7)));
    let changes = changes(&server).await;
    assert_eq!(changes[0].2["visibility"], "selected");
    let put = ("PUT".to_owned(), "/7/repositories".to_owned(), json!({"selected_repository_ids": [32, 91]}));
    assert_eq!(changes[1..], [put]);
}

#[tokio::test]
async fn what_the_enterprise_decides_is_left_alone() {
    let mut inherited = runner_group(7, "octo-linux");
    inherited["inherited"] = json!(true);
    let mut read_only = runner_group(7, "octo-linux");
    read_only["workflow_restrictions_read_only"] = json!(true);
    let restricted = GroupSettings { restricted_to_workflows: true, ..group(organization()) };
    for existing in [inherited, read_only] {
        let server = server(vec![existing], &[]).await;
        assert_eq!(ensure(&server, &restricted).await, Ok(RunnerGroupId(7)));
        assert_eq!(changes(&server).await, []);
    }
}

#[tokio::test]
async fn a_group_that_someone_else_created_meanwhile_is_adopted() {
    for status in [409, 422] {
        let server = MockServer::start().await;
        let listing = |list| Mock::given(method("GET")).respond_with(groups(list));
        listing(vec![]).up_to_n_times(1).mount(&server).await;
        listing(vec![runner_group(7, "octo-linux")]).mount(&server).await;
        Mock::given(method("POST")).respond_with(ResponseTemplate::new(status)).mount(&server).await;
        assert_eq!(ensure(&server, &group(organization())).await, Ok(RunnerGroupId(7)));
    }
}

#[tokio::test]
async fn without_runner_groups_it_is_the_default_one() {
    let message = |text: &str| json!({"message": text});
    let upgrade = message("Upgrade to GitHub Team to use runner groups");
    for (list, create, body) in
        [(404, 0, message("Not Found")), (403, 0, upgrade.clone()), (200, 403, upgrade.clone()), (200, 422, upgrade)]
    {
        let server = MockServer::start().await;
        let listed = if list == 200 { groups(vec![]) } else { ResponseTemplate::new(list).set_body_json(&body) };
        Mock::given(method("GET")).respond_with(listed).mount(&server).await;
        let created = ResponseTemplate::new(create.max(201)).set_body_json(&body);
        Mock::given(method("POST")).respond_with(created).mount(&server).await;
        assert_eq!(ensure(&server, &group(organization())).await, Ok(RunnerGroupId(1)), "{list} {create}");
    }
}

#[tokio::test]
async fn a_lost_permission_does_not_move_restricted_runners_to_the_open_default_group() {
    for (status, kind) in [(404, "not_found"), (403, "forbidden"), (401, "unauthorized"), (502, "unknown")] {
        let server = MockServer::start().await;
        Mock::given(any()).respond_with(ResponseTemplate::new(status)).mount(&server).await;
        assert_eq!(ensure(&server, &restricted_group()).await, Err(kind));
    }
}

#[tokio::test]
async fn a_repository_has_the_default_group_and_is_asked_for_its_id_until_it_tells() {
    let server = MockServer::start().await;
    let client = client(&server.uri());
    let group = group(repository());
    let found = client.ensure_runner_group(&group, None).await.unwrap();
    assert_eq!(found, RunnerGroup::in_step(RunnerGroupId(1)), "without an answer the name has to do");
    Mock::given(path("/repos/octo/app")).respond_with(ok(json!({"id": 101, "name": "renamed"}))).mount(&server).await;
    for _ in 0..3 {
        let found = client.ensure_runner_group(&group, None).await.unwrap();
        assert_eq!((found.id, found.reach.repository), (RunnerGroupId(1), Some(RepositoryId(101))));
    }
    assert_eq!(server.received_requests().await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_enterprise_group_says_nothing_about_organizations_it_was_not_told_of() {
    let server = MockServer::start().await;
    let mut existing = runner_group(7, "octo-linux");
    existing["visibility"] = json!("selected");
    existing["allows_public_repositories"] = json!(false);
    let path = "/enterprises/octo-corp/actions/runner-groups";
    Mock::given(method("GET")).and(super::path(path)).respond_with(groups(vec![existing])).mount(&server).await;
    Mock::given(method("PATCH")).respond_with(ok(runner_group(7, "octo-linux"))).mount(&server).await;
    let wanted =
        GroupSettings { selected_repository_ids: restricted_group().selected_repository_ids, ..group(enterprise()) };
    assert_eq!(ensure(&server, &wanted).await, Ok(RunnerGroupId(7)));
    let changes = changes(&server).await;
    assert_eq!((changes.len(), changes[0].1.as_str()), (1, format!("{path}/7").as_str()));
    assert!(changes[0].2.get("visibility").is_none() && changes[0].2["allows_public_repositories"] == true);
}

#[tokio::test]
async fn one_listing_serves_all_groups_of_a_scope_and_knows_what_was_made_meanwhile() {
    let server = MockServer::start().await;
    let named = |n: u32| GroupSettings { name: GroupName::new(format!("octo-{n}")).unwrap(), ..group(organization()) };
    Mock::given(method("GET")).respond_with(groups(vec![runner_group(1, "Default")])).mount(&server).await;
    for n in 0..10_u32 {
        let created = ResponseTemplate::new(201).set_body_json(runner_group(100 + u64::from(n), &format!("octo-{n}")));
        Mock::given(method("POST")).respond_with(created).up_to_n_times(1).mount(&server).await;
    }
    let client = client(&server.uri());
    for _ in 0..3 {
        for n in 0..10_u32 {
            let id = RunnerGroupId(100 + u64::from(n));
            assert_eq!(ensured(&client, &named(n)).await, Ok(id), "{n}");
        }
    }
    assert_eq!((count(&server, "GET", "runner-groups").await, count(&server, "POST", "runner-groups").await), (1, 10));
}

#[tokio::test]
async fn a_group_that_was_renamed_gets_its_name_back_unless_another_one_has_it() {
    let renamed = server(vec![runner_group(1, "Default"), runner_group(7, "theirs")], &[]).await;
    let wanted = group(organization());
    let client_of = |server: &MockServer| client(&server.uri());
    let found = client_of(&renamed).ensure_runner_group(&wanted, Some(RunnerGroupId(7))).await.unwrap();
    assert_eq!((found.id, found.repaired.as_deref()), (RunnerGroupId(7), Some("its name was \"theirs\"")));
    let changed = changes(&renamed).await;
    assert_eq!((changed.len(), changed[0].0.as_str(), &changed[0].2["name"]), (1, "PATCH", &json!("octo-linux")));

    let both = server(vec![runner_group(7, "theirs"), runner_group(8, "octo-linux")], &[]).await;
    let found = client_of(&both).ensure_runner_group(&wanted, Some(RunnerGroupId(7))).await.unwrap();
    assert_eq!((found.id, found.repaired), (RunnerGroupId(8), None));
    // The default group, or one that is shared, is never taken for it.
    let mut shared = runner_group(7, "theirs");
    shared["inherited"] = json!(true);
    for (existing, last) in [(runner_group(1, "Default"), 1), (shared, 7)] {
        let server = server(vec![existing], &[]).await;
        client_of(&server).ensure_runner_group(&wanted, Some(RunnerGroupId(last))).await.unwrap();
        assert_eq!(changes(&server).await[0].0, "POST");
    }
}

#[tokio::test]
async fn a_change_says_what_differed_and_a_refused_one_who_may_use_the_group_meanwhile() {
    let mut other = runner_group(7, "octo-linux");
    other["visibility"] = json!("private");
    other["allows_public_repositories"] = json!(false);
    let existing = server(vec![other.clone()], &[]).await;
    let found = client(&existing.uri()).ensure_runner_group(&group(organization()), None).await.unwrap();
    assert_eq!(found.repaired.as_deref(), Some("its visibility was \"private\"; public repositories were not allowed"));
    assert_eq!((found.trouble, found.reach), (None, Reach::default()));

    let server = MockServer::start().await;
    Mock::given(method("GET")).respond_with(groups(vec![other])).mount(&server).await;
    Mock::given(method("PATCH")).respond_with(ResponseTemplate::new(403)).mount(&server).await;
    let found = client(&server.uri()).ensure_runner_group(&group(organization()), None).await.unwrap();
    assert!(matches!(found.trouble, Some(GitHubError::Forbidden(_))), "{found:?}");
    let access = Access { runner_group: "octo-linux".to_owned(), public: false, selected: None };
    assert_eq!(found.reach, Reach { repository: None, access: Some(access) });
}

#[tokio::test]
async fn a_listing_that_is_not_true_any_more_is_read_again() {
    // What a registration is told, and what a change is.
    for gone in ["generate-jitconfig", "runner-groups/7"] {
        let server = MockServer::start().await;
        let mut other = runner_group(7, "octo-linux");
        other["visibility"] = json!(if gone == "generate-jitconfig" { "all" } else { "private" });
        let listing = |list| Mock::given(method("GET")).and(path(GROUPS)).respond_with(groups(list));
        listing(vec![other, runner_group(9, "other")]).up_to_n_times(1).mount(&server).await;
        listing(vec![]).mount(&server).await;
        let not_found = || ResponseTemplate::new(404);
        Mock::given(path("/orgs/octo-org/actions/runners/generate-jitconfig"))
            .respond_with(not_found())
            .mount(&server)
            .await;
        Mock::given(method("PATCH")).respond_with(not_found()).mount(&server).await;
        let created = ResponseTemplate::new(201).set_body_json(runner_group(8, "octo-linux"));
        Mock::given(method("POST")).and(path(GROUPS)).respond_with(created).mount(&server).await;
        let client = client(&server.uri());
        let another = GroupSettings { name: GroupName::new("other").unwrap(), ..group(organization()) };
        assert_eq!(ensured(&client, &another).await, Ok(RunnerGroupId(9)));
        if gone == "generate-jitconfig" {
            assert_eq!(ensured(&client, &group(organization())).await, Ok(RunnerGroupId(7)));
            client.generate_jit_config(&jit_request(organization())).await.unwrap_err();
        }
        assert_eq!(ensured(&client, &group(organization())).await, Ok(RunnerGroupId(8)), "{gone}");
    }
}

#[tokio::test]
async fn who_may_use_a_group_that_is_not_ours_to_change_is_told() {
    let access = async |existing: Value, repositories: &[u64]| {
        let server = server(vec![existing], repositories).await;
        let found = client(&server.uri()).ensure_runner_group(&group(organization()), None).await.unwrap();
        assert_eq!((found.trouble, found.repaired), (None, None));
        found.reach.access.unwrap()
    };
    let inherited = |visibility: &str, public: bool, enterprise: bool| {
        let mut group = runner_group(7, "octo-linux");
        group["inherited"] = json!(true);
        group["visibility"] = json!(visibility);
        group["allows_public_repositories"] = json!(public);
        group["inherited_allows_public_repositories"] = json!(enterprise);
        group
    };
    let told = |public, selected: Option<&[u64]>| Access {
        runner_group: "octo-linux".to_owned(),
        public,
        selected: selected.map(|ids| ids.iter().map(|id| RepositoryId(*id)).collect()),
    };
    assert_eq!(access(inherited("all", true, true), &[]).await, told(true, None));
    assert_eq!(access(inherited("all", true, false), &[]).await, told(false, None));
    assert_eq!(access(inherited("all", false, true), &[]).await, told(false, None));
    assert_eq!(access(inherited("private", true, true), &[]).await, told(false, None));
    assert_eq!(access(inherited("selected", true, true), &[32, 91]).await, told(true, Some(&[32, 91])));
    let many: Vec<u64> = (0..1001).collect();
    assert_eq!(access(inherited("selected", true, true), &many).await, told(true, None), "too many to tell apart");

    // A plan without runner groups: the default one takes the runners.
    let server = MockServer::start().await;
    let mut default = runner_group(1, "Default");
    default["allows_public_repositories"] = json!(false);
    Mock::given(method("GET")).respond_with(groups(vec![default])).mount(&server).await;
    let upgrade = ResponseTemplate::new(403).set_body_json(json!({"message": "Upgrade to GitHub Team"}));
    Mock::given(method("POST")).respond_with(upgrade).mount(&server).await;
    let found = client(&server.uri()).ensure_runner_group(&group(organization()), None).await.unwrap();
    let default = Access { runner_group: "Default".to_owned(), ..told(false, None) };
    assert_eq!((found.id, found.reach.access), (RunnerGroupId(1), Some(default)));
}

#[tokio::test]
async fn a_group_that_had_its_runner_group_does_not_move_to_the_default_one_when_a_permission_is_lost() {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(ResponseTemplate::new(404)).mount(&server).await;
    let wanted = group(organization());
    let found = client(&server.uri()).ensure_runner_group(&wanted, Some(RunnerGroupId(7))).await;
    assert_eq!(found.unwrap_err().kind(), "not_found");
}

#[tokio::test]
async fn a_group_is_deleted_only_when_it_is_ours_and_empty() {
    let delete = async |existing: Vec<Value>, inside: Vec<Value>, wanted: GroupSettings| {
        let server = MockServer::start().await;
        let inside = ok(json!({"total_count": inside.len(), "runners": inside}));
        Mock::given(path(format!("{GROUPS}/7/runners"))).respond_with(inside).mount(&server).await;
        Mock::given(method("GET")).respond_with(groups(existing)).mount(&server).await;
        Mock::given(method("DELETE")).respond_with(ResponseTemplate::new(204)).mount(&server).await;
        let last = Some(RunnerGroupId(7));
        let answer = client(&server.uri()).delete_runner_group(&wanted, last).await.unwrap();
        (answer, changes(&server).await.iter().map(|(method, path, _)| format!("{method} {path}")).collect::<Vec<_>>())
    };
    let ours = || group(organization());
    let deleted = (RunnerGroupRemoval::Removed, vec!["DELETE /7".to_owned()]);
    assert_eq!(delete(vec![runner_group(7, "octo-linux")], vec![], ours()).await, deleted);
    assert_eq!(delete(vec![runner_group(7, "renamed")], vec![], ours()).await, deleted);
    assert_eq!(delete(vec![runner_group(1, "Default")], vec![], ours()).await, (RunnerGroupRemoval::Absent, vec![]));

    let kept = async |existing: Value, inside: Vec<Value>, wanted: GroupSettings, why: &str| {
        let (answer, changes) = delete(vec![existing], inside, wanted).await;
        assert!(matches!(&answer, RunnerGroupRemoval::Kept(text) if text.contains(why)), "{answer:?}");
        assert_eq!(changes, [""; 0]);
    };
    let four = || (1..5).map(|n| runner(n, &format!("theirs-{n}"))).collect();
    kept(runner_group(7, "octo-linux"), four(), ours(), "runners are in it (4): theirs-1, theirs-2, theirs-3, …").await;
    kept(runner_group(1, "octo-linux"), vec![], ours(), "default runner group").await;
    let mut inherited = runner_group(7, "octo-linux");
    inherited["inherited"] = json!(true);
    kept(inherited, vec![], ours(), "the enterprise shares it").await;
    kept(runner_group(7, "octo-linux"), vec![], group(repository()), "default runner group").await;
}
