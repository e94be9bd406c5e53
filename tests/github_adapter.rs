//! The GitHub adapter against a server that answers in every way GitHub is known to, and in some worse ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "github_adapter/app.rs"]
mod app;
#[path = "github_adapter/faults.rs"]
mod faults;
#[path = "github_adapter/runner_groups.rs"]
mod runner_groups;
#[path = "support/github.rs"]
mod support;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actors::id::RunnerId;
use actors::model::settings::{Arch, Os};
use actors::port::github::{Deregistered, RunnerGroup};
use actors::port::{GitHub, GitHubError};
use runner_manager::github::{Client, InvalidSettings, Settings};
use serde_json::{Value, json};
use support::{Recorder, TOKEN, client, group, jit_request, organization, repository, runner, runner_name, settings};
use wiremock::matchers::{any, body_json, header, method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

const JIT_CONFIG: &str = "c2VjcmV0LWppdC1jb25maWc=";

fn jit_answer() -> ResponseTemplate {
    ResponseTemplate::new(201)
        .set_body_json(json!({"runner": runner(23, runner_name(1).as_str()), "encoded_jit_config": JIT_CONFIG}))
}

fn page(total: u64, runners: Vec<Value>) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({"total_count": total, "runners": runners}))
}

fn downloads() -> ResponseTemplate {
    let download = |os: &str, architecture: &str| {
        let url = format!("https://github.com/actions/runner/releases/download/v2/{os}-{architecture}.tar.gz");
        json!({"os": os, "architecture": architecture, "download_url": url, "filename": "runner.tar.gz"})
    };
    let offered = json!([download("osx", "arm64"), download("linux", "arm64"), download("linux", "x64")]);
    ResponseTemplate::new(200).set_body_json(offered)
}

const OPERATIONS: [&str; 7] = [
    "ensure_runner_group",
    "delete_runner_group",
    "generate_jit_config",
    "list_runners",
    "find_runner",
    "delete_runner",
    "runner_download",
];

/// What became of a runner group; trouble is an error.
fn ensured(group: RunnerGroup) -> Result<String, GitHubError> {
    group.trouble.map_or(Ok(format!("group {}", group.id)), Err)
}

/// The outcome of one method of the port in a word or two.
async fn outcome(client: &Client, operation: &str) -> (String, String) {
    let scope = organization();
    let result = match operation {
        "ensure_runner_group" => client.ensure_runner_group(&group(scope), None).await.and_then(ensured),
        "delete_runner_group" => client.delete_runner_group(&group(scope), None).await.map(|how| format!("{how:?}")),
        "generate_jit_config" => {
            client.generate_jit_config(&jit_request(scope)).await.map(|registered| format!("runner {}", registered.id))
        }
        "list_runners" => client.list_runners(&scope).await.map(|runners| format!("{} runners", runners.len())),
        "find_runner" => client.find_runner(&scope, &runner_name(1)).await.map(|found| format!("{}", found.is_some())),
        "delete_runner" => client.delete_runner(&scope, RunnerId(23)).await.map(|how| format!("{how:?}")),
        _ => client.runner_download(&scope, Os::Linux, Arch::X64).await.map(|download| download.url),
    };
    match result {
        Ok(text) => (text, String::new()),
        Err(error) => (error.kind().to_owned(), format!("{error} {error:?}")),
    }
}

#[tokio::test]
async fn every_status_has_its_typed_outcome_for_every_method() {
    let permission = json!({"message": "Resource not accessible by personal access token"});
    let secondary = json!({"message": "You have exceeded a secondary rate limit. Please wait."});
    let problem = json!({"message": "Something is wrong", "errors": "name"});
    let nonsense = json!({"runner": {"id": "x"}, "encoded_jit_config": JIT_CONFIG, "token": TOKEN});
    #[rustfmt::skip]
    let table = [
        // status, body, general outcome, exceptions by method
        (400, &problem, "invalid", vec![]),
        (401, &problem, "unauthorized", vec![]),
        (403, &permission, "forbidden", vec![]),
        (403, &secondary, "rate_limited", vec![]),
        (404, &problem, "not_found", vec![("delete_runner", "Absent"), ("ensure_runner_group", "group 1")]),
        (405, &problem, "invalid", vec![]),
        (408, &problem, "unknown", vec![]),
        (409, &problem, "conflict", vec![]),
        (410, &problem, "not_found", vec![("ensure_runner_group", "group 1")]),
        (415, &problem, "invalid", vec![]),
        (422, &problem, "invalid", vec![("delete_runner", "Busy")]),
        (425, &problem, "unknown", vec![]),
        (429, &problem, "rate_limited", vec![]),
        (451, &problem, "invalid", vec![]),
        (500, &problem, "unknown", vec![]),
        (502, &problem, "unknown", vec![]),
        (503, &problem, "unknown", vec![]),
        (504, &problem, "unknown", vec![]),
        (200, &nonsense, "unknown", vec![("delete_runner", "Removed")]),
        (201, &nonsense, "unknown", vec![("delete_runner", "Removed")]),
        (303, &problem, "unknown", vec![]),
        (304, &problem, "unknown", vec![]),
    ];
    let server = MockServer::start().await;
    for (status, body, general, exceptions) in table {
        server.reset().await;
        Mock::given(any()).respond_with(ResponseTemplate::new(status).set_body_json(body)).mount(&server).await;
        for operation in OPERATIONS {
            let exception = exceptions.iter().find(|(name, _)| *name == operation);
            let expected = exception.map_or(general, |(_, outcome)| outcome);
            let (actual, text) = outcome(&client(&server.uri()), operation).await;
            assert_eq!(actual, expected, "{operation} with {status}: {text}");
            assert!(!text.contains(JIT_CONFIG) && !text.contains(TOKEN), "{text}");
            if status >= 400 && !text.is_empty() {
                assert!(text.contains(&format!("answered {status}")), "{operation} with {status}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn a_refused_token_is_told_from_a_refused_app() {
    let server = MockServer::start().await;
    let bad = json!({"message": "Bad credentials"});
    Mock::given(any()).respond_with(ResponseTemplate::new(401).set_body_json(bad)).mount(&server).await;
    let error = client(&server.uri()).delete_runner(&organization(), RunnerId(1)).await.unwrap_err();
    let text = "GitHub refuses the credential: the token is wrong, has expired or was revoked: DELETE /orgs/octo-org/";
    assert!(error.to_string().starts_with(text), "{error}");
}

#[tokio::test]
async fn answers_that_are_not_json_are_unknown_and_repeat_nothing() {
    let server = MockServer::start().await;
    for (status, body) in
        [(200, ""), (201, JIT_CONFIG), (201, "{\"encoded_jit_config\": \"c2VjcmV0LWppdC1jb25ma"), (502, JIT_CONFIG)]
    {
        server.reset().await;
        Mock::given(any()).respond_with(ResponseTemplate::new(status).set_body_string(body)).mount(&server).await;
        for operation in OPERATIONS.iter().filter(|operation| **operation != "delete_runner") {
            let (actual, text) = outcome(&client(&server.uri()), operation).await;
            assert_eq!(actual, "unknown", "{operation} with {status} {body}");
            assert!(!text.contains("c2VjcmV0"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_registration_asks_for_what_was_wanted_and_hides_the_config() {
    let server = MockServer::start().await;
    let body = json!({
        "name": runner_name(1).as_str(), "runner_group_id": 7, "work_folder": "_work",
        "labels": ["self-hosted", "linux", "x64", "octo"],
    });
    let user_agent = concat!("runner-manager/", env!("CARGO_PKG_VERSION"));
    Mock::given(method("POST"))
        .and(path("/repos/octo/app/actions/runners/generate-jitconfig"))
        .and(header("authorization", format!("Bearer {TOKEN}")))
        .and(header("accept", "application/vnd.github+json"))
        .and(header("x-github-api-version", "2022-11-28"))
        .and(header("content-type", "application/json"))
        .and(header("user-agent", user_agent))
        .and(body_json(body))
        .respond_with(jit_answer())
        .expect(1)
        .mount(&server)
        .await;
    let registration = client(&server.uri()).generate_jit_config(&jit_request(repository())).await.unwrap();
    assert_eq!((registration.id, registration.jit_config.expose()), (RunnerId(23), JIT_CONFIG));
    assert!(!format!("{registration:?}").contains(JIT_CONFIG));
}

#[tokio::test]
async fn a_taken_name_is_a_conflict_however_it_is_said_and_an_empty_config_is_no_config() {
    let server = MockServer::start().await;
    let taken = json!({"message": "Already exists - A runner with the name *** already exists."});
    let empty = json!({"runner": runner(23, "a"), "encoded_jit_config": ""});
    for (status, body, kind) in [(409, &taken, "conflict"), (422, &taken, "conflict"), (201, &empty, "unknown")] {
        server.reset().await;
        Mock::given(any()).respond_with(ResponseTemplate::new(status).set_body_json(body)).mount(&server).await;
        let error = client(&server.uri()).generate_jit_config(&jit_request(organization())).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

/// Three pages under `/base`, linked by absolute addresses of another host, as a proxy would leave them.
async fn three_pages(server: &MockServer, totals: [u64; 3]) {
    let pages = [vec![runner(1, "a"), runner(2, "b")], vec![runner(2, "b"), runner(3, "c")], vec![runner(4, "d")]];
    for (index, (runners, total)) in pages.into_iter().zip(totals).enumerate() {
        let mut answer = page(total, runners);
        if index < 2 {
            let path =
                format!("https://elsewhere.invalid/base/orgs/octo-org/actions/runners?per_page=100&page={}", index + 2);
            answer = answer.append_header("link", format!("<{path}>; rel=\"next\", <{path}>; rel=\"last\"").as_str());
        }
        let mut mock = Mock::given(method("GET")).and(path("/base/orgs/octo-org/actions/runners"));
        if index > 0 {
            mock = mock.and(query_param("page", (index + 1).to_string()));
        }
        mock.and(query_param("per_page", "100"))
            .respond_with(answer)
            .with_priority(3 - index as u8)
            .mount(server)
            .await;
    }
}

#[tokio::test]
async fn a_listing_follows_the_links_on_its_own_server_and_has_each_runner_once() {
    let server = MockServer::start().await;
    three_pages(&server, [4, 4, 4]).await;
    for base in ["/base", "/base/"] {
        let runners = client(&format!("{}{base}", server.uri())).list_runners(&organization()).await.unwrap();
        assert_eq!(runners.iter().map(|runner| runner.id.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(runners[0].online && runners[0].busy && runners[0].labels == ["self-hosted"]);
    }
    assert_eq!(server.received_requests().await.unwrap().len(), 6);
}

#[tokio::test]
async fn a_listing_that_changed_while_it_was_read_is_read_again_but_not_for_ever() {
    let server = MockServer::start().await;
    three_pages(&server, [5, 4, 4]).await;
    let runners = client(&format!("{}/base", server.uri())).list_runners(&organization()).await.unwrap();
    assert_eq!(runners.len(), 4);
    assert_eq!(server.received_requests().await.unwrap().len(), 9);
}

#[tokio::test]
async fn an_endless_listing_ends_and_is_unknown() {
    let server = MockServer::start().await;
    let again = "</orgs/octo-org/actions/runners?page=1>; rel=\"next\"";
    let answer = page(1, vec![runner(1, "a")]).append_header("link", again);
    Mock::given(any()).respond_with(answer).mount(&server).await;
    let error = client(&server.uri()).list_runners(&organization()).await.unwrap_err();
    assert_eq!(error.kind(), "unknown");
    assert!(error.to_string().contains("more than 1000 pages"), "{error}");
}

#[tokio::test]
async fn a_failing_page_fails_the_listing() {
    let server = MockServer::start().await;
    let first = page(2, vec![runner(1, "a")]).append_header("link", "</second>; rel=\"next\"");
    Mock::given(path("/second")).respond_with(ResponseTemplate::new(502)).mount(&server).await;
    Mock::given(any()).respond_with(first).with_priority(9).mount(&server).await;
    assert_eq!(client(&server.uri()).list_runners(&organization()).await.unwrap_err().kind(), "unknown");
}

#[tokio::test]
async fn a_runner_is_found_by_its_exact_name_even_where_the_filter_is_ignored() {
    let server = MockServer::start().await;
    let name = runner_name(1);
    let others = page(3, vec![runner(1, &format!("{name}x")), runner(2, &name.as_str().to_uppercase())]);
    let first = others.append_header("link", "</orgs/octo-org/actions/runners?page=2>; rel=\"next\"");
    Mock::given(query_param("name", name.as_str())).respond_with(first).mount(&server).await;
    let second = page(3, vec![runner(3, name.as_str())]).append_header("link", "</not-needed>; rel=\"next\"");
    Mock::given(query_param("page", "2")).respond_with(second).mount(&server).await;
    let client = client(&server.uri());
    let found = client.find_runner(&organization(), &name).await.unwrap().unwrap();
    assert_eq!((found.id, found.name.as_str()), (RunnerId(3), name.as_str()));

    server.reset().await;
    Mock::given(any()).respond_with(page(1, vec![runner(1, &format!("{name}x"))])).mount(&server).await;
    assert_eq!(client.find_runner(&organization(), &name).await.unwrap(), None);
}

#[tokio::test]
async fn a_removed_runner_is_removed() {
    let server = MockServer::start().await;
    let delete = Mock::given(method("DELETE")).and(path("/repos/octo/app/actions/runners/23"));
    delete.respond_with(ResponseTemplate::new(204)).expect(1).mount(&server).await;
    let removed = client(&server.uri()).delete_runner(&repository(), RunnerId(23)).await;
    assert_eq!(removed, Ok(Deregistered::Removed));
}

#[tokio::test]
async fn downloads_are_asked_for_once_and_a_missing_one_says_what_there_is() {
    let server = MockServer::start().await;
    Mock::given(path("/orgs/octo-org/actions/runners/downloads"))
        .respond_with(downloads().set_delay(Duration::from_millis(20)))
        .expect(1)
        .mount(&server)
        .await;
    let client = Arc::new(client(&server.uri()));
    let ask = |os, arch| {
        let client = Arc::clone(&client);
        tokio::spawn(
            async move { client.runner_download(&organization(), os, arch).await.map(|download| download.url) },
        )
    };
    for task in (0..20).map(|_| ask(Os::Linux, Arch::X64)).collect::<Vec<_>>() {
        assert!(task.await.unwrap().unwrap().ends_with("/linux-x64.tar.gz"));
    }
    assert!(ask(Os::Macos, Arch::Arm64).await.unwrap().unwrap().ends_with("/osx-arm64.tar.gz"));
    let error = ask(Os::Windows, Arch::X64).await.unwrap().unwrap_err();
    let text = "GitHub refuses the request: GitHub offers no runner for win/x64 in organization octo-org, but for \
                osx/arm64, linux/arm64, linux/x64";
    assert_eq!(error.to_string(), text);
}

#[tokio::test]
async fn failed_downloads_are_asked_for_again() {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(ResponseTemplate::new(502)).up_to_n_times(3).mount(&server).await;
    Mock::given(any()).respond_with(downloads()).mount(&server).await;
    let client = client(&server.uri());
    assert_eq!(outcome(&client, "runner_download").await.0, "unknown");
    assert!(outcome(&client, "runner_download").await.0.ends_with("/linux-x64.tar.gz"));
}

#[tokio::test]
async fn nothing_is_sent_while_a_limit_lasts() {
    let server = MockServer::start().await;
    let refused = ResponseTemplate::new(403).append_header("retry-after", "70");
    Mock::given(any()).respond_with(refused).expect(1).mount(&server).await;
    let client = client(&server.uri());
    for operation in OPERATIONS {
        assert_eq!(outcome(&client, operation).await.0, "rate_limited");
    }
    let Err(GitHubError::RateLimited { retry_after, text }) = client.list_runners(&organization()).await else {
        panic!("the limit is over");
    };
    assert!(retry_after > Duration::from_secs(60) && retry_after <= Duration::from_secs(70), "{retry_after:?}");
    assert!(text.starts_with("not asked again before the limit is over; GET /orgs/octo-org/"), "{text}");
}

#[tokio::test]
async fn calls_that_wait_for_their_turn_learn_of_a_limit_before_they_are_sent() {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(ResponseTemplate::new(429)).expect(1).mount(&server).await;
    let settings = Settings { max_concurrency: 1, ..settings(&server.uri()) };
    let client = Arc::new(Client::new(settings, Arc::new(Recorder::default())).unwrap());
    let call = |_| {
        let client = Arc::clone(&client);
        tokio::spawn(async move { outcome(&client, "generate_jit_config").await.0 })
    };
    for task in (0..10).map(call).collect::<Vec<_>>() {
        assert_eq!(task.await.unwrap(), "rate_limited");
    }
}

#[tokio::test]
async fn each_call_and_what_is_left_of_the_limit_are_observed() {
    let server = MockServer::start().await;
    let left = |answer: ResponseTemplate, resource: &str| {
        answer.append_header("x-ratelimit-remaining", "4999").append_header("x-ratelimit-resource", resource)
    };
    Mock::given(method("GET")).respond_with(left(page(0, vec![]), "core")).mount(&server).await;
    Mock::given(method("DELETE")).respond_with(left(ResponseTemplate::new(404), "brand new")).mount(&server).await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(502)).mount(&server).await;
    let recorder = Arc::new(Recorder::default());
    let client = Client::new(settings(&server.uri()), Arc::<Recorder>::clone(&recorder)).unwrap();
    for (operation, observed) in [
        ("list_runners", vec!["token core 4999", "list_runners ok"]),
        ("delete_runner", vec!["token other 4999", "delete_runner ok"]),
        ("generate_jit_config", vec!["generate_jit_config unknown"]),
    ] {
        outcome(&client, operation).await;
        assert_eq!(recorder.take(), observed);
    }
}

/// Everything that was logged, for a test to read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_log_at_any_level_has_a_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(jit_answer()).up_to_n_times(1).mount(&server).await;
    let wrong = ResponseTemplate::new(201).set_body_json(json!({"encoded_jit_config": JIT_CONFIG}));
    Mock::given(any()).respond_with(wrong).mount(&server).await;
    let client = client(&server.uri());
    assert_eq!(outcome(&client, "generate_jit_config").await.0, "runner 23");
    // Another test's thread may have met the same log lines first, when nobody listened, and tracing remembers that.
    tracing::callsite::rebuild_interest_cache();
    assert_eq!(outcome(&client, "generate_jit_config").await.0, "unknown");
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("GitHub was called"), "{log}");
    assert!(!log.contains(JIT_CONFIG) && !log.contains(TOKEN), "{log}");
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_by_name_and_show_no_secret() {
    let build = |settings| Client::new(settings, Arc::new(Recorder::default())).err().map(|error| error.to_string());
    for (url, why) in [
        ("api.github.com", "it must start with https:// or http://"),
        ("ftp://host", "it must start with https:// or http://"),
        ("https://host/a b", "it is not a URL"),
        ("https://host/?a=b", "it must not have a query"),
    ] {
        assert_eq!(build(settings(url)).unwrap(), format!("invalid GitHub base URL {url:?}: {why}"));
    }
    let error = build(settings("https://me:s3cret@host")).unwrap();
    assert!(error.contains("password") && !error.contains("s3cret"), "{error}");
    let mut bad = settings("http://host");
    bad.user_agent = "a\nb".to_owned();
    assert_eq!(build(bad).unwrap(), InvalidSettings::UserAgent("a\nb".to_owned()).to_string());
    let good = settings("https://api.github.com");
    assert!(!format!("{good:?}").contains(TOKEN));
    assert_eq!(build(good), None);
}
