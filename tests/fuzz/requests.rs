//! Requests to the HTTP front: webhooks, the admin API, and what instances report.
//!
//! An input is a request: its method and path, its headers, an empty line, its body. What makes it taken seriously is
//! added where it is missing: a signature of the body as it is, a key, an instance's token, a length.

use std::sync::Arc;
use std::time::Duration;

use actors::id::{Attempt, GroupName, ManagerName};
use actors::model::job::JobStatus;
use actors::model::runner::{Runner, RunnerState};
use actors::model::secret::Secret;
use actors::port::backend::{InstanceSpec, Machine, Owner};
use actors::port::boot::Boot;
use actors::port::{Clock, Store};
use runner_manager::boot::Tokens;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::chance::hash;
use crate::door::{Door, fuzz};
use crate::fakes::{self, Fake};
use crate::life::{Life, assert_round_trip};
use crate::samples;
use crate::web::{self, ADMIN_KEY, PATIENCE, SECRET, Server, sign};

/// Headers after which a connection serves nobody else.
const FRAMING: [&str; 5] = ["content-length", "transfer-encoding", "connection", "expect", "upgrade"];

struct Site {
    runtime: Runtime,
    fake: Arc<Fake>,
    server: Server,
    /// The token of an instance on its way.
    token: Secret,
    connection: Option<TcpStream>,
}

/// An answer as it came.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Site {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let fake = Fake::new();
        let (store, clock): (Arc<dyn Store>, Arc<dyn Clock>) = (fake.clone(), fake.clone());
        let tokens = Arc::new(Tokens::new(store, clock, "https://runners.example.org"));
        let (server, token) = runtime.block_on(async {
            let token = grant(&fake, &tokens).await;
            let front = fake.front(&[fakes::settings("octo-linux", 0, 10)]);
            let settings = web::settings(|settings| {
                settings.boot = Some(tokens);
                settings.limits.header_deadline = Duration::from_millis(300);
                settings.limits.body_deadline = Duration::from_millis(300);
                settings.limits.body_stall = Duration::from_millis(100);
            });
            (Server::start(front, settings).await, token)
        });
        Self { runtime, fake, server, token, connection: None }
    }

    /// What is sent for an input.
    fn request(&self, input: &[u8]) -> Vec<u8> {
        let end = input.windows(2).position(|two| two == b"\n\n").unwrap_or(input.len());
        let (head, body) = (&input[..end], input.get(end + 2..).unwrap_or_default());
        let mut lines = head.split(|byte| *byte == b'\n');
        let first = lines.next().unwrap_or_default();
        let mut request = [first, b" HTTP/1.1\r\nHost: test\r\n"].concat();
        let mut names = String::new();
        for line in lines {
            request.extend_from_slice(line);
            request.extend_from_slice(b"\r\n");
            names.push_str(&String::from_utf8_lossy(line).to_lowercase());
            names.push('\n');
        }
        let has = |name: &str| names.lines().any(|line| line.starts_with(name));
        let mut add = |name: &str, value: &str| request.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        if first.starts_with(b"POST /webhook") && !has("x-hub-signature") {
            add("X-Hub-Signature-256", &sign(body));
        }
        if !has("authorization") && !has("x-api-key") {
            let instance = first.windows(11).any(|part| part == b"/instances/");
            add("Authorization", &format!("Bearer {}", if instance { self.token.expose() } else { ADMIN_KEY }));
        }
        if !has("content-length") && !has("transfer-encoding") {
            add("Content-Length", &body.len().to_string());
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        request
    }

    /// Sends what an input stands for; none: the connection was closed without an answer.
    fn send(&mut self, input: &[u8]) -> Option<Answer> {
        let request = self.request(input);
        let head = String::from_utf8_lossy(&input[..input.len().min(64 << 10)]).to_lowercase();
        let alone = FRAMING.iter().any(|name| head.contains(name));
        let kept = self.connection.take().filter(|_| !alone);
        let again = kept.is_some();
        let address = self.server.address;
        let without_body = request.starts_with(b"HEAD ");
        self.runtime.block_on(async {
            let mut stream = match kept {
                Some(stream) => stream,
                None => TcpStream::connect(address).await.unwrap(),
            };
            let sent = timeout(PATIENCE, exchange(&mut stream, &request, without_body));
            let mut answer = sent.await.expect("an answer in time");
            if answer.is_none() && again {
                // It may have been closed just before.
                stream = TcpStream::connect(address).await.unwrap();
                let sent = timeout(PATIENCE, exchange(&mut stream, &request, without_body));
                answer = sent.await.expect("an answer in time");
            }
            let ends = |answer: &Answer| answer.head.to_lowercase().contains("connection: close");
            if !alone && answer.as_ref().is_some_and(|answer| !ends(answer)) {
                self.connection = Some(stream);
            }
            answer
        })
    }
}

/// A runner whose instance is on its way, and its token.
async fn grant(fake: &Arc<Fake>, tokens: &Tokens) -> Secret {
    let settings = fakes::settings("octo-linux", 0, 10);
    let name = settings.name.runner_name(1);
    let mut runner = Runner::requested(name.clone(), &settings, Attempt(0), fake.now());
    runner.state = RunnerState::Starting;
    fake.things().runners.insert(name.clone(), runner);
    let owner = Owner { manager: ManagerName::new("m").unwrap(), group: settings.name };
    let machine = Machine { online_within: Duration::from_secs(600), ..Machine::default() };
    let jit_config = Secret::new("e30=".to_owned());
    tokens.grant(&InstanceSpec { owner, runner: name, env: vec![], jit_config, machine }).await.unwrap().token
}

async fn exchange(stream: &mut TcpStream, request: &[u8], without_body: bool) -> Option<Answer> {
    // The other side need not read all of it.
    let _ = stream.write_all(request).await;
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            match bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => more(stream, &mut bytes).await?,
            }
        };
        let head = String::from_utf8(bytes.drain(..end).collect()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        if status == 100 {
            continue;
        }
        let length = head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let length = length.filter(|_| !without_body).unwrap_or(0);
        while bytes.len() < length {
            more(stream, &mut bytes).await?;
        }
        bytes.truncate(length);
        return Some(Answer { status, head, body: bytes });
    }
}

async fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 8192];
    match stream.read(&mut buffer).await {
        Ok(count) if count > 0 => {
            bytes.extend_from_slice(&buffer[..count]);
            Some(())
        }
        _ => None,
    }
}

/// An answer keeps to its form. Returns it in words.
fn assert_well_formed(answer: &Answer, statuses: &[u16], input: &[u8]) -> String {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(statuses.contains(&answer.status), "{} {text}", answer.status);
    assert!(!text.contains(ADMIN_KEY) && !text.contains(SECRET), "a secret in {text}");
    // Whether it is ready is no problem but an answer.
    let ready = input.windows(7).any(|part| part == b"/_ready");
    if answer.status >= 400 && !ready && !(answer.body.is_empty() && [400, 414, 431].contains(&answer.status)) {
        assert!(answer.head.contains("content-type: application/problem+json"), "{}", answer.head);
        if !answer.body.is_empty() {
            let problem: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(problem["status"], answer.status);
            assert!(problem["title"].is_string(), "{text}");
        }
        assert!(answer.body.len() < 8 << 10, "{} bytes of problem", answer.body.len());
    }
    format!("{} {text}", answer.status)
}

#[test]
fn webhook() {
    let mut site = Site::new();
    // The body comes in pieces, is parsed, and is explained once more where it is wrong: 128 kB are held a few times.
    fuzz(&Door { name: "webhook", runs: 3000, memory: 16 << 20 }, |input| {
        let Some(answer) = site.send(input) else { return "closed".to_owned() };
        let statuses = [200, 202, 204, 400, 401, 403, 404, 405, 408, 411, 412, 413, 414, 415, 422, 431, 501];
        let mut outcome = assert_well_formed(&answer, &statuses, input);
        let things = std::mem::take(&mut *site.fake.things());
        for (delivery, route) in things.deliveries.into_iter().zip(things.routes) {
            assert_round_trip(&delivery);
            if let Some(job) = route.unmatched {
                assert_round_trip(&*job);
            }
            let mut life = Life::new(Default::default(), hash(input));
            life.hear(delivery);
            outcome.push_str(&life.turns(3));
        }
        outcome
    });
}

#[test]
fn admin() {
    let mut site = Site::new();
    let octo = GroupName::new("octo-linux").unwrap();
    for (n, status) in (1..).zip(JobStatus::ALL) {
        let job = samples::every_milestone(samples::job(n, Some(&octo), status, 0));
        site.fake.things().jobs.insert(job.id(), job);
    }
    for (n, state) in (2..).zip(RunnerState::ALL) {
        let runner = samples::runner(&octo, n, state, 0);
        site.fake.things().runners.insert(runner.name.clone(), runner);
    }
    site.fake.things().groups.insert(octo, samples::snapshot(actors::id::Cursor(1)));
    // As for webhooks; bodies of more than 64 kB are not read.
    fuzz(&Door { name: "admin", runs: 2500, memory: 16 << 20 }, |input| match site.send(input) {
        Some(answer) => {
            // 503: nobody runs the group here, so that no command is taken.
            let statuses = [200, 202, 204, 400, 401, 403, 404, 405, 408, 409, 411, 413, 414, 415, 422, 431, 501, 503];
            assert_well_formed(&answer, &statuses, input)
        }
        None => "closed".to_owned(),
    });
}
