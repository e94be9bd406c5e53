//! What the oracle knows of leases: who may act for a group, and how long a group may be without an owner.

use std::collections::BTreeMap;

use actors::id::*;

use super::world::{State, What};

/// How long a group may be without an owner that runs it, while a replica lives that nothing disturbs.
const TAKEN_OVER_WITHIN: u64 = 15_000;

/// The newest token of each group, and the life that got it.
pub type Newest = BTreeMap<GroupName, (u64, u64)>;

/// Who owned what until when, by the store's word, whatever became of the store.
#[derive(Default)]
pub struct Leases {
    held: BTreeMap<(GroupName, u64), u64>,
    newest: Newest,
    lives: BTreeMap<ReplicaId, u64>,
    /// Since when nothing disturbs a life: later than now while something does.
    undisturbed: BTreeMap<u64, u64>,
    /// When something befell a replica last, or was over.
    last: u64,
    /// Since when a group has no owner that runs it.
    unowned: BTreeMap<GroupName, u64>,
    panics: u64,
    restarts: u64,
}

impl Leases {
    pub fn begins(&mut self, id: ReplicaId, life: u64, at: u64) {
        self.lives.insert(id, life);
        self.undisturbed.insert(life, at);
        self.last = at;
    }

    pub fn owned(&mut self, group: &GroupName, life: u64, until: u64) {
        self.held.insert((group.clone(), life), until);
    }

    pub fn given_up(&mut self, group: &GroupName, life: u64) {
        self.held.remove(&(group.clone(), life));
    }

    /// Something befalls a life now, and until `until` it may be late.
    pub fn disturbed(&mut self, life: u64, at: u64, until: u64) {
        if let Some(since) = self.undisturbed.get_mut(&life) {
            *since = until.max(*since);
        }
        self.last = at;
    }

    /// It takes nothing over any more.
    pub fn leaves(&mut self, life: u64, at: u64) {
        self.disturbed(life, at, u64::MAX);
    }

    /// Everybody has to begin anew.
    pub fn emptied(&mut self, at: u64) {
        self.last = at;
        self.undisturbed.values_mut().for_each(|since| *since = at.max(*since));
        self.newest.clear();
    }

    pub fn newest(&self) -> Newest {
        self.newest.clone()
    }

    /// The store knows no more than it did then.
    pub fn go_back(&mut self, newest: Newest, at: u64) {
        self.emptied(at);
        self.newest = newest;
    }
}

impl State {
    /// Something went wrong for this life a moment ago.
    pub fn disturbed(&mut self, life: u64) {
        let at = self.elapsed();
        self.leases.disturbed(life, at, at);
    }

    pub fn panicked(&mut self, life: u64) {
        self.leases.panics += 1;
        self.disturbed(life);
    }

    pub fn acquired(&mut self, group: &GroupName, life: u64, token: u64) {
        self.leases.newest.insert(group.clone(), (token, life));
    }

    /// Promise 10: only the newest owner saves.
    pub fn check_save(&mut self, group: &GroupName, token: FencingToken, life: u64) {
        if let Some((newest, by)) = self.leases.newest.get(group)
            && (*newest, *by) != (token.0, life)
        {
            let text = format!("promise 10: a save for {group} with token {token} after {newest} got through");
            self.violated(text);
        }
    }

    /// Promise 10: nothing outside is changed for a group by who does not hold its lease at that moment. There is no
    /// grace: an owner counts its lease from before the store does and ends it a second early. After the store has lost
    /// all, the old lease counts to its end, as its owner cannot know.
    pub fn check_owner(&mut self, runner: &str, life: u64, what: &str) {
        if !self.scenario.is_shared() {
            return;
        }
        let Some(group) = self.group_of(runner).map(|group| group.name.clone()) else { return };
        let (at, until) = (self.elapsed(), self.leases.held.get(&(group, life)).copied());
        if until.is_none_or(|until| until <= at) {
            let text = format!(
                "promise 10: {what} ({runner}) by life {life}, whose lease {}",
                until.map_or("it gave up, or never had".to_owned(), |until| format!("was over {} ms ago", at - until))
            );
            self.violated(text);
        }
    }

    /// Every second: groups without an owner that runs them, for too long. Time does not count in which no replica lives
    /// that could take over in peace: one that has just begun, or that a fault strikes, has its own fifteen seconds. It
    /// begins anew when something befalls another one: the group may have been about to be that one's.
    pub fn watch(&mut self) {
        let at = self.elapsed();
        let groups: Vec<GroupName> = self.scenario.groups.iter().map(|group| group.name.clone()).collect();
        for group in groups {
            let owner = self.owner(&group).and_then(|owner| self.leases.lives.get(&owner).copied());
            let runs = owner.is_some_and(|life| {
                self.lives.contains(&life) && self.leases.newest.get(&group).is_some_and(|(_, by)| *by == life)
            });
            if runs {
                self.leases.unowned.remove(&group);
                continue;
            }
            let since = *self.leases.unowned.entry(group.clone()).or_insert(at);
            // An owner that waits for a slow save or load of it is waited for; without one, any may come.
            let living = owner.filter(|owner| self.lives.contains(owner));
            let could = self.lives.iter().filter(|life| living.is_none_or(|owner| owner == **life));
            let undisturbed = could.filter_map(|life| self.leases.undisturbed.get(life)).min();
            let counts_from = undisturbed.map_or(u64::MAX, |undisturbed| since.max(*undisturbed).max(self.leases.last));
            if counts_from.saturating_add(TAKEN_OVER_WITHIN) < at {
                self.leases.unowned.insert(group.clone(), at);
                let text = format!("promise 10: {group} is run by nobody for {} s", (at - since) / 1000);
                self.violated(text);
            }
        }
        self.after(1_000, What::Watch);
    }

    /// Promise 13: an actor fails only when a call of its own panicked, once for each.
    pub fn restarted(&mut self, actor: &str) {
        self.leases.restarts += 1;
        if self.leases.restarts > self.leases.panics {
            return self.violated(format!("an actor failed and was started again: {actor}"));
        }
        self.note(format_args!("an actor is started again: {actor}"));
    }
}
