//! From what the file says to what it means: the checks that need more than one key.

use actors::model::secret::Secret;

use super::groups;
use super::keys::RawConfig;
use super::read::{Field, Reader, Spot};
use super::redis_keys;
use super::types::AppNumber;
use super::words::Role;
use super::{ApiKey, Config, GitHubCredential};

/// The checked configuration; `None` when an error was reported.
pub(super) fn config(mut raw: RawConfig, reader: &mut Reader) -> Option<Config> {
    // Everything is built before anything is given up, so that all errors are reported.
    let redis = redis_keys::redis(&mut raw, reader);
    let here = raw.here;
    let credential = credential(
        &here,
        given_secret(raw.github_token),
        number(raw.github_app_id),
        given_secret(raw.github_private_key),
        number(raw.github_installation_id),
        reader,
    );
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
    let groups = groups::groups(raw.runner_groups.value.unwrap_or_default(), defaults.as_ref(), reader);
    let (defaults, (groups, unavailable)) = (defaults?, groups);
    let allow_unsigned_webhooks = unsigned? && webhook_secret.is_none();
    Some(Config {
        name: raw.name.value?,
        listen: raw.listen.value?,
        log_level: raw.log_level.value?,
        log_format: raw.log_format.value?,
        data_dir: raw.data_dir.value?.0,
        redis,
        github_base_url: raw.github_base_url.value?.0,
        github_credential: credential?,
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

/// A value that the Python original leaves empty, or 0, to say that there is none.
enum Given<T> {
    Yes(T, Spot),
    /// Given, but wrong; already reported.
    Wrong,
    No,
}

impl<T> Given<T> {
    fn is_no(&self) -> bool {
        matches!(self, Self::No)
    }

    fn option(self) -> Option<(T, Spot)> {
        match self {
            Self::Yes(value, spot) => Some((value, spot)),
            Self::Wrong | Self::No => None,
        }
    }
}

fn given<T>(field: Field<T>, none: impl FnOnce(&T) -> bool) -> Given<T> {
    match field.value {
        Some(value) if none(&value) => Given::No,
        Some(value) => Given::Yes(value, field.spot),
        None if field.given => Given::Wrong,
        None => Given::No,
    }
}

fn given_secret(field: Field<Secret>) -> Given<Secret> {
    given(field, |secret| secret.expose().trim().is_empty())
}

fn number(field: Field<AppNumber>) -> Given<AppNumber> {
    given(field, |number| number.0 == 0)
}

fn credential(
    here: &Spot,
    token: Given<Secret>,
    app: Given<AppNumber>,
    key: Given<Secret>,
    installation: Given<AppNumber>,
    reader: &mut Reader,
) -> Option<GitHubCredential> {
    const APP: &str = "github_app_id and github_private_key (a GitHub App)";
    let missing = |path: &str| Spot { at: here.at.clone(), path: path.to_owned() };
    if token.is_no() && app.is_no() && key.is_no() {
        reader.wrong_at(&missing("github_token"), "no GitHub credential", format!("github_token, or {APP}"));
        return None;
    }
    if let (Given::Yes(_, spot), Given::Yes(_, other), _) | (Given::Yes(_, spot), _, Given::Yes(_, other)) =
        (&token, &app, &key)
    {
        let found = format!("two GitHub credentials (the other: {} at {})", other.path, other.at);
        reader.wrong_at(spot, found, format!("either github_token, or {APP}"));
        return None;
    }
    match (token, app, key) {
        (Given::Yes(token, spot), ..) => {
            if !visible_ascii(token.expose()) {
                reader.wrong_at(
                    &spot,
                    "spaces, line breaks or other characters",
                    "a token of visible ASCII characters",
                );
                return None;
            }
            if let Given::Yes(_, spot) = installation {
                reader.ineffective.push(spot.path);
            }
            Some(GitHubCredential::Token(token))
        }
        (_, Given::Yes(app_id, _), Given::Yes(key, spot)) => {
            let private_key = private_key(key, &spot, reader)?;
            let installation_id = match installation {
                Given::Yes(id, _) => Some(id.0),
                Given::No => None,
                Given::Wrong => return None,
            };
            Some(GitHubCredential::App { app_id: app_id.0, private_key, installation_id })
        }
        (_, Given::Yes(_, spot), Given::No) => {
            let missing = Spot { path: "github_private_key".to_owned(), ..spot };
            reader.wrong_at(&missing, "github_app_id alone", "github_private_key beside it");
            None
        }
        (_, Given::No, Given::Yes(_, spot)) => {
            let missing = Spot { path: "github_app_id".to_owned(), ..spot };
            reader.wrong_at(&missing, "github_private_key alone", "github_app_id beside it");
            None
        }
        _ => None,
    }
}

/// Checks that a key is PEM text; `\n` written as two characters, as in one-line variables, is accepted.
fn private_key(key: Secret, spot: &Spot, reader: &mut Reader) -> Option<Secret> {
    let key = if key.expose().contains('\n') { key } else { Secret::new(key.expose().replace("\\n", "\n")) };
    let text = key.expose();
    let pem =
        text.trim_start().starts_with("-----BEGIN ") && text.contains("PRIVATE KEY-----") && text.contains("-----END ");
    if !pem {
        reader.wrong_at(
            spot,
            "another form (not shown)",
            "PEM text (-----BEGIN … PRIVATE KEY-----); to name a file set GITHUB_PRIVATE_KEY_FILE",
        );
        return None;
    }
    Some(key)
}

fn visible_ascii(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
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
