//! The manager itself, in the small world.

use std::sync::Arc;

use actors::actor::directory::Directory;
use actors::actor::effect::World;
use actors::actor::front::{Accepted, Front};
use actors::actor::listings::Listings;
use actors::actor::supervisor::{GroupSpec, Service, System, SystemSpec};
use actors::id::*;
use actors::model::delivery::{Delivery, JobAction, JobEvent, RunnerRef};
use actors::model::settings::GroupSettings;
use actors::port::*;

use super::{Earth, facts};

/// One life of the manager.
pub struct Manager {
    pub system: System,
    pub front: Front,
}

pub async fn start(earth: &Arc<Earth>, groups: &[GroupSettings]) -> Manager {
    start_with(earth, groups, |_| vec![]).await
}

/// As [`start`], with services beside the groups.
pub async fn start_with(
    earth: &Arc<Earth>,
    groups: &[GroupSettings],
    services: impl FnOnce(&Front) -> Vec<Service>,
) -> Manager {
    start_at(earth, groups, services, vec![earth.clone()]).await
}

/// As [`start_with`], with these backends for each group.
pub async fn start_at(
    earth: &Arc<Earth>,
    groups: &[GroupSettings],
    services: impl FnOnce(&Front) -> Vec<Service>,
    backends: Vec<Arc<dyn Backend>>,
) -> Manager {
    let world = World {
        github: earth.clone(),
        records: earth.clone(),
        store: earth.clone(),
        clock: earth.clone(),
        observer: earth.clone(),
        listings: Arc::new(Listings::new(earth.clone(), earth.clone())),
        tasks: Default::default(),
        stopping: Default::default(),
        lease: Default::default(),
    };
    let groups: Vec<Arc<GroupSettings>> = groups.iter().cloned().map(Arc::new).collect();
    let directory = Directory::new(groups.clone());
    let front =
        Front { directory: directory.clone(), store: earth.clone(), clock: earth.clone(), observer: earth.clone() };
    let spec = SystemSpec {
        manager: ManagerName::new("test").unwrap(),
        world,
        directory,
        groups: groups
            .into_iter()
            .map(|settings| GroupSpec { settings, backends: backends.clone(), listings: None })
            .collect(),
        services: services(&front),
        replicas: None,
    };
    Manager { system: System::start(spec).await.unwrap(), front }
}

impl Manager {
    pub async fn deliver(
        &self,
        id: String,
        group: &str,
        job: u64,
        action: JobAction,
        runner: Option<&str>,
    ) -> Accepted {
        self.try_deliver(id, group, job, action, runner).await.unwrap()
    }

    pub async fn try_deliver(
        &self,
        id: String,
        group: &str,
        job: u64,
        action: JobAction,
        runner: Option<&str>,
    ) -> Result<Accepted, StoreError> {
        let delivery = Delivery {
            id: DeliveryId::new(id).unwrap(),
            received_at: self.front.clock.now(),
            event: JobEvent {
                action,
                job: facts(job, group),
                runner: runner.map(|name| RunnerRef { id: None, name: name.into() }),
                conclusion: (action == JobAction::Completed).then(|| "success".into()),
            },
            matched: String::new(),
        };
        self.front.accept(delivery).await
    }
}
