//! A model of the store that is simple enough to be right, and random operations to compare a store with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use actors::id::{Cursor, DeliveryId, FencingToken, GroupName, JobId, RunnerName};
use actors::model::delivery::{Delivery, JobAction};
use actors::model::group::GroupSnapshot;
use actors::model::job::{Job, JobStatus};
use actors::model::runner::{Runner, RunnerState};
use actors::port::store::{
    Changes, Horizon, InboxEntry, JobFilter, Loaded, Recorded, Route, RunnerFilter, Store, StoreError,
};
use jiff::Timestamp;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use super::Adapter;
use super::samples::*;

#[derive(Debug, Clone)]
enum Op {
    Record {
        id: u8,
        job: u64,
        seconds: i64,
        group: Option<u8>,
        runner_group: Option<u8>,
        unmatched: bool,
    },
    Acquire(u8),
    Save {
        group: u8,
        stale: bool,
        read: Option<usize>,
        jobs: Vec<(u64, JobStatus, i64)>,
        runners: Vec<(u64, RunnerState, i64)>,
    },
    Prune {
        deliveries: i64,
        jobs: i64,
        runners: i64,
    },
    Reopen,
}

fn groups() -> [GroupName; 3] {
    ["a", "b", "a-b"].map(group)
}

fn any_op() -> impl Strategy<Value = Op> {
    let group = 0..3_u8;
    let maybe = || prop_oneof![2 => (0..3_u8).prop_map(Some), 1 => Just(None)];
    let status = select(&JobStatus::ALL[..4]);
    let saved_jobs = prop::collection::vec((0..6_u64, status, 0..20_i64), 0..3);
    let saved_runners = prop::collection::vec((0..6_u64, select(&RunnerState::ALL[..]), 0..20_i64), 0..3);
    let read = prop_oneof![1 => Just(None), 2 => (0..4_usize).prop_map(Some)];
    prop_oneof![
        8 => (0..24_u8, 0..6_u64, 0..20_i64, maybe(), maybe(), any::<bool>()).prop_map(
            |(id, job, seconds, group, runner_group, unmatched)| Op::Record { id, job, seconds, group, runner_group, unmatched }
        ),
        1 => group.clone().prop_map(Op::Acquire),
        6 => (group, prop::bool::weighted(0.2), read, saved_jobs, saved_runners).prop_map(
            |(group, stale, read, jobs, runners)| Op::Save { group, stale, read, jobs, runners }
        ),
        1 => (0..25_i64, 0..35_i64, 0..25_i64).prop_map(|(deliveries, jobs, runners)| Op::Prune { deliveries, jobs, runners }),
        1 => Just(Op::Reopen),
    ]
}

#[derive(Default)]
struct Model {
    deliveries: BTreeMap<DeliveryId, Timestamp>,
    assignments: BTreeMap<JobId, (GroupName, Timestamp)>,
    inbox: Vec<(GroupName, Delivery, bool)>,
    jobs: BTreeMap<JobId, Job>,
    runners: BTreeMap<RunnerName, Runner>,
    groups: BTreeMap<GroupName, (FencingToken, Option<GroupSnapshot>)>,
}

impl Model {
    fn record(&mut self, delivery: &Delivery, route: &Route) -> Recorded {
        if self.deliveries.contains_key(&delivery.id) {
            return Recorded::Duplicate;
        }
        self.deliveries.insert(delivery.id.clone(), delivery.received_at);
        let job = delivery.event.job.id;
        match (self.assignments.contains_key(&job), &route.group, &route.unmatched) {
            (false, Some(group), _) => {
                self.assignments.insert(job, (group.clone(), delivery.received_at));
                self.jobs.retain(|id, kept| *id != job || kept.group.is_some());
            }
            (false, None, Some(unmatched)) => {
                self.jobs.insert(job, (**unmatched).clone());
            }
            _ => {}
        }
        let mut to: Vec<GroupName> = self.assignments.get(&job).map(|(group, _)| group.clone()).into_iter().collect();
        let assigned = to.len();
        to.extend(route.runner_group.iter().filter(|group| !to.contains(group)).cloned().collect::<Vec<_>>());
        for (n, group) in to.iter().enumerate() {
            self.inbox.push((group.clone(), delivery.clone(), n < assigned));
        }
        Recorded::New(to)
    }

    fn save(
        &mut self,
        group: &GroupName,
        token: FencingToken,
        changes: &Changes,
        read: usize,
    ) -> Result<(), StoreError> {
        let Some(saved) = self.groups.get_mut(group).filter(|(newest, _)| *newest == token) else {
            return Err(StoreError::Fenced { group: group.clone(), token });
        };
        if changes.snapshot.is_some() {
            saved.1.clone_from(&changes.snapshot);
            let mut left = read;
            self.inbox.retain(|(of, ..)| {
                let goes = of == group && left > 0;
                left -= usize::from(goes);
                !goes
            });
        }
        for job in &changes.jobs {
            self.jobs.insert(job.id(), (**job).clone());
            let group = job.group.clone().unwrap();
            self.assignments.entry(job.id()).or_insert((group, job.received_at));
        }
        for runner in &changes.runners {
            self.runners.insert(runner.name.clone(), (**runner).clone());
        }
        Ok(())
    }

    fn prune(&mut self, before: Horizon) -> u64 {
        let settled = |job: &Job| match job.status {
            JobStatus::Completed => job.finished_at,
            JobStatus::Unmatched => Some(job.received_at),
            _ => None,
        };
        let count = self.deliveries.len() + self.jobs.len() + self.runners.len();
        self.deliveries.retain(|_, at| *at >= before.deliveries);
        self.inbox.retain(|(_, delivery, _)| delivery.received_at >= before.deliveries);
        self.runners.retain(|_, runner| !runner.state.is_final() || runner.since >= before.runners);
        let gone: Vec<JobId> =
            self.jobs.values().filter(|job| settled(job).is_some_and(|at| at < before.jobs)).map(Job::id).collect();
        for id in gone {
            self.jobs.remove(&id);
            self.assignments.remove(&id);
        }
        let waiting: Vec<JobId> = self.inbox.iter().map(|(_, delivery, _)| delivery.event.job.id).collect();
        self.assignments.retain(|id, (_, at)| *at >= before.jobs || self.jobs.contains_key(id) || waiting.contains(id));
        (count - self.deliveries.len() - self.jobs.len() - self.runners.len()) as u64
    }

    fn inbox(&self, group: &GroupName, cursors: &[InboxEntry]) -> Vec<InboxEntry> {
        // Which numbers a store gives to places is its own affair; that they grow is checked elsewhere.
        let of_group = self.inbox.iter().filter(|(of, ..)| of == group);
        of_group
            .zip(cursors.iter().map(|entry| entry.cursor).chain(std::iter::repeat(Cursor(u64::MAX))))
            .map(|((_, delivery, assigned), cursor)| InboxEntry {
                cursor,
                delivery: delivery.clone(),
                assigned: *assigned,
                known: self.jobs.get(&delivery.event.job.id).cloned(),
            })
            .collect()
    }

    fn load(&self, group: &GroupName) -> Loaded {
        Loaded {
            snapshot: self.groups.get(group).and_then(|(_, snapshot)| snapshot.clone()),
            runners: self.runners.values().filter(|r| r.group == *group && !r.state.is_final()).cloned().collect(),
            jobs: self
                .jobs
                .values()
                .filter(|job| job.group.as_ref() == Some(group) && job.status != JobStatus::Completed)
                .cloned()
                .collect(),
            set_aside: 0,
        }
    }
}

async fn carry_out(op: &Op, model: &mut Model, store: &Arc<dyn Store>) {
    let names = groups();
    match op.clone() {
        Op::Record { id, job: job_id, seconds, group, runner_group, unmatched } => {
            let delivery = delivery(&format!("d-{id}"), job_id, JobAction::Queued, seconds);
            let route = Route {
                group: group.map(|n| names[usize::from(n)].clone()),
                runner_group: runner_group.map(|n| names[usize::from(n)].clone()),
                unmatched: unmatched.then(|| Box::new(job(job_id, None, JobStatus::Unmatched, seconds))),
            };
            let expected = model.record(&delivery, &route);
            assert_eq!(store.record(Arc::new(delivery), route).await, Ok(expected));
        }
        Op::Acquire(group) => {
            let name = &names[usize::from(group)];
            let token = store.acquire(name).await.unwrap();
            let saved = model.groups.entry(name.clone()).or_insert((FencingToken(0), None));
            assert!(token > saved.0);
            saved.0 = token;
        }
        Op::Save { group, stale, read, jobs: saved_jobs, runners: saved_runners } => {
            let name = &names[usize::from(group)];
            let newest = model.groups.get(name).map_or(FencingToken(1), |(token, _)| *token);
            let token = FencingToken(newest.0 - u64::from(stale));
            let entries = inbox(store, name).await;
            let read = read.map(|count| count.min(entries.len()));
            let saved = model.groups.get(name).and_then(|(_, s)| s.as_ref()).map_or(START, |s| s.cursor);
            let place = read.map(|count| if count == 0 { saved } else { entries[count - 1].cursor });
            let changes = Changes {
                snapshot: place.map(snapshot),
                jobs: jobs(saved_jobs.into_iter().map(|(id, status, at)| job(id, Some(name), status, at))).jobs,
                runners: runners(saved_runners.into_iter().map(|(n, state, at)| runner(name, n, state, at))).runners,
            };
            let expected = model.save(name, token, &changes, read.unwrap_or_default());
            assert_eq!(store.save(name, token, changes).await, expected);
        }
        Op::Prune { deliveries, jobs, runners } => {
            let before = Horizon { deliveries: at(deliveries), jobs: at(jobs), runners: at(runners) };
            assert_eq!(store.prune(before).await, Ok(model.prune(before)));
        }
        Op::Reopen => {}
    }
}

async fn compare(model: &Model, store: &Arc<dyn Store>) {
    for group in &groups() {
        let entries = inbox(store, group).await;
        assert_eq!(entries, model.inbox(group, &entries), "inbox of {group}");
        assert!(entries.windows(2).all(|pair| pair[0].cursor < pair[1].cursor));
        assert_eq!(sorted(store.load(group).await.unwrap()), model.load(group), "{group}");
    }
    let mut jobs = store.jobs(&JobFilter { limit: ALL, ..JobFilter::default() }).await.unwrap();
    jobs.sort_by_key(Job::id);
    assert_eq!(jobs, model.jobs.values().cloned().collect::<Vec<_>>());
    for state in RunnerState::ALL {
        let filter = RunnerFilter { state: Some(state), limit: ALL, group: None };
        let expected: Vec<Runner> = model.runners.values().filter(|r| r.state == state).cloned().collect();
        assert_eq!(store.runners(&filter).await, Ok(expected));
    }
}

pub fn any_sequence_of_operations_gives_what_a_simple_model_gives<A: Adapter>() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&prop::collection::vec(any_op(), 1..60), |ops| {
            runtime.block_on(async {
                let adapter = A::new().await;
                let mut store = adapter.open().await;
                let mut model = Model::default();
                for op in &ops {
                    if matches!(op, Op::Reopen) {
                        store.close().await;
                        store = adapter.open().await;
                    }
                    carry_out(op, &mut model, &store).await;
                    compare(&model, &store).await;
                }
                store.close().await;
            });
            Ok(())
        })
        .unwrap();
}
