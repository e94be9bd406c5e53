//! The JSON Schema that editors use, made from the same keys that are read.

use serde_json::{Map, Value as Json, json};

use super::keys::RawConfig;
use super::read::{Key, Need, Read as _, default_node};
use super::tree::{Node, Value};

/// JSON Schema (draft 2020-12) of the configuration file.
#[must_use]
pub fn schema() -> Json {
    let mut schema = RawConfig::schema();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("runner-manager");
    schema
}

/// The schema of a mapping with these keys.
pub(super) fn object_schema(doc: &str, keys: &[Key]) -> Json {
    let mut properties = Map::new();
    for key in keys {
        properties.insert(key.name.to_owned(), key_schema(key));
    }
    let required: Vec<&str> = keys.iter().filter(|key| key.need == Need::Required).map(|key| key.name).collect();
    let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !doc.is_empty() {
        schema["description"] = json!(doc);
    }
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn key_schema(key: &Key) -> Json {
    let mut schema = (key.schema)();
    schema["description"] = json!(key.doc);
    if let Some(node) = key.default.and_then(default_node) {
        schema["default"] = default_json(&node, &schema);
    }
    if key.need == Need::Ignored {
        schema["deprecated"] = json!(true);
    }
    schema
}

/// A default as JSON, typed as its schema says.
fn default_json(node: &Node, schema: &Json) -> Json {
    match &node.value {
        Value::Scalar { text, .. } => match schema["type"].as_str() {
            Some("integer" | "boolean") => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
            _ => json!(text),
        },
        Value::List(_) => json!([]),
        Value::Map(_) => json!({}),
        Value::Null => Json::Null,
    }
}

/// Doc-comment lines as one paragraph.
pub(super) fn paragraph(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
