//! What a seed makes: groups, jobs, and which faults come how often.

use std::collections::BTreeSet;
use std::time::Duration;

use actors::id::GroupName;
use actors::model::settings::{BackendLimits, GroupSettings, Scope};

use super::chance::Chance;

macro_rules! kinds {
    ($($kind:ident $often:literal,)*) => {
        /// A kind of fault. The number is how often in a thousand it strikes where it can, at the least.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($kind,)* }

        impl Kind {
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            fn often(self) -> u64 {
                match self { $(Self::$kind => $often,)* }
            }
        }
    };
}

kinds! {
    // Webhooks.
    DeliveryFails 40, DeliveryVanishes 15, DeliveryLate 40, DeliveryTwice 40, DeliveryReordered 100,
    // Jobs.
    Cancelled 60, Approval 60, Resent 60, Foreign 30,
    // Runners.
    NeverOnline 30, DiesAtBoot 30, DiesBusy 20, Lingers 100, ForgetsJob 20,
    // GitHub.
    GitHubFails 20, GitHubLoses 20, GitHubHangs 5, GitHubConflict 10, GitHubRefuses 10, GitHubOutage 150,
    BusyLies 300, PagesShift 30, RecordsFail 100, RecordsDown 1000,
    // Backends.
    CreateFails 40, CreateThrottled 20, CreateLost 20, CreateHangs 10, DeleteFails 40, DeleteHangs 10, ListsLate 500,
    ListFails 40, OutOfCapacity 150,
    // Store.
    SaveFails 10, SaveLost 10, StoreStalls 10, RecordLost 20, InboxFails 20, LoadFails 200,
    // The process and its clock.
    Crash 300, Stop 150, ClockJumps 150,
    // Several managers, one or all of which may be meant.
    ReplicaCrash 300, ReplicaStop 200, ReplicaSleeps 300, CutOff 200, Silent 200,
    BeatFails 10, BeatHangs 3, BeatLost 10, ClaimFails 50, ClaimLost 50, NoticeLost 100,
    // The store forgets all.
    Emptied 250,
    // Calls that panic.
    GitHubPanics 3, BackendPanics 3, StorePanics 2, ObserverPanics 2,
    // The store loses its last writes.
    GoesBack 250,
}

/// How many kinds there were before there were several managers: what the older seeds decide is not to change.
const FIRST_KINDS: usize = Kind::ReplicaCrash as usize;

/// The seeds of which a store that is shared may lose its last writes: older ones for the same reason, fresh ones because
/// in one of some thousand runs the promises do not hold then, and nobody has found yet whether they could.
const GOES_BACK: std::ops::Range<u64> = 1_000_000..2_000_000;

/// Minutes into the run: the last job has come; faults have healed.
const JOBS_UNTIL: u64 = 90;
const HEALED_AT: u64 = 100;

/// Something that happens once, for certain, in the small scenarios.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Twist {
    /// The first job is cancelled before a runner can have come.
    CancelsWaiting,
    /// The first job is cancelled while it runs.
    CancelsRunning,
    /// The first backend has no capacity.
    FirstIsFull,
    /// The answer of the first create is lost.
    LosesCreate,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub seed: u64,
    pub jobs: usize,
    pub kinds: BTreeSet<Kind>,
    /// How many times as often as usual faults strike.
    pub intensity: u64,
    pub groups: Vec<GroupSettings>,
    /// The manager ends right after this effect or save, counted from 1.
    pub crash_at: Option<u64>,
    /// Minutes into the run: faults have healed.
    pub healed_at: u64,
    pub twist: Option<Twist>,
    /// How many managers share the groups; none: one that shares them with nobody.
    pub replicas: usize,
    /// Whether GitHub says what became of jobs. Otherwise nothing makes up for a delivery that was recorded and forgotten.
    pub tells_of_jobs: bool,
}

impl Scenario {
    /// A scenario in which there may be several managers, calls panic and the store forgets: one of [`Self::of`], and
    /// more.
    pub fn wide(seed: u64, jobs: usize) -> Self {
        let mut scenario = Self::of(seed, jobs);
        let mut chance = Chance::new(seed, 6);
        scenario.replicas = chance.pick(&[0, 0, 0, 0, 0, 1, 2, 2, 2, 3]);
        let density = chance.pick(&[0, 100, 300, 500]);
        let more = Kind::ALL[FIRST_KINDS..].iter().copied().filter(|_| chance.per_mille(density));
        scenario.kinds.extend(more.collect::<Vec<_>>());
        if !scenario.is_shared() || !GOES_BACK.contains(&seed) {
            scenario.kinds.remove(&Kind::GoesBack);
        }
        scenario
    }

    /// How many managers there are.
    pub fn managers(&self) -> usize {
        self.replicas.max(1)
    }

    /// Whether they share the groups, by leases.
    pub fn is_shared(&self) -> bool {
        self.replicas > 0
    }

    /// Whether it has more than one manager to itself.
    pub fn is_wide(&self) -> bool {
        self.is_shared() || self.kinds.iter().any(|kind| *kind as usize >= FIRST_KINDS)
    }

    pub fn of(seed: u64, jobs: usize) -> Self {
        let mut chance = Chance::new(seed, 1);
        // Some runs are calm, some have one kind of fault, most have many.
        let density = chance.pick(&[0, 100, 300, 300, 500, 500, 700]);
        let intensity = chance.pick(&[1, 1, 2, 3]);
        let mut kinds: BTreeSet<Kind> =
            Kind::ALL[..FIRST_KINDS].iter().copied().filter(|_| chance.per_mille(density)).collect();
        // Mostly GitHub can be asked what became of jobs.
        if !chance.per_mille(300) {
            kinds.remove(&Kind::RecordsDown);
        }
        Self {
            seed,
            jobs,
            kinds,
            intensity,
            groups: groups(&mut chance),
            crash_at: None,
            healed_at: HEALED_AT,
            twist: None,
            replicas: 0,
            tells_of_jobs: true,
        }
    }

    /// Whether the store may lose something.
    pub fn forgets(&self) -> bool {
        self.has(Kind::Emptied) || self.has(Kind::GoesBack)
    }

    pub fn has(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    /// When a job comes, in milliseconds.
    pub fn comes_at(&self, chance: &mut Chance) -> u64 {
        // Bursts: a third of all jobs comes at a few moments.
        let window = (JOBS_UNTIL * 60_000).min(self.jobs as u64 * 60_000);
        if chance.per_mille(333) { chance.below(5) * window / 5 + chance.below(50) } else { chance.below(window) }
    }
}

fn groups(chance: &mut Chance) -> Vec<GroupSettings> {
    let minutes = |n| Duration::from_secs(n * 60);
    let all: [(&str, &[&str]); 3] = [("alpha", &["alpha"]), ("Beta.X", &["beta"]), ("gamma", &["alpha", "gpu"])];
    let count = chance.between(1, 3) as usize;
    let mut group = |(name, labels): (&str, &[&str])| {
        let labels = labels.iter().map(ToString::to_string).collect();
        let place = |name: &str, chance: &mut Chance| BackendLimits {
            create_timeout: minutes(1),
            delete_timeout: minutes(1),
            max_concurrency: chance.pick(&[2, 16]),
            ..BackendLimits::new(name)
        };
        let mut backends = vec![place("near", chance)];
        if chance.per_mille(400) {
            backends.push(place("far", chance));
        }
        let max = chance.pick(&[2, 4, 6, 10]) as u32;
        GroupSettings {
            min: (chance.pick(&[0, 0, 1, 2]) as u32).min(max),
            time_to_start: minutes(chance.between(4, 10)),
            time_to_live: minutes(chance.pick(&[45, 600, 600, 600])),
            idle_timeout: minutes(chance.between(1, 5)),
            healthcheck_interval: minutes(chance.pick(&[5, 15])),
            backends,
            ..GroupSettings::new(GroupName::new(name).unwrap(), Scope::Organization("octo-org".into()), labels, max)
        }
    };
    all.into_iter().take(count).map(&mut group).collect()
}

/// The faults of a run, as they strike.
pub struct Faults {
    kinds: Vec<Option<(Chance, u64)>>,
    pub healed: bool,
    pub struck: std::collections::BTreeMap<Kind, u64>,
}

impl Faults {
    pub fn of(scenario: &Scenario) -> Self {
        let stream = |kind: &Kind| {
            let often = (kind.often() * scenario.intensity).min(1000);
            scenario.has(*kind).then(|| (Chance::new(scenario.seed, 1000 + *kind as u64), often))
        };
        Self { kinds: Kind::ALL.iter().map(stream).collect(), healed: false, struck: Default::default() }
    }

    /// Whether this fault strikes now.
    pub fn strikes(&mut self, kind: Kind) -> bool {
        let Some((chance, often)) = &mut self.kinds[kind as usize] else { return false };
        let strikes = chance.per_mille(*often) && !self.healed;
        if strikes {
            *self.struck.entry(kind).or_default() += 1;
        }
        strikes
    }

    /// A number for the fault that has just struck.
    pub fn between(&mut self, kind: Kind, from: u64, to: u64) -> u64 {
        self.kinds[kind as usize].as_mut().map_or(from, |(chance, _)| chance.between(from, to))
    }
}
