//! One runner's life: which event leads from which state to which, what is to be done then, and when to look again.

mod removal;
mod report;
mod sighting;

pub use removal::still_wanted;
pub use sighting::{Seen, Sighting, minds};

use std::time::Duration;

use jiff::Timestamp;

use crate::id::{InstanceId, JobId, RunnerId};
use crate::machine::backoff;
use crate::model::instance::{BackendError, Instance, InstanceStatus};
use crate::model::remote::{Deregistered, GitHubError, RemoteRunner};
use crate::model::report::InstanceReport;
use crate::model::runner::{DeleteReason, HISTORY_MAX, Removal, Runner, RunnerState, Transition, Tried};
use crate::model::secret::Secret;

use removal::{Parts, deregistered, finish_if_done, keep, pending_parts, remove};
use sighting::{CONTRADICTIONS, sighted};

use RunnerState::{Busy, Deleting, Failed, Gone, Idle, Provisioning, Registering, Requested, Starting};

/// What can happen to a runner.
#[derive(Debug)]
pub enum Event {
    /// Begin: it was just requested.
    Start,
    /// It was found outside, untracked, in the state that it has now: go on from there.
    Found,
    /// The manager (or just this actor) was started again; calls that were out are lost.
    Recovered,
    /// GitHub registered it.
    Registered {
        /// Its id there.
        id: RunnerId,
        /// The config it starts with.
        jit_config: Secret,
    },
    /// GitHub did not register it, or did not say so.
    RegisterFailed(GitHubError),
    /// The backend made its instance.
    Created(InstanceId),
    /// The backend did not make it, or did not say so.
    CreateFailed {
        /// Why.
        error: BackendError,
        /// The unused config, for the next backend, if there is one.
        jit_config: Option<Secret>,
    },
    /// The answer to [`Effect::LookUpInstance`].
    InstanceLookedUp(Result<Option<Instance>, BackendError>),
    /// The answer to [`Effect::LookUpRegistration`].
    RegistrationLookedUp(Result<Option<RemoteRunner>, GitHubError>),
    /// The answer to [`Effect::Deregister`].
    Deregistered(Result<Deregistered, GitHubError>),
    /// The answer to [`Effect::DeleteInstance`].
    InstanceDeleted(Result<(), BackendError>),
    /// An `in_progress` event names it.
    JobStarted(JobId),
    /// A `completed` event names it.
    JobCompleted(JobId),
    /// Its instance says how far it is.
    Reported(InstanceReport),
    /// A health check saw it.
    Sighted(Sighting),
    /// A health check found its instance at another backend than the one it was asked of.
    Moved {
        /// The name of that backend.
        backend: String,
        /// When the listing began; a state entered later is not judged by it.
        at: Timestamp,
    },
    /// It is idle and not needed.
    ScaleDown,
    /// It is to go. A busy one goes only by force.
    Remove {
        /// Why.
        reason: DeleteReason,
        /// Also when it is busy.
        force: bool,
    },
    /// The time of [`wake_at`] has come.
    Tick,
}

/// What is to be done for a runner, once its new state is saved. Each comes back as the event that its docs name.
#[derive(Debug)]
pub enum Effect {
    /// Register it at GitHub: [`Event::Registered`] or [`Event::RegisterFailed`].
    Register,
    /// Make its instance: [`Event::Created`] or [`Event::CreateFailed`].
    CreateInstance {
        /// The config it starts with.
        jit_config: Secret,
    },
    /// Ask the backend whether it has an instance: [`Event::InstanceLookedUp`].
    LookUpInstance,
    /// Ask GitHub about it, by name: [`Event::RegistrationLookedUp`].
    LookUpRegistration,
    /// Remove its registration, by id or else by name: [`Event::Deregistered`].
    Deregister,
    /// Delete its instance: [`Event::InstanceDeleted`].
    DeleteInstance,
    /// Show its state at the instance; nothing comes back.
    UpdateMetadata,
}

/// Time between two looks for an instance whose creation was interrupted.
const SECOND_LOOK: Duration = Duration::from_secs(3);

/// When the runner must be looked at again, if nothing happens before.
#[must_use]
pub fn wake_at(runner: &Runner) -> Option<Timestamp> {
    match runner.state {
        Starting => Some(runner.retry_at.unwrap_or(backoff::after(runner.since, runner.time_to_start))),
        Idle | Busy => runner.online_at.map(|online| backoff::after(online, runner.time_to_live)),
        Registering | Provisioning | Deleting => runner.retry_at,
        Requested | Gone | Failed => None,
    }
}

/// Moves one runner on. Pure and total: the same inputs give the same outputs, and every event is allowed in every state.
#[must_use]
pub fn step(mut runner: Runner, event: Event, now: Timestamp) -> (Runner, Vec<Effect>) {
    let effects = advance(&mut runner, event, now);
    (runner, effects)
}

fn advance(runner: &mut Runner, event: Event, now: Timestamp) -> Vec<Effect> {
    let cut_off = runner.call_pending && matches!(event, Event::Recovered);
    if matches!(event, Event::RegisterFailed(_) | Event::Created(_) | Event::CreateFailed { .. } | Event::Recovered) {
        runner.call_pending = false;
    }
    match (runner.state, event) {
        (Gone | Failed, _) => vec![],

        (Requested, Event::Start | Event::Recovered) => {
            enter(runner, Registering, now, "asking GitHub for a just-in-time config");
            runner.call_pending = true;
            vec![Effect::Register]
        }

        (Registering, Event::Registered { id, jit_config }) => {
            runner.github_id = Some(id);
            enter(runner, Provisioning, now, "registered at GitHub, asking the backend for an instance");
            vec![Effect::CreateInstance { jit_config }]
        }
        (Registering, Event::RegisterFailed(error)) => {
            runner.error = Some(format!("registering at GitHub failed: {error}"));
            let wait = asked_to_wait(&error);
            if error.outcome_unknown() {
                return remove(runner, DeleteReason::CreateFailed, Parts { instance: false, ..Parts::BOTH }, now);
            }
            enter(runner, Failed, now, "GitHub did not register it");
            // Tells the group when to go on.
            runner.retry_at = wait.map(|wait| backoff::after(now, wait));
            vec![]
        }
        (Registering, Event::Recovered) => {
            remove(runner, DeleteReason::Interrupted, Parts { instance: false, ..Parts::BOTH }, now)
        }

        (Provisioning, Event::Created(instance)) => {
            runner.instance = Some(instance);
            enter(runner, Starting, now, "instance created, waiting for the runner to come online");
            vec![]
        }
        (Provisioning, Event::CreateFailed { error, jit_config }) => {
            let not_before = told_to_wait(&error).map(|wait| backoff::after(now, wait));
            runner.tried.push(Tried { backend: runner.backend.clone(), error: error.to_string(), not_before });
            runner.error = Some(format!("creating the instance at backend {} failed: {error}", runner.backend));
            if let (false, false, Some(jit_config)) = (error.outcome_unknown(), runner.fallbacks.is_empty(), jit_config)
            {
                let next = runner.fallbacks.remove(0);
                let why = format!("backend {} made no instance ({error}), asking backend {next}", runner.backend);
                runner.backend = next;
                enter(runner, Provisioning, now, &why);
                runner.call_pending = true;
                return vec![Effect::CreateInstance { jit_config }];
            }
            if not_before.is_some() {
                runner.retry_at = not_before;
            }
            // What may have been made may be at work by now.
            let unknown = error.outcome_unknown();
            let parts = Parts { instance: unknown, deregister_first: unknown, ..Parts::BOTH };
            remove(runner, DeleteReason::CreateFailed, parts, now)
        }
        (Provisioning, Event::Recovered) => {
            // However often it is cut off: both looks come after the last time.
            (runner.missed, runner.retry_at) = (0, None);
            vec![Effect::LookUpInstance]
        }
        (Provisioning, Event::InstanceLookedUp(Ok(Some(instance)))) => {
            runner.instance = Some(instance.id);
            if instance.status == InstanceStatus::Stopped {
                // Made and never started, or over already: its config serves nobody any more.
                return remove(runner, DeleteReason::Interrupted, Parts::BOTH, now);
            }
            enter(runner, Starting, now, "its instance was found after a restart");
            vec![]
        }
        (Provisioning, Event::InstanceLookedUp(Ok(None))) if runner.missed == 0 => {
            // The call that was cut off may still be at work: look once more.
            runner.missed = 1;
            runner.retry_at = Some(now + SECOND_LOOK);
            vec![]
        }
        (Provisioning, Event::InstanceLookedUp(Ok(None))) => {
            remove(runner, DeleteReason::Interrupted, Parts::BOTH, now)
        }
        (Provisioning, Event::InstanceLookedUp(Err(error))) => {
            retry_later(runner, format!("looking up the instance failed: {error}"), now);
            wait_at_least(runner, told_to_wait(&error), now);
            vec![]
        }
        (Provisioning, Event::Tick) => {
            runner.retry_at = None;
            vec![Effect::LookUpInstance]
        }

        (Starting, Event::Tick) => {
            // The answer decides; should it get lost, this asks again.
            runner.retry_at = Some(now + backoff::CLEANUP.longest);
            vec![Effect::LookUpRegistration]
        }
        (Starting, Event::RegistrationLookedUp(Ok(Some(remote)))) if remote.online => {
            online(runner, remote.busy, now, "GitHub says that it is online");
            vec![]
        }
        (Starting, Event::RegistrationLookedUp(Ok(_))) => {
            if now < backoff::after(runner.since, runner.time_to_start) {
                runner.retry_at = None;
                return vec![];
            }
            runner.error = Some(format!("it did not come online within {} s", runner.time_to_start.as_secs()));
            remove(runner, DeleteReason::StartTimeout, Parts { deregister_first: true, ..Parts::BOTH }, now)
        }
        (Starting, Event::RegistrationLookedUp(Err(error))) => {
            let wait = asked_to_wait(&error);
            retry_later(runner, format!("looking it up at GitHub failed: {error}"), now);
            wait_at_least(runner, wait, now);
            vec![]
        }

        (Busy, Event::RegistrationLookedUp(Ok(None))) if runner.missed >= CONTRADICTIONS => {
            runner.error = Some("GitHub does not know it any more".to_owned());
            remove(runner, DeleteReason::LeakedInstance, Parts::BOTH, now)
        }

        (Idle | Busy, Event::Tick) => {
            if wake_at(runner).is_some_and(|due| due <= now) {
                remove(runner, DeleteReason::TimeToLive, Parts::BOTH, now)
            } else {
                vec![]
            }
        }

        (Idle, Event::ScaleDown) => {
            remove(runner, DeleteReason::ScaledDown, Parts { deregister_first: true, ..Parts::BOTH }, now)
        }

        (Requested | Registering | Provisioning | Starting | Idle | Busy, Event::JobStarted(job)) => {
            // A later event may only confirm who is busy; a runner takes one job in its life.
            runner.job.get_or_insert(job);
            if runner.state != Busy {
                runner.online_at.get_or_insert(now);
                enter(runner, Busy, now, &format!("took job {job}"));
            }
            vec![Effect::UpdateMetadata]
        }
        (Requested | Registering | Provisioning | Starting | Idle | Busy, Event::JobCompleted(job)) => {
            runner.job.get_or_insert(job);
            remove(runner, DeleteReason::Completed, Parts::BOTH, now)
        }
        (Requested, Event::Remove { .. }) => {
            enter(runner, Gone, now, "removed before anything was created");
            vec![]
        }
        (Registering | Provisioning | Starting | Idle, Event::Remove { reason, force }) => {
            remove(runner, reason, Parts { deregister_first: !force, ..Parts::BOTH }, now)
        }
        (Busy, Event::Remove { reason, force: true }) => remove(runner, reason, Parts::BOTH, now),
        (Starting | Idle | Busy, Event::Sighted(sighting)) => sighted(runner, sighting, now),
        (Starting | Idle | Busy | Deleting, Event::Moved { backend, at })
            if runner.since < at && !runner.call_pending =>
        {
            runner.backend = backend;
            if let Some(removal) = &mut runner.removal {
                removal.instance_deleted = false;
            }
            pending_parts(runner).into_iter().filter(|part| matches!(part, Effect::DeleteInstance)).collect()
        }
        (Provisioning | Starting, Event::Reported(report)) => report::reported(runner, report, now),

        (Busy, Event::Created(instance)) => {
            runner.instance = Some(instance);
            vec![]
        }
        (Deleting, Event::Created(instance)) => {
            runner.instance = Some(instance);
            pending_parts(runner)
        }
        (Deleting, Event::Registered { id, .. }) => {
            // The config is thrown away: no instance is made of it.
            runner.github_id = Some(id);
            runner.call_pending = false;
            pending_parts(runner)
        }
        (Deleting, Event::RegisterFailed(_) | Event::CreateFailed { .. }) => pending_parts(runner),
        (Deleting, Event::JobStarted(job)) => {
            runner.job.get_or_insert(job);
            if runner.removal.as_ref().is_some_and(Removal::may_be_called_off) {
                keep(runner, now, &format!("took job {job} before it was removed"));
                vec![Effect::UpdateMetadata]
            } else {
                vec![]
            }
        }
        (Deleting, Event::JobCompleted(job)) => {
            runner.job.get_or_insert(job);
            if let Some(removal) = &mut runner.removal {
                removal.deregister_first = false;
            }
            pending_parts(runner)
        }
        (Deleting, Event::Remove { force: true, .. }) => {
            if let Some(removal) = &mut runner.removal {
                removal.deregister_first = false;
            }
            pending_parts(runner)
        }
        (Deleting, Event::Recovered) if cut_off => {
            // What its creation still brings about is there before it is removed, also after another restart.
            runner.call_pending = true;
            runner.retry_at = Some(now + SECOND_LOOK);
            vec![]
        }
        (Deleting, Event::Recovered | Event::Found) => {
            runner.retry_at = None;
            pending_parts(runner)
        }
        (Deleting, Event::Tick) => {
            if runner.retry_at.is_some_and(|due| due <= now) {
                (runner.retry_at, runner.call_pending) = (None, false);
            }
            pending_parts(runner)
        }
        (Deleting, Event::Deregistered(answer)) => deregistered(runner, answer, now),
        (Deleting, Event::InstanceDeleted(Ok(()))) => {
            if let Some(removal) = &mut runner.removal {
                removal.instance_deleted = true;
            }
            finish_if_done(runner, now);
            vec![]
        }
        (Deleting, Event::InstanceDeleted(Err(error))) => {
            retry_later(runner, format!("deleting the instance failed: {error}"), now);
            wait_at_least(runner, told_to_wait(&error), now);
            vec![]
        }

        // A removal that was called off, a forced one that came too late, answers to questions no longer asked.
        (Busy, Event::Registered { id, .. }) => {
            runner.github_id.get_or_insert(id);
            runner.call_pending = false;
            vec![]
        }
        (
            Requested | Registering | Provisioning | Starting | Idle | Busy | Deleting,
            Event::Start
            | Event::Found
            | Event::Recovered
            | Event::Registered { .. }
            | Event::RegisterFailed(_)
            | Event::Created(_)
            | Event::CreateFailed { .. }
            | Event::InstanceLookedUp(_)
            | Event::RegistrationLookedUp(_)
            | Event::Deregistered(_)
            | Event::InstanceDeleted(_)
            | Event::Reported(_)
            | Event::Sighted(_)
            | Event::Moved { .. }
            | Event::ScaleDown
            | Event::Remove { .. }
            | Event::Tick,
        ) => vec![],
    }
}

fn online(runner: &mut Runner, busy: bool, now: Timestamp, why: &str) {
    runner.online_at.get_or_insert(now);
    enter(runner, if busy { Busy } else { Idle }, now, why);
}

fn retry_later(runner: &mut Runner, error: String, now: Timestamp) {
    runner.retries = runner.retries.saturating_add(1);
    let chance = backoff::mix(u64::from(runner.retries) ^ now.as_millisecond().unsigned_abs());
    runner.retry_at = Some(now + backoff::CLEANUP.delay(runner.retries, chance));
    runner.error = Some(error);
}

fn asked_to_wait(error: &GitHubError) -> Option<Duration> {
    match error {
        GitHubError::RateLimited { retry_after, .. } => Some(*retry_after),
        _ => None,
    }
}

fn told_to_wait(error: &BackendError) -> Option<Duration> {
    match error {
        BackendError::Throttled { retry_after, .. } => *retry_after,
        _ => None,
    }
}

/// Whoever said how long to wait is not asked before.
fn wait_at_least(runner: &mut Runner, wait: Option<Duration>, now: Timestamp) {
    runner.retry_at = runner.retry_at.max(wait.map(|wait| backoff::after(now, wait)));
}

/// Ends a runner of which the store does not know any more that it was gone.
pub fn was_gone(runner: &mut Runner, now: Timestamp) {
    enter(runner, Gone, now, "it was gone before, and the store had lost that");
}

fn enter(runner: &mut Runner, state: RunnerState, now: Timestamp, why: &str) {
    runner.state = state;
    runner.since = now;
    runner.retries = 0;
    runner.retry_at = None;
    runner.missed = 0;
    if runner.history.len() >= HISTORY_MAX {
        runner.history.remove(1);
    }
    runner.history.push(Transition { state, at: now, reason: why.to_owned() });
}

#[cfg(test)]
pub(crate) mod tests;
