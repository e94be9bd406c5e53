//! The HTTP front: webhook, admin API, health and metrics.
//!
//! Its only tie to the rest is [`Front`](actors::actor::front::Front) and [`Settings`]; no type of the HTTP framework
//! is seen outside.

mod admin;
pub mod auth;
mod body;
mod boot;
mod explain;
mod front;
mod health;
mod listener;
mod page;
mod payload;
mod problem;
mod routes;
mod signature;
mod unread;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use actors::id::ReplicaId;
use actors::model::secret::Secret;
use actors::port::Boot;
use actors::port::github::Budget;

pub use auth::{ApiKey, Role};
pub use front::{Args, HttpFront, HttpMsg, spawn, stop};

/// How the front is set up. Everything is checked already.
pub struct Settings {
    /// Signs every webhook; none: webhooks are taken unsigned.
    pub webhook_secret: Option<Secret>,
    /// Keys of the admin API. Without any, the admin API refuses everybody: see [`auth::ensure_admin_key`].
    pub keys: Vec<ApiKey>,
    /// Whether `/metrics` is served without a key.
    pub metrics_public: bool,
    /// Renders the metrics as Prometheus text.
    pub render_metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// What may still be asked of GitHub, for each credential.
    pub github_budgets: Arc<dyn Fn() -> Vec<Budget> + Send + Sync>,
    /// Tokens of instances on their way; none: instances are served nothing.
    pub boot: Option<Arc<dyn Boot>>,
    /// Version of the program.
    pub version: &'static str,
    /// This replica; none: it shares the groups with nobody.
    pub replica: Option<ReplicaId>,
    /// Bounds on sizes, counts and times.
    pub limits: Limits,
}

/// What one peer, and all of them together, may ask for.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections; for a further one the one that has been without a request for longest is closed. Default 1024.
    pub connections: usize,
    /// Requests in progress; further ones are answered 503. Default 1024.
    pub requests: usize,
    /// Requests of the admin API in progress; further ones are answered 503. Default 64.
    pub admin_requests: usize,
    /// Deliveries on their way into the store; further ones are answered 503. Default 512.
    pub accepting: usize,
    /// Bytes of one request's headers. Default 64 kB.
    pub header_bytes: usize,
    /// Bytes of one webhook's body, GitHub's own limit. Default 25 MB.
    pub webhook_bytes: usize,
    /// Bytes of one body of the admin API. Default 64 kB.
    pub admin_bytes: usize,
    /// Bytes of all bodies that are held at once; beyond it requests are answered 503. A quarter is kept for bodies that
    /// announce at most 256 kB, as GitHub's do. Default 128 MB.
    pub bodies_bytes: usize,
    /// Bytes of all answers longer than 64 kB that are on their way at once, each until its peer has taken it; beyond it
    /// requests are answered 503. Default 32 MB.
    pub answers_bytes: usize,
    /// From a connection's opening, or a request's first byte, to the end of its headers. Default 10 s.
    pub header_deadline: Duration,
    /// From the end of the headers to the end of the body. Default 10 s.
    pub body_deadline: Duration,
    /// Between two pieces of a body. Default 3 s.
    pub body_stall: Duration,
    /// Between two requests of a connection. Default 60 s.
    pub idle: Duration,
    /// How long a peer may take no byte of an answer. Default 10 s.
    pub write_stall: Duration,
    /// From handing a delivery on until it is durable. Default 1.5 s.
    pub accept_deadline: Duration,
    /// One read of the store on behalf of the admin API. Default 5 s.
    pub read_deadline: Duration,
    /// One probe of the store on behalf of `/_ready`. Default 1 s.
    pub probe_deadline: Duration,
    /// How long an answer of the probe is believed. Default 1 s.
    pub probe_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const KB: usize = 1 << 10;
        const MB: usize = 1 << 20;
        Self {
            connections: 1024,
            requests: 1024,
            admin_requests: 64,
            accepting: 512,
            header_bytes: 64 * KB,
            webhook_bytes: 25 * MB,
            admin_bytes: 64 * KB,
            bodies_bytes: 128 * MB,
            answers_bytes: 32 * MB,
            header_deadline: Duration::from_secs(10),
            body_deadline: Duration::from_secs(10),
            body_stall: Duration::from_secs(3),
            idle: Duration::from_secs(60),
            write_stall: Duration::from_secs(10),
            accept_deadline: Duration::from_millis(1500),
            read_deadline: Duration::from_secs(5),
            probe_deadline: Duration::from_secs(1),
            probe_age: Duration::from_secs(1),
        }
    }
}
