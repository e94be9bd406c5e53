//! One request, one answer: deadline, bounded size, redirects, limits. Never repeats a request by itself.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use actors::port::{GitHubError, Observation, Observer};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, USER_AGENT};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use octocrab::{AuthState, OctoBody, Octocrab, OctocrabBuilder};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};

use super::answer::Answer;
use super::budget::Budget;
use super::{InvalidSettings, Settings};

/// Version of the REST API that is spoken.
const API_VERSION: &str = "2022-11-28";
/// Largest answer that is read, in bytes; a page of 100 runners has about 50 kB.
const BODY_MAX: usize = 32 << 20;
/// Redirects that are followed, as after a repository was renamed.
const REDIRECTS_MAX: usize = 3;
/// Unused connections are closed after this time, before GitHub does.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// What to ask.
pub(super) struct Call {
    /// The port's method, for metrics.
    pub(super) operation: &'static str,
    pub(super) method: Method,
    /// Path, below the base URL or with its path, and query.
    pub(super) path: String,
    /// JSON, empty for none.
    pub(super) body: String,
    /// Statuses that are answers beside 2xx; all others are errors.
    pub(super) answers: &'static [u16],
}

/// As whom.
pub(super) struct Authorization {
    /// `Bearer …`, marked as sensitive.
    pub(super) header: HeaderValue,
    /// Whose limits it counts against.
    pub(super) account: String,
}

/// The way to GitHub.
pub(super) struct Transport {
    octocrab: Octocrab,
    base: Uri,
    /// Path of the base URL without a slash at its end.
    base_path: String,
    user_agent: HeaderValue,
    request_timeout: Duration,
    budget: Budget,
    observer: Arc<dyn Observer>,
    /// Name of the credential in metrics.
    credential: &'static str,
}

impl Transport {
    pub(super) fn new(settings: &Settings, observer: Arc<dyn Observer>) -> Result<Self, InvalidSettings> {
        let base = base_url(&settings.base_url)?;
        let user_agent = HeaderValue::from_str(&settings.user_agent)
            .map_err(|_| InvalidSettings::UserAgent(settings.user_agent.clone()))?;
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(settings.connect_timeout));
        let tls = tls(base.scheme_str() == Some("https")).map_err(|error| InvalidSettings::Tls(error.to_string()))?;
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http);
        let client: HttpClient<_, OctoBody> = HttpClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .build(connector);
        let octocrab = OctocrabBuilder::new_empty().with_service(client).with_auth(AuthState::None).build();
        let Ok(octocrab) = octocrab;
        Ok(Self {
            octocrab,
            base_path: base.path().trim_end_matches('/').to_owned(),
            base,
            user_agent,
            request_timeout: settings.request_timeout,
            budget: Budget::new(settings.max_concurrency),
            observer,
            credential: settings.credential.name(),
        })
    }

    /// Sends `call` and reads the answer. Limits and statuses that are no answer to it are errors.
    pub(super) async fn call(&self, call: &Call, authorization: &Authorization) -> Result<Answer, GitHubError> {
        let permit = self.budget.admit(&authorization.account, call.operation).await?;
        let result = self.exchange(call, authorization).await;
        drop(permit);
        let result = result.and_then(|answer| self.judge(call, authorization, answer));
        let outcome = result.as_ref().map_or_else(GitHubError::kind, |_| "ok");
        self.observer.observe(&Observation::GitHubCall { operation: call.operation, outcome });
        tracing::debug!(operation = call.operation, outcome, "GitHub was called");
        result
    }

    fn judge(&self, call: &Call, authorization: &Authorization, answer: Answer) -> Result<Answer, GitHubError> {
        if let Some(left) = answer.left() {
            let (resource, remaining) = (left.resource, left.remaining);
            self.observer.observe(&Observation::RateLimit { credential: self.credential, resource, remaining });
        }
        if let Some(said) = answer.limited() {
            let text = answer.describe();
            let (account, resource) = (&authorization.account, answer.resource());
            let retry_after = self.budget.refused(account, call.operation, resource, said, &text);
            return Err(GitHubError::RateLimited { text, retry_after });
        }
        if answer.status.is_success() || call.answers.contains(&answer.status.as_u16()) {
            self.budget.answered(&authorization.account, call.operation);
            return Ok(answer);
        }
        Err(answer.error())
    }

    async fn exchange(&self, call: &Call, authorization: &Authorization) -> Result<Answer, GitHubError> {
        tokio::time::timeout(self.request_timeout, self.follow(call, authorization)).await.unwrap_or_else(|_| {
            let seconds = self.request_timeout.as_secs_f64();
            Err(GitHubError::Unknown(format!("{} {} had no full answer within {seconds} s", call.method, call.path)))
        })
    }

    /// The answer of the place that redirects lead to. GitHub wants the same request there (307, 308, and 301 and
    /// 302 as well). Only within the same server: nobody else gets the credential or is believed.
    async fn follow(&self, call: &Call, authorization: &Authorization) -> Result<Answer, GitHubError> {
        let mut path = call.path.clone();
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.send(call, &path, authorization).await?;
            if !matches!(answer.status.as_u16(), 301 | 302 | 307 | 308) {
                return Ok(answer);
            }
            let location = answer.text(LOCATION.as_str()).unwrap_or_default();
            let Some(next) = self.within_server(location) else {
                let text = format!("{} was redirected to {location:?}: is the base URL right?", answer.request);
                return Err(GitHubError::Invalid(text));
            };
            path = next;
        }
        Err(GitHubError::Unknown(format!(
            "{} {} was redirected more than {REDIRECTS_MAX} times",
            call.method, call.path
        )))
    }

    fn within_server(&self, location: &str) -> Option<String> {
        let uri: Uri = location.parse().ok()?;
        let same = uri.authority().is_none()
            || (uri.scheme() == self.base.scheme() && uri.authority() == self.base.authority());
        if same { uri.path_and_query().map(ToString::to_string) } else { None }
    }

    async fn send(&self, call: &Call, path: &str, authorization: &Authorization) -> Result<Answer, GitHubError> {
        let request = format!("{} {path}", call.method);
        let uri = self.uri(path).map_err(|error| GitHubError::Invalid(format!("{request}: {error}")))?;
        let mut builder = Request::builder()
            .method(call.method.clone())
            .uri(uri)
            .header(USER_AGENT, &self.user_agent)
            .header(ACCEPT, "application/vnd.github+json")
            .header("x-github-api-version", API_VERSION)
            .header(AUTHORIZATION, &authorization.header);
        let body = if call.body.is_empty() {
            OctoBody::empty()
        } else {
            builder = builder.header(CONTENT_TYPE, "application/json");
            OctoBody::from(call.body.clone())
        };
        let sent = builder.body(body).map_err(|error| GitHubError::Invalid(format!("{request}: {error}")))?;
        let unknown =
            |error: &(dyn Error + 'static)| GitHubError::Unknown(format!("{request} failed: {}", causes(error)));
        let (parts, body) = self.octocrab.send(sent).await.map_err(|error| unknown(&error))?.into_parts();
        let body = Limited::new(body, BODY_MAX).collect().await.map_err(|error| unknown(&*error))?.to_bytes();
        Ok(Answer { request, status: parts.status, headers: parts.headers, body })
    }

    fn uri(&self, path: &str) -> Result<Uri, http::Error> {
        let below = path.strip_prefix(&self.base_path).is_some_and(|rest| rest.starts_with('/'));
        let path = if below { path.to_owned() } else { format!("{}{path}", self.base_path) };
        let mut parts = self.base.clone().into_parts();
        parts.path_and_query = Some(path.parse()?);
        Ok(Uri::from_parts(parts)?)
    }
}

/// Checks a base URL: `http` or `https`, a host, perhaps a path.
fn base_url(text: &str) -> Result<Uri, InvalidSettings> {
    let invalid = |why| InvalidSettings::BaseUrl { value: text.chars().take(200).collect(), why };
    if text.contains('@') {
        let value = "(not shown: it may hold a password)".to_owned();
        return Err(InvalidSettings::BaseUrl { value, why: "it must not hold a user or password" });
    }
    let uri: Uri = text.trim().parse().map_err(|_| invalid("it is not a URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(invalid("it must start with https:// or http://"));
    }
    if uri.query().is_some() {
        return Err(invalid("it must not have a query"));
    }
    Ok(uri)
}

/// The system's certificate authorities for `https`; none are looked for where none are needed.
fn tls(needed: bool) -> Result<ClientConfig, Box<dyn Error>> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder =
        if needed { builder.with_native_roots()? } else { builder.with_root_certificates(RootCertStore::empty()) };
    Ok(builder.with_no_client_auth())
}

/// The causes of an error in words, outermost first, each once. An I/O error says its kind as well.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = next {
        let text = match cause.downcast_ref::<io::Error>() {
            Some(io) if io.get_ref().is_none() => format!("{io} ({})", io.kind()),
            _ => cause.to_string(),
        };
        next = cause.source();
        // An outer text that ends with its cause's says nothing that the two do not say together.
        if let Some(outer) = texts.last_mut()
            && let Some(start) = outer.strip_suffix(&cause.to_string())
        {
            *outer = start.trim_end_matches([':', ' ']).to_owned();
        }
        texts.push(text);
    }
    texts.retain(|text| !text.is_empty());
    texts.join(": ")
}
