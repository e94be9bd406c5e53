//! Whether the process lives and whether it is ready to serve.

use std::time::Duration;

use actors::actor::directory::{Health, Owner};
use poem::Response;
use poem::http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::routes::App;

/// The last answer of the store's probe; one probe runs at a time, whoever asks.
#[derive(Default)]
pub(super) struct Probe(Mutex<Option<(Instant, bool)>>);

impl Probe {
    async fn store_answers(&self, app: &App) -> bool {
        let (age, deadline): (Duration, Duration) = (app.settings.limits.probe_age, app.settings.limits.probe_deadline);
        let mut last = self.0.lock().await;
        if let Some((at, answers)) = *last
            && at.elapsed() < age
        {
            return answers;
        }
        let failed_before = matches!(*last, Some((_, false)));
        let answers = match timeout(deadline, app.front.store.probe()).await {
            Ok(Ok(())) => true,
            // Said once: probes come all the time.
            Ok(Err(error)) => {
                if !failed_before {
                    tracing::warn!(%error, "not ready: the store does not take writes");
                }
                false
            }
            Err(_) => {
                if !failed_before {
                    tracing::warn!(?deadline, "not ready: the store does not answer");
                }
                false
            }
        };
        *last = Some((Instant::now(), answers));
        answers
    }
}

/// `GET /_health`: the process lives.
pub(super) fn live() -> Response {
    json_response(StatusCode::OK, &json!({ "status": "ok" }))
}

/// `GET /_ready`: the store answers, the other replicas hear of this one, and every group runs somewhere; else 503 with what is missing.
pub(super) async fn ready(app: &App) -> Response {
    let mut missing: Vec<Value> = Vec::new();
    if !app.probe.store_answers(app).await {
        missing.push(json!({ "what": "store", "why": "it does not take writes" }));
    }
    if !app.front.directory.is_connected() {
        missing.push(
            json!({ "what": "replicas", "why": "the others have not heard of this one for longer than its lease" }),
        );
    }
    for entry in app.front.directory.entries() {
        let why = match entry.health {
            Health::Running => continue,
            Health::Starting if entry.owner == Owner::Nobody => "no replica runs it",
            Health::Starting => "starting",
            Health::Parked { .. } => "parked after repeated failures",
        };
        missing.push(json!({ "what": "group", "name": entry.settings.name.as_str(), "why": why }));
    }
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_response(status, &json!({ "ready": missing.is_empty(), "missing": missing }))
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    Response::builder().status(status).content_type("application/json").body(body.to_string())
}
