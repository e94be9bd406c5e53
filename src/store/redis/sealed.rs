//! What is kept sealed: a key of its own for each entry, which Redis forgets by itself.

use actors::id::{GroupName, RunnerName};
use actors::port::store::Sealed;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::script::{Call, FORGET_SEALED, SEAL};

/// An entry as Redis has it.
#[derive(Serialize, Deserialize)]
struct Entry {
    runner: RunnerName,
    group: GroupName,
    /// Milliseconds since the Unix epoch.
    until: i64,
    /// Base64.
    body: String,
}

/// Keeps an entry until its time is over.
pub(super) fn keep(sealed: Sealed) -> Result<Call, serde_json::Error> {
    let Sealed { key, runner, group, body, until } = sealed;
    let name = runner.as_str().to_owned();
    let until = until.as_millisecond();
    let entry = Entry { runner, group, until, body: STANDARD.encode(body) };
    let entry = serde_json::to_vec(&entry)?;
    Ok(Call::new(&SEAL).arg(key).arg(name).arg(until.max(0).to_string()).arg(entry))
}

/// Forgets all entries of a runner.
pub(super) fn forget(runner: &RunnerName) -> Call {
    Call::new(&FORGET_SEALED).arg(runner.as_str())
}

/// The name of an entry's key behind the prefix.
pub(super) fn place(key: &str) -> String {
    format!("sealed:{key}")
}

/// The entry, if it is one.
pub(super) fn entry(key: &str, body: &[u8]) -> Option<Sealed> {
    let Entry { runner, group, until, body } = serde_json::from_slice(body).ok()?;
    let until = Timestamp::from_millisecond(until).ok()?;
    Some(Sealed { key: key.to_owned(), runner, group, body: STANDARD.decode(body).ok()?, until })
}
