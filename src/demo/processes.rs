//! Looks at the system's processes from outside, so that the demo's account does not believe the service.

use std::fs;

/// Processes whose environment has `mark` (`NAME=value`). Zombies have none and do not count. 0 where there is no `/proc`.
#[must_use]
pub fn count_marked(mark: &str) -> usize {
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit())))
        .filter_map(|entry| fs::read(entry.path().join("environ")).ok())
        .filter(|environ| environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()))
        .count()
}
