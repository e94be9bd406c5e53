//! Which of a group's backends a new runner is made at, and what their answers say about them.

use jiff::Timestamp;

use super::{Effect, Group, Note};
use crate::machine::breaker;
use crate::model::group::{Breaker, BreakerState, LastError};
use crate::model::job::Milestone;
use crate::model::runner::{Runner, RunnerState, Tried};
use crate::model::settings::BackendLimits;

impl Group {
    /// The backends that would be asked for an instance now, in order.
    pub(super) fn usable(&self) -> impl Iterator<Item = &BackendLimits> {
        self.settings.backends.iter().filter(|backend| match self.breaker(&backend.name) {
            None | Some(BreakerState::Closed) => true,
            Some(BreakerState::HalfOpen) => !self.on_trial(&backend.name),
            Some(BreakerState::Open { .. }) => false,
        })
    }

    /// How many runners may be requested at once.
    pub(super) fn trials(&self) -> u32 {
        let closed = |backend: &BackendLimits| self.breaker(&backend.name).is_none_or(|b| b == BreakerState::Closed);
        let usable = || self.usable();
        if usable().any(closed) { u32::MAX } else { u32::try_from(usable().count()).unwrap_or(u32::MAX) }
    }

    /// Whether this backend is left alone and another one would be asked now: then its breaker waits for it, not the group.
    pub(super) fn others_serve(&self, backend: &str) -> bool {
        matches!(self.breaker(backend), Some(BreakerState::Open { .. })) && self.usable().next().is_some()
    }

    fn breaker(&self, backend: &str) -> Option<BreakerState> {
        self.snapshot.breakers.get(backend).map(|breaker| breaker.state)
    }

    /// Whether a creation is under way that starts, or goes on, at this backend.
    fn on_trial(&self, backend: &str) -> bool {
        self.fleet.iter().any(|runner| {
            runner.backend == backend
                && matches!(runner.state, RunnerState::Requested | RunnerState::Registering | RunnerState::Provisioning)
        })
    }

    /// Chooses where a new runner's instance is asked for, and where next.
    pub(super) fn choose_backends(&self, runner: &mut Runner) {
        let mut usable = self.usable().map(|backend| backend.name.clone());
        if let Some(first) = usable.next() {
            runner.backend = first;
            runner.fallbacks = usable.collect();
        }
    }

    /// What a runner's new state says about the backends that were asked.
    pub(super) fn backends_answered(
        &mut self,
        before: Option<&Runner>,
        runner: &Runner,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        let known = before.map_or(0, |before| before.tried.len());
        let others = runner.tried.iter().skip(known + 1).map(|tried| &tried.backend);
        let nexts: Vec<&String> = others.chain([&runner.backend]).collect();
        for (tried, next) in runner.tried.iter().skip(known).zip(nexts) {
            self.backend_failed(tried, now, effects);
            if *next != tried.backend {
                let (name, backend, error) = (&runner.name, &tried.backend, &tried.error);
                let text = format!("runner {name}: backend {backend} made no instance ({error}), asked backend {next}");
                self.snapshot.last_error = Some(LastError { at: now, text });
                let milestone = Milestone::FellBack {
                    runner: name.clone(),
                    backend: backend.clone(),
                    error: error.clone(),
                    next: (*next).clone(),
                };
                self.note_job(runner, now, milestone);
            }
        }
        let created = |runner: &Runner| runner.instance.is_some();
        // One that was asked before the breaker opened does not close it: the backend may have said how long to wait.
        if created(runner)
            && before.is_some_and(|before| !created(before))
            && let Some(state) = self.breaker(&runner.backend)
            && !matches!(state, BreakerState::Open { .. })
        {
            self.snapshot.breakers.remove(&runner.backend);
            self.dirty = true;
            if state == BreakerState::HalfOpen {
                effects.push(Effect::Note(Note::BreakerClosed(runner.backend.clone())));
            }
        }
    }

    fn backend_failed(&mut self, tried: &Tried, now: Timestamp, effects: &mut Vec<Effect>) {
        let (backend, error) = (tried.backend.as_str(), LastError { at: now, text: tried.error.clone() });
        let chance = self.next_chance();
        let Some(limits) = self.settings.backends.iter().find(|limits| limits.name == backend) else { return };
        let known = self.snapshot.breakers.get(backend).cloned();
        let breaker = breaker::failed(known, limits, error, tried.not_before, chance);
        self.put_breaker(backend, breaker, effects);
    }

    fn put_breaker(&mut self, backend: &str, breaker: Breaker, effects: &mut Vec<Effect>) {
        if let BreakerState::Open { until } = breaker.state
            && self.breaker(backend) != Some(breaker.state)
        {
            effects.push(Effect::Note(Note::BreakerOpened(backend.to_owned(), until, breaker.error.text.clone())));
        }
        self.snapshot.breakers.insert(backend.to_owned(), breaker);
        self.dirty = true;
    }

    /// When the next backend is to be probed.
    pub(super) fn probe_at(&self) -> Option<Timestamp> {
        self.open().map(|(_, until)| until).min()
    }

    /// Backends that are left alone, are not being probed, and until when.
    fn open(&self) -> impl Iterator<Item = (&String, Timestamp)> {
        self.settings.backends.iter().filter_map(|limits| match self.breaker(&limits.name) {
            Some(BreakerState::Open { until }) if !self.probing.contains(&limits.name) => Some((&limits.name, until)),
            _ => None,
        })
    }

    /// Probes the backends that are left alone, however long they were.
    pub(super) fn probe_all(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        for breaker in self.snapshot.breakers.values_mut() {
            if let BreakerState::Open { until } = &mut breaker.state {
                *until = now;
            }
        }
        self.probe(now, effects);
    }

    /// Probes the backends that were left alone for long enough.
    pub(super) fn probe(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let due: Vec<String> =
            self.open().filter(|(_, until)| *until <= now).map(|(backend, _)| backend.clone()).collect();
        for backend in due {
            self.probing.insert(backend.clone());
            effects.push(Effect::Probe(backend));
        }
    }

    /// What a probe said; an error in words.
    pub fn probed(&mut self, backend: &str, answer: Result<(), String>, now: Timestamp) -> Vec<Effect> {
        let mut effects = vec![];
        self.probing.remove(backend);
        let chance = self.next_chance();
        let limits = self.settings.backends.iter().find(|limits| limits.name == backend);
        if let (Some(limits), Some(known)) = (limits, self.snapshot.breakers.get(backend)) {
            let breaker = breaker::probed(known.clone(), limits, answer, now, chance);
            self.put_breaker(backend, breaker, &mut effects);
        }
        self.act(now, &mut effects);
        effects
    }
}
