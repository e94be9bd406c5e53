//! The one source of truth for keys: `keys!` makes of a list of keys, with types, defaults and
//! descriptions, the struct that holds them, the code that reads them and their JSON Schema.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::rc::Rc;

use serde_json::{Map, Value as Json, json};

use super::error::{ConfigError, Place};
use super::tree::{self, Entry, Node, Origin, Value};

/// How a type is read from its place, and what the schema says of it.
pub(super) trait Read: Sized {
    /// Whether a text from the environment is the value itself, or YAML (JSON) that is parsed.
    const PLAIN: bool = true;
    /// Whether the value may also come from the file that `<KEY>_FILE` names.
    const SECRET: bool = false;

    /// The value of `node`; `None` after reporting why there is none.
    fn read(node: &Node, reader: &mut Reader) -> Option<Self>;

    /// What is expected, for error messages: `a whole number from 1 to 9`.
    fn expected() -> String;

    /// What the schema says of the value.
    fn schema() -> Json;
}

/// Whether a key must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Without it the configuration is wrong.
    Required,
    /// It may be absent.
    Optional,
    /// It is accepted because the Python original has it, and has no effect.
    Ignored,
}

/// One key, as the schema and the environment see it.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) doc: String,
    pub(super) need: Need,
    pub(super) default: Option<&'static str>,
    pub(super) plain: bool,
    pub(super) secret: bool,
    pub(super) schema: fn() -> Json,
}

/// A value, and where it is or would be.
#[derive(Debug)]
pub(super) struct Field<T> {
    /// Absent: not given and without default, or wrong (and reported).
    pub(super) value: Option<T>,
    /// Whether it was written down, right or wrong.
    pub(super) given: bool,
    pub(super) spot: Spot,
}

/// Where a value is, for errors about it.
#[derive(Debug, Clone)]
pub(super) struct Spot {
    pub(super) at: Place,
    pub(super) path: String,
}

/// Collects what is wrong while a tree is read.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) errors: Vec<ConfigError>,
    /// Paths of keys that were given and have no effect.
    pub(super) ineffective: Vec<String>,
    path: String,
}

impl Reader {
    /// A reader for a tree in which `errors` were found.
    pub(super) fn after(errors: Vec<ConfigError>) -> Self {
        Self { errors, ..Self::default() }
    }

    /// Reports that `found` is not what was `expected` at `at`, under the current path.
    pub(super) fn wrong(&mut self, at: &Place, found: impl Display, expected: impl Display) {
        let spot = self.spot(at);
        self.wrong_at(&spot, found, expected);
    }

    /// The same for a value read before.
    pub(super) fn wrong_at(&mut self, spot: &Spot, found: impl Display, expected: impl Display) {
        self.errors.push(ConfigError {
            place: spot.at.clone(),
            key: spot.path.clone(),
            message: format!("found {found}, expected {expected}"),
        });
    }

    /// Where `at` is, under the current path.
    pub(super) fn spot(&self, at: &Place) -> Spot {
        Spot { at: at.clone(), path: self.path.clone() }
    }

    /// Does `work` with `segment` added to the path.
    pub(super) fn within<T>(&mut self, segment: &str, work: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if !self.path.is_empty() && !segment.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(segment);
        let result = work(self);
        self.path.truncate(length);
        result
    }

    /// The entries of a mapping, after reporting keys that are not among `known`.
    pub(super) fn entries<'n>(&mut self, node: &'n Node, known: &[&'static str]) -> Option<&'n [Entry]> {
        let Value::Map(entries) = &node.value else {
            self.wrong(&node.at, kind(node), "a mapping");
            return None;
        };
        for entry in entries {
            if !known.contains(&entry.key.as_str()) {
                let name = show_key(&entry.key);
                let expected = match nearest(&entry.key, known) {
                    Some(near) => format!("a known key: did you mean `{near}`?"),
                    None => format!("one of: {}", known.join(", ")),
                };
                self.within(&name, |reader| reader.wrong(&entry.key_at, "an unknown key", expected));
            }
        }
        Some(entries)
    }

    /// The value of one key of a mapping at `at`.
    pub(super) fn field<T: Read>(
        &mut self,
        at: &Place,
        entries: &[Entry],
        name: &'static str,
        need: Need,
        default: Option<&'static str>,
    ) -> Field<T> {
        self.within(name, |reader| {
            let entry = entries.iter().find(|entry| entry.key == name);
            match entry.filter(|entry| !matches!(entry.node.value, Value::Null)) {
                Some(entry) => {
                    if need == Need::Ignored {
                        reader.ineffective.push(reader.path.clone());
                    }
                    Field { spot: reader.spot(&entry.node.at), given: true, value: T::read(&entry.node, reader) }
                }
                None => {
                    let at = entry.map_or(at, |entry| &entry.node.at);
                    if need == Need::Required {
                        reader.wrong(at, "nothing", T::expected());
                    }
                    let value = default.and_then(|text| default_node(text)).and_then(|node| T::read(&node, reader));
                    Field { spot: reader.spot(at), given: false, value }
                }
            }
        })
    }
}

/// A default, written as in YAML.
pub(super) fn default_node(text: &str) -> Option<Rc<Node>> {
    tree::parse(text, Origin::Fixed(Place::Default)).0
}

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

/// A key, if it has the form of one.
fn show_key(key: &str) -> String {
    let name = key.len() <= 64 && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if name { key.to_owned() } else { "[…]".to_owned() }
}

/// The known key that `key` most likely stands for.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let key = key.to_ascii_lowercase().replace('-', "_");
    let distance = |name: &str| strsim::damerau_levenshtein(&key, name);
    known.iter().copied().map(|name| (distance(name), name)).min().filter(|(d, name)| *d * 3 <= name.len()).map(|n| n.1)
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

/// Declares a mapping: a struct of [`Field`]s with [`Read`] and `keys()`.
macro_rules! keys {
    ($(#[doc = $doc:literal])* struct $name:ident {
        $($(#[doc = $text:literal])+ $need:ident $key:ident: $type:ty $(= $default:literal)?,)*
    }) => {
        $(#[doc = $doc])*
        #[derive(Debug)]
        #[allow(dead_code, reason = "keys that have no effect are read and checked, not used")]
        pub(super) struct $name {
            /// Where the mapping itself is.
            pub(super) here: $crate::config::read::Spot,
            $($(#[doc = $text])+ pub(super) $key: $crate::config::read::Field<$type>,)*
        }

        impl $name {
            /// Its keys.
            pub(super) fn keys() -> Vec<$crate::config::read::Key> {
                vec![$($crate::config::read::Key {
                    name: stringify!($key),
                    doc: $crate::config::read::paragraph(&[$($text),+]),
                    need: $crate::config::read::keys!(@need $need),
                    default: $crate::config::read::keys!(@default $($default)?),
                    plain: <$type as $crate::config::read::Read>::PLAIN,
                    secret: <$type as $crate::config::read::Read>::SECRET,
                    schema: <$type as $crate::config::read::Read>::schema,
                }),*]
            }
        }

        impl $crate::config::read::Read for $name {
            const PLAIN: bool = false;

            fn read(
                node: &$crate::config::tree::Node,
                reader: &mut $crate::config::read::Reader,
            ) -> Option<Self> {
                let entries = reader.entries(node, &[$(stringify!($key)),*])?;
                let _ = entries;
                Some(Self {
                    here: reader.spot(&node.at),
                    $($key: reader.field(
                        &node.at,
                        entries,
                        stringify!($key),
                        $crate::config::read::keys!(@need $need),
                        $crate::config::read::keys!(@default $($default)?),
                    ),)*
                })
            }

            fn expected() -> String {
                "a mapping".to_owned()
            }

            fn schema() -> serde_json::Value {
                $crate::config::read::object_schema(
                    &$crate::config::read::paragraph(&[$($doc),*]),
                    &Self::keys(),
                )
            }
        }
    };
    (@need required) => { $crate::config::read::Need::Required };
    (@need optional) => { $crate::config::read::Need::Optional };
    (@need ignored) => { $crate::config::read::Need::Ignored };
    (@default) => { None };
    (@default $default:literal) => { Some($default) };
}
pub(super) use keys;

impl<T: Read> Read for Vec<T> {
    const PLAIN: bool = false;
    const SECRET: bool = T::SECRET;

    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Value::List(items) = &node.value else {
            reader.wrong(&node.at, kind(node), Self::expected());
            return None;
        };
        let mut all = Some(Vec::with_capacity(items.len()));
        for (index, item) in items.iter().enumerate() {
            let value = reader.within(&format!("[{index}]"), |reader| T::read(item, reader));
            all = all.and_then(|mut all: Vec<T>| {
                all.push(value?);
                Some(all)
            });
        }
        all
    }

    fn expected() -> String {
        "a list".to_owned()
    }

    fn schema() -> Json {
        json!({"type": "array", "items": T::schema()})
    }
}

/// A mapping of names to texts; numbers and `true` are taken as they are written.
pub(super) type Texts = BTreeMap<String, String>;

impl Read for Texts {
    const PLAIN: bool = false;

    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            reader.wrong(&node.at, kind(node), Self::expected());
            return None;
        };
        let mut all = Some(BTreeMap::new());
        for entry in entries {
            match &entry.node.value {
                Value::Scalar { text, .. } => {
                    if let Some(all) = &mut all {
                        all.insert(entry.key.clone(), text.clone());
                    }
                }
                // The value is not shown: environment variables may be secrets.
                _ => {
                    reader.within(&show_key(&entry.key), |r| r.wrong(&entry.node.at, kind(&entry.node), "text"));
                    all = None;
                }
            }
        }
        all
    }

    fn expected() -> String {
        "a mapping of names to texts".to_owned()
    }

    fn schema() -> Json {
        json!({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}})
    }
}

/// A value of any kind that is not looked at.
#[derive(Debug)]
pub(super) struct Anything;

impl Read for Anything {
    const PLAIN: bool = false;

    fn read(_: &Node, _: &mut Reader) -> Option<Self> {
        Some(Self)
    }

    fn expected() -> String {
        "a value".to_owned()
    }

    fn schema() -> Json {
        json!({})
    }
}

/// A value that is read later, when another key has said what it is.
#[derive(Debug)]
pub(super) struct Later(pub(super) Vec<Entry>);

impl Read for Later {
    const PLAIN: bool = false;

    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        if let Value::Map(entries) = &node.value {
            Some(Self(entries.clone()))
        } else {
            reader.wrong(&node.at, kind(node), Self::expected());
            None
        }
    }

    fn expected() -> String {
        "a mapping".to_owned()
    }

    fn schema() -> Json {
        json!({"type": "object"})
    }
}
