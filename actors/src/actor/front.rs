//! The way in: a parsed delivery is matched, made durable, and its groups are told.

use std::sync::Arc;

use crate::actor::directory::Directory;
use crate::model::delivery::Delivery;
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
    /// Matches a delivery and records it. When this returns `Ok`, the delivery is durable.
    ///
    /// # Errors
    /// Those of [`Store::record`]; the delivery was not accepted.
    pub async fn accept(&self, delivery: Delivery) -> Result<Accepted, StoreError> {
        let _ = delivery;
        Ok(Accepted::Unmatched)
    }
}
