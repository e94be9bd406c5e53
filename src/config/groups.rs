//! Runner groups: each one checked, and then all of them together.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use actors::id::GroupName;
use actors::model::settings::{BackendLimits, GroupSettings, Os, Scope};

use super::credentials::Credentials;
use super::error::ConfigError;
use super::keys::RawGroup;
use super::read::{Reader, Spot};
use super::{BackendSettings, GroupConfig};

/// Labels of its own that a group may have: GitHub takes 100, three are given.
const LABELS_MAX: usize = 97;

/// What a group has when it does not say otherwise.
pub(super) struct Defaults {
    pub(super) time_to_start: Duration,
    pub(super) time_to_live: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) healthcheck_interval: Duration,
}

/// A group that is right by itself.
struct Checked {
    config: GroupConfig,
    /// `runner_groups[1]`.
    here: Spot,
    name_spot: Spot,
}

/// All groups that are right, and an error for each whose backend is not available.
pub(super) fn groups(
    raw: Vec<RawGroup>,
    defaults: Option<&Defaults>,
    credentials: &Credentials,
    reader: &mut Reader,
) -> (Vec<GroupConfig>, Vec<ConfigError>) {
    let mut groups: Vec<Checked> = Vec::new();
    let mut unavailable = Vec::new();
    let mut names = HashMap::new();
    credentials.unused(raw.iter().map(|raw| &raw.github_credential), reader);
    for raw in raw {
        if let Some(name) = &raw.name.value {
            unique_name(name, &raw.name.spot, &mut names, reader);
        }
        let raw_backends = raw.backend.value.iter().chain(raw.fallback_backends.value.iter().flatten());
        let spots: Vec<Spot> = raw_backends.map(|backend| backend.keys.name.spot.clone()).collect();
        let Some(group) = group(raw, defaults, credentials, reader) else { continue };
        for (backend, spot) in group.config.backends.iter().zip(spots) {
            let BackendSettings::Unavailable { name } = backend else { continue };
            unavailable.push(ConfigError {
                place: spot.at,
                key: spot.path,
                message: format!(
                    "found {name:?}, a backend that is not available in this version, expected one of {}",
                    BackendSettings::AVAILABLE.join(", ")
                ),
            });
        }
        groups.push(group);
    }
    for group in &groups {
        unreachable(group, &groups, reader);
    }
    (groups.into_iter().map(|group| group.config).collect(), unavailable)
}

/// Reports a name that another group has, or that its runners could not be told apart by.
fn unique_name(name: &GroupName, spot: &Spot, names: &mut HashMap<String, (GroupName, Spot)>, reader: &mut Reader) {
    let prefix = name.runner_prefix();
    match names.get(&prefix) {
        None => {
            names.insert(prefix, (name.clone(), spot.clone()));
        }
        Some((other, other_spot)) if other == name => {
            let found = format!("{:?}, which is already {}", name.as_str(), other_spot.path);
            reader.wrong_at(spot, found, "a name that is used once");
        }
        Some((other, _)) => {
            let found = format!(
                "{:?}, whose runners would be called {prefix}-… like those of {:?}",
                name.as_str(),
                other.as_str()
            );
            reader.wrong_at(spot, found, "a name that differs in letters, digits or '-'");
        }
    }
}

/// The group by itself; `None` when an error was reported.
fn group(
    raw: RawGroup,
    defaults: Option<&Defaults>,
    credentials: &Credentials,
    reader: &mut Reader,
) -> Option<Checked> {
    let scope = scope(&raw, reader);
    let github_credential = credentials.of_group(&raw.here, &raw.github_credential, reader);
    if !raw.schedules.value.as_ref().is_none_or(Vec::is_empty) {
        reader.wrong_at(&raw.schedules.spot, "schedules, which this version does not support", "none");
    }
    let (min, max): (Option<u32>, Option<u32>) = (raw.min.value.map(|n| n.get()), raw.max.value.map(|n| n.get()));
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        let spot = if raw.min.given { &raw.min.spot } else { &raw.max.spot };
        reader.wrong_at(spot, format!("min {min} and max {max}"), "min to be at most max");
    }
    let restricted = raw.restricted_to_workflows.value;
    if restricted == Some(true) && !raw.selected_workflows.given {
        reader.wrong_at(
            &raw.restricted_to_workflows.spot,
            "true without selected_workflows: the group could never be chosen",
            "selected_workflows beside it",
        );
    } else if restricted == Some(true) && raw.selected_workflows.value.as_ref().is_some_and(Vec::is_empty) {
        reader.wrong_at(
            &raw.selected_workflows.spot,
            "no workflow, and restricted_to_workflows: the group could never be chosen",
            "at least one workflow",
        );
    }
    let labels = labels(&raw, reader);
    let defaults = defaults?;
    let mut limits = Vec::new();
    let mut backends = Vec::new();
    for raw in [raw.backend.value?].into_iter().chain(raw.fallback_backends.value?) {
        let settings = raw.settings?;
        limits.push(BackendLimits {
            name: backend_name(settings.name(), &limits),
            create_timeout: raw.keys.create_timeout.value?.0,
            delete_timeout: raw.keys.delete_timeout.value?.0,
            max_concurrency: raw.keys.max_concurrency.value?.get(),
            breaker_failures: raw.keys.breaker_failures.value?.get(),
            breaker_wait: raw.keys.breaker_wait.value?.0,
        });
        backends.push(settings);
    }
    let scripted =
        |backend: &BackendSettings| matches!(backend, BackendSettings::External(s) if s.startup_script.is_some());
    if raw.os.value.as_ref().is_some_and(|os| os.0 != Os::Linux) && backends.iter().any(scripted) {
        reader.wrong_at(
            &raw.os.spot,
            "another system than linux beside a startup_script",
            "linux: it is a shell script",
        );
        return None;
    }
    let settings = GroupSettings {
        name: raw.name.value?,
        scope: scope?,
        github_credential: github_credential?,
        labels: labels?,
        min: min?,
        max: max?,
        priority: raw.priority.value?.0,
        os: raw.os.value?.0,
        arch: raw.arch.value?.0,
        time_to_start: or_default(
            raw.time_to_start.given,
            raw.time_to_start.value.map(|t| t.0),
            defaults.time_to_start,
        )?,
        time_to_live: or_default(raw.time_to_live.given, raw.time_to_live.value.map(|t| t.0), defaults.time_to_live)?,
        idle_timeout: or_default(raw.idle_timeout.given, raw.idle_timeout.value.map(|t| t.0), defaults.idle_timeout)?,
        healthcheck_interval: defaults.healthcheck_interval,
        allows_public_repositories: raw.allows_public_repositories.value?,
        selected_repository_ids: unique(raw.selected_repository_ids.value?),
        restricted_to_workflows: restricted?,
        selected_workflows: raw.selected_workflows.value?,
        job_started_script: raw.job_started_script.value?,
        job_completed_script: raw.job_completed_script.value?,
        backends: limits,
    };
    let config = GroupConfig { settings, backends };
    Some(Checked { config, here: raw.here, name_spot: raw.name.spot })
}

/// A backend's name within its group: its kind, with a number if it is not the first of that kind.
fn backend_name(kind: &str, before: &[BackendLimits]) -> String {
    let same =
        |limits: &&BackendLimits| limits.name.strip_prefix(kind).is_some_and(|r| r.is_empty() || r.starts_with('-'));
    match before.iter().filter(same).count() {
        0 => kind.to_owned(),
        others => format!("{kind}-{}", others + 1),
    }
}

/// The group's own value, or the default if it has none; `None` if its own is wrong.
fn or_default(given: bool, value: Option<Duration>, default: Duration) -> Option<Duration> {
    if given { value } else { Some(default) }
}

fn unique<T: Ord + Copy>(values: Vec<T>) -> Vec<T> {
    values.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

fn scope(raw: &RawGroup, reader: &mut Reader) -> Option<Scope> {
    let given: Vec<(&str, &Spot)> = [
        (raw.organization.given, "organization", &raw.organization.spot),
        (raw.repository.given, "repository", &raw.repository.spot),
        (raw.enterprise.given, "enterprise", &raw.enterprise.spot),
    ]
    .into_iter()
    .filter_map(|(given, name, spot)| given.then_some((name, spot)))
    .collect();
    match given.as_slice() {
        [] => {
            reader.wrong_at(&raw.here, "no scope", "one of organization, repository and enterprise");
            None
        }
        [(name, _)] => match *name {
            "organization" => raw.organization.value.clone().map(|login| Scope::Organization(login.0)),
            "enterprise" => raw.enterprise.value.clone().map(|slug| Scope::Enterprise(slug.0)),
            _ => raw.repository.value.clone().map(|name| Scope::Repository { owner: name.0.0, name: name.0.1 }),
        },
        [(first, _), (second, spot), ..] => {
            let mut expected = "one of organization, repository and enterprise".to_owned();
            if (*first, *second) == ("organization", "repository") {
                expected.push_str(" (the Python original takes no notice of repository: leave it out to keep that)");
            }
            reader.wrong_at(spot, format!("{second} beside {first}"), expected);
            None
        }
    }
}

/// The group's own labels, each once.
fn labels(raw: &RawGroup, reader: &mut Reader) -> Option<Vec<String>> {
    let mut labels: Vec<String> = Vec::new();
    for label in raw.labels.value.as_ref()? {
        if label.0 != "self-hosted" && !labels.contains(&label.0) {
            labels.push(label.0.clone());
        }
    }
    if labels.len() > LABELS_MAX {
        reader.wrong_at(&raw.labels.spot, format!("{} labels", labels.len()), format!("at most {LABELS_MAX}"));
        return None;
    }
    Some(labels)
}

/// Reports a group that can never be chosen, because another one serves every job that it could serve, and
/// has a higher priority (which counts more than free capacity).
fn unreachable(group: &Checked, groups: &[Checked], reader: &mut Reader) {
    let settings = &group.config.settings;
    let winner = groups.iter().map(|other| (&other.config.settings, other)).find(|(other, _)| {
        other.priority > settings.priority
            && covers_scope(other, settings)
            && covers_labels(other, settings)
            && covers_access(other, settings)
    });
    if let Some((winner, other)) = winner {
        let found = format!(
            "a group that can never be chosen: {} ({:?}) serves all its jobs and has priority {}, more than {}",
            other.here.path,
            winner.name.as_str(),
            winner.priority,
            settings.priority
        );
        reader.wrong_at(&group.name_spot, found, "the same priority to use it when the other is full");
    }
}

fn covers_scope(wide: &GroupSettings, narrow: &GroupSettings) -> bool {
    match (&wide.scope, &narrow.scope) {
        (Scope::Enterprise(a), Scope::Enterprise(b)) | (Scope::Organization(a), Scope::Organization(b)) => {
            a.eq_ignore_ascii_case(b)
        }
        (Scope::Organization(a), Scope::Repository { owner, .. }) => a.eq_ignore_ascii_case(owner),
        (Scope::Repository { owner: a, name: b }, Scope::Repository { owner: c, name: d }) => {
            a.eq_ignore_ascii_case(c) && b.eq_ignore_ascii_case(d)
        }
        _ => false,
    }
}

fn covers_labels(wide: &GroupSettings, narrow: &GroupSettings) -> bool {
    let wide = wide.runner_labels();
    narrow.runner_labels().iter().all(|label| wide.contains(label))
}

fn covers_access(wide: &GroupSettings, narrow: &GroupSettings) -> bool {
    let repositories = wide.selected_repository_ids.is_empty()
        || (!narrow.selected_repository_ids.is_empty()
            && narrow.selected_repository_ids.iter().all(|id| wide.selected_repository_ids.contains(id)));
    let workflows = !wide.restricted_to_workflows
        || (narrow.restricted_to_workflows
            && narrow.selected_workflows.iter().all(|workflow| wide.selected_workflows.contains(workflow)));
    repositories && workflows && (wide.allows_public_repositories || !narrow.allows_public_repositories)
}
