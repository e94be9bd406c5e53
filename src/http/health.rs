//! Whether the process lives and whether it is ready to serve.

use std::time::Duration;

use actors::actor::directory::{Entry, Health, Owner};
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

/// `GET /_ready`: the store answers, the other replicas hear of this one, and every group has an owner that has started
/// it; else 503 with what is missing. A parked group has one: its webhooks are taken, and those of the others served.
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
    missing.extend(app.front.directory.entries().iter().filter_map(missing_group));
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_response(status, &json!({ "ready": missing.is_empty(), "missing": missing }))
}

fn missing_group(entry: &Entry) -> Option<Value> {
    let why = match entry.health {
        Health::Running | Health::Parked { .. } => return None,
        Health::Starting if entry.owner == Owner::Nobody => "no replica runs it",
        Health::Starting => "starting",
    };
    Some(json!({ "what": "group", "name": entry.settings.name.as_str(), "why": why }))
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    Response::builder().status(status).content_type("application/json").body(body.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use actors::actor::directory::Directory;
    use actors::id::GroupName;
    use actors::model::settings::{GroupSettings, Scope};

    use super::*;

    #[test]
    fn a_parked_group_takes_no_replica_out_of_service_and_one_without_an_owner_does() {
        let scope = Scope::Organization("octo-org".to_owned());
        let settings = GroupSettings::new(GroupName::new("octo").unwrap(), scope, vec!["octo".to_owned()], 1);
        let mut entry = Directory::new([Arc::new(settings)]).entry("octo").unwrap();
        entry.health = Health::Parked { error: "panicked".to_owned() };
        assert_eq!(missing_group(&entry), None);
        (entry.owner, entry.health) = (Owner::Nobody, Health::Starting);
        assert_eq!(missing_group(&entry).unwrap()["why"], "no replica runs it");
        (entry.owner, entry.health) = (Owner::Me, Health::Running);
        assert_eq!(missing_group(&entry), None);
    }
}
