//! GitHub's signature of a delivery: HMAC-SHA256 over the raw body.

use actors::model::secret::Secret;
use hmac::{Hmac, Mac};
use poem::http::HeaderMap;
use sha2::Sha256;
use thiserror::Error;

/// The header that carries it.
const HEADER: &str = "x-hub-signature-256";

/// Why a body is not believed to come from GitHub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum SignatureError {
    /// No such header.
    #[error("X-Hub-Signature-256 is missing")]
    Missing,
    /// The header came more than once.
    #[error("X-Hub-Signature-256 was sent more than once")]
    Repeated,
    /// Another form than `sha256=` and 64 hexadecimal digits.
    #[error("X-Hub-Signature-256 is not of the form sha256=<64 hexadecimal digits>")]
    Malformed,
    /// Another secret or another body.
    #[error("X-Hub-Signature-256 does not match the body")]
    Wrong,
}

/// Checks `body` against the one signature in `headers`, in constant time. Digits may be of either case.
pub(super) fn verify(secret: &Secret, headers: &HeaderMap, body: &[u8]) -> Result<(), SignatureError> {
    let mut values = headers.get_all(HEADER).iter();
    let value = values.next().ok_or(SignatureError::Missing)?;
    if values.next().is_some() {
        return Err(SignatureError::Repeated);
    }
    let hex = value.as_bytes().strip_prefix(b"sha256=").ok_or(SignatureError::Malformed)?;
    let signature = decode(hex).ok_or(SignatureError::Malformed)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).map_err(|_| SignatureError::Malformed)?;
    mac.update(body);
    mac.verify_slice(&signature).map_err(|_| SignatureError::Wrong)
}

fn decode(hex: &[u8]) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use poem::http::HeaderValue;

    use super::*;

    const DIGEST: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn check(signatures: &[&str], body: &[u8]) -> Result<(), SignatureError> {
        let mut headers = HeaderMap::new();
        for signature in signatures {
            headers.append(HEADER, HeaderValue::from_str(signature).unwrap());
        }
        verify(&Secret::new("It's a Secret to Everybody".to_owned()), &headers, body)
    }

    #[test]
    fn the_documented_vector_is_accepted_in_either_case() {
        assert_eq!(check(&[&format!("sha256={DIGEST}")], b"Hello, World!"), Ok(()));
        assert_eq!(check(&[&format!("sha256={}", DIGEST.to_uppercase())], b"Hello, World!"), Ok(()));
    }

    #[test]
    fn everything_else_is_refused() {
        let good = format!("sha256={DIGEST}");
        assert_eq!(check(&[], b"Hello, World!"), Err(SignatureError::Missing));
        assert_eq!(check(&[&good, &good], b"Hello, World!"), Err(SignatureError::Repeated));
        assert_eq!(check(&[&good], b"Hello, World"), Err(SignatureError::Wrong));
        assert_eq!(check(&[&format!("sha256={}", "0".repeat(64))], b"Hello, World!"), Err(SignatureError::Wrong));
        for malformed in [
            DIGEST.to_owned(),
            format!("sha1={}", &DIGEST[..40]),
            format!("SHA256={DIGEST}"),
            format!("sha256={}", &DIGEST[..63]),
            format!("sha256={DIGEST}0"),
            format!("sha256=+{}", &DIGEST[1..]),
            format!("sha256={DIGEST},sha256={DIGEST}"),
            "sha256=".to_owned(),
            String::new(),
        ] {
            assert_eq!(check(&[&malformed], b"Hello, World!"), Err(SignatureError::Malformed), "{malformed}");
        }
    }
}
