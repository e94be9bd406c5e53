//! The network and the server at their worst; how much is asked at once.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actors::id::RunnerId;
use actors::port::github::Deregistered;
use actors::port::{GitHub, GitHubError};
use runner_manager::github::Client;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wiremock::matchers::{body_partial_json, header_exists, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::support::{Recorder, client, jit_request, organization, repository, runner_name, settings};
use super::{JIT_CONFIG, jit_answer, page};

/// A server that does `serve` with each connection, until the test ends.
async fn raw<F: Future<Output = ()> + Send>(serve: impl Fn(TcpStream) -> F + Copy + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move { serve(stream).await });
        }
    });
    url
}

/// Reads one request; false when the connection was closed.
async fn read_request(stream: &mut TcpStream) -> bool {
    let mut request = Vec::new();
    loop {
        let Ok(1..) = stream.read_buf(&mut request).await else { return false };
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return true;
        }
    }
}

async fn fails(client: &Client) -> String {
    let read = client.list_runners(&organization()).await.unwrap_err();
    let write = client.generate_jit_config(&jit_request(organization())).await.unwrap_err();
    let delete = client.delete_runner(&organization(), RunnerId(1)).await.unwrap_err();
    for error in [&read, &write, &delete] {
        assert!(matches!(error, GitHubError::Unknown(_)) && error.outcome_unknown(), "{error}");
    }
    write.to_string()
}

fn impatient(url: &str) -> Client {
    let mut settings = settings(url);
    settings.request_timeout = Duration::from_millis(100);
    Client::new(settings, Arc::new(Recorder::default())).unwrap()
}

#[tokio::test]
async fn nobody_listening_is_unknown_and_says_why() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let text = fails(&client(&url)).await;
    assert!(text.contains("generate-jitconfig failed: ") && text.contains("refused"), "{text}");
}

#[tokio::test]
async fn a_dropped_connection_is_unknown_and_only_reading_is_repeated() {
    static REQUESTS: AtomicUsize = AtomicUsize::new(0);
    let url = raw(|mut stream| async move {
        read_request(&mut stream).await;
        REQUESTS.fetch_add(1, Ordering::Relaxed);
    })
    .await;
    let text = fails(&client(&url)).await;
    assert!(text.contains("connection closed before message completed"), "{text}");
    assert_eq!(REQUESTS.load(Ordering::Relaxed), 3 + 1 + 1);
}

#[tokio::test]
async fn an_answer_that_does_not_come_or_does_not_end_is_unknown() {
    let silent = raw(|mut stream| async move {
        read_request(&mut stream).await;
        std::future::pending().await
    });
    let stalling = raw(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n{\"encoded").await.unwrap();
        std::future::pending().await
    });
    for url in [silent.await, stalling.await] {
        let text = fails(&impatient(&url)).await;
        assert!(text.ends_with("generate-jitconfig had no full answer within 0.1 s"), "{text}");
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_off_or_no_http_is_unknown() {
    let cut = raw(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n{\"encoded").await.unwrap();
    });
    let noise = raw(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").await.unwrap();
    });
    for url in [cut.await, noise.await] {
        fails(&client(&url)).await;
    }
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_is_unknown_and_says_so() {
    let url = raw(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        while let Ok(1..) = stream.read_buf(&mut Vec::new()).await {}
    });
    let text = fails(&client(&url.await.replace("http://", "https://"))).await;
    assert!(text.contains("InvalidMessage") || text.contains("invalid message") || text.contains("corrupt"), "{text}");
}

#[tokio::test]
async fn an_endless_answer_is_not_read_beyond_32_mib() {
    static WRITTEN: AtomicUsize = AtomicUsize::new(0);
    let url = raw(|mut stream| async move {
        read_request(&mut stream).await;
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
        let mut result = stream.write_all(head).await;
        while result.is_ok() {
            result = stream.write_all(&chunk).await;
            WRITTEN.fetch_add(0x10000, Ordering::Relaxed);
        }
    })
    .await;
    let error = client(&url).list_runners(&organization()).await.unwrap_err();
    assert_eq!(error.kind(), "unknown");
    assert!(error.to_string().contains("length limit exceeded"), "{error}");
    let written = WRITTEN.load(Ordering::Relaxed) >> 20;
    assert!((32..64).contains(&written), "{written} MiB were taken");
}

#[tokio::test]
async fn redirects_within_the_server_keep_method_body_and_credential() {
    let server = MockServer::start().await;
    let moved = |status, to: &str| ResponseTemplate::new(status).append_header("location", to);
    let base = "/repos/octo/app/actions/runners";
    let absolute = format!("{}/repositories/1/runners", server.uri());
    Mock::given(method("GET")).and(path(base)).respond_with(moved(301, &absolute)).mount(&server).await;
    Mock::given(method("DELETE"))
        .and(path(format!("{base}/5")))
        .respond_with(moved(307, "/repositories/1/runners/5"))
        .mount(&server)
        .await;
    let jit = "/repositories/1/generate-jitconfig";
    let generate = || Mock::given(path(format!("{base}/generate-jitconfig")));
    generate().respond_with(moved(307, jit)).up_to_n_times(1).mount(&server).await;
    generate().respond_with(moved(301, jit)).mount(&server).await;

    let with_credential = || header_exists("authorization");
    Mock::given(method("GET"))
        .and(path("/repositories/1/runners"))
        .and(with_credential())
        .respond_with(page(0, vec![]))
        .mount(&server)
        .await;
    let gone = ResponseTemplate::new(204);
    Mock::given(method("DELETE"))
        .and(path("/repositories/1/runners/5"))
        .and(with_credential())
        .respond_with(gone)
        .mount(&server)
        .await;
    let body = body_partial_json(json!({"name": runner_name(1).as_str()}));
    Mock::given(method("POST"))
        .and(path(jit))
        .and(body)
        .and(with_credential())
        .respond_with(jit_answer())
        .mount(&server)
        .await;

    let client = client(&server.uri());
    assert_eq!(client.list_runners(&repository()).await, Ok(vec![]));
    assert_eq!(client.delete_runner(&repository(), RunnerId(5)).await, Ok(Deregistered::Removed));
    for _ in [307, 301] {
        assert_eq!(client.generate_jit_config(&jit_request(repository())).await.unwrap().id, RunnerId(23));
    }
}

#[tokio::test]
async fn redirects_to_another_server_or_in_a_circle_are_not_followed() {
    let (server, other) = (MockServer::start().await, MockServer::start().await);
    let away = ResponseTemplate::new(301).append_header("location", format!("{}/x", other.uri()).as_str());
    Mock::given(method("GET")).respond_with(away.clone()).mount(&server).await;
    Mock::given(method("DELETE")).respond_with(ResponseTemplate::new(301)).mount(&server).await;
    let circle = ResponseTemplate::new(307).append_header("location", "/circle");
    Mock::given(method("POST")).respond_with(circle).mount(&server).await;
    let client = client(&server.uri());
    let error = client.list_runners(&organization()).await.unwrap_err();
    assert!(error.kind() == "invalid" && error.to_string().contains("is the base URL right?"), "{error}");
    assert_eq!(client.delete_runner(&organization(), RunnerId(5)).await.unwrap_err().kind(), "invalid");
    assert_eq!(client.generate_jit_config(&jit_request(organization())).await.unwrap_err().kind(), "unknown");
    assert_eq!(other.received_requests().await.unwrap().len(), 0);
    assert_eq!(server.received_requests().await.unwrap().len(), 1 + 1 + 4);
}

/// Counts what runs at once on a server, and the connections it took.
#[derive(Default)]
struct Load {
    now: AtomicUsize,
    most: AtomicUsize,
    connections: AtomicUsize,
}

/// A server that registers every runner after `latency`.
async fn registrar(load: &'static Load, latency: Duration) -> String {
    let body = json!({"runner": {"id": 23}, "encoded_jit_config": JIT_CONFIG}).to_string();
    let answer: &'static str = format!("HTTP/1.1 201 Created\r\ncontent-length: {}\r\n\r\n{body}", body.len()).leak();
    raw(move |mut stream| async move {
        load.connections.fetch_add(1, Ordering::Relaxed);
        stream.set_nodelay(true).unwrap();
        while read_request(&mut stream).await {
            let now = load.now.fetch_add(1, Ordering::SeqCst) + 1;
            load.most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(latency).await;
            load.now.fetch_sub(1, Ordering::SeqCst);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await
}

async fn register(client: Client, count: usize) -> Duration {
    let client = Arc::new(client);
    let started = Instant::now();
    let call = |_| {
        let client = Arc::clone(&client);
        tokio::spawn(async move { client.generate_jit_config(&jit_request(organization())).await.unwrap() })
    };
    for task in (0..count).map(call).collect::<Vec<_>>() {
        task.await.unwrap();
    }
    started.elapsed()
}

#[tokio::test]
async fn no_more_calls_run_at_once_than_allowed() {
    static LOAD: Load = Load { now: AtomicUsize::new(0), most: AtomicUsize::new(0), connections: AtomicUsize::new(0) };
    let mut settings = settings(&registrar(&LOAD, Duration::from_millis(5)).await);
    settings.max_concurrency = 3;
    register(Client::new(settings, Arc::new(Recorder::default())).unwrap(), 30).await;
    assert_eq!(LOAD.most.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_500_registrations_shares_few_connections_and_is_quick() {
    static LOAD: Load = Load { now: AtomicUsize::new(0), most: AtomicUsize::new(0), connections: AtomicUsize::new(0) };
    let client = client(&registrar(&LOAD, Duration::ZERO).await);
    let took = register(client, 500).await;
    let connections = LOAD.connections.load(Ordering::Relaxed);
    println!("500 registrations took {took:?} over {connections} connections");
    // A few are made in vain: while one is being made, another becomes free and is taken.
    assert!(connections <= 64, "{connections} connections");
    assert!(took < Duration::from_secs(3), "{took:?}");
}
