//! One run: lives of the manager, one after the other, and the world around them, until all is quiet or something is
//! wrong.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use actors::actor::directory::Directory;
use actors::actor::effect::World as Outside;
use actors::actor::front::Front;
use actors::actor::listings::Listings;
use actors::actor::reconciler;
use actors::actor::supervisor::{GroupSpec, System, SystemSpec};
use actors::id::*;
use actors::model::delivery::Delivery;
use actors::model::job::JobStatus;
use actors::port::github::RepositoryName;
use actors::port::{Backend, Replicas};
use futures_util::FutureExt;
use tokio::time::{Instant, sleep_until};

use super::backend::Place;
use super::chance::Chance;
use super::jobs;
use super::replicas::{self, named};
use super::scenario::{Kind, Scenario, Twist};
use super::world::{MANAGER, Site, State, What, World, foreign};

const MINUTE: u64 = 60_000;
/// Time after the end of the last job within which nothing is left that has no reason.
const CLEAN_WITHIN: u64 = 75 * MINUTE;
/// Time within which every job is known as it is: one that ran for more than an hour is asked about two hours later. Until
/// then its runner has a reason to stay.
const KNOWN_WITHIN: u64 = 150 * MINUTE;
/// How long all has to be well before a run ends.
const CALM: u64 = 6;

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    pub hash: u64,
    pub steps: u64,
    /// Effects outside and writes of the store, and how many of them are writes.
    pub effects: u64,
    pub writes: u64,
    pub violations: Vec<String>,
    pub lines: Vec<String>,
    pub struck: BTreeMap<Kind, u64>,
    pub lives: u64,
    /// How each job is saved.
    pub statuses: BTreeMap<JobId, (JobStatus, Option<String>)>,
}

/// Carries out a scenario, on a clock of its own.
pub fn run(scenario: &Scenario) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let keep = if std::env::var_os("SIMULATE_TRACE").is_some() { usize::MAX / 4 } else { 400 };
    runtime.block_on(direct(scenario, keep))
}

struct Manager {
    system: System,
    front: Front,
}

async fn start(world: &Arc<World>, slot: usize) -> Manager {
    let site = Arc::new(Site::begin(world, slot));
    let scenario = world.lock().scenario.clone();
    let outside = Outside {
        github: site.clone(),
        records: site.clone(),
        store: site.clone(),
        clock: site.clone(),
        observer: site.clone(),
        listings: Arc::new(Listings::new(site.clone(), site.clone())),
        tasks: Default::default(),
        stopping: Default::default(),
        lease: Default::default(),
    };
    let groups: Vec<_> = scenario.groups.iter().cloned().map(Arc::new).collect();
    let directory = Directory::new(groups.clone());
    let front =
        Front { directory: directory.clone(), store: site.clone(), clock: site.clone(), observer: site.clone() };
    let reconciler = reconciler::service(reconciler::Args {
        front: front.clone(),
        records: site.clone(),
        webhook_path: "/webhook".into(),
        repositories: vec![RepositoryName { owner: "octo-org".into(), name: "app".into() }],
        interval: reconciler::RECONCILE_EVERY,
    });
    let place = |name: &str| Arc::new(Place { site: Site::clone(&site), name: name.to_owned() }) as Arc<dyn Backend>;
    let groups = groups.into_iter().map(|settings| GroupSpec {
        backends: settings.backends.iter().map(|limits| place(&limits.name)).collect(),
        settings,
        listings: None,
    });
    let spec = SystemSpec {
        manager: ManagerName::new(MANAGER).unwrap(),
        world: outside,
        directory,
        groups: groups.collect(),
        services: vec![reconciler],
        replicas: scenario.is_shared().then_some(site as Arc<dyn Replicas>),
    };
    Manager { system: System::start(spec).await.unwrap(), front }
}

/// What happens to the world as a whole, and when.
fn plan(state: &mut State) {
    let mut chance = Chance::new(state.scenario.seed, 5);
    let healed_at = state.scenario.healed_at * MINUTE;
    if state.scenario.twist == Some(Twist::FirstIsFull) {
        state.full.insert("near".to_owned(), healed_at);
    }
    for (kind, what) in [(Kind::Crash, What::Crash(0)), (Kind::Stop, What::Stop(0)), (Kind::ClockJumps, What::Jump)] {
        for _ in 0..6 {
            let at = chance.below(healed_at);
            if state.faults.strikes(kind) {
                state.after(at, what.clone());
            }
        }
    }
    for _ in 0..6 {
        let at = chance.below(healed_at);
        state.after(at, What::Outage);
    }
    state.after(healed_at, What::Heal);
    replicas::plan(state);
}

struct Director {
    world: Arc<World>,
    managers: Vec<Option<Manager>>,
    /// Since when all jobs are over; looks in a row at which all was well.
    quiet: Option<u64>,
    calm: u64,
    done: bool,
    deadline: u64,
}

async fn direct(scenario: &Scenario, keep: usize) -> Outcome {
    let world = World::new(scenario, keep);
    {
        let mut state = world.lock();
        foreign(&mut state);
        jobs::plan(&mut state);
        plan(&mut state);
    }
    let mut managers = vec![];
    for slot in 0..scenario.managers() {
        managers.push(Some(start(&world, slot).await));
    }
    let mut director =
        Director { world: world.clone(), managers, quiet: None, calm: 0, done: false, deadline: u64::MAX };
    let wake = world.lock().wake.clone();
    while !director.done {
        let (due, next) = {
            let mut state = world.lock();
            (state.due(), state.next_due())
        };
        match due {
            Some(what) => director.happens(what).await,
            None => {
                tokio::select! {
                    biased;
                    () = wake.notified() => {}
                    () = sleep_until(next.unwrap_or_else(|| Instant::now() + Duration::from_secs(60))) => {}
                }
            }
        }
    }
    let mut state = world.lock();
    let violations = std::mem::take(&mut state.oracle.violations);
    let saved = state.books.jobs.values().map(|job| (job.id(), (job.status, job.conclusion.clone()))).collect();
    Outcome {
        hash: state.transcript.hash,
        steps: state.transcript.count,
        effects: state.effects,
        writes: state.writes,
        violations,
        lines: std::mem::take(&mut state.transcript.lines),
        struck: std::mem::take(&mut state.faults.struck),
        lives: state.life + 1,
        statuses: saved,
    }
}

impl Director {
    async fn happens(&mut self, what: What) {
        let world = self.world.clone();
        match what {
            What::Killed(slot) => {
                if let Some(manager) = self.managers[slot].take() {
                    manager.system.kill().await;
                    let mut state = world.lock();
                    let wait = state.chance.between(100, 120_000);
                    state.after(wait, What::Start(slot));
                }
            }
            What::Stop(slot) => {
                if let Some(manager) = self.managers[slot].take() {
                    world.lock().stops(slot);
                    tokio::spawn(async move {
                        manager.system.stop(Duration::from_secs(30)).await;
                        let mut state = world.lock();
                        state.ends(slot);
                        let wait = state.chance.between(100, 60_000);
                        state.after(wait, What::Start(slot));
                    });
                }
            }
            What::Start(slot) => {
                self.managers[slot] = Some(start(&world, slot).await);
            }
            What::Deliver(guid) => self.deliver(guid),
            What::Look => self.look(),
            What::Crash(slot) => {
                let mut state = world.lock();
                if self.managers[slot].is_some() && !state.faults.healed {
                    state.note(format_args!("the process{} is killed", named(slot)));
                    state.die(slot);
                }
            }
            What::Empty => world.lock().empty(self.managers.iter().any(Option::is_some)),
            other => world.lock().happens(other),
        }
    }

    fn deliver(&self, guid: String) {
        let mut state = self.world.lock();
        let living: Vec<&Manager> = self.managers.iter().flatten().collect();
        // The balance in front of them knows who lives.
        let pick = if living.len() > 1 { state.balance.below(living.len() as u64) as usize } else { 0 };
        let (Some(manager), Some(event)) = (living.get(pick), state.posts.get(&guid).cloned()) else {
            return state.attempted(&guid, false);
        };
        let id = DeliveryId::new(&guid).unwrap();
        let delivery = Delivery { id, received_at: state.now(), event, matched: String::new() };
        let (front, world) = (manager.front.clone(), self.world.clone());
        tokio::spawn(async move {
            // GitHub waits for ten seconds.
            let accept = AssertUnwindSafe(front.accept(delivery)).catch_unwind();
            let answer = tokio::time::timeout(Duration::from_secs(10), accept).await;
            let delivered = matches!(answer, Ok(Ok(Ok(_))));
            let mut state = world.lock();
            if delivered && !state.books.has(&guid) && !state.members.just_emptied(state.elapsed()) {
                state.violated(format!("promise 2: {guid} is acknowledged and not recorded"));
            }
            state.attempted(&guid, delivered);
        });
    }

    /// Once faults have healed: whether all comes to its end in time.
    fn look(&mut self) {
        let mut state = self.world.lock();
        if !state.oracle.violations.is_empty() {
            self.done = true;
            return;
        }
        if !state.faults.healed {
            return;
        }
        let at = state.elapsed();
        if self.deadline == u64::MAX {
            self.deadline = at + state.longest();
        }
        let left = state.jobs_left();
        if !left.is_empty() {
            (self.quiet, self.calm) = (None, 0);
            if at > self.deadline {
                state.violated(format!("promise 6: jobs {left:?} have no runner, or did not end"));
            }
        } else {
            let quiet = at - *self.quiet.get_or_insert(at);
            let (jobs, things) = (state.wrong_jobs(), state.leftovers());
            let late = if jobs.is_empty() { quiet > CLEAN_WITHIN && !things.is_empty() } else { quiet > KNOWN_WITHIN };
            self.calm = if jobs.is_empty() && things.is_empty() { self.calm + 1 } else { 0 };
            if late {
                state.violated(format!("promises 7 and 11: {}", [jobs, things].concat().join("; ")));
            } else if self.calm >= CALM {
                for text in state.unbounded() {
                    state.violated(text);
                }
                self.done = true;
            }
        }
        state.after(MINUTE, What::Look);
    }
}

impl State {
    fn happens(&mut self, what: What) {
        match what {
            What::JobComes(id) => self.job_comes(id),
            What::Approve(id) => self.approve(id),
            What::Cancel(id) => self.cancel(id),
            What::Take(id, name) => self.take(id, &name),
            What::Unassign(id) => self.unassign(id),
            What::Over(id, name) => self.over(id, &name),
            What::Fails(id, name) => self.fails(id, &name),
            What::ForeignTakes(id) => self.foreign_takes(id),
            What::Resend(id) => self.resend(id),
            What::Boot(name) => self.boot(&name),
            What::Dies(name) => self.dies(&name),
            What::Appears(name) => drop(self.appear(&name)),
            What::Outage => self.outage(),
            What::Jump => self.jump(),
            What::Heal => {
                self.faults.healed = true;
                self.note("faults heal");
                self.all_recover();
                self.after(MINUTE, What::Look);
            }
            What::Sleeps(slot) => self.sleeps(slot),
            What::CutOff(slot) => self.cut_off(slot),
            What::Silent(slot) => self.silent(slot),
            What::Recovers(slot) => self.recovers(slot),
            What::Keep => self.keep(),
            What::GoBack => self.go_back(),
            What::Watch => self.watch(),
            What::Crash(_)
            | What::Killed(_)
            | What::Stop(_)
            | What::Start(_)
            | What::Empty
            | What::Deliver(_)
            | What::Look => {}
        }
    }

    fn outage(&mut self) {
        let at = self.elapsed();
        if self.faults.strikes(Kind::GitHubOutage) {
            let wait = self.faults.between(Kind::GitHubOutage, 10_000, 15 * MINUTE);
            let how = ["limit", "limit", "unauthorized", "forbidden", "hidden", "silent"];
            let how = how[self.faults.between(Kind::GitHubOutage, 0, how.len() as u64 - 1) as usize];
            self.note(format_args!("GitHub refuses everything: {how}"));
            self.outage = Some((at + wait, how));
        }
        if self.faults.strikes(Kind::OutOfCapacity) {
            let wait = self.faults.between(Kind::OutOfCapacity, 10_000, 15 * MINUTE);
            let place = ["near", "near", "far"][self.faults.between(Kind::OutOfCapacity, 0, 2) as usize];
            self.note(format_args!("{place} is full"));
            self.full.insert(place.to_owned(), at + wait);
        }
    }

    fn jump(&mut self) {
        let minutes = self.faults.between(Kind::ClockJumps, 0, 60) as i64 - 30;
        self.note(format_args!("the clock jumps by {minutes} minutes"));
        self.skew += minutes * MINUTE as i64;
    }

    /// The longest that the jobs which are left may take, runners that stumble included. Without an answer about jobs, one
    /// whose job is over and who lingers holds its place until its time to live, if nobody was told.
    fn longest(&self) -> u64 {
        let live = self.scenario.groups.iter().map(|group| group.time_to_live.as_millis()).max().unwrap_or_default();
        let held = if self.scenario.has(Kind::RecordsDown) { u64::try_from(live).unwrap() } else { 0 };
        let left: u64 = self.jobs.values().filter(|job| job.stage != jobs::Stage::Over).map(|job| job.runs_for).sum();
        let places = u64::from(self.scenario.groups.iter().map(|group| group.max).min().unwrap_or(1));
        held + 3 * left / places + 240 * MINUTE
    }
}
