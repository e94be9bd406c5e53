//! The jobs a group still owes a runner: a set of job ids, served oldest first. Never a counter.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::id::JobId;

/// A set of job ids, ordered by the time since when each is in demand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    order: BTreeSet<(Timestamp, JobId)>,
    since: BTreeMap<JobId, Timestamp>,
}

impl Demand {
    /// Adds a job. One that is in demand already keeps its earlier place.
    pub fn insert(&mut self, job: JobId, since: Timestamp) {
        let since = *self.since.entry(job).or_insert(since);
        self.order.insert((since, job));
    }

    /// Takes a job out; says whether it was in.
    pub fn remove(&mut self, job: JobId) -> bool {
        match self.since.remove(&job) {
            Some(since) => self.order.remove(&(since, job)),
            None => false,
        }
    }

    /// Whether the job is in demand.
    #[must_use]
    pub fn contains(&self, job: JobId) -> bool {
        self.since.contains_key(&job)
    }

    /// Jobs in demand.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether no job is in demand.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Since when the oldest job is in demand.
    #[must_use]
    pub fn oldest_since(&self) -> Option<Timestamp> {
        self.order.first().map(|(since, _)| *since)
    }

    /// The jobs, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = JobId> + '_ {
        self.order.iter().map(|(_, job)| *job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_counts_once_and_keeps_its_place() {
        let t = |s| Timestamp::from_second(s).unwrap();
        let mut demand = Demand::default();
        demand.insert(JobId(2), t(10));
        demand.insert(JobId(1), t(11));
        demand.insert(JobId(2), t(12));
        assert_eq!(demand.iter().collect::<Vec<_>>(), [JobId(2), JobId(1)]);
        assert_eq!(demand.oldest_since(), Some(t(10)));
        assert!(demand.remove(JobId(2)));
        assert!(!demand.remove(JobId(2)));
        assert_eq!(demand.len(), 1);
    }
}
