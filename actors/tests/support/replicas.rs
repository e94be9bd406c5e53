//! Several managers on one earth: what each calls outside is written down, and each can be cut off from the store.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use actors::actor::directory::{Directory, Health, Owner as GroupOwner};
use actors::actor::effect::World;
use actors::actor::front::Front;
use actors::actor::listings::Listings;
use actors::actor::supervisor::{GroupSpec, Service, System, SystemSpec};
use actors::id::*;
use actors::model::delivery::Delivery;
use actors::model::group::GroupSnapshot;
use actors::model::job::Job;
use actors::model::runner::Runner;
use actors::model::settings::{Arch, GroupSettings, Os, Scope};
use actors::port::backend::{Instance, InstanceSpec, Metadata, Owner};
use actors::port::github::{
    Deregistered, Download, JitRequest, Registration, RemoteRunner, RunnerGroup, RunnerGroupRemoval,
};
use actors::port::replicas::{LEASE, Notice, Report, Roster};
use actors::port::store::*;
use actors::port::*;
use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Earth, Manager, counted};

/// Leases, reports and messages, as the store keeps them; by tokio's clock.
#[derive(Default)]
pub struct Membership {
    alive: BTreeMap<ReplicaId, (Instant, Report)>,
    owners: BTreeMap<GroupName, ReplicaId>,
    notices: BTreeMap<ReplicaId, mpsc::UnboundedSender<Notice>>,
    /// How often a group changed hands.
    pub claims: usize,
}

impl Membership {
    fn purge(&mut self) {
        self.alive.retain(|_, (at, _)| at.elapsed() < LEASE);
        let alive = &self.alive;
        self.owners.retain(|_, owner| alive.contains_key(owner));
    }

    /// The live owner of a group.
    pub fn owner(&mut self, group: &GroupName) -> Option<ReplicaId> {
        self.purge();
        self.owners.get(group).cloned()
    }

    pub fn tell(&self, to: &ReplicaId, notice: Notice) -> bool {
        self.notices.get(to).is_some_and(|sender| sender.send(notice).is_ok())
    }

    fn tell_others(&self, me: &ReplicaId) {
        self.notices.keys().filter(|id| *id != me).for_each(|id| {
            self.tell(id, Notice::Changed);
        });
    }

    /// The store lost it all; who listens goes on listening.
    pub fn forget(&mut self) {
        self.alive.clear();
        self.owners.clear();
    }
}

/// One manager's way to the earth.
pub struct Site {
    pub earth: Arc<Earth>,
    pub id: ReplicaId,
    /// What it asked of GitHub and of the backend, and when.
    pub calls: Mutex<Vec<(Instant, &'static str, String)>>,
    /// Whether nothing of its store's comes through: it hangs until it does.
    stalled: watch::Sender<bool>,
    /// Its beats fail.
    pub beats_fail: AtomicBool,
    /// So many claims get through, and no answer comes.
    pub lose_claims: AtomicU64,
    /// Saves that the store refused for ever, by error.
    pub refused: Mutex<Vec<StoreError>>,
    notices: tokio::sync::Mutex<mpsc::UnboundedReceiver<Notice>>,
    /// Somebody sends to it, and nobody reads.
    pub deaf: AtomicBool,
    /// What it sends arrives twice.
    pub echoes: AtomicBool,
}

impl Site {
    pub fn new(earth: &Arc<Earth>, id: &str) -> Arc<Self> {
        let id = ReplicaId::new(id).unwrap();
        let (tell, notices) = mpsc::unbounded_channel();
        earth.membership().notices.insert(id.clone(), tell);
        Arc::new(Self {
            earth: earth.clone(),
            id,
            calls: Mutex::default(),
            stalled: watch::Sender::new(false),
            beats_fail: AtomicBool::new(false),
            lose_claims: AtomicU64::new(0),
            refused: Mutex::default(),
            notices: tokio::sync::Mutex::new(notices),
            deaf: AtomicBool::new(false),
            echoes: AtomicBool::new(false),
        })
    }

    /// Nothing comes through to the store, or everything does again.
    pub fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    async fn through(&self) {
        let _ = self.stalled.subscribe().wait_for(|stalled| !stalled).await;
    }

    fn note(&self, what: &'static str, on: impl ToString) {
        self.calls.lock().unwrap().push((Instant::now(), what, on.to_string()));
    }

    /// What it asked for between two times.
    pub fn calls_between(&self, from: Instant, to: Instant) -> Vec<(&'static str, String)> {
        let calls = self.calls.lock().unwrap();
        let within = calls.iter().filter(|(at, ..)| *at >= from && *at < to);
        within.map(|(_, what, on)| (*what, on.clone())).collect()
    }

    fn refuse<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error @ (StoreError::Fenced { .. } | StoreError::NotOwner { .. } | StoreError::Forgotten { .. })) =
            &result
        {
            self.refused.lock().unwrap().push(error.clone());
        }
        result
    }
}

impl Earth {
    pub fn membership(&self) -> MutexGuard<'_, Membership> {
        self.membership.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[async_trait]
impl Replicas for Site {
    fn me(&self) -> &ReplicaId {
        &self.id
    }

    async fn beat(&self, report: &Report) -> Result<Roster, StoreError> {
        self.through().await;
        if self.beats_fail.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("no route".into()));
        }
        let roster = {
            let mut all = self.earth.membership();
            all.purge();
            if all.alive.insert(self.id.clone(), (Instant::now(), report.clone())).is_none() {
                all.tell_others(&self.id);
            }
            let replicas = all.alive.iter().map(|(id, (_, report))| (id.clone(), report.clone())).collect();
            Roster { replicas, owners: all.owners.clone() }
        };
        self.earth.pause().await;
        Ok(roster)
    }

    async fn claim(&self, group: &GroupName) -> Result<bool, StoreError> {
        self.through().await;
        self.earth.pause().await;
        let mut all = self.earth.membership();
        all.purge();
        if !all.alive.contains_key(&self.id) {
            return Ok(false);
        }
        let owner = all.owners.entry(group.clone()).or_insert_with(|| self.id.clone()).clone();
        all.claims += usize::from(owner == self.id);
        if counted(&self.lose_claims) {
            return Err(StoreError::Unavailable("no answer".into()));
        }
        Ok(owner == self.id)
    }

    async fn release(&self, group: &GroupName) -> Result<(), StoreError> {
        self.through().await;
        self.earth.pause().await;
        let mut all = self.earth.membership();
        if all.owners.get(group) == Some(&self.id) {
            all.owners.remove(group);
            all.tell_others(&self.id);
        }
        Ok(())
    }

    async fn leave(&self) -> Result<(), StoreError> {
        self.through().await;
        let mut all = self.earth.membership();
        all.alive.remove(&self.id);
        all.notices.remove(&self.id);
        all.purge();
        all.tell_others(&self.id);
        Ok(())
    }

    async fn send(&self, to: &ReplicaId, message: String) -> Result<bool, StoreError> {
        self.through().await;
        let all = self.earth.membership();
        if self.echoes.load(Ordering::SeqCst) {
            all.tell(to, Notice::Message(message.clone()));
        }
        Ok(all.tell(to, Notice::Message(message)))
    }

    async fn next(&self) -> Notice {
        self.through().await;
        match self.notices.lock().await.recv().await {
            Some(notice) if !self.deaf.load(Ordering::SeqCst) => notice,
            _ => pending().await,
        }
    }
}

#[async_trait]
impl GitHub for Site {
    async fn ensure_runner_group(
        &self,
        group: &GroupSettings,
        last: Option<RunnerGroupId>,
    ) -> Result<RunnerGroup, GitHubError> {
        self.note("ensure_runner_group", &group.name);
        self.earth.ensure_runner_group(group, last).await
    }

    async fn delete_runner_group(
        &self,
        group: &GroupSettings,
        last: Option<RunnerGroupId>,
    ) -> Result<RunnerGroupRemoval, GitHubError> {
        self.note("delete_runner_group", &group.name);
        self.earth.delete_runner_group(group, last).await
    }

    async fn generate_jit_config(&self, request: &JitRequest) -> Result<Registration, GitHubError> {
        self.note("generate_jit_config", &request.name);
        self.earth.generate_jit_config(request).await
    }

    async fn list_runners(&self, scope: &Scope) -> Result<Vec<RemoteRunner>, GitHubError> {
        self.note("list_runners", scope);
        self.earth.list_runners(scope).await
    }

    async fn find_runner(&self, scope: &Scope, name: &RunnerName) -> Result<Option<RemoteRunner>, GitHubError> {
        self.note("find_runner", name);
        self.earth.find_runner(scope, name).await
    }

    async fn delete_runner(&self, scope: &Scope, id: RunnerId) -> Result<Deregistered, GitHubError> {
        self.note("delete_runner", id.0);
        self.earth.delete_runner(scope, id).await
    }

    async fn runner_download(&self, scope: &Scope, os: Os, arch: Arch) -> Result<Download, GitHubError> {
        self.note("runner_download", scope);
        self.earth.runner_download(scope, os, arch).await
    }
}

#[async_trait]
impl Backend for Site {
    fn name(&self) -> &'static str {
        "earth"
    }

    async fn create(&self, spec: InstanceSpec) -> Result<Instance, BackendError> {
        self.note("create", &spec.runner);
        self.earth.create(spec).await
    }

    async fn delete(&self, runner: &RunnerName) -> Result<(), BackendError> {
        self.note("delete", runner);
        self.earth.delete(runner).await
    }

    async fn get(&self, runner: &RunnerName) -> Result<Option<Instance>, BackendError> {
        self.note("get", runner);
        self.earth.get(runner).await
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        self.note("list", &owner.group);
        self.earth.list(owner).await
    }

    async fn update_metadata(&self, runner: &RunnerName, metadata: &Metadata) -> Result<(), BackendError> {
        self.note("update_metadata", runner);
        self.earth.update_metadata(runner, metadata).await
    }

    async fn probe(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

#[async_trait]
impl Store for Site {
    async fn record(&self, delivery: Arc<Delivery>, route: Route) -> Result<Recorded, StoreError> {
        self.through().await;
        let recorded = self.earth.record(delivery, route).await?;
        if let Recorded::New(groups) = &recorded {
            let mut all = self.earth.membership();
            for group in groups {
                if let Some(owner) = all.owner(group).filter(|owner| *owner != self.id) {
                    all.tell(&owner, Notice::Poke(group.clone()));
                }
            }
        }
        Ok(recorded)
    }

    async fn inbox(&self, group: &GroupName, after: Cursor, limit: usize) -> Result<Vec<InboxEntry>, StoreError> {
        self.through().await;
        self.earth.inbox(group, after, limit).await
    }

    async fn acquire(&self, group: &GroupName) -> Result<FencingToken, StoreError> {
        self.earth.pause().await;
        self.through().await;
        let owner = self.earth.membership().owner(group);
        match owner.filter(|owner| *owner != self.id) {
            Some(owner) => self.refuse(Err(StoreError::NotOwner { group: group.clone(), owner })),
            None => self.earth.acquire(group).await,
        }
    }

    async fn load(&self, group: &GroupName) -> Result<Loaded, StoreError> {
        self.through().await;
        self.earth.load(group).await
    }

    async fn save(&self, group: &GroupName, token: FencingToken, changes: Changes) -> Result<(), StoreError> {
        self.through().await;
        let result = self.earth.save(group, token, changes).await;
        self.refuse(result)
    }

    async fn group(&self, group: &GroupName) -> Result<Option<GroupSnapshot>, StoreError> {
        Store::group(&*self.earth, group).await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.earth.job(id).await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>, StoreError> {
        self.earth.jobs(filter).await
    }

    async fn runner(&self, name: &RunnerName) -> Result<Option<Runner>, StoreError> {
        self.earth.runner(name).await
    }

    async fn runners(&self, filter: &RunnerFilter) -> Result<Vec<Runner>, StoreError> {
        self.earth.runners(filter).await
    }

    async fn keep_sealed(&self, sealed: Sealed) -> Result<(), StoreError> {
        self.earth.keep_sealed(sealed).await
    }

    async fn sealed(&self, key: &str) -> Result<Option<Sealed>, StoreError> {
        self.earth.sealed(key).await
    }

    async fn forget_sealed(&self, runner: &RunnerName) -> Result<(), StoreError> {
        self.earth.forget_sealed(runner).await
    }

    async fn prune(&self, before: Horizon) -> Result<u64, StoreError> {
        self.earth.prune(before).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) {}
}

/// Starts a manager at this site that shares these groups.
pub async fn join(site: &Arc<Site>, groups: &[GroupSettings]) -> Manager {
    join_with(site, groups, |_| vec![]).await
}

/// As [`join`], with services beside the groups.
pub async fn join_with(
    site: &Arc<Site>,
    groups: &[GroupSettings],
    services: impl FnOnce(&Front) -> Vec<Service>,
) -> Manager {
    let earth = &site.earth;
    let world = World {
        github: site.clone(),
        records: earth.clone(),
        store: site.clone(),
        clock: earth.clone(),
        observer: earth.clone(),
        listings: Arc::new(Listings::new(site.clone(), earth.clone())),
        tasks: Default::default(),
        stopping: Default::default(),
        lease: Default::default(),
    };
    let groups: Vec<Arc<GroupSettings>> = groups.iter().cloned().map(Arc::new).collect();
    let directory = Directory::new(groups.clone());
    let front =
        Front { directory: directory.clone(), store: site.clone(), clock: earth.clone(), observer: earth.clone() };
    let spec = SystemSpec {
        manager: ManagerName::new("test").unwrap(),
        world,
        directory,
        groups: groups
            .into_iter()
            .map(|settings| GroupSpec { settings, backends: vec![site.clone()], listings: None })
            .collect(),
        services: services(&front),
        replicas: Some(site.clone()),
    };
    Manager { system: System::start(spec).await.unwrap(), front }
}

impl Manager {
    /// The groups that run here.
    pub fn runs(&self) -> Vec<GroupName> {
        let entries = self.front.directory.entries().into_iter();
        let mine = entries.filter(|entry| entry.owner == GroupOwner::Me && entry.health == Health::Running);
        mine.map(|entry| entry.settings.name.clone()).collect()
    }
}

/// How much the margin of the lease, and the way of a beat, leave an owner of its ten seconds at most.
pub const ACTS_FOR: Duration = Duration::from_secs(9);
