//! A small world in memory for the actors: GitHub, a backend and a store that share one list of what exists.

pub mod jobs;
mod manager;
pub mod places;
pub mod records;
pub mod replicas;

#[allow(unused_imports, reason = "every test file uses its part")]
pub use manager::{Manager, start, start_at, start_with};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use actors::id::*;
use actors::model::delivery::{Delivery, JobFacts, RepositoryRef};
use actors::model::group::GroupSnapshot;
use actors::model::job::{Job, JobStatus};
use actors::model::runner::Runner;
use actors::model::secret::Secret;
use actors::model::settings::{Arch, BackendLimits, GroupSettings, Os, Scope};
use actors::port::backend::{Instance, InstanceSpec, InstanceStatus, Metadata, Owner};
use actors::port::github::{
    Deregistered, Download, JitRequest, Registration, RemoteRunner, RunnerGroup, RunnerGroupRemoval,
};
use actors::port::store::*;
use actors::port::*;
use async_trait::async_trait;
use jiff::Timestamp;

/// Everything that outlives a manager.
#[derive(Default)]
pub struct Earth {
    state: Mutex<Things>,
    chance: AtomicU64,
    /// Who shares the groups.
    membership: Mutex<replicas::Membership>,
    /// What GitHub remembers.
    records: records::Memory,
    /// The only runner group.
    runner_group: Mutex<OurRunnerGroup>,
    /// How long each call takes.
    pub latency: Mutex<Duration>,
    /// How much longer each create takes.
    pub create_takes: Mutex<Duration>,
    /// The next saves fail.
    pub store_fails: AtomicU64,
    /// Runners by state, as a group showed them last.
    pub shown: Mutex<[u32; 9]>,
    /// The next saves of runners fail.
    pub runner_saves_fail: AtomicU64,
    /// The next saves find that the store has lost what it had of the group.
    pub forgets: AtomicU64,
    /// The next reads of an inbox fail.
    pub inbox_fails: AtomicU64,
    /// How long an answer to a read of an inbox is under way.
    pub inbox_takes: Mutex<Duration>,
    /// The next calls for entropy panic.
    pub entropy_panics_often: AtomicU64,
    /// The next call for entropy panics.
    pub entropy_panics: AtomicBool,
    /// Observations of this group panic.
    pub panics_for: Mutex<Option<GroupName>>,
    /// One observation of this group panics.
    pub panics_once: Mutex<Option<GroupName>>,
    /// GitHub answers nothing that makes sense.
    pub github_is_down: AtomicBool,
    /// The next records of deliveries fail.
    pub records_fail: AtomicU64,
    /// Answers to records get lost after they worked.
    pub lose_records: AtomicU64,
    /// Answers to creates get lost after they worked.
    pub lose_creates: AtomicU64,
}

/// The runner group that all groups share, and what was done to it.
pub struct OurRunnerGroup {
    /// What a look finds.
    pub found: RunnerGroup,
    /// What the next looks find instead.
    pub errors: VecDeque<GitHubError>,
    /// What a removal is answered.
    pub removal: Result<RunnerGroupRemoval, GitHubError>,
    /// The looks and removals that were asked for, with the id that it had before.
    pub looks: Vec<Option<RunnerGroupId>>,
    pub removals: Vec<Option<RunnerGroupId>>,
}

impl Default for OurRunnerGroup {
    fn default() -> Self {
        Self {
            found: RunnerGroup::in_step(RunnerGroupId(1)),
            errors: VecDeque::new(),
            removal: Ok(RunnerGroupRemoval::Removed),
            looks: vec![],
            removals: vec![],
        }
    }
}

#[derive(Default)]
pub struct Things {
    pub registered: BTreeMap<String, RemoteRunner>,
    pub instances: BTreeMap<RunnerName, Owner>,
    pub created: Vec<RunnerName>,
    pub peak: usize,
    /// Most instances at once, by group.
    pub peaks: BTreeMap<GroupName, usize>,
    pub listings: usize,
    next_id: u64,
    deliveries: BTreeSet<DeliveryId>,
    assigned: BTreeMap<JobId, GroupName>,
    inbox: BTreeMap<GroupName, BTreeMap<Cursor, (Delivery, bool)>>,
    next_cursor: u64,
    next_token: u64,
    tokens: BTreeMap<GroupName, u64>,
    groups: BTreeMap<GroupName, GroupSnapshot>,
    pub jobs: BTreeMap<JobId, Job>,
    runners: BTreeMap<RunnerName, Runner>,
}

impl Things {
    /// What was saved of a group is lost, its token included. Its inbox stays.
    fn forget(&mut self, group: &GroupName) {
        self.tokens.remove(group);
        self.groups.remove(group);
        self.jobs.retain(|_, job| job.group.as_ref() != Some(group));
        self.runners.retain(|_, runner| runner.group != *group);
    }

    /// The store lost everything. Its cursors begin anew; its tokens, which follow its clock, do not.
    pub fn empty_the_store(&mut self) {
        self.deliveries.clear();
        self.assigned.clear();
        self.inbox.clear();
        self.tokens.clear();
        self.groups.clear();
        self.jobs.clear();
        self.runners.clear();
        self.next_cursor = 0;
    }
}

impl Earth {
    pub fn new() -> Arc<Self> {
        let earth = Self::default();
        *earth.latency.lock().unwrap() = Duration::from_millis(1);
        Arc::new(earth)
    }

    pub fn things(&self) -> MutexGuard<'_, Things> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn runner_group(&self) -> MutexGuard<'_, OurRunnerGroup> {
        self.runner_group.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    async fn pause(&self) {
        let latency = *self.latency.lock().unwrap();
        tokio::time::sleep(latency).await;
    }
}

impl Earth {
    fn github(&self) -> Result<(), GitHubError> {
        let down = self.github_is_down.load(Ordering::SeqCst);
        if down { Err(GitHubError::Unknown("502 Bad Gateway".into())) } else { Ok(()) }
    }
}

/// Whether one of the faults that are still to come comes now.
fn counted(faults: &AtomicU64) -> bool {
    faults.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Clock for Earth {
    fn now(&self) -> Timestamp {
        // Follows tokio's clock, so that a paused one decides.
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        let start = *START.get_or_init(std::time::Instant::now);
        let since = tokio::time::Instant::now().into_std().duration_since(start);
        Timestamp::from_second(1_700_000_000).unwrap() + since
    }

    fn entropy(&self) -> u64 {
        assert!(!self.entropy_panics.swap(false, Ordering::SeqCst), "no entropy today");
        assert!(!counted(&self.entropy_panics_often), "no entropy at all");
        self.chance.fetch_add(1 << 32, Ordering::SeqCst)
    }
}

impl Observer for Earth {
    fn observe(&self, observation: &Observation<'_>) {
        if let Observation::Group { group, runners, .. } = observation {
            *self.shown.lock().unwrap_or_else(|p| p.into_inner()) = *runners;
            let panics = self.panics_for.lock().unwrap_or_else(|p| p.into_inner()).as_ref() == Some(group);
            let once = self.panics_once.lock().unwrap_or_else(|p| p.into_inner()).take_if(|g| g == *group).is_some();
            assert!(!panics && !once, "cannot look at {group}");
        }
    }
}

#[async_trait]
impl GitHub for Earth {
    async fn ensure_runner_group(
        &self,
        _: &GroupSettings,
        last: Option<RunnerGroupId>,
    ) -> Result<RunnerGroup, GitHubError> {
        let mut ours = self.runner_group();
        ours.looks.push(last);
        ours.errors.pop_front().map_or_else(|| Ok(ours.found.clone()), Err)
    }

    async fn delete_runner_group(
        &self,
        _: &GroupSettings,
        last: Option<RunnerGroupId>,
    ) -> Result<RunnerGroupRemoval, GitHubError> {
        let mut ours = self.runner_group();
        ours.removals.push(last);
        ours.removal.clone()
    }

    async fn generate_jit_config(&self, request: &JitRequest) -> Result<Registration, GitHubError> {
        self.pause().await;
        self.github()?;
        if request.runner_group != self.runner_group().found.id {
            return Err(GitHubError::NotFound(format!("runner group {}", request.runner_group)));
        }
        let mut things = self.things();
        if things.registered.contains_key(request.name.as_str()) {
            return Err(GitHubError::Conflict(request.name.to_string()));
        }
        things.next_id += 1;
        let id = RunnerId(things.next_id);
        let name = request.name.to_string();
        let remote =
            RemoteRunner { id, name: name.clone(), online: false, busy: false, labels: request.labels.clone() };
        things.registered.insert(name, remote);
        Ok(Registration { id, jit_config: Secret::new("jit".into()) })
    }

    async fn list_runners(&self, _: &Scope) -> Result<Vec<RemoteRunner>, GitHubError> {
        self.pause().await;
        self.github()?;
        let mut things = self.things();
        things.listings += 1;
        Ok(things.registered.values().cloned().collect())
    }

    async fn find_runner(&self, _: &Scope, name: &RunnerName) -> Result<Option<RemoteRunner>, GitHubError> {
        self.github()?;
        Ok(self.things().registered.get(name.as_str()).cloned())
    }

    async fn delete_runner(&self, _: &Scope, id: RunnerId) -> Result<Deregistered, GitHubError> {
        self.pause().await;
        self.github()?;
        let mut things = self.things();
        let Some(found) = things.registered.values().find(|r| r.id == id).cloned() else {
            return Ok(Deregistered::Absent);
        };
        if found.busy {
            return Ok(Deregistered::Busy);
        }
        things.registered.remove(&found.name);
        Ok(Deregistered::Removed)
    }

    async fn runner_download(&self, _: &Scope, _: Os, _: Arch) -> Result<Download, GitHubError> {
        Ok(Download::default())
    }
}

#[async_trait]
impl Backend for Earth {
    fn name(&self) -> &'static str {
        "earth"
    }

    async fn create(&self, spec: InstanceSpec) -> Result<Instance, BackendError> {
        self.pause().await;
        let more = *self.create_takes.lock().unwrap();
        tokio::time::sleep(more).await;
        {
            let mut things = self.things();
            let group = spec.owner.group.clone();
            things.instances.insert(spec.runner.clone(), spec.owner);
            let exist = things.instances.values().filter(|owner| owner.group == group).count();
            let peak = things.peaks.entry(group).or_default();
            *peak = exist.max(*peak);
            things.created.push(spec.runner.clone());
            things.peak = things.peak.max(things.instances.len());
        }
        if self.lose_creates.load(Ordering::SeqCst) > 0 {
            self.lose_creates.fetch_sub(1, Ordering::SeqCst);
            return Err(BackendError::Timeout("the answer was lost".into()));
        }
        self.pause().await;
        Ok(instance(&spec.runner))
    }

    async fn delete(&self, runner: &RunnerName) -> Result<(), BackendError> {
        self.pause().await;
        self.things().instances.remove(runner);
        Ok(())
    }

    async fn get(&self, runner: &RunnerName) -> Result<Option<Instance>, BackendError> {
        Ok(self.things().instances.get(runner).map(|_| instance(runner)))
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        self.pause().await;
        Ok(self.things().instances.iter().filter(|(_, o)| *o == owner).map(|(name, _)| instance(name)).collect())
    }

    async fn update_metadata(&self, _: &RunnerName, _: &Metadata) -> Result<(), BackendError> {
        Ok(())
    }

    async fn probe(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

fn instance(runner: &RunnerName) -> Instance {
    let id = InstanceId::new(format!("i-{runner}")).unwrap();
    Instance { id, runner: runner.clone(), status: InstanceStatus::Running }
}

#[async_trait]
impl Store for Earth {
    async fn record(&self, delivery: Arc<Delivery>, route: Route) -> Result<Recorded, StoreError> {
        if counted(&self.records_fail) {
            return Err(StoreError::Unavailable("no answer".into()));
        }
        let mut things = self.things();
        if !things.deliveries.insert(delivery.id.clone()) {
            return Ok(Recorded::Duplicate);
        }
        let job = delivery.event.job.id;
        let group = things.assigned.get(&job).cloned().or(route.group);
        if let Some(group) = &group {
            things.assigned.insert(job, group.clone());
        }
        let mut groups = vec![];
        for (target, assigned) in
            [(group.clone(), true), (route.runner_group.filter(|g| Some(g) != group.as_ref()), false)]
        {
            let Some(target) = target else { continue };
            things.next_cursor += 1;
            let cursor = Cursor(things.next_cursor);
            things.inbox.entry(target.clone()).or_default().insert(cursor, (Delivery::clone(&delivery), assigned));
            groups.push(target);
        }
        if counted(&self.lose_records) {
            return Err(StoreError::Unavailable("the answer is lost".into()));
        }
        Ok(Recorded::New(groups))
    }

    async fn inbox(&self, group: &GroupName, after: Cursor, limit: usize) -> Result<Vec<InboxEntry>, StoreError> {
        if counted(&self.inbox_fails) {
            return Err(StoreError::Unavailable("cannot read".into()));
        }
        let entries = {
            let things = self.things();
            let Some(inbox) = things.inbox.get(group) else { return Ok(vec![]) };
            let behind = inbox.range(Cursor(after.0 + 1)..).take(limit);
            behind
                .map(|(cursor, (delivery, assigned))| InboxEntry {
                    cursor: *cursor,
                    delivery: delivery.clone(),
                    assigned: *assigned,
                    known: things.jobs.get(&delivery.event.job.id).cloned(),
                })
                .collect()
        };
        let takes = *self.inbox_takes.lock().unwrap();
        tokio::time::sleep(takes).await;
        Ok(entries)
    }

    async fn acquire(&self, group: &GroupName) -> Result<FencingToken, StoreError> {
        let mut things = self.things();
        things.next_token += 1;
        let token = things.next_token;
        things.tokens.insert(group.clone(), token);
        Ok(FencingToken(token))
    }

    async fn load(&self, group: &GroupName) -> Result<Loaded, StoreError> {
        let things = self.things();
        Ok(Loaded {
            snapshot: things.groups.get(group).cloned(),
            runners: things.runners.values().filter(|r| r.group == *group && !r.state.is_final()).cloned().collect(),
            jobs: things
                .jobs
                .values()
                .filter(|j| j.group.as_ref() == Some(group) && j.status != JobStatus::Completed)
                .cloned()
                .collect(),
            set_aside: 0,
        })
    }

    async fn save(&self, group: &GroupName, token: FencingToken, changes: Changes) -> Result<(), StoreError> {
        self.pause().await;
        let mut things = self.things();
        if counted(&self.forgets) {
            things.forget(group);
        }
        if !things.tokens.contains_key(group) {
            return Err(StoreError::Forgotten { group: group.clone() });
        }
        if things.tokens.get(group) != Some(&token.0) {
            return Err(StoreError::Fenced { group: group.clone(), token });
        }
        if counted(&self.store_fails) || (!changes.runners.is_empty() && counted(&self.runner_saves_fail)) {
            return Err(StoreError::Unavailable("disk full".into()));
        }
        if let Some(snapshot) = changes.snapshot {
            if let Some(inbox) = things.inbox.get_mut(group) {
                inbox.retain(|cursor, _| *cursor > snapshot.cursor);
            }
            things.groups.insert(group.clone(), snapshot);
        }
        for runner in changes.runners {
            things.runners.insert(runner.name.clone(), Runner::clone(&runner));
        }
        for job in changes.jobs {
            things.jobs.insert(job.id(), Job::clone(&job));
        }
        Ok(())
    }

    async fn group(&self, group: &GroupName) -> Result<Option<GroupSnapshot>, StoreError> {
        Ok(self.things().groups.get(group).cloned())
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        Ok(self.things().jobs.get(&id).cloned())
    }

    async fn jobs(&self, _: &JobFilter) -> Result<Vec<Job>, StoreError> {
        Ok(self.things().jobs.values().cloned().collect())
    }

    async fn runner(&self, name: &RunnerName) -> Result<Option<Runner>, StoreError> {
        Ok(self.things().runners.get(name).cloned())
    }

    async fn runners(&self, _: &RunnerFilter) -> Result<Vec<Runner>, StoreError> {
        Ok(self.things().runners.values().cloned().collect())
    }

    async fn keep_sealed(&self, _: Sealed) -> Result<(), StoreError> {
        Ok(())
    }

    async fn sealed(&self, _: &str) -> Result<Option<Sealed>, StoreError> {
        Ok(None)
    }

    async fn forget_sealed(&self, _: &RunnerName) -> Result<(), StoreError> {
        Ok(())
    }

    async fn prune(&self, _: Horizon) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) {}
}

pub fn settings(name: &str, min: u32, max: u32) -> GroupSettings {
    GroupSettings {
        min,
        time_to_start: Duration::from_secs(600),
        time_to_live: Duration::from_secs(36000),
        backends: vec![BackendLimits {
            create_timeout: Duration::from_secs(60),
            delete_timeout: Duration::from_secs(60),
            max_concurrency: 64,
            ..BackendLimits::new("earth")
        }],
        ..GroupSettings::new(
            GroupName::new(name).unwrap(),
            Scope::Organization("octo-org".into()),
            vec![name.into()],
            max,
        )
    }
}

/// A job of `octo-org/app` that this group serves.
pub fn facts(job: u64, group: &str) -> JobFacts {
    JobFacts {
        id: JobId(job),
        run_id: 1,
        run_attempt: Some(1),
        name: "build".into(),
        workflow_name: None,
        head_branch: None,
        labels: vec!["self-hosted".into(), group.into()],
        repository: RepositoryRef { id: RepositoryId(7), owner: "octo-org".into(), name: "app".into(), private: true },
        organization: None,
        enterprise: None,
        installation_id: None,
        created_at: None,
        started_at: None,
        completed_at: None,
    }
}

/// Waits, in the paused clock's time, until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(7200);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
