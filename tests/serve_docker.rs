//! The real binary with real containers: kill -9 of the manager and a restart of the daemon in the middle.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/between.rs"]
mod between;

#[path = "support/docker.rs"]
mod docker;

#[path = "support/service.rs"]
mod service;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use between::{Between, Fate};
use docker::Dockerd;
use runner_manager::demo::github::JobStatus;
use serde_json::{Value, json};
use service::{PROGRAM, Site};

/// A configuration whose runners are containers: the program itself, with the libraries of this host.
fn config(site: &Site, socket: &Path, max: u32) -> PathBuf {
    site.config(max, |config| {
        config["log_level"] = json!("DEBUG");
        config["runner_groups"][0]["backend"] = json!({
            "name": "docker",
            "config": {"base_url": format!("unix://{}", socket.display())},
            "instance_config": {
                "image": "runner",
                "command": [PROGRAM, "demo-runner"],
                "network": "host",
                "volumes": ["/lib:/lib:ro", "/lib64:/lib64:ro", "/usr:/usr:ro", format!("{PROGRAM}:{PROGRAM}:ro")],
                "pull": "never",
            },
        });
    })
}

/// Containers of others: one without labels, one of another deployment.
async fn bystanders(daemon: &Dockerd) -> [String; 2] {
    let body = |labels: Value| json!({"Image": "runner", "Cmd": ["sleep", "1000"], "Labels": labels, "HostConfig": {"NetworkMode": "none"}});
    let labels = json!({
        "runner-manager.manager": "another",
        "runner-manager.group": "octo-test",
        "runner-manager.runner": "octo-test-z",
    });
    [daemon.run("bystander", body(json!({}))).await, daemon.run("octo-test-z", body(labels)).await]
}

/// The just-in-time configs of the containers of now.
async fn jit_configs(daemon: &Dockerd, seen: &Mutex<BTreeSet<String>>) {
    for name in daemon.containers().await {
        let found = daemon.get(&format!("/containers/{name}/json")).await;
        for variable in found["Config"]["Env"].as_array().into_iter().flatten() {
            if let Some(config) = variable.as_str().unwrap().strip_prefix("RUNNER_JIT_CONFIG=") {
                seen.lock().unwrap().insert(config.to_owned());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_jobs_survive_kill_9_and_a_restart_of_the_daemon_and_leave_no_container() {
    let mut site = Site::new().await;
    let mut daemon = Dockerd::start();
    daemon.image("runner").await;
    let others = bystanders(&daemon).await;
    let config = config(&site, &daemon.socket(), 5);
    site.start(&config).await;
    let began = Instant::now();
    let jits = Mutex::new(BTreeSet::new());
    site.queue(20, Duration::from_millis(400));

    site.until("some are done", async |site| {
        jit_configs(&daemon, &jits).await;
        site.done() >= 3
    })
    .await;
    site.kill();
    site.start(&config).await;
    site.until("more are done", async |site| {
        site.github.redeliver_failed();
        site.done() >= 9
    })
    .await;
    daemon.restart();
    site.until("all are done", async |site| {
        site.github.redeliver_failed();
        site.done() == 20
    })
    .await;
    println!("20 jobs in {:?}, with kill -9 and a restart of dockerd", began.elapsed());

    site.until("no container and no registration is left", async |site| {
        site.github.registered() == 0 && daemon.containers().await == ["bystander", "octo-test-z"]
    })
    .await;
    for (name, id) in ["bystander", "octo-test-z"].into_iter().zip(others) {
        assert_eq!(daemon.get(&format!("/containers/{name}/json")).await["Id"], id);
    }
    // Two volumes of the others.
    let volumes = daemon.get("/volumes").await;
    assert_eq!(volumes["Volumes"].as_array().unwrap().len(), 2, "{volumes}");

    let (jits, log) = (jits.into_inner().unwrap(), site.log());
    assert!(jits.len() >= 3, "{} seen", jits.len());
    assert!(log.contains("DEBUG"), "{log}");
    assert!(jits.iter().all(|jit| jit.len() > 100 && !log.contains(jit.as_str())), "a just-in-time config is logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_manager_died_before_it_was_started_is_cleaned_up_and_its_job_served() {
    let mut site = Site::new().await;
    let daemon = Dockerd::start();
    daemon.image("runner").await;
    let between = Between::new(daemon.socket());
    let config = config(&site, &between.socket(), 1);
    site.start(&config).await;
    between.set("/start", Fate::Held, 1);
    site.queue(1, Duration::from_millis(100));
    site.until("the start is on its way", async |_| between.left() == 0).await;
    let unstarted = daemon.containers().await;
    assert_eq!(unstarted.len(), 1);
    site.kill();
    site.start(&config).await;
    site.until("it is done", async |site| {
        site.github.redeliver_failed();
        site.done() == 1
    })
    .await;
    site.until("no container and no registration is left", async |site| {
        site.github.registered() == 0 && daemon.containers().await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_go_on_while_dockerd_is_dead_and_those_that_came_meanwhile_are_served_when_it_is_back() {
    let mut site = Site::new().await;
    // Containers outlive their daemon, and are its own again when it is back.
    let mut daemon = Dockerd::with(&["--live-restore"], |_| ());
    daemon.image("runner").await;
    let config = config(&site, &daemon.socket(), 3);
    site.start(&config).await;
    site.queue(2, Duration::from_secs(6));
    site.until("two run", async |site| site.github.count_jobs(JobStatus::InProgress) == 2).await;
    daemon.kill();
    site.queue(6, Duration::from_millis(100));
    site.until("it is told where people look", async |site| {
        site.api("/groups/octo-test").await["last_error"].to_string().contains("nothing listens at")
    })
    .await;
    site.until("the two are done", async |site| site.done() == 2).await;
    let registered = site.github.registered();
    daemon.start_again();
    site.until("all are done", async |site| {
        site.github.redeliver_failed();
        site.done() == 8
    })
    .await;
    assert!(site.github.killed_busy().is_empty());
    println!("{registered} registered while dockerd was dead");
    site.until("no container and no registration is left", async |site| {
        site.github.registered() == 0 && daemon.containers().await.is_empty()
    })
    .await;
}
