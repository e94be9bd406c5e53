//! The store: durable books with every promise of its port, and its failures.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use actors::id::*;
use actors::model::delivery::{Delivery, JobAction};
use actors::model::group::GroupSnapshot;
use actors::model::job::{Job, JobStatus};
use actors::model::runner::Runner;
use actors::port::StoreError;
use actors::port::store::*;
use async_trait::async_trait;

use super::scenario::Kind;
use super::world::{Site, State};

/// What is saved.
#[derive(Default, Clone)]
pub struct Books {
    deliveries: BTreeSet<DeliveryId>,
    assigned: BTreeMap<JobId, GroupName>,
    inbox: BTreeMap<GroupName, BTreeMap<Cursor, (Arc<Delivery>, bool)>>,
    cursor: u64,
    token: u64,
    tokens: BTreeMap<GroupName, u64>,
    /// The number of each group's last write.
    saved: BTreeMap<GroupName, u64>,
    groups: BTreeMap<GroupName, GroupSnapshot>,
    pub jobs: BTreeMap<JobId, Arc<Job>>,
    pub runners: BTreeMap<RunnerName, Arc<Runner>>,
}

impl Books {
    /// Whether a delivery is recorded.
    pub fn has(&self, delivery: &str) -> bool {
        self.deliveries.contains(delivery)
    }

    /// All is lost. What counts is not: it goes by the clock.
    pub fn empty(&mut self) {
        *self = Self { token: self.token, ..Self::default() };
    }

    /// The last writes are lost; `self` is what the store goes back to. What counts is not lost, as above.
    pub fn after(self, lost: &Self) -> Self {
        Self { token: lost.token, cursor: lost.cursor, ..self }
    }

    /// Runners that are not final.
    pub fn open_runners(&self) -> impl Iterator<Item = &Arc<Runner>> {
        self.runners.values().filter(|runner| !runner.state.is_final())
    }
}

pub fn unavailable(text: &str) -> StoreError {
    StoreError::Unavailable(text.to_owned())
}

impl State {
    fn put(&mut self, group: &GroupName, changes: Changes) {
        if let Some(snapshot) = changes.snapshot {
            if let Some(inbox) = self.books.inbox.get_mut(group) {
                *inbox = inbox.split_off(&Cursor(snapshot.cursor.0 + 1));
            }
            self.books.groups.insert(group.clone(), snapshot);
        }
        for job in changes.jobs {
            self.check_job(&job);
            self.note(format_args!("saved job {} {}", job.id(), job.status.as_str()));
            self.books.jobs.insert(job.id(), job);
        }
        for runner in changes.runners {
            self.check_runner(&runner);
            self.note(format_args!("saved {} {}", runner.name, runner.state.as_str()));
            self.books.runners.insert(runner.name.clone(), runner);
        }
    }
}

#[async_trait]
impl Store for Site {
    async fn record(&self, delivery: Arc<Delivery>, route: Route) -> Result<Recorded, StoreError> {
        self.pause(1, 10).await;
        self.panics(Kind::StorePanics);
        let (recorded, lost) = {
            let mut state = self.books().await?;
            let lost = state.faults.strikes(Kind::RecordLost);
            if lost && state.faults.between(Kind::RecordLost, 0, 1) == 0 {
                return Err(unavailable("no answer"));
            }
            let recorded = state.record(&delivery, route);
            state.poke(&recorded, &self.me.id);
            (recorded, lost)
        };
        self.written().await;
        self.pause(1, 10).await;
        if lost { Err(unavailable("the answer is lost")) } else { Ok(recorded) }
    }

    async fn inbox(&self, group: &GroupName, after: Cursor, limit: usize) -> Result<Vec<InboxEntry>, StoreError> {
        self.pause(1, 10).await;
        self.panics(Kind::StorePanics);
        let entries = {
            let mut state = self.books().await?;
            if state.faults.strikes(Kind::InboxFails) {
                return Err(unavailable("cannot read"));
            }
            let Some(inbox) = state.books.inbox.get(group) else { return Ok(vec![]) };
            let behind = inbox.range(Cursor(after.0 + 1)..).take(limit);
            let entry = |(cursor, (delivery, assigned)): (&Cursor, &(Arc<Delivery>, bool))| InboxEntry {
                cursor: *cursor,
                delivery: Delivery::clone(delivery),
                assigned: *assigned,
                known: state.books.jobs.get(&delivery.event.job.id).map(|job| Job::clone(job)),
            };
            behind.map(entry).collect::<Vec<_>>()
        };
        self.pause(1, 10).await;
        let mut state = self.enter().await;
        for entry in &entries {
            if let (JobAction::InProgress, Some(runner)) = (entry.delivery.event.action, &entry.delivery.event.runner) {
                // Another group's runner is that group's concern, and that reads an inbox of its own; what nobody tracks
                // is asked for at GitHub before it is removed.
                if group.owns_name(&runner.name) && state.books.runners.contains_key(runner.name.as_str()) {
                    state.heard(&runner.name);
                }
            }
        }
        Ok(entries)
    }

    async fn acquire(&self, group: &GroupName) -> Result<FencingToken, StoreError> {
        self.pause(1, 10).await;
        let (token, seq) = {
            let mut state = self.books().await?;
            if state.faults.strikes(Kind::LoadFails) {
                state.disturbed(self.life);
                return Err(unavailable("not yet"));
            }
            if let Some(owner) = state.owner(group).filter(|owner| *owner != self.me.id) {
                return Err(StoreError::NotOwner { group: group.clone(), owner });
            }
            state.books.token += 1;
            let token = state.books.token;
            state.books.tokens.insert(group.clone(), token);
            state.acquired(group, self.life, token);
            (token, state.numbered(group))
        };
        self.written().await;
        self.me.acknowledged(group, token, seq);
        Ok(FencingToken(token))
    }

    async fn load(&self, group: &GroupName) -> Result<Loaded, StoreError> {
        self.pause(1, 20).await;
        self.panics(Kind::StorePanics);
        let mut state = self.books().await?;
        if state.faults.strikes(Kind::LoadFails) {
            state.disturbed(self.life);
            return Err(unavailable("cannot read"));
        }
        let books = &state.books;
        let jobs = books.jobs.values();
        Ok(Loaded {
            snapshot: books.groups.get(group).cloned(),
            runners: books.open_runners().filter(|r| r.group == *group).map(|r| Runner::clone(r)).collect(),
            jobs: jobs
                .filter(|j| j.group.as_ref() == Some(group) && j.status != JobStatus::Completed)
                .map(|j| Job::clone(j))
                .collect(),
            set_aside: 0,
        })
    }

    async fn save(&self, group: &GroupName, token: FencingToken, changes: Changes) -> Result<(), StoreError> {
        // In the order of the calls, whatever the answers take.
        let (result, stalls, seq) = {
            let mut state = self.books().await?;
            let stalls = state.faults.strikes(Kind::StoreStalls);
            let stalls = if stalls { state.faults.between(Kind::StoreStalls, 1_000, 40_000) } else { 0 };
            if stalls > 0 {
                let at = state.elapsed();
                state.leases.disturbed(self.life, at, at + stalls);
            }
            let newest = state.books.tokens.get(group).copied();
            // Who was acknowledged this token, or a save under it, and finds an older one knows that the store lost it.
            let acknowledged = self.me.last_acknowledged(group, token);
            let lost = acknowledged.is_some_and(|seq| {
                newest.is_none_or(|newest| newest < token.0)
                    || newest == Some(token.0) && state.books.saved.get(group).is_none_or(|saved| *saved < seq)
            });
            if lost {
                (Err(StoreError::Forgotten { group: group.clone() }), stalls, 0)
            } else if newest != Some(token.0) {
                (Err(StoreError::Fenced { group: group.clone(), token }), stalls, 0)
            } else if state.faults.strikes(Kind::SaveFails) {
                (Err(unavailable("disk full")), stalls, 0)
            } else {
                state.check_save(group, token, self.life);
                state.put(group, changes);
                let seq = state.numbered(group);
                let lost = state.faults.strikes(Kind::SaveLost);
                (if lost { Err(unavailable("the answer is lost")) } else { Ok(()) }, stalls, seq)
            }
        };
        self.written().await;
        self.panics(Kind::StorePanics);
        self.pause(1 + stalls, 15 + stalls).await;
        if result.is_ok() {
            self.me.acknowledged(group, token.0, seq);
        }
        result
    }

    async fn group(&self, group: &GroupName) -> Result<Option<GroupSnapshot>, StoreError> {
        Ok(self.books().await?.books.groups.get(group).cloned())
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        Ok(self.books().await?.books.jobs.get(&id).map(|job| Job::clone(job)))
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>, StoreError> {
        let state = self.books().await?;
        let mut jobs: Vec<&Arc<Job>> = state.books.jobs.values().collect();
        jobs.sort_by_key(|job| std::cmp::Reverse(job.received_at));
        Ok(jobs.into_iter().take(filter.limit).map(|job| Job::clone(job)).collect())
    }

    async fn runner(&self, name: &RunnerName) -> Result<Option<Runner>, StoreError> {
        Ok(self.books().await?.books.runners.get(name).map(|runner| Runner::clone(runner)))
    }

    async fn runners(&self, _: &RunnerFilter) -> Result<Vec<Runner>, StoreError> {
        Ok(self.books().await?.books.open_runners().map(|runner| Runner::clone(runner)).collect())
    }

    async fn keep_sealed(&self, _: Sealed) -> Result<(), StoreError> {
        Ok(())
    }

    async fn sealed(&self, _: &str) -> Result<Option<Sealed>, StoreError> {
        Ok(None)
    }

    async fn forget_sealed(&self, _: &RunnerName) -> Result<(), StoreError> {
        Ok(())
    }

    async fn prune(&self, _: Horizon) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) {}
}

impl State {
    /// The number of a write for a group.
    fn numbered(&mut self, group: &GroupName) -> u64 {
        self.saves += 1;
        self.books.saved.insert(group.clone(), self.saves);
        self.saves
    }

    fn record(&mut self, delivery: &Arc<Delivery>, route: Route) -> Recorded {
        if !self.books.deliveries.insert(delivery.id.clone()) {
            return Recorded::Duplicate;
        }
        self.recorded(delivery);
        let job = delivery.event.job.id;
        let group = self.books.assigned.get(&job).cloned().or(route.group);
        if let Some(group) = &group {
            if self.books.assigned.insert(job, group.clone()).is_none() {
                self.books.jobs.retain(|id, known| *id != job || known.status != JobStatus::Unmatched);
            }
        } else if let Some(unmatched) = route.unmatched {
            self.books.jobs.insert(job, Arc::new(*unmatched));
        }
        let other = route.runner_group.filter(|other| Some(other) != group.as_ref());
        let mut groups = vec![];
        for (target, assigned) in [(group, true), (other, false)] {
            let Some(target) = target else { continue };
            self.books.cursor += 1;
            let cursor = Cursor(self.books.cursor);
            self.books.inbox.entry(target.clone()).or_default().insert(cursor, (Arc::clone(delivery), assigned));
            groups.push(target);
        }
        Recorded::New(groups)
    }
}
