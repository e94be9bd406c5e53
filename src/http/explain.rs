//! "Why is my job still queued?": one plain sentence. Pure: the same situation gives the same sentence.

use actors::actor::directory::Health;
use actors::id::GroupName;
use actors::model::group::{BreakerState, GroupSnapshot};
use actors::model::job::{Job, JobStatus, Milestone};
use actors::model::runner::{Runner, RunnerState};
use actors::model::settings::GroupSettings;
use jiff::Timestamp;

/// What is known about a job and its group at one moment.
pub(super) struct Situation<'a> {
    /// The job.
    pub(super) job: &'a Job,
    /// Its group as configured, and how its actor fares; none when it is not configured (any more).
    pub(super) group: Option<(&'a GroupSettings, &'a Health)>,
    /// What the group remembers.
    pub(super) snapshot: &'a GroupSnapshot,
    /// Runners of the group, in the order of [`RunnerState::ALL`].
    pub(super) runners: [u32; RunnerState::ALL.len()],
    /// Jobs of the group in demand before this one.
    pub(super) ahead: usize,
    /// The runner that was requested for this job, unless it is final.
    pub(super) requested: Option<&'a Runner>,
    /// The time.
    pub(super) now: Timestamp,
}

/// The answer.
pub(super) fn answer(situation: &Situation<'_>) -> String {
    let Situation { job, now, .. } = situation;
    match job.status {
        JobStatus::Queued => queued(situation),
        JobStatus::Waiting => {
            "It waits for an approval at GitHub; a runner is requested once GitHub queues it again.".to_owned()
        }
        JobStatus::InProgress => {
            let since = job.taken_at.map(|at| format!(" {} ago", age(at, *now))).unwrap_or_default();
            format!("It is not queued any more: {} took it{since}.", taker(job))
        }
        JobStatus::Completed => {
            let ago = job.finished_at.map(|at| format!(" {} ago", age(at, *now))).unwrap_or_default();
            let conclusion = job.conclusion.as_deref().unwrap_or("unknown");
            let taken = match job.runner {
                Some(_) => format!("{} took it", taker(job)),
                None => "no runner took it".to_owned(),
            };
            format!("It is not queued any more: it finished{ago} with the conclusion {conclusion}; {taken}.")
        }
        JobStatus::Unmatched => {
            let reason = job.timeline.iter().rev().find_map(|entry| match &entry.what {
                Milestone::Unmatched { reason } => Some(reason.as_str()),
                _ => None,
            });
            let reason = reason.unwrap_or("the reason is not known any more");
            format!("No runner group serves it: {}.", reason.trim_end_matches('.'))
        }
    }
}

fn taker(job: &Job) -> String {
    match &job.runner {
        Some(runner) if !runner.name.is_empty() => format!("runner {}", runner.name),
        Some(runner) => match runner.id {
            Some(id) => format!("the runner with the id {id}"),
            None => "a runner".to_owned(),
        },
        None => "a runner".to_owned(),
    }
}

fn queued(situation: &Situation<'_>) -> String {
    let Situation { job, snapshot, ahead, now, .. } = situation;
    let Some((settings, health)) = situation.group else {
        return match &job.group {
            Some(group) => format!("Group {group}, which serves it, is not configured any more."),
            None => "No runner group serves it.".to_owned(),
        };
    };
    let group = &settings.name;
    if let Health::Parked { error } = health {
        return format!(
            "Group {group} is stopped after repeated failures and is started again every few minutes, or at once by the message \"reset\"; the last one: {}.",
            error.trim_end_matches('.')
        );
    }
    if let Some(runner) = situation.requested.filter(|r| r.state.is_available()) {
        return on_its_way(runner, *now);
    }
    if let Some(answer) = another_runner(situation, group) {
        return answer;
    }
    let line = queue(*ahead);
    if snapshot.drained {
        return format!("Group {group} is drained and creates no runners until it is resumed; {line}.");
    }
    if snapshot.looking {
        let error = snapshot.last_error.as_ref().map(|error| format!(": {}", error.text.trim_end_matches('.')));
        return format!(
            "Group {group} creates no runners before it has seen what exists already{}; {line}.",
            error.unwrap_or_default()
        );
    }
    if let Some(answer) = left_alone(situation, settings) {
        return answer;
    }
    if let Some(until) = snapshot.not_before.filter(|until| until > now) {
        let error = match &snapshot.last_error {
            Some(error) => format!(": {}", error.text.trim_end_matches('.')),
            None => String::new(),
        };
        let tries = match snapshot.failures {
            0 | 1 => "the last attempt to start a runner failed".to_owned(),
            n => format!("the last {n} attempts to start a runner failed"),
        };
        return format!("Group {group} tries again in {}, because {tries}{error}; {line}.", age(*now, until));
    }
    let existing: u32 = existing(&situation.runners);
    if existing >= settings.max {
        return format!(
            "It waits for a place in group {group}: {existing} of at most {} runners exist ({}); {line}.",
            settings.max,
            by_state(&situation.runners)
        );
    }
    format!("Group {group} is about to request a runner for it; {line}.")
}

/// All backends failed too often: until when the first of them is left alone.
fn left_alone(situation: &Situation<'_>, settings: &GroupSettings) -> Option<String> {
    let mut first = None;
    for backend in &settings.backends {
        let breaker = situation.snapshot.breakers.get(&backend.name)?;
        let BreakerState::Open { until } = breaker.state else { return None };
        if first.is_none_or(|(other, _, _)| until < other) {
            first = Some((until, backend, breaker));
        }
    }
    let (until, backend, breaker) = first?;
    Some(format!(
        "Group {} leaves backend {} alone for {} after {} failures in a row: {}; {}.",
        settings.name,
        backend.name,
        age(situation.now, until),
        breaker.failures,
        breaker.error.text.trim_end_matches('.'),
        queue(situation.ahead)
    ))
}

fn on_its_way(runner: &Runner, now: Timestamp) -> String {
    let Runner { name, state, .. } = runner;
    let ago = age(runner.created_at, now);
    match state {
        RunnerState::Idle => {
            format!("Runner {name}, requested for it {ago} ago, is online: GitHub is to give it a job.")
        }
        RunnerState::Starting => format!(
            "Runner {name} was requested for it {ago} ago and is starting; it is replaced if it is not online within {}.",
            spell(i64::try_from(runner.time_to_start.as_secs()).unwrap_or(i64::MAX))
        ),
        _ => format!("Runner {name} was requested for it {ago} ago and is {}.", state.as_str()),
    }
}

/// A runner that was made for another job, or for the warm pool, and is free for this one.
fn another_runner(situation: &Situation<'_>, group: &GroupName) -> Option<String> {
    let idle = count(&situation.runners, RunnerState::Idle);
    let available: u32 = RunnerState::ALL
        .iter()
        .filter(|state| state.is_available())
        .map(|state| count(&situation.runners, *state))
        .sum();
    let ahead = situation.ahead;
    if (idle as usize) > ahead {
        let online = if idle == 1 { "1 runner is".to_owned() } else { format!("{idle} runners are") };
        return Some(format!("In group {group} {online} online and idle: GitHub is to give it to one."));
    }
    if (available as usize) > ahead {
        let coming = available - idle;
        let starting = if coming == 1 { "1 runner is".to_owned() } else { format!("{coming} runners are") };
        return Some(format!("In group {group} {starting} being started, enough to serve it; {}.", queue(ahead)));
    }
    None
}

fn count(runners: &[u32; RunnerState::ALL.len()], state: RunnerState) -> u32 {
    RunnerState::ALL.iter().zip(runners).find(|(s, _)| **s == state).map_or(0, |(_, n)| *n)
}

fn existing(runners: &[u32; RunnerState::ALL.len()]) -> u32 {
    RunnerState::ALL.iter().zip(runners).filter(|(s, _)| !s.is_final()).map(|(_, n)| *n).sum()
}

fn by_state(runners: &[u32; RunnerState::ALL.len()]) -> String {
    let present = RunnerState::ALL.iter().zip(runners).filter(|(state, n)| **n > 0 && !state.is_final());
    let parts: Vec<String> = present.map(|(state, n)| format!("{n} {}", state.as_str())).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

fn queue(ahead: usize) -> String {
    match ahead {
        0 => "no job is ahead of it".to_owned(),
        1 => "1 job is ahead of it".to_owned(),
        n => format!("{n} jobs are ahead of it"),
    }
}

/// The time between two moments, in the two largest units.
fn age(from: Timestamp, to: Timestamp) -> String {
    spell(to.as_second().saturating_sub(from.as_second()).max(0))
}

fn spell(seconds: i64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let two = |big: i64, unit: &str, small: i64, rest: &str| match small {
        0 => format!("{big} {unit}"),
        _ => format!("{big} {unit} {small} {rest}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => two(minutes, "min", seconds % 60, "s"),
        (0, _, _) => two(hours, "h", minutes, "min"),
        _ => two(days, "d", hours, "h"),
    }
}

/// One line of a timeline, for people.
pub(super) fn describe(what: &Milestone) -> String {
    match what {
        Milestone::Received { action, .. } => format!("GitHub said: {action}"),
        Milestone::Matched { group, reason } => format!("group {group} serves it: {reason}"),
        Milestone::Unmatched { reason } => format!("no group serves it: {reason}"),
        Milestone::WaitingForCapacity { ahead, runners, max } => {
            format!("waits for a place: {runners} of at most {max} runners exist; {}", queue(*ahead))
        }
        Milestone::Held { reason, until: Some(until) } => format!("held until {until:.0}: {reason}"),
        Milestone::Held { reason, until: None } => format!("held: {reason}"),
        Milestone::WaitingForApproval => "waits for an approval at GitHub".to_owned(),
        Milestone::RunnerRequested { runner } => format!("runner {runner} requested"),
        Milestone::RunnerRegistered { runner } => format!("runner {runner} registered at GitHub"),
        Milestone::InstanceCreated { runner, instance } => format!("instance {instance} of runner {runner} created"),
        Milestone::RunnerOnline { runner } => format!("runner {runner} online"),
        Milestone::RunnerFailed { runner, error } => format!("runner {runner} could not be started: {error}"),
        Milestone::FellBack { runner, backend, error, next } => {
            format!("backend {backend} made no instance for runner {runner} ({error}): backend {next} is asked")
        }
        Milestone::Verified { answer } => format!("nothing was heard of it for long, so GitHub was asked: {answer}"),
        Milestone::Taken { runner, ours } => {
            let runner = if runner.is_empty() { "a runner that GitHub does not name" } else { runner };
            format!("taken by {runner}{}", if *ours { "" } else { ", which is not one of ours" })
        }
        Milestone::Finished { conclusion } => format!("finished: {conclusion}"),
    }
}

#[cfg(test)]
mod tests;
