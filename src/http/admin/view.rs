//! What the admin API shows: the model in the words of the interface. Times are RFC 3339, durations seconds.

use std::collections::BTreeMap;

use actors::actor::directory::{Entry, Health, Outcome, Owner};
use actors::id::ReplicaId;
use actors::model::group::{Breaker, BreakerState, GroupSnapshot, LastError};
use actors::model::job::{Job, JobStatus, TimelineEntry};
use actors::model::runner::{Runner, RunnerState};
use jiff::Timestamp;
use poem_openapi::{Enum, Object};

use crate::http::explain;

/// What was done with a message.
#[derive(Debug, Clone, PartialEq, Eq, Object)]
#[oai(rename = "Outcome")]
pub(super) struct OutcomeView {
    /// In a sentence: what was done or was begun.
    pub(super) message: String,
    /// The runner it concerns, if one.
    pub(super) runner: Option<String>,
}

impl From<Outcome> for OutcomeView {
    fn from(outcome: Outcome) -> Self {
        Self { message: outcome.message, runner: outcome.runner.map(String::from) }
    }
}

/// How a group's actor fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename = "Health", rename_all = "snake_case")]
pub(super) enum HealthView {
    /// It runs.
    Running,
    /// It is being started.
    Starting,
    /// It failed too often and stays stopped until it is reset.
    Parked,
}

/// A runner's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename = "RunnerState", rename_all = "snake_case")]
pub(super) enum StateView {
    Requested,
    Registering,
    Provisioning,
    Starting,
    Idle,
    Busy,
    Deleting,
    Gone,
    Failed,
}

impl From<StateView> for RunnerState {
    fn from(state: StateView) -> Self {
        match state {
            StateView::Requested => Self::Requested,
            StateView::Registering => Self::Registering,
            StateView::Provisioning => Self::Provisioning,
            StateView::Starting => Self::Starting,
            StateView::Idle => Self::Idle,
            StateView::Busy => Self::Busy,
            StateView::Deleting => Self::Deleting,
            StateView::Gone => Self::Gone,
            StateView::Failed => Self::Failed,
        }
    }
}

impl From<RunnerState> for StateView {
    fn from(state: RunnerState) -> Self {
        match state {
            RunnerState::Requested => Self::Requested,
            RunnerState::Registering => Self::Registering,
            RunnerState::Provisioning => Self::Provisioning,
            RunnerState::Starting => Self::Starting,
            RunnerState::Idle => Self::Idle,
            RunnerState::Busy => Self::Busy,
            RunnerState::Deleting => Self::Deleting,
            RunnerState::Gone => Self::Gone,
            RunnerState::Failed => Self::Failed,
        }
    }
}

/// A job's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename = "JobStatus", rename_all = "snake_case")]
pub(super) enum StatusView {
    Queued,
    Waiting,
    InProgress,
    Completed,
    Unmatched,
}

impl From<StatusView> for JobStatus {
    fn from(status: StatusView) -> Self {
        match status {
            StatusView::Queued => Self::Queued,
            StatusView::Waiting => Self::Waiting,
            StatusView::InProgress => Self::InProgress,
            StatusView::Completed => Self::Completed,
            StatusView::Unmatched => Self::Unmatched,
        }
    }
}

impl From<JobStatus> for StatusView {
    fn from(status: JobStatus) -> Self {
        match status {
            JobStatus::Queued => Self::Queued,
            JobStatus::Waiting => Self::Waiting,
            JobStatus::InProgress => Self::InProgress,
            JobStatus::Completed => Self::Completed,
            JobStatus::Unmatched => Self::Unmatched,
        }
    }
}

/// A runner group.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "Group")]
pub(super) struct GroupView {
    /// Its name.
    pub(super) name: String,
    /// Its settings.
    pub(super) settings: SettingsView,
    /// How its actor fares.
    pub(super) health: HealthView,
    /// What its actor failed with last, when it is parked.
    pub(super) health_error: Option<String>,
    /// The replica that runs it, where several share the groups; absent while none does.
    pub(super) replica: Option<String>,
    /// Whether it could request one more runner.
    pub(super) has_capacity: bool,
    /// Whether it creates no runners until it is resumed.
    pub(super) drained: bool,
    /// Its runners that exist, by state; states without runners are left out.
    pub(super) runners: BTreeMap<String, u32>,
    /// How many runners exist.
    pub(super) runners_total: u32,
    /// How many jobs want a runner.
    pub(super) demand: u32,
    /// Since when the oldest of them has wanted one.
    pub(super) demand_oldest_since: Option<String>,
    /// For how long that is.
    pub(super) demand_oldest_seconds: Option<i64>,
    /// Failed attempts to start a runner in a row.
    pub(super) failures: u32,
    /// No runner is created before this time.
    pub(super) not_before: Option<String>,
    /// The last error.
    pub(super) last_error: Option<ErrorView>,
    /// The last health check.
    pub(super) last_healthcheck: Option<HealthcheckView>,
    /// Its backends, in the order in which they are asked.
    pub(super) backends: Vec<BackendView>,
}

/// One of a group's backends.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "Backend")]
pub(super) struct BackendView {
    /// Its name within the group.
    pub(super) name: String,
    /// Whether it is asked for instances.
    pub(super) breaker: BreakerView,
    /// Creates that failed in a row.
    pub(super) failures: u32,
    /// While the breaker is open: when it is probed.
    pub(super) open_until: Option<String>,
    /// The last error since a create went well.
    pub(super) last_error: Option<ErrorView>,
}

/// Whether a backend is asked for instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename = "Breaker", rename_all = "snake_case")]
pub(super) enum BreakerView {
    /// It is.
    Closed,
    /// It is left alone after failures in a row.
    Open,
    /// A probe went well: one create at a time tries it.
    HalfOpen,
}

impl BackendView {
    fn new(name: &str, breaker: Option<&Breaker>) -> Self {
        let state = breaker.map_or(BreakerState::Closed, |breaker| breaker.state);
        Self {
            name: name.to_owned(),
            breaker: match state {
                BreakerState::Closed => BreakerView::Closed,
                BreakerState::Open { .. } => BreakerView::Open,
                BreakerState::HalfOpen => BreakerView::HalfOpen,
            },
            failures: breaker.map_or(0, |breaker| breaker.failures),
            open_until: match state {
                BreakerState::Open { until } => Some(time(until)),
                BreakerState::Closed | BreakerState::HalfOpen => None,
            },
            last_error: breaker.map(|breaker| ErrorView::from(&breaker.error)),
        }
    }
}

/// A group's settings.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "GroupSettings")]
pub(super) struct SettingsView {
    /// Where its runners are registered: `organization octo`, `repository octo/app` or `enterprise octo`.
    pub(super) scope: String,
    /// Name of the credential that GitHub is asked with.
    pub(super) github_credential: String,
    /// Labels its runners register with.
    pub(super) labels: Vec<String>,
    /// Runners kept available beyond demand.
    pub(super) min: u32,
    /// Runners that may exist at once.
    pub(super) max: u32,
    /// Among groups that serve a job the highest wins.
    pub(super) priority: i32,
    /// Operating system.
    pub(super) os: String,
    /// Architecture.
    pub(super) arch: String,
    /// Name of its backend.
    pub(super) backend: String,
    /// How long a runner may take to come online.
    pub(super) time_to_start_seconds: u64,
    /// How long a runner may be online.
    pub(super) time_to_live_seconds: u64,
    /// How long a runner above `min` may be idle.
    pub(super) idle_timeout_seconds: u64,
    /// Time between two health checks.
    pub(super) healthcheck_interval_seconds: u64,
    /// Whether jobs of public repositories are served.
    pub(super) allows_public_repositories: bool,
    /// Only these repositories are served; empty: all.
    pub(super) selected_repository_ids: Vec<u64>,
    /// Whether only the selected workflows may use it.
    pub(super) restricted_to_workflows: bool,
    /// Those workflows.
    pub(super) selected_workflows: Vec<String>,
}

/// An error and its time.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "LastError")]
pub(super) struct ErrorView {
    /// When it came.
    pub(super) at: String,
    /// What failed, on what, why.
    pub(super) text: String,
}

impl From<&LastError> for ErrorView {
    fn from(error: &LastError) -> Self {
        Self { at: time(error.at), text: error.text.clone() }
    }
}

/// What a health check found.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "Healthcheck")]
pub(super) struct HealthcheckView {
    /// When it was carried through.
    pub(super) at: String,
    /// Runners that GitHub listed; none when it did not answer.
    pub(super) registered: Option<u32>,
    /// Instances that the backend listed; none when it did not answer.
    pub(super) instances: Option<u32>,
    /// Differences that were found.
    pub(super) repairs: u32,
}

/// What of a group is counted from its runners and jobs.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    /// Runners, in the order of [`RunnerState::ALL`].
    pub(super) runners: [u32; RunnerState::ALL.len()],
    /// Jobs in demand.
    pub(super) demand: u32,
    /// Since when the oldest of them has been in demand.
    pub(super) oldest: Option<Timestamp>,
}

impl GroupView {
    /// `me`: this replica, where several share the groups.
    pub(super) fn new(
        entry: &Entry,
        me: Option<&ReplicaId>,
        snapshot: &GroupSnapshot,
        counts: &Counts,
        now: Timestamp,
    ) -> Self {
        let replica = match &entry.owner {
            Owner::Me => me,
            Owner::Other(replica) => Some(replica),
            Owner::Nobody => None,
        };
        let (health, health_error) = match &entry.health {
            Health::Running => (HealthView::Running, None),
            Health::Starting => (HealthView::Starting, None),
            Health::Parked { error } => (HealthView::Parked, Some(error.clone())),
        };
        let existing = || RunnerState::ALL.iter().zip(counts.runners).filter(|(state, n)| !state.is_final() && *n > 0);
        let settings = &entry.settings;
        Self {
            name: settings.name.to_string(),
            settings: SettingsView {
                scope: settings.scope.to_string(),
                github_credential: settings.github_credential.clone(),
                labels: settings.runner_labels(),
                min: settings.min,
                max: settings.max,
                priority: settings.priority,
                os: settings.os.label().to_owned(),
                arch: settings.arch.label().to_owned(),
                backend: settings.backend().to_owned(),
                time_to_start_seconds: settings.time_to_start.as_secs(),
                time_to_live_seconds: settings.time_to_live.as_secs(),
                idle_timeout_seconds: settings.idle_timeout.as_secs(),
                healthcheck_interval_seconds: settings.healthcheck_interval.as_secs(),
                allows_public_repositories: settings.allows_public_repositories,
                selected_repository_ids: settings.selected_repository_ids.iter().map(|id| id.0).collect(),
                restricted_to_workflows: settings.restricted_to_workflows,
                selected_workflows: settings.selected_workflows.clone(),
            },
            health,
            health_error,
            replica: replica.map(ToString::to_string),
            has_capacity: entry.has_capacity,
            drained: snapshot.drained,
            runners: existing().map(|(state, n)| (state.as_str().to_owned(), n)).collect(),
            runners_total: existing().map(|(_, n)| n).sum(),
            demand: counts.demand,
            demand_oldest_since: counts.oldest.map(time),
            demand_oldest_seconds: counts.oldest.map(|at| now.duration_since(at).as_secs().max(0)),
            failures: snapshot.failures,
            not_before: snapshot.not_before.map(time),
            last_error: snapshot.last_error.as_ref().map(ErrorView::from),
            last_healthcheck: snapshot.last_healthcheck.as_ref().map(|check| HealthcheckView {
                at: time(check.at),
                registered: check.registered,
                instances: check.instances,
                repairs: check.repairs,
            }),
            backends: (settings.backends.iter())
                .map(|backend| BackendView::new(&backend.name, snapshot.breakers.get(&backend.name)))
                .collect(),
        }
    }
}

/// A runner.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "Runner")]
pub(super) struct RunnerView {
    /// Its name, at GitHub and at the backend alike.
    pub(super) name: String,
    /// Its group.
    pub(super) group: String,
    /// Where it stands.
    pub(super) state: StateView,
    /// When it entered that state.
    pub(super) since: String,
    /// When it was intended.
    pub(super) created_at: String,
    /// When it was first known to be online.
    pub(super) online_at: Option<String>,
    /// How many runners were tried in a row before this one.
    pub(super) attempt: u32,
    /// Name of its backend.
    pub(super) backend: String,
    /// The job it was requested for.
    pub(super) for_job: Option<u64>,
    /// The job it runs or ran.
    pub(super) job: Option<u64>,
    /// Its id at GitHub.
    pub(super) github_id: Option<u64>,
    /// What the backend calls its instance.
    pub(super) instance: Option<String>,
    /// When a check or another try is due.
    pub(super) retry_at: Option<String>,
    /// The last error.
    pub(super) error: Option<String>,
    /// Why it is removed, while it is.
    pub(super) removal: Option<String>,
}

/// A runner with its history.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "RunnerDetail")]
pub(super) struct RunnerDetail {
    /// The runner.
    #[oai(flatten)]
    pub(super) runner: RunnerView,
    /// How it came to its state, oldest first.
    pub(super) history: Vec<TransitionView>,
}

/// One step of a runner's history.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "Transition")]
pub(super) struct TransitionView {
    /// The state that was entered.
    pub(super) state: StateView,
    /// When.
    pub(super) at: String,
    /// Why.
    pub(super) reason: String,
}

impl From<&Runner> for RunnerView {
    fn from(runner: &Runner) -> Self {
        Self {
            name: runner.name.to_string(),
            group: runner.group.to_string(),
            state: runner.state.into(),
            since: time(runner.since),
            created_at: time(runner.created_at),
            online_at: runner.online_at.map(time),
            attempt: runner.attempt.0,
            backend: runner.backend.clone(),
            for_job: runner.for_job.map(|id| id.0),
            job: runner.job.map(|id| id.0),
            github_id: runner.github_id.map(|id| id.0),
            instance: runner.instance.as_ref().map(ToString::to_string),
            retry_at: runner.retry_at.map(time),
            error: runner.error.clone(),
            removal: runner.removal.as_ref().map(|removal| removal.reason.as_str().to_owned()),
        }
    }
}

impl From<&Runner> for RunnerDetail {
    fn from(runner: &Runner) -> Self {
        let step = |step: &actors::model::runner::Transition| TransitionView {
            state: step.state.into(),
            at: time(step.at),
            reason: step.reason.clone(),
        };
        Self { runner: runner.into(), history: runner.history.iter().map(step).collect() }
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "Job")]
pub(super) struct JobView {
    /// GitHub's id of the job.
    pub(super) id: u64,
    /// GitHub's id of the workflow run.
    pub(super) run_id: u64,
    /// Which run of it.
    pub(super) run_attempt: Option<u32>,
    /// Name of the job.
    pub(super) name: String,
    /// Name of the workflow.
    pub(super) workflow: Option<String>,
    /// Branch.
    pub(super) branch: Option<String>,
    /// Repository, with its owner.
    pub(super) repository: String,
    /// `runs-on`, as written.
    pub(super) labels: Vec<String>,
    /// The group that serves it.
    pub(super) group: Option<String>,
    /// Where it stands.
    pub(super) status: StatusView,
    /// GitHub's conclusion, once completed.
    pub(super) conclusion: Option<String>,
    /// The runner that took it.
    pub(super) runner: Option<String>,
    /// When its first event was received.
    pub(super) received_at: String,
    /// Since when it has been in demand.
    pub(super) queued_at: Option<String>,
    /// When it was taken.
    pub(super) taken_at: Option<String>,
    /// When it became final.
    pub(super) finished_at: Option<String>,
}

/// A job with its timeline, and the answer to "why is my job still queued?".
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "JobDetail")]
pub(super) struct JobDetail {
    /// The job.
    #[oai(flatten)]
    pub(super) job: JobView,
    /// Why it is still queued, or what became of it, in a sentence.
    pub(super) answer: String,
    /// While queued: its place in the queue of its group, from 1.
    pub(super) position: Option<u32>,
    /// While queued: how many jobs are served before it.
    pub(super) ahead: Option<u32>,
    /// What happened, oldest first.
    pub(super) timeline: Vec<TimelineView>,
}

/// One line of a job's timeline.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "TimelineEntry")]
pub(super) struct TimelineView {
    /// When.
    pub(super) at: String,
    /// What, in a word: `received`, `matched`, `runner_requested`, …
    pub(super) what: String,
    /// What, in a sentence.
    pub(super) text: String,
}

impl From<&Job> for JobView {
    fn from(job: &Job) -> Self {
        let facts = &job.facts;
        let taker = |runner: &actors::model::delivery::RunnerRef| match (&*runner.name, runner.id) {
            ("", Some(id)) => id.to_string(),
            (name, _) => name.to_owned(),
        };
        Self {
            id: facts.id.0,
            run_id: facts.run_id,
            run_attempt: facts.run_attempt,
            name: facts.name.clone(),
            workflow: facts.workflow_name.clone(),
            branch: facts.head_branch.clone(),
            repository: format!("{}/{}", facts.repository.owner, facts.repository.name),
            labels: facts.labels.clone(),
            group: job.group.as_ref().map(ToString::to_string),
            status: job.status.into(),
            conclusion: job.conclusion.clone(),
            runner: job.runner.as_ref().map(taker),
            received_at: time(job.received_at),
            queued_at: job.queued_at.map(time),
            taken_at: job.taken_at.map(time),
            finished_at: job.finished_at.map(time),
        }
    }
}

impl From<&TimelineEntry> for TimelineView {
    fn from(entry: &TimelineEntry) -> Self {
        // The word is the tag of the stored form.
        let what = serde_json::to_value(&entry.what).ok();
        let what = what.as_ref().and_then(|value| value["what"].as_str()).unwrap_or("unknown").to_owned();
        Self { at: time(entry.at), what, text: explain::describe(&entry.what) }
    }
}

/// RFC 3339, UTC.
fn time(at: Timestamp) -> String {
    at.to_string()
}
