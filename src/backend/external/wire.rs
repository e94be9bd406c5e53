//! The words of the provider protocol: what is written to it, what it answers.

use actors::id::{InstanceId, RunnerName};
use actors::model::settings::{Arch, Os};
use actors::port::backend::{Instance, InstanceSpec, InstanceStatus};
use actors::port::boot::Grant;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Proxies, Settings};

/// What CreateInstance reads.
#[derive(Serialize)]
pub(super) struct Create<'a> {
    name: &'a str,
    repo_url: String,
    #[serde(rename = "callback-url")]
    callback_url: &'a str,
    #[serde(rename = "metadata-url")]
    metadata_url: &'a str,
    #[serde(rename = "instance-token")]
    instance_token: &'a str,
    #[serde(rename = "github-runner-group")]
    runner_group: &'a str,
    arch: &'static str,
    os_type: &'static str,
    flavor: &'a str,
    image: &'a str,
    pool_id: &'a str,
    tools: Option<[Tools<'a>; 1]>,
    #[serde(rename = "ssh-keys")]
    ssh_keys: Option<Vec<String>>,
    /// The just-in-time config has them.
    labels: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_specs: Option<&'a Value>,
    #[serde(rename = "ca-cert-bundle")]
    ca_cert_bundle: Option<String>,
    user_data_options: UserDataOptions,
    jit_config_enabled: bool,
    proxy_config: &'a Proxies,
}

#[derive(Serialize)]
struct Tools<'a> {
    os: &'static str,
    architecture: &'static str,
    download_url: &'a str,
    filename: &'a str,
    temp_download_token: &'static str,
    sha256_checksum: &'a str,
}

#[derive(Serialize, Default)]
struct UserDataOptions {
    disable_updates_on_boot: bool,
    extra_packages: Vec<String>,
    enable_boot_debug: bool,
}

impl<'a> Create<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        spec: &'a InstanceSpec,
        grant: &'a Grant,
        pool_id: &'a str,
        proxies: &'a Proxies,
    ) -> Self {
        let machine = &spec.machine;
        let tools = machine.download.as_ref().map(|download| {
            [Tools {
                os: machine.os.download_name(),
                architecture: machine.arch.label(),
                download_url: &download.url,
                filename: &download.filename,
                temp_download_token: "",
                sha256_checksum: download.sha256.as_deref().unwrap_or_default(),
            }]
        });
        Self {
            name: spec.runner.as_str(),
            repo_url: format!("{}/{}", settings.github_url, machine.scope_path),
            callback_url: &grant.callback_url,
            metadata_url: &grant.metadata_url,
            instance_token: grant.token.expose(),
            runner_group: spec.owner.group.as_str(),
            arch: match machine.arch {
                Arch::X64 => "amd64",
                Arch::Arm64 => "arm64",
                Arch::Arm => "arm",
            },
            os_type: match machine.os {
                Os::Linux => "linux",
                Os::Windows => "windows",
                Os::Macos => "unknown",
            },
            flavor: &settings.flavor,
            image: &settings.image,
            pool_id,
            tools,
            ssh_keys: None,
            labels: None,
            extra_specs: settings.extra_specs.as_ref(),
            ca_cert_bundle: None,
            user_data_options: UserDataOptions::default(),
            jit_config_enabled: true,
            proxy_config: proxies,
        }
    }
}

/// An instance as a provider describes it; what else it says is not needed.
#[derive(Deserialize)]
pub(super) struct Found {
    provider_id: String,
    name: String,
    status: String,
    #[serde(default)]
    provider_fault: Option<String>,
}

impl Found {
    /// The one instance of an answer.
    pub(super) fn one(answer: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(answer)
    }

    /// The instances of a listing; `null` is an empty one.
    pub(super) fn many(answer: &[u8]) -> Result<Vec<Self>, serde_json::Error> {
        Ok(serde_json::from_slice::<Option<Vec<Self>>>(answer)?.unwrap_or_default())
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What went wrong with it, in the provider's words; none when nothing did.
    pub(super) fn fault(&self) -> Option<Vec<u8>> {
        let fault = self.provider_fault.as_deref().unwrap_or_default();
        (self.status == "error").then(|| STANDARD.decode(fault).unwrap_or_else(|_| fault.as_bytes().to_vec()))
    }

    /// As the port has it; none when its id is none.
    pub(super) fn instance(self, runner: RunnerName) -> Option<Instance> {
        let status = match self.status.as_str() {
            "running" => InstanceStatus::Running,
            "stopped" | "error" => InstanceStatus::Stopped,
            _ => InstanceStatus::Unknown,
        };
        InstanceId::new(self.provider_id).ok().map(|id| Instance { id, runner, status })
    }
}
