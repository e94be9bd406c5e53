//! A group's runners as the group sees them, with the numbers a plan needs kept at hand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;

use crate::id::{JobId, RunnerId, RunnerName};
use crate::model::runner::{Runner, RunnerState};

/// Runners that ended, remembered so that a listing that began before their end is not mistaken for a leak.
const ENDED_MAX: usize = 4096;

/// The runners of one group that are not proven gone.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    runners: BTreeMap<RunnerName, Arc<Runner>>,
    counts: [u32; RunnerState::ALL.len()],
    idle: BTreeSet<(Timestamp, RunnerName)>,
    starting: BTreeSet<(Timestamp, RunnerName)>,
    by_id: BTreeMap<RunnerId, RunnerName>,
    by_job: BTreeMap<JobId, RunnerName>,
    ended: VecDeque<(RunnerName, Timestamp)>,
}

impl Fleet {
    /// Takes in a runner's new state; a final one leaves the fleet. Returns what was known before.
    pub fn put(&mut self, runner: Arc<Runner>) -> Option<Arc<Runner>> {
        let before = self.runners.remove(&runner.name);
        if let Some(before) = &before {
            self.count(before.state, -1);
            let place = (before.since, before.name.clone());
            self.idle.remove(&place);
            self.starting.remove(&place);
        }
        if runner.state.is_final() {
            if let Some(id) = runner.github_id {
                self.by_id.remove(&id);
            }
            if let Some(job) = runner.for_job.filter(|job| self.by_job.get(job) == Some(&runner.name)) {
                self.by_job.remove(&job);
            }
            if self.ended.len() >= ENDED_MAX {
                self.ended.pop_front();
            }
            self.ended.push_back((runner.name.clone(), runner.since));
            return before;
        }
        self.count(runner.state, 1);
        match runner.state {
            RunnerState::Idle => self.idle.insert((runner.since, runner.name.clone())),
            RunnerState::Starting => self.starting.insert((runner.since, runner.name.clone())),
            _ => false,
        };
        if let Some(id) = runner.github_id {
            self.by_id.insert(id, runner.name.clone());
        }
        if let Some(job) = runner.for_job {
            if runner.state.is_available() {
                self.by_job.insert(job, runner.name.clone());
            } else if self.by_job.get(&job) == Some(&runner.name) {
                self.by_job.remove(&job);
            }
        }
        self.runners.insert(runner.name.clone(), runner);
        before
    }

    fn count(&mut self, state: RunnerState, change: i32) {
        if let Some(count) = self.counts.get_mut(state as usize) {
            *count = count.saturating_add_signed(change);
        }
    }

    /// One runner.
    #[must_use]
    pub fn get(&self, name: &RunnerName) -> Option<&Arc<Runner>> {
        self.runners.get(name)
    }

    /// The runner with this id at GitHub.
    #[must_use]
    pub fn by_id(&self, id: RunnerId) -> Option<&Arc<Runner>> {
        self.by_id.get(&id).and_then(|name| self.runners.get(name))
    }

    /// The available runner that was requested for this job.
    #[must_use]
    pub fn requested_for(&self, job: JobId) -> Option<&RunnerName> {
        self.by_job.get(&job)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Runner>> {
        self.runners.values()
    }

    /// How many are in each state, in the order of [`RunnerState::ALL`].
    #[must_use]
    pub fn counts(&self) -> [u32; RunnerState::ALL.len()] {
        self.counts
    }

    /// How many there are.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.counts.iter().sum()
    }

    /// How many serve, or will serve, a job.
    #[must_use]
    pub fn available(&self) -> u32 {
        RunnerState::ALL.iter().zip(self.counts).filter(|(state, _)| state.is_available()).map(|(_, n)| n).sum()
    }

    /// Idle runners, the one that is idle for longest first.
    pub fn idle(&self) -> impl Iterator<Item = (Timestamp, &RunnerName)> {
        self.idle.iter().map(|(since, name)| (*since, name))
    }

    /// Since when the runner that is starting for longest is starting.
    #[must_use]
    pub fn starting_since(&self) -> Option<Timestamp> {
        self.starting.first().map(|(since, _)| *since)
    }

    /// Whether a runner of this name ended at or after `time`.
    #[must_use]
    pub fn ended_since(&self, name: &str, time: Timestamp) -> bool {
        self.ended.iter().rev().any(|(ended, at)| ended.as_str() == name && *at >= time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::runner::tests::requested;

    #[test]
    fn a_runner_that_ended_is_known_to_listings_that_began_before() {
        let t = |s| Timestamp::from_second(s).unwrap();
        let mut fleet = Fleet::default();
        let mut runner = requested();
        fleet.put(Arc::new(runner.clone()));
        (runner.state, runner.since) = (RunnerState::Gone, t(10));
        fleet.put(Arc::new(runner.clone()));
        assert_eq!(fleet.total(), 0);
        assert!(fleet.ended_since(runner.name.as_str(), t(9)));
        assert!(!fleet.ended_since(runner.name.as_str(), t(11)));
    }
}
