//! What a configuration means, in words: the text of `runner-manager check`.

use std::fmt::Write as _;

use actors::model::settings::GroupSettings;
use actors::port::replicas::LEASE;

use crate::config::duration::show;
use crate::config::{
    BackendSettings, Config, CredentialConfig, DockerEndpoint, GitHubCredential, GroupConfig, Pull, RedisConfig,
    RedisNode, RedisTopology, RedisUrl,
};

/// Shortest secret that does not draw a warning, in bytes.
const SECRET_MIN: usize = 16;

/// The configuration in words, with warnings and without secrets. Ends with a line break.
#[must_use]
pub fn describe(config: &Config) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{label:<14}{value}");
    };
    line("manager", format!("{}, listening on {}", config.name, config.listen));
    match &config.github_credentials[..] {
        [only] if only.name == "default" => line("github", credential(only)),
        several => several.iter().for_each(|one| line("github", format!("{}: {}", one.name, credential(one)))),
    }
    line("webhooks", webhooks(config));
    line("admin api", admin_api(config));
    line(
        "store",
        match &config.redis {
            Some(redis) => store(redis),
            None => format!("embedded, in {}", config.data_dir.display()),
        },
    );
    line("logs", format!("{}, {}", config.log_level.as_str(), config.log_format.as_str()));
    line(
        "times",
        format!(
            "health check every {}, finished jobs kept {}, shutdown within {}",
            show(config.healthcheck_interval),
            show(config.job_retention),
            show(config.shutdown_grace)
        ),
    );
    if !config.overrides.is_empty() {
        line("environment", format!("overrides the file: {}", config.overrides.join(", ")));
    }
    line("groups", config.groups.len().to_string());
    for group in &config.groups {
        describe_group(group, &mut text);
    }
    if let Some(errors) = config.unavailable_backends() {
        text.push_str("\nerrors\n");
        for error in errors.iter() {
            let _ = writeln!(text, "  {error}");
        }
    }
    let warnings = warnings(config);
    if !warnings.is_empty() {
        text.push_str("\nwarnings\n");
        for warning in warnings {
            let _ = writeln!(text, "  {warning}");
        }
    }
    text
}

fn credential(config: &CredentialConfig) -> String {
    let by = match &config.credential {
        GitHubCredential::Token(_) => "a personal access token".to_owned(),
        GitHubCredential::App { app_id, installation_id: Some(id), .. } => {
            format!("GitHub App {app_id}, installation {id}")
        }
        GitHubCredential::App { app_id, installation_id: None, .. } => {
            format!("GitHub App {app_id}, its installation found for each organization")
        }
    };
    format!("{}, by {by}", config.base_url)
}

fn webhooks(config: &Config) -> String {
    match config.github_webhook_secret {
        Some(_) => "signatures verified".to_owned(),
        None => "signatures NOT verified".to_owned(),
    }
}

fn admin_api(config: &Config) -> String {
    let metrics = if config.metrics_public { "metrics without a key" } else { "metrics with a key" };
    if config.api_keys.is_empty() {
        let file = config.data_dir.join("admin.key");
        return format!("key made at the first start, in {}; {metrics}", file.display());
    }
    let keys: Vec<String> = config.api_keys.iter().map(|key| format!("{} ({})", key.name, key.role.as_str())).collect();
    format!("keys {}; {metrics}", keys.join(", "))
}

fn store(redis: &RedisConfig) -> String {
    let place = match &redis.url.topology {
        RedisTopology::Single(node) => format!("Redis at {node}"),
        RedisTopology::Unix(path) => format!("Redis at {}", path.display()),
        RedisTopology::Sentinel { nodes, service } => {
            format!("Redis through Sentinel, service {service} ({})", count(nodes.len(), "sentinel"))
        }
        RedisTopology::Cluster(nodes) => format!("Redis Cluster, found through {}", count(nodes.len(), "node")),
    };
    let login = match (&redis.url.login.username, &redis.url.login.password) {
        (Some(user), _) => format!(", user {user}"),
        (None, Some(_)) => ", with a password".to_owned(),
        (None, None) => String::new(),
    };
    let tls = match (redis.url.tls, &redis.client_certificate) {
        (true, Some(_)) => "TLS verified on both sides",
        (true, None) => "TLS verified",
        (false, _) => "without TLS",
    };
    let wait = match redis.wait_replicas {
        0 => String::new(),
        replicas => format!(", writes wait for {}", count(replicas as usize, "replica")),
    };
    format!(
        "{place}, database {}{login}, {tls}; {}, connected within {}, answers within {}{wait}",
        redis.url.database,
        count(redis.connections as usize, "connection"),
        show(redis.connect_timeout),
        show(redis.timeout)
    )
}

/// A number of things.
fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

fn describe_group(group: &GroupConfig, text: &mut String) {
    let settings = &group.settings;
    let _ = writeln!(text, "\ngroup {}", settings.name);
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "  {label:<12}{value}");
    };
    line("serves", serves(settings));
    if group.settings.github_credential != "default" {
        line("credential", group.settings.github_credential.clone());
    }
    line("runs-on", format!("[{}]", settings.runner_labels().join(", ")));
    line("runners", format!("min {}, max {}, priority {}", settings.min, settings.max, settings.priority));
    line(
        "times",
        format!(
            "online within {}, lives at most {}, idle at most {}",
            show(settings.time_to_start),
            show(settings.time_to_live),
            show(settings.idle_timeout)
        ),
    );
    for (label, script) in
        [("before jobs", &settings.job_started_script), ("after jobs", &settings.job_completed_script)]
    {
        if !script.is_empty() {
            line(label, "a script".to_owned());
        }
    }
    for (n, (settings, limits)) in group.backends.iter().zip(&settings.backends).enumerate() {
        line(if n == 0 { "backend" } else { "or else" }, backend(settings));
        line(
            "limits",
            format!(
                "{} calls at once, create within {}, delete within {}, left alone after {} failures",
                limits.max_concurrency,
                show(limits.create_timeout),
                show(limits.delete_timeout),
                limits.breaker_failures
            ),
        );
    }
}

fn serves(settings: &GroupSettings) -> String {
    let mut text = settings.scope.to_string();
    if !settings.selected_repository_ids.is_empty() {
        let ids: Vec<String> = settings.selected_repository_ids.iter().map(ToString::to_string).collect();
        let _ = write!(text, ", only repositories {}", ids.join(", "));
    }
    if !settings.allows_public_repositories {
        text.push_str(", no public repositories");
    }
    if settings.restricted_to_workflows {
        let _ = write!(text, ", only workflows {}", settings.selected_workflows.join(", "));
    }
    text
}

/// The backend, without arguments and values, which may be secrets.
fn backend(backend: &BackendSettings) -> String {
    match backend {
        BackendSettings::Base => "base: instances in memory, no runner is really started".to_owned(),
        BackendSettings::Process { command, working_dir, env, stop_grace } => {
            let mut text = format!("process: {}", command.first().map_or("", String::as_str));
            if let Some(dir) = working_dir {
                let _ = write!(text, " in {}", dir.display());
            }
            if !env.is_empty() {
                let names: Vec<&str> = env.keys().map(String::as_str).collect();
                let _ = write!(text, ", with {}", names.join(", "));
            }
            let _ = write!(text, ", killed {} after SIGTERM", show(*stop_grace));
            text
        }
        BackendSettings::Docker(docker) => {
            let pulled = match docker.pull {
                Pull::Missing => "pulled when missing",
                Pull::Always => "pulled before every creation",
                Pull::Never => "never pulled",
            };
            let mut text = format!("docker: {}, {pulled}, at {}", docker.image, docker.endpoint);
            if docker.privileged {
                text.push_str(", privileged");
            }
            if !docker.env.is_empty() {
                let names: Vec<&str> = docker.env.keys().map(String::as_str).collect();
                let _ = write!(text, ", with {}", names.join(", "));
            }
            text
        }
        BackendSettings::External(external) => format!(
            "external: {} {}, image {}, flavor {}, killed after {}",
            external.provider_executable.display(),
            external.interface_version.as_str(),
            external.image,
            external.flavor,
            show(external.exec_timeout)
        ),
        BackendSettings::Unavailable { name } => format!("{name}: NOT available in this version"),
    }
}

/// What is allowed and probably not meant; without secrets.
#[must_use]
pub fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    match &config.github_webhook_secret {
        None => warnings.push(
            "webhooks are not verified: whoever reaches the port can ask for runners; set github_webhook_secret"
                .to_owned(),
        ),
        Some(secret) if secret.expose().len() < SECRET_MIN => {
            warnings.push(format!("github_webhook_secret is shorter than {SECRET_MIN} characters"));
        }
        Some(_) => {}
    }
    for key in &config.api_keys {
        if key.key.expose().len() < SECRET_MIN {
            warnings.push(format!("the API key {:?} is shorter than {SECRET_MIN} characters", key.name));
        }
    }
    if config.external_url.as_deref().is_some_and(insecure) {
        warnings.push(
            "external_url is not HTTPS: the tokens and configs of instances cross the network unencrypted".to_owned(),
        );
    }
    for credential in &config.github_credentials {
        if insecure(&credential.base_url) {
            let warning =
                format!("{} is not https: the GitHub credential crosses the network in clear", credential.base_url);
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        if !config.groups.is_empty()
            && config.groups.iter().all(|group| group.settings.github_credential != credential.name)
        {
            warnings.push(format!("no group uses the GitHub credential {:?}", credential.name));
        }
    }
    if config.redis.as_ref().is_some_and(|redis| password_in_clear(&redis.url)) {
        warnings.push("redis_url has no TLS: its password and the state cross the network in clear".to_owned());
    }
    if let Some(redis) = &config.redis {
        for (key, time) in [("redis_connect_timeout", redis.connect_timeout), ("redis_timeout", redis.timeout)] {
            if time > LEASE / 2 {
                warnings.push(format!(
                    "{key} {} is more than half of a lease of {}: groups stop while a slow Redis is waited for",
                    show(time),
                    show(LEASE)
                ));
            }
        }
    }
    for key in &config.ineffective {
        warnings.push(format!("{key} is accepted, as in the Python original, and has no effect"));
    }
    if config.groups.is_empty() {
        warnings.push("there are no runner groups: no job will be served".to_owned());
    }
    for group in &config.groups {
        group_warnings(group, &mut warnings);
    }
    warnings
}

/// Whether a URL is neither https nor of this host.
fn insecure(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return true };
    url.scheme() != "https" && !is_local(url.host_str().unwrap_or_default().trim_matches(['[', ']']))
}

/// Whether a host is this one.
fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// Whether a password is sent to another host without TLS.
fn password_in_clear(url: &RedisUrl) -> bool {
    let nodes: &[RedisNode] = match &url.topology {
        RedisTopology::Unix(_) => &[],
        RedisTopology::Single(node) => std::slice::from_ref(node),
        RedisTopology::Sentinel { nodes, .. } | RedisTopology::Cluster(nodes) => nodes,
    };
    let password = url.login.password.is_some() || url.sentinel_login.password.is_some();
    password && !url.tls && nodes.iter().any(|node| !is_local(&node.host))
}

fn group_warnings(group: &GroupConfig, warnings: &mut Vec<String>) {
    let settings = &group.settings;
    let mut warn = |what: String| warnings.push(format!("group {}: {what}", settings.name));
    let process = |backend: &BackendSettings| matches!(backend, BackendSettings::Process { .. });
    if group.backends.iter().any(process) && settings.allows_public_repositories {
        warn(
            "jobs of public repositories, also from forks, run as processes of this host; \
              set allows_public_repositories: false unless that is meant"
                .to_owned(),
        );
    }
    for backend in &group.backends {
        let BackendSettings::Docker(docker) = backend else { continue };
        if let DockerEndpoint::Tcp(address) = &docker.endpoint
            && !is_local(address.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']))
        {
            warn(format!("{address} has no TLS: whoever is on the network can become root on that host"));
        }
        if docker.privileged && settings.allows_public_repositories {
            warn(
                "jobs of public repositories, also from forks, run in privileged containers, which are root on their \
                 host; set allows_public_repositories: false unless that is meant"
                    .to_owned(),
            );
        }
    }
    if !settings.selected_workflows.is_empty() && !settings.restricted_to_workflows {
        warn("selected_workflows has no effect without restricted_to_workflows: true".to_owned());
    }
    if settings.time_to_live.as_secs() < 3_600 {
        warn(format!("jobs that take longer than time_to_live {} are cut off", show(settings.time_to_live)));
    }
    for limits in &settings.backends {
        if limits.create_timeout > settings.time_to_start {
            warn(format!(
                "create_timeout {} of backend {} is longer than time_to_start {}, which ends first",
                show(limits.create_timeout),
                limits.name,
                show(settings.time_to_start)
            ));
        }
        if limits.max_concurrency == 1 && settings.max > 1 {
            let (max, backend) = (settings.max, &limits.name);
            warn(format!("max_concurrency 1: up to {max} runners of backend {backend} are created one after another"));
        }
    }
}
