//! Processes behind a load balancer: what tests with several replicas rely on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/balancer.rs"]
mod balancer;
#[path = "support/replicas.rs"]
mod replicas;
#[path = "support/service.rs"]
mod service;

use std::time::Duration;

use replicas::Replicas;
use rustix::process::Signal;

/// Sends `count` requests through the balancer; all must succeed.
async fn ask(all: &Replicas, count: u32) {
    for _ in 0..count {
        assert_eq!(all.site.status("/_health").await, Some(200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_spread_over_the_replicas_that_are_ready_and_each_can_be_stopped() {
    let all = Replicas::new().await;
    assert_eq!(all.site.status("/_health").await, Some(503), "nobody is there");
    // Without a shared store they have nothing to do with each other.
    let config = all.site.config(2, |_| {});
    let dirs = [0, 1].map(|n| all.site.dir.path().join(format!("data-{n}")).display().to_string());
    let mut one = all.start(&config, &[("DATA_DIR", &dirs[0])]).await;
    let mut two = all.start(&config, &[("DATA_DIR", &dirs[1])]).await;
    let answered = || [one.port(), two.port()].map(|port| all.balancer.answered(port));
    ask(&all, 10).await;
    assert_eq!(answered(), [5, 5]);

    two.pause();
    all.until_not_ready(&two).await;
    ask(&all, 4).await;
    assert_eq!(answered(), [9, 5]);
    two.resume();
    all.until_ready(&two).await;

    // GitHub's webhooks take the same way, with their signatures.
    let before = answered();
    all.site.queue(2, Duration::from_secs(1));
    all.site.until("both take one", async |_| answered().iter().zip(before).all(|(now, before)| *now > before)).await;
    assert_eq!(all.site.github.hook_counts().failed, 0);

    one.kill();
    ask(&all, 4).await;
    all.until_not_ready(&one).await;
    assert!(two.end(Signal::TERM).success());
    assert_eq!(all.site.status("/_health").await, Some(503));
}
