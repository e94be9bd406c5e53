//! From a signed webhook to the backend's create call, through the real front, store and actors, with the `base` backend
//! and a GitHub that answers at once or after a while; planning and starting with 10,000 runners. All in one run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a bench may panic")]

#[path = "../tests/contract/store/samples.rs"]
mod samples;
#[path = "../tests/support/web.rs"]
mod web;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actors::actor::directory::{Command, Directory, Health};
use actors::actor::effect::World;
use actors::actor::front::Front;
use actors::actor::listings::Listings;
use actors::actor::supervisor::{GroupSpec, System, SystemSpec};
use actors::id::*;
use actors::machine::group::Group;
use actors::model::delivery::{Delivery, JobAction, JobEvent};
use actors::model::group::GroupSnapshot;
use actors::model::runner::{Runner, RunnerState};
use actors::model::secret::Secret;
use actors::model::settings::{Arch, BackendLimits, GroupSettings, Os, Scope};
use actors::port::backend::*;
use actors::port::github::*;
use actors::port::store::{Changes, InboxEntry, Loaded};
use actors::port::{Clock, Observation, Observer, Store};
use async_trait::async_trait;
use jiff::Timestamp;
use runner_manager::backend::base::Base;
use runner_manager::clock::SystemClock;
use runner_manager::store::Embedded;
use serde_json::Value;
use tokio::sync::mpsc;
use web::{Request, Server, Wire};

/// A GitHub that answers every call after the same time.
struct Steady(Duration);

#[async_trait]
impl GitHub for Steady {
    async fn ensure_runner_group(
        &self,
        _: &GroupSettings,
        _: Option<RunnerGroupId>,
    ) -> Result<RunnerGroup, GitHubError> {
        Ok(RunnerGroup::in_step(RunnerGroupId(1)))
    }

    async fn delete_runner_group(
        &self,
        _: &GroupSettings,
        _: Option<RunnerGroupId>,
    ) -> Result<RunnerGroupRemoval, GitHubError> {
        Ok(RunnerGroupRemoval::Absent)
    }

    async fn generate_jit_config(&self, _: &JitRequest) -> Result<Registration, GitHubError> {
        if !self.0.is_zero() {
            tokio::time::sleep(self.0).await;
        }
        Ok(Registration { id: RunnerId(rand::random()), jit_config: Secret::new("aml0".repeat(1000)) })
    }

    async fn list_runners(&self, _: &Scope) -> Result<Vec<RemoteRunner>, GitHubError> {
        Ok(vec![])
    }

    async fn find_runner(&self, _: &Scope, _: &RunnerName) -> Result<Option<RemoteRunner>, GitHubError> {
        Ok(None)
    }

    async fn delete_runner(&self, _: &Scope, _: RunnerId) -> Result<Deregistered, GitHubError> {
        Ok(Deregistered::Absent)
    }

    async fn runner_download(&self, _: &Scope, _: Os, _: Arch) -> Result<Download, GitHubError> {
        Ok(Download::default())
    }
}

/// Nobody asks in time.
#[async_trait]
impl Records for Steady {
    async fn job(&self, _: &Asker, _: &RepositoryName, _: JobId) -> Result<Option<JobEvent>, GitHubError> {
        Err(GitHubError::Unknown("not here".to_owned()))
    }

    async fn open_jobs(&self, _: &Asker, _: &RepositoryName, _: usize) -> Result<Vec<JobEvent>, GitHubError> {
        Ok(vec![])
    }

    async fn hook(&self, _: &Asker, _: &str) -> Result<Option<Hook>, GitHubError> {
        Ok(None)
    }

    async fn deliveries(&self, _: &Asker, _: &Hook, _: Timestamp, _: Option<&str>) -> Result<Sent, GitHubError> {
        Ok(Sent { deliveries: vec![], next: None })
    }

    async fn redeliver(&self, _: &Asker, _: &Hook, _: u64) -> Result<(), GitHubError> {
        Ok(())
    }
}

/// The `base` backend, which tells when create was called.
struct Told(Base, mpsc::UnboundedSender<Instant>);

#[async_trait]
impl Backend for Told {
    fn name(&self) -> &'static str {
        "base"
    }
    async fn create(&self, spec: InstanceSpec) -> Result<Instance, BackendError> {
        let _ = self.1.send(Instant::now());
        self.0.create(spec).await
    }
    async fn delete(&self, runner: &RunnerName) -> Result<(), BackendError> {
        self.0.delete(runner).await
    }
    async fn get(&self, runner: &RunnerName) -> Result<Option<Instance>, BackendError> {
        self.0.get(runner).await
    }
    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        self.0.list(owner).await
    }
    async fn update_metadata(&self, runner: &RunnerName, metadata: &Metadata) -> Result<(), BackendError> {
        self.0.update_metadata(runner, metadata).await
    }
    async fn probe(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

/// Keeps what the manager itself measured: from a delivery's receipt to the create call.
#[derive(Default)]
struct Own {
    scale_ups: Mutex<Vec<Duration>>,
    runners: AtomicU32,
}

impl Observer for Own {
    fn observe(&self, observation: &Observation<'_>) {
        match observation {
            Observation::ScaleUp { took, .. } => self.scale_ups.lock().unwrap().push(*took),
            Observation::Group { runners, .. } => self.runners.store(runners.iter().sum(), Ordering::SeqCst),
            _ => {}
        }
    }
}

struct Running {
    system: System,
    directory: Directory,
    server: Server,
    store: Arc<Embedded>,
    own: Arc<Own>,
    creates: mpsc::UnboundedReceiver<Instant>,
    began: Instant,
}

fn settings(max: u32) -> GroupSettings {
    GroupSettings {
        time_to_start: Duration::from_secs(600),
        backends: vec![BackendLimits {
            create_timeout: Duration::from_secs(60),
            delete_timeout: Duration::from_secs(60),
            max_concurrency: 512,
            ..BackendLimits::new("base")
        }],
        ..GroupSettings::new(
            GroupName::new("octo-linux").unwrap(),
            Scope::Organization("octo-org".into()),
            vec!["octo-linux".into(), "x64".into()],
            max,
        )
    }
}

async fn start(data: &std::path::Path, latency: Duration) -> Running {
    let began = Instant::now();
    let own = Arc::new(Own::default());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = Arc::new(Embedded::open(data, own.clone()).unwrap());
    let github = Arc::new(Steady(latency));
    let manager = ManagerName::new("bench").unwrap();
    let world = World {
        github: github.clone(),
        records: github.clone(),
        store: store.clone(),
        clock: clock.clone(),
        observer: own.clone(),
        listings: Arc::new(Listings::new(github, clock.clone())),
        tasks: Default::default(),
        stopping: Default::default(),
        lease: Default::default(),
    };
    let settings = Arc::new(settings(100_000));
    let directory = Directory::new([settings.clone()]);
    let (tell, creates) = mpsc::unbounded_channel();
    let base = Base::new(Owner { manager: manager.clone(), group: settings.name.clone() });
    let spec = SystemSpec {
        manager,
        world,
        directory: directory.clone(),
        groups: vec![GroupSpec { settings, backends: vec![Arc::new(Told(base, tell))], listings: None }],
        services: vec![],
        replicas: None,
    };
    let system = System::start(spec).await.unwrap();
    let front = Front { directory: directory.clone(), store: store.clone(), clock, observer: own.clone() };
    while front.directory.entries().iter().any(|e| e.health != Health::Running) {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    let server = Server::start(front, web::settings(|_| {})).await;
    Running { system, directory, server, store, own, creates, began }
}

impl Running {
    async fn stop(self) {
        self.server.stop().await;
        self.system.stop(Duration::from_secs(5)).await;
        self.store.close().await;
    }

    async fn next_create(&mut self) -> Instant {
        tokio::time::timeout(Duration::from_secs(60), self.creates.recv()).await.unwrap().unwrap()
    }
}

/// A signed delivery of about 10 kB about a new job.
fn webhook(job: u64) -> Vec<u8> {
    let mut payload: Value = serde_json::from_str(include_str!("../tests/fixtures/workflow_job_queued.json")).unwrap();
    payload["workflow_job"]["id"] = job.into();
    payload["workflow_job"]["labels"] = serde_json::json!(["self-hosted", "octo-linux"]);
    payload["repository"]["owner"]["login"] = "octo-org".into();
    for i in 0..70 {
        payload["repository"][format!("resource{i}_url")] =
            format!("https://api.github.com/repos/octo-org/app/resources{i}{{/sha}}").into();
    }
    Request::delivery(&format!("00000000-0000-0000-0000-{job:012}"), payload.to_string()).bytes()
}

fn percentiles(times: &mut [Duration]) -> String {
    times.sort();
    let at = |q: f64| times[((times.len() as f64 * q) as usize).min(times.len() - 1)].as_secs_f64() * 1e3;
    format!("p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms (n = {})", at(0.5), at(0.99), at(1.0), times.len())
}

async fn post(wire: &mut Wire, bytes: &[u8]) {
    wire.write(bytes).await;
    let answer = wire.response().await.unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text());
}

async fn one_job(rounds: u64) {
    let data = tempfile::tempdir().unwrap();
    let mut running = start(data.path(), Duration::ZERO).await;
    let mut wire = running.server.connect().await;
    let (mut seen, mut answered) = (vec![], vec![]);
    for job in 1..=rounds + 50 {
        let bytes = webhook(job);
        let sent = Instant::now();
        post(&mut wire, &bytes).await;
        let answer = sent.elapsed();
        let created = running.next_create().await;
        // The first ones warm up.
        if job > 50 {
            seen.push(created.duration_since(sent));
            answered.push(answer);
        }
    }
    let mut own = running.own.scale_ups.lock().unwrap()[50..].to_vec();
    println!("one job: webhook sent to 202 (durable)      {}", percentiles(&mut answered));
    println!("one job: webhook sent to create called      {}", percentiles(&mut seen));
    println!("one job: webhook received to create called  {}", percentiles(&mut own));
    running.stop().await;
}

async fn burst(jobs: u64, latency: Duration) {
    let data = tempfile::tempdir().unwrap();
    let mut running = start(data.path(), latency).await;
    let webhooks: Vec<Vec<u8>> = (1..=jobs).map(webhook).collect();
    let shares: Vec<Vec<Vec<u8>>> = webhooks.chunks(webhooks.len().div_ceil(64)).map(<[_]>::to_vec).collect();
    let mut wires = vec![];
    for _ in 0..shares.len() {
        wires.push(running.server.connect().await);
    }
    let sent = Instant::now();
    for (mut wire, share) in wires.into_iter().zip(shares) {
        tokio::spawn(async move {
            for bytes in share {
                post(&mut wire, &bytes).await;
            }
        });
    }
    let mut seen = vec![];
    for _ in 0..jobs {
        seen.push(running.next_create().await.duration_since(sent));
    }
    let all = seen.iter().max().unwrap().as_secs_f64() * 1e3;
    let mut own = running.own.scale_ups.lock().unwrap().clone();
    println!("burst of {jobs}, {:>3} ms per GitHub call: all creates called after {all:.0} ms", latency.as_millis());
    println!("  each, webhook received to create called   {}", percentiles(&mut own));
    running.stop().await;
}

fn runners(n: u64, state: RunnerState) -> Vec<Runner> {
    let group = GroupName::new("octo-linux").unwrap();
    let now = jiff::Timestamp::now();
    (0..n)
        .map(|i| {
            let mut runner = samples::runner(&group, i, state, 0);
            (runner.since, runner.created_at, runner.online_at) = (now, now, Some(now));
            (runner.retry_at, runner.error, runner.call_pending) = (None, None, false);
            (runner.job, runner.for_job) = (Some(JobId(i)), Some(JobId(i)));
            runner.instance = Some(InstanceId::new(format!("i-{i}")).unwrap());
            runner
        })
        .collect()
}

fn planning() {
    let loaded = Loaded {
        snapshot: Some(GroupSnapshot::default()),
        runners: runners(10_000, RunnerState::Busy),
        ..Loaded::default()
    };
    let manager = ManagerName::new("bench").unwrap();
    let mut group = Group::new(Arc::new(settings(100_000)), &manager, loaded, 1, jiff::Timestamp::now());
    let delivery = |job: u64| -> Delivery {
        let mut delivery = samples::delivery(&format!("d-{job}"), 1_000_000 + job, JobAction::Queued, 0);
        delivery.received_at = jiff::Timestamp::now();
        delivery
    };
    let (mut times, mut idle) = (vec![], vec![]);
    for job in 1..=2000 {
        let entry = InboxEntry { cursor: Cursor(job), delivery: delivery(job), assigned: true, known: None };
        let now = jiff::Timestamp::now();
        let began = Instant::now();
        let effects = group.delivered(entry, now);
        times.push(began.elapsed());
        assert!(!effects.is_empty());
        let began = Instant::now();
        group.tick(now);
        idle.push(began.elapsed());
        group.take_changes();
    }
    println!("planning with 10,000 runners: one delivery   {}", percentiles(&mut times));
    println!("planning with 10,000 runners: nothing to do  {}", percentiles(&mut idle));
}

fn resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}

async fn many_runners() {
    let data = tempfile::tempdir().unwrap();
    let own = Arc::new(Own::default());
    let store = Embedded::open(data.path(), own).unwrap();
    let group = GroupName::new("octo-linux").unwrap();
    let token = store.acquire(&group).await.unwrap();
    for chunk in runners(10_000, RunnerState::Busy).chunks(500) {
        let changes = Changes {
            snapshot: Some(GroupSnapshot::default()),
            runners: chunk.iter().cloned().map(Arc::new).collect(),
            ..Changes::default()
        };
        store.save(&group, token, changes).await.unwrap();
    }
    store.close().await;
    let before = resident_mb();
    let running = start(data.path(), Duration::ZERO).await;
    // Answered only once every runner has its actor.
    running.directory.command("octo-linux", Command::Healthcheck).await.unwrap();
    assert_eq!(running.own.runners.load(Ordering::SeqCst), 10_000);
    println!(
        "start with 10,000 runners in the store: serving after {:.0} ms",
        running.began.elapsed().as_secs_f64() * 1e3
    );
    println!("  memory of this process: {before:.0} MB before, {:.0} MB after", resident_mb());
    running.stop().await;
}

fn main() {
    // `cargo test` runs benches once, to see that they work.
    let short = !std::env::args().any(|arg| arg == "--bench");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(many_runners());
    planning();
    runtime.block_on(async {
        one_job(if short { 20 } else { 1000 }).await;
        burst(if short { 50 } else { 500 }, Duration::ZERO).await;
        burst(if short { 50 } else { 500 }, Duration::from_millis(100)).await;
    });
}
