//! Holds requests and answers against an OpenAPI 3.0 description.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;

use jsonschema::{Draft, Validator};
use serde_json::{Map, Value, json};

/// A description, with `nullable` turned into JSON Schema.
pub struct Spec {
    document: Value,
    compiled: RefCell<HashMap<String, Rc<Validator>>>,
}

impl Spec {
    /// Reads a description in JSON.
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        let mut document = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        translate(&mut document);
        Self { document, compiled: RefCell::default() }
    }

    /// Whether the description knows `path` (with values in place of its parameters, perhaps with a query).
    pub fn knows(&self, path: &str) -> bool {
        self.template(path).is_some()
    }

    /// The path as described that fits best: the one with the fewest parameters.
    fn template(&self, path: &str) -> Option<&str> {
        let path = path.split('?').next().unwrap_or_default();
        let parts: Vec<&str> = path.split('/').collect();
        let fits = |template: &&str| {
            let template: Vec<&str> = template.split('/').collect();
            template.len() == parts.len()
                && template.iter().zip(&parts).all(|(t, p)| t == p || (t.starts_with('{') && !p.is_empty()))
        };
        let templates = self.document["paths"].as_object()?.keys().map(String::as_str);
        templates.filter(fits).min_by_key(|template| template.matches('{').count())
    }

    fn operation(&self, method: &str, path: &str) -> Result<&Value, String> {
        let template = self.template(path).ok_or_else(|| format!("{path} is not described"))?;
        let operation = &self.document["paths"][template][method.to_lowercase()];
        if operation.is_null() { Err(format!("{method} {template} is not described")) } else { Ok(operation) }
    }

    /// Follows `$ref` within the document.
    fn resolve<'s>(&'s self, mut value: &'s Value) -> &'s Value {
        while let Some(target) = value["$ref"].as_str() {
            value = self.document.pointer(target.trim_start_matches('#')).unwrap_or(&Value::Null);
        }
        value
    }

    fn check(&self, schema: &Value, value: &Value, what: &str) -> Result<(), String> {
        let validator = self.validator(schema)?;
        let errors: Vec<String> = validator
            .iter_errors(value)
            .map(|e| format!("{what}: at {:?}: {e}", e.instance_path().to_string()))
            .collect();
        if errors.is_empty() { Ok(()) } else { Err(errors.join("\n")) }
    }

    fn validator(&self, schema: &Value) -> Result<Rc<Validator>, String> {
        let key = schema.to_string();
        if let Some(validator) = self.compiled.borrow().get(&key) {
            return Ok(Rc::clone(validator));
        }
        let whole = json!({"components": self.document["components"], "allOf": [schema]});
        let options = jsonschema::options().with_draft(Draft::Draft4).should_validate_formats(true);
        let validator = Rc::new(options.build(&whole).map_err(|e| e.to_string())?);
        self.compiled.borrow_mut().insert(key, Rc::clone(&validator));
        Ok(validator)
    }
}

/// Whether an answer is one that is described. An error (4xx, 5xx) that is not described must be a `basic-error`.
pub fn validate_response(spec: &Spec, method: &str, path: &str, status: u16, body: &Value) -> Result<(), String> {
    let what = format!("{method} {path} {status}");
    let response = spec.resolve(&spec.operation(method, path)?["responses"][status.to_string()]);
    if response.is_null() {
        let error = json!({"$ref": "#/components/schemas/basic-error"});
        return if status >= 400 { spec.check(&error, body, &what) } else { Err(format!("{what} is not described")) };
    }
    match &response["content"]["application/json"]["schema"] {
        Value::Null if body.is_null() => Ok(()),
        Value::Null => Err(format!("{what}: a body where none is described")),
        schema => spec.check(schema, body, &what),
    }
}

/// Whether the body of a request is one that is described.
pub fn validate_request(spec: &Spec, method: &str, path: &str, body: &Value) -> Result<(), String> {
    let wanted = spec.resolve(&spec.operation(method, path)?["requestBody"]);
    match &wanted["content"]["application/json"]["schema"] {
        Value::Null if body.is_null() => Ok(()),
        Value::Null => Err(format!("{method} {path}: a body where none is described")),
        _ if body.is_null() && wanted["required"] != json!(true) => Ok(()),
        schema => spec.check(schema, body, &format!("{method} {path}")),
    }
}

/// Replaces OpenAPI's `nullable` by a type `null`, everywhere below `value`.
fn translate(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(translate),
        Value::Object(fields) => {
            // Examples are data, not schemas.
            fields.remove("example");
            fields.remove("examples");
            fields.values_mut().for_each(translate);
            if fields.get("nullable") == Some(&Value::Bool(true)) {
                fields.remove("nullable");
                let schema = std::mem::replace(fields, Map::new());
                fields.insert("anyOf".to_owned(), json!([{"enum": [null]}, schema]));
            }
        }
        _ => {}
    }
}
