//! Who shares the work: the replicas that live, which of them owns which group, and messages between them.

use std::time::Duration;

use async_trait::async_trait;

use crate::id::{GroupName, ReplicaId};
pub use crate::model::roster::{Report, Roster};
use crate::port::StoreError;

/// How often a replica says that it lives.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How long a replica counts as alive after it said so, by the store's clock; it owns its groups for as long.
pub const LEASE: Duration = Duration::from_secs(10);

/// Membership, leases and messages of the replicas that share a store. All times are the store's own.
///
/// A group has at most one owner. Its lease is the owner's word that it lives: when that is older than [`LEASE`], the
/// replica and all its leases are gone. What a stale owner may still try is refused by
/// [`Store::save`](crate::port::Store::save), because a new owner acquires a newer token.
#[async_trait]
pub trait Replicas: Send + Sync + 'static {
    /// This process.
    fn me(&self) -> &ReplicaId;

    /// Says, in one atomic step, that this replica lives and what it has to report; forgets replicas whose time is over,
    /// with their leases; returns who lives and who owns what. Tells the others when it is new.
    async fn beat(&self, report: &Report) -> Result<Roster, StoreError>;

    /// Makes this replica the owner of a group, unless another live one is. Returns whether it owns the group now.
    /// Fails to own anything before the first [`Self::beat`] and after [`Self::leave`].
    async fn claim(&self, group: &GroupName) -> Result<bool, StoreError>;

    /// Gives a group up, if it is this replica's, and tells the others.
    async fn release(&self, group: &GroupName) -> Result<(), StoreError>;

    /// Gives up everything, stops counting as alive, and tells the others.
    async fn leave(&self) -> Result<(), StoreError>;

    /// Sends a message to another replica. It may get lost, and arrive twice when its first answer got lost. Returns
    /// whether somebody was there to take it.
    async fn send(&self, to: &ReplicaId, message: String) -> Result<bool, StoreError>;

    /// Waits for the next thing that others tell. Only one caller waits at a time.
    async fn next(&self) -> Notice;
}

/// What others tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A delivery was recorded for a group that this replica owns.
    Poke(GroupName),
    /// A replica came or left, or gave a group up: beat now.
    Changed,
    /// A message, as it was sent.
    Message(String),
    /// Something may have been missed: look at everything.
    Missed,
}
