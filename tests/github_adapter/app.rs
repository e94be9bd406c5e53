//! A GitHub App and the tokens of its installations.

use std::sync::Arc;

use actors::model::secret::Secret;
use actors::port::GitHub;
use actors::port::github::{Hook, Records};
use runner_manager::github::{Client, Credential, InvalidSettings, Settings};
use serde_json::json;
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use super::support::{Recorder, asker, enterprise, organization, repository};

/// Made for these tests; no App has it.
const KEY: &str = include_str!("../support/app-key.pem");

fn app(server: &MockServer, installation_id: Option<u64>, key: &str) -> Result<Client, InvalidSettings> {
    let credential = Credential::App { app_id: 4711, private_key: Secret::new(key.to_owned()), installation_id };
    Client::new(Settings::new(server.uri(), credential), Arc::new(Recorder::default()))
}

/// Mints `token-1`, `token-2`, … that end after `lifetime` seconds.
struct Mint {
    lifetime: i64,
    minted: std::sync::atomic::AtomicU64,
}

impl Respond for Mint {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let jwt = request.headers["authorization"].to_str().unwrap();
        assert_eq!(jwt.strip_prefix("Bearer ").unwrap().split('.').count(), 3, "the App signs in with a JWT");
        let number = self.minted.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let expires_at = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() + self.lifetime).unwrap();
        let token = json!({"token": format!("token-{number}"), "expires_at": expires_at.to_string()});
        ResponseTemplate::new(201).set_body_json(token)
    }
}

async fn mint(server: &MockServer, lifetime: i64, expected: u64) {
    let mint = Mint { lifetime, minted: 0.into() };
    let tokens = Mock::given(method("POST")).and(path("/app/installations/99/access_tokens"));
    tokens.respond_with(mint).expect(expected).mount(server).await;
}

async fn serve(server: &MockServer, token: &str, answer: ResponseTemplate) {
    let bearer = header("authorization", format!("Bearer {token}"));
    Mock::given(bearer).respond_with(answer).with_priority(9).mount(server).await;
}

fn no_runners() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({"total_count": 0, "runners": []}))
}

#[tokio::test]
async fn calls_at_the_same_time_share_one_token_of_the_installation_that_was_looked_up() {
    for (scope, place) in
        [(organization(), "/orgs/octo-org/installation"), (repository(), "/repos/octo/app/installation")]
    {
        let server = MockServer::start().await;
        let installation = ResponseTemplate::new(200).set_body_json(json!({"id": 99}));
        Mock::given(method("GET")).and(path(place)).respond_with(installation).expect(1).mount(&server).await;
        mint(&server, 3600, 1).await;
        serve(&server, "token-1", no_runners()).await;
        let client = Arc::new(app(&server, None, KEY).unwrap());
        let call = |_| {
            let (client, scope) = (Arc::clone(&client), scope.clone());
            tokio::spawn(async move { client.list_runners(&scope).await })
        };
        for task in (0..20).map(call).collect::<Vec<_>>() {
            assert_eq!(task.await.unwrap().unwrap(), []);
        }
    }
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    let server = MockServer::start().await;
    mint(&server, 200, 2).await;
    serve(&server, "token-1", no_runners()).await;
    serve(&server, "token-2", no_runners()).await;
    let client = app(&server, Some(99), &KEY.replace('\n', "\\n")).unwrap();
    client.list_runners(&organization()).await.unwrap();
    client.list_runners(&organization()).await.unwrap();
}

#[tokio::test]
async fn a_refused_token_is_replaced_once() {
    let server = MockServer::start().await;
    mint(&server, 3600, 2).await;
    serve(&server, "token-1", ResponseTemplate::new(401)).await;
    serve(&server, "token-2", no_runners()).await;
    let client = app(&server, Some(99), KEY).unwrap();
    assert_eq!(client.list_runners(&organization()).await, Ok(vec![]));
    assert_eq!(client.list_runners(&enterprise()).await, Ok(vec![]));

    server.reset().await;
    mint(&server, 3600, 1).await;
    serve(&server, "token-1", ResponseTemplate::new(401)).await;
    serve(&server, "token-2", ResponseTemplate::new(401)).await;
    assert_eq!(client.list_runners(&organization()).await.unwrap_err().kind(), "unauthorized");
}

#[tokio::test]
async fn an_app_that_is_not_installed_or_cannot_sign_in_says_so() {
    let server = MockServer::start().await;
    let client = app(&server, None, KEY).unwrap();
    let error = client.list_runners(&organization()).await.unwrap_err();
    let text = "not found at GitHub: GitHub App 4711 is not installed for organization octo-org: \
                GET /orgs/octo-org/installation answered 404 Not Found";
    assert_eq!(error.to_string(), text);
    let error = client.list_runners(&enterprise()).await.unwrap_err();
    assert_eq!(error.kind(), "invalid");
    assert!(error.to_string().contains("enterprise octo-corp"), "{error}");
    assert_eq!(app(&server, None, "s3cret").err(), Some(InvalidSettings::PrivateKey));
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_is_used_until_it_ends() {
    for (lifetime, works) in [(290, true), (0, false)] {
        let server = MockServer::start().await;
        let mint = Mint { lifetime, minted: 0.into() };
        let tokens = || Mock::given(method("POST")).and(path("/app/installations/99/access_tokens"));
        tokens().respond_with(mint).up_to_n_times(1).mount(&server).await;
        tokens().respond_with(ResponseTemplate::new(502)).expect(1).mount(&server).await;
        serve(&server, "token-1", no_runners()).await;
        let client = app(&server, Some(99), KEY).unwrap();
        client.list_runners(&organization()).await.unwrap();
        let second = client.list_runners(&organization()).await;
        assert_eq!(
            second.map(|runners| runners.len()).map_err(|error| error.kind()),
            if works { Ok(0) } else { Err("unknown") }
        );
        if works {
            client.list_runners(&organization()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_refused_app_says_whether_it_is_its_key_its_id_or_the_clock() {
    let refuse = |status, message: &str| ResponseTemplate::new(status).set_body_json(json!({"message": message}));
    let late = "'Expiration time' claim ('exp') is too far in the future";
    for (answer, calls, text) in [
        (refuse(401, "A JSON web token could not be decoded"), 1, "the private key does not belong to GitHub App 4711"),
        (refuse(404, "Integration not found"), 1, "there is no GitHub App 4711 at this address"),
        (refuse(401, late), 2, "GitHub App 4711 signs in with a wrong time: GitHub's clock is 0 s ahead"),
        (refuse(401, late).insert_header("date", "Tue, 14 Nov 2023 22:13:20 GMT"), 2, "GitHub's clock is -"),
    ] {
        let server = MockServer::start().await;
        Mock::given(method("POST")).respond_with(answer).expect(calls).mount(&server).await;
        let error = app(&server, Some(99), KEY).unwrap().list_runners(&organization()).await.unwrap_err();
        assert_eq!(error.kind(), "unauthorized", "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[tokio::test]
async fn hooks_that_cannot_be_told_apart_are_an_error_and_hidden_ones_are_none() {
    let server = MockServer::start().await;
    let hook = |id, url: &str| json!({"id": id, "config": {"url": url}});
    let hooks = json!([hook(1, "https://a.invalid/webhook"), hook(2, "https://b.invalid/webhook/"), hook(3, "https://c.invalid/webhook/other"), {"id": 4}]);
    let listed = ResponseTemplate::new(200).set_body_json(hooks);
    Mock::given(path("/orgs/octo-org/hooks")).respond_with(listed).mount(&server).await;
    let client = super::client(&server.uri());
    let error = client.hook(&asker(organization()), "/webhook").await.unwrap_err();
    assert_eq!(error.kind(), "invalid");
    assert!(error.to_string().contains("2 hooks of organization octo-org"), "{error}");
    let second = client.hook(&asker(organization()), "b.invalid/webhook").await;
    assert_eq!(second, Ok(Some(Hook::Of { scope: organization(), id: 2 })));
    assert_eq!(
        client.hook(&asker(repository()), "/webhook").await,
        Ok(None),
        "neither its own nor its owner's are seen"
    );
    assert_eq!(client.hook(&asker(enterprise()), "/webhook").await, Ok(None));
}
