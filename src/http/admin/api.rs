//! The operations. Reads come from the store, so that every replica can answer for every group; commands go to the
//! group's actor.

use std::collections::HashMap;
use std::sync::Arc;

use actors::actor::directory::{Command, Refused};
use actors::id::{GroupName, JobId, ReplicaId, RunnerName};
use actors::model::group::GroupSnapshot;
use actors::model::job::{Job, JobStatus};
use actors::model::runner::{Runner, RunnerState};
use actors::port::StoreError;
use actors::port::store::{JobFilter, RunnerFilter};
use poem::http::StatusCode;
use poem::web::Data;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, OpenApi};

use super::budget::BudgetView;
use super::idempotency::{Answer, Begin};
use super::message::Received;
use super::view::{
    Counts, GroupView, JobDetail, JobView, OutcomeView, RunnerDetail, RunnerView, StateView, StatusView,
};
use crate::http::auth::{Caller, Role};
use crate::http::explain::{self, Situation};
use crate::http::problem::Problem;
use crate::http::routes::App;

/// Entries that a list holds unless told otherwise, and at most.
const LIST_DEFAULT: u32 = 100;
const LIST_MAX: u32 = 1000;
/// Runners and queued jobs that are counted at most.
const COUNT_MAX: usize = 100_000;

/// The admin API.
pub(super) struct Api(pub(super) Arc<App>);

/// The answer to a command.
#[derive(ApiResponse)]
enum Taken {
    /// The group has taken it.
    #[oai(status = 202)]
    Taken(Json<OutcomeView>),
}

#[OpenApi]
impl Api {
    /// All groups, in the order of the configuration.
    #[oai(path = "/groups", method = "get", operation_id = "list_groups")]
    async fn groups(&self, _caller: Data<&Caller>) -> Result<Json<Vec<GroupView>>, Problem> {
        let counts = self.counts(None).await?;
        let mut groups = Vec::new();
        for entry in self.0.front.directory.entries() {
            let name = &entry.settings.name;
            let snapshot = self.snapshot(name).await?;
            let none = Counts::default();
            groups.push(GroupView::new(
                &entry,
                self.me(),
                &snapshot,
                counts.get(name).unwrap_or(&none),
                self.0.front.clock.now(),
            ));
        }
        Ok(Json(groups))
    }

    /// One group.
    #[oai(path = "/groups/:name", method = "get", operation_id = "get_group")]
    async fn group(&self, _caller: Data<&Caller>, name: Path<String>) -> Result<Json<GroupView>, Problem> {
        let entry = self.0.front.directory.entry(&name).ok_or_else(|| no_group(&name))?;
        let name = &entry.settings.name;
        let snapshot = self.snapshot(name).await?;
        let counts = self.counts(Some(name)).await?.remove(name).unwrap_or_default();
        Ok(Json(GroupView::new(&entry, self.me(), &snapshot, &counts, self.0.front.clock.now())))
    }

    /// Sends a message to a group; the answer comes when the group has taken it.
    #[oai(path = "/groups/:name/messages", method = "post", operation_id = "send_message")]
    async fn message(
        &self,
        caller: Data<&Caller>,
        name: Path<String>,
        /// The same key and the same message, within a day: carried out once, answered alike.
        #[oai(name = "Idempotency-Key")]
        key: Header<Option<String>>,
        message: Received,
    ) -> Result<Taken, Problem> {
        let Received { command, text } = message;
        let slot = match &key.0 {
            None => None,
            Some(key) => {
                let request = format!("{}\n{text}", name.0);
                match self.0.idempotency.begin(&caller.name, key, &request, self.0.front.clock.now())? {
                    Begin::Again(answer) => return answer.map(|outcome| Taken::Taken(Json(outcome))),
                    Begin::New(slot) => Some(slot),
                }
            }
        };
        tracing::info!(group = name.0, message = ?command, key = caller.name, "message by the admin API");
        // As a task: it is carried through, and remembered, also when the caller goes away.
        let app = Arc::clone(&self.0);
        let carried = tokio::spawn(async move {
            let answer = command_answer(&app, &name, command).await;
            if let Some(slot) = slot {
                app.idempotency.finish(slot, &answer);
            }
            answer
        });
        taken(carried.await)
    }

    /// What may still be asked of GitHub, for each credential, and what keeps it from being asked.
    #[oai(path = "/github", method = "get", operation_id = "list_github_budgets")]
    async fn github(&self, _caller: Data<&Caller>) -> Result<Json<Vec<BudgetView>>, Problem> {
        Ok(Json((self.0.settings.github_budgets)().into_iter().map(BudgetView::from).collect()))
    }

    /// Runners, by name.
    #[oai(path = "/runners", method = "get", operation_id = "list_runners")]
    async fn runners(
        &self,
        _caller: Data<&Caller>,
        /// Only of this group.
        group: Query<Option<String>>,
        /// Only in this state; without it, those that are gone or failed are left out.
        state: Query<Option<StateView>>,
        /// At most so many. Default 100.
        #[oai(validator(minimum(value = "1"), maximum(value = "1000")))]
        limit: Query<Option<u32>>,
    ) -> Result<Json<Vec<RunnerView>>, Problem> {
        let group = group.0.as_deref().map(group_name).transpose()?;
        let filter = RunnerFilter { group, state: state.0.map(RunnerState::from), limit: list_limit(limit.0) };
        let runners = self.read(self.0.front.store.runners(&filter)).await?;
        Ok(Json(runners.iter().map(RunnerView::from).collect()))
    }

    /// One runner with its history.
    #[oai(path = "/runners/:name", method = "get", operation_id = "get_runner")]
    async fn runner(&self, _caller: Data<&Caller>, name: Path<String>) -> Result<Json<RunnerDetail>, Problem> {
        let runner = self.find_runner(&name).await?;
        Ok(Json(RunnerDetail::from(&runner)))
    }

    /// Removes a runner; a busy one only with force.
    #[oai(path = "/runners/:name", method = "delete", operation_id = "delete_runner")]
    async fn delete_runner(
        &self,
        caller: Data<&Caller>,
        name: Path<String>,
        /// Also when it is busy: its job fails.
        force: Query<Option<bool>>,
    ) -> Result<Taken, Problem> {
        caller.require(Role::Admin)?;
        let runner = self.find_runner(&name).await?;
        let force = force.0.unwrap_or(false);
        tracing::info!(runner = %runner.name, force, key = caller.name, "runner removed by the admin API");
        let app = Arc::clone(&self.0);
        let carried = tokio::spawn(async move {
            let command = Command::DeleteRunner { runner: runner.name, force };
            command_answer(&app, runner.group.as_str(), command).await
        });
        taken(carried.await)
    }

    /// Jobs, newest first.
    #[oai(path = "/jobs", method = "get", operation_id = "list_jobs")]
    async fn jobs(
        &self,
        _caller: Data<&Caller>,
        /// Only with this status.
        status: Query<Option<StatusView>>,
        /// Only of this group.
        group: Query<Option<String>>,
        /// At most so many. Default 100.
        #[oai(validator(minimum(value = "1"), maximum(value = "1000")))]
        limit: Query<Option<u32>>,
    ) -> Result<Json<Vec<JobView>>, Problem> {
        let group = group.0.as_deref().map(group_name).transpose()?;
        let filter = JobFilter { group, status: status.0.map(JobStatus::from), limit: list_limit(limit.0) };
        let jobs = self.read(self.0.front.store.jobs(&filter)).await?;
        Ok(Json(jobs.iter().map(JobView::from).collect()))
    }

    /// One job with its timeline, and why it is still queued.
    #[oai(path = "/jobs/:id", method = "get", operation_id = "get_job")]
    async fn job(&self, _caller: Data<&Caller>, id: Path<u64>) -> Result<Json<JobDetail>, Problem> {
        let job = self.read(self.0.front.store.job(JobId(id.0))).await?;
        let job = job.ok_or_else(|| Problem::not_found(format!("no job has the id {}", id.0)))?;
        Ok(Json(self.detail(&job).await?))
    }
}

impl Api {
    /// One read of the store, bounded in time.
    async fn read<T>(&self, read: impl Future<Output = Result<T, StoreError>>) -> Result<T, Problem> {
        let unavailable = || Problem::unavailable("the store does not answer at the moment: try again");
        match tokio::time::timeout(self.0.settings.limits.read_deadline, read).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the admin API cannot read the store");
                Err(unavailable())
            }
            Err(_) => {
                tracing::warn!("the admin API cannot read the store: no answer in time");
                Err(unavailable())
            }
        }
    }

    fn me(&self) -> Option<&ReplicaId> {
        self.0.settings.replica.as_ref()
    }

    async fn snapshot(&self, group: &GroupName) -> Result<GroupSnapshot, Problem> {
        Ok(self.read(self.0.front.store.group(group)).await?.unwrap_or_default())
    }

    /// Runners and demand, by group.
    async fn counts(&self, group: Option<&GroupName>) -> Result<HashMap<GroupName, Counts>, Problem> {
        let store = &self.0.front.store;
        let mut counts: HashMap<GroupName, Counts> = HashMap::new();
        let filter = RunnerFilter { group: group.cloned(), state: None, limit: COUNT_MAX };
        for runner in self.read(store.runners(&filter)).await? {
            let counts = counts.entry(runner.group).or_default();
            for (n, state) in counts.runners.iter_mut().zip(RunnerState::ALL) {
                *n += u32::from(state == runner.state);
            }
        }
        let filter = JobFilter { group: group.cloned(), status: Some(JobStatus::Queued), limit: COUNT_MAX };
        for job in self.read(store.jobs(&filter)).await? {
            let Some(group) = job.group else { continue };
            let counts = counts.entry(group).or_default();
            counts.demand += 1;
            counts.oldest = counts.oldest.into_iter().chain(job.queued_at).min();
        }
        Ok(counts)
    }

    async fn find_runner(&self, name: &str) -> Result<Runner, Problem> {
        let unknown = || Problem::not_found(format!("no runner is named {:?}", shown(name)));
        let name = RunnerName::new(name).map_err(|_| unknown())?;
        self.read(self.0.front.store.runner(&name)).await?.ok_or_else(unknown)
    }

    async fn detail(&self, job: &Job) -> Result<JobDetail, Problem> {
        let front = &self.0.front;
        let entry = job.group.as_ref().and_then(|group| front.directory.entry(group.as_str()));
        let (mut snapshot, mut runners, mut ahead) = (GroupSnapshot::default(), Vec::new(), 0);
        if let (Some(group), JobStatus::Queued) = (&job.group, job.status) {
            snapshot = self.snapshot(group).await?;
            let filter = RunnerFilter { group: Some(group.clone()), state: None, limit: COUNT_MAX };
            runners = self.read(front.store.runners(&filter)).await?;
            let filter = JobFilter { group: Some(group.clone()), status: Some(JobStatus::Queued), limit: COUNT_MAX };
            let queue = self.read(front.store.jobs(&filter)).await?;
            ahead = queue.iter().filter(|other| (other.queued_at, other.id()) < (job.queued_at, job.id())).count();
        }
        let answer = explain::answer(&Situation {
            job,
            group: entry.as_ref().map(|entry| (&*entry.settings, &entry.health)),
            snapshot: &snapshot,
            runners: RunnerState::ALL.map(|state| shorten(runners.iter().filter(|r| r.state == state).count())),
            ahead,
            requested: runners.iter().find(|r| r.for_job == Some(job.id()) && r.state.is_available()),
            now: front.clock.now(),
        });
        let queued = job.status == JobStatus::Queued && job.group.is_some();
        Ok(JobDetail {
            job: JobView::from(job),
            answer,
            position: queued.then(|| shorten(ahead).saturating_add(1)),
            ahead: queued.then(|| shorten(ahead)),
            timeline: job.timeline.iter().map(Into::into).collect(),
        })
    }
}

async fn command_answer(app: &App, group: &str, command: Command) -> Answer {
    match app.front.directory.command(group, command).await {
        Ok(outcome) => Ok(OutcomeView::from(outcome)),
        Err(Refused::NoGroup(_)) => Err(no_group(group)),
        Err(refused @ Refused::NoRunner { .. }) => Err(Problem::not_found(refused.to_string())),
        Err(Refused::Conflict(why)) => Err(Problem::new(StatusCode::CONFLICT, why)),
        Err(refused @ Refused::Unavailable(_)) => Err(Problem::unavailable(refused.to_string())),
    }
}

fn taken(carried: Result<Answer, tokio::task::JoinError>) -> Result<Taken, Problem> {
    match carried {
        Ok(answer) => answer.map(|outcome| Taken::Taken(Json(outcome))),
        Err(error) => {
            tracing::error!(%error, "a message of the admin API was not carried out");
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the message could not be carried out"))
        }
    }
}

fn no_group(name: &str) -> Problem {
    Problem::not_found(format!("no group is named {:?}", shown(name)))
}

fn group_name(name: &str) -> Result<GroupName, Problem> {
    GroupName::new(name).map_err(|error| Problem::invalid("group", error.to_string()))
}

fn list_limit(limit: Option<u32>) -> usize {
    limit.unwrap_or(LIST_DEFAULT).min(LIST_MAX) as usize
}

/// A value of the caller's, as much as is shown again.
fn shown(value: &str) -> String {
    value.chars().take(80).collect()
}

fn shorten(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
