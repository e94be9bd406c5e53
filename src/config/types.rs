//! The scalar types of configuration values: each reads itself and says what it expects.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use actors::id::{GroupName, ManagerName, RepositoryId};
use actors::model::secret::Secret;
use actors::model::settings::{Arch, Os};
use serde_json::{Value as Json, json};

use super::duration;
use super::read::{Read, Reader};
use super::redis_url::{self, RedisUrl};
use super::show::{kind, show};
use super::tree::{Node, Value};

/// The text of a scalar; `null`, lists and mappings are none.
fn text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// Whether YAML itself calls the value true or false.
fn is_bool(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar { text, quoted: false } if matches!(text.to_ascii_lowercase().as_str(), "true" | "false"))
}

/// Reads a scalar by `parse`, or reports what was found.
pub(super) fn scalar<T>(
    node: &Node,
    reader: &mut Reader,
    expected: impl FnOnce() -> String,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    let value = text(node).and_then(parse);
    if value.is_none() {
        reader.wrong(&node.at, show(node), expected());
    }
    value
}

/// Reads a secret by `parse`, or reports it without showing it.
fn hidden<T>(
    node: &Node,
    reader: &mut Reader,
    expected: impl FnOnce() -> String,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    let value = text(node).and_then(parse);
    if value.is_none() {
        let found = if text(node).is_some() { "another form (not shown)" } else { kind(node) };
        reader.wrong(&node.at, found, expected());
    }
    value
}

/// Declares a newtype that is read from a scalar.
macro_rules! scalars {
    ($($(#[doc = $doc:literal])+ $name:ident($inner:ty): $expected:expr, $schema:tt, $parse:expr;)*) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, Clone)]
        pub(super) struct $name(pub(super) $inner);

        impl Read for $name {
            fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
                let parse: fn(&str) -> Option<$inner> = $parse;
                scalar(node, reader, Self::expected, |text| parse(text).map(Self))
            }

            fn expected() -> String {
                $expected.to_owned()
            }

            fn schema() -> Json {
                json!($schema)
            }
        }
    )*};
}
pub(super) use scalars;

/// A login or slug of GitHub.
fn login(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn repository(text: &str) -> Option<(String, String)> {
    let (owner, name) = text.split_once('/')?;
    let valid = login(owner)
        && (1..=100).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    valid.then(|| (owner.to_owned(), name.to_owned()))
}

fn label(text: &str) -> Option<String> {
    let text = text.trim();
    let valid = (1..=256).contains(&text.chars().count()) && !text.chars().any(|c| c.is_control() || c == ',');
    valid.then(|| text.to_lowercase())
}

fn base_url(text: &str) -> Option<String> {
    let url = reqwest::Url::parse(text).ok()?;
    let valid = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    valid.then(|| url.as_str().trim_end_matches('/').to_owned())
}

/// A whole decimal number; `1_000` is read as the Python original does, `010` is not.
fn integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain =
        digits.bytes().all(|b| b.is_ascii_digit() || b == b'_') && digits.starts_with(|c: char| c.is_ascii_digit());
    if !plain || (digits.len() > 1 && digits.starts_with('0')) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

scalars! {
    /// A login of an organization or a slug of an enterprise.
    Login(String): "a GitHub login (letters, digits, '-' and '_')",
        {"type": "string"}, |text| login(text).then(|| text.to_owned());
    /// A repository with its owner.
    RepositoryName((String, String)): "a repository as owner/name",
        {"type": "string"}, repository;
    /// One label, turned into lower case.
    Label(String): "a label of 1 to 256 characters without commas",
        {"type": ["string", "number"]}, label;
    /// A whole number of 32 bits.
    Priority(i32): "a whole number from -2147483648 to 2147483647",
        {"type": "integer"}, |text| integer(text).and_then(|n| i32::try_from(n).ok());
    /// A path that is not empty.
    FilePath(PathBuf): "a path",
        {"type": "string", "minLength": 1}, |text| (!text.is_empty() && !text.contains('\0')).then(|| text.into());
    /// A GitHub id that the Python original writes as 0 when it has none.
    AppNumber(u64): "a whole number from 0 to 9223372036854775807",
        {"type": ["integer", "string"]}, |text| integer(text).and_then(|n| u64::try_from(n).ok());
    /// The operating system, also as GitHub's list of downloads spells it.
    OsName(Os): "one of linux, windows, macos",
        {"enum": ["linux", "windows", "macos", "win", "osx"]}, |text| match text.to_ascii_lowercase().as_str() {
            "linux" => Some(Os::Linux),
            "windows" | "win" => Some(Os::Windows),
            "macos" | "osx" => Some(Os::Macos),
            _ => None,
        };
    /// The processor architecture.
    ArchName(Arch): "one of x64, arm64, arm",
        {"enum": ["x64", "arm64", "arm"]}, |text| match text.to_ascii_lowercase().as_str() {
            "x64" => Some(Arch::X64),
            "arm64" => Some(Arch::Arm64),
            "arm" => Some(Arch::Arm),
            _ => None,
        };
}

impl Read for String {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        scalar(node, reader, Self::expected, |text| (!is_bool(node) && !text.contains('\0')).then(|| text.to_owned()))
    }

    fn expected() -> String {
        "text".to_owned()
    }

    fn schema() -> Json {
        json!({"type": ["string", "number"]})
    }
}

impl Read for bool {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        scalar(node, reader, Self::expected, |text| match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" | "t" | "1" => Some(true),
            "false" | "no" | "off" | "n" | "f" | "0" => Some(false),
            _ => None,
        })
    }

    fn expected() -> String {
        "true or false".to_owned()
    }

    fn schema() -> Json {
        json!({"type": "boolean"})
    }
}

impl Read for SocketAddr {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        scalar(node, reader, Self::expected, |text| text.parse().ok())
    }

    fn expected() -> String {
        "an IP address and a port, like 127.0.0.1:8000 or [::]:8000".to_owned()
    }

    fn schema() -> Json {
        json!({"type": "string"})
    }
}

impl Read for Secret {
    const SECRET: bool = true;

    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        hidden(node, reader, Self::expected, |text| (!text.contains('\0')).then(|| Self::new(text.to_owned())))
    }

    fn expected() -> String {
        "text (a secret)".to_owned()
    }

    fn schema() -> Json {
        json!({"type": ["string", "number"]})
    }
}

/// The base of GitHub's REST API, without a slash at the end.
#[derive(Debug)]
pub(super) struct BaseUrl(pub(super) String);

impl Read for BaseUrl {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        let parse = |text: &str| base_url(text).map(Self);
        // What may hold a password is not shown.
        if text(node).is_some_and(|text| text.contains('@')) {
            hidden(node, reader, Self::expected, parse)
        } else {
            scalar(node, reader, Self::expected, parse)
        }
    }

    fn expected() -> String {
        "an http or https URL without credentials or query, like https://api.github.com".to_owned()
    }

    fn schema() -> Json {
        json!({"type": "string", "format": "uri"})
    }
}

impl Read for RedisUrl {
    const SECRET: bool = true;

    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        let fault = match text(node).map(redis_url::parse) {
            Some(Ok(url)) => return Some(url),
            Some(Err(fault)) => fault,
            None => redis_url::Fault { found: kind(node), expected: redis_url::FORMS },
        };
        reader.wrong(&node.at, fault.found, fault.expected);
        None
    }

    fn expected() -> String {
        redis_url::FORMS.to_owned()
    }

    fn schema() -> Json {
        json!({"type": "string"})
    }
}

/// A whole number within bounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole<const MIN: i64, const MAX: i64>(i64);

impl<const MIN: i64, const MAX: i64> Whole<MIN, MAX> {
    /// The number; bounds that do not fit are cut.
    pub(super) fn get<T: TryFrom<i64> + Default>(self) -> T {
        T::try_from(self.0).unwrap_or_default()
    }
}

impl<const MIN: i64, const MAX: i64> Read for Whole<MIN, MAX> {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        scalar(node, reader, Self::expected, |text| integer(text).filter(|n| (MIN..=MAX).contains(n)).map(Self))
    }

    fn expected() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn schema() -> Json {
        json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

impl Read for RepositoryId {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        scalar(node, reader, Self::expected, |text| {
            integer(text).and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).map(Self)
        })
    }

    fn expected() -> String {
        "a repository's id (a number, not its name)".to_owned()
    }

    fn schema() -> Json {
        json!({"type": "integer", "minimum": 1})
    }
}

/// A duration; `ZERO` says whether it may be 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time<const ZERO: bool>(pub(super) Duration);

impl<const ZERO: bool> Read for Time<ZERO> {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        scalar(node, reader, Self::expected, |text| {
            duration::parse(text).filter(|duration| ZERO || !duration.is_zero()).map(Self)
        })
    }

    fn expected() -> String {
        if ZERO { duration::FORMS.to_owned() } else { format!("{}, more than 0", duration::FORMS) }
    }

    fn schema() -> Json {
        json!({"type": ["string", "number"], "minimum": 0, "examples": ["15m", "1h30m", 900, "PT15M", "00:15:00"]})
    }
}

/// Names that the brain checks itself.
macro_rules! names {
    ($($name:ident),*) => {$(
        impl Read for $name {
            fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
                scalar(node, reader, Self::expected, |text| (!is_bool(node)).then(|| Self::new(text).ok()).flatten())
            }

            fn expected() -> String {
                Self::new("").err().map_or_else(String::new, |error| error.expected.to_owned())
            }

            fn schema() -> Json {
                json!({"type": "string", "minLength": 1, "maxLength": 64})
            }
        }
    )*};
}

names!(ManagerName, GroupName);
