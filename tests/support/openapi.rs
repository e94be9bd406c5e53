//! Checks requests and answers against GitHub's published OpenAPI 3.0 descriptions.
#![allow(dead_code, reason = "not every test file needs all of it")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use jsonschema::{Draft, Validator};
use serde_json::{Map, Value, json};

/// The descriptions of one API, from one file or several.
pub struct Spec {
    documents: Vec<Document>,
}

struct Document {
    paths: Value,
    components: Value,
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

/// One method of one path.
struct Operation<'a> {
    document: &'a Document,
    template: String,
    method: String,
    value: &'a Value,
    /// Values of the parameters in the path.
    path_values: Vec<(String, String)>,
}

/// The directory of the published contract, from the environment variable `CONTRACT_DIR`.
pub fn contract_dir() -> Option<PathBuf> {
    std::env::var_os("CONTRACT_DIR").map(PathBuf::from)
}

impl Spec {
    /// Reads GitHub's descriptions for organizations, repositories, Apps and enterprises.
    pub fn load(directory: &Path) -> Self {
        let files = ["github-actions-openapi.json", "github-actions-openapi-enterprise.json"];
        let read = |file: &&str| {
            let path = directory.join(file);
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        Self::new(files.iter().map(read).chain([unpublished()]).collect())
    }

    /// Takes parsed descriptions; references stay within each of them.
    pub fn new(documents: Vec<Value>) -> Self {
        let document = |mut value: Value| Document {
            paths: value["paths"].take(),
            components: json_schema(value["components"].take()),
            validators: Mutex::default(),
        };
        Self { documents: documents.into_iter().map(document).collect() }
    }

    fn operation(&self, method: &str, path: &str) -> Result<Operation<'_>, String> {
        let mut best: Option<(usize, Operation<'_>)> = None;
        let mut known_path = false;
        for document in &self.documents {
            for (template, methods) in document.paths.as_object().into_iter().flatten() {
                let Some(path_values) = match_path(template, path) else { continue };
                known_path = true;
                let method = method.to_ascii_lowercase();
                let Some(value) = methods.get(&method) else { continue };
                let parameters = path_values.len();
                if best.as_ref().is_none_or(|(fewest, _)| parameters < *fewest) {
                    let template = template.clone();
                    best = Some((parameters, Operation { document, template, method, value, path_values }));
                }
            }
        }
        best.map(|(_, operation)| operation).ok_or_else(|| match known_path {
            true => format!("{path} has no method {method}"),
            false => format!("no path of the API matches {path}"),
        })
    }
}

impl Document {
    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        let reference = value.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/components"));
        reference.and_then(|pointer| self.components.pointer(pointer)).unwrap_or(value)
    }

    /// Checks `value` against `schema`; `key` names the schema within this document.
    fn check(&self, key: String, schema: &Value, value: &Value) -> Result<(), String> {
        let mut validators = self.validators.lock().unwrap();
        let validator = validators.entry(key.clone()).or_insert_with(|| {
            let root = json!({ "components": self.components, "allOf": [json_schema(schema.clone())] });
            let validator = jsonschema::options().with_draft(Draft::Draft4).build(&root);
            Arc::new(validator.unwrap_or_else(|error| panic!("schema of {key}: {error}")))
        });
        let validator = Arc::clone(validator);
        drop(validators);
        let errors: Vec<_> = validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect();
        if errors.is_empty() { Ok(()) } else { Err(format!("{key}: {}", errors.join("; "))) }
    }
}

impl Operation<'_> {
    fn key(&self, part: &str) -> String {
        format!("{} {} {part}", self.method, self.template)
    }

    fn parameters(&self, place: &str) -> Vec<&Value> {
        let shared = self.document.paths[&self.template]["parameters"].as_array();
        let own = self.value["parameters"].as_array();
        let all = shared.into_iter().chain(own).flatten().map(|parameter| self.document.resolve(parameter));
        all.filter(|parameter| parameter["in"] == place).collect()
    }

    fn check_parameters(&self, place: &str, values: &[(String, String)]) -> Result<(), String> {
        let parameters = self.parameters(place);
        for (name, text) in values {
            let Some(parameter) = parameters.iter().find(|parameter| parameter["name"] == **name) else {
                return Err(format!("{}: there is no {place} parameter {name:?}", self.key("request")));
            };
            let schema = &parameter["schema"];
            let value = match schema["type"].as_str() {
                Some("integer" | "number" | "boolean") => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
                _ => json!(text),
            };
            self.document.check(self.key(&format!("{place} parameter {name}")), schema, &value)?;
        }
        let missing = |parameter: &&&Value| {
            parameter["required"] == true && !values.iter().any(|(name, _)| parameter["name"] == **name)
        };
        match parameters.iter().find(missing) {
            Some(parameter) => {
                Err(format!("{}: {place} parameter {} is missing", self.key("request"), parameter["name"]))
            }
            None => Ok(()),
        }
    }
}

/// What the published files leave out, after GitHub's reference: "List organization webhooks", "List repository
/// webhooks" (their schemas are called `org-hook` and `hook`), and of "Get a repository" what is read.
fn unpublished() -> Value {
    let text = || json!({"type": "string"});
    let config = json!({"type": "object", "properties": {
        "url": text(), "content_type": text(), "secret": text(), "insecure_ssl": {"oneOf": [text(), {"type": "number"}]},
    }});
    let hook = |own: &[&str]| {
        let shared =
            ["id", "url", "type", "name", "active", "events", "config", "ping_url", "created_at", "updated_at"];
        let required: Vec<&str> = shared.iter().chain(own).copied().collect();
        json!({"type": "object", "required": required, "properties": {
            "id": {"type": "integer"}, "url": text(), "type": text(), "name": text(), "active": {"type": "boolean"},
            "events": {"type": "array", "items": text()}, "config": config, "ping_url": text(), "test_url": text(),
            "deliveries_url": text(), "created_at": text(), "updated_at": text(),
            "last_response": {"type": "object", "required": ["code", "status", "message"], "properties": {
                "code": {"type": "integer", "nullable": true}, "status": {"type": "string", "nullable": true},
                "message": {"type": "string", "nullable": true},
            }},
        }})
    };
    let get = |path: &[&str], own: &[&str]| {
        let named = path.iter().map(|name| json!({"name": name, "in": "path", "required": true, "schema": text()}));
        let page = ["per_page", "page"].map(|name| json!({"name": name, "in": "query", "schema": {"type": "integer"}}));
        let answer = json!({"application/json": {"schema": {"type": "array", "items": hook(own)}}});
        json!({"get": {
            "parameters": named.chain(page).collect::<Vec<_>>(), "responses": {"200": {"content": answer}},
        }})
    };
    let repository = json!({"type": "object", "required": ["id", "name", "full_name", "owner", "private"], "properties": {
        "id": {"type": "integer"}, "name": text(), "full_name": text(), "private": {"type": "boolean"},
        "owner": {"type": "object", "required": ["login", "id"]},
    }});
    let named = ["owner", "repo"].map(|name| json!({"name": name, "in": "path", "required": true, "schema": text()}));
    json!({"components": {}, "paths": {
        "/repos/{owner}/{repo}": {"get": {
            "parameters": named, "responses": {"200": {"content": {"application/json": {"schema": repository}}}},
        }},
        "/orgs/{org}/hooks": get(&["org"], &[]),
        "/repos/{owner}/{repo}/hooks": get(&["owner", "repo"], &["test_url", "last_response"]),
    }})
}

/// Whether the API knows this request: the path with this method, each query parameter by name and type, and the body
/// by its schema, without fields that the schema does not name.
pub fn validate_request(
    spec: &Spec,
    method: &str,
    path: &str,
    query: Option<&str>,
    body: Option<&Value>,
) -> Result<(), String> {
    let operation = spec.operation(method, path)?;
    operation.check_parameters("path", &operation.path_values)?;
    operation.check_parameters("query", &query_pairs(query.unwrap_or_default()))?;
    let request = operation.document.resolve(&operation.value["requestBody"]);
    let schema = &request["content"]["application/json"]["schema"];
    match body {
        None if request["required"] == true => Err(format!("{}: the body is missing", operation.key("request"))),
        None => Ok(()),
        Some(_) if schema.is_null() => Err(format!("{}: takes no JSON body", operation.key("request"))),
        Some(body) => {
            let known = operation.document.resolve(schema)["properties"].as_object();
            let mut fields = body.as_object().into_iter().flat_map(Map::keys);
            if let Some(known) = known
                && let Some(unknown) = fields.find(|field| !known.contains_key(*field))
            {
                return Err(format!("{}: the body has no field {unknown:?}", operation.key("request")));
            }
            operation.document.check(operation.key("request"), schema, body)
        }
    }
}

/// Whether the API answers so. Errors (4xx, 5xx) that it does not describe must be objects with a `message`, or empty.
pub fn validate_response(
    spec: &Spec,
    method: &str,
    path: &str,
    status: u16,
    body: Option<&Value>,
) -> Result<(), String> {
    let operation = spec.operation(method, path)?;
    let responses = &operation.value["responses"];
    let key = operation.key(&status.to_string());
    let described = responses.get(status.to_string()).or_else(|| responses.get("default"));
    let Some(response) = described.map(|response| operation.document.resolve(response)) else {
        let message = body.is_none_or(|body| body["message"].is_string());
        return if status >= 400 && message { Ok(()) } else { Err(format!("{key}: is not described")) };
    };
    let schema = &response["content"]["application/json"]["schema"];
    match body {
        None if schema.is_null() => Ok(()),
        None => Err(format!("{key}: the body is missing")),
        Some(_) if schema.is_null() => Err(format!("{key}: has no body")),
        Some(body) => operation.document.check(key, schema, body),
    }
}

/// Values of the template's parameters, when `path` has its form.
fn match_path(template: &str, path: &str) -> Option<Vec<(String, String)>> {
    let (template, path) = (template.split('/').collect::<Vec<_>>(), path.split('/').collect::<Vec<_>>());
    if template.len() != path.len() {
        return None;
    }
    let mut values = Vec::new();
    for (expected, actual) in template.into_iter().zip(path) {
        match expected.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            Some(name) if !actual.is_empty() => values.push((name.to_owned(), decode(actual))),
            _ if expected == actual => {}
            _ => return None,
        }
    }
    Some(values)
}

fn query_pairs(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (byte, _) => {
                bytes.push(if *byte == b'+' { b' ' } else { *byte });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An OpenAPI 3.0 schema as JSON Schema: `nullable` becomes a choice.
fn json_schema(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(json_schema).collect()),
        Value::Object(fields) => {
            let nullable = fields.get("nullable") == Some(&Value::Bool(true));
            let keep = |(key, _): &(String, Value)| !matches!(key.as_str(), "nullable" | "example" | "examples");
            let fields = fields.into_iter().filter(keep).map(|(key, value)| (key, json_schema(value)));
            let schema = Value::Object(fields.collect());
            if nullable { json!({ "anyOf": [{ "type": "null" }, schema] }) } else { schema }
        }
        other => other,
    }
}
