//! One runner's life: which event leads from which state to which, what is to be done then, and when to look again.

use std::time::Duration;

use jiff::Timestamp;

use crate::id::{InstanceId, JobId, RunnerId};
use crate::machine::backoff;
use crate::model::instance::{BackendError, Instance, InstanceStatus};
use crate::model::remote::{Deregistered, GitHubError, RemoteRunner};
use crate::model::runner::{DeleteReason, HISTORY_MAX, Removal, Runner, RunnerState, Transition};
use crate::model::secret::Secret;

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
    CreateFailed(BackendError),
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
    /// A health check saw it.
    Sighted(Sighting),
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

/// One side of a health check. An error is [`Seen::Unknown`], never [`Seen::Absent`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen<T> {
    /// No answer.
    Unknown,
    /// A complete listing without it.
    Absent,
    /// Listed.
    Present(T),
}

/// What a health check saw of one runner on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// When the older of the two listings began; a state entered later is not judged by it.
    pub at: Timestamp,
    /// At GitHub.
    pub registration: Seen<RemoteRunner>,
    /// At the backend.
    pub instance: Seen<Instance>,
}

/// Listings in a row that must contradict a runner's state before anything is done about it.
const CONTRADICTIONS: u32 = 2;

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
    if matches!(event, Event::RegisterFailed(_) | Event::Created(_) | Event::CreateFailed(_) | Event::Recovered) {
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
        (Provisioning, Event::CreateFailed(error)) => {
            runner.error = Some(format!("creating the instance failed: {error}"));
            if let BackendError::Throttled { retry_after: Some(wait), .. } = error {
                runner.retry_at = Some(backoff::after(now, wait));
            }
            let parts = Parts { instance: error.outcome_unknown(), ..Parts::BOTH };
            remove(runner, DeleteReason::CreateFailed, parts, now)
        }
        (Provisioning, Event::Recovered) => vec![Effect::LookUpInstance],
        (Provisioning, Event::InstanceLookedUp(Ok(Some(instance)))) => {
            runner.instance = Some(instance.id);
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
        (Deleting, Event::RegisterFailed(_) | Event::CreateFailed(_)) => pending_parts(runner),
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
        (Deleting, Event::Recovered | Event::Found) => {
            runner.retry_at = None;
            pending_parts(runner)
        }
        (Deleting, Event::Tick) => {
            runner.retry_at = None;
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
            let wait = match &error {
                BackendError::Throttled { retry_after, .. } => *retry_after,
                _ => None,
            };
            retry_later(runner, format!("deleting the instance failed: {error}"), now);
            wait_at_least(runner, wait, now);
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
            | Event::CreateFailed(_)
            | Event::InstanceLookedUp(_)
            | Event::RegistrationLookedUp(_)
            | Event::Deregistered(_)
            | Event::InstanceDeleted(_)
            | Event::Sighted(_)
            | Event::ScaleDown
            | Event::Remove { .. }
            | Event::Tick,
        ) => vec![],
    }
}

/// Whether a sighting would move this runner; saves ten thousand messages that change nothing.
#[must_use]
pub fn minds(runner: &Runner, sighting: &Sighting) -> bool {
    let registered = matches!(&sighting.registration, Seen::Present(remote) if remote.online);
    let busy = matches!(&sighting.registration, Seen::Present(remote) if remote.busy);
    let offline = matches!(&sighting.registration, Seen::Present(remote) if !remote.online);
    let lost = sighting.registration == Seen::Absent;
    let running = match &sighting.instance {
        Seen::Present(instance) => instance.status != InstanceStatus::Stopped,
        Seen::Unknown => true,
        Seen::Absent => false,
    };
    match runner.state {
        Starting => registered || !running || lost || runner.missed > 0,
        Idle => busy || offline || !running || lost || runner.missed > 0,
        Busy => !running || lost || runner.missed > 0 || (runner.job.is_none() && !busy),
        Requested | Registering | Provisioning | Deleting | Gone | Failed => false,
    }
}

fn sighted(runner: &mut Runner, sighting: Sighting, now: Timestamp) -> Vec<Effect> {
    if runner.since >= sighting.at {
        return vec![];
    }
    let registered = sighting.registration != Seen::Absent;
    if let Seen::Present(remote) = &sighting.registration {
        runner.github_id.get_or_insert(remote.id);
        match runner.state {
            Starting if remote.online => online(runner, remote.busy, now, "GitHub lists it as online"),
            Idle if remote.busy => enter(runner, Busy, now, "GitHub lists it as busy"),
            _ => {}
        }
    }
    match &sighting.instance {
        // It ended, for sure: no job runs there any more.
        Seen::Present(instance) if instance.status == InstanceStatus::Stopped => {
            runner.error = Some("its instance has ended".to_owned());
            return remove(runner, DeleteReason::InstanceGone, Parts::BOTH, now);
        }
        Seen::Absent => {
            runner.missed += 1;
            if runner.missed >= CONTRADICTIONS {
                runner.error = Some("the backend does not list its instance any more".to_owned());
                // Listings may be late: a busy one is believed only once GitHub lost it too.
                if runner.state != Busy || !registered {
                    let parts = Parts { deregister_first: runner.state != Busy, ..Parts::BOTH };
                    return remove(runner, DeleteReason::InstanceGone, parts, now);
                }
            }
            return vec![];
        }
        Seen::Present(_) | Seen::Unknown => {}
    }
    match runner.state {
        Starting | Idle if !registered => {
            runner.missed += 1;
            if runner.missed >= CONTRADICTIONS {
                runner.error = Some("GitHub does not list it any more".to_owned());
                let parts = Parts { deregister_first: true, ..Parts::BOTH };
                return remove(runner, DeleteReason::LeakedInstance, parts, now);
            }
        }
        // Its job is over, and the event that says so got lost: GitHub forgets a runner only when it has none.
        Busy if !registered => {
            runner.missed += 1;
            if runner.missed >= CONTRADICTIONS {
                return vec![Effect::LookUpRegistration];
            }
        }
        // It waits for work that cannot reach it, in the place of one that could do it.
        Idle if matches!(&sighting.registration, Seen::Present(remote) if !remote.online) => {
            runner.missed += 1;
            if runner.missed >= CONTRADICTIONS {
                runner.error = Some("GitHub lists it as offline".to_owned());
                let parts = Parts { deregister_first: true, ..Parts::BOTH };
                return remove(runner, DeleteReason::LeakedInstance, parts, now);
            }
        }
        // Only GitHub's lagging flag made it busy, and the flag is gone.
        Busy if runner.job.is_none() && matches!(&sighting.registration, Seen::Present(remote) if !remote.busy) => {
            runner.missed += 1;
            if runner.missed >= CONTRADICTIONS {
                enter(runner, Idle, now, "GitHub lists it as not busy, and no event names a job");
            }
        }
        _ => runner.missed = 0,
    }
    vec![]
}

fn deregistered(runner: &mut Runner, answer: Result<Deregistered, GitHubError>, now: Timestamp) -> Vec<Effect> {
    match answer {
        Ok(Deregistered::Removed | Deregistered::Absent) => {
            let then_instance = runner.removal.as_mut().is_some_and(|removal| {
                removal.deregistered = true;
                std::mem::take(&mut removal.deregister_first)
            });
            runner.retries = 0;
            finish_if_done(runner, now);
            if then_instance { pending_parts(runner) } else { vec![] }
        }
        Ok(Deregistered::Busy) => {
            if runner.removal.as_ref().is_some_and(|removal| removal.deregister_first) {
                keep(runner, now, "GitHub would not let it go: it runs a job");
                return vec![Effect::UpdateMetadata];
            }
            retry_later(runner, "GitHub says that it still runs a job".to_owned(), now);
            vec![]
        }
        Err(error) => {
            let wait = asked_to_wait(&error);
            retry_later(runner, format!("removing its registration failed: {error}"), now);
            wait_at_least(runner, wait, now);
            vec![]
        }
    }
}

/// Which parts a removal has.
#[derive(Clone, Copy)]
struct Parts {
    registration: bool,
    instance: bool,
    deregister_first: bool,
}

impl Parts {
    const BOTH: Self = Self { registration: true, instance: true, deregister_first: false };
}

fn remove(runner: &mut Runner, reason: DeleteReason, parts: Parts, now: Timestamp) -> Vec<Effect> {
    runner.removal = Some(Removal {
        reason,
        deregistered: !parts.registration,
        instance_deleted: !parts.instance,
        deregister_first: parts.deregister_first,
    });
    // `retry_at` of a throttled creation must outlive the clean-up: it tells the group when to go on.
    let retry_at = runner.retry_at;
    enter(runner, Deleting, now, reason.as_str());
    if reason == DeleteReason::CreateFailed {
        runner.retry_at = retry_at;
    }
    pending_parts(runner)
}

/// The calls that a removal still needs.
fn pending_parts(runner: &Runner) -> Vec<Effect> {
    let Some(removal) = &runner.removal else { return vec![] };
    let mut effects = vec![];
    if runner.call_pending {
        return effects;
    }
    if !removal.deregistered {
        effects.push(Effect::Deregister);
    }
    if !removal.instance_deleted && (removal.deregistered || !removal.deregister_first) {
        effects.push(Effect::DeleteInstance);
    }
    effects
}

/// Whether an effect that was decided a while ago is still to be carried out: a removal may be called off meanwhile.
#[must_use]
pub fn still_wanted(runner: &Runner, effect: &Effect) -> bool {
    match effect {
        Effect::Deregister | Effect::DeleteInstance => {
            let kind = std::mem::discriminant(effect);
            runner.state == Deleting && pending_parts(runner).iter().any(|p| std::mem::discriminant(p) == kind)
        }
        Effect::Register
        | Effect::CreateInstance { .. }
        | Effect::LookUpInstance
        | Effect::LookUpRegistration
        | Effect::UpdateMetadata => true,
    }
}

/// Calls a removal off: the runner has work.
fn keep(runner: &mut Runner, now: Timestamp, why: &str) {
    runner.removal = None;
    runner.online_at.get_or_insert(now);
    enter(runner, Busy, now, why);
}

fn finish_if_done(runner: &mut Runner, now: Timestamp) {
    let Some(removal) = &runner.removal else { return };
    if !removal.deregistered || !removal.instance_deleted {
        return;
    }
    let retry_at = runner.retry_at;
    if removal.reason == DeleteReason::CreateFailed {
        enter(runner, Failed, now, "its creation failed, and nothing of it is left");
        runner.retry_at = retry_at;
    } else {
        enter(runner, Gone, now, "gone at the backend and at GitHub");
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

/// Whoever said how long to wait is not asked before.
fn wait_at_least(runner: &mut Runner, wait: Option<Duration>, now: Timestamp) {
    runner.retry_at = runner.retry_at.max(wait.map(|wait| backoff::after(now, wait)));
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
