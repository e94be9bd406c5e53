//! What a health check's two listings say: about each runner of a group, and about what nobody knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::id::{GroupName, RunnerName};
use crate::machine::fleet::Fleet;
use crate::machine::runner::{Seen, Sighting, minds};
use crate::model::group::Suspect;
use crate::model::instance::Instance;
use crate::model::remote::RemoteRunner;
use crate::model::runner::{DeleteReason, RunnerState};

/// How long something of ours without its counterpart is left alone after it was first seen.
pub const LEAK_GRACE: Duration = Duration::from_secs(60);
/// Listings that must show it before it is removed.
const LEAK_SIGHTINGS: u32 = 2;

/// Both sides of one group, as listed.
#[derive(Debug, Clone)]
pub struct Listing {
    /// When the older of the two listings began.
    pub at: Timestamp,
    /// Every runner of the scope; an error in words when GitHub did not answer.
    pub registered: Result<Arc<Vec<RemoteRunner>>, String>,
    /// What each of the group's backends said.
    pub instances: Vec<Listed>,
}

/// One backend's instances.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The backend's name.
    pub backend: String,
    /// Every instance of the group there; an error in words when the backend did not answer.
    pub instances: Result<Vec<Instance>, String>,
}

impl Listing {
    /// What went wrong, in words.
    pub fn errors(&self) -> impl Iterator<Item = &str> {
        let instances = self.instances.iter().filter_map(|listed| listed.instances.as_ref().err());
        self.registered.as_ref().err().into_iter().chain(instances).map(String::as_str)
    }
}

/// Something of ours that nobody tracks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// Its name.
    pub name: RunnerName,
    /// Its registration, if it has one.
    pub registration: Option<RemoteRunner>,
    /// Its instance, if it has one, and the name of the backend that has it.
    pub instance: Option<(String, Instance)>,
    /// What to do with it.
    pub verdict: Verdict,
}

/// What to do with a stray.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Track it in this state.
    Adopt(RunnerState),
    /// Remove it.
    Remove(DeleteReason),
}

/// Strays that are not removed yet.
pub type Suspects = BTreeMap<RunnerName, Suspect>;

/// What a health check found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Runners that must be told what was seen of them.
    pub sightings: Vec<(RunnerName, Sighting)>,
    /// Runners whose instance is at another backend than they know, with that backend: backends may change names.
    pub moved: Vec<(RunnerName, String)>,
    /// Untracked things that are to be adopted or removed.
    pub strays: Vec<Stray>,
    /// Registrations of this group.
    pub registered: Option<u32>,
    /// Instances of this group.
    pub instances: Option<u32>,
}

/// Compares both listings with the fleet. `marker` is the label that only runners of this deployment carry.
#[must_use]
pub fn compare(
    group: &GroupName,
    marker: &str,
    fleet: &Fleet,
    suspects: &mut Suspects,
    listing: &Listing,
    now: Timestamp,
) -> Findings {
    let registered: Option<BTreeMap<&str, &RemoteRunner>> = listing
        .registered
        .as_ref()
        .ok()
        .map(|all| all.iter().filter(|r| is_ours(group, marker, fleet, r)).map(|r| (r.name.as_str(), r)).collect());
    let instances = Instances::of(listing);

    let mut findings = Findings {
        registered: registered.as_ref().map(|r| count(r.len())),
        instances: instances.count(),
        ..Findings::default()
    };
    for runner in fleet.iter() {
        let mut instance = instances.at(&runner.backend, runner.name.as_str());
        if let Some((backend, found)) = instances.elsewhere(&runner.backend, runner.name.as_str()) {
            findings.moved.push((runner.name.clone(), backend));
            instance = Seen::Present(found);
        }
        let sighting =
            Sighting { at: listing.at, registration: seen(registered.as_ref(), runner.name.as_str()), instance };
        if minds(runner, &sighting) {
            findings.sightings.push((runner.name.clone(), sighting));
        }
    }

    let mut still_suspect = Suspects::new();
    let known_names = suspects.keys().map(RunnerName::as_str);
    let listed = instances.names().chain(registered.iter().flat_map(BTreeMap::keys).copied());
    let names: BTreeSet<&str> = listed.chain(known_names).collect();
    for name in names {
        let Ok(name) = RunnerName::new(name) else { continue };
        let suspect = suspects.get(&name).copied();
        if fleet.get(&name).is_some() {
            // Until its runner is saved.
            still_suspect.extend(suspect.map(|suspect| (name, suspect)));
            continue;
        }
        if fleet.ended_since(name.as_str(), listing.at) {
            continue;
        }
        let registration = seen(registered.as_ref(), name.as_str());
        let instance = instances.anywhere(name.as_str());
        // A clock that was ahead does not count.
        let suspect = suspect.map(|suspect| Suspect { since: suspect.since.min(now), ..suspect });
        let mut suspect = suspect.unwrap_or(Suspect { since: now, times: 0, missed: false });
        let mut condemn = |reason| {
            suspect.times = suspect.times.saturating_add(1);
            let condemned = suspect.times >= LEAK_SIGHTINGS && now >= suspect.since + LEAK_GRACE;
            condemned.then_some(Verdict::Remove(reason))
        };
        let verdict = match (&registration, &instance) {
            (Seen::Present(remote), Seen::Present(_)) => Some(Verdict::Adopt(match (remote.online, remote.busy) {
                (_, true) => RunnerState::Busy,
                (true, false) => RunnerState::Idle,
                (false, false) => RunnerState::Starting,
            })),
            (Seen::Absent, Seen::Present(_)) => condemn(DeleteReason::LeakedInstance),
            // Also one that is online: GitHub lets none go that runs a job.
            (Seen::Present(remote), Seen::Absent) if !remote.busy => condemn(DeleteReason::LeakedRegistration),
            (Seen::Absent, Seen::Absent) if suspect.missed => continue,
            // One side did not answer, or the runner runs a job somewhere: it is not touched, and not forgotten.
            _ => None,
        };
        if registration != Seen::Unknown && instance != Seen::Unknown {
            suspect.missed = registration == Seen::Absent && instance == Seen::Absent;
        }
        still_suspect.insert(name.clone(), suspect);
        if let Some(verdict) = verdict {
            findings.strays.push(Stray { name, registration: known(registration), instance: known(instance), verdict });
        }
    }
    *suspects = still_suspect;
    findings
}

/// The instances of all backends, by name. One that did not answer has none.
struct Instances<'a>(BTreeMap<&'a str, Option<BTreeMap<&'a str, &'a Instance>>>);

impl<'a> Instances<'a> {
    fn of(listing: &'a Listing) -> Self {
        let by_name = |all: &'a Vec<Instance>| all.iter().map(|i| (i.runner.as_str(), i)).collect();
        let by_backend = |one: &'a Listed| (one.backend.as_str(), one.instances.as_ref().ok().map(by_name));
        Self(listing.instances.iter().map(by_backend).collect())
    }

    /// How many there are, if all backends answered.
    fn count(&self) -> Option<u32> {
        self.0.values().map(|listed| listed.as_ref().map(|all| count(all.len()))).sum()
    }

    fn names(&self) -> impl Iterator<Item = &'a str> {
        self.0.values().flatten().flat_map(BTreeMap::keys).copied()
    }

    /// The instance of a runner whose backend is known. One that is not configured any more says nothing.
    fn at(&self, backend: &str, runner: &str) -> Seen<Instance> {
        seen(self.0.get(backend).and_then(Option::as_ref), runner)
    }

    /// The instance of a runner whose own backend does not have it, or is not configured any more, and where it is.
    fn elsewhere(&self, backend: &str, runner: &str) -> Option<(String, Instance)> {
        match self.0.get(backend) {
            // It did not answer, or has it.
            Some(None) => return None,
            Some(Some(listed)) if listed.contains_key(runner) => return None,
            Some(Some(_)) | None => {}
        }
        known(self.anywhere(runner))
    }

    /// The instance of a runner that may be at any backend, and where it is. Absent only if all answered.
    fn anywhere(&self, runner: &str) -> Seen<(String, Instance)> {
        let found = self.0.iter().find_map(|(backend, listed)| {
            listed.as_ref()?.get(runner).map(|instance| ((*backend).to_owned(), (*instance).clone()))
        });
        match found {
            Some(found) => Seen::Present(found),
            None if self.0.values().all(Option::is_some) => Seen::Absent,
            None => Seen::Unknown,
        }
    }
}

/// A registration belongs to this group when it is tracked, or has both the form of its names and our marker.
fn is_ours(group: &GroupName, marker: &str, fleet: &Fleet, remote: &RemoteRunner) -> bool {
    group.owns_name(&remote.name)
        && (remote.labels.iter().any(|l| l.eq_ignore_ascii_case(marker))
            || RunnerName::new(&remote.name).is_ok_and(|name| fleet.get(&name).is_some()))
}

fn seen<T: Clone>(listed: Option<&BTreeMap<&str, &T>>, name: &str) -> Seen<T> {
    match listed {
        None => Seen::Unknown,
        Some(all) => all.get(name).map_or(Seen::Absent, |found| Seen::Present((*found).clone())),
    }
}

fn known<T>(seen: Seen<T>) -> Option<T> {
    match seen {
        Seen::Present(found) => Some(found),
        Seen::Absent | Seen::Unknown => None,
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
