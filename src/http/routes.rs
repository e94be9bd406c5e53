//! Which path leads where, and what surrounds every answer.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use actors::actor::front::Front;
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::combinators::BoxBody;
use hyper::body::Body as _;
use poem::endpoint::{make, make_sync};
use poem::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use poem::http::{HeaderValue, Method, StatusCode};
use poem::{Endpoint, IntoResponse, Request, Response, Route, get, post};
use tokio::sync::Semaphore;

use super::admin::{self, Idempotency};
use super::auth::{Keyring, Role};
use super::body::Budget;
use super::health::{self, Probe};
use super::listener::{Connections, InFlight};
use super::problem::{PROBLEM_JSON, Problem};
use super::unread::Unread;
use super::webhook::Webhook;
use super::{Settings, boot, page};

/// Answers up to this many bytes are not counted.
const SHORT_ANSWER: u64 = 64 << 10;

/// Longest text of an inner error that is shown, in bytes.
const DETAIL_MAX: usize = 4096;

/// What the handlers share.
pub(super) struct App {
    pub(super) front: Front,
    pub(super) settings: Arc<Settings>,
    pub(super) connections: Connections,
    /// Bytes of bodies that may still come.
    pub(super) bodies: Budget,
    /// Bytes of long answers that may still be on their way.
    answers: Arc<Semaphore>,
    /// Deliveries that may still be handed on.
    pub(super) accepting: Arc<Semaphore>,
    /// Admin requests that may still begin.
    pub(super) admin_requests: Semaphore,
    pub(super) keyring: Keyring,
    pub(super) probe: Probe,
    pub(super) idempotency: Arc<Idempotency>,
    requests: Semaphore,
}

impl App {
    /// Everything at its limits.
    pub(super) fn new(front: Front, settings: Arc<Settings>) -> Self {
        let limits = &settings.limits;
        Self {
            front,
            connections: Connections::default(),
            bodies: Budget::new(limits.bodies_bytes),
            answers: Arc::new(Semaphore::new(limits.answers_bytes)),
            accepting: Arc::new(Semaphore::new(limits.accepting)),
            admin_requests: Semaphore::new(limits.admin_requests),
            keyring: Keyring::new(&settings.keys),
            probe: Probe::default(),
            idempotency: Arc::default(),
            requests: Semaphore::new(limits.requests),
            settings,
        }
    }
}

impl App {
    /// Lets a long answer go only if there is memory for it: each connection has a copy until its peer has taken it.
    fn with_share(&self, mut response: Response, in_flight: Option<&InFlight>) -> Response {
        let body: BoxBody<Bytes, std::io::Error> = response.take_body().into();
        let bytes = body.size_hint().exact().unwrap_or_default();
        response.set_body(body);
        if bytes <= SHORT_ANSWER {
            return response;
        }
        let share = u32::try_from(bytes).ok().and_then(|n| Arc::clone(&self.answers).try_acquire_many_owned(n).ok());
        match (share, in_flight) {
            (Some(share), Some(in_flight)) => {
                in_flight.until_sent(share);
                response
            }
            _ => Problem::unavailable("too many long answers wait for their readers: try again").into_response(),
        }
    }
}

/// All paths.
pub(super) fn endpoint(app: &Arc<App>) -> impl Endpoint<Output = Response> + 'static {
    let (ready, metrics) = (Arc::clone(app), Arc::clone(app));
    let admin::Parts { api, document, docs } = admin::parts(app);
    let docs = move || {
        let docs = docs.clone();
        make_sync(move |_| page::html(docs.clone()))
    };
    let mut routes = Route::new()
        .at("/", get(make_sync(|_| page::index())))
        .at("/webhook", post(Webhook(Arc::clone(app))))
        .at("/webhook/", post(Webhook(Arc::clone(app))))
        .at("/_health", get(make_sync(|_| health::live())))
        .at(
            "/_ready",
            get(make(move |_| {
                let app = Arc::clone(&ready);
                async move { health::ready(&app).await }
            })),
        )
        .at("/metrics", get(make_sync(move |request| render_metrics(&metrics, &request))))
        .at("/docs", get(docs()))
        .at("/docs/", get(docs()))
        .at(
            "/api/v1/openapi.json",
            get(make_sync(move |_| Response::builder().content_type("application/json").body(document.clone()))),
        )
        .nest("/api/v1", api);
    if let Some(tokens) = &app.settings.boot {
        routes = routes.nest(boot::PREFIX, boot::routes(app, tokens));
    }
    Surround { app: Arc::clone(app), inner: routes }
}

fn render_metrics(app: &App, request: &Request) -> poem::Result<Response> {
    if !app.settings.metrics_public {
        app.keyring.authenticate(request.headers())?.require(Role::Viewer)?;
    }
    let text = (app.settings.render_metrics)();
    Ok(Response::builder().content_type("text/plain; version=0.0.4; charset=utf-8").body(text))
}

/// The methods of a path, for the answer to another one.
fn methods(path: &str) -> &'static str {
    let mut segments = path.trim_start_matches("/api/v1/").split('/');
    match (path, segments.next(), segments.nth(1), segments.next()) {
        ("/webhook" | "/webhook/", ..) => "POST",
        (path, ..) if path.strip_prefix(boot::PREFIX).is_some_and(|rest| rest.starts_with("/callback/")) => "POST",
        (path, Some("groups"), Some("messages"), None) if path.starts_with("/api/v1/") => "POST",
        (path, Some("runners"), None, None) if path.starts_with("/api/v1/runners/") => "GET, HEAD, DELETE",
        _ => "GET, HEAD",
    }
}

/// What every request passes: its place among all requests, and the forms of errors and headers, also of the one that
/// ends the connection.
struct Surround<E> {
    app: Arc<App>,
    inner: E,
}

impl<E: Endpoint<Output = Response>> Endpoint for Surround<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let unread = Unread::follow(&mut request);
        let in_flight = self.app.connections.begin(request.local_addr(), request.remote_addr());
        let path = request.uri().path().to_owned();
        let method = request.method().clone();
        let response = match self.app.requests.try_acquire() {
            Err(_) => Problem::unavailable("too many requests are in progress: try again").into_response(),
            Ok(_place) => match AssertUnwindSafe(self.inner.call(request)).catch_unwind().await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => error.into_response(),
                Err(panic) => panicked(&path, panic.as_ref()),
            },
        };
        let response = as_problem(response, &method, &path).await;
        let response = self.app.with_share(response, in_flight.as_ref());
        let mut response = with_headers(response, &path);
        if let Some(unread) = unread {
            unread.announce(&mut response);
        }
        Ok(response)
    }
}

fn panicked(path: &str, panic: &(dyn Any + Send)) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(path, error = text.unwrap_or("unknown"), "a handler panicked");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be handled").into_response()
}

/// Gives the framework's own errors the form of all others.
async fn as_problem(response: Response, method: &Method, path: &str) -> Response {
    let status = response.status();
    let failed = status.is_client_error() || status.is_server_error();
    let kind = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !failed || kind == PROBLEM_JSON || kind == "application/json" {
        return response;
    }
    let text = response.into_body().into_bytes_limit(DETAIL_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    match status {
        StatusCode::NOT_FOUND => Problem::not_found("there is nothing at this path"),
        StatusCode::METHOD_NOT_ALLOWED => {
            Problem::new(status, format!("{method} is not a method of this path")).allow(methods(path))
        }
        StatusCode::BAD_REQUEST => wrong_parameter(&text),
        _ => Problem::new(status, text),
    }
    .into_response()
}

/// The name of a parameter that could not be read is between the first two backticks of the framework's text.
fn wrong_parameter(text: &str) -> Problem {
    let name = text.split('`').nth(1).unwrap_or("");
    if text.starts_with("failed to parse path") {
        return Problem::not_found(format!("there is no such {name}"));
    }
    let reason = text.split_once("`: ").map_or(text, |(_, reason)| reason);
    Problem::invalid(name, reason)
}

fn with_headers(mut response: Response, path: &str) -> Response {
    const PLAIN: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
                         frame-ancestors 'none'";
    const DOCS: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data:; \
                        connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let policy = if path.starts_with("/docs") { DOCS } else { PLAIN };
    let fixed: [(HeaderName, &str); 5] = [
        (CONTENT_SECURITY_POLICY, policy),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in fixed {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_knows_its_methods() {
        assert_eq!(methods("/webhook"), "POST");
        assert_eq!(methods("/api/v1/groups"), "GET, HEAD");
        assert_eq!(methods("/api/v1/groups/octo"), "GET, HEAD");
        assert_eq!(methods("/api/v1/groups/octo/messages"), "POST");
        assert_eq!(methods("/api/v1/runners"), "GET, HEAD");
        assert_eq!(methods("/api/v1/runners/octo-0a1b2c3d"), "GET, HEAD, DELETE");
        assert_eq!(methods("/api/v1/jobs/1"), "GET, HEAD");
        assert_eq!(methods("/metrics"), "GET, HEAD");
        assert_eq!(methods("/instances/v1/callback/status/"), "POST");
        assert_eq!(methods("/instances/v1/metadata/jit-config"), "GET, HEAD");
    }
}
