//! How values and keys appear in error messages, without secrets.

use super::tree::{Node, Value};

/// What a value is, without its text: `text`, `a list`, …
pub(super) fn kind(node: &Node) -> &'static str {
    match &node.value {
        Value::Null => "nothing",
        Value::Scalar { .. } => "text",
        Value::List(_) => "a list",
        Value::Map(_) => "a mapping",
    }
}

/// What a value is, with its text, shortened; what looks like a secret is not shown.
pub(super) fn show(node: &Node) -> String {
    match &node.value {
        Value::Scalar { text, .. } => show_text(text),
        _ => kind(node).to_owned(),
    }
}

/// A text in quotes, shortened; what looks like a secret is not shown.
pub(super) fn show_text(text: &str) -> String {
    const SECRET_PREFIXES: [&str; 8] = ["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "-----BEGIN", "AKIA"];
    if SECRET_PREFIXES.iter().any(|prefix| text.contains(prefix)) {
        return "text that looks like a secret".to_owned();
    }
    if text.chars().count() > 60 {
        return format!("{:?}…", text.chars().take(60).collect::<String>());
    }
    format!("{text:?}")
}

/// The beginning of a text that is no value, such as a tag.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A key, if it has the form of one.
pub(super) fn show_key(key: &str) -> String {
    let name = key.len() <= 64 && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if name { key.to_owned() } else { "[…]".to_owned() }
}

/// The known key that `key` most likely stands for: a few letters away, or how it starts.
pub(super) fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let key = key.to_ascii_lowercase().replace('-', "_");
    let distance = |name: &str| strsim::damerau_levenshtein(&key, name);
    let (distance, name) = known.iter().map(|name| (distance(name), *name)).min()?;
    if distance * 3 <= name.len() {
        return Some(name);
    }
    known.iter().copied().filter(|name| name.len() >= 3 && key.starts_with(name)).max_by_key(|name| name.len())
}
