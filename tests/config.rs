//! The configuration: the examples, what each key means, and what each error says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use actors::model::settings::{Arch, Os, Scope};
use runner_manager::check;
use runner_manager::config::{self, BackendSettings, Config, ConfigErrors, GitHubCredential, LogLevel, Role};
use serde_json::Value;

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

#[test]
fn every_example_loads() {
    for name in ["minimal.yaml", "base.yaml", "process.yaml", "full.yaml"] {
        let config = config::load(Some(&example(name)), &none).unwrap_or_else(|error| panic!("{name}:\n{error}"));
        assert!(config.unavailable_backends().is_none(), "{name}");
        assert!(!config.groups.is_empty(), "{name}");
    }
    let files: BTreeSet<String> =
        std::fs::read_dir(example("")).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    let tested = [
        "README.md",
        "backends.yaml",
        "base.yaml",
        "full.yaml",
        "minimal.yaml",
        "process.yaml",
        "python-original.yaml",
    ];
    assert_eq!(files.iter().map(String::as_str).collect::<Vec<_>>(), tested);
}

#[test]
fn a_file_of_the_python_original_is_accepted_and_what_is_missing_is_said() {
    let config = config::load(Some(&example("python-original.yaml")), &none).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.healthcheck_interval, Duration::from_secs(900));
    assert_eq!(config.timeout_runner, Duration::from_secs(900));
    assert_eq!(config.time_to_live, Duration::from_secs(43_200));
    assert_eq!(config.redis_url.as_ref().unwrap().expose(), "redis://redis:6379/0");
    assert!(matches!(
        &config.github_credential,
        GitHubCredential::App { app_id: 123_456, installation_id: Some(7_654_321), private_key } if private_key.expose().contains("BEGIN RSA")
    ));
    let gcloud = &config.groups[2];
    assert_eq!((gcloud.settings.min, gcloud.settings.max), (2, 50));
    assert_eq!(gcloud.backend, BackendSettings::Unavailable { name: "gcloud" });
    assert_eq!(config.groups[0].backend, BackendSettings::Base);
    assert!(config.groups[0].settings.labels.iter().all(|label| label != "self-hosted"));
    let unavailable = config.unavailable_backends().unwrap();
    let names: Vec<String> = unavailable.iter().map(|error| error.key.clone()).collect();
    assert_eq!(names, (1..7).map(|i| format!("runner_groups[{i}].backend.name")).collect::<Vec<_>>());
    assert_eq!(
        unavailable.iter().next().unwrap().message,
        "found \"docker\", a backend that is not available in this version, expected one of base, process"
    );
    assert!(matches!(unavailable.iter().next().unwrap().place, config::Place::File { line: 37, column: 11, .. }));
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
    assert!(config.redis_url.is_none() && config.api_keys.is_empty() && config.metrics_public);
    assert!(!config.allow_unsigned_webhooks);
    let times = [
        (config.shutdown_grace, 30),
        (config.job_retention, 7 * 86_400),
        (config.healthcheck_interval, 900),
        (config.timeout_runner, 900),
        (config.time_to_live, 43_200),
        (config.idle_timeout, 300),
    ];
    for (found, expected) in times {
        assert_eq!(found, Duration::from_secs(expected));
    }
    let group = &config.groups[0].settings;
    assert_eq!((group.min, group.max, group.priority), (0, 20, 0));
    assert_eq!((group.os, group.arch), (Os::Linux, Arch::X64));
    assert!(group.allows_public_repositories && !group.restricted_to_workflows);
    assert!(group.selected_repository_ids.is_empty() && group.selected_workflows.is_empty());
    assert_eq!((group.job_started_script.as_str(), group.job_completed_script.as_str()), ("", ""));
    assert_eq!(group.time_to_start, Duration::from_secs(900));
    assert_eq!(group.time_to_live, Duration::from_secs(43_200));
    assert_eq!(group.idle_timeout, Duration::from_secs(300));
    assert_eq!((group.backend, group.max_concurrency), ("base", 16));
    assert_eq!((group.create_timeout, group.delete_timeout), (Duration::from_secs(300), Duration::from_secs(300)));
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
  backend: {name: process, max_concurrency: 3, create_timeout: 4s, delete_timeout: 5s, instance_config: {command: [run, 7], working_dir: /w, env: {A: true, B: 1.10}, stop_grace: 6s}}
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
    assert_eq!(config.redis_url.as_ref().unwrap().expose(), "rediss://user:pw@redis/1");
    assert_eq!(config.github_base_url, "https://ghes.example/api/v3");
    let GitHubCredential::App { app_id: 7, installation_id: None, private_key } = &config.github_credential else {
        panic!("{:?}", config.github_credential)
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
        (one.healthcheck_interval, 60),
        (one.time_to_start, 61),
        (one.time_to_live, 62),
        (one.idle_timeout, 63),
        (one.create_timeout, 4),
        (one.delete_timeout, 5),
    ];
    for (index, (found, expected)) in seconds.into_iter().enumerate() {
        assert_eq!(found, Duration::from_secs(expected), "{index}");
    }
    assert_eq!((one.backend, one.max_concurrency), ("process", 3));
    assert_eq!(
        config.groups[0].backend,
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
fn what_the_original_leaves_empty_counts_as_absent() {
    let text = format!(
        "{}github_app_id: 0\ngithub_private_key: \"\"\ngithub_installation_id: 0\napi_key:\nredis_om_url: null\n",
        group(REST)
    );
    let config = parse(&text).unwrap_or_else(|e| panic!("{e}"));
    assert!(matches!(config.github_credential, GitHubCredential::Token(_)));
    assert!(config.api_keys.is_empty() && config.redis_url.is_none());
}

#[test]
fn variables_win_over_the_file_and_empty_ones_do_not_count() {
    let text = format!("listen: 127.0.0.1:1\nredis_url: redis://file/0\nname: from-file\n{}", group(REST));
    let env = [
        ("LISTEN", "127.0.0.1:2"),
        ("REDIS_OM_URL", "redis://variable/0"),
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
    assert_eq!(config.redis_url.as_ref().unwrap().expose(), "redis://variable/0");
    assert_eq!(config.name.as_str(), "from-file");
    assert!(!config.metrics_public);
    assert_eq!(config.groups[0].settings.idle_timeout, Duration::from_secs(3_600));
    assert!(matches!(&config.github_credential, GitHubCredential::Token(token) if token.expose() == "from-variable"));
    assert_eq!(config.log_level, LogLevel::Info);
    assert_eq!(config.api_keys[0].name, "ci");
    let overrides: BTreeSet<&str> = config.overrides.iter().map(String::as_str).collect();
    assert_eq!(
        overrides,
        ["API_KEYS", "GITHUB_TOKEN", "IDLE_TIMEOUT", "LISTEN", "METRICS_PUBLIC", "REDIS_OM_URL"].into()
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
    let env = [("GITHUB_TOKEN_FILE", token.as_str()), ("GITHUB_WEBHOOK_SECRET_FILE", webhook.as_str())];
    let config = parse_with(&group(REST), &env).unwrap_or_else(|e| panic!("{e}"));
    assert!(matches!(&config.github_credential, GitHubCredential::Token(token) if token.expose() == "from-file"));
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
fn files_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    let load = || config::load(Some(&path), &none).unwrap_err().to_string();
    let name = path.display();
    assert_eq!(load(), format!("{name}: cannot read the configuration file: No such file or directory (os error 2)"));
    std::fs::write(&path, b"name: a\nlisten: \xff\n").unwrap();
    assert_eq!(load(), format!("{name}: found bytes that are not UTF-8 in line 2, expected text"));
    std::fs::write(&path, " ".repeat(config::FILE_MAX + 1)).unwrap();
    assert_eq!(load(), format!("{name}: found more than 4194304 bytes, expected a smaller file"));
}

#[test]
fn alias_bombs_and_deep_nesting_are_refused_quickly() {
    let started = std::time::Instant::now();
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 10].join(", ")));
    }
    let error = parse(&bomb).unwrap_err().to_string();
    assert!(error.contains("found more than 100000 values, expected fewer (aliases are copies)"), "{error}");
    for deep in ["[".repeat(100_000), "- ".repeat(10_000), "{a: ".repeat(10_000)] {
        let error = parse(&deep).unwrap_err().to_string();
        assert!(error.contains("invalid YAML"), "{error}");
    }
    let mut chain = "a0: &a0 [x]\n".to_owned();
    for level in 1..200 {
        chain.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    let error = parse(&chain).unwrap_err().to_string();
    assert!(error.contains("found more than 32 levels, expected fewer"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20));
}

/// Bad inputs, each with a name: the file, and variables.
fn bad_inputs() -> Vec<(&'static str, String, Vec<(&'static str, &'static str)>)> {
    let mut all: Vec<(&'static str, String, Vec<(&'static str, &'static str)>)> = Vec::new();
    let top = |line: &str| format!("{line}\n{}", group(REST));
    let one = |line: &str| group(&format!("{REST}\n{line}"));
    let backend = |text: &str| group(&format!("organization: octo-org\nbackend: {text}"));
    let two = |first: &str, second: &str| {
        format!(
            "{HEAD}runner_groups:\n- {{backend: {{name: base}}, {first}}}\n- {{backend: {{name: base}}, {second}}}\n"
        )
    };
    for (name, text) in [
        ("empty file", String::new()),
        ("file is a list", "- a\n- b\n".to_owned()),
        ("missing space after a colon", "github_token:ghp_secret\n".to_owned()),
        ("syntax: open bracket", format!("{HEAD}runner_groups: [\n")),
        ("syntax: bad indentation", format!("{HEAD}runner_groups:\n - name: a\n  b: c\n")),
        ("syntax: tab", "name:\n\tx: 1\n".to_owned()),
        ("two documents", format!("{}---\nname: b\n", group(REST))),
        ("unknown anchor", top("name: *nobody")),
        ("alias of itself", top("api_keys: &a [*a]")),
        ("unknown tag", top("github_private_key: !vault abc")),
        ("key that is a list", top("[a, b]: c")),
        ("duplicate key", top("name: a\nname: b")),
        ("duplicate nested key", one("max: 1\nmax: 2")),
        ("merge of a text", one("<<: text")),
        ("unknown key", top("lissten: 127.0.0.1:8000")),
        ("unknown key with dashes", top("runner-groups: []")),
        ("unknown key without a near one", top("qqqqqqqq: 1")),
        ("unknown key in a group", one("maximum: 3")),
        ("unknown key in a backend", backend("{name: base, max_concurency: 3}")),
        ("unknown key in an instance", backend("{name: process, instance_config: {comand: [a]}}")),
        ("unknown key of a cloud", backend("{name: gcloud, config: {project_id: p, zone: z, regoin: r}}")),
        ("key of another backend", backend("{name: process, config: {base_url: x}, instance_config: {command: [a]}}")),
        ("name with a space", top("name: a b")),
        ("name is a boolean", top("name: true")),
        ("listen without a port", top("listen: 127.0.0.1")),
        ("listen on a host name", top("listen: localhost:8000")),
        ("log level", top("log_level: LOUD")),
        ("log format", top("log_format: xml")),
        ("boolean", top("metrics_public: maybe")),
        ("url without a scheme", top("github_base_url: api.github.com")),
        ("url of another scheme", top("github_base_url: ftp://api.github.com")),
        ("url with a password", top("github_base_url: https://u:p@host")),
        ("redis url", top("redis_url: http://user:password@redis")),
        ("two redis urls", top("redis_url: redis://a\nredis_om_url: redis://b")),
        ("duration", top("time_to_live: 12 parsecs")),
        ("negative duration", top("idle_timeout: -5m")),
        ("zero duration", top("healthcheck_interval: 0")),
        ("endless duration", top("job_retention: 11000d")),
        ("duration is a list", top("shutdown_grace: [1]")),
        ("app id is text", "github_app_id: Iv1.abc\ngithub_private_key: k\ngithub_webhook_secret: s\n".to_owned()),
        ("two credentials", top("github_app_id: 1\ngithub_private_key: k")),
        ("app without key", "github_app_id: 1\ngithub_webhook_secret: s\n".to_owned()),
        ("key without app", "github_private_key: k\ngithub_webhook_secret: s\n".to_owned()),
        ("key is a path", "github_app_id: 1\ngithub_private_key: /etc/key.pem\ngithub_webhook_secret: s\n".to_owned()),
        ("token with a space", "github_token: a b\ngithub_webhook_secret: s\n".to_owned()),
        ("token is a list", "github_token: [ghp_secret]\ngithub_webhook_secret: s\n".to_owned()),
        ("no webhook secret", "github_token: t\n".to_owned()),
        ("api key role", top("api_keys: [{name: a, role: root, key: k}]")),
        ("api key without key", top("api_keys: [{name: a, role: admin}]")),
        (
            "api key twice",
            top("api_key: k1\napi_keys: [{name: default, role: admin, key: k2}, {name: b, role: viewer, key: k1}]"),
        ),
        ("api key with spaces", top("api_key: a b")),
        ("groups are a mapping", format!("{HEAD}runner_groups: {{name: a}}\n")),
        ("group is text", format!("{HEAD}runner_groups: [octo]\n")),
        ("group of nothing", format!("{HEAD}runner_groups: [{{}}]\n")),
        ("group name", two("name: a/b, organization: o, labels: []", "name: b, organization: o, labels: []")),
        ("no scope", group("backend: {name: base}")),
        ("two scopes", one("repository: octo-org/app")),
        ("organization with a slash", group("organization: octo/app\nbackend: {name: base}")),
        ("repository without owner", group("repository: app\nbackend: {name: base}")),
        ("labels are text", two("name: a, organization: o, labels: x", "name: b, organization: o, labels: ['']")),
        (
            "labels with a comma",
            two("name: a, organization: o, labels: ['x,y']", "name: b, organization: o, labels: [[x]]"),
        ),
        ("min above max", one("min: 5\nmax: 2")),
        ("min above the default max", one("min: 21")),
        ("max of zero", one("max: 0")),
        ("max too large", one("max: 10001")),
        ("max is a fraction", one("max: 1.5")),
        ("max in octal", one("max: 010")),
        ("min is negative", one("min: -1")),
        ("os", one("os: beos")),
        ("arch", one("arch: x86")),
        ("repository id is a name", one("selected_repository_ids: [octo-org/app]")),
        ("restricted to nothing", one("restricted_to_workflows: true")),
        ("restricted to an empty list", one("restricted_to_workflows: true\nselected_workflows: []")),
        ("schedules", one("schedules: [{cron: '0 7 * * 1-5', duration: 12h, min: 5}]")),
        ("schedules of another shape", one("schedules: [{cron: '0 7 * * 1-5', durration: 12h}]")),
        ("fallback backends", one("fallback_backends: [{name: base}]")),
        ("same name twice", two("name: a, organization: o, labels: []", "name: a, organization: p, labels: []")),
        (
            "names of the same runners",
            two("name: octo-linux, organization: o, labels: []", "name: Octo_Linux, organization: o, labels: [x]"),
        ),
        (
            "unreachable group",
            two("name: a, organization: O, labels: [x, y], priority: 1", "name: b, organization: o, labels: [X]"),
        ),
        (
            "unreachable repository",
            two("name: a, repository: o/r, labels: []", "name: b, organization: o, labels: [], priority: 3"),
        ),
        ("no backend", group("organization: octo-org")),
        ("backend is text", group("organization: octo-org\nbackend: base")),
        ("backend without name", backend("{config: {}}")),
        ("unknown backend", backend("{name: kubernetes}")),
        ("max_concurrency of zero", backend("{name: base, max_concurrency: 0, create_timeout: 0s}")),
        ("process without command", backend("{name: process}")),
        ("process with an empty command", backend("{name: process, instance_config: {command: []}}")),
        ("process with a command in one text", backend("{name: process, instance_config: {command: run.sh --once}}")),
        ("process env", backend("{name: process, instance_config: {command: [a], env: {A: [secret-value]}}}")),
        (
            "process env that is taken",
            backend("{name: process, instance_config: {command: [a], env: {RUNNER_NAME: x}}}"),
        ),
        ("gcloud without config", backend("{name: gcloud}")),
        ("aws with a wrong type", backend("{name: aws, instance_config: {subnet_id: s, disk_size_gb: big}}")),
        ("all at once", format!("lissten: 1\nlog_level: LOUD\n{}", one("min: 5\nmax: 0\nos: beos"))),
    ] {
        all.push((name, text, Vec::new()));
    }
    for (name, env) in [
        ("variable of a wrong type", vec![("LISTEN", "here")]),
        ("variable that is a list of a wrong shape", vec![("RUNNER_GROUPS", r#"[{"name": "a", "min": "x"}]"#)]),
        ("variable that is not YAML", vec![("RUNNER_GROUPS", "[")]),
        ("variable with a second key", vec![("API_KEYS", "[{name: a, name: b, role: admin, key: k}]")]),
        ("variable and its file", vec![("GITHUB_TOKEN", "ghp_secret"), ("GITHUB_TOKEN_FILE", "/run/x")]),
        ("variable that is a second credential", vec![("GITHUB_APP_ID", "1"), ("GITHUB_PRIVATE_KEY", "secret")]),
        ("redis variable", vec![("REDIS_URL", "secret-value")]),
    ] {
        all.push((name, group(REST), env));
    }
    all
}

#[test]
fn every_error_says_where_what_and_what_instead() {
    let mut report = String::new();
    let inputs = bad_inputs();
    assert!(inputs.len() >= 90, "{}", inputs.len());
    for (name, text, env) in inputs {
        let errors = match parse_with(&text, &env) {
            Ok(_) => panic!("{name}: accepted\n{text}"),
            Err(errors) => errors,
        };
        report.push_str(&format!("# {name}\n{errors}\n\n"));
        assert!(!errors.to_string().contains("secret-value"), "{name}: {errors}");
        assert!(!errors.to_string().contains("ghp_"), "{name}: {errors}");
        assert!(!errors.to_string().contains("password"), "{name}: {errors}");
    }
    insta::assert_snapshot!(report);
}

#[test]
fn no_secret_is_shown_by_debug_or_check() {
    let text = "github_token: xSECRETx1\ngithub_webhook_secret: xSECRETx2\napi_key: xSECRETx3\nredis_url: redis://:xSECRETx4@r\napi_keys: [{name: a, role: viewer, key: xSECRETx5}]\ngithub_client_secret: xSECRETx6\nrunner_groups:\n- {name: a, organization: o, labels: [], job_started_script: xSECRETx7, backend: {name: process, instance_config: {command: [run], env: {TOKEN: xSECRETx8}}}}\n- {name: b, organization: o, labels: [], backend: {name: base, instance_config: {redhat_password: xSECRETx9}}}\n";
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
    let text = [&minimal, &full, &original].map(check::describe).join("\n=====\n\n").replace(&root, "");
    insta::assert_snapshot!(text);
}

#[test]
fn check_warns_of_what_is_allowed_and_probably_not_meant() {
    let text = "github_token: t\nallow_unsigned_webhooks: true\napi_key: short\ngithub_base_url: http://ghes.example/api/v3\nallowed_hosts: ['*']\nrunner_groups:\n- name: a\n  organization: o\n  labels: []\n  selected_workflows: [o/a/.github/workflows/ci.yml@main]\n  time_to_start: 1m\n  time_to_live: 30m\n  backend: {name: process, max_concurrency: 1, instance_config: {command: [run]}}\n";
    insta::assert_snapshot!(check::warnings(&parse(text).unwrap()).join("\n"));
    let quiet = "github_token: t\ngithub_webhook_secret: a-secret-of-some-length\nrunner_groups:\n- {name: a, organization: o, labels: [], backend: {name: base}}\n";
    assert_eq!(check::warnings(&parse(quiet).unwrap()), Vec::<String>::new());
    let local = format!("github_base_url: http://127.0.0.1:9\n{quiet}");
    assert_eq!(check::warnings(&parse(&local).unwrap()), Vec::<String>::new());
}

/// Paths of all keys that a schema has, like `runner_groups[].backend(base).name`.
fn schema_keys(schema: &Value, path: &str, keys: &mut BTreeSet<String>) {
    if let Some(properties) = schema["properties"].as_object() {
        for (name, part) in properties {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            keys.insert(path.clone());
            schema_keys(part, &path, keys);
        }
    }
    if schema["items"].is_object() {
        schema_keys(&schema["items"], &format!("{path}[]"), keys);
    }
    for kind in schema["oneOf"].as_array().into_iter().flatten() {
        schema_keys(kind, &format!("{path}({})", kind["title"].as_str().unwrap()), keys);
    }
}

#[test]
fn the_examples_validate_against_the_schema_and_bad_files_do_not() {
    let validator = jsonschema::validator_for(&config::schema()).unwrap();
    for name in ["minimal.yaml", "base.yaml", "process.yaml", "full.yaml", "backends.yaml", "python-original.yaml"] {
        let text = std::fs::read_to_string(example(name)).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(&yaml(&text)).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{name}: {errors:#?}");
    }
    for bad in [
        "lissten: 1",
        "runner_groups: [{name: a}]",
        "runner_groups: [{name: a, labels: [], backend: {name: foo}}]",
        "listen: [1]",
        "log_level: LOUD",
    ] {
        assert!(!validator.is_valid(&yaml(bad)), "{bad}");
    }
}

/// YAML as JSON, typed by the core schema; good enough for the examples.
fn yaml(text: &str) -> Value {
    use granit_parser::{Event, Parser, ScalarStyle};
    fn value<'a>(events: &mut impl Iterator<Item = Event<'a>>) -> Option<Value> {
        Some(match events.next()? {
            Event::Scalar(text, ScalarStyle::Plain, ..) => serde_json::from_str(&text)
                .ok()
                .filter(|v: &Value| !v.is_string())
                .unwrap_or_else(|| Value::from(text.into_owned())),
            Event::Scalar(text, ..) => Value::from(text.into_owned()),
            Event::SequenceStart(..) => std::iter::from_fn(|| value(events)).collect(),
            Event::MappingStart(..) => {
                let mut map = serde_json::Map::new();
                while let Some(key) = value(events) {
                    map.insert(key.as_str().unwrap().to_owned(), value(events).unwrap());
                }
                Value::Object(map)
            }
            Event::SequenceEnd | Event::MappingEnd => return None,
            other => panic!("{other:?}"),
        })
    }
    let mut events = Parser::new_from_str(text).map(|e| e.unwrap().0).filter(|e| {
        !matches!(e, Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd | Event::StreamEnd)
    });
    value(&mut events).unwrap()
}

#[test]
fn every_key_of_the_schema_is_accepted_and_described_and_no_other_is() {
    let mut keys = BTreeSet::new();
    let schema = config::schema();
    schema_keys(&schema, "", &mut keys);
    assert!(keys.len() > 150, "{}", keys.len());
    for key in &keys {
        // A mapping with one odd key is right for no key; the error must not be that the key is unknown.
        let (parents, name) = key.rsplit_once('.').unwrap_or(("", key));
        for (name, known) in [(name, true), ("zz_not_a_key", false)] {
            let errors = match parse(&nested(parents, name)) {
                Ok(_) => String::new(),
                Err(errors) => errors.to_string(),
            };
            let unknown = errors.lines().any(|line| line.contains(&format!("{name}: found an unknown key")));
            // Names of the mapping `Texts` and anything's keys are free, and are not in the schema.
            assert_eq!(unknown, !known, "{key}: {errors}");
        }
    }
    undescribed(&schema, "");
}

/// A file whose only content is the key `name` at the place that `parents` describes.
fn nested(parents: &str, name: &str) -> String {
    let mut text = String::new();
    let mut close = String::new();
    let mut open = |text: &mut String, kind: Option<&str>| {
        text.push('{');
        if let Some(kind) = kind {
            text.push_str(&format!("name: {kind}, "));
        }
        close.insert(0, '}');
    };
    open(&mut text, None);
    let mut lists = String::new();
    for part in parents.split('.').filter(|part| !part.is_empty()) {
        let (part, kind) = part.split_once('(').map_or((part, None), |(p, k)| (p, Some(k.trim_end_matches(')'))));
        let (part, list) = part.strip_suffix("[]").map_or((part, false), |part| (part, true));
        text.push_str(&format!("{part}: "));
        if list {
            text.push('[');
        }
        text.push('{');
        if let Some(kind) = kind {
            text.push_str(&format!("name: {kind}, "));
        }
        lists.insert_str(0, if list { "}]" } else { "}" });
    }
    if name == "name" && text.ends_with(", ") {
        return format!("{text}{lists}{close}");
    }
    format!("{text}{name}: {{zz_odd: 1}}{lists}{close}")
}

fn undescribed(schema: &Value, path: &str) {
    for (name, part) in schema["properties"].as_object().into_iter().flatten() {
        assert!(part["description"].as_str().is_some_and(|text| text.len() > 3), "{path}.{name}");
        undescribed(part, &format!("{path}.{name}"));
        undescribed(&part["items"], &format!("{path}.{name}[]"));
    }
}

#[test]
fn full_and_backends_show_every_key() {
    let mut keys = BTreeSet::new();
    schema_keys(&config::schema(), "", &mut keys);
    let [full, backends] = ["full.yaml", "backends.yaml"].map(|name| std::fs::read_to_string(example(name)).unwrap());
    let shown = |text: &str, name: &str| text.split(['\n', ' ', '{', '#']).any(|word| word == format!("{name}:"));
    for key in &keys {
        let name = key.rsplit(['.', ']']).next().unwrap();
        let ours = !key.contains('(') || key.contains("(base)") || key.contains("(process)");
        let text = if ours { full.clone() } else { format!("{full}{backends}") };
        assert!(shown(&text, name), "{key}");
    }
}

#[test]
fn the_defaults_that_full_names_are_the_schemas() {
    let schema = config::schema();
    let text = std::fs::read_to_string(example("full.yaml")).unwrap();
    let group = &schema["properties"]["runner_groups"]["items"];
    let backend = &group["properties"]["backend"]["oneOf"][1];
    let places = [&schema, group, backend, &backend["properties"]["instance_config"]];
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut compared = 0;
    for pair in lines.windows(2) {
        let Some((_, default)) = pair[0].split_once("Default: ") else { continue };
        let Some((name, _)) = pair[1].trim_start_matches(['#', ' ', '-']).split_once(':') else { continue };
        let found = places
            .iter()
            .filter_map(|place| place["properties"][name].get("default"))
            .map(|default| default.as_str().map_or_else(|| default.to_string(), str::to_owned));
        let found: Vec<String> = found.collect();
        let words = default.split([',', ' ']).next().unwrap();
        let same =
            found.iter().any(|found| found == words || (matches!(found.as_str(), "[]" | "{}" | "") && words == "none"));
        let from_elsewhere = found.is_empty() || ["timeout_runner", "time_to_live", "idle_timeout"].contains(&words);
        assert!(same || from_elsewhere, "{name}: {default} but {found:?}");
        compared += usize::from(same);
    }
    assert!(compared >= 25, "{compared}");
}

#[test]
fn values_of_backends_that_are_not_available_are_checked() {
    let config = config::load(Some(&example("backends.yaml")), &none).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.unavailable_backends().unwrap().iter().count(), 7);
}
