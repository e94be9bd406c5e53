//! What is written, as arguments of the scripts.

use actors::id::{FencingToken, GroupName, JobId, ReplicaId};
use actors::model::delivery::Delivery;
use actors::model::job::{Job, JobStatus};
use actors::model::runner::Runner;
use actors::port::store::{Changes, Route};
use jiff::Timestamp;

use super::script::{ACQUIRE, Call, RECORD, SAVE};
use crate::store::codec::{self, CodecError};

/// A time as the keys hold it: whole microseconds since the Unix epoch.
pub(super) fn microseconds(time: Timestamp) -> String {
    time.as_nanosecond().div_euclid(1000).to_string()
}

/// The id of a job as the keys hold it: all of the same length, so that their order is that of the numbers.
pub(super) fn job_key(id: JobId) -> String {
    format!("{:020}", id.0)
}

/// Where an entry stands: group, state, score, since when it is settled.
fn place(group: Option<&GroupName>, state: &str, score: &str, settled: Option<Timestamp>) -> String {
    let settled = settled.map_or_else(|| "-".to_owned(), microseconds);
    format!("{} {state} {score} {settled}", group.map_or("-", GroupName::as_str))
}

fn job_place(job: &Job, group: Option<&GroupName>) -> String {
    let settled = match job.status {
        JobStatus::Completed => Some(job.finished_at.unwrap_or(job.received_at)),
        JobStatus::Unmatched => Some(job.received_at),
        JobStatus::Queued | JobStatus::Waiting | JobStatus::InProgress => group.is_none().then_some(job.received_at),
    };
    place(group, job.status.as_str(), &microseconds(job.received_at), settled)
}

fn runner_place(runner: &Runner) -> String {
    let settled = runner.state.is_final().then_some(runner.since);
    place(Some(&runner.group), runner.state.as_str(), "0", settled)
}

/// The group of a place.
pub(super) fn group_of(place: &str) -> Option<GroupName> {
    place.split(' ').next().filter(|group| *group != "-").and_then(|group| GroupName::new(group).ok())
}

/// A delivery, to be recorded by `me`.
pub(super) fn record(delivery: &Delivery, route: &Route, me: &ReplicaId) -> Result<Call, CodecError> {
    let name = |group: &Option<GroupName>| group.as_ref().map(|group| group.as_str().to_owned()).unwrap_or_default();
    let unmatched = route.unmatched.as_deref();
    Ok(Call::new(&RECORD)
        .arg(delivery.id.as_str())
        .arg(microseconds(delivery.received_at))
        .arg(job_key(delivery.event.job.id))
        .arg(codec::encode(delivery)?)
        .arg(name(&route.group))
        .arg(name(&route.runner_group))
        .arg(me.as_str())
        .arg(unmatched.map(|job| job_place(job, None)).unwrap_or_default())
        .arg(unmatched.map(codec::encode).transpose()?.unwrap_or_default()))
}

/// What a group saves. Two arguments are the lane's: the number of the save, and of the last acknowledged one.
pub(super) fn save(group: &GroupName, token: FencingToken, changes: &Changes) -> Result<Call, CodecError> {
    let snapshot = changes.snapshot.as_ref();
    let mut call = Call::new(&SAVE)
        .arg(group.as_str())
        .arg(token.to_string())
        .arg("")
        .arg("")
        .arg(snapshot.map(|snapshot| snapshot.cursor.to_string()).unwrap_or_default())
        .arg(snapshot.map(codec::encode).transpose()?.unwrap_or_default());
    for runner in &changes.runners {
        let body = codec::encode(runner.as_ref())?;
        call = call.arg("runners").arg(runner.name.as_str()).arg(runner_place(runner)).arg(body);
    }
    for job in &changes.jobs {
        let body = codec::encode(job.as_ref())?;
        call = call.arg("jobs").arg(job_key(job.id())).arg(job_place(job, job.group.as_ref())).arg(body);
    }
    Ok(call)
}

/// A group gets a new owner. The last argument is the lane's.
pub(super) fn acquire(group: &GroupName, me: &ReplicaId, instance: &str) -> Call {
    Call::new(&ACQUIRE).arg(group.as_str()).arg(me.as_str()).arg(instance).arg("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_jobs_sort_as_numbers_and_times_before_the_epoch_are_rounded_down() {
        let keys = [0, 9, 10, u64::MAX].map(|id| job_key(JobId(id)));
        assert!(keys.is_sorted(), "{keys:?}");
        assert_eq!(keys[3], "18446744073709551615");
        let times = [(-1, "-1"), (0, "0"), (999, "0"), (1_760_000_000_123_456_789, "1760000000123456")];
        for (nanoseconds, expected) in times {
            assert_eq!(microseconds(Timestamp::from_nanosecond(nanoseconds).unwrap()), expected);
        }
    }
}
