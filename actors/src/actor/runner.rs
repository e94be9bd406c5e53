//! The actor of one runner: saves each step before it carries it out, and keeps its one timer.

use std::collections::HashSet;
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::task::JoinHandle;
use tokio_util::sync::DropGuard;

use crate::actor::effect::Interpreter;
use crate::actor::group::{GroupMsg, PANICKED};
use crate::id::FencingToken;
use crate::machine::backoff;
use crate::machine::runner::{Effect, Event, step, still_wanted, wake_at};
use crate::model::runner::{Runner, RunnerState};
use crate::port::StoreError;
use crate::port::store::Changes;

/// Longest sleep of a timer: a clock that was set is noticed within this time.
pub(crate) const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// Waits between tries to save while the store does not take it.
pub(crate) const SAVE_RETRY: backoff::Backoff =
    backoff::Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(5) };

pub(crate) struct RunnerActor;

pub(crate) struct Args {
    pub(crate) runner: Arc<Runner>,
    /// Whether the store has it as it is; otherwise it is saved before anything is done for it.
    pub(crate) saved: bool,
    pub(crate) interpreter: Arc<Interpreter>,
    pub(crate) group: ActorRef<GroupMsg>,
}

pub(crate) enum Msg {
    Event(Event),
    Saved(Arc<Runner>, FencingToken, Result<(), StoreError>),
    SaveAgain,
    /// The store lost it: save it again as it is.
    WriteAgain,
    /// Answers once every message before it is handled.
    Barrier(RpcReplyPort<()>),
    Done(Discriminant<Effect>, Option<Event>),
    /// This process may act again: an effect that waited for that is begun, if it is still wanted.
    Begin(Effect),
    /// A task whose result is waited for panicked: the actor fails, and begins anew.
    Panicked,
}

pub(crate) struct State {
    args: Args,
    runner: Arc<Runner>,
    /// Decided, and waiting for a save.
    waiting: Vec<Effect>,
    /// Covered by the save that is out.
    held: Vec<Effect>,
    dirty: bool,
    saving: bool,
    save_failures: u32,
    /// Calls that are out, so that a retry does not double them.
    out: HashSet<Discriminant<Effect>>,
    /// Ends them with this actor, however it ends: the next one must not find them at work behind its back.
    calls: DropGuard,
    timer: Option<JoinHandle<()>>,
    timer_due: Option<Timestamp>,
}

impl Actor for RunnerActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        Ok(State {
            runner: Arc::clone(&args.runner),
            dirty: !args.saved,
            calls: args.interpreter.ended().child_token().drop_guard(),
            args,
            waiting: vec![],
            held: vec![],
            saving: false,
            save_failures: 0,
            out: HashSet::new(),
            timer: None,
            timer_due: None,
        })
    }

    async fn handle(&self, myself: ActorRef<Msg>, message: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Event(event) => state.event(&myself, event),
            Msg::Done(kind, event) => {
                state.out.remove(&kind);
                if let Some(event) = event {
                    state.event(&myself, event);
                }
            }
            Msg::Begin(effect) => {
                state.out.remove(&discriminant(&effect));
                state.launch(&myself, effect);
            }
            Msg::Saved(runner, token, result) => state.saved(&myself, runner, token, result),
            Msg::WriteAgain => {
                state.dirty = true;
                state.flush(&myself);
            }
            Msg::Barrier(reply) => {
                let _ = reply.send(());
            }
            Msg::SaveAgain => {
                state.saving = false;
                state.flush(&myself);
            }
            Msg::Panicked => return Err(PANICKED.into()),
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Msg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        if let Some(timer) = state.timer.take() {
            timer.abort();
        }
        Ok(())
    }
}

impl State {
    fn event(&mut self, myself: &ActorRef<Msg>, event: Event) {
        let now = self.args.interpreter.world().clock.now();
        let (next, effects) = step(Runner::clone(&self.runner), event, now);
        if next != *self.runner {
            if next.state != self.runner.state {
                log(&next);
            }
            self.runner = Arc::new(next);
            self.dirty = true;
        }
        self.waiting.extend(effects);
        self.arm(myself, now);
        self.flush(myself);
    }

    /// Saves what changed; what was decided is carried out once that is durable.
    fn flush(&mut self, myself: &ActorRef<Msg>) {
        if self.saving {
            return;
        }
        if !self.dirty {
            for effect in std::mem::take(&mut self.waiting) {
                self.launch(myself, effect);
            }
            if self.runner.state.is_final() {
                myself.stop(None);
            }
            return;
        }
        self.saving = true;
        self.dirty = false;
        self.held.append(&mut self.waiting);
        let world = self.args.interpreter.world().clone();
        let interpreter = &self.args.interpreter;
        let (runner, token, actor) = (Arc::clone(&self.runner), interpreter.token(), myself.clone());
        let save = async move {
            let changes = Changes { runners: vec![Arc::clone(&runner)], ..Changes::default() };
            let result = world.store.save(&runner.group, token, changes).await;
            let _ = actor.cast(Msg::Saved(runner, token, result));
        };
        interpreter.world().spawn(interpreter.ended(), save, panicked(myself));
    }

    fn saved(
        &mut self,
        myself: &ActorRef<Msg>,
        runner: Arc<Runner>,
        token: FencingToken,
        result: Result<(), StoreError>,
    ) {
        match result {
            Ok(()) => {
                self.saving = false;
                self.save_failures = 0;
                // The group sees what is durable, nothing newer.
                let _ = self.args.group.cast(GroupMsg::RunnerChanged(runner));
                for effect in std::mem::take(&mut self.held) {
                    self.launch(myself, effect);
                }
                self.flush(myself);
            }
            Err(error) => {
                // The group's own save tells of it; a thousand runners need not. But whether it is still the group's
                // owner, the group decides.
                let _ = self.args.group.cast(GroupMsg::Refused(token, error));
                self.dirty = true;
                self.save_failures += 1;
                let world = self.args.interpreter.world();
                let wait = SAVE_RETRY.delay(self.save_failures, world.clock.entropy());
                let actor = myself.clone();
                // Among the tasks, so that a shutdown waits for what is not saved yet.
                let again = async move {
                    tokio::time::sleep(wait).await;
                    let _ = actor.cast(Msg::SaveAgain);
                };
                world.spawn(self.args.interpreter.ended(), again, panicked(myself));
            }
        }
    }

    fn launch(&mut self, myself: &ActorRef<Msg>, effect: Effect) {
        let kind = discriminant(&effect);
        let world = self.args.interpreter.world().clone();
        // What was decided before the last save may be overtaken by what was saved.
        if world.stopping.is_cancelled() || !still_wanted(&self.runner, &effect) || !self.out.insert(kind) {
            return;
        }
        let actor = myself.clone();
        if !world.lease.is_valid() {
            let lease = world.lease.clone();
            let wait = async move {
                lease.valid().await;
                let _ = actor.cast(Msg::Begin(effect));
            };
            return world.spawn(self.calls.token(), wait, panicked(myself));
        }
        let (interpreter, runner) = (Arc::clone(&self.args.interpreter), Arc::clone(&self.runner));
        let call = async move {
            let event = interpreter.perform(&runner, effect).await;
            let _ = actor.cast(Msg::Done(kind, event));
        };
        world.spawn(self.calls.token(), call, panicked(myself));
    }

    /// One timer, for the next deadline of the machine.
    fn arm(&mut self, myself: &ActorRef<Msg>, now: Timestamp) {
        let due = wake_at(&self.runner);
        if due == self.timer_due && self.timer.as_ref().is_some_and(|timer| !timer.is_finished()) {
            return;
        }
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        self.timer_due = due;
        if let Some(due) = due {
            let actor = myself.clone();
            let clock = Arc::clone(&self.args.interpreter.world().clock);
            let mut wait = until(due, now);
            self.timer = Some(tokio::spawn(async move {
                // Looks at the clock at least once a minute: it may be set meanwhile.
                loop {
                    tokio::time::sleep(wait.min(LONGEST_SLEEP)).await;
                    let now = clock.now();
                    if now >= due {
                        break;
                    }
                    wait = until(due, now);
                }
                let _ = actor.cast(Msg::Event(Event::Tick));
            }));
        }
    }
}

/// Tells the actor that a task of it panicked.
fn panicked(actor: &ActorRef<Msg>) -> impl FnOnce() + Send + 'static {
    let actor = actor.clone();
    move || drop(actor.cast(Msg::Panicked))
}

/// How long from `now` to `due`, at least a millisecond so that rounding never spins.
pub(crate) fn until(due: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(due.duration_since(now)).unwrap_or_default().max(Duration::from_millis(1))
}

fn log(runner: &Runner) {
    let reason = runner.history.last().map(|t| t.reason.as_str()).unwrap_or_default();
    let (group, name, state) = (&runner.group, &runner.name, runner.state.as_str());
    let job = runner.job.map(|job| job.0);
    match runner.state {
        RunnerState::Failed => {
            let error = runner.error.as_deref().unwrap_or_default();
            tracing::warn!(%group, runner = %name, state, error, "runner failed");
        }
        RunnerState::Starting | RunnerState::Busy | RunnerState::Deleting | RunnerState::Gone => {
            tracing::info!(%group, runner = %name, state, job, reason, "runner {state}");
        }
        RunnerState::Requested | RunnerState::Registering | RunnerState::Provisioning | RunnerState::Idle => {
            tracing::debug!(%group, runner = %name, state, reason, "runner {state}");
        }
    }
}
