//! What Redis answers when something is wrong, in words and with what to do about it.

use redis::{ErrorKind, RedisError};

/// Codes of answers that say: not here, or not now. Nothing was done, and another connection may help.
const ELSEWHERE: [&str; 6] = ["READONLY", "MOVED", "ASK", "CLUSTERDOWN", "LOADING", "MASTERDOWN"];
/// Codes that are looked for in what a script died of: before version 7 they are inside its text.
const INSIDE: [&str; 7] = ["OOM", "READONLY", "WRONGTYPE", "MISCONF", "NOREPLICAS", "CLUSTERDOWN", "NOPERM"];
/// Most bytes of an answer that are shown.
const SHOWN_MAX: usize = 300;

/// The code of an answer, also when a script was ended by it.
pub(super) fn code(error: &RedisError) -> &str {
    let code = error.code().unwrap_or_default();
    let detail = error.detail().unwrap_or_default();
    if code == "ERR" && detail.contains("@user_script") {
        return INSIDE.into_iter().find(|inside| detail.contains(inside)).unwrap_or(code);
    }
    code
}

/// Whether the scripts must be loaded again.
pub(super) fn is_no_script(error: &RedisError) -> bool {
    code(error) == "NOSCRIPT"
}

/// Whether the server did nothing and another connection may lead to one that does.
pub(super) fn is_elsewhere(error: &RedisError) -> bool {
    ELSEWHERE.contains(&code(error))
}

/// Whether nothing is gained by trying again soon.
pub(super) fn is_definite(error: &RedisError) -> bool {
    matches!(code(error), "NOAUTH" | "WRONGPASS" | "NOPERM" | "WRONGTYPE")
        || matches!(error.kind(), ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig)
}

/// The error as a sentence about `server`.
pub(super) fn words(server: &str, error: &RedisError) -> String {
    let detail: String = match error.detail() {
        Some(detail) => detail.chars().take(SHOWN_MAX).collect(),
        None => error.to_string(),
    };
    match code(error) {
        "OOM" => format!("{server} is out of memory (maxmemory): raise it, or free some"),
        "READONLY" => format!("{server} is a read-only replica: name the master, or its Sentinels"),
        "WRONGTYPE" => format!(
            "{server} holds something else in a key of ours: is this database used by something else? ({detail})"
        ),
        "MISCONF" => {
            format!("{server} refuses writes because it cannot save to its disk: free some space, or see its log")
        }
        "NOREPLICAS" => format!("{server} refuses writes because it has too few replicas (min-replicas-to-write)"),
        "NOAUTH" => format!("{server} asks for a password: give one"),
        "WRONGPASS" => format!("{server} refuses the user name or password"),
        "NOPERM" => format!("{server} does not permit this user what is needed: {detail}"),
        "LOADING" => format!("{server} is still loading its data"),
        "MASTERDOWN" => format!("{server} is a replica that has lost its master"),
        "CLUSTERDOWN" => format!("{server} says that its cluster is down: {detail}"),
        "MOVED" | "ASK" => format!("{server} has given our keys to another node"),
        "" if error.is_connection_refusal() => format!("{server} refuses connections: does it run there?"),
        "" if error.kind() == ErrorKind::AuthenticationFailed => {
            format!("{server} refuses the user name or password")
        }
        "" if error.is_timeout() => format!("{server} did not answer in time"),
        "" if error.is_io_error() => format!("the connection to {server} failed: {detail}"),
        "" => format!("{server}: {detail}"),
        code => format!("{server} answers {code} {detail}"),
    }
}
