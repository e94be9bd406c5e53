//! The credential: a token, or a GitHub App and the tokens of its installations.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actors::model::secret::Secret;
use actors::model::settings::Scope;
use actors::port::GitHubError;
use http::{HeaderValue, Method};
use octocrab::auth::{EncodingKey, create_jwt};
use octocrab::models::AppId;
use tokio::time::Instant;

use super::single_flight::SingleFlight;
use super::transport::{Authorization, Call, Transport};
use super::wire::{self, segment};
use super::{Credential, InvalidSettings};

/// The port has no method for it: what metrics call getting a token.
const AUTHENTICATE: &str = "authenticate";
/// An installation's token is renewed this long before it ends.
const RENEW_BEFORE: Duration = Duration::from_secs(300);

/// As whom GitHub is asked.
pub(super) enum Auth {
    /// A personal access token, for everything.
    Token(HeaderValue),
    /// A token per installation.
    App(App),
}

/// A GitHub App.
pub(super) struct App {
    id: AppId,
    key: EncodingKey,
    /// The only installation, if it is configured; else it is looked up for each account.
    installation: Option<u64>,
    tokens: Mutex<HashMap<String, Arc<SingleFlight<Token>>>>,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    renew_at: Instant,
}

impl Auth {
    pub(super) fn new(credential: &Credential) -> Result<Self, InvalidSettings> {
        match credential {
            Credential::Token(token) => bearer(token.expose().trim()).map(Self::Token).ok_or(InvalidSettings::Token),
            Credential::App { app_id, private_key, installation_id } => {
                // Environment variables often carry line ends as two characters.
                let pem = Secret::new(private_key.expose().replace("\\n", "\n"));
                let key = EncodingKey::from_rsa_pem(pem.expose().trim().as_bytes());
                let key = key.map_err(|_| InvalidSettings::PrivateKey)?;
                let (id, installation) = (AppId(*app_id), *installation_id);
                Ok(Self::App(App { id, key, installation, tokens: Mutex::default() }))
            }
        }
    }

    /// What to send for calls about `scope`.
    pub(super) async fn authorize(&self, transport: &Transport, scope: &Scope) -> Result<Authorization, GitHubError> {
        match self {
            Self::Token(header) => Ok(Authorization { header: header.clone(), account: String::new() }),
            Self::App(app) => {
                let account = app.account(scope);
                let fresh = |token: &Token| token.renew_at > Instant::now();
                let token = app.tokens(&account).get(fresh, app.fetch(transport, scope)).await?;
                Ok(Authorization { header: token.header, account })
            }
        }
    }

    /// GitHub refused `refused`: whether the next try gets another token.
    pub(super) async fn renew(&self, refused: &Authorization) -> bool {
        let Self::App(app) = self else { return false };
        app.tokens(&refused.account).forget(|token| token.header == refused.header).await;
        true
    }
}

impl App {
    /// Whose installation serves `scope`.
    fn account(&self, scope: &Scope) -> String {
        match (self.installation, scope) {
            (Some(_), _) => String::new(),
            (None, Scope::Organization(owner) | Scope::Repository { owner, .. }) => owner.to_ascii_lowercase(),
            (None, Scope::Enterprise(slug)) => format!("enterprise {}", slug.to_ascii_lowercase()),
        }
    }

    fn tokens(&self, account: &str) -> Arc<SingleFlight<Token>> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tokens.entry(account.to_owned()).or_default())
    }

    async fn fetch(&self, transport: &Transport, scope: &Scope) -> Result<Token, GitHubError> {
        let installation = match self.installation {
            Some(installation) => installation,
            None => self.find_installation(transport, scope).await?,
        };
        let path = format!("/app/installations/{installation}/access_tokens");
        let answer = self.call(transport, Method::POST, path).await?;
        let token: wire::InstallationToken = answer.json()?;
        let header = bearer(token.token.expose());
        let header = header.ok_or_else(|| GitHubError::Unknown(format!("{} with no token", answer.describe())))?;
        let lifetime = token.expires_at.duration_since(answer.date());
        let lifetime = Duration::try_from(lifetime).unwrap_or_default();
        Ok(Token { header, renew_at: Instant::now() + lifetime.saturating_sub(RENEW_BEFORE) })
    }

    async fn find_installation(&self, transport: &Transport, scope: &Scope) -> Result<u64, GitHubError> {
        let path = match scope {
            Scope::Organization(login) => format!("/orgs/{}/installation", segment(login)),
            Scope::Repository { owner, name } => format!("/repos/{}/{}/installation", segment(owner), segment(name)),
            Scope::Enterprise(_) => {
                let text = format!("the App's installation for {scope} cannot be looked up: configure its id");
                return Err(GitHubError::Invalid(text));
            }
        };
        let installation: wire::Installation = self.call(transport, Method::GET, path).await?.json()?;
        Ok(installation.id)
    }

    async fn call(
        &self,
        transport: &Transport,
        method: Method,
        path: String,
    ) -> Result<super::answer::Answer, GitHubError> {
        let jwt = create_jwt(self.id, &self.key).ok().and_then(|jwt| bearer(&jwt));
        let header = jwt.ok_or_else(|| GitHubError::Unauthorized("the App's key cannot sign".to_owned()))?;
        let authorization = Authorization { header, account: "app".to_owned() };
        let call = Call { operation: AUTHENTICATE, method, path, body: String::new(), answers: &[] };
        transport.call(&call, &authorization).await
    }
}

/// The value of an `Authorization` header that no log shows; none when `token` is empty or cannot be in a header.
fn bearer(token: &str) -> Option<HeaderValue> {
    if token.is_empty() {
        return None;
    }
    let mut header = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}
