//! What the simulated GitHub is told at its start.

use std::time::Duration;

use actors::model::secret::Secret;

/// How the simulated GitHub behaves. [`Settings::default`] is as quick and as kind as GitHub ever is.
#[derive(Debug)]
pub struct Settings {
    /// Login of the only organization. Default `octo-org`.
    pub organization: String,
    /// Slug of the enterprise above it. Default `octo`.
    pub enterprise: String,
    /// Repositories of the organization, at least one. Default `app` and `tools`, both private.
    pub repositories: Vec<Repository>,
    /// The personal access token that is let in. Default: a random one.
    pub token: Secret,
    /// Id of the only GitHub App installation. Default 1.
    pub installation: u64,
    /// Key of the webhooks' signatures. Default: a random one.
    pub webhook_secret: Secret,
    /// Where webhooks go; without one they are recorded as failed. Default none; can be set later.
    pub webhook_url: Option<String>,
    /// How long a receiver may take to answer. Default 10 s, as at GitHub.
    pub webhook_timeout: Duration,
    /// Webhooks that are under way at once, at least 1. Default 64.
    pub webhook_concurrency: usize,
    /// How long `busy` stays false after a job was taken: DELETE succeeds on a working runner. Default 0.
    pub busy_lag: Duration,
    /// How long a runner's question for a job is held open. Default 50 s, as at GitHub.
    pub poll_timeout: Duration,
    /// When a job goes back to the queue that its runner never confirmed. Default 60 s, as at GitHub.
    pub requeue_after: Duration,
    /// How long a runner counts as online after its connection ended. Default 5 s.
    pub offline_after: Duration,
    /// How long a runner may be silent while it runs a job, before the job fails and it is removed. Default 60 s.
    pub lost_after: Duration,
    /// Requests a credential may make in a window; beyond it they are answered 403. Default 15,000.
    pub rate_limit: u64,
    /// Just-in-time configs a credential may ask for in a window, when they are a resource of their own,
    /// `actions_runner_registration`. Default none: they count like everything else.
    pub registration_limit: Option<u64>,
    /// How long a limit's window is. Default an hour, as at GitHub.
    pub rate_window: Duration,
    /// Whose the webhook is. Default the organization's.
    pub hook_owner: HookOwner,
    /// How far its clock is ahead of this machine's, in seconds; negative: behind. Default 0.
    pub clock_ahead: i64,
    /// How many finished jobs, webhook deliveries and requests are remembered, each. Default 20,000.
    pub history: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            organization: "octo-org".to_owned(),
            enterprise: "octo".to_owned(),
            repositories: vec![Repository::private(101, "app"), Repository::private(102, "tools")],
            token: Secret::new(format!("ghp_{}", random_hex(18))),
            installation: 1,
            webhook_secret: Secret::new(random_hex(20)),
            webhook_url: None,
            webhook_timeout: Duration::from_secs(10),
            webhook_concurrency: 64,
            busy_lag: Duration::ZERO,
            poll_timeout: Duration::from_secs(50),
            requeue_after: Duration::from_secs(60),
            offline_after: Duration::from_secs(5),
            lost_after: Duration::from_secs(60),
            rate_limit: 15_000,
            registration_limit: None,
            rate_window: Duration::from_secs(3600),
            hook_owner: HookOwner::Organization,
            clock_ahead: 0,
            history: 20_000,
        }
    }
}

/// Whose the only webhook is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookOwner {
    /// The GitHub App's own.
    App,
    /// One of the organization.
    Organization,
    /// One of the repository of that name: it tells of no other.
    Repository(String),
}

/// A repository of the organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// GitHub's id.
    pub id: u64,
    /// Name without the owner.
    pub name: String,
    /// Whether it is private.
    pub private: bool,
}

impl Repository {
    /// A private repository.
    #[must_use]
    pub fn private(id: u64, name: &str) -> Self {
        Self { id, name: name.to_owned(), private: true }
    }
}

/// `bytes` random bytes, as lower-case hexadecimal digits.
pub(super) fn random_hex(bytes: usize) -> String {
    (0..bytes).map(|_| format!("{:02x}", rand::random::<u8>())).collect()
}

/// A random GUID, version 4.
pub(super) fn random_guid() -> String {
    let bits = (rand::random::<u128>() & !(0xf << 76) & !(0b11 << 62)) | (4 << 76) | (0b10 << 62);
    let digits = format!("{bits:032x}");
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}
