//! Real Redis servers on free ports of the loopback: one, with TLS, behind Sentinels, or as a Cluster. All of them end
//! when they are dropped, also in a panic.
#![allow(dead_code, reason = "every test file uses its part")]

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longest time until a server, or what several are together, is ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// The service that the Sentinels watch.
pub const SERVICE: &str = "mymaster";
/// A Sentinel's file; the port of the master is added. One second without an answer and a master is taken for dead.
const SENTINEL: &str = "sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 3000\n";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Tls,
    Sentinel,
}

/// One server and its data.
pub struct RedisServer {
    dir: TempDir,
    kind: Kind,
    port: u16,
    args: Vec<String>,
    child: Child,
}

impl RedisServer {
    /// A server that keeps nothing on disk.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// The same with more arguments, one word each, such as `--appendonly yes --appendfsync always`.
    pub fn with(args: &[&str]) -> Self {
        Self::launch(Kind::Plain, args, &|_| {})
    }

    /// A replica; returns when it is in step with its master.
    pub fn replica_of(master: &Self) -> Self {
        let replica = Self::with(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
        until("the replica is in step", || {
            let info = replica.cli(&["info", "replication"]);
            (info.contains("master_link_status:up"), info)
        });
        replica
    }

    /// A server that speaks TLS only, with a certificate of its own authority for 127.0.0.1 and localhost.
    pub fn tls() -> Self {
        Self::launch(Kind::Tls, &["--tls-auth-clients", "no"], &make_certificates)
    }

    /// The same, for clients only that show a certificate: [`Self::cert_file`] and [`Self::key_file`].
    pub fn mutual_tls() -> Self {
        Self::launch(Kind::Tls, &["--tls-auth-clients", "yes"], &make_certificates)
    }

    /// Starts a server on a free port; `prepare` puts files into its directory before.
    fn launch(kind: Kind, args: &[&str], prepare: &dyn Fn(&Path)) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let dir = tempfile::tempdir().unwrap();
            prepare(dir.path());
            let (port, args) = (free_port(), args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>());
            let child = spawn(dir.path(), kind, port, &args);
            let mut server = Self { dir, kind, port, args, child };
            if server.comes_up() {
                return server;
            }
            // Between the choice of a port and its use another program may have taken it.
            let (log, args) = (server.log(), &server.args);
            let taken = log.contains("Address already in use") && Instant::now() < deadline;
            assert!(taken, "redis-server {args:?} does not start:\n{log}");
        }
    }

    /// Waits until the server answers; false: it has ended, or never answered.
    fn comes_up(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        // Its log, because on a port that it could not take another server may answer.
        let ready = if self.kind == Kind::Sentinel { "+monitor" } else { "Ready to accept connections" };
        while Instant::now() < deadline && self.child.try_wait().unwrap().is_none() {
            if self.log().contains(ready) {
                let answer = self.try_cli(&["ping"]);
                if answer.is_ok_and(|answer| answer == "PONG" || answer.starts_with("NOAUTH")) {
                    return true;
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        let scheme = if self.kind == Kind::Tls { "rediss" } else { "redis" };
        format!("{scheme}://127.0.0.1:{}/0", self.port)
    }

    /// The same server through its Unix socket.
    pub fn unix_url(&self) -> String {
        format!("redis+unix://{}", self.file("redis.sock").display())
    }

    /// The authority that signed the server's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// A client's certificate, of the same authority.
    pub fn cert_file(&self) -> PathBuf {
        self.file("client.pem")
    }

    /// The key of [`Self::cert_file`].
    pub fn key_file(&self) -> PathBuf {
        self.file("client.key")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What the server wrote since it started last.
    pub fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    /// What `redis-cli` prints; errors of commands are printed too. Hangs while the server is paused.
    pub fn cli(&self, args: &[&str]) -> String {
        self.try_cli(args).unwrap_or_else(|error| panic!("redis-cli {args:?}: {error}\n{}", self.log()))
    }

    fn try_cli(&self, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new("redis-cli");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        if self.kind == Kind::Tls {
            command.arg("--tls").arg("--cacert").arg(self.ca_file());
            command.arg("--cert").arg(self.cert_file()).arg("--key").arg(self.key_file());
        }
        let output = command.args(args).stdin(Stdio::null()).output().unwrap_or_else(|error| missing(&error));
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Ends the server as a power cut would: nothing more is written.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the server after [`Self::kill`]: same port, directory and arguments.
    pub fn start_again(&mut self) {
        self.child = spawn(self.dir.path(), self.kind, self.port, &self.args);
        assert!(self.comes_up(), "redis-server {:?} does not start again:\n{}", self.args, self.log());
    }

    /// Stops the server's work, as a network does that swallows everything.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends a [`Self::pause`].
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // SIGKILL ends paused ones too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A master, its replica, and three Sentinels that make the replica the master when the master is dead.
pub struct Sentinels {
    servers: [RedisServer; 2],
    sentinels: [RedisServer; 3],
}

impl Sentinels {
    /// Starts all five; returns when the Sentinels know each other and the replica.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// The same with more arguments for the master and its replica.
    pub fn with(args: &[&str]) -> Self {
        let master = RedisServer::with(args);
        let monitor = format!("sentinel monitor {SERVICE} 127.0.0.1 {} 2\n{SENTINEL}", master.port);
        let prepare = |dir: &Path| fs::write(dir.join("sentinel.conf"), &monitor).unwrap();
        let port = master.port.to_string();
        let replica = RedisServer::with(&[args, &["--replicaof", "127.0.0.1", &port]].concat());
        let sentinels = [(); 3].map(|()| RedisServer::launch(Kind::Sentinel, &[], &prepare));
        for sentinel in &sentinels {
            // They look for each other every 2 s, and ask the servers every 10 s.
            sentinel.cli(&["sentinel", "debug", "info-period", "200", "publish-period", "100"]);
        }
        let all = Self { servers: [master, replica], sentinels };
        all.settle();
        all
    }

    /// Waits until every Sentinel knows the two others and a replica that could become master.
    pub fn settle(&self) {
        for sentinel in &self.sentinels {
            until("the Sentinels know each other and the replica", || {
                let master = sentinel.cli(&["sentinel", "master", SERVICE]);
                let replicas = sentinel.cli(&["sentinel", "replicas", SERVICE]);
                let lines: Vec<_> = master.lines().collect();
                let says = |key, value| lines.windows(2).any(|pair| pair == [key, value]);
                let linked = says("num-other-sentinels", "2") && says("num-slaves", "1") && says("flags", "master");
                (linked && replicas.contains("\nmaster-link-status\nok"), master + &replicas)
            });
        }
    }

    pub fn url(&self) -> String {
        let nodes = self.sentinels.each_ref().map(|sentinel| format!("127.0.0.1:{}", sentinel.port));
        format!("redis+sentinel://{}/{SERVICE}", nodes.join(","))
    }

    /// The port of the server that the first Sentinel takes for the master.
    pub fn master_port(&self) -> u16 {
        let address = self.sentinels[0].cli(&["sentinel", "get-master-addr-by-name", SERVICE]);
        address.lines().nth(1).and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("no master: {address}"))
    }

    /// The ports of the servers that the Sentinels take for the master, one each.
    pub fn master_ports(&self) -> [u16; 3] {
        self.sentinels.each_ref().map(|sentinel| {
            let address = sentinel.cli(&["sentinel", "get-master-addr-by-name", SERVICE]);
            address.lines().nth(1).and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("no master: {address}"))
        })
    }

    /// The master of now.
    pub fn master(&mut self) -> &mut RedisServer {
        let port = self.master_port();
        self.servers.iter_mut().find(|server| server.port == port).unwrap()
    }

    /// The server at a port, whatever it is now.
    pub fn server(&self, port: u16) -> &RedisServer {
        self.servers.iter().find(|server| server.port == port).unwrap()
    }

    /// Kills the master; returns its port, which [`Self::master_port`] no longer gives after the fail-over.
    pub fn kill_master(&mut self) -> u16 {
        let master = self.master();
        master.kill();
        master.port
    }

    /// The Sentinels, to kill or pause some.
    pub fn sentinels(&mut self) -> &mut [RedisServer; 3] {
        &mut self.sentinels
    }
}

/// Three masters without replicas that share the slots.
pub struct Cluster {
    nodes: [RedisServer; 3],
}

impl Cluster {
    /// Starts the three; returns when each says that the cluster works.
    pub fn start() -> Self {
        let buses = [(); 3].map(|()| free_port().to_string());
        let nodes = buses.each_ref().map(|bus| {
            RedisServer::with(&["--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "2000"])
        });
        let slots = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];
        for (index, (node, (first, last))) in nodes.iter().zip(slots).enumerate() {
            assert_eq!(node.cli(&["cluster", "set-config-epoch", &(index + 1).to_string()]), "OK");
            assert_eq!(node.cli(&["cluster", "addslotsrange", first, last]), "OK");
        }
        for (node, bus) in nodes.iter().zip(&buses).skip(1) {
            let met = nodes[0].cli(&["cluster", "meet", "127.0.0.1", &node.port.to_string(), bus]);
            assert_eq!(met, "OK");
        }
        for node in &nodes {
            until("the cluster works", || {
                let info = node.cli(&["cluster", "info"]);
                (info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3"), info)
            });
        }
        Self { nodes }
    }

    pub fn url(&self) -> String {
        let nodes = self.nodes.each_ref().map(|node| format!("127.0.0.1:{}", node.port));
        format!("redis+cluster://{}", nodes.join(","))
    }

    /// The nodes, to kill or pause some.
    pub fn nodes(&mut self) -> &mut [RedisServer; 3] {
        &mut self.nodes
    }

    /// Moves the slot of a key, with all keys in it, to another node.
    pub fn move_slot_of(&self, key: &str) {
        let nodes = &self.nodes;
        let slot = nodes[0].cli(&["cluster", "keyslot", key]);
        let count = |node: &RedisServer| node.cli(&["cluster", "countkeysinslot", &slot]);
        let from = nodes.iter().position(|node| count(node) != "0").expect("no node has keys in this slot");
        let to = (from + 1) % 3;
        let ids = nodes.each_ref().map(|node| node.cli(&["cluster", "myid"]));
        assert_eq!(nodes[to].cli(&["cluster", "setslot", &slot, "importing", &ids[from]]), "OK");
        assert_eq!(nodes[from].cli(&["cluster", "setslot", &slot, "migrating", &ids[to]]), "OK");
        let keys = nodes[from].cli(&["cluster", "getkeysinslot", &slot, "100"]);
        let port = nodes[to].port().to_string();
        let mut migrate = vec!["migrate", "127.0.0.1", &port, "", "0", "5000", "keys"];
        migrate.extend(keys.lines());
        assert_eq!(nodes[from].cli(&migrate), "OK");
        for node in [to, from, 3 - to - from] {
            assert_eq!(nodes[node].cli(&["cluster", "setslot", &slot, "node", &ids[to]]), "OK");
        }
        assert_eq!(count(&nodes[from]), "0");
        assert_ne!(count(&nodes[to]), "0");
    }
}

fn spawn(dir: &Path, kind: Kind, port: u16, args: &[String]) -> Child {
    let log = File::create(dir.join("log")).unwrap();
    let mut command = Command::new("redis-server");
    if kind == Kind::Sentinel {
        command.args(["sentinel.conf", "--sentinel"]);
    } else {
        // Replicas are served at once, not after 5 s.
        command.args(["--save", "", "--unixsocket", "redis.sock", "--repl-diskless-sync-delay", "0"]);
    }
    let port = port.to_string();
    if kind == Kind::Tls {
        command.args(["--port", "0", "--tls-port", &port, "--tls-ca-cert-file", "ca.pem"]);
        command.args(["--tls-cert-file", "server.pem", "--tls-key-file", "server.key"]);
    } else {
        command.args(["--port", &port]);
    }
    command.args(["--bind", "127.0.0.1"]).args(args).current_dir(dir);
    let streams = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    streams.spawn().unwrap_or_else(|error| missing(&error))
}

fn missing(error: &std::io::Error) -> ! {
    panic!("redis-server and redis-cli are needed: run scripts/setup, which installs them ({error})")
}

/// Writes an authority's certificate, and certificates with keys of a server and a client.
fn make_certificates(dir: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority of a test");
    fs::write(dir.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let authority = Issuer::new(params, key);
    for (name, names, usage) in [
        ("server", vec!["127.0.0.1".to_owned(), "localhost".to_owned()], ExtendedKeyUsagePurpose::ServerAuth),
        ("client", vec!["client".to_owned()], ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![usage];
        params.distinguished_name.push(DnType::CommonName, name);
        fs::write(dir.join(format!("{name}.pem")), params.signed_by(&key, &authority).unwrap().pem()).unwrap();
        fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// Polls until something holds; shows what there was instead when it never does.
pub fn until(what: &str, mut holds: impl FnMut() -> (bool, String)) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (held, seen) = holds();
        if held {
            return;
        }
        assert!(Instant::now() < deadline, "never happened: {what}\n{seen}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
