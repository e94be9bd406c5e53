//! The actors that carry out what the machine decides.

pub mod directory;
pub mod effect;
pub(crate) mod ending;
pub mod front;
pub(crate) mod group;
pub mod lease;
pub mod listings;
pub(crate) mod messenger;
pub mod reconciler;
pub(crate) mod replica;
pub(crate) mod restarts;
pub(crate) mod runner;
pub(crate) mod runner_group;
pub mod supervisor;
