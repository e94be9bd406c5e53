//! GitHub's answers: to runners, and about what it remembers.

use std::time::Duration;

use actors::id::*;
use actors::model::delivery::{JobAction, JobEvent};
use actors::model::secret::Secret;
use actors::model::settings::{Arch, GroupSettings, Os, Scope};
use actors::port::github::*;
use async_trait::async_trait;
use jiff::Timestamp;

use super::jobs::{Remote, Stage};
use super::scenario::Kind;
use super::world::{Site, State, What};

/// How long GitHub's idea of busy may be behind.
const LAG: u64 = 60_000;
/// Attempts on one page of the hook's history.
const PAGE: usize = 20;

/// What becomes of a call.
enum Turn {
    Works,
    /// It works, and nobody hears of it.
    Loses,
    Fails(GitHubError),
}

fn unknown(text: &str) -> GitHubError {
    GitHubError::Unknown(text.to_owned())
}

impl State {
    fn refused(&mut self) -> Option<GitHubError> {
        let (until, how) = self.outage?;
        let left = until.saturating_sub(self.elapsed());
        if left == 0 || self.faults.healed {
            self.outage = None;
            return None;
        }
        let text = "the outage".to_owned();
        Some(match how {
            "limit" => GitHubError::RateLimited { text, retry_after: Duration::from_millis(left) },
            "unauthorized" => GitHubError::Unauthorized(text),
            "forbidden" => GitHubError::Forbidden(text),
            "hidden" => GitHubError::NotFound(text),
            _ => GitHubError::Unknown(text),
        })
    }

    fn turn(&mut self) -> Turn {
        if let Some(error) = self.refused() {
            return Turn::Fails(error);
        }
        if self.faults.strikes(Kind::GitHubFails) {
            return Turn::Fails(unknown("502 Bad Gateway"));
        }
        if self.faults.strikes(Kind::GitHubLoses) { Turn::Loses } else { Turn::Works }
    }

    /// Whether GitHub thinks that it is busy.
    fn looks_busy(&mut self, name: &str) -> bool {
        let Some(remote) = self.runners.get(name) else { return false };
        let (busy, recent) = (remote.job.is_some(), self.elapsed() - remote.since < LAG);
        if recent && remote.online_at.is_some() && self.faults.strikes(Kind::BusyLies) { !busy } else { busy }
    }

    fn shown(&mut self, name: &str) -> Option<RemoteRunner> {
        let busy = self.looks_busy(name);
        let Remote { id, name, labels, online, .. } = self.runners.get(name)?.clone();
        Some(RemoteRunner { id, name, online, busy, labels })
    }
}

impl Site {
    /// A call to GitHub: counted, on its way for a while, perhaps for ever.
    async fn ask(&self, what: &'static str) {
        let hangs = {
            let mut state = self.enter().await;
            state.oracle.count(what);
            state.faults.strikes(Kind::GitHubHangs)
        };
        if hangs {
            // Longer than any deadline.
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        self.pause(20, 300).await;
        self.panics(Kind::GitHubPanics);
    }
}

#[async_trait]
impl GitHub for Site {
    async fn ensure_runner_group(
        &self,
        _: &GroupSettings,
        _: Option<RunnerGroupId>,
    ) -> Result<RunnerGroup, GitHubError> {
        self.ask("ensure_runner_group").await;
        match self.enter().await.turn() {
            Turn::Works => Ok(RunnerGroup::in_step(RunnerGroupId(1))),
            Turn::Loses => Err(unknown("the answer is lost")),
            Turn::Fails(error) => Err(error),
        }
    }

    async fn delete_runner_group(
        &self,
        _: &GroupSettings,
        _: Option<RunnerGroupId>,
    ) -> Result<RunnerGroupRemoval, GitHubError> {
        self.enter().await.violated("somebody deletes a runner group that nobody asked to delete".into());
        Ok(RunnerGroupRemoval::Absent)
    }

    async fn generate_jit_config(&self, request: &JitRequest) -> Result<Registration, GitHubError> {
        self.ask("generate_jit_config").await;
        let name = request.name.to_string();
        let (id, lost) = {
            let mut state = self.enter().await;
            let lost = match state.turn() {
                Turn::Fails(error) => return Err(error),
                Turn::Works => false,
                Turn::Loses => true,
            };
            if state.faults.strikes(Kind::GitHubRefuses) {
                return Err(GitHubError::Invalid("the group is full".into()));
            }
            if state.runners.contains_key(&name) || state.faults.strikes(Kind::GitHubConflict) {
                return Err(GitHubError::Conflict(name));
            }
            state.next_id += 1;
            let id = RunnerId(state.next_id);
            state.note(format_args!("{name} is registered"));
            state.check_registration(request);
            state.check_owner(&name, self.life, "a runner is registered");
            state.runners.insert(name.clone(), Remote::new(id, &name, request.labels.clone()));
            (id, lost)
        };
        self.effect().await;
        self.pause(5, 50).await;
        if lost {
            Err(unknown("the answer is lost"))
        } else {
            Ok(Registration { id, jit_config: Secret::new("jit".into()) })
        }
    }

    async fn list_runners(&self, _: &Scope) -> Result<Vec<RemoteRunner>, GitHubError> {
        self.ask("list_runners").await;
        let runners = {
            let mut state = self.enter().await;
            match state.turn() {
                Turn::Works => {}
                Turn::Loses => return Err(unknown("the answer is lost")),
                Turn::Fails(error) => return Err(error),
            }
            let names: Vec<String> = state.runners.keys().cloned().collect();
            let mut all = vec![];
            for name in names {
                // A page shifts while it is read: one is not seen, or seen twice.
                if state.faults.strikes(Kind::PagesShift) {
                    if state.faults.between(Kind::PagesShift, 0, 1) == 0 {
                        continue;
                    }
                    all.extend(state.shown(&name));
                }
                all.extend(state.shown(&name));
            }
            all
        };
        self.pause(5, 100).await;
        Ok(runners)
    }

    async fn find_runner(&self, _: &Scope, name: &RunnerName) -> Result<Option<RemoteRunner>, GitHubError> {
        self.ask("find_runner").await;
        let mut state = self.enter().await;
        match state.turn() {
            Turn::Works => Ok(state.shown(name.as_str())),
            Turn::Loses => Err(unknown("the answer is lost")),
            Turn::Fails(error) => Err(error),
        }
    }

    async fn delete_runner(&self, _: &Scope, id: RunnerId) -> Result<Deregistered, GitHubError> {
        self.ask("delete_runner").await;
        let (answer, lost) = {
            let mut state = self.enter().await;
            let lost = match state.turn() {
                Turn::Fails(error) => return Err(error),
                Turn::Works => false,
                Turn::Loses => true,
            };
            let Some(name) = state.runners.values().find(|r| r.id == id).map(|r| r.name.clone()) else {
                return Ok(Deregistered::Absent);
            };
            state.check_deregister(&name);
            state.check_owner(&name, self.life, "a registration is removed");
            let truly = state.runners[&name].job.is_some();
            let lets_go = !state.looks_busy(&name);
            if truly && !lets_go {
                return Ok(Deregistered::Busy);
            }
            state.note(format_args!("{name} is deregistered{}", if truly { ", at work" } else { "" }));
            if truly {
                state.oracle.let_go.insert(name.clone());
                state.off(&name);
            }
            state.runners.remove(&name);
            (Deregistered::Removed, lost)
        };
        self.effect().await;
        self.pause(5, 50).await;
        if lost { Err(unknown("the answer is lost")) } else { Ok(answer) }
    }

    async fn runner_download(&self, _: &Scope, _: Os, _: Arch) -> Result<Download, GitHubError> {
        Ok(Download::default())
    }
}

impl Site {
    async fn remember(&self, what: &'static str) -> Result<(), GitHubError> {
        self.ask(what).await;
        let mut state = self.enter().await;
        let refuses = !state.scenario.tells_of_jobs && matches!(what, "job" | "open_jobs");
        if refuses || state.scenario.has(Kind::RecordsDown) || state.faults.strikes(Kind::RecordsFail) {
            return Err(unknown("it does not answer"));
        }
        state.refused().map_or(Ok(()), Err)
    }
}

impl State {
    fn as_it_is(&self, id: u64) -> Option<JobEvent> {
        let job = self.jobs.get(&id).filter(|job| !job.forgotten)?;
        let action = match job.stage {
            Stage::ToCome => return None,
            Stage::Waiting => JobAction::Waiting,
            Stage::Queued => JobAction::Queued,
            Stage::Running => JobAction::InProgress,
            Stage::Over => JobAction::Completed,
        };
        Some(self.event(id, action))
    }
}

#[async_trait]
impl Records for Site {
    async fn job(&self, _: &Asker, _: &RepositoryName, id: JobId) -> Result<Option<JobEvent>, GitHubError> {
        self.remember("job").await?;
        Ok(self.enter().await.as_it_is(id.0))
    }

    async fn open_jobs(&self, _: &Asker, _: &RepositoryName, _: usize) -> Result<Vec<JobEvent>, GitHubError> {
        self.remember("open_jobs").await?;
        let state = self.enter().await;
        let open = state.jobs.values().filter(|job| job.stage != Stage::Over);
        Ok(open.filter_map(|job| state.as_it_is(job.id)).collect())
    }

    async fn hook(&self, asker: &Asker, _: &str) -> Result<Option<Hook>, GitHubError> {
        self.remember("hook").await?;
        Ok(Some(Hook::Of { scope: asker.scope.clone(), id: 1 }))
    }

    async fn deliveries(&self, _: &Asker, _: &Hook, since: Timestamp, page: Option<&str>) -> Result<Sent, GitHubError> {
        self.remember("deliveries").await?;
        let state = self.enter().await;
        let end = page.map_or(state.history.len(), |page| page.parse().unwrap());
        let begin = end.saturating_sub(PAGE);
        let deliveries: Vec<SentDelivery> =
            state.history[begin..end].iter().rev().filter(|sent| sent.at >= since).cloned().collect();
        let more = begin > 0 && state.history[begin - 1].at >= since;
        Ok(Sent { deliveries, next: more.then(|| begin.to_string()) })
    }

    async fn redeliver(&self, _: &Asker, _: &Hook, delivery: u64) -> Result<(), GitHubError> {
        self.remember("redeliver").await?;
        let mut state = self.enter().await;
        let guid = state.history[delivery as usize - 1].guid.to_string();
        state.note(format_args!("{guid} is asked for again"));
        let wait = state.chance.between(500, 5_000);
        state.after(wait, What::Deliver(guid));
        Ok(())
    }
}
