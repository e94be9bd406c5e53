//! Reading a request's body within a size, a time and a budget of memory.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use poem::Body;
use poem::http::header::CONTENT_LENGTH;
use poem::http::{HeaderMap, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::problem::Problem;

/// Room that is made before the first byte, at most.
const FIRST_ROOM: usize = 64 << 10;

/// Bodies that announce at most this much have a share of the memory of their own.
const SMALL: usize = 256 << 10;

/// The memory for bodies: large ones, or ones that do not say how long they are, cannot take it all.
pub(super) struct Budget {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Budget {
    /// Shares out so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        let small = bytes / 4;
        Self { small: Arc::new(Semaphore::new(small)), large: Arc::new(Semaphore::new(bytes - small)) }
    }

    fn of(&self, declared: usize) -> &Arc<Semaphore> {
        if (1..=SMALL).contains(&declared) { &self.small } else { &self.large }
    }
}

/// How much, and how slowly, a body may come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes at most.
    pub(super) bytes: usize,
    /// For the whole body.
    pub(super) deadline: Duration,
    /// For the next piece of it.
    pub(super) stall: Duration,
}

/// A body in memory, counted against the budget until it is dropped.
pub(super) struct Held {
    /// The bytes.
    pub(super) bytes: Vec<u8>,
    _share: Option<OwnedSemaphorePermit>,
}

/// Why a body was not read.
#[derive(Debug)]
pub(super) enum BodyError {
    /// Longer than allowed.
    TooLarge(usize),
    /// Not there in time.
    TooSlow,
    /// All bodies together are too much.
    NoMemory,
    /// The connection or its framing broke.
    Broken(io::Error),
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge(limit) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is longer than {limit} bytes"))
            }
            BodyError::TooSlow => Self::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
            BodyError::NoMemory => Self::unavailable("too many bodies are being received: try again"),
            BodyError::Broken(error) => Self::bad_request(format!("the body could not be read: {error}")),
        }
    }
}

/// Reads `body` whole. Stops at the first bound it meets; nothing more is read then.
pub(super) async fn read(headers: &HeaderMap, body: Body, bounds: Bounds, budget: &Budget) -> Result<Held, BodyError> {
    let declared = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if declared.is_some_and(|length| length > bounds.bytes as u64) {
        return Err(BodyError::TooLarge(bounds.bytes));
    }
    let declared = declared.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);

    let end = Instant::now() + bounds.deadline;
    let mut bytes = Vec::with_capacity(declared.min(FIRST_ROOM));
    let mut share: Option<OwnedSemaphorePermit> = None;
    let mut pieces = pin!(body.into_bytes_stream());
    loop {
        let next = end.min(Instant::now() + bounds.stall);
        let piece = match timeout_at(next, pieces.next()).await {
            Err(_) => return Err(BodyError::TooSlow),
            Ok(None) => return Ok(Held { bytes, _share: share }),
            Ok(Some(Err(error))) => return Err(BodyError::Broken(error)),
            Ok(Some(Ok(piece))) => piece,
        };
        if piece.len() > bounds.bytes - bytes.len() {
            return Err(BodyError::TooLarge(bounds.bytes));
        }
        // A body takes of the budget what has come of it, not what it announces: a stalled one takes little.
        let size = u32::try_from(piece.len()).map_err(|_| BodyError::TooLarge(bounds.bytes))?;
        let more = Arc::clone(budget.of(declared)).try_acquire_many_owned(size).map_err(|_| BodyError::NoMemory)?;
        match &mut share {
            Some(share) => share.merge(more),
            None => share = Some(more),
        }
        if bytes.len() + piece.len() > bytes.capacity() && declared > bytes.len() {
            bytes.reserve_exact(declared - bytes.len());
        }
        bytes.extend_from_slice(&piece);
        if Instant::now() >= end {
            return Err(BodyError::TooSlow);
        }
    }
}
