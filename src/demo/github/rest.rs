//! The door: finds out what a request asks for, applies faults, credentials and limits, and keeps the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use poem::{Endpoint, Request, Response};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::api;
use super::faults::Fault;
use super::log::{Operation, RequestRecord};
use super::service;
use super::socket::Lines;
use super::state::{AppTrouble, Scope, Shared, World};

/// Largest body that is read, in bytes.
const BODY_MAX: usize = 1 << 20;
/// How long an installation's token lasts.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// One API request, taken apart.
pub(super) struct Call {
    pub(super) operation: Operation,
    /// Where the path says that it is; none: it does not say, or there is no such place.
    pub(super) scope: Option<Scope>,
    /// The number in the path, 0 when it has none.
    pub(super) id: u64,
    pub(super) path: String,
    /// Path and query.
    pub(super) whole: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) body: Value,
    /// What goes wrong with it on purpose.
    pub(super) fault: Option<Fault>,
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
        let fault = self.shared.lock().faults.for_call(operation);
        if let Some(Fault::Delay(by)) = fault {
            tokio::time::sleep(by).await;
        }
        let call = Call { operation, scope, id, path, whole: whole.clone(), query, body: Value::Null, fault };
        let mut world = self.shared.lock();
        let answer = match fault {
            Some(Fault::DropConnection) => None,
            Some(fault) => Some(refusal(&world, fault).unwrap_or_else(|| admit(&mut world, &request, call, &body))),
            None => Some(admit(&mut world, &request, call, &body)),
        };
        let (status, took) = (answer.as_ref().map(|answer| answer.status), received.elapsed());
        let limit = world.settings.history;
        world.log.push(RequestRecord { at: received, operation, method, path: whole, status, took }, limit);
        match answer {
            Some(mut answer) if fault != Some(Fault::LoseAnswer) => {
                world.standard_headers(operation, &mut answer);
                Ok(answer.into_response())
            }
            _ => {
                line.cut();
                Ok(Response::default())
            }
        }
    }
}

/// The answer of a call that is refused on purpose; none when `fault` is another.
fn refusal(world: &World, fault: Fault) -> Option<Answer> {
    let seconds = |wait: Duration| wait.as_secs().max(1).to_string();
    match fault {
        Fault::Status(status) => Some(Answer::error(status, "A simulated failure")),
        Fault::RateLimited(wait) | Fault::SecondaryLimit(wait) => {
            let status = if matches!(fault, Fault::RateLimited(_)) { 429 } else { 403 };
            let mut answer = Answer::error(status, "You have exceeded a secondary rate limit");
            answer.headers.push(("retry-after", seconds(wait)));
            Some(answer)
        }
        Fault::UsedUp(wait) => {
            let mut answer = Answer::error(403, "API rate limit exceeded");
            let reset = world.stamp(Instant::now() + wait + Duration::from_millis(999));
            answer.headers.push(("x-ratelimit-remaining", "0".to_owned()));
            answer.headers.push(("x-ratelimit-reset", reset.as_second().to_string()));
            Some(answer)
        }
        Fault::Delay(_)
        | Fault::DropConnection
        | Fault::LoseAnswer
        | Fault::Busy(_)
        | Fault::Gone(_)
        | Fault::Come(_) => None,
    }
}

/// Credentials, limits and the form of the body, then the call itself.
fn admit(world: &mut World, request: &Request, mut call: Call, body: &[u8]) -> Answer {
    if request.header("user-agent").is_none_or(str::is_empty) {
        return Answer::error(403, "Request forbidden by administrative rules: a User-Agent header is needed");
    }
    if let Err(refused) = authenticate(world, &call, &bearer(request).unwrap_or_default()) {
        return refused;
    }
    if let Some(moved) = moved(world, request.method().as_str(), &call.whole) {
        return moved;
    }
    let resource = world.resource(call.operation);
    if call.operation != Operation::RateLimit && !world.spend(resource) {
        return Answer::error(403, "API rate limit exceeded");
    }
    if !body.is_empty() {
        match serde_json::from_slice(body) {
            Ok(value) => call.body = value,
            Err(_) => return Answer::error(400, "Problems parsing JSON"),
        }
    }
    let mut answer = api::answer(world, &call);
    if let (Some(Fault::Busy(busy)), Some(body)) = (call.fault, &mut answer.body) {
        say_busy(body, busy);
    }
    if request.method() != poem::http::Method::GET || answer.status != 200 {
        return answer;
    }
    let mut hasher = Sha256::new_with_prefix(answer.body.as_ref().map(ToString::to_string).unwrap_or_default());
    answer.headers.iter().for_each(|(_, link)| hasher.update(link));
    let digest: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let etag = format!("W/\"{digest}\"");
    if request.header("if-none-match") == Some(&etag) {
        if call.operation != Operation::RateLimit {
            // It costs nothing.
            world.refund(resource);
        }
        answer = Answer::empty(304);
    }
    answer.headers.push(("etag", etag));
    answer
}

/// Lets a runner, or each of a list, be busy or not.
fn say_busy(body: &mut Value, busy: bool) {
    if let Some(runners) = body.get_mut("runners").and_then(Value::as_array_mut) {
        runners.iter_mut().for_each(|runner| say_busy(runner, busy));
    } else if let Some(said) = body.get_mut("busy") {
        *said = json!(busy);
    }
}

/// Whether the credential may make this call.
fn authenticate(world: &World, call: &Call, token: &str) -> Result<(), Answer> {
    let by_app = matches!(call.operation, Operation::FindInstallation | Operation::CreateToken)
        || call.path.starts_with("/app/");
    let suspended = || Err(Answer::error(403, "This installation has been suspended"));
    if by_app {
        if world.app_trouble == Some(AppTrouble::WrongKey) {
            return Err(Answer::error(401, "A JSON web token could not be decoded"));
        }
        check_app_token(world, token).map_err(|why| Answer::error(401, why))?;
        if world.app_trouble == Some(AppTrouble::Suspended) && call.operation == Operation::CreateToken {
            return suspended();
        }
        return Ok(());
    }
    if token == world.settings.token.expose() {
        return Ok(());
    }
    match world.tokens.get(token).filter(|made| made.elapsed() < TOKEN_LIFETIME) {
        None => Err(Answer::error(401, "Bad credentials")),
        Some(_) if world.app_trouble == Some(AppTrouble::Suspended) => suspended(),
        Some(_) => Ok(()),
    }
}

/// Where a repository went that has another name now.
fn moved(world: &World, method: &str, whole: &str) -> Option<Answer> {
    let rest = whole.strip_prefix("/api/v3").unwrap_or(whole).strip_prefix("/repos/")?;
    let (owner, rest) = rest.split_once('/')?;
    let (name, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let known = owner.eq_ignore_ascii_case(&world.settings.organization) && world.find_repository(name).is_none();
    let id = world.renamed.get(&name.to_lowercase()).filter(|_| known)?;
    let url = format!("{}/repositories/{id}{rest}", world.base_url);
    let (status, message) = if method == "GET" { (301, "Moved Permanently") } else { (307, "Temporary Redirect") };
    let body = json!({"message": message, "url": url, "documentation_url": "https://docs.github.com/rest"});
    let mut answer = Answer::new(status, body);
    answer.headers.push(("location", url));
    Some(answer)
}

fn bearer(request: &Request) -> Option<String> {
    let (kind, token) = request.header("authorization")?.split_once(' ')?;
    let fits = kind.eq_ignore_ascii_case("bearer") || kind.eq_ignore_ascii_case("token");
    fits.then(|| token.trim().to_owned())
}

/// Whether the token has the form and the times of a GitHub App's; its signature is not looked at.
fn check_app_token(world: &World, token: &str) -> Result<(), &'static str> {
    let parts: Vec<&str> = token.split('.').collect();
    let claims = if let [_, claims, _] = parts[..] { URL_SAFE_NO_PAD.decode(claims).ok() } else { None };
    let claims = claims.and_then(|claims| serde_json::from_slice::<Value>(&claims).ok()).unwrap_or_default();
    let now = world.now().as_second();
    match (claims["iat"].as_i64(), claims["exp"].as_i64()) {
        (Some(_), Some(exp)) if exp <= now => {
            Err("'Expiration time' claim ('exp') must be a numeric value representing the future time at which the \
                 assertion expires")
        }
        (Some(iat), Some(_)) if iat > now + 5 => {
            Err("'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued")
        }
        (Some(_), Some(exp)) if exp > now + 600 => Err("'Expiration time' claim ('exp') is too far in the future"),
        (Some(_), Some(_)) if !claims["iss"].is_null() => Ok(()),
        _ => Err("A JSON web token could not be decoded"),
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
        ["repositories", id, rest @ ..] => {
            let repository = settings.repositories.iter().find(|r| id.parse() == Ok(r.id));
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
        ("GET", []) => (Op::GetRepository, "0"),
        ("GET", ["actions", "runs"]) => (Op::ListRuns, "0"),
        ("GET", ["actions", "runs", id]) => (Op::GetRun, *id),
        ("GET", ["actions", "runs", id, "jobs"]) => (Op::ListRunJobs, *id),
        ("GET", ["actions", "jobs", id]) => (Op::GetJob, *id),
        ("GET", ["rate_limit"]) => (Op::RateLimit, "0"),
        ("GET", ["installation"]) => (Op::FindInstallation, "0"),
        ("POST", ["app", "installations", id, "access_tokens"]) => (Op::CreateToken, *id),
        ("GET", ["hooks"] | ["app", "hook", "config"]) => (Op::ListHooks, "0"),
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
