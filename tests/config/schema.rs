//! The schema and the examples say what the reader accepts.

use std::collections::BTreeSet;

use runner_manager::config;
use serde_json::Value;

use super::{example, parse};

/// Paths of all keys that a schema has, like `runner_groups[].backend(base).name`.
fn schema_keys(schema: &Value, path: &str, keys: &mut BTreeSet<String>) {
    if let Some(properties) = schema["properties"].as_object() {
        for (name, part) in properties {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            keys.insert(path.clone());
            schema_keys(part, &path, keys);
        }
    }
    if schema["items"].is_object() {
        schema_keys(&schema["items"], &format!("{path}[]"), keys);
    }
    for kind in schema["oneOf"].as_array().into_iter().flatten() {
        schema_keys(kind, &format!("{path}({})", kind["title"].as_str().unwrap()), keys);
    }
}

#[test]
fn the_examples_validate_against_the_schema_and_bad_files_do_not() {
    let validator = jsonschema::validator_for(&config::schema()).unwrap();
    for name in [
        "minimal.yaml",
        "base.yaml",
        "process.yaml",
        "docker.yaml",
        "redis.yaml",
        "replicas.yaml",
        "full.yaml",
        "backends.yaml",
        "external.yaml",
        "python-original.yaml",
    ] {
        let text = std::fs::read_to_string(example(name)).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(&yaml(&text)).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{name}: {errors:#?}");
    }
    for bad in [
        "lissten: 1",
        "runner_groups: [{name: a}]",
        "runner_groups: [{name: a, labels: [], backend: {name: foo}}]",
        "listen: [1]",
        "log_level: LOUD",
    ] {
        assert!(!validator.is_valid(&yaml(bad)), "{bad}");
    }
}

/// YAML as JSON, typed by the core schema; good enough for the examples.
fn yaml(text: &str) -> Value {
    use granit_parser::{Event, Parser, ScalarStyle};
    fn value<'a>(events: &mut impl Iterator<Item = Event<'a>>) -> Option<Value> {
        Some(match events.next()? {
            Event::Scalar(text, ScalarStyle::Plain, ..) => serde_json::from_str(&text)
                .ok()
                .filter(|v: &Value| !v.is_string())
                .unwrap_or_else(|| Value::from(text.into_owned())),
            Event::Scalar(text, ..) => Value::from(text.into_owned()),
            Event::SequenceStart(..) => std::iter::from_fn(|| value(events)).collect(),
            Event::MappingStart(..) => {
                let mut map = serde_json::Map::new();
                while let Some(key) = value(events) {
                    map.insert(key.as_str().unwrap().to_owned(), value(events).unwrap());
                }
                Value::Object(map)
            }
            Event::SequenceEnd | Event::MappingEnd => return None,
            other => panic!("{other:?}"),
        })
    }
    let mut events = Parser::new_from_str(text).map(|e| e.unwrap().0).filter(|e| {
        !matches!(e, Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd | Event::StreamEnd)
    });
    value(&mut events).unwrap()
}

#[test]
fn every_key_of_the_schema_is_accepted_and_described_and_no_other_is() {
    let mut keys = BTreeSet::new();
    let schema = config::schema();
    schema_keys(&schema, "", &mut keys);
    assert!(keys.len() > 150, "{}", keys.len());
    for key in &keys {
        // A mapping with one odd key is right for no key; the error must not be that the key is unknown.
        let (parents, name) = key.rsplit_once('.').unwrap_or(("", key));
        for (name, known) in [(name, true), ("zz_not_a_key", false)] {
            let errors = match parse(&nested(parents, name)) {
                Ok(_) => String::new(),
                Err(errors) => errors.to_string(),
            };
            let unknown = errors.lines().any(|line| line.contains(&format!("{name}: found an unknown key")));
            // Names of the mapping `Texts` and anything's keys are free, and are not in the schema.
            assert_eq!(unknown, !known, "{key}: {errors}");
        }
    }
    undescribed(&schema, "");
}

/// A file whose only content is the key `name` at the place that `parents` describes.
fn nested(parents: &str, name: &str) -> String {
    let mut text = String::new();
    let mut close = String::new();
    let mut open = |text: &mut String, kind: Option<&str>| {
        text.push('{');
        if let Some(kind) = kind {
            text.push_str(&format!("name: {kind}, "));
        }
        close.insert(0, '}');
    };
    open(&mut text, None);
    let mut lists = String::new();
    for part in parents.split('.').filter(|part| !part.is_empty()) {
        let (part, kind) = part.split_once('(').map_or((part, None), |(p, k)| (p, Some(k.trim_end_matches(')'))));
        let (part, list) = part.strip_suffix("[]").map_or((part, false), |part| (part, true));
        text.push_str(&format!("{part}: "));
        if list {
            text.push('[');
        }
        text.push('{');
        if let Some(kind) = kind {
            text.push_str(&format!("name: {kind}, "));
        }
        lists.insert_str(0, if list { "}]" } else { "}" });
    }
    if name == "name" && text.ends_with(", ") {
        return format!("{text}{lists}{close}");
    }
    format!("{text}{name}: {{zz_odd: 1}}{lists}{close}")
}

fn undescribed(schema: &Value, path: &str) {
    for (name, part) in schema["properties"].as_object().into_iter().flatten() {
        assert!(part["description"].as_str().is_some_and(|text| text.len() > 3), "{path}.{name}");
        undescribed(part, &format!("{path}.{name}"));
        undescribed(&part["items"], &format!("{path}.{name}[]"));
    }
}

#[test]
fn full_and_backends_show_every_key() {
    let mut keys = BTreeSet::new();
    schema_keys(&config::schema(), "", &mut keys);
    let [full, backends, external] =
        ["full.yaml", "backends.yaml", "external.yaml"].map(|name| std::fs::read_to_string(example(name)).unwrap());
    let shown = |text: &str, name: &str| text.split(['\n', ' ', '{', '#']).any(|word| word == format!("{name}:"));
    for key in &keys {
        let name = key.rsplit(['.', ']']).next().unwrap();
        let text = match key.split_once('(').and_then(|(_, rest)| rest.split_once(')')) {
            None | Some(("base" | "process" | "docker", _)) => full.clone(),
            Some(("external", _)) => format!("{full}{external}"),
            Some(_) => format!("{full}{backends}"),
        };
        assert!(shown(&text, name), "{key}");
    }
}

#[test]
fn the_defaults_that_full_names_are_the_schemas() {
    let schema = config::schema();
    let text = std::fs::read_to_string(example("full.yaml")).unwrap();
    let group = &schema["properties"]["runner_groups"]["items"];
    let kinds = &group["properties"]["backend"]["oneOf"];
    let (process, docker) = (&kinds[1], &kinds[2]["properties"]);
    let instance = &process["properties"]["instance_config"];
    let places = [&schema, group, process, instance, &docker["config"], &docker["instance_config"]];
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut compared = 0;
    for pair in lines.windows(2) {
        let Some((_, default)) = pair[0].split_once("Default: ") else { continue };
        let Some((name, _)) = pair[1].trim_start_matches(['#', ' ', '-']).split_once(':') else { continue };
        let found = places
            .iter()
            .filter_map(|place| place["properties"][name].get("default"))
            .map(|default| default.as_str().map_or_else(|| default.to_string(), str::to_owned));
        let found: Vec<String> = found.collect();
        let words = default.split([',', ' ']).next().unwrap();
        let same =
            found.iter().any(|found| found == words || (matches!(found.as_str(), "[]" | "{}" | "") && words == "none"));
        let from_elsewhere =
            found.is_empty() || ["timeout_runner", "time_to_live", "idle_timeout", "github_base_url"].contains(&words);
        assert!(same || from_elsewhere, "{name}: {default} but {found:?}");
        compared += usize::from(same);
    }
    assert!(compared >= 25, "{compared}");
}
