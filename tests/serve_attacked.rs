//! The real binary and peers that mean no good: slow ones, forged webhooks, more connections than it may have files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/outside.rs"]
mod outside;
#[path = "support/service.rs"]
mod service;
#[path = "support/webhook.rs"]
mod webhook;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use outside::{files, forget_peak, peak, resident};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use service::{PATIENCE, Site};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use webhook::Webhook;

/// What all bodies together may take, kB: `Limits::bodies_bytes`.
const BODIES: u64 = 128 << 10;
/// What long answers together may take, kB: `Limits::answers_bytes`.
const ANSWERS: u64 = 32 << 10;
/// Forged webhooks of 10 kB.
const SMALL: u32 = 2000;
/// Forged webhooks of 25 MB.
const LARGE: u64 = 24;
/// Longest time until a webhook is answered whatever others do: half of GitHub's patience.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// Time between two peers that come.
const APART: Duration = Duration::from_millis(3);
/// Time between two bytes of those that are slow on purpose.
const TRICKLE: Duration = Duration::from_millis(250);

/// A service whose only group makes no runners: its webhooks are what counts.
async fn drained() -> Site {
    let mut site = Site::new().await;
    let config = site.config(1, |_| {});
    site.start(&config).await;
    site.message("drain").await;
    site
}

/// The most files that this process may have open: it is the peer of all those connections.
fn open_many_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}

async fn connect(port: u16) -> TcpStream {
    timeout(PATIENCE, TcpStream::connect(("127.0.0.1", port))).await.unwrap().unwrap()
}

/// Sends one webhook after the other, on a connection each, until it is told to stop; returns how long each took.
struct Customer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<Duration>>,
}

impl Customer {
    fn of(site: &Site, first_job: u64) -> Self {
        let (port, secret) = (site.port, site.secret.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        let task = tokio::spawn(async move {
            let mut took = vec![];
            while !stopped.load(Ordering::SeqCst) {
                let webhook = Webhook::queued(&secret, first_job + took.len() as u64, "test");
                let begun = Instant::now();
                let answer = webhook.request(&client, port).send().await;
                assert!(
                    answer.as_ref().is_ok_and(|answer| answer.status() == 202),
                    "after {} webhooks and {:?}: {answer:?}",
                    took.len(),
                    begun.elapsed()
                );
                took.push(begun.elapsed());
                sleep(Duration::from_millis(50)).await;
            }
            took
        });
        Self { stop, task }
    }

    async fn stop(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::SeqCst);
        let mut took = self.task.await.unwrap();
        took.sort();
        took
    }
}

/// What the service told a peer before it closed the connection.
async fn told(mut stream: TcpStream) -> String {
    let mut text = vec![];
    // A reset is an end as well.
    if timeout(PATIENCE, stream.read_to_end(&mut text)).await.is_err() {
        return "never closed".to_owned();
    }
    String::from_utf8_lossy(&text).lines().next().unwrap_or("closed").to_owned()
}

/// Sends a beginning and then one byte at a time until the service has closed the connection.
async fn trickle(port: u16, beginning: Vec<u8>) -> String {
    let mut stream = connect(port).await;
    stream.write_all(&beginning).await.unwrap();
    let mut byte = [0];
    // Readable: there is an answer, or the end.
    while timeout(TRICKLE, stream.peek(&mut byte)).await.is_err() {
        if stream.write_all(b"x").await.is_err() {
            break;
        }
    }
    told(stream).await
}

/// Announces 25 MB, sends a little of it and falls silent.
async fn stall(port: u16, head: String) -> String {
    let mut stream = connect(port).await;
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[b' '; 64 << 10]).await.unwrap();
    told(stream).await
}

/// Asks for the longest page several times and reads nothing until the service has given up.
async fn not_read(port: u16) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(([127, 0, 0, 1], port).into()).await.unwrap();
    let request = "GET /docs HTTP/1.1\r\nhost: test\r\n";
    let requests = format!("{}{request}connection: close\r\n\r\n", format!("{request}\r\n").repeat(3));
    stream.write_all(requests.as_bytes()).await.unwrap();
    // Longer than the answer may be left alone. The service says nothing when it gives up.
    sleep(Duration::from_secs(14)).await;
    let mut all = vec![];
    let _ = timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("it is never closed");
    match String::from_utf8_lossy(&all).lines().next() {
        Some("HTTP/1.1 503 Service Unavailable") => "refused",
        _ if all.len() > 4 << 20 => "read to the end",
        _ => "given up",
    }
    .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_peers_of_every_kind_keep_no_webhook_out_and_cost_little_memory() {
    open_many_files();
    let site = drained().await;
    let (port, pid) = (site.port, site.pid());
    let (memory, open) = (resident(pid), files(pid));
    forget_peak(pid);
    let customer = Customer::of(&site, 1);

    let webhook = Webhook::queued(&site.secret, 999_999, "test");
    let mut slow: JoinSet<(&str, String)> = JoinSet::new();
    for n in 0..1400 {
        let heads = [webhook.head(20_000), webhook.head(25 << 20)];
        slow.spawn(async move {
            // In the order of their numbers, not all in one moment.
            sleep(APART * n).await;
            let [small, large] = heads;
            match n % 9 {
                0 => ("slow headers", trickle(port, b"POST /webhook HTTP/1.1\r\nhost: t".to_vec()).await),
                1 => ("slow body", trickle(port, small.into_bytes()).await),
                2 => ("stalled body", stall(port, large).await),
                3 => ("answer not read", not_read(port).await),
                _ => ("silent", told(connect(port).await).await),
            }
        });
    }
    let mut ends: BTreeMap<(&str, String), u32> = BTreeMap::new();
    while let Some(end) = slow.join_next().await {
        *ends.entry(end.unwrap()).or_default() += 1;
    }
    let grown = peak(pid).saturating_sub(memory);
    println!("{ends:?}");
    println!("memory: {memory} kB before, at most {grown} kB more, {} kB after", resident(pid));
    let took = customer.stop().await;
    let longest = took[took.len() - 1];
    println!(
        "{} webhooks beside 1,400 slow peers: median {:.1?}, longest {longest:.1?}",
        took.len(),
        took[took.len() / 2]
    );

    assert!(took.len() > 50 && longest < ANSWERED_WITHIN, "{longest:?}");
    // And 64 kB for each of 1,024 connections.
    assert!(grown < ANSWERS + (64 << 10), "{grown} kB");
    for (what, how) in ends.keys() {
        let right = match *what {
            "slow body" | "stalled body" => how == "HTTP/1.1 408 Request Timeout",
            "answer not read" => ["given up", "refused"].contains(&how.as_str()),
            _ => how == "closed",
        };
        assert!(right, "{what}: {how}");
    }
    site.until("all connections are closed", async |_| files(pid) <= open + 2).await;
    assert_eq!(site.status("/_ready").await, Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_forged_webhooks_takes_bounded_memory_and_keeps_no_others_out() {
    let site = drained().await;
    let (port, pid) = (site.port, site.pid());
    let memory = resident(pid);
    forget_peak(pid);
    let customer = Customer::of(&site, 1);

    let small = Webhook::queued(&site.secret, 999_998, "test").forged(10_000);
    let large = Webhook::queued(&site.secret, 999_999, "test").forged(25 << 20);
    let begun = Instant::now();
    let left = Arc::new([AtomicU64::new(SMALL.into()), AtomicU64::new(LARGE)]);
    let mut senders = JoinSet::new();
    for n in 0..40 {
        let (kind, webhook) = if n < 32 { (0, small.clone()) } else { (1, large.clone()) };
        let (left, client) = (Arc::clone(&left), site.client.clone());
        senders.spawn(async move {
            let mut answers: BTreeMap<(usize, u16), u32> = BTreeMap::new();
            while left[kind].fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                // A refusal may come before the body is sent: then there may be no answer to be read.
                let answer = webhook.request(&client, port).send().await;
                *answers.entry((kind, answer.map_or(0, |answer| answer.status().as_u16()))).or_default() += 1;
            }
            answers
        });
    }
    let mut answers: BTreeMap<(usize, u16), u32> = BTreeMap::new();
    while let Some(some) = senders.join_next().await {
        some.unwrap().into_iter().for_each(|(what, n)| *answers.entry(what).or_default() += n);
    }
    let flood = begun.elapsed();
    let took = customer.stop().await;
    let (longest, grown) = (took[took.len() - 1], peak(pid).saturating_sub(memory));
    println!("{SMALL} forged webhooks of 10 kB and {LARGE} of 25 MB in {flood:.1?}: {answers:?}");
    println!("{} webhooks beside them: median {:.1?}, longest {longest:.1?}", took.len(), took[took.len() / 2]);
    println!("memory: {memory} kB before, at most {grown} kB more");

    assert!(took.len() > 10 && longest < ANSWERED_WITHIN, "{longest:?}");
    assert_eq!(answers.get(&(0, 401)), Some(&SMALL), "{answers:?}");
    assert!(answers.keys().all(|(_, status)| [0, 401, 408, 503].contains(status)), "{answers:?}");
    assert!(answers.contains_key(&(1, 401)), "{answers:?}");
    assert!(grown < BODIES + (32 << 10), "{grown} kB");
    site.until("the memory is given back", async |_| resident(pid) < memory + (32 << 10)).await;
    let metrics = site.text("/metrics").await;
    assert!(metrics.contains(r#"outcome="unauthorized""#), "{metrics}");
    assert!(site.api("/jobs/999998").await["status"] == 404, "what was forged has no effect");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_few_open_files_and_none_left_it_lives_sheds_connections_and_recovers() {
    open_many_files();
    let mut site = Site::new().await;
    site.files = Some(64);
    let config = site.config(2, |_| {});
    site.start(&config).await;
    let (port, pid) = (site.port, site.pid());
    let open = files(pid);

    let flood = |n: usize| (0..n).map(move |_| connect(port));
    let silent = futures_util::future::join_all(flood(500)).await;
    site.queue(6, Duration::from_millis(200));
    site.until("six are done beside 500 silent connections", async |site| site.done() == 6).await;
    assert!(files(pid) <= 64, "{}", files(pid));
    assert_eq!(site.status("/_health").await, Some(200));
    drop(silent);
    site.until("the connections are gone", async |_| files(pid) <= open + 4).await;

    // Fewer than its own bound on connections needs: now it is the system that refuses.
    let process = Pid::from_raw(i32::try_from(pid).unwrap());
    let few = files(pid) as u64 + 1;
    let before = prlimit(process, Resource::Nofile, Rlimit { current: Some(few), maximum: Some(64) }).unwrap();
    let silent = futures_util::future::join_all(flood(60)).await;
    site.queue(6, Duration::from_millis(200));
    site.until("it says so", async |site| site.log().contains("a connection could not be accepted")).await;
    sleep(Duration::from_secs(3)).await;
    assert!(site.alive());
    let lines = site.log().lines().count();
    drop(silent);
    prlimit(process, Resource::Nofile, before).unwrap();
    site.until("it is healthy", async |site| site.status("/_health").await == Some(200)).await;
    site.until("it is ready", async |site| site.status("/_ready").await == Some(200)).await;
    site.until("all are done", async |site| {
        site.github.redeliver_failed();
        site.done() == 12
    })
    .await;
    site.until_no_trace().await;
    println!("{open} files open at rest, 64 allowed, then {few}: {lines} lines of log");
    assert!(lines < 200, "{}", site.log());
    assert_eq!(site.api("/groups/octo-test").await["name"], "octo-test");
}
