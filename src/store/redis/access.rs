//! Connections as operations use them: checked out of the pool within a time, and given up when they fail.

use std::sync::Arc;
use std::time::Duration;

use actors::port::StoreError;
use bb8_redis::bb8::{self, Pool, PooledConnection, RunError};
use redis::{Cmd, Pipeline, Value};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::connect::{Connector, Link, Trouble};
use super::{error, script};

/// Most questions that may wait for a connection or an answer.
const QUESTIONS_MAX: usize = 1024;

/// A connection, held until dropped.
pub(super) type Held = PooledConnection<'static, Manager>;

/// Makes connections for the pool.
pub(super) struct Manager(Arc<Connector>);

impl bb8::ManageConnection for Manager {
    type Connection = Link;
    type Error = Trouble;

    async fn connect(&self) -> Result<Link, Trouble> {
        self.0.connect().await
    }

    async fn is_valid(&self, link: &mut Link) -> Result<(), Trouble> {
        if self.0.is_current(link) {
            return Ok(());
        }
        Err(Trouble { text: format!("{} has another master now", self.0.name()), definite: false })
    }

    fn has_broken(&self, link: &mut Link) -> bool {
        link.is_broken()
    }
}

/// The way to the server.
pub(super) struct Access {
    connector: Arc<Connector>,
    pool: Pool<Manager>,
    timeout: Duration,
    attempts: u32,
    questions: Semaphore,
}

impl Access {
    /// Connects when it is first needed. Must be called inside the runtime.
    pub(super) fn new(connector: Arc<Connector>, connections: u32, timeout: Duration) -> Self {
        let connections = connections.max(2);
        let pool = Pool::builder()
            .max_size(connections)
            .test_on_check_out(true)
            .connection_timeout(timeout)
            .build_unchecked(Manager(Arc::clone(&connector)));
        // All in the pool may have been cut, and the new one may have to learn the scripts.
        let attempts = connections + 2;
        Self { connector, pool, timeout, attempts, questions: Semaphore::new(QUESTIONS_MAX) }
    }

    /// How connections are made.
    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Longest time of one operation.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How often a command is sent while connections turn out to be such that are to be given up.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// That no answer came in time, and why, if that is known.
    pub(super) fn silent(&self) -> StoreError {
        let trouble = self.connector.trouble().borrow().as_ref().map(|trouble| trouble.text.clone());
        StoreError::Unavailable(trouble.unwrap_or_else(|| {
            format!("{} did not answer within {} s", self.connector.name(), self.timeout.as_secs_f32())
        }))
    }

    /// An error of the server in words.
    pub(super) fn failed(&self, error: &redis::RedisError) -> StoreError {
        StoreError::Unavailable(error::words(self.connector.name(), error))
    }

    /// A connection. When one cannot be made, that is told at once if waiting would not help.
    pub(super) async fn link(&self, until: Instant) -> Result<Held, StoreError> {
        let mut trouble = self.connector.trouble();
        tokio::select! {
            biased;
            got = self.pool.get_owned() => got.map_err(|error| match error {
                RunError::User(trouble) => StoreError::Unavailable(trouble.text),
                RunError::TimedOut => self.silent(),
            }),
            text = definite(&mut trouble) => Err(StoreError::Unavailable(text)),
            () = sleep_until(until) => Err(self.silent()),
        }
    }

    /// Asks one thing, on any connection, and again when that turned out to be one to give up.
    pub(super) async fn ask(&self, command: Cmd) -> Result<Value, StoreError> {
        let Ok(_permit) = self.questions.try_acquire() else {
            return Err(StoreError::Unavailable(format!("{QUESTIONS_MAX} reads are waiting")));
        };
        let until = Instant::now() + self.timeout;
        let mut commands = Pipeline::new();
        commands.add_command(command);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut link = self.link(until).await?;
            let answer = timeout_at(until, link.send(&commands)).await.map_err(|_| self.silent())?;
            let error = match answer.map(|mut values| values.pop().unwrap_or_default().extract_error()) {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) if error::is_no_script(&error) => {
                    timeout_at(until, reload(&mut link)).await.map_err(|_| self.silent())?;
                    error
                }
                Ok(Err(error)) if error::is_elsewhere(&error) => {
                    link.give_up();
                    error
                }
                Ok(Err(error)) => return Err(self.failed(&error)),
                Err(error) => error,
            };
            if attempt >= self.attempts {
                return Err(self.failed(&error));
            }
        }
    }
}

/// Makes the server know the scripts again. Whether it does is seen by their next call.
pub(super) async fn reload(link: &mut Link) {
    let mut commands = Pipeline::new();
    for command in script::load_all() {
        commands.add_command(command);
    }
    if link.send(&commands).await.is_err() {
        link.give_up();
    }
}

/// Waits for a new trouble that does not end by itself.
async fn definite(trouble: &mut watch::Receiver<Option<Trouble>>) -> String {
    loop {
        if trouble.changed().await.is_err() {
            return std::future::pending().await;
        }
        if let Some(now) = trouble.borrow_and_update().as_ref().filter(|now| now.definite) {
            return now.text.clone();
        }
    }
}
