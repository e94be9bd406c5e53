//! The root of the tree: starts one actor per group and the services beside them, and starts again what failed.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, SupervisionEvent};
use tokio::sync::oneshot;

use crate::actor::directory::{Directory, Health, Outcome, Refused};
use crate::actor::effect::World;
use crate::actor::group::{Args as GroupArgs, GroupActor};
use crate::actor::restarts::Restarts;
use crate::id::{GroupName, ManagerName};
use crate::model::settings::GroupSettings;
use crate::port::{Backend, Observation};

/// How long a group that failed too often is left alone before it gets another chance by itself.
const PARKED_FOR: Duration = Duration::from_secs(300);

/// An actor beside the groups, such as the HTTP front. It gets the supervisor as its parent.
pub struct Service {
    /// Its name in logs and metrics.
    pub name: &'static str,
    /// Starts it, also again after it failed.
    pub start: StartService,
}

/// Starts a service's actor, linked to the supervisor.
pub type StartService = Arc<dyn Fn(ActorCell) -> Starting + Send + Sync>;
/// A service's actor being started.
pub type Starting = Pin<Box<dyn Future<Output = Result<ActorCell, SpawnErr>> + Send>>;

/// A group to run.
pub struct GroupSpec {
    /// Its settings.
    pub settings: Arc<GroupSettings>,
    /// Its backend.
    pub backend: Arc<dyn Backend>,
}

/// What to start.
pub struct SystemSpec {
    /// The deployment's name.
    pub manager: ManagerName,
    /// The world they share.
    pub world: World,
    /// Where they are found; made of the same groups.
    pub directory: Directory,
    /// The groups.
    pub groups: Vec<GroupSpec>,
    /// The services.
    pub services: Vec<Service>,
}

/// A running system of actors.
pub struct System {
    supervisor: ActorRef<SupervisorMsg>,
    world: World,
    failed: oneshot::Receiver<String>,
}

impl System {
    /// Starts everything.
    ///
    /// # Errors
    /// When an actor cannot even be started.
    pub async fn start(spec: SystemSpec) -> Result<Self, SpawnErr> {
        let (report, failed) = oneshot::channel();
        let world = spec.world.clone();
        let directory = spec.directory.clone();
        let (supervisor, _) = Actor::spawn(None, Supervisor, Args { spec, report }).await?;
        directory.supervised_by(supervisor.clone());
        Ok(Self { supervisor, world, failed })
    }

    /// Waits until a service failed more often than it may be started again, and says why.
    pub async fn failed(&mut self) -> String {
        match (&mut self.failed).await {
            Ok(why) => why,
            Err(_) => "the supervisor ended".to_owned(),
        }
    }

    /// Stops: first the services, then no new call is begun, calls that are out finish and are saved within `grace`,
    /// then all actors end. Says whether everything finished in time; what did not is recovered at the next start.
    pub async fn stop(self, grace: Duration) -> bool {
        let finish = async {
            let _ = self.supervisor.call(SupervisorMsg::StopServices, None).await;
            self.world.stopping.cancel();
            // A result that came back leads to a save: the tracker is empty only when both are done.
            loop {
                self.world.tasks.close();
                self.world.tasks.wait().await;
                let _ = self.supervisor.call(SupervisorMsg::Barrier, Some(Duration::from_secs(1))).await;
                if self.world.tasks.is_empty() {
                    break;
                }
            }
        };
        let in_time = tokio::time::timeout(grace, finish).await.is_ok();
        self.supervisor.stop_children_and_wait(None, Some(Duration::from_secs(1))).await;
        let _ = self.supervisor.stop_and_wait(None, Some(Duration::from_secs(1))).await;
        in_time
    }
}

impl System {
    /// Ends every actor at once, without finishing or saving anything: what `kill -9` does, for the actors alone.
    pub async fn kill(self) {
        self.world.stopping.cancel();
        self.supervisor.kill();
        let _ = self.supervisor.get_cell().wait(None).await;
    }
}

pub(crate) struct Supervisor;

pub(crate) struct Args {
    spec: SystemSpec,
    report: oneshot::Sender<String>,
}

pub(crate) enum SupervisorMsg {
    /// Start everything; sent once.
    Start,
    /// A parked group gets another chance.
    TryAgain(usize),
    /// Start a parked group again.
    Reset(GroupName, RpcReplyPort<Result<Outcome, Refused>>),
    /// Stop the services, in order, each within its own grace.
    StopServices(RpcReplyPort<()>),
    /// Answers once every message before it is handled.
    Barrier(RpcReplyPort<()>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Child {
    Group(usize),
    Service(usize),
}

pub(crate) struct State {
    groups: Vec<GroupArgs>,
    services: Vec<Service>,
    children: HashMap<ActorId, (Child, ActorCell)>,
    group_restarts: Vec<Restarts>,
    service_restarts: Vec<Restarts>,
    world: World,
    report: Option<oneshot::Sender<String>>,
    stopping: bool,
}

impl Actor for Supervisor {
    type Msg = SupervisorMsg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<SupervisorMsg>, args: Args) -> Result<State, ActorProcessingErr> {
        let Args { spec, report } = args;
        myself.cast(SupervisorMsg::Start)?;
        let groups: Vec<GroupArgs> = spec
            .groups
            .into_iter()
            .map(|group| GroupArgs {
                settings: group.settings,
                manager: spec.manager.clone(),
                backend: group.backend,
                world: spec.world.clone(),
                directory: spec.directory.clone(),
            })
            .collect();
        Ok(State {
            group_restarts: vec![Restarts::default(); groups.len()],
            service_restarts: vec![Restarts::default(); spec.services.len()],
            groups,
            services: spec.services,
            children: HashMap::new(),
            world: spec.world,
            report: Some(report),
            stopping: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMsg>,
        message: SupervisorMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMsg::Start => {
                for group in 0..state.groups.len() {
                    state.start(&myself, Child::Group(group)).await;
                }
                for service in 0..state.services.len() {
                    state.start(&myself, Child::Service(service)).await;
                }
            }
            SupervisorMsg::TryAgain(group) => {
                if !state.stopping && !state.runs(group) {
                    state.restart_group(&myself, group).await;
                }
            }
            SupervisorMsg::Reset(group, reply) => {
                let answer = state.reset(&myself, &group).await;
                let _ = reply.send(answer);
            }
            SupervisorMsg::StopServices(reply) => {
                state.stopping = true;
                for (child, cell) in state.children.values() {
                    if matches!(child, Child::Service(_)) {
                        let _ = cell.stop_and_wait(None, None).await;
                    }
                }
                let _ = reply.send(());
            }
            SupervisorMsg::Barrier(reply) => {
                let _ = reply.send(());
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SupervisorMsg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(cell, _, why) => {
                let why = why.unwrap_or_else(|| "it ended".to_owned());
                state.ended(&myself, cell.get_id(), &why).await;
            }
            SupervisionEvent::ActorFailed(cell, error) => {
                state.ended(&myself, cell.get_id(), &error.to_string()).await;
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

impl State {
    async fn start(&mut self, myself: &ActorRef<SupervisorMsg>, child: Child) {
        let started = match child {
            Child::Group(n) => {
                let Some(args) = self.groups.get(n) else { return };
                args.directory.update(&args.settings.name, |entry| entry.health = Health::Starting);
                Actor::spawn_linked(None, GroupActor, args.clone(), myself.get_cell())
                    .await
                    .map(|(actor, _)| actor.get_cell())
            }
            Child::Service(n) => {
                let Some(service) = self.services.get(n) else { return };
                (service.start)(myself.get_cell()).await
            }
        };
        match started {
            Ok(cell) => {
                self.children.insert(cell.get_id(), (child, cell));
            }
            Err(error) => self.gave_up(myself, child, &error.to_string()),
        }
        self.count();
    }

    async fn ended(&mut self, myself: &ActorRef<SupervisorMsg>, id: ActorId, why: &str) {
        let Some((child, _)) = self.children.remove(&id) else { return };
        if let Child::Group(n) = child
            && let Some(args) = self.groups.get(n)
        {
            args.directory.update(&args.settings.name, |entry| entry.actor = None);
        }
        if self.stopping || self.world.stopping.is_cancelled() {
            return;
        }
        let now = self.world.clock.now();
        let (restarts, kind) = match child {
            Child::Group(n) => (self.group_restarts.get_mut(n), "group"),
            Child::Service(n) => (self.service_restarts.get_mut(n), self.services.get(n).map_or("service", |s| s.name)),
        };
        if restarts.is_some_and(|restarts| restarts.allow(now)) {
            tracing::error!(
                actor = kind,
                name = self.child_name(child),
                error = why,
                "actor failed and is started again"
            );
            self.world.observer.observe(&Observation::ActorRestarted { actor: kind });
            self.start(myself, child).await;
        } else {
            self.gave_up(myself, child, why);
            self.count();
        }
    }

    fn child_name(&self, child: Child) -> &str {
        match child {
            Child::Group(n) => self.groups.get(n).map_or("", |args| args.settings.name.as_str()),
            Child::Service(n) => self.services.get(n).map_or("", |service| service.name),
        }
    }

    /// A group is parked until it is reset or some time has passed; without a service there is no point in going on.
    fn gave_up(&mut self, myself: &ActorRef<SupervisorMsg>, child: Child, why: &str) {
        tracing::error!(name = self.child_name(child), error = why, "actor failed too often and is stopped for now");
        match child {
            Child::Group(n) => {
                // What made it fail may heal by itself, and its jobs wait.
                myself.send_after(PARKED_FOR, move || SupervisorMsg::TryAgain(n));
                if let Some(args) = self.groups.get(n) {
                    args.directory.update(&args.settings.name, |entry| {
                        entry.health = Health::Parked { error: why.to_owned() };
                        entry.actor = None;
                    });
                }
            }
            Child::Service(n) => {
                let name = self.services.get(n).map_or("service", |s| s.name);
                if let Some(report) = self.report.take() {
                    let _ = report.send(format!("{name} failed too often: {why}"));
                }
            }
        }
    }

    async fn reset(&mut self, myself: &ActorRef<SupervisorMsg>, group: &GroupName) -> Result<Outcome, Refused> {
        let Some(n) = self.groups.iter().position(|args| args.settings.name == *group) else {
            return Err(Refused::NoGroup(group.to_string()));
        };
        if self.runs(n) {
            return Err(Refused::Unavailable(group.clone()));
        }
        self.restart_group(myself, n).await;
        Ok(Outcome { message: format!("group {group} is started again"), runner: None })
    }

    fn runs(&self, group: usize) -> bool {
        self.children.values().any(|(child, _)| *child == Child::Group(group))
    }

    async fn restart_group(&mut self, myself: &ActorRef<SupervisorMsg>, group: usize) {
        if let Some(restarts) = self.group_restarts.get_mut(group) {
            *restarts = Restarts::default();
        }
        self.start(myself, Child::Group(group)).await;
    }

    fn count(&self) {
        let groups = self.children.values().filter(|(child, _)| matches!(child, Child::Group(_))).count();
        self.world.observer.observe(&Observation::GroupsOwned(u32::try_from(groups).unwrap_or(u32::MAX)));
    }
}
