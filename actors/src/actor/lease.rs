//! The lease of one group in this process: nothing outside is asked for it while the lease is not valid.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::port::replicas::LEASE;

/// How much earlier than the store an owner considers its lease over.
pub const MARGIN: Duration = Duration::from_secs(1);

/// Until when this process may act for a group. All clones are one. The default is always valid: for a process
/// that shares its groups with nobody.
#[derive(Debug, Clone, Default)]
pub struct Lease(Option<Arc<Until>>);

/// Who waits goes on in the order of waiting.
#[derive(Debug, Default)]
struct Until {
    until: Mutex<Option<Instant>>,
    renewed: Notify,
}

impl Until {
    fn get(&self) -> Option<Instant> {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// One that is not valid before it is renewed.
    pub(crate) fn shared() -> Self {
        Self(Some(Arc::default()))
    }

    /// The store counts this process as the owner since a beat that began at `began`.
    ///
    /// When the beat began, not when its answer came: a process that slept in between finds its lease over.
    pub(crate) fn renew(&self, began: Instant) {
        if let Some(lease) = &self.0 {
            {
                let mut until = lease.until.lock().unwrap_or_else(PoisonError::into_inner);
                *until = (*until).max(Some(began + LEASE - MARGIN));
            }
            lease.renewed.notify_waiters();
        }
    }

    /// Whether it is valid now.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.0.as_ref().is_none_or(|lease| is_ahead(lease.get()))
    }

    /// Begins `call` once the lease is valid and carries it on for as long as it is; none when it ended before.
    ///
    /// The lease is looked at right before each step, so that a process that slept takes none after its lease.
    pub(crate) async fn within<T>(&self, call: impl Future<Output = T>) -> Option<T> {
        self.valid().await;
        let (mut call, mut over) = (pin!(call), pin!(self.over()));
        poll_fn(|context| {
            if !self.is_valid() || over.as_mut().poll(context).is_ready() {
                return Poll::Ready(None);
            }
            call.as_mut().poll(context).map(Some)
        })
        .await
    }

    /// Waits until it is valid.
    pub(crate) async fn valid(&self) {
        let Some(lease) = &self.0 else { return };
        loop {
            // Before the look: a renewal in between is not missed.
            let renewed = lease.renewed.notified();
            if is_ahead(lease.get()) {
                return;
            }
            renewed.await;
        }
    }

    /// Waits until it is not valid (any more).
    async fn over(&self) {
        let Some(lease) = &self.0 else { return std::future::pending().await };
        loop {
            let due = lease.get();
            match due.filter(|due| Instant::now() < *due) {
                Some(due) => tokio::time::sleep_until(due).await,
                None => return,
            }
        }
    }
}

fn is_ahead(until: Option<Instant>) -> bool {
    until.is_some_and(|until| Instant::now() < until)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_valid_from_a_beat_s_beginning_for_a_lease_less_a_margin() {
        let lease = Lease::shared();
        assert!(!lease.is_valid());
        let began = Instant::now();
        tokio::time::sleep(Duration::from_secs(2)).await;
        lease.renew(began);
        assert!(lease.is_valid());
        lease.over().await;
        assert_eq!(began.elapsed().as_secs(), 9);
        assert!(!lease.is_valid());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_goes_on_with_the_next_renewal_and_a_late_answer_renews_nothing() {
        let lease = Lease::shared();
        let began = Instant::now();
        tokio::time::sleep(Duration::from_secs(60)).await;
        lease.renew(began);
        assert!(!lease.is_valid(), "the process slept in the middle of a beat");
        let waiting = tokio::spawn({
            let lease = lease.clone();
            async move { lease.valid().await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!waiting.is_finished());
        lease.renew(Instant::now());
        waiting.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_begun_within_the_lease_and_given_up_with_it() {
        let lease = Lease::shared();
        let begun = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let call = {
            let begun = Arc::clone(&begun);
            async move {
                loop {
                    begun.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(1500)).await;
                }
            }
        };
        let calling = tokio::spawn({
            let lease = lease.clone();
            async move { lease.within::<()>(call).await }
        });
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(begun.load(std::sync::atomic::Ordering::SeqCst), 0, "not before");
        lease.renew(Instant::now());
        let began = Instant::now();
        assert_eq!(calling.await.unwrap(), None);
        assert_eq!(began.elapsed().as_secs(), 9, "and not after");
        assert_eq!(begun.load(std::sync::atomic::Ordering::SeqCst), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn who_shares_with_nobody_never_waits() {
        let lease = Lease::default();
        assert!(lease.is_valid());
        lease.valid().await;
        let over = tokio::time::timeout(Duration::from_secs(100), lease.over()).await;
        assert!(over.is_err());
    }
}
