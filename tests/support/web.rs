//! The HTTP front on a free loopback port, and a client that sends exactly the bytes it is told.
#![allow(dead_code, reason = "every test file uses its part")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actors::actor::front::Front;
use actors::model::secret::Secret;
use hmac::{Hmac, Mac};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use runner_manager::http::{self, ApiKey, Args, Limits, Role, Settings};
use serde_json::Value;
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// The secret of GitHub's documented example.
pub const SECRET: &str = "It's a Secret to Everybody";
/// Longest time anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const ADMIN_KEY: &str = "key-of-the-admin-0123456789abcdef";
pub const VIEWER_KEY: &str = "key-of-the-viewer-0123456789abcdef";

/// Settings with a secret, two keys and short deadlines where `change` says so.
pub fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
    let key = |name: &str, role, key: &str| ApiKey { name: name.to_owned(), role, key: Secret::new(key.to_owned()) };
    let mut settings = Settings {
        webhook_secret: Some(Secret::new(SECRET.to_owned())),
        keys: vec![key("boss", Role::Admin, ADMIN_KEY), key("reader", Role::Viewer, VIEWER_KEY)],
        metrics_public: true,
        render_metrics: Arc::new(|| "up 1\n".to_owned()),
        github_budgets: Arc::new(Vec::new),
        boot: None,
        version: "1.2.3",
        replica: None,
        limits: Limits::default(),
    };
    change(&mut settings);
    settings
}

/// A supervisor that only passes on what it hears.
struct Parent;

impl Actor for Parent {
    type Msg = ();
    type State = mpsc::UnboundedSender<String>;
    type Arguments = mpsc::UnboundedSender<String>;

    async fn pre_start(&self, _: ActorRef<()>, events: Self::Arguments) -> Result<Self::State, ActorProcessingErr> {
        Ok(events)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        events: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let _ = events.send(match event {
            SupervisionEvent::ActorStarted(_) => "started".to_owned(),
            SupervisionEvent::ActorTerminated(..) => "terminated".to_owned(),
            SupervisionEvent::ActorFailed(_, error) => format!("failed: {error}"),
            _ => return Ok(()),
        });
        Ok(())
    }
}

/// A running front.
pub struct Server {
    pub address: SocketAddr,
    pub args: Args,
    pub actor: ActorCell,
    pub parent: ActorCell,
    pub events: mpsc::UnboundedReceiver<String>,
}

impl Server {
    pub async fn start(front: Front, settings: Settings) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let (parent, _) = Actor::spawn(None, Parent, sender).await.unwrap();
        let parent = parent.get_cell();
        let args = Args {
            listener: Arc::new(listener),
            front,
            settings: Arc::new(settings),
            shutdown_grace: Duration::from_secs(5),
        };
        let actor = http::spawn(args.clone(), parent.clone()).await.unwrap();
        Self { address, args, actor, parent, events }
    }

    pub async fn connect(&self) -> Wire {
        Wire { stream: timeout(PATIENCE, TcpStream::connect(self.address)).await.unwrap().unwrap(), rest: Vec::new() }
    }

    /// One request on its own connection.
    pub async fn send(&self, request: &Request) -> Response {
        let mut wire = self.connect().await;
        wire.write(&request.bytes()).await;
        wire.response().await.expect("an answer")
    }

    pub async fn get(&self, path: &str, key: Option<&str>) -> Response {
        self.send(&Request::new("GET", path).maybe_key(key)).await
    }

    /// Ends the front as a supervisor does, and keeps the rest.
    pub async fn stop_quietly(&self) {
        let _ = self.actor.stop_and_wait(None, Some(PATIENCE)).await;
    }

    pub async fn stop(self) {
        assert!(http::stop(&self.actor, self.args.shutdown_grace).await);
        let _ = self.parent.stop_and_wait(None, Some(PATIENCE)).await;
    }
}

/// A request, header by header.
#[derive(Clone)]
pub struct Request {
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub fn new(method: &'static str, path: &str) -> Self {
        Self { method, path: path.to_owned(), headers: vec![], body: vec![] }
    }

    /// A signed delivery of `workflow_job`.
    pub fn delivery(id: &str, body: impl AsRef<[u8]>) -> Self {
        Self::new("POST", "/webhook")
            .header("X-GitHub-Event", "workflow_job")
            .header("X-GitHub-Delivery", id)
            .header("Content-Type", "application/json")
            .header("X-Hub-Signature-256", &sign(body.as_ref()))
            .body(body)
    }

    pub fn path(mut self, path: &str) -> Self {
        self.path = path.to_owned();
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self
    }

    pub fn replace(self, name: &str, value: &str) -> Self {
        self.without(name).header(name, value)
    }

    pub fn key(self, key: &str) -> Self {
        self.header("Authorization", &format!("Bearer {key}"))
    }

    pub fn maybe_key(self, key: Option<&str>) -> Self {
        match key {
            Some(key) => self.key(key),
            None => self,
        }
    }

    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    /// The request line and headers, without a length, and without the empty line.
    pub fn head(&self) -> String {
        let headers: String = self.headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        format!("{} {} HTTP/1.1\r\nHost: test\r\n{headers}", self.method, self.path)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{}Content-Length: {}\r\n\r\n", self.head(), self.body.len()).into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

pub fn sign(body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(body);
    let digest = mac.finalize().into_bytes();
    format!("sha256={}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// One connection.
pub struct Wire {
    pub stream: TcpStream,
    rest: Vec<u8>,
}

impl Wire {
    pub async fn write(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("the server reads").expect("written");
    }

    /// The next answer; none when the connection was closed without one.
    pub async fn response(&mut self) -> Option<Response> {
        timeout(PATIENCE, self.read_response()).await.expect("an answer or the end in time")
    }

    async fn read_response(&mut self) -> Option<Response> {
        let head_end = loop {
            if let Some(at) = self.rest.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            self.more().await?;
        };
        let head = String::from_utf8(self.rest[..head_end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> =
            lines.map(|l| l.split_once(": ").map(|(n, v)| (n.to_lowercase(), v.to_owned())).unwrap()).collect();
        let mut response = Response { status, headers, body: Vec::new() };
        let length: usize = response.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.rest.len() < head_end + 4 + length {
            self.more().await?;
        }
        response.body = self.rest.drain(..head_end + 4 + length).skip(head_end + 4).collect();
        Some(response)
    }

    async fn more(&mut self) -> Option<()> {
        let mut buffer = [0; 16_384];
        match self.stream.read(&mut buffer).await {
            Ok(n) if n > 0 => {
                self.rest.extend_from_slice(&buffer[..n]);
                Some(())
            }
            _ => None,
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// Asserts that this is a problem document of that status, and returns it.
    pub fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.text());
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], "about:blank");
        assert!(problem["title"].is_string(), "{problem}");
        problem
    }

    /// Where the one wrong field is.
    pub fn pointer(&self, status: u16) -> String {
        self.problem(status)["errors"][0]["pointer"].as_str().expect("a pointer").to_owned()
    }
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::task::yield_now().await;
    }
}
