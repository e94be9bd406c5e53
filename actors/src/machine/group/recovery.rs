//! How runners that were loaded, or whose actor failed, go on.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Effect, Group, jobs};
use crate::id::{Cursor, JobId, RunnerName};
use crate::machine::runner as runner_machine;
use crate::model::group::Suspect;
use crate::model::inbox::InboxEntry;
use crate::model::runner::Runner;

impl Group {
    /// Wakes the runners that were loaded, and tells them what the inbox has of them; for a group that was just built.
    #[must_use]
    pub fn recover(&mut self, inbox: Vec<InboxEntry>, now: Timestamp) -> Vec<Effect> {
        let fleet = &self.fleet;
        self.snapshot.unsettled.retain(|runner, _| fleet.get(runner).is_some());
        self.snapshot.suspects.retain(|runner, _| fleet.get(runner).is_none());
        let names: Vec<RunnerName> = self.fleet.iter().map(|runner| runner.name.clone()).collect();
        let mut effects = vec![];
        let queued: Vec<JobId> = inbox.into_iter().filter_map(|entry| self.heard(entry, &mut effects)).collect();
        // Runners that wake are told the same.
        effects.retain(|effect| matches!(effect, Effect::Note(_)));
        effects.extend(names.iter().flat_map(|name| self.revive(name)));
        self.act(now, &mut effects);
        queued.into_iter().for_each(|job| self.explain_waiting(job, now));
        effects
    }

    /// Gives a runner an actor again, from its last saved state, and tells it what that state does not show yet.
    #[must_use]
    pub fn revive(&self, name: &RunnerName) -> Vec<Effect> {
        let Some(runner) = self.fleet.get(name) else { return vec![] };
        let (runner, recovered) = (Arc::clone(runner), runner_machine::Event::Recovered);
        // What is known of its job comes first: a removal that it ends must not be taken up.
        match self.snapshot.unsettled.get(name) {
            Some(news) => {
                vec![Effect::Spawn(runner, jobs::event_of(*news)), Effect::Tell(name.clone(), recovered)]
            }
            None => vec![Effect::Spawn(runner, recovered)],
        }
    }

    /// The store lost what was saved: marks everything as changed. Each runner holds its place in the snapshot until it is
    /// saved again: the group may begin anew before. `stored`: the runners that the store has. One that was gone here is so
    /// again; one that nobody knows here is taken over.
    #[must_use]
    pub fn write_again(&mut self, stored: Vec<Runner>, now: Timestamp) -> Vec<Effect> {
        self.hear_again();
        self.dirty_jobs.extend(self.jobs.keys().copied());
        let unknown: Vec<Runner> = stored.into_iter().filter(|r| self.fleet.get(&r.name).is_none()).collect();
        let mut effects = vec![];
        for mut runner in unknown {
            if self.fleet.ended_since(runner.name.as_str(), Timestamp::MIN) {
                runner_machine::was_gone(&mut runner, now);
                // It has nothing to do but to be saved.
                effects.push(Effect::Spawn(Arc::new(runner), runner_machine::Event::Tick));
            } else {
                let runner = Arc::new(runner);
                self.fleet.put(Arc::clone(&runner));
                effects.push(Effect::Spawn(runner, runner_machine::Event::Recovered));
            }
        }
        let suspect = Suspect { since: now, times: 0, missed: false };
        self.lost.extend(self.fleet.iter().map(|runner| (runner.name.clone(), suspect)));
        effects
    }

    /// The inbox is to be read from its beginning, since a store that lost it may begin its cursors anew. What comes twice
    /// has no second effect.
    pub fn hear_again(&mut self) {
        self.snapshot.cursor = Cursor(0);
        self.dirty = true;
    }

    /// The store has these runners again.
    pub fn has_again<'a>(&mut self, runners: impl IntoIterator<Item = &'a RunnerName>) {
        for name in runners {
            self.dirty |= self.lost.remove(name).is_some() && self.lost.is_empty();
        }
    }
}
