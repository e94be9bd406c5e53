//! The real actors behind the front: embedded store, backend `base`, and a GitHub whose runners are online at once.
#![allow(dead_code, reason = "every test file uses its part")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actors::actor::directory::Directory;
use actors::actor::effect::World;
use actors::actor::front::Front;
use actors::actor::listings::Listings;
use actors::actor::supervisor::{GroupSpec, System, SystemSpec};
use actors::id::*;
use actors::model::delivery::JobEvent;
use actors::model::secret::Secret;
use actors::model::settings::{Arch, GroupSettings, Os, Scope};
use actors::port::backend::Owner;
use actors::port::github::*;
use async_trait::async_trait;
use jiff::Timestamp;
use runner_manager::backend::base::Base;
use runner_manager::store::Embedded;

use crate::fakes::Fake;

/// Every registered runner, by name.
#[derive(Default)]
struct Hub(Mutex<BTreeMap<String, RemoteRunner>>);

#[async_trait]
impl GitHub for Hub {
    async fn ensure_runner_group(
        &self,
        _: &GroupSettings,
        _: Option<RunnerGroupId>,
    ) -> Result<RunnerGroup, GitHubError> {
        Ok(RunnerGroup::in_step(RunnerGroupId(1)))
    }

    async fn delete_runner_group(
        &self,
        _: &GroupSettings,
        _: Option<RunnerGroupId>,
    ) -> Result<RunnerGroupRemoval, GitHubError> {
        Ok(RunnerGroupRemoval::Absent)
    }

    async fn generate_jit_config(&self, request: &JitRequest) -> Result<Registration, GitHubError> {
        let mut runners = self.0.lock().unwrap();
        let id = RunnerId(runners.len() as u64 + 1);
        let (name, labels) = (request.name.to_string(), request.labels.clone());
        runners.insert(name.clone(), RemoteRunner { id, name, online: true, busy: false, labels });
        Ok(Registration { id, jit_config: Secret::new("aml0".to_owned()) })
    }

    async fn list_runners(&self, _: &Scope) -> Result<Vec<RemoteRunner>, GitHubError> {
        Ok(self.0.lock().unwrap().values().cloned().collect())
    }

    async fn find_runner(&self, _: &Scope, name: &RunnerName) -> Result<Option<RemoteRunner>, GitHubError> {
        Ok(self.0.lock().unwrap().get(name.as_str()).cloned())
    }

    async fn delete_runner(&self, _: &Scope, id: RunnerId) -> Result<Deregistered, GitHubError> {
        let mut runners = self.0.lock().unwrap();
        let before = runners.len();
        runners.retain(|_, runner| runner.id != id);
        Ok(if runners.len() < before { Deregistered::Removed } else { Deregistered::Absent })
    }

    async fn runner_download(&self, _: &Scope, _: Os, _: Arch) -> Result<Download, GitHubError> {
        Ok(Download { url: "https://example.invalid/runner.tar.gz".to_owned(), ..Download::default() })
    }
}

/// Nobody asks in time.
#[async_trait]
impl Records for Hub {
    async fn job(&self, _: &Asker, _: &RepositoryName, _: JobId) -> Result<Option<JobEvent>, GitHubError> {
        Err(GitHubError::Unknown("not here".to_owned()))
    }

    async fn open_jobs(&self, _: &Asker, _: &RepositoryName, _: usize) -> Result<Vec<JobEvent>, GitHubError> {
        Ok(vec![])
    }

    async fn hook(&self, _: &Asker, _: &str) -> Result<Option<Hook>, GitHubError> {
        Ok(None)
    }

    async fn deliveries(&self, _: &Asker, _: &Hook, _: Timestamp, _: Option<&str>) -> Result<Sent, GitHubError> {
        Ok(Sent { deliveries: vec![], next: None })
    }

    async fn redeliver(&self, _: &Asker, _: &Hook, _: u64) -> Result<(), GitHubError> {
        Ok(())
    }
}

/// The actors and what they keep.
pub struct Running {
    pub system: System,
    pub front: Front,
    pub data: tempfile::TempDir,
}

/// Starts one group.
pub async fn start(settings: GroupSettings) -> Running {
    start_in(tempfile::tempdir().unwrap(), settings).await
}

/// Starts one group on what a directory holds.
pub async fn start_in(data: tempfile::TempDir, settings: GroupSettings) -> Running {
    let fake = Fake::new();
    let store = Arc::new(Embedded::open(data.path(), fake.clone()).unwrap());
    let hub = Arc::new(Hub::default());
    let manager = ManagerName::new("test").unwrap();
    let world = World {
        github: hub.clone(),
        records: hub.clone(),
        store: store.clone(),
        clock: fake.clone(),
        observer: fake.clone(),
        listings: Arc::new(Listings::new(hub, fake.clone())),
        tasks: Default::default(),
        stopping: Default::default(),
        lease: Default::default(),
    };
    let settings = Arc::new(settings);
    let directory = Directory::new([settings.clone()]);
    let backend = Base::new(Owner { manager: manager.clone(), group: settings.name.clone() });
    let spec = SystemSpec {
        manager,
        world,
        directory: directory.clone(),
        groups: vec![GroupSpec { settings, backends: vec![Arc::new(backend)], listings: None }],
        services: vec![],
        replicas: None,
    };
    let system = System::start(spec).await.unwrap();
    Running { system, front: Front { directory, store, clock: fake.clone(), observer: fake }, data }
}

impl Running {
    pub async fn stop(self) {
        self.system.stop(Duration::from_secs(5)).await;
        self.front.store.close().await;
    }
}
