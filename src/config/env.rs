//! Environment variables that override keys, and files that they name.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::rc::Rc;

use super::error::{ConfigError, Place};
use super::read::{Key, Need, Reader};
use super::tree::{self, Entry, Node, Origin, Value};

/// Largest file that a `<KEY>_FILE` variable may name, in bytes.
const SECRET_FILE_MAX: u64 = 64 * 1024;
/// Keys that mean the same: a variable for one replaces both.
const SAME: [&str; 2] = ["redis_url", "redis_om_url"];

/// Looks a variable up; injected so that tests need not change the process.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The variables of this process.
#[must_use]
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// The configuration file: the command line's, else what `CONFIG_FILE` names, else none.
#[must_use]
pub fn config_file(argument: Option<PathBuf>, env: Environment<'_>) -> Option<PathBuf> {
    argument.or_else(|| env("CONFIG_FILE").filter(|path| !path.is_empty()).map(PathBuf::from))
}

/// Puts what variables say in place of what the file says; also gives the names of those variables.
pub(super) fn overlay(
    root: Rc<Node>,
    keys: &[Key],
    env: Environment<'_>,
    reader: &mut Reader,
) -> (Rc<Node>, Vec<String>) {
    let entries = match &root.value {
        Value::Map(entries) => entries.clone(),
        Value::Null => Vec::new(),
        _ => return (root, Vec::new()),
    };
    let mut given: Vec<(&Key, String, Rc<Node>)> = Vec::new();
    for key in keys {
        if key.need == Need::Ignored {
            let name = key.name.to_ascii_uppercase();
            reader.ineffective.extend(env(&name).filter(|text| !text.is_empty()).map(|_| name));
            continue;
        }
        match variable(key, env) {
            Ok(Some((variable, node))) => given.push((key, variable, node)),
            Ok(None) => {}
            Err(errors) => reader.errors.extend(errors),
        }
    }
    if given.is_empty() {
        return (Rc::new(Node::map(entries, root.at.clone())), Vec::new());
    }
    let replaced = |name: &str| {
        given.iter().any(|(key, ..)| key.name == name || (SAME.contains(&key.name) && SAME.contains(&name)))
    };
    let mut merged: Vec<Entry> = entries.into_iter().filter(|entry| !replaced(&entry.key)).collect();
    for (key, _, node) in &given {
        merged.push(Entry { key: key.name.to_owned(), key_at: node.at.clone(), node: Rc::clone(node) });
    }
    let names = given.into_iter().map(|(_, variable, _)| variable).collect();
    (Rc::new(Node::map(merged, root.at.clone())), names)
}

/// The variable for `key`, if one is set and not empty, and its value.
fn variable(key: &Key, env: Environment<'_>) -> Result<Option<(String, Rc<Node>)>, Vec<ConfigError>> {
    let name = key.name.to_ascii_uppercase();
    let file_name = format!("{name}_FILE");
    let text = env(&name).filter(|text| !text.is_empty());
    let file = env(&file_name).filter(|file| key.secret && !file.is_empty());
    let error = |place: Place, message: String| vec![ConfigError { place, key: key.name.to_owned(), message }];
    let (name, place, text) = match (text, file) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            let message = format!("found {name} as well, expected one of the two");
            return Err(error(Place::Variable(file_name.into()), message));
        }
        (Some(text), None) => {
            let place = Place::Variable(name.as_str().into());
            (name, place, text)
        }
        (None, Some(file)) => {
            let place = Place::VariableFile { variable: file_name.as_str().into(), file: file.as_str().into() };
            let text = secret_file(&file).map_err(|message| error(place.clone(), message))?;
            (file_name, place, text)
        }
    };
    if key.plain {
        return Ok(Some((name, Rc::new(Node::text(text, place)))));
    }
    let (node, mut errors) = tree::parse(&text, Origin::Fixed(place));
    if errors.is_empty() {
        return Ok(node.map(|node| (name, node)));
    }
    for error in &mut errors {
        let dot = if error.key.is_empty() || error.key.starts_with('[') { "" } else { "." };
        error.key = format!("{}{dot}{}", key.name, error.key);
    }
    Err(errors)
}

/// The text of a file, without line breaks at its end.
fn secret_file(path: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SECRET_FILE_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot read it: {error}"))?;
    if bytes.len() as u64 > SECRET_FILE_MAX {
        return Err(format!("found more than {SECRET_FILE_MAX} bytes, expected a secret"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "found bytes that are not UTF-8, expected text".to_owned())?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err("found an empty file, expected a secret".to_owned());
    }
    Ok(text.to_owned())
}
