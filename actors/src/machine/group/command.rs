//! What operators may ask of a group.

use jiff::Timestamp;

use super::{Effect, Group};
use crate::id::RunnerName;
use crate::machine::runner::Event;
use crate::model::report::InstanceReport;
use crate::model::runner::{DeleteReason, RunnerState};

/// Why a request of an operator is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such runner.
    NoRunner(RunnerName),
    /// It contradicts the state of things, in a sentence.
    Conflict(String),
}

impl Group {
    /// An operator wants one more runner, whatever the demand.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] when the group is full, drained or has not looked yet what exists already. A wait after
    /// a failure is passed over: an operator may know better.
    pub fn create_runner(&mut self, now: Timestamp) -> Result<(RunnerName, Vec<Effect>), Refusal> {
        let name = &self.settings.name;
        if self.snapshot.drained {
            return Err(Refusal::Conflict(format!("group {name} is drained: resume it first")));
        }
        if self.snapshot.looking {
            return Err(Refusal::Conflict(format!("group {name} is still looking what exists already: try again")));
        }
        if self.total() >= self.settings.max {
            let max = self.settings.max;
            return Err(Refusal::Conflict(format!("group {name} is full: {} of {max} runners exist", self.total())));
        }
        let mut effects = vec![];
        let runner = self.create(None, now, &mut effects);
        Ok((runner, effects))
    }

    /// An operator wants no more runners: idle ones go, busy ones finish.
    pub fn drain(&mut self, now: Timestamp) -> Vec<Effect> {
        self.snapshot.drained = true;
        self.dirty = true;
        let idle: Vec<RunnerName> = self.fleet.idle().map(|(_, name)| name.clone()).collect();
        let mut effects: Vec<Effect> = idle.into_iter().map(|name| Effect::Tell(name, Event::ScaleDown)).collect();
        self.act(now, &mut effects);
        effects
    }

    /// Undoes [`Group::drain`].
    pub fn resume(&mut self, now: Timestamp) -> Vec<Effect> {
        self.snapshot.drained = false;
        self.dirty = true;
        let mut effects = vec![];
        self.act(now, &mut effects);
        effects
    }

    /// An operator wants the runner group at GitHub gone.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] unless the group is drained and has no runners.
    pub fn may_lose_runner_group(&self) -> Result<(), Refusal> {
        let name = &self.settings.name;
        if !self.snapshot.drained {
            return Err(Refusal::Conflict(format!("group {name} would create its runner group anew: drain it first")));
        }
        match self.total() {
            0 => Ok(()),
            runners => {
                Err(Refusal::Conflict(format!("group {name} still has runners ({runners}): wait until they are gone")))
            }
        }
    }

    /// Forgets failures and the last error, checks health, and probes backends that are left alone.
    pub fn reset(&mut self, now: Timestamp) -> Vec<Effect> {
        self.snapshot.failures = 0;
        self.snapshot.not_before = None;
        self.snapshot.last_error = None;
        self.dirty = true;
        let mut effects = vec![self.healthcheck(now)];
        self.probe_all(now, &mut effects);
        self.act(now, &mut effects);
        effects
    }

    /// An operator wants one runner gone.
    ///
    /// # Errors
    /// [`Refusal`] when there is none of that name, or it is busy and `force` is not given.
    pub fn delete_runner(&mut self, name: &RunnerName, force: bool) -> Result<Vec<Effect>, Refusal> {
        let runner = self.fleet.get(name).ok_or_else(|| Refusal::NoRunner(name.clone()))?;
        if runner.state == RunnerState::Busy && !force {
            let job = runner.job.map(|job| format!(" with job {job}")).unwrap_or_default();
            return Err(Refusal::Conflict(format!("runner {name} is busy{job}: force ends it and fails the job")));
        }
        let event = Event::Remove { reason: DeleteReason::Requested, force };
        Ok(vec![Effect::Tell(name.clone(), event)])
    }

    /// Passes on what the instance of a runner says of itself.
    ///
    /// # Errors
    /// [`Refusal`] when there is none of that name.
    pub fn instance_report(&self, name: &RunnerName, report: InstanceReport) -> Result<Vec<Effect>, Refusal> {
        if self.fleet.get(name).is_none() {
            return Err(Refusal::NoRunner(name.clone()));
        }
        Ok(vec![Effect::Tell(name.clone(), Event::Reported(report))])
    }
}
