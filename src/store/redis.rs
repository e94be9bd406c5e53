//! The store in Redis: each operation is one script, so that it happens as a whole or not at all.
//!
//! All writes go one way, in order and many in one round trip (`lane`); reads have connections of their own. Everything
//! of a deployment is in keys that begin with `{runner-manager:<name>}:`. The layout of the keys:
//!
//! | key | what it holds |
//! |---|---|
//! | `schema` | version of this layout |
//! | `deliveries` | sorted set: ids that are known, by when they were received |
//! | `inbox:<group>` | stream `<cursor>-1`: deliveries; `inbox:received`: `<group> <cursor> <job>` by when they were received |
//! | `cursor` | the last place that was given |
//! | `assigned` | hash: job to `<group> <since>`; `waiting`: job to its entries in inboxes; `unsaved`: those neither saved nor waiting |
//! | `jobs`, `runners` | hashes: bodies; `…:place`: where each stands; `…:state:…`, `…:group:…`, `…:settled`: sorted sets that follow from that |
//! | `groups`, `tokens`, `seq`, `owners` | hashes by group: snapshot, newest token, number of the last save, process that acquired it |
//! | `replicas`, `reports`, `leases` | who lives until when, what they report, who owns which group |
//! | `sealed:<key>`, `sealed_of:<runner>` | what is kept sealed until its time, and the keys of it by runner |
//! | `set_aside` | stream: what could not be read |
//!
//! Times are whole microseconds, so that pruning may keep an entry for a microsecond longer.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actors::id::{Cursor, FencingToken, GroupName, JobId, ReplicaId, RunnerName};
use actors::model::delivery::Delivery;
use actors::model::group::GroupSnapshot;
use actors::model::job::Job;
use actors::model::runner::Runner;
use actors::port::store::{
    Changes, Horizon, InboxEntry, JobFilter, Loaded, Recorded, Route, RunnerFilter, Sealed, Store, StoreError,
};
use actors::port::{Observation, Observer};
use async_trait::async_trait;
use redis::{Cmd, FromRedisValue, ParsingError, Value, from_redis_value};
use tokio::sync::watch;
use tokio::time::timeout;

mod access;
mod check;
mod connect;
mod error;
mod lane;
mod listen;
mod read;
mod replicas;
mod script;
mod sealed;
mod settings;
mod write;

use access::Access;
use connect::Connector;
use lane::{Kind, Lane, Writer};
use listen::Listener;
use read::{Found, Unreadable};
use script::{CHECK, Call, PRUNE, SET_ASIDE};
pub use settings::{OpenError, Server, Settings, Tls, Topology};

use crate::store::codec::{CodecError, Snapshot};

/// Most entries of each kind that one step of pruning deletes.
const PRUNE_STEP: u64 = 500;
/// Connections for what must not wait: one for all writes, one to say that this process lives, one for its farewell.
const URGENT_CONNECTIONS: u32 = 3;
/// Most bytes kept of an entry that was set aside.
const SET_ASIDE_BODY_MAX: usize = 64 << 10;

/// The store in Redis, which is also where replicas meet. Dropping it does what [`Store::close`] does, without waiting.
pub struct Redis {
    observer: Arc<dyn Observer>,
    access: Arc<Access>,
    /// For what must not wait behind reads: writes, and a replica's word that it lives, without which it loses its groups.
    urgent: Arc<Access>,
    lane: Arc<Lane>,
    running: watch::Receiver<()>,
    closed: AtomicBool,
    me: ReplicaId,
    instance: String,
    lease: Duration,
    listener: Listener,
    unread_reports: Mutex<BTreeSet<ReplicaId>>,
}

impl Redis {
    /// Prepares the store. It connects when it is first used: a server that is not there yet is waited for, and one that
    /// cannot be used (too old, a newer release's state, evicting) fails every call, with the reason.
    ///
    /// Must be called inside a tokio runtime. `observer` is told how long each operation took.
    ///
    /// # Errors
    /// [`OpenError`]: what can be seen without the server.
    pub fn open(settings: Settings, observer: Arc<dyn Observer>) -> Result<Self, OpenError> {
        let prefix = format!("{{runner-manager:{}}}:", settings.manager);
        let channel = format!("{prefix}to:{}", settings.replica);
        let connector = Arc::new(Connector::new(settings.server, prefix, settings.connect_timeout)?);
        let listener = Listener::new(Arc::clone(&connector), channel, settings.connect_timeout);
        let urgent = Arc::new(Access::new(Arc::clone(&connector), URGENT_CONNECTIONS, settings.timeout));
        let access = Arc::new(Access::new(connector, settings.connections, settings.timeout));
        let lane = Arc::new(Lane::default());
        let (alive, running) = watch::channel(());
        let writer = Writer::new(Arc::clone(&urgent), settings.wait_replicas);
        let work = writer.run(Arc::clone(&lane));
        tokio::spawn(async move {
            work.await;
            drop(alive);
        });
        Ok(Self {
            observer,
            access,
            urgent,
            lane,
            running,
            closed: AtomicBool::new(false),
            me: settings.replica,
            instance: format!("{:016x}", rand::random::<u64>()),
            lease: settings.lease,
            listener,
            unread_reports: Mutex::default(),
        })
    }

    /// Writes, in the order in which the calls were first polled.
    async fn write(&self, call: Call, kind: Kind) -> Result<Value, StoreError> {
        let answer = self.lane.push(call, kind)?;
        match timeout(self.access.timeout(), answer).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(lane::closed())),
            Err(_) => Err(self.access.silent()),
        }
    }

    async fn ask(&self, call: Call) -> Result<Value, StoreError> {
        self.ask_command(call.command(self.access.connector().prefix())).await
    }

    async fn ask_command(&self, command: Cmd) -> Result<Value, StoreError> {
        self.ask_over(&self.access, command).await
    }

    async fn ask_urgently(&self, call: Call) -> Result<Value, StoreError> {
        self.ask_over(&self.urgent, call.command(self.access.connector().prefix())).await
    }

    async fn ask_over(&self, access: &Access, command: Cmd) -> Result<Value, StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(lane::closed());
        }
        access.ask(command).await
    }

    fn parse<T: FromRedisValue>(&self, value: Value) -> Result<T, StoreError> {
        from_redis_value(value).map_err(|error| self.unexpected(&error))
    }

    fn unexpected(&self, error: &ParsingError) -> StoreError {
        StoreError::Unavailable(format!("{} gave an unexpected answer: {error}", self.access.connector().name()))
    }

    /// What was found, once what could not be read is moved out of the way.
    async fn readable<T>(&self, found: Result<Found<T>, ParsingError>) -> Result<T, StoreError> {
        let found = found.map_err(|error| self.unexpected(&error))?;
        for entry in found.unreadable {
            self.set_aside(entry).await;
        }
        Ok(found.value)
    }

    /// As [`Self::readable`], for reads whose answer does not say what was set aside.
    async fn readable_and_tell<T>(&self, found: Result<Found<T>, ParsingError>) -> Result<T, StoreError> {
        for group in found.iter().flat_map(|found| &found.unreadable).filter_map(|entry| entry.group.as_ref()) {
            self.observer.observe(&Observation::SnapshotsSetAside { group, count: 1 });
        }
        self.readable(found).await
    }

    async fn set_aside(&self, entry: Unreadable) {
        let group = entry.group.as_ref().map(GroupName::as_str).unwrap_or_default();
        tracing::error!(
            kind = entry.kind,
            key = entry.key,
            group,
            reason = entry.reason,
            "an entry cannot be read: set aside"
        );
        let kept = entry.body[..entry.body.len().min(SET_ASIDE_BODY_MAX)].to_vec();
        let call = Call::new(&SET_ASIDE).arg(entry.kind).arg(entry.key).arg(group).arg(entry.reason);
        if let Err(error) = self.write(call.arg(entry.body).arg(kept), Kind::Plain).await {
            // It is passed over now, and found again by the next read.
            tracing::warn!(%error, "an unreadable entry could not be moved out of the way yet");
        }
    }

    /// The bodies of jobs or runners, in the order of the keys.
    async fn bodies<S: Snapshot>(&self, kind: &'static str, keys: &[String]) -> Result<Vec<S>, StoreError> {
        let mut all = Vec::with_capacity(keys.len());
        for keys in keys.chunks(read::BODIES_STEP) {
            let answer = self.ask(read::get_call(kind, keys)).await?;
            all.extend(self.readable_and_tell(read::get(kind, answer)).await?);
        }
        Ok(all)
    }

    async fn timed<T>(&self, operation: &'static str, work: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let value = work.await;
        self.observer.observe(&Observation::StoreOperation { operation, took: start.elapsed() });
        value
    }
}

#[async_trait]
impl Store for Redis {
    async fn record(&self, delivery: Arc<Delivery>, route: Route) -> Result<Recorded, StoreError> {
        self.timed("record", async {
            let call = write::record(&delivery, &route, &self.me).map_err(unwritable)?;
            let answer: Vec<String> = self.parse(self.write(call, Kind::Plain).await?)?;
            let mut words = answer.into_iter();
            Ok(match words.next().as_deref() {
                Some("duplicate") => Recorded::Duplicate,
                _ => Recorded::New(words.filter_map(|group| GroupName::new(group).ok()).collect()),
            })
        })
        .await
    }

    async fn inbox(&self, group: &GroupName, after: Cursor, limit: usize) -> Result<Vec<InboxEntry>, StoreError> {
        self.timed("inbox", async {
            let limit = limit.max(1);
            let (mut entries, mut after) = (Vec::new(), after);
            loop {
                let step = (limit - entries.len()).min(read::INBOX_STEP);
                let answer = self.ask(read::inbox_call(group, after, step)).await?;
                let portion = self.readable_and_tell(read::inbox(group, after, step, answer)).await?;
                entries.extend(portion.entries);
                if !portion.full || entries.len() >= limit {
                    return Ok(entries);
                }
                after = portion.last;
            }
        })
        .await
    }

    async fn acquire(&self, group: &GroupName) -> Result<FencingToken, StoreError> {
        self.timed("acquire", async {
            let call = write::acquire(group, &self.me, &self.instance);
            let answer: Vec<String> = self.parse(self.write(call, Kind::Acquire(group.clone())).await?)?;
            match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["ok", token] => token.parse().map(FencingToken).map_err(|_| late(group)),
                ["owned", owner] => match ReplicaId::new(owner) {
                    Ok(owner) => Err(StoreError::NotOwner { group: group.clone(), owner }),
                    Err(error) => Err(StoreError::Unavailable(error.to_string())),
                },
                _ => Err(late(group)),
            }
        })
        .await
    }

    async fn load(&self, group: &GroupName) -> Result<Loaded, StoreError> {
        self.timed("load", async {
            let answer = self.ask(read::load_call(group)).await?;
            self.readable(read::load(group, answer)).await
        })
        .await
    }

    async fn save(&self, group: &GroupName, token: FencingToken, changes: Changes) -> Result<(), StoreError> {
        self.timed("save", async {
            let call = write::save(group, token, &changes).map_err(unwritable)?;
            let answer: Vec<String> = self.parse(self.write(call, Kind::Save(group.clone(), token)).await?)?;
            match answer.first().map(String::as_str) {
                Some("ok") => Ok(()),
                Some("fenced") => Err(StoreError::Fenced { group: group.clone(), token }),
                Some("forgotten") => Err(StoreError::Forgotten { group: group.clone() }),
                _ => Err(late(group)),
            }
        })
        .await
    }

    async fn group(&self, group: &GroupName) -> Result<Option<GroupSnapshot>, StoreError> {
        self.timed("group", async {
            let mut command = redis::cmd("HGET");
            command.arg(format!("{}groups", self.access.connector().prefix())).arg(group.as_str());
            let answer = self.ask_command(command).await?;
            self.readable_and_tell(read::group(group, answer)).await
        })
        .await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.timed("job", async { Ok(self.bodies("jobs", &[write::job_key(id)]).await?.pop()) }).await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>, StoreError> {
        self.timed("jobs", async {
            let answer = self.ask(read::jobs_call(filter)).await?;
            let keys = read::jobs_keys(filter, answer).map_err(|error| self.unexpected(&error))?;
            Ok(read::jobs(filter, self.bodies("jobs", &keys).await?))
        })
        .await
    }

    async fn runner(&self, name: &RunnerName) -> Result<Option<Runner>, StoreError> {
        self.timed("runner", async { Ok(self.bodies("runners", &[name.as_str().to_owned()]).await?.pop()) }).await
    }

    async fn runners(&self, filter: &RunnerFilter) -> Result<Vec<Runner>, StoreError> {
        self.timed("runners", async {
            let answer = self.ask(read::runners_call(filter)).await?;
            let keys = read::runners_keys(filter, answer).map_err(|error| self.unexpected(&error))?;
            Ok(read::runners(filter, self.bodies("runners", &keys).await?))
        })
        .await
    }

    async fn keep_sealed(&self, sealed: Sealed) -> Result<(), StoreError> {
        self.timed("keep_sealed", async {
            let call = sealed::keep(sealed).map_err(|error| StoreError::Unavailable(error.to_string()))?;
            self.write(call, Kind::Plain).await.map(drop)
        })
        .await
    }

    async fn sealed(&self, key: &str) -> Result<Option<Sealed>, StoreError> {
        self.timed("sealed", async {
            let mut command = redis::cmd("GET");
            command.arg(format!("{}{}", self.access.connector().prefix(), sealed::place(key)));
            let body: Option<Vec<u8>> = self.parse(self.ask_command(command).await?)?;
            Ok(body.and_then(|body| sealed::entry(key, &body)))
        })
        .await
    }

    async fn forget_sealed(&self, runner: &RunnerName) -> Result<(), StoreError> {
        self.timed("forget_sealed", async { self.write(sealed::forget(runner), Kind::Plain).await.map(drop) }).await
    }

    async fn prune(&self, before: Horizon) -> Result<u64, StoreError> {
        self.timed("prune", async {
            let (mut total, mut unread) = (0, 0);
            loop {
                // Step by step, so that deliveries get in between.
                let call = Call::new(&PRUNE)
                    .arg(write::microseconds(before.deliveries))
                    .arg(write::microseconds(before.jobs))
                    .arg(write::microseconds(before.runners))
                    .arg(PRUNE_STEP.to_string());
                let went: [u64; 5] = self.parse(self.write(call, Kind::Plain).await?)?;
                total += went[..3].iter().sum::<u64>();
                unread += went[3];
                if went.iter().all(|count| *count < PRUNE_STEP) {
                    break;
                }
            }
            if unread > 0 {
                tracing::warn!(count = unread, "deliveries that no group read in time are forgotten");
            }
            Ok(total)
        })
        .await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.timed("probe", async {
            let found = self.write(Call::new(&CHECK).arg("write"), Kind::Plain).await?;
            check::keys(self.access.connector().name(), found).map_err(StoreError::Unavailable)
        })
        .await
    }

    async fn close(&self) {
        self.stop();
        let mut running = self.running.clone();
        while running.changed().await.is_ok() {}
    }
}

impl Redis {
    fn stop(&self) {
        self.closed.store(true, Ordering::Release);
        self.listener.stop();
        self.lane.close();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

fn late(group: &GroupName) -> StoreError {
    StoreError::Unavailable(format!("a later write of group {group} came first"))
}

fn unwritable(error: CodecError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
