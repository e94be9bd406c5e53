//! The runner group that carries the access rules.

use actors::id::RunnerGroupId;
use actors::model::settings::GroupSettings;
use actors::port::GitHub;
use serde_json::{Value, json};
use wiremock::matchers::{any, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::support::{client, enterprise, group, organization, repository, restricted_group, runner_group};

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
    client(&server.uri()).ensure_runner_group(group).await.map_err(|error| error.kind())
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
async fn a_repository_has_the_default_group_and_is_not_asked() {
    let server = server(vec![], &[]).await;
    assert_eq!(ensure(&server, &group(repository())).await, Ok(RunnerGroupId(1)));
    assert_eq!(server.received_requests().await.unwrap().len(), 0);
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
