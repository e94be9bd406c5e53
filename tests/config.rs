//! The configuration: the examples, what each key means, and what each error says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "config/errors.rs"]
mod errors;
#[path = "config/external.rs"]
mod external;
#[path = "config/schema.rs"]
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use actors::model::settings::{Arch, BackendLimits, Os, Scope};
use runner_manager::check;
use runner_manager::config::{
    self, BackendSettings, Config, ConfigErrors, CredentialConfig, DockerEndpoint, GitHubCredential, LogLevel, Pull,
    RedisTopology, Role,
};

fn none(_: &str) -> Option<String> {
    None
}

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    config::parse(text, "config.yaml", &none)
}

fn parse_with(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let env: BTreeMap<String, String> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    config::parse(text, "config.yaml", &|name| env.get(name).cloned())
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

const HEAD: &str = "github_token: t\ngithub_webhook_secret: a-secret-of-some-length\n";

/// A configuration with one group with these lines in it.
fn group(lines: &str) -> String {
    let mut text = format!("{HEAD}runner_groups:\n- name: octo\n  labels: []\n");
    for line in lines.lines() {
        text.push_str(&format!("  {line}\n"));
    }
    text
}

const REST: &str = "organization: octo-org\nbackend: {name: base}";

/// Host, port and database of the one Redis.
fn single(config: &Config) -> String {
    let url = &config.redis.as_ref().unwrap().url;
    match &url.topology {
        RedisTopology::Single(node) => format!("{node}/{}", url.database),
        other => panic!("{other:?}"),
    }
}

/// The only credential, that of the top level.
fn only(config: &Config) -> &CredentialConfig {
    let [only] = &config.github_credentials[..] else { panic!("{:?}", config.github_credentials) };
    assert_eq!(only.name, "default");
    only
}

#[test]
fn a_configuration_can_be_shared_between_threads() {
    fn shareable<T: Send + Sync + 'static>() {}
    shareable::<Config>();
    shareable::<ConfigErrors>();
}

#[test]
fn every_example_loads() {
    for name in [
        "minimal.yaml",
        "base.yaml",
        "process.yaml",
        "docker.yaml",
        "external.yaml",
        "fallback.yaml",
        "redis.yaml",
        "replicas.yaml",
        "full.yaml",
    ] {
        let config = config::load(Some(&example(name)), &none).unwrap_or_else(|error| panic!("{name}:\n{error}"));
        assert!(config.unavailable_backends().is_none(), "{name}");
        assert!(!config.groups.is_empty(), "{name}");
    }
    let files: BTreeSet<String> =
        std::fs::read_dir(example("")).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    let tested = [
        "README.md",
        "REDIS.md",
        "backends.yaml",
        "base.yaml",
        "docker.yaml",
        "external.yaml",
        "fallback.yaml",
        "full.yaml",
        "minimal.yaml",
        "process.yaml",
        "python-original.yaml",
        "redis.yaml",
        "replicas.yaml",
        "startup.sh",
    ];
    assert_eq!(files.iter().map(String::as_str).collect::<Vec<_>>(), tested);
}

#[test]
fn a_file_of_the_python_original_is_accepted_and_what_is_missing_is_said() {
    let config = config::load(Some(&example("python-original.yaml")), &none).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.healthcheck_interval, Duration::from_secs(900));
    assert_eq!(config.timeout_runner, Duration::from_secs(900));
    assert_eq!(config.time_to_live, Duration::from_secs(43_200));
    assert_eq!(single(&config), "redis:6379/0");
    assert!(matches!(
        &only(&config).credential,
        GitHubCredential::App { app_id: 123_456, installation_id: Some(7_654_321), private_key } if private_key.expose().contains("BEGIN RSA")
    ));
    let gcloud = &config.groups[2];
    assert_eq!((gcloud.settings.min, gcloud.settings.max), (2, 50));
    assert_eq!(gcloud.backends, [BackendSettings::Unavailable { name: "gcloud" }]);
    assert_eq!(config.groups[0].backends, [BackendSettings::Base]);
    assert!(config.groups[0].settings.labels.iter().all(|label| label != "self-hosted"));
    let unavailable = config.unavailable_backends().unwrap();
    let names: Vec<String> = unavailable.iter().map(|error| error.key.clone()).collect();
    let BackendSettings::Docker(docker) = &config.groups[1].backends[0] else { panic!("{:?}", config.groups[1]) };
    assert_eq!(docker.endpoint, DockerEndpoint::Unix("/var/run/docker.sock".into()));
    assert_eq!((&*docker.image, docker.pull, docker.remove), ("runner:latest", Pull::Missing, false));
    assert_eq!(config.ineffective.iter().filter(|key| key.contains("instance_config.detach")).count(), 1);
    assert_eq!(names, (2..7).map(|i| format!("runner_groups[{i}].backend.name")).collect::<Vec<_>>());
    assert_eq!(
        unavailable.iter().next().unwrap().message,
        "found \"gcloud\", a backend that is not available in this version, expected one of base, process, docker, external"
    );
    assert!(matches!(unavailable.iter().next().unwrap().place, config::Place::File { line: 55, column: 11, .. }));
}

#[test]
fn the_python_originals_defaults_are_the_defaults() {
    let config = parse(&group(REST)).unwrap();
    assert_eq!(config.name.as_str(), "runner-manager");
    assert_eq!(config.listen, "127.0.0.1:8000".parse().unwrap());
    assert_eq!(config.log_level, LogLevel::Info);
    assert_eq!(config.log_format, config::LogFormat::Text);
    assert_eq!(config.data_dir, Path::new("./data"));
    assert_eq!(config.github_base_url, "https://api.github.com");
    assert!(config.redis.is_none() && config.api_keys.is_empty() && config.metrics_public);
    assert!(!config.allow_unsigned_webhooks);
    let times = [
        (config.shutdown_grace, 30),
        (config.job_retention, 7 * 86_400),
        (config.healthcheck_interval, 900),
        (config.reconcile_interval, 300),
        (config.timeout_runner, 900),
        (config.time_to_live, 43_200),
        (config.idle_timeout, 300),
    ];
    for (found, expected) in times {
        assert_eq!(found, Duration::from_secs(expected));
    }
    let redis = parse(&format!("redis_url: redis://r\n{}", group(REST))).unwrap().redis.unwrap();
    assert_eq!((redis.connections, redis.wait_replicas), (8, 0));
    assert_eq!((redis.connect_timeout, redis.timeout), (Duration::from_secs(1), Duration::from_millis(1_500)));
    assert!(redis.ca_file.is_none() && redis.client_certificate.is_none());
    let group = &config.groups[0].settings;
    assert_eq!((group.min, group.max, group.priority), (0, 20, 0));
    assert_eq!((group.os, group.arch), (Os::Linux, Arch::X64));
    assert!(group.allows_public_repositories && !group.restricted_to_workflows);
    assert!(group.selected_repository_ids.is_empty() && group.selected_workflows.is_empty());
    assert_eq!((group.job_started_script.as_str(), group.job_completed_script.as_str()), ("", ""));
    assert_eq!(group.time_to_start, Duration::from_secs(900));
    assert_eq!(group.time_to_live, Duration::from_secs(43_200));
    assert_eq!(group.idle_timeout, Duration::from_secs(300));
    assert_eq!(group.backends, [BackendLimits::new("base")]);
}

#[test]
fn every_key_of_a_group_reaches_its_setting() {
    let text = r#"
name: fleet-1
listen: "[::1]:9000"
log_level: debug
log_format: json
data_dir: /var/lib/rm
redis_url: rediss://user:pw@redis/1
redis_connections: 3
redis_connect_timeout: 7s
redis_timeout: 250ms
redis_wait_replicas: 2
redis_ca_file: /tls/ca.pem
redis_cert_file: /tls/client.pem
redis_key_file: /tls/client.key
github_base_url: https://ghes.example/api/v3/
github_app_id: "7"
github_private_key: "-----BEGIN PRIVATE KEY-----\\nabc\\n-----END PRIVATE KEY-----"
allow_unsigned_webhooks: yes
api_key: first-key
api_keys: [{name: grafana, role: viewer, key: second-key}]
metrics_public: false
shutdown_grace: 0
job_retention: 1d
healthcheck_interval: 60
reconcile_interval: 59
reconcile_repositories: [Octo/App, o/b]
timeout_runner: 61
time_to_live: 62
idle_timeout: 63
runner_groups:
- name: one
  repository: Octo-Org/App.x
  labels: [Big, 22.04, big, self-hosted]
  min: 1
  max: 1_000
  priority: -5
  os: win
  arch: arm64
  allows_public_repositories: off
  selected_repository_ids: [3, 2, 3]
  restricted_to_workflows: true
  selected_workflows: [o/a/.github/workflows/ci.yml@main]
  job_started_script: before
  job_completed_script: after
  backend: {name: process, max_concurrency: 3, create_timeout: 4s, delete_timeout: 5s, breaker_failures: 7, breaker_wait: 20s, instance_config: {command: [run, 7], working_dir: /w, env: {A: true, B: 1.10}, stop_grace: 6s}}
- name: two
  enterprise: octo
  labels: []
  time_to_start: 1s
  time_to_live: 2s
  idle_timeout: 0
  backend: {name: base}
"#;
    let config = parse(text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.name.as_str(), "fleet-1");
    assert_eq!(config.listen, "[::1]:9000".parse().unwrap());
    assert_eq!((config.log_level, config.log_format), (LogLevel::Debug, config::LogFormat::Json));
    assert_eq!(config.data_dir, Path::new("/var/lib/rm"));
    let redis = config.redis.as_ref().unwrap();
    assert_eq!((single(&config).as_str(), redis.url.tls), ("redis:6379/1", true));
    assert_eq!(redis.url.login.username.as_deref(), Some("user"));
    assert_eq!(redis.url.login.password.as_ref().unwrap().expose(), "pw");
    assert_eq!((redis.connections, redis.wait_replicas), (3, 2));
    assert_eq!((redis.connect_timeout, redis.timeout), (Duration::from_secs(7), Duration::from_millis(250)));
    assert_eq!(redis.ca_file.as_deref(), Some(Path::new("/tls/ca.pem")));
    let (cert_file, key_file) = ("/tls/client.pem".into(), "/tls/client.key".into());
    assert_eq!(redis.client_certificate, Some(config::ClientCertificate { cert_file, key_file }));
    assert_eq!(config.github_base_url, "https://ghes.example/api/v3");
    let GitHubCredential::App { app_id: 7, installation_id: None, private_key } = &only(&config).credential else {
        panic!("{:?}", config.github_credentials)
    };
    assert_eq!(private_key.expose(), "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----");
    assert!(config.allow_unsigned_webhooks && config.github_webhook_secret.is_none());
    let keys: Vec<_> = config.api_keys.iter().map(|k| (k.name.as_str(), k.role, k.key.expose())).collect();
    assert_eq!(keys, [("default", Role::Admin, "first-key"), ("grafana", Role::Viewer, "second-key")]);
    assert!(!config.metrics_public);
    let one = &config.groups[0].settings;
    assert_eq!(one.scope, Scope::Repository { owner: "Octo-Org".to_owned(), name: "App.x".to_owned() });
    assert_eq!(one.labels, ["big", "22.04"]);
    assert_eq!((one.min, one.max, one.priority), (1, 1_000, -5));
    assert_eq!((one.os, one.arch), (Os::Windows, Arch::Arm64));
    assert!(!one.allows_public_repositories && one.restricted_to_workflows);
    assert_eq!(one.selected_repository_ids.iter().map(|id| id.0).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(one.selected_workflows, ["o/a/.github/workflows/ci.yml@main"]);
    assert_eq!((one.job_started_script.as_str(), one.job_completed_script.as_str()), ("before", "after"));
    let seconds = [
        (config.shutdown_grace, 0),
        (config.job_retention, 86_400),
        (config.healthcheck_interval, 60),
        (config.reconcile_interval, 59),
        (one.healthcheck_interval, 60),
        (one.time_to_start, 61),
        (one.time_to_live, 62),
        (one.idle_timeout, 63),
        (one.backends[0].create_timeout, 4),
        (one.backends[0].delete_timeout, 5),
        (one.backends[0].breaker_wait, 20),
    ];
    for (index, (found, expected)) in seconds.into_iter().enumerate() {
        assert_eq!(found, Duration::from_secs(expected), "{index}");
    }
    assert_eq!((one.backend(), one.backends[0].max_concurrency, one.backends[0].breaker_failures), ("process", 3, 7));
    assert_eq!(
        config.groups[0].backends[0],
        BackendSettings::Process {
            command: vec!["run".to_owned(), "7".to_owned()],
            working_dir: Some("/w".into()),
            env: [("A", "true"), ("B", "1.10")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            stop_grace: Duration::from_secs(6),
        }
    );
    let two = &config.groups[1].settings;
    assert_eq!(two.scope, Scope::Enterprise("octo".to_owned()));
    assert_eq!(
        (two.time_to_start, two.time_to_live, two.idle_timeout),
        (Duration::from_secs(1), Duration::from_secs(2), Duration::ZERO)
    );
}

#[test]
fn anchors_merge_keys_and_yaml_1_1_habits_work() {
    let text = format!(
        "{HEAD}runner_groups:\n- &base\n  name: a\n  organization: o\n  labels: [no]\n  max: 3\n  backend: &b {{name: base}}\n- <<: *base\n  name: b\n  labels: [yes]\n  backend: *b\n"
    );
    let config = parse(&text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.groups[1].settings.max, 3);
    assert_eq!(config.groups[1].settings.labels, ["yes"]);
    assert_eq!(config.groups[0].settings.labels, ["no"]);
}

#[test]
fn each_group_has_the_credential_that_it_names_or_that_of_the_top_level() {
    let pem = "-----BEGIN PRIVATE KEY-----\\nabc\\n-----END PRIVATE KEY-----";
    let named = format!(
        "github_base_url: https://ghes.example/api/v3\ngithub_credentials:\n- {{name: app, app_id: 7, installation_id: 8, \
         private_key: \"{pem}\"}}\n- {{name: cloud, token: t2, base_url: https://api.github.com/}}\n"
    );
    let groups = |credentials: &[&str]| {
        let group = |(n, line): (usize, &&str)| {
            format!("- {{name: g{n}, organization: o{n}, labels: [], backend: {{name: base}}{line}}}\n")
        };
        let groups: String = credentials.iter().enumerate().map(group).collect();
        format!("{named}github_webhook_secret: a-secret-of-some-length\nrunner_groups:\n{groups}")
    };
    let (app, cloud) = (", github_credential: app", ", github_credential: cloud");
    let config = parse(&format!("github_token: t\n{}", groups(&[cloud, "", app]))).unwrap_or_else(|e| panic!("{e}"));
    let found: Vec<_> = config.github_credentials.iter().map(|c| (c.name.as_str(), c.base_url.as_str())).collect();
    let ghes = "https://ghes.example/api/v3";
    assert_eq!(found, [("default", ghes), ("app", ghes), ("cloud", "https://api.github.com")]);
    assert!(matches!(
        &config.github_credentials[1].credential,
        GitHubCredential::App { app_id: 7, installation_id: Some(8), .. }
    ));
    assert!(matches!(&config.github_credentials[2].credential, GitHubCredential::Token(t) if t.expose() == "t2"));
    let used: Vec<&str> = config.groups.iter().map(|group| group.settings.github_credential.as_str()).collect();
    assert_eq!(used, ["cloud", "default", "app"]);

    let config = parse(&groups(&[cloud, cloud])).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.github_credentials.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["app", "cloud"]);
    assert_eq!(check::warnings(&config)[0], "no group uses the GitHub credential \"app\"");
    let text = check::describe(&config);
    assert!(text.contains("cloud: https://api.github.com, by a personal access token\n"), "{text}");
    assert!(text.contains("\n  credential  cloud\n"), "{text}");
}

#[test]
fn what_the_original_leaves_empty_counts_as_absent() {
    let text = format!(
        "{}github_app_id: 0\ngithub_private_key: \"\"\ngithub_installation_id: 0\napi_key:\nredis_om_url: null\n",
        group(REST)
    );
    let config = parse(&text).unwrap_or_else(|e| panic!("{e}"));
    assert!(matches!(only(&config).credential, GitHubCredential::Token(_)));
    assert!(config.api_keys.is_empty() && config.redis.is_none());
}

#[test]
fn variables_win_over_the_file_and_empty_ones_do_not_count() {
    let text = format!("listen: 127.0.0.1:1\nredis_url: redis://file/0\nname: from-file\n{}", group(REST));
    let env = [
        ("LISTEN", "127.0.0.1:2"),
        ("REDIS_OM_URL", "redis://variable/0"),
        ("REDIS_TIMEOUT", "2s"),
        ("NAME", ""),
        ("METRICS_PUBLIC", "0"),
        ("IDLE_TIMEOUT", "1h"),
        ("GITHUB_TOKEN", "from-variable"),
        ("LOG_LEVEL_FILE", "/nonexistent"),
        ("log_level", "ERROR"),
        ("API_KEYS", r#"[{"name": "ci", "role": "admin", "key": "k"}]"#),
    ];
    let config = parse_with(&text, &env).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.listen.port(), 2);
    assert_eq!(single(&config), "variable:6379/0");
    assert_eq!(config.name.as_str(), "from-file");
    assert!(!config.metrics_public);
    assert_eq!(config.groups[0].settings.idle_timeout, Duration::from_secs(3_600));
    assert!(matches!(&only(&config).credential, GitHubCredential::Token(token) if token.expose() == "from-variable"));
    assert_eq!(config.log_level, LogLevel::Info);
    assert_eq!(config.api_keys[0].name, "ci");
    let overrides: BTreeSet<&str> = config.overrides.iter().map(String::as_str).collect();
    assert_eq!(
        overrides,
        ["API_KEYS", "GITHUB_TOKEN", "IDLE_TIMEOUT", "LISTEN", "METRICS_PUBLIC", "REDIS_OM_URL", "REDIS_TIMEOUT"]
            .into()
    );
}

#[test]
fn the_environment_alone_can_be_the_configuration() {
    let groups = r#"[{"name": "octo", "organization": "octo-org", "labels": ["a"], "backend": {"name": "base"}}]"#;
    let env = [("GITHUB_TOKEN", "t"), ("ALLOW_UNSIGNED_WEBHOOKS", "true"), ("RUNNER_GROUPS", groups)];
    let env: BTreeMap<&str, &str> = env.into();
    let config = config::load(None, &|name| env.get(name).map(|v| (*v).to_owned())).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.groups[0].settings.name.as_str(), "octo");
}

#[test]
fn secrets_come_from_files_without_their_last_line_break() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (token, webhook) = (file("token", "from-file\n"), file("webhook", "hook\r\n"));
    let more = file("more", "- {name: ghes, token: also-from-file}\n");
    let env = [
        ("GITHUB_TOKEN_FILE", token.as_str()),
        ("GITHUB_WEBHOOK_SECRET_FILE", webhook.as_str()),
        ("GITHUB_CREDENTIALS_FILE", more.as_str()),
    ];
    let config = parse_with(&group(REST), &env).unwrap_or_else(|e| panic!("{e}"));
    let tokens = config.github_credentials.iter().map(|config| match &config.credential {
        GitHubCredential::Token(token) => token.expose(),
        other => panic!("{other:?}"),
    });
    assert_eq!(tokens.collect::<Vec<_>>(), ["from-file", "also-from-file"]);
    assert_eq!(config.github_webhook_secret.unwrap().expose(), "hook");

    let (empty, binary, large) = (file("empty", "\n"), dir.path().join("binary"), file("large", &"x".repeat(70_000)));
    std::fs::write(&binary, [0xff, 0xfe]).unwrap();
    for (path, message) in [
        (empty, "found an empty file, expected a secret"),
        (binary.display().to_string(), "found bytes that are not UTF-8, expected text"),
        (large, "found more than 65536 bytes, expected a secret"),
        ("/nonexistent/secret".to_owned(), "cannot read it: No such file or directory (os error 2)"),
    ] {
        let error = parse_with(&group(REST), &[("API_KEY_FILE", &path)]).unwrap_err().to_string();
        assert_eq!(error, format!("file {path:?} (environment variable API_KEY_FILE): api_key: {message}"));
    }
}

#[test]
fn the_file_to_read_is_the_arguments_else_the_variables() {
    let env = |name: &str| (name == "CONFIG_FILE").then(|| "/etc/a.yaml".to_owned());
    assert_eq!(config::config_file(Some("b.yaml".into()), &env), Some("b.yaml".into()));
    assert_eq!(config::config_file(None, &env), Some("/etc/a.yaml".into()));
    assert_eq!(config::config_file(None, &none), None);
    assert_eq!(config::config_file(None, &|_| Some(String::new())), None);
}

#[test]
fn no_secret_is_shown_by_debug_or_check() {
    let text = "github_token: xSECRETx1\ngithub_webhook_secret: xSECRETx2\napi_key: xSECRETx3\nredis_url: 'redis+sentinel://u:xSECRETx4@r/main?sentinel_password=xSECRETx0'\napi_keys: [{name: a, role: viewer, key: xSECRETx5}]\ngithub_client_secret: xSECRETx6\nrunner_groups:\n- {name: a, organization: o, labels: [], job_started_script: xSECRETx7, backend: {name: process, instance_config: {command: [run], env: {TOKEN: xSECRETx8}}}}\n- {name: b, organization: o, labels: [], backend: {name: base, instance_config: {redhat_password: xSECRETx9}}}\n";
    let config = parse(text).unwrap_or_else(|e| panic!("{e}"));
    let described = check::describe(&config);
    assert!(!described.contains("xSECRETx"), "{described}");
    let debug = format!("{config:?}").replace("xSECRETx7", "");
    assert!(!debug.contains("xSECRETx"), "{debug}");
}

#[test]
fn check_says_what_a_configuration_means() {
    let minimal = config::load(Some(&example("minimal.yaml")), &none).unwrap();
    let full = config::load(Some(&example("full.yaml")), &none).unwrap();
    let original = config::load(Some(&example("python-original.yaml")), &none).unwrap();
    let root = format!("{}/", env!("CARGO_MANIFEST_DIR"));
    let redis = [
        ("redis://u:p@redis:7000/2", ""),
        ("redis+unix:///run/redis.sock", "redis_connections: 1\n"),
        ("rediss+sentinel://:p@a,b,c/main/1", "redis_wait_replicas: 1\n"),
        ("rediss+cluster://a", "redis_cert_file: c\nredis_key_file: k\n"),
    ];
    let stores: String = redis
        .map(|(url, more)| parse(&format!("redis_url: {url}\n{more}{}", group(REST))).unwrap_or_else(|e| panic!("{e}")))
        .iter()
        .map(|config| check::describe(config).lines().find(|line| line.starts_with("store")).unwrap().to_owned() + "\n")
        .collect();
    insta::assert_snapshot!("check_says_which_redis", stores);
    let text = [&minimal, &full, &original].map(check::describe).join("\n=====\n\n").replace(&root, "");
    insta::assert_snapshot!(text);
}

#[test]
fn check_warns_of_what_is_allowed_and_probably_not_meant() {
    let text = "github_token: t\nallow_unsigned_webhooks: true\napi_key: short\ngithub_base_url: http://ghes.example/api/v3\nallowed_hosts: ['*']\nrunner_groups:\n- name: a\n  organization: o\n  labels: []\n  selected_workflows: [o/a/.github/workflows/ci.yml@main]\n  time_to_start: 1m\n  time_to_live: 30m\n  backend: {name: process, max_concurrency: 1, instance_config: {command: [run]}}\n";
    insta::assert_snapshot!(check::warnings(&parse(text).unwrap()).join("\n"));
    let both = format!("allow_unsigned_webhooks: true\n{}", group(REST));
    assert!(!parse(&both).unwrap().allow_unsigned_webhooks, "a secret is always used");
    let quiet = "github_token: t\ngithub_webhook_secret: a-secret-of-some-length\nrunner_groups:\n- {name: a, organization: o, labels: [], backend: {name: base}}\n";
    assert_eq!(check::warnings(&parse(quiet).unwrap()), Vec::<String>::new());
    let local = format!("github_base_url: http://127.0.0.1:9\n{quiet}");
    assert_eq!(check::warnings(&parse(&local).unwrap()), Vec::<String>::new());
    for (url, warns) in [
        ("redis://redis", false),
        ("redis://:p@redis", true),
        ("rediss://:p@redis", false),
        ("redis://:p@127.0.0.1", false),
        ("redis://:p@[::1]", false),
        ("redis+unix://:p@/run/redis.sock", false),
        ("redis+cluster://:p@localhost,b", true),
        ("redis+sentinel://b/main?sentinel_password=p", true),
    ] {
        let warnings = check::warnings(&parse(&format!("redis_url: {url}\n{quiet}")).unwrap());
        assert_eq!(warnings.iter().any(|warning| warning.starts_with("redis_url has no TLS")), warns, "{url}");
    }
    for (time, warned) in
        [("redis_timeout: 5s", false), ("redis_timeout: 6s", true), ("redis_connect_timeout: 1m", true)]
    {
        let warnings = check::warnings(&parse(&format!("redis_url: redis://redis\n{time}\n{quiet}")).unwrap());
        assert_eq!(warnings.iter().any(|warning| warning.contains("half of a lease of 10s")), warned, "{time}");
    }
}

#[test]
fn check_warns_of_who_could_become_root_by_docker() {
    let warnings = |docker: &str, public: bool| {
        let text = format!(
            "{HEAD}runner_groups:\n- {{name: a, organization: o, labels: [], allows_public_repositories: {public}, backend: {{name: docker, {docker}}}}}\n"
        );
        check::warnings(&parse(&text).unwrap()).join("\n")
    };
    assert!(warnings("config: {base_url: tcp://build}", true).contains("build:2375 has no TLS"));
    for safe in ["tcp://127.0.0.1", "tcp://[::1]:9", "unix:///x"] {
        assert!(!warnings(&format!("config: {{base_url: '{safe}'}}"), true).contains("has no TLS"), "{safe}");
    }
    assert!(!warnings("config: {base_url: tcp://build, tls_ca: ca.pem}", true).contains("has no TLS"));
    assert!(warnings("instance_config: {privileged: true}", true).contains("privileged containers"));
    assert!(!warnings("instance_config: {privileged: true}", false).contains("privileged containers"));
    assert!(!warnings("instance_config: {}", true).contains("privileged containers"));
}

#[test]
fn values_of_backends_that_are_not_available_are_checked() {
    let config = config::load(Some(&example("backends.yaml")), &none).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.unavailable_backends().unwrap().iter().count(), 5);
}

#[test]
fn fallback_backends_follow_in_order_each_with_a_name_of_its_own() {
    let text = format!(
        "{HEAD}runner_groups:\n- {{name: g, organization: o, labels: [], backend: {{name: base}}, fallback_backends: [{{name: \
         process, instance_config: {{command: [a]}}, max_concurrency: 2}}, {{name: base}}, {{name: base, breaker_failures: 1}}]}}\n"
    );
    let config = config::parse(&text, "test.yaml", &none).unwrap();
    let settings = &config.groups[0].settings;
    let names: Vec<&str> = settings.backends.iter().map(|limits| limits.name.as_str()).collect();
    assert_eq!(names, ["base", "process", "base-2", "base-3"]);
    assert_eq!((settings.backends[1].max_concurrency, settings.backends[3].breaker_failures), (2, 1));
    let kinds: Vec<&str> = config.groups[0].backends.iter().map(BackendSettings::name).collect();
    assert_eq!(kinds, ["base", "process", "base", "base"]);
    let later = text.replace("{name: base},", "{name: gcloud, config: {project_id: p, zone: z}},");
    let later = config::parse(&later, "test.yaml", &none).unwrap();
    assert!(later.unavailable_backends().unwrap().to_string().contains("fallback_backends[1].name"));
}
