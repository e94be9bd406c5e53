//! Starts the process of a runner: its command, its environment, and what a failure to start means.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use actors::port::backend::{BackendError, InstanceSpec};
use rustix::io::Errno;

use super::super::executable;
use super::Settings;
use super::procfs::{MARK_GROUP, MARK_MANAGER, MARK_RUNNER};

/// What a runner gets of the manager's own environment. The rest may hold secrets.
const INHERITED: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "XDG_RUNTIME_DIR",
];
/// Where commands are looked for when no environment says so.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Checks that the command can be started as configured, and says which file it is.
pub(super) fn resolve(settings: &Settings) -> Result<PathBuf, BackendError> {
    if let Some(dir) = &settings.working_dir
        && !dir.is_dir()
    {
        return Err(BackendError::Invalid(format!(
            "working_dir {} is not a directory: create it, or change instance_config.working_dir",
            dir.display()
        )));
    }
    if let Some(name) = settings.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
        return Err(BackendError::Invalid(format!(
            "instance_config.env has a name that no environment can hold: {name:?}"
        )));
    }
    let Some(command) = settings.command.first().filter(|command| !command.is_empty()) else {
        return Err(BackendError::Invalid("instance_config.command is empty: name the program to run".to_owned()));
    };
    if command.contains('/') {
        let base = match &settings.working_dir {
            Some(dir) => dir.clone(),
            None => std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
        };
        let path = base.join(command);
        return executable(&path).map(|()| path).map_err(|why| {
            BackendError::Invalid(format!("command {command:?} cannot be run: {} {why}", base.join(command).display()))
        });
    }
    let path = settings.env.get("PATH").map(OsString::from).or_else(|| std::env::var_os("PATH"));
    let path = path.unwrap_or_else(|| DEFAULT_PATH.into());
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(command))
        .find(|candidate| executable(candidate).is_ok())
        .ok_or_else(|| {
            BackendError::Invalid(format!(
                "command {command:?} is not found in PATH ({}): install it, or give its full path in instance_config.command",
                path.display()
            ))
        })
}

/// Starts it: own process group, no input, no output, no descriptor but these three.
pub(super) fn spawn(settings: &Settings, spec: &InstanceSpec) -> Result<Child, BackendError> {
    let program = resolve(settings)?;
    // A path, a group and a directory keep the standard library on its fast way (posix_spawn, which copies no memory).
    let mut command = Command::new(program);
    command.args(settings.command.iter().skip(1)).env_clear().envs(environment(settings, spec)).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(name) = settings.command.first() {
        command.arg0(name);
    }
    if let Some(dir) = &settings.working_dir {
        command.current_dir(dir);
    }
    command.spawn().map_err(|error| failure(settings, &error))
}

/// Later ones win: the host's, the configured, the runner's, and last the marks that the process is found by.
fn environment(settings: &Settings, spec: &InstanceSpec) -> BTreeMap<OsString, OsString> {
    let mut all: BTreeMap<OsString, OsString> =
        INHERITED.iter().filter_map(|name| Some(((*name).into(), std::env::var_os(name)?))).collect();
    all.entry("PATH".into()).or_insert_with(|| DEFAULT_PATH.into());
    all.extend(settings.env.iter().map(|(name, value)| (name.into(), value.into())));
    all.extend(spec.env.iter().map(|(name, value)| ((*name).into(), value.into())));
    let rest = [
        ("RUNNER_JIT_CONFIG", spec.jit_config.expose()),
        ("ACTIONS_RUNNER_INPUT_JITCONFIG", spec.jit_config.expose()),
        (MARK_MANAGER, spec.owner.manager.as_str()),
        (MARK_GROUP, spec.owner.group.as_str()),
        (MARK_RUNNER, spec.runner.as_str()),
    ];
    all.extend(rest.map(|(name, value)| (name.into(), value.into())));
    all
}

fn failure(settings: &Settings, error: &io::Error) -> BackendError {
    let command = settings.command.first().map_or("", String::as_str);
    let text = format!("cannot start {command:?}: {error}");
    match Errno::from_io_error(error) {
        Some(Errno::AGAIN) => {
            BackendError::Quota(format!("{text}: this user may have no more processes (ulimit -u, TasksMax)"))
        }
        Some(Errno::NOMEM | Errno::MFILE | Errno::NFILE) => BackendError::NoCapacity(text),
        Some(Errno::NOENT) => {
            BackendError::Invalid(format!("{text}: the file, or the interpreter its first line names, does not exist"))
        }
        Some(Errno::NOEXEC) => {
            BackendError::Invalid(format!("{text}: neither a program of this machine nor a script with a #! line"))
        }
        Some(Errno::ACCESS | Errno::PERM | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => {
            BackendError::Invalid(text)
        }
        Some(Errno::TOOBIG) => BackendError::Invalid(format!("{text}: arguments and environment are too long")),
        _ if error.kind() == ErrorKind::InvalidInput => {
            BackendError::Invalid(format!("{text}: arguments and environment must not hold NUL bytes"))
        }
        _ => BackendError::Unavailable(text),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use actors::id::{GroupName, ManagerName, RunnerName};
    use actors::model::secret::Secret;
    use actors::port::backend::{Machine, Owner};

    use super::*;

    fn settings(command: &[&str]) -> Settings {
        Settings {
            command: command.iter().map(ToString::to_string).collect(),
            working_dir: None,
            env: BTreeMap::new(),
            stop_grace: Duration::from_secs(1),
        }
    }

    fn spec() -> InstanceSpec {
        InstanceSpec {
            owner: Owner { manager: ManagerName::new("m").unwrap(), group: GroupName::new("g").unwrap() },
            runner: RunnerName::new("g-1").unwrap(),
            env: vec![("RUNNER_LABELS", "a,b".into()), ("RUNNER_NAME", "from-spec".into())],
            jit_config: Secret::new("aml0".into()),
            machine: Machine::default(),
        }
    }

    #[test]
    fn the_environment_has_what_a_runner_needs_and_nothing_else_of_ours() {
        let mut settings = settings(&["sh"]);
        settings.env = [("RUNNER_LABELS", "configured"), ("EXTRA", "1"), ("RUNNER_MANAGER_NAME", "forged")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let environment = environment(&settings, &spec());
        let get = |name: &str| environment.get(&OsString::from(name)).and_then(|value| value.to_str());
        assert_eq!(get("EXTRA"), Some("1"));
        assert_eq!(get("RUNNER_LABELS"), Some("a,b"));
        assert_eq!(get("RUNNER_JIT_CONFIG"), Some("aml0"));
        assert_eq!(get("ACTIONS_RUNNER_INPUT_JITCONFIG"), Some("aml0"));
        assert_eq!(
            (get("RUNNER_MANAGER_NAME"), get("RUNNER_MANAGER_GROUP"), get("RUNNER_NAME")),
            (Some("m"), Some("g"), Some("g-1"))
        );
        assert!(get("PATH").is_some());
        // Cargo sets this one for every test: it stands for all that must not be handed on.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        assert_eq!(get("CARGO_MANIFEST_DIR"), None);
    }

    #[test]
    fn what_cannot_be_started_is_named_before_anything_is_made() {
        let refused = |settings: &Settings| match resolve(settings) {
            Err(BackendError::Invalid(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(refused(&settings(&[])).contains("command is empty"));
        assert!(
            refused(&settings(&["no-such-program-here"])).contains("\"no-such-program-here\" is not found in PATH")
        );
        assert!(refused(&settings(&["/no/such/file"])).contains("/no/such/file does not exist"));
        assert!(refused(&settings(&["/etc"])).contains("/etc is not a file"));
        assert!(refused(&settings(&["/etc/passwd"])).contains("/etc/passwd is not executable"));
        let mut elsewhere = settings(&["sh"]);
        elsewhere.working_dir = Some("/no/such/dir".into());
        assert!(refused(&elsewhere).contains("working_dir /no/such/dir is not a directory"));
        let mut unnamed = settings(&["sh"]);
        unnamed.env.insert("A=B".into(), "c".into());
        assert!(refused(&unnamed).contains("\"A=B\""));
    }

    #[test]
    fn a_relative_command_is_looked_for_in_the_working_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/bin/sh", dir.path().join("run.sh")).unwrap();
        let mut settings = settings(&["./run.sh"]);
        settings.working_dir = Some(dir.path().to_owned());
        assert_eq!(resolve(&settings).unwrap(), dir.path().join("./run.sh"));
    }

    #[test]
    fn a_failure_to_start_says_whether_trying_again_helps() {
        let kind = |errno: Errno| failure(&settings(&["x"]), &io::Error::from(errno)).kind();
        assert_eq!(kind(Errno::AGAIN), "quota");
        assert_eq!(kind(Errno::NOMEM), "no_capacity");
        assert_eq!(kind(Errno::MFILE), "no_capacity");
        assert_eq!(kind(Errno::NOENT), "invalid");
        assert_eq!(kind(Errno::NOEXEC), "invalid");
        assert_eq!(kind(Errno::TOOBIG), "invalid");
        assert_eq!(kind(Errno::TXTBSY), "unavailable");
    }
}
