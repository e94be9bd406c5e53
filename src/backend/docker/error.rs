//! What the daemon's errors mean for who asked.

use std::error::Error as StdError;

use actors::port::backend::BackendError;
use bollard::errors::Error;

use super::transport::{Unsent, refusal};

/// What the daemon answered, when it did: status and text.
pub(super) fn answer(error: &Error) -> Option<(u16, &str)> {
    match error {
        Error::DockerResponseServerError { status_code, message } => Some((*status_code, message)),
        _ => None,
    }
}

/// Why the daemon has not seen the request, when it has not.
pub(super) fn unsent(error: &Error) -> Option<BackendError> {
    let Error::IOError { err } = error else { return None };
    err.get_ref()?.downcast_ref::<Unsent>().map(|unsent| unsent.0.clone())
}

/// `error` while `what` was tried, such as `cannot list the containers`.
pub(super) fn failure(what: &str, error: &Error) -> BackendError {
    if let Some((status, message)) = answer(error) {
        return answered(status, format!("{what}: {}", message.trim()));
    }
    if let Some(unsent) = unsent(error) {
        return unsent;
    }
    if let Error::RequestTimeoutError = error {
        return BackendError::Timeout(format!("{what}: the daemon does not answer"));
    }
    if let Some(refusal) = refusal(error) {
        return BackendError::Unauthorized(format!("{what}: the daemon {refusal}"));
    }
    BackendError::Unavailable(format!("{what}: {}", chain(error)))
}

fn answered(status: u16, text: String) -> BackendError {
    match status {
        400 | 404 | 409 | 422 => BackendError::Invalid(text),
        401 | 403 => BackendError::Unauthorized(text),
        408 | 504 => BackendError::Timeout(text),
        429 => BackendError::Throttled { text, retry_after: None },
        _ if no_room(&text) => BackendError::NoCapacity(text),
        _ => BackendError::Unavailable(text),
    }
}

/// Whether a text of the daemon speaks of an exhausted host.
pub(super) fn no_room(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["no space left", "cannot allocate memory", "disk quota exceeded"].iter().any(|words| text.contains(words))
}

/// An error with its causes, each once.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

/// What a request that may have been carried out came to: a daemon that is gone now may have done it before.
pub(super) fn not_sure(error: BackendError) -> BackendError {
    match error {
        BackendError::Unreachable(text) => BackendError::Unavailable(text),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_decides_what_happens_next() {
        let kind = |status_code, message: &str| {
            failure("cannot", &Error::DockerResponseServerError { status_code, message: message.to_owned() }).kind()
        };
        for (status, message, expected) in [
            (400, "bad", "invalid"),
            (404, "network x not found", "invalid"),
            (409, "in use", "invalid"),
            (401, "who", "unauthorized"),
            (403, "you", "unauthorized"),
            (429, "slow", "throttled"),
            (504, "late", "timeout"),
            (500, "write /x: no space left on device", "no_capacity"),
            (500, "fork/exec: Cannot allocate memory", "no_capacity"),
            (500, "driver failed", "unavailable"),
            (503, "", "unavailable"),
        ] {
            assert_eq!(kind(status, message), expected, "{status} {message}");
        }
    }

    #[test]
    fn what_was_not_sent_has_not_happened_and_what_was_lost_may_have() {
        let refused = Error::from(Unsent(BackendError::Unreachable("down".to_owned())));
        assert_eq!(failure("cannot", &refused), BackendError::Unreachable("down".to_owned()));
        let cut = Error::IOError { err: std::io::ErrorKind::ConnectionReset.into() };
        assert!(failure("cannot", &cut).outcome_unknown());
        assert!(failure("cannot", &Error::RequestTimeoutError).outcome_unknown());
        assert!(not_sure(BackendError::Unreachable("down".to_owned())).outcome_unknown());
    }
}
