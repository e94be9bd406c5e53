//! Images that come from a registry.

use std::io::Write;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use actors::port::Backend;
use actors::port::backend::{BackendError, InstanceStatus};
use runner_manager::backend::docker::Pull;
use serde_json::json;
use sha2::{Digest, Sha256};
use tracing_subscriber::fmt::MakeWriter;
use wiremock::matchers::{path, path_regex};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::{Host, eventually, runner, spec};
use crate::docker::root_of_busybox;

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A registry with one image, `runner`.
struct Registry {
    server: MockServer,
    /// The path of its only layer.
    layer: String,
}

impl Registry {
    fn image(&self) -> String {
        image(&self.server)
    }

    /// How often the layer was asked for.
    async fn pulls(&self) -> usize {
        let requests = self.server.received_requests().await.unwrap();
        requests.iter().filter(|request| request.url.path() == self.layer).count()
    }
}

/// A registry whose image takes `delay`.
async fn registry(delay: Duration) -> Registry {
    let server = MockServer::builder().start().await;
    let layer = root_of_busybox();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["sleep", "1000"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "size": config.len(), "digest": digest(&config),
        },
        "layers": [{
            "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "size": layer.len(), "digest": digest(&layer),
        }],
    });
    let manifest = manifest.to_string().into_bytes();
    Mock::given(path("/v2/")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    let layer_path = format!("/v2/runner/blobs/{}", digest(&layer));
    let blobs = [(config, Duration::ZERO), (layer, delay)];
    for (blob, delay) in blobs {
        let answer = ResponseTemplate::new(200).set_delay(delay).set_body_bytes(blob.clone());
        Mock::given(path(format!("/v2/runner/blobs/{}", digest(&blob)))).respond_with(answer).mount(&server).await;
    }
    let answer = ResponseTemplate::new(200)
        .insert_header("docker-content-digest", digest(&manifest).as_str())
        .set_body_raw(manifest, MANIFEST);
    Mock::given(path_regex("^/v2/runner/manifests/.*")).respond_with(answer).mount(&server).await;
    Registry { server, layer: layer_path }
}

/// A registry that answers to questions for images like this.
async fn refusing(status: u16, code: &str) -> MockServer {
    let server = MockServer::builder().start().await;
    Mock::given(path("/v2/")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    let body = json!({"errors": [{"code": code, "message": code.to_lowercase().replace('_', " ")}]});
    let answer = ResponseTemplate::new(status).set_body_json(body);
    Mock::given(path_regex("^/v2/runner/manifests/.*")).respond_with(answer).mount(&server).await;
    server
}

fn image(server: &MockServer) -> String {
    format!("{}/runner", server.address())
}

/// What was logged in this program.
fn log() -> Arc<Mutex<Vec<u8>>> {
    static LINES: Mutex<Option<Arc<Mutex<Vec<u8>>>>> = Mutex::new(None);
    static ONCE: Once = Once::new();
    let lines = Arc::clone(LINES.lock().unwrap().get_or_insert_default());
    let sink = Sink(Arc::clone(&lines));
    ONCE.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(sink).init());
    lines
}

#[derive(Clone)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Sink {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

fn lines_of(image: &str) -> Vec<String> {
    let text = String::from_utf8(log().lock().unwrap().clone()).unwrap();
    text.lines().filter(|line| line.contains(image)).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_is_pulled_once_for_all_and_the_log_says_how_far_it_is() {
    log();
    let (mut host, registry) = (Host::new("pulled").await, registry(Duration::from_secs(6)).await);
    host.settings.image = registry.image();
    host.settings.pull = Pull::Missing;
    host.settings.command = vec![];
    let backend = host.backend();
    backend.probe().await.unwrap();
    let creates = (0..5).map(|number| {
        let (backend, name) = (backend.clone(), runner(&host.owner, number));
        let spec = spec(&host.owner, &name);
        tokio::spawn(async move { backend.create(spec).await.unwrap() })
    });
    for create in creates.collect::<Vec<_>>() {
        assert_eq!(create.await.unwrap().status, InstanceStatus::Running);
    }
    assert_eq!(registry.pulls().await, 1);
    let lines = lines_of(&host.settings.image);
    assert!(lines[0].contains("INFO") && lines[0].contains("pulling the image"), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("layers=1") && line.contains("layers_done=")), "{lines:#?}");
    assert!(lines.last().unwrap().contains("the image is pulled"), "{lines:#?}");
    // Six seconds: the beginning, one or two lines of progress, the end.
    assert!((3..=4).contains(&lines.len()), "{lines:#?}");
    for number in 0..5 {
        backend.delete(&runner(&host.owner, number)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_on_when_its_create_is_given_up() {
    let (mut host, registry) = (Host::new("given-up").await, registry(Duration::from_millis(1500)).await);
    host.settings.image = registry.image();
    host.settings.pull = Pull::Missing;
    host.settings.command = vec![];
    let (backend, name) = (host.backend(), runner(&host.owner, 1));
    let create = backend.create(spec(&host.owner, &name));
    let given_up = tokio::time::timeout(Duration::from_millis(500), create).await;
    assert!(given_up.is_err());
    // Nothing was made, and nobody has to wait for the pull to know.
    let asked = tokio::time::timeout(Duration::from_millis(500), backend.get(&name)).await;
    assert_eq!(asked.unwrap().unwrap(), None);
    let (daemon, path) = (&host.daemon, format!("/images/{}:latest/json", host.settings.image));
    let path = &path;
    eventually("the image", || async move { daemon.get(path).await["Id"].is_string() }).await;
    assert_eq!(registry.pulls().await, 1);
    assert_eq!(backend.get(&name).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn always_pulls_before_a_creation_but_not_for_what_is_there() {
    let (mut host, registry) = (Host::new("always").await, registry(Duration::ZERO).await);
    host.settings.image = registry.image();
    host.settings.pull = Pull::Always;
    host.settings.command = vec![];
    let (backend, first, second) = (host.backend(), runner(&host.owner, 1), runner(&host.owner, 2));
    let made = backend.create(spec(&host.owner, &first)).await.unwrap();
    drop(registry);
    assert_eq!(backend.create(spec(&host.owner, &first)).await.unwrap(), made);
    let refused = backend.create(spec(&host.owner, &second)).await;
    assert!(
        matches!(&refused, Err(BackendError::Unreachable(text)) if text.contains("cannot be pulled")),
        "{refused:?}"
    );
    backend.delete(&first).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn why_an_image_cannot_be_pulled_decides_what_happens_next() {
    for (status, code, kind) in [
        (404, "MANIFEST_UNKNOWN", "invalid"),
        (429, "TOOMANYREQUESTS", "throttled"),
        (403, "DENIED", "unauthorized"),
        (500, "UNKNOWN", "unavailable"),
    ] {
        let (mut host, server) = (Host::new("refused").await, refusing(status, code).await);
        host.settings.image = image(&server);
        host.settings.pull = Pull::Missing;
        let (backend, name) = (host.backend(), runner(&host.owner, 1));
        for refused in [backend.create(spec(&host.owner, &name)).await.map(drop), backend.probe().await] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), kind, "{status} {error}");
            assert!(!error.outcome_unknown(), "{error}");
            assert!(error.to_string().contains(&host.settings.image), "{error}");
        }
    }
}
