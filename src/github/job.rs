//! A job as GitHub's REST API tells of it, in the words of a webhook.

use actors::id::{JobId, RepositoryId, RunnerId};
use actors::model::delivery::{JobAction, JobEvent, JobFacts, RepositoryRef, RunnerRef};
use actors::model::settings::Scope;
use jiff::Timestamp;
use serde::Deserialize;

/// A job of `GET …/actions/jobs/{id}` and `GET …/actions/runs/{id}/jobs`.
#[derive(Deserialize)]
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) run_id: u64,
    status: String,
    #[serde(default)]
    run_attempt: Option<u32>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    workflow_name: Option<String>,
    #[serde(default)]
    head_branch: Option<String>,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    conclusion: Option<String>,
    #[serde(default)]
    runner_id: Option<u64>,
    #[serde(default)]
    runner_name: Option<String>,
    #[serde(default)]
    created_at: Option<Timestamp>,
    #[serde(default)]
    started_at: Option<Timestamp>,
    #[serde(default)]
    completed_at: Option<Timestamp>,
}

/// A run's repository.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Repository {
    id: u64,
    name: String,
    #[serde(default)]
    private: bool,
    owner: Owner,
}

#[derive(Debug, Clone, Deserialize)]
struct Owner {
    login: String,
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

impl Job {
    /// Which action a webhook of this moment would have. A status that is not known yet is told by what else is said;
    /// when in doubt the job wants a runner: one too many goes again, a job that is forgotten waits for ever.
    fn action(&self) -> JobAction {
        match self.status.as_str() {
            "completed" => JobAction::Completed,
            "in_progress" => JobAction::InProgress,
            "waiting" => JobAction::Waiting,
            "queued" | "requested" | "pending" => JobAction::Queued,
            _ if self.conclusion.is_some() => JobAction::Completed,
            _ if self.runner_id.is_some_and(|id| id != 0) => JobAction::InProgress,
            _ => JobAction::Queued,
        }
    }

    /// The event that a webhook of this moment would bring to a group of `scope`. The job's repository is not part of
    /// it, and its enterprise is known only by who asks.
    pub(super) fn into_event(self, repository: &Repository, scope: &Scope) -> JobEvent {
        let action = self.action();
        let enterprise = if let Scope::Enterprise(slug) = scope { Some(slug.clone()) } else { None };
        let owner = &repository.owner;
        let taken = matches!(action, JobAction::InProgress | JobAction::Completed);
        let id = self.runner_id.filter(|id| *id != 0).map(RunnerId);
        let name = self.runner_name.unwrap_or_default();
        let named = id.is_some() || !name.is_empty();
        JobEvent {
            action,
            // A job that nobody took may name a runner all the same: it is not believed.
            runner: (taken && named).then_some(RunnerRef { id, name }),
            conclusion: if action == JobAction::Completed { self.conclusion } else { None },
            job: JobFacts {
                id: JobId(self.id),
                run_id: self.run_id,
                run_attempt: self.run_attempt,
                name: self.name,
                workflow_name: self.workflow_name,
                head_branch: self.head_branch,
                labels: self.labels,
                repository: RepositoryRef {
                    id: RepositoryId(repository.id),
                    owner: owner.login.clone(),
                    name: repository.name.clone(),
                    private: repository.private,
                },
                organization: (owner.kind.as_deref() == Some("Organization")).then(|| owner.login.clone()),
                enterprise,
                installation_id: None,
                created_at: self.created_at,
                started_at: self.started_at,
                completed_at: self.completed_at,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn event(fields: Value) -> JobEvent {
        let mut job = json!({
            "id": 7, "run_id": 70, "status": "queued", "name": "build", "labels": ["self-hosted"], "runner_id": null,
            "created_at": "2024-01-15T08:00:00Z",
        });
        job.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let repository = json!({"id": 5, "name": "app", "private": true, "owner": {"login": "octo"}});
        let job: Job = serde_json::from_value(job).unwrap();
        job.into_event(&serde_json::from_value(repository).unwrap(), &Scope::Enterprise("corp".to_owned()))
    }

    #[test]
    fn every_status_has_the_action_of_its_webhook() {
        for (status, conclusion, runner, action) in [
            ("queued", None, 3, JobAction::Queued),
            ("requested", None, 0, JobAction::Queued),
            ("pending", None, 0, JobAction::Queued),
            ("waiting", None, 3, JobAction::Waiting),
            ("in_progress", None, 3, JobAction::InProgress),
            ("completed", Some("success"), 3, JobAction::Completed),
            ("brand new", None, 0, JobAction::Queued),
            ("brand new", None, 3, JobAction::InProgress),
            ("brand new", Some("stale"), 0, JobAction::Completed),
        ] {
            let event = event(json!({"status": status, "conclusion": conclusion, "runner_id": runner}));
            assert_eq!(event.action, action, "{status}");
            assert_eq!(event.conclusion.as_deref(), conclusion);
            let believed = runner == 3 && matches!(action, JobAction::InProgress | JobAction::Completed);
            assert_eq!(event.runner.is_some(), believed, "{status}");
        }
    }

    #[test]
    fn an_event_says_where_the_job_lives_and_whom_it_belongs_to() {
        let job = event(json!({})).job;
        assert_eq!((job.repository.owner.as_str(), job.repository.name.as_str()), ("octo", "app"));
        assert!(job.repository.private && job.repository.id == RepositoryId(5));
        assert_eq!((job.organization, job.enterprise.as_deref()), (None, Some("corp")), "its owner may be a person");
        assert_eq!((job.run_attempt, job.started_at), (None, None));
    }
}
