//! Containers: what is asked for, whose one is, and how it is.

use std::collections::{BTreeMap, HashMap};

use actors::id::RunnerName;
use actors::port::backend::{InstanceSpec, InstanceStatus, Owner};
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum as Status, ContainerSummary,
    ContainerSummaryStateEnum as Listed, HostConfig,
};

use super::Settings;

/// Labels that every container of ours has.
const MANAGER: &str = "runner-manager.manager";
const GROUP: &str = "runner-manager.group";
const RUNNER: &str = "runner-manager.runner";

/// How a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Made and never started.
    Created,
    /// It runs.
    Running,
    /// It has ended, or is being removed.
    Ended,
    /// The daemon says something else.
    Unknown,
}

impl State {
    /// What it means when nobody is starting it: one that was never started will not run, and is to be deleted.
    pub(super) fn settled(self) -> InstanceStatus {
        match self {
            Self::Running => InstanceStatus::Running,
            Self::Created | Self::Ended => InstanceStatus::Stopped,
            Self::Unknown => InstanceStatus::Unknown,
        }
    }
}

/// A container as the daemon shows it.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) state: State,
    labels: HashMap<String, String>,
}

impl Container {
    /// The runner it was made for, when it is one of `owner`.
    pub(super) fn runner_of(&self, owner: &Owner) -> Option<RunnerName> {
        let is = |label, value: &str| self.labels.get(label).is_some_and(|found| found == value);
        let ours = is(MANAGER, owner.manager.as_str()) && is(GROUP, owner.group.as_str());
        self.labels.get(RUNNER).filter(|_| ours).and_then(|name| RunnerName::new(name.as_str()).ok())
    }
}

impl From<ContainerInspectResponse> for Container {
    fn from(found: ContainerInspectResponse) -> Self {
        let state = match found.state.and_then(|state| state.status) {
            Some(Status::CREATED) => State::Created,
            Some(Status::RUNNING | Status::PAUSED | Status::RESTARTING | Status::STOPPING) => State::Running,
            Some(Status::EXITED | Status::DEAD | Status::REMOVING) => State::Ended,
            Some(Status::EMPTY) | None => State::Unknown,
        };
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        Self { id: found.id.unwrap_or_default(), state, labels }
    }
}

impl From<ContainerSummary> for Container {
    fn from(found: ContainerSummary) -> Self {
        let state = match found.state {
            Some(Listed::CREATED) => State::Created,
            Some(Listed::RUNNING | Listed::PAUSED | Listed::RESTARTING | Listed::STOPPING) => State::Running,
            Some(Listed::EXITED | Listed::DEAD | Listed::REMOVING) => State::Ended,
            Some(Listed::EMPTY) | None => State::Unknown,
        };
        Self { id: found.id.unwrap_or_default(), state, labels: found.labels.unwrap_or_default() }
    }
}

/// Selects the containers of `owner` in a list.
pub(super) fn filters(owner: &Owner) -> HashMap<String, Vec<String>> {
    let labels = vec![format!("{MANAGER}={}", owner.manager), format!("{GROUP}={}", owner.group)];
    HashMap::from([("label".to_owned(), labels)])
}

/// Selects the containers of one runner of `owner` in a list.
pub(super) fn filters_of(owner: &Owner, runner: &RunnerName) -> HashMap<String, Vec<String>> {
    let mut filters = filters(owner);
    filters.entry("label".to_owned()).or_default().push(format!("{RUNNER}={runner}"));
    filters
}

/// What the daemon is asked to make. The just-in-time config is in its environment and nowhere else.
pub(super) fn body(settings: &Settings, spec: &InstanceSpec) -> ContainerCreateBody {
    // Later ones win: the configured, then ours.
    let mut labels: HashMap<String, String> = settings.labels.clone().into_iter().collect();
    let marks =
        [(MANAGER, spec.owner.manager.as_str()), (GROUP, spec.owner.group.as_str()), (RUNNER, spec.runner.as_str())];
    labels.extend(marks.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let mut env: BTreeMap<&str, &str> = settings.env.iter().map(|(name, value)| (&**name, &**value)).collect();
    env.extend(spec.env.iter().map(|(name, value)| (*name, &**value)));
    env.extend(["RUNNER_JIT_CONFIG", "ACTIONS_RUNNER_INPUT_JITCONFIG"].map(|name| (name, spec.jit_config.expose())));
    ContainerCreateBody {
        image: Some(settings.image.clone()),
        cmd: Some(settings.command.clone()).filter(|command| !command.is_empty()),
        env: Some(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()),
        labels: Some(labels),
        host_config: Some(HostConfig {
            network_mode: settings.network.clone(),
            binds: Some(settings.volumes.clone()).filter(|volumes| !volumes.is_empty()),
            nano_cpus: settings.nano_cpus,
            memory: settings.memory,
            privileged: Some(settings.privileged),
            auto_remove: Some(settings.remove),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

#[cfg(test)]
mod tests {
    use actors::id::{GroupName, ManagerName};
    use actors::model::secret::Secret;

    use super::super::{Endpoint, Pull};
    use super::*;

    #[test]
    fn only_what_is_asked_for_is_asked_for() {
        let mut settings = Settings {
            endpoint: Endpoint::Unix("/run/x.sock".into()),
            image: "octo".to_owned(),
            command: vec![],
            labels: BTreeMap::new(),
            env: BTreeMap::new(),
            pull: Pull::Never,
            network: None,
            volumes: vec![],
            nano_cpus: None,
            memory: None,
            privileged: false,
            remove: false,
        };
        let spec = InstanceSpec {
            owner: Owner { manager: ManagerName::new("m").unwrap(), group: GroupName::new("g").unwrap() },
            runner: RunnerName::new("g-1").unwrap(),
            env: vec![],
            jit_config: Secret::new("aml0".into()),
            machine: actors::port::backend::Machine::default(),
        };
        let plain = body(&settings, &spec);
        assert_eq!(plain.cmd, None, "the image's own command");
        let host = plain.host_config.unwrap_or_default();
        assert_eq!((host.privileged, host.auto_remove), (Some(false), Some(false)));
        assert_eq!((host.network_mode, host.binds, host.nano_cpus, host.memory), (None, None, None, None));
        settings.privileged = true;
        settings.remove = true;
        let host = body(&settings, &spec).host_config.unwrap_or_default();
        assert_eq!((host.privileged, host.auto_remove), (Some(true), Some(true)));
    }
}
