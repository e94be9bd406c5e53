//! From the configuration to the backend `external`, and the tokens that its instances start with.

use std::sync::Arc;

use actors::id::RunnerName;
use actors::port::backend::{InstanceSpec, Owner};
use actors::port::boot::{Booting, Grant};
use actors::port::{Backend, Boot, BootError, Clock, Store};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::backend::external::{External, InterfaceVersion, Settings};
use crate::boot::Tokens;
use crate::config::{self, Config, ExternalSettings, GroupConfig, StartupScript};
use crate::startup;

/// The tokens of instances, when it is known where instances reach this service.
pub(super) fn tokens(config: &Config, store: &Arc<dyn Store>, clock: &Arc<dyn Clock>) -> Option<Tokens> {
    let url = config.external_url.as_deref()?;
    Some(Tokens::new(Arc::clone(store), Arc::clone(clock), url))
}

/// The tokens of a backend's instances.
fn boot(settings: &ExternalSettings, tokens: Option<&Tokens>) -> Arc<dyn Boot> {
    match (tokens.cloned(), &settings.startup_script) {
        (None, _) => Arc::new(NoTokens),
        (Some(tokens), Some(StartupScript::Own { template, .. })) => Arc::new(tokens.with_script(Arc::clone(template))),
        (Some(tokens), _) => Arc::new(tokens),
    }
}

/// The extra specs of a backend, and with them the script that fetches the startup script, where there is one.
fn extra_specs(settings: &ExternalSettings) -> Option<Value> {
    let specs = settings.extra_specs.clone();
    if settings.startup_script.is_none() {
        return specs;
    }
    let mut specs = match specs {
        Some(Value::Object(specs)) => specs,
        _ => Map::new(),
    };
    specs.insert("runner_install_template".to_owned(), json!(STANDARD.encode(startup::LOADER)));
    Some(Value::Object(specs))
}

/// The backend of a group. Without tokens it can be probed, and creates nothing.
pub(super) fn backend(
    config: &Config,
    group: &GroupConfig,
    settings: &ExternalSettings,
    owner: Owner,
    tokens: Option<&Tokens>,
) -> Arc<dyn Backend> {
    let base_url = config
        .github_credentials
        .iter()
        .find(|credential| credential.name == group.settings.github_credential)
        .map_or(config.github_base_url.as_str(), |credential| credential.base_url.as_str());
    let (boot, extra_specs) = (boot(settings, tokens), extra_specs(settings));
    let settings = Settings {
        provider_executable: settings.provider_executable.clone(),
        provider_config_file: settings.provider_config_file.clone(),
        interface_version: match settings.interface_version {
            config::InterfaceVersion::V010 => InterfaceVersion::V010,
            config::InterfaceVersion::V011 => InterfaceVersion::V011,
        },
        environment_variables: settings.environment_variables.clone(),
        exec_timeout: settings.exec_timeout,
        image: settings.image.clone(),
        flavor: settings.flavor.clone(),
        extra_specs,
        github_url: web_url(base_url),
    };
    Arc::new(External::new(settings, owner, boot))
}

/// Where people see the GitHub that has its REST API at `base_url`.
fn web_url(base_url: &str) -> String {
    // github.com and data residency: https://api.HOST; GitHub Enterprise Server: https://HOST/api/v3.
    let url = base_url.strip_suffix("/api/v3").unwrap_or(base_url);
    url.replacen("://api.", "://", 1)
}

/// Grants nothing.
struct NoTokens;

#[async_trait]
impl Boot for NoTokens {
    async fn grant(&self, _: &InstanceSpec) -> Result<Grant, BootError> {
        Err(BootError::Unavailable("external_url is not configured".to_owned()))
    }

    async fn revoke(&self, _: &RunnerName) -> Result<(), BootError> {
        Ok(())
    }

    async fn open(&self, _: &str) -> Result<Booting, BootError> {
        Err(BootError::Refused)
    }

    async fn startup_script(&self, _: &str) -> Result<String, BootError> {
        Err(BootError::Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_each_github_where_it_is() {
        assert_eq!(web_url("https://api.github.com"), "https://github.com");
        assert_eq!(web_url("https://github.example.org/api/v3"), "https://github.example.org");
        assert_eq!(web_url("https://api.octo.ghe.com"), "https://octo.ghe.com");
        assert_eq!(web_url("http://127.0.0.1:8080"), "http://127.0.0.1:8080");
    }
}
