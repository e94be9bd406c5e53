//! What a group asks of the world beside its runners' calls, and what it makes known.

use std::sync::Arc;

use ractor::ActorRef;

use super::{GroupMsg, State};
use crate::actor::effect::World;
use crate::actor::runner::SAVE_RETRY;
use crate::id::{GroupName, JobId};
use crate::machine::found;
use crate::machine::group::Note;
use crate::model::delivery::{Delivery, JobEvent, RepositoryRef};
use crate::port::store::Route;
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

    /// Asks what became of a job. An answer that concerns a runner of another group is recorded for both before this one
    /// acts on it: it asks no more once the job is over.
    pub(super) fn verify(&self, myself: &ActorRef<GroupMsg>, job: JobId, repository: RepositoryRef) {
        let (interpreter, actor) = (Arc::clone(&self.interpreter), myself.clone());
        let (directory, group) = (self.args.directory.clone(), self.name().clone());
        let known = self.running.as_ref().and_then(|running| running.group.job(job)).cloned();
        self.task(async move {
            let world = interpreter.world();
            let answer = interpreter.verify(job, repository).await;
            let event = answer.as_ref().ok().zip(known);
            let news = event.and_then(|(event, known)| found::for_runner(event.as_ref(), &known, world.clock.now()));
            let owner = news.as_ref().and_then(|news| directory.owner_of(&news.event.runner.as_ref()?.name));
            let mut others = None;
            if let (Some(news), Some(owner)) = (news, owner.filter(|owner| *owner != group)) {
                let record = record(world, Arc::new(news), &group, &owner);
                if world.stopping.run_until_cancelled(record).await.is_none() {
                    // Whoever runs the group next asks again.
                    return;
                }
                others = Some(owner);
            }
            let _ = actor.cast(GroupMsg::Verified(job, answer));
            others.iter().chain([&group]).for_each(|group| directory.poke(group));
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

/// Records for both groups what was found of a job; while the store does not take it, again and again.
async fn record(world: &World, delivery: Arc<Delivery>, group: &GroupName, runner_group: &GroupName) {
    let mut failures = 0;
    loop {
        let route = Route { group: Some(group.clone()), runner_group: Some(runner_group.clone()), ..Route::default() };
        let Err(error) = world.store.record(Arc::clone(&delivery), route).await else { return };
        failures += 1;
        tracing::error!(%group, job = %delivery.event.job.id, %error, "cannot record what GitHub said of a job, trying again");
        tokio::time::sleep(SAVE_RETRY.delay(failures, world.clock.entropy())).await;
    }
}

/// GitHub's conclusions, so that a label of a metric stays bounded whatever a webhook says.
fn known_conclusion(conclusion: &str) -> &'static str {
    ["success", "failure", "skipped", "cancelled", "action_required", "neutral", "timed_out"]
        .into_iter()
        .find(|known| *known == conclusion)
        .unwrap_or("other")
}
