//! The contract of the Store port, held against each adapter.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::sync::Arc;

use actors::port::{Observation, Observer, Store};
use runner_manager::store::Embedded;

#[path = "contract/store.rs"]
mod store;

struct Quiet;

impl Observer for Quiet {
    fn observe(&self, _: &Observation<'_>) {}
}

struct OnDisk(tempfile::TempDir);

impl store::Adapter for OnDisk {
    async fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(Embedded::open(self.0.path(), Arc::new(Quiet)).unwrap())
    }
}

mod embedded {
    crate::store_contract!(super::OnDisk);
}
