//! Several managers: who lives and who owns what, as the store keeps it, and what befalls one of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use actors::id::*;
use actors::port::replicas::{LEASE, Notice, Report, Roster};
use actors::port::store::Recorded;
use actors::port::{Replicas, StoreError};
use async_trait::async_trait;
use tokio::sync::{Notify, mpsc};

use super::chance::Chance;
use super::leases::Newest;
use super::oracle::Known;
use super::panics;
use super::scenario::{Kind, Scenario};
use super::store::{Books, unavailable};
use super::world::{Site, State, What, World};

const LEASE_MILLIS: u64 = LEASE.as_secs() * 1000;
/// Longer than any deadline.
const NEVER: Duration = Duration::from_secs(3600);

/// What one life of a manager has to itself.
pub struct Me {
    pub slot: usize,
    pub id: ReplicaId,
    /// The tokens that it knows to be its own, and the last write under each that was acknowledged.
    tokens: Mutex<BTreeMap<GroupName, (u64, u64)>>,
    notices: tokio::sync::Mutex<mpsc::UnboundedReceiver<Notice>>,
}

impl Me {
    fn tokens(&self) -> MutexGuard<'_, BTreeMap<GroupName, (u64, u64)>> {
        self.tokens.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The store answered a write under a token.
    pub fn acknowledged(&self, group: &GroupName, token: u64, seq: u64) {
        let mut tokens = self.tokens();
        let last = tokens.entry(group.clone()).or_default();
        *last = (token, seq).max(*last);
    }

    /// The number of the last write under a token that was acknowledged.
    pub fn last_acknowledged(&self, group: &GroupName, token: FencingToken) -> Option<u64> {
        self.tokens().get(group).filter(|(known, _)| *known == token.0).map(|(_, seq)| *seq)
    }
}

/// How one manager fares.
#[derive(Default)]
struct Trouble {
    /// It does nothing until then, and then goes on.
    asleep: bool,
    /// Nothing of it reaches the store: calls hang, or fail at once.
    cut_off: Option<bool>,
    /// Its beats fail.
    silent: bool,
    awake: Arc<Notify>,
}

/// The replicas, as the store knows them, and their troubles.
pub struct Members {
    /// When each said last that it lives, and what it told.
    alive: BTreeMap<ReplicaId, (u64, Report)>,
    owners: BTreeMap<GroupName, ReplicaId>,
    ears: BTreeMap<ReplicaId, mpsc::UnboundedSender<Notice>>,
    troubles: Vec<Trouble>,
    /// When the store lost all last.
    pub emptied_at: Option<u64>,
    /// Lost, while nobody lived to see it.
    empties: bool,
    kept: Option<Kept>,
}

/// What the store goes back to.
struct Kept {
    alive: BTreeMap<ReplicaId, (u64, Report)>,
    owners: BTreeMap<GroupName, ReplicaId>,
    books: Books,
    newest: Newest,
    known: Known,
}

impl Members {
    pub fn of(scenario: &Scenario) -> Self {
        let troubles = (0..scenario.managers()).map(|_| Trouble::default()).collect();
        let (alive, owners, ears) = Default::default();
        Self { alive, owners, ears, troubles, emptied_at: None, empties: false, kept: None }
    }

    /// What to wait for while a manager sleeps.
    pub fn asleep(&self, slot: usize) -> Option<Arc<Notify>> {
        self.troubles[slot].asleep.then(|| self.troubles[slot].awake.clone())
    }

    pub fn recovers(&mut self, slot: usize) {
        let trouble = &mut self.troubles[slot];
        (trouble.asleep, trouble.cut_off, trouble.silent) = (false, None, false);
        trouble.awake.notify_waiters();
    }

    /// Whether what was recorded a moment ago may be lost again.
    pub fn just_emptied(&self, at: u64) -> bool {
        self.emptied_at.is_some_and(|emptied| emptied + 10_000 > at)
    }

    fn purge(&mut self, at: u64) {
        self.alive.retain(|_, (said, _)| *said + LEASE_MILLIS > at);
        let alive = &self.alive;
        self.owners.retain(|_, owner| alive.contains_key(owner));
    }

    fn tell(&self, to: &ReplicaId, notice: Notice) -> bool {
        self.ears.get(to).is_some_and(|ear| ear.send(notice).is_ok())
    }

    fn tell_others(&self, me: &ReplicaId) {
        for id in self.alive.keys().filter(|id| *id != me) {
            self.tell(id, Notice::Changed);
        }
    }
}

/// Which manager, where there are several.
pub fn named(slot: usize) -> String {
    if slot == 0 { String::new() } else { format!(" {slot}") }
}

impl Site {
    /// A new life of a manager.
    pub fn begin(world: &Arc<World>, slot: usize) -> Self {
        let mut state = world.lock();
        let life = state.lives[slot];
        state.note(format_args!("manager{} starts", named(slot)));
        state.members.recovers(slot);
        if std::mem::take(&mut state.members.empties) {
            state.lose_all();
        }
        let id = ReplicaId::new(format!("host-{slot}-{life}")).unwrap();
        let (tell, notices) = mpsc::unbounded_channel();
        state.members.ears.insert(id.clone(), tell);
        let at = state.elapsed();
        state.leases.begins(id.clone(), life, at);
        let me = Me { slot, id, tokens: Mutex::default(), notices: tokio::sync::Mutex::new(notices) };
        Self { world: world.clone(), life, me: Arc::new(me) }
    }

    /// The store, if it can be reached; otherwise an error, or nothing until it can.
    pub async fn books(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        loop {
            drop(self.enter().await);
            let awake = {
                let state = self.world.lock();
                let trouble = &state.members.troubles[self.me.slot];
                match trouble.cut_off {
                    None => break,
                    Some(true) => trouble.awake.clone(),
                    Some(false) => return Err(unavailable("no route to the store")),
                }
            };
            awake.notified().await;
        }
        Ok(self.world.lock())
    }

    /// Whether a fault of this replica's strikes: it excuses whoever does not take over in time.
    fn suffers(&self, state: &mut State, kind: Kind) -> bool {
        let strikes = state.faults.strikes(kind);
        if strikes {
            state.disturbed(self.life);
        }
        strikes
    }
}

#[async_trait]
impl Replicas for Site {
    fn me(&self) -> &ReplicaId {
        &self.me.id
    }

    async fn beat(&self, report: &Report) -> Result<Roster, StoreError> {
        self.pause(1, 10).await;
        let hangs = {
            let mut state = self.books().await?;
            if state.members.troubles[self.me.slot].silent || self.suffers(&mut state, Kind::BeatFails) {
                return Err(unavailable("no answer"));
            }
            self.suffers(&mut state, Kind::BeatHangs)
        };
        if hangs {
            tokio::time::sleep(NEVER).await;
        }
        let (roster, lost) = {
            let mut state = self.books().await?;
            (state.beat(&self.me.id, self.life, report), self.suffers(&mut state, Kind::BeatLost))
        };
        self.pause(1, 10).await;
        if lost { Err(unavailable("the answer is lost")) } else { Ok(roster) }
    }

    async fn claim(&self, group: &GroupName) -> Result<bool, StoreError> {
        self.pause(1, 10).await;
        let (owns, lost) = {
            let mut state = self.books().await?;
            if self.suffers(&mut state, Kind::ClaimFails) {
                return Err(unavailable("no answer"));
            }
            let at = state.elapsed();
            state.members.purge(at);
            let Some((said, _)) = state.members.alive.get(&self.me.id) else { return Ok(false) };
            let until = said + LEASE_MILLIS;
            let owner = state.members.owners.entry(group.clone()).or_insert_with(|| self.me.id.clone());
            let owns = *owner == self.me.id;
            if owns {
                state.note(format_args!("{group} is claimed by manager{}", named(self.me.slot)));
                state.leases.owned(group, self.life, until);
            }
            (owns, self.suffers(&mut state, Kind::ClaimLost))
        };
        self.pause(1, 10).await;
        if lost { Err(unavailable("the answer is lost")) } else { Ok(owns) }
    }

    async fn release(&self, group: &GroupName) -> Result<(), StoreError> {
        self.pause(1, 10).await;
        let mut state = self.books().await?;
        if self.suffers(&mut state, Kind::ClaimFails) {
            return Err(unavailable("no answer"));
        }
        if state.members.owners.get(group) == Some(&self.me.id) {
            state.members.owners.remove(group);
            state.note(format_args!("{group} is given up by manager{}", named(self.me.slot)));
            state.leases.given_up(group, self.life);
            state.members.tell_others(&self.me.id);
        }
        Ok(())
    }

    async fn leave(&self) -> Result<(), StoreError> {
        self.pause(1, 10).await;
        let mut state = self.books().await?;
        let at = state.elapsed();
        state.members.alive.remove(&self.me.id);
        state.members.ears.remove(&self.me.id);
        state.members.purge(at);
        state.members.tell_others(&self.me.id);
        Ok(())
    }

    async fn send(&self, to: &ReplicaId, message: String) -> Result<bool, StoreError> {
        self.pause(1, 10).await;
        Ok(self.books().await?.members.tell(to, Notice::Message(message)))
    }

    async fn next(&self) -> Notice {
        let notice = self.me.notices.lock().await.recv().await;
        let Some(notice) = notice else { return std::future::pending().await };
        let lost = {
            let mut state = self.enter().await;
            let lost = state.faults.strikes(Kind::NoticeLost);
            lost.then(|| state.faults.between(Kind::NoticeLost, 1_000, 10_000))
        };
        let Some(wait) = lost else { return notice };
        tokio::time::sleep(Duration::from_millis(wait)).await;
        drop(self.enter().await);
        Notice::Missed
    }
}

/// What befalls replicas, and when.
pub fn plan(state: &mut State) {
    if !state.scenario.is_wide() {
        return;
    }
    panics::be_silent();
    let mut chance = Chance::new(state.scenario.seed, 8);
    let (managers, healed_at) = (state.scenario.managers() as u64, state.scenario.healed_at * 60_000);
    for _ in 0..6 {
        for kind in [Kind::ReplicaCrash, Kind::ReplicaStop, Kind::ReplicaSleeps, Kind::CutOff, Kind::Silent] {
            let (at, slot) = (chance.below(healed_at), chance.below(managers) as usize);
            let what = match kind {
                Kind::ReplicaCrash => What::Crash(slot),
                Kind::ReplicaStop => What::Stop(slot),
                Kind::ReplicaSleeps => What::Sleeps(slot),
                Kind::CutOff => What::CutOff(slot),
                _ => What::Silent(slot),
            };
            if state.scenario.is_shared() && state.faults.strikes(kind) {
                state.after(at, what);
            }
        }
        let at = chance.below(healed_at);
        if state.faults.strikes(Kind::Emptied) {
            state.after(at, What::Empty);
        }
    }
    let mut chance = Chance::new(state.scenario.seed, 9);
    for _ in 0..6 {
        let (at, wait) = (chance.below(healed_at), chance.between(20, 1_500));
        if state.faults.strikes(Kind::GoesBack) {
            state.after(at, What::Keep);
            state.after(at + wait, What::GoBack);
        }
    }
    if state.scenario.is_shared() {
        state.after(1_000, What::Watch);
    }
}

impl State {
    /// The live owner of a group; none when the groups are not shared.
    pub fn owner(&mut self, group: &GroupName) -> Option<ReplicaId> {
        let at = self.elapsed();
        self.members.purge(at);
        self.members.owners.get(group).cloned()
    }

    fn beat(&mut self, me: &ReplicaId, life: u64, report: &Report) -> Roster {
        let at = self.elapsed();
        self.members.purge(at);
        if self.members.alive.insert(me.clone(), (at, report.clone())).is_none() {
            self.members.tell_others(me);
        }
        let members = &self.members;
        for (group, _) in members.owners.iter().filter(|(_, owner)| *owner == me) {
            self.leases.owned(group, life, at + LEASE_MILLIS);
        }
        let replicas = members.alive.iter().map(|(id, (_, report))| (id.clone(), report.clone())).collect();
        Roster { replicas, owners: members.owners.clone() }
    }

    /// Tells the owners of groups that have something new.
    pub fn poke(&mut self, recorded: &Recorded, me: &ReplicaId) {
        let Recorded::New(groups) = recorded else { return };
        for group in groups {
            if let Some(owner) = self.owner(group).filter(|owner| owner != me) {
                self.members.tell(&owner, Notice::Poke(group.clone()));
            }
        }
    }

    pub fn stops(&mut self, slot: usize) {
        self.note(format_args!("manager{} is stopped", named(slot)));
        let (life, at) = (self.lives[slot], self.elapsed());
        self.leases.leaves(life, at);
    }

    fn suffers(&mut self, slot: usize, kind: Kind, how: &str) {
        let wait = self.faults.between(kind, 5_000, 60_000);
        self.note(format_args!("manager{} {how}", named(slot)));
        let (life, at) = (self.lives[slot], self.elapsed());
        self.leases.disturbed(life, at, at + wait);
        self.after(wait, What::Recovers(slot));
    }

    pub fn sleeps(&mut self, slot: usize) {
        self.members.troubles[slot].asleep = true;
        self.suffers(slot, Kind::ReplicaSleeps, "sleeps");
    }

    pub fn cut_off(&mut self, slot: usize) {
        let hangs = self.faults.between(Kind::CutOff, 0, 1) == 0;
        self.members.troubles[slot].cut_off = Some(hangs);
        self.suffers(slot, Kind::CutOff, "does not reach the store");
    }

    pub fn silent(&mut self, slot: usize) {
        self.members.troubles[slot].silent = true;
        self.suffers(slot, Kind::Silent, "is not heard of");
    }

    pub fn recovers(&mut self, slot: usize) {
        self.note(format_args!("manager{} goes on", named(slot)));
        self.members.recovers(slot);
        self.disturbed(self.lives[slot]);
    }

    pub fn all_recover(&mut self) {
        for slot in 0..self.scenario.managers() {
            self.members.recovers(slot);
        }
    }

    /// The store is emptied: at once where several can share it, else while nobody has it open.
    pub fn empty(&mut self, lives: bool) {
        if self.scenario.is_shared() {
            self.lose_all();
        } else {
            self.members.empties = lives;
            if !lives {
                self.lose_all();
            }
        }
    }

    fn lose_all(&mut self) {
        let at = self.elapsed();
        self.note("the store loses all that it has");
        self.members.emptied_at = Some(at);
        self.members.alive.clear();
        self.members.owners.clear();
        self.oracle.forget(self.books.runners.len());
        self.books.empty();
        self.leases.emptied(at);
        self.members.kept = None;
    }

    /// What the store has now is what it goes back to later.
    pub fn keep(&mut self) {
        self.members.kept = Some(Kept {
            alive: self.members.alive.clone(),
            owners: self.members.owners.clone(),
            books: self.books.clone(),
            newest: self.leases.newest(),
            known: self.oracle.known(),
        });
    }

    /// The store loses what was written since, as one does whose last second had not reached the disk, or the server that
    /// took its place.
    pub fn go_back(&mut self) {
        let Some(kept) = self.members.kept.take() else { return };
        let at = self.elapsed();
        self.note("the store loses its last writes");
        (self.members.emptied_at, self.members.alive, self.members.owners) = (Some(at), kept.alive, kept.owners);
        let went = self.books.runners.keys().filter(|name| !kept.books.runners.contains_key(*name));
        self.oracle.go_back(kept.known, went.cloned().collect());
        self.books = kept.books.after(&self.books);
        self.leases.go_back(kept.newest, at);
    }

    /// Nobody waits any more for a create that has no effect yet.
    pub fn abandoned(&mut self, name: &str) {
        let Some((due, owner, place)) = self.creating.remove(name) else { return };
        if self.balance.per_mille(500) {
            let wait = due.saturating_sub(self.elapsed()).min(self.balance.below(2000));
            self.creating.insert(name.to_owned(), (self.elapsed() + wait, owner, place));
            self.after(wait, What::Appears(name.to_owned()));
        }
    }
}
