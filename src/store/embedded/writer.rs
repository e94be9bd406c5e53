//! The one thread that writes: whatever waits goes into one transaction and shares one flush.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use actors::port::StoreError;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::oneshot;

use super::queue::Queue;
use super::schema;
use super::write::Failed;

/// Most operations in one transaction, which bounds how long the first of them waits.
const BATCH_MAX: usize = 1024;

/// One operation in the queue.
pub(super) type Write = Box<dyn Operation>;

/// An operation, first applied, then answered.
pub(super) trait Operation: Send {
    /// Does it, inside a savepoint; on an error the savepoint is rolled back. Called at most once.
    fn apply(&mut self, db: &Connection) -> Result<(), Failed>;
    /// Answers. `Err`: the transaction was not committed; `Ok`: it was, and is durable.
    fn finish(self: Box<Self>, transaction: Result<(), &StoreError>);
}

/// Makes an operation of a function, and the place where its answer arrives.
pub(super) fn operation<T, F>(work: F) -> (Write, oneshot::Receiver<Result<T, StoreError>>)
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> Result<T, Failed> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    (Box::new(Pending { work: Some(work), outcome: None, reply }), answer)
}

struct Pending<T, F> {
    work: Option<F>,
    outcome: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Operation for Pending<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, Failed> + Send,
{
    fn apply(&mut self, db: &Connection) -> Result<(), Failed> {
        let Some(work) = self.work.take() else { return Ok(()) };
        match work(db) {
            Ok(value) => {
                self.outcome = Some(Ok(value));
                Ok(())
            }
            Err(failed) => {
                self.outcome = Some(Err(match &failed {
                    Failed::Database(error) => unavailable(error),
                    Failed::Refused(error) => error.clone(),
                }));
                Err(failed)
            }
        }
    }

    fn finish(self: Box<Self>, transaction: Result<(), &StoreError>) {
        let answer = match (transaction, self.outcome) {
            (Ok(()), Some(outcome)) => outcome,
            (Ok(()), None) => Err(StoreError::Unavailable("the write was not carried out".to_owned())),
            (Err(error), _) => Err(error.clone()),
        };
        // Whoever asked may have stopped waiting.
        let _ = self.reply.send(answer);
    }
}

/// A database error in words, with what to do about it.
pub(super) fn unavailable(error: &rusqlite::Error) -> StoreError {
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => ": the disk that holds data_dir is full: free some space",
        Some(ErrorCode::SystemIoFailure) => ": the disk that holds data_dir fails or is full",
        Some(ErrorCode::ReadOnly) => ": data_dir is read-only",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            ": the file is damaged: restart, and it is checked and set aside"
        }
        _ => "",
    };
    StoreError::Unavailable(format!("{error}{advice}"))
}

/// The writing side of the database.
pub(super) struct Writer {
    path: PathBuf,
    suspect: Arc<Path>,
    connection: Option<Connection>,
    failing: bool,
}

impl Writer {
    /// Takes over a connection to the database at `path`; `suspect` is the file that asks for a check at the next start.
    pub(super) fn new(path: PathBuf, suspect: Arc<Path>, connection: Connection) -> Self {
        Self { path, suspect, connection: Some(connection), failing: false }
    }

    /// Works until the queue is closed and empty.
    pub(super) fn run(&mut self, queue: &Queue<Write>) {
        while let Some(mut batch) = queue.take(BATCH_MAX) {
            let outcome = self.transaction(&mut batch, queue).map_err(|error| self.failed(&error));
            if outcome.is_ok() && std::mem::take(&mut self.failing) {
                tracing::info!(file = %self.path.display(), "the store can be written again");
            }
            for operation in batch {
                operation.finish(outcome.as_ref().copied());
            }
        }
    }

    /// Carries out a batch, and what comes meanwhile, and commits it.
    fn transaction(&mut self, batch: &mut Vec<Write>, queue: &Queue<Write>) -> Result<(), rusqlite::Error> {
        let db = match &self.connection {
            Some(open) => open,
            None => self.connection.insert(schema::writer(&self.path)?),
        };
        db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let mut done = 0;
        while done < batch.len() {
            for operation in &mut batch[done..] {
                apply(db, operation)?;
            }
            done = batch.len();
            batch.append(&mut queue.take_more(BATCH_MAX.saturating_sub(done)));
        }
        db.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    /// Makes sure that the next batch starts afresh, and says what went wrong.
    fn failed(&mut self, error: &rusqlite::Error) -> StoreError {
        let reason = unavailable(error);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(file = %self.path.display(), error = %reason, "the store cannot be written: nothing is acknowledged");
        }
        schema::suspect(&self.suspect, error);
        if let Some(db) = self.connection.take() {
            let clean = db.is_autocommit() || db.execute_batch("ROLLBACK").is_ok();
            if clean && error.sqlite_error_code() == Some(ErrorCode::DiskFull) {
                self.connection = Some(db);
            }
        }
        reason
    }
}

/// Applies one operation so that its failure takes back nothing but itself. An error means that the transaction is lost.
fn apply(db: &Connection, operation: &mut Write) -> Result<(), rusqlite::Error> {
    db.prepare_cached("SAVEPOINT operation")?.execute([])?;
    if let Err(failed) = operation.apply(db) {
        if let Failed::Database(error) = failed
            && (db.is_autocommit() || schema::is_damage(&error))
        {
            return Err(error);
        }
        db.prepare_cached("ROLLBACK TO operation")?.execute([])?;
    }
    db.prepare_cached("RELEASE operation")?.execute([])?;
    Ok(())
}
