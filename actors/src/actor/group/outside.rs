//! What a group asks of the world beside its runners' calls, and what it makes known.

use std::sync::Arc;

use ractor::ActorRef;

use super::{GroupMsg, State};
use crate::id::JobId;
use crate::machine::group::Note;
use crate::model::delivery::{JobEvent, RepositoryRef};
use crate::port::{GitHubError, Observation};

impl State {
    pub(super) fn healthcheck(&mut self, myself: &ActorRef<GroupMsg>) {
        let Some(running) = &mut self.running else { return };
        if std::mem::replace(&mut running.listing, true) || self.args.world.stopping.is_cancelled() {
            return;
        }
        let (interpreter, actor) = (Arc::clone(&self.interpreter), myself.clone());
        self.task(async move {
            let listing = interpreter.list().await;
            let _ = actor.cast(GroupMsg::Listed(listing));
        });
        self.look_at_runner_group(myself);
    }

    pub(super) fn probe(&self, myself: &ActorRef<GroupMsg>, backend: String) {
        let (interpreter, actor) = (Arc::clone(&self.interpreter), myself.clone());
        self.task(async move {
            let answer = interpreter.probe(&backend).await;
            let _ = actor.cast(GroupMsg::Probed(backend, answer));
        });
    }

    pub(super) async fn probed(&mut self, myself: &ActorRef<GroupMsg>, backend: &str, answer: Result<(), String>) {
        let now = self.now();
        let Some(running) = &mut self.running else { return };
        let effects = running.group.probed(backend, answer, now);
        self.carry_out(myself, effects).await;
    }

    pub(super) fn verify(&self, myself: &ActorRef<GroupMsg>, job: JobId, repository: RepositoryRef) {
        let (interpreter, actor) = (Arc::clone(&self.interpreter), myself.clone());
        self.task(async move {
            let answer = interpreter.verify(job, repository).await;
            let _ = actor.cast(GroupMsg::Verified(job, answer));
        });
    }

    pub(super) async fn verified(
        &mut self,
        myself: &ActorRef<GroupMsg>,
        job: JobId,
        answer: Result<Option<JobEvent>, GitHubError>,
    ) {
        let now = self.now();
        let Some(running) = &mut self.running else { return };
        if let Err(error) = &answer {
            tracing::warn!(group = %self.args.settings.name, %job, %error, "cannot ask GitHub about a job that is open for long");
        }
        let effects = running.group.verified(job, answer, now);
        self.carry_out(myself, effects).await;
    }

    pub(super) fn note(&self, note: Note) {
        let group = self.name();
        let observation = match &note {
            Note::Taken(waited) => Observation::JobTaken { group, waited: *waited },
            Note::Finished(conclusion, ran) => {
                Observation::JobFinished { group, conclusion: known_conclusion(conclusion), ran: *ran }
            }
            Note::Found => Observation::FoundWithoutWebhook { by: "question" },
            Note::Leak(side) => Observation::Leak { group, side },
            Note::BreakerOpened(backend, until, error) => {
                tracing::warn!(%group, backend, %until, error, "backend is left alone after failures in a row");
                return;
            }
            Note::BreakerClosed(backend) => {
                tracing::info!(%group, backend, "backend works again");
                return;
            }
        };
        self.args.world.observer.observe(&observation);
    }
}

/// GitHub's conclusions, so that a label of a metric stays bounded whatever a webhook says.
fn known_conclusion(conclusion: &str) -> &'static str {
    ["success", "failure", "skipped", "cancelled", "action_required", "neutral", "timed_out"]
        .into_iter()
        .find(|known| *known == conclusion)
        .unwrap_or("other")
}
