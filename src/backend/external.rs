//! Instances that an executable makes: any provider of the GARM provider protocol, v0.1.0 and v0.1.1.
//!
//! The provider is run once for each call, without arguments, with an environment of exactly what the protocol names and
//! what the configuration lists. It has to end within `exec_timeout`; else, and when nobody waits for its answer any
//! more, its process group is killed. It never gets the just-in-time config: its instances fetch that by a token.
//!
//! The ids by which a provider tells instances apart are UUIDs (version 8): the first 128 bits of the SHA-256 of
//! `controller <manager>` and of `pool <manager> <group>`. They never change while the names do not.

mod call;
mod wire;
mod words;

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actors::id::RunnerName;
use actors::model::secret::Secret;
use actors::port::backend::{BackendError, Instance, InstanceSpec, Metadata, Owner};
use actors::port::{Backend, Boot, BootError};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::locks::Locks;
use call::{Answer, Call, CallError};
use wire::{Create, Found};

/// The provider knows no such instance.
const NOT_FOUND: i32 = 30;
/// The provider has an instance of that name.
const DUPLICATE: i32 = 31;
/// Longest time that a probe waits for an answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
/// Variables of proxies; both cases of each are handed on where they are set.
const PROXIES: [&str; 3] = ["http_proxy", "https_proxy", "no_proxy"];

/// Version of the provider's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterfaceVersion {
    /// The first.
    V010,
    /// The second, which knows of extra specs in every call.
    V011,
}

impl InterfaceVersion {
    /// As the protocol spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V010 => "v0.1.0",
            Self::V011 => "v0.1.1",
        }
    }
}

/// How the provider of a group is called, and what its instances are like.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The executable; an absolute path.
    pub provider_executable: PathBuf,
    /// Its configuration file; has to exist.
    pub provider_config_file: PathBuf,
    /// The protocol's version that it is spoken to in.
    pub interface_version: InterfaceVersion,
    /// Variables of the manager that it gets: their names, or what they begin with. Names that begin with `GARM` are
    /// never handed on.
    pub environment_variables: Vec<String>,
    /// Longest time one call may take.
    pub exec_timeout: Duration,
    /// Image, as the provider calls it.
    pub image: String,
    /// Flavor, as the provider calls it.
    pub flavor: String,
    /// More settings, as the provider defines them.
    pub extra_specs: Option<Value>,
    /// Where people see GitHub, without a slash at the end: `https://github.com`.
    pub github_url: String,
}

/// The proxies of the manager's environment.
#[derive(Debug, Default, Serialize)]
struct Proxies {
    http_proxy: String,
    https_proxy: String,
    no_proxy: String,
}

/// The backend of one group.
#[derive(Clone)]
pub struct External(Arc<Shared>);

struct Shared {
    settings: Settings,
    owner: Owner,
    boot: Arc<dyn Boot>,
    locks: Locks,
}

impl External {
    /// The backend of `owner`, whose instances get tokens of `boot`.
    #[must_use]
    pub fn new(settings: Settings, owner: Owner, boot: Arc<dyn Boot>) -> Self {
        Self(Arc::new(Shared { settings, owner, boot, locks: Locks::default() }))
    }
}

/// A command of the protocol.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Command {
    Create,
    Delete,
    Get,
    List,
    Version,
    SupportedVersions,
}

impl Command {
    fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CreateInstance",
            Self::Delete => "DeleteInstance",
            Self::Get => "GetInstance",
            Self::List => "ListInstances",
            Self::Version => "GetVersion",
            Self::SupportedVersions => "GetSupportedInterfaceVersions",
        }
    }

    /// Whether the first version names a pool with it; the second always does.
    fn has_pool(self) -> bool {
        matches!(self, Self::Create | Self::List)
    }
}

/// How a call failed.
enum Failed {
    /// With this exit status of the protocol.
    Status(i32, String),
    /// In any other way.
    Error(BackendError),
}

impl Failed {
    /// Where no status has a meaning of its own.
    fn error(self) -> BackendError {
        match self {
            Self::Status(_, text) => words::failure(text),
            Self::Error(error) => error,
        }
    }
}

#[async_trait]
impl Backend for External {
    fn name(&self) -> &'static str {
        "external"
    }

    /// A second create of one runner relies on the provider: it is to end with status 31.
    async fn create(&self, spec: InstanceSpec) -> Result<Instance, BackendError> {
        super::check_owner(&self.0.owner, &spec)?;
        let _lock = self.0.locks.lock(&spec.runner).await;
        self.0.create(&spec).await
    }

    async fn delete(&self, runner: &RunnerName) -> Result<(), BackendError> {
        if !self.0.owner.group.owns_name(runner.as_str()) {
            return Ok(());
        }
        let _lock = self.0.locks.lock(runner).await;
        self.0.delete(runner, &[]).await?;
        // A token that is not revoked now is of no use either: its runner is gone, and its time ends.
        if let Err(error) = self.0.boot.revoke(runner).await {
            tracing::warn!(runner = %runner, %error, "the token of an instance that is gone was not revoked");
        }
        Ok(())
    }

    async fn get(&self, runner: &RunnerName) -> Result<Option<Instance>, BackendError> {
        if !self.0.owner.group.owns_name(runner.as_str()) {
            return Ok(None);
        }
        self.0.get(runner, &[]).await
    }

    async fn list(&self, owner: &Owner) -> Result<Vec<Instance>, BackendError> {
        self.0.list(owner, &[]).await
    }

    /// Nothing: the protocol has no command for it.
    async fn update_metadata(&self, _runner: &RunnerName, _metadata: &Metadata) -> Result<(), BackendError> {
        Ok(())
    }

    async fn probe(&self) -> Result<(), BackendError> {
        self.0.probe().await
    }
}

impl Shared {
    async fn create(&self, spec: &InstanceSpec) -> Result<Instance, BackendError> {
        let grant = self.boot.grant(spec).await.map_err(|error| match error {
            BootError::Refused => BackendError::Unreachable("no token was made for the instance".to_owned()),
            BootError::Unavailable(why) => {
                BackendError::Unreachable(format!("no token could be kept for the instance: {why}"))
            }
        })?;
        let (pool, proxies) = (pool_id(&self.owner), proxies(&host_environment()));
        let input = serde_json::to_vec(&Create::new(&self.settings, spec, &grant, &pool, &proxies))
            .map_err(|error| BackendError::Invalid(format!("extra_specs cannot be written as JSON: {error}")))?;
        let secrets = [&grant.token, &spec.jit_config];
        let error = match self.call(Command::Create, &self.owner, Some(&spec.runner), Some(input), &secrets).await {
            Ok(answer) => match self.made(&spec.runner, &answer, &secrets) {
                Ok(instance) => return Ok(instance),
                Err(error) => error,
            },
            Err(Failed::Status(DUPLICATE, text)) => return self.duplicate(&spec.runner, &text, &secrets).await,
            Err(Failed::Error(error @ BackendError::Unreachable(_))) => return Err(error),
            Err(failed) => failed.error(),
        };
        // Whatever it has begun has to go.
        match self.delete(&spec.runner, &secrets).await {
            Ok(()) => {
                if let Err(revoked) = self.boot.revoke(&spec.runner).await {
                    tracing::warn!(runner = %spec.runner, error = %revoked, "the token of an instance that was not made was not revoked");
                }
                Err(error)
            }
            Err(left) => Err(BackendError::Unavailable(format!("{error}; removing what may be left failed: {left}"))),
        }
    }

    /// The instance that CreateInstance answers with.
    fn made(&self, runner: &RunnerName, answer: &[u8], secrets: &[&Secret]) -> Result<Instance, BackendError> {
        let found = Found::one(answer).map_err(|error| self.senseless(Command::Create, &error, secrets))?;
        if found.name() != runner.as_str() {
            let name = words::text(found.name().as_bytes(), secrets);
            let provider = self.settings.provider_executable.display();
            return Err(BackendError::Unavailable(format!("{provider} made {name:?} instead of {runner}")));
        }
        if let Some(fault) = found.fault() {
            let fault = words::text(&fault, secrets);
            return Err(words::failure(format!("the instance was made and has failed: {fault}")));
        }
        found.instance(runner.clone()).ok_or_else(|| self.no_id(runner))
    }

    /// What a provider has of the same name is ours when it is in our pool.
    async fn duplicate(&self, runner: &RunnerName, text: &str, secrets: &[&Secret]) -> Result<Instance, BackendError> {
        let (instance, ours) = tokio::try_join!(self.get(runner, secrets), self.list(&self.owner, secrets))?;
        match instance {
            Some(instance) if ours.iter().any(|listed| listed.runner == *runner) => Ok(instance),
            Some(_) => {
                Err(BackendError::Invalid(format!("an instance called {runner} is there and is not ours: {text}")))
            }
            None => Err(BackendError::Unavailable(format!("{text}; but there is none called {runner}"))),
        }
    }

    async fn delete(&self, runner: &RunnerName, secrets: &[&Secret]) -> Result<(), BackendError> {
        match self.call(Command::Delete, &self.owner, Some(runner), None, secrets).await {
            Ok(_) | Err(Failed::Status(NOT_FOUND, _)) => Ok(()),
            Err(failed) => Err(failed.error()),
        }
    }

    async fn get(&self, runner: &RunnerName, secrets: &[&Secret]) -> Result<Option<Instance>, BackendError> {
        let answer = match self.call(Command::Get, &self.owner, Some(runner), None, secrets).await {
            Ok(answer) => answer,
            Err(Failed::Status(NOT_FOUND, _)) => return Ok(None),
            Err(failed) => return Err(failed.error()),
        };
        let found = Found::one(&answer).map_err(|error| self.senseless(Command::Get, &error, secrets))?;
        if found.name() != runner.as_str() {
            let name = words::text(found.name().as_bytes(), secrets);
            let provider = self.settings.provider_executable.display();
            return Err(BackendError::Unavailable(format!("{provider} was asked for {runner} and answered {name:?}")));
        }
        found.instance(runner.clone()).map(Some).ok_or_else(|| self.no_id(runner))
    }

    async fn list(&self, owner: &Owner, secrets: &[&Secret]) -> Result<Vec<Instance>, BackendError> {
        let answer = self.call(Command::List, owner, None, None, secrets).await.map_err(Failed::error)?;
        let found = Found::many(&answer).map_err(|error| self.senseless(Command::List, &error, secrets))?;
        let mut instances = Vec::with_capacity(found.len());
        for found in found {
            // What has another name was not made by us, whatever pool it is said to be in.
            let Ok(runner) = RunnerName::new(found.name()) else { continue };
            if owner.group.owns_name(runner.as_str()) {
                instances.push(found.instance(runner.clone()).ok_or_else(|| self.no_id(&runner))?);
            }
        }
        Ok(instances)
    }

    async fn probe(&self) -> Result<(), BackendError> {
        let Settings { provider_executable, provider_config_file, interface_version, .. } = &self.settings;
        let wrong = |key: &str, path: &std::path::Path, why: &str| {
            BackendError::Invalid(format!("{key} {} {why}", path.display()))
        };
        if !provider_executable.is_absolute() {
            return Err(wrong("provider_executable", provider_executable, "is not an absolute path"));
        }
        super::executable(provider_executable)
            .map_err(|why| wrong("provider_executable", provider_executable, &why))?;
        if !provider_config_file.is_file() {
            return Err(wrong("provider_config_file", provider_config_file, "is not a file"));
        }
        self.call(Command::Version, &self.owner, None, None, &[]).await.map_err(Failed::error)?;
        if *interface_version == InterfaceVersion::V011 {
            let answer =
                self.call(Command::SupportedVersions, &self.owner, None, None, &[]).await.map_err(Failed::error)?;
            let versions: Option<Vec<String>> = serde_json::from_slice(&answer).ok();
            if versions.is_some_and(|versions| !versions.iter().any(|known| known == interface_version.as_str())) {
                let why = format!("does not speak interface version {}", interface_version.as_str());
                return Err(wrong("provider_executable", provider_executable, &why));
            }
        }
        Ok(())
    }

    /// Runs the provider; what it printed, if it ended well.
    async fn call(
        &self,
        command: Command,
        owner: &Owner,
        runner: Option<&RunnerName>,
        input: Option<Vec<u8>>,
        secrets: &[&Secret],
    ) -> Result<Vec<u8>, Failed> {
        let Settings { provider_executable, exec_timeout, .. } = &self.settings;
        let deadline = match command {
            Command::Version | Command::SupportedVersions => PROBE_TIMEOUT.min(*exec_timeout),
            _ => *exec_timeout,
        };
        let call =
            Call { program: provider_executable, env: self.environment(command, owner, runner), input, deadline };
        let what = format!("{} of {}", command.as_str(), provider_executable.display());
        let unknown = |text: String| Err(Failed::Error(BackendError::Unavailable(text)));
        let Answer { status, stdout, stderr } = match call::run(call).await {
            Ok(answer) => answer,
            Err(CallError::NotStarted(error)) => {
                let advice = "look whether provider_executable is there and may be run";
                return Err(Failed::Error(BackendError::Unreachable(format!(
                    "{what} cannot be run: {error}; {advice}"
                ))));
            }
            Err(CallError::Hung(stderr)) => {
                let said = said(&stderr, secrets);
                let text = format!("{what} did not end within {} s and was killed{said}", deadline.as_secs_f32());
                return Err(Failed::Error(BackendError::Timeout(text)));
            }
            Err(CallError::TooMuch) => return unknown(format!("{what} printed more than 4 MB and was killed")),
            Err(CallError::Lost(error)) => {
                return unknown(format!("{what} could not be followed and was killed: {error}"));
            }
        };
        let said = said(&stderr, secrets);
        match status.code() {
            Some(0) => Ok(stdout),
            Some(code @ (NOT_FOUND | DUPLICATE)) => {
                Err(Failed::Status(code, format!("{what} ended with status {code}{said}")))
            }
            Some(code) => Err(Failed::Error(words::failure(format!("{what} ended with status {code}{said}")))),
            None => {
                let signal = status.signal().unwrap_or_default();
                unknown(format!("{what} was ended by signal {signal}{said}"))
            }
        }
    }

    /// Exactly what the protocol names, and what the configuration lists.
    fn environment(&self, command: Command, owner: &Owner, runner: Option<&RunnerName>) -> Vec<(OsString, OsString)> {
        let Settings { interface_version, environment_variables, provider_config_file, extra_specs, .. } =
            &self.settings;
        let handed_on = |name: &OsString| name.to_str().is_some_and(|name| is_handed_on(name, environment_variables));
        let mut all = host_environment();
        all.retain(|(name, _)| handed_on(name));
        let mut add = |name: &str, value: OsString| all.push((name.into(), value));
        add("GARM_COMMAND", command.as_str().into());
        add("GARM_CONTROLLER_ID", controller_id(owner).into());
        add("GARM_PROVIDER_CONFIG_FILE", provider_config_file.into());
        add("GARM_INTERFACE_VERSION", interface_version.as_str().into());
        let newer = *interface_version == InterfaceVersion::V011;
        if newer || command.has_pool() {
            add("GARM_POOL_ID", pool_id(owner).into());
        }
        if let (Command::Delete | Command::Get, Some(runner)) = (command, runner) {
            add("GARM_INSTANCE_ID", runner.as_str().into());
        }
        if newer {
            let specs = extra_specs.as_ref().map_or_else(|| "null".to_owned(), Value::to_string);
            add("GARM_POOL_EXTRASPECS", STANDARD.encode(specs).into());
        }
        all
    }

    fn senseless(&self, command: Command, error: &serde_json::Error, secrets: &[&Secret]) -> BackendError {
        let why = words::text(error.to_string().as_bytes(), secrets);
        let (command, provider) = (command.as_str(), self.settings.provider_executable.display());
        BackendError::Unavailable(format!("the answer of {provider} to {command} makes no sense: {why}"))
    }

    fn no_id(&self, runner: &RunnerName) -> BackendError {
        let provider = self.settings.provider_executable.display();
        BackendError::Unavailable(format!("{provider} gave the instance of {runner} an unusable provider_id"))
    }
}

/// Whether a provider gets a variable of the manager: it is listed, by its name or what it begins with, or a proxy's.
fn is_handed_on(name: &str, listed: &[String]) -> bool {
    let is_listed = listed.iter().any(|listed| !listed.is_empty() && name.starts_with(listed));
    let is_proxy = PROXIES.iter().any(|proxy| name == *proxy || name == proxy.to_ascii_uppercase());
    (is_listed || is_proxy) && !name.starts_with("GARM")
}

/// What a provider said, to follow a sentence.
fn said(stderr: &[u8], secrets: &[&Secret]) -> String {
    let text = words::text(stderr, secrets);
    if text.is_empty() { ", without a word".to_owned() } else { format!(": {text}") }
}

fn host_environment() -> Vec<(OsString, OsString)> {
    std::env::vars_os().collect()
}

/// The manager's own proxies, the lower case first.
fn proxies(environment: &[(OsString, OsString)]) -> Proxies {
    let value = |name: &str| {
        let upper = name.to_ascii_uppercase();
        let find = |name: &str| environment.iter().find(|(known, value)| known == name && !value.is_empty());
        find(name).or_else(|| find(&upper)).map(|(_, value)| value.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let [http_proxy, https_proxy, no_proxy] = PROXIES.map(value);
    Proxies { http_proxy, https_proxy, no_proxy }
}

/// The id of a deployment.
fn controller_id(owner: &Owner) -> String {
    uuid(&format!("controller {}", owner.manager))
}

/// The id of a group.
fn pool_id(owner: &Owner) -> String {
    uuid(&format!("pool {} {}", owner.manager, owner.group))
}

/// A UUID of version 8 (RFC 9562) that belongs to a text.
fn uuid(text: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(text).into();
    let mut id = String::with_capacity(36);
    for (place, byte) in digest.into_iter().take(16).enumerate() {
        let byte = match place {
            6 => byte & 0x0f | 0x80,
            8 => byte & 0x3f | 0x80,
            _ => byte,
        };
        if matches!(place, 4 | 6 | 8 | 10) {
            id.push('-');
        }
        for digit in [byte >> 4, byte & 15] {
            id.extend(char::from_digit(u32::from(digit), 16));
        }
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_names_and_prefixes_and_proxies_are_handed_on_and_never_names_of_the_protocol() {
        let listed = ["AWS_", "PATH", "GARM", "GARM_TOKEN", "G", ""].map(str::to_owned);
        let handed_on = |name| is_handed_on(name, &listed);
        for name in ["AWS_REGION", "AWS_", "PATH", "PATHEXT", "GOPATH", "http_proxy", "HTTPS_PROXY", "no_proxy"] {
            assert!(handed_on(name), "{name}");
        }
        for name in
            ["GARM", "GARM_TOKEN", "GARM_COMMAND", "GARMX", "HOME", "AWS", "Http_Proxy", "aws_region", "ALL_PROXY"]
        {
            assert!(!handed_on(name), "{name}");
        }
    }

    #[test]
    fn ids_are_uuids_that_never_change() {
        assert_eq!(uuid("controller runner-manager"), uuid("controller runner-manager"));
        assert_ne!(uuid("pool m a"), uuid("pool m b"));
        let id = uuid("pool m a");
        let parts: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_eq!(&id[14..15], "8", "{id}");
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
    }
}
