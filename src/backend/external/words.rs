//! What a provider says when it fails: made safe to show, and what it means.

use actors::model::report::one_line;
use actors::model::secret::Secret;
use actors::port::backend::BackendError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Most characters of a provider's words that are kept.
const TEXT_MAX: usize = 2000;
/// Shortest piece of an encoded secret that is looked for.
const PIECE_MIN: usize = 16;

/// What stands where a secret stood.
const HIDDEN: &str = "***";

/// The end of what a provider said, as one line without the secrets, in whatever form it echoed them.
pub(super) fn text(said: &[u8], secrets: &[&Secret]) -> String {
    let mut text = String::from_utf8_lossy(said).into_owned();
    for secret in secrets {
        for form in forms(secret.expose()) {
            text = text.replace(&form, HIDDEN);
        }
    }
    let line = one_line(&text, usize::MAX);
    match line.char_indices().rev().nth(TEXT_MAX - 2) {
        Some((start, _)) if start > 0 => format!("…{}", &line[start..]),
        _ => line,
    }
}

/// A secret as it is, and what of it can be found in base64 of a text that holds it at any place.
fn forms(secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned()];
    for before in 0..3_usize {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(secret.as_bytes());
        let (first, last) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
        let encoded = STANDARD.encode(&bytes);
        forms.extend(encoded.get(first..last).filter(|piece| piece.len() >= PIECE_MIN).map(str::to_owned));
    }
    forms.retain(|form| !form.is_empty());
    forms
}

/// Words of clouds, in lower case, and the kind of failure that they tell of. The first that is found counts.
const WORDS: &[(&str, Kind)] = &[
    ("requestlimitexceeded", Kind::Throttled),
    ("ratelimitexceeded", Kind::Throttled),
    ("throttl", Kind::Throttled),
    ("rate exceeded", Kind::Throttled),
    ("rate limit", Kind::Throttled),
    ("too many requests", Kind::Throttled),
    ("toomanyrequests", Kind::Throttled),
    ("insufficientinstancecapacity", Kind::NoCapacity),
    ("insufficienthostcapacity", Kind::NoCapacity),
    ("insufficientreservedinstancecapacity", Kind::NoCapacity),
    ("insufficient capacity", Kind::NoCapacity),
    ("zone_resource_pool_exhausted", Kind::NoCapacity),
    ("resource_pool_exhausted", Kind::NoCapacity),
    ("does not have enough resources available", Kind::NoCapacity),
    ("skunotavailable", Kind::NoCapacity),
    ("allocationfailed", Kind::NoCapacity),
    ("overconstrained", Kind::NoCapacity),
    ("no valid host was found", Kind::NoCapacity),
    ("out of host capacity", Kind::NoCapacity),
    ("out of capacity", Kind::NoCapacity),
    ("insufficient server capacity", Kind::NoCapacity),
    ("quotaexceeded", Kind::Quota),
    ("quota_exceeded", Kind::Quota),
    ("quota exceeded", Kind::Quota),
    ("exceeded quota", Kind::Quota),
    ("exceeded for quota", Kind::Quota),
    ("exceeding approved", Kind::Quota),
    ("exceeds quota", Kind::Quota),
    ("exceeded its quota", Kind::Quota),
    ("instancelimitexceeded", Kind::Quota),
    ("vcpulimitexceeded", Kind::Quota),
    ("maxspotinstancecountexceeded", Kind::Quota),
    ("limitexceeded", Kind::Quota),
    ("unauthorizedoperation", Kind::Unauthorized),
    ("authfailure", Kind::Unauthorized),
    ("invalidclienttokenid", Kind::Unauthorized),
    ("authorizationfailed", Kind::Unauthorized),
    ("accessdenied", Kind::Unauthorized),
    ("expiredtoken", Kind::Unauthorized),
    ("authentication required", Kind::Unauthorized),
    ("401 unauthorized", Kind::Unauthorized),
    ("403 forbidden", Kind::Unauthorized),
    ("invalidamiid", Kind::Invalid),
    ("imagenotfound", Kind::Invalid),
    ("failed to validate extra specs", Kind::Invalid),
    ("failed to validate extra_specs", Kind::Invalid),
];

#[derive(Clone, Copy)]
enum Kind {
    NoCapacity,
    Quota,
    Unauthorized,
    Throttled,
    Invalid,
}

/// The error that a provider's words tell of; without words that are known, the outcome is unknown.
pub(super) fn failure(text: String) -> BackendError {
    let lower = text.to_ascii_lowercase();
    match WORDS.iter().find(|(word, _)| lower.contains(word)).map(|(_, kind)| kind) {
        Some(Kind::NoCapacity) => BackendError::NoCapacity(text),
        Some(Kind::Quota) => BackendError::Quota(text),
        Some(Kind::Unauthorized) => BackendError::Unauthorized(text),
        Some(Kind::Throttled) => BackendError::Throttled { text, retry_after: None },
        Some(Kind::Invalid) => BackendError::Invalid(text),
        None => BackendError::Unavailable(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_hidden_as_it_is_and_in_base64_at_any_place() {
        let secret = Secret::new("0123456789abcdef0123456789abcdef".to_owned());
        let plain = text(b"token 0123456789abcdef0123456789abcdef\nrefused", &[&secret]);
        assert_eq!(plain, "token *** refused");
        for before in 0..6 {
            let script = format!("{}{}; exit", "x".repeat(before), secret.expose());
            let said = format!("user data {} refused", STANDARD.encode(&script));
            let shown = text(said.as_bytes(), &[&secret]);
            assert!(shown.contains(HIDDEN), "{shown}");
            for word in shown.split([' ', '*']) {
                let readable = STANDARD.decode(word).unwrap_or_default();
                assert!(!String::from_utf8_lossy(&readable).contains("456789ab"), "{shown}");
            }
        }
    }

    #[test]
    fn only_the_end_is_kept_as_one_line_whatever_the_bytes() {
        let mut said = vec![0xff; 10];
        said.extend(std::iter::repeat_n(b'a', 10_000));
        said.extend(b"\r\n\x1b[31mthe reason\x00\n");
        let shown = text(&said, &[]);
        assert!(shown.ends_with("a [31mthe reason"), "{shown}");
        assert!(shown.starts_with('…'));
        assert_eq!(shown.chars().count(), TEXT_MAX);
        assert_eq!(text(b" short ", &[]), "short");
    }

    #[test]
    fn words_of_clouds_say_what_kind_of_failure_it_is() {
        for (said, kind) in [
            ("InsufficientInstanceCapacity: We currently do not have sufficient m5.large", "no_capacity"),
            ("googleapi: Error 503: ZONE_RESOURCE_POOL_EXHAUSTED", "no_capacity"),
            ("Code=\"SkuNotAvailable\"", "no_capacity"),
            ("No valid host was found. There are not enough hosts", "no_capacity"),
            ("Quota 'CPUS' exceeded. QUOTA_EXCEEDED", "quota"),
            (
                "Code=QuotaExceeded Message=Operation could not be completed as it results in exceeding approved",
                "quota",
            ),
            ("VcpuLimitExceeded: You have requested more vCPU capacity", "quota"),
            ("RequestLimitExceeded: Request limit exceeded.", "throttled"),
            ("UnauthorizedOperation: You are not authorized", "unauthorized"),
            ("InvalidAMIID.NotFound: The image id", "invalid"),
            ("something else broke", "unavailable"),
        ] {
            assert_eq!(failure(said.to_owned()).kind(), kind, "{said}");
        }
    }
}
