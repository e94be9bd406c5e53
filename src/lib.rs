//! runner-manager: fleets of self-hosted GitHub Actions runners.

pub mod app;
pub mod backend;
pub mod boot;
pub mod check;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod demo;
pub mod github;
pub mod http;
pub mod memory;
pub mod metrics;
pub mod startup;
pub mod store;
pub mod telemetry;
