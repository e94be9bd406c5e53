//! What instances fetch and report by their tokens, over a real socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/fakes.rs"]
mod fakes;
#[path = "support/web.rs"]
mod web;

use std::sync::Arc;
use std::time::Duration;

use actors::id::*;
use actors::model::runner::{Runner, RunnerState};
use actors::model::secret::Secret;
use actors::port::backend::{InstanceSpec, Machine, Owner};
use actors::port::boot::{Boot, Grant};
use actors::port::{Clock, Store, StoreError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fakes::{Fake, Mood};
use runner_manager::boot::Tokens;
use serde_json::{Value, json};
use web::{ADMIN_KEY, Request, Response, Server};

const FILES: [(&str, &str); 3] = [
    ("runner", "{\"agentName\":\"it's \u{fc}\"}"),
    ("credentials", "{\"scheme\":\"OAuth\"}"),
    ("credentials_rsaparams", "top secret key"),
];
/// What every instance may ask for.
const PATHS: [&str; 9] = [
    "metadata/credentials/runner",
    "metadata/credentials/credentials",
    "metadata/credentials/credentials_rsaparams",
    "metadata/runner-registration-token",
    "metadata/system/service-name",
    "metadata/systemd/unit-file",
    "metadata/system/cert-bundle",
    "metadata/jit-config",
    "metadata/startup-script",
];

fn jit_config() -> String {
    let files: serde_json::Map<_, _> =
        FILES.iter().map(|(name, content)| (format!(".{name}"), json!(STANDARD.encode(content)))).collect();
    STANDARD.encode(Value::Object(files).to_string())
}

struct Site {
    fake: Arc<Fake>,
    tokens: Arc<Tokens>,
    server: Server,
}

impl Site {
    async fn new() -> Self {
        let fake = Fake::new();
        let store: Arc<dyn Store> = fake.clone();
        let clock: Arc<dyn Clock> = fake.clone();
        let tokens = Arc::new(Tokens::new(store, clock, "https://runners.example.org"));
        let boot: Arc<dyn Boot> = tokens.clone();
        let front = fake.front(&[fakes::settings("octo", 0, 5)]);
        let server = Server::start(front, web::settings(|settings| settings.boot = Some(boot))).await;
        Self { fake, tokens, server }
    }

    /// A runner in this state.
    fn runner(&self, n: u64, change: impl FnOnce(&mut Runner)) -> RunnerName {
        let settings = fakes::settings("octo", 0, 5);
        let name = settings.name.runner_name(n);
        let mut runner = Runner::requested(name.clone(), &settings, Attempt(0), self.fake.now());
        runner.state = RunnerState::Starting;
        change(&mut runner);
        self.fake.things().runners.insert(name.clone(), runner);
        name
    }

    async fn grant(&self, runner: &RunnerName) -> Grant {
        self.grant_of(runner, &jit_config()).await
    }

    async fn grant_of(&self, runner: &RunnerName, jit_config: &str) -> Grant {
        self.tokens.grant(&self.spec_of(runner, jit_config)).await.unwrap()
    }

    fn spec_of(&self, runner: &RunnerName, jit_config: &str) -> InstanceSpec {
        let owner = Owner { manager: ManagerName::new("m").unwrap(), group: GroupName::new("octo").unwrap() };
        let machine = Machine {
            scope_path: "octo-org/app".to_owned(),
            online_within: Duration::from_secs(600),
            ..Machine::default()
        };
        let env = vec![("RUNNER_NAME", runner.to_string()), ("RUNNER_JOB_STARTED_SCRIPT", "/opt/start.sh".to_owned())];
        let jit_config = Secret::new(jit_config.to_owned());
        InstanceSpec { owner, runner: runner.clone(), env, jit_config, machine }
    }

    async fn get(&self, path: &str, token: &str) -> Response {
        self.server.get(&format!("/instances/v1/{path}"), Some(token)).await
    }

    async fn post(&self, path: &str, token: &str, body: &str) -> Response {
        self.server.send(&Request::new("POST", &format!("/instances/v1/{path}")).key(token).body(body)).await
    }

    /// Asserts that a token opens nothing, and that it is not said why.
    async fn refused(&self, token: &str) {
        for path in PATHS {
            let answer = self.get(path, token).await;
            let problem = answer.problem(401);
            assert_eq!(problem["detail"], "the token is not valid (any more)", "{path}");
            assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"));
        }
        for path in ["callback/status", "callback/system-info"] {
            self.post(path, token, "{\"status\":\"failed\"}").await.problem(401);
        }
    }
}

#[tokio::test]
async fn a_grant_says_where_it_counts() {
    let site = Site::new().await;
    let grant = site.grant(&site.runner(1, |_| {})).await;
    assert_eq!(grant.metadata_url, "https://runners.example.org/instances/v1/metadata");
    assert_eq!(grant.callback_url, "https://runners.example.org/instances/v1/callback");
    assert_eq!(grant.token.expose().len(), 64);
    assert_eq!(format!("{grant:?}").matches(grant.token.expose()).count(), 0);
    site.server.stop().await;
}

#[tokio::test]
async fn an_instance_gets_the_files_of_its_config_and_what_an_install_script_needs() {
    let site = Site::new().await;
    let name = site.runner(1, |_| {});
    let token = site.grant(&name).await.token;
    let token = token.expose();
    for slash in ["", "/"] {
        for (file, content) in FILES {
            let answer = site.get(&format!("metadata/credentials/{file}{slash}"), token).await;
            assert_eq!((answer.status, answer.text()), (200, content));
            assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
            assert_eq!(answer.header("content-disposition"), Some(&*format!("attachment; filename=.{file}")));
            assert_eq!(answer.header("cache-control"), Some("no-store"));
        }
        let answer = site.get(&format!("metadata/system/service-name{slash}"), token).await;
        assert_eq!(answer.text(), format!("actions.runner.octo-org-app.{name}"));
        let answer = site.get(&format!("metadata/systemd/unit-file{slash}?runAsUser=build"), token).await;
        assert!(answer.text().contains("\nUser=build\n"), "{}", answer.text());
        assert!(answer.text().contains("ACTIONS_RUNNER_HOOK_JOB_STARTED=/opt/start.sh\n"), "{}", answer.text());
        let answer = site.get(&format!("metadata/system/cert-bundle{slash}"), token).await;
        assert_eq!(answer.json(), json!({"root_certificates": {}}));
        let answer = site.get(&format!("metadata/jit-config{slash}"), token).await;
        assert_eq!(answer.text(), jit_config());
        let answer = site.get(&format!("metadata/runner-registration-token{slash}"), token).await;
        assert!(answer.problem(404)["detail"].as_str().unwrap().contains("just-in-time"));
        let answer = site.get(&format!("metadata/startup-script{slash}"), token).await;
        assert!(answer.text().starts_with("#!/bin/sh\n"));
        assert!(answer.text().contains(&format!("\nRUNNER_NAME='{name}'\n")), "{}", answer.text());
        assert!(answer.text().contains(&format!("\nRUNNER_TOKEN='{token}'\n")));
        assert!(!answer.text().contains(&jit_config()));
    }
    site.get("metadata/systemd/unit-file?runAsUser=a%20b", token).await.problem(422);
    site.get("metadata/nothing", token).await.problem(404);
    let answer = site.post("metadata/jit-config", token, "").await;
    answer.problem(405);
    assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    let answer = site.get("callback/status", token).await;
    answer.problem(405);
    assert_eq!(answer.header("allow"), Some("POST"));
    site.server.stop().await;
}

#[tokio::test]
async fn an_operators_script_gets_every_value_and_stays_that_of_its_instance() {
    let site = Site::new().await;
    let script =
        "#!/bin/bash\nA={{RUNNER_NAME}}\nB={{RUNNER_JIT_CONFIG}}\nC={{RUNNER_JOB_STARTED_SCRIPT}}\nD={{RUNNER_ORG}}\n";
    let own = Tokens::clone(&site.tokens).with_script(script.into());
    let name = site.runner(1, |_| {});
    let token = own.grant(&site.spec_of(&name, &jit_config())).await.unwrap().token;
    // Also from where that script is not configured (any more).
    let answer = site.get("metadata/startup-script", token.expose()).await;
    let jit = jit_config();
    assert_eq!(answer.text(), format!("#!/bin/bash\nA='{name}'\nB='{jit}'\nC='/opt/start.sh'\nD=''\n"));
    let other = site.grant(&site.runner(2, |_| {})).await.token;
    let built_in = site.get("metadata/startup-script", other.expose()).await;
    assert!(built_in.text().contains("RUNNER_TOKEN="), "{}", built_in.text());
    site.server.stop().await;
}

#[tokio::test]
async fn each_token_opens_only_what_is_its_own() {
    let site = Site::new().await;
    let first = site.grant_of(&site.runner(1, |_| {}), "Zmlyc3Q=").await;
    let second = site.grant_of(&site.runner(2, |_| {}), "c2Vjb25k").await;
    assert_eq!(site.get("metadata/jit-config", first.token.expose()).await.text(), "Zmlyc3Q=");
    assert_eq!(site.get("metadata/jit-config", second.token.expose()).await.text(), "c2Vjb25k");
    let name = site.get("metadata/system/service-name", second.token.expose()).await;
    assert!(name.text().ends_with(fakes::settings("octo", 0, 5).name.runner_name(2).as_str()));
    site.server.stop().await;
}

#[tokio::test]
async fn a_token_that_is_none_opens_nothing() {
    let site = Site::new().await;
    let token = site.grant(&site.runner(1, |_| {})).await.token;
    let upper = token.expose().to_uppercase();
    let longer = format!("{}0", token.expose());
    for wrong in [&"0".repeat(64), "x", ADMIN_KEY, &upper, &longer, &token.expose()[1..], "../../jit"] {
        site.refused(wrong).await;
    }
    let path = "/instances/v1/metadata/jit-config";
    let nobody = site.server.send(&Request::new("GET", path)).await;
    assert!(nobody.problem(401)["detail"].as_str().unwrap().contains("Authorization: Bearer"));
    let basic = Request::new("GET", path).header("Authorization", &format!("Basic {}", token.expose()));
    site.server.send(&basic).await.problem(401);
    site.server.send(&Request::new("GET", path).key(token.expose()).key(token.expose())).await.problem(401);
    // A token of an instance is no key of the admin API.
    site.server.get("/api/v1/groups", Some(token.expose())).await.problem(401);
    site.server.stop().await;
}

#[tokio::test]
async fn a_token_is_of_no_use_once_its_runner_is_online_or_gone_or_unknown() {
    let site = Site::new().await;
    let now = site.fake.now();
    let name = site.runner(1, |_| {});
    let token = site.grant(&name).await.token;
    for state in RunnerState::ALL {
        site.runner(1, |runner| runner.state = state);
        let on_its_way = matches!(
            state,
            RunnerState::Requested | RunnerState::Registering | RunnerState::Provisioning | RunnerState::Starting
        );
        match on_its_way {
            true => assert_eq!(site.get("metadata/jit-config", token.expose()).await.status, 200, "{state:?}"),
            false => site.refused(token.expose()).await,
        }
    }
    site.runner(1, |runner| runner.online_at = Some(now));
    site.refused(token.expose()).await;
    site.fake.things().runners.clear();
    site.refused(token.expose()).await;
    site.server.stop().await;
}

#[tokio::test]
async fn a_token_is_of_no_use_after_its_time_or_once_it_is_revoked() {
    let site = Site::new().await;
    let name = site.runner(1, |_| {});
    let token = site.grant(&name).await.token;
    site.fake.advance(599);
    assert_eq!(site.get("metadata/jit-config", token.expose()).await.status, 200);
    site.fake.advance(1);
    site.refused(token.expose()).await;

    let (first, second) = (site.grant(&name).await.token, site.grant(&name).await.token);
    assert_eq!(site.get("metadata/jit-config", first.expose()).await.status, 200, "an earlier token stays good");
    site.tokens.revoke(&name).await.unwrap();
    for token in [first, second] {
        site.refused(token.expose()).await;
    }
    site.server.stop().await;
}

#[tokio::test]
async fn the_store_holds_neither_the_token_nor_anything_of_the_config_in_clear() {
    let site = Site::new().await;
    let token = site.grant(&site.runner(1, |_| {})).await.token;
    let sealed = site.fake.things().sealed.values().next().unwrap().clone();
    let kept = format!("{} {}", sealed.key, String::from_utf8_lossy(&sealed.body));
    for secret in [token.expose(), &jit_config(), &jit_config()[..24], "RUNNER_NAME"] {
        assert!(!kept.contains(secret));
    }
    site.server.stop().await;
}

#[tokio::test]
async fn what_was_altered_in_the_store_opens_for_nobody() {
    let site = Site::new().await;
    let name = site.runner(1, |_| {});
    let (first, second) = (site.grant(&name).await.token, site.grant(&name).await.token);
    {
        // The second one's entry under the key of the first.
        let mut things = site.fake.things();
        let keys: Vec<String> = things.sealed.keys().cloned().collect();
        let (mut a, mut b) = (things.sealed[&keys[0]].clone(), things.sealed[&keys[1]].clone());
        std::mem::swap(&mut a.body, &mut b.body);
        things.sealed.insert(keys[0].clone(), a);
        things.sealed.insert(keys[1].clone(), b);
    }
    site.refused(first.expose()).await;
    site.refused(second.expose()).await;
    site.server.stop().await;
}

#[tokio::test]
async fn a_report_that_is_none_is_refused_and_a_long_one_is_not_read() {
    let site = Site::new().await;
    let token = site.grant(&site.runner(1, |_| {})).await.token;
    let token = token.expose();
    for slash in ["", "/"] {
        let status = format!("callback/status{slash}");
        for body in ["", "{", "[]", "null", "\"failed\""] {
            site.post(&status, token, body).await.problem(400);
        }
        for body in ["{}", "{\"status\":\"great\"}", "{\"status\":7}"] {
            assert_eq!(site.post(&status, token, body).await.pointer(422), "#/status");
        }
        let long = format!("{{\"status\":\"idle\",\"message\":\"{}\"}}", "x".repeat(70_000));
        site.post(&status, token, &long).await.problem(413);
    }
    // This front has no actors: nobody takes the report.
    for (path, body) in [
        ("callback/status", "{\"status\":\"installing\",\"message\":null,\"agent_id\":null}"),
        ("callback/system-info/", "{\"os_name\":\"Ubuntu\",\"os_version\":\"24.04\",\"agent_id\":7}"),
    ] {
        let problem = site.post(path, token, body).await.problem(503);
        assert!(problem["detail"].as_str().unwrap().contains("group octo does not answer"), "{problem}");
    }
    site.server.stop().await;
}

#[tokio::test]
async fn without_the_store_an_instance_is_told_to_try_again() {
    let site = Site::new().await;
    let token = site.grant(&site.runner(1, |_| {})).await.token;
    site.fake.set(Mood::Fails(StoreError::Unavailable("broken".to_owned())));
    let answer = site.get("metadata/jit-config", token.expose()).await;
    answer.problem(503);
    assert!(answer.header("retry-after").is_some());
    site.server.stop().await;
}

#[tokio::test]
async fn a_config_that_is_not_understood_has_no_files_and_is_handed_over_whole() {
    let site = Site::new().await;
    let token = site.grant_of(&site.runner(1, |_| {}), "bm8gSlNPTg==").await.token;
    let answer = site.get("metadata/credentials/runner", token.expose()).await;
    assert!(answer.problem(404)["detail"].as_str().unwrap().contains("has no file .runner"));
    assert_eq!(site.get("metadata/jit-config", token.expose()).await.text(), "bm8gSlNPTg==");
    site.server.stop().await;
}

#[tokio::test]
async fn without_an_outside_address_there_is_nothing_for_instances() {
    let fake = Fake::new();
    let server = Server::start(fake.front(&[fakes::settings("octo", 0, 5)]), web::settings(|_| {})).await;
    server.get("/instances/v1/metadata/jit-config", Some(&"0".repeat(64))).await.problem(404);
    server.stop().await;
}
