//! Every key of the file, with its type, default and description.

use std::net::SocketAddr;

use actors::id::{GroupName, ManagerName, RepositoryId};
use actors::model::secret::Secret;

use super::read::{Anything, Later, keys};
use super::redis_url::RedisUrl;
use super::types::{
    AppNumber, ArchName, BaseUrl, FilePath, Label, Login, OsName, Priority, RepositoryName, Time, Whole,
};
use super::words::{LogFormat, LogLevel, Role};

keys! {
    /// Configuration of runner-manager. Every key can be overridden by an environment variable of the same
    /// name in capitals, secrets also by <KEY>_FILE.
    struct RawConfig {
        /// Marks everything this deployment owns, at GitHub and at the backends. 1 to 64 letters, digits, '-',
        /// '_' or '.'.
        optional name: ManagerName = "runner-manager",
        /// IP address and port of the HTTP server.
        optional listen: SocketAddr = "127.0.0.1:8000",
        /// Where instances reach the HTTP server, like https://runners.example.org: needed by the backend external, whose
        /// instances fetch their config there.
        optional external_url: BaseUrl,
        /// Least important messages that are logged: DEBUG, INFO, WARNING or ERROR.
        optional log_level: LogLevel = "INFO",
        /// How log lines look: text for people, json for programs.
        optional log_format: LogFormat = "text",
        /// Redis or Valkey that keeps the state, which several replicas may then share; without one it is kept in
        /// data_dir. redis://[user:password@]host[:6379][/database], rediss:// with TLS, redis+unix:///path,
        /// redis+sentinel://host1,host2/service, redis+cluster://host1,host2, the last two also as rediss+….
        optional redis_url: RedisUrl,
        /// Other name of redis_url, from the Python original.
        optional redis_om_url: RedisUrl,
        /// Connections to Redis that commands share.
        optional redis_connections: Whole<1, 1_000> = "8",
        /// Longest time until a connection to Redis is made. Duration.
        optional redis_connect_timeout: Time<false> = "1s",
        /// Longest time until Redis answers a command. Duration.
        optional redis_timeout: Time<false> = "1500ms",
        /// Replicas of Redis that must have a write before it counts as done.
        optional redis_wait_replicas: Whole<0, 10> = "0",
        /// PEM file of the authorities that may sign the certificate of Redis; absent: those of this host.
        optional redis_ca_file: FilePath,
        /// PEM file of the certificate that is shown to Redis, with redis_key_file.
        optional redis_cert_file: FilePath,
        /// PEM file of the private key of redis_cert_file.
        optional redis_key_file: FilePath,
        /// Directory of the embedded store and of files made at the first start.
        optional data_dir: FilePath = "./data",
        /// Base of GitHub's REST API; on GitHub Enterprise Server https://<host>/api/v3.
        optional github_base_url: BaseUrl = "https://api.github.com",
        /// Personal access token; or a GitHub App by the three keys below, never both.
        optional github_token: Secret,
        /// Id of the GitHub App, a number. 0 means none.
        optional github_app_id: AppNumber,
        /// Private key of the GitHub App: PEM text, not a path.
        optional github_private_key: Secret,
        /// Id of the App's installation, a number. Absent or 0: found for each organization.
        optional github_installation_id: AppNumber,
        /// More credentials for GitHub, each with its name: groups choose one by github_credential.
        optional github_credentials: Vec<RawCredential> = "[]",
        /// Client id of the GitHub App; the Python original passes it on, nothing needs it.
        ignored github_client_id: String,
        /// Client secret of the GitHub App; the Python original passes it on, nothing needs it.
        ignored github_client_secret: Secret,
        /// Secret that signs the webhooks. Required unless allow_unsigned_webhooks is true.
        optional github_webhook_secret: Secret,
        /// Whether webhooks without signature are taken when there is no secret. Anyone who reaches the port can
        /// then ask for runners.
        optional allow_unsigned_webhooks: bool = "false",
        /// Key of the admin API with the role admin.
        optional api_key: Secret,
        /// More keys of the admin API, each with its name and role.
        optional api_keys: Vec<RawApiKey> = "[]",
        /// Whether /metrics is served without a key.
        optional metrics_public: bool = "true",
        /// Host names that requests may ask for; here a task of the reverse proxy.
        ignored allowed_hosts: Anything,
        /// Time to finish or persist what is in flight after SIGTERM. Duration; 0 stops at once.
        optional shutdown_grace: Time<true> = "30s",
        /// How long finished jobs and their timelines are kept. Duration.
        optional job_retention: Time<false> = "7d",
        /// Time between two health checks of a group. Duration.
        optional healthcheck_interval: Time<false> = "15m",
        /// Time between two reconciliations with GitHub, which find jobs whose webhooks never came. Duration.
        optional reconcile_interval: Time<false> = "5m",
        /// Repositories whose open jobs are looked for, as owner/name, besides those of groups and those that had jobs
        /// in the last week.
        optional reconcile_repositories: Vec<RepositoryName> = "[]",
        /// Default of time_to_start: how long a runner may take from the creation of its instance until it is
        /// online. Duration.
        optional timeout_runner: Time<false> = "15m",
        /// How long a runner may be online, busy or not. Duration.
        optional time_to_live: Time<false> = "12h",
        /// How long a runner above min may be idle. Duration; 0 deletes at the first sight.
        optional idle_timeout: Time<true> = "5m",
        /// The runner groups.
        optional runner_groups: Vec<RawGroup> = "[]",
    }
}

keys! {
    /// A key of the admin API.
    struct RawApiKey {
        /// Name of the key, unique, for logs.
        required name: ManagerName,
        /// What it may do: viewer reads, admin also changes.
        required role: Role,
        /// The key itself: visible ASCII characters.
        required key: Secret,
    }
}

keys! {
    /// A credential for GitHub: a token, or a GitHub App by app_id and private_key.
    struct RawCredential {
        /// Its name, unique, for groups and metrics; that of the top level is called default.
        required name: ManagerName,
        /// Personal access token.
        optional token: Secret,
        /// Id of the GitHub App, a number.
        optional app_id: AppNumber,
        /// Private key of the GitHub App: PEM text, not a path.
        optional private_key: Secret,
        /// Id of the App's installation, a number. Absent or 0: found for each organization.
        optional installation_id: AppNumber,
        /// Base of GitHub's REST API for this credential; default: github_base_url.
        optional base_url: BaseUrl,
    }
}

keys! {
    /// A runner group: runners of one kind, and the jobs they serve. Exactly one of organization, repository and
    /// enterprise says where they are registered.
    struct RawGroup {
        /// Name, unique. 1 to 64 letters, digits, '-', '_' or '.'; runners are called <name>-<suffix>.
        required name: GroupName,
        /// Login of the organization whose jobs are served.
        optional organization: Login,
        /// The one repository whose jobs are served, as owner/name.
        optional repository: RepositoryName,
        /// Slug of the enterprise whose jobs are served.
        optional enterprise: Login,
        /// Name of the credential in github_credentials that it uses; default: that of the top level.
        optional github_credential: ManagerName,
        /// Labels of the runners, beside self-hosted, os and arch which all have. A job is served when each of its
        /// labels is among them; case does not matter.
        required labels: Vec<Label>,
        /// Runners kept available beyond demand.
        optional min: Whole<0, 10_000> = "0",
        /// Runners that may exist at once, in whatever state. GitHub allows 10,000 in a group.
        optional max: Whole<1, 10_000> = "20",
        /// Among groups that serve a job the highest wins.
        optional priority: Priority = "0",
        /// Operating system: linux, windows (also win) or macos (also osx).
        optional os: OsName = "linux",
        /// Processor architecture: x64, arm64 or arm.
        optional arch: ArchName = "x64",
        /// How long a runner may take until it is online. Duration; default: timeout_runner.
        optional time_to_start: Time<false>,
        /// How long a runner may be online, busy or not. Duration; default: time_to_live above.
        optional time_to_live: Time<false>,
        /// How long a runner above min may be idle. Duration; default: idle_timeout above.
        optional idle_timeout: Time<true>,
        /// Whether jobs of public repositories are served.
        optional allows_public_repositories: bool = "true",
        /// Ids of the only repositories that are served; empty: all.
        optional selected_repository_ids: Vec<RepositoryId> = "[]",
        /// Whether only selected_workflows may use the group.
        optional restricted_to_workflows: bool = "false",
        /// Workflows that may use the group, like octo/app/.github/workflows/ci.yml@main.
        optional selected_workflows: Vec<String> = "[]",
        /// Script that the runner runs before each job, its path or text; empty: none.
        optional job_started_script: String = "''",
        /// Script that the runner runs after each job, its path or text; empty: none.
        optional job_completed_script: String = "''",
        /// Warm pool by the clock. Not supported by this version: only an empty list.
        optional schedules: Vec<RawSchedule> = "[]",
        /// What creates the runners' instances.
        required backend: RawBackend,
        /// Backends tried in this order when the one before makes no instance, or failed too often.
        optional fallback_backends: Vec<RawBackend> = "[]",
        /// Part of the Python original's model.
        ignored id: Anything,
        /// Part of the Python original's model.
        ignored manager: Anything,
        /// Part of the Python original's model.
        ignored default: Anything,
        /// Part of the Python original's model.
        ignored runners_url: Anything,
        /// Part of the Python original's model.
        ignored workflow_restrictions_read_only: Anything,
        /// Part of the Python original's model.
        ignored runners: Anything,
        /// Part of the Python original's model.
        ignored queued: Anything,
    }
}

keys! {
    /// A time in which min is another.
    struct RawSchedule {
        /// When it starts, as five cron fields.
        required cron: String,
        /// Time zone of cron, like Europe/Paris.
        optional timezone: String = "UTC",
        /// How long it lasts. Duration.
        required duration: Time<false>,
        /// Runners kept available meanwhile.
        required min: Whole<0, 10_000>,
    }
}

keys! {
    /// What creates instances. Its name says which keys config and instance_config have.
    struct BackendKeys {
        /// Which backend: base, process, …
        required name: String,
        /// How to reach the backend.
        optional config: Later = "{}",
        /// What its instances are like.
        optional instance_config: Later = "{}",
        /// Calls to the backend that may run at once, for this group.
        optional max_concurrency: Whole<1, 1_000> = "16",
        /// Longest time one creation may take. Duration.
        optional create_timeout: Time<false> = "5m",
        /// Longest time one deletion may take. Duration.
        optional delete_timeout: Time<false> = "5m",
        /// Failed creations in a row after which the backend is left alone.
        optional breaker_failures: Whole<1, 1_000> = "5",
        /// How long it is left alone the first time; doubles up to 5 minutes. Duration.
        optional breaker_wait: Time<false> = "15s",
        /// Part of the Python original's model.
        ignored manager: Anything,
        /// Part of the Python original's model.
        ignored runner_group: Anything,
    }
}

pub(super) use super::backend::RawBackend;
