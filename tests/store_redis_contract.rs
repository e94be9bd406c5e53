//! The contract of the Store port, held against the store in Redis: one server, a Cluster, and through Sentinels.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::any::Any;
use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use actors::port::Store;
use runner_manager::store::redis::{Server, Settings};

#[path = "support/passage.rs"]
mod passage;
#[path = "support/redis.rs"]
mod redis;
#[path = "contract/store.rs"]
mod store;
#[path = "support/store_redis.rs"]
mod support;

use redis::{Cluster, RedisServer, Sentinels};

thread_local! {
    /// What the test of this thread has used: kept until it ends.
    static KEPT: RefCell<Vec<Arc<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

/// Something that tests which run at the same time share; the last one ends it.
struct Shared<T>(Mutex<Weak<T>>);

impl<T> Shared<T> {
    const fn new() -> Self {
        Self(Mutex::new(Weak::new()))
    }

    fn get(&self, start: impl FnOnce() -> T) -> Arc<T> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let started = Arc::new(start());
            *shared = Arc::downgrade(&started);
            started
        })
    }
}

/// A deployment of its own on a shared server.
struct Place<T> {
    _running: Arc<T>,
    server: fn(&T) -> Server,
    name: String,
}

impl<T: Send + Sync> Place<T> {
    fn open(&self) -> Arc<dyn Store> {
        let server = (self.server)(&self._running);
        // Other tests, and the servers, want the processors too.
        let patient = std::time::Duration::from_secs(20);
        let settings =
            Settings { timeout: patient, connect_timeout: patient, ..support::settings(server, &self.name, "r") };
        support::open(settings)
    }
}

macro_rules! on {
    ($adapter:ident, $running:ty, $server:expr) => {
        struct $adapter(Place<$running>);

        impl store::Adapter for $adapter {
            async fn new() -> Self {
                static SHARED: Shared<$running> = Shared::new();
                let running = tokio::task::spawn_blocking(|| SHARED.get(<$running>::start)).await.unwrap();
                KEPT.with_borrow_mut(|kept| kept.push(running.clone()));
                Self(Place { _running: running, server: $server, name: support::new_name() })
            }

            async fn open(&self) -> Arc<dyn Store> {
                self.0.open()
            }
        }
    };
}

on!(OnOne, RedisServer, support::single);
on!(OnCluster, Cluster, support::cluster);
on!(BehindSentinels, Sentinels, support::sentinels);

mod one {
    crate::store_contract!(super::OnOne);
}

mod cluster {
    crate::store_contract!(super::OnCluster);
}

mod sentinels {
    crate::store_contract!(super::BehindSentinels);
}
