//! The group's runner group at GitHub: brought in step with each health check, deleted on request only.

use std::sync::Arc;

use ractor::{ActorRef, RpcReplyPort};

use super::{GroupMsg, State};
use crate::actor::directory::{Outcome, Refused};
use crate::port::GitHubError;
use crate::port::github::{RunnerGroup, RunnerGroupRemoval};

impl State {
    /// Part of a health check. A drained group leaves its runner group alone: it may have been deleted on request.
    pub(super) fn look_at_runner_group(&self, myself: &ActorRef<GroupMsg>) {
        if self.running.as_ref().is_none_or(|running| running.group.snapshot().drained) {
            return;
        }
        let (interpreter, actor) = (Arc::clone(&self.interpreter), myself.clone());
        self.task(async move {
            let found = interpreter.ensure_runner_group().await;
            let _ = actor.cast(GroupMsg::RunnerGroup(found));
        });
    }

    pub(super) fn runner_group_seen(&mut self, myself: &ActorRef<GroupMsg>, found: Result<RunnerGroup, GitHubError>) {
        let now = self.now();
        let trouble = match found {
            Ok(found) => {
                self.args.directory.update(self.name(), |entry| entry.reach = found.reach);
                found.trouble
            }
            Err(error) => Some(error),
        };
        if let (Some(error), Some(running)) = (trouble, &mut self.running) {
            tracing::warn!(group = %self.args.settings.name, %error, "the runner group at GitHub is not as configured");
            running.group.runner_group_failed(&error, now);
            self.settle(myself);
        }
    }

    pub(super) fn delete_runner_group(&self, reply: RpcReplyPort<Result<Outcome, Refused>>) {
        let (interpreter, group) = (Arc::clone(&self.interpreter), self.name().clone());
        self.task(async move {
            let done = |message: String| Ok(Outcome { message, runner: None });
            let answer = match interpreter.delete_runner_group().await {
                Ok(RunnerGroupRemoval::Removed) => {
                    done(format!("the runner group of group {group} is deleted at GitHub; `resume` creates it anew"))
                }
                Ok(RunnerGroupRemoval::Absent) => done(format!("group {group} has no runner group at GitHub")),
                Ok(RunnerGroupRemoval::Kept(why)) => {
                    Err(Refused::Conflict(format!("the runner group of group {group} stays: {why}")))
                }
                Err(error @ (GitHubError::Unknown(_) | GitHubError::RateLimited { .. })) => {
                    Err(Refused::Unavailable(format!("the runner group of group {group}: {error}")))
                }
                Err(error) => Err(Refused::Conflict(format!("the runner group of group {group} stays: {error}"))),
            };
            tracing::info!(%group, ?answer, "deletion of the runner group at GitHub was asked for");
            let _ = reply.send(answer);
        });
    }
}
