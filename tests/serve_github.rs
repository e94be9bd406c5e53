//! The real binary while GitHub loses answers, is down, or has many runners of others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/service.rs"]
mod service;

use std::time::Duration;

use runner_manager::demo::github::{Fault, JobStatus, Operation, RunnerGroup, Times};
use serde_json::{Value, json};
use service::Site;

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_whose_answer_was_lost_leaves_one_runner_and_no_ghost() {
    let mut site = Site::new().await;
    let config = site.config(3, |_| {});
    site.start(&config).await;
    site.github.fail(Operation::GenerateJitConfig, Fault::LoseAnswer, Times::Next(1));
    let peak = site.watch();
    site.queue(1, Duration::from_secs(1));
    site.until("the job runs", async |site| site.github.count_jobs(JobStatus::InProgress) == 1).await;
    site.until("the ghost is gone", async |site| site.github.registered() == 1).await;
    site.until("the job is done", async |site| site.done() == 1).await;
    site.until_no_trace().await;
    assert_eq!(peak.most(), 1, "one runner for one job");
    assert_eq!(site.github.count_requests(Operation::GenerateJitConfig), 2, "the lost one, and one more");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_github_is_down_no_runner_is_killed_or_counted_as_gone() {
    let mut site = Site::new().await;
    let config = site.config(3, |config| config["healthcheck_interval"] = json!("1s"));
    site.start(&config).await;
    let jobs = site.queue(3, Duration::from_secs(12));
    site.until("three run", async |site| {
        site.api("/runners?state=busy").await.as_array().is_some_and(|all| all.len() == 3)
    })
    .await;
    let faults = [Fault::Status(502), Fault::DropConnection, Fault::Status(500)];
    for operation in [Operation::ListRunners, Operation::GetRunner, Operation::DeleteRunner] {
        faults.into_iter().for_each(|fault| site.github.fail(operation, fault, Times::Next(4)));
    }
    let failing = site.github.count_requests(Operation::ListRunners);
    site.until("health checks failed", async |site| {
        site.message("healthcheck").await;
        let group = site.api("/groups/octo-test").await;
        let error = group["last_error"]["text"].as_str().unwrap_or_default();
        error.contains("health check") && site.github.count_requests(Operation::ListRunners) >= failing + 3
    })
    .await;
    let running = site.api("/runners?state=busy").await;
    assert_eq!(running.as_array().unwrap().len(), 3, "{running:#}");
    site.github.clear_faults();
    site.until("all are done", async |site| site.done() == 3).await;
    for job in jobs {
        assert_eq!(site.github.job(job).unwrap().status, JobStatus::Completed);
    }
    assert!(site.github.killed_busy().is_empty());
    assert_eq!(site.github.count_requests(Operation::GenerateJitConfig), 3, "nothing was replaced");
    site.until_no_trace().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_of_ten_groups_beside_a_thousand_runners_costs_at_most_fifteen_calls() {
    let mut site = Site::new().await;
    let config = site.config(1, |config| {
        config["healthcheck_interval"] = json!("1h");
        let group = config["runner_groups"][0].clone();
        let groups = (0..10).map(|n| {
            let mut group = group.clone();
            group["name"] = json!(format!("octo-{n}"));
            group["labels"] = json!([format!("test-{n}")]);
            group
        });
        config["runner_groups"] = Value::Array(groups.collect());
    });
    for n in 0..1000 {
        site.register(&format!("of-others-{n}")).await;
    }
    assert_eq!(site.github.registered(), 1000);
    site.start(&config).await;
    let checked = async |site: &Site| {
        let groups = site.api("/groups").await;
        groups.as_array().unwrap().iter().all(|group| !group["last_healthcheck"].is_null())
    };
    site.until("all ten groups are checked", checked).await;
    let calls = site.github.count_requests(Operation::ListRunners);
    println!("a health check of 10 groups beside 1,000 runners: {calls} calls");
    assert!((10..=15).contains(&calls), "{calls}");
    let (listed, made) =
        (site.github.count_requests(Operation::ListGroups), site.github.count_requests(Operation::CreateGroup));
    assert_eq!((listed, made), (1, 10), "one listing for all ten, none of which existed");
    site.until("they are checked again, once the shared listing is old", async |site| {
        for n in 0..10 {
            site.message_to(&format!("octo-{n}"), "healthcheck").await;
        }
        site.github.count_requests(Operation::ListRunners) >= 2 * calls
    })
    .await;
    assert_eq!(site.github.count_requests(Operation::ListGroups), 1, "the same listing, less than a minute old");
    assert_eq!(site.github.registered(), 1000, "those of others are left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_group_that_somebody_changes_renames_or_deletes_is_brought_back_and_deleted_on_request_only() {
    let mut site = Site::new().await;
    let config = site.config(3, |config| config["healthcheck_interval"] = json!("1h"));
    site.start(&config).await;
    let ours = |site: &Site| site.github.groups().into_iter().find(|group| group.name == "octo-test");
    site.until("it is made", async |site| ours(site).is_some()).await;
    let made = ours(&site).unwrap();
    assert_eq!((made.visibility.as_str(), made.allows_public_repositories), ("all", true));
    let edit = |site: &Site, change: &dyn Fn(&mut RunnerGroup)| {
        site.github.edit_groups(|groups| groups.iter_mut().filter(|g| g.id == made.id).for_each(change));
    };
    // A listing of runner groups serves for a minute: a registration that is refused forgets it.
    let run_one = async |site: &Site| {
        let done = site.done();
        site.queue(1, Duration::from_millis(50));
        site.until("a job is done", async |site| site.done() == done + 1).await;
    };
    run_one(&site).await;

    site.kill();
    edit(&site, &|group| (group.visibility, group.allows_public_repositories) = ("private".to_owned(), false));
    site.start(&config).await;
    site.until("its rules are back", async |site| ours(site).unwrap().visibility == "all").await;
    assert!(ours(&site).unwrap().allows_public_repositories);
    let text = "its visibility was \\\"private\\\"; public repositories were not allowed";
    let told = async |site: &Site, text: &str| {
        site.until("the log tells what differed", async |site| site.log().contains(text)).await;
    };
    told(&site, text).await;

    site.github.edit_groups(|groups| groups.retain(|group| group.id != made.id));
    run_one(&site).await;
    let again = ours(&site).unwrap();
    assert_ne!(again.id, made.id, "it was made anew, with the registration that met it");
    told(&site, "there was none of its name, and it was created").await;

    site.github.edit_groups(|groups| {
        groups.iter_mut().filter(|g| g.id == again.id).for_each(|group| group.name = "theirs".to_owned());
    });
    // Something that is not there: the listing is forgotten.
    site.github.fail(Operation::GenerateJitConfig, Fault::Status(404), Times::Next(1));
    run_one(&site).await;
    site.until("it has its name again", async |site| ours(site).is_some_and(|group| group.id == again.id)).await;
    told(&site, "its name was \\\"theirs\\\"").await;

    let refused = site.message("delete_runner_group").await;
    assert_eq!((&refused["status"], refused["detail"].to_string().contains("drain it first")), (&json!(409), true));
    site.message("drain").await;
    site.until_no_trace().await;
    site.until("it is deleted", async |site| {
        let answer = site.message("delete_runner_group").await;
        answer["message"].as_str().is_some_and(|message| message.contains("is deleted at GitHub"))
    })
    .await;
    assert!(ours(&site).is_none());
    let checked = async |site: &Site| site.api("/groups/octo-test").await["last_healthcheck"]["at"].clone();
    let before = checked(&site).await;
    site.message("healthcheck").await;
    site.until("a health check", async |site| checked(site).await != before).await;
    assert!(ours(&site).is_none(), "a drained group does not make it anew");
    site.message("resume").await;
    run_one(&site).await;
    assert!(ours(&site).is_some());
    site.until_no_trace().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_the_runner_group_at_github_does_not_admit_is_promised_nothing_and_says_why() {
    let mut site = Site::new().await;
    let config = site.config(3, |_| {});
    // A plan without runner groups, whose default one admits a repository that is not that of the job.
    site.github.set_has_groups(false);
    site.github.edit_groups(|groups| {
        groups.iter_mut().filter(|group| group.id == 1).for_each(|group| {
            (group.visibility, group.selected) = ("selected".to_owned(), vec![102]);
        });
    });
    site.start(&config).await;
    site.until("its reach is known", async |site| {
        let job = site.queue(1, Duration::from_millis(50))[0];
        site.until("the job is known", async |site| site.status(&format!("/api/v1/jobs/{job}")).await != Some(404))
            .await;
        let answer = site.api(&format!("/jobs/{job}")).await["answer"].to_string();
        answer.contains("its runner group \\\"Default\\\" at GitHub does not admit the private repository octo-org/app")
    })
    .await;
    site.until_no_trace().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_was_renamed_is_served_on_and_its_jobs_say_what_to_change() {
    let mut site = Site::new().await;
    let config = site.config(3, |config| {
        config["runner_groups"][0]["repository"] = json!("octo-org/app");
        config["runner_groups"][0].as_object_mut().unwrap().remove("organization");
    });
    site.start(&config).await;
    site.until("its id is known", async |site| site.github.count_requests(Operation::GetRepository) > 0).await;
    site.queue(1, Duration::from_millis(50));
    site.until("a job is done", async |site| site.done() == 1).await;
    assert!(site.github.rename_repository("app", "application"));
    let job = site.queue(1, Duration::from_millis(50))[0];
    site.until("the job is done under the new name", async |site| site.done() == 2).await;
    let timeline = site.api(&format!("/jobs/{}", job.0)).await["timeline"].to_string();
    let text = "repository octo-org/application was called octo-org/app: change the configuration";
    assert!(timeline.contains(text), "{timeline}");
    site.until_no_trace().await;
}
