//! Several replicas of the real binary that share one Redis, one data directory and one simulated GitHub.
#![allow(dead_code, reason = "every test file uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use runner_manager::demo::github::{JobId, JobRequest, JobStatus, Settings, SimulatedGitHub};
use runner_manager::demo::processes::count_marked;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::balancer::Balancer;
use crate::service::{KEY, PATIENCE, PROGRAM, Peak, free_port, kill_marked, watch_marked};
use crate::webhook::Webhook;

/// A deployment.
pub struct Fleet {
    pub github: SimulatedGitHub,
    pub dir: TempDir,
    pub name: String,
    pub balancer: Balancer,
    pub client: reqwest::Client,
    redis_url: String,
    token: String,
    secret: String,
    replicas: BTreeMap<u16, Child>,
}

impl Fleet {
    pub async fn new(redis_url: &str) -> Self {
        let settings = Settings { busy_lag: Duration::from_secs(1), ..Settings::default() };
        let (token, secret) = (settings.token.expose().to_owned(), settings.webhook_secret.expose().to_owned());
        let github = SimulatedGitHub::start(settings).await.unwrap();
        let balancer = Balancer::start().await;
        github.set_webhook_url(&format!("http://{}/webhook", balancer.address));
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Self {
            github,
            dir: tempfile::tempdir().unwrap(),
            name: format!("fleet-{}-{}", std::process::id(), balancer.address.port()),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            balancer,
            redis_url: redis_url.to_owned(),
            token,
            secret,
            replicas: BTreeMap::new(),
        }
    }

    /// A configuration of `groups` groups `g0`, `g1`, … of simulated runners, each with its name as its label.
    pub fn config(&self, groups: usize, max: u32, change: impl FnOnce(&mut Value)) -> Value {
        let groups: Vec<Value> = (0..groups)
            .map(|n| {
                json!({
                    "name": format!("g{n}"),
                    "organization": "octo-org",
                    "labels": [format!("g{n}")],
                    "max": max,
                    "time_to_start": "30s",
                    "backend": {
                        "name": "process",
                        "instance_config": { "command": [PROGRAM, "demo-runner"], "stop_grace": "1s" },
                    },
                })
            })
            .collect();
        let mut config = json!({
            "name": self.name,
            "redis_url": self.redis_url,
            "data_dir": self.dir.path().join("data"),
            "github_base_url": self.github.url(),
            "github_token": self.token,
            "github_webhook_secret": self.secret,
            "api_key": KEY,
            "healthcheck_interval": "5s",
            "idle_timeout": "3s",
            "shutdown_grace": "5s",
            "runner_groups": groups,
        });
        change(&mut config);
        config
    }

    /// Starts one more replica and waits until it is ready; returns its port.
    pub async fn start(&mut self, config: &Value) -> u16 {
        let port = self.launch(config);
        self.until("it is ready", async |fleet| fleet.status(port, "/_ready").await == Some(200)).await;
        port
    }

    /// Starts one more replica; returns its port.
    pub fn launch(&mut self, config: &Value) -> u16 {
        let port = free_port();
        let mut config = config.clone();
        config["listen"] = format!("127.0.0.1:{port}").into();
        let path = self.dir.path().join(format!("config-{port}.yaml"));
        fs::write(&path, config.to_string()).unwrap();
        let log = fs::File::create(self.dir.path().join(format!("log-{port}"))).unwrap();
        let mut command = Command::new(PROGRAM);
        let child = command.arg("serve").arg("--config").arg(&path).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        self.replicas.insert(port, child);
        self.balancer.add(port);
        port
    }

    pub fn signal(&self, port: u16, signal: Signal) {
        let pid = Pid::from_child(&self.replicas[&port]);
        kill_process(pid, signal).unwrap();
    }

    /// Takes it out of the balancer, signals it and waits for its end.
    pub fn end(&mut self, port: u16, signal: Signal) -> ExitStatus {
        self.signal(port, signal);
        self.balancer.remove(port);
        self.replicas.remove(&port).unwrap().wait().unwrap()
    }

    pub fn alive(&mut self, port: u16) -> bool {
        self.replicas.get_mut(&port).is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    pub fn pid(&self, port: u16) -> u32 {
        self.replicas[&port].id()
    }

    pub fn log(&self, port: u16) -> String {
        fs::read_to_string(self.dir.path().join(format!("log-{port}"))).unwrap_or_default()
    }

    fn logs(&self) -> String {
        self.replicas.keys().map(|port| format!("== {port}\n{}", self.log(*port))).collect()
    }

    pub fn queue(&self, group: usize, duration: Duration) -> JobId {
        self.github.queue_job(JobRequest::new(["self-hosted".to_owned(), format!("g{group}")], duration))
    }

    /// Sends the `queued` of a job of group `g0` as GitHub does; returns the status of the answer.
    pub async fn webhook(&self, port: u16, delivery: &str, job: u64) -> Result<u16, reqwest::Error> {
        let webhook = Webhook { delivery: delivery.to_owned(), ..Webhook::queued(&self.secret, job, "g0") };
        Ok(webhook.request(&self.client, port).send().await?.status().as_u16())
    }

    pub fn done(&self) -> usize {
        self.github.count_jobs(JobStatus::Completed)
    }

    pub async fn status(&self, port: u16, path: &str) -> Option<u16> {
        let call = self.client.get(format!("http://127.0.0.1:{port}{path}")).timeout(Duration::from_secs(5));
        Some(call.send().await.ok()?.status().as_u16())
    }

    /// The whole answer of an admin call, or why there is none.
    pub async fn try_api(&self, port: u16, path: &str) -> Result<Value, reqwest::Error> {
        let url = format!("http://127.0.0.1:{port}/api/v1{path}");
        self.client.get(url).bearer_auth(KEY).send().await?.error_for_status()?.json().await
    }

    pub async fn api(&self, port: u16, path: &str) -> Value {
        self.try_api(port, path).await.unwrap()
    }

    pub async fn message(&self, port: u16, group: &str, kind: &str) -> (u16, Value) {
        let url = format!("http://127.0.0.1:{port}/api/v1/groups/{group}/messages");
        let answer = self.client.post(url).bearer_auth(KEY).json(&json!({ "type": kind })).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// One value of a replica's metrics; none when it is not shown.
    pub async fn metric(&self, port: u16, name: &str) -> Option<f64> {
        let url = format!("http://127.0.0.1:{port}/metrics");
        let text = self.client.get(url).send().await.ok()?.text().await.ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// How many groups a replica owns.
    pub async fn owned(&self, port: u16) -> usize {
        self.metric(port, "runner_manager_groups_owned").await.map_or(0, |owned| owned as usize)
    }

    pub fn processes(&self) -> usize {
        count_marked(&self.mark())
    }

    fn mark(&self) -> String {
        format!("RUNNER_MANAGER_NAME={}", self.name)
    }

    /// Waits until something holds, and shows the logs when it never does.
    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self).await {
            assert!(Instant::now() < deadline, "never happened: {what}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until no trace is left at GitHub or on this host.
    pub async fn until_no_trace(&self) {
        self.until("no trace is left", async |fleet| fleet.github.registered() == 0 && fleet.processes() == 0).await;
    }

    /// Counts processes of all groups all the time, from outside.
    pub fn watch(&self) -> Peak {
        watch_marked(self.mark())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.replicas.values_mut() {
            // A stopped one takes this signal as well.
            let _ = child.kill();
            let _ = child.wait();
        }
        kill_marked(&self.mark());
    }
}
