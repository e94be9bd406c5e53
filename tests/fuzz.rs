//! Whatever comes through a door is answered or refused: no panic, bounded time and memory. Inputs are made of a
//! corpus by chance, from a fixed seed; `scripts/fuzz` runs on and on from fresh ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "figures, and what failed, are for whoever runs it")]

#[path = "fuzz/chance.rs"]
mod chance;
#[path = "fuzz/configuration.rs"]
mod configuration;
#[path = "fuzz/door.rs"]
mod door;
#[path = "support/fakes.rs"]
mod fakes;
#[path = "fuzz/github.rs"]
mod github;
#[path = "support/github.rs"]
mod github_support;
#[path = "fuzz/life.rs"]
mod life;
#[path = "fuzz/memory.rs"]
mod memory;
#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "fuzz/provider.rs"]
mod provider;
#[path = "support/provider.rs"]
mod provider_support;
#[path = "fuzz/requests.rs"]
mod requests;
#[path = "contract/store/samples.rs"]
mod samples;
#[path = "fuzz/snapshots.rs"]
mod snapshots;
#[path = "fuzz/store.rs"]
mod store;
#[path = "support/system.rs"]
mod system;
#[path = "support/web.rs"]
mod web;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;
