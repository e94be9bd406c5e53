//! What is read: which sorted sets answer a question, and what becomes of entries that cannot be decoded.

use std::cmp::Reverse;

use actors::id::{Cursor, GroupName};
use actors::model::group::GroupSnapshot;
use actors::model::job::{Job, JobStatus};
use actors::model::runner::{Runner, RunnerState};
use actors::port::store::{InboxEntry, JobFilter, Loaded, RunnerFilter};
use redis::{ParsingError, Value, from_redis_value};

use super::script::{Call, GET, INBOX, LIST, LOAD};
use super::write::{group_of, job_key};
use crate::store::codec::{self, Snapshot};

/// Entries of an inbox that one step reads.
pub(super) const INBOX_STEP: usize = 256;
/// Bodies that one step reads.
pub(super) const BODIES_STEP: usize = 512;
/// More than a sorted set holds.
const ALL: usize = 1 << 30;

/// An entry that could not be read.
#[derive(Debug, Clone)]
pub(super) struct Unreadable {
    /// `groups`, `runners`, `jobs` or `inbox`: where it is kept.
    pub(super) kind: &'static str,
    /// Its key there.
    pub(super) key: String,
    /// The group it belongs to.
    pub(super) group: Option<GroupName>,
    /// What was found.
    pub(super) body: Vec<u8>,
    /// What is wrong with it.
    pub(super) reason: String,
}

/// An answer, and what could not be read on the way to it.
#[derive(Debug, Default)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) unreadable: Vec<Unreadable>,
}

impl<T> Found<T> {
    fn new(value: T) -> Self {
        Self { value, unreadable: Vec::new() }
    }

    fn decode<S: Snapshot>(
        &mut self,
        kind: &'static str,
        key: &str,
        group: Option<GroupName>,
        body: Vec<u8>,
    ) -> Option<S> {
        match codec::decode(&body) {
            Ok(snapshot) => Some(snapshot),
            Err(error) => {
                self.unreadable.push(Unreadable { kind, key: key.to_owned(), group, body, reason: error.to_string() });
                None
            }
        }
    }
}

/// A part of an inbox.
pub(super) struct Portion {
    /// What could be read.
    pub(super) entries: Vec<InboxEntry>,
    /// The last place that was looked at.
    pub(super) last: Cursor,
    /// Whether there was as much as was asked for.
    pub(super) full: bool,
}

/// The next entries of an inbox.
pub(super) fn inbox_call(group: &GroupName, after: Cursor, limit: usize) -> Call {
    Call::new(&INBOX).arg(group.as_str()).arg(after.to_string()).arg(limit.to_string())
}

/// What [`inbox_call`] found.
pub(super) fn inbox(
    group: &GroupName,
    after: Cursor,
    limit: usize,
    answer: Value,
) -> Result<Found<Portion>, ParsingError> {
    type Row = (String, String, Vec<u8>, String, Option<Vec<u8>>, Option<String>);
    let rows: Vec<Row> = from_redis_value(answer)?;
    let full = rows.len() >= limit;
    let mut found = Found::new(Portion { entries: Vec::with_capacity(rows.len()), last: after, full });
    for (place, assigned, body, job, known, known_place) in rows {
        let Some(cursor) = place.split('-').next().and_then(|cursor| cursor.parse().ok()) else { continue };
        let cursor = Cursor(cursor);
        found.value.last = cursor;
        let delivery = found.decode("inbox", &cursor.to_string(), Some(group.clone()), body);
        let known = known.and_then(|body| found.decode("jobs", &job, known_place.as_deref().and_then(group_of), body));
        if let Some(delivery) = delivery {
            found.value.entries.push(InboxEntry { cursor, delivery, assigned: assigned == "1", known });
        }
    }
    Ok(found)
}

/// Everything that a new owner of a group needs.
pub(super) fn load_call(group: &GroupName) -> Call {
    let mut call = Call::new(&LOAD).arg(group.as_str());
    for state in RunnerState::ALL.into_iter().filter(|state| !state.is_final()) {
        call = call.arg("runners").arg(state.as_str());
    }
    for status in JobStatus::ALL.into_iter().filter(|status| *status != JobStatus::Completed) {
        call = call.arg("jobs").arg(status.as_str());
    }
    call
}

/// What [`load_call`] found.
pub(super) fn load(group: &GroupName, answer: Value) -> Result<Found<Loaded>, ParsingError> {
    type Bodies = Vec<(String, Option<Vec<u8>>)>;
    let (snapshot, runners, jobs): (Option<Vec<u8>>, Bodies, Bodies) = from_redis_value(answer)?;
    let mut found = Found::<Loaded>::default();
    let of = || Some(group.clone());
    found.value.snapshot = snapshot.and_then(|body| found.decode("groups", group.as_str(), of(), body));
    for (name, body) in runners {
        let runner: Option<Runner> = body.and_then(|body| found.decode("runners", &name, of(), body));
        found.value.runners.extend(runner);
    }
    for (id, body) in jobs {
        let job: Option<Job> = body.and_then(|body| found.decode("jobs", &id, of(), body));
        found.value.jobs.extend(job);
    }
    found.value.runners.sort_by(|a, b| a.name.cmp(&b.name));
    found.value.jobs.sort_by_key(|job| (job.received_at, job.id()));
    found.value.set_aside = u32::try_from(found.unreadable.len()).unwrap_or(u32::MAX);
    Ok(found)
}

/// A group's snapshot, from its body.
pub(super) fn group(group: &GroupName, answer: Value) -> Result<Found<Option<GroupSnapshot>>, ParsingError> {
    let body: Option<Vec<u8>> = from_redis_value(answer)?;
    let mut found = Found::default();
    found.value = body.and_then(|body| found.decode("groups", group.as_str(), Some(group.clone()), body));
    Ok(found)
}

/// The bodies of jobs or runners.
pub(super) fn get_call(kind: &str, keys: &[String]) -> Call {
    keys.iter().fold(Call::new(&GET).arg(kind), |call, key| call.arg(key.as_str()))
}

/// What [`get_call`] found.
pub(super) fn get<S: Snapshot>(kind: &'static str, answer: Value) -> Result<Found<Vec<S>>, ParsingError> {
    let rows: Vec<(String, Vec<u8>, Option<String>)> = from_redis_value(answer)?;
    let mut found = Found::new(Vec::with_capacity(rows.len()));
    for (key, body, place) in rows {
        let entry = found.decode(kind, &key, place.as_deref().and_then(group_of), body);
        found.value.extend(entry);
    }
    Ok(found)
}

/// The keys of jobs, newest first.
pub(super) fn jobs_call(filter: &JobFilter) -> Call {
    let mut call = Call::new(&LIST).arg("ZREVRANGE").arg(filter.limit.clamp(1, ALL).to_string());
    for status in JobStatus::ALL.into_iter().filter(|status| filter.status.is_none_or(|wanted| wanted == *status)) {
        call = call.arg(index("jobs", filter.group.as_ref(), status.as_str()));
    }
    call
}

/// The keys that [`jobs_call`] found, in order.
pub(super) fn jobs_keys(filter: &JobFilter, answer: Value) -> Result<Vec<String>, ParsingError> {
    let mut found = merged(answer)?;
    // Scores are whole microseconds.
    found.sort_by(|(a, at), (b, bt)| bt.total_cmp(at).then_with(|| b.cmp(a)));
    found.truncate(filter.limit);
    Ok(found.into_iter().map(|(key, _)| key).collect())
}

/// Jobs as the filter asks for them; some may have moved since their keys were read.
pub(super) fn jobs(filter: &JobFilter, mut jobs: Vec<Job>) -> Vec<Job> {
    jobs.retain(|job| {
        filter.status.is_none_or(|status| job.status == status) && (filter.group.is_none() || job.group == filter.group)
    });
    jobs.sort_by_key(|job| Reverse((job.received_at, job_key(job.id()))));
    jobs
}

/// The names of runners.
pub(super) fn runners_call(filter: &RunnerFilter) -> Call {
    let mut call = Call::new(&LIST).arg("ZRANGE").arg(filter.limit.clamp(1, ALL).to_string());
    for state in RunnerState::ALL.into_iter().filter(|state| wanted(filter, *state)) {
        call = call.arg(index("runners", filter.group.as_ref(), state.as_str()));
    }
    call
}

/// The names that [`runners_call`] found, in order.
pub(super) fn runners_keys(filter: &RunnerFilter, answer: Value) -> Result<Vec<String>, ParsingError> {
    let mut names: Vec<String> = merged(answer)?.into_iter().map(|(name, _)| name).collect();
    names.sort();
    names.truncate(filter.limit);
    Ok(names)
}

/// Runners as the filter asks for them.
pub(super) fn runners(filter: &RunnerFilter, mut runners: Vec<Runner>) -> Vec<Runner> {
    runners.retain(|runner| {
        wanted(filter, runner.state) && filter.group.as_ref().is_none_or(|group| runner.group == *group)
    });
    runners
}

fn wanted(filter: &RunnerFilter, state: RunnerState) -> bool {
    filter.state.map_or(!state.is_final(), |wanted| wanted == state)
}

fn index(kind: &str, group: Option<&GroupName>, state: &str) -> String {
    match group {
        Some(group) => format!("{kind}:group:{group}:{state}"),
        None => format!("{kind}:state:{state}"),
    }
}

fn merged(answer: Value) -> Result<Vec<(String, f64)>, ParsingError> {
    let sets: Vec<Vec<(String, f64)>> = from_redis_value(answer)?;
    Ok(sets.into_iter().flatten().collect())
}
