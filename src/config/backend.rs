//! What a group's backend is, as plain data.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::clouds;
use super::docker::{self, DockerConfig, DockerInstance, DockerSettings};
use super::external::{self, ExternalConfig, ExternalInstance, ExternalSettings};
use super::keys::BackendKeys;
use super::read::{Field, Later, Read, Reader, Texts, keys};
use super::show::show_text;
use super::tree::Node;
use super::types::{FilePath, Time};

/// Settings of a group's backend. The limits that every backend has (`max_concurrency`, `create_timeout`,
/// `delete_timeout`) are in [`actors::model::settings::GroupSettings`].
#[derive(Clone, PartialEq, Eq)]
pub enum BackendSettings {
    /// Instances in memory.
    Base,
    /// Processes on this host.
    Process {
        /// Program and arguments; never empty.
        command: Vec<String>,
        /// Directory the process starts in; absent: that of the manager.
        working_dir: Option<PathBuf>,
        /// Environment variables. The values may be secrets and are not shown by `Debug`.
        env: BTreeMap<String, String>,
        /// Time between SIGTERM and SIGKILL. Default 10 s.
        stop_grace: Duration,
    },
    /// Containers.
    Docker(Box<DockerSettings>),
    /// Instances that the executable of a provider makes.
    External(ExternalSettings),
    /// A backend that is known, and whose keys were checked, but that this version does not have.
    Unavailable {
        /// Its name.
        name: &'static str,
    },
}

impl BackendSettings {
    /// Names of the backends that this version has.
    pub const AVAILABLE: [&'static str; 4] = ["base", "process", "docker", "external"];

    /// Name of the backend.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Process { .. } => "process",
            Self::Docker(_) => "docker",
            Self::External(_) => "external",
            Self::Unavailable { name } => name,
        }
    }
}

impl fmt::Debug for BackendSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base | Self::Unavailable { .. } => f.write_str(self.name()),
            Self::Docker(settings) => settings.fmt(f),
            Self::External(settings) => settings.fmt(f),
            Self::Process { command, working_dir, env, stop_grace } => f
                .debug_struct("process")
                .field("command", command)
                .field("working_dir", working_dir)
                .field("env", &env.keys())
                .field("stop_grace", stop_grace)
                .finish(),
        }
    }
}

/// Variables that an instance gets from the manager.
const GIVEN_VARIABLES: [&str; 9] = [
    "RUNNER_NAME",
    "RUNNER_LABELS",
    "RUNNER_DOWNLOAD_URL",
    "RUNNER_JIT_CONFIG",
    "RUNNER_ORG",
    "RUNNER_GROUP",
    "RUNNER_JOB_STARTED_SCRIPT",
    "RUNNER_JOB_COMPLETED_SCRIPT",
    "ACTIONS_RUNNER_INPUT_JITCONFIG",
];

keys! {
    /// No keys.
    struct NoKeys {}
}

keys! {
    /// Nothing here has an effect: the instances exist in memory only.
    struct BaseInstance {
        /// Part of the Python original's model.
        ignored startup_script: super::read::Anything,
        /// Part of the Python original's model.
        ignored redhat_username: super::read::Anything,
        /// Part of the Python original's model.
        ignored redhat_password: super::read::Anything,
    }
}

keys! {
    /// What the processes are like.
    struct ProcessInstance {
        /// Program and its arguments. It finds its runner in environment variables.
        required command: Vec<String>,
        /// Directory the process starts in; default: that of the manager.
        optional working_dir: FilePath,
        /// Environment variables of the process.
        optional env: Texts = "{}",
        /// Time between SIGTERM and SIGKILL. Duration; 0 kills at once.
        optional stop_grace: Time<true> = "10s",
    }
}

/// A backend as the file has it: the keys that all have, and its settings if they are right.
#[derive(Debug)]
pub(super) struct RawBackend {
    pub(super) keys: BackendKeys,
    pub(super) settings: Option<BackendSettings>,
}

/// One of the two mappings of a backend.
struct Part {
    read: fn(&Node, &mut Reader) -> bool,
    schema: fn() -> Json,
}

impl Part {
    fn of<T: Read>() -> Self {
        Self { read: |node, reader| T::read(node, reader).is_some(), schema: T::schema }
    }
}

/// The known backends: name, `config`, `instance_config`.
fn kinds() -> [(&'static str, Part, Part); 9] {
    [
        ("base", Part::of::<NoKeys>(), Part::of::<BaseInstance>()),
        ("process", Part::of::<NoKeys>(), Part::of::<ProcessInstance>()),
        ("docker", Part::of::<DockerConfig>(), Part::of::<DockerInstance>()),
        ("external", Part::of::<ExternalConfig>(), Part::of::<ExternalInstance>()),
        ("aws", Part::of::<clouds::AwsConfig>(), Part::of::<clouds::AwsInstance>()),
        ("gcloud", Part::of::<clouds::GcloudConfig>(), Part::of::<clouds::GcloudInstance>()),
        ("openstack", Part::of::<clouds::OpenstackConfig>(), Part::of::<clouds::OpenstackInstance>()),
        ("scaleway", Part::of::<clouds::ScalewayConfig>(), Part::of::<clouds::ScalewayInstance>()),
        ("vsphere", Part::of::<clouds::VsphereConfig>(), Part::of::<clouds::VsphereInstance>()),
    ]
}

impl Read for RawBackend {
    const PLAIN: bool = false;

    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        let keys = BackendKeys::read(node, reader)?;
        let settings = keys.name.value.as_deref().and_then(|name| settings(name, &keys, reader));
        Some(Self { keys, settings })
    }

    fn expected() -> String {
        "a mapping with a backend's name".to_owned()
    }

    fn schema() -> Json {
        let kinds = kinds().into_iter().map(|(name, config, instance)| {
            let mut schema = BackendKeys::schema();
            schema["title"] = json!(name);
            schema["properties"]["name"] = json!({"const": name, "description": "Which backend."});
            for (key, part) in [("config", config), ("instance_config", instance)] {
                let part = (part.schema)();
                if part["required"].is_array()
                    && let Some(required) = schema["required"].as_array_mut()
                {
                    required.push(json!(key));
                }
                schema["properties"][key] = part;
            }
            schema
        });
        json!({"oneOf": kinds.collect::<Vec<_>>()})
    }
}

/// Reads what belongs to the backend called `name`.
fn settings(name: &str, keys: &BackendKeys, reader: &mut Reader) -> Option<BackendSettings> {
    let Some((name, config, instance)) = kinds().into_iter().find(|kind| kind.0 == name) else {
        let known: Vec<&str> = kinds().into_iter().map(|kind| kind.0).collect();
        let later: Vec<&str> = known.into_iter().filter(|name| !BackendSettings::AVAILABLE.contains(name)).collect();
        let expected = format!(
            "an available backend: {} (known, but not available in this version: {})",
            BackendSettings::AVAILABLE.join(", "),
            later.join(", ")
        );
        reader.wrong_at(&keys.name.spot, show_text(name), expected);
        return None;
    };
    if name == "docker" {
        let config = part(&keys.config, "config", reader, DockerConfig::read).flatten();
        let raw = part(&keys.instance_config, "instance_config", reader, DockerInstance::read).flatten();
        return docker::settings(config?, raw?, reader).map(|settings| BackendSettings::Docker(Box::new(settings)));
    }
    if name == "external" {
        let config = part(&keys.config, "config", reader, ExternalConfig::read).flatten();
        let instance = part(&keys.instance_config, "instance_config", reader, ExternalInstance::read).flatten();
        return external::settings(config, instance, reader).map(BackendSettings::External);
    }
    let config = part(&keys.config, "config", reader, config.read).unwrap_or(false);
    let (read, settings) = match name {
        "process" => {
            let raw = part(&keys.instance_config, "instance_config", reader, ProcessInstance::read).flatten();
            let settings = raw.and_then(|raw| process(raw, reader));
            (settings.is_some(), settings)
        }
        "base" => {
            let read = part(&keys.instance_config, "instance_config", reader, instance.read);
            (read.unwrap_or(false), Some(BackendSettings::Base))
        }
        name => {
            let read = part(&keys.instance_config, "instance_config", reader, instance.read);
            (read.unwrap_or(false), Some(BackendSettings::Unavailable { name }))
        }
    };
    settings.filter(|_| config && read)
}

/// Reads a mapping whose shape the backend's name decides.
fn part<T>(
    field: &Field<Later>,
    key: &str,
    reader: &mut Reader,
    read: impl FnOnce(&Node, &mut Reader) -> T,
) -> Option<T> {
    let later = field.value.as_ref()?;
    let node = Node::map(later.0.clone(), field.spot.at.clone());
    Some(reader.within(key, |reader| read(&node, reader)))
}

fn process(raw: ProcessInstance, reader: &mut Reader) -> Option<BackendSettings> {
    let command_spot = raw.command.spot.clone();
    let command = raw.command.value?;
    if command.first().is_none_or(String::is_empty) {
        reader.wrong_at(&command_spot, "no program", "a list that starts with a program");
        return None;
    }
    let env = environment(raw.env, reader)?;
    Some(BackendSettings::Process {
        command,
        working_dir: raw.working_dir.value.map(|path| path.0),
        env,
        stop_grace: raw.stop_grace.value?.0,
    })
}

/// Environment variables that an instance gets from the configuration; none after reporting what is wrong with them.
pub(super) fn environment(field: Field<Texts>, reader: &mut Reader) -> Option<Texts> {
    let env = field.value?;
    for name in env.keys() {
        if name.is_empty() || name.contains(['=', '\0']) {
            reader.wrong_at(&field.spot, show_text(name), "names of environment variables without '='");
            return None;
        }
        if GIVEN_VARIABLES.contains(&name.as_str()) {
            reader.wrong_at(&field.spot, format!("{name}, which runner-manager sets"), "other environment variables");
            return None;
        }
    }
    Some(env)
}
