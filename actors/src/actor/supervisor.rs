//! The root of the tree: starts one actor per group and the services beside them, and starts again what failed.
//! With other replicas, an actor beside them decides which groups run here.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use ractor::rpc::CallResult;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, SupervisionEvent};
use tokio::sync::oneshot;

use crate::actor::directory::{Directory, Health, Outcome, Owner, Refused};
use crate::actor::effect::World;
use crate::actor::ending;
use crate::actor::group::{Args as GroupArgs, GroupActor, LOST};
use crate::actor::lease::Lease;
use crate::actor::listings::Listings;
use crate::actor::messenger::Messenger;
use crate::actor::replica::{self, ReplicaActor};
use crate::actor::restarts::Restarts;
use crate::id::{GroupName, ManagerName};
use crate::model::settings::GroupSettings;
use crate::port::{Backend, Observation, Replicas};

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
    /// Its backends, in the order of its settings.
    pub backends: Vec<Arc<dyn Backend>>,
    /// Its GitHub, when it has another credential than the world: shared by the groups that use it.
    pub listings: Option<Arc<Listings>>,
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
    /// The other replicas, to share the groups with. Without them all groups run here.
    pub replicas: Option<Arc<dyn Replicas>>,
}

/// A running system of actors.
pub struct System {
    supervisor: ActorRef<SupervisorMsg>,
    world: World,
    shared: bool,
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
        let shared = spec.replicas.is_some();
        let (supervisor, _) = Actor::spawn(None, Supervisor, Args { spec, report }).await?;
        directory.supervised_by(supervisor.clone());
        Ok(Self { supervisor, world, shared, failed })
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
    ///
    /// Groups that are shared are given up at once instead, each as soon as its calls are finished, and after one second
    /// at the latest: their next owner recovers what was still out.
    pub async fn stop(self, grace: Duration) -> bool {
        let services = self.supervisor.call(SupervisorMsg::StopServices, None);
        let groups = self.supervisor.call(|reply| SupervisorMsg::EndAll(grace, reply), None);
        let finish = async {
            let ended = if self.shared {
                tokio::join!(services, groups).1
            } else {
                let _ = services.await;
                groups.await
            };
            matches!(ended, Ok(CallResult::Success(true)))
        };
        let in_time = tokio::time::timeout(grace, finish).await.unwrap_or(false);
        self.world.stopping.cancel();
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
    /// This replica owns the group: run it, while this lease is valid.
    Run(GroupName, Lease),
    /// Run it no more. Answers once its actor and its calls have ended: whether they finished within this grace.
    End(GroupName, Duration, RpcReplyPort<bool>),
    /// The same for all groups, of which shared ones are given up.
    EndAll(Duration, RpcReplyPort<bool>),
    /// Stop the services, in order, each within its own grace.
    StopServices(RpcReplyPort<()>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Child {
    Group(usize),
    Service(usize),
    /// The one that shares the groups with other replicas.
    Replica,
}

/// A group of the configuration.
struct Charge {
    args: GroupArgs,
    /// Whether it is to run here.
    wanted: bool,
    restarts: Restarts,
}

pub(crate) struct State {
    groups: Vec<Charge>,
    services: Vec<Service>,
    children: HashMap<ActorId, (Child, ActorCell)>,
    service_restarts: Vec<Restarts>,
    /// What the actor that shares the groups needs, if they are shared.
    replica: Option<replica::Args>,
    replica_restarts: Restarts,
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
        let wanted = spec.replicas.is_none();
        let replica = spec.replicas.map(|replicas| {
            let messenger = Arc::new(Messenger::new(Arc::clone(&replicas), Arc::clone(&spec.world.clock)));
            let beats = Lease::shared();
            spec.directory.shared_with(Arc::clone(&messenger), beats.clone());
            let groups = spec.groups.iter().map(|group| group.settings.name.clone()).collect();
            let (directory, supervisor) = (spec.directory.clone(), myself.clone());
            replica::Args { replicas, messenger, directory, beats, groups, running: vec![], supervisor }
        });
        let charge = |group: GroupSpec| Charge {
            args: GroupArgs {
                settings: group.settings,
                manager: spec.manager.clone(),
                backends: group.backends,
                world: {
                    let listings = group.listings.unwrap_or_else(|| Arc::clone(&spec.world.listings));
                    spec.world.of_group(Lease::default()).through(listings)
                },
                directory: spec.directory.clone(),
            },
            wanted,
            restarts: Restarts::default(),
        };
        Ok(State {
            groups: spec.groups.into_iter().map(charge).collect(),
            service_restarts: vec![Restarts::default(); spec.services.len()],
            services: spec.services,
            children: HashMap::new(),
            replica,
            replica_restarts: Restarts::default(),
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
                    if state.groups.get(group).is_some_and(|group| group.wanted) {
                        state.start(&myself, Child::Group(group)).await;
                    }
                }
                if state.replica.is_some() {
                    state.start(&myself, Child::Replica).await;
                }
                for service in 0..state.services.len() {
                    state.start(&myself, Child::Service(service)).await;
                }
            }
            SupervisorMsg::TryAgain(group) => {
                if !state.stopping && state.is_missing(group) {
                    state.restart_group(&myself, group).await;
                }
            }
            SupervisorMsg::Reset(group, reply) => {
                let answer = state.reset(&myself, &group).await;
                let _ = reply.send(answer);
            }
            SupervisorMsg::Run(group, lease) => state.run(&myself, &group, lease).await,
            SupervisorMsg::End(group, grace, reply) => {
                let group = state.groups.iter().position(|charge| charge.args.settings.name == group);
                state.end(group.into_iter().collect(), grace, reply);
            }
            SupervisorMsg::EndAll(grace, reply) => match state.replica_actor() {
                Some(replica) => {
                    let _ = replica.cast(replica::Msg::Leave(grace, reply));
                }
                None => state.end((0..state.groups.len()).collect(), grace, reply),
            },
            SupervisorMsg::StopServices(reply) => {
                state.stopping = true;
                let mut services: Vec<(usize, ActorCell)> = Vec::new();
                for (child, cell) in state.children.values() {
                    if let Child::Service(n) = child {
                        services.push((*n, cell.clone()));
                    }
                }
                services.sort_unstable_by_key(|(n, _)| *n);
                tokio::spawn(async move {
                    for (_, service) in services {
                        let _ = service.stop_and_wait(None, None).await;
                    }
                    let _ = reply.send(());
                });
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
                let Some(Charge { args, .. }) = self.groups.get(n) else { return };
                args.directory.update(&args.settings.name, |entry| entry.health = Health::Starting);
                Actor::spawn_linked(None, GroupActor, args.clone(), myself.get_cell())
                    .await
                    .map(|(actor, _)| actor.get_cell())
            }
            Child::Service(n) => {
                let Some(service) = self.services.get(n) else { return };
                (service.start)(myself.get_cell()).await
            }
            Child::Replica => {
                let Some(mut args) = self.replica.clone() else { return };
                let running = self.groups.iter().filter(|group| group.wanted);
                args.running =
                    running.map(|Charge { args, .. }| (args.settings.name.clone(), args.world.lease.clone())).collect();
                Actor::spawn_linked(None, ReplicaActor, args, myself.get_cell())
                    .await
                    .map(|(actor, _)| actor.get_cell())
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
        let mut lost = None;
        if let Child::Group(n) = child
            && let Some(Charge { args, wanted, .. }) = self.groups.get_mut(n)
        {
            let name = &args.settings.name;
            args.directory.update(name, |entry| entry.actor = None);
            if *wanted && why == LOST && self.replica.is_some() {
                *wanted = false;
                lost = Some(name.clone());
            }
            if !*wanted {
                self.count();
                if let (Some(group), Some(replica)) = (lost, self.replica_actor()) {
                    let _ = replica.cast(replica::Msg::Lost(group));
                }
                return;
            }
        }
        if self.stopping || self.world.stopping.is_cancelled() {
            return;
        }
        let now = self.world.clock.now();
        let (restarts, kind) = match child {
            Child::Group(n) => (self.groups.get_mut(n).map(|group| &mut group.restarts), "group"),
            Child::Replica => (Some(&mut self.replica_restarts), "replica"),
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
            Child::Group(n) => self.groups.get(n).map_or("", |group| group.args.settings.name.as_str()),
            Child::Service(n) => self.services.get(n).map_or("", |service| service.name),
            Child::Replica => "replica",
        }
    }

    /// A group is parked until it is reset or some time has passed; without a service there is no point in going on.
    fn gave_up(&mut self, myself: &ActorRef<SupervisorMsg>, child: Child, why: &str) {
        tracing::error!(name = self.child_name(child), error = why, "actor failed too often and is stopped for now");
        match child {
            Child::Group(n) => {
                // What made it fail may heal by itself, and its jobs wait.
                myself.send_after(PARKED_FOR, move || SupervisorMsg::TryAgain(n));
                if let Some(Charge { args, .. }) = self.groups.get(n) {
                    args.directory.update(&args.settings.name, |entry| {
                        entry.health = Health::Parked { error: why.to_owned() };
                        entry.actor = None;
                    });
                }
            }
            Child::Service(_) | Child::Replica => {
                let name = self.child_name(child).to_owned();
                if let Some(report) = self.report.take() {
                    let _ = report.send(format!("{name} failed too often: {why}"));
                }
            }
        }
    }

    async fn reset(&mut self, myself: &ActorRef<SupervisorMsg>, group: &GroupName) -> Result<Outcome, Refused> {
        let Some(n) = self.groups.iter().position(|charge| charge.args.settings.name == *group) else {
            return Err(Refused::NoGroup(group.to_string()));
        };
        if !self.is_missing(n) {
            return Err(Refused::no_answer(group));
        }
        self.restart_group(myself, n).await;
        Ok(Outcome { message: format!("group {group} is started again"), runner: None })
    }

    /// Whether it should run here, and does not.
    fn is_missing(&self, group: usize) -> bool {
        self.groups.get(group).is_some_and(|group| group.wanted)
            && !self.children.values().any(|(child, _)| *child == Child::Group(group))
    }

    async fn restart_group(&mut self, myself: &ActorRef<SupervisorMsg>, group: usize) {
        if let Some(charge) = self.groups.get_mut(group) {
            charge.restarts = Restarts::default();
        }
        self.start(myself, Child::Group(group)).await;
    }

    async fn run(&mut self, myself: &ActorRef<SupervisorMsg>, group: &GroupName, lease: Lease) {
        let Some(n) = self.groups.iter().position(|charge| charge.args.settings.name == *group) else { return };
        let Some(charge) = self.groups.get_mut(n).filter(|charge| !charge.wanted) else { return };
        charge.wanted = true;
        let listings = Arc::clone(&charge.args.world.listings);
        charge.args.world = self.world.of_group(lease).through(listings);
        charge.args.directory.update(group, |entry| entry.owner = Owner::Me);
        self.restart_group(myself, n).await;
    }

    fn end(&mut self, groups: Vec<usize>, grace: Duration, reply: RpcReplyPort<bool>) {
        let mut ending = Vec::new();
        for n in groups {
            let Some(charge) = self.groups.get_mut(n) else { continue };
            charge.wanted = false;
            let child = self.children.values().find(|(child, _)| *child == Child::Group(n));
            if let Some((_, cell)) = child {
                let (world, group) = (charge.args.world.clone(), cell.clone().into());
                ending.push(async move { ending::end(&world, &group, grace).await });
            }
        }
        tokio::spawn(async move {
            let in_time = join_all(ending).await.into_iter().all(|in_time| in_time);
            let _ = reply.send(in_time);
        });
    }

    fn replica_actor(&self) -> Option<ActorRef<replica::Msg>> {
        let (_, cell) = self.children.values().find(|(child, _)| *child == Child::Replica)?;
        Some(cell.clone().into())
    }

    fn count(&self) {
        let groups = self.children.values().filter(|(child, _)| matches!(child, Child::Group(_))).count();
        self.world.observer.observe(&Observation::GroupsOwned(u32::try_from(groups).unwrap_or(u32::MAX)));
    }
}
