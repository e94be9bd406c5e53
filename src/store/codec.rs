//! Snapshots as text: JSON in an envelope that names its version.
//!
//! `{"v":1,"data":{…}}`. A release reads every version up to its own. Within a version, a field may be added if it has a
//! default; anything else needs the next version, a conversion here, and the next schema version of each store, so that
//! an older release refuses what it cannot read. The fixtures in `tests/fixtures/store` hold it to that.

use actors::model::delivery::Delivery;
use actors::model::group::GroupSnapshot;
use actors::model::job::Job;
use actors::model::runner::Runner;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Something that is stored in an envelope.
pub trait Snapshot: Serialize + DeserializeOwned {
    /// What it is, for messages.
    const KIND: &'static str;
    /// The version that this release writes, and the newest it reads.
    const VERSION: u32;
}

impl Snapshot for Delivery {
    const KIND: &'static str = "delivery";
    const VERSION: u32 = 1;
}

impl Snapshot for GroupSnapshot {
    const KIND: &'static str = "group";
    const VERSION: u32 = 1;
}

impl Snapshot for Job {
    const KIND: &'static str = "job";
    const VERSION: u32 = 1;
}

impl Snapshot for Runner {
    const KIND: &'static str = "runner";
    const VERSION: u32 = 1;
}

/// Why a snapshot could not be written or read.
#[derive(Debug, Error)]
pub enum CodecError {
    /// It has no JSON form.
    #[error("cannot write a {kind} as JSON: {source}")]
    Encode {
        /// What it is.
        kind: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// It is not an envelope, or its content has another form than its version says.
    #[error("not a {kind}: {source}")]
    Malformed {
        /// What it should be.
        kind: &'static str,
        /// What was wrong, and where.
        source: serde_json::Error,
    },
    /// It has a version that this release does not know.
    #[error("{kind} has version {found}, this release knows versions up to {known}")]
    UnknownVersion {
        /// What it is.
        kind: &'static str,
        /// Its version.
        found: u32,
        /// The newest known version.
        known: u32,
    },
}

#[derive(Serialize)]
struct Written<'a, T> {
    v: u32,
    data: &'a T,
}

#[derive(Deserialize)]
struct Read<T> {
    v: u32,
    data: T,
}

#[derive(Deserialize)]
struct Header {
    v: u32,
}

/// Puts a snapshot into its envelope.
///
/// # Errors
/// [`CodecError::Encode`]; does not happen for plain data.
pub fn encode<T: Snapshot>(snapshot: &T) -> Result<String, CodecError> {
    serde_json::to_string(&Written { v: T::VERSION, data: snapshot })
        .map_err(|source| CodecError::Encode { kind: T::KIND, source })
}

/// Takes a snapshot out of its envelope.
///
/// # Errors
/// [`CodecError::UnknownVersion`] or [`CodecError::Malformed`].
pub fn decode<T: Snapshot>(text: &[u8]) -> Result<T, CodecError> {
    let unknown = |found| CodecError::UnknownVersion { kind: T::KIND, found, known: T::VERSION };
    match serde_json::from_slice::<Read<T>>(text) {
        Ok(read) if (1..=T::VERSION).contains(&read.v) => Ok(read.data),
        Ok(read) => Err(unknown(read.v)),
        Err(source) => match serde_json::from_slice::<Header>(text) {
            Ok(header) if !(1..=T::VERSION).contains(&header.v) => Err(unknown(header.v)),
            _ => Err(CodecError::Malformed { kind: T::KIND, source }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_decoded() {
        let snapshot = GroupSnapshot { failures: 3, ..GroupSnapshot::default() };
        let text = encode(&snapshot).unwrap();
        assert!(text.starts_with(r#"{"v":1,"data":{"#), "{text}");
        assert_eq!(decode::<GroupSnapshot>(text.as_bytes()).unwrap(), snapshot);
    }

    #[test]
    fn an_unknown_version_is_named_even_when_its_content_is_not_understood() {
        for text in [r#"{"v":9,"data":{"anything":1}}"#, r#"{"v":9}"#, r#"{"v":0,"data":7}"#] {
            let error = decode::<GroupSnapshot>(text.as_bytes()).unwrap_err();
            assert!(matches!(error, CodecError::UnknownVersion { found: 9 | 0, known: 1, .. }), "{text}: {error}");
        }
        let newer = encode(&GroupSnapshot::default()).unwrap().replacen(r#""v":1"#, r#""v":2"#, 1);
        assert_eq!(
            decode::<GroupSnapshot>(newer.as_bytes()).unwrap_err().to_string(),
            "group has version 2, this release knows versions up to 1"
        );
    }

    #[test]
    fn what_is_no_snapshot_is_malformed() {
        for text in [&b""[..], b"garbage", b"{}", b"{\"v\":1,\"data\":{}}", b"\xff\xfe", b"{\"v\":1,\"data\":{\"curs"] {
            assert!(matches!(decode::<GroupSnapshot>(text), Err(CodecError::Malformed { .. })), "{text:?}");
        }
    }
}
