//! The body of `POST /groups/{name}/messages`.

use std::sync::Arc;

use actors::actor::directory::Command;
use poem::http::StatusCode;
use poem::http::header::CONTENT_TYPE;
use poem::{Request, RequestBody};
use poem_openapi::payload::{ParsePayload, Payload};
use poem_openapi::registry::{MetaSchemaRef, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiExtractor, ApiExtractorType, Enum, ExtractParamOptions, Object};
use serde_json::Value;

use crate::http::auth::{Caller, Role};
use crate::http::body::{self, Bounds};
use crate::http::problem::Problem;
use crate::http::routes::App;

/// What a group can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
enum MessageType {
    /// Check health now.
    Healthcheck,
    /// Request one more runner now, whatever the demand.
    CreateRunner,
    /// Forget back-off and last error, start a stopped group again, check health now.
    Reset,
    /// Create no runners until resumed; idle ones are removed, busy ones finish.
    Drain,
    /// Undo `drain`.
    Resume,
    /// Delete the runner group at GitHub, once the group is drained and its runners are gone; `resume` creates it anew.
    DeleteRunnerGroup,
    /// Change `min` and `max`; not available in this version.
    Scale,
}

/// A message to a group.
#[derive(Debug, Clone, PartialEq, Eq, Object)]
struct Message {
    /// What it is told.
    #[oai(rename = "type")]
    kind: MessageType,
}

/// A message as it came from an admin: bytes, within the limits, and what they mean.
pub(super) struct Received {
    /// The command.
    pub(super) command: Command,
    /// The body, for comparing it with a later one.
    pub(super) text: String,
}

impl Payload for Received {
    const CONTENT_TYPE: &'static str = "application/json";

    fn schema_ref() -> MetaSchemaRef {
        Message::schema_ref()
    }

    fn register(registry: &mut Registry) {
        Message::register(registry);
    }
}

impl ParsePayload for Received {
    const IS_REQUIRED: bool = true;

    async fn from_request(request: &Request, body: &mut RequestBody) -> poem::Result<Self> {
        Ok(read(request, body).await?)
    }
}

impl<'a> ApiExtractor<'a> for Received {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <Self as Payload>::register(registry);
    }

    fn request_meta() -> Option<poem_openapi::registry::MetaRequest> {
        Some(poem_openapi::registry::MetaRequest {
            description: None,
            content: vec![poem_openapi::registry::MetaMediaType {
                content_type: <Self as Payload>::CONTENT_TYPE,
                schema: <Self as Payload>::schema_ref(),
            }],
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        <Self as ParsePayload>::from_request(request, body).await
    }
}

async fn read(request: &Request, body: &mut RequestBody) -> Result<Received, Problem> {
    let unusable = |detail: &str| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail);
    let lost = || unusable("the request has lost its context");
    // Before the body is waited for.
    request.data::<Caller>().ok_or_else(lost)?.require(Role::Admin)?;
    let app = request.data::<Arc<App>>().ok_or_else(lost)?;
    let kind = request.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("application/json");
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type is not application/json"));
    }
    let limits = &app.settings.limits;
    let bounds = Bounds { bytes: limits.admin_bytes, deadline: limits.body_deadline, stall: limits.body_stall };
    let body = body.take().map_err(|error| unusable(&error.to_string()))?;
    let held = body::read(request.headers(), body, bounds, &app.bodies).await?;
    let text = String::from_utf8(held.bytes.clone()).map_err(|_| Problem::invalid("#", "the body is not UTF-8"))?;
    Ok(Received { command: parse(&text)?, text })
}

/// What a body asks for.
fn parse(text: &str) -> Result<Command, Problem> {
    const EXPECTED: &str = "expected \"healthcheck\", \"create_runner\", \"reset\", \"drain\", \"resume\" or \
                            \"delete_runner_group\"";
    let value: Value =
        serde_json::from_str(text).map_err(|error| Problem::invalid("#", format!("the body is not JSON: {error}")))?;
    let Some(fields) = value.as_object() else {
        return Err(Problem::invalid("#", "the body is not a JSON object"));
    };
    let kind = fields.get("type").ok_or_else(|| Problem::invalid("#/type", format!("it is missing: {EXPECTED}")))?;
    let command = match kind.as_str() {
        Some("healthcheck") => Command::Healthcheck,
        Some("create_runner") => Command::CreateRunner,
        Some("reset") => Command::Reset,
        Some("drain") => Command::Drain,
        Some("resume") => Command::Resume,
        Some("delete_runner_group") => Command::DeleteRunnerGroup,
        Some("scale") => return Err(Problem::invalid("#/type", "\"scale\" is not available in this version")),
        _ => return Err(Problem::invalid("#/type", EXPECTED)),
    };
    if let Some(unknown) = fields.keys().find(|key| *key != "type") {
        let unknown: String = unknown.chars().take(80).collect();
        return Err(Problem::invalid(format!("#/{unknown}"), "there is no such field"));
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_understood() {
        for (kind, command) in [
            ("healthcheck", Command::Healthcheck),
            ("create_runner", Command::CreateRunner),
            ("reset", Command::Reset),
            ("drain", Command::Drain),
            ("resume", Command::Resume),
            ("delete_runner_group", Command::DeleteRunnerGroup),
        ] {
            assert_eq!(parse(&format!("{{\"type\": \"{kind}\"}}")), Ok(command));
        }
    }

    #[test]
    fn everything_else_is_refused_with_the_fields_path() {
        for (body, pointer) in [
            ("", "#"),
            ("[]", "#"),
            ("{}", "#/type"),
            ("{\"type\": 1}", "#/type"),
            ("{\"type\": \"explode\"}", "#/type"),
            ("{\"type\": \"scale\", \"min\": 1}", "#/type"),
            ("{\"type\": \"drain\", \"force\": true}", "#/force"),
        ] {
            let problem = parse(body).unwrap_err();
            assert_eq!(problem.status(), StatusCode::UNPROCESSABLE_ENTITY);
            assert_eq!(problem, Problem::invalid(pointer, problem.first_detail()), "{body}");
        }
    }
}
