//! The real binary as a process, with a simulated GitHub beside it.
#![allow(dead_code, reason = "every test file uses its part")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use runner_manager::demo::github::{JobId, JobRequest, JobStatus, Settings, SimulatedGitHub};
use runner_manager::demo::processes::count_marked;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest time anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_runner-manager");
pub const KEY: &str = "key-of-a-test-0123456789abcdef";

/// A simulated GitHub, a directory, and a port that belong together.
pub struct Site {
    pub github: SimulatedGitHub,
    pub dir: TempDir,
    pub name: String,
    pub port: u16,
    pub client: reqwest::Client,
    /// How many files the service may have open; none: as many as the tests.
    pub files: Option<u32>,
    token: String,
    /// Signs webhooks.
    pub secret: String,
    child: Option<Child>,
}

impl Site {
    pub async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    /// The same with another GitHub; `busy` lags here too.
    pub async fn with(settings: Settings) -> Self {
        let settings = Settings { busy_lag: Duration::from_secs(1), ..settings };
        let (token, secret) = (settings.token.expose().to_owned(), settings.webhook_secret.expose().to_owned());
        let github = SimulatedGitHub::start(settings).await.unwrap();
        let port = free_port();
        github.set_webhook_url(&format!("http://127.0.0.1:{port}/webhook"));
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Self {
            github,
            dir: tempfile::tempdir().unwrap(),
            name: format!("test-{}-{port}", std::process::id()),
            port,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            files: None,
            token,
            secret,
            child: None,
        }
    }

    /// A configuration of one group of simulated runners; `change` may alter it.
    pub fn config(&self, max: u32, change: impl FnOnce(&mut Value)) -> PathBuf {
        let mut config = json!({
            "name": self.name,
            "listen": format!("127.0.0.1:{}", self.port),
            "data_dir": self.dir.path().join("data"),
            "github_base_url": self.github.url(),
            "github_token": self.token,
            "github_webhook_secret": self.secret,
            "api_key": KEY,
            "healthcheck_interval": "2s",
            "idle_timeout": "3s",
            "shutdown_grace": "5s",
            "runner_groups": [{
                "name": "octo-test",
                "organization": "octo-org",
                "labels": ["test"],
                "max": max,
                "time_to_start": "20s",
                "backend": {
                    "name": "process",
                    "instance_config": { "command": [PROGRAM, "demo-runner"], "stop_grace": "1s" },
                },
            }],
        });
        change(&mut config);
        let path = self.dir.path().join("config.yaml");
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    pub fn command(&self, config: &Path) -> Command {
        let mut command = match self.files {
            None => Command::new(PROGRAM),
            Some(files) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!(r#"ulimit -n {files}; exec "$0" "$@""#), PROGRAM]);
                shell
            }
        };
        command.arg("serve").arg("--config").arg(config).stdin(Stdio::null());
        command
    }

    /// Starts the service and waits until it is ready.
    pub async fn start(&mut self, config: &Path) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let child = self.command(config).stderr(log).spawn().unwrap();
        self.child = Some(child);
        self.until("it is ready", async |site| site.status("/_ready").await == Some(200)).await;
    }

    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends a signal and waits for the end.
    pub fn end(&mut self, signal: rustix::process::Signal) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        child.wait().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn queue(&self, jobs: u32, duration: Duration) -> Vec<JobId> {
        (0..jobs).map(|_| self.github.queue_job(JobRequest::new(["self-hosted", "test"], duration))).collect()
    }

    /// Registers a runner that is not ours.
    pub async fn register(&self, name: &str) {
        let url = format!("{}/orgs/octo-org/actions/runners/generate-jitconfig", self.github.url());
        let body = json!({ "name": name, "runner_group_id": 1, "labels": ["self-hosted", "theirs"] });
        let call = self.client.post(url).bearer_auth(&self.token).header("user-agent", "tests").json(&body);
        assert_eq!(call.send().await.unwrap().status(), 201);
    }

    pub fn done(&self) -> usize {
        self.github.count_jobs(JobStatus::Completed)
    }

    pub async fn status(&self, path: &str) -> Option<u16> {
        let answer = self.client.get(format!("http://127.0.0.1:{}{path}", self.port)).send().await.ok()?;
        Some(answer.status().as_u16())
    }

    pub async fn text(&self, path: &str) -> String {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        self.client.get(url).bearer_auth(KEY).send().await.unwrap().text().await.unwrap()
    }

    pub async fn api(&self, path: &str) -> Value {
        serde_json::from_str(&self.text(&format!("/api/v1{path}")).await).unwrap()
    }

    pub async fn message(&self, kind: &str) -> Value {
        self.message_to("octo-test", kind).await
    }

    pub async fn message_to(&self, group: &str, kind: &str) -> Value {
        let url = format!("http://127.0.0.1:{}/api/v1/groups/{group}/messages", self.port);
        let call = self.client.post(url).bearer_auth(KEY).json(&json!({ "type": kind }));
        call.send().await.unwrap().json().await.unwrap()
    }

    pub fn processes(&self) -> usize {
        count_marked(&format!("RUNNER_MANAGER_NAME={}", self.name))
    }

    /// Waits until something holds, and shows the log when it never does.
    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self).await {
            assert!(Instant::now() < deadline, "never happened: {what}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until no trace is left at GitHub or on this host.
    pub async fn until_no_trace(&self) {
        self.until("no trace is left", async |site| site.github.registered() == 0 && site.processes() == 0).await;
    }

    /// Counts processes all the time, from outside, until it is asked for the most.
    pub fn watch(&self) -> Peak {
        watch_marked(format!("RUNNER_MANAGER_NAME={}", self.name))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        kill_marked(&format!("RUNNER_MANAGER_NAME={}", self.name));
    }
}

/// Ends every process with this variable: runners outlive the manager; those of a failed test must not outlive the test.
pub fn kill_marked(mark: &str) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let ours = fs::read(entry.path().join("environ"))
            .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()));
        if let (true, Some(pid)) = (ours, rustix::process::Pid::from_raw(pid)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Counts processes with this variable all the time, until it is asked for the most.
pub fn watch_marked(mark: String) -> Peak {
    let (most, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (seen, ends) = (Arc::clone(&most), Arc::clone(&stop));
    let thread = std::thread::spawn(move || {
        while !ends.load(Ordering::SeqCst) {
            seen.fetch_max(count_marked(&mark), Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    Peak { most, stop, thread: Some(thread) }
}

/// The most processes seen at once.
pub struct Peak {
    most: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peak {
    pub fn most(mut self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        self.most.load(Ordering::SeqCst)
    }
}

impl Drop for Peak {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
