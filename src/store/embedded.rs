//! The store on a local disk: one SQLite file, one thread that writes, two that read.
//!
//! Writes go through a bounded queue to the writer, which puts all that waits into one transaction (group commit): one
//! flush of the write-ahead log serves them all, and a write that comes alone starts at once. Reads of inboxes have a
//! thread of their own, so that no listing delays a delivery; neither waits for the writer.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use actors::id::{Cursor, FencingToken, GroupName, JobId, RunnerName};
use actors::model::delivery::Delivery;
use actors::model::group::GroupSnapshot;
use actors::model::job::Job;
use actors::model::runner::Runner;
use actors::port::store::{
    Changes, Horizon, InboxEntry, JobFilter, Loaded, Recorded, Route, RunnerFilter, Sealed, Store, StoreError,
};
use actors::port::{Observation, Observer};
use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

mod dir;
mod error;
mod queue;
mod read;
mod schema;
mod sealed;
mod write;
mod writer;

use dir::DataDir;
pub use dir::DirState;
pub use error::OpenError;
use queue::{Queue, Refused};
use read::{Found, Query};
use write::{Failed, PRUNE_STEP, Place, Unreadable};
use writer::{Write, Writer};

use crate::store::codec::CodecError;

/// Most writes that may wait.
const WRITES_MAX: usize = 8192;
/// Most bytes that may wait to be written.
const WRITES_BYTES_MAX: usize = 32 << 20;
/// Most reads that may wait, for each reading thread.
const READS_MAX: usize = 8192;
/// Unreadable entries that are moved in one step.
const SET_ASIDE_STEP: usize = 256;

/// The embedded store. Dropping it does what [`Store::close`] does, without waiting for it.
pub struct Embedded {
    observer: Arc<dyn Observer>,
    suspect: Arc<Path>,
    writer: Worker<Write>,
    inboxes: Worker<Query>,
    listings: Worker<Query>,
}

impl Embedded {
    /// Opens the store in a directory, which is made if it is missing. Blocks for as long as that takes: well below a
    /// second, unless a large damaged file is checked.
    ///
    /// `observer` is told how long each operation took.
    ///
    /// # Errors
    /// [`OpenError`]. A damaged database is none: it is set aside, with an error in the log.
    pub fn open(data_dir: &Path, observer: Arc<dyn Observer>) -> Result<Self, OpenError> {
        let dir = Arc::new(DataDir::lock(data_dir)?);
        let path = dir.file(schema::DB_FILE);
        let connection = schema::open(&dir)?;
        let suspect: Arc<Path> = dir.file(schema::SUSPECT_FILE).into();
        let mut writer = Writer::new(path.clone(), Arc::clone(&suspect), connection);
        let reader = |name, dir: &Arc<DataDir>| {
            let path = path.clone();
            let connection =
                schema::reader(&path).map_err(|source| OpenError::Database { path: path.clone(), source })?;
            Worker::start(name, dir, Queue::new(READS_MAX, usize::MAX), move |queue| {
                read::run(&path, connection, queue);
            })
        };
        Ok(Self {
            observer,
            suspect,
            inboxes: reader("store-inbox", &dir)?,
            listings: reader("store-read", &dir)?,
            writer: Worker::start("store-write", &dir, Queue::new(WRITES_MAX, WRITES_BYTES_MAX), move |queue| {
                writer.run(queue);
            })?,
        })
    }

    /// Looks whether the store could be opened in a directory, or is open, and disturbs no process that uses it.
    ///
    /// # Errors
    /// [`OpenError`] that says why it could not.
    pub fn look(data_dir: &Path) -> Result<DirState, OpenError> {
        dir::look(data_dir)
    }

    async fn write<T, F>(&self, bytes: usize, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Failed> + Send + 'static,
    {
        let (operation, answer) = writer::operation(work);
        self.writer.queue.push(operation, bytes).map_err(|refused| match refused {
            Refused::Full(waiting) => StoreError::Overloaded(waiting),
            Refused::Stuck(time) => {
                StoreError::Unavailable(format!("the disk has not finished a write for {} s", time.as_secs()))
            }
            Refused::Closed => closed(),
        })?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn read<T, F>(&self, reader: &Worker<Query>, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let suspect = Arc::clone(&self.suspect);
        let query = move |db: Result<&Connection, rusqlite::Error>| {
            let answer = db.and_then(query).inspect_err(|error| schema::suspect(&suspect, error));
            let works = answer.is_ok();
            // Whoever asked may have stopped waiting.
            let _ = reply.send(answer);
            works
        };
        reader.queue.push(Box::new(query), 0).map_err(|refused| match refused {
            Refused::Full(waiting) => StoreError::Unavailable(format!("{waiting} reads are waiting")),
            Refused::Stuck(time) => {
                StoreError::Unavailable(format!("the disk has not finished a read for {} s", time.as_secs()))
            }
            Refused::Closed => closed(),
        })?;
        match answer.await {
            Ok(answer) => answer.map_err(|error| writer::unavailable(&error)),
            Err(_) => Err(closed()),
        }
    }

    /// Reads, and moves what could not be read out of the way.
    async fn find<T, F>(&self, reader: &Worker<Query>, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<Found<T>, rusqlite::Error> + Send + 'static,
    {
        let found = self.read(reader, query).await?;
        for entries in found.unreadable.chunks(SET_ASIDE_STEP) {
            self.set_aside(entries.to_vec()).await;
        }
        Ok(found.value)
    }

    /// As [`Self::find`], for reads whose answer does not say what was set aside.
    async fn find_and_tell<T, F>(&self, reader: &Worker<Query>, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<Found<T>, rusqlite::Error> + Send + 'static,
    {
        let observer = Arc::clone(&self.observer);
        self.find(reader, move |db| {
            let found = query(db)?;
            for name in found.unreadable.iter().filter_map(|entry| entry.group.as_ref()) {
                if let Ok(group) = GroupName::new(name) {
                    observer.observe(&Observation::SnapshotsSetAside { group: &group, count: 1 });
                }
            }
            Ok(found)
        })
        .await
    }

    async fn set_aside(&self, entries: Vec<Unreadable>) {
        for entry in &entries {
            let (kind, key) = match &entry.place {
                Place::Group(name) => ("group", name.clone()),
                Place::Runner(name) => ("runner", name.clone()),
                Place::Job(id) => ("job", id.cast_unsigned().to_string()),
                Place::Inbox(cursor) => ("delivery", cursor.to_string()),
            };
            tracing::error!(
                kind,
                key,
                group = entry.group,
                reason = entry.reason,
                "an entry cannot be read: set aside"
            );
        }
        let bytes = entries.iter().map(|entry| entry.body.len()).sum();
        let moved = self.write(bytes, move |db| entries.iter().try_for_each(|entry| write::set_aside(db, entry)));
        if let Err(error) = moved.await {
            // They are passed over now, and found again by the next read.
            tracing::warn!(%error, "unreadable entries could not be moved out of the way yet");
        }
    }

    async fn timed<T>(&self, operation: &'static str, work: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let value = work.await;
        self.observer.observe(&Observation::StoreOperation { operation, took: start.elapsed() });
        value
    }
}

#[async_trait]
impl Store for Embedded {
    async fn record(&self, delivery: Arc<Delivery>, route: Route) -> Result<Recorded, StoreError> {
        self.timed("record", async {
            let write = write::RecordWrite::new(&delivery, route).map_err(unwritable)?;
            self.write(write.bytes(), |db| write.apply(db)).await
        })
        .await
    }

    async fn inbox(&self, group: &GroupName, after: Cursor, limit: usize) -> Result<Vec<InboxEntry>, StoreError> {
        self.timed("inbox", async {
            let limit = limit.max(1);
            let (mut entries, mut after) = (Vec::new(), after);
            loop {
                let (group, left) = (group.clone(), limit - entries.len());
                let portion = self.find_and_tell(&self.inboxes, move |db| read::inbox(db, &group, after, left)).await?;
                entries.extend(portion.entries);
                if portion.complete || entries.len() >= limit {
                    return Ok(entries);
                }
                after = portion.last;
            }
        })
        .await
    }

    async fn acquire(&self, group: &GroupName) -> Result<FencingToken, StoreError> {
        let group = group.clone();
        self.timed("acquire", self.write(0, move |db| write::acquire(db, &group))).await
    }

    async fn load(&self, group: &GroupName) -> Result<Loaded, StoreError> {
        let group = group.clone();
        self.timed("load", self.find(&self.listings, move |db| read::load(db, &group))).await
    }

    async fn save(&self, group: &GroupName, token: FencingToken, changes: Changes) -> Result<(), StoreError> {
        self.timed("save", async {
            let write = write::SaveWrite::new(group, token, &changes).map_err(unwritable)?;
            self.write(write.bytes(), |db| write.apply(db)).await
        })
        .await
    }

    async fn group(&self, group: &GroupName) -> Result<Option<GroupSnapshot>, StoreError> {
        let group = group.clone();
        self.timed("group", self.find_and_tell(&self.listings, move |db| read::group(db, &group))).await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.timed("job", self.find_and_tell(&self.listings, move |db| read::job(db, id))).await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>, StoreError> {
        let filter = filter.clone();
        self.timed("jobs", self.find_and_tell(&self.listings, move |db| read::jobs(db, &filter))).await
    }

    async fn runner(&self, name: &RunnerName) -> Result<Option<Runner>, StoreError> {
        let name = name.clone();
        self.timed("runner", self.find_and_tell(&self.listings, move |db| read::runner(db, &name))).await
    }

    async fn runners(&self, filter: &RunnerFilter) -> Result<Vec<Runner>, StoreError> {
        let filter = filter.clone();
        self.timed("runners", self.find_and_tell(&self.listings, move |db| read::runners(db, &filter))).await
    }

    async fn keep_sealed(&self, sealed: Sealed) -> Result<(), StoreError> {
        let bytes = sealed.body.len() + size_of::<Sealed>();
        self.timed("keep_sealed", self.write(bytes, move |db| sealed::keep(db, &sealed))).await
    }

    async fn sealed(&self, key: &str) -> Result<Option<Sealed>, StoreError> {
        let key = key.to_owned();
        self.timed("sealed", self.read(&self.listings, move |db| sealed::find(db, &key))).await
    }

    async fn forget_sealed(&self, runner: &RunnerName) -> Result<(), StoreError> {
        let runner = runner.clone();
        self.timed("forget_sealed", self.write(0, move |db| sealed::forget(db, &runner))).await
    }

    async fn prune(&self, before: Horizon) -> Result<u64, StoreError> {
        self.timed("prune", async {
            let mut total = 0;
            self.write(0, sealed::forget_expired).await?;
            loop {
                // Step by step, so that deliveries get in between.
                let went = self.write(0, move |db| write::prune(db, before)).await?;
                total += went as u64;
                if went < PRUNE_STEP as usize {
                    break;
                }
            }
            loop {
                let leftovers = self.read(&self.listings, move |db| read::leftovers(db, before)).await?;
                if !leftovers.cursors.is_empty() {
                    let count = leftovers.cursors.len();
                    tracing::warn!(count, "deliveries that no group read in time are forgotten");
                }
                if leftovers.cursors.is_empty() && leftovers.jobs.is_empty() {
                    return Ok(total);
                }
                self.write(0, move |db| write::prune_leftovers(db, &leftovers)).await?;
            }
        })
        .await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.timed("probe", self.write(0, write::probe)).await
    }

    async fn close(&self) {
        // The writer last: the last connection to go folds the log into the database.
        self.inboxes.queue.close();
        self.listings.queue.close();
        self.inboxes.ended().await;
        self.listings.ended().await;
        self.writer.queue.close();
        self.writer.ended().await;
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.inboxes.queue.close();
        self.listings.queue.close();
        self.writer.queue.close();
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}

fn unwritable(error: CodecError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// A thread and its queue.
struct Worker<T> {
    queue: Arc<Queue<T>>,
    running: watch::Receiver<()>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts a thread that holds the directory for as long as it runs.
    fn start(
        name: &str,
        dir: &Arc<DataDir>,
        queue: Queue<T>,
        work: impl FnOnce(&Queue<T>) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let queue = Arc::new(queue);
        let (alive, running) = watch::channel(());
        let held = (Abandon(Arc::clone(&queue)), Arc::clone(dir), alive);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Fields go in order, and only after `work`: the queue, then the directory, then the sign of life.
                let held = held;
                work(&held.0.0);
            })
            .map_err(OpenError::Thread)?;
        Ok(Self { queue, running })
    }

    /// Waits until the thread has let go of everything.
    async fn ended(&self) {
        let mut running = self.running.clone();
        while running.changed().await.is_ok() {}
    }
}

/// Leaves nobody waiting for a thread that has ended, whatever ended it.
struct Abandon<T>(Arc<Queue<T>>);

impl<T> Drop for Abandon<T> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
