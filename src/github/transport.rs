//! One request, one answer: deadline, bounded size, redirects, limits, pages that did not change. Only reading is
//! repeated.

use std::borrow::Cow;
use std::collections::HashSet;
use std::error::Error;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actors::port::github::Budget;
use actors::port::{GitHubError, Observation, Observer};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, IF_NONE_MATCH, LOCATION, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use jiff::Timestamp;
use octocrab::{OctoBody, Octocrab};
use tokio::time::Instant;

use super::answer::Answer;
use super::connect::{self, causes};
use super::gateway::Gateway;
use super::pages::{Kept, Pages};
use super::{InvalidSettings, Settings};

/// Version of the REST API that is spoken.
const API_VERSION: &str = "2022-11-28";
/// Largest answer that is read, in bytes; a page of 100 runners has about 50 kB.
const BODY_MAX: usize = 32 << 20;
/// Redirects that are followed, as after a repository was renamed.
const REDIRECTS_MAX: usize = 3;
/// Places that are told of when they moved.
const MOVED_MAX: usize = 1000;
/// Most characters of an address that are shown.
const SHOWN_MAX: usize = 300;
/// How often reading is repeated after it failed.
const RETRIES: u32 = 2;

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
    /// Whether the answer is kept, and asked for again only if it changed.
    pub(super) kept: bool,
}

/// A call that failed.
struct Failure {
    error: GitHubError,
    /// Whether the same call may succeed in a moment.
    passing: bool,
}

impl Failure {
    fn lasting(error: GitHubError) -> Self {
        Self { error, passing: false }
    }

    fn passing(error: GitHubError) -> Self {
        Self { error, passing: true }
    }
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
    retry_pause: Duration,
    gateway: Gateway,
    pages: Pages,
    /// GitHub's clock minus ours, in seconds, when it last answered.
    skew: AtomicI64,
    /// Places that were told to have moved.
    moved: Mutex<HashSet<String>>,
    observer: Arc<dyn Observer>,
    /// Name of the credential in metrics.
    credential: String,
}

impl Transport {
    pub(super) fn new(settings: &Settings, observer: Arc<dyn Observer>) -> Result<Self, InvalidSettings> {
        let base = connect::base_url(&settings.base_url)?;
        let user_agent = HeaderValue::from_str(&settings.user_agent)
            .map_err(|_| InvalidSettings::UserAgent(settings.user_agent.clone()))?;
        Ok(Self {
            octocrab: connect::client(&base, settings.connect_timeout)?,
            base_path: base.path().trim_end_matches('/').to_owned(),
            base,
            user_agent,
            request_timeout: settings.request_timeout,
            retry_pause: settings.retry_pause,
            gateway: Gateway::new(settings.max_concurrency),
            pages: Pages::default(),
            skew: AtomicI64::new(0),
            moved: Mutex::default(),
            observer,
            credential: settings.name.clone(),
        })
    }

    /// What may still be asked.
    pub(super) fn budget(&self) -> Budget {
        self.gateway.view(&self.credential)
    }

    /// GitHub's clock minus ours, in seconds, when it last answered; 0 before.
    pub(super) fn skew(&self) -> i64 {
        self.skew.load(Ordering::Relaxed)
    }

    /// Sends `call` and reads the answer. Limits and statuses that are no answer to it are errors. Reading is repeated
    /// after a failure that may pass, within twice the time that one request may take. Nothing else is: it may have
    /// been done, and whoever asked for it knows best what follows.
    pub(super) async fn call(&self, call: &Call, authorization: &Authorization) -> Result<Answer, GitHubError> {
        let begun = Instant::now();
        let mut retries = 0;
        loop {
            let left = (self.request_timeout * 2).saturating_sub(begun.elapsed());
            let timeout = if retries == 0 { self.request_timeout } else { self.request_timeout.min(left) };
            let failure = match self.once(call, authorization, timeout).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let pause = self.retry_pause.mul_f64(f64::from(1 << retries) * (0.5 + rand::random::<f64>() / 2.0));
            let left = (self.request_timeout * 2).saturating_sub(begun.elapsed());
            if !failure.passing || call.method != Method::GET || retries >= RETRIES || pause >= left {
                return Err(failure.error);
            }
            retries += 1;
            tokio::time::sleep(pause).await;
        }
    }

    async fn once(&self, call: &Call, authorization: &Authorization, timeout: Duration) -> Result<Answer, Failure> {
        let permit = self.gateway.admit(&authorization.account, call.operation).await.map_err(Failure::lasting)?;
        let result = self.exchange(call, authorization, timeout).await;
        let result = result.and_then(|answer| self.judge(call, authorization, answer));
        // Only now: whoever takes the place must know of a limit that was just met.
        drop(permit);
        let outcome = result.as_ref().map_or_else(|failure| failure.error.kind(), |_| "ok");
        self.observer.observe(&Observation::GitHubCall { operation: call.operation, outcome });
        tracing::debug!(operation = call.operation, outcome, "GitHub was called");
        result
    }

    fn judge(&self, call: &Call, authorization: &Authorization, answer: Answer) -> Result<Answer, Failure> {
        let account = &authorization.account;
        if let Some(now) = answer.sent_at() {
            self.skew.store(now.as_second() - Timestamp::now().as_second(), Ordering::Relaxed);
        }
        if let Some(left) = answer.left() {
            let (credential, resource, remaining) = (self.credential.as_str(), left.resource, left.remaining);
            self.observer.observe(&Observation::RateLimit { credential, resource, remaining });
        }
        self.gateway.note(account, call.operation, &answer);
        if let Some(refusal) = answer.limited() {
            let text = answer.describe();
            let retry_after = self.gateway.refused(account, call.operation, answer.resource(), refusal, &text);
            return Err(Failure::lasting(GitHubError::RateLimited { text, retry_after }));
        }
        if answer.status.is_success() || call.answers.contains(&answer.status.as_u16()) {
            self.gateway.answered(account, call.operation);
            return Ok(answer);
        }
        let error = answer.error();
        Err(if answer.status.is_server_error() { Failure::passing(error) } else { Failure::lasting(error) })
    }

    async fn exchange(&self, call: &Call, authorization: &Authorization, timeout: Duration) -> Result<Answer, Failure> {
        let kept = if call.kept { self.pages.get(&authorization.account, &call.path) } else { None };
        let answer = tokio::time::timeout(timeout, self.follow(call, authorization, kept.as_ref())).await;
        let answer = answer.unwrap_or_else(|_| {
            let (method, path, seconds) = (&call.method, shown(&call.path), timeout.as_secs_f64());
            let text = format!("{method} {path} had no full answer within {seconds} s");
            Err(Failure::passing(GitHubError::Unknown(text)))
        })?;
        match kept {
            Some(kept) if answer.status == StatusCode::NOT_MODIFIED => Ok(kept.again(answer)),
            _ => {
                if call.kept {
                    self.pages.keep(&authorization.account, &call.path, &answer);
                }
                Ok(answer)
            }
        }
    }

    /// The answer of the place that redirects lead to. GitHub wants the same request there (307, 308, and 301 and
    /// 302 as well). Only within the same server: nobody else gets the credential or is believed.
    async fn follow(&self, call: &Call, authorization: &Authorization, kept: Option<&Kept>) -> Result<Answer, Failure> {
        let mut path = call.path.clone();
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.send(call, &path, authorization, kept).await?;
            if !matches!(answer.status.as_u16(), 301 | 302 | 307 | 308) {
                return Ok(answer);
            }
            let location = answer.text(LOCATION.as_str()).unwrap_or_default();
            let Some(next) = self.within_server(location) else {
                let (request, location) = (&answer.request, shown(location));
                let text = format!("{request} was redirected to {location:?}: is the base URL right?");
                return Err(Failure::lasting(GitHubError::Invalid(text)));
            };
            self.tell_of_move(&call.path, &next);
            path = next;
        }
        let (method, path) = (&call.method, shown(&call.path));
        let text = format!("{method} {path} was redirected more than {REDIRECTS_MAX} times");
        Err(Failure::lasting(GitHubError::Unknown(text)))
    }

    /// Tells an operator once of what has another name now: webhooks use only the new one.
    fn tell_of_move(&self, from: &str, to: &str) {
        let place = from.split('/').take(4).collect::<Vec<_>>().join("/");
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        if moved.len() < MOVED_MAX && moved.insert(place.clone()) {
            tracing::warn!(
                place = %shown(&place),
                to = %shown(to),
                "GitHub has this under another name now: calls follow; change the name in the configuration before \
                 somebody else takes it"
            );
        }
    }

    fn within_server(&self, location: &str) -> Option<String> {
        let uri: Uri = location.parse().ok()?;
        let same = uri.authority().is_none()
            || (uri.scheme() == self.base.scheme() && uri.authority() == self.base.authority());
        if same { uri.path_and_query().map(ToString::to_string) } else { None }
    }

    async fn send(
        &self,
        call: &Call,
        path: &str,
        authorization: &Authorization,
        kept: Option<&Kept>,
    ) -> Result<Answer, Failure> {
        let request = format!("{} {}", call.method, shown(path));
        let invalid = |error: http::Error| Failure::lasting(GitHubError::Invalid(format!("{request}: {error}")));
        let mut builder = Request::builder()
            .method(call.method.clone())
            .uri(self.uri(path).map_err(invalid)?)
            .header(USER_AGENT, &self.user_agent)
            .header(ACCEPT, "application/vnd.github+json")
            .header("x-github-api-version", API_VERSION)
            .header(AUTHORIZATION, &authorization.header);
        if let Some(kept) = kept {
            builder = builder.header(IF_NONE_MATCH, kept.etag());
        }
        let body = if call.body.is_empty() {
            OctoBody::empty()
        } else {
            builder = builder.header(CONTENT_TYPE, "application/json");
            OctoBody::from(call.body.clone())
        };
        let sent = builder.body(body).map_err(invalid)?;
        let unknown = |error: &(dyn Error + 'static)| {
            Failure::passing(GitHubError::Unknown(format!("{request} failed: {}", causes(error))))
        };
        let (parts, body) = self.octocrab.send(sent).await.map_err(|error| unknown(&error))?.into_parts();
        let body = Limited::new(body, BODY_MAX).collect().await.map_err(|error| {
            // An answer that is too large will be so again.
            Failure { passing: !error.is::<LengthLimitError>(), ..unknown(&*error) }
        })?;
        let body = body.to_bytes();
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

/// An address for people: its beginning, for it may be GitHub that made it.
fn shown(address: &str) -> Cow<'_, str> {
    match address.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &address[..end]).into(),
        None => address.into(),
    }
}
