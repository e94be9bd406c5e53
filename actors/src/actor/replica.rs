//! The actor that shares the groups with other replicas: says that this one lives, claims groups and gives them up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use ractor::rpc::CallResult;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::actor::directory::{Directory, Health, Owner};
use crate::actor::group::GroupMsg;
use crate::actor::lease::Lease;
use crate::actor::messenger::{Message, Messenger};
use crate::actor::supervisor::SupervisorMsg;
use crate::id::{GroupName, ReplicaId};
use crate::machine::placement;
use crate::model::remote::Reach;
use crate::port::replicas::{BEAT_EVERY, LEASE, Notice, Report, Roster};
use crate::port::{Replicas, StoreError};

/// How long the calls of a group that moves to another replica may take to finish.
const REBALANCE_GRACE: Duration = Duration::from_secs(30);
/// How long they may take when this replica stops: the others wait for the group.
const HAND_OVER_GRACE: Duration = Duration::from_secs(1);
/// Beats after the store was away at which groups look into their inboxes: what was refused as too late may have been
/// recorded all the same.
const LOOKS: u8 = 3;
/// So many of the last commands that others sent are remembered: a message may arrive twice.
const ASKED_MAX: usize = 1024;
/// Longest time of one call to the store: an answer that comes later is of no use.
const CALL_DEADLINE: Duration = Duration::from_secs(LEASE.as_secs() / 2);

/// How long a group is left alone whose owner did not say that it gives it up: a store that was emptied shows no owner
/// either, and an owner that lives claims its groups again with its next beat.
pub(crate) const CLAIM_AFTER: Duration = Duration::from_secs(2);
/// Most names of groups in a log line.
const SHOWN_MAX: usize = 10;
/// How long one that has given everything up is still seen to live, so that the others see that it left of its own.
const FAREWELL: Duration = Duration::from_millis(300);

/// What the replicas' actor works with; all of it outlives the actor.
#[derive(Clone)]
pub(crate) struct Args {
    pub(crate) replicas: Arc<dyn Replicas>,
    pub(crate) messenger: Arc<Messenger>,
    pub(crate) directory: Directory,
    /// Until when what the others told counts.
    pub(crate) beats: Lease,
    /// The groups of the configuration.
    pub(crate) groups: Vec<GroupName>,
    /// Those that run here already: after this actor failed.
    pub(crate) running: Vec<(GroupName, Lease)>,
    pub(crate) supervisor: ActorRef<SupervisorMsg>,
}

pub(crate) struct ReplicaActor;

pub(crate) enum Msg {
    Beat,
    Beaten(Instant, Result<Roster, StoreError>),
    Claimed(GroupName, Result<bool, StoreError>),
    /// One that runs here and had no owner.
    Confirmed(GroupName, Result<bool, StoreError>),
    /// Its actor and its calls have ended.
    Ended(GroupName),
    /// Its actor ended because the store knows another owner.
    Lost(GroupName),
    Notice(Notice),
    /// Nobody listens to notices any more.
    Deaf,
    /// Give up everything, each group within this grace.
    Leave(Duration, RpcReplyPort<bool>),
}

/// A group that this replica has to do with.
struct Share {
    phase: Phase,
    lease: Lease,
    /// Rosters of beats that began before are older than what is known.
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Claiming,
    Runs,
    /// It runs, and is being claimed again.
    Confirming,
    /// It runs, and claiming it again did not come to its end: its lease is not renewed before it does.
    Unconfirmed,
    /// It is being ended.
    Ending,
    /// It is being ended since it should be another's.
    HandingOver,
}

pub(crate) struct State {
    args: Args,
    shares: BTreeMap<GroupName, Share>,
    /// When the last beat began that got through.
    beat_at: Instant,
    /// When a share ended last: rosters of beats that began before may still show it.
    gone_at: Instant,
    roster: Roster,
    /// Groups without an owner, and when they may be claimed.
    free_at: BTreeMap<GroupName, Instant>,
    beat_out: Option<JoinHandle<()>>,
    beat_again: bool,
    failing: bool,
    /// After so many more beats, groups look into their inboxes unasked.
    looks: u8,
    leaving: bool,
    garbled: bool,
    /// The last commands that others sent, oldest first.
    asked: VecDeque<(ReplicaId, u64)>,
    /// Groups of others that are not in this replica's configuration.
    foreign: BTreeSet<GroupName>,
    /// Ends what is out with this actor, however it ends.
    ended: DropGuard,
}

impl Actor for ReplicaActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Msg>, mut args: Args) -> Result<State, ActorProcessingErr> {
        let since = Instant::now();
        // Whether one was being claimed again is not known any more.
        let share = |lease| Share { phase: Phase::Unconfirmed, lease, since };
        let state = State {
            shares: args.running.drain(..).map(|(group, lease)| (group, share(lease))).collect(),
            args,
            beat_at: since,
            gone_at: since,
            roster: Roster::default(),
            free_at: BTreeMap::new(),
            beat_out: None,
            beat_again: false,
            failing: false,
            looks: 0,
            leaving: false,
            garbled: false,
            asked: VecDeque::new(),
            foreign: BTreeSet::new(),
            ended: CancellationToken::new().drop_guard(),
        };
        state.listen(&myself);
        let actor = myself.clone();
        state.task(async move {
            while actor.cast(Msg::Beat).is_ok() {
                tokio::time::sleep(BEAT_EVERY).await;
            }
        });
        Ok(state)
    }

    async fn handle(&self, myself: ActorRef<Msg>, message: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Beat => state.beat(&myself),
            Msg::Beaten(began, result) => state.beaten(&myself, began, result),
            Msg::Claimed(group, result) => state.claimed(&group, result),
            Msg::Confirmed(group, result) => state.confirmed(&myself, &group, result),
            Msg::Ended(group) => state.gone(&myself, &group),
            Msg::Lost(group) => {
                let phase = state.shares.get(&group).map(|share| share.phase);
                // Whatever is being ended is given up in its turn.
                if matches!(phase, Some(Phase::Runs | Phase::Confirming | Phase::Unconfirmed)) {
                    state.gone(&myself, &group);
                }
            }
            Msg::Notice(notice) => state.notice(&myself, notice),
            Msg::Deaf => return Err("listening to the other replicas failed".into()),
            Msg::Leave(grace, reply) => state.leave(grace, reply),
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Msg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.ended.token().cancel();
        Ok(())
    }
}

/// One call to the store: bounded in time and safe from panics.
async fn bounded<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(CALL_DEADLINE, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(StoreError::Unavailable("the call panicked".to_owned())),
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {} s", CALL_DEADLINE.as_secs()))),
    }
}

impl State {
    fn task(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let ended = self.ended.token().clone();
        tokio::spawn(async move {
            ended.run_until_cancelled(task).await;
        })
    }

    fn listen(&self, myself: &ActorRef<Msg>) {
        let (replicas, actor) = (Arc::clone(&self.args.replicas), myself.clone());
        self.task(async move {
            while let Ok(notice) = AssertUnwindSafe(replicas.next()).catch_unwind().await {
                if actor.cast(Msg::Notice(notice)).is_err() {
                    return;
                }
            }
            let _ = actor.cast(Msg::Deaf);
        });
    }

    /// What to tell the others. One that leaves takes nothing any more.
    fn report(&self) -> Report {
        if self.leaving {
            return Report::default();
        }
        let mut report = Report { groups: self.args.groups.clone(), ..Report::default() };
        let entries = self.args.directory.entries();
        for entry in entries.into_iter().filter(|entry| self.shares.contains_key(&entry.settings.name)) {
            let group = entry.settings.name.clone();
            if !entry.has_capacity {
                report.full.push(group.clone());
            }
            if entry.reach != Reach::default() {
                report.reach.insert(group.clone(), entry.reach);
            }
            if let Health::Parked { error } = entry.health {
                report.stopped.insert(group, error);
            }
        }
        report
    }

    fn poke_all(&self) {
        self.args.groups.iter().for_each(|group| self.args.directory.poke(group));
    }

    /// One beat at a time. Once this replica leaves there are none: it would count as alive again.
    fn beat(&mut self, myself: &ActorRef<Msg>) {
        if self.leaving || self.beat_out.is_some() {
            return;
        }
        self.beat_again = false;
        let (replicas, report, actor) = (Arc::clone(&self.args.replicas), self.report(), myself.clone());
        let began = Instant::now();
        self.beat_out = Some(self.task(async move {
            let result = bounded(replicas.beat(&report)).await;
            let _ = actor.cast(Msg::Beaten(began, result));
        }));
    }

    /// A beat now, or right after the one that is out.
    fn beat_soon(&mut self, myself: &ActorRef<Msg>) {
        self.beat(myself);
        self.beat_again = self.beat_out.is_some();
    }

    fn beaten(&mut self, myself: &ActorRef<Msg>, began: Instant, result: Result<Roster, StoreError>) {
        self.beat_out = None;
        match result {
            Ok(roster) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the other replicas know again that this one lives");
                    self.looks = LOOKS;
                }
                if self.looks > 0 {
                    self.looks -= 1;
                    self.poke_all();
                }
                let before = std::mem::replace(&mut self.beat_at, began);
                self.args.beats.renew(began);
                self.note_foreign(&roster);
                if !self.leaving {
                    self.follow(myself, began, &roster, before.elapsed() < LEASE);
                    self.roster = roster;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "cannot tell the other replicas that this one lives: its groups wait once their lease is over");
                }
            }
        }
        if self.beat_again {
            self.beat(myself);
        }
    }

    /// Brings what this replica does in line with the roster of a beat that began at `began`. `steady`: this replica's
    /// leases cannot have run out since the beat before.
    fn follow(&mut self, myself: &ActorRef<Msg>, began: Instant, roster: &Roster, steady: bool) {
        let me = self.args.replicas.me().clone();
        let (mut lost, mut ownerless, mut unconfirmed) = (vec![], vec![], vec![]);
        for (group, share) in self.shares.iter().filter(|(_, share)| share.since < began) {
            match (share.phase, roster.owners.get(group)) {
                (Phase::Runs | Phase::HandingOver, Some(owner)) if *owner == me => share.lease.renew(began),
                (Phase::Runs | Phase::Confirming | Phase::Unconfirmed | Phase::HandingOver, Some(owner))
                    if *owner != me =>
                {
                    tracing::error!(%group, %owner, "another replica has taken the group: stopping to act for it");
                    lost.push(group.clone());
                }
                (Phase::Runs, None) => ownerless.push(group.clone()),
                (Phase::Unconfirmed, _) => unconfirmed.push(group.clone()),
                _ => {}
            }
        }
        for group in lost {
            self.end(myself, &group, Phase::Ending, Duration::ZERO);
        }
        let forgotten = steady && !ownerless.is_empty();
        self.note_free(roster, forgotten);
        for group in ownerless {
            tracing::warn!(%group, "nobody owns the group any more: claiming it again");
            self.confirm(myself, group);
        }
        for group in unconfirmed {
            self.confirm(myself, group);
        }
        self.args.directory.seen(roster, &me, |group| self.shares.contains_key(group));

        let placement::Plan { claim, hand_over } = placement::plan(&me, roster);
        let (is_new, mine) = (self.gone_at < began, |group: &GroupName| roster.owners.get(group) == Some(&me));
        let targets_me = |group: &GroupName| is_new && mine(group) && !hand_over.contains(group);
        // Those that are this replica's by the store and do not run: it failed between claiming and starting them.
        let idle = self.args.groups.iter().filter(|group| targets_me(group)).cloned();
        let now = Instant::now();
        let claim = claim.into_iter().filter(|group| self.free_at.get(group).is_some_and(|at| *at <= now));
        for group in claim.chain(idle).collect::<Vec<_>>() {
            if !self.shares.contains_key(&group) {
                self.claim(myself, group);
            }
        }
        let under_way = self.shares.values().filter(|share| share.phase == Phase::HandingOver).count();
        let moves = hand_over.len().saturating_sub(under_way);
        let free = |group: &GroupName| match self.shares.get(group) {
            Some(share) => share.phase == Phase::Runs && share.since < began,
            None => is_new,
        };
        for group in hand_over.into_iter().filter(free).take(moves).collect::<Vec<_>>() {
            self.end(myself, &group, Phase::HandingOver, REBALANCE_GRACE);
        }
    }

    /// Says which groups of others are not in this replica's configuration, when that changed.
    fn note_foreign(&mut self, roster: &Roster) {
        let mine: BTreeSet<&GroupName> = self.args.groups.iter().collect();
        let theirs = roster.replicas.values().flat_map(|report| &report.groups);
        let foreign: BTreeSet<GroupName> = theirs.filter(|group| !mine.contains(group)).cloned().collect();
        if foreign == self.foreign {
            return;
        }
        if !foreign.is_empty() {
            let groups: Vec<&str> = foreign.iter().take(SHOWN_MAX).map(GroupName::as_str).collect();
            tracing::warn!(
                count = foreign.len(),
                groups = groups.join(", "),
                "other replicas have groups that are not in the configuration of this one: their jobs are not matched when they are delivered here: give all the same configuration"
            );
        }
        self.foreign = foreign;
    }

    /// Notes since when groups have no owner, and when they may be claimed: at once when their owner left, or handed
    /// them to this replica; when the store has forgotten this replica's own groups, only after everybody had the time
    /// to come back.
    fn note_free(&mut self, roster: &Roster, forgotten: bool) {
        let now = Instant::now();
        self.free_at.retain(|group, _| !roster.owners.contains_key(group));
        let free: Vec<&GroupName> =
            self.args.groups.iter().filter(|group| !roster.owners.contains_key(*group)).collect();
        if free.is_empty() {
            return;
        }
        let (before, me) = (&self.roster, self.args.replicas.me());
        let planned = placement::targets(before);
        let given_up = |group: &GroupName| {
            before.owners.get(group).is_some_and(|owner| {
                let reports = [before, roster].into_iter().filter_map(|roster| roster.replicas.get(owner));
                let left = reports.into_iter().any(|report| report.groups.is_empty());
                left || (planned.get(group) == Some(me) && owner != me && roster.replicas.contains_key(owner))
            })
        };
        for group in free {
            let wait = if given_up(group) { Duration::ZERO } else { CLAIM_AFTER };
            let at = self.free_at.entry(group.clone()).or_insert(now + wait);
            if forgotten {
                *at = now + LEASE;
            }
        }
    }

    fn claim(&mut self, myself: &ActorRef<Msg>, group: GroupName) {
        let share = Share { phase: Phase::Claiming, lease: Lease::shared(), since: Instant::now() };
        self.shares.insert(group.clone(), share);
        let (replicas, actor) = (Arc::clone(&self.args.replicas), myself.clone());
        self.task(async move {
            let claimed = bounded(replicas.claim(&group)).await;
            let _ = actor.cast(Msg::Claimed(group, claimed));
        });
    }

    fn claimed(&mut self, group: &GroupName, result: Result<bool, StoreError>) {
        let beat_at = self.beat_at;
        let Some(share) = self.shares.get_mut(group).filter(|share| share.phase == Phase::Claiming) else { return };
        match result {
            Ok(true) if !self.leaving => {
                (share.phase, share.since) = (Phase::Runs, Instant::now());
                // It lasts as long as this replica's word that it lives.
                share.lease.renew(beat_at);
                let lease = share.lease.clone();
                let _ = self.args.supervisor.cast(SupervisorMsg::Run(group.clone(), lease));
            }
            Ok(_) => {
                self.shares.remove(group);
            }
            Err(error) => {
                tracing::warn!(%group, %error, "cannot claim the group, trying again");
                self.shares.remove(group);
            }
        }
    }

    /// One that runs here has no owner: the store was emptied, or this replica's lease ran out. It is claimed again, and
    /// acts again once a save has shown that nobody else acted for it meanwhile and that nothing of it is lost.
    fn confirm(&mut self, myself: &ActorRef<Msg>, group: GroupName) {
        let Some(share) = self.shares.get_mut(&group) else { return };
        share.phase = Phase::Confirming;
        let (replicas, actor) = (Arc::clone(&self.args.replicas), myself.clone());
        let running = self.args.directory.entry(group.as_str()).and_then(|entry| entry.actor);
        self.task(async move {
            loop {
                let claimed = bounded(replicas.claim(&group)).await;
                if let (Ok(true), Some(running)) = (&claimed, &running)
                    && let Ok(CallResult::Timeout) = running.call(GroupMsg::Confirm, Some(CALL_DEADLINE)).await
                {
                    // While a save takes that long the store may have been emptied once more.
                    continue;
                }
                // If it ended instead, the supervisor tells.
                let _ = actor.cast(Msg::Confirmed(group, claimed));
                return;
            }
        });
    }

    fn confirmed(&mut self, myself: &ActorRef<Msg>, group: &GroupName, result: Result<bool, StoreError>) {
        let beat_at = self.beat_at;
        let Some(share) = self.shares.get_mut(group).filter(|share| share.phase == Phase::Confirming) else { return };
        match result {
            Ok(true) => {
                (share.phase, share.since) = (Phase::Runs, Instant::now());
                share.lease.renew(beat_at);
            }
            Ok(false) => {
                tracing::error!(%group, "another replica has taken the group: stopping to act for it");
                self.end(myself, group, Phase::Ending, Duration::ZERO);
            }
            // With the next roster again. It may be this replica's already, and is not confirmed all the same.
            Err(_) => share.phase = Phase::Unconfirmed,
        }
    }

    /// Ends a group and gives it up: in this order, whatever happens.
    fn end(&mut self, myself: &ActorRef<Msg>, group: &GroupName, phase: Phase, grace: Duration) {
        let share = Share { phase: Phase::Runs, lease: Lease::shared(), since: Instant::now() };
        let share = self.shares.entry(group.clone()).or_insert(share);
        if std::mem::replace(&mut share.phase, phase) == Phase::HandingOver {
            // What follows the end is under way; only its grace is over.
            let (reply, _) = tokio::sync::oneshot::channel();
            let _ = self.args.supervisor.cast(SupervisorMsg::End(group.clone(), grace, reply.into()));
            return;
        }
        let (replicas, supervisor) = (Arc::clone(&self.args.replicas), self.args.supervisor.clone());
        let (group, actor) = (group.clone(), myself.clone());
        self.task(async move {
            let _ = supervisor.call(|reply| SupervisorMsg::End(group.clone(), grace, reply), None).await;
            // Should this fail, the next roster shows a group of this replica that does not run.
            release(&*replicas, &group).await;
            let _ = actor.cast(Msg::Ended(group));
        });
    }

    fn gone(&mut self, myself: &ActorRef<Msg>, group: &GroupName) {
        self.shares.remove(group);
        self.gone_at = Instant::now();
        self.beat_soon(myself);
        self.args.directory.update(group, |entry| {
            entry.owner = Owner::Nobody;
            entry.health = Health::Starting;
        });
    }

    fn notice(&mut self, myself: &ActorRef<Msg>, notice: Notice) {
        match notice {
            Notice::Poke(group) => self.args.directory.poke(&group),
            Notice::Changed => self.beat_soon(myself),
            Notice::Missed => {
                self.poke_all();
                self.beat_soon(myself);
            }
            Notice::Message(text) => self.message(&text),
        }
    }

    fn message(&mut self, text: &str) {
        match serde_json::from_str(text) {
            Ok(Message::Answer { id, answer }) => self.args.messenger.answered(id, answer),
            Ok(Message::Ask { id, from, group, command }) => {
                let asked = (from.clone(), id);
                if self.asked.contains(&asked) {
                    return;
                }
                if self.asked.len() >= ASKED_MAX {
                    self.asked.pop_front();
                }
                self.asked.push_back(asked);
                let (directory, messenger) = (self.args.directory.clone(), Arc::clone(&self.args.messenger));
                self.task(async move {
                    let answer = directory.command_here(group.as_str(), command).await;
                    messenger.answer(&from, id, answer).await;
                });
            }
            Err(error) => {
                if !std::mem::replace(&mut self.garbled, true) {
                    tracing::warn!(%error, "messages of another replica cannot be read and are ignored: is its version another one?");
                }
            }
        }
    }

    /// Each group is given up as soon as it is quiet; then this replica stops counting as alive.
    fn leave(&mut self, grace: Duration, reply: RpcReplyPort<bool>) {
        self.leaving = true;
        let grace = grace.min(HAND_OVER_GRACE);
        let (replicas, supervisor) = (Arc::clone(&self.args.replicas), self.args.supervisor.clone());
        let (report, beat_out) = (self.report(), self.beat_out.take());
        let running = self.shares.iter().filter(|(_, share)| share.phase != Phase::Claiming);
        let groups: Vec<GroupName> = running.map(|(group, _)| group.clone()).collect();
        self.task(async move {
            // What is given up goes to others only once they know that this one takes nothing.
            let told = {
                let replicas = Arc::clone(&replicas);
                async move {
                    if let Some(beat) = beat_out {
                        let _ = beat.await;
                    }
                    let _ = bounded(replicas.beat(&report)).await;
                }
            };
            let told = told.boxed().shared();
            let given_up = groups.iter().map(|group| async {
                let (replicas, supervisor, told) = (&replicas, &supervisor, told.clone());
                let end = supervisor.call(|reply| SupervisorMsg::End(group.clone(), grace, reply), None);
                let (ended, ()) = tokio::join!(end, told);
                release(&**replicas, group).await;
                matches!(ended, Ok(CallResult::Success(true)))
            });
            let in_time = join_all(given_up).await.into_iter().all(|in_time| in_time);
            told.await;
            tokio::time::sleep(FAREWELL).await;
            if let Err(error) = bounded(replicas.leave()).await {
                tracing::warn!(%error, "cannot tell the other replicas that this one leaves: they notice within seconds");
            }
            let _ = reply.send(in_time);
        });
    }
}

async fn release(replicas: &dyn Replicas, group: &GroupName) {
    if let Err(error) = bounded(replicas.release(group)).await {
        tracing::warn!(%group, %error, "cannot give the group up");
    }
}
