//! The two halves of a removal: what is still to be done, and when it is called off or finished.

use jiff::Timestamp;

use super::{Effect, asked_to_wait, enter, retry_later, wait_at_least};
use crate::model::remote::{Deregistered, GitHubError};
use crate::model::runner::{DeleteReason, Removal, Runner, RunnerState};

use RunnerState::{Busy, Deleting, Failed, Gone};

pub(super) fn deregistered(
    runner: &mut Runner,
    answer: Result<Deregistered, GitHubError>,
    now: Timestamp,
) -> Vec<Effect> {
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
pub(super) struct Parts {
    pub(super) registration: bool,
    pub(super) instance: bool,
    pub(super) deregister_first: bool,
}

impl Parts {
    pub(super) const BOTH: Self = Self { registration: true, instance: true, deregister_first: false };
}

pub(super) fn remove(runner: &mut Runner, reason: DeleteReason, parts: Parts, now: Timestamp) -> Vec<Effect> {
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
pub(super) fn pending_parts(runner: &Runner) -> Vec<Effect> {
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
pub(super) fn keep(runner: &mut Runner, now: Timestamp, why: &str) {
    runner.removal = None;
    runner.online_at.get_or_insert(now);
    enter(runner, Busy, now, why);
}

pub(super) fn finish_if_done(runner: &mut Runner, now: Timestamp) {
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
