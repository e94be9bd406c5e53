//! The configuration: raw shapes in, checked settings out.
//!
//! One YAML file, every key overridable by an environment variable of the same name in capitals.
//! [`load`] and [`parse`] give a [`Config`] in which nothing has to be checked again, or every error
//! at once with file, line, column and key.
//!
//! - Keys, types, defaults and descriptions are declared once, in `config/keys.rs`.
//! - `${VAR}` is not expanded, and no `.env` file is read.
//! - A variable that is set but empty counts as not set. Texts, numbers, booleans and durations are
//!   taken as they are; lists (`RUNNER_GROUPS`, `API_KEYS`) are JSON or YAML.
//! - Secrets, and lists that hold some (`API_KEYS`), may come from the file that `<KEY>_FILE` names; line breaks at its
//!   end are cut.

mod backend;
mod build;
mod clouds;
mod credentials;
mod docker;
pub(crate) mod duration;
mod env;
mod error;
mod external;
mod groups;
mod keys;
mod read;
mod redis_keys;
mod redis_url;
mod schema;
mod show;
mod tree;
mod types;
mod words;

use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use actors::id::ManagerName;
use actors::model::secret::Secret;
use actors::model::settings::GroupSettings;

pub use backend::BackendSettings;
pub use docker::{DockerEndpoint, DockerSettings, Pull};
pub use env::{Environment, config_file, process_environment};
pub use error::{ConfigError, ConfigErrors, Place};
pub use external::{ExternalSettings, InterfaceVersion, StartupScript};
pub use redis_keys::{ClientCertificate, RedisConfig};
pub use redis_url::{RedisLogin, RedisNode, RedisTopology, RedisUrl};
pub use schema::schema;
pub use words::{LogFormat, LogLevel, Role};

use read::Read as _;
use tree::{Node, Origin};

/// Largest configuration file, in bytes.
pub const FILE_MAX: usize = 4 * 1024 * 1024;

/// A checked configuration.
#[derive(Debug)]
pub struct Config {
    /// Marks everything this deployment owns. Default `runner-manager`.
    pub name: ManagerName,
    /// Address of the HTTP server. Default 127.0.0.1:8000.
    pub listen: SocketAddr,
    /// Where instances reach the HTTP server, without a slash at the end; there when a group's backend needs it.
    pub external_url: Option<String>,
    /// Least important messages that are logged. Default INFO.
    pub log_level: LogLevel,
    /// How log lines look. Default text.
    pub log_format: LogFormat,
    /// Directory of the embedded store and of `admin.key`. Default `./data`.
    pub data_dir: PathBuf,
    /// The Redis that keeps the state; absent: the embedded store.
    pub redis: Option<RedisConfig>,
    /// Base of GitHub's REST API, without a slash at the end. Default `https://api.github.com`.
    pub github_base_url: String,
    /// How to log in at GitHub, by unique names: first that of the top level, if there is one. Each group's is among
    /// them.
    pub github_credentials: Vec<CredentialConfig>,
    /// Signs the webhooks; absent only with [`Config::allow_unsigned_webhooks`].
    pub github_webhook_secret: Option<Secret>,
    /// Whether unsigned webhooks are taken; only ever true without a secret. Default false.
    pub allow_unsigned_webhooks: bool,
    /// Keys of the admin API: names and keys are unique. Empty: one is made at the first start.
    pub api_keys: Vec<ApiKey>,
    /// Whether `/metrics` is served without a key. Default true.
    pub metrics_public: bool,
    /// Time for what is in flight after SIGTERM; may be 0. Default 30 s.
    pub shutdown_grace: Duration,
    /// How long finished jobs are kept. Default 7 days.
    pub job_retention: Duration,
    /// Time between two health checks; also in each group's settings. Default 15 min.
    pub healthcheck_interval: Duration,
    /// Time between two reconciliations with GitHub. Default 5 min.
    pub reconcile_interval: Duration,
    /// Owners and names of repositories whose open jobs are looked for besides those that are known. Default none.
    pub reconcile_repositories: Vec<(String, String)>,
    /// Default of the groups' time to start; they have it already. Default 15 min.
    pub timeout_runner: Duration,
    /// Default of the groups' time to live; they have it already. Default 12 h.
    pub time_to_live: Duration,
    /// Default of the groups' idle timeout; they have it already; may be 0. Default 5 min.
    pub idle_timeout: Duration,
    /// The runner groups, in the order of the file.
    pub groups: Vec<GroupConfig>,
    /// Paths of keys that were given and have no effect, such as `allowed_hosts`.
    pub ineffective: Vec<String>,
    /// Names of the environment variables that override the file.
    pub overrides: Vec<String>,
    unavailable: Vec<ConfigError>,
}

impl Config {
    /// The groups whose backend this version does not have: an error for `serve`, with exit status 2.
    #[must_use]
    pub fn unavailable_backends(&self) -> Option<ConfigErrors> {
        ConfigErrors::new(self.unavailable.clone())
    }
}

/// A credential for GitHub, and where it counts.
#[derive(Debug)]
pub struct CredentialConfig {
    /// Its name, for groups and metrics; that of the top level is `default`.
    pub name: String,
    /// Base of GitHub's REST API, without a slash at the end. Default [`Config::github_base_url`].
    pub base_url: String,
    /// How to log in.
    pub credential: GitHubCredential,
}

/// How to log in at GitHub.
#[derive(Debug)]
pub enum GitHubCredential {
    /// A personal access token.
    Token(Secret),
    /// A GitHub App.
    App {
        /// Its id.
        app_id: u64,
        /// Its private key, PEM text.
        private_key: Secret,
        /// Its installation; absent: found for each organization.
        installation_id: Option<u64>,
    },
}

/// A key of the admin API.
#[derive(Debug)]
pub struct ApiKey {
    /// Its name, for logs; that of the key `api_key` is `default`.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The key: visible ASCII characters.
    pub key: Secret,
}

/// A runner group and its backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// What the brain needs to know.
    pub settings: GroupSettings,
    /// What its backends need to know, in the order of `settings.backends`.
    pub backends: Vec<BackendSettings>,
}

/// Reads the file at `path` and the environment; without a path the environment alone.
///
/// # Errors
/// Everything that is wrong with the file and with the variables that override it.
pub fn load(path: Option<&Path>, env: Environment<'_>) -> Result<Config, ConfigErrors> {
    let Some(path) = path else { return parse("", "configuration", env) };
    let name = path.display().to_string();
    let fail = |message: String| {
        ConfigErrors::from(ConfigError { place: Place::whole_file(&name), key: String::new(), message })
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| fail(format!("cannot read the configuration file: {error}")))?;
    if bytes.len() > FILE_MAX {
        return Err(fail(too_large()));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        fail(format!("found bytes that are not UTF-8 in line {line}, expected text"))
    })?;
    parse(&text, &name, env)
}

/// Reads a configuration from its text; `file_name` is for errors. Reads no file but those that
/// `<KEY>_FILE` variables name, and startup scripts.
///
/// # Errors
/// Everything that is wrong with the text and with the variables that override it.
pub fn parse(text: &str, file_name: &str, env: Environment<'_>) -> Result<Config, ConfigErrors> {
    let whole = Place::whole_file(file_name);
    if text.len() > FILE_MAX {
        return Err(ConfigError { place: whole, key: String::new(), message: too_large() }.into());
    }
    let (root, errors) = tree::parse(text, Origin::File(file_name.into()));
    let mut reader = read::Reader::after(errors);
    let root = match root {
        Some(root) => root,
        None if reader.errors.is_empty() => Rc::new(Node::map(Vec::new(), whole)),
        None => return Err(all_of(reader)),
    };
    let (root, overrides) = env::overlay(root, &keys::RawConfig::keys(), env, &mut reader);
    let config = keys::RawConfig::read(&root, &mut reader).and_then(|raw| build::config(raw, &mut reader));
    match config {
        Some(mut config) if reader.errors.is_empty() => {
            config.overrides = overrides;
            config.ineffective = reader.ineffective;
            Ok(config)
        }
        _ => Err(all_of(reader)),
    }
}

fn too_large() -> String {
    format!("found more than {FILE_MAX} bytes, expected a smaller file")
}

fn all_of(reader: read::Reader) -> ConfigErrors {
    ConfigErrors::new(reader.errors).unwrap_or_else(|| {
        let message = "found an error that was not described; please report it".to_owned();
        ConfigError { place: Place::Default, key: String::new(), message }.into()
    })
}
