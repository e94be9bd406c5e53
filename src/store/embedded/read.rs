//! What the reading operations find in the tables, and the thread that runs them.

use std::path::Path;

use actors::id::{Cursor, GroupName, JobId, RunnerName};
use actors::model::delivery::Delivery;
use actors::model::group::GroupSnapshot;
use actors::model::job::{Job, JobStatus};
use actors::model::runner::Runner;
use actors::port::store::{Horizon, InboxEntry, JobFilter, Loaded, RunnerFilter};
use rusqlite::types::{ToSql, Value, ValueRef};
use rusqlite::{Connection, Row, params, params_from_iter};

use super::queue::Queue;
use super::schema;
use super::write::{Leftovers, PRUNE_STEP, Place, Unreadable, cursor_key, job_key, nanoseconds};
use crate::store::codec::{self, Snapshot};

pub(super) const INBOX: &str = "SELECT inbox.body, inbox.cursor, inbox.assigned, jobs.body, jobs.grp, jobs.id
     FROM inbox LEFT JOIN jobs ON jobs.id = inbox.job_id
     WHERE inbox.grp = ?1 AND inbox.cursor > ?2 ORDER BY inbox.cursor LIMIT ?3";
pub(super) const LOAD_RUNNERS: &str =
    "SELECT body, name, grp FROM runners WHERE grp = ?1 AND settled_at IS NULL ORDER BY name";
pub(super) const LOAD_JOBS: &str = "SELECT body, id, grp FROM jobs WHERE grp = ?1 AND grp IS NOT NULL AND status <> 'completed' ORDER BY received_at, id";

/// A query, with where its answer goes. Returns whether the connection still works.
pub(super) type Query = Box<dyn FnOnce(Result<&Connection, rusqlite::Error>) -> bool + Send>;

/// Runs queries until the queue is closed and empty. A connection that failed is opened anew for the next query.
pub(super) fn run(path: &Path, connection: Connection, queue: &Queue<Query>) {
    let mut connection = Some(connection);
    while let Some(queries) = queue.take(1) {
        for query in queries {
            let current = match connection.take() {
                Some(open) => Ok(open),
                None => schema::reader(path),
            };
            match current {
                Ok(open) => connection = query(Ok(&open)).then_some(open),
                Err(error) => {
                    query(Err(error));
                }
            }
        }
    }
}

/// An answer, and what could not be read on the way to it.
#[derive(Debug, Default)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) unreadable: Vec<Unreadable>,
}

impl<T> Found<T> {
    fn decode<S: Snapshot>(&mut self, body: ValueRef<'_>, group: Option<String>, place: Place) -> Option<S> {
        let (bytes, decoded) = match body {
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => (bytes, codec::decode(bytes)),
            ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => return None,
        };
        match decoded {
            Ok(snapshot) => Some(snapshot),
            Err(error) => {
                self.unreadable.push(Unreadable { place, group, body: bytes.to_vec(), reason: error.to_string() });
                None
            }
        }
    }

    fn job(&mut self, row: &Row<'_>) -> Result<Option<Job>, rusqlite::Error> {
        Ok(self.decode(row.get_ref(0)?, row.get(2)?, Place::Job(row.get(1)?)))
    }

    fn runner(&mut self, row: &Row<'_>) -> Result<Option<Runner>, rusqlite::Error> {
        Ok(self.decode(row.get_ref(0)?, row.get(2)?, Place::Runner(row.get(1)?)))
    }
}

/// A part of an inbox.
pub(super) struct Portion {
    /// What could be read.
    pub(super) entries: Vec<InboxEntry>,
    /// The last place that was looked at.
    pub(super) last: Cursor,
    /// Whether everything up to there could be read.
    pub(super) complete: bool,
}

/// The next entries of an inbox.
pub(super) fn inbox(
    db: &Connection,
    group: &GroupName,
    after: Cursor,
    limit: usize,
) -> Result<Found<Portion>, rusqlite::Error> {
    let portion = Portion { entries: Vec::new(), last: after, complete: true };
    let mut found = Found { value: portion, unreadable: Vec::new() };
    let mut statement = db.prepare_cached(INBOX)?;
    let mut rows = statement.query(params![group.as_str(), cursor_key(after), count(limit)])?;
    while let Some(row) = rows.next()? {
        let place: i64 = row.get(1)?;
        let cursor = Cursor(place.cast_unsigned());
        found.value.last = cursor;
        let delivery: Option<Delivery> =
            found.decode(row.get_ref(0)?, Some(group.as_str().to_owned()), Place::Inbox(place));
        let known = match row.get_ref(3)? {
            ValueRef::Null => None,
            body => found.decode(body, row.get(4)?, Place::Job(row.get(5)?)),
        };
        match delivery {
            Some(delivery) => {
                let entry = InboxEntry { cursor, delivery, assigned: row.get(2)?, known };
                found.value.entries.push(entry);
            }
            None => found.value.complete = false,
        }
    }
    Ok(found)
}

/// What a new owner of a group needs, as of one moment.
pub(super) fn load(db: &Connection, group: &GroupName) -> Result<Found<Loaded>, rusqlite::Error> {
    let moment = db.unchecked_transaction()?;
    let Found { value: snapshot, unreadable } = self::group(&moment, group)?;
    let mut found = Found { value: Loaded { snapshot, ..Loaded::default() }, unreadable };
    {
        let mut statement = moment.prepare_cached(LOAD_RUNNERS)?;
        let mut rows = statement.query([group.as_str()])?;
        while let Some(row) = rows.next()? {
            let runner = found.runner(row)?;
            found.value.runners.extend(runner);
        }
        let mut statement = moment.prepare_cached(LOAD_JOBS)?;
        let mut rows = statement.query([group.as_str()])?;
        while let Some(row) = rows.next()? {
            let job = found.job(row)?;
            found.value.jobs.extend(job);
        }
    }
    moment.commit()?;
    found.value.set_aside = u32::try_from(found.unreadable.len()).unwrap_or(u32::MAX);
    Ok(found)
}

/// A group's snapshot.
pub(super) fn group(db: &Connection, group: &GroupName) -> Result<Found<Option<GroupSnapshot>>, rusqlite::Error> {
    let mut found = Found::default();
    let mut statement = db.prepare_cached("SELECT body FROM groups WHERE name = ?1")?;
    let mut rows = statement.query([group.as_str()])?;
    if let Some(row) = rows.next()? {
        let name = group.as_str().to_owned();
        found.value = found.decode(row.get_ref(0)?, Some(name.clone()), Place::Group(name));
    }
    Ok(found)
}

/// One job.
pub(super) fn job(db: &Connection, id: JobId) -> Result<Found<Option<Job>>, rusqlite::Error> {
    let mut found = Found::default();
    let mut statement = db.prepare_cached("SELECT body, id, grp FROM jobs WHERE id = ?1")?;
    let mut rows = statement.query([job_key(id)])?;
    if let Some(row) = rows.next()? {
        found.value = found.job(row)?;
    }
    Ok(found)
}

/// One runner.
pub(super) fn runner(db: &Connection, name: &RunnerName) -> Result<Found<Option<Runner>>, rusqlite::Error> {
    let mut found = Found::default();
    let mut statement = db.prepare_cached("SELECT body, name, grp FROM runners WHERE name = ?1")?;
    let mut rows = statement.query([name.as_str()])?;
    if let Some(row) = rows.next()? {
        found.value = found.runner(row)?;
    }
    Ok(found)
}

/// Jobs, newest first.
pub(super) fn jobs(db: &Connection, filter: &JobFilter) -> Result<Found<Vec<Job>>, rusqlite::Error> {
    // A leading `+` keeps an index from being used: of most groups nearly all jobs are completed.
    let group_first = filter.status == Some(JobStatus::Completed) && filter.group.is_some();
    let conditions = [
        filter.group.as_ref().map(|g| {
            let sql = if filter.status.is_some() && !group_first { "+grp = ?" } else { "grp = ?" };
            (sql, g.as_str())
        }),
        filter.status.map(|s| (if group_first { "+status = ?" } else { "status = ?" }, s.as_str())),
    ];
    let mut found = Found { value: Vec::new(), unreadable: Vec::new() };
    select(db, "body, id, grp FROM jobs", &conditions, "received_at DESC, id DESC", filter.limit, |row| {
        let job = found.job(row)?;
        found.value.extend(job);
        Ok(())
    })?;
    Ok(found)
}

/// Runners, by name.
pub(super) fn runners(db: &Connection, filter: &RunnerFilter) -> Result<Found<Vec<Runner>>, rusqlite::Error> {
    let conditions = [
        filter.group.as_ref().map(|g| (if filter.state.is_some() { "+grp = ?" } else { "grp = ?" }, g.as_str())),
        filter.state.map(|s| ("state = ?", s.as_str())),
    ];
    let from = match filter.state {
        Some(_) => "body, name, grp FROM runners",
        None => "body, name, grp FROM (SELECT * FROM runners WHERE settled_at IS NULL)",
    };
    let mut found = Found { value: Vec::new(), unreadable: Vec::new() };
    select(db, from, &conditions, "name", filter.limit, |row| {
        let runner = found.runner(row)?;
        found.value.extend(runner);
        Ok(())
    })?;
    Ok(found)
}

fn select(
    db: &Connection,
    columns_from: &str,
    conditions: &[Option<(&str, &str)>],
    order: &str,
    limit: usize,
    mut each: impl FnMut(&Row<'_>) -> Result<(), rusqlite::Error>,
) -> Result<(), rusqlite::Error> {
    let (terms, mut values): (Vec<&str>, Vec<Value>) =
        conditions.iter().flatten().map(|(sql, value)| (*sql, Value::Text((*value).to_owned()))).unzip();
    let conditions = if terms.is_empty() { String::new() } else { format!("WHERE {}", terms.join(" AND ")) };
    values.push(Value::Integer(count(limit)));
    let mut statement = db.prepare_cached(&format!("SELECT {columns_from} {conditions} ORDER BY {order} LIMIT ?"))?;
    let mut rows = statement.query(params_from_iter(values.iter().map(|v| v as &dyn ToSql)))?;
    while let Some(row) = rows.next()? {
        each(row)?;
    }
    Ok(())
}

/// Inbox entries that nobody read in time, and assignments of jobs that were never saved: the groups they belong to are
/// not run any more. At most so many as one step of pruning deletes.
pub(super) fn leftovers(db: &Connection, before: Horizon) -> Result<Leftovers, rusqlite::Error> {
    let column = |sql: &str, time| -> Result<Vec<i64>, rusqlite::Error> {
        db.prepare_cached(sql)?.query_map(params![time, PRUNE_STEP], |row| row.get(0))?.collect()
    };
    Ok(Leftovers {
        cursors: column("SELECT cursor FROM inbox WHERE received_at < ?1 LIMIT ?2", nanoseconds(before.deliveries))?,
        jobs: column(
            "SELECT job_id FROM assignments WHERE assigned_at < ?1
             AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = assignments.job_id)
             AND job_id NOT IN (SELECT job_id FROM inbox) LIMIT ?2",
            nanoseconds(before.jobs),
        )?,
    })
}

fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
