//! One listing of GitHub's runners per scope, shared by all groups of the scope that ask at about the same time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::machine::group::SECOND_LOOK;
use crate::model::settings::Scope;
use crate::port::github::RemoteRunner;
use crate::port::{Clock, GitHub, GitHubError};

/// A listing, or a failure to get one, serves everybody who asks within this time.
pub const SHARED_FOR: Duration = Duration::from_secs(5);
const _: () = assert!(SHARED_FOR.as_secs() < SECOND_LOOK.as_secs(), "a second look is at another listing");

type Answer = Result<Arc<Vec<RemoteRunner>>, GitHubError>;
type Slot = Arc<tokio::sync::Mutex<Option<(Timestamp, Answer)>>>;

/// The shared listings.
pub struct Listings {
    github: Arc<dyn GitHub>,
    clock: Arc<dyn Clock>,
    slots: Mutex<BTreeMap<Scope, Slot>>,
}

impl Listings {
    /// Listings from this GitHub.
    #[must_use]
    pub fn new(github: Arc<dyn GitHub>, clock: Arc<dyn Clock>) -> Self {
        Self { github, clock, slots: Mutex::new(BTreeMap::new()) }
    }

    /// The GitHub they are from.
    #[must_use]
    pub fn github(&self) -> &Arc<dyn GitHub> {
        &self.github
    }

    /// The runners of a scope, and when the listing of them began: at most [`SHARED_FOR`] ago.
    ///
    /// # Errors
    /// Those of [`GitHub::list_runners`], shared like a listing.
    pub async fn get(&self, scope: &Scope) -> Result<(Timestamp, Arc<Vec<RemoteRunner>>), GitHubError> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(scope.clone()).or_default())
        };
        let mut slot = slot.lock().await;
        let now = self.clock.now();
        if let Some((at, answer)) = slot.as_ref().filter(|(at, _)| *at + SHARED_FOR >= now && *at <= now) {
            return answer.clone().map(|runners| (*at, runners));
        }
        let answer = self.github.list_runners(scope).await.map(Arc::new);
        *slot = Some((now, answer.clone()));
        answer.map(|runners| (now, runners))
    }
}
