//! What is true: plain data without behaviour that needs the world.

pub mod delivery;
pub mod group;
pub mod job;
pub mod runner;
pub mod secret;
pub mod settings;
