//! `check --online` by the real binary: what it finds at a simulated GitHub, in the store and on this host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/service.rs"]
mod service;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use runner_manager::demo::github::{AppTrouble, Fault, HookFault, Operation, Times};
use serde_json::{Value, json};
use service::{PROGRAM, Site, free_port};

/// Runs the check; returns its exit status and its findings.
async fn check(config: &Path) -> (i32, Vec<String>) {
    let mut command = Command::new(PROGRAM);
    command.args(["check", "--online", "--config"]).arg(config);
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = String::from_utf8(stdout).unwrap();
    let (_, findings) = text.split_once("\nonline\n").unwrap_or_else(|| {
        panic!("{text}\n{}", String::from_utf8_lossy(&stderr));
    });
    (status.code().unwrap(), findings.lines().map(|line| line.trim().to_owned()).collect())
}

/// The findings that are not ok.
fn bad(findings: &[String]) -> Vec<&str> {
    findings.iter().map(String::as_str).filter(|line| !line.starts_with("ok ")).collect()
}

/// Whether a finding begins so; shows them all when none does.
fn has(findings: &[String], start: &str) -> bool {
    let found = findings.iter().any(|line| line.starts_with(start));
    assert!(found, "no line begins with {start:?}:\n{}", findings.join("\n"));
    found
}

/// The configuration of a GitHub App under the name `app`.
fn app() -> Value {
    json!({"name": "app", "app_id": 4711, "private_key": include_str!("support/app-key.pem")})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_would_serve_is_found_to_and_nothing_is_made() {
    let mut site = Site::new().await;
    let config = site.config(2, |config| {
        let mut more = config["runner_groups"][0].clone();
        more["name"] = json!("octo-app");
        more["github_credential"] = json!("app");
        more.as_object_mut().unwrap().remove("organization");
        more["repository"] = json!("octo-org/app");
        config["runner_groups"].as_array_mut().unwrap().push(more);
        config["github_credentials"] = json!([app()]);
    });
    let (status, findings) = check(&config).await;
    println!("{}", findings.join("\n"));
    assert_eq!(status, 0, "{findings:#?}");
    let unsaid = "warning credential default, organization octo-org, webhooks: the hook has sent no workflow_job";
    assert!(has(&findings, unsaid));
    for start in [
        "ok      store: ",
        "ok      credential default: accepted by http://127.0.0.1:",
        "ok      credential default, organization octo-org: runners can be listed; GitHub does not tell",
        "ok      group octo-test: its runner group does not exist at GitHub yet",
        "ok      credential default, budget: core 149",
        "ok      credential app: accepted by ",
        "ok      credential app, repository octo-org/app: runners can be listed and registered",
        "ok      group octo-app: its runners join GitHub's default runner group",
        "ok      credential app, budget: ",
        "ok      group octo-test, backend process: can create runners",
        "ok      group octo-app, backend process: can create runners",
    ] {
        assert!(has(&findings, start));
    }
    let methods: BTreeSet<String> = site.github.requests().into_iter().map(|request| request.method).collect();
    let token = site.github.count_requests(Operation::CreateToken);
    assert_eq!((methods, token), (["GET", "POST"].map(str::to_owned).into(), 1), "only an App's token is made");
    assert!(!site.dir.path().join("data/state.db").exists() && !site.dir.path().join("data/lock").exists());

    site.start(&config).await;
    site.queue(1, Duration::from_millis(50));
    site.until("the job is done", async |site| site.done() == 1).await;
    site.until("its webhooks were taken", async |site| site.github.hook_counts().pending == 0).await;
    let (status, findings) = check(&config).await;
    assert_eq!((status, bad(&findings)), (0, vec![]), "{findings:#?}");
    assert!(has(&findings, &format!("ok      store: {}", site.dir.path().join("data").display())));
    let held = format!("is in use by process {}, and was left alone", site.pid());
    assert!(findings.iter().any(|line| line.ends_with(&held)), "{findings:#?}");
    assert!(has(&findings, "ok      group octo-test: its runner group exists at GitHub, with id "));
    assert!(has(
        &findings,
        "ok      credential default, organization octo-org, webhooks: the newest one was taken, at "
    ));
    assert!(site.alive());
    assert_eq!(site.status("/_ready").await, Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_at_github_is_said_for_each_group_and_the_status_is_1() {
    let site = Site::new().await;
    let config = site.config(2, |_| {});
    site.github.fail(Operation::ListRunners, Fault::Status(403), Times::Forever);
    let (status, findings) = check(&config).await;
    let missing =
        "error   credential default, organization octo-org: a permission at GitHub is missing: GET /orgs/octo-org/";
    assert_eq!(status, 1);
    assert!(has(&findings, missing));
    assert!(findings.iter().any(|line| line.ends_with(
        "runners need a classic token with admin:org, or a fine-grained one with the organization permission \
         \"Self-hosted runners: Read and write\""
    )));
    assert!(has(&findings, "error   group octo-test: its runner group was not looked for"));
    site.github.clear_faults();

    site.github.fail(Operation::ListGroups, Fault::Status(403), Times::Forever);
    let (status, findings) = check(&config).await;
    assert_eq!(status, 1);
    assert!(has(&findings, "error   group octo-test: its runner group: a permission at GitHub is missing"));
    site.github.clear_faults();

    site.github.fail(None, Fault::Status(401), Times::Forever);
    let (status, findings) = check(&config).await;
    assert_eq!(status, 1);
    assert!(has(&findings, "error   credential default: GitHub refuses the credential: the token is wrong"));
    assert!(has(&findings, "error   group octo-test: GitHub was not asked: its credential default does not work"));
    assert!(has(&findings, "ok      store: "), "the rest is checked all the same");
    site.github.clear_faults();

    site.github.fail(None, Fault::RateLimited(Duration::from_secs(60)), Times::Forever);
    let (status, findings) = check(&config).await;
    assert_eq!(status, 0, "a limit is over after a while");
    assert!(has(&findings, "warning credential default: GitHub's rate limit is reached"));
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_that_do_not_arrive_are_an_error_and_a_hook_that_is_not_there_a_warning() {
    let site = Site::new().await;
    let config = site.config(2, |_| {});
    site.github.fail_webhooks(None, HookFault::Drop, Times::Forever);
    site.queue(1, Duration::from_secs(60));
    site.until("the webhook has failed", async |site| site.github.hook_counts().failed == 1).await;
    let (status, findings) = check(&config).await;
    assert_eq!(status, 1);
    assert!(has(&findings, "error   credential default, organization octo-org, webhooks: the newest one, at 20"));
    site.github.set_webhook_url("http://127.0.0.1:9/elsewhere");
    let (status, findings) = check(&config).await;
    assert_eq!(status, 0);
    assert!(has(
        &findings,
        "warning credential default, organization octo-org, webhooks: no webhook whose address ends"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_in_trouble_is_named_and_the_other_credential_is_not() {
    let site = Site::new().await;
    let config = site.config(2, |config| {
        let mut more = config["runner_groups"][0].clone();
        more["name"] = json!("octo-app");
        more["github_credential"] = json!("app");
        config["runner_groups"].as_array_mut().unwrap().push(more);
        config["github_credentials"] = json!([app()]);
    });
    for (trouble, errors) in [
        (
            AppTrouble::WrongKey,
            vec![
                "error   credential app: GitHub refuses the credential: the private key does not belong to GitHub App 4711",
                "error   group octo-app: GitHub was not asked: its credential app does not work",
            ],
        ),
        (
            AppTrouble::Suspended,
            vec![
                "error   credential app, organization octo-org: a permission at GitHub is missing: the installation of \
                 GitHub App 4711 for organization octo-org is suspended",
                "error   group octo-app: its runner group was not looked for",
            ],
        ),
    ] {
        site.github.set_app_trouble(trouble);
        let (status, findings) = check(&config).await;
        assert_eq!(status, 1, "{trouble:?}");
        assert!(errors.iter().all(|start| has(&findings, start)), "{trouble:?}");
        assert!(has(&findings, "ok      credential default: accepted by "));
        assert!(has(&findings, "ok      group octo-test: its runner group does not exist at GitHub yet"));
        let wrong: Vec<_> = bad(&findings).into_iter().filter(|line| line.contains("default")).collect();
        assert!(wrong.iter().all(|line| line.starts_with("warning ")), "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_permission_that_an_app_lacks_is_named() {
    let site = Site::new().await;
    let config = site.config(2, |config| {
        config["runner_groups"][0]["github_credential"] = json!("app");
        config["github_credentials"] = json!([app()]);
        config.as_object_mut().unwrap().remove("github_token");
    });
    let (status, findings) = check(&config).await;
    assert_eq!(status, 0, "{findings:#?}");
    assert!(!findings.iter().any(|line| line.contains(", jobs: ")), "{findings:#?}");
    site.github.withhold_permission("actions");
    site.github.withhold_permission("organization_self_hosted_runners");
    site.github.fail(Operation::ListHooks, Fault::Status(404), Times::Forever);
    let (status, findings) = check(&config).await;
    assert_eq!(status, 1);
    let named = |start: &str, permission: &str| {
        let found = findings.iter().find(|line| line.starts_with(start)).unwrap();
        assert!(found.contains(permission), "{found}");
    };
    named("error   credential app, organization octo-org:", "(organization_self_hosted_runners: write)");
    named("warning credential app, organization octo-org, jobs:", "(actions: read)");
    named("warning credential app, organization octo-org, webhooks:", "(organization_hooks: read)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_github_that_hangs_a_store_and_a_backend_that_cannot_be_used_end_the_check_in_time() {
    let site = Site::new().await;
    let config = site.config(2, |config| {
        config["runner_groups"][0]["backend"]["instance_config"]["command"] = json!(["/no/such/runner"]);
        config["redis_url"] = json!(format!("redis://127.0.0.1:{}", free_port()));
    });
    site.github.fail(None, Fault::Delay(Duration::from_secs(60)), Times::Forever);
    let began = Instant::now();
    let (status, findings) = check(&config).await;
    println!("{}\nin {:?}", findings.join("\n"), began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(status, 1);
    assert!(has(&findings, "error   credential default: GitHub's answer is unknown: "));
    assert!(has(&findings, "error   store: "));
    assert!(has(&findings, "error   group octo-test, backend process: "));
    assert!(findings.iter().any(|line| line.contains("/no/such/runner")), "{findings:#?}");

    let config = site.config(2, |config| config["runner_groups"][0]["backend"] = json!({"name": "scaleway"}));
    let output = Command::new(PROGRAM).args(["check", "--online", "--config"]).arg(&config).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "a configuration that is wrong is another status");
}
