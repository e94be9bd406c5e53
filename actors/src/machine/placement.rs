//! Which replica should own which group: every replica computes the same answer from the same roster.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{GroupName, ReplicaId};
use crate::machine::backoff::mix;
use crate::model::roster::Roster;

/// What one replica should do about the groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Nobody owns these, and they should be this replica's.
    pub claim: Vec<GroupName>,
    /// These are this replica's, and should be another's.
    pub hand_over: Vec<GroupName>,
}

/// What `me` should do so that every group has an owner and all own about as many.
#[must_use]
pub fn plan(me: &ReplicaId, roster: &Roster) -> Plan {
    let targets = targets(roster);
    let claim = targets
        .iter()
        .filter(|(group, target)| *target == me && !roster.owners.contains_key(*group))
        .map(|(group, _)| group.clone());
    let hand_over = roster
        .owners
        .iter()
        .filter(|(group, owner)| *owner == me && targets.get(*group) != Some(me))
        .map(|(group, _)| group.clone());
    Plan { claim: claim.collect(), hand_over: hand_over.collect() }
}

/// The owner that each group should have, among the replicas whose report lists it.
///
/// Groups stay where they are. One without an owner goes to the replica that has the fewest. Then, as long as one
/// replica has at least two more than another one that could take one of them, one moves. So a replica that comes gets
/// its share and nothing else moves, and when one leaves only its groups move. Ties are broken by a hash that is the
/// same everywhere.
#[must_use]
pub fn targets(roster: &Roster) -> BTreeMap<GroupName, ReplicaId> {
    let eligible: BTreeMap<&ReplicaId, BTreeSet<&GroupName>> =
        roster.replicas.iter().map(|(id, report)| (id, report.groups.iter().collect())).collect();
    let may = |replica: &ReplicaId, group: &GroupName| eligible.get(replica).is_some_and(|own| own.contains(group));
    let mut has: BTreeMap<&ReplicaId, BTreeSet<&GroupName>> =
        roster.replicas.keys().map(|id| (id, BTreeSet::new())).collect();
    let all: BTreeSet<&GroupName> = eligible.values().flatten().copied().collect();
    let mut free: Vec<&GroupName> = Vec::new();
    for group in all {
        let owner = roster.owners.get(group).filter(|owner| may(owner, group));
        match owner.and_then(|owner| has.get_mut(owner)) {
            Some(groups) => {
                groups.insert(group);
            }
            None => free.push(group),
        }
    }
    for group in free {
        let takers = has.iter_mut().filter(|(replica, _)| may(replica, group));
        if let Some((_, groups)) = takers.min_by_key(|(replica, groups)| (groups.len(), score(group, replica))) {
            groups.insert(group);
        }
    }
    // Each move makes the sum of the squares smaller, so it ends.
    while let Some((from, to, group)) = next_move(&has, may) {
        if let Some(groups) = has.get_mut(from) {
            groups.remove(group);
        }
        if let Some(groups) = has.get_mut(to) {
            groups.insert(group);
        }
    }
    has.into_iter()
        .flat_map(|(replica, groups)| groups.into_iter().map(|group| (group.clone(), replica.clone())))
        .collect()
}

/// From one that has the most to one that has the fewest, of those where a move makes it more even.
fn next_move<'a>(
    has: &BTreeMap<&'a ReplicaId, BTreeSet<&'a GroupName>>,
    may: impl Fn(&ReplicaId, &GroupName) -> bool,
) -> Option<(&'a ReplicaId, &'a ReplicaId, &'a GroupName)> {
    let mut by_load: Vec<(usize, &'a ReplicaId)> =
        has.iter().map(|(replica, groups)| (groups.len(), *replica)).collect();
    by_load.sort_unstable();
    for (most, from) in by_load.iter().rev() {
        for (_, to) in by_load.iter().take_while(|(fewest, _)| fewest + 2 <= *most) {
            let groups = has.get(from)?.iter().copied().filter(|group| may(to, group));
            if let Some(group) = groups.min_by_key(|group| score(group, to)) {
                return Some((from, to, group));
            }
        }
    }
    None
}

/// How much a group belongs to a replica, the lowest most; the same in every process and every release.
fn score(group: &GroupName, replica: &ReplicaId) -> u64 {
    const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const FNV_PRIME: u64 = 0x0100_0000_01b3;
    let bytes = group.as_str().bytes().chain([0]).chain(replica.as_str().bytes());
    mix(bytes.fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME)))
}

#[cfg(test)]
mod tests;
