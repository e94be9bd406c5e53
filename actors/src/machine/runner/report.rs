//! What an instance says of itself while it boots: noted in its runner's history; that it failed ends the attempt.

use jiff::Timestamp;

use super::Effect;
use super::removal::{Parts, remove};
use crate::model::report::{InstanceReport, ReportStatus};
use crate::model::runner::{DeleteReason, HISTORY_MAX, Runner, Transition};

/// How a report begins in a history.
const PREFIX: &str = "instance reports ";
/// Most reports in one history; the oldest go, so that they never push out how the runner came here.
const REPORTS_MAX: usize = HISTORY_MAX / 2;

/// Takes note of a report of an instance whose runner is not online yet.
pub(super) fn reported(runner: &mut Runner, report: InstanceReport, now: Timestamp) -> Vec<Effect> {
    let InstanceReport { status, message } = report;
    let text = match message.is_empty() {
        true => format!("{PREFIX}{}", status.as_str()),
        false => format!("{PREFIX}{}: {message}", status.as_str()),
    };
    note(runner, now, &text);
    if status != ReportStatus::Failed {
        return vec![];
    }
    runner.error = Some(text);
    remove(runner, DeleteReason::CreateFailed, Parts { deregister_first: true, ..Parts::BOTH }, now)
}

/// An entry of the history that changes no state.
fn note(runner: &mut Runner, now: Timestamp, text: &str) {
    let is_report = |entry: &Transition| entry.reason.starts_with(PREFIX);
    if runner.history.iter().filter(|entry| is_report(entry)).count() >= REPORTS_MAX
        && let Some(oldest) = runner.history.iter().position(is_report)
    {
        runner.history.remove(oldest);
    }
    if runner.history.len() < HISTORY_MAX {
        runner.history.push(Transition { state: runner.state, at: now, reason: text.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::requested as fresh;
    use super::super::{Event, step};
    use super::*;
    use crate::id::{InstanceId, JobId, RunnerId};
    use crate::model::runner::RunnerState;
    use crate::model::secret::Secret;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn registered() -> Event {
        Event::Registered { id: RunnerId(9), jit_config: Secret::new("jit".into()) }
    }

    fn after(events: Vec<Event>) -> Runner {
        events.into_iter().fold(fresh(), |runner, event| step(runner, event, at(1)).0)
    }

    fn event(status: ReportStatus, message: &str) -> Event {
        Event::Reported(InstanceReport::new(status, message))
    }

    fn starting() -> Runner {
        after(vec![Event::Start, registered(), Event::Created(InstanceId::new("i-1").unwrap())])
    }

    #[test]
    fn what_an_instance_reports_is_in_the_history_and_changes_nothing_else() {
        let before = starting();
        let (after, effects) = step(before.clone(), event(ReportStatus::Installing, "downloading"), at(9));
        assert!(effects.is_empty());
        assert_eq!((after.state, after.since, after.retry_at), (before.state, before.since, before.retry_at));
        let last = after.history.last().unwrap();
        assert_eq!((last.state, last.at), (RunnerState::Starting, at(9)));
        assert_eq!(last.reason, "instance reports installing: downloading");
    }

    #[test]
    fn an_instance_that_reports_failure_is_removed_at_once_after_its_registration() {
        let (after, effects) = step(starting(), event(ReportStatus::Failed, "no disk"), at(9));
        assert_eq!(after.state, RunnerState::Deleting);
        assert_eq!(after.error.as_deref(), Some("instance reports failed: no disk"));
        let removal = after.removal.unwrap();
        assert_eq!(removal.reason, DeleteReason::CreateFailed);
        assert!(removal.deregister_first);
        assert!(matches!(effects[..], [Effect::Deregister]), "{effects:?}");
    }

    #[test]
    fn a_failure_while_the_creation_is_out_waits_for_its_answer() {
        let provisioning = after(vec![Event::Start, registered()]);
        let (after, effects) = step(provisioning, event(ReportStatus::Failed, "early"), at(9));
        assert_eq!((after.state, effects.len()), (RunnerState::Deleting, 0));
        let (_, effects) = step(after, Event::Created(InstanceId::new("i-1").unwrap()), at(10));
        assert!(matches!(effects[..], [Effect::Deregister]), "{effects:?}");
    }

    #[test]
    fn a_runner_that_is_online_or_going_does_not_listen() {
        let busy = step(starting(), Event::JobStarted(JobId(7)), at(8)).0;
        let gone = step(busy.clone(), Event::JobCompleted(JobId(7)), at(9)).0;
        for runner in [fresh(), busy, gone] {
            let (after, effects) = step(runner.clone(), event(ReportStatus::Failed, "late"), at(10));
            assert_eq!((after, effects.len()), (runner, 0));
        }
    }

    #[test]
    fn however_much_an_instance_reports_the_history_stays_bounded_and_keeps_how_it_came_here() {
        let before = starting();
        let steps = before.history.len();
        let mut runner = before.clone();
        for n in 0..200 {
            runner = step(runner, event(ReportStatus::Installing, &format!("step {n}")), at(9 + n)).0;
        }
        assert!(runner.history.len() <= HISTORY_MAX, "{}", runner.history.len());
        assert_eq!(runner.history[..steps], before.history);
        assert!(runner.history.last().unwrap().reason.ends_with("step 199"));
    }
}
