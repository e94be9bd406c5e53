//! Which processes belong to a runner. Pure: a scan and a record in, the answer out.

use std::collections::{BTreeSet, HashMap, HashSet};

use actors::id::{InstanceId, RunnerName};
use actors::port::backend::{Instance, InstanceStatus, Owner};

use super::procfs::{Identity, Seen};

/// A scan, with what is asked of it often.
#[derive(Debug)]
pub(super) struct Processes {
    seen: Vec<Seen>,
    by_pid: HashMap<i32, usize>,
}

impl Processes {
    pub(super) fn new(seen: Vec<Seen>) -> Self {
        let by_pid = seen.iter().enumerate().map(|(place, seen)| (seen.stat.identity.pid, place)).collect();
        Self { seen, by_pid }
    }

    /// The runners that processes carry the marks of `owner` for.
    pub(super) fn runners(&self, owner: &Owner) -> BTreeSet<RunnerName> {
        let marks = self.seen.iter().filter_map(|seen| seen.marks.as_ref());
        marks
            .filter(|marks| marks.manager == owner.manager.as_str() && marks.group == owner.group.as_str())
            .filter_map(|marks| RunnerName::new(&marks.runner).ok())
            .collect()
    }

    /// Every process of `runner` that has not ended: its leader as recorded, whoever carries its marks, the groups
    /// they lead, and the children of all of these.
    ///
    /// A group number stays taken while the group has members. So a group is the recorded leader's own if that leader
    /// is still there, or if a member carries the marks; otherwise the number may have gone to somebody else.
    pub(super) fn family(&self, owner: &Owner, runner: &RunnerName, leader: Option<Identity>) -> Vec<Identity> {
        let marked = |seen: &Seen| is_marked(seen, owner, runner);
        let leader_present = leader.filter(|leader| self.find(leader.pid).is_some_and(|s| s.stat.identity == *leader));
        let mut groups: HashSet<i32> = leader_present.iter().map(|leader| leader.pid).collect();
        for seen in self.seen.iter().filter(|seen| marked(seen)) {
            let led_by_itself = seen.stat.group == seen.stat.identity.pid;
            let recorded = leader.is_some_and(|leader| leader.pid == seen.stat.group);
            if led_by_itself || recorded {
                groups.insert(seen.stat.group);
            }
        }
        let mut members: HashSet<i32> = leader_present.iter().map(|leader| leader.pid).collect();
        loop {
            let before = members.len();
            for seen in &self.seen {
                let stat = &seen.stat;
                if marked(seen) || groups.contains(&stat.group) || members.contains(&stat.parent) {
                    members.insert(stat.identity.pid);
                }
            }
            if members.len() == before {
                break;
            }
        }
        let alive = self.seen.iter().filter(|seen| !seen.stat.ended && members.contains(&seen.stat.identity.pid));
        alive.map(|seen| seen.stat.identity).collect()
    }

    /// What is to be said of `runner`, whose recorded leader is `leader`; none when there is no trace of it.
    ///
    /// When the leader has ended and other processes of the runner go on, nobody can tell whether it still works.
    pub(super) fn instance(&self, owner: &Owner, runner: &RunnerName, leader: Option<Identity>) -> Option<Instance> {
        let runs =
            |leader: &Identity| self.find(leader.pid).is_some_and(|s| s.stat.identity == *leader && !s.stat.ended);
        let (pid, status) = match leader {
            Some(leader) if runs(&leader) => (leader.pid, InstanceStatus::Running),
            Some(leader) if self.family(owner, runner, Some(leader)).is_empty() => {
                (leader.pid, InstanceStatus::Stopped)
            }
            Some(leader) => (leader.pid, InstanceStatus::Unknown),
            None => {
                let mut marked: Vec<_> = self.seen.iter().filter(|seen| is_marked(seen, owner, runner)).collect();
                marked.sort_by_key(|seen| seen.stat.identity.start);
                match marked.iter().find(|seen| seen.stat.group == seen.stat.identity.pid) {
                    Some(led) => (led.stat.identity.pid, InstanceStatus::Running),
                    None => (marked.first()?.stat.identity.pid, InstanceStatus::Unknown),
                }
            }
        };
        let id = InstanceId::new(pid.to_string()).ok()?;
        Some(Instance { id, runner: runner.clone(), status })
    }

    fn find(&self, pid: i32) -> Option<&Seen> {
        self.by_pid.get(&pid).map(|&place| &self.seen[place])
    }
}

fn is_marked(seen: &Seen, owner: &Owner, runner: &RunnerName) -> bool {
    seen.marks.as_ref().is_some_and(|marks| {
        marks.runner == runner.as_str()
            && marks.manager == owner.manager.as_str()
            && marks.group == owner.group.as_str()
    })
}

#[cfg(test)]
mod tests {
    use actors::id::{GroupName, ManagerName};

    use super::super::procfs::{Marks, Stat};
    use super::*;

    fn owner() -> Owner {
        Owner { manager: ManagerName::new("m").unwrap(), group: GroupName::new("g").unwrap() }
    }

    fn runner() -> RunnerName {
        RunnerName::new("g-1").unwrap()
    }

    fn seen(pid: i32, parent: i32, group: i32, marked: bool) -> Seen {
        let stat = Stat {
            identity: Identity { pid, start: 1000 + u64::from(pid.unsigned_abs()) },
            parent,
            group,
            ended: false,
        };
        let marks = marked.then(|| Marks { manager: "m".into(), group: "g".into(), runner: "g-1".into() });
        Seen { stat, marks }
    }

    fn leader(pid: i32) -> Option<Identity> {
        Some(Identity { pid, start: 1000 + u64::from(pid.unsigned_abs()) })
    }

    fn family(seen: Vec<Seen>, leader: Option<Identity>) -> Vec<i32> {
        let mut pids: Vec<_> =
            Processes::new(seen).family(&owner(), &runner(), leader).iter().map(|identity| identity.pid).collect();
        pids.sort_unstable();
        pids
    }

    fn ended(mut seen: Seen) -> Seen {
        seen.stat.ended = true;
        seen.marks = None;
        seen
    }

    #[test]
    fn the_group_of_a_living_leader_belongs_to_the_runner_without_any_mark() {
        assert_eq!(
            family(vec![seen(10, 1, 10, false), seen(11, 10, 10, false), seen(12, 1, 12, false)], leader(10)),
            [10, 11]
        );
    }

    #[test]
    fn the_group_of_an_ended_leader_belongs_to_it_until_the_leader_is_reaped() {
        assert_eq!(family(vec![ended(seen(10, 1, 10, false)), seen(11, 1, 10, false)], leader(10)), [11]);
        assert_eq!(family(vec![seen(11, 1, 10, false)], leader(10)), Vec::<i32>::new());
        assert_eq!(family(vec![seen(11, 1, 10, false), seen(12, 1, 10, true)], leader(10)), [11, 12]);
    }

    #[test]
    fn a_reused_pid_and_its_group_are_left_alone() {
        let former = Some(Identity { pid: 10, start: 5 });
        assert_eq!(family(vec![seen(10, 1, 10, false), seen(11, 10, 10, false)], former), Vec::<i32>::new());
    }

    #[test]
    fn marked_processes_that_left_the_group_are_found_with_their_groups_and_children() {
        let processes = vec![
            seen(20, 1, 20, true),
            seen(21, 20, 20, false),
            seen(22, 21, 22, false),
            seen(30, 1, 5, true),
            seen(31, 1, 5, false),
        ];
        assert_eq!(family(processes, None), [20, 21, 22, 30]);
    }

    #[test]
    fn children_that_left_the_group_are_found_through_their_parents_in_any_order() {
        let processes = vec![seen(9, 8, 9, false), seen(8, 10, 8, false), seen(10, 1, 10, false)];
        assert_eq!(family(processes, leader(10)), [8, 9, 10]);
    }

    #[test]
    fn marks_of_another_owner_or_runner_are_not_ours() {
        for change in [
            (|marks: &mut Marks| marks.manager = "other".into()) as fn(&mut Marks),
            |marks| marks.group = "other".into(),
            |marks| marks.runner = "g-2".into(),
        ] {
            let mut foreign = seen(10, 1, 10, true);
            change(foreign.marks.as_mut().unwrap());
            assert_eq!(family(vec![foreign], None), Vec::<i32>::new());
        }
    }

    #[test]
    fn the_status_tells_running_from_ended_from_unknown() {
        let status = |seen: Vec<Seen>, leader| {
            Processes::new(seen).instance(&owner(), &runner(), leader).map(|instance| instance.status)
        };
        assert_eq!(status(vec![seen(10, 1, 10, true)], leader(10)), Some(InstanceStatus::Running));
        assert_eq!(status(vec![ended(seen(10, 1, 10, true))], leader(10)), Some(InstanceStatus::Stopped));
        assert_eq!(status(vec![], leader(10)), Some(InstanceStatus::Stopped));
        assert_eq!(status(vec![seen(11, 1, 10, true)], leader(10)), Some(InstanceStatus::Unknown));
        assert_eq!(status(vec![seen(10, 1, 10, true)], None), Some(InstanceStatus::Running));
        assert_eq!(status(vec![seen(11, 1, 10, true)], None), Some(InstanceStatus::Unknown));
        assert_eq!(status(vec![], None), None);
    }
}
