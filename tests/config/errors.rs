//! What each error says.

use std::time::Duration;

use proptest::prelude::*;
use runner_manager::config;

use super::{HEAD, REST, example, group, none, parse, parse_with};

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

/// A name, the file, and variables.
type BadInput = (&'static str, String, Vec<(&'static str, &'static str)>);

/// What must be refused.
fn bad_inputs() -> Vec<BadInput> {
    let mut all: Vec<BadInput> = Vec::new();
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
        ("a token in the wrong place", top("name: Bearer ghp_abc")),
        ("name is a boolean", top("name: true")),
        ("listen without a port", top("listen: 127.0.0.1")),
        ("listen on a host name", top("listen: localhost:8000")),
        ("log level", top("log_level: LOUD")),
        ("log format", top("log_format: xml")),
        ("boolean", top("metrics_public: maybe")),
        ("url without a scheme", top("github_base_url: api.github.com")),
        ("url of another scheme", top("github_base_url: ftp://api.github.com")),
        ("url with a password", top("github_base_url: https://u:secret-value@host")),
        ("redis url", top("redis_url: http://user:secret-value@redis")),
        ("redis url that is a list", top("redis_url: [redis://a, redis://b]")),
        ("redis url with a database that is no number", top("redis_url: redis://:secret-value@a/zero")),
        ("redis url of sentinels without service", top("redis_url: redis+sentinel://u:secret-value@a,b")),
        ("redis url of a cluster with a database", top("redis_url: redis+cluster://a/1")),
        ("redis url with an unknown parameter", top("redis_url: redis://a?passwort=secret-value")),
        ("redis url with a user alone", top("redis_url: redis://secret-value@a")),
        ("redis url with a slash in the password", top("redis_url: redis://:secret-value/x@a")),
        ("redis url with several hosts", top("redis_url: redis://a,b")),
        ("keys about redis without it", top("redis_wait_replicas: 1\nredis_timeout: 2s\nredis_ca_file: ca.pem")),
        ("keys about redis and a wrong url", top("redis_url: x\nredis_timeout: 0\nredis_connections: 0")),
        ("too many replicas to wait for", top("redis_url: redis://a\nredis_wait_replicas: 11")),
        ("files for tls without tls", top("redis_url: redis://a\nredis_ca_file: ca.pem")),
        ("certificate without key", top("redis_url: rediss://a\nredis_cert_file: c.pem")),
        ("key without certificate", top("redis_url: rediss://a\nredis_key_file: k.pem")),
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
        (
            "credential of another name",
            format!("github_credentials: [{{name: ghes, token: t}}]\n{}", one("github_credential: ghe")),
        ),
        (
            "credential name twice and that of the top level",
            top("github_credentials: [{name: a, token: t}, {name: a, token: u}, {name: default, token: v}]"),
        ),
        (
            "credential at the top level that no group uses",
            format!("github_credentials: [{{name: a, token: t}}]\n{}", one("github_credential: a")),
        ),
        (
            "group without a credential",
            group(&format!("{REST}\n")).replace("github_token: t\n", "github_credentials: [{name: a, token: t}]\n"),
        ),
        (
            "credentials that are wrong by themselves",
            top(
                "github_credentials:\n- {name: a}\n- {name: b, token: ghp_secret, app_id: 3}\n- {name: c, app_id: 3}\n\
                 - {name: d, private_key: secret-value}\n- {name: e, app_id: 3, private_key: secret-value}\n\
                 - {name: f, token: t, installation_id: 4}\n- {name: g, token: ghp_ secret}\n- {token: t}\n\
                 - {name: h, token: t, base_url: ghes.example}",
            ),
        ),
        ("credentials that are a mapping", top("github_credentials: {a: ghp_secret}")),
        ("token with a space", "github_token: a b\ngithub_webhook_secret: s\n".to_owned()),
        ("token is a list", "github_token: [ghp_secret]\ngithub_webhook_secret: s\n".to_owned()),
        ("webhook secret of a block", "github_token: t\ngithub_webhook_secret: |\n  secret-value\n".to_owned()),
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
        ("two other scopes", one("enterprise: octo")),
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
        ("a fallback that is wrong", one("fallback_backends: [{name: base}, {name: process}, {name: aws, x: 1}]")),
        ("breaker that never opens", backend("{name: base, breaker_failures: 0, breaker_wait: 0s}")),
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
        ("docker base_url", backend("{name: docker, config: {base_url: ssh://build}}")),
        (
            "docker base_url with a password",
            backend("{name: docker, config: {base_url: tcp://u:secret-value@build:1}}"),
        ),
        ("docker TLS for a socket", backend("{name: docker, config: {tls_ca: ca.pem}}")),
        ("docker TLS without authority", backend("{name: docker, config: {base_url: https://build}}")),
        (
            "docker TLS with half a certificate",
            backend("{name: docker, config: {base_url: tcp://build, tls_ca: ca.pem, tls_cert: cert.pem}}"),
        ),
        (
            "docker amounts",
            backend(
                "{name: docker, instance_config: {cpus: many, memory: 1m, volumes: [/a], pull: sometimes, image: ''}}",
            ),
        ),
        ("docker label of ours", backend("{name: docker, instance_config: {labels: {runner-manager.group: x}}}")),
        ("docker env that is taken", backend("{name: docker, instance_config: {env: {RUNNER_JIT_CONFIG: x}}}")),
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
        ("redis variable without a url", vec![("REDIS_TIMEOUT", "2s")]),
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
    }
    insta::assert_snapshot!(report);
}

#[test]
fn a_file_of_only_mistakes_is_refused_quickly_and_briefly() {
    let started = std::time::Instant::now();
    let unknown: String = (0..90_000).map(|n| format!("key{n}: 1\n")).collect();
    let duplicate = "name: a\n".repeat(90_000);
    let groups = format!("{HEAD}runner_groups:\n{}", "- {name: a}\n".repeat(40_000));
    for text in [unknown, duplicate, groups] {
        let errors = parse(&text).unwrap_err();
        assert!(errors.iter().count() <= 2_000);
        let shown = errors.to_string();
        assert!(shown.lines().count() <= 51, "{shown}");
        assert!(shown.contains("more"), "{shown}");
    }
    let large = "- a\n".repeat(500_000);
    let error = parse(&large).unwrap_err().to_string();
    assert!(error.starts_with("config.yaml:100001:3: [100000]: found more than 100000 values"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}", env in "\\PC{0,60}") {
        let _ = parse(&text);
        let _ = parse_with(&group(REST), &[("RUNNER_GROUPS", &env), ("API_KEYS", &env), ("LISTEN", &env), ("IDLE_TIMEOUT", &env)]);
    }

    #[test]
    fn no_damage_to_a_file_makes_the_reader_panic(at in 0.0..1.0, cut in 0_usize..40, insert in "[\\[\\]{}:,&*!|>'\"%@`#\\- \\n\\ta0]{0,5}") {
        let text = std::fs::read_to_string(example("full.yaml")).unwrap();
        let chars: Vec<char> = text.chars().collect();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in a small file")]
        let at = (at * chars.len() as f64) as usize;
        let damaged: String =
            chars[..at].iter().copied().chain(insert.chars()).chain(chars[(at + cut).min(chars.len())..].iter().copied()).collect();
        if let Err(errors) = config::parse(&damaged, "config.yaml", &none) {
            prop_assert!(errors.iter().all(|error| !error.to_string().contains("was not described")), "{errors}");
        }
    }
}
