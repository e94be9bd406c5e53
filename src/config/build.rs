//! From what the file says to what it means: the checks that need more than one key.

use actors::model::secret::Secret;

use super::credentials::{Credentials, Given, TopLevel, given_secret, visible_ascii};
use super::groups;
use super::keys::RawConfig;
use super::read::{Reader, Spot};
use super::redis_keys;
use super::words::Role;
use super::{ApiKey, BackendSettings, Config, GroupConfig};

/// The checked configuration; `None` when an error was reported.
pub(super) fn config(mut raw: RawConfig, reader: &mut Reader) -> Option<Config> {
    // Everything is built before anything is given up, so that all errors are reported.
    let redis = redis_keys::redis(&mut raw, reader);
    let here = raw.here;
    let base_url = raw.github_base_url.value.map(|url| url.0);
    let top = TopLevel {
        here: here.clone(),
        base_url: base_url.clone(),
        token: raw.github_token,
        app_id: raw.github_app_id,
        private_key: raw.github_private_key,
        installation_id: raw.github_installation_id,
    };
    let credentials = Credentials::new(top, raw.github_credentials, reader);
    let unsigned = raw.allow_unsigned_webhooks.value;
    let webhook_secret = given_secret(raw.github_webhook_secret);
    if let (Given::No, Some(false)) = (&webhook_secret, unsigned) {
        let spot = Spot { at: here.at.clone(), path: "github_webhook_secret".to_owned() };
        reader.wrong_at(
            &spot,
            "no webhook secret",
            "the secret that GitHub signs webhooks with, or allow_unsigned_webhooks: true",
        );
    }
    let webhook_secret = webhook_secret.option().map(|(secret, spot)| {
        // Every signature would be wrong, and the reason hard to see.
        if secret.expose().trim() != secret.expose() {
            reader.wrong_at(&spot, "spaces or line breaks at its start or end", "a secret without them");
        }
        secret
    });
    let api_keys = api_keys(given_secret(raw.api_key), raw.api_keys.value.unwrap_or_default(), reader);
    let defaults = match (
        raw.timeout_runner.value,
        raw.time_to_live.value,
        raw.idle_timeout.value,
        raw.healthcheck_interval.value,
    ) {
        (Some(start), Some(live), Some(idle), Some(healthcheck)) => Some(groups::Defaults {
            time_to_start: start.0,
            time_to_live: live.0,
            idle_timeout: idle.0,
            healthcheck_interval: healthcheck.0,
        }),
        _ => None,
    };
    let groups = groups::groups(raw.runner_groups.value.unwrap_or_default(), defaults.as_ref(), &credentials, reader);
    let external_url = raw.external_url.value.map(|url| url.0);
    let external = |backend: &BackendSettings| matches!(backend, BackendSettings::External(_));
    let outside = |group: &&GroupConfig| group.backends.iter().any(external);
    if let (false, Some(group)) = (raw.external_url.given, groups.0.iter().find(outside)) {
        let spot = Spot { at: here.at.clone(), path: "external_url".to_owned() };
        let found = format!("no external_url, though instances of group {:?} need it", group.settings.name.as_str());
        reader.wrong_at(&spot, found, "where they reach this service, like https://runners.example.org");
    }
    let (defaults, (groups, unavailable)) = (defaults?, groups);
    let allow_unsigned_webhooks = unsigned? && webhook_secret.is_none();
    Some(Config {
        name: raw.name.value?,
        listen: raw.listen.value?,
        external_url,
        log_level: raw.log_level.value?,
        log_format: raw.log_format.value?,
        data_dir: raw.data_dir.value?.0,
        redis,
        github_base_url: base_url?,
        github_credentials: credentials.all,
        github_webhook_secret: webhook_secret,
        allow_unsigned_webhooks,
        api_keys,
        metrics_public: raw.metrics_public.value?,
        shutdown_grace: raw.shutdown_grace.value?.0,
        job_retention: raw.job_retention.value?.0,
        healthcheck_interval: defaults.healthcheck_interval,
        reconcile_interval: raw.reconcile_interval.value?.0,
        reconcile_repositories: raw.reconcile_repositories.value?.into_iter().map(|name| name.0).collect(),
        timeout_runner: defaults.time_to_start,
        time_to_live: defaults.time_to_live,
        idle_timeout: defaults.idle_timeout,
        groups,
        ineffective: Vec::new(),
        overrides: Vec::new(),
        unavailable,
    })
}

fn api_keys(single: Given<Secret>, raw: Vec<super::keys::RawApiKey>, reader: &mut Reader) -> Vec<ApiKey> {
    let mut keys: Vec<ApiKey> = Vec::new();
    let mut add = |key: ApiKey, name_spot: &Spot, key_spot: &Spot, reader: &mut Reader| {
        if key.key.expose().is_empty() || !visible_ascii(key.key.expose()) {
            reader.wrong_at(key_spot, "an empty key, spaces or other characters", "a key of visible ASCII characters");
        } else if keys.iter().any(|known| known.name == key.name) {
            let found = format!("{:?}, the name of another key", key.name);
            reader.wrong_at(name_spot, found, "a name that is used once (api_key is called \"default\")");
        } else if let Some(known) = keys.iter().find(|known| known.key.expose() == key.key.expose()) {
            reader.wrong_at(key_spot, format!("the same key as that of {:?}", known.name), "another key");
        } else {
            keys.push(key);
        }
    };
    if let Given::Yes(key, spot) = single {
        add(ApiKey { name: "default".to_owned(), role: Role::Admin, key }, &spot, &spot, reader);
    }
    for raw in raw {
        if let (Some(name), Some(role), Some(key)) = (raw.name.value, raw.role.value, raw.key.value) {
            let key = ApiKey { name: name.to_string(), role, key };
            add(key, &raw.name.spot, &raw.key.spot, reader);
        }
    }
    keys
}
