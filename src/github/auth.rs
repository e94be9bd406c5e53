//! The credential: a token, or a GitHub App and the tokens of its installations.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actors::model::secret::Secret;
use actors::model::settings::Scope;
use actors::port::GitHubError;
use http::{HeaderValue, Method};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use tokio::time::Instant;

use super::answer::Answer;
use super::single_flight::SingleFlight;
use super::transport::{Authorization, Call, Transport};
use super::wire::{self, segment};
use super::{Credential, InvalidSettings};

/// The port has no method for it: what metrics call getting a token.
const AUTHENTICATE: &str = "authenticate";
/// Whose limits an App's own calls count against. No account is called so.
const APP_ITSELF: &str = "(app)";
/// An installation's token is renewed this long before it ends.
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// When a token that could not be renewed, and has not ended yet, is renewed the next time.
const RENEW_AGAIN: Duration = Duration::from_secs(30);
/// A JWT is dated back this far, in seconds: clocks differ a little.
const DATED_BACK: i64 = 60;
/// A JWT ends after this time, in seconds. GitHub takes 10 minutes at most, from when it was issued.
const JWT_LIFETIME: i64 = 540;
/// Clocks that differ by more than this, in seconds, are corrected for.
const SKEW_MIN: i64 = 5;

/// As whom GitHub is asked.
pub(super) enum Auth {
    /// A personal access token, for everything.
    Token(HeaderValue),
    /// A token per installation.
    App(App),
}

/// For whom a call is.
#[derive(Clone, Copy)]
pub(super) enum Whom<'a> {
    /// Who may see a scope.
    Scope(&'a Scope),
    /// The App itself.
    App,
}

/// A GitHub App.
pub(super) struct App {
    id: u64,
    key: EncodingKey,
    /// The only installation, if it is configured; else it is looked up for each account.
    installation: Option<u64>,
    tokens: Mutex<HashMap<String, Arc<SingleFlight<Token>>>>,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    renew_at: Instant,
    ends_at: Instant,
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
                Ok(Self::App(App { id: *app_id, key, installation: *installation_id, tokens: Mutex::default() }))
            }
        }
    }

    /// Whether there is an App that can ask for itself.
    pub(super) fn is_app(&self) -> bool {
        matches!(self, Self::App(_))
    }

    /// What to send for calls for `whom`.
    pub(super) async fn authorize(&self, transport: &Transport, whom: Whom<'_>) -> Result<Authorization, GitHubError> {
        match (self, whom) {
            (Self::Token(header), _) => Ok(Authorization { header: header.clone(), account: String::new() }),
            (Self::App(app), Whom::App) => app.sign(transport.skew()),
            (Self::App(app), Whom::Scope(scope)) => {
                let account = app.account(scope);
                let fresh = |token: &Token| token.renew_at > Instant::now();
                let fetch = |kept| app.fetch(transport, scope, kept);
                let token = app.tokens(&account).get(fresh, fetch).await?;
                Ok(Authorization { header: token.header, account })
            }
        }
    }

    /// GitHub refused `refused` and said `text`: whether the next try gets another token.
    pub(super) async fn renew(&self, refused: &Authorization, text: &str) -> bool {
        match self {
            Self::Token(_) => false,
            Self::App(_) if refused.account == APP_ITSELF => is_about_time(text),
            Self::App(app) => {
                app.tokens(&refused.account).forget(|token| token.header == refused.header).await;
                true
            }
        }
    }

    /// Says what an operator can do about `error`, which a call for `whom` met.
    pub(super) fn explain(&self, error: GitHubError, whom: Whom<'_>, skew: i64) -> GitHubError {
        match (self, error, whom) {
            (Self::Token(_), GitHubError::Unauthorized(text), _) => {
                GitHubError::Unauthorized(format!("the token is wrong, has expired or was revoked: {text}"))
            }
            (Self::App(app), error, Whom::App) => app.explain_own(error, skew),
            (Self::App(app), GitHubError::Forbidden(text), Whom::Scope(scope)) => app.explain_forbidden(text, scope),
            (_, error, _) => error,
        }
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

    /// A new token; the `kept` one as long as it lasts while GitHub cannot give a new one.
    async fn fetch(&self, transport: &Transport, scope: &Scope, kept: Option<Token>) -> Result<Token, GitHubError> {
        match (self.mint(transport, scope).await, kept) {
            (Err(GitHubError::Unknown(_) | GitHubError::RateLimited { .. }), Some(kept))
                if kept.ends_at > Instant::now() =>
            {
                Ok(Token { renew_at: Instant::now() + RENEW_AGAIN, ..kept })
            }
            (result, _) => result,
        }
    }

    async fn mint(&self, transport: &Transport, scope: &Scope) -> Result<Token, GitHubError> {
        let installation = match self.installation {
            Some(installation) => installation,
            None => self.find_installation(transport, scope).await?,
        };
        let path = format!("/app/installations/{installation}/access_tokens");
        let answer = self.call(transport, Method::POST, path).await.map_err(|error| match error {
            GitHubError::Forbidden(text) => self.explain_forbidden(text, scope),
            GitHubError::NotFound(text) => {
                let id = self.id;
                GitHubError::NotFound(format!("GitHub App {id} has no installation {installation} any more: {text}"))
            }
            error => error,
        })?;
        let token: wire::InstallationToken = answer.json()?;
        let header = bearer(token.token.expose());
        let header = header.ok_or_else(|| GitHubError::Unknown(format!("{} with no token", answer.describe())))?;
        let lifetime = token.expires_at.duration_since(answer.date());
        let lifetime = Duration::try_from(lifetime).unwrap_or_default();
        let now = Instant::now();
        Ok(Token { header, renew_at: now + lifetime.saturating_sub(RENEW_BEFORE), ends_at: now + lifetime })
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
        let answer = self.call(transport, Method::GET, path).await.map_err(|error| match error {
            GitHubError::NotFound(text) => {
                GitHubError::NotFound(format!("GitHub App {} is not installed for {scope}: {text}", self.id))
            }
            error => error,
        })?;
        Ok(answer.json::<wire::Installation>()?.id)
    }

    /// Calls as the App itself; once more when the clocks differ.
    async fn call(&self, transport: &Transport, method: Method, path: String) -> Result<Answer, GitHubError> {
        let call = Call { operation: AUTHENTICATE, method, path, body: String::new(), answers: &[], kept: false };
        let result = match transport.call(&call, &self.sign(transport.skew())?).await {
            Err(GitHubError::Unauthorized(text)) if is_about_time(&text) => {
                // The refusal told GitHub's time.
                transport.call(&call, &self.sign(transport.skew())?).await
            }
            result => result,
        };
        result.map_err(|error| self.explain_own(error, transport.skew()))
    }

    /// A JWT that is good for a few minutes, by GitHub's clock, which is `skew` seconds ahead of ours.
    fn sign(&self, skew: i64) -> Result<Authorization, GitHubError> {
        let skew = if skew.abs() > SKEW_MIN { skew } else { 0 };
        let now = Timestamp::now().as_second() + skew;
        let claims = json!({ "iss": self.id, "iat": now - DATED_BACK, "exp": now - DATED_BACK + JWT_LIFETIME });
        let jwt = jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &self.key);
        let header = jwt.ok().and_then(|jwt| bearer(&jwt));
        let header = header.ok_or_else(|| {
            GitHubError::Unauthorized(format!("the private key of GitHub App {} cannot sign", self.id))
        })?;
        Ok(Authorization { header, account: APP_ITSELF.to_owned() })
    }

    /// What an operator can do about an error of the App's own calls.
    fn explain_own(&self, error: GitHubError, skew: i64) -> GitHubError {
        let id = self.id;
        match error {
            GitHubError::Unauthorized(text) if is_about_time(&text) => GitHubError::Unauthorized(format!(
                "GitHub App {id} signs in with a wrong time: GitHub's clock is {skew} s ahead of this machine's; set \
                 the clock: {text}"
            )),
            GitHubError::Unauthorized(text) => GitHubError::Unauthorized(format!(
                "the private key does not belong to GitHub App {id}: check the App's id, or make a new key in the \
                 App's settings: {text}"
            )),
            GitHubError::NotFound(text) if text.to_ascii_lowercase().contains("integration not found") => {
                GitHubError::Unauthorized(format!("there is no GitHub App {id} at this address: {text}"))
            }
            error => error,
        }
    }

    fn explain_forbidden(&self, text: String, scope: &Scope) -> GitHubError {
        if !text.to_ascii_lowercase().contains("suspended") {
            return GitHubError::Forbidden(text);
        }
        let id = self.id;
        GitHubError::Forbidden(format!(
            "the installation of GitHub App {id} for {scope} is suspended: who suspended it, an owner of the account \
             or of the App, can unsuspend it in their settings: {text}"
        ))
    }
}

/// Whether a refusal says that a JWT's times are wrong.
fn is_about_time(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["expiration time", "issued at", "('exp')", "('iat')"].iter().any(|words| text.contains(words))
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
