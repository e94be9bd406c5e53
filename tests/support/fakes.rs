//! In-memory stand-ins for what the HTTP front stands on, which do as they are told.
#![allow(dead_code, reason = "every test file uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use actors::actor::directory::Directory;
use actors::actor::front::Front;
use actors::id::*;
use actors::model::delivery::Delivery;
use actors::model::group::GroupSnapshot;
use actors::model::job::Job;
use actors::model::runner::Runner;
use actors::model::settings::{BackendLimits, GroupSettings, Scope};
use actors::port::store::*;
use actors::port::*;
use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

/// What the store does with every call.
#[derive(Debug, Clone, PartialEq)]
pub enum Mood {
    /// It works.
    Works,
    /// It fails at once.
    Fails(StoreError),
    /// It does not answer until it has another mood.
    Hangs,
    /// It panics.
    Panics,
}

/// A store, a clock and an observer in one.
pub struct Fake {
    mood: watch::Sender<Mood>,
    things: Mutex<Things>,
    seconds: AtomicI64,
    entropy: AtomicU64,
}

/// What it was told and what it tells.
#[derive(Default)]
pub struct Things {
    pub deliveries: Vec<Delivery>,
    pub routes: Vec<Route>,
    pub calls: usize,
    pub webhooks: Vec<(&'static str, &'static str, &'static str)>,
    pub groups: BTreeMap<GroupName, GroupSnapshot>,
    pub jobs: BTreeMap<JobId, Job>,
    pub runners: BTreeMap<RunnerName, Runner>,
    pub sealed: BTreeMap<String, Sealed>,
    seen: BTreeSet<DeliveryId>,
}

impl Fake {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            mood: watch::channel(Mood::Works).0,
            things: Mutex::default(),
            seconds: AtomicI64::new(1_800_000_000),
            entropy: AtomicU64::new(0),
        })
    }

    pub fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// Lets its clock go on.
    pub fn advance(&self, seconds: i64) {
        self.seconds.fetch_add(seconds, Ordering::SeqCst);
    }

    pub fn things(&self) -> MutexGuard<'_, Things> {
        self.things.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What the HTTP front gets.
    pub fn front(self: &Arc<Self>, groups: &[GroupSettings]) -> Front {
        Front {
            directory: Directory::new(groups.iter().cloned().map(Arc::new)),
            store: self.clone(),
            clock: self.clone(),
            observer: self.clone(),
        }
    }

    async fn obey(&self) -> Result<(), StoreError> {
        self.things().calls += 1;
        let mut mood = self.mood.subscribe();
        let mood = mood.wait_for(|mood| *mood != Mood::Hangs).await.unwrap().clone();
        match mood {
            Mood::Works | Mood::Hangs => Ok(()),
            Mood::Fails(error) => Err(error),
            Mood::Panics => panic!("the store was told to panic"),
        }
    }
}

impl Clock for Fake {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.seconds.load(Ordering::SeqCst)).unwrap()
    }

    fn entropy(&self) -> u64 {
        self.entropy.fetch_add(1, Ordering::SeqCst)
    }
}

impl Observer for Fake {
    fn observe(&self, observation: &Observation<'_>) {
        if let Observation::Webhook { event, action, outcome, .. } = observation {
            self.things().webhooks.push((event, action, outcome));
        }
    }
}

#[async_trait]
impl Store for Fake {
    async fn record(&self, delivery: Arc<Delivery>, route: Route) -> Result<Recorded, StoreError> {
        self.obey().await?;
        let mut things = self.things();
        if !things.seen.insert(delivery.id.clone()) {
            return Ok(Recorded::Duplicate);
        }
        things.deliveries.push(Delivery::clone(&delivery));
        things.routes.push(route.clone());
        Ok(Recorded::New(route.group.into_iter().chain(route.runner_group).collect()))
    }

    async fn inbox(&self, _: &GroupName, _: Cursor, _: usize) -> Result<Vec<InboxEntry>, StoreError> {
        self.obey().await.map(|()| Vec::new())
    }

    async fn acquire(&self, _: &GroupName) -> Result<FencingToken, StoreError> {
        self.obey().await.map(|()| FencingToken(1))
    }

    async fn load(&self, _: &GroupName) -> Result<Loaded, StoreError> {
        self.obey().await.map(|()| Loaded::default())
    }

    async fn save(&self, _: &GroupName, _: FencingToken, _: Changes) -> Result<(), StoreError> {
        self.obey().await
    }

    async fn group(&self, group: &GroupName) -> Result<Option<GroupSnapshot>, StoreError> {
        self.obey().await?;
        Ok(self.things().groups.get(group).cloned())
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.obey().await?;
        Ok(self.things().jobs.get(&id).cloned())
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>, StoreError> {
        self.obey().await?;
        let wanted = |job: &&Job| {
            filter.group.as_ref().is_none_or(|group| job.group.as_ref() == Some(group))
                && filter.status.is_none_or(|status| job.status == status)
        };
        let mut jobs: Vec<Job> = self.things().jobs.values().filter(wanted).cloned().collect();
        jobs.sort_by_key(|job| std::cmp::Reverse(job.received_at));
        jobs.truncate(filter.limit);
        Ok(jobs)
    }

    async fn runner(&self, name: &RunnerName) -> Result<Option<Runner>, StoreError> {
        self.obey().await?;
        Ok(self.things().runners.get(name).cloned())
    }

    async fn runners(&self, filter: &RunnerFilter) -> Result<Vec<Runner>, StoreError> {
        self.obey().await?;
        let wanted = |runner: &&Runner| {
            filter.group.as_ref().is_none_or(|group| runner.group == *group)
                && filter.state.map_or(!runner.state.is_final(), |state| runner.state == state)
        };
        Ok(self.things().runners.values().filter(wanted).take(filter.limit).cloned().collect())
    }

    async fn keep_sealed(&self, sealed: Sealed) -> Result<(), StoreError> {
        self.obey().await?;
        self.things().sealed.insert(sealed.key.clone(), sealed);
        Ok(())
    }

    async fn sealed(&self, key: &str) -> Result<Option<Sealed>, StoreError> {
        self.obey().await?;
        Ok(self.things().sealed.get(key).cloned())
    }

    async fn forget_sealed(&self, runner: &RunnerName) -> Result<(), StoreError> {
        self.obey().await?;
        self.things().sealed.retain(|_, sealed| sealed.runner != *runner);
        Ok(())
    }

    async fn prune(&self, _: Horizon) -> Result<u64, StoreError> {
        self.obey().await.map(|()| 0)
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.obey().await
    }

    async fn close(&self) {}
}

/// A group of the organization `octo-org`, with its name as its label.
pub fn settings(name: &str, min: u32, max: u32) -> GroupSettings {
    GroupSettings {
        min,
        time_to_start: Duration::from_secs(600),
        time_to_live: Duration::from_secs(36_000),
        backends: vec![BackendLimits {
            create_timeout: Duration::from_secs(60),
            delete_timeout: Duration::from_secs(60),
            max_concurrency: 8,
            ..BackendLimits::new("base")
        }],
        ..GroupSettings::new(
            GroupName::new(name).unwrap(),
            Scope::Organization("octo-org".into()),
            vec![name.into()],
            max,
        )
    }
}
