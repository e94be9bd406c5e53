//! Processes as `/proc` shows them: who they are, whose they are, and a signal that reaches no other.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, geteuid};
use secrecy::zeroize::{Zeroize, Zeroizing};

/// Environment variable that holds the name of the manager that a process belongs to.
pub(super) const MARK_MANAGER: &str = "RUNNER_MANAGER_NAME";
/// Environment variable that holds the name of its runner group.
pub(super) const MARK_GROUP: &str = "RUNNER_MANAGER_GROUP";
/// Environment variable that holds the name of its runner.
pub(super) const MARK_RUNNER: &str = "RUNNER_NAME";

/// Most bytes of an environment that are searched for marks; longer ones are not ours.
const ENVIRONMENT_MAX: u64 = 4 << 20;
/// The kernel's parent of all its own threads, which are never ours.
const KTHREADD: i32 = 2;

/// One process and no other, also after its pid was given to somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) pid: i32,
    /// When it started, in clock ticks since boot.
    pub(super) start: u64,
}

/// What `/proc/<pid>/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) identity: Identity,
    pub(super) parent: i32,
    pub(super) group: i32,
    /// Only its exit status is left, to be read by its parent.
    pub(super) ended: bool,
}

/// Whose a process is, from its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) manager: String,
    pub(super) group: String,
    pub(super) runner: String,
}

/// One process of a scan.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) stat: Stat,
    /// Present only when the process runs as our own user and carries all the marks.
    pub(super) marks: Option<Marks>,
}

/// The identity of this run of the kernel: pids and start times mean nothing beyond it.
pub(super) fn boot_id() -> io::Result<&'static str> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(known) = BOOT.get() {
        return Ok(known);
    }
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(BOOT.get_or_init(|| text.trim().to_owned()))
}

/// The process that has `pid` now; none when there is none.
pub(super) fn stat(pid: i32) -> io::Result<Option<Stat>> {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(text) => parse_stat(&text).map(Some).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("cannot read /proc/{pid}/stat: unknown form"))
        }),
        Err(error) if vanished(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether exactly this process still runs.
pub(super) fn runs(identity: Identity) -> io::Result<bool> {
    Ok(stat(identity.pid)?.is_some_and(|stat| stat.identity == identity && !stat.ended))
}

/// Every process on this host but this one and the kernel's threads.
pub(super) fn scan() -> io::Result<Vec<Seen>> {
    let own_pid = std::process::id().cast_signed();
    let own_user = geteuid().as_raw();
    let mut environment = Zeroizing::new(Vec::with_capacity(32 << 10));
    let mut seen = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Some(stat) = stat(pid)? else { continue };
        if pid == own_pid || pid == KTHREADD || stat.parent == KTHREADD {
            continue;
        }
        let marks = if stat.ended { None } else { marks(pid, own_user, &mut environment)? };
        seen.push(Seen { stat, marks });
    }
    Ok(seen)
}

/// Sends `signal` to exactly this process; success when it has ended.
pub(super) fn send(identity: Identity, signal: Signal) -> io::Result<()> {
    let Some(pid) = Pid::from_raw(identity.pid) else { return Ok(()) };
    match send_checked(identity, pid, signal) {
        Err(Errno::SRCH) => Ok(()),
        other => Ok(other?),
    }
}

/// A descriptor pins the process before its identity is checked, so that the signal cannot reach a successor.
#[cfg(target_os = "linux")]
fn send_checked(identity: Identity, pid: Pid, signal: Signal) -> rustix::io::Result<()> {
    use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
    let pinned = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::NOSYS | Errno::PERM | Errno::MFILE | Errno::NFILE) => return send_by_pid(identity, pid, signal),
        other => other?,
    };
    if runs(identity).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))? {
        pidfd_send_signal(&pinned, signal)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn send_checked(identity: Identity, pid: Pid, signal: Signal) -> rustix::io::Result<()> {
    send_by_pid(identity, pid, signal)
}

/// For kernels without process descriptors: checked immediately before.
fn send_by_pid(identity: Identity, pid: Pid, signal: Signal) -> rustix::io::Result<()> {
    if runs(identity).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))? {
        rustix::process::kill_process(pid, signal)?;
    }
    Ok(())
}

/// A process may end between any two looks at it.
fn vanished(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || Errno::from_io_error(error) == Some(Errno::SRCH)
}

fn parse_stat(text: &[u8]) -> Option<Stat> {
    // The command is in parentheses and may hold any character, parentheses too.
    let close = text.iter().rposition(|&b| b == b')')?;
    let pid = std::str::from_utf8(&text[..text.iter().position(|&b| b == b' ')?]).ok()?.parse().ok()?;
    let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let threads: u32 = fields.nth(14)?.parse().ok()?;
    let start = fields.nth(1)?.parse().ok()?;
    // A first thread that has ended before the others looks like a zombie too.
    let ended = matches!(state, "Z" | "X") && threads <= 1;
    Some(Stat { identity: Identity { pid, start }, parent, group, ended })
}

/// The marks of `pid`, if it is a process of `user`. `buffer` is wiped: environments hold secrets.
fn marks(pid: i32, user: u32, buffer: &mut Zeroizing<Vec<u8>>) -> io::Result<Option<Marks>> {
    // EIO: a process may unmap its own environment.
    let unreadable = |error: &io::Error| {
        vanished(error)
            || error.kind() == io::ErrorKind::PermissionDenied
            || Errno::from_io_error(error) == Some(Errno::IO)
    };
    match fs::metadata(format!("/proc/{pid}")) {
        Ok(metadata) if metadata.uid() == user => {}
        Ok(_) => return Ok(None),
        Err(error) if unreadable(&error) => return Ok(None),
        Err(error) => return Err(error),
    }
    let read =
        File::open(format!("/proc/{pid}/environ")).and_then(|file| file.take(ENVIRONMENT_MAX).read_to_end(buffer));
    let marks = match read {
        Ok(_) => Ok(parse_marks(buffer)),
        Err(error) if unreadable(&error) => Ok(None),
        Err(error) => Err(error),
    };
    buffer.zeroize();
    marks
}

fn parse_marks(mut environment: &[u8]) -> Option<Marks> {
    let (mut manager, mut group, mut runner) = (None, None, None);
    while let Ok(entry) = CStr::from_bytes_until_nul(environment) {
        let bytes = entry.to_bytes();
        environment = &environment[bytes.len() + 1..];
        if !bytes.starts_with(b"RUNNER_") {
            continue;
        }
        let Some((name, value)) = entry.to_str().ok().and_then(|text| text.split_once('=')) else { continue };
        match name {
            MARK_MANAGER => manager = Some(value.to_owned()),
            MARK_GROUP => group = Some(value.to_owned()),
            MARK_RUNNER => runner = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(Marks { manager: manager?, group: group?, runner: runner? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_is_read_whatever_the_command_is_called() {
        let text = b"42 (a) R 1 (b) S 7 40 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 9876 123 45\n";
        let stat = parse_stat(text).unwrap();
        assert_eq!(stat, Stat { identity: Identity { pid: 42, start: 9876 }, parent: 7, group: 40, ended: false });
    }

    #[test]
    fn a_zombie_has_ended_unless_other_threads_of_it_run() {
        let line = |threads| format!("42 (x) Z 7 40 40 0 -1 0 1 2 3 4 5 6 7 8 20 0 {threads} 0 9876 123 45\n");
        assert!(parse_stat(line(1).as_bytes()).unwrap().ended);
        assert!(!parse_stat(line(4).as_bytes()).unwrap().ended);
    }

    #[test]
    fn a_torn_stat_is_refused() {
        assert_eq!(parse_stat(b"42 (x) S 7"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn marks_need_all_three_variables() {
        let all = b"A=b\0RUNNER_NAME=r-1\0RUNNER_MANAGER_NAME=m\0RUNNER_MANAGER_GROUP=g\0";
        let marks = parse_marks(all).unwrap();
        assert_eq!(marks, Marks { manager: "m".into(), group: "g".into(), runner: "r-1".into() });
        assert_eq!(parse_marks(b"RUNNER_NAME=r-1\0RUNNER_MANAGER_NAME=m\0"), None);
        assert_eq!(parse_marks(b"RUNNER_NAME=r\0X=RUNNER_MANAGER_NAME=m\0RUNNER_MANAGER_GROUP=g\0"), None);
        assert_eq!(parse_marks(b""), None);
    }

    #[test]
    fn this_process_runs_and_one_with_another_start_time_does_not() {
        let own = stat(std::process::id().cast_signed()).unwrap().unwrap().identity;
        assert!(runs(own).unwrap());
        assert!(!runs(Identity { start: own.start + 1, ..own }).unwrap());
    }

    #[test]
    fn a_signal_for_a_former_owner_of_a_pid_is_not_sent() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let now = stat(child.id().cast_signed()).unwrap().unwrap().identity;
        let former = Identity { start: now.start - 1, ..now };
        send(former, Signal::KILL).unwrap();
        let pid = Pid::from_raw(now.pid).unwrap();
        send_by_pid(former, pid, Signal::KILL).unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        send(now, Signal::KILL).unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
