//! One call of the provider's executable: a process group of its own, bounded in time and in what it prints.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Most bytes of an answer.
const STDOUT_MAX: usize = 4 << 20;
/// Most bytes that are kept of what it says on stderr, its last ones; more than is ever shown.
const STDERR_KEPT: usize = 64 << 10;
/// How long what it started may hold its output open after it has ended itself.
const LINGER: Duration = Duration::from_secs(2);

/// What to run.
pub(super) struct Call<'a> {
    /// The executable, an absolute path. It gets no arguments.
    pub(super) program: &'a Path,
    /// All of its environment.
    pub(super) env: Vec<(OsString, OsString)>,
    /// What it reads; none: nothing.
    pub(super) input: Option<Vec<u8>>,
    /// Longest time it may take.
    pub(super) deadline: Duration,
}

/// What came of it.
pub(super) struct Answer {
    /// How it ended.
    pub(super) status: ExitStatus,
    /// What it printed.
    pub(super) stdout: Vec<u8>,
    /// The end of what it said on stderr.
    pub(super) stderr: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// It was not started.
    NotStarted(io::Error),
    /// It did not end in time and was killed; the end of what it said on stderr.
    Hung(Vec<u8>),
    /// It printed more than [`STDOUT_MAX`] and was killed.
    TooMuch,
    /// It cannot be followed and was killed.
    Lost(io::Error),
}

/// A process whose group is killed with it, unless it has ended by itself.
struct Running(Child);

impl Running {
    /// Kills the group. Until the process is reaped no other group can have its id; afterwards this does nothing.
    fn kill(&self) {
        if let Some(group) = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            // Fails when nothing of it is left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs it. When this future is dropped, the process group is killed.
pub(super) async fn run(call: Call<'_>) -> Result<Answer, CallError> {
    let mut command = Command::new(call.program);
    command.env_clear().envs(call.env).current_dir("/").process_group(0);
    command.stdin(if call.input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running(command.spawn().map_err(CallError::NotStarted)?);
    let Running(child) = &mut running;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let feed = async {
        if let (Some(mut pipe), Some(input)) = (stdin, call.input) {
            // It need not read all of it.
            let _ = pipe.write_all(&input).await;
        }
        Ok(())
    };
    let read = async { tokio::try_join!(feed, whole(stdout, &mut out), tail(stderr, &mut err)).map(drop) };
    let work = async {
        let mut read = std::pin::pin!(read);
        tokio::select! {
            read = &mut read => {
                read?;
                child.wait().await.map_err(CallError::Lost)
            }
            status = child.wait() => {
                // What it started may hold its output open.
                timeout(LINGER, read).await.unwrap_or(Ok(()))?;
                status.map_err(CallError::Lost)
            }
        }
    };
    match timeout(call.deadline, work).await {
        Ok(Ok(status)) => Ok(Answer { status, stdout: out, stderr: err }),
        failed => {
            running.kill();
            let _ = running.0.wait().await;
            Err(failed.map_or(None, Result::err).unwrap_or(CallError::Hung(err)))
        }
    }
}

/// All that comes, as long as it is not too much.
async fn whole(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) -> Result<(), CallError> {
    let Some(pipe) = pipe else { return Ok(()) };
    // A pipe that breaks has ended.
    let _ = pipe.take(STDOUT_MAX as u64 + 1).read_to_end(kept).await;
    if kept.len() > STDOUT_MAX { Err(CallError::TooMuch) } else { Ok(()) }
}

/// The end of all that comes.
async fn tail(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) -> Result<(), CallError> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut piece = vec![0; 8 << 10];
    while let Ok(count @ 1..) = pipe.read(&mut piece).await {
        kept.extend_from_slice(&piece[..count]);
        if kept.len() > 2 * STDERR_KEPT {
            kept.drain(..kept.len() - STDERR_KEPT);
        }
    }
    Ok(())
}
