//! Tokens of instances on their way: what is kept for each is sealed under the token itself.
//!
//! The store gets the SHA-256 of the token as the key, and the config encrypted (AES-256-GCM) under a key that is derived
//! from the token (HKDF-SHA-256). The token itself is kept nowhere. So any replica and a restarted manager can serve the
//! instance, and whoever has the store alone has nothing.

use std::sync::Arc;
use std::time::Duration;

use actors::id::{GroupName, RunnerName};
use actors::model::runner::RunnerState;
use actors::model::secret::Secret;
use actors::port::backend::InstanceSpec;
use actors::port::boot::{Boot, BootError, Booting, Grant};
use actors::port::store::Sealed;
use actors::port::{Clock, Store, StoreError};
use async_trait::async_trait;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::startup::{self, Values};

/// Bytes of a token.
const TOKEN_BYTES: usize = 32;
/// Most bytes of what is sealed for one instance.
const SEALED_MAX: usize = 256 << 10;
/// What the key is for; another purpose or form gets another one.
const PURPOSE: &[u8] = b"runner-manager instance boot 1";

/// Tokens over a store.
#[derive(Clone)]
pub struct Tokens {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    metadata_url: String,
    callback_url: String,
    script: Option<Arc<str>>,
}

/// What is sealed.
#[derive(Serialize, Deserialize)]
struct Kept {
    env: Vec<(String, String)>,
    scope_path: String,
    jit_config: String,
    /// The operator's startup script; none: the built-in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    script: Option<Arc<str>>,
}

impl Tokens {
    /// Tokens for instances that reach this service at `external_url`, which has no slash at its end.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, external_url: &str) -> Self {
        Self {
            store,
            clock,
            metadata_url: format!("{external_url}/instances/v1/metadata"),
            callback_url: format!("{external_url}/instances/v1/callback"),
            script: None,
        }
    }

    /// These tokens, for instances that are to start with a template of the operator's, which [`startup::check`] accepts.
    /// It stays that of the instance when the configuration changes meanwhile.
    #[must_use]
    pub fn with_script(self, script: Arc<str>) -> Self {
        Self { script: Some(script), ..self }
    }
}

#[async_trait]
impl Boot for Tokens {
    async fn grant(&self, spec: &InstanceSpec) -> Result<Grant, BootError> {
        let token: [u8; TOKEN_BYTES] = rand::random();
        let token = Secret::new(hex(&token));
        let kept = Kept {
            env: spec.env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            scope_path: spec.machine.scope_path.clone(),
            jit_config: spec.jit_config.expose().to_owned(),
            script: self.script.clone(),
        };
        let body = seal(token.expose(), &spec.runner, &kept)?;
        let now = self.clock.now();
        let sealed = Sealed {
            key: key_of(token.expose()),
            runner: spec.runner.clone(),
            group: spec.owner.group.clone(),
            body,
            until: now.checked_add(spec.machine.online_within).unwrap_or(now),
        };
        self.store.keep_sealed(sealed).await.map_err(|error| unavailable(&error))?;
        Ok(Grant { token, metadata_url: self.metadata_url.clone(), callback_url: self.callback_url.clone() })
    }

    async fn revoke(&self, runner: &RunnerName) -> Result<(), BootError> {
        self.store.forget_sealed(runner).await.map_err(|error| unavailable(&error))
    }

    async fn open(&self, token: &str) -> Result<Booting, BootError> {
        self.unsealed(token).await.map(|(booting, _)| booting)
    }

    async fn startup_script(&self, token: &str) -> Result<String, BootError> {
        let (booting, script) = self.unsealed(token).await?;
        let values = Values {
            env: booting.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            // The built-in one fetches it by itself.
            jit_config: if script.is_some() { booting.jit_config.expose() } else { "" },
            metadata_url: &self.metadata_url,
            callback_url: &self.callback_url,
            token,
        };
        startup::render(script.as_deref().unwrap_or(startup::BUILT_IN), &values)
            .map_err(|error| BootError::Unavailable(error.to_string()))
    }
}

impl Tokens {
    /// What belongs to the bearer of a token, and the operator's script for it.
    async fn unsealed(&self, token: &str) -> Result<(Booting, Option<Arc<str>>), BootError> {
        if token.len() != 2 * TOKEN_BYTES || !token.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(BootError::Refused);
        }
        let found = self.store.sealed(&key_of(token)).await.map_err(|error| unavailable(&error))?;
        let Sealed { runner, group, body, until, .. } = found.ok_or(BootError::Refused)?;
        let left = Duration::try_from(until.duration_since(self.clock.now())).unwrap_or_default();
        if left.is_zero() || !self.is_awaited(&runner, &group).await? {
            return Err(BootError::Refused);
        }
        let Kept { env, scope_path, jit_config, script } = unseal(token, &runner, body)?;
        Ok((Booting { runner, group, env, scope_path, jit_config: Secret::new(jit_config), left }, script))
    }

    /// Whether a runner is still on its way, by its last saved state.
    async fn is_awaited(&self, runner: &RunnerName, group: &GroupName) -> Result<bool, BootError> {
        let runner = self.store.runner(runner).await.map_err(|error| unavailable(&error))?;
        Ok(runner.is_some_and(|runner| {
            let on_its_way = matches!(
                runner.state,
                RunnerState::Requested | RunnerState::Registering | RunnerState::Provisioning | RunnerState::Starting
            );
            on_its_way && runner.online_at.is_none() && runner.group == *group
        }))
    }
}

fn unavailable(error: &StoreError) -> BootError {
    BootError::Unavailable(error.to_string())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(u32::from(digit), 16));
        }
    }
    text
}

/// What the store knows a token by.
fn key_of(token: &str) -> String {
    hex(&Sha256::digest(token))
}

/// The key that a token's entry is encrypted under.
fn cipher(token: &str) -> Result<RandomizedNonceKey, BootError> {
    let broken = |_| BootError::Unavailable("no key can be derived".to_owned());
    let derived = Salt::new(HKDF_SHA256, &[]).extract(token.as_bytes());
    let mut key = [0; 32];
    derived.expand(&[PURPOSE], HKDF_SHA256).and_then(|okm| okm.fill(&mut key)).map_err(broken)?;
    RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(broken)
}

/// Nonce, ciphertext and tag.
fn seal(token: &str, runner: &RunnerName, kept: &Kept) -> Result<Vec<u8>, BootError> {
    let broken = |why: &str| BootError::Unavailable(format!("the config of {runner} cannot be sealed: {why}"));
    let mut text = serde_json::to_vec(kept).map_err(|error| broken(&error.to_string()))?;
    let nonce = cipher(token)?
        .seal_in_place_append_tag(Aad::from(runner.as_str()), &mut text)
        .map_err(|_| broken("encryption failed"))?;
    if text.len() + NONCE_LEN > SEALED_MAX {
        return Err(broken("it is too long"));
    }
    let mut body = nonce.as_ref().to_vec();
    body.extend(text);
    Ok(body)
}

/// What does not open was not sealed for this token and runner.
fn unseal(token: &str, runner: &RunnerName, mut body: Vec<u8>) -> Result<Kept, BootError> {
    let Some((nonce, text)) = body.split_at_mut_checked(NONCE_LEN) else { return Err(BootError::Refused) };
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| BootError::Refused)?;
    let text = cipher(token)?.open_in_place(nonce, Aad::from(runner.as_str()), text).map_err(|_| BootError::Refused)?;
    serde_json::from_slice(text).map_err(|_| BootError::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_its_token_for_its_runner_only_and_shows_nothing() {
        let runner = |name: &str| RunnerName::new(name).unwrap();
        let kept = || Kept {
            env: vec![("RUNNER_NAME".to_owned(), "octo-1".to_owned())],
            scope_path: "octo-org".to_owned(),
            jit_config: "top-secret-config".to_owned(),
            script: Some("#!/bin/sh\nsecret".into()),
        };
        let body = seal("token", &runner("octo-1"), &kept()).unwrap();
        assert!(!body.windows(6).any(|window| window == b"secret" || window == b"RUNNER"));
        assert_ne!(body, seal("token", &runner("octo-1"), &kept()).unwrap());
        let opened = unseal("token", &runner("octo-1"), body.clone()).unwrap();
        assert_eq!(opened.jit_config, "top-secret-config");
        assert_eq!(opened.script.as_deref(), Some("#!/bin/sh\nsecret"));
        let refused =
            |token, name: &str, body| assert_eq!(unseal(token, &runner(name), body).err(), Some(BootError::Refused));
        refused("other", "octo-1", body.clone());
        refused("token", "octo-2", body.clone());
        for place in [0, NONCE_LEN, body.len() - 1] {
            let mut altered = body.clone();
            altered[place] ^= 1;
            refused("token", "octo-1", altered);
        }
        refused("token", "octo-1", vec![0; 5]);
    }
}
