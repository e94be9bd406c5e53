//! What a health check saw of a runner, and what follows.

use jiff::Timestamp;

use super::removal::{Parts, remove};
use super::{Effect, enter, online};
use crate::model::instance::{Instance, InstanceStatus};
use crate::model::remote::RemoteRunner;
use crate::model::runner::{DeleteReason, Runner, RunnerState};

use RunnerState::{Busy, Deleting, Failed, Gone, Idle, Provisioning, Registering, Requested, Starting};

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
pub(super) const CONTRADICTIONS: u32 = 2;

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

pub(super) fn sighted(runner: &mut Runner, sighting: Sighting, now: Timestamp) -> Vec<Effect> {
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
            let early = if runner.online_at.is_none() { " before it was seen online" } else { "" };
            runner.error = Some(format!("its instance has ended{early}"));
            return remove(runner, DeleteReason::InstanceGone, Parts::BOTH, now);
        }
        Seen::Absent => {
            runner.missed = runner.missed.saturating_add(1);
            if runner.missed >= CONTRADICTIONS && runner.state != Busy {
                runner.error = Some("the backend does not list its instance any more".to_owned());
                let parts = Parts { deregister_first: true, ..Parts::BOTH };
                return remove(runner, DeleteReason::InstanceGone, parts, now);
            }
            // Only GitHub's lagging flag made it busy, the flag is gone, and so is its instance.
            let idle = matches!(&sighting.registration, Seen::Present(remote) if !remote.busy);
            if runner.missed >= CONTRADICTIONS && runner.job.is_none() && idle {
                let parts = Parts { deregister_first: true, ..Parts::BOTH };
                return remove(runner, DeleteReason::InstanceGone, parts, now);
            }
            // Backends list late, and GitHub's pages shift while they are read: a busy one is asked for by its name.
            if runner.missed >= CONTRADICTIONS && !registered {
                return vec![Effect::LookUpRegistration];
            }
            return vec![];
        }
        Seen::Present(_) | Seen::Unknown => {}
    }
    match runner.state {
        Starting | Idle if !registered => {
            runner.missed = runner.missed.saturating_add(1);
            if runner.missed >= CONTRADICTIONS {
                runner.error = Some("GitHub does not list it any more".to_owned());
                let parts = Parts { deregister_first: true, ..Parts::BOTH };
                return remove(runner, DeleteReason::LeakedInstance, parts, now);
            }
        }
        // Its job is over, and the event that says so got lost: GitHub forgets a runner only when it has none.
        Busy if !registered => {
            runner.missed = runner.missed.saturating_add(1);
            if runner.missed >= CONTRADICTIONS {
                return vec![Effect::LookUpRegistration];
            }
        }
        // It waits for work that cannot reach it, in the place of one that could do it.
        Idle if matches!(&sighting.registration, Seen::Present(remote) if !remote.online) => {
            runner.missed = runner.missed.saturating_add(1);
            if runner.missed >= CONTRADICTIONS {
                runner.error = Some("GitHub lists it as offline".to_owned());
                let parts = Parts { deregister_first: true, ..Parts::BOTH };
                return remove(runner, DeleteReason::LeakedInstance, parts, now);
            }
        }
        // Only GitHub's lagging flag made it busy, and the flag is gone.
        Busy if runner.job.is_none() && matches!(&sighting.registration, Seen::Present(remote) if !remote.busy) => {
            runner.missed = runner.missed.saturating_add(1);
            if runner.missed >= CONTRADICTIONS {
                enter(runner, Idle, now, "GitHub lists it as not busy, and no event names a job");
            }
        }
        _ => runner.missed = 0,
    }
    vec![]
}
