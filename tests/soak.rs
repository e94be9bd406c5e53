//! A long run of the real binary with mixed load and random faults: nothing grows, every job is done, nothing is left.
//!
//! `scripts/soak` runs it. The manager is killed in the first sixth of the time, warms up until half of it (in half an
//! hour that is longer than it keeps anything by time), and is measured in the second half, with all other faults going
//! on.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/outside.rs"]
mod outside;
#[path = "support/service.rs"]
mod service;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use outside::{files, resident, threads};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use runner_manager::demo::github::{Conclusion, Fault, HookFault, JobId, JobRequest, JobStatus, Operation, Times};
use serde_json::json;
use service::{PROGRAM, Site};

/// Most runners at once.
const MAX: u32 = 4;
/// How often the manager is killed.
const KILLS: u32 = 4;
/// Between two steps of the load, and two measurements.
const STEP: Duration = Duration::from_millis(500);
/// Rows of the table.
const ROWS: usize = 10;
/// What memory may grow by between the first and the last third of the measured time, kB: the noise of the allocator and
/// the page caches of SQLite. In three minutes some 150 webhooks come in between, in thirty some 1,700: two or three
/// kilobytes kept of each are seen in the long run, what is kept of bodies or listings in the short one.
const MEMORY_NOISE: u64 = 4 << 10;
/// What the least number of open files, threads and tasks may differ by: connections that are kept for the next request,
/// which are more after a burst. In three minutes some 60 jobs come in between.
const COUNT_NOISE: u64 = 16;

/// What was seen at one moment.
#[derive(Clone, Copy)]
struct Sample {
    at: Duration,
    done: usize,
    memory: u64,
    files: u64,
    threads: u64,
    tasks: u64,
}

/// The load, the faults and what came of them.
struct Soak {
    site: Site,
    chance: StdRng,
    /// Jobs for our runners, and whether they are to be cancelled.
    ours: BTreeMap<JobId, bool>,
    /// What is to be cancelled, and when.
    to_cancel: Vec<(Instant, JobId)>,
    faults: BTreeMap<&'static str, u32>,
}

impl Soak {
    fn some(&mut self, odds: f64) -> bool {
        self.chance.random_bool(odds)
    }

    /// Milliseconds within a range.
    fn ms(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.chance.random_range(range))
    }

    fn queue(&mut self, label: &str) -> JobId {
        let length = self.ms(100..1500);
        let job = self.site.github.queue_job(JobRequest::new(["self-hosted", label], length));
        if label == "test" {
            self.ours.insert(job, false);
        }
        job
    }

    /// Half a second of load: a trickle, now and then a burst, a job that is cancelled, a job for others.
    fn load(&mut self) {
        let burst = if self.some(0.02) { self.chance.random_range(4..10) } else { 0 };
        let trickle = u32::from(self.some(0.3));
        for _ in 0..burst + trickle {
            self.queue("test");
        }
        if self.some(0.04) {
            let (job, when) = (self.queue("test"), Instant::now() + self.ms(0..2000));
            self.ours.insert(job, true);
            self.to_cancel.push((when, job));
        }
        if self.some(0.04) {
            let (job, when) = (self.queue("theirs"), Instant::now() + self.ms(0..5000));
            self.to_cancel.push((when, job));
        }
        let now = Instant::now();
        let github = &self.site.github;
        self.to_cancel.retain(|(when, job)| {
            let due = *when <= now;
            if due {
                github.cancel(*job);
            }
            !due
        });
    }

    /// Half a second of faults. Each ends what is left of the one before it: else they would gather while the group waits
    /// before it tries again, each try would meet one, and the group would only wait.
    fn fault(&mut self) {
        if !self.some(0.15) {
            return;
        }
        self.heal();
        let late = HookFault::Late(self.ms(500..6000));
        let (short, once) = (self.ms(100..800), Times::Next(1));
        let calls =
            [Operation::GenerateJitConfig, Operation::DeleteRunner, Operation::ListRunners, Operation::ListGroups];
        let call = calls[self.chance.random_range(0..calls.len())];
        let github = &self.site.github;
        let what = match self.chance.random_range(0..10) {
            0 => (github.fail_webhooks(None, HookFault::Duplicate, once), "webhook twice").1,
            1 => (github.fail_webhooks(None, late, once), "webhook late").1,
            2 => (github.fail_webhooks(None, HookFault::Drop, once), "webhook dropped").1,
            3 => (github.fail(call, Fault::Status(502), once), "GitHub answers 502").1,
            4 => (github.fail(call, Fault::RateLimited(Duration::from_secs(1)), once), "GitHub answers 429").1,
            5 => (github.fail(call, Fault::Delay(short), once), "GitHub is slow").1,
            6 => (github.fail(call, Fault::DropConnection, once), "GitHub drops the connection").1,
            7 => (github.fail(call, Fault::LoseAnswer, once), "GitHub's answer is lost").1,
            _ => (fs::write(self.site.dir.path().join("die"), "").unwrap(), "runner dies at boot").1,
        };
        *self.faults.entry(what).or_default() += 1;
    }

    fn heal(&self) {
        self.site.github.clear_faults();
        let _ = fs::remove_file(self.site.dir.path().join("die"));
    }

    async fn sample(&self, began: Instant) -> Sample {
        let pid = self.site.pid();
        let metrics = self.site.text("/metrics").await;
        let tasks = metrics.lines().find_map(|line| line.strip_prefix("runner_manager_tasks ")).unwrap();
        // A count takes a while: who ends and who begins meanwhile, or a shell's child, may be in one, not in two.
        let processes = self.site.processes().min(self.site.processes());
        assert!(processes <= MAX as usize, "{processes} processes at once");
        Sample {
            at: began.elapsed(),
            done: self.site.done(),
            memory: resident(pid),
            files: files(pid) as u64,
            threads: threads(pid),
            tasks: tasks.parse().unwrap(),
        }
    }

    /// Waits until every job is over, at GitHub and here, and nothing is left.
    async fn settle(&mut self) {
        self.heal();
        for (_, job) in self.to_cancel.drain(..) {
            self.site.github.cancel(job);
        }
        let ours = &self.ours;
        let over =
            |site: &Site, job: &JobId| site.github.job(*job).is_some_and(|job| job.status == JobStatus::Completed);
        self.site.until("every job is over", async |site| ours.keys().all(|job| over(site, job))).await;
        for (job, cancelled) in ours {
            let conclusion = self.site.github.job(*job).unwrap().conclusion;
            assert!(*cancelled || conclusion == Some(Conclusion::Success), "{job}: {conclusion:?}");
            let path = format!("/jobs/{job}");
            self.site.until("it is final here", async |site| site.api(&path).await["status"] == "completed").await;
        }
        assert!(self.site.github.killed_busy().is_empty(), "{:?}", self.site.github.killed_busy());
        self.site.until_no_trace().await;
        self.site
            .until("no runner is remembered as alive", async |site| {
                site.api("/runners?limit=1000").await.as_array().unwrap().iter().all(|runner| runner["state"] == "gone")
            })
            .await;
    }
}

/// The least of a value: what is in use comes and goes, what leaks stays.
fn least(samples: &[Sample], value: impl Fn(&Sample) -> u64) -> u64 {
    samples.iter().map(value).min().unwrap()
}

fn print(samples: &[Sample]) {
    println!("| time | jobs done | memory, kB | files | threads | tasks |\n|---|---|---|---|---|---|");
    // The least of each part, for the same reason.
    for part in samples.chunks(samples.len().div_ceil(ROWS)) {
        let Sample { at, done, .. } = part[part.len() - 1];
        let [memory, files, threads, tasks] =
            [least(part, |s| s.memory), least(part, |s| s.files), least(part, |s| s.threads), least(part, |s| s.tasks)];
        println!("| {} s | {done} | {memory} | {files} | {threads} | {tasks} |", at.as_secs());
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_grows_and_nothing_is_left_after_a_long_run_with_faults() {
    let seed = number("SOAK_SEED").unwrap_or_else(|| rand::random_range(0..1_000_000_000));
    let whole = Duration::from_secs(number("SOAK_SECONDS").unwrap_or(180));
    println!("REPRODUCE: SOAK_SECONDS={} SOAK_SEED={seed} cargo test --test soak", whole.as_secs());
    let mut site = Site::new().await;
    let dir = site.dir.path().display().to_string();
    let config = site.config(MAX, |config| {
        config["reconcile_interval"] = json!("3s");
        config["runner_groups"][0]["backend"]["instance_config"]["command"] =
            json!(["sh", "-c", format!("! rm {dir}/die 2>/dev/null && exec {PROGRAM} demo-runner")]);
    });
    site.start(&config).await;
    let (chance, began) = (StdRng::seed_from_u64(seed), Instant::now());
    let mut soak = Soak { site, chance, ours: BTreeMap::new(), to_cancel: vec![], faults: BTreeMap::new() };

    let (mut kills, mut samples, mut steps) = (0, vec![], tokio::time::interval(STEP));
    while began.elapsed() < whole {
        steps.tick().await;
        soak.load();
        soak.fault();
        if kills < KILLS && began.elapsed() > whole / 6 * kills / KILLS {
            kills += 1;
            soak.site.kill();
            soak.site.start(&config).await;
        } else if began.elapsed() > whole / 2 {
            samples.push(soak.sample(began).await);
        }
    }
    soak.settle().await;
    let rest = soak.sample(began).await;
    println!("{} jobs, {KILLS} kills of the manager, {:?}", soak.ours.len(), soak.faults);
    print(&samples);
    println!("at rest: {} kB, {} files, {} threads, {} tasks", rest.memory, rest.files, rest.threads, rest.tasks);

    let third = samples.len() / 3;
    let (first, last) = (&samples[..third], &samples[samples.len() - third..]);
    for (what, value, noise) in [
        ("memory", (|s: &Sample| s.memory) as fn(&Sample) -> u64, MEMORY_NOISE),
        ("files", |s| s.files, COUNT_NOISE),
        ("threads", |s| s.threads, COUNT_NOISE),
        ("tasks", |s| s.tasks, COUNT_NOISE),
    ] {
        let (before, after) = (least(first, value), least(last, value));
        println!("{what}: {before} in the first third, {after} in the last one");
        assert!(after <= before + noise, "{what} grows: {before} in the first third, {after} in the last one");
    }
}
