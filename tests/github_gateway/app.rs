//! A GitHub App in trouble, and repositories that moved.

use std::sync::Arc;

use actors::id::RunnerGroupId;
use actors::port::GitHub;
use actors::port::github::{Deregistered, JitRequest};
use runner_manager::demo::github::{AppTrouble, Operation, Settings};

use super::simulated::Stage;
use super::support::organization;
use super::{app, client, registration, repository, requests, statuses};

#[tokio::test]
async fn a_clock_that_is_off_costs_one_refused_call() {
    for clock_ahead in [-7200, -900, 0, 30, 900, 7200] {
        let stage = Stage::set(Settings { clock_ahead, ..Settings::default() }).await;
        let client = app(&stage);
        client.generate_jit_config(&registration(1)).await.unwrap();
        client.list_runners(&organization()).await.unwrap();
        let refused = i32::from(clock_ahead.abs() > 60);
        let log = stage.github.requests();
        let unauthorized = log.iter().filter(|request| request.status == Some(401)).count();
        assert_eq!(unauthorized, refused as usize, "{clock_ahead}");
        assert_eq!(stage.github.count_requests(Operation::CreateToken), 1, "the token is not thought to have ended");
    }
}

#[tokio::test]
async fn tokens_that_end_while_calls_run_are_renewed_once_for_all() {
    let stage = Stage::set(Settings::default()).await;
    let client = app(&stage);
    let list = |_| {
        let client = Arc::clone(&client);
        tokio::spawn(async move { client.list_runners(&organization()).await })
    };
    client.list_runners(&organization()).await.unwrap();
    stage.github.revoke_tokens();
    for task in (0..20).map(list).collect::<Vec<_>>() {
        assert_eq!(task.await.unwrap(), Ok(vec![]));
    }
    assert_eq!(statuses(&stage, Operation::CreateToken), [Some(201), Some(201)]);
}

#[tokio::test]
async fn a_wrong_key_and_a_suspended_installation_say_what_is_wrong_and_end_with_it() {
    let stage = Stage::set(Settings::default()).await;
    let wrong_key = "GitHub refuses the credential: the private key does not belong to GitHub App 4711: check the \
                     App's id, or make a new key in the App's settings: GET /orgs/octo-org/installation answered 401";
    let suspended = "a permission at GitHub is missing: the installation of GitHub App 4711 for organization octo-org \
                     is suspended: who suspended it, an owner of the account or of the App, can unsuspend it in their \
                     settings: ";
    for (trouble, text) in [(AppTrouble::WrongKey, wrong_key), (AppTrouble::Suspended, suspended)] {
        let client = app(&stage);
        stage.github.set_app_trouble(trouble);
        let error = client.list_runners(&organization()).await.unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
        stage.github.set_app_trouble(None);
        client.list_runners(&organization()).await.unwrap();
        stage.github.set_app_trouble(AppTrouble::Suspended);
        let error = client.list_runners(&organization()).await.unwrap_err().to_string();
        assert!(error.starts_with(suspended), "with a token that was good: {error}");
        super::client(&stage).list_runners(&organization()).await.unwrap();
        stage.github.set_app_trouble(None);
        client.list_runners(&organization()).await.unwrap();
    }
}

#[tokio::test]
async fn a_repository_with_a_new_name_is_served_under_its_old_one() {
    let stage = Stage::set(Settings::default()).await;
    let (client, app) = (client(&stage), app(&stage));
    let (_, scope) = repository();
    assert!(stage.github.rename_repository("app", "application"));
    let request = JitRequest { scope: scope.clone(), runner_group: RunnerGroupId(1), ..registration(1) };
    let made = client.generate_jit_config(&request).await.unwrap();
    let listed = app.list_runners(&scope).await.unwrap();
    assert_eq!(listed.iter().map(|runner| runner.id).collect::<Vec<_>>(), [made.id]);
    assert_eq!(client.delete_runner(&scope, made.id).await, Ok(Deregistered::Removed));
    assert_eq!(statuses(&stage, Operation::DeleteRunner), [Some(307), Some(204)]);
    let moved = requests(&stage, Operation::ListRunners);
    assert_eq!(moved[0].status, Some(301));
    assert_eq!(
        (moved[1].status, moved[1].path.as_str()),
        (Some(200), "/repositories/101/actions/runners?per_page=100")
    );
}
