//! Observations become Prometheus metrics: every name, label and bucket is declared here.

mod groups;

use std::time::Duration;

use actors::model::job::JobStatus;
use actors::model::runner::RunnerState;
use actors::port::{Observation, Observer};
use jiff::Timestamp;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use groups::{Breakers, Demand};

/// Start of every name.
const NAMESPACE: &str = "runner_manager";

/// Buckets for what takes our own time, in seconds.
const FAST: &[f64] = &[0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// Buckets for calls to others, in seconds.
const CALLS: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Buckets for the life of machines and jobs, in seconds.
const SLOW: &[f64] =
    &[1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 21_600.0, 86_400.0];

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    webhooks: IntCounterVec,
    webhook_duration: HistogramVec,
    inbox_depth: IntGaugeVec,
    jobs: IntGaugeVec,
    jobs_total: IntCounterVec,
    job_wait: HistogramVec,
    job_duration: HistogramVec,
    runners: IntGaugeVec,
    runners_min: IntGaugeVec,
    runners_max: IntGaugeVec,
    demand: IntGaugeVec,
    demand_oldest: GaugeVec,
    scale_up: HistogramVec,
    runner_start: HistogramVec,
    runner_deletions: IntCounterVec,
    leaks: IntCounterVec,
    set_aside: IntCounterVec,
    backend_requests: IntCounterVec,
    backend_request_duration: HistogramVec,
    backend_breaker_open: IntGaugeVec,
    github_requests: IntCounterVec,
    github_rate_limit: IntGaugeVec,
    found: IntCounterVec,
    store_operation: HistogramVec,
    actor_restarts: IntCounterVec,
    groups_owned: IntGauge,
    tasks: IntGauge,
    oldest: Demand,
    breakers: Breakers,
}

/// Registers what it makes. Names and help are fixed here, so that nothing can fail but by a mistake in this file,
/// which the tests would find.
struct Maker {
    registry: Registry,
    failed: Option<prometheus::Error>,
}

impl Maker {
    fn keep<C: prometheus::core::Collector + Clone + 'static>(&mut self, collector: C) -> C {
        if let Err(error) = self.registry.register(Box::new(collector.clone())) {
            self.failed = Some(error);
        }
        collector
    }

    fn counter(&mut self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        let made = IntCounterVec::new(Opts::new(name, help).namespace(NAMESPACE), labels)?;
        Ok(self.keep(made))
    }

    fn gauge(&mut self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        let made = IntGaugeVec::new(Opts::new(name, help).namespace(NAMESPACE), labels)?;
        Ok(self.keep(made))
    }

    fn times(&mut self, name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> prometheus::Result<HistogramVec> {
        let opts = HistogramOpts::new(name, help).namespace(NAMESPACE).buckets(buckets.to_vec());
        let made = HistogramVec::new(opts, labels)?;
        Ok(self.keep(made))
    }
}

impl Metrics {
    /// All metrics, with the process metrics and `build_info`.
    ///
    /// # Errors
    /// When two metrics share a name: a mistake in this file.
    pub fn new() -> prometheus::Result<Self> {
        let make = &mut Maker { registry: Registry::new(), failed: None };
        let oldest_opts = Opts::new("demand_oldest_seconds", "Age of the oldest job in demand, 0 without demand")
            .namespace(NAMESPACE);
        let groups_owned =
            IntGauge::with_opts(Opts::new("groups_owned", "Groups that this process runs").namespace(NAMESPACE))?;
        let tasks = IntGauge::with_opts(
            Opts::new("tasks", "Tasks that live: actors, connections, calls under way").namespace(NAMESPACE),
        )?;
        let metrics = Self {
            webhooks: make.counter("webhooks_total", "Webhooks answered", &["event", "action", "outcome"])?,
            webhook_duration: make.times(
                "webhook_duration_seconds",
                "From the end of a webhook's headers to its answer",
                FAST,
                &[],
            )?,
            inbox_depth: make.gauge("inbox_depth", "Deliveries not stepped through yet", &["group"])?,
            jobs: make.gauge("jobs", "Jobs that are not final", &["group", "status"])?,
            jobs_total: make.counter("jobs_total", "Jobs that became final", &["group", "conclusion"])?,
            job_wait: make.times("job_wait_seconds", "From queued to in_progress", SLOW, &["group"])?,
            job_duration: make.times("job_duration_seconds", "From in_progress to completed", SLOW, &["group"])?,
            runners: make.gauge("runners", "Runners", &["group", "state"])?,
            runners_min: make.gauge("runners_min", "Runners kept available beyond demand", &["group"])?,
            runners_max: make.gauge("runners_max", "Runners that may exist at once", &["group"])?,
            demand: make.gauge("demand", "Jobs that want a runner", &["group"])?,
            demand_oldest: make.keep(GaugeVec::new(oldest_opts, &["group"])?),
            scale_up: make.times(
                "scale_up_seconds",
                "From the receipt of a delivery until the backend is called to create",
                FAST,
                &["group"],
            )?,
            runner_start: make.times("runner_start_seconds", "From create to online", SLOW, &["group", "backend"])?,
            runner_deletions: make.counter("runner_deletions_total", "Runners proven gone", &["group", "reason"])?,
            leaks: make.counter("leaks_total", "Things of ours without their counterpart", &["group", "side"])?,
            set_aside: make.counter(
                "snapshots_set_aside_total",
                "Entries of the store that could not be read",
                &["group"],
            )?,
            backend_requests: make.counter(
                "backend_requests_total",
                "Calls to backends",
                &["backend", "operation", "outcome"],
            )?,
            backend_request_duration: make.times(
                "backend_request_duration_seconds",
                "How long calls to backends took",
                CALLS,
                &["backend", "operation"],
            )?,
            backend_breaker_open: make.gauge(
                "backend_breaker_open",
                "Groups that leave a backend alone because creates failed in a row",
                &["backend"],
            )?,
            github_requests: make.counter("github_requests_total", "Calls to GitHub", &["operation", "outcome"])?,
            github_rate_limit: make.gauge(
                "github_rate_limit_remaining",
                "Requests left of a limit of GitHub",
                &["credential", "resource"],
            )?,
            found: make.counter(
                "found_without_webhook_total",
                "What GitHub told when it was asked, and no webhook had told",
                &["by"],
            )?,
            store_operation: make.times(
                "store_operation_duration_seconds",
                "How long operations of the store took",
                FAST,
                &["operation"],
            )?,
            actor_restarts: make.counter("actor_restarts_total", "Actors started again after a failure", &["actor"])?,
            groups_owned: make.keep(groups_owned),
            tasks: make.keep(tasks),
            oldest: Demand::default(),
            breakers: Breakers::default(),
            registry: make.registry.clone(),
        };
        let build = make.gauge("build_info", "Version of the program, always 1", &["version", "commit"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), option_env!("BUILD_COMMIT").unwrap_or("unknown")]).set(1);
        make.registry.register(Box::new(ProcessCollector::for_self()))?;
        make.failed.take().map_or(Ok(metrics), Err)
    }

    /// The metrics as Prometheus text (format 0.0.4).
    #[must_use]
    pub fn render(&self) -> String {
        self.oldest.show(&self.demand_oldest, Timestamp::now());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.tasks.set(i64::try_from(runtime.metrics().num_alive_tasks()).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics could not be rendered");
        }
        text
    }
}

impl Observer for Metrics {
    fn observe(&self, observation: &Observation<'_>) {
        match *observation {
            Observation::Webhook { event, action, outcome, took } => {
                self.webhooks.with_label_values(&[event, action, outcome]).inc();
                time(&self.webhook_duration, &[], took);
            }
            Observation::Group { group, runners, jobs, min, max, demand_oldest_since, inbox_depth } => {
                let group = group.as_str();
                for (state, n) in RunnerState::ALL.iter().zip(runners) {
                    self.runners.with_label_values(&[group, state.as_str()]).set(n.into());
                }
                for (status, n) in JobStatus::ALL.iter().zip(jobs) {
                    self.jobs.with_label_values(&[group, status.as_str()]).set(n.into());
                    if *status == JobStatus::Queued {
                        self.demand.with_label_values(&[group]).set(n.into());
                    }
                }
                self.runners_min.with_label_values(&[group]).set(min.into());
                self.runners_max.with_label_values(&[group]).set(max.into());
                self.inbox_depth.with_label_values(&[group]).set(inbox_depth.into());
                self.oldest.note(group, demand_oldest_since);
            }
            Observation::GroupStopped { group } => self.forget(group.as_str()),
            Observation::JobTaken { group, waited } => time(&self.job_wait, &[group.as_str()], waited),
            Observation::JobFinished { group, conclusion, ran } => {
                self.jobs_total.with_label_values(&[group.as_str(), conclusion]).inc();
                if let Some(ran) = ran {
                    time(&self.job_duration, &[group.as_str()], ran);
                }
            }
            Observation::ScaleUp { group, took } => time(&self.scale_up, &[group.as_str()], took),
            Observation::RunnerOnline { group, backend, took } => {
                time(&self.runner_start, &[group.as_str(), backend], took);
            }
            Observation::RunnerDeleted { group, reason } => {
                self.runner_deletions.with_label_values(&[group.as_str(), reason.as_str()]).inc();
            }
            Observation::Leak { group, side } => self.leaks.with_label_values(&[group.as_str(), side]).inc(),
            Observation::BackendCall { backend, operation, outcome, took } => {
                self.backend_requests.with_label_values(&[backend, operation, outcome]).inc();
                time(&self.backend_request_duration, &[backend, operation], took);
            }
            Observation::Breaker { group, backend, open } => self.breaker(group.as_str(), backend, open),
            Observation::GitHubCall { operation, outcome } => {
                self.github_requests.with_label_values(&[operation, outcome]).inc();
            }
            Observation::RateLimit { credential, resource, remaining } => {
                let remaining = i64::try_from(remaining).unwrap_or(i64::MAX);
                self.github_rate_limit.with_label_values(&[credential, resource]).set(remaining);
            }
            Observation::FoundWithoutWebhook { by } => self.found.with_label_values(&[by]).inc(),
            Observation::StoreOperation { operation, took } => time(&self.store_operation, &[operation], took),
            Observation::SnapshotsSetAside { group, count } => {
                self.set_aside.with_label_values(&[group.as_str()]).inc_by(count.into());
            }
            Observation::ActorRestarted { actor } => self.actor_restarts.with_label_values(&[actor]).inc(),
            Observation::GroupsOwned(n) => self.groups_owned.set(n.into()),
        }
    }
}

fn time(histogram: &HistogramVec, labels: &[&str], took: Duration) {
    histogram.with_label_values(labels).observe(took.as_secs_f64());
}

#[cfg(test)]
mod tests;
