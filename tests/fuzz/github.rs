//! GitHub's answers: each operation ends with a value or a typed error, whatever the server says.
//!
//! An input begins with a line that names the operation. Answers follow, `====` between them: a status, headers, an empty
//! line, a body. The server gives them in turn, again and again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use actors::id::{DeliveryId, JobId, RunnerGroupId, RunnerId};
use actors::model::delivery::{Delivery, JobEvent};
use actors::model::secret::Secret;
use actors::model::settings::{Arch, Os};
use actors::port::github::{Hook, Records, RepositoryName};
use actors::port::{GitHub, GitHubError};
use jiff::Timestamp;
use runner_manager::github::{Client, Credential, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::door::{Door, fuzz};
use crate::github_support::{self as support, Recorder, TOKEN};
use crate::life::assert_round_trip;
use crate::memory;

/// A just-in-time config.
const JIT_CONFIG: &str = "c2VjcmV0LWppdC1jb25maWc=";
/// After so many answers of one input the server has no more: what asks on and on is another test.
const ANSWERS_MAX: usize = 40;
/// Longest text of an error, in bytes: it is kept, and shown to people.
const TEXT_MAX: usize = 2000;

#[derive(Default)]
struct Script {
    answers: Vec<Vec<u8>>,
    given: usize,
}

/// What is sent for one answer of an input, and whether the connection ends with it.
fn answer(section: &[u8]) -> Vec<u8> {
    let end = section.windows(2).position(|two| two == b"\n\n").unwrap_or(section.len());
    let (head, body) = (&section[..end], section.get(end + 2..).unwrap_or_default());
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut bytes = [b"HTTP/1.1 ", lines.next().unwrap_or_default(), b" X\r\nconnection: close\r\n"].concat();
    let mut length = false;
    for line in lines {
        let name = String::from_utf8_lossy(line).to_lowercase();
        length |= name.starts_with("content-length") || name.starts_with("transfer-encoding");
        bytes.extend_from_slice(line);
        bytes.extend_from_slice(b"\r\n");
    }
    if !length {
        bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// Reads one request, whose body may come with it or not.
async fn read_request(stream: &mut TcpStream) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = bytes.windows(4).position(|four: &[u8]| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if bytes.len() >= end + 4 + length.unwrap_or(0) {
                return;
            }
        }
        match stream.read(&mut buffer).await {
            Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
}

async fn serve(listener: TcpListener, script: Arc<Mutex<Script>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let script = Arc::clone(&script);
        tokio::spawn(async move {
            read_request(&mut stream).await;
            let bytes = {
                let mut script = script.lock().unwrap();
                script.given += 1;
                match script.answers.len() {
                    0 => vec![],
                    _ if script.given > ANSWERS_MAX => answer(b"404\n\n{}"),
                    count => script.answers[(script.given - 1) % count].clone(),
                }
            };
            let _ = stream.write_all(&bytes).await;
        });
    }
}

fn client(url: &str, app: bool) -> Client {
    let credential = if app {
        let private_key = Secret::new(include_str!("../support/app-key.pem").to_owned());
        Credential::App { app_id: 7, private_key, installation_id: Some(3) }
    } else {
        Credential::Token(Secret::new(TOKEN.to_owned()))
    };
    let settings = Settings {
        retry_pause: Duration::from_millis(1),
        request_timeout: Duration::from_secs(5),
        ..Settings::new(url, credential)
    };
    Client::new(settings, Arc::new(Recorder::default())).unwrap()
}

/// A job that GitHub tells of is kept like one of a webhook.
fn assert_kept(event: &JobEvent) {
    let (id, received_at) = (DeliveryId::new("d-1").unwrap(), Timestamp::UNIX_EPOCH);
    assert_round_trip(&Delivery { id, received_at, event: event.clone(), matched: String::new() });
}

/// Carries out an operation; what came of it, in words.
async fn operate(client: &Client, operation: &str) -> Result<String, GitHubError> {
    let (scope, group) = (support::organization(), support::restricted_group());
    let asker = support::asker(scope.clone());
    let repository = RepositoryName { owner: "octo-org".to_owned(), name: "app".to_owned() };
    let since = Timestamp::from_second(1_700_000_000).unwrap();
    let hook = Hook::Of { scope: scope.clone(), id: 5 };
    Ok(match operation {
        "ensure_runner_group" => format!("{:?}", client.ensure_runner_group(&group, None).await?),
        "ensure_known_runner_group" => {
            format!("{:?}", client.ensure_runner_group(&group, Some(RunnerGroupId(7))).await?)
        }
        "delete_runner_group" => format!("{:?}", client.delete_runner_group(&group, None).await?),
        "generate_jit_config" => {
            let registration = client.generate_jit_config(&support::jit_request(scope)).await?;
            format!("runner {}", registration.id)
        }
        "find_runner" => format!("{:?}", client.find_runner(&scope, &support::runner_name(1)).await?.is_some()),
        "delete_runner" => format!("{:?}", client.delete_runner(&scope, RunnerId(23)).await?),
        "runner_download" => format!("{:?}", client.runner_download(&scope, Os::Linux, Arch::X64).await?),
        "job" => {
            let job = client.job(&asker, &repository, JobId(3)).await?;
            job.iter().for_each(assert_kept);
            format!("{:?}", job.map(|job| job.action))
        }
        "open_jobs" => {
            let jobs = client.open_jobs(&asker, &repository, 5).await?;
            jobs.iter().for_each(assert_kept);
            format!("{:?}", jobs.iter().map(|job| job.action).collect::<Vec<_>>())
        }
        "hook" => format!("{:?}", client.hook(&asker, "/webhook").await?),
        "deliveries" => {
            let sent = client.deliveries(&asker, &hook, since, None).await?;
            format!("{} {}", sent.deliveries.len(), sent.next.is_some())
        }
        "redeliver" => format!("{:?}", client.redeliver(&asker, &hook, 9).await?),
        "probe_credential" => format!("{:?}", client.probe_credential().await?),
        "probe_runners" => format!("{:?}", client.probe_runners(&scope).await?),
        "probe_jobs" => format!("{:?}", client.probe_jobs(&scope).await?),
        "probe_runner_group" => {
            client.probe_runner_group(&group).await?;
            "probed".to_owned()
        }
        _ => {
            // Twice: what was kept is asked for again only if it changed.
            let first = client.list_runners(&scope).await?;
            let second = client.list_runners(&scope).await?;
            format!("{} {}", first.len(), second.len())
        }
    })
}

#[test]
fn github() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let script = Arc::new(Mutex::new(Script::default()));
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    runtime.spawn(serve(listener, Arc::clone(&script)));
    // Up to 40 answers of at most 128 kB each, some of them kept as pages.
    fuzz(&Door { name: "github", runs: 1200, memory: 32 << 20 }, |input| {
        let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
        let operation = String::from_utf8_lossy(&input[..end]).into_owned();
        let rest = String::from_utf8_lossy(input.get(end + 1..).unwrap_or_default()).into_owned();
        let sections = rest.split("\n====\n").map(|section| answer(section.as_bytes()));
        *script.lock().unwrap() = Script { answers: sections.collect(), given: 0 };
        let _inside = runtime.enter();
        let client = client(&url, operation.starts_with("app_"));
        let operation = operation.trim_start_matches("app_");
        let result = runtime.block_on(operate(&client, operation));
        let _ = format!("{:?}", client.budget());
        match result {
            Ok(text) => format!("{operation} {text}"),
            Err(error) => {
                let text = format!("{error} {error:?}");
                let places = rest.matches(JIT_CONFIG).count();
                let planted = rest.matches(&format!("\"encoded_jit_config\":\"{JIT_CONFIG}\"")).count();
                assert!(places != planted || !text.contains(JIT_CONFIG), "a config in {text}");
                assert!(rest.contains(TOKEN) || !text.contains(TOKEN), "a token in {text}");
                let length = error.to_string().len();
                assert!(length <= TEXT_MAX, "{length} bytes of error: {error}");
                assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
                format!("{operation} {error}")
            }
        }
    });
}

/// Serves the same bytes for ever, once for each request.
async fn endless(listener: TcpListener, head: String, piece: String) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let (head, piece) = (head.clone(), piece.clone());
        tokio::spawn(async move {
            read_request(&mut stream).await;
            let _ = stream.write_all(head.as_bytes()).await;
            while stream.write_all(piece.as_bytes()).await.is_ok() {}
        });
    }
}

#[test]
fn a_body_without_end_is_cut() {
    let _turn = crate::door::turn();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\n\r\n".to_owned();
        tokio::spawn(endless(listener, head, "[".repeat(64 << 10)));
        let client = client(&url, false);
        let before = memory::start();
        let error = client.list_runners(&support::organization()).await.unwrap_err();
        // 32 MB are read at most, and held twice while they are put together.
        let needed = memory::peak() - before;
        assert!(needed < 80 << 20, "{needed} bytes");
        error
    });
    assert!(matches!(error, GitHubError::Unknown(_)), "{error}");
}

#[test]
fn pages_without_end_are_given_up_and_never_held_all_at_once() {
    let _turn = crate::door::turn();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        // Each page has as many entries as a hundred of GitHub's.
        let runner = support::runner(1, "octo-linux-00000000").to_string();
        let body = format!("{{\"total_count\": 1, \"runners\": [{}]}}", vec![runner; 10_000].join(","));
        let text = format!("200\nlink: </orgs/octo-org/actions/runners?page=2>; rel=\"next\"\n\n{body}");
        let script = Arc::new(Mutex::new(Script { answers: vec![answer(text.as_bytes())], given: 0 }));
        tokio::spawn(serve(listener, Arc::clone(&script)));
        let client = client(&url, false);
        let before = memory::start();
        let error = client.list_runners(&support::organization()).await.unwrap_err();
        let needed = memory::peak() - before;
        assert!(matches!(error, GitHubError::Unknown(_)), "{error}");
        // A hundred thousand runners at most, of 400 bytes each, and 20 MB of pages.
        assert!(needed < 100 << 20, "{needed} bytes");
        assert!(script.lock().unwrap().given <= 12, "{} pages", script.lock().unwrap().given);
    });
}
