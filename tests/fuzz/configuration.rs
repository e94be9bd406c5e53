//! Configuration files: a checked configuration, or errors that name their places and show no secret.
//!
//! An input is a file; lines `#env NAME=VALUE` in it are variables.

use std::collections::BTreeMap;
use std::fs;

use runner_manager::check;
use runner_manager::config;

use crate::door::{Door, fuzz};

/// What every secret of the corpus holds.
const MARK: &str = "zqxjkvbw";
/// Keys whose values are secrets.
const SECRETS: [&str; 7] =
    ["github_token", "github_webhook_secret", "api_key", "key", "token", "github_private_key", "private_key"];
/// Most errors that are collected, and that are shown.
const ERRORS_MAX: usize = 1100;
const SHOWN_MAX: usize = 51;
/// Longest text of one error, in bytes.
const TEXT_MAX: usize = 2000;

/// Whether secrets are only where secrets belong.
fn at_home(text: &str) -> bool {
    text.lines().all(|line| {
        let Some(at) = line.find(MARK) else { return true };
        let before = line[..at].trim_start_matches([' ', '-']);
        let known = SECRETS.iter().any(|key| before == format!("{key}: ") || before == format!("{key}: ghp_"));
        let variable = line.starts_with("#env GITHUB_TOKEN=") || line.starts_with("#env API_KEY=");
        // A second one in the line, or a quote that makes it a part of something else.
        (known || variable) && line.matches(MARK).count() == 1 && !line[at..].contains([':', '#', ',', '}', '"'])
    }) && text.matches(['"', '\'', '|', '>', '\\', '&', '*', '!', '\t', '%', '?']).count() == 0
}

fn check(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yaml");
        fs::write(&path, input).unwrap();
        let errors = config::load(Some(&path), &|_| None).unwrap_err().to_string();
        assert!(errors.contains("bytes that are not UTF-8"), "{errors}");
        return "not UTF-8".to_owned();
    };
    let variables = text.lines().filter_map(|line| line.strip_prefix("#env ")?.split_once('='));
    let variables: BTreeMap<&str, &str> = variables.collect();
    let home = at_home(text);
    match config::parse(text, "c.yaml", &|name| variables.get(name).map(|value| (*value).to_owned())) {
        Ok(config) => {
            let (meaning, warnings, debug) =
                (check::describe(&config), check::warnings(&config).join("\n"), format!("{config:?}"));
            let shown = format!("{meaning}\n{warnings}\n{debug}");
            assert!(!home || !shown.contains(MARK), "a secret in {shown}");
            format!("{meaning} {warnings}")
        }
        Err(errors) => {
            let shown = errors.to_string();
            assert!(errors.iter().count() <= ERRORS_MAX, "{} errors", errors.iter().count());
            assert!(shown.lines().count() <= SHOWN_MAX, "{} lines in {shown}", shown.lines().count());
            for error in errors.iter() {
                let text = error.to_string();
                let places = ["c.yaml", "environment variable ", "file \"", "configuration: "];
                assert!(places.iter().any(|place| text.starts_with(place)), "no place in {text}");
                assert!(text.len() <= TEXT_MAX, "{} bytes of error: {text}", text.len());
            }
            assert!(!home || !shown.contains(MARK), "a secret in {shown}");
            shown
        }
    }
}

#[test]
fn configuration() {
    // A hundred thousand values at most, each with its place, and aliases are copied in merges.
    fuzz(&Door { name: "configuration", runs: 1500, memory: 128 << 20 }, check);
}
