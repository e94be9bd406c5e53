//! What is kept sealed: found by its key, forgotten with its runner or its time.

use std::time::{Duration, Instant};

use actors::id::RunnerName;
use actors::port::StoreError;
use actors::port::store::{RunnerFilter, Sealed, Store};
use jiff::Timestamp;

use super::Adapter;
use super::samples::group;

/// Longest time until something is forgotten.
const PATIENCE: Duration = Duration::from_secs(20);

/// An entry of the `n`th runner that lasts for so many seconds, to the millisecond.
fn entry(key: &str, n: u64, seconds: i64) -> Sealed {
    let octo = group("octo");
    let until = Timestamp::from_millisecond(Timestamp::now().as_millisecond() + seconds * 1000).unwrap();
    Sealed { key: key.to_owned(), runner: octo.runner_name(n), group: octo, body: vec![0, 255, 10, 13, b'"', 7], until }
}

pub async fn what_is_kept_sealed_is_found_by_its_key_alone_and_as_it_was(adapter: &impl Adapter) {
    let store = adapter.open().await;
    assert_eq!(store.sealed("aa").await.unwrap(), None);
    let (first, mut second) = (entry("aa", 1, 600), entry("bb", 2, 600));
    second.body = (0..=255).cycle().take(256 << 10).collect();
    store.keep_sealed(first.clone()).await.unwrap();
    store.keep_sealed(second.clone()).await.unwrap();
    assert_eq!(store.sealed("aa").await.unwrap(), Some(first));
    assert_eq!(store.sealed("bb").await.unwrap(), Some(second));
    for other in ["a", "aaa", "AA", "", "of:octo-10000000"] {
        assert_eq!(store.sealed(other).await.unwrap(), None, "{other}");
    }
}

pub async fn what_is_sealed_again_under_a_key_replaces_it(adapter: &impl Adapter) {
    let store = adapter.open().await;
    store.keep_sealed(entry("aa", 1, 600)).await.unwrap();
    let again = Sealed { body: b"other".to_vec(), ..entry("aa", 1, 900) };
    store.keep_sealed(again.clone()).await.unwrap();
    assert_eq!(store.sealed("aa").await.unwrap(), Some(again));
}

pub async fn what_is_sealed_for_a_runner_is_forgotten_together_and_nothing_else(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let (one, two) = (entry("aa", 1, 600), entry("cc", 2, 600));
    for sealed in [one.clone(), entry("bb", 1, 60), two.clone()] {
        store.keep_sealed(sealed).await.unwrap();
    }
    store.forget_sealed(&one.runner).await.unwrap();
    assert_eq!(store.sealed("aa").await.unwrap(), None);
    assert_eq!(store.sealed("bb").await.unwrap(), None);
    assert_eq!(store.sealed("cc").await.unwrap(), Some(two));
    store.forget_sealed(&one.runner).await.unwrap();
    store.forget_sealed(&RunnerName::new("unknown").unwrap()).await.unwrap();
}

pub async fn what_is_sealed_is_forgotten_after_its_time(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let lasting = entry("cc", 3, 600);
    store.keep_sealed(entry("aa", 1, -5)).await.unwrap();
    store.keep_sealed(entry("bb", 1, 1)).await.unwrap();
    store.keep_sealed(lasting.clone()).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    for key in ["aa", "bb"] {
        while store.sealed(key).await.unwrap().is_some() {
            assert!(Instant::now() < deadline, "{key} is still there");
            prune(&*store).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(store.sealed("cc").await.unwrap(), Some(lasting));
}

/// Forgets nothing but what was sealed.
async fn prune(store: &dyn Store) {
    let long_ago = Timestamp::UNIX_EPOCH;
    let before = actors::port::store::Horizon { deliveries: long_ago, jobs: long_ago, runners: long_ago };
    assert_eq!(store.prune(before).await.unwrap(), 0);
}

pub async fn what_is_sealed_survives_a_restart_and_is_in_no_listing(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let sealed = entry("aa", 1, 600);
    store.keep_sealed(sealed.clone()).await.unwrap();
    store.close().await;
    let store = adapter.open().await;
    assert_eq!(store.sealed("aa").await.unwrap(), Some(sealed));
    assert_eq!(store.runners(&RunnerFilter { limit: 10, ..RunnerFilter::default() }).await.unwrap(), []);
}

pub async fn a_closed_store_keeps_and_finds_nothing_sealed(adapter: &impl Adapter) {
    let store = adapter.open().await;
    store.close().await;
    let runner = group("octo").runner_name(1);
    for result in [
        store.keep_sealed(entry("aa", 1, 600)).await,
        store.sealed("aa").await.map(drop),
        store.forget_sealed(&runner).await,
    ] {
        assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
    }
}
