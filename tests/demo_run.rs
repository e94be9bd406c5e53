//! The guided run, with a service in miniature in place of the real one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use poem::listener::TcpAcceptor;
use poem::{Endpoint, Request, Response, Server};
use runner_manager::demo::{self, DemoError, Options, RunningService, ServiceRequest, runner};
use serde_json::{Value, json};

/// Registers and starts a runner for each queued job, within its `max`.
struct Miniature {
    request: ServiceRequest,
    max: usize,
    client: reqwest::Client,
    demand: Mutex<VecDeque<u64>>,
    made: AtomicUsize,
    alive: Arc<AtomicUsize>,
}

impl Miniature {
    async fn serve_demand(&self) {
        loop {
            {
                let mut demand = self.demand.lock().unwrap();
                if self.alive.load(Ordering::SeqCst) >= self.max || demand.pop_front().is_none() {
                    return;
                }
                self.alive.fetch_add(1, Ordering::SeqCst);
            }
            let number = self.made.fetch_add(1, Ordering::SeqCst);
            let labels: Vec<String> =
                ["self-hosted".to_owned()].into_iter().chain(self.request.labels.clone()).collect();
            let url = format!(
                "{}/orgs/{}/actions/runners/generate-jitconfig",
                self.request.github_url, self.request.organization
            );
            let body = json!({"name": format!("mini-{number}"), "runner_group_id": 1, "labels": labels});
            let call = self.client.post(url).bearer_auth(self.request.token.expose()).json(&body);
            let answer: Value = call.send().await.unwrap().json().await.unwrap();
            let config = answer["encoded_jit_config"].as_str().unwrap().to_owned();
            let alive = Arc::clone(&self.alive);
            tokio::spawn(async move {
                runner::run_until(move |_| Some(config.clone()), std::future::pending()).await.unwrap();
                alive.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }
}

struct Door(Arc<Miniature>);

impl Endpoint for Door {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let body: Value = request.take_body().into_json().await?;
        let job = body["workflow_job"]["id"].as_u64().unwrap();
        if body["action"] == "queued" {
            self.0.demand.lock().unwrap().push_back(job);
        }
        if body["action"] == "completed" {
            while self.0.alive.load(Ordering::SeqCst) >= self.0.max {
                tokio::task::yield_now().await;
            }
        }
        self.0.serve_demand().await;
        Ok(Response::builder().status(poem::http::StatusCode::ACCEPTED).finish())
    }
}

/// Starts a miniature that keeps to `max`.
async fn start(request: ServiceRequest, max: usize) -> Result<RunningService, Infallible> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = reqwest::Client::builder().user_agent("miniature").no_proxy().build().unwrap();
    let alive = Arc::new(AtomicUsize::new(0));
    let (demand, made) = (Mutex::default(), AtomicUsize::new(0));
    let miniature = Arc::new(Miniature { max, request, client, demand, made, alive: Arc::clone(&alive) });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::new_with_acceptor(TcpAcceptor::from_tokio(listener).unwrap());
    let server = tokio::spawn(server.run(Door(miniature)));
    Ok(RunningService {
        webhook_url: format!("http://{address}/webhook"),
        dashboard_url: format!("http://{address}/"),
        count_processes: Box::new(move || alive.load(Ordering::SeqCst)),
        stop: Box::new(move || Box::pin(async move { server.abort() })),
    })
}

fn options() -> Options {
    Options { jobs: 12, rate: 50.0, max: 6, seed: 3, exit: true, faults: false }
}

#[tokio::test]
async fn a_run_ends_with_all_jobs_done_within_max_and_nothing_left_behind() {
    let mut out = Vec::new();
    let service = async |request: ServiceRequest| {
        let max = usize::try_from(request.max).unwrap();
        start(request, max).await
    };
    let summary = demo::run(options(), &mut out, false, service).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(summary.ok(), "{summary}\n{text}");
    assert_eq!((summary.succeeded, summary.peak, summary.webhooks.sent), (12, 6, 36), "{text}");
    assert!(summary.wait.p99 >= summary.wait.p50 && summary.wait.p50.is_some());
    assert!(summary.start.p50.is_some(), "{text}");
    let lines = |what: &str| text.lines().filter(|line| line.contains(what)).count();
    assert_eq!((lines(" queued "), lines(" taken "), lines(" success ")), (12, 12, 12), "{text}");
    assert!(text.contains("12 of 12") && text.contains("6 of at most 6"), "{text}");
}

#[tokio::test]
async fn a_run_that_exceeds_max_is_not_ok() {
    let mut out = Vec::new();
    let service = async |request: ServiceRequest| start(request, 12).await;
    let summary = demo::run(Options { max: 2, ..options() }, &mut out, false, service).await.unwrap();
    assert!(!summary.ok() && summary.peak > 2 && summary.succeeded == 12, "{summary}");
}

#[tokio::test]
async fn a_service_that_does_not_start_is_an_error_that_says_why() {
    let service = async |_: ServiceRequest| Err::<RunningService, _>("no space left on device");
    let error = demo::run(options(), Vec::new(), false, service).await.unwrap_err();
    assert!(matches!(error, DemoError::Service(_)));
    assert_eq!(error.to_string(), "the service could not be started: no space left on device");
}
