//! Placement under any configurations, any arrivals and departures.

use proptest::prelude::*;

use super::*;
use crate::model::roster::Report;

fn group(n: usize) -> GroupName {
    GroupName::new(format!("group-{n}")).unwrap()
}

fn replica(n: usize) -> ReplicaId {
    ReplicaId::new(format!("replica-{n}")).unwrap()
}

/// Replicas by number, each with the groups of its configuration; nothing is owned.
fn roster(replicas: impl IntoIterator<Item = (usize, Vec<usize>)>) -> Roster {
    let report = |groups: Vec<usize>| Report { groups: groups.into_iter().map(group).collect(), ..Report::default() };
    let replicas = replicas.into_iter().map(|(n, groups)| (replica(n), report(groups))).collect();
    Roster { replicas, owners: BTreeMap::new() }
}

fn alike(replicas: usize, groups: usize) -> Roster {
    roster((0..replicas).map(|n| (n, (0..groups).collect())))
}

/// Everybody does what its plan says, until nobody has anything to do; returns how often a group changed hands.
fn settle(roster: &mut Roster) -> usize {
    let mut moves = 0;
    loop {
        let plans: Vec<(ReplicaId, Plan)> = roster.replicas.keys().map(|me| (me.clone(), plan(me, roster))).collect();
        if plans.iter().all(|(_, plan)| *plan == Plan::default()) {
            return moves;
        }
        for (me, plan) in plans {
            for group in plan.claim {
                assert_eq!(roster.owners.insert(group, me.clone()), None, "two claim one group");
                moves += 1;
            }
            for group in plan.hand_over {
                assert_eq!(roster.owners.remove(&group), Some(me.clone()));
            }
        }
        assert!(moves <= 10_000, "it flaps");
    }
}

/// As [`settle`], but one action of one replica at a time, in an order that `chance` decides.
fn settle_slowly(roster: &mut Roster, mut chance: u64) -> usize {
    let mut moves = 0;
    loop {
        let mut actions: Vec<(ReplicaId, GroupName, bool)> = Vec::new();
        for me in roster.replicas.keys() {
            let plan = plan(me, roster);
            actions.extend(plan.claim.into_iter().map(|group| (me.clone(), group, true)));
            actions.extend(plan.hand_over.into_iter().map(|group| (me.clone(), group, false)));
        }
        if actions.is_empty() {
            return moves;
        }
        chance = mix(chance);
        let chosen = usize::try_from(chance % actions.len() as u64).unwrap();
        let (me, group, claims) = actions.swap_remove(chosen);
        if claims {
            roster.owners.insert(group, me);
            moves += 1;
        } else {
            roster.owners.remove(&group);
        }
        assert!(moves <= 10_000, "it flaps");
    }
}

fn loads(roster: &Roster) -> Vec<usize> {
    let count = |id: &ReplicaId| roster.owners.values().filter(|owner| *owner == id).count();
    roster.replicas.keys().map(count).collect()
}

fn is_even(roster: &Roster) -> bool {
    let loads = loads(roster);
    loads.iter().max().unwrap_or(&0) - loads.iter().min().unwrap_or(&0) <= 1
}

fn moved(before: &Roster, after: &Roster) -> Vec<GroupName> {
    before
        .owners
        .iter()
        .filter(|(group, owner)| after.owners.get(*group) != Some(*owner))
        .map(|(g, _)| g.clone())
        .collect()
}

#[test]
fn two_replicas_share_twenty_groups_ten_and_ten() {
    let mut roster = alike(2, 20);
    assert_eq!(settle(&mut roster), 20);
    assert_eq!(loads(&roster), [10, 10]);
}

#[test]
fn the_hash_stays_the_same_over_releases() {
    assert_eq!(score(&group(1), &replica(1)), 13_988_297_802_560_522_695);
}

#[test]
fn a_group_that_only_one_lists_goes_there_and_the_others_even_it_out() {
    let mut roster = roster([(0, vec![0, 1, 2, 3]), (1, vec![4, 5]), (2, (0..=5).collect())]);
    settle(&mut roster);
    assert_eq!(loads(&roster), [2, 2, 2]);
    for (group, owner) in &roster.owners {
        assert!(roster.replicas[owner].groups.contains(group));
    }
}

#[test]
fn what_no_report_lists_any_more_is_given_up_and_claimed_by_nobody() {
    let mut roster = alike(2, 2);
    roster.owners.insert(group(9), replica(0));
    settle(&mut roster);
    assert!(!roster.owners.contains_key(&group(9)));
}

#[test]
fn one_that_leaves_and_reports_no_groups_any_more_gets_none_back() {
    let mut roster = alike(2, 20);
    settle(&mut roster);
    roster.replicas.get_mut(&replica(0)).unwrap().groups.clear();
    let plan = plan(&replica(1), &roster);
    assert_eq!(plan, Plan::default(), "it has to wait until they are given up");
    roster.owners.retain(|_, owner| *owner == replica(1));
    assert_eq!(super::plan(&replica(1), &roster).claim.len(), 10);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_is_even_and_every_group_has_one_owner(replicas in 1_usize..8, groups in 0_usize..40, chance: u64) {
        let mut roster = alike(replicas, groups);
        prop_assert_eq!(settle_slowly(&mut roster, chance), groups, "nothing moves twice");
        prop_assert_eq!(roster.owners.len(), groups);
        prop_assert!(is_even(&roster), "{:?}", loads(&roster));
    }

    #[test]
    fn one_that_comes_gets_its_share_and_nothing_else_moves(replicas in 1_usize..8, groups in 0_usize..40, chance: u64) {
        let mut roster = alike(replicas, groups);
        settle(&mut roster);
        let before = roster.clone();
        let all = Report { groups: (0..groups).map(group).collect(), ..Report::default() };
        roster.replicas.insert(replica(99), all);
        let moves = settle_slowly(&mut roster, chance);
        let moved = moved(&before, &roster);
        prop_assert!(moves <= groups.div_ceil(replicas + 1));
        prop_assert!(is_even(&roster), "{:?}", loads(&roster));
        for group in moved {
            prop_assert_eq!(&roster.owners[&group], &replica(99));
        }
    }

    #[test]
    fn when_one_leaves_only_its_groups_move(
        replicas in 2_usize..8, groups in 0_usize..40, gone in 0_usize..8, chance: u64,
    ) {
        let mut roster = alike(replicas, groups);
        settle(&mut roster);
        let gone = replica(gone % replicas);
        let before = roster.clone();
        roster.replicas.remove(&gone);
        roster.owners.retain(|_, owner| *owner != gone);
        settle_slowly(&mut roster, chance);
        for group in moved(&before, &roster) {
            prop_assert_eq!(&before.owners[&group], &gone);
        }
        prop_assert_eq!(roster.owners.len(), groups);
        prop_assert!(is_even(&roster), "{:?}", loads(&roster));
    }

    /// Any configurations, any owners to begin with, alive or not, entitled or not.
    #[test]
    fn it_always_comes_to_rest_with_every_group_at_one_that_lists_it(
        configured in prop::collection::vec(prop::collection::vec(0_usize..12, 0..12), 1..6),
        owned in prop::collection::vec((0_usize..14, 0_usize..5), 0..12),
        chance: u64,
    ) {
        let mut roster = roster(configured.into_iter().enumerate());
        for (n, owner) in owned {
            let owner = replica(owner);
            if roster.replicas.contains_key(&owner) {
                roster.owners.insert(group(n), owner);
            }
        }
        let targets = targets(&roster);
        settle_slowly(&mut roster, chance);
        let listed: BTreeSet<&GroupName> = roster.replicas.values().flat_map(|report| &report.groups).collect();
        prop_assert_eq!(roster.owners.keys().collect::<BTreeSet<_>>(), listed.clone());
        prop_assert_eq!(targets.keys().collect::<BTreeSet<_>>(), listed);
        for (group, owner) in &roster.owners {
            prop_assert!(roster.replicas[owner].groups.contains(group));
        }
        prop_assert_eq!(super::targets(&roster), roster.owners, "at rest, the target is what is");
    }
}
