//! What is true: plain data without behaviour that needs the world.

pub mod delivery;
pub mod group;
pub mod inbox;
pub mod instance;
pub mod job;
pub mod remote;
pub mod report;
pub mod roster;
pub mod runner;
pub mod secret;
pub mod settings;
