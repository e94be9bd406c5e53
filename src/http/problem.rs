//! Errors as problem documents (RFC 9457).

use poem::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use poem::http::{HeaderValue, StatusCode};
use poem::{IntoResponse, Response};
use poem_openapi::payload::Payload;
use poem_openapi::registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchemaRef, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiResponse, Object};
use serde::Serialize;

/// Media type of problem documents.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// Most characters of a text: it may repeat what came.
const TEXT_MAX: usize = 500;

/// A request that was not carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Object)]
#[oai(rename = "Problem")]
struct Document {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    kind: String,
    /// The status in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What was wrong with this request.
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
    /// Where in the request it was wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

/// One wrong field.
#[derive(Debug, Clone, PartialEq, Serialize, Object)]
struct FieldError {
    /// Path of the field: a JSON pointer for bodies (`#/type`), the name for parameters.
    pointer: String,
    /// What was expected.
    detail: String,
}

/// The reason why a request is not carried out; turns into the answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Problem {
    status: StatusCode,
    document: Box<Document>,
    retry_after: Option<u32>,
    allow: Option<&'static str>,
}

impl Problem {
    /// A problem with this status; `detail` is for the caller's eyes.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            document: Box::new(Document {
                kind: "about:blank".to_owned(),
                title: status.canonical_reason().unwrap_or("Error").to_owned(),
                status: status.as_u16(),
                detail: shortened(detail.into()),
                errors: Vec::new(),
            }),
            retry_after: None,
            allow: None,
        }
    }

    /// 400.
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 404.
    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 422 for one field.
    pub(super) fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "a field of the request is not valid").field(pointer, detail)
    }

    /// 503, to be tried again after a second.
    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self { retry_after: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    /// Names a wrong field.
    pub(super) fn field(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let (pointer, detail) = (shortened(pointer.into()), shortened(detail.into()));
        self.document.errors.push(FieldError { pointer, detail });
        self
    }

    /// Names the methods that a resource has, for 405.
    pub(super) fn allow(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    /// The words on its first wrong field.
    #[cfg(test)]
    pub(super) fn first_detail(&self) -> &str {
        self.document.errors.first().map_or("", |error| &error.detail)
    }

    /// Its status.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }
}

/// The beginning of a text.
fn shortened(text: String) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.document).unwrap_or_default();
        let mut response = Response::builder().status(self.status).content_type(PROBLEM_JSON).body(body);
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"runner-manager\""));
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(methods) = self.allow {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
        }
        response
    }
}

impl From<Problem> for poem::Error {
    fn from(problem: Problem) -> Self {
        Self::from_response(problem.into_response())
    }
}

impl Payload for Problem {
    const CONTENT_TYPE: &'static str = PROBLEM_JSON;

    fn schema_ref() -> MetaSchemaRef {
        Document::schema_ref()
    }

    fn register(registry: &mut Registry) {
        Document::register(registry);
    }
}

/// What the OpenAPI document says of every operation's errors.
impl ApiResponse for Problem {
    fn meta() -> MetaResponses {
        const ALL: [(u16, &str); 7] = [
            (401, "no valid key"),
            (403, "the key's role does not allow it"),
            (404, "there is no such thing"),
            (409, "it contradicts what is going on"),
            (413, "the body is too long"),
            (422, "a field of the request is not valid"),
            (503, "not possible at the moment: try again"),
        ];
        let response = |(status, description)| MetaResponse {
            description,
            status: Some(status),
            status_range: None,
            content: vec![MetaMediaType { content_type: PROBLEM_JSON, schema: Self::schema_ref() }],
            headers: Vec::new(),
        };
        MetaResponses { responses: ALL.into_iter().map(response).collect() }
    }

    fn register(registry: &mut Registry) {
        <Self as Payload>::register(registry);
    }
}
