//! A simulated GitHub for tests, a receiver of its webhooks, and runners that are tasks.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac as _};
use poem::listener::TcpAcceptor;
use poem::{Endpoint, Request, Response, Server};
use reqwest::header::HeaderMap;
use runner_manager::demo::github::{Settings, SimulatedGitHub};
use runner_manager::demo::runner;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::task::JoinHandle;

/// Longest time that a condition is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// An answer of the REST API.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

/// The simulated GitHub, someone who may call it, and someone who takes its webhooks.
pub struct Stage {
    pub github: SimulatedGitHub,
    pub hooks: Receiver,
    pub token: String,
    client: reqwest::Client,
}

impl Stage {
    pub async fn set(settings: Settings) -> Self {
        // Another test of this process may have installed it.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = reqwest::Client::builder().user_agent("tests").no_proxy().build().unwrap();
        let token = settings.token.expose().to_owned();
        let hooks = Receiver::start(settings.webhook_secret.expose().to_owned()).await;
        let settings = Settings { webhook_url: Some(hooks.url.clone()), ..settings };
        let github = SimulatedGitHub::start(settings).await.unwrap();
        Self { github, hooks, token, client }
    }

    /// Calls the REST API with the right token.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        self.try_call(method, path, body, &self.token.clone()).await.unwrap()
    }

    /// Calls the REST API; an error is a connection that ended without an answer.
    pub async fn try_call(&self, method: &str, path: &str, body: Value, token: &str) -> reqwest::Result<Answer> {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.github.url()) };
        let request = self.client.request(method.parse().unwrap(), url).bearer_auth(token);
        let request = if body.is_null() { request } else { request.json(&body) };
        let answer = request.send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = answer.bytes().await?;
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        Ok(Answer { status, headers, body })
    }

    /// Registers a runner of the organization; returns its id and its just-in-time config.
    pub async fn register(&self, name: &str, labels: &[&str]) -> (u64, String) {
        let body = json!({"name": name, "runner_group_id": 1, "labels": labels});
        let answer = self.call("POST", "/orgs/octo-org/actions/runners/generate-jitconfig", body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let config = answer.body["encoded_jit_config"].as_str().unwrap().to_owned();
        (answer.body["runner"]["id"].as_u64().unwrap(), config)
    }

    /// Registers a runner and starts it as a task.
    pub async fn start_runner(&self, name: &str, labels: &[&str]) -> RunnerTask {
        let (id, config) = self.register(name, labels).await;
        RunnerTask { id, task: tokio::spawn(runner::run(env(config))) }
    }

    /// Starts a runner and waits until it asks for a job.
    pub async fn start_idle_runner(&self, name: &str, labels: &[&str]) -> RunnerTask {
        let runner = self.start_runner(name, labels).await;
        until("the runner is online", || self.github.runners().iter().any(|r| r.id == runner.id && r.online)).await;
        runner
    }
}

/// An environment that holds only a just-in-time config.
pub fn env(config: String) -> impl Fn(&str) -> Option<String> {
    move |name| (name == "ACTIONS_RUNNER_INPUT_JITCONFIG").then(|| config.clone())
}

/// A simulated runner in this process.
pub struct RunnerTask {
    pub id: u64,
    pub task: JoinHandle<Result<(), runner::RunnerError>>,
}

/// A webhook that was received.
#[derive(Debug, Clone)]
pub struct Hook {
    pub at: Instant,
    pub guid: String,
    pub event: String,
    pub signed: bool,
    pub body: Value,
}

impl Hook {
    pub fn action(&self) -> &str {
        self.body["action"].as_str().unwrap()
    }

    pub fn job(&self) -> u64 {
        self.body["workflow_job"]["id"].as_u64().unwrap()
    }
}

/// Takes webhooks and remembers them.
pub struct Receiver {
    pub url: String,
    inner: Arc<Inbox>,
    server: JoinHandle<std::io::Result<()>>,
}

struct Inbox {
    secret: String,
    received: Mutex<Vec<Hook>>,
    status: Mutex<u16>,
}

impl Receiver {
    pub async fn start(secret: String) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/webhook", listener.local_addr().unwrap());
        let inner = Arc::new(Inbox { secret, received: Mutex::default(), status: Mutex::new(202) });
        let acceptor = TcpAcceptor::from_tokio(listener).unwrap();
        let server = tokio::spawn(Server::new_with_acceptor(acceptor).run(Door(Arc::clone(&inner))));
        Self { url, inner, server }
    }

    /// What every webhook is answered from now on.
    pub fn answer_with(&self, status: u16) {
        *self.inner.status.lock().unwrap() = status;
    }

    /// Everything received, in order.
    pub fn received(&self) -> Vec<Hook> {
        self.inner.received.lock().unwrap().clone()
    }

    /// The actions received about one job, in order.
    pub fn actions(&self, job: u64) -> Vec<String> {
        self.received().iter().filter(|hook| hook.job() == job).map(|hook| hook.action().to_owned()).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Door(Arc<Inbox>);

impl Endpoint for Door {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let at = Instant::now();
        let header = |name: &str| request.header(name).unwrap_or_default().to_owned();
        let (guid, event, signature) =
            (header("x-github-delivery"), header("x-github-event"), header("x-hub-signature-256"));
        let body = request.take_body().into_vec().await?;
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.secret.as_bytes()).unwrap();
        mac.update(&body);
        let digits: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
        let signed = signature == format!("sha256={digits}");
        let hook = Hook { at, guid, event, signed, body: serde_json::from_slice(&body).unwrap() };
        self.0.received.lock().unwrap().push(hook);
        let status = *self.0.status.lock().unwrap();
        Ok(Response::builder().status(poem::http::StatusCode::from_u16(status).unwrap()).finish())
    }
}
