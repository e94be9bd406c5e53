//! What is known per group, and how it goes when the group does.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use prometheus::GaugeVec;
use prometheus::core::{Collector, MetricVec, MetricVecBuilder};

use super::Metrics;

/// When the oldest job in demand was queued, by group; its age is computed when somebody looks.
#[derive(Default)]
pub(super) struct Demand(Mutex<HashMap<String, Option<f64>>>);

impl Demand {
    /// Takes note of a group's oldest job, in seconds since the Unix epoch.
    pub(super) fn note(&self, group: &str, since: Option<f64>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(group) {
            Some(known) => *known = since,
            None => {
                all.insert(group.to_owned(), since);
            }
        }
    }

    /// Sets the gauges to the ages at `now`.
    pub(super) fn show(&self, gauge: &GaugeVec, now: Timestamp) {
        let now = now.as_duration().as_secs_f64();
        for (group, since) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            gauge.with_label_values(&[group]).set(since.map_or(0.0, |since| (now - since).max(0.0)));
        }
    }

    fn forget(&self, group: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(group);
    }
}

/// The breakers of all groups: group and backend, and whether it is open.
#[derive(Default)]
pub(super) struct Breakers(Mutex<BTreeMap<(String, String), bool>>);

impl Metrics {
    /// Notes a group's breaker, and counts the open ones of its backend.
    pub(super) fn breaker(&self, group: &str, backend: &str, open: bool) {
        let mut breakers = self.breakers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if breakers.insert((group.to_owned(), backend.to_owned()), open) != Some(open) {
            self.count_breakers(&breakers, backend);
        }
    }

    fn count_breakers(&self, breakers: &BTreeMap<(String, String), bool>, backend: &str) {
        let open = breakers.iter().filter(|((_, name), open)| name == backend && **open).count();
        self.backend_breaker_open.with_label_values(&[backend]).set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    /// Removes every series of a group.
    pub(super) fn forget(&self, group: &str) {
        self.oldest.forget(group);
        let mut breakers = self.breakers.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (gone, rest) = std::mem::take(&mut *breakers).into_iter().partition(|((name, _), _)| name == group);
        *breakers = rest;
        let gone: BTreeMap<(String, String), bool> = gone;
        for (_, backend) in gone.keys() {
            self.count_breakers(&breakers, backend);
        }
        drop(breakers);
        for gauge in [&self.inbox_depth, &self.jobs, &self.runners, &self.runners_min, &self.runners_max, &self.demand]
        {
            forget(gauge, group);
        }
        for counter in [&self.jobs_total, &self.runner_deletions, &self.leaks, &self.set_aside] {
            forget(counter, group);
        }
        for histogram in [&self.job_wait, &self.job_duration, &self.scale_up, &self.runner_start] {
            forget(histogram, group);
        }
        forget(&self.demand_oldest, group);
    }
}

/// Removes the series of one metric whose label `group` has this value.
fn forget<B: MetricVecBuilder>(metric: &MetricVec<B>, group: &str) {
    for family in metric.collect() {
        for series in family.get_metric() {
            let labels: HashMap<&str, &str> = series.get_label().iter().map(|l| (l.name(), l.value())).collect();
            if labels.get("group") == Some(&group) {
                // It can only be gone already.
                let _ = metric.remove(&labels);
            }
        }
    }
}
