//! Several processes of one site behind a load balancer: the site's requests and GitHub's webhooks go through it.
#![allow(dead_code, reason = "every test file uses its part")]

use std::path::Path;
use std::process::{Child, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};

use crate::balancer::Balancer;
use crate::service::{Site, free_port};

/// A site whose port is that of its load balancer.
pub struct Replicas {
    pub site: Site,
    pub balancer: Balancer,
}

impl Replicas {
    /// Without any process yet.
    pub async fn new() -> Self {
        let balancer = Balancer::start().await;
        Self { site: Site::at(balancer.port()).await, balancer }
    }

    /// Starts a process, with variables that override the configuration; returns when it gets its share of requests.
    pub async fn start(&self, config: &Path, variables: &[(&str, &str)]) -> Replica {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let child = self.site.spawn(config, &[&[("LISTEN", listen.as_str())], variables].concat());
        let replica = Replica { port, child };
        self.balancer.add(port);
        self.until_ready(&replica).await;
        replica
    }

    pub async fn until_ready(&self, replica: &Replica) {
        let what = format!("the replica at port {} is ready", replica.port);
        self.site.until(&what, async |_| self.balancer.ready().contains(&replica.port)).await;
    }

    pub async fn until_not_ready(&self, replica: &Replica) {
        let what = format!("the replica at port {} gets no more requests", replica.port);
        self.site.until(&what, async |_| !self.balancer.ready().contains(&replica.port)).await;
    }
}

/// One process, killed when dropped.
pub struct Replica {
    port: u16,
    child: Child,
}

impl Replica {
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal and waits for the end.
    pub fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.child.wait().unwrap()
    }

    /// Stops its work, as a long pause of its machine does.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends a [`Self::pause`].
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends a signal and does not wait.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // SIGKILL ends paused ones too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
