//! Deliveries that no attempt brought here: they are found in the hook's history and asked for again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Round;
use crate::id::DeliveryId;
use crate::machine::backoff::after;
use crate::port::github::{Asker, Hook, SentDelivery};
use crate::port::{GitHubError, Observation};

/// How far back the first look goes: as far as GitHub remembers.
const HISTORY: Duration = Duration::from_secs(3 * 24 * 3600);
/// How far a look goes back behind the one before: an attempt is listed once it has ended, and clocks differ.
const OVERLAP: Duration = Duration::from_secs(600);
/// Pages of one history that one round reads, of 100 attempts each; it goes on with the rest in the next one.
const PAGES_MAX: usize = 50;
/// Deliveries of one hook that one round asks for.
const REDELIVERIES_MAX: usize = 100;
/// Shortest time between two requests to send the same delivery again.
const AGAIN_AFTER: Duration = Duration::from_secs(1800);
/// Deliveries of one hook that wait to be asked for; more are found again only by their jobs.
const MISSING_MAX: usize = 10_000;
/// How long it is believed which hook is this service's.
const HOOK_KEPT: Duration = Duration::from_secs(3600);

/// What is known of the hooks.
#[derive(Default)]
pub(super) struct History {
    /// The hook that each sees, and since when it is known.
    hooks: BTreeMap<Asker, (Timestamp, Hook)>,
    told: BTreeMap<Hook, Told>,
}

/// What is known of one hook's deliveries.
#[derive(Default)]
struct Told {
    /// From when on the next look reads; none before the first.
    since: Option<Timestamp>,
    /// Where an earlier look stopped, and how far back it was to go.
    rest: Option<(String, Timestamp)>,
    missing: BTreeMap<DeliveryId, Missing>,
    /// When deliveries were asked for.
    asked: BTreeMap<DeliveryId, Timestamp>,
}

/// A delivery that no attempt brought here.
struct Missing {
    at: Timestamp,
    attempt: u64,
}

impl Told {
    /// Takes in a page. `brought` are the deliveries that newer attempts brought here.
    fn take_in(&mut self, page: Vec<SentDelivery>, brought: &mut BTreeSet<DeliveryId>) {
        for sent in page.into_iter().filter(|sent| sent.event == "workflow_job") {
            if sent.delivered {
                self.missing.remove(&sent.guid);
                brought.insert(sent.guid);
            } else if !brought.contains(&sent.guid)
                && (self.missing.len() < MISSING_MAX || self.missing.contains_key(&sent.guid))
            {
                let missing = self.missing.entry(sent.guid).or_insert(Missing { at: sent.at, attempt: sent.id });
                missing.at = missing.at.min(sent.at);
            }
        }
    }

    /// What is missing and to be asked for now, the oldest first.
    fn missing_now(&mut self, now: Timestamp) -> Vec<(DeliveryId, u64)> {
        self.asked.retain(|_, at| after(*at, AGAIN_AFTER) > now);
        let mut missing: Vec<_> = self.missing.iter().filter(|(guid, _)| !self.asked.contains_key(*guid)).collect();
        missing.sort_by_key(|(_, missing)| missing.at);
        missing.truncate(REDELIVERIES_MAX);
        missing.into_iter().map(|(guid, missing)| (guid.clone(), missing.attempt)).collect()
    }
}

impl Round {
    /// Each hook is looked at once, whatever many scopes it serves. Each App has its own.
    pub(super) async fn read_histories(&mut self) {
        let entries = self.args.front.directory.entries();
        let askers: BTreeSet<Asker> = entries.iter().map(|entry| entry.settings.asker()).collect();
        let mut read = BTreeSet::new();
        for asker in askers {
            let Some(hook) = self.hook(&asker).await.filter(|hook| !read.contains(hook)) else { continue };
            let mut told = self.memory.history.told.remove(&hook).unwrap_or_default();
            match self.read_history(&asker, &hook, &mut told).await {
                // It was removed, perhaps for another one; or another credential sees it.
                Err(GitHubError::NotFound(_) | GitHubError::Forbidden(_)) => {
                    self.memory.history.hooks.remove(&asker);
                }
                _ => {
                    read.insert(hook.clone());
                }
            }
            self.send_again(&asker, &hook, &mut told).await;
            self.memory.history.told.insert(hook, told);
        }
    }

    async fn hook(&mut self, asker: &Asker) -> Option<Hook> {
        let now = self.args.front.clock.now();
        if let Some((at, hook)) = self.memory.history.hooks.get(asker)
            && now < after(*at, HOOK_KEPT)
        {
            return Some(hook.clone());
        }
        if !self.goes_on(asker) {
            return None;
        }
        let (records, path) = (Arc::clone(&self.args.records), self.args.webhook_path.clone());
        let hook = self.ask(asker, "which webhook is ours", records.hook(asker, &path)).await.ok()??;
        self.memory.history.hooks.insert(asker.clone(), (now, hook.clone()));
        Some(hook)
    }

    async fn read_history(&mut self, asker: &Asker, hook: &Hook, told: &mut Told) -> Result<(), GitHubError> {
        let began = self.args.front.clock.now();
        let since = told.since.unwrap_or(began - HISTORY);
        let mut brought = BTreeSet::new();
        let mut pages = 0;
        let earlier = told.rest.clone();
        let stopped = self.read_pages(asker, hook, told, (None, since), (&mut pages, &mut brought)).await?;
        told.since = Some(began - OVERLAP);
        if let Some(stopped) = stopped {
            // The newest matter most: what is older than both stays with the listings of jobs.
            told.rest = Some((stopped, since));
        } else if let Some((page, since)) = earlier {
            // A place that GitHub does not know any more is not looked for again.
            told.rest = None;
            let next = self.read_pages(asker, hook, told, (Some(page), since), (&mut pages, &mut brought)).await?;
            told.rest = next.map(|next| (next, since));
        }
        Ok(())
    }

    /// Reads from a place back to a time, within [`PAGES_MAX`]; returns where it stopped before.
    async fn read_pages(
        &mut self,
        asker: &Asker,
        hook: &Hook,
        told: &mut Told,
        (mut place, since): (Option<String>, Timestamp),
        (pages, brought): (&mut usize, &mut BTreeSet<DeliveryId>),
    ) -> Result<Option<String>, GitHubError> {
        let records = Arc::clone(&self.args.records);
        while *pages < PAGES_MAX {
            if !self.goes_on(asker) {
                return Err(GitHubError::Unknown("not asked".to_owned()));
            }
            *pages += 1;
            let question = records.deliveries(asker, hook, since, place.as_deref());
            let sent = self.ask(asker, "which deliveries failed", question).await?;
            told.take_in(sent.deliveries, brought);
            place = sent.next;
            if place.is_none() {
                return Ok(None);
            }
        }
        Ok(place)
    }

    async fn send_again(&mut self, asker: &Asker, hook: &Hook, told: &mut Told) {
        let records = Arc::clone(&self.args.records);
        let mut count = 0_u32;
        for (guid, attempt) in told.missing_now(self.args.front.clock.now()) {
            if !self.goes_on(asker) {
                break;
            }
            let answer = self.ask(asker, "to send a delivery again", records.redeliver(asker, hook, attempt)).await;
            match answer {
                Ok(()) => {
                    count += 1;
                    self.args.front.observer.observe(&Observation::FoundWithoutWebhook { by: "history" });
                    told.missing.remove(&guid);
                    told.asked.insert(guid, self.args.front.clock.now());
                }
                // It can never be sent again: it is too old.
                Err(GitHubError::NotFound(_) | GitHubError::Invalid(_)) => {
                    told.missing.remove(&guid);
                }
                // Nothing was done.
                Err(GitHubError::RateLimited { .. }) => break,
                // It may have worked.
                Err(_) => {
                    told.asked.insert(guid, self.args.front.clock.now());
                }
            }
        }
        if count > 0 {
            tracing::info!(scope = %asker.scope, credential = asker.credential, count, "deliveries failed and are sent again");
        }
    }
}
