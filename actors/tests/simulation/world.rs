//! The simulated world: one clock, one agenda, and everything that exists outside the manager.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use actors::id::*;
use actors::model::delivery::JobEvent;
use actors::port::backend::Owner;
use actors::port::github::SentDelivery;
use actors::port::{Clock, Observation, Observer};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::chance::Chance;
use super::jobs::{Job, Remote};
use super::leases::Leases;
use super::oracle::Oracle;
use super::replicas::{Me, Members};
use super::scenario::{Faults, Kind, Scenario};
use super::store::Books;

pub const MANAGER: &str = "simulated";
/// The label that marks registrations of this deployment, as SPEC says: by the manager's name.
pub const MARK: &str = "managed-by-simulated";

/// What comes at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    JobComes(u64),
    Approve(u64),
    Cancel(u64),
    /// A runner starts with the job that it was given.
    Take(u64, String),
    /// A runner that was given a job did not start with it.
    Unassign(u64),
    Over(u64, String),
    /// GitHub gives a job up whose runner is not heard of.
    Fails(u64, String),
    ForeignTakes(u64),
    Resend(u64),
    Deliver(String),
    Boot(String),
    Dies(String),
    /// A create that hangs has its effect.
    Appears(String),
    /// Of one of the managers.
    Crash(usize),
    /// The process has ended.
    Killed(usize),
    Stop(usize),
    Start(usize),
    /// A manager is stopped and goes on later, is cut off from the store, or its beats fail; and that is over.
    Sleeps(usize),
    CutOff(usize),
    Silent(usize),
    Recovers(usize),
    /// The store loses all that it has.
    Empty,
    /// What the store has now is what it will go back to; it does.
    Keep,
    GoBack,
    /// Whether every group has an owner.
    Watch,
    /// GitHub refuses everything in one way; a backend has no capacity.
    Outage,
    Jump,
    Heal,
    /// Only so that somebody looks.
    Look,
}

/// An instance.
#[derive(Debug, Clone)]
pub struct Machine {
    pub owner: Owner,
    pub place: String,
    pub running: bool,
    /// Backends that list late show it from then on.
    pub listed_from: u64,
    pub made_at: u64,
    /// A listing has shown it.
    pub shown: bool,
}

/// The state of the world. Times are milliseconds since its beginning, by its own clock.
pub struct State {
    pub scenario: Scenario,
    pub faults: Faults,
    pub agenda: BTreeMap<(u64, u64), What>,
    pub wake: Arc<Notify>,
    seq: u64,
    start: Instant,
    /// The last life of a manager that was begun, or is to begin next.
    pub life: u64,
    /// Which lives they are, by manager; calls of earlier ones have no effect and no answer.
    pub lives: Vec<u64>,
    /// The replicas, when there are any.
    pub members: Members,
    pub leases: Leases,
    /// Effects outside and writes of the store so far, and how many of them are writes.
    pub effects: u64,
    pub writes: u64,
    /// How far the manager's clock is off, in milliseconds.
    pub skew: i64,
    pub jobs: BTreeMap<u64, Job>,
    pub runners: BTreeMap<String, Remote>,
    pub machines: BTreeMap<String, Machine>,
    /// Creates that were asked for and have no effect yet.
    pub creating: BTreeMap<String, (u64, Owner, String)>,
    /// Which manager asked for them.
    pub makers: BTreeMap<String, usize>,
    pub posts: BTreeMap<String, JobEvent>,
    pub history: Vec<SentDelivery>,
    pub books: Books,
    pub oracle: Oracle,
    /// Until when GitHub refuses everything, and how; until when these backends have no capacity.
    pub outage: Option<(u64, &'static str)>,
    pub full: BTreeMap<String, u64>,
    pub chance: Chance,
    /// Decides which manager gets a delivery.
    pub balance: Chance,
    entropy: Chance,
    pub next_id: u64,
    /// Numbers the writes of the store that give a group an owner, or save it.
    pub saves: u64,
    pub transcript: Transcript,
}

/// What happened, as a hash, and the end of it in words.
pub struct Transcript {
    pub hash: u64,
    pub count: u64,
    pub lines: Vec<String>,
    keep: usize,
}

impl Transcript {
    fn add(&mut self, line: String) {
        for byte in line.bytes().chain([b'\n']) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.count += 1;
        if self.lines.len() >= 2 * self.keep {
            self.lines.drain(..self.keep);
        }
        self.lines.push(line);
    }
}

impl State {
    pub fn elapsed(&self) -> u64 {
        u64::try_from((Instant::now() - self.start).as_millis()).unwrap()
    }

    /// The time by the manager's clock.
    pub fn now(&self) -> Timestamp {
        let since = i64::try_from(self.elapsed()).unwrap() + self.skew;
        Timestamp::from_millisecond(1_700_000_000_000 + since).unwrap()
    }

    pub fn note(&mut self, line: impl Display) {
        let at = self.elapsed();
        self.transcript.add(format!("{:>7}.{:03} {line}", at / 1000, at % 1000));
    }

    /// Puts something on the agenda, in so many milliseconds.
    pub fn after(&mut self, wait: u64, what: What) {
        self.seq += 1;
        let key = (self.elapsed() + wait, self.seq);
        if self.agenda.first_key_value().is_none_or(|(first, _)| key < *first) {
            self.wake.notify_one();
        }
        self.agenda.insert(key, what);
    }

    /// When something is due next.
    pub fn next_due(&self) -> Option<Instant> {
        self.agenda.first_key_value().map(|((at, _), _)| self.start + Duration::from_millis(*at))
    }

    /// What is due now.
    pub fn due(&mut self) -> Option<What> {
        let (at, _) = *self.agenda.first_key_value()?.0;
        if at > self.elapsed() {
            return None;
        }
        self.agenda.pop_first().map(|(_, what)| what)
    }

    /// The group whose runners have names like this one.
    pub fn group_of(&self, runner: &str) -> Option<&actors::model::settings::GroupSettings> {
        self.scenario.groups.iter().find(|group| group.name.owns_name(runner))
    }
}

/// The world, shared by all that live in it.
pub struct World {
    state: Mutex<State>,
}

impl World {
    /// A world in which nothing happened yet; `keep` is how many lines of the transcript are kept at least.
    pub fn new(scenario: &Scenario, keep: usize) -> Arc<Self> {
        let state = State {
            faults: Faults::of(scenario),
            agenda: BTreeMap::new(),
            wake: Arc::default(),
            seq: 0,
            start: Instant::now(),
            life: scenario.managers() as u64 - 1,
            lives: (0..scenario.managers() as u64).collect(),
            members: Members::of(scenario),
            leases: Leases::default(),
            effects: 0,
            writes: 0,
            skew: 0,
            jobs: BTreeMap::new(),
            runners: BTreeMap::new(),
            machines: BTreeMap::new(),
            creating: BTreeMap::new(),
            makers: BTreeMap::new(),
            posts: BTreeMap::new(),
            history: vec![],
            books: Books::default(),
            oracle: Oracle::default(),
            outage: None,
            full: BTreeMap::new(),
            chance: Chance::new(scenario.seed, 2),
            balance: Chance::new(scenario.seed, 7),
            entropy: Chance::new(scenario.seed, 3),
            next_id: 0,
            saves: 0,
            transcript: Transcript { hash: 0xcbf2_9ce4_8422_2325, count: 0, lines: vec![], keep },
            scenario: scenario.clone(),
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The way of one life of a manager to the world.
#[derive(Clone)]
pub struct Site {
    pub world: Arc<World>,
    pub life: u64,
    pub me: Arc<Me>,
}

impl Site {
    /// The world, once this life goes on; if it is over, nobody comes back.
    pub async fn enter(&self) -> MutexGuard<'_, State> {
        self.goes_on().await;
        self.world.lock()
    }

    /// Waits between `from` and `to` milliseconds.
    pub async fn pause(&self, from: u64, to: u64) {
        let wait = self.world.lock().chance.between(from, to);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        self.goes_on().await;
    }

    /// The store wrote something just now.
    pub async fn written(&self) {
        self.world.lock().writes += 1;
        self.effect().await;
    }

    /// Something outside was changed, or saved, just now: the moment at which a process may end.
    pub async fn effect(&self) {
        {
            let mut state = self.world.lock();
            state.effects += 1;
            let ends = state.scenario.crash_at == Some(state.effects);
            if ends {
                state.note("the process ends right after this");
                state.die(self.me.slot);
            }
        }
        self.goes_on().await;
    }

    /// Waits while this life sleeps, in the order of those who wait; for ever when it is over.
    async fn goes_on(&self) {
        loop {
            let awake = {
                let state = self.world.lock();
                if !state.lives.contains(&self.life) {
                    None
                } else if let Some(awake) = state.members.asleep(self.me.slot) {
                    Some(awake)
                } else {
                    return;
                }
            };
            match awake {
                Some(awake) => awake.notified().await,
                None => std::future::pending().await,
            }
        }
    }
}

impl State {
    /// The process ends without a word: what it was about to do is cut off, or just gets through.
    pub fn die(&mut self, slot: usize) {
        self.ends(slot);
        self.after(0, What::Killed(slot));
        let mine = |name: &&String| self.makers.get(*name) == Some(&slot);
        let names: Vec<String> = self.creating.keys().filter(mine).cloned().collect();
        for name in names {
            let through = self.chance.per_mille(500);
            let entry = self.creating.remove(&name);
            if through && let Some((at, owner, place)) = entry {
                // What is on its way arrives within the two seconds that a manager waits for it.
                let wait = at.saturating_sub(self.elapsed()).min(self.chance.below(2000));
                self.creating.insert(name.clone(), (self.elapsed() + wait, owner, place));
                self.after(wait, What::Appears(name));
            }
        }
    }

    /// A life of a manager is over.
    pub fn ends(&mut self, slot: usize) {
        self.leases.leaves(self.lives[slot], self.elapsed());
        self.life += 1;
        self.lives[slot] = self.life;
        self.members.recovers(slot);
    }

    /// Makes the instance that was asked for.
    pub fn appear(&mut self, name: &str) -> bool {
        let Some((_, owner, place)) = self.creating.remove(name) else { return self.machines.contains_key(name) };
        let late =
            if self.faults.strikes(Kind::ListsLate) { self.faults.between(Kind::ListsLate, 1, 90_000) } else { 0 };
        self.note(format_args!("instance {name} at {place}"));
        let (made_at, listed_from) = (self.elapsed(), self.elapsed() + late);
        self.machines
            .insert(name.to_owned(), Machine { owner, place, running: true, listed_from, made_at, shown: false });
        let wait = self.chance.between(2_000, 60_000);
        self.after(wait, What::Boot(name.to_owned()));
        self.check_max(name);
        true
    }
}

impl Clock for Site {
    fn now(&self) -> Timestamp {
        self.world.lock().now()
    }

    fn entropy(&self) -> u64 {
        self.world.lock().entropy.next()
    }
}

impl Observer for Site {
    fn observe(&self, observation: &Observation<'_>) {
        self.may_panic(observation);
        let mut state = self.world.lock();
        match observation {
            Observation::ActorRestarted { actor } => state.restarted(actor),
            Observation::Leak { group, side } => state.note(format_args!("leak in {group}: {side}")),
            Observation::RunnerDeleted { group, reason } => {
                state.note(format_args!("runner of {group} gone: {}", reason.as_str()));
            }
            _ => {}
        }
    }
}

/// Things of others that are never to be touched: what is called like ours, and what belongs to another manager.
pub fn foreign(state: &mut State) {
    let group = state.scenario.groups[0].name.clone();
    let twin = group.runner_name(7).to_string();
    for name in [twin.as_str(), "somebody-else", "stranger"] {
        state.next_id += 1;
        let labels = vec!["self-hosted".to_owned(), "linux".to_owned()];
        let mut remote = Remote::new(RunnerId(state.next_id), name, labels);
        remote.spent = true;
        state.runners.insert(name.to_owned(), remote);
    }
    let other = ManagerName::new("another").unwrap();
    let name = group.runner_name(8).to_string();
    let owner = Owner { manager: other, group };
    state
        .machines
        .insert(name, Machine { owner, place: "near".into(), running: true, listed_from: 0, made_at: 0, shown: false });
}

/// The names of what [`foreign`] made.
pub fn foreign_names(state: &State) -> (BTreeSet<String>, String) {
    let group = &state.scenario.groups[0].name;
    let runners = [group.runner_name(7).to_string(), "somebody-else".to_owned(), "stranger".to_owned()];
    (runners.into(), group.runner_name(8).to_string())
}
