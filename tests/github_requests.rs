//! Conformance: every request that the GitHub adapter sends is one that GitHub's OpenAPI description knows, and what
//! the tests let GitHub answer is what that description lets it answer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/openapi.rs"]
mod openapi;
#[path = "support/github.rs"]
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use actors::id::{JobId, RunnerId};
use actors::model::secret::Secret;
use actors::model::settings::{Arch, Os, Scope};
use actors::port::GitHub;
use actors::port::github::{Records, RepositoryName};
use openapi::{Spec, contract_dir, validate_request, validate_response};
use runner_manager::github::{Client, Credential, Settings};
use serde_json::{Value, json};
use support::{
    Recorder, asker, client, enterprise, group, jit_request, organization, repository, restricted_group, runner,
    runner_group, runner_name,
};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

/// A GitHub with two pages of runners and one runner group that is out of step.
struct Answers;

fn answer(request: &Request) -> (u16, Option<Value>) {
    let (path, method) = (request.url.path(), request.method.as_str());
    let last = path.rsplit('/').next().unwrap();
    let mut group = runner_group(7, "octo-linux");
    group["visibility"] = json!("private");
    group["allows_public_repositories"] = json!(path.starts_with("/orgs"));
    let group_exists = !path.contains("empty");
    let body = match (method, last) {
        ("GET", "runners") if path.contains("runner-groups") => json!({"total_count": 0, "runners": []}),
        ("GET", "app") => json!({"id": 5}),
        ("GET", "runners") => json!({"total_count": 2, "runners": [runner(2, "foreign")]}),
        ("GET", "runner-groups") if !group_exists => json!({"total_count": 0, "runner_groups": []}),
        ("GET", "runner-groups") => json!({"total_count": 1, "runner_groups": [group]}),
        ("GET", "repositories") => json!({"total_count": 0, "repositories": []}),
        ("GET", "downloads") => json!([
            {"os": "linux", "architecture": "x64", "download_url": "https://x.invalid/a", "filename": "a"}
        ]),
        ("GET", "installation") => json!({"id": 99}),
        ("GET", "rate_limit") => json!({}),
        ("GET", "runs") if request.url.query().unwrap_or_default().contains("queued") => {
            json!({"total_count": 1, "workflow_runs": [run()]})
        }
        ("GET", "runs") => json!({"total_count": 0, "workflow_runs": []}),
        ("GET", "jobs") => json!({"total_count": 1, "jobs": [job()]}),
        ("GET", "7") if path.contains("/jobs/") => job(),
        ("GET", "70") => run(),
        ("GET", "hooks") => json!([{"id": 3, "config": {"url": "https://x.invalid/webhook"}}]),
        ("GET", "config") => json!({"url": "https://x.invalid/webhook"}),
        ("GET", "deliveries") => json!([]),
        ("POST", "attempts") => return (202, Some(json!({}))),
        ("POST", "access_tokens") => json!({"token": "ghs_x", "expires_at": "2099-01-01T00:00:00Z"}),
        ("POST", "generate-jitconfig") => {
            json!({"runner": runner(23, runner_name(1).as_str()), "encoded_jit_config": "YQ=="})
        }
        ("POST", "runner-groups") => group,
        ("PATCH", "7") => group,
        ("PUT", _) | ("DELETE", _) => return (204, None),
        _ => panic!("{method} {path} was not expected"),
    };
    (if method == "POST" { 201 } else { 200 }, Some(body))
}

fn job() -> Value {
    json!({"id": 7, "run_id": 70, "status": "queued", "labels": []})
}

fn run() -> Value {
    json!({"id": 70, "repository": {"id": 5, "name": "app", "private": true, "owner": {"login": "octo"}}})
}

impl Respond for Answers {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let (status, body) = answer(request);
        let mut template = ResponseTemplate::new(status);
        if let Some(body) = body {
            template = template.set_body_json(body);
        }
        let paged = request.method.as_str() == "GET" && !request.url.query().unwrap_or_default().contains("page=2");
        if paged && request.url.path().ends_with("/runners") {
            let query = request.url.query().unwrap_or_default();
            let next = format!("<https://api.github.com{}?{query}&page=2>; rel=\"next\"", request.url.path());
            template = template.append_header("link", next.as_str());
        }
        template
    }
}

/// Calls each method of the port for `scope`.
async fn call_everything(client: &Client, scope: &Scope) {
    let name = runner_name(1);
    client.ensure_runner_group(&group(scope.clone()), None).await.unwrap();
    let restricted = match scope {
        Scope::Organization(_) => actors::model::settings::GroupSettings { scope: scope.clone(), ..restricted_group() },
        other => group(other.clone()),
    };
    let group = client.ensure_runner_group(&restricted, None).await.unwrap();
    assert_eq!(group.trouble, None);
    client.delete_runner_group(&restricted, None).await.unwrap();
    client.generate_jit_config(&jit_request(scope.clone())).await.unwrap();
    client.list_runners(scope).await.unwrap();
    client.find_runner(scope, &name).await.unwrap();
    client.delete_runner(scope, RunnerId(23)).await.unwrap();
    client.runner_download(scope, Os::Linux, Arch::X64).await.unwrap();
}

/// Asks what the credential may do.
async fn probe_everything(client: &Client, scope: &Scope) {
    client.probe_credential().await.unwrap();
    client.probe_runners(scope).await.unwrap();
    client.probe_runner_group(&group(scope.clone())).await.unwrap();
}

/// Calls each method of the port that remembers.
async fn remember_everything(client: &Client, scope: &Scope) {
    let repository = RepositoryName { owner: "octo".to_owned(), name: "app".to_owned() };
    let asker = &asker(scope.clone());
    client.job(asker, &repository, JobId(7)).await.unwrap().unwrap();
    assert_eq!(client.open_jobs(asker, &repository, 10).await.unwrap().len(), 1);
    let hook = client.hook(asker, "/webhook").await.unwrap().unwrap();
    client.deliveries(asker, &hook, jiff::Timestamp::now(), None).await.unwrap();
    client.redeliver(asker, &hook, 12).await.unwrap();
}

#[tokio::test]
async fn every_request_is_one_that_github_describes() {
    let Some(directory) = contract_dir() else {
        println!("skipped: CONTRACT_DIR is not set");
        return;
    };
    let spec = Spec::load(&directory);
    let server = MockServer::start().await;
    Mock::given(wiremock::matchers::any()).respond_with(Answers).mount(&server).await;
    let none = [Scope::Organization("empty".to_owned()), Scope::Enterprise("empty".to_owned())];
    for scope in [organization(), repository(), enterprise()].iter().chain(&none) {
        call_everything(&client(&server.uri()), scope).await;
        probe_everything(&client(&server.uri()), scope).await;
    }
    let key = Secret::new(include_str!("support/app-key.pem").to_owned());
    let credential = Credential::App { app_id: 1, private_key: key, installation_id: None };
    let app = Client::new(Settings::new(server.uri(), credential), Arc::new(Recorder::default())).unwrap();
    for scope in [Scope::Organization("other".to_owned()), repository()] {
        app.list_runners(&scope).await.unwrap();
        probe_everything(&app, &scope).await;
        remember_everything(&app, &scope).await;
    }
    for scope in [organization(), repository()] {
        remember_everything(&client(&server.uri()), &scope).await;
    }

    let mut seen = BTreeSet::new();
    for request in server.received_requests().await.unwrap() {
        let (method, path) = (request.method.as_str(), request.url.path());
        let body: Option<Value> = (!request.body.is_empty()).then(|| serde_json::from_slice(&request.body).unwrap());
        validate_request(&spec, method, path, request.url.query(), body.as_ref()).unwrap();
        let (status, answered) = answer(&request);
        // Some are answered with no more than what is read: the simulated GitHub's answers are whole.
        let brief = path == "/repos/octo/app"
            || ["/installation", "/rate_limit", "/repositories", "/runs", "/jobs", "/hooks"]
                .iter()
                .any(|part| path.contains(part));
        if !brief {
            validate_response(&spec, method, path, status, answered.as_ref()).unwrap();
        }
        seen.insert(format!("{method} {path}"));
    }
    for expected in [
        "GET /orgs/octo-org/actions/runner-groups",
        "POST /orgs/empty/actions/runner-groups",
        "PATCH /orgs/octo-org/actions/runner-groups/7",
        "GET /orgs/octo-org/actions/runner-groups/7/repositories",
        "PUT /orgs/octo-org/actions/runner-groups/7/repositories",
        "GET /orgs/octo-org/actions/runner-groups/7/runners",
        "DELETE /orgs/octo-org/actions/runner-groups/7",
        "GET /enterprises/octo-corp/actions/runner-groups/7/runners",
        "DELETE /enterprises/octo-corp/actions/runner-groups/7",
        "GET /repos/octo/app",
        "POST /enterprises/empty/actions/runner-groups",
        "PATCH /enterprises/octo-corp/actions/runner-groups/7",
        "POST /repos/octo/app/actions/runners/generate-jitconfig",
        "DELETE /enterprises/octo-corp/actions/runners/23",
        "GET /repos/octo/app/installation",
        "POST /app/installations/99/access_tokens",
        "GET /repos/octo/app/actions/jobs/7",
        "GET /repos/octo/app/actions/runs",
        "GET /repos/octo/app/actions/runs/70",
        "GET /repos/octo/app/actions/runs/70/jobs",
        "GET /orgs/octo-org/hooks",
        "GET /repos/octo/app/hooks",
        "GET /orgs/octo-org/hooks/3/deliveries",
        "POST /repos/octo/app/hooks/3/deliveries/12/attempts",
        "GET /app/hook/config",
        "GET /rate_limit",
        "GET /app/hook/deliveries",
        "POST /app/hook/deliveries/12/attempts",
    ] {
        assert!(seen.contains(expected), "{expected} was not sent");
    }
    println!("{} different requests are described", seen.len());
}

/// A description with one of each thing that is checked.
fn small() -> Spec {
    let thing = json!({
        "type": "object", "required": ["id"],
        "properties": {"id": {"type": "integer"}, "note": {"type": "string", "nullable": true}},
    });
    let body = json!({"content": {"application/json": {"schema": {"$ref": "#/components/schemas/thing"}}}});
    let number = |place: &str, name: &str| json!({"name": name, "in": place, "schema": {"type": "integer"}});
    Spec::new(vec![json!({
        "paths": {
            "/things/{id}": {
                "get": {
                    "parameters": [number("path", "id"), {"$ref": "#/components/parameters/page"}],
                    "responses": {"200": body, "404": {"$ref": "#/components/responses/problem"}},
                },
                "put": {
                    "parameters": [number("path", "id")],
                    "requestBody": {"required": true, "content": body["content"]},
                    "responses": {"204": {"description": "done"}},
                },
            },
            "/things/latest": {"get": {"responses": {"200": body}}},
        },
        "components": {
            "schemas": {"thing": thing},
            "parameters": {"page": number("query", "page")},
            "responses": {"problem": {"content": {"application/json": {"schema": {
                "type": "object", "required": ["message"],
            }}}}},
        },
    })])
}

#[test]
fn requests_that_are_not_described_are_found() {
    let spec = small();
    let request = |method: &str, path: &str, query: Option<&str>, body: Option<Value>| {
        validate_request(&spec, method, path, query, body.as_ref()).map_err(|error| error.to_string())
    };
    assert_eq!(request("GET", "/things/7", Some("page=2"), None), Ok(()));
    assert_eq!(request("GET", "/things/latest", None, None), Ok(()));
    assert_eq!(request("PUT", "/things/7", None, Some(json!({"id": 7, "note": null}))), Ok(()));
    for (method, path, query, body, why) in [
        ("GET", "/thing/7", None, None, "no path"),
        ("DELETE", "/things/7", None, None, "no method DELETE"),
        ("GET", "/things/seven", None, None, "path parameter id"),
        ("GET", "/things/7", Some("pages=2"), None, "no query parameter \"pages\""),
        ("GET", "/things/7", Some("page=two"), None, "query parameter page"),
        ("GET", "/things/7", None, Some(json!({})), "takes no JSON body"),
        ("PUT", "/things/7", None, None, "body is missing"),
        ("PUT", "/things/7", None, Some(json!({})), "\"id\" is a required property"),
        ("PUT", "/things/7", None, Some(json!({"id": "7"})), "/id"),
        ("PUT", "/things/7", None, Some(json!({"id": 7, "ids": 7})), "no field \"ids\""),
    ] {
        let error = request(method, path, query, body).unwrap_err();
        assert!(error.contains(why), "{method} {path}: {error}");
    }
}

#[test]
fn answers_that_are_not_described_are_found() {
    let spec = small();
    let response = |method: &str, status: u16, body: Option<Value>| {
        validate_response(&spec, method, "/things/7", status, body.as_ref())
    };
    assert_eq!(response("GET", 200, Some(json!({"id": 7, "more": true}))), Ok(()));
    assert_eq!(response("GET", 404, Some(json!({"message": "Not Found"}))), Ok(()));
    assert_eq!(response("GET", 502, None), Ok(()));
    assert_eq!(response("GET", 403, Some(json!({"message": "no"}))), Ok(()));
    assert_eq!(response("PUT", 204, None), Ok(()));
    for (method, status, body) in [
        ("GET", 200, None),
        ("GET", 200, Some(json!({"id": 7, "note": 7}))),
        ("GET", 201, Some(json!({"id": 7}))),
        ("GET", 404, Some(json!({}))),
        ("GET", 403, Some(json!({"error": "no"}))),
        ("PUT", 204, Some(json!({}))),
    ] {
        assert!(response(method, status, body.clone()).is_err(), "{method} {status} {body:?}");
    }
}
