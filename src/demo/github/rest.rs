//! The door: finds out what a request asks for, applies faults, credentials and limits, and keeps the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use poem::{Endpoint, Request, Response};
use serde_json::{Value, json};

use super::api;
use super::faults::Fault;
use super::log::{Operation, RequestRecord};
use super::service;
use super::settings::random_hex;
use super::socket::Lines;
use super::state::{Scope, Shared, World};

/// Largest body that is read, in bytes.
const BODY_MAX: usize = 1 << 20;
/// How long a limit's window is.
const WINDOW: Duration = Duration::from_secs(3600);

/// One API request, taken apart.
pub(super) struct Call {
    pub(super) operation: Operation,
    /// Where the path says that it is; none: it does not say, or there is no such place.
    pub(super) scope: Option<Scope>,
    /// The number in the path, 0 when it has none.
    pub(super) id: u64,
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) body: Value,
}

impl Call {
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// An answer to be written.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Option<Value>,
    pub(super) headers: Vec<(&'static str, String)>,
}

impl Answer {
    pub(super) fn new(status: u16, body: Value) -> Self {
        Self { status, body: Some(body), headers: Vec::new() }
    }

    pub(super) fn empty(status: u16) -> Self {
        Self { status, body: None, headers: Vec::new() }
    }

    /// An error in GitHub's words.
    pub(super) fn error(status: u16, message: &str) -> Self {
        let docs = "https://docs.github.com/rest";
        Self::new(status, json!({"message": message, "documentation_url": docs, "status": status.to_string()}))
    }

    pub(super) fn not_found() -> Self {
        Self::error(404, "Not Found")
    }

    fn into_response(self) -> Response {
        let mut response =
            Response::builder().status(poem::http::StatusCode::from_u16(self.status).unwrap_or_default());
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        match self.body {
            Some(body) => response.content_type("application/json; charset=utf-8").body(body.to_string()),
            None => response.finish(),
        }
    }
}

/// Everything that the listener serves.
pub(super) struct Door {
    pub(super) shared: Arc<Shared>,
    pub(super) lines: Lines,
}

impl Endpoint for Door {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let received = Instant::now();
        let line = self.lines.find(request.remote_addr().as_socket_addr());
        let method = request.method().as_str().to_owned();
        let path = request.uri().path().to_owned();
        let body = request.take_body().into_bytes_limit(BODY_MAX).await?;
        if let Some(rest) = path.strip_prefix("/runner-service/") {
            let secret = bearer(&request).unwrap_or_default();
            return Ok(service::answer(&self.shared, &line, &method, rest, &secret, &body).await.into_response());
        }
        let (operation, scope, id) = route(&self.shared.lock(), &method, &path);
        let query = request.params().unwrap_or_default();
        let whole = request.uri().path_and_query().map_or_else(|| path.clone(), ToString::to_string);
        let call = Call { operation, scope, id, path, query, body: Value::Null };

        let fault = self.shared.lock().faults.for_call(operation);
        if let Some(Fault::Delay(by)) = fault {
            tokio::time::sleep(by).await;
        }
        let answer = match fault {
            Some(Fault::Status(status)) => Some(Answer::error(status, "A simulated failure")),
            Some(Fault::RateLimited(wait)) => {
                let mut answer = Answer::error(429, "You have exceeded a secondary rate limit");
                answer.headers.push(("retry-after", wait.as_secs().max(1).to_string()));
                Some(answer)
            }
            Some(Fault::DropConnection) => None,
            Some(Fault::Delay(_) | Fault::LoseAnswer) | None => {
                Some(admit(&mut self.shared.lock(), &request, call, &body))
            }
        };
        let mut world = self.shared.lock();
        let (status, took) = (answer.as_ref().map(|answer| answer.status), received.elapsed());
        let limit = world.settings.history;
        world.log.push(RequestRecord { at: received, operation, method, path: whole, status, took }, limit);
        match answer {
            Some(mut answer) if fault != Some(Fault::LoseAnswer) => {
                answer.headers.extend(standard_headers(&world));
                Ok(answer.into_response())
            }
            _ => {
                line.cut();
                Ok(Response::default())
            }
        }
    }
}

/// Credentials, limits and the form of the body, then the call itself.
fn admit(world: &mut World, request: &Request, mut call: Call, body: &[u8]) -> Answer {
    if request.header("user-agent").is_none_or(str::is_empty) {
        return Answer::error(403, "Request forbidden by administrative rules: a User-Agent header is needed");
    }
    let token = bearer(request).unwrap_or_default();
    let by_app = matches!(call.operation, Operation::FindInstallation | Operation::CreateToken)
        || call.path.starts_with("/app/");
    let known = if by_app {
        is_app_token(&token)
    } else {
        token == world.settings.token.expose() || world.tokens.get(&token).is_some_and(|made| made.elapsed() < WINDOW)
    };
    if !known {
        return Answer::error(401, "Bad credentials");
    }
    if call.operation != Operation::RateLimit && !spend(world) {
        return Answer::error(403, "API rate limit exceeded");
    }
    if !body.is_empty() {
        match serde_json::from_slice(body) {
            Ok(value) => call.body = value,
            Err(_) => return Answer::error(400, "Problems parsing JSON"),
        }
    }
    api::answer(world, &call)
}

/// Counts one request; false when none was left.
fn spend(world: &mut World) -> bool {
    if world.spent.1.elapsed() >= WINDOW {
        world.spent = (0, Instant::now());
    }
    let left = world.spent.0 < world.settings.rate_limit;
    world.spent.0 += u64::from(left);
    left
}

fn standard_headers(world: &World) -> Vec<(&'static str, String)> {
    let (limit, used) = (world.settings.rate_limit, world.spent.0);
    vec![
        ("x-ratelimit-limit", limit.to_string()),
        ("x-ratelimit-remaining", limit.saturating_sub(used).to_string()),
        ("x-ratelimit-used", used.to_string()),
        ("x-ratelimit-reset", reset(world).as_second().to_string()),
        ("x-ratelimit-resource", "core".to_owned()),
        ("x-github-api-version-selected", "2022-11-28".to_owned()),
        ("x-github-media-type", "github.v3; format=json".to_owned()),
        ("x-github-request-id", random_hex(10).to_uppercase()),
    ]
}

/// When the limit starts anew.
pub(super) fn reset(world: &World) -> jiff::Timestamp {
    world.stamp(world.spent.1 + WINDOW)
}

fn bearer(request: &Request) -> Option<String> {
    let (kind, token) = request.header("authorization")?.split_once(' ')?;
    let fits = kind.eq_ignore_ascii_case("bearer") || kind.eq_ignore_ascii_case("token");
    fits.then(|| token.trim().to_owned())
}

/// Whether the token has the form and the times of a GitHub App's; its signature is not looked at.
fn is_app_token(token: &str) -> bool {
    let parts: Vec<&str> = token.split('.').collect();
    let [_, claims, _] = parts[..] else { return false };
    let Ok(claims) = URL_SAFE_NO_PAD.decode(claims) else { return false };
    let Ok(claims) = serde_json::from_slice::<Value>(&claims) else { return false };
    let now = jiff::Timestamp::now().as_second();
    match (claims["iat"].as_i64(), claims["exp"].as_i64()) {
        (Some(iat), Some(exp)) => iat <= now + 5 && exp > now && exp <= now + 600 && !claims["iss"].is_null(),
        _ => false,
    }
}

/// What the request is for, where, and on which number. `/api/v3`, as GitHub Enterprise Server has it, may come first.
fn route(world: &World, method: &str, path: &str) -> (Operation, Option<Scope>, u64) {
    use Operation as Op;
    let path = path.strip_prefix("/api/v3").unwrap_or(path);
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    let settings = &world.settings;
    let (scope, rest) = match &segments[..] {
        ["orgs", org, rest @ ..] => (same(org, &settings.organization).then_some(Scope::Organization), rest),
        ["enterprises", slug, rest @ ..] => (same(slug, &settings.enterprise).then_some(Scope::Enterprise), rest),
        ["repos", owner, name, rest @ ..] => {
            let repository = world.find_repository(name).filter(|_| same(owner, &settings.organization));
            (repository.map(|r| Scope::Repository(r.name.clone())), rest)
        }
        rest => (None, rest),
    };
    let (operation, id) = match (method, rest) {
        ("GET", ["actions", "runner-groups"]) => (Op::ListGroups, "0"),
        ("POST", ["actions", "runner-groups"]) => (Op::CreateGroup, "0"),
        ("GET", ["actions", "runner-groups", id]) => (Op::GetGroup, *id),
        ("PATCH", ["actions", "runner-groups", id]) => (Op::UpdateGroup, *id),
        ("DELETE", ["actions", "runner-groups", id]) => (Op::DeleteGroup, *id),
        ("GET", ["actions", "runner-groups", id, "runners"]) => (Op::ListGroupRunners, *id),
        ("GET", ["actions", "runner-groups", id, "repositories"]) => (Op::ListGroupRepositories, *id),
        ("PUT", ["actions", "runner-groups", id, "repositories"]) => (Op::SetGroupRepositories, *id),
        ("POST", ["actions", "runners", "generate-jitconfig"]) => (Op::GenerateJitConfig, "0"),
        ("GET", ["actions", "runners"]) => (Op::ListRunners, "0"),
        ("GET", ["actions", "runners", "downloads"]) => (Op::ListDownloads, "0"),
        ("GET", ["actions", "runners", id]) => (Op::GetRunner, *id),
        ("DELETE", ["actions", "runners", id]) => (Op::DeleteRunner, *id),
        ("GET", ["actions", "runs"]) => (Op::ListRuns, "0"),
        ("GET", ["actions", "runs", id]) => (Op::GetRun, *id),
        ("GET", ["actions", "runs", id, "jobs"]) => (Op::ListRunJobs, *id),
        ("GET", ["actions", "jobs", id]) => (Op::GetJob, *id),
        ("GET", ["rate_limit"]) => (Op::RateLimit, "0"),
        ("GET", ["installation"]) => (Op::FindInstallation, "0"),
        ("POST", ["app", "installations", id, "access_tokens"]) => (Op::CreateToken, *id),
        ("GET", ["hooks", id, "deliveries"]) => (Op::ListDeliveries, *id),
        ("GET", ["app", "hook", "deliveries"]) => (Op::ListDeliveries, "0"),
        ("POST", ["hooks", _, "deliveries", id, "attempts"] | ["app", "hook", "deliveries", id, "attempts"]) => {
            (Op::Redeliver, *id)
        }
        _ => (Op::Unknown, "0"),
    };
    match id.parse() {
        Ok(id) => (operation, scope, id),
        Err(_) => (Op::Unknown, None, 0),
    }
}
