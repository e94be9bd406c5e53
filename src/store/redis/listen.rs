//! What other replicas tell: one connection that listens, made anew whenever it fails or falls silent.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actors::id::GroupName;
use actors::port::replicas::Notice;
use futures_util::StreamExt;
use redis::Msg;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::connect::Connector;

/// Most notices that wait; beyond, all of them become one [`Notice::Missed`].
const NOTICES_MAX: usize = 1024;
/// Silence after which the connection is made anew, if this process said that it lives meanwhile: it hears itself.
const SILENCE: Duration = Duration::from_secs(4);
/// So many beats must have gone unheard.
const UNHEARD_BEATS: u64 = 2;
/// Pause before the next attempt to connect, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Hears what is told to this process, from the first [`Self::next`] on.
pub(super) struct Listener {
    connector: Arc<Connector>,
    channel: String,
    connect_timeout: Duration,
    notices: Arc<Notices>,
    beats: Arc<AtomicU64>,
    task: Mutex<Option<AbortHandle>>,
}

impl Listener {
    /// Will listen to one channel.
    pub(super) fn new(connector: Arc<Connector>, channel: String, connect_timeout: Duration) -> Self {
        Self {
            connector,
            channel,
            connect_timeout,
            notices: Arc::default(),
            beats: Arc::default(),
            task: Mutex::default(),
        }
    }

    /// This process has told itself, through the server, that it lives.
    pub(super) fn beaten(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for the next notice.
    pub(super) async fn next(&self) -> Notice {
        {
            let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
            if task.is_none() {
                let ear = Ear {
                    connector: Arc::clone(&self.connector),
                    channel: self.channel.clone(),
                    connect_timeout: self.connect_timeout,
                    notices: Arc::clone(&self.notices),
                    beats: Arc::clone(&self.beats),
                };
                *task = Some(tokio::spawn(ear.run()).abort_handle());
            }
        }
        self.notices.next().await
    }

    /// Listens no more.
    pub(super) fn stop(&self) {
        if let Some(task) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Ear {
    connector: Arc<Connector>,
    channel: String,
    connect_timeout: Duration,
    notices: Arc<Notices>,
    beats: Arc<AtomicU64>,
}

impl Ear {
    async fn run(self) {
        let mut pause = PAUSE.0;
        loop {
            match self.listen().await {
                // It had listened for a while.
                Ok(()) => pause = PAUSE.0,
                Err(error) => {
                    tracing::debug!(server = self.connector.name(), error, "cannot listen to other replicas yet");
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    /// Listens until the connection fails or falls silent; an error when there was none.
    async fn listen(&self) -> Result<(), String> {
        let client = self.connector.master().await.map_err(|trouble| trouble.text)?;
        let subscribing = async {
            let mut ear = client.get_async_pubsub().await?;
            ear.subscribe(&self.channel).await?;
            Ok::<_, redis::RedisError>(ear)
        };
        let late = |_| "no answer in time".to_owned();
        let ear = timeout(self.connect_timeout, subscribing).await.map_err(late)?.map_err(|error| error.to_string())?;
        let mut messages = ear.into_on_message();
        self.notices.push(Notice::Missed);
        let mut heard = self.beats.load(Ordering::Relaxed);
        loop {
            match timeout(SILENCE, messages.next()).await {
                Ok(Some(message)) => {
                    heard = self.beats.load(Ordering::Relaxed);
                    if let Some(notice) = notice(&message) {
                        self.notices.push(notice);
                    }
                }
                Ok(None) => break,
                Err(_) if self.beats.load(Ordering::Relaxed).saturating_sub(heard) >= UNHEARD_BEATS => break,
                Err(_) => {}
            }
        }
        tracing::warn!(server = self.connector.name(), "the connection that listens to other replicas is made anew");
        Ok(())
    }
}

fn notice(message: &Msg) -> Option<Notice> {
    let text = std::str::from_utf8(message.get_payload_bytes()).ok()?;
    match text.split_once(' ').unwrap_or((text, "")) {
        ("poke", group) => GroupName::new(group).ok().map(Notice::Poke),
        ("msg", text) => Some(Notice::Message(text.to_owned())),
        ("changed", _) => Some(Notice::Changed),
        // Its own word that it lives, and words of newer releases.
        _ => None,
    }
}

#[derive(Default)]
struct Notices {
    waiting: Mutex<VecDeque<Notice>>,
    arrived: Notify,
}

impl Notices {
    fn push(&self, notice: Notice) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= NOTICES_MAX {
            waiting.clear();
            waiting.push_back(Notice::Missed);
        }
        waiting.push_back(notice);
        drop(waiting);
        self.arrived.notify_one();
    }

    async fn next(&self) -> Notice {
        loop {
            if let Some(notice) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
                return notice;
            }
            self.arrived.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn too_many_notices_become_one_that_says_so() {
        let notices = Notices::default();
        for n in 0..NOTICES_MAX + 3 {
            notices.push(Notice::Message(n.to_string()));
        }
        let mut all = Vec::new();
        while let Ok(notice) = timeout(Duration::ZERO, notices.next()).await {
            all.push(notice);
        }
        let rest = (NOTICES_MAX..NOTICES_MAX + 3).map(|n| Notice::Message(n.to_string()));
        assert_eq!(all, [Notice::Missed].into_iter().chain(rest).collect::<Vec<_>>());
    }
}
