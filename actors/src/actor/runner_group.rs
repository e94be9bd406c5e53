//! The runner group at GitHub that a group's runners join: known since the last look, brought in step by the next one.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::id::RunnerGroupId;
use crate::model::settings::GroupSettings;
use crate::port::github::{RunnerGroup, RunnerGroupRemoval};
use crate::port::{GitHub, GitHubError};

/// What is known of it. One look at a time.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    known: Mutex<Known>,
    looking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Known {
    /// The one that it was last, whatever it is called by now.
    last: Option<RunnerGroupId>,
    /// Whether that was as configured.
    in_step: bool,
}

impl Joined {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_step(&self) -> Option<RunnerGroupId> {
        let known = *self.known();
        known.last.filter(|_| known.in_step)
    }

    /// The one to join; GitHub is asked only when that is not known.
    pub(crate) async fn id(&self, github: &dyn GitHub, settings: &GroupSettings) -> Result<RunnerGroupId, GitHubError> {
        if let Some(id) = self.in_step() {
            return Ok(id);
        }
        let _one = self.looking.lock().await;
        if let Some(id) = self.in_step() {
            return Ok(id);
        }
        let found = self.look(github, settings).await?;
        found.trouble.map_or(Ok(found.id), Err)
    }

    /// Brings it in step. When GitHub does not answer, runners go on joining the one that was in step before.
    pub(crate) async fn ensure(
        &self,
        github: &dyn GitHub,
        settings: &GroupSettings,
    ) -> Result<RunnerGroup, GitHubError> {
        let _one = self.looking.lock().await;
        self.look(github, settings).await
    }

    async fn look(&self, github: &dyn GitHub, settings: &GroupSettings) -> Result<RunnerGroup, GitHubError> {
        let last = self.known().last;
        let found = github.ensure_runner_group(settings, last).await?;
        *self.known() = Known { last: Some(found.id), in_step: found.trouble.is_none() };
        if let Some(what) = &found.repaired {
            tracing::warn!(group = %settings.name, runner_group = %found.id, what, "the runner group at GitHub was brought in step");
        }
        Ok(found)
    }

    /// It is not there any more, it seems.
    pub(crate) fn lost(&self, id: RunnerGroupId) {
        let mut known = self.known();
        known.in_step &= known.last != Some(id);
    }

    /// Deletes it. Whoever wants to join it waits, and looks again.
    pub(crate) async fn delete(
        &self,
        github: &dyn GitHub,
        settings: &GroupSettings,
    ) -> Result<RunnerGroupRemoval, GitHubError> {
        let _one = self.looking.lock().await;
        let last = {
            let mut known = self.known();
            known.in_step = false;
            known.last
        };
        let answer = github.delete_runner_group(settings, last).await?;
        if !matches!(answer, RunnerGroupRemoval::Kept(_)) {
            *self.known() = Known::default();
        }
        Ok(answer)
    }
}
