//! The admin API under `/api/v1`: its description, and the door in front of it.

mod api;
mod budget;
mod idempotency;
mod message;
mod view;

use std::sync::Arc;

use bytes::Bytes;
use poem::endpoint::BoxEndpoint;
use poem::{Endpoint, EndpointExt, IntoEndpoint, Request, Response};
use poem_openapi::OpenApiService;
use serde_json::{Value, json};

use super::problem::Problem;
use super::routes::App;

pub(super) use idempotency::Idempotency;

/// What the routes need of it.
pub(super) struct Parts {
    /// The operations, behind their door.
    pub(super) api: BoxEndpoint<'static, Response>,
    /// The OpenAPI document, JSON.
    pub(super) document: Bytes,
    /// The page to browse it, HTML. Peers that do not read their answer share it with all others.
    pub(super) docs: Bytes,
}

/// Builds it.
pub(super) fn parts(app: &Arc<App>) -> Parts {
    let service = OpenApiService::new(api::Api(Arc::clone(app)), "runner-manager", app.settings.version)
        .description("Groups, runners and jobs of this runner-manager. Every operation needs a key.")
        .url_prefix("/api/v1");
    let plain = service.spec();
    let document = with_security(&plain);
    let docs = service.swagger_ui_html().replace(&plain, &document);
    let api = Door { app: Arc::clone(app), inner: service.into_endpoint() }.boxed();
    Parts { api, document: document.into(), docs: docs.into() }
}

/// Adds how keys are sent; the door checks them, before any operation.
fn with_security(document: &str) -> String {
    let Ok(mut document) = serde_json::from_str::<Value>(document) else { return document.to_owned() };
    document["components"]["securitySchemes"] = json!({
        "bearer": { "type": "http", "scheme": "bearer" },
        "api_key": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
    });
    document["security"] = json!([{ "bearer": [] }, { "api_key": [] }]);
    document.to_string()
}

/// Lets in who has a key, as long as there is room.
struct Door<E> {
    app: Arc<App>,
    inner: E,
}

impl<E: Endpoint<Output = Response>> Endpoint for Door<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let caller = self.app.keyring.authenticate(request.headers())?;
        let _place = self
            .app
            .admin_requests
            .try_acquire()
            .map_err(|_| Problem::unavailable("too many admin requests are in progress: try again"))?;
        request.set_data(caller);
        request.set_data(Arc::clone(&self.app));
        self.inner.call(request).await
    }
}
