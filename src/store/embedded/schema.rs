//! The database file: its tables, its versions, and what happens when it cannot be read.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::OpenError;
use super::dir::DataDir;

/// Name of the database file.
pub(super) const DB_FILE: &str = "state.db";
/// Name of the file that says: the database was found damaged while running, check all of it at the next start.
pub(super) const SUSPECT_FILE: &str = "state.db.suspect";

/// A database up to this size is checked completely at each start (about 0.1 s); a larger one only when suspect.
const CHECK_ALWAYS_UP_TO_BYTES: u64 = 64 << 20;
/// Page cache of the writer, KiB.
const WRITER_CACHE_KIB: u32 = 2048;
/// Page cache of each reader, KiB.
const READER_CACHE_KIB: u32 = 1024;
/// Size to which the write-ahead log is cut back after it was larger, bytes.
const LOG_SIZE_BYTES: u32 = 16 << 20;
/// How long a connection waits for another one's lock: only while opening and closing.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Statements that a connection keeps prepared.
const PREPARED_STATEMENTS: usize = 64;

/// What leads from each schema version to the next; `user_version` counts those that were applied. Never change one that
/// was released: append.
///
/// - Times are nanoseconds since the Unix epoch; ids are the bits of the unsigned number.
/// - `body` is the snapshot in its envelope; the other columns are taken from it, to find it by.
/// - `settled_at`: since when a job is final or unmatched, a runner final.
/// - `assignments`: which group a job went to; rows outlive the inbox and live as long as the job.
/// - `inbox.cursor` grows over all groups and is never used twice.
const MIGRATIONS: [&str; 2] = [
    "
CREATE TABLE groups (name TEXT PRIMARY KEY, token INTEGER NOT NULL, body TEXT) STRICT, WITHOUT ROWID;

CREATE TABLE deliveries (id TEXT PRIMARY KEY, received_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_by_time ON deliveries (received_at);

CREATE TABLE inbox (
  cursor INTEGER PRIMARY KEY AUTOINCREMENT, grp TEXT NOT NULL, assigned INTEGER NOT NULL, job_id INTEGER NOT NULL,
  received_at INTEGER NOT NULL, body TEXT NOT NULL
) STRICT;
CREATE INDEX inbox_by_group ON inbox (grp, cursor);

CREATE TABLE assignments (job_id INTEGER PRIMARY KEY, grp TEXT NOT NULL, assigned_at INTEGER NOT NULL) STRICT;

CREATE TABLE jobs (
  id INTEGER PRIMARY KEY, grp TEXT, status TEXT NOT NULL, received_at INTEGER NOT NULL, settled_at INTEGER,
  body TEXT NOT NULL
) STRICT;
CREATE INDEX jobs_by_time ON jobs (received_at, id);
CREATE INDEX jobs_by_group ON jobs (grp, received_at, id);
CREATE INDEX jobs_by_status ON jobs (status, received_at, id);
CREATE INDEX jobs_open ON jobs (grp) WHERE status <> 'completed' AND grp IS NOT NULL;
CREATE INDEX jobs_settled ON jobs (settled_at) WHERE settled_at IS NOT NULL;

CREATE TABLE runners (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, grp TEXT NOT NULL, state TEXT NOT NULL, settled_at INTEGER,
  body TEXT NOT NULL
) STRICT;
CREATE INDEX runners_by_state ON runners (state, name);
CREATE INDEX runners_open ON runners (grp, name) WHERE settled_at IS NULL;
CREATE INDEX runners_settled ON runners (settled_at) WHERE settled_at IS NOT NULL;

CREATE TABLE set_aside (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL,
  grp TEXT, reason TEXT NOT NULL, body BLOB
) STRICT;

CREATE TABLE probe (id INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
",
    "
CREATE TABLE sealed (
  key TEXT PRIMARY KEY, runner TEXT NOT NULL, grp TEXT NOT NULL, until INTEGER NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE INDEX sealed_by_runner ON sealed (runner);
CREATE INDEX sealed_by_time ON sealed (until);
",
];

/// Opens, and where needed makes or migrates, the database of a directory.
///
/// A file that is damaged is set aside, and an empty one takes its place.
pub(super) fn open(dir: &DataDir) -> Result<Connection, OpenError> {
    let path = dir.file(DB_FILE);
    let suspect = dir.file(SUSPECT_FILE);
    let connection = match prepare(&path, suspect.exists()) {
        Err(OpenError::Database { source, .. }) if is_damage(&source) => {
            set_aside(dir, &source)?;
            prepare(&path, false)
        }
        other => other,
    }?;
    if suspect.exists()
        && let Err(source) = std::fs::remove_file(&suspect)
    {
        return Err(OpenError::Access { path: suspect, source });
    }
    dir.sync().map_err(|source| OpenError::Access { path, source })?;
    Ok(connection)
}

/// Opens the database of a running store once more, for writing.
pub(super) fn writer(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = connect(path, WRITER_CACHE_KIB)?;
    // FULL: each commit flushes the log before it returns.
    connection.execute_batch(&format!("PRAGMA synchronous = FULL; PRAGMA journal_size_limit = {LOG_SIZE_BYTES};"))?;
    Ok(connection)
}

/// Opens the database of a running store once more, for reading.
pub(super) fn reader(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = connect(path, READER_CACHE_KIB)?;
    connection.execute_batch("PRAGMA query_only = ON;")?;
    Ok(connection)
}

/// Whether an error says that the file does not hold what a database file holds.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Asks for a complete check at the next start, when an error says that the file is damaged.
pub(super) fn suspect(file: &Path, error: &rusqlite::Error) {
    if !is_damage(error) || file.exists() {
        return;
    }
    tracing::error!(%error, "the database is damaged: restart, and it is checked and set aside");
    if let Err(cause) = std::fs::write(file, error.to_string()) {
        tracing::error!(file = %file.display(), error = %cause, "cannot ask for a check at the next start");
    }
}

fn connect(path: &Path, cache_kib: u32) -> Result<Connection, rusqlite::Error> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(LOCK_WAIT)?;
    connection.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS);
    connection.execute_batch(&format!("PRAGMA cache_size = -{cache_kib}; PRAGMA temp_store = MEMORY;"))?;
    Ok(connection)
}

fn prepare(path: &Path, suspect: bool) -> Result<Connection, OpenError> {
    let failed = |source| OpenError::Database { path: path.to_owned(), source };
    create_private(path).map_err(|source| OpenError::Access { path: path.to_owned(), source })?;
    let connection = writer(path).map_err(failed)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(failed)?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(OpenError::NoLog { path: path.to_owned(), mode });
    }
    let size = std::fs::metadata(path).map(|m| m.len()).unwrap_or_default();
    if suspect || size <= CHECK_ALWAYS_UP_TO_BYTES {
        check(&connection).map_err(failed)?;
    }
    migrate(&connection, path)?;
    Ok(connection)
}

/// Makes the file readable by its owner alone; the files that SQLite puts beside it take over its mode.
fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map(drop)
}

fn check(connection: &Connection) -> Result<(), rusqlite::Error> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), Some(verdict)))
}

fn migrate(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Database { path: path.to_owned(), source };
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    let known = MIGRATIONS.len();
    if found as usize > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    for (version, migration) in (1..).zip(MIGRATIONS).skip(found as usize) {
        connection
            .execute_batch(&format!("BEGIN IMMEDIATE; {migration} PRAGMA user_version = {version}; COMMIT;"))
            .map_err(failed)?;
    }
    Ok(())
}

fn set_aside(dir: &DataDir, cause: &rusqlite::Error) -> Result<(), OpenError> {
    let name = format!("{DB_FILE}.corrupt-{}", Timestamp::now().strftime("%Y%m%dT%H%M%S%.9fZ"));
    let kept = dir.file(&name);
    tracing::error!(
        file = %dir.file(DB_FILE).display(), kept = %kept.display(), error = %cause,
        "the database is damaged: it is set aside, and the store starts empty; what is running is found again at GitHub \
         and at the backends, deliveries not worked off yet are lost"
    );
    for suffix in ["", "-wal", "-shm"] {
        let from = dir.file(&format!("{DB_FILE}{suffix}"));
        if from.exists() {
            std::fs::rename(&from, dir.file(&format!("{name}{suffix}")))
                .map_err(|source| OpenError::Access { path: from, source })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pragma(connection: &Connection, name: &str) -> String {
        connection
            .query_row(&format!("PRAGMA {name}"), [], |row| {
                row.get_ref(0).map(|v| match v {
                    rusqlite::types::ValueRef::Integer(n) => n.to_string(),
                    other => other.as_str().unwrap().to_owned(),
                })
            })
            .unwrap()
    }

    #[test]
    fn each_commit_is_flushed_also_after_the_writer_was_opened_again() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::lock(temp.path()).unwrap();
        let first = open(&dir).unwrap();
        let second = writer(&dir.file(DB_FILE)).unwrap();
        for connection in [first, second] {
            assert_eq!(pragma(&connection, "journal_mode"), "wal");
            assert_eq!(pragma(&connection, "synchronous"), "2");
        }
    }

    #[test]
    fn every_query_for_a_group_s_open_entries_uses_an_index() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::lock(temp.path()).unwrap();
        let connection = open(&dir).unwrap();
        for (query, index) in [
            (super::super::read::LOAD_RUNNERS, "runners_open"),
            (super::super::read::LOAD_JOBS, "jobs_open"),
            (super::super::read::INBOX, "inbox_by_group"),
            (super::super::write::PRUNE_DELIVERIES, "deliveries_by_time"),
            (super::super::write::PRUNE_JOBS, "jobs_settled"),
            (super::super::write::PRUNE_RUNNERS, "runners_settled"),
        ] {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {query}")).unwrap();
            for n in 1..=statement.parameter_count() {
                statement.raw_bind_parameter(n, 1).unwrap();
            }
            let mut rows = statement.raw_query();
            let mut plan = String::new();
            while let Some(row) = rows.next().unwrap() {
                plan += &row.get::<_, String>(3).unwrap();
                plan.push('\n');
            }
            assert!(plan.contains(index), "{query}\n{plan}");
        }
    }
}
