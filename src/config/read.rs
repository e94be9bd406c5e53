//! The one source of truth for keys: `keys!` makes of a list of keys, with types, defaults and
//! descriptions, the struct that holds them, the code that reads them and their JSON Schema.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::rc::Rc;

use serde_json::{Value as Json, json};

use super::error::{ConfigError, Place};
use super::show::{kind, nearest, show_key};
use super::tree::{self, Entry, Node, Origin, Value};

/// Errors that are collected; later ones are left out.
const ERRORS_MAX: usize = 1_000;

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
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(ConfigError {
                place: spot.at.clone(),
                key: spot.path.clone(),
                message: format!("found {found}, expected {expected}"),
            });
        }
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
    pub(super) fn entries<'n>(&mut self, node: &'n Node, known: &[(&'static str, Need)]) -> Option<&'n [Entry]> {
        let Value::Map(entries) = &node.value else {
            self.wrong(&node.at, kind(node), "a mapping");
            return None;
        };
        for entry in entries.iter().filter(|entry| known.iter().all(|(name, _)| *name != entry.key)) {
            let named: Vec<&str> = known.iter().filter(|key| key.1 != Need::Ignored).map(|key| key.0).collect();
            let expected = match nearest(&entry.key, &named) {
                Some(near) => format!("a known key: did you mean `{near}`?"),
                None if named.is_empty() => "no keys here".to_owned(),
                None => format!("one of: {}", named.join(", ")),
            };
            self.within(&show_key(&entry.key), |reader| reader.wrong(&entry.key_at, "an unknown key", expected));
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
                    let value = default.and_then(default_node).and_then(|node| T::read(&node, reader));
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
                    doc: $crate::config::schema::paragraph(&[$($text),+]),
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
            const SECRET: bool = false $(|| <$type as $crate::config::read::Read>::SECRET)*;

            fn read(
                node: &$crate::config::tree::Node,
                reader: &mut $crate::config::read::Reader,
            ) -> Option<Self> {
                let entries = reader.entries(
                    node,
                    &[$((stringify!($key), $crate::config::read::keys!(@need $need))),*],
                )?;
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
                $crate::config::schema::object_schema(
                    &$crate::config::schema::paragraph(&[$($doc),*]),
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
