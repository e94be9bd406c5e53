//! Jobs and deliveries as GitHub remembers them.

use std::collections::BTreeSet;
use std::time::Duration;

use actors::id::JobId;
use actors::model::delivery::{JobAction, JobEvent};
use actors::model::settings::Scope;
use actors::port::github::{Hook, Records, RepositoryName, SentDelivery};
use jiff::Timestamp;
use runner_manager::demo::github::{
    Conclusion, HookFault, HookOwner, JobRequest, JobStatus, Operation, Settings, SimulatedGitHub, Times,
};
use runner_manager::github::Client;

use super::simulated::{Stage, until};
use super::support::{asker, organization};
use super::{app, client, repository};

const LABELS: [&str; 2] = ["self-hosted", "linux"];

fn long() -> JobRequest {
    JobRequest::new(LABELS, Duration::from_secs(3600))
}

fn queue(github: &SimulatedGitHub, jobs: usize) {
    for _ in 0..jobs {
        github.queue_job(long());
    }
}

async fn settled(github: &SimulatedGitHub) {
    until("the webhooks are answered", || github.hook_counts().pending == 0).await;
}

/// Everything since `since`, and how many pages it took.
async fn history(client: &Client, hook: &Hook, since: Timestamp) -> (Vec<SentDelivery>, u32) {
    let (mut all, mut pages, mut page) = (Vec::new(), 0, None);
    loop {
        let sent = client.deliveries(&asker(organization()), hook, since, page.as_deref()).await.unwrap();
        all.extend(sent.deliveries);
        pages += 1;
        page = sent.next;
        if page.is_none() {
            return (all, pages);
        }
    }
}

fn guids(deliveries: &[SentDelivery]) -> BTreeSet<String> {
    deliveries.iter().map(|delivery| delivery.guid.to_string()).collect()
}

#[tokio::test]
async fn open_jobs_are_found_in_runs_whose_status_hides_them_as_their_webhooks_would_tell() {
    let stage = Stage::set(Settings::default()).await;
    let github = &stage.github;
    let over = github.queue_job(long());
    let queued = github.queue_job(JobRequest { run_of: Some(over), ..long() });
    github.cancel(over);
    let waiting = github.queue_job(JobRequest { waiting: true, ..long() });
    let elsewhere = JobRequest { repository: Some("tools".to_owned()), ..long() };
    github.queue_job(elsewhere);
    let finished = github.queue_job(long());
    github.cancel(finished);
    let running = github.queue_job(JobRequest::new(["gpu"], Duration::from_secs(3600)));
    let runner = stage.start_runner("one", &["gpu"]).await;
    until("the job runs", || github.count_jobs(JobStatus::InProgress) == 1).await;
    settled(github).await;

    let client = client(&stage);
    let (name, _) = repository();
    let found = client.open_jobs(&asker(organization()), &name, 100).await.unwrap();
    let actions: Vec<_> = found.iter().map(|event| (event.job.id.0, event.action)).collect();
    let expected = [(queued.0, JobAction::Queued), (waiting.0, JobAction::Waiting), (running.0, JobAction::InProgress)];
    assert_eq!(actions, expected);
    // What the webhook said of them is what is said now.
    for event in &found {
        let hooks = stage.hooks.received();
        let hook = hooks.iter().rfind(|hook| hook.job() == event.job.id.0).unwrap();
        let told = &hook.body["workflow_job"];
        assert_eq!((hook.action(), &hook.body["repository"]["id"]), (event.action.as_str(), &101.into()));
        let facts = &event.job;
        assert_eq!((told["run_id"].as_u64(), told["name"].as_str()), (Some(facts.run_id), Some(facts.name.as_str())));
        assert_eq!(told["labels"], serde_json::json!(facts.labels));
        assert_eq!(hook.body["organization"]["login"].as_str(), facts.organization.as_deref());
        assert_eq!(told["runner_name"].as_str(), event.runner.as_ref().map(|runner| runner.name.as_str()));
        assert!(facts.repository.private && facts.repository.owner == "octo-org" && facts.repository.name == "app");
    }

    let asked = github.count_requests(Operation::ListRunJobs);
    assert_eq!(client.open_jobs(&asker(organization()), &name, 1).await.unwrap().len(), 2, "the newest of each status");
    assert_eq!(github.count_requests(Operation::ListRunJobs) - asked, 2);
    runner.task.abort();
}

#[tokio::test]
async fn a_job_is_told_as_it_is_now_and_an_absent_one_is_none_unless_its_repository_is_hidden() {
    let stage = Stage::set(Settings::default()).await;
    let client = client(&stage);
    let (name, _) = repository();
    let id = stage.github.queue_job(long());
    let ask =
        async |id: u64| -> Option<JobEvent> { client.job(&asker(organization()), &name, JobId(id)).await.unwrap() };
    let event = ask(id.0).await.unwrap();
    assert_eq!((event.action, event.conclusion), (JobAction::Queued, None));
    assert_eq!(event.job.repository.id.0, 101);
    stage.github.cancel(id);
    let event = ask(id.0).await.unwrap();
    assert_eq!((event.action, event.conclusion.as_deref()), (JobAction::Completed, Some("cancelled")));
    assert!(event.job.completed_at.is_some());
    assert_eq!(stage.github.count_requests(Operation::GetRun), 1, "its repository is asked for once");

    assert_eq!(ask(1).await, None);
    let hidden = RepositoryName { name: "hidden".to_owned(), ..name.clone() };
    let error = client.job(&asker(organization()), &hidden, JobId(id.0)).await.unwrap_err();
    assert_eq!(error.kind(), "not_found");
    let enterprise = Scope::Enterprise("octo".to_owned());
    let event = client.job(&asker(enterprise), &name, JobId(id.0)).await.unwrap().unwrap();
    assert_eq!(event.job.enterprise.as_deref(), Some("octo"));
}

#[tokio::test]
async fn the_hook_is_found_wherever_it_is_and_told_from_others() {
    for (owner, scope, with_app) in [
        (HookOwner::App, organization(), true),
        (HookOwner::Organization, organization(), false),
        (HookOwner::Organization, repository().1, true),
        (HookOwner::Repository("app".to_owned()), repository().1, true),
    ] {
        let stage = Stage::set(Settings { hook_owner: owner.clone(), ..Settings::default() }).await;
        let client = if with_app { app(&stage) } else { client(&stage) };
        let expected = match owner {
            HookOwner::App => Hook::App { credential: "default".to_owned() },
            HookOwner::Organization => Hook::Of { scope: organization(), id: 4001 },
            HookOwner::Repository(_) => Hook::Of { scope: scope.clone(), id: 4001 },
        };
        for address in ["/webhook", "/webhook/", stage.hooks.url.as_str()] {
            assert_eq!(client.hook(&asker(scope.clone()), address).await, Ok(Some(expected.clone())), "{address}");
        }
        for address in ["/hook", "https://elsewhere.invalid/webhook", "", "/"] {
            assert_eq!(client.hook(&asker(scope.clone()), address).await, Ok(None), "{address}");
        }
        stage.github.queue_job(long());
        settled(&stage.github).await;
        let (deliveries, _) = history(&client, &expected, Timestamp::UNIX_EPOCH).await;
        assert_eq!(deliveries.len(), 1, "{expected:?}");
        client.redeliver(&asker(organization()), &expected, deliveries[0].id).await.unwrap();
        until("it came again", || stage.hooks.received().len() == 2).await;
    }
}

#[tokio::test]
async fn the_history_is_read_in_pages_that_new_deliveries_do_not_shift() {
    let stage = Stage::set(Settings::default()).await;
    let client = client(&stage);
    stage.hooks.answer_with(503);
    queue(&stage.github, 130);
    settled(&stage.github).await;
    stage.hooks.answer_with(202);
    queue(&stage.github, 120);
    settled(&stage.github).await;
    let hook = Hook::Of { scope: organization(), id: 4001 };
    let (all, pages) = history(&client, &hook, Timestamp::UNIX_EPOCH).await;
    assert_eq!((all.len(), guids(&all).len(), pages), (250, 250, 3));
    assert!(all.is_sorted_by_key(|delivery| std::cmp::Reverse(delivery.id)));
    assert_eq!(all.iter().filter(|delivery| delivery.delivered).count(), 120);
    assert!(
        all.iter().all(|delivery| delivery.event == "workflow_job" && delivery.action.as_deref() == Some("queued"))
    );

    let first = client.deliveries(&asker(organization()), &hook, Timestamp::UNIX_EPOCH, None).await.unwrap();
    queue(&stage.github, 30);
    settled(&stage.github).await;
    let second =
        client.deliveries(&asker(organization()), &hook, Timestamp::UNIX_EPOCH, first.next.as_deref()).await.unwrap();
    assert_eq!(guids(&first.deliveries).union(&guids(&second.deliveries)).count(), 200);
    assert_eq!(guids(&second.deliveries), guids(&all[100..200]));

    let later = client
        .deliveries(&asker(organization()), &hook, Timestamp::now() + Duration::from_secs(60), None)
        .await
        .unwrap();
    assert_eq!((later.deliveries.len(), later.next), (0, None), "what is older is not looked for");
}

#[tokio::test]
async fn a_failed_delivery_comes_again_under_its_guid_and_one_never_sent_is_known_by_its_job_alone() {
    let stage = Stage::set(Settings { webhook_timeout: Duration::from_millis(200), ..Settings::default() }).await;
    let (client, github) = (client(&stage), &stage.github);
    github.fail_webhooks(None, HookFault::Drop, Times::Next(1));
    let failed = github.queue_job(long());
    settled(github).await;
    github.fail_webhooks(None, HookFault::Forget, Times::Next(1));
    let forgotten = github.queue_job(JobRequest { conclusion: Conclusion::Failure, ..long() });
    settled(github).await;
    assert_eq!(stage.hooks.received().len(), 0);

    let hook = client.hook(&asker(organization()), "/webhook").await.unwrap().unwrap();
    let (deliveries, _) = history(&client, &hook, Timestamp::UNIX_EPOCH).await;
    assert_eq!(deliveries.len(), 1);
    assert!(!deliveries[0].delivered);
    client.redeliver(&asker(organization()), &hook, deliveries[0].id).await.unwrap();
    until("it came", || stage.hooks.received().len() == 1).await;
    let received = &stage.hooks.received()[0];
    assert_eq!((received.job(), received.guid.as_str()), (failed.0, deliveries[0].guid.as_str()));
    settled(github).await;
    let (deliveries, _) = history(&client, &hook, Timestamp::UNIX_EPOCH).await;
    assert_eq!((deliveries.len(), guids(&deliveries).len()), (2, 1));
    assert!(deliveries[0].delivered && !deliveries[1].delivered, "both attempts are told, the newest first");
    assert_eq!(client.redeliver(&asker(organization()), &hook, 999_999).await.unwrap_err().kind(), "not_found");

    let (name, _) = repository();
    let open = client.open_jobs(&asker(organization()), &name, 100).await.unwrap();
    let ids: BTreeSet<u64> = open.iter().map(|event| event.job.id.0).collect();
    assert_eq!(ids, [failed.0, forgotten.0].into());
}
