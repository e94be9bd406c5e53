//! The actor of one group: reads its inbox, feeds its state machine, owns the actors of its runners.

mod outside;
mod runner_group;
mod saving;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::actor::directory::{Command, Directory, Health, Outcome, Refused};
use crate::actor::effect::{Interpreter, World};
use crate::actor::restarts::Restarts;
use crate::actor::runner::{Args as RunnerArgs, LONGEST_SLEEP, Msg as RunnerMsg, RunnerActor, SAVE_RETRY, until};
use crate::id::{Cursor, FencingToken, GroupName, JobId, ManagerName, RunnerName};
use crate::machine::group::{Effect, Group, Refusal};
use crate::machine::health::Listing;
use crate::model::delivery::JobEvent;
use crate::model::group::BreakerState;
use crate::model::runner::{Runner, RunnerState};
use crate::model::settings::GroupSettings;
use crate::port::github::RunnerGroup;
use crate::port::store::{Changes, InboxEntry, Loaded};
use crate::port::{Backend, GitHubError, Observation, StoreError};

/// Deliveries read from the inbox at once.
const INBOX_BATCH: usize = 256;

/// Deliveries read before runners wake.
const INBOX_AT_FIRST: usize = 2048;

/// Shortest sleep of a group's timer: what is due may wait for a runner that cannot be saved at the moment.
const SHORTEST_SLEEP: Duration = Duration::from_millis(20);

/// Why a group's actor ended that may not act any more: the store knows a newer owner.
pub(crate) const LOST: &str = "another process owns the group";

/// Why an actor fails when what it waited for panicked: a call to the store, or an observation.
pub(crate) const PANICKED: &str = "a call of it panicked";

pub(crate) struct GroupActor;

/// Everything a group needs to run, and to be started again.
#[derive(Clone)]
pub(crate) struct Args {
    pub(crate) settings: Arc<GroupSettings>,
    pub(crate) manager: ManagerName,
    pub(crate) backends: Vec<Arc<dyn Backend>>,
    pub(crate) world: World,
    pub(crate) directory: Directory,
}

pub(crate) enum GroupMsg {
    /// Load what the store has, for the first time or after it failed.
    Load,
    Loaded(Result<(FencingToken, Loaded, Vec<InboxEntry>), StoreError>),
    /// There is something in the inbox. May be sent for nothing, and may be lost.
    Poke,
    Inbox(Result<Vec<InboxEntry>, StoreError>),
    Command(Command, RpcReplyPort<Result<Outcome, Refused>>),
    RunnerChanged(Arc<Runner>),
    /// Give this runner an actor again.
    Revive(RunnerName),
    Listed(Listing),
    /// What a backend's probe said; an error in words.
    Probed(String, Result<(), String>),
    /// What a look at the runner group at GitHub brought.
    RunnerGroup(Result<RunnerGroup, GitHubError>),
    /// What GitHub says of a job that is open for long.
    Verified(JobId, Result<Option<JobEvent>, GitHubError>),
    Saved(Changes, FencingToken, Result<(), StoreError>),
    SaveAgain,
    /// A runner could not save with this token.
    Refused(FencingToken, StoreError),
    /// Answers once the store has taken a save that began after this: the group is still this process's, and nothing of
    /// it is lost.
    Confirm(RpcReplyPort<()>),
    Acquire,
    /// With what the store has.
    Acquired(Result<(FencingToken, Loaded), StoreError>),
    /// Answers once every message before it is handled, here and by the runners.
    Barrier(RpcReplyPort<()>),
    Tick,
    /// A task whose result is waited for panicked: the actor fails, and begins anew.
    Panicked,
}

pub(crate) struct State {
    args: Args,
    myself: ActorRef<GroupMsg>,
    interpreter: Arc<Interpreter>,
    load_failures: u32,
    running: Option<Running>,
    /// Ends what is out with this actor, however it ends.
    ended: DropGuard,
}

/// What a group has once it is loaded.
struct Running {
    group: Group,
    runners: BTreeMap<RunnerName, ActorRef<RunnerMsg>>,
    names: HashMap<ActorId, RunnerName>,
    restarts: HashMap<RunnerName, Restarts>,
    parked: BTreeSet<RunnerName>,
    reading: bool,
    poked: bool,
    listing: bool,
    saving: bool,
    save_failures: u32,
    /// The store lost what was saved, and the group is being acquired again.
    acquiring: bool,
    /// Runners without an actor are to be saved with the group: the store lost them.
    rewrite: bool,
    /// The inbox is to be read again from its beginning, once the read that is out is back.
    reread: bool,
    /// Wait for the next save, and for the one that is out.
    confirm: Vec<RpcReplyPort<()>>,
    confirm_out: Vec<RpcReplyPort<()>>,
    timer: Option<(Timestamp, JoinHandle<()>)>,
}

impl Actor for GroupActor {
    type Msg = GroupMsg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<GroupMsg>, args: Args) -> Result<State, ActorProcessingErr> {
        myself.cast(GroupMsg::Load)?;
        let ended = CancellationToken::new();
        let interpreter = Arc::new(Interpreter::new(
            Arc::clone(&args.settings),
            args.manager.clone(),
            &args.backends,
            args.world.clone(),
            ended.clone(),
        ));
        Ok(State { args, myself, interpreter, load_failures: 0, running: None, ended: ended.drop_guard() })
    }

    async fn handle(
        &self,
        myself: ActorRef<GroupMsg>,
        message: GroupMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            GroupMsg::Load => state.load(&myself),
            GroupMsg::Loaded(result) => state.loaded(&myself, result).await,
            GroupMsg::Poke => state.read_inbox(&myself),
            GroupMsg::Inbox(result) => state.inbox(&myself, result).await,
            GroupMsg::Command(command, reply) => {
                let deletes = command == Command::DeleteRunnerGroup;
                match state.command(&myself, command).await {
                    // Answered once GitHub has.
                    Ok(_) if deletes => state.delete_runner_group(reply),
                    answer => drop(reply.send(answer)),
                }
            }
            GroupMsg::RunnerChanged(runner) => state.runner_changed(&myself, runner).await,
            GroupMsg::Revive(name) => state.revive(&myself, &name).await,
            GroupMsg::Listed(listing) => state.listed(&myself, listing).await,
            GroupMsg::Probed(backend, answer) => state.probed(&myself, &backend, answer).await,
            GroupMsg::RunnerGroup(found) => state.runner_group_seen(&myself, found),
            GroupMsg::Verified(job, answer) => state.verified(&myself, job, answer).await,
            GroupMsg::Saved(changes, token, result) => state.saved(&myself, &changes, token, result),
            GroupMsg::SaveAgain => {
                if let Some(running) = &mut state.running {
                    running.saving = false;
                }
                state.flush(&myself);
            }
            GroupMsg::Refused(token, error) => state.refused(&myself, token, &error),
            GroupMsg::Confirm(reply) => state.confirm(&myself, reply),
            GroupMsg::Acquire => state.acquire(&myself),
            GroupMsg::Acquired(result) => state.acquired(&myself, result).await,
            GroupMsg::Barrier(reply) => state.barrier(reply),
            GroupMsg::Tick => state.tick(&myself).await,
            GroupMsg::Panicked => return Err(PANICKED.into()),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<GroupMsg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(cell, ..) => state.runner_ended(cell.get_id()),
            SupervisionEvent::ActorFailed(cell, error) => {
                state.runner_failed(&myself, cell.get_id(), &error.to_string()).await;
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }

    async fn post_stop(&self, myself: ActorRef<GroupMsg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        if let Some((_, timer)) = state.running.as_mut().and_then(|running| running.timer.take()) {
            timer.abort();
        }
        state.ended.token().cancel();
        myself.stop_children_and_wait(None, None).await;
        let name = &state.args.settings.name;
        state.args.world.observer.observe(&Observation::GroupStopped { group: name });
        Ok(())
    }
}

impl State {
    fn name(&self) -> &GroupName {
        &self.args.settings.name
    }

    fn now(&self) -> Timestamp {
        self.args.world.clock.now()
    }

    /// A task that ends with this actor, and whose panic is this actor's.
    fn task(&self, task: impl Future<Output = ()> + Send + 'static) {
        let actor = self.myself.clone();
        self.args.world.spawn(self.interpreter.ended(), task, move || drop(actor.cast(GroupMsg::Panicked)));
    }

    fn barrier(&self, reply: RpcReplyPort<()>) {
        let runners: Vec<_> = self.running.iter().flat_map(|running| running.runners.values().cloned()).collect();
        tokio::spawn(async move {
            for runner in runners {
                let _ = runner.call(RunnerMsg::Barrier, None).await;
            }
            let _ = reply.send(());
        });
    }

    fn load(&mut self, myself: &ActorRef<GroupMsg>) {
        let (store, name, actor) = (Arc::clone(&self.args.world.store), self.name().clone(), myself.clone());
        self.task(async move {
            let loaded = async {
                let token = store.acquire(&name).await?;
                let loaded = store.load(&name).await?;
                // Before a runner wakes: what it was about to do may have been overtaken. The rest of a long one later.
                let after = loaded.snapshot.as_ref().map_or(Cursor(0), |snapshot| snapshot.cursor);
                let inbox = store.inbox(&name, after, INBOX_AT_FIRST).await?;
                Ok((token, loaded, inbox))
            };
            let _ = actor.cast(GroupMsg::Loaded(loaded.await));
        });
    }

    async fn loaded(
        &mut self,
        myself: &ActorRef<GroupMsg>,
        result: Result<(FencingToken, Loaded, Vec<InboxEntry>), StoreError>,
    ) {
        let (token, loaded, inbox) = match result {
            Ok(loaded) => loaded,
            Err(error @ (StoreError::NotOwner { .. } | StoreError::Fenced { .. })) => return self.lost(myself, &error),
            Err(error) => {
                self.load_failures += 1;
                tracing::error!(group = %self.name(), %error, "cannot load the group, trying again");
                let wait = SAVE_RETRY.delay(self.load_failures, self.args.world.clock.entropy());
                myself.send_after(wait, || GroupMsg::Load);
                return;
            }
        };
        if loaded.set_aside > 0 {
            let count = loaded.set_aside;
            tracing::error!(group = %self.name(), count, "unreadable entries were set aside, looking what really exists");
            self.args.world.observer.observe(&Observation::SnapshotsSetAside { group: self.name(), count });
        }
        let (runners, jobs) = (loaded.runners.len(), loaded.jobs.len());
        let clock = &self.args.world.clock;
        let group =
            Group::new(Arc::clone(&self.args.settings), &self.args.manager, loaded, clock.entropy(), clock.now());
        self.interpreter.set_token(token);
        self.running = Some(Running {
            group,
            runners: BTreeMap::new(),
            names: HashMap::new(),
            restarts: HashMap::new(),
            parked: BTreeSet::new(),
            reading: false,
            poked: false,
            listing: false,
            saving: false,
            save_failures: 0,
            acquiring: false,
            rewrite: false,
            reread: false,
            confirm: vec![],
            confirm_out: vec![],
            timer: None,
        });
        tracing::info!(group = %self.name(), runners, jobs, "group is running");
        let (interpreter, name) = (Arc::clone(&self.interpreter), self.name().clone());
        self.task(async move {
            if let Err(error) = interpreter.warm().await {
                tracing::error!(group = %name, %error, "cannot look for the runner application at GitHub");
            }
        });
        let actor = myself.clone();
        self.args.directory.update(self.name(), |entry| {
            entry.actor = Some(actor);
            entry.health = Health::Running;
        });
        let now = self.now();
        let recovered = self.running.as_mut().map(|running| running.group.recover(inbox, now));
        let effects = recovered.unwrap_or_default();
        self.carry_out(myself, effects).await;
        self.read_inbox(myself);
        self.tick(myself).await;
    }

    fn read_inbox(&mut self, myself: &ActorRef<GroupMsg>) {
        let Some(running) = &mut self.running else { return };
        if running.reading {
            running.poked = true;
            return;
        }
        running.reading = true;
        running.poked = false;
        let after = running.group.snapshot().cursor;
        let (store, name, actor) = (Arc::clone(&self.args.world.store), self.name().clone(), myself.clone());
        self.task(async move {
            let entries = store.inbox(&name, after, INBOX_BATCH).await;
            let _ = actor.cast(GroupMsg::Inbox(entries));
        });
    }

    async fn inbox(&mut self, myself: &ActorRef<GroupMsg>, result: Result<Vec<InboxEntry>, StoreError>) {
        let now = self.now();
        let Some(running) = &mut self.running else { return };
        running.reading = false;
        let entries = match result {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!(group = %self.args.settings.name, %error, "cannot read the inbox, trying again");
                // From the beginning already, if the store lost it meanwhile.
                running.reread = false;
                myself.send_after(SAVE_RETRY.longest, || GroupMsg::Poke);
                return;
            }
        };
        let more = running.poked || entries.len() == INBOX_BATCH;
        for entry in entries {
            let Some(running) = &mut self.running else { return };
            let effects = running.group.delivered(entry, now);
            self.perform(myself, effects).await;
        }
        let reread = self.running.as_mut().is_some_and(|running| std::mem::take(&mut running.reread));
        if reread && let Some(running) = &mut self.running {
            running.group.hear_again();
        }
        if more || reread {
            self.read_inbox(myself);
        }
        self.settle(myself);
    }

    async fn runner_changed(&mut self, myself: &ActorRef<GroupMsg>, runner: Arc<Runner>) {
        let now = self.now();
        let Some(running) = &mut self.running else { return };
        let before = running.group.fleet().get(&runner.name).cloned();
        let effects = running.group.runner_changed(Arc::clone(&runner), now);
        if let Some(before) = before {
            self.observe_runner(&before, &runner);
        }
        self.carry_out(myself, effects).await;
    }

    fn observe_runner(&self, before: &Runner, runner: &Runner) {
        let observer = &self.args.world.observer;
        let group = self.name();
        if let (None, Some(online)) = (before.online_at, runner.online_at) {
            let began = runner.history.iter().rev().find(|t| t.state == RunnerState::Provisioning).map(|t| t.at);
            if let Some(took) = began.and_then(|began| online.duration_since(began).try_into().ok()) {
                observer.observe(&Observation::RunnerOnline { group, backend: &runner.backend, took });
            }
        }
        if let (true, Some(removal)) = (runner.state.is_final(), &runner.removal) {
            observer.observe(&Observation::RunnerDeleted { group, reason: removal.reason });
        }
    }

    async fn listed(&mut self, myself: &ActorRef<GroupMsg>, listing: Listing) {
        let now = self.now();
        let Some(running) = &mut self.running else { return };
        running.listing = false;
        for error in listing.errors() {
            tracing::warn!(group = %self.args.settings.name, %error, "health check is incomplete");
        }
        let mut effects = running.group.listed(&listing, now);
        // A runner whose actor was parked gets another chance with each health check.
        for name in std::mem::take(&mut running.parked) {
            effects.extend(running.group.revive(&name));
        }
        self.carry_out(myself, effects).await;
        self.read_inbox(myself);
    }

    async fn tick(&mut self, myself: &ActorRef<GroupMsg>) {
        let now = self.now();
        let Some(running) = &mut self.running else { return };
        // The timer that sent this may not count as finished yet, on another thread: it must not be relied on again.
        if let Some((_, timer)) = running.timer.take() {
            timer.abort();
        }
        let effects = running.group.tick(now);
        self.carry_out(myself, effects).await;
    }

    async fn command(&mut self, myself: &ActorRef<GroupMsg>, command: Command) -> Result<Outcome, Refused> {
        let now = self.now();
        let name = self.name().clone();
        let Some(running) = &mut self.running else { return Err(Refused::no_answer(&name)) };
        let group = &mut running.group;
        let refused = |refusal| match refusal {
            Refusal::NoRunner(runner) => Refused::NoRunner { group: name.clone(), runner },
            Refusal::Conflict(why) => Refused::Conflict(why),
        };
        let (message, runner, effects) = match command {
            Command::Healthcheck => {
                let effect = group.healthcheck(now);
                (format!("health check of group {name} begun"), None, vec![effect])
            }
            Command::CreateRunner => {
                let (runner, effects) = group.create_runner(now).map_err(refused)?;
                (format!("runner {runner} requested"), Some(runner), effects)
            }
            Command::Reset => (format!("group {name} is reset"), None, group.reset(now)),
            Command::Drain => (format!("group {name} is drained: busy runners finish"), None, group.drain(now)),
            Command::Resume => (format!("group {name} is resumed"), None, group.resume(now)),
            Command::DeleteRunnerGroup => {
                group.may_lose_runner_group().map_err(refused)?;
                (format!("deletion of the runner group of group {name} begun"), None, vec![])
            }
            Command::DeleteRunner { runner, force } => {
                let effects = group.delete_runner(&runner, force).map_err(refused)?;
                (format!("removal of runner {runner} begun"), Some(runner), effects)
            }
            Command::InstanceReport { runner, report } => {
                let effects = group.instance_report(&runner, report).map_err(refused)?;
                (format!("report of the instance of runner {runner} noted"), Some(runner), effects)
            }
        };
        tracing::info!(group = %name, %message, "command taken");
        self.carry_out(myself, effects).await;
        Ok(Outcome { message, runner })
    }

    /// Carries effects out and brings everything that hangs on the group's state up to date.
    async fn carry_out(&mut self, myself: &ActorRef<GroupMsg>, effects: Vec<Effect>) {
        self.perform(myself, effects).await;
        self.settle(myself);
    }

    async fn perform(&mut self, myself: &ActorRef<GroupMsg>, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Spawn(runner, event) => self.spawn_runner(myself, runner, event).await,
                Effect::Tell(name, event) => {
                    if let Some(actor) = self.running.as_ref().and_then(|running| running.runners.get(&name)) {
                        // One that just failed is revived, and told what matters again.
                        let _ = actor.cast(RunnerMsg::Event(event));
                    }
                }
                Effect::Healthcheck => self.healthcheck(myself),
                Effect::Probe(backend) => self.probe(myself, backend),
                Effect::Verify(job, repository) => self.verify(myself, job, repository),
                Effect::Note(note) => self.note(note),
            }
        }
    }

    async fn spawn_runner(
        &mut self,
        myself: &ActorRef<GroupMsg>,
        runner: Arc<Runner>,
        event: crate::machine::runner::Event,
    ) {
        let Some(running) = &mut self.running else { return };
        let name = runner.name.clone();
        let args = RunnerArgs {
            runner,
            saved: !running.rewrite && !matches!(event, crate::machine::runner::Event::Found),
            interpreter: Arc::clone(&self.interpreter),
            group: myself.clone(),
        };
        match Actor::spawn_linked(None, RunnerActor, args, myself.get_cell()).await {
            Ok((actor, _)) => {
                let _ = actor.cast(RunnerMsg::Event(event));
                running.names.insert(actor.get_id(), name.clone());
                running.runners.insert(name, actor);
            }
            Err(error) => {
                tracing::error!(group = %self.args.settings.name, runner = %name, %error, "cannot start its actor");
                running.parked.insert(name);
            }
        }
    }

    fn runner_ended(&mut self, actor: ActorId) {
        if let Some(running) = &mut self.running
            && let Some(name) = running.names.remove(&actor)
            && running.runners.get(&name).is_some_and(|current| current.get_id() == actor)
        {
            running.runners.remove(&name);
            running.restarts.remove(&name);
        }
    }

    async fn runner_failed(&mut self, myself: &ActorRef<GroupMsg>, actor: ActorId, error: &str) {
        let now = self.now();
        let Some(running) = &mut self.running else { return };
        let Some(name) = running.names.remove(&actor) else { return };
        running.runners.remove(&name);
        if !running.restarts.entry(name.clone()).or_default().allow(now) {
            tracing::error!(group = %self.args.settings.name, runner = %name, error, "runner's actor is parked: it failed too often");
            running.parked.insert(name);
            return;
        }
        tracing::error!(group = %self.args.settings.name, runner = %name, error, "runner's actor failed and is started again");
        self.args.world.observer.observe(&Observation::ActorRestarted { actor: "runner" });
        // Behind the states that it still told: what happens to children is heard before messages are.
        let _ = myself.cast(GroupMsg::Revive(name));
    }

    async fn revive(&mut self, myself: &ActorRef<GroupMsg>, name: &RunnerName) {
        let Some(running) = &self.running else { return };
        let effects = running.group.revive(name);
        self.carry_out(myself, effects).await;
    }

    /// After a change: save it, set the timer, and show it to whoever looks.
    fn settle(&mut self, myself: &ActorRef<GroupMsg>) {
        self.flush(myself);
        let now = self.now();
        let Some(running) = &mut self.running else { return };
        let group = &running.group;
        let due = group.wake_at(now);
        if running.timer.as_ref().is_none_or(|(armed, timer)| *armed != due || timer.is_finished()) {
            if let Some((_, timer)) = running.timer.take() {
                timer.abort();
            }
            let actor = myself.clone();
            let wait = until(due, now).clamp(SHORTEST_SLEEP, LONGEST_SLEEP);
            let timer = tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                let _ = actor.cast(GroupMsg::Tick);
            });
            running.timer = Some((due, timer));
        }
        let settings = &self.args.settings;
        for backend in &settings.backends {
            let breaker = group.snapshot().breakers.get(&backend.name).map(|breaker| breaker.state);
            let open = matches!(breaker, Some(BreakerState::Open { .. }));
            let breaker = Observation::Breaker { group: &settings.name, backend: &backend.name, open };
            self.args.world.observer.observe(&breaker);
        }
        let has_capacity = group.has_capacity();
        self.args.directory.update(&settings.name, |entry| entry.has_capacity = has_capacity);
        self.args.world.observer.observe(&Observation::Group {
            group: &settings.name,
            runners: group.fleet().counts(),
            jobs: group.job_counts(),
            min: settings.min,
            max: settings.max,
            demand_oldest_since: group.demand().oldest_since().map(|t| t.as_duration().as_secs_f64()),
            inbox_depth: u32::from(running.reading),
        });
    }
}
