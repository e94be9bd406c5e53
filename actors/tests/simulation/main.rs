//! The simulation: the real actors over a simulated world with faults, on a paused clock. A seed decides everything, so
//! that a run can be repeated; an oracle that knows the promises watches every step.
//!
//! What no seed covers: several replicas and leases (`tests/replicas.rs`), a store that forgets (there too), adapters and
//! their limits (the gateway's tests), and threads: all of it runs on one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests may")]

mod backend;
mod chance;
mod director;
mod github;
mod jobs;
mod oracle;
mod scenario;
mod store;
mod world;

use director::run;
use scenario::Scenario;

#[test]
fn the_same_seed_gives_the_same_transcript() {
    for seed in 0..6 {
        let scenario = Scenario::of(seed, 60);
        let (one, two) = (run(&scenario), run(&scenario));
        println!(
            "{seed}: {} steps, {} min, {} lives {:?} {:?}",
            one.steps, one.minutes, one.lives, one.struck, one.calls
        );
        println!("{:?}", one.violations);
        assert_eq!((one.hash, one.steps), (two.hash, two.steps), "seed {seed}");
    }
}
