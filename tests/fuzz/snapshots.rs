//! Stored snapshots: whatever can be read is written again alike, and a group lives on from it.
//!
//! An input is lines: `group`, `runner`, `job` or `delivery`, each followed by a line with what is stored; and
//! `many N`, which gives the runner or job before it N times under other names.

use actors::id::{GroupName, JobId};
use actors::model::delivery::Delivery;
use actors::model::group::GroupSnapshot;
use actors::model::inbox::Loaded;
use actors::model::job::{Job, JobStatus};
use actors::model::runner::Runner;
use runner_manager::store::codec;

use crate::chance::hash;
use crate::door::{Door, fuzz};
use crate::life::{Life, assert_round_trip, is_open};

/// Most copies of one entry.
const MANY: usize = 2000;

/// What an input holds.
#[derive(Default)]
pub struct Stored<'a> {
    /// What each entry is, and its body.
    pub entries: Vec<(&'a str, &'a [u8])>,
    /// The numbers of copies.
    pub many: Vec<usize>,
}

pub fn stored(input: &[u8]) -> Stored<'_> {
    let mut stored = Stored::default();
    let mut kind = "";
    for line in input.split(|byte| *byte == b'\n') {
        match std::str::from_utf8(line) {
            Ok(word @ ("group" | "runner" | "job" | "delivery")) => kind = word,
            Ok(text) if text.starts_with("many ") => {
                let times = text[5..].parse().unwrap_or(MANY).min(MANY);
                stored.many.push(times);
            }
            _ if kind.is_empty() => {}
            _ => stored.entries.push((std::mem::take(&mut kind), line)),
        }
    }
    stored
}

/// What can be read, and how much cannot.
fn loaded(stored: &Stored<'_>) -> (Loaded, Vec<Delivery>, String) {
    let mut loaded = Loaded::default();
    let mut deliveries = vec![];
    let mut errors = String::new();
    for (kind, body) in &stored.entries {
        let error = match *kind {
            "group" => codec::decode::<GroupSnapshot>(body).map(|snapshot| loaded.snapshot = Some(snapshot)).err(),
            "runner" => codec::decode(body).map(|runner| loaded.runners.push(runner)).err(),
            "job" => codec::decode(body).map(|job| loaded.jobs.push(job)).err(),
            _ => codec::decode(body).map(|delivery| deliveries.push(delivery)).err(),
        };
        if let Some(error) = error {
            loaded.set_aside += 1;
            errors.push_str(&error.to_string());
        }
    }
    loaded.runners.retain(is_open);
    loaded.jobs.retain(|job| job.status != JobStatus::Completed);
    (loaded, deliveries, errors)
}

fn multiply(loaded: &mut Loaded, many: &[usize]) {
    let group = GroupName::new("octo").unwrap();
    for times in many {
        if let Some(job) = loaded.jobs.last().cloned() {
            let copy = |n: u64| {
                let mut job: Job = job.clone();
                job.facts.id = JobId(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                job
            };
            loaded.jobs.extend((0..*times as u64).map(copy));
        }
        if let Some(runner) = loaded.runners.last().cloned() {
            let copy = |n: u64| Runner { name: group.runner_name(n + 1000), ..runner.clone() };
            loaded.runners.extend((0..*times as u64).map(copy));
        }
    }
}

fn check(input: &[u8]) -> String {
    let stored = stored(input);
    let (mut loaded, deliveries, mut outcome) = loaded(&stored);
    loaded.snapshot.iter().for_each(assert_round_trip);
    loaded.runners.iter().for_each(assert_round_trip);
    loaded.jobs.iter().for_each(assert_round_trip);
    deliveries.iter().for_each(assert_round_trip);
    multiply(&mut loaded, &stored.many);
    let turns = if loaded.runners.len() + loaded.jobs.len() > 50 { 1 } else { 6 };
    let mut life = Life::new(loaded, hash(input));
    for delivery in deliveries {
        life.hear(delivery);
    }
    outcome.push_str(&life.turns(turns));
    outcome
}

#[test]
fn snapshots() {
    // 128 kB of text as values with their names, copied for a look; and the copies that `many` asks for.
    fuzz(&Door { name: "snapshots", runs: 2500, memory: 64 << 20 }, check);
}
