//! The demo's account: what happens as it happens, and the table at the end.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::github::{Action, Conclusion, DeliveryStatus, Happening, HookCounts, JobId, What};

/// What the demo came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Jobs that were to come.
    pub jobs: u32,
    /// Jobs that ended well.
    pub succeeded: u32,
    /// Jobs that ended otherwise.
    pub failed: u32,
    /// From queued to in progress.
    pub wait: Percentiles,
    /// From the webhook that called for a runner to that runner's first contact.
    pub start: Percentiles,
    /// Most runners at once: registered at GitHub or processes alive, whichever was more.
    pub peak: usize,
    /// How many there may be.
    pub max: u32,
    /// Runners still registered at the end.
    pub leaked_registrations: usize,
    /// Processes still alive at the end.
    pub leaked_processes: usize,
    /// Webhooks.
    pub webhooks: HookCounts,
    /// Whether some of them were to fail.
    pub faults: bool,
    /// Whether it was stopped before all jobs were done.
    pub interrupted: bool,
    /// From the first job's arrival to the end.
    pub took: Duration,
}

impl Summary {
    /// Whether every job was done, within `max`, without a leak and without a failed webhook that was not to fail.
    #[must_use]
    pub fn ok(&self) -> bool {
        !self.interrupted
            && self.succeeded == self.jobs
            && self.peak <= usize::try_from(self.max).unwrap_or(usize::MAX)
            && self.leaked_registrations + self.leaked_processes == 0
            && (self.faults || self.webhooks.failed == 0)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        let done = self.succeeded + self.failed;
        let note = if self.failed > 0 { format!(" ({} not well)", self.failed) } else { String::new() };
        table.add_row(["jobs done".to_owned(), format!("{done} of {}{note}", self.jobs)]);
        table.add_row(["wait for a runner, p50 / p99".to_owned(), self.wait.to_string()]);
        table.add_row(["webhook to runner's first contact, p50 / p99".to_owned(), self.start.to_string()]);
        table.add_row(["most runners at once".to_owned(), format!("{} of at most {}", self.peak, self.max)]);
        let leaks = format!("{} registrations, {} processes", self.leaked_registrations, self.leaked_processes);
        let leaks_row = if self.interrupted { "left when it was stopped" } else { "left behind" };
        table.add_row([leaks_row.to_owned(), leaks]);
        let HookCounts { sent, failed, .. } = self.webhooks;
        table.add_row(["webhooks".to_owned(), format!("{sent} sent, {failed} failed")]);
        table.add_row(["time".to_owned(), seconds(self.took)]);
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        write!(f, "{table}")
    }
}

/// The middle and the end of a set of durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Percentiles {
    /// Half are not longer than this.
    pub p50: Option<Duration>,
    /// 99 of 100 are not longer than this.
    pub p99: Option<Duration>,
}

impl Percentiles {
    /// Of these durations, by nearest rank; none of no durations.
    #[must_use]
    pub fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        let rank = |percent: usize| durations.get((durations.len() * percent).div_ceil(100).max(1) - 1).copied();
        Self { p50: rank(50), p99: rank(99) }
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: Option<Duration>| value.map_or_else(|| "-".to_owned(), seconds);
        write!(f, "{} / {}", show(self.p50), show(self.p99))
    }
}

/// Milliseconds below a second, else seconds.
fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.2} s", duration.as_secs_f64())
    }
}

/// Follows what happens: writes it, counts it, measures it.
pub struct Account<W> {
    out: W,
    bar: Option<ProgressBar>,
    begun: Instant,
    jobs: u32,
    max: u32,
    queued: u32,
    running: u32,
    succeeded: u32,
    failed: u32,
    peak: usize,
    waits: Vec<Duration>,
    starts: Starts,
}

impl<W: Write> Account<W> {
    /// An account of `jobs` jobs served by at most `max` runners. `live` keeps a bar below the lines, for a terminal.
    pub fn new(out: W, live: bool, jobs: u32, max: u32) -> Self {
        let bar = live.then(|| {
            let bar = ProgressBar::with_draw_target(Some(u64::from(jobs)), ProgressDrawTarget::stdout());
            if let Ok(style) = ProgressStyle::with_template("{elapsed:>6} {bar:32} {pos}/{len} jobs done  {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self {
            out,
            bar,
            begun: Instant::now(),
            jobs,
            max,
            queued: 0,
            running: 0,
            succeeded: 0,
            failed: 0,
            peak: 0,
            waits: Vec::new(),
            starts: Starts::new(max),
        }
    }

    /// How many jobs are over.
    #[must_use]
    pub fn done(&self) -> u32 {
        self.succeeded + self.failed
    }

    /// Writes one line, with the time since the start.
    ///
    /// # Errors
    /// What the writer says.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        let elapsed = self.begun.elapsed();
        self.line_at(elapsed, text)
    }

    fn line_at(&mut self, elapsed: Duration, text: &str) -> io::Result<()> {
        let out = &mut self.out;
        let mut write = || {
            writeln!(out, "{:8.2}s  {text}", elapsed.as_secs_f64())?;
            out.flush()
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Takes note of one happening.
    ///
    /// # Errors
    /// What the writer says.
    pub fn note(&mut self, happening: &Happening) -> io::Result<()> {
        let elapsed = happening.at.saturating_duration_since(self.begun);
        self.starts.note(happening);
        match &happening.what {
            What::JobQueued { job, name, labels } => {
                self.queued += 1;
                self.line_at(elapsed, &format!("job {job} queued    {name} ({})", labels.join(", ")))
            }
            What::JobTaken { job, runner, waited } => {
                self.queued = self.queued.saturating_sub(1);
                self.running += 1;
                self.waits.push(*waited);
                self.line_at(elapsed, &format!("job {job} taken     by {runner} after {}", seconds(*waited)))
            }
            What::JobFinished { job, conclusion, runner, ran } => {
                match conclusion {
                    Conclusion::Success => self.succeeded += 1,
                    Conclusion::Failure | Conclusion::Cancelled => self.failed += 1,
                }
                match runner {
                    Some(_) => self.running = self.running.saturating_sub(1),
                    None => self.queued = self.queued.saturating_sub(1),
                }
                if let Some(bar) = &self.bar {
                    bar.set_position(u64::from(self.done()));
                }
                let how = conclusion.as_str();
                let on = match (runner, ran) {
                    (Some(runner), Some(ran)) => format!("on {runner} after {}", seconds(*ran)),
                    _ => "without a runner".to_owned(),
                };
                self.line_at(elapsed, &format!("job {job} {how:<9} {on}"))
            }
            What::WebhookAnswered { job, action, status, .. } if !status.is_success() => {
                let why = match status {
                    DeliveryStatus::Answered(status) => format!("answered {status}"),
                    DeliveryStatus::TimedOut => "not answered in time".to_owned(),
                    DeliveryStatus::Unreachable | DeliveryStatus::Pending => "not delivered".to_owned(),
                };
                self.line_at(elapsed, &format!("job {job} webhook   {} {why}", action.as_str()))
            }
            _ => Ok(()),
        }
    }

    /// Takes note of what was counted: runners registered at GitHub and processes alive.
    pub fn count(&mut self, registered: usize, processes: usize) {
        self.peak = self.peak.max(registered).max(processes);
        if let Some(bar) = &self.bar {
            let Self { queued, running, max, .. } = self;
            bar.set_message(format!("{queued} queued, {running} running, {processes} runners of {max}"));
            bar.tick();
        }
    }

    /// Closes the account.
    pub fn close(self, leaked: (usize, usize), webhooks: HookCounts, interrupted: bool) -> Summary {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        Summary {
            jobs: self.jobs,
            succeeded: self.succeeded,
            failed: self.failed,
            wait: Percentiles::of(self.waits),
            start: Percentiles::of(self.starts.measured),
            peak: self.peak,
            max: self.max,
            leaked_registrations: leaked.0,
            leaked_processes: leaked.1,
            webhooks,
            faults: false,
            interrupted,
            took: self.begun.elapsed(),
        }
    }
}

/// Pairs runners with the webhooks that called for them. Nothing names the pair, so the rule is the service's own:
/// a queued job calls for a runner while there is room, later ones when a completed job makes room, in order.
struct Starts {
    max: usize,
    /// Runners that exist or were called for.
    places: usize,
    /// Jobs that found no room.
    backlog: VecDeque<JobId>,
    /// When runners were called for that are not registered yet.
    calls: VecDeque<Instant>,
    /// When the runners that are registered and not started were called for.
    registered: HashMap<String, Instant>,
    measured: Vec<Duration>,
}

impl Starts {
    fn new(max: u32) -> Self {
        Self {
            max: usize::try_from(max).unwrap_or(usize::MAX),
            places: 0,
            backlog: VecDeque::new(),
            calls: VecDeque::new(),
            registered: HashMap::new(),
            measured: Vec::new(),
        }
    }

    fn note(&mut self, happening: &Happening) {
        match &happening.what {
            What::WebhookSent { action: Action::Queued, .. } if self.places < self.max => {
                self.places += 1;
                self.calls.push_back(happening.at);
            }
            What::WebhookSent { action: Action::Queued, job } => self.backlog.push_back(*job),
            What::WebhookSent { action: Action::Completed, job } => {
                self.backlog.retain(|waiting| waiting != job);
                if self.backlog.pop_front().is_some() {
                    self.calls.push_back(happening.at);
                } else {
                    self.places = self.places.saturating_sub(1);
                }
            }
            What::RunnerRegistered { runner } => {
                if let Some(called) = self.calls.pop_front() {
                    self.registered.insert(runner.clone(), called);
                }
            }
            What::RunnerStarted { runner } => {
                if let Some(called) = self.registered.remove(runner) {
                    self.measured.push(happening.at.saturating_duration_since(called));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Summary {
        Summary {
            jobs: 40,
            succeeded: 40,
            failed: 0,
            wait: Percentiles::of(vec![Duration::from_millis(20); 40]),
            start: Percentiles::of(vec![Duration::from_millis(15); 40]),
            peak: 10,
            max: 10,
            leaked_registrations: 0,
            leaked_processes: 0,
            webhooks: HookCounts { sent: 120, failed: 0, pending: 0 },
            faults: false,
            interrupted: false,
            took: Duration::from_secs(12),
        }
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let ms = |n| Duration::from_millis(n);
        let hundred = Percentiles::of((1..=100).rev().map(ms).collect());
        assert_eq!(hundred, Percentiles { p50: Some(ms(50)), p99: Some(ms(99)) });
        assert_eq!(Percentiles::of(vec![ms(7)]), Percentiles { p50: Some(ms(7)), p99: Some(ms(7)) });
        assert_eq!(Percentiles::of(Vec::new()).to_string(), "- / -");
    }

    #[test]
    fn a_summary_is_ok_only_without_failure_overshoot_leak_or_interruption() {
        assert!(good().ok());
        let bad = [
            Summary { faults: true, peak: 11, ..good() },
            Summary { succeeded: 39, failed: 1, ..good() },
            Summary { peak: 11, ..good() },
            Summary { leaked_registrations: 1, ..good() },
            Summary { leaked_processes: 1, ..good() },
            Summary { webhooks: HookCounts { sent: 120, failed: 1, pending: 0 }, ..good() },
            Summary { interrupted: true, ..good() },
        ];
        assert!(bad.iter().all(|summary| !summary.ok()));
    }

    #[test]
    fn the_summary_is_a_table() {
        insta::assert_snapshot!(good().to_string());
    }

    #[test]
    fn a_start_is_measured_from_the_webhook_that_made_room() {
        let (begun, ms) = (Instant::now(), Duration::from_millis);
        let mut starts = Starts::new(1);
        let (one, two) = (JobId(1), JobId(2));
        let runner = |name: &str| name.to_owned();
        let story = [
            (0, What::WebhookSent { job: one, action: Action::Queued }),
            (1, What::WebhookSent { job: two, action: Action::Queued }),
            (5, What::RunnerRegistered { runner: runner("a") }),
            (20, What::RunnerStarted { runner: runner("a") }),
            (900, What::WebhookSent { job: one, action: Action::Completed }),
            (903, What::RunnerRegistered { runner: runner("b") }),
            (930, What::RunnerStarted { runner: runner("b") }),
        ];
        for (at, what) in story {
            starts.note(&Happening { at: begun + ms(at), what });
        }
        assert_eq!(starts.measured, [ms(20), ms(30)]);
    }
}
