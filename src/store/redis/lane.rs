//! The way of all writes: a bounded queue, and one task that sends what waits in one go, over one connection.
//!
//! So writes keep their order, and many share one round trip; one batch is under way at a time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actors::id::{FencingToken, GroupName};
use actors::port::StoreError;
use jiff::Timestamp;
use redis::{Pipeline, RedisError, Value};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use super::access::{Access, Held, reload};
use super::error;
use super::script::Call;

/// Most writes that may wait.
const WRITES_MAX: usize = 8192;
/// Most bytes that may wait to be written.
const WRITES_BYTES_MAX: usize = 32 << 20;
/// Most writes of one batch.
const BATCH_MAX: usize = 128;
/// A batch takes no more writes once it has so many bytes.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Where a save has its number, and the number of the last one that was acknowledged.
const SAVE_SEQ: usize = 2;
const SAVE_ACKED: usize = 3;
/// Where an acquisition has its number.
const ACQUIRE_SEQ: usize = 3;

/// What the lane has to know of a write.
pub(super) enum Kind {
    /// Nothing.
    Plain,
    /// It saves a group for the owner with a token.
    Save(GroupName, FencingToken),
    /// It gives a group a new owner.
    Acquire(GroupName),
}

/// A write that waits.
struct Entry {
    call: Call,
    kind: Kind,
    seq: Option<u64>,
    bytes: usize,
    reply: oneshot::Sender<Result<Value, StoreError>>,
}

/// Holds what waits for the writer.
#[derive(Default)]
pub(super) struct Lane {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Entry>,
    bytes: usize,
    closed: bool,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a write to the writer, or refuses it at once. Its answer arrives at the receiver; while that is dropped
    /// before the write was sent, it is not sent.
    pub(super) fn push(
        &self,
        call: Call,
        kind: Kind,
    ) -> Result<oneshot::Receiver<Result<Value, StoreError>>, StoreError> {
        let bytes = call.bytes();
        let (reply, answer) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return Err(closed());
        }
        let count = state.waiting.len();
        if count >= WRITES_MAX || (count > 0 && state.bytes.saturating_add(bytes) > WRITES_BYTES_MAX) {
            return Err(StoreError::Overloaded(count));
        }
        state.bytes += bytes;
        state.waiting.push_back(Entry { call, kind, seq: None, bytes, reply });
        drop(state);
        self.arrived.notify_one();
        Ok(answer)
    }

    /// Waits for writes and takes the oldest that somebody still waits for. None: closed, and all were taken.
    async fn take(&self) -> Option<Vec<Entry>> {
        loop {
            {
                let mut state = self.lock();
                let (mut taken, mut bytes) = (Vec::new(), 0);
                while taken.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
                    let Some(entry) = state.waiting.pop_front() else { break };
                    state.bytes -= entry.bytes;
                    if !entry.reply.is_closed() {
                        bytes += entry.bytes;
                        taken.push(entry);
                    }
                }
                if !taken.is_empty() {
                    return Some(taken);
                }
                if state.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Takes no more writes; those that wait are still sent.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }
}

/// What every call answers when the store is closed.
pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}

/// Sends what waits.
pub(super) struct Writer {
    access: Arc<Access>,
    wait_replicas: u32,
    seq: u64,
    /// By group: the token that this process acquired, and the last write under it that was acknowledged.
    owned: HashMap<GroupName, (FencingToken, u64)>,
    link: Option<Held>,
    /// Whether something of the batch was done, and what was wrong with what was not.
    done: bool,
    error: Option<StoreError>,
    failing: bool,
}

impl Writer {
    /// Its writes have greater numbers than those of any that was made before, by the clock of this machine.
    pub(super) fn new(access: Arc<Access>, wait_replicas: u32) -> Self {
        let seq = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default();
        Self { access, wait_replicas, seq, owned: HashMap::new(), link: None, done: false, error: None, failing: false }
    }

    /// Works until the lane is closed and empty.
    pub(super) async fn run(mut self, lane: Arc<Lane>) {
        while let Some(batch) = lane.take().await {
            self.carry_out(batch).await;
            self.note();
        }
    }

    /// Says when nothing can be written, and when something can be again.
    fn note(&mut self) {
        let server = self.access.connector().name();
        let (done, error) = (std::mem::take(&mut self.done), self.error.take());
        if done {
            if std::mem::take(&mut self.failing) {
                tracing::info!(server, "the store can be written again");
            }
        } else if let Some(error) = error
            && !std::mem::replace(&mut self.failing, true)
        {
            tracing::error!(server, %error, "the store cannot be written: nothing is acknowledged");
        }
    }

    async fn carry_out(&mut self, mut batch: Vec<Entry>) {
        let until = Instant::now() + self.access.timeout();
        let attempts = self.access.attempts();
        for attempt in 1..=attempts {
            // What was not done because the server is the wrong one, or has forgotten the scripts, is sent again; so is a
            // batch whose connection failed, of which no part has an effect twice.
            let last = attempt == attempts;
            match self.send(&mut batch, until).await {
                Err(Failed::Told(error)) => return self.fail(batch, &error),
                Err(Failed::Lost(error)) => {
                    self.link = None;
                    if last || !error.is_connection_dropped() {
                        let error = self.access.failed(&error);
                        return self.fail(batch, &error);
                    }
                }
                Ok((values, replicated)) => {
                    let mut again = Vec::new();
                    let mut unknown = false;
                    for (entry, value) in batch.into_iter().zip(values) {
                        match value.extract_error() {
                            Err(error) if !last && error::is_no_script(&error) => {
                                unknown = true;
                                again.push(entry);
                            }
                            Err(error) if error::is_elsewhere(&error) => {
                                if let Some(link) = &mut self.link {
                                    link.give_up();
                                }
                                if last {
                                    self.answer(entry, Err(self.access.failed(&error)));
                                } else {
                                    again.push(entry);
                                }
                            }
                            Err(error) => self.answer(entry, Err(self.access.failed(&error))),
                            Ok(value) => {
                                let outcome = replicated.clone().map(|()| value);
                                self.answer(entry, outcome);
                            }
                        }
                    }
                    self.link = self.link.take().filter(|link| !link.is_broken());
                    if unknown && let Some(link) = &mut self.link {
                        let loaded = timeout_at(until, reload(link)).await;
                        if loaded.is_err() || link.is_broken() {
                            self.link = None;
                        }
                    }
                    batch = again;
                }
            }
            if batch.is_empty() {
                return;
            }
        }
    }

    /// Sends a batch. The answers, and whether enough replicas have it.
    async fn send(
        &mut self,
        batch: &mut [Entry],
        until: Instant,
    ) -> Result<(Vec<Value>, Result<(), StoreError>), Failed> {
        self.link = self.link.take().filter(|link| self.access.connector().is_current(link));
        if self.link.is_none() {
            self.link = Some(self.access.link(until).await.map_err(Failed::Told)?);
        }
        let prefix = self.access.connector().prefix();
        let mut commands = Pipeline::with_capacity(batch.len() + 2);
        for entry in batch.iter_mut() {
            let seq = *entry.seq.get_or_insert_with(|| {
                self.seq += 1;
                self.seq
            });
            match &entry.kind {
                Kind::Plain => {}
                Kind::Save(group, token) => {
                    let acked = self.owned.get(group).filter(|(owned, _)| owned == token);
                    entry.call.set(SAVE_SEQ, seq.to_string());
                    entry.call.set(SAVE_ACKED, acked.map(|(_, acked)| acked.to_string()).unwrap_or_default());
                }
                Kind::Acquire(_) => entry.call.set(ACQUIRE_SEQ, seq.to_string()),
            }
            commands.add_command(entry.call.command(prefix));
        }
        if self.wait_replicas > 0 {
            // A write, so that what is waited for includes all that came before, over whatever connection.
            commands.cmd("SET").arg(format!("{prefix}acknowledged")).arg("");
            let patience = self.access.timeout() / 2;
            commands.cmd("WAIT").arg(self.wait_replicas).arg(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
        }
        let Some(link) = &mut self.link else { return Err(Failed::Told(self.access.silent())) };
        let sent = timeout_at(until, link.send(&commands)).await;
        let Ok(sent) = sent else {
            self.link = None;
            return Err(Failed::Told(self.access.silent()));
        };
        let mut values = sent.map_err(Failed::Lost)?;
        let mut replicated = Ok(());
        if self.wait_replicas > 0 {
            let (acks, marked) = (values.pop().unwrap_or_default(), values.pop().unwrap_or_default());
            replicated = self.replicated(marked, &acks);
        }
        Ok((values, replicated))
    }

    fn replicated(&self, marked: Value, acks: &Value) -> Result<(), StoreError> {
        marked.extract_error().map_err(|error| self.access.failed(&error))?;
        let acks = if let Value::Int(acks) = acks { *acks } else { 0 };
        if acks >= i64::from(self.wait_replicas) {
            return Ok(());
        }
        let (server, wanted) = (self.access.connector().name(), self.wait_replicas);
        Err(StoreError::Unavailable(format!(
            "{acks} of the {wanted} replicas that redis_wait_replicas asks for have the write of {server}"
        )))
    }

    fn fail(&mut self, batch: Vec<Entry>, error: &StoreError) {
        for entry in batch {
            self.answer(entry, Err(error.clone()));
        }
    }

    /// Answers one write, and remembers what was acknowledged.
    fn answer(&mut self, entry: Entry, outcome: Result<Value, StoreError>) {
        match &outcome {
            Ok(value) => {
                self.done = true;
                self.remember(&entry, value);
            }
            Err(error) => self.error = Some(error.clone()),
        }
        // Whoever asked may have stopped waiting.
        let _ = entry.reply.send(outcome);
    }

    fn remember(&mut self, entry: &Entry, value: &Value) {
        let (Some(seq), Value::Array(answer)) = (entry.seq, value) else { return };
        let text = |n: usize| match answer.get(n) {
            Some(Value::BulkString(text)) => std::str::from_utf8(text).ok(),
            _ => None,
        };
        match (&entry.kind, text(0)) {
            (Kind::Save(group, token), Some("ok")) => {
                if let Some((owned, acked)) = self.owned.get_mut(group)
                    && owned == token
                {
                    *acked = seq.max(*acked);
                }
            }
            (Kind::Acquire(group), Some("ok")) => {
                if let Some(token) = text(1).and_then(|token| token.parse().ok()) {
                    self.owned.insert(group.clone(), (FencingToken(token), seq));
                }
            }
            _ => {}
        }
    }
}

/// Why a batch has no answers.
enum Failed {
    /// There is no connection, or no answer came in time.
    Told(StoreError),
    /// The connection failed.
    Lost(RedisError),
}
