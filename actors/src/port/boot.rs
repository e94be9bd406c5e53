//! What an instance fetches and reports while it boots, by a token of its own.

use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;

use crate::id::{GroupName, RunnerName};
use crate::model::secret::Secret;
use crate::port::backend::InstanceSpec;

/// Gives each instance a token for its way from creation to online, and what it needs in exchange for it.
///
/// A token is good until its runner is online or gone, until its time is over, or until it is revoked. What is kept
/// for it is sealed under the token itself: whoever has the store alone can read none of it.
#[async_trait]
pub trait Boot: Send + Sync + 'static {
    /// Makes a token for the instance of `spec.runner`, good for [`Machine::online_within`] from now. Earlier tokens of
    /// that runner stay good.
    ///
    /// [`Machine::online_within`]: crate::port::backend::Machine::online_within
    async fn grant(&self, spec: &InstanceSpec) -> Result<Grant, BootError>;

    /// Ends every token of a runner. Success when there is none.
    async fn revoke(&self, runner: &RunnerName) -> Result<(), BootError>;

    /// What belongs to the bearer of a token.
    async fn open(&self, token: &str) -> Result<Booting, BootError>;

    /// The script that makes a bare machine the runner that the token was made for: the built-in one, which fetches the
    /// just-in-time config by the token, or the operator's own, which may hold both.
    async fn startup_script(&self, token: &str) -> Result<String, BootError>;
}

/// A token, and where it counts.
#[derive(Debug)]
pub struct Grant {
    /// 64 hexadecimal digits, for `Authorization: Bearer`.
    pub token: Secret,
    /// Base of the addresses that the instance fetches from, without a slash at the end.
    pub metadata_url: String,
    /// Base of the addresses that the instance reports to, without a slash at the end.
    pub callback_url: String,
}

/// An instance on its way, and what was kept for it.
#[derive(Debug)]
pub struct Booting {
    /// Whose instance it is.
    pub runner: RunnerName,
    /// The runner's group.
    pub group: GroupName,
    /// The runner's environment, as in [`InstanceSpec::env`].
    pub env: Vec<(String, String)>,
    /// Where it is registered, as in [`Machine::scope_path`](crate::port::backend::Machine::scope_path).
    pub scope_path: String,
    /// Its just-in-time config, base64 as GitHub gave it.
    pub jit_config: Secret,
    /// How long the token is still good.
    pub left: Duration,
}

impl Booting {
    /// A variable of the runner's environment; empty when it has none of that name.
    #[must_use]
    pub fn variable(&self, name: &str) -> &str {
        self.env.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// Why there is no token, or nothing for it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BootError {
    /// Unknown, revoked, over its time, or its runner is online or gone. Which of them is nobody's business.
    #[error("the token is not valid (any more)")]
    Refused,
    /// It cannot be told now.
    #[error("unavailable: {0}")]
    Unavailable(String),
}
