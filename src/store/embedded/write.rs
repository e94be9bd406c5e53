//! What the writing operations do to the tables. Each runs inside a savepoint of its own.

use std::collections::HashSet;

use actors::id::{Cursor, FencingToken, GroupName, JobId};
use actors::model::delivery::Delivery;
use actors::model::group::GroupSnapshot;
use actors::model::job::{Job, JobStatus};
use actors::model::runner::Runner;
use actors::port::StoreError;
use actors::port::store::{Changes, Horizon, Recorded, Route};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use crate::store::codec::{self, CodecError};

/// Most rows of one table that one step of pruning deletes.
pub(super) const PRUNE_STEP: u32 = 1000;
/// Size of the write that a probe tries.
const PROBE_BYTES: u32 = 64 << 10;
/// Most entries that `set_aside` keeps; the oldest go.
const SET_ASIDE_MAX: u32 = 1000;
/// Most bytes kept of an entry that was set aside.
const SET_ASIDE_BODY_MAX: usize = 64 << 10;

pub(super) const PRUNE_DELIVERIES: &str =
    "DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries WHERE received_at < ?1 LIMIT ?2)";
pub(super) const PRUNE_JOBS: &str =
    "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE settled_at < ?1 LIMIT ?2) RETURNING id";
pub(super) const PRUNE_RUNNERS: &str =
    "DELETE FROM runners WHERE id IN (SELECT id FROM runners WHERE settled_at < ?1 LIMIT ?2)";

/// Why an operation was rolled back.
#[derive(Debug)]
pub(super) enum Failed {
    /// The database could not do it.
    Database(rusqlite::Error),
    /// It was not allowed.
    Refused(StoreError),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

/// A time as the tables hold it, nanoseconds since the Unix epoch; beyond the years 1677 and 2262 the nearest one that fits.
pub(super) fn nanoseconds(time: Timestamp) -> i64 {
    let exact = time.as_nanosecond();
    i64::try_from(exact).unwrap_or(if exact < 0 { i64::MIN } else { i64::MAX })
}

/// A delivery, ready to be recorded.
pub(super) struct RecordWrite {
    id: String,
    job_id: i64,
    received_at: i64,
    body: String,
    group: Option<GroupName>,
    runner_group: Option<GroupName>,
    unmatched: Option<JobRow>,
}

impl RecordWrite {
    pub(super) fn new(delivery: &Delivery, route: Route) -> Result<Self, CodecError> {
        Ok(Self {
            id: delivery.id.as_str().to_owned(),
            job_id: job_key(delivery.event.job.id),
            received_at: nanoseconds(delivery.received_at),
            body: codec::encode(delivery)?,
            group: route.group,
            runner_group: route.runner_group,
            unmatched: route.unmatched.as_deref().map(JobRow::unmatched).transpose()?,
        })
    }

    /// About how much memory it holds.
    pub(super) fn bytes(&self) -> usize {
        self.body.len() + self.unmatched.as_ref().map_or(0, |job| job.body.len()) + size_of::<Self>()
    }

    pub(super) fn apply(self, db: &Connection) -> Result<Recorded, Failed> {
        let new = db
            .prepare_cached("INSERT INTO deliveries (id, received_at) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING")?
            .execute(params![self.id, self.received_at])?;
        if new == 0 {
            return Ok(Recorded::Duplicate);
        }
        let mut groups = Vec::new();
        match self.assign(db)? {
            Some(group) => {
                self.append(db, &group, true)?;
                groups.push(group);
            }
            None => {
                if let Some(job) = &self.unmatched {
                    job.upsert(db, "grp IS NULL")?;
                }
            }
        }
        if let Some(group) = &self.runner_group
            && !groups.contains(group)
        {
            self.append(db, group, false)?;
            groups.push(group.clone());
        }
        Ok(Recorded::New(groups))
    }

    /// The group that serves the job; from now on, if it was not assigned yet.
    fn assign(&self, db: &Connection) -> Result<Option<GroupName>, Failed> {
        let assigned: Option<String> = db
            .prepare_cached("SELECT grp FROM assignments WHERE job_id = ?1")?
            .query_row([self.job_id], |row| row.get(0))
            .optional()?;
        if let Some(group) = assigned.and_then(|name| GroupName::new(name).ok()) {
            return Ok(Some(group));
        }
        if let Some(group) = &self.group {
            assign(db, self.job_id, group, self.received_at)?;
            db.prepare_cached("DELETE FROM jobs WHERE id = ?1 AND grp IS NULL")?.execute([self.job_id])?;
        }
        Ok(self.group.clone())
    }

    fn append(&self, db: &Connection, group: &GroupName, assigned: bool) -> Result<(), rusqlite::Error> {
        db.prepare_cached("INSERT INTO inbox (grp, assigned, job_id, received_at, body) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![group.as_str(), assigned, self.job_id, self.received_at, self.body])?;
        Ok(())
    }
}

fn assign(db: &Connection, job_id: i64, group: &GroupName, at: i64) -> Result<(), rusqlite::Error> {
    db.prepare_cached(
        "INSERT INTO assignments (job_id, grp, assigned_at) VALUES (?1, ?2, ?3) ON CONFLICT (job_id) DO NOTHING",
    )?
    .execute(params![job_id, group.as_str(), at])?;
    Ok(())
}

/// GitHub's id of a job as a column holds it.
pub(super) fn job_key(id: JobId) -> i64 {
    id.0.cast_signed()
}

/// A place in an inbox as a column holds it.
pub(super) fn cursor_key(cursor: Cursor) -> i64 {
    i64::try_from(cursor.0).unwrap_or(i64::MAX)
}

struct JobRow {
    id: i64,
    group: Option<GroupName>,
    status: &'static str,
    received_at: i64,
    settled_at: Option<i64>,
    body: String,
}

impl JobRow {
    fn new(job: &Job) -> Result<Self, CodecError> {
        let settled = match job.status {
            JobStatus::Completed => Some(job.finished_at.unwrap_or(job.received_at)),
            JobStatus::Unmatched => Some(job.received_at),
            JobStatus::Queued | JobStatus::Waiting | JobStatus::InProgress => None,
        };
        Ok(Self {
            id: job_key(job.id()),
            group: job.group.clone(),
            status: job.status.as_str(),
            received_at: nanoseconds(job.received_at),
            settled_at: settled.map(nanoseconds),
            body: codec::encode(job)?,
        })
    }

    /// The row of a job that no group serves, whatever group it names.
    fn unmatched(job: &Job) -> Result<Self, CodecError> {
        let row = Self::new(job)?;
        Ok(Self { group: None, settled_at: row.settled_at.or(Some(row.received_at)), ..row })
    }

    /// Inserts the row, or replaces one that meets a condition of ours.
    fn upsert(&self, db: &Connection, replaced: &'static str) -> Result<(), rusqlite::Error> {
        db.prepare_cached(&format!(
            "INSERT INTO jobs (id, grp, status, received_at, settled_at, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (id) DO UPDATE SET grp = excluded.grp, status = excluded.status,
               received_at = excluded.received_at, settled_at = excluded.settled_at, body = excluded.body
             WHERE jobs.{replaced}"
        ))?
        .execute(params![
            self.id,
            self.group.as_ref().map(GroupName::as_str),
            self.status,
            self.received_at,
            self.settled_at,
            self.body
        ])?;
        Ok(())
    }
}

struct RunnerRow {
    name: String,
    group: GroupName,
    state: &'static str,
    settled_at: Option<i64>,
    body: String,
}

impl RunnerRow {
    fn new(runner: &Runner) -> Result<Self, CodecError> {
        Ok(Self {
            name: runner.name.as_str().to_owned(),
            group: runner.group.clone(),
            state: runner.state.as_str(),
            settled_at: runner.state.is_final().then(|| nanoseconds(runner.since)),
            body: codec::encode(runner)?,
        })
    }

    fn upsert(&self, db: &Connection) -> Result<(), rusqlite::Error> {
        db.prepare_cached(
            "INSERT INTO runners (name, grp, state, settled_at, body) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (name) DO UPDATE SET grp = excluded.grp, state = excluded.state,
               settled_at = excluded.settled_at, body = excluded.body",
        )?
        .execute(params![self.name, self.group.as_str(), self.state, self.settled_at, self.body])?;
        Ok(())
    }
}

/// What a group saves, ready to be written.
pub(super) struct SaveWrite {
    group: GroupName,
    token: FencingToken,
    snapshot: Option<(i64, String)>,
    runners: Vec<RunnerRow>,
    jobs: Vec<JobRow>,
}

impl SaveWrite {
    pub(super) fn new(group: &GroupName, token: FencingToken, changes: &Changes) -> Result<Self, CodecError> {
        let snapshot = |s: &GroupSnapshot| Ok((cursor_key(s.cursor), codec::encode(s)?));
        Ok(Self {
            group: group.clone(),
            token,
            snapshot: changes.snapshot.as_ref().map(snapshot).transpose()?,
            runners: changes.runners.iter().map(|runner| RunnerRow::new(runner)).collect::<Result<_, _>>()?,
            jobs: changes.jobs.iter().map(|job| JobRow::new(job)).collect::<Result<_, _>>()?,
        })
    }

    /// About how much memory it holds.
    pub(super) fn bytes(&self) -> usize {
        let runners: usize = self.runners.iter().map(|r| r.body.len() + size_of::<RunnerRow>()).sum();
        let jobs: usize = self.jobs.iter().map(|j| j.body.len() + size_of::<JobRow>()).sum();
        runners + jobs + self.snapshot.as_ref().map_or(0, |(_, body)| body.len()) + size_of::<Self>()
    }

    pub(super) fn apply(self, db: &Connection) -> Result<(), Failed> {
        let newest: Option<i64> = db
            .prepare_cached("SELECT token FROM groups WHERE name = ?1")?
            .query_row([self.group.as_str()], |row| row.get(0))
            .optional()?;
        if newest != Some(self.token.0.cast_signed()) {
            return Err(Failed::Refused(StoreError::Fenced { group: self.group, token: self.token }));
        }
        for runner in &self.runners {
            runner.upsert(db)?;
        }
        for job in &self.jobs {
            job.upsert(db, "id IS NOT NULL")?;
            if let Some(group) = &job.group {
                assign(db, job.id, group, job.received_at)?;
            }
        }
        if let Some((cursor, body)) = &self.snapshot {
            db.prepare_cached("UPDATE groups SET body = ?2 WHERE name = ?1")?
                .execute(params![self.group.as_str(), body])?;
            db.prepare_cached("DELETE FROM inbox WHERE grp = ?1 AND cursor <= ?2")?
                .execute(params![self.group.as_str(), cursor])?;
        }
        Ok(())
    }
}

/// Gives a group a new owner.
pub(super) fn acquire(db: &Connection, group: &GroupName) -> Result<FencingToken, Failed> {
    let token: i64 = db
        .prepare_cached(
            "INSERT INTO groups (name, token) VALUES (?1, 1)
             ON CONFLICT (name) DO UPDATE SET token = token + 1 RETURNING token",
        )?
        .query_row([group.as_str()], |row| row.get(0))?;
    Ok(FencingToken(token.cast_unsigned()))
}

/// Writes more than a delivery needs, over what the last probe wrote.
pub(super) fn probe(db: &Connection) -> Result<(), Failed> {
    db.prepare_cached("INSERT OR REPLACE INTO probe (id, body) VALUES (1, randomblob(?1))")?.execute([PROBE_BYTES])?;
    Ok(())
}

/// One step of pruning: at most [`PRUNE_STEP`] rows of each table. Returns how many entries went.
pub(super) fn prune(db: &Connection, before: Horizon) -> Result<usize, Failed> {
    let limit = PRUNE_STEP;
    let deliveries = db.prepare_cached(PRUNE_DELIVERIES)?.execute(params![nanoseconds(before.deliveries), limit])?;
    let runners = db.prepare_cached(PRUNE_RUNNERS)?.execute(params![nanoseconds(before.runners), limit])?;
    let jobs = db
        .prepare_cached(PRUNE_JOBS)?
        .query_map(params![nanoseconds(before.jobs), limit], |row| row.get(0))?
        .collect::<Result<Vec<i64>, _>>()?;
    let mut unassign = db.prepare_cached("DELETE FROM assignments WHERE job_id = ?1")?;
    for id in &jobs {
        unassign.execute([id])?;
    }
    Ok(deliveries + runners + jobs.len())
}

/// Inbox entries and assignments that nothing but their age removes any more; see [`super::read::leftovers`].
#[derive(Debug, Default, Clone)]
pub(super) struct Leftovers {
    /// Places in the inbox.
    pub(super) cursors: Vec<i64>,
    /// Jobs that were assigned and never saved.
    pub(super) jobs: Vec<i64>,
}

/// Deletes leftovers, unless they are in use again.
pub(super) fn prune_leftovers(db: &Connection, leftovers: &Leftovers) -> Result<(), Failed> {
    let mut inbox = db.prepare_cached("DELETE FROM inbox WHERE cursor = ?1")?;
    for cursor in &leftovers.cursors {
        inbox.execute([cursor])?;
    }
    if leftovers.jobs.is_empty() {
        return Ok(());
    }
    let waiting: HashSet<i64> =
        db.prepare_cached("SELECT job_id FROM inbox")?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut unassign = db.prepare_cached(
        "DELETE FROM assignments WHERE job_id = ?1 AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = ?1)",
    )?;
    for id in leftovers.jobs.iter().filter(|id| !waiting.contains(id)) {
        unassign.execute([id])?;
    }
    Ok(())
}

/// An entry that could not be read.
#[derive(Debug, Clone)]
pub(super) struct Unreadable {
    /// Where it is.
    pub(super) place: Place,
    /// The group it belongs to.
    pub(super) group: Option<String>,
    /// What was found.
    pub(super) body: Vec<u8>,
    /// What is wrong with it.
    pub(super) reason: String,
}

/// Where an entry is kept.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// A group's snapshot.
    Group(String),
    /// A runner.
    Runner(String),
    /// A job.
    Job(i64),
    /// A delivery in an inbox.
    Inbox(i64),
}

/// Moves an entry to `set_aside`, unless it was replaced meanwhile.
pub(super) fn set_aside(db: &Connection, entry: &Unreadable) -> Result<(), Failed> {
    let (kind, key, sql): (_, &dyn rusqlite::ToSql, _) = match &entry.place {
        // The token stays: it must never go back.
        Place::Group(name) => {
            ("group", name, "UPDATE groups SET body = NULL WHERE name = ?1 AND CAST(body AS BLOB) = ?2")
        }
        Place::Runner(name) => ("runner", name, "DELETE FROM runners WHERE name = ?1 AND CAST(body AS BLOB) = ?2"),
        Place::Job(id) => ("job", id, "DELETE FROM jobs WHERE id = ?1 AND CAST(body AS BLOB) = ?2"),
        Place::Inbox(cursor) => ("delivery", cursor, "DELETE FROM inbox WHERE cursor = ?1 AND CAST(body AS BLOB) = ?2"),
    };
    if db.prepare_cached(sql)?.execute(params![key, entry.body])? == 0 {
        return Ok(());
    }
    let body = &entry.body[..entry.body.len().min(SET_ASIDE_BODY_MAX)];
    db.prepare_cached(
        "INSERT INTO set_aside (at, kind, key, grp, reason, body)
         VALUES (unixepoch() * 1000000000, ?1, CAST(?2 AS TEXT), ?3, ?4, ?5)",
    )?
    .execute(params![kind, key, entry.group, entry.reason, body])?;
    db.prepare_cached("DELETE FROM set_aside WHERE id <= (SELECT max(id) FROM set_aside) - ?1")?
        .execute([SET_ASIDE_MAX])?;
    Ok(())
}
