//! Commands for groups that another replica owns, and the answers to them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::actor::directory::{ANSWER_DEADLINE, Command, Outcome, Refused};
use crate::id::{GroupName, ReplicaId};
use crate::port::{Clock, Replicas};

/// How much longer than the owner the one who asked waits.
const ON_THE_WAY: Duration = Duration::from_secs(1);

type Answer = Result<Outcome, Refused>;

/// What replicas send each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Message {
    /// Carry out a command, and answer.
    Ask { id: u64, from: ReplicaId, group: GroupName, command: Command },
    /// What came of it.
    Answer { id: u64, answer: Answer },
}

/// Sends commands to other replicas and knows who waits for which answer.
pub(crate) struct Messenger {
    replicas: Arc<dyn Replicas>,
    clock: Arc<dyn Clock>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
}

impl Messenger {
    pub(crate) fn new(replicas: Arc<dyn Replicas>, clock: Arc<dyn Clock>) -> Self {
        Self { replicas, clock, waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `owner` carry out a command for its group.
    pub(crate) async fn ask(&self, owner: &ReplicaId, group: &GroupName, command: Command) -> Answer {
        let id = self.clock.entropy();
        let (tell, answer) = oneshot::channel();
        self.waiting().insert(id, tell);
        let _forget = Forget(self, id);
        let message = Message::Ask { id, from: self.replicas.me().clone(), group: group.clone(), command };
        let asked = async {
            match self.send(owner, &message).await {
                Ok(true) => answer.await.ok(),
                Ok(false) => Some(Err(Refused::Unavailable(format!(
                    "group {group} is run by replica {owner}, which does not listen: try again in some seconds"
                )))),
                Err(error) => Some(Err(Refused::Unavailable(format!(
                    "group {group} is run by replica {owner}, which cannot be asked at the moment: {error}"
                )))),
            }
        };
        match tokio::time::timeout(ANSWER_DEADLINE + ON_THE_WAY, asked).await {
            Ok(Some(answer)) => answer,
            Ok(None) | Err(_) => Err(Refused::Unavailable(format!(
                "group {group} is run by replica {owner}, which did not answer: it may have done it all the same"
            ))),
        }
    }

    /// Answers a command; who does not get the answer gives up waiting.
    pub(crate) async fn answer(&self, to: &ReplicaId, id: u64, answer: Answer) {
        if let Err(error) = self.send(to, &Message::Answer { id, answer }).await {
            tracing::warn!(replica = %to, error, "cannot answer a command of another replica");
        }
    }

    /// An answer came.
    pub(crate) fn answered(&self, id: u64, answer: Answer) {
        if let Some(waiting) = self.waiting().remove(&id) {
            let _ = waiting.send(answer);
        }
    }

    async fn send(&self, to: &ReplicaId, message: &Message) -> Result<bool, String> {
        let text = serde_json::to_string(message).map_err(|error| error.to_string())?;
        self.replicas.send(to, text).await.map_err(|error| error.to_string())
    }
}

impl std::fmt::Debug for Messenger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Messenger").field("me", self.replicas.me()).finish_non_exhaustive()
    }
}

/// Nobody waits for it any more, also when who asked went away.
struct Forget<'a>(&'a Messenger, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.waiting().remove(&self.1);
    }
}
