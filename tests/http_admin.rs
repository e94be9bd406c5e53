//! The admin API, health, metrics and the pages over a real socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "http_admin/budget.rs"]
mod budget;
#[path = "support/fakes.rs"]
mod fakes;
#[path = "support/system.rs"]
mod system;
#[path = "support/web.rs"]
mod web;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use actors::id::*;
use actors::model::delivery::{JobFacts, RepositoryRef, RunnerRef};
use actors::model::group::{GroupSnapshot, Healthcheck, LastError};
use actors::model::job::{Job, JobStatus, Milestone};
use actors::model::runner::{Runner, RunnerState, Transition};
use actors::port::{Clock, StoreError};
use fakes::{Fake, Mood};
use jiff::{SignedDuration, Timestamp};
use runner_manager::http::Settings;
use serde_json::{Value, json};
use web::{ADMIN_KEY, PATIENCE, Request, Response, SECRET, Server, VIEWER_KEY, until};

const QUEUED: &str = include_str!("fixtures/workflow_job_queued.json");
const SHORT: Duration = Duration::from_millis(300);

async fn start(change: impl FnOnce(&mut Settings)) -> (Arc<Fake>, Server) {
    let fake = Fake::new();
    let front = fake.front(&[fakes::settings("octo-linux", 1, 3), fakes::settings("octo-arm", 0, 2)]);
    let server = Server::start(front, web::settings(change)).await;
    (fake, server)
}

fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

fn job(id: u64, status: JobStatus, queued_at: Timestamp) -> Job {
    Job {
        facts: JobFacts {
            id: JobId(id),
            run_id: 9,
            run_attempt: Some(1),
            name: format!("build <{id}>"),
            workflow_name: Some("CI".into()),
            head_branch: Some("main".into()),
            labels: vec!["octo-linux".into()],
            repository: RepositoryRef {
                id: RepositoryId(1),
                owner: "octo-org".into(),
                name: "app".into(),
                private: true,
            },
            organization: Some("octo-org".into()),
            enterprise: None,
            installation_id: None,
            created_at: None,
            started_at: None,
            completed_at: None,
        },
        group: Some(group("octo-linux")),
        status,
        received_at: queued_at,
        queued_at: Some(queued_at),
        taken_at: None,
        finished_at: None,
        conclusion: None,
        runner: None,
        queued_by: BTreeSet::new(),
        waiting_by: BTreeSet::new(),
        verified: 0,
        verify_at: None,
        timeline: Vec::new(),
    }
}

fn runner(name: &str, state: RunnerState, at: Timestamp) -> Runner {
    Runner {
        name: RunnerName::new(name).unwrap(),
        group: group("octo-linux"),
        attempt: Attempt(1),
        backend: "base".into(),
        fallbacks: vec![],
        tried: vec![],
        state,
        since: at,
        created_at: at,
        online_at: None,
        for_job: None,
        for_delivery_at: None,
        job: None,
        github_id: Some(RunnerId(8)),
        instance: Some(InstanceId::new("base-1").unwrap()),
        time_to_start: Duration::from_secs(600),
        time_to_live: Duration::from_secs(600),
        removal: None,
        retry_at: None,
        retries: 0,
        call_pending: false,
        missed: 0,
        error: None,
        history: vec![Transition { state: RunnerState::Requested, at, reason: "job 1 wants one".into() }],
    }
}

/// Three busy runners (the group's most), three queued jobs, one taken, one unmatched.
fn fill(fake: &Fake) {
    let now = fake.now();
    let ago = |seconds| now - SignedDuration::from_secs(seconds);
    let mut things = fake.things();
    for i in 0..3 {
        let runner = runner(&format!("octo-linux-0000000{i}"), RunnerState::Busy, ago(500));
        things.runners.insert(runner.name.clone(), runner);
    }
    let gone = runner("octo-linux-gone0000", RunnerState::Gone, ago(900));
    things.runners.insert(gone.name.clone(), gone);
    for (id, seconds) in [(1, 300), (2, 200), (3, 100)] {
        let mut job = job(id, JobStatus::Queued, ago(seconds));
        job.note(
            ago(seconds),
            Milestone::Received { action: "queued".into(), delivery: DeliveryId::new("d-1").unwrap() },
        );
        job.note(ago(seconds), Milestone::WaitingForCapacity { ahead: 0, runners: 3, max: 3 });
        things.jobs.insert(JobId(id), job);
    }
    let mut taken = job(4, JobStatus::InProgress, ago(600));
    taken.taken_at = Some(ago(500));
    taken.runner = Some(RunnerRef { id: Some(RunnerId(8)), name: "octo-linux-00000000".into() });
    things.jobs.insert(JobId(4), taken);
    let mut unmatched = job(5, JobStatus::Unmatched, ago(50));
    unmatched.group = None;
    unmatched.queued_at = None;
    unmatched.note(ago(50), Milestone::Unmatched { reason: "no group has the label gpu".into() });
    things.jobs.insert(JobId(5), unmatched);
    let snapshot = GroupSnapshot {
        failures: 2,
        not_before: Some(now + SignedDuration::from_secs(60)),
        last_error: Some(LastError { at: ago(5), text: "quota exceeded: 8 CPUs".into() }),
        last_healthcheck: Some(Healthcheck { at: ago(400), registered: Some(3), instances: None, repairs: 1 }),
        ..GroupSnapshot::default()
    };
    things.groups.insert(group("octo-linux"), snapshot);
}

/// Every operation of the OpenAPI document, with something in place of its path's parameters.
async fn operations(server: &Server) -> Vec<(&'static str, String)> {
    let document = server.get("/api/v1/openapi.json", None).await.json();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace("{name}", "octo-linux").replace("{id}", "1");
        for method in ["get", "post", "put", "patch", "delete"] {
            if item.get(method).is_some() {
                let method = match method {
                    "get" => "GET",
                    "post" => "POST",
                    "delete" => "DELETE",
                    other => panic!("unexpected method {other}"),
                };
                let prefix = if path.starts_with("/api/v1") { "" } else { "/api/v1" };
                found.push((method, format!("{prefix}{path}")));
            }
        }
    }
    assert!(found.len() >= 8, "{found:?}");
    found
}

#[tokio::test]
async fn no_operation_is_open() {
    let (fake, server) = start(|_| {}).await;
    let mut targets = operations(&server).await;
    targets.push(("GET", "/api/v1/nothing".to_owned()));
    targets.push(("PUT", "/api/v1/groups".to_owned()));
    for (method, path) in targets {
        for request in [
            Request::new(method, &path),
            Request::new(method, &path).key("wrong"),
            Request::new(method, &path).key(""),
            Request::new(method, &path).header("X-API-Key", SECRET),
            Request::new(method, &path).header("Authorization", &format!("Basic {ADMIN_KEY}")),
            Request::new(method, &path).key(ADMIN_KEY).key(ADMIN_KEY),
        ] {
            let response = server.send(&request).await;
            response.problem(401);
            assert!(response.header("www-authenticate").unwrap().starts_with("Bearer"));
        }
    }
    assert_eq!(fake.things().calls, 0);
}

#[tokio::test]
async fn without_any_key_configured_nobody_gets_in() {
    let (_, server) = start(|s| s.keys.clear()).await;
    server.get("/api/v1/groups", None).await.problem(401);
    server.get("/api/v1/groups", Some("")).await.problem(401);
    server.get("/api/v1/groups", Some(ADMIN_KEY)).await.problem(401);
}

#[tokio::test]
async fn viewers_read_and_do_not_write() {
    let (fake, server) = start(|_| {}).await;
    fill(&fake);
    for (method, path) in operations(&server).await {
        let request =
            Request::new(method, &path).header("Content-Type", "application/json").body(r#"{"type":"drain"}"#);
        let response = server.send(&request.key(VIEWER_KEY)).await;
        match method {
            "GET" => assert!([200, 404].contains(&response.status), "{path}: {}", response.text()),
            _ => drop(response.problem(403)),
        }
    }
    let by_header = Request::new("GET", "/api/v1/groups").header("X-API-Key", VIEWER_KEY);
    assert_eq!(server.send(&by_header).await.status, 200);
}

#[tokio::test]
async fn groups_show_settings_counts_demand_and_what_went_wrong() {
    let (fake, server) = start(|_| {}).await;
    fill(&fake);
    let groups = server.get("/api/v1/groups", Some(VIEWER_KEY)).await.json();
    assert_eq!(groups.as_array().unwrap().len(), 2);
    assert_eq!(groups[1]["name"], "octo-arm");
    assert_eq!(groups[1]["runners_total"], 0);
    let one = server.get("/api/v1/groups/octo-linux", Some(VIEWER_KEY)).await.json();
    assert_eq!(one, groups[0]);
    assert_eq!(one["runners"], json!({"busy": 3}));
    assert_eq!((&one["demand"], &one["demand_oldest_seconds"]), (&json!(3), &json!(300)));
    assert_eq!(one["health"], "starting");
    assert_eq!(one["last_error"]["text"], "quota exceeded: 8 CPUs");
    assert_eq!(one["last_healthcheck"]["registered"], 3);
    assert_eq!(one["settings"]["max"], 3);
    assert_eq!(one["settings"]["scope"], "organization octo-org");
    server.get("/api/v1/groups/nope", Some(VIEWER_KEY)).await.problem(404);
    server.get("/api/v1/groups/%2e%2e", Some(VIEWER_KEY)).await.problem(404);
}

#[tokio::test]
async fn runners_are_listed_by_group_and_state_and_shown_with_their_history() {
    let (fake, server) = start(|_| {}).await;
    fill(&fake);
    let names = |response: Response| -> Vec<String> {
        response.json().as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect()
    };
    let get = |query: &'static str| {
        let server = &server;
        async move { server.get(&format!("/api/v1/runners{query}"), Some(VIEWER_KEY)).await }
    };
    assert_eq!(names(get("").await).len(), 3);
    assert_eq!(names(get("?group=octo-linux&state=busy").await).len(), 3);
    assert_eq!(names(get("?limit=2").await), ["octo-linux-00000000", "octo-linux-00000001"]);
    assert_eq!(names(get("?state=gone").await), ["octo-linux-gone0000"]);
    assert_eq!(names(get("?group=octo-arm").await), Vec::<String>::new());
    assert_eq!(get("?state=asleep").await.pointer(422), "state");
    assert_eq!(get("?limit=0").await.pointer(422), "limit");
    assert_eq!(get("?limit=many").await.pointer(422), "limit");
    assert_eq!(get("?group=a%20b").await.pointer(422), "group");

    let one = server.get("/api/v1/runners/octo-linux-00000000", Some(VIEWER_KEY)).await.json();
    assert_eq!((&one["state"], &one["instance"], &one["github_id"]), (&json!("busy"), &json!("base-1"), &json!(8)));
    assert_eq!(one["history"][0]["reason"], "job 1 wants one");
    server.get("/api/v1/runners/octo-linux-99999999", Some(VIEWER_KEY)).await.problem(404);
    server.get("/api/v1/runners/NOT%20A%20NAME", Some(VIEWER_KEY)).await.problem(404);
}

#[tokio::test]
async fn a_job_says_why_it_is_still_queued() {
    let (fake, server) = start(|_| {}).await;
    fill(&fake);
    let get = |id: &'static str| {
        let server = &server;
        async move { server.get(&format!("/api/v1/jobs/{id}"), Some(VIEWER_KEY)).await }
    };
    let third = get("3").await.json();
    assert_eq!((&third["position"], &third["ahead"]), (&json!(3), &json!(2)));
    assert_eq!(
        third["answer"],
        "Group octo-linux tries again in 1 min, because the last 2 attempts to start a runner failed: \
         quota exceeded: 8 CPUs; 2 jobs are ahead of it."
    );
    assert_eq!(third["timeline"][0]["what"], "received");
    assert_eq!(third["timeline"][1]["text"], "waits for a place: 3 of at most 3 runners exist; no job is ahead of it");

    fake.things().groups.clear();
    assert_eq!(
        get("1").await.json()["answer"],
        "It waits for a place in group octo-linux: 3 of at most 3 runners exist (3 busy); no job is ahead of it."
    );
    let taken = get("4").await.json();
    assert_eq!(taken["position"], Value::Null);
    assert!(taken["answer"].as_str().unwrap().contains("runner octo-linux-00000000 took it 8 min 20 s ago"), "{taken}");
    assert_eq!(get("5").await.json()["answer"], "No runner group serves it: no group has the label gpu.");
    get("99").await.problem(404);
    get("abc").await.problem(404);
    get("-1").await.problem(404);
}

#[tokio::test]
async fn jobs_are_listed_by_status_and_group_newest_first() {
    let (fake, server) = start(|_| {}).await;
    fill(&fake);
    let ids = |response: Response| -> Vec<u64> {
        response.json().as_array().unwrap().iter().map(|j| j["id"].as_u64().unwrap()).collect()
    };
    let get = |query: &'static str| {
        let server = &server;
        async move { server.get(&format!("/api/v1/jobs{query}"), Some(VIEWER_KEY)).await }
    };
    assert_eq!(ids(get("").await), [5, 3, 2, 1, 4]);
    assert_eq!(ids(get("?status=queued&group=octo-linux&limit=2").await), [3, 2]);
    assert_eq!(ids(get("?status=unmatched").await), [5]);
    assert_eq!(get("?status=lost").await.pointer(422), "status");
    assert_eq!(get("?limit=1001").await.pointer(422), "limit");
}

#[tokio::test]
async fn a_store_that_fails_or_hangs_is_a_503_and_admin_requests_are_bounded() {
    let (fake, server) = start(|s| {
        s.limits.read_deadline = SHORT;
        s.limits.admin_requests = 1;
    })
    .await;
    fake.set(Mood::Fails(StoreError::Unavailable("/secret/path: disk full".into())));
    let problem = server.get("/api/v1/jobs", Some(VIEWER_KEY)).await.problem(503);
    assert!(!problem.to_string().contains("secret"), "{problem}");
    fake.set(Mood::Hangs);
    server.get("/api/v1/jobs/1", Some(VIEWER_KEY)).await.problem(503);

    let calls = fake.things().calls;
    let mut first = server.connect().await;
    first.write(&Request::new("GET", "/api/v1/runners").key(VIEWER_KEY).bytes()).await;
    until("the store is asked", || fake.things().calls > calls).await;
    let second = server.get("/api/v1/runners", Some(VIEWER_KEY)).await;
    assert_eq!(second.header("retry-after"), Some("1"));
    second.problem(503);
    assert_eq!(server.get("/_health", None).await.status, 200);
    first.response().await.unwrap().problem(503);

    fake.set(Mood::Panics);
    server.get("/api/v1/jobs", Some(VIEWER_KEY)).await.problem(500);
    fake.set(Mood::Works);
    assert_eq!(server.get("/api/v1/jobs", Some(VIEWER_KEY)).await.status, 200);
}

fn message(body: &str) -> Request {
    Request::new("POST", "/api/v1/groups/octo-linux/messages")
        .header("Content-Type", "application/json")
        .key(ADMIN_KEY)
        .body(body)
}

#[tokio::test]
async fn messages_are_checked_before_they_are_sent() {
    let (_, server) = start(|s| {
        s.limits.admin_bytes = 1000;
        s.limits.body_stall = SHORT;
    })
    .await;
    for (body, pointer) in [
        ("", "#"),
        ("drain", "#"),
        ("[\"drain\"]", "#"),
        ("{}", "#/type"),
        ("{\"type\": \"explode\"}", "#/type"),
        ("{\"type\": [\"drain\"]}", "#/type"),
        ("{\"type\": \"scale\", \"min\": 1, \"max\": 2}", "#/type"),
        ("{\"type\": \"drain\", \"now\": true}", "#/now"),
    ] {
        assert_eq!(server.send(&message(body)).await.pointer(422), pointer, "{body}");
    }
    let deep = format!("{{\"type\": {}{}}}", "[".repeat(400), "]".repeat(400));
    assert_eq!(server.send(&message(&deep)).await.pointer(422), "#");
    server.send(&message(&" ".repeat(1001))).await.problem(413);
    server.send(&message("{}").replace("Content-Type", "text/plain")).await.problem(415);
    server.send(&message("{\"type\": \"drain\"}").path("/api/v1/groups/nope/messages")).await.problem(404);
    let key = "k".repeat(256);
    let long_key = message("{\"type\": \"drain\"}").header("Idempotency-Key", &key);
    assert_eq!(server.send(&long_key).await.pointer(422), "Idempotency-Key");
    // Its actor was never started here.
    let response = server.send(&message("{\"type\": \"drain\"}")).await;
    assert_eq!(response.header("retry-after"), Some("1"));
    response.problem(503);

    let mut stalled = server.connect().await;
    stalled.write(format!("{}Content-Length: 20\r\n\r\n{{", message("").head()).as_bytes()).await;
    stalled.response().await.unwrap().problem(408);
}

/// Asks until the answer is as wanted.
async fn eventually(server: &Server, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = server.get(path, Some(VIEWER_KEY)).await.json();
        if wanted(&answer) {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "never happened: {answer}");
    }
}

#[tokio::test]
async fn messages_reach_the_actor_and_keys_make_them_idempotent() {
    let running = system::start(fakes::settings("octo-linux", 0, 3)).await;
    let server = Server::start(running.front.clone(), web::settings(|_| {})).await;
    eventually(&server, "/_ready", |ready| ready["ready"] == true).await;
    eventually(&server, "/api/v1/groups/octo-linux", |group| group["last_healthcheck"].is_object()).await;

    let create = message("{\"type\": \"create_runner\"}").header("Idempotency-Key", "once");
    let first = server.send(&create).await;
    assert_eq!(first.status, 202, "{}", first.text());
    let name = first.json()["runner"].as_str().unwrap().to_owned();
    let again = server.send(&create).await;
    assert_eq!((again.status, again.json()), (202, first.json()));
    let other = message("{\"type\": \"drain\"}").header("Idempotency-Key", "once");
    assert_eq!(server.send(&other).await.pointer(422), "Idempotency-Key");
    eventually(&server, &format!("/api/v1/runners/{name}"), |runner| runner["state"] == "starting").await;
    assert_eq!(server.get("/api/v1/runners", Some(VIEWER_KEY)).await.json().as_array().unwrap().len(), 1);

    let healthcheck = server.send(&message("{\"type\": \"healthcheck\"}")).await;
    assert_eq!(healthcheck.status, 202);
    assert!(healthcheck.json()["message"].is_string());

    let drain = server.send(&message("{\"type\": \"drain\"}")).await;
    assert_eq!(drain.status, 202);
    eventually(&server, "/api/v1/groups/octo-linux", |group| group["drained"] == true).await;
    server.send(&message("{\"type\": \"create_runner\"}")).await.problem(409);
    assert_eq!(server.send(&message("{\"type\": \"resume\"}")).await.status, 202);
    eventually(&server, "/api/v1/groups/octo-linux", |group| group["drained"] == false).await;
    assert_eq!(server.send(&message("{\"type\": \"reset\"}")).await.status, 202);
    server.stop().await;
    running.stop().await;
}

#[tokio::test]
async fn a_busy_runner_is_deleted_only_with_force() {
    let running = system::start(fakes::settings("octo-linux", 0, 3)).await;
    let server = Server::start(running.front.clone(), web::settings(|_| {})).await;
    assert_eq!(server.send(&Request::delivery("d-1", QUEUED)).await.json()["outcome"], "accepted");
    let runners = eventually(&server, "/api/v1/runners", |runners| runners[0]["state"] == "starting").await;
    let name = runners[0]["name"].as_str().unwrap();
    let mut taken: Value = serde_json::from_str(QUEUED).unwrap();
    taken["action"] = json!("in_progress");
    taken["workflow_job"]["runner_name"] = json!(name);
    taken["workflow_job"]["runner_id"] = runners[0]["github_id"].clone();
    assert_eq!(server.send(&Request::delivery("d-2", taken.to_string())).await.json()["outcome"], "accepted");
    let path = format!("/api/v1/runners/{name}");
    let busy = eventually(&server, &path, |runner| runner["state"] == "busy").await;
    assert_eq!(busy["job"], 31_415_926_535_u64);
    let job = eventually(&server, "/api/v1/jobs/31415926535", |job| job["status"] == "in_progress").await;
    assert!(job["answer"].as_str().unwrap().contains(name), "{job}");

    let delete = |query: &str| Request::new("DELETE", &format!("{path}{query}")).key(ADMIN_KEY);
    server.send(&delete("")).await.problem(409);
    server.send(&delete("?force=false")).await.problem(409);
    assert_eq!(server.send(&delete("?force=perhaps")).await.pointer(422), "force");
    let forced = server.send(&delete("?force=true")).await;
    assert_eq!(forced.status, 202, "{}", forced.text());
    eventually(&server, &path, |runner| runner["state"] == "gone").await;
    server.send(&delete("?force=true")).await.problem(404);
    let unknown = Request::new("DELETE", "/api/v1/runners/octo-linux-99999999").key(ADMIN_KEY);
    server.send(&unknown).await.problem(404);
    server.stop().await;
    running.stop().await;
}

#[tokio::test]
async fn the_description_is_complete_and_its_page_needs_no_network() {
    let (_, server) = start(|_| {}).await;
    let document = server.get("/api/v1/openapi.json", None).await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    assert_eq!(document["info"]["version"], "1.2.3");
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    for item in document["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            assert!(operation["operationId"].is_string() && operation["summary"].is_string(), "{operation}");
            assert!(operation["responses"]["401"]["content"]["application/problem+json"].is_object(), "{operation}");
        }
    }
    let kinds = &document["components"]["schemas"]["MessageType"]["enum"];
    assert_eq!(kinds.as_array().unwrap().len(), 7, "{kinds}");

    for path in ["/docs", "/docs/"] {
        let page = server.get(path, None).await;
        assert_eq!(page.status, 200);
        let html = page.text();
        assert!(html.contains("securitySchemes") && html.contains("send_message"));
        for tag in ["<script src", "<link ", "<img ", "<iframe", "@import", "url(http", "url(//"] {
            assert!(!html.contains(tag), "{tag}");
        }
        assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    }
}

#[tokio::test]
async fn readiness_names_what_is_missing_and_recovers() {
    let (fake, server) = start(|s| {
        s.limits.probe_deadline = SHORT;
        s.limits.probe_age = Duration::ZERO;
    })
    .await;
    assert_eq!(server.get("/_health", None).await.status, 200);
    let starting = server.get("/_ready", None).await;
    assert_eq!(starting.status, 503);
    assert_eq!(starting.json()["ready"], false);
    assert_eq!(starting.json()["missing"][0], json!({"what": "group", "name": "octo-linux", "why": "starting"}));
    for mood in [Mood::Hangs, Mood::Fails(StoreError::Unavailable("disk full".into()))] {
        fake.set(mood);
        assert_eq!(server.get("/_ready", None).await.json()["missing"][0]["what"], "store");
    }
    assert_eq!(server.get("/_health", None).await.status, 200);

    let fake = Fake::new();
    let server = Server::start(fake.front(&[]), web::settings(|s| s.limits.probe_age = PATIENCE)).await;
    for _ in 0..5 {
        let ready = server.get("/_ready", None).await;
        assert_eq!((ready.status, ready.json()), (200, json!({"ready": true, "missing": []})));
    }
    assert_eq!(fake.things().calls, 1, "one probe answers for a while");
}

#[tokio::test]
async fn metrics_are_open_unless_the_settings_say_otherwise() {
    let (_, server) = start(|_| {}).await;
    let open = server.get("/metrics", None).await;
    assert_eq!((open.status, open.text()), (200, "up 1\n"));
    assert!(open.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let (_, server) = start(|s| s.metrics_public = false).await;
    server.get("/metrics", None).await.problem(401);
    assert_eq!(server.get("/metrics", Some(VIEWER_KEY)).await.status, 200);
    assert_eq!(server.get("/metrics", Some(ADMIN_KEY)).await.status, 200);
}

#[tokio::test]
async fn a_handler_that_panics_is_a_500_and_no_more() {
    let (_, server) = start(|s| s.render_metrics = Arc::new(|| panic!("secret detail"))).await;
    let problem = server.get("/metrics", None).await.problem(500);
    assert!(!problem.to_string().contains("secret"), "{problem}");
    assert_eq!(server.get("/_health", None).await.status, 200);
}

#[tokio::test]
async fn errors_are_problem_documents_and_every_answer_carries_the_same_headers() {
    let (_, server) = start(|_| {}).await;
    server.get("/nothing", None).await.problem(404);
    server.get("/api/v1/nothing", Some(ADMIN_KEY)).await.problem(404);
    server.get("/api/v2/groups", Some(ADMIN_KEY)).await.problem(404);
    for (method, path, allow) in [
        ("POST", "/", "GET, HEAD"),
        ("DELETE", "/_health", "GET, HEAD"),
        ("PUT", "/webhook/", "POST"),
        ("PUT", "/api/v1/groups", "GET, HEAD"),
        ("GET", "/api/v1/groups/octo-linux/messages", "POST"),
        ("PATCH", "/api/v1/runners/octo-linux-00000000", "GET, HEAD, DELETE"),
    ] {
        let response = server.send(&Request::new(method, path).key(ADMIN_KEY)).await;
        response.problem(405);
        assert_eq!(response.header("allow"), Some(allow), "{path}");
    }
    for (path, status) in [("/", 200), ("/docs", 200), ("/_health", 200), ("/nothing", 404), ("/api/v1/groups", 401)] {
        let response = server.get(path, None).await;
        assert_eq!(response.status, status, "{path}");
        for (name, value) in
            [("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("cache-control", "no-store")]
        {
            assert_eq!(response.header(name), Some(value), "{path}");
        }
        assert!(response.header("content-security-policy").is_some(), "{path}");
    }
    let page = server.get("/", None).await;
    assert!(page.text().contains("href=\"/docs\"") && page.text().contains("href=\"/metrics\""));
}

#[tokio::test]
async fn no_key_appears_in_an_answer() {
    let (fake, server) = start(|_| {}).await;
    fill(&fake);
    let mut paths: Vec<String> =
        ["/", "/docs", "/metrics", "/_ready", "/api/v1/openapi.json"].map(str::to_owned).into();
    paths.extend(operations(&server).await.into_iter().map(|(_, path)| path));
    for path in paths {
        let response = server.get(&path, Some(ADMIN_KEY)).await;
        for secret in [ADMIN_KEY, VIEWER_KEY, SECRET] {
            assert!(!response.text().contains(secret), "{path}");
            assert!(!format!("{:?}", response.headers).contains(secret), "{path}");
        }
    }
}
