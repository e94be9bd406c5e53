//! A simulated runner: takes the just-in-time config, asks for one job, sleeps as long as it runs, and ends.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};

use super::client;

/// Variables that may hold the just-in-time config; the first one that is set counts.
pub const JIT_CONFIG_VARIABLES: [&str; 2] = ["ACTIONS_RUNNER_INPUT_JITCONFIG", "RUNNER_JIT_CONFIG"];

/// How long it goes on trying to reach GitHub.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a question may be held open, and then some.
const HELD_OPEN: Duration = Duration::from_secs(90);
/// How long a farewell may take once it was told to stop.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a simulated runner ended without having done its work.
#[derive(Debug, Error)]
pub enum RunnerError {
    /// No variable holds a just-in-time config.
    #[error("no just-in-time config: set ACTIONS_RUNNER_INPUT_JITCONFIG or RUNNER_JIT_CONFIG")]
    NoConfig,
    /// The just-in-time config is not one of the simulated GitHub's.
    #[error("the just-in-time config cannot be read: {0} is missing or malformed; generate a new one")]
    BadConfig(&'static str),
    /// The registration is gone or its secret is wrong.
    #[error("GitHub refused the runner with status {0}: it is not registered (any more)")]
    Refused(u16),
    /// GitHub did not answer, or not in a way that makes sense.
    #[error("no usable answer from GitHub within {patience} s: {0}", patience = PATIENCE.as_secs())]
    Unreachable(String),
    /// There is no HTTP client.
    #[error("{0}")]
    Client(#[from] client::ClientError),
    /// SIGTERM cannot be listened to.
    #[error("signals cannot be handled: {0}")]
    Signal(std::io::Error),
}

/// Runs one simulated runner until its job is done, it is deregistered, or SIGTERM or SIGINT comes.
///
/// `env` reads an environment variable. A single-threaded Tokio runtime is enough.
///
/// # Errors
/// [`RunnerError`] when it could not do its work. Having been stopped or deregistered while idle is not an error.
pub async fn run(env: impl Fn(&str) -> Option<String>) -> Result<(), RunnerError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunnerError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunnerError::Signal)?;
    let told_to_stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    run_until(env, told_to_stop).await
}

/// [`run`] with another reason to stop than a signal.
///
/// # Errors
/// As [`run`].
pub async fn run_until(
    env: impl Fn(&str) -> Option<String>,
    stop: impl Future<Output = ()>,
) -> Result<(), RunnerError> {
    let config = JIT_CONFIG_VARIABLES.iter().find_map(|name| env(name)).ok_or(RunnerError::NoConfig)?;
    let session = Session::new(&config)?;
    drop(config);
    tokio::pin!(stop);
    let job = tokio::select! {
        job = session.next_job() => job?,
        () = &mut stop => {
            let _ = tokio::time::timeout(FAREWELL, session.ask_once("DELETE", "session", Value::Null)).await;
            return Ok(());
        }
    };
    let Some((job, duration)) = job else { return Ok(()) };
    let stopped = tokio::select! {
        () = tokio::time::sleep(duration) => false,
        cancelled = session.watch(job) => match cancelled? {
            true => false,
            false => return Ok(()),
        },
        () = &mut stop => true,
    };
    let path = format!("jobs/{job}/finish");
    let finish = session.ask("POST", &path, json!({"stopped": stopped}));
    if stopped {
        let _ = tokio::time::timeout(FAREWELL, finish).await;
        return Ok(());
    }
    match finish.await? {
        // 404: it was deregistered while it worked, or an answer was lost.
        (204 | 404, _) => Ok(()),
        (status, _) => Err(RunnerError::Refused(status)),
    }
}

/// The way to the simulated GitHub.
struct Session {
    client: reqwest::Client,
    address: String,
    secret: String,
}

impl Session {
    fn new(config: &str) -> Result<Self, RunnerError> {
        let files = decode(config).ok_or(RunnerError::BadConfig("the outer object"))?;
        let file = |name: &'static str| files[name].as_str().and_then(decode).ok_or(RunnerError::BadConfig(name));
        let (runner, key) = (file(".runner")?, file(".credentials_rsaparams")?);
        let text = |value: &Value, what| value.as_str().map(str::to_owned).ok_or(RunnerError::BadConfig(what));
        let server = text(&runner["ServerUrl"], "ServerUrl")?;
        let id = text(&runner["AgentId"], "AgentId")?;
        Ok(Self {
            client: client::loopback(2)?,
            address: format!("{server}/runner-service/{id}"),
            secret: text(&key["d"], "the private key")?,
        })
    }

    /// Goes online and waits for a job that is its own; none when it was deregistered meanwhile.
    async fn next_job(&self) -> Result<Option<(u64, Duration)>, RunnerError> {
        match self.ask("POST", "session", Value::Null).await? {
            (200, _) => {}
            (status, _) => return Err(RunnerError::Refused(status)),
        }
        loop {
            let job = match self.ask("GET", "message", Value::Null).await? {
                (200, message) => message["job_id"].as_u64().unwrap_or_default(),
                (204, _) => continue,
                (401 | 404, _) => return Ok(None),
                (status, _) => return Err(RunnerError::Refused(status)),
            };
            match self.ask("POST", &format!("jobs/{job}/claim"), Value::Null).await? {
                (200, claimed) => {
                    let duration = Duration::from_millis(claimed["duration_ms"].as_u64().unwrap_or_default());
                    return Ok(Some((job, duration)));
                }
                (409, _) => {}
                (401 | 404, _) => return Ok(None),
                (status, _) => return Err(RunnerError::Refused(status)),
            }
        }
    }

    /// Returns when the job is to stop: true when it was cancelled, false when its runner is not registered any more.
    async fn watch(&self, job: u64) -> Result<bool, RunnerError> {
        loop {
            match self.ask("GET", &format!("jobs/{job}/watch"), Value::Null).await? {
                (200, _) => return Ok(true),
                (204, _) => {}
                (401 | 404, _) => return Ok(false),
                (status, _) => return Err(RunnerError::Refused(status)),
            }
        }
    }

    /// Asks until there is an answer that is not a failure of the server.
    async fn ask(&self, method: &str, path: &str, body: Value) -> Result<(u16, Value), RunnerError> {
        let begun = Instant::now();
        loop {
            let problem = match self.ask_once(method, path, body.clone()).await {
                Ok((status, answer)) if status < 500 => return Ok((status, answer)),
                Ok((status, _)) => format!("status {status}"),
                Err(error) => error.to_string(),
            };
            if begun.elapsed() >= PATIENCE {
                return Err(RunnerError::Unreachable(problem));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn ask_once(&self, method: &str, path: &str, body: Value) -> Result<(u16, Value), reqwest::Error> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap_or_default();
        let request = self.client.request(method, format!("{}/{path}", self.address));
        let request = if body.is_null() { request } else { request.json(&body) };
        let answer = request.bearer_auth(&self.secret).timeout(HELD_OPEN).send().await?;
        let status = answer.status().as_u16();
        Ok((status, serde_json::from_slice(&answer.bytes().await?).unwrap_or_default()))
    }
}

/// JSON in base64.
fn decode(text: &str) -> Option<Value> {
    serde_json::from_slice(&STANDARD.decode(text.trim()).ok()?).ok()
}
