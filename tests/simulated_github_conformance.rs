//! The simulated GitHub's answers and webhooks are valid by GitHub's own descriptions of them.
//!
//! The descriptions are not part of this project: `CONTRACT_DIR` says where they are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "tests may panic")]

mod support {
    #![allow(dead_code, reason = "other tests use other parts")]
    pub mod openapi;
    pub mod simulated;
}

use std::path::PathBuf;
use std::time::Duration;

use jsonschema::Validator;
use runner_manager::demo::github::{
    AppTrouble, Conclusion, Fault, HookOwner, JobRequest, JobStatus, Repository, Settings, Times,
};
use serde_json::{Value, json};
use support::openapi::{Spec, validate_request, validate_response};
use support::simulated::{Answer, Stage, until};

const LABELS: [&str; 3] = ["self-hosted", "Linux", "gpu"];

fn contract() -> Option<PathBuf> {
    let directory = std::env::var_os("CONTRACT_DIR").map(PathBuf::from);
    if directory.is_none() {
        eprintln!("skipped: CONTRACT_DIR is not set");
    }
    directory
}

/// Calls the simulated GitHub and checks what is sent and what comes back.
struct Checked {
    stage: Stage,
    spec: Spec,
    problems: Vec<String>,
    calls: u32,
}

impl Checked {
    async fn call(&mut self, method: &str, path: &str, body: Value, status: u16) -> Answer {
        let answer = self.stage.call(method, path, body.clone()).await;
        self.check(method, path, body, status, answer)
    }

    fn check(&mut self, method: &str, path: &str, body: Value, status: u16, answer: Answer) -> Answer {
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        self.calls += 1;
        if status < 400 {
            let (path, query) = split(path);
            self.problems.extend(validate_request(&self.spec, method, path, query, some(&body)).err());
        }
        self.problems.extend(validate_response(&self.spec, method, split(path).0, status, some(&answer.body)).err());
        answer
    }
}

fn split(path: &str) -> (&str, Option<&str>) {
    path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)))
}

fn some(body: &Value) -> Option<&Value> {
    (!body.is_null()).then_some(body)
}

#[tokio::test]
async fn every_answer_is_valid_by_githubs_description() {
    let Some(directory) = contract() else { return };
    let repositories =
        vec![Repository::private(101, "app"), Repository { id: 102, name: "tools".to_owned(), private: false }];
    let mut on = Checked {
        stage: Stage::set(Settings { repositories, ..Settings::default() }).await,
        spec: Spec::load(&directory),
        problems: Vec::new(),
        calls: 0,
    };
    let none = Value::Null;

    for home in ["/orgs/octo-org", "/enterprises/octo"] {
        let groups = format!("{home}/actions/runner-groups");
        let created = json!({"name": "linux", "visibility": "selected", "allows_public_repositories": true});
        let group = on.call("POST", &groups, created, 201).await.body["id"].clone();
        let amended =
            json!({"name": "linux", "restricted_to_workflows": true, "selected_workflows": ["a/b/c.yml@main"]});
        on.call("PATCH", &format!("{groups}/{group}"), amended, 200).await;
        on.call("GET", &groups, none.clone(), 200).await;
        on.call("GET", &format!("{groups}?per_page=1&page=2"), none.clone(), 200).await;
        on.call("GET", &format!("{groups}/{group}"), none.clone(), 200).await;
        if home == "/orgs/octo-org" {
            let repositories = format!("{groups}/{group}/repositories");
            on.call("PUT", &repositories, json!({"selected_repository_ids": [101, 102]}), 204).await;
            on.call("GET", &repositories, none.clone(), 200).await;
        }
        let runner = json!({"name": "member", "runner_group_id": group, "labels": LABELS});
        on.call("POST", &format!("{home}/actions/runners/generate-jitconfig"), runner, 201).await;
        on.call("GET", &format!("{groups}/{group}/runners"), none.clone(), 200).await;
        on.call("DELETE", &format!("{groups}/{group}"), none.clone(), 204).await;
    }
    for home in ["/orgs/octo-org", "/enterprises/octo", "/repos/octo-org/app"] {
        let runners = format!("{home}/actions/runners");
        let generate = format!("{runners}/generate-jitconfig");
        let body = |labels: Value| json!({"name": "one", "runner_group_id": 1, "labels": labels});
        let made = on.call("POST", &generate, body(json!(LABELS)), 201).await;
        on.call("POST", &generate, body(json!(LABELS)), 409).await;
        on.call("POST", &generate, body(json!([])), 422).await;
        on.call("GET", &runners, none.clone(), 200).await;
        on.call("GET", &format!("{runners}?name=one&per_page=1"), none.clone(), 200).await;
        on.call("GET", &format!("{runners}/downloads"), none.clone(), 200).await;
        let runner = format!("{runners}/{}", made.body["runner"]["id"]);
        on.call("GET", &runner, none.clone(), 200).await;
        on.call("DELETE", &runner, none.clone(), 204).await;
        on.call("DELETE", &runner, none.clone(), 404).await;
    }
    on.call("POST", "/orgs/nobody/actions/runners/generate-jitconfig", json!({}), 404).await;
    on.call("GET", "/rate_limit", none.clone(), 200).await;
    on.call("GET", "/repos/octo-org/app", none.clone(), 200).await;
    on.call("GET", "/repos/octo-org/nothing", none.clone(), 404).await;

    // A job in every state, and its run.
    let app = "/repos/octo-org/app/actions";
    let request = || JobRequest::new(LABELS, Duration::from_secs(3600));
    let waiting = on.stage.github.queue_job(JobRequest { waiting: true, ..request() });
    let cancelled = on.stage.github.queue_job(request());
    on.stage.github.cancel(cancelled);
    let running = on.stage.github.queue_job(request());
    let runner = on.stage.start_runner("busy", &LABELS).await;
    until("the job runs", || on.stage.github.count_jobs(JobStatus::InProgress) == 1).await;
    let queued = on.stage.github.queue_job(request());
    let busy = format!("/orgs/octo-org/actions/runners/{}", runner.id);
    on.call("GET", &busy, none.clone(), 200).await;
    on.call("DELETE", &busy, none.clone(), 422).await;
    let neighbour = on.stage.github.queue_job(JobRequest { run_of: Some(running), ..request() });
    for id in [waiting, cancelled, running, queued, neighbour] {
        let job = on.call("GET", &format!("{app}/jobs/{id}"), none.clone(), 200).await;
        let run = format!("{app}/runs/{}", job.body["run_id"]);
        on.call("GET", &run, none.clone(), 200).await;
        on.call("GET", &format!("{run}/jobs?filter=latest"), none.clone(), 200).await;
    }
    on.call("GET", &format!("{app}/runs?status=queued"), none.clone(), 200).await;
    on.call("GET", &format!("{app}/jobs/1"), none.clone(), 404).await;
    on.stage.github.cancel(running);
    runner.task.await.unwrap().unwrap();
    let done = on.call("GET", &format!("{app}/jobs/{running}"), none.clone(), 200).await;
    assert_eq!(done.body["conclusion"], "cancelled");

    until("the webhooks are answered", || on.stage.github.hook_counts().pending == 0).await;
    let deliveries = "/orgs/octo-org/hooks/4001/deliveries";
    let listed = on.call("GET", deliveries, none.clone(), 200).await;
    on.call("POST", &format!("{deliveries}/{}/attempts", listed.body[0]["id"]), none.clone(), 202).await;

    let wrong = on.stage.try_call("GET", "/orgs/octo-org/actions/runners", none.clone(), "wrong").await.unwrap();
    on.check("GET", "/orgs/octo-org/actions/runners", none.clone(), 401, wrong);
    let token = app_token();
    for (method, path, status) in [
        ("GET", "/orgs/octo-org/installation", 200),
        ("GET", "/repos/octo-org/app/installation", 200),
        ("POST", "/app/installations/1/access_tokens", 201),
        ("POST", "/app/installations/2/access_tokens", 404),
        ("GET", "/app/hook/deliveries?per_page=2", 200),
        ("GET", "/app/hook/config", 200),
    ] {
        let answer = on.stage.try_call(method, path, none.clone(), &token).await.unwrap();
        on.check(method, path, none.clone(), status, answer);
    }
    check_hooks_of_others(&mut on).await;
    check_refusals(&mut on).await;
    assert!(on.problems.is_empty(), "{} problems:\n{}", on.problems.len(), on.problems.join("\n"));
    assert!(on.calls > 70, "only {} calls were checked", on.calls);
}

/// The webhook of a repository, and of the App.
async fn check_hooks_of_others(on: &mut Checked) {
    let none = Value::Null;
    assert_eq!(on.call("GET", "/orgs/octo-org/hooks?per_page=100", none.clone(), 200).await.body[0]["id"], 4001);
    assert_eq!(on.call("GET", "/repos/octo-org/app/hooks", none.clone(), 200).await.body, json!([]));
    for (owner, home) in [(HookOwner::Repository("app".to_owned()), "/repos/octo-org/app/hooks"), (HookOwner::App, "")]
    {
        let stage = Stage::set(Settings { hook_owner: owner, ..Settings::default() }).await;
        stage.hooks.answer_with(500);
        stage.github.queue_job(JobRequest::new(LABELS, Duration::ZERO));
        until("the webhook is answered", || stage.github.hook_counts().failed == 1).await;
        let before = std::mem::replace(&mut on.stage, stage);
        if home.is_empty() {
            let token = app_token();
            let mut history = Value::Null;
            for path in ["/app/hook/config", "/app/hook/deliveries"] {
                let answer = on.stage.try_call("GET", path, none.clone(), &token).await.unwrap();
                history = on.check("GET", path, none.clone(), 200, answer).body;
            }
            let path = format!("/app/hook/deliveries/{}/attempts", history[0]["id"]);
            let answer = on.stage.try_call("POST", &path, none.clone(), &token).await.unwrap();
            on.check("POST", &path, none.clone(), 202, answer);
        } else {
            assert_eq!(on.call("GET", home, none.clone(), 200).await.body[0]["id"], 4001);
            let history = on.call("GET", &format!("{home}/4001/deliveries"), none.clone(), 200).await.body;
            let path = format!("{home}/4001/deliveries/{}/attempts", history[0]["id"]);
            on.call("POST", &path, none.clone(), 202).await;
        }
        on.stage = before;
    }
}

/// What is refused on purpose is refused in GitHub's words.
async fn check_refusals(on: &mut Checked) {
    let none = Value::Null;
    let runners = "/orgs/octo-org/actions/runners";
    let wait = Duration::from_secs(7);
    for (fault, status) in [
        (Fault::Status(502), 502),
        (Fault::RateLimited(wait), 429),
        (Fault::SecondaryLimit(wait), 403),
        (Fault::UsedUp(wait), 403),
        (Fault::Busy(true), 200),
    ] {
        on.stage.github.fail(None, fault, Times::Next(1));
        on.call("GET", runners, none.clone(), status).await;
    }
    let token = app_token();
    let path = "/app/installations/1/access_tokens";
    for (trouble, status) in [(AppTrouble::WrongKey, 401), (AppTrouble::Suspended, 403)] {
        on.stage.github.set_app_trouble(trouble);
        let answer = on.stage.try_call("POST", path, none.clone(), &token).await.unwrap();
        on.check("POST", path, none.clone(), status, answer);
    }
}

fn app_token() -> String {
    use base64::Engine as _;
    let now = jiff::Timestamp::now().as_second();
    let claims = json!({"iat": now - 60, "exp": now + 500, "iss": "1"}).to_string();
    format!("e30.{}.c2ln", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims))
}

#[tokio::test]
async fn every_webhook_is_valid_by_githubs_schema() {
    let Some(directory) = contract() else { return };
    let schema = std::fs::read_to_string(directory.join("workflow_job.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let validators: Vec<(&str, Validator)> = ["queued", "waiting", "in_progress", "completed"]
        .map(|action| {
            let whole = json!({
                "$schema": schema["$schema"], "definitions": schema["definitions"],
                "$ref": format!("#/definitions/workflow_job${action}"),
            });
            (action, jsonschema::options().should_validate_formats(true).build(&whole).unwrap())
        })
        .into();

    let stage = Stage::set(Settings::default()).await;
    let request = || JobRequest::new(LABELS, Duration::ZERO);
    let cancelled = stage.github.queue_job(request());
    stage.github.cancel(cancelled);
    stage.github.queue_job(JobRequest { waiting: true, ..request() });
    for (name, conclusion) in [("one", Conclusion::Success), ("two", Conclusion::Failure)] {
        stage.github.queue_job(JobRequest { conclusion, ..request() });
        stage.start_runner(name, &LABELS).await.task.await.unwrap().unwrap();
    }
    until("the webhooks are answered", || stage.github.hook_counts().pending == 0).await;

    let received = stage.hooks.received();
    assert_eq!(received.len(), 9);
    for hook in &received {
        let (_, validator) = validators.iter().find(|(action, _)| *action == hook.action()).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(&hook.body).map(|e| format!("at {:?}: {e}", e.instance_path().to_string())).collect();
        assert!(errors.is_empty(), "{}:\n{}", hook.action(), errors.join("\n"));
    }
}

#[test]
fn the_validator_finds_what_is_wrong() {
    let Some(directory) = contract() else { return };
    let spec = Spec::load(&directory);
    let path = "/orgs/octo-org/actions/runners/23";
    let good = json!({"id": 23, "name": "a", "os": "linux", "status": "online", "busy": false, "labels": [{"name": "x"}], "version": null});
    validate_response(&spec, "GET", path, 200, Some(&good)).unwrap();
    for (field, wrong) in [("id", json!("23")), ("busy", json!(null)), ("labels", json!([{}])), ("version", json!(1))] {
        let mut bad = good.clone();
        bad[field] = wrong;
        let error = validate_response(&spec, "GET", path, 200, Some(&bad)).unwrap_err();
        assert!(error.contains(field), "{error}");
    }
    validate_response(&spec, "GET", path, 418, Some(&json!([]))).unwrap_err();
    validate_response(&spec, "GET", path, 299, Some(&good)).unwrap_err();
    validate_response(&spec, "DELETE", path, 204, Some(&good)).unwrap_err();
    validate_response(&spec, "GET", "/nothing", 200, Some(&good)).unwrap_err();
    let generate = "/orgs/octo-org/actions/runners/generate-jitconfig";
    validate_request(&spec, "POST", generate, None, Some(&json!({"name": "a", "runner_group_id": 1}))).unwrap_err();
}
