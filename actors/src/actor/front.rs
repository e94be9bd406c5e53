//! The way in: a parsed delivery is matched, made durable, and its groups are told.

use std::sync::Arc;

use crate::actor::directory::Directory;
use crate::machine;
use crate::machine::matching::{Candidate, Match, match_job};
use crate::model::delivery::{Delivery, JobFacts};
use crate::model::job::{Job, JobStatus, Milestone};
use crate::port::store::{Recorded, Route};
use crate::port::{Clock, Observer, Store, StoreError};

/// What the HTTP front needs of the brain. Cheap to clone.
#[derive(Clone)]
pub struct Front {
    /// The groups and their actors.
    pub directory: Directory,
    /// For the read side, and to make deliveries durable.
    pub store: Arc<dyn Store>,
    /// For times.
    pub clock: Arc<dyn Clock>,
    /// For metrics.
    pub observer: Arc<dyn Observer>,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is durable, and a group will act on it.
    Accepted,
    /// Its id was seen before: no second effect.
    Duplicate,
    /// It is durable, but no group serves its job.
    Unmatched,
}

impl Front {
    /// The group that would serve a job not seen before.
    #[must_use]
    pub fn match_job(&self, job: &JobFacts) -> Match {
        let entries = self.directory.entries();
        let candidates = entries.iter().map(|entry| Candidate {
            settings: &entry.settings,
            has_capacity: entry.has_capacity,
            reach: &entry.reach,
        });
        match_job(job, candidates)
    }

    /// Matches a delivery and records it. When this returns `Ok`, the delivery is durable.
    ///
    /// # Errors
    /// Those of [`Store::record`]; the delivery was not accepted.
    pub async fn accept(&self, mut delivery: Delivery) -> Result<Accepted, StoreError> {
        let mut route = Route::default();
        match self.match_job(&delivery.event.job) {
            Match::Group { name, reason } => {
                route.group = Some(name);
                delivery.matched = reason;
            }
            Match::None { reason } => route.unmatched = Some(Box::new(unmatched(&delivery, reason))),
        }
        route.runner_group = delivery.event.runner.as_ref().and_then(|runner| self.directory.owner_of(&runner.name));
        let named = [route.group.clone(), route.runner_group.clone()];
        match self.store.record(Arc::new(delivery), route).await? {
            Recorded::Duplicate => {
                // It may have been recorded late, after its sender was refused, and nobody was told then.
                named.iter().flatten().for_each(|group| self.directory.poke(group));
                Ok(Accepted::Duplicate)
            }
            Recorded::New(groups) => {
                groups.iter().for_each(|group| self.directory.poke(group));
                Ok(if groups.is_empty() { Accepted::Unmatched } else { Accepted::Accepted })
            }
        }
    }
}

fn unmatched(delivery: &Delivery, reason: String) -> Job {
    let mut job = machine::job::new(delivery.event.job.clone(), None, delivery.received_at);
    machine::job::apply(&mut job, delivery);
    job.status = JobStatus::Unmatched;
    job.note(delivery.received_at, Milestone::Unmatched { reason });
    job
}
