//! The docker backend against a real daemon: what it asks for, lost answers, names that are taken, restarts, secrets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/between.rs"]
mod between;
#[path = "contract/backend.rs"]
#[allow(dead_code, unused_macros, unused_imports, reason = "only the helpers are used here")]
mod contract;
#[path = "support/docker.rs"]
mod docker;
#[path = "docker_backend/pull.rs"]
mod pull;
#[path = "docker_backend/tls.rs"]
mod tls;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use actors::id::RunnerName;
use actors::port::Backend;
use actors::port::backend::{BackendError, Instance, InstanceStatus, Owner};
use between::{Between, Fate};
use contract::{eventually, owner, runner, spec};
use docker::Dockerd;
use reqwest::Method;
use runner_manager::backend::docker::{Docker, Endpoint, Pull, Settings};
use serde_json::{Value, json};

/// A daemon with an image, and a group that no other test has.
struct Host {
    daemon: Arc<Dockerd>,
    settings: Settings,
    owner: Owner,
}

impl Host {
    async fn new(group: &str) -> Self {
        Self::of(Dockerd::shared(), group).await
    }

    async fn of(daemon: Arc<Dockerd>, group: &str) -> Self {
        daemon.image("octo").await;
        let settings = Settings {
            endpoint: Endpoint::Unix(daemon.socket()),
            image: "octo".to_owned(),
            command: words(&["sleep", "1000"]),
            labels: BTreeMap::new(),
            env: BTreeMap::new(),
            pull: Pull::Never,
            network: Some("none".to_owned()),
            volumes: vec![],
            nano_cpus: None,
            memory: None,
            privileged: false,
            remove: false,
        };
        Self { daemon, settings, owner: owner("octo", group) }
    }

    /// A backend as a manager that has just been started has it.
    fn backend(&self) -> Docker {
        Docker::new(self.settings.clone(), self.owner.clone())
    }

    async fn create(&self, name: &RunnerName) -> Result<Instance, BackendError> {
        self.backend().create(spec(&self.owner, name)).await
    }

    async fn inspect(&self, name: &RunnerName) -> Value {
        self.daemon.get(&format!("/containers/{name}/json")).await
    }

    /// Those of this group, by the daemon's own account.
    async fn containers(&self) -> Vec<String> {
        let mut all = self.daemon.containers().await;
        all.retain(|name| name.starts_with(&self.owner.group.runner_prefix()));
        all
    }

    /// What the backend asks the daemon to make.
    fn body(&self, name: &RunnerName) -> Value {
        json!({
            "Image": "octo", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"},
            "Labels": {
                "runner-manager.manager": self.owner.manager.as_str(),
                "runner-manager.group": self.owner.group.as_str(),
                "runner-manager.runner": name.as_str(),
            },
        })
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn invalid<T: std::fmt::Debug>(result: Result<T, BackendError>) -> String {
    match result {
        Err(BackendError::Invalid(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_takes_connections_and_never_answers_has_made_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody takes what waits in its queue.
    let _silent = std::os::unix::net::UnixListener::bind(dir.path().join("sock")).unwrap();
    let mut host = Host::new("silent").await;
    host.settings.endpoint = Endpoint::Unix(dir.path().join("sock"));
    let name = runner(&host.owner, 1);
    let created = tokio::time::timeout(Duration::from_secs(30), host.create(&name)).await;
    let Ok(Err(BackendError::Unreachable(why))) = created else { panic!("{created:?}") };
    assert!(why.contains("does not answer") && why.contains("sock"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_what_the_configuration_says() {
    let mut host = Host::new("asked").await;
    let shared = tempfile::tempdir().unwrap();
    fs::write(shared.path().join("file"), "hello").unwrap();
    host.settings.command = words(&["sh", "-c", "cat /shared/file > /out/copy; touch /shared/new; sleep 1000"]);
    host.settings.labels = BTreeMap::from([
        ("team".to_owned(), "octo".to_owned()),
        ("runner-manager.manager".to_owned(), "forged".to_owned()),
    ]);
    host.settings.env =
        BTreeMap::from([("EXTRA".to_owned(), "a=b c".to_owned()), ("RUNNER_LABELS".to_owned(), "forged".to_owned())]);
    let out = tempfile::tempdir().unwrap();
    host.settings.volumes =
        vec![format!("{}:/shared:ro", shared.path().display()), format!("{}:/out", out.path().display())];
    host.settings.nano_cpus = Some(500_000_000);
    host.settings.memory = Some(64 << 20);
    let name = runner(&host.owner, 1);
    host.create(&name).await.unwrap();
    let found = host.inspect(&name).await;
    let labels = json!({
        "team": "octo", "runner-manager.manager": "octo", "runner-manager.group": "asked",
        "runner-manager.runner": name.as_str(),
    });
    assert_eq!(found["Config"]["Labels"], labels);
    let env: Vec<&str> = found["Config"]["Env"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    for variable in ["EXTRA=a=b c", "RUNNER_LABELS=self-hosted,linux", &format!("RUNNER_NAME={name}")] {
        assert!(env.contains(&variable), "{variable} in {env:?}");
    }
    for variable in ["RUNNER_JIT_CONFIG", "ACTIONS_RUNNER_INPUT_JITCONFIG"] {
        let value = format!("{variable}=eyJqaXQiOiAidG9wIHNlY3JldCJ9");
        assert_eq!(env.iter().filter(|text| **text == value).count(), 1, "{env:?}");
    }
    let config = &found["HostConfig"];
    assert_eq!(
        (&config["NanoCpus"], &config["Memory"], &config["NetworkMode"]),
        (&json!(500_000_000), &json!(64 << 20), &json!("none"))
    );
    assert_eq!((&config["Privileged"], &config["AutoRemove"]), (&json!(false), &json!(false)));
    assert_eq!(config["RestartPolicy"]["MaximumRetryCount"], 0);
    assert!(matches!(config["RestartPolicy"]["Name"].as_str(), Some("" | "no")), "{config}");
    let copy = &out.path().join("copy");
    eventually("the mounted file", || async move { fs::read_to_string(copy).is_ok_and(|text| text == "hello") }).await;
    assert!(!shared.path().join("new").exists(), "it is mounted to be read only");
    host.backend().delete(&name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_just_in_time_config_is_in_no_arguments_and_no_label() {
    let host = Host::new("secret").await;
    let name = runner(&host.owner, 1);
    host.create(&name).await.unwrap();
    let jit = "eyJqaXQiOiAidG9wIHNlY3JldCJ9";
    let mut processes = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(arguments) = fs::read(entry.path().join("cmdline")) else { continue };
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        processes += 1;
        assert!(!arguments.contains(jit), "{arguments}");
    }
    assert!(processes > 3);
    let mut found = host.inspect(&name).await;
    let env = found["Config"]["Env"].take();
    assert!(env.to_string().contains(jit) && !found.to_string().contains(jit), "{found}");
    assert!(!host.daemon.log().contains(jit));
    assert!(!format!("{:?}", host.backend()).contains(jit));
    host.backend().delete(&name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_goes_with_its_anonymous_volume_and_leaves_those_with_a_name() {
    let mut host = Host::new("volumes").await;
    host.settings.volumes = words(&["octo-cache:/cache"]);
    let name = runner(&host.owner, 1);
    host.create(&name).await.unwrap();
    let mounts = host.inspect(&name).await["Mounts"].clone();
    let anonymous = mounts.as_array().unwrap().iter().find(|mount| mount["Destination"] == "/data").unwrap();
    let anonymous = anonymous["Name"].as_str().unwrap();
    let status = async |volume: &str| host.daemon.ask(Method::GET, &format!("/volumes/{volume}"), None).await.0;
    assert_eq!((status(anonymous).await, status("octo-cache").await), (200, 200));
    host.backend().delete(&name).await.unwrap();
    assert_eq!((status(anonymous).await, status("octo-cache").await), (404, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_and_never_started_is_stopped_for_a_manager_and_started_by_a_create() {
    let host = Host::new("unstarted").await;
    let names = [runner(&host.owner, 1), runner(&host.owner, 2)];
    for name in &names {
        host.daemon.make(name.as_str(), host.body(name)).await;
    }
    let backend = host.backend();
    for name in &names {
        assert_eq!(backend.get(name).await.unwrap().unwrap().status, InstanceStatus::Stopped);
    }
    let listed = backend.list(&host.owner).await.unwrap();
    assert_eq!(listed.iter().map(|instance| instance.status).collect::<Vec<_>>(), [InstanceStatus::Stopped; 2]);
    backend.delete(&names[0]).await.unwrap();
    let id = host.inspect(&names[1]).await["Id"].clone();
    let started = host.create(&names[1]).await.unwrap();
    assert_eq!((started.id.as_str(), started.status), (id.as_str().unwrap(), InstanceStatus::Running));
    assert_eq!(host.inspect(&names[1]).await["State"]["Running"], true);
    backend.delete(&names[1]).await.unwrap();
    assert_eq!(host.containers().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_answer_is_lost_makes_one_container_that_runs() {
    let mut host = Host::new("lost").await;
    let between = Between::new(host.daemon.socket());
    host.settings.endpoint = Endpoint::Unix(between.socket());
    for (number, request) in [(1, "POST /containers/create"), (2, "POST /containers/")] {
        let name = runner(&host.owner, number);
        between.set(request, Fate::AnswerLost, number as usize);
        let made = host.create(&name).await.unwrap();
        assert_eq!(between.left(), 0);
        assert_eq!(made.status, InstanceStatus::Running);
        assert_eq!(host.inspect(&name).await["State"]["Running"], true);
        assert_eq!(host.containers().await.len(), 1);
        host.backend().delete(&name).await.unwrap();
    }
    // For ever: the outcome is unknown, and what was made can be found.
    let name = runner(&host.owner, 3);
    between.set("POST /containers/create", Fate::AnswerLost, usize::MAX);
    // One made by an answered request would be found by its name; here not even that is answered.
    let lost = Between::new(between.socket());
    lost.set("GET /containers/", Fate::AnswerLost, usize::MAX);
    host.settings.endpoint = Endpoint::Unix(lost.socket());
    let error = host.create(&name).await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    host.settings.endpoint = Endpoint::Unix(host.daemon.socket());
    assert_eq!(host.backend().get(&name).await.unwrap().unwrap().status, InstanceStatus::Stopped);
    host.backend().delete(&name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_others_have_is_refused_and_theirs_is_left_alone() {
    let host = Host::new("taken").await;
    let (name, other) = (runner(&host.owner, 1), runner(&host.owner, 2));
    let mut labelled = host.body(&name);
    labelled["Labels"]["runner-manager.manager"] = json!("another");
    for theirs in [json!({"Image": "octo", "Cmd": ["sleep", "1000"]}), labelled] {
        let mut theirs = theirs;
        theirs["HostConfig"] = json!({"NetworkMode": "none"});
        let id = host.daemon.run(name.as_str(), theirs).await;
        let refused = invalid(host.create(&name).await);
        assert!(refused.contains(&id) && refused.contains("not of group taken of manager octo"), "{refused}");
        let backend = host.backend();
        assert_eq!(backend.get(&name).await.unwrap(), None);
        assert_eq!(backend.list(&host.owner).await.unwrap(), []);
        backend.delete(&name).await.unwrap();
        let found = host.inspect(&name).await;
        assert_eq!((&found["Id"], &found["State"]["Running"]), (&json!(id), &json!(true)));
        host.daemon.ask(Method::DELETE, &format!("/containers/{id}?force=true&v=true"), None).await;
    }
    assert_eq!(host.backend().get(&other).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_not_there_and_never_pulled_is_named() {
    let mut host = Host::new("no-image").await;
    host.settings.image = "octo-absent:7".to_owned();
    let name = runner(&host.owner, 1);
    for refused in [host.create(&name).await.map(drop), host.backend().probe().await] {
        let text = invalid(refused);
        assert!(text.starts_with("image octo-absent:7 is not there"), "{text}");
    }
    assert_eq!(host.containers().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_is_refused_and_not_left_behind() {
    let mut host = Host::new("unstartable").await;
    let name = runner(&host.owner, 1);
    host.settings.command = words(&["/no/such/program"]);
    let text = invalid(host.create(&name).await);
    assert!(text.contains("/no/such/program"), "{text}");
    host.settings.command = words(&["sleep", "1000"]);
    host.settings.network = Some("no-such-network".to_owned());
    let text = invalid(host.create(&name).await);
    assert!(text.contains("no-such-network"), "{text}");
    assert_eq!(host.containers().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exhausted_host_has_no_capacity() {
    let mut host = Host::new("full").await;
    let between = Between::new(host.daemon.socket());
    host.settings.endpoint = Endpoint::Unix(between.socket());
    let name = runner(&host.owner, 1);
    between.set("POST /containers/create", Fate::Answered(500, "mkdir /var: no space left on device"), 1);
    let refused = host.create(&name).await;
    assert!(matches!(&refused, Err(BackendError::NoCapacity(text)) if text.contains("no space left")), "{refused:?}");
    assert_eq!(host.containers().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_dies_at_once_is_stopped_or_gone_where_docker_removes_it() {
    let mut host = Host::new("dies").await;
    host.settings.command = words(&["true"]);
    let name = runner(&host.owner, 1);
    host.create(&name).await.unwrap();
    let backend = &host.backend();
    let status = async |name: RunnerName| backend.get(&name).await.unwrap().map(|instance| instance.status);
    let status = &status;
    eventually("its end", || async { status(name.clone()).await == Some(InstanceStatus::Stopped) }).await;
    backend.delete(&name).await.unwrap();
    host.settings.remove = true;
    host.create(&name).await.unwrap();
    eventually("its removal", || async { status(name.clone()).await.is_none() }).await;
    assert_eq!(host.containers().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_being_removed_is_waited_for() {
    let mut host = Host::new("removed").await;
    let between = Between::new(host.daemon.socket());
    host.settings.endpoint = Endpoint::Unix(between.socket());
    let name = runner(&host.owner, 1);
    host.create(&name).await.unwrap();
    between.set("DELETE /containers/", Fate::Answered(409, "removal of container x is already in progress"), 3);
    host.backend().delete(&name).await.unwrap();
    assert_eq!(between.left(), 0);
    assert_eq!(host.containers().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_down_was_not_reached_and_is_found_again() {
    let mut daemon = Dockerd::with(&["--live-restore"], |_| ());
    let host = Host::of(Dockerd::shared(), "down").await;
    daemon.image("octo").await;
    let name = runner(&host.owner, 1);
    let settings = Settings { endpoint: Endpoint::Unix(daemon.socket()), ..host.settings.clone() };
    let backend = Docker::new(settings, host.owner.clone());
    let made = backend.create(spec(&host.owner, &name)).await.unwrap();
    daemon.stop();
    let asked = [
        backend.create(spec(&host.owner, &runner(&host.owner, 2))).await.map(drop),
        backend.get(&name).await.map(drop),
        backend.list(&host.owner).await.map(drop),
        backend.delete(&name).await,
        backend.probe().await,
    ];
    for answer in asked {
        let error = answer.unwrap_err();
        assert!(matches!(&error, BackendError::Unreachable(text) if text.contains("sock")), "{error:?}");
        assert!(!error.outcome_unknown());
    }
    daemon.start_again();
    // It ran on without its daemon.
    assert_eq!(backend.list(&host.owner).await.unwrap(), std::slice::from_ref(&made));
    assert_eq!(backend.get(&name).await.unwrap(), Some(made));
    backend.delete(&name).await.unwrap();
    assert_eq!(daemon.containers().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_ended_with_their_daemon_are_stopped_and_can_be_deleted() {
    let mut daemon = Dockerd::start();
    let host = Host::of(Dockerd::shared(), "ended").await;
    daemon.image("octo").await;
    let settings = Settings { endpoint: Endpoint::Unix(daemon.socket()), ..host.settings.clone() };
    let (backend, name) = (Docker::new(settings, host.owner.clone()), runner(&host.owner, 1));
    let made = backend.create(spec(&host.owner, &name)).await.unwrap();
    daemon.restart();
    let found = backend.get(&name).await.unwrap().unwrap();
    assert_eq!((found.id, found.status), (made.id, InstanceStatus::Stopped));
    backend.delete(&name).await.unwrap();
    assert_eq!(daemon.containers().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_ours_that_somebody_renamed_is_found_and_removed_by_its_labels() {
    let host = Host::new("renamed").await;
    let name = runner(&host.owner, 1);
    let made = host.create(&name).await.unwrap();
    let (status, answer) =
        host.daemon.ask(Method::POST, &format!("/containers/{name}/rename?name=renamed-kept"), None).await;
    assert_eq!(status, 204, "{answer}");
    let backend = host.backend();
    assert_eq!(backend.list(&host.owner).await.unwrap(), std::slice::from_ref(&made));
    assert_eq!(backend.get(&name).await.unwrap(), Some(made));
    backend.delete(&name).await.unwrap();
    assert_eq!(host.containers().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_start_hangs_keeps_nobody_from_listing_the_others() {
    let mut host = Host::new("hanging").await;
    let (well, hangs) = (runner(&host.owner, 1), runner(&host.owner, 2));
    host.create(&well).await.unwrap();
    let between = Between::new(host.daemon.socket());
    host.settings.endpoint = Endpoint::Unix(between.socket());
    between.set("/start", Fate::Held, 1);
    let (backend, other) = (host.backend(), spec(&host.owner, &hangs));
    let create = tokio::spawn({
        let backend = backend.clone();
        async move { backend.create(other).await }
    });
    eventually("its start is asked for", async || between.left() == 0).await;
    let listed = tokio::time::timeout(Duration::from_secs(20), backend.list(&host.owner)).await;
    let mut listed = listed.expect("a list that waits for nobody").unwrap();
    listed.sort_by(|a, b| a.runner.cmp(&b.runner));
    let found: Vec<_> = listed.iter().map(|instance| (&instance.runner, instance.status)).collect();
    assert_eq!(found, [(&well, InstanceStatus::Running), (&hangs, InstanceStatus::Unknown)]);
    create.abort();
}
