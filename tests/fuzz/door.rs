//! What all doors share: the corpus, the runs, their bounds, and what becomes of an input that fails.
//!
//! An input is bytes, one file of the corpus. Each run changes one of the corpus, or one whose outcome was new, and
//! hands it to the door's check, which panics on a broken promise. So does any other panic in the program, also one in
//! a task that is caught somewhere. What failed is made smaller and kept in the corpus, which every run begins with.

use std::collections::HashSet;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use crate::chance::{Chance, hash};
use crate::{memory, mutate};

/// The seed of a usual run.
const SEED: u64 = 1;
/// Longest time that one input may take of the processor.
const TIME_MAX: Duration = Duration::from_secs(2);
/// One that takes so long by the clock never ends.
const HANGS_AFTER: Duration = Duration::from_secs(60);
/// Time that is spent on making a failing input smaller.
const SHRINK_FOR: Duration = Duration::from_secs(20);
/// Inputs with new outcomes that are kept, and their largest size.
const KEPT_MAX: usize = 1000;
const KEPT_BYTES_MAX: usize = 16 << 10;

/// What may stay of any number of inputs, in bytes: caches are bounded, so more inputs leave no more behind.
const LEFT_MAX: isize = 64 << 20;

/// One door.
pub struct Door {
    /// Its directory in the corpus.
    pub name: &'static str,
    /// Runs when nothing else is said.
    pub runs: usize,
    /// Bytes that one input may need at its peak.
    pub memory: usize,
}

/// One door at a time: memory is counted for the whole program.
static TURN: Mutex<()> = Mutex::new(());
/// Panics that were not looked at yet, and whether they are kept from the terminal.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static QUIET: AtomicBool = AtomicBool::new(false);
/// What runs now, and since when.
static CURRENT: Mutex<Option<(Instant, &'static str, Vec<u8>)>> = Mutex::new(None);

/// Waits until no other test counts memory.
pub fn turn() -> MutexGuard<'static, ()> {
    lock(&TURN)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if QUIET.load(Ordering::Relaxed) {
                lock(&PANICS).push(info.to_string());
            } else {
                usual(info);
            }
        }));
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                if let Some((since, door, input)) = &*lock(&CURRENT)
                    && since.elapsed() > HANGS_AFTER
                {
                    let kept = keep(door, input);
                    eprintln!("door {door}: an input never ended\nREPRODUCE: scripts/fuzz --door {door}  ({kept})");
                    std::process::abort();
                }
            }
        });
    });
}

fn corpus(door: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(door)
}

/// The inputs that are kept for a door, by name.
pub fn kept(door: &str) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(corpus(door))
        .unwrap_or_else(|error| panic!("no corpus for {door}: {error}"))
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    all.sort();
    all
}

/// Keeps a failing input; its place.
fn keep(door: &str, input: &[u8]) -> String {
    let name = format!("failed-{:016x}", hash(input));
    match fs::write(corpus(door).join(&name), input) {
        Ok(()) => format!("kept as tests/fuzz/corpus/{door}/{name}"),
        Err(error) => format!("not kept: {error}: {input:?}"),
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text:?}")))
}

/// What one input did: its outcome in words, or how it broke a promise.
fn try_one(door: &Door, input: &[u8], check: &mut dyn FnMut(&[u8]) -> String) -> Result<(String, isize), String> {
    *lock(&CURRENT) = Some((Instant::now(), door.name, input.to_vec()));
    lock(&PANICS).clear();
    QUIET.store(true, Ordering::Relaxed);
    let before = memory::start();
    let mut begun = Instant::now();
    let mut outcome = panic::catch_unwind(AssertUnwindSafe(|| check(input)));
    if begun.elapsed() > TIME_MAX && outcome.is_ok() {
        // Others may have had the processor: once more, by the time that it took of it.
        let spent = processor_time();
        begun = Instant::now();
        outcome = panic::catch_unwind(AssertUnwindSafe(|| check(input)));
        let spent = processor_time() - spent;
        assert_quick(door, spent, begun.elapsed());
    }
    let (needed, left) = (memory::peak() - before, memory::held() as isize - before as isize);
    QUIET.store(false, Ordering::Relaxed);
    *lock(&CURRENT) = None;
    let panics = std::mem::take(&mut *lock(&PANICS));
    if let Some(first) = panics.first() {
        return Err(first.clone());
    }
    let outcome = outcome.map_err(|_| "a panic without a text".to_owned())?;
    if needed > door.memory {
        return Err(format!("it needed {needed} bytes of memory for {} of input", input.len()));
    }
    Ok((outcome, left))
}

fn assert_quick(door: &Door, spent: Duration, clock: Duration) {
    if spent > TIME_MAX {
        // Found like any other broken promise.
        lock(&PANICS).push(format!("door {}: {spent:?} of the processor, {clock:?} by the clock", door.name));
    }
}

/// What this process has had of the processor.
fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// An outcome without what differs each time.
fn shape(outcome: &str) -> u64 {
    let mut quoted = false;
    let mut shape = String::new();
    for c in outcome.chars().take(400) {
        match c {
            '"' | '`' => quoted = !quoted,
            _ if quoted || c.is_ascii_digit() => {}
            c => shape.push(c),
        }
    }
    hash(shape.as_bytes())
}

/// A part of an input that fails as well. What passed before has to pass still: else it is the door that is broken by
/// now, and no longer the input.
fn shrink(door: &Door, input: &[u8], sound: &[u8], check: &mut dyn FnMut(&[u8]) -> String) -> Vec<u8> {
    let begun = Instant::now();
    let mut smallest = input.to_vec();
    if try_one(door, sound, check).is_err() {
        return smallest;
    }
    let mut piece = smallest.len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        while at < smallest.len() {
            if begun.elapsed() > SHRINK_FOR {
                return smallest;
            }
            let mut smaller = smallest.clone();
            smaller.drain(at..(at + piece).min(smallest.len()));
            if try_one(door, &smaller, check).is_err() {
                if try_one(door, sound, check).is_err() {
                    return smallest;
                }
                smallest = smaller;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    smallest
}

/// Runs a door: its corpus, then changed inputs.
pub fn fuzz(door: &Door, mut check: impl FnMut(&[u8]) -> String) {
    let _turn = turn();
    prepare();
    let seed = number("FUZZ_SEED").unwrap_or(SEED);
    let seconds = number("FUZZ_SECONDS").map(Duration::from_secs);
    let mut chance = Chance::new(seed ^ hash(door.name.as_bytes()));
    let mut pool = Vec::new();
    let mut known = HashSet::new();
    let mut left_behind = 0;
    for (name, input) in kept(door.name) {
        match try_one(door, &input, &mut check) {
            Ok((outcome, _)) => {
                known.insert(shape(&outcome));
                pool.push(input);
            }
            Err(fault) => panic!(
                "{fault}\nwith tests/fuzz/corpus/{0}/{name}\nREPRODUCE: cargo test --test fuzz {0} -- --nocapture",
                door.name
            ),
        }
    }
    assert!(!pool.is_empty(), "the corpus of {} is empty", door.name);
    let given = pool.len();
    let begun = Instant::now();
    let mut runs = 0;
    while seconds.map_or(runs < door.runs, |seconds| begun.elapsed() < seconds) {
        runs += 1;
        let parent = &pool[chance.below(pool.len())];
        let other = &pool[chance.below(pool.len())];
        let input = mutate::mutate(&mut chance, parent, other);
        match try_one(door, &input, &mut check) {
            Ok((outcome, left)) => {
                left_behind += left;
                if pool.len() < given + KEPT_MAX && input.len() <= KEPT_BYTES_MAX && known.insert(shape(&outcome)) {
                    pool.push(input);
                }
            }
            Err(fault) => {
                let smaller = shrink(door, &input, &pool[0], &mut check);
                let kept = keep(door.name, &smaller);
                panic!("{fault}\n{kept}\nREPRODUCE: scripts/fuzz --door {} --seed {seed}", door.name);
            }
        }
        let door = door.name;
        assert!(left_behind < LEFT_MAX, "door {door}: {runs} inputs left {left_behind} bytes behind");
    }
    println!(
        "door {}: {runs} inputs in {:.1?}, {:.0} a second, {} outcomes, seed {seed}",
        door.name,
        begun.elapsed(),
        runs as f64 / begun.elapsed().as_secs_f64(),
        known.len()
    );
}
