//! A group that lives on from whatever was loaded: its effects are answered by chance, and time goes on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actors::id::{Cursor, InstanceId, ManagerName, RunnerId, RunnerName};
use actors::machine::group::{self, Group};
use actors::machine::health::{Listed, Listing};
use actors::machine::runner::{self, Event};
use actors::model::delivery::{Delivery, JobEvent};
use actors::model::inbox::{InboxEntry, Loaded};
use actors::model::instance::{BackendError, Instance, InstanceStatus};
use actors::model::remote::{Deregistered, GitHubError, RemoteRunner};
use actors::model::report::{InstanceReport, ReportStatus};
use actors::model::runner::{HISTORY_MAX, Runner, RunnerState};
use actors::model::secret::Secret;
use actors::model::settings::{BackendLimits, GroupSettings};
use jiff::Timestamp;
use runner_manager::store::codec::{self, Snapshot};

use crate::chance::Chance;
use crate::fakes;

/// Effects of one turn that are carried out at most.
const EFFECTS_MAX: usize = 16;

/// A group and its runners, as their actors would hold them.
pub struct Life {
    group: Group,
    runners: BTreeMap<RunnerName, Runner>,
    work: VecDeque<group::Effect>,
    now: Timestamp,
    chance: Chance,
    cursor: u64,
    heard: Vec<JobEvent>,
    /// Runners that were there before the group could know how many there may be.
    found: u32,
}

/// A group with two backends.
pub fn settings() -> Arc<GroupSettings> {
    let mut settings = fakes::settings("octo", 1, 4);
    settings.backends.push(BackendLimits { name: "docker".to_owned(), ..settings.backends[0].clone() });
    Arc::new(settings)
}

/// What is stored is read again as it was.
pub fn assert_round_trip<T: Snapshot + PartialEq + std::fmt::Debug>(snapshot: &T) {
    let text = codec::encode(snapshot).unwrap_or_else(|error| panic!("not encoded: {error}: {snapshot:?}"));
    match codec::decode::<T>(text.as_bytes()) {
        Ok(again) => assert_eq!(again, *snapshot, "another one after {text}"),
        Err(error) => panic!("{error}: {text}"),
    }
}

impl Life {
    pub fn new(loaded: Loaded, chance: u64) -> Self {
        let now: Timestamp = "2025-10-09T09:00:00Z".parse().unwrap();
        let manager = ManagerName::new("test").unwrap();
        let runners = loaded.runners.iter().map(|runner| (runner.name.clone(), runner.clone())).collect();
        let set_aside = loaded.set_aside;
        let mut group = Group::new(settings(), &manager, loaded, chance, now);
        assert!(
            set_aside == 0 || group.snapshot().looking,
            "it does not look what exists, with {set_aside} unreadable"
        );
        let work = group.recover(vec![], now).into();
        let found = group.fleet().total();
        let cursor = group.snapshot().cursor.0;
        let life = Self { group, runners, work, now, chance: Chance::new(chance), cursor, heard: vec![], found };
        life.look();
        life
    }

    /// A delivery comes in, twice sometimes.
    pub fn hear(&mut self, delivery: Delivery) {
        self.heard.push(delivery.event.clone());
        for _ in 0..=self.chance.below(2) {
            self.cursor = self.cursor.saturating_add(1);
            let known = self.group.job(delivery.event.job.id).map(|job| actors::model::job::Job::clone(job));
            let known = known.filter(|_| self.chance.one_in(2));
            let assigned = !self.chance.one_in(4);
            let entry = InboxEntry { cursor: Cursor(self.cursor), delivery: delivery.clone(), assigned, known };
            let effects = self.group.delivered(entry, self.now);
            self.did(effects);
        }
    }

    /// Some time goes by. Returns what the group has become, in words.
    pub fn turns(&mut self, turns: usize) -> String {
        for _ in 0..turns {
            self.turn();
        }
        let counts = self.group.job_counts();
        format!("{counts:?} {:?} {:?}", self.group.snapshot(), self.group.fleet().total())
    }

    fn turn(&mut self) {
        for _ in 0..EFFECTS_MAX {
            let Some(effect) = self.work.pop_front() else { break };
            self.carry_out(effect);
        }
        self.work.truncate(10 * EFFECTS_MAX);
        let effects = match self.chance.below(9) {
            0 => self.group.drain(self.now),
            1 => self.group.resume(self.now),
            2 => self.group.reset(self.now),
            3 => self.group.create_runner(self.now).map(|(_, effects)| effects).unwrap_or_default(),
            4 => {
                let listing = self.listing();
                self.group.listed(&listing, self.now)
            }
            5 => {
                let id = self.heard.first().map_or(actors::id::JobId(1), |event| event.job.id);
                let answer = match self.chance.below(3) {
                    0 => Err(self.github_error()),
                    1 => Ok(None),
                    _ => Ok(self.heard.last().cloned()),
                };
                self.group.verified(id, answer, self.now)
            }
            6 => self.revive(),
            _ => self.group.tick(self.now),
        };
        self.did(effects);
        self.save();
        self.look();
        let pauses = [0, 1, 30, 61, 700, 4000, 90_000];
        let wake = self.group.wake_at(self.now);
        self.now = match self.chance.below(4) {
            0 if wake > self.now && wake.as_second() < self.now.as_second() + 1_000_000 => wake,
            _ => self.now + Duration::from_secs(*self.chance.pick(&pauses)),
        };
    }

    fn revive(&mut self) -> Vec<group::Effect> {
        let names: Vec<RunnerName> = self.runners.keys().cloned().collect();
        if names.is_empty() {
            return vec![];
        }
        let name = self.chance.pick(&names).clone();
        match self.chance.below(3) {
            0 => self.group.revive(&name),
            1 => self.group.delete_runner(&name, self.chance.one_in(2)).unwrap_or_default(),
            _ => {
                let report = InstanceReport::new(ReportStatus::Failed, "it broke");
                self.group.instance_report(&name, report).unwrap_or_default()
            }
        }
    }

    /// What a save writes can be read again.
    fn save(&mut self) {
        if let Some((snapshot, jobs)) = self.group.take_changes() {
            assert_round_trip(&snapshot);
            for job in jobs.iter().take(20) {
                assert_round_trip(&**job);
            }
            if self.chance.one_in(8) {
                self.group.changes_were_not_saved(&jobs);
            }
            if self.chance.one_in(16) {
                let stored = self.runners.values().filter(|_| self.chance.one_in(2)).cloned().collect();
                let effects = self.group.write_again(stored, self.now);
                self.did(effects);
                self.cursor = 0;
            }
        }
    }

    /// All that others ask a group for.
    fn look(&self) {
        let _ = (self.group.has_capacity(), self.group.demand().oldest_since(), self.group.may_lose_runner_group());
        let _ = self.group.wake_at(self.now);
        for runner in self.runners.values() {
            let _ = runner::wake_at(runner);
        }
    }

    fn did(&mut self, effects: Vec<group::Effect>) {
        let starts = effects.iter().any(|effect| matches!(effect, group::Effect::Spawn(_, Event::Start)));
        let (total, max) = (self.group.fleet().total(), self.group.settings().max);
        assert!(!starts || total <= max.max(self.found), "{total} runners, and {max} are the most");
        self.work.extend(effects);
    }

    fn carry_out(&mut self, effect: group::Effect) {
        match effect {
            group::Effect::Spawn(runner, event) => {
                let name = runner.name.clone();
                if !matches!(event, Event::Start) {
                    self.found = self.found.max(self.group.fleet().total());
                }
                self.runners.entry(name.clone()).or_insert_with(|| Runner::clone(&runner));
                self.step(&name, event);
            }
            group::Effect::Tell(name, event) => self.step(&name, event),
            group::Effect::Probe(backend) => {
                let answer = if self.chance.one_in(2) { Ok(()) } else { Err("it is down".to_owned()) };
                let effects = self.group.probed(&backend, answer, self.now);
                self.did(effects);
            }
            group::Effect::Healthcheck => {
                let listing = self.listing();
                let effects = self.group.listed(&listing, self.now);
                self.found = self.found.max(self.group.fleet().total());
                self.did(effects);
            }
            group::Effect::Verify(job, _) => {
                let answer = if self.chance.one_in(2) { Ok(None) } else { Err(self.github_error()) };
                let effects = self.group.verified(job, answer, self.now);
                self.did(effects);
            }
            group::Effect::Note(_) => {}
        }
    }

    fn step(&mut self, name: &RunnerName, event: Event) {
        let mut events = VecDeque::from([event]);
        for _ in 0..6 {
            let (Some(event), Some(before)) = (events.pop_front(), self.runners.get(name)) else { break };
            let kept = before.history.len().max(HISTORY_MAX);
            let (after, effects) = runner::step(before.clone(), event, self.now);
            assert!(after.history.len() <= kept, "a history of {} entries", after.history.len());
            let _ = runner::wake_at(&after);
            self.runners.insert(name.clone(), after.clone());
            let told = self.group.runner_changed(Arc::new(after), self.now);
            self.did(told);
            events.extend(effects.into_iter().filter_map(|effect| self.answer(name, effect)));
            if events.is_empty() && self.chance.one_in(2) {
                events.push_back(Event::Tick);
            }
        }
        if let Some(runner) = self.runners.get(name) {
            assert_round_trip(runner);
        }
    }

    fn answer(&mut self, name: &RunnerName, effect: runner::Effect) -> Option<Event> {
        let good = self.chance.one_in(2);
        let secret = || Secret::new("aml0".to_owned());
        let id = RunnerId(self.chance.next() >> self.chance.below(64));
        Some(match effect {
            runner::Effect::Register if good => Event::Registered { id, jit_config: secret() },
            runner::Effect::Register => Event::RegisterFailed(self.github_error()),
            runner::Effect::CreateInstance { .. } if good => Event::Created(InstanceId::new("i-1").unwrap()),
            runner::Effect::CreateInstance { jit_config } => {
                let jit_config = Some(jit_config).filter(|_| self.chance.one_in(2));
                Event::CreateFailed { error: self.backend_error(), jit_config }
            }
            runner::Effect::LookUpInstance => Event::InstanceLookedUp(match self.chance.below(3) {
                0 => Err(self.backend_error()),
                1 => Ok(None),
                _ => Ok(Some(self.instance(name))),
            }),
            runner::Effect::LookUpRegistration => Event::RegistrationLookedUp(match self.chance.below(3) {
                0 => Err(self.github_error()),
                1 => Ok(None),
                _ => Ok(Some(self.remote(name))),
            }),
            runner::Effect::Deregister => Event::Deregistered(match self.chance.below(4) {
                0 => Err(self.github_error()),
                1 => Ok(Deregistered::Busy),
                2 => Ok(Deregistered::Absent),
                _ => Ok(Deregistered::Removed),
            }),
            runner::Effect::DeleteInstance if good => Event::InstanceDeleted(Ok(())),
            runner::Effect::DeleteInstance => Event::InstanceDeleted(Err(self.backend_error())),
            runner::Effect::UpdateMetadata => return None,
        })
    }

    fn wait(&mut self) -> Duration {
        *self.chance.pick(&[Duration::ZERO, Duration::from_secs(9), Duration::from_secs(1 << 40), Duration::MAX])
    }

    fn github_error(&mut self) -> GitHubError {
        let text = "it said so".to_owned();
        match self.chance.below(5) {
            0 => GitHubError::RateLimited { text, retry_after: self.wait() },
            1 => GitHubError::NotFound(text),
            2 => GitHubError::Forbidden(text),
            3 => GitHubError::Conflict(text),
            _ => GitHubError::Unknown(text),
        }
    }

    fn backend_error(&mut self) -> BackendError {
        let text = "it said so".to_owned();
        match self.chance.below(6) {
            0 => BackendError::Throttled { text, retry_after: Some(self.wait()) },
            1 => BackendError::NoCapacity(text),
            2 => BackendError::Invalid(text),
            3 => BackendError::Timeout(text),
            4 => BackendError::Unreachable(text),
            _ => BackendError::Unavailable(text),
        }
    }

    fn instance(&mut self, name: &RunnerName) -> Instance {
        let status = *self.chance.pick(&[InstanceStatus::Running, InstanceStatus::Stopped, InstanceStatus::Unknown]);
        Instance { id: InstanceId::new("i-1").unwrap(), runner: name.clone(), status }
    }

    fn remote(&mut self, name: &RunnerName) -> RemoteRunner {
        let (online, busy) = (self.chance.one_in(2), self.chance.one_in(3));
        let labels = vec!["managed-by-test".to_owned()];
        RemoteRunner { id: RunnerId(7), name: name.to_string(), online, busy, labels }
    }

    /// What both sides list: some of the runners, and some that nobody knows.
    fn listing(&mut self) -> Listing {
        let mut names: Vec<RunnerName> = self.runners.keys().cloned().collect();
        names.extend((0..3).map(|n| self.group.settings().name.runner_name(n)));
        names.retain(|_| !self.chance.one_in(3));
        let registered = names.iter().map(|name| self.remote(name)).collect();
        let registered = if self.chance.one_in(5) { Err("down".to_owned()) } else { Ok(Arc::new(registered)) };
        names.retain(|_| !self.chance.one_in(3));
        let instances: Vec<Instance> = names.iter().map(|name| self.instance(name)).collect();
        let listed = |backend: &str, instances| Listed { backend: backend.to_owned(), instances };
        let other = if self.chance.one_in(2) { Ok(vec![]) } else { Err("down".to_owned()) };
        let instances = vec![listed("base", Ok(instances)), listed("docker", other)];
        Listing { at: self.now, registered, instances }
    }
}

/// Whether a runner would be loaded by its group: it is not final.
pub fn is_open(runner: &Runner) -> bool {
    !matches!(runner.state, RunnerState::Gone | RunnerState::Failed)
}
