//! The simulation: the real actors over a simulated world with faults, on a paused clock. A seed decides everything, so
//! that a run can be repeated; an oracle that knows the promises watches every step.
//!
//! Half of the seeds of a sweep have one to three replicas that share the groups by leases: some are killed, stopped, put
//! to sleep, cut off from the store or not heard of. The store may forget all, or what was written last (the latter only in
//! seeds from 1,000,000 to 1,999,999), and calls to GitHub, backends, store and observer may panic. What no seed covers:
//! adapters and GitHub's limits (the gateway's tests), operators' commands, a process whose timers stand still (only its
//! calls do), and threads: all of a run is on one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests may")]

mod backend;
mod chance;
mod crash;
mod director;
mod github;
mod jobs;
mod leases;
mod oracle;
mod panics;
mod replicas;
mod scenario;
mod shrink;
mod store;
mod world;

use std::time::{Duration, Instant};

use director::run;
use scenario::Scenario;
use shrink::{report, shrink};

/// Jobs of a run in the usual tests, which are not optimised; `scripts/simulate` takes 200.
const FEW_JOBS: usize = 40;

/// A seed with several replicas that are struck by many faults.
const SHARED: u64 = 19;

/// Fails with a small scenario when this seed's run breaks a promise.
fn check(scenario: Scenario) -> director::Outcome {
    let outcome = run(&scenario);
    if outcome.violations.is_empty() {
        return outcome;
    }
    if std::env::var_os("SIMULATE_TRACE").is_some() {
        println!("{}", outcome.lines.join("\n"));
    }
    if std::env::var_os("SIMULATE_QUICK").is_some() {
        panic!("seed {} of {jobs} jobs: {:?}", scenario.seed, outcome.violations, jobs = scenario.jobs);
    }
    let told = outcome.violations.clone();
    let small = shrink(scenario.clone(), outcome);
    let text = report(&scenario, &director::Outcome { violations: told, ..run(&scenario) }, &small);
    panic!("{text}");
}

/// What a seed makes for sweeps: with several managers and all kinds of faults, unless `SIMULATE_ALONE` is set.
fn scenario(seed: u64, jobs: usize) -> Scenario {
    if std::env::var_os("SIMULATE_ALONE").is_some() { Scenario::of(seed, jobs) } else { Scenario::wide(seed, jobs) }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn the_same_seed_gives_the_same_transcript() {
    let shared = Scenario::wide(SHARED, FEW_JOBS);
    assert!(shared.replicas > 1, "{shared:?}");
    for scenario in [Scenario::of(2, FEW_JOBS), Scenario::of(14, FEW_JOBS), shared] {
        let (one, two) = (run(&scenario), run(&scenario));
        assert!(one.steps > 500, "{} steps", one.steps);
        assert_eq!((one.hash, one.steps), (two.hash, two.steps), "seed {}", scenario.seed);
    }
    let other = run(&Scenario::of(3, FEW_JOBS));
    assert_ne!(other.hash, run(&Scenario::of(2, FEW_JOBS)).hash);
}

/// Seeds that once failed, and what was wrong: `seeds.txt`.
#[test]
fn seeds_that_once_failed_pass() {
    for line in include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (seed, jobs) = (words[0].parse().unwrap(), words[1].parse().unwrap());
        check(if words.get(2) == Some(&"wide") { Scenario::wide(seed, jobs) } else { Scenario::of(seed, jobs) });
    }
}

/// Seeds that no run has seen yet, on one processor, for half a minute or `SIMULATE_FRESH_SECONDS`. One that fails is kept
/// in `seeds.txt`, which is to be committed with what it found.
#[test]
fn fresh_seeds_keep_the_promises() {
    let from = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let time = Duration::from_secs(number("SIMULATE_FRESH_SECONDS").unwrap_or(30));
    let failures = sweep(Scenario::wide, from, None, Some(time), FEW_JOBS, 1);
    for (seed, why) in &failures {
        keep(*seed, FEW_JOBS, why);
    }
    let seeds: Vec<u64> = failures.into_iter().map(|(seed, _)| seed).collect();
    assert!(
        seeds.is_empty(),
        "fresh seeds that fail: {seeds:?}; each says above how to reproduce it, and is kept at the end of {SEEDS}: \
         seeds_that_once_failed_pass runs it from now on"
    );
}

const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/simulation/seeds.txt");

/// Adds a seed to those that once failed.
fn keep(seed: u64, jobs: usize, why: &str) {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new().append(true).open(SEEDS).unwrap();
    write!(file, "# {why}\n{seed} {jobs} wide\n").unwrap();
}

/// A fixed set; `scripts/simulate` says which seeds instead.
#[test]
fn every_seed_keeps_the_promises() {
    let jobs = number("SIMULATE_JOBS").map_or(FEW_JOBS, |jobs| jobs as usize);
    let (seeds, minutes) = (number("SIMULATE_SEEDS"), number("SIMULATE_MINUTES"));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let failures = if seeds.is_none() && minutes.is_none() {
        sweep(scenario, 0, Some(20), None, jobs, threads)
    } else {
        let time = minutes.map(|minutes| Duration::from_secs(60 * minutes));
        sweep(scenario, number("SIMULATE_FROM").unwrap_or(0), seeds, time, jobs, threads)
    };
    assert!(failures.is_empty(), "seeds that fail: {failures:?}; each says above how to reproduce it");
}

/// Runs seeds until their number, or the time, is over, or five failed. Returns those, and in a line why.
fn sweep(
    make: fn(u64, usize) -> Scenario,
    from: u64,
    seeds: Option<u64>,
    time: Option<Duration>,
    jobs: usize,
    threads: usize,
) -> Vec<(u64, String)> {
    println!("from seed {from}, {jobs} jobs each");
    let began = Instant::now();
    let next = std::sync::atomic::AtomicU64::new(from);
    let failures = std::sync::Mutex::new(vec![]);
    let total = std::sync::Mutex::new((0_u64, 0_u64, 0_u64));
    let struck = std::sync::Mutex::new(std::collections::BTreeMap::new());
    let work = || {
        loop {
            let seed = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let over =
                seeds.is_some_and(|seeds| seed >= from + seeds) || time.is_some_and(|time| began.elapsed() >= time);
            if over || failures.lock().unwrap().len() >= 5 {
                return;
            }
            match std::panic::catch_unwind(|| check(make(seed, jobs))) {
                Ok(outcome) => {
                    for (kind, times) in outcome.struck {
                        *struck.lock().unwrap().entry(kind).or_insert(0) += times;
                    }
                    let mut total = total.lock().unwrap();
                    *total = (total.0 + 1, total.1 + outcome.effects, total.2 + outcome.lives);
                }
                Err(why) => failures.lock().unwrap().push((seed, reason(&*why))),
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let (took, (passed, effects, lives)) = (began.elapsed().as_secs_f64(), *total.lock().unwrap());
    println!(
        "{passed} seeds passed in {took:.1} s: {:.1} a second; {effects} effects and saves, {lives} lives",
        passed as f64 / took
    );
    println!("faults: {:?}", struck.into_inner().unwrap());
    failures.into_inner().unwrap()
}

/// The violation that a failed [`check`] tells first, or why it panicked, in one bounded line.
fn reason(why: &(dyn std::any::Any + Send)) -> String {
    let text = why.downcast_ref::<String>().map_or("it panicked", String::as_str);
    let line = text.lines().find(|line| line.trim_start().starts_with('"')).or(text.lines().next()).unwrap_or_default();
    line.trim().trim_matches([',', '"']).chars().take(160).collect()
}
