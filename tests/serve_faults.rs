//! The real binary where something is wrong: one clear line and the right status, or an honest state; nothing lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/service.rs"]
mod service;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use runner_manager::demo::github::DeliveryStatus;
use serde_json::json;
use service::{PROGRAM, Site, free_port};

fn run(site: &Site, config: &Path) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = site.command(config).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// Starts again with what was wrong put right: the job that was taken before is served.
async fn put_right(mut site: Site) {
    assert!(site.alive());
    site.kill();
    let right = site.config(2, |_| {});
    site.start(&right).await;
    site.until("it is done", async |site| site.done() == 1).await;
    site.until_no_trace().await;
}

/// The last line, which is the one for people.
fn last(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_said_in_one_line() {
    let site = Site::new().await;
    let _taken = TcpListener::bind(("127.0.0.1", site.port)).unwrap();
    let (status, text) = run(&site, &site.config(1, |_| {}));
    assert_eq!(status, Some(1));
    assert!(last(&text).contains(&format!("cannot listen on 127.0.0.1:{}", site.port)), "{text}");
    assert!(last(&text).contains("another program uses this port"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_dir_that_is_no_directory_is_said_in_one_line() {
    let site = Site::new().await;
    fs::write(site.dir.path().join("data"), "a file").unwrap();
    let (status, text) = run(&site, &site.config(1, |_| {}));
    assert_eq!(status, Some(1));
    assert!(last(&text).contains("data"), "{text}");
    assert_eq!(fs::read_to_string(site.dir.path().join("data")).unwrap(), "a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_data_dir_is_refused_by_name() {
    let mut site = Site::new().await;
    let config = site.config(1, |_| {});
    site.start(&config).await;
    let pid = site.pid();
    let other = site.config(1, |config| config["listen"] = json!(format!("127.0.0.1:{}", free_port())));
    let (status, text) = run(&site, &other);
    assert_eq!(status, Some(1));
    assert!(last(&text).contains(&format!("in use by process {pid}")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_ends_with_status_2_and_its_place() {
    let site = Site::new().await;
    let config = site.config(1, |config| config["runner_groups"][0]["min"] = json!(7));
    let (status, text) = run(&site, &config);
    assert_eq!(status, Some(2));
    assert!(text.contains("config.yaml:1:") && text.contains("runner_groups[0].min"), "{text}");
    let redis = site.config(1, |config| {
        config["redis_url"] = json!("rediss://127.0.0.1/0");
        config["redis_ca_file"] = json!("/no/such/file.pem");
    });
    let (status, text) = run(&site, &redis);
    assert_eq!(
        (status, last(&text).contains("redis_ca_file: cannot read /no/such/file.pem")),
        (Some(2), true),
        "{text}"
    );
    let status = Command::new(PROGRAM).arg("no-such-command").output().unwrap().status;
    assert_eq!(status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_command_is_told_where_people_look_and_its_job_is_served_once_it_is_there() {
    let mut site = Site::new().await;
    let broken = site.config(2, |config| {
        config["runner_groups"][0]["backend"]["instance_config"]["command"] = json!(["/no/such/runner"]);
    });
    site.start(&broken).await;
    let job = site.queue(1, Duration::from_millis(100))[0].0;
    site.until("the group tells", async |site| {
        site.api("/groups/octo-test").await["last_error"].to_string().contains("/no/such/runner")
    })
    .await;
    let told = site.api(&format!("/jobs/{job}")).await;
    assert!(told["answer"].as_str().unwrap().contains("/no/such/runner"), "{told:#}");
    site.until("no registration is left behind", async |site| site.github.registered() == 0).await;
    put_right(site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_github_is_told_where_people_look_and_the_job_is_served_once_it_answers() {
    let mut site = Site::new().await;
    let nowhere = site.config(2, |config| {
        config["github_base_url"] = json!(format!("http://127.0.0.1:{}", free_port()));
    });
    site.start(&nowhere).await;
    let job = site.queue(1, Duration::from_millis(100))[0].0;
    site.until("the job knows", async |site| {
        let told = site.api(&format!("/jobs/{job}")).await;
        told["status"] == "queued" && told["answer"].as_str().is_some_and(|answer| answer.contains("GitHub"))
    })
    .await;
    put_right(site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_webhooks_and_loses_nothing_that_was_taken() {
    let mut site = Site::new().await;
    let disk = site.dir.path().join("data");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(&disk).status();
    if !mounted.as_ref().is_ok_and(|status| status.success()) {
        println!(
            "SKIPPED: a full disk is not tested, because a small file system cannot be mounted here ({mounted:?})"
        );
        return;
    }
    let unmount = Unmount(disk.clone());
    let config = site.config(4, |_| {});
    site.start(&config).await;
    let before = site.queue(2, Duration::from_secs(4));
    site.until("they are known", async |site| {
        site.api("/jobs?status=in_progress").await.as_array().is_some_and(|jobs| jobs.len() == 2)
    })
    .await;

    let full = fs::write(disk.join("ballast"), vec![0; 32 << 20]).is_err();
    assert!(full, "the file system is full");
    site.queue(20, Duration::from_millis(50));
    site.until("it refuses", async |site| site.github.hook_counts().failed > 0).await;
    assert_eq!(site.status("/_health").await, Some(200), "the process lives");
    site.until("it says so", async |site| site.status("/_ready").await == Some(503)).await;
    let answers = site.github.deliveries().into_iter().map(|delivery| delivery.status);
    let refused: Vec<_> = answers.filter(|status| *status != DeliveryStatus::Pending && !status.is_success()).collect();
    assert!(refused.iter().all(|status| *status == DeliveryStatus::Answered(503)), "{refused:?}");
    let unavailable = r#"webhooks_total{action="queued",event="workflow_job",outcome="unavailable"}"#;
    assert!(site.text("/metrics").await.contains(unavailable), "{}", site.text("/metrics").await);
    let pid = site.pid();

    fs::remove_file(disk.join("ballast")).unwrap();
    site.until("it is ready again", async |site| site.status("/_ready").await == Some(200)).await;
    site.until("all are done", async |site| {
        site.github.redeliver_failed();
        site.done() == 22
    })
    .await;
    site.until_no_trace().await;
    for job in before {
        site.until("it is final", async |site| {
            site.github.redeliver_failed();
            site.api(&format!("/jobs/{}", job.0)).await["status"] == "completed"
        })
        .await;
    }
    assert!(site.alive() && site.pid() == pid, "it went on without a restart");
    site.kill();
    drop(unmount);
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_ends_with_status_0_when_asked_to() {
    let Output { status, stdout, stderr } =
        Command::new(PROGRAM).args(["demo", "--jobs", "12", "--rate", "20", "--max", "3", "--exit"]).output().unwrap();
    let text = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "{text}\n{}", String::from_utf8_lossy(&stderr));
    for line in ["12 of 12", "0 registrations, 0 processes"] {
        assert!(text.contains(line), "{text}");
    }
    assert!(stderr.is_empty(), "{}", String::from_utf8_lossy(&stderr));
}
