//! One runner through every turn of its life.

use proptest::prelude::*;

use super::*;
use crate::id::{Attempt, RunnerName};
use crate::model::instance::InstanceStatus;
use crate::model::report::ReportStatus;

const NAMES: &str = "octo-aaaaaaaa";

fn t(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(crate) fn requested() -> Runner {
    let group = crate::machine::group::tests::settings("octo", 0, 5);
    Runner::requested(RunnerName::new(NAMES).unwrap(), &group, Attempt(0), t(0))
}

fn registered() -> Event {
    Event::Registered { id: RunnerId(9), jit_config: Secret::new("jit".into()) }
}

fn create_failed(error: BackendError) -> Event {
    Event::CreateFailed { error, jit_config: None }
}

fn created() -> Event {
    Event::Created(InstanceId::new("i-1").unwrap())
}

fn remote(online: bool, busy: bool) -> RemoteRunner {
    RemoteRunner { id: RunnerId(9), name: NAMES.into(), online, busy, labels: vec![] }
}

fn instance(status: InstanceStatus) -> Instance {
    Instance { id: InstanceId::new("i-1").unwrap(), runner: RunnerName::new(NAMES).unwrap(), status }
}

/// Feeds events, one a second, and returns the runner and the names of the last event's effects.
fn after(events: Vec<Event>) -> (Runner, Vec<String>) {
    let mut runner = requested();
    let mut last = vec![];
    for (n, event) in events.into_iter().enumerate() {
        let (next, effects) = step(runner, event, t(1 + n as i64));
        runner = next;
        last = effects.iter().map(|e| format!("{e:?}").split(' ').next().unwrap_or_default().to_owned()).collect();
    }
    (runner, last)
}

fn online(busy: bool) -> Event {
    Event::RegistrationLookedUp(Ok(Some(remote(true, busy))))
}

fn gone_at_github() -> Event {
    Event::Deregistered(Ok(Deregistered::Absent))
}

#[test]
fn the_usual_life() {
    let (runner, effects) = after(vec![Event::Start]);
    assert_eq!((runner.state, effects), (Registering, vec!["Register".to_owned()]));
    let (runner, effects) = after(vec![Event::Start, registered()]);
    assert_eq!((runner.state, effects), (Provisioning, vec!["CreateInstance".to_owned()]));
    let (runner, _) = after(vec![Event::Start, registered(), created()]);
    assert_eq!((runner.state, wake_at(&runner)), (Starting, Some(t(603))));
    let (runner, _) = after(vec![Event::Start, registered(), created(), Event::JobStarted(JobId(1))]);
    assert_eq!((runner.state, runner.job, wake_at(&runner)), (Busy, Some(JobId(1)), Some(t(3604))));
    let usual =
        || vec![Event::Start, registered(), created(), Event::JobStarted(JobId(1)), Event::JobCompleted(JobId(1))];
    let (runner, effects) = after(usual());
    assert_eq!((runner.state, effects), (Deleting, vec!["Deregister".to_owned(), "DeleteInstance".to_owned()]));
    let (runner, _) =
        after([usual(), vec![gone_at_github(), Event::InstanceDeleted(Ok(()))]].into_iter().flatten().collect());
    assert_eq!(runner.state, Gone);
    let states: Vec<_> = runner.history.iter().map(|h| h.state).collect();
    assert_eq!(states, [Registering, Provisioning, Starting, Busy, Deleting, Gone]);
}

#[test]
fn a_job_may_start_and_even_end_before_the_create_call_came_back() {
    let (runner, effects) =
        after(vec![Event::Start, registered(), Event::JobStarted(JobId(1)), Event::JobCompleted(JobId(1))]);
    assert_eq!((runner.state, effects.len()), (Deleting, 0), "the instance may not exist yet: wait for the call");
    let (runner, effects) = step(runner, created(), t(9));
    assert_eq!(effects.len(), 2);
    assert_eq!(runner.instance.unwrap().as_str(), "i-1");
}

#[test]
fn a_runner_that_is_not_online_in_time_is_removed_only_when_github_says_so() {
    let starting = || after(vec![Event::Start, registered(), created()]).0;
    let (asked, effects) = step(starting(), Event::Tick, t(603));
    assert!(matches!(effects[..], [Effect::LookUpRegistration]));
    let (unknown, effects) =
        step(asked.clone(), Event::RegistrationLookedUp(Err(GitHubError::Unknown("502".into()))), t(604));
    assert_eq!((unknown.state, effects.len()), (Starting, 0));
    assert!(wake_at(&unknown).unwrap() > t(604));
    let (idle, _) = step(asked.clone(), online(false), t(604));
    assert_eq!(idle.state, Idle);
    let (late, effects) = step(asked, Event::RegistrationLookedUp(Ok(Some(remote(false, false)))), t(604));
    assert_eq!(late.state, Deleting);
    assert!(matches!(effects[..], [Effect::Deregister]), "it may be taking a job this very moment");
}

#[test]
fn scale_down_deregisters_first_and_gives_way_to_work() {
    let idle = || after(vec![Event::Start, registered(), created(), online(false), Event::ScaleDown]).0;
    let (busy, effects) = step(idle(), Event::Deregistered(Ok(Deregistered::Busy)), t(9));
    assert_eq!(busy.state, Busy);
    assert!(!effects.iter().any(|e| matches!(e, Effect::DeleteInstance)));
    let (busy, effects) = step(idle(), Event::JobStarted(JobId(5)), t(9));
    assert_eq!((busy.state, busy.job), (Busy, Some(JobId(5))));
    assert!(!effects.iter().any(|e| matches!(e, Effect::DeleteInstance)));
    let (unknown, effects) = step(idle(), Event::Deregistered(Err(GitHubError::Unknown("time-out".into()))), t(9));
    assert_eq!((unknown.state, effects.len()), (Deleting, 0));
    let (gone, effects) = step(idle(), Event::Deregistered(Ok(Deregistered::Removed)), t(9));
    assert_eq!(gone.state, Deleting);
    assert!(matches!(effects[..], [Effect::DeleteInstance]));
}

#[test]
fn an_unknown_outcome_is_cleaned_up_on_both_sides_and_a_known_failure_only_where_needed() {
    let (runner, effects) = after(vec![Event::Start, Event::RegisterFailed(GitHubError::Unknown("lost".into()))]);
    assert_eq!((runner.state, effects), (Deleting, vec!["Deregister".to_owned()]));
    let (runner, effects) = after(vec![Event::Start, Event::RegisterFailed(GitHubError::Forbidden("no".into()))]);
    assert_eq!((runner.state, effects.len()), (Failed, 0));
    let (runner, effects) =
        after(vec![Event::Start, registered(), create_failed(BackendError::NoCapacity("none".into()))]);
    assert_eq!((runner.state, effects), (Deleting, vec!["Deregister".to_owned()]));
    let (runner, effects) =
        after(vec![Event::Start, registered(), create_failed(BackendError::Timeout("slow".into()))]);
    assert_eq!((runner.state, effects), (Deleting, vec!["Deregister".to_owned()]), "first: it may be at work");
    let effects = step(runner, gone_at_github(), t(9)).1;
    assert!(matches!(effects[..], [Effect::DeleteInstance]), "{effects:?}");
}

#[test]
fn an_instance_whose_creation_was_not_answered_is_kept_once_it_works() {
    let lost = || vec![Event::Start, registered(), create_failed(BackendError::Timeout("slow".into()))];
    for news in [Event::JobStarted(JobId(7)), Event::Deregistered(Ok(Deregistered::Busy))] {
        let (runner, effects) = after(lost().into_iter().chain([news]).collect());
        assert_eq!((runner.state, effects), (Busy, vec!["UpdateMetadata".to_owned()]));
    }
}

#[test]
fn recovery_looks_before_it_acts() {
    let (runner, effects) = after(vec![Event::Start, Event::Recovered]);
    assert_eq!((runner.state, effects), (Deleting, vec!["Deregister".to_owned()]), "its config is lost");
    let (runner, effects) = after(vec![Event::Start, registered(), Event::Recovered]);
    assert_eq!((runner.state, effects), (Provisioning, vec!["LookUpInstance".to_owned()]));
    let found = Event::InstanceLookedUp(Ok(Some(instance(InstanceStatus::Running))));
    assert_eq!(step(runner.clone(), found, t(9)).0.state, Starting);
    let (over, effects) =
        step(runner.clone(), Event::InstanceLookedUp(Ok(Some(instance(InstanceStatus::Stopped)))), t(9));
    assert_eq!((over.state, effects.len()), (Deleting, 2), "it never started, or is over already");
    let (unknown, _) =
        step(runner.clone(), Event::InstanceLookedUp(Err(BackendError::Unavailable("down".into()))), t(9));
    assert_eq!(unknown.state, Provisioning);
    assert!(wake_at(&unknown).is_some());
    let (once, effects) = step(runner, Event::InstanceLookedUp(Ok(None)), t(9));
    assert_eq!((once.state, effects.len()), (Provisioning, 0), "the create may still be at work");
    let (absent, effects) = step(once, Event::InstanceLookedUp(Ok(None)), t(12));
    assert_eq!((absent.state, effects.len()), (Deleting, 2));
}

#[test]
fn time_to_live_ends_even_a_busy_runner() {
    let (busy, _) = after(vec![Event::Start, registered(), created(), Event::JobStarted(JobId(1))]);
    assert_eq!(step(busy.clone(), Event::Tick, t(3603)).0.state, Busy);
    let (ended, effects) = step(busy, Event::Tick, t(3604));
    assert_eq!((ended.state, effects.len()), (Deleting, 2));
}

#[test]
fn a_listing_that_misses_an_instance_once_changes_nothing() {
    let (idle, _) = after(vec![Event::Start, registered(), created(), online(false)]);
    let sighting = |at, instance| {
        Event::Sighted(Sighting { at: t(at), registration: Seen::Present(remote(true, false)), instance })
    };
    let (once, _) = step(idle, sighting(10, Seen::Absent), t(10));
    assert_eq!(once.state, Idle);
    let (healthy, _) = step(once.clone(), sighting(11, Seen::Present(instance(InstanceStatus::Running))), t(11));
    assert_eq!((healthy.state, healthy.missed), (Idle, 0));
    let (twice, _) = step(once.clone(), sighting(11, Seen::Absent), t(11));
    assert_eq!(twice.state, Deleting);
    let (old, _) = step(once, sighting(3, Seen::Absent), t(11));
    assert_eq!(old.state, Idle, "a listing older than the state says nothing about it");
}

#[test]
fn failed_removals_are_tried_again_ever_more_slowly() {
    let (mut runner, _) =
        after(vec![Event::Start, registered(), created(), Event::JobStarted(JobId(1)), Event::JobCompleted(JobId(1))]);
    let mut waits = vec![];
    let mut now = t(100);
    for _ in 0..9 {
        runner = step(runner, Event::InstanceDeleted(Err(BackendError::Unavailable("down".into()))), now).0;
        let due = wake_at(&runner).unwrap();
        waits.push(due.duration_since(now).as_secs());
        let (next, effects) = step(runner, Event::Tick, due);
        assert!(effects.iter().any(|e| matches!(e, Effect::DeleteInstance)));
        (runner, now) = (next, due);
    }
    assert!(waits.windows(2).all(|w| w[0] <= w[1].max(90)), "{waits:?}");
    assert!(waits[8] >= 90, "{waits:?}");
}

#[test]
fn waits_of_any_length_end_at_the_end_of_time() {
    let forever = Duration::MAX;
    let limited = GitHubError::RateLimited { text: "slow".into(), retry_after: forever };
    let (failed, _) = after(vec![Event::Start, Event::RegisterFailed(limited)]);
    assert_eq!(failed.retry_at, Some(Timestamp::MAX));
    let throttled = BackendError::Throttled { text: "slow".into(), retry_after: Some(forever) };
    let (deleting, _) = after(vec![Event::Start, registered(), create_failed(throttled)]);
    assert_eq!(deleting.retry_at, Some(Timestamp::MAX));
    let (mut busy, _) = after(vec![Event::Start, registered(), created(), Event::JobStarted(JobId(1))]);
    busy.time_to_live = forever;
    assert_eq!(wake_at(&busy), Some(Timestamp::MAX));
    let (mut starting, _) = after(vec![Event::Start, registered(), created()]);
    starting.time_to_start = forever;
    assert_eq!(wake_at(&starting), Some(Timestamp::MAX));
    assert_eq!(step(starting, Event::RegistrationLookedUp(Ok(None)), t(9)).0.state, Starting);
}

/// The states after one, two, … listings in a row that all say the same, and the effects of the last.
fn listed(mut runner: Runner, registration: &Seen<RemoteRunner>, times: i64) -> (Runner, Vec<Effect>) {
    let mut last = vec![];
    for n in 0..times {
        let sighting = Sighting {
            at: t(100 + n),
            registration: registration.clone(),
            instance: Seen::Present(instance(InstanceStatus::Running)),
        };
        assert!(minds(&runner, &sighting));
        (runner, last) = step(runner, Event::Sighted(sighting), t(100 + n));
    }
    (runner, last)
}

#[test]
fn a_busy_runner_that_github_forgot_is_done_once_github_confirms_it() {
    let busy = || after(vec![Event::Start, registered(), created(), Event::JobStarted(JobId(1))]).0;
    assert!(listed(busy(), &Seen::Absent, 1).1.is_empty(), "a listing may miss it");
    let (asked, effects) = listed(busy(), &Seen::Absent, 2);
    assert_eq!(asked.state, Busy);
    assert!(matches!(effects[..], [Effect::LookUpRegistration]));
    let unknown = Event::RegistrationLookedUp(Err(GitHubError::Unknown("502".into())));
    assert_eq!(step(asked.clone(), unknown, t(200)).0.state, Busy);
    assert_eq!(step(asked.clone(), online(false), t(200)).0.state, Busy);
    assert_eq!(step(asked, Event::RegistrationLookedUp(Ok(None)), t(200)).0.state, Deleting);
    assert_eq!(
        step(busy(), Event::RegistrationLookedUp(Ok(None)), t(200)).0.state,
        Busy,
        "an answer to an old question"
    );
}

#[test]
fn a_busy_runner_that_no_listing_shows_goes_only_once_github_does_not_know_it() {
    let missed = |at| Event::Sighted(Sighting { at: t(at), registration: Seen::Absent, instance: Seen::Absent });
    let (busy, _) = after(vec![Event::Start, registered(), created(), Event::JobStarted(JobId(1))]);
    let (once, effects) = step(busy, missed(100), t(100));
    assert!(effects.is_empty());
    // Pages shift while they are read, and backends list late: both may miss a runner that works.
    let (twice, effects) = step(once, missed(160), t(160));
    assert_eq!(twice.state, Busy);
    assert!(matches!(effects[..], [Effect::LookUpRegistration]));
    assert_eq!(step(twice.clone(), online(true), t(161)).0.state, Busy);
    assert_eq!(step(twice, Event::RegistrationLookedUp(Ok(None)), t(161)).0.state, Deleting);
}

#[test]
fn an_idle_runner_that_github_cannot_reach_or_find_gives_its_place_away() {
    let idle = || after(vec![Event::Start, registered(), created(), online(false)]).0;
    for registration in [Seen::Present(remote(false, false)), Seen::Absent] {
        assert_eq!(listed(idle(), &registration, 1).0.state, Idle);
        let (gone, effects) = listed(idle(), &registration, 2);
        assert_eq!(gone.state, Deleting);
        assert!(matches!(effects[..], [Effect::Deregister]), "GitHub is asked first: it may have work again");
    }
}

#[test]
fn who_asks_to_wait_is_not_asked_before() {
    let wait = Duration::from_secs(900);
    let limited = || GitHubError::RateLimited { text: "slow".into(), retry_after: wait };
    let starting = || after(vec![Event::Start, registered(), created()]).0;
    let looked = step(starting(), Event::RegistrationLookedUp(Err(limited())), t(700)).0;
    let deleting = || step(starting(), Event::JobCompleted(JobId(1)), t(700)).0;
    let deregistered = step(deleting(), Event::Deregistered(Err(limited())), t(700)).0;
    let throttled = BackendError::Throttled { text: "slow".into(), retry_after: Some(wait) };
    let deleted = step(deleting(), Event::InstanceDeleted(Err(throttled.clone())), t(700)).0;
    let provisioning = after(vec![Event::Start, registered(), Event::Recovered]).0;
    let looked_up = step(provisioning, Event::InstanceLookedUp(Err(throttled)), t(700)).0;
    for runner in [looked, deregistered, deleted, looked_up] {
        assert!(wake_at(&runner).unwrap() >= t(1600), "{runner:?}");
    }
}

#[test]
fn a_job_that_ended_leaves_nothing_to_ask_before_the_instance_goes() {
    let leaving = after(vec![Event::Start, registered(), created(), online(false), Event::ScaleDown]).0;
    let (_, effects) = step(leaving, Event::JobCompleted(JobId(1)), t(9));
    assert!(effects.iter().any(|e| matches!(e, Effect::DeleteInstance)));
}

fn any_event() -> impl Strategy<Value = u8> {
    0..34_u8
}

fn event(n: u8) -> Event {
    match n {
        0 => Event::Start,
        1 => Event::Recovered,
        2 => registered(),
        3 => Event::RegisterFailed(GitHubError::Unknown("x".into())),
        4 => Event::RegisterFailed(GitHubError::Invalid("x".into())),
        5 => created(),
        6 => create_failed(BackendError::Timeout("x".into())),
        7 => create_failed(BackendError::Quota("x".into())),
        8 => Event::InstanceLookedUp(Ok(None)),
        9 => Event::InstanceLookedUp(Ok(Some(instance(InstanceStatus::Running)))),
        10 => Event::InstanceLookedUp(Err(BackendError::Unavailable("x".into()))),
        11 => Event::RegistrationLookedUp(Ok(None)),
        12 => online(false),
        13 => online(true),
        14 => Event::RegistrationLookedUp(Err(GitHubError::Unknown("x".into()))),
        15 => gone_at_github(),
        16 => Event::Deregistered(Ok(Deregistered::Busy)),
        17 => Event::Deregistered(Err(GitHubError::Unknown("x".into()))),
        18 => Event::InstanceDeleted(Ok(())),
        19 => Event::InstanceDeleted(Err(BackendError::Timeout("x".into()))),
        20 => Event::JobStarted(JobId(1)),
        21 => Event::JobCompleted(JobId(1)),
        22 => Event::ScaleDown,
        23 => Event::Remove { reason: DeleteReason::Requested, force: false },
        24 => Event::Remove { reason: DeleteReason::Requested, force: true },
        25 => Event::Sighted(Sighting { at: t(1_000_000), registration: Seen::Absent, instance: Seen::Absent }),
        26 => Event::Sighted(Sighting {
            at: t(1_000_000),
            registration: Seen::Present(remote(true, true)),
            instance: Seen::Unknown,
        }),
        27 => Event::Sighted(Sighting { at: t(1_000_000), registration: Seen::Unknown, instance: Seen::Unknown }),
        28 => Event::Sighted(Sighting {
            at: t(1_000_000),
            registration: Seen::Present(remote(true, false)),
            instance: Seen::Present(instance(InstanceStatus::Stopped)),
        }),
        29 => Event::Found,
        30 => Event::Reported(InstanceReport::new(ReportStatus::Installing, "x")),
        31 => Event::Reported(InstanceReport::new(ReportStatus::Failed, "x")),
        32 => Event::Moved { backend: "other".into(), at: t(1_000_000) },
        _ => Event::Tick,
    }
}

proptest! {
    #[test]
    fn any_sequence_of_events_keeps_the_invariants(events in proptest::collection::vec(any_event(), 0..60)) {
        let mut runner = requested();
        let mut created_calls = 0;
        let mut registered_calls = 0;
        for (n, e) in events.into_iter().enumerate() {
            let (was_busy, forced) = (runner.state == Busy, matches!(e, 24));
            let (was, missed) = (runner.state, runner.missed);
            let (next, effects) = step(runner, event(e), t(1 + n as i64));
            created_calls += effects.iter().filter(|e| matches!(e, Effect::CreateInstance { .. })).count();
            registered_calls += effects.iter().filter(|e| matches!(e, Effect::Register)).count();
            // A busy runner goes by force, by its completed job, by its time to live, when its instance has ended, or when
            // GitHub does not know it after two listings that missed it.
            if was_busy && next.state == Deleting {
                let ended = matches!(e, 21 | 28) || (e == 11 && missed >= 2);
                prop_assert!(forced || ended, "event {e} killed a busy runner");
            }
            prop_assert!(!effects.iter().any(|e| matches!(e, Effect::DeleteInstance)) || next.state == Deleting);
            if was.is_final() { prop_assert_eq!(next.state, was); prop_assert!(effects.is_empty()); }
            if next.state == Gone && was == Deleting {
                let removal = next.removal.as_ref().unwrap();
                prop_assert!(removal.deregistered && removal.instance_deleted);
            }
            if let Some(due) = wake_at(&next) {
                let ticked = step(next.clone(), Event::Tick, due.max(t(1 + n as i64))).0;
                prop_assert!(wake_at(&ticked).is_none_or(|again| again > due), "a deadline that does not move spins");
            }
            prop_assert!(next.history.len() <= HISTORY_MAX);
            prop_assert_eq!(next.removal.is_some() && !next.state.is_final(), next.state == Deleting);
            runner = next;
        }
        prop_assert!(created_calls <= 1 && registered_calls <= 1, "one name, one creation");
    }
}

#[test]
fn a_removal_waits_for_what_a_creation_that_was_cut_off_still_brings_about() {
    let ended = after(vec![Event::Start, registered(), Event::JobCompleted(JobId(1))]);
    assert!(ended.1.is_empty(), "the creation is out");
    let (recovered, effects) = step(ended.0, Event::Recovered, t(10));
    assert_eq!((recovered.state, recovered.retry_at), (RunnerState::Deleting, Some(t(13))));
    assert!(effects.is_empty(), "{effects:?}");
    let (recovered, effects) = step(recovered, Event::Recovered, t(11));
    assert!(effects.is_empty(), "{effects:?}");
    let (recovered, effects) = step(recovered, Event::Tick, t(13));
    assert!(effects.is_empty(), "not due yet: {effects:?}");
    let (_, effects) = step(recovered, Event::Tick, t(14));
    assert!(matches!(effects[..], [Effect::Deregister, Effect::DeleteInstance]), "{effects:?}");
}

#[test]
fn however_often_it_is_cut_off_an_instance_is_looked_for_twice_after_the_last_time() {
    let missed = || Event::InstanceLookedUp(Ok(None));
    let once = after(vec![Event::Start, registered(), Event::Recovered, missed()]).0;
    let (again, effects) = step(once, Event::Recovered, t(5));
    assert!(matches!(effects[..], [Effect::LookUpInstance]), "{effects:?}");
    assert_eq!(wake_at(&again), None, "nothing is due before that look");
    let (first, _) = step(again, missed(), t(6));
    assert_eq!((first.state, first.retry_at), (RunnerState::Provisioning, Some(t(9))));
    assert_eq!(step(first, missed(), t(9)).0.state, RunnerState::Deleting);
}
