//! The simulated GitHub behaves as GitHub does: towards callers, runners and receivers of webhooks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

mod support {
    #![allow(dead_code, reason = "other tests use other parts")]
    pub mod simulated;
}

use std::collections::HashSet;
use std::time::{Duration, Instant};

use runner_manager::demo::github::{
    Action, Conclusion, DeliveryStatus, Fault, HookFault, JobId, JobRequest, JobStatus, Operation, Repository,
    Resource, Settings, Times,
};
use runner_manager::demo::runner;
use serde_json::{Value, json};
use support::simulated::{Stage, env, until};

const RUNNERS: &str = "/orgs/octo-org/actions/runners";
const GROUPS: &str = "/orgs/octo-org/actions/runner-groups";
const LABELS: [&str; 3] = ["self-hosted", "linux", "x64"];

fn job(labels: &[&str]) -> JobRequest {
    JobRequest::new(labels.iter().copied(), Duration::from_millis(5))
}

fn long_job() -> JobRequest {
    JobRequest::new(LABELS, Duration::from_secs(3600))
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_jobs_are_served_by_ephemeral_runners_and_told_in_order_by_signed_webhooks() {
    let stage = Stage::set(Settings::default()).await;
    let jobs: Vec<JobId> = (0..30).map(|_| stage.github.queue_job(job(&LABELS))).collect();
    let mut runners = Vec::new();
    for n in 0..30 {
        runners.push(stage.start_runner(&format!("runner-{n}"), &LABELS).await);
    }
    for runner in runners {
        runner.task.await.unwrap().unwrap();
    }
    until("all webhooks are answered", || stage.github.hook_counts().sent == 90).await;

    let mut took: HashSet<u64> = HashSet::new();
    for &id in &jobs {
        let job = stage.github.job(id).unwrap();
        assert_eq!((job.status, job.conclusion), (JobStatus::Completed, Some(Conclusion::Success)));
        took.insert(job.runner.unwrap().id);
        assert_eq!(stage.hooks.actions(id.0), ["queued", "in_progress", "completed"]);
    }
    assert_eq!(took.len(), 30, "an ephemeral runner takes one job");
    assert_eq!(stage.github.registered(), 0, "an ephemeral runner is deregistered by its job's end");
    let received = stage.hooks.received();
    assert!(received.iter().all(|hook| hook.signed && hook.event == "workflow_job"));
    let guids: HashSet<&str> = received.iter().map(|hook| hook.guid.as_str()).collect();
    assert_eq!(guids.len(), 90);
    assert!(guids.iter().all(|guid| guid.len() == 36 && guid.split('-').count() == 5), "{guids:?}");
    assert_eq!(stage.github.hook_counts().failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_500_jobs_is_told_and_served_by_100_runners_at_a_time() {
    let stage = Stage::set(Settings::default()).await;
    for _ in 0..500 {
        stage.github.queue_job(job(&LABELS));
    }
    until("every job is told", || stage.github.hook_counts().sent >= 500).await;
    for wave in 0..5 {
        let mut tasks = Vec::new();
        for n in 0..100 {
            tasks.push(stage.start_runner(&format!("runner-{wave}-{n}"), &LABELS).await.task);
        }
        for task in tasks {
            task.await.unwrap().unwrap();
        }
    }
    assert_eq!(stage.github.count_jobs(JobStatus::Completed), 500);
}

#[tokio::test]
async fn a_job_goes_only_to_a_runner_that_has_all_its_labels_whatever_their_case() {
    let stage = Stage::set(Settings::default()).await;
    let plain = stage.start_idle_runner("plain", &LABELS).await;
    let wanted = stage.github.queue_job(job(&["Self-Hosted", "LINUX", "GPU"]));
    until("its webhook is answered", || stage.github.hook_counts().sent == 1).await;
    assert_eq!(stage.github.job(wanted).unwrap().status, JobStatus::Queued, "the plain runner has no gpu");

    let gpu = stage.start_runner("gpu", &["self-hosted", "linux", "gpu"]).await;
    gpu.task.await.unwrap().unwrap();
    assert_eq!(stage.github.job(wanted).unwrap().runner.unwrap().name, "gpu");
    assert!(!plain.task.is_finished());
    plain.task.abort();
}

#[tokio::test]
async fn the_oldest_job_that_suits_is_served_first_whoever_it_was_meant_for() {
    let stage = Stage::set(Settings::default()).await;
    let jobs = [&["gpu"][..], &LABELS, &LABELS].map(|labels| stage.github.queue_job(job(labels)));
    for (name, expected) in [("first", jobs[1]), ("second", jobs[2])] {
        stage.start_runner(name, &LABELS).await.task.await.unwrap().unwrap();
        assert_eq!(stage.github.job(expected).unwrap().runner.unwrap().name, name);
    }
    assert_eq!(stage.github.job(jobs[0]).unwrap().status, JobStatus::Queued);
}

#[tokio::test]
async fn deleting_a_busy_runner_is_refused_and_an_absent_one_is_not_found() {
    let stage = Stage::set(Settings::default()).await;
    let runner = stage.start_runner("busy", &LABELS).await;
    let id = stage.github.queue_job(long_job());
    until("the job runs", || stage.github.count_jobs(JobStatus::InProgress) == 1).await;
    let path = format!("{RUNNERS}/{}", runner.id);
    assert_eq!(stage.call("GET", &path, Value::Null).await.body["busy"], true);
    assert_eq!(stage.call("DELETE", &path, Value::Null).await.status, 422);

    assert!(stage.github.cancel(id));
    runner.task.await.unwrap().unwrap();
    assert_eq!(stage.github.job(id).unwrap().conclusion, Some(Conclusion::Cancelled));
    assert_eq!(stage.call("DELETE", &path, Value::Null).await.status, 404);
    let idle = stage.start_idle_runner("idle", &LABELS).await;
    assert_eq!(stage.call("DELETE", &format!("{RUNNERS}/{}", idle.id), Value::Null).await.status, 204);
    idle.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn while_busy_lags_a_working_runner_can_be_deleted_and_its_job_fails() {
    let stage = Stage::set(Settings { busy_lag: Duration::from_secs(3600), ..Settings::default() }).await;
    let runner = stage.start_runner("working", &LABELS).await;
    let id = stage.github.queue_job(long_job());
    until("the job runs", || stage.github.count_jobs(JobStatus::InProgress) == 1).await;
    let path = format!("{RUNNERS}/{}", runner.id);
    assert_eq!(stage.call("GET", &path, Value::Null).await.body["busy"], false);
    assert_eq!(stage.call("DELETE", &path, Value::Null).await.status, 204);
    runner.task.await.unwrap().unwrap();
    assert_eq!(stage.github.job(id).unwrap().conclusion, Some(Conclusion::Failure));
    assert_eq!(stage.github.killed_busy(), [id]);
}

#[tokio::test]
async fn a_killed_runner_goes_offline_and_its_job_fails_once_it_counts_as_lost() {
    let (offline_after, lost_after) = (Duration::ZERO, Duration::from_millis(200));
    let settings = Settings { offline_after, lost_after, ..Settings::default() };
    let stage = Stage::set(settings).await;
    let idle = stage.start_idle_runner("idle", &["other"]).await;
    let busy = stage.start_idle_runner("busy", &LABELS).await;
    let id = stage.github.queue_job(long_job());
    until("the job runs", || stage.github.count_jobs(JobStatus::InProgress) == 1).await;
    // An aborted task closes its connections as a killed process does.
    idle.task.abort();
    busy.task.abort();
    until("the job is over", || stage.github.count_jobs(JobStatus::Completed) == 1).await;
    assert_eq!(stage.github.job(id).unwrap().conclusion, Some(Conclusion::Failure));
    until("the idle one is offline", || stage.github.runners().iter().all(|r| !r.online)).await;
    let left: Vec<u64> = stage.github.runners().iter().map(|r| r.id).collect();
    assert_eq!(left, [idle.id], "the lost runner is removed, the idle one stays registered");
}

#[tokio::test]
async fn a_runner_that_is_told_to_stop_leaves_its_session_and_fails_its_job() {
    let stage = Stage::set(Settings::default()).await;
    let (_, config) = stage.register("idle", &["other"]).await;
    runner::run_until(env(config), async { until("it is online", || stage.github.runners()[0].online).await })
        .await
        .unwrap();
    assert!(!stage.github.runners()[0].online, "it said goodbye");
    assert_eq!(stage.github.registered(), 1, "being stopped while idle does not deregister");

    let id = stage.github.queue_job(long_job());
    let (_, config) = stage.register("busy", &LABELS).await;
    let running = || stage.github.count_jobs(JobStatus::InProgress) == 1;
    runner::run_until(env(config), async { until("the job runs", running).await }).await.unwrap();
    assert_eq!(stage.github.job(id).unwrap().conclusion, Some(Conclusion::Failure));
}

#[tokio::test]
async fn a_job_that_its_runner_never_confirms_goes_to_the_next_one() {
    let stage = Stage::set(Settings { requeue_after: Duration::from_millis(100), ..Settings::default() }).await;
    let (id, config) = stage.register("mute", &LABELS).await;
    let secret = decode(decode(&config)[".credentials_rsaparams"].as_str().unwrap())["d"].as_str().unwrap().to_owned();
    let ask = async |method: &str, path: &str| {
        stage.try_call(method, &format!("/runner-service/{id}/{path}"), Value::Null, &secret).await.unwrap()
    };
    assert_eq!(ask("POST", "session").await.status, 200);
    let wanted = stage.github.queue_job(job(&LABELS));
    assert_eq!(ask("GET", "message").await.body["job_id"], wanted.0);
    assert_eq!(
        stage.github.job(wanted).unwrap().status,
        JobStatus::Queued,
        "it is not in progress before it is claimed"
    );

    stage.start_runner("next", &LABELS).await.task.await.unwrap().unwrap();
    assert_eq!(stage.github.job(wanted).unwrap().runner.unwrap().name, "next");
    assert_eq!(ask("POST", &format!("jobs/{wanted}/claim")).await.status, 409);
    let wrong = stage.try_call("POST", &format!("/runner-service/{id}/session"), Value::Null, "wrong").await.unwrap();
    assert_eq!(wrong.status, 401);
}

/// JSON in base64.
fn decode(text: &str) -> Value {
    use base64::Engine as _;
    serde_json::from_slice(&base64::engine::general_purpose::STANDARD.decode(text).unwrap()).unwrap()
}

#[tokio::test]
async fn a_runner_that_was_deregistered_before_it_started_is_refused() {
    let stage = Stage::set(Settings::default()).await;
    let (id, config) = stage.register("late", &LABELS).await;
    assert_eq!(stage.call("DELETE", &format!("{RUNNERS}/{id}"), Value::Null).await.status, 204);
    let error = runner::run(env(config)).await.unwrap_err();
    assert!(matches!(error, runner::RunnerError::Refused(404)), "{error}");
    let none = runner::run(|_| None).await.unwrap_err();
    assert!(none.to_string().contains("ACTIONS_RUNNER_INPUT_JITCONFIG"), "{none}");
}

#[tokio::test]
async fn a_runner_of_a_repository_serves_only_its_repository() {
    let stage = Stage::set(Settings::default()).await;
    let [app, tools] = ["app", "tools"]
        .map(|name| stage.github.queue_job(JobRequest { repository: Some(name.to_owned()), ..job(&LABELS) }));
    let body = json!({"name": "one", "runner_group_id": 1, "labels": LABELS});
    let made = stage.call("POST", "/repos/octo-org/tools/actions/runners/generate-jitconfig", body).await;
    runner::run(env(made.body["encoded_jit_config"].as_str().unwrap().to_owned())).await.unwrap();
    assert_eq!(stage.github.job(tools).unwrap().runner.unwrap().name, "one");
    assert_eq!(stage.github.job(app).unwrap().status, JobStatus::Queued);
}

#[tokio::test]
async fn when_it_stops_its_runners_end_and_its_port_is_free() {
    let stage = Stage::set(Settings::default()).await;
    let idle = stage.start_idle_runner("idle", &["other"]).await;
    let busy = stage.start_runner("busy", &LABELS).await;
    stage.github.queue_job(long_job());
    until("the job runs", || stage.github.count_jobs(JobStatus::InProgress) == 1).await;
    let address = stage.github.url().trim_start_matches("http://").to_owned();
    let begun = Instant::now();
    stage.github.stop().await;
    idle.task.await.unwrap().unwrap();
    busy.task.await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "they did not wait for it to come back");
    tokio::net::TcpListener::bind(address).await.unwrap();
}

#[tokio::test]
async fn an_approval_gate_gives_queued_waiting_queued() {
    let stage = Stage::set(Settings::default()).await;
    let id = stage.github.queue_job(job(&LABELS));
    assert!(stage.github.hold(id) && !stage.github.hold(id));
    let runner = stage.start_idle_runner("eager", &LABELS).await;
    assert_eq!(stage.github.job(id).unwrap().status, JobStatus::Waiting);
    assert!(stage.github.approve(id) && !stage.github.approve(id));
    runner.task.await.unwrap().unwrap();
    until("all is told", || stage.github.hook_counts().sent == 5).await;
    assert_eq!(stage.hooks.actions(id.0), ["queued", "waiting", "queued", "in_progress", "completed"]);
    let waiting = stage.github.queue_job(JobRequest { waiting: true, ..job(&LABELS) });
    assert!(stage.github.cancel(waiting) && !stage.github.cancel(waiting));
    until("all is told", || stage.github.hook_counts().sent == 7).await;
    assert_eq!(stage.hooks.actions(waiting.0), ["waiting", "completed"]);
    let last = stage.hooks.received().pop().unwrap().body["workflow_job"].clone();
    assert_eq!((&last["conclusion"], &last["runner_id"]), (&json!("cancelled"), &Value::Null));
}

#[tokio::test]
async fn lists_are_paged_by_links_that_lead_through_every_runner_once() {
    let stage = Stage::set(Settings::default()).await;
    for n in 0..250 {
        stage.register(&format!("runner-{n}"), &LABELS).await;
    }
    let first = stage.call("GET", &format!("{RUNNERS}?per_page=100"), Value::Null).await;
    let base = format!("{}{RUNNERS}?per_page=100&page=", stage.github.url());
    let link = |headers: &reqwest::header::HeaderMap| headers["link"].to_str().unwrap().to_owned();
    assert_eq!(link(&first.headers), format!("<{base}2>; rel=\"next\", <{base}3>; rel=\"last\""));

    let mut seen = HashSet::new();
    let mut next = Some(format!("{RUNNERS}?per_page=100"));
    let mut pages = Vec::new();
    while let Some(path) = next {
        let page = stage.call("GET", &path, Value::Null).await;
        assert_eq!(page.body["total_count"], 250);
        let runners = page.body["runners"].as_array().unwrap();
        pages.push(runners.len());
        seen.extend(runners.iter().map(|r| r["id"].as_u64().unwrap()));
        let links = link(&page.headers);
        let to_next = links.split(", ").find(|l| l.ends_with("rel=\"next\""));
        next = to_next.map(|l| l[1..l.find('>').unwrap()].to_owned());
        if next.is_none() {
            assert_eq!(links, format!("<{base}2>; rel=\"prev\", <{base}1>; rel=\"first\""));
        }
    }
    assert_eq!((pages, seen.len()), (vec![100, 100, 50], 250));
    let default = stage.call("GET", RUNNERS, Value::Null).await;
    assert_eq!(default.body["runners"].as_array().unwrap().len(), 30);
    let named = stage.call("GET", &format!("{RUNNERS}?name=runner-42"), Value::Null).await;
    assert_eq!((&named.body["total_count"], &named.body["runners"][0]["name"]), (&json!(1), &json!("runner-42")));
    assert!(!named.headers.contains_key("link"));
}

#[tokio::test]
async fn refusals_have_githubs_statuses() {
    let repositories = vec![Repository::private(101, "app")];
    let stage = Stage::set(Settings { repositories, ..Settings::default() }).await;
    let generate = |scope: &str| format!("{scope}/actions/runners/generate-jitconfig");
    let org = generate("/orgs/octo-org");
    let body =
        |name: &str, group: u64, labels: Value| json!({"name": name, "runner_group_id": group, "labels": labels});
    let good = || body("one", 1, json!(["linux"]));
    assert_eq!(stage.try_call("GET", RUNNERS, Value::Null, "wrong").await.unwrap().status, 401);
    for scope in ["/orgs/OCTO-ORG", "/repos/octo-org/app", "/enterprises/octo"] {
        assert_eq!(stage.call("POST", &generate(scope), good()).await.status, 201, "{scope}");
        assert_eq!(stage.call("POST", &generate(scope), good()).await.status, 409, "{scope}: the name exists");
    }
    for scope in ["/orgs/nobody", "/repos/octo-org/nothing", "/repos/nobody/app", "/enterprises/nobody"] {
        assert_eq!(stage.call("POST", &generate(scope), good()).await.status, 404, "{scope}");
    }
    assert_eq!(stage.call("POST", &org, body("two", 99, json!(["linux"]))).await.status, 404, "no such group");
    let many: Vec<String> = (0..101).map(|n| n.to_string()).collect();
    for labels in [json!([]), json!(many), json!([""]), json!([1]), Value::Null] {
        assert_eq!(stage.call("POST", &org, body("three", 1, labels)).await.status, 422);
    }
    assert_eq!(stage.call("POST", &org, body("", 1, json!(["linux"]))).await.status, 422);
    for path in ["/orgs/octo-org/actions/jobs/1", "/nothing", "/orgs/octo-org/actions/runners/x"] {
        assert_eq!(stage.call("GET", path, Value::Null).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn the_rate_limit_is_counted_and_enforced() {
    let stage = Stage::set(Settings { rate_limit: 2, ..Settings::default() }).await;
    let left =
        |answer: &support::simulated::Answer| answer.headers["x-ratelimit-remaining"].to_str().unwrap().to_owned();
    for expected in ["1", "0"] {
        let answer = stage.call("GET", RUNNERS, Value::Null).await;
        assert_eq!((answer.status, left(&answer).as_str()), (200, expected));
    }
    let refused = stage.call("GET", RUNNERS, Value::Null).await;
    assert_eq!((refused.status, left(&refused).as_str()), (403, "0"));
    let limits = stage.call("GET", "/rate_limit", Value::Null).await;
    assert_eq!(limits.status, 200, "asking for the limits is free");
    assert_eq!(limits.body["resources"]["core"]["remaining"], 0);
}

#[tokio::test]
async fn limits_are_counted_by_resource_and_start_anew() {
    let settings = Settings { registration_limit: Some(1), rate_window: Duration::from_secs(1), ..Settings::default() };
    let stage = Stage::set(settings).await;
    let generate = format!("{RUNNERS}/generate-jitconfig");
    let body = |name: &str| json!({"name": name, "runner_group_id": 1, "labels": ["linux"]});
    let made = stage.call("POST", &generate, body("one")).await;
    assert_eq!(
        (made.status, &made.headers["x-ratelimit-resource"]),
        (201, &"actions_runner_registration".parse().unwrap())
    );
    let refused = stage.call("POST", &generate, body("two")).await;
    assert_eq!((refused.status, &refused.headers["x-ratelimit-remaining"]), (403, &"0".parse().unwrap()));
    assert_eq!(stage.call("GET", RUNNERS, Value::Null).await.status, 200);
    let begun = Instant::now();
    while stage.call("POST", &generate, body("two")).await.status == 403 {
        assert!(begun.elapsed() < Duration::from_secs(5), "the limit never starts anew");
    }
    stage.github.set_limit(Resource::Core, 1);
    assert_eq!(stage.call("GET", "/rate_limit", Value::Null).await.body["resources"]["core"]["limit"], 1);
}

#[tokio::test]
async fn an_unchanged_answer_is_304_and_costs_nothing() {
    let stage = Stage::set(Settings::default()).await;
    let url = format!("{}{RUNNERS}", stage.github.url());
    let client = reqwest::Client::builder().user_agent("tests").no_proxy().build().unwrap();
    let ask = async |etag: &str| {
        let request = client.get(&url).bearer_auth(&stage.token).header("if-none-match", etag);
        let answer = request.send().await.unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        (answer.status().as_u16(), header("etag"), header("x-ratelimit-used"))
    };
    let (status, etag, used) = ask("\"other\"").await;
    assert_eq!((status, used.as_str()), (200, "1"));
    assert_eq!(ask(&etag).await, (304, etag.clone(), "1".to_owned()));
    stage.register("new", &LABELS).await;
    let (status, other, used) = ask(&etag).await;
    assert_eq!((status, used.as_str()), (200, "3"), "the registration and this one");
    assert_ne!(other, etag);
}

#[tokio::test]
async fn an_app_gets_a_token_that_works() {
    use base64::Engine as _;
    let stage = Stage::set(Settings::default()).await;
    let now = jiff::Timestamp::now().as_second();
    let jwt = |iat: i64, exp: i64| {
        let claims = json!({"iat": iat, "exp": exp, "iss": 1}).to_string();
        format!("e30.{}.c2ln", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims))
    };
    let path = "/app/installations/1/access_tokens";
    for bad in [stage.token.clone(), jwt(now - 700, now - 100), jwt(now, now + 3600)] {
        assert_eq!(stage.try_call("POST", path, Value::Null, &bad).await.unwrap().status, 401);
    }
    let jwt = jwt(now - 60, now + 540);
    let found = stage.try_call("GET", "/orgs/octo-org/installation", Value::Null, &jwt).await.unwrap();
    assert_eq!(found.body["id"], 1);
    let minted = stage.try_call("POST", path, Value::Null, &jwt).await.unwrap();
    assert_eq!(minted.status, 201);
    let token = minted.body["token"].as_str().unwrap();
    assert_eq!(stage.try_call("GET", RUNNERS, Value::Null, token).await.unwrap().status, 200);
}

#[tokio::test]
async fn runner_groups_are_kept_and_decide_which_repositories_are_served() {
    let stage = Stage::set(Settings::default()).await;
    let made = stage.call("POST", GROUPS, json!({"name": "linux", "visibility": "selected"})).await;
    assert_eq!(made.status, 201);
    let path = format!("{GROUPS}/{}", made.body["id"]);
    assert_eq!(stage.call("POST", GROUPS, json!({"name": "Linux"})).await.status, 409);
    let repositories = format!("{path}/repositories");
    assert_eq!(stage.call("PUT", &repositories, json!({"selected_repository_ids": [102]})).await.status, 204);
    let selected = stage.call("GET", &repositories, Value::Null).await;
    assert_eq!(selected.body["repositories"][0]["name"], "tools");

    let body = json!({"name": "one", "runner_group_id": made.body["id"], "labels": ["linux"]});
    let answer = stage.call("POST", &format!("{RUNNERS}/generate-jitconfig"), body).await;
    let config = answer.body["encoded_jit_config"].as_str().unwrap().to_owned();
    let [app, tools] = ["app", "tools"]
        .map(|name| stage.github.queue_job(JobRequest { repository: Some(name.to_owned()), ..job(&["linux"]) }));
    runner::run(env(config)).await.unwrap();
    assert_eq!(stage.github.job(app).unwrap().status, JobStatus::Queued, "its repository is not admitted");
    assert_eq!(stage.github.job(tools).unwrap().runner.unwrap().group_name, "linux");

    let amended = stage.call("PATCH", &path, json!({"name": "linux", "visibility": "all"})).await;
    assert_eq!((amended.status, &amended.body["visibility"]), (200, &json!("all")));
    assert_eq!(stage.call("PUT", &repositories, json!({"selected_repository_ids": []})).await.status, 409);
    assert_eq!(stage.call("GET", GROUPS, Value::Null).await.body["total_count"], 2);
    assert_eq!(stage.call("DELETE", &path, Value::Null).await.status, 204);
    assert_eq!(stage.call("GET", &path, Value::Null).await.status, 404);
}

#[tokio::test]
async fn calls_fail_as_they_are_told_to_and_as_often() {
    let stage = Stage::set(Settings::default()).await;
    let github = &stage.github;
    github.fail(Operation::ListRunners, Fault::Status(502), Times::Next(2));
    for expected in [502, 502, 200] {
        assert_eq!(stage.call("GET", RUNNERS, Value::Null).await.status, expected);
        assert_eq!(stage.call("GET", GROUPS, Value::Null).await.status, 200, "other operations are not hit");
    }
    github.fail(None, Fault::RateLimited(Duration::from_secs(7)), Times::Next(1));
    let limited = stage.call("GET", GROUPS, Value::Null).await;
    assert_eq!((limited.status, &limited.headers["retry-after"]), (429, &"7".parse().unwrap()));

    let wait = Duration::from_millis(40);
    github.fail(Operation::GenerateJitConfig, Fault::Delay(wait), Times::Forever);
    let begun = Instant::now();
    stage.register("slow", &LABELS).await;
    assert!(begun.elapsed() >= wait);
    github.clear_faults();

    let generate = format!("{RUNNERS}/generate-jitconfig");
    let body = |name: &str| json!({"name": name, "runner_group_id": 1, "labels": ["linux"]});
    let names = || github.runners().into_iter().map(|r| r.name).collect::<Vec<_>>();
    github.fail(Operation::GenerateJitConfig, Fault::DropConnection, Times::Next(1));
    stage.try_call("POST", &generate, body("dropped"), &stage.token).await.unwrap_err();
    assert_eq!(names(), ["slow"], "a dropped call does nothing");
    github.fail(Operation::GenerateJitConfig, Fault::LoseAnswer, Times::Next(1));
    stage.try_call("POST", &generate, body("lost"), &stage.token).await.unwrap_err();
    assert_eq!(names(), ["slow", "lost"], "the call was carried out");
    assert_eq!(stage.call("POST", &generate, body("lost")).await.status, 409);

    assert_eq!(github.count_requests(Operation::GenerateJitConfig), 4);
    let requests = github.requests();
    let statuses: Vec<Option<u16>> = requests
        .iter()
        .filter(|request| request.operation == Operation::GenerateJitConfig)
        .map(|request| request.status)
        .collect();
    assert_eq!(statuses, [Some(201), None, Some(201), Some(409)]);
    assert!(requests.is_sorted_by_key(|request| request.at + request.took));
}

#[tokio::test]
async fn webhooks_are_dropped_doubled_and_overtaken_as_they_are_told_to() {
    let stage = Stage::set(Settings::default()).await;
    let github = &stage.github;
    github.fail_webhooks(Action::Queued, HookFault::Drop, Times::Next(1));
    github.fail_webhooks(Action::Completed, HookFault::Duplicate, Times::Next(1));
    let lost = github.queue_job(job(&LABELS));
    github.cancel(lost);
    until("all is over", || github.hook_counts().pending == 0).await;
    assert_eq!(stage.hooks.actions(lost.0), ["completed", "completed"]);
    let guids: HashSet<String> = stage.hooks.received().into_iter().map(|hook| hook.guid).collect();
    assert_eq!(guids.len(), 1, "both have one GUID");

    assert_eq!(github.redeliver_failed(), 1);
    until("it is delivered", || github.hook_counts().pending == 0).await;
    assert_eq!(stage.hooks.actions(lost.0), ["completed", "completed", "queued"]);
    assert_eq!(github.redeliver_failed(), 0, "nothing is left to redeliver");

    github.fail_webhooks(Action::Queued, HookFault::Late(Duration::from_millis(300)), Times::Next(1));
    let late = github.queue_job(job(&LABELS));
    github.cancel(late);
    until("all is over", || github.hook_counts().pending == 0).await;
    assert_eq!(stage.hooks.actions(late.0), ["completed", "queued"]);
}

#[tokio::test]
async fn a_failed_webhook_is_not_sent_again_by_itself_but_can_be_redelivered_with_its_guid() {
    let stage = Stage::set(Settings::default()).await;
    stage.hooks.answer_with(503);
    stage.github.queue_job(job(&LABELS));
    until("it is answered", || stage.github.hook_counts().failed == 1).await;
    assert_eq!(stage.github.deliveries()[0].status, DeliveryStatus::Answered(503));
    stage.hooks.answer_with(202);

    let listed = stage.call("GET", "/orgs/octo-org/hooks/4001/deliveries?status=failure", Value::Null).await;
    let (id, guid) = (&listed.body[0]["id"], listed.body[0]["guid"].as_str().unwrap());
    let attempt = format!("/orgs/octo-org/hooks/4001/deliveries/{id}/attempts");
    assert_eq!(stage.call("POST", &attempt, Value::Null).await.status, 202);
    until("it is delivered", || stage.github.hook_counts().sent == 2).await;
    let received = stage.hooks.received();
    assert_eq!(received.len(), 2, "once by GitHub, once because it was asked to");
    assert!(received.iter().all(|hook| hook.guid == guid && hook.signed));
    assert_eq!(received[0].body, received[1].body);
    let last = stage.github.deliveries().pop().unwrap();
    assert_eq!((last.redelivery, last.status), (true, DeliveryStatus::Answered(202)));
}
