//! What follows: pure functions of state, event and time. No clock, no chance, no I/O.

pub mod backoff;
pub mod breaker;
pub mod demand;
pub mod fleet;
pub mod found;
pub mod group;
pub mod health;
pub mod job;
pub mod matching;
pub mod placement;
pub mod plan;
pub mod runner;
pub mod verify;
