//! Jobs that GitHub shows as open and that are not known so here: what their webhooks should have told is told instead.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Round;
use crate::actor::directory::Entry;
use crate::actor::front::Accepted;
use crate::machine::found;
use crate::machine::matching::Match;
use crate::model::delivery::{JobEvent, RepositoryRef};
use crate::model::settings::Scope;
use crate::port::github::{Asker, RepositoryName};
use crate::port::store::JobFilter;
use crate::port::{Observation, StoreError};

/// How long a repository is looked into after its last job.
const SEEN_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Newest jobs of the store that are looked through for repositories.
const JOBS_MAX: usize = 500;
/// Repositories that are remembered.
const REPOSITORIES_MAX: usize = 1000;
/// Repositories that one round looks into; the others have their turn in the next ones.
const LOOKS_MAX: usize = 50;
/// Runs of each status that are looked into.
const RUNS_MAX: usize = 100;

/// The repositories that may have jobs, by their names in lower case.
#[derive(Default)]
pub(super) struct Listing(BTreeMap<(String, String), Place>);

struct Place {
    name: RepositoryName,
    asker: Asker,
    /// When the last job of it came.
    seen: Timestamp,
    looked: Option<Timestamp>,
}

impl Listing {
    fn see(&mut self, name: RepositoryName, asker: Asker, at: Timestamp) {
        let key = (name.owner.to_lowercase(), name.name.to_lowercase());
        let place = self.0.entry(key).or_insert(Place { name, asker: asker.clone(), seen: at, looked: None });
        (place.asker, place.seen) = (asker, place.seen.max(at));
    }

    /// Forgets what was not seen for long, and what is too much.
    fn prune(&mut self, now: Timestamp) {
        self.0.retain(|_, place| place.seen >= now - SEEN_KEPT);
        let mut seen: Vec<Timestamp> = self.0.values().map(|place| place.seen).collect();
        if seen.len() > REPOSITORIES_MAX {
            seen.sort_unstable_by_key(|at| Reverse(*at));
            let oldest = seen.get(REPOSITORIES_MAX - 1).copied();
            self.0.retain(|_, place| Some(place.seen) >= oldest);
        }
    }

    /// Those to look into now: first those that were not for longest, then those that were seen last.
    fn turn(&mut self, now: Timestamp) -> Vec<(RepositoryName, Asker)> {
        let mut places: Vec<&mut Place> = self.0.values_mut().collect();
        places.sort_by_key(|place| (place.looked, Reverse(place.seen)));
        let turn = places.into_iter().take(LOOKS_MAX).map(|place| {
            place.looked = Some(now);
            (place.name.clone(), place.asker.clone())
        });
        turn.collect()
    }
}

impl Round {
    pub(super) async fn look_into_repositories(&mut self) {
        if let Err(error) = self.see_repositories().await {
            tracing::warn!(%error, "cannot read which repositories have jobs, looking into those known already");
        }
        let now = self.args.front.clock.now();
        self.memory.listing.prune(now);
        for (name, asker) in self.memory.listing.turn(now) {
            if self.goes_on(&asker)
                && let Err(error) = self.look_into(&name, &asker).await
            {
                tracing::warn!(%error, "cannot record what GitHub told, trying again later");
                return;
            }
        }
    }

    async fn see_repositories(&mut self) -> Result<(), StoreError> {
        let now = self.args.front.clock.now();
        let entries = self.args.front.directory.entries();
        for entry in &entries {
            if let Scope::Repository { owner, name } = &entry.settings.scope {
                let repository = RepositoryName { owner: owner.clone(), name: name.clone() };
                self.memory.listing.see(repository, entry.settings.asker(), now);
            }
        }
        for repository in &self.args.repositories {
            let RepositoryName { owner, name } = repository.clone();
            let first = entries.first().map(|entry| entry.settings.github_credential.clone());
            let asker = asker_of(&entries, repository).unwrap_or_else(|| Asker {
                credential: first.unwrap_or_default(),
                scope: Scope::Repository { owner, name },
            });
            self.memory.listing.see(repository.clone(), asker, now);
        }
        let filter = JobFilter { limit: JOBS_MAX, ..JobFilter::default() };
        for job in self.args.front.store.jobs(&filter).await? {
            let RepositoryRef { owner, name, .. } = job.facts.repository;
            let repository = RepositoryName { owner, name };
            let group = entries.iter().find(|entry| Some(&entry.settings.name) == job.group.as_ref());
            let asker = group.map(|entry| entry.settings.asker()).or_else(|| asker_of(&entries, &repository));
            if let Some(asker) = asker {
                self.memory.listing.see(repository, asker, job.received_at);
            }
        }
        Ok(())
    }

    async fn look_into(&mut self, name: &RepositoryName, asker: &Asker) -> Result<(), StoreError> {
        let began = self.args.front.clock.now();
        let records = Arc::clone(&self.args.records);
        let what = format!("which jobs of {}/{} are open", name.owner, name.name);
        let Ok(open) = self.ask(asker, &what, records.open_jobs(asker, name, RUNS_MAX)).await else { return Ok(()) };
        let mut count = 0_u32;
        for event in open {
            count += u32::from(self.tell(event, began).await?);
        }
        if count > 0 {
            tracing::info!(repository = %format!("{}/{}", name.owner, name.name), count, "jobs found whose webhooks never came");
        }
        Ok(())
    }

    /// Tells what is news of a job that was open after `began`; says whether it was.
    async fn tell(&mut self, event: JobEvent, began: Timestamp) -> Result<bool, StoreError> {
        let front = &self.args.front;
        let known = front.store.job(event.job.id).await?;
        let serves = || matches!(front.match_job(&event.job), Match::Group { .. });
        if !found::is_news(event.action, known.as_ref(), began, serves) {
            return Ok(false);
        }
        let Some(delivery) = found::delivery(event, known.as_ref(), front.clock.now()) else { return Ok(false) };
        let new = front.accept(delivery).await? != Accepted::Duplicate;
        if new {
            front.observer.observe(&Observation::FoundWithoutWebhook { by: "listing" });
        }
        Ok(new)
    }
}

/// As whom to ask about jobs of this repository: like a group that could serve them.
fn asker_of(entries: &[Entry], repository: &RepositoryName) -> Option<Asker> {
    let fits = |entry: &&Entry| match &entry.settings.scope {
        Scope::Repository { owner, name } => {
            owner.eq_ignore_ascii_case(&repository.owner) && name.eq_ignore_ascii_case(&repository.name)
        }
        Scope::Organization(login) => login.eq_ignore_ascii_case(&repository.owner),
        Scope::Enterprise(_) => false,
    };
    // Which organizations belong to an enterprise is not known here.
    let enterprise = || entries.iter().find(|entry| matches!(entry.settings.scope, Scope::Enterprise(_)));
    entries.iter().find(fits).or_else(enterprise).map(|entry| entry.settings.asker())
}
