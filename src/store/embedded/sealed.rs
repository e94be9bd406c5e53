//! What is kept sealed: written and read as it is, forgotten by the disk's own clock.

use actors::id::{GroupName, RunnerName};
use actors::port::store::Sealed;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::write::{Failed, nanoseconds};

/// Most entries that are past their time and go with one write.
const EXPIRED_STEP: u32 = 1000;

/// Keeps an entry; some of those that are past their time make room.
pub(super) fn keep(db: &Connection, sealed: &Sealed) -> Result<(), Failed> {
    forget_expired(db)?;
    let Sealed { key, runner, group, body, until } = sealed;
    db.prepare_cached("INSERT OR REPLACE INTO sealed (key, runner, grp, until, body) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![key, runner.as_str(), group.as_str(), nanoseconds(*until), body])?;
    Ok(())
}

/// Deletes entries that are past their time.
pub(super) fn forget_expired(db: &Connection) -> Result<(), Failed> {
    db.prepare_cached(
        "DELETE FROM sealed WHERE key IN (SELECT key FROM sealed WHERE until < unixepoch() * 1000000000 LIMIT ?1)",
    )?
    .execute([EXPIRED_STEP])?;
    Ok(())
}

/// Deletes all entries of a runner.
pub(super) fn forget(db: &Connection, runner: &RunnerName) -> Result<(), Failed> {
    db.prepare_cached("DELETE FROM sealed WHERE runner = ?1")?.execute([runner.as_str()])?;
    Ok(())
}

/// The entry of a key.
pub(super) fn find(db: &Connection, key: &str) -> Result<Option<Sealed>, rusqlite::Error> {
    let mut statement = db.prepare_cached("SELECT key, runner, grp, until, body FROM sealed WHERE key = ?1")?;
    statement.query_row([key], sealed).optional().map(Option::flatten)
}

/// None: its names are none; then nobody can ask for it any more.
fn sealed(row: &Row<'_>) -> Result<Option<Sealed>, rusqlite::Error> {
    let (runner, group): (String, String) = (row.get(1)?, row.get(2)?);
    let until: i64 = row.get(3)?;
    let (Ok(runner), Ok(group), Ok(until)) =
        (RunnerName::new(runner), GroupName::new(group), Timestamp::from_nanosecond(until.into()))
    else {
        return Ok(None);
    };
    Ok(Some(Sealed { key: row.get(0)?, runner, group, body: row.get(4)?, until }))
}
