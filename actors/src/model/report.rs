//! What an instance reports of itself while it boots.

use serde::{Deserialize, Serialize};

/// Most characters of a message that are kept.
const MESSAGE_MAX: usize = 500;

/// How far an instance says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportStatus {
    /// It installs the runner.
    Installing,
    /// The runner is installed and started.
    Idle,
    /// It gave up.
    Failed,
}

impl ReportStatus {
    /// As interfaces spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Installing => "installing",
            Self::Idle => "idle",
            Self::Failed => "failed",
        }
    }
}

/// One report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceReport {
    /// How far it is.
    pub status: ReportStatus,
    /// In its own words: one line of at most 500 characters.
    pub message: String,
}

impl InstanceReport {
    /// A report; what an instance says is made one line, without control characters, and cut.
    #[must_use]
    pub fn new(status: ReportStatus, message: &str) -> Self {
        Self { status, message: one_line(message, MESSAGE_MAX) }
    }
}

/// A foreign text as one line of at most `max` characters: control characters and runs of white space become one space.
#[must_use]
pub fn one_line(text: &str, max: usize) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    if line.chars().count() <= max {
        return line;
    }
    line.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_text_becomes_one_bounded_line() {
        assert_eq!(one_line(" a\tb\n\nc\u{1b}[31m\0d ", 100), "a b c [31m d");
        assert_eq!(one_line("", 5), "");
        assert_eq!(one_line("abc def", 7), "abc def");
        for max in 1..30 {
            let line = one_line("one two three \u{1F600}\u{1F600}\u{1F600} four", max);
            assert!(line.chars().count() <= max, "{max}: {line:?}");
        }
        assert_eq!(InstanceReport::new(ReportStatus::Idle, &"x".repeat(10_000)).message.chars().count(), 500);
    }
}
