//! A socket between a backend and its daemon that can lose answers and make up others.
#![allow(dead_code, reason = "every test file uses its part")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};

/// What becomes of a request.
#[derive(Clone, Copy)]
pub enum Fate {
    /// The daemon gets it and answers; the answer is lost.
    AnswerLost,
    /// The daemon never sees it, and nothing is answered.
    Held,
    /// The daemon never sees it; this status and text are the answer.
    Answered(u16, &'static str),
}

/// Requests with this in their first line are treated so, this many times.
struct Rule {
    part: &'static str,
    fate: Fate,
    left: AtomicUsize,
}

/// Ends when it is dropped.
pub struct Between {
    dir: TempDir,
    rule: Arc<Mutex<Option<Rule>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Between {
    pub fn new(daemon: PathBuf) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("sock")).unwrap();
        let rule = Arc::<Mutex<Option<Rule>>>::default();
        let rules = Arc::clone(&rule);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, daemon.clone(), Arc::clone(&rules)));
            }
        });
        Self { dir, rule, task }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    /// The next `times` requests with `part` in their first line have this fate.
    pub fn set(&self, part: &'static str, fate: Fate, times: usize) {
        *self.rule.lock().unwrap() = Some(Rule { part, fate, left: AtomicUsize::new(times) });
    }

    /// How often the fate that was set has still to come.
    pub fn left(&self) -> usize {
        self.rule.lock().unwrap().as_ref().map_or(0, |rule| rule.left.load(Ordering::SeqCst))
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn fate(rule: &Mutex<Option<Rule>>, request: &[u8]) -> Option<Fate> {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let rule = rule.lock().unwrap();
    let rule = rule.as_ref().filter(|rule| line.windows(rule.part.len()).any(|part| part == rule.part.as_bytes()))?;
    let less = |left: usize| left.checked_sub(1);
    rule.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).ok().map(|_| rule.fate)
}

/// Each connection has one request.
async fn pass(mut client: UnixStream, daemon: impl AsRef<Path>, rule: Arc<Mutex<Option<Rule>>>) {
    let mut buffer = vec![0; 1 << 20];
    let Ok(count @ 1..) = client.read(&mut buffer).await else { return };
    let fate = fate(&rule, &buffer[..count]);
    if let Some(Fate::Answered(status, text)) = fate {
        let body = format!("{{\"message\":\"{text}\"}}");
        let length = body.len();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
        let _ = client.write_all(format!("{head}{body}").as_bytes()).await;
        return;
    }
    if let Some(Fate::Held) = fate {
        // Until the client leaves.
        while let Ok(1..) = client.read(&mut buffer).await {}
        return;
    }
    let mut server = UnixStream::connect(daemon).await.unwrap();
    server.write_all(&buffer[..count]).await.unwrap();
    if fate.is_some() {
        // What is left of the request, and the beginning of the answer.
        let mut rest = vec![0; 1 << 16];
        loop {
            tokio::select! {
                Ok(count @ 1..) = client.read(&mut rest) => server.write_all(&rest[..count]).await.unwrap(),
                _ = server.read(&mut buffer) => return,
            }
        }
    }
    let _ = copy_bidirectional(&mut client, &mut server).await;
}
