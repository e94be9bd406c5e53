//! The actors that carry out what the machine decides.

pub mod directory;
pub mod effect;
pub mod front;
pub(crate) mod group;
pub mod listings;
pub(crate) mod restarts;
pub(crate) mod runner;
pub mod supervisor;
