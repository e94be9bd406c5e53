//! The guided run: a simulated GitHub, the real service, real processes, and an account of what happens.

pub mod account;
pub mod arrivals;
mod client;
pub mod github;
pub mod processes;
pub mod runner;

use std::error::Error as StdError;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use actors::model::secret::Secret;
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};

use account::{Account, Summary};
use arrivals::Arrivals;
use github::{Fault, HookFault, JobRequest, Operation, Settings, SimulatedGitHub, StartError, Times};

/// How often runners are counted.
const COUNT_EVERY: Duration = Duration::from_millis(50);
/// How long runners that are not needed any more may take to go, before they count as left behind.
const SETTLE: Duration = Duration::from_secs(20);
/// How long `busy` lags: less than at the real GitHub, and longer than many of the jobs.
const BUSY_LAG: Duration = Duration::from_secs(1);
/// Labels of the demo's jobs; its runner group must have them all.
const LABELS: [&str; 3] = ["self-hosted", "linux", "demo"];

/// What the demo is to show.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// How many jobs come. Default 40.
    pub jobs: u32,
    /// How many come in a second, in the mean. Default 4.
    pub rate: f64,
    /// How many runners may exist at once. Default 10.
    pub max: u32,
    /// What decides when jobs come and how long they run. Default 1.
    pub seed: u64,
    /// Whether it ends once all jobs are done; otherwise it goes on until Ctrl-C. Default false.
    pub exit: bool,
    /// Whether GitHub misbehaves: webhooks get lost, come late and twice, answers get lost, calls fail. Default false.
    pub faults: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { jobs: 40, rate: 4.0, max: 10, seed: 1, exit: false, faults: false }
    }
}

/// What the service needs to know to serve the demo's jobs.
#[derive(Debug)]
pub struct ServiceRequest {
    /// For `github_base_url`.
    pub github_url: String,
    /// For `github_token`.
    pub token: Secret,
    /// For `github_webhook_secret`.
    pub webhook_secret: Secret,
    /// The organization of the only runner group.
    pub organization: String,
    /// Labels of the runner group, without `self-hosted`.
    pub labels: Vec<String>,
    /// `max` of the runner group.
    pub max: u32,
}

/// A future that ends when the service has stopped.
pub type Stopping = Pin<Box<dyn Future<Output = ()>>>;

/// The service, once it serves.
pub struct RunningService {
    /// Where it takes webhooks: `http://127.0.0.1:<port>/webhook`.
    pub webhook_url: String,
    /// Where people look: `http://127.0.0.1:<port>/`.
    pub dashboard_url: String,
    /// Counts the runner processes that are alive, by looking at the system and not by asking the service.
    pub count_processes: Box<dyn Fn() -> usize>,
    /// Stops the service. What it leaves running is counted afterwards.
    pub stop: Box<dyn FnOnce() -> Stopping>,
}

/// Why there was no demo.
#[derive(Debug, Error)]
pub enum DemoError {
    /// No simulated GitHub.
    #[error(transparent)]
    GitHub(#[from] StartError),
    /// No service.
    #[error("the service could not be started: {0}")]
    Service(Box<dyn StdError + Send + Sync>),
    /// Nobody to tell.
    #[error("what happens could not be written: {0}")]
    Write(#[from] io::Error),
}

/// Lets a good part of `jobs` meet something that goes wrong, the first ones first.
fn misbehave(github: &SimulatedGitHub, jobs: u32) {
    let (some, few) = (Times::Next(jobs.div_ceil(8)), Times::Next(jobs.div_ceil(20)));
    for fault in [HookFault::Drop, HookFault::Duplicate, HookFault::Late(Duration::from_secs(1))] {
        github.fail_webhooks(None, fault, some);
    }
    for (operation, fault) in [
        (Operation::GenerateJitConfig, Fault::LoseAnswer),
        (Operation::GenerateJitConfig, Fault::Status(502)),
        (Operation::DeleteRunner, Fault::LoseAnswer),
        (Operation::DeleteRunner, Fault::Status(500)),
        (Operation::ListRunners, Fault::Gone(1)),
        (Operation::ListRunners, Fault::DropConnection),
    ] {
        github.fail(operation, fault, few);
    }
}

/// Runs the demo and writes what happens, with a bar below it when `live`. `start_service` starts the real service.
///
/// # Errors
/// [`DemoError`] when it could not start, or could not write. That jobs failed is no error: see [`Summary::ok`].
pub async fn run<E>(
    options: Options,
    mut out: impl Write,
    live: bool,
    start_service: impl AsyncFnOnce(ServiceRequest) -> Result<RunningService, E>,
) -> Result<Summary, DemoError>
where
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    let settings = Settings { busy_lag: BUSY_LAG, ..Settings::default() };
    let request = ServiceRequest {
        github_url: String::new(),
        token: settings.token.duplicate(),
        webhook_secret: settings.webhook_secret.duplicate(),
        organization: settings.organization.clone(),
        labels: LABELS[1..].iter().map(|&label| label.to_owned()).collect(),
        max: options.max,
    };
    let github = SimulatedGitHub::start(settings).await?;
    let request = ServiceRequest { github_url: github.url().to_owned(), ..request };
    let service = start_service(request).await.map_err(|error| DemoError::Service(error.into()))?;
    github.set_webhook_url(&service.webhook_url);
    if options.faults {
        misbehave(&github, options.jobs);
    }

    let mut account = Account::new(&mut out, live, options.jobs, options.max);
    account.line(&format!("simulated GitHub  {}", github.url()))?;
    account.line(&format!("service           {}", service.dashboard_url))?;
    let watched = watch(&options, &github, &service, &mut account).await;
    let interrupted = *watched.as_ref().unwrap_or(&true);
    account.count(github.peak_registered(), 0);

    let leaked_registrations = github.registered();
    let leaked_processes = (service.count_processes)();
    (service.stop)().await;
    let summary = account.close((leaked_registrations, leaked_processes), github.hook_counts(), interrupted);
    let summary = Summary { faults: options.faults, ..summary };
    github.stop().await;
    watched?;
    writeln!(out, "{summary}")?;
    Ok(summary)
}

/// Waits for the first of several signals.
async fn any(signals: &mut [Signal]) {
    std::future::poll_fn(|context| {
        let caught = signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
        if caught { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Lets the jobs come and follows them; returns whether Ctrl-C came before all were done.
async fn watch(
    options: &Options,
    github: &SimulatedGitHub,
    service: &RunningService,
    account: &mut Account<impl Write>,
) -> io::Result<bool> {
    let mut happenings = github.subscribe();
    let mut arrivals = Arrivals::new(options.jobs, options.rate, options.seed).zip(1u32..).peekable();
    let mut counts = tokio::time::interval(COUNT_EVERY);
    let begun = Instant::now();
    let mut done_since: Option<Instant> = None;
    let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
        .into_iter()
        .map(signal)
        .collect::<io::Result<Vec<_>>>()?;
    loop {
        let next = arrivals.peek().map(|(arrival, _)| begun + arrival.at);
        tokio::select! {
            biased;
            () = any(&mut signals) => {
                return Ok(account.done() < options.jobs);
            }
            Some(happening) = happenings.recv() => account.note(&happening)?,
            () = tokio::time::sleep_until(next.unwrap_or(begun).into()), if next.is_some() => {
                if let Some((arrival, number)) = arrivals.next() {
                    let name = format!("build {number}");
                    github.queue_job(JobRequest { name, ..JobRequest::new(LABELS, arrival.duration) });
                }
            }
            _ = counts.tick() => {
                let (registered, processes) = (github.registered(), (service.count_processes)());
                account.count(registered, processes);
                if account.done() < options.jobs {
                    continue;
                }
                if done_since.is_none() {
                    let ends = if options.exit { "waiting for the last runners to go" } else { "Ctrl-C ends the demo" };
                    account.line(&format!("all jobs are done: {ends}"))?;
                }
                let since = *done_since.get_or_insert_with(Instant::now);
                let settled = registered + processes == 0 && github.hook_counts().pending == 0;
                if options.exit && (settled || since.elapsed() >= SETTLE) {
                    return Ok(false);
                }
            }
        }
    }
}
