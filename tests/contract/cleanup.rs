//! Ends what a failed test of real processes left behind.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// The variable that every process of a test has: its directory.
pub const HOST: &str = "HOST";

/// All processes of this machine.
pub fn all_pids() -> Vec<i32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The environment that a process was started with, as `NAME=value`.
pub fn environ(pid: i32) -> Vec<String> {
    let text = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    String::from_utf8_lossy(&text).split('\0').map(str::to_owned).collect()
}

/// Kills every process that was started for `dir`.
pub fn kill_all(dir: &Path) {
    let mark = format!("{HOST}={}", dir.display());
    for pid in all_pids().into_iter().filter(|pid| environ(*pid).contains(&mark)) {
        let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
    }
}
