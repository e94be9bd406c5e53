//! Webhooks: signed, sent in each job's order, never sent again by themselves, and remembered.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::faults::HookFault;
use super::jobs::{Job, JobId};
use super::settings::{HookOwner, random_guid};
use super::state::{Shared, World};
use super::wire;
use super::{HookCounts, What};

/// Id of the organization's only webhook.
pub(super) const HOOK_ID: u64 = 4001;

/// The `action` of a `workflow_job` event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The job wants a runner.
    Queued,
    /// The job waits for an approval.
    Waiting,
    /// A runner took the job.
    InProgress,
    /// The job is over.
    Completed,
}

impl Action {
    /// As GitHub spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Waiting => "waiting",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
        }
    }
}

/// How a delivery went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryStatus {
    /// It has not ended yet.
    Pending,
    /// The receiver answered with this status.
    Answered(u16),
    /// The receiver did not answer in time.
    TimedOut,
    /// There was no connection, or it broke; or a fault dropped the webhook.
    Unreachable,
}

impl DeliveryStatus {
    /// Whether the receiver took it: a status of 2xx.
    #[must_use]
    pub fn is_success(self) -> bool {
        matches!(self, Self::Answered(200..=299))
    }

    /// The number in GitHub's list of deliveries.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::Answered(code) => code,
            Self::Unreachable => 502,
            Self::Pending | Self::TimedOut => 0,
        }
    }

    /// The words in GitHub's list of deliveries.
    pub(super) fn text(self) -> String {
        match self {
            Self::Pending => "pending".to_owned(),
            Self::Answered(200..=299) => "OK".to_owned(),
            Self::Answered(code) => format!("Invalid HTTP Response: {code}"),
            Self::TimedOut => "timed out".to_owned(),
            Self::Unreachable => "failed to connect".to_owned(),
        }
    }
}

/// One attempt to deliver one event.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Id of the attempt.
    pub id: u64,
    /// Id of the event, as in `X-GitHub-Delivery`; all attempts share it.
    pub guid: String,
    /// What happened.
    pub action: Action,
    /// The job, as it was then.
    pub job: Job,
    /// When the event came up; once sent, when it was sent.
    pub at: Instant,
    /// Whether it is a repeated attempt.
    pub redelivery: bool,
    /// From sending to the answer.
    pub took: Duration,
    /// How it went.
    pub status: DeliveryStatus,
}

/// A delivery on its way out. `previous` ends when the job's one before it did, `done` when this one does.
pub(super) struct Outgoing {
    id: u64,
    previous: Option<oneshot::Receiver<()>>,
    done: oneshot::Sender<()>,
    fault: Option<HookFault>,
}

/// The history, and what is under way.
pub(super) struct Hooks {
    pub(super) history: VecDeque<Delivery>,
    pub(super) counts: HookCounts,
    /// The end of each job's newest delivery.
    tails: HashMap<JobId, oneshot::Receiver<()>>,
    outbox: mpsc::UnboundedSender<Outgoing>,
    next_id: u64,
}

impl Hooks {
    pub(super) fn new(outbox: mpsc::UnboundedSender<Outgoing>) -> Self {
        Self { history: VecDeque::new(), counts: HookCounts::default(), tails: HashMap::new(), outbox, next_id: 1 }
    }

    fn get_mut(&mut self, id: u64) -> Option<&mut Delivery> {
        let at = self.history.binary_search_by_key(&id, |delivery| delivery.id).ok()?;
        self.history.get_mut(at)
    }
}

impl World {
    /// Sends a webhook about a job as it is now.
    pub(super) fn announce(&mut self, job: JobId, action: Action) {
        let Some(job) = self.jobs.get(&job).cloned() else { return };
        let fault = self.faults.for_hook(action);
        let elsewhere = |name: &String| !name.eq_ignore_ascii_case(&job.repository.name);
        let unheard = matches!(&self.settings.hook_owner, HookOwner::Repository(name) if elsewhere(name));
        if unheard || fault == Some(HookFault::Forget) {
            return;
        }
        let (done, tail) = oneshot::channel();
        let previous = self.hooks.tails.remove(&job.id);
        if action != Action::Completed {
            self.hooks.tails.insert(job.id, tail);
        }
        self.send(random_guid(), action, job, false, Outgoing { id: 0, previous, done, fault });
    }

    /// Delivers the event of that GUID once more; false when it is not in the history.
    pub(super) fn redeliver(&mut self, guid: &str) -> bool {
        let Some(delivery) = self.hooks.history.iter().rev().find(|d| d.guid == guid) else { return false };
        let (guid, action, job) = (delivery.guid.clone(), delivery.action, delivery.job.clone());
        let (done, _) = oneshot::channel();
        self.send(guid, action, job, true, Outgoing { id: 0, previous: None, done, fault: None });
        true
    }

    /// Delivers every event once more whose newest attempt has failed; returns how many.
    pub(super) fn redeliver_failed(&mut self) -> usize {
        let newest: HashMap<&str, DeliveryStatus> =
            self.hooks.history.iter().map(|d| (d.guid.as_str(), d.status)).collect();
        let failed = |status: &DeliveryStatus| *status != DeliveryStatus::Pending && !status.is_success();
        let mut guids: Vec<String> =
            self.hooks.history.iter().filter(|d| !d.redelivery).map(|d| d.guid.clone()).collect();
        guids.retain(|guid| newest.get(guid.as_str()).is_some_and(failed));
        guids.iter().filter(|guid| self.redeliver(guid)).count()
    }

    fn send(&mut self, guid: String, action: Action, job: Job, redelivery: bool, mut outgoing: Outgoing) {
        let id = self.hooks.next_id;
        self.hooks.next_id += 1;
        if self.hooks.history.len() >= self.settings.history {
            self.hooks.history.pop_front();
        }
        let (at, took, status) = (Instant::now(), Duration::ZERO, DeliveryStatus::Pending);
        self.hooks.history.push_back(Delivery { id, guid, action, job, at, redelivery, took, status });
        outgoing.id = id;
        self.hooks.counts.pending += 1;
        // Once the sending task has ended the simulated GitHub is stopping, and nobody waits for webhooks.
        let _ = self.hooks.outbox.send(outgoing);
    }

    fn end_delivery(&mut self, id: u64, status: DeliveryStatus, took: Duration) {
        let counts = &mut self.hooks.counts;
        counts.sent += 1;
        counts.failed += u64::from(!status.is_success());
        let Some(delivery) = self.hooks.get_mut(id) else { return };
        delivery.status = status;
        delivery.took = took;
        let what = What::WebhookAnswered { job: delivery.job.id, action: delivery.action, status, took };
        self.tell(what);
    }
}

/// Sends what is put into the outbox until its task is aborted.
pub(super) async fn send_all(
    shared: Arc<Shared>,
    mut outbox: mpsc::UnboundedReceiver<Outgoing>,
    client: reqwest::Client,
) {
    let limit = shared.lock().settings.webhook_concurrency.max(1);
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            Some(outgoing) = outbox.recv(), if under_way.len() < limit => {
                under_way.spawn(send_one(Arc::clone(&shared), client.clone(), outgoing));
            }
            Some(_) = under_way.join_next() => {}
            else => return,
        }
    }
}

async fn send_one(shared: Arc<Shared>, client: reqwest::Client, outgoing: Outgoing) {
    let Outgoing { id, previous, done, fault } = outgoing;
    let _done = match fault {
        Some(HookFault::Late(by)) => {
            drop(done);
            tokio::time::sleep(by).await;
            None
        }
        _ => {
            if let Some(previous) = previous {
                let _ = previous.await;
            }
            Some(done)
        }
    };
    let times = if fault == Some(HookFault::Duplicate) { 2 } else { 1 };
    for _ in 0..times {
        let begun = Instant::now();
        let status = match fault {
            Some(HookFault::Drop) => DeliveryStatus::Unreachable,
            _ => attempt(&shared, &client, id).await,
        };
        shared.lock().end_delivery(id, status, begun.elapsed());
    }
    shared.lock().hooks.counts.pending -= 1;
}

async fn attempt(shared: &Shared, client: &reqwest::Client, id: u64) -> DeliveryStatus {
    let request = prepare(&mut shared.lock(), client, id);
    let Some(request) = request else { return DeliveryStatus::Unreachable };
    match request.send().await {
        Ok(answer) => DeliveryStatus::Answered(answer.status().as_u16()),
        Err(error) if error.is_timeout() => DeliveryStatus::TimedOut,
        Err(_) => DeliveryStatus::Unreachable,
    }
}

/// The request of a delivery; none when there is nowhere to send it.
fn prepare(world: &mut World, client: &reqwest::Client, id: u64) -> Option<reqwest::RequestBuilder> {
    let url = world.settings.webhook_url.clone()?;
    let delivery = world.hooks.get_mut(id)?;
    delivery.at = Instant::now();
    let (guid, action, job) = (delivery.guid.clone(), delivery.action, delivery.job.clone());
    let body = wire::payload(world, action, &job).to_string();
    let signature = sign(world.settings.webhook_secret.expose(), body.as_bytes())?;
    world.tell(What::WebhookSent { job: job.id, action });
    let request = client
        .post(url)
        .timeout(world.settings.webhook_timeout)
        .header("Accept", "*/*")
        .header("Content-Type", "application/json")
        .header("User-Agent", "GitHub-Hookshot/0f4c1de")
        .header("X-GitHub-Delivery", guid)
        .header("X-GitHub-Event", "workflow_job")
        .header("X-GitHub-Hook-ID", HOOK_ID)
        .header("X-GitHub-Hook-Installation-Target-ID", "11")
        .header("X-GitHub-Hook-Installation-Target-Type", "organization")
        .header("X-Hub-Signature-256", signature)
        .body(body);
    Some(request)
}

/// The value of `X-Hub-Signature-256` for `body`.
pub(super) fn sign(secret: &str, body: &[u8]) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
    mac.update(body);
    let digits: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("sha256={digits}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_the_one_that_github_documents() {
        let signature = sign("It's a Secret to Everybody", b"Hello, World!").unwrap();
        assert_eq!(signature, "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17");
    }
}
