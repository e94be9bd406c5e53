//! The actors that carry out what the machine decides.

pub mod directory;
pub mod front;
