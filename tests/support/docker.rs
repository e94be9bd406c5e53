//! A real dockerd with data, socket and containers of its own. It ends when it is dropped, also in a panic, with all that
//! it started and mounted.
#![allow(dead_code, reason = "every test file uses its part")]

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use reqwest::{Client, Method};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Longest time until a daemon works, or has ended.
const PATIENCE: Duration = Duration::from_secs(60);
/// What there is to be done where the tests cannot be run.
const NEEDED: &str =
    "dockerd and a static busybox are needed, and root: run scripts/setup as root, which installs them";
/// Programs that images have, each a name of busybox.
const PROGRAMS: [&str; 6] = ["sh", "sleep", "true", "touch", "cat", "ls"];

/// One daemon.
pub struct Dockerd {
    dir: TempDir,
    args: Vec<String>,
    child: Child,
    client: Client,
}

impl Dockerd {
    /// A daemon whose containers have the network `none` or `host`.
    pub fn start() -> Self {
        Self::with(&[], |_| ())
    }

    /// The daemon of all tests that run at the time: started by the first of them, ended by the last.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Dockerd>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let started = Arc::new(Self::start());
        *shared = Arc::downgrade(&started);
        started
    }

    /// The same with more arguments; `prepare` puts files into its directory before.
    pub fn with(args: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        assert!(rustix::process::geteuid().is_root(), "{NEEDED}");
        let dir = tempfile::Builder::new().prefix("dockerd-").tempdir().unwrap();
        prepare(dir.path());
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let args: Vec<String> = args.iter().map(|arg| arg.replace("DIR", dir.path().to_str().unwrap())).collect();
        // Tests that share the daemon have a runtime each: a connection must not outlive its own.
        let client = Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .unix_socket(dir.path().join("sock"))
            .build()
            .unwrap();
        let mut daemon = Self { child: spawn(dir.path(), &args), dir, args, client };
        daemon.await_up();
        daemon
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    /// What the daemon wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Asks the daemon, without what is under test in between: status and answer.
    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let request = self.client.request(method, format!("http://docker{path}"));
        let request = if let Some(body) = body { request.json(&body) } else { request };
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
    }

    pub async fn get(&self, path: &str) -> Value {
        self.ask(Method::GET, path, None).await.1
    }

    /// Names of all containers, whoever made them and whatever their state.
    pub async fn containers(&self) -> Vec<String> {
        let all = self.get("/containers/json?all=true").await;
        let name = |container: &Value| container["Names"][0].as_str().unwrap().trim_start_matches('/').to_owned();
        let mut names: Vec<String> = all.as_array().unwrap().iter().map(name).collect();
        names.sort();
        names
    }

    /// Makes a container, without starting it, and returns its id.
    pub async fn make(&self, name: &str, body: Value) -> String {
        let (status, made) = self.ask(Method::POST, &format!("/containers/create?name={name}"), Some(body)).await;
        assert_eq!(status, 201, "{made}");
        made["Id"].as_str().unwrap().to_owned()
    }

    pub async fn run(&self, name: &str, body: Value) -> String {
        let id = self.make(name, body).await;
        let (status, answer) = self.ask(Method::POST, &format!("/containers/{id}/start"), None).await;
        assert_eq!(status, 204, "{answer}");
        id
    }

    /// Makes an image of busybox, with an anonymous volume at `/data`.
    pub async fn image(&self, name: &str) {
        let tar = root_of_busybox();
        let url = format!("http://docker/images/create?fromSrc=-&repo={name}&tag=latest&changes=VOLUME%20/data");
        let answer = self.client.post(url).body(tar).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
        let answer = answer.text().await.unwrap();
        assert!(!answer.contains("error"), "{answer}");
    }

    /// Ends the daemon as its host's shutdown does, and starts it again with the same data.
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// Ends the daemon, and with it the containers unless it was told otherwise.
    pub fn stop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().ok().flatten().is_none() {
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the daemon at once; its containers stay.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the daemon after [`Self::stop`] or [`Self::kill`].
    pub fn start_again(&mut self) {
        self.child = spawn(self.dir.path(), &self.args);
        self.await_up();
    }

    fn await_up(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        // Its socket is there before it works, and may be left from before.
        while !answers(&self.socket()) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "dockerd does not start:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        self.stop();
        let mark = self.dir.path().file_name().unwrap().to_str().unwrap().to_owned();
        let deadline = Instant::now() + PATIENCE;
        while kill_all(&mark) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        unmount_all(self.dir.path());
    }
}

fn spawn(dir: &Path, args: &[String]) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let path = |name: &str| dir.join(name).display().to_string();
    let mut command = Command::new("dockerd");
    command.args(["--storage-driver=vfs", "--iptables=false", "--bridge=none", "--shutdown-timeout=1"]);
    command.arg("--data-root").arg(path("data")).arg("--exec-root").arg(path("exec"));
    command.arg("--pidfile").arg(path("pid")).arg("-H").arg(format!("unix://{}", path("sock")));
    // Where the host has a containerd, it is used: ours must not be mixed up with others.
    command.arg("--containerd-namespace").arg(dir.file_name().unwrap());
    command.arg("--config-file").arg(path("daemon.json")).args(args);
    fs::write(dir.join("daemon.json"), "{}").unwrap();
    let streams = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    streams.spawn().unwrap_or_else(|error| panic!("{NEEDED} ({error})"))
}

/// Whether a daemon answers at a socket.
fn answers(socket: &Path) -> bool {
    use std::io::{Read as _, Write as _};
    let Ok(mut stream) = std::os::unix::net::UnixStream::connect(socket) else { return false };
    let mut answer = [0; 15];
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let asked = stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n");
    asked.and_then(|()| stream.read_exact(&mut answer)).is_ok() && answer == *b"HTTP/1.1 200 OK"
}

/// A file system with busybox, as a tar archive.
pub fn root_of_busybox() -> Vec<u8> {
    let root = tempfile::tempdir().unwrap();
    let bin = root.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    fs::copy(busybox.unwrap_or_else(|| panic!("{NEEDED}")), bin.join("busybox")).unwrap();
    for program in PROGRAMS {
        symlink("busybox", bin.join(program)).unwrap();
    }
    // Mount points for what tests bring along.
    for dir in ["lib", "lib64", "usr", "tmp", "data"] {
        fs::create_dir(root.path().join(dir)).unwrap();
    }
    let tar = Command::new("tar").arg("-C").arg(root.path()).args(["-c", "."]).output().unwrap();
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    tar.stdout
}

/// Kills what a daemon left: its helpers name its directory, its containers live in it. Returns how many there were.
fn kill_all(mark: &str) -> usize {
    let here = fs::read_link("/proc/self/ns/mnt").unwrap();
    let mut found = 0;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        let has = |file: &str| {
            let text = fs::read(entry.path().join(file)).unwrap_or_default();
            text.windows(mark.len()).any(|part| part == mark.as_bytes())
        };
        let contained = fs::read_link(entry.path().join("ns/mnt")).is_ok_and(|space| space != here) && has("mountinfo");
        let program = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        let helper = program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("containerd"));
        if contained || (helper && has("cmdline")) {
            found += 1;
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    found
}

/// Undoes the mounts below a directory, the innermost first.
fn unmount_all(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let mut places: Vec<&str> = places.filter(|place| Path::new(place).starts_with(dir)).collect();
    places.sort_by_key(|place| std::cmp::Reverse(place.len()));
    for place in places {
        let _ = Command::new("umount").arg("-l").arg(place).stderr(Stdio::null()).status();
    }
}
