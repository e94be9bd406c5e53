//! A load balancer for tests: spreads connections over the servers that answer, in turn.
#![allow(dead_code, reason = "every test file uses its part")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Listens on a free loopback port until dropped.
pub struct Balancer {
    pub address: SocketAddr,
    servers: Arc<Mutex<BTreeSet<u16>>>,
    task: JoinHandle<()>,
}

impl Balancer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let servers: Arc<Mutex<BTreeSet<u16>>> = Arc::default();
        let (known, next) = (Arc::clone(&servers), AtomicUsize::new(0));
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut ports: Vec<u16> = known.lock().unwrap().iter().copied().collect();
                let turn = next.fetch_add(1, Ordering::Relaxed) % ports.len().max(1);
                ports.rotate_left(turn);
                tokio::spawn(async move {
                    for port in ports {
                        if let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await {
                            let _ = copy_bidirectional(&mut client, &mut server).await;
                            return;
                        }
                    }
                });
            }
        });
        Self { address, servers, task }
    }

    /// Sends connections to this port as well; one that refuses them is passed over.
    pub fn add(&self, port: u16) {
        self.servers.lock().unwrap().insert(port);
    }

    /// Sends no further connections to this port.
    pub fn remove(&self, port: u16) {
        self.servers.lock().unwrap().remove(&port);
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
