//! The real binary with an external provider whose instances fetch their config from it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/provider.rs"]
mod provider;
#[path = "support/service.rs"]
mod service;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use provider::Cloud;
use runner_manager::backend::external::InterfaceVersion;
use serde_json::{Value, json};
use service::{PROGRAM, Site};

/// A site whose group has a provider; its instances are processes of this host.
struct Stage {
    site: Site,
    cloud: Cloud,
    config: PathBuf,
}

impl Stage {
    async fn new(change: impl FnOnce(&mut Value)) -> Self {
        let (site, cloud) = (Site::new().await, Cloud::new(InterfaceVersion::V011));
        let config = site.config(2, |config| {
            config["external_url"] = json!(format!("http://127.0.0.1:{}", site.port));
            config["runner_groups"][0]["backend"] = json!({
                "name": "external",
                "config": {
                    "provider_executable": provider::executable(),
                    "provider_config_file": cloud.config(),
                    "interface_version": "v0.1.1",
                    "exec_timeout": "20s",
                },
                "instance_config": { "image": "ubuntu", "flavor": "small" },
            });
            change(config);
        });
        let stage = Self { site, cloud, config };
        stage.behave("");
        stage
    }

    /// Instances boot and go, after `first` was done before each command.
    fn behave(&self, first: &str) {
        self.cloud.boot(first, PROGRAM, &self.site.name);
    }

    fn file(&self, name: &str) -> PathBuf {
        self.cloud.dir.path().join(name)
    }

    /// Lets instances boot.
    fn go(&self) {
        fs::write(self.file("go"), "").unwrap();
    }

    async fn start(&mut self) {
        let config = self.config.clone();
        self.site.start(&config).await;
    }

    async fn runners(&self) -> Vec<Value> {
        self.site.api("/runners").await.as_array().cloned().unwrap_or_default()
    }

    async fn until_state(&self, state: &str) -> String {
        self.site.until(state, async |_| self.runners().await.iter().any(|runner| runner["state"] == state)).await;
        let runners = self.runners().await;
        runners.iter().find(|runner| runner["state"] == state).unwrap()["name"].as_str().unwrap().to_owned()
    }

    /// What the provider was told to hand to instances, oldest first.
    fn created(&self) -> Vec<Value> {
        let calls = self.cloud.calls();
        let created = calls.iter().filter(|call| call.command() == "CreateInstance");
        created.map(|call| serde_json::from_str(&call.stdin).unwrap()).collect()
    }

    async fn fetch(&self, token: &str, path: &str) -> u16 {
        let url = format!("http://127.0.0.1:{}/instances/v1/{path}", self.site.port);
        self.site.client.get(url).bearer_auth(token).send().await.unwrap().status().as_u16()
    }

    async fn history(&self, runner: &str) -> String {
        self.site.api(&format!("/runners/{runner}")).await["history"].to_string()
    }
}

fn token(created: &Value) -> &str {
    created["instance-token"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_of_a_provider_fetch_their_config_run_their_jobs_and_leave_no_trace() {
    let mut stage = Stage::new(|_| {}).await;
    stage.start().await;
    stage.site.queue(1, Duration::from_secs(3));
    let name = stage.until_state("starting").await;
    let created = stage.created();
    let token = token(&created[0]);
    assert_eq!(created[0]["repo_url"], format!("{}/octo-org", stage.site.github.url().trim_end_matches("/api/v3")));
    assert_eq!(stage.fetch(token, "metadata/credentials/runner").await, 200);
    assert_eq!(stage.fetch(&"0".repeat(64), "metadata/credentials/runner").await, 401);
    stage.go();
    stage.until_state("busy").await;
    assert_eq!(stage.fetch(token, "metadata/credentials/runner").await, 401, "the runner is online");
    assert_eq!(stage.fetch(token, "metadata/jit-config/").await, 401);
    let history = stage.history(&name).await;
    assert!(history.contains("instance reports installing: downloading JIT credentials"), "{history}");
    let unit = fs::read_to_string(stage.file("instances").join(&name).join("unit")).unwrap();
    assert!(unit.contains(&format!("(actions.runner.octo-org.{name})")), "{unit}");

    stage.site.queue(4, Duration::from_millis(100));
    stage.site.until("all are done", async |site| site.done() == 5).await;
    stage.site.until_no_trace().await;
    stage.site.until("the provider has none", async |_| stage.runners().await.is_empty()).await;
    let jit = fs::read_to_string(stage.file("instances").join(&name).join("credentials_rsaparams")).unwrap();
    let log = stage.site.log();
    for created in stage.created() {
        assert!(!log.contains(created["instance-token"].as_str().unwrap()));
    }
    assert!(!log.contains(jit.trim()), "the log shows a config");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_gets_its_config_from_a_manager_that_was_killed_after_the_creation() {
    let mut stage = Stage::new(|_| {}).await;
    stage.start().await;
    stage.site.queue(1, Duration::from_millis(100));
    let name = stage.until_state("starting").await;
    stage.site.kill();
    stage.start().await;
    stage.go();
    stage.site.until("the job is done", async |site| site.done() == 1).await;
    assert_eq!(stage.created().len(), 1, "the same instance");
    let history = stage.history(&name).await;
    assert!(history.contains("took job"), "{history}");
    stage.site.until_no_trace().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_gets_its_config_though_the_manager_was_killed_while_the_provider_made_it() {
    let mut stage = Stage::new(|_| {}).await;
    let proceed = stage.file("proceed");
    stage.behave(&format!(
        "if [ $GARM_COMMAND = CreateInstance ]; then while [ ! -e {} ]; do sleep 0.05; done; fi",
        proceed.display()
    ));
    stage.start().await;
    stage.site.queue(1, Duration::from_millis(100));
    stage.site.until("the provider is at work", async |_| !stage.created().is_empty()).await;
    let name = stage.until_state("provisioning").await;
    stage.site.kill();
    fs::write(proceed, "").unwrap();
    stage.start().await;
    let found = "its instance was found after a restart";
    stage.site.until(found, async |_| stage.history(&name).await.contains(found)).await;
    stage.go();
    stage.site.until("the job is done", async |site| site.done() == 1).await;
    assert_eq!(stage.created().len(), 1, "the same instance");
    stage.site.until_no_trace().await;
}

/// A template that becomes a runner, and leaves its name in the instance's directory.
const OWN_SCRIPT: &str = "#!/bin/sh
set -eu
NAME={{RUNNER_NAME}}
ACTIONS_RUNNER_INPUT_JITCONFIG={{RUNNER_JIT_CONFIG}}
export ACTIONS_RUNNER_INPUT_JITCONFIG
printf '%s' \"$NAME\" >\"$HOME/own-script\"
\"$PROGRAM\" demo-runner
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_start_with_the_operators_own_script_and_nothing_of_it_stays_behind() {
    let script = tempfile::NamedTempFile::new().unwrap();
    fs::write(script.path(), OWN_SCRIPT).unwrap();
    let mut stage = Stage::new(|config| {
        config["runner_groups"][0]["backend"]["instance_config"]["startup_script"] = json!(script.path());
        config["runner_groups"][0]["backend"]["instance_config"]["extra_specs"] = json!({"zone": "b"});
    })
    .await;
    stage.start().await;
    // What an instance starts with is what the configuration had when it was made.
    fs::write(script.path(), "#!/bin/sh\nexit 1\n").unwrap();
    stage.go();
    stage.site.queue(3, Duration::from_millis(100));
    stage.site.until("all are done", async |site| site.done() == 3).await;
    let created = stage.created();
    for created in &created {
        assert_eq!(created["extra_specs"]["zone"], "b");
        let home = stage.file("instances").join(created["name"].as_str().unwrap());
        stage.site.until("its script has ended", async |_| home.join("own-script").exists()).await;
        assert_eq!(fs::read_to_string(home.join("own-script")).unwrap(), created["name"].as_str().unwrap());
    }
    assert!(created.len() >= 3, "{created:?}");
    stage.site.until_no_trace().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_own_script_that_fails_ends_its_attempt_at_once_and_says_so() {
    let script = tempfile::NamedTempFile::new().unwrap();
    let once = OWN_SCRIPT.replace("set -eu", "set -eu\nif mkdir \"$GO.failed\" 2>/dev/null; then exit 3; fi");
    fs::write(script.path(), once).unwrap();
    let mut stage = Stage::new(|config| {
        config["runner_groups"][0]["time_to_start"] = json!("10m");
        config["runner_groups"][0]["backend"]["instance_config"]["startup_script"] = json!(script.path());
    })
    .await;
    stage.go();
    stage.start().await;
    stage.site.queue(1, Duration::from_millis(100));
    stage.site.until("the job is done", async |site| site.done() == 1).await;
    let created = stage.created();
    assert_eq!(created.len(), 2);
    let history = stage.history(created[0]["name"].as_str().unwrap()).await;
    assert!(history.contains("instance reports failed: the startup script failed"), "{history}");
    let home = stage.file("instances").join(created[0]["name"].as_str().unwrap());
    let left: Vec<_> = fs::read_dir(home).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("startup.")), "{left:?}");
    stage.site.until_no_trace().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_reports_failure_is_replaced_at_once_and_says_why() {
    let mut stage = Stage::new(|config| config["runner_groups"][0]["time_to_start"] = json!("10m")).await;
    fs::write(stage.file("broken"), "").unwrap();
    stage.go();
    stage.start().await;
    stage.site.queue(1, Duration::from_millis(100));
    stage.site.until("the job is done", async |site| site.done() == 1).await;
    let created = stage.created();
    assert_eq!(created.len(), 2);
    let first = created[0]["name"].as_str().unwrap();
    let failed = stage.site.api(&format!("/runners/{first}")).await;
    assert_eq!(failed["state"], "failed", "{failed}");
    assert!(failed.to_string().contains("instance reports failed: no space left on the device"), "{failed}");
    assert_eq!(stage.fetch(token(&created[0]), "metadata/jit-config").await, 401, "the runner is gone");
    stage.site.until_no_trace().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_with_the_time_to_start_and_the_instance_is_replaced() {
    let mut stage = Stage::new(|config| {
        config["runner_groups"][0]["time_to_start"] = json!("2s");
        config["runner_groups"][0]["backend"]["create_timeout"] = json!("1s");
    })
    .await;
    stage.start().await;
    stage.site.queue(1, Duration::from_millis(100));
    stage.until_state("starting").await;
    let token = token(&stage.created()[0]).to_owned();
    assert_eq!(stage.fetch(&token, "metadata/jit-config").await, 200);
    stage.site.until("the token ends", async |_| stage.fetch(&token, "metadata/jit-config").await == 401).await;
    stage.go();
    stage.site.until("the job is done", async |site| site.done() == 1).await;
    stage.site.until_no_trace().await;
}
