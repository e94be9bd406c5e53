//! A load balancer: spreads requests over the replicas that say they are ready, one after another.
#![allow(dead_code, reason = "every test file uses its part")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use poem::http::{StatusCode, header};
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::{Request, Response, Server};
use tokio::task::JoinHandle;

/// Pause between two looks at whether the replicas are ready.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Longest time a replica may take to say that it is ready.
const READY_WITHIN: Duration = Duration::from_millis(500);
/// Longest time a replica may take for a request, as GitHub gives it.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Replicas behind one port of the loopback.
pub struct Balancer {
    port: u16,
    pool: Arc<Pool>,
    tasks: [JoinHandle<()>; 2],
}

struct Pool {
    targets: Mutex<Vec<Target>>,
    client: reqwest::Client,
}

#[derive(Clone, Copy)]
struct Target {
    port: u16,
    ready: bool,
    /// It was ready and refuses connections now: it has ended, and its port may become somebody else's.
    gone: bool,
    answered: u64,
}

impl Balancer {
    /// Starts without replicas: everything is answered 503.
    pub async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
        let port = acceptor.local_addr()[0].as_socket_addr().unwrap().port();
        // No kept connections: one that cannot be made shows that nothing was sent.
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        let pool = Arc::new(Pool { targets: Mutex::default(), client });
        let (watching, serving) = (pool.clone(), pool.clone());
        let endpoint = poem::endpoint::make(move |request| forward(serving.clone(), request));
        let serve = tokio::spawn(async move { Server::new_with_acceptor(acceptor).run(endpoint).await.unwrap() });
        Self { port, pool, tasks: [serve, tokio::spawn(watch(watching))] }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Adds a replica; it gets requests once it is ready, and never again after its process has ended.
    pub fn add(&self, port: u16) {
        self.pool.targets.lock().unwrap().push(Target { port, ready: false, gone: false, answered: 0 });
    }

    /// The replicas that get requests now.
    pub fn ready(&self) -> Vec<u16> {
        self.pool.targets.lock().unwrap().iter().filter(|target| target.ready).map(|target| target.port).collect()
    }

    /// How many requests a replica answered.
    pub fn answered(&self, port: u16) -> u64 {
        self.pool
            .targets
            .lock()
            .unwrap()
            .iter()
            .filter(|target| target.port == port)
            .map(|target| target.answered)
            .sum()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Pool {
    fn change(&self, port: u16, change: impl FnOnce(&mut Target)) {
        if let Some(target) = self.targets.lock().unwrap().iter_mut().find(|target| target.port == port) {
            change(target);
        }
    }

    /// The ready replicas, that whose turn it is first.
    fn order(&self) -> Vec<u16> {
        let mut targets = self.targets.lock().unwrap();
        if !targets.is_empty() {
            targets.rotate_left(1);
        }
        targets.iter().filter(|target| target.ready).map(|target| target.port).collect()
    }
}

async fn watch(pool: Arc<Pool>) {
    loop {
        let ports: Vec<u16> =
            pool.targets.lock().unwrap().iter().filter(|target| !target.gone).map(|target| target.port).collect();
        join_all(ports.into_iter().map(async |port| {
            let look = pool.client.get(format!("http://127.0.0.1:{port}/_ready")).timeout(READY_WITHIN).send();
            let look = look.await;
            let refused = look.as_ref().is_err_and(reqwest::Error::is_connect);
            let ready = look.is_ok_and(|answer| answer.status() == StatusCode::OK);
            pool.change(port, |target| {
                target.gone |= refused && (target.ready || target.answered > 0);
                target.ready = ready && !target.gone;
            });
        }))
        .await;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Passes a request on. What may have arrived is not sent twice.
async fn forward(pool: Arc<Pool>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let Ok(body) = body.into_bytes().await else { return StatusCode::BAD_REQUEST.into() };
    for name in [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION] {
        parts.headers.remove(name);
    }
    for port in pool.order() {
        let url = format!("http://127.0.0.1:{port}{}", parts.uri);
        let call = pool.client.request(parts.method.clone(), url).headers(parts.headers.clone()).body(body.clone());
        let answer = match call.timeout(ANSWER_WITHIN).send().await {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => {
                pool.change(port, |target| (target.ready, target.gone) = (false, true));
                continue;
            }
            Err(_) => return StatusCode::BAD_GATEWAY.into(),
        };
        let (status, headers) = (answer.status(), answer.headers().clone());
        let Ok(body) = answer.bytes().await else { return StatusCode::BAD_GATEWAY.into() };
        pool.change(port, |target| target.answered += 1);
        let mut response = Response::builder().status(status).body(body);
        for (name, value) in
            headers.iter().filter(|(name, _)| ![header::TRANSFER_ENCODING, header::CONTENT_LENGTH].contains(name))
        {
            response.headers_mut().append(name, value.clone());
        }
        return response;
    }
    StatusCode::SERVICE_UNAVAILABLE.into()
}
