//! The webhook endpoint: verify, understand, make durable, answer.
//!
//! Checks in this order, each with its own answer: size and time of the body, signature, headers, content.

use std::sync::Arc;
use std::time::Instant;

use actors::actor::front::Accepted;
use actors::id::DeliveryId;
use actors::model::delivery::Delivery;
use actors::port::{Observation, StoreError};
use poem::http::header::CONTENT_TYPE;
use poem::http::{HeaderMap, StatusCode};
use poem::{Endpoint, IntoResponse, Request, Response};
use serde_json::json;

use super::body::{self, Bounds, Held};
use super::payload::{self, Parsed, PayloadError};
use super::problem::Problem;
use super::routes::App;
use super::signature;

/// Bytes that take less than a millisecond to hash.
const HASHED_AT_ONCE: usize = 256 << 10;

/// `POST /webhook`.
pub(super) struct Webhook(pub(super) Arc<App>);

/// Words for the metrics, filled in as they become known.
struct Note {
    event: &'static str,
    action: &'static str,
    outcome: &'static str,
}

impl Endpoint for Webhook {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let started = Instant::now();
        let mut note = Note { event: "other", action: "", outcome: "invalid" };
        let response = match receive(&self.0, request, &mut note).await {
            Ok(id) => answer(&id, note.outcome),
            Err(problem) => {
                if let Some(outcome) = outcome_of(problem.status()) {
                    note.outcome = outcome;
                }
                tracing::debug!(status = problem.status().as_u16(), outcome = note.outcome, "webhook refused");
                problem.into_response()
            }
        };
        let Note { event, action, outcome } = note;
        self.0.front.observer.observe(&Observation::Webhook { event, action, outcome, took: started.elapsed() });
        Ok(response)
    }
}

fn outcome_of(status: StatusCode) -> Option<&'static str> {
    match status {
        StatusCode::UNAUTHORIZED => Some("unauthorized"),
        StatusCode::PAYLOAD_TOO_LARGE => Some("too_large"),
        StatusCode::REQUEST_TIMEOUT => Some("too_slow"),
        StatusCode::SERVICE_UNAVAILABLE => Some("unavailable"),
        StatusCode::INTERNAL_SERVER_ERROR => Some("failed"),
        _ => None,
    }
}

fn answer(id: &DeliveryId, outcome: &str) -> Response {
    let body = json!({ "delivery": id.as_str(), "outcome": outcome }).to_string();
    Response::builder().status(StatusCode::ACCEPTED).content_type("application/json").body(body)
}

async fn receive(app: &Arc<App>, request: Request, note: &mut Note) -> Result<DeliveryId, Problem> {
    let (parts, body) = request.into_parts();
    let headers = parts.headers;
    let limits = &app.settings.limits;
    let bounds = Bounds { bytes: limits.webhook_bytes, deadline: limits.body_deadline, stall: limits.body_stall };
    let body = body::read(&headers, body, bounds, &app.bodies).await?;
    let received_at = app.front.clock.now();

    let (headers, body) = verify(app, headers, body).await?;

    let id = single(&headers, "x-github-delivery")?;
    let id = DeliveryId::new(id).map_err(|error| Problem::bad_request(format!("X-GitHub-Delivery: {error}")))?;
    match single(&headers, "x-github-event")? {
        "workflow_job" => note.event = "workflow_job",
        event => {
            note.event = if event == "ping" { "ping" } else { "other" };
            note.outcome = "ignored";
            return Ok(id);
        }
    }

    let parsed = match content_type(&headers)? {
        Format::Json => payload::parse(&body.bytes),
        Format::Form => payload::form_payload(&body.bytes).and_then(|json| payload::parse(&json)),
    };
    drop(body);
    let event = match parsed? {
        Parsed::Job(event) => *event,
        Parsed::UnknownAction => {
            note.outcome = "ignored";
            return Ok(id);
        }
    };
    note.action = event.action.as_str();
    let delivery = Delivery { id: id.clone(), received_at, event, matched: String::new() };
    note.outcome = match accept(app, delivery).await? {
        Accepted::Accepted => "accepted",
        Accepted::Duplicate => "duplicate",
        Accepted::Unmatched => "unmatched",
    };
    Ok(id)
}

/// Believes only what is signed. A large body is hashed beside the threads that serve everybody.
async fn verify(app: &Arc<App>, headers: HeaderMap, body: Held) -> Result<(HeaderMap, Held), Problem> {
    let large = body.bytes.len() > HASHED_AT_ONCE;
    let app = Arc::clone(app);
    let check = move || {
        let checked = match &app.settings.webhook_secret {
            Some(secret) => signature::verify(secret, &headers, &body.bytes),
            None => Ok(()),
        };
        checked.map(|()| (headers, body)).map_err(|error| Problem::new(StatusCode::UNAUTHORIZED, error.to_string()))
    };
    if !large {
        return check();
    }
    let checked = tokio::task::spawn_blocking(check).await;
    checked.map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the signature was not checked"))?
}

/// Hands a delivery on, bounded in number and time. Once begun it is carried through, also when the peer goes away
/// or the answer comes too late: GitHub's second try is then a duplicate.
async fn accept(app: &Arc<App>, delivery: Delivery) -> Result<Accepted, Problem> {
    let place = Arc::clone(&app.accepting)
        .try_acquire_owned()
        .map_err(|_| Problem::unavailable("too many deliveries are waiting for the store: try again"))?;
    let id = delivery.id.clone();
    let front = app.front.clone();
    let accepting = tokio::spawn(async move {
        let accepted = front.accept(delivery).await;
        drop(place);
        accepted
    });
    match tokio::time::timeout(app.settings.limits.accept_deadline, accepting).await {
        Ok(Ok(Ok(accepted))) => Ok(accepted),
        Ok(Ok(Err(error @ StoreError::Overloaded(_)))) => {
            tracing::warn!(delivery = %id, %error, "delivery not accepted");
            Err(Problem::unavailable("too many deliveries are waiting for the store: try again"))
        }
        Ok(Ok(Err(error))) => {
            tracing::error!(delivery = %id, %error, "delivery not accepted");
            Err(Problem::unavailable("the store does not take the delivery at the moment: try again"))
        }
        Ok(Err(error)) => {
            tracing::error!(delivery = %id, %error, "delivery not accepted");
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the delivery was not accepted"))
        }
        Err(_) => {
            tracing::error!(delivery = %id, "delivery not accepted: the store did not answer in time");
            Err(Problem::unavailable("the store does not answer at the moment: try again"))
        }
    }
}

/// The one value of a header that every delivery has.
fn single<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, Problem> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or_else(|| Problem::bad_request(format!("the header {name} is missing")))?;
    if values.next().is_some() {
        return Err(Problem::bad_request(format!("the header {name} was sent more than once")));
    }
    value.to_str().map_err(|_| Problem::bad_request(format!("the header {name} is not ASCII")))
}

enum Format {
    Json,
    Form,
}

/// JSON unless the delivery says otherwise.
fn content_type(headers: &HeaderMap) -> Result<Format, Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(Format::Json) };
    let value = value.to_str().unwrap_or_default();
    let kind = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/x-www-form-urlencoded" => Ok(Format::Form),
        json if json == "application/json" || json.ends_with("+json") => Ok(Format::Json),
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the content type is neither application/json nor application/x-www-form-urlencoded",
        )),
    }
}

impl From<PayloadError> for Problem {
    fn from(error: PayloadError) -> Self {
        match error {
            PayloadError::Field { pointer, detail } => {
                Self::bad_request("the payload is not a workflow_job event").field(pointer, detail)
            }
            other => Self::bad_request(other.to_string()),
        }
    }
}
