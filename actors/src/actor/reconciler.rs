//! Finds what webhooks did not tell: every few minutes GitHub is asked which deliveries failed, and which jobs are open.
//! With other replicas only the one whose id sorts first does so.

mod history;
mod listing;

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::actor::directory::{Health, Owner};
use crate::actor::front::Front;
use crate::actor::supervisor::Service;
use crate::machine::backoff::after;
use crate::port::GitHubError;
use crate::port::github::{Asker, Records, RepositoryName};
use history::History;
use listing::Listing;

/// Default time between two rounds.
pub const RECONCILE_EVERY: Duration = Duration::from_secs(300);
/// Longest time between two looks whether a round is due.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long the first round waits for groups that are being started, at most.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Longest time one question may take, with all its pages.
const ANSWER_DEADLINE: Duration = Duration::from_secs(600);
/// Questions of one asker that may fail in one round.
const FAILURES_MAX: u32 = 3;

/// What the reconciler needs. Cheap to clone.
#[derive(Clone)]
pub struct Args {
    /// The way in for what is found; its groups say for which organizations and repositories GitHub is asked.
    pub front: Front,
    /// Who is asked.
    pub records: Arc<dyn Records>,
    /// The end of the address at which webhooks are taken, such as `/webhook`: tells which hook is this service's.
    pub webhook_path: String,
    /// Repositories to look into besides those of groups and of jobs that are known.
    pub repositories: Vec<RepositoryName>,
    /// Time from the end of a round to the next one.
    pub interval: Duration,
}

/// The reconciler as a service of the supervisor.
#[must_use]
pub fn service(args: Args) -> Service {
    Service {
        name: "reconciler",
        start: Arc::new(move |supervisor: ActorCell| {
            let args = args.clone();
            Box::pin(async move {
                let (actor, _) = Actor::spawn_linked(None, Reconciler, args, supervisor).await?;
                Ok(actor.get_cell())
            })
        }),
    }
}

struct Reconciler;

enum Msg {
    /// Look whether a round is due.
    Look,
    /// A round is over; without its memory it panicked.
    Done(Option<Memory>),
}

/// What one round leaves for the next, in memory only.
#[derive(Default)]
struct Memory {
    history: History,
    listing: Listing,
    /// Until when GitHub is not to be asked by whom.
    paused: BTreeMap<Asker, Timestamp>,
}

struct State {
    args: Args,
    /// None while a round is under way.
    memory: Option<Memory>,
    started_at: Timestamp,
    due: Timestamp,
    /// Ends the round that is under way with this actor, however it ends.
    ended: DropGuard,
}

impl Actor for Reconciler {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        myself.cast(Msg::Look)?;
        let now = args.front.clock.now();
        let ended = CancellationToken::new().drop_guard();
        Ok(State { args, memory: Some(Memory::default()), started_at: now, due: now, ended })
    }

    async fn handle(&self, myself: ActorRef<Msg>, message: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Look => state.look(&myself),
            Msg::Done(memory) => state.done(memory),
        }
        Ok(())
    }
}

impl State {
    fn look(&mut self, myself: &ActorRef<Msg>) {
        myself.send_after(self.args.interval.min(LOOK_EVERY), || Msg::Look);
        let now = self.args.front.clock.now();
        if !self.args.front.directory.is_first() {
            // Whoever takes over looks at once, at everything.
            self.due = now;
            self.memory = self.memory.take().map(|_| Memory::default());
            return;
        }
        if self.due > now || self.waits_for_groups(now) {
            return;
        }
        let Some(memory) = self.memory.take() else { return };
        let mut round = Round { args: self.args.clone(), memory, failures: BTreeMap::new() };
        let (actor, ended) = (myself.clone(), self.ended.token().clone());
        tokio::spawn(async move {
            let work = AssertUnwindSafe(async move {
                round.carry_out().await;
                round.memory
            });
            if let Some(memory) = ended.run_until_cancelled(work.catch_unwind()).await {
                let _ = actor.cast(Msg::Done(memory.ok()));
            }
        });
    }

    /// Jobs of a group that does not run yet are not all known yet.
    fn waits_for_groups(&self, now: Timestamp) -> bool {
        let starting = |owner: &Owner, health: &Health| *owner == Owner::Me && *health == Health::Starting;
        now < after(self.started_at, START_PATIENCE)
            && self.args.front.directory.entries().iter().any(|entry| starting(&entry.owner, &entry.health))
    }

    fn done(&mut self, memory: Option<Memory>) {
        if memory.is_none() {
            tracing::error!("a reconciliation with GitHub panicked, the next one begins anew");
        }
        self.memory = Some(memory.unwrap_or_default());
        self.due = after(self.args.front.clock.now(), self.args.interval);
    }
}

/// One reconciliation: all its questions are asked one after the other.
struct Round {
    args: Args,
    memory: Memory,
    /// Questions of this round that failed.
    failures: BTreeMap<Asker, u32>,
}

impl Round {
    async fn carry_out(&mut self) {
        let now = self.args.front.clock.now();
        self.memory.paused.retain(|_, until| *until > now);
        self.read_histories().await;
        self.look_into_repositories().await;
    }

    /// Whether this replica is still the one that asks, and GitHub may be asked by this one.
    fn goes_on(&self, asker: &Asker) -> bool {
        self.args.front.directory.is_first()
            && self.failures.get(asker).is_none_or(|failures| *failures < FAILURES_MAX)
            && self.memory.paused.get(asker).is_none_or(|until| *until <= self.args.front.clock.now())
    }

    /// Asks GitHub. A failure is told here, and what follows for the other questions is noted.
    async fn ask<T>(
        &mut self,
        asker: &Asker,
        what: &str,
        question: impl Future<Output = Result<T, GitHubError>>,
    ) -> Result<T, GitHubError> {
        let late = || GitHubError::Unknown(format!("no answer within {} s", ANSWER_DEADLINE.as_secs()));
        let answer = tokio::time::timeout(ANSWER_DEADLINE, question).await.unwrap_or_else(|_| Err(late()));
        if let Err(error) = &answer {
            tracing::warn!(scope = %asker.scope, credential = asker.credential, what, %error, "cannot reconcile with GitHub, trying again later");
            match error {
                GitHubError::RateLimited { retry_after, .. } => {
                    let until = after(self.args.front.clock.now(), *retry_after);
                    self.memory.paused.insert(asker.clone(), until);
                }
                GitHubError::Unknown(_) | GitHubError::Unauthorized(_) => {
                    *self.failures.entry(asker.clone()).or_default() += 1;
                }
                GitHubError::Forbidden(_)
                | GitHubError::NotFound(_)
                | GitHubError::Conflict(_)
                | GitHubError::Invalid(_) => {}
            }
        }
        answer
    }
}
