//! The built-in startup script, run for real on a machine of stubs: with and without systemd, on every family, and with
//! values that would do harm if a shell ever read them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use runner_manager::startup::{BUILT_IN, LOADER, Values, built_in, check, render};
use tempfile::TempDir;

const TOKEN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const CONFIG: &str = "eyIucnVubmVyIjoiZTMwPSJ9";
/// What the script needs of a machine beside the commands that are stubs.
const TOOLS: [&str; 12] = ["bash", "cat", "chmod", "cp", "gzip", "ln", "mkdir", "mv", "rm", "stat", "tar", "touch"];
/// Both shells that a machine may start it with.
const SHELLS: [&str; 2] = ["dash", "bash"];

/// A machine: a directory, and commands that do nothing to the real one.
struct Machine {
    root: TempDir,
}

fn stub() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/stub.sh")
}

fn which(tool: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path)
        .map(|dir| dir.join(tool))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{tool}"))
}

impl Machine {
    /// A machine with these commands, the runner's archive, and no runner.
    fn new(commands: &[&str]) -> Self {
        let machine = Self { root: tempfile::tempdir().unwrap() };
        fs::create_dir(machine.path("bin")).unwrap();
        for tool in TOOLS.iter().chain(&["tr", "mktemp"]) {
            symlink(which(tool), machine.path("bin").join(tool)).unwrap();
        }
        for command in ["id", "useradd", "usermod", "getent", "chown"].iter().chain(commands) {
            symlink(stub(), machine.path("bin").join(command)).unwrap();
        }
        let archive = machine.path("archive");
        fs::create_dir_all(archive.join("bin")).unwrap();
        for script in ["run.sh", "bin/installdependencies.sh"] {
            fs::write(archive.join(script), "#!/bin/bash\ntouch \"$ROOT/dependencies\"\n").unwrap();
            fs::set_permissions(archive.join(script), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut pack = Command::new("tar");
        pack.arg("-czf").arg(machine.path("runner.tar.gz")).arg("-C").arg(archive).arg(".");
        assert!(pack.status().unwrap().success());
        fs::write(machine.path("os-release"), "NAME=\"Ubuntu\"\nVERSION_ID=\"24.04\"\n").unwrap();
        machine
    }

    fn with_systemd(self) -> Self {
        fs::create_dir(self.path("systemd")).unwrap();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The script, with the places of this machine instead of a real one's.
    fn script(&self, values: &Values<'_>) -> String {
        let mut script = built_in(values).unwrap();
        for (name, real, here) in [
            ("home", "/opt/actions-runner", "home"),
            ("config", "/run/actions-runner.env", "config"),
            ("unit", "/etc/systemd/system/actions-runner.service", "unit"),
            ("systemd", "/run/systemd/system", "systemd"),
            ("os_release", "/etc/os-release", "os-release"),
            ("selinux", "/sys/fs/selinux/enforce", "selinux"),
        ] {
            let line = format!("\n{name}={real}\n");
            assert!(script.contains(&line), "{line}");
            script = script.replace(&line, &format!("\n{name}={}\n", self.path(here).display()));
        }
        script
    }

    fn run(&self, shell: &str, values: &Values<'_>) -> Output {
        fs::write(self.path("script"), self.script(values)).unwrap();
        Command::new(which(shell))
            .arg(self.path("script"))
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("ROOT", self.root.path())
            .env("STUB", stub())
            .env("CONFIG", CONFIG)
            .current_dir(self.root.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs it and expects it to end well.
    fn start(&self, shell: &str, values: &Values<'_>) -> String {
        let output = self.run(shell, values);
        let text = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{shell}: {text}\n{error}\n{}", self.read("log"));
        assert_eq!(error, "", "{shell}");
        text
    }

    /// No argument of any command held a secret.
    fn arguments_are_clean(&self) {
        let log = self.read("log");
        assert!(!log.contains(TOKEN) && !log.contains(CONFIG), "{log}");
    }
}

fn values<'a>(env: &[(&'a str, &'a str)]) -> Values<'a> {
    let mut all = vec![
        ("RUNNER_NAME", "octo-0a1b2c3d"),
        ("RUNNER_LABELS", "self-hosted,linux"),
        ("RUNNER_DOWNLOAD_URL", "https://github.com/runner.tar.gz"),
        ("RUNNER_ORG", "octo-org"),
        ("RUNNER_GROUP", "octo"),
    ];
    all.retain(|(name, _)| env.iter().all(|(other, _)| other != name));
    all.extend(env);
    Values {
        env: all,
        jit_config: "",
        metadata_url: "https://m.example/metadata",
        callback_url: "https://m.example/callback",
        token: TOKEN,
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn with_systemd_the_runner_is_a_service_that_starts_after_its_hooks_are_written() {
    for shell in SHELLS {
        let machine = Machine::new(&["curl", "systemctl"]).with_systemd();
        let hook = "echo \"it's $HOME\"\necho done";
        let output = machine.start(
            shell,
            &values(&[("RUNNER_JOB_STARTED_SCRIPT", hook), ("RUNNER_JOB_COMPLETED_SCRIPT", "/opt/hooks/done.sh")]),
        );
        assert!(output.contains("startup: idle: "), "{output}");
        let home = machine.path("home");
        let written = home.join("hooks/job-started.sh");
        let expected = format!(
            "ACTIONS_RUNNER_HOOK_JOB_STARTED={}\nACTIONS_RUNNER_HOOK_JOB_COMPLETED=/opt/hooks/done.sh\n",
            written.display()
        );
        assert_eq!(machine.read("env-at-start"), expected);
        assert_eq!(fs::read_to_string(&written).unwrap(), format!("{hook}\n"));
        assert_eq!(fs::metadata(&written).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(machine.read("config"), format!("ACTIONS_RUNNER_INPUT_JITCONFIG={CONFIG}\n"));
        assert_eq!(machine.read("config-mode"), "600\n");
        let unit = machine.read("unit");
        for line in [
            "User=runner".to_owned(),
            format!("ExecStart={}/run.sh", home.display()),
            format!("EnvironmentFile={}", machine.path("config").display()),
            format!("ExecStartPost=+/bin/rm -f {}", machine.path("config").display()),
        ] {
            assert!(unit.lines().any(|known| known == line), "{line}\n{unit}");
        }
        assert!(!unit.contains(CONFIG));
        let log = machine.read("log");
        assert!(log.ends_with("systemctl <daemon-reload>\nsystemctl <start> <actions-runner.service>\n"), "{log}");
        assert!(machine.path("dependencies").exists());
        machine.arguments_are_clean();
    }
}

#[test]
fn without_systemd_the_runner_is_started_with_its_config_in_its_environment() {
    for shell in SHELLS {
        for starter in ["runuser", "su"] {
            let machine = Machine::new(&["curl", starter]);
            machine.start(shell, &values(&[("RUNNER_JOB_STARTED_SCRIPT", "/opt/start.sh")]));
            until("the runner is started", || machine.path("started-with").exists());
            assert_eq!(machine.read("started-with"), CONFIG, "{shell} {starter}");
            assert_eq!(machine.read("env-at-start"), "ACTIONS_RUNNER_HOOK_JOB_STARTED=/opt/start.sh\n");
            assert!(machine.read("log").contains(&format!("\n{starter} ")), "{}", machine.read("log"));
            machine.arguments_are_clean();
        }
    }
}

#[test]
fn the_manager_is_asked_and_told_with_the_token_and_nobody_else_is() {
    let machine = Machine::new(&["curl", "systemctl"]).with_systemd();
    machine.start("dash", &values(&[]));
    let asked = machine.read("asked");
    let header = format!("header = \"Authorization: Bearer {TOKEN}\"");
    let mut lines = asked.lines();
    let mut urls = vec![];
    while let (Some(url), Some(stdin)) = (lines.next(), lines.next()) {
        assert_eq!(stdin == header, url.starts_with("https://m.example/"), "{url} {stdin}");
        urls.push(url.to_owned());
    }
    for url in ["metadata/jit-config", "callback/status", "callback/system-info"] {
        assert!(urls.contains(&format!("https://m.example/{url}")), "{urls:?}");
    }
    assert!(urls.contains(&"https://github.com/runner.tar.gz".to_owned()));
    let reports: Vec<serde_json::Value> =
        machine.read("reported").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        reports.iter().any(|report| report["os_name"] == "Ubuntu" && report["os_version"] == "24.04"),
        "{reports:?}"
    );
    assert_eq!(reports.last().unwrap()["status"], "idle");
    assert!(reports.iter().all(|report| report["status"] != "failed"));
}

#[test]
fn nothing_of_a_value_is_ever_read_by_a_shell() {
    let nasty = "it's \"q\" $(touch pwned) `touch pwned` ${HOME} \\ ; touch pwned & | > pwned\n'; touch pwned; '\n\u{fc} %s %n * {{RUNNER_TOKEN}} ''";
    for shell in SHELLS {
        let machine = Machine::new(&["curl", "systemctl"]).with_systemd();
        let env = [
            ("RUNNER_NAME", nasty),
            ("RUNNER_LABELS", nasty),
            ("RUNNER_DOWNLOAD_URL", nasty),
            ("RUNNER_ORG", nasty),
            ("RUNNER_GROUP", nasty),
            ("RUNNER_JOB_STARTED_SCRIPT", nasty),
            ("RUNNER_JOB_COMPLETED_SCRIPT", nasty),
        ];
        let values = Values { metadata_url: nasty, callback_url: nasty, jit_config: CONFIG, ..values(&env) };
        let output = machine.start(shell, &values);
        let first = format!("startup: runner {nasty} of group {nasty} in {nasty}, labels {nasty}\n");
        assert!(output.starts_with(&first), "{output}");
        assert!(
            machine.read("log").contains(&format!(" <{nasty}>\n")),
            "the address as it is: {}",
            machine.read("log")
        );
        assert!(machine.read("log").contains(&format!(" <{nasty}/status>\n")));
        let hook = fs::read_to_string(machine.path("home/hooks/job-completed.sh")).unwrap();
        assert_eq!(hook, format!("{nasty}\n"));
        for dir in [machine.root.path().to_owned(), machine.path("home")] {
            assert!(!dir.join("pwned").exists(), "{shell}");
        }
    }
}

#[test]
fn what_is_missing_is_installed_on_every_family() {
    for (manager, expected) in [
        ("apt-get", "apt-get <install> <-qq> <-y> <--no-install-recommends> <curl> <ca-certificates>\n"),
        ("dnf", "dnf <install> <-q> <-y> <curl> <ca-certificates>\n"),
        ("yum", "yum <install> <-q> <-y> <curl> <ca-certificates>\n"),
    ] {
        let machine = Machine::new(&[manager, "systemctl"]).with_systemd();
        machine.start("dash", &values(&[]));
        assert!(machine.read("log").contains(expected), "{}", machine.read("log"));
    }
    let machine = Machine::new(&["systemctl"]).with_systemd();
    let output = machine.run("dash", &values(&[]));
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("neither apt-get nor dnf nor yum is there to install: curl ca-certificates"), "{error}");
}

#[test]
fn an_image_with_a_runner_downloads_nothing_and_docker_is_used_where_it_is() {
    let machine = Machine::new(&["curl", "systemctl"]).with_systemd();
    fs::create_dir(machine.path("home")).unwrap();
    fs::copy(machine.path("archive/run.sh"), machine.path("home/run.sh")).unwrap();
    machine.start("bash", &values(&[]));
    assert!(!machine.read("asked").contains("runner.tar.gz") && !machine.path("dependencies").exists());
    assert!(!machine.read("log").contains("usermod"));

    let machine = Machine::new(&["curl", "systemctl"]).with_systemd();
    fs::write(machine.path("docker"), "").unwrap();
    machine.start("bash", &values(&[]));
    assert!(machine.read("log").contains("usermod <--append> <--groups> <docker> <runner>\n"));
}

#[test]
fn a_step_that_fails_ends_it_and_is_reported() {
    let machine = Machine::new(&["curl", "systemctl"]).with_systemd();
    fs::write(machine.path("offline"), "").unwrap();
    let output = machine.run("dash", &values(&[]));
    assert_eq!(output.status.code(), Some(22));
    let last: serde_json::Value = serde_json::from_str(machine.read("reported").lines().last().unwrap()).unwrap();
    assert_eq!(last, serde_json::json!({"status": "failed", "message": "downloading the runner"}));
    assert!(!machine.read("log").contains("systemctl"));

    let machine = Machine::new(&["curl", "systemctl"]).with_systemd();
    let bad = Values { jit_config: "not; a config", ..values(&[]) };
    let output = machine.run("dash", &bad);
    assert!(!output.status.success());
    assert!(!machine.read("log").contains("systemctl"), "it is not started without a config");
}

#[test]
fn without_a_manager_to_ask_the_config_is_in_the_script_and_nobody_is_told() {
    let machine = Machine::new(&["curl", "systemctl"]).with_systemd();
    let values = Values { jit_config: CONFIG, metadata_url: "", callback_url: "", token: "", ..values(&[]) };
    machine.start("dash", &values);
    assert_eq!(machine.read("config"), format!("ACTIONS_RUNNER_INPUT_JITCONFIG={CONFIG}\n"));
    assert_eq!(machine.read("asked").lines().filter(|line| line.starts_with("https")).count(), 1, "only the runner");
    machine.arguments_are_clean();
}

#[test]
fn shellcheck_has_nothing_to_say_about_the_template_and_what_is_made_of_it() {
    let nasty = "it's \"q\" $(x) `x` \\ \n'; x; '";
    let env = [
        "RUNNER_NAME",
        "RUNNER_LABELS",
        "RUNNER_DOWNLOAD_URL",
        "RUNNER_ORG",
        "RUNNER_GROUP",
        "RUNNER_JOB_STARTED_SCRIPT",
    ]
    .map(|name| (name, nasty));
    let made = built_in(&values(&env)).unwrap();
    let example = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/startup.sh")).unwrap();
    check(&example).unwrap();
    let example = render(&example, &values(&env)).unwrap();
    for (script, shell) in
        [(&*example, "sh"), (BUILT_IN, "sh"), (BUILT_IN, "bash"), (&made, "sh"), (&made, "dash"), (LOADER, "sh")]
    {
        let mut shellcheck = Command::new("shellcheck")
            .args(["--shell", shell, "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("shellcheck is installed");
        shellcheck.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let output = shellcheck.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
