//! A cloud that a provider executable makes of a directory, and backends that use it.
#![allow(dead_code, reason = "every test file uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actors::id::RunnerName;
use actors::model::secret::Secret;
use actors::port::backend::{InstanceSpec, Owner};
use actors::port::boot::{Boot, BootError, Booting, Grant};
use async_trait::async_trait;
use runner_manager::backend::external::{External, InterfaceVersion, Settings};
use tempfile::TempDir;

/// The token that every instance gets.
pub const TOKEN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// Grants the same token to everybody, and remembers who lost it.
#[derive(Default)]
pub struct Tokens {
    pub revoked: Mutex<Vec<RunnerName>>,
    pub broken: bool,
}

#[async_trait]
impl Boot for Tokens {
    async fn grant(&self, _: &InstanceSpec) -> Result<Grant, BootError> {
        if self.broken {
            return Err(BootError::Unavailable("the disk is full".to_owned()));
        }
        Ok(Grant {
            token: Secret::new(TOKEN.to_owned()),
            metadata_url: "https://runners.example.org/instances/v1/metadata".to_owned(),
            callback_url: "https://runners.example.org/instances/v1/callback".to_owned(),
        })
    }

    async fn revoke(&self, runner: &RunnerName) -> Result<(), BootError> {
        self.revoked.lock().unwrap().push(runner.clone());
        Ok(())
    }

    async fn open(&self, _: &str) -> Result<Booting, BootError> {
        Err(BootError::Refused)
    }

    async fn startup_script(&self, _: &str) -> Result<String, BootError> {
        Err(BootError::Refused)
    }
}

/// One call of the provider, as it saw it.
#[derive(Debug)]
pub struct Call {
    pub env: BTreeMap<String, String>,
    pub arguments: usize,
    pub stdin: String,
}

impl Call {
    pub fn command(&self) -> &str {
        &self.env["GARM_COMMAND"]
    }
}

/// The path of the provider's executable.
pub fn executable() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/provider.sh")
}

/// A provider's directory.
pub struct Cloud {
    pub dir: TempDir,
    pub version: InterfaceVersion,
}

impl Cloud {
    pub fn new(version: InterfaceVersion) -> Self {
        let cloud = Self { dir: tempfile::tempdir().unwrap(), version };
        cloud.behave("");
        cloud
    }

    /// What the provider does before each command, in bash.
    pub fn behave(&self, body: &str) {
        // Never half a file for a call that comes meanwhile.
        let unfinished = self.dir.path().join("config.new");
        fs::write(&unfinished, format!("behave() {{\n:\n{body}\n}}\n")).unwrap();
        fs::rename(unfinished, self.config()).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    pub fn settings(&self) -> Settings {
        Settings {
            provider_executable: executable(),
            provider_config_file: self.config(),
            interface_version: self.version,
            environment_variables: vec![],
            exec_timeout: Duration::from_secs(60),
            image: "ubuntu-24.04".to_owned(),
            flavor: "large".to_owned(),
            extra_specs: None,
            github_url: "https://github.com".to_owned(),
        }
    }

    pub fn backend(&self, owner: &Owner) -> External {
        self.backend_with(owner, |_| {})
    }

    pub fn backend_with(&self, owner: &Owner, change: impl FnOnce(&mut Settings)) -> External {
        let mut settings = self.settings();
        change(&mut settings);
        External::new(settings, owner.clone(), Arc::new(Tokens::default()))
    }

    /// Every call so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        let Ok(entries) = fs::read_dir(self.dir.path().join("calls")) else { return vec![] };
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| !path.to_str().unwrap().ends_with(".new"));
        paths.sort();
        paths
            .into_iter()
            .map(|path| {
                let read = |name: &str| fs::read_to_string(path.join(name)).unwrap();
                let environ = read("environ");
                let pairs = environ.split('\0').filter_map(|pair| pair.split_once('='));
                Call {
                    env: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
                    arguments: read("arguments").trim().parse().unwrap(),
                    stdin: read("stdin"),
                }
            })
            .collect()
    }

    pub fn commands(&self) -> Vec<String> {
        self.calls().iter().map(|call| call.command().to_owned()).collect()
    }

    /// The directory of an instance, if one is called so.
    pub fn instance(&self, name: &RunnerName) -> Option<PathBuf> {
        let controllers = fs::read_dir(self.dir.path().join("cloud")).ok()?;
        controllers.map(|entry| entry.unwrap().path().join(name.as_str())).find(|path| path.exists())
    }
}

impl Drop for Cloud {
    /// A failed test leaves no provider and no instance behind.
    fn drop(&mut self) {
        let mark = format!("GARM_PROVIDER_CONFIG_FILE={}", self.config().display());
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
            let ours = environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes());
            if let (true, Some(pid)) = (ours, rustix::process::Pid::from_raw(pid)) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}
