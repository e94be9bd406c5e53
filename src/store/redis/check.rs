//! Whether a server is one that we can use: asked with each new connection.

use redis::{Cmd, Value};

use super::connect::Trouble;
use super::error;
use super::script::{CHECK, Call};

/// The oldest version that has all that the scripts need.
const OLDEST: (u32, u32) = (6, 2);
/// The layout of the keys that this release knows.
const SCHEMA: &str = "1";

/// What is asked, for [`answers`].
pub(super) fn questions(prefix: &str) -> [Cmd; 3] {
    [redis::cmd("ROLE"), redis::cmd("INFO"), Call::new(&CHECK).command(prefix)]
}

/// Judges the answers, which are the last of `all`. Returns what whoever runs the server should know.
///
/// What a user may not ask (`ROLE`, `INFO`) is not judged.
pub(super) fn answers(server: &str, mut all: Vec<Value>) -> Result<Vec<String>, Trouble> {
    let refused = |text: String| Trouble { text, definite: true };
    let asked = all.split_off(all.len().saturating_sub(3));
    for answer in all {
        if let Err(error) = answer.extract_error() {
            return Err(Trouble { text: error::words(server, &error), definite: error::is_definite(&error) });
        }
    }
    let [role, info, found] = <[Value; 3]>::try_from(asked)
        .map_err(|_| Trouble { text: format!("{server} gave too few answers"), definite: false })?;
    if let Value::Array(fields) = &role
        && let Some(Value::BulkString(role)) = fields.first()
        && role != b"master"
    {
        let text = format!("{server} is a read-only replica: name the master, or its Sentinels");
        return Err(Trouble { text, definite: false });
    }
    let info = redis::from_redis_value::<String>(info).unwrap_or_default();
    let notes = judge(server, &info).map_err(refused)?;
    let found = found
        .extract_error()
        .map_err(|error| Trouble { text: error::words(server, &error), definite: error::is_definite(&error) })?;
    keys(server, found).map_err(refused)?;
    Ok(notes)
}

/// Judges what the script `check` found.
pub(super) fn keys(server: &str, found: Value) -> Result<(), String> {
    let found: Vec<String> = redis::from_redis_value(found).map_err(|error| format!("{server}: {error}"))?;
    if let [_, key, holds, expected] = found.as_slice() {
        return Err(format!(
            "{server}: key {key} holds a {holds}, expected a {expected}: is this database used by something else?"
        ));
    }
    match found.first().map(String::as_str) {
        None | Some("" | SCHEMA) => Ok(()),
        Some(newer) => Err(format!(
            "{server} holds the state of a newer release (schema {newer}, this one knows up to {SCHEMA}): run that release"
        )),
    }
}

fn judge(server: &str, info: &str) -> Result<Vec<String>, String> {
    let field = |name: &str| {
        info.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim())
    };
    if let Some(version) = field("redis_version") {
        let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
        if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < OLDEST {
            return Err(format!("{server} has version {version}: {}.{} or later is needed", OLDEST.0, OLDEST.1));
        }
    }
    if let Some(policy) = field("maxmemory_policy")
        && policy.starts_with("allkeys-")
        && field("maxmemory").is_some_and(|limit| limit != "0")
    {
        return Err(format!(
            "{server} would throw state away when its memory is full (maxmemory-policy {policy}): set noeviction"
        ));
    }
    let mut notes = Vec::new();
    if field("aof_enabled") == Some("0") {
        notes.push(
            "Redis has appendonly no: what it acknowledged since its last snapshot is lost when it ends: set appendonly yes"
                .to_owned(),
        );
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_are_too_old_or_throw_state_away_are_refused() {
        let judged = |info: &str| judge("Redis at a:1", info);
        assert_eq!(
            judged("redis_version:6.0.16\r\n"),
            Err("Redis at a:1 has version 6.0.16: 6.2 or later is needed".to_owned())
        );
        let evicting = "redis_version:7.0.15\r\nmaxmemory:1000\r\nmaxmemory_policy:allkeys-lru\r\n";
        assert!(judged(evicting).is_err_and(|text| text.contains("maxmemory-policy allkeys-lru")));
        for fine in [
            "",
            "redis_version:6.2.0\r\naof_enabled:1\r\n",
            "redis_version:10.0.0\r\nmaxmemory:1\r\nmaxmemory_policy:noeviction\r\n",
            "redis_version:7.2.4\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n",
        ] {
            assert_eq!(judged(fine), Ok(vec![]), "{fine}");
        }
        assert_eq!(judged("redis_version:7.0.15\r\naof_enabled:0\r\n").map(|notes| notes.len()), Ok(1));
    }
}
