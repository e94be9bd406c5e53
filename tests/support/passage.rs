//! A network between a client and a server that can hold back or swallow what passes.
#![allow(dead_code, reason = "every test file uses its part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes bytes on to a server, until the runtime ends.
#[derive(Clone)]
pub struct Passage {
    port: u16,
    deaf: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
    held: Arc<watch::Sender<usize>>,
    late_answers: Arc<AtomicUsize>,
}

impl Passage {
    /// A passage to a port of this machine.
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let passage = Self {
            port: listener.local_addr().unwrap().port(),
            deaf: Arc::default(),
            connections: Arc::default(),
            held: Arc::new(watch::Sender::new(0)),
            late_answers: Arc::default(),
        };
        let passing = passage.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await {
                    passing.pass(client, server);
                }
            }
        });
        passage
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether what the server tells connections that subscribed is swallowed.
    pub fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::SeqCst);
    }

    /// Holds back what comes through the connections of now, also when the client has left them.
    pub fn hold(&self) {
        self.held.send_replace(self.connections.load(Ordering::SeqCst));
    }

    /// Lets go of what was held.
    pub fn let_go(&self) {
        self.held.send_replace(0);
    }

    /// How often the server has answered to something that was held.
    pub fn late_answers(&self) -> usize {
        self.late_answers.load(Ordering::SeqCst)
    }

    fn pass(&self, client: TcpStream, server: TcpStream) {
        let number = self.connections.fetch_add(1, Ordering::SeqCst);
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        let subscribed = Arc::new(AtomicBool::new(false));
        let (seen, mut held) = (subscribed.clone(), self.held.subscribe());
        let was_held = Arc::new(AtomicBool::new(false));
        let (late, late_answers) = (was_held.clone(), self.late_answers.clone());
        tokio::spawn(async move {
            let mut buffer = vec![0; 65536];
            while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                if buffer[..count].windows(9).any(|word| word == b"SUBSCRIBE") {
                    seen.store(true, Ordering::SeqCst);
                }
                was_held.store(number < *held.borrow(), Ordering::SeqCst);
                let free = held.wait_for(|held| number >= *held).await.is_ok();
                if !free || to_server.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
            }
        });
        let deaf = self.deaf.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 65536];
            let mut listens = true;
            while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                if late.load(Ordering::SeqCst) {
                    late_answers.fetch_add(1, Ordering::SeqCst);
                }
                let swallow = subscribed.load(Ordering::SeqCst) && deaf.load(Ordering::SeqCst);
                // The server is heard to the end, also when the client has left.
                listens = listens && (swallow || to_client.write_all(&buffer[..count]).await.is_ok());
            }
        });
    }
}
