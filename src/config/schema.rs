//! The JSON Schema that editors use, made from the same keys that are read.

use serde_json::{Value, json};

use super::keys::RawConfig;
use super::read::Read as _;

/// JSON Schema (draft 2020-12) of the configuration file.
#[must_use]
pub fn schema() -> Value {
    let mut schema = RawConfig::schema();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("runner-manager");
    schema
}
