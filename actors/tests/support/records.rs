//! What GitHub remembers: jobs as they are there, and what its hook sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use actors::id::*;
use actors::model::delivery::{JobAction, JobEvent};
use actors::port::github::{Asker, GitHubError, Hook, Records, RepositoryName, Sent, SentDelivery};
use async_trait::async_trait;
use jiff::Timestamp;

use super::Earth;

/// Part of [`Earth`].
#[derive(Default)]
pub struct Memory(Mutex<Remembered>);

#[derive(Default)]
pub struct Remembered {
    /// Whether it answers; by default it does not.
    pub answers: bool,
    /// Answers to come, whatever is asked.
    pub errors: VecDeque<GitHubError>,
    /// The next requests to send a delivery again get no answer.
    pub unanswered: usize,
    /// The credential that may not read what hooks sent.
    pub refused: Option<String>,
    /// Repositories that are not to be seen.
    pub hidden: BTreeSet<String>,
    pub jobs: BTreeMap<JobId, JobEvent>,
    /// Attempts of the hook, oldest first.
    pub history: Vec<SentDelivery>,
    /// How many attempts a page has; 0: all.
    pub page: usize,
    /// Everything that was asked, in words, with its time.
    pub asked: Vec<(Timestamp, String)>,
    /// How long an answer takes.
    pub takes: Duration,
}

impl Remembered {
    /// How often this was asked.
    pub fn count(&self, start: &str) -> usize {
        self.asked.iter().filter(|(_, what)| what.starts_with(start)).count()
    }

    /// An attempt of the hook at a time.
    pub fn attempt(&mut self, guid: &str, at: Timestamp, delivered: bool) {
        let id = self.history.len() as u64 + 1;
        let (guid, event) = (DeliveryId::new(guid).unwrap(), "workflow_job".to_owned());
        self.history.push(SentDelivery { id, guid, at, delivered, event, action: Some("queued".to_owned()) });
    }
}

impl Earth {
    pub fn memory(&self) -> MutexGuard<'_, Remembered> {
        self.records.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    async fn asked(&self, what: String) -> Result<(), GitHubError> {
        use actors::port::Clock as _;
        let takes = {
            let now = self.now();
            let mut memory = self.memory();
            memory.asked.push((now, what));
            memory.takes
        };
        tokio::time::sleep(takes).await;
        let mut memory = self.memory();
        match memory.errors.pop_front() {
            Some(error) => Err(error),
            None if memory.answers => Ok(()),
            None => Err(GitHubError::Unknown("it does not answer".into())),
        }
    }
}

#[async_trait]
impl Records for Earth {
    async fn job(&self, _: &Asker, repository: &RepositoryName, id: JobId) -> Result<Option<JobEvent>, GitHubError> {
        self.asked(format!("job {id}")).await?;
        let memory = self.memory();
        if memory.hidden.contains(&repository.name) {
            return Err(GitHubError::NotFound(repository.name.clone()));
        }
        Ok(memory.jobs.get(&id).cloned())
    }

    async fn open_jobs(&self, _: &Asker, place: &RepositoryName, _: usize) -> Result<Vec<JobEvent>, GitHubError> {
        self.asked(format!("open jobs of {}", place.name)).await?;
        let memory = self.memory();
        if memory.hidden.contains(&place.name) {
            return Err(GitHubError::NotFound(place.name.clone()));
        }
        let open = memory.jobs.values().filter(|event| event.action != JobAction::Completed);
        Ok(open.filter(|event| event.job.repository.name == place.name).cloned().collect())
    }

    async fn hook(&self, asker: &Asker, address: &str) -> Result<Option<Hook>, GitHubError> {
        let Asker { credential, scope } = asker;
        assert_eq!(address, "/webhook");
        self.asked(format!("hook of {scope}")).await?;
        Ok(Some(match credential.starts_with("app") {
            true => Hook::App { credential: credential.clone() },
            false => Hook::Of { scope: scope.clone(), id: 1 },
        }))
    }

    async fn deliveries(
        &self,
        asker: &Asker,
        hook: &Hook,
        since: Timestamp,
        page: Option<&str>,
    ) -> Result<Sent, GitHubError> {
        if let Hook::App { credential } = hook {
            assert_eq!(asker.credential, *credential, "an App's history is its own");
            self.asked(format!("history of {credential}")).await?;
        }
        self.asked(format!("deliveries {}", page.unwrap_or("newest"))).await?;
        let memory = self.memory();
        if memory.refused.as_ref() == Some(&asker.credential) {
            return Err(GitHubError::Forbidden("no permission".into()));
        }
        let skip: usize = page.map_or(0, |page| page.parse().unwrap());
        let size = if memory.page == 0 { usize::MAX } else { memory.page };
        let mut left = memory.history.iter().rev().filter(|sent| sent.at >= since).skip(skip);
        let deliveries: Vec<_> = left.by_ref().take(size).cloned().collect();
        let next = left.next().map(|_| (skip + size).to_string());
        Ok(Sent { deliveries, next })
    }

    async fn redeliver(&self, _: &Asker, _: &Hook, delivery: u64) -> Result<(), GitHubError> {
        self.asked(format!("redeliver {delivery}")).await?;
        let mut memory = self.memory();
        match memory.unanswered.checked_sub(1) {
            Some(left) => {
                memory.unanswered = left;
                Err(GitHubError::Unknown("no answer".into()))
            }
            None => Ok(()),
        }
    }
}
