//! Two replicas of the real binary whose instances reach either of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/balancer.rs"]
mod balancer;
#[path = "support/fleet.rs"]
mod fleet;
#[path = "support/provider.rs"]
mod provider;
#[path = "support/redis.rs"]
mod redis;
#[path = "support/service.rs"]
mod service;
#[path = "support/webhook.rs"]
mod webhook;

use std::fs;
use std::time::Duration;

use fleet::Fleet;
use provider::Cloud;
use redis::RedisServer;
use runner_manager::backend::external::InterfaceVersion;
use serde_json::{Value, json};
use service::PROGRAM;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_fetches_from_and_reports_to_whichever_replica_it_reaches() {
    let redis = RedisServer::start();
    let mut fleet = Fleet::new(&redis.url()).await;
    let cloud = Cloud::new(InterfaceVersion::V010);
    cloud.boot("", PROGRAM, &fleet.name);
    let config = fleet.config(1, 2, |config| {
        config["external_url"] = json!(format!("http://{}", fleet.balancer.address));
        config["runner_groups"][0]["backend"] = json!({
            "name": "external",
            "config": { "provider_executable": provider::executable(), "provider_config_file": cloud.config() },
            "instance_config": { "image": "ubuntu", "flavor": "small" },
        });
    });
    let ports = [fleet.start(&config).await, fleet.start(&config).await];
    fleet
        .until("the group is owned", async |fleet| fleet.owned(ports[0]).await + fleet.owned(ports[1]).await == 1)
        .await;
    fleet.queue(0, Duration::from_millis(100));
    let starting = async |fleet: &Fleet| {
        let runners = fleet.api(ports[0], "/runners").await;
        runners.as_array().unwrap().iter().any(|runner| runner["state"] == "starting")
    };
    fleet.until("the runner starts", starting).await;

    let calls = cloud.calls();
    let create = calls.iter().find(|call| call.command() == "CreateInstance").unwrap();
    let created: Value = serde_json::from_str(&create.stdin).unwrap();
    let (name, token) = (created["name"].as_str().unwrap(), created["instance-token"].as_str().unwrap());
    for port in ports {
        let url = |path: &str| format!("http://127.0.0.1:{port}/instances/v1/{path}");
        let config = fleet.client.get(url("metadata/jit-config")).bearer_auth(token).send().await.unwrap();
        assert_eq!(config.status(), 200);
        let report = json!({ "status": "installing", "message": format!("by way of {port}") });
        let told = fleet.client.post(url("callback/status")).bearer_auth(token).json(&report).send().await.unwrap();
        assert_eq!(told.status(), 200, "{}", told.text().await.unwrap());
    }
    let history = async |fleet: &Fleet| fleet.api(ports[1], &format!("/runners/{name}")).await["history"].to_string();
    let both = async |fleet: &Fleet| {
        let history = history(fleet).await;
        ports.iter().all(|port| history.contains(&format!("by way of {port}")))
    };
    fleet.until("both reports are noted", both).await;
    let kept = redis.cli(&["--scan", "--pattern", "*sealed:*"]);
    assert_eq!(kept.lines().count(), 1, "{kept}");
    assert!(!kept.contains(token));
    fs::write(cloud.dir.path().join("go"), "").unwrap();
    fleet.until("the job is done", async |fleet| fleet.done() == 1).await;
    fleet.until_no_trace().await;
    let left = || redis.cli(&["--scan", "--pattern", "*sealed*"]).trim().is_empty();
    fleet.until("nothing sealed is left", async |_| left()).await;
}
