//! What the system tells of a process: memory, open files, threads.
#![allow(dead_code, reason = "every test file uses its part")]

use std::fs;

/// Resident memory, kB.
pub fn resident(pid: u32) -> u64 {
    status(pid, "VmRSS:")
}

/// The most resident memory since [`forget_peak`], or since its start, kB.
pub fn peak(pid: u32) -> u64 {
    status(pid, "VmHWM:")
}

/// Lets [`peak`] begin anew. Source: proc(5), `clear_refs`.
pub fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

pub fn threads(pid: u32) -> u64 {
    status(pid, "Threads:")
}

/// Open files, connections and all else that has a number.
pub fn files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn status(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
