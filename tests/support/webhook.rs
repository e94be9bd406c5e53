//! A webhook as GitHub sends it: what it says of a job, its signature, its headers.
#![allow(dead_code, reason = "every test file uses its part")]

use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

/// One delivery, ready to be sent again and again.
#[derive(Clone)]
pub struct Webhook {
    pub delivery: String,
    pub body: Vec<u8>,
    pub signature: String,
}

impl Webhook {
    /// The `queued` of a job with the labels `self-hosted` and `label`. Its delivery id follows from the job's.
    pub fn queued(secret: &str, job: u64, label: &str) -> Self {
        let mut payload: Value = serde_json::from_str(include_str!("../fixtures/workflow_job_queued.json")).unwrap();
        payload["workflow_job"]["id"] = job.into();
        payload["workflow_job"]["labels"] = json!(["self-hosted", label]);
        let body = payload.to_string().into_bytes();
        let delivery = format!("{job:08x}-5f5f-11ef-8000-0123456789ab");
        Self { delivery, signature: sign(secret, &body), body }
    }

    /// The same with spaces behind it, up to so many bytes; the signature is no longer right.
    pub fn forged(mut self, bytes: usize) -> Self {
        self.body.resize(bytes, b' ');
        self
    }

    /// A request that sends it.
    pub fn request(&self, client: &reqwest::Client, port: u16) -> reqwest::RequestBuilder {
        let request = client.post(format!("http://127.0.0.1:{port}/webhook")).body(self.body.clone());
        self.headers().into_iter().fold(request, |request, (name, value)| request.header(name, value))
    }

    /// The request line and headers, with the empty line behind them, of a request that announces so many bytes.
    pub fn head(&self, announced: usize) -> String {
        let headers: String = self.headers().iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("POST /webhook HTTP/1.1\r\nhost: test\r\ncontent-length: {announced}\r\n{headers}\r\n")
    }

    fn headers(&self) -> [(&'static str, &str); 4] {
        [
            ("content-type", "application/json"),
            ("x-github-event", "workflow_job"),
            ("x-github-delivery", &self.delivery),
            ("x-hub-signature-256", &self.signature),
        ]
    }
}

/// The value of `X-Hub-Signature-256`.
fn sign(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    let digits: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={digits}")
}
